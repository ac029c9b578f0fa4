//! A kernel that writes anything into its rings: nothing panics, nothing outside is touched, and what the ledger still
//! allows works afterwards.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::kernel::{Descriptor, Dice, HEADROOM, Kernel, Sizes, rig};
use crate::sys::umem::Purpose;
use crate::sys::xsk::frames::{FRAME_BYTES_MAX, Frames};

const ROUNDS: usize = 50_000;

fn odd_address(dice: &mut Dice, frames: &mut Frames, sizes: Sizes) -> u64 {
    let all = u64::from(sizes.rx_chunks + sizes.tx_chunks) * u64::from(sizes.chunk_bytes);
    let purpose = if dice.below(2) == 0 { Purpose::Receive } else { Purpose::Send };
    let lent = frames.umem().lent(purpose);
    match dice.below(6) {
        0 => dice.roll(),
        1 => dice.roll() % all,
        2 => all + dice.roll() % 5000,
        3 => u64::MAX - dice.roll() % 5000,
        _ if lent.is_empty() => 0,
        // True, once.
        4 => lent[dice.below(lent.len())] + HEADROOM,
        _ => lent[dice.below(lent.len())] + dice.roll() % u64::from(sizes.chunk_bytes),
    }
}

fn odd_descriptor(dice: &mut Dice, frames: &mut Frames, sizes: Sizes) -> Descriptor {
    let len = match dice.below(4) {
        0 => dice.word(),
        1 => sizes.chunk_bytes + dice.word() % 3 - 1,
        _ => dice.word() % 1800,
    };
    let options = if dice.below(3) == 0 { dice.word() } else { dice.word() % 2 };
    Descriptor { address: odd_address(dice, frames, sizes), len, options }
}

fn lie(dice: &mut Dice, frames: &mut Frames, kernel: &mut Kernel, sizes: Sizes) {
    let descriptor = odd_descriptor(dice, frames, sizes);
    let jump = match dice.below(3) {
        0 => dice.word(),
        1 => dice.word() % 300,
        _ => 0u32.wrapping_sub(dice.word() % 300),
    };
    match dice.below(10) {
        0 | 1 => drop(kernel.rx.put(descriptor)),
        2 | 3 => drop(kernel.completion.put(descriptor)),
        4 => kernel.rx.write(descriptor),
        5 => kernel.completion.write(descriptor),
        6 => {
            let at = kernel.rx.memory.producer().fetch_add(jump, Ordering::Relaxed);
            kernel.rx.jump_to(at.wrapping_add(jump));
        }
        7 => {
            let at = kernel.completion.memory.producer().fetch_add(jump, Ordering::Relaxed);
            kernel.completion.jump_to(at.wrapping_add(jump));
        }
        8 => drop(kernel.fill.memory.consumer().fetch_add(jump, Ordering::Relaxed)),
        _ => drop(kernel.tx.memory.consumer().fetch_add(jump, Ordering::Relaxed)),
    }
}

fn use_frames(dice: &mut Dice, frames: &mut Frames, sizes: Sizes) {
    match dice.below(4) {
        0 => {
            let max = dice.below(100);
            let got = frames.receive(max);
            assert!(got <= max);
            for index in 0..got {
                let len = frames.peek(index).unwrap().len();
                assert!(len <= FRAME_BYTES_MAX);
                let frame = frames.frame(index).unwrap();
                assert_eq!(frame.len(), len);
                frame.fill(0xaa);
            }
            assert!(frames.peek(got).is_none() && frames.frame(got).is_none());
        }
        1 => {
            let len = 14 + dice.below(6000);
            let bytes = dice.bytes(len);
            let checksum = (bytes.len() > 100).then_some((34, 16));
            let _ = frames.push(bytes.len(), std::iter::once(bytes.as_slice()), checksum);
        }
        2 => frames.rings.tx.submit(),
        _ => frames.reap(),
    }
    assert!(frames.rings.tx.waiting() <= sizes.tx_chunks.next_power_of_two());
    let (ours, receive, send) = frames.umem().census();
    let (rx_ours, tx_ours) = frames.at_hand();
    assert_eq!(ours + receive + send, (sizes.rx_chunks + sizes.tx_chunks) as usize);
    assert_eq!((rx_ours + receive, tx_ours + send), (sizes.rx_chunks as usize, sizes.tx_chunks as usize));
}

/// Every chunk that the kernel has can come back, and then all is as at the begin.
fn recovers(frames: &mut Frames, kernel: &mut Kernel, sizes: Sizes) {
    // What was believed of the kernel's indices is used up first: full rings, to their ends.
    for side in [&kernel.rx, &kernel.completion] {
        let at = side.memory.consumer().load(Ordering::Relaxed);
        side.memory.producer().store(at.wrapping_add(side.memory.entries()), Ordering::Relaxed);
    }
    for _ in 0..10 {
        frames.receive(usize::MAX);
        frames.reap();
    }
    frames.receive(0);
    frames.rings.tx.submit();
    kernel.settle(frames.umem());
    let sent = frames.umem().lent(Purpose::Send);
    sent.iter().for_each(|address| kernel.complete(*address));
    frames.reap();
    assert_eq!(frames.at_hand().1, sizes.tx_chunks as usize);
    // Chunks for which there seemed to be no room find it.
    frames.receive(0);
    kernel.take_empty();
    // Ends a frame that a lie has begun.
    kernel.deliver_piece(frames.umem(), b"the end of something", false);
    frames.receive(1);
    frames.receive(0);
    for round in 0..4u8 {
        kernel.take_empty();
        let count = kernel.empty.len();
        assert_eq!(count, sizes.rx_chunks as usize);
        for number in 0..count {
            assert!(kernel.deliver(frames.umem(), &[round; 100][..number % 100], 1792));
        }
        assert_eq!(frames.receive(usize::MAX), count);
        for number in 0..count {
            assert_eq!(frames.peek(number).unwrap(), &[round; 100][..number % 100]);
        }
        frames.receive(0);
    }
    for _ in 0..200 {
        frames.push(60, std::iter::once([7; 60].as_slice()), None).unwrap();
        frames.rings.tx.submit();
        let (bytes, pieces) = kernel.take_frame(frames.umem()).unwrap();
        assert_eq!(bytes, [7; 60]);
        kernel.complete(pieces[0].address);
    }
}

#[test]
fn anything_in_the_rings_is_survived() {
    for seed in 0..4 {
        let sizes = Sizes { offload: seed % 2 == 0, ..Sizes::default() };
        let (mut frames, mut kernel) = rig(sizes);
        let mut dice = Dice(seed);
        for round in 0..ROUNDS {
            lie(&mut dice, &mut frames, &mut kernel, sizes);
            use_frames(&mut dice, &mut frames, sizes);
            if round % (ROUNDS / 4) == ROUNDS / 4 - 1 {
                recovers(&mut frames, &mut kernel, sizes);
            }
        }
        let faults = frames.faults();
        assert!(faults.bad_descriptors > 1000, "{faults:?}");
    }
}

#[test]
fn each_lie_is_counted_and_costs_nothing() {
    let (mut frames, mut kernel) = rig(Sizes::default());
    kernel.take_empty();
    let rx_end = 64 * 2048;
    let lies = [
        ("a chunk for sending, which we have", rx_end, 100),
        ("behind the end", 2 * rx_end, 100),
        ("far behind the end", u64::MAX, 100),
        ("longer than the chunk", 256, 1793),
        ("much longer", 256, u32::MAX),
    ];
    for (number, (what, address, len)) in (1..).zip(lies) {
        assert!(kernel.rx.put(Descriptor { address, len, options: 0 }));
        assert_eq!(frames.receive(10), 0, "{what}");
        assert_eq!(frames.faults().bad_descriptors, number, "{what}");
    }
    kernel.deliver_piece(frames.umem(), b"a frame", false);
    assert_eq!(frames.receive(10), 1);
    // The same again, while we have it.
    let again = 63 * 2048 + HEADROOM;
    assert!(kernel.rx.put(Descriptor { address: again, len: 7, options: 0 }));
    assert!(kernel.completion.put(Descriptor { address: again, len: 0, options: 0 }));
    assert_eq!(frames.peek(0).unwrap(), b"a frame");
    frames.reap();
    assert_eq!(frames.faults().bad_descriptors, 6);
    assert_eq!(frames.umem().census().1, 63);
}
