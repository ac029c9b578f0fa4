//! How much may wait unsent in the kernel behind a slow path.
//!
//! What the kernel has taken leaves in that order, however urgent a later frame is. So it gets no more than leaves within
//! 2 ms: in one send, and, by `TCP_NOTSENT_LOWAT`, before it takes the next. The rate of the path is seen from how
//! long sends take while frames wait.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::egress::SEND_BYTES;
use crate::tick::Tick;

/// One connection's.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes that may wait unsent, a power of two.
    unsent: u32,
    /// Of the send in flight: its bytes, and when it began.
    sending: (usize, Tick),
}

impl Default for Pace {
    fn default() -> Self {
        Self { unsent: UNSENT_MAX, sending: (0, Tick::default()) }
    }
}

impl Pace {
    /// Bytes that the next send should have at most, unless a single frame is longer.
    pub fn send_bytes(&self) -> usize {
        SEND_BYTES.min(self.unsent as usize)
    }

    /// Whether there is reason to look at how much is sent.
    #[inline(always)]
    pub fn is_slow(&self) -> bool {
        self.unsent <= UNSENT_SLOW
    }

    /// Bytes of a super-frame from which on it is parted, so that it does not hold up others, nor is lost whole. `None`: it
    /// crosses as it is.
    pub fn part_bytes(&self) -> Option<usize> {
        // Where the path takes some at once, smaller ones would only make TCP inside see bursts as a longer way.
        self.is_slow().then_some(if self.unsent > UNSENT_MIN { UNSENT_MIN * 2 } else { UNSENT_MIN / 2 } as usize)
    }

    /// A send of `bytes` begins.
    pub fn begin(&mut self, bytes: usize, now: Tick) {
        self.sending = (bytes, now);
    }

    /// It has ended. Returns how many bytes may wait unsent from here on, if that has changed.
    pub fn end(&mut self, now: Tick) -> Option<u32> {
        let (bytes, began) = self.sending;
        // A short send says nothing: it may have found everything empty.
        if bytes < self.send_bytes() / 2 {
            return None;
        }
        let took = now.since(began).max(Duration::from_micros(1));
        let ahead = bytes as u128 * AHEAD.as_nanos() / took.as_nanos();
        let wanted = u32::try_from(ahead).unwrap_or(UNSENT_MAX).clamp(UNSENT_MIN, UNSENT_MAX);
        let before = self.unsent;
        if wanted < before {
            self.unsent = 1 << wanted.ilog2();
        } else if wanted / 2 >= before {
            // A send that finds the kernel's queue empty takes no time either: slowly upwards.
            self.unsent = before * 2;
        }
        (self.unsent != before).then_some(self.unsent)
    }
}

/// How long what is urgent may have to wait behind what is not.
const AHEAD: Duration = Duration::from_millis(2);
/// Less would cost a wake for every few frames.
const UNSENT_MIN: u32 = 8 * 1024;
/// Below 130 Mbit/s.
const UNSENT_SLOW: u32 = 32 * 1024;
/// For a path that takes everything at once, and where each connection begins.
pub const UNSENT_MAX: u32 = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// After many sends over a path of so many bytes per ms.
    fn settled(bytes_per_ms: u64) -> u32 {
        let (mut pace, mut now) = (Pace::default(), Tick::from_ms(1_000));
        for _ in 0..50 {
            let bytes = pace.send_bytes();
            pace.begin(bytes, now);
            now = now + Duration::from_nanos(bytes as u64 * 1_000_000 / bytes_per_ms);
            pace.end(now);
        }
        pace.unsent
    }

    #[test]
    fn a_slow_path_gets_little_and_a_fast_one_much() {
        // 1, 100, 1,000 and 10,000 Mbit/s.
        assert_eq!([125, 12_500, 125_000, 1_250_000].map(settled), [8 << 10, 16 << 10, 128 << 10, 128 << 10]);
    }

    #[test]
    fn it_follows_the_path_down_at_once_and_up_in_steps() {
        let (mut pace, now) = (Pace::default(), Tick::from_ms(1_000));
        let mut send = |bytes, ms| {
            pace.begin(bytes, now);
            pace.end(now + Duration::from_millis(ms))
        };
        assert_eq!(send(66_000, 20), Some(8 << 10), "too slow even for the least");
        assert_eq!(send(8_000, 0), Some(16 << 10));
        assert_eq!(send(2_000, 0), None, "a short one says nothing");
        assert_eq!(send(16_000, 0), Some(32 << 10));
    }
}
