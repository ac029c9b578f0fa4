//! Frames as the card would get them.

use std::net::Ipv4Addr;

use super::{CARD, FAR, NEIGHBOUR, OURS};
use crate::wire::ethernet::Mac;

/// `body` as a frame from the neighbour.
pub(super) fn frame(dst: Mac, ethertype: u16, body: &[u8]) -> Vec<u8> {
    [&dst.0[..], &NEIGHBOUR.0, &ethertype.to_be_bytes(), body].concat()
}

/// A packet in a frame to the card.
pub(super) fn to_card(packet: &[u8]) -> Vec<u8> {
    frame(CARD, 0x0800, packet)
}

/// The same frame with one more tag in front.
pub(super) fn tagged(frame: &[u8], ethertype: u16, control: u16) -> Vec<u8> {
    [&frame[..12], &ethertype.to_be_bytes(), &control.to_be_bytes(), &frame[12..]].concat()
}

pub(super) fn ip(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    // Identification, don't fragment, TTL.
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// The beginning of TCP and UDP, and some data.
pub(super) fn ports(src: u16, dst: u16) -> Vec<u8> {
    [&src.to_be_bytes()[..], &dst.to_be_bytes(), &[0; 24]].concat()
}

pub(super) fn tcp(dst: Ipv4Addr, port: u16) -> Vec<u8> {
    ip(FAR, dst, 6, &ports(443, port))
}

pub(super) fn udp(dst: Ipv4Addr, port: u16) -> Vec<u8> {
    ip(FAR, dst, 17, &ports(53, port))
}

pub(super) fn icmp(dst: Ipv4Addr, kind: u8, identifier: u16) -> Vec<u8> {
    ip(FAR, dst, 1, &query(kind, identifier))
}

pub(super) fn query(kind: u8, identifier: u16) -> Vec<u8> {
    [&[kind, 0, 0, 0][..], &identifier.to_be_bytes(), &[0, 1]].concat()
}

/// An error to us about `sent`.
pub(super) fn error(kind: u8, sent: &[u8]) -> Vec<u8> {
    ip(FAR, OURS, 1, &[&[kind, 1, 0, 0, 0, 0, 0, 0][..], sent].concat())
}

/// With eight bytes of options in the IP header.
pub(super) fn with_options(packet: &[u8]) -> Vec<u8> {
    let mut longer = [&packet[..20], &[1; 7], &[0], &packet[20..]].concat();
    longer[0] = 0x47;
    longer
}

/// With these flags and offset.
pub(super) fn fragment(mut packet: Vec<u8>, bits: u16) -> Vec<u8> {
    packet[6..8].copy_from_slice(&bits.to_be_bytes());
    packet
}

pub(super) fn arp(operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    body.extend(NEIGHBOUR.0);
    body.extend(sender.octets());
    body.extend([0; 6]);
    body.extend(target.octets());
    body
}
