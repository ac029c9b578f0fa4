//! What the DHCP server wants, brought to the hub: replies as frames, probes as ARP, leases as bindings.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::arp::{self, ArpGuard};
use super::bindings::Binding;
use super::datagram::FrameBuffer;
use super::dhcp::{DhcpEvent, DhcpReply, DhcpServer, DhcpSink};
use super::dns::Forwarder;
use super::{GatewayEvent, GatewaySink};
use crate::hub::limiter::StormLimiter;
use crate::ids::PortId;
use crate::metrics::drops::DropReason;
use crate::tick::Tick;

/// See the module text.
pub(super) struct DhcpPort<'g, S> {
    pub(super) guard: &'g ArpGuard,
    pub(super) buffer: &'g mut FrameBuffer,
    pub(super) floods: &'g mut StormLimiter,
    pub(super) floods_per_sec: u32,
    pub(super) dns: &'g mut Forwarder,
    /// Addresses whose hosts may have said new names.
    pub(super) renamed: Vec<Ipv4Addr>,
    pub(super) now: Tick,
    pub(super) sink: &'g mut S,
}

impl<S> DhcpPort<'_, S> {
    /// Tells the forwarder what the hosts call themselves.
    pub(super) fn rename(&mut self, dhcp: &DhcpServer) {
        for address in self.renamed.drain(..) {
            self.dns.set_name(address, dhcp.host_name(address));
        }
    }
}

impl<S: GatewaySink> DhcpSink for DhcpPort<'_, S> {
    fn answer(&mut self, to: PortId, reply: &DhcpReply<'_>, durable: Option<u64>) {
        let frame = self.buffer.dhcp(self.guard.mac, reply);
        match durable {
            Some(record) => self.sink.reply_when(record, to, frame),
            None => self.sink.reply(to, frame),
        }
    }

    fn probe(&mut self, address: Ipv4Addr) {
        if self.floods.allow(self.floods_per_sec, self.now) {
            self.sink.flood(&arp::probe(self.guard, address));
        } else {
            self.sink.dropped(DropReason::GatewayRate);
        }
    }

    fn bind(&mut self, address: Ipv4Addr, binding: Option<Binding>) {
        let before = self.guard.bindings.of(address);
        if before == binding {
            return;
        }
        self.guard.bindings.set(address, binding);
        if binding.is_none() {
            self.dns.set_name(address, None);
        }
        self.sink.event(GatewayEvent::Bound { address, before, after: binding });
    }

    fn journal(&mut self, record: &[u8]) -> u64 {
        self.sink.journal(record)
    }

    fn event(&mut self, event: DhcpEvent) {
        if let DhcpEvent::Granted { address, .. }
        | DhcpEvent::Renewed { address, .. }
        | DhcpEvent::Moved { address, .. } = event
            && self.dns.has_zone()
        {
            self.renamed.push(address);
        }
        self.sink.event(GatewayEvent::Dhcp(event));
    }

    fn dropped(&mut self, reason: DropReason) {
        self.sink.dropped(reason);
    }
}
