//! How much one inside address, one member and all together may have, and how fast.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::time::Duration;

use super::hash::{Key, Secret};
use crate::tick::Tick;

/// Upper bounds. Each worker holds its own part of a hub's NAT to them; a member's addresses may lie on several. Ports
/// and shared flows of a member's that rest count as his, and a new address goes on with the rates of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Mappings of an inside address (RFC 6888 REQ-4), which is what a session of profile `public` has one of.
    pub ports_per_address: u32,
    /// Mappings of a member.
    pub ports_per_member: u32,
    /// Flows of an inside address.
    pub flows_per_address: u32,
    /// New flows of an inside address in a second; as many may begin at once. 0: any number.
    pub new_flows_per_sec: u32,
    /// Destination addresses of new flows of an inside address in a minute, at most 2048. 0: any number.
    pub destinations_per_min: u32,
    /// Mappings of one worker.
    pub mappings: u32,
    /// Flows of one worker.
    pub flows: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ports_per_address: 2_048,
            ports_per_member: 4_096,
            flows_per_address: 4_096,
            new_flows_per_sec: 500,
            destinations_per_min: 2_000,
            mappings: 1 << 20,
            flows: 1 << 21,
        }
    }
}

/// A rate with a burst of one second: the generic cell rate algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rate {
    whole_at: Tick,
}

impl Rate {
    /// Whether one more is within `per_sec`; 0: always.
    pub(super) fn allow(&mut self, per_sec: u32, now: Tick) -> bool {
        if per_sec == 0 {
            return true;
        }
        let whole_at = Tick(self.whole_at.0.max(now.0).saturating_add(SECOND_NS / u64::from(per_sec)));
        let allowed = whole_at <= now + Duration::from_secs(1);
        if allowed {
            self.whole_at = whole_at;
        }
        allowed
    }

    /// Whether nothing of the burst is taken.
    pub(super) fn is_whole(&self, now: Tick) -> bool {
        self.whole_at <= now
    }
}

/// How many different addresses were new within a minute: a Bloom filter of three bits for each. With as many addresses
/// as it may count, one in two hundred new ones passes for known.
#[derive(Clone, Debug, Default)]
pub(super) struct Brake {
    /// Empty until the first flow.
    bits: Vec<u64>,
    count: u32,
    since: Tick,
}

impl Brake {
    pub(super) fn new(now: Tick) -> Self {
        Self { bits: Vec::new(), count: 0, since: now }
    }

    /// Whether nothing is counted.
    pub(super) fn is_whole(&self, now: Tick) -> bool {
        self.count == 0 || now.since(self.since) >= Duration::from_secs(60)
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether a flow to `destination` keeps within `per_min`; 0: always.
    pub(super) fn allow(&mut self, destination: Ipv4Addr, per_min: u32, secret: Secret, now: Tick) -> bool {
        if per_min == 0 {
            return true;
        }
        if now.since(self.since) >= Duration::from_secs(60) {
            self.bits.clear();
            (self.count, self.since) = (0, now);
        }
        self.bits.resize(BRAKE_BITS / 64, 0);
        let places = [0, 1, 2].map(|n| {
            let key = Key { local: destination.into(), remote: n, local_port: 0, remote_port: 0, proto: 0 };
            let bit = secret.hash(key) as usize % BRAKE_BITS;
            (bit / 64, 1 << (bit % 64))
        });
        if places.iter().all(|(word, mask): &(usize, u64)| self.bits[*word] & mask != 0) {
            return true;
        }
        if self.count >= per_min.min(DESTINATIONS_MAX) {
            return false;
        }
        places.iter().for_each(|(word, mask)| self.bits[*word] |= mask);
        self.count += 1;
        true
    }
}

/// 4 KiB for each inside address in use.
const BRAKE_BITS: usize = 1 << 15;
/// Beyond, too few bits stay clear.
const DESTINATIONS_MAX: u32 = 2_048;
const SECOND_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::super::hash::Random;
    use super::*;

    #[test]
    fn rate() {
        let mut rate = Rate::default();
        let allowed = |rate: &mut Rate, from: u64| {
            (0..10_000).filter(|n| rate.allow(50, Tick::from_ms(from) + Duration::from_micros(n * 100))).count()
        };
        assert!((99..=101).contains(&allowed(&mut rate, 10_000)), "the burst and the rate");
        assert!((49..=51).contains(&allowed(&mut rate, 11_000)), "the rate");
        assert!((0..100).all(|_| rate.allow(0, Tick(0))));
    }

    #[test]
    fn brake_counts_addresses() {
        let secret = Secret::new(&mut Random::new(9));
        for per_min in [10u32, 200, 2_000] {
            let mut brake = Brake::new(Tick(0));
            let allow = |brake: &mut Brake, n: u32, ms| brake.allow(n.into(), per_min, secret, Tick::from_ms(ms));
            let first = (0..per_min * 8).position(|n| !allow(&mut brake, n, 1)).unwrap();
            let wanted = per_min as usize;
            assert!((wanted..=wanted + wanted / 20).contains(&first), "{per_min}: stopped at {first}");
            let passed = (0..10_000).filter(|n| allow(&mut brake, 50_000 + n, 2)).count();
            assert!(passed < 100, "{passed} of 10000 pass for known");
            assert!((0..10).all(|n| allow(&mut brake, n, 3)), "known ones stay open");
            assert!((0..per_min * 4 / 5).all(|n| allow(&mut brake, 900_000 + n, 60_001)), "a minute later");
        }
    }
}
