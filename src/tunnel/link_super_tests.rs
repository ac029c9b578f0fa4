//! Super-frames between two links: whole where that was agreed on, else in segments, in order with everything else.
#![forbid(unsafe_code)]

use super::*;

fn with_supers() -> LinkSettings {
    LinkSettings { supers: true, ..settings() }
}

/// A packet of TCP of `flow` with `payload` bytes that begin with `n`, unfinished as a host leaves it.
fn packet(flow: u8, n: u32, payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, flow, 8, 0, 0x45, 0];
    frame.extend(u16::try_from(40 + payload).unwrap().to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x12, flow, 0, 80, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    let mut bytes: Vec<u8> = (0..payload).map(|at| u8::try_from((at / 7 + n as usize) % 251).unwrap()).collect();
    let number = n.to_be_bytes();
    let start = payload.min(4);
    bytes[..start].copy_from_slice(&number[..start]);
    frame.extend(bytes);
    frame
}

impl End {
    fn push_super(&mut self, bytes: &[u8], segment_bytes: u16) -> Vec<Pushed> {
        let frame = SuperFrame::new_checked(bytes, segment_bytes).unwrap();
        let mut all = Vec::new();
        self.link.push_super(&frame, NOW, &mut self.pools, &mut |pushed, _| all.push(pushed));
        all
    }
}

#[test]
fn one_crosses_whole_at_once_and_from_the_queue() {
    for payload in [1_500, 3_000, 16_000, 20_000, 40_000, 65_495] {
        let (mut server, mut client) = pair(1, &with_supers());
        let bytes = packet(1, 7, payload);
        let key = ConnKey(0);
        assert_eq!(client.push_super(&bytes, 1_400), [Pushed::Building { key, first: true }], "{payload}");
        let sent = client.flush(0, NOW);
        // That one is in flight, so this waits.
        assert_eq!(client.push_super(&bytes, 1_300), [Pushed::Waiting], "{payload}");
        let cells = client.link.queued();
        assert_eq!(cells, bytes.len().div_ceil(queue::CELL_BYTES));
        client.link.sent(key, NOW);
        let sent = [sent, client.drain(0)].concat();
        for part in sent.chunks(10_000) {
            server.receive(0, part, NOW).unwrap();
        }
        assert_eq!(server.got.supers, [(bytes.clone(), 1_400), (bytes.clone(), 1_300)], "{payload}");
        let frames = (payload.div_ceil(1_400) + payload.div_ceil(1_300)) as u64;
        let (out, came) = (client.link.carried(), server.link.carried());
        assert_eq!((out.frames_out, came.frames_in), (frames, frames), "counted as on a wire");
        assert_eq!(out.bytes_out, came.bytes_in);
        assert_eq!((client.link.queued(), client.pools.frames.used()), (0, 0));
    }
}

#[test]
fn who_did_not_agree_gets_segments_and_takes_none() {
    let (mut server, mut client) = pair(1, &settings());
    assert_eq!(client.push_super(&packet(1, 7, 4_000), 1_400).len(), 3);
    let sent = client.drain(0);
    server.receive(0, &sent, NOW).unwrap();
    let lengths: Vec<_> = server.got.frames.iter().map(Vec::len).collect();
    assert_eq!((lengths, server.got.supers.len()), (vec![1_454, 1_454, 1_254], 0));

    let (mut server, _) = pair(1, &settings());
    let mut peer = server.attach(9, Way::BOTH, NOW);
    let bytes = packet(1, 7, 2_000);
    let word = deframe::super_mark(1_400) | u32::try_from(bytes.len()).unwrap();
    let plain = [&1u32.to_be_bytes()[..], &word.to_be_bytes(), &bytes].concat();
    assert_eq!(server.receive(9, &sealed(&mut peer, &plain), NOW), Err(CloseReason::BlockTooLong));
}

#[test]
fn what_cannot_be_cut_is_dropped_by_name() {
    let (mut end, mut peer) = End::with_peer(with_supers());
    let mut bytes = packet(1, 7, 2_000);
    bytes[23] = 1;
    let word = deframe::super_mark(1_400) | u32::try_from(bytes.len()).unwrap();
    let plain = [&1u32.to_be_bytes()[..], &word.to_be_bytes(), &bytes].concat();
    end.receive(0, &sealed(&mut peer, &plain), NOW).unwrap();
    assert_eq!((end.got.dropped, end.got.supers.len()), (vec![DropReason::FrameNotCuttable], 0));
}

#[test]
fn one_takes_room_by_its_length() {
    let (mut end, _) = End::with_peer(LinkSettings { queue_depth: 30, ..with_supers() });
    end.push(&frame(1, 0, 60));
    end.flush(0, NOW);
    assert_eq!(end.push_super(&packet(1, 1, 32_000), 1_400), [Pushed::Waiting]);
    assert_eq!(end.push_super(&packet(1, 2, 32_000), 1_400), [replacing(23)]);
    assert_eq!((end.link.carried().dropped_out, end.link.queued()), (23, 20), "as many as it has segments");
    assert_eq!(end.push_super(&packet(1, 3, 14_000), 1_400), [Pushed::Waiting]);
}

#[test]
fn the_end_of_a_connection_moves_them_whole() {
    let (mut server, mut client) = pair(2, &with_supers());
    for key in 0..2 {
        client.push(&frame(0, key, 60));
        for flow in 1..20 {
            client.push(&frame(flow, 0, 60));
        }
        client.flush(key, NOW);
    }
    for flow in 1..10 {
        client.push_super(&packet(flow, 5, 30_000), 1_400);
    }
    assert!(client.link.detach(ConnKey(0), NOW, &mut client.pools).is_some_and(|detached| detached.lost == 0));
    client.link.sent(ConnKey(1), NOW);
    let sent = client.drain(1);
    let mut records = Vec::new();
    // The first flush is lost to this test; what waited has records of its own.
    records.extend_from_slice(&sent);
    assert!(records.len() > 9 * 30_000);
    assert_eq!((client.link.queued(), client.pools.frames.used()), (0, 0));
    drop(server.link.detach(ConnKey(0), NOW, &mut server.pools));
}

#[test]
fn over_a_slow_path_one_crosses_in_parts_and_urgent_frames_between_them() {
    let (mut server, mut client) = pair(1, &with_supers());
    let (key, mut now, mut stream) = (ConnKey(0), NOW, Vec::new());
    let flush = |client: &mut End, now: &mut Tick| {
        let sent = client.flush(0, *now);
        *now = *now + Duration::from_millis(sent.len() as u64 / 1_000);
        client.link.sent(key, *now);
        sent
    };
    // A megabyte a second.
    for n in 0..40 {
        client.link.push(&frame(1, n, 1_400), now, &mut client.pools);
    }
    (0..10).for_each(|_| stream.extend(flush(&mut client, &mut now)));
    for n in 40..240 {
        client.link.push(&frame(1, n, 1_400), now, &mut client.pools);
    }
    (0..60).for_each(|_| stream.extend(flush(&mut client, &mut now)));
    let bytes = packet(2, 7, 30_000);
    let whole = SuperFrame::new_checked(&bytes, 1_400).unwrap();
    let (mut building, mut frames) = (0, 0);
    client.link.push_super(&whole, now, &mut client.pools, &mut |pushed, count| {
        building += u32::from(matches!(pushed, Pushed::Building { .. }));
        frames += count;
    });
    assert_eq!(frames, 22, "each part says what it is on a wire");
    assert!(building > 0 && client.link.queued() > 10, "{building} parts at once, {} wait", client.link.queued());
    let mut arp = frame(3, 0, 60);
    arp[12..14].copy_from_slice(&[8, 6]);
    client.link.push(&arp, now, &mut client.pools);
    let first = flush(&mut client, &mut now);
    assert!(first.len() < 10_000, "{} bytes in one send", first.len());
    stream.extend(first);
    (0..40).for_each(|_| stream.extend(flush(&mut client, &mut now)));
    server.receive(0, &stream, now).unwrap();
    let (mut want, mut got) = (Vec::new(), Vec::new());
    whole.cut(&mut |segment| want.push(segment.to_vec()));
    let mut place = None;
    for (bytes, segment_bytes) in &server.got.supers {
        SuperFrame::new_checked(bytes, *segment_bytes).unwrap().cut(&mut |segment| got.push(segment.to_vec()));
    }
    for frame in &server.got.frames {
        match (frame[11], frame[13]) {
            (2, 0) => got.push(frame.clone()),
            (3, 6) => place = Some(got.len()),
            _ => {}
        }
    }
    assert!(got == want, "{} of {} segments", got.len(), want.len());
    assert!(place.is_some() && client.link.queued() == 0);
}

proptest! {
    /// Frames and super-frames of some flows, pushed, flushed and sent in any rhythm: all arrive, each flow in order.
    #[test]
    fn mixed_they_arrive_in_order(
        steps in prop::collection::vec((1u8..4, prop_oneof![Just(0usize), 1_401usize..1_700, 1_401usize..65_495], any::<bool>()), 1..60),
        cut in 1usize..70_000,
    ) {
        let (mut server, mut client) = pair(1, &with_supers());
        let mut expected: HashMap<u8, Vec<u32>> = HashMap::new();
        let mut stream = Vec::new();
        for (n, (flow, payload, flush)) in steps.into_iter().enumerate() {
            let n = u32::try_from(n).unwrap();
            let pushed = match payload {
                // Of the same flow as the super-frames, so that order counts.
                0 => client.push(&packet(flow, n, 500)),
                _ => client.push_super(&packet(flow, n, payload), 1_400)[0],
            };
            if !matches!(pushed, Pushed::Dropped(_)) {
                expected.entry(flow).or_default().push(n);
            }
            if flush {
                stream.extend(client.flush(0, NOW));
                client.link.sent(ConnKey(0), NOW);
            }
        }
        stream.extend(client.drain(0));
        let mut order = Order::default();
        for part in stream.chunks(cut) {
            server.link.receive(ConnKey(0), part, NOW, &mut server.scratch, &mut order).unwrap();
        }
        prop_assert_eq!(order.seen, expected);
        prop_assert_eq!((client.link.queued(), client.pools.frames.used()), (0, 0));
    }
}

/// Numbers of frames and super-frames, by flow.
#[derive(Default)]
struct Order {
    seen: HashMap<u8, Vec<u32>>,
}

impl Order {
    fn note(&mut self, bytes: &[u8]) {
        let n = u32::from_be_bytes(bytes[54..58].try_into().unwrap());
        assert_eq!(bytes, packet(bytes[11], n, bytes.len() - 54), "nothing was changed");
        self.seen.entry(bytes[11]).or_default().push(n);
    }
}

impl FrameSink for Order {
    fn frame(&mut self, frame: &[u8]) {
        self.note(frame);
    }

    fn super_frame(&mut self, frame: &SuperFrame<'_>) {
        self.note(frame.bytes());
    }

    fn dropped(&mut self, reason: DropReason) {
        panic!("{}", reason.label());
    }
}
