//! A packet socket: whole frames of one device, many at a time, with what is left to do on each.
//!
//! In front of each frame stands a virtio-net header (PACKET_VNET_HDR): whether its checksum is unfinished, and how it
//! is to be cut into segments. So a super-packet of 64 KiB passes in one piece, both ways.
//!
//! Several sockets, one for each worker, share what comes in by a program that names the worker (PACKET_FANOUT). They
//! must be opened in the order of the workers: the kernel knows a member by its place, and after a link flap restores
//! the places in the order in which the sockets were made.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::bpf::Classic;
use super::vnet::{VNET_BYTES, VnetHeader};

/// How a socket shall be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes that may wait to be received, as the kernel counts them.
    pub receive_bytes: usize,
    /// Bytes that may wait to be sent.
    pub send_bytes: usize,
    /// Frames of one call.
    pub frames: usize,
    /// Past the queueing discipline of the device, if it has one.
    pub qdisc_bypass: bool,
}

/// Several sockets that share what comes in.
#[derive(Clone, Copy, Debug)]
pub struct Fanout(u16);

/// See the module text.
pub struct PacketSocket {
    fd: OwnedFd,
    /// Room for one frame with its header, so many times.
    room: Box<[u8]>,
    /// By place: bytes received, or `None` if they are not the whole frame.
    received: Vec<Option<usize>>,
    headers: Vec<libc::mmsghdr>,
    receive_vectors: Vec<libc::iovec>,
    send_vectors: Vec<libc::iovec>,
    vnet: Vec<[u8; VNET_BYTES]>,
}

// SAFETY: the pointers in `headers` and both `vectors` are written anew before each system call, from what `self` owns or
// borrows for that call, and never read otherwise.
unsafe impl Send for PacketSocket {}

impl fmt::Debug for PacketSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketSocket").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl PacketSocket {
    /// For the frames of the device with this index; gets nothing before [`Self::set_filter`].
    ///
    /// # Errors
    /// Without CAP_NET_RAW, without the device; if it is down, [`Self::join`] fails.
    pub fn open(ifindex: u32, options: Options) -> io::Result<Self> {
        // No protocol: nothing is received before the socket is ready.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        let zeroed = || libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: pointers and integers, for which zeros are values.
        let empty: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let socket = Self {
            fd,
            room: vec![0; options.frames * ROOM_BYTES].into_boxed_slice(),
            received: Vec::with_capacity(options.frames),
            headers: vec![empty; options.frames],
            receive_vectors: (0..options.frames).map(|_| zeroed()).collect(),
            send_vectors: Vec::with_capacity(options.frames + PIECES_MAX),
            vnet: vec![[0; VNET_BYTES]; options.frames],
        };
        socket.set_filter(&Classic::nothing())?;
        socket.set(libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, i32::from(options.qdisc_bypass))?;
        socket.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_bytes)?;
        socket.set_buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_bytes)?;
        socket.bind(ifindex)?;
        Ok(socket)
    }

    /// Makes it one of several that share what comes in; the first makes the `group`. `steer` says the place.
    ///
    /// # Errors
    /// If the device is down.
    pub fn join(&self, group: Option<Fanout>, steer: &Classic) -> io::Result<Fanout> {
        let kind = libc::PACKET_FANOUT_CBPF | FANOUT_IGNORE_OUTGOING;
        let wanted = match group {
            Some(Fanout(id)) => kind << 16 | u32::from(id),
            None => (kind | libc::PACKET_FANOUT_FLAG_UNIQUEID) << 16,
        };
        self.set(libc::SOL_PACKET, libc::PACKET_FANOUT, wanted.cast_signed())?;
        if let Some(group) = group {
            return Ok(group);
        }
        steer.set(self.fd.as_raw_fd(), libc::SOL_PACKET, PACKET_FANOUT_DATA)?;
        let mut said = [0u8; 4];
        self.get(libc::PACKET_FANOUT, &mut said)?;
        // The number is in the lower half.
        let [low, high] = (u32::from_ne_bytes(said) & 0xffff).to_le_bytes()[..2] else { return Err(odd_answer()) };
        Ok(Fanout(u16::from_le_bytes([low, high])))
    }

    /// Takes only what `filter` lets pass.
    ///
    /// # Errors
    /// If the kernel does not like it.
    pub fn set_filter(&self, filter: &Classic) -> io::Result<()> {
        filter.set(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER)
    }

    /// Receives what waits, at most `frames_max` frames and as many as fit; how many, and their bytes.
    ///
    /// # Errors
    /// `ENETDOWN` once when the device goes down.
    pub fn receive(&mut self, frames_max: usize) -> io::Result<(usize, usize)> {
        self.received.clear();
        let count = frames_max.min(self.headers.len());
        for (place, vector) in self.room.chunks_exact_mut(ROOM_BYTES).zip(&mut self.receive_vectors).take(count) {
            *vector = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: ROOM_BYTES };
        }
        for (header, vector) in self.headers.iter_mut().zip(&mut self.receive_vectors).take(count) {
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_flags = 0;
        }
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: `count` headers, each with one vector into a part of `room` of its own; all live through the call.
        let got = unsafe {
            libc::recvmmsg(self.fd.as_raw_fd(), self.headers.as_mut_ptr(), wanted, flags as _, std::ptr::null_mut())
        };
        let Ok(got) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok((0, 0)) } else { Err(error) };
        };
        self.received.extend(self.headers[..got].iter().map(|header| {
            let bytes = usize::try_from(header.msg_len).unwrap_or(usize::MAX);
            let is_whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            (is_whole && (VNET_BYTES..=ROOM_BYTES).contains(&bytes)).then_some(bytes)
        }));
        Ok((got, self.received.iter().flatten().sum()))
    }

    /// The bytes of the frame number `index` of the last [`Self::receive`], behind its virtio-net header.
    pub fn peek(&self, index: usize) -> Option<&[u8]> {
        let bytes = (*self.received.get(index)?)?;
        self.room[index * ROOM_BYTES..][..bytes].get(VNET_BYTES..)
    }

    /// Number `index` of the frames received last, unless it is cut off.
    #[inline]
    pub fn frame(&mut self, index: usize) -> Option<(VnetHeader, &mut [u8])> {
        let bytes = (*self.received.get(index)?)?;
        let (header, frame) = self.room[index * ROOM_BYTES..][..bytes].split_first_chunk_mut()?;
        Some((VnetHeader::parse(header), frame))
    }

    /// Sends frames, each with its header and in pieces, as long as `next` brings some and there is room for the call;
    /// how many, and why not the one after them.
    pub fn send<'a, P: Iterator<Item = &'a [u8]>>(
        &mut self,
        mut next: impl FnMut() -> Option<(VnetHeader, P)>,
    ) -> (usize, Option<io::Error>) {
        self.send_vectors.clear();
        let mut count = 0;
        while count < self.headers.len() {
            let Some((header, pieces)) = next() else { break };
            self.vnet[count] = header.to_bytes();
            let first = self.send_vectors.len();
            // Its address is put in below, where `vnet` is not changed any more.
            self.send_vectors.push(libc::iovec { iov_base: std::ptr::null_mut(), iov_len: VNET_BYTES });
            for piece in pieces {
                let base = piece.as_ptr().cast_mut().cast();
                self.send_vectors.push(libc::iovec { iov_base: base, iov_len: piece.len() });
            }
            self.headers[count].msg_hdr.msg_iovlen = (self.send_vectors.len() - first) as _;
            count += 1;
        }
        if count == 0 {
            return (0, None);
        }
        let mut vectors = self.send_vectors.as_mut_slice();
        for (header, vnet) in self.headers.iter_mut().zip(&mut self.vnet).take(count) {
            let (own, rest) = vectors.split_at_mut(header.msg_hdr.msg_iovlen as _);
            own[0].iov_base = vnet.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = own.as_mut_ptr();
            vectors = rest;
        }
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: `count` headers with vectors of their own, to memory that is only read and lives through the call:
        // `vnet` is ours, the pieces are borrowed for `'a`, which is longer.
        let sent = unsafe { libc::sendmmsg(self.fd.as_raw_fd(), self.headers.as_mut_ptr(), wanted, flags as _) };
        // If some were sent, the next call tells why it was not more.
        match usize::try_from(sent) {
            Ok(sent) => (sent, None),
            Err(_) => (0, Some(io::Error::last_os_error())),
        }
    }

    /// Frames that were lost because too much waited, since this was last asked.
    pub fn overflowed(&self) -> u64 {
        let mut said = [0u8; 8];
        match self.get(libc::PACKET_STATISTICS, &mut said) {
            Ok(()) => u64::from(u32::from_ne_bytes([said[4], said[5], said[6], said[7]])),
            Err(_) => 0,
        }
    }

    fn bind(&self, ifindex: u32) -> io::Result<()> {
        // SAFETY: integers and bytes, for which zeros are values.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or(0);
        // All protocols: only such sockets see frames before tc drops them.
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(0).to_be();
        address.sll_ifindex = ifindex.cast_signed();
        let bytes = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
        // SAFETY: an address of that family and length, which lives through the call.
        let bound = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), bytes) };
        if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// As large as asked for; without the right to that, as large as anybody may.
    fn set_buffer(&self, force: i32, ask: i32, bytes: usize) -> io::Result<()> {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        self.set(libc::SOL_SOCKET, force, bytes).or_else(|_| self.set(libc::SOL_SOCKET, ask, bytes))
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        let bytes = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
        // SAFETY: an option that takes an integer, which lives through the call.
        let done = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), bytes) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn get(&self, option: i32, into: &mut [u8]) -> io::Result<()> {
        let mut bytes = libc::socklen_t::try_from(into.len()).unwrap_or(0);
        // SAFETY: the kernel writes at most `bytes` bytes to `into`, and how many to `bytes`.
        let done = unsafe {
            libc::getsockopt(self.fd.as_raw_fd(), libc::SOL_PACKET, option, into.as_mut_ptr().cast(), &raw mut bytes)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn odd_answer() -> io::Error {
    io::Error::other("the kernel's answer has another form")
}

/// That, an Ethernet header and the longest packet there is; aligned, and no power of two, lest all frames begin in the
/// same lines of the cache.
const ROOM_BYTES: usize = VNET_BYTES + 14 + 65_536 + 168;
/// Usual number of pieces of all frames of one call; with more, memory is taken once.
const PIECES_MAX: usize = 1024;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_FANOUT_DATA: i32 = 22;
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// The group does not hear what this host sends; the option of the socket does not count in a group.
const FANOUT_IGNORE_OUTGOING: u32 = 0x4000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_aligned() {
        assert_eq!(ROOM_BYTES % 8, 0);
    }
}
