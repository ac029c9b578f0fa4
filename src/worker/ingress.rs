//! A frame enters the hub: policy, learning and lookup decide, the fabric carries it on.
//!
//! To the hub's gateway: an errand ([`super::router`]). To one port of this worker: delivered at once. To one of another worker: into its mailbox. A flood: once into
//! the mailbox of each worker that has ports to flood, then to the ports here.
#![forbid(unsafe_code)]

use super::egress::Fabric;
use super::parcel::{Dest, Parcel};
use crate::hub::{self, FrameMeta, Verdict};
use crate::ids::{HubId, PortId};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::tunnel::link::FrameSink;
use crate::wire::ethernet::Frame;
use crate::wire::super_frame::{SuperFrame, on_wire};

/// Takes the frames of one member, in the step in which his bytes are read.
pub struct Ingress<'a> {
    /// Everything a frame meets on this worker.
    pub fabric: &'a mut Fabric,
    /// Where the frames enter.
    pub port: PortId,
    /// The hub of that port.
    pub hub: HubId,
    /// Time of this turn.
    pub now: Tick,
}

impl FrameSink for Ingress<'_> {
    #[inline]
    fn frame(&mut self, frame: &[u8]) {
        self.fabric.switch(self.hub, self.port, frame, self.now);
    }

    fn super_frame(&mut self, frame: &SuperFrame<'_>) {
        self.fabric.switch_super(self.hub, self.port, frame, self.now);
    }

    fn dropped(&mut self, reason: DropReason) {
        self.fabric.counters.drop_frame(reason);
    }
}

impl Fabric {
    /// Decides where `bytes`, a frame that entered by `port`, leaves, and takes it there.
    pub fn switch(&mut self, hub: HubId, port: PortId, bytes: &[u8], now: Tick) {
        self.counters.frames_in.add(1);
        self.counters.bytes_in.add(bytes.len() as u64);
        let Some(frame) = Frame::new_checked(bytes) else {
            return self.counters.drop_frame(DropReason::FrameTooShort);
        };
        let Some(seat) = self.seats.get_mut(usize::from(hub.0)) else { return };
        let host = seat.host;
        match hub::ingress(&seat.shared, &mut seat.view, port, frame, now) {
            Verdict::Unicast(to, meta) if host == Some(to) => self.to_host(hub, meta, frame, now),
            Verdict::Unicast(_, meta) if host.is_some() && self.is_false_claim(hub, meta, frame, now) => {
                self.counters.drop_frame(DropReason::GatewayArpClaim);
            }
            Verdict::Unicast(to, meta) if to.worker() == self.index => self.deliver(hub, to, meta, frame, now),
            Verdict::Unicast(to, meta) => self.hand_over(to.worker(), Parcel { hub, to: Dest::Port(to), meta }, bytes),
            Verdict::Flood(meta) => {
                self.counters.floods.add(1);
                self.flood(hub, meta, frame, now);
            }
            Verdict::Drop(reason) => self.counters.drop_frame(reason),
        }
    }

    /// The same for a super-frame. From member to member it stays whole; the gateway, and whoever is flooded, gets its
    /// segments, each of which is decided upon by itself.
    fn switch_super(&mut self, hub: HubId, port: PortId, frame: &SuperFrame<'_>, now: Tick) {
        let Some(seat) = self.seats.get_mut(usize::from(hub.0)) else { return };
        let verdict = hub::ingress(&seat.shared, &mut seat.view, port, frame.head(), now);
        let (frames, bytes) = frame.on_wire();
        match verdict {
            Verdict::Unicast(to, meta) if seat.host != Some(to) => {
                let meta = FrameMeta { segment_bytes: frame.segment_bytes(), ..meta };
                if to.worker() == self.index {
                    self.deliver_super(hub, to, meta, frame, now);
                } else {
                    self.hand_over(to.worker(), Parcel { hub, to: Dest::Port(to), meta }, frame.bytes());
                }
            }
            Verdict::Unicast(..) | Verdict::Flood(_) => {
                return frame.cut(&mut |segment| self.switch(hub, port, segment, now));
            }
            Verdict::Drop(reason) => self.counters.drop_frames(reason, frames),
        }
        self.counters.frames_in.add(frames);
        self.counters.bytes_in.add(bytes);
    }

    /// Brings a frame once to every worker that has ports for it, and to the ports here.
    pub(super) fn flood(&mut self, hub: HubId, meta: FrameMeta, frame: Frame<'_>, now: Tick) {
        for worker in 0..self.outbox.workers() {
            let wanted = worker != self.index && self.seats[usize::from(hub.0)].shared.floods_to(worker, meta);
            if wanted {
                self.hand_over(worker, Parcel { hub, to: Dest::Flood, meta }, frame.bytes());
            }
        }
        self.fan_out(hub, meta, frame, now);
    }

    pub(super) fn hand_over(&mut self, worker: usize, parcel: Parcel, bytes: &[u8]) {
        if self.outbox.push(worker, &parcel.to_words(), bytes) {
            self.counters.handed_over.add(1);
        } else {
            let frames = match parcel.meta.segment_bytes {
                0 => 1,
                segment_bytes => on_wire(bytes, bytes.len(), segment_bytes).0,
            };
            self.counters.drop_frames(DropReason::MailboxFull, frames);
        }
    }
}
