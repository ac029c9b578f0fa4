//! UDP headers (RFC 768).
#![forbid(unsafe_code)]

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
