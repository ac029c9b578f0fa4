//! The stream of blocks inside a data connection (protocol note §5.1), read as it comes.
//!
//! ```text
//! u32 n   n == 0xFFFFFFFF: keep-alive, u32 size (≤ 512), size bytes of padding
//!         n == 0:          nothing follows
//!         otherwise:       n times { u32 size (≤ 3200), size bytes: a frame or its zlib form }
//! ```
//!
//! TLS records and blocks have nothing to do with each other: a call may end anywhere in a block,
//! or in a length. A block that lies whole in the bytes of one call is lent from them. One that is
//! cut is put together in a carry buffer, which exists only while a call has ended inside a block:
//! an idle connection holds nothing.
#![forbid(unsafe_code)]

use crate::metrics::closes::CloseReason;

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
    /// A keep-alive, its padding received and ignored.
    KeepAlive,
}

/// Where in the stream the next byte stands. Lengths here were checked against their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Count,
    Size,
    Block { size: usize },
    KeepAliveSize,
    Padding { left: usize },
}

/// Reads the stream of one connection.
#[derive(Debug)]
pub struct Deframer {
    stage: Stage,
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
}

impl BlockPool {
    /// Buffers kept for re-use; those above are freed, so that a burst leaves nothing behind.
    const KEPT: usize = 64;

    /// An empty buffer. One size for all, so that each fits any block.
    fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES_MAX))
    }

    fn give(&mut self, mut buf: Vec<u8>) {
        if self.free.len() < Self::KEPT {
            buf.clear();
            self.free.push(buf);
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
        Self { stage: Stage::Count, blocks_left: 0, word: [0; 4], word_bytes: 0, carry: Vec::new() }
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
                Stage::Block { size } => self.cut_block(size, &mut rest, pool, &mut each),
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
            let size = block_size(u32::from_be_bytes(*word))?;
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
            match block_size(word)? {
                0 => self.block_done(),
                size => self.stage = Stage::Block { size },
            }
        }
        Ok(())
    }

    fn cut_block(&mut self, size: usize, rest: &mut &[u8], pool: &mut BlockPool, each: &mut impl FnMut(Block<'_>)) {
        if self.carry.is_empty()
            && let Some((block, after)) = rest.split_at_checked(size)
        {
            *rest = after;
            each(Block::Data(block));
            return self.block_done();
        }
        if self.carry.capacity() == 0 {
            self.carry = pool.take();
        }
        let missing = size - self.carry.len();
        let (now, later) = rest.split_at(missing.min(rest.len()));
        self.carry.extend_from_slice(now);
        *rest = later;
        if self.carry.len() == size {
            each(Block::Data(&self.carry));
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

fn block_size(word: u32) -> Result<usize, CloseReason> {
    checked_size(word, BLOCK_BYTES_MAX).ok_or(CloseReason::BlockTooLong)
}

fn checked_size(word: u32, max: usize) -> Option<usize> {
    usize::try_from(word).ok().filter(|size| *size <= max)
}

impl Deframer {
    /// The state as bytes, to hand the connection to another process in mid-stream:
    /// stage, size or padding left (u16), blocks left (u32), the cut word with its length, the carry.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (stage, amount) = match self.stage {
            Stage::Count => (0, 0),
            Stage::Size => (1, 0),
            Stage::Block { size } => (2, size),
            Stage::KeepAliveSize => (3, 0),
            Stage::Padding { left } => (4, left),
        };
        let amount = u16::try_from(amount).expect("sizes were checked to be at most 3200");
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
        let [stage, a0, a1, b0, b1, b2, b3, word_bytes, word @ ..] = *head;
        let amount = usize::from(u16::from_be_bytes([a0, a1]));
        let blocks_left = u32::from_be_bytes([b0, b1, b2, b3]);
        let word_bytes = usize::from(word_bytes);
        let (stage, in_batch) = match (stage, amount) {
            (0, 0) => (Stage::Count, false),
            (1, 0) => (Stage::Size, true),
            (2, 1..=BLOCK_BYTES_MAX) => (Stage::Block { size: amount }, true),
            (3, 0) => (Stage::KeepAliveSize, false),
            (4, 1..=KEEP_ALIVE_BYTES_MAX) => (Stage::Padding { left: amount }, false),
            _ => return None,
        };
        let carry_fits = match stage {
            Stage::Block { size } => carry.len() < size,
            _ => carry.is_empty(),
        };
        let word_fits = match stage {
            Stage::Count | Stage::Size | Stage::KeepAliveSize => word_bytes < 4,
            Stage::Block { .. } | Stage::Padding { .. } => word_bytes == 0,
        };
        if !carry_fits || !word_fits || (blocks_left > 0) != in_batch || blocks_left == KEEP_ALIVE {
            return None;
        }
        let mut deframer = Self { stage, blocks_left, word, word_bytes, carry: Vec::new() };
        if !carry.is_empty() {
            deframer.carry = BlockPool::default().take();
            deframer.carry.extend_from_slice(carry);
        }
        Some(deframer)
    }
}

/// Bytes of [`Deframer::to_bytes`] before the carry.
const STATE_BYTES: usize = 12;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Owned {
        Data(Vec<u8>),
        KeepAlive,
    }

    fn collect(deframer: &mut Deframer, plain: &[u8], into: &mut Vec<Owned>) -> Result<(), CloseReason> {
        deframer.push(plain, |block| {
            into.push(match block {
                Block::Data(bytes) => Owned::Data(bytes.to_vec()),
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
        for (at, value) in [(0, 0), (0, 5), (2, 0), (2, 4), (1, 0xff), (6, 0), (7, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Deframer::from_bytes(&bad).is_none(), "byte {at} = {value}");
        }
        assert!(Deframer::from_bytes(&good[..11]).is_none());
    }

    /// A stream as a peer would send it, with what should be found in it.
    fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<Owned>)> {
        let block = prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..80),
            1 => (1usize..=BLOCK_BYTES_MAX).prop_map(|size| vec![0x5a; size]),
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
                for block in batch {
                    bytes.extend(words(&[u32::try_from(block.len()).unwrap()]));
                    bytes.extend_from_slice(&block);
                    if !block.is_empty() {
                        blocks.push(Owned::Data(block));
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
            let mut found = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle().take(4000) {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                collect(&mut deframer, now, &mut found).unwrap();
                rest = later;
                if hand_over {
                    deframer = Deframer::from_bytes(&deframer.to_bytes()).unwrap();
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
