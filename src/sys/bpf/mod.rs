//! bpf(2): programs, maps and links of the kernel.
//!
//! | file | what |
//! |---|---|
//! | `asm.rs` | an assembler for filters whose addresses and ports stand in the instructions |
//! | `tcx.rs` | such a filter at the ingress of a device |
//! | `object.rs` | reads an object file as clang makes it |
//! | `map.rs` | maps |
//! | `xdp.rs` | the XDP program of the lane: its maps, its settings, its links |
//! | `refusal.rs` | why the kernel does not take it, for the operator |
//!
//! This file has the system call and its attributes. The kernel takes fields that are missing at the end as zero, and
//! refuses a byte beyond those it knows that is not: each attribute ends with its last field, without padding.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

mod asm;
mod links;
mod map;
mod object;
mod refusal;
mod tcx;
mod xdp;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use asm::machine;
pub use asm::{Base, Classic, Label, Meta, Program, Size, Test};
use asm::{Insn, too_long};
pub use links::detach;
pub use object::BadObject;
pub use refusal::NoXdp;
pub use tcx::TcProgram;
pub(super) use tcx::programs_at_ingress;
pub use xdp::{ADDRESSES_MAX, QUEUES_MAX, SOURCES_MAX, XDP_NAME};
pub use xdp::{XdpAction, XdpCounts, XdpLink, XdpMode, XdpProgram, XdpSettings, program_name};

/// What `BPF_PROG_LOAD` is to be told.
struct Code<'a> {
    prog_type: u32,
    name: &'a str,
    license: &'a CStr,
    insns: &'a [Insn],
    flags: u32,
    expected_attach_type: u32,
}

/// Loads a program. With room for it, the verifier writes a log.
fn prog_load(code: &Code<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attribute = ProgLoad {
        prog_type: code.prog_type,
        insn_count: u32::try_from(code.insns.len()).map_err(|_| too_long())?,
        insns: code.insns.as_ptr() as u64,
        license: code.license.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        // An address without a size is refused.
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kern_version: 0,
        prog_flags: code.flags,
        prog_name: object_name(code.name),
        prog_ifindex: 0,
        expected_attach_type: code.expected_attach_type,
    };
    // SAFETY: the attribute is that of the command; code, licence and log live through the call, and the log is ours to write.
    unsafe { bpf_fd(PROG_LOAD, &mut attribute) }
}

/// `BPF_PROG_TEST_RUN` on `frame`, with `context` if it is not empty; what the program returned.
fn prog_test_run(program: BorrowedFd<'_>, frame: &[u8], context: &[u8]) -> io::Result<u32> {
    let mut attribute = TestRun {
        prog_fd: number(program),
        data_size_in: u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        data_in: frame.as_ptr() as u64,
        ctx_size_in: u32::try_from(context.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        ctx_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        ..TestRun::default()
    };
    // SAFETY: the attribute is that of the command; frame and context live through the call and are only read.
    unsafe { bpf(PROG_TEST_RUN, &mut attribute) }?;
    Ok(attribute.retval)
}

/// Attaches a program to a device, for as long as the result lives.
fn link_create(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attribute = LinkCreate { prog_fd: number(program), target_ifindex: ifindex, attach_type, flags };
    // SAFETY: the attribute is that of the command and points to nothing.
    unsafe { bpf_fd(LINK_CREATE, &mut attribute) }
}

/// The first bytes of what the kernel says about an object; beyond what it says they stay zero.
fn object_info<const BYTES: usize>(object: BorrowedFd<'_>) -> io::Result<[u8; BYTES]> {
    let mut info = [0; BYTES];
    let mut attribute = ObjectInfo {
        fd: number(object),
        info_len: u32::try_from(BYTES).map_err(|_| io::ErrorKind::InvalidInput)?,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the attribute is that of the command; the kernel writes at most `info_len` bytes to `info`, which is ours. It
    // begins with zeros, so there is no array in it that the kernel were asked to fill.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attribute) }?;
    Ok(info)
}

/// The program with this id.
fn prog_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attribute = ById { id, next_id: 0, open_flags: 0 };
    // SAFETY: the attribute is that of the command and points to nothing.
    unsafe { bpf_fd(PROG_GET_FD_BY_ID, &mut attribute) }
}

/// Takes a link off its device, as `bpftool link detach` does.
fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attribute = number(link);
    // SAFETY: the attribute is that of the command and points to nothing.
    unsafe { bpf(LINK_DETACH, &mut attribute) }.map(drop)
}

/// A name as the kernel stores it: at most 15 bytes.
fn object_name(name: &str) -> [u8; 16] {
    let mut stored = [0; 16];
    for (place, byte) in stored[..15].iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    stored
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// A command of bpf(2) that makes a descriptor.
///
/// # Safety
/// As for [`bpf`].
unsafe fn bpf_fd<A>(command: i32, attribute: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller's duty.
    let fd = unsafe { bpf(command, attribute) }?;
    // SAFETY: the kernel has just given it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2).
///
/// # Safety
/// `attribute` must be the one of `command`, and what it points to must live through the call.
unsafe fn bpf<A>(command: i32, attribute: &mut A) -> io::Result<RawFd> {
    let bytes = u32::try_from(size_of::<A>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the caller's duty; the kernel reads and writes `bytes` bytes of the attribute.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), bytes) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

// `union bpf_attr` by command.

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct ObjectInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const PROG_LOAD: i32 = 5;
const PROG_TEST_RUN: i32 = 10;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;
const LINK_CREATE: i32 = 28;
const LINK_DETACH: i32 = 34;
