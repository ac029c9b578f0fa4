//! Packets on their way through a lane allocate nothing: merged, cut, waiting for ARP or dropped.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use allocation_counter::measure;
use hublane::lane::cut::cut;
use hublane::lane::merge::TxBurst;
use hublane::lane::outlet::Outlet;
use hublane::lane::report::LaneReport;
use hublane::lane::uplink::{Ownership, Shared, UplinkSettings};
use hublane::lane::{Lane, LaneIo, Link, SendFault};
use hublane::tick::Tick;
use hublane::wire::arp::{Arp, Operation};
use hublane::wire::checksum::Sum;
use hublane::wire::ethernet::Mac;
use hublane::wire::ipv4;
use hublane::wire::offload::{L4Checksum, Offload};

const OURS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const CARD: Mac = Mac([2, 0, 0, 0, 0, 7]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// A device that always has the same frame, and takes all but every third message.
struct Mill {
    frame: Vec<u8>,
    offload: Offload,
    sent: usize,
}

impl LaneIo for Mill {
    fn report(&self) -> LaneReport {
        LaneReport::default()
    }

    fn link(&self) -> Link {
        Link { up: true, mac: CARD, mtu: 1500, generation: 1 }
    }

    fn look(&mut self) -> bool {
        false
    }

    fn receive(&mut self, frames_max: usize) -> io::Result<usize> {
        Ok(frames_max)
    }

    fn peek(&self, _index: usize) -> Option<&[u8]> {
        Some(&self.frame)
    }

    fn frame(&mut self, _index: usize) -> Option<(&mut [u8], Offload)> {
        Some((&mut self.frame, self.offload))
    }

    fn send(&mut self, burst: &TxBurst, from: usize) -> (usize, Option<SendFault>) {
        let message = burst.message(from).unwrap();
        self.sent += message.pieces().map(<[u8]>::len).sum::<usize>();
        if from % 3 == 2 { (0, Some(SendFault::Congested)) } else { (1, None) }
    }

    fn takes_super_packets(&self) -> bool {
        true
    }

    fn overflowed(&mut self) -> u64 {
        0
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn segment(src: Ipv4Addr, dst: Ipv4Addr, seq: u32, payload: usize) -> Vec<u8> {
    let mut l4 = vec![0xf0, 0x01, 0, 80, 0, 0, 0, 0, 0, 0, 0, 7, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
    l4[4..8].copy_from_slice(&seq.to_be_bytes());
    l4.resize(20 + payload, 0x33);
    let length = u16::try_from(l4.len()).unwrap();
    let checksum = Sum::pseudo(src, dst, 6, length).bytes(&l4).finish();
    l4[16..18].copy_from_slice(&checksum.to_be_bytes());
    [&ipv4::header(src, dst, 6, 64, length)[..], &l4].concat()
}

#[test]
fn nothing_is_allocated_for_packets() {
    let settings = UplinkSettings {
        addresses: vec![OURS],
        ownership: Ownership::Dedicated { probe: false },
        network: (OURS, 24),
        next_hop: None,
        ask_from: OURS,
    };
    let shared = Arc::new(Shared::new(&settings));
    let answer = Arp { operation: Operation::Reply, sender_mac: THEIRS, sender: FAR, target_mac: CARD, target: OURS };
    let io = Mill { frame: answer.to_frame(CARD).to_vec(), offload: Offload::NONE, sent: 0 };
    let now = Tick::from_ms(1000);
    let mut lane = Lane::new(io, settings, shared, 0, 1, now);
    let outgoing: Vec<_> = (0..200).map(|n| segment(OURS, FAR, 1448 * n, 1448)).collect();
    let incoming = [&CARD.0[..], &THEIRS.0, &[8, 0], &segment(FAR, OURS, 5, 40_000)].concat();

    let waiting = measure(|| {
        outgoing.iter().for_each(|packet| lane.push(packet, Offload::NONE, now));
        lane.poll(now);
        lane.receive(1, now, &mut |_: &mut Outlet, _: &mut [u8], _: Offload| unreachable!("it is ARP"));
        lane.flush(now);
    });
    assert_eq!((waiting.count_total, lane.stats().drop_tx_waiting_full), (0, 136));

    lane.io().frame = incoming;
    lane.io().offload = Offload { checksum: L4Checksum::Partial, segment_bytes: 1448 };
    let (mut packets, mut scratch) = (0, vec![0; 65_535]);
    let moving = measure(|| {
        for _ in 0..20 {
            outgoing.iter().for_each(|packet| lane.push(packet, Offload::NONE, now));
            lane.receive(16, now, &mut |out: &mut Outlet, packet: &mut [u8], offload: Offload| {
                out.push(packet, offload, now);
                let copy = &mut scratch[..packet.len()];
                copy.copy_from_slice(packet);
                packets += cut(copy, offload, 1500, &mut |_| {});
            });
            lane.flush(now);
            lane.poll(now);
        }
    });
    assert_eq!(moving.count_total, 0);
    assert_eq!(packets, 20 * 16 * 28);
    let stats = *lane.stats();
    assert!(stats.merged > 3000 && stats.drop_tx_full > 0 && stats.sent_super > 50, "{stats:?}");
    assert!(lane.io().sent > 200 * 1448 * 10);
}
