//! Many links on one thread: what a worker does, from the members' side.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hublane::ids::ConnKey;
use hublane::metrics::drops::DropReason;
use hublane::tick::Tick;
use hublane::tls::layer::RecordLayer;
use hublane::tunnel::conn::Conn;
use hublane::tunnel::link::{Due, FrameSink, Link, LinkSettings, Pools, Pushed, Scratch, Way};
use hublane::worker::io::{Completion, StreamIo, Wait};
use serde::Serialize;

/// One TCP connection of a member, logged in.
pub(crate) struct Line {
    pub(crate) socket: TcpStream,
    pub(crate) layer: RecordLayer,
    pub(crate) plain: Vec<u8>,
    pub(crate) cipher: Vec<u8>,
    pub(crate) way: Way,
}

/// One member, logged in.
pub(crate) struct Member {
    pub(crate) number: usize,
    pub(crate) timeout: Duration,
    pub(crate) lines: Vec<Line>,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    members_at_end: usize,
    frames_sent: u64,
    frames_received: u64,
    frames_dropped_here: u64,
    connections_lost: u64,
    seconds: f64,
}

/// All members.
pub(crate) struct Driver<Io> {
    io: Io,
    links: Vec<(usize, Link)>,
    /// Which link a connection belongs to, by key.
    owner: Vec<usize>,
    pools: Pools,
    scratch: Scratch,
    began: Instant,
    counted: Counted,
    lost: u64,
}

#[derive(Default)]
struct Counted {
    frames: u64,
}

impl FrameSink for Counted {
    fn frame(&mut self, _frame: &[u8]) {
        self.frames += 1;
    }

    fn dropped(&mut self, _reason: DropReason) {}
}

impl<Io: StreamIo<Socket = OwnedFd>> Driver<Io> {
    /// Takes over the sockets of `members`.
    pub(crate) fn new(io: Io, members: Vec<Member>) -> io::Result<Self> {
        let mut driver = Self {
            io,
            links: Vec::new(),
            owner: Vec::new(),
            pools: Pools::new(65_536),
            scratch: Scratch::default(),
            began: Instant::now(),
            counted: Counted::default(),
            lost: 0,
        };
        for member in members {
            driver.add(member)?;
        }
        Ok(driver)
    }

    fn add(&mut self, member: Member) -> io::Result<()> {
        let now = self.now();
        let settings = LinkSettings {
            timeout: member.timeout,
            compress: false,
            queue_depth: 1024,
            seed: member.number as u64 + 1,
        };
        let mut link = Link::new(settings, now);
        for line in member.lines {
            let key = ConnKey(u32::try_from(self.owner.len()).map_err(io::Error::other)?);
            self.owner.push(self.links.len());
            link.attach(key, Box::new(Conn::new(line.layer)), line.way, now);
            let early = link
                .receive_plain(key, &line.plain, &mut self.scratch, &mut self.counted)
                .and_then(|()| link.receive(key, &line.cipher, now, &mut self.scratch, &mut self.counted));
            early.map_err(|reason| io::Error::other(reason.label()))?;
            self.io.open(key, OwnedFd::from(line.socket))?;
        }
        self.links.push((member.number, link));
        Ok(())
    }

    fn now(&self) -> Tick {
        Tick(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Keeps the sessions alive for `span` and sends `pps` frames a second in all.
    pub(crate) fn run(&mut self, span: Duration, pps: u64, frame_bytes: usize) -> io::Result<Report> {
        let start = self.now();
        let end = start + span;
        let mut report = Report::default();
        let mut next_poll = start;
        let mut frame = vec![0; frame_bytes];
        loop {
            let now = self.now();
            if now >= end {
                break;
            }
            let due = u64::try_from(now.since(start).as_nanos() * u128::from(pps) / 1_000_000_000).unwrap_or(u64::MAX);
            while report.frames_sent < due {
                self.chatter(report.frames_sent, &mut frame, now, &mut report)?;
            }
            if now >= next_poll {
                self.poll(now)?;
                next_poll = now + Duration::from_millis(250);
            }
            let pause = if pps > 0 { Duration::from_millis(5) } else { next_poll.since(now) };
            self.io.turn(Wait::For(pause))?;
            self.reap()?;
        }
        report.frames_received = self.counted.frames;
        report.connections_lost = self.lost;
        report.members_at_end = self.links.iter().filter(|(_, link)| link.conns() > 0).count();
        report.seconds = self.now().since(start).as_secs_f64();
        Ok(report)
    }

    /// One frame from a member to the next one. The first round only makes addresses known.
    fn chatter(&mut self, count: u64, frame: &mut [u8], now: Tick, report: &mut Report) -> io::Result<()> {
        let from = usize::try_from(count % self.links.len() as u64).map_err(io::Error::other)?;
        let to = (from + 1) % self.links.len();
        frame[..6].copy_from_slice(&mac(self.links[to].0));
        frame[6..12].copy_from_slice(&mac(self.links[from].0));
        frame[12..14].copy_from_slice(&LOCAL_EXPERIMENT);
        frame[14..22].copy_from_slice(&count.to_be_bytes());
        report.frames_sent += 1;
        match self.links[from].1.push(frame, now, &mut self.pools) {
            Pushed::Building { key, .. } => self.flush(key, now),
            Pushed::Waiting => Ok(()),
            Pushed::Dropped(_) => {
                report.frames_dropped_here += 1;
                Ok(())
            }
        }
    }

    fn poll(&mut self, now: Tick) -> io::Result<()> {
        let mut due = Vec::new();
        for (_, link) in &mut self.links {
            link.poll(now, &mut self.pools, &mut due);
        }
        for what in due {
            match what {
                Due::Flush(key) => self.flush(key, now)?,
                Due::Close(key, _) => self.lose(key, now),
                Due::Expired => {}
            }
        }
        Ok(())
    }

    fn flush(&mut self, key: ConnKey, now: Tick) -> io::Result<()> {
        let (_, link) = &mut self.links[self.owner[key.0 as usize]];
        match link.flush(key, now, &mut self.pools) {
            Ok(Some(flushed)) => self.io.send(key, flushed.buf),
            Ok(None) => {}
            Err(_) => self.lose(key, now),
        }
        Ok(())
    }

    fn lose(&mut self, key: ConnKey, now: Tick) {
        let (_, link) = &mut self.links[self.owner[key.0 as usize]];
        if link.detach(key, now, &mut self.pools).is_some() {
            self.lost += 1;
            self.io.close(key, hublane::worker::io::CloseHow::Abort);
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let now = self.now();
        while let Some(completion) = self.io.next() {
            match completion {
                Completion::Received { key, buf } => {
                    let (_, link) = &mut self.links[self.owner[key.0 as usize]];
                    let bytes = self.io.bytes(&buf);
                    let received = link.receive(key, bytes, now, &mut self.scratch, &mut self.counted);
                    let answer = link.wants_flush(key);
                    self.io.recycle(buf);
                    match received {
                        Ok(_) if answer => self.flush(key, now)?,
                        Ok(_) => {}
                        Err(_) => self.lose(key, now),
                    }
                }
                Completion::Sent { key, buf, result } => {
                    self.pools.sends.give(buf);
                    let (_, link) = &mut self.links[self.owner[key.0 as usize]];
                    let more = link.sent(key);
                    match result {
                        Ok(()) if more => self.flush(key, now)?,
                        Ok(()) => {}
                        Err(_) => self.lose(key, now),
                    }
                }
                Completion::Eof { key } | Completion::RecvFailed { key, .. } => self.lose(key, now),
                Completion::Closed { .. } | Completion::Woken => {}
            }
        }
        Ok(())
    }
}

/// EtherType for local experiments (IEEE 802).
const LOCAL_EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// A locally administered address for each member.
fn mac(number: usize) -> [u8; 6] {
    let [.., a, b, c, d] = (number as u64).to_be_bytes();
    [0x02, 0x5e, a, b, c, d]
}
