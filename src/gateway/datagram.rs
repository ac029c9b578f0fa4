//! UDP over IPv4 over Ethernet: what came, checked, and what the gateway sends, built.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::dhcp::{DhcpReply, REPLY_FRAME_BYTES_MAX};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{HEADER_BYTES as ETHERNET_BYTES, Mac};
use crate::wire::ipv4::{self, HEADER_BYTES_MIN as IPV4_BYTES, Ipv4};
use crate::wire::udp;

/// Longest packet inside the hub.
pub const MTU: usize = 1500;
/// Longest UDP payload that needs no fragments.
pub const PAYLOAD_BYTES_MAX: usize = MTU - IPV4_BYTES - udp::HEADER_BYTES;
const _: () = assert!(REPLY_FRAME_BYTES_MAX == ETHERNET_BYTES + MTU);

/// A datagram whose lengths and checksum are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Of the sender.
    pub src_port: u16,
    /// Of the receiver.
    pub dst_port: u16,
    /// The data.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// From the payload of `packet`, which is whole and no fragment.
    pub fn parse(packet: Ipv4<'a>) -> Option<Self> {
        let segment = packet.whole()?.get(packet.header_bytes()..)?;
        let [a, b, c, d, e, f, sum_high, sum_low, ..] = *segment else { return None };
        let bytes = u16::from_be_bytes([e, f]);
        let segment = segment.get(..usize::from(bytes))?;
        let payload = segment.get(udp::HEADER_BYTES..)?;
        // RFC 768: 0 means that the sender computed none.
        let is_summed = (sum_high, sum_low) != (0, 0);
        if is_summed && Sum::pseudo(packet.src(), packet.dst(), udp::PROTOCOL, bytes).bytes(segment).finish() != 0 {
            return None;
        }
        Some(Self { src_port: u16::from_be_bytes([a, b]), dst_port: u16::from_be_bytes([c, d]), payload })
    }
}

/// Where a datagram goes, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressing {
    /// Our card.
    pub src_mac: Mac,
    /// The card of the receiver, or the broadcast address.
    pub dst_mac: Mac,
    /// Our address.
    pub src: Ipv4Addr,
    /// The address of the receiver.
    pub dst: Ipv4Addr,
    /// Our port.
    pub src_port: u16,
    /// The port of the receiver.
    pub dst_port: u16,
}

/// A frame in the making. The longest reply of the DHCP server is as long as the MTU allows, and so is any other frame.
pub struct FrameBuffer([u8; REPLY_FRAME_BYTES_MAX]);

impl FrameBuffer {
    /// Without content.
    pub fn new() -> Self {
        Self([0; REPLY_FRAME_BYTES_MAX])
    }

    /// A frame with a UDP datagram, `payload` cut to [`PAYLOAD_BYTES_MAX`].
    pub fn udp(&mut self, at: &Addressing, payload: &[u8]) -> &[u8] {
        let payload = &payload[..payload.len().min(PAYLOAD_BYTES_MAX)];
        let start = ETHERNET_BYTES + IPV4_BYTES;
        let bytes = u16::try_from(udp::HEADER_BYTES + payload.len()).expect("below the MTU");
        let segment = &mut self.0[start..][..usize::from(bytes)];
        segment[..2].copy_from_slice(&at.src_port.to_be_bytes());
        segment[2..4].copy_from_slice(&at.dst_port.to_be_bytes());
        segment[4..6].copy_from_slice(&bytes.to_be_bytes());
        segment[6..8].fill(0);
        segment[8..].copy_from_slice(payload);
        let checksum = Sum::pseudo(at.src, at.dst, udp::PROTOCOL, bytes).bytes(segment).finish();
        // RFC 768: a sum of 0 is sent as all ones, for 0 means none.
        segment[6..8].copy_from_slice(&if checksum == 0 { u16::MAX } else { checksum }.to_be_bytes());
        self.ipv4(at.src_mac, at.dst_mac, &ipv4::header(at.src, at.dst, udp::PROTOCOL, TTL, bytes))
    }

    /// A frame with a finished IPv4 packet, cut to the MTU.
    pub fn packet(&mut self, src_mac: Mac, dst_mac: Mac, packet: &[u8]) -> &[u8] {
        let packet = &packet[..packet.len().min(MTU)];
        self.ethernet(src_mac, dst_mac);
        self.0[ETHERNET_BYTES..][..packet.len()].copy_from_slice(packet);
        &self.0[..ETHERNET_BYTES + packet.len()]
    }

    /// A reply of the DHCP server.
    pub fn dhcp(&mut self, src_mac: Mac, reply: &DhcpReply<'_>) -> &[u8] {
        let length = reply.write_frame(src_mac, &mut self.0);
        &self.0[..length]
    }

    /// The two headers before a segment that already stands in its place.
    fn ipv4(&mut self, src_mac: Mac, dst_mac: Mac, header: &[u8; IPV4_BYTES]) -> &[u8] {
        self.ethernet(src_mac, dst_mac);
        self.0[ETHERNET_BYTES..][..IPV4_BYTES].copy_from_slice(header);
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        &self.0[..ETHERNET_BYTES + total]
    }

    fn ethernet(&mut self, src_mac: Mac, dst_mac: Mac) {
        self.0[..6].copy_from_slice(&dst_mac.0);
        self.0[6..12].copy_from_slice(&src_mac.0);
        self.0[12..14].copy_from_slice(&ipv4::ETHERTYPE.to_be_bytes());
    }
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// Of what the gateway itself sends (RFC 1700).
pub const TTL: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: Addressing = Addressing {
        src_mac: Mac([2, 0, 0, 0, 0, 1]),
        dst_mac: Mac([2, 0, 0, 0, 0, 2]),
        src: Ipv4Addr::new(100, 64, 0, 1),
        dst: Ipv4Addr::new(100, 64, 0, 2),
        src_port: 53,
        dst_port: 40_000,
    };

    proptest! {
        #[test]
        fn what_is_built_is_what_is_read(payload in proptest::collection::vec(any::<u8>(), 0..1472), flip in 0usize..6) {
            let mut buffer = FrameBuffer::new();
            let mut bytes = buffer.udp(&AT, &payload)[14..].to_vec();
            let read = Datagram::parse(Ipv4::new_checked(&bytes).unwrap());
            prop_assert_eq!(read, Some(Datagram { src_port: 53, dst_port: 40_000, payload: &payload }));
            bytes[20 + flip] ^= 1;
            prop_assert_eq!(Datagram::parse(Ipv4::new_checked(&bytes).unwrap()), None);
        }
    }
}
