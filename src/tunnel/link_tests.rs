//! Two links back to back, or one against a bare record layer that shows what is inside the records.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::tls::aead::AeadBackend;
use crate::tls::keys::Suite;
use crate::tls::layer::{Opened, RecordLayer, connected_pair};
use crate::tls::record::record_len;
use crate::tunnel::deframe::{self, Deframer};
use crate::tunnel::egress::SEND_BYTES;
use crate::tunnel::parked::PARKED_MAX;

const SUITE: Suite = Suite::Tls13Aes128GcmSha256;
const NOW: Tick = Tick::from_ms(1_000);
const TIMEOUT: Duration = Duration::from_secs(20);

fn settings() -> LinkSettings {
    LinkSettings { timeout: TIMEOUT, compress: false, supers: false, qos: false, queue_depth: 1_000, seed: 7 }
}

fn replacing(shed: u32) -> Pushed {
    Pushed::Replacing { reason: DropReason::EgressQueueFull, shed }
}

fn from_pool(shed: u32) -> Pushed {
    Pushed::Replacing { reason: DropReason::EgressPoolEmpty, shed }
}

/// A link with what its worker would lend it.
struct End {
    link: Link,
    pools: Pools,
    scratch: Scratch,
    got: Got,
}

#[derive(Default)]
struct Got {
    frames: Vec<Vec<u8>>,
    supers: Vec<(Vec<u8>, u16)>,
    dropped: Vec<DropReason>,
}

impl FrameSink for Got {
    fn frame(&mut self, frame: &[u8]) {
        self.frames.push(frame.to_vec());
    }

    fn super_frame(&mut self, frame: &SuperFrame<'_>) {
        self.supers.push((frame.bytes().to_vec(), frame.segment_bytes()));
    }

    fn dropped(&mut self, reason: DropReason) {
        self.dropped.push(reason);
    }
}

impl End {
    fn new(settings: LinkSettings) -> Self {
        let link = Link::new(settings, NOW);
        Self { link, pools: Pools::new(2_000), scratch: Scratch::default(), got: Got::default() }
    }

    /// With connection 0, and the peer's layer of it.
    fn with_peer(settings: LinkSettings) -> (Self, RecordLayer) {
        let mut end = Self::new(settings);
        let peer = end.attach(0, Way::BOTH, NOW);
        (end, peer)
    }

    fn attach(&mut self, key: u32, way: Way, now: Tick) -> RecordLayer {
        let (ours, theirs) = connected_pair(SUITE, AeadBackend::AwsLc);
        self.link.attach(ConnKey(key), Box::new(Conn::new(ours)), way, now);
        theirs
    }

    fn push(&mut self, frame: &[u8]) -> Pushed {
        self.link.push(frame, NOW, &mut self.pools)
    }

    /// What connection `key` sends; the send stays in flight.
    fn flush(&mut self, key: u32, now: Tick) -> Vec<u8> {
        let Some(flushed) = self.link.flush(ConnKey(key), now, &mut self.pools).unwrap() else { return Vec::new() };
        let bytes = flushed.buf.pending().to_vec();
        self.pools.sends.give(flushed.buf);
        bytes
    }

    /// All that connection `key` has to send.
    fn drain(&mut self, key: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let more = self.flush(key, NOW);
            self.link.sent(ConnKey(key), NOW);
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    fn receive(&mut self, key: u32, bytes: &[u8], now: Tick) -> Result<Received, CloseReason> {
        self.link.receive(ConnKey(key), bytes, now, &mut self.scratch, &mut self.got)
    }

    fn poll(&mut self, now: Tick) -> (Vec<Due>, Tick) {
        let mut due = Vec::new();
        let next = self.link.poll(now, &mut self.pools, &mut due);
        (due, next)
    }

    /// Sends the keep-alives that are due.
    fn keep_alive(&mut self, now: Tick) -> usize {
        let (due, _) = self.poll(now);
        let flushes = due.iter().filter_map(|due| if let Due::Flush(key) = due { Some(key.0) } else { None });
        flushes
            .map(|key| {
                assert!(!self.flush(key, now).is_empty());
                self.link.sent(ConnKey(key), NOW);
            })
            .count()
    }
}

/// Server's and client's end with `conns` connections.
fn pair(conns: u32, settings: &LinkSettings) -> (End, End) {
    let (mut server, mut client) = (End::new(settings.clone()), End::new(settings.clone()));
    for key in 0..conns {
        let peer = server.attach(key, Way::BOTH, NOW);
        client.link.attach(ConnKey(key), Box::new(Conn::new(peer)), Way::BOTH, NOW);
    }
    (server, client)
}

/// The plaintext of each record in `bytes`.
fn plaintexts(layer: &mut RecordLayer, mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(len) = record_len(bytes).unwrap() {
        let (record, rest) = bytes.split_at(len);
        let mut plain = vec![0; len];
        match layer.open(record, &mut plain).unwrap() {
            Opened::Data(len) => found.push(plain[..len].to_vec()),
            other => panic!("{other:?}"),
        }
        bytes = rest;
    }
    assert!(bytes.is_empty());
    found
}

/// One record of `plain`.
fn sealed(layer: &mut RecordLayer, plain: &[u8]) -> Vec<u8> {
    let mut record = [&vec![0; layer.prefix_len()], plain, &vec![0; layer.suffix_len()]].concat();
    layer.seal(&mut record, plain.len()).unwrap();
    record
}

/// A batch of one block.
fn block(bytes: &[u8]) -> Vec<u8> {
    let size = u32::try_from(bytes.len()).unwrap();
    [&1u32.to_be_bytes()[..], &size.to_be_bytes(), bytes].concat()
}

/// Frame `n` of a flow: flows differ in their source address.
fn frame(flow: u8, n: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, flow, 0x88, 0xb5]);
    if len >= 18 {
        frame[14..18].copy_from_slice(&n.to_be_bytes());
    }
    frame
}

fn flow_and_number(frame: &[u8]) -> (u8, u32) {
    (frame[11], u32::from_be_bytes(frame[14..18].try_into().unwrap()))
}

// ---- time ------------------------------------------------------------------------------------------------

#[test]
fn keep_alives_begin_at_once_and_go_on_between_a_fifth_and_half_of_the_timeout() {
    let (mut end, mut peer) = End::with_peer(settings());
    let (mut now, mut last, mut gaps) = (NOW, None::<Tick>, HashSet::new());
    for _ in 0..400 {
        end.receive(0, &[], now).unwrap();
        let (due, next) = end.poll(now);
        if due == [Due::Flush(ConnKey(0))] {
            let bytes = end.flush(0, now);
            for plain in plaintexts(&mut peer, &bytes) {
                assert_eq!(plain[..4], deframe::KEEP_ALIVE.to_be_bytes());
                let mut blocks = 0;
                Deframer::new().push(&plain, |block| blocks += u32::from(block == deframe::Block::KeepAlive)).unwrap();
                assert_eq!(blocks, 1);
            }
            end.link.sent(ConnKey(0), NOW);
            if let Some(last) = last {
                let gap = now.since(last);
                assert!((TIMEOUT / 5..=TIMEOUT / 2).contains(&gap), "{gap:?}");
                gaps.insert(gap.as_secs());
            }
            last = Some(now);
        } else {
            assert!(due.is_empty() && now != NOW, "the first is due at once: {due:?}");
        }
        assert!(next > now);
        now = next;
    }
    assert!(gaps.len() >= 5, "all over the range: {gaps:?}");
}

#[test]
fn frames_stand_in_for_keep_alives() {
    let (mut end, mut peer) = End::with_peer(settings());
    assert_eq!(end.keep_alive(NOW), 1);
    for ms in (0..60_000).step_by(1_000) {
        let now = Tick(NOW.0 + ms * 1_000_000);
        end.receive(0, &[], now).unwrap();
        end.link.push(&frame(1, 1, 60), now, &mut end.pools);
        assert!(!end.flush(0, now).is_empty());
        end.link.sent(ConnKey(0), NOW);
        assert_eq!(end.keep_alive(now), 0, "after {ms} ms");
    }
    // A send in flight shows the peer that we live as well.
    let later = NOW + 6 * TIMEOUT;
    end.receive(0, &[], later).unwrap();
    end.link.push(&frame(1, 1, 60), later, &mut end.pools);
    let bytes = end.flush(0, later);
    assert_eq!(end.keep_alive(later + TIMEOUT / 2), 0);
    assert!(peer.open(&bytes, &mut vec![0; bytes.len()]).is_err(), "the peer missed what came before");
}

#[test]
fn a_way_that_may_not_send_sends_nothing() {
    let mut end = End::new(settings());
    end.attach(0, Way { send: false, receive: true }, NOW);
    assert_eq!(end.poll(NOW).0, []);
    assert_eq!(end.poll(NOW + TIMEOUT / 2).0, []);
    assert_eq!(end.push(&frame(1, 0, 60)), Pushed::Dropped(DropReason::EgressNoConnection));
    assert_eq!(end.link.carried().dropped_out, 1);
    end.attach(1, Way { send: true, receive: false }, NOW);
    end.attach(2, Way { send: false, receive: true }, NOW);
    for flow in 0..50 {
        let pushed = end.push(&frame(flow, 0, 60));
        assert_eq!(pushed, Pushed::Building { key: ConnKey(1), first: flow == 0 });
    }
    assert_eq!(end.poll(NOW).0, [Due::Flush(ConnKey(1))]);
}

#[test]
fn a_silent_connection_is_closed_and_one_that_only_sends_is_not() {
    let mut end = End::new(settings());
    let mut talking = end.attach(0, Way::BOTH, NOW);
    end.attach(1, Way::BOTH, NOW);
    end.attach(2, Way { send: true, receive: false }, NOW);
    let almost = NOW + (TIMEOUT - Duration::from_nanos(1));
    end.receive(0, &sealed(&mut talking, &block(&frame(1, 1, 60))), almost).unwrap();
    let closes = |due: Vec<Due>| due.into_iter().filter(|due| !matches!(due, Due::Flush(_))).collect::<Vec<_>>();
    let (due, next) = end.poll(almost);
    assert_eq!((closes(due), next), (vec![], NOW + TIMEOUT), "looks again when the time is over");
    let due = closes(end.poll(NOW + TIMEOUT).0);
    assert_eq!(due, [Due::Close(ConnKey(1), CloseReason::Timeout)]);
}

#[test]
fn a_session_without_life_expires() {
    let mut end = End::new(settings());
    let early = NOW + (TIMEOUT - Duration::from_nanos(1));
    assert_eq!(end.poll(early), (vec![], NOW + TIMEOUT));
    assert_eq!(end.poll(NOW + TIMEOUT).0, [Due::Expired]);

    // A connection gives it a new life, and its end takes none away.
    end.attach(0, Way::BOTH, early);
    assert!(end.link.detach(ConnKey(0), early, &mut end.pools).is_some());
    assert_eq!(end.poll(NOW + TIMEOUT), (vec![], early + TIMEOUT));
    assert_eq!(end.poll(early + TIMEOUT).0, [Due::Expired]);
}

#[test]
fn a_worn_key_that_cannot_be_renewed_closes_its_connection() {
    let mut end = End::new(settings());
    let (mut worn, _) = connected_pair(Suite::EcdheRsaAes128GcmSha256, AeadBackend::AwsLc);
    worn.set_rekey_after(1);
    end.link.attach(ConnKey(4), Box::new(Conn::new(worn)), Way::BOTH, NOW);
    assert_eq!(end.poll(NOW).0, [Due::Close(ConnKey(4), CloseReason::KeyLimit)]);
}

// ---- choice of connection --------------------------------------------------------------------------------

fn building_on(pushed: Pushed) -> u32 {
    match pushed {
        Pushed::Building { key, .. } => key.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flows_spread_over_all_connections() {
    for conns in [2, 3, 8, 32] {
        let mut end = End::new(settings());
        for key in 0..conns {
            end.attach(key, Way::BOTH, NOW);
        }
        let flows = 200 * conns;
        let mut share = vec![0; conns as usize];
        for flow in 0..flows {
            let mut frame = frame(1, 0, 60);
            frame[6..10].copy_from_slice(&flow.to_be_bytes());
            share[end.link.choose(class_of(&frame)).unwrap()] += 1;
        }
        assert!(share.iter().all(|share| (100..=400).contains(share)), "{conns} connections: {share:?}");
    }
}

#[test]
fn a_flow_keeps_its_connection_when_others_end_and_leaves_it_only_for_a_new_one() {
    flows_keep_their_connections(9, &settings());
    // The last of the eight is for what is urgent: when another comes, that is a new one for the rest.
    flows_keep_their_connections(7, &LinkSettings { qos: true, ..settings() });
}

fn flows_keep_their_connections(fresh: u32, settings: &LinkSettings) {
    let mut end = End::new(settings.clone());
    for key in 0..8 {
        end.attach(key, Way::BOTH, NOW);
    }
    let all = |end: &mut End| -> Vec<u32> { (0..100).map(|flow| building_on(end.push(&frame(flow, 0, 60)))).collect() };
    let before = all(&mut end);
    end.link.detach(ConnKey(3), NOW, &mut end.pools);
    let without = all(&mut end);
    for (before, after) in before.iter().zip(&without) {
        assert!(after == before || *before == 3);
    }
    end.attach(9, Way::BOTH, NOW);
    for (before, after) in without.iter().zip(all(&mut end)) {
        assert!(after == *before || after == fresh);
    }
}

#[test]
fn what_is_urgent_has_the_newest_connection_to_itself() {
    let arp = |flow: u8| {
        let mut frame = frame(flow, 0, 60);
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        frame
    };
    let carriers = |end: &mut End| {
        let on = |end: &mut End, frame: &dyn Fn(u8) -> Vec<u8>| -> HashSet<u32> {
            (0..50).map(|flow| building_on(end.push(&frame(flow)))).collect()
        };
        (on(end, &arp), on(end, &|flow| frame(flow, 0, 60)))
    };
    let mut end = End::new(LinkSettings { qos: true, ..settings() });
    end.attach(0, Way::BOTH, NOW);
    assert_eq!(carriers(&mut end), ([0].into(), [0].into()), "one connection is for all");
    end.attach(1, Way::BOTH, NOW);
    assert_eq!(carriers(&mut end), ([1].into(), [0].into()));
    end.attach(2, Way { send: false, receive: true }, NOW);
    assert_eq!(carriers(&mut end), ([1].into(), [0].into()), "the newest that may send");
    // Nothing was heard of 1 since 3 has come, perhaps in its place.
    let later = NOW + Duration::from_millis(1);
    end.attach(3, Way::BOTH, later);
    end.link.receive(ConnKey(0), &[], later, &mut end.scratch, &mut end.got).unwrap();
    assert_eq!(carriers(&mut end), ([3].into(), [0].into()));
    end.link.receive(ConnKey(1), &[], later, &mut end.scratch, &mut end.got).unwrap();
    assert_eq!(carriers(&mut end), ([3].into(), [0, 1].into()));
    end.link.detach(ConnKey(3), NOW, &mut end.pools);
    end.link.detach(ConnKey(0), NOW, &mut end.pools);
    assert_eq!(carriers(&mut end), ([1].into(), [1].into()), "the one that is left is for all again");
    end.link.detach(ConnKey(1), NOW, &mut end.pools);
    assert_eq!(end.push(&arp(1)), Pushed::Dropped(DropReason::EgressNoConnection));
}

#[test]
fn the_end_of_a_connection_moves_its_waiting_frames() {
    let (mut server, mut client) = pair(3, &settings());
    server.poll(NOW);
    for key in 0..3 {
        let keep_alive = server.flush(key, NOW);
        client.receive(key, &keep_alive, NOW).unwrap();
    }
    // All connections are busy, so everything waits.
    for n in 0..10 {
        for flow in 0..20 {
            assert_eq!(server.push(&frame(flow, n, 60)), Pushed::Waiting);
        }
    }
    assert_eq!((server.link.queued(), server.pools.frames.used()), (200, 200));
    for key in [1, 0] {
        assert!(server.link.detach(ConnKey(key), NOW, &mut server.pools).is_some());
        assert!(server.link.detach(ConnKey(key), NOW, &mut server.pools).is_none());
        assert_eq!((server.link.queued(), server.pools.frames.used()), (200, 200));
    }
    assert!(server.link.sent(ConnKey(2), NOW).more, "there is more");
    let bytes = server.drain(2);
    client.receive(2, &bytes, NOW).unwrap();
    let mut next = [0; 20];
    for got in &client.got.frames {
        let (flow, n) = flow_and_number(got);
        assert_eq!(n, next[usize::from(flow)], "flow {flow}");
        next[usize::from(flow)] += 1;
    }
    assert_eq!(next, [10; 20]);
    assert_eq!((server.link.queued(), server.pools.frames.used(), server.link.carried().dropped_out), (0, 0, 0));
}

#[test]
fn frames_are_lost_with_the_last_connection_and_counted() {
    let (mut end, _peer) = End::with_peer(settings());
    end.keep_alive(NOW);
    end.push(&frame(1, 0, 60));
    end.flush(0, NOW);
    for n in 0..5 {
        assert_eq!(end.push(&frame(1, n, 60)), Pushed::Waiting);
    }
    end.link.detach(ConnKey(0), NOW, &mut end.pools);
    assert_eq!((end.link.queued(), end.pools.frames.used(), end.link.carried().dropped_out), (0, 0, 5));
}

#[test]
fn who_comes_back_gets_the_latest_frames() {
    let (mut end, _peer) = End::with_peer(settings());
    end.link.detach(ConnKey(0), NOW, &mut end.pools);
    let kept = u32::try_from(PARKED_MAX).unwrap();
    for n in 0..kept + 7 {
        let want = if n < kept { Pushed::Waiting } else { Pushed::Dropped(DropReason::EgressNoConnection) };
        assert_eq!(end.push(&frame(1, n, 60)), want);
    }
    assert_eq!((end.link.queued(), end.link.carried().dropped_out), (PARKED_MAX, 7));
    let mut client = End::new(settings());
    let (ours, theirs) = connected_pair(SUITE, AeadBackend::AwsLc);
    end.link.attach(ConnKey(1), Box::new(Conn::new(ours)), Way::BOTH, NOW);
    client.link.attach(ConnKey(1), Box::new(Conn::new(theirs)), Way::BOTH, NOW);
    assert!(end.poll(NOW).0.contains(&Due::Flush(ConnKey(1))));
    let bytes = end.drain(1);
    client.receive(1, &bytes, NOW).unwrap();
    let numbers: Vec<u32> = client.got.frames.iter().map(|got| flow_and_number(got).1).collect();
    assert_eq!(numbers, (7..kept + 7).collect::<Vec<_>>());
    assert_eq!((end.link.queued(), end.pools.frames.used()), (0, 0));
}

#[test]
fn whoever_adds_a_connection_hears_from_all() {
    let (mut end, _peer) = End::with_peer(settings());
    assert_eq!(end.keep_alive(NOW), 1);
    assert_eq!(end.poll(NOW).0, []);
    end.attach(1, Way::BOTH, NOW);
    assert_eq!(end.keep_alive(NOW), 2);
}

#[test]
fn the_end_gives_back_what_was_kept() {
    let mut end = End::new(settings());
    end.push(&frame(1, 0, 60));
    assert_eq!(end.pools.frames.used(), 1);
    assert_eq!(end.link.end(&mut end.pools), 1);
    assert_eq!((end.link.queued(), end.pools.frames.used(), end.link.carried().dropped_out), (0, 0, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    /// The send in flight of a connection ends and what waits goes out.
    Send(usize),
    /// A new connection comes and another ends.
    Replace(usize),
}

const FLOWS: u8 = 6;

/// Two links whose connections come and go, with what must hold at any time.
struct Schedule {
    server: End,
    client: End,
    keys: Vec<u32>,
    pushed: [u32; FLOWS as usize],
    /// Where each flow went since a connection last came or went.
    carrier: HashMap<u8, ConnKey>,
    /// Frames lost in records that were never flushed.
    lost: u64,
}

impl Schedule {
    fn new(conns: u32) -> Self {
        let (server, client) = pair(conns, &settings());
        Self {
            server,
            client,
            keys: (0..conns).collect(),
            pushed: [0; FLOWS as usize],
            carrier: HashMap::new(),
            lost: 0,
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Push(flow) => {
                let n = &mut self.pushed[usize::from(flow)];
                let pushed = self.server.push(&frame(flow, *n, 900));
                *n += 1;
                assert!(!matches!(pushed, Pushed::Dropped(_)), "{pushed:?}");
                if let Pushed::Building { key, .. } = pushed {
                    assert_eq!(*self.carrier.entry(flow).or_insert(key), key, "flow {flow} has moved");
                }
            }
            Step::Send(at) => {
                let key = self.keys[at % self.keys.len()];
                self.server.link.sent(ConnKey(key), NOW);
                let bytes = self.server.flush(key, NOW);
                self.client.receive(key, &bytes, NOW).unwrap();
            }
            Step::Replace(at) => {
                let (at, new) = (at % self.keys.len(), self.keys.iter().max().unwrap() + 1);
                let key = ConnKey(std::mem::replace(&mut self.keys[at], new));
                let peer = self.server.attach(new, Way::BOTH, NOW);
                self.client.link.attach(ConnKey(new), Box::new(Conn::new(peer)), Way::BOTH, NOW);
                let gone = self.server.link.detach(key, NOW, &mut self.server.pools);
                self.lost += gone.unwrap().lost;
                self.client.link.detach(key, NOW, &mut self.client.pools);
                self.carrier.clear();
            }
        }
        assert_eq!(self.server.link.queued(), self.server.pools.frames.used());
    }

    fn finish(&mut self) {
        for key in self.keys.clone() {
            self.server.link.sent(ConnKey(key), NOW);
            let bytes = self.server.drain(key);
            self.client.receive(key, &bytes, NOW).unwrap();
        }
        assert_eq!((self.server.link.queued(), self.server.pools.frames.used()), (0, 0));
        assert_eq!(self.server.link.carried().dropped_out, self.lost);
        assert_eq!(self.server.link.carried().frames_out, self.client.got.frames.len() as u64);
    }
}

fn steps(replace: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        16 => (0..FLOWS).prop_map(Step::Push),
        4 => (0..32usize).prop_map(Step::Send),
        replace => (0..32usize).prop_map(Step::Replace),
    ];
    prop::collection::vec(step, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is in flight or waits, every frame arrives once, in the order of its flow.
    #[test]
    fn a_flow_stays_in_order(conns in 1..=32u32, steps in steps(0)) {
        let mut schedule = Schedule::new(conns);
        steps.iter().for_each(|step| schedule.run(step));
        schedule.finish();
        let mut next = [0; FLOWS as usize];
        for got in &schedule.client.got.frames {
            let (flow, n) = flow_and_number(got);
            prop_assert_eq!(n, next[usize::from(flow)], "flow {}", flow);
            next[usize::from(flow)] += 1;
        }
        prop_assert_eq!(next, schedule.pushed);
    }

    /// A connection takes only what it had in hand with it. Nothing arrives twice.
    #[test]
    fn connections_come_and_go(conns in 1..=32u32, steps in steps(2)) {
        let mut schedule = Schedule::new(conns);
        steps.iter().for_each(|step| schedule.run(step));
        schedule.finish();
        let arrived: HashSet<_> = schedule.client.got.frames.iter().map(|frame| flow_and_number(frame)).collect();
        prop_assert_eq!(arrived.len(), schedule.client.got.frames.len());
    }
}

#[path = "link_super_tests.rs"]
mod supers;

#[path = "link_record_tests.rs"]
mod records;

/// A half-duplex session hears nothing on its connections to the client, so silence says nothing there.
#[test]
fn a_one_way_connection_that_takes_nothing_is_closed() {
    let mut end = End::new(settings());
    let _from_client = end.attach(0, Way { send: false, receive: true }, NOW);
    let _to_client = end.attach(1, Way { send: true, receive: false }, NOW);
    let closes = |end: &mut End, secs: u64| {
        let now = NOW + Duration::from_secs(secs);
        end.receive(0, &[], now).unwrap();
        let (due, _) = end.poll(now);
        due.into_iter().filter(|due| matches!(due, Due::Close(..))).collect::<Vec<_>>()
    };
    assert_eq!(closes(&mut end, 30), [], "it may be silent for any time");
    end.push(&frame(1, 1, 60));
    assert!(!end.flush(1, NOW + Duration::from_secs(30)).is_empty());
    assert_eq!(closes(&mut end, 49), []);
    assert_eq!(closes(&mut end, 50), [Due::Close(ConnKey(1), CloseReason::Timeout)]);
}
