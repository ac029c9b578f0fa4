//! Frames in and out again, in generated order, against what is known of each.
#![forbid(unsafe_code)]

use super::kernel::{Descriptor, Dice, Kernel, Sizes, rig};
use crate::sys::xsk::frames::{Frames, TxRefused};
use crate::sys::xsk::rings::CONTINUED;

/// Of each of three runs: ten million together.
const FRAMES: u64 = 3_333_334;

/// What comes in goes out again.
struct Echo {
    frames: Frames,
    kernel: Kernel,
    sizes: Sizes,
    dice: Dice,
    /// Numbers of the next frame that the kernel delivers, that we see, that the kernel sends.
    delivered: u64,
    seen: u64,
    sent: u64,
    /// Pieces that the kernel has taken and not completed.
    under_way: Vec<Descriptor>,
    /// Of the frame that the kernel is taking.
    begun: Vec<u8>,
    template: Vec<u8>,
    scratch: Vec<u8>,
}

impl Echo {
    fn new(sizes: Sizes, seed: u64) -> Self {
        let (frames, kernel) = rig(sizes);
        let mut dice = Dice(seed);
        let template = dice.bytes(10_000);
        Self {
            frames,
            kernel,
            sizes,
            dice,
            delivered: 0,
            seen: 0,
            sent: 0,
            under_way: Vec::new(),
            begun: Vec::new(),
            template,
            scratch: Vec::new(),
        }
    }

    /// Length of frame `number`: mostly short, some in several pieces, all lengths around the border.
    fn len(&self, number: u64) -> usize {
        let room = self.sizes.chunk_bytes as usize - 256;
        match number % 64 {
            0 => room - 8 + usize::try_from(number / 64 % 17).unwrap(),
            1 => 14 + usize::try_from(number / 64 % 6000).unwrap(),
            _ => 60,
        }
    }

    fn frame(&mut self, number: u64) -> Vec<u8> {
        let len = self.len(number);
        let from = usize::try_from(number % 1000).unwrap();
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        frame.extend_from_slice(&self.template[from..from + len]);
        frame[..8].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn is(&self, frame: &[u8], number: u64) -> bool {
        let from = usize::try_from(number % 1000).unwrap();
        let len = self.len(number);
        frame.len() == len && frame[..8] == number.to_be_bytes() && frame[8..] == self.template[from + 8..from + len]
    }

    fn kernel_receives(&mut self, count: usize) {
        for _ in 0..count {
            if self.kernel.empty.len() < 8 {
                self.kernel.take_empty();
            }
            let frame = self.frame(self.delivered);
            let room = self.sizes.chunk_bytes as usize - 256;
            let is_delivered = self.kernel.deliver(self.frames.umem(), &frame, room);
            self.scratch = frame;
            if !is_delivered {
                break;
            }
            self.delivered += 1;
        }
    }

    fn kernel_sends(&mut self, count: usize) {
        for _ in 0..count {
            let Some(piece) = self.kernel.take_piece() else { break };
            let bytes = self.frames.umem().read_as_kernel(piece.address, piece.len as usize);
            self.begun.extend_from_slice(bytes);
            if piece.options & CONTINUED == 0 {
                assert!(self.is(&self.begun, self.sent), "frame {} was changed on its way", self.sent);
                self.begun.clear();
                self.sent += 1;
            }
            self.under_way.push(piece);
        }
    }

    fn kernel_completes(&mut self, count: usize) {
        for _ in 0..count.min(self.under_way.len()) {
            let which = self.dice.below(self.under_way.len());
            let piece = self.under_way.swap_remove(which);
            self.kernel.complete(piece.address);
        }
    }

    fn echo(&mut self, max: usize) {
        let got = self.frames.receive(max);
        for index in 0..got {
            let number = self.seen + index as u64;
            // Taken out, since `push` needs all of `frames`; the lane has a burst of its own in between.
            let mut frame = std::mem::take(&mut self.scratch);
            frame.clear();
            frame.extend_from_slice(self.frames.peek(index).unwrap());
            assert!(self.is(&frame, number), "frame {number} came otherwise");
            let cut = self.dice.below(frame.len());
            while let Err(refused) = self.frames.push(frame.len(), [&frame[..cut], &frame[cut..]].into_iter(), None) {
                assert_eq!(refused, TxRefused::Full);
                self.frames.rings.tx.submit();
                self.kernel_sends(usize::MAX);
                self.kernel_completes(usize::MAX);
            }
            self.scratch = frame;
        }
        self.seen += got as u64;
        if self.dice.below(4) > 0 {
            self.frames.rings.tx.submit();
        }
    }

    fn check(&mut self) {
        let (rx, tx) = (self.sizes.rx_chunks as usize, self.sizes.tx_chunks as usize);
        let (ours, receive, send) = self.frames.umem().census();
        let (rx_ours, tx_ours) = self.frames.at_hand();
        assert_eq!((rx_ours + receive, tx_ours + send, rx_ours + tx_ours), (rx, tx, ours));
        assert_eq!(self.frames.faults(), Default::default());
    }
}

/// Generated operations until `FRAMES` have passed; then nothing is missing.
fn run(seed: u64, sizes: Sizes) {
    let mut echo = Echo::new(sizes, seed);
    while echo.sent < FRAMES {
        let count = 1 + echo.dice.below(96);
        match echo.dice.below(4) {
            0 => echo.kernel_receives(count),
            1 => echo.echo(count),
            2 => echo.kernel_sends(count),
            _ => echo.kernel_completes(count),
        }
        if count < 16 {
            echo.check();
        }
    }
    // Until nothing is under way.
    for _ in 0..10 {
        echo.echo(usize::MAX);
        echo.frames.rings.tx.submit();
        echo.kernel_sends(usize::MAX);
        echo.kernel_completes(usize::MAX);
    }
    echo.frames.receive(0);
    echo.frames.reap();
    echo.check();
    echo.kernel.take_empty();
    assert_eq!((echo.delivered, echo.seen), (echo.sent, echo.sent));
    assert_eq!(echo.kernel.empty.len(), sizes.rx_chunks as usize, "chunks for reception are lost");
    assert_eq!(echo.frames.at_hand(), (0, sizes.tx_chunks as usize), "chunks for sending are lost");
}

// Three tests, so that they run beside each other.

#[test]
fn every_frame_goes_in_and_out_in_order_and_no_chunk_is_lost() {
    run(1, Sizes::default());
}

#[test]
fn so_with_larger_chunks_and_rings_that_are_not_full() {
    run(2, Sizes { rx_chunks: 100, tx_chunks: 70, chunk_bytes: 4096, first: 0, ..Sizes::default() });
}

#[test]
fn so_with_metadata_and_unequal_rings() {
    run(3, Sizes { rx_chunks: 256, tx_chunks: 64, first: 0x7fff_ff00, offload: true, ..Sizes::default() });
}
