//! The forwarding database by itself, and under two real threads. Orderings are loom's business:
//! `tests/hub_loom.rs`.
#![forbid(unsafe_code)]

use super::super::fdb::{Claim, Fdb, HOLD_SECS, Key, Learned};
use super::super::port::{MACS_UNLIMITED, PortDirectory};
use super::*;

fn directory(ports: &[PortId]) -> PortDirectory {
    let directory = PortDirectory::new(2);
    for &port in ports {
        assert!(directory.open(port, PortSettings::OPEN));
    }
    directory
}

fn key(n: u64) -> Key {
    Key::new(mac(n), 0)
}

fn claim(port: PortId) -> Claim {
    Claim { port, macs_max: MACS_UNLIMITED, exclusive: false }
}

const A: PortId = PortId::new(0, 0, 7);
const B: PortId = PortId::new(1, 300, 9);

#[test]
fn what_learning_says() {
    let (fdb, ports) = (Fdb::new(8, 300, 0), directory(&[A, B]));
    let learn = |n, claim: Claim, secs: u64| fdb.learn(key(n), &claim, Tick::from_ms(secs * 1000), &ports);
    assert_eq!(learn(1, claim(A), 0), Learned::New);
    assert_eq!(learn(1, claim(A), 0), Learned::Refreshed);
    assert_eq!(learn(1, claim(A), 5), Learned::Refreshed);
    assert_eq!(learn(1, claim(B), 5), Learned::Moved);
    let exclusive = Claim { exclusive: true, ..claim(A) };
    assert_eq!(learn(1, exclusive, 5 + u64::from(HOLD_SECS)), Learned::Held);
    assert_eq!(learn(1, exclusive, 6 + u64::from(HOLD_SECS)), Learned::Moved);
    assert_eq!(learn(1, claim(B), 1000), Learned::New, "the entry was old");
    for n in 2..9 {
        assert_eq!(learn(n, claim(A), 1000), Learned::New);
    }
    assert_eq!(learn(9, claim(B), 1000), Learned::Full);
    assert_eq!((fdb.len(), ports.macs(A), ports.macs(B)), (8, 7, 1));
    let limited = Claim { macs_max: 7, ..claim(A) };
    assert_eq!(learn(1, limited, 1000), Learned::PortLimit, "by a move");
    assert_eq!(learn(9, limited, 1000), Learned::PortLimit, "by a new one");
}

#[test]
fn default_size_holds_what_it_promises() {
    let (fdb, ports) = (Fdb::new(65_536, 300, 0x1234), directory(&[A]));
    // Addresses of one maker in sequence, as a data centre has them, then any.
    let numbers =
        (0..32_768).chain((0..32_768).map(|n: u64| 0x80_0000_0000 | (n.wrapping_mul(0x9e37_79b9) & 0xffff_ffff)));
    let full = numbers.clone().filter(|&n| fdb.learn(key(n), &claim(A), Tick(0), &ports) == Learned::Full).count();
    assert!(full < 4, "{full} addresses found their buckets taken");
    let known = numbers.filter(|&n| fdb.lookup(key(n), Tick(0), &ports) == Some(A)).count();
    assert_eq!((known, fdb.len()), (65_536 - full, 65_536 - full));
    assert_eq!(fdb.entries(Tick(0), &ports).len(), known);
}

#[test]
fn closed_ports_leave_no_addresses() {
    let (fdb, ports) = (Fdb::new(64, 300, 0), directory(&[A, B]));
    for n in 0..20 {
        fdb.learn(key(n), &claim(A), Tick(0), &ports);
    }
    fdb.learn(key(50), &claim(B), Tick(0), &ports);
    assert!(ports.close(A));
    assert!((0..20).all(|n| fdb.lookup(key(n), Tick(0), &ports).is_none()), "at once");
    let next = PortId::new(0, 0, 8);
    assert!(ports.open(next, PortSettings::OPEN));
    assert!((0..20).all(|n| fdb.lookup(key(n), Tick(0), &ports).is_none()), "nor the successor's");
    fdb.learn(key(0), &claim(next), Tick(0), &ports);
    let freed: usize = (0..2).map(|worker| fdb.sweep(worker, &mut 0, usize::MAX, Tick(0), &ports)).sum();
    assert_eq!((freed, fdb.len(), ports.macs(next), ports.macs(B)), (19, 2, 1, 1));
}

#[test]
fn sweep_is_bounded_and_comes_round() {
    let (fdb, ports) = (Fdb::new(256, 10, 0), directory(&[A]));
    for n in 0..256 {
        fdb.learn(key(n), &claim(A), Tick(0), &ports);
    }
    let (later, mut cursors, mut freed) = (Tick::from_ms(11_000), [0, 0], 0);
    for _ in 0..fdb.buckets() / 2 {
        for (worker, cursor) in cursors.iter_mut().enumerate() {
            let step = fdb.sweep(worker, cursor, 1, later, &ports);
            assert!(step <= 4);
            freed += step;
        }
    }
    assert_eq!((freed, fdb.len()), (256, 0));
}

#[test]
fn time_wraps_and_clocks_differ() {
    let (fdb, ports) = (Fdb::new(8, 300, 0), directory(&[A, B]));
    let at = |secs: u64| Tick::from_ms(secs * 1000);
    let wrap = 1 << 20;
    fdb.learn(key(1), &claim(A), at(wrap - 2), &ports);
    assert_eq!(fdb.lookup(key(1), at(wrap + 290), &ports), Some(A));
    assert_eq!(fdb.lookup(key(1), at(wrap + 299), &ports), None);
    assert_eq!(fdb.lookup(key(1), at(wrap - 5), &ports), Some(A), "the other worker's clock is ahead");
    fdb.learn(key(1), &claim(A), at(wrap - 5), &ports);
    assert_eq!(fdb.lookup(key(1), at(wrap + 297), &ports), Some(A), "time does not go back");
}

/// Two threads learn, one of them sweeps, ports close and open: counts end where the entries are.
#[test]
fn two_threads_keep_the_counts() {
    let (fdb, ports) = (Fdb::new(64, 10, 0), PortDirectory::new(2));
    std::thread::scope(|scope| {
        for worker in 0..2u8 {
            let (fdb, ports) = (&fdb, &ports);
            scope.spawn(move || {
                let (mut cursor, mut random) = (0, u64::from(worker) + 1);
                for round in 0..200u16 {
                    let port = PortId::new(worker, 0, round);
                    assert!(ports.open(port, PortSettings::OPEN));
                    for step in 0..200u64 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let now = Tick::from_ms(u64::from(round) * 3000 + step);
                        let exclusive = step % 2 == 0;
                        fdb.learn(key(random >> 57), &Claim { exclusive, ..claim(port) }, now, ports);
                        if let Some(found) = fdb.lookup(key(random >> 58), now, ports) {
                            assert!(found.worker() < 2 && found.slot() == 0);
                        }
                        fdb.sweep(usize::from(worker), &mut cursor, 1, now, ports);
                    }
                    if round < 199 {
                        assert!(ports.close(port));
                    }
                }
            });
        }
    });
    let now = Tick::from_ms(199 * 3000 + 200);
    for worker in 0..2 {
        fdb.sweep(worker, &mut 0, usize::MAX, now, &ports);
    }
    let entries = fdb.entries(now, &ports);
    let mut macs: Vec<Mac> = entries.iter().map(|entry| entry.mac).collect();
    macs.sort();
    macs.dedup();
    assert_eq!((macs.len(), fdb.len()), (entries.len(), entries.len()), "one entry per address");
    for worker in 0..2 {
        let own = entries.iter().filter(|entry| entry.port.worker() == usize::from(worker)).count();
        assert_eq!(ports.macs(PortId::new(worker, 0, 199)) as usize, own);
    }
}
