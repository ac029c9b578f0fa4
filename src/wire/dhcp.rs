//! UDP ports by which DHCP is known.
#![forbid(unsafe_code)]

/// Servers and relays (RFC 2131 §4.1).
pub const SERVER_PORT: u16 = 67;
/// Clients.
pub const CLIENT_PORT: u16 = 68;
/// DHCPv6 clients (RFC 8415 §7.2).
pub const V6_CLIENT_PORT: u16 = 546;
/// DHCPv6 servers and relays.
pub const V6_SERVER_PORT: u16 = 547;
