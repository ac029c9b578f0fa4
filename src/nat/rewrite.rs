//! Changing a packet in place: one address, one port, time to live, checksums.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::plan::Proto;
use crate::wire::checksum::{self, Sum};
use crate::wire::offload::{L4Checksum, Offload};
use crate::wire::{tcp, udp};

/// Which end of a packet changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Destination,
}

impl Side {
    const fn address_at(self) -> usize {
        match self {
            Self::Source => 12,
            Self::Destination => 16,
        }
    }

    const fn port_at(self) -> usize {
        match self {
            Self::Source => 0,
            Self::Destination => 2,
        }
    }
}

/// What a packet gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) side: Side,
    pub(super) proto: Proto,
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
    /// Of datagrams that are, or may become, fragments: unique among all that leave from our address (RFC 6864 §5.3).
    pub(super) identification: Option<u16>,
}

/// Applies `change` to a whole packet whose payload begins at `l4` and is as long as its protocol's header at least.
#[inline]
pub(super) fn translate(packet: &mut [u8], l4: usize, change: &Change, offload: &mut Offload) {
    let (ip, payload) = packet.split_at_mut(l4);
    let addresses = header(ip, change, true);
    match change.proto {
        Proto::Icmp => icmp_identifier(payload, change.port),
        Proto::Tcp => ports(payload, change, addresses, tcp::CHECKSUM_AT, offload),
        Proto::Udp => ports(payload, change, addresses, udp::CHECKSUM_AT, offload),
    }
    if offload.checksum == L4Checksum::Untrusted {
        anew(packet, l4, change.proto, offload);
    }
}

/// Changes address, identification and, of packets that travel on, time to live; keeps the header's checksum right
/// whatever it was. Returns what the change adds to a sum over the addresses.
#[inline]
pub(super) fn header(ip: &mut [u8], change: &Change, travels: bool) -> Sum {
    let at = change.side.address_at();
    let addresses = Sum::ZERO.without_address(address(ip, at)).address(change.address);
    ip[at..at + 4].copy_from_slice(&change.address.octets());
    let mut sum = addresses;
    if travels {
        let old = word(ip, 8);
        ip[8] = ip[8].saturating_sub(1);
        sum = sum.without(old).word(word(ip, 8));
    }
    if let Some(identification) = change.identification {
        sum = sum.without(word(ip, 4)).word(identification);
        ip[4..6].copy_from_slice(&identification.to_be_bytes());
    }
    let field = checksum::update(word(ip, 10), sum);
    ip[10..12].copy_from_slice(&field.to_be_bytes());
    addresses
}

/// One hop of a packet that keeps its addresses.
pub(super) fn hop(packet: &mut [u8]) {
    let old = word(packet, 8);
    packet[8] = packet[8].saturating_sub(1);
    let field = checksum::update(word(packet, 10), Sum::ZERO.without(old).word(word(packet, 8)));
    packet[10..12].copy_from_slice(&field.to_be_bytes());
}

#[inline]
fn ports(l4: &mut [u8], change: &Change, addresses: Sum, checksum_at: usize, offload: &Offload) {
    let at = change.side.port_at();
    let old = word(l4, at);
    l4[at..at + 2].copy_from_slice(&change.port.to_be_bytes());
    let field = word(l4, checksum_at);
    let field = match offload.checksum {
        // UDP without a checksum stays without.
        L4Checksum::Complete if change.proto == Proto::Udp && field == 0 => 0,
        L4Checksum::Complete => {
            let sum = addresses.without(old).word(change.port);
            never_none(checksum::update(field, sum), change.proto)
        }
        // The pseudo-header has addresses, no ports.
        L4Checksum::Partial => checksum::update_partial(field, addresses),
        L4Checksum::Untrusted => field,
    };
    l4[checksum_at..checksum_at + 2].copy_from_slice(&field.to_be_bytes());
}

#[inline]
fn icmp_identifier(message: &mut [u8], identifier: u16) {
    let sum = Sum::ZERO.without(word(message, 4)).word(identifier);
    let field = checksum::update(word(message, 2), sum);
    message[2..4].copy_from_slice(&field.to_be_bytes());
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
}

/// Computes the checksum from all bytes; of what is yet to be cut, only the part that all segments share.
fn anew(packet: &mut [u8], l4: usize, proto: Proto, offload: &mut Offload) {
    let checksum_at = match proto {
        Proto::Tcp => tcp::CHECKSUM_AT,
        Proto::Udp => udp::CHECKSUM_AT,
        Proto::Icmp => {
            offload.checksum = L4Checksum::Complete;
            return;
        }
    };
    let bytes = covered(&packet[l4..], proto);
    let length = u16::try_from(bytes).unwrap_or(u16::MAX);
    let pseudo = Sum::pseudo(address(packet, 12), address(packet, 16), proto.number(), length);
    let payload = &mut packet[l4..];
    if proto == Proto::Udp && word(payload, checksum_at) == 0 {
        offload.checksum = L4Checksum::Complete;
        return;
    }
    let field = if offload.segment_bytes > 0 {
        offload.checksum = L4Checksum::Partial;
        pseudo.partial()
    } else {
        offload.checksum = L4Checksum::Complete;
        payload[checksum_at..checksum_at + 2].fill(0);
        never_none(pseudo.bytes(&payload[..bytes]).finish(), proto)
    };
    payload[checksum_at..checksum_at + 2].copy_from_slice(&field.to_be_bytes());
}

/// Completes an unfinished checksum: fragments of a datagram can no longer have theirs computed on the way.
pub(super) fn finish(packet: &mut [u8], l4: usize, proto: Proto, offload: &mut Offload) {
    if offload.checksum == L4Checksum::Partial && offload.segment_bytes == 0 {
        offload.checksum = L4Checksum::Untrusted;
        anew(packet, l4, proto, offload);
    }
}

/// Bytes of the payload that the checksum covers: UDP has a length of its own.
fn covered(l4: &[u8], proto: Proto) -> usize {
    match proto {
        Proto::Udp => {
            let said = usize::from(word(l4, 4));
            if (udp::HEADER_BYTES..=l4.len()).contains(&said) { said } else { l4.len() }
        }
        _ => l4.len(),
    }
}

/// A checksum of 0 would mean that UDP has none; 0xffff is the same number (RFC 768).
#[inline]
fn never_none(field: u16, proto: Proto) -> u16 {
    if field == 0 && proto == Proto::Udp { 0xffff } else { field }
}

/// In an ICMP error, the packet it is about: changes what stands there as it was on the other side of the NAT. Of the
/// payload any number of bytes may be missing; its checksum is carried on, not looked at (RFC 5508 REQ-3 c).
pub(super) fn quoted(about: &mut [u8], l4: usize, change: &Change) {
    let (ip, payload) = about.split_at_mut(l4);
    let addresses = header(ip, change, false);
    let (port_at, checksum_at, covered) = match change.proto {
        Proto::Tcp => (change.side.port_at(), tcp::CHECKSUM_AT, addresses),
        Proto::Udp => (change.side.port_at(), udp::CHECKSUM_AT, addresses),
        Proto::Icmp => (4, 2, Sum::ZERO),
    };
    let Some(port) = payload.get_mut(port_at..port_at + 2) else { return };
    let old = u16::from_be_bytes([port[0], port[1]]);
    port.copy_from_slice(&change.port.to_be_bytes());
    let Some(field) = payload.get_mut(checksum_at..checksum_at + 2) else { return };
    let value = u16::from_be_bytes([field[0], field[1]]);
    if change.proto == Proto::Udp && value == 0 {
        return;
    }
    let value = checksum::update(value, covered.without(old).word(change.port));
    field.copy_from_slice(&never_none(value, change.proto).to_be_bytes());
}

/// The 16 bits at `at`, which are there.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The address at `at`, which is there.
#[inline]
pub(super) fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}
