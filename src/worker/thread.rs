//! The thread of a worker: pinned, with a back end of its own, turning until told to stop.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::io::{StreamIo, Wait};
use super::{Ties, Worker, WorkerSettings};
use crate::sys::affinity::pin_current_thread;
use crate::sys::clock::{monotonic, thread_cpu_ns};
use crate::sys::epoll::{EpollConfig, EpollIo};
use crate::sys::features::KernelFeatures;
use crate::sys::limits::exact_timers;
use crate::sys::uring::{UringConfig, UringIo};
use crate::sys::waker::Waker;
use crate::tick::Tick;

/// Everything a worker's thread needs.
pub struct Start {
    /// The processor it is pinned to.
    pub cpu: usize,
    /// What the kernel can do.
    pub features: KernelFeatures,
    /// Sizes of its ring.
    pub ring: UringConfig,
    /// Its limits.
    pub settings: WorkerSettings,
    /// Its ties.
    pub ties: Ties<OwnedFd>,
    /// Wakes it.
    pub waker: Waker,
    /// Where it writes its CPU time.
    pub load: Load,
}

/// CPU time of a worker, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Since its start.
    pub total_ns: Arc<AtomicU64>,
    /// During the last second, about.
    pub second_ns: Arc<AtomicU64>,
}

/// Which back end a worker uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackEnd {
    /// io_uring.
    Uring,
    /// epoll.
    Epoll,
}

impl BackEnd {
    /// For status output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Starts the thread; returns once its back end stands.
///
/// # Errors
/// If the thread or its back end cannot be made.
pub fn spawn(start: Start) -> io::Result<(JoinHandle<io::Result<()>>, BackEnd)> {
    let (ready, is_ready) = mpsc::channel();
    let name = format!("worker-{}", start.ties.index);
    let thread = thread::Builder::new().name(name).spawn(move || run(start, &ready))?;
    match is_ready.recv() {
        Ok(back_end) => Ok((thread, back_end)),
        // The thread ended before it was ready: its result says why.
        Err(_) => Err(match thread.join() {
            Ok(Err(error)) => error,
            _ => io::Error::other("a worker thread ended at its start"),
        }),
    }
}

fn run(start: Start, ready: &mpsc::Sender<BackEnd>) -> io::Result<()> {
    if let Err(error) = pin_current_thread(start.cpu) {
        tracing::warn!(cpu = start.cpu, %error, "worker cannot be pinned; it runs where the kernel puts it");
    }
    if let Err(error) = exact_timers() {
        tracing::warn!(cpu = start.cpu, %error, "timers of a worker are some 50 µs late");
    }
    let Start { features, ring, settings, ties, waker, load, .. } = start;
    let now = monotonic();
    if let Ok(uring) = &features.uring {
        match UringIo::new(&ring, uring, waker.clone()) {
            Ok(io) => {
                let worker = Worker::new(io, settings, ties, now);
                return turn_until_stopped(worker, &load, || ready.send(BackEnd::Uring));
            }
            // The probe passed with a smaller ring: locked memory is short (`ulimit -l`).
            Err(error) => tracing::warn!(worker = ties.index, %error, "no ring of this size; the worker uses epoll"),
        }
    }
    let io = EpollIo::new(&EpollConfig::default(), waker)?;
    turn_until_stopped(Worker::new(io, settings, ties, now), &load, || ready.send(BackEnd::Epoll))
}

fn turn_until_stopped<Io: StreamIo>(
    mut worker: Worker<Io>,
    load: &Load,
    ready: impl FnOnce() -> Result<(), mpsc::SendError<BackEnd>>,
) -> io::Result<()> {
    let mut measured = Measured { at: monotonic(), cpu_ns: thread_cpu_ns() };
    // Nobody waits any more if the process is already ending; the stop command then follows.
    let _ = ready();
    while !worker.is_stopped() {
        worker.turn(Wait::For(LONGEST_WAIT), monotonic)?;
        measured.update(worker.now(), load);
    }
    Ok(())
}

/// The last measurement of CPU time.
struct Measured {
    at: Tick,
    cpu_ns: u64,
}

impl Measured {
    fn update(&mut self, now: Tick, load: &Load) {
        let span = u64::try_from(now.since(self.at).as_nanos()).unwrap_or(u64::MAX);
        if span < SECOND_NS {
            return;
        }
        let cpu_ns = thread_cpu_ns();
        let used = u128::from(cpu_ns.saturating_sub(self.cpu_ns)) * u128::from(SECOND_NS) / u128::from(span);
        load.total_ns.store(cpu_ns, Relaxed);
        load.second_ns.store(u64::try_from(used).unwrap_or(SECOND_NS), Relaxed);
        (self.at, self.cpu_ns) = (now, cpu_ns);
    }
}

/// Timers wake a worker long before this.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

const SECOND_NS: u64 = 1_000_000_000;
