//! ICMP errors on their way through (RFC 5508 §4): the packet they quote is put back as its sender knows it.
//!
//! They neither refresh nor end a flow, whatever they say, and may come from anybody on the path. Errors from inside may
//! only go to the other end of their flow.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::Nat;
use super::answers::Refusal;
use super::events::NatSink;
use super::parse::{Head, Tuple};
use super::plan::Proto;
use super::rewrite::{self, Change, Side};
use super::table::NONE;
use super::tcp::State;
use crate::metrics::drops::DropReason;
use crate::wire::ipv4::Ipv4;
use crate::wire::offload::Offload;
use crate::wire::{icmp, udp};

/// The packet that an error quotes.
#[derive(Clone, Copy, Debug)]
struct Quoted {
    proto: Proto,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    /// Of ICMP queries, the identifier in both.
    src_port: u16,
    dst_port: u16,
    /// Where its payload begins.
    l4: usize,
    /// Where it ends, extensions (RFC 4884) and zeros behind it not counted.
    end: usize,
}

impl Quoted {
    /// Checks the error's checksum and the quoted header's (REQ-3 a); that of the quoted payload nobody can know (c).
    fn parse(message: &[u8]) -> Result<Self, DropReason> {
        let bad = DropReason::NatIcmpError;
        if !icmp::is_intact(message) {
            return Err(bad);
        }
        let about = &message[icmp::HEADER_BYTES..];
        let ip = Ipv4::new_checked(about).ok_or(bad)?;
        if !ip.header_is_intact() || ip.fragment_offset() != 0 {
            return Err(bad);
        }
        let (l4, proto) = (ip.header_bytes(), Proto::from_number(ip.protocol()).ok_or(bad)?);
        // RFC 4884: with extensions, the length of the quote in words stands in the sixth byte.
        let said = usize::from(message[5]) * 4;
        let end = if said == 0 { about.len() } else { said.min(about.len()) }.min(ip.total_bytes().max(l4));
        let payload = about.get(l4..end).ok_or(bad)?;
        let (src_port, dst_port) = match proto {
            Proto::Icmp => icmp::identifier(payload).map(|id| (id, id)),
            Proto::Tcp | Proto::Udp => udp::l4_ports(payload),
        }
        .ok_or(bad)?;
        let kept = payload.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1).max(PAYLOAD_BYTES_MIN);
        Ok(Self { proto, src: ip.src(), dst: ip.dst(), src_port, dst_port, l4, end: (l4 + kept).min(end) })
    }
}

impl Nat {
    /// An error from a member about a packet he got.
    pub(super) fn outbound_error(
        &mut self,
        head: &Head,
        packet: &mut [u8],
        sink: &mut impl NatSink,
    ) -> Result<(), Refusal> {
        let quoted = Quoted::parse(&packet[head.l4..])?;
        // To the other end of the flow only: an error is no way around the egress policy.
        if quoted.dst != head.src || quoted.src != head.dst {
            return Err(DropReason::NatIcmpError.into());
        }
        let remote_port = if quoted.proto == Proto::Icmp { 0 } else { quoted.src_port };
        let tuple = Tuple {
            proto: quoted.proto,
            src: quoted.dst,
            src_port: quoted.dst_port,
            dst: quoted.src,
            dst_port: remote_port,
            flags: 0,
        };
        let (address, port) = self.external_of(&tuple).ok_or(DropReason::NatIcmpError)?;
        let identification = (!head.dont_fragment).then(|| self.next_identification(packet.len(), Offload::NONE));
        let change = Change { side: Side::Destination, proto: quoted.proto, address, port, identification: None };
        restore(packet, head, &quoted, &change);
        let outer = Change { side: Side::Source, identification, ..change };
        rewrite::header(&mut packet[..head.l4], &outer, true);
        self.stats.outbound(packet.len());
        if self.plan.is_external(head.dst) {
            self.stats.hairpins += 1;
            sink.hairpin(packet, Offload::NONE);
        } else {
            self.send(head.l4, Proto::Icmp, packet, Offload::NONE, sink);
        }
        Ok(())
    }

    /// The external address and port of a flow, or of a mapping that takes packets from there.
    fn external_of(&self, tuple: &Tuple) -> Option<(Ipv4Addr, u16)> {
        if let Some(number) = self.flows.outbound(tuple) {
            let flow = &self.flows.slab[number];
            return Some((flow.outside, flow.outside_port));
        }
        let number = self.mappings.of_inside(tuple.proto, tuple.src, tuple.src_port)?;
        let mapping = &self.mappings.slab[number];
        let reverse = Tuple {
            src: tuple.dst,
            src_port: tuple.dst_port,
            dst: mapping.outside,
            dst_port: mapping.outside_port,
            ..*tuple
        };
        self.takes(number, &reverse).then_some((mapping.outside, mapping.outside_port))
    }

    /// An error from the Internet about a packet that a member sent.
    pub(super) fn inbound_error(
        &mut self,
        head: &Head,
        packet: &mut [u8],
        sink: &mut impl NatSink,
    ) -> Result<(), Refusal> {
        let quoted = Quoted::parse(&packet[head.l4..])?;
        if quoted.src != head.dst {
            return Err(DropReason::NatIcmpError.into());
        }
        let remote_port = if quoted.proto == Proto::Icmp { 0 } else { quoted.dst_port };
        let tuple = Tuple {
            proto: quoted.proto,
            src: quoted.dst,
            src_port: remote_port,
            dst: quoted.src,
            dst_port: quoted.src_port,
            flags: 0,
        };
        let (address, port) = self.inside_of(&tuple).ok_or(DropReason::NatIcmpError)?;
        if head.ttl <= 1 {
            // No error about an error.
            return Err(DropReason::NatTtl.into());
        }
        let change = Change { side: Side::Source, proto: quoted.proto, address, port, identification: None };
        restore(packet, head, &quoted, &change);
        rewrite::header(&mut packet[..head.l4], &Change { side: Side::Destination, ..change }, true);
        self.stats.inbound(packet.len());
        self.deliver(address, head.l4, Proto::Icmp, packet, Offload::NONE, sink);
        Ok(())
    }

    fn inside_of(&self, tuple: &Tuple) -> Option<(Ipv4Addr, u16)> {
        if let Some(number) = self.flows.inbound(tuple) {
            let flow = &self.flows.slab[number];
            return (flow.state != State::Resting).then_some((flow.inside, flow.inside_port));
        }
        let number = self.mappings.of_outside(tuple.proto, tuple.dst, tuple.dst_port)?;
        let mapping = &self.mappings.slab[number];
        // Of a flow that has just ended; a mapping without any has sent nothing.
        (mapping.flows != NONE && self.takes(number, tuple)).then_some((mapping.inside, mapping.inside_port))
    }
}

/// Puts the quoted packet back and computes the error's checksum.
fn restore(packet: &mut [u8], head: &Head, quoted: &Quoted, change: &Change) {
    let message = &mut packet[head.l4..];
    let about = &mut message[icmp::HEADER_BYTES..icmp::HEADER_BYTES + quoted.end];
    rewrite::quoted(about, quoted.l4, change);
    icmp::finish(message);
}

/// An error quotes as much of the payload at least (RFC 792).
const PAYLOAD_BYTES_MIN: usize = 8;
