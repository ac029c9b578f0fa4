//! Who is who: identities shared by every part.
//!
//! Worker, slot and generation name a port; members, sessions and connections have numbers that are
//! never used twice, so that a log line can be traced after a restart.
#![forbid(unsafe_code)]

use std::fmt;

/// A user of the system, as numbered by the account store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u32);

/// A member's login to a hub. Unique over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// One TCP connection of a session. Unique over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Index of a connection in its worker's table. After its back end has said `Closed` the key may be used
/// again; until then no other socket may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnKey(pub u32);

/// A hub, as numbered by the configuration; an index into the hub table of every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubId(pub u16);

/// Place on a hub where frames enter and leave: `worker` owns it, `slot` is its place in that
/// worker's table, `generation` tells it from the ports that had the slot before.
///
/// Packs into 40 bits, so that an FDB value (port, last seen, flags) fits one atomic word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(u64);

impl PortId {
    /// Bits of the packed form.
    pub const BITS: u32 = Self::WORKER_BITS + Self::SLOT_BITS + Self::GENERATION_BITS;
    /// Workers of one process: 63, and one number kept for ports that no worker owns.
    pub const WORKERS_MAX: usize = (1 << Self::WORKER_BITS) - 1;
    /// Ports of one worker.
    pub const SLOTS_MAX: usize = 1 << Self::SLOT_BITS;

    const WORKER_BITS: u32 = 6;
    const SLOT_BITS: u32 = 18;
    const GENERATION_BITS: u32 = 16;

    /// `worker` below 64, `slot` below 2^18; higher bits are cut.
    pub const fn new(worker: u8, slot: u32, generation: u16) -> Self {
        let worker = (worker as u64) & ((1 << Self::WORKER_BITS) - 1);
        let slot = (slot as u64) & ((1 << Self::SLOT_BITS) - 1);
        Self(worker << (Self::SLOT_BITS + Self::GENERATION_BITS) | slot << Self::GENERATION_BITS | generation as u64)
    }

    /// From [`Self::bits`]; bits above [`Self::BITS`] are cut.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << Self::BITS) - 1))
    }

    /// The packed form, below 2^[`Self::BITS`].
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The worker that owns the port.
    pub const fn worker(self) -> usize {
        (self.0 >> (Self::SLOT_BITS + Self::GENERATION_BITS)) as usize
    }

    /// Index into that worker's port table.
    pub const fn slot(self) -> usize {
        ((self.0 >> Self::GENERATION_BITS) & ((1 << Self::SLOT_BITS) - 1)) as usize
    }

    /// Which tenant of the slot.
    pub const fn generation(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl fmt::Debug for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}.{}", self.worker(), self.slot(), self.generation())
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_id_keeps_its_parts() {
        let port = PortId::new(62, (1 << 18) - 1, 0xfffe);
        assert_eq!((port.worker(), port.slot(), port.generation()), (62, (1 << 18) - 1, 0xfffe));
        assert_eq!(PortId::from_bits(port.bits()), port);
        assert!(port.bits() < 1 << PortId::BITS);
    }
}
