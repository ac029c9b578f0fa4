//! Answers to the operator: what the control socket asks, put together from session table, workers and hubs.
//!
//! Counters are read where they are; what only a worker knows (queues, connections) it is asked for, and a worker
//! that does not answer in time is left out.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::accept::Gate;
use super::admin::router::GatewayView;
use super::admin::{AdminHandler, Answer, HubView, MacRow, Request, SessionRow, StatusView, WorkerView};
use super::front::Front;
use super::sessions::Session;
use super::state::accounts::AccountStore;
use super::ways::WORKER_MAX;
use crate::config::Hub;
use crate::hub::Profile;
use crate::ids::{HubId, PortId, SessionId};
use crate::metrics::closes::CloseReason;
use crate::metrics::drops::DropReason;
use crate::sys::clock::monotonic;
use crate::sys::features::KernelFeatures;
use crate::worker::seeds::{Command, PortView};

/// Knows whom to ask.
pub struct Operator {
    /// Sessions, workers, configuration.
    pub front: Arc<Front>,
    /// Who was turned away before the handshake.
    pub gate: Arc<Gate>,
    /// The accounts.
    pub accounts: Arc<AccountStore>,
    /// What the kernel can do.
    pub features: KernelFeatures,
    /// When the server started.
    pub started: Instant,
}

impl AdminHandler for Operator {
    async fn handle(&self, request: Request) -> Answer {
        match request {
            Request::Status {} => Answer::Status(Box::new(self.status().await)),
            Request::SessionList { hub } => match self.unknown(hub.as_deref()) {
                Some(error) => error,
                None => Answer::Sessions { rows: self.sessions(hub.as_deref()).await },
            },
            Request::SessionKick { name } => self.kick(&name),
            Request::MacList { hub } => match self.unknown(hub.as_deref()) {
                Some(error) => error,
                None => Answer::Macs { rows: self.macs(hub.as_deref()).await },
            },
            Request::UsersReload {} => match self.accounts.refresh() {
                Ok(true) => Answer::Done { message: "the accounts were read again".into() },
                Ok(false) => Answer::Done { message: "the accounts have not changed".into() },
                Err(error) => Answer::error(error.to_string()),
            },
            Request::UserEnd { hub, user } => self.end_user(&hub, &user).await,
            Request::DhcpList { hub } => match self.unknown(hub.as_deref()) {
                Some(error) => error,
                None => self.dhcp_list(hub.as_deref()).await,
            },
            Request::DhcpRelease { hub, address } => match self.unknown(hub.as_deref()) {
                Some(error) => error,
                None => self.dhcp_release(hub.as_deref(), address).await,
            },
            Request::NatList(wanted) => match self.unknown(wanted.hub.as_deref()) {
                Some(error) => error,
                None => self.nat_list(wanted).await,
            },
            Request::NatStats { hub } => match self.unknown(hub.as_deref()) {
                Some(error) => error,
                None => self.nat_stats(hub.as_deref()).await,
            },
            Request::NatExplain(endpoint) => self.nat_explain(endpoint).await,
        }
    }
}

impl Operator {
    /// The answer for a hub that does not exist.
    fn unknown(&self, hub: Option<&str>) -> Option<Answer> {
        let hub = hub?;
        let config = Arc::clone(&self.front.config.load().config);
        if config.hub(hub).is_some() {
            return None;
        }
        let names: Vec<&str> = config.hubs.iter().map(|hub| hub.name.as_str()).collect();
        Some(Answer::error(format!("no hub is called {hub:?}; there are: {}", names.join(", "))))
    }

    async fn status(&self) -> StatusView {
        let mut gateways = self.gateways().await;
        let workers = &self.front.workers;
        let config = Arc::clone(&self.front.config.load().config);
        let mut counters: BTreeMap<String, u64> = BTreeMap::new();
        for (name, count) in workers.iter().flat_map(|worker| worker.counters.plain()) {
            *counters.entry(name.to_owned()).or_default() += count;
        }
        for (refusal, count) in self.front.refusals.read() {
            counters.insert(format!("login_refused_{}", refusal.label()), count);
        }
        counters.insert("connections_turned_away".into(), self.gate.turned_away());
        counters.insert("events_lost".into(), self.front.events.lost());
        let drops = DropReason::ALL.iter().map(|reason| {
            (reason.label().to_owned(), workers.iter().map(|worker| worker.counters.drops(*reason)).sum())
        });
        let closes = CloseReason::ALL.iter().map(|reason| {
            (reason.label().to_owned(), workers.iter().map(|worker| worker.counters.closes(*reason)).sum())
        });
        StatusView {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs(),
            back_end: self.features.back_end().into(),
            features: self
                .features
                .list()
                .into_iter()
                .filter(|(_, there)| *there)
                .map(|(name, _)| name.into())
                .collect(),
            workers: self.workers(),
            hubs: config
                .hubs
                .iter()
                .zip(0..)
                .map(|(hub, id)| self.hub(hub, HubId(id), gateways.remove(&HubId(id))))
                .collect(),
            drops: drops.collect(),
            closes: closes.collect(),
            counters,
        }
    }

    fn workers(&self) -> Vec<WorkerView> {
        let view = |worker: &super::workers::WorkerHandle| WorkerView {
            cpu: u32::try_from(worker.cpu).unwrap_or(u32::MAX),
            back_end: worker.back_end.into(),
            turns: worker.counters.turns.read(),
            ports: worker.counters.ports.read(),
            conns: worker.counters.conns.read(),
            frames: worker.counters.frames_in.read(),
            bytes: worker.counters.bytes_in.read(),
            cpu_ms: worker.load.total_ns.load(Relaxed) / 1_000_000,
        };
        self.front.workers.iter().map(view).collect()
    }

    fn hub(&self, hub: &Hub, id: HubId, gateway: Option<GatewayView>) -> HubView {
        HubView {
            name: hub.name.clone(),
            profile: match hub.profile {
                Profile::Lan => "lan".into(),
                Profile::Public => "public".into(),
            },
            sessions: self.front.sessions.count(id) as u64,
            macs: self.front.hubs.get(usize::from(id.0)).map_or(0, |hub| hub.fdb_len() as u64),
            gateway,
        }
    }

    /// What every worker tells about its ports.
    async fn ports(&self) -> HashMap<SessionId, PortView> {
        let mut ports = HashMap::new();
        let mut answers = Vec::new();
        for worker in self.front.workers.iter() {
            let (answer, answered) = oneshot::channel();
            // Who asked may have gone meanwhile.
            worker.tell(Command::Inspect(Box::new(move |views| drop(answer.send(views)))));
            answers.push(answered);
        }
        for answered in answers {
            if let Ok(Ok(views)) = timeout(WORKER_MAX, answered).await {
                ports.extend(views.into_iter().map(|view| (view.session, view)));
            }
        }
        ports
    }

    async fn sessions(&self, hub: Option<&str>) -> Vec<SessionRow> {
        let ports = self.ports().await;
        let wanted = |session: &Session| hub.is_none_or(|hub| session.hub_name.eq_ignore_ascii_case(hub));
        let sessions = self.front.sessions.all().into_iter().filter(wanted);
        let mut rows: Vec<SessionRow> = sessions.map(|session| row(&session, ports.get(&session.id))).collect();
        rows.sort_by(|a, b| (&a.hub, a.session).cmp(&(&b.hub, b.session)));
        rows
    }

    fn kick(&self, name: &str) -> Answer {
        let sessions = self.front.sessions.by_name(None, name);
        if sessions.is_empty() {
            return Answer::error(format!("no session is called {name:?}; see: hublane session list"));
        }
        for session in &sessions {
            self.front.end(session, CloseReason::Kicked);
        }
        Answer::Done { message: format!("{} ended", sessions[0].name) }
    }

    async fn macs(&self, hub: Option<&str>) -> Vec<MacRow> {
        let sessions: HashMap<SessionId, Session> =
            self.front.sessions.all().into_iter().map(|session| (session.id, session)).collect();
        let names: HashMap<PortId, String> = self
            .ports()
            .await
            .into_values()
            .filter_map(|view| Some((view.port, sessions.get(&view.session)?.name.clone())))
            .collect();
        let now = monotonic();
        let mut rows = Vec::new();
        let config = Arc::clone(&self.front.config.load().config);
        for (config, shared) in config.hubs.iter().zip(self.front.hubs.iter()) {
            if hub.is_some_and(|hub| !config.name.eq_ignore_ascii_case(hub)) {
                continue;
            }
            rows.extend(shared.mac_table(now).into_iter().map(|entry| MacRow {
                hub: config.name.clone(),
                mac: entry.mac.to_string(),
                vlan: entry.vlan,
                session: names.get(&entry.port).cloned().unwrap_or_default(),
                worker: u32::try_from(entry.port.worker()).unwrap_or(u32::MAX),
                age_s: u64::from(entry.age_secs),
            }));
        }
        rows.sort_by(|a, b| (&a.hub, &a.mac, a.vlan).cmp(&(&b.hub, &b.mac, b.vlan)));
        rows
    }
}

fn row(session: &Session, port: Option<&PortView>) -> SessionRow {
    let conn = port.and_then(|port| port.conns.first());
    let peer = conn.map(|conn| conn.peer).or_else(|| session.peer());
    let carried = port.map(|port| port.carried).unwrap_or_default();
    SessionRow {
        name: session.name.clone(),
        hub: session.hub_name.clone(),
        user: session.user.clone(),
        member: session.member.0,
        session: session.id.0,
        worker: u32::try_from(session.worker).unwrap_or(u32::MAX),
        connections: u32::try_from(port.map_or(session.conns(), |port| port.conns.len())).unwrap_or(u32::MAX),
        address: peer.map_or_else(String::new, |peer| peer.ip().to_string()),
        port: peer.map_or(0, |peer| peer.port()),
        suite: conn.map_or_else(String::new, |conn| conn.tls.clone()),
        client: session.product.clone(),
        since_unix_s: session.since_ns / 1_000_000_000,
        frames_in: carried.frames_in,
        bytes_in: carried.bytes_in,
        frames_out: carried.frames_out,
        bytes_out: carried.bytes_out,
        macs: port.map_or(0, |port| port.macs),
        queue: port.map_or(0, |port| u32::try_from(port.queued).unwrap_or(u32::MAX)),
    }
}
