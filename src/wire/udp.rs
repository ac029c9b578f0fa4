//! UDP headers (RFC 768).
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::checksum::Sum;
use super::ipv4;

/// Protocol number.
pub const PROTOCOL: u8 = 17;
/// Length of the header.
pub const HEADER_BYTES: usize = 8;
/// Where the checksum stands; 0 there means none.
pub const CHECKSUM_AT: usize = 6;

/// Source and destination port, also of TCP and SCTP, which have them in the same place; `None` if
/// `segment` ends before.
#[inline]
pub fn l4_ports(segment: &[u8]) -> Option<(u16, u16)> {
    match segment {
        [a, b, c, d, ..] => Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))),
        _ => None,
    }
}

/// A packet with `payload` from `src` to `dst`, written to the beginning of `room`, checksums included.
///
/// # Panics
/// If `room` is too short for it.
pub fn datagram<'r>(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), payload: &[u8], room: &'r mut [u8]) -> &'r mut [u8] {
    let l4_bytes = u16::try_from(HEADER_BYTES + payload.len()).expect("a datagram fits a packet");
    let (ip, rest) = room.split_at_mut(ipv4::HEADER_BYTES_MIN);
    ip.copy_from_slice(&ipv4::header(src.0, dst.0, PROTOCOL, TTL, l4_bytes));
    rest[..2].copy_from_slice(&src.1.to_be_bytes());
    rest[2..4].copy_from_slice(&dst.1.to_be_bytes());
    rest[4..6].copy_from_slice(&l4_bytes.to_be_bytes());
    rest[6..8].fill(0);
    rest[HEADER_BYTES..usize::from(l4_bytes)].copy_from_slice(payload);
    let sum = Sum::pseudo(src.0, dst.0, PROTOCOL, l4_bytes).bytes(&rest[..usize::from(l4_bytes)]);
    // Zero would say that there is none.
    let checksum = if sum.finish() == 0 { 0xffff } else { sum.finish() };
    rest[6..8].copy_from_slice(&checksum.to_be_bytes());
    &mut room[..ipv4::HEADER_BYTES_MIN + usize::from(l4_bytes)]
}

/// Recommended by RFC 1700 and more than any path has.
const TTL: u8 = 64;
