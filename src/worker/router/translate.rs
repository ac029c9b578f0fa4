//! Packets between members and the Internet: through the NAT of this worker, by the lane or the mailbox.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use super::super::parcel::{Dest, Parcel};
use super::plan::{PORT_CONTROL, RouterPlan};
use super::{EventSink, Fabric, Router, RouterEvent, lane_counts};
use crate::hub::{FrameMeta, Scope};
use crate::ids::{HubId, MemberId};
use crate::lane::any::AnyLaneIo;
use crate::lane::cut::cut;
use crate::lane::outlet::Outlet;
use crate::lane::{Lane, LaneStats, PacketSink};
use crate::metrics::drops::DropReason;
use crate::nat::{Insider, Nat, NatEvent, NatPlan, NatSink, fragment};
use crate::tick::Tick;
use crate::wire::ethernet::{FRAME_BYTES_MAX, Frame, HEADER_BYTES, Mac};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::offload::Offload;
use crate::wire::udp;

/// This worker's end of the lane.
pub(super) struct LaneSide {
    pub(super) lane: Option<Lane<AnyLaneIo>>,
    /// It may have packets.
    pub(super) ready: bool,
    /// Its device is one that the worker does not watch yet.
    pub(super) is_new: bool,
    /// What of its counts stands in the counters of the worker.
    pub(super) counted: LaneStats,
}

/// Where packets for the Internet go.
enum Exit<'a> {
    /// To the lane.
    Lane(&'a mut Lane<AnyLaneIo>),
    /// To the lane, which is being read.
    Outlet(&'a mut Outlet),
    /// Nowhere: the hub has no lane.
    None,
}

/// Packets that members sent to our own public addresses, until the end of the step.
#[derive(Default)]
pub(super) struct Packets {
    queue: VecDeque<(Box<[u8]>, Offload)>,
}

impl Packets {
    /// `false` if there is no room.
    fn push(&mut self, packet: &[u8], offload: Offload) -> bool {
        let fits = self.queue.len() < WAITING_MAX;
        if fits {
            self.queue.push_back((packet.into(), offload));
        }
        fits
    }
}

/// What NAT wants, brought to lane, mailbox and members.
struct Towards<'a> {
    plan: &'a RouterPlan,
    exit: Exit<'a>,
    hairpins: &'a mut Packets,
    events: &'a EventSink,
    /// Where a frame is put together.
    frame: &'a mut [u8; FRAME_BYTES_MAX],
    fabric: &'a mut Fabric,
    now: Tick,
}

impl Towards<'_> {
    /// Gives a packet for the Internet to the worker that has a queue of the device, as it travels on a wire.
    fn relay(&mut self, worker: usize, packet: &mut [u8], offload: Offload) {
        let Self { plan, fabric, frame, .. } = self;
        fabric.counters.lane_relayed.add(1);
        let mut send = |packet: &[u8]| hand_over(fabric, plan, worker, Dest::Uplink, packet, frame);
        if offload == Offload::NONE {
            send(packet);
        } else if cut(packet, offload, INSIDE_MTU, &mut send) == 0 {
            self.dropped(DropReason::GatewayMalformed);
        }
    }
}

impl NatSink for Towards<'_> {
    #[inline]
    fn send(&mut self, packet: &mut [u8], offload: Offload) {
        match &mut self.exit {
            Exit::Lane(lane) => match lane.relay() {
                None => lane.push(packet, offload, self.now),
                Some(worker) => self.relay(worker, packet, offload),
            },
            Exit::Outlet(outlet) => outlet.push(packet, offload, self.now),
            Exit::None => self.dropped(DropReason::NatNoLane),
        }
    }

    fn hairpin(&mut self, packet: &mut [u8], offload: Offload) {
        if !self.hairpins.push(packet, offload) {
            self.dropped(DropReason::NatHairpinFull);
        }
    }

    #[inline]
    fn deliver(&mut self, inside: Ipv4Addr, packet: &mut [u8], offload: Offload) {
        let Some(binding) = self.plan.bindings.of(inside) else { return self.dropped(DropReason::NatNoMember) };
        let (plan, now) = (self.plan, self.now);
        let mut place = |packet: &[u8]| match framed(self.frame, header(binding.mac, plan.mac), packet) {
            Some(frame) => self.fabric.bring(plan, binding.port, frame, now),
            None => self.fabric.counters.drop_frame(DropReason::FrameTooLong),
        };
        if offload == Offload::NONE {
            place(packet);
        } else if cut(packet, offload, INSIDE_MTU, &mut place) == 0 {
            self.dropped(DropReason::GatewayMalformed);
        }
    }

    fn hand_over(&mut self, worker: usize, packet: &mut [u8]) {
        hand_over(self.fabric, self.plan, worker, Dest::Inbound, packet, self.frame);
    }

    fn dropped(&mut self, reason: DropReason) {
        self.fabric.counters.drop_frame(reason);
    }

    fn event(&mut self, event: NatEvent) {
        (self.events)(self.plan.hub, RouterEvent::Nat(event), self.now);
    }
}

/// Sends a whole packet to another worker: from outside to the one that owns its public port, translated to one that
/// has a queue of the device.
fn hand_over(
    fabric: &mut Fabric,
    plan: &RouterPlan,
    worker: usize,
    to: Dest,
    packet: &[u8],
    room: &mut [u8; FRAME_BYTES_MAX],
) {
    let Some(frame) = framed(room, header(Mac::from_bits(0), Mac::from_bits(0)), packet) else {
        return fabric.counters.drop_frame(DropReason::FrameTooLong);
    };
    let parcel = Parcel { hub: plan.hub, to, meta: plan.meta(Scope::Unicast) };
    fabric.hand_over(worker, parcel, frame.bytes());
}

/// `packet` behind `header` in `room`; `None` if it is too long for a frame.
#[inline]
fn framed<'r>(room: &'r mut [u8; FRAME_BYTES_MAX], header: [u8; HEADER_BYTES], packet: &[u8]) -> Option<Frame<'r>> {
    let (front, rest) = room.split_first_chunk_mut()?;
    *front = header;
    rest.get_mut(..packet.len())?.copy_from_slice(packet);
    Frame::new_checked(&room[..HEADER_BYTES + packet.len()])
}

/// An Ethernet header for IPv4.
fn header(dst: Mac, src: Mac) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..6].copy_from_slice(&dst.0);
    header[6..12].copy_from_slice(&src.0);
    header[12..].copy_from_slice(&ipv4::ETHERTYPE.to_be_bytes());
    header
}

/// The parts of a router through which a packet goes; `None` without a NAT.
struct Way<'a> {
    nat: &'a mut Nat,
    nat_plan: &'a NatPlan,
    towards: Towards<'a>,
}

impl Router {
    fn way<'a>(&'a mut self, fabric: &'a mut Fabric, now: Tick) -> Option<(Way<'a>, &'a mut [u8; FRAME_BYTES_MAX])> {
        let Self { plan, nat, lane, hairpins, events, scratch, frame, .. } = self;
        let exit = lane.lane.as_mut().map_or(Exit::None, Exit::Lane);
        let towards = Towards { plan, exit, hairpins, events, frame, fabric, now };
        Some((Way { nat: nat.as_mut()?, nat_plan: plan.nat.as_deref()?, towards }, scratch))
    }
}

impl Way<'_> {
    /// A packet from outside, or one that a member sent to a public address of ours.
    #[inline]
    fn inbound(&mut self, packet: &mut [u8], offload: Offload) {
        let Towards { plan, ref mut fabric, ref mut frame, now, .. } = self.towards;
        match self.nat_plan.owner_of_packet(packet) {
            Some(owner) if owner == fabric.index => self.nat.inbound(packet, offload, now, &mut self.towards),
            Some(owner) if offload == Offload::NONE && packet.len() <= INSIDE_MTU => {
                fabric.counters.lane_crossed.add(1);
                hand_over(fabric, plan, owner, Dest::Inbound, packet, frame);
            }
            // A datagram that was put together on its way out, and comes back: the owner puts it together once more.
            Some(owner) if offload == Offload::NONE => {
                let send = |packet: &mut [u8]| hand_over(fabric, plan, owner, Dest::Inbound, packet, frame);
                fragment(packet, INSIDE_MTU, &mut Vec::new(), send);
            }
            // A mailbox carries frames as they travel on a wire.
            Some(owner) => {
                let mut send = |packet: &[u8]| hand_over(fabric, plan, owner, Dest::Inbound, packet, frame);
                if cut(packet, offload, INSIDE_MTU, &mut send) == 0 {
                    self.towards.dropped(DropReason::GatewayMalformed);
                }
            }
            None => self.towards.dropped(DropReason::NatNotOurs),
        }
    }

    /// What members sent to public addresses of ours comes back; a bounded number, since an answer may do so again.
    fn turn_round(&mut self) {
        for _ in 0..WAITING_MAX {
            let Some((mut packet, offload)) = self.towards.hairpins.queue.pop_front() else { return };
            self.inbound(&mut packet, offload);
        }
    }
}

/// What takes packets from the lane; an [`Exit`] is only lent with each of them.
struct Arrivals<'a> {
    plan: &'a RouterPlan,
    nat: &'a mut Nat,
    nat_plan: &'a NatPlan,
    hairpins: &'a mut Packets,
    events: &'a EventSink,
    frame: &'a mut [u8; FRAME_BYTES_MAX],
    fabric: &'a mut Fabric,
    now: Tick,
}

impl PacketSink for Arrivals<'_> {
    #[inline]
    fn announce<'p>(&mut self, packets: impl Iterator<Item = &'p [u8]>) {
        self.nat.warm(packets, false);
    }

    #[inline]
    fn packet(&mut self, outlet: &mut Outlet, packet: &mut [u8], offload: Offload) {
        let Self { plan, nat_plan, events, now, .. } = *self;
        let Self { nat, hairpins, frame, fabric, .. } = self;
        if nat_plan.is_forged(packet) {
            return fabric.counters.drop_frame(DropReason::NatForgedSource);
        }
        let towards = Towards { plan, exit: Exit::Outlet(outlet), hairpins, events, frame, fabric, now };
        let mut way = Way { nat, nat_plan, towards };
        way.inbound(packet, offload);
        way.turn_round();
    }
}

/// What became of a frame for the Internet.
#[derive(PartialEq, Eq)]
enum Passed {
    /// It went on, or was dropped and counted.
    Done,
    /// Port, card and address are not those of a binding.
    Unbound,
}

impl Fabric {
    /// A frame for the Internet, on the worker that owns the address it comes from. `meta.scope` is [`Scope::Hosts`] if
    /// the gateway has just said that it may pass.
    pub(super) fn translate_out(&mut self, hub: HubId, meta: FrameMeta, frame: Frame<'_>, now: Tick) {
        let passed = self.with_router(hub, |router, fabric| router.translate_out(fabric, meta, frame, now));
        if passed != Some(Passed::Unbound) {
            return;
        }
        if meta.scope == Scope::Hosts {
            return self.counters.drop_frame(DropReason::GatewayNotBound);
        }
        let Some(Some(router)) = self.routers.get(usize::from(hub.0)) else { return };
        let owner = router.plan.owner();
        if owner == self.index {
            self.visit_host(hub, meta, frame, now);
        } else {
            self.hand_over(owner, Parcel { hub, to: Dest::Host, meta }, frame.bytes());
        }
    }

    /// A packet from outside that another worker received.
    pub(super) fn translate_in(&mut self, hub: HubId, frame: Frame<'_>, now: Tick) {
        self.with_router(hub, |router, fabric| {
            let Some((mut way, scratch)) = router.way(fabric, now) else { return };
            let packet = &mut scratch[..frame.payload().len()];
            packet.copy_from_slice(frame.payload());
            way.nat.inbound(packet, Offload::NONE, now, &mut way.towards);
            way.turn_round();
        });
    }

    /// A translated packet of a worker whose lane has no queue.
    pub(super) fn send_for_another(&mut self, hub: HubId, frame: Frame<'_>, now: Tick) {
        let Some(Some(router)) = self.routers.get_mut(usize::from(hub.0)) else { return };
        match &mut router.lane.lane {
            // Queues have moved in between: going round in circles would be worse than a lost packet.
            Some(lane) if lane.relay().is_none() => lane.push(frame.payload(), Offload::NONE, now),
            _ => self.counters.drop_frame(DropReason::NatNoLane),
        }
    }

    /// Takes what the lane of `hub` has received; whether there was anything.
    pub(super) fn receive_lane(&mut self, hub: HubId, now: Tick) -> bool {
        let frames = self.with_router(hub, |router, fabric| router.receive(fabric, now));
        frames.is_some_and(|frames| frames > 0)
    }

    /// Ends everything that `member` has in the NAT of this worker.
    pub(super) fn end_member(&mut self, hub: HubId, member: MemberId, now: Tick) {
        self.with_router(hub, |router, fabric| {
            if let Some((way, _)) = router.way(fabric, now) {
                let Way { nat, mut towards, .. } = way;
                nat.end_member(member, now, &mut towards);
            }
        });
    }

    pub(super) fn poll_nat(&mut self, hub: HubId, now: Tick) {
        self.with_router(hub, |router, fabric| {
            if let Some((mut way, _)) = router.way(fabric, now) {
                let next = way.nat.poll(now, &mut way.towards);
                way.turn_round();
                router.is_behind = next <= now;
            }
            if let Some(lane) = &mut router.lane.lane {
                let polled = lane.poll(now);
                router.lane.is_new |= polled.fd_changed;
                // Nobody tells of a device that the worker does not watch, or could not.
                router.lane.ready = true;
                lane_counts::add(&fabric.counters, &router.lane.counted, lane.stats());
                router.lane.counted = *lane.stats();
            }
        });
    }
}

impl Router {
    /// Ends what `member` has in the NAT of this worker under `address`.
    pub(super) fn end_address(&mut self, fabric: &mut Fabric, address: Ipv4Addr, member: MemberId, now: Tick) {
        if let Some((way, _)) = self.way(fabric, now) {
            let Way { nat, mut towards, .. } = way;
            nat.end_address_of(address, member, now, &mut towards);
        }
    }

    fn receive(&mut self, fabric: &mut Fabric, now: Tick) -> usize {
        let Self { plan, nat, lane: LaneSide { lane, ready, .. }, hairpins, events, frame, .. } = self;
        *ready = false;
        let (Some(lane), Some(nat), Some(nat_plan)) = (lane, nat, plan.nat.as_deref()) else { return 0 };
        let mut arrivals = Arrivals { plan, nat, nat_plan, hairpins, events, frame, fabric, now };
        let received = lane.receive(PACKETS_PER_TURN, now, &mut arrivals);
        *ready = received.more;
        received.frames
    }

    #[inline]
    fn translate_out(&mut self, fabric: &mut Fabric, meta: FrameMeta, frame: Frame<'_>, now: Tick) -> Passed {
        let Some(header) = Ipv4::new_checked(frame.payload()) else { return Passed::Unbound };
        let (src, dst) = (header.src(), header.dst());
        let bound = self.plan.bindings.of(src).filter(|b| b.port == meta.ingress && b.mac == frame.src());
        let Some(binding) = bound else { return Passed::Unbound };
        let Some(whole) = header.whole() else {
            fabric.counters.drop_frame(DropReason::GatewayMalformed);
            return Passed::Done;
        };
        let insider = Insider { address: src, member: binding.member, session: binding.session };
        let to_gateway = dst == self.plan.address;
        let Some((mut way, scratch)) = self.way(fabric, now) else { return Passed::Done };
        if to_gateway {
            way.control_ports(&insider, header, whole);
            return Passed::Done;
        }
        let packet = &mut scratch[..whole.len()];
        packet.copy_from_slice(whole);
        if meta.scope == Scope::Hosts {
            // He is back in another session: what he has is that session's from here on.
            way.nat.session_changed(&insider, &mut way.towards);
        }
        way.nat.outbound(&insider, packet, Offload::NONE, now, &mut way.towards);
        way.turn_round();
        Passed::Done
    }
}

impl Way<'_> {
    /// A request of PCP, answered to its sender.
    fn control_ports(&mut self, insider: &Insider, header: Ipv4<'_>, whole: &[u8]) {
        let (now, gateway) = (self.towards.now, self.towards.plan.address);
        let segment = &whole[header.header_bytes()..];
        let Some((src_port, _)) = udp::l4_ports(segment) else { return };
        let request = segment.get(udp::HEADER_BYTES..).unwrap_or_default();
        let mut answer = [0; ANSWER_BYTES];
        let len = self.nat.pcp(insider, src_port, request, &mut answer, now, &mut self.towards);
        if len == 0 {
            return;
        }
        let mut packet = [0; ipv4::HEADER_BYTES_MIN + udp::HEADER_BYTES + ANSWER_BYTES];
        let datagram = udp::datagram((gateway, PORT_CONTROL), (insider.address, src_port), &answer[..len], &mut packet);
        self.towards.deliver(insider.address, datagram, Offload::NONE);
    }
}

/// Packets that wait for the end of a step; more would be a loop.
const WAITING_MAX: usize = 64;
/// As many as a few hundred thousand small packets a second bring between two turns; of super-packets, 4 MB.
const PACKETS_PER_TURN: usize = 64;
/// Longest packet to a member.
const INSIDE_MTU: usize = 1500;
/// Longest message of PCP (RFC 6887 §7).
const ANSWER_BYTES: usize = 1100;
