//! The NAT against the lines of the standards: names begin with their ids.
#![forbid(unsafe_code)]

mod rig;
mod udp;
