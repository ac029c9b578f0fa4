//! ICMPv6 (RFC 4443) and the types of neighbour discovery (RFC 4861).
#![forbid(unsafe_code)]

/// Protocol number.
pub const PROTOCOL: u8 = 58;
/// Router solicitation.
pub const ROUTER_SOLICIT: u8 = 133;
/// Router advertisement.
pub const ROUTER_ADVERT: u8 = 134;
