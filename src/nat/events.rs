//! What a NAT tells its caller besides packets.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};

use super::plan::Proto;
use crate::ids::{MemberId, SessionId};
use crate::metrics::drops::DropReason;
use crate::wire::offload::Offload;

/// Who sends from inside. The caller has checked that the address is his.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insider {
    /// Leased address.
    pub address: Ipv4Addr,
    /// Whose lease it is.
    pub member: MemberId,
    /// The session the packet came by.
    pub session: SessionId,
}

/// Ports of an external address that one inside address has for a while, of every protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBlock {
    /// External address.
    pub address: Ipv4Addr,
    /// First port.
    pub first: u16,
    /// Number of ports.
    pub ports: u16,
}

/// An inside address and port, and the external ones that stand for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Protocol.
    pub proto: Proto,
    /// In the hub.
    pub inside: SocketAddrV4,
    /// As seen from the Internet.
    pub external: SocketAddrV4,
}

/// Something to be recorded. The caller adds the time: events come in the order of what they tell, each before the first
/// packet it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatEvent {
    /// From here on the block is that address's.
    BlockGranted {
        /// Whose.
        insider: Insider,
        /// Which.
        block: PortBlock,
    },
    /// The block is nobody's. It rests before somebody else gets it.
    BlockReleased {
        /// Whose it was.
        insider: Insider,
        /// Which.
        block: PortBlock,
    },
    /// The member came back in another session: blocks and mappings of the address are that session's from here on.
    SessionChanged {
        /// With the session of now.
        insider: Insider,
    },
    /// A mapping began. Always told of ports of the commons.
    MappingBegan {
        /// Whose.
        insider: Insider,
        /// What.
        translation: Translation,
    },
    /// It ended.
    MappingEnded {
        /// Whose it was.
        insider: Insider,
        /// What.
        translation: Translation,
    },
    /// A flow began. Always told of TCP in the commons, where only the destination tells members apart.
    FlowBegan {
        /// Whose.
        insider: Insider,
        /// What.
        translation: Translation,
        /// To (or, if it is the other side's, from) where.
        remote: SocketAddrV4,
    },
    /// It ended.
    FlowEnded {
        /// Whose it was.
        insider: Insider,
        /// What.
        translation: Translation,
        /// To or from where.
        remote: SocketAddrV4,
    },
    /// Nothing could be made for a packet (RFC 6888 REQ-11). At most one in a second for each inside address.
    Refused {
        /// Whose packet.
        insider: Insider,
        /// Why.
        reason: DropReason,
    },
}

/// Where packets and events go.
pub trait NatSink {
    /// Towards the Internet.
    fn send(&mut self, packet: &mut [u8], offload: Offload);
    /// To one of our external addresses: goes to [`super::Nat::inbound`] of [`super::NatPlan::owner_of_packet`].
    fn hairpin(&mut self, packet: &mut [u8], offload: Offload);
    /// To a member; also ICMP errors from the gateway's address.
    fn deliver(&mut self, inside: Ipv4Addr, packet: &mut [u8], offload: Offload);
    /// An inbound fragment whose port is another worker's: goes to that worker's [`super::Nat::inbound`].
    fn hand_over(&mut self, worker: usize, packet: &mut [u8]);
    /// A packet goes nowhere.
    fn dropped(&mut self, reason: DropReason);
    /// Something to be recorded.
    fn event(&mut self, event: NatEvent);
}
