//! Super-frames through the hub: whole from member to member, in segments to everybody else.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use common::{Bench, Login, frame};
use hublane::hub::PortSettings;
use hublane::metrics::closes::CloseReason;
use hublane::metrics::drops::DropReason;
use hublane::wire::super_frame::SuperFrame;

/// A packet of TCP from card `src` to card `dst`, unfinished as a host leaves it.
fn packet(dst: u8, src: u8, payload: usize) -> Vec<u8> {
    let mut frame = frame(dst, src, &[]);
    frame.truncate(12);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(40 + payload).unwrap().to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, src, 10, 0, 0, dst]);
    frame.extend([0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|at| u8::try_from(at % 251).unwrap()));
    frame
}

const SEGMENT: u16 = 1_400;

fn with_supers() -> Login {
    Login { supers: true, ..Login::default() }
}

/// A member behind each way there is: `b` has agreed on super-frames, `c` has not.
fn crosses(workers: usize) {
    let mut bench = Bench::new(workers);
    let mut a = bench.member_with(1, 0, &with_supers());
    let mut b = bench.member_with(2, workers - 1, &with_supers());
    let mut c = bench.member(3, workers - 1);
    for (member, address) in [(&mut a, 0xa), (&mut b, 0xb), (&mut c, 0xc)] {
        member.send(&common::broadcast(address));
    }
    bench.turn();
    for member in [&mut a, &mut b, &mut c] {
        member.received();
    }
    for payload in [3_000, 30_000, 65_495] {
        let whole = packet(0xb, 0xa, payload);
        a.send_super(&SuperFrame::new_checked(&whole, SEGMENT).unwrap());
        bench.turn();
        assert!(b.received().is_empty() && b.supers() == [(whole, SEGMENT)], "{payload}");

        let whole = packet(0xc, 0xa, payload);
        let sent = SuperFrame::new_checked(&whole, SEGMENT).unwrap();
        let mut segments = Vec::new();
        sent.cut(&mut |segment| segments.push(segment.to_vec()));
        a.send_super(&sent);
        bench.turn();
        assert!(c.received() == segments, "{payload}");

        // Nobody has that address: it is flooded, in segments for all. The bench's mailboxes hold 45 of them.
        let payload = payload.min(40_000);
        let whole = packet(0xe, 0xa, payload);
        let sent = SuperFrame::new_checked(&whole, SEGMENT).unwrap();
        let mut segments = Vec::new();
        sent.cut(&mut |segment| segments.push(segment.to_vec()));
        a.send_super(&sent);
        bench.turn();
        assert!(b.received() == segments && c.received() == segments, "{payload}");
        assert_eq!((b.supers(), c.supers(), a.received()), (vec![], vec![], vec![]));
    }
    let frames_in: u64 = bench.workers.iter().map(|worker| worker.counters().frames_in.read()).sum();
    let payloads = [3_000, 30_000, 65_495_usize];
    let segments: usize = payloads.iter().flat_map(|p| [*p, *p, *p.min(&40_000)]).map(|p| p.div_ceil(1_400)).sum();
    assert_eq!(frames_in, 3 + segments as u64, "counted as on a wire");
}

#[test]
fn super_frames_cross_the_hub() {
    crosses(1);
}

#[test]
fn super_frames_cross_workers() {
    crosses(2);
}

#[test]
fn vlans_and_policies_hold_for_them() {
    let mut bench = Bench::new(1);
    let in_vlan = Login { port: PortSettings { pvid: 5, ..PortSettings::OPEN }, ..with_supers() };
    let mut a = bench.member_with(1, 0, &in_vlan);
    let mut trunk = bench.member_with(2, 0, &with_supers());
    let mut other = bench.member_with(3, 0, &with_supers());
    // The trunk's card is in VLAN 5, the other's in none.
    let mut tagged = frame(0xa, 0xb, b"here");
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    trunk.send(&tagged);
    other.send(&frame(0xa, 0xc, b"there"));
    bench.turn();
    for member in [&mut a, &mut trunk, &mut other] {
        member.received();
    }
    let whole = packet(0xb, 0xa, 3_000);
    let sent = SuperFrame::new_checked(&whole, SEGMENT).unwrap();
    a.send_super(&sent);
    bench.turn();
    let mut segments = Vec::new();
    sent.cut(&mut |segment| {
        let mut segment = segment.to_vec();
        segment.splice(12..12, [0x81, 0, 0, 5]);
        segments.push(segment);
    });
    assert_eq!((trunk.received(), trunk.supers()), (segments, vec![]), "cut where a tag goes in");

    let port_gone = bench.drops(DropReason::HubSamePort);
    let own = packet(0xa, 0xa, 3_000);
    a.send_super(&SuperFrame::new_checked(&own, SEGMENT).unwrap());
    bench.turn();
    assert_eq!(bench.drops(DropReason::HubSamePort) - port_gone, 3, "a drop counts each segment");
}

/// A stream of one block, as a super-frame with segments of so much payload.
fn as_super(bytes: &[u8], len: usize, segment_bytes: u32) -> Vec<u8> {
    let size = 1 << 31 | segment_bytes << 17 | u32::try_from(len).unwrap();
    [&1_u32.to_be_bytes(), &size.to_be_bytes(), bytes].concat()
}

#[test]
fn lies_about_super_frames_harm_only_who_tells_them() {
    let mut bench = Bench::new(1);
    let mut b = bench.member_with(2, 0, &with_supers());
    let mut liar = bench.member_with(1, 0, &with_supers());
    b.send(&common::broadcast(0xb));
    liar.send(&common::broadcast(0xa));
    bench.turn();
    b.received();
    liar.received();

    // What can be read past is one drop, and the session goes on.
    let whole = packet(0xb, 0xa, 30_000);
    let mut truncated = whole.clone();
    truncated.truncate(20);
    let mut fragment = whole.clone();
    fragment[20] = 0x20;
    let mut other_length = whole.clone();
    other_length[16] ^= 1;
    let dropped = [
        (&whole, 1, "30,000 segments"),
        (&whole, 1_600, "segments longer than a frame"),
        (&whole, 16_000, "one and a half segments"),
        (&truncated, 1_400, "no headers"),
        (&fragment, 1_400, "a fragment"),
        (&other_length, 1_400, "the IP header has another length"),
        (&vec![0xff; 65_557], 1_400, "nothing at all"),
    ];
    for (number, (bytes, segment_bytes, why)) in (1..).zip(dropped) {
        liar.send_stream(&as_super(bytes, bytes.len(), segment_bytes), 16_000);
        bench.turn();
        assert_eq!(bench.drops(DropReason::FrameNotCuttable), number, "{why}");
        assert!(b.received().is_empty() && b.supers().is_empty(), "{why}");
    }
    liar.send_super(&SuperFrame::new_checked(&whole, SEGMENT).unwrap());
    bench.turn();
    assert!(b.received().is_empty() && b.supers() == [(whole.clone(), SEGMENT)], "the session goes on");

    // What spoils the stream ends the connection: a segment of nothing, more than a super-frame may be, and one that was
    // never agreed on.
    let mut plain = bench.member(3, 0);
    let mut second = bench.member_with(4, 0, &with_supers());
    liar.send_stream(&as_super(&whole, whole.len(), 0), 16_000);
    second.send_stream(&as_super(&[], 65_558, 1_400), 16_000);
    plain.send_stream(&as_super(&whole, whole.len(), 1_400), 16_000);
    bench.turn();
    assert_eq!(bench.closes(CloseReason::BlockTooLong), 3);
    assert!(b.received().is_empty() && b.supers().is_empty());

    // One that takes its time holds up nobody.
    let mut slow = bench.member_with(5, 0, &with_supers());
    let whole = packet(0xb, 0xd, 30_000);
    slow.send_stream(&as_super(&whole[..20_000], whole.len(), 1_400), 16_000);
    bench.turn();
    b.send(&common::broadcast(0xb));
    bench.turn();
    assert_eq!(slow.received().len(), 1, "others are heard meanwhile");
    slow.send_stream(&whole[20_000..], 16_000);
    bench.turn();
    assert!(b.received().is_empty() && b.supers() == [(whole, SEGMENT)], "it has come to its end after all");
}
