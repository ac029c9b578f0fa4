//! What the workers know in common about a hub's way out, and whose errand a frame for the gateway is.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::super::parcel::Dest;
use super::departures::Departures;
use crate::gateway::arp::ArpGuard;
use crate::gateway::bindings::Bindings;
use crate::hub::port::PortBits;
use crate::hub::{FrameMeta, Scope};
use crate::ids::{HubId, PortId};
use crate::nat::NatPlan;
use crate::wire::ethernet::{Frame, Mac};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::udp;

/// See the module text. Does not change while the server runs, but for what stands in `bindings` and `departures`.
pub struct RouterPlan {
    /// Which hub.
    pub hub: HubId,
    /// The gateway's place on it.
    pub port: PortId,
    /// The gateway's card.
    pub mac: Mac,
    /// The gateway's address.
    pub address: Ipv4Addr,
    /// Last address of the inside network: directed broadcast.
    pub broadcast: Ipv4Addr,
    /// What members may say about addresses.
    pub guard: ArpGuard,
    /// Who has which inside address.
    pub bindings: Arc<Bindings>,
    /// Sessions of the hub that have ended.
    pub departures: Departures,
    /// How NAT is shared among the workers; `None`: the hub has no way to the Internet.
    pub nat: Option<Arc<NatPlan>>,
}

impl RouterPlan {
    /// The worker that has the gateway.
    pub fn owner(&self) -> usize {
        self.port.worker()
    }

    /// What travels with a frame of the gateway.
    pub fn meta(&self, scope: Scope) -> FrameMeta {
        FrameMeta {
            ingress: self.port,
            bits: PortBits::HOST,
            vlan: 0,
            vlan_assigned: false,
            scope,
            kinds: None,
            segment_bytes: 0,
        }
    }

    /// The worker that has to look at `frame`, which came for the gateway, and as what.
    #[inline]
    pub fn errand(&self, meta: FrameMeta, frame: Frame<'_>) -> (usize, Dest) {
        match self.inside_source(meta, frame) {
            Some((plan, src)) => (plan.owner_of_inside(src), Dest::Outbound),
            None => (self.owner(), Dest::Host),
        }
    }

    /// The sender of a packet for NAT or its port control.
    #[inline]
    fn inside_source(&self, meta: FrameMeta, frame: Frame<'_>) -> Option<(&NatPlan, Ipv4Addr)> {
        let plan = self.nat.as_deref()?;
        if frame.ethertype() != ipv4::ETHERTYPE || meta.vlan != 0 || frame.dst().is_group() {
            return None;
        }
        let packet = Ipv4::new_checked(frame.payload())?;
        let dst = packet.dst();
        let is_hosts = if dst == self.address {
            !is_port_control(packet)
        } else {
            dst == self.broadcast || dst.is_broadcast() || dst.is_multicast() || dst.is_unspecified()
        };
        if is_hosts { None } else { Some((plan, packet.src())) }
    }
}

/// A request of PCP (RFC 6887 §19.1), which is answered where the ports are.
pub(super) fn is_port_control(packet: Ipv4<'_>) -> bool {
    let to_it = || udp::l4_ports(packet.payload()).is_some_and(|(_, dst_port)| dst_port == PORT_CONTROL);
    packet.protocol() == udp::PROTOCOL && !packet.is_fragment() && to_it()
}

/// UDP port of PCP servers.
pub(super) const PORT_CONTROL: u16 = 5351;
