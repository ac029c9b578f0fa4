//! A worker that wakes for each frame pauses until there are several, but never while something is there to do.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Bench, Member, broadcast, frame};
use hublane::worker::io::Wait;
use hublane::worker::seeds::Command;

/// Far above what a busy machine adds to a turn. The back end in memory never waits, so this is all a turn can take.
const PAUSE: Duration = Duration::from_millis(200);

/// A worker with members A and B, who know each other.
fn bench(gather: Duration) -> (Bench, Member, Member) {
    let mut bench = Bench::gathering(1, gather, |io| io);
    let (mut a, mut b) = (bench.member(1, 0), bench.member(2, 0));
    b.send(&broadcast(0xb));
    bench.turn();
    a.received();
    // Frames that come so fast, one at a time, that waking for each is too much.
    for n in 0..200 {
        a.send(&frame(0xb, 0xa, &[n]));
        bench.wait(Duration::from_micros(20));
        assert_eq!(b.received().len(), 1);
    }
    (bench, a, b)
}

/// Whether a turn that may wait has paused.
fn pauses(bench: &mut Bench, longest: Wait) -> bool {
    let (now, start) = (bench.now, Instant::now());
    bench.workers[0].turn(longest, || now).unwrap();
    start.elapsed() >= PAUSE
}

const LONG: Wait = Wait::For(Duration::from_secs(1));

#[test]
fn pauses_when_nothing_is_there() {
    let (mut bench, mut a, mut b) = bench(PAUSE);
    assert!(pauses(&mut bench, LONG));
    a.send(&frame(0xb, 0xa, b"there"));
    assert!(!pauses(&mut bench, LONG), "a frame is there");
    assert!(!pauses(&mut bench, LONG), "it is sent");
    assert_eq!(b.received().len(), 1);
    assert!(pauses(&mut bench, LONG));
    bench.command(0, Command::Inspect(Box::new(|_| ())));
    assert!(!pauses(&mut bench, LONG), "a command is there");
    assert!(!pauses(&mut bench, Wait::Poll));
    assert!(!pauses(&mut bench, Wait::For(PAUSE / 2)));
}

#[test]
fn without_gathering_it_never_pauses() {
    let (mut bench, _a, _b) = bench(Duration::ZERO);
    assert!(!pauses(&mut bench, LONG));
}
