//! The DHCP server without a network: time of a four-way exchange (DISCOVER, OFFER, REQUEST, ACK), journal records
//! made and forgotten, and of a renewal.
#![allow(clippy::unwrap_used, reason = "a measurement may fail by panicking")]

mod fixture;
mod settings;

use std::net::Ipv4Addr;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fixture::station;
use hublane::gateway::Origin;
use hublane::gateway::bindings::Binding;
use hublane::gateway::dhcp::{DhcpEvent, DhcpReply, DhcpRequest, DhcpServer, DhcpSettings, DhcpSink};
use hublane::ids::{MemberId, PortId, SessionId};
use hublane::metrics::drops::DropReason;
use hublane::tick::Tick;
use hublane::wire::ethernet::Mac;

const SERVER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

/// Looks at what it must, and forgets it.
#[derive(Default)]
struct World {
    records: u64,
    yiaddr: Option<Ipv4Addr>,
}

impl DhcpSink for World {
    fn answer(&mut self, _: PortId, reply: &DhcpReply<'_>, _: Option<u64>) {
        let yiaddr: [u8; 4] = reply.payload[16..20].try_into().unwrap();
        self.yiaddr = Some(yiaddr.into());
    }
    fn probe(&mut self, _: Ipv4Addr) {}
    fn bind(&mut self, _: Ipv4Addr, _: Option<Binding>) {}
    fn journal(&mut self, _: &[u8]) -> u64 {
        self.records += 1;
        self.records
    }
    fn event(&mut self, _: DhcpEvent) {}
    fn dropped(&mut self, reason: DropReason) {
        panic!("{}", reason.label());
    }
}

struct Rig {
    server: DhcpServer,
    world: World,
    now: Tick,
    message: Vec<u8>,
}

impl Rig {
    fn new() -> Self {
        let now = Tick::from_ms(1_000);
        let server = DhcpServer::new(DhcpSettings::for_network(SERVER, 16), 1, now, 1_790_000_000);
        Self { server, world: World::default(), now, message: Vec::new() }
    }

    /// What a usual client says: its identifier, its name, ten wishes.
    fn say(&mut self, station_number: u32, kind: u8, ciaddr: Option<Ipv4Addr>, more: &[u8]) -> Ipv4Addr {
        let origin = Origin {
            port: PortId::new(0, station_number, 1),
            session: SessionId(station_number.into()),
            member: MemberId(station_number),
            is_bridge: false,
        };
        let mac: Mac = station(station_number);
        self.message.clear();
        self.message.resize(240, 0);
        self.message[..3].copy_from_slice(&[1, 1, 6]);
        self.message[12..16].copy_from_slice(&ciaddr.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        self.message[28..34].copy_from_slice(&mac.0);
        self.message[236..].copy_from_slice(&[99, 130, 83, 99]);
        self.message.extend([53, 1, kind, 61, 7, 1]);
        self.message.extend(mac.0);
        self.message.extend(b"\x0c\x06laptop\x37\x0a\x01\x03\x06\x0f\x1a\x1c\x33\x3a\x3b\x79");
        self.message.extend(more);
        self.message.push(255);
        let src = ciaddr.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let dst = if ciaddr.is_some() { SERVER } else { Ipv4Addr::BROADCAST };
        let request = DhcpRequest { origin: &origin, src_mac: mac, src, dst, payload: &self.message };
        self.server.message(request, self.now, &mut self.world);
        self.world.yiaddr.take().expect("an answer")
    }

    fn exchange(&mut self, station_number: u32) -> Ipv4Addr {
        let offered = self.say(station_number, 1, None, &[]);
        let [a, b, c, d] = offered.octets();
        let [e, f, g, h] = SERVER.octets();
        self.say(station_number, 3, None, &[50, 4, a, b, c, d, 54, 4, e, f, g, h])
    }
}

/// Clients of one after another; when all have an address, an hour passes and they come again.
fn exchanges(criterion: &mut Criterion) {
    const CLIENTS: u32 = 50_000;
    let mut group = criterion.benchmark_group("dhcp");
    group.throughput(Throughput::Elements(1));
    let mut rig = Rig::new();
    let mut number = 0;
    group.bench_function("four-way exchange", |bencher| {
        bencher.iter(|| {
            number += 1;
            if number % CLIENTS == 0 {
                rig.now = rig.now + Duration::from_secs(3_000);
            }
            rig.now = rig.now + Duration::from_micros(10);
            rig.exchange(number % CLIENTS)
        });
    });
    let mut rig = Rig::new();
    let addresses: Vec<_> = (0..CLIENTS).map(|number| rig.exchange(number)).collect();
    let mut number = 0;
    group.bench_function("renewal", |bencher| {
        bencher.iter(|| {
            number += 1;
            if number % CLIENTS == 0 {
                rig.now = rig.now + Duration::from_secs(1_800);
            }
            let client = number % CLIENTS;
            rig.say(client, 3, Some(addresses[usize::try_from(client).unwrap()]), &[])
        });
    });
    group.finish();
}

criterion_group! { name = all; config = settings::short(); targets = exchanges }
criterion_main!(all);
