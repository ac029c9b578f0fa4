//! Keyed hashes and the index that turns one into the number of an entry.
//!
//! Who sends packets chooses addresses and ports, hence keys: without the secret of the hash he cannot choose collisions.
#![forbid(unsafe_code)]

/// A flow as seen from one side, or one end of a mapping (then without `remote`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) local: u32,
    pub(super) remote: u32,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
    pub(super) proto: u8,
}

/// What makes hashes of one NAT unlike those of another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Secret([u64; 3]);

impl Secret {
    /// For what every worker has to compute alike and nobody gains from steering.
    pub(super) const PUBLIC: Secret = Secret([0xadf8_5458_a2bb_4a9a, 0xafdc_5620_273d_3cf1, 0xd8b9_c583_ce2d_3695]);

    /// From random bits.
    pub(super) fn new(random: &mut Random) -> Self {
        Self([random.next(), random.next(), random.next()])
    }

    #[inline]
    pub(super) fn hash(self, key: Key) -> u32 {
        let Secret([a, b, c]) = self;
        let addresses = u64::from(key.local) << 32 | u64::from(key.remote);
        let rest = u64::from(key.local_port) << 32 | u64::from(key.remote_port) << 16 | u64::from(key.proto);
        fold(fold(addresses ^ a, rest ^ b) ^ c, MULTIPLIER).low()
    }
}

/// A stream of numbers that nobody foresees who does not know the seed.
#[derive(Clone, Debug)]
pub(super) struct Random {
    seed: u64,
    count: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, count: 0 }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.count = self.count.wrapping_add(MULTIPLIER);
        let inner = fold(self.count ^ self.seed, MULTIPLIER ^ self.seed.rotate_left(32));
        fold(inner ^ self.seed, inner.rotate_left(23) ^ SALT)
    }

    /// Below `bound`; 0 if that is 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        (u64::from(self.next().low()) * u64::from(bound)).high()
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ (product & 0xffff_ffff_ffff_ffff) as u64
}

/// Halves of a word.
pub(super) trait Halves {
    fn low(self) -> u32;
    fn high(self) -> u32;
}

impl Halves for u64 {
    #[inline]
    fn low(self) -> u32 {
        (self & 0xffff_ffff) as u32
    }

    #[inline]
    fn high(self) -> u32 {
        (self >> 32) as u32
    }
}

/// From hash to number of an entry: open addressing with linear probing. A slot holds both, so that a lookup looks at
/// an entry only where all bits of the hash fit, and growing looks at none.
#[derive(Debug)]
pub(super) struct Index {
    /// Hash in the high half, number + 1 in the low one; 0: free. A power of two of them.
    slots: Box<[u64]>,
    len: usize,
}

impl Index {
    pub(super) fn new() -> Self {
        Self { slots: vec![0; SLOTS_MIN].into(), len: 0 }
    }

    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.slots.len() * size_of::<u64>()
    }

    /// The number with that hash for which `fits` holds.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut fits: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            if slot.high() == hash && fits(slot.low() - 1) {
                return Some(slot.low() - 1);
            }
            at = (at + 1) & mask;
        }
    }

    /// The slot that a lookup begins with: reading it early brings it into the cache.
    #[inline]
    pub(super) fn peek(&self, hash: u32) -> u64 {
        self.slots[hash as usize & (self.slots.len() - 1)]
    }

    /// Adds a number. Grows where it has to.
    pub(super) fn insert(&mut self, hash: u32, number: u32) {
        if (self.len + 1) * LOAD_OF > self.slots.len() * LOAD {
            self.grow();
        }
        self.len += 1;
        place(&mut self.slots, pack(hash, number));
    }

    /// Exchanges a number for another with the same hash.
    pub(super) fn replace(&mut self, hash: u32, old: u32, new: u32) {
        if let Some(at) = self.slot_of(hash, old) {
            self.slots[at] = pack(hash, new);
        }
    }

    /// Removes a number, if it is there.
    pub(super) fn remove(&mut self, hash: u32, number: u32) {
        let mask = self.slots.len() - 1;
        let Some(mut hole) = self.slot_of(hash, number) else { return };
        self.len -= 1;
        self.slots[hole] = 0;
        // Those behind move up unless that would put them before the place where their search begins.
        let mut at = (hole + 1) & mask;
        while self.slots[at] != 0 {
            let home = self.slots[at].high() as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[at];
                self.slots[at] = 0;
                hole = at;
            }
            at = (at + 1) & mask;
        }
    }

    fn slot_of(&self, hash: u32, number: u32) -> Option<usize> {
        let (mask, wanted) = (self.slots.len() - 1, pack(hash, number));
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 {
            if self.slots[at] == wanted {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
        None
    }

    fn grow(&mut self) {
        let mut slots = vec![0; self.slots.len() * 2].into_boxed_slice();
        self.slots.iter().filter(|slot| **slot != 0).for_each(|slot| place(&mut slots, *slot));
        self.slots = slots;
    }
}

/// Puts `slot` into the first free place from its home on; there is one.
fn place(slots: &mut [u64], slot: u64) {
    let mask = slots.len() - 1;
    let mut at = slot.high() as usize & mask;
    while slots[at] != 0 {
        at = (at + 1) & mask;
    }
    slots[at] = slot;
}

/// Numbers are below `u32::MAX`: no slab has so many entries.
fn pack(hash: u32, number: u32) -> u64 {
    (u64::from(hash) << 32) | (u64::from(number) + 1)
}

/// Odd constants without pattern, from the digits of the golden ratio and of e.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const SALT: u64 = 0xadf8_5458_a2bb_4a9a;
/// Eight cache lines.
const SLOTS_MIN: usize = 64;
/// At most 5/8 full: an absent key then costs four slots, half a cache line, on average.
const LOAD: usize = 5;
const LOAD_OF: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Few hashes, so that runs are long and wrap around.
        #[test]
        fn index_is_a_map(steps in proptest::collection::vec((0u32..3, 0u32..40, 0u32..200), 0..600)) {
            let mut index = Index::new();
            let mut model: HashMap<u32, u32> = HashMap::new();
            for (what, hash, number) in steps {
                let hash = hash.wrapping_sub(20);
                match what {
                    0 if !model.contains_key(&number) => {
                        index.insert(hash, number);
                        model.insert(number, hash);
                    }
                    1 => {
                        if let Some(hash) = model.remove(&number) {
                            index.remove(hash, number);
                        }
                    }
                    _ => index.remove(hash, number + 1_000),
                }
            }
            prop_assert_eq!(index.len, model.len());
            for number in 0..200 {
                for hash in (0..40u32).map(|hash| hash.wrapping_sub(20)) {
                    let found = index.find(hash, |n| n == number);
                    prop_assert_eq!(found.is_some(), model.get(&number) == Some(&hash));
                }
            }
        }
    }

    #[test]
    fn replaced_numbers() {
        let mut index = Index::new();
        index.insert(7, 1);
        index.insert(7, 2);
        index.replace(7, 1, 9);
        assert_eq!(
            (index.find(7, |n| n == 1), index.find(7, |n| n == 9), index.find(7, |n| n == 2)),
            (None, Some(9), Some(2))
        );
    }

    #[test]
    fn neighbouring_keys_spread() {
        let secret = Secret::new(&mut Random::new(1));
        let mut load = [0u32; 256];
        for n in 0..65_536u32 {
            let key = Key {
                local: 0x6440_0000 + (n >> 8),
                remote: 1,
                local_port: (n & 0xff) as u16,
                remote_port: 443,
                proto: 6,
            };
            load[(secret.hash(key) & 0xff) as usize] += 1;
        }
        assert!(load.iter().all(|n| (160..=360).contains(n)), "{load:?}");
    }

    #[test]
    fn random_numbers_reach_all_below_the_bound() {
        let mut random = Random::new(5);
        let mut seen = [0u32; 7];
        (0..7_000).for_each(|_| seen[random.below(7) as usize] += 1);
        assert!(seen.iter().all(|n| (800..1_200).contains(n)), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }
}
