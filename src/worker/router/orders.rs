//! What control threads ask of a hub's way out. Rare: may allocate.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::Fabric;
use super::host::Sink;
use super::view::RouterView;
use crate::gateway::Gateway;
use crate::gateway::dns::DnsAnswer;
use crate::ids::{HubId, MemberId};
use crate::nat::Nat;
use crate::tick::Tick;

/// What to do with a gateway.
pub type HostErrand = Box<dyn FnOnce(&mut Gateway, &mut Sink<'_>, Tick) + Send>;

/// What to do with a worker's part of a NAT.
pub type NatErrand = Box<dyn FnOnce(&mut Nat, Tick) + Send>;

/// An order to a worker about the way out of a hub.
pub enum Order {
    /// Records of the lease file up to this one are on disk. To the worker that has the gateway, as are the next two.
    Durable(u64),
    /// A question to the upstreams came back.
    Answered(DnsAnswer),
    /// Look at the gateway, or change it.
    Host(HostErrand),
    /// End everything that a member has in the NAT. To every worker.
    EndMember(MemberId),
    /// End what a member has in the NAT under an inside address. To the worker that owns the address.
    EndAddress(Ipv4Addr, MemberId),
    /// Tell about gateway, NAT and lane.
    Inspect(Box<dyn FnOnce(RouterView) + Send>),
    /// Look at the NAT, or change it. To every worker.
    Nat(NatErrand),
}

impl Fabric {
    /// Does what was ordered; nothing if the worker has no such part.
    pub(in crate::worker) fn obey_order(&mut self, hub: HubId, order: Order, now: Tick) {
        match order {
            Order::Durable(record) => {
                self.with_router(hub, |router, fabric| {
                    if let Some(host) = &mut router.host {
                        host.durable(record, &router.plan, fabric, now);
                    }
                });
            }
            Order::Answered(answer) => {
                self.with_host(hub, now, |gateway, sink| gateway.upstream_answered(&answer, now, sink));
            }
            Order::Host(ask) => self.with_host(hub, now, |gateway, sink| ask(gateway, sink, now)),
            Order::EndMember(member) => self.end_member(hub, member, now),
            Order::EndAddress(address, member) => {
                self.with_router(hub, |router, fabric| router.end_address(fabric, address, member, now));
            }
            Order::Inspect(answer) => {
                self.with_router(hub, |router, _| answer(router.view()));
            }
            Order::Nat(ask) => {
                self.with_router(hub, |router, _| {
                    if let Some(nat) = &mut router.nat {
                        ask(nat, now);
                    }
                });
            }
        }
    }

    fn with_host(&mut self, hub: HubId, now: Tick, errand: impl FnOnce(&mut Gateway, &mut Sink<'_>)) {
        self.with_router(hub, |router, fabric| {
            router.run_host(fabric, now, errand);
        });
    }
}
