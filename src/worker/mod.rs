//! The per-core loop: the only place where all layers meet. Start reading at [`turn`].
//!
//! A worker owns its members' sockets, their TLS state, their ports and queues; nothing of it is touched
//! by another thread. Control threads send [`seeds::Command`]s and get [`seeds::Report`]s; other workers
//! exchange frames by mailbox. Hubs are shared and lock-free.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crossbeam::channel::Receiver;

use crate::hub::HubShared;
use crate::metrics::counters::Counters;
use crate::tick::Tick;
use crate::tunnel::link::{Due, Scratch};

pub mod closing;
pub mod commands;
pub mod egress;
pub mod exchange;
pub mod ingress;
pub mod io;
pub mod mem;
pub mod parcel;
pub mod seeds;
pub mod slots;
pub mod thread;
pub mod timers;
pub mod turn;

use egress::Fabric;
use exchange::Mailbox;
use io::StreamIo;
use seeds::{Command, Report};
use slots::ConnTable;
use timers::{Timer, Timers};

/// Limits of a worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Connections at most.
    pub conns_max: usize,
    /// Frames that may wait, over all ports.
    pub frames_max: usize,
}

/// Where reports go. Called for logins and ends, never per frame.
pub type ReportSink = Box<dyn Fn(Report) + Send>;

/// One worker.
pub struct Worker<Io: StreamIo> {
    io: Io,
    settings: WorkerSettings,
    inbox: Receiver<Command<Io::Socket>>,
    reports: ReportSink,
    conns: ConnTable,
    scratch: Scratch,
    fabric: Fabric,
    timers: Timers,
    now: Tick,
    /// Counts closings, to tell their timers apart.
    stamp: u64,
    stopping: bool,
    /// Scratch of one turn, kept for its capacity.
    expired: Vec<(Tick, Timer)>,
    due: Vec<Due>,
}

impl<Io: StreamIo> Worker<Io> {
    /// A worker without ports.
    pub fn new(
        io: Io,
        settings: WorkerSettings,
        mailbox: Mailbox,
        hubs: &Arc<[Arc<HubShared>]>,
        inbox: Receiver<Command<Io::Socket>>,
        reports: ReportSink,
        counters: Arc<Counters>,
        now: Tick,
    ) -> Self {
        let mut timers = Timers::new(now);
        timers.set(now + turn::HOUSEKEEPING, Timer::Housekeeping);
        let fabric = Fabric::new(settings.frames_max, mailbox, hubs, counters);
        Self {
            io,
            settings,
            inbox,
            reports,
            conns: ConnTable::default(),
            scratch: Scratch::default(),
            fabric,
            timers,
            now,
            stamp: 0,
            stopping: false,
            expired: Vec::new(),
            due: Vec::new(),
        }
    }

    /// What this worker counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.fabric.counters
    }

    /// Whether [`Command::Stop`] came and everything is closed.
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.conns.is_empty()
    }

    /// The back end, for tests that script it.
    pub fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }
}
