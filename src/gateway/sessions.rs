//! What the gateway remembers of each session: how much of each service it has had lately.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::Duration;

use crate::hub::limiter::StormLimiter;
use crate::ids::SessionId;
use crate::tick::Tick;

/// Limiters and counts of one session.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// ARP answers.
    pub(super) arp: StormLimiter,
    /// Echo replies.
    pub(super) echo: StormLimiter,
    /// ICMP errors.
    pub(super) errors: StormLimiter,
    /// Questions for the DNS.
    pub(super) questions: StormLimiter,
    /// Addresses it goes on with without asking.
    pub(super) adoptions: StormLimiter,
    /// Events about what it claims.
    pub(super) events: StormLimiter,
    /// Questions that wait for an answer.
    pub(super) waiting: u32,
    seen: Tick,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Sessions {
    usages: HashMap<SessionId, Usage>,
    max: usize,
    swept: Tick,
}

impl Sessions {
    pub(super) fn new(max: usize) -> Self {
        Self { usages: HashMap::new(), max: max.max(1), swept: Tick::default() }
    }

    /// The usage of `session`; `None` while there is no place.
    pub(super) fn usage(&mut self, session: SessionId, now: Tick) -> Option<&mut Usage> {
        if self.usages.len() >= self.max && !self.usages.contains_key(&session) {
            self.make_room(now);
            if self.usages.len() >= self.max {
                return None;
            }
        }
        let usage = self.usages.entry(session).or_default();
        usage.seen = now;
        Some(usage)
    }

    /// A question of `session` waits no longer.
    pub(super) fn answered(&mut self, session: SessionId) {
        if let Some(usage) = self.usages.get_mut(&session) {
            usage.waiting = usage.waiting.saturating_sub(1);
        }
    }

    pub(super) fn end(&mut self, session: SessionId) {
        self.usages.remove(&session);
    }

    /// A limiter that was not used for seconds is as good as a fresh one. At most once a second: it looks at all.
    fn make_room(&mut self, now: Tick) {
        if now.since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        self.usages.retain(|_, usage| usage.waiting > 0 || now.since(usage.seen) < IDLE);
    }
}

const SWEEP_EVERY: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_ones_make_room() {
        let mut sessions = Sessions::new(2);
        for n in 0..2 {
            assert!(sessions.usage(SessionId(n), Tick::from_ms(1_000)).is_some());
        }
        assert!(sessions.usage(SessionId(2), Tick::from_ms(2_000)).is_none());
        assert!(sessions.usage(SessionId(1), Tick::from_ms(2_000)).is_some(), "who is known stays");
        sessions.usage(SessionId(1), Tick::from_ms(11_500)).unwrap().waiting = 1;
        assert!(sessions.usage(SessionId(2), Tick::from_ms(11_500)).is_some());
        assert!(sessions.usage(SessionId(3), Tick::from_ms(11_600)).is_none());
        assert!(sessions.usage(SessionId(3), Tick::from_ms(30_000)).is_some());
        sessions.end(SessionId(3));
        assert_eq!(sessions.usage(SessionId(1), Tick::from_ms(30_000)).unwrap().waiting, 1, "who waits is kept");
    }
}
