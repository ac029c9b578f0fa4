//! Hosts: inside addresses in use, what they have and how much they may.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::time::Duration;

use super::events::Insider;
use super::hash::{Index, Key, Random, Secret};
use super::limits::{Brake, Rate};
use super::members::{Members, Resting};
use super::table::{NONE, Slab};
use crate::ids::{MemberId, SessionId};
use crate::tick::Tick;

/// An inside address.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) insider: Insider,
    /// Its external address, by number.
    pub(super) area: u32,
    pub(super) blocks: Vec<u32>,
    /// First of its mappings.
    pub(super) mappings: u32,
    /// First of its flows that have no mapping.
    pub(super) overlaps: u32,
    /// Mappings, static ones not counted.
    pub(super) ports: u32,
    pub(super) flows: u32,
    pub(super) rate: Rate,
    pub(super) brake: Brake,
    /// Of [`super::NatEvent::Refused`].
    pub(super) refusals: Rate,
}

impl Default for Host {
    fn default() -> Self {
        Self::new(
            Insider { address: Ipv4Addr::UNSPECIFIED, member: MemberId(0), session: SessionId(0) },
            0,
            Tick::default(),
        )
    }
}

impl Host {
    pub(super) fn new(insider: Insider, area: u32, now: Tick) -> Self {
        Self {
            insider,
            area,
            blocks: Vec::new(),
            mappings: NONE,
            overlaps: NONE,
            ports: 0,
            flows: 0,
            rate: Rate::default(),
            brake: Brake::new(now),
            refusals: Rate::default(),
        }
    }

    /// Whether nothing is left to remember.
    pub(super) fn is_idle(&self) -> bool {
        self.blocks.is_empty() && self.mappings == NONE && self.overlaps == NONE
    }
}

/// All hosts of a worker.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) slab: Slab<Host>,
    by_address: Index,
    pub(super) members: Members,
    secret: Secret,
}

impl Hosts {
    pub(super) fn new(quarantine: Duration, random: &mut Random) -> Self {
        Self {
            slab: Slab::new(),
            by_address: Index::new(),
            members: Members::new(quarantine),
            secret: Secret::new(random),
        }
    }

    fn hash(&self, address: Ipv4Addr) -> u32 {
        self.secret.hash(Key { local: address.into(), remote: 0, local_port: 0, remote_port: 0, proto: 0 })
    }

    pub(super) fn of(&self, address: Ipv4Addr) -> Option<u32> {
        self.by_address.find(self.hash(address), |number| self.slab[number].insider.address == address)
    }

    pub(super) fn insert(&mut self, mut host: Host) -> u32 {
        self.members.resume(&mut host);
        let hash = self.hash(host.insider.address);
        let number = self.slab.insert(host);
        self.by_address.insert(hash, number);
        number
    }

    pub(super) fn remove(&mut self, number: u32, now: Tick) {
        let host = self.slab.remove(number);
        self.by_address.remove(self.hash(host.insider.address), number);
        self.members.keep(host, now);
    }

    /// Numbers of those in use.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.slab.end()).filter(|n| !self.slab[*n].insider.address.is_unspecified())
    }

    /// Counts a mapping of `number`.
    pub(super) fn count_port(&mut self, number: u32) {
        let host = &mut self.slab[number];
        host.ports += 1;
        self.members.count_port(host.insider.member);
    }

    /// Counts one less.
    pub(super) fn uncount_port(&mut self, number: u32) {
        let host = &mut self.slab[number];
        host.ports = host.ports.saturating_sub(1);
        self.members.uncount_port(host.insider.member);
    }

    /// Counts `what`, which rests from here on, against the member of `number`.
    pub(super) fn rest(&mut self, number: u32, what: Resting, now: Tick) {
        self.members.rest(self.slab[number].insider.member, what, now);
    }
}
