//! Sockets in memory: the back end of tests that need scripts rather than a kernel.
//!
//! [`pipe`] makes a connection. Its worker end goes to [`MemIo`], its test end ([`MemPeer`]) writes, reads,
//! cuts reads into pieces, plays the slow reader, hangs up or resets. All in one thread if wanted:
//! [`MemIo`] never sleeps, whatever [`Wait`] says; a turn moves what can be moved and returns.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::io::{CloseHow, Completion, RecvBuf, StreamIo, Wait};
use crate::ids::ConnKey;
use crate::sys::waker::Waker;
use crate::tunnel::buffer::SendBuf;

/// A connection: the end for the worker and the end for the test. The window is unlimited at first.
pub fn pipe() -> (MemSocket, MemPeer) {
    let pipe = Arc::new(Mutex::new(Pipe { window: usize::MAX, ..Pipe::default() }));
    (MemSocket(Arc::clone(&pipe)), MemPeer(pipe))
}

/// The worker's end. Dropped without a proper close it resets the peer, like a crashed process.
#[derive(Debug)]
pub struct MemSocket(Arc<Mutex<Pipe>>);

/// The test's end. Dropping it does nothing; say [`MemPeer::close`] or [`MemPeer::reset`].
#[derive(Debug)]
pub struct MemPeer(Arc<Mutex<Pipe>>);

#[derive(Debug, Default)]
struct Pipe {
    to_worker: VecDeque<u8>,
    /// Sizes of the worker's next reads; when none is left a read takes all there is.
    read_sizes: VecDeque<usize>,
    to_peer: Vec<u8>,
    /// Bytes that `to_peer` may hold.
    window: usize,
    peer_closed: bool,
    peer_reset: bool,
    worker_shut: bool,
    worker_closed: Option<CloseHow>,
}

/// A panicking test must not hide its reason behind a poisoned lock.
fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemPeer {
    /// Sends `bytes` to the worker.
    pub fn write(&self, bytes: &[u8]) {
        lock(&self.0).to_worker.extend(bytes);
    }

    /// Takes all that the worker has sent, which makes room for more.
    pub fn read_all(&self) -> Vec<u8> {
        mem::take(&mut lock(&self.0).to_peer)
    }

    /// Ends our direction; the worker may go on sending.
    pub fn close(&self) {
        lock(&self.0).peer_closed = true;
    }

    /// Breaks the connection. The worker still gets what was written before.
    pub fn reset(&self) {
        lock(&self.0).peer_reset = true;
    }

    /// How many unread bytes the worker's sends may pile up here. Zero stalls it.
    pub fn set_window(&self, bytes: usize) {
        lock(&self.0).window = bytes;
    }

    /// The worker's next reads yield at most so many bytes each; zero counts as one.
    pub fn script_reads(&self, sizes: impl IntoIterator<Item = usize>) {
        lock(&self.0).read_sizes.extend(sizes);
    }

    /// Bytes written that the worker has not received.
    pub fn unreceived(&self) -> usize {
        lock(&self.0).to_worker.len()
    }

    /// The worker has ended its direction or closed properly.
    pub fn saw_fin(&self) -> bool {
        let pipe = lock(&self.0);
        pipe.worker_shut || pipe.worker_closed == Some(CloseHow::Orderly)
    }

    /// The worker has reset the connection.
    pub fn saw_reset(&self) -> bool {
        lock(&self.0).worker_closed == Some(CloseHow::Abort)
    }
}

impl Drop for MemSocket {
    fn drop(&mut self) {
        lock(&self.0).worker_closed.get_or_insert(CloseHow::Abort);
    }
}

/// Sockets of one worker, in memory.
#[derive(Debug)]
pub struct MemIo {
    slots: Vec<Option<Slot>>,
    completions: VecDeque<Completion>,
    buffers: Vec<BufState>,
    /// Where the next turn begins: always with the first, few buffers would serve the first sockets only.
    first: u32,
    waker: Waker,
    watched: Vec<u8>,
}

#[derive(Debug)]
struct Slot {
    socket: MemSocket,
    recv_ended: bool,
    send: Option<SendBuf>,
    shutdown_wanted: bool,
}

#[derive(Debug)]
struct BufState {
    bytes: Vec<u8>,
    lent: bool,
}

impl MemIo {
    /// A back end with `buffers` receive buffers of `buffer_bytes` each, watched by `waker`.
    pub fn new(buffers: usize, buffer_bytes: usize, waker: Waker) -> Self {
        let buffers = (0..buffers).map(|_| BufState { bytes: vec![0; buffer_bytes], lent: false }).collect();
        Self { slots: Vec::new(), completions: VecDeque::new(), buffers, first: 0, waker, watched: Vec::new() }
    }

    fn find(&mut self, key: ConnKey) -> Option<&mut Slot> {
        self.slots.get_mut(key.0 as usize).and_then(Option::as_mut)
    }

    fn send_what_fits(&mut self, key: ConnKey) {
        let Some(slot) = self.find(key) else { return };
        let Some(mut buf) = slot.send.take() else { return };
        let mut pipe = lock(&slot.socket.0);
        let result = if pipe.peer_reset {
            Err(io::ErrorKind::ConnectionReset)
        } else if pipe.worker_shut {
            Err(io::ErrorKind::BrokenPipe)
        } else {
            let fits = pipe.window.saturating_sub(pipe.to_peer.len()).min(buf.pending().len());
            pipe.to_peer.extend_from_slice(&buf.pending()[..fits]);
            buf.advance(fits);
            Ok(())
        };
        if result.is_ok() && !buf.pending().is_empty() {
            drop(pipe);
            slot.send = Some(buf);
            return;
        }
        pipe.worker_shut |= mem::take(&mut slot.shutdown_wanted);
        drop(pipe);
        self.completions.push_back(Completion::Sent { key, buf, result });
    }

    fn receive_once(&mut self, key: ConnKey) {
        let Some(id) = self.buffers.iter().position(|buffer| !buffer.lent) else { return };
        let Some(slot) = self.slots[key.0 as usize].as_mut().filter(|slot| !slot.recv_ended) else { return };
        let mut pipe = lock(&slot.socket.0);
        if pipe.to_worker.is_empty() {
            slot.recv_ended = pipe.peer_reset || pipe.peer_closed;
            if pipe.peer_reset {
                self.completions.push_back(Completion::RecvFailed { key, error: io::ErrorKind::ConnectionReset });
            } else if pipe.peer_closed {
                self.completions.push_back(Completion::Eof { key });
            }
            return;
        }
        let BufState { bytes, lent } = &mut self.buffers[id];
        let scripted = pipe.read_sizes.pop_front().unwrap_or(usize::MAX).max(1);
        let len = scripted.min(bytes.len()).min(pipe.to_worker.len());
        for (place, byte) in bytes.iter_mut().zip(pipe.to_worker.drain(..len)) {
            *place = byte;
        }
        *lent = true;
        let id = u32::try_from(id).expect("a test has few buffers");
        let len = u32::try_from(len).expect("a test's buffers are small");
        self.completions.push_back(Completion::Received { key, buf: RecvBuf { id, start: 0, len } });
    }
}

impl StreamIo for MemIo {
    type Socket = MemSocket;

    fn open(&mut self, key: ConnKey, socket: MemSocket) -> io::Result<()> {
        let place = key.0 as usize;
        if place >= self.slots.len() {
            self.slots.resize_with(place + 1, || None);
        }
        assert!(self.slots[place].is_none(), "the key is in use");
        self.slots[place] = Some(Slot { socket, recv_ended: false, send: None, shutdown_wanted: false });
        Ok(())
    }

    /// May be said of a device at any time: each is ready in every turn.
    fn watch(&mut self, watch: u8, _device: OwnedFd) -> io::Result<()> {
        self.watched.retain(|other| *other != watch);
        self.watched.push(watch);
        Ok(())
    }

    fn send(&mut self, key: ConnKey, buf: SendBuf) {
        let slot = self.find(key).expect("the key is open");
        assert!(slot.send.is_none(), "one send per key at a time");
        slot.send = Some(buf);
    }

    /// A pipe has no such queue.
    fn limit_unsent(&mut self, _key: ConnKey, _bytes: u32) {}

    fn shutdown_write(&mut self, key: ConnKey) {
        let Some(slot) = self.find(key) else { return };
        if slot.send.is_some() {
            slot.shutdown_wanted = true;
        } else {
            lock(&slot.socket.0).worker_shut = true;
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
        lock(&slot.socket.0).worker_closed = Some(how);
        self.completions.push_back(Completion::Closed { key });
    }

    fn turn(&mut self, _wait: Wait) -> io::Result<()> {
        if self.waker.drain() {
            self.completions.push_back(Completion::Woken);
        }
        self.completions.extend(self.watched.iter().map(|watch| Completion::Ready { watch: *watch }));
        let count = u32::try_from(self.slots.len()).expect("keys have 32 bits");
        self.first = (self.first + 1) % count.max(1);
        for key in (self.first..count).chain(0..self.first).map(ConnKey) {
            self.send_what_fits(key);
            self.receive_once(key);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn is_quiet(&self) -> bool {
        self.completions.is_empty()
    }

    fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        let BufState { bytes, lent } = &self.buffers[buf.id as usize];
        assert!(lent, "a buffer that was given back");
        &bytes[buf.start as usize..][..buf.len as usize]
    }

    fn recycle(&mut self, buf: RecvBuf) {
        let lent = mem::take(&mut self.buffers[buf.id as usize].lent);
        assert!(lent, "a buffer that was given back");
    }
}
