//! The slow path: a packet of no known flow. May it have one, and through which external port?
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};

use super::Nat;
use super::answers::Refusal;
use super::events::{Insider, NatEvent, NatSink, PortBlock};
use super::flows::{ACTIVE, Flow, HAIRPIN, RECORDED, session_tag};
use super::hosts::Host;
use super::mappings::{self, Mapping};
use super::parse::Tuple;
use super::plan::{Filtering, Pooling, Proto};
use super::table::{self, NONE};
use super::tcp::{self, State};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::tcp::{FLAG_ACK, FLAG_RST, FLAG_SYN};

/// What became of a packet from inside.
pub(super) enum Begun {
    /// It has a flow.
    Flow(u32),
    /// It goes as it is.
    Untranslated,
}

impl Nat {
    /// Static mappings of inside addresses that are this worker's.
    pub(super) fn add_statics(&mut self) {
        for fixed in self.plan.statics() {
            if self.plan.owner_of_inside(*fixed.inside.ip()) == self.worker {
                self.mappings.insert(Mapping {
                    inside: *fixed.inside.ip(),
                    inside_port: fixed.inside.port(),
                    outside: *fixed.external.ip(),
                    outside_port: fixed.external.port(),
                    proto: fixed.proto,
                    flags: mappings::STATIC,
                    ..Mapping::default()
                });
            }
        }
    }

    /// Begins the flow of a packet from inside.
    pub(super) fn begin_outbound(
        &mut self,
        from: &Insider,
        tuple: &Tuple,
        packet: &[u8],
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<Begun, Refusal> {
        let hairpin = self.plan.is_external(tuple.dst);
        if hairpin {
            // Other ports of a shared address are the host's own.
            if self.plan.owner(tuple.proto, tuple.dst, tuple.dst_port).is_none() {
                return Err(Refusal::prohibited(DropReason::NatPolicy));
            }
        } else if self.plan.is_untranslated(tuple.dst, packet) {
            return Ok(Begun::Untranslated);
        } else if !self.policy.allows(tuple.proto.number(), tuple.dst, tuple.dst_port) {
            return Err(Refusal::prohibited(DropReason::NatPolicy));
        }
        let host = self.host_of(from, now, sink);
        // A flow that began outside, towards a static mapping of somebody not seen yet.
        if let Some(number) = self.flows.outbound(tuple) {
            return Ok(Begun::Flow(self.adopt(number, host, sink)));
        }
        if tuple.proto == Proto::Tcp && tuple.flags & (FLAG_SYN | FLAG_ACK | FLAG_RST) != FLAG_SYN {
            return Err(DropReason::NatNoFlow.into());
        }
        let begun = self.begin_for(host, tuple, hairpin, now, sink);
        if let Err(refusal) = &begun
            && self.hosts.slab[host].refusals.allow(1, now)
        {
            sink.event(NatEvent::Refused { insider: *from, reason: refusal.reason });
        }
        begun.map(Begun::Flow)
    }

    fn begin_for(
        &mut self,
        host: u32,
        tuple: &Tuple,
        hairpin: bool,
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<u32, Refusal> {
        self.check_flow(host, tuple, hairpin, now)?;
        let known = self.mappings.of_inside(tuple.proto, tuple.src, tuple.src_port);
        let mapping = match known {
            Some(mapping) => Some(mapping),
            None => self.map(host, tuple, now, sink)?,
        };
        let (outside, outside_port) = match mapping {
            Some(mapping) => (self.mappings.slab[mapping].outside, self.mappings.slab[mapping].outside_port),
            None => self.overlap(host, tuple)?,
        };
        let settings = self.plan.settings();
        let recorded = mapping.is_none() || settings.record.destinations;
        let flow = Flow {
            inside: tuple.src,
            outside,
            remote: tuple.dst,
            inside_port: tuple.src_port,
            outside_port,
            remote_port: tuple.dst_port,
            proto: tuple.proto,
            state: match tuple.proto {
                Proto::Tcp => State::SynOut,
                Proto::Udp => State::Udp,
                Proto::Icmp => State::Icmp,
            },
            member: self.hosts.slab[host].insider.member,
            last: tcp::coarse(now),
            mapping: mapping.unwrap_or(NONE),
            host,
            flags: ACTIVE | if hairpin { HAIRPIN } else { 0 } | if recorded { RECORDED } else { 0 },
            session: session_tag(self.hosts.slab[host].insider.session),
            ..Flow::default()
        };
        Ok(self.add_flow(flow, sink))
    }

    /// Puts a flow into all tables and tells of it.
    fn add_flow(&mut self, flow: Flow, sink: &mut impl NatSink) -> u32 {
        let due = flow.last.saturating_add(self.lifetimes.of(flow.state));
        let number = self.flows.insert(flow, due);
        let active = flow.flags & ACTIVE != 0;
        if flow.mapping == NONE {
            let head = &mut self.hosts.slab[flow.host].overlaps;
            table::link(&mut self.flows.slab, head, number, |flow| &mut flow.siblings);
        } else {
            let mapping = &mut self.mappings.slab[flow.mapping];
            table::link(&mut self.flows.slab, &mut mapping.flows, number, |flow| &mut flow.siblings);
            mapping.active += u32::from(active);
        }
        if !active {
            self.passive += 1;
        }
        self.stats.flows_begun += 1;
        if flow.host != NONE {
            self.hosts.slab[flow.host].flows += 1;
            self.tell_flow_began(&flow, sink);
        }
        number
    }

    fn tell_flow_began(&self, flow: &Flow, sink: &mut impl NatSink) {
        if flow.flags & RECORDED != 0 {
            sink.event(NatEvent::FlowBegan {
                insider: self.hosts.slab[flow.host].insider,
                translation: flow.translation(),
                remote: flow.remote_end(),
            });
        }
    }

    /// The host of a member, made if there is none. What another member had under this address ends.
    pub(super) fn host_of(&mut self, from: &Insider, now: Tick, sink: &mut impl NatSink) -> u32 {
        if let Some(number) = self.hosts.of(from.address) {
            if self.hosts.slab[number].insider.member == from.member {
                self.session_changed(from, sink);
                return number;
            }
            self.end_host(number, now, sink);
        }
        let fixed = self.plan.statics().iter().find(|fixed| *fixed.inside.ip() == from.address);
        let area = fixed.and_then(|fixed| self.plan.area_of(*fixed.external.ip()));
        let area = area.unwrap_or_else(|| self.ports.roomiest(&mut self.random));
        self.hosts.insert(Host::new(*from, area, now))
    }

    /// The member of an inside address is back in another session, perhaps: what he has under it is that session's from
    /// here on. Packets bring it about by themselves, except that one in 256 sessions looks to a known flow like the one
    /// before; who knows of a session's begin may say so.
    pub fn session_changed(&mut self, insider: &Insider, sink: &mut impl NatSink) {
        let Some(number) = self.hosts.of(insider.address) else { return };
        let known = &mut self.hosts.slab[number].insider;
        if known.member == insider.member && known.session != insider.session {
            known.session = insider.session;
            sink.event(NatEvent::SessionChanged { insider: *insider });
        }
    }

    /// A known flow is used by another session of its member.
    #[cold]
    pub(super) fn resume_flow(&mut self, number: u32, from: &Insider, sink: &mut impl NatSink) {
        self.flows.slab[number].session = session_tag(from.session);
        self.session_changed(from, sink);
    }

    fn check_flow(&mut self, host: u32, tuple: &Tuple, hairpin: bool, now: Tick) -> Result<(), Refusal> {
        let limits = self.plan.settings().limits;
        let resting = self.hosts.members.resting(self.hosts.slab[host].insider.member, now);
        let host = &mut self.hosts.slab[host];
        if host.flows + resting.flows >= limits.flows_per_address {
            return Err(Refusal::prohibited(DropReason::NatFlowLimit));
        }
        if !host.rate.allow(limits.new_flows_per_sec, now) {
            return Err(Refusal::prohibited(DropReason::NatFlowRate));
        }
        if !hairpin && !host.brake.allow(tuple.dst, limits.destinations_per_min, self.secret, now) {
            return Err(Refusal::prohibited(DropReason::NatScan));
        }
        if self.flows.slab.len() >= limits.flows as usize {
            return Err(Refusal::exhausted(DropReason::NatTableFull));
        }
        Ok(())
    }

    /// A mapping of its own for an inside address and port; `None`: TCP has to share one.
    fn map(&mut self, host: u32, tuple: &Tuple, now: Tick, sink: &mut impl NatSink) -> Result<Option<u32>, Refusal> {
        let parity = (tuple.proto == Proto::Udp && self.plan.settings().port_parity).then_some(tuple.src_port);
        let inside = SocketAddrV4::new(tuple.src, tuple.src_port);
        self.map_port(host, tuple.proto, inside, None, parity, now, sink)
    }

    /// The same, with a port if possible; also for PCP.
    #[allow(clippy::too_many_arguments, reason = "a port has that many properties")]
    pub(super) fn map_port(
        &mut self,
        host: u32,
        proto: Proto,
        inside: SocketAddrV4,
        wanted: Option<u16>,
        parity: Option<u16>,
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<Option<u32>, Refusal> {
        let limits = self.plan.settings().limits;
        let Host { ports, insider, area, .. } = self.hosts.slab[host];
        // What rests is nobody else's either, and must not be a way to more than anybody may have.
        let resting = self.hosts.members.resting(insider.member, now).ports;
        let of_member = self.hosts.members.ports(insider.member) + resting;
        if ports + resting >= limits.ports_per_address || of_member >= limits.ports_per_member {
            return Err(Refusal::prohibited(DropReason::NatPortLimit));
        }
        if self.mappings.slab.len() >= limits.mappings as usize {
            return Err(Refusal::exhausted(DropReason::NatTableFull));
        }
        let areas = match self.plan.settings().pooling {
            Pooling::Paired => 1,
            Pooling::Arbitrary => self.ports.areas(),
        };
        for n in 0..areas {
            let area = (area + n) % self.ports.areas();
            let found = match self.port_of_block(host, area, proto, wanted, parity, now, sink) {
                Some((block, port)) => Some((block, port)),
                None => self.ports.take_common(area, proto, parity, now, &mut self.random).map(|port| (NONE, port)),
            };
            if let Some((block, port)) = found {
                return Ok(Some(self.add_mapping(host, proto, inside, (area, port), block, sink)));
            }
        }
        if proto == Proto::Tcp { Ok(None) } else { Err(Refusal::exhausted(DropReason::NatExhausted)) }
    }

    /// A port of the host's blocks, or of a further one.
    #[allow(clippy::too_many_arguments, reason = "a port has that many properties")]
    fn port_of_block(
        &mut self,
        host: u32,
        area: u32,
        proto: Proto,
        wanted: Option<u16>,
        parity: Option<u16>,
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Option<(u32, u16)> {
        let of_area = self.ports.address(area);
        let blocks = &self.hosts.slab[host].blocks;
        // A block that has the port asked for, or one of the right parity, comes before others.
        for strict in [true, false] {
            for &block in blocks {
                let other = self.ports.extent(block).0 != of_area;
                if other || strict && !self.ports.suits(block, proto, wanted, parity) {
                    continue;
                }
                if let Some(port) = self.ports.take(block, proto, wanted, parity, &mut self.random) {
                    return Some((block, port));
                }
            }
        }
        let resting = self.hosts.members.resting(self.hosts.slab[host].insider.member, now).blocks;
        let held = blocks.len() + resting as usize;
        let block = self.ports.grant(area, host, held, now, &mut self.random)?;
        let host = &mut self.hosts.slab[host];
        host.blocks.push(block);
        let (address, first, ports) = self.ports.extent(block);
        sink.event(NatEvent::BlockGranted { insider: host.insider, block: PortBlock { address, first, ports } });
        self.ports.take(block, proto, wanted, parity, &mut self.random).map(|port| (block, port))
    }

    fn add_mapping(
        &mut self,
        host: u32,
        proto: Proto,
        inside: SocketAddrV4,
        (area, port): (u32, u16),
        block: u32,
        sink: &mut impl NatSink,
    ) -> u32 {
        let recorded = block == NONE || self.plan.settings().record.mappings;
        let mapping = Mapping {
            inside: *inside.ip(),
            inside_port: inside.port(),
            outside: self.ports.address(area),
            outside_port: port,
            proto,
            flags: if recorded { mappings::RECORDED } else { 0 },
            host,
            block,
            ..Mapping::default()
        };
        let number = self.mappings.insert(mapping);
        let head = &mut self.hosts.slab[host].mappings;
        table::link(&mut self.mappings.slab, head, number, |mapping| &mut mapping.siblings);
        self.hosts.count_port(host);
        self.stats.mappings_begun += 1;
        if recorded {
            let insider = self.hosts.slab[host].insider;
            sink.event(NatEvent::MappingBegan { insider, translation: mapping.translation() });
        }
        number
    }

    /// A port of the commons that nobody uses towards the destination of `tuple`.
    fn overlap(&mut self, host: u32, tuple: &Tuple) -> Result<(Ipv4Addr, u16), Refusal> {
        let area = self.hosts.slab[host].area;
        let outside = self.ports.address(area);
        let is_free = |port: &u16| {
            let reverse = Tuple { src: tuple.dst, dst: outside, src_port: tuple.dst_port, dst_port: *port, ..*tuple };
            self.flows.inbound(&reverse).is_none()
        };
        let mut ports = self.ports.tries(area, &mut self.random);
        match ports.find(is_free) {
            Some(port) => {
                self.stats.overlaps_begun += 1;
                Ok((outside, port))
            }
            None => Err(Refusal::exhausted(DropReason::NatExhausted)),
        }
    }

    /// A flow that began outside is used from inside, too.
    pub(super) fn activate(&mut self, number: u32) {
        let flow = &mut self.flows.slab[number];
        flow.flags |= ACTIVE;
        self.passive = self.passive.saturating_sub(1);
        if flow.mapping != NONE {
            self.mappings.slab[flow.mapping].active += 1;
        }
    }

    /// Gives a flow to a static mapping's member, who is seen for the first time.
    fn adopt(&mut self, number: u32, host: u32, sink: &mut impl NatSink) -> u32 {
        let member = self.hosts.slab[host].insider.member;
        let flow = &mut self.flows.slab[number];
        flow.member = member;
        if flow.host == NONE {
            flow.host = host;
            self.hosts.slab[host].flows += 1;
            let flow = *flow;
            self.tell_flow_began(&flow, sink);
        }
        number
    }

    /// Where a packet from outside goes that is of no known flow. A TCP flow begins with it; other protocols need none
    /// until somebody inside answers, so that nobody outside can fill tables with them.
    pub(super) fn begin_inbound(
        &mut self,
        tuple: &Tuple,
        packet: &[u8],
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<(Ipv4Addr, u16), Refusal> {
        let opens = tuple.proto == Proto::Tcp && tuple.flags & (FLAG_SYN | FLAG_ACK | FLAG_RST) == FLAG_SYN;
        let number = self.mappings.of_outside(tuple.proto, tuple.dst, tuple.dst_port);
        let reason = match number {
            None => DropReason::NatNoMapping,
            Some(number) if !self.takes(number, tuple) => DropReason::NatFiltered,
            Some(_) if tuple.proto == Proto::Tcp && !opens => DropReason::NatNoFlow,
            Some(number) => return self.accept(number, tuple, now, sink),
        };
        if opens && self.plan.owner(tuple.proto, tuple.dst, tuple.dst_port) == Some(self.worker) {
            self.unsolicited.hold(tuple, packet, now);
        }
        Err(reason.into())
    }

    /// Whether the filter of a mapping lets a packet in.
    pub(super) fn takes(&self, mapping: u32, tuple: &Tuple) -> bool {
        let settings = self.plan.settings();
        let filtering = match tuple.proto {
            Proto::Tcp => settings.filtering_tcp,
            Proto::Udp | Proto::Icmp => settings.filtering_udp,
        };
        self.mappings.slab[mapping].is_pinned()
            || match filtering {
                Filtering::EndpointIndependent => true,
                Filtering::Address => self.flows.knows_peer(tuple),
                Filtering::AddressPort => false,
            }
    }

    fn accept(
        &mut self,
        number: u32,
        tuple: &Tuple,
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<(Ipv4Addr, u16), Refusal> {
        let Mapping { inside, inside_port, host, flows, .. } = self.mappings.slab[number];
        if tuple.proto != Proto::Tcp {
            if self.plan.settings().inbound_refresh && flows != NONE {
                self.flows.slab[flows].last = tcp::coarse(now);
            }
            return Ok((inside, inside_port));
        }
        // Static mappings have no host of their own; the address may have one.
        let host = if host == NONE { self.hosts.of(inside).unwrap_or(NONE) } else { host };
        let limits = self.plan.settings().limits;
        let too_many = host != NONE && self.hosts.slab[host].flows >= limits.flows_per_address / PASSIVE_PART;
        if too_many || self.passive >= limits.flows / PASSIVE_PART || self.flows.slab.len() >= limits.flows as usize {
            return Err(DropReason::NatTableFull.into());
        }
        let member = if host == NONE { NOBODY } else { self.hosts.slab[host].insider.member };
        let recorded = self.plan.settings().record.destinations;
        let flow = Flow {
            inside,
            inside_port,
            outside: tuple.dst,
            outside_port: tuple.dst_port,
            remote: tuple.src,
            remote_port: tuple.src_port,
            proto: tuple.proto,
            state: State::SynIn,
            member,
            last: tcp::coarse(now),
            mapping: number,
            host,
            flags: if self.plan.is_external(tuple.src) { HAIRPIN } else { 0 } | if recorded { RECORDED } else { 0 },
            ..Flow::default()
        };
        self.add_flow(flow, sink);
        Ok((inside, inside_port))
    }
}

/// No member: account numbers do not come so far.
const NOBODY: crate::ids::MemberId = crate::ids::MemberId(u32::MAX);
/// Flows that only the outside has used may be half of all.
const PASSIVE_PART: u32 = 2;
