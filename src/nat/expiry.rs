//! When flows end: a wheel of lists, one for each quarter of a second of the next 18 minutes.
//!
//! A packet only notes its time in its flow. A flow whose turn comes is asked when it was last refreshed and, if its time
//! is not up, goes to the list of its end; one that lives longer than the wheel is asked several times.
#![forbid(unsafe_code)]

use super::flows::Flow;
use super::table::{self, NONE, Slab};

/// See the module text.
#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[u32]>,
    /// A bit for each list that may have an entry.
    occupied: [u64; SLOTS / 64],
    /// Lists before this time are done.
    cursor: u32,
}

impl Wheel {
    pub(super) fn new(now: u32) -> Self {
        Self { heads: vec![NONE; SLOTS].into(), occupied: [0; SLOTS / 64], cursor: now }
    }

    /// Asks for `number` at time `due`, or before.
    pub(super) fn schedule(&mut self, flows: &mut Slab<Flow>, number: u32, due: u32) {
        let ahead = due.saturating_sub(self.cursor).clamp(1, SLOTS_U32 - 1);
        let slot = (self.cursor.wrapping_add(ahead) % SLOTS_U32) as usize;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        flows[number].slot = u16::try_from(slot).unwrap_or(0);
        table::link(flows, &mut self.heads[slot], number, |flow| &mut flow.timer);
    }

    /// Takes `number` out, which is in.
    pub(super) fn cancel(&mut self, flows: &mut Slab<Flow>, number: u32) {
        let slot = usize::from(flows[number].slot);
        table::unlink(flows, &mut self.heads[slot], number, |flow| &mut flow.timer);
    }

    /// A flow whose list is due at `now`, taken out; `None`: none until [`Self::next_due`].
    pub(super) fn pop(&mut self, flows: &mut Slab<Flow>, now: u32) -> Option<u32> {
        loop {
            let due = self.next_occupied(now)?;
            self.cursor = due;
            let slot = (due % SLOTS_U32) as usize;
            let number = self.heads[slot];
            if number != NONE {
                self.cancel(flows, number);
                return Some(number);
            }
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
    }

    /// The first time up to `now` that has a list; with none the cursor comes to `now`.
    fn next_occupied(&mut self, now: u32) -> Option<u32> {
        let found = self.next_due().filter(|due| *due <= now);
        if found.is_none() {
            self.cursor = self.cursor.max(now);
        }
        found
    }

    /// The time of the first list with an entry.
    pub(super) fn next_due(&self) -> Option<u32> {
        let start = self.cursor % SLOTS_U32;
        let (word, bit) = ((start / 64) as usize, start % 64);
        let words = self.occupied.len();
        // The first word is looked at twice: its upper part first, its lower part last.
        (0..=words).find_map(|n| {
            let at = (word + n) % words;
            let mask = match n {
                0 => u64::MAX << bit,
                _ if n == words => !(u64::MAX << bit),
                _ => u64::MAX,
            };
            let bits = self.occupied[at] & mask;
            let slot = u32::try_from(at).unwrap_or(0) * 64 + bits.trailing_zeros();
            (bits != 0).then(|| self.cursor.wrapping_add(slot.wrapping_sub(start) % SLOTS_U32))
        })
    }
}

const SLOTS: usize = 4_096;
const SLOTS_U32: u32 = 4_096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Flows come when they are due, or before if the wheel is too short; never late, none is lost.
        #[test]
        fn flows_come_in_time(dues in proptest::collection::vec(0u32..9_000, 0..80), steps in proptest::collection::vec(1u32..2_500, 0..12)) {
            let mut flows = Slab::new();
            let mut now = 5_000_000;
            let mut wheel = Wheel::new(now);
            let mut waiting = std::collections::BTreeMap::new();
            for due in dues {
                let number = flows.insert(Flow::default());
                wheel.schedule(&mut flows, number, now + due);
                waiting.insert(number, now + due);
            }
            if let Some(gone) = waiting.keys().next().copied() {
                wheel.cancel(&mut flows, gone);
                waiting.remove(&gone);
            }
            for step in steps {
                now += step;
                while let Some(number) = wheel.pop(&mut flows, now) {
                    let due = waiting.remove(&number).expect("it waits");
                    if due > now {
                        wheel.schedule(&mut flows, number, due);
                        waiting.insert(number, due);
                    }
                }
                prop_assert!(waiting.values().all(|due| *due > now), "{waiting:?} at {now}");
            }
        }
    }
}
