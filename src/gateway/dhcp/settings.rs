//! What the operator decides: network, pool, reservations, times, limits, and the options that clients are told.
//!
//! [`DhcpSettings::check`] names mistakes when a configuration is loaded. A server made from unchecked settings leaves
//! out what makes no sense (a pool or a reservation outside of the network), and nothing worse.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::ids::MemberId;
use crate::wire::ethernet::Mac;

/// Which worker's part of the NAT has an inside address.
pub type OwnerOf = Arc<dyn Fn(Ipv4Addr) -> usize + Send + Sync>;

/// See the module text.
#[derive(Clone)]
pub struct DhcpSettings {
    /// The gateway's address, by which the server is known (option 54).
    pub server: Ipv4Addr,
    /// Length of the network's prefix; the network is that of `server`.
    pub prefix_len: u8,
    /// Addresses that clients without reservation get. Gateway, network and broadcast address are left out by themselves.
    pub pool: RangeInclusive<Ipv4Addr>,
    /// Addresses within the pool that are never given.
    pub excluded: Vec<Ipv4Addr>,
    /// Who always gets the same address.
    pub reservations: Vec<Reservation>,

    /// Lease time, unless the client asks for less.
    pub lease_secs: u32,
    /// The shortest lease a client may ask for.
    pub lease_secs_min: u32,
    /// By how many percent, at random, renewal (T1) may come earlier than at half of the lease.
    pub renew_spread_percent: u8,
    /// How long an offered address is kept for the client it was offered to.
    pub offer_hold: Duration,
    /// How long somebody has to answer the probe of an address.
    pub probe_wait: Duration,
    /// How long an address is out of service after somebody else was found to use it.
    pub decline_secs: u32,

    /// Addresses a session may have at a time, unless a network stands behind it.
    pub leases_per_session: usize,
    /// Whether `chaddr` must be the source of the frame.
    pub match_source_mac: bool,
    /// Which worker an address is best given to; `None`: any.
    pub owner_of: Option<OwnerOf>,

    /// Default gateways (3).
    pub routers: Vec<Ipv4Addr>,
    /// Name servers (6).
    pub dns: Vec<Ipv4Addr>,
    /// Name of the network (15).
    pub domain: String,
    /// Domains to look names up in (119).
    pub search: Vec<String>,
    /// Longest packet (26).
    pub mtu: Option<u16>,
    /// Time servers (42).
    pub ntp: Vec<Ipv4Addr>,
    /// Routes besides the default one (121, 249).
    pub routes: Vec<Route>,
    /// URI of the captive portal's API (114).
    pub captive_portal: String,
    /// How long a client that can do without IPv4 shall do so (108).
    pub v6_only_wait_secs: Option<u32>,
    /// URI of the proxy's configuration (252).
    pub proxy_url: String,
    /// Any other option, or another value for one of those above.
    pub raw: Vec<RawOption>,
    /// Whether a client that tells what it wants (55) gets nothing else, apart from what the protocol itself needs.
    pub only_asked: bool,
}

/// An address for somebody. All conditions given must hold; without any it is for nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    /// The address; it may lie outside of the pool, but in the network.
    pub address: Option<Ipv4Addr>,
    /// For a session of this member.
    pub member: Option<MemberId>,
    /// For this card.
    pub mac: Option<Mac>,
    /// For this client identifier (61).
    pub client_id: Option<Vec<u8>>,
    /// The name he is told (12).
    pub host_name: String,
}

/// A route that clients shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its prefix.
    pub network: Ipv4Addr,
    /// Length of the prefix.
    pub prefix_len: u8,
    /// By way of whom.
    pub gateway: Ipv4Addr,
}

/// An option as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOption {
    /// Its number.
    pub code: u8,
    /// What follows the length.
    pub value: Vec<u8>,
    /// Also for clients that did not ask for it.
    pub always: bool,
}

/// What is wrong with the settings.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "each says what it means")]
pub enum DhcpSettingsError {
    #[error("a network of /{0} has no room for a pool: /8 to /30 are possible")]
    Prefix(u8),
    #[error("the pool {0} to {1} is empty or not within the gateway's network")]
    Pool(Ipv4Addr, Ipv4Addr),
    #[error("the pool has {0} addresses; {POOL_MAX} are possible")]
    PoolSize(u64),
    #[error("reserved address {0} is not a host of the gateway's network")]
    ReservedOutside(Ipv4Addr),
    #[error("address {0} is reserved twice")]
    ReservedTwice(Ipv4Addr),
    #[error("a reservation needs an address, and at least one of member, MAC and client identifier")]
    ReservedForNobody,
    #[error("a lease of {0} s is shorter than the {1} s a client may ask for, or than 60 s")]
    LeaseTime(u32, u32),
    #[error("option {0} is set by the server itself")]
    RawOption(u8),
    #[error("option {0} has {1} bytes; {VALUE_BYTES_MAX} are possible")]
    LongOption(u8, usize),
    #[error("{0:?} is not a domain name")]
    Domain(String),
    #[error("a route's prefix is at most 32 bits long, not {0}")]
    RoutePrefix(u8),
    #[error("leases per session: 1 to {SESSION_LEASES_MAX}, not {0}")]
    SessionLeases(usize),
}

impl DhcpSettings {
    /// Defaults for the network of `prefix_len` bits around the gateway `server`, with all other hosts in the pool.
    pub fn for_network(server: Ipv4Addr, prefix_len: u8) -> Self {
        let (network, broadcast) = bounds(server, prefix_len);
        let first = network.saturating_add(1);
        let last = broadcast.saturating_sub(1).min(first.saturating_add(POOL_MAX - 1));
        Self {
            server,
            prefix_len,
            pool: Ipv4Addr::from(first)..=Ipv4Addr::from(last),
            excluded: Vec::new(),
            reservations: Vec::new(),
            lease_secs: 3600,
            lease_secs_min: 120,
            renew_spread_percent: 0,
            offer_hold: Duration::from_secs(60),
            probe_wait: Duration::from_millis(300),
            decline_secs: 600,
            leases_per_session: 1,
            match_source_mac: true,
            owner_of: None,
            routers: vec![server],
            dns: vec![server],
            domain: String::new(),
            search: Vec::new(),
            mtu: None,
            ntp: Vec::new(),
            routes: Vec::new(),
            captive_portal: String::new(),
            v6_only_wait_secs: None,
            proxy_url: String::new(),
            raw: Vec::new(),
            only_asked: true,
        }
    }

    /// The first mistake, if there is one.
    pub fn check(&self) -> Result<(), DhcpSettingsError> {
        use DhcpSettingsError as E;
        if !(8..=30).contains(&self.prefix_len) {
            return Err(E::Prefix(self.prefix_len));
        }
        let (first, last) = (*self.pool.start(), *self.pool.end());
        if first > last || !self.is_inside(first) || !self.is_inside(last) {
            return Err(E::Pool(first, last));
        }
        let size = u64::from(u32::from(last) - u32::from(first)) + 1;
        if size > u64::from(POOL_MAX) {
            return Err(E::PoolSize(size));
        }
        if self.lease_secs < self.lease_secs_min || self.lease_secs < 60 {
            return Err(E::LeaseTime(self.lease_secs, self.lease_secs_min));
        }
        if !(1..=SESSION_LEASES_MAX).contains(&self.leases_per_session) {
            return Err(E::SessionLeases(self.leases_per_session));
        }
        self.check_reservations()?;
        self.check_options()
    }

    fn check_reservations(&self) -> Result<(), DhcpSettingsError> {
        use DhcpSettingsError as E;
        let mut seen = std::collections::BTreeSet::new();
        for reservation in &self.reservations {
            let Some(address) = reservation.address.filter(|_| reservation.is_for_somebody()) else {
                return Err(E::ReservedForNobody);
            };
            if !self.is_host(address) {
                return Err(E::ReservedOutside(address));
            }
            if !seen.insert(address) {
                return Err(E::ReservedTwice(address));
            }
        }
        Ok(())
    }

    fn check_options(&self) -> Result<(), DhcpSettingsError> {
        use DhcpSettingsError as E;
        if let Some(route) = self.routes.iter().find(|route| route.prefix_len > 32) {
            return Err(E::RoutePrefix(route.prefix_len));
        }
        let names = self.search.iter().chain((!self.domain.is_empty()).then_some(&self.domain));
        for name in names {
            let mut labels = name.split('.');
            if name.len() > 253 || !labels.all(|label| (1..=63).contains(&label.len()) && label.is_ascii()) {
                return Err(E::Domain(name.clone()));
            }
        }
        for option in &self.raw {
            if OWN_OPTIONS.contains(&option.code) {
                return Err(E::RawOption(option.code));
            }
            if option.value.len() > VALUE_BYTES_MAX {
                return Err(E::LongOption(option.code, option.value.len()));
            }
        }
        Ok(())
    }

    /// Whether `address` lies in the network.
    pub fn is_inside(&self, address: Ipv4Addr) -> bool {
        let (network, broadcast) = bounds(self.server, self.prefix_len);
        (network..=broadcast).contains(&u32::from(address))
    }

    /// Whether a client could have `address`.
    pub(super) fn is_host(&self, address: Ipv4Addr) -> bool {
        let (network, broadcast) = bounds(self.server, self.prefix_len);
        self.is_inside(address) && address != self.server && ![network, broadcast].contains(&u32::from(address))
    }

    /// The network's mask.
    pub(super) fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix_len))
    }

    /// The network's broadcast address.
    pub(super) fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(bounds(self.server, self.prefix_len).1)
    }
}

impl fmt::Debug for DhcpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DhcpSettings")
            .field("server", &self.server)
            .field("prefix_len", &self.prefix_len)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl Reservation {
    /// Whether at least one condition is given.
    pub(super) fn is_for_somebody(&self) -> bool {
        self.member.is_some() || self.mac.is_some() || self.client_id.is_some()
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(prefix_len.into())).unwrap_or(0)
}

/// First and last address of the network around `server`.
fn bounds(server: Ipv4Addr, prefix_len: u8) -> (u32, u32) {
    let mask = mask(prefix_len);
    (u32::from(server) & mask, u32::from(server) | !mask)
}

/// Addresses of a pool: 256 bytes are kept for each, 256 MiB at most.
pub const POOL_MAX: u32 = 1 << 20;
/// Counting a session's leases must stay cheap.
pub const SESSION_LEASES_MAX: usize = 64;
/// Fits a reply to a client that takes a full frame, beside the rest.
pub const VALUE_BYTES_MAX: usize = 1024;

/// What no setting may override: the protocol itself, and echoes of what the client said.
const OWN_OPTIONS: [u8; 13] = [0, 50, 51, 52, 53, 54, 55, 56, 57, 61, 81, 82, 255];
