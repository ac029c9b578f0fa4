//! Placeholder until the DHCP server is merged: has its types, serves nobody.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::Origin;
use super::bindings::Binding;
use crate::ids::{PortId, SessionId};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::ethernet::Mac;

#[derive(Clone, Debug, Default)]
pub struct DhcpSettings {}

#[derive(Clone, Debug)]
pub struct DhcpEvent;

pub struct DhcpRequest<'a> {
    pub origin: &'a Origin,
    pub src_mac: Mac,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub payload: &'a [u8],
}

pub struct DhcpReply<'a> {
    pub dst_mac: Mac,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub dst_port: u16,
    pub payload: &'a [u8],
}

pub trait DhcpSink {
    fn answer(&mut self, to: PortId, reply: &DhcpReply<'_>, durable: Option<u64>);
    fn probe(&mut self, address: Ipv4Addr);
    fn bind(&mut self, address: Ipv4Addr, binding: Option<Binding>);
    fn journal(&mut self, record: &[u8]) -> u64;
    fn event(&mut self, event: DhcpEvent);
    fn dropped(&mut self, reason: DropReason);
}

pub struct DhcpServer;

impl DhcpServer {
    pub fn new(_settings: DhcpSettings, _seed: u64, _now: Tick, _unix_s: u64) -> Self {
        Self
    }
    pub fn message(&mut self, _request: DhcpRequest<'_>, _now: Tick, _sink: &mut impl DhcpSink) {}
    pub fn seen(&mut self, _address: Ipv4Addr, _mac: Mac, _now: Tick, _sink: &mut impl DhcpSink) {}
    pub fn poll(&mut self, _now: Tick, _sink: &mut impl DhcpSink) -> Tick {
        Tick(u64::MAX)
    }
    pub fn adopt(
        &mut self,
        _origin: &Origin,
        _mac: Mac,
        _address: Ipv4Addr,
        _now: Tick,
        _sink: &mut impl DhcpSink,
    ) -> bool {
        false
    }
    pub fn session_ended(&mut self, _session: SessionId, _sink: &mut impl DhcpSink) {}
}
