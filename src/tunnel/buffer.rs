//! Buffers of bytes on their way out, passed by value so that nobody else can touch them meanwhile.
#![forbid(unsafe_code)]

use super::egress::{SEND_BYTES, SEND_BYTES_SHORT};

/// Bytes to send. Owned by the back end while the send is in flight.
#[derive(Debug)]
pub struct SendBuf {
    storage: Box<[u8]>,
    /// `storage[start..end]` waits to be sent.
    start: usize,
    end: usize,
}

impl SendBuf {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { storage: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Bytes that wait to be sent.
    pub fn pending(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    /// Room in all, used or not.
    pub fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// End of what is filled; what is appended begins here.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Everything from the first byte of the storage, to write into.
    pub fn storage_mut(&mut self) -> &mut [u8] {
        &mut self.storage
    }

    /// Declares that the storage is filled up to `end`.
    ///
    /// # Panics
    /// If `end` lies outside the storage or before what was sent.
    pub fn set_end(&mut self, end: usize) {
        assert!(self.start <= end && end <= self.storage.len(), "end of a send buffer outside its storage");
        self.end = end;
    }

    /// Declares that the first `n` pending bytes were sent.
    ///
    /// # Panics
    /// If fewer than `n` bytes were pending.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.end - self.start, "more bytes sent than were pending");
        self.start += n;
    }

    /// Goes on in `larger`, which is empty: takes its storage and leaves it its own.
    ///
    /// # Panics
    /// If `larger` has less room.
    pub fn move_into(&mut self, larger: &mut Self) {
        larger.storage[..self.storage.len()].copy_from_slice(&self.storage);
        (larger.start, larger.end) = (self.start, self.end);
        std::mem::swap(self, larger);
        larger.clear();
    }

    /// Empties the buffer.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

/// Send buffers for re-use, of two lengths: most sends are short, and a flood to thousands has as many in flight.
#[derive(Debug, Default)]
pub struct SendPool {
    short: Vec<SendBuf>,
    long: Vec<SendBuf>,
}

impl SendPool {
    /// Buffers kept for re-use, short and long; those above are freed, so that a flood leaves little behind.
    const KEPT: [usize; 2] = [8192, 256];

    /// An empty buffer of [`SEND_BYTES_SHORT`].
    pub fn take_short(&mut self) -> SendBuf {
        self.short.pop().unwrap_or_else(|| SendBuf::with_capacity(SEND_BYTES_SHORT))
    }

    /// An empty buffer of [`SEND_BYTES`].
    pub fn take(&mut self) -> SendBuf {
        self.long.pop().unwrap_or_else(|| SendBuf::with_capacity(SEND_BYTES))
    }

    /// Takes a buffer back.
    pub fn give(&mut self, mut buf: SendBuf) {
        let short = buf.capacity() == SEND_BYTES_SHORT;
        let (free, kept) = if short { (&mut self.short, Self::KEPT[0]) } else { (&mut self.long, Self::KEPT[1]) };
        if free.len() < kept {
            buf.clear();
            free.push(buf);
        }
    }
}
