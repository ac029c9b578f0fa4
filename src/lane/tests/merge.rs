//! Merging: what may be merged, what may not, and that nothing is lost by it.

use proptest::prelude::*;

use super::super::cut::cut;
use super::super::merge::{BurstFull, MESSAGES_MAX, PACKET_BYTES_MAX, TxBurst};
use super::super::packet::header_of;
use super::{FAR, OURS, PSH, Tcp, datagram, fix_header, is_sound};
use crate::sys::vnet::Segments;
use crate::wire::offload::{L4Checksum, Offload};
use crate::wire::super_frame::SuperFrame;
use crate::wire::tcp;

const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
const ETHERNET_V6: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];

/// Messages of a burst: packet, what is left to do, how many were merged.
fn sealed(burst: &mut TxBurst) -> Vec<(Vec<u8>, Offload, u16)> {
    burst.seal();
    let message = |at| {
        let message = burst.message(at).unwrap();
        let frame: Vec<u8> = message.pieces().flatten().copied().collect();
        assert_eq!((frame.len(), &frame[..12]), (message.frame_bytes(), &ETHERNET[..12]));
        (frame[14..].to_vec(), message.offload(), message.parts())
    };
    (0..burst.len()).map(message).collect()
}

fn burst_of(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, Offload, u16)> {
    let mut burst = TxBurst::new(1 << 20, true);
    for packet in packets {
        burst.push(&ETHERNET, packet, Offload::NONE).unwrap();
    }
    sealed(&mut burst)
}

/// `count` segments that follow each other.
fn stream(first: &Tcp, count: u32) -> Vec<Tcp> {
    let bytes = u32::try_from(first.payload.len()).unwrap();
    let segment = |n: u32| Tcp {
        seq: first.seq.wrapping_add(n * bytes),
        id: first.id.wrapping_add(u16::try_from(n).unwrap()),
        payload: (0..bytes).map(|at| (at * 7 + n).to_le_bytes()[0]).collect(),
        ..first.clone()
    };
    (0..count).map(segment).collect()
}

#[test]
fn segments_in_order_become_one() {
    let mut segments = stream(&Tcp::default(), 10);
    segments[9].payload.truncate(300);
    segments[9].flags |= PSH;
    let packets: Vec<_> = segments.iter().map(Tcp::packet).collect();
    let messages = burst_of(&packets);
    let [(packet, offload, parts)] = messages.as_slice() else { panic!("{} messages", messages.len()) };
    assert_eq!(*offload, Offload { checksum: L4Checksum::Partial, segment_bytes: 1000 });
    assert_eq!((*parts, packet.len(), packet[33] & PSH), (10, 52 + 9300, PSH));
    let mut cut_again = Vec::new();
    assert_eq!(cut(&mut packet.clone(), *offload, 1500, &mut |packet| cut_again.push(packet.to_vec())), 10);
    assert_eq!(cut_again, packets);
}

/// Segments of TCP over IPv6, of so many bytes of payload.
fn over_v6(payloads: &[u32]) -> Vec<Vec<u8>> {
    let mut seq = 7_000_u32;
    let packet = |payload: &u32| {
        let bytes = *payload as usize;
        let mut packet = vec![0x60, 0, 0, 9, 0, 0, tcp::PROTOCOL, 64];
        packet[4..6].copy_from_slice(&u16::try_from(20 + bytes).unwrap().to_be_bytes());
        packet.extend((0..32).map(|at| at * 5));
        packet.extend([0x12, 0x34, 0, 80]);
        packet.extend(seq.to_be_bytes());
        packet.extend([0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        packet.extend((0..*payload).map(|at| (at * 3 + seq).to_le_bytes()[0]));
        seq += payload;
        finish_v6(&mut packet);
        packet
    };
    payloads.iter().map(packet).collect()
}

/// Its checksum anew.
fn finish_v6(packet: &mut [u8]) {
    packet[56..58].fill(0);
    let sum = super::super::merge::pseudo(packet, tcp::PROTOCOL, packet.len() - 40).bytes(&packet[40..]).finish();
    packet[56..58].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn segments_over_ipv6_become_one_and_the_same_again() {
    let packets = over_v6(&[1_300, 1_300, 1_300, 1_300, 700]);
    let mut burst = TxBurst::new(1 << 20, true);
    packets.iter().for_each(|packet| burst.push(&ETHERNET_V6, packet, Offload::NONE).unwrap());
    burst.seal();
    assert_eq!(burst.len(), 1);
    let message = burst.message(0).unwrap();
    let frame: Vec<u8> = message.pieces().flatten().copied().collect();
    let header = header_of(&message);
    assert_eq!((header.segments, header.needs_checksum, header.segment_bytes), (Segments::Tcp6, true, 1_300));
    assert_eq!((header.checksum_start, header.checksum_offset, header.header_bytes), (54, 16, 74));
    let mut cut_again = Vec::new();
    SuperFrame::new_checked(&frame, 1_300).unwrap().cut(&mut |frame| cut_again.push(frame[14..].to_vec()));
    assert_eq!(cut_again, packets);
}

#[test]
fn what_differs_is_not_merged_over_ipv6() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 10] = [
        ("flow label", |p| p[3] ^= 1),
        ("hop limit", |p| p[7] ^= 1),
        ("source", |p| p[8] ^= 1),
        ("end of the destination", |p| p[39] ^= 1),
        // By words they are turned by 9 bits and mixed: a bit of the first is undone by one of the second.
        ("addresses that mix to the same", |p| {
            p[15] ^= 0x01;
            p[22] ^= 0x02;
        }),
        ("a fragment", |p| p[6] = 44),
        ("a length that is another", |p| p[5] ^= 1),
        ("port", |p| p[41] ^= 1),
        ("a gap", |p| p[46] ^= 1),
        ("FIN", |p| p[53] |= 1),
    ];
    for (name, change) in changes {
        let mut packets = over_v6(&[1_300, 1_300]);
        change(&mut packets[1]);
        finish_v6(&mut packets[1]);
        let mut burst = TxBurst::new(1 << 20, true);
        packets.iter().for_each(|packet| burst.push(&ETHERNET_V6, packet, Offload::NONE).unwrap());
        let messages = sealed(&mut burst);
        assert_eq!((messages.len(), &messages[1].0), (2, &packets[1]), "{name}");
    }
    for wrong in 0..2 {
        let mut packets = over_v6(&[1_300, 1_300]);
        packets[wrong][100] ^= 1;
        let mut burst = TxBurst::new(1 << 20, true);
        packets.iter().for_each(|packet| burst.push(&ETHERNET_V6, packet, Offload::NONE).unwrap());
        assert_eq!(sealed(&mut burst).into_iter().map(|(packet, ..)| packet).collect::<Vec<_>>(), packets);
    }
}

#[test]
fn connections_that_take_turns_do_not_disturb_each_other() {
    let streams: Vec<_> = (0..5).map(|n| stream(&Tcp { src_port: 61_000 + n, ..Tcp::default() }, 12)).collect();
    let packets: Vec<_> = (0..12).flat_map(|at| streams.iter().map(move |s| s[at].packet())).collect();
    let messages = burst_of(&packets);
    assert_eq!(messages.iter().map(|(_, _, parts)| *parts).collect::<Vec<_>>(), [12; 5]);
}

#[test]
fn what_differs_is_not_merged() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 14] = [
        ("service", |p| p[1] = 0x10),
        ("may fragment", |p| p[6] = 0),
        ("time to live", |p| p[8] = 63),
        ("options of IP", |p| p[0] = 0x46),
        ("source", |p| p[15] ^= 1),
        ("port", |p| p[21] ^= 1),
        ("a gap", |p| p[26] ^= 1),
        ("acknowledges more", |p| p[31] ^= 1),
        ("SYN", |p| p[33] |= 0x02),
        ("FIN", |p| p[33] |= 0x01),
        ("RST", |p| p[33] |= 0x04),
        ("URG", |p| p[33] |= 0x20),
        ("window", |p| p[35] ^= 1),
        ("timestamp", |p| p[47] ^= 1),
    ];
    let segments = stream(&Tcp::default(), 2);
    assert_eq!(burst_of(&[segments[0].packet(), segments[1].packet()]).len(), 1);
    for (name, change) in changes {
        let mut second = segments[1].packet();
        change(&mut second);
        // Its own checksum is not what keeps it apart.
        second[36..38].fill(0);
        let l4 = second.len() - 20;
        let sum = super::super::merge::pseudo(&second, 6, l4).bytes(&second[20..]).finish();
        second[36..38].copy_from_slice(&sum.to_be_bytes());
        fix_header(&mut second);
        let messages = burst_of(&[segments[0].packet(), second.clone()]);
        assert_eq!((messages.len(), &messages[1].0), (2, &second), "{name}");
    }
}

#[test]
fn a_checksum_that_is_wrong_stays_wrong() {
    let packets: Vec<_> = stream(&Tcp::default(), 3).iter().map(Tcp::packet).collect();
    for wrong in 0..3 {
        let mut packets = packets.clone();
        packets[wrong][60] ^= 1;
        let messages = burst_of(&packets);
        assert_eq!(messages.len(), [2, 3, 2][wrong], "{wrong}");
        let found = messages.iter().find(|(packet, ..)| *packet == packets[wrong]);
        assert_eq!(found.map(|(_, offload, _)| *offload), Some(Offload::NONE), "{wrong}");
    }
}

#[test]
fn push_and_short_segments_end_a_packet() {
    let mut segments = stream(&Tcp::default(), 4);
    segments[1].flags |= PSH;
    let messages = burst_of(&segments.iter().map(Tcp::packet).collect::<Vec<_>>());
    assert_eq!(messages.iter().map(|(_, _, parts)| *parts).collect::<Vec<_>>(), [2, 2]);
    let mut segments = stream(&Tcp::default(), 3);
    segments[1].payload.pop();
    segments[2].seq -= 1;
    let messages = burst_of(&segments.iter().map(Tcp::packet).collect::<Vec<_>>());
    assert_eq!(messages.iter().map(|(_, _, parts)| *parts).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn no_packet_grows_beyond_its_length_field() {
    let packets: Vec<_> =
        stream(&Tcp { payload: vec![0; 1448], ..Tcp::default() }, 100).iter().map(Tcp::packet).collect();
    let messages = burst_of(&packets);
    assert_eq!(messages.iter().map(|(_, _, parts)| *parts).collect::<Vec<_>>(), [45, 45, 10]);
    assert!(messages.iter().all(|(packet, ..)| packet.len() <= PACKET_BYTES_MAX));
}

/// As they come from a virtual device.
#[test]
fn super_packets_go_on_in_each_other() {
    let partial = Offload { checksum: L4Checksum::Partial, segment_bytes: 1000 };
    let (mut first, mut second) = (Tcp::default(), Tcp::default());
    (first.payload, second.payload) = (vec![1; 5000], vec![2; 3400]);
    second.seq += 5000;
    for (bytes, parts) in [(1000, vec![2]), (999, vec![1, 1])] {
        let mut burst = TxBurst::new(1 << 20, true);
        burst.push(&ETHERNET, &first.packet(), partial).unwrap();
        let other = Offload { segment_bytes: bytes, ..partial };
        burst.push(&ETHERNET, &second.packet(), other).unwrap();
        let messages = sealed(&mut burst);
        assert_eq!(messages.iter().map(|(_, _, parts)| *parts).collect::<Vec<_>>(), parts, "{bytes}");
    }
}

#[test]
fn unknown_checksums_are_left_to_the_device() {
    let packet = Tcp::default().packet();
    let mut garbage = packet.clone();
    garbage[36..38].fill(0xee);
    let mut burst = TxBurst::new(1 << 20, true);
    let unknown = Offload { checksum: L4Checksum::Untrusted, segment_bytes: 0 };
    burst.push(&ETHERNET, &garbage, unknown).unwrap();
    let [(mut sent, offload, _)] = sealed(&mut burst).try_into().unwrap();
    assert_eq!(offload, Offload { checksum: L4Checksum::Partial, segment_bytes: 0 });
    cut(&mut sent, offload, 1500, &mut |packet| garbage = packet.to_vec());
    assert_eq!(garbage, packet);
}

#[test]
fn a_full_burst_says_so_and_takes_nothing() {
    let mut burst = TxBurst::new(0, true);
    let large = datagram((OURS, 1), (FAR, 2), &[0; 40_000]);
    burst.push(&ETHERNET, &large, Offload::NONE).unwrap();
    assert_eq!(burst.push(&ETHERNET, &large, Offload::NONE), Err(BurstFull));
    assert_eq!(burst.len(), 1);
    burst.clear();
    let mut taken = 0;
    while burst.push_frame(&[0; 14]).is_ok() {
        taken += 1;
    }
    assert_eq!((taken, burst.is_half_full()), (MESSAGES_MAX, true));
    burst.clear();
    assert!(burst.is_empty() && !burst.is_half_full());
    assert_eq!(burst.push(&ETHERNET, &large, Offload::NONE), Ok(()));
}

/// A step of a random stream: which connection, payload, and what is odd about it.
#[derive(Clone, Copy, Debug)]
struct Step {
    flow: u16,
    bytes: usize,
    odd: u8,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![5 => Just(1000usize), 1 => 0usize..1400, 1 => Just(300usize)];
    let step = (0u16..4, bytes, 0u8..24).prop_map(|(flow, bytes, odd)| Step { flow, bytes, odd });
    proptest::collection::vec(step, 1..120)
}

/// Packets of the steps; each connection counts on its own.
fn packets_of(steps: &[Step]) -> Vec<Vec<u8>> {
    let mut flows: Vec<Tcp> = (0..4).map(|n| Tcp { src_port: 61_000 + n, ..Tcp::default() }).collect();
    let packet = |(n, step): (usize, &Step)| {
        let flow = &mut flows[usize::from(step.flow)];
        flow.payload = (0..step.bytes).map(|at| (at * 3 + n).to_le_bytes()[0]).collect();
        flow.flags = tcp::FLAG_ACK;
        match step.odd {
            0 => flow.flags |= PSH,
            1 => flow.flags |= 0x01,
            2 => flow.seq = flow.seq.wrapping_add(77),
            3 => flow.ack += 1,
            4 => flow.seq = u32::MAX - 500,
            _ => {}
        }
        let mut packet = flow.packet();
        if step.odd == 5 {
            *packet.last_mut().unwrap() ^= 0x40;
        }
        if step.odd == 6 {
            packet = datagram((OURS, flow.src_port), (FAR, 443), &flow.payload);
        } else {
            flow.seq = flow.seq.wrapping_add(u32::try_from(step.bytes).unwrap());
        }
        flow.id = flow.id.wrapping_add(1);
        packet
    };
    steps.iter().enumerate().map(packet).collect()
}

/// By connection and protocol, in order; without the identification, which counts for nothing where nobody may
/// fragment (RFC 6864).
fn by_flow(packets: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let mut flows = vec![Vec::new(); 8];
    for packet in packets {
        let mut packet = packet.clone();
        packet[4..6].fill(0);
        fix_header(&mut packet);
        let flow = usize::from(u16::from_be_bytes([packet[20], packet[21]]) - 61_000);
        flows[flow + if packet[9] == 6 { 0 } else { 4 }].push(packet);
    }
    flows
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The same segments with the same bytes in the same order, wrong checksums included.
    #[test]
    fn merged_and_cut_again_is_what_it_was(steps in steps()) {
        let packets = packets_of(&steps);
        let mut after = Vec::new();
        let mut expected_parts = 0;
        for (mut packet, offload, parts) in burst_of(&packets) {
            expected_parts += usize::from(parts);
            let count = cut(&mut packet, offload, 1500, &mut |packet| after.push(packet.to_vec()));
            prop_assert_eq!(count, usize::from(parts));
        }
        prop_assert_eq!(expected_parts, packets.len());
        prop_assert_eq!(by_flow(&after), by_flow(&packets));
        let wrong = packets.iter().filter(|packet| !is_sound(packet)).count();
        prop_assert_eq!(after.iter().filter(|packet| !is_sound(packet)).count(), wrong);
    }

    /// Whatever comes, nothing panics, and no byte is lost but by merging.
    #[test]
    fn any_bytes_can_be_pushed(
        steps in steps(),
        changes in proptest::collection::vec((any::<u16>(), 0usize..60, any::<u8>(), 0u8..3, 0u16..2000), 1..60),
    ) {
        let mut packets = packets_of(&steps);
        let mut offloads = vec![Offload::NONE; packets.len()];
        for (which, at, value, checksum, segment_bytes) in changes {
            let which = usize::from(which) % packets.len();
            let packet = &mut packets[which];
            if value == 0 {
                packet.truncate(at);
            } else if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
            let checksum = [L4Checksum::Complete, L4Checksum::Partial, L4Checksum::Untrusted][usize::from(checksum)];
            offloads[which] = Offload { checksum, segment_bytes: segment_bytes.saturating_sub(1000) };
        }
        let mut burst = TxBurst::new(1 << 20, true);
        for (packet, offload) in packets.iter().zip(&offloads) {
            burst.push(&ETHERNET, packet, *offload).unwrap();
        }
        let messages = sealed(&mut burst);
        prop_assert_eq!(messages.iter().map(|(_, _, parts)| usize::from(*parts)).sum::<usize>(), packets.len());
        for (mut packet, offload, _) in messages {
            for mtu in [0, 60, 576, 1500, 65_535] {
                cut(&mut packet, offload, mtu, &mut |packet| assert!(packet.len() <= mtu));
            }
        }
    }
}
