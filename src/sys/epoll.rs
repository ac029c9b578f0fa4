//! Sockets of a worker over epoll, for hosts where io_uring is old or forbidden.
//!
//! Edge-triggered: a socket is registered once for everything, and what is ready is remembered here.
//! One turn:
//! 1. try the sends asked for since the last turn, as a batch;
//! 2. ask epoll what has become ready, waiting only if nothing is known to be;
//! 3. go on with sends that have found room;
//! 4. read each ready socket once, as far as buffers go; who is not drained stays in line.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv, send};

use super::socket::{end_our_direction, limit_unsent, set_close_mode};
use super::waker::Waker;
use crate::ids::ConnKey;
use crate::tunnel::buffer::SendBuf;
use crate::worker::io::{CloseHow, Completion, RecvBuf, StreamIo, Wait};

/// Sizes of a worker's epoll back end.
#[derive(Clone, Copy, Debug)]
pub struct EpollConfig {
    /// Receive buffers at most. As many receptions can be told per turn.
    pub buffers: u32,
    /// Bytes of each. A buffer is made when it is first needed.
    pub buffer_bytes: u32,
    /// Sockets that can be reported ready per turn, at least 1.
    pub events: usize,
}

impl Default for EpollConfig {
    fn default() -> Self {
        Self { buffers: 256, buffer_bytes: 64 * 1024, events: 1024 }
    }
}

/// Sockets of one worker.
pub struct EpollIo {
    epoll: Epoll,
    waker: Waker,
    slots: Vec<Option<Slot>>,
    generation: u32,
    events: Vec<EpollEvent>,
    /// Sockets that may have bytes, longest waiting first. May name some that are gone.
    readable: VecDeque<ConnKey>,
    /// Sockets with a send that was not tried yet. May name some that are gone.
    unsent: Vec<ConnKey>,
    completions: VecDeque<Completion>,
    pool: Pool,
    /// Devices that are watched, by number.
    watched: Vec<Option<OwnedFd>>,
    /// epoll_pwait2 (Linux 5.11) is there.
    fine_timeout: bool,
}

/// One socket.
struct Slot {
    socket: OwnedFd,
    generation: u32,
    /// Stands in `readable`.
    in_line: bool,
    /// The peer has ended or broken the connection, so read on until that shows.
    hung_up: bool,
    /// Nothing more will be received.
    recv_ended: bool,
    send: Option<SendBuf>,
    shutdown_wanted: bool,
}

/// Receive buffers, made as needed, the last used first because it is warm in the cache.
struct Pool {
    buffers: Vec<Box<[u8]>>,
    /// By buffer: lent to the worker.
    lent: Vec<bool>,
    free: Vec<u32>,
    max: u32,
    buffer_bytes: usize,
}

impl Pool {
    fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop() {
            return Some(id);
        }
        let id = u32::try_from(self.buffers.len()).ok().filter(|id| *id < self.max)?;
        self.buffers.push(vec![0; self.buffer_bytes].into_boxed_slice());
        self.lent.push(false);
        Some(id)
    }

    fn has_free(&self) -> bool {
        !self.free.is_empty() || self.buffers.len() < self.max as usize
    }
}

impl EpollIo {
    /// A back end watched by `waker`.
    ///
    /// # Errors
    /// If descriptors are short.
    pub fn new(config: &EpollConfig, waker: Waker) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&waker, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, WAKER_DATA))?;
        let pool = Pool {
            buffers: Vec::new(),
            lent: Vec::new(),
            free: Vec::new(),
            max: config.buffers,
            buffer_bytes: config.buffer_bytes as usize,
        };
        Ok(Self {
            epoll,
            waker,
            slots: Vec::new(),
            generation: 0,
            events: vec![EpollEvent::empty(); config.events.max(1)],
            readable: VecDeque::new(),
            unsent: Vec::new(),
            completions: VecDeque::new(),
            pool,
            watched: Vec::new(),
            fine_timeout: true,
        })
    }

    fn find(&mut self, key: ConnKey) -> Option<&mut Slot> {
        self.slots.get_mut(key.0 as usize).and_then(Option::as_mut)
    }

    /// Sends what the socket takes now. Waits for the next edge if that is not all.
    fn try_send(&mut self, key: ConnKey) {
        let Some(slot) = self.find(key) else { return };
        let Some(mut buf) = slot.send.take() else { return };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let result = loop {
            if buf.pending().is_empty() {
                break Ok(());
            }
            match send(slot.socket.as_raw_fd(), buf.pending(), flags) {
                Ok(0) => break Err(io::ErrorKind::WriteZero),
                Ok(sent) => buf.advance(sent),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    slot.send = Some(buf);
                    return;
                }
                Err(errno) => break Err(io::Error::from(errno).kind()),
            }
        };
        if mem::take(&mut slot.shutdown_wanted) {
            end_our_direction(&slot.socket);
        }
        self.completions.push_back(Completion::Sent { key, buf, result });
    }

    /// Reads each socket in line once, while there are buffers.
    fn read_ready(&mut self) {
        for _ in 0..self.readable.len() {
            let Some(id) = self.pool.take() else { break };
            let Some(key) = self.readable.pop_front() else {
                self.pool.free.push(id);
                break;
            };
            if !self.read_once(key, id) {
                self.pool.free.push(id);
            }
        }
    }

    /// Reads into buffer `id`; whether the buffer was lent on.
    fn read_once(&mut self, key: ConnKey, id: u32) -> bool {
        let slot = self.slots.get_mut(key.0 as usize).and_then(Option::as_mut);
        // A stale place in line belongs to a socket that is gone.
        let Some(slot) = slot.filter(|slot| slot.in_line) else { return false };
        let buffer = &mut self.pool.buffers[id as usize];
        let received = loop {
            match recv(slot.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR) => {}
                received => break received,
            }
        };
        match received {
            Ok(0) => {
                (slot.in_line, slot.recv_ended) = (false, true);
                self.completions.push_back(Completion::Eof { key });
            }
            Ok(len) => {
                // A short read has drained a stream; what comes later makes a new edge (epoll(7)).
                slot.in_line = len == buffer.len() || slot.hung_up;
                if slot.in_line {
                    self.readable.push_back(key);
                }
                self.pool.lent[id as usize] = true;
                let len = u32::try_from(len).expect("a buffer's length has 32 bits");
                self.completions.push_back(Completion::Received { key, buf: RecvBuf { id, start: 0, len } });
                return true;
            }
            Err(Errno::EAGAIN) => slot.in_line = false,
            Err(errno) => {
                (slot.in_line, slot.recv_ended) = (false, true);
                self.completions.push_back(Completion::RecvFailed { key, error: io::Error::from(errno).kind() });
            }
        }
        false
    }

    fn on_event(&mut self, event: EpollEvent) {
        if event.data() == WAKER_DATA {
            if self.waker.drain() {
                self.completions.push_back(Completion::Woken);
            }
            return;
        }
        if event.data() & !0xff == WATCH_DATA {
            let watch = (event.data() & 0xff) as u8;
            return self.completions.push_back(Completion::Ready { watch });
        }
        let (key, generation) = unpack(event.data());
        let Some(slot) = self.find(key).filter(|slot| slot.generation == generation) else { return };
        let flags = event.events();
        let broken = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        slot.hung_up |= flags.intersects(EpollFlags::EPOLLRDHUP | broken);
        let readable = flags.contains(EpollFlags::EPOLLIN) || slot.hung_up;
        if readable && !slot.in_line && !slot.recv_ended {
            slot.in_line = true;
            self.readable.push_back(key);
        }
        if flags.intersects(EpollFlags::EPOLLOUT | broken) {
            self.try_send(key);
        }
    }

    /// epoll_wait with a timeout as fine as the kernel has it; how many events there are.
    fn wait(&mut self, wait: Wait) -> io::Result<usize> {
        let result = match wait {
            Wait::Poll => self.epoll.wait(&mut self.events, EpollTimeout::ZERO),
            Wait::Forever => self.epoll.wait(&mut self.events, EpollTimeout::NONE),
            Wait::For(span) if self.fine_timeout => match self.wait_fine(span) {
                // Forbidden by seccomp or too old: coarse from now on.
                Err(Errno::ENOSYS | Errno::EPERM) => {
                    self.fine_timeout = false;
                    self.epoll.wait(&mut self.events, whole_ms(span))
                }
                result => result,
            },
            Wait::For(span) => self.epoll.wait(&mut self.events, whole_ms(span)),
        };
        match result {
            Err(Errno::EINTR) => Ok(0),
            result => Ok(result?),
        }
    }

    fn wait_fine(&mut self, span: Duration) -> Result<usize, Errno> {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(span.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: span.subsec_nanos().into(),
        };
        // The system call by number: older C libraries have no function for it.
        // SAFETY: `EpollEvent` is a transparent `epoll_event`; as many as the length says may be
        // written; the timespec lives; without a signal mask its size is not looked at.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.0.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len(),
                &raw const timeout,
                ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        Ok(usize::try_from(Errno::result(count)?).unwrap_or(0))
    }
}

impl StreamIo for EpollIo {
    type Socket = OwnedFd;

    fn open(&mut self, key: ConnKey, socket: OwnedFd) -> io::Result<()> {
        let place = key.0 as usize;
        if place >= self.slots.len() {
            self.slots.resize_with(place + 1, || None);
        }
        assert!(self.slots[place].is_none(), "the key is in use");
        self.generation = self.generation.wrapping_add(1) & GENERATION_MASK;
        let generation = self.generation;
        // All at once and for good. The first edge tells what is ready already.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(&socket, EpollEvent::new(flags, pack(key, generation)))?;
        self.slots[place] = Some(Slot {
            socket,
            generation,
            in_line: false,
            hung_up: false,
            recv_ended: false,
            send: None,
            shutdown_wanted: false,
        });
        Ok(())
    }

    fn watch(&mut self, watch: u8, device: OwnedFd) -> io::Result<()> {
        let place = usize::from(watch);
        if place >= self.watched.len() {
            self.watched.resize_with(place + 1, || None);
        }
        if let Some(before) = self.watched[place].take() {
            // The device may have gone already.
            let _ = self.epoll.delete(&before);
        }
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        self.epoll.add(&device, EpollEvent::new(flags, WATCH_DATA | u64::from(watch)))?;
        self.watched[place] = Some(device);
        Ok(())
    }

    fn send(&mut self, key: ConnKey, buf: SendBuf) {
        let slot = self.find(key).expect("the key is open");
        assert!(slot.send.is_none(), "one send per key at a time");
        slot.send = Some(buf);
        self.unsent.push(key);
    }

    fn limit_unsent(&mut self, key: ConnKey, bytes: u32) {
        if let Some(slot) = self.find(key) {
            limit_unsent(&slot.socket, bytes);
        }
    }

    fn shutdown_write(&mut self, key: ConnKey) {
        let Some(slot) = self.find(key) else { return };
        if slot.send.is_some() {
            slot.shutdown_wanted = true;
        } else {
            end_our_direction(&slot.socket);
        }
    }

    fn close(&mut self, key: ConnKey, how: CloseHow) {
        let slot = self.slots.get_mut(key.0 as usize).and_then(Option::take);
        // Closed already, and the caller has yet to hear of it.
        let Some(slot) = slot else { return };
        if let Some(buf) = slot.send {
            let result = Err(io::ErrorKind::ConnectionAborted);
            self.completions.push_back(Completion::Sent { key, buf, result });
        }
        // Closing alone would leave a duplicated descriptor registered.
        let _ = self.epoll.delete(&slot.socket);
        set_close_mode(&slot.socket, how);
        drop(slot.socket);
        self.completions.push_back(Completion::Closed { key });
    }

    fn turn(&mut self, wait: Wait) -> io::Result<()> {
        let mut unsent = mem::take(&mut self.unsent);
        for key in unsent.drain(..) {
            self.try_send(key);
        }
        self.unsent = unsent;
        let count = self.wait(if self.is_quiet() { wait } else { Wait::Poll })?;
        for index in 0..count {
            self.on_event(self.events[index]);
        }
        self.read_ready();
        Ok(())
    }

    fn next(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn is_quiet(&self) -> bool {
        self.completions.is_empty() && (self.readable.is_empty() || !self.pool.has_free())
    }

    fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        assert!(self.pool.lent[buf.id as usize], "a buffer that was given back");
        &self.pool.buffers[buf.id as usize][buf.start as usize..][..buf.len as usize]
    }

    fn recycle(&mut self, buf: RecvBuf) {
        let lent = mem::take(&mut self.pool.lent[buf.id as usize]);
        assert!(lent, "a buffer that was given back");
        self.pool.free.push(buf.id);
    }
}

fn pack(key: ConnKey, generation: u32) -> u64 {
    u64::from(key.0) | u64::from(generation) << 32
}

fn unpack(data: u64) -> (ConnKey, u32) {
    (ConnKey((data & 0xffff_ffff) as u32), (data >> 32) as u32)
}

/// `span` rounded up: rounded down, a worker would wake before its timer and spin.
fn whole_ms(span: Duration) -> EpollTimeout {
    let ms = span.as_nanos().div_ceil(1_000_000);
    EpollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::MAX)
}

/// No socket has it: generations have 24 bits.
const WAKER_DATA: u64 = u64::MAX;
/// Nor this one; the number of the watch is its last byte.
const WATCH_DATA: u64 = u64::MAX << 56;
const GENERATION_MASK: u32 = (1 << 24) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_round_up() {
        for (us, ms) in [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2)] {
            assert_eq!(i32::from(whole_ms(Duration::from_micros(us))), ms, "{us} µs");
        }
        assert_eq!(i32::from(whole_ms(Duration::MAX)), i32::MAX);
    }

    #[test]
    fn keys_survive_packing() {
        let key = ConnKey(u32::MAX);
        assert_eq!(unpack(pack(key, GENERATION_MASK)), (key, GENERATION_MASK));
        assert_ne!(pack(key, GENERATION_MASK), WAKER_DATA);
    }
}
