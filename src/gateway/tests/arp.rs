//! ARP: answers, announcements, claims.
#![forbid(unsafe_code)]

use super::*;

fn request(from: &Member, target: Ipv4Addr) -> Vec<u8> {
    packet(from, Operation::Request, from.address, target)
}

fn packet(from: &Member, operation: Operation, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let arp = Arp { operation, sender_mac: from.mac, sender, target_mac: Mac([0; 6]), target };
    arp.to_frame(Mac::BROADCAST).to_vec()
}

fn parse(frame: &[u8]) -> (Mac, Arp) {
    let frame = Frame::new_checked(frame).unwrap();
    (frame.src(), Arp::parse(frame.payload()).unwrap())
}

#[test]
fn arp_answers_for_itself() {
    let mut bench = Bench::new(|_| ());
    let (gateway, member) = (GatewaySettings::default().mac, bench.member(9));
    let told = Arp {
        operation: Operation::Reply,
        sender_mac: gateway,
        sender: GATEWAY,
        target_mac: member.mac,
        target: member.address,
    };
    let reply = bench.replied(&member, &request(&member, GATEWAY));
    assert_eq!(parse(&reply), (gateway, told));
    // Who has no address yet, or one of his own choice, may ask as well.
    let reply = bench.replied(&member, &packet(&member, Operation::Request, Ipv4Addr::UNSPECIFIED, GATEWAY));
    assert_eq!(parse(&reply), (gateway, Arp { target: Ipv4Addr::UNSPECIFIED, ..told }));
    let other = stranger(10);
    assert_eq!(parse(&bench.replied(&other, &request(&other, GATEWAY))).1.sender_mac, gateway);
}

#[test]
fn arp_answers_for_members_with_a_lease_only() {
    let mut bench = Bench::new(|_| ());
    let (a, b) = (bench.member(9), bench.member(10));
    let reply = bench.replied(&a, &request(&a, b.address));
    let (frame_src, arp) = parse(&reply);
    assert_eq!((frame_src, arp.sender_mac, arp.sender), (GatewaySettings::default().mac, b.mac, b.address));
    for (from, target) in [(a, stranger(11).address), (a, Ipv4Addr::new(8, 8, 8, 8)), (a, a.address)] {
        assert_eq!(bench.dropped(&from, &request(&from, target)), Some(DropReason::GatewayIgnored), "{target}");
    }
    // A probe for an address that somebody has: it is taken. For one's own: it is not (RFC 5227 §2.1).
    let probe = |from: &Member, target| packet(from, Operation::Request, Ipv4Addr::UNSPECIFIED, target);
    assert_eq!(parse(&bench.replied(&a, &probe(&a, b.address))).1.sender, b.address);
    assert_eq!(bench.dropped(&a, &probe(&a, a.address)), Some(DropReason::GatewayIgnored));
}

#[test]
fn arp_of_a_lan_is_left_to_its_hosts() {
    let mut bench = Bench::new(|settings| settings.answers_for_members = false);
    let (a, b) = (bench.member(9), bench.member(10));
    assert_eq!(bench.dropped(&a, &request(&a, b.address)), Some(DropReason::GatewayIgnored));
    bench.replied(&a, &request(&a, GATEWAY));
}

/// RFC 5227 §2.3: two, two seconds apart, and no more however often it is asked.
#[test]
fn arp_announces_itself_twice() {
    let mut bench = Bench::new(|_| ());
    for _ in 0..1000 {
        bench.poll();
        bench.later(10);
    }
    assert_eq!(bench.seen.floods.len(), 2);
    let (frame_src, arp) = parse(&bench.seen.floods[0]);
    assert_eq!((frame_src, arp.sender, arp.target), (arp.sender_mac, GATEWAY, GATEWAY));
    assert_eq!((arp.operation, &bench.seen.floods[0][..6]), (Operation::Request, &[0xff; 6][..]));
    assert!(bench.seen.replies.is_empty());
}

/// H11: who claims the gateway's address or another's is named; the gateway says the truth, but not as often.
#[test]
fn arp_h11_claims_are_refused_and_told() {
    let mut bench = Bench::new(|_| ());
    let (thief, victim) = (bench.member(9), bench.member(10));
    for (operation, claimed) in [
        (Operation::Request, GATEWAY),
        (Operation::Reply, GATEWAY),
        (Operation::Request, victim.address),
        (Operation::Reply, victim.address),
    ] {
        bench.later(2_000);
        for target in [claimed, GATEWAY, thief.address] {
            let lie = packet(&thief, operation, claimed, target);
            assert_eq!(bench.dropped(&thief, &lie), Some(DropReason::GatewayArpClaim));
            let frame = Frame::new_checked(&lie).unwrap();
            let holder = bench.bindings.of(claimed);
            let claim = Claim { mac: thief.mac, address: claimed, holder };
            assert_eq!(bench.gateway.guard().refuse(&thief.origin, frame), Some(claim));
        }
    }
    assert_eq!(bench.seen.floods.len(), 1, "one defence in 10 s");
    assert_eq!(bench.seen.events.len(), 4, "told once a second, not for each frame");
    let told = bench.seen.events.iter().map(|event| match event {
        GatewayEvent::AddressClaimed { origin, mac, address, holder } => (*origin, *mac, *address, holder.is_some()),
        event => panic!("{event:?}"),
    });
    let (origin, mac) = (thief.origin, thief.mac);
    let lies = [(origin, mac, GATEWAY, false), (origin, mac, victim.address, true)];
    assert_eq!(told.collect::<Vec<_>>(), [lies[0], lies[0], lies[1], lies[1]]);
}

/// What the guard lets through: the truth, in whatever form, and what is nobody's.
#[test]
fn arp_guard_hinders_nobody() {
    let bench = Bench::new(|_| ());
    let (member, guard) = (bench.member(9), bench.gateway.guard().clone());
    let mut elsewhere = member;
    elsewhere.origin.port = PortId::new(1, 44, 1);
    elsewhere.origin.session = SessionId(7);
    let stranger = stranger(11);
    for (from, frame) in [
        (member, request(&member, GATEWAY)),
        (member, packet(&member, Operation::Reply, member.address, GATEWAY)),
        (elsewhere, request(&elsewhere, GATEWAY)),
        (stranger, request(&stranger, GATEWAY)),
        (stranger, packet(&stranger, Operation::Request, Ipv4Addr::UNSPECIFIED, member.address)),
        (stranger, udp_to(&stranger, GATEWAY, (1, 2), b"")),
        (stranger, request(&stranger, GATEWAY)[..30].to_vec()),
    ] {
        assert_eq!(guard.refuse(&from.origin, Frame::new_checked(&frame).unwrap()), None, "{frame:02x?}");
    }
}

/// CVE-2021-27853: hosts look behind tags and LLC/SNAP.
#[test]
fn arp_h11_claims_cannot_hide() {
    let bench = Bench::new(|_| ());
    let thief = stranger(9);
    let lie = packet(&thief, Operation::Reply, GATEWAY, GATEWAY);
    let tag: &[u8] = &[0x81, 0, 0, 0];
    let snap: &[u8] = &[0, 36, 0xaa, 0xaa, 3, 0, 0, 0];
    for hidden in [&[][..], tag, &[0x88, 0xa8, 0, 5], &[tag, tag].concat(), snap, &[tag, snap].concat()] {
        let frame = [&lie[..12], hidden, &lie[12..]].concat();
        let claim = bench.gateway.guard().refuse(&thief.origin, Frame::new_checked(&frame).unwrap());
        assert_eq!(claim.map(|claim| claim.address), Some(GATEWAY), "{hidden:02x?}");
    }
}

#[test]
fn arp_answers_are_limited_for_each_session() {
    let mut bench = Bench::new(|settings| settings.arp_per_sec = 20);
    let (loud, quiet) = (bench.member(9), bench.member(10));
    let ask = request(&loud, GATEWAY);
    for _ in 0..1000 {
        bench.frame(&loud.origin, &ask);
    }
    assert_eq!(bench.seen.replies.len(), 20);
    assert_eq!(bench.seen.drops, vec![DropReason::GatewayRate; 980]);
    bench.replied(&quiet, &request(&quiet, GATEWAY));
}
