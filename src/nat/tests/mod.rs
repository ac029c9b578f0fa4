//! The NAT against the lines of the standards: names begin with their ids.
#![forbid(unsafe_code)]

mod icmp;
mod model;
mod pcp;
mod rig;
mod scale;
mod shared;
mod tcp;
mod through_lane;
mod udp;
mod updates;
