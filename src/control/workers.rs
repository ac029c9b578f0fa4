//! The workers as the control threads see them: where to place a session, how to reach one.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::channel::Sender;

use crate::metrics::counters::Counters;
use crate::sys::waker::Waker;
use crate::worker::seeds::Command;
use crate::worker::thread::Load;

/// One worker, seen from outside.
pub struct WorkerHandle {
    /// Its processor.
    pub cpu: usize,
    /// The name of its back end.
    pub back_end: &'static str,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// CPU time of its thread; written by itself.
    pub load: Load,
    commands: Sender<Command<OwnedFd>>,
    waker: Waker,
    /// Sessions handed to it that still live: counted up at the hand-over, down by the worker's report.
    pub sessions: AtomicU64,
}

impl WorkerHandle {
    /// A handle on the worker that reads `commands`.
    pub fn new(
        cpu: usize,
        back_end: &'static str,
        counters: Arc<Counters>,
        load: Load,
        commands: Sender<Command<OwnedFd>>,
        waker: Waker,
    ) -> Self {
        Self { cpu, back_end, counters, load, commands, waker, sessions: AtomicU64::new(0) }
    }

    /// Has the worker do `command` in its next turn. `false` if the worker has ended.
    pub fn tell(&self, command: Command<OwnedFd>) -> bool {
        let sent = self.commands.send(command).is_ok();
        self.waker.wake();
        sent
    }
}

/// The less loaded of two workers drawn at random: nearly as even as asking all, and logins that come
/// together do not all pick the same one. Loads within a twentieth of a core count as equal; then the
/// number of sessions decides.
pub fn place(workers: &[WorkerHandle], random: u64) -> usize {
    const EQUAL_NS: u64 = 50_000_000;
    let count = workers.len() as u64;
    if count < 2 {
        return 0;
    }
    let first = random % count;
    let second = (first + 1 + (random >> 32) % (count - 1)) % count;
    let [first, second] = [first, second].map(|at| usize::try_from(at).expect("an index of the workers"));
    let (one, two) = (&workers[first], &workers[second]);
    let (load_one, load_two) = (one.load.second_ns.load(Relaxed), two.load.second_ns.load(Relaxed));
    let second_is_better = if load_one.abs_diff(load_two) > EQUAL_NS {
        load_two < load_one
    } else {
        two.sessions.load(Relaxed) < one.sessions.load(Relaxed)
    };
    if second_is_better { second } else { first }
}
