//! How things end: a flow, then its mapping if that was the last, then the block, then the host.
#![forbid(unsafe_code)]

use super::Nat;
use super::events::{NatEvent, NatSink, PortBlock};
use super::flows::{ACTIVE, Flow, RECORDED};
use super::mappings;
use super::members::Resting;
use super::table::{self, NONE};
use super::tcp::{self, State};
use crate::ids::MemberId;
use crate::tick::Tick;
use std::net::Ipv4Addr;
use std::time::Duration;

impl Nat {
    /// Ends what is due, a bounded amount of it, and says when to come again.
    pub fn poll(&mut self, now: Tick, sink: &mut impl NatSink) -> Tick {
        if std::mem::take(&mut self.policy_changed) {
            self.end_forbidden(now, sink);
        }
        let busy = self.expire_flows(now, sink) | self.expire_blocks(now, sink);
        self.ports.wake(now);
        self.answer_unsolicited(now, sink);
        self.fragments.expire(now, sink);
        self.expire_pcp(now, sink);
        if busy {
            return now;
        }
        let dues = [
            self.flows.wheel.next_due().map(tcp::from_coarse),
            self.ports.next_at(),
            self.unsolicited.next_at(),
            self.fragments.next_at(),
            self.pcp.next_at(),
        ];
        // A moment that is past means more of the same than one call does.
        dues.into_iter().flatten().fold(now + NOTHING_DUE, Tick::min).max(now)
    }

    /// Whether more waits.
    fn expire_flows(&mut self, now: Tick, sink: &mut impl NatSink) -> bool {
        let coarse = tcp::coarse(now);
        for _ in 0..FLOWS_PER_POLL {
            let Some(number) = self.flows.wheel.pop(&mut self.flows.slab, coarse) else { return false };
            let flow = &self.flows.slab[number];
            let due = flow.last.saturating_add(self.lifetimes.of(flow.state));
            self.flows.wheel.schedule(&mut self.flows.slab, number, due);
            if due <= coarse {
                self.end_flow(number, now, sink);
            }
        }
        true
    }

    fn expire_blocks(&mut self, now: Tick, sink: &mut impl NatSink) -> bool {
        for _ in 0..BLOCKS_PER_POLL {
            let Some((block, number)) = self.ports.next_idle(now) else { return false };
            let host = &mut self.hosts.slab[number];
            host.blocks.retain(|held| *held != block);
            self.release(number, block, now, sink);
            self.end_idle_host(number, now);
        }
        true
    }

    fn release(&mut self, host: u32, block: u32, now: Tick, sink: &mut impl NatSink) {
        let (address, first, ports) = self.ports.extent(block);
        self.ports.release(block, now);
        self.hosts.rest(host, Resting { ports: ports.into(), blocks: 1, flows: 0 }, now);
        let insider = self.hosts.slab[host].insider;
        sink.event(NatEvent::BlockReleased { insider, block: PortBlock { address, first, ports } });
    }

    pub(super) fn end_idle_host(&mut self, number: u32, now: Tick) {
        if self.hosts.slab[number].is_idle() {
            self.hosts.remove(number, now);
        }
    }

    /// Ends a flow, and its mapping if no other keeps that.
    pub(super) fn end_flow(&mut self, number: u32, now: Tick, sink: &mut impl NatSink) {
        let flow = self.detach(number, sink);
        self.flows.remove(number);
        if flow.mapping != NONE {
            let mapping = &self.mappings.slab[flow.mapping];
            if mapping.active == 0 && !mapping.is_pinned() {
                self.end_mapping(flow.mapping, now, sink);
            }
        } else if flow.host != NONE {
            self.end_idle_host(flow.host, now);
        }
    }

    /// Takes a flow from its mapping or host and tells of its end. It stays in the table of flows.
    fn detach(&mut self, number: u32, sink: &mut impl NatSink) -> Flow {
        let flow = self.flows.slab[number];
        let active = flow.flags & ACTIVE != 0;
        if flow.mapping != NONE {
            let mapping = &mut self.mappings.slab[flow.mapping];
            table::unlink(&mut self.flows.slab, &mut mapping.flows, number, |flow| &mut flow.siblings);
            mapping.active -= u32::from(active);
        } else if flow.host != NONE {
            let head = &mut self.hosts.slab[flow.host].overlaps;
            table::unlink(&mut self.flows.slab, head, number, |flow| &mut flow.siblings);
        }
        if !active {
            self.passive = self.passive.saturating_sub(1);
        }
        if flow.host != NONE {
            let host = &mut self.hosts.slab[flow.host];
            host.flows = host.flows.saturating_sub(1);
            if flow.flags & RECORDED != 0 {
                sink.event(NatEvent::FlowEnded {
                    insider: host.insider,
                    translation: flow.translation(),
                    remote: flow.remote_end(),
                });
            }
        }
        flow
    }

    /// Ends a mapping with all its flows. A static one loses its flows only.
    pub(super) fn end_mapping(&mut self, number: u32, now: Tick, sink: &mut impl NatSink) {
        let host = self.mappings.slab[number].host;
        self.drop_mapping(number, now, sink);
        if host != NONE {
            self.end_idle_host(host, now);
        }
    }

    fn drop_mapping(&mut self, number: u32, now: Tick, sink: &mut impl NatSink) {
        while self.mappings.slab[number].flows != NONE {
            let flow = self.mappings.slab[number].flows;
            self.detach(flow, sink);
            self.flows.remove(flow);
        }
        if self.mappings.slab[number].flags & mappings::STATIC != 0 {
            return;
        }
        let host = self.mappings.slab[number].host;
        let head = &mut self.hosts.slab[host].mappings;
        table::unlink(&mut self.mappings.slab, head, number, |mapping| &mut mapping.siblings);
        let mapping = self.mappings.remove(number);
        if mapping.flags & mappings::PCP != 0 {
            self.pcp.forget(number);
        }
        if mapping.block != NONE {
            self.ports.give(mapping.block, mapping.proto, mapping.outside_port, now);
        } else if let Some(area) = self.plan.area_of(mapping.outside) {
            self.ports.give_common(area, mapping.proto, mapping.outside_port, now);
            self.hosts.rest(host, Resting { ports: 1, ..Resting::default() }, now);
        }
        self.hosts.uncount_port(host);
        if mapping.flags & mappings::RECORDED != 0 {
            let insider = self.hosts.slab[host].insider;
            sink.event(NatEvent::MappingEnded { insider, translation: mapping.translation() });
        }
    }

    /// Ends everything of an inside address at once. Its blocks rest, and so do ports that it shared, towards the
    /// destinations it used them for: what is still on its way must not reach another member.
    pub(super) fn end_host(&mut self, number: u32, now: Tick, sink: &mut impl NatSink) {
        let address = self.hosts.slab[number].insider.address;
        for n in 0..self.plan.statics().len() {
            let fixed = self.plan.statics()[n];
            let mapping = self.mappings.of_inside(fixed.proto, address, fixed.inside.port());
            if let Some(mapping) = mapping.filter(|_| *fixed.inside.ip() == address) {
                self.drop_mapping(mapping, now, sink);
            }
        }
        while self.hosts.slab[number].overlaps != NONE {
            let flow = self.hosts.slab[number].overlaps;
            self.rest(flow, now, sink);
        }
        while self.hosts.slab[number].mappings != NONE {
            let mapping = self.hosts.slab[number].mappings;
            self.drop_mapping(mapping, now, sink);
        }
        for block in std::mem::take(&mut self.hosts.slab[number].blocks) {
            self.release(number, block, now, sink);
        }
        self.hosts.remove(number, now);
    }

    fn rest(&mut self, number: u32, now: Tick, sink: &mut impl NatSink) {
        let flow = self.detach(number, sink);
        self.hosts.rest(flow.host, Resting { flows: 1, ..Resting::default() }, now);
        self.flows.hide_from_inside(number);
        let due = tcp::coarse(now).saturating_add(self.lifetimes.of(State::Resting));
        let flow = &mut self.flows.slab[number];
        flow.state = State::Resting;
        flow.last = tcp::coarse(now);
        (flow.host, flow.mapping) = (NONE, NONE);
        // Nobody counts it as one that only the outside uses.
        flow.flags = ACTIVE;
        self.flows.reschedule(number, due);
    }

    /// Ends all mappings of a member.
    pub fn end_member(&mut self, member: MemberId, now: Tick, sink: &mut impl NatSink) {
        let hosts: Vec<u32> = self.hosts.numbers().filter(|n| self.hosts.slab[*n].insider.member == member).collect();
        for host in hosts {
            self.end_host(host, now, sink);
        }
    }

    /// Ends all mappings of an inside address, whoever has it.
    pub fn end_address(&mut self, address: Ipv4Addr, now: Tick, sink: &mut impl NatSink) {
        if let Some(host) = self.hosts.of(address) {
            self.end_host(host, now, sink);
        }
    }

    /// The same, if it is `member` who has it: another one may have begun with it meanwhile.
    pub fn end_address_of(&mut self, address: Ipv4Addr, member: MemberId, now: Tick, sink: &mut impl NatSink) {
        if let Some(host) = self.hosts.of(address).filter(|host| self.hosts.slab[*host].insider.member == member) {
            self.end_host(host, now, sink);
        }
    }

    /// Ends flows that the policy does not allow any more.
    fn end_forbidden(&mut self, now: Tick, sink: &mut impl NatSink) {
        for number in 0..self.flows.slab.end() {
            let flow = &self.flows.slab[number];
            // Places without a flow have no external address.
            let lives = !flow.outside.is_unspecified() && flow.state != State::Resting;
            let outwards = flow.flags & super::flows::HAIRPIN == 0 && flow.flags & ACTIVE != 0;
            if lives && outwards && !self.policy.allows(flow.proto.number(), flow.remote, flow.remote_port) {
                self.end_flow(number, now, sink);
            }
        }
    }
}

/// About a millisecond of work.
const FLOWS_PER_POLL: usize = 4_096;
const BLOCKS_PER_POLL: usize = 1_024;
/// When to come again if nothing waits.
const NOTHING_DUE: Duration = Duration::from_secs(3_600);
