//! Frames in several pieces, checksums, and what is refused.
#![forbid(unsafe_code)]

use super::kernel::{Dice, Sizes, rig};
use crate::sys::xsk::frames::{FRAME_BYTES_MAX, METADATA_BYTES, TxRefused};
use crate::sys::xsk::rings::{CONTINUED, HAS_METADATA};
use crate::wire::checksum::Sum;

const LARGE: Sizes =
    Sizes { rx_chunks: 256, tx_chunks: 64, chunk_bytes: 4096, first: u32::MAX - 9, offload: false, pieces_max: 17 };

#[test]
fn pieces_are_joined() {
    let (mut frames, mut kernel) = rig(LARGE);
    let mut dice = Dice(1);
    for pieces in 1..=18 {
        let lens = [(pieces - 1) * 3600 + 1, pieces * 3600];
        let wanted: Vec<_> = lens.iter().map(|len| dice.bytes(*len)).collect();
        wanted.iter().for_each(|frame| assert!(kernel.deliver(frames.umem(), frame, 3600)));
        assert_eq!(frames.receive(10), 2, "{pieces}");
        for (index, frame) in wanted.iter().enumerate() {
            assert_eq!(frames.peek(index).unwrap(), frame);
            assert_eq!(frames.frame(index).unwrap(), frame);
        }
        kernel.take_empty();
    }
    frames.receive(0);
    kernel.take_empty();
    assert_eq!(kernel.empty.len(), 256);
    assert_eq!(frames.faults(), Default::default());
}

#[test]
fn the_begin_of_a_frame_waits_for_its_end() {
    let (mut frames, mut kernel) = rig(LARGE);
    kernel.take_empty();
    kernel.deliver(frames.umem(), &[1; 5000], 3000);
    kernel.deliver_piece(frames.umem(), b"begin, ", true);
    assert_eq!(frames.receive(10), 1);
    assert_eq!(frames.peek(0).unwrap(), [1; 5000]);
    kernel.deliver_piece(frames.umem(), b"middle, ", true);
    assert_eq!(frames.receive(10), 0);
    assert_eq!(frames.receive(10), 0);
    kernel.deliver_piece(frames.umem(), b"end", false);
    kernel.deliver(frames.umem(), b"and another", 3000);
    kernel.deliver(frames.umem(), &[2; 5000], 3000);
    assert_eq!(frames.receive(10), 3);
    assert_eq!(frames.peek(0).unwrap(), b"begin, middle, end");
    assert_eq!(frames.peek(1).unwrap(), b"and another");
    assert_eq!(frames.peek(2).unwrap(), [2; 5000]);
    // What is full in between leaves the rest to the next call.
    kernel.deliver_piece(frames.umem(), b"a", true);
    kernel.deliver_piece(frames.umem(), b"b", false);
    kernel.deliver_piece(frames.umem(), b"c", false);
    assert_eq!(frames.receive(1), 1);
    assert_eq!(frames.peek(0).unwrap(), b"ab");
    assert_eq!(frames.receive(1), 1);
    assert_eq!(frames.peek(0).unwrap(), b"c");
}

#[test]
fn frames_that_are_too_long_are_dropped_and_counted() {
    let (mut frames, mut kernel) = rig(LARGE);
    for (frame, piece_bytes, is_taken) in [
        (vec![1; 18], 1, true),
        (vec![2; 19], 1, false),
        (vec![3; FRAME_BYTES_MAX], 3700, true),
        (vec![4; FRAME_BYTES_MAX + 1], 3700, false),
        (vec![5; 200], 1, false),
    ] {
        let before = frames.faults().oversize;
        assert!(kernel.deliver(frames.umem(), &frame, piece_bytes));
        assert!(kernel.deliver(frames.umem(), b"the next one", 100));
        assert_eq!(frames.receive(10), 1 + usize::from(is_taken));
        assert_eq!(frames.faults().oversize, before + u64::from(!is_taken));
        if is_taken {
            assert_eq!(frames.peek(0).unwrap(), frame);
        }
        assert_eq!(frames.peek(usize::from(is_taken)).unwrap(), b"the next one");
        frames.receive(0);
    }
    kernel.take_empty();
    assert_eq!((kernel.empty.len(), frames.faults().bad_descriptors), (256, 0));
}

#[test]
fn many_long_frames_take_several_calls() {
    let (mut frames, mut kernel) = rig(LARGE);
    for number in 0..12u8 {
        assert!(kernel.deliver(frames.umem(), &vec![number; 60_000], 3840));
    }
    let (mut next, mut calls) = (0u8, 0);
    while next < 12 {
        let got = frames.receive(usize::MAX);
        assert!(got > 0);
        for index in 0..got {
            assert_eq!(frames.peek(index).unwrap(), vec![next; 60_000]);
            next += 1;
        }
        calls += 1;
    }
    assert!(calls > 1 && frames.receive(usize::MAX) == 0);
}

#[test]
fn short_frames_come_as_they_are() {
    let (mut frames, mut kernel) = rig(Sizes::default());
    for frame in [&b""[..], b"1", b"thirteen byte"] {
        assert!(kernel.deliver(frames.umem(), frame, 100));
        assert_eq!(frames.receive(5), 1);
        assert_eq!(frames.peek(0).unwrap(), frame);
    }
}

#[test]
fn checksums_are_those_of_the_whole_frame() {
    let mut dice = Dice(7);
    for round in 0..3000 {
        let offload = round % 2 == 0;
        let (mut frames, mut kernel) = rig(Sizes { offload, ..Sizes::default() });
        let len = 60 + dice.below(6000);
        let mut frame = dice.bytes(len);
        let start = dice.below(frame.len() - 1);
        let offset = dice.below(frame.len() - start - 1);
        let end = frame.len();
        let cuts = [dice.below(end), dice.below(end)];
        let (a, b) = (cuts[0].min(cuts[1]), cuts[0].max(cuts[1]));
        frames.push(end, [&frame[..a], &frame[a..b], &frame[b..]].into_iter(), Some((start, offset))).unwrap();
        frames.rings.tx.submit();
        let (sent, pieces) = kernel.take_frame(frames.umem()).unwrap();
        let first = pieces[0];
        assert!(pieces.iter().rev().enumerate().all(|(n, piece)| (piece.options & CONTINUED == 0) == (n == 0)));
        assert!(pieces[1..].iter().all(|piece| piece.options & HAS_METADATA == 0));
        if first.options & HAS_METADATA == 0 {
            assert!(!offload || start + offset + 2 > 2016, "the kernel could have done it");
            let sum = Sum::ZERO.bytes(&frame[start..]).finish();
            let sum = if sum == 0 { 0xffff } else { sum };
            frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        } else {
            assert!(offload && start + offset + 2 <= first.len as usize);
            let metadata = frames.umem().read_as_kernel(first.address - METADATA_BYTES as u64, METADATA_BYTES);
            let mut wanted = 2u64.to_ne_bytes().to_vec();
            wanted.extend(u16::try_from(start).unwrap().to_ne_bytes());
            wanted.extend(u16::try_from(offset).unwrap().to_ne_bytes());
            wanted.resize(METADATA_BYTES, 0);
            assert_eq!(metadata, wanted);
        }
        assert!(sent == frame, "round {round}: {end} bytes from {start}, field {offset} behind");
    }
}

#[test]
fn what_cannot_be_sent_is_refused_and_takes_nothing() {
    let (mut frames, mut kernel) = rig(Sizes { pieces_max: 3, ..Sizes::default() });
    let bytes = [9; 10_000];
    let mut push = |len: usize, checksum| frames.push(len, std::iter::once(&bytes[..len]), checksum);
    assert_eq!(push(3 * 2048 + 1, None), Err(TxRefused::TooLong));
    assert_eq!(push(13, None), Err(TxRefused::TooShort));
    assert_eq!(push(0, None), Err(TxRefused::TooShort));
    assert_eq!(push(60, Some((34, 25))), Err(TxRefused::TooShort));
    assert_eq!(push(60, Some((usize::MAX, usize::MAX))), Err(TxRefused::TooShort));
    // 21 frames of three chunks each, and the last chunk.
    (0..21).for_each(|_| push(3 * 2048, None).unwrap());
    assert_eq!(push(2049, None), Err(TxRefused::Full));
    push(2048, None).unwrap();
    assert_eq!(push(14, None), Err(TxRefused::Full));
    frames.rings.tx.submit();
    assert_eq!(frames.rings.tx.waiting(), 64);
    for _ in 0..22 {
        let (sent, pieces) = kernel.take_frame(frames.umem()).unwrap();
        assert!(sent.iter().all(|byte| *byte == 9));
        pieces.iter().for_each(|piece| kernel.complete(piece.address));
    }
    // Room is found by asking for it.
    frames.push(14, std::iter::once(&bytes[..14]), None).unwrap();
    assert_eq!(frames.at_hand().1, 63);
}

#[test]
fn rings_have_a_place_for_every_chunk() {
    for count in [64, 65, 100, 4096] {
        let (mut frames, mut kernel) = rig(Sizes { rx_chunks: count, tx_chunks: count, ..Sizes::default() });
        // All at once in the fill ring, in the RX ring, lent, and back in the fill ring.
        kernel.take_empty();
        assert_eq!(kernel.empty.len(), count as usize);
        (0..count).for_each(|_| assert!(kernel.deliver(frames.umem(), b"x", 1)));
        assert_eq!(frames.receive(usize::MAX), count as usize);
        frames.receive(0);
        kernel.take_empty();
        assert_eq!(kernel.empty.len(), count as usize);
        // All at once in the TX ring, in the completion ring, free.
        (0..count).for_each(|_| frames.push(14, std::iter::once(&[0; 14][..]), None).unwrap());
        frames.rings.tx.submit();
        let pieces: Vec<_> = std::iter::from_fn(|| kernel.take_piece()).collect();
        pieces.iter().for_each(|piece| kernel.complete(piece.address));
        frames.reap();
        assert_eq!(frames.at_hand().1, count as usize);
    }
}

#[test]
fn frames_take_no_memory() {
    let (mut frames, mut kernel) = rig(Sizes { offload: true, ..Sizes::default() });
    let (mut passed, bytes) = (0, [1; 5000]);
    for round in 0..100 {
        let lens = [60, 1792, 1793, 5000];
        lens.iter().for_each(|len| assert!(kernel.deliver(frames.umem(), &bytes[..*len], 1792)));
        let used = allocation_counter::measure(|| {
            passed += frames.receive(64);
            assert!((0..4).all(|index| frames.frame(index).is_some()));
            for len in lens {
                let checksum = (len > 60).then_some((34, if round % 2 == 0 { 16 } else { 3000 % (len - 40) }));
                frames.push(len, [&bytes[..40], &bytes[40..len]].into_iter(), checksum).unwrap();
            }
            frames.rings.tx.submit();
            frames.reap();
        });
        assert_eq!(used.count_total, 0, "round {round}");
        while let Some(piece) = kernel.take_piece() {
            kernel.complete(piece.address);
        }
    }
    assert_eq!(passed, 400);
}
