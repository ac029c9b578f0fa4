//! The login: from the first byte inside TLS to the first byte of the data stream (protocol note §3, §4.1).
//!
//! ```text
//! client                                            server
//!  |-- [GET / probe]  ------------------------------>|   page with marker
//!  |-- POST connect.cgi (signature) ---------------->|
//!  |<------------------------- 200 Hello PACK -------|   random[20]
//!  |-- POST vpn.cgi  login | additional_connect ---->|
//!  |<---- 200 Welcome | direction | error PACK ------|
//!  |=========== block stream, both ways =============|
//! ```
//!
//! [`server::ServerLogin`] and [`client::ClientLogin`] are machines over bytes: received bytes go in,
//! [`server::Next`] and [`client::ClientNext`] say what to do. They have no socket, clock or
//! randomness, and they decide nothing about users: the server's machine hands out a
//! [`server::LoginRequest`] and is told the verdict.
#![forbid(unsafe_code)]

pub mod client;
pub mod negotiate;
pub mod server;

mod client_pack;
mod padding;
mod server_pack;

use std::net::IpAddr;

use super::pack::PackWriter;

/// Path of the signature.
const CONNECT_PATH: &str = "/vpnsvc/connect.cgi";
/// Path of the PACKs.
const VPN_PATH: &str = "/vpnsvc/vpn.cgi";
/// Signature that every published server since 2014 takes instead of the long one (§1.2).
const SIGNATURE: &[u8] = b"VPNCONNECT";
/// NOOPs answered or skipped before it is taken for an attack (§1.2).
const NOOPS_MAX: u32 = 30;

/// Most connections of a session.
pub const CONNECTIONS_MAX: u8 = 32;

/// What our card calls itself.
pub const CARD_PRODUCT: &str = "Hublane Client";

/// What a server tells about itself before the login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Product, shown by clients.
    pub product: String,
    /// 100 · major + minor.
    pub version: u32,
    /// Build number.
    pub build: u32,
}

impl Hello {
    /// A server of our kind.
    pub fn is_ours(&self) -> bool {
        self.product.starts_with("Hublane")
    }
}

/// What a client tells about itself. None of it is proven; texts are for logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// Product. A name with "server" or "bridge" makes the session a bridge (§3.4).
    pub product: String,
    /// 100 · major + minor.
    pub version: u32,
    /// Build number.
    pub build: u32,
    /// Name of the operating system.
    pub os_name: String,
    /// Version of the operating system.
    pub os_version: String,
    /// The client's host name.
    pub hostname: String,
    /// Hash that names the machine.
    pub unique_id: [u8; 20],
    /// Hash that names the installation.
    pub installation_id: [u8; 16],
    /// The address that the client sees as its own.
    pub local_ip: Option<IpAddr>,
    /// The TCP port that the client sees as its own; 0 if not told.
    pub local_port: u16,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// Connections, 1 to [`CONNECTIONS_MAX`].
    pub max_connection: u8,
    /// Data stays inside TLS.
    pub encrypt: bool,
    /// zlib per frame.
    pub compress: bool,
    /// Each connection carries data one way only.
    pub half_duplex: bool,
    /// Bridge or router behind the client: many addresses.
    pub bridge_mode: bool,
    /// A copy of every frame.
    pub monitor_mode: bool,
    /// A connection of its own for urgent frames, the newest of the session (protocol note §5.6).
    pub qos: bool,
    /// Super-frames cross whole; only our own ends know of it.
    pub supers: bool,
}

impl Default for Wants {
    /// The plainest session: one encrypted connection.
    fn default() -> Self {
        Self {
            max_connection: 1,
            encrypt: true,
            compress: false,
            half_duplex: false,
            bridge_mode: false,
            monitor_mode: false,
            qos: false,
            supers: false,
        }
    }
}

/// Which way a connection carries data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    Both,
    /// From the server to the client.
    ToClient,
    /// From the client to the server.
    ToServer,
}

impl Direction {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Both => 0,
            Self::ToClient => 1,
            Self::ToServer => 2,
        }
    }

    /// From the number on the wire.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Both,
            1 => Self::ToClient,
            2 => Self::ToServer,
            _ => return None,
        })
    }
}

/// Our own item of the login and of the answer to it, which other programs ignore: super-frames
/// ([`crate::wire::super_frame`]) may cross.
const SUPERS: &str = "hublane_super_frames";

/// Ends a message that goes over HTTP: each of those carries padding of random length (§1.2).
fn finish_padded(mut pack: PackWriter, challenge: &[u8; 20], serial: u32) -> Vec<u8> {
    pack.data("pencore", &padding::padding(challenge, serial));
    pack.finish()
}

#[cfg(test)]
mod tests;
