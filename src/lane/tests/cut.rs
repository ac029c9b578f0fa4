//! Cutting: complete packets that fit, whatever goes in.

use proptest::prelude::*;

use super::super::cut::cut;
use super::{FAR, OURS, PSH, Tcp, datagram, ip, is_sound};
use crate::wire::offload::{L4Checksum, Offload};

fn all(packet: &[u8], offload: Offload, mtu: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let count = cut(&mut packet.to_vec(), offload, mtu, &mut |packet| found.push(packet.to_vec()));
    assert_eq!(count, found.len());
    found
}

fn partial(segment_bytes: u16) -> Offload {
    Offload { checksum: L4Checksum::Partial, segment_bytes }
}

#[test]
fn flags_stand_where_they_belong() {
    let whole = Tcp { flags: 0x10 | PSH | 0x01 | 0x80, payload: vec![3; 2500], ..Tcp::default() };
    let parts = all(&whole.packet(), partial(1000), 1500);
    assert_eq!(parts.iter().map(|part| part[33]).collect::<Vec<_>>(), [0x90, 0x10, 0x10 | PSH | 0x01]);
    assert_eq!(parts.iter().map(|part| part[5]).collect::<Vec<_>>(), [40, 41, 42]);
    assert!(parts.iter().all(|part| is_sound(part)));
}

#[test]
fn what_fits_is_only_finished() {
    let packet = Tcp::default().packet();
    assert_eq!(all(&packet, Offload::NONE, 1500), std::slice::from_ref(&packet));
    let mut unfinished = packet.clone();
    unfinished[36..38].fill(0x11);
    for checksum in [L4Checksum::Partial, L4Checksum::Untrusted] {
        assert_eq!(all(&unfinished, Offload { checksum, segment_bytes: 0 }, 1500), std::slice::from_ref(&packet));
    }
    let echo = ip(OURS, FAR, 1, 0, vec![8, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(all(&echo, partial(0), 1500), std::slice::from_ref(&echo));
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let long = Tcp { payload: vec![0; 1600], ..Tcp::default() }.packet();
    assert_eq!(all(&long, Offload::NONE, 1500).len(), 0);
    assert_eq!(all(&long, partial(0), 1500).len(), 0);
    assert_eq!(all(&long, partial(800), 40).len(), 0, "no room behind the headers");
    let datagrams = datagram((OURS, 1), (FAR, 2), &[0; 3000]);
    assert_eq!(all(&datagrams, partial(1480), 1500).len(), 0, "datagrams keep their size");
    assert_eq!(all(&datagrams, partial(1472), 1500).len(), 3);
    let echo = ip(OURS, FAR, 1, 0, vec![8; 1600]);
    assert_eq!(all(&echo, partial(100), 1500).len(), 0);
}

#[test]
fn a_datagram_without_checksum_bits_says_ffff() {
    // Payload chosen so that the sum is 0xffff, whose complement would mean "no checksum".
    let mut packet = datagram((OURS, 1), (FAR, 2), &[0, 0]);
    let missing = u16::from_be_bytes([packet[26], packet[27]]);
    packet[28..30].copy_from_slice(&missing.to_be_bytes());
    let parts = all(&packet, partial(0), 1500);
    assert_eq!(parts[0][26..28], [0xff, 0xff]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn segments_fit_hold_and_have_all_bytes(
        payload in proptest::collection::vec(any::<u8>(), 1..9000),
        segment_bytes in 1u16..3000,
        mtu in 60usize..2000,
        seq in any::<u32>(),
        is_udp in any::<bool>(),
    ) {
        let packet = if is_udp {
            datagram((OURS, 1), (FAR, 2), &payload)
        } else {
            Tcp { seq, payload: payload.clone(), ..Tcp::default() }.packet()
        };
        let headers = packet.len() - payload.len();
        let parts = all(&packet, partial(segment_bytes), mtu);
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part[headers..].to_vec()).collect();
        if is_udp && headers + usize::from(segment_bytes).min(payload.len()) > mtu {
            prop_assert!(parts.is_empty());
            return Ok(());
        }
        prop_assert_eq!(bytes, payload);
        let mut at = seq;
        for part in &parts {
            prop_assert!(part.len() <= mtu && is_sound(part));
            if !is_udp {
                prop_assert_eq!(u32::from_be_bytes(part[24..28].try_into().unwrap()), at);
                at = at.wrapping_add(u32::try_from(part.len() - headers).unwrap());
            }
        }
    }

    #[test]
    fn any_bytes_can_be_cut(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        protocol in prop_oneof![Just(6u8), Just(17u8), any::<u8>()],
        segment_bytes in 0u16..300,
        mtu in 0usize..250,
        checksum in 0usize..3,
    ) {
        if bytes.len() > 9 {
            bytes[0] = 0x40 | bytes[0] & 0xf;
            bytes[9] = protocol;
        }
        let checksum = [L4Checksum::Complete, L4Checksum::Partial, L4Checksum::Untrusted][checksum];
        for part in all(&bytes, Offload { checksum, segment_bytes }, mtu) {
            prop_assert!(part.len() <= mtu);
        }
    }
}
