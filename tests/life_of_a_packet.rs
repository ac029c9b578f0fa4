//! A packet from a member to the Internet and back in one thread: no root, no kernel socket, no clock.
//!
//! Read it beside README's "Life of a packet", or step through it with a debugger: start at
//! `from_power_on_to_the_internet` and follow `Fabric::to_host`. The hub and everybody around it come from
//! `tests/common/way_out.rs`.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::Ordering::Relaxed;

use common::packets::{self, Seen, Segment, datagram, dns_question, fragments, framed, icmp_error, joined, ping};
use common::way_out::{EXTERNAL, GATEWAY, GATEWAY_CARD, SERVER, Setup, Station, WayOut, card};
use hublane::lane::cut::cut;
use hublane::metrics::closes::CloseReason;
use hublane::metrics::drops::DropReason;
use hublane::nat::Proto;
use hublane::wire::arp::Arp;
use hublane::wire::dhcp::{MessageType, code};
use hublane::wire::ethernet::HEADER_BYTES;
use hublane::wire::icmp;
use hublane::wire::offload::{L4Checksum, Offload};
use hublane::wire::tcp::{FLAG_ACK, FLAG_SYN};

/// The gateway on `owner`, the member on `worker`, his address that of `nat`.
#[derive(Clone, Copy, Debug)]
struct Layout {
    workers: usize,
    owner: usize,
    worker: usize,
    nat: usize,
}

/// Every way of spreading gateway, member and address over one or two workers.
fn layouts() -> Vec<Layout> {
    let mut all = vec![Layout { workers: 1, owner: 0, worker: 0, nat: 0 }];
    for n in 0..8 {
        all.push(Layout { workers: 2, owner: n & 1, worker: n >> 1 & 1, nat: n >> 2 });
    }
    all
}

/// The n-th inside address of those that `nat` owns.
fn address_of(layout: Layout, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 3, n * 2 + u8::try_from(layout.nat).unwrap())
}

/// Members 1 and 2 have addresses that fit `layout`.
fn way_out(layout: Layout) -> WayOut {
    let reserved = [1, 2].map(|n| (card(n), address_of(layout, n))).to_vec();
    WayOut::new(Setup { owner: layout.owner, reserved, ..Setup::new(layout.workers) })
}

#[test]
fn from_power_on_to_the_internet() {
    for layout in layouts() {
        let mut way = way_out(layout);
        let mut a = way.login(1, layout.worker);
        way.boot(&mut a);
        assert_eq!(a.address, address_of(layout, 1), "{layout:?}");
        assert_eq!(a.ask_arp(&mut way, GATEWAY), Some(GATEWAY_CARD), "{layout:?}");

        a.send(&ping(a.address, GATEWAY, icmp::ECHO, 77));
        way.turn();
        let pong = a.one_received();
        assert_eq!((pong.header[0], pong.from), (icmp::ECHO_REPLY, SocketAddrV4::new(GATEWAY, 77)));

        resolves(&mut way, &mut a);
        reaches(&mut way, &mut a, layout);
        assert_eq!(way.drops(), [], "{layout:?}");
    }
}

fn resolves(way: &mut WayOut, a: &mut Station) {
    a.send(&datagram(a.at(4000), SocketAddrV4::new(GATEWAY, 53), &dns_question(0xabcd, "example")));
    way.turn();
    assert_eq!(a.received(), [], "nobody knows yet");
    assert_eq!(way.answer_questions(*SERVER.ip()), 1);
    let answer = a.one_received();
    assert_eq!((answer.from, answer.to), (SocketAddrV4::new(GATEWAY, 53), a.at(4000)));
    assert_eq!(answer.data, packets::dns_answer(&dns_question(0xabcd, "example"), *SERVER.ip()));
}

/// Out by the worker that owns the address, in by any.
fn reaches(way: &mut WayOut, a: &mut Station, layout: Layout) {
    way.frames();
    a.send(&datagram(a.at(5000), SERVER, b"is anybody there"));
    a.send(&datagram(a.at(5000), SERVER, b"is anybody there"));
    way.turn();
    let asked = way.frames();
    let [(asks, question, _)] = &asked[..] else { panic!("the next hop is asked for first: {asked:?}") };
    assert_eq!(*asks, layout.nat, "{layout:?}");
    way.answer_arp(&Arp::parse(&question[HEADER_BYTES..]).unwrap());
    way.run(100);
    let sent = way.sent();
    assert_eq!(sent.len(), 2);
    for packet in sent {
        let seen = packets::read(&packet.packet);
        assert_eq!((packet.worker, packet.offload), (layout.nat, Offload::NONE), "{layout:?}");
        assert_eq!((*seen.from.ip(), seen.to, seen.ttl), (EXTERNAL, SERVER, 63));
        assert_eq!(seen.data, b"is anybody there");
        assert_eq!(way.nat.owner_of_external(Proto::Udp, EXTERNAL, seen.from.port()), layout.nat);
        for wire in 0..layout.workers {
            way.arrive(wire, &datagram(SERVER, seen.from, b"yes"), Offload::NONE);
            let seen = a.one_received();
            assert_eq!((seen.from, seen.to, seen.ttl), (SERVER, a.at(5000), 63), "{layout:?} wire {wire}");
            assert_eq!(seen.data, b"yes");
        }
    }
}

/// A member with the address that `layout` gives him.
fn booted(layout: Layout) -> (WayOut, Station) {
    let mut way = way_out(layout);
    let mut a = way.login(1, layout.worker);
    way.boot(&mut a);
    (way, a)
}

/// Opens a connection from port `port`; as whom the other side sees it.
fn connected(way: &mut WayOut, a: &mut Station, port: u16) -> SocketAddrV4 {
    // Maximum segment size 8960: somebody with jumbo frames.
    let options = &[2, 4, 0x23, 0, 1, 1, 1, 0][..];
    a.send(&Segment { seq: 99, flags: FLAG_SYN, options, ..Segment::default() }.packet(a.at(port), SERVER));
    let (_, syn) = way.one_sent();
    assert_eq!((*syn.from.ip(), syn.to, syn.ttl), (EXTERNAL, SERVER, 63));
    assert_eq!(syn.header[22..24], 1460u16.to_be_bytes(), "as long as both links carry");
    let syn_ack = Segment { seq: 999, ack: 100, flags: FLAG_SYN | FLAG_ACK, ..Segment::default() };
    way.arrive(0, &syn_ack.packet(SERVER, syn.from), Offload::NONE);
    assert_eq!(a.one_received().to, a.at(port));
    a.send(&Segment { seq: 100, ack: 1000, flags: FLAG_ACK, ..Segment::default() }.packet(a.at(port), SERVER));
    assert_eq!(way.one_sent().1.from, syn.from);
    syn.from
}

/// Bytes that tell where they belong.
fn stream(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| u8::try_from(n * 7 / 3 % 251).unwrap()).collect()
}

#[test]
fn super_packets_arrive_as_segments() {
    for layout in layouts() {
        let (mut way, mut a) = booted(layout);
        let outside = connected(&mut way, &mut a, 6000);
        let data = stream(20 * 1448 + 100);
        for wire in 0..layout.workers {
            let sent = Segment { seq: 1000, ack: 100, flags: FLAG_ACK, options: STAMP, data: &data };
            let offload = Offload { checksum: L4Checksum::Partial, segment_bytes: 1448 };
            way.arrive(wire, &sent.unfinished(SERVER, outside), offload);
            let packets = a.packets();
            assert!(packets.iter().all(|packet| packet.len() <= 1500));
            let segments: Vec<Seen> = packets.iter().map(|packet| packets::read(packet)).collect();
            assert_eq!(segments.len(), 21, "{layout:?} wire {wire}");
            let mut together = Vec::new();
            for segment in segments {
                assert_eq!((segment.from, segment.to), (SERVER, a.at(6000)));
                assert_eq!(segment.seq() as usize, 1000 + together.len(), "in order");
                assert_eq!(segment.header[20..], *STAMP);
                together.extend(segment.data);
            }
            assert_eq!(together, data);
        }
        assert_eq!(way.drops(), []);
    }
}

#[test]
fn an_upload_leaves_merged() {
    for layout in layouts() {
        let (mut way, mut a) = booted(layout);
        let outside = connected(&mut way, &mut a, 6000);
        let data = stream(40 * 1448);
        for (n, part) in data.chunks(1448).enumerate() {
            let seq = 100 + u32::try_from(n * 1448).unwrap();
            let segment = Segment { seq, ack: 1000, flags: FLAG_ACK, options: STAMP, data: part };
            a.send(&segment.packet(a.at(6000), SERVER));
        }
        let sent = way.sent();
        assert!(sent.len() <= 2, "{layout:?}: 40 segments left as {}", sent.len());
        let mut together = Vec::new();
        for super_packet in &sent {
            let unfinished = Offload { checksum: L4Checksum::Partial, segment_bytes: 1448 };
            assert_eq!((super_packet.worker, super_packet.offload), (layout.nat, unfinished));
            let mut packet = super_packet.packet.clone();
            cut(&mut packet, super_packet.offload, 1500, &mut |segment| {
                let segment = packets::read(segment);
                assert_eq!((segment.from, segment.to, segment.ttl), (outside, SERVER, 63));
                assert_eq!(segment.seq() as usize, 100 + together.len());
                together.extend(segment.data);
            });
        }
        assert_eq!(together, data);
    }
}

/// Two members, each the other's peer by public addresses, as games do it.
#[test]
fn members_meet_by_public_addresses() {
    for layout in layouts() {
        for second in 0..layout.workers {
            let (mut way, mut a) = booted(layout);
            let mut b = way.booted(2, second);
            let [from_a, from_b] = [&mut a, &mut b].map(|station| {
                station.send(&datagram(station.at(7000), SERVER, b"who am I"));
                way.one_sent().1.from
            });
            a.send(&datagram(a.at(7000), from_b, b"from a"));
            way.turn();
            assert_eq!(b.received(), [], "b has not sent there yet");
            b.send(&datagram(b.at(7000), from_a, b"from b"));
            way.turn();
            let seen = a.one_received();
            assert_eq!((seen.from, seen.to, &seen.data[..]), (from_b, a.at(7000), &b"from b"[..]));
            a.send(&datagram(a.at(7000), from_b, b"from a"));
            way.turn();
            let seen = b.one_received();
            assert_eq!((seen.from, seen.to, &seen.data[..]), (from_a, b.at(7000), &b"from a"[..]));
            assert_eq!(way.sent(), [], "nothing of it leaves");
            assert_eq!(way.drops(), [(DropReason::NatFiltered, 1)], "{layout:?}");
        }
    }
}

#[test]
fn errors_from_outside_reach_the_member() {
    for layout in layouts() {
        let (mut way, mut a) = booted(layout);
        let packet = datagram(a.at(5000), SERVER, b"to a closed port");
        a.send(&packet);
        let sent = way.sent().remove(0).packet;
        let router = Ipv4Addr::new(9, 9, 0, 1);
        for wire in 0..layout.workers {
            let about = icmp_error(router, EXTERNAL, (icmp::UNREACHABLE, icmp::CODE_HOST), &sent);
            way.arrive(wire, &about, Offload::NONE);
            let error = a.one_received();
            assert_eq!((*error.from.ip(), *error.to.ip(), error.header[0]), (router, a.address, icmp::UNREACHABLE));
            let about = packets::read(&error.data);
            assert_eq!((about.from, about.to, &about.data[..]), (a.at(5000), SERVER, &b"to a closed port"[..]));
        }
        assert_eq!(way.drops(), [], "{layout:?}");
    }
}

#[test]
fn fragments_pass_both_ways() {
    for layout in layouts() {
        let (mut way, mut a) = booted(layout);
        let data = stream(4000);
        let mut pieces = fragments(&datagram(a.at(5000), SERVER, &data), 77, 1400);
        pieces.reverse();
        pieces.iter().for_each(|piece| a.send(piece));
        let sent = way.sent();
        assert!(sent.iter().all(|sent| sent.packet.len() <= 1500 && sent.worker == layout.nat));
        let pieces: Vec<_> = sent.into_iter().map(|sent| sent.packet).collect();
        assert!(pieces.len() > 2);
        let seen = packets::read(&joined(&pieces));
        assert_eq!((*seen.from.ip(), seen.to), (EXTERNAL, SERVER));
        assert_eq!(seen.data, data);

        // Each by another worker's end, the first of them last.
        let mut pieces = fragments(&datagram(SERVER, seen.from, &data), 99, 1400);
        pieces.reverse();
        for (n, piece) in pieces.iter().enumerate() {
            way.arrive(n % layout.workers, piece, Offload::NONE);
        }
        let seen = packets::read(&joined(&a.packets()));
        assert_eq!((seen.from, seen.to), (SERVER, a.at(5000)), "{layout:?}");
        assert_eq!(seen.data, data);
        assert_eq!(way.drops(), [], "{layout:?}");
    }
}

#[test]
fn nobody_sends_as_somebody_else() {
    for layout in layouts() {
        let (mut way, a) = booted(layout);
        let mut thief = way.booted(2, 0);
        way.sent();
        let mut unbound = 0;
        // Another's address; another card with the own one; an address of nobody.
        let nobody = SocketAddrV4::new(address_of(layout, 50), 5000);
        for (card, from) in [(thief.card, a.at(5000)), (card(9), thief.at(5000)), (thief.card, nobody)] {
            thief.member.send(&framed(GATEWAY_CARD, card, &datagram(from, SERVER, b"not me")));
            unbound += 1;
            assert_eq!(way.sent(), [], "{layout:?}");
            assert_eq!(way.drops(), [(DropReason::GatewayNotBound, unbound)], "{layout:?} {card} {from}");
        }
        // Card and address: the hub keeps the card for its owner, and when he is silent the gateway still knows.
        let both = framed(GATEWAY_CARD, a.card, &datagram(a.at(5000), SERVER, b"not me"));
        thief.member.send(&both);
        assert_eq!(way.sent(), []);
        assert_eq!(way.bench.drops(DropReason::HubMacHeld), 1);
        way.run(14_000);
        thief.member.send(&both);
        assert_eq!(way.sent(), []);
        assert_eq!(way.bench.drops(DropReason::GatewayNotBound), unbound + 1, "{layout:?}");
        assert_eq!(thief.packets(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn closed_destinations_are_told() {
    for layout in layouts() {
        let (mut way, mut a) = booted(layout);
        let closed = ["169.254.169.254:80", "127.0.0.1:80", "10.0.0.1:80", "192.168.1.1:443", "8.8.8.8:25"];
        for (n, to) in (1..).zip(closed) {
            let to: SocketAddrV4 = to.parse().unwrap();
            a.send(&Segment { flags: FLAG_SYN, ..Segment::default() }.packet(a.at(5000), to));
            assert_eq!(way.sent(), [], "{to}");
            assert_eq!(way.drops(), [(DropReason::NatPolicy, n)], "{layout:?} {to}");
            let error = a.one_received();
            assert_eq!(error.header[..2], [icmp::UNREACHABLE, icmp::CODE_PROHIBITED]);
            assert_eq!((*error.from.ip(), *error.to.ip()), (GATEWAY, a.address));
        }
    }
}

/// Who is back with his card goes on with what he had, wherever he comes in.
#[test]
fn a_member_goes_on_without_asking() {
    for layout in layouts() {
        for (then, was_ended) in [(0, true), (layout.workers - 1, true), (0, false), (layout.workers - 1, false)] {
            let (mut way, mut a) = booted(layout);
            a.send(&datagram(a.at(5000), SERVER, b"before"));
            let before = way.one_sent().1.from;
            if was_ended {
                way.logout(&a);
                // Until the gateway looks who has gone.
                way.run(200);
                way.arrive(0, &datagram(SERVER, before, b"too late"), Offload::NONE);
                assert_eq!(way.drops(), [(DropReason::NatNoMember, 1)], "{layout:?}");
            } else {
                // His cable was pulled, and the old session does not know it yet. The hub keeps his card for it.
                way.run(14_000);
            }
            let mut back = way.login(1, then);
            back.address = a.address;
            back.send(&datagram(back.at(5000), SERVER, b"after"));
            let (worker, seen) = way.one_sent();
            assert_eq!((worker, seen.from), (layout.nat, before), "{layout:?}: his mapping is still his");
            way.arrive(0, &datagram(SERVER, before, b"welcome back"), Offload::NONE);
            assert_eq!(back.one_received().data, b"welcome back");
            if !was_ended {
                assert_eq!(a.packets(), Vec::<Vec<u8>>::new(), "{layout:?}: nothing goes to where he was");
            }
        }
    }
}

#[test]
fn a_restart_keeps_leases() {
    for layout in layouts() {
        let (way, a) = booted(layout);
        let mut way = way.restart();
        let mut stranger = way.login_as(7, a.card, 0);
        stranger.address = a.address;
        stranger.send(&datagram(stranger.at(5000), SERVER, b"not mine"));
        assert_eq!((way.sent(), way.drops()), (vec![], vec![(DropReason::GatewayNotBound, 1)]));
        way.logout(&stranger);

        let mut back = way.login(1, layout.worker);
        back.address = a.address;
        back.send(&datagram(back.at(5000), SERVER, b"after"));
        let (worker, seen) = way.one_sent();
        assert_eq!((worker, *seen.from.ip()), (layout.nat, EXTERNAL), "{layout:?}");
        way.arrive(0, &datagram(SERVER, seen.from, b"welcome back"), Offload::NONE);
        assert_eq!(back.one_received().data, b"welcome back");
    }
}

/// What was promised but is not on disk is not known after a crash, and nobody was told of it.
#[test]
fn a_crash_before_the_disk_promises_nothing() {
    let mut way = WayOut::new(Setup::new(1));
    let mut a = way.login(1, 0);
    a.say(MessageType::Discover, &[]);
    way.run(10);
    let (_, address) = a.dhcp_replies().remove(0);
    let wanted = [&[code::REQUESTED_ADDRESS, 4], &address.octets()[..], &[code::SERVER_ID, 4], &GATEWAY.octets()];
    a.say(MessageType::Request, &wanted.concat());
    way.run(1_000);
    assert_eq!(a.dhcp_replies(), []);
    let mut way = way.restart();
    let mut back = way.login(1, 0);
    back.address = address;
    back.send(&datagram(back.at(5000), SERVER, b"after"));
    assert_eq!((way.sent(), way.drops()), (vec![], vec![(DropReason::GatewayNotBound, 1)]));
}

/// Without a reservation, members get addresses whose part of the NAT is on their own worker.
#[test]
fn addresses_lie_where_their_members_are() {
    let mut way = WayOut::new(Setup::new(2));
    for number in 1..=8 {
        let worker = usize::from(number % 2);
        let station = way.booted(number, worker);
        assert_eq!(way.nat.owner_of_inside(station.address), worker);
    }
}

#[test]
fn a_defect_costs_one_packet() {
    for layout in layouts() {
        let (mut way, mut a) = booted(layout);
        way.trap.store(true, Relaxed);
        a.send(&datagram(a.at(5000), SERVER, b"lost"));
        assert_eq!(way.sent(), [], "{layout:?}");
        assert_eq!(way.drops(), [(DropReason::RouterDefect, 1)], "the first packet grants a block of ports");
        a.send(&datagram(a.at(5001), SERVER, b"next"));
        assert_eq!(way.one_sent().1.data, b"next", "{layout:?}");

        way.trap.store(true, Relaxed);
        a.send(&datagram(a.at(4000), SocketAddrV4::new(GATEWAY, 53), &dns_question(1, "lost")));
        way.turn();
        assert_eq!(way.drops(), [(DropReason::RouterDefect, 2)]);
        resolves(&mut way, &mut a);
        assert_eq!(way.bench.ended(), [], "and no session");
        assert_eq!(way.bench.closes(CloseReason::Panicked), 0);
    }
}

/// No-operation twice, then a timestamp, as on every segment of today's stacks.
const STAMP: &[u8] = &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
