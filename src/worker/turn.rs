//! One turn of a worker's loop.
//!
//! 1. wait: hand the sends of the last turn to the kernel and sleep until something happens  (one system call; where
//!    frames come so often that waking is the cost, a short pause before it: [`super::gather`])
//! 2. reap: bytes received → records opened → frames switched; sends that ended → more of the backlog
//! 3. lanes: packets from the Internet, through NAT; exchange: frames from other workers
//! 4. commands from control threads
//! 5. timers: keep-alives, timeouts, ageing, what a gateway and NAT have to do
//! 6. flush: seal every record under construction, queue it for sending; hand the lanes their bursts
//!
//! The clock is read after the wait, and once more at the end. A turn never waits for a member: what cannot be sent is queued,
//! and dropped for that member alone when his queue is full. Whatever touches a port's state runs in
//! `Worker::step`, so that a defect ends one session and not the worker.
#![forbid(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use super::Worker;
use super::egress::Fabric;
use super::ingress::Ingress;
use super::io::{Completion, RecvBuf, StreamIo, Wait};
use super::router;
use super::seeds::Report;
use super::slots::{Phase, Port};
use super::timers::Timer;
use crate::ids::{ConnKey, HubId, PortId};
use crate::metrics::closes::CloseReason;
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::tunnel::buffer::SendBuf;
use crate::tunnel::link::{Due, Flushed, Scratch};

/// Distance of two housekeeping runs, each of which ages a part of the FDB: short enough for small parts, long
/// enough that an idle worker hardly wakes.
pub const HOUSEKEEPING: Duration = Duration::from_millis(500);

/// Distance of two reports about dropped frames.
pub const SAMPLE: Duration = Duration::from_secs(10);

/// Bytes taken from our own sockets in a turn. In the shortest frames these are 58,000: without a bound, members
/// who flood would keep timers, commands and other workers' frames waiting for everything that buffers hold.
const BYTES_PER_TURN: u64 = 1 << 20;

/// Frames taken from other workers in a turn: about what a turn takes from its own sockets.
const PARCELS_PER_TURN: usize = 4096;

impl<Io: StreamIo> Worker<Io> {
    /// One turn. Waits `longest` at most, less if a timer is due, not at all if commands or mail are there.
    /// `clock` is asked after the wait, and at the end for how long the turn has worked.
    ///
    /// # Errors
    /// If the back end failed; the worker cannot go on then.
    pub fn turn(&mut self, longest: Wait, mut clock: impl FnMut() -> Tick) -> io::Result<()> {
        let wait = match self.until_next_timer(longest) {
            Wait::Poll => Wait::Poll,
            wait if self.mail.fall_asleep() => wait,
            _ => Wait::Poll,
        };
        self.wait(wait)?;
        self.now = clock();
        self.fabric.counters.turns.add(1);
        let received = self.reap();
        let came = self.fabric.receive_lanes(self.now) | self.exchange() | received;
        self.gathering.turned(came, self.now);
        self.obey();
        self.expire();
        self.end_broken();
        self.flush();
        self.worked = clock().since(self.now);
        Ok(())
    }

    fn until_next_timer(&self, longest: Wait) -> Wait {
        if !self.commands.is_empty() || longest == Wait::Poll || self.fabric.lanes_wait() {
            return Wait::Poll;
        }
        let Some(next) = self.timers.next() else { return longest };
        let left = next.since(self.now);
        match longest {
            Wait::For(longest) if longest < left => Wait::For(longest),
            _ if left.is_zero() => Wait::Poll,
            _ => Wait::For(left),
        }
    }

    /// Sends, and waits as `wait` allows; where waking is the cost, a pause at least, unless something is there already.
    fn wait(&mut self, wait: Wait) -> io::Result<()> {
        if let Some(pause) = self.gathering.pause(wait) {
            self.io.turn(Wait::Poll)?;
            if !self.io.is_quiet() {
                return Ok(());
            }
            // Not io_uring's minimal wait (Linux 6.12): it costs the same, and older kernels have none.
            thread::sleep(pause);
        }
        self.io.turn(wait)
    }

    /// What is left when the turn has read enough waits for the next one, which does not sleep.
    /// Returns whether anything was received.
    fn reap(&mut self) -> bool {
        let mut bytes = 0;
        while bytes < BYTES_PER_TURN
            && let Some(completion) = self.io.next()
        {
            match completion {
                Completion::Received { key, buf } => {
                    bytes += u64::from(buf.len);
                    self.received(key, &buf);
                    self.io.recycle(buf);
                }
                Completion::Sent { key, buf, result } => self.sent(key, buf, result),
                Completion::Eof { key } => self.ended(key, CloseReason::PeerEof),
                Completion::RecvFailed { key, .. } => self.ended(key, CloseReason::SocketFailed),
                Completion::Closed { key } => {
                    self.conns.remove(key);
                    self.fabric.counters.conns.set(self.conns.len() as u64);
                }
                Completion::Ready { watch } => self.fabric.lane_ready(watch),
                Completion::Woken => {}
            }
        }
        bytes > 0
    }

    /// Bytes from a member: the step in which frames enter the hub.
    fn received(&mut self, key: ConnKey, buf: &RecvBuf) {
        let Some(id) = self.conns.live_port(key) else { return };
        let received = self.step(id, |io, port, scratch, fabric, now| {
            let mut sink = Ingress { fabric, port: id, hub: port.hub, now };
            let received = port.link.receive(key, io.bytes(buf), now, scratch, &mut sink);
            received.map(|received| (received, port.link.wants_flush(key)))
        });
        match received {
            Some(Ok((received, wants_flush))) => {
                self.fabric.counters.records_in.add(received.records);
                self.fabric.counters.key_updates.add(received.key_updates);
                if wants_flush {
                    self.fabric.dirty.push(key);
                }
            }
            Some(Err(reason)) => self.close_conn(key, reason),
            None => {}
        }
    }

    /// One step of a port, which is taken out of its table meanwhile, so that the step can reach every other
    /// port. A panic in it costs this session alone; `None` then.
    pub(super) fn step<R>(
        &mut self,
        id: PortId,
        step: impl FnOnce(&Io, &mut Port, &mut Scratch, &mut Fabric, Tick) -> R,
    ) -> Option<R> {
        let mut port = self.fabric.ports.take(id)?;
        let Self { io, scratch, fabric, now, .. } = self;
        let done = catch_unwind(AssertUnwindSafe(|| step(io, &mut port, scratch, fabric, *now)));
        self.fabric.ports.put_back(port);
        self.fabric.deliver_late(self.now);
        if done.is_err() {
            self.end_defective(id);
        }
        done.ok()
    }

    /// Ends the sessions that could not take a frame because of a defect.
    fn end_broken(&mut self) {
        while let Some(id) = self.fabric.broken.pop() {
            self.end_defective(id);
        }
    }

    fn end_defective(&mut self, id: PortId) {
        tracing::error!(port = %id, "a defect of this server ended a session; please report it");
        self.end_port(id, CloseReason::Panicked);
    }

    fn sent(&mut self, key: ConnKey, buf: SendBuf, result: Result<(), io::ErrorKind>) {
        self.fabric.pools.sends.give(buf);
        let Some(id) = self.conns.live_port(key) else { return self.closing_sent(key, result.is_ok()) };
        let Some(port) = self.fabric.ports.get_mut(id) else { return };
        // What the worker itself took since the send began is not the path's.
        let sent = port.link.sent(key, self.now.earlier(self.worked));
        if let Some(bytes) = sent.unsent {
            self.io.limit_unsent(key, bytes);
        }
        match result {
            Ok(()) if sent.more => self.flush_conn(key),
            Ok(()) => {}
            Err(_) => self.close_conn(key, CloseReason::SocketFailed),
        }
    }

    fn ended(&mut self, key: ConnKey, reason: CloseReason) {
        match self.conns.get_mut(key).map(|state| &mut state.phase) {
            Some(Phase::Live(_)) => self.close_conn(key, reason),
            Some(Phase::Closing(_)) => self.closing_ended(key, reason),
            Some(Phase::Gone) | None => {}
        }
    }

    /// Frames from other workers, a bounded number, so that they cannot hold up our own members.
    /// Returns whether there were any.
    fn exchange(&mut self) -> bool {
        let mut bytes = 0;
        for taken in 0..PARCELS_PER_TURN {
            if bytes >= BYTES_PER_TURN {
                break;
            }
            let Some(message) = self.mail.receive() else { return taken > 0 };
            bytes += message.frame().len() as u64;
            self.fabric.take_in(message.header(), message.frame(), self.now);
        }
        true
    }

    fn expire(&mut self) {
        let mut expired = std::mem::take(&mut self.expired);
        self.timers.expire(self.now, &mut expired);
        for (at, timer) in expired.drain(..) {
            match timer {
                Timer::Port(id) => {
                    if self.fabric.ports.get_mut(id).is_some_and(|port| port.timer_at == at) {
                        self.poll_port(id);
                    }
                }
                Timer::Closing { key, stamp } => self.closing_expired(key, stamp),
                Timer::Router(hub) => {
                    self.fabric.poll_router(hub, self.now);
                    self.watch_device(hub);
                    self.timers.set(self.now + router::POLL, Timer::Router(hub));
                }
                Timer::Housekeeping => {
                    self.fabric.housekeeping(self.now);
                    self.sample_drops();
                    self.timers.set(self.now + HOUSEKEEPING, Timer::Housekeeping);
                }
            }
        }
        self.expired = expired;
    }

    /// Has the back end tell when the lane of `hub` has something, if its device is another one than before.
    fn watch_device(&mut self, hub: HubId) {
        let Some(device) = self.fabric.new_device(hub) else { return };
        let watched = u8::try_from(hub.0).map_err(io::Error::other).and_then(|watch| self.io.watch(watch, device));
        if let Err(error) = watched {
            tracing::error!(hub = hub.0, %error, "the device of a lane cannot be watched; it is looked at now and then");
        }
    }

    /// Tells how many frames were dropped since the last sample.
    fn sample_drops(&mut self) {
        if self.now < self.sample_at {
            return;
        }
        self.sample_at = self.now + SAMPLE;
        for (reason, before) in DropReason::ALL.iter().zip(&mut self.sampled) {
            let count = self.fabric.counters.drops(*reason) - *before;
            if count > 0 {
                *before += count;
                (self.reports)(Report::Dropped { worker: self.fabric.index, reason: *reason, count, at: self.now });
            }
        }
    }

    /// Does what is due for a port and sets its next timer.
    pub(super) fn poll_port(&mut self, id: PortId) {
        let mut due = std::mem::take(&mut self.due);
        let polled = self.step(id, |_, port, _, fabric, now| {
            port.timer_at = port.link.poll(now, &mut fabric.pools, &mut due);
            port.timer_at
        });
        if let Some(next) = polled {
            self.timers.set(next, Timer::Port(id));
        }
        for what in due.drain(..) {
            match what {
                Due::Flush(key) => self.fabric.dirty.push(key),
                Due::Close(key, reason) => self.close_conn(key, reason),
                Due::Expired => self.end_port(id, CloseReason::SessionExpired),
            }
        }
        self.due = due;
    }

    /// Seals and sends what the turn has built; then rings the workers that got frames.
    fn flush(&mut self) {
        while let Some(key) = self.fabric.dirty.pop() {
            self.flush_conn(key);
        }
        self.fabric.flush_lanes(self.now);
        let wakers = &self.wakers;
        self.fabric.outbox.flush(|worker| {
            if let Some(waker) = wakers.get(worker) {
                waker.wake();
            }
        });
    }

    fn flush_conn(&mut self, key: ConnKey) {
        let Some(id) = self.conns.live_port(key) else { return };
        match self.step(id, |_, port, _, fabric, now| port.link.flush(key, now, &mut fabric.pools)) {
            Some(Ok(Some(flushed))) => self.send(key, flushed),
            Some(Ok(None)) | None => {}
            Some(Err(reason)) => self.close_conn(key, reason),
        }
    }

    pub(super) fn send(&mut self, key: ConnKey, flushed: Flushed) {
        let counters = &self.fabric.counters;
        counters.records_out.add(flushed.records);
        counters.key_updates.add(flushed.key_updates);
        counters.frames_out.add(flushed.frames);
        counters.bytes_out.add(flushed.bytes);
        if flushed.late > 0 {
            counters.drop_frames(DropReason::EgressLate, flushed.late);
        }
        self.io.send(key, flushed.buf);
    }
}
