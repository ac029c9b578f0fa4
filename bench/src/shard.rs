//! One thread of the generator: its members, what they send, what becomes of what they receive.
//!
//! A pair of members lives on one thread. What a sender must know of a receiver elsewhere (how far a closed flow has
//! come) stands in [`Run::arrived`], written by the receiver's thread alone.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use hdrhistogram::Histogram;
use hublane::sys::clock::{monotonic, thread_cpu_ns};
use hublane::tick::Tick;
use hublane::worker::io::{StreamIo, Wait};

use crate::driver::{Driver, Member};
use crate::inbox::{Answer, Inbox, Totals};
use crate::plan::{Pace, Plan, Timetable, To};
use crate::traffic::{BROADCAST, FRAME_BYTES_MAX, FRAME_BYTES_MIN, HELLO, Stamp, mac};
use crate::visits::Visit;

/// A run, the same for all threads.
pub(crate) struct Run {
    /// Tells the frames of this run from those of earlier ones.
    pub(crate) number: u32,
    /// Who sends what.
    pub(crate) plan: Plan,
    /// When open flows send.
    pub(crate) table: Option<Timetable>,
    /// When flows begin.
    pub(crate) start: Tick,
    /// From when on it is measured.
    pub(crate) from: Tick,
    /// When senders stop.
    pub(crate) to: Tick,
    /// By flow: one more than the highest number that has arrived at its receiver.
    pub(crate) arrived: Box<[AtomicU64]>,
    /// Frames and bytes delivered so far, all threads together, for whoever watches.
    pub(crate) frames: AtomicU64,
    /// See `frames`.
    pub(crate) bytes: AtomicU64,
}

impl Run {
    /// How flow `index` is called in frames.
    pub(crate) fn wire_flow(&self, index: usize) -> u32 {
        self.number << FLOW_BITS | u32::try_from(index).unwrap_or(HELLO)
    }

    /// Which flow of this run a frame belongs to.
    pub(crate) fn flow_of(&self, wire: u32) -> Option<usize> {
        (wire >> FLOW_BITS == self.number).then_some((wire & ((1 << FLOW_BITS) - 1)) as usize)
    }

    /// Flows that a run can have.
    pub(crate) const FLOWS_MAX: usize = 1 << FLOW_BITS;
}

/// Bits of a flow's name that tell flows of a run apart; the others tell runs apart.
const FLOW_BITS: u32 = 22;

/// What a thread is told.
pub(crate) enum Order {
    /// Make the addresses of these members known.
    Hello(Vec<usize>),
    /// Take part in a run; [`Told::Done`] follows.
    Run(Arc<Run>),
    /// A visitor of the run has logged in.
    Visitor(Member),
    /// End.
    Stop,
}

/// What a thread tells.
pub(crate) enum Told {
    /// Its part of a run.
    Done(Box<Part>),
    /// It cannot go on.
    Failed(io::Error),
}

/// A thread's part of the result of a run.
pub(crate) struct Part {
    /// At the moments between which it is measured.
    pub(crate) measured: Totals,
    /// Over the whole run.
    pub(crate) sent: Vec<u64>,
    /// Tracks of flows to one member, by flow, of the receivers that live here.
    pub(crate) tracks: Vec<Option<crate::traffic::Track>>,
    /// Tracks of floods: flow and track, for each receiver here.
    pub(crate) floods: Vec<(usize, crate::traffic::Track)>,
    /// Frames that were not as they were sent.
    pub(crate) corrupt: u64,
    /// Frames at a member that they were not for.
    pub(crate) stray: u64,
    /// Frames that found no room here.
    pub(crate) dropped_here: u64,
    /// Delays in nanoseconds.
    pub(crate) delays: Histogram<u64>,
    /// How late records of open flows left, in nanoseconds.
    pub(crate) late: Histogram<u64>,
    /// CPU time of this thread while it was measured, in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Records and frames that left.
    pub(crate) records: u64,
    /// See `records`.
    pub(crate) frames_out: u64,
    /// Connections lost since the thread began.
    pub(crate) connections_lost: u64,
    /// Members with a connection at the end.
    pub(crate) members_up: usize,
    /// Visits that came to their end, and those that did not in time.
    pub(crate) visits: (u64, u64),
}

/// A thread's state.
pub(crate) struct Shard<Io> {
    driver: Driver<Io>,
    inbox: Inbox,
    /// Number here, by number of the member.
    here: Vec<Option<usize>>,
    orders: Receiver<Order>,
    told: Sender<Told>,
    /// Members whose hello is still to be sent.
    hellos: Vec<usize>,
    out: Out,
    visits: Vec<Visit>,
    visits_ended: (u64, u64),
    /// Has a CPU of its own.
    pinned: bool,
}

/// What is sent in a run.
#[derive(Default)]
pub(crate) struct Out {
    closed: Vec<Closed>,
    open: Vec<Open>,
    /// The flow of `open` whose turn it is, and the round.
    cursor: usize,
    round: u64,
    /// Frames sent, by flow.
    pub(crate) next: Vec<u64>,
    dropped: u64,
    late: Option<Histogram<u64>>,
}

struct Closed {
    flow: usize,
    window: u64,
    /// Where the flow stood when it last moved, and when that was.
    moved: (u64, Tick),
}

struct Open {
    flow: usize,
    order: usize,
}

impl<Io: StreamIo<Socket = OwnedFd>> Shard<Io> {
    /// With `members`; `pinned`: on a CPU of its own.
    pub(crate) fn new(
        io: Io,
        members: Vec<Member>,
        inbox: Inbox,
        orders: Receiver<Order>,
        told: Sender<Told>,
        pinned: bool,
    ) -> io::Result<Self> {
        let mut shard = Self {
            driver: Driver::new(io),
            inbox,
            here: Vec::new(),
            orders,
            told,
            hellos: Vec::new(),
            out: Out::default(),
            visits: Vec::new(),
            visits_ended: (0, 0),
            pinned,
        };
        for member in members {
            shard.add(member)?;
        }
        Ok(shard)
    }

    pub(crate) fn add(&mut self, member: Member) -> io::Result<usize> {
        let number = member.number;
        if self.here.len() <= number {
            self.here.resize(number + 1, None);
        }
        let at = self.driver.add(member, &mut self.inbox)?;
        self.inbox.is_at(number, at);
        self.here[number] = Some(at);
        Ok(at)
    }

    /// Turns until told to stop.
    pub(crate) fn serve(mut self) {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Run(run)) => {
                    let part = self.run(&run);
                    let told = part.map_or_else(Told::Failed, |part| Told::Done(Box::new(part)));
                    if self.told.send(told).is_err() {
                        return;
                    }
                }
                Ok(Order::Hello(numbers)) => self.hellos.extend(numbers),
                // Too late: the run is over.
                Ok(Order::Visitor(_)) => {}
                Ok(Order::Stop) | Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
            }
            self.greet(monotonic());
            if let Err(error) = self.driver.turn(Wait::For(Duration::from_millis(1)), &mut self.inbox) {
                // Nobody listens if the program is ending.
                let _ = self.told.send(Told::Failed(error));
                return;
            }
        }
    }

    /// A few hellos, so that the one they go to is not overrun.
    fn greet(&mut self, now: Tick) {
        for number in self.hellos.split_off(self.hellos.len().saturating_sub(HELLOS_PER_TURN)) {
            self.hello(number, now);
        }
        self.driver.flush(now);
    }

    /// Everybody greets member 0, who greets himself first: no hello is flooded to all.
    pub(crate) fn hello(&mut self, number: usize, now: Tick) {
        let Some(at) = self.here.get(number).copied().flatten() else { return };
        let mut frame = [0; FRAME_BYTES_MIN as usize];
        Stamp { flow: HELLO, seq: number as u64, time: now }.write(&mut frame, mac(0), number);
        self.driver.push(at, &frame, now);
    }

    fn run(&mut self, run: &Arc<Run>) -> io::Result<Part> {
        self.inbox.begin(run, self.driver_members());
        self.out = Out::begin(run, |number| self.here.get(number).copied().flatten().is_some());
        self.visits_ended = (0, 0);
        let (mut before, mut cpu_before) = (None, 0);
        let (records, frames) = self.driver.sent();
        loop {
            let now = monotonic();
            if now >= run.from && before.is_none() {
                (before, cpu_before) = (Some(self.inbox.totals()), thread_cpu_ns());
            }
            if now >= run.to {
                self.out.leave_out(run, now);
                break;
            }
            if now >= run.start {
                self.send(run, now);
            }
            let wait = self.until_due(run, now);
            self.step(run, wait)?;
        }
        let measured = self.inbox.totals().since(&before.unwrap_or_default());
        let cpu_ns = thread_cpu_ns() - cpu_before;
        self.drain(run)?;
        let (records_now, frames_now) = self.driver.sent();
        let (delays, corrupt, stray, tracks, floods) = self.inbox.end();
        let nothing = || Histogram::new(3).expect("3 digits");
        Ok(Part {
            measured,
            sent: std::mem::take(&mut self.out.next),
            tracks,
            floods,
            corrupt,
            stray,
            dropped_here: self.out.dropped,
            delays,
            late: self.out.late.take().unwrap_or_else(nothing),
            cpu_ns,
            records: records_now - records,
            frames_out: frames_now - frames,
            connections_lost: self.driver.lost(),
            members_up: self.driver.members_up(),
            visits: self.visits_ended,
        })
    }

    fn driver_members(&self) -> usize {
        self.here.iter().flatten().map(|at| at + 1).max().unwrap_or(0)
    }

    fn step(&mut self, run: &Arc<Run>, wait: Wait) -> io::Result<()> {
        self.driver.turn(wait, &mut self.inbox)?;
        self.answer(run);
        self.inbox.publish();
        Ok(())
    }

    /// What was sent last has time to arrive; visitors leave.
    fn drain(&mut self, run: &Arc<Run>) -> io::Result<()> {
        let end = monotonic() + DRAIN;
        let mut quiet_at = monotonic() + QUIET;
        let mut seen = self.inbox.totals();
        while monotonic() < end && monotonic() < quiet_at {
            self.step(run, Wait::For(Duration::from_millis(1)))?;
            if self.inbox.totals() != seen {
                seen = self.inbox.totals();
                quiet_at = monotonic() + QUIET;
            }
        }
        for visit in std::mem::take(&mut self.visits) {
            self.leave(&visit, false);
        }
        Ok(())
    }

    fn send(&mut self, run: &Arc<Run>, now: Tick) {
        self.send_open(run, now);
        self.send_closed(run, now);
        self.driver.flush(now);
        self.take_visitors(run, now);
        self.visit(run, now);
    }

    fn send_open(&mut self, run: &Run, now: Tick) {
        let Some(table) = &run.table else { return };
        for _ in 0..RECORDS_PER_TURN {
            let Some(due) = self.out.due(table, run.start) else { return };
            if due > now {
                return;
            }
            let flow = self.out.advance();
            for _ in 0..table.burst {
                self.push(run, flow, due, now);
            }
            // Each record leaves by itself, as the timetable says.
            self.driver.flush(now);
            if due >= run.from
                && let Some(late) = &mut self.out.late
            {
                late.saturating_record(u64::try_from(now.since(due).as_nanos()).unwrap_or(u64::MAX));
            }
        }
    }

    fn send_closed(&mut self, run: &Run, now: Tick) {
        for at in 0..self.out.closed.len() {
            let Closed { flow, window, ref mut moved } = self.out.closed[at];
            let arrived = run.arrived[flow].load(Relaxed);
            if moved.0 != arrived {
                *moved = (arrived, now);
            }
            // The last frames of a window may be lost; then nothing would ever move again.
            let stuck = now.since(moved.1) > STUCK;
            if stuck {
                moved.1 = now;
            }
            let until = if stuck { self.out.next[flow] + 1 } else { arrived + window };
            while self.out.next[flow] < until {
                if !self.push(run, flow, now, now) {
                    break;
                }
            }
        }
    }

    /// The next frame of `flow`, meant for `due`. `false`: no room.
    pub(crate) fn push(&mut self, run: &Run, flow: usize, due: Tick, now: Tick) -> bool {
        let what = &run.plan.flows[flow];
        let Some(at) = self.here.get(what.from).copied().flatten() else { return false };
        let seq = self.out.next[flow];
        let dst = match what.to {
            To::Member(number) => mac(number),
            To::Everyone => BROADCAST,
        };
        let mut frame = [0; FRAME_BYTES_MAX as usize];
        let frame = &mut frame[..what.size.of(seq)];
        Stamp { flow: run.wire_flow(flow), seq, time: due }.write(frame, dst, what.from);
        let taken = self.driver.push(at, frame, now);
        if taken {
            self.out.next[flow] += 1;
        } else if !matches!(what.pace, Pace::Closed { .. }) {
            self.out.dropped += 1;
        }
        taken
    }

    fn answer(&mut self, run: &Run) {
        let now = monotonic();
        while let Some(Answer { flow, time }) = self.inbox.next_answer() {
            self.push(run, flow, time, now);
            self.driver.flush(now);
        }
    }

    /// Sending by the clock, a thread with a CPU of its own never sleeps, so that a server on the same machine does not
    /// pay for waking it. Others sleep while nothing is due and wake shortly before: the clock of the kernel is too
    /// coarse for microseconds.
    fn until_due(&self, run: &Run, now: Tick) -> Wait {
        if self.pinned && run.table.is_some() {
            return Wait::Poll;
        }
        if self.visits.is_empty() && self.out.open.is_empty() {
            return Wait::For(IDLE_WAIT);
        }
        let due = run.table.as_ref().and_then(|table| self.out.due(table, run.start));
        let left = due.map_or(IDLE_WAIT, |due| due.since(now)).min(IDLE_WAIT);
        match left.checked_sub(AWAKE_BEFORE) {
            Some(left) if !left.is_zero() => Wait::For(left),
            _ => Wait::Poll,
        }
    }

    fn take_visitors(&mut self, run: &Arc<Run>, now: Tick) {
        // Only visitors come while a run goes on.
        while let Ok(Order::Visitor(member)) = self.orders.try_recv() {
            let number = member.number;
            match self.add(member) {
                Ok(at) => {
                    self.inbox.fit(at + 1);
                    self.hello(number, now);
                    self.visits.extend(Visit::begin(run, &self.out.next, number, now));
                }
                Err(_) => self.visits_ended.1 += 1,
            }
        }
    }

    fn visit(&mut self, run: &Arc<Run>, now: Tick) {
        let mut at = 0;
        while at < self.visits.len() {
            let mut visit = self.visits[at];
            for flow in visit.sends(run, &self.out.next, now).into_iter().flatten() {
                for _ in 0..Visit::BURST {
                    self.push(run, flow, now, now);
                }
            }
            self.driver.flush(now);
            match visit.over(run, &self.out.next, now) {
                None => {
                    self.visits[at] = visit;
                    at += 1;
                }
                Some(whole) => {
                    self.visits.swap_remove(at);
                    self.leave(&visit, whole);
                }
            }
        }
    }

    fn leave(&mut self, visit: &Visit, whole: bool) {
        if let Some(at) = self.here[visit.member].take() {
            self.driver.remove(at);
            self.inbox.is_gone(at);
        }
        if whole {
            self.visits_ended.0 += 1;
        } else {
            self.visits_ended.1 += 1;
        }
    }
}

impl Out {
    fn begin(run: &Run, is_here: impl Fn(usize) -> bool) -> Self {
        let mut out = Self {
            next: vec![0; run.plan.flows.len()],
            late: run.table.map(|_| Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds in order")),
            ..Self::default()
        };
        let mut order = 0;
        for (index, flow) in run.plan.flows.iter().enumerate() {
            let here = is_here(flow.from);
            match flow.pace {
                Pace::Closed { window } if here => {
                    out.closed.push(Closed { flow: index, window, moved: (0, run.start) });
                }
                Pace::Open => {
                    if here {
                        out.open.push(Open { flow: index, order });
                    }
                    order += 1;
                }
                _ => {}
            }
        }
        out
    }

    /// When the next record of an open flow is due.
    fn due(&self, table: &Timetable, start: Tick) -> Option<Tick> {
        let next = self.open.get(self.cursor)?;
        Some(table.due(start, next.order, self.round))
    }

    /// What was due before the end of the run and was not sent found no room in time.
    fn leave_out(&mut self, run: &Run, now: Tick) {
        let Some(table) = &run.table else { return };
        while self.due(table, run.start).is_some_and(|due| due < run.to && due < now) {
            self.advance();
            self.dropped += u64::from(table.burst);
        }
    }

    /// The flow whose turn it is; the next one's comes.
    fn advance(&mut self) -> usize {
        let flow = self.open[self.cursor].flow;
        self.cursor += 1;
        if self.cursor == self.open.len() {
            (self.cursor, self.round) = (0, self.round + 1);
        }
        flow
    }
}

/// Hellos sent in a turn of a millisecond.
const HELLOS_PER_TURN: usize = 32;

/// Records of open flows sent before what has arrived is looked at.
const RECORDS_PER_TURN: usize = 64;

/// Silence after which a closed flow tries one more frame.
const STUCK: Duration = Duration::from_millis(200);

/// Longest time for the last frames to arrive.
const DRAIN: Duration = Duration::from_secs(3);

/// Silence after which nothing more is expected.
const QUIET: Duration = Duration::from_millis(300);

/// Longest sleep during a run.
const IDLE_WAIT: Duration = Duration::from_millis(1);

/// Time before a record is due that is spent awake: timers of the kernel are some 60 us late, and waking takes time.
const AWAKE_BEFORE: Duration = Duration::from_micros(200);
