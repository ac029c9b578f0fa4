//! Storm limiter: how many frames may one port make the hub copy to everybody?
//!
//! The generic cell rate algorithm: one number per port, the time at which its allowance would be
//! whole again. Unlike the original's windows per flow (protocol note §12.2) it holds no table that a
//! sender could fill.
#![forbid(unsafe_code)]

use crate::tick::Tick;

/// State of one port.
#[derive(Clone, Copy, Debug, Default)]
pub struct StormLimiter {
    whole_at: Tick,
}

impl StormLimiter {
    /// Whether another frame may be flooded at `now` where `per_sec` may, in bursts of as many;
    /// `per_sec` 0 means any number.
    #[inline]
    pub fn allow(&mut self, per_sec: u32, now: Tick) -> bool {
        if per_sec == 0 {
            return true;
        }
        let cost = SECOND_NS / u64::from(per_sec);
        let whole_at = self.whole_at.0.max(now.0).saturating_add(cost);
        if whole_at > now.0.saturating_add(SECOND_NS) {
            return false;
        }
        self.whole_at = Tick(whole_at);
        true
    }
}

const SECOND_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// H12: 100,000 broadcasts in a second.
    #[test]
    fn burst_then_rate() {
        let mut limiter = StormLimiter::default();
        let sent = |limiter: &mut StormLimiter, from_ms: u64| {
            (0..100_000).filter(|i| limiter.allow(100, Tick(from_ms * 1_000_000 + i * 10_000))).count()
        };
        assert!((199..=201).contains(&sent(&mut limiter, 1_000)), "the burst and the rate");
        assert!((99..=101).contains(&sent(&mut limiter, 2_000)), "the rate");
        assert!((199..=201).contains(&sent(&mut limiter, 60_000)), "silence gives the burst back");
    }

    #[test]
    fn no_limit() {
        let mut limiter = StormLimiter::default();
        assert!((0..10_000).all(|_| limiter.allow(0, Tick(5))));
    }
}
