//! Slowing down those who guess (conformance H6).
//!
//! Failures are counted by source and by user name, known or not. After some that are free, each costs a
//! wait: 5 s, doubled each time up to 600 s, in which nothing is compared. A failure is forgiven per
//! minute without one.
//!
//! A user must not be locked out by others who guess at his name, nor an office by the one laptop in it
//! that has an old password. Hence who logged in from a source before is counted for himself there:
//! neither the user's count nor the source's stops him, and his own failures count for neither.
//!
//! Pure: time is an argument. Bounded: the entry that was made first gives way. To flush the table one
//! needs as many sources as it has entries, as each source soon waits.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use crate::event::source_of;
use crate::tick::Tick;

/// Failures of late, and who must wait.
#[derive(Debug)]
pub struct Penalties {
    entries: HashMap<Key, Entry>,
    /// Keys of `entries`, each once, oldest first.
    order: VecDeque<Key>,
    entries_max: usize,
    hasher: RandomState,
}

impl Penalties {
    /// Remembers at most `entries_max` sources, users and pairs of them.
    pub fn new(entries_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            entries_max: entries_max.max(2),
            hasher: RandomState::new(),
        }
    }

    /// Whether an attempt of `user` (with his hub, in any case) from `source` may be looked at.
    ///
    /// # Errors
    /// The time left to wait.
    pub fn check(&self, source: IpAddr, user: &str, now: Tick) -> Result<(), Duration> {
        let wait = self.keys(source, user).into_iter().flatten().map(|key| self.wait(key, now)).max();
        match wait {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    /// Counts a failure that was looked at.
    pub fn failed(&mut self, source: IpAddr, user: &str, now: Tick) {
        for key in self.keys(source, user).into_iter().flatten() {
            self.entry(key, now).fail(now);
        }
    }

    /// Remembers that `user` logged in from `source`. Failures of the source stay: else one good account
    /// would buy guesses at all others.
    pub fn succeeded(&mut self, source: IpAddr, user: &str, now: Tick) {
        let pair = self.key(Some(source), Some(user));
        *self.entry(pair, now) = Entry::new(now);
    }

    /// Entries remembered now.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What counts for this attempt: the pair if it is known, else source and user.
    fn keys(&self, source: IpAddr, user: &str) -> [Option<Key>; 2] {
        let pair = self.key(Some(source), Some(user));
        if self.entries.contains_key(&pair) {
            [Some(pair), None]
        } else {
            [Some(self.key(Some(source), None)), Some(self.key(None, Some(user)))]
        }
    }

    fn key(&self, source: Option<IpAddr>, user: Option<&str>) -> Key {
        self.hasher.hash_one((source.map(source_of), user.map(str::to_ascii_uppercase)))
    }

    fn wait(&self, key: Key, now: Tick) -> Duration {
        self.entries.get(&key).map_or(Duration::ZERO, |entry| entry.until.since(now))
    }

    fn entry(&mut self, key: Key, now: Tick) -> &mut Entry {
        if !self.entries.contains_key(&key) {
            if self.entries.len() >= self.entries_max
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
            self.order.push_back(key);
        }
        self.entries.entry(key).or_insert_with(|| Entry::new(now))
    }
}

/// A source, a user, or both, by a hash with a secret of this process: names of 255 bytes cost no room,
/// and nobody can aim at the entry of another.
type Key = u64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    failures: u32,
    /// When the last one was counted or forgiven.
    counted: Tick,
    until: Tick,
}

impl Entry {
    const fn new(now: Tick) -> Self {
        Self { failures: 0, counted: now, until: Tick(0) }
    }

    fn fail(&mut self, now: Tick) {
        let forgiven = now.since(self.counted.max(self.until)).as_secs() / FORGIVE.as_secs();
        self.failures = self.failures.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)).saturating_add(1);
        self.counted = now;
        if let Some(doublings) = self.failures.checked_sub(FREE + 1) {
            self.until = now + FIRST_WAIT.saturating_mul(1 << doublings.min(16)).min(LONGEST_WAIT);
        }
    }
}

/// Failures that cost nothing: one forgets, one mistypes.
const FREE: u32 = 4;
/// The first wait (H6); also the shortest interval at which stock clients retry.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest wait (H6).
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Time without failure and without waiting after which one failure is forgiven.
const FORGIVE: Duration = Duration::from_secs(60);
/// Room of a server: about 8 MiB at worst.
pub const ENTRIES_MAX: usize = 131_072;

#[cfg(test)]
mod tests {
    use super::*;

    const OFFICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn at(s: u64) -> Tick {
        Tick::from_ms(s * 1000)
    }

    fn source(i: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + i).to_be_bytes())
    }

    /// Tries at every second that it may; returns the seconds.
    fn guess(penalties: &mut Penalties, source: impl Fn(u64) -> IpAddr, user: &str, from: u64, to: u64) -> Vec<u64> {
        let mut tried = Vec::new();
        for second in from..to {
            if penalties.check(source(second), user, at(second)).is_ok() {
                penalties.failed(source(second), user, at(second));
                tried.push(second);
            }
        }
        tried
    }

    #[test]
    fn waits_double_up_to_ten_minutes() {
        let mut penalties = Penalties::new(100);
        let tried = guess(&mut penalties, |_| OFFICE, "u", 0, 4000);
        assert_eq!(tried[..5], [0, 1, 2, 3, 4], "some are free");
        let waits: Vec<u64> = tried[4..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600, 600, 600]);
    }

    #[test]
    fn many_names_from_one_source_and_many_sources_at_one_name() {
        let mut penalties = Penalties::new(1000);
        for i in 0..5 {
            penalties.failed(OFFICE, &format!("user{i}"), at(0));
        }
        assert_eq!(penalties.check(OFFICE, "fresh", at(1)), Err(Duration::from_secs(4)));
        assert_eq!(penalties.check(source(9), "fresh", at(1)), Ok(()));

        let tried = guess(&mut penalties, |second| source(u32::try_from(second).unwrap()), "Alice", 0, 100);
        assert!(tried.len() < 10, "{tried:?}");
        assert!(penalties.check(source(5000), "ALICE", at(100)).is_err(), "case does not matter");
    }

    #[test]
    fn an_ipv6_subscriber_is_one_source() {
        let mut penalties = Penalties::new(100);
        for i in 0..5u16 {
            penalties.failed(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, i]), &format!("user{i}"), at(0));
        }
        assert!(penalties.check("2001:db8:0:1:ffff::".parse().unwrap(), "x", at(1)).is_err());
        assert!(penalties.check("2001:db8:0:2::".parse().unwrap(), "x", at(1)).is_ok());
    }

    #[test]
    fn who_came_in_before_is_not_locked_out_by_others() {
        let mut penalties = Penalties::new(1000);
        penalties.succeeded(OFFICE, "alice", at(0));
        for i in 0..50 {
            penalties.failed(source(i), "alice", at(1));
            penalties.failed(OFFICE, "bob", at(1));
        }
        assert_eq!(penalties.check(OFFICE, "Alice", at(2)), Ok(()));
        assert!(penalties.check(source(200), "alice", at(2)).is_err());
        assert!(penalties.check(OFFICE, "carol", at(2)).is_err());
        // Guessing at a colleague's name from his own office is slowed all the same.
        let tried = guess(&mut penalties, |_| OFFICE, "alice", 10, 110);
        assert!((5..10).contains(&tried.len()), "{tried:?}");
    }

    #[test]
    fn success_does_not_wash_the_source() {
        let mut penalties = Penalties::new(1000);
        for _ in 0..5 {
            penalties.succeeded(OFFICE, "mallory", at(0));
            penalties.failed(OFFICE, "alice", at(0));
        }
        assert!(penalties.check(OFFICE, "bob", at(1)).is_err());
    }

    #[test]
    fn time_forgives() {
        let mut penalties = Penalties::new(100);
        for _ in 0..5 {
            penalties.failed(OFFICE, "u", at(0));
        }
        // Wait until second 5; five failures forgiven 300 s later, so that the next one is free again.
        penalties.failed(OFFICE, "u", at(306));
        assert_eq!(penalties.check(OFFICE, "u", at(307)), Ok(()));
        for _ in 0..3 {
            penalties.failed(OFFICE, "u", at(307));
        }
        assert_eq!(penalties.check(OFFICE, "u", at(308)), Ok(()));
        penalties.failed(OFFICE, "u", at(308));
        assert!(penalties.check(OFFICE, "u", at(309)).is_err());
    }

    #[test]
    fn the_table_is_bounded_and_never_overflows() {
        let mut penalties = Penalties::new(64);
        for i in 0..10_000 {
            penalties.failed(source(i), &format!("user{i}"), at(0));
            penalties.succeeded(source(i), "u", at(0));
            assert!(penalties.len() <= 64 && penalties.order.len() == penalties.entries.len());
        }
        for _ in 0..100_000 {
            penalties.failed(OFFICE, "u", Tick(u64::MAX));
        }
        assert!(!penalties.is_empty());
    }
}
