//! How long to wait before the next attempt.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Waits that double, from a second to half a minute, spread so that members of a server that comes back do not all
/// come at once. Pure: the caller sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    attempts: u32,
    random: u64,
}

impl Backoff {
    /// Different seeds, different waits.
    pub(super) fn new(seed: u64) -> Self {
        Self { attempts: 0, random: seed | 1 }
    }

    /// The wait before the next attempt.
    pub(super) fn next_wait(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let longest = LEAST.saturating_mul(1 << self.attempts.min(5)).min(MOST);
        self.attempts = self.attempts.saturating_add(1);
        let part = u32::try_from(self.random >> 48).unwrap_or(0);
        // The upper half of what it may be.
        (longest / 2 + longest / 2 * part / 0x1_0000).max(LEAST)
    }

    /// It worked: the next wait is the shortest again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_in_range() {
        for seed in 0..50 {
            let mut backoff = Backoff::new(seed * 7919);
            for longest in [1, 2, 4, 8, 16, 30, 30, 30] {
                let wait = backoff.next_wait();
                let longest = Duration::from_secs(longest);
                assert!(wait >= LEAST && wait >= longest / 2 && wait <= longest, "{wait:?} of {longest:?}");
            }
            backoff.reset();
            assert_eq!(backoff.next_wait(), LEAST);
        }
    }

    #[test]
    fn members_spread() {
        let waits: std::collections::HashSet<_> = (1..100u64)
            .map(|seed| {
                let mut backoff = Backoff::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                (0..5).map(|_| backoff.next_wait()).last()
            })
            .collect();
        assert!(waits.len() > 90, "{} waits of 99 members", waits.len());
    }
}
