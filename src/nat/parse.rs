//! What a packet says about itself, looked at once and checked.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::plan::Proto;
use crate::metrics::drops::DropReason;
use crate::wire::ipv4::Ipv4;
use crate::wire::{icmp, tcp, udp};

/// The IP header of a packet that is exactly as long as it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    /// Where the payload begins.
    pub(super) l4: usize,
    pub(super) is_fragment: bool,
    pub(super) dont_fragment: bool,
    pub(super) ttl: u8,
    pub(super) protocol: u8,
}

impl Head {
    /// Checks length, version, checksum, and that there are no source routes: a sender could lead packets past the
    /// egress policy with them (RFC 7126 §4.3).
    #[inline]
    pub(super) fn parse(packet: &[u8]) -> Result<Self, DropReason> {
        let ip = Ipv4::new_checked(packet).ok_or(DropReason::NatMalformed)?;
        if ip.whole().map(<[u8]>::len) != Some(packet.len()) || !ip.header_is_intact() {
            return Err(DropReason::NatMalformed);
        }
        let head = Self::of(ip);
        let l4 = head.l4;
        if l4 > 20 && has_source_route(&packet[20..l4]) {
            return Err(DropReason::NatMalformed);
        }
        Ok(head)
    }

    /// The header of the beginning of a packet that was checked before.
    pub(super) fn parse_quote(packet: &[u8]) -> Result<Self, DropReason> {
        Ipv4::new_checked(packet).map(Self::of).ok_or(DropReason::NatMalformed)
    }

    #[inline]
    fn of(ip: Ipv4<'_>) -> Self {
        Self {
            src: ip.src(),
            dst: ip.dst(),
            l4: ip.header_bytes(),
            is_fragment: ip.is_fragment(),
            dont_fragment: ip.dont_fragment(),
            ttl: ip.ttl(),
            protocol: ip.protocol(),
        }
    }
}

/// The flow of a packet that is no ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) proto: Proto,
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    /// The identifier, if ICMP; then `dst_port` is 0 outbound, and the other way round inbound.
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    /// Of TCP.
    pub(super) flags: u8,
}

/// What a whole packet is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Tuple(Tuple),
    IcmpError,
    /// An echo request.
    Echo(Tuple),
}

/// Looks into the payload of a whole packet. `outbound` decides which ICMP types are queries to translate.
#[inline]
pub(super) fn content(head: &Head, l4: &[u8], outbound: bool) -> Result<Content, DropReason> {
    let flow =
        |proto, src_port, dst_port, flags| Tuple { proto, src: head.src, dst: head.dst, src_port, dst_port, flags };
    match head.protocol {
        tcp::PROTOCOL => {
            let (Some(_), Some((src_port, dst_port)), Some(flags)) =
                (tcp::header_bytes(l4), udp::l4_ports(l4), tcp::flags(l4))
            else {
                return Err(DropReason::NatMalformed);
            };
            Ok(Content::Tuple(flow(Proto::Tcp, src_port, dst_port, flags)))
        }
        udp::PROTOCOL => {
            let Some((src_port, dst_port)) = udp::l4_ports(l4).filter(|_| l4.len() >= udp::HEADER_BYTES) else {
                return Err(DropReason::NatMalformed);
            };
            Ok(Content::Tuple(flow(Proto::Udp, src_port, dst_port, 0)))
        }
        icmp::PROTOCOL => icmp_content(l4, outbound, flow),
        _ => Err(DropReason::NatProtocol),
    }
}

fn icmp_content(l4: &[u8], outbound: bool, flow: impl Fn(Proto, u16, u16, u8) -> Tuple) -> Result<Content, DropReason> {
    let Some(identifier) = icmp::identifier(l4).filter(|_| l4.len() >= icmp::HEADER_BYTES) else {
        return Err(DropReason::NatMalformed);
    };
    match (l4[0], outbound) {
        (icmp::ECHO, true) => Ok(Content::Echo(flow(Proto::Icmp, identifier, 0, 0))),
        (icmp::TIMESTAMP, true) => Ok(Content::Tuple(flow(Proto::Icmp, identifier, 0, 0))),
        (icmp::ECHO_REPLY | icmp::TIMESTAMP_REPLY, false) => Ok(Content::Tuple(flow(Proto::Icmp, 0, identifier, 0))),
        (icmp::ECHO, false) => Ok(Content::Echo(flow(Proto::Icmp, 0, identifier, 0))),
        // A redirect names a router that the other side cannot reach, source quench is deprecated (RFC 6633).
        (icmp::REDIRECT | icmp::SOURCE_QUENCH, _) => Err(DropReason::NatIcmpType),
        (kind, _) if icmp::is_error(kind) => Ok(Content::IcmpError),
        _ => Err(DropReason::NatIcmpType),
    }
}

/// The flow of a packet, not checked at all.
#[inline]
pub(super) fn glance(packet: &[u8], outbound: bool) -> Option<Tuple> {
    let ip = Ipv4::new_checked(packet)?;
    let head = Head::of(ip);
    let proto = Proto::from_number(head.protocol)?;
    let (src_port, dst_port) = match (proto, outbound) {
        (Proto::Icmp, true) => (icmp::identifier(ip.payload())?, 0),
        (Proto::Icmp, false) => (0, icmp::identifier(ip.payload())?),
        _ => udp::l4_ports(ip.payload())?,
    };
    Some(Tuple { proto, src: head.src, dst: head.dst, src_port, dst_port, flags: 0 })
}

/// The port (or identifier) by which the sender of a packet is known.
pub(super) fn source_port(proto: Proto, l4: &[u8]) -> Option<u16> {
    match proto {
        Proto::Icmp => icmp::identifier(l4),
        Proto::Tcp | Proto::Udp => udp::l4_ports(l4).map(|(src, _)| src),
    }
}

/// Protocol number and the port at `remote`, one end of the packet; port 0 where there is none.
pub(super) fn remote_port(packet: &[u8], remote: Ipv4Addr) -> (u8, u16) {
    let Some(ip) = Ipv4::new_checked(packet) else { return (0, 0) };
    let ports = match ip.protocol() {
        tcp::PROTOCOL | udp::PROTOCOL if !ip.is_fragment() => udp::l4_ports(ip.payload()),
        _ => None,
    };
    let (src, dst) = ports.unwrap_or_default();
    (ip.protocol(), if ip.src() == remote { src } else { dst })
}

/// Loose (131) or strict (137) source route among IP options.
fn has_source_route(options: &[u8]) -> bool {
    let mut rest = options;
    while let [kind, after @ ..] = rest {
        rest = match kind {
            0 => return false,
            1 => after,
            131 | 137 => return true,
            _ => match after.first().map(|length| usize::from(*length)) {
                Some(length) if length >= 2 => rest.get(length..).unwrap_or_default(),
                // What cannot be walked could hide one.
                _ => return true,
            },
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_routes_are_found() {
        for (options, found) in [
            (&[][..], false),
            (&[0, 131, 3, 4], false),
            (&[1, 1, 131, 3, 4, 0], true),
            (&[137, 3, 4, 0], true),
            (&[148, 4, 0, 0], false),
            (&[148, 4, 0, 0, 131, 3, 4, 0], true),
            (&[7, 1, 0, 0], true),
            (&[7, 40, 0, 0], false),
            (&[7], true),
        ] {
            assert_eq!(has_source_route(options), found, "{options:?}");
        }
    }
}
