//! The stream of blocks inside a data connection (protocol note §5.1), read as it comes.
//!
//! ```text
//! u32 n   n == 0xFFFFFFFF: keep-alive, u32 size (≤ 512), size bytes of padding
//!         n == 0:          nothing follows
//!         otherwise:       n times { u32 size (≤ 3200), size bytes: a frame or its zlib form }
//! ```
//!
//! Where both ends have agreed on super-frames ([`crate::wire::super_frame`]), a size may also be such a word, which no
//! stock end would take:
//!
//! ```text
//! bit 31: 1   bits 30..17: payload bytes of a segment   bits 16..0: size (≤ 65,557), size bytes: the super-frame
//! ```
//!
//! TLS records and blocks have nothing to do with each other: a call may end anywhere in a block,
//! or in a length. A block that lies whole in the bytes of one call is lent from them. One that is
//! cut is put together in a carry buffer, which exists only while a call has ended inside a block:
//! an idle connection holds nothing.
#![forbid(unsafe_code)]

use crate::metrics::closes::CloseReason;
use crate::wire::super_frame::SUPER_BYTES_MAX;

/// Longest block on the wire; a longer one ends the connection.
pub const BLOCK_BYTES_MAX: usize = 3200;

/// Longest padding of a keep-alive; a longer one ends the connection.
pub const KEEP_ALIVE_BYTES_MAX: usize = 512;

/// Count that announces a keep-alive.
pub(crate) const KEEP_ALIVE: u32 = 0xffff_ffff;

/// What the stream consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block<'a> {
    /// 1 to [`BLOCK_BYTES_MAX`] bytes: a frame, or its zlib form.
    Data(&'a [u8]),
    /// A super-frame, as the peer says.
    Super {
        /// Its bytes, 1 to [`SUPER_BYTES_MAX`].
        bytes: &'a [u8],
        /// Payload of a segment.
        segment_bytes: u16,
    },
    /// A keep-alive, its padding received and ignored.
    KeepAlive,
}

/// Where in the stream the next byte stands. Lengths here were checked against their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Count,
    Size,
    Block(Size),
    KeepAliveSize,
    Padding { left: usize },
}

/// Size of a block, and of the segments in it; these are 0 if it is no super-frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    bytes: usize,
    segment_bytes: u16,
}

impl Size {
    /// `None` if no block has such a size; super-frames only if `supers`.
    fn of(word: u32, supers: bool) -> Option<Self> {
        let is_super = word & SUPER != 0;
        if is_super && !supers {
            return None;
        }
        let (size, max) = if is_super { (word & SIZE_MASK, SUPER_BYTES_MAX) } else { (word, BLOCK_BYTES_MAX) };
        let segment_bytes = if is_super { u16::try_from((word & !SUPER) >> SIZE_BITS).ok()? } else { 0 };
        if is_super && segment_bytes == 0 {
            return None;
        }
        checked_size(size, max).map(|bytes| Self { bytes, segment_bytes })
    }

    fn to_word(self) -> u32 {
        let bytes = u32::try_from(self.bytes).expect("sizes were checked");
        if self.segment_bytes == 0 { bytes } else { bytes | super_mark(self.segment_bytes) }
    }

    fn block(self, bytes: &[u8]) -> Block<'_> {
        match self.segment_bytes {
            0 => Block::Data(bytes),
            segment_bytes => Block::Super { bytes, segment_bytes },
        }
    }
}

/// What marks the size of a super-frame with so much payload in a segment, below 2^14.
pub(crate) const fn super_mark(segment_bytes: u16) -> u32 {
    debug_assert!(segment_bytes < 1 << 14, "no segment is that long");
    SUPER | (segment_bytes as u32) << SIZE_BITS
}

const SUPER: u32 = 1 << 31;
const SIZE_BITS: u32 = 17;
const SIZE_MASK: u32 = (1 << SIZE_BITS) - 1;
const _: () = assert!(SUPER_BYTES_MAX <= SIZE_MASK as usize);

/// Reads the stream of one connection.
#[derive(Debug)]
pub struct Deframer {
    stage: Stage,
    /// Whether super-frames were agreed on.
    supers: bool,
    /// Blocks of the batch that have not been completed.
    blocks_left: u32,
    /// First bytes of a count or size that was cut.
    word: [u8; 4],
    word_bytes: usize,
    /// First bytes of a block that was cut, shorter than the block.
    carry: Vec<u8>,
}

/// Buffers for blocks that are cut, shared by the connections of a worker.
#[derive(Debug, Default)]
pub struct BlockPool {
    free: Vec<Vec<u8>>,
    /// For super-frames.
    long: Vec<Vec<u8>>,
}

impl BlockPool {
    /// Buffers kept for re-use; those above are freed, so that a burst leaves nothing behind.
    const KEPT: usize = 64;
    const KEPT_LONG: usize = 16;

    /// An empty buffer for a block of `size`. One length for all that are no super-frames, so that each fits any block.
    fn take(&mut self, size: Size) -> Vec<u8> {
        match size.segment_bytes {
            0 => self.free.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES_MAX)),
            _ => self.long.pop().unwrap_or_else(|| Vec::with_capacity(SUPER_BYTES_MAX)),
        }
    }

    fn give(&mut self, mut buf: Vec<u8>) {
        let is_long = buf.capacity() >= SUPER_BYTES_MAX;
        let (free, kept) = if is_long { (&mut self.long, Self::KEPT_LONG) } else { (&mut self.free, Self::KEPT) };
        if free.len() < kept {
            buf.clear();
            free.push(buf);
        }
    }
}

impl Default for Deframer {
    fn default() -> Self {
        Self::new()
    }
}

impl Deframer {
    /// At the start of a stream.
    pub const fn new() -> Self {
        Self { stage: Stage::Count, supers: false, blocks_left: 0, word: [0; 4], word_bytes: 0, carry: Vec::new() }
    }

    /// Says whether super-frames were agreed on; at first they were not.
    pub fn allow_supers(&mut self, supers: bool) {
        self.supers = supers;
    }

    /// As [`Self::push_with`], for calls too rare for a pool.
    ///
    /// # Errors
    /// As there.
    pub fn push(&mut self, plain: &[u8], each: impl FnMut(Block<'_>)) -> Result<(), CloseReason> {
        self.push_with(plain, &mut BlockPool::default(), each)
    }

    /// Reads all of `plain` and calls `each` for every block that is complete with it. Blocks of
    /// size zero are left out. The buffer for a block that is cut comes from `pool` and goes back to it.
    ///
    /// # Errors
    /// [`CloseReason::BlockTooLong`] or [`CloseReason::KeepAliveTooLong`]; the stream cannot be read
    /// any further and the connection has to be closed.
    #[inline]
    pub fn push_with(
        &mut self,
        plain: &[u8],
        pool: &mut BlockPool,
        mut each: impl FnMut(Block<'_>),
    ) -> Result<(), CloseReason> {
        let mut rest = plain;
        while !rest.is_empty() {
            match self.stage {
                Stage::Count => self.count(&mut rest),
                Stage::Size => {
                    self.whole_blocks(&mut rest, &mut each)?;
                    if self.stage == Stage::Size {
                        self.size(&mut rest)?;
                    }
                }
                Stage::Block(size) => self.cut_block(size, &mut rest, pool, &mut each),
                Stage::KeepAliveSize => self.keep_alive_size(&mut rest, &mut each)?,
                Stage::Padding { left } => self.padding(left, &mut rest, &mut each),
            }
        }
        // The buffer goes as soon as no block is incomplete, so that a connection that falls silent
        // here does not keep it.
        if self.carry.is_empty() && self.carry.capacity() > 0 {
            pool.give(std::mem::take(&mut self.carry));
        }
        Ok(())
    }

    /// Is the stream between two batches? False while anything is incomplete.
    pub fn is_at_boundary(&self) -> bool {
        self.stage == Stage::Count && self.word_bytes == 0
    }

    fn count(&mut self, rest: &mut &[u8]) {
        if let Some(word) = self.take_word(rest) {
            (self.stage, self.blocks_left) = match word {
                0 => (Stage::Count, 0),
                KEEP_ALIVE => (Stage::KeepAliveSize, 0),
                n => (Stage::Size, n),
            };
        }
    }

    /// The usual case: lends every block that lies whole in `rest`.
    #[inline]
    fn whole_blocks(&mut self, rest: &mut &[u8], each: &mut impl FnMut(Block<'_>)) -> Result<(), CloseReason> {
        if self.word_bytes != 0 {
            return Ok(());
        }
        while self.blocks_left > 0 {
            let Some((word, after)) = rest.split_first_chunk::<4>() else { return Ok(()) };
            let word = u32::from_be_bytes(*word);
            let Some(size) = checked_size(word, BLOCK_BYTES_MAX) else {
                // A super-frame goes the longer way.
                return Size::of(word, self.supers).map(|_| ()).ok_or(CloseReason::BlockTooLong);
            };
            let Some((block, after)) = after.split_at_checked(size) else { return Ok(()) };
            *rest = after;
            self.blocks_left -= 1;
            if size > 0 {
                each(Block::Data(block));
            }
        }
        self.stage = Stage::Count;
        Ok(())
    }

    fn size(&mut self, rest: &mut &[u8]) -> Result<(), CloseReason> {
        if let Some(word) = self.take_word(rest) {
            match Size::of(word, self.supers).ok_or(CloseReason::BlockTooLong)? {
                Size { bytes: 0, .. } => self.block_done(),
                size => self.stage = Stage::Block(size),
            }
        }
        Ok(())
    }

    fn cut_block(&mut self, size: Size, rest: &mut &[u8], pool: &mut BlockPool, each: &mut impl FnMut(Block<'_>)) {
        if self.carry.is_empty()
            && let Some((block, after)) = rest.split_at_checked(size.bytes)
        {
            *rest = after;
            each(size.block(block));
            return self.block_done();
        }
        if self.carry.capacity() < size.bytes {
            // There was none, or that of a shorter block before.
            let other = std::mem::replace(&mut self.carry, pool.take(size));
            if other.capacity() > 0 {
                pool.give(other);
            }
        }
        let missing = size.bytes - self.carry.len();
        let (now, later) = rest.split_at(missing.min(rest.len()));
        self.carry.extend_from_slice(now);
        *rest = later;
        if self.carry.len() == size.bytes {
            each(size.block(&self.carry));
            self.carry.clear();
            self.block_done();
        }
    }

    fn block_done(&mut self) {
        self.blocks_left -= 1;
        self.stage = if self.blocks_left == 0 { Stage::Count } else { Stage::Size };
    }

    fn keep_alive_size(&mut self, rest: &mut &[u8], each: &mut impl FnMut(Block<'_>)) -> Result<(), CloseReason> {
        if let Some(word) = self.take_word(rest) {
            let left = checked_size(word, KEEP_ALIVE_BYTES_MAX).ok_or(CloseReason::KeepAliveTooLong)?;
            self.padding(left, rest, each);
        }
        Ok(())
    }

    fn padding(&mut self, left: usize, rest: &mut &[u8], each: &mut impl FnMut(Block<'_>)) {
        let skipped = left.min(rest.len());
        *rest = &rest[skipped..];
        if skipped == left {
            self.stage = Stage::Count;
            each(Block::KeepAlive);
        } else {
            self.stage = Stage::Padding { left: left - skipped };
        }
    }

    /// The next four bytes, which may have come in pieces.
    fn take_word(&mut self, rest: &mut &[u8]) -> Option<u32> {
        if self.word_bytes == 0
            && let Some((word, after)) = rest.split_first_chunk::<4>()
        {
            *rest = after;
            return Some(u32::from_be_bytes(*word));
        }
        while self.word_bytes < 4 {
            let (byte, after) = rest.split_first()?;
            self.word[self.word_bytes] = *byte;
            self.word_bytes += 1;
            *rest = after;
        }
        self.word_bytes = 0;
        Some(u32::from_be_bytes(self.word))
    }
}

fn checked_size(word: u32, max: usize) -> Option<usize> {
    usize::try_from(word).ok().filter(|size| *size <= max)
}

impl Deframer {
    /// The state as bytes, to hand the connection to another process in mid-stream:
    /// stage, size word or padding left (u32), blocks left (u32), the cut word with its length, the carry.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (stage, amount) = match self.stage {
            Stage::Count => (0, 0),
            Stage::Size => (1, 0),
            Stage::Block(size) => (2, size.to_word()),
            Stage::KeepAliveSize => (3, 0),
            Stage::Padding { left } => (4, u32::try_from(left).expect("padding was checked to be at most 512")),
        };
        let word_bytes = u8::try_from(self.word_bytes).expect("a word has four bytes");
        let mut bytes = Vec::with_capacity(STATE_BYTES + self.carry.len());
        bytes.push(stage);
        bytes.extend_from_slice(&amount.to_be_bytes());
        bytes.extend_from_slice(&self.blocks_left.to_be_bytes());
        bytes.push(word_bytes);
        bytes.extend_from_slice(&self.word);
        bytes.extend_from_slice(&self.carry);
        bytes
    }

    /// From [`Self::to_bytes`]; `None` if the bytes are not a state that a deframer can be in.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, carry) = bytes.split_first_chunk::<STATE_BYTES>()?;
        let [stage, a0, a1, a2, a3, b0, b1, b2, b3, word_bytes, word @ ..] = *head;
        let amount = u32::from_be_bytes([a0, a1, a2, a3]);
        let blocks_left = u32::from_be_bytes([b0, b1, b2, b3]);
        let word_bytes = usize::from(word_bytes);
        let (stage, in_batch) = match (stage, amount) {
            (0, 0) => (Stage::Count, false),
            (1, 0) => (Stage::Size, true),
            (2, word) => (Stage::Block(Size::of(word, true).filter(|size| size.bytes > 0)?), true),
            (3, 0) => (Stage::KeepAliveSize, false),
            (4, 1..) => (Stage::Padding { left: checked_size(amount, KEEP_ALIVE_BYTES_MAX)? }, false),
            _ => return None,
        };
        let carry_fits = match stage {
            Stage::Block(size) => carry.len() < size.bytes,
            _ => carry.is_empty(),
        };
        let word_fits = match stage {
            Stage::Count | Stage::Size | Stage::KeepAliveSize => word_bytes < 4,
            Stage::Block(_) | Stage::Padding { .. } => word_bytes == 0,
        };
        if !carry_fits || !word_fits || (blocks_left > 0) != in_batch || blocks_left == KEEP_ALIVE {
            return None;
        }
        let mut deframer = Self { stage, supers: false, blocks_left, word, word_bytes, carry: Vec::new() };
        if let Stage::Block(size) = stage
            && !carry.is_empty()
        {
            deframer.carry = BlockPool::default().take(size);
            deframer.carry.extend_from_slice(carry);
        }
        Some(deframer)
    }
}

/// Bytes of [`Deframer::to_bytes`] before the carry.
const STATE_BYTES: usize = 14;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Owned {
        Data(Vec<u8>),
        Super(Vec<u8>, u16),
        KeepAlive,
    }

    fn collect(deframer: &mut Deframer, plain: &[u8], into: &mut Vec<Owned>) -> Result<(), CloseReason> {
        deframer.push(plain, |block| {
            into.push(match block {
                Block::Data(bytes) => Owned::Data(bytes.to_vec()),
                Block::Super { bytes, segment_bytes } => Owned::Super(bytes.to_vec(), segment_bytes),
                Block::KeepAlive => Owned::KeepAlive,
            });
        })
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn small_streams() {
        let data = |text: &[u8]| Owned::Data(text.to_vec());
        let table: &[(&[u8], &[Owned])] = &[
            (b"", &[]),
            (b"\0\0\0\0", &[]),
            (b"\0\0\0\x01\0\0\0\x02hi", &[data(b"hi")]),
            (b"\0\0\0\x02\0\0\0\0\0\0\0\x02hi", &[data(b"hi")]),
            (b"\0\0\0\x02\0\0\0\x02hi\0\0\0\0\0\0\0\x01\0\0\0\x01x", &[data(b"hi"), data(b"x")]),
            (b"\xff\xff\xff\xff\0\0\0\0", &[Owned::KeepAlive]),
            (b"\xff\xff\xff\xff\0\0\0\x03abc\0\0\0\x01\0\0\0\x01x", &[Owned::KeepAlive, data(b"x")]),
        ];
        for (plain, expected) in table {
            let mut deframer = Deframer::new();
            let mut found = Vec::new();
            collect(&mut deframer, plain, &mut found).unwrap();
            assert_eq!(&found, expected);
            assert!(deframer.is_at_boundary());
        }
    }

    #[test]
    fn limits() {
        let table = [
            (words(&[1, 3200]), Ok(())),
            (words(&[1, 3201]), Err(CloseReason::BlockTooLong)),
            (words(&[1, KEEP_ALIVE]), Err(CloseReason::BlockTooLong)),
            (words(&[1, super_mark(1400) | 3000]), Err(CloseReason::BlockTooLong)),
            (words(&[KEEP_ALIVE, 512]), Ok(())),
            (words(&[KEEP_ALIVE, 513]), Err(CloseReason::KeepAliveTooLong)),
        ];
        for (plain, expected) in table {
            assert_eq!(collect(&mut Deframer::new(), &plain, &mut Vec::new()), expected);
            let mut bytewise = Deframer::new();
            let result = plain.iter().try_for_each(|byte| collect(&mut bytewise, &[*byte], &mut Vec::new()));
            assert_eq!(result, expected);
        }
    }

    #[test]
    fn super_frames_have_limits_too() {
        let table = [(super_mark(1400) | 65_557, true), (super_mark(1400) | 65_558, false), (SUPER | 3000, false)];
        for (word, fits) in table {
            let mut deframer = Deframer::new();
            deframer.allow_supers(true);
            assert_eq!(collect(&mut deframer, &words(&[1, word]), &mut Vec::new()).is_ok(), fits, "{word:x}");
        }
    }

    #[test]
    fn an_idle_connection_holds_no_buffer() {
        let mut deframer = Deframer::new();
        let mut plain = words(&[2, 1514]);
        plain.resize(plain.len() + 1514, 7);
        plain.extend_from_slice(&words(&[1514]));
        deframer.push(&plain[..600], |_| ()).unwrap();
        assert!(deframer.carry.capacity() >= 1514);
        deframer.push(&plain[600..], |_| ()).unwrap();
        assert_eq!(deframer.carry.capacity(), 0);
    }

    #[test]
    fn a_whole_block_is_lent() {
        let mut plain = words(&[2, 60]);
        plain.resize(plain.len() + 60, 7);
        plain.extend_from_slice(&words(&[1514]));
        plain.resize(plain.len() + 1514, 8);
        let mut deframer = Deframer::new();
        let mut starts = Vec::new();
        let base = plain.as_ptr().addr();
        let mut note = |block: Block<'_>| {
            if let Block::Data(bytes) = block {
                starts.push(bytes.as_ptr().addr() - base);
            }
        };
        deframer.push(&plain[..70], &mut note).unwrap();
        deframer.push(&plain[70..], &mut note).unwrap();
        assert_eq!(starts, [8, 72]);
    }

    #[test]
    fn states_that_cannot_be_are_refused() {
        let mut mid_block = Deframer::new();
        mid_block.push(&words(&[1, 10, 0]), |_| ()).unwrap();
        let good = mid_block.to_bytes();
        assert!(Deframer::from_bytes(&good).is_some());
        for (at, value) in [(0, 0), (0, 5), (4, 0), (4, 4), (3, 0xff), (1, 0x80), (8, 0), (9, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Deframer::from_bytes(&bad).is_none(), "byte {at} = {value}");
        }
        assert!(Deframer::from_bytes(&good[..13]).is_none());
    }

    /// A stream as a peer would send it, with what should be found in it.
    fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<Owned>)> {
        let block = prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..80).prop_map(|block| (block, 0)),
            1 => (1usize..=BLOCK_BYTES_MAX).prop_map(|size| (vec![0x5a; size], 0)),
            1 => (1usize..=SUPER_BYTES_MAX, 1u16..1 << 14).prop_map(|(size, segment)| (vec![0xa5; size], segment)),
        ];
        let batch = prop_oneof![
            3 => prop::collection::vec(block, 0..6).prop_map(Some),
            1 => Just(None),
        ];
        (prop::collection::vec(batch, 0..6), 0u32..=512).prop_map(|(batches, padding)| {
            let mut bytes = Vec::new();
            let mut blocks = Vec::new();
            for batch in batches {
                let Some(batch) = batch else {
                    bytes.extend(words(&[KEEP_ALIVE, padding]));
                    bytes.resize(bytes.len() + padding as usize, 0xff);
                    blocks.push(Owned::KeepAlive);
                    continue;
                };
                bytes.extend(words(&[u32::try_from(batch.len()).unwrap()]));
                for (block, segment_bytes) in batch {
                    let mark = if segment_bytes == 0 { 0 } else { super_mark(segment_bytes) };
                    bytes.extend(words(&[u32::try_from(block.len()).unwrap() | mark]));
                    bytes.extend_from_slice(&block);
                    match segment_bytes {
                        0 if block.is_empty() => {}
                        0 => blocks.push(Owned::Data(block)),
                        _ => blocks.push(Owned::Super(block, segment_bytes)),
                    }
                }
            }
            (bytes, blocks)
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_blocks(
            (bytes, expected) in stream(),
            cuts in prop::collection::vec(0usize..4000, 1..40),
            hand_over in any::<bool>(),
        ) {
            let mut deframer = Deframer::new();
            deframer.allow_supers(true);
            let mut found = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle().take(4000) {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                collect(&mut deframer, now, &mut found).unwrap();
                rest = later;
                if hand_over {
                    deframer = Deframer::from_bytes(&deframer.to_bytes()).unwrap();
                    deframer.allow_supers(true);
                }
            }
            collect(&mut deframer, rest, &mut found).unwrap();
            prop_assert!(deframer.is_at_boundary());
            prop_assert_eq!(deframer.carry.capacity(), 0);
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn byte_by_byte_gives_the_same_blocks((bytes, expected) in stream()) {
            let mut deframer = Deframer::new();
            deframer.allow_supers(true);
            let mut found = Vec::new();
            for byte in &bytes {
                collect(&mut deframer, &[*byte], &mut found).unwrap();
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..300)) {
            let _ = Deframer::new().push(&bytes, |_| ());
        }

        #[test]
        fn any_state_that_is_accepted_works(
            head in prop::array::uniform12(prop_oneof![Just(0u8), 0u8..6, any::<u8>()]),
            carry in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let bytes = [&head[..], &carry].concat();
            if let Some(mut deframer) = Deframer::from_bytes(&bytes) {
                prop_assert_eq!(&deframer.to_bytes(), &bytes);
                let _ = deframer.push(&[1; 5000], |_| ());
            }
        }
    }
}
