//! Which card has the address of a next hop: written where ARP arrives, read by every worker for every packet.
//!
//! A fixed number of places in buckets of four. A place gets a number of its own (the generation) each time it is
//! given to another address, and the word with the card carries that number: a card learned for the address before is
//! never taken for this one's. Only addresses that somebody asked for get a place, so nobody outside can fill the
//! table.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

use crate::tick::Tick;
use crate::wire::ethernet::Mac;

/// See the module text.
#[derive(Debug)]
pub struct Neighbours {
    places: Box<[Place]>,
}

#[derive(Debug, Default)]
struct Place {
    /// Address (32 bits), generation (16 bits); 0: free.
    key: AtomicU64,
    /// Card (48 bits), generation (16 bits).
    mac: AtomicU64,
    /// When the card was last heard of, in nanoseconds.
    heard: AtomicU64,
    /// When it was last asked for.
    asked: AtomicU64,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Its card.
    At(Mac),
    /// Its card, which has not been heard of for a while: good to use, to be asked again. The caller shall ask if the
    /// second field says so.
    Stale(Mac, bool),
    /// Not known. The caller shall ask if the field says so.
    Unknown(bool),
}

impl Neighbours {
    /// None known.
    pub fn new() -> Self {
        Self { places: (0..BUCKETS * WAYS).map(|_| Place::default()).collect() }
    }

    /// The card of `address`. At most one caller a second is told to ask for it.
    #[inline]
    pub fn find(&self, address: Ipv4Addr, now: Tick) -> Neighbour {
        let Some((place, key)) = self.place(address) else { return self.claim(address, now) };
        let mac = place.mac.load(Acquire);
        let silent = now.since(Tick(place.heard.load(Relaxed)));
        if mac >> ADDRESS_BITS_MAC != key >> ADDRESS_BITS || silent >= FORGOTTEN {
            return Neighbour::Unknown(place.shall_ask(now));
        }
        let mac = Mac::from_bits(mac & MAC);
        if silent < FRESH { Neighbour::At(mac) } else { Neighbour::Stale(mac, place.shall_ask(now)) }
    }

    /// `mac` has said that it has `address`. Taken only if somebody wants to know.
    pub fn learn(&self, address: Ipv4Addr, mac: Mac, now: Tick) -> bool {
        let Some((place, key)) = self.place(address) else { return false };
        place.heard.store(now.0, Relaxed);
        place.mac.store(mac.to_bits() | (key >> ADDRESS_BITS) << ADDRESS_BITS_MAC, Release);
        true
    }

    /// Nobody is known any more: the device is another one.
    pub fn forget_all(&self) {
        for place in &self.places {
            place.mac.store(0, Release);
            place.asked.store(0, Relaxed);
        }
    }

    fn bucket(&self, address: Ipv4Addr) -> &[Place] {
        let mixed = u32::from(address).wrapping_mul(0x9e37_79b9) >> 16;
        let at = usize::try_from(mixed).unwrap_or(0) % BUCKETS * WAYS;
        &self.places[at..at + WAYS]
    }

    /// The place of `address` and its whole key.
    #[inline]
    fn place(&self, address: Ipv4Addr) -> Option<(&Place, u64)> {
        let wanted = u64::from(u32::from(address));
        self.bucket(address).iter().find_map(|place| {
            let key = place.key.load(Acquire);
            (key & ADDRESS == wanted && key >> ADDRESS_BITS != 0).then_some((place, key))
        })
    }

    /// Takes a place in the bucket that nobody uses: a card that is known stays, however many others are asked for.
    #[cold]
    fn claim(&self, address: Ipv4Addr, now: Tick) -> Neighbour {
        let Some(place) = self.bucket(address).iter().find(|place| place.is_free(now)) else {
            return Neighbour::Unknown(false);
        };
        let old = place.key.load(Relaxed);
        let generation = match (old >> ADDRESS_BITS).wrapping_add(1) & 0xffff {
            0 => 1,
            next => next,
        };
        let key = u64::from(u32::from(address)) | generation << ADDRESS_BITS;
        let is_ours = place.key.compare_exchange(old, key, Release, Relaxed).is_ok();
        if is_ours {
            place.asked.store(now.0.max(1), Relaxed);
        }
        Neighbour::Unknown(is_ours)
    }
}

impl Default for Neighbours {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// Has no card, and nobody waits for an answer.
    fn is_free(&self, now: Tick) -> bool {
        let since = |word: &AtomicU64| now.since(Tick(word.load(Relaxed)));
        let key = self.key.load(Relaxed);
        let is_known = self.mac.load(Relaxed) >> ADDRESS_BITS_MAC == key >> ADDRESS_BITS;
        key == 0 || (since(&self.asked) >= ASK_AGAIN && !(is_known && since(&self.heard) < FORGOTTEN))
    }

    /// True for one caller in [`ASK_AGAIN`].
    fn shall_ask(&self, now: Tick) -> bool {
        let asked = self.asked.load(Relaxed);
        let is_due = asked == 0 || now.since(Tick(asked)) >= ASK_AGAIN;
        is_due && self.asked.compare_exchange(asked, now.0.max(1), Relaxed, Relaxed).is_ok()
    }
}

const BUCKETS: usize = 128;
const WAYS: usize = 4;
const ADDRESS_BITS: u32 = 32;
const ADDRESS: u64 = (1 << ADDRESS_BITS) - 1;
const ADDRESS_BITS_MAC: u32 = 48;
const MAC: u64 = (1 << ADDRESS_BITS_MAC) - 1;
/// A card that was heard of within this time is not asked for.
const FRESH: Duration = Duration::from_secs(30);
/// After so long without a word the card is gone (RFC 1122 §2.3.2.1 has a minute).
const FORGOTTEN: Duration = Duration::from_secs(60);
/// RFC 1122 §2.3.2.1: one request a second for each destination.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const CARD: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn at(secs: u64) -> Tick {
        Tick::from_ms(1000 * secs)
    }

    #[test]
    fn asked_for_learned_refreshed_forgotten() {
        let table = Neighbours::new();
        assert!(!table.learn(HOP, CARD, at(1)), "nobody asked");
        assert_eq!(table.find(HOP, at(1)), Neighbour::Unknown(true));
        assert_eq!(table.find(HOP, at(1)), Neighbour::Unknown(false), "once a second");
        assert_eq!(table.find(HOP, at(2)), Neighbour::Unknown(true));
        assert!(table.learn(HOP, CARD, at(2)));
        assert_eq!(table.find(HOP, at(31)), Neighbour::At(CARD));
        assert_eq!(table.find(HOP, at(32)), Neighbour::Stale(CARD, true));
        assert_eq!(table.find(HOP, at(32)), Neighbour::Stale(CARD, false));
        assert_eq!(table.find(HOP, at(62)), Neighbour::Unknown(true));
        assert!(table.learn(HOP, CARD, at(63)));
        table.forget_all();
        assert_eq!(table.find(HOP, at(63)), Neighbour::Unknown(true));
    }

    /// More addresses than places: each gets its turn, and none gets the card of another.
    #[test]
    fn places_change_hands() {
        let table = Neighbours::new();
        let address = |n: u32| Ipv4Addr::from(0x0a00_0000 + n);
        let card = |n: u32| Mac::from_bits(u64::from(n) + 1);
        let mut learned = 0;
        for n in 0..4000 {
            let now = at(2 + u64::from(n) * 20);
            assert_eq!(table.find(address(n), now), Neighbour::Unknown(true), "{n}");
            if n % 2 == 0 {
                assert!(table.learn(address(n), card(n), now));
                assert_eq!(table.find(address(n), now), Neighbour::At(card(n)));
                learned += 1;
            } else {
                assert_eq!(table.find(address(n), now), Neighbour::Unknown(false), "{n} has the card of another");
            }
        }
        assert_eq!(learned, 2000);
    }
}
