//! A lane on a device in memory.

use std::sync::Arc;

use super::super::mem::{MemLane, MemWire, wire};
use super::super::outlet::Outlet;
use super::super::uplink::{Claim, Ownership, Shared, UplinkSettings};
use super::super::{Lane, Link, PacketSink, Received};
use super::{FAR, OURS, Tcp, datagram, is_sound};
use crate::tick::Tick;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::Mac;
use crate::wire::ipv4::Ipv4;
use crate::wire::offload::{L4Checksum, Offload};

const CARD: Mac = Mac([2, 0, 0, 0, 0, 7]);
const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HOP: std::net::Ipv4Addr = std::net::Ipv4Addr::new(203, 0, 113, 1);

fn settings(ownership: Ownership) -> UplinkSettings {
    UplinkSettings { addresses: vec![OURS], ownership, network: (OURS, 24), next_hop: Some(HOP), ask_from: OURS }
}

fn at(ms: u64) -> Tick {
    Tick::from_ms(1000 + ms)
}

/// A lane that shares the host's address, and the test's end of its device.
fn lane() -> (Lane<MemLane>, MemWire) {
    let (io, device) = wire(CARD, 1500);
    let settings = settings(Ownership::Shared);
    let shared = Arc::new(Shared::new(&settings));
    (Lane::new(io, settings, shared, 0, 1, at(0)), device)
}

fn answer() -> Vec<u8> {
    let arp = Arp { operation: Operation::Reply, sender_mac: ROUTER, sender: HOP, target_mac: CARD, target: OURS };
    arp.to_frame(CARD).to_vec()
}

fn nothing(lane: &mut Lane<MemLane>, now: Tick) {
    lane.receive(64, now, &mut |_: &mut Outlet, packet: &mut [u8], _: Offload| {
        panic!("a packet of {} bytes", packet.len())
    });
}

/// The lane knows its router.
fn resolve(lane: &mut Lane<MemLane>, device: &MemWire, now: Tick) {
    lane.push(&datagram((OURS, 61_001), (FAR, 53), b"first"), Offload::NONE, now);
    lane.flush(now);
    device.put(&answer(), Offload::NONE);
    nothing(lane, now);
    lane.flush(now);
    assert_eq!(device.take().len(), 2);
}

#[test]
fn asks_for_the_next_hop_then_sends() {
    let (mut lane, device) = lane();
    let packets: Vec<_> = (1..=3).map(|n| datagram((OURS, 61_000 + n), (FAR, 53), b"question")).collect();
    for packet in &packets {
        lane.push(packet, Offload::NONE, at(0));
    }
    lane.flush(at(0));
    let [(question, _)] = device.take().try_into().unwrap();
    let question = Arp::parse(&question[14..]).unwrap();
    assert_eq!((question.sender, question.target, question.sender_mac), (OURS, HOP, CARD));
    assert!(lane.poll(at(1)).next <= at(10), "it looks soon whether somebody else got the answer");
    device.put(&answer(), Offload::NONE);
    nothing(&mut lane, at(2));
    lane.flush(at(2));
    let sent = device.take();
    assert_eq!(sent.iter().map(|(frame, _)| frame[14..].to_vec()).collect::<Vec<_>>(), packets);
    assert!(sent.iter().all(|(frame, _)| frame[..6] == ROUTER.0 && frame[6..12] == CARD.0));
    assert_eq!((lane.stats().sent, lane.stats().arp_asked), (4, 1));
}

#[test]
fn few_packets_wait_and_not_for_ever() {
    let (mut lane, device) = lane();
    let packet = datagram((OURS, 61_001), (FAR, 53), b"question");
    for _ in 0..70 {
        lane.push(&packet, Offload::NONE, at(0));
    }
    assert_eq!(lane.stats().drop_tx_waiting_full, 6);
    for ms in (0..2990).step_by(10) {
        lane.poll(at(ms));
    }
    let questions = device.take().len();
    assert_eq!((questions, lane.stats().drop_tx_no_neighbour), (3, 0), "one a second");
    lane.poll(at(3000));
    assert_eq!(lane.stats().drop_tx_no_neighbour, 64);
    lane.push(&packet, Offload::NONE, at(3001));
    assert_eq!(lane.stats().drop_tx_waiting_full, 6, "there is room again");
    // Super-packets are few, whatever their number may be.
    for _ in 0..5 {
        let mut large = Tcp { payload: vec![0; 65_000], ..Tcp::default() }.packet();
        large[36..38].fill(0);
        lane.push(&large, Offload { checksum: L4Checksum::Partial, segment_bytes: 1448 }, at(3001));
    }
    assert_eq!(lane.stats().drop_tx_waiting_full, 7);
}

#[test]
fn a_link_that_is_down_takes_nothing_and_comes_back() {
    let (mut lane, device) = lane();
    resolve(&mut lane, &device, at(0));
    let up = lane.link();
    let packet = datagram((OURS, 61_001), (FAR, 53), b"x");
    device.set_link(Link { up: false, ..up });
    lane.push(&packet, Offload::NONE, at(10));
    lane.flush(at(10));
    assert_eq!((lane.stats().drop_tx_down, device.take().len()), (1, 0));
    assert!(!lane.poll(at(10)).fd_changed && !lane.link().up);
    lane.push(&packet, Offload::NONE, at(20));
    assert_eq!(lane.stats().drop_tx_down, 2);
    // Another device of the same name, with another card.
    let other = Link { mac: Mac([2, 0, 0, 0, 0, 9]), generation: up.generation + 1, ..up };
    device.set_link(other);
    assert!(lane.poll(at(200)).fd_changed);
    assert_eq!((lane.link(), lane.stats().link_downs), (other, 1));
    lane.push(&packet, Offload::NONE, at(210));
    lane.flush(at(210));
    let [(question, _)] = device.take().try_into().unwrap();
    assert_eq!(Arp::parse(&question[14..]).unwrap().sender_mac, other.mac, "neighbours are asked anew");
}

#[test]
fn what_the_device_does_not_take_is_counted() {
    let (mut lane, device) = lane();
    resolve(&mut lane, &device, at(0));
    device.set_room(3);
    for n in 0..10 {
        lane.push(&datagram((OURS, 61_001), (FAR, 53), &[n]), Offload::NONE, at(1));
    }
    lane.flush(at(1));
    assert_eq!((device.take().len(), lane.stats().drop_tx_full), (3, 7));
    device.set_room(usize::MAX);
    lane.flush(at(1));
    assert_eq!(device.take().len(), 0, "dropped is dropped");
}

#[test]
fn only_what_fits_is_sent() {
    let (mut lane, device) = lane();
    resolve(&mut lane, &device, at(0));
    let sized = |payload| datagram((OURS, 61_001), (FAR, 53), &vec![0; payload]);
    lane.push(&sized(1472), Offload::NONE, at(1));
    lane.push(&sized(1473), Offload::NONE, at(1));
    let segments = |segment_bytes| Offload { checksum: L4Checksum::Partial, segment_bytes };
    let large = Tcp { payload: vec![0; 30_000], ..Tcp::default() }.packet();
    lane.push(&large, segments(1448), at(1));
    lane.push(&large, segments(1449), at(1));
    assert_eq!(lane.stats().drop_tx_too_long, 2);
    let mut lying = sized(100);
    lying.push(0);
    lane.push(&lying, Offload::NONE, at(1));
    lane.push(&[0x45, 0, 0], Offload::NONE, at(1));
    assert_eq!(lane.stats().drop_tx_malformed, 2);
    lane.flush(at(1));
    assert_eq!(device.take().len(), 2);
    lane.set_next_hop(None);
    lane.push(&sized(1), Offload::NONE, at(1));
    assert_eq!(lane.stats().drop_tx_no_route, 1);
}

#[test]
fn received_packets_are_as_long_as_they_say() {
    let (mut lane, device) = lane();
    let packet = datagram((FAR, 53), (OURS, 61_001), b"short");
    let framed = |packet: &[u8]| [&CARD.0[..], &ROUTER.0, &[8, 0], packet].concat();
    device.put(&framed(&[&packet[..], &[0; 20]].concat()), Offload::NONE);
    device.put(&framed(&packet[..30]), Offload::NONE);
    device.put(&[0; 13], Offload::NONE);
    device.put(&[&[0; 12][..], &[0x86, 0xdd, 0x60]].concat(), Offload::NONE);
    let mut seen = Vec::new();
    let received = lane.receive(64, at(0), &mut |_: &mut Outlet, packet: &mut [u8], offload: Offload| {
        seen.push((packet.to_vec(), offload))
    });
    assert_eq!((received, seen), (Received { frames: 4, more: false }, vec![(packet, Offload::NONE)]));
    assert_eq!((lane.stats().drop_rx_malformed, lane.stats().drop_rx_foreign), (2, 1));
}

/// What is announced is what comes, in dozens, each before its first packet.
#[test]
fn packets_are_announced_before_they_come() {
    #[derive(Default)]
    struct Notes {
        announced: Vec<Vec<u8>>,
        came: usize,
    }
    impl PacketSink for Notes {
        fn announce<'p>(&mut self, packets: impl Iterator<Item = &'p [u8]>) {
            assert_eq!(self.announced.len(), self.came, "all of the last batch have come");
            self.announced.extend(packets.map(<[u8]>::to_vec));
        }

        fn packet(&mut self, _: &mut Outlet, packet: &mut [u8], _: Offload) {
            assert_eq!(self.announced[self.came], packet);
            self.came += 1;
        }
    }
    let (mut lane, device) = lane();
    for n in 0..100 {
        let packet = datagram((FAR, 53), (OURS, 61_001), &[n; 30]);
        device.put(&[&CARD.0[..], &ROUTER.0, &[8, 0], &packet].concat(), Offload::NONE);
    }
    let mut notes = Notes::default();
    assert_eq!(lane.receive(128, at(0), &mut notes), Received { frames: 100, more: false });
    assert_eq!((notes.came, notes.announced.len()), (100, 100));
}

/// Merged by a card that also verified them: what stands in the field is the checksum of the first.
#[test]
fn checksums_of_super_packets_are_always_unfinished() {
    let (mut lane, device) = lane();
    let packet = Tcp { payload: vec![1; 5000], ..Tcp::default() }.packet();
    let frame = [&CARD.0[..], &ROUTER.0, &[8, 0], &packet].concat();
    device.put(&frame, Offload { checksum: L4Checksum::Complete, segment_bytes: 1000 });
    let mut cut = Vec::new();
    lane.receive(64, at(0), &mut |_: &mut Outlet, packet: &mut [u8], offload: Offload| {
        assert_eq!(offload, Offload { checksum: L4Checksum::Partial, segment_bytes: 1000 });
        super::super::cut::cut(packet, offload, 1500, &mut |packet| cut.push(packet.to_vec()));
    });
    assert_eq!((cut.len(), cut.iter().all(|packet| is_sound(packet))), (5, true));
}

#[test]
fn more_waits_until_it_was_asked_for() {
    let (mut lane, device) = lane();
    let packet = datagram((FAR, 53), (OURS, 61_001), b"x");
    let frame = [&CARD.0[..], &ROUTER.0, &[8, 0], &packet].concat();
    for _ in 0..10 {
        device.put(&frame, Offload::NONE);
    }
    for (frames, more) in [(8, true), (2, false), (0, false)] {
        assert_eq!(
            lane.receive(8, at(0), &mut |_: &mut Outlet, _: &mut [u8], _: Offload| {}),
            Received { frames, more }
        );
    }
}

/// What answers at once goes by the outlet, also more than a burst holds.
#[test]
fn answers_leave_while_receiving() {
    let (mut lane, device) = lane();
    resolve(&mut lane, &device, at(0));
    let packet = datagram((FAR, 53), (OURS, 61_001), &[0; 1400]);
    let frame = [&CARD.0[..], &ROUTER.0, &[8, 0], &packet].concat();
    for _ in 0..1000 {
        device.put(&frame, Offload::NONE);
    }
    lane.receive(2000, at(1), &mut |out: &mut Outlet, packet: &mut [u8], _: Offload| {
        let ip = Ipv4::new_checked(packet).unwrap();
        out.push(&datagram((ip.dst(), 61_001), (ip.src(), 53), &[0; 1400]), Offload::NONE, at(1));
    });
    lane.flush(at(1));
    assert_eq!((device.take().len(), lane.stats().drop_tx_full), (1000, 0));
}

#[test]
fn an_address_is_used_once_it_is_ours() {
    let (io, device) = wire(CARD, 1500);
    let settings = settings(Ownership::Dedicated { probe: true });
    let shared = Arc::new(Shared::new(&settings));
    let mut lane = Lane::new(io, settings, Arc::clone(&shared), 0, 1, at(0));
    let packet = datagram((OURS, 61_001), (FAR, 53), b"x");
    lane.push(&packet, Offload::NONE, at(0));
    assert_eq!(lane.stats().drop_tx_unclaimed, 1);
    let mut now = at(0);
    while shared.claims.of(OURS) == Some(Claim::Probing) {
        now = lane.poll(now).next;
        assert!(now < at(8000));
    }
    assert!(now > at(4000));
    assert!(device.take().len() >= 4);
    lane.push(&packet, Offload::NONE, now);
    assert_eq!(lane.stats().drop_tx_unclaimed, 1);

    // Somebody else turns up with it.
    let theirs = Arp { operation: Operation::Request, sender_mac: ROUTER, sender: OURS, target_mac: CARD, target: HOP };
    device.put(&theirs.to_frame(Mac::BROADCAST), Offload::NONE);
    nothing(&mut lane, now);
    let conflict = lane.take_conflict().unwrap();
    assert_eq!((conflict.address, conflict.mac, conflict.lost), (OURS, ROUTER, false));
    assert_eq!((lane.take_conflict(), lane.stats().conflicts), (None, 1));
}

/// The second worker asks itself; the first hears the answer.
#[test]
fn workers_share_what_they_know_of_next_hops() {
    let settings = settings(Ownership::Shared);
    let shared = Arc::new(Shared::new(&settings));
    let (first_io, first_device) = wire(CARD, 1500);
    let (second_io, second_device) = wire(CARD, 1500);
    let mut first = Lane::new(first_io, settings.clone(), Arc::clone(&shared), 0, 1, at(0));
    let mut second = Lane::new(second_io, settings, shared, 1, 1, at(0));
    second.push(&datagram((OURS, 62_001), (FAR, 53), b"x"), Offload::NONE, at(0));
    second.poll(at(0));
    assert_eq!(second_device.take().len(), 1);
    first_device.put(&answer(), Offload::NONE);
    nothing(&mut first, at(1));
    second.poll(at(5));
    let [(sent, _)] = second_device.take().try_into().unwrap();
    assert_eq!((&sent[..6], &sent[12..14]), (&ROUTER.0[..], &[8, 0][..]));
}
