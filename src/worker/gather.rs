//! When a worker lets frames pile up a little before it looks.
//!
//! Falling asleep and waking costs more than a small frame (10 µs against 1 on some virtual machines). Below some
//! thousand frames a second that is the price of answering at once. Above, a worker that wakes for each frame spends
//! itself on waking: it then pauses a fraction of a millisecond whenever nothing is there, and finds several. A
//! busy worker always finds something and never pauses.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::io::Wait;
use crate::tick::Tick;

/// Watches how often a worker turns.
#[derive(Clone, Copy, Debug)]
pub struct Gathering {
    /// Zero: never.
    pause: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Turns in which something came, since then.
    Counting { since: Tick, turns: u32 },
    /// Pauses until then.
    Pausing { until: Tick },
}

impl Gathering {
    /// With pauses of `pause`; zero for none ever.
    pub fn new(pause: Duration, now: Tick) -> Self {
        Self { pause, state: State::Counting { since: now, turns: 0 } }
    }

    /// How long to let things happen if nothing is there, before waiting as `wait` says.
    #[inline]
    pub fn pause(&self, wait: Wait) -> Option<Duration> {
        match (self.state, wait) {
            (State::Pausing { .. }, Wait::For(longest)) if longest > self.pause => Some(self.pause),
            _ => None,
        }
    }

    /// A turn has ended at `now`; `came`: it found frames.
    #[inline]
    pub fn turned(&mut self, came: bool, now: Tick) {
        if self.pause.is_zero() {
            return;
        }
        self.state = match self.state {
            State::Counting { since, turns } if turns + u32::from(came) < TURNS => {
                State::Counting { since, turns: turns + u32::from(came) }
            }
            State::Counting { since, .. } if now.since(since) <= TURNS_WITHIN => {
                State::Pausing { until: now + PAUSING }
            }
            // Pauses hide how often frames come, so that is looked at again without them.
            State::Pausing { until } if now < until => return,
            State::Counting { .. } | State::Pausing { .. } => State::Counting { since: now, turns: 0 },
        };
    }
}

/// So many turns within this time are too many: 15,000 a second.
const TURNS: u32 = 150;
const TURNS_WITHIN: Duration = Duration::from_millis(10);

/// How long a worker pauses before it counts again, which takes some per cent of that.
const PAUSING: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_micros(100);
    const SLEEP: Wait = Wait::For(Duration::from_secs(1));

    /// The worker's pause after `turns` turns, `us` apart.
    fn after(gathering: &mut Gathering, now: &mut Tick, turns: u32, us: u64) -> Option<Duration> {
        for _ in 0..turns {
            *now = *now + Duration::from_micros(us);
            gathering.turned(true, *now);
        }
        gathering.pause(SLEEP)
    }

    #[test]
    fn only_frequent_turns_bring_pauses() {
        let mut now = Tick(0);
        let mut gathering = Gathering::new(PAUSE, now);
        assert_eq!(after(&mut gathering, &mut now, 1_000, 100), None);
        assert_eq!(after(&mut gathering, &mut now, 300, 20), Some(PAUSE));
        assert_eq!(gathering.pause(Wait::Poll), None);
        assert_eq!(gathering.pause(Wait::For(PAUSE / 2)), None, "a timer is not held up");
    }

    #[test]
    fn pauses_end_when_frames_do_not_come_so_often_any_more() {
        let mut now = Tick(0);
        let mut gathering = Gathering::new(PAUSE, now);
        assert_eq!(after(&mut gathering, &mut now, 300, 20), Some(PAUSE));
        assert_eq!(after(&mut gathering, &mut now, 2, 150_000), None);
        assert_eq!(after(&mut gathering, &mut now, 1_000, 100), None);
    }

    #[test]
    fn turns_without_frames_do_not_count_and_no_pause_means_never() {
        let mut now = Tick(0);
        let mut gathering = Gathering::new(PAUSE, now);
        (0..1_000).for_each(|_| gathering.turned(false, now));
        assert_eq!(gathering.pause(SLEEP), None);
        let mut never = Gathering::new(Duration::ZERO, now);
        assert_eq!(after(&mut never, &mut now, 1_000, 20), None);
    }
}
