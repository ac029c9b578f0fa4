//! What members behind a NAT send and receive: DHCP, ARP, and the least of UDP, TCP and ICMP.

use std::net::Ipv4Addr;

use hublane::wire::arp::{self, Arp};
use hublane::wire::checksum::Sum;
use hublane::wire::dhcp::{CLIENT_PORT, SERVER_PORT};
use hublane::wire::ethernet::Mac;
use hublane::wire::ipv4::{self, Ipv4};
use hublane::wire::{tcp, udp};

/// Both ends of a flow, in the direction of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) src: Ipv4Addr,
    pub(crate) src_port: u16,
    pub(crate) dst: Ipv4Addr,
    pub(crate) dst_port: u16,
}

impl Ends {
    /// The other direction.
    pub(crate) fn back(self) -> Self {
        Self { src: self.dst, src_port: self.dst_port, dst: self.src, dst_port: self.src_port }
    }
}

/// What a segment says beside its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival<'a> {
    Arp(Arp),
    Dhcp(Reply),
    Udp(Ends, &'a [u8]),
    Tcp(Ends, Segment, &'a [u8]),
    /// Destination Unreachable, with its code, about a packet that was sent.
    Unreachable(u8, Ends),
    /// Nothing of interest here.
    Other,
}

/// A DHCP server's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) kind: u8,
    pub(crate) xid: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) server: Ipv4Addr,
    pub(crate) router: Ipv4Addr,
}

/// Message types (RFC 2132 §9.6).
pub(crate) const DISCOVER: u8 = 1;
pub(crate) const OFFER: u8 = 2;
pub(crate) const REQUEST: u8 = 3;
pub(crate) const ACK: u8 = 5;
pub(crate) const NAK: u8 = 6;

/// Flags of TCP that the wire views of the hub do not need.
pub(crate) const FLAG_FIN: u8 = 0x01;
pub(crate) const FLAG_RST: u8 = 0x04;
pub(crate) const FLAG_PSH: u8 = 0x08;

const ETHERNET_BYTES: usize = 14;
const TCP_BYTES: usize = 20;
const PROTOCOL_ICMP: u8 = 1;
const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// An Ethernet frame around an IP packet.
pub(crate) fn frame(from: Mac, to: Mac, packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_BYTES + packet.len());
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&ipv4::ETHERTYPE.to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}

/// An IP packet with a datagram.
pub(crate) fn udp_packet(ends: Ends, payload: &[u8]) -> Vec<u8> {
    let bytes = u16::try_from(udp::HEADER_BYTES + payload.len()).expect("a datagram of this program is short");
    let mut l4 = Vec::with_capacity(usize::from(bytes));
    for word in [ends.src_port, ends.dst_port, bytes, 0] {
        l4.extend_from_slice(&word.to_be_bytes());
    }
    l4.extend_from_slice(payload);
    let check = match Sum::pseudo(ends.src, ends.dst, udp::PROTOCOL, bytes).bytes(&l4).finish() {
        // No checksum is a zero (RFC 768).
        0 => 0xffff,
        check => check,
    };
    l4[6..8].copy_from_slice(&check.to_be_bytes());
    packet(ends, udp::PROTOCOL, &l4)
}

/// An IP packet with a segment.
pub(crate) fn tcp_packet(ends: Ends, segment: Segment, payload: &[u8]) -> Vec<u8> {
    let bytes = u16::try_from(TCP_BYTES + payload.len()).expect("a segment of this program is short");
    let mut l4 = Vec::with_capacity(usize::from(bytes));
    l4.extend_from_slice(&ends.src_port.to_be_bytes());
    l4.extend_from_slice(&ends.dst_port.to_be_bytes());
    l4.extend_from_slice(&segment.seq.to_be_bytes());
    l4.extend_from_slice(&segment.ack.to_be_bytes());
    l4.extend_from_slice(&[5 << 4, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend_from_slice(payload);
    let check = Sum::pseudo(ends.src, ends.dst, tcp::PROTOCOL, bytes).bytes(&l4).finish();
    l4[16..18].copy_from_slice(&check.to_be_bytes());
    packet(ends, tcp::PROTOCOL, &l4)
}

fn packet(ends: Ends, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let bytes = u16::try_from(l4.len()).expect("a packet of this program is short");
    let mut packet = ipv4::header(ends.src, ends.dst, protocol, 64, bytes).to_vec();
    packet.extend_from_slice(l4);
    packet
}

/// A client's DISCOVER, or, with the offer that it takes, its REQUEST.
pub(crate) fn dhcp_frame(mac: Mac, xid: u32, taken: Option<Reply>) -> Vec<u8> {
    let mut message = vec![0; 236];
    // Question, Ethernet, 6 bytes of address.
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[4..8].copy_from_slice(&xid.to_be_bytes());
    message[28..34].copy_from_slice(&mac.0);
    message.extend_from_slice(&MAGIC);
    message.extend_from_slice(&[53, 1, if taken.is_some() { REQUEST } else { DISCOVER }]);
    if let Some(offer) = taken {
        message.extend_from_slice(&[50, 4]);
        message.extend_from_slice(&offer.address.octets());
        message.extend_from_slice(&[54, 4]);
        message.extend_from_slice(&offer.server.octets());
    }
    // Asked for: mask, router, DNS, MTU, lease time.
    message.extend_from_slice(&[55, 5, 1, 3, 6, 26, 51, 255]);
    message.resize(300, 0);
    let ends =
        Ends { src: Ipv4Addr::UNSPECIFIED, src_port: CLIENT_PORT, dst: Ipv4Addr::BROADCAST, dst_port: SERVER_PORT };
    frame(mac, Mac::BROADCAST, &udp_packet(ends, &message))
}

/// What `frame` says, if it is whole.
pub(crate) fn read(frame: &[u8]) -> Arrival<'_> {
    let Some((head, rest)) = frame.split_first_chunk::<ETHERNET_BYTES>() else { return Arrival::Other };
    match u16::from_be_bytes([head[12], head[13]]) {
        arp::ETHERTYPE => Arp::parse(rest).map_or(Arrival::Other, Arrival::Arp),
        ipv4::ETHERTYPE => read_packet(rest),
        _ => Arrival::Other,
    }
}

/// The same of an IP packet.
pub(crate) fn read_packet(bytes: &[u8]) -> Arrival<'_> {
    parse(bytes).unwrap_or(Arrival::Other)
}

fn parse(bytes: &[u8]) -> Option<Arrival<'_>> {
    let ip = Ipv4::new_checked(bytes)?;
    let l4 = &ip.whole()?[ip.header_bytes()..];
    if ip.is_fragment() {
        return None;
    }
    match ip.protocol() {
        udp::PROTOCOL => {
            let (ends, payload) = (ends(ip, l4)?, l4.get(udp::HEADER_BYTES..)?);
            let dhcp = (ends.src_port, ends.dst_port) == (SERVER_PORT, CLIENT_PORT);
            Some(if dhcp { Arrival::Dhcp(reply(payload)?) } else { Arrival::Udp(ends, payload) })
        }
        tcp::PROTOCOL => {
            let head: &[u8; TCP_BYTES] = l4.first_chunk()?;
            let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| head[at + i]));
            let segment = Segment { seq: word(4), ack: word(8), flags: head[13] };
            Some(Arrival::Tcp(ends(ip, l4)?, segment, l4.get(usize::from(head[12] >> 4) * 4..)?))
        }
        // Type 3; the packet that it is about begins behind its 8 bytes.
        PROTOCOL_ICMP if l4.first() == Some(&3) => {
            let about = l4.get(8..)?;
            let inner = Ipv4::new_checked(about)?;
            Some(Arrival::Unreachable(l4[1], ends(inner, &about[inner.header_bytes()..])?))
        }
        _ => None,
    }
}

fn ends(ip: Ipv4<'_>, l4: &[u8]) -> Option<Ends> {
    let (src_port, dst_port) = udp::l4_ports(l4)?;
    Some(Ends { src: ip.src(), src_port, dst: ip.dst(), dst_port })
}

fn reply(message: &[u8]) -> Option<Reply> {
    let address = |at: usize| Some(Ipv4Addr::from(*message.get(at..)?.first_chunk::<4>()?));
    let mut options = message.get(236..)?.strip_prefix(&MAGIC)?;
    let mut reply = Reply {
        kind: 0,
        xid: u32::from_be_bytes(*message.get(4..)?.first_chunk()?),
        address: address(16)?,
        server: Ipv4Addr::UNSPECIFIED,
        router: Ipv4Addr::UNSPECIFIED,
    };
    loop {
        match options {
            [] | [255, ..] => return (message[0] == 2 && reply.kind != 0).then_some(reply),
            [0, rest @ ..] => options = rest,
            [code, length, rest @ ..] => {
                let value = rest.get(..usize::from(*length))?;
                let four = value.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes));
                match code {
                    53 => reply.kind = *value.first()?,
                    54 => reply.server = four?,
                    3 => reply.router = four?,
                    _ => {}
                }
                options = &rest[value.len()..];
            }
            [_] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const ENDS: Ends =
        Ends { src: Ipv4Addr::new(100, 64, 0, 9), src_port: 4000, dst: Ipv4Addr::new(198, 51, 100, 7), dst_port: 80 };

    #[test]
    fn what_is_written_is_read() {
        let segment = Segment { seq: 7, ack: 9, flags: tcp::FLAG_SYN };
        let tcp = frame(MAC, Mac::BROADCAST, &tcp_packet(ENDS, segment, b"abc"));
        assert_eq!(read(&tcp), Arrival::Tcp(ENDS, segment, b"abc"));
        let udp = frame(MAC, Mac::BROADCAST, &udp_packet(ENDS, b"abcd"));
        assert_eq!(read(&udp), Arrival::Udp(ENDS, b"abcd"));
        for cut in 0..udp.len() {
            assert_eq!(read(&udp[..cut]), Arrival::Other, "{cut} bytes");
        }
    }

    #[test]
    fn checksums_are_right() {
        let packet = udp_packet(ENDS, b"odd");
        let sum = |l4: &[u8], protocol| {
            Sum::pseudo(ENDS.src, ENDS.dst, protocol, u16::try_from(l4.len()).unwrap()).bytes(l4).finish()
        };
        assert_eq!(sum(&packet[20..], udp::PROTOCOL), 0);
        let packet = tcp_packet(ENDS, Segment { seq: 1, ack: 2, flags: 16 }, b"odd");
        assert_eq!(sum(&packet[20..], tcp::PROTOCOL), 0);
    }

    #[test]
    fn an_error_names_the_flow_it_is_about() {
        let mut icmp = vec![3, 13, 0, 0, 0, 0, 0, 0];
        icmp.extend_from_slice(&udp_packet(ENDS, b"whatever"));
        let outer = Ends { src: Ipv4Addr::new(100, 64, 0, 1), dst: ENDS.src, ..ENDS };
        assert_eq!(read_packet(&packet(outer, PROTOCOL_ICMP, &icmp)), Arrival::Unreachable(13, ENDS));
    }

    #[test]
    fn a_lease_is_read() {
        let question = dhcp_frame(MAC, 77, None);
        let Arrival::Udp(_, asked) = read(&question) else { panic!("a datagram") };
        let mut answer = asked.to_vec();
        answer[0] = 2;
        answer[16..20].copy_from_slice(&[100, 64, 3, 4]);
        answer[236 + 4 + 2] = OFFER;
        let end = 236 + 4 + 3;
        answer.splice(end.., [54, 4, 100, 64, 0, 1, 0, 3, 4, 100, 64, 0, 2, 255]);
        let read = reply(&answer).unwrap();
        assert_eq!((read.kind, read.xid, read.address), (OFFER, 77, Ipv4Addr::new(100, 64, 3, 4)));
        assert_eq!((read.server, read.router), (Ipv4Addr::new(100, 64, 0, 1), Ipv4Addr::new(100, 64, 0, 2)));
        for cut in 0..answer.len() - 1 {
            // No prefix is read as something else than a shorter lease, or nothing.
            assert!(reply(&answer[..cut]).is_none_or(|short| short.address == read.address), "{cut} bytes");
        }
        // A question is no answer.
        assert_eq!(reply(asked), None);
    }
}
