//! Views of headers on bytes. `new_checked` looks at the length once; accessors rely on it.
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod dhcp;
pub mod dns;
pub mod ethernet;
pub mod flow;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod kinds;
pub mod loop_probe;
pub mod offload;
pub mod super_frame;
pub mod tcp;
pub mod udp;
pub mod vlan;
