//! Which frame leaves next: two bands, and in the normal one fair queueing between flows with a bound on waiting time
//! (FQ-CoDel, RFC 8290; CoDel, RFC 8289).
//!
//! 1. What is urgent leaves first ([`Band::Priority`]).
//! 2. A flow that has nothing waiting goes ahead of those that have, once: acknowledgements, questions and key strokes
//!    never stand behind a download.
//! 3. The others take turns by bytes (`QUANTUM`).
//! 4. A flow whose frames have all waited too long for a while loses one now and then, ever sooner, until they do not:
//!    TCP inside slows down before there is a long queue.
//! 5. Where there is no room, the flow that takes most of it loses its oldest frame.
//!
//! The waiting time allowed is longer than RFC 8289 has it: the tunnel's own TCP stands still for some round trips while it
//! repeats a lost segment, and a loss inside because of that would slow down twice for one.
//!
//! A flow is a bucket of a few, by its hash: flows that share one share its turn. Nothing is allocated.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::queue::{Band, Cell, FramePool, List};
use crate::tick::Tick;

/// Order in which frames leave one connection. The caller bounds what it pushes.
pub trait Scheduler: Default {
    /// Takes `cell`, to be popped later.
    fn push(&mut self, pool: &mut FramePool, cell: Cell, class: Class, now: Tick);

    /// The next frame that may leave now, if one of its length `fits`; `drop` gets those that do not leave at all.
    fn pop(
        &mut self,
        pool: &mut FramePool,
        now: Tick,
        fits: impl FnOnce(usize) -> bool,
        drop: impl FnMut(&mut FramePool, Cell),
    ) -> Option<Cell>;

    /// Gives up the frame that can best be spared, to make room for another.
    fn shed(&mut self, pool: &mut FramePool) -> Option<Cell>;

    /// Frames waiting.
    fn len(&self) -> usize;

    /// Whether nothing waits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What decides about the place of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// How urgent it is.
    pub band: Band,
    /// Hash of its flow.
    pub flow: u32,
}

/// See the module text.
#[derive(Debug, Default)]
pub struct FairQueue {
    priority: List,
    /// Cells that those take.
    priority_cells: u32,
    flows: [Flow; FLOWS],
    /// Flows that had nothing waiting before.
    new: Turns,
    /// Those that had their first turn.
    old: Turns,
    len: usize,
}

/// What waits of one flow.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    frames: List,
    cells: u32,
    /// Bytes that it may send in this turn.
    credit: i32,
    /// It is in one of the turns.
    queued: bool,
    /// The flow behind it there.
    next: u8,
    codel: Codel,
}

/// Flows that wait for their turn, in order.
#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    ends: Option<(u8, u8)>,
}

impl Turns {
    fn push(&mut self, flows: &mut [Flow; FLOWS], at: u8) {
        self.ends = match self.ends {
            None => Some((at, at)),
            Some((first, last)) => {
                flows[usize::from(last)].next = at;
                Some((first, at))
            }
        };
    }

    fn pop(&mut self, flows: &[Flow; FLOWS]) -> Option<u8> {
        let (first, last) = self.ends?;
        self.ends = if first == last { None } else { Some((flows[usize::from(first)].next, last)) };
        Some(first)
    }

    fn first(&self) -> Option<u8> {
        self.ends.map(|(first, _)| first)
    }
}

impl Scheduler for FairQueue {
    fn push(&mut self, pool: &mut FramePool, cell: Cell, class: Class, now: Tick) {
        self.len += 1;
        let cells = count(pool, &cell);
        if class.band == Band::Priority {
            self.priority_cells += cells;
            return self.priority.push(pool, cell);
        }
        let [at, ..] = class.flow.to_be_bytes();
        let at = at >> (u8::BITS - FLOWS.ilog2());
        let flow = &mut self.flows[usize::from(at)];
        flow.cells += cells;
        pool.stamp(&cell, now);
        flow.frames.push(pool, cell);
        if !flow.queued {
            flow.queued = true;
            flow.credit = QUANTUM;
            self.new.push(&mut self.flows, at);
        }
    }

    fn pop(
        &mut self,
        pool: &mut FramePool,
        now: Tick,
        fits: impl FnOnce(usize) -> bool,
        mut drop: impl FnMut(&mut FramePool, Cell),
    ) -> Option<Cell> {
        if let Some(len) = self.priority.first_len(pool) {
            let cell = if fits(len) { self.priority.pop(pool) } else { None }?;
            self.priority_cells -= count(pool, &cell);
            self.len -= 1;
            return Some(cell);
        }
        loop {
            let is_new = self.new.first().is_some();
            let at = if is_new { self.new.first() } else { self.old.first() }?;
            let flow = &mut self.flows[usize::from(at)];
            if flow.credit <= 0 {
                flow.credit += QUANTUM;
                self.end_turn(is_new, true);
                continue;
            }
            while let Some(cell) = flow.too_late(pool, now) {
                self.len -= 1;
                drop(pool, cell);
            }
            let Some(len) = flow.frames.first_len(pool) else {
                // A flow that has just had its first turn has to wait a round before it is new again, else it could be
                // new for ever.
                self.end_turn(is_new, is_new && self.old.first().is_some());
                continue;
            };
            if !fits(len) {
                return None;
            }
            let cell = flow.frames.pop(pool)?;
            flow.cells -= count(pool, &cell);
            flow.credit -= i32::try_from(len).unwrap_or(i32::MAX);
            self.len -= 1;
            return Some(cell);
        }
    }

    fn shed(&mut self, pool: &mut FramePool) -> Option<Cell> {
        let flow = self.flows.iter_mut().max_by_key(|flow| flow.cells)?;
        // What is urgent is one flow here: it has no more right to the room than others.
        let (frames, cells) = match flow.cells >= self.priority_cells {
            true => (&mut flow.frames, &mut flow.cells),
            false => (&mut self.priority, &mut self.priority_cells),
        };
        let cell = frames.pop(pool)?;
        *cells -= count(pool, &cell);
        self.len -= 1;
        Some(cell)
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl FairQueue {
    /// The first of the new or of the others goes, behind the others if it `stays`.
    fn end_turn(&mut self, is_new: bool, stays: bool) {
        let turns = if is_new { &mut self.new } else { &mut self.old };
        let Some(at) = turns.pop(&self.flows) else { return };
        if stays {
            self.old.push(&mut self.flows, at);
        } else {
            self.flows[usize::from(at)].queued = false;
        }
    }
}

/// How long the frames of a flow have waited of late.
#[derive(Clone, Copy, Debug, Default)]
struct Codel {
    /// If they go on waiting so long until then, frames are dropped.
    patience_until: Option<Tick>,
    /// Frames are dropped; the next one then.
    drop_at: Option<Tick>,
    /// Frames dropped since that began.
    count: u32,
    /// When it last ended.
    ended: Tick,
}

impl Flow {
    /// The first frame, if it is to be dropped.
    fn too_late(&mut self, pool: &mut FramePool, now: Tick) -> Option<Cell> {
        let waited = self.frames.first_stamp(pool).map(|stamp| now.since(stamp));
        // What is sent in one go is no queue.
        if waited.is_none_or(|waited| waited < TARGET) || self.cells <= CELLS_AT_ONCE {
            self.codel.patience_until = None;
            if self.codel.drop_at.take().is_some() {
                self.codel.ended = now;
            }
            return None;
        }
        let until = *self.codel.patience_until.get_or_insert(now + INTERVAL);
        if now < until {
            return None;
        }
        match self.codel.drop_at {
            Some(at) if now < at => return None,
            Some(_) => self.codel.count = self.codel.count.saturating_add(1),
            // What has helped last time, if that was not long ago, is where it goes on.
            None if now.since(self.codel.ended) < FORGET => self.codel.count = (self.codel.count / 2).max(1),
            None => self.codel.count = 1,
        }
        self.codel.drop_at = Some(now + INTERVAL / self.codel.count.isqrt());
        let cell = self.frames.pop(pool)?;
        self.cells -= count(pool, &cell);
        Some(cell)
    }
}

fn count(pool: &FramePool, cell: &Cell) -> u32 {
    u32::try_from(pool.cells(cell)).unwrap_or(u32::MAX)
}

/// Buckets of flows: most members have few at once that would fill the tunnel.
const FLOWS: usize = 16;
/// Bytes of a turn: some super-frames of a usual size, and 0.7 ms of 100 Mbit/s.
const QUANTUM: i32 = 8 * 1024;
/// Waiting time that is no matter.
const TARGET: Duration = Duration::from_millis(20);
/// For so long it may be more.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long what has helped is remembered (RFC 8289 §5.5: some intervals).
const FORGET: Duration = Duration::from_millis(1_600);
/// What a send buffer takes.
const CELLS_AT_ONCE: u32 = 42;

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        pool: FramePool,
        queue: FairQueue,
        /// First bytes of frames that were dropped.
        dropped: Vec<u8>,
    }

    impl Rig {
        fn new() -> Self {
            Self { pool: FramePool::new(4_000), queue: FairQueue::default(), dropped: Vec::new() }
        }

        /// A frame of `flow` whose first byte is `name`.
        fn push(&mut self, name: u8, flow: u8, len: usize, now: Tick) {
            let cell = self.pool.store(&vec![name; len]).unwrap();
            let class = Class { band: Band::Normal, flow: u32::from(flow) << 28 };
            self.queue.push(&mut self.pool, cell, class, now);
        }

        /// Name and length of what leaves.
        fn pop(&mut self, now: Tick) -> Option<(u8, usize)> {
            let dropped = &mut self.dropped;
            let note = |pool: &mut FramePool, cell: Cell| {
                dropped.push(pool.frame(&cell)[0]);
                pool.release(cell);
            };
            let cell = self.queue.pop(&mut self.pool, now, |_| true, note)?;
            let found = (self.pool.frame(&cell)[0], self.pool.len_of(&cell));
            self.pool.release(cell);
            Some(found)
        }

        fn all(&mut self, now: Tick) -> Vec<u8> {
            std::iter::from_fn(|| self.pop(now)).map(|(name, _)| name).collect()
        }
    }

    const NOW: Tick = Tick::from_ms(1_000);

    #[test]
    fn a_flow_keeps_its_order_and_what_is_urgent_goes_first() {
        let mut rig = Rig::new();
        for name in [1, 2, 4] {
            rig.push(name, 0, 60, NOW);
        }
        let cell = rig.pool.store(&[3; 60]).unwrap();
        rig.queue.push(&mut rig.pool, cell, Class { band: Band::Priority, flow: 0 }, NOW);
        assert_eq!(rig.all(NOW), [3, 1, 2, 4]);
        assert_eq!((rig.queue.len(), rig.pool.used()), (0, 0));
    }

    #[test]
    fn flows_take_turns_by_bytes() {
        let mut rig = Rig::new();
        for _ in 0..200 {
            rig.push(1, 1, 1500, NOW);
            (0..3).for_each(|_| rig.push(2, 2, 500, NOW));
        }
        let mut bytes = [0, 0, 0];
        for _ in 0..300 {
            let (name, len) = rig.pop(NOW).unwrap();
            bytes[usize::from(name)] += len;
        }
        let [_, a, b] = bytes.map(|bytes| bytes / 1000);
        assert!(a.abs_diff(b) <= 16, "{a} and {b} KB");
    }

    #[test]
    fn a_flow_that_was_silent_goes_ahead_but_not_for_ever() {
        let mut rig = Rig::new();
        (0..50).for_each(|_| rig.push(1, 1, 1500, NOW));
        (0..20).for_each(|_| assert_eq!(rig.pop(NOW).map(|(name, _)| name), Some(1)));
        rig.push(2, 2, 60, NOW);
        assert_eq!(rig.pop(NOW), Some((2, 60)), "before the bulk");
        // It never has more than one waiting, but as many bytes as the bulk.
        let mut turns = [0, 0, 0];
        for _ in 0..20 {
            rig.push(2, 2, 1500, NOW);
            let (name, _) = rig.pop(NOW).unwrap();
            turns[usize::from(name)] += 1;
        }
        assert!(turns[1] >= 5, "{turns:?}");
    }

    #[test]
    fn what_does_not_fit_stays() {
        let mut rig = Rig::new();
        rig.push(1, 1, 1500, NOW);
        assert!(rig.queue.pop(&mut rig.pool, NOW, |len| len < 1500, |_, _| ()).is_none());
        assert_eq!(rig.all(NOW), [1]);
    }

    #[test]
    fn a_standing_queue_loses_some_and_a_short_one_none() {
        let ms = Duration::from_millis;
        // Comes and goes with the same rate; what stands waits `waiting` ms.
        let standing = |waiting: u64| {
            let mut rig = Rig::new();
            let mut now = NOW;
            for at in 0..2_000 {
                (0..5).for_each(|_| rig.push(1, 1, 1500, now));
                if at >= waiting {
                    (0..5).for_each(|_| _ = rig.pop(now));
                }
                now = now + ms(1);
            }
            rig.dropped.len()
        };
        assert_eq!(standing(15), 0);
        let dropped = standing(60);
        assert!((10..200).contains(&dropped), "{dropped} of 10,000");
    }

    #[test]
    fn a_pause_of_the_tunnel_costs_nothing() {
        let mut rig = Rig::new();
        (0..200).for_each(|_| rig.push(1, 1, 1500, NOW));
        // As long as TCP repeats something, then all at once.
        let later = NOW + Duration::from_millis(15_000);
        assert_eq!(rig.all(later).len(), 200);
        assert!(rig.dropped.is_empty());
    }

    #[test]
    fn what_is_urgent_makes_room_too() {
        let mut rig = Rig::new();
        rig.push(1, 1, 60, NOW);
        for _ in 0..3 {
            let cell = rig.pool.store(&[9; 60]).unwrap();
            rig.queue.push(&mut rig.pool, cell, Class { band: Band::Priority, flow: 0 }, NOW);
        }
        let cell = rig.queue.shed(&mut rig.pool).unwrap();
        assert_eq!(rig.pool.frame(&cell)[0], 9);
        rig.pool.release(cell);
        assert_eq!(rig.all(NOW), [9, 9, 1]);
    }

    #[test]
    fn the_flow_with_most_makes_room() {
        let mut rig = Rig::new();
        rig.push(1, 1, 60, NOW);
        rig.push(2, 2, 60, NOW);
        rig.push(3, 2, 60, NOW);
        let names: Vec<_> = std::iter::from_fn(|| {
            let cell = rig.queue.shed(&mut rig.pool)?;
            let name = rig.pool.frame(&cell)[0];
            rig.pool.release(cell);
            Some(name)
        })
        .collect();
        assert_eq!((names[0], names.len()), (2, 3), "its oldest first");
        assert_eq!((rig.queue.len(), rig.pool.used(), rig.all(NOW)), (0, 0, vec![]));
    }
}
