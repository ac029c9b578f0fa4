//! A frame leaves: on the worker that owns the egress port, the hub has its last word, then the frame is
//! copied once, into the record under construction for the member, or into his queue, from which a later
//! flush copies it once more. Nothing is sent here: `dirty` names the connections to flush at the end of the turn.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::exchange::{Header, Outbox};
use super::parcel::{Dest, Parcel};
use super::router::{Later, Router};
use super::slots::{Port, PortTable};
use super::turn::HOUSEKEEPING;
use crate::hub::meta::EDITED_BYTES_MAX;
use crate::hub::{self, Egress, FrameMeta, HubShared, HubView, PortSettings, Tenant};
use crate::ids::{ConnKey, HubId, PortId};
use crate::metrics::counters::Counters;
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::tunnel::link::{Pools, Pushed};
use crate::wire::ethernet::Frame;
use crate::wire::super_frame::SuperFrame;

/// Everything a frame meets on one worker between two sockets.
pub struct Fabric {
    /// Which worker this is.
    pub index: usize,
    /// Ports that live here.
    pub ports: PortTable,
    /// Hubs, by [`HubId`].
    pub seats: Vec<Seat>,
    /// Storage for frames and records on their way out.
    pub pools: Pools,
    /// The way to other workers.
    pub outbox: Outbox,
    /// What this worker counts.
    pub counters: Arc<Counters>,
    /// Connections to flush before the turn ends. May name some twice, and some that are gone.
    pub dirty: Vec<ConnKey>,
    /// Ports in whose delivery a defect showed; the worker ends their sessions within the turn.
    pub broken: Vec<PortId>,
    /// This worker's part in the ways out of hubs, by [`HubId`].
    pub(super) routers: Vec<Option<Box<Router>>>,
    /// Those of them with a NAT.
    pub(super) laned: Vec<HubId>,
    /// Answers of gateways to the port that is being served.
    pub(super) later: Later,
    /// Ports of a flood, kept for its capacity.
    fan: Vec<PortId>,
}

/// A worker's seat at a hub.
pub struct Seat {
    /// What all workers share.
    pub shared: Arc<HubShared>,
    /// What is this worker's alone.
    pub view: HubView,
    /// The port of the hub's gateway, whatever worker has it.
    pub host: Option<PortId>,
}

impl Fabric {
    /// Without ports.
    pub fn new(
        index: usize,
        frames_max: usize,
        outbox: Outbox,
        hubs: &Arc<[Arc<HubShared>]>,
        counters: Arc<Counters>,
    ) -> Self {
        let worker = u8::try_from(index).expect("fewer than 64 workers");
        let mut fabric = Self {
            index,
            ports: PortTable::new(worker),
            seats: Vec::new(),
            pools: Pools::new(frames_max),
            outbox,
            counters,
            dirty: Vec::new(),
            broken: Vec::new(),
            routers: Vec::new(),
            laned: Vec::new(),
            later: Later::default(),
            fan: Vec::new(),
        };
        fabric.configure(hubs);
        fabric
    }

    /// Takes a seat at every hub that is new.
    pub fn configure(&mut self, hubs: &Arc<[Arc<HubShared>]>) {
        for shared in hubs.iter().skip(self.seats.len()) {
            self.seats.push(Seat { shared: Arc::clone(shared), view: HubView::new(self.index), host: None });
        }
    }

    /// Puts `port` on its hub. `false` if there is no such hub or it has no room.
    pub fn open_port(&mut self, port: Box<Port>, settings: PortSettings) -> bool {
        let opened = match self.seats.get_mut(usize::from(port.hub.0)) {
            Some(seat) => seat.shared.open_port(&mut seat.view, port.id, settings).map_err(|error| error.to_string()),
            None => Err("there is no such hub".into()),
        };
        if let Err(error) = opened {
            tracing::error!(port = %port.id, %error, "a port could not be opened");
            self.ports.remove(&port);
            return false;
        }
        let seat = &self.seats[usize::from(port.hub.0)];
        seat.shared.set_tenant(port.id, Tenant { session: port.session, member: port.member });
        self.ports.insert(port);
        self.counters.ports.set(self.ports.len() as u64);
        true
    }

    /// Takes a port off its hub; its name is never valid again.
    pub fn close_port(&mut self, id: PortId) -> Option<Box<Port>> {
        let port = self.ports.take(id)?;
        if let Some(seat) = self.seats.get_mut(usize::from(port.hub.0)) {
            seat.shared.close_port(&mut seat.view, id);
        }
        self.tell_departure(port.hub, port.session);
        self.ports.remove(&port);
        self.counters.ports.set(self.ports.len() as u64);
        Some(port)
    }

    /// Source addresses learned behind `port`.
    pub fn macs_of(&self, port: &Port) -> u32 {
        self.seats.get(usize::from(port.hub.0)).map_or(0, |seat| seat.shared.macs(port.id))
    }

    /// Gives `frame` to the member behind `to`, a port of this worker. A panic in it costs the session behind
    /// `to` alone: whoever sent the frame, here or on another worker, goes on.
    #[inline]
    pub fn deliver(&mut self, hub: HubId, to: PortId, meta: FrameMeta, frame: Frame<'_>, now: Tick) {
        let done = catch_unwind(AssertUnwindSafe(|| self.place(hub, to, meta, frame, now)));
        if done.is_err() && !self.broken.contains(&to) {
            self.broken.push(to);
        }
    }

    #[inline]
    fn place(&mut self, hub: HubId, to: PortId, meta: FrameMeta, frame: Frame<'_>, now: Tick) {
        let Some(seat) = self.seats.get_mut(usize::from(hub.0)) else { return };
        let Some(port) = self.ports.get_mut(to) else { return self.counters.drop_frame(DropReason::EgressPortGone) };
        let mut edited;
        let bytes = match hub::egress(&seat.shared, &mut seat.view, to, meta, frame) {
            Egress::Pass => frame.bytes(),
            Egress::Rewrite(edit) => {
                edited = [0; EDITED_BYTES_MAX];
                let len = edit.apply(frame, &mut edited);
                &edited[..len]
            }
            Egress::Drop(reason) => return self.counters.drop_frame(reason),
        };
        let pushed = port.link.push(bytes, now, &mut self.pools);
        note(pushed, 1, &mut self.dirty, &self.counters);
    }

    /// The same for a super-frame.
    pub fn deliver_super(&mut self, hub: HubId, to: PortId, meta: FrameMeta, frame: &SuperFrame<'_>, now: Tick) {
        let done = catch_unwind(AssertUnwindSafe(|| self.place_super(hub, to, meta, frame, now)));
        if done.is_err() && !self.broken.contains(&to) {
            self.broken.push(to);
        }
    }

    fn place_super(&mut self, hub: HubId, to: PortId, meta: FrameMeta, frame: &SuperFrame<'_>, now: Tick) {
        let Some(seat) = self.seats.get_mut(usize::from(hub.0)) else { return };
        let frames = frame.on_wire().0;
        let Some(port) = self.ports.get_mut(to) else {
            return self.counters.drop_frames(DropReason::EgressPortGone, frames);
        };
        match hub::egress(&seat.shared, &mut seat.view, to, meta, frame.head()) {
            Egress::Pass => {
                let Self { pools, dirty, counters, .. } = self;
                port.link.push_super(frame, now, pools, &mut |pushed, frames| note(pushed, frames, dirty, counters));
            }
            Egress::Rewrite(_) => frame.cut(&mut |segment| {
                if let Some(segment) = Frame::new_checked(segment) {
                    self.place(hub, to, meta, segment, now);
                }
            }),
            Egress::Drop(reason) => self.counters.drop_frames(reason, frames),
        }
    }

    /// Gives `frame` to every member of `hub` on this worker but the one it came from.
    pub fn fan_out(&mut self, hub: HubId, meta: FrameMeta, frame: Frame<'_>, now: Tick) {
        let Some(seat) = self.seats.get(usize::from(hub.0)) else { return };
        let host = seat.host;
        let mut fan = std::mem::take(&mut self.fan);
        fan.extend(seat.view.flood_ports(meta));
        for to in fan.drain(..) {
            if Some(to) == host {
                self.to_host(hub, meta, frame, now);
            } else {
                self.deliver(hub, to, meta, frame, now);
            }
        }
        self.fan = fan;
    }

    /// Takes a frame that another worker has handed over.
    #[inline]
    pub fn take_in(&mut self, header: &Header, bytes: &[u8], now: Tick) {
        let parcel = Parcel::from_words(*header);
        if let (Dest::Port(to), 1..) = (parcel.to, parcel.meta.segment_bytes) {
            let Some(frame) = SuperFrame::new_checked(bytes, parcel.meta.segment_bytes) else { return };
            return self.deliver_super(parcel.hub, to, parcel.meta, &frame, now);
        }
        let Some(frame) = Frame::new_checked(bytes) else { return };
        match parcel.to {
            Dest::Port(to) => self.deliver(parcel.hub, to, parcel.meta, frame, now),
            Dest::Flood => self.fan_out(parcel.hub, parcel.meta, frame, now),
            Dest::Host | Dest::Outbound | Dest::Inbound | Dest::Uplink => {
                self.run_errand(parcel.hub, parcel.to, parcel.meta, frame, now);
            }
        }
    }

    /// Ages a part of each FDB, such that all of it is seen once in 60 s.
    pub fn housekeeping(&mut self, now: Tick) {
        for Seat { shared, view, .. } in &mut self.seats {
            let runs = SWEEP.as_millis() / HOUSEKEEPING.as_millis() * self.outbox.workers() as u128;
            let buckets = (shared.fdb_buckets() as u128).div_ceil(runs);
            shared.sweep(view, usize::try_from(buckets).unwrap_or(usize::MAX), now);
            self.counters.fdb_full.add(view.take_not_learned());
        }
    }
}

/// Notes what became of something that is `frames` frames on a wire.
#[inline(always)]
fn note(pushed: Pushed, frames: u64, dirty: &mut Vec<ConnKey>, counters: &Counters) {
    match pushed {
        Pushed::Building { key, first } => {
            if first {
                dirty.push(key);
            }
        }
        Pushed::Waiting => counters.queued.add(frames),
        Pushed::Replacing { reason, shed } => {
            counters.queued.add(frames);
            counters.drop_frames(reason, shed.into());
        }
        Pushed::Dropped(reason) => counters.drop_frames(reason, frames),
    }
}

/// How long old entries may stay in the table after their time; nobody is sent to them.
const SWEEP: Duration = Duration::from_secs(60);
