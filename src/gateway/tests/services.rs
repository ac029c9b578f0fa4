//! Who is served, echo, and ports where nobody listens.
#![forbid(unsafe_code)]

use super::*;

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

#[test]
fn echo_is_answered() {
    let mut bench = Bench::new(|_| ());
    let member = bench.member(9);
    let request = echo(&member, GATEWAY);
    let reply = bench.replied(&member, &request);
    assert_eq!((reply.len(), reply[34], &reply[38..]), (request.len(), 0, &request[38..]));
    let mut broken = request.clone();
    broken[40] ^= 1;
    assert_eq!(bench.dropped(&member, &broken), Some(DropReason::GatewayMalformed));
    for _ in 0..300 {
        bench.frame(&member.origin, &request);
    }
    assert_eq!(bench.seen.replies.len(), 199, "with the one above 200");
}

/// RFC 1122 §3.2.2: nothing is said to what went to many, nor to a fragment.
#[test]
fn nothing_is_said_to_broadcasts_and_fragments() {
    let mut bench = Bench::new(|_| ());
    let member = bench.member(9);
    let (directed, all) = (Ipv4Addr::new(100, 64, 255, 255), Ipv4Addr::BROADCAST);
    for dst in [directed, all, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(239, 1, 2, 3)] {
        for frame in [echo(&member, dst), udp_to(&member, dst, (5, 7), b"x")] {
            assert_eq!(bench.dropped(&member, &frame), Some(DropReason::GatewayIgnored), "{dst}");
        }
    }
    for mut frame in [echo(&member, GATEWAY), udp_to(&member, GATEWAY, (5, 7), b"x"), echo(&member, OUTSIDE)] {
        frame[..6].copy_from_slice(&[0xff; 6]);
        assert_eq!(bench.dropped(&member, &frame), Some(DropReason::GatewayIgnored));
    }
    for fragment in [0x2000u16, 0x0001, 0x2001] {
        for mut frame in [echo(&member, GATEWAY), udp_to(&member, GATEWAY, (5, 7), b"x")] {
            frame[20..22].copy_from_slice(&fragment.to_be_bytes());
            fix_header(&mut frame);
            assert_eq!(bench.dropped(&member, &frame), Some(DropReason::GatewayFragment));
        }
    }
    // IGMP, IPv6, something unknown.
    assert_eq!(bench.dropped(&member, &ip(&member, GATEWAY, 2, &[0; 8])), Some(DropReason::GatewayIgnored));
    for ethertype in [[0x86, 0xdd], [0x88, 0xcc], [0x81, 0x00]] {
        let frame = [&[0xff; 6][..], &member.mac.0, &ethertype, &[0; 46]].concat();
        assert_eq!(bench.dropped(&member, &frame), Some(DropReason::GatewayIgnored));
    }
}

#[test]
fn closed_udp_ports_are_told_sparingly() {
    let mut bench = Bench::new(|_| ());
    let member = bench.member(9);
    let frame = udp_to(&member, GATEWAY, (40_000, 33_434), b"traceroute");
    let error = bench.replied(&member, &frame);
    assert_eq!((&error[34..36], &error[42..]), (&[3, 3][..], &frame[14..42]));
    for _ in 0..100 {
        bench.frame(&member.origin, &frame);
    }
    assert_eq!(bench.seen.replies.len(), 9, "with the one above 10");
    let mut broken = frame.clone();
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(bench.dropped(&member, &broken), Some(DropReason::GatewayMalformed));
}

/// Port, card, session and address have to belong together.
#[test]
fn only_bound_addresses_are_served() {
    let mut bench = Bench::new(|_| ());
    let (member, other) = (bench.member(9), bench.member(10));
    bench.replied(&member, &echo(&member, GATEWAY));
    assert_eq!(bench.frame(&member.origin, &echo(&member, OUTSIDE)), Handled::Adopted, "bound: NAT may have it");
    let liars = [
        Member { address: other.address, ..member },
        Member { address: stranger(11).address, ..member },
        Member { mac: other.mac, ..member },
        Member { origin: other.origin, ..member },
        Member { address: GATEWAY, ..member },
        Member { address: Ipv4Addr::UNSPECIFIED, ..member },
        Member { address: OUTSIDE, ..member },
        Member { origin: Origin { session: SessionId(1), ..member.origin }, ..member },
    ];
    for liar in liars {
        for frame in [
            echo(&liar, GATEWAY),
            echo(&liar, OUTSIDE),
            udp_to(&liar, GATEWAY, (5, 53), &question(1, NAME, 1, 0x100, b"")),
            udp_to(&liar, GATEWAY, (5, 7), b""),
        ] {
            assert_eq!(bench.dropped(&liar, &frame), Some(DropReason::GatewayNotBound), "{liar:?}");
        }
    }
    assert!(bench.seen.questions.is_empty());
    assert_eq!(bench.dropped(&member, &echo(&member, other.address)), Some(DropReason::GatewayInside));
}

#[test]
fn static_addresses_are_served_where_that_is_wanted() {
    let mut bench = Bench::new(|settings| settings.bound_only = false);
    let (static_host, member) = (stranger(11), bench.member(9));
    bench.replied(&static_host, &echo(&static_host, GATEWAY));
    let outside = echo(&static_host, OUTSIDE);
    assert_eq!(bench.dropped(&static_host, &outside), Some(DropReason::GatewayNotBound), "no lease, no NAT");
    for address in [member.address, GATEWAY, OUTSIDE, Ipv4Addr::new(100, 64, 255, 255), Ipv4Addr::new(100, 64, 0, 0)] {
        let thief = Member { address, ..static_host };
        assert_eq!(bench.dropped(&thief, &echo(&thief, GATEWAY)), Some(DropReason::GatewayNotBound), "{address}");
    }
}

#[test]
fn headers_that_lie_are_dropped() {
    let mut bench = Bench::new(|_| ());
    let member = bench.member(9);
    let whole = echo(&member, GATEWAY);
    for at in [14, 16, 17, 22, 24, 26, 30] {
        let mut frame = whole.clone();
        frame[at] ^= 0x10;
        assert_eq!(bench.dropped(&member, &frame), Some(DropReason::GatewayMalformed), "byte {at}");
    }
    for end in 14..whole.len() {
        assert_eq!(bench.dropped(&member, &whole[..end]), Some(DropReason::GatewayMalformed), "{end} bytes");
    }
    let padded = [&whole[..], &[0; 20]].concat();
    assert_eq!(bench.replied(&member, &padded).len(), whole.len(), "padding is no part of the packet");
}

/// The header checksum of the packet in `frame`, anew.
fn fix_header(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = Sum::ZERO.bytes(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}
