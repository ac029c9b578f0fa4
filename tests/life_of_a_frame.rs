//! A frame from client A to client B in one thread: no root, no kernel socket, no clock.
//!
//! Read it beside README's "Life of a frame", or step through it with a debugger: start at
//! `frame_crosses_the_hub` and follow `Worker::turn`.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Sender, unbounded};
use hublane::hub::{HubSettings, HubShared, PortSettings};
use hublane::ids::{ConnId, HubId, MemberId, SessionId};
use hublane::metrics::closes::CloseReason;
use hublane::metrics::counters::Counters;
use hublane::metrics::drops::DropReason;
use hublane::sys::waker::Waker;
use hublane::tick::Tick;
use hublane::tls::aead::AeadBackend;
use hublane::tls::keys::Suite;
use hublane::tls::layer::{RecordLayer, connected_pair};
use hublane::tunnel::conn::Conn;
use hublane::tunnel::link::{Due, FrameSink, Link, LinkSettings, Pools, Pushed, Scratch, Way};
use hublane::worker::exchange::mesh;
use hublane::worker::io::{ConnKey, Wait};
use hublane::worker::mem::{MemIo, MemPeer, MemSocket, pipe};
use hublane::worker::seeds::{Command, ConnSeed, Report, SessionSeed};
use hublane::worker::{Ties, Worker, WorkerSettings};

/// Workers in one thread, turned by hand, with one hub.
struct Bench {
    workers: Vec<Worker<MemIo>>,
    commands: Vec<Sender<Command<MemSocket>>>,
    reports: crossbeam::channel::Receiver<Report>,
    now: Tick,
}

impl Bench {
    fn new(workers: usize) -> Self {
        let hub = Arc::new(HubShared::new(HubSettings::default(), workers));
        let hubs: Arc<[_]> = Arc::new([hub]);
        let (report, reports) = unbounded();
        let now = Tick::from_ms(1_000);
        let mut bench = Self { workers: Vec::new(), commands: Vec::new(), reports, now };
        for (index, mailbox) in mesh(workers, 1 << 16).into_iter().enumerate() {
            let (command, commands) = unbounded();
            let report = report.clone();
            let ties = Ties {
                index,
                mailbox,
                wakers: Arc::new([]),
                hubs: Arc::clone(&hubs),
                commands,
                reports: Box::new(move |what| report.send(what).unwrap()),
                counters: Arc::new(Counters::default()),
            };
            let io = MemIo::new(4, 1 << 18, Waker::new().unwrap());
            let settings = WorkerSettings { conns_max: 100, frames_max: 4000 };
            bench.workers.push(Worker::new(io, settings, ties, now));
            bench.commands.push(command);
        }
        bench
    }

    /// A member logs in on `worker`.
    fn member(&mut self, number: u64, worker: usize) -> Member {
        self.member_with(number, worker, |_| {}, 64)
    }

    fn member_with(
        &mut self,
        number: u64,
        worker: usize,
        prepare: impl FnOnce(&mut RecordLayer),
        queue_depth: usize,
    ) -> Member {
        let settings = LinkSettings { timeout: Duration::from_secs(20), compress: false, queue_depth, seed: number };
        let (mut server, client) = connected_pair(Suite::Tls13Aes128GcmSha256, AeadBackend::AwsLc);
        prepare(&mut server);
        let (socket, peer) = pipe();
        let session = SessionSeed {
            session: SessionId(number),
            member: MemberId(1),
            hub: HubId(0),
            port: PortSettings::OPEN,
            link: settings.clone(),
        };
        let conn = ConnSeed {
            id: ConnId(number),
            peer: SocketAddr::from(([192, 0, 2, 1], 40_000)),
            socket,
            conn: Box::new(Conn::new(server)),
            way: Way::BOTH,
            plain: Vec::new(),
            cipher: Vec::new(),
        };
        self.commands[worker].send(Command::Open(Box::new(session), Box::new(conn))).unwrap();
        self.turn();
        Member::new(client, settings, peer, self.now)
    }

    /// Every worker turns until nothing moves any more.
    fn turn(&mut self) {
        for _ in 0..4 {
            for worker in &mut self.workers {
                let now = self.now;
                worker.turn(Wait::Poll, || now).unwrap();
            }
        }
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.workers.iter().map(|worker| worker.counters().drops(reason)).sum()
    }
}

/// A client, by the same [`Link`] that the server uses for its end.
struct Member {
    link: Link,
    peer: MemPeer,
    pools: Pools,
    scratch: Scratch,
    frames: Frames,
    now: Tick,
}

#[derive(Default)]
struct Frames(Vec<Vec<u8>>);

impl FrameSink for Frames {
    fn frame(&mut self, frame: &[u8]) {
        self.0.push(frame.to_vec());
    }

    fn dropped(&mut self, reason: DropReason) {
        panic!("the server sent a block that is no frame: {}", reason.label());
    }
}

const KEY: ConnKey = ConnKey(0);

impl Member {
    fn new(layer: RecordLayer, settings: LinkSettings, peer: MemPeer, now: Tick) -> Self {
        let mut link = Link::new(settings, now);
        link.attach(KEY, Box::new(Conn::new(layer)), Way::BOTH, now);
        Self { link, peer, pools: Pools::new(100), scratch: Scratch::default(), frames: Frames::default(), now }
    }

    fn send(&mut self, frame: &[u8]) {
        let pushed = self.link.push(frame, self.now, &mut self.pools);
        assert!(matches!(pushed, Pushed::Building { .. }), "{pushed:?}");
        let flushed = self.link.flush(KEY, self.now, &mut self.pools).unwrap().unwrap();
        self.peer.write(flushed.buf.pending());
        self.pools.sends.give(flushed.buf);
        self.link.sent(KEY);
    }

    /// Frames received since the last call.
    fn received(&mut self) -> Vec<Vec<u8>> {
        let bytes = self.peer.read_all();
        self.link.receive(KEY, &bytes, self.now, &mut self.scratch, &mut self.frames).unwrap();
        std::mem::take(&mut self.frames.0)
    }

    /// Sends what the record layer owes, such as an answer to a key update.
    fn answer(&mut self) {
        if let Some(flushed) = self.link.flush(KEY, self.now, &mut self.pools).unwrap() {
            self.peer.write(flushed.buf.pending());
            self.pools.sends.give(flushed.buf);
            self.link.sent(KEY);
        }
    }

    fn close_reason(&mut self) -> Option<CloseReason> {
        let bytes = self.peer.read_all();
        self.link.receive(KEY, &bytes, self.now, &mut self.scratch, &mut self.frames).err()
    }
}

fn frame(dst: u8, src: u8, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, dst], &[2, 0, 0, 0, 0, src], &[0x88, 0xb5][..], payload].concat()
}

fn broadcast(src: u8) -> Vec<u8> {
    let mut frame = frame(0, src, b"to everybody");
    frame[..6].fill(0xff);
    frame
}

fn crosses(workers: usize) {
    let mut bench = Bench::new(workers);
    let mut a = bench.member(1, 0);
    let mut b = bench.member(2, workers - 1);
    let mut c = bench.member(3, 0);

    // B is unknown yet: the frame is flooded. B's answer goes to A alone.
    a.send(&frame(0xb, 0xa, b"who is there"));
    bench.turn();
    assert_eq!(b.received(), [frame(0xb, 0xa, b"who is there")]);
    assert_eq!(c.received(), [frame(0xb, 0xa, b"who is there")]);
    b.send(&frame(0xa, 0xb, b"it is me"));
    bench.turn();
    assert_eq!(a.received(), [frame(0xa, 0xb, b"it is me")]);
    assert_eq!(c.received(), Vec::<Vec<u8>>::new());

    a.send(&broadcast(0xa));
    bench.turn();
    assert_eq!(b.received(), [broadcast(0xa)]);
    assert_eq!(c.received(), [broadcast(0xa)]);
    assert_eq!(a.received(), Vec::<Vec<u8>>::new(), "never back to where it came from");
}

#[test]
fn frame_crosses_the_hub() {
    crosses(1);
}

#[test]
fn frame_crosses_workers() {
    crosses(2);
}

#[test]
fn bytes_cut_anywhere_give_the_same_frames() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let mut b = bench.member(2, 0);
    a.peer.script_reads([1, 2, 3, 1, 1, 7, 30, 1]);
    for n in 0..20 {
        a.send(&frame(0xb, 0xa, &[n; 300]));
    }
    for _ in 0..10 {
        bench.turn();
    }
    let received = b.received();
    assert_eq!(received.len(), 20);
    assert!(received.iter().zip(0..).all(|(got, n)| *got == frame(0xb, 0xa, &[n; 300])));
}

#[test]
fn a_slow_reader_costs_only_itself() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let mut slow = bench.member(2, 0);
    let mut c = bench.member(3, 0);
    for (member, src) in [(&mut slow, 0xb), (&mut c, 0xc)] {
        member.send(&broadcast(src));
    }
    bench.turn();
    for member in [&mut a, &mut slow, &mut c] {
        member.received();
    }
    slow.peer.set_window(0);
    for n in 0..200 {
        a.send(&frame(0xb, 0xa, &[n; 100]));
        a.send(&frame(0xc, 0xa, &[n; 100]));
        bench.turn();
    }
    assert_eq!(c.received().len(), 200, "the other member gets everything");
    let dropped = bench.drops(DropReason::EgressQueueFull);
    assert!(dropped > 100, "{dropped} dropped for the slow one");
    slow.peer.set_window(usize::MAX);
    bench.turn();
    let late = slow.received();
    assert_eq!(late.len() as u64, 200 - dropped, "what was not dropped arrives once there is room");
    assert!(late.windows(2).all(|pair| pair[0][14] < pair[1][14]), "and in order");
}

/// 1,000 frames may wait for each of 20 members, 4,000 in all.
#[test]
fn many_slow_readers_leave_room_for_others() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let mut c = bench.member(2, 0);
    let slow: Vec<Member> = (3..23).map(|n| bench.member_with(n, 0, |_| {}, 1000)).collect();
    slow.iter().for_each(|member| member.peer.set_window(0));
    for _ in 0..400 {
        a.send(&broadcast(0xa));
        bench.turn();
        c.received();
    }
    assert!(bench.drops(DropReason::EgressPoolEmpty) > 0);
    c.peer.set_window(0);
    for _ in 0..60 {
        a.send(&broadcast(0xa));
        bench.turn();
    }
    c.peer.set_window(usize::MAX);
    bench.turn();
    assert_eq!(c.received().len(), 60, "a burst still finds room");
}

/// A half-duplex session hears nothing on its connections to the client, so silence says nothing there.
#[test]
fn a_one_way_connection_that_takes_nothing_is_closed() {
    let now = Tick::from_ms(1_000);
    let settings = LinkSettings { timeout: Duration::from_secs(20), compress: false, queue_depth: 9, seed: 1 };
    let (mut pools, mut scratch) = (Pools::new(9), Scratch::default());
    let mut link: Link = Link::new(settings, now);
    let (from_client, to_client) = (ConnKey(0), ConnKey(1));
    for (key, send) in [(from_client, false), (to_client, true)] {
        let (server, _) = connected_pair(Suite::Tls13Aes128GcmSha256, AeadBackend::AwsLc);
        link.attach(key, Box::new(Conn::new(server)), Way { send, receive: !send }, now);
    }
    let mut due = Vec::new();
    let mut poll = |link: &mut Link, pools: &mut Pools, secs: u64| {
        let now = now + Duration::from_secs(secs);
        link.receive(from_client, &[], now, &mut scratch, &mut Frames::default()).unwrap();
        due.clear();
        link.poll(now, pools, &mut due);
        due.iter().filter(|due| matches!(due, Due::Close(..))).copied().collect::<Vec<_>>()
    };
    assert_eq!(poll(&mut link, &mut pools, 30), [], "it may be silent for any time");
    link.push(&broadcast(1), now, &mut pools);
    let at = now + Duration::from_secs(30);
    assert!(link.flush(to_client, at, &mut pools).unwrap().is_some());
    assert_eq!(poll(&mut link, &mut pools, 49), []);
    assert_eq!(poll(&mut link, &mut pools, 50), [Due::Close(to_client, CloseReason::Timeout)]);
}

#[test]
fn a_session_without_room_for_its_connection_ends() {
    let mut bench = Bench::new(1);
    let _members: Vec<Member> = (0..100).map(|n| bench.member(n, 0)).collect();
    bench.reports.try_iter().for_each(drop);
    let mut late = bench.member(200, 0);
    assert_eq!(late.close_reason(), Some(CloseReason::PeerCloseNotify));
    let reports: Vec<Report> = bench.reports.try_iter().collect();
    assert!(matches!(reports[1], Report::SessionEnded { reason: CloseReason::NoRoom, .. }), "{reports:?}");
}

#[test]
fn a_bad_record_closes_its_connection_alone() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let mut b = bench.member(2, 0);
    a.send(&frame(0xb, 0xa, b"good"));
    bench.turn();
    assert_eq!(b.received().len(), 1);
    a.peer.write(&[23, 3, 3, 0, 40]);
    a.peer.write(&[0x55; 40]);
    bench.turn();
    let report = bench.reports.try_iter().next().unwrap();
    assert!(matches!(report, Report::ConnClosed { reason: CloseReason::RecordBadTag, .. }), "{report:?}");
    assert_eq!(a.close_reason(), Some(CloseReason::PeerCloseNotify), "told by close_notify");
    assert!(a.peer.saw_fin());
    b.send(&broadcast(0xb));
    bench.turn();
    assert_eq!(bench.workers[0].counters().closes(CloseReason::RecordBadTag), 1);
    let mut c = bench.member(3, 0);
    b.send(&broadcast(0xb));
    bench.turn();
    assert_eq!(c.received(), [broadcast(0xb)], "the hub goes on");
}

#[test]
fn a_session_waits_for_its_client_and_then_ends() {
    let mut bench = Bench::new(1);
    let a = bench.member(1, 0);
    a.peer.close();
    bench.turn();
    let report = bench.reports.try_iter().next().unwrap();
    assert!(matches!(report, Report::ConnClosed { reason: CloseReason::PeerEof, .. }), "{report:?}");
    bench.now = bench.now + Duration::from_secs(19);
    bench.turn();
    assert_eq!(bench.reports.try_iter().count(), 0, "the session is kept");
    bench.now = bench.now + Duration::from_secs(2);
    bench.turn();
    let report = bench.reports.try_iter().next().unwrap();
    assert!(matches!(report, Report::SessionEnded { reason: CloseReason::SessionExpired, .. }), "{report:?}");
}

#[test]
fn a_stopping_server_says_goodbye() {
    let mut bench = Bench::new(2);
    let mut members = [bench.member(1, 0), bench.member(2, 1)];
    for command in &bench.commands {
        command.send(Command::Stop).unwrap();
    }
    bench.turn();
    for member in &mut members {
        assert_eq!(member.close_reason(), Some(CloseReason::PeerCloseNotify));
        assert!(member.peer.saw_fin());
        member.peer.close();
    }
    bench.turn();
    assert!(!bench.workers.iter().any(Worker::is_stopped), "logins on their way may still arrive");
    let mut late = bench.member(3, 0);
    assert_eq!(late.close_reason(), Some(CloseReason::PeerCloseNotify), "and are told as well");
    late.peer.close();
    for command in &bench.commands {
        command.send(Command::Leave).unwrap();
    }
    bench.turn();
    assert!(bench.workers.iter().all(Worker::is_stopped));
}

/// Frames of the turn in which a connection is closed may be sealed already. Were they thrown away, the
/// close_notify behind them would be a bad record to the peer.
#[test]
fn goodbye_can_be_opened_behind_frames_of_the_same_turn() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let mut b = bench.member(2, 0);
    b.send(&broadcast(0xb));
    bench.turn();
    b.received();
    for n in 0..3 {
        a.send(&frame(0xb, 0xa, &[n; 1400]));
    }
    bench.commands[0].send(Command::End(SessionId(2), CloseReason::Kicked)).unwrap();
    bench.turn();
    assert_eq!(b.close_reason(), Some(CloseReason::PeerCloseNotify));
    assert_eq!(b.frames.0.len(), 3);
    assert!(b.peer.saw_fin());
}

#[test]
fn key_updates_find_room_behind_any_number_of_frames() {
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let mut b = bench.member_with(2, 0, |layer| layer.set_rekey_after(1), 4096);
    b.send(&broadcast(0xb));
    bench.turn();
    a.received();
    // More than a send buffer holds within one turn, in frames of every length, so that some fill it to the brim.
    for len in 46..250 {
        let count = 70_000 / len;
        // After a silence records begin small, which shifts where the last one ends.
        bench.now = bench.now + Duration::from_secs(2);
        for n in 0..count {
            a.send(&frame(0xb, 0xa, &vec![byte_of(n); len]));
        }
        let mut received = Vec::new();
        while received.len() < count {
            bench.turn();
            let more = b.received();
            assert!(!more.is_empty(), "{} of {count} frames of {len} bytes", received.len());
            received.extend(more);
            b.answer();
        }
        assert!(received.iter().enumerate().all(|(n, got)| *got == frame(0xb, 0xa, &vec![byte_of(n); len])));
    }
    assert!(bench.workers[0].counters().key_updates.read() > 400);
    assert_eq!(bench.workers[0].counters().closes(CloseReason::Panicked), 0);
}

/// A payload byte for frame `n`.
fn byte_of(n: usize) -> u8 {
    u8::try_from(n % 251).unwrap()
}
