//! UMEM: memory that is shared with the kernel for the frames of an AF_XDP socket, and who may touch which part of it.
//!
//! It is cut into equal chunks. A [`Chunk`] is the right to touch the bytes of one. It is spent when the chunk is given to
//! the kernel, and comes into being again when the kernel names the chunk *and* the ledger says that the kernel had it
//! for that purpose. So whatever the kernel writes into its rings, no chunk has two owners and no byte outside is touched.
#![allow(unsafe_code)]

use std::io;

use super::mmap::Mapping;

/// The right to touch one chunk.
#[derive(Debug)]
pub(super) struct Chunk {
    index: u32,
}

/// What the kernel has a chunk for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To put a received frame into it.
    Receive,
    /// To send what is in it.
    Send,
}

/// Who has a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Ours,
    Kernel(Purpose),
}

/// See the module text.
///
/// The kernel pins the pages when it registers them and reaches them by a mapping of its own. So unmapping ours takes
/// nothing from under it: what it may still write after the socket was closed goes to pages that are freed only when it
/// lets go of them.
#[derive(Debug)]
pub(super) struct Umem {
    memory: Mapping,
    chunk_bits: u32,
    /// By chunk.
    owners: Box<[Owner]>,
}

impl Umem {
    /// `count` chunks of `chunk_bytes`, a power of two; all are ours, and these are the rights to them.
    ///
    /// # Errors
    /// If there is no memory, or the sizes are none.
    pub(super) fn new(count: u32, chunk_bytes: u32) -> io::Result<(Self, Vec<Chunk>)> {
        if !chunk_bytes.is_power_of_two() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let memory = Mapping::anonymous(count as usize * chunk_bytes as usize)?;
        let owners = vec![Owner::Ours; count as usize].into_boxed_slice();
        let chunks = (0..count).map(|index| Chunk { index }).collect();
        Ok((Self { memory, chunk_bits: chunk_bytes.trailing_zeros(), owners }, chunks))
    }

    /// Address and length of all of it, for the kernel.
    pub(super) fn span(&self) -> (u64, u64) {
        let bytes = self.owners.len() << self.chunk_bits;
        (self.memory.at(0, bytes).as_ptr() as u64, bytes as u64)
    }

    /// Bytes of a chunk.
    pub(super) fn chunk_bytes(&self) -> usize {
        1 << self.chunk_bits
    }

    /// The kernel gets `chunk`; this is where it begins, counted from the begin of the UMEM.
    #[inline]
    pub(super) fn give(&mut self, chunk: Chunk, purpose: Purpose) -> u64 {
        self.owners[chunk.index as usize] = Owner::Kernel(purpose);
        u64::from(chunk.index) << self.chunk_bits
    }

    /// The kernel gives back the chunk that `address` lies in, having had it for `purpose`: the right to it, and how
    /// far behind its begin the address is. `None` if that cannot be.
    #[inline]
    pub(super) fn take_back(&mut self, address: u64, purpose: Purpose) -> Option<(Chunk, usize)> {
        let index = u32::try_from(address >> self.chunk_bits).ok()?;
        let owner = self.owners.get_mut(index as usize)?;
        if *owner != Owner::Kernel(purpose) {
            return None;
        }
        *owner = Owner::Ours;
        let offset = address & ((1 << self.chunk_bits) - 1);
        Some((Chunk { index }, usize::try_from(offset).ok()?))
    }

    /// Whether the kernel has the chunk that `address` lies in, for `purpose`, and `len` bytes from there on are inside.
    #[inline]
    pub(super) fn is_lent(&self, address: u64, len: u32, purpose: Purpose) -> bool {
        let chunk_bytes = 1 << self.chunk_bits;
        let owner = usize::try_from(address >> self.chunk_bits).ok().and_then(|index| self.owners.get(index));
        owner == Some(&Owner::Kernel(purpose)) && (address & (chunk_bytes - 1)) + u64::from(len) <= chunk_bytes
    }

    /// The bytes of `chunk`.
    #[inline]
    pub(super) fn bytes(&self, chunk: &Chunk) -> &[u8] {
        let (base, len) = self.place(chunk);
        // SAFETY: `place` checked that the bytes lie inside and are ours, so the kernel does not write them; zeroed by
        // mmap, so initialised. Giving the chunk away or writing to it needs `&mut self`.
        unsafe { std::slice::from_raw_parts(base, len) }
    }

    /// The bytes of `chunk`, to be changed.
    #[inline]
    pub(super) fn bytes_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        let (base, len) = self.place(chunk);
        // SAFETY: as in `bytes`; the only reference into the memory, by `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(base, len) }
    }

    /// # Panics
    /// If the chunk is not ours: a right to a chunk of another UMEM.
    fn place(&self, chunk: &Chunk) -> (*mut u8, usize) {
        let (index, len) = (chunk.index as usize, self.chunk_bytes());
        assert!(self.owners[index] == Owner::Ours, "a chunk that the kernel has");
        (self.memory.at(index << self.chunk_bits, len).as_ptr(), len)
    }

    /// How many chunks are ours, for reception, for sending.
    #[cfg(test)]
    pub(super) fn census(&self) -> (usize, usize, usize) {
        let count = |owner| self.owners.iter().filter(|found| **found == owner).count();
        (count(Owner::Ours), count(Owner::Kernel(Purpose::Receive)), count(Owner::Kernel(Purpose::Send)))
    }

    /// Begins of the chunks that the kernel has for `purpose`.
    #[cfg(test)]
    pub(super) fn lent(&self, purpose: Purpose) -> Vec<u64> {
        let places = (0u64..).zip(&self.owners).filter(|(_, owner)| **owner == Owner::Kernel(purpose));
        places.map(|(index, _)| index << self.chunk_bits).collect()
    }

    /// What the kernel does with memory it has: it writes `bytes` at `address`.
    ///
    /// # Panics
    /// If they do not lie in one chunk that the kernel has.
    #[cfg(test)]
    pub(super) fn write_as_kernel(&mut self, address: u64, bytes: &[u8]) {
        let place = self.place_of_kernel(address, bytes.len());
        // SAFETY: inside the memory, and by `&mut self` there is no reference to it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
    }

    /// What the kernel reads, as in [`Self::write_as_kernel`].
    #[cfg(test)]
    pub(super) fn read_as_kernel(&self, address: u64, len: usize) -> &[u8] {
        let place = self.place_of_kernel(address, len);
        // SAFETY: inside the memory, initialised, and changed only by `&mut self`.
        unsafe { std::slice::from_raw_parts(place, len) }
    }

    #[cfg(test)]
    fn place_of_kernel(&self, address: u64, len: usize) -> *mut u8 {
        let address = usize::try_from(address).unwrap();
        let (first, last) = (address >> self.chunk_bits, (address + len.max(1) - 1) >> self.chunk_bits);
        assert!(first == last && self.owners[first] != Owner::Ours, "not the kernel's");
        self.memory.at(address, len).as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_once_for_what_it_was_given() {
        let (mut umem, mut chunks) = Umem::new(4, 2048).unwrap();
        let chunk = chunks.pop().unwrap();
        umem.bytes_mut(&chunk)[2047] = 7;
        let address = umem.give(chunk, Purpose::Receive);
        assert_eq!((address, umem.census()), (3 * 2048, (3, 1, 0)));
        assert!(umem.take_back(address, Purpose::Send).is_none(), "given to receive");
        assert!(umem.take_back(address - 2048, Purpose::Receive).is_none(), "ours");
        assert!(umem.take_back(4 * 2048, Purpose::Receive).is_none(), "behind the end");
        assert!(umem.take_back(u64::MAX, Purpose::Receive).is_none());
        assert!(umem.is_lent(address + 256, 1792, Purpose::Receive));
        assert!(!umem.is_lent(address + 256, 1793, Purpose::Receive), "beyond the chunk");
        assert!(!umem.is_lent(address + 256, u32::MAX, Purpose::Receive));
        let (chunk, offset) = umem.take_back(address + 256, Purpose::Receive).unwrap();
        assert_eq!((offset, umem.bytes(&chunk)[2047], umem.census()), (256, 7, (4, 0, 0)));
        assert!(umem.take_back(address, Purpose::Receive).is_none(), "a second time");
    }

    #[test]
    #[should_panic(expected = "a chunk that the kernel has")]
    fn the_right_to_a_chunk_of_another_umem_is_found_out() {
        let (mut umem, mut chunks) = Umem::new(1, 2048).unwrap();
        let (_, others) = Umem::new(1, 2048).unwrap();
        umem.give(chunks.pop().unwrap(), Purpose::Send);
        umem.bytes(&others[0]);
    }

    #[test]
    fn odd_sizes_are_refused() {
        assert!(Umem::new(4, 3000).is_err());
        assert!(Umem::new(0, 2048).is_err());
    }
}
