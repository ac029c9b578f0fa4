//! The latest frames for a peer who has lost all his connections and may come back.
//!
//! From what TCP inside has sent last it learns at once that the way is there again, where its own timer may take as long
//! again as the way was away.
#![forbid(unsafe_code)]

use super::queue::{Cell, FramePool, List};

/// Oldest first.
#[derive(Debug, Default)]
pub(super) struct Parked {
    frames: List,
    len: usize,
}

impl Parked {
    /// Whether another one takes the place of the oldest.
    pub(super) fn is_full(&self) -> bool {
        self.len >= PARKED_MAX
    }

    pub(super) fn push(&mut self, pool: &mut FramePool, cell: Cell) {
        self.frames.push(pool, cell);
        self.len += 1;
    }

    pub(super) fn pop(&mut self, pool: &FramePool) -> Option<Cell> {
        let cell = self.frames.pop(pool)?;
        self.len -= 1;
        Some(cell)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The attempts of some flows.
pub(super) const PARKED_MAX: usize = 32;
