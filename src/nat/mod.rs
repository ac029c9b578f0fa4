//! stub
#![forbid(unsafe_code)]
#![allow(unused_variables, missing_docs)]
use crate::ids::{MemberId, SessionId};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::offload::Offload;
use std::net::Ipv4Addr;
use std::sync::Arc;
pub struct Insider {
    pub address: Ipv4Addr,
    pub member: MemberId,
    pub session: SessionId,
}
pub struct NatPlan;
impl NatPlan {
    pub fn owner_of_inside(&self, a: Ipv4Addr) -> usize {
        0
    }
    pub fn owner_of_packet(&self, packet: &[u8]) -> Option<usize> {
        None
    }
}
#[derive(Clone, Debug)]
pub struct NatEvent;
pub struct Nat;
impl Nat {
    pub fn new(plan: Arc<NatPlan>, worker: usize, seed: u64, now: Tick) -> Nat {
        Nat
    }
    pub fn outbound(
        &mut self,
        from: &Insider,
        packet: &mut [u8],
        offload: Offload,
        now: Tick,
        sink: &mut impl NatSink,
    ) {
    }
    pub fn inbound(&mut self, packet: &mut [u8], offload: Offload, now: Tick, sink: &mut impl NatSink) {}
    pub fn pcp(
        &mut self,
        from: &Insider,
        src_port: u16,
        request: &[u8],
        answer: &mut [u8; 1100],
        now: Tick,
        sink: &mut impl NatSink,
    ) -> usize {
        0
    }
    pub fn poll(&mut self, now: Tick, sink: &mut impl NatSink) -> Tick {
        now
    }
    pub fn end_member(&mut self, member: MemberId, now: Tick, sink: &mut impl NatSink) {}
}
pub trait NatSink {
    fn send(&mut self, packet: &mut [u8], offload: Offload);
    fn hairpin(&mut self, packet: &mut [u8], offload: Offload);
    fn deliver(&mut self, inside: Ipv4Addr, packet: &mut [u8], offload: Offload);
    fn hand_over(&mut self, worker: usize, packet: &mut [u8]);
    fn dropped(&mut self, reason: DropReason);
    fn event(&mut self, event: NatEvent);
}
