//! A turn asks for the time once, however many frames it carries.
//!
//! The closure that [`hublane::worker::Worker::turn`] gets is the worker's only clock: that nothing on the way of a
//! frame reads another one is the matter of `scripts/instructions` and of the tidy rule about the hot files.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::cell::Cell;

use common::{Bench, broadcast, frame};
use hublane::worker::io::Wait;

#[test]
fn once_a_turn() {
    for workers in [1, 2] {
        for frames in [0, 1, 40] {
            let mut bench = Bench::new(workers);
            let mut a = bench.member(1, workers - 1);
            let mut b = bench.member(2, 0);
            b.send(&broadcast(0xb));
            bench.turn();
            a.received();
            for _ in 0..frames {
                a.send(&frame(0xb, 0xa, &[7; 50]));
            }
            let before: u64 = bench.workers.iter().map(|worker| worker.counters().turns.read()).sum();
            let (now, asked) = (bench.now, Cell::new(0));
            // From A's worker to B's, and what B's has sent.
            for at in (0..workers).rev().chain([0]) {
                let clock = || {
                    asked.set(asked.get() + 1);
                    now
                };
                bench.workers[at].turn(Wait::Poll, clock).unwrap();
            }
            let turns = bench.workers.iter().map(|worker| worker.counters().turns.read()).sum::<u64>() - before;
            assert_eq!(asked.get(), 2 * turns, "{frames} frames, {workers} workers");
            assert_eq!(b.received().len(), frames);
        }
    }
}
