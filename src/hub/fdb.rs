//! Forwarding database: which port does an address live behind? One table per hub, shared by all
//! workers, without locks.
//!
//! An entry is two atomic words, key (MAC, VLAN) and value (port, time last seen, in seconds). Entries
//! lie in buckets of one cache line; an address is in one of two, the emptier when it was inserted, so
//! the work is bounded however full the table is.
//!
//! * **An entry lives while its value is not zero.** Inserting stores the key, then the value; deleting
//!   makes the value zero, then frees the key. A reader looks at the key again after the value: if the
//!   key is still the same, the value belonged to it. Both words carry a tag that changes with each
//!   tenant of the place, so that it takes 8 tenants between two loads to deceive a reader.
//! * **A value changes only by compare-and-swap from the value that was looked at**: a refresh, a move,
//!   a refusal to move and a deletion exclude each other without further ado.
//! * **Inserting** needs a token that the address names, so that no address gets two entries. Who
//!   does not get the token soon goes without: the next frame will be learned.
//! * **Deleting** is done by [`Fdb::sweep`] alone, where every bucket has one worker as its owner.
//!   Entries of closed ports and old entries count as absent long before that.
//! * Nothing is ever evicted: a full table costs those flooding who come late.
//!
//! Loom runs these very files: `cargo test --test hub_loom`.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crossbeam::utils::CachePadded;

use crate::ids::PortId;
use crate::tick::Tick;
use crate::wire::ethernet::Mac;

use super::atomic::{AtomicBool, AtomicU32, AtomicU64, TOKEN_SPINS, spin_loop};
use super::port::{PortBits, PortDirectory};

/// What [`Fdb::learn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The address was known behind this port.
    Refreshed,
    /// The address was not known, or only behind a port that is closed or long silent.
    New,
    /// The address was behind another port.
    Moved,
    /// No room for another address. Costs flooding, never connectivity.
    Full,
    /// The address belongs to another port for now; this one may not take it over.
    Held,
    /// The port has as many addresses as it may have.
    PortLimit,
    /// Not learned because another worker was inserting at the same place; the next frame will do.
    Busy,
}

/// Who wants an address, and how far he may go.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The port the address was seen behind.
    pub port: PortId,
    /// Most addresses the port may have.
    pub macs_max: u32,
    /// Whether the port has to respect [`HOLD_SECS`].
    pub exclusive: bool,
}

/// An address and the VLAN it was seen in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// `vlan` below 4096; 0 for none.
    #[inline]
    pub const fn new(mac: Mac, vlan: u16) -> Self {
        Self(mac.to_bits() | ((vlan & 0xfff) as u64) << 48)
    }

    /// The address.
    pub const fn mac(self) -> Mac {
        Mac::from_bits(self.0)
    }

    /// The VLAN.
    pub const fn vlan(self) -> u16 {
        ((self.0 >> 48) & 0xfff) as u16
    }
}

/// A line of the MAC table, as shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacEntry {
    /// The address.
    pub mac: Mac,
    /// The VLAN it was seen in, 0 for none.
    pub vlan: u16,
    /// The port it lives behind.
    pub port: PortId,
    /// Seconds since it was last seen as a source.
    pub age_secs: u32,
}

/// See the module text.
#[derive(Debug)]
pub struct Fdb {
    buckets: Box<[Bucket]>,
    /// One per group of addresses.
    tokens: Box<[AtomicBool]>,
    /// Entries, alive or waiting for the sweep.
    entries: CachePadded<AtomicU32>,
    entries_max: u32,
    ageing_secs: u32,
    seed: u64,
}

/// One cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    keys: [AtomicU64; WAYS],
    values: [AtomicU64; WAYS],
}

/// An entry as found: the place and what its words held.
#[derive(Clone, Copy)]
struct Found<'a> {
    value_word: &'a AtomicU64,
    value: Value,
}

/// Port (40 bits), second last seen (20), tag (3), and [`VALUE_LIVE`].
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value(u64);

impl Value {
    fn new(port: PortId, seen: u32, tag: u64) -> Self {
        Self(port.bits() | u64::from(seen) << PortId::BITS | tag << TAG_SHIFT_VALUE | VALUE_LIVE)
    }

    fn port(self) -> PortId {
        PortId::from_bits(self.0)
    }

    fn seen(self) -> u32 {
        ((self.0 >> PortId::BITS) & u64::from(SECS_MASK)) as u32
    }

    fn tag(self) -> u64 {
        (self.0 >> TAG_SHIFT_VALUE) & TAG_MASK
    }

    fn is_live(self) -> bool {
        self.0 & VALUE_LIVE != 0
    }
}

impl Fdb {
    /// A table for `entries_max` addresses, forgotten `ageing_secs` after they were last seen. Values
    /// outside [`ENTRIES_RANGE`] and [`AGEING_RANGE`] are brought into them. Takes 32 to 64 bytes for
    /// each entry. `seed` makes collisions unpredictable: any number unknown to members.
    pub fn new(entries_max: usize, ageing_secs: u32, seed: u64) -> Self {
        let entries_max = entries_max.clamp(*ENTRIES_RANGE.start(), *ENTRIES_RANGE.end());
        // At most half full: then about one address in 100,000 finds both of its buckets taken.
        let buckets = (entries_max * 2 / WAYS).next_power_of_two();
        Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            tokens: (0..buckets.min(TOKENS_MAX)).map(|_| AtomicBool::new(false)).collect(),
            entries: CachePadded::new(AtomicU32::new(0)),
            entries_max: u32::try_from(entries_max).expect("ENTRIES_RANGE ends below 2^32"),
            ageing_secs: ageing_secs.clamp(*AGEING_RANGE.start(), *AGEING_RANGE.end()),
            seed,
        }
    }

    /// Behind which open port does `key` live?
    #[inline]
    pub fn lookup(&self, key: Key, now: Tick, ports: &PortDirectory) -> Option<PortId> {
        let value = self.find(key)?.value;
        if self.is_alive(value, coarse(now), ports) { Some(value.port()) } else { None }
    }

    /// `key` was seen as a source behind `claim.port`. Writes only if that is news.
    #[inline]
    pub fn learn(&self, key: Key, claim: &Claim, now: Tick, ports: &PortDirectory) -> Learned {
        let now = coarse(now);
        // A second round if the entry changed or came into being under our eyes; a third is as rare
        // as it is useless, because the entry is then being fought over.
        for _ in 0..3 {
            let outcome = match self.find(key) {
                Some(found) => self.renew(found, claim, now, ports),
                None => self.insert(key, claim, now, ports),
            };
            if let Some(learned) = outcome {
                return learned;
            }
        }
        Learned::Busy
    }

    /// Frees entries that are old or belong to closed ports, in the next `budget` buckets of those that
    /// `worker` owns, from `cursor` on, which it moves. Returns how many it freed.
    ///
    /// A worker must come round its buckets within [`SWEEP_SECS_MAX`]: the clock of an entry wraps.
    pub fn sweep(&self, worker: usize, cursor: &mut usize, budget: usize, now: Tick, ports: &PortDirectory) -> usize {
        let workers = ports.workers().max(1);
        let first = self.buckets.len() * worker / workers;
        let own = &self.buckets[first..self.buckets.len() * (worker + 1) / workers];
        let now = coarse(now);
        let mut freed = 0;
        for _ in 0..budget.min(own.len()) {
            *cursor = if *cursor < own.len() { *cursor } else { 0 };
            let bucket = &own[*cursor];
            freed += (0..WAYS).filter(|&way| self.free_if_dead(bucket, way, now, ports)).count();
            *cursor += 1;
        }
        freed
    }

    /// All entries alive at `now`, in no order. Takes time in proportion to the table: not for workers.
    pub fn entries(&self, now: Tick, ports: &PortDirectory) -> Vec<MacEntry> {
        let now = coarse(now);
        let mut entries = Vec::new();
        for (key_word, value_word) in self.buckets.iter().flat_map(|bucket| bucket.keys.iter().zip(&bucket.values)) {
            let key_seen = key_word.load(Acquire);
            let value = Value(value_word.load(Acquire));
            if value.is_live() && key_word.load(Relaxed) == key_seen && self.is_alive(value, now, ports) {
                let key = Key(key_seen & KEY_MASK);
                let (port, age_secs) = (value.port(), age(value, now));
                entries.push(MacEntry { mac: key.mac(), vlan: key.vlan(), port, age_secs });
            }
        }
        entries
    }

    /// Entries in the table, those included that wait for the sweep.
    pub fn len(&self) -> usize {
        self.entries.load(Relaxed) as usize
    }

    /// Whether the table has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Buckets, of which a sweep has to visit all.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// The two buckets in which `key` may lie.
    #[inline]
    fn homes(&self, key: Key) -> [&Bucket; 2] {
        let hash = self.hash(key);
        let mask = self.buckets.len() - 1;
        [hash & 0xffff_ffff, hash >> 32].map(|half| &self.buckets[(half & 0xffff_ffff) as usize & mask])
    }

    #[inline]
    fn hash(&self, key: Key) -> u64 {
        let product = u128::from(key.0 ^ self.seed) * u128::from(HASH_MULTIPLIER);
        let folded = (product >> 64) as u64 ^ (product & 0xffff_ffff_ffff_ffff) as u64;
        // Once more, for the upper half to depend on every bit.
        folded.wrapping_mul(HASH_MULTIPLIER) ^ (folded >> 32)
    }

    #[inline]
    fn find(&self, key: Key) -> Option<Found<'_>> {
        for bucket in self.homes(key) {
            for (key_word, value_word) in bucket.keys.iter().zip(&bucket.values) {
                let seen = key_word.load(Acquire);
                if seen & (KEY_MASK | KEY_TAKEN) != key.0 | KEY_TAKEN {
                    continue;
                }
                let value = Value(value_word.load(Acquire));
                // Not live: being inserted or deleted. Key changed: the value may be the successor's.
                if value.is_live() && key_word.load(Relaxed) == seen {
                    return Some(Found { value_word, value });
                }
            }
        }
        None
    }

    /// An entry exists: refreshes or moves it. `None` if it changed meanwhile.
    #[inline]
    fn renew(&self, found: Found<'_>, claim: &Claim, now: u32, ports: &PortDirectory) -> Option<Learned> {
        let Found { value_word, value } = found;
        let renewed = Value::new(claim.port, now, value.tag());
        if value.port() == claim.port {
            // Also if another worker's clock is ahead: time does not go back.
            if age(value, now) == 0 {
                return Some(Learned::Refreshed);
            }
            return swap(value_word, value, renewed).then_some(Learned::Refreshed);
        }
        let alive = self.is_alive(value, now, ports);
        if alive {
            let owner = ports.bits(value.port()).unwrap_or_default();
            if owner.has(PortBits::HOST) || (claim.exclusive && age(value, now) <= HOLD_SECS) {
                return Some(Learned::Held);
            }
        }
        if !ports.reserve_mac(claim.port, claim.macs_max) {
            return Some(Learned::PortLimit);
        }
        if swap(value_word, value, renewed) {
            ports.release_mac(value.port());
            Some(if alive { Learned::Moved } else { Learned::New })
        } else {
            ports.release_mac(claim.port);
            None
        }
    }

    /// No entry exists. `None` if one came into being meanwhile.
    #[cold]
    fn insert(&self, key: Key, claim: &Claim, now: u32, ports: &PortDirectory) -> Option<Learned> {
        let token = &self.tokens[(self.hash(key) & 0xffff) as usize & (self.tokens.len() - 1)];
        if !take(token) {
            return Some(Learned::Busy);
        }
        let outcome = if self.find(key).is_some() { None } else { Some(self.insert_new(key, claim, now, ports)) };
        token.store(false, Release);
        outcome
    }

    /// The token is ours and no live entry of `key` exists.
    fn insert_new(&self, key: Key, claim: &Claim, now: u32, ports: &PortDirectory) -> Learned {
        if !ports.reserve_mac(claim.port, claim.macs_max) {
            return Learned::PortLimit;
        }
        let has_room = self.entries.fetch_add(1, Relaxed) < self.entries_max;
        if has_room && self.occupy(key, claim.port, now) {
            return Learned::New;
        }
        self.entries.fetch_sub(1, Relaxed);
        ports.release_mac(claim.port);
        Learned::Full
    }

    /// Puts an entry into the emptier bucket of `key`; false if both are full.
    fn occupy(&self, key: Key, port: PortId, now: u32) -> bool {
        let mut homes = self.homes(key);
        homes.sort_by_key(|bucket| bucket.keys.iter().filter(|word| word.load(Relaxed) & KEY_TAKEN != 0).count());
        for bucket in homes {
            for (key_word, value_word) in bucket.keys.iter().zip(&bucket.values) {
                let empty = key_word.load(Acquire);
                if empty & KEY_TAKEN != 0 {
                    continue;
                }
                let tag = (empty >> TAG_SHIFT_KEY).wrapping_add(1) & TAG_MASK;
                let taken = key.0 | KEY_TAKEN | tag << TAG_SHIFT_KEY;
                // Fails if a worker with another token takes the place first.
                if key_word.compare_exchange(empty, taken, AcqRel, Relaxed).is_ok() {
                    value_word.store(Value::new(port, now, tag).0, Release);
                    return true;
                }
            }
        }
        false
    }

    fn free_if_dead(&self, bucket: &Bucket, way: usize, now: u32, ports: &PortDirectory) -> bool {
        let value = Value(bucket.values[way].load(Acquire));
        if !value.is_live() || self.is_alive(value, now, ports) {
            return false;
        }
        // Fails if the address was seen again just now.
        if bucket.values[way].compare_exchange(value.0, 0, AcqRel, Relaxed).is_err() {
            return false;
        }
        bucket.keys[way].store(value.tag() << TAG_SHIFT_KEY, Release);
        self.entries.fetch_sub(1, Relaxed);
        ports.release_mac(value.port());
        true
    }

    #[inline]
    fn is_alive(&self, value: Value, now: u32, ports: &PortDirectory) -> bool {
        match ports.bits(value.port()) {
            Some(bits) => age(value, now) <= self.ageing_secs || bits.has(PortBits::HOST),
            None => false,
        }
    }
}

fn swap(word: &AtomicU64, from: Value, to: Value) -> bool {
    word.compare_exchange(from.0, to.0, AcqRel, Relaxed).is_ok()
}

fn take(token: &AtomicBool) -> bool {
    for _ in 0..TOKEN_SPINS {
        if token.compare_exchange(false, true, Acquire, Relaxed).is_ok() {
            return true;
        }
        spin_loop();
    }
    false
}

/// Seconds since the origin, modulo 2^20 (12 days).
#[inline]
fn coarse(now: Tick) -> u32 {
    (now.as_secs() & SECS_MASK_WORD) as u32
}

/// Seconds since the entry was seen; 0 if the worker that saw it has a clock ahead of ours.
#[inline]
fn age(value: Value, now: u32) -> u32 {
    let age = now.wrapping_sub(value.seen()) & SECS_MASK;
    if age > SECS_MASK - AHEAD_SECS { 0 } else { age }
}

/// Seconds during which an address that is in use cannot be taken over (protocol note §3.7,
/// CheckMac). Times are whole seconds, so that up to one second is added.
pub const HOLD_SECS: u32 = 13;

/// Sizes a table can have.
pub const ENTRIES_RANGE: std::ops::RangeInclusive<usize> = 8..=1 << 20;

/// Entries unless configured (protocol note §12.1).
pub const ENTRIES_DEFAULT: usize = 65_536;

/// Ageing times a table can have, in seconds (802.1Q table 8-6).
pub const AGEING_RANGE: std::ops::RangeInclusive<u32> = 10..=1_000_000;

/// Ageing unless configured, in seconds (802.1Q table 8-6).
pub const AGEING_SECS_DEFAULT: u32 = 300;

/// In this many seconds every bucket must be swept once: from the longest ageing time to where an
/// age is taken for a clock ahead of ours.
pub const SWEEP_SECS_MAX: u32 = SECS_MASK - AHEAD_SECS - *AGEING_RANGE.end();

/// Entries of a bucket: four of 16 bytes fill a cache line.
const WAYS: usize = 4;
/// Tokens are for new addresses only; more of them would help nobody.
const TOKENS_MAX: usize = 1024;

const KEY_MASK: u64 = (1 << 60) - 1;
/// Present in the key of a place that is taken.
const KEY_TAKEN: u64 = 1 << 60;
const TAG_SHIFT_KEY: u32 = 61;
const TAG_SHIFT_VALUE: u32 = 60;
const TAG_MASK: u64 = 7;
/// Present in the value of a live entry.
const VALUE_LIVE: u64 = 1 << 63;
const SECS_MASK: u32 = (1 << 20) - 1;
const SECS_MASK_WORD: u64 = (1 << 20) - 1;
/// How far the clock of another worker may be ahead, in seconds: a worker takes the time once per
/// turn, so a fraction of a second, and hours if it was stopped in a debugger.
const AHEAD_SECS: u32 = 16_384;
/// Odd and without pattern: the golden ratio.
const HASH_MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

const _: () = assert!(PortId::BITS == 40, "port, seconds, tag and live bit fill the value");
