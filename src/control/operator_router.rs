//! Answers to the operator about gateways and NATs. Their tables are the workers' own: each is asked for its part.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::admin::Answer;
use super::admin::router::{
    GatewayView, LaneQueueView, LeaseRow, NatEndpoint, NatExplained, NatRow, NatStatsRow, NatView, NatWanted,
};
use super::operator::Operator;
use super::ways::WayOut;
use crate::gateway::dhcp::{LeaseState, LeaseView};
use crate::ids::{HubId, MemberId, SessionId};
use crate::metrics::closes::CloseReason;
use crate::metrics::drops::DropReason;
use crate::nat::{Explanation, MappingView, Nat, NatFilter, NatStats, PortUse, Proto};
use crate::tick::Tick;
use crate::worker::router::orders::Order;
use crate::worker::router::view::RouterView;

/// Numbers as people know them.
struct Names {
    users: HashMap<MemberId, String>,
    sessions: HashMap<SessionId, String>,
}

impl Names {
    fn user(&self, member: MemberId) -> String {
        // Who was removed is still known by his number.
        self.users.get(&member).cloned().unwrap_or_else(|| format!("#{}", member.0))
    }

    fn session(&self, session: SessionId) -> String {
        self.sessions.get(&session).cloned().unwrap_or_default()
    }
}

impl Operator {
    fn names(&self) -> Names {
        Names {
            users: self.accounts.list().iter().map(|account| (account.member(), account.name.clone())).collect(),
            sessions: self.front.sessions.all().into_iter().map(|session| (session.id, session.name)).collect(),
        }
    }

    fn hub_name(&self, id: HubId) -> String {
        let config = Arc::clone(&self.front.config.load().config);
        config.hubs.get(usize::from(id.0)).map_or_else(String::new, |hub| hub.name.clone())
    }

    /// Hubs with a gateway: one, or all.
    fn ways(&self, hub: Option<&str>) -> impl Iterator<Item = &WayOut> {
        let wanted = move |way: &&WayOut| hub.is_none_or(|hub| self.hub_name(way.hub()).eq_ignore_ascii_case(hub));
        self.front.ways.iter().filter(wanted)
    }

    // ---- DHCP ----

    pub(super) async fn dhcp_list(&self, hub: Option<&str>) -> Answer {
        let names = self.names();
        let mut rows = Vec::new();
        for way in self.ways(hub) {
            let ask = |answer: oneshot::Sender<Vec<LeaseView>>| {
                Order::Host(Box::new(move |gateway, _, now| {
                    let leases = gateway.dhcp().map(|dhcp| dhcp.leases(now).collect());
                    send(answer, leases.unwrap_or_default());
                }))
            };
            let Some(leases) = way.ask(&self.front.workers, way.plan.owner(), ask).await else {
                return self.silent(way, way.plan.owner());
            };
            let name = self.hub_name(way.hub());
            rows.extend(leases.iter().map(|lease| lease_row(&name, lease, &names)));
        }
        Answer::Leases { rows }
    }

    pub(super) async fn dhcp_release(&self, hub: Option<&str>, address: Ipv4Addr) -> Answer {
        let mut ways = self.ways(hub).filter(|way| way.plan.bindings.covers(address));
        let (Some(way), others) = (ways.next(), ways.count()) else {
            return Answer::error(format!("{address} is in no gateway's network; see: hublane dhcp list"));
        };
        if others > 0 {
            return Answer::error(format!("{address} is in the networks of {} hubs; name one by --hub", others + 1));
        }
        let ask = |answer: oneshot::Sender<bool>| {
            Order::Host(Box::new(move |gateway, sink, now| send(answer, gateway.release(address, now, sink))))
        };
        match way.ask(&self.front.workers, way.plan.owner(), ask).await {
            None => self.silent(way, way.plan.owner()),
            Some(false) => Answer::error(format!("nobody has a lease of {address}; see: hublane dhcp list")),
            Some(true) => Answer::Done { message: format!("the lease of {address} has ended") },
        }
    }

    // ---- NAT ----

    pub(super) async fn nat_list(&self, wanted: NatWanted) -> Answer {
        let max = usize::try_from(wanted.max).unwrap_or(usize::MAX);
        let (names, mut rows, mut known) = (self.names(), Vec::new(), wanted.user.is_none());
        for way in self.ways(wanted.hub.as_deref()) {
            let Some(plan) = &way.plan.nat else { continue };
            let hub = self.hub_name(way.hub());
            let member = match &wanted.user {
                None => None,
                Some(user) => match self.accounts.find(&hub, user) {
                    Some(account) => Some(account.member()),
                    None => continue,
                },
            };
            known = true;
            let filter = NatFilter { member, inside: wanted.address, ..NatFilter::default() };
            // One more tells whether there are more.
            let order = |answer| ask_nat(answer, move |nat, now| nat.list(&filter, max.saturating_add(1), now));
            let workers = &self.front.workers;
            let parts = match wanted.address.map(|address| plan.owner_of_inside(address)) {
                Some(owner) => vec![(owner, way.ask(workers, owner, order).await)],
                None => way.ask_all(workers, order).await.into_iter().enumerate().collect(),
            };
            for (worker, part) in parts {
                let Some(part) = part else { return self.silent(way, worker) };
                rows.extend(part.into_iter().map(|view| (view.translation, worker, view, hub.clone())));
            }
        }
        if !known {
            let user = wanted.user.unwrap_or_default();
            return Answer::error(format!("no hub with a NAT has a user {user:?}; see: hublane user list"));
        }
        rows.sort_by(|(a, _, _, hub_a), (b, _, _, hub_b)| {
            (hub_a, a.inside, a.proto, a.external).cmp(&(hub_b, b.inside, b.proto, b.external))
        });
        let more = rows.len() > max;
        rows.truncate(max);
        let rows = rows.iter().map(|(_, worker, view, hub)| nat_row(hub, *worker, view, &names)).collect();
        Answer::Mappings { rows, more }
    }

    pub(super) async fn nat_stats(&self, hub: Option<&str>) -> Answer {
        let mut rows = Vec::new();
        for way in self.ways(hub) {
            let Some(plan) = &way.plan.nat else { continue };
            let mut all = NatStats::default();
            for (worker, stats) in self.views(way).await.into_iter().map(|view| view?.nat).enumerate() {
                let Some(stats) = stats else { return self.silent(way, worker) };
                all += stats;
            }
            rows.push(NatStatsRow {
                hub: self.hub_name(way.hub()),
                device: way.device.clone().unwrap_or_default(),
                addresses: plan.addresses().map(|address| address.to_string()).collect(),
                block_ports: plan.block_ports(),
                stats: all,
            });
        }
        Answer::NatStats { rows }
    }

    pub(super) async fn nat_explain(&self, endpoint: NatEndpoint) -> Answer {
        let NatEndpoint { proto, external, remote } = endpoint;
        let Some(number) = Proto::ALL.into_iter().find(|known| name_of(*known) == proto) else {
            return Answer::error(format!("{proto:?} is none of tcp, udp, icmp"));
        };
        let ours = |way: &&WayOut| way.plan.nat.as_ref().is_some_and(|nat| nat.is_external(*external.ip()));
        let Some((way, plan)) = self.ways(None).find(ours).and_then(|way| Some((way, way.plan.nat.as_ref()?))) else {
            return Answer::error(format!("{} is no public address of a NAT; see: hublane nat stats", external.ip()));
        };
        let owner = plan.owner_of_external(number, *external.ip(), external.port());
        let order = |answer| ask_nat(answer, move |nat, now| explain(nat, number, external, remote, now));
        let explained = match way.ask(&self.front.workers, owner, order).await {
            None => return self.silent(way, owner),
            Some(explained) => explained,
        };
        let Some((explanation, rows, verdict)) = explained else {
            return Answer::error(format!("{external} is no public endpoint of this NAT"));
        };
        let (hub, names) = (self.hub_name(way.hub()), self.names());
        let is_static = plan.statics().iter().any(|fixed| fixed.proto == number && fixed.external == external);
        let holder = explanation.block.map(|(_, insider)| insider);
        Answer::Explained(Box::new(NatExplained {
            proto,
            external: external.to_string(),
            port_use: match explanation.port_use {
                _ if is_static => "static".into(),
                PortUse::Block => "block".into(),
                PortUse::Commons => "commons".into(),
                PortUse::None => "none".into(),
            },
            worker: u32::try_from(owner).unwrap_or(u32::MAX),
            block: explanation.block.map_or_else(String::new, |(block, _)| {
                format!("{}-{}", block.first, u32::from(block.first) + u32::from(block.ports) - 1)
            }),
            inside: holder.map_or_else(String::new, |holder| holder.address.to_string()),
            user: holder.map_or_else(String::new, |holder| names.user(holder.member)),
            member: holder.map_or(0, |holder| holder.member.0),
            session: holder.map_or_else(String::new, |holder| names.session(holder.session)),
            rows: rows.iter().map(|view| nat_row(&hub, owner, view, &names)).collect(),
            verdict: verdict.map(|reason| reason.map_or("passes", DropReason::label).to_owned()),
            hub,
        }))
    }

    // ---- status ----

    /// Gateways of all hubs that have one, as far as their workers answer.
    pub(super) async fn gateways(&self) -> HashMap<HubId, GatewayView> {
        let mut gateways = HashMap::new();
        for way in self.front.ways.iter() {
            let views: Vec<RouterView> = self.views(way).await.into_iter().flatten().collect();
            let leases = views.iter().find_map(|view| view.leases).unwrap_or_default();
            let mut nat = NatStats::default();
            views.iter().filter_map(|view| view.nat.as_ref()).for_each(|stats| nat += *stats);
            let nat = way.plan.nat.is_some().then(|| NatView {
                device: way.device.clone().unwrap_or_default(),
                mappings: nat.mappings,
                flows: nat.flows,
                blocks_used: nat.blocks_used,
                blocks: nat.blocks,
                ..lane(&views)
            });
            let view = GatewayView {
                address: way.plan.address.to_string(),
                worker: u32::try_from(way.plan.owner()).unwrap_or(u32::MAX),
                leases: leases.leased,
                pool: leases.pool,
                nat,
            };
            gateways.insert(way.hub(), view);
        }
        gateways
    }

    /// The parts of all workers.
    async fn views(&self, way: &WayOut) -> Vec<Option<RouterView>> {
        way.ask_all(&self.front.workers, view).await
    }

    fn silent(&self, way: &WayOut, worker: usize) -> Answer {
        let hub = self.hub_name(way.hub());
        Answer::error(format!("worker {worker} does not answer about hub {hub}; see: hublane status"))
    }

    // ---- the end of a user ----

    /// Ends the sessions of a user and what he has in the NAT. When it answers, nothing of his passes any more.
    pub(super) async fn end_user(&self, hub: &str, user: &str) -> Answer {
        let Some(account) = self.accounts.find(hub, user) else {
            return Answer::error(format!("hub {hub:?} has no user {user:?}; see: hublane user list"));
        };
        let config = Arc::clone(&self.front.config.load().config);
        let Some((at, _)) = config.hub(hub) else {
            return Answer::Done { message: "the server has no such hub: he has no sessions".into() };
        };
        let id = HubId(u16::try_from(at).expect("a configuration has at most 4096 hubs"));
        let reason = if account.disabled { CloseReason::Blocked } else { CloseReason::Kicked };
        let ended = self.front.evict(id, account.member(), reason);
        if let Some(way) = self.front.ways.iter().find(|way| way.hub() == id)
            && let Err(worker) = self.end_mappings(way, account.member()).await
        {
            return self.silent(way, worker);
        }
        let sessions = if ended == 1 { "1 session".to_owned() } else { format!("{ended} sessions") };
        Answer::Done { message: format!("{sessions} of user {} ended", account.name) }
    }

    /// `Err`: the worker that does not answer.
    async fn end_mappings(&self, way: &WayOut, member: MemberId) -> Result<(), usize> {
        let workers = &self.front.workers;
        let all = async |order: fn(oneshot::Sender<RouterView>) -> Order| {
            way.ask_all(workers, order).await.iter().position(Option::is_none).map_or(Ok(()), Err)
        };
        // Orders are done one after the other: who answers has closed the ports before,
        all(view).await?;
        // the gateway has unbound their addresses, by which nothing begins any more,
        let owner = way.plan.owner();
        let ask = |answer: oneshot::Sender<()>| Order::Host(Box::new(move |_, _, _| send(answer, ())));
        way.ask(workers, owner, ask).await.ok_or(owner)?;
        // and what had begun ends.
        for worker in workers.iter() {
            worker.tell(crate::worker::seeds::Command::Router(way.hub(), Order::EndMember(member)));
        }
        all(view).await
    }
}

fn view(answer: oneshot::Sender<RouterView>) -> Order {
    Order::Inspect(Box::new(move |view| send(answer, view)))
}

fn ask_nat<T: Send + 'static>(
    answer: oneshot::Sender<T>,
    ask: impl FnOnce(&mut Nat, Tick) -> T + Send + 'static,
) -> Order {
    Order::Nat(Box::new(move |nat, now| send(answer, ask(nat, now))))
}

fn send<T>(answer: oneshot::Sender<T>, what: T) {
    // Who asked may have gone meanwhile.
    let _ = answer.send(what);
}

/// What the block is, what is there, and, of a remote end, why its packet does not pass (`None` inside: it does).
type Explained = (Explanation, Vec<MappingView>, Option<Option<DropReason>>);

fn explain(
    nat: &mut Nat,
    proto: Proto,
    external: SocketAddrV4,
    remote: Option<SocketAddrV4>,
    now: Tick,
) -> Option<Explained> {
    let mut explanation = nat.explain(proto, external, now)?;
    let rows = std::mem::take(&mut explanation.mappings);
    let Some(remote) = remote else { return Some((explanation, rows, None)) };
    let filter = NatFilter {
        external: Some(*external.ip()),
        external_port: Some(external.port()),
        proto: Some(proto),
        remote: Some(*remote.ip()),
        ..NatFilter::default()
    };
    let verdict = nat.verdict(proto, external, remote).err();
    Some((explanation, nat.list(&filter, EXPLAINED_MAX, now), Some(verdict)))
}

fn lease_row(hub: &str, lease: &LeaseView, names: &Names) -> LeaseRow {
    LeaseRow {
        hub: hub.to_owned(),
        address: lease.address.to_string(),
        state: match lease.state {
            LeaseState::Unused | LeaseState::Free | LeaseState::Closed => "free".into(),
            LeaseState::Probing => "probing".into(),
            LeaseState::Offered => "offered".into(),
            LeaseState::Leased => "leased".into(),
            LeaseState::Conflict => "conflict".into(),
        },
        user: lease.member.map_or_else(String::new, |member| names.user(member)),
        member: lease.member.map_or(0, |member| member.0),
        session: lease.session.map_or_else(String::new, |session| names.session(session)),
        mac: lease.mac.map_or_else(String::new, |mac| mac.to_string()),
        client: lease.client.map_or_else(String::new, |client| format!("{client:?}")),
        host_name: String::from_utf8_lossy(&lease.host_name).into_owned(),
        reserved: lease.is_reserved,
        left_s: lease.left.as_secs(),
    }
}

fn nat_row(hub: &str, worker: usize, view: &MappingView, names: &Names) -> NatRow {
    let kind = match (view.is_static, view.is_pcp, view.is_shared) {
        (true, ..) => "static",
        (_, true, _) => "pcp",
        (.., true) => "shared",
        _ => "dynamic",
    };
    NatRow {
        hub: hub.to_owned(),
        proto: name_of(view.translation.proto).into(),
        inside: view.translation.inside.to_string(),
        external: view.translation.external.to_string(),
        remote: view.remote.map_or_else(String::new, |remote| remote.to_string()),
        user: view.insider.map_or_else(String::new, |insider| names.user(insider.member)),
        member: view.insider.map_or(0, |insider| insider.member.0),
        session: view.insider.map_or_else(String::new, |insider| names.session(insider.session)),
        state: view.state.map_or("", |state| state.label()).into(),
        kind: kind.into(),
        expires_s: view.expires_secs,
        worker: u32::try_from(worker).unwrap_or(u32::MAX),
    }
}

fn name_of(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Icmp => "icmp",
    }
}

/// Lines of an explanation.
const EXPLAINED_MAX: usize = 64;

/// The lanes of all workers as one.
fn lane(views: &[RouterView]) -> NatView {
    let reports = || views.iter().filter_map(|view| view.report.as_ref());
    let queues = views.iter().zip(0..).flat_map(|(view, worker)| {
        let queues = view.report.iter().flat_map(|report| &report.queues);
        queues.map(move |queue| LaneQueueView {
            queue: queue.queue,
            worker,
            zero_copy: queue.zero_copy,
            why_copy: queue.why_copy.clone().unwrap_or_default(),
            ring_drops: queue.ring_drops,
            starved: queue.starved,
            bad_descriptors: queue.bad_descriptors,
        })
    });
    let mut queues: Vec<_> = queues.collect();
    queues.sort_by_key(|queue| queue.queue);
    let decisions = reports().flat_map(|report| &report.decisions);
    NatView {
        link: views
            .iter()
            .find_map(|view| view.lane)
            .map_or("", |(link, _)| if link.up { "up" } else { "down" })
            .into(),
        lane: reports().next().map_or("", |report| report.mode).into(),
        steer: reports().next().map_or("", |report| report.steer).into(),
        queues,
        decisions: decisions.map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        remarks: reports().flat_map(|report| report.remarks.clone()).collect(),
        ..NatView::default()
    }
}
