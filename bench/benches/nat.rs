//! The NAT: what a packet of a known flow costs with few and with a million of them, what flows cost that come and go,
//! and how much memory a mapping takes.
#![allow(clippy::unwrap_used, reason = "a measurement may fail by panicking")]

mod settings;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hublane::ids::{MemberId, SessionId};
use hublane::metrics::drops::DropReason;
use hublane::nat::{BYTES_PER_MAPPING, Insider, Nat, NatEvent, NatPlan, NatSettings, NatSink, Timeouts};
use hublane::tick::Tick;
use hublane::wire::checksum::Sum;
use hublane::wire::ipv4;
use hublane::wire::offload::Offload;

/// Looks at what comes and counts.
struct Sink {
    sent: u64,
    delivered: u64,
    drops: u64,
    /// Address and port of the last packet's source.
    source: (Ipv4Addr, u16),
}

impl Sink {
    const fn new() -> Self {
        Self { sent: 0, delivered: 0, drops: 0, source: (Ipv4Addr::UNSPECIFIED, 0) }
    }
}

impl NatSink for Sink {
    fn send(&mut self, packet: &mut [u8], _: Offload) {
        self.sent += 1;
        self.source = (Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]), word(packet, 20));
    }

    fn hairpin(&mut self, _: &mut [u8], _: Offload) {}

    fn deliver(&mut self, _: Ipv4Addr, packet: &mut [u8], _: Offload) {
        self.delivered += u64::from(packet[0] == 0x45);
    }

    fn hand_over(&mut self, _: usize, _: &mut [u8]) {}

    fn dropped(&mut self, _: DropReason) {
        self.drops += 1;
    }

    fn event(&mut self, _: NatEvent) {}
}

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn low(number: u32) -> u16 {
    (number & 0xffff) as u16
}

/// A /28 without limits but those of its ports.
fn nat(timeouts: Timeouts) -> Nat {
    let mut settings = NatSettings::new(
        1,
        "100.64.0.0/16".parse().unwrap(),
        Ipv4Addr::new(100, 64, 0, 1),
        vec!["5.5.5.0/28".parse().unwrap()],
    );
    settings.timeouts = timeouts;
    settings.limits.new_flows_per_sec = 0;
    settings.limits.destinations_per_min = 0;
    settings.limits.flows = u32::MAX;
    settings.limits.mappings = u32::MAX;
    Nat::new(Arc::new(NatPlan::new(settings).unwrap()), 0, 0x5eed, NOW)
}

/// Flow `n`: of one of 4,096 members, UDP and the SYN of TCP in turn, to one of 1,000 servers.
fn flow(n: u32) -> (Insider, Vec<u8>) {
    let member = n % MEMBERS;
    let address = Ipv4Addr::from(0x6440_0100 + member);
    let insider = Insider { address, member: MemberId(member), session: SessionId(member.into()) };
    let remote = Ipv4Addr::from(0x0808_0000 + n % 1_000);
    let is_udp = n / MEMBERS % 2 == 0;
    let (protocol, bytes) = if is_udp { (17, 26u16) } else { (6, 26) };
    let mut packet = ipv4::header(address, remote, protocol, 64, bytes).to_vec();
    packet.extend((2_000 + low(n / MEMBERS)).to_be_bytes());
    packet.extend(443u16.to_be_bytes());
    if is_udp {
        packet.extend(bytes.to_be_bytes());
        packet.extend([0; 20]);
    } else {
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        packet.extend([0; 6]);
    }
    let checksum = Sum::pseudo(address, remote, protocol, bytes).bytes(&packet[20..]).finish();
    let at = if is_udp { 26 } else { 36 };
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    (insider, packet)
}

/// The answer to what left from `source`.
fn answer(sent: &[u8], source: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut packet = sent.to_vec();
    packet[12..16].copy_from_slice(&sent[16..20]);
    packet[16..20].copy_from_slice(&source.0.octets());
    packet[20..22].copy_from_slice(&sent[22..24]);
    packet[22..24].copy_from_slice(&source.1.to_be_bytes());
    packet[10..12].fill(0);
    let header = Sum::ZERO.bytes(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet
}

/// Packets whose flows lie in no order that a cache foresees, as many as a real burst's worth and more.
struct Traffic {
    out: Vec<(Insider, Vec<u8>)>,
    back: Vec<Vec<u8>>,
}

fn filled(flows: u32) -> (Nat, Traffic) {
    let mut nat = nat(Timeouts::default());
    let mut sink = Sink::new();
    let mut traffic = Traffic { out: Vec::new(), back: Vec::new() };
    let every = (flows / PACKETS).max(1);
    for n in 0..flows {
        let (insider, packet) = flow(n);
        nat.outbound(&insider, &mut packet.clone(), Offload::NONE, NOW, &mut sink);
        if n % every == 0 && traffic.out.len() < PACKETS as usize {
            traffic.back.push(answer(&packet, sink.source));
            traffic.out.push((insider, packet));
        }
    }
    assert_eq!((sink.sent, sink.drops), (flows.into(), 0));
    // A stride without a divisor in common with the number: neighbours come far apart.
    let order = |n: usize| n * 7_919 % traffic.out.len();
    let out = (0..traffic.out.len()).map(|n| traffic.out[order(n)].clone()).collect();
    let back = (0..traffic.back.len()).map(|n| traffic.back[order(n)].clone()).collect();
    (nat, Traffic { out, back })
}

/// A packet of a known flow, each way, from parse to sink; packets of a burst are known [`AHEAD`] before their turn.
fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nat");
    for flows in [1_000, 1_000_000] {
        let (mut nat, traffic) = filled(flows);
        let mut sink = Sink::new();
        let mut buffer = [0; 64];
        for ahead in [0, AHEAD] {
            let how = if ahead == 0 { "" } else { ", warmed" };
            let mut at = 0;
            group.bench_function(BenchmarkId::new(format!("outbound{how}"), flows), |bencher| {
                bencher.iter(|| {
                    at = (at + 1) % traffic.out.len();
                    if ahead > 0 {
                        black_box(nat.warm(&traffic.out[(at + ahead) % traffic.out.len()].1, true));
                    }
                    let (insider, packet) = &traffic.out[at];
                    let packet_bytes = &mut buffer[..packet.len()];
                    packet_bytes.copy_from_slice(packet);
                    nat.outbound(insider, packet_bytes, Offload::NONE, NOW, &mut sink);
                });
            });
            let mut at = 0;
            group.bench_function(BenchmarkId::new(format!("inbound{how}"), flows), |bencher| {
                bencher.iter(|| {
                    at = (at + 1) % traffic.back.len();
                    if ahead > 0 {
                        black_box(nat.warm(&traffic.back[(at + ahead) % traffic.back.len()], false));
                    }
                    let packet = &traffic.back[at];
                    let packet_bytes = &mut buffer[..packet.len()];
                    packet_bytes.copy_from_slice(packet);
                    nat.inbound(packet_bytes, Offload::NONE, NOW, &mut sink);
                });
            });
        }
        assert!(sink.sent > 0 && sink.delivered > 0 && sink.drops == 0);
        let stats = nat.stats();
        let each = stats.table_bytes / stats.mappings;
        println!("nat/memory/{flows}: {each} bytes a mapping with a flow, at most {BYTES_PER_MAPPING} once many");
    }
}

/// Flows begin and end at 50,000 a second of virtual time, each living two seconds.
fn churn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nat");
    let mut nat = nat(Timeouts { udp: Duration::from_secs(2), ..Timeouts::default() });
    let mut sink = Sink::new();
    let (mut now, mut n) = (NOW, 0);
    group.throughput(Throughput::Elements(CHURN.into()));
    group.bench_function("create and expire", |bencher| {
        bencher.iter(|| {
            for _ in 0..CHURN {
                // Only UDP: even rounds through all members.
                let (insider, mut packet) = flow(n % MEMBERS + n / MEMBERS % 150 * 2 * MEMBERS);
                nat.outbound(&insider, &mut packet, Offload::NONE, now, &mut sink);
                n = n.wrapping_add(1);
            }
            now = now + Duration::from_millis(u64::from(CHURN) / 50);
            while nat.poll(now, &mut sink) <= now {}
        });
    });
    assert_eq!(sink.drops, 0);
}

const NOW: Tick = Tick::from_ms(1_000_000);
const MEMBERS: u32 = 4_096;
/// Each with 46 bytes of its own: far more than the first cache holds.
const PACKETS: u32 = 16_381;
/// How many packets of a burst wait behind the one in hand.
const AHEAD: usize = 4;
const CHURN: u32 = 5_000;

criterion_group! { name = all; config = settings::short(); targets = lookup, churn }
criterion_main!(all);
