//! Sockets of a worker over io_uring.
//!
//! * Receive: one multishot operation per socket takes buffers from a pool that all sockets share.
//!   When the pool is empty the operation ends; the socket waits in line (`starved`) until buffers
//!   come back.
//! * Send: one operation at a time, the whole buffer (MSG_WAITALL); should the kernel stop short, the
//!   rest is sent from here.
//! * Close: cancels what is in flight, waits for its completions, only then closes the descriptor.
//!
//! Each operation carries key, generation and kind (`Tag`), so that nothing late is mistaken for the
//! socket that has the key now. The ring belongs to the thread that called [`UringIo::new`].
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use io_uring::{opcode, types};

use super::bufring::{self, BufRing};
use super::features::UringFeatures;
use super::ring::{Cqe, Ring};
use super::socket::{end_our_direction, limit_unsent, set_close_mode};
use super::waker::Waker;
use crate::ids::ConnKey;
use crate::tunnel::buffer::SendBuf;
use crate::worker::io::{CloseHow, Completion, RecvBuf, StreamIo, Wait};

/// Sizes of a worker's ring.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Receive buffers; a power of two up to 32768. As many receptions can be told per turn.
    pub buffers: u16,
    /// Bytes of each. Memory is taken only where bytes arrive.
    pub buffer_bytes: u32,
    /// Operations handed over per system call.
    pub operations: u32,
    /// Completions held before the kernel must keep them elsewhere.
    pub completions: u32,
}

impl Default for UringConfig {
    /// 64 KiB let a full TCP burst arrive in one completion; 256 of them are more than a turn's
    /// worth of busy sockets, at most 16 MiB.
    fn default() -> Self {
        Self { buffers: 256, buffer_bytes: 64 * 1024, operations: 1024, completions: 4096 }
    }
}

/// Sockets of one worker. Cannot leave the thread that made it.
pub struct UringIo {
    // Before `buffers` and `slots`: the ring goes first, so that the kernel never has memory that is gone.
    ring: Ring,
    buffers: BufRing,
    slots: Vec<Option<Slot>>,
    /// Generation of the next socket.
    generation: u32,
    /// Sockets whose receiving ended for want of buffers, longest waiting first. May name some that are
    /// gone or receive again.
    starved: VecDeque<ConnKey>,
    completions: VecDeque<Completion>,
    /// Scratch of `turn`.
    cqes: Vec<Cqe>,
    waker: Waker,
    waker_armed: bool,
    /// By number.
    watched: Vec<Option<Watched>>,
}

/// A device that is watched.
struct Watched {
    device: OwnedFd,
    generation: u32,
}

/// One socket.
struct Slot {
    socket: OwnedFd,
    generation: u32,
    recv: Recv,
    /// The send in flight; the kernel reads its storage.
    send: Option<SendBuf>,
    /// Our direction is to be ended after the send in flight.
    shutdown_wanted: bool,
    closing: Option<CloseHow>,
    /// Operations whose last completion is to come.
    in_flight: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Recv {
    /// The operation is in flight.
    Armed,
    /// It ended for want of buffers.
    Starved,
    /// Nothing more will be received.
    Ended,
}

/// What an operation is about, packed into its `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    key: ConnKey,
    /// 24 bits.
    generation: u32,
    op: Op,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Recv,
    Send,
    Cancel,
    Waker,
    Watch,
}

impl Tag {
    fn pack(self) -> u64 {
        u64::from(self.key.0) | u64::from(self.generation & GENERATION_MASK) << 32 | (self.op as u64) << 56
    }

    /// `None` for operations that carry no tag.
    fn unpack(user_data: u64) -> Option<Self> {
        let op = match user_data >> 56 {
            0 => Op::Recv,
            1 => Op::Send,
            2 => Op::Cancel,
            3 => Op::Waker,
            4 => Op::Watch,
            _ => return None,
        };
        let key = ConnKey((user_data & 0xffff_ffff) as u32);
        Some(Self { key, generation: (user_data >> 32 & u64::from(GENERATION_MASK)) as u32, op })
    }
}

impl UringIo {
    /// A ring of the calling thread, with `features` as probed, watched by `waker`.
    ///
    /// # Errors
    /// If memory or descriptors are short, or a size in `config` is out of range.
    pub fn new(config: &UringConfig, features: &UringFeatures, waker: Waker) -> io::Result<Self> {
        let ring = Ring::new(config.operations, config.completions, features.task_run, features.no_iowait)?;
        let buffers = BufRing::register(&ring, config.buffers, config.buffer_bytes, 0)?;
        Ok(Self {
            ring,
            buffers,
            slots: Vec::new(),
            generation: 0,
            starved: VecDeque::new(),
            completions: VecDeque::new(),
            cqes: Vec::new(),
            waker,
            waker_armed: false,
            watched: Vec::new(),
        })
    }

    fn find(&mut self, key: ConnKey) -> Option<&mut Slot> {
        self.slots.get_mut(key.0 as usize).and_then(Option::as_mut)
    }

    fn slot(&mut self, key: ConnKey) -> &mut Slot {
        self.find(key).expect("the key is open")
    }

    /// Starts the multishot receive of `key`.
    fn arm_recv(&mut self, key: ConnKey) {
        let slot = self.slot(key);
        slot.recv = Recv::Armed;
        slot.in_flight += 1;
        let tag = Tag { key, generation: slot.generation, op: Op::Recv };
        let fd = types::Fd(slot.socket.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, bufring::GROUP).build().user_data(tag.pack());
        // SAFETY: points to no memory but the registered buffers, which outlive the ring.
        unsafe { self.ring.push(entry) };
    }

    /// Hands what is pending of the send of `key` to the kernel.
    fn push_send(&mut self, key: ConnKey) {
        let slot = self.slot(key);
        slot.in_flight += 1;
        let tag = Tag { key, generation: slot.generation, op: Op::Send };
        let fd = types::Fd(slot.socket.as_raw_fd());
        let pending = slot.send.as_ref().expect("only called with a send in flight").pending();
        // What is beyond 4 GiB goes with the rest after a short send.
        let len = u32::try_from(pending.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(fd, pending.as_ptr(), len)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data(tag.pack());
        // SAFETY: the bytes are heap memory of the `SendBuf` in `slot.send`, which is taken out only when
        // this operation's completion was reaped (`on_send`) or leaked (`drop`); nobody writes them.
        unsafe { self.ring.push(entry) };
    }

    /// Lets starved sockets receive again, a few for each buffer there is: most of them will find
    /// nothing to receive, and those beyond would only starve again.
    fn rearm_starved(&mut self) {
        let mut budget = usize::from(self.buffers.provided()) * REARMED_PER_BUFFER;
        while budget > 0 {
            let Some(key) = self.starved.pop_front() else { break };
            let slot = self.slots[key.0 as usize].as_ref();
            if slot.is_some_and(|slot| slot.recv == Recv::Starved && slot.closing.is_none()) {
                self.arm_recv(key);
                budget -= 1;
            }
        }
    }

    fn arm_waker(&mut self) {
        self.waker_armed = true;
        let tag = Tag { key: ConnKey(0), generation: 0, op: Op::Waker };
        let fd = types::Fd(self.waker.as_fd().as_raw_fd());
        let entry =
            opcode::PollAdd::new(fd, libc::POLLIN.unsigned_abs().into()).multi(true).build().user_data(tag.pack());
        // SAFETY: points to no memory.
        unsafe { self.ring.push(entry) };
    }

    fn arm_watch(&mut self, watch: u8) {
        let Some(Some(watched)) = self.watched.get(usize::from(watch)) else { return };
        let tag = Tag { key: ConnKey(watch.into()), generation: watched.generation, op: Op::Watch };
        let fd = types::Fd(watched.device.as_raw_fd());
        let entry =
            opcode::PollAdd::new(fd, libc::POLLIN.unsigned_abs().into()).multi(true).build().user_data(tag.pack());
        // SAFETY: points to no memory.
        unsafe { self.ring.push(entry) };
    }

    fn on_watch(&mut self, tag: Tag, cqe: Cqe) {
        let watch = u8::try_from(tag.key.0).expect("made from a u8");
        let watched = self.watched.get(usize::from(watch)).and_then(Option::as_ref);
        // What is said about a predecessor does not count.
        if watched.is_none_or(|watched| watched.generation != tag.generation) {
            return;
        }
        if !cqe.more() {
            self.arm_watch(watch);
        }
        let told = matches!(self.completions.back(), Some(Completion::Ready { watch: last }) if *last == watch);
        if !told {
            self.completions.push_back(Completion::Ready { watch });
        }
    }

    fn on_cqe(&mut self, cqe: Cqe) {
        let Some(tag) = Tag::unpack(cqe.user_data) else { return };
        if tag.op == Op::Waker {
            self.waker_armed &= cqe.more();
            // Drained before it is told: a ring after this makes another completion.
            if self.waker.drain() {
                self.completions.push_back(Completion::Woken);
            }
            return;
        }
        if tag.op == Op::Watch {
            return self.on_watch(tag, cqe);
        }
        // A buffer named by a completion is ours, whatever became of the socket.
        let received = u32::try_from(cqe.result).unwrap_or(0);
        let buf = cqe.buffer().map(|id| self.buffers.take(id, received));
        let slot = self.find(tag.key);
        let Some(slot) = slot.filter(|slot| slot.generation == tag.generation) else {
            debug_assert!(false, "a key is free only when nothing of it is in flight");
            return buf.into_iter().for_each(|buf| self.buffers.recycle(buf));
        };
        slot.in_flight -= u8::from(!cqe.more());
        match tag.op {
            Op::Recv => self.on_recv(tag.key, cqe, buf),
            Op::Send => self.on_send(tag.key, cqe.result),
            // Says only how many were found; their own completions tell the rest.
            Op::Cancel | Op::Waker | Op::Watch => {}
        }
        self.finish_close(tag.key);
    }

    fn on_recv(&mut self, key: ConnKey, cqe: Cqe, buf: Option<RecvBuf>) {
        let slot = self.slot(key);
        let closing = slot.closing.is_some();
        if !cqe.more() {
            slot.recv = Recv::Ended;
        }
        match buf {
            Some(buf) if closing || buf.len == 0 => self.buffers.recycle(buf),
            Some(buf) => self.completions.push_back(Completion::Received { key, buf }),
            None => {}
        }
        if closing || cqe.more() {
            return;
        }
        match cqe.result {
            0 => self.completions.push_back(Completion::Eof { key }),
            // Ended although nothing is wrong: completions overflowed, or a signal came.
            1.. | NEG_EINTR | NEG_EAGAIN => self.arm_recv(key),
            NEG_ENOBUFS => {
                self.slot(key).recv = Recv::Starved;
                self.starved.push_back(key);
            }
            failed => self.completions.push_back(Completion::RecvFailed { key, error: kind_of(failed) }),
        }
    }

    fn on_send(&mut self, key: ConnKey, result: i32) {
        let slot = self.slot(key);
        let mut buf = slot.send.take().expect("the storage stays until the completion");
        if let Ok(sent) = usize::try_from(result) {
            buf.advance(sent);
        }
        let unfinished = !buf.pending().is_empty();
        let result = match result {
            _ if !unfinished => Ok(()),
            _ if slot.closing.is_some() => Err(io::ErrorKind::ConnectionAborted),
            1.. | NEG_EINTR | NEG_EAGAIN => {
                slot.send = Some(buf);
                return self.push_send(key);
            }
            0 => Err(io::ErrorKind::WriteZero),
            failed => Err(kind_of(failed)),
        };
        if mem::take(&mut slot.shutdown_wanted) {
            end_our_direction(&slot.socket);
        }
        self.completions.push_back(Completion::Sent { key, buf, result });
    }

    /// Closes the descriptor once nothing of a closing `key` is in flight.
    fn finish_close(&mut self, key: ConnKey) {
        let place = &mut self.slots[key.0 as usize];
        let done = place.take_if(|slot| slot.closing.is_some() && slot.in_flight == 0);
        let Some(Slot { socket, closing: Some(how), .. }) = done else { return };
        set_close_mode(&socket, how);
        drop(socket);
        self.completions.push_back(Completion::Closed { key });
    }
}

impl StreamIo for UringIo {
    type Socket = OwnedFd;

    fn open(&mut self, key: ConnKey, socket: OwnedFd) -> io::Result<()> {
        let place = key.0 as usize;
        if place >= self.slots.len() {
            self.slots.resize_with(place + 1, || None);
        }
        assert!(self.slots[place].is_none(), "the key is in use");
        self.generation = (self.generation + 1) & GENERATION_MASK;
        self.slots[place] = Some(Slot {
            socket,
            generation: self.generation,
            recv: Recv::Ended,
            send: None,
            shutdown_wanted: false,
            closing: None,
            in_flight: 0,
        });
        self.arm_recv(key);
        Ok(())
    }

    fn watch(&mut self, watch: u8, device: OwnedFd) -> io::Result<()> {
        let place = usize::from(watch);
        if place >= self.watched.len() {
            self.watched.resize_with(place + 1, || None);
        }
        if let Some(before) = self.watched[place].take() {
            // The kernel keeps the file of a poll open until it is cancelled.
            let all = types::CancelBuilder::fd(types::Fd(before.device.as_raw_fd())).all();
            let tag = Tag { key: ConnKey(watch.into()), generation: before.generation, op: Op::Watch };
            let entry = opcode::AsyncCancel2::new(all).build().user_data(tag.pack());
            // SAFETY: points to no memory.
            unsafe { self.ring.push(entry) };
            self.ring.enter(Wait::Poll)?;
        }
        self.generation = (self.generation + 1) & GENERATION_MASK;
        self.watched[place] = Some(Watched { device, generation: self.generation });
        self.arm_watch(watch);
        Ok(())
    }

    fn send(&mut self, key: ConnKey, buf: SendBuf) {
        let slot = self.slot(key);
        assert!(slot.send.is_none(), "one send per key at a time");
        if slot.closing.is_some() {
            let result = Err(io::ErrorKind::ConnectionAborted);
            return self.completions.push_back(Completion::Sent { key, buf, result });
        }
        if buf.pending().is_empty() {
            return self.completions.push_back(Completion::Sent { key, buf, result: Ok(()) });
        }
        slot.send = Some(buf);
        self.push_send(key);
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
        // Closed already, and the caller has yet to hear of it.
        let Some(slot) = self.find(key) else { return };
        if slot.closing.replace(how).is_none() && slot.in_flight > 0 {
            slot.in_flight += 1;
            let tag = Tag { key, generation: slot.generation, op: Op::Cancel };
            let all = types::CancelBuilder::fd(types::Fd(slot.socket.as_raw_fd())).all();
            let entry = opcode::AsyncCancel2::new(all).build().user_data(tag.pack());
            // SAFETY: points to no memory.
            unsafe { self.ring.push(entry) };
        }
        self.finish_close(key);
    }

    fn turn(&mut self, wait: Wait) -> io::Result<()> {
        if !self.waker_armed {
            self.arm_waker();
        }
        self.rearm_starved();
        self.ring.enter(if self.is_quiet() { wait } else { Wait::Poll })?;
        let mut cqes = mem::take(&mut self.cqes);
        self.ring.reap(&mut cqes);
        for cqe in cqes.drain(..) {
            self.on_cqe(cqe);
        }
        self.cqes = cqes;
        Ok(())
    }

    fn next(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn is_quiet(&self) -> bool {
        // Whoever is still in line while buffers are there must not wait for others' bytes.
        self.completions.is_empty() && (self.starved.is_empty() || self.buffers.provided() == 0)
    }

    fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        self.buffers.bytes(buf)
    }

    fn recycle(&mut self, buf: RecvBuf) {
        self.buffers.recycle(buf);
    }
}

impl Drop for UringIo {
    fn drop(&mut self) {
        if !self.ring.quiesce() {
            // The kernel may still read or write this memory, so nobody else may ever have it.
            self.buffers.keep_mapped();
            self.slots.iter_mut().flatten().filter_map(|slot| slot.send.take()).for_each(mem::forget);
        }
    }
}

fn kind_of(result: i32) -> io::ErrorKind {
    io::Error::from_raw_os_error(-result).kind()
}

const GENERATION_MASK: u32 = (1 << 24) - 1;
/// An idle socket needs no buffer, so more may try than there are buffers.
const REARMED_PER_BUFFER: usize = 4;
const NEG_EINTR: i32 = -libc::EINTR;
const NEG_EAGAIN: i32 = -libc::EAGAIN;
const NEG_ENOBUFS: i32 = -libc::ENOBUFS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_their_parts() {
        for op in [Op::Recv, Op::Send, Op::Cancel, Op::Waker, Op::Watch] {
            let tag = Tag { key: ConnKey(u32::MAX), generation: GENERATION_MASK - 1, op };
            assert_eq!(Tag::unpack(tag.pack()), Some(tag));
        }
        assert_eq!(Tag::unpack(0xff << 56), None);
    }
}
