//! A worker's part in a hub's way out, as an operator sees it.
#![forbid(unsafe_code)]

use super::Router;
use crate::lane::report::LaneReport;
use crate::lane::{LaneStats, Link};
use crate::nat::NatStats;

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterView {
    /// Leases; only the worker that has the gateway knows.
    pub leases: Option<LeaseCount>,
    /// Its part of the NAT.
    pub nat: Option<NatStats>,
    /// The device, and what its end of the lane has counted.
    pub lane: Option<(Link, LaneStats)>,
    /// What is at work below the lane.
    pub report: Option<LaneReport>,
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCount {
    /// Addresses that somebody has.
    pub leased: u64,
    /// Addresses that somebody could have.
    pub pool: u64,
}

impl Router {
    pub(super) fn view(&mut self) -> RouterView {
        let dhcp = self.host.as_mut().and_then(|host| host.gateway.dhcp());
        RouterView {
            leases: dhcp.map(|dhcp| {
                let (leased, pool) = dhcp.usage();
                LeaseCount { leased, pool }
            }),
            nat: self.nat.as_ref().map(|nat| nat.stats()),
            lane: self.lane.lane.as_ref().map(|lane| (lane.link(), *lane.stats())),
            report: self.lane.lane.as_ref().map(|lane| lane.report()),
        }
    }
}
