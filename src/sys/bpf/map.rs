//! Maps: what programs of the kernel and we both see.
//!
//! Keys and values are bytes here; their lengths are compared with those of the map before the kernel gets their
//! addresses, since it reads and writes as much as the map says.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{
    MAP_CREATE, MAP_DELETE_ELEM, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MapCreate, MapElement, bpf, bpf_fd, number,
    object_name,
};

/// How a map is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Definition {
    /// `BPF_MAP_TYPE_*`.
    pub(super) kind: u32,
    pub(super) key_bytes: u32,
    pub(super) value_bytes: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

/// A map. Gone when nothing refers to it, programs included.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    definition: Definition,
}

impl Map {
    pub(super) fn new(name: &str, definition: Definition) -> io::Result<Self> {
        let mut attribute = MapCreate {
            map_type: definition.kind,
            key_size: definition.key_bytes,
            value_size: definition.value_bytes,
            max_entries: definition.entries,
            map_flags: definition.flags,
            inner_map_fd: 0,
            numa_node: 0,
            map_name: object_name(name),
        };
        // SAFETY: the attribute is that of the command and points to nothing.
        let fd = unsafe { bpf_fd(MAP_CREATE, &mut attribute) }?;
        Ok(Self { fd, definition })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) const fn definition(&self) -> Definition {
        self.definition
    }

    /// Sets the value of `key`.
    pub(super) fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key, Some(value.len()))?;
        let mut attribute = self.element(key, value.as_ptr() as u64);
        // SAFETY: the attribute is that of the command; key and value are as long as the map says and are only read.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attribute) }.map(drop)
    }

    /// Takes `key` out; whether it was there.
    pub(super) fn remove(&self, key: &[u8]) -> io::Result<bool> {
        self.check(key, None)?;
        let mut attribute = self.element(key, 0);
        // SAFETY: the attribute is that of the command; the key is as long as the map says and is only read.
        match unsafe { bpf(MAP_DELETE_ELEM, &mut attribute) } {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The sum over all CPUs of a counter of 64 bits, in a `PERCPU_ARRAY`.
    pub(super) fn sum(&self, key: &[u8]) -> io::Result<u64> {
        self.check(key, Some(size_of::<u64>()))?;
        if self.definition.kind != PERCPU_ARRAY {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut values = vec![0u64; CPUS_MAX];
        let mut attribute = self.element(key, values.as_mut_ptr() as u64);
        // SAFETY: the attribute is that of the command; the key is as long as the map says; the kernel writes eight bytes
        // for each CPU it could have, and there is room for more than any kernel is built for.
        unsafe { bpf(MAP_LOOKUP_ELEM, &mut attribute) }?;
        Ok(values.iter().sum())
    }

    fn check(&self, key: &[u8], value_bytes: Option<usize>) -> io::Result<()> {
        let same = |bytes: usize, wanted: u32| u32::try_from(bytes) == Ok(wanted);
        let fits = same(key.len(), self.definition.key_bytes)
            && value_bytes.is_none_or(|bytes| same(bytes, self.definition.value_bytes));
        if fits { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "key or value of another length")) }
    }

    fn element(&self, key: &[u8], value: u64) -> MapElement {
        MapElement { map_fd: number(self.fd()), padding: 0, key: key.as_ptr() as u64, value, flags: 0 }
    }
}

/// `BPF_MAP_TYPE_PERCPU_ARRAY`.
const PERCPU_ARRAY: u32 = 6;
/// The largest CONFIG_NR_CPUS of any architecture (x86 and POWER). How many this kernel could have stands in /sys, but a
/// wrong answer would let the kernel write beyond the room.
const CPUS_MAX: usize = 8192;
