//! The worker threads: made together, watched together, ended together.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::routers::{Making, QUESTIONS_MAX, Reach, Routers};
use super::{ServerError, while_doing};
use crate::config::{Config, Hub};
use crate::control::state::secrets;
use crate::control::workers::WorkerHandle;
use crate::hub::{HubSettings, HubShared};
use crate::ids::PortId;
use crate::metrics::counters::Counters;
use crate::sys::affinity::CpuList;
use crate::sys::features::KernelFeatures;
use crate::sys::uring::UringConfig;
use crate::sys::waker::Waker;
use crate::worker::exchange::mesh;
use crate::worker::seeds::{Command, Report};
use crate::worker::thread::{Load, Start, spawn};
use crate::worker::{ReportSink, Ties, WorkerSettings};

/// The worker threads and what was made for them.
pub(super) struct Crew {
    pub(super) handles: Arc<[WorkerHandle]>,
    pub(super) hubs: Arc<[Arc<HubShared>]>,
    threads: Mutex<Vec<JoinHandle<io::Result<()>>>>,
    reports: Mutex<Option<UnboundedReceiver<Report>>>,
}

impl Crew {
    pub(super) fn start(
        making: &Making<'_>,
        features: &KernelFeatures,
        descriptors: u64,
    ) -> Result<(Self, Routers), ServerError> {
        let config = making.config;
        let cpus = match &config.server.workers {
            Some(cpus) => cpus.clone(),
            None => CpuList::available().map_err(while_doing("ask for the processors"))?,
        };
        let cpus = &cpus.numbers()[..cpus.numbers().len().min(PortId::WORKERS_MAX)];
        let hubs = make_hubs(config, cpus.len());
        let wakers: io::Result<Vec<Waker>> = cpus.iter().map(|_| Waker::new()).collect();
        let wakers: Arc<[Waker]> = wakers.map_err(while_doing("make a waker"))?.into();
        let (report, reports) = unbounded_channel();
        let gateways = config.hubs.iter().filter(|hub| hub.gateway.is_some()).count();
        let kept = DESCRIPTORS_KEPT + gateways * DESCRIPTORS_PER_GATEWAY;
        let settings = worker_settings(cpus.len(), descriptors, kept, config.server.gather);
        let mut handles = Vec::new();
        let mut threads = Vec::new();
        let (senders, commands): (Vec<_>, Vec<_>) = cpus.iter().map(|_| unbounded()).unzip();
        let reach = Reach { commands: senders.iter().cloned().collect(), wakers: Arc::clone(&wakers) };
        let (routers, mut router_seeds) = making.make(&reach, cpus.len())?;
        for (index, (mailbox, commands)) in
            mesh(cpus.len(), mailbox_bytes(cpus.len())).into_iter().zip(commands).enumerate()
        {
            let counters = Arc::new(Counters::default());
            let load = Load::default();
            let ties = Ties::<OwnedFd> {
                index,
                mailbox,
                wakers: Arc::clone(&wakers),
                hubs: Arc::clone(&hubs),
                routers: std::mem::take(&mut router_seeds[index]),
                commands,
                reports: report_sink(&report),
                counters: Arc::clone(&counters),
            };
            let ring = UringConfig { operations: config.server.queue_depth, ..UringConfig::default() };
            let start = Start {
                cpu: cpus[index],
                features: features.clone(),
                ring,
                settings: settings.clone(),
                ties,
                waker: wakers[index].clone(),
                load: load.clone(),
            };
            let (thread, back_end) = spawn(start).map_err(while_doing("start a worker"))?;
            threads.push(thread);
            handles.push(WorkerHandle::new(
                cpus[index],
                back_end.name(),
                counters,
                load,
                senders[index].clone(),
                wakers[index].clone(),
            ));
        }
        let crew =
            Self { handles: handles.into(), hubs, threads: Mutex::new(threads), reports: Mutex::new(Some(reports)) };
        Ok((crew, routers))
    }

    pub(super) fn take_reports(&self) -> Option<UnboundedReceiver<Report>> {
        self.reports.lock().ok()?.take()
    }

    fn finished(&self, enough: impl Fn(usize, usize) -> bool) -> bool {
        let Ok(threads) = self.threads.lock() else { return true };
        let finished = threads.iter().filter(|thread| thread.is_finished()).count();
        enough(finished, threads.len())
    }

    /// Returns when a worker has ended by itself, which none should.
    pub(super) async fn worker_failed(&self) {
        while !self.finished(|finished, _| finished > 0) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Tells every worker.
    pub(super) fn tell(&self, command: impl Fn() -> Command<OwnedFd>) {
        for handle in self.handles.iter() {
            handle.tell(command());
        }
    }

    /// Waits until every worker has closed its connections, a bounded time.
    pub(super) async fn wait_until_stopped(&self) {
        let end = Instant::now() + STOP_MAX;
        while Instant::now() < end && !self.finished(|finished, all| finished == all) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The result of the workers; those that still run are left behind.
    pub(super) fn join(self) -> Result<(), ServerError> {
        let threads = self.threads.into_inner().unwrap_or_default();
        for thread in threads.into_iter().filter(JoinHandle::is_finished) {
            match thread.join() {
                Ok(result) => result.map_err(while_doing("run a worker"))?,
                Err(_) => return Err(while_doing("run a worker")(io::Error::other("it panicked"))),
            }
        }
        Ok(())
    }
}

fn report_sink(report: &UnboundedSender<Report>) -> ReportSink {
    let report = report.clone();
    // The receiver is gone only at the end of the process, when nobody asks any more.
    Box::new(move |what| {
        let _ = report.send(what);
    })
}

fn make_hubs(config: &Config, workers: usize) -> Arc<[Arc<HubShared>]> {
    let make = |hub: &Hub| {
        let mut seed = [0; 8];
        secrets::random(&mut seed);
        let settings = HubSettings {
            profile: hub.profile,
            fdb_entries: usize::try_from(hub.fdb_entries).unwrap_or(usize::MAX),
            ageing_secs: u32::try_from(hub.ageing.as_secs()).unwrap_or(u32::MAX),
            isolate_members: hub.isolate_members,
            members_ipv6: hub.members_ipv6,
            hash_seed: u64::from_be_bytes(seed),
        };
        Arc::new(HubShared::new(settings, workers))
    };
    config.hubs.iter().map(make).collect()
}

fn worker_settings(workers: usize, descriptors: u64, kept: usize, gather: Duration) -> WorkerSettings {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let conns_max = descriptors.saturating_sub(kept) / workers;
    WorkerSettings { conns_max, frames_max: FRAMES_MAX, gather }
}

/// Bytes of the ring from one worker to another: as much as the window of one TCP flow holds if workers are few, since
/// what is lost there is lost without regard to flows; together about 256 MiB, at least 1 MiB each, all of which a server
/// that is busy on all workers will have touched in the end.
fn mailbox_bytes(workers: usize) -> usize {
    ((256 << 20) / (workers * workers).max(1)).clamp(1 << 20, 8 << 20)
}

/// Frames that may wait for members, by worker: 52 MiB if all are used.
const FRAMES_MAX: usize = 32_768;

/// Descriptors for everything but members: listeners, rings, logs, logins in progress.
const DESCRIPTORS_KEPT: usize = 128;

/// And for questions of a gateway to its upstreams.
const DESCRIPTORS_PER_GATEWAY: usize = 2 * QUESTIONS_MAX;

/// For the workers at the end: the closing procedure, which takes a second at most.
const STOP_MAX: Duration = Duration::from_millis(1_200);
