//! The closing procedure: what was sent before close_notify arrives before it and can be read, a peer that does
//! not play its part costs one second, and nothing is left behind.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::time::Duration;

use common::{Bench, CONNS_MAX, Login, Member, broadcast, frame};
use hublane::ids::SessionId;
use hublane::metrics::closes::CloseReason;
use hublane::worker::Worker;
use hublane::worker::seeds::{Command, Report};

const SECOND: Duration = Duration::from_secs(1);

/// A timer may be a step of its wheel late.
const STEP: Duration = Duration::from_millis(64);

fn end(bench: &Bench, session: u64, reason: CloseReason) {
    bench.command(0, Command::End(SessionId(session), reason));
}

/// A sends frames of 1000 bytes numbered from 0.
fn send_numbered(a: &mut Member, count: u8) {
    for n in 0..count {
        a.send(&frame(0xb, 0xa, &[n; 1000]));
    }
}

/// Two members on one worker, of whom the second is known to the hub.
fn two_members(bench: &mut Bench) -> (Member, Member) {
    let mut a = bench.member(1, 0);
    let mut b = bench.member(2, 0);
    b.send(&broadcast(0xb));
    bench.turn();
    assert_eq!(a.received(), [broadcast(0xb)]);
    b.received();
    (a, b)
}

fn is_numbered(frames: &[Vec<u8>], count: u8) {
    assert_eq!(frames.len(), usize::from(count));
    assert!(frames.iter().zip(0..).all(|(got, n)| *got == frame(0xb, 0xa, &[n; 1000])));
}

#[test]
fn close_notify_comes_behind_a_send_in_flight() {
    let mut bench = Bench::new(1);
    let (mut a, mut b) = two_members(&mut bench);
    b.peer.set_window(100);
    send_numbered(&mut a, 10);
    bench.turn();
    end(&bench, 2, CloseReason::TakenOver);
    bench.turn();
    assert!(!b.peer.saw_fin() && !b.peer.saw_reset(), "the send in flight is waited for");
    let first = b.peer.read_all();
    assert_eq!(first.len(), 100);
    b.peer.set_window(usize::MAX);
    bench.turn();
    let rest = b.peer.read_all();
    let (frames, reason) = b.take(&[first, rest].concat());
    is_numbered(&frames, 10);
    assert_eq!(reason, Some(CloseReason::PeerCloseNotify));
    assert!(b.peer.saw_fin());
}

/// The end of the session comes in the turn that has built records for it: several are sealed by then, so their
/// numbers are used and close_notify can be read only behind them.
#[test]
fn close_notify_comes_behind_what_the_turn_has_built() {
    for count in [1, 5, 40] {
        let mut bench = Bench::new(1);
        let (mut a, mut b) = two_members(&mut bench);
        send_numbered(&mut a, count);
        end(&bench, 2, CloseReason::TakenOver);
        bench.turn();
        let (frames, reason) = b.received_until_end();
        assert_eq!(reason, Some(CloseReason::PeerCloseNotify), "behind {count} frames");
        is_numbered(&frames, count);
        assert!(b.peer.saw_fin());
    }
}

/// The first keep-alive is due at once.
#[test]
fn a_session_may_end_in_the_turn_in_which_it_begins() {
    let mut bench = Bench::new(1);
    let (session, conn, mut member) = bench.login(1, &Login::default());
    bench.command(0, Command::Open(session, conn));
    end(&bench, 1, CloseReason::Kicked);
    bench.turn();
    assert_eq!(member.close_reason(), Some(CloseReason::PeerCloseNotify));
    assert!(member.peer.saw_fin());
    assert_eq!(bench.ended(), [(1, CloseReason::Kicked)]);
}

#[test]
fn a_peer_that_closes_too_is_closed_at_once() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    end(&bench, 1, CloseReason::Kicked);
    bench.turn();
    assert_eq!(bench.workers[0].counters().conns.read(), 1, "drains");
    a.send(&broadcast(0xa));
    a.peer.close();
    bench.turn();
    assert_eq!(bench.workers[0].counters().conns.read(), 0);
    assert_eq!(a.peer.unreceived(), 0, "drained: unread bytes would make the kernel reset the peer");
    assert!(a.peer.saw_fin() && !a.peer.saw_reset());
    assert_eq!(bench.workers[0].counters().frames_in.read(), 0, "what comes after the end is not carried");
}

#[test]
fn a_peer_that_does_not_close_is_left_after_a_second() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    end(&bench, 1, CloseReason::Kicked);
    bench.turn();
    bench.wait(SECOND - STEP);
    assert_eq!(bench.workers[0].counters().conns.read(), 1);
    bench.wait(2 * STEP);
    assert_eq!(bench.workers[0].counters().conns.read(), 0);
    assert_eq!(a.close_reason(), Some(CloseReason::PeerCloseNotify));
    assert!(!a.peer.saw_reset(), "it was told everything");
}

#[test]
fn a_peer_that_never_reads_is_reset_after_a_second() {
    let mut bench = Bench::new(1);
    let (mut a, b) = two_members(&mut bench);
    b.peer.set_window(0);
    send_numbered(&mut a, 1);
    bench.turn();
    end(&bench, 2, CloseReason::Kicked);
    bench.turn();
    bench.wait(SECOND - STEP);
    assert!(!b.peer.saw_reset());
    bench.wait(2 * STEP);
    assert!(b.peer.saw_reset());
    assert_eq!(bench.workers[0].counters().conns.read(), 1, "A is left");
    a.send(&broadcast(0xa));
    bench.turn();
    assert_eq!(bench.workers[0].counters().closes(CloseReason::Panicked), 0);
}

#[test]
fn a_connection_without_its_session_is_turned_away() {
    let mut bench = Bench::new(1);
    let (_, conn, mut late) = bench.login(7, &Login::default());
    bench.command(0, Command::Attach(SessionId(7), conn));
    bench.turn();
    let report = bench.reports.try_recv().unwrap();
    let reason = CloseReason::SessionEnded;
    assert!(matches!(report, Report::ConnClosed { session: SessionId(7), reason: r, .. } if r == reason), "{report:?}");
    assert_eq!(late.close_reason(), Some(CloseReason::PeerCloseNotify));
    assert!(late.peer.saw_fin());
    late.peer.close();
    bench.turn();
    assert_eq!(bench.workers[0].counters().conns.read(), 0);
}

#[test]
fn one_connection_too_many_is_turned_away() {
    let mut bench = Bench::new(1);
    let members: Vec<Member> = (0..CONNS_MAX as u64).map(|n| bench.member(n, 0)).collect();
    let mut late = bench.member(1_000, 0);
    assert_eq!(late.close_reason(), Some(CloseReason::PeerCloseNotify));
    assert!(late.peer.saw_fin());
    assert!(members.iter().all(|member| !member.peer.saw_fin()));
    assert_eq!(bench.closes(CloseReason::NoRoom), 1);
}

#[test]
fn a_session_taken_over_leaves_its_address_to_the_next() {
    let mut bench = Bench::new(1);
    let (mut a, mut ghost) = two_members(&mut bench);
    let (session, conn, mut again) = bench.login(3, &Login::default());
    end(&bench, 2, CloseReason::TakenOver);
    bench.command(0, Command::Open(session, conn));
    bench.turn();
    assert_eq!(bench.ended(), [(2, CloseReason::TakenOver)]);
    assert_eq!(ghost.close_reason(), Some(CloseReason::PeerCloseNotify));
    again.send(&broadcast(0xb));
    bench.turn();
    assert_eq!(a.received(), [broadcast(0xb)]);
    a.send(&frame(0xb, 0xa, b"for the new one"));
    bench.turn();
    assert_eq!(again.received(), [frame(0xb, 0xa, b"for the new one")]);
    assert!(!again.peer.saw_fin());
    bench.wait(2 * SECOND);
    a.send(&frame(0xb, 0xa, b"still"));
    bench.turn();
    assert_eq!(again.received(), [frame(0xb, 0xa, b"still")], "the ghost's timer does not close its successor");
    assert_eq!(bench.closes(CloseReason::TakenOver), 2, "a connection and a session");
}

#[test]
fn stopping_waits_a_second_for_slow_peers_and_no_longer() {
    let mut bench = Bench::new(1);
    let (mut a, mut slow) = two_members(&mut bench);
    let mut c = bench.member(3, 0);
    slow.peer.set_window(10);
    send_numbered(&mut a, 20);
    bench.turn();
    // Traffic goes on in the turn that brings the command.
    send_numbered(&mut a, 3);
    c.send(&broadcast(0xc));
    bench.command(0, Command::Stop);
    bench.turn();
    for member in [&mut a, &mut c] {
        assert_eq!(member.close_reason(), Some(CloseReason::PeerCloseNotify));
        assert!(member.peer.saw_fin());
        member.peer.close();
    }
    let (session, conn, mut late) = bench.login(9, &Login::default());
    bench.command(0, Command::Open(session, conn));
    bench.turn();
    assert_eq!(late.close_reason(), Some(CloseReason::PeerCloseNotify), "nobody is let in any more");
    bench.command(0, Command::Leave);
    bench.turn();
    assert!(!bench.workers.iter().all(Worker::is_stopped));
    bench.wait(SECOND + STEP);
    assert!(bench.workers.iter().all(Worker::is_stopped));
    assert!(slow.peer.saw_reset(), "the slow one was not told everything");
    assert_eq!(slow.received(), Vec::<Vec<u8>>::new());
    let reason = CloseReason::ServerStopping;
    let mut ended = bench.ended();
    ended.sort_by_key(|(session, _)| *session);
    assert_eq!(ended, [(1, reason), (2, reason), (3, reason), (9, reason)]);
    assert_eq!(bench.workers[0].counters().ports.read(), 0);
}
