//! What all workers of a NAT know and never change: external addresses, slices of ports, static mappings.
//!
//! Everything is found by arithmetic, so that any worker can tell who owns a packet:
//!
//! * an inside address belongs to worker `(address - first) % workers`;
//! * the ports of every external address are cut into units of 64, the units into one contiguous slice per
//!   worker, a slice into *blocks* (given to one inside address at a time) and behind them *commons* (used port by port,
//!   TCP of several members at once, each use recorded);
//! * static mappings come first and belong to the worker of their inside address. A unit that holds the port of one is
//!   left out of blocks and commons.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::hash::Secret;
use super::limits::Limits;
use super::parse;
use super::policy::{PolicySettings, Rule};
use crate::wire::ipv4::Ipv4;
use crate::wire::{icmp, tcp, udp};

/// The protocols that are translated. An ICMP identifier plays the part of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Proto {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// ICMP queries.
    Icmp,
}

impl Proto {
    /// All of them, in the order of [`Self::index`].
    pub const ALL: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Icmp];

    /// From the number in an IP header.
    #[inline]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            tcp::PROTOCOL => Some(Self::Tcp),
            udp::PROTOCOL => Some(Self::Udp),
            icmp::PROTOCOL => Some(Self::Icmp),
            _ => None,
        }
    }

    /// The number in an IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => tcp::PROTOCOL,
            Self::Udp => udp::PROTOCOL,
            Self::Icmp => icmp::PROTOCOL,
        }
    }

    /// Index into a table with one place per protocol.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    first: u32,
    bits: u8,
}

impl Prefix {
    /// The prefix of `bits` (at most 32) bits that `address` is in.
    pub fn new(address: Ipv4Addr, bits: u8) -> Self {
        let bits = bits.min(32);
        Self { first: u32::from(address) & Self::mask(bits), bits }
    }

    const fn mask(bits: u8) -> u32 {
        if bits == 0 { 0 } else { u32::MAX << (32 - bits) }
    }

    /// Whether `address` is one of them.
    #[inline]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & Self::mask(self.bits) == self.first
    }

    /// The first one.
    pub fn first(self) -> Ipv4Addr {
        self.first.into()
    }

    /// The last one.
    pub fn last(self) -> Ipv4Addr {
        (self.first | !Self::mask(self.bits)).into()
    }

    /// Number of shared bits.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// Whether an address is in both.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("\"{text}\" is no address or prefix such as 192.0.2.0/28");
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        let (address, bits) = (address.parse().map_err(|_| problem())?, bits.parse().map_err(|_| problem())?);
        if bits > 32 { Err(problem()) } else { Ok(Self::new(address, bits)) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.bits)
    }
}

/// From whom a mapping takes packets (RFC 4787 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// From anybody.
    EndpointIndependent,
    /// From addresses it has sent to.
    #[default]
    Address,
    /// From addresses and ports it has sent to.
    AddressPort,
}

/// Whether an inside address may appear under several external ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// It keeps one (RFC 6888 REQ-2), and is refused when that has no port left.
    #[default]
    Paired,
    /// Others of the pool are used when its own has no port left.
    Arbitrary,
}

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP after the last packet from inside (RFC 4787 REQ-5).
    pub udp: Duration,
    /// UDP to port 53, once answered.
    pub udp_dns: Duration,
    /// ICMP queries (RFC 5508 REQ-2).
    pub icmp: Duration,
    /// TCP connections that are open (RFC 5382 REQ-5).
    pub tcp_established: Duration,
    /// TCP connections that one side has asked for.
    pub tcp_partial_open: Duration,
    /// TCP connections that both sides have closed, or one has reset.
    pub tcp_closing: Duration,
    /// An unsolicited SYN is answered after that time (RFC 5382 REQ-4).
    pub tcp_unsolicited: Duration,
    /// Fragments of a datagram that stays incomplete.
    pub fragments: Duration,
    /// A block without a mapping stays with its holder, so that few blocks change hands.
    pub block_hold: Duration,
    /// A port rests before it goes to somebody else (RFC 6888 REQ-8).
    pub quarantine: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            udp_dns: Duration::from_secs(30),
            icmp: Duration::from_secs(60),
            tcp_established: Duration::from_secs(7_440),
            tcp_partial_open: Duration::from_secs(240),
            tcp_closing: Duration::from_secs(240),
            tcp_unsolicited: Duration::from_secs(6),
            fragments: Duration::from_secs(30),
            block_hold: Duration::from_secs(120),
            quarantine: Duration::from_secs(120),
        }
    }
}

/// A port of an external address that always leads to the same inside address and port, from anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticMapping {
    /// TCP or UDP.
    pub proto: Proto,
    /// As seen from the Internet.
    pub external: SocketAddrV4,
    /// In the hub.
    pub inside: SocketAddrV4,
}

/// What is recorded besides blocks and the uses of the commons, which always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Begin and end of every mapping.
    pub mappings: bool,
    /// Begin and end of every flow with its destination (RFC 6888 REQ-12 asks for a reason).
    pub destinations: bool,
}

/// ICMP of our own (RFC 5508 REQ-9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpSettings {
    /// Tells members why their packets go nowhere.
    pub to_members: bool,
    /// Tells the Internet.
    pub to_internet: bool,
    /// Answers echo requests from the Internet to external addresses. Not where the host does.
    pub answer_echo: bool,
    /// Messages per second, to each member and to the Internet.
    pub per_sec: u32,
}

impl Default for IcmpSettings {
    fn default() -> Self {
        Self { to_members: true, to_internet: true, answer_echo: false, per_sec: 20 }
    }
}

/// What a NAT is made from.
#[derive(Clone, Debug)]
pub struct NatSettings {
    /// Workers of the server.
    pub workers: usize,
    /// Addresses of members.
    pub inside: Prefix,
    /// The gateway's, among them.
    pub gateway: Ipv4Addr,
    /// External addresses.
    pub pool: Vec<Prefix>,
    /// First and last port to use, from 1024 on: lower ones serve static mappings only.
    pub ports: (u16, u16),
    /// Ports of a block: 8, 16, 32 or 64.
    pub block_ports: u16,
    /// Makes blocks smaller, down to 8 ports, until as many members get one each; 0: does not.
    pub members_expected: usize,
    /// Eighths of the ports that are commons, 1 to 7.
    pub commons_eighths: u8,
    /// Whether an inside address keeps its external one.
    pub pooling: Pooling,
    /// Filtering of TCP.
    pub filtering_tcp: Filtering,
    /// Filtering of UDP and ICMP queries.
    pub filtering_udp: Filtering,
    /// Whether packets from outside keep UDP and ICMP mappings alive (RFC 4787 REQ-6).
    pub inbound_refresh: bool,
    /// Whether UDP ports keep their parity where possible (RFC 4787 REQ-4).
    pub port_parity: bool,
    /// How long things last.
    pub timeouts: Timeouts,
    /// How much one member and all may have.
    pub limits: Limits,
    /// Where members may not go.
    pub policy: PolicySettings,
    /// Destinations that see the inside address (RFC 6888 REQ-6).
    pub no_nat: Vec<Rule>,
    /// Static mappings.
    pub statics: Vec<StaticMapping>,
    /// Longest packet towards the Internet.
    pub uplink_mtu: u16,
    /// Longest packet towards members.
    pub inside_mtu: u16,
    /// ICMP of our own.
    pub icmp: IcmpSettings,
    /// What is recorded.
    pub record: Record,
}

impl NatSettings {
    /// Defaults for everything else.
    pub fn new(workers: usize, inside: Prefix, gateway: Ipv4Addr, pool: Vec<Prefix>) -> Self {
        Self {
            workers,
            inside,
            gateway,
            pool,
            ports: (1_024, 65_535),
            block_ports: 64,
            members_expected: 0,
            commons_eighths: 3,
            pooling: Pooling::default(),
            filtering_tcp: Filtering::default(),
            filtering_udp: Filtering::default(),
            inbound_refresh: false,
            port_parity: true,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            policy: PolicySettings::default(),
            no_nat: Vec::new(),
            statics: Vec::new(),
            uplink_mtu: 1_500,
            inside_mtu: 1_500,
            icmp: IcmpSettings::default(),
            record: Record::default(),
        }
    }
}

/// Why settings make no NAT.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NatPlanError {
    /// No worker.
    #[error("a NAT needs at least one worker")]
    NoWorker,
    /// Nothing to translate to.
    #[error("the pool has no address: name the external address, such as pool = [\"192.0.2.1\"]")]
    EmptyPool,
    /// More than each worker has tables for.
    #[error("the pool has {0} addresses, at most {POOL_MAX} are possible")]
    PoolTooLarge(u64),
    /// An address that stands in two ranges.
    #[error("{0} and {1} of the pool overlap")]
    PoolOverlap(Prefix, Prefix),
    /// RFC 4787 REQ-7: who has an address that is inside and outside?
    #[error("{0} of the pool overlaps the inside network {1}: choose another inside network")]
    InsideIsOutside(Prefix, Prefix),
    /// A gateway that members cannot reach.
    #[error("the gateway {0} is not in the inside network {1}")]
    GatewayOutside(Ipv4Addr, Prefix),
    /// Not /8 to /30.
    #[error("the inside network {0} must have 8 to 30 bits")]
    InsideSize(Prefix),
    /// A range that is upside down, or too low.
    #[error("ports {0}-{1}: the range begins at 1024 or above and ends behind its beginning")]
    PortRange(u16, u16),
    /// Fewer than two units per worker.
    #[error("ports {0}-{1} are too few for {2} workers: each needs {UNIT_PORTS} ports for blocks and as many commons")]
    TooFewPorts(u16, u16, usize),
    /// Not 8, 16, 32 or 64.
    #[error("block_ports {0}: must be 8, 16, 32 or 64")]
    BlockPorts(u16),
    /// Not 1 to 7.
    #[error("commons_eighths {0}: must be 1 to 7")]
    Commons(u8),
    /// Below 576 or above 9216.
    #[error("MTU {0}: must be 576 to 9216")]
    Mtu(u16),
    /// A static mapping from outside the pool, to outside the inside network, of ICMP, or twice.
    #[error("static mapping {0} to {1}: {2}")]
    Static(SocketAddrV4, SocketAddrV4, &'static str),
}

/// Ports of one worker, the same of every external address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its owner.
    pub worker: usize,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// First port of the commons behind the blocks.
    pub commons: u16,
}

/// What a port of an external address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortUse {
    /// Static mappings, or nothing.
    None,
    /// One inside address has it for a while, by the record of its block.
    Block,
    /// Any may have it, by the record of each mapping or flow.
    Commons,
}

/// See the module text.
#[derive(Debug)]
pub struct NatPlan {
    settings: NatSettings,
    /// Ranges of the pool by first address, with the number of addresses before each.
    pool: Box<[(Prefix, u32)]>,
    addresses: u32,
    units: u16,
    block_ports: u16,
    /// Sorted by protocol, address and port.
    statics: Box<[StaticMapping]>,
}

impl NatPlan {
    /// Checks `settings`.
    pub fn new(settings: NatSettings) -> Result<NatPlan, NatPlanError> {
        check_inside(&settings)?;
        let (pool, addresses) = check_pool(&settings)?;
        let units = check_ports(&settings)?;
        for mtu in [settings.uplink_mtu, settings.inside_mtu] {
            if !(576..=9_216).contains(&mtu) {
                return Err(NatPlanError::Mtu(mtu));
            }
        }
        let mut statics = settings.statics.clone();
        statics.sort_by_key(static_key);
        let mut plan = Self { block_ports: settings.block_ports, settings, pool, addresses, units, statics: [].into() };
        plan.block_ports = plan.fitting_block();
        plan.check_statics(&statics)?;
        plan.statics = statics.into();
        Ok(plan)
    }

    /// What it was made from.
    #[inline]
    pub fn settings(&self) -> &NatSettings {
        &self.settings
    }

    /// The worker that holds all state of an inside address.
    #[inline]
    pub fn owner_of_inside(&self, a: Ipv4Addr) -> usize {
        u32::from(a).wrapping_sub(self.settings.inside.first) as usize % self.settings.workers
    }

    /// The worker that holds all state of a port of an external address; worker 0 where nobody does.
    pub fn owner_of_external(&self, proto: Proto, a: Ipv4Addr, port: u16) -> usize {
        self.owner(proto, a, port).unwrap_or(0)
    }

    /// The same; `None` if no worker does.
    pub(super) fn owner(&self, proto: Proto, a: Ipv4Addr, port: u16) -> Option<usize> {
        if let Some(fixed) = self.static_at(proto, SocketAddrV4::new(a, port)) {
            return Some(self.owner_of_inside(*fixed.inside.ip()));
        }
        self.unit_of(port).map(|unit| self.worker_of_unit(unit))
    }

    /// Whether `a` is in the pool.
    #[inline]
    pub fn is_external(&self, a: Ipv4Addr) -> bool {
        self.area_of(a).is_some()
    }

    /// The number of an external address.
    pub(super) fn area_of(&self, a: Ipv4Addr) -> Option<u32> {
        let behind = self.pool.partition_point(|(range, _)| range.first() <= a);
        let (range, before) = self.pool.get(behind.checked_sub(1)?)?;
        range.contains(a).then(|| before + (u32::from(a) - range.first))
    }

    /// The external addresses.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.pool.iter().flat_map(|(range, _)| (range.first..=u32::from(range.last())).map(Ipv4Addr::from))
    }

    /// Whether `packet`, from the Internet, claims to come from where nothing of the Internet does: from the inside
    /// network, from an address of ours, from this machine, from a group (RFC 1812 §5.3.7). Private sources are no such
    /// thing: routers on the way have them.
    #[inline]
    pub fn is_forged(&self, packet: &[u8]) -> bool {
        let Some(src) = Ipv4::new_checked(packet).map(Ipv4::src) else { return false };
        self.settings.inside.contains(src)
            || self.is_external(src)
            || src.is_loopback()
            || src.is_multicast()
            || src.is_broadcast()
            || src.octets()[0] == 0
    }

    /// The worker that must see a packet from the Internet first; `None`: not ours. All fragments of a datagram go to
    /// one worker, chosen by a hash: only the first of them has ports.
    pub fn owner_of_packet(&self, packet: &[u8]) -> Option<usize> {
        let ip = Ipv4::new_checked(packet)?;
        if !self.is_external(ip.dst()) {
            let untranslated = self.settings.inside.contains(ip.dst()) && self.is_untranslated(ip.src(), packet);
            return untranslated.then(|| self.owner_of_inside(ip.dst()));
        }
        if ip.is_fragment() {
            return Some(self.owner_of_fragment(packet));
        }
        let l4 = ip.payload();
        match Proto::from_number(ip.protocol())? {
            Proto::Icmp => self.owner_of_icmp(ip.dst(), l4),
            proto => self.owner(proto, ip.dst(), udp::l4_ports(l4)?.1),
        }
    }

    fn owner_of_icmp(&self, dst: Ipv4Addr, message: &[u8]) -> Option<usize> {
        match *message.first()? {
            icmp::ECHO => self.settings.icmp.answer_echo.then_some(0),
            kind if icmp::is_error(kind) => {
                let about = Ipv4::new_checked(message.get(icmp::HEADER_BYTES..)?)?;
                let proto = Proto::from_number(about.protocol())?;
                let port = parse::source_port(proto, about.payload())?;
                (about.fragment_offset() == 0).then(|| self.owner(proto, about.src(), port))?
            }
            _ => self.owner(Proto::Icmp, dst, icmp::identifier(message)?),
        }
    }

    /// The worker that gathers the fragments of a datagram.
    pub(super) fn owner_of_fragment(&self, packet: &[u8]) -> usize {
        let Some(ip) = Ipv4::new_checked(packet) else { return 0 };
        let hash = Secret::PUBLIC.hash(super::hash::Key {
            local: ip.dst().into(),
            remote: ip.src().into(),
            local_port: ip.identification(),
            remote_port: 0,
            proto: ip.protocol(),
        });
        hash as usize % self.settings.workers
    }

    /// The slice of each worker, for a filter in front of the NAT.
    pub fn slices(&self) -> Vec<Slice> {
        (0..self.settings.workers).map(|worker| self.slice(worker)).collect()
    }

    /// The slice of one worker.
    pub fn slice(&self, worker: usize) -> Slice {
        let first_unit = self.units_before(worker);
        let units = self.units_before(worker + 1) - first_unit;
        let first = self.settings.ports.0 + first_unit * UNIT_PORTS;
        let block_units = (units - units * u16::from(self.settings.commons_eighths) / 8).clamp(1, units - 1);
        Slice { worker, first, last: first + (units * UNIT_PORTS - 1), commons: first + block_units * UNIT_PORTS }
    }

    /// Static mappings, also for that filter.
    pub fn statics(&self) -> &[StaticMapping] {
        &self.statics
    }

    /// The static mapping of an external address and port.
    pub(super) fn static_at(&self, proto: Proto, external: SocketAddrV4) -> Option<&StaticMapping> {
        if self.statics.is_empty() {
            return None;
        }
        let wanted = (proto, external);
        self.statics.binary_search_by(|s| static_key(s).cmp(&wanted)).ok().map(|at| &self.statics[at])
    }

    /// What `port` of an external address is for.
    pub fn use_of(&self, a: Ipv4Addr, port: u16) -> PortUse {
        match self.unit_of(port) {
            _ if !self.is_external(a) || self.unit_has_static(a, port) => PortUse::None,
            None => PortUse::None,
            Some(unit) if port < self.slice(self.worker_of_unit(unit)).commons => PortUse::Block,
            Some(_) => PortUse::Commons,
        }
    }

    /// Ports of a block, after [`NatSettings::members_expected`].
    pub fn block_ports(&self) -> u16 {
        self.block_ports
    }

    /// Blocks of all workers and addresses.
    pub fn blocks(&self) -> usize {
        let ports: usize = self.slices().iter().map(|slice| usize::from(slice.commons - slice.first)).sum();
        ports / usize::from(self.block_ports) * self.addresses as usize
    }

    /// Whether packets to (or from) `remote` keep inside addresses. Only the ports of whole packets count.
    pub(super) fn is_untranslated(&self, remote: Ipv4Addr, packet: &[u8]) -> bool {
        !self.settings.no_nat.is_empty() && {
            let (proto, port) = parse::remote_port(packet, remote);
            self.settings.no_nat.iter().any(|rule| rule.matches(proto, remote, port))
        }
    }

    /// Whether a static mapping has a port in the unit of `port`.
    pub(super) fn unit_has_static(&self, a: Ipv4Addr, port: u16) -> bool {
        let unit = self.unit_of(port);
        unit.is_some() && self.statics.iter().any(|s| *s.external.ip() == a && self.unit_of(s.external.port()) == unit)
    }

    fn unit_of(&self, port: u16) -> Option<u16> {
        let unit = port.checked_sub(self.settings.ports.0)? / UNIT_PORTS;
        (unit < self.units).then_some(unit)
    }

    fn units_before(&self, worker: usize) -> u16 {
        let units = usize::from(self.units) * worker / self.settings.workers;
        u16::try_from(units).unwrap_or(self.units)
    }

    /// The last worker whose slice begins at or before the unit.
    fn worker_of_unit(&self, unit: u16) -> usize {
        let (units, workers) = (usize::from(self.units), self.settings.workers);
        ((usize::from(unit) + 1) * workers - 1) / units
    }

    fn fitting_block(&self) -> u16 {
        let mut block = self.settings.block_ports;
        let ports: usize = self.slices().iter().map(|slice| usize::from(slice.commons - slice.first)).sum();
        while block > BLOCK_PORTS_MIN
            && ports / usize::from(block) * (self.addresses as usize) < self.settings.members_expected
        {
            block /= 2;
        }
        block
    }

    fn check_statics(&self, statics: &[StaticMapping]) -> Result<(), NatPlanError> {
        for (n, s) in statics.iter().enumerate() {
            let problem = if s.proto == Proto::Icmp {
                "only TCP and UDP have ports"
            } else if !self.is_external(*s.external.ip()) {
                "the external address is not in the pool"
            } else if !self.settings.inside.contains(*s.inside.ip()) || *s.inside.ip() == self.settings.gateway {
                "the inside address is not one of a member"
            } else if s.external.port() == 0 || s.inside.port() == 0 {
                "port 0 cannot be used"
            } else if statics[..n].iter().any(|o| o.proto == s.proto && o.external == s.external) {
                "the external port is taken"
            } else if statics[..n].iter().any(|o| o.proto == s.proto && o.inside == s.inside) {
                "the inside port has a mapping already"
            } else if statics[..n].iter().any(|o| o.inside.ip() == s.inside.ip() && o.external.ip() != s.external.ip())
            {
                "another mapping gives that member another external address"
            } else {
                continue;
            };
            return Err(NatPlanError::Static(s.external, s.inside, problem));
        }
        Ok(())
    }
}

fn static_key(s: &StaticMapping) -> (Proto, SocketAddrV4) {
    (s.proto, s.external)
}

fn check_inside(settings: &NatSettings) -> Result<(), NatPlanError> {
    let inside = settings.inside;
    if settings.workers == 0 {
        return Err(NatPlanError::NoWorker);
    }
    if !(8..=30).contains(&inside.bits) {
        return Err(NatPlanError::InsideSize(inside));
    }
    if !inside.contains(settings.gateway) {
        return Err(NatPlanError::GatewayOutside(settings.gateway, inside));
    }
    match settings.pool.iter().find(|range| range.overlaps(inside)) {
        Some(range) => Err(NatPlanError::InsideIsOutside(*range, inside)),
        None => Ok(()),
    }
}

/// Ranges with the number of addresses before each, and of all.
type Pool = (Box<[(Prefix, u32)]>, u32);

fn check_pool(settings: &NatSettings) -> Result<Pool, NatPlanError> {
    let mut ranges = settings.pool.clone();
    ranges.sort_by_key(|range| range.first);
    if let Some(pair) = ranges.windows(2).find(|pair| pair[0].overlaps(pair[1])) {
        return Err(NatPlanError::PoolOverlap(pair[0], pair[1]));
    }
    let total: u64 = ranges.iter().map(|range| 1 << (32 - range.bits)).sum();
    if total == 0 {
        return Err(NatPlanError::EmptyPool);
    }
    let addresses = u32::try_from(total).ok().filter(|&n| n <= POOL_MAX).ok_or(NatPlanError::PoolTooLarge(total))?;
    let mut before = 0;
    let pool = ranges.into_iter().map(|range| {
        let place = (range, before);
        before += 1 << (32 - range.bits);
        place
    });
    Ok((pool.collect(), addresses))
}

fn check_ports(settings: &NatSettings) -> Result<u16, NatPlanError> {
    let (first, last) = settings.ports;
    if first < 1_024 || last <= first {
        return Err(NatPlanError::PortRange(first, last));
    }
    if !matches!(settings.block_ports, 8 | 16 | 32 | 64) {
        return Err(NatPlanError::BlockPorts(settings.block_ports));
    }
    if !(1..=7).contains(&settings.commons_eighths) {
        return Err(NatPlanError::Commons(settings.commons_eighths));
    }
    // At most (65535 - 1024) / 64.
    let units = u16::try_from((u32::from(last) - u32::from(first) + 1) / u32::from(UNIT_PORTS)).unwrap_or(u16::MAX);
    if usize::from(units) < settings.workers * 2 {
        return Err(NatPlanError::TooFewPorts(first, last, settings.workers));
    }
    Ok(units)
}

/// Ports that slices are made of: the largest block, and the bits of a word.
pub(super) const UNIT_PORTS: u16 = 64;
/// Smaller blocks would cost a record for nearly every mapping.
const BLOCK_PORTS_MIN: u16 = 8;
/// Each address takes some KiB of tables on every worker.
pub(super) const POOL_MAX: u32 = 1_024;
