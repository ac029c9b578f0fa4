//! The checked configuration.
//!
//! 1. [`raw`]: what was written, by the file or on the command line
//! 2. [`Config::build`]: the one door; what comes out is complete, bounded and consistent
//! 3. [`snapshot`]: how a running server gets the next one
//!
//! Nothing else reads the file or the options, and nothing behind this module checks them again.
#![forbid(unsafe_code)]

pub mod gateway;
pub mod policy;
pub mod problem;
pub mod raw;
mod read;
pub mod snapshot;
pub mod values;

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::hub::Profile;
use crate::ids::PortId;
use crate::sys::affinity::CpuList;
use crate::sys::congestion::Congestion;
use crate::sys::features::FeatureMask;
use crate::tls::aead::AeadBackend;
use crate::tls::config::TlsVersions;
use gateway::{Gateway, Nat};
use policy::Policy;
use problem::{ConfigError, Located, Place, Report};
use raw::{RawFile, RawHub, RawServer, Words};

/// Everything an operator decides. Equal configurations behave alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Listeners, threads, TLS, limits.
    pub server: Server,
    /// At least one; their index is their [`crate::ids::HubId`].
    pub hubs: Vec<Hub>,
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Addresses to accept members on; 1 to 64.
    pub listen: Vec<Listen>,
    /// Processors of the workers, one each, at most [`PortId::WORKERS_MAX`]. `None`: as many of those that the process may use.
    pub workers: Option<CpuList>,
    /// Processors of the control threads. `None`: every one that the process may use.
    pub control_cpus: Option<CpuList>,
    /// Submission ring entries of each worker; a power of two from 64 to 32768.
    pub queue_depth: u32,
    /// Kernel features that may be used, if the kernel has them.
    pub kernel_features: FeatureMask,
    /// TLS versions offered.
    pub tls_versions: TlsVersions,
    /// Which certificates the server shows.
    pub certificate: Certificate,
    /// Connections on their way in (handshake, login), all sources together; 1 to 65536.
    pub handshakes_max: u32,
    /// Time for the TLS handshake; 1 to 120 s.
    pub handshake_timeout: Duration,
    /// Time from the end of the handshake to the end of the login; 1 to 300 s.
    pub login_timeout: Duration,
    /// The same from one source address (IPv6: one /64); 1 to 1000000.
    pub connections_per_source_max: u32,
    /// Pause of a worker while frames come so often that waking for each costs more than they do; 0 to 1 ms.
    pub gather: Duration,
    /// How members' connections share the network with others.
    pub congestion: Congestion,
    /// TLS 1.3 key update after so many records sent. `None`: only when the limits of the cipher ask for it.
    pub rekey_after_records: Option<u64>,
    /// Whose AEAD seals and opens records.
    pub aead: AeadBackend,
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address and TCP port; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// True if the operator named it: not being able to listen there is an error. Default addresses
    /// may be left out as long as one works, since another program may own port 443.
    pub required: bool,
}

/// Which certificates the server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// RSA-2048 and P-256 of our own making; the client's offer decides.
    Auto,
    /// RSA-2048 of our own making.
    Rsa,
    /// P-256 of our own making.
    Ecdsa,
    /// The operator's.
    Own {
        /// PEM file: the server's certificate, then the intermediate ones.
        chain: PathBuf,
        /// PEM file: the private key.
        key: PathBuf,
    },
}

/// A `[[hub]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    /// As written; names differ in more than case.
    pub name: String,
    /// Who the members are to each other.
    pub profile: Profile,
    /// Members reach the gateway and ports in bridge mode, not each other.
    pub isolate_members: bool,
    /// An FDB entry lives so long without traffic; 10 to 1000000 s (802.1Q §8.8.3).
    pub ageing: Duration,
    /// Addresses that the FDB holds; 64 to 1048576.
    pub fdb_entries: u32,
    /// Sessions at a time; 1 to 262144.
    pub sessions_max: u32,
    /// Source addresses of one session; 1 to 65535. `None`: as the profile has it for members and bridges.
    pub macs_per_session: Option<u32>,
    /// Session ends after so long without a sign of life; 5 to 60 s. Goes to clients in the welcome.
    pub session_timeout: Duration,
    /// TCP connections of one session; 1 to 32.
    pub max_connections: u8,
    /// Whether members may ask for compression. Never in the public profile: shared compression of
    /// strangers' bytes leaks, and costs the server's time.
    pub compression: bool,
    /// Whether members may connect in bridge mode, with a network of their own behind them.
    pub bridges: bool,
    /// What happens when a member logs in again while a session of his lives.
    pub same_member: SameMember,
    /// Whether members exchange IPv6. Without a service for it, it passes by gateway, NAT and log.
    pub members_ipv6: bool,
    /// Policy of members who have none of their own.
    pub policy: Policy,
    /// The hub's own host.
    pub gateway: Option<Gateway>,
    /// Its way to the Internet.
    pub nat: Option<Nat>,
}

/// What a second login of the same member and client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameMember {
    /// It takes over session, addresses and lease at once.
    TakeOver,
    /// It is refused while the first one lives.
    Refuse,
}

impl Config {
    /// Reads `file` (none: hub PUBLIC with defaults), lays `typed` over its `[server]` and checks the
    /// whole.
    pub fn load(file: Option<&Path>, typed: RawServer) -> Result<Config, ConfigError> {
        let Some(path) = file else {
            return Self::build("", "", Path::new(""), typed);
        };
        let name = path.display().to_string();
        let text = read::read(path).map_err(|(what, hint)| {
            let mut report = Report::new(&name, "");
            report.add(&Place::Whole, what, hint);
            report.finish(()).expect_err("a problem was added")
        })?;
        Self::build(&name, &text, path.parent().unwrap_or(Path::new("")), typed)
    }

    /// As [`Self::load`], from `text` that stands in the file `name`. Relative paths in it start at `folder`.
    pub fn build(name: &str, text: &str, folder: &Path, typed: RawServer) -> Result<Config, ConfigError> {
        let mut report = Report::new(name, text);
        let raw = RawFile::parse(text, &mut report);
        let lane = gateway::check_lane(typed.lane.clone(), &mut report);
        let server = check_server(typed.over(raw.server), folder, &mut report);
        let mut hubs = check_hubs(raw.hubs, &mut report);
        hubs.iter_mut().filter_map(|hub| hub.nat.as_mut()).for_each(|nat| nat.prefer(lane));
        report.finish(Config { server, hubs })
    }

    /// The hub called `name`, in any case, and its index.
    pub fn hub(&self, name: &str) -> Option<(usize, &Hub)> {
        self.hubs.iter().enumerate().find(|(_, hub)| hub.name.eq_ignore_ascii_case(name))
    }
}

fn check_server(raw: RawServer, folder: &Path, report: &mut Report<'_>) -> Server {
    let certificate = check_certificate(&raw, folder, report);
    let seconds = |s: u32| Duration::from_secs(u64::from(s));
    Server {
        listen: check_listen(raw.listen, report),
        workers: check_workers(raw.workers, report),
        control_cpus: check_cpus(raw.control_cpus, "control_cpus", report),
        queue_depth: check_queue_depth(raw.queue_depth, report),
        kernel_features: report.choice(raw.kernel_features, "kernel_features", KERNEL_FEATURES, FeatureMask::All),
        tls_versions: check_tls_versions(raw.tls_versions, report),
        certificate,
        handshakes_max: report.number(raw.handshakes_max, "handshakes_max", 1..=65_536, 1024),
        handshake_timeout: seconds(report.number(raw.handshake_timeout_s, "handshake_timeout_s", 1..=120, 15)),
        login_timeout: seconds(report.number(raw.login_timeout_s, "login_timeout_s", 1..=300, 30)),
        connections_per_source_max: report.number(
            raw.connections_per_source_max,
            "connections_per_source_max",
            1..=1_000_000,
            256,
        ),
        gather: Duration::from_micros(report.number(raw.gather_us, "gather_us", 0..=1_000, DEFAULT_GATHER_US).into()),
        congestion: check_congestion(raw.congestion, report),
        rekey_after_records: check_rekey(raw.rekey_after_records, report),
        aead: report.choice(raw.aead, "aead", AEADS, AeadBackend::AwsLc),
    }
}

fn check_congestion(given: Option<Located<String>>, report: &mut Report<'_>) -> Congestion {
    let Some(given) = given else { return Congestion::default() };
    given.value.parse().unwrap_or_else(|error: String| {
        report.add(&given.place, format!("congestion: {error}"), "leave it away for cubic".to_owned());
        Congestion::default()
    })
}

fn check_listen(given: Option<Words>, report: &mut Report<'_>) -> Vec<Listen> {
    let Some(given) = given else {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        return DEFAULT_PORTS.map(|port| Listen { address: any(port), required: false }).to_vec();
    };
    let mut listen: Vec<Listen> = Vec::new();
    for word in given {
        let Ok(address) = word.value.parse::<SocketAddr>() else {
            let what = format!("listen address {:?} is not ADDRESS:PORT", word.value);
            report.add(&word.place, what, "such as \"192.0.2.1:443\", \"[2001:db8::1]:443\" or, for all, \"[::]:443\"");
            continue;
        };
        // Port 0 may stand several times: the kernel chooses different ones.
        if address.port() != 0 && listen.iter().any(|other| other.address == address) {
            report.add(&word.place, format!("listen address {address} stands twice"), "name each address once");
        } else if listen.len() == LISTEN_MAX {
            report.add(&word.place, "too many listen addresses", format!("at most {LISTEN_MAX}"));
            break;
        } else {
            listen.push(Listen { address, required: true });
        }
    }
    listen
}

fn check_workers(given: Option<Located<String>>, report: &mut Report<'_>) -> Option<CpuList> {
    let place = given.as_ref().map(|given| given.place.clone())?;
    let cpus = check_cpus(given, "workers", report)?;
    if cpus.numbers().len() > PortId::WORKERS_MAX {
        let what = format!("{} workers are too many", cpus.numbers().len());
        report.add(&place, what, format!("at most {}", PortId::WORKERS_MAX));
        return None;
    }
    Some(cpus)
}

fn check_cpus(given: Option<Located<String>>, key: &str, report: &mut Report<'_>) -> Option<CpuList> {
    let given = given?;
    given
        .value
        .parse::<CpuList>()
        .map_err(|hint| {
            report.add(&given.place, format!("{key} = {:?} is not a list of processors", given.value), hint.to_string())
        })
        .ok()
}

fn check_queue_depth(given: Option<Located<i64>>, report: &mut Report<'_>) -> u32 {
    let place = given.as_ref().map(|given| given.place.clone());
    let depth = report.number(given, "queue_depth", 64..=32_768, DEFAULT_QUEUE_DEPTH);
    if !depth.is_power_of_two() {
        let hint = format!("{} or {}", depth.next_power_of_two() / 2, depth.next_power_of_two());
        report.add(&place.unwrap_or(Place::Whole), format!("queue_depth = {depth} is not a power of two"), hint);
    }
    depth
}

fn check_tls_versions(given: Option<Words>, report: &mut Report<'_>) -> TlsVersions {
    let Some(given) = given else { return TlsVersions::Both };
    let (mut v1_2, mut v1_3) = (false, false);
    for word in given {
        match word.value.trim() {
            "1.2" => v1_2 = true,
            "1.3" => v1_3 = true,
            other => {
                let what = format!("TLS version {other:?} is not offered");
                report.add(&word.place, what, "\"1.2\", \"1.3\" or both; older versions are broken (RFC 8996)");
                return TlsVersions::Both;
            }
        }
    }
    match (v1_2, v1_3) {
        (true, false) => TlsVersions::Only12,
        (false, true) => TlsVersions::Only13,
        _ => TlsVersions::Both,
    }
}

fn check_certificate(raw: &RawServer, folder: &Path, report: &mut Report<'_>) -> Certificate {
    const BOTH: &str = "certificate_chain and private_key go together: one PEM file each";
    match (&raw.certificate_chain, &raw.private_key) {
        (Some(chain), Some(key)) => {
            if let Some(kind) = &raw.certificate {
                let hint = "leave away certificate, or certificate_chain and private_key";
                report.add(&kind.place, "certificate chooses among those the server makes, but a chain is given", hint);
            }
            Certificate::Own { chain: folder.join(&chain.value), key: folder.join(&key.value) }
        }
        (Some(chain), None) => {
            report.add(&chain.place, "certificate_chain without private_key", BOTH);
            Certificate::Auto
        }
        (None, Some(key)) => {
            report.add(&key.place, "private_key without certificate_chain", BOTH);
            Certificate::Auto
        }
        (None, None) => {
            let words = [("auto", 0), ("rsa", 1), ("ecdsa", 2)];
            match report.choice(raw.certificate.clone(), "certificate", &words, 0) {
                1 => Certificate::Rsa,
                2 => Certificate::Ecdsa,
                _ => Certificate::Auto,
            }
        }
    }
}

fn check_rekey(given: Option<Located<i64>>, report: &mut Report<'_>) -> Option<u64> {
    let given = given?;
    if (1..=REKEY_RECORDS_MAX).contains(&given.value) {
        return u64::try_from(given.value).ok();
    }
    let what = format!("rekey_after_records = {} is out of range", given.value);
    report.add(&given.place, what, format!("1 to {REKEY_RECORDS_MAX}; leave it away for the limits of the cipher"));
    None
}

fn check_hubs(raw: Vec<RawHub>, report: &mut Report<'_>) -> Vec<Hub> {
    if raw.is_empty() {
        let name = Located { value: DEFAULT_HUB.to_owned(), place: Place::Whole };
        return vec![check_hub(RawHub::named(name), DEFAULT_HUB.to_owned(), report)];
    }
    let mut seen: HashMap<String, ()> = HashMap::new();
    let mut hubs = Vec::new();
    for raw in raw {
        if hubs.len() == HUBS_MAX {
            report.add(&raw.place, "too many hubs", format!("at most {HUBS_MAX}"));
            break;
        }
        let Some(name) = raw.name.clone() else {
            report.add(&raw.place, "hub without a name", "add name = \"…\" below [[hub]]");
            continue;
        };
        if let Err(hint) = values::check_hub_name(&name.value) {
            report.add(&name.place, format!("{:?} cannot be the name of a hub", name.value), hint);
        }
        if seen.insert(name.value.to_ascii_uppercase(), ()).is_some() {
            let what = format!("a second hub is called {:?}", name.value);
            report.add(&name.place, what, "names must differ in more than upper and lower case");
        }
        if hubs.len() > LANES_MAX && raw.nat.is_some() {
            let what = format!("hub {:?} has [hub.nat], but {LANES_MAX} hubs stand before it", name.value);
            report.add(&raw.place, what, "put hubs with a NAT first in the file");
        }
        hubs.push(check_hub(raw, name.value, report));
    }
    hubs
}

fn check_hub(raw: RawHub, name: String, report: &mut Report<'_>) -> Hub {
    let profile = if name.eq_ignore_ascii_case(DEFAULT_HUB) { Profile::Public } else { Profile::Lan };
    let profile = report.choice(raw.profile, "profile", PROFILES, profile);
    let seconds = |s: u32| Duration::from_secs(u64::from(s));
    let gateway = raw.gateway.map(|raw| gateway::check_gateway(raw, profile == Profile::Public, report));
    let ipv6_default = profile == Profile::Lan || gateway.is_none();
    Hub {
        name,
        profile,
        isolate_members: raw.isolate_members.is_some_and(|flag| flag.value),
        ageing: seconds(report.number(raw.ageing_s, "ageing_s", 10..=1_000_000, 300)),
        fdb_entries: report.number(raw.fdb_entries, "fdb_entries", 64..=1_048_576, 65_536),
        sessions_max: report.number(raw.sessions_max, "sessions_max", 1..=262_144, 65_536),
        macs_per_session: raw
            .macs_per_session
            .map(|macs| report.number(Some(macs), "macs_per_session", 1..=65_535, 64)),
        session_timeout: seconds(report.number(raw.session_timeout_s, "session_timeout_s", 5..=60, 20)),
        max_connections: report.number(raw.max_connections, "max_connections", 1..=32, 32),
        compression: check_compression(raw.compression, profile, report),
        bridges: report.choice(raw.bridges, "bridges", ALLOW_REFUSE, profile == Profile::Lan),
        same_member: report.choice(raw.same_member, "same_member", SAME_MEMBER, SameMember::TakeOver),
        members_ipv6: report.choice(raw.ipv6, "ipv6", ALLOW_REFUSE, ipv6_default),
        policy: policy::check(raw.policy, report),
        nat: raw.nat.and_then(|raw| gateway::check_nat(raw, gateway.as_ref(), report)),
        gateway,
    }
}

fn check_compression(given: Option<Located<String>>, profile: Profile, report: &mut Report<'_>) -> bool {
    let place = given.as_ref().map(|given| given.place.clone());
    let allow = report.choice(given, "compression", ALLOW_REFUSE, profile == Profile::Lan);
    if allow && profile == Profile::Public {
        let what = "a hub of the public profile never compresses";
        report.add(&place.unwrap_or(Place::Whole), what, "leave compression away, or choose profile = \"lan\"");
    }
    allow
}

/// Name of the hub that exists without a file.
pub const DEFAULT_HUB: &str = "PUBLIC";
/// Ports that stock servers listen on, and clients try.
const DEFAULT_PORTS: [u16; 4] = [443, 992, 1194, 5555];
/// Each costs one descriptor and one accept task.
const LISTEN_MAX: usize = 64;
/// A worker tells the devices of lanes apart by a byte.
const LANES_MAX: usize = 255;
/// Each costs an FDB in every process image and a row in every list.
const HUBS_MAX: usize = 4096;
/// Room for several submissions of every port that is busy in one turn.
const DEFAULT_QUEUE_DEPTH: u32 = 1024;

/// Little beside the way through any network, enough for several of 20,000 frames a second.
const DEFAULT_GATHER_US: u16 = 100;
/// Below the 2^24.5 full records that AES-GCM allows under one key (RFC 8446 §5.5).
const REKEY_RECORDS_MAX: i64 = 1 << 24;

const KERNEL_FEATURES: &[(&str, FeatureMask)] =
    &[("all", FeatureMask::All), ("6.1", FeatureMask::K6_1), ("5.15", FeatureMask::K5_15)];
const AEADS: &[(&str, AeadBackend)] = &[("aws-lc", AeadBackend::AwsLc), ("aes-gcm", AeadBackend::RustCrypto)];
const ALLOW_REFUSE: &[(&str, bool)] = &[("allow", true), ("refuse", false)];
const PROFILES: &[(&str, Profile)] = &[("lan", Profile::Lan), ("public", Profile::Public)];
const SAME_MEMBER: &[(&str, SameMember)] = &[("take-over", SameMember::TakeOver), ("refuse", SameMember::Refuse)];

#[cfg(test)]
mod tests;
