//! The part of a hub that all workers share.
#![forbid(unsafe_code)]

use crate::ids::PortId;
use crate::tick::Tick;
use crate::wire::ethernet::Mac;

use super::fdb::{Claim, Fdb, Key, MacEntry};
use super::meta::{FrameMeta, Scope};
use super::policy::{Policy, compile};
use super::port::{MACS_UNLIMITED, PortBits, PortDirectory, PortKind, PortSettings, Tenant};
use super::profile::HubSettings;
use super::view::HubView;

/// See the module text. Every method takes `&self`; none waits for another worker.
#[derive(Debug)]
pub struct HubShared {
    pub(super) settings: HubSettings,
    pub(super) fdb: Fdb,
    pub(super) ports: PortDirectory,
}

/// Why a port could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// It does not belong to the worker whose view was given, or that worker is unknown to the hub.
    #[error("the port belongs to another worker")]
    NotOwn,
    /// Its slot has an open port.
    #[error("the slot has an open port")]
    SlotTaken,
}

impl HubShared {
    /// A hub without ports for workers 0 to `workers` - 1.
    pub fn new(settings: HubSettings, workers: usize) -> Self {
        Self {
            settings,
            fdb: Fdb::new(settings.fdb_entries, settings.ageing_secs, settings.hash_seed),
            ports: PortDirectory::new(workers),
        }
    }

    /// What the hub was made from.
    pub const fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// `policy`, as configured, for a port of `kind` on this hub.
    pub fn compile(&self, kind: PortKind, policy: &Policy) -> PortSettings {
        compile(kind, policy, &self.settings)
    }

    /// Opens `port` of the worker that `view` belongs to. May allocate.
    ///
    /// # Errors
    /// See [`PortError`]; nothing has changed then.
    pub fn open_port(&self, view: &mut HubView, port: PortId, settings: PortSettings) -> Result<(), PortError> {
        if port.worker() != view.worker() || view.worker() >= self.ports.workers() {
            return Err(PortError::NotOwn);
        }
        if !self.ports.open(port, settings) {
            return Err(PortError::SlotTaken);
        }
        view.add(port, settings.kind());
        Ok(())
    }

    /// Gives an open port other settings, which hold from the next frame on. False if it is not an open
    /// port of `view`'s worker.
    pub fn update_port(&self, view: &mut HubView, port: PortId, settings: PortSettings) -> bool {
        let done = port.worker() == view.worker() && self.ports.update(port, settings);
        if done {
            view.reclassify(port, settings.kind());
        }
        done
    }

    /// Closes `port`; its addresses are free at once. False if it is not an open port of `view`'s
    /// worker.
    pub fn close_port(&self, view: &mut HubView, port: PortId) -> bool {
        let done = port.worker() == view.worker() && self.ports.close(port);
        if done {
            view.remove(port);
        }
        done
    }

    /// Whether a flooded frame has to visit `worker`, because it has ports of the frame's scope.
    #[inline]
    pub fn floods_to(&self, worker: usize, meta: FrameMeta) -> bool {
        match meta.scope {
            Scope::Bridges => self.ports.open_bridges(worker) > 0,
            Scope::Hosts => self.ports.open_bridges(worker) + self.ports.open_hosts(worker) > 0,
            Scope::All | Scope::Unicast => self.ports.open_ports(worker) > 0,
        }
    }

    /// Frees old entries of the FDB in the next `buckets` buckets of those that `view`'s worker owns;
    /// returns how many. A few hundred per second keep a table of the default size clean.
    pub fn sweep(&self, view: &mut HubView, buckets: usize, now: Tick) -> usize {
        self.fdb.sweep(view.worker(), &mut view.sweep_cursor, buckets, now, &self.ports)
    }

    /// All addresses alive at `now`, in no order. For people: takes milliseconds, not for workers.
    pub fn mac_table(&self, now: Tick) -> Vec<MacEntry> {
        self.fdb.entries(now, &self.ports)
    }

    /// Entries in the FDB, those included that wait for the sweep.
    pub fn fdb_len(&self) -> usize {
        self.fdb.len()
    }

    /// Buckets of the FDB: a sweep of this many, divided by the workers, visits all.
    pub fn fdb_buckets(&self) -> usize {
        self.fdb.buckets()
    }

    /// Addresses of `port` in the FDB.
    pub fn macs(&self, port: PortId) -> u32 {
        self.ports.macs(port)
    }

    /// Ports that `worker` has open in this hub.
    pub fn open_ports(&self, worker: usize) -> u32 {
        self.ports.open_ports(worker)
    }

    /// Has the address of the hub's own host learned before it sends anything.
    pub fn learn_host(&self, port: PortId, mac: Mac, now: Tick) {
        let claim = Claim { port, macs_max: MACS_UNLIMITED, exclusive: false };
        self.fdb.learn(Key::new(mac, 0), &claim, now, &self.ports);
    }

    /// Says who `port` belongs to. To be called by its owner before a frame enters by it.
    pub fn set_tenant(&self, port: PortId, tenant: Tenant) {
        self.ports.set_tenant(port, tenant);
    }

    /// Who `port` belongs to; `None` if it is not open (any more).
    pub fn tenant(&self, port: PortId) -> Option<Tenant> {
        self.ports.tenant(port)
    }

    /// The rules of `port`; `None` if it is not open (any more).
    pub fn port_bits(&self, port: PortId) -> Option<PortBits> {
        self.ports.bits(port)
    }

    /// Whether the hub has a host of its own, its gateway.
    pub(super) fn has_host(&self) -> bool {
        (0..self.ports.workers()).any(|worker| self.ports.open_hosts(worker) > 0)
    }

    /// Whether a bridge port other than `port`, whose rules are `bits`, is open.
    pub(super) fn has_other_bridge(&self, bits: PortBits) -> bool {
        let bridges: u32 = (0..self.ports.workers()).map(|worker| self.ports.open_bridges(worker)).sum();
        bridges > u32::from(bits.has(PortBits::BRIDGE))
    }
}
