//! Back ends and peers that the tests run with.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::SockRef;

use crate::sys::epoll::{EpollConfig, EpollIo};
use crate::sys::features::{FeatureMask, KernelFeatures, TaskRun, UringFeatures};
use crate::sys::socket::prepare_member_socket;
use crate::sys::uring::{UringConfig, UringIo};
use crate::sys::waker::Waker;
use crate::worker::io::StreamIo;
use crate::worker::mem::{self, MemIo, MemPeer, MemSocket};

/// What a peer finds when it reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Bytes,
    Nothing,
    Eof,
    Reset,
}

/// The other end of a socket. Never blocks.
pub(super) trait Peer {
    fn write(&mut self, bytes: &[u8]) -> usize;
    fn read(&mut self, into: &mut Vec<u8>, max: usize) -> Found;
    fn finish(&mut self);
    fn reset(self);
}

/// A back end and the sockets to try it with.
pub(super) trait Rig {
    type Io: StreamIo;
    type Peer: Peer;
    /// A memory pipe does not wait and a UNIX socket cannot be reset at will.
    const WAITS: bool = true;
    const RESETS: bool = true;

    /// `None` if this host cannot run it.
    fn io(buffers: u16, buffer_bytes: u32, waker: Waker) -> Option<Self::Io>;
    fn pair() -> (<Self::Io as StreamIo>::Socket, Self::Peer);
}

fn tcp_pair() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nonblocking(true).unwrap();
    let (ours, _) = listener.accept().unwrap();
    prepare_member_socket(&ours, 128 * 1024).unwrap();
    (ours.into(), peer)
}

fn unix_pair() -> (OwnedFd, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    // As tokio hands them over.
    ours.set_nonblocking(true).unwrap();
    (ours.into(), peer)
}

/// Reading and writing is the same for both kinds of stream.
fn try_read(mut from: impl Read, into: &mut Vec<u8>, max: usize) -> Found {
    let mut bytes = vec![0; max.min(65_536)];
    match from.read(&mut bytes) {
        Ok(0) => Found::Eof,
        Ok(len) => {
            into.extend_from_slice(&bytes[..len]);
            Found::Bytes
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Found::Nothing,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Found::Reset,
        Err(error) => panic!("{error}"),
    }
}

fn try_write(mut to: impl Write, mut bytes: &[u8]) -> usize {
    let whole = bytes.len();
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(_) => break,
        }
    }
    whole - bytes.len()
}

impl Peer for TcpStream {
    fn write(&mut self, bytes: &[u8]) -> usize {
        try_write(&*self, bytes)
    }
    fn read(&mut self, into: &mut Vec<u8>, max: usize) -> Found {
        try_read(&*self, into, max)
    }
    fn finish(&mut self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
    fn reset(self) {
        SockRef::from(&self).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl Peer for UnixStream {
    fn write(&mut self, bytes: &[u8]) -> usize {
        try_write(&*self, bytes)
    }
    fn read(&mut self, into: &mut Vec<u8>, max: usize) -> Found {
        try_read(&*self, into, max)
    }
    fn finish(&mut self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
    fn reset(self) {}
}

impl Peer for MemPeer {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.script_reads([1, 7, 1000]);
        MemPeer::write(self, bytes);
        bytes.len()
    }
    fn read(&mut self, into: &mut Vec<u8>, max: usize) -> Found {
        let bytes = self.read_all();
        self.set_window(if max == usize::MAX { 100_000 } else { max });
        into.extend_from_slice(&bytes);
        match () {
            () if !bytes.is_empty() => Found::Bytes,
            () if self.saw_reset() => Found::Reset,
            () if self.saw_fin() => Found::Eof,
            () => Found::Nothing,
        }
    }
    fn finish(&mut self) {
        self.close();
    }
    fn reset(self) {
        MemPeer::reset(&self);
    }
}

fn uring(config: &UringConfig, mask: FeatureMask, task_run: Option<TaskRun>, waker: Waker) -> Option<UringIo> {
    let found = KernelFeatures::probe(mask).uring.ok()?;
    let features = UringFeatures { task_run: task_run.unwrap_or(found.task_run), ..found };
    Some(UringIo::new(config, &features, waker).unwrap())
}

fn sizes(buffers: u16, buffer_bytes: u32) -> UringConfig {
    UringConfig { buffers, buffer_bytes, ..UringConfig::default() }
}

pub(super) struct UringTcp;
impl Rig for UringTcp {
    type Io = UringIo;
    type Peer = TcpStream;
    fn io(buffers: u16, buffer_bytes: u32, waker: Waker) -> Option<UringIo> {
        uring(&sizes(buffers, buffer_bytes), FeatureMask::All, None, waker)
    }
    fn pair() -> (OwnedFd, TcpStream) {
        tcp_pair()
    }
}

/// As on Linux 6.1, with completions run at any switch to the kernel.
pub(super) struct UringOld;
impl Rig for UringOld {
    type Io = UringIo;
    type Peer = UnixStream;
    const RESETS: bool = false;
    fn io(buffers: u16, buffer_bytes: u32, waker: Waker) -> Option<UringIo> {
        uring(&sizes(buffers, buffer_bytes), FeatureMask::K6_1, Some(TaskRun::Cooperative), waker)
    }
    fn pair() -> (OwnedFd, UnixStream) {
        unix_pair()
    }
}

/// Both queues overflow all the time.
pub(super) struct UringTiny;
impl Rig for UringTiny {
    type Io = UringIo;
    type Peer = TcpStream;
    fn io(buffers: u16, buffer_bytes: u32, waker: Waker) -> Option<UringIo> {
        let config = UringConfig { buffers, buffer_bytes, operations: 2, completions: 4 };
        uring(&config, FeatureMask::All, Some(TaskRun::Plain), waker)
    }
    fn pair() -> (OwnedFd, TcpStream) {
        tcp_pair()
    }
}

pub(super) struct UringTinyDeferred;
impl Rig for UringTinyDeferred {
    type Io = UringIo;
    type Peer = UnixStream;
    const RESETS: bool = false;
    fn io(buffers: u16, buffer_bytes: u32, waker: Waker) -> Option<UringIo> {
        let config = UringConfig { buffers, buffer_bytes, operations: 2, completions: 4 };
        uring(&config, FeatureMask::All, None, waker)
    }
    fn pair() -> (OwnedFd, UnixStream) {
        unix_pair()
    }
}

pub(super) struct EpollTcp;
impl Rig for EpollTcp {
    type Io = EpollIo;
    type Peer = TcpStream;
    fn io(buffers: u16, buffer_bytes: u32, waker: Waker) -> Option<EpollIo> {
        let config = EpollConfig { buffers: buffers.into(), buffer_bytes, ..EpollConfig::default() };
        Some(EpollIo::new(&config, waker).unwrap())
    }
    fn pair() -> (OwnedFd, TcpStream) {
        tcp_pair()
    }
}

/// Few events per turn.
pub(super) struct EpollUnix;
impl Rig for EpollUnix {
    type Io = EpollIo;
    type Peer = UnixStream;
    const RESETS: bool = false;
    fn io(buffers: u16, buffer_bytes: u32, waker: Waker) -> Option<EpollIo> {
        Some(EpollIo::new(&EpollConfig { buffers: buffers.into(), buffer_bytes, events: 3 }, waker).unwrap())
    }
    fn pair() -> (OwnedFd, UnixStream) {
        unix_pair()
    }
}

pub(super) struct Memory;
impl Rig for Memory {
    type Io = MemIo;
    type Peer = MemPeer;
    const WAITS: bool = false;
    fn io(buffers: u16, buffer_bytes: u32, waker: Waker) -> Option<MemIo> {
        Some(MemIo::new(buffers.into(), buffer_bytes as usize, waker))
    }
    fn pair() -> (MemSocket, MemPeer) {
        let (socket, peer) = mem::pipe();
        peer.set_window(100_000);
        (socket, peer)
    }
}
