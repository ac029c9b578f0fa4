//! The forwarding database and the way of a frame through a hub: time per frame.
#![allow(clippy::unwrap_used, reason = "a measurement may fail by panicking")]

mod fixture;
mod settings;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use fixture::{NOW, frame, station};
use hublane::hub::fdb::{Claim, Fdb, Key, Learned};
use hublane::hub::port::{MACS_UNLIMITED, PortDirectory};
use hublane::hub::{self, Egress, HubSettings, HubShared, HubView, PortSettings, Verdict};
use hublane::ids::PortId;
use hublane::tick::Tick;
use hublane::wire::ethernet::Frame;

/// An FDB with entries of stations 0 to `entries` - 1, all behind one port.
struct Table {
    fdb: Fdb,
    ports: PortDirectory,
    claim: Claim,
    entries: u32,
}

impl Table {
    fn new(entries: u32) -> Self {
        let ports = PortDirectory::new(2);
        let port = PortId::new(0, 0, 1);
        assert!(ports.open(port, PortSettings::OPEN));
        let settings = HubSettings::default();
        let fdb = Fdb::new(settings.fdb_entries, settings.ageing_secs, settings.hash_seed);
        let claim = Claim { port, macs_max: MACS_UNLIMITED, exclusive: false };
        let table = Self { fdb, ports, claim, entries };
        assert!((0..entries).all(|number| table.learn(number, NOW) == Learned::New));
        table
    }

    fn learn(&self, number: u32, now: Tick) -> Learned {
        self.fdb.learn(Key::new(station(number), 0), &self.claim, now, &self.ports)
    }

    fn lookup(&self, number: u32) -> Option<PortId> {
        self.fdb.lookup(Key::new(station(number), 0), NOW, &self.ports)
    }

    /// Station numbers in an order that no cache foresees: steps of a large prime.
    fn next(&self, number: &mut u32) -> u32 {
        *number = (*number + 7_919) % self.entries;
        *number
    }

    /// Calls `work` while another thread learns the same stations at ever newer times, if `busy`.
    fn beside_a_learner(&self, busy: bool, work: impl FnOnce()) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            if busy {
                scope.spawn(|| {
                    let (mut number, mut rounds) = (0, 0_u64);
                    while !done.load(Ordering::Relaxed) {
                        rounds += 1;
                        // A second more each time the table is through: every entry is written.
                        let now = Tick::from_ms(1_000 + rounds / u64::from(self.entries) * 1_000 % 60_000);
                        black_box(self.learn(self.next(&mut number), now));
                    }
                });
            }
            work();
            done.store(true, Ordering::Relaxed);
        });
    }
}

fn fdb(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fdb");
    for entries in [10, 10_000] {
        for busy in [false, true] {
            let table = Table::new(entries);
            table.beside_a_learner(busy, || measure(&mut group, &table, busy));
        }
    }
}

fn measure(group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>, table: &Table, busy: bool) {
    let id = |what: &str| {
        BenchmarkId::new(if busy { format!("{what}, another learns") } else { what.to_owned() }, table.entries)
    };
    let mut number = 0;
    group.bench_function(id("lookup"), |bencher| {
        bencher.iter(|| table.lookup(table.next(&mut number)).unwrap());
    });
    group.bench_function(id("learn known"), |bencher| {
        bencher.iter(|| table.learn(table.next(&mut number), NOW));
    });
}

/// A frame between two of 16 known stations.
fn unicast(criterion: &mut Criterion) {
    let shared = HubShared::new(HubSettings::default(), 1);
    let mut view = HubView::new(0);
    for number in 0..16 {
        let port = PortId::new(0, number, 1);
        shared.open_port(&mut view, port, PortSettings::OPEN).unwrap();
        let hello = frame(station(number + 1), station(number), 64);
        hub::ingress(&shared, &mut view, port, Frame::new_checked(&hello).unwrap(), NOW);
    }
    let bytes = frame(station(9), station(3), 64);
    criterion.bench_function("hub ingress and egress", |bencher| {
        bencher.iter(|| {
            let frame = Frame::new_checked(black_box(&bytes)).unwrap();
            let verdict = hub::ingress(&shared, &mut view, PortId::new(0, 3, 1), frame, NOW);
            let Verdict::Unicast(to, meta) = verdict else { panic!("{verdict:?}") };
            assert_eq!(hub::egress(&shared, &mut view, to, meta, frame), Egress::Pass);
        });
    });
}

criterion_group! { name = all; config = settings::short(); targets = fdb, unicast }
criterion_main!(all);
