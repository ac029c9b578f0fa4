//! Gateways, NATs and lanes: made before the workers that run them.
//!
//! For each hub with `[hub.gateway]`: its leases are read, a worker is chosen to own it, each worker gets a
//! [`RouterSeed`]. What a gateway wants from control threads (questions for upstreams, the lease file) comes back as
//! orders to the worker that owns it: [`Routers::serve`].
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::ServerError;
use crate::config::gateway::{self as wanted, Filtering as WantedFiltering, Holder, NatLog};
use crate::config::{Config, Hub};
use crate::control::dns::{self, UpstreamSettings, Upstreams};
use crate::control::log::EventSender;
use crate::control::state::accounts::AccountStore;
use crate::control::state::leases::{self, LeaseHolder};
use crate::control::state::secrets;
use crate::control::ways::WayOut;
use crate::event::{Event, Stamp, What};
use crate::gateway::arp::ArpGuard;
use crate::gateway::bindings::Bindings;
use crate::gateway::dhcp::DhcpSettings;
use crate::gateway::dhcp::settings::Reservation;
use crate::gateway::dns::{DnsQuestion, DnsSettings};
use crate::gateway::{Gateway, GatewaySettings};
use crate::hub::Profile;
use crate::ids::{HubId, PortId};
use crate::lane::Lane;
use crate::lane::any::AnyLaneIo;
use crate::lane::choice::{self, Choice, LaneKind, LaneMode, LaneSteer};
use crate::lane::filter::{LaneFilter, StaticPort};
use crate::lane::packet::{self, PacketSettings};
use crate::lane::uplink::{Ownership, Shared, UplinkSettings};
use crate::lane::xdp::{self, XdpSettings};
use crate::nat::{Filtering, Nat, NatPlan, NatSettings, Prefix, Proto, Record, Rule, StaticMapping};
use crate::sys::bpf;
use crate::sys::clock::{monotonic, wall_ns};
use crate::sys::netdev::{self, Addressing};
use crate::sys::nic::{self, NicFacts};
use crate::sys::waker::Waker;
use crate::sys::xsk::{BusyPoll, Copying};
use crate::wire::ethernet::Mac;
use crate::worker::router::departures::Departures;
use crate::worker::router::host::HostSeed;
use crate::worker::router::orders::Order;
use crate::worker::router::plan::RouterPlan;
use crate::worker::router::{EventSink, RouterSeed};
use crate::worker::seeds::Command;

/// How orders reach the workers, by number.
#[derive(Clone)]
pub(super) struct Reach {
    pub(super) commands: Arc<[Sender<Command<OwnedFd>>]>,
    pub(super) wakers: Arc<[Waker]>,
}

impl Reach {
    pub(super) fn tell(&self, worker: usize, hub: HubId, order: Order) {
        // A worker that has ended wants no orders.
        let _ = self.commands[worker].send(Command::Router(hub, order));
        self.wakers[worker].wake();
    }

    pub(super) fn tell_all(&self, hub: HubId, order: impl Fn() -> Order) {
        (0..self.commands.len()).for_each(|worker| self.tell(worker, hub, order()));
    }
}

/// What gateways need while the server runs.
pub(super) struct Routers {
    reach: Reach,
    /// By hub: how it gets to the Internet.
    plans: Vec<Arc<RouterPlan>>,
    /// By hub: the device of its NAT.
    devices: Vec<Option<String>>,
    upstreams: Vec<(HubId, usize, Arc<Upstreams>, UnboundedReceiver<DnsQuestion>)>,
}

/// What hubs are made from.
pub(super) struct Making<'a> {
    pub(super) config: &'a Config,
    pub(super) state: &'a Path,
    pub(super) accounts: &'a AccountStore,
    pub(super) events: &'a EventSender,
}

impl Making<'_> {
    /// Makes every gateway; also the seeds for each worker.
    pub(super) fn make(&self, reach: &Reach, workers: usize) -> Result<(Routers, Vec<Vec<RouterSeed>>), ServerError> {
        let mut seeds: Vec<Vec<RouterSeed>> = (0..workers).map(|_| Vec::new()).collect();
        let mut routers =
            Routers { reach: reach.clone(), plans: Vec::new(), devices: Vec::new(), upstreams: Vec::new() };
        for (hub, id) in self.config.hubs.iter().zip(0..) {
            let Some(gateway) = &hub.gateway else { continue };
            self.make_one(hub, HubId(id), gateway, &mut routers, &mut seeds)?;
        }
        Ok((routers, seeds))
    }

    fn make_one(
        &self,
        hub: &Hub,
        id: HubId,
        gateway: &wanted::Gateway,
        routers: &mut Routers,
        seeds: &mut [Vec<RouterSeed>],
    ) -> Result<(), ServerError> {
        let workers = seeds.len();
        let owner = routers.plans.len() % workers;
        let slot = u32::try_from(routers.plans.len() / workers).unwrap_or(u32::MAX);
        let worker = u8::try_from(owner).expect("fewer than 64 workers");
        let bindings = Arc::new(Bindings::new(gateway.network(), gateway.network_addresses()));
        // Who has used an address before need not look whether somebody else has it, and is back at once.
        let journal = leases::read(&leases::path(self.state, &hub.name))?;
        let uplink = hub.nat.as_ref().map(|nat| Uplink::of(hub, nat, journal.is_empty())).transpose()?;
        let nat_plan = match (&hub.nat, &uplink) {
            (Some(nat), Some(uplink)) => Some(Arc::new(plan_nat(hub, gateway, nat, uplink, workers)?)),
            _ => None,
        };
        let plan = Arc::new(RouterPlan {
            hub: id,
            port: PortId::new(worker, slot, 0),
            mac: card_of(&hub.name),
            address: gateway.address,
            broadcast: Ipv4Addr::from(u32::from(gateway.network()) + (gateway.network_addresses() - 1)),
            guard: ArpGuard { mac: card_of(&hub.name), address: gateway.address, bindings: Arc::clone(&bindings) },
            bindings,
            departures: Departures::default(),
            nat: nat_plan,
        });
        let lanes = match (&hub.nat, uplink) {
            (Some(nat), Some(uplink)) => open_lanes(hub, nat, &uplink, &plan, workers)?,
            _ => (0..workers).map(|_| None).collect(),
        };
        let (ask, questions) = unbounded_channel();
        let mut host = Some(self.make_host(hub, gateway, &plan, &journal, &routers.reach, ask)?);
        for (worker, lane) in lanes.into_iter().enumerate() {
            let nat = plan.nat.as_ref().map(|nat| Nat::new(Arc::clone(nat), worker, random(), monotonic()));
            seeds[worker].push(RouterSeed {
                plan: Arc::clone(&plan),
                host: if worker == owner { host.take() } else { None },
                nat,
                lane,
                events: self.event_sink(hub),
            });
        }
        routers.upstreams.push((id, owner, Upstreams::new(upstream_settings(gateway)), questions));
        routers.plans.push(plan);
        routers.devices.push(hub.nat.as_ref().map(|nat| nat.device.clone()));
        Ok(())
    }

    fn make_host(
        &self,
        hub: &Hub,
        gateway: &wanted::Gateway,
        plan: &RouterPlan,
        journal: &[u8],
        reach: &Reach,
        ask: UnboundedSender<DnsQuestion>,
    ) -> Result<HostSeed, ServerError> {
        let settings = self.gateway_settings(hub, gateway, plan);
        let (now, unix_s) = (monotonic(), wall_ns() / 1_000_000_000);
        let mut host = Gateway::new(settings, Arc::clone(&plan.bindings), random(), now, unix_s);
        let path = leases::path(self.state, &hub.name);
        let mut content = Vec::new();
        if let Some(dhcp) = host.dhcp() {
            let restored = dhcp.restore(journal);
            if restored.damaged > 0 {
                tracing::warn!(hub = %hub.name, lines = restored.damaged, "damaged lines of the lease file are left out");
            }
            tracing::info!(hub = %hub.name, leases = restored.leases, "leases restored");
            dhcp.compact(&mut 0, u32::MAX, |line| content.extend_from_slice(line));
        }
        let holder = Holding { reach: reach.clone(), hub: plan.hub, owner: plan.owner() };
        let (journal, _) = leases::start(&path, &content, Box::new(holder))?;
        // The receiver lives as long as the server.
        let ask = Box::new(move |question| drop(ask.send(question)));
        let (reach, id) = (reach.clone(), plan.hub);
        let tell = Box::new(move |worker, order| reach.tell(worker, id, order));
        Ok(HostSeed { gateway: host, journal: Box::new(journal), ask, tell })
    }

    fn gateway_settings(&self, hub: &Hub, gateway: &wanted::Gateway, plan: &RouterPlan) -> GatewaySettings {
        let is_public = hub.profile == Profile::Public;
        let sessions_max = usize::try_from(hub.sessions_max).unwrap_or(usize::MAX);
        GatewaySettings {
            mac: plan.mac,
            address: gateway.address,
            prefix_bits: gateway.prefix_bits,
            answers_for_members: is_public,
            bound_only: true,
            sessions_max,
            dhcp: Some(self.dhcp_settings(hub, gateway, plan)),
            dns: DnsSettings { withhold_aaaa: gateway.withhold_aaaa, ..DnsSettings::default() },
            ..GatewaySettings::default()
        }
    }

    fn dhcp_settings(&self, hub: &Hub, gateway: &wanted::Gateway, plan: &RouterPlan) -> DhcpSettings {
        let reservations = gateway.reservations.iter().filter_map(|reserved| self.reservation(hub, reserved));
        let owner_of = plan.nat.clone().map(|nat| {
            let owner: crate::gateway::dhcp::settings::OwnerOf = Arc::new(move |address| nat.owner_of_inside(address));
            owner
        });
        DhcpSettings {
            pool: gateway.pool.clone(),
            reservations: reservations.collect(),
            lease_secs: u32::try_from(gateway.lease.as_secs()).unwrap_or(u32::MAX),
            leases_per_session: usize::try_from(gateway.leases_per_session).unwrap_or(usize::MAX),
            owner_of,
            domain: gateway.domain.clone().unwrap_or_default(),
            ..DhcpSettings::for_network(gateway.address, gateway.prefix_bits)
        }
    }

    /// `None`, and said so, for a user that does not exist.
    fn reservation(&self, hub: &Hub, reserved: &wanted::Reservation) -> Option<Reservation> {
        let mut reservation = Reservation { address: Some(reserved.address), ..Reservation::default() };
        match &reserved.holder {
            Holder::User(user) => match self.accounts.find(&hub.name, user) {
                Some(account) => reservation.member = Some(account.member()),
                None => {
                    tracing::warn!(hub = %hub.name, %user, address = %reserved.address, "reserved for a user that does not exist");
                    return None;
                }
            },
            Holder::Mac(mac) => reservation.mac = Some(*mac),
            Holder::ClientId(id) => reservation.client_id = Some(id.clone()),
        }
        Some(reservation)
    }

    fn event_sink(&self, hub: &Hub) -> EventSink {
        let (events, name): (EventSender, Arc<str>) = (self.events.clone(), hub.name.as_str().into());
        Box::new(move |_, event, at| {
            let what = What::Router { hub: Arc::clone(&name), event: Box::new(event) };
            events.send(Event { at: Stamp { wall_ns: wall_ns(), tick: at }, what });
        })
    }
}

/// The network behind a device.
struct Uplink {
    settings: UplinkSettings,
    mtu: u16,
}

impl Uplink {
    /// `is_new`: the NAT has never been here.
    fn of(hub: &Hub, nat: &wanted::Nat, is_new: bool) -> Result<Self, ServerError> {
        let refused = |why: String| ServerError::Router { hub: hub.name.clone(), why };
        let no_device =
            |error| refused(format!("device {:?}: {error}\n  hint: `ip link` lists those there are", nat.device));
        let Addressing { addresses: of_device, next_hop } = netdev::addressing(&nat.device).map_err(no_device)?;
        let device = netdev::Devices::new().and_then(|devices| devices.find(&nat.device)).map_err(no_device)?;
        let hosts = of_device.first().copied();
        let is_shared = nat.addresses.is_empty();
        let addresses = match (is_shared, hosts) {
            (false, _) => nat.addresses.clone(),
            (true, Some((address, _))) => vec![address],
            (true, None) => {
                let why = format!("device {:?} has no IPv4 address to share", nat.device);
                return Err(refused(format!(
                    "{why}\n  hint: give it one, or give the NAT its own: addresses = [\"…\"]"
                )));
            }
        };
        if let Some((taken, _)) = of_device.iter().find(|(address, _)| nat.addresses.contains(address)) {
            let why = format!("{taken} is an address of the host");
            return Err(refused(format!(
                "{why}\n  hint: leave addresses away to share it, or name one the host does not have"
            )));
        }
        let next_hop = nat.next_hop.or(next_hop);
        if next_hop.is_none() {
            tracing::warn!(hub = %hub.name, device = %nat.device, "no route beyond the network of the device: set next_hop");
        }
        let first = addresses[0];
        let settings = UplinkSettings {
            // Who is directly reachable: the network of the device if it has an address, else nobody but the next hop.
            network: hosts.unwrap_or((next_hop.unwrap_or(first), 32)),
            ownership: if is_shared { Ownership::Shared } else { Ownership::Dedicated { probe: is_new } },
            next_hop,
            ask_from: hosts.map_or(first, |(address, _)| address),
            addresses,
        };
        let mtu = nat.mtu.unwrap_or_else(|| u16::try_from(device.mtu.clamp(576, 1500)).expect("in range"));
        Ok(Self { settings, mtu })
    }
}

fn open_lanes(
    hub: &Hub,
    nat: &wanted::Nat,
    uplink: &Uplink,
    plan: &RouterPlan,
    workers: usize,
) -> Result<Vec<Option<Lane<AnyLaneIo>>>, ServerError> {
    let Some(nat_plan) = &plan.nat else { return Ok((0..workers).map(|_| None).collect()) };
    let statics = nat_plan.statics().iter().map(|fixed| StaticPort {
        protocol: fixed.proto.number(),
        address: *fixed.external.ip(),
        port: fixed.external.port(),
        worker: nat_plan.owner_of_external(fixed.proto, *fixed.external.ip(), fixed.external.port()),
    });
    let filter = LaneFilter {
        addresses: nat_plan.addresses().collect(),
        dedicated: !nat.addresses.is_empty(),
        slices: nat_plan.slices().iter().map(|slice| slice.first..=slice.last).collect(),
        statics: statics.collect(),
    };
    let lanes = open_ends(hub, nat, uplink, filter, workers)
        .map_err(|why| ServerError::Router { hub: hub.name.clone(), why: why.to_string() })?;
    let shared = Arc::new(Shared::new(&uplink.settings));
    let lane = |(worker, io)| {
        let settings = uplink.settings.clone();
        Some(Lane::new(io, settings, Arc::clone(&shared), worker, random(), monotonic()))
    };
    Ok(lanes.into_iter().enumerate().map(lane).collect())
}

/// What is known of `device`, once a lane of a process before this one has gone from it: the kernel takes a moment to clear
/// up after one that was killed.
fn facts_of_free(device: &str) -> std::io::Result<NicFacts> {
    let is_left = |facts: &NicFacts| facts.attached.as_ref().is_some_and(|program| program.name == bpf::XDP_NAME);
    for _ in 0..FREED_LOOKS {
        let facts = nic::facts(device)?;
        if !is_left(&facts) {
            return Ok(facts);
        }
        std::thread::sleep(FREED_LOOK);
    }
    nic::facts(device)
}

/// The back ends of all workers, of the kind that suits the device or was asked for.
fn open_ends(
    hub: &Hub,
    nat: &wanted::Nat,
    uplink: &Uplink,
    filter: LaneFilter,
    workers: usize,
) -> Result<Vec<AnyLaneIo>, Box<dyn std::error::Error>> {
    let device = &nat.device;
    let facts = facts_of_free(device)?;
    let choice = choice::choose(nat.lane_mode, nat.lane_steer, &facts, !filter.dedicated, workers)?;
    tracing::info!(hub = %hub.name, %device, "the lane is {}: {}", choice.mode.text(), choice.why);
    choice.remarks.iter().for_each(|remark| tracing::info!(hub = %hub.name, %device, "{remark}"));
    if choice.mode != LaneKind::Packet {
        let settings = xdp_settings(nat, uplink, &facts, choice, filter.clone(), workers);
        match xdp::open(settings) {
            Ok(ends) => return Ok(ends.into_iter().map(|io| AnyLaneIo::Xdp(Box::new(io))).collect()),
            Err(error) if nat.lane_mode == LaneMode::Auto => {
                tracing::warn!(hub = %hub.name, %device, "{error}; the lane is packet sockets instead");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let receive_bytes = RECEIVE_BYTES;
    let settings = PacketSettings { device: device.clone(), filter, workers, receive_bytes, qdisc_bypass: false };
    Ok(packet::open(settings)?.into_iter().map(AnyLaneIo::Packet).collect())
}

fn xdp_settings(
    nat: &wanted::Nat,
    uplink: &Uplink,
    facts: &NicFacts,
    choice: Choice,
    filter: LaneFilter,
    workers: usize,
) -> XdpSettings {
    let busy_poll = u32::try_from(nat.lane_busy_poll.as_micros()).unwrap_or(0);
    let generic = choice.mode == LaneKind::XdpGeneric;
    let copying = match nat.lane_mode {
        // Chosen because it copies nothing: with a copy, packet sockets carry more.
        LaneMode::Auto => Copying::ZeroCopy,
        _ if generic => Copying::Copy,
        _ => Copying::Auto,
    };
    XdpSettings {
        device: nat.device.clone(),
        asks_for_host: !filter.addresses.contains(&uplink.settings.ask_from) || !filter.dedicated,
        filter,
        workers,
        generic,
        copying,
        busy_poll: (busy_poll > 0).then_some(BusyPoll { micros: busy_poll, budget: BUSY_POLL_FRAMES }),
        tx_checksum: facts.xdp.is_some_and(|offer| offer.tx_checksum),
        steer: choice.steer,
        steer_or_fail: nat.lane_steer != LaneSteer::Auto,
        remarks: choice.remarks,
    }
}

fn plan_nat(
    hub: &Hub,
    gateway: &wanted::Gateway,
    nat: &wanted::Nat,
    uplink: &Uplink,
    workers: usize,
) -> Result<NatPlan, ServerError> {
    let settings = nat_settings(gateway, nat, &uplink.settings.addresses, uplink.mtu, workers);
    NatPlan::new(settings).map_err(|error| ServerError::Router { hub: hub.name.clone(), why: error.to_string() })
}

/// What the NAT of a hub is made from, with these public addresses.
pub(super) fn nat_settings(
    gateway: &wanted::Gateway,
    nat: &wanted::Nat,
    addresses: &[Ipv4Addr],
    mtu: u16,
    workers: usize,
) -> NatSettings {
    let inside = Prefix::new(gateway.network(), gateway.prefix_bits);
    let pool: Vec<Prefix> = addresses.iter().map(|address| Prefix::new(*address, 32)).collect();
    let mut settings = NatSettings::new(workers, inside, gateway.address, pool);
    settings.ports = (*nat.ports.start(), *nat.ports.end());
    let filtering = match nat.filtering {
        WantedFiltering::EndpointIndependent => Filtering::EndpointIndependent,
        WantedFiltering::Address => Filtering::Address,
        WantedFiltering::AddressPort => Filtering::AddressPort,
    };
    (settings.filtering_tcp, settings.filtering_udp) = (filtering, filtering);
    settings.block_ports = nat.block_ports;
    settings.limits.ports_per_address = nat.ports_per_member.into();
    settings.limits.ports_per_member = nat.ports_per_member.into();
    settings.limits.new_flows_per_sec = nat.flows_per_sec;
    settings.limits.destinations_per_min = nat.destinations_max;
    settings.policy.tcp_ports = nat.refuse_tcp_ports.iter().map(|port| (*port, *port)).collect();
    settings.policy.allow = nat.allow.iter().map(|to| Rule::to(Prefix::new(to.address, to.bits))).collect();
    settings.uplink_mtu = mtu;
    settings.icmp.answer_echo = !nat.addresses.is_empty();
    settings.record = Record { mappings: nat.log != NatLog::Blocks, destinations: nat.log == NatLog::Destinations };
    settings.statics = nat
        .forwards
        .iter()
        .filter_map(|forward| {
            let proto = if forward.is_tcp { Proto::Tcp } else { Proto::Udp };
            let inside = std::net::SocketAddrV4::new(forward.to, forward.to_port);
            // One place from which the member's answers leave.
            let external = std::net::SocketAddrV4::new(*addresses.first()?, forward.port);
            Some(StaticMapping { proto, external, inside })
        })
        .collect();
    settings
}

fn upstream_settings(gateway: &wanted::Gateway) -> UpstreamSettings {
    let mut upstreams = gateway.dns.clone();
    if upstreams.is_empty() {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        upstreams = dns::name_servers(&text);
    }
    if upstreams.is_empty() {
        tracing::warn!("no DNS server is configured and /etc/resolv.conf names none: questions of members fail");
    }
    UpstreamSettings { upstreams, questions_max: QUESTIONS_MAX, ..UpstreamSettings::default() }
}

/// A card of our own making, the same after every start: members remember it. Locally administered, "hl" first.
fn card_of(hub: &str) -> Mac {
    // FNV-1a: names differ, nobody is deceived by two that do not.
    let hash = hub
        .to_ascii_uppercase()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [_, a, b, c] = hash.to_be_bytes();
    Mac([0x02, b'h', b'l', a, b, c])
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    secrets::random(&mut bytes);
    u64::from_be_bytes(bytes)
}

/// Tells the worker of a gateway what became of its lease file.
struct Holding {
    reach: Reach,
    hub: HubId,
    owner: usize,
}

impl LeaseHolder for Holding {
    fn durable(&self, record: u64) {
        self.reach.tell(self.owner, self.hub, Order::Durable(record));
    }

    fn rewrite(&self) {
        let order = Order::Host(Box::new(|gateway, sink, _| {
            let mut content = Vec::new();
            if let Some(dhcp) = gateway.dhcp() {
                dhcp.compact(&mut 0, u32::MAX, |line| content.extend_from_slice(line));
                sink.rewrite_journal(content);
            }
        }));
        self.reach.tell(self.owner, self.hub, order);
    }
}

impl Routers {
    /// How control threads reach the gateways.
    pub(super) fn ways(&self) -> Arc<[WayOut]> {
        let both = self.plans.iter().zip(&self.devices);
        both.map(|(plan, device)| WayOut { plan: Arc::clone(plan), device: device.clone() }).collect()
    }

    /// Starts what gateways need from control threads.
    pub(super) fn serve(&mut self, tasks: &mut JoinSet<()>) {
        for (hub, owner, upstreams, questions) in self.upstreams.drain(..) {
            let reach = self.reach.clone();
            let answered = move |answer| reach.tell(owner, hub, Order::Answered(answer));
            tasks.spawn(dns::run(upstreams, questions, answered));
        }
        if self.plans.iter().any(|plan| plan.nat.is_some()) {
            tasks.spawn(tell_host_addresses(self.reach.clone(), self.plans.clone()));
        }
    }
}

/// Keeps members away from the host's own addresses, also from those it gets later.
async fn tell_host_addresses(reach: Reach, plans: Vec<Arc<RouterPlan>>) {
    let mut known = Vec::new();
    loop {
        match netdev::host_addresses() {
            Ok(addresses) if addresses != known => {
                for plan in plans.iter().filter(|plan| plan.nat.is_some()) {
                    let addresses: Arc<[Ipv4Addr]> = addresses.clone().into();
                    reach.tell_all(plan.hub, || {
                        let addresses = Arc::clone(&addresses);
                        Order::Nat(Box::new(move |nat, _| nat.set_host_addresses(&addresses)))
                    });
                }
                known = addresses;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the host's addresses cannot be read"),
        }
        tokio::time::sleep(HOST_ADDRESSES_EVERY).await;
    }
}

/// In front of each worker: a burst of 64 super-packets as the kernel counts them.
const RECEIVE_BYTES: usize = 8 << 20;
/// How often it is looked whether a device is free, and how long in between.
const FREED_LOOKS: usize = 20;
const FREED_LOOK: Duration = Duration::from_millis(100);
/// Frames of one look at a device that is polled, the kernel's own number for interrupts.
const BUSY_POLL_FRAMES: u32 = 64;
/// Questions asked at a time; most take one descriptor, those of slow upstreams some more.
pub(super) const QUESTIONS_MAX: usize = 512;
/// The host's addresses change rarely.
const HOST_ADDRESSES_EVERY: Duration = Duration::from_secs(5);
