//! ICMP messages (RFC 792, RFC 1812 §4.3).
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::checksum::Sum;
use super::ipv4;

/// Protocol number.
pub const PROTOCOL: u8 = 1;
/// Type, code, checksum and the four bytes whose meaning depends on the type.
pub const HEADER_BYTES: usize = 8;

/// Answer to [`ECHO`].
pub const ECHO_REPLY: u8 = 0;
/// Destination Unreachable.
pub const UNREACHABLE: u8 = 3;
/// Source Quench, deprecated by RFC 6633.
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo request.
pub const ECHO: u8 = 8;
/// Time Exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter Problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Timestamp request.
pub const TIMESTAMP: u8 = 13;
/// Answer to [`TIMESTAMP`].
pub const TIMESTAMP_REPLY: u8 = 14;

/// Code of [`UNREACHABLE`]: host.
pub const CODE_HOST: u8 = 1;
/// Code of [`UNREACHABLE`]: port.
pub const CODE_PORT: u8 = 3;
/// Code of [`UNREACHABLE`]: too long for the next link and not to be fragmented (RFC 1191).
pub const CODE_TOO_BIG: u8 = 4;
/// Code of [`UNREACHABLE`]: administratively prohibited.
pub const CODE_PROHIBITED: u8 = 13;

/// Whether messages of this type quote the packet they are about.
#[inline]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// The identifier of a query or reply; `None` if `message` ends before.
#[inline]
pub fn identifier(message: &[u8]) -> Option<u16> {
    message.get(4..6).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

/// Whether the checksum over all of `message` is right.
pub fn is_intact(message: &[u8]) -> bool {
    message.len() >= HEADER_BYTES && Sum::ZERO.bytes(message).finish() == 0
}

/// Computes the checksum of `message` anew. A message shorter than its header stays as it is.
pub fn finish(message: &mut [u8]) {
    if message.len() < HEADER_BYTES {
        return;
    }
    message[2..4].fill(0);
    let checksum = Sum::ZERO.bytes(message).finish();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

/// Writes an error about the packet `about` into `out`, as a whole packet, and returns its length. It quotes as much as
/// 576 bytes hold (RFC 1812 §4.3.2.3). `rest` are the last four bytes of the header.
pub fn error(
    (src, dst): (Ipv4Addr, Ipv4Addr),
    (kind, code): (u8, u8),
    rest: u32,
    about: &[u8],
    out: &mut [u8; ERROR_BYTES_MAX],
) -> usize {
    let quoted = about.len().min(ERROR_BYTES_MAX - ipv4::HEADER_BYTES_MIN - HEADER_BYTES);
    let message_bytes = HEADER_BYTES + quoted;
    let length = u16::try_from(message_bytes).unwrap_or(u16::MAX);
    out[..ipv4::HEADER_BYTES_MIN].copy_from_slice(&ipv4::header(src, dst, PROTOCOL, ERROR_TTL, length));
    let message = &mut out[ipv4::HEADER_BYTES_MIN..ipv4::HEADER_BYTES_MIN + message_bytes];
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..8].copy_from_slice(&rest.to_be_bytes());
    message[8..].copy_from_slice(&about[..quoted]);
    finish(message);
    ipv4::HEADER_BYTES_MIN + message_bytes
}

/// Longest error we make.
pub const ERROR_BYTES_MAX: usize = 576;
const ERROR_TTL: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv4::Ipv4;

    #[test]
    fn errors_quote_what_fits() {
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        for (about, len) in [(28, 56), (548, 576), (1500, 576)] {
            let about: Vec<u8> = (0..about).map(|n: u32| (n & 0xff) as u8).collect();
            let mut out = [0; ERROR_BYTES_MAX];
            assert_eq!(error((src, dst), (UNREACHABLE, CODE_TOO_BIG), 1400, &about, &mut out), len);
            let packet = Ipv4::new_checked(&out[..len]).unwrap();
            assert_eq!((packet.src(), packet.dst(), packet.protocol()), (src, dst, PROTOCOL));
            assert!(packet.header_is_intact() && is_intact(packet.payload()));
            assert_eq!(packet.payload()[..2], [UNREACHABLE, CODE_TOO_BIG]);
            assert_eq!(packet.payload()[4..8], [0, 0, 5, 120]);
            assert_eq!(packet.payload()[8..], about[..len - 28]);
        }
    }

    #[test]
    fn short_messages() {
        let mut short = [8, 0, 1, 2, 3, 4, 5];
        finish(&mut short);
        assert_eq!(short, [8, 0, 1, 2, 3, 4, 5]);
        assert!(!is_intact(&short));
        assert_eq!((identifier(&short), identifier(&short[..5])), (Some(0x0304), None));
    }
}
