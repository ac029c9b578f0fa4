//! The record under construction: frames copied once into the buffer that will be sent, sealed in place.
//!
//! ```text
//! | sealed record | sealed record | prefix | n | size frame | size frame | ...      room for suffix |
//! 0               |               ^ open record begins here    ^ frames are appended
//! ```
//!
//! A record lives open only within one turn; at its end everything is sealed and leaves as one send.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::buffer::SendBuf;
use super::buffer::SendPool;
use super::enframe::{self, Batch};
use super::link::Flushed;
use crate::metrics::closes::CloseReason;
use crate::tick::Tick;
use crate::tls::layer::{CONTROL_BYTES_MAX, RecordLayer};
use crate::wire::ethernet::FRAME_BYTES_MAX;
use crate::wire::super_frame::{self, SUPER_BYTES_MAX, SuperFrame};

/// Plaintext of the largest record (RFC 8446 §5.1).
const RECORD_PLAIN_MAX: usize = 16_384;

/// Plaintext of a record that fits one TCP segment of a 1500-byte path together with its framing, so that
/// the peer can open it without waiting for a second segment.
const RECORD_PLAIN_SMALL: usize = 1_400 - 8;

/// Silence after which TCP may have fallen back to a small window, so that records start small again.
const IDLE: Duration = Duration::from_secs(1);

/// Bytes sent in small records after a silence: about an initial window of TCP twice over (RFC 6928).
const SMALL_BYTES: usize = 2 * 10 * 1_448;

/// What a record adds to its plaintext at most: header and explicit nonce before, type and tag after.
const RECORD_OVERHEAD_MAX: usize = 13 + 17;

/// Size of a send buffer: four full records, and what the longest super-frame takes beyond that. More gains little per
/// system call; less and a fast member is woken more often.
pub const SEND_BYTES: usize = super_len(SUPER_BYTES_MAX) + CONTROL_BYTES_MAX;
const _: () = assert!(SEND_BYTES >= 4 * (RECORD_PLAIN_MAX + RECORD_OVERHEAD_MAX) + CONTROL_BYTES_MAX);

/// What a super-frame of `len` bytes takes at most, in records of which the first may be small.
const fn super_len(len: usize) -> usize {
    super_len_after(len, SMALL_BYTES)
}

/// The same where `small` bytes still go in small records.
const fn super_len_after(len: usize, small: usize) -> usize {
    let plain = batch_len(len);
    plain + (plain.div_ceil(RECORD_PLAIN_MAX) + small.div_ceil(RECORD_PLAIN_SMALL)) * RECORD_OVERHEAD_MAX
}

/// Size of the buffer in which every send begins: room for one record with the longest block, and a control record.
/// What comes to more goes on in a long one, at the price of copying these bytes.
pub const SEND_BYTES_SHORT: usize = 2048;
const _: () = assert!(SEND_BYTES_SHORT >= RECORD_OVERHEAD_MAX + batch_len(BLOCK_BYTES_MAX) + CONTROL_BYTES_MAX);

/// End of the part of a buffer that frames may fill; behind it a control record always has room.
fn frames_end(buf: &SendBuf) -> usize {
    buf.capacity() - CONTROL_BYTES_MAX
}

/// Longest block we append: a frame, with room for a VLAN tag and for what zlib adds to bytes that do not
/// compress.
pub const BLOCK_BYTES_MAX: usize = FRAME_BYTES_MAX + 64;

/// What a batch of one block of `len` bytes takes: count, size, block.
const fn batch_len(len: usize) -> usize {
    2 * enframe::WORD_BYTES + len
}

/// Records on their way to one connection.
#[derive(Debug, Default)]
pub struct Outgoing {
    buf: Option<SendBuf>,
    open: Option<OpenRecord>,
    /// Since the last send: records, frames, bytes of frames, renewed keys.
    records: u64,
    frames: u64,
    bytes: u64,
    key_updates: u64,
    /// Bytes that still go in small records.
    small_left: usize,
    last: Option<Tick>,
}

/// What is to be known of a super-frame beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct SuperBlock {
    /// Its length.
    len: usize,
    /// Payload of a segment.
    segment_bytes: u16,
    /// What it is on a wire: frames, and their bytes.
    wire: (u64, u64),
}

impl SuperBlock {
    /// Of `frame`.
    pub fn of(frame: &SuperFrame<'_>) -> Self {
        Self { len: frame.bytes().len(), segment_bytes: frame.segment_bytes(), wire: frame.on_wire() }
    }

    /// Of one of `len` bytes that begins with `head`.
    pub fn of_head(head: &[u8], len: usize, segment_bytes: u16) -> Self {
        Self { len, segment_bytes, wire: super_frame::on_wire(head, len, segment_bytes) }
    }
}

#[derive(Debug)]
struct OpenRecord {
    /// Where its plaintext begins.
    at: usize,
    /// Where its plaintext may end.
    limit: usize,
    /// Bytes of plaintext it may have if the buffer has room for them.
    plain: usize,
    batch: Batch,
}

impl Outgoing {
    /// Appends a frame that arrives while nothing waits. `false` if the buffer is full.
    pub fn append(&mut self, layer: &mut RecordLayer, block: &[u8], now: Tick, sends: &mut SendPool) -> bool {
        if self.last.is_none_or(|last| now.since(last) >= IDLE) {
            self.small_left = SMALL_BYTES;
        }
        self.last = Some(now);
        let plain_max = if self.small_left > 0 { RECORD_PLAIN_SMALL } else { RECORD_PLAIN_MAX };
        self.append_within(layer, block, plain_max, sends)
    }

    /// Appends a frame from a backlog, where records are as large as they may be.
    pub fn append_backlog(&mut self, layer: &mut RecordLayer, block: &[u8], now: Tick, sends: &mut SendPool) -> bool {
        self.last = Some(now);
        self.append_within(layer, block, RECORD_PLAIN_MAX, sends)
    }

    /// Appends a super-frame whose bytes are `pieces`, as [`Self::append`] or, with `backlog`, [`Self::append_backlog`] does
    /// a frame. It may go over several records. `false` if the buffer has no room for all of it.
    pub fn append_super<'a>(
        &mut self,
        layer: &mut RecordLayer,
        block: SuperBlock,
        pieces: impl Iterator<Item = &'a [u8]>,
        now: Tick,
        sends: &mut SendPool,
        backlog: bool,
    ) -> bool {
        if backlog {
            self.small_left = 0;
        } else if self.last.is_none_or(|last| now.since(last) >= IDLE) {
            self.small_left = SMALL_BYTES;
        }
        self.last = Some(now);
        let mut pieces = Pieces { rest: &[], more: pieces };
        let mark = enframe::super_mark(block.segment_bytes);
        if self.buf.as_ref().is_some_and(|buf| buf.capacity() < SEND_BYTES) {
            self.lengthen(layer, sends);
        }
        let joined = match (&mut self.open, &mut self.buf) {
            (Some(open), Some(buf)) => {
                let area = &mut buf.storage_mut()[open.at..open.limit];
                open.batch.push_marked(area, mark, block.len, |out| Some(pieces.fill(out)))
            }
            _ => false,
        };
        let fits = joined || self.span(layer, block, mark, &mut pieces, sends);
        if fits {
            self.frames += block.wire.0;
            self.bytes += block.wire.1;
        }
        fits
    }

    /// Puts a super-frame into records of its own.
    fn span<'a>(
        &mut self,
        layer: &mut RecordLayer,
        block: SuperBlock,
        mark: u32,
        pieces: &mut Pieces<'a, impl Iterator<Item = &'a [u8]>>,
        sends: &mut SendPool,
    ) -> bool {
        // A record that cannot be sealed shows at the flush, which closes the connection.
        if self.close_record(layer).is_err() {
            return false;
        }
        let buf = self.buf.get_or_insert_with(|| sends.take());
        if buf.end() + super_len_after(block.len, self.small_left) > frames_end(buf) {
            return false;
        }
        let mut left = batch_len(block.len);
        while left > 0 {
            let Some(buf) = &mut self.buf else { return false };
            let plain = left.min(if self.small_left > 0 { RECORD_PLAIN_SMALL } else { RECORD_PLAIN_MAX });
            let at = buf.end() + layer.prefix_len();
            let mut area = &mut buf.storage_mut()[at..at + plain];
            if left == batch_len(block.len) {
                let (words, rest) = area.split_at_mut(2 * enframe::WORD_BYTES);
                let size = u32::try_from(block.len).unwrap_or(u32::MAX);
                words[..enframe::WORD_BYTES].copy_from_slice(&1u32.to_be_bytes());
                words[enframe::WORD_BYTES..].copy_from_slice(&(size | mark).to_be_bytes());
                area = rest;
            }
            pieces.fill(area);
            if self.seal_at_end(layer, plain).is_err() {
                return false;
            }
            left -= plain;
        }
        true
    }

    fn append_within(&mut self, layer: &mut RecordLayer, block: &[u8], plain_max: usize, sends: &mut SendPool) -> bool {
        let fits = self.copy_in(layer, block, plain_max, sends);
        if fits {
            self.frames += 1;
            self.bytes += block.len() as u64;
        }
        fits
    }

    /// The one copy of a frame.
    #[inline]
    fn copy_in(&mut self, layer: &mut RecordLayer, block: &[u8], plain_max: usize, sends: &mut SendPool) -> bool {
        if let (Some(open), Some(buf)) = (&mut self.open, &mut self.buf)
            && open.batch.push(&mut buf.storage_mut()[open.at..open.limit], block)
        {
            return true;
        }
        self.copy_into_next(layer, block, plain_max, sends)
    }

    /// The same where the record under construction has no room, or there is none.
    #[inline(never)]
    fn copy_into_next(
        &mut self,
        layer: &mut RecordLayer,
        block: &[u8],
        plain_max: usize,
        sends: &mut SendPool,
    ) -> bool {
        if self.open.as_ref().is_none_or(|open| open.limit == open.at + open.plain) {
            // A record that cannot be sealed shows at the flush, which closes the connection.
            if self.close_record(layer).is_err() {
                return false;
            }
            if self.begin_record(layer, block, plain_max.max(batch_len(block.len())), sends) {
                return true;
            }
        }
        // It is the buffer that has no room.
        self.lengthen(layer, sends) && self.copy_in(layer, block, plain_max, sends)
    }

    /// Begins a record of at most `plain` bytes with `block`; `false` if the buffer has no room.
    fn begin_record(&mut self, layer: &RecordLayer, block: &[u8], plain: usize, sends: &mut SendPool) -> bool {
        let buf = self.buf.get_or_insert_with(|| sends.take_short());
        let at = buf.end() + layer.prefix_len();
        let Some(room) = frames_end(buf).checked_sub(at + layer.suffix_len()) else { return false };
        if room < plain.min(batch_len(BLOCK_BYTES_MAX)) {
            return false;
        }
        let limit = at + plain.min(room);
        let area = &mut buf.storage_mut()[at..limit];
        let mut batch = Batch::begin(area);
        if !batch.push(area, block) {
            return false;
        }
        self.open = Some(OpenRecord { at, limit, plain, batch });
        true
    }

    /// Goes on in a long buffer; `false` if it is one.
    fn lengthen(&mut self, layer: &RecordLayer, sends: &mut SendPool) -> bool {
        let Some(buf) = self.buf.as_mut().filter(|buf| buf.capacity() < SEND_BYTES) else { return false };
        let mut other = sends.take();
        buf.move_into(&mut other);
        sends.give(other);
        if let Some(open) = &mut self.open {
            let room = frames_end(buf) - open.at - layer.suffix_len();
            open.limit = open.at + open.plain.min(room);
        }
        true
    }

    /// Seals the record under construction, if any.
    fn close_record(&mut self, layer: &mut RecordLayer) -> Result<(), CloseReason> {
        let (Some(open), Some(buf)) = (self.open.take(), &mut self.buf) else { return Ok(()) };
        let len = open.batch.finish(&mut buf.storage_mut()[open.at..open.limit]);
        self.seal_at_end(layer, len)
    }

    /// Seals `len` bytes of plaintext that stand behind the prefix at the end of the buffer.
    fn seal_at_end(&mut self, layer: &mut RecordLayer, len: usize) -> Result<(), CloseReason> {
        let buf = self.buf.as_mut().expect("a record to seal has a buffer");
        let start = buf.end();
        let sealed = layer.seal(&mut buf.storage_mut()[start..], len)?;
        buf.set_end(start + sealed);
        self.records += 1;
        self.small_left = self.small_left.saturating_sub(len);
        Ok(())
    }

    /// Bytes in what was built so far.
    pub fn used(&self) -> usize {
        self.buf.as_ref().map_or(0, |buf| self.open.as_ref().map_or(buf.end(), |open| open.at + open.batch.used()))
    }

    /// Whether the buffer has room for any frame, or for a super-frame of `len` bytes if that is longer.
    pub fn has_room(&self, layer: &RecordLayer, len: usize) -> bool {
        if len > BLOCK_BYTES_MAX {
            let Some(buf) = &self.buf else { return true };
            let used = self.open.as_ref().map_or(buf.end(), |open| open.limit + layer.suffix_len());
            return used + super_len(len) <= SEND_BYTES - CONTROL_BYTES_MAX;
        }
        let Some(buf) = self.buf.as_ref().filter(|buf| buf.capacity() == SEND_BYTES) else { return true };
        let used = match &self.open {
            Some(open) if open.batch.room(open.limit - open.at) >= BLOCK_BYTES_MAX => return true,
            Some(open) => open.limit + layer.suffix_len(),
            None => buf.end(),
        };
        used + RECORD_OVERHEAD_MAX + batch_len(BLOCK_BYTES_MAX) <= frames_end(buf)
    }

    /// Puts a key update, or an answer to one, behind what was built so far.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn control(&mut self, layer: &mut RecordLayer, sends: &mut SendPool) -> Result<(), CloseReason> {
        self.close_record(layer)?;
        let buf = self.buf.get_or_insert_with(|| sends.take_short());
        let (start, before) = (buf.end(), layer.key_updates());
        let len = layer.control(&mut buf.storage_mut()[start..])?;
        buf.set_end(start + len);
        self.records += 1;
        self.key_updates += layer.key_updates() - before;
        Ok(())
    }

    /// Puts a keep-alive of 0 to 511 bytes into a record of its own, unless something else is being built,
    /// which does as well. Returns whether there is something to flush.
    pub fn keep_alive(&mut self, layer: &mut RecordLayer, random: u64, sends: &mut SendPool) -> bool {
        if self.is_building() {
            return true;
        }
        let padding = [0; 511];
        let len = usize::try_from(random & 511).expect("nine bits fit").min(padding.len());
        let buf = self.buf.get_or_insert_with(|| sends.take_short());
        let at = buf.end() + layer.prefix_len();
        let len = enframe::keep_alive(&mut buf.storage_mut()[at..], &padding[..len]);
        // A record that cannot be sealed shows at the next data, which closes the connection.
        self.seal_at_end(layer, len).is_ok()
    }

    /// Whether there is something to seal or to send.
    pub fn is_building(&self) -> bool {
        self.open.is_some() || self.buf.as_ref().is_some_and(|buf| !buf.pending().is_empty())
    }

    /// Seals what is open and gives the buffer away; `None` if there is nothing.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn seal(&mut self, layer: &mut RecordLayer) -> Result<Option<Flushed>, CloseReason> {
        self.close_record(layer)?;
        let Some(buf) = self.buf.take_if(|buf| !buf.pending().is_empty()) else { return Ok(None) };
        let (records, frames, bytes) = (self.records, self.frames, self.bytes);
        let key_updates = std::mem::take(&mut self.key_updates);
        let flushed = Flushed { buf, records, frames, bytes, key_updates, late: 0 };
        (self.records, self.frames, self.bytes) = (0, 0, 0);
        Ok(Some(flushed))
    }

    /// Frames in what was built.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Gives up what was built.
    pub fn abandon(&mut self) -> Option<SendBuf> {
        self.open = None;
        self.buf.take()
    }
}

/// Bytes that lie in pieces, read in order.
struct Pieces<'a, I> {
    rest: &'a [u8],
    more: I,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Pieces<'a, I> {
    /// Fills `out` as far as there is something; says how far.
    fn fill(&mut self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < out.len() {
            if self.rest.is_empty() {
                let Some(next) = self.more.next() else { break };
                self.rest = next;
            }
            let (now, later) = self.rest.split_at(self.rest.len().min(out.len() - filled));
            out[filled..filled + now.len()].copy_from_slice(now);
            filled += now.len();
            self.rest = later;
        }
        filled
    }
}
