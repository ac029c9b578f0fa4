//! A frame from client A to client B in one thread: no root, no kernel socket, no clock.
//!
//! Read it beside README's "Life of a frame", or step through it with a debugger: start at
//! `frame_crosses_the_hub` and follow `Worker::turn`. Workers and clients come from `tests/common/mod.rs`.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::time::Duration;

use common::{Bench, CONNS_MAX, Login, Member, broadcast, frame};
use hublane::metrics::closes::CloseReason;
use hublane::metrics::drops::DropReason;
use hublane::worker::Worker;
use hublane::worker::seeds::{Command, Report};

fn crosses(workers: usize) {
    let mut bench = Bench::new(workers);
    let mut a = bench.member(1, 0);
    let mut b = bench.member(2, workers - 1);
    let mut c = bench.member(3, 0);

    // B is unknown yet: the frame is flooded. B's answer goes to A alone.
    a.send(&frame(0xb, 0xa, b"who is there"));
    bench.turn();
    assert_eq!(b.received(), [frame(0xb, 0xa, b"who is there")]);
    assert_eq!(c.received(), [frame(0xb, 0xa, b"who is there")]);
    b.send(&frame(0xa, 0xb, b"it is me"));
    bench.turn();
    assert_eq!(a.received(), [frame(0xa, 0xb, b"it is me")]);
    assert_eq!(c.received(), Vec::<Vec<u8>>::new());

    a.send(&broadcast(0xa));
    bench.turn();
    assert_eq!(b.received(), [broadcast(0xa)]);
    assert_eq!(c.received(), [broadcast(0xa)]);
    assert_eq!(a.received(), Vec::<Vec<u8>>::new(), "never back to where it came from");
}

#[test]
fn frame_crosses_the_hub() {
    crosses(1);
}

#[test]
fn frame_crosses_workers() {
    crosses(2);
}

#[test]
fn bytes_cut_anywhere_give_the_same_frames() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let mut b = bench.member(2, 0);
    a.peer.script_reads([1, 2, 3, 1, 1, 7, 30, 1]);
    for n in 0..20 {
        a.send(&frame(0xb, 0xa, &[n; 300]));
    }
    for _ in 0..10 {
        bench.turn();
    }
    let received = b.received();
    assert_eq!(received.len(), 20);
    assert!(received.iter().zip(0..).all(|(got, n)| *got == frame(0xb, 0xa, &[n; 300])));
}

#[test]
fn a_slow_reader_costs_only_itself() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let mut slow = bench.member(2, 0);
    let mut c = bench.member(3, 0);
    for (member, src) in [(&mut slow, 0xb), (&mut c, 0xc)] {
        member.send(&broadcast(src));
    }
    bench.turn();
    for member in [&mut a, &mut slow, &mut c] {
        member.received();
    }
    slow.peer.set_window(0);
    for n in 0..200 {
        a.send(&frame(0xb, 0xa, &[n; 100]));
        a.send(&frame(0xc, 0xa, &[n; 100]));
        bench.turn();
    }
    assert_eq!(c.received().len(), 200, "the other member gets everything");
    let dropped = bench.drops(DropReason::EgressQueueFull);
    assert!(dropped > 100, "{dropped} dropped for the slow one");
    slow.peer.set_window(usize::MAX);
    bench.turn();
    let late = slow.received();
    assert_eq!(late.len() as u64, 200 - dropped, "what was not dropped arrives once there is room");
    assert!(late.windows(2).all(|pair| pair[0][14] < pair[1][14]), "and in order");
}

#[test]
fn a_bad_record_closes_its_connection_alone() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let mut b = bench.member(2, 0);
    a.send(&frame(0xb, 0xa, b"good"));
    bench.turn();
    assert_eq!(b.received().len(), 1);
    a.peer.write(&[23, 3, 3, 0, 40]);
    a.peer.write(&[0x55; 40]);
    bench.turn();
    let report = bench.reports.try_iter().next().unwrap();
    assert!(matches!(report, Report::ConnClosed { reason: CloseReason::RecordBadTag, .. }), "{report:?}");
    assert_eq!(a.close_reason(), Some(CloseReason::PeerCloseNotify), "told by close_notify");
    assert!(a.peer.saw_fin());
    b.send(&broadcast(0xb));
    bench.turn();
    assert_eq!(bench.workers[0].counters().closes(CloseReason::RecordBadTag), 1);
    let mut c = bench.member(3, 0);
    b.send(&broadcast(0xb));
    bench.turn();
    assert_eq!(c.received(), [broadcast(0xb)], "the hub goes on");
}

#[test]
fn a_session_waits_for_its_client_and_then_ends() {
    let mut bench = Bench::new(1);
    let a = bench.member(1, 0);
    a.peer.close();
    bench.turn();
    let report = bench.reports.try_iter().next().unwrap();
    assert!(matches!(report, Report::ConnClosed { reason: CloseReason::PeerEof, .. }), "{report:?}");
    bench.wait(Duration::from_secs(19));
    assert_eq!(bench.reports.try_iter().count(), 0, "the session is kept");
    bench.wait(Duration::from_secs(2));
    let report = bench.reports.try_iter().next().unwrap();
    assert!(matches!(report, Report::SessionEnded { reason: CloseReason::SessionExpired, .. }), "{report:?}");
}

#[test]
fn a_stopping_server_says_goodbye() {
    let mut bench = Bench::new(2);
    let mut members = [bench.member(1, 0), bench.member(2, 1)];
    for worker in 0..2 {
        bench.command(worker, Command::Stop);
    }
    bench.turn();
    for member in &mut members {
        assert_eq!(member.close_reason(), Some(CloseReason::PeerCloseNotify));
        assert!(member.peer.saw_fin());
        member.peer.close();
    }
    bench.turn();
    assert!(!bench.workers.iter().any(Worker::is_stopped), "logins on their way may still arrive");
    let mut late = bench.member(3, 0);
    assert_eq!(late.close_reason(), Some(CloseReason::PeerCloseNotify), "and are told as well");
    late.peer.close();
    for worker in 0..2 {
        bench.command(worker, Command::Leave);
    }
    bench.turn();
    assert!(bench.workers.iter().all(Worker::is_stopped));
}

/// 1,000 frames may wait for each of 20 members, 4,000 in all.
#[test]
fn many_slow_readers_leave_room_for_others() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let mut c = bench.member(2, 0);
    let login = Login { queue_depth: 1000, ..Login::default() };
    let slow: Vec<Member> = (3..23).map(|n| bench.member_with(n, 0, &login)).collect();
    slow.iter().for_each(|member| member.peer.set_window(0));
    for _ in 0..400 {
        a.send(&broadcast(0xa));
        bench.turn();
        c.received();
    }
    assert!(bench.drops(DropReason::EgressPoolEmpty) > 0);
    c.peer.set_window(0);
    for _ in 0..60 {
        a.send(&broadcast(0xa));
        bench.turn();
    }
    c.peer.set_window(usize::MAX);
    bench.turn();
    assert_eq!(c.received().len(), 60, "a burst still finds room");
}

#[test]
fn a_session_without_room_for_its_connection_ends() {
    let mut bench = Bench::new(1);
    let members = u64::try_from(CONNS_MAX).unwrap();
    let _members: Vec<Member> = (0..members).map(|n| bench.member(n, 0)).collect();
    bench.reports.try_iter().for_each(drop);
    let mut late = bench.member(members, 0);
    assert_eq!(late.close_reason(), Some(CloseReason::PeerCloseNotify));
    assert_eq!(bench.ended(), [(members, CloseReason::NoRoom)]);
}

#[test]
fn key_updates_find_room_behind_any_number_of_frames() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let login = Login { prepare: |layer| layer.set_rekey_after(1), queue_depth: 4096, ..Login::default() };
    let mut b = bench.member_with(2, 0, &login);
    b.send(&broadcast(0xb));
    bench.turn();
    a.received();
    // More than a send buffer holds within one turn, in frames of every length, so that some fill it to the brim.
    for len in 46..250 {
        let count = 70_000 / len;
        // After a silence records begin small, which shifts where the last one ends.
        bench.now = bench.now + Duration::from_secs(2);
        for n in 0..count {
            a.send(&frame(0xb, 0xa, &vec![byte_of(n); len]));
        }
        let mut received = Vec::new();
        while received.len() < count {
            bench.turn();
            let more = b.received();
            assert!(!more.is_empty(), "{} of {count} frames of {len} bytes", received.len());
            received.extend(more);
            b.answer();
        }
        assert!(received.iter().enumerate().all(|(n, got)| *got == frame(0xb, 0xa, &vec![byte_of(n); len])));
    }
    assert!(bench.workers[0].counters().key_updates.read() > 400);
    assert_eq!(bench.workers[0].counters().closes(CloseReason::Panicked), 0);
}

/// A payload byte for frame `n`.
fn byte_of(n: usize) -> u8 {
    u8::try_from(n % 251).unwrap()
}
