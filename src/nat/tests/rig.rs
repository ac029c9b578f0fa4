//! Packets, a sink that keeps what comes, and a NAT with a clock that tests turn.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use super::through_lane::RealLane;
use crate::ids::{MemberId, SessionId};
use crate::metrics::drops::DropReason;
use crate::nat::*;
use crate::tick::Tick;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::Ipv4;
use crate::wire::offload::Offload;
use crate::wire::{icmp, tcp as wire_tcp, udp as wire_udp};

pub(super) const EXTERNAL: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 5);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
pub(super) const SYN: u8 = wire_tcp::FLAG_SYN;
pub(super) const ACK: u8 = wire_tcp::FLAG_ACK;
pub(super) const FIN: u8 = wire_tcp::FLAG_FIN;
pub(super) const RST: u8 = wire_tcp::FLAG_RST;

pub(super) fn end(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

/// The member with the inside address 100.64.x.y for n = 256 x + y.
pub(super) fn member(n: u32) -> Insider {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + n);
    Insider { address, member: MemberId(n), session: SessionId(1_000 + u64::from(n)) }
}

pub(super) fn at(insider: Insider, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(insider.address, port)
}

/// The n-th server of the Internet, port 443.
pub(super) fn server(n: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(0x0800_0001 + n), 443)
}

pub(super) fn ip(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut packet = crate::wire::ipv4::header(src, dst, protocol, 64, length).to_vec();
    packet.extend(payload);
    packet
}

/// Puts the checksum of a header right.
pub(super) fn seal(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let checksum = Sum::ZERO.bytes(&packet[..header]).finish();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

pub(super) fn udp(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap();
    let mut l4 = Vec::new();
    for word in [from.port(), to.port(), length, 0] {
        l4.extend(word.to_be_bytes());
    }
    l4.extend(data);
    let checksum = Sum::pseudo(*from.ip(), *to.ip(), 17, length).bytes(&l4).finish();
    l4[6..8].copy_from_slice(&if checksum == 0 { 0xffff } else { checksum }.to_be_bytes());
    ip(*from.ip(), *to.ip(), 17, &l4)
}

pub(super) fn tcp(from: SocketAddrV4, to: SocketAddrV4, flags: u8, data: &[u8]) -> Vec<u8> {
    tcp_options(from, to, flags, &[], data)
}

pub(super) fn tcp_options(from: SocketAddrV4, to: SocketAddrV4, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.port().to_be_bytes());
    l4.extend(to.port().to_be_bytes());
    l4.extend([0, 0, 1, 0, 0, 0, 2, 0]);
    l4.extend([u8::try_from((20 + options.len()) / 4).unwrap() << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend(options);
    l4.extend(data);
    let length = u16::try_from(l4.len()).unwrap();
    let checksum = Sum::pseudo(*from.ip(), *to.ip(), 6, length).bytes(&l4).finish();
    l4[16..18].copy_from_slice(&checksum.to_be_bytes());
    ip(*from.ip(), *to.ip(), 6, &l4)
}

/// A query or reply of ICMP.
pub(super) fn ping(from: Ipv4Addr, to: Ipv4Addr, kind: u8, identifier: u16) -> Vec<u8> {
    let [a, b] = identifier.to_be_bytes();
    let mut message = vec![kind, 0, 0, 0, a, b, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8];
    icmp::finish(&mut message);
    ip(from, to, 1, &message)
}

/// An ICMP error about `about`.
pub(super) fn icmp_error(from: Ipv4Addr, to: Ipv4Addr, kind: (u8, u8), about: &[u8]) -> Vec<u8> {
    let mut out = [0; icmp::ERROR_BYTES_MAX];
    let length = icmp::error((from, to), kind, 0, about, &mut out);
    out[..length].to_vec()
}

/// What a packet says, after all its checksums were looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) protocol: u8,
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) data: Vec<u8>,
}

/// Reads a whole packet; of ICMP the identifier is the port of both ends. Panics if a checksum is wrong.
pub(super) fn read(packet: &[u8]) -> Seen {
    let head = Ipv4::new_checked(packet).unwrap();
    assert!(head.header_is_intact(), "header checksum");
    assert_eq!(head.whole().unwrap().len(), packet.len());
    let l4 = head.payload();
    let length = u16::try_from(l4.len()).unwrap();
    let sum = || Sum::pseudo(head.src(), head.dst(), head.protocol(), length).bytes(l4).finish();
    let (ports, header) = match head.protocol() {
        1 => {
            assert!(icmp::is_intact(l4), "ICMP checksum");
            let identifier = icmp::identifier(l4).unwrap();
            ((identifier, identifier), 8)
        }
        17 => {
            assert!(l4[6..8] == [0, 0] || sum() == 0, "UDP checksum");
            (wire_udp::l4_ports(l4).unwrap(), 8)
        }
        _ => {
            assert_eq!(sum(), 0, "TCP checksum");
            (wire_udp::l4_ports(l4).unwrap(), wire_tcp::header_bytes(l4).unwrap())
        }
    };
    Seen {
        protocol: head.protocol(),
        from: SocketAddrV4::new(head.src(), ports.0),
        to: SocketAddrV4::new(head.dst(), ports.1),
        data: l4[header..].to_vec(),
    }
}

/// The packet that an ICMP error quotes, and type and code.
pub(super) fn quote(packet: &[u8]) -> ((u8, u8), Vec<u8>) {
    let seen = read(packet);
    assert_eq!(seen.protocol, 1);
    let l4 = Ipv4::new_checked(packet).unwrap().payload();
    ((l4[0], l4[1]), seen.data)
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Out {
    pub(super) sent: Vec<(Vec<u8>, Offload)>,
    pub(super) hairpins: Vec<(Vec<u8>, Offload)>,
    pub(super) delivered: Vec<(Ipv4Addr, Vec<u8>, Offload)>,
    pub(super) handed: Vec<(usize, Vec<u8>)>,
    pub(super) drops: Vec<DropReason>,
    pub(super) events: Vec<NatEvent>,
}

impl NatSink for Out {
    fn send(&mut self, packet: &mut [u8], offload: Offload) {
        self.sent.push((packet.to_vec(), offload));
    }

    fn hairpin(&mut self, packet: &mut [u8], offload: Offload) {
        self.hairpins.push((packet.to_vec(), offload));
    }

    fn deliver(&mut self, inside: Ipv4Addr, packet: &mut [u8], offload: Offload) {
        assert_eq!(Ipv4::new_checked(packet).unwrap().dst(), inside);
        self.delivered.push((inside, packet.to_vec(), offload));
    }

    fn hand_over(&mut self, worker: usize, packet: &mut [u8]) {
        self.handed.push((worker, packet.to_vec()));
    }

    fn dropped(&mut self, reason: DropReason) {
        self.drops.push(reason);
    }

    fn event(&mut self, event: NatEvent) {
        self.events.push(event);
    }
}

impl Out {
    /// The only packet, which went to the Internet.
    pub(super) fn one_sent(&self) -> Seen {
        assert_eq!((self.sent.len(), &self.drops[..]), (1, &[][..]), "{self:?}");
        read(&self.sent[0].0)
    }

    /// The only packet, which went to a member.
    pub(super) fn one_delivered(&self) -> Seen {
        assert_eq!((self.delivered.len(), &self.drops[..]), (1, &[][..]), "{self:?}");
        read(&self.delivered[0].1)
    }

    /// Nothing came but one drop.
    pub(super) fn dropped_for(&self, reason: DropReason) {
        assert_eq!((self.sent.len(), self.delivered.len(), &self.drops[..]), (0, 0, &[reason][..]), "{self:?}");
    }
}

/// Settings of most tests: one worker, one external address, /16 inside.
pub(super) fn settings() -> NatSettings {
    let inside = "100.64.0.0/16".parse().unwrap();
    NatSettings::new(1, inside, GATEWAY, vec!["5.5.5.5".parse().unwrap()])
}

/// Settings without limits on rates.
pub(super) fn unlimited() -> NatSettings {
    let mut settings = settings();
    settings.limits.new_flows_per_sec = 0;
    settings.limits.destinations_per_min = 0;
    settings.limits.flows_per_address = 1 << 20;
    settings.limits.ports_per_address = 1 << 20;
    settings.limits.ports_per_member = 1 << 20;
    settings
}

/// All workers of a NAT and the time.
pub(super) struct Rig {
    pub(super) plan: Arc<NatPlan>,
    pub(super) nats: Vec<Nat>,
    pub(super) now: Tick,
    real: Option<RealLane>,
}

impl Rig {
    pub(super) fn new(settings: NatSettings) -> Self {
        Self::with_seed(settings, 7)
    }

    pub(super) fn with_seed(settings: NatSettings, seed: u64) -> Self {
        let now = Tick::from_ms(1_000_000);
        let plan = Arc::new(NatPlan::new(settings).unwrap());
        let workers = plan.settings().workers;
        let nats = (0..workers).map(|worker| Nat::new(plan.clone(), worker, seed, now)).collect();
        let real = RealLane::wanted(&plan);
        Self { plan, nats, now, real }
    }

    pub(super) fn out(&mut self, from: Insider, packet: &[u8]) -> Out {
        self.out_with(from, packet, Offload::NONE)
    }

    pub(super) fn out_with(&mut self, from: Insider, packet: &[u8], offload: Offload) -> Out {
        let mut out = Out::default();
        let worker = self.plan.owner_of_inside(from.address);
        self.nats[worker].outbound(&from, &mut packet.to_vec(), offload, self.now, &mut out);
        // What is said of checksums and segments is between NAT and lane, and gone on the other side.
        if offload == Offload::NONE {
            self.leave(&mut out);
        }
        out
    }

    /// What was sent, as it arrives on the other side of the lane, if there is one.
    fn leave(&mut self, out: &mut Out) {
        let Some(real) = &mut self.real else { return };
        for (packet, offload) in &mut out.sent {
            if RealLane::carries(packet, *offload) {
                (*packet, *offload) = (real.leave(packet, *offload), Offload::NONE);
            }
        }
    }

    /// A packet from the Internet; what is handed over goes on.
    pub(super) fn in_(&mut self, packet: &[u8]) -> Out {
        self.in_with(packet, Offload::NONE)
    }

    pub(super) fn in_with(&mut self, packet: &[u8], offload: Offload) -> Out {
        let mut out = Out::default();
        let arrived = self.real.as_mut().and_then(|real| real.arrive(packet, offload));
        let (mut packet, offload) = arrived.unwrap_or_else(|| (packet.to_vec(), offload));
        let Some(worker) = self.plan.owner_of_packet(&packet) else {
            out.dropped(DropReason::NatNoMapping);
            return out;
        };
        self.nats[worker].inbound(&mut packet, offload, self.now, &mut out);
        for (worker, mut packet) in std::mem::take(&mut out.handed) {
            self.nats[worker].inbound(&mut packet, Offload::NONE, self.now, &mut out);
            assert!(out.handed.is_empty(), "handed on twice");
        }
        self.leave(&mut out);
        out
    }

    /// A packet from inside that goes to a member by way of an external address.
    pub(super) fn hairpin(&mut self, from: Insider, packet: &[u8]) -> Out {
        let out = self.out(from, packet);
        assert_eq!((out.hairpins.len(), out.sent.len(), &out.drops[..]), (1, 0, &[][..]), "{out:?}");
        let (packet, offload) = &out.hairpins[0];
        self.in_with(packet, *offload)
    }

    /// The external end of a UDP packet from `from` to `to`.
    pub(super) fn udp_out(&mut self, from: Insider, port: u16, to: SocketAddrV4) -> SocketAddrV4 {
        let seen = self.out(from, &udp(at(from, port), to, b"data")).one_sent();
        assert_eq!((seen.to, &seen.data[..]), (to, &b"data"[..]));
        seen.from
    }

    /// The same of a SYN.
    pub(super) fn syn_out(&mut self, from: Insider, port: u16, to: SocketAddrV4) -> SocketAddrV4 {
        let seen = self.out(from, &tcp(at(from, port), to, SYN, &[])).one_sent();
        assert_eq!(seen.to, to);
        seen.from
    }

    /// An open connection from inside; returns its external end.
    pub(super) fn connect(&mut self, from: Insider, port: u16, to: SocketAddrV4) -> SocketAddrV4 {
        let external = self.syn_out(from, port, to);
        assert_eq!(self.in_(&tcp(to, external, SYN | ACK, &[])).one_delivered().to, at(from, port));
        self.out(from, &tcp(at(from, port), to, ACK, &[])).one_sent();
        external
    }

    /// Lets time pass, in steps as the worker would.
    pub(super) fn pass(&mut self, span: Duration) -> Out {
        let mut out = Out::default();
        let end = self.now + span;
        loop {
            let due = self.nats.iter_mut().map(|nat| nat.poll(self.now, &mut out)).min().unwrap();
            if due <= self.now {
                continue;
            }
            if due > end {
                self.now = end;
                return out;
            }
            self.now = due;
        }
    }

    pub(super) fn pass_secs(&mut self, secs: u64) -> Out {
        self.pass(Duration::from_secs(secs))
    }

    pub(super) fn stats(&self) -> NatStats {
        assert_eq!(self.nats.len(), 1);
        self.nats[0].stats()
    }
}
