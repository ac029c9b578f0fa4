//! ICMP of our own: why a packet goes nowhere, and answers to echo requests.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::events::NatSink;
use super::hash::{Key, Random, Secret};
use super::limits::Rate;
use super::parse::Head;
use super::{Nat, rewrite};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::offload::Offload;
use crate::wire::{icmp, ipv4};

/// What the sender of a refused packet is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Nothing,
    TimeExceeded,
    /// With what the next link carries.
    TooBig(u16),
    /// With the code.
    Unreachable(u8),
}

/// Why a packet goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: DropReason,
    pub(super) answer: Answer,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, answer: Answer::Nothing }
    }
}

impl Refusal {
    pub(super) const fn ttl() -> Self {
        Self { reason: DropReason::NatTtl, answer: Answer::TimeExceeded }
    }

    /// By a rule or quota (RFC 5508 REQ-8).
    pub(super) const fn prohibited(reason: DropReason) -> Self {
        Self { reason, answer: Answer::Unreachable(icmp::CODE_PROHIBITED) }
    }

    /// For want of ports or memory (RFC 6888 REQ-11).
    pub(super) const fn exhausted(reason: DropReason) -> Self {
        Self { reason, answer: Answer::Unreachable(icmp::CODE_HOST) }
    }
}

/// How often we answer. Members are told apart by a hash of their address: who shares a place with a noisy one hears
/// less.
#[derive(Debug)]
pub(super) struct Answers {
    members: Box<[Rate]>,
    internet: Rate,
    secret: Secret,
}

impl Answers {
    pub(super) fn new(random: &mut Random) -> Self {
        let members = vec![Rate::default(); PLACES].into();
        Self { members, internet: Rate::default(), secret: Secret::new(random) }
    }

    fn allow_member(&mut self, address: Ipv4Addr, per_sec: u32, now: Tick) -> bool {
        let key = Key { local: address.into(), remote: 0, local_port: 0, remote_port: 0, proto: 0 };
        self.members[self.secret.hash(key) as usize % PLACES].allow(per_sec, now)
    }
}

impl Nat {
    /// Tells a member what became of his packet, which is as he sent it.
    pub(super) fn answer_inside(
        &mut self,
        address: Ipv4Addr,
        head: &Head,
        packet: &[u8],
        answer: Answer,
        now: Tick,
        sink: &mut impl NatSink,
    ) {
        let settings = self.plan.settings();
        let (per_sec, gateway) = (settings.icmp.per_sec, settings.gateway);
        let Some((kind, rest)) = message(answer) else { return };
        if !settings.icmp.to_members || !is_answerable(head, packet) {
            return;
        }
        if self.answers.allow_member(address, per_sec, now) {
            let mut error = [0; icmp::ERROR_BYTES_MAX];
            let length = icmp::error((gateway, address), kind, rest, packet, &mut error);
            self.stats.icmp_sent += 1;
            sink.deliver(address, &mut error[..length], Offload::NONE);
        }
    }

    /// Tells somebody in the Internet.
    pub(super) fn answer_outside(
        &mut self,
        head: &Head,
        packet: &[u8],
        answer: Answer,
        now: Tick,
        sink: &mut impl NatSink,
    ) {
        let Some((kind, rest)) = message(answer) else { return };
        let settings = self.plan.settings().icmp;
        let ours = self.plan.is_external(head.dst);
        if !settings.to_internet || !ours || !is_answerable(head, packet) {
            return;
        }
        // The sender is one of our own members when the packet came by hairpin.
        let hairpin = self.plan.is_external(head.src);
        if self.answers.internet.allow(settings.per_sec, now) {
            let mut error = [0; icmp::ERROR_BYTES_MAX];
            let length = icmp::error((head.dst, head.src), kind, rest, packet, &mut error);
            self.stats.icmp_sent += 1;
            let error = &mut error[..length];
            if hairpin { sink.hairpin(error, Offload::NONE) } else { sink.send(error, Offload::NONE) }
        }
    }

    /// A member pings one of our external addresses.
    pub(super) fn answer_echo_inside(
        &mut self,
        head: &Head,
        packet: &mut [u8],
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<(), Refusal> {
        let per_sec = self.plan.settings().icmp.per_sec;
        if !icmp::is_intact(&packet[head.l4..]) || !self.answers.allow_member(head.src, per_sec, now) {
            return Err(DropReason::NatIcmpType.into());
        }
        echo_reply(packet, head);
        self.stats.icmp_sent += 1;
        sink.deliver(head.src, packet, Offload::NONE);
        Ok(())
    }

    /// Somebody in the Internet does.
    pub(super) fn answer_echo_outside(
        &mut self,
        head: &Head,
        packet: &mut [u8],
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<(), Refusal> {
        let settings = self.plan.settings().icmp;
        let answers = settings.answer_echo && icmp::is_intact(&packet[head.l4..]);
        if !answers || !self.answers.internet.allow(settings.per_sec, now) {
            return Err(DropReason::NatIcmpType.into());
        }
        echo_reply(packet, head);
        self.stats.icmp_sent += 1;
        sink.send(packet, Offload::NONE);
        Ok(())
    }
}

/// Type and code, and the last four bytes of the header.
fn message(answer: Answer) -> Option<((u8, u8), u32)> {
    match answer {
        Answer::Nothing => None,
        Answer::TimeExceeded => Some(((icmp::TIME_EXCEEDED, 0), 0)),
        Answer::TooBig(mtu) => Some(((icmp::UNREACHABLE, icmp::CODE_TOO_BIG), mtu.into())),
        Answer::Unreachable(code) => Some(((icmp::UNREACHABLE, code), 0)),
    }
}

/// No errors about errors, later fragments, or what was sent to or from more than one (RFC 1812 §4.3.2.7).
fn is_answerable(head: &Head, packet: &[u8]) -> bool {
    let about_error = head.protocol == icmp::PROTOCOL && packet.get(head.l4).is_none_or(|kind| icmp::is_error(*kind));
    let one = |address: Ipv4Addr| {
        !(address.is_multicast() || address.is_broadcast() || address.is_unspecified() || address.is_loopback())
    };
    !about_error && one(head.src) && !head.dst.is_multicast() && !head.dst.is_broadcast()
}

/// Turns a request into its answer.
fn echo_reply(packet: &mut [u8], head: &Head) {
    packet[12..16].copy_from_slice(&head.dst.octets());
    packet[16..20].copy_from_slice(&head.src.octets());
    packet[8] = ECHO_TTL;
    packet[10..12].fill(0);
    let checksum = crate::wire::checksum::Sum::ZERO.bytes(&packet[..head.l4]).finish();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let message = &mut packet[head.l4..];
    let old = rewrite::word(message, 0);
    message[0] = icmp::ECHO_REPLY;
    let change = crate::wire::checksum::Sum::ZERO.without(old).word(rewrite::word(message, 0));
    let field = crate::wire::checksum::update(rewrite::word(message, 2), change);
    message[2..4].copy_from_slice(&field.to_be_bytes());
    debug_assert!(head.l4 >= ipv4::HEADER_BYTES_MIN, "a parsed header");
}

const ECHO_TTL: u8 = 64;
/// 16 KiB; a /24 of busy members hardly meets.
const PLACES: usize = 2_048;
