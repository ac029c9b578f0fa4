//! Provided buffers: a pool of which the kernel takes one when bytes arrive.
//!
//! A buffer belongs to the kernel from [`BufRing::provide`] until a completion names it
//! ([`BufRing::take`]), then to us until [`BufRing::recycle`]. `lent` knows which; a reference is
//! given only to what is ours, so a made-up [`RecvBuf`] is found out rather than believed.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::mmap::Mapping;
use super::ring::Ring;
use crate::worker::io::RecvBuf;

/// The group that receive operations name; a ring of ours has one.
pub(super) const GROUP: u16 = 0;

/// The pool and the ring through which the kernel gets it.
pub(super) struct BufRing {
    entries: Mapping,
    pool: Mapping,
    buffer_bytes: u32,
    /// What is stored in the shared tail: buffers provided so far, wrapping.
    tail: u16,
    /// By buffer: ours now.
    lent: Box<[bool]>,
    /// How many are the kernel's.
    provided: u16,
}

impl BufRing {
    /// Makes `count` buffers (a power of two up to 32768) of `buffer_bytes` each known to `ring`.
    /// `ring` must be dropped or quiet before the result is. `flags` as of io_uring_register(2).
    ///
    /// # Errors
    /// If the count is no such power, memory is short, or the kernel lacks buffer rings or a flag.
    pub(super) fn register(ring: &Ring, count: u16, buffer_bytes: u32, flags: u16) -> io::Result<Self> {
        if !count.is_power_of_two() || buffer_bytes == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let entries = Mapping::anonymous(usize::from(count) * size_of::<BufRingEntry>())?;
        let pool = Mapping::anonymous(usize::from(count) * buffer_bytes as usize)?;
        let address = entries.at(0, 0).as_ptr() as u64;
        // SAFETY: `entries` has `count` places, is page-aligned and lives as long as the operations of
        // `ring` that use the group (the caller's duty above, kept by `quiesce`).
        unsafe { ring.inner().submitter().register_buf_ring_with_flags(address, count, GROUP, flags) }?;
        let lent = vec![true; usize::from(count)].into_boxed_slice();
        let mut buffers = Self { entries, pool, buffer_bytes, tail: 0, lent, provided: 0 };
        for id in 0..count {
            buffers.provide(id);
        }
        Ok(buffers)
    }

    /// How many buffers the kernel may take, at least if completions wait to be reaped.
    pub(super) fn provided(&self) -> u16 {
        self.provided
    }

    /// The kernel has put `len` bytes into buffer `id` and is done with it.
    pub(super) fn take(&mut self, id: u16, len: u32) -> RecvBuf {
        let lent = &mut self.lent[usize::from(id)];
        debug_assert!(!*lent, "the kernel named a buffer that it did not have");
        *lent = true;
        self.provided -= 1;
        RecvBuf { id: u32::from(id), start: 0, len: len.min(self.buffer_bytes) }
    }

    /// The bytes of `buf`.
    ///
    /// # Panics
    /// If `buf` did not come from [`Self::take`].
    #[inline]
    pub(super) fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        let (id, len) = (buf.id as usize, buf.len as usize);
        assert!(self.lent[id], "a buffer that was given back");
        assert!(u64::from(buf.start) + u64::from(buf.len) <= u64::from(self.buffer_bytes), "outside the buffer");
        let base = self.pool.at(id * self.buffer_bytes as usize + buf.start as usize, len);
        // SAFETY: `at` checked the bounds; the memory was zeroed by mmap, so it is initialised. The
        // buffer is lent, so the kernel does not write it, and giving it back needs `&mut self`.
        unsafe { std::slice::from_raw_parts(base.as_ptr(), len) }
    }

    /// Gives `buf` back to the kernel.
    ///
    /// # Panics
    /// If `buf` did not come from [`Self::take`].
    #[inline]
    pub(super) fn recycle(&mut self, buf: RecvBuf) {
        let id = u16::try_from(buf.id).expect("buffer numbers have 16 bits");
        assert!(self.lent[usize::from(id)], "a buffer that was given back");
        self.provide(id);
    }

    /// Leaves the memory mapped for ever, for when the kernel may still use it.
    pub(super) fn keep_mapped(&mut self) {
        self.entries.keep_mapped();
        self.pool.keep_mapped();
    }

    fn provide(&mut self, id: u16) {
        let buffer_bytes = self.buffer_bytes as usize;
        let address = self.pool.at(usize::from(id) * buffer_bytes, buffer_bytes);
        let place = usize::from(self.tail) & (self.lent.len() - 1);
        let entry_bytes = size_of::<BufRingEntry>();
        let mut entry = self.entries.at(place * entry_bytes, entry_bytes).cast::<BufRingEntry>();
        // SAFETY: in bounds (`at`), aligned (the mapping is page-aligned), initialised (zeros). The
        // kernel reads this place only once the tail below has passed it. The setters touch single
        // fields, so the tail, which shares the memory of entry 0's last field, is left alone.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.lent[usize::from(id)] = false;
        self.provided += 1;
        self.tail = self.tail.wrapping_add(1);
        // Release: the kernel sees the entry before the tail that covers it.
        self.shared_tail().store(self.tail, Ordering::Release);
    }

    fn shared_tail(&self) -> &AtomicU16 {
        let first = self.entries.at(0, size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        // SAFETY: `first` is entry 0 of the ring, initialised.
        let tail = unsafe { BufRingEntry::tail(first.as_ptr()) };
        // SAFETY: aligned and valid as long as `self`; all accesses by us are atomic, the kernel reads.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }
    }
}
