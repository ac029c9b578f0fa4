//! The gateway on the worker that owns it: frames for it, what it wants to be done.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::plan::RouterPlan;
use super::{EventSink, Fabric, RouterEvent};
use crate::gateway::dns::DnsQuestion;
use crate::gateway::{Gateway, GatewayEvent, GatewaySink, Handled, Origin};
use crate::hub::port::PortBits;
use crate::hub::{FrameMeta, Scope};
use crate::ids::{HubId, PortId};
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

/// A gateway, as prepared by the control threads.
pub struct HostSeed {
    /// With its leases restored.
    pub gateway: Gateway,
    /// Where its records go.
    pub journal: Box<dyn Journal>,
    /// Where its questions go.
    pub ask: Ask,
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
    /// Replies that wait for a record to be on disk, in the order of records.
    held: VecDeque<Held>,
}

struct Held {
    record: u64,
    to: PortId,
    frame: Box<[u8]>,
}

impl Host {
    pub(super) fn new(seed: HostSeed) -> Self {
        let HostSeed { gateway, journal, ask } = seed;
        Self { gateway, side: HostSide { journal, ask, held: VecDeque::new() } }
    }

    /// Runs `errand` with the gateway and everything it may want.
    pub(super) fn run<R>(
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
        if self.side.held.len() >= HELD_MAX || durable == u64::MAX {
            return self.fabric.counters.drop_frame(DropReason::GatewayJournalSlow);
        }
        self.side.held.push_back(Held { record: durable, to, frame: frame.into() });
    }

    fn ask_upstream(&mut self, question: DnsQuestion) {
        (self.side.ask)(question);
    }

    fn event(&mut self, event: GatewayEvent) {
        (self.events)(self.plan.hub, RouterEvent::Gateway(event), self.now);
    }

    fn dropped(&mut self, reason: DropReason) {
        self.fabric.counters.drop_frame(reason);
    }
}

impl Fabric {
    /// A frame for the gateway, on the worker that has it.
    pub(super) fn visit_host(&mut self, hub: HubId, meta: FrameMeta, frame: Frame<'_>, now: Tick) {
        let Some(origin) = self.origin(hub, meta) else {
            return self.counters.drop_frame(DropReason::EgressPortGone);
        };
        let handled = self.with_router(hub, |router, fabric| {
            let host = router.host.as_mut()?;
            let visit = |gateway: &mut Gateway, sink: &mut Sink<'_>| gateway.frame(&origin, frame, now, sink);
            Some(host.run(&router.plan, &router.events, fabric, now, visit))
        });
        // Its sender is bound now: it goes on, and cannot come back here.
        if handled == Some(Some(Handled::Adopted)) {
            self.to_host(hub, FrameMeta { scope: Scope::Hosts, ..meta }, frame, now);
        }
    }

    /// Who sent a frame; `None` if he has gone meanwhile.
    fn origin(&self, hub: HubId, meta: FrameMeta) -> Option<Origin> {
        let tenant = self.seats.get(usize::from(hub.0))?.shared.tenant(meta.ingress)?;
        let is_bridge = meta.bits.has(PortBits::BRIDGE);
        Some(Origin { port: meta.ingress, session: tenant.session, member: tenant.member, is_bridge })
    }

    pub(super) fn poll_host(&mut self, hub: HubId, now: Tick) {
        self.with_router(hub, |router, fabric| {
            if let Some(host) = &mut router.host {
                host.run(&router.plan, &router.events, fabric, now, |gateway, sink| gateway.poll(now, sink));
            }
        });
    }
}

/// Replies that may wait for the disk: a boot of every member at once.
const HELD_MAX: usize = 8192;
