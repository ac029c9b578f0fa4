//! The kernel's side of the rings, honest unless a test reaches past it.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use crate::sys::umem::{Purpose, Umem};
use crate::sys::xsk::frames::{Frames, METADATA_ROOM_BYTES, Rings, Sending};
use crate::sys::xsk::rings::{
    ADDRESS_BYTES, CONTINUED, CompletionRing, DESCRIPTOR_BYTES, FillRing, RingMemory, RxRing, TxRing,
};

/// As in the kernel: in front of what is received.
pub(super) const HEADROOM: u64 = 256;

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) options: u32,
}

/// The other side of a ring.
pub(super) struct Side {
    pub(super) memory: RingMemory,
    /// Where this side is.
    at: u32,
}

impl Side {
    fn new(memory: &RingMemory) -> Self {
        Self { memory: memory.clone(), at: memory.producer().load(Ordering::Relaxed) }
    }

    fn place(&self) -> u32 {
        self.at & (self.memory.entries() - 1)
    }

    /// Takes the next place.
    pub(super) fn take(&mut self) -> Option<Descriptor> {
        if self.at == self.memory.producer().load(Ordering::Acquire) {
            return None;
        }
        let place = self.place();
        self.at = self.at.wrapping_add(1);
        let address = self.memory.long(place, 0).load(Ordering::Relaxed);
        let descriptor = match self.is_of_frames() {
            true => {
                let word = |at| self.memory.word(place, at).load(Ordering::Relaxed);
                Descriptor { address, len: word(8), options: word(12) }
            }
            false => Descriptor { address, len: 0, options: 0 },
        };
        self.memory.consumer().store(self.at, Ordering::Release);
        Some(descriptor)
    }

    /// Fills the next place; `false` if there is none.
    pub(super) fn put(&mut self, descriptor: Descriptor) -> bool {
        let waiting = self.at.wrapping_sub(self.memory.consumer().load(Ordering::Acquire));
        if waiting >= self.memory.entries() {
            return false;
        }
        self.write(descriptor);
        self.at = self.at.wrapping_add(1);
        self.memory.producer().store(self.at, Ordering::Release);
        true
    }

    /// Writes to the next place, whoever it belongs to.
    pub(super) fn write(&self, descriptor: Descriptor) {
        let place = self.place();
        self.memory.long(place, 0).store(descriptor.address, Ordering::Relaxed);
        if self.is_of_frames() {
            self.memory.word(place, 8).store(descriptor.len, Ordering::Relaxed);
            self.memory.word(place, 12).store(descriptor.options, Ordering::Relaxed);
        }
    }

    /// Moves to `at`.
    pub(super) fn jump_to(&mut self, at: u32) {
        self.at = at;
    }

    fn is_of_frames(&self) -> bool {
        self.memory.place_bytes() == DESCRIPTOR_BYTES
    }
}

/// All rings.
pub(super) struct Kernel {
    pub(super) fill: Side,
    pub(super) rx: Side,
    pub(super) tx: Side,
    pub(super) completion: Side,
    /// Chunks taken from the fill ring.
    pub(super) empty: Vec<u64>,
    /// By chunk: in the kernel's hands.
    held: Vec<bool>,
    chunk_bytes: u64,
}

/// Sizes of a rig.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) rx_chunks: u32,
    pub(super) tx_chunks: u32,
    pub(super) chunk_bytes: u32,
    /// Where the indices begin.
    pub(super) first: u32,
    pub(super) offload: bool,
    pub(super) pieces_max: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        // Indices wrap soon.
        Self { rx_chunks: 64, tx_chunks: 64, chunk_bytes: 2048, first: u32::MAX - 100, offload: false, pieces_max: 17 }
    }
}

/// Both sides.
pub(super) fn rig(sizes: Sizes) -> (Frames, Kernel) {
    let (umem, chunks) = Umem::new(sizes.rx_chunks + sizes.tx_chunks, sizes.chunk_bytes).unwrap();
    let ring = |entries: u32, bytes| RingMemory::plain(entries.next_power_of_two(), bytes, sizes.first);
    let fill = ring(sizes.rx_chunks, ADDRESS_BYTES);
    let rx = ring(sizes.rx_chunks, DESCRIPTOR_BYTES);
    let tx = ring(sizes.tx_chunks, DESCRIPTOR_BYTES);
    let completion = ring(sizes.tx_chunks, ADDRESS_BYTES);
    let kernel = Kernel {
        fill: Side::new(&fill),
        rx: Side::new(&rx),
        tx: Side::new(&tx),
        completion: Side::new(&completion),
        empty: Vec::new(),
        held: vec![false; (sizes.rx_chunks + sizes.tx_chunks) as usize],
        chunk_bytes: u64::from(sizes.chunk_bytes),
    };
    let rings = Rings {
        fill: FillRing::new(fill),
        rx: RxRing::new(rx),
        tx: TxRing::new(tx),
        completion: CompletionRing::new(completion),
    };
    let metadata_room = if sizes.offload { METADATA_ROOM_BYTES } else { 0 };
    let sending = Sending { metadata_room, offload: sizes.offload, pieces_max: sizes.pieces_max };
    (Frames::new(umem, chunks, sizes.rx_chunks as usize, rings, sending), kernel)
}

impl Kernel {
    /// Takes what stands in the fill ring.
    pub(super) fn take_empty(&mut self) {
        while let Some(Descriptor { address, .. }) = self.fill.take() {
            assert_eq!(address % self.chunk_bytes, 0);
            self.hold(address);
            self.empty.push(address);
        }
    }

    /// Delivers a frame in pieces of at most `piece_bytes`; `false` without enough chunks or room.
    pub(super) fn deliver(&mut self, umem: &mut Umem, frame: &[u8], piece_bytes: usize) -> bool {
        let count = frame.len().div_ceil(piece_bytes).max(1);
        if self.empty.len() < count {
            self.take_empty();
        }
        if self.empty.len() < count {
            return false;
        }
        for number in 0..count {
            let piece = &frame[number * piece_bytes..frame.len().min((number + 1) * piece_bytes)];
            self.deliver_piece(umem, piece, number + 1 < count);
        }
        true
    }

    /// Delivers a piece.
    pub(super) fn deliver_piece(&mut self, umem: &mut Umem, piece: &[u8], more: bool) {
        let address = self.empty.pop().expect("no chunk to receive into") + HEADROOM;
        umem.write_as_kernel(address, piece);
        let options = if more { CONTINUED } else { 0 };
        self.let_go(address);
        let len = u32::try_from(piece.len()).unwrap();
        assert!(self.rx.put(Descriptor { address, len, options }), "the RX ring has room for every chunk");
    }

    /// Takes a piece to send.
    pub(super) fn take_piece(&mut self) -> Option<Descriptor> {
        let descriptor = self.tx.take()?;
        self.hold(descriptor.address);
        let offset = descriptor.address % self.chunk_bytes;
        assert!(descriptor.len > 0 && offset + u64::from(descriptor.len) <= self.chunk_bytes, "{descriptor:?}");
        Some(descriptor)
    }

    /// Takes a frame to send: its bytes, and its pieces.
    pub(super) fn take_frame(&mut self, umem: &Umem) -> Option<(Vec<u8>, Vec<Descriptor>)> {
        let (mut bytes, mut pieces) = (Vec::new(), Vec::new());
        loop {
            let Some(piece) = self.take_piece() else {
                assert!(pieces.is_empty(), "a frame without end");
                return None;
            };
            bytes.extend_from_slice(umem.read_as_kernel(piece.address, piece.len as usize));
            pieces.push(piece);
            if piece.options & CONTINUED == 0 {
                return Some((bytes, pieces));
            }
        }
    }

    /// Says that a piece is sent.
    pub(super) fn complete(&mut self, address: u64) {
        self.let_go(address);
        assert!(self.completion.put(Descriptor { address, len: 0, options: 0 }), "room for every chunk");
    }

    /// Believes that it has what the ledger says, and that nothing waits in the rings of either side.
    pub(super) fn settle(&mut self, umem: &Umem) {
        for side in [&mut self.fill, &mut self.tx] {
            let at = side.memory.producer().load(Ordering::Relaxed);
            side.memory.consumer().store(at, Ordering::Relaxed);
            side.jump_to(at);
        }
        for side in [&mut self.rx, &mut self.completion] {
            let at = side.memory.consumer().load(Ordering::Relaxed);
            side.memory.producer().store(at, Ordering::Relaxed);
            side.jump_to(at);
        }
        self.held.fill(false);
        self.empty = umem.lent(Purpose::Receive);
        for address in [self.empty.clone(), umem.lent(Purpose::Send)].concat() {
            self.hold(address);
        }
    }

    fn hold(&mut self, address: u64) {
        let held = &mut self.held[usize::try_from(address / self.chunk_bytes).unwrap()];
        assert!(!*held, "given to the kernel twice");
        *held = true;
    }

    fn let_go(&mut self, address: u64) {
        let held = &mut self.held[usize::try_from(address / self.chunk_bytes).unwrap()];
        assert!(*held, "the test lets go of what it does not have");
        *held = false;
    }
}

/// Numbers that look random and are the same each time (splitmix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap()
    }

    pub(super) fn word(&mut self) -> u32 {
        u32::try_from(self.roll() >> 32).unwrap()
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.roll().to_ne_bytes()).take(len).collect()
    }
}
