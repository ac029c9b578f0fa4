//! Frames that wait for their member: storage shared by a worker's ports, and the order they leave in.
//!
//! Plaintext waits, records do not: a sealed record has used its sequence number and can no longer
//! be dropped, delayed or reordered. So whatever cannot go at once is kept here as a frame.
//!
//! Storage is one slab per worker. A queue is a list through the slab, so that neither queueing nor
//! an idle queue costs memory of its own.
#![forbid(unsafe_code)]

use crate::tick::Tick;
use crate::wire::ethernet::FRAME_BYTES_MAX;
use crate::wire::loop_probe;

/// Longest thing a cell holds: a frame, with room for a VLAN tag.
pub const CELL_BYTES: usize = FRAME_BYTES_MAX + 4;

/// Distance of two cells: a multiple of the cache line.
const CELL_STRIDE: usize = CELL_BYTES.next_multiple_of(64);

/// "No cell" in links of the slab.
const NONE: u32 = u32::MAX;

/// A frame in the pool. Not `Clone`: whoever has it must queue it or give it back.
#[derive(Debug)]
pub struct Cell(u32);

/// Frame storage of one worker: a slab of equal cells.
#[derive(Debug)]
pub struct FramePool {
    storage: Box<[u8]>,
    len: Box<[u16]>,
    next: Box<[u32]>,
    free: u32,
    /// Cells from here on were never used, so that their pages stay untouched until needed.
    fresh: u32,
    used: usize,
}

impl FramePool {
    /// Room for `cells` frames. Memory is touched only as cells are used.
    ///
    /// # Panics
    /// If `cells` does not fit 32 bits.
    pub fn new(cells: usize) -> Self {
        assert!(cells < NONE as usize, "too many cells for a frame pool");
        Self {
            storage: vec![0; cells * CELL_STRIDE].into_boxed_slice(),
            len: vec![0; cells].into_boxed_slice(),
            next: vec![0; cells].into_boxed_slice(),
            free: NONE,
            fresh: 0,
            used: 0,
        }
    }

    /// Copies `frame` into a cell. `None` if no cell is free or the frame is longer than [`CELL_BYTES`].
    pub fn store(&mut self, frame: &[u8]) -> Option<Cell> {
        let len = u16::try_from(frame.len()).ok().filter(|len| usize::from(*len) <= CELL_BYTES)?;
        let at = if self.free != NONE {
            let at = self.free;
            self.free = self.next[at as usize];
            at
        } else if (self.fresh as usize) < self.len.len() {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        let index = at as usize;
        self.storage[index * CELL_STRIDE..][..frame.len()].copy_from_slice(frame);
        self.len[index] = len;
        self.used += 1;
        Some(Cell(at))
    }

    /// The frame in `cell`.
    pub fn frame(&self, cell: &Cell) -> &[u8] {
        let index = cell.0 as usize;
        &self.storage[index * CELL_STRIDE..][..usize::from(self.len[index])]
    }

    /// Frees `cell`.
    pub fn release(&mut self, cell: Cell) {
        self.next[cell.0 as usize] = self.free;
        self.free = cell.0;
        self.used -= 1;
    }

    /// Cells that are free.
    pub fn free(&self) -> usize {
        self.len.len() - self.used
    }

    /// Cells in use.
    pub fn used(&self) -> usize {
        self.used
    }

    fn len_of(&self, cell: &Cell) -> usize {
        usize::from(self.len[cell.0 as usize])
    }
}

/// How urgent a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Band {
    /// Leaves before anything normal.
    Priority,
    /// Everything else.
    Normal,
}

impl Band {
    /// Priority for ARP, probes for loops, short ICMP and packets with a DSCP other than best effort and bulk
    /// (protocol note §5.6). The ECN bits do not count: packets of one TCP flow differ in them, and a
    /// flow must not change bands.
    pub fn of(frame: &[u8]) -> Self {
        const ICMP: u8 = 1;
        match frame.get(12..24) {
            Some([0x08, 0x06, ..]) => Band::Priority,
            // A probe for loops must be through before the storm is (`crate::wire::loop_probe`).
            Some([0x88, 0xb6, ..]) if frame[..6] == loop_probe::GROUP.0 => Band::Priority,
            Some([0x08, 0x00, _, tos, .., protocol]) => {
                let dscp = tos & 0xfc;
                let short_icmp = *protocol == ICMP && frame.len() <= 128;
                if short_icmp || (dscp != 0 && dscp != 0x08) { Band::Priority } else { Band::Normal }
            }
            _ => Band::Normal,
        }
    }
}

/// Order in which frames leave one connection. The caller bounds what it pushes.
pub trait Scheduler: Default {
    /// Takes `cell`, to be popped later.
    fn push(&mut self, pool: &mut FramePool, cell: Cell, band: Band, now: Tick);

    /// The next frame that may leave now.
    fn pop(&mut self, pool: &mut FramePool, now: Tick) -> Option<Cell>;

    /// Length of the frame that [`Self::pop`] would give.
    fn peek_len(&self, pool: &FramePool, now: Tick) -> Option<usize>;

    /// Frames waiting.
    fn len(&self) -> usize;

    /// Whether nothing waits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// First in, first out, in two bands.
#[derive(Debug, Default)]
pub struct Fifo {
    priority: List,
    normal: List,
    len: usize,
}

/// A list through the pool's `next` links; `ends` is its first and last cell.
#[derive(Debug, Default)]
struct List {
    ends: Option<(u32, u32)>,
}

impl List {
    fn push(&mut self, pool: &mut FramePool, cell: Cell) {
        let at = cell.0;
        pool.next[at as usize] = NONE;
        self.ends = match self.ends {
            None => Some((at, at)),
            Some((first, last)) => {
                pool.next[last as usize] = at;
                Some((first, at))
            }
        };
    }

    fn pop(&mut self, pool: &FramePool) -> Option<Cell> {
        let (first, last) = self.ends?;
        self.ends = if first == last { None } else { Some((pool.next[first as usize], last)) };
        Some(Cell(first))
    }
}

impl Scheduler for Fifo {
    fn push(&mut self, pool: &mut FramePool, cell: Cell, band: Band, _now: Tick) {
        match band {
            Band::Priority => self.priority.push(pool, cell),
            Band::Normal => self.normal.push(pool, cell),
        }
        self.len += 1;
    }

    fn pop(&mut self, pool: &mut FramePool, _now: Tick) -> Option<Cell> {
        let cell = self.priority.pop(pool).or_else(|| self.normal.pop(pool))?;
        self.len -= 1;
        Some(cell)
    }

    fn peek_len(&self, pool: &FramePool, _now: Tick) -> Option<usize> {
        let (first, _) = self.priority.ends.or(self.normal.ends)?;
        Some(pool.len_of(&Cell(first)))
    }

    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(0);

    #[test]
    fn fifo_keeps_order_within_a_band_and_priority_goes_first() {
        let mut pool = FramePool::new(8);
        let mut fifo = Fifo::default();
        for (byte, band) in [(1, Band::Normal), (2, Band::Normal), (3, Band::Priority), (4, Band::Normal)] {
            let cell = pool.store(&[byte; 60]).unwrap();
            fifo.push(&mut pool, cell, band, NOW);
        }
        assert_eq!(fifo.peek_len(&pool, NOW), Some(60));
        let mut out = Vec::new();
        while let Some(cell) = fifo.pop(&mut pool, NOW) {
            out.push(pool.frame(&cell)[0]);
            pool.release(cell);
        }
        assert_eq!(out, [3, 1, 2, 4]);
        assert_eq!((fifo.len(), pool.used()), (0, 0));
    }

    #[test]
    fn pool_refuses_when_full_and_gives_cells_back() {
        let mut pool = FramePool::new(2);
        let first = pool.store(b"first").unwrap();
        let second = pool.store(b"second").unwrap();
        assert!(pool.store(b"third").is_none());
        assert_eq!((pool.frame(&first), pool.frame(&second)), (&b"first"[..], &b"second"[..]));
        pool.release(first);
        let third = pool.store(b"third").unwrap();
        assert_eq!(pool.frame(&third), b"third");
        assert!(pool.store(&[0; CELL_BYTES + 1]).is_none());
    }

    #[test]
    fn band_ignores_ecn_bits() {
        let ipv4 = |tos: u8, protocol: u8, len: usize| {
            let mut frame = vec![0; len];
            frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, tos]);
            frame[23] = protocol;
            frame
        };
        let cases = [
            (ipv4(0x00, 6, 60), Band::Normal),
            (ipv4(0x02, 6, 60), Band::Normal),
            (ipv4(0x08, 6, 60), Band::Normal),
            (ipv4(0xb8, 17, 200), Band::Priority),
            (ipv4(0x00, 1, 98), Band::Priority),
            (ipv4(0x00, 1, 1400), Band::Normal),
        ];
        for (frame, band) in cases {
            assert_eq!(Band::of(&frame), band, "{:02x?}", &frame[12..24]);
        }
        let mut arp = [0; 42];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(Band::of(&arp), Band::Priority);
        let mut probe = [0; loop_probe::BYTES];
        probe[12..14].copy_from_slice(&loop_probe::ETHERTYPE);
        assert_eq!(Band::of(&probe), Band::Normal);
        probe[..6].copy_from_slice(&loop_probe::GROUP.0);
        assert_eq!(Band::of(&probe), Band::Priority);
        assert_eq!(Band::of(&[0; 14]), Band::Normal);
    }
}
