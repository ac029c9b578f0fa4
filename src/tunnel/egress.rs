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
use super::enframe::{self, Batch};
use super::link::{Flushed, SendPool};
use crate::metrics::closes::CloseReason;
use crate::tick::Tick;
use crate::tls::layer::{CONTROL_BYTES_MAX, RecordLayer};
use crate::wire::ethernet::FRAME_BYTES_MAX;

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

/// Size of a send buffer: four full records. More gains little per system call; less and a fast member is
/// woken more often.
pub const SEND_BYTES: usize = 4 * (RECORD_PLAIN_MAX + RECORD_OVERHEAD_MAX) + CONTROL_BYTES_MAX;

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

    /// Whether the buffer has room for any frame.
    pub fn has_room(&self, layer: &RecordLayer) -> bool {
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
        let flushed = Flushed { buf, records, frames, bytes, key_updates: std::mem::take(&mut self.key_updates) };
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
