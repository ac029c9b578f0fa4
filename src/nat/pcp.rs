//! Port Control Protocol (RFC 6887): members ask for mappings, on UDP port 5351 of the gateway.
//!
//! MAP pins a mapping that takes packets from anybody; PEER makes (or keeps) the flow to one peer; ANNOUNCE says that we
//! are here. A member speaks for his own address only. Mappings end with their lifetime, or with lifetime 0.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::Nat;
use super::answers::Refusal;
use super::begin::Begun;
use super::events::{Insider, NatSink};
use super::mappings;
use super::parse::Tuple;
use super::plan::{Pooling, Proto};
use super::tcp;
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::tcp::FLAG_SYN;

/// What PCP knows of a mapping.
#[derive(Clone, Copy, Debug)]
struct Asked {
    nonce: [u8; 12],
    until: Tick,
}

/// Mappings that PCP pins.
#[derive(Debug)]
pub(super) struct PcpTable {
    asked: BTreeMap<u32, Asked>,
    ends: BTreeMap<(Tick, u32), ()>,
    /// When our state began.
    epoch: Tick,
}

impl PcpTable {
    pub(super) fn new(now: Tick) -> Self {
        Self { asked: BTreeMap::new(), ends: BTreeMap::new(), epoch: now }
    }

    fn set(&mut self, number: u32, asked: Asked) {
        self.forget(number);
        self.asked.insert(number, asked);
        self.ends.insert((asked.until, number), ());
    }

    /// The mapping is gone.
    pub(super) fn forget(&mut self, number: u32) {
        if let Some(asked) = self.asked.remove(&number) {
            self.ends.remove(&(asked.until, number));
        }
    }

    pub(super) fn until(&self, number: u32) -> Option<Tick> {
        self.asked.get(&number).map(|asked| asked.until)
    }

    pub(super) fn next_at(&self) -> Option<Tick> {
        self.ends.keys().next().map(|(until, _)| *until)
    }
}

/// Result codes (RFC 6887 §7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Code {
    Success = 0,
    UnsupportedVersion = 1,
    NotAuthorized = 2,
    Malformed = 3,
    UnsupportedOpcode = 4,
    UnsupportedOption = 5,
    MalformedOption = 6,
    NoResources = 8,
    UnsupportedProtocol = 9,
    OverQuota = 10,
    CannotProvideExternal = 11,
    AddressMismatch = 12,
}

/// What MAP and PEER have in common.
#[derive(Clone, Copy, Debug)]
struct Wish {
    nonce: [u8; 12],
    proto: Proto,
    port: u16,
    external_port: u16,
    external: Ipv4Addr,
    lifetime: u32,
    /// Rather nothing than another external address and port.
    prefers_failure: bool,
}

/// What was done.
struct Granted {
    external: SocketAddrV4,
    lifetime: u32,
}

impl Nat {
    /// Answers a request, the payload of a UDP datagram to port 5351 of the gateway. The answer goes into `answer`; its
    /// length is returned, 0 for none.
    pub fn pcp(
        &mut self,
        from: &Insider,
        _src_port: u16,
        request: &[u8],
        answer: &mut [u8; 1100],
        now: Tick,
        sink: &mut impl NatSink,
    ) -> usize {
        let [version, opcode, ..] = *request else { return 0 };
        if version == 0 && opcode & RESPONSE == 0 {
            return nat_pmp_refusal(opcode, self.epoch_secs(now), answer);
        }
        if opcode & RESPONSE != 0 || request.len() > REQUEST_BYTES_MAX {
            return 0;
        }
        self.session_changed(from, sink);
        // Too short for a header: the answer is as long as one all the same.
        let length = request.len().clamp(HEADER_BYTES, REQUEST_BYTES_MAX).next_multiple_of(4);
        answer[..length].fill(0);
        answer[..request.len()].copy_from_slice(request);
        let done = if version != VERSION {
            Err(Code::UnsupportedVersion)
        } else if request.len() < HEADER_BYTES || !request.len().is_multiple_of(4) {
            Err(Code::Malformed)
        } else if request[8..24] != from.address.to_ipv6_mapped().octets() {
            Err(Code::AddressMismatch)
        } else {
            match opcode {
                ANNOUNCE => options(&request[HEADER_BYTES..], false).map(|_| None),
                MAP => self.map_asked(from, request, now, sink).map(Some),
                PEER => self.peer_asked(from, request, now, sink).map(Some),
                _ => Err(Code::UnsupportedOpcode),
            }
        };
        let (code, lifetime) = match &done {
            Ok(granted) => (Code::Success, granted.as_ref().map_or(0, |granted| granted.lifetime)),
            Err(code) => (*code, code.retry_secs()),
        };
        answer[..4].copy_from_slice(&[VERSION, opcode | RESPONSE, 0, code as u8]);
        answer[4..8].copy_from_slice(&lifetime.to_be_bytes());
        answer[8..12].copy_from_slice(&self.epoch_secs(now).to_be_bytes());
        answer[12..24].fill(0);
        if let Ok(Some(granted)) = done {
            answer[42..44].copy_from_slice(&granted.external.port().to_be_bytes());
            answer[44..60].copy_from_slice(&granted.external.ip().to_ipv6_mapped().octets());
        }
        length
    }

    fn epoch_secs(&self, now: Tick) -> u32 {
        u32::try_from(now.since(self.pcp.epoch).as_secs()).unwrap_or(u32::MAX)
    }

    fn map_asked(
        &mut self,
        from: &Insider,
        request: &[u8],
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<Granted, Code> {
        let wish = Wish::parse(request, MAP_BYTES, true)?;
        let known = self.mappings.of_inside(wish.proto, from.address, wish.port);
        let known = known.filter(|number| self.is_of(*number, from));
        if let Some(asked) = known.and_then(|number| self.pcp.asked.get(&number))
            && asked.nonce != wish.nonce
        {
            return Err(Code::NotAuthorized);
        }
        if wish.lifetime == 0 {
            return Ok(self.unmap_asked(known, &wish, now, sink));
        }
        let lifetime = wish.lifetime.clamp(LIFETIME_SECS_MIN, LIFETIME_SECS_MAX);
        let number = match known {
            Some(number) => number,
            None => self.map_anew(from, &wish, now, sink)?,
        };
        let mapping = &mut self.mappings.slab[number];
        let external = SocketAddrV4::new(mapping.outside, mapping.outside_port);
        if wish.prefers_failure && !wish.is_met_by(external) {
            if known.is_none() {
                self.end_mapping(number, now, sink);
            }
            return Err(Code::CannotProvideExternal);
        }
        if mapping.flags & mappings::STATIC == 0 {
            mapping.flags |= mappings::PCP;
            let until = now + Duration::from_secs(lifetime.into());
            self.pcp.set(number, Asked { nonce: wish.nonce, until });
        }
        Ok(Granted { external, lifetime })
    }

    fn map_anew(&mut self, from: &Insider, wish: &Wish, now: Tick, sink: &mut impl NatSink) -> Result<u32, Code> {
        let host = self.host_of(from, now, sink);
        let made = self.map_for(host, from, wish, now, sink);
        if made.is_err() {
            self.end_idle_host(host, now);
        }
        made
    }

    fn map_for(
        &mut self,
        host: u32,
        from: &Insider,
        wish: &Wish,
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<u32, Code> {
        if !self.hosts.slab[host].rate.allow(self.plan.settings().limits.new_flows_per_sec, now) {
            return Err(Code::OverQuota);
        }
        // Before anything is made: a port that is given back rests.
        if wish.prefers_failure && !self.can_meet(host, wish) {
            return Err(Code::CannotProvideExternal);
        }
        let inside = SocketAddrV4::new(from.address, wish.port);
        let wanted = (wish.external_port != 0).then_some(wish.external_port);
        let mapped = self.map_port(host, wish.proto, inside, wanted, None, now, sink);
        mapped.map_err(Code::from)?.ok_or(Code::NoResources)
    }

    /// Whether a mapping might be what is wished. A certain port can only be one of the host's blocks: others are taken at
    /// random.
    fn can_meet(&self, host: u32, wish: &Wish) -> bool {
        let host = &self.hosts.slab[host];
        let meets = |address: Ipv4Addr| wish.external.is_unspecified() || wish.external == address;
        if wish.external_port != 0 {
            return host.blocks.iter().any(|block| {
                let address = self.ports.extent(*block).0;
                meets(address) && self.ports.suits(*block, wish.proto, Some(wish.external_port), None)
            });
        }
        match self.plan.settings().pooling {
            Pooling::Paired => meets(self.ports.address(host.area)),
            Pooling::Arbitrary => (0..self.ports.areas()).any(|area| meets(self.ports.address(area))),
        }
    }

    /// Lifetime 0. The mapping stays while flows use it (RFC 6887 §15.1).
    fn unmap_asked(&mut self, known: Option<u32>, wish: &Wish, now: Tick, sink: &mut impl NatSink) -> Granted {
        if let Some(number) = known.filter(|number| self.pcp.asked.contains_key(number)) {
            self.unpin(number, now, sink);
        }
        Granted { external: SocketAddrV4::new(wish.external, wish.external_port), lifetime: 0 }
    }

    fn unpin(&mut self, number: u32, now: Tick, sink: &mut impl NatSink) {
        self.pcp.forget(number);
        let mapping = &mut self.mappings.slab[number];
        mapping.flags &= !mappings::PCP;
        if mapping.active == 0 {
            self.end_mapping(number, now, sink);
        }
    }

    fn peer_asked(
        &mut self,
        from: &Insider,
        request: &[u8],
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<Granted, Code> {
        let wish = Wish::parse(request, PEER_BYTES, false)?;
        let peer = &request[HEADER_BYTES + MAP_BYTES..HEADER_BYTES + PEER_BYTES];
        let remote_port = u16::from_be_bytes([peer[0], peer[1]]);
        let remote = ipv4(&peer[4..20]).filter(|_| remote_port != 0).ok_or(Code::Malformed)?;
        let tuple = Tuple {
            proto: wish.proto,
            src: from.address,
            src_port: wish.port,
            dst: remote,
            dst_port: remote_port,
            flags: if wish.proto == Proto::Tcp { FLAG_SYN } else { 0 },
        };
        let known = self.flows.outbound(&tuple).filter(|n| self.flows.slab[*n].member == from.member);
        let number = match known {
            Some(number) => number,
            None => match self.begin_outbound(from, &tuple, &[], now, sink) {
                Ok(Begun::Flow(number)) => number,
                Ok(Begun::Untranslated) => return Err(Code::CannotProvideExternal),
                Err(refusal) => return Err(refusal.into()),
            },
        };
        if wish.proto != Proto::Tcp {
            self.flows.slab[number].last = tcp::coarse(now);
        }
        let flow = &self.flows.slab[number];
        let due = tcp::from_coarse(flow.last.saturating_add(self.lifetimes.of(flow.state)));
        let lifetime = u32::try_from(due.since(now).as_secs()).unwrap_or(u32::MAX);
        Ok(Granted { external: SocketAddrV4::new(flow.outside, flow.outside_port), lifetime })
    }

    /// Whether a mapping is that member's, and not left from whoever had the address before.
    fn is_of(&self, number: u32, from: &Insider) -> bool {
        let host = self.mappings.slab[number].host;
        host == super::table::NONE || self.hosts.slab[host].insider.member == from.member
    }

    pub(super) fn expire_pcp(&mut self, now: Tick, sink: &mut impl NatSink) {
        for _ in 0..ENDS_PER_POLL {
            match self.pcp.ends.first_key_value() {
                Some((&(until, number), ())) if until <= now => self.unpin(number, now, sink),
                _ => return,
            }
        }
    }
}

impl Wish {
    /// The part of a request behind the header, options included.
    fn parse(request: &[u8], bytes: usize, is_map: bool) -> Result<Self, Code> {
        let body = &request[HEADER_BYTES..];
        if body.len() < bytes {
            return Err(Code::Malformed);
        }
        let prefers_failure = options(&body[bytes..], is_map)?;
        let proto = match Proto::from_number(body[12]) {
            Some(proto @ (Proto::Tcp | Proto::Udp)) => proto,
            _ => return Err(Code::UnsupportedProtocol),
        };
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&body[..12]);
        let port = u16::from_be_bytes([body[16], body[17]]);
        if port == 0 {
            // All ports of a protocol: nobody has an external address of his own.
            return Err(if is_map { Code::UnsupportedProtocol } else { Code::Malformed });
        }
        Ok(Self {
            nonce,
            proto,
            port,
            external_port: u16::from_be_bytes([body[18], body[19]]),
            external: ipv4(&body[20..36]).unwrap_or(Ipv4Addr::UNSPECIFIED),
            lifetime: u32::from_be_bytes([request[4], request[5], request[6], request[7]]),
            prefers_failure,
        })
    }

    fn is_met_by(&self, external: SocketAddrV4) -> bool {
        (self.external_port == 0 || self.external_port == external.port())
            && (self.external.is_unspecified() || self.external == *external.ip())
    }
}

impl Code {
    /// How long the client should not ask again (§7.4: long for what will not change).
    const fn retry_secs(self) -> u32 {
        match self {
            Self::NoResources | Self::OverQuota => 30,
            _ => 1_800,
        }
    }
}

impl From<Refusal> for Code {
    fn from(refusal: Refusal) -> Self {
        match refusal.reason {
            DropReason::NatPolicy => Self::NotAuthorized,
            DropReason::NatPortLimit | DropReason::NatFlowLimit | DropReason::NatFlowRate | DropReason::NatScan => {
                Self::OverQuota
            }
            _ => Self::NoResources,
        }
    }
}

/// Walks options: whether PREFER_FAILURE is among them. Others below 128 have to be understood (§7.3), and are not.
fn options(options: &[u8], is_map: bool) -> Result<bool, Code> {
    let (mut rest, mut prefers_failure) = (options, false);
    while !rest.is_empty() {
        let [kind, _, high, low, after @ ..] = rest else { return Err(Code::MalformedOption) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        rest = after.get(length.next_multiple_of(4)..).ok_or(Code::MalformedOption)?;
        match *kind {
            PREFER_FAILURE if is_map && length == 0 && !prefers_failure => prefers_failure = true,
            PREFER_FAILURE => return Err(Code::MalformedOption),
            THIRD_PARTY => return Err(Code::UnsupportedOption),
            128.. => {}
            _ => return Err(Code::UnsupportedOption),
        }
    }
    Ok(prefers_failure)
}

/// The IPv4 address in 16 bytes; `None` if there is another.
fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    std::net::Ipv6Addr::from(bytes).to_ipv4_mapped()
}

/// NAT-PMP (RFC 6886 §3.5) is answered in its own form, so that its client tries PCP.
fn nat_pmp_refusal(opcode: u8, epoch_secs: u32, answer: &mut [u8; 1100]) -> usize {
    answer[..4].copy_from_slice(&[0, opcode | RESPONSE, 0, 1]);
    answer[4..8].copy_from_slice(&epoch_secs.to_be_bytes());
    8
}

const VERSION: u8 = 2;
const RESPONSE: u8 = 0x80;
const ANNOUNCE: u8 = 0;
const MAP: u8 = 1;
const PEER: u8 = 2;
const THIRD_PARTY: u8 = 1;
const PREFER_FAILURE: u8 = 2;
const HEADER_BYTES: usize = 24;
const MAP_BYTES: usize = 36;
const PEER_BYTES: usize = 56;
const REQUEST_BYTES_MAX: usize = 1_100;
/// §15: at least two minutes, at most a day.
const LIFETIME_SECS_MIN: u32 = 120;
const LIFETIME_SECS_MAX: u32 = 86_400;
const ENDS_PER_POLL: usize = 256;
