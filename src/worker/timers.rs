//! What is due when: a hashed timing wheel.
//!
//! Keep-alives and timeouts of thousands of ports are seconds apart and need no precision, so a wheel of
//! 64 ms steps serves: setting and expiring cost the same however many there are. Nothing is ever
//! cancelled; whoever sets a timer recognises one that no longer matters.
#![forbid(unsafe_code)]

use crate::ids::{ConnKey, HubId, PortId};
use crate::tick::Tick;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Keep-alives and timeouts of a port.
    Port(PortId),
    /// A connection that is being closed.
    Closing {
        /// Which.
        key: ConnKey,
        /// Tells it from later ones with the same key.
        stamp: u64,
    },
    /// The way out of a hub.
    Router(HubId),
    /// The worker's own housekeeping.
    Housekeeping,
}

/// Timers of one worker.
#[derive(Debug)]
pub struct Timers {
    wheel: Vec<Vec<(Tick, Timer)>>,
    /// One bit per place of the wheel that is not empty.
    occupied: [u64; PLACES / 64],
    /// The step up to which everything has expired.
    done: u64,
}

/// Width of a step: a keep-alive may be late by this much, of 4 s at least.
const STEP_NS: u64 = 64_000_000;

/// Steps of the wheel: 65 s, more than the longest session timeout (60 s).
const PLACES: usize = 1024;

impl Timers {
    /// An empty wheel that starts at `now`.
    pub fn new(now: Tick) -> Self {
        Self { wheel: (0..PLACES).map(|_| Vec::new()).collect(), occupied: [0; PLACES / 64], done: now.0 / STEP_NS }
    }

    /// Has `timer` expire at `at`, at most one step late. What lies beyond the wheel expires early, with the
    /// last step: whoever gets it looks at the time and sets it again.
    pub fn set(&mut self, at: Tick, timer: Timer) {
        let step = (at.0.div_ceil(STEP_NS)).clamp(self.done + 1, self.done + PLACES as u64 - 1);
        let place = place_of(step);
        self.wheel[place].push((at, timer));
        self.occupied[place / 64] |= 1 << (place % 64);
    }

    /// Moves everything due at `now` to `due`, with the time it was set for.
    pub fn expire(&mut self, now: Tick, due: &mut Vec<(Tick, Timer)>) {
        let until = now.0 / STEP_NS;
        // After a long sleep one round of the wheel reaches every place.
        let first = (self.done + 1).max(until.saturating_sub(PLACES as u64 - 1));
        for step in first..=until {
            let place = place_of(step);
            if self.occupied[place / 64] & 1 << (place % 64) != 0 {
                due.append(&mut self.wheel[place]);
                self.occupied[place / 64] &= !(1 << (place % 64));
            }
        }
        self.done = self.done.max(until);
    }

    /// When to look again; `None` if nothing is set.
    pub fn next(&self) -> Option<Tick> {
        let words = self.occupied.len();
        let start = place_of(self.done + 1);
        // The word of `start` comes first, without what lies before it, and last, with it.
        for turn in 0..=words {
            let word = (start / 64 + turn) % words;
            let mask = match turn {
                0 => u64::MAX << (start % 64),
                turn if turn == words => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let bits = self.occupied[word] & mask;
            if bits != 0 {
                let place = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (place + PLACES - start) % PLACES;
                return Some(Tick((self.done + 1 + ahead as u64) * STEP_NS));
            }
        }
        None
    }
}

fn place_of(step: u64) -> usize {
    usize::try_from(step % PLACES as u64).expect("less than the places of the wheel")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(n: u32) -> Timer {
        Timer::Port(PortId::new(0, n, 0))
    }

    #[test]
    fn expires_in_time_and_never_early_within_the_wheel() {
        let start = Tick::from_ms(1_000_000);
        for offset_ms in [0, 1, 63, 64, 65, 999, 4_000, 20_000, 60_000] {
            let mut timers = Timers::new(start);
            let at = Tick(start.0 + offset_ms * 1_000_000);
            timers.set(at, port(7));
            let next = timers.next().unwrap();
            assert!(next >= at, "{offset_ms} ms: would wake early");
            assert!(next.0 <= at.0 + 2 * STEP_NS, "{offset_ms} ms: would wake {} ms late", (next.0 - at.0) / 1_000_000);
            let mut due = Vec::new();
            timers.expire(Tick(next.0 - 1), &mut due);
            assert!(due.is_empty(), "{offset_ms} ms: expired before its time");
            timers.expire(next, &mut due);
            assert_eq!(due, [(at, port(7))]);
            assert_eq!(timers.next(), None);
        }
    }

    #[test]
    fn a_long_sleep_expires_everything_once() {
        let mut timers = Timers::new(Tick(0));
        for n in 0..500 {
            timers.set(Tick::from_ms(u64::from(n) * 100), port(n));
        }
        let mut due = Vec::new();
        timers.expire(Tick::from_ms(10_000_000), &mut due);
        assert_eq!(due.len(), 500);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn beyond_the_wheel_is_early_with_its_own_time() {
        let mut timers = Timers::new(Tick(0));
        let far = Tick::from_ms(600_000);
        timers.set(far, port(1));
        let mut due = Vec::new();
        timers.expire(timers.next().unwrap(), &mut due);
        assert_eq!(due, [(far, port(1))]);
    }
}
