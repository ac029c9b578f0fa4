//! ARP for IPv4 over Ethernet (RFC 826).
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::ethernet::{HEADER_BYTES, Mac};

/// EtherType.
pub const ETHERTYPE: u16 = 0x0806;
/// Length of the packet.
pub const PACKET_BYTES: usize = 28;
/// Length of a frame with it, unpadded.
pub const FRAME_BYTES: usize = HEADER_BYTES + PACKET_BYTES;

/// What a packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has its address.
    Reply,
}

/// A packet's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Question or answer.
    pub operation: Operation,
    /// The sender's card.
    pub sender_mac: Mac,
    /// The sender's address; 0.0.0.0 in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// The target's card; without meaning in a request.
    pub target_mac: Mac,
    /// The address asked for.
    pub target: Ipv4Addr,
}

impl Arp {
    /// `None` unless `packet` begins with a whole request or reply for IPv4 over Ethernet.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let packet: &[u8; PACKET_BYTES] = packet.first_chunk()?;
        if packet[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let operation = match packet[6..8] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return None,
        };
        let mac = |at: usize| Mac(std::array::from_fn(|i| packet[at + i]));
        let address = |at: usize| Ipv4Addr::from(std::array::from_fn(|i| packet[at + i]));
        Some(Self { operation, sender_mac: mac(8), sender: address(14), target_mac: mac(18), target: address(24) })
    }

    /// As a frame from `sender_mac` to `dst`.
    pub fn to_frame(&self, dst: Mac) -> [u8; FRAME_BYTES] {
        let mut frame = [0; FRAME_BYTES];
        frame[..6].copy_from_slice(&dst.0);
        frame[6..12].copy_from_slice(&self.sender_mac.0);
        frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        frame[21] = if self.operation == Operation::Request { 1 } else { 2 };
        frame[22..28].copy_from_slice(&self.sender_mac.0);
        frame[28..32].copy_from_slice(&self.sender.octets());
        frame[32..38].copy_from_slice(&self.target_mac.0);
        frame[38..42].copy_from_slice(&self.target.octets());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for operation in [Operation::Request, Operation::Reply] {
            let arp = Arp {
                operation,
                sender_mac: Mac([2, 0, 0, 0, 0, 1]),
                sender: Ipv4Addr::new(10, 0, 0, 1),
                target_mac: Mac([2, 0, 0, 0, 0, 2]),
                target: Ipv4Addr::new(10, 0, 0, 2),
            };
            let frame = arp.to_frame(Mac::BROADCAST);
            assert_eq!(frame[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6]);
            assert_eq!(Arp::parse(&frame[HEADER_BYTES..]), Some(arp));
            assert_eq!(Arp::parse(&frame[HEADER_BYTES..FRAME_BYTES - 1]), None);
        }
    }

    #[test]
    fn other_kinds_are_not_ours() {
        let whole = [0, 1, 8, 0, 6, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Arp::parse(&whole).is_some());
        for at in 0..8 {
            let mut other = whole;
            other[at] ^= 8;
            assert_eq!(Arp::parse(&other), None, "{at}");
        }
    }
}
