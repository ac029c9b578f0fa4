//! A hub's way out, as far as a worker has a part in it: gateway, NAT, lane.
//!
//! The gateway is one host with one owner, the worker that has its port. NAT is everybody's: an inside address belongs
//! to the worker that arithmetic names, a public port likewise, and each worker has an end of the lane of its own.
//!
//! Out: frame for the gateway's port ([`Fabric::to_host`], on the worker that received it) → [`plan`] says whose errand
//! it is → there, by mailbox or at once: [`host`] for ARP, DHCP, DNS and echo; [`translate`] for the Internet, where
//! port, card and address of the sender are compared with the binding, before NAT rewrites a copy and the lane takes it.
//!
//! In: a packet from the lane → NAT on the worker that owns its public port → the binding of the inside address names
//! card and port of the member → delivered like any frame.
//!
//! Rare things asked by control threads: [`orders`]. A defect met here costs the packet, not the worker.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::egress::Fabric;
use super::parcel::{Dest, Parcel};
use crate::gateway::GatewayEvent;
use crate::gateway::arp::Claim;
use crate::hub::{FrameMeta, PortKind, Scope, Tenant};
use crate::ids::{HubId, MemberId, PortId, SessionId};
use crate::lane::any::AnyLaneIo;
use crate::lane::{Lane, LaneStats};
use crate::metrics::drops::DropReason;
use crate::nat::Nat;
use crate::tick::Tick;
use crate::wire::ethernet::{FRAME_BYTES_MAX, Frame};
use crate::wire::kinds::Kinds;

pub mod departures;
pub mod host;
mod lane_counts;
mod later;
pub mod orders;
pub mod plan;
pub mod translate;
pub mod view;

#[cfg(test)]
mod tests;

use host::{Host, HostSeed};
pub(super) use later::Later;
use plan::RouterPlan;
use translate::{LaneSide, Packets};

/// What happened, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouterEvent {
    /// At the gateway.
    Gateway(crate::gateway::GatewayEvent),
    /// In the NAT.
    Nat(crate::nat::NatEvent),
}

/// Where events go. Called for leases and blocks, and for flows only if the operator wants them.
pub type EventSink = Box<dyn Fn(HubId, RouterEvent, Tick) + Send>;

/// A worker's part, as prepared by the control threads.
pub struct RouterSeed {
    /// What all workers share.
    pub plan: Arc<RouterPlan>,
    /// The gateway, on the worker that owns it.
    pub host: Option<HostSeed>,
    /// The NAT of this worker.
    pub nat: Option<Nat>,
    /// Its end of the lane.
    pub lane: Option<Lane<AnyLaneIo>>,
    /// Where its events go.
    pub events: EventSink,
}

/// A worker's part.
pub struct Router {
    plan: Arc<RouterPlan>,
    host: Option<Host>,
    nat: Option<Nat>,
    lane: LaneSide,
    hairpins: Packets,
    /// More flows are over than the last look has ended.
    is_behind: bool,
    events: EventSink,
    /// When somebody's lie was last told to the log.
    claim_told: Tick,
    /// A packet on its way through the NAT: received frames are not written to.
    scratch: Box<[u8; FRAME_BYTES_MAX]>,
    /// A frame on its way to a member or another worker.
    frame: Box<[u8; FRAME_BYTES_MAX]>,
}

impl Router {
    fn new(seed: RouterSeed) -> Self {
        let RouterSeed { plan, host, nat, lane, events } = seed;
        Self {
            plan,
            host: host.map(Host::new),
            nat,
            lane: LaneSide { lane, ready: true, is_new: true, counted: LaneStats::default() },
            hairpins: Packets::default(),
            is_behind: false,
            events,
            claim_told: Tick::default(),
            scratch: Box::new([0; FRAME_BYTES_MAX]),
            frame: Box::new([0; FRAME_BYTES_MAX]),
        }
    }
}

impl Fabric {
    /// Takes the worker's parts of the hubs' ways out, and opens the ports of the gateways it owns.
    pub fn take_routers(&mut self, seeds: Vec<RouterSeed>, now: Tick) {
        for seed in seeds {
            let place = usize::from(seed.plan.hub.0);
            if place >= self.routers.len() {
                self.routers.resize_with(place + 1, || None);
            }
            if seed.plan.owner() == self.index {
                self.open_host(&seed.plan, now);
            }
            if let Some(seat) = self.seats.get_mut(place) {
                seat.host = Some(seed.plan.port);
            }
            if seed.nat.is_some() {
                self.laned.push(seed.plan.hub);
            }
            self.routers[place] = Some(Box::new(Router::new(seed)));
        }
    }

    /// Puts a gateway on its hub and has its address learned before anybody else can claim it.
    fn open_host(&mut self, plan: &RouterPlan, now: Tick) {
        let port = self.ports.reserve();
        assert_eq!(port, Some(plan.port), "gateways take their slots first, in the order of hubs");
        let Some(seat) = self.seats.get_mut(usize::from(plan.hub.0)) else { return };
        let settings = seat.shared.compile(PortKind::Host, &Default::default());
        if let Err(error) = seat.shared.open_port(&mut seat.view, plan.port, settings) {
            tracing::error!(hub = plan.hub.0, %error, "the gateway has no port");
            return;
        }
        seat.shared.set_tenant(plan.port, Tenant { session: SessionId(0), member: MemberId(0) });
        seat.shared.learn_host(plan.port, plan.mac, now);
    }

    /// A session of `hub` has ended, and its port is closed: the gateway is to know.
    pub(super) fn tell_departure(&self, hub: HubId, session: SessionId) {
        if let Some(Some(router)) = self.routers.get(usize::from(hub.0)) {
            router.plan.departures.add(session);
        }
    }

    /// Runs `errand` with the router of `hub` taken out, so that it can reach everything else of the worker. A panic
    /// costs the packet.
    pub(super) fn with_router<R>(
        &mut self,
        hub: HubId,
        errand: impl FnOnce(&mut Router, &mut Fabric) -> R,
    ) -> Option<R> {
        let mut router = self.routers.get_mut(usize::from(hub.0))?.take()?;
        let done = catch_unwind(AssertUnwindSafe(|| errand(&mut router, self)));
        self.routers[usize::from(hub.0)] = Some(router);
        if done.is_err() {
            tracing::error!(hub = hub.0, "a defect of this server cost a packet at the gateway; please report it");
            self.counters.drop_frame(DropReason::RouterDefect);
        }
        done.ok()
    }

    /// `frame` is for the gateway of `hub`: brings it to the worker whose errand it is.
    pub fn to_host(&mut self, hub: HubId, meta: FrameMeta, frame: Frame<'_>, now: Tick) {
        let Some(Some(router)) = self.routers.get(usize::from(hub.0)) else {
            return self.counters.drop_frame(DropReason::EgressPortGone);
        };
        let (worker, to) = router.plan.errand(meta, frame);
        if worker == self.index {
            return self.run_errand(hub, to, meta, frame, now);
        }
        self.hand_over(worker, Parcel { hub, to, meta }, frame.bytes());
    }

    /// Runs an errand of this worker.
    pub(super) fn run_errand(&mut self, hub: HubId, to: Dest, meta: FrameMeta, frame: Frame<'_>, now: Tick) {
        match to {
            Dest::Host => self.visit_host(hub, meta, frame, now),
            Dest::Outbound => self.translate_out(hub, meta, frame, now),
            Dest::Inbound => self.translate_in(hub, frame, now),
            Dest::Uplink => self.send_for_another(hub, frame, now),
            Dest::Port(_) | Dest::Flood => debug_assert!(false, "a frame of the hub is no errand"),
        }
    }

    /// Whether `frame`, from one stranger to another, says by ARP that an address is with a card that has no right to it.
    #[inline]
    pub(super) fn is_false_claim(&mut self, hub: HubId, meta: FrameMeta, frame: Frame<'_>, now: Tick) -> bool {
        // Among friends kinds are not looked for: they may say what they want.
        let is_arp = meta.kinds.is_some_and(|kinds| kinds.intersects(Kinds::ARP));
        is_arp && self.claims_falsely(hub, meta, frame, now)
    }

    fn claims_falsely(&mut self, hub: HubId, meta: FrameMeta, frame: Frame<'_>, now: Tick) -> bool {
        let Some(origin) = self.origin(hub, meta) else { return false };
        let Some(Some(router)) = self.routers.get_mut(usize::from(hub.0)) else { return false };
        let Some(Claim { mac, address, holder }) = router.plan.guard.refuse(&origin, frame) else { return false };
        if now.since(router.claim_told) >= CLAIMS_TOLD_EVERY {
            router.claim_told = now;
            let event = RouterEvent::Gateway(GatewayEvent::AddressClaimed { origin, mac, address, holder });
            (router.events)(hub, event, now);
        }
        true
    }

    /// Brings a frame from the gateway to one member.
    pub(super) fn bring(&mut self, plan: &RouterPlan, to: PortId, frame: Frame<'_>, now: Tick) {
        let meta = plan.meta(Scope::Unicast);
        if to.worker() == self.index {
            if !self.ports.is_out(to) {
                self.deliver(plan.hub, to, meta, frame, now);
            } else if !self.later.push(plan.hub, to, meta, frame) {
                self.counters.drop_frame(DropReason::GatewayAnswersFull);
            }
        } else if to.worker() < self.outbox.workers() {
            self.hand_over(to.worker(), Parcel { hub: plan.hub, to: Dest::Port(to), meta }, frame.bytes());
        } else {
            self.counters.drop_frame(DropReason::EgressPortGone);
        }
    }

    /// Brings a frame from the gateway to everybody.
    pub(super) fn flood_from_host(&mut self, plan: &RouterPlan, frame: Frame<'_>, now: Tick) {
        self.flood(plan.hub, plan.meta(Scope::All), frame, now);
    }

    /// A device of a lane has something; `watch` is the number of its hub.
    pub(super) fn lane_ready(&mut self, watch: u8) {
        if let Some(Some(router)) = self.routers.get_mut(usize::from(watch)) {
            router.lane.ready = true;
        }
    }

    /// Whether the last turn has left something to do: packets of a lane, or flows whose time is up.
    pub(super) fn lanes_wait(&self) -> bool {
        let waits = |router: &Router| router.is_behind || (router.lane.ready && router.lane.lane.is_some());
        self.laned.iter().any(|hub| self.routers[usize::from(hub.0)].as_deref().is_some_and(waits))
    }

    /// Takes what the lanes have received, a bounded number of packets, and ends a bounded number of flows where NAT is
    /// behind. Returns whether there were packets.
    pub(super) fn receive_lanes(&mut self, now: Tick) -> bool {
        let mut came = false;
        for at in 0..self.laned.len() {
            let hub = self.laned[at];
            let Some(router) = self.routers[usize::from(hub.0)].as_deref() else { continue };
            let (is_ready, is_behind) = (router.lane.ready, router.is_behind);
            if is_ready {
                came |= self.receive_lane(hub, now);
            }
            if is_behind {
                self.poll_nat(hub, now);
            }
        }
        came
    }

    /// The device of the lane of `hub`, if it is to be watched from now on.
    pub(super) fn new_device(&mut self, hub: HubId) -> Option<OwnedFd> {
        let Some(Some(router)) = self.routers.get_mut(usize::from(hub.0)) else { return None };
        if !std::mem::take(&mut router.lane.is_new) {
            return None;
        }
        router.lane.ready = true;
        // Without a descriptor to spare the lane is looked at when time tells.
        router.lane.lane.as_ref()?.fd()?.try_clone_to_owned().ok()
    }

    /// Hands what the turn has sent to the devices.
    pub(super) fn flush_lanes(&mut self, now: Tick) {
        for hub in &self.laned {
            let router = self.routers[usize::from(hub.0)].as_deref_mut();
            if let Some(lane) = router.and_then(|router| router.lane.lane.as_mut()) {
                lane.flush(now);
            }
        }
    }

    /// What time brings to the way out of `hub`.
    pub(super) fn poll_router(&mut self, hub: HubId, now: Tick) {
        self.poll_host(hub, now);
        self.poll_nat(hub, now);
    }

    /// Hubs with a way out.
    pub(super) fn router_hubs(&self) -> impl Iterator<Item = HubId> + '_ {
        self.routers.iter().flatten().map(|router| router.plan.hub)
    }
}

/// Who lies does it often; the counter has them all.
const CLAIMS_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Distance of two looks at what time brings: fine enough for DHCP's probes and ARP, coarse enough that an idle
/// gateway costs nothing to speak of.
pub(super) const POLL: Duration = Duration::from_millis(100);
