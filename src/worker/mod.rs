//! The per-core loop: the only place where all layers meet. Start reading at [`turn`].
//!
//! A worker owns its members' sockets, their TLS state, their ports and queues; nothing of it is touched
//! by another thread. Control threads send [`seeds::Command`]s and get [`seeds::Report`]s; other workers
//! exchange frames by mailbox. Hubs are shared and lock-free. All connections of a session live on one worker.
//!
//! The way of a frame: [`turn`] → [`ingress`] → ([`exchange`]) → [`egress`] → [`turn`]. Rare things: [`commands`]
//! (a session or connection begins), [`timers`], [`closing`] (it ends). Tables: [`slots`]. The kernel: [`io`].
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Receiver;

use crate::hub::HubShared;
use crate::metrics::counters::Counters;
use crate::metrics::drops::DropReason;
use crate::sys::waker::Waker;
use crate::tick::Tick;
use crate::tunnel::link::{Due, Scratch};

pub mod closing;
pub mod commands;
pub mod egress;
pub mod exchange;
pub mod gather;
pub mod ingress;
pub mod io;
pub mod mem;
pub mod parcel;
pub mod router;
pub mod seeds;
pub mod slots;
pub mod thread;
pub mod timers;
pub mod turn;

use egress::Fabric;
use exchange::{Inbox, Mailbox};
use gather::Gathering;
use io::StreamIo;
use router::RouterSeed;
use seeds::{Command, Report};
use slots::ConnTable;
use timers::{Timer, Timers};

/// Limits of a worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Connections at most; further ones are closed. Those on their way out count.
    pub conns_max: usize,
    /// Frames that may wait, over all ports; below 2^32 - 1.
    pub frames_max: usize,
    /// Pause while frames come so often that waking is the cost; zero for none. See [`gather`].
    pub gather: Duration,
}

/// Where reports go. Called for logins and ends, never per frame.
pub type ReportSink = Box<dyn Fn(Report) + Send>;

/// What ties a worker to the rest of the process.
pub struct Ties<Socket> {
    /// Its number, from 0.
    pub index: usize,
    /// Its ends of the mesh.
    pub mailbox: Mailbox,
    /// How to wake each worker, by number; empty if they are turned by hand, as in tests.
    pub wakers: Arc<[Waker]>,
    /// Hubs, by [`crate::ids::HubId`].
    pub hubs: Arc<[Arc<HubShared>]>,
    /// Its parts in the hubs' ways out; in the order of hubs.
    pub routers: Vec<RouterSeed>,
    /// From control threads.
    pub commands: Receiver<Command<Socket>>,
    /// To control threads.
    pub reports: ReportSink,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// One worker.
pub struct Worker<Io: StreamIo> {
    io: Io,
    settings: WorkerSettings,
    commands: Receiver<Command<Io::Socket>>,
    reports: ReportSink,
    mail: Inbox,
    /// How to wake the other workers.
    wakers: Arc<[Waker]>,
    conns: ConnTable,
    scratch: Scratch,
    fabric: Fabric,
    timers: Timers,
    gathering: Gathering,
    now: Tick,
    /// How long the last turn worked.
    worked: Duration,
    /// Frames dropped up to the last sample, by reason, and when the next one is due.
    sampled: Vec<u64>,
    sample_at: Tick,
    /// Counts closings, to tell their timers apart.
    stamp: u64,
    stopping: bool,
    leaving: bool,
    /// Scratch of one turn, kept for its capacity.
    expired: Vec<(Tick, Timer)>,
    due: Vec<Due>,
}

impl<Io: StreamIo> Worker<Io> {
    /// A worker without ports.
    pub fn new(io: Io, settings: WorkerSettings, ties: Ties<Io::Socket>, now: Tick) -> Self {
        let Ties { index, mailbox, wakers, hubs, routers, commands, reports, counters } = ties;
        let gathering = Gathering::new(settings.gather, now);
        let mut timers = Timers::new(now);
        timers.set(now + turn::HOUSEKEEPING, Timer::Housekeeping);
        let Mailbox { outbox, inbox: mail } = mailbox;
        let mut fabric = Fabric::new(index, settings.frames_max, outbox, &hubs, counters);
        fabric.take_routers(routers, now);
        for hub in fabric.router_hubs() {
            timers.set(now + router::POLL, Timer::Router(hub));
        }
        Self {
            io,
            settings,
            commands,
            reports,
            mail,
            wakers,
            conns: ConnTable::default(),
            scratch: Scratch::default(),
            fabric,
            timers,
            gathering,
            now,
            worked: Duration::ZERO,
            sampled: vec![0; DropReason::ALL.len()],
            sample_at: now + turn::SAMPLE,
            stamp: 0,
            stopping: false,
            leaving: false,
            expired: Vec::new(),
            due: Vec::new(),
        }
    }

    /// What this worker counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.fabric.counters
    }

    /// Time of the last turn.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// Whether [`Command::Leave`] came and everything is closed.
    pub fn is_stopped(&self) -> bool {
        self.leaving && self.conns.is_empty()
    }

    /// The back end, for tests that script it.
    pub fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }
}
