//! Whatever members send: no panic, at most one reply to a frame and no longer than a frame, to the port it came from.
#![forbid(unsafe_code)]

use super::*;
use proptest::prelude::*;

/// A frame of each kind that the gateway knows, whole.
fn frames(from: &Member) -> Vec<Vec<u8>> {
    let arp = Arp {
        operation: Operation::Request,
        sender_mac: from.mac,
        sender: from.address,
        target_mac: Mac([0; 6]),
        target: GATEWAY,
    };
    let mut syn = vec![0x9c, 0x40, 0, 53, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4];
    let sum = Sum::pseudo(from.address, GATEWAY, 6, 24).bytes(&syn).finish();
    syn[16..18].copy_from_slice(&sum.to_be_bytes());
    vec![
        arp.to_frame(Mac::BROADCAST).to_vec(),
        echo(from, GATEWAY),
        udp_to(from, GATEWAY, (5, 53), &question(7, NAME, 28, 0x100, &[0, 0, 41, 5, 0, 0, 0, 0, 0, 0, 0])),
        udp_to(from, GATEWAY, (5, 99), b"nobody"),
        udp_to(from, Ipv4Addr::BROADCAST, (68, 67), &[1, 1, 6, 0, 0, 0, 0, 0]),
        ip(from, GATEWAY, 6, &syn),
        echo(from, Ipv4Addr::new(8, 8, 8, 8)),
    ]
}

/// Changes that keep the checksum of the IP header right, so that they get further in.
#[derive(Clone, Debug)]
enum Change {
    Byte(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Length(u16),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (0usize..120, any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (14usize..120).prop_map(Change::Cut),
        (14usize..80, proptest::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        any::<u16>().prop_map(Change::Length),
    ];
    proptest::collection::vec(change, 0..4)
}

fn apply(mut frame: Vec<u8>, changes: &[Change], fix: bool) -> Vec<u8> {
    for change in changes {
        match change {
            Change::Byte(at, byte) if *at < frame.len() => frame[*at] = *byte,
            Change::Cut(end) if *end < frame.len() => frame.truncate(*end),
            Change::Insert(at, bytes) if *at < frame.len() => drop(frame.splice(at..at, bytes.iter().copied())),
            Change::Length(length) if frame.len() > 18 => frame[16..18].copy_from_slice(&length.to_be_bytes()),
            _ => {}
        }
    }
    if fix && frame.len() >= 34 && frame[12..15] == [8, 0, 0x45] {
        let total = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[24..26].fill(0);
        let sum = Sum::ZERO.bytes(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// Gives `frame` to the gateway and looks at what that led to.
fn check(bench: &mut Bench, from: &Member, frame: &[u8]) -> Result<(), TestCaseError> {
    bench.seen = Seen::default();
    bench.frame(&from.origin, frame);
    let seen = &bench.seen;
    prop_assert!(seen.replies.len() <= 1 && seen.floods.len() <= 1 && seen.drops.len() <= 1, "{seen:?}");
    for (port, reply) in &seen.replies {
        prop_assert_eq!(*port, from.origin.port);
        prop_assert!((14..=1514).contains(&reply.len()));
        // No more than the frame, an ICMP or DNS header and what EDNS takes.
        prop_assert!(reply.len() <= frame.len() + 64, "{} for {}", reply.len(), frame.len());
    }
    Ok(())
}

proptest! {
    #[test]
    fn hostile_changed_frames(changes in changes(), fix in any::<bool>(), bound_only in any::<bool>()) {
        let mut bench = Bench::new(|settings| {
            settings.bound_only = bound_only;
            settings.dns.withhold_aaaa = true;
        });
        let from = bench.member(9);
        for frame in frames(&from) {
            check(&mut bench, &from, &apply(frame, &changes, fix))?;
        }
        bench.later(60_000);
        bench.poll();
    }

    #[test]
    fn hostile_random_frames(bytes in proptest::collection::vec(any::<u8>(), 14..1600), kind in 0usize..3) {
        let mut bench = Bench::new(|_| ());
        let from = bench.member(9);
        let mut bytes = bytes;
        bytes[12..14].copy_from_slice(&[[8, 0], [8, 6], [0x86, 0xdd]][kind]);
        check(&mut bench, &from, &bytes)?;
    }

    #[test]
    fn hostile_random_payloads(
        payload in proptest::collection::vec(any::<u8>(), 0..600),
        protocol in prop_oneof![Just(1u8), Just(6), Just(17), any::<u8>()],
        port in prop_oneof![Just(53u16), Just(67), any::<u16>()],
    ) {
        let mut bench = Bench::new(|_| ());
        let from = bench.member(9);
        check(&mut bench, &from, &ip(&from, GATEWAY, protocol, &payload))?;
        check(&mut bench, &from, &udp_to(&from, GATEWAY, (port, port), &payload))?;
        let mut question = question(7, NAME, 255, 0x100, b"");
        question.extend(&payload);
        check(&mut bench, &from, &udp_to(&from, GATEWAY, (port, 53), &question))?;
        for answer in [payload.clone(), question] {
            bench.answer(1, Some(answer));
        }
    }

    /// TCP segments with right checksums and anything in their fields, in a row.
    #[test]
    fn hostile_segments(segments in proptest::collection::vec(
        (any::<u32>(), any::<u32>(), any::<u16>(), proptest::collection::vec(any::<u8>(), 0..60), 0u16..3), 1..40,
    )) {
        let mut bench = Bench::new(|_| ());
        let from = bench.member(9);
        for (sequence, ack, flags, rest, port) in segments {
            let offset = 0x5000 | (flags & 0x3000);
            let mut segment = [40_000 + port, 53].map(u16::to_be_bytes).concat();
            segment.extend([sequence % 8, ack % 8].map(u32::to_be_bytes).concat());
            segment.extend([offset | (flags & 0x3f), flags | 1, 0, 0].map(u16::to_be_bytes).concat());
            segment.extend(rest);
            let bytes = u16::try_from(segment.len()).unwrap();
            let sum = Sum::pseudo(from.address, GATEWAY, 6, bytes).bytes(&segment).finish();
            segment[16..18].copy_from_slice(&sum.to_be_bytes());
            let frame = ip(&from, GATEWAY, 6, &segment);
            bench.seen = Seen::default();
            bench.frame(&from.origin, &frame);
            prop_assert!(bench.seen.replies.len() <= 2, "{:?}", bench.seen);
            bench.later(500);
            bench.poll();
        }
    }
}

/// 10,000 sessions, each once: what is remembered of them has an end, and one who comes later is served.
#[test]
fn hostile_many_sessions() {
    let mut bench = Bench::new(|settings| settings.sessions_max = 100);
    let mut member = bench.member(9);
    for n in 0..10_000u64 {
        member.origin.session = SessionId(1_000_000 + n);
        let binding = Binding {
            mac: member.mac,
            port: member.origin.port,
            session: member.origin.session,
            member: member.origin.member,
        };
        bench.bindings.set(member.address, Some(binding));
        bench.frame(&member.origin, &echo(&member, GATEWAY));
    }
    assert_eq!(bench.seen.replies.len(), 100);
    assert_eq!(bench.seen.drops, vec![DropReason::GatewaySessions; 9_900]);
    bench.later(20_000);
    bench.replied(&member, &echo(&member, GATEWAY));
}
