//! How long to wait before the next attempt.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Waits that double, from about a second to half a minute, spread so that members of a server that comes back do not all
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
        let (least, spread) = if self.attempts == 0 {
            (FIRST / 2, FIRST)
        } else {
            let longest = FIRST.saturating_mul(1 << self.attempts.min(5)).min(MOST);
            (longest / 2, longest / 2)
        };
        self.attempts = self.attempts.saturating_add(1);
        least + self.part_of(spread)
    }

    /// A session that worked has gone: the wait before the first login after it. All members of a server that has gone notice
    /// that at the same moment. The wait after that is the shortest again.
    pub(super) fn after_session(&mut self) -> Duration {
        self.attempts = 0;
        self.part_of(FIRST)
    }

    /// By chance, evenly from nothing up to `longest`.
    fn part_of(&mut self, longest: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        longest * u32::try_from(self.random >> 48).unwrap_or(0) / 0x1_0000
    }
}

/// The first wait in the middle.
const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_in_range() {
        for seed in 0..50 {
            let mut backoff = Backoff::new(seed * 7919);
            for (least, most) in [(500, 1_500), (1_000, 2_000), (2_000, 4_000), (4_000, 8_000), (8_000, 16_000)]
                .into_iter()
                .chain([(15_000, 30_000); 3])
            {
                let wait = backoff.next_wait().as_millis();
                assert!((least..=most).contains(&wait), "{wait} ms");
            }
            assert!(backoff.after_session() < FIRST);
            assert!(backoff.next_wait() <= FIRST * 3 / 2, "from the beginning again");
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

    /// In each tenth of a second there are some, at the first login and at the second.
    #[test]
    fn a_server_that_starts_anew_is_not_stormed() {
        let mut counts = [[0; 10]; 2];
        for member in 1..=1_000u64 {
            let mut backoff = Backoff::new(member.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let first = backoff.after_session();
            let second = backoff.next_wait().checked_sub(FIRST / 2).unwrap();
            for (counts, wait) in counts.iter_mut().zip([first, second]) {
                counts[usize::try_from(wait.as_millis() / 100).unwrap()] += 1;
            }
        }
        assert!(counts.iter().flatten().all(|count| (60..=140).contains(count)), "{counts:?}");
    }
}
