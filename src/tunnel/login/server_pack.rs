//! PACKs of the server's side: what a client asks, read and checked; what it is told, written.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr};

use zeroize::Zeroizing;

use super::server::{AdditionalRequest, Credentials, LoginRequest, Welcome};
use super::{CONNECTIONS_MAX, ClientInfo, Wants};
use crate::tunnel::error_code::ErrorCode;
use crate::tunnel::pack::{Pack, PackWriter};

/// Longest hub name, user name and password in bytes (§3.2).
const NAME_BYTES_MAX: usize = 255;
/// What is kept of a text that only logs show, in characters.
const LOG_CHARS_MAX: usize = 128;

/// What a PACK asks for.
pub(super) enum Asked {
    Noop,
    Login(Box<LoginRequest>),
    Additional(AdditionalRequest),
    EnumHubs,
}

/// Reads a request; the error is the code to refuse it with.
pub(super) fn asked(pack: &Pack<'_>, challenge: &[u8; 20]) -> Result<Asked, ErrorCode> {
    if pack.int("noop") == Some(1) {
        return Ok(Asked::Noop);
    }
    let method = pack.str("method").ok_or(ErrorCode::Protocol)?.to_ascii_lowercase();
    match method.as_str() {
        "login" => login(pack, challenge).map(|login| Asked::Login(Box::new(login))),
        "additional_connect" => additional(pack).map(Asked::Additional),
        "enum_hub" => Ok(Asked::EnumHubs),
        "admin" | "password" => Err(ErrorCode::NotSupported),
        "farm_connect" => Err(ErrorCode::NotFarmController),
        _ => Err(ErrorCode::Protocol),
    }
}

fn login(pack: &Pack<'_>, challenge: &[u8; 20]) -> Result<LoginRequest, ErrorCode> {
    let hub = pack.str("hubname").ok_or(ErrorCode::Protocol)?;
    let user = pack.str("username").ok_or(ErrorCode::Protocol)?;
    let credentials = credentials(pack)?;
    // No hub and no user can have a name like that, and the answer is the same as for any other
    // unknown name.
    if !is_hub_name(hub) {
        return Err(ErrorCode::HubNotFound);
    }
    if !is_user_name(user) {
        return Err(ErrorCode::AuthFailed);
    }
    let client = client_info(pack);
    let wants = wants(pack, &client.product);
    Ok(LoginRequest { hub: hub.to_owned(), user: user.to_owned(), credentials, client, wants, challenge: *challenge })
}

fn is_hub_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

/// The alphabet of §3.2. `*` is the name of a catch-all entry, not of somebody who logs in.
fn is_user_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" ()-_#%&.@".contains(&byte))
}

fn credentials(pack: &Pack<'_>) -> Result<Credentials, ErrorCode> {
    Ok(match pack.int("authtype").ok_or(ErrorCode::Protocol)? {
        0 => Credentials::Anonymous,
        1 => Credentials::HashedPassword(pack.data_array("secure_password").ok_or(ErrorCode::Protocol)?),
        2 => {
            // With its blanks: they may belong to the password.
            let password = pack.str_at("plain_password", 0).ok_or(ErrorCode::Protocol)?;
            if password.len() > NAME_BYTES_MAX {
                return Err(ErrorCode::Protocol);
            }
            Credentials::PlainPassword(Zeroizing::new(password.to_owned()))
        }
        3 => Credentials::Certificate {
            cert: pack.data("cert").ok_or(ErrorCode::Protocol)?.to_vec(),
            signature: pack.data("sign").ok_or(ErrorCode::Protocol)?.to_vec(),
        },
        99 => Credentials::Ticket(pack.data_array("ticket").ok_or(ErrorCode::Protocol)?),
        number => Credentials::Unsupported(number),
    })
}

fn client_info(pack: &Pack<'_>) -> ClientInfo {
    ClientInfo {
        product: log_text(pack, "client_str"),
        version: pack.int("client_ver").unwrap_or(0),
        build: pack.int("client_build").unwrap_or(0),
        os_name: log_text(pack, "ClientOsName"),
        os_version: log_text(pack, "ClientOsVer"),
        hostname: log_text(pack, "ClientHostname"),
        unique_id: pack.data_array("unique_id").unwrap_or_default(),
        installation_id: pack.data_array("UniqueId").unwrap_or_default(),
        local_ip: local_ip(pack),
        // Byte-swapped on the wire (§3.4).
        local_port: pack.int("ClientPort").and_then(|port| u16::try_from(port.swap_bytes()).ok()).unwrap_or(0),
    }
}

/// `ClientIpAddress`, which is 0 if the transport is IPv6; the address stands in a second element then.
fn local_ip(pack: &Pack<'_>) -> Option<IpAddr> {
    if let Some(address) = pack.ip("ClientIpAddress").filter(|address| !address.is_unspecified()) {
        return Some(address);
    }
    let address = Ipv6Addr::from(pack.data_array::<16>("ClientIpAddress6")?);
    (!address.is_unspecified()).then_some(IpAddr::V6(address))
}

fn wants(pack: &Pack<'_>, product: &str) -> Wants {
    let product = product.to_ascii_lowercase();
    let is_cascade = product.contains("server") || product.contains("bridge");
    let asked = pack.int("max_connection").unwrap_or(1);
    Wants {
        max_connection: u8::try_from(asked).unwrap_or(CONNECTIONS_MAX).clamp(1, CONNECTIONS_MAX),
        encrypt: pack.bool("use_encrypt"),
        compress: pack.bool("use_compress"),
        half_duplex: pack.bool("half_connection"),
        bridge_mode: is_cascade || pack.bool("require_bridge_routing_mode"),
        monitor_mode: pack.bool("require_monitor_mode"),
        qos: pack.bool("qos"),
        supers: pack.bool(super::SUPERS),
    }
}

fn additional(pack: &Pack<'_>) -> Result<AdditionalRequest, ErrorCode> {
    Ok(AdditionalRequest {
        session_key: pack.data_array("session_key").ok_or(ErrorCode::Protocol)?,
        product: log_text(pack, "client_str"),
        version: pack.int("client_ver").unwrap_or(0),
        build: pack.int("client_build").unwrap_or(0),
    })
}

/// A text of the peer made harmless for a log line: no control characters, not too long.
fn log_text(pack: &Pack<'_>, name: &str) -> String {
    let bytes = pack.str_bytes(name).unwrap_or_default();
    // A character has at most four bytes.
    let bytes = &bytes[..bytes.len().min(4 * LOG_CHARS_MAX)];
    let text = String::from_utf8_lossy(bytes);
    text.trim().chars().map(|c| if c.is_control() { '?' } else { c }).take(LOG_CHARS_MAX).collect()
}

/// §3.5. The client may keep its password: most refusals say nothing about that.
pub(super) fn refusal(code: ErrorCode) -> PackWriter {
    let mut pack = PackWriter::new();
    pack.int("error", code.number()).bool("no_save_password", false);
    pack
}

/// §3.6. `use_encrypt` missing would make the client leave TLS.
pub(super) fn welcome(welcome: &Welcome) -> PackWriter {
    debug_assert!((1..=CONNECTIONS_MAX).contains(&welcome.max_connection) && welcome.timeout_ms > 0);
    let mut pack = PackWriter::new();
    pack.str("session_name", &welcome.session_name)
        .str("connection_name", &welcome.connection_name)
        .int("max_connection", u32::from(welcome.max_connection))
        .bool("use_encrypt", true)
        .bool("use_compress", welcome.compress)
        .bool("half_connection", welcome.half_duplex)
        .int("timeout", welcome.timeout_ms)
        .data("session_key", &welcome.session_key)
        // Serves transports over UDP only, but stock clients look for it.
        .int("session_key_32", 0)
        .bool("qos", welcome.qos)
        .bool("use_fast_rc4", false)
        .bool("is_azure_session", false)
        .bool("enable_udp_recovery", false)
        .bool("no_send_signature", false)
        .bool("suppress_client_update_notification", true)
        .int("vlan_id", welcome.vlan_id);
    if welcome.supers {
        pack.bool(super::SUPERS, true);
    }
    for (name, value) in &welcome.policy {
        pack.int(&format!("policy:{name}"), *value);
    }
    pack.int("policy:Ver3", 1);
    if let Some(message) = &welcome.message {
        pack.data("Msg", message.as_bytes());
    }
    pack
}
