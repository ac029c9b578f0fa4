//! Which packets belong to the lane, as programs for the kernel.
//!
//! Three answers to the same question: [`LaneFilter::socket`] says what our sockets get, [`LaneFilter::steer`] which
//! worker's, [`LaneFilter::host`] what the host's own stack must not see, because it would answer with a reset or with
//! "port unreachable".
//!
//! What only the host could do harm with is taken from it, nothing more: an address shared with it still gets all
//! answers to its own pings (their identifiers are random, and a stack says nothing to an answer that it did not
//! expect), and of fragments to it only first ones that name a port of ours are held back; a datagram without its first
//! fragment is forgotten in silence (RFC 1122 §3.3.2).
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::sys::bpf::{Label, Meta, Program, Size, Test};
use crate::wire::{arp, ipv4, tcp, udp};

/// What belongs to the lanes of a hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneFilter {
    /// Outside addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// They are ours alone: everything to them is ours.
    pub dedicated: bool,
    /// By worker: ports of TCP and UDP, and identifiers of ICMP.
    pub slices: Vec<RangeInclusive<u16>>,
    /// Single ports.
    pub statics: Vec<StaticPort>,
}

/// A port that belongs to a worker whatever the slices say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticPort {
    /// 6 or 17.
    pub protocol: u8,
    /// Outside address.
    pub address: Ipv4Addr,
    /// Outside port.
    pub port: u16,
    /// Whose.
    pub worker: usize,
}

/// `TCX_NEXT`: the next program, or the stack, decides.
pub const HOST_MAY_SEE: u32 = u32::MAX;
/// `TCX_DROP`.
pub const HOST_MAY_NOT_SEE: u32 = 2;
/// A filter's answer is the number of bytes to be kept.
const TAKE: u32 = u32::MAX;
const REFUSE: u32 = 0;

impl LaneFilter {
    /// What our sockets get: 0 for nothing.
    pub fn socket(&self) -> Program {
        let mut p = Program::new();
        let (yes, no, is_arp) = (p.label(), p.label(), p.label());
        of_other_vlan(&mut p, no);
        p.load_meta(Meta::Protocol);
        p.jump_if(Test::Equal, u32::from(arp::ETHERTYPE), is_arp);
        unless_equal(&mut p, u32::from(ipv4::ETHERTYPE), no);
        p.load_meta(Meta::PacketType);
        unless_equal(&mut p, TO_US, no);
        p.load(Size::Word, IP_DST);
        self.unless_ours(&mut p, no);
        if self.dedicated {
            p.jump(yes);
        } else {
            p.load(Size::Half, IP_FRAGMENT);
            p.jump_if(Test::AnyBit, FRAGMENT, yes);
            self.by_protocol(&mut p, yes, no, true);
        }
        p.place(is_arp);
        self.arp(&mut p, yes, no);
        p.place(yes);
        p.ret(TAKE);
        p.place(no);
        p.ret(REFUSE);
        p
    }

    /// ARP alone: what a packet socket hears beside sockets that get everything else.
    pub fn ears(&self) -> Program {
        let mut p = Program::new();
        let (yes, no) = (p.label(), p.label());
        of_other_vlan(&mut p, no);
        p.load_meta(Meta::Protocol);
        unless_equal(&mut p, u32::from(arp::ETHERTYPE), no);
        self.arp(&mut p, yes, no);
        p.place(yes);
        p.ret(TAKE);
        p.place(no);
        p.ret(REFUSE);
        p
    }

    /// What the host's stack must not see: [`HOST_MAY_NOT_SEE`] or [`HOST_MAY_SEE`].
    pub fn host(&self) -> Program {
        let mut p = Program::new();
        let (ours, theirs) = (p.label(), p.label());
        of_other_vlan(&mut p, theirs);
        p.load_meta(Meta::Protocol);
        unless_equal(&mut p, u32::from(ipv4::ETHERTYPE), theirs);
        p.load_meta(Meta::PacketType);
        p.jump_if(Test::Equal, TO_ANOTHER, theirs);
        p.load(Size::Word, IP_DST);
        self.unless_ours(&mut p, theirs);
        if self.dedicated {
            p.jump(ours);
        } else {
            p.load(Size::Half, IP_FRAGMENT);
            p.jump_if(Test::AnyBit, FRAGMENT_OFFSET, theirs);
            self.by_protocol(&mut p, ours, theirs, false);
        }
        p.place(ours);
        p.ret(HOST_MAY_NOT_SEE);
        p.place(theirs);
        p.ret(HOST_MAY_SEE);
        p
    }

    /// Number of the worker: that of the port, of an answer's identifier, of what an error of ICMP is about. The
    /// first gets the rest, among it ARP and fragments.
    pub fn steer(&self) -> Program {
        let mut p = Program::new();
        let (first, icmp, l4, by_number) = (p.label(), p.label(), p.label(), p.label());
        let workers: Vec<_> = self.slices.iter().map(|_| p.label()).collect();
        p.load_meta(Meta::Protocol);
        unless_equal(&mut p, u32::from(ipv4::ETHERTYPE), first);
        p.load(Size::Half, IP_FRAGMENT);
        p.jump_if(Test::AnyBit, FRAGMENT, first);
        header_to_x(&mut p);
        p.load(Size::Byte, IP_PROTOCOL);
        p.jump_if(Test::Equal, u32::from(ICMP), icmp);
        for protocol in [tcp::PROTOCOL, udp::PROTOCOL] {
            p.jump_if(Test::Equal, u32::from(protocol), l4);
        }
        p.jump(first);

        p.place(l4);
        for group in self.static_groups() {
            let next = p.label();
            p.load(Size::Word, IP_DST);
            unless_equal(&mut p, u32::from(group.address), next);
            p.load(Size::Byte, IP_PROTOCOL);
            unless_equal(&mut p, u32::from(group.protocol), next);
            p.load_indexed(Size::Half, L4_DST_PORT);
            group.workers(&mut p, &workers);
            p.jump(by_number);
            p.place(next);
        }
        p.load_indexed(Size::Half, L4_DST_PORT);
        p.jump(by_number);

        p.place(icmp);
        let (answer, error) = (p.label(), p.label());
        icmp_kinds(&mut p, answer, error, first);
        p.place(answer);
        p.load_indexed(Size::Half, ICMP_ID);
        p.jump(by_number);
        p.place(error);
        self.steer_errors(&mut p, &workers, by_number, first);

        p.place(by_number);
        for (slice, worker) in self.slices.iter().zip(&workers).filter(|(slice, _)| !slice.is_empty()) {
            if_within(&mut p, (u32::from(*slice.start()), u32::from(*slice.end())), *worker);
        }
        p.place(first);
        p.ret(0);
        for (number, worker) in (0..).zip(workers) {
            p.place(worker);
            p.ret(number);
        }
        p
    }

    /// The part of [`Self::steer`] for errors of ICMP.
    fn steer_errors(&self, p: &mut Program, workers: &[Label], by_number: Label, first: Label) {
        let (inner_l4, inner_icmp) = (p.label(), p.label());
        p.load_indexed(Size::Byte, INNER + IP_PROTOCOL);
        p.jump_if(Test::Equal, u32::from(ICMP), inner_icmp);
        for protocol in [tcp::PROTOCOL, udp::PROTOCOL] {
            p.jump_if(Test::Equal, u32::from(protocol), inner_l4);
        }
        p.jump(first);
        p.place(inner_l4);
        for group in self.static_groups() {
            let next = p.label();
            p.load_indexed(Size::Word, INNER + IP_SRC);
            unless_equal(p, u32::from(group.address), next);
            p.load_indexed(Size::Byte, INNER + IP_PROTOCOL);
            unless_equal(p, u32::from(group.protocol), next);
            inner_to_x(p);
            p.load_indexed(Size::Half, INNER);
            group.workers(p, workers);
            p.jump(by_number);
            p.place(next);
        }
        inner_to_x(p);
        p.load_indexed(Size::Half, INNER);
        p.jump(by_number);
        p.place(inner_icmp);
        inner_to_x(p);
        p.load_indexed(Size::Half, INNER + ICMP_ID);
        p.jump(by_number);
    }

    /// `yes` for what a port, an identifier (unless `queries` is false) or the packet inside an error of ICMP makes ours.
    fn by_protocol(&self, p: &mut Program, yes: Label, no: Label, queries: bool) {
        header_to_x(p);
        let (icmp, tcp_label, udp_label) = (p.label(), p.label(), p.label());
        p.load(Size::Byte, IP_PROTOCOL);
        p.jump_if(Test::Equal, u32::from(tcp::PROTOCOL), tcp_label);
        p.jump_if(Test::Equal, u32::from(udp::PROTOCOL), udp_label);
        p.jump_if(Test::Equal, u32::from(ICMP), icmp);
        p.jump(no);
        for (label, protocol) in [(tcp_label, tcp::PROTOCOL), (udp_label, udp::PROTOCOL)] {
            p.place(label);
            p.load_indexed(Size::Half, L4_DST_PORT);
            self.if_port_is_ours(p, protocol, yes);
            p.jump(no);
        }
        p.place(icmp);
        let (answer, error) = (p.label(), p.label());
        icmp_kinds(p, answer, error, no);
        p.place(answer);
        if queries {
            p.load_indexed(Size::Half, ICMP_ID);
            self.if_in_slices(p, yes);
        }
        p.jump(no);

        p.place(error);
        p.load_indexed(Size::Word, INNER + IP_SRC);
        self.unless_ours(p, no);
        let (inner_icmp, inner_tcp, inner_udp) = (p.label(), p.label(), p.label());
        p.load_indexed(Size::Byte, INNER + IP_PROTOCOL);
        p.jump_if(Test::Equal, u32::from(tcp::PROTOCOL), inner_tcp);
        p.jump_if(Test::Equal, u32::from(udp::PROTOCOL), inner_udp);
        p.jump_if(Test::Equal, u32::from(ICMP), inner_icmp);
        p.jump(no);
        for (label, protocol) in [(inner_tcp, tcp::PROTOCOL), (inner_udp, udp::PROTOCOL)] {
            p.place(label);
            inner_to_x(p);
            p.load_indexed(Size::Half, INNER);
            self.if_port_is_ours(p, protocol, yes);
            p.jump(no);
        }
        p.place(inner_icmp);
        if queries {
            inner_to_x(p);
            p.load_indexed(Size::Half, INNER + ICMP_ID);
            self.if_in_slices(p, yes);
        }
        p.jump(no);
    }

    /// ARP that the lane needs: answers, questions for our addresses, signs that somebody else has one, and
    /// announcements (a router that takes over from another says so).
    fn arp(&self, p: &mut Program, yes: Label, no: Label) {
        p.load_meta(Meta::PacketType);
        p.jump_if(Test::AtLeast, TO_A_GROUP, no);
        p.load(Size::Half, ARP_OPERATION);
        p.jump_if(Test::Equal, ARP_REPLY, yes);
        for at in [ARP_TARGET, ARP_SENDER] {
            p.load(Size::Word, at);
            self.if_ours(p, yes);
        }
        p.to_x();
        p.load(Size::Word, ARP_TARGET);
        p.jump_if_x(yes);
        p.jump(no);
    }

    /// Goes on only if the address in A is ours.
    fn unless_ours(&self, p: &mut Program, no: Label) {
        let ours = p.label();
        self.if_ours(p, ours);
        p.jump(no);
        p.place(ours);
    }

    fn if_ours(&self, p: &mut Program, yes: Label) {
        for range in runs(self.addresses.iter().map(|address| u32::from(*address)).collect()) {
            if_within(p, range, yes);
        }
    }

    /// Looks at the port in A.
    fn if_port_is_ours(&self, p: &mut Program, protocol: u8, yes: Label) {
        self.if_in_slices(p, yes);
        // The address is one of ours already, and which of them matters only to the NAT.
        let ports = self.statics.iter().filter(|port| port.protocol == protocol).map(|port| u32::from(port.port));
        for range in runs(ports.collect()) {
            if_within(p, range, yes);
        }
    }

    fn if_in_slices(&self, p: &mut Program, yes: Label) {
        let mut slices: Vec<_> = self.slices.iter().filter(|slice| !slice.is_empty()).collect();
        slices.sort_unstable_by_key(|slice| *slice.start());
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for slice in slices {
            let (start, end) = (u32::from(*slice.start()), u32::from(*slice.end()));
            match merged.last_mut() {
                Some(last) if start <= last.1 + 1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        for range in merged {
            if_within(p, range, yes);
        }
    }

    /// Static ports by address and protocol.
    fn static_groups(&self) -> Vec<StaticGroup> {
        let mut groups: Vec<StaticGroup> = Vec::new();
        for &StaticPort { protocol, address, port, worker } in &self.statics {
            let at = groups.iter().position(|group| (group.address, group.protocol) == (address, protocol));
            let at = at.unwrap_or_else(|| {
                groups.push(StaticGroup { address, protocol, ports: Vec::new() });
                groups.len() - 1
            });
            groups[at].ports.push((port, worker));
        }
        groups
    }
}

/// Static ports of one address and protocol.
struct StaticGroup {
    address: Ipv4Addr,
    protocol: u8,
    ports: Vec<(u16, usize)>,
}

impl StaticGroup {
    /// Goes to the label of the worker that has the port in A, if one has.
    fn workers(&self, p: &mut Program, workers: &[Label]) {
        for (port, worker) in &self.ports {
            if let Some(worker) = workers.get(*worker) {
                p.jump_if(Test::Equal, u32::from(*port), *worker);
            }
        }
    }
}

/// Goes to `to` unless A is `number`.
fn unless_equal(p: &mut Program, number: u32, to: Label) {
    let equal = p.label();
    p.jump_if(Test::Equal, number, equal);
    p.jump(to);
    p.place(equal);
}

fn if_within(p: &mut Program, (start, end): (u32, u32), yes: Label) {
    if start == end {
        p.jump_if(Test::Equal, start, yes);
        return;
    }
    let above = p.label();
    p.jump_if(Test::Above, end, above);
    p.jump_if(Test::AtLeast, start, yes);
    p.place(above);
}

/// Goes to `no` for frames of a VLAN; a tag of VLAN 0 has a priority only.
fn of_other_vlan(p: &mut Program, no: Label) {
    let untagged = p.label();
    p.load_meta(Meta::VlanPresent);
    p.jump_if(Test::Equal, 0, untagged);
    p.load_meta(Meta::VlanTag);
    p.jump_if(Test::AnyBit, 0xfff, no);
    p.place(untagged);
}

/// X = length of the IP header.
fn header_to_x(p: &mut Program) {
    p.load(Size::Byte, 0);
    p.and(0xf);
    p.shift_left(2);
    p.to_x();
}

/// X, the length of the IP header, becomes that plus the length of the IP header inside an error of ICMP.
fn inner_to_x(p: &mut Program) {
    p.load_indexed(Size::Byte, INNER);
    p.and(0xf);
    p.shift_left(2);
    p.add_x();
    p.to_x();
}

/// By the type of ICMP: an answer to a query, an error, or neither.
fn icmp_kinds(p: &mut Program, answer: Label, error: Label, neither: Label) {
    p.load_indexed(Size::Byte, 0);
    for kind in ICMP_ANSWERS {
        p.jump_if(Test::Equal, kind, answer);
    }
    for kind in ICMP_ERRORS {
        p.jump_if(Test::Equal, kind, error);
    }
    p.jump(neither);
}

/// Numbers as ranges of such that follow each other.
fn runs(mut numbers: Vec<u32>) -> Vec<(u32, u32)> {
    numbers.sort_unstable();
    numbers.dedup();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(number) => last.1 = number,
            _ => runs.push((number, number)),
        }
    }
    runs
}

const IP_FRAGMENT: u16 = 6;
const IP_PROTOCOL: u16 = 9;
const IP_SRC: u16 = 12;
const IP_DST: u16 = 16;
/// Offset, or that more follow.
const FRAGMENT: u32 = 0x3fff;
const FRAGMENT_OFFSET: u32 = 0x1fff;
const L4_DST_PORT: u16 = 2;
const ICMP: u8 = 1;
const ICMP_ID: u16 = 4;
/// The packet that an error is about begins behind the header of ICMP.
const INNER: u16 = 8;
/// Echo reply, timestamp reply (RFC 792).
const ICMP_ANSWERS: [u32; 2] = [0, 14];
/// Destination unreachable, time exceeded, parameter problem; source quench is dead (RFC 6633), redirects are not for us.
const ICMP_ERRORS: [u32; 3] = [3, 11, 12];
const ARP_OPERATION: u16 = 6;
const ARP_REPLY: u32 = 2;
const ARP_SENDER: u16 = 14;
const ARP_TARGET: u16 = 24;
const TO_US: u32 = 0;
const TO_A_GROUP: u32 = 2;
const TO_ANOTHER: u32 = 3;
