//! Which flow does a frame belong to? Frames of one flow travel over one connection of a session,
//! so that their order is kept.
//!
//! The hash covers both MAC addresses, the EtherType, both IP addresses, the protocol and the ports.
//! Fragments have ports only in the first of them, so the ports of no fragment count; nor do ports
//! behind IPv6 extension headers, which a walk would have to look for. The two directions of a flow
//! hash differently on purpose: nothing asks for symmetry.
//!
//! Not keyed: who aims all his flows at one connection slows down only himself.
#![forbid(unsafe_code)]

use super::ethernet::HEADER_BYTES;
use super::ipv4::{self, Ipv4};
use super::ipv6::{self, Ipv6};
use super::{tcp, udp, vlan};

/// The hash of the flow of `frame`; any bytes have one.
#[inline]
pub fn flow_hash(frame: &[u8]) -> u32 {
    let Some((addresses, _)) = frame.split_at_checked(12) else { return mix_all(0, frame).fold() };
    let (ethertype, packet) = behind_tags(frame);
    let hash = mix_all(u64::from(ethertype), addresses);
    match ethertype {
        ipv4::ETHERTYPE => match Ipv4::new_checked(packet) {
            Some(ip) => {
                let hash = mix_all(hash.0, ip.addresses());
                let ports = if ip.is_fragment() { 0 } else { ports(ip.protocol(), ip.payload()) };
                hash.mix(u64::from(ip.protocol()) << 32 | ports).fold()
            }
            None => hash.fold(),
        },
        ipv6::ETHERTYPE => match Ipv6::new_checked(packet) {
            Some(ip) => {
                let hash = mix_all(hash.0, ip.addresses());
                hash.mix(ports(ip.next_header(), ip.payload())).fold()
            }
            None => hash.fold(),
        },
        _ => hash.fold(),
    }
}

/// EtherType behind at most two tags, and what follows it.
#[inline]
fn behind_tags(frame: &[u8]) -> (u16, &[u8]) {
    let mut start = HEADER_BYTES;
    for _ in 0..3 {
        let Some(&[high, low]) = frame.get(start - 2..start) else { return (0, &[]) };
        let ethertype = u16::from_be_bytes([high, low]);
        if !vlan::is_tag(ethertype) {
            return (ethertype, &frame[start..]);
        }
        start += vlan::TAG_BYTES;
    }
    (0, &[])
}

#[inline]
fn ports(protocol: u8, payload: &[u8]) -> u64 {
    match (protocol, payload) {
        (tcp::PROTOCOL | udp::PROTOCOL, [a, b, c, d, ..]) => u64::from(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => 0,
    }
}

/// A hash in the making: one multiplication per eight bytes, its two halves folded together.
#[derive(Clone, Copy)]
struct Mix(u64);

impl Mix {
    #[inline]
    fn mix(self, word: u64) -> Self {
        let product = u128::from(self.0 ^ word ^ SALT) * u128::from(MULTIPLIER ^ word.rotate_left(32));
        Self((product >> 64) as u64 ^ (product & 0xffff_ffff_ffff_ffff) as u64)
    }

    #[inline]
    fn fold(self) -> u32 {
        ((self.0 ^ (self.0 >> 32)) & 0xffff_ffff) as u32
    }
}

#[inline]
fn mix_all(seed: u64, bytes: &[u8]) -> Mix {
    let mut hash = Mix(seed);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = hash.mix(u64::from_le_bytes(word));
    }
    hash
}

/// Odd constants without pattern, from the digits of e and of the golden ratio.
const SALT: u64 = 0xadf8_5458_a2bb_4a9a;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(fragment: u16, src_port: u16, dst_port: u16, data: u8) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        bytes.extend([0x45, data, 0, 40, 0, data, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes[20..22].copy_from_slice(&fragment.to_be_bytes());
        bytes.extend(src_port.to_be_bytes());
        bytes.extend(dst_port.to_be_bytes());
        bytes.extend([0, 20, data, data, data]);
        bytes
    }

    #[test]
    fn what_counts() {
        let base = flow_hash(&frame(0, 1000, 53, 1));
        assert_eq!(base, flow_hash(&frame(0, 1000, 53, 2)), "payload, TOS and identification do not");
        assert_eq!(base, flow_hash(&frame(0x4000, 1000, 53, 1)), "don't-fragment does not");
        assert_ne!(base, flow_hash(&frame(0, 1001, 53, 1)), "ports do");
        assert_ne!(base, flow_hash(&frame(0, 53, 1000, 1)), "direction does");
        for fragment in [0x2000, 0x2001, 0x0001] {
            let hash = flow_hash(&frame(fragment, 1000, 53, 1));
            assert_eq!(hash, flow_hash(&frame(0x2000, 7, 8, 1)), "ports of fragments do not");
        }
        let mut other = frame(0, 1000, 53, 1);
        other[33] = 9;
        assert_ne!(base, flow_hash(&other), "addresses do");
    }

    #[test]
    fn tags_do_not_count() {
        let plain = frame(0, 1, 2, 3);
        let mut tagged = plain.clone();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(flow_hash(&plain), flow_hash(&tagged));
    }

    #[test]
    fn ports_of_ipv6() {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
        bytes.extend([0u8; 44]);
        bytes[14] = 0x60;
        bytes[20] = 6;
        let base = flow_hash(&bytes);
        bytes[57] = 1;
        assert_ne!(base, flow_hash(&bytes), "of TCP");
        bytes[20] = 44;
        let fragment = flow_hash(&bytes);
        bytes[57] = 2;
        assert_eq!(fragment, flow_hash(&bytes), "not of fragments");
    }

    #[test]
    fn neighbouring_flows_spread() {
        for connections in [2usize, 8, 32] {
            let mut load = vec![0usize; connections];
            for port in 0..4096u16 {
                load[flow_hash(&frame(0, 30_000 + port, 443, 0)) as usize % connections] += 1;
            }
            let mean = 4096 / connections;
            assert!(load.iter().all(|n| n.abs_diff(mean) < mean / 2), "{load:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_one(bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0usize..5) {
            let _ = flow_hash(&bytes);
            let mut bytes = bytes;
            if bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [0, 0]][kind]);
                let _ = flow_hash(&bytes);
            }
        }
    }
}
