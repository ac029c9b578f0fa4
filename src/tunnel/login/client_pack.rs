//! PACKs of the client's side: what it asks, written; what it is told, read and checked.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use zeroize::Zeroizing;

use super::client::{Account, LoginError, Redirect, Secret, WelcomeSeen};
use super::{ClientInfo, Direction, Hello, Wants};
use crate::tunnel::pack::{Pack, PackWriter};
use crate::tunnel::sha0::{hashed_password, secure_password};

/// Shortest timeout taken from a server: less would only make keep-alives busy.
const TIMEOUT_MS_MIN: u32 = 1_000;
/// Prefix of policy elements.
const POLICY: &str = "policy:";

/// What a server may answer to a login, refusals aside.
pub(super) enum Answer {
    Welcome(Box<WelcomeSeen>),
    Redirect(Box<Redirect>),
}

/// §3.1.
pub(super) fn hello(pack: &Pack<'_>) -> Result<(Hello, [u8; 20]), LoginError> {
    let product = pack.str("hello").ok_or(LoginError::Missing("hello"))?.to_owned();
    let challenge = pack.data_array("random").ok_or(LoginError::Missing("random"))?;
    let version = pack.int("version").unwrap_or(0);
    Ok((Hello { product, version, build: pack.int("build").unwrap_or(0) }, challenge))
}

/// §3.2, §3.4. Encryption is asked for whatever `wants` says: our data stream is always inside TLS.
pub(super) fn login(account: &Account, wants: &Wants, challenge: &[u8; 20]) -> PackWriter {
    let mut pack = PackWriter::new();
    pack.str("method", "login").str("hubname", &account.hub).str("username", &account.user);
    proof(&mut pack, account, challenge);
    let client = &account.client;
    product(&mut pack, client);
    pack.str("hello", &client.product)
        .int("version", client.version)
        .int("build", client.build)
        .int("client_id", 0)
        .int("protocol", 0)
        .int("max_connection", u32::from(wants.max_connection))
        .bool("use_encrypt", true)
        .bool("use_compress", wants.compress)
        .bool("half_connection", wants.half_duplex)
        .bool("require_bridge_routing_mode", wants.bridge_mode)
        .bool("require_monitor_mode", wants.monitor_mode)
        .bool("qos", wants.qos)
        .data("unique_id", &client.unique_id);
    if wants.supers {
        pack.bool(super::SUPERS, true);
    }
    node_info(&mut pack, client);
    pack
}

fn proof(pack: &mut PackWriter, account: &Account, challenge: &[u8; 20]) {
    match &account.secret {
        Secret::Anonymous => pack.int("authtype", 0),
        Secret::Password(password) => {
            let hashed = hashed_password(password, &account.user);
            pack.int("authtype", 1).data("secure_password", &secure_password(&hashed, challenge))
        }
        Secret::HashedPassword(hashed) => {
            pack.int("authtype", 1).data("secure_password", &secure_password(hashed, challenge))
        }
        Secret::PlainPassword(password) => pack.int("authtype", 2).str("plain_password", password),
        Secret::Certificate(certificate) => {
            pack.int("authtype", 3).data("cert", &certificate.der).data("sign", &(certificate.sign)(challenge))
        }
        Secret::Ticket(ticket) => pack.int("authtype", 99).data("ticket", &**ticket),
    };
}

fn product(pack: &mut PackWriter, client: &ClientInfo) {
    pack.str("client_str", &client.product).int("client_ver", client.version).int("client_build", client.build);
}

/// Numbers here are byte-swapped on the wire (§3.4). `HubName` of that list is left out: it is the
/// same name as `hubname`.
fn node_info(pack: &mut PackWriter, client: &ClientInfo) {
    pack.str("ClientProductName", &client.product)
        .int("ClientProductVer", client.version.swap_bytes())
        .int("ClientProductBuild", client.build.swap_bytes())
        .str("ClientOsName", &client.os_name)
        .str("ClientOsVer", &client.os_version)
        .str("ClientHostname", &client.hostname)
        .data("UniqueId", &client.installation_id)
        .int("ClientPort", u32::from(client.local_port).swap_bytes());
    match client.local_ip {
        Some(IpAddr::V6(address)) => {
            pack.ip("ClientIpAddress", IpAddr::V4(Ipv4Addr::UNSPECIFIED)).data("ClientIpAddress6", &address.octets())
        }
        Some(v4) => pack.ip("ClientIpAddress", v4),
        None => pack,
    };
}

/// §4.1.
pub(super) fn additional(session_key: &[u8; 20], client: &ClientInfo) -> PackWriter {
    let mut pack = PackWriter::new();
    pack.str("method", "additional_connect").data("session_key", session_key);
    product(&mut pack, client);
    pack
}

/// §4.1. Absent reads as 0, both ways.
pub(super) fn direction(pack: &Pack<'_>) -> Result<Direction, LoginError> {
    Direction::from_number(pack.int("direction").unwrap_or(0)).ok_or(LoginError::Missing("direction"))
}

pub(super) fn answer(pack: &Pack<'_>, hello: Hello, wants: &Wants) -> Result<Answer, LoginError> {
    if pack.bool("Redirect") {
        return redirect(pack).map(|redirect| Answer::Redirect(Box::new(redirect)));
    }
    welcome(pack, hello, wants).map(|welcome| Answer::Welcome(Box::new(welcome)))
}

/// §3.6.
fn welcome(pack: &Pack<'_>, hello: Hello, wants: &Wants) -> Result<WelcomeSeen, LoginError> {
    let text = |name| pack.str(name).map(str::to_owned).ok_or(LoginError::Missing(name));
    let session_name = text("session_name")?;
    let connection_name = text("connection_name")?;
    let session_key = pack.data_array("session_key").ok_or(LoginError::Missing("session_key"))?;
    if !pack.bool("use_encrypt") {
        return Err(LoginError::Unencrypted);
    }
    let timeout_ms = pack.int("timeout").filter(|ms| *ms > 0).ok_or(LoginError::Missing("timeout"))?;
    let half_duplex = pack.bool("half_connection");
    let qos = wants.qos && pack.bool("qos");
    // One-way connections take two, and one for urgent frames takes another, also where we asked for fewer.
    let least = if half_duplex { 2 } else { 1 } * if qos { 2 } else { 1 };
    let wanted = wants.max_connection.clamp(least, super::CONNECTIONS_MAX);
    let granted = pack.int("max_connection").unwrap_or(1).clamp(1, u32::from(wanted));
    let compress = pack.bool("use_compress");
    Ok(WelcomeSeen {
        hello,
        session_name,
        connection_name,
        session_key: Zeroizing::new(session_key),
        max_connection: u8::try_from(granted).unwrap_or(wanted),
        compress,
        supers: wants.supers && !compress && pack.bool(super::SUPERS),
        half_duplex,
        qos,
        timeout_ms: timeout_ms.max(TIMEOUT_MS_MIN),
        vlan_id: pack.int("vlan_id").unwrap_or(0),
        policy: policy(pack),
        message: pack.data("Msg").filter(|bytes| !bytes.is_empty()).map(|bytes| String::from_utf8_lossy(bytes).into()),
    })
}

fn policy(pack: &Pack<'_>) -> Vec<(String, u32)> {
    pack.names()
        .filter_map(|name| {
            let (prefix, rest) = name.split_at_checked(POLICY.len())?;
            let value = pack.int(name)?;
            prefix.eq_ignore_ascii_case(POLICY).then(|| (rest.to_owned(), value))
        })
        .collect()
}

/// §9.1.
fn redirect(pack: &Pack<'_>) -> Result<Redirect, LoginError> {
    let ip = match pack.ip("Ip") {
        Some(IpAddr::V4(ip)) => ip,
        _ => return Err(LoginError::Missing("Ip")),
    };
    let ports: Vec<u16> = (0..pack.count("Port"))
        .filter_map(|index| pack.int_at("Port", index))
        .filter_map(|port| u16::try_from(port).ok().filter(|port| *port > 0))
        .collect();
    if ports.is_empty() {
        return Err(LoginError::Missing("Port"));
    }
    let ticket = pack.data_array("Ticket").ok_or(LoginError::Missing("Ticket"))?;
    let cert = pack.data("Cert").unwrap_or_default().to_vec();
    Ok(Redirect { goodbye: Vec::new(), ip, ports, ticket: Zeroizing::new(ticket), cert })
}
