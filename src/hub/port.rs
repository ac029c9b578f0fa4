//! The ports of a hub as every worker sees them.
//!
//! Each place (worker, slot) has a few atomic words: which generation lives there, whether it is open,
//! its compiled policy and how many addresses it has in the FDB. Opening and closing is one store by
//! the worker that owns the place, so an FDB entry of a closed port counts as absent at once, without
//! a search for it.
//!
//! A hub has few of a worker's ports, and a process may have many hubs: places come into being in
//! chunks of [`CHUNK_SLOTS`], when the first port of a chunk opens.
//!
//! Contract: `open`, `update` and `close` of a port are called only by the worker it belongs to.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crossbeam::utils::CachePadded;

use crate::ids::{MemberId, PortId, SessionId};
use crate::wire::kinds::Kinds;

use super::atomic::{AtomicU32, AtomicU64};

/// What stands behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// A member with one computer.
    Member,
    /// A member in bridge mode, another hub or a network card: many stations, and unknown ones.
    Bridge,
    /// The hub's own host (gateway). Its addresses can be neither taken over nor forgotten.
    Host,
}

/// Yes-or-no rules of a port; they travel with every frame it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortBits(u16);

impl PortBits {
    /// No rule.
    pub const NONE: PortBits = PortBits(0);
    /// The port is a [`PortKind::Bridge`].
    pub const BRIDGE: PortBits = PortBits(1);
    /// The port is a [`PortKind::Host`].
    pub const HOST: PortBits = PortBits(1 << 1);
    /// May not take over an address seen moments ago behind another port.
    pub const EXCLUSIVE: PortBits = PortBits(1 << 2);
    /// Exchanges no frames with other ports that have this bit.
    pub const PRIVATE: PortBits = PortBits(1 << 3);
    /// Chatter it sends is not flooded.
    pub const QUIET: PortBits = PortBits(1 << 4);

    /// As a number below 2^16.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// From [`Self::bits`].
    #[inline]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Whether all of `other` are set.
    #[inline]
    pub const fn has(self, other: PortBits) -> bool {
        self.0 & other.0 == other.0
    }

    /// Bits of either.
    pub const fn or(self, other: PortBits) -> PortBits {
        PortBits(self.0 | other.0)
    }

    /// `other` as well if `condition`.
    pub const fn or_if(self, condition: bool, other: PortBits) -> PortBits {
        if condition { self.or(other) } else { self }
    }
}

/// A port's policy, ready to use. Made by [`super::policy::compile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSettings {
    /// Yes-or-no rules.
    pub bits: PortBits,
    /// Frames the port may not send.
    pub refuse_ingress: Kinds,
    /// Frames the port does not receive.
    pub refuse_egress: Kinds,
    /// Most addresses it may have in the FDB; cut at 2^20 - 1, which is above any FDB.
    pub macs_max: u32,
    /// VLAN of its untagged frames, 1..=4094; 0: tags pass as they are.
    pub pvid: u16,
    /// Flooded frames per second it may send, below 2^20; 0: any number.
    pub floods_per_sec: u32,
}

impl PortSettings {
    /// No rule and no limit.
    pub const OPEN: PortSettings = PortSettings {
        bits: PortBits::NONE,
        refuse_ingress: Kinds::NONE,
        refuse_egress: Kinds::NONE,
        macs_max: MACS_UNLIMITED,
        pvid: 0,
        floods_per_sec: 0,
    };

    /// What stands behind the port.
    pub const fn kind(&self) -> PortKind {
        if self.bits.has(PortBits::HOST) {
            PortKind::Host
        } else if self.bits.has(PortBits::BRIDGE) {
            PortKind::Bridge
        } else {
            PortKind::Member
        }
    }
}

/// Value of [`PortSettings::macs_max`] for no limit.
pub const MACS_UNLIMITED: u32 = (1 << 20) - 1;

/// Places that come into being together.
pub const CHUNK_SLOTS: usize = 256;

/// Who a port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The session.
    pub session: SessionId,
    /// The member logged in.
    pub member: MemberId,
}

/// See the module text.
#[derive(Debug)]
pub struct PortDirectory {
    workers: Box<[CachePadded<WorkerPorts>]>,
}

#[derive(Debug, Default)]
struct WorkerPorts {
    /// Ports open now.
    ports: AtomicU32,
    /// Those of them that are bridges.
    bridges: AtomicU32,
    /// Those of them that are the hub's own host.
    hosts: AtomicU32,
    chunks: OnceLock<Box<[Chunk]>>,
}

/// [`CHUNK_SLOTS`] places, once one of them is used.
type Chunk = OnceLock<Box<[Place]>>;

/// One slot of one worker.
#[derive(Debug, Default)]
struct Place {
    /// Generation (16 bits), [`PortBits`] (16), [`STATE_OPEN`].
    state: AtomicU64,
    /// Generation and number of FDB entries. The generation keeps the late removal of a predecessor's
    /// entry from being taken off the successor's count.
    macs: AtomicU64,
    // Read and written by the owner only; atomic because they lie beside what all read.
    /// `refuse_ingress` and `refuse_egress`, 32 bits each.
    refuse: AtomicU64,
    /// `macs_max` (20 bits), `pvid` (12), `floods_per_sec` (20).
    limits: AtomicU64,
    /// [`Tenant`], in two words.
    session: AtomicU64,
    member: AtomicU32,
}

impl PortDirectory {
    /// A directory without ports for workers 0 to `workers` - 1.
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| CachePadded::default()).collect() }
    }

    /// How many workers may own ports.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Opens `port`. False if its worker does not exist or the place is taken.
    #[must_use]
    pub fn open(&self, port: PortId, settings: PortSettings) -> bool {
        let Some(worker) = self.workers.get(port.worker()) else { return false };
        let chunks = worker.chunks.get_or_init(|| (0..CHUNKS).map(|_| OnceLock::new()).collect());
        let chunk =
            chunks[port.slot() / CHUNK_SLOTS].get_or_init(|| (0..CHUNK_SLOTS).map(|_| Place::default()).collect());
        let place = &chunk[port.slot() % CHUNK_SLOTS];
        if place.state.load(Relaxed) & STATE_OPEN != 0 {
            return false;
        }
        place.store_settings(&settings);
        place.macs.store(tagged(port, 0), Relaxed);
        place.state.store(state_word(port, settings.bits), Release);
        count(&worker.ports, 1);
        count(&worker.bridges, i32::from(settings.bits.has(PortBits::BRIDGE)));
        count(&worker.hosts, i32::from(settings.bits.has(PortBits::HOST)));
        true
    }

    /// Gives an open port other settings. False if it is not open.
    pub fn update(&self, port: PortId, settings: PortSettings) -> bool {
        let Some((worker, place, old)) = self.open_place(port) else { return false };
        place.store_settings(&settings);
        place.state.store(state_word(port, settings.bits), Release);
        let (now, before) = (settings.bits.has(PortBits::BRIDGE), old.has(PortBits::BRIDGE));
        count(&worker.bridges, i32::from(now) - i32::from(before));
        true
    }

    /// Closes `port`: its FDB entries count as absent from now on. False if it is not open.
    pub fn close(&self, port: PortId) -> bool {
        let Some((worker, place, old)) = self.open_place(port) else { return false };
        place.state.store(0, Release);
        count(&worker.ports, -1);
        count(&worker.bridges, -i32::from(old.has(PortBits::BRIDGE)));
        count(&worker.hosts, -i32::from(old.has(PortBits::HOST)));
        true
    }

    /// Says who an open port belongs to, before a frame enters by it.
    pub fn set_tenant(&self, port: PortId, tenant: Tenant) {
        if let Some((_, place, _)) = self.open_place(port) {
            place.session.store(tenant.session.0, Relaxed);
            place.member.store(tenant.member.0, Relaxed);
        }
    }

    /// Who `port` belongs to; `None` if it is not open (any more).
    pub fn tenant(&self, port: PortId) -> Option<Tenant> {
        let place = self.place(port)?;
        place.bits_if_open(port)?;
        let session = SessionId(place.session.load(Acquire));
        let member = MemberId(place.member.load(Acquire));
        // Still the same: the words above were not those of a successor.
        place.bits_if_open(port).map(|_| Tenant { session, member })
    }

    /// The rules of `port`; `None` if it is not open (any more).
    #[inline]
    pub fn bits(&self, port: PortId) -> Option<PortBits> {
        self.place(port)?.bits_if_open(port)
    }

    /// The settings of `port`; `None` if it is not open. For its owner: another worker could see two
    /// halves of a change.
    #[inline]
    pub fn settings(&self, port: PortId) -> Option<PortSettings> {
        let place = self.place(port)?;
        let bits = place.bits_if_open(port)?;
        let refuse = place.refuse.load(Relaxed);
        let limits = place.limits.load(Relaxed);
        Some(PortSettings {
            bits,
            refuse_ingress: Kinds::from_bits((refuse & 0xffff_ffff) as u32),
            refuse_egress: Kinds::from_bits((refuse >> 32) as u32),
            macs_max: (limits & LIMIT_MASK) as u32,
            pvid: ((limits >> PVID_SHIFT) & 0xfff) as u16,
            floods_per_sec: ((limits >> FLOODS_SHIFT) & LIMIT_MASK) as u32,
        })
    }

    /// Ports that `worker` has open in this hub.
    #[inline]
    pub fn open_ports(&self, worker: usize) -> u32 {
        self.workers.get(worker).map_or(0, |ports| ports.ports.load(Relaxed))
    }

    /// Bridge ports that `worker` has open in this hub.
    #[inline]
    pub fn open_bridges(&self, worker: usize) -> u32 {
        self.workers.get(worker).map_or(0, |ports| ports.bridges.load(Relaxed))
    }

    /// Ports of the hub's own host that `worker` has open.
    #[inline]
    pub fn open_hosts(&self, worker: usize) -> u32 {
        self.workers.get(worker).map_or(0, |ports| ports.hosts.load(Relaxed))
    }

    /// How many addresses `port` has in the FDB; 0 if it is not open.
    pub fn macs(&self, port: PortId) -> u32 {
        self.place(port)
            .map(|place| place.macs.load(Relaxed))
            .filter(|&word| word & !MACS_MASK == tagged(port, 0))
            .map_or(0, |word| (word & MACS_MASK) as u32)
    }

    /// Counts one more address of `port`, unless it has `macs_max` already.
    pub(super) fn reserve_mac(&self, port: PortId, macs_max: u32) -> bool {
        self.place(port).is_some_and(|place| {
            place.change_macs(port, |macs| if macs < u64::from(macs_max) { Some(macs + 1) } else { None })
        })
    }

    /// Counts one address of `port` less, if the place is still its own.
    pub(super) fn release_mac(&self, port: PortId) {
        if let Some(place) = self.place(port) {
            place.change_macs(port, |macs| macs.checked_sub(1));
        }
    }

    #[inline]
    fn place(&self, port: PortId) -> Option<&Place> {
        let chunks = self.workers.get(port.worker())?.chunks.get()?;
        chunks[port.slot() / CHUNK_SLOTS].get()?.get(port.slot() % CHUNK_SLOTS)
    }

    fn open_place(&self, port: PortId) -> Option<(&WorkerPorts, &Place, PortBits)> {
        let place = self.place(port)?;
        Some((self.workers.get(port.worker())?, place, place.bits_if_open(port)?))
    }
}

impl Place {
    #[inline]
    fn bits_if_open(&self, port: PortId) -> Option<PortBits> {
        let state = self.state.load(Acquire);
        let bits = PortBits(((state >> BITS_SHIFT) & 0xffff) as u16);
        if state == state_word(port, bits) { Some(bits) } else { None }
    }

    fn store_settings(&self, settings: &PortSettings) {
        let refuse = u64::from(settings.refuse_ingress.bits()) | u64::from(settings.refuse_egress.bits()) << 32;
        let limits = u64::from(settings.macs_max).min(LIMIT_MASK)
            | u64::from(settings.pvid & 0xfff) << PVID_SHIFT
            | u64::from(settings.floods_per_sec).min(LIMIT_MASK) << FLOODS_SHIFT;
        self.refuse.store(refuse, Relaxed);
        self.limits.store(limits, Relaxed);
    }

    /// Applies `change` to the count while the place belongs to `port`; false if it does not or if
    /// `change` refuses.
    fn change_macs(&self, port: PortId, change: impl Fn(u64) -> Option<u64>) -> bool {
        let mut word = self.macs.load(Relaxed);
        loop {
            if word & !MACS_MASK != tagged(port, 0) {
                return false;
            }
            let Some(macs) = change(word & MACS_MASK) else { return false };
            match self.macs.compare_exchange(word, tagged(port, macs), AcqRel, Relaxed) {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
    }
}

#[inline]
fn state_word(port: PortId, bits: PortBits) -> u64 {
    STATE_OPEN | u64::from(port.generation()) | u64::from(bits.0) << BITS_SHIFT
}

fn tagged(port: PortId, macs: u64) -> u64 {
    u64::from(port.generation()) << 32 | macs
}

/// One writer, the owner: a plain load and store.
fn count(counter: &AtomicU32, change: i32) {
    counter.store(counter.load(Relaxed).wrapping_add_signed(change), Relaxed);
}

const CHUNKS: usize = PortId::SLOTS_MAX / CHUNK_SLOTS;
const BITS_SHIFT: u32 = 16;
/// Present in the state word of an open port.
const STATE_OPEN: u64 = 1 << 32;
const MACS_MASK: u64 = 0xffff_ffff;
const LIMIT_MASK: u64 = (1 << 20) - 1;
const PVID_SHIFT: u32 = 20;
const FLOODS_SHIFT: u32 = 32;
