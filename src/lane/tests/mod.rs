//! Tests of the lane without a kernel, and what they build packets with.

use std::net::Ipv4Addr;

use crate::wire::checksum::Sum;
use crate::wire::ipv4::Ipv4;
use crate::wire::{ipv4, tcp, udp};

mod cut;
mod filter;
mod lane;
mod merge;

pub(super) const PSH: u8 = 0x08;
pub(super) const OURS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// A segment as it comes from a member.
#[derive(Clone, Debug)]
pub(super) struct Tcp {
    pub(super) src_port: u16,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) options: Vec<u8>,
    pub(super) id: u16,
    pub(super) payload: Vec<u8>,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            src_port: 61_000,
            seq: 1000,
            ack: 7,
            flags: tcp::FLAG_ACK,
            window: 500,
            // No-operation twice, then a timestamp.
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            id: 40,
            payload: vec![0x5a; 1000],
        }
    }
}

impl Tcp {
    pub(super) fn packet(&self) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(self.src_port.to_be_bytes());
        l4.extend(443u16.to_be_bytes());
        l4.extend(self.seq.to_be_bytes());
        l4.extend(self.ack.to_be_bytes());
        l4.extend([u8::try_from((20 + self.options.len()) / 4 * 16).unwrap(), self.flags]);
        l4.extend(self.window.to_be_bytes());
        l4.extend([0; 4]);
        l4.extend(&self.options);
        l4.extend(&self.payload);
        ip(OURS, FAR, tcp::PROTOCOL, self.id, with_checksum(OURS, FAR, tcp::PROTOCOL, l4, 16))
    }
}

pub(super) fn datagram(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(src.1.to_be_bytes());
    l4.extend(dst.1.to_be_bytes());
    l4.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    l4.extend([0; 2]);
    l4.extend(payload);
    ip(src.0, dst.0, udp::PROTOCOL, 0, with_checksum(src.0, dst.0, udp::PROTOCOL, l4, 6))
}

fn with_checksum(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, mut l4: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = Sum::pseudo(src, dst, protocol, u16::try_from(l4.len()).unwrap()).bytes(&l4);
    l4[at..at + 2].copy_from_slice(&sum.finish().to_be_bytes());
    l4
}

/// A packet with don't-fragment set.
pub(super) fn ip(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, id: u16, payload: Vec<u8>) -> Vec<u8> {
    let mut packet = ipv4::header(src, dst, protocol, 64, u16::try_from(payload.len()).unwrap()).to_vec();
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet.extend(payload);
    fix_header(&mut packet);
    packet
}

/// The checksum of the IP header anew.
pub(super) fn fix_header(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let checksum = Sum::ZERO.bytes(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether header, lengths and the checksum of TCP or UDP hold.
pub(super) fn is_sound(packet: &[u8]) -> bool {
    let ip = Ipv4::new_checked(packet).unwrap();
    let l4 = ip.payload();
    let sum = Sum::pseudo(ip.src(), ip.dst(), ip.protocol(), u16::try_from(l4.len()).unwrap()).bytes(l4);
    ip.header_is_intact() && ip.total_bytes() == packet.len() && sum.finish() == 0
}
