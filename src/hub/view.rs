//! A worker's own part of a hub: its ports, to fan out floods, and what it alone writes.
#![forbid(unsafe_code)]

use crate::ids::PortId;

use super::limiter::StormLimiter;
use super::meta::{FrameMeta, Scope};
use super::port::{CHUNK_SLOTS, PortKind};

/// See the module text. One per worker and hub, never shared.
#[derive(Debug)]
pub struct HubView {
    worker: usize,
    bridges: Vec<PortId>,
    hosts: Vec<PortId>,
    members: Vec<PortId>,
    /// By slot, in chunks that come into being when needed: a worker's slots serve many hubs.
    own: Vec<Option<Box<[Option<OwnPort>]>>>,
    /// Where [`super::HubShared::sweep`] goes on.
    pub(super) sweep_cursor: usize,
    /// Frames whose source could not be learned since the worker last took the number.
    pub(super) not_learned: u64,
}

/// One port of this worker.
#[derive(Debug)]
pub(super) struct OwnPort {
    port: PortId,
    kind: PortKind,
    /// Place in the list of its kind.
    index: usize,
    pub(super) storm: StormLimiter,
    /// For probes that [`Self::storm`] does not let through.
    pub(super) probes: StormLimiter,
}

impl HubView {
    /// The view of `worker`, without ports.
    pub const fn new(worker: usize) -> Self {
        Self {
            worker,
            bridges: Vec::new(),
            hosts: Vec::new(),
            members: Vec::new(),
            own: Vec::new(),
            sweep_cursor: 0,
            not_learned: 0,
        }
    }

    /// Whose view this is.
    pub const fn worker(&self) -> usize {
        self.worker
    }

    /// The worker's open ports in this hub.
    pub fn own_ports(&self) -> impl Iterator<Item = PortId> {
        self.bridges.iter().chain(&self.hosts).chain(&self.members).copied()
    }

    /// The worker's ports to which a flooded frame goes; never the one it came from.
    #[inline]
    pub fn flood_ports(&self, meta: FrameMeta) -> impl Iterator<Item = PortId> {
        let (hosts, members) = match meta.scope {
            Scope::Bridges => (&[][..], &[][..]),
            Scope::Hosts => (&self.hosts[..], &[][..]),
            Scope::All | Scope::Unicast => (&self.hosts[..], &self.members[..]),
        };
        self.bridges.iter().chain(hosts).chain(members).copied().filter(move |&port| port != meta.ingress)
    }

    /// Frames whose source found no place in the FDB since this was last asked; for the counter
    /// `fdb_full`.
    pub fn take_not_learned(&mut self) -> u64 {
        std::mem::take(&mut self.not_learned)
    }

    pub(super) fn add(&mut self, port: PortId, kind: PortKind) {
        let chunk = port.slot() / CHUNK_SLOTS;
        if chunk >= self.own.len() {
            self.own.resize_with(chunk + 1, || None);
        }
        let list = self.list(kind);
        let own =
            OwnPort { port, kind, index: list.len(), storm: StormLimiter::default(), probes: StormLimiter::default() };
        list.push(port);
        let places = self.own[chunk].get_or_insert_with(|| (0..CHUNK_SLOTS).map(|_| None).collect());
        places[port.slot() % CHUNK_SLOTS] = Some(own);
    }

    pub(super) fn remove(&mut self, port: PortId) {
        let Some(place) = self.place(port) else { return };
        let Some(own) = place.take_if(|own| own.port == port) else { return };
        let list = self.list(own.kind);
        list.swap_remove(own.index);
        let moved = list.get(own.index).copied();
        if let Some(moved) = moved.and_then(|moved| self.own(moved)) {
            moved.index = own.index;
        }
    }

    fn list(&mut self, kind: PortKind) -> &mut Vec<PortId> {
        match kind {
            PortKind::Bridge => &mut self.bridges,
            PortKind::Host => &mut self.hosts,
            PortKind::Member => &mut self.members,
        }
    }

    /// Puts `port` among those of `kind`, if it is not there.
    pub(super) fn reclassify(&mut self, port: PortId, kind: PortKind) {
        if let Some(own) = self.own(port).filter(|own| own.kind != kind) {
            let storm = own.storm;
            self.remove(port);
            self.add(port, kind);
            if let Some(own) = self.own(port) {
                own.storm = storm;
            }
        }
    }

    #[inline]
    pub(super) fn own(&mut self, port: PortId) -> Option<&mut OwnPort> {
        self.place(port)?.as_mut().filter(|own| own.port == port)
    }

    #[inline]
    fn place(&mut self, port: PortId) -> Option<&mut Option<OwnPort>> {
        self.own.get_mut(port.slot() / CHUNK_SLOTS)?.as_mut()?.get_mut(port.slot() % CHUNK_SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_and_go() {
        let mut view = HubView::new(0);
        let ports: Vec<PortId> = (0..600).map(|slot| PortId::new(0, slot, 1)).collect();
        for &port in &ports {
            view.add(port, if port.slot().is_multiple_of(3) { PortKind::Bridge } else { PortKind::Member });
        }
        for &port in ports.iter().filter(|port| port.slot().is_multiple_of(2)) {
            view.remove(port);
            view.remove(PortId::new(0, 1, 9));
        }
        view.reclassify(ports[1], PortKind::Bridge);
        view.reclassify(ports[3], PortKind::Member);
        let mut left: Vec<usize> = view.own_ports().map(PortId::slot).collect();
        left.sort_unstable();
        assert_eq!(left, (0..600).filter(|slot| slot % 2 == 1).collect::<Vec<_>>());
        let bridges: Vec<usize> = view.bridges.iter().map(|port| port.slot()).collect();
        assert!(bridges.contains(&1) && !bridges.contains(&3));
        assert!(view.bridges.iter().enumerate().all(|(i, &port)| {
            view.own[port.slot() / CHUNK_SLOTS].as_ref().unwrap()[port.slot() % CHUNK_SLOTS].as_ref().unwrap().index
                == i
        }));
    }
}
