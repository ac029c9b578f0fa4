//! The configuration as written: by the file, or by command line options in the same shape.
//!
//! Reads TOML by hand instead of by derived code, because each value keeps its place and each mistake
//! (unknown key, wrong type) is told with the line and the keys that exist. Nothing is checked here but
//! shape; meaning is checked in [`super::Config`], for file and command line alike.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::problem::{Located, Place, Report, nearest};

/// A list of words.
pub type Words = Vec<Located<String>>;

/// `[server]` as written. Field names are the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the keys are described in `super::Server`")]
pub struct RawServer {
    pub listen: Option<Words>,
    pub workers: Option<Located<String>>,
    pub control_cpus: Option<Located<String>>,
    pub queue_depth: Option<Located<i64>>,
    pub kernel_features: Option<Located<String>>,
    pub tls_versions: Option<Words>,
    pub certificate: Option<Located<String>>,
    pub certificate_chain: Option<Located<String>>,
    pub private_key: Option<Located<String>>,
    pub handshakes_max: Option<Located<i64>>,
    pub handshake_timeout_s: Option<Located<i64>>,
    pub login_timeout_s: Option<Located<i64>>,
    pub connections_per_source_max: Option<Located<i64>>,
    pub gather_us: Option<Located<i64>>,
    pub congestion: Option<Located<String>>,
    pub rekey_after_records: Option<Located<i64>>,
    pub aead: Option<Located<String>>,
    /// Only typed: in the file these keys stand in `[hub.nat]`.
    pub lane: RawLane,
}

impl RawServer {
    /// Each key as said by `self`, else as said by `file`.
    pub fn over(self, file: RawServer) -> RawServer {
        RawServer {
            listen: self.listen.or(file.listen),
            workers: self.workers.or(file.workers),
            control_cpus: self.control_cpus.or(file.control_cpus),
            queue_depth: self.queue_depth.or(file.queue_depth),
            kernel_features: self.kernel_features.or(file.kernel_features),
            tls_versions: self.tls_versions.or(file.tls_versions),
            certificate: self.certificate.or(file.certificate),
            certificate_chain: self.certificate_chain.or(file.certificate_chain),
            private_key: self.private_key.or(file.private_key),
            handshakes_max: self.handshakes_max.or(file.handshakes_max),
            handshake_timeout_s: self.handshake_timeout_s.or(file.handshake_timeout_s),
            login_timeout_s: self.login_timeout_s.or(file.login_timeout_s),
            connections_per_source_max: self.connections_per_source_max.or(file.connections_per_source_max),
            gather_us: self.gather_us.or(file.gather_us),
            congestion: self.congestion.or(file.congestion),
            rekey_after_records: self.rekey_after_records.or(file.rekey_after_records),
            aead: self.aead.or(file.aead),
            lane: self.lane,
        }
    }
}

/// How a lane is to be built, as written. Field names are the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the keys are described in `super::gateway::LaneWish`")]
pub struct RawLane {
    pub lane_mode: Option<Located<String>>,
    pub lane_steer: Option<Located<String>>,
    pub lane_busy_poll_us: Option<Located<i64>>,
}

/// A `[[hub]]` as written. Field names are the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the keys are described in `super::Hub`")]
pub struct RawHub {
    /// Where the hub begins.
    pub place: Place,
    pub name: Option<Located<String>>,
    pub profile: Option<Located<String>>,
    pub isolate_members: Option<Located<bool>>,
    pub ageing_s: Option<Located<i64>>,
    pub fdb_entries: Option<Located<i64>>,
    pub sessions_max: Option<Located<i64>>,
    pub macs_per_session: Option<Located<i64>>,
    pub session_timeout_s: Option<Located<i64>>,
    pub max_connections: Option<Located<i64>>,
    pub compression: Option<Located<String>>,
    pub bridges: Option<Located<String>>,
    pub same_member: Option<Located<String>>,
    pub ipv6: Option<Located<String>>,
    /// `[hub.policy]`: name and value of each item.
    pub policy: Vec<(Located<String>, RawPolicyValue)>,
    /// `[hub.gateway]`.
    pub gateway: Option<RawGateway>,
    /// `[hub.nat]`.
    pub nat: Option<RawNat>,
}

/// `[hub.gateway]` as written. Field names are the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the keys are described in `super::gateway::Gateway`")]
pub struct RawGateway {
    pub address: Option<Located<String>>,
    pub pool: Option<Located<String>>,
    pub lease_s: Option<Located<i64>>,
    pub leases_per_session: Option<Located<i64>>,
    pub dns: Option<Words>,
    pub domain: Option<Located<String>>,
    pub withhold_aaaa: Option<Located<bool>>,
    pub reservations: Vec<RawReservation>,
}

/// A `[[hub.gateway.reservation]]` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the keys are described in `super::gateway::Reservation`")]
pub struct RawReservation {
    pub place: Place,
    pub address: Option<Located<String>>,
    pub user: Option<Located<String>>,
    pub mac: Option<Located<String>>,
    pub client_id: Option<Located<String>>,
}

/// `[hub.nat]` as written. Field names are the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the keys are described in `super::gateway::Nat`")]
pub struct RawNat {
    pub place: Place,
    pub device: Option<Located<String>>,
    pub addresses: Option<Words>,
    pub ports: Option<Located<String>>,
    pub next_hop: Option<Located<String>>,
    pub mtu: Option<Located<i64>>,
    pub filtering: Option<Located<String>>,
    pub block_ports: Option<Located<i64>>,
    pub ports_per_member: Option<Located<i64>>,
    pub flows_per_sec: Option<Located<i64>>,
    pub destinations_max: Option<Located<i64>>,
    pub allow: Option<Words>,
    pub refuse_tcp_ports: Option<Words>,
    pub log: Option<Located<String>>,
    pub lane: RawLane,
    pub forwards: Vec<RawForward>,
}

/// A `[[hub.nat.forward]]` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the keys are described in `super::gateway::Forward`")]
pub struct RawForward {
    pub place: Place,
    pub protocol: Option<Located<String>>,
    pub port: Option<Located<i64>>,
    pub to: Option<Located<String>>,
}

impl RawHub {
    /// A hub of which nothing but the name is said.
    pub fn named(name: Located<String>) -> RawHub {
        RawHub {
            place: name.place.clone(),
            name: Some(name),
            profile: None,
            isolate_members: None,
            ageing_s: None,
            fdb_entries: None,
            sessions_max: None,
            macs_per_session: None,
            session_timeout_s: None,
            max_connections: None,
            compression: None,
            bridges: None,
            same_member: None,
            ipv6: None,
            policy: Vec::new(),
            gateway: None,
            nat: None,
        }
    }
}

/// Value of a policy item as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawPolicyValue {
    /// `true` or `false`.
    Flag(Located<bool>),
    /// A whole number.
    Number(Located<i64>),
}

/// The whole file as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawFile {
    /// `[server]`.
    pub server: RawServer,
    /// Each `[[hub]]`, in order.
    pub hubs: Vec<RawHub>,
}

impl RawFile {
    /// Reads TOML. Mistakes go to `report`; what could be read is returned.
    pub fn parse(text: &str, report: &mut Report<'_>) -> RawFile {
        let root = match DeTable::parse(text) {
            Ok(root) => root,
            Err(error) => {
                let place = error.span().map_or(Place::Whole, Place::Bytes);
                let what = format!("not TOML: {}", error.message().trim());
                report.add(&place, what, "a line is `key = value`, `[section]` or `# comment`; text stands in quotes");
                return RawFile::default();
            }
        };
        let mut root = Section::new("the file", root, report);
        let server = root.table("server").map(|table| read_server(table, root.report)).unwrap_or_default();
        let hubs = root.tables("hub").into_iter().map(|table| read_hub(table, root.report)).collect();
        root.finish();
        RawFile { server, hubs }
    }
}

fn read_server(table: Spanned<DeTable<'_>>, report: &mut Report<'_>) -> RawServer {
    let mut section = Section::new("[server]", table, report);
    let server = RawServer {
        listen: section.words("listen"),
        workers: section.word("workers"),
        control_cpus: section.word("control_cpus"),
        queue_depth: section.number("queue_depth"),
        kernel_features: section.word("kernel_features"),
        tls_versions: section.words("tls_versions"),
        certificate: section.word("certificate"),
        certificate_chain: section.word("certificate_chain"),
        private_key: section.word("private_key"),
        handshakes_max: section.number("handshakes_max"),
        handshake_timeout_s: section.number("handshake_timeout_s"),
        login_timeout_s: section.number("login_timeout_s"),
        connections_per_source_max: section.number("connections_per_source_max"),
        gather_us: section.number("gather_us"),
        congestion: section.word("congestion"),
        rekey_after_records: section.number("rekey_after_records"),
        aead: section.word("aead"),
        lane: RawLane::default(),
    };
    section.finish();
    server
}

fn read_hub(table: Spanned<DeTable<'_>>, report: &mut Report<'_>) -> RawHub {
    let place = Place::Bytes(table.span());
    let mut section = Section::new("[[hub]]", table, report);
    let hub = RawHub {
        place,
        name: section.word("name"),
        profile: section.word("profile"),
        isolate_members: section.flag("isolate_members"),
        ageing_s: section.number("ageing_s"),
        fdb_entries: section.number("fdb_entries"),
        sessions_max: section.number("sessions_max"),
        macs_per_session: section.number("macs_per_session"),
        session_timeout_s: section.number("session_timeout_s"),
        max_connections: section.number("max_connections"),
        compression: section.word("compression"),
        bridges: section.word("bridges"),
        same_member: section.word("same_member"),
        ipv6: section.word("ipv6"),
        policy: section.table("policy").map(|table| read_policy(table, section.report)).unwrap_or_default(),
        gateway: section.table("gateway").map(|table| read_gateway(table, section.report)),
        nat: section.table("nat").map(|table| read_nat(table, section.report)),
    };
    section.finish();
    hub
}

fn read_gateway(table: Spanned<DeTable<'_>>, report: &mut Report<'_>) -> RawGateway {
    let mut section = Section::new("[hub.gateway]", table, report);
    let gateway = RawGateway {
        address: section.word("address"),
        pool: section.word("pool"),
        lease_s: section.number("lease_s"),
        leases_per_session: section.number("leases_per_session"),
        dns: section.words("dns"),
        domain: section.word("domain"),
        withhold_aaaa: section.flag("withhold_aaaa"),
        reservations: section
            .tables("reservation")
            .into_iter()
            .map(|table| read_reservation(table, section.report))
            .collect(),
    };
    section.finish();
    gateway
}

fn read_reservation(table: Spanned<DeTable<'_>>, report: &mut Report<'_>) -> RawReservation {
    let place = Place::Bytes(table.span());
    let mut section = Section::new("[[hub.gateway.reservation]]", table, report);
    let reservation = RawReservation {
        place,
        address: section.word("address"),
        user: section.word("user"),
        mac: section.word("mac"),
        client_id: section.word("client_id"),
    };
    section.finish();
    reservation
}

fn read_nat(table: Spanned<DeTable<'_>>, report: &mut Report<'_>) -> RawNat {
    let place = Place::Bytes(table.span());
    let mut section = Section::new("[hub.nat]", table, report);
    let nat = RawNat {
        place,
        device: section.word("device"),
        addresses: section.words("addresses"),
        ports: section.word("ports"),
        next_hop: section.word("next_hop"),
        mtu: section.number("mtu"),
        filtering: section.word("filtering"),
        block_ports: section.number("block_ports"),
        ports_per_member: section.number("ports_per_member"),
        flows_per_sec: section.number("flows_per_sec"),
        destinations_max: section.number("destinations_max"),
        allow: section.words("allow"),
        refuse_tcp_ports: section.words("refuse_tcp_ports"),
        log: section.word("log"),
        lane: RawLane {
            lane_mode: section.word("lane_mode"),
            lane_steer: section.word("lane_steer"),
            lane_busy_poll_us: section.number("lane_busy_poll_us"),
        },
        forwards: section.tables("forward").into_iter().map(|table| read_forward(table, section.report)).collect(),
    };
    section.finish();
    nat
}

fn read_forward(table: Spanned<DeTable<'_>>, report: &mut Report<'_>) -> RawForward {
    let place = Place::Bytes(table.span());
    let mut section = Section::new("[[hub.nat.forward]]", table, report);
    let forward =
        RawForward { place, protocol: section.word("protocol"), port: section.number("port"), to: section.word("to") };
    section.finish();
    forward
}

fn read_policy(table: Spanned<DeTable<'_>>, report: &mut Report<'_>) -> Vec<(Located<String>, RawPolicyValue)> {
    let mut items = Vec::new();
    for (name, value) in table.into_inner() {
        let place = Place::Bytes(value.span());
        let item = Located { value: name.get_ref().to_string(), place: Place::Bytes(name.span()) };
        match value.get_ref() {
            DeValue::Boolean(flag) => items.push((item, RawPolicyValue::Flag(Located { value: *flag, place }))),
            DeValue::Integer(number) => {
                if let Some(value) = integer(number, &item.value, &place, report) {
                    items.push((item, RawPolicyValue::Number(Located { value, place })));
                }
            }
            other => report.add(&place, expected(&item.value, "true, false or a whole number", other), "see the item"),
        }
    }
    items
}

/// A table whose keys are taken one by one; what is left at the end is unknown.
struct Section<'r, 't, 'i> {
    title: &'static str,
    entries: Vec<(Spanned<Cow<'i, str>>, Spanned<DeValue<'i>>)>,
    known: Vec<&'static str>,
    report: &'r mut Report<'t>,
}

impl<'r, 't, 'i> Section<'r, 't, 'i> {
    fn new(title: &'static str, table: Spanned<DeTable<'i>>, report: &'r mut Report<'t>) -> Self {
        let entries = table.into_inner().into_iter().collect();
        Self { title, entries, known: Vec::new(), report }
    }

    fn take(&mut self, key: &'static str) -> Option<(Place, DeValue<'i>)> {
        self.known.push(key);
        let at = self.entries.iter().position(|(name, _)| name.get_ref() == key)?;
        let (_, value) = self.entries.remove(at);
        Some((Place::Bytes(value.span()), value.into_inner()))
    }

    fn word(&mut self, key: &'static str) -> Option<Located<String>> {
        let (place, value) = self.take(key)?;
        self.as_word(key, place, value)
    }

    fn as_word(&mut self, key: &str, place: Place, value: DeValue<'i>) -> Option<Located<String>> {
        match value {
            DeValue::String(text) => Some(Located { value: text.into_owned(), place }),
            other => {
                let hint = format!("write it in quotes: {key} = \"…\"");
                self.report.add(&place, expected(key, "text in quotes", &other), hint);
                None
            }
        }
    }

    /// A list of words; one word alone is a list of one.
    fn words(&mut self, key: &'static str) -> Option<Words> {
        let (place, value) = self.take(key)?;
        let list = match value {
            DeValue::Array(list) => list,
            single => return self.as_word(key, place, single).map(|word| vec![word]),
        };
        if list.is_empty() {
            self.report.add(&place, format!("{key} is an empty list"), "name at least one, or leave the key away");
            return None;
        }
        let words = list.into_iter().filter_map(|word| {
            let place = Place::Bytes(word.span());
            self.as_word(key, place, word.into_inner())
        });
        Some(words.collect())
    }

    fn number(&mut self, key: &'static str) -> Option<Located<i64>> {
        let (place, value) = self.take(key)?;
        match &value {
            DeValue::Integer(number) => integer(number, key, &place, self.report).map(|value| Located { value, place }),
            other => {
                let hint = format!("write it without quotes and without a unit: {key} = 100");
                self.report.add(&place, expected(key, "a whole number", other), hint);
                None
            }
        }
    }

    fn flag(&mut self, key: &'static str) -> Option<Located<bool>> {
        let (place, value) = self.take(key)?;
        match value {
            DeValue::Boolean(value) => Some(Located { value, place }),
            other => {
                let hint = format!("write {key} = true or {key} = false, without quotes");
                self.report.add(&place, expected(key, "true or false", &other), hint);
                None
            }
        }
    }

    fn table(&mut self, key: &'static str) -> Option<Spanned<DeTable<'i>>> {
        let (place, value) = self.take(key)?;
        self.as_table(key, place, value)
    }

    fn as_table(&mut self, key: &str, place: Place, value: DeValue<'i>) -> Option<Spanned<DeTable<'i>>> {
        let Place::Bytes(span) = &place else { return None };
        match value {
            DeValue::Table(table) => Some(Spanned::new(span.clone(), table)),
            other => {
                self.report.add(
                    &place,
                    expected(key, "a section", &other),
                    format!("write it as [{key}] and its keys below"),
                );
                None
            }
        }
    }

    fn tables(&mut self, key: &'static str) -> Vec<Spanned<DeTable<'i>>> {
        let Some((place, value)) = self.take(key) else { return Vec::new() };
        let DeValue::Array(list) = value else {
            let what = expected(key, "a list of sections", &value);
            self.report.add(&place, what, format!("each begins with [[{key}]], in double brackets"));
            return Vec::new();
        };
        let tables = list.into_iter().filter_map(|table| {
            let place = Place::Bytes(table.span());
            self.as_table(key, place, table.into_inner())
        });
        tables.collect()
    }

    fn finish(self) {
        for (name, _) in &self.entries {
            let what = format!("unknown key {:?} in {}", name.get_ref(), self.title);
            self.report.add(&Place::Bytes(name.span()), what, nearest(name.get_ref(), &self.known));
        }
    }
}

fn integer(number: &DeInteger<'_>, key: &str, place: &Place, report: &mut Report<'_>) -> Option<i64> {
    let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
    if value.is_none() {
        report.add(place, format!("{key} = {} is out of range", number.as_str()), "no number here is above 10^18");
    }
    value
}

fn expected(key: &str, wanted: &str, found: &DeValue<'_>) -> String {
    let found = match found {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    };
    format!("{key} must be {wanted}, found {found}")
}
