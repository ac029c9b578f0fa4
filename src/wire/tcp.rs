//! TCP headers (RFC 9293).
#![forbid(unsafe_code)]

/// Protocol number.
pub const PROTOCOL: u8 = 6;
/// Synchronise: opens a connection.
pub const FLAG_SYN: u8 = 0x02;
/// The acknowledgement number counts.
pub const FLAG_ACK: u8 = 0x10;

/// The eight flags; `None` if `segment` ends before.
#[inline]
pub fn flags(segment: &[u8]) -> Option<u8> {
    segment.get(13).copied()
}
