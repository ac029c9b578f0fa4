//! The four rings that an AF_XDP socket shares with the kernel.
//!
//! | Ring | who fills it | what stands in it |
//! |---|---|---|
//! | [`FillRing`] | we | chunks to receive into |
//! | [`RxRing`] | the kernel | frames received, or pieces of them |
//! | [`TxRing`] | we | frames to send, or pieces of them |
//! | [`CompletionRing`] | the kernel | chunks whose bytes are sent |
//!
//! A ring is two indices that grow and wrap at 2^32, each written by one side only, and a power of two of places. Who
//! fills it stores the places first and the index then (release); who empties it reads the other way round (acquire).
//!
//! Indices and places that the other side writes are believed only so far: what an index says is limited to the size of the
//! ring, and a chunk is ours only if the ledger of the UMEM agrees. Every access is atomic, so that even another side that
//! writes out of turn makes wrong numbers and no undefined behaviour.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::sys::mmap::Mapping;
use crate::sys::umem::{Chunk, Purpose, Umem};

/// Chunks for the kernel to receive into.
#[derive(Debug)]
pub(super) struct FillRing(Producer);

impl FillRing {
    /// Over `memory`, of which nobody else fills the ring.
    pub(super) fn new(memory: RingMemory) -> Self {
        Self(Producer::new(memory))
    }

    /// Gives `chunk` to the kernel at the next [`Self::submit`]; back if the ring is full.
    #[inline]
    pub(super) fn give(&mut self, umem: &mut Umem, chunk: Chunk) -> Result<(), Chunk> {
        if !self.0.has_room(1) {
            return Err(chunk);
        }
        let place = self.0.place();
        self.0.memory.long(place, 0).store(umem.give(chunk, Purpose::Receive), Ordering::Relaxed);
        self.0.written = self.0.written.wrapping_add(1);
        Ok(())
    }

    /// Lets the kernel see what was given.
    #[inline]
    pub(super) fn submit(&mut self) {
        self.0.submit();
    }

    /// Whether the kernel has stopped taking chunks and wants to be told that there are some.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.0.memory.needs_wakeup()
    }
}

/// What the kernel received.
#[derive(Debug)]
pub(super) enum Received {
    /// `len` bytes, `at` bytes behind the begin of the chunk.
    Piece { chunk: Chunk, at: usize, len: usize, more: bool },
    /// A descriptor that cannot be true. Whether more of the same frame follows is all that is taken from it.
    Bad { more: bool },
}

/// What the kernel received.
#[derive(Debug)]
pub(super) struct RxRing(Consumer);

impl RxRing {
    /// Over `memory`, of which nobody else empties the ring.
    pub(super) fn new(memory: RingMemory) -> Self {
        Self(Consumer::new(memory))
    }

    /// Whether more of the same frame follows the next piece, without taking it; `None` if the ring is empty.
    #[inline]
    pub(super) fn peek_more(&mut self) -> Option<bool> {
        let place = self.0.peek()?;
        Some(self.0.memory.options(place) & CONTINUED != 0)
    }

    /// Takes the next piece.
    #[inline]
    pub(super) fn take(&mut self, umem: &mut Umem) -> Option<Received> {
        let place = self.0.peek()?;
        let memory = &self.0.memory;
        let address = memory.long(place, 0).load(Ordering::Relaxed);
        let len = memory.word(place, 8).load(Ordering::Relaxed);
        let more = memory.options(place) & CONTINUED != 0;
        self.0.read = self.0.read.wrapping_add(1);
        if !umem.is_lent(address, len, Purpose::Receive) {
            return Some(Received::Bad { more });
        }
        let Some((chunk, at)) = umem.take_back(address, Purpose::Receive) else { return Some(Received::Bad { more }) };
        Some(Received::Piece { chunk, at, len: len as usize, more })
    }

    /// Gives the places back that were taken from.
    #[inline]
    pub(super) fn release(&mut self) {
        self.0.release();
    }
}

/// What to send.
#[derive(Debug)]
pub(super) struct TxRing(Producer);

impl TxRing {
    /// Over `memory`, of which nobody else fills the ring.
    pub(super) fn new(memory: RingMemory) -> Self {
        Self(Producer::new(memory))
    }

    /// Whether this many places are free.
    #[inline]
    pub(super) fn has_room(&mut self, wanted: usize) -> bool {
        u32::try_from(wanted).is_ok_and(|wanted| self.0.has_room(wanted))
    }

    /// Gives `len` bytes of `chunk`, from `at` on, to the kernel at the next [`Self::submit`]; back if the ring is full.
    #[inline]
    pub(super) fn give(
        &mut self,
        umem: &mut Umem,
        chunk: Chunk,
        at: usize,
        len: usize,
        options: u32,
    ) -> Result<(), Chunk> {
        let (Ok(len), true) = (u32::try_from(len), self.0.has_room(1)) else { return Err(chunk) };
        let place = self.0.place();
        let memory = &self.0.memory;
        memory.long(place, 0).store(umem.give(chunk, Purpose::Send) + at as u64, Ordering::Relaxed);
        memory.word(place, 8).store(len, Ordering::Relaxed);
        memory.word(place, 12).store(options, Ordering::Relaxed);
        self.0.written = self.0.written.wrapping_add(1);
        Ok(())
    }

    /// Lets the kernel see what was given.
    #[inline]
    pub(super) fn submit(&mut self) {
        self.0.submit();
    }

    /// Pieces that the kernel has not taken.
    #[inline]
    pub(super) fn waiting(&self) -> u32 {
        self.0.waiting()
    }

    /// Whether the kernel sends only when it is told to.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.0.memory.needs_wakeup()
    }
}

/// Chunks whose bytes are sent.
#[derive(Debug)]
pub(super) struct CompletionRing(Consumer);

impl CompletionRing {
    /// Over `memory`, of which nobody else empties the ring.
    pub(super) fn new(memory: RingMemory) -> Self {
        Self(Consumer::new(memory))
    }

    /// The next chunk; `Err` if what the ring says cannot be true.
    #[inline]
    pub(super) fn take(&mut self, umem: &mut Umem) -> Option<Result<Chunk, ()>> {
        let place = self.0.peek()?;
        let address = self.0.memory.long(place, 0).load(Ordering::Relaxed);
        self.0.read = self.0.read.wrapping_add(1);
        Some(umem.take_back(address, Purpose::Send).map(|(chunk, _)| chunk).ok_or(()))
    }

    /// Gives the places back that were taken from.
    #[inline]
    pub(super) fn release(&mut self) {
        self.0.release();
    }
}

/// The side that fills a ring.
#[derive(Debug)]
struct Producer {
    memory: RingMemory,
    /// Places filled, of which the other side knows those up to `submitted`.
    written: u32,
    submitted: u32,
    /// How far the other side was when this was last looked at.
    read: u32,
}

impl Producer {
    fn new(memory: RingMemory) -> Self {
        let written = memory.producer().load(Ordering::Relaxed);
        let read = memory.consumer().load(Ordering::Acquire);
        Self { memory, written, submitted: written, read }
    }

    /// Whether `wanted` places are free; looks at the other side only if they do not seem to be.
    #[inline]
    fn has_room(&mut self, wanted: u32) -> bool {
        if self.room() >= wanted {
            return true;
        }
        // Acquire: what the other side has read of a place comes before what we write into it.
        self.read = self.memory.consumer().load(Ordering::Acquire);
        self.room() >= wanted
    }

    /// More than there are in the ring cannot wait: an index that says so leaves no room.
    #[inline]
    fn room(&self) -> u32 {
        self.memory.entries.saturating_sub(self.written.wrapping_sub(self.read))
    }

    #[inline]
    fn place(&self) -> u32 {
        self.written & (self.memory.entries - 1)
    }

    #[inline]
    fn submit(&mut self) {
        if self.submitted != self.written {
            self.submitted = self.written;
            // Release: the places come before the index that covers them.
            self.memory.producer().store(self.written, Ordering::Release);
        }
    }

    #[inline]
    fn waiting(&self) -> u32 {
        let read = self.memory.consumer().load(Ordering::Acquire);
        self.written.wrapping_sub(read).min(self.memory.entries)
    }
}

/// The side that empties a ring.
#[derive(Debug)]
struct Consumer {
    memory: RingMemory,
    /// Places emptied, of which the other side knows those up to `released`.
    read: u32,
    released: u32,
    /// How far the other side was when this was last looked at, at most the ring's size ahead.
    written: u32,
}

impl Consumer {
    fn new(memory: RingMemory) -> Self {
        let read = memory.consumer().load(Ordering::Relaxed);
        Self { memory, read, released: read, written: read }
    }

    /// The next place that is filled; looks at the other side only if none seems to be.
    #[inline]
    fn peek(&mut self) -> Option<u32> {
        if self.read == self.written {
            // Acquire: the index comes before the places that it covers.
            let written = self.memory.producer().load(Ordering::Acquire);
            let ahead = written.wrapping_sub(self.read).min(self.memory.entries);
            self.written = self.read.wrapping_add(ahead);
            if ahead == 0 {
                return None;
            }
        }
        Some(self.read & (self.memory.entries - 1))
    }

    #[inline]
    fn release(&mut self) {
        if self.released != self.read {
            self.released = self.read;
            // Release: what we read of the places comes before the index that gives them back.
            self.memory.consumer().store(self.read, Ordering::Release);
        }
    }
}

/// Where the parts of a ring lie in memory that both sides see.
#[derive(Clone, Debug)]
pub(super) struct RingMemory {
    mapping: Arc<Mapping>,
    /// Offset of what whoever fills the ring counts.
    producer: usize,
    /// Offset of what whoever empties it counts.
    consumer: usize,
    flags: usize,
    /// Offset of the first place.
    places: usize,
    place_bytes: usize,
    /// Number of places, a power of two.
    entries: u32,
}

impl RingMemory {
    /// The ring of an AF_XDP socket that is mapped at `from`, and has its parts where `offsets` says.
    ///
    /// # Errors
    /// Those of mmap(2); if the offsets are no places for such parts.
    pub(super) fn of_socket(
        fd: BorrowedFd<'_>,
        from: libc::off_t,
        offsets: &libc::xdp_ring_offset,
        entries: u32,
        place_bytes: usize,
    ) -> io::Result<Self> {
        let at = |offset: u64| usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let places = at(offsets.desc)?;
        let bytes = places.checked_add(entries as usize * place_bytes).ok_or(io::ErrorKind::InvalidData)?;
        let (producer, consumer, flags) = (at(offsets.producer)?, at(offsets.consumer)?, at(offsets.flags)?);
        let is_inside = [producer, consumer, flags].iter().all(|at| at.is_multiple_of(4) && *at <= bytes - 4);
        if !is_inside || !places.is_multiple_of(8) || !place_bytes.is_multiple_of(8) || !entries.is_power_of_two() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mapping = Arc::new(Mapping::shared(fd, from, bytes)?);
        Ok(Self { mapping, producer, consumer, flags, places, place_bytes, entries })
    }

    /// A ring in memory of ours, whose indices begin at `first`.
    #[cfg(test)]
    pub(super) fn plain(entries: u32, place_bytes: usize, first: u32) -> Self {
        let mapping = Arc::new(Mapping::anonymous(192 + entries as usize * place_bytes).unwrap());
        let ring = Self { mapping, producer: 0, consumer: 64, flags: 128, places: 192, place_bytes, entries };
        ring.producer().store(first, Ordering::Relaxed);
        ring.consumer().store(first, Ordering::Relaxed);
        ring
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    #[cfg(test)]
    pub(super) fn place_bytes(&self) -> usize {
        self.place_bytes
    }

    #[inline]
    pub(super) fn producer(&self) -> &AtomicU32 {
        self.word_at(self.producer)
    }

    #[inline]
    pub(super) fn consumer(&self) -> &AtomicU32 {
        self.word_at(self.consumer)
    }

    #[inline]
    pub(super) fn flags(&self) -> &AtomicU32 {
        self.word_at(self.flags)
    }

    /// The 64 bits `at` bytes behind the begin of a place.
    #[inline]
    pub(super) fn long(&self, place: u32, at: usize) -> &AtomicU64 {
        let address = self.mapping.at(self.places + place as usize * self.place_bytes + at, 8);
        // SAFETY: inside the mapping (`at`), which lives as long as `self`; aligned, as `places`, `place_bytes` and `at`
        // are multiples of 8; initialised, as mapped memory is; both sides access it by atomic operations only.
        unsafe { AtomicU64::from_ptr(address.cast().as_ptr()) }
    }

    /// The 32 bits `at` bytes behind the begin of a place.
    #[inline]
    pub(super) fn word(&self, place: u32, at: usize) -> &AtomicU32 {
        self.word_at(self.places + place as usize * self.place_bytes + at)
    }

    fn options(&self, place: u32) -> u32 {
        self.word(place, 12).load(Ordering::Relaxed)
    }

    /// Asked after an index was stored: one of both sides sees what the other did.
    fn needs_wakeup(&self) -> bool {
        fence(Ordering::SeqCst);
        self.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    #[inline]
    fn word_at(&self, offset: usize) -> &AtomicU32 {
        let address = self.mapping.at(offset, 4);
        // SAFETY: as in `long`; every offset is a multiple of 4, which `of_socket` checked.
        unsafe { AtomicU32::from_ptr(address.cast().as_ptr()) }
    }
}

/// Option of a descriptor: the frame goes on in the next one.
pub(super) const CONTINUED: u32 = libc::XDP_PKT_CONTD;
/// Option of a descriptor: metadata stand in front of the frame.
pub(super) const HAS_METADATA: u32 = libc::XDP_TX_METADATA;
/// Bytes of a place in the rings of chunks.
pub(super) const ADDRESS_BYTES: usize = 8;
/// Bytes of a place in the rings of frames.
pub(super) const DESCRIPTOR_BYTES: usize = size_of::<libc::xdp_desc>();
