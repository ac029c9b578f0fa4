//! Buffers of bytes on their way out, passed by value so that nobody else can touch them meanwhile.
#![forbid(unsafe_code)]

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
