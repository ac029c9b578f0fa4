//! One thread's share of the streams: what goes in, what comes out, and when.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hdrhistogram::Histogram;
use hublane::ids::ConnKey;
use hublane::metrics::closes::CloseReason;
use hublane::sys::clock::{monotonic, process_cpu_ns, thread_cpu_ns};
use hublane::tick::Tick;
use hublane::tls::layer::RecordLayer;
use hublane::tls::record::RECORD_BYTES_MAX;
use hublane::tunnel::buffer::SendPool;
use hublane::tunnel::records::{RecordPool, Records};
use hublane::worker::io::{CloseHow, Completion, StreamIo, Wait};

use crate::outflow::Outflow;
use crate::stream::histogram;
use crate::stream_pairs::{End, Ends};
use crate::units::{Checker, UNIT_BYTES_MIN, stamp};

/// What a thread is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) unit_bytes: usize,
    /// Closed loop: bytes of a stream on their way.
    pub(crate) window: u64,
    /// Open loop: units a second of all threads together.
    pub(crate) rate: Option<u64>,
    /// Which of how many threads this is.
    pub(crate) thread: u64,
    pub(crate) threads: u64,
    /// When to begin to send, to count, and to stop.
    pub(crate) start: Tick,
    pub(crate) from: Tick,
    pub(crate) until: Tick,
    /// The pipe's process, to be asked for its CPU time whenever this thread's counters are read.
    pub(crate) server_pid: Option<u32>,
}

impl Plan {
    /// When unit `n` of this thread is due: the threads take turns.
    fn due(&self, n: u64, rate: u64) -> Tick {
        let ns = u128::from(n * self.threads + self.thread) * 1_000_000_000 / u128::from(rate);
        self.start + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

/// What came of it between [`Plan::from`] and [`Plan::until`].
pub(crate) struct Counted {
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) units: u64,
    pub(crate) corrupt: u64,
    pub(crate) dropped_here: u64,
    pub(crate) connections_lost: u64,
    /// CPU time of the thread by elapsed time.
    pub(crate) busy: f64,
    /// CPU time of [`Plan::server_pid`] in nanoseconds.
    pub(crate) server_ns: Option<u64>,
    /// Of units that were due in the time that counts.
    pub(crate) latency: Histogram<u64>,
    pub(crate) late: Histogram<u64>,
}

/// A connection: the even keys are sources, the odd ones sinks.
struct Line {
    layer: RecordLayer,
    records: Records,
    out: Outflow,
}

/// A stream, whose connections have the keys twice its place here, and that plus one.
struct Stream {
    number: u64,
    lines: [Line; 2],
    sent: u64,
    checker: Checker,
    up: bool,
}

/// Where the counters stood.
#[derive(Clone, Copy)]
struct Mark {
    at: Tick,
    cpu_ns: u64,
    server_ns: Option<u64>,
    sent: u64,
    units: u64,
    corrupt: u64,
    dropped_here: u64,
}

/// The share.
pub(crate) struct Drive<Io> {
    io: Io,
    plan: Plan,
    streams: Vec<Stream>,
    arena: Box<[u8]>,
    pool: RecordPool,
    sends: SendPool,
    /// Connections that may have something to send.
    dirty: Vec<ConnKey>,
    /// Closed loop: the stream that is served first next time.
    first: usize,
    /// Open loop: units that were due so far.
    offered: u64,
    dropped_here: u64,
    lost: u64,
    latency: Histogram<u64>,
    late: Histogram<u64>,
}

impl<Io: StreamIo<Socket = OwnedFd>> Drive<Io> {
    /// Takes over the connections.
    pub(crate) fn new(io: Io, ends: Vec<Ends>, plan: Plan) -> io::Result<Self> {
        assert!(plan.unit_bytes >= UNIT_BYTES_MIN, "a unit has room for what is checked");
        let mut drive = Self {
            io,
            plan,
            streams: Vec::new(),
            arena: vec![0; RECORD_BYTES_MAX].into_boxed_slice(),
            pool: RecordPool::default(),
            sends: SendPool::default(),
            dirty: Vec::new(),
            first: 0,
            offered: 0,
            dropped_here: 0,
            lost: 0,
            latency: histogram(),
            late: histogram(),
        };
        for Ends { number, source, sink } in ends {
            let keys = [key_of(drive.streams.len(), 0)?, key_of(drive.streams.len(), 1)?];
            let checker = Checker::new(number, plan.unit_bytes);
            let mut early = Vec::new();
            let lines = [source, sink].map(|End { socket, layer, records, out, cipher }| {
                early.push((socket, cipher));
                Line { layer, records, out }
            });
            drive.streams.push(Stream { number, lines, sent: 0, checker, up: true });
            for (key, (socket, cipher)) in keys.into_iter().zip(early) {
                drive.io.open(key, OwnedFd::from(socket))?;
                let opened = drive.open(key, None, &cipher, monotonic());
                opened.map_err(|reason| io::Error::other(reason.label()))?;
            }
        }
        Ok(drive)
    }

    /// Sends and receives until the plan's end.
    pub(crate) fn run(mut self) -> io::Result<Counted> {
        let mut before = None;
        loop {
            let now = monotonic();
            if before.is_none() && now >= self.plan.from {
                before = Some(self.mark(now)?);
            }
            if now >= self.plan.until {
                let Some(before) = before else { return Err(io::Error::other("no time was left to count in")) };
                return self.counted(before, now);
            }
            if self.streams.iter().all(|stream| !stream.up) {
                return Err(io::Error::other("every connection was lost"));
            }
            let wait = if now < self.plan.start {
                self.plan.start.since(now)
            } else {
                match self.plan.rate {
                    Some(rate) => self.offer_due(rate, now)?,
                    None => self.offer_window(now)?,
                }
            };
            while let Some(key) = self.dirty.pop() {
                self.flush(key);
            }
            self.io.turn(if wait.is_zero() { Wait::Poll } else { Wait::For(wait.min(LONGEST_WAIT)) })?;
            self.reap();
        }
    }

    /// Fills the windows, a bounded part at a time, so that the clock is looked at often; how long to wait then.
    fn offer_window(&mut self, now: Tick) -> io::Result<Duration> {
        let units = self.plan.window / self.plan.unit_bytes as u64;
        let mut left = BYTES_PER_TURN / self.plan.unit_bytes as u64;
        let count = self.streams.len();
        self.first = (self.first + 1) % count;
        for at in (self.first..count).chain(0..self.first) {
            let until = self.streams[at].checker.units() + units;
            while self.streams[at].up && self.streams[at].sent < until {
                if left == 0 {
                    return Ok(Duration::ZERO);
                }
                left -= 1;
                self.offer(at, now)?;
            }
        }
        Ok(LONGEST_WAIT)
    }

    /// Sends all that is due; how long until the next one is.
    fn offer_due(&mut self, rate: u64, now: Tick) -> io::Result<Duration> {
        loop {
            let due = self.plan.due(self.offered, rate);
            if due > now {
                return Ok(due.since(now));
            }
            let count = self.streams.len() as u64;
            let at = usize::try_from(self.offered % count).map_err(io::Error::other)?;
            self.offered += 1;
            let stream = &self.streams[at];
            if !stream.up || (stream.sent - stream.checker.units()) * self.plan.unit_bytes as u64 > BACKLOG_BYTES_MAX {
                self.dropped_here += 1;
                continue;
            }
            if due >= self.plan.from {
                self.late.saturating_record(nanos(now.since(due)));
            }
            self.offer(at, due)?;
        }
    }

    /// Puts the next unit of a stream on its way.
    fn offer(&mut self, at: usize, time: Tick) -> io::Result<()> {
        let Self { streams, sends, .. } = self;
        let stream = &mut streams[at];
        let Stream { number, sent, .. } = *stream;
        let Line { layer, out, .. } = &mut stream.lines[0];
        let put = out.record(layer, sends, |unit| stamp(unit, number, sent, time));
        stream.sent += 1;
        let key = key_of(at, 0)?;
        match put {
            Ok(()) => self.dirty.push(key),
            Err(_) => self.lose(key),
        }
        Ok(())
    }

    fn reap(&mut self) {
        let now = monotonic();
        let mut bytes = 0;
        while bytes < BYTES_PER_TURN
            && let Some(completion) = self.io.next()
        {
            match completion {
                Completion::Received { key, buf } => {
                    bytes += u64::from(buf.len);
                    let opened = self.open(key, Some(&buf), &[], now);
                    self.io.recycle(buf);
                    if opened.is_err() {
                        self.lose(key);
                    }
                }
                Completion::Sent { key, buf, result } => {
                    self.sends.give(buf);
                    if let Some(line) = self.line(key) {
                        line.out.sent();
                    }
                    match result {
                        Ok(()) => self.flush(key),
                        Err(_) => self.lose(key),
                    }
                }
                Completion::Eof { key } | Completion::RecvFailed { key, .. } => self.lose(key),
                Completion::Closed { .. } | Completion::Ready { .. } | Completion::Woken => {}
            }
        }
    }

    /// Opens what was received: `lent`, or else `own`.
    fn open(
        &mut self,
        key: ConnKey,
        lent: Option<&hublane::worker::io::RecvBuf>,
        own: &[u8],
        now: Tick,
    ) -> Result<(), CloseReason> {
        let Self { io, streams, arena, pool, latency, plan, .. } = self;
        let (Some(stream), side) = (streams.get_mut(key.0 as usize / 2), key.0 as usize % 2) else { return Ok(()) };
        let Stream { lines, checker, up, .. } = stream;
        if !*up {
            return Ok(());
        }
        let Line { layer, records, .. } = &mut lines[side];
        let bytes = lent.map_or(own, |buf| io.bytes(buf));
        records.open_all(layer, bytes, arena, pool, |plain| {
            // Nothing is sent the other way.
            if side == 0 {
                return Err(CloseReason::RecordUnexpected);
            }
            checker.push(plain, |time| {
                if time >= plan.from {
                    latency.saturating_record(nanos(now.since(time)));
                }
            });
            Ok(())
        })?;
        if layer.wants_control() {
            self.dirty.push(key);
        }
        Ok(())
    }

    fn line(&mut self, key: ConnKey) -> Option<&mut Line> {
        Some(&mut self.streams.get_mut(key.0 as usize / 2)?.lines[key.0 as usize % 2])
    }

    fn flush(&mut self, key: ConnKey) {
        let Self { io, streams, sends, .. } = self;
        let Some(stream) = streams.get_mut(key.0 as usize / 2).filter(|stream| stream.up) else { return };
        let Line { layer, out, .. } = &mut stream.lines[key.0 as usize % 2];
        match out.flush(layer, sends) {
            Ok(Some(buf)) => io.send(key, buf),
            Ok(None) => {}
            Err(_) => self.lose(key),
        }
    }

    /// Gives up the stream of `key`.
    fn lose(&mut self, key: ConnKey) {
        let Some(stream) = self.streams.get_mut(key.0 as usize / 2).filter(|stream| stream.up) else { return };
        stream.up = false;
        self.lost += 1;
        for key in [key, ConnKey(key.0 ^ 1)] {
            self.io.close(key, CloseHow::Abort);
        }
    }

    fn mark(&self, at: Tick) -> io::Result<Mark> {
        let sum = |of: fn(&Stream) -> u64| self.streams.iter().map(of).sum();
        Ok(Mark {
            at,
            cpu_ns: thread_cpu_ns(),
            server_ns: self.plan.server_pid.map(process_cpu_ns).transpose()?,
            sent: sum(|stream| stream.sent),
            units: sum(|stream| stream.checker.units()),
            corrupt: sum(|stream| stream.checker.corrupt()),
            dropped_here: self.dropped_here,
        })
    }

    fn counted(self, before: Mark, now: Tick) -> io::Result<Counted> {
        let after = self.mark(now)?;
        let seconds = after.at.since(before.at).as_secs_f64();
        Ok(Counted {
            seconds,
            sent: after.sent - before.sent,
            units: after.units - before.units,
            corrupt: after.corrupt - before.corrupt,
            dropped_here: after.dropped_here - before.dropped_here,
            connections_lost: self.lost,
            busy: (after.cpu_ns - before.cpu_ns) as f64 / 1e9 / seconds,
            server_ns: after.server_ns.zip(before.server_ns).map(|(after, before)| after - before),
            latency: self.latency,
            late: self.late,
        })
    }
}

fn key_of(stream: usize, side: usize) -> io::Result<ConnKey> {
    u32::try_from(stream * 2 + side).map(ConnKey).map_err(io::Error::other)
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Longest sleep: the end of the plan must not be missed by much.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

/// Bytes that are made, or taken in, before time and the other direction get a look.
const BYTES_PER_TURN: u64 = 1 << 20;

/// Open loop: bytes of a stream on their way from which on no more are sent.
const BACKLOG_BYTES_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_the_rate_evenly() {
        let plan = |thread| Plan {
            unit_bytes: 64,
            window: 64,
            rate: Some(1000),
            thread,
            threads: 2,
            start: Tick(5),
            from: Tick(5),
            until: Tick(6),
            server_pid: None,
        };
        let due: Vec<u64> = (0..2).flat_map(|n| [plan(0).due(n, 1000).0, plan(1).due(n, 1000).0]).collect();
        assert_eq!(due, [5, 1_000_005, 2_000_005, 3_000_005]);
    }
}
