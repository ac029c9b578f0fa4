//! The smallest XDP program that a socket needs: everything to the socket of its queue, the rest to the kernel.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A program attached to a device, and the map of its sockets; gone when dropped.
pub(super) struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Redirect {
    /// Attaches in native mode; `frags`: it takes frames in several pieces.
    pub(super) fn attach(ifindex: u32, frags: bool) -> io::Result<Self> {
        let map = bpf(MAP_CREATE, &mut [pair(MAP_TYPE_XSKMAP, 4), pair(4, 8), 0])?;
        let code = [
            // r2 = queue
            insn(0x61, 2, 1, 16, 0),
            // r1 = map
            insn(0x18, 1, 1, 0, map.as_raw_fd()),
            0,
            // r3 = XDP_PASS, for queues without a socket
            insn(0xb7, 3, 0, 0, 2),
            // bpf_redirect_map(r1, r2, r3)
            insn(0x85, 0, 0, 0, 51),
            insn(0x95, 0, 0, 0, 0),
        ];
        let flags = if frags { HAS_FRAGS } else { 0 };
        let (code_at, license_at) = (code.as_ptr() as u64, c"MIT".as_ptr() as u64);
        // Type and count, code, licence, no log, flags, name, device and where it will be attached.
        let load = [pair(PROG_TYPE_XDP, 6), code_at, license_at, 0, 0, pair(0, flags), 0, 0, pair(0, ATTACH_XDP)];
        let program = bpf(PROG_LOAD, &mut load.clone())?;
        let number = |fd: &OwnedFd| fd.as_raw_fd().cast_unsigned();
        let link = bpf(LINK_CREATE, &mut [pair(number(&program), ifindex), pair(ATTACH_XDP, DRIVER_MODE)])?;
        Ok(Self { map, _program: program, _link: link })
    }

    /// Frames of `queue` go to `socket`.
    pub(super) fn insert(&self, queue: u32, socket: BorrowedFd<'_>) {
        let value = socket.as_raw_fd();
        let (key_at, value_at) = ((&raw const queue) as u64, (&raw const value) as u64);
        let mut attribute = [pair(self.map.as_raw_fd().cast_unsigned(), 0), key_at, value_at, 0];
        // Answers 0, which is no descriptor of anybody's.
        assert_eq!(call(MAP_UPDATE, &mut attribute).unwrap(), 0);
    }
}

fn bpf<const N: usize>(command: i32, attribute: &mut [u64; N]) -> io::Result<OwnedFd> {
    let fd = call(command, attribute)?;
    // SAFETY: the commands that this is called for make a descriptor, which is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<const N: usize>(command: i32, attribute: &mut [u64; N]) -> io::Result<i32> {
    // SAFETY: an attribute of that size, written above for the command; what it points to lives through the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_mut_ptr(), size_of_val(attribute)) };
    match i32::try_from(done) {
        Ok(done) if done >= 0 => Ok(done),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Two fields of 32 bits.
fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> u64 {
    let registers = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
    let ([a, b], [c, d, e, f]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
    u64::from_ne_bytes([code, registers, a, b, c, d, e, f])
}

const MAP_CREATE: i32 = 0;
const MAP_UPDATE: i32 = 2;
const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const DRIVER_MODE: u32 = 4;
/// `BPF_F_XDP_HAS_FRAGS`.
const HAS_FRAGS: u32 = 1 << 5;
