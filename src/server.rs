//! Boot and shutdown of `hublane serve`.
//!
//! 1. state, listeners, kernel features: whatever can fail for reasons the operator has to mend
//! 2. hubs, mailboxes, worker threads (each makes its own ring)
//! 3. control threads: accept, log in, answer the operator, take the workers' reports
//! 4. SIGTERM or SIGINT: no new members, every session ended by the closing procedure, then exit
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::config::Config;
use crate::control::accept::{self, Gate};
use crate::control::admin::server::AdminSocket;
use crate::control::auth::password::PasswordAuthenticator;
use crate::control::front::{Front, Refusals};
use crate::control::log::{self, EventSender};
use crate::control::operator::Operator;
use crate::control::sessions::Sessions;
use crate::control::state::accounts::AccountStore;
use crate::control::state::first_start::{self, Prepared};
use crate::control::state::{StateDir, StateError, certificates, secrets};
use crate::control::workers::WorkerHandle;
use crate::control::{reports, tls_setup};
use crate::hub::{HubSettings, HubShared};
use crate::ids::PortId;
use crate::metrics::counters::Counters;
use crate::sys::affinity::{CpuList, confine_current_thread};
use crate::sys::clock::wall_ns;
use crate::sys::features::KernelFeatures;
use crate::sys::limits::{forbid_core_dumps, raise_open_files};
use crate::sys::uring::UringConfig;
use crate::sys::waker::Waker;
use crate::worker::exchange::mesh;
use crate::worker::seeds::{Command, Report};
use crate::worker::thread::{Load, Start, spawn};
use crate::worker::{Ties, WorkerSettings};

/// Where things are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The state directory.
    pub state: PathBuf,
    /// The control socket.
    pub control_socket: PathBuf,
}

/// Why the server could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// A certificate that rustls refuses.
    #[error("certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// Something the system refused.
    #[error("{doing}: {source}{}", hint_for(.source))]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn hint_for(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "\n  hint: ports below 1024 need root or CAP_NET_BIND_SERVICE; choose others by --listen ADDR:PORT"
        }
        io::ErrorKind::AddrInUse => "\n  hint: another program listens there; choose other ports by --listen ADDR:PORT",
        io::ErrorKind::OutOfMemory => {
            "\n  hint: the rings of the workers need locked memory; raise its limit (ulimit -l, LimitMEMLOCK=), or use epoll by --kernel-features 5.15"
        }
        io::ErrorKind::AddrNotAvailable => "\n  hint: this machine has no such address; [::]:PORT means all of them",
        _ => "",
    }
}

fn while_doing(doing: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::System { doing, source }
}

/// Checks what can be checked without serving anybody. Makes state directory and certificates if they are not
/// there, but no user: only [`run`] shows the first password.
///
/// # Errors
/// What would keep [`run`] from starting.
pub fn check(config: &Config, paths: &Paths) -> Result<(), ServerError> {
    let state = StateDir::open(&paths.state)?;
    let certificates = certificates::load(state.path(), &config.server.certificate)?;
    AccountStore::open(state.path())?;
    tls_setup::server_config(Some(certificates), config.server.tls_versions)?;
    accept::listen_all(&config.server.listen).map_err(while_doing("listen"))?;
    Ok(())
}

/// Serves until a signal ends it.
///
/// # Errors
/// If it cannot start, or a worker failed.
pub fn run(config: Config, paths: &Paths) -> Result<(), ServerError> {
    let state = StateDir::open(&paths.state)?;
    let mut prepared = first_start::prepare(&state, &config)?;
    let tls = Arc::new(tls_setup::server_config(prepared.certificates.take(), config.server.tls_versions)?);
    forbid_core_dumps().map_err(while_doing("forbid core dumps"))?;
    let descriptors = raise_open_files().map_err(while_doing("raise the limit of open files"))?;
    let listeners = accept::listen_all(&config.server.listen).map_err(while_doing("listen"))?;
    let features = KernelFeatures::probe(config.server.kernel_features);
    tracing::info!("kernel: {features}; {descriptors} descriptors");
    let (events, log_thread) = log::start(log::ROOM).map_err(while_doing("start the log thread"))?;
    let crew = Crew::start(&config, &features, descriptors)?;
    let runtime = control_runtime(&config)?;
    let outcome = runtime.block_on(serve(config, paths, &prepared, tls, listeners, events, &crew, features));
    // Logins in progress are dropped with the runtime; their sockets are reset.
    runtime.shutdown_timeout(Duration::from_millis(200));
    let stopped = crew.join();
    let _ = log_thread.join();
    outcome?;
    stopped
}

#[allow(clippy::too_many_arguments, reason = "the one place where everything that was made comes together")]
async fn serve(
    config: Config,
    paths: &Paths,
    prepared: &Prepared,
    tls: Arc<rustls::ServerConfig>,
    listeners: Vec<std::net::TcpListener>,
    events: EventSender,
    crew: &Crew,
    features: KernelFeatures,
) -> Result<(), ServerError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(while_doing("wait for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(while_doing("wait for signals"))?;
    let admin = AdminSocket::bind(&paths.control_socket).map_err(while_doing("open the control socket"))?;
    let (stop, stopping) = watch::channel(false);
    let sessions = Arc::new(Sessions::new(wall_ns() / 1_000_000));
    let gate = Arc::new(Gate::new(config.server.handshakes_max, config.server.connections_per_source_max));
    let front = Arc::new(Front {
        aead: config.server.aead,
        config: Arc::new(config),
        tls,
        authenticator: Box::new(PasswordAuthenticator::new(Arc::clone(&prepared.accounts))),
        sessions: Arc::clone(&sessions),
        workers: Arc::clone(&crew.handles),
        hubs: Arc::clone(&crew.hubs),
        events: events.clone(),
        refusals: Refusals::default(),
        stopping,
    });
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(reports) = crew.take_reports() {
        tasks.spawn(reports::run(reports, Arc::clone(&front)));
    }
    let operator = Operator {
        front: Arc::clone(&front),
        gate: Arc::clone(&gate),
        hubs: Arc::clone(&crew.hubs),
        accounts: Arc::clone(&prepared.accounts),
        features,
        started: Instant::now(),
    };
    tasks.spawn(admin.serve(Arc::new(operator)));
    let bound: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let mut doors = tokio::task::JoinSet::new();
    for listener in listeners {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(while_doing("listen"))?;
        doors.spawn(accept::run(listener, Arc::clone(&gate), Arc::clone(&front)));
    }
    print_note(&prepared.note(&bound, &paths.state));
    tracing::info!("listening on {}", bound.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: ending every session"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending every session"),
        () = crew.worker_failed() => tracing::error!("a worker ended: ending every session"),
    }
    // First nobody new: clients come back within a millisecond of losing their session, and must find the port
    // closed. One that got as far as a TLS handshake would be cut off in it, which stock clients take badly.
    let _ = stop.send(true);
    while doors.join_next().await.is_some() {}
    for handle in crew.handles.iter() {
        handle.tell(Command::Stop);
    }
    // Logins on their way end at a worker, which must be there to send them away.
    gate.wait_empty(GATE_MAX).await;
    for handle in crew.handles.iter() {
        handle.tell(Command::Leave);
    }
    crew.wait_until_stopped().await;
    tasks.shutdown().await;
    Ok(())
}

/// Standard output may be a closed pipe; the server serves all the same.
fn print_note(note: &str) {
    use std::io::Write;
    let mut out = io::stdout().lock();
    let _ = out.write_all(note.as_bytes()).and_then(|()| out.flush());
}

/// The worker threads and what was made for them.
struct Crew {
    handles: Arc<[WorkerHandle]>,
    hubs: Arc<[Arc<HubShared>]>,
    threads: std::sync::Mutex<Vec<JoinHandle<io::Result<()>>>>,
    reports: std::sync::Mutex<Option<UnboundedReceiver<Report>>>,
}

impl Crew {
    fn start(config: &Config, features: &KernelFeatures, descriptors: u64) -> Result<Self, ServerError> {
        let cpus = match &config.server.workers {
            Some(cpus) => cpus.clone(),
            None => CpuList::available().map_err(while_doing("ask for the processors"))?,
        };
        let cpus = &cpus.numbers()[..cpus.numbers().len().min(PortId::WORKERS_MAX)];
        let hubs = make_hubs(config, cpus.len());
        let wakers: io::Result<Vec<Waker>> = cpus.iter().map(|_| Waker::new()).collect();
        let wakers: Arc<[Waker]> = wakers.map_err(while_doing("make a waker"))?.into();
        let (report, reports) = unbounded_channel();
        let settings = worker_settings(cpus.len(), descriptors);
        let mut handles = Vec::new();
        let mut threads = Vec::new();
        for (index, mailbox) in mesh(cpus.len(), MAILBOX_BYTES).into_iter().enumerate() {
            let (sender, commands) = unbounded();
            let counters = Arc::new(Counters::default());
            let load = Load::default();
            let ties = Ties::<OwnedFd> {
                index,
                mailbox,
                wakers: Arc::clone(&wakers),
                hubs: Arc::clone(&hubs),
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
            threads.push(spawn(start).map_err(while_doing("start a worker"))?);
            handles.push(WorkerHandle::new(
                cpus[index],
                features.back_end(),
                counters,
                load,
                sender,
                wakers[index].clone(),
            ));
        }
        Ok(Self {
            handles: handles.into(),
            hubs,
            threads: std::sync::Mutex::new(threads),
            reports: std::sync::Mutex::new(Some(reports)),
        })
    }

    fn take_reports(&self) -> Option<UnboundedReceiver<Report>> {
        self.reports.lock().ok()?.take()
    }

    fn finished(&self, enough: impl Fn(usize, usize) -> bool) -> bool {
        let Ok(threads) = self.threads.lock() else { return true };
        let finished = threads.iter().filter(|thread| thread.is_finished()).count();
        enough(finished, threads.len())
    }

    /// Returns when a worker has ended by itself, which none should.
    async fn worker_failed(&self) {
        while !self.finished(|finished, _| finished > 0) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Waits until every worker has closed its connections, a bounded time.
    async fn wait_until_stopped(&self) {
        let end = Instant::now() + STOP_MAX;
        while Instant::now() < end && !self.finished(|finished, all| finished == all) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The result of the workers; those that still run are left behind.
    fn join(self) -> Result<(), ServerError> {
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

fn report_sink(report: &UnboundedSender<Report>) -> crate::worker::ReportSink {
    let report = report.clone();
    // The receiver is gone only at the end of the process, when nobody asks any more.
    Box::new(move |what| {
        let _ = report.send(what);
    })
}

fn make_hubs(config: &Config, workers: usize) -> Arc<[Arc<HubShared>]> {
    let make = |hub: &crate::config::Hub| {
        let mut seed = [0; 8];
        secrets::random(&mut seed);
        let settings = HubSettings {
            profile: hub.profile,
            fdb_entries: usize::try_from(hub.fdb_entries).unwrap_or(usize::MAX),
            ageing_secs: u32::try_from(hub.ageing.as_secs()).unwrap_or(u32::MAX),
            isolate_members: hub.isolate_members,
            hash_seed: u64::from_be_bytes(seed),
        };
        Arc::new(HubShared::new(settings, workers))
    };
    config.hubs.iter().map(make).collect()
}

fn worker_settings(workers: usize, descriptors: u64) -> WorkerSettings {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    WorkerSettings { conns_max: descriptors.saturating_sub(DESCRIPTORS_KEPT) / workers, frames_max: FRAMES_MAX }
}

fn control_runtime(config: &Config) -> Result<Runtime, ServerError> {
    let cpus = config.server.control_cpus.clone();
    let threads = cpus
        .as_ref()
        .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |cpus| cpus.numbers().len());
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads.min(CONTROL_THREADS_MAX)).thread_name("control").enable_all();
    builder.on_thread_start(move || {
        if let Some(Err(error)) = cpus.as_ref().map(confine_current_thread) {
            tracing::warn!(%error, "a control thread runs where the kernel puts it");
        }
    });
    builder.build().map_err(while_doing("start the control threads"))
}

/// Bytes of the ring from one worker to another: some 600 full frames, 0.8 ms at 10 Gbit/s.
const MAILBOX_BYTES: usize = 1 << 20;

/// Frames that may wait for members, by worker: 52 MiB if all are used.
const FRAMES_MAX: usize = 32_768;

/// Descriptors for everything but members: listeners, rings, logs, logins in progress.
const DESCRIPTORS_KEPT: usize = 128;

/// Logins cost a signature each; more threads than this would take the CPUs of the workers.
const CONTROL_THREADS_MAX: usize = 8;

/// For who is on the way in: [`front::STOP_GRACE`] and the closing procedure, which takes a second at most.
///
/// [`front::STOP_GRACE`]: crate::control::front::STOP_GRACE
const GATE_MAX: Duration = Duration::from_millis(1_400);

/// For the workers after that: the closing procedure once more.
const STOP_MAX: Duration = Duration::from_millis(1_200);
