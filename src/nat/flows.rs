//! Flows: who talks to whom through which external port. Every packet looks here first, by one hash.
//!
//! An entry is one cache line and has all that a packet of a known flow needs.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};

use super::events::Translation;
use super::expiry::Wheel;
use super::hash::{Index, Key, Random, Secret};
use super::parse::Tuple;
use super::plan::Proto;
use super::table::{self, Links, NONE, Slab};
use super::tcp::State;
use crate::ids::{MemberId, SessionId};

/// See the module text.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Flow {
    pub(super) inside: Ipv4Addr,
    pub(super) outside: Ipv4Addr,
    pub(super) remote: Ipv4Addr,
    pub(super) inside_port: u16,
    pub(super) outside_port: u16,
    pub(super) remote_port: u16,
    pub(super) proto: Proto,
    pub(super) state: State,
    pub(super) member: MemberId,
    /// Coarse time of the last packet that refreshed it.
    pub(super) last: u32,
    /// The mapping it uses; [`NONE`]: an external port of the commons that it shares.
    pub(super) mapping: u32,
    pub(super) host: u32,
    /// Others of the mapping, or of the host if there is none.
    pub(super) siblings: Links,
    /// Others with the same external port and remote address.
    pub(super) peers: Links,
    /// Neighbours in the wheel.
    pub(super) timer: Links,
    pub(super) slot: u16,
    pub(super) flags: u8,
    /// [`session_tag`] of the member's session when it was last used from inside.
    pub(super) session: u8,
}

/// Tells sessions that follow each other apart, in the byte that a flow has to spare.
#[inline]
pub(super) fn session_tag(session: SessionId) -> u8 {
    session.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

const _: () = assert!(size_of::<Flow>() == 64, "one cache line");

/// The remote end is one of our external addresses.
pub(super) const HAIRPIN: u8 = 1;
/// A packet from inside was seen: it keeps its mapping.
pub(super) const ACTIVE: u8 = 2;
/// Its begin was told, its end will be.
pub(super) const RECORDED: u8 = 4;

impl Default for Flow {
    fn default() -> Self {
        Self {
            inside: Ipv4Addr::UNSPECIFIED,
            outside: Ipv4Addr::UNSPECIFIED,
            remote: Ipv4Addr::UNSPECIFIED,
            inside_port: 0,
            outside_port: 0,
            remote_port: 0,
            proto: Proto::default(),
            state: State::default(),
            member: MemberId(0),
            last: 0,
            mapping: NONE,
            host: NONE,
            siblings: Links::default(),
            peers: Links::default(),
            timer: Links::default(),
            slot: 0,
            flags: 0,
            session: 0,
        }
    }
}

impl Flow {
    pub(super) fn translation(&self) -> Translation {
        Translation {
            proto: self.proto,
            inside: SocketAddrV4::new(self.inside, self.inside_port),
            external: SocketAddrV4::new(self.outside, self.outside_port),
        }
    }

    pub(super) fn remote_end(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.remote, self.remote_port)
    }

    fn inside_key(&self) -> Key {
        Key {
            local: self.inside.into(),
            remote: self.remote.into(),
            local_port: self.inside_port,
            remote_port: self.remote_port,
            proto: self.proto.number(),
        }
    }

    fn outside_key(&self) -> Key {
        Key { local: self.outside.into(), local_port: self.outside_port, ..self.inside_key() }
    }

    fn peer_key(&self) -> Key {
        Key { remote_port: 0, ..self.outside_key() }
    }
}

/// All flows of a worker.
#[derive(Debug)]
pub(super) struct Flows {
    pub(super) slab: Slab<Flow>,
    pub(super) wheel: Wheel,
    by_inside: Index,
    by_outside: Index,
    /// By external port and remote address: the first of a list through [`Flow::peers`].
    by_peer: Index,
    secret: Secret,
}

impl Flows {
    pub(super) fn new(now: u32, random: &mut Random) -> Self {
        Self {
            slab: Slab::new(),
            wheel: Wheel::new(now),
            by_inside: Index::new(),
            by_outside: Index::new(),
            by_peer: Index::new(),
            secret: Secret::new(random),
        }
    }

    /// The flow of a packet from inside.
    #[inline]
    pub(super) fn outbound(&self, tuple: &Tuple) -> Option<u32> {
        let hash = self.hash(tuple, true);
        self.by_inside.find(hash, |number| {
            let flow = &self.slab[number];
            (flow.inside, flow.remote) == (tuple.src, tuple.dst)
                && (flow.inside_port, flow.remote_port) == (tuple.src_port, tuple.dst_port)
                && flow.proto == tuple.proto
        })
    }

    /// The flow of a packet from outside.
    #[inline]
    pub(super) fn inbound(&self, tuple: &Tuple) -> Option<u32> {
        let hash = self.hash(tuple, false);
        self.by_outside.find(hash, |number| {
            let flow = &self.slab[number];
            (flow.outside, flow.remote) == (tuple.dst, tuple.src)
                && (flow.outside_port, flow.remote_port) == (tuple.dst_port, tuple.src_port)
                && flow.proto == tuple.proto
        })
    }

    /// The hash by which [`Self::outbound`] or [`Self::inbound`] looks for a packet; whatever it is.
    #[inline]
    pub(super) fn hash(&self, tuple: &Tuple, outbound: bool) -> u32 {
        let (local, remote) = if outbound { (tuple.src, tuple.dst) } else { (tuple.dst, tuple.src) };
        let (local_port, remote_port) =
            if outbound { (tuple.src_port, tuple.dst_port) } else { (tuple.dst_port, tuple.src_port) };
        self.secret.hash(Key {
            local: local.into(),
            remote: remote.into(),
            local_port,
            remote_port,
            proto: tuple.proto.number(),
        })
    }

    /// Reads where a lookup will begin.
    #[inline]
    pub(super) fn touch_index(&self, hash: u32, outbound: bool) -> u64 {
        if outbound { self.by_inside.peek(hash) } else { self.by_outside.peek(hash) }
    }

    /// Reads the flow that a lookup will probably find.
    #[inline]
    pub(super) fn touch_flow(&self, hash: u32, outbound: bool) -> u32 {
        let index = if outbound { &self.by_inside } else { &self.by_outside };
        index.find(hash, |_| true).map_or(0, |number| self.slab[number].last)
    }

    /// Whether the external port of `tuple`, a packet from outside, has a flow with its remote address.
    pub(super) fn knows_peer(&self, tuple: &Tuple) -> bool {
        let probe = Flow {
            outside: tuple.dst,
            outside_port: tuple.dst_port,
            remote: tuple.src,
            proto: tuple.proto,
            ..Flow::default()
        };
        self.peer(&probe).is_some()
    }

    fn peer(&self, like: &Flow) -> Option<u32> {
        self.by_peer.find(self.secret.hash(like.peer_key()), |number| {
            let flow = &self.slab[number];
            (flow.outside, flow.outside_port, flow.remote, flow.proto)
                == (like.outside, like.outside_port, like.remote, like.proto)
        })
    }

    /// Adds a flow, to be asked at `due` whether it still lives.
    pub(super) fn insert(&mut self, flow: Flow, due: u32) -> u32 {
        let number = self.slab.insert(flow);
        self.by_inside.insert(self.secret.hash(flow.inside_key()), number);
        self.by_outside.insert(self.secret.hash(flow.outside_key()), number);
        match self.peer(&flow) {
            // Behind the first one, which the index names.
            Some(first) => {
                let mut second = self.slab[first].peers.next;
                table::link(&mut self.slab, &mut second, number, |flow| &mut flow.peers);
                self.slab[number].peers.prev = first;
                self.slab[first].peers.next = number;
            }
            None => self.by_peer.insert(self.secret.hash(flow.peer_key()), number),
        }
        self.wheel.schedule(&mut self.slab, number, due);
        number
    }

    /// Changes when a flow is asked.
    pub(super) fn reschedule(&mut self, number: u32, due: u32) {
        self.wheel.cancel(&mut self.slab, number);
        self.wheel.schedule(&mut self.slab, number, due);
    }

    /// Makes a flow unfindable from inside; what comes from outside still meets it.
    pub(super) fn hide_from_inside(&mut self, number: u32) {
        self.by_inside.remove(self.secret.hash(self.slab[number].inside_key()), number);
    }

    /// Takes a flow out that is in the wheel. The caller takes it out of the list of its siblings.
    pub(super) fn remove(&mut self, number: u32) -> Flow {
        self.wheel.cancel(&mut self.slab, number);
        let flow = self.slab[number];
        self.by_inside.remove(self.secret.hash(flow.inside_key()), number);
        self.by_outside.remove(self.secret.hash(flow.outside_key()), number);
        if flow.peers.prev == NONE {
            let hash = self.secret.hash(flow.peer_key());
            match flow.peers.next {
                NONE => self.by_peer.remove(hash, number),
                next => self.by_peer.replace(hash, number, next),
            }
        }
        table::unlink(&mut self.slab, &mut NONE.clone(), number, |flow| &mut flow.peers);
        self.slab.remove(number)
    }

    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.slab.bytes() + [&self.by_inside, &self.by_outside, &self.by_peer].map(Index::bytes).iter().sum::<usize>()
    }
}
