//! Many links on one thread: what a worker does, from the members' side.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hublane::ids::ConnKey;
use hublane::sys::clock::monotonic;
use hublane::tick::Tick;
use hublane::tls::layer::RecordLayer;
use hublane::tunnel::conn::Conn;
use hublane::tunnel::link::{Due, Link, LinkSettings, Pools, Pushed, Scratch, Way};
use hublane::worker::io::{CloseHow, Completion, StreamIo, Wait};

use crate::traffic::{Flows, Seen};

/// Runs an expression with the best back end of this machine as `$io`.
macro_rules! with_back_end {
    ($io:ident, $run:expr) => {{
        use hublane::sys::epoll::{EpollConfig, EpollIo};
        use hublane::sys::features::{FeatureMask, KernelFeatures};
        use hublane::sys::uring::{UringConfig, UringIo};
        use hublane::sys::waker::Waker;
        match KernelFeatures::probe(FeatureMask::All).uring {
            Ok(uring) => {
                let $io = UringIo::new(&UringConfig::default(), &uring, Waker::new()?)?;
                $run
            }
            Err(_) => {
                let $io = EpollIo::new(&EpollConfig::default(), Waker::new()?)?;
                $run
            }
        }
    }};
}
pub(crate) use with_back_end;

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

/// What became of a frame given to [`Driver::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushing {
    /// It goes, now or later.
    Taken,
    /// The queue is full.
    Dropped,
}

/// All members.
pub(crate) struct Driver<Io> {
    io: Io,
    /// By number of the member.
    links: Vec<Link>,
    /// Which link a connection belongs to, by key.
    owner: Vec<usize>,
    pools: Pools,
    scratch: Scratch,
    flows: Flows,
    lost: u64,
    polled: Tick,
    due: Vec<Due>,
}

/// Distance of two looks at keep-alives and timeouts.
const POLL: Duration = Duration::from_millis(250);

/// Frames that may wait for one member's connection.
const QUEUE_FRAMES: usize = 1024;

impl<Io: StreamIo<Socket = OwnedFd>> Driver<Io> {
    /// Takes over the sockets of `members`, which are numbered from 0.
    pub(crate) fn new(io: Io, members: Vec<Member>) -> io::Result<Self> {
        let mut driver = Self {
            io,
            links: Vec::new(),
            owner: Vec::new(),
            pools: Pools::new(65_536),
            scratch: Scratch::default(),
            flows: Flows::new(members.len()),
            lost: 0,
            polled: Tick(0),
            due: Vec::new(),
        };
        for member in members {
            driver.add(member)?;
        }
        Ok(driver)
    }

    fn add(&mut self, member: Member) -> io::Result<()> {
        let now = self.now();
        let seed = member.number as u64 + 1;
        let settings = LinkSettings { timeout: member.timeout, compress: false, queue_depth: QUEUE_FRAMES, seed };
        let mut link = Link::new(settings, now);
        for line in member.lines {
            let key = ConnKey(u32::try_from(self.owner.len()).map_err(io::Error::other)?);
            self.owner.push(self.links.len());
            link.attach(key, Box::new(Conn::new(line.layer)), line.way, now);
            let early = link
                .receive_plain(key, &line.plain, &mut self.scratch, &mut self.flows)
                .and_then(|()| link.receive(key, &line.cipher, now, &mut self.scratch, &mut self.flows));
            early.map_err(|reason| io::Error::other(reason.label()))?;
            self.io.open(key, OwnedFd::from(line.socket))?;
        }
        self.links.push(link);
        Ok(())
    }

    /// Now.
    pub(crate) fn now(&self) -> Tick {
        monotonic()
    }

    /// Members that have a connection.
    pub(crate) fn members_up(&self) -> usize {
        self.links.iter().filter(|link| link.conns() > 0).count()
    }

    /// Connections lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// One more than the highest number that has arrived of the flow of `member`.
    pub(crate) fn arrived(&self, member: usize) -> u64 {
        self.flows.next(member)
    }

    /// What has arrived so far.
    pub(crate) fn seen(&self) -> Seen {
        self.flows.total()
    }

    /// Sends `frame` as `member`.
    pub(crate) fn push(&mut self, member: usize, frame: &[u8], now: Tick) -> io::Result<Pushing> {
        match self.links[member].push(frame, now, &mut self.pools) {
            Pushed::Building { key, .. } => {
                self.flush(key, now);
                Ok(Pushing::Taken)
            }
            Pushed::Waiting => Ok(Pushing::Taken),
            Pushed::Dropped(_) => Ok(Pushing::Dropped),
        }
    }

    /// The same, without handing it over at once: [`Self::send`] does, so that many share a record.
    pub(crate) fn gather(&mut self, member: usize, frame: &[u8], now: Tick) -> Pushing {
        match self.links[member].push(frame, now, &mut self.pools) {
            Pushed::Building { .. } | Pushed::Waiting => Pushing::Taken,
            Pushed::Dropped(_) => Pushing::Dropped,
        }
    }

    /// Hands over what was gathered for `member`.
    pub(crate) fn send(&mut self, member: usize, now: Tick) {
        let keys: Vec<ConnKey> = self.links[member].keys().collect();
        for key in keys {
            self.flush(key, now);
        }
    }

    /// Sends and receives; keeps sessions alive.
    pub(crate) fn turn(&mut self, wait: Wait) -> io::Result<()> {
        let now = self.now();
        if now >= self.polled + POLL {
            self.polled = now;
            self.poll(now);
        }
        self.io.turn(wait)?;
        self.reap();
        Ok(())
    }

    fn poll(&mut self, now: Tick) {
        let mut due = std::mem::take(&mut self.due);
        for link in &mut self.links {
            link.poll(now, &mut self.pools, &mut due);
        }
        for what in due.drain(..) {
            match what {
                Due::Flush(key) => self.flush(key, now),
                Due::Close(key, _) => self.lose(key, now),
                Due::Expired => {}
            }
        }
        self.due = due;
    }

    fn flush(&mut self, key: ConnKey, now: Tick) {
        let link = &mut self.links[self.owner[key.0 as usize]];
        match link.flush(key, now, &mut self.pools) {
            Ok(Some(flushed)) => self.io.send(key, flushed.buf),
            Ok(None) => {}
            Err(_) => self.lose(key, now),
        }
    }

    fn lose(&mut self, key: ConnKey, now: Tick) {
        let link = &mut self.links[self.owner[key.0 as usize]];
        if link.detach(key, now, &mut self.pools).is_some() {
            self.lost += 1;
            self.io.close(key, CloseHow::Abort);
        }
    }

    fn reap(&mut self) {
        let now = self.now();
        while let Some(completion) = self.io.next() {
            match completion {
                Completion::Received { key, buf } => {
                    let link = &mut self.links[self.owner[key.0 as usize]];
                    let received = link.receive(key, self.io.bytes(&buf), now, &mut self.scratch, &mut self.flows);
                    let answer = link.wants_flush(key);
                    self.io.recycle(buf);
                    match received {
                        Ok(_) if answer => self.flush(key, now),
                        Ok(_) => {}
                        Err(_) => self.lose(key, now),
                    }
                }
                Completion::Sent { key, buf, result } => {
                    self.pools.sends.give(buf);
                    let more = self.links[self.owner[key.0 as usize]].sent(key);
                    match result {
                        Ok(()) if more => self.flush(key, now),
                        Ok(()) => {}
                        Err(_) => self.lose(key, now),
                    }
                }
                Completion::Eof { key } | Completion::RecvFailed { key, .. } => self.lose(key, now),
                Completion::Closed { .. } | Completion::Woken => {}
            }
        }
    }
}
