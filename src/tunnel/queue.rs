//! Frames that wait for their member: storage shared by a worker's ports, and the order they leave in.
//!
//! Plaintext waits, records do not: a sealed record has used its sequence number and can no longer
//! be dropped, delayed or reordered. So whatever cannot go at once is kept here as a frame.
//!
//! Storage is one slab per worker, of cells that hold a frame each; a super-frame takes as many as it is long. A queue
//! is a list through the slab, so that queueing costs no memory of its own.
#![forbid(unsafe_code)]

use crate::tick::Tick;
use crate::wire::ethernet::FRAME_BYTES_MAX;
use crate::wire::loop_probe;
use crate::wire::super_frame::SuperFrame;

/// Longest thing a cell holds: a frame, with room for a VLAN tag.
pub const CELL_BYTES: usize = FRAME_BYTES_MAX + 4;

/// Distance of two cells: a multiple of the cache line.
const CELL_STRIDE: usize = CELL_BYTES.next_multiple_of(64);

/// "No cell" in links of the slab.
const NONE: u32 = u32::MAX;

/// A frame in the pool, in one cell or several. Not `Clone`: whoever has it must queue it or give it back.
#[derive(Debug)]
pub struct Cell(u32);

/// Frame storage of one worker: a slab of equal cells.
#[derive(Debug)]
pub struct FramePool {
    storage: Box<[u8]>,
    /// Bytes of the frame from this cell on.
    len: Box<[u32]>,
    /// Payload of a segment, of a super-frame that begins here; else 0.
    segment: Box<[u16]>,
    /// The cell with the rest of a super-frame.
    more: Box<[u32]>,
    next: Box<[u32]>,
    /// When a frame that begins here was queued.
    stamps: Box<[Tick]>,
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
            segment: vec![0; cells].into_boxed_slice(),
            more: vec![NONE; cells].into_boxed_slice(),
            next: vec![0; cells].into_boxed_slice(),
            stamps: vec![Tick::default(); cells].into_boxed_slice(),
            free: NONE,
            fresh: 0,
            used: 0,
        }
    }

    /// Copies `frame` into a cell. `None` if no cell is free or the frame is longer than [`CELL_BYTES`].
    pub fn store(&mut self, frame: &[u8]) -> Option<Cell> {
        if frame.len() > CELL_BYTES {
            return None;
        }
        self.fill(frame, NONE, frame.len()).map(Cell)
    }

    /// Copies a super-frame into as many cells as it takes. `None` if so many are not free.
    pub fn store_super(&mut self, frame: &SuperFrame<'_>) -> Option<Cell> {
        let bytes = frame.bytes();
        if self.free() < cells(bytes.len()) {
            return None;
        }
        let (mut at, mut len) = (NONE, 0);
        for part in bytes.chunks(CELL_BYTES).rev() {
            len += part.len();
            at = self.fill(part, at, len)?;
        }
        self.segment[at as usize] = frame.segment_bytes();
        Some(Cell(at))
    }

    /// Copies `bytes` into a free cell, with the rest of their frame in `more`; together they are `len` bytes.
    fn fill(&mut self, bytes: &[u8], more: u32, len: usize) -> Option<u32> {
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
        self.storage[index * CELL_STRIDE..][..bytes.len()].copy_from_slice(bytes);
        self.len[index] = u32::try_from(len).unwrap_or(u32::MAX);
        self.segment[index] = 0;
        self.more[index] = more;
        self.used += 1;
        Some(at)
    }

    /// The frame in `cell`; of a super-frame its beginning, with all headers.
    pub fn frame(&self, cell: &Cell) -> &[u8] {
        self.piece(cell.0)
    }

    /// Payload of a segment if a super-frame is in `cell`; else 0.
    pub fn segment_bytes(&self, cell: &Cell) -> u16 {
        self.segment[cell.0 as usize]
    }

    /// All bytes of the frame in `cell`, in order.
    pub fn pieces(&self, cell: &Cell) -> impl Iterator<Item = &[u8]> {
        let mut at = cell.0;
        std::iter::from_fn(move || {
            let piece = (at != NONE).then(|| self.piece(at))?;
            at = self.more[at as usize];
            Some(piece)
        })
    }

    fn piece(&self, at: u32) -> &[u8] {
        let index = at as usize;
        &self.storage[index * CELL_STRIDE..][..(self.len[index] as usize).min(CELL_BYTES)]
    }

    /// Notes when the frame in `cell` was queued.
    pub(super) fn stamp(&mut self, cell: &Cell, now: Tick) {
        self.stamps[cell.0 as usize] = now;
    }

    /// Cells that the frame in `cell` takes.
    pub fn cells(&self, cell: &Cell) -> usize {
        cells(self.len_of(cell))
    }

    /// Frees `cell`.
    pub fn release(&mut self, cell: Cell) {
        let mut at = cell.0;
        while at != NONE {
            self.next[at as usize] = self.free;
            self.free = at;
            self.used -= 1;
            at = self.more[at as usize];
        }
    }

    /// Cells that are free.
    pub fn free(&self) -> usize {
        self.len.len() - self.used
    }

    /// Cells in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Length of the frame in `cell`.
    pub fn len_of(&self, cell: &Cell) -> usize {
        self.len[cell.0 as usize] as usize
    }
}

/// Cells for a frame of so many bytes.
pub const fn cells(bytes: usize) -> usize {
    bytes.div_ceil(CELL_BYTES)
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
    /// Priority for ARP, probes for loops, short ICMP (neighbour discovery too) and IP packets with a DSCP, unless that
    /// says bulk: 2 (protocol note §5.6), lower effort (LE, RFC 8622) or its elder CS1. The ECN bits do not count: packets
    /// of one TCP flow differ in them, and a flow must not change bands. Neither do fragments of ICMP: the last may be
    /// short.
    pub fn of(frame: &[u8]) -> Self {
        const ICMP: u8 = 1;
        const ICMPV6: u8 = 58;
        let by_class = |dscp: u8, is_icmp: bool| {
            let is_short_icmp = is_icmp && frame.len() <= 128;
            if is_short_icmp || !matches!(dscp, 0 | 1 | 2 | 8) { Band::Priority } else { Band::Normal }
        };
        match frame.get(12..24) {
            Some([0x08, 0x06, ..]) => Band::Priority,
            // A probe for loops must be through before the storm is (`crate::wire::loop_probe`).
            Some([0x88, 0xb6, ..]) if frame[..6] == loop_probe::GROUP.0 => Band::Priority,
            Some([0x08, 0x00, _, tos, _, _, _, _, fragment, offset, _, protocol]) => {
                by_class(tos >> 2, *protocol == ICMP && [fragment & 0x3f, *offset] == [0, 0])
            }
            Some([0x86, 0xdd, class, low, _, _, _, _, next, ..]) => {
                by_class((class & 0x0f) << 2 | low >> 6, *next == ICMPV6)
            }
            _ => Band::Normal,
        }
    }
}

/// Frames in order, a list through the pool's `next` links; `ends` is its first and last cell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    ends: Option<(u32, u32)>,
}

impl List {
    pub(super) fn push(&mut self, pool: &mut FramePool, cell: Cell) {
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

    pub(super) fn pop(&mut self, pool: &FramePool) -> Option<Cell> {
        let (first, last) = self.ends?;
        self.ends = if first == last { None } else { Some((pool.next[first as usize], last)) };
        Some(Cell(first))
    }

    /// Length of the first frame.
    pub(super) fn first_len(&self, pool: &FramePool) -> Option<usize> {
        let (first, _) = self.ends?;
        Some(pool.len_of(&Cell(first)))
    }

    /// When the first frame came.
    pub(super) fn first_stamp(&self, pool: &FramePool) -> Option<Tick> {
        let (first, _) = self.ends?;
        Some(pool.stamps[first as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let fragment = |bits: [u8; 2]| {
            let mut frame = ipv4(0x00, 1, 98);
            frame[20..22].copy_from_slice(&bits);
            frame
        };
        let ipv6 = |class: u8, next: u8, len| {
            let mut frame = vec![0; len];
            frame[12..16].copy_from_slice(&[0x86, 0xdd, 0x60 | class >> 4, class << 4]);
            frame[20] = next;
            frame
        };
        let cases = [
            (ipv4(0x00, 6, 60), Band::Normal),
            (ipv4(0x02, 6, 60), Band::Normal),
            (ipv4(0x08, 6, 60), Band::Normal),
            (ipv4(0xb8, 17, 200), Band::Priority),
            (ipv4(0x00, 1, 98), Band::Priority),
            (ipv4(0x00, 1, 1400), Band::Normal),
            (ipv4(0x04, 17, 200), Band::Normal),
            (ipv4(0x20, 6, 60), Band::Normal),
            (ipv4(0x28, 6, 60), Band::Priority),
            (fragment([0x20, 0x00]), Band::Normal),
            (fragment([0x00, 0xb9]), Band::Normal),
            (fragment([0x40, 0x00]), Band::Priority),
            (ipv6(0, 6, 74), Band::Normal),
            (ipv6(0, 58, 86), Band::Priority),
            (ipv6(0, 58, 1400), Band::Normal),
            (ipv6(0xb8, 17, 200), Band::Priority),
            (ipv6(0x22, 6, 74), Band::Normal),
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
