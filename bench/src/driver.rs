//! Many links on one thread: what a worker does, from the members' side.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hublane::ids::ConnKey;
use hublane::metrics::drops::DropReason;
use hublane::sys::clock::monotonic;
use hublane::tick::Tick;
use hublane::tls::layer::RecordLayer;
use hublane::tunnel::conn::Conn;
use hublane::tunnel::link::{Due, FrameSink, Link, LinkSettings, Pools, Pushed, Scratch, Way};
use hublane::worker::io::{CloseHow, Completion, StreamIo, Wait};

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

/// Who takes what arrives. Members are numbered by [`Driver::add`].
pub(crate) trait Arrivals {
    /// `frame` arrived for `member`.
    fn frame(&mut self, member: usize, frame: &[u8], now: Tick);

    /// Something arrived that is no frame: what a server sends always is one, else the tunnel is at fault.
    fn broken(&mut self);
}

/// Members of one thread.
pub(crate) struct Driver<Io> {
    io: Io,
    /// By number; `None`: has left.
    links: Vec<Option<Link>>,
    free: VecDeque<usize>,
    /// Which member a connection belongs to, by key.
    owner: Vec<Option<usize>>,
    free_keys: Vec<ConnKey>,
    pools: Pools,
    scratch: Scratch,
    /// Connections with a record under construction.
    dirty: Vec<ConnKey>,
    lost: u64,
    records: u64,
    frames: u64,
    polled: Tick,
    due: Vec<Due>,
}

/// Distance of two looks at keep-alives and timeouts.
const POLL: Duration = Duration::from_millis(250);

/// Frames that may wait for one member's connection.
const QUEUE_FRAMES: usize = 4096;

/// Frames that may wait in all.
const POOL_FRAMES: usize = 65_536;

impl<Io: StreamIo<Socket = OwnedFd>> Driver<Io> {
    /// Without members.
    pub(crate) fn new(io: Io) -> Self {
        Self {
            io,
            links: Vec::new(),
            free: VecDeque::new(),
            owner: Vec::new(),
            free_keys: Vec::new(),
            pools: Pools::new(POOL_FRAMES),
            scratch: Scratch::default(),
            dirty: Vec::new(),
            lost: 0,
            records: 0,
            frames: 0,
            polled: Tick(0),
            due: Vec::new(),
        }
    }

    /// Takes over the sockets of a member; the number it has here.
    pub(crate) fn add(&mut self, member: Member, arrivals: &mut impl Arrivals) -> io::Result<usize> {
        let now = monotonic();
        let at = self.free.pop_front().unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        });
        let seed = member.number as u64 + 1;
        let settings = LinkSettings {
            timeout: member.timeout,
            compress: false,
            supers: false,
            qos: false,
            queue_depth: QUEUE_FRAMES,
            seed,
        };
        let mut link = Link::new(settings, now);
        for line in member.lines {
            let key = self.key_for(at)?;
            link.attach(key, Box::new(Conn::new(line.layer)), line.way, now);
            let mut sink = Sink { member: at, now, arrivals };
            let early = link
                .receive_plain(key, &line.plain, &mut self.scratch, &mut sink)
                .and_then(|()| link.receive(key, &line.cipher, now, &mut self.scratch, &mut sink));
            early.map_err(|reason| io::Error::other(reason.label()))?;
            self.io.open(key, OwnedFd::from(line.socket))?;
        }
        self.links[at] = Some(link);
        Ok(at)
    }

    fn key_for(&mut self, member: usize) -> io::Result<ConnKey> {
        let key = match self.free_keys.pop() {
            Some(key) => key,
            None => {
                self.owner.push(None);
                ConnKey(u32::try_from(self.owner.len() - 1).map_err(io::Error::other)?)
            }
        };
        self.owner[key.0 as usize] = Some(member);
        Ok(key)
    }

    /// Closes the connections of a member; its number is free then.
    pub(crate) fn remove(&mut self, member: usize) {
        let Some(link) = self.links[member].take() else { return };
        for key in link.keys() {
            self.owner[key.0 as usize] = None;
            self.io.close(key, CloseHow::Orderly);
        }
        self.free.push_back(member);
    }

    /// Members that have a connection.
    pub(crate) fn members_up(&self) -> usize {
        self.links.iter().flatten().filter(|link| link.conns() > 0).count()
    }

    /// Connections that the server or the way has ended.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Records and frames sent so far.
    pub(crate) fn sent(&self) -> (u64, u64) {
        (self.records, self.frames)
    }

    /// Gives `member` a frame to send; it goes with the next [`Self::flush`]. `false`: there is no room.
    pub(crate) fn push(&mut self, member: usize, frame: &[u8], now: Tick) -> bool {
        let Some(link) = &mut self.links[member] else { return false };
        match link.push(frame, now, &mut self.pools) {
            Pushed::Building { key, first } => {
                if first {
                    self.dirty.push(key);
                }
                true
            }
            Pushed::Waiting | Pushed::Replacing { .. } => true,
            Pushed::Dropped(_) => false,
        }
    }

    /// Seals what was pushed; the next turn sends it.
    pub(crate) fn flush(&mut self, now: Tick) {
        while let Some(key) = self.dirty.pop() {
            self.flush_conn(key, now);
        }
    }

    /// Sends and receives; keeps sessions alive.
    pub(crate) fn turn(&mut self, wait: Wait, arrivals: &mut impl Arrivals) -> io::Result<()> {
        let now = monotonic();
        if now >= self.polled + POLL {
            self.polled = now;
            self.poll(now);
        }
        self.io.turn(wait)?;
        while let Some(completion) = self.io.next() {
            self.completed(completion, arrivals);
        }
        Ok(())
    }

    fn poll(&mut self, now: Tick) {
        let mut due = std::mem::take(&mut self.due);
        for link in self.links.iter_mut().flatten() {
            link.poll(now, &mut self.pools, &mut due);
        }
        for what in due.drain(..) {
            match what {
                Due::Flush(key) => self.flush_conn(key, now),
                Due::Close(key, _) => self.lose(key, now),
                Due::Expired => {}
            }
        }
        self.due = due;
    }

    fn link(&mut self, key: ConnKey) -> Option<(usize, &mut Link)> {
        let member = (*self.owner.get(key.0 as usize)?)?;
        Some((member, self.links[member].as_mut()?))
    }

    fn flush_conn(&mut self, key: ConnKey, now: Tick) {
        let Some(member) = self.owner[key.0 as usize] else { return };
        let Some(link) = &mut self.links[member] else { return };
        match link.flush(key, now, &mut self.pools) {
            Ok(Some(flushed)) => {
                self.records += flushed.records;
                self.frames += flushed.frames;
                self.io.send(key, flushed.buf);
            }
            Ok(None) => {}
            Err(_) => self.lose(key, now),
        }
    }

    fn lose(&mut self, key: ConnKey, now: Tick) {
        let Some(member) = self.owner[key.0 as usize] else { return };
        let Some(link) = &mut self.links[member] else { return };
        if link.detach(key, now, &mut self.pools).is_some() {
            self.lost += 1;
            self.io.close(key, CloseHow::Abort);
        }
    }

    fn completed(&mut self, completion: Completion, arrivals: &mut impl Arrivals) {
        match completion {
            Completion::Received { key, buf } => {
                let now = monotonic();
                let member = self.owner[key.0 as usize];
                let link = member.and_then(|member| self.links[member].as_mut());
                let Some((member, link)) = member.zip(link) else { return self.io.recycle(buf) };
                let mut sink = Sink { member, now, arrivals };
                let received = link.receive(key, self.io.bytes(&buf), now, &mut self.scratch, &mut sink);
                let answer = link.wants_flush(key);
                self.io.recycle(buf);
                match received {
                    Ok(_) if answer => self.flush_conn(key, now),
                    Ok(_) => {}
                    Err(_) => self.lose(key, now),
                }
            }
            Completion::Sent { key, buf, result } => {
                self.pools.sends.give(buf);
                let now = monotonic();
                let sent = self.link(key).map(|(_, link)| link.sent(key, now)).unwrap_or_default();
                if let Some(bytes) = sent.unsent {
                    self.io.limit_unsent(key, bytes);
                }
                match result {
                    Ok(()) if sent.more => self.flush_conn(key, now),
                    Ok(()) => {}
                    Err(_) => self.lose(key, now),
                }
            }
            Completion::Eof { key } | Completion::RecvFailed { key, .. } => self.lose(key, monotonic()),
            Completion::Closed { key } => {
                self.owner[key.0 as usize] = None;
                self.free_keys.push(key);
            }
            Completion::Ready { .. } | Completion::Woken => {}
        }
    }
}

/// Names the member whose bytes are read.
struct Sink<'a, A> {
    member: usize,
    now: Tick,
    arrivals: &'a mut A,
}

impl<A: Arrivals> FrameSink for Sink<'_, A> {
    #[inline]
    fn frame(&mut self, frame: &[u8]) {
        self.arrivals.frame(self.member, frame, self.now);
    }

    fn dropped(&mut self, _reason: DropReason) {
        self.arrivals.broken();
    }
}
