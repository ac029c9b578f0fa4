//! What the gateway says by ICMP (RFC 792): the echo, and "no such port".
//!
//! Neither is ever said to a broadcast, a multicast or a fragment that is not the first (RFC 1122 §3.2.2): the caller
//! brings only whole packets to the gateway's own address in frames to its own card.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use crate::wire::checksum::Sum;
use crate::wire::ipv4::{self, HEADER_BYTES_MIN, Ipv4};

use super::datagram::{MTU, TTL};

/// Protocol number.
pub(super) const PROTOCOL: u8 = 1;

/// A packet of ours in the making.
pub(super) type Packet = [u8; MTU];

/// Whether `packet` is an echo request; `None` if its checksum is wrong or it has no ICMP header.
pub(super) fn is_echo_request(packet: Ipv4<'_>) -> Option<bool> {
    let message = packet.whole()?.get(packet.header_bytes()..)?;
    if message.len() < HEADER_BYTES || Sum::ZERO.bytes(message).finish() != 0 {
        return None;
    }
    Some(message[..2] == [ECHO_REQUEST, 0])
}

/// The reply to the echo request in `packet`; `None` if it is longer than the MTU.
pub(super) fn echo_reply<'a>(packet: Ipv4<'_>, out: &'a mut Packet) -> Option<&'a [u8]> {
    let message = packet.whole()?.get(packet.header_bytes()..)?;
    finish(packet.dst(), packet.src(), [ECHO_REPLY, 0], message.get(4..)?, out)
}

/// The error that says that nobody listens at the port `packet` is for: with its header and 8 bytes more, by which its
/// sender knows it again.
pub(super) fn port_unreachable<'a>(packet: Ipv4<'_>, out: &'a mut Packet) -> Option<&'a [u8]> {
    let whole = packet.whole()?;
    let quoted = &whole[..whole.len().min(packet.header_bytes() + QUOTED_BYTES)];
    let mut rest = [0; 4 + 60 + QUOTED_BYTES];
    rest.get_mut(4..4 + quoted.len())?.copy_from_slice(quoted);
    finish(packet.dst(), packet.src(), [UNREACHABLE, PORT_UNREACHABLE], &rest[..4 + quoted.len()], out)
}

/// `rest` is everything behind the checksum.
fn finish<'a>(src: Ipv4Addr, dst: Ipv4Addr, kind: [u8; 2], rest: &[u8], out: &'a mut Packet) -> Option<&'a [u8]> {
    let bytes = 4 + rest.len();
    out[..HEADER_BYTES_MIN].copy_from_slice(&ipv4::header(src, dst, PROTOCOL, TTL, u16::try_from(bytes).ok()?));
    let message = out.get_mut(HEADER_BYTES_MIN..HEADER_BYTES_MIN + bytes)?;
    message[..2].copy_from_slice(&kind);
    message[2..4].fill(0);
    message[4..].copy_from_slice(rest);
    let checksum = Sum::ZERO.bytes(message).finish();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(&out[..HEADER_BYTES_MIN + bytes])
}

const HEADER_BYTES: usize = 8;
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const PORT_UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
/// RFC 792: the first 64 bits of the datagram's data.
const QUOTED_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 9);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

    fn echo(data: usize) -> Vec<u8> {
        let mut message = [&[8, 0, 0, 0, 0x12, 0x34, 0, 7][..], &vec![0xa5; data]].concat();
        let checksum = Sum::ZERO.bytes(&message).finish();
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let header = ipv4::header(MEMBER, GATEWAY, 1, 3, u16::try_from(message.len()).unwrap());
        [&header[..], &message].concat()
    }

    #[test]
    fn echo_and_back() {
        for data in [0, 1, 56, 1472] {
            let request = echo(data);
            let request = Ipv4::new_checked(&request).unwrap();
            assert_eq!(is_echo_request(request), Some(true));
            let mut out = [0; MTU];
            let reply = echo_reply(request, &mut out).unwrap();
            let packet = Ipv4::new_checked(reply).unwrap();
            assert_eq!((packet.src(), packet.dst(), packet.ttl()), (GATEWAY, MEMBER, 64));
            assert_eq!((reply.len(), &reply[20..22], &reply[24..]), (28 + data, &[0, 0][..], &request.payload()[4..]));
            assert!(packet.header_is_intact() && Sum::ZERO.bytes(&reply[20..]).finish() == 0);
            assert_eq!(is_echo_request(packet), Some(false));
        }
        let mut broken = echo(8);
        broken[30] ^= 1;
        assert_eq!(is_echo_request(Ipv4::new_checked(&broken).unwrap()), None);
    }

    #[test]
    fn error_quotes_header_and_eight_bytes() {
        let mut out = [0; MTU];
        let cause = echo(400);
        let error = port_unreachable(Ipv4::new_checked(&cause).unwrap(), &mut out).unwrap();
        assert_eq!((&error[20..22], &error[28..]), (&[3, 3][..], &cause[..28]));
        assert_eq!(Sum::ZERO.bytes(&error[20..]).finish(), 0);
    }
}
