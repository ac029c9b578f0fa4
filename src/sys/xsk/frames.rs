//! Frames over the rings: received ones are lent, frames to send are copied into free chunks. No system call.
//!
//! A received frame stays in its chunk until the next [`Frames::receive`], which gives it back to the kernel. A frame in
//! several pieces is joined in `joined`, and its chunks go back at once; its begin may wait there for a later call.
//!
//! **The kernel does not run out of chunks to receive into while there are some.** The fill ring has a place for every chunk
//! for reception: those in the ring, those the device has taken from it, those in the RX ring and those lent are the same
//! `rx_chunks`, so a chunk that comes back finds a place. The RX ring has as many, so the kernel finds one for each that
//! it fills. In the same way the completion ring has a place for every chunk for sending.
#![forbid(unsafe_code)]

use super::checksum;
use super::rings::{CONTINUED, CompletionRing, FillRing, HAS_METADATA, Received, RxRing, TxRing};
use crate::sys::umem::{Chunk, Umem};

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxRefused {
    /// All chunks for sending are in use: kick, and try again later.
    #[error("all room for frames to send is in use")]
    Full,
    /// It does not fit into as many chunks as a frame may have.
    #[error("longer than a frame may be")]
    TooLong,
    /// Shorter than an Ethernet header, or than where its checksum is to stand.
    #[error("shorter than its headers")]
    TooShort,
}

/// How frames are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sending {
    /// Room in front of each frame for metadata: [`METADATA_ROOM_BYTES`] or 0.
    pub(super) metadata_room: usize,
    /// Whether the kernel or the device finishes checksums that the metadata name.
    pub(super) offload: bool,
    /// How many chunks a frame may take.
    pub(super) pieces_max: usize,
}

/// The rings of a socket.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) fill: FillRing,
    pub(super) rx: RxRing,
    pub(super) tx: TxRing,
    pub(super) completion: CompletionRing,
}

/// What was found wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Descriptors of the kernel that cannot be true.
    pub(super) bad_descriptors: u64,
    /// Received frames in more pieces or bytes than a frame may have.
    pub(super) oversize: u64,
}

/// Where a received frame is.
#[derive(Debug)]
enum Frame {
    Lent { chunk: Chunk, at: usize, len: usize },
    Joined { from: usize, len: usize },
}

/// A frame of which not all pieces are there.
#[derive(Clone, Copy, Debug)]
struct Begun {
    /// Where in `joined`.
    from: usize,
    pieces: usize,
    /// A piece of it is lost, or it is too long: what follows of it is thrown away.
    is_spoiled: bool,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Frames {
    umem: Umem,
    pub(super) rings: Rings,
    sending: Sending,
    faults: Faults,
    /// Chunks for reception that found no place in the fill ring, which only a wrong index can cause.
    spare: Vec<Chunk>,
    received: Vec<Frame>,
    joined: Vec<u8>,
    begun: Option<Begun>,
    rx_chunks: usize,
    tx_chunks: usize,
    /// Chunks to send from; the one used last is the next, as its bytes are near.
    free: Vec<Chunk>,
    /// Chunks of the frame that [`Self::push`] is at.
    building: Vec<Chunk>,
}

impl Frames {
    /// Gives the first `rx_chunks` of `chunks` to the kernel and keeps the others for sending.
    pub(super) fn new(umem: Umem, mut chunks: Vec<Chunk>, rx_chunks: usize, rings: Rings, sending: Sending) -> Self {
        let mut free = Vec::with_capacity(chunks.len());
        free.extend(chunks.drain(rx_chunks.min(chunks.len())..));
        let mut frames = Self {
            umem,
            rings,
            sending,
            faults: Faults::default(),
            received: Vec::with_capacity(chunks.len()),
            rx_chunks: chunks.len(),
            tx_chunks: free.len(),
            spare: chunks,
            joined: Vec::with_capacity(JOINED_BYTES_MAX),
            begun: None,
            free,
            building: Vec::with_capacity(PIECES_MAX),
        };
        frames.refill();
        frames
    }

    /// What was found wrong so far.
    pub(super) fn faults(&self) -> Faults {
        self.faults
    }

    /// Settles what was not known before the socket was bound. Nothing may have been pushed before.
    pub(super) fn set_sending(&mut self, sending: Sending) {
        self.sending = sending;
    }

    /// Gives back what was lent, then takes whole frames, at most `max`; how many.
    pub(super) fn receive(&mut self, max: usize) -> usize {
        self.give_back();
        let max = max.min(self.rx_chunks);
        // As many as there can be in an honest ring: one who goes on and on cannot hold us here.
        for _ in 0..self.rx_chunks {
            let Some(more) = self.rings.rx.peek_more() else { break };
            let begins_joined = more && self.begun.is_none();
            if self.received.len() >= max || begins_joined && self.joined.len() + FRAME_BYTES_MAX > JOINED_BYTES_MAX {
                break;
            }
            let Some(received) = self.rings.rx.take(&mut self.umem) else { break };
            self.sort_in(received);
        }
        self.rings.rx.release();
        self.refill();
        self.received.len()
    }

    /// The bytes of the frame number `index` of those received last.
    pub(super) fn peek(&self, index: usize) -> Option<&[u8]> {
        match self.received.get(index)? {
            Frame::Lent { chunk, at, len } => self.umem.bytes(chunk).get(*at..at + len),
            Frame::Joined { from, len } => self.joined.get(*from..from + len),
        }
    }

    /// The same, to be changed.
    pub(super) fn frame(&mut self, index: usize) -> Option<&mut [u8]> {
        match self.received.get(index)? {
            Frame::Lent { chunk, at, len } => self.umem.bytes_mut(chunk).get_mut(*at..at + len),
            Frame::Joined { from, len } => self.joined.get_mut(*from..from + len),
        }
    }

    /// See [`super::Xsk::push`].
    pub(super) fn push<'a>(
        &mut self,
        bytes: usize,
        pieces: impl Iterator<Item = &'a [u8]>,
        checksum: Option<(usize, usize)>,
    ) -> Result<(), TxRefused> {
        self.take_chunks(bytes, checksum)?;
        let bytes = self.copy_in(bytes, pieces);
        let room = self.piece_bytes();
        let count = bytes.div_ceil(room);
        if bytes < ETHERNET_BYTES || checksum.is_some_and(|(start, offset)| start + offset + 2 > bytes) {
            self.free.append(&mut self.building);
            return Err(TxRefused::TooShort);
        }
        // More were taken than needed only if the pieces are shorter than was said.
        self.free.extend(self.building.drain(count..));
        let mut options = 0;
        if let Some((start, offset)) = checksum {
            // The kernel looks for the field in the first piece only.
            if self.sending.offload && start + offset + 2 <= bytes.min(room) {
                self.ask_for_checksum(start, offset);
                options = HAS_METADATA;
            } else {
                self.finish_checksum(bytes, start, offset);
            }
        }
        let at = self.sending.metadata_room;
        for (number, chunk) in self.building.drain(..).enumerate() {
            let more = if number + 1 < count { CONTINUED } else { 0 };
            let len = (bytes - number * room).min(room);
            if let Err(chunk) = self.rings.tx.give(&mut self.umem, chunk, at, len, options | more) {
                // `take_chunks` has seen that there is room.
                self.free.push(chunk);
            }
            options = 0;
        }
        Ok(())
    }

    /// Takes back the chunks whose bytes are sent.
    pub(super) fn reap(&mut self) {
        // As many as there can be in an honest ring.
        for _ in 0..self.tx_chunks {
            match self.rings.completion.take(&mut self.umem) {
                Some(Ok(chunk)) => self.free.push(chunk),
                Some(Err(())) => self.faults.bad_descriptors += 1,
                None => break,
            }
        }
        self.rings.completion.release();
    }

    fn give_back(&mut self) {
        for frame in self.received.drain(..) {
            if let Frame::Lent { chunk, .. } = frame {
                self.spare.push(chunk);
            }
        }
        match &mut self.begun {
            // Its begin goes where the next joined frame would.
            Some(begun) => {
                self.joined.drain(..begun.from);
                begun.from = 0;
            }
            None => self.joined.clear(),
        }
    }

    fn refill(&mut self) {
        while let Some(chunk) = self.spare.pop() {
            if let Err(chunk) = self.rings.fill.give(&mut self.umem, chunk) {
                self.spare.push(chunk);
                break;
            }
        }
        self.rings.fill.submit();
    }

    fn sort_in(&mut self, received: Received) {
        let (piece, more) = match received {
            Received::Piece { chunk, at, len, more: false } if self.begun.is_none() => {
                self.received.push(Frame::Lent { chunk, at, len });
                return;
            }
            Received::Piece { chunk, at, len, more } => (Some((chunk, at, len)), more),
            Received::Bad { more } => (None, more),
        };
        let from = self.joined.len();
        let begun = self.begun.get_or_insert(Begun { from, pieces: 0, is_spoiled: false });
        begun.pieces += 1;
        if let Some((chunk, at, len)) = piece {
            let is_too_long = begun.pieces > PIECES_MAX || self.joined.len() - begun.from + len > FRAME_BYTES_MAX;
            if is_too_long && !begun.is_spoiled {
                self.faults.oversize += 1;
                begun.is_spoiled = true;
            }
            if !begun.is_spoiled {
                self.joined.extend_from_slice(&self.umem.bytes(&chunk)[at..at + len]);
            }
            self.spare.push(chunk);
        } else {
            self.faults.bad_descriptors += 1;
            begun.is_spoiled = true;
        }
        if more {
            return;
        }
        let Begun { from, is_spoiled, .. } = *begun;
        self.begun = None;
        if is_spoiled {
            self.joined.truncate(from);
        } else {
            self.received.push(Frame::Joined { from, len: self.joined.len() - from });
        }
    }

    /// Bytes of a frame that fit into a chunk.
    fn piece_bytes(&self) -> usize {
        self.umem.chunk_bytes() - self.sending.metadata_room
    }

    /// Puts as many free chunks into `building` as `bytes` need.
    fn take_chunks(&mut self, bytes: usize, checksum: Option<(usize, usize)>) -> Result<(), TxRefused> {
        let checksum_end = checksum.map_or(0, |(start, offset)| start.saturating_add(offset).saturating_add(2));
        if bytes < ETHERNET_BYTES || bytes < checksum_end {
            return Err(TxRefused::TooShort);
        }
        let count = bytes.div_ceil(self.piece_bytes());
        if count > self.sending.pieces_max.min(PIECES_MAX) {
            return Err(TxRefused::TooLong);
        }
        if self.free.len() < count {
            self.reap();
        }
        if self.free.len() < count || !self.rings.tx.has_room(count) {
            return Err(TxRefused::Full);
        }
        self.building.extend(self.free.drain(self.free.len() - count..));
        Ok(())
    }

    /// Copies `pieces` into the chunks of `building`, at most `bytes`; how many.
    fn copy_in<'a>(&mut self, bytes: usize, pieces: impl Iterator<Item = &'a [u8]>) -> usize {
        let (room, at) = (self.piece_bytes(), self.sending.metadata_room);
        let (mut number, mut filled, mut copied) = (0, 0, 0);
        for mut piece in pieces {
            while !piece.is_empty() && copied < bytes {
                if filled == room {
                    (number, filled) = (number + 1, 0);
                }
                let len = piece.len().min(room - filled).min(bytes - copied);
                let (now, later) = piece.split_at(len);
                self.umem.bytes_mut(&self.building[number])[at + filled..][..len].copy_from_slice(now);
                (filled, copied, piece) = (filled + len, copied + len, later);
            }
        }
        debug_assert_eq!(copied, bytes, "the pieces have another length than was said");
        copied
    }

    /// Writes `struct xsk_tx_metadata` in front of the frame.
    fn ask_for_checksum(&mut self, start: usize, offset: usize) {
        let mut metadata = [0; METADATA_BYTES];
        metadata[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
        // Both lie inside a chunk, which is shorter than 2^16.
        metadata[8..10].copy_from_slice(&u16::try_from(start).unwrap_or(u16::MAX).to_ne_bytes());
        metadata[10..12].copy_from_slice(&u16::try_from(offset).unwrap_or(u16::MAX).to_ne_bytes());
        let end = self.sending.metadata_room;
        self.umem.bytes_mut(&self.building[0])[end - METADATA_BYTES..end].copy_from_slice(&metadata);
    }

    /// Sums up the frame from `start` on and puts the checksum where it belongs.
    fn finish_checksum(&mut self, bytes: usize, start: usize, offset: usize) {
        let (room, at) = (self.piece_bytes(), self.sending.metadata_room);
        let mut sum = checksum::Running::default();
        for (number, chunk) in self.building.iter().enumerate() {
            let first = number * room;
            let (from, to) = (start.max(first), bytes.min(first + room));
            if from < to {
                sum.add(&self.umem.bytes(chunk)[at + from - first..at + to - first]);
            }
        }
        for (place, byte) in (start + offset..).zip(sum.finish().to_be_bytes()) {
            self.umem.bytes_mut(&self.building[place / room])[at + place % room] = byte;
        }
    }
}

#[cfg(test)]
impl Frames {
    pub(super) fn umem(&mut self) -> &mut Umem {
        &mut self.umem
    }

    /// Chunks that are ours, by where they are: for reception, for sending.
    pub(super) fn at_hand(&self) -> (usize, usize) {
        let lent = self.received.iter().filter(|frame| matches!(frame, Frame::Lent { .. })).count();
        (lent + self.spare.len(), self.free.len())
    }
}

/// Pieces of a frame at most: what the kernel makes of the longest skb, 17 fragments behind a first part.
pub(super) const PIECES_MAX: usize = 18;
/// Bytes of a frame at most.
pub(super) const FRAME_BYTES_MAX: usize = 65_536;
/// Room for joined frames of one call; a frame is begun only if all of it will fit.
const JOINED_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;
/// `sizeof(struct xsk_tx_metadata)`.
pub(super) const METADATA_BYTES: usize = 24;
/// They stand directly in front of the frame; rounded up, so that headers lie as at the begin of a chunk.
pub(super) const METADATA_ROOM_BYTES: usize = 32;
const ETHERNET_BYTES: usize = 14;
