//! Mappings: an inside address and port, and the external ones that stand for them towards everybody.
//!
//! A mapping lives as long as it has a flow that was used from inside, or is pinned (static, or asked for by PCP).
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};

use super::events::Translation;
use super::hash::{Index, Key, Random, Secret};
use super::plan::Proto;
use super::table::{Links, NONE, Slab};

/// See the module text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) inside: Ipv4Addr,
    pub(super) outside: Ipv4Addr,
    pub(super) inside_port: u16,
    pub(super) outside_port: u16,
    pub(super) proto: Proto,
    pub(super) flags: u8,
    /// Whose; [`NONE`] while nobody uses a static one.
    pub(super) host: u32,
    /// Block of the external port; [`NONE`]: commons, or static.
    pub(super) block: u32,
    /// First of its flows.
    pub(super) flows: u32,
    /// How many of them were used from inside.
    pub(super) active: u32,
    /// Others of the host.
    pub(super) siblings: Links,
}

/// From the configuration.
pub(super) const STATIC: u8 = 1;
/// Asked for by PCP, and not yet over.
pub(super) const PCP: u8 = 2;
/// Its begin was told, its end will be.
pub(super) const RECORDED: u8 = 4;

impl Default for Mapping {
    fn default() -> Self {
        Self {
            inside: Ipv4Addr::UNSPECIFIED,
            outside: Ipv4Addr::UNSPECIFIED,
            inside_port: 0,
            outside_port: 0,
            proto: Proto::default(),
            flags: 0,
            host: NONE,
            block: NONE,
            flows: NONE,
            active: 0,
            siblings: Links::default(),
        }
    }
}

impl Mapping {
    pub(super) fn translation(&self) -> Translation {
        Translation {
            proto: self.proto,
            inside: SocketAddrV4::new(self.inside, self.inside_port),
            external: SocketAddrV4::new(self.outside, self.outside_port),
        }
    }

    /// Lives without flows.
    pub(super) fn is_pinned(&self) -> bool {
        self.flags & (STATIC | PCP) != 0
    }
}

/// All mappings of a worker.
#[derive(Debug)]
pub(super) struct Mappings {
    pub(super) slab: Slab<Mapping>,
    by_inside: Index,
    by_outside: Index,
    secret: Secret,
}

fn key(proto: Proto, address: Ipv4Addr, port: u16) -> Key {
    Key { local: address.into(), remote: 0, local_port: port, remote_port: 0, proto: proto.number() }
}

impl Mappings {
    pub(super) fn new(random: &mut Random) -> Self {
        Self { slab: Slab::new(), by_inside: Index::new(), by_outside: Index::new(), secret: Secret::new(random) }
    }

    /// The mapping of an inside address and port.
    pub(super) fn of_inside(&self, proto: Proto, address: Ipv4Addr, port: u16) -> Option<u32> {
        self.by_inside.find(self.secret.hash(key(proto, address, port)), |number| {
            let mapping = &self.slab[number];
            (mapping.inside, mapping.inside_port, mapping.proto) == (address, port, proto)
        })
    }

    /// The mapping of an external address and port.
    pub(super) fn of_outside(&self, proto: Proto, address: Ipv4Addr, port: u16) -> Option<u32> {
        self.by_outside.find(self.secret.hash(key(proto, address, port)), |number| {
            let mapping = &self.slab[number];
            (mapping.outside, mapping.outside_port, mapping.proto) == (address, port, proto)
        })
    }

    pub(super) fn insert(&mut self, mapping: Mapping) -> u32 {
        let number = self.slab.insert(mapping);
        let (inside, outside) = self.hashes(&mapping);
        self.by_inside.insert(inside, number);
        self.by_outside.insert(outside, number);
        number
    }

    /// Takes a mapping out. The caller takes it out of its host's list.
    pub(super) fn remove(&mut self, number: u32) -> Mapping {
        let mapping = self.slab.remove(number);
        let (inside, outside) = self.hashes(&mapping);
        self.by_inside.remove(inside, number);
        self.by_outside.remove(outside, number);
        mapping
    }

    fn hashes(&self, m: &Mapping) -> (u32, u32) {
        let hash = |address, port| self.secret.hash(key(m.proto, address, port));
        (hash(m.inside, m.inside_port), hash(m.outside, m.outside_port))
    }

    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.slab.bytes() + self.by_inside.bytes() + self.by_outside.bytes()
    }
}
