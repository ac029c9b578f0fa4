//! A device in memory: the back end of tests that need scripts rather than a kernel.
//!
//! [`wire`] makes one. The worker's end is a [`LaneIo`]; the test's end ([`MemWire`]) puts frames in, takes out what
//! was sent, fills the queue up, pulls the plug and changes the card.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::merge::TxBurst;
use super::{LaneIo, Link, SendFault};
use crate::wire::ethernet::Mac;
use crate::wire::offload::Offload;

/// A device with this card: the end for the lane and the end for the test. It is up and takes any number of frames.
pub fn wire(mac: Mac, mtu: usize) -> (MemLane, MemWire) {
    let link = Link { up: true, mac, mtu, generation: 1 };
    let state = State { link, room: usize::MAX, to_lane: VecDeque::new(), from_lane: Vec::new() };
    let state = Arc::new(Mutex::new(state));
    (MemLane { state: Arc::clone(&state), link, lent: Vec::new() }, MemWire(state))
}

/// The lane's end.
#[derive(Debug)]
pub struct MemLane {
    state: Arc<Mutex<State>>,
    link: Link,
    lent: Vec<(Vec<u8>, Offload)>,
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
}

/// A panicking test must not hide its reason behind a poisoned lock.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemWire {
    /// A frame arrives.
    pub fn put(&self, frame: &[u8], offload: Offload) {
        lock(&self.0).to_lane.push_back((frame.to_vec(), offload));
    }

    /// Takes all frames that were sent.
    pub fn take(&self) -> Vec<(Vec<u8>, Offload)> {
        std::mem::take(&mut lock(&self.0).from_lane)
    }

    /// How many frames may be sent before somebody takes them.
    pub fn set_room(&self, frames: usize) {
        lock(&self.0).room = frames;
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
        let seen = lock(&self.state).link;
        let is_other = seen.generation != self.link.generation;
        self.link = seen;
        is_other
    }

    fn receive(&mut self, frames_max: usize) -> io::Result<usize> {
        let mut state = lock(&self.state);
        if !state.link.up || state.link.generation != self.link.generation {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let count = state.to_lane.len().min(frames_max);
        self.lent = state.to_lane.drain(..count).collect();
        Ok(count)
    }

    fn frame(&mut self, index: usize) -> Option<(&mut [u8], Offload)> {
        self.lent.get_mut(index).map(|(frame, offload)| (frame.as_mut_slice(), *offload))
    }

    fn send(&mut self, burst: &TxBurst, from: usize) -> (usize, Option<SendFault>) {
        let mut state = lock(&self.state);
        if !state.link.up || state.link.generation != self.link.generation {
            return (0, Some(SendFault::Down));
        }
        let mut sent = 0;
        while let Some(message) = burst.message(from + sent) {
            if state.from_lane.len() >= state.room {
                return (sent, Some(SendFault::Full));
            }
            let frame: Vec<u8> = message.pieces().flatten().copied().collect();
            state.from_lane.push((frame, message.offload()));
            sent += 1;
        }
        (sent, None)
    }

    fn takes_super_packets(&self) -> bool {
        true
    }

    fn overflowed(&mut self) -> u64 {
        0
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
