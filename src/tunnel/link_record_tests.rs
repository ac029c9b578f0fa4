//! What links put into records, take out of them and refuse.
#![forbid(unsafe_code)]

use super::*;
use crate::tunnel::enframe::BATCH_FRAMES_MAX;

// ---- bounds ----------------------------------------------------------------------------------------------

/// With connection 0, on which a send is in flight.
fn busy(settings: LinkSettings) -> (End, RecordLayer) {
    let (mut end, mut peer) = End::with_peer(settings);
    end.push(&frame(0, 0, 60));
    let bytes = end.flush(0, NOW);
    plaintexts(&mut peer, &bytes);
    (end, peer)
}

#[test]
fn a_queue_has_a_depth() {
    let (mut end, mut peer) = busy(LinkSettings { queue_depth: 3, ..settings() });
    let outcomes: Vec<Pushed> = (0..5).map(|n| end.push(&frame(1, n, 60))).collect();
    assert_eq!(
        outcomes,
        [Pushed::Waiting, Pushed::Waiting, Pushed::Waiting, replacing(1), replacing(1)],
        "the oldest make room"
    );
    assert_eq!((end.link.queued(), end.link.carried().dropped_out), (3, 2));
    assert!(end.link.sent(ConnKey(0), NOW).more);
    let bytes = end.flush(0, NOW);
    assert_eq!(plaintexts(&mut peer, &bytes).len(), 1, "one record for the backlog");
    assert_eq!(end.push(&frame(1, 6, 60)), Pushed::Waiting, "room again");
    assert!(end.link.flush(ConnKey(0), NOW, &mut end.pools).unwrap().is_none(), "one send at a time");
}

#[test]
fn the_depth_counts_all_connections_of_a_session() {
    let mut end = End::new(LinkSettings { queue_depth: 10, ..settings() });
    for key in 0..4 {
        end.attach(key, Way::BOTH, NOW);
    }
    end.poll(NOW);
    for key in 0..4 {
        end.flush(key, NOW);
    }
    let waiting = (0..100).filter(|n| end.push(&frame(*n, 0, 60)) == Pushed::Waiting).count();
    assert_eq!(waiting, 10);
}

#[test]
fn the_pool_is_shared_by_links_and_bounded() {
    let (mut one, _peer) = busy(settings());
    let (mut other, _peer) = busy(settings());
    let mut pools = Pools::new(8);
    let waiting = |end: &mut End, pools: &mut Pools| {
        (0..8).take_while(|n| end.link.push(&frame(1, *n, 60), NOW, pools) == Pushed::Waiting).count()
    };
    // Each may have no more than it leaves to the others.
    assert_eq!([waiting(&mut one, &mut pools), waiting(&mut other, &mut pools)], [4, 2]);
    assert_eq!(other.link.push(&frame(1, 3, 60), NOW, &mut pools), from_pool(1));
    let (mut third, _peer) = busy(settings());
    while pools.frames.store(&[0; 60]).is_some() {}
    assert_eq!(third.link.push(&frame(1, 3, 60), NOW, &mut pools), Pushed::Dropped(DropReason::EgressPoolEmpty));
}

#[test]
fn the_end_of_one_leaves_its_room_to_others() {
    let (mut one, _peer) = busy(settings());
    let (mut other, _peer) = busy(settings());
    let mut pools = Pools::new(3);
    assert_eq!(one.link.push(&frame(1, 3, 60), NOW, &mut pools), Pushed::Waiting);
    assert_eq!(other.link.push(&frame(1, 3, 60), NOW, &mut pools), Pushed::Waiting);
    assert_eq!(other.link.push(&frame(1, 4, 60), NOW, &mut pools), from_pool(1), "its own");
    one.link.detach(ConnKey(0), NOW, &mut pools);
    assert_eq!(other.link.push(&frame(1, 3, 60), NOW, &mut pools), Pushed::Waiting);
}

// ---- blocks ----------------------------------------------------------------------------------------------

#[test]
fn blocks_of_every_length() {
    let (mut end, mut peer) = End::with_peer(settings());
    let outcomes = [
        (1, Err(DropReason::FrameTooShort)),
        (13, Err(DropReason::FrameTooShort)),
        (14, Ok(())),
        (60, Ok(())),
        (1600, Ok(())),
        (1601, Err(DropReason::FrameTooLong)),
        (3200, Err(DropReason::FrameTooLong)),
    ];
    for (len, expected) in outcomes {
        let record = sealed(&mut peer, &block(&vec![2; len]));
        assert_eq!(end.receive(0, &record, NOW), Ok(Received { records: 1, key_updates: 0 }), "{len} bytes");
        let got = std::mem::take(&mut end.got);
        match expected {
            Ok(()) => assert_eq!((got.frames, got.dropped), (vec![vec![2; len]], vec![]), "{len} bytes"),
            Err(reason) => assert_eq!((got.frames, got.dropped), (vec![], vec![reason]), "{len} bytes"),
        }
    }
    assert_eq!((end.link.carried().frames_in, end.link.carried().bytes_in), (3, 14 + 60 + 1600));
    let too_long = sealed(&mut peer, &[block(&frame(1, 0, 60)), block(&vec![2; 3201])].concat());
    assert_eq!(end.receive(0, &too_long, NOW), Err(CloseReason::BlockTooLong));
    assert_eq!(end.got.frames.len(), 1, "what came before was delivered");
}

#[test]
fn plaintext_from_before_the_session_is_the_start_of_the_stream() {
    let (mut end, mut peer) = End::with_peer(settings());
    let stream = [block(&frame(1, 0, 60)), block(&frame(1, 1, 60))].concat();
    let (before, after) = stream.split_at(100);
    end.link.receive_plain(ConnKey(0), before, &mut end.scratch, &mut end.got).unwrap();
    assert_eq!(end.got.frames.len(), 1);
    end.receive(0, &sealed(&mut peer, after), NOW).unwrap();
    assert_eq!(end.got.frames, [frame(1, 0, 60), frame(1, 1, 60)]);
}

#[test]
fn bytes_of_an_unknown_connection_are_nothing() {
    let (mut end, _peer) = End::with_peer(settings());
    assert_eq!(end.receive(5, &[0xff; 100], NOW), Ok(Received::default()));
    assert!(end.link.flush(ConnKey(5), NOW, &mut end.pools).unwrap().is_none());
    assert!(!end.link.sent(ConnKey(5), NOW).more);
}

#[test]
fn compression_comes_back_whole() {
    let compressed = LinkSettings { compress: true, ..settings() };
    let (mut server, mut client) = pair(1, &compressed);
    let mut noise = 9;
    let frames: Vec<Vec<u8>> = [14, 60, 600, 1514, 1600]
        .into_iter()
        .flat_map(|len| {
            let plain = frame(1, 0, len);
            let mut random = plain.clone();
            random[14..].iter_mut().for_each(|byte| *byte = step(&mut noise).to_le_bytes()[0]);
            [plain, random]
        })
        .collect();
    // The first directly, the rest by way of the queue.
    for frame in &frames {
        server.push(frame);
        server.link.conns[0].in_flight = true;
    }
    assert_eq!(server.link.queued(), frames.len() - 1);
    server.link.sent(ConnKey(0), NOW);
    let bytes = server.drain(0);
    client.receive(0, &bytes, NOW).unwrap();
    assert_eq!(client.got.frames, frames);
    let plain_bytes: usize = frames.iter().map(Vec::len).sum();
    assert_eq!(client.link.carried().bytes_in, plain_bytes as u64);
    assert!(server.link.carried().bytes_out < plain_bytes as u64 - 3_000, "half of it compresses well");
}

#[test]
fn a_block_that_does_not_inflate_is_dropped_and_the_next_one_read() {
    let compressed = LinkSettings { compress: true, ..settings() };
    let (mut end, mut peer) = End::with_peer(compressed.clone());
    let (mut other, _) = End::with_peer(compressed);
    other.push(&frame(1, 0, 60));
    let good = {
        let (_, mut opener) = connected_pair(SUITE, AeadBackend::AwsLc);
        let bytes = other.flush(0, NOW);
        plaintexts(&mut opener, &bytes).concat()
    };
    let record = sealed(&mut peer, &[block(&frame(1, 0, 60)), good].concat());
    end.receive(0, &record, NOW).unwrap();
    assert_eq!((end.got.frames, end.got.dropped), (vec![frame(1, 0, 60)], vec![DropReason::FrameInflate]));
}

// ---- records ---------------------------------------------------------------------------------------------

/// Lengths of the plaintexts of what `end` sends when `frames` frames of 1000 bytes come within a turn at `now`.
fn record_lens(end: &mut End, peer: &mut RecordLayer, frames: u32, now: Tick) -> Vec<usize> {
    for n in 0..frames {
        let pushed = end.link.push(&frame(1, n, 1000), now, &mut end.pools);
        assert!(matches!(pushed, Pushed::Building { .. }), "{pushed:?}");
    }
    let bytes = end.flush(0, now);
    end.link.sent(ConnKey(0), NOW);
    plaintexts(peer, &bytes).iter().map(Vec::len).collect()
}

#[test]
fn records_are_small_after_a_silence_and_large_later() {
    const ONE_SEGMENT: usize = 1_448;
    let (mut end, mut peer) = End::with_peer(settings());
    let mut now = NOW;
    for _ in 0..3 {
        let lens = record_lens(&mut end, &mut peer, 20, now);
        assert!(lens.iter().all(|len| *len < ONE_SEGMENT), "after a silence: {lens:?}");
        record_lens(&mut end, &mut peer, 20, now);
        now = now + Duration::from_millis(900);
        let lens = record_lens(&mut end, &mut peer, 30, now);
        assert!(lens[0] > 16_384 - 1_008 && lens[0] <= 16_384, "in the middle of traffic: {lens:?}");
        now = now + Duration::from_secs(1);
    }
}

#[test]
fn a_backlog_goes_in_full_records() {
    let (mut end, mut peer) = busy(settings());
    for n in 0..200 {
        assert_eq!(end.push(&frame(1, n, 1000)), Pushed::Waiting);
    }
    end.link.sent(ConnKey(0), NOW);
    let bytes = end.flush(0, NOW);
    assert!(bytes.len() <= SEND_BYTES);
    let lens: Vec<usize> = plaintexts(&mut peer, &bytes).iter().map(Vec::len).collect();
    assert_eq!(lens[..3], [4 + 16 * 1004; 3], "as many whole frames as a record holds");
    assert!(lens.len() == 4 && lens[3] > 16_384 - BLOCK_BYTES_MAX, "and nearly as many in the last: {lens:?}");
    assert!(end.link.sent(ConnKey(0), NOW).more, "the rest follows");
    assert!(end.link.queued() < 200 - 60);
}

#[test]
fn the_largest_frame_fits_even_a_small_record() {
    for len in [1_388, 1_389, 1_600, 1_604] {
        let (mut end, mut peer) = End::with_peer(settings());
        end.push(&frame(1, 0, len));
        let bytes = end.flush(0, NOW);
        assert_eq!(plaintexts(&mut peer, &bytes), [block(&frame(1, 0, len))]);
    }
}

/// The counts of the batches in `plain`, which must end with one.
fn batches(mut plain: &[u8]) -> Vec<u32> {
    let mut counts = Vec::new();
    let word = |plain: &mut &[u8]| {
        let (word, rest) = plain.split_first_chunk::<4>().unwrap();
        *plain = rest;
        u32::from_be_bytes(*word)
    };
    while !plain.is_empty() {
        let count = word(&mut plain);
        for _ in 0..count {
            let size = word(&mut plain) as usize;
            plain = &plain[size..];
        }
        counts.push(count);
    }
    counts
}

#[test]
fn a_batch_has_128_frames_at_most() {
    assert_eq!(BATCH_FRAMES_MAX, 128);
    let (mut end, mut peer) = busy(settings());
    for n in 0..1_000 {
        assert_eq!(end.push(&frame(1, n, 60)), Pushed::Waiting);
    }
    end.link.sent(ConnKey(0), NOW);
    let bytes = end.drain(0);
    let counts: Vec<u32> = plaintexts(&mut peer, &bytes).iter().flat_map(|plain| batches(plain)).collect();
    assert_eq!(counts.iter().sum::<u32>(), 1_000);
    assert!(counts.iter().all(|count| (1..=128).contains(count)) && counts.contains(&128), "{counts:?}");
}

#[test]
fn sends_count_what_is_in_them() {
    let (mut end, mut peer) = End::with_peer(settings());
    end.link.conns[0].conn.layer.set_rekey_after(2);
    for n in 0..4 {
        end.push(&frame(1, n, 1000));
    }
    let flushed = end.link.flush(ConnKey(0), NOW, &mut end.pools).unwrap().unwrap();
    assert_eq!((flushed.frames, flushed.bytes), (4, 4_000));
    assert_eq!(flushed.key_updates, 1);
    let mut rest = flushed.buf.pending();
    let mut records = 0;
    while let Some(len) = record_len(rest).unwrap() {
        peer.open(&rest[..len], &mut vec![0; len]).unwrap();
        rest = &rest[len..];
        records += 1;
    }
    assert_eq!((flushed.records, peer.key_updates()), (records, 1));
}
