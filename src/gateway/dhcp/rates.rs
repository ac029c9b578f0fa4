//! How often one session may ask, and how often it may change what is leased: what every address has of its own
//! (`changes` of a place) does not hold whoever walks through the pool.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::Duration;

use crate::ids::SessionId;
use crate::tick::Tick;

/// So many a second, in bursts of `burst` (generic cell rate algorithm).
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) per_sec: u32,
    pub(super) burst: u32,
}

/// When the allowance is whole again.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(Tick);

impl Bucket {
    fn allow(&mut self, rate: Rate, now: Tick) -> bool {
        let cost = Duration::from_secs(1) / rate.per_sec.max(1);
        let whole_at = self.0.max(now) + cost;
        if whole_at > now + cost * rate.burst {
            return false;
        }
        self.0 = whole_at;
        true
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    messages: Bucket,
    changes: Bucket,
}

/// See the module text.
#[derive(Debug, Default)]
pub(super) struct Rates {
    usages: HashMap<SessionId, Usage>,
    swept: Tick,
}

impl Rates {
    /// Whether `session` may send another message that wants an answer.
    pub(super) fn message(&mut self, session: SessionId, rate: Rate, now: Tick) -> bool {
        self.usage(session, now).is_some_and(|usage| usage.messages.allow(rate, now))
    }

    /// Whether `session` may change another lease.
    pub(super) fn change(&mut self, session: SessionId, rate: Rate, now: Tick) -> bool {
        self.usage(session, now).is_some_and(|usage| usage.changes.allow(rate, now))
    }

    pub(super) fn end(&mut self, session: SessionId) {
        self.usages.remove(&session);
    }

    /// `None` while there is no place. A whole allowance is as good as a fresh one; all are looked at once a second at
    /// most.
    fn usage(&mut self, session: SessionId, now: Tick) -> Option<&mut Usage> {
        if self.usages.len() >= SESSIONS_MAX && !self.usages.contains_key(&session) {
            if now.since(self.swept) >= SWEEP_EVERY {
                self.swept = now;
                self.usages.retain(|_, usage| usage.messages.0 > now || usage.changes.0 > now);
            }
            if self.usages.len() >= SESSIONS_MAX {
                return None;
            }
        }
        Some(self.usages.entry(session).or_default())
    }
}

/// Sessions that asked within the last seconds: 2 MB.
const SESSIONS_MAX: usize = 65_536;
const SWEEP_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let rate = Rate { per_sec: 4, burst: 16 };
        let mut rates = Rates::default();
        let count =
            |rates: &mut Rates, ms| (0..100).filter(|_| rates.change(SessionId(1), rate, Tick::from_ms(ms))).count();
        assert_eq!([1_000, 1_000, 1_250, 2_250, 60_000].map(|ms| count(&mut rates, ms)), [16, 0, 1, 4, 16]);
        assert!(rates.message(SessionId(1), rate, Tick::from_ms(60_000)), "messages are counted by themselves");
        assert!(rates.change(SessionId(2), rate, Tick::from_ms(60_000)), "and so is every session");
    }

    #[test]
    fn whole_allowances_make_room() {
        let rate = Rate { per_sec: 4, burst: 16 };
        let mut rates = Rates::default();
        for n in 0..SESSIONS_MAX as u64 {
            assert!(rates.change(SessionId(n), rate, Tick::from_ms(2_000)));
        }
        let new = SessionId(u64::MAX);
        assert!(!rates.change(new, rate, Tick::from_ms(2_100)));
        assert!(rates.change(SessionId(1), rate, Tick::from_ms(2_100)), "who is known stays");
        assert!(!rates.change(new, rate, Tick::from_ms(2_900)), "looked at once a second");
        assert!(rates.change(new, rate, Tick::from_ms(3_200)));
        assert_eq!(rates.usages.len(), 1, "0.25 s made all whole");
        rates.end(new);
        assert!(rates.usages.is_empty());
    }
}
