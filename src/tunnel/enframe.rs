//! Frames into the stream of blocks (protocol note §5.1), inside bytes that the caller owns: the
//! part of a TLS record under construction.
//!
//! An area looks like `[n][size frame]…`, with a new `[n]` after every 128 frames, the most that
//! stock senders put into a batch. Counts are patched when a batch ends, so an area is valid only
//! after [`Batch::finish`]. Nothing is allocated.
#![forbid(unsafe_code)]

pub(super) use super::deframe::super_mark;
use super::deframe::{BLOCK_BYTES_MAX, KEEP_ALIVE, KEEP_ALIVE_BYTES_MAX};

/// Frames of one batch.
pub const BATCH_FRAMES_MAX: u32 = 128;

/// Bytes of a count or of a size.
pub const WORD_BYTES: usize = 4;

/// Frames being put into an area. Every call gets the same area.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Where the count of the batch under construction stands.
    count_at: usize,
    /// Its frames so far.
    frames: u32,
    /// End of what is filled.
    end: usize,
}

impl Batch {
    /// Begins at the start of `area`.
    #[inline]
    pub fn begin(area: &mut [u8]) -> Self {
        // The first count gets its place at once, if there is any.
        Self { count_at: 0, frames: 0, end: WORD_BYTES.min(area.len()) }
    }

    /// Appends `frame`, 1 to [`BLOCK_BYTES_MAX`] bytes; false, with nothing changed, if it does not fit.
    #[inline]
    pub fn push(&mut self, area: &mut [u8], frame: &[u8]) -> bool {
        debug_assert!((1..=BLOCK_BYTES_MAX).contains(&frame.len()), "no receiver takes a block of {}", frame.len());
        self.push_with(area, frame.len(), |out| {
            out.copy_from_slice(frame);
            Some(frame.len())
        })
    }

    /// Appends what `write` puts at the start of the `max` bytes it is given, at most
    /// [`BLOCK_BYTES_MAX`]; it returns how many bytes that were. False, with nothing changed, if
    /// `max` bytes do not fit or `write` returns `None`.
    #[inline]
    pub fn push_with(&mut self, area: &mut [u8], max: usize, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        self.push_marked(area, 0, max, write)
    }

    /// The same with `mark` in the size word: `super_mark` for a super-frame.
    #[inline]
    pub fn push_marked(
        &mut self,
        area: &mut [u8],
        mark: u32,
        max: usize,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> bool {
        let new_batch = self.frames == BATCH_FRAMES_MAX;
        let size_at = if new_batch { self.end + WORD_BYTES } else { self.end };
        let Some(block) = area.get_mut(size_at..).filter(|room| room.len() >= WORD_BYTES + max) else { return false };
        let (size, block) = block.split_at_mut(WORD_BYTES);
        let Some(written) = write(&mut block[..max]) else { return false };
        let Ok(size_word) = u32::try_from(written.min(max)) else { return false };
        size.copy_from_slice(&(size_word | mark).to_be_bytes());
        if new_batch {
            self.patch(area);
            self.count_at = self.end;
            self.frames = 0;
        }
        self.frames += 1;
        self.end = size_at + WORD_BYTES + written.min(max);
        true
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Bytes filled so far.
    pub fn used(&self) -> usize {
        self.end
    }

    /// Longest frame that would still fit into an area of `area_bytes`.
    pub fn room(&self, area_bytes: usize) -> usize {
        let words = if self.frames == BATCH_FRAMES_MAX { 2 } else { 1 };
        area_bytes.saturating_sub(self.end + words * WORD_BYTES)
    }

    /// Completes the area and returns how many of its bytes are filled; 0 if nothing was pushed.
    #[inline]
    pub fn finish(self, area: &mut [u8]) -> usize {
        if self.is_empty() {
            return 0;
        }
        self.patch(area);
        self.end
    }

    fn patch(&self, area: &mut [u8]) {
        area[self.count_at..self.count_at + WORD_BYTES].copy_from_slice(&self.frames.to_be_bytes());
    }
}

/// Writes a keep-alive with `padding` (random bytes, cut to [`KEEP_ALIVE_BYTES_MAX`]) to the start
/// of `area` and returns its length; 0 if it does not fit.
pub fn keep_alive(area: &mut [u8], padding: &[u8]) -> usize {
    let padding = &padding[..padding.len().min(KEEP_ALIVE_BYTES_MAX)];
    let end = 2 * WORD_BYTES + padding.len();
    let (Some(area), Ok(size)) = (area.get_mut(..end), u32::try_from(padding.len())) else { return 0 };
    area[..WORD_BYTES].copy_from_slice(&KEEP_ALIVE.to_be_bytes());
    area[WORD_BYTES..2 * WORD_BYTES].copy_from_slice(&size.to_be_bytes());
    area[2 * WORD_BYTES..].copy_from_slice(padding);
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::deframe::{Block, Deframer};
    use super::*;

    fn blocks(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut deframer = Deframer::new();
        let mut found = Vec::new();
        deframer
            .push(bytes, |block| match block {
                Block::Data(block) => found.push(block.to_vec()),
                other => panic!("{other:?} was not sent"),
            })
            .unwrap();
        assert!(deframer.is_at_boundary());
        found
    }

    #[test]
    fn one_batch_byte_by_byte() {
        let mut area = [0xee; 64];
        let mut batch = Batch::begin(&mut area);
        assert!(batch.push(&mut area, b"abc") && batch.push(&mut area, b"de"));
        let end = batch.finish(&mut area);
        assert_eq!(&area[..end], b"\0\0\0\x02\0\0\0\x03abc\0\0\0\x02de");
    }

    #[test]
    fn an_empty_batch_is_nothing() {
        let mut area = [0; 16];
        assert_eq!(Batch::begin(&mut area).finish(&mut area), 0);
        assert_eq!(Batch::begin(&mut []).finish(&mut []), 0);
    }

    #[test]
    fn frames_fit_to_the_last_byte() {
        for bytes in 0..40 {
            let mut area = vec![0; bytes];
            let mut batch = Batch::begin(&mut area);
            let room = batch.room(bytes);
            let fits = batch.push(&mut area, &[7; 10]);
            assert_eq!(fits, bytes >= 18, "{bytes}");
            assert_eq!(fits, room >= 10, "{bytes}");
            assert_eq!(batch.finish(&mut area), if fits { 18 } else { 0 });
        }
    }

    #[test]
    fn a_129th_frame_begins_a_new_batch() {
        let mut area = vec![0; 129 * 5 + 8];
        let mut batch = Batch::begin(&mut area);
        for _ in 0..129 {
            assert!(batch.push(&mut area, b"x"));
        }
        assert!(!batch.push(&mut area, b"x"));
        assert_eq!(batch.finish(&mut area), area.len());
        assert_eq!(area[..4], 128u32.to_be_bytes());
        assert_eq!(area[4 + 128 * 5..][..4], 1u32.to_be_bytes());
        assert_eq!(blocks(&area).len(), 129);
    }

    #[test]
    fn a_full_batch_without_room_for_another_stays_valid() {
        let mut area = vec![0; 4 + 128 * 5 + 8];
        let mut batch = Batch::begin(&mut area);
        for _ in 0..128 {
            assert!(batch.push(&mut area, b"x"));
        }
        assert_eq!(batch.room(area.len()), 0);
        assert!(!batch.push(&mut area, b"x"));
        let end = batch.finish(&mut area);
        assert_eq!(blocks(&area[..end]).len(), 128);
    }

    #[test]
    fn a_writer_may_use_less_or_nothing() {
        let mut area = [0; 64];
        let mut batch = Batch::begin(&mut area);
        assert!(batch.push_with(&mut area, 10, |out| {
            out[..2].copy_from_slice(b"hi");
            Some(2)
        }));
        assert!(!batch.push_with(&mut area, 10, |_| None));
        assert!(!batch.push_with(&mut area, 60, |_| Some(1)));
        let end = batch.finish(&mut area);
        assert_eq!(blocks(&area[..end]), [b"hi"]);
    }

    #[test]
    fn keep_alives() {
        let mut area = [0; 600];
        for (padding, expected) in [(0, 8), (100, 108), (512, 520), (513, 520)] {
            let end = keep_alive(&mut area, &vec![9; padding]);
            assert_eq!(end, expected);
            let mut seen = 0;
            Deframer::new()
                .push(&area[..end], |block| {
                    assert_eq!(block, Block::KeepAlive);
                    seen += 1;
                })
                .unwrap();
            assert_eq!(seen, 1);
        }
        assert_eq!(keep_alive(&mut area[..10], &[1, 2, 3]), 0);
    }

    proptest! {
        #[test]
        fn what_is_enframed_deframes(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..300),
            area_bytes in 0usize..8000,
        ) {
            let mut area = vec![0xee; area_bytes];
            let mut batch = Batch::begin(&mut area);
            let pushed = frames.iter().take_while(|frame| batch.push(&mut area, frame)).count();
            let end = batch.finish(&mut area);
            prop_assert_eq!(blocks(&area[..end]), &frames[..pushed]);
        }
    }
}
