//! A device in memory: the back end of tests that need scripts rather than a kernel.
//!
//! [`wire`] makes one. The worker's end is a [`LaneIo`]; the test's end ([`MemWire`]) puts frames in, takes out what
//! was sent, fills the queue up, pulls the plug and changes the card.
//!
//! Its own work can be told apart from that of what is tested: it allocates nothing once it has as many buffers as the
//! traffic needs, and copies and locks within `aside`.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::merge::TxBurst;
use super::report::LaneReport;
use super::{LaneIo, Link, SendFault};
use crate::sys::waker::Waker;
use crate::wire::ethernet::Mac;
use crate::wire::offload::Offload;

/// A device with this card: the end for the lane and the end for the test. It is up and takes any number of frames.
pub fn wire(mac: Mac, mtu: usize) -> (MemLane, MemWire) {
    let link = Link { up: true, mac, mtu, generation: 1 };
    // Without a descriptor to spare the lane is looked at when time tells.
    let bell = Waker::new().ok();
    let (to_lane, from_lane, spare) = Default::default();
    let state = State { link, room: usize::MAX, to_lane, from_lane, spare, bell: bell.clone(), relay: None };
    let state = Arc::new(Mutex::new(state));
    (MemLane { state: Arc::clone(&state), link, lent: Vec::new(), bell, relay: None }, MemWire(state))
}

/// The lane's end.
#[derive(Debug)]
pub struct MemLane {
    state: Arc<Mutex<State>>,
    link: Link,
    lent: Vec<(Vec<u8>, Offload)>,
    /// Readable while frames wait.
    bell: Option<Waker>,
    /// See [`LaneIo::relay`]; as seen last.
    relay: Option<usize>,
}

/// The test's end.
#[derive(Clone, Debug)]
pub struct MemWire(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    link: Link,
    /// Frames that `from_lane` may hold.
    room: usize,
    to_lane: VecDeque<(Vec<u8>, Offload)>,
    from_lane: Vec<(Vec<u8>, Offload)>,
    /// Buffers of frames that went either way.
    spare: Vec<Vec<u8>>,
    bell: Option<Waker>,
    /// See [`LaneIo::relay`].
    relay: Option<usize>,
}

impl State {
    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }
}

/// A panicking test must not hide its reason behind a poisoned lock.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemWire {
    /// A frame arrives.
    pub fn put(&self, frame: &[u8], offload: Offload) {
        let mut state = lock(&self.0);
        let mut buffer = state.buffer();
        buffer.extend_from_slice(frame);
        state.to_lane.push_back((buffer, offload));
        if let Some(bell) = &state.bell {
            bell.wake();
        }
    }

    /// Takes all frames that were sent.
    pub fn take(&self) -> Vec<(Vec<u8>, Offload)> {
        let mut state = lock(&self.0);
        let State { from_lane, spare, .. } = &mut *state;
        let taken = from_lane.clone();
        spare.extend(from_lane.drain(..).map(|(buffer, _)| buffer));
        taken
    }

    /// How many frames may be sent before somebody takes them.
    pub fn set_room(&self, frames: usize) {
        lock(&self.0).room = frames;
    }

    /// Takes the queue from the lane: another worker sends for it, from the next look on.
    pub fn set_relay(&self, worker: Option<usize>) {
        lock(&self.0).relay = worker;
    }

    /// Changes the device.
    pub fn set_link(&self, link: Link) {
        lock(&self.0).link = link;
    }
}

impl LaneIo for MemLane {
    fn link(&self) -> Link {
        self.link
    }

    fn look(&mut self) -> bool {
        let state = lock(&self.state);
        let seen = state.link;
        self.relay = state.relay;
        let is_other = seen.generation != self.link.generation;
        self.link = seen;
        is_other
    }

    fn receive(&mut self, frames_max: usize) -> io::Result<usize> {
        aside(|| self.take_in(frames_max))
    }

    fn peek(&self, index: usize) -> Option<&[u8]> {
        self.lent.get(index).map(|(frame, _)| frame.as_slice())
    }

    fn frame(&mut self, index: usize) -> Option<(&mut [u8], Offload)> {
        self.lent.get_mut(index).map(|(frame, offload)| (frame.as_mut_slice(), *offload))
    }

    fn send(&mut self, burst: &TxBurst, from: usize) -> (usize, Option<SendFault>) {
        aside(|| self.put_out(burst, from))
    }

    fn takes_super_packets(&self) -> bool {
        true
    }

    fn overflowed(&mut self) -> u64 {
        0
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(AsFd::as_fd)
    }

    fn relay(&self) -> Option<usize> {
        self.relay
    }

    fn report(&self) -> LaneReport {
        LaneReport { mode: "memory", ..LaneReport::default() }
    }
}

impl MemLane {
    fn take_in(&mut self, frames_max: usize) -> io::Result<usize> {
        let mut state = lock(&self.state);
        if !state.link.up || state.link.generation != self.link.generation {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let count = state.to_lane.len().min(frames_max);
        state.spare.extend(self.lent.drain(..).map(|(buffer, _)| buffer));
        self.lent.extend(state.to_lane.drain(..count));
        if let Some(bell) = self.bell.as_ref().filter(|_| state.to_lane.is_empty()) {
            bell.drain();
        }
        Ok(count)
    }

    fn put_out(&mut self, burst: &TxBurst, from: usize) -> (usize, Option<SendFault>) {
        let mut state = lock(&self.state);
        if !state.link.up || state.link.generation != self.link.generation {
            return (0, Some(SendFault::Down));
        }
        let mut sent = 0;
        while let Some(message) = burst.message(from + sent) {
            if state.from_lane.len() >= state.room {
                return (sent, Some(SendFault::Full));
            }
            let mut frame = state.buffer();
            message.pieces().for_each(|piece| frame.extend_from_slice(piece));
            state.from_lane.push((frame, message.offload()));
            sent += 1;
        }
        (sent, None)
    }
}

/// What is no work of a lane. `scripts/instructions` counts nothing in here.
#[inline(never)]
fn aside<R>(work: impl FnOnce() -> R) -> R {
    // The result is looked at so that nothing of `work` moves behind the call.
    std::hint::black_box(work())
}
