//! The NAT between two devices, without tunnel and hub: what lane and NAT alone cost.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hublane::ids::{MemberId, SessionId};
use hublane::lane::Lane;
use hublane::lane::any::AnyLaneIo;
use hublane::lane::outlet::Outlet;
use hublane::metrics::drops::DropReason;
use hublane::nat::{Insider, Nat, NatEvent, NatPlan, NatSettings, NatSink, Prefix, Rule};
use hublane::tick::Tick;
use hublane::wire::ipv4::Ipv4;
use hublane::wire::offload::Offload;

use super::{BURST, Outcome, now, report, wait};

/// What the NAT wants, brought to the lane of the other side.
struct Towards<'a> {
    lane: &'a mut Lane<AnyLaneIo>,
    drops: &'a mut u64,
    now: Tick,
}

impl NatSink for Towards<'_> {
    fn send(&mut self, packet: &mut [u8], offload: Offload) {
        self.lane.push(packet, offload, self.now);
    }

    fn hairpin(&mut self, _: &mut [u8], _: Offload) {
        *self.drops += 1;
    }

    fn deliver(&mut self, _: Ipv4Addr, packet: &mut [u8], offload: Offload) {
        self.lane.push(packet, offload, self.now);
    }

    fn hand_over(&mut self, _: usize, _: &mut [u8]) {
        *self.drops += 1;
    }

    fn dropped(&mut self, _: DropReason) {
        *self.drops += 1;
    }

    fn event(&mut self, _: NatEvent) {}
}

/// `inside` receives what stations there send to the outside, `outside` has the address `own`.
pub(super) fn masquerade(
    mut inside: Lane<AnyLaneIo>,
    mut outside: Lane<AnyLaneIo>,
    stations: Prefix,
    own: Ipv4Addr,
    allow: Prefix,
) -> Outcome {
    let mut settings = NatSettings::new(1, stations, stations.last(), vec![Prefix::new(own, 32)]);
    settings.policy.allow = vec![Rule::to(allow)];
    settings.limits.new_flows_per_sec = 0;
    settings.limits.destinations_per_min = 0;
    let start = Instant::now();
    let mut nat = Nat::new(Arc::new(NatPlan::new(settings)?), 0, 7, now(start));
    let (mut drops, mut told, mut last) = (0, 0, [Default::default(); 2]);
    let mut nat_due = now(start);
    loop {
        let now = now(start);
        let mut towards = Towards { lane: &mut outside, drops: &mut drops, now };
        let out = inside.receive(BURST, now, &mut |_: &mut Outlet, packet: &mut [u8], offload: Offload| {
            let Some(address) = Ipv4::new_checked(packet).map(Ipv4::src) else { return };
            let from = Insider { address, member: MemberId(1), session: SessionId(1) };
            nat.outbound(&from, packet, offload, now, &mut towards);
        });
        outside.flush(now);
        let mut towards = Towards { lane: &mut inside, drops: &mut drops, now };
        let back = outside.receive(BURST, now, &mut |_: &mut Outlet, packet: &mut [u8], offload: Offload| {
            nat.inbound(packet, offload, now, &mut towards);
        });
        inside.flush(now);
        if now >= nat_due {
            nat_due = nat.poll(now, &mut Towards { lane: &mut inside, drops: &mut drops, now });
        }
        let next = inside.poll(now).next.min(outside.poll(now).next);
        if now.as_ms() / 200 != told {
            told = now.as_ms() / 200;
            report("inside", &inside, &mut last[0]);
            report("outside", &outside, &mut last[1]);
        }
        if !out.more && !back.more {
            wait(&[&inside, &outside], next.since(now).min(Duration::from_millis(200)));
        }
    }
}
