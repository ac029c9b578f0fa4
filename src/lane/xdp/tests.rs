//! Lanes of AF_XDP sockets on devices of a network namespace that each test makes; without the right to, a test says so.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::lane::choice::LaneSteer;
use crate::lane::filter::LaneFilter;
use crate::sys::bpf::{self, Base, Program, XdpMode, XdpProgram};
use crate::sys::nic;
use crate::sys::packet::{Options, PacketSocket};
use crate::sys::vnet::VnetHeader;
use crate::sys::xsk::Copying;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::Mac;
use crate::wire::udp;

const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR_CARD: Mac = Mac([2, 0, 0, 0, 7, 7]);

/// Runs `test` where it may make devices.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let run = move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => test(),
        Err(error) => println!("not tested: no network namespace ({error})"),
    };
    thread::spawn(run).join().expect("the test has failed");
}

fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().expect("iproute2").success(), "ip {words}");
}

/// A veth pair with so many queues, up.
fn device(queues: usize) {
    let queues = format!("numtxqueues {queues} numrxqueues {queues}");
    ip(&format!("link add near {queues} type veth peer name far {queues}"));
    for end in ["near", "far"] {
        ip(&format!("link set {end} arp off addrgenmode none"));
    }
    for end in ["far", "near"] {
        ip(&format!("link set {end} up"));
    }
    // The kernel tells of a carrier when it comes to it.
    let devices = Devices::new().unwrap();
    let is_up = |_| {
        thread::sleep(Duration::from_millis(10));
        devices.find("near").unwrap().up
    };
    assert!((0..500).any(is_up), "no carrier");
}

fn lanes(workers: usize) -> Vec<XdpLane> {
    let slices = (0..workers).map(|_| 1..=1).collect();
    let filter = LaneFilter { addresses: vec![OURS], dedicated: true, slices, statics: Vec::new() };
    open(XdpSettings {
        device: "near".into(),
        filter,
        workers,
        generic: false,
        copying: Copying::Auto,
        busy_poll: None,
        tx_checksum: false,
        steer: LaneSteer::Handoff,
        steer_or_fail: false,
        asks_for_host: false,
        remarks: vec!["a remark".into()],
    })
    .expect("lanes")
}

/// A socket at the other end, for everything.
fn far() -> PacketSocket {
    let options = Options { receive_bytes: 1 << 20, send_bytes: 1 << 20, frames: 64, qdisc_bypass: false };
    let far = PacketSocket::open(Devices::new().unwrap().find("far").unwrap().index, options).unwrap();
    let mut all = Program::new();
    all.ret(u32::MAX);
    far.set_filter(&all.classic(Base::Ethernet).unwrap()).unwrap();
    far
}

fn put(far: &mut PacketSocket, frame: &[u8]) {
    let mut frames = Some((VnetHeader::default(), std::iter::once(frame)));
    let (sent, error) = far.send(|| frames.take());
    assert_eq!(sent, 1, "{error:?}");
}

fn question(card: Mac) -> Vec<u8> {
    let question =
        Arp { operation: Operation::Request, sender_mac: FAR_CARD, sender: FAR, target_mac: Mac([0; 6]), target: OURS };
    let mut frame = question.to_frame(Mac::BROADCAST).to_vec();
    frame[..6].copy_from_slice(&card.0);
    frame
}

/// What `lane` receives within a second, copied.
fn received(lane: &mut XdpLane) -> Vec<(Vec<u8>, Offload)> {
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        let count = lane.receive(64).unwrap();
        if count > 0 {
            return (0..count)
                .map(|at| {
                    let (frame, offload) = lane.frame(at).unwrap();
                    (frame.to_vec(), offload)
                })
                .collect();
        }
    }
    Vec::new()
}

fn datagram(card: Mac, payload: &[u8]) -> Vec<u8> {
    let mut room = [0; 1500];
    let packet = udp::datagram((FAR, 7), (OURS, 9), payload, &mut room);
    [&card.0[..], &FAR_CARD.0, &crate::wire::ipv4::ETHERTYPE.to_be_bytes(), packet].concat()
}

#[test]
fn a_worker_without_a_queue_names_who_sends_for_it() {
    in_namespace(|| {
        device(1);
        let lanes = lanes(3);
        assert_eq!(lanes.iter().map(LaneIo::relay).collect::<Vec<_>>(), [None, Some(0), Some(0)]);
        let report = lanes[0].report();
        assert_eq!((report.mode, report.steer, report.queues.len()), ("xdp", "handoff", 1));
        assert!(!report.queues[0].zero_copy && report.queues[0].why_copy.is_some());
        assert_eq!(report.remarks, ["a remark"]);
        assert_eq!((lanes[1].report().queues, lanes[1].report().remarks), (Vec::new(), Vec::new()));
    });
}

#[test]
fn queues_are_dealt_out_and_arp_comes_to_the_first_worker_from_each() {
    in_namespace(|| {
        device(2);
        let mut lanes = lanes(2);
        assert!(lanes.iter().all(|lane| lane.queues().len() == 1 && lane.relay().is_none() && lane.link().up));
        let card = lanes[0].link().mac;
        // As if the second worker had received it: which queue a frame comes by is the sender's choice.
        lanes[1].crew.put_arp(&question(card));
        let seen = received(&mut lanes[0]);
        assert_eq!(seen.len(), 1);
        assert!(seen[0].0.starts_with(&question(card)));
        assert_eq!(received_now(&mut lanes[0]), 0, "once");
    });
}

fn received_now(lane: &mut XdpLane) -> usize {
    lane.receive(64).unwrap()
}

#[test]
fn frames_pass_both_ways_and_a_begun_checksum_is_seen() {
    in_namespace(|| {
        device(1);
        let (mut lane, mut far) = (lanes(1).pop().unwrap(), far());
        let card = lane.link().mac;
        let whole = datagram(card, b"hello");
        let mut begun = whole.clone();
        let place = L4Place::of(&begun[HEADER_BYTES..]).unwrap();
        place.begin_checksum(&mut begun[HEADER_BYTES..], 8 + 5);
        let mut wrong = whole.clone();
        wrong[HEADER_BYTES + 26] ^= 0x55;
        let priority = [&whole[..12], &[0x81, 0, 0xe0, 0], &whole[12..]].concat();
        let partial = Offload { checksum: L4Checksum::Partial, segment_bytes: 0 };
        for (frame, want, offload) in [
            (&whole, &whole, Offload::NONE),
            (&begun, &begun, partial),
            (&wrong, &wrong, Offload::NONE),
            (&priority, &whole, Offload::NONE),
        ] {
            put(&mut far, frame);
            let seen = received(&mut lane);
            assert_eq!(seen.len(), 1);
            assert_eq!((&seen[0].0[..want.len()], seen[0].1), (&want[..], offload));
        }
    });
}

#[test]
fn another_number_of_queues_is_taken_up() {
    in_namespace(|| {
        device(2);
        let mut lanes = lanes(2);
        let before = lanes[0].link().generation;
        // The device goes and comes back with one queue: everybody gives back, then one opens for all.
        ip("link del near");
        device(1);
        for _ in 0..20 {
            lanes.iter_mut().for_each(|lane| {
                lane.look();
            });
        }
        assert_eq!(lanes.iter().map(|lane| lane.queues().len()).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(lanes[1].relay(), Some(0));
        assert!(lanes[0].link().up && lanes[0].link().generation != before);
        let (card, mut far) = (lanes[0].link().mac, far());
        put(&mut far, &datagram(card, b"again"));
        assert_eq!(received(&mut lanes[0]).len(), 1);
    });
}

#[test]
fn another_card_address_reaches_the_program() {
    in_namespace(|| {
        device(1);
        let (mut lanes, mut far) = (lanes(1), far());
        let (card, generation) = (Mac([2, 0, 0, 0, 0, 0x99]), lanes[0].link().generation);
        ip(&format!("link set near address {card}"));
        lanes[0].look();
        assert_eq!((lanes[0].link().mac, lanes[0].link().generation), (card, generation));
        put(&mut far, &datagram(card, b"to the other card"));
        assert_eq!(received(&mut lanes[0]).len(), 1);
    });
}

#[test]
fn somebody_elses_program_is_named() {
    in_namespace(|| {
        device(1);
        let first = lanes(1);
        let settings = first[0].crew.settings().clone();
        let refused = open(settings).unwrap_err().to_string();
        assert!(refused.contains("has an XDP program already") && refused.contains("id "), "{refused}");
    });
}

fn looks(lanes: &mut [XdpLane]) {
    for _ in 0..5 {
        lanes.iter_mut().for_each(|lane| {
            lane.look();
        });
    }
}

fn index() -> u32 {
    Devices::new().unwrap().find("near").unwrap().index
}

#[test]
fn the_program_learns_another_address_of_the_card() {
    in_namespace(|| {
        device(1);
        let (mut lanes, mut far) = (lanes(1), far());
        ip("link set near address 02:00:00:00:00:99");
        looks(&mut lanes);
        let card = lanes[0].link().mac;
        assert_eq!((card, lanes[0].link().generation), (Mac([2, 0, 0, 0, 0, 0x99]), 1));
        put(&mut far, &datagram(card, b"hello"));
        assert_eq!(received(&mut lanes[0]).len(), 1);
    });
}

/// As when a device goes to another namespace and comes back between two looks.
#[test]
fn another_device_with_the_same_number_is_found_out() {
    in_namespace(|| {
        device(1);
        let mut lanes = lanes(1);
        let words = format!("index {} type veth peer name far", index());
        ip("link del near");
        ip(&format!("link add near {words}"));
        for end in ["far", "near"] {
            ip(&format!("link set {end} arp off addrgenmode none up"));
        }
        while !Devices::new().unwrap().find("near").unwrap().up {
            thread::sleep(Duration::from_millis(10));
        }
        looks(&mut lanes);
        assert!(lanes[0].link().up && lanes[0].link().generation == 2);
        let (card, mut far) = (lanes[0].link().mac, far());
        put(&mut far, &datagram(card, b"again"));
        assert_eq!(received(&mut lanes[0]).len(), 1);
    });
}

/// Putting a program on resets many cards: the host's connections would not survive ten times a second.
#[test]
fn a_lane_that_finds_no_queue_free_leaves_the_program_where_it_is() {
    in_namespace(|| {
        device(1);
        let mut lanes = lanes(1);
        ip("link del near");
        device(1);
        let first = lanes[0].crew.options(Devices::new().unwrap().find("near").unwrap(), 0);
        let other = Xsk::open(&first).unwrap();
        looks(&mut lanes);
        let program = lanes[0].crew.link_id();
        assert!(!lanes[0].link().up && program.is_some());
        // Not told at once: a killed process leaves queues behind for a moment.
        (0..10).for_each(|_| looks(&mut lanes));
        assert_eq!(lanes[0].crew.link_id(), program);
        assert_eq!(lanes[0].report().remarks.iter().filter(|text| text.contains("queue 0")).count(), 1);
        drop(other);
        let end = Instant::now() + Duration::from_secs(2);
        while !lanes[0].link().up && Instant::now() < end {
            looks(&mut lanes);
        }
        assert!(lanes[0].link().up && lanes[0].crew.link_id() == program);
        assert_eq!(lanes[0].report().remarks, ["a remark"]);
    });
}

#[test]
fn without_the_program_the_link_is_down() {
    in_namespace(|| {
        device(1);
        let mut lanes = lanes(1);
        assert!(bpf::detach(nic::facts("near").unwrap().attached.unwrap().id).unwrap());
        let program = XdpProgram::load().unwrap();
        let theirs = program.attach(index(), XdpMode::Native).unwrap();
        looks(&mut lanes);
        assert!(!lanes[0].link().up);
        assert!(lanes[0].report().remarks[1].contains("has an XDP program already"));
        drop(theirs);
        looks(&mut lanes);
        assert!(lanes[0].link().up);
    });
}
