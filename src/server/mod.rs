//! Boot and shutdown of `hublane serve`.
//!
//! 1. state, listeners, kernel features: whatever can fail for reasons the operator has to mend
//! 2. hubs, mailboxes, worker threads (each makes its own ring)
//! 3. control threads: accept, log in, answer the operator, take the workers' reports
//! 4. SIGHUP: accounts and configuration again ([`reload`])
//! 5. SIGTERM or SIGINT: no new members, every session ended by the closing procedure, then exit
#![forbid(unsafe_code)]

pub mod capacity;
mod crew;
pub mod reload;
mod routers;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::config::snapshot::CurrentConfig;
use crate::control::accept::{self, Gate};
use crate::control::admin::server::AdminSocket;
use crate::control::auth::password::PasswordAuthenticator;
use crate::control::front::{Front, Refusals};
use crate::control::log;
use crate::control::operator::Operator;
use crate::control::sessions::Sessions;
use crate::control::state::accounts::AccountStore;
use crate::control::state::first_start::{self, Prepared};
use crate::control::state::{StateDir, StateError, certificates};
use crate::control::{reports, tls_setup};
use crate::event::What;
use crate::sys::affinity::confine_current_thread;
use crate::sys::clock::wall_ns;
use crate::sys::features::KernelFeatures;
use crate::sys::limits::{forbid_core_dumps, raise_open_files};
use crate::worker::seeds::Command;
use capacity::Capacity;
use crew::Crew;
use reload::Origin;
use routers::{Making, Routers};

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
    /// A gateway, NAT or lane.
    #[error("hub {hub}: {why}")]
    Router {
        /// Of which hub.
        hub: String,
        /// What is wrong, and a hint.
        why: String,
    },
    /// A congestion control that cannot be had.
    #[error("{0}")]
    Congestion(String),
    /// Public ports that are too few.
    #[error("{0}")]
    Capacity(String),
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
    for Capacity { text, is_short } in capacity::capacities(config).map_err(ServerError::Capacity)? {
        if is_short { tracing::warn!("{text}") } else { tracing::info!("{text}") }
    }
    Ok(())
}

/// Serves until a signal ends it. `origin` is where `config` came from.
///
/// # Errors
/// If it cannot start, or a worker failed.
pub fn run(config: Config, origin: Origin, paths: &Paths) -> Result<(), ServerError> {
    let mut state = StateDir::open(&paths.state)?;
    state.note_socket(&paths.control_socket)?;
    let mut prepared = first_start::prepare(&state, &config)?;
    let tls = Arc::new(tls_setup::server_config(prepared.certificates.take(), config.server.tls_versions)?);
    forbid_core_dumps().map_err(while_doing("forbid core dumps"))?;
    config.server.congestion.check().map_err(ServerError::Congestion)?;
    let descriptors = raise_open_files().map_err(while_doing("raise the limit of open files"))?;
    let listeners = accept::listen_all(&config.server.listen).map_err(while_doing("listen"))?;
    let features = KernelFeatures::probe(config.server.kernel_features);
    tracing::info!("kernel: {features}; {descriptors} descriptors");
    let (events, log_thread) = log::start(log::ROOM).map_err(while_doing("start the log thread"))?;
    let making = Making { config: &config, state: state.path(), accounts: &prepared.accounts, events: &events };
    let (crew, routers) = Crew::start(&making, &features, descriptors)?;
    let runtime = control_runtime(&config)?;
    let (stop, stopping) = watch::channel(false);
    let front = Arc::new(Front {
        aead: config.server.aead,
        config: CurrentConfig::new(config),
        tls,
        authenticator: Box::new(PasswordAuthenticator::new(Arc::clone(&prepared.accounts))),
        sessions: Sessions::new(wall_ns() / 1_000_000),
        workers: Arc::clone(&crew.handles),
        hubs: Arc::clone(&crew.hubs),
        ways: routers.ways(),
        events,
        refusals: Refusals::default(),
        stopping,
    });
    let server = Server { front, crew, prepared, features, origin, stop };
    let outcome = runtime.block_on(server.serve(paths, listeners, routers));
    // Logins in progress are dropped with the runtime; their sockets are reset.
    runtime.shutdown_timeout(Duration::from_millis(200));
    let Server { front, crew, .. } = server;
    // The log thread ends with the last who could tell it something.
    drop(front);
    let stopped = crew.join();
    let _ = log_thread.join();
    outcome?;
    stopped
}

/// A server that has everything it needs.
struct Server {
    front: Arc<Front>,
    crew: Crew,
    prepared: Prepared,
    features: KernelFeatures,
    origin: Origin,
    stop: watch::Sender<bool>,
}

impl Server {
    async fn serve(&self, paths: &Paths, listeners: Vec<TcpListener>, mut routers: Routers) -> Result<(), ServerError> {
        let mut signals = Signals::new().map_err(while_doing("wait for signals"))?;
        let admin = AdminSocket::bind(&paths.control_socket).map_err(while_doing("open the control socket"))?;
        let server = &self.front.config.load().config.server;
        let gate = Arc::new(Gate::new(server.handshakes_max, server.connections_per_source_max));
        let mut tasks = JoinSet::new();
        if let Some(reports) = self.crew.take_reports() {
            tasks.spawn(reports::run(reports, Arc::clone(&self.front)));
        }
        routers.serve(&mut tasks);
        let operator = Operator {
            front: Arc::clone(&self.front),
            gate: Arc::clone(&gate),
            accounts: Arc::clone(&self.prepared.accounts),
            features: self.features.clone(),
            started: Instant::now(),
        };
        tasks.spawn(admin.serve(Arc::new(operator)));
        let bound: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let mut doors = JoinSet::new();
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(while_doing("listen"))?;
            doors.spawn(accept::run(listener, Arc::clone(&gate), Arc::clone(&self.front)));
        }
        print_note(&self.prepared.note(&bound, &paths.state));
        tracing::info!("listening on {}", bound.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        self.front.tell(What::ConfigChanged { epoch: 1, source: self.origin.name().into() });
        self.until_told_to_stop(&mut signals).await;
        self.end(&gate, doors).await;
        tasks.shutdown().await;
        Ok(())
    }

    async fn until_told_to_stop(&self, signals: &mut Signals) {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return tracing::info!("SIGTERM: ending every session"),
                _ = signals.interrupt.recv() => return tracing::info!("SIGINT: ending every session"),
                _ = signals.hang_up.recv() => self.read_again(),
                () = self.crew.worker_failed() => return tracing::error!("a worker ended: ending every session"),
            }
        }
    }

    /// SIGHUP.
    fn read_again(&self) {
        if let Err(error) = self.prepared.accounts.refresh() {
            tracing::error!("SIGHUP: the accounts stay as they were: {error}");
        }
        let before = self.front.config.load().epoch;
        match reload::reload(&self.origin, &self.front.config) {
            Ok(snapshot) if snapshot.epoch == before => tracing::info!("SIGHUP: the configuration has not changed"),
            Ok(snapshot) => {
                self.front.tell(What::ConfigChanged { epoch: snapshot.epoch, source: self.origin.name().into() });
            }
            Err(error) => tracing::error!("SIGHUP: the configuration stays as it was: {error}"),
        }
    }

    async fn end(&self, gate: &Gate, mut doors: JoinSet<()>) {
        // First nobody new: clients come back within a millisecond of losing their session, and must find the port
        // closed. One that got as far as a TLS handshake would be cut off in it, which stock clients take badly.
        let _ = self.stop.send(true);
        while doors.join_next().await.is_some() {}
        self.crew.tell(|| Command::Stop);
        // Logins on their way end at a worker, which must be there to send them away.
        gate.wait_empty(GATE_MAX).await;
        self.crew.tell(|| Command::Leave);
        self.crew.wait_until_stopped().await;
    }
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// Standard output may be a closed pipe; the server serves all the same.
fn print_note(note: &str) {
    use std::io::Write;
    let mut out = io::stdout().lock();
    let _ = out.write_all(note.as_bytes()).and_then(|()| out.flush());
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

/// Logins cost a signature each; more threads than this would take the CPUs of the workers.
const CONTROL_THREADS_MAX: usize = 8;

/// For who is on the way in: [`front::STOP_GRACE`] and the closing procedure, which takes a second at most.
///
/// [`front::STOP_GRACE`]: crate::control::front::STOP_GRACE
const GATE_MAX: Duration = Duration::from_millis(1_400);
