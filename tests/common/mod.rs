//! Workers and clients in one thread: no root, no kernel socket, no clock. Shared by the tests of whole workers.
//!
//! [`Bench`] turns workers by hand; a [`Member`] is a client, made of the same `Link` that the server uses for
//! its end, so every byte between them is a real TLS record.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod enclosed;
pub(crate) mod packets;
pub(crate) mod way_out;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use hublane::hub::{HubSettings, HubShared, PortSettings};
use hublane::ids::{ConnId, ConnKey, HubId, MemberId, SessionId};
use hublane::metrics::closes::CloseReason;
use hublane::metrics::counters::Counters;
use hublane::metrics::drops::DropReason;
use hublane::sys::waker::Waker;
use hublane::tick::Tick;
use hublane::tls::aead::AeadBackend;
use hublane::tls::keys::Suite;
use hublane::tls::layer::{RecordLayer, connected_pair};
use hublane::tunnel::conn::Conn;
use hublane::tunnel::link::{FrameSink, Link, LinkSettings, Pools, Pushed, Scratch, Way};
use hublane::wire::super_frame::SuperFrame;
use hublane::worker::exchange::mesh;
use hublane::worker::io::{StreamIo, Wait};
use hublane::worker::mem::{MemIo, MemPeer, MemSocket, pipe};
use hublane::worker::router::RouterSeed;
use hublane::worker::seeds::{Command, ConnSeed, Report, SessionSeed};
use hublane::worker::{Ties, Worker, WorkerSettings};

/// When a bench begins.
pub(crate) const START: Tick = Tick::from_ms(1_000);

/// Silence after which a session ends.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Workers in one thread, turned by hand, with one hub.
pub(crate) struct Bench<Io: StreamIo<Socket = MemSocket> = MemIo> {
    pub(crate) workers: Vec<Worker<Io>>,
    pub(crate) commands: Vec<Sender<Command<MemSocket>>>,
    pub(crate) reports: Receiver<Report>,
    pub(crate) now: Tick,
}

impl Bench {
    pub(crate) fn new(workers: usize) -> Self {
        Self::with(workers, |io| io)
    }
}

impl<Io: StreamIo<Socket = MemSocket>> Bench<Io> {
    /// Every worker's back end is what `wrap` makes of one in memory.
    pub(crate) fn with(workers: usize, wrap: impl Fn(MemIo) -> Io) -> Self {
        Self::gathering(workers, Duration::ZERO, wrap)
    }

    /// The same; workers that wake too often pause for `gather`.
    pub(crate) fn gathering(workers: usize, gather: Duration, wrap: impl Fn(MemIo) -> Io) -> Self {
        let hub = Arc::new(HubShared::new(HubSettings::default(), workers));
        Self::routing(hub, (0..workers).map(|_| Vec::new()).collect(), gather, wrap)
    }

    /// As many workers as there are `routers`, with their parts in the way out of `hub`.
    pub(crate) fn routing(
        hub: Arc<HubShared>,
        routers: Vec<Vec<RouterSeed>>,
        gather: Duration,
        wrap: impl Fn(MemIo) -> Io,
    ) -> Self {
        let hubs: Arc<[_]> = Arc::new([hub]);
        let (report, reports) = unbounded();
        let now = START;
        let mut bench = Self { workers: Vec::new(), commands: Vec::new(), reports, now };
        for ((index, mailbox), routers) in mesh(routers.len(), 1 << 16).into_iter().enumerate().zip(routers) {
            let (command, commands) = unbounded();
            let report = report.clone();
            let ties = Ties {
                index,
                mailbox,
                wakers: Arc::new([]),
                hubs: Arc::clone(&hubs),
                routers,
                commands,
                reports: Box::new(move |what| report.send(what).unwrap()),
                counters: Arc::new(Counters::default()),
            };
            let io = wrap(MemIo::new(4, 1 << 18, Waker::new().unwrap()));
            let settings = WorkerSettings { conns_max: CONNS_MAX, frames_max: 4000, gather };
            bench.workers.push(Worker::new(io, settings, ties, now));
            bench.commands.push(command);
        }
        bench
    }

    /// A member logs in on `worker`.
    pub(crate) fn member(&mut self, number: u64, worker: usize) -> Member {
        self.member_with(number, worker, &Login::default())
    }

    /// The same, with what his login agreed.
    pub(crate) fn member_with(&mut self, number: u64, worker: usize, login: &Login) -> Member {
        let (session, conn, member) = self.login(number, login);
        self.command(worker, Command::Open(session, conn));
        self.turn();
        member
    }

    /// What a login would hand to a worker, and the member who logged in.
    pub(crate) fn login(&self, number: u64, login: &Login) -> (Box<SessionSeed>, Box<ConnSeed<MemSocket>>, Member) {
        let Login { suite, backend, compress, supers, queue_depth, prepare, member, port } = *login;
        let settings = LinkSettings { timeout: TIMEOUT, compress, supers, qos: false, queue_depth, seed: number };
        let (mut server, client) = connected_pair(suite, backend);
        prepare(&mut server);
        let (socket, peer) = pipe();
        let session = SessionSeed { session: SessionId(number), member, hub: HubId(0), port, link: settings.clone() };
        let conn = ConnSeed {
            id: ConnId(number),
            peer: SocketAddr::from(([192, 0, 2, 1], 40_000)),
            socket,
            conn: Box::new(Conn::new(server)),
            way: Way::BOTH,
            plain: Vec::new(),
            cipher: Vec::new(),
        };
        (Box::new(session), Box::new(conn), Member::new(client, settings, peer, self.now))
    }

    pub(crate) fn command(&self, worker: usize, command: Command<MemSocket>) {
        self.commands[worker].send(command).unwrap();
    }

    /// Every worker turns until nothing moves any more.
    pub(crate) fn turn(&mut self) {
        for _ in 0..4 {
            for worker in &mut self.workers {
                let now = self.now;
                worker.turn(Wait::Poll, || now).unwrap();
            }
        }
    }

    /// Time passes and the workers turn.
    pub(crate) fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
        self.turn();
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.workers.iter().map(|worker| worker.counters().drops(reason)).sum()
    }

    /// Connections and sessions closed for `reason`.
    pub(crate) fn closes(&self, reason: CloseReason) -> u64 {
        self.workers.iter().map(|worker| worker.counters().closes(reason)).sum()
    }

    /// Sessions that ended since the last call, with their reasons.
    pub(crate) fn ended(&self) -> Vec<(u64, CloseReason)> {
        let ended = |report| match report {
            Report::SessionEnded { session, reason, .. } => Some((session.0, reason)),
            Report::ConnClosed { .. } | Report::Dropped { .. } => None,
        };
        self.reports.try_iter().filter_map(ended).collect()
    }
}

/// What a login agrees.
pub(crate) struct Login {
    pub(crate) suite: Suite,
    pub(crate) backend: AeadBackend,
    pub(crate) compress: bool,
    pub(crate) supers: bool,
    pub(crate) queue_depth: usize,
    /// Changes the worker's TLS side before the worker gets it.
    pub(crate) prepare: fn(&mut RecordLayer),
    pub(crate) member: MemberId,
    pub(crate) port: PortSettings,
}

impl Default for Login {
    fn default() -> Self {
        let (suite, backend) = (Suite::Tls13Aes128GcmSha256, AeadBackend::AwsLc);
        let (member, port) = (MemberId(1), PortSettings::OPEN);
        Self { suite, backend, compress: false, supers: false, queue_depth: 64, prepare: |_| {}, member, port }
    }
}

/// Connections that a worker of the bench takes.
pub(crate) const CONNS_MAX: usize = 100;

/// A client, by the same [`Link`] that the server uses for its end.
pub(crate) struct Member {
    pub(crate) link: Link,
    pub(crate) peer: MemPeer,
    pub(crate) now: Tick,
    pools: Pools,
    scratch: Scratch,
    frames: Frames,
}

#[derive(Default)]
struct Frames {
    frames: Vec<Vec<u8>>,
    /// Super-frames, with the payload of their segments.
    supers: Vec<(Vec<u8>, u16)>,
}

impl FrameSink for Frames {
    fn frame(&mut self, frame: &[u8]) {
        self.frames.push(frame.to_vec());
    }

    fn super_frame(&mut self, frame: &SuperFrame<'_>) {
        self.supers.push((frame.bytes().to_vec(), frame.segment_bytes()));
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

    pub(crate) fn send(&mut self, frame: &[u8]) {
        let pushed = self.link.push(frame, self.now, &mut self.pools);
        assert!(matches!(pushed, Pushed::Building { .. }), "{pushed:?}");
        self.answer();
    }

    /// Sends a super-frame whole.
    pub(crate) fn send_super(&mut self, frame: &SuperFrame<'_>) {
        self.link.push_super(frame, self.now, &mut self.pools, &mut |pushed, _| {
            assert!(matches!(pushed, Pushed::Building { .. }), "{pushed:?}");
        });
        self.answer();
    }

    /// Super-frames received since the last call, as far as [`Self::received`] has taken them in.
    pub(crate) fn supers(&mut self) -> Vec<(Vec<u8>, u16)> {
        std::mem::take(&mut self.frames.supers)
    }

    /// Sends what the link has ready, such as an answer to a key update.
    pub(crate) fn answer(&mut self) {
        if let Some(flushed) = self.link.flush(KEY, self.now, &mut self.pools).unwrap() {
            self.peer.write(flushed.buf.pending());
            self.pools.sends.give(flushed.buf);
            self.link.sent(KEY, self.now);
        }
    }

    /// Sends `plain` in records of `record_bytes`, wherever blocks end.
    pub(crate) fn send_stream(&mut self, plain: &[u8], record_bytes: usize) {
        let mut conn = self.link.detach(KEY, self.now, &mut self.pools).unwrap().conn;
        for part in plain.chunks(record_bytes) {
            let (prefix, suffix) = (conn.layer.prefix_len(), conn.layer.suffix_len());
            let mut record = [&vec![0; prefix], part, &vec![0; suffix]].concat();
            conn.layer.seal(&mut record, part.len()).unwrap();
            self.peer.write(&record);
        }
        self.link.attach(KEY, conn, Way::BOTH, self.now);
    }

    /// Says that it is alive, if it is time for that; takes for granted that the server is.
    pub(crate) fn keep_alive(&mut self) {
        self.link.receive(KEY, &[], self.now, &mut self.scratch, &mut self.frames).unwrap();
        self.link.poll(self.now, &mut self.pools, &mut Vec::new());
        self.answer();
    }

    /// Frames received since the last call.
    pub(crate) fn received(&mut self) -> Vec<Vec<u8>> {
        let (frames, end) = self.received_until_end();
        assert_eq!(end, None);
        frames
    }

    /// Frames received since the last call, and the end of the connection if it has come.
    pub(crate) fn received_until_end(&mut self) -> (Vec<Vec<u8>>, Option<CloseReason>) {
        let bytes = self.peer.read_all();
        self.take(&bytes)
    }

    /// The same for bytes that the caller has read.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> (Vec<Vec<u8>>, Option<CloseReason>) {
        let end = self.link.receive(KEY, bytes, self.now, &mut self.scratch, &mut self.frames).err();
        (std::mem::take(&mut self.frames.frames), end)
    }

    /// How the connection ended; what came before is discarded.
    pub(crate) fn close_reason(&mut self) -> Option<CloseReason> {
        self.received_until_end().1
    }
}

pub(crate) fn frame(dst: u8, src: u8, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, dst], &[2, 0, 0, 0, 0, src], &[0x88, 0xb5][..], payload].concat()
}

pub(crate) fn broadcast(src: u8) -> Vec<u8> {
    let mut frame = frame(0, src, b"to everybody");
    frame[..6].fill(0xff);
    frame
}
