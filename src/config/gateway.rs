//! `[hub.gateway]` and `[hub.nat]`: the host of a hub and its way to the Internet.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::problem::{Located, Place, Report};
use super::raw::{RawForward, RawGateway, RawLane, RawNat, RawReservation, Words};
use crate::lane::choice::{LaneMode, LaneSteer};
use crate::wire::ethernet::Mac;

/// `[hub.gateway]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its address in the hub.
    pub address: Ipv4Addr,
    /// Bits of the inside network's prefix; 12 to 30.
    pub prefix_bits: u8,
    /// Addresses that DHCP gives away; all lie in the network, none is the gateway's.
    pub pool: RangeInclusive<Ipv4Addr>,
    /// Lease time; 2 min to 1 week.
    pub lease: Duration,
    /// Addresses that one session may have at a time; 1 to 64.
    pub leases_per_session: u32,
    /// Where questions are passed on to. Empty: those of `/etc/resolv.conf`.
    pub dns: Vec<SocketAddr>,
    /// Domain given to members.
    pub domain: Option<String>,
    /// Questions for IPv6 addresses are answered with "none".
    pub withhold_aaaa: bool,
    /// Addresses kept for somebody.
    pub reservations: Vec<Reservation>,
}

/// `[[hub.gateway.reservation]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The address, in the inside network.
    pub address: Ipv4Addr,
    /// Whose it is.
    pub holder: Holder,
}

/// By what the holder of a reservation is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Name of a user.
    User(String),
    /// Address of a card.
    Mac(Mac),
    /// DHCP client identifier (option 61), type byte included.
    ClientId(Vec<u8>),
}

/// `[hub.nat]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Network device towards the Internet.
    pub device: String,
    /// Public addresses of the NAT alone. Empty: it shares the address of the device.
    pub addresses: Vec<Ipv4Addr>,
    /// Public ports it uses.
    pub ports: RangeInclusive<u16>,
    /// Router behind the device. `None`: as the host's routes have it.
    pub next_hop: Option<Ipv4Addr>,
    /// Longest packet towards the Internet; 576 to 1500. `None`: as the device has it.
    pub mtu: Option<u16>,
    /// Which packets from outside pass to a member who has a mapping.
    pub filtering: Filtering,
    /// Public ports that a member gets at a time; 8, 16, 32 or 64.
    pub block_ports: u16,
    /// Public ports of one member; 64 to 65535.
    pub ports_per_member: u16,
    /// New flows of one member per second; 1 to 1000000.
    pub flows_per_sec: u32,
    /// Different destinations of one member a minute; 1 to 2048.
    pub destinations_max: u32,
    /// Destinations that the policy would refuse and the operator allows.
    pub allow: Vec<Prefix>,
    /// TCP ports that members cannot reach.
    pub refuse_tcp_ports: Vec<u16>,
    /// Connections from outside that go to a member without his asking.
    pub forwards: Vec<Forward>,
    /// What is told to the log about flows.
    pub log: NatLog,
    /// Which kind of lane.
    pub lane_mode: LaneMode,
    /// How inbound packets come to the worker that owns their port.
    pub lane_steer: LaneSteer,
    /// AF_XDP sockets poll the device so long before they wait for an interrupt; 0 to 1 ms. Zero: they do not.
    pub lane_busy_poll: Duration,
}

impl Nat {
    /// What was typed comes before what the file says.
    pub(super) fn prefer(&mut self, typed: LaneWish) {
        self.lane_mode = typed.mode.unwrap_or(self.lane_mode);
        self.lane_steer = typed.steer.unwrap_or(self.lane_steer);
        self.lane_busy_poll = typed.busy_poll.unwrap_or(self.lane_busy_poll);
    }
}

/// What is said about a lane: see the fields of [`Nat`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LaneWish {
    mode: Option<LaneMode>,
    steer: Option<LaneSteer>,
    busy_poll: Option<Duration>,
}

/// See RFC 4787 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// From anybody.
    EndpointIndependent,
    /// From hosts that the member has sent to.
    Address,
    /// From ports of hosts that the member has sent to.
    AddressPort,
}

/// See RFC 6888 §4 and REQ-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatLog {
    /// Which block of public ports a member has, and flows that share a public port.
    Blocks,
    /// Each mapping too.
    Mappings,
    /// Each flow with its destination too.
    Destinations,
}

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The first of them.
    pub address: Ipv4Addr,
    /// How many bits are the same; up to 32.
    pub bits: u8,
}

/// `[[hub.nat.forward]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// TCP, else UDP.
    pub is_tcp: bool,
    /// Public port of the first public address, outside of [`Nat::ports`].
    pub port: u16,
    /// Inside address.
    pub to: Ipv4Addr,
    /// Port there.
    pub to_port: u16,
}

impl Gateway {
    /// First address of the inside network.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & mask(self.prefix_bits))
    }

    /// Addresses in the inside network, its first and last included.
    pub fn network_addresses(&self) -> u32 {
        1 << (32 - u32::from(self.prefix_bits))
    }
}

fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

pub(super) fn check_gateway(raw: RawGateway, is_public: bool, report: &mut Report<'_>) -> Gateway {
    let (address, prefix_bits) = check_network(raw.address, report);
    let first = u32::from(address) & mask(prefix_bits);
    let last = first | !mask(prefix_bits);
    let pool = check_pool(raw.pool, u32::from(address), first + 1..=last - 1, report);
    let leases_default = if is_public { 1 } else { 64 };
    let leases = report.number(raw.leases_per_session, "leases_per_session", 1..=64, leases_default);
    let mut reservations: Vec<Reservation> = Vec::new();
    for raw in raw.reservations {
        let place = raw.place.clone();
        let Some(reservation) = check_reservation(raw, report) else { continue };
        let is_inside = (first + 1..last).contains(&u32::from(reservation.address)) && reservation.address != address;
        if !is_inside {
            let what = format!("{} cannot be reserved", reservation.address);
            report.add(
                &place,
                what,
                format!("an address of the network of {address}/{prefix_bits}, not the gateway's"),
            );
        } else if reservations.iter().any(|other| other.address == reservation.address) {
            report.add(&place, format!("{} is reserved twice", reservation.address), "one holder for each address");
        } else {
            reservations.push(reservation);
        }
    }
    Gateway {
        address,
        prefix_bits,
        pool,
        lease: Duration::from_secs(report.number(raw.lease_s, "lease_s", 120..=604_800, 7_200)),
        leases_per_session: leases,
        dns: raw.dns.map(|words| check_dns(words, report)).unwrap_or_default(),
        domain: raw.domain.map(|domain| domain.value),
        withhold_aaaa: raw.withhold_aaaa.is_none_or(|flag| flag.value),
        reservations,
    }
}

fn check_network(given: Option<Located<String>>, report: &mut Report<'_>) -> (Ipv4Addr, u8) {
    let Some(given) = given else { return DEFAULT_NETWORK };
    let parsed = parse_prefix(&given.value).filter(|(address, bits)| {
        let host = u32::from(*address) & !mask(*bits);
        PREFIX_BITS.contains(bits) && host != 0 && host != !mask(*bits)
    });
    parsed.unwrap_or_else(|| {
        let what = format!("address = {:?} is not the address of a gateway", given.value);
        report.add(
            &given.place,
            what,
            "ADDRESS/BITS, 12 to 30 bits, not the first or last address, such as \"100.64.0.1/16\"",
        );
        DEFAULT_NETWORK
    })
}

fn parse_prefix(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, bits) = text.split_once('/')?;
    Some((address.parse().ok()?, bits.parse().ok().filter(|bits| *bits <= 32)?))
}

fn check_pool(
    given: Option<Located<String>>,
    gateway: u32,
    hosts: RangeInclusive<u32>,
    report: &mut Report<'_>,
) -> RangeInclusive<Ipv4Addr> {
    // The larger part beside the gateway's address.
    let default = if gateway - hosts.start() > hosts.end() - gateway {
        *hosts.start()..=gateway - 1
    } else {
        gateway + 1..=*hosts.end()
    };
    let addresses = |range: RangeInclusive<u32>| Ipv4Addr::from(*range.start())..=Ipv4Addr::from(*range.end());
    let Some(given) = given else { return addresses(default) };
    let ends = given.value.split_once('-').and_then(|(first, last)| {
        Some((u32::from(first.trim().parse::<Ipv4Addr>().ok()?), u32::from(last.trim().parse::<Ipv4Addr>().ok()?)))
    });
    match ends {
        Some((first, last))
            if first <= last
                && hosts.contains(&first)
                && hosts.contains(&last)
                && !(first..=last).contains(&gateway) =>
        {
            addresses(first..=last)
        }
        _ => {
            let range = addresses(default.clone());
            let what = format!("pool = {:?} is not a range of addresses of the inside network", given.value);
            let hint =
                format!("FIRST-LAST without the gateway's own address, such as \"{}-{}\"", range.start(), range.end());
            report.add(&given.place, what, hint);
            addresses(default)
        }
    }
}

fn check_dns(words: Words, report: &mut Report<'_>) -> Vec<SocketAddr> {
    let mut upstreams = Vec::new();
    for word in words {
        let address = word.value.parse::<SocketAddr>().ok();
        match address.or_else(|| word.value.parse::<IpAddr>().ok().map(|ip| SocketAddr::from((ip, 53)))) {
            Some(address) => upstreams.push(address),
            None => report.add(
                &word.place,
                format!("{:?} is not the address of a DNS server", word.value),
                "such as \"192.0.2.53\" or \"192.0.2.53:5353\"",
            ),
        }
    }
    upstreams
}

fn check_reservation(raw: RawReservation, report: &mut Report<'_>) -> Option<Reservation> {
    const HOLDER: &str = "say address and one of user, mac, client_id";
    let address = raw.address.as_ref().and_then(|address| address.value.parse().ok());
    let Some(address) = address else {
        report.add(&raw.place, "reservation without an address", HOLDER);
        return None;
    };
    let holder = match (raw.user, raw.mac, raw.client_id) {
        (Some(user), None, None) => Some(Holder::User(user.value)),
        (None, Some(mac), None) => {
            parse_hex(&mac.value).and_then(|bytes| bytes.try_into().ok()).map(Mac).map(Holder::Mac)
        }
        (None, None, Some(id)) => parse_hex(&id.value).filter(|id| (2..=255).contains(&id.len())).map(Holder::ClientId),
        _ => None,
    };
    if holder.is_none() {
        let hint =
            format!("{HOLDER}; a MAC is \"02:00:5e:10:00:01\", a client identifier 2 to 255 bytes in the same form");
        report.add(&raw.place, format!("the reservation of {address} has no holder"), hint);
    }
    Some(Reservation { address, holder: holder? })
}

/// `01:02:ab` or `01-02-ab`.
fn parse_hex(text: &str) -> Option<Vec<u8>> {
    text.split([':', '-']).map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2)).collect()
}

pub(super) fn check_nat(raw: RawNat, gateway: Option<&Gateway>, report: &mut Report<'_>) -> Option<Nat> {
    let Some(device) = raw.device.clone() else {
        report.add(&raw.place, "[hub.nat] without a device", "device = \"eth0\": the one towards the Internet");
        return None;
    };
    let Some(gateway) = gateway else {
        report.add(
            &raw.place,
            "[hub.nat] without [hub.gateway]",
            "members reach the NAT through the gateway: add [hub.gateway]",
        );
        return None;
    };
    let addresses = raw.addresses.map(|words| check_addresses(words, gateway, report)).unwrap_or_default();
    let ports_default = if addresses.is_empty() { SHARED_PORTS } else { OWN_PORTS };
    let ports = check_ports(raw.ports, ports_default, report);
    let forwards = raw.forwards.into_iter().filter_map(|raw| check_forward(raw, &ports, gateway, report)).collect();
    let lane = check_lane(raw.lane, report);
    Some(Nat {
        device: check_device(device, report),
        addresses,
        forwards,
        next_hop: raw.next_hop.and_then(|word| parse_or_report(&word, "next_hop", "an IPv4 address", report)),
        mtu: raw.mtu.map(|mtu| report.number(Some(mtu), "mtu", 576..=1500, 1500)),
        filtering: report.choice(raw.filtering, "filtering", FILTERINGS, Filtering::Address),
        block_ports: check_block_ports(raw.block_ports, report),
        ports_per_member: report.number(raw.ports_per_member, "ports_per_member", 64..=65_535, 2_048),
        flows_per_sec: report.number(raw.flows_per_sec, "flows_per_sec", 1..=1_000_000, 500),
        destinations_max: report.number(raw.destinations_max, "destinations_max", 1..=2_048, 2_048),
        allow: raw.allow.map(|words| check_allow(words, report)).unwrap_or_default(),
        refuse_tcp_ports: raw.refuse_tcp_ports.map_or_else(
            || REFUSED_TCP_PORTS.to_vec(),
            |words| {
                words
                    .iter()
                    .filter_map(|w| parse_or_report(w, "refuse_tcp_ports", "a list of ports in quotes", report))
                    .collect()
            },
        ),
        log: report.choice(raw.log, "log", LOGS, NatLog::Blocks),
        lane_mode: lane.mode.unwrap_or_default(),
        lane_steer: lane.steer.unwrap_or_default(),
        lane_busy_poll: lane.busy_poll.unwrap_or_default(),
        ports,
    })
}

pub(super) fn check_lane(raw: RawLane, report: &mut Report<'_>) -> LaneWish {
    let us = |given| u64::from(report.number(Some(given), "lane_busy_poll_us", 0..=1_000_u32, 0));
    LaneWish {
        busy_poll: raw.lane_busy_poll_us.map(us).map(Duration::from_micros),
        mode: raw.lane_mode.map(|word| report.choice(Some(word), "lane_mode", LaneMode::WORDS, LaneMode::Auto)),
        steer: raw.lane_steer.map(|word| report.choice(Some(word), "lane_steer", LaneSteer::WORDS, LaneSteer::Auto)),
    }
}

fn check_block_ports(given: Option<Located<i64>>, report: &mut Report<'_>) -> u16 {
    let place = given.as_ref().map(|given| given.place.clone());
    let ports = report.number(given, "block_ports", 8..=64, BLOCK_PORTS);
    if !ports.is_power_of_two() {
        report.add(
            &place.unwrap_or(Place::Whole),
            format!("block_ports = {ports} is no size of a block"),
            "8, 16, 32 or 64",
        );
    }
    ports
}

fn check_device(device: Located<String>, report: &mut Report<'_>) -> String {
    // IFNAMSIZ less the end mark.
    let fits = (1..=15).contains(&device.value.len()) && !device.value.contains(['/', ' ', ':']);
    if !fits {
        report.add(&device.place, format!("device = {:?} cannot be a network device", device.value), "see: ip link");
    }
    device.value
}

fn parse_or_report<T: std::str::FromStr>(
    word: &Located<String>,
    key: &str,
    form: &str,
    report: &mut Report<'_>,
) -> Option<T> {
    let value = word.value.parse().ok();
    if value.is_none() {
        report.add(&word.place, format!("{key} = {:?} is not understood", word.value), form);
    }
    value
}

/// Addresses and prefixes, at most [`ADDRESSES_MAX`] addresses in all.
fn check_addresses(words: Words, gateway: &Gateway, report: &mut Report<'_>) -> Vec<Ipv4Addr> {
    let mut addresses: Vec<Ipv4Addr> = Vec::new();
    let inside = |address: u32| address & mask(gateway.prefix_bits) == u32::from(gateway.network());
    for word in words {
        let prefix = parse_prefix(&word.value).or_else(|| Some((word.value.parse().ok()?, 32)));
        let Some((first, bits)) = prefix.filter(|(_, bits)| *bits >= 24) else {
            let what = format!("addresses: {:?} is not understood", word.value);
            report.add(&word.place, what, "an address or a prefix of 24 to 32 bits, such as \"203.0.113.16/28\"");
            continue;
        };
        let first = u32::from(first) & mask(bits);
        for address in first..=first | !mask(bits) {
            if inside(address) {
                let what = format!("{} lies in the inside network", Ipv4Addr::from(address));
                report.add(&word.place, what, "public addresses and the inside network must differ (RFC 4787 REQ-7)");
                break;
            }
            if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address.into()) {
                addresses.push(address.into());
            }
        }
    }
    addresses
}

fn check_ports(
    given: Option<Located<String>>,
    default: RangeInclusive<u16>,
    report: &mut Report<'_>,
) -> RangeInclusive<u16> {
    let Some(given) = given else { return default };
    let ends = given
        .value
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?)));
    match ends {
        Some((first, last)) if first >= 1 && last >= first && last - first >= PORTS_MIN => first..=last,
        _ => {
            let what = format!("ports = {:?} is not a range of ports", given.value);
            report.add(
                &given.place,
                what,
                format!("FIRST-LAST, {} ports at least, such as \"1024-65535\"", PORTS_MIN + 1),
            );
            default
        }
    }
}

fn check_allow(words: Words, report: &mut Report<'_>) -> Vec<Prefix> {
    let parse = |word: Located<String>| {
        let prefix = parse_prefix(&word.value).or_else(|| Some((word.value.parse().ok()?, 32)));
        if prefix.is_none() {
            report.add(&word.place, format!("allow: {:?} is not understood", word.value), "an address or ADDRESS/BITS");
        }
        prefix.map(|(address, bits)| Prefix { address: (u32::from(address) & mask(bits)).into(), bits })
    };
    words.into_iter().filter_map(parse).collect()
}

fn check_forward(
    raw: RawForward,
    ports: &RangeInclusive<u16>,
    gateway: &Gateway,
    report: &mut Report<'_>,
) -> Option<Forward> {
    const FORM: &str = "protocol = \"tcp\", port = 80, to = \"100.64.0.9:8080\"";
    let is_tcp = report.choice(raw.protocol, "protocol", &[("tcp", true), ("udp", false)], true);
    let port = report.number(raw.port, "port", 1..=65_535, 0);
    let to: Option<std::net::SocketAddrV4> = raw.to.as_ref().and_then(|to| to.value.parse().ok());
    let Some(to) = to.filter(|_| port != 0) else {
        report.add(&raw.place, "a forward lacks its port or its destination", FORM);
        return None;
    };
    if ports.contains(&port) {
        let what = format!("port {port} of a forward lies among those the NAT gives to members");
        report.add(
            &raw.place,
            what,
            format!("a port outside of {}-{}, or another range of ports", ports.start(), ports.end()),
        );
        return None;
    }
    if u32::from(*to.ip()) & mask(gateway.prefix_bits) != u32::from(gateway.network()) {
        report.add(&raw.place, format!("{} does not lie in the inside network", to.ip()), FORM);
        return None;
    }
    Some(Forward { is_tcp, port, to: *to.ip(), to_port: to.port() })
}

/// Shared address space (RFC 6598): members have private networks of their own at home.
const DEFAULT_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(100, 64, 0, 1), 16);
/// At most a million addresses, each of which has a place in the tables.
const PREFIX_BITS: RangeInclusive<u8> = 12..=30;
/// With an address of its own the NAT may use all but those that only servers have.
const OWN_PORTS: RangeInclusive<u16> = 1024..=65_535;
/// Above the kernel's ephemeral ports (32768 to 60999), which it uses for connections of the host.
const SHARED_PORTS: RangeInclusive<u16> = 61_001..=65_535;
/// At least a block of ports for 8 members, less one.
const PORTS_MIN: u16 = 511;
/// A browser with a few pages open; and few enough records in the log.
const BLOCK_PORTS: u16 = 64;
/// A /22.
const ADDRESSES_MAX: usize = 1024;
/// Mail from desktops is spam; shares of Windows are not for the Internet.
const REFUSED_TCP_PORTS: [u16; 7] = [25, 135, 136, 137, 138, 139, 445];

const FILTERINGS: &[(&str, Filtering)] = &[
    ("endpoint-independent", Filtering::EndpointIndependent),
    ("address", Filtering::Address),
    ("address-port", Filtering::AddressPort),
];
const LOGS: &[(&str, NatLog)] =
    &[("blocks", NatLog::Blocks), ("mappings", NatLog::Mappings), ("destinations", NatLog::Destinations)];
