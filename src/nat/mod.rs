//! NAT44: members of a hub reach the Internet through external addresses that they share.
//!
//! A packet's way, [`Nat::outbound`] from a member, [`Nat::inbound`] from the Internet:
//!
//! 1. parse (`parse.rs`): whole, checked, fragments aside (`fragments.rs`);
//! 2. find its flow, by one hash (`flows.rs`). That is all for a known flow; time is a number in it;
//! 3. else begin one (`begin.rs`): policy, limits, a mapping with a port of a block or the commons (`ports.rs`) from
//!    inside; from outside a mapping that takes it, or nothing;
//! 4. next state (`tcp.rs`); rewrite in place, checksums carried on (`rewrite.rs`); fragment what is too long;
//! 5. send, hand back (hairpin) or deliver: the caller does, by [`NatSink`].
//!
//! ICMP errors take a way of their own (`icmp.rs`); those of our own are made in `answers.rs`. Flows and what hangs on
//! them end in `end.rs`, called by time (`expiry.rs`), by command, or when an inside address changes hands.
//!
//! One `Nat` belongs to one worker and knows only the inside addresses and external ports of that worker ([`NatPlan`]).
//! All tables grow on the slow path only and have an upper bound ([`Limits`]).
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::offload::{L4Checksum, Offload};
use crate::wire::tcp::FLAG_SYN;

use answers::{Answer, Answers, Refusal};
use begin::Begun;
use flows::{ACTIVE, Flows, HAIRPIN};
use fragments::Fragments;
use hash::{Halves, Random, Secret};
use hosts::Hosts;
use mappings::Mappings;
use parse::{Content, Head, Tuple};
use pcp::PcpTable;
use policy::Policy;
use ports::Ports;
use rewrite::{Change, Side};
use tcp::{Lifetimes, State};
use unsolicited::Unsolicited;

pub use events::{Insider, NatEvent, NatSink, PortBlock, Translation};
pub use fragments::cut as fragment;
pub use limits::Limits;
pub use plan::{
    Filtering, IcmpSettings, NatPlan, NatPlanError, NatSettings, Pooling, PortUse, Prefix, Proto, Record, Slice,
    StaticMapping, Timeouts,
};
pub use policy::{PolicySettings, Rule};
pub use view::{Explanation, MappingView, NatFilter, NatStats};

mod answers;
mod begin;
mod end;
mod events;
mod expiry;
mod flows;
mod fragments;
mod hash;
mod hosts;
mod icmp;
mod limits;
mod mappings;
mod members;
mod parse;
mod pcp;
mod plan;
mod policy;
mod ports;
mod rewrite;
mod table;
pub mod tcp;
#[cfg(test)]
mod tests;
mod unsolicited;
mod view;

/// See the module text.
#[derive(Debug)]
pub struct Nat {
    plan: Arc<NatPlan>,
    worker: usize,
    flows: Flows,
    mappings: Mappings,
    hosts: Hosts,
    ports: Ports,
    policy: Policy,
    /// Flows that live are not checked yet.
    policy_changed: bool,
    fragments: Fragments,
    unsolicited: Unsolicited,
    pcp: PcpTable,
    answers: Answers,
    lifetimes: Lifetimes,
    random: Random,
    /// Of destinations, for the scan brake.
    secret: Secret,
    /// Flows that only the outside has used.
    passive: u32,
    identification: u32,
    stats: NatStats,
    /// Where fragments of a packet are made.
    scratch: Vec<u8>,
}

impl Nat {
    /// The part of `worker`. `seed` makes ports and hashes unforeseeable.
    pub fn new(plan: Arc<NatPlan>, worker: usize, seed: u64, now: Tick) -> Nat {
        let mut random = Random::new(seed ^ (worker as u64).rotate_left(48));
        let settings = plan.settings();
        let mut nat = Self {
            worker,
            flows: Flows::new(tcp::coarse(now), &mut random),
            mappings: Mappings::new(&mut random),
            hosts: Hosts::new(settings.timeouts.quarantine, &mut random),
            ports: Ports::new(&plan, worker),
            policy: Policy::new(settings.policy.clone(), settings.inside),
            policy_changed: false,
            fragments: Fragments::new(settings.timeouts.fragments, settings.workers),
            unsolicited: Unsolicited::new(settings.timeouts.tcp_unsolicited),
            pcp: PcpTable::new(now),
            answers: Answers::new(&mut random),
            lifetimes: Lifetimes::new(&settings.timeouts),
            secret: Secret::new(&mut random),
            passive: 0,
            identification: random.next().low(),
            stats: NatStats::default(),
            scratch: Vec::new(),
            random,
            plan,
        };
        nat.add_statics();
        nat
    }

    /// An IPv4 packet (from the IP header on, exactly as long as it says) from a member; rewritten in place.
    pub fn outbound(
        &mut self,
        from: &Insider,
        packet: &mut [u8],
        offload: Offload,
        now: Tick,
        sink: &mut impl NatSink,
    ) {
        match Head::parse(packet) {
            Err(reason) => sink.dropped(reason),
            Ok(head) if head.src != from.address => sink.dropped(DropReason::NatSource),
            Ok(head) if head.is_fragment => self.outbound_fragment(from, &head, packet, now, sink),
            Ok(head) => self.outbound_whole(from, &head, packet, offload, now, sink),
        }
    }

    fn outbound_whole(
        &mut self,
        from: &Insider,
        head: &Head,
        packet: &mut [u8],
        offload: Offload,
        now: Tick,
        sink: &mut impl NatSink,
    ) {
        if let Err(refusal) = self.try_outbound(from, head, packet, offload, now, sink) {
            sink.dropped(refusal.reason);
            self.answer_inside(from.address, head, packet, refusal.answer, now, sink);
        }
    }

    fn try_outbound(
        &mut self,
        from: &Insider,
        head: &Head,
        packet: &mut [u8],
        mut offload: Offload,
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<(), Refusal> {
        if head.ttl <= 1 {
            return Err(Refusal::ttl());
        }
        let tuple = match parse::content(head, &packet[head.l4..], true)? {
            Content::Tuple(tuple) => tuple,
            Content::Echo(_) if self.plan.is_external(head.dst) => {
                return self.answer_echo_inside(head, packet, now, sink);
            }
            Content::Echo(tuple) => tuple,
            Content::IcmpError => return self.outbound_error(head, packet, sink),
        };
        let number = match self.flows.outbound(&tuple) {
            Some(number) if self.flows.slab[number].member == from.member => number,
            _ => match self.begin_outbound(from, &tuple, packet, now, sink)? {
                Begun::Flow(number) => number,
                Begun::Untranslated => return self.send_untranslated(head, packet, offload, sink),
            },
        };
        if self.flows.slab[number].session != flows::session_tag(from.session) {
            self.resume_flow(number, from, sink);
        }
        let hairpin = self.flows.slab[number].flags & HAIRPIN != 0;
        if !hairpin {
            fit(head, packet, &mut offload, tuple.proto, self.plan.settings().uplink_mtu)?;
        }
        self.refresh_outbound(number, tuple.flags, now);
        let flow = &self.flows.slab[number];
        let (address, port) = (flow.outside, flow.outside_port);
        self.clamp_mss(&tuple, &mut packet[head.l4..], offload);
        let identification = (!head.dont_fragment).then(|| self.next_identification(packet.len(), offload));
        let change = Change { side: Side::Source, proto: tuple.proto, address, port, identification };
        rewrite::translate(packet, head.l4, &change, &mut offload);
        self.stats.outbound(packet.len());
        if hairpin {
            self.stats.hairpins += 1;
            sink.hairpin(packet, offload);
        } else {
            self.send(head.l4, tuple.proto, packet, offload, sink);
        }
        Ok(())
    }

    /// A packet from the lane, or a hairpinned one, or a fragment handed over by another worker.
    pub fn inbound(&mut self, packet: &mut [u8], offload: Offload, now: Tick, sink: &mut impl NatSink) {
        match Head::parse(packet) {
            Err(reason) => sink.dropped(reason),
            Ok(head) if head.is_fragment => self.inbound_fragment(&head, packet, now, sink),
            Ok(head) => self.inbound_whole(&head, packet, offload, now, sink),
        }
    }

    fn inbound_whole(&mut self, head: &Head, packet: &mut [u8], offload: Offload, now: Tick, sink: &mut impl NatSink) {
        if let Err(refusal) = self.try_inbound(head, packet, offload, now, sink) {
            sink.dropped(refusal.reason);
            self.answer_outside(head, packet, refusal.answer, now, sink);
        }
    }

    fn try_inbound(
        &mut self,
        head: &Head,
        packet: &mut [u8],
        mut offload: Offload,
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<(), Refusal> {
        let tuple = match parse::content(head, &packet[head.l4..], false)? {
            Content::Tuple(tuple) => tuple,
            Content::Echo(_) if self.plan.is_external(head.dst) => {
                return self.answer_echo_outside(head, packet, now, sink);
            }
            Content::Echo(tuple) => tuple,
            Content::IcmpError => return self.inbound_error(head, packet, sink),
        };
        let (inside, port) = match self.flows.inbound(&tuple) {
            Some(number) => self.refresh_inbound(number, &tuple, now)?,
            None if !self.plan.is_external(head.dst) => {
                return self.deliver_untranslated(head, packet, offload, sink);
            }
            None => self.begin_inbound(&tuple, packet, now, sink)?,
        };
        if head.ttl <= 1 {
            return Err(Refusal::ttl());
        }
        fit(head, packet, &mut offload, tuple.proto, self.plan.settings().inside_mtu)?;
        self.clamp_mss(&tuple, &mut packet[head.l4..], offload);
        let change =
            Change { side: Side::Destination, proto: tuple.proto, address: inside, port, identification: None };
        rewrite::translate(packet, head.l4, &change, &mut offload);
        self.stats.inbound(packet.len());
        self.deliver(inside, head.l4, tuple.proto, packet, offload, sink);
        Ok(())
    }

    /// Which addresses are the host's own: no member reaches them from here on. Flows to them end with the next
    /// [`Self::poll`].
    pub fn set_host_addresses(&mut self, addresses: &[Ipv4Addr]) {
        self.policy.set_host_addresses(addresses);
        self.policy_changed = true;
    }

    /// Another egress policy, with the next [`Self::poll`] also for flows that live.
    pub fn set_policy(&mut self, settings: PolicySettings) {
        self.policy.set(settings);
        self.policy_changed = true;
    }

    /// Brings into the cache what the packets of a burst will need, all of them at once, before they come one by one. With
    /// a million flows most packets would otherwise wait for memory twice. Looks at no more than [`WARMED_MAX`]; not
    /// needed, and nothing but time depends on it.
    pub fn warm<'a>(&self, packets: impl IntoIterator<Item = &'a [u8]>, outbound: bool) {
        if self.flows.slab.len() < WARM_FROM {
            return;
        }
        let (mut hashes, mut count) = ([0; WARMED_MAX], 0);
        for packet in packets.into_iter().take(WARMED_MAX) {
            if let Some(tuple) = parse::glance(packet, outbound) {
                hashes[count] = self.flows.hash(&tuple, outbound);
                count += 1;
            }
        }
        // Short loops of reads that do not wait for each other: the processor has many under way.
        let hashes = &hashes[..count];
        let slots = hashes.iter().fold(0, |all, hash| all ^ self.flows.touch_index(*hash, outbound));
        std::hint::black_box(slots);
        let flows = hashes.iter().fold(0, |all, hash| all ^ self.flows.touch_flow(*hash, outbound));
        std::hint::black_box(flows);
    }

    #[inline]
    fn refresh_outbound(&mut self, number: u32, flags: u8, now: Tick) {
        let flow = &mut self.flows.slab[number];
        let (state, refreshes) = match flow.state {
            // Another question: the port may wait for its answer as long as any.
            State::Udp | State::UdpAnswered => (State::Udp, true),
            State::Icmp => (State::Icmp, true),
            state => tcp::next(state, flags, true),
        };
        // Only where it changes: a store would make a line of memory to be written back for each packet.
        if refreshes && flow.last != tcp::coarse(now) {
            flow.last = tcp::coarse(now);
        }
        if state != flow.state {
            self.change_state(number, state);
        }
        if self.flows.slab[number].flags & ACTIVE == 0 {
            self.activate(number);
        }
    }

    /// Returns where to.
    #[inline]
    fn refresh_inbound(&mut self, number: u32, tuple: &Tuple, now: Tick) -> Result<(Ipv4Addr, u16), DropReason> {
        let flow = &mut self.flows.slab[number];
        let (state, refreshes) = match flow.state {
            State::Udp | State::UdpAnswered if flow.remote_port == DNS_PORT => {
                // The first answer starts the short time; copies of it do not start it again.
                (State::UdpAnswered, flow.state == State::Udp)
            }
            State::Udp | State::Icmp => (flow.state, self.plan.settings().inbound_refresh),
            State::Resting => return Err(DropReason::NatNoFlow),
            state => tcp::next(state, tuple.flags, false),
        };
        if refreshes {
            flow.last = tcp::coarse(now);
        }
        let to = (flow.inside, flow.inside_port);
        if state != flow.state {
            self.change_state(number, state);
        }
        Ok(to)
    }

    fn change_state(&mut self, number: u32, state: State) {
        let flow = &mut self.flows.slab[number];
        flow.state = state;
        let due = flow.last.saturating_add(self.lifetimes.of(state));
        self.flows.reschedule(number, due);
    }

    /// No segment may be longer than both links carry.
    #[inline]
    fn clamp_mss(&self, tuple: &Tuple, segment: &mut [u8], offload: Offload) {
        if tuple.proto == Proto::Tcp && tuple.flags & FLAG_SYN != 0 {
            let settings = self.plan.settings();
            let mss = settings.uplink_mtu.min(settings.inside_mtu).saturating_sub(40);
            crate::wire::tcp::clamp_mss(segment, mss, offload.checksum == L4Checksum::Complete);
        }
    }

    /// Unlike those of other workers, and of the last 65,536 datagrams of ours as far as they are shared out evenly.
    fn next_identification(&mut self, packet_bytes: usize, offload: Offload) -> u16 {
        let segments = match usize::from(offload.segment_bytes) {
            0 => 1,
            bytes => packet_bytes.div_ceil(bytes),
        };
        let workers = (self.plan.settings().workers as u64).low().max(1);
        let first = self.identification;
        self.identification = first.wrapping_add((segments as u64).low());
        let of_worker = 0x1_0000 / workers;
        let number = (self.worker as u64).low() * of_worker + first % of_worker.max(1);
        (number & 0xffff) as u16
    }

    fn send(&mut self, l4: usize, proto: Proto, packet: &mut [u8], mut offload: Offload, sink: &mut impl NatSink) {
        let mtu = usize::from(self.plan.settings().uplink_mtu);
        if offload.segment_bytes > 0 || packet.len() <= mtu {
            return sink.send(packet, offload);
        }
        rewrite::finish(packet, l4, proto, &mut offload);
        fragments::cut(packet, mtu, &mut self.scratch, |fragment| sink.send(fragment, Offload::NONE));
    }

    fn deliver(
        &mut self,
        inside: Ipv4Addr,
        l4: usize,
        proto: Proto,
        packet: &mut [u8],
        mut offload: Offload,
        sink: &mut impl NatSink,
    ) {
        let mtu = usize::from(self.plan.settings().inside_mtu);
        if offload.segment_bytes > 0 || packet.len() <= mtu {
            return sink.deliver(inside, packet, offload);
        }
        rewrite::finish(packet, l4, proto, &mut offload);
        fragments::cut(packet, mtu, &mut self.scratch, |fragment| sink.deliver(inside, fragment, Offload::NONE));
    }

    fn send_untranslated(
        &mut self,
        head: &Head,
        packet: &mut [u8],
        mut offload: Offload,
        sink: &mut impl NatSink,
    ) -> Result<(), Refusal> {
        let proto = Proto::from_number(head.protocol).ok_or(DropReason::NatProtocol)?;
        fit(head, packet, &mut offload, proto, self.plan.settings().uplink_mtu)?;
        rewrite::hop(packet);
        self.stats.outbound(packet.len());
        self.send(head.l4, proto, packet, offload, sink);
        Ok(())
    }

    fn deliver_untranslated(
        &mut self,
        head: &Head,
        packet: &mut [u8],
        mut offload: Offload,
        sink: &mut impl NatSink,
    ) -> Result<(), Refusal> {
        let inside = self.plan.settings().inside.contains(head.dst) && head.dst != self.plan.settings().gateway;
        if !inside || !self.plan.is_untranslated(head.src, packet) {
            return Err(DropReason::NatNoMapping.into());
        }
        if head.ttl <= 1 {
            return Err(Refusal::ttl());
        }
        let proto = Proto::from_number(head.protocol).ok_or(DropReason::NatProtocol)?;
        fit(head, packet, &mut offload, proto, self.plan.settings().inside_mtu)?;
        rewrite::hop(packet);
        self.stats.inbound(packet.len());
        self.deliver(head.dst, head.l4, proto, packet, offload, sink);
        Ok(())
    }
}

/// Refuses what is too long for the next link and may not be fragmented. Super-packets count by their segments; those of
/// TCP that may be fragmented are cut into shorter segments instead, which nobody can tell from the outside.
#[inline]
fn fit(head: &Head, packet: &[u8], offload: &mut Offload, proto: Proto, mtu: u16) -> Result<(), Refusal> {
    if packet.len() <= usize::from(mtu) {
        return Ok(());
    }
    let too_big = Err(Refusal { reason: DropReason::NatTooBig, answer: Answer::TooBig(mtu) });
    if offload.segment_bytes == 0 {
        return if head.dont_fragment { too_big } else { Ok(()) };
    }
    let l4_header = match proto {
        Proto::Tcp => crate::wire::tcp::header_bytes(&packet[head.l4..]).unwrap_or(0),
        _ => crate::wire::udp::HEADER_BYTES,
    };
    let room = mtu.saturating_sub(u16::try_from(head.l4 + l4_header).unwrap_or(u16::MAX));
    if offload.segment_bytes <= room {
        return Ok(());
    }
    if head.dont_fragment || proto != Proto::Tcp || room == 0 {
        return too_big;
    }
    offload.segment_bytes = room;
    Ok(())
}

const DNS_PORT: u16 = 53;
/// Packets of a burst that are looked at together: more would push each other out of the first cache.
pub const WARMED_MAX: usize = 32;
/// Fewer flows stay in the second cache by themselves.
const WARM_FROM: usize = 4_096;

/// Memory that a mapping with one flow takes at most: their two entries, five places in indexes that have just grown.
/// A further flow of the same mapping takes 64 bytes and three places, a flow that shares its port as much.
pub const BYTES_PER_MAPPING: usize = 64 + size_of::<mappings::Mapping>() + 5 * 8 * 16 / 5;
