//! DHCP through frames: the server is tested beside its code, here is what stands between it and the hub.
#![forbid(unsafe_code)]

use super::*;
use crate::wire::dhcp::{MAGIC_COOKIE, Message, MessageType};

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A frame with a DHCP message of `member`'s card.
fn message(member: &Member, src: Ipv4Addr, what: MessageType, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..8].copy_from_slice(&[1, 1, 6, 0, 9, 9, 9, 9]);
    bytes[12..16].copy_from_slice(&src.octets());
    bytes[28..34].copy_from_slice(&member.mac.0);
    bytes.extend(MAGIC_COOKIE);
    bytes.extend([53, 1, what as u8]);
    for (code, value) in options {
        bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
        bytes.extend(*value);
    }
    bytes.push(255);
    let dst = if src == NOBODY { Ipv4Addr::BROADCAST } else { GATEWAY };
    let mut frame = udp_to(&Member { address: src, ..*member }, dst, (68, 67), &bytes);
    if src == NOBODY {
        frame[..6].fill(0xff);
    }
    frame
}

/// `yiaddr` of the reply in `frame`, and what it is.
fn said(frame: &[u8]) -> (MessageType, Ipv4Addr) {
    let (_, datagram) = datagram(frame);
    assert_eq!(datagram.src_port, 67);
    assert!(datagram.payload.len() >= 300, "D24");
    let message = Message::new_checked(datagram.payload).unwrap();
    // Our server says what it is first.
    let what = MessageType::from_byte(datagram.payload[242]).unwrap();
    assert_eq!(datagram.payload[240..242], [53, 1]);
    (what, message.yiaddr())
}

/// Discover, offer, request, ack; `member` with the address he got.
fn lease(bench: &mut Bench, member: &Member, name: &[u8]) -> Member {
    bench.frame(&member.origin, &message(member, NOBODY, MessageType::Discover, &[(12, name)]));
    while bench.seen.replies.is_empty() {
        bench.later(100);
        bench.poll();
    }
    let (port, offer) = bench.seen.replies.pop().unwrap();
    let (what, address) = said(&offer);
    assert_eq!((port, what, &offer[..6]), (member.origin.port, MessageType::Offer, &member.mac.0[..]));
    let options: [(u8, &[u8]); 3] = [(50, &address.octets()), (54, &GATEWAY.octets()), (12, name)];
    let ack = bench.replied(member, &message(member, NOBODY, MessageType::Request, &options));
    assert_eq!(said(&ack), (MessageType::Ack, address));
    Member { address, ..*member }
}

fn bound(bench: &Bench) -> Vec<(Ipv4Addr, Option<PortId>, Option<PortId>)> {
    let port = |binding: &Option<Binding>| binding.map(|binding| binding.port);
    let bound = bench.seen.events.iter().filter_map(|event| match event {
        GatewayEvent::Bound { address, before, after } => Some((*address, port(before), port(after))),
        _ => None,
    });
    bound.collect()
}

/// The member of `member` logged in again: other session, other port.
fn again(member: &Member) -> Member {
    let origin =
        Origin { port: PortId::new(1, 70, 3), session: SessionId(member.origin.session.0 + 500), ..member.origin };
    Member { origin, ..*member }
}

/// A lease makes the binding by which everything else is served.
#[test]
fn dhcp_d9_lease_binds() {
    let mut bench = Bench::new(|_| ());
    let member = stranger(200);
    assert_eq!(bench.dropped(&member, &echo(&member, GATEWAY)), Some(DropReason::GatewayNotBound));
    let leased = lease(&mut bench, &member, b"");
    assert_eq!(bound(&bench), [(leased.address, None, Some(member.origin.port))]);
    bench.replied(&leased, &echo(&leased, GATEWAY));
    assert_eq!(bench.frame(&leased.origin, &echo(&leased, Ipv4Addr::new(8, 8, 8, 8))), Handled::Adopted);
    let release = message(&leased, leased.address, MessageType::Release, &[(54, &GATEWAY.octets())]);
    bench.frame(&leased.origin, &release);
    assert_eq!(bench.bindings.of(leased.address), None);
    assert_eq!(bench.dropped(&leased, &echo(&leased, GATEWAY)), Some(DropReason::GatewayNotBound));
}

/// A member whose session broke goes on with his address at once: by ARP, by a packet to the gateway, by one to the
/// Internet. Nobody else does.
#[test]
fn adopted_after_a_new_login() {
    let outside = Ipv4Addr::new(8, 8, 8, 8);
    let arp = |from: &Member| {
        let (operation, target_mac) = (Operation::Request, Mac([0; 6]));
        let arp = Arp { operation, sender_mac: from.mac, sender: from.address, target_mac, target: GATEWAY };
        arp.to_frame(Mac::BROADCAST).to_vec()
    };
    for ended in [true, false] {
        for first in 0..3 {
            let mut bench = Bench::new(|_| ());
            let member = lease(&mut bench, &stranger(200), b"");
            if ended {
                bench.gateway.session_ended(member.origin.session, bench.now, &mut bench.seen);
                assert_eq!(bench.bindings.of(member.address), None);
            }
            let back = again(&member);
            let mut thief = back;
            thief.origin.member = MemberId(77);
            for frame in [echo(&thief, GATEWAY), echo(&thief, outside)] {
                assert_eq!(bench.dropped(&thief, &frame), Some(DropReason::GatewayNotBound));
            }
            let other_card = Member { mac: Mac([2, 9, 9, 9, 9, 9]), ..back };
            assert_eq!(bench.dropped(&other_card, &echo(&other_card, GATEWAY)), Some(DropReason::GatewayNotBound));
            match first {
                0 => drop(bench.replied(&back, &arp(&back))),
                1 => drop(bench.replied(&back, &echo(&back, GATEWAY))),
                _ => assert_eq!(bench.frame(&back.origin, &echo(&back, outside)), Handled::Adopted),
            }
            assert_eq!(bench.bindings.of(member.address).map(|binding| binding.port), Some(back.origin.port));
            bench.replied(&back, &echo(&back, GATEWAY));
        }
    }
}

/// Two sessions of one member with the same card: the address cannot be in two places, nor change place all the time.
#[test]
fn adopted_only_so_often() {
    let mut bench = Bench::new(|_| ());
    let member = lease(&mut bench, &stranger(200), b"");
    let twin = again(&member);
    bench.seen = Seen::default();
    for _ in 0..1_000 {
        for from in [twin, member] {
            bench.frame(&from.origin, &echo(&from, GATEWAY));
        }
    }
    assert!((2..=20).contains(&bound(&bench).len()), "{} moves", bound(&bench).len());
    assert!(bench.seen.drops.contains(&DropReason::GatewayNotBound));
}

/// D7: an address that was used is asked for by ARP; who answers keeps it, though he has no lease.
#[test]
fn dhcp_d7_probe_in_the_hub() {
    let only = Ipv4Addr::new(100, 64, 0, 50);
    let mut bench = Bench::new(|settings| settings.dhcp.as_mut().unwrap().pool = only..=only);
    bench.poll();
    let member = lease(&mut bench, &stranger(200), b"");
    let release = message(&member, only, MessageType::Release, &[(54, &GATEWAY.octets())]);
    bench.frame(&member.origin, &release);
    bench.seen = Seen::default();
    // Long enough that nobody remembers it as just given back.
    bench.later(3_600_000);
    let other = stranger(201);
    bench.frame(&other.origin, &message(&other, NOBODY, MessageType::Discover, &[]));
    let probe = bench.seen.floods.pop().expect("a probe");
    let arp = Arp::parse(&probe[14..]).unwrap();
    assert_eq!((arp.operation, arp.target, &probe[..6]), (Operation::Request, only, &[0xff; 6][..]));
    let holder = stranger(50);
    let reply = Arp {
        operation: Operation::Reply,
        sender_mac: holder.mac,
        sender: only,
        target_mac: arp.sender_mac,
        target: arp.sender,
    };
    bench.frame(&holder.origin, &reply.to_frame(arp.sender_mac));
    for _ in 0..100 {
        bench.later(100);
        bench.poll();
    }
    assert!(bench.seen.replies.is_empty(), "the only address is in use");
    let conflict = dhcp::DhcpEvent::Conflict { address: only, by: holder.mac, declined: false };
    assert!(bench.seen.events.contains(&GatewayEvent::Dhcp(conflict)), "{:?}", bench.seen.events);
}

/// A relay behind a bridge has an address of its own and no lease: it finds the gateway by ARP and is answered at port 67
/// of that address, its client is served, and nothing else is.
#[test]
fn dhcp_d21_a_relay_needs_no_lease() {
    let mut bench = Bench::new(|_| ());
    let mut relay = stranger(250);
    let mut relayed = message(&relay, relay.address, MessageType::Discover, &[]);
    // From the relay's port, its address as giaddr and none of the client's, whose card is another.
    let message = &mut relayed[14 + 20 + 8..];
    message[12..16].fill(0);
    message[24..28].copy_from_slice(&relay.address.octets());
    message[28..34].copy_from_slice(&[2, 7, 7, 7, 7, 7]);
    let relayed = udp_to(&relay, GATEWAY, (67, 67), message);
    assert_eq!(bench.dropped(&relay, &relayed), Some(DropReason::DhcpRelay), "members are no relays");

    relay.origin.is_bridge = true;
    let (operation, target_mac) = (Operation::Request, Mac([0; 6]));
    let arp = Arp { operation, sender_mac: relay.mac, sender: relay.address, target_mac, target: GATEWAY };
    let reply = bench.replied(&relay, &arp.to_frame(Mac::BROADCAST));
    assert_eq!(Arp::parse(&reply[14..]).unwrap().sender, GATEWAY);
    let offer = bench.replied(&relay, &relayed);
    let (to, reply) = datagram(&offer);
    assert_eq!((to, reply.dst_port, said(&offer).0), (relay.address, 67, MessageType::Offer));
    for dst in [GATEWAY, Ipv4Addr::new(8, 8, 8, 8)] {
        assert_eq!(bench.dropped(&relay, &echo(&relay, dst)), Some(DropReason::GatewayNotBound));
    }
}

/// N8 from end to end: the host name of a client, in the zone, as long as he is there.
#[test]
fn dns_n8_host_names() {
    let mut bench = Bench::new(|settings| settings.dns.zone = Some("hub.internal".to_owned()));
    let member = lease(&mut bench, &stranger(200), b"Laptop");
    let asker = bench.member(9);
    let name = b"\x06laptop\x03hub\x08internal\x00";
    let ask = udp_to(&asker, GATEWAY, (5, 53), &question(7, name, 1, 0x100, b""));
    let reply = bench.replied(&asker, &ask);
    let (_, found) = datagram(&reply);
    assert_eq!((found.payload[3] & 0xf, &found.payload[found.payload.len() - 4..]), (0, &member.address.octets()[..]));
    bench.gateway.session_ended(member.origin.session, bench.now, &mut bench.seen);
    let reply = bench.replied(&asker, &ask);
    assert_eq!(datagram(&reply).1.payload[3] & 0xf, 3, "gone");
    let back = again(&member);
    bench.replied(&back, &echo(&back, GATEWAY));
    let reply = bench.replied(&asker, &ask);
    assert_eq!(datagram(&reply).1.payload[3] & 0xf, 0, "and back");
    assert!(bench.seen.questions.is_empty());
}

/// Broken datagrams do not reach the server; without a server nobody listens.
#[test]
fn dhcp_d29_broken_datagrams() {
    let mut bench = Bench::new(|_| ());
    let member = stranger(200);
    let whole = message(&member, NOBODY, MessageType::Discover, &[]);
    let mut broken = whole.clone();
    broken[60] ^= 1;
    assert_eq!(bench.dropped(&member, &broken), Some(DropReason::GatewayMalformed));
    assert_eq!(bench.dropped(&member, &whole[..whole.len() - 3]), Some(DropReason::GatewayMalformed));
    let mut off = Bench::new(|settings| settings.dhcp = None);
    assert_eq!(off.dropped(&member, &whole), Some(DropReason::GatewayIgnored));
    let leased = off.member(9);
    let reply = off.replied(&leased, &message(&leased, leased.address, MessageType::Request, &[]));
    assert_eq!(reply[34..36], [3, 3], "no such port");
}
