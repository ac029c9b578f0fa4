//! The NAT: what a packet of a known flow costs with few and with a million of them, what flows cost that come and go,
//! and how much memory a mapping takes.
#![allow(clippy::unwrap_used, reason = "a measurement may fail by panicking")]

mod settings;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
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
fn flow(n: u32) -> (Insider, [u8; BYTES]) {
    let member = n % MEMBERS;
    let address = Ipv4Addr::from(0x6440_0100 + member);
    let insider = Insider { address, member: MemberId(member), session: SessionId(member.into()) };
    let remote = Ipv4Addr::from(0x0808_0000 + n % 1_000);
    let is_udp = (n / MEMBERS + n).is_multiple_of(2);
    let mut packet = [0; BYTES];
    let protocol = if is_udp { 17 } else { 6 };
    packet[..20].copy_from_slice(&ipv4::header(address, remote, protocol, 64, L4_BYTES));
    packet[20..22].copy_from_slice(&(2_000 + low(n / MEMBERS)).to_be_bytes());
    packet[22..24].copy_from_slice(&443u16.to_be_bytes());
    if is_udp {
        packet[24..26].copy_from_slice(&L4_BYTES.to_be_bytes());
    } else {
        packet[32..34].copy_from_slice(&[0x50, 2]);
    }
    let checksum = Sum::pseudo(address, remote, protocol, L4_BYTES).bytes(&packet[20..]).finish();
    let at = if is_udp { 26 } else { 36 };
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    (insider, packet)
}

/// The answer to what left from `source`.
fn answer(sent: &[u8; BYTES], source: (Ipv4Addr, u16)) -> [u8; BYTES] {
    let mut packet = *sent;
    packet[12..16].copy_from_slice(&sent[16..20]);
    packet[16..20].copy_from_slice(&source.0.octets());
    packet[20..22].copy_from_slice(&sent[22..24]);
    packet[22..24].copy_from_slice(&source.1.to_be_bytes());
    packet[10..12].fill(0);
    let header = Sum::ZERO.bytes(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet
}

/// A NAT with that many flows, and the answers to the packets that made them.
fn filled(flows: u32) -> (Nat, Vec<[u8; BYTES]>) {
    let mut nat = nat(Timeouts::default());
    let mut sink = Sink::new();
    let answers = (0..flows).map(|n| {
        let (insider, packet) = flow(n);
        nat.outbound(&insider, &mut packet.clone(), Offload::NONE, NOW, &mut sink);
        answer(&packet, sink.source)
    });
    let answers = answers.collect();
    assert_eq!((sink.sent, sink.drops), (flows.into(), 0));
    (nat, answers)
}

/// Flows in an order that neither caches nor branch predictors foresee, also where there are few (xorshift).
struct Order(u64);

impl Order {
    fn next(&mut self, flows: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(flows)).unwrap()
    }
}

/// Bursts of packets of known flows, from parse to sink: time per packet. They wait in memory that was just written,
/// as a network card or the deframer leaves them.
fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nat");
    group.throughput(Throughput::Elements(BURST as u64));
    for flows in [1_000, 1_000_000] {
        let (mut nat, answers) = filled(flows);
        let mut sink = Sink::new();
        let mut order = Order(0x5eed);
        for warmed in [false, true] {
            let name = |way: &str| format!("{way}, burst of {BURST}{}", if warmed { ", warmed" } else { "" });
            group.bench_function(BenchmarkId::new(name("outbound"), flows), |bencher| {
                let burst = || [(); BURST].map(|()| flow(order.next(flows)));
                let send = |burst: &mut [(Insider, [u8; BYTES]); BURST]| {
                    if warmed {
                        nat.warm(burst.iter().map(|(_, packet)| &packet[..]), true);
                    }
                    for (insider, packet) in burst {
                        nat.outbound(insider, packet, Offload::NONE, NOW, &mut sink);
                    }
                };
                bencher.iter_batched_ref(burst, send, BatchSize::SmallInput);
            });
            group.bench_function(BenchmarkId::new(name("inbound"), flows), |bencher| {
                let burst = || [(); BURST].map(|()| answers[order.next(flows) as usize]);
                let receive = |burst: &mut [[u8; BYTES]; BURST]| {
                    if warmed {
                        nat.warm(burst.iter().map(|packet| &packet[..]), false);
                    }
                    for packet in burst {
                        nat.inbound(packet, Offload::NONE, NOW, &mut sink);
                    }
                };
                bencher.iter_batched_ref(burst, receive, BatchSize::SmallInput);
            });
        }
        assert!(sink.sent > 0 && sink.delivered > 0 && sink.drops == 0);
        let stats = nat.stats();
        let each = stats.table_bytes / stats.mappings;
        println!("nat/memory/{flows}: {each} bytes a mapping with a flow; limit {BYTES_PER_MAPPING}");
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
                // Only UDP: even rounds through even members, odd ones through the others.
                let member = n % MEMBERS;
                let (insider, mut packet) = flow(member + (n / MEMBERS % 150 * 2 + member % 2) * MEMBERS);
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
/// Headers and six bytes.
const BYTES: usize = 46;
const L4_BYTES: u16 = 26;
const BURST: usize = 32;
const CHURN: u32 = 5_000;

criterion_group! { name = all; config = settings::short(); targets = lookup, churn }
criterion_main!(all);
