//! The gateway on the worker that owns it: frames for it, what it wants to be done.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use super::orders::Order;
use super::plan::RouterPlan;
use super::{EventSink, Fabric, Router, RouterEvent};
use crate::gateway::dhcp::DhcpEvent;
use crate::gateway::dns::DnsQuestion;
use crate::gateway::{Gateway, GatewayEvent, GatewaySink, Handled, Origin};
use crate::hub::port::PortBits;
use crate::hub::{FrameMeta, Scope};
use crate::ids::{HubId, MemberId, PortId};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::ethernet::Frame;

/// The lease file, as the worker sees it: it never waits.
pub trait Journal: Send {
    /// Takes a record and gives it a number; numbers grow.
    fn record(&mut self, record: &[u8]) -> u64;
    /// Takes what stands for all records so far.
    fn whole(&mut self, content: Vec<u8>);
}

/// Takes a question for the upstreams.
pub type Ask = Box<dyn Fn(DnsQuestion) + Send>;

/// Gives a worker, by number, an order about the way out of the same hub.
pub type Tell = Box<dyn Fn(usize, Order) + Send>;

/// A gateway, as prepared by the control threads.
pub struct HostSeed {
    /// With its leases restored.
    pub gateway: Gateway,
    /// Where its records go.
    pub journal: Box<dyn Journal>,
    /// Where its questions go.
    pub ask: Ask,
    /// How it reaches the other workers.
    pub tell: Tell,
}

/// See the module text.
pub(super) struct Host {
    pub(super) gateway: Gateway,
    side: HostSide,
}

/// What the gateway reaches besides the worker's fabric.
pub(super) struct HostSide {
    journal: Box<dyn Journal>,
    ask: Ask,
    tell: Tell,
    /// Addresses that their members have no more, until the end of the errand.
    given_up: Vec<(Ipv4Addr, MemberId)>,
    /// Replies that wait for a record to be on disk, in the order of records.
    held: VecDeque<Held>,
    /// Records up to this one are on disk.
    durable: u64,
}

struct Held {
    record: u64,
    to: PortId,
    frame: Box<[u8]>,
}

impl Host {
    pub(super) fn new(seed: HostSeed) -> Self {
        let HostSeed { gateway, journal, ask, tell } = seed;
        Self { gateway, side: HostSide { journal, ask, tell, given_up: Vec::new(), held: VecDeque::new(), durable: 0 } }
    }

    /// Runs `errand` with the gateway and everything it may want.
    fn run<R>(
        &mut self,
        plan: &RouterPlan,
        events: &EventSink,
        fabric: &mut Fabric,
        now: Tick,
        errand: impl FnOnce(&mut Gateway, &mut Sink<'_>) -> R,
    ) -> R {
        let mut sink = Sink { plan, events, fabric, side: &mut self.side, now };
        errand(&mut self.gateway, &mut sink)
    }

    /// Records up to `record` are on disk: what waited for them goes out.
    pub(super) fn durable(&mut self, record: u64, plan: &RouterPlan, fabric: &mut Fabric, now: Tick) {
        self.side.durable = self.side.durable.max(record);
        while self.side.held.front().is_some_and(|held| held.record <= record) {
            let Some(held) = self.side.held.pop_front() else { return };
            if let Some(frame) = Frame::new_checked(&held.frame) {
                fabric.bring(plan, held.to, frame, now);
            }
        }
    }
}

/// What a gateway wants, brought to the worker's fabric.
pub struct Sink<'a> {
    plan: &'a RouterPlan,
    events: &'a EventSink,
    fabric: &'a mut Fabric,
    side: &'a mut HostSide,
    now: Tick,
}

impl Sink<'_> {
    /// The lease file is to hold `content` in place of what it holds.
    pub fn rewrite_journal(&mut self, content: Vec<u8>) {
        self.side.journal.whole(content);
    }
}

impl GatewaySink for Sink<'_> {
    fn reply(&mut self, to: PortId, frame: &[u8]) {
        if let Some(frame) = Frame::new_checked(frame) {
            self.fabric.bring(self.plan, to, frame, self.now);
        }
    }

    fn flood(&mut self, frame: &[u8]) {
        if let Some(frame) = Frame::new_checked(frame) {
            self.fabric.flood_from_host(self.plan, frame, self.now);
        }
    }

    fn journal(&mut self, record: &[u8]) -> u64 {
        self.side.journal.record(record)
    }

    fn reply_when(&mut self, durable: u64, to: PortId, frame: &[u8]) {
        if durable <= self.side.durable {
            return self.reply(to, frame);
        }
        if self.side.held.len() >= HELD_MAX || durable == u64::MAX {
            return self.fabric.counters.drop_frame(DropReason::GatewayJournalSlow);
        }
        self.side.held.push_back(Held { record: durable, to, frame: frame.into() });
    }

    fn ask_upstream(&mut self, question: DnsQuestion) {
        (self.side.ask)(question);
    }

    fn event(&mut self, event: GatewayEvent) {
        if self.plan.nat.is_some() {
            self.side.given_up.extend(given_up(&event));
        }
        (self.events)(self.plan.hub, RouterEvent::Gateway(event), self.now);
    }

    fn dropped(&mut self, reason: DropReason) {
        self.fabric.counters.drop_frame(reason);
    }
}

/// The address that somebody has no more by `event`, and who. The end of a session is none: its member comes back, and
/// his mappings are his.
fn given_up(event: &GatewayEvent) -> Option<(Ipv4Addr, MemberId)> {
    match event {
        GatewayEvent::Bound { address, before: Some(before), after: Some(after) } if before.member != after.member => {
            Some((*address, before.member))
        }
        GatewayEvent::Dhcp(DhcpEvent::Ended { address, member, .. }) => Some((*address, *member)),
        _ => None,
    }
}

impl Router {
    /// Runs `errand` with the gateway, if this worker has it. Before it the gateway hears of sessions that have ended;
    /// after it NAT hears of addresses that were given up.
    pub(super) fn run_host<R>(
        &mut self,
        fabric: &mut Fabric,
        now: Tick,
        errand: impl FnOnce(&mut Gateway, &mut Sink<'_>) -> R,
    ) -> Option<R> {
        let host = self.host.as_mut()?;
        let done = host.run(&self.plan, &self.events, fabric, now, |gateway, sink| {
            // All of them: one may be the session whose member sends this frame.
            while let Some(session) = sink.plan.departures.take() {
                gateway.session_ended(session, now, sink);
            }
            errand(gateway, sink)
        });
        while let Some((address, member)) = self.host.as_mut().and_then(|host| host.side.given_up.pop()) {
            self.end_elsewhere(fabric, address, member, now);
        }
        Some(done)
    }

    /// Ends what `member` has in the NAT under `address`, on whatever worker that is.
    fn end_elsewhere(&mut self, fabric: &mut Fabric, address: Ipv4Addr, member: MemberId, now: Tick) {
        let Some(owner) = self.plan.nat.as_ref().map(|nat| nat.owner_of_inside(address)) else { return };
        if owner == fabric.index {
            self.end_address(fabric, address, member, now);
        } else if let Some(host) = &self.host {
            (host.side.tell)(owner, Order::EndAddress(address, member));
        }
    }
}

impl Fabric {
    /// A frame for the gateway, on the worker that has it.
    pub(super) fn visit_host(&mut self, hub: HubId, meta: FrameMeta, frame: Frame<'_>, now: Tick) {
        let Some(origin) = self.origin(hub, meta) else {
            return self.counters.drop_frame(DropReason::EgressPortGone);
        };
        let handled = self.with_router(hub, |router, fabric| {
            let visit = |gateway: &mut Gateway, sink: &mut Sink<'_>| gateway.frame(&origin, frame, now, sink);
            router.run_host(fabric, now, visit)
        });
        if handled != Some(Some(Handled::Adopted)) {
            return;
        }
        if meta.scope == Scope::Hosts {
            // It was here before: it is for nobody that NAT or gateway know.
            return self.counters.drop_frame(DropReason::GatewayIgnored);
        }
        // Its sender is bound now: it goes on.
        self.to_host(hub, FrameMeta { scope: Scope::Hosts, ..meta }, frame, now);
    }

    /// Who sent a frame; `None` if he has gone meanwhile.
    pub(super) fn origin(&self, hub: HubId, meta: FrameMeta) -> Option<Origin> {
        let tenant = self.seats.get(usize::from(hub.0))?.shared.tenant(meta.ingress)?;
        let is_bridge = meta.bits.has(PortBits::BRIDGE);
        Some(Origin { port: meta.ingress, session: tenant.session, member: tenant.member, is_bridge })
    }

    pub(super) fn poll_host(&mut self, hub: HubId, now: Tick) {
        self.with_router(hub, |router, fabric| {
            router.run_host(fabric, now, |gateway, sink| gateway.poll(now, sink));
        });
    }
}

/// Replies that may wait for the disk: a boot of every member at once.
const HELD_MAX: usize = 8192;
