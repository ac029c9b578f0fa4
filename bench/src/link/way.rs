//! One direction of an emulated link: which frames it carries, and when they arrive. No I/O, no clock: times are
//! nanoseconds since the link began.
//!
//! 1. dead: while the link is, nothing passes, neither what enters nor what is on its way
//! 2. loss: a pattern that depends on seed, direction and the number of the frame, and on nothing else, so that each
//!    system measured loses the same ones
//! 3. queue: a frame that finds more bytes waiting than the queue holds is dropped (drop-tail)
//! 4. rate: frames leave one after the other, as long as they take on a wire
//! 5. delay: the same for each
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;

use serde::Serialize;

/// How a direction is.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    pub(super) delay_ns: u64,
    /// 0: no limit.
    pub(super) rate_kbit: u64,
    /// Bytes on the wire that may wait for their turn.
    pub(super) queue_bytes: u64,
    /// Frames in a million that are lost.
    pub(super) loss_ppm: u32,
    /// Of the pattern of losses.
    pub(super) seed: u64,
    /// When nothing passes.
    pub(super) dead_ns: Range<u64>,
}

/// What became of the frames of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) offered: u64,
    pub(super) carried: u64,
    pub(super) carried_bytes: u64,
    /// By the pattern.
    pub(super) lost: u64,
    /// No room in the queue.
    pub(super) overflow: u64,
    /// While the link was dead.
    pub(super) dead: u64,
    /// Longer than a frame on a wire: somebody's offloads are on.
    pub(super) too_long: u64,
    /// Carried, but the device at the other end did not take it.
    pub(super) refused: u64,
    /// Came faster than this program read.
    pub(super) unread: u64,
}

/// A direction with the frames on their way, which are `F`.
#[derive(Debug)]
pub(super) struct Way<F> {
    shape: Shape,
    losses: Losses,
    /// When the last frame has left.
    free_ns: u64,
    /// With the time of arrival, earliest first.
    waiting: VecDeque<(u64, F)>,
    pub(super) counts: Counts,
}

impl<F> Way<F> {
    /// `direction` tells the two of a link apart, whose patterns differ.
    pub(super) fn new(shape: Shape, direction: u64) -> Self {
        let losses = Losses::new(shape.seed, direction, shape.loss_ppm);
        Self { shape, losses, free_ns: 0, waiting: VecDeque::new(), counts: Counts::default() }
    }

    /// A frame of so many bytes enters at `now_ns`, which never goes back. `frame` is asked for it if it is carried.
    pub(super) fn offer(&mut self, now_ns: u64, bytes: usize, frame: impl FnOnce() -> F) {
        let number = self.counts.offered;
        self.counts.offered += 1;
        let lost = self.losses.lost(number);
        if bytes > FRAME_BYTES_MAX {
            self.counts.too_long += 1;
            return;
        }
        if self.shape.dead_ns.contains(&now_ns) {
            self.counts.dead += 1;
            return;
        }
        if lost {
            self.counts.lost += 1;
            return;
        }
        let bytes = bytes as u64;
        let Some(left_ns) = self.leave(now_ns, bytes + WIRE_BYTES) else {
            self.counts.overflow += 1;
            return;
        };
        let due_ns = left_ns + self.shape.delay_ns;
        if self.shape.dead_ns.contains(&due_ns) {
            self.counts.dead += 1;
            return;
        }
        self.counts.carried += 1;
        self.counts.carried_bytes += bytes;
        self.waiting.push_back((due_ns, frame()));
    }

    /// When a frame that comes now has left, `None` if there is no room for it.
    fn leave(&mut self, now_ns: u64, wire_bytes: u64) -> Option<u64> {
        if self.waiting.len() >= FRAMES_MAX {
            return None;
        }
        let rate = self.shape.rate_kbit;
        if rate == 0 {
            return Some(now_ns);
        }
        let start_ns = self.free_ns.max(now_ns);
        let waiting_bytes = (start_ns - now_ns) * rate / NS_KBIT_PER_BYTE;
        if waiting_bytes + wire_bytes > self.shape.queue_bytes {
            return None;
        }
        self.free_ns = start_ns + wire_bytes * NS_KBIT_PER_BYTE / rate;
        Some(self.free_ns)
    }

    /// Frames that have arrived by `now_ns`, in their order.
    pub(super) fn arrived(&self, now_ns: u64) -> impl Iterator<Item = &F> {
        self.waiting.iter().take_while(move |(due_ns, _)| *due_ns <= now_ns).map(|(_, frame)| frame)
    }

    /// The first `count` of them are gone.
    pub(super) fn forget(&mut self, count: usize) {
        self.waiting.drain(..count.min(self.waiting.len()));
    }

    /// When the next one arrives.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.waiting.front().map(|(due_ns, _)| *due_ns)
    }
}

/// Which frames are lost.
#[derive(Clone, Copy, Debug)]
struct Losses {
    key: u64,
    /// Of 2⁶⁴.
    below: u64,
}

impl Losses {
    fn new(seed: u64, direction: u64, ppm: u32) -> Self {
        let below = (u128::from(ppm.min(1_000_000)) << 64) / 1_000_000;
        Self { key: splitmix(seed, direction), below: u64::try_from(below).unwrap_or(u64::MAX) }
    }

    fn lost(self, number: u64) -> bool {
        splitmix(self.key, number) < self.below
    }
}

/// Output number `nth` of SplitMix64 (Steele, Lea, Flood 2014), without those before it.
fn splitmix(seed: u64, nth: u64) -> u64 {
    let mut z = seed.wrapping_add(nth.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Ethernet header and 1,500 bytes.
const FRAME_BYTES_MAX: usize = 1514;
/// Preamble, check sequence and the gap between frames.
const WIRE_BYTES: u64 = 8 + 4 + 12;
/// A byte at one kbit/s takes so many nanoseconds.
const NS_KBIT_PER_BYTE: u64 = 8_000_000;
/// On their way at once: a second of the shortest frames at 30 Mbit/s, 150 ms of the longest at 5 Gbit/s.
const FRAMES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 Mbit/s, 10 ms, room for ten of the longest frames.
    fn shape() -> Shape {
        Shape { delay_ns: 10_000_000, rate_kbit: 100_000, queue_bytes: 15_380, ..Shape::default() }
    }

    fn numbers(way: &Way<u64>, now_ns: u64) -> Vec<u64> {
        way.arrived(now_ns).copied().collect()
    }

    #[test]
    fn splitmix_is_the_published_one() {
        // The first outputs of the reference with this seed.
        let published = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([0, 1, 2].map(|nth| splitmix(1_234_567, nth)), published);
    }

    #[test]
    fn frames_leave_one_after_the_other_and_take_as_long_as_the_delay() {
        let mut way = Way::new(shape(), 0);
        // 1,538 bytes on the wire at 100 Mbit/s are 123.04 us.
        for number in 0..3 {
            way.offer(1_000, 1514, || number);
        }
        assert_eq!(way.next_ns(), Some(1_000 + 123_040 + 10_000_000));
        assert!(numbers(&way, 10_124_039).is_empty());
        assert_eq!(numbers(&way, 10_124_040), [0]);
        assert_eq!(numbers(&way, 10_124_040 + 2 * 123_040), [0, 1, 2]);
        way.forget(2);
        assert_eq!(way.next_ns(), Some(10_124_040 + 2 * 123_040));
        // A link that was idle owes nothing.
        way.offer(50_000_000, 60, || 3);
        assert_eq!(numbers(&way, 60_000_000 + 84 * 80), [2, 3]);
    }

    #[test]
    fn without_a_rate_only_the_delay_counts() {
        let mut way = Way::new(Shape { rate_kbit: 0, queue_bytes: 0, ..shape() }, 0);
        for number in 0..3 {
            way.offer(number, 1514, || number);
        }
        assert_eq!(numbers(&way, 10_000_001), [0, 1]);
    }

    #[test]
    fn the_queue_drops_what_comes_when_it_is_full_and_takes_again_when_it_has_drained() {
        let mut way = Way::new(shape(), 0);
        for number in 0..12 {
            way.offer(0, 1514, || number);
        }
        assert_eq!((way.counts.carried, way.counts.overflow), (10, 2));
        // One has left.
        way.offer(123_040, 1514, || 12);
        way.offer(123_040, 1514, || 13);
        assert_eq!((way.counts.carried, way.counts.overflow), (11, 3));
        assert_eq!(way.counts.carried_bytes, 11 * 1514);
        assert_eq!(numbers(&way, u64::MAX), (0..10).chain([12]).collect::<Vec<_>>());
    }

    #[test]
    fn what_waits_is_bounded_without_a_rate_too() {
        let mut way = Way::new(Shape { delay_ns: 1, ..Shape::default() }, 0);
        for _ in 0..=FRAMES_MAX {
            way.offer(0, 60, || 0);
        }
        assert_eq!(way.counts.overflow, 1);
    }

    fn losses(seed: u64, direction: u64, loss_ppm: u32, frames: u64, bytes: usize, every_ns: u64) -> Vec<u64> {
        let mut way = Way::new(Shape { loss_ppm, seed, ..Shape::default() }, direction);
        let mut lost = Vec::new();
        for number in 0..frames {
            let before = way.counts.lost;
            way.offer(number * every_ns, bytes, || ());
            way.forget(1);
            if way.counts.lost > before {
                lost.push(number);
            }
        }
        lost
    }

    #[test]
    fn the_pattern_depends_on_seed_and_direction_and_not_on_time_or_length() {
        let pattern = losses(1, 0, 10_000, 10_000, 1514, 7);
        assert_eq!(losses(1, 0, 10_000, 10_000, 60, 1_000), pattern);
        assert_ne!(losses(1, 1, 10_000, 10_000, 1514, 7), pattern);
        assert_ne!(losses(2, 0, 10_000, 10_000, 1514, 7), pattern);
        assert!(losses(1, 0, 0, 10_000, 60, 1).is_empty());
        assert_eq!(losses(1, 0, 1_000_000, 3, 60, 1), [0, 1, 2]);
    }

    #[test]
    fn about_as_many_are_lost_as_were_asked_for() {
        for (ppm, range) in [(1_000, 900..1_100), (10_000, 9_700..10_300)] {
            for seed in 1..4 {
                let lost = losses(seed, 0, ppm, 1_000_000, 60, 1).len();
                assert!(range.contains(&lost), "{ppm} ppm, seed {seed}: {lost}");
            }
        }
    }

    /// What overflows or dies has its number in the pattern, too.
    #[test]
    fn each_frame_that_enters_has_a_number() {
        let pattern = losses(5, 0, 200_000, 40, 60, 1);
        let mut way = Way::new(Shape { loss_ppm: 200_000, seed: 5, dead_ns: 0..20, ..Shape::default() }, 0);
        let mut lost = Vec::new();
        for number in 0..40 {
            let before = way.counts.lost;
            way.offer(number, 60, || ());
            if way.counts.lost > before {
                lost.push(number);
            }
        }
        assert_eq!(way.counts.dead, 20);
        assert_eq!(lost, pattern.into_iter().filter(|number| *number >= 20).collect::<Vec<_>>());
    }

    #[test]
    fn a_dead_link_loses_what_enters_and_what_is_on_its_way() {
        let mut way = Way::new(Shape { delay_ns: 10, dead_ns: 100..200, ..Shape::default() }, 0);
        for (number, now_ns) in (0..).zip([89, 90, 99, 100, 199, 200]) {
            way.offer(now_ns, 60, || number);
        }
        // Those that would have arrived between 100 and 199, or entered then.
        assert_eq!((way.counts.dead, numbers(&way, 1_000)), (4, vec![0, 5]));
    }

    #[test]
    fn a_frame_that_no_wire_carries_is_seen() {
        let mut way = Way::new(Shape::default(), 0);
        way.offer(0, 1515, || ());
        way.offer(0, 1514, || ());
        assert_eq!((way.counts.too_long, way.counts.carried), (1, 1));
    }
}
