//! The hub's shared tables under loom, which runs every order in which the threads' loads and stores
//! can take effect: `cargo test --test hub_loom`.
//!
//! The files are compiled a second time here, with loom's atomics in the place of `hub/atomic.rs`. A
//! `--cfg loom` for the whole build would do the same, but tokio and crossbeam react to it too, and
//! everything would have to be built again for it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(dead_code, unreachable_pub, reason = "the tests use a part of the tables")]

use hublane::{ids, tick, wire};

/// Loom's, under the names of `hub/atomic.rs`.
mod atomic {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

    /// Every look is a branch for loom.
    pub const TOKEN_SPINS: usize = 2;
}

#[path = "../src/hub/fdb.rs"]
mod fdb;
#[path = "../src/hub/port.rs"]
mod port;

use loom::sync::Arc;
use loom::thread;

use fdb::{Claim, Fdb, Key, Learned};
use ids::PortId;
use port::{MACS_UNLIMITED, PortDirectory, PortSettings};
use tick::Tick;
use wire::ethernet::Mac;

const A: PortId = PortId::new(0, 0, 1);
const B: PortId = PortId::new(1, 0, 1);

struct Tables {
    fdb: Fdb,
    ports: PortDirectory,
}

impl Tables {
    /// The smallest table, with ports A and B open.
    fn new() -> Arc<Self> {
        let tables = Self { fdb: Fdb::new(8, 300, 0), ports: PortDirectory::new(2) };
        assert!(tables.ports.open(A, PortSettings::OPEN) && tables.ports.open(B, PortSettings::OPEN));
        Arc::new(tables)
    }

    fn learn(&self, n: u64, port: PortId, exclusive: bool, secs: u64) -> Learned {
        let claim = Claim { port, macs_max: MACS_UNLIMITED, exclusive };
        self.fdb.learn(key(n), &claim, Tick::from_ms(secs * 1000), &self.ports)
    }

    fn lookup(&self, n: u64) -> Option<PortId> {
        self.fdb.lookup(key(n), Tick(0), &self.ports)
    }

    fn sweep_all(&self, secs: u64) {
        for worker in 0..2 {
            self.fdb.sweep(worker, &mut 0, usize::MAX, Tick::from_ms(secs * 1000), &self.ports);
        }
    }

    /// Every count is that of the entries, and no address has two.
    fn check(&self) {
        let entries = self.fdb.entries(Tick(0), &self.ports);
        let mut macs: Vec<Mac> = entries.iter().map(|entry| entry.mac).collect();
        macs.sort();
        macs.dedup();
        assert_eq!(macs.len(), entries.len(), "two live entries of one address");
        assert_eq!(self.fdb.len(), entries.len());
        for port in [A, B] {
            let own = entries.iter().filter(|entry| entry.port == port).count();
            assert_eq!(self.ports.macs(port) as usize, own, "{port}");
        }
    }
}

fn key(n: u64) -> Key {
    Key::new(Mac::from_bits(0x0200_0000_0000 | n), 0)
}

/// All orders with at most this many preemptions per run: more find nothing new in three steps and
/// take minutes.
fn model(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

#[test]
fn two_learners_of_one_address_make_one_entry() {
    model(3, || {
        let tables = Tables::new();
        let other = {
            let tables = tables.clone();
            thread::spawn(move || tables.learn(1, B, false, 0))
        };
        let mine = tables.learn(1, A, false, 0);
        let theirs = other.join().unwrap();
        tables.check();
        assert!(mine == Learned::New || theirs == Learned::New, "{mine:?} {theirs:?}");
        assert!(tables.lookup(1).is_some());
    });
}

/// Two addresses compete for the same places; neither overwrites the other.
#[test]
fn two_learners_of_two_addresses() {
    model(3, || {
        let tables = Tables::new();
        let other = {
            let tables = tables.clone();
            thread::spawn(move || tables.learn(2, B, false, 0))
        };
        let mine = tables.learn(1, A, false, 0);
        let theirs = other.join().unwrap();
        tables.check();
        assert_eq!(tables.lookup(1), (mine == Learned::New).then_some(A));
        assert_eq!(tables.lookup(2), (theirs == Learned::New).then_some(B));
    });
}

/// The place of a dead entry is freed and taken by another address while somebody looks.
#[test]
fn lookup_never_gives_another_addresss_port() {
    model(3, || {
        let tables = Tables::new();
        let ghost = PortId::new(0, 1, 1);
        assert!(tables.ports.open(ghost, PortSettings::OPEN));
        tables.learn(1, ghost, false, 0);
        let writer = {
            let tables = tables.clone();
            thread::spawn(move || {
                tables.ports.close(ghost);
                tables.sweep_all(0);
                for n in 2..5 {
                    tables.learn(n, B, false, 0);
                }
            })
        };
        let found = tables.lookup(1);
        assert!(found.is_none() || found == Some(ghost), "{found:?}");
        writer.join().unwrap();
        assert_eq!(tables.lookup(1), None);
        tables.check();
    });
}

/// An address is seen again in the very moment its old entry is swept.
#[test]
fn refresh_and_sweep() {
    model(3, || {
        let tables = Tables::new();
        tables.learn(1, A, false, 0);
        let sweeper = {
            let tables = tables.clone();
            thread::spawn(move || tables.sweep_all(301))
        };
        let learned = tables.learn(1, A, false, 301);
        sweeper.join().unwrap();
        assert!(matches!(learned, Learned::Refreshed | Learned::New), "{learned:?}");
        let entries = tables.fdb.entries(Tick::from_ms(301_000), &tables.ports);
        assert_eq!((entries.len(), tables.fdb.len(), tables.ports.macs(A)), (1, 1, 1));
    });
}

/// The owner of a long silent address speaks while another port claims it: either the claim comes
/// first and the owner takes the address back, or it is refused.
#[test]
fn move_and_hold() {
    model(3, || {
        let tables = Tables::new();
        tables.learn(1, A, false, 0);
        let claimant = {
            let tables = tables.clone();
            thread::spawn(move || tables.learn(1, B, true, 100))
        };
        let owner = tables.learn(1, A, true, 100);
        let claimed = claimant.join().unwrap();
        let keeper = tables.lookup(1);
        match (owner, claimed) {
            (Learned::Refreshed, Learned::Held) => assert_eq!(keeper, Some(A)),
            (Learned::Held, Learned::Moved) => assert_eq!(keeper, Some(B)),
            other => panic!("{other:?}"),
        }
        tables.check();
    });
}

/// Two ports claim an address whose owner has left: one gets it.
#[test]
fn two_claims_on_a_ghosts_address() {
    model(3, || {
        let tables = Tables::new();
        let ghost = PortId::new(0, 1, 1);
        assert!(tables.ports.open(ghost, PortSettings::OPEN));
        tables.learn(1, ghost, false, 0);
        assert!(tables.ports.close(ghost));
        let other = {
            let tables = tables.clone();
            thread::spawn(move || tables.learn(1, B, true, 0))
        };
        let mine = tables.learn(1, A, true, 0);
        let theirs = other.join().unwrap();
        assert!(
            matches!((mine, theirs), (Learned::New, Learned::Held) | (Learned::Held, Learned::New)),
            "{mine:?} {theirs:?}"
        );
        tables.check();
    });
}
