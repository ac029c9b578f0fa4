//! The hub by its requirements: ids E (switching) and H (hostile members) of the conformance list.
#![forbid(unsafe_code)]

mod fdb;
mod hostile;
mod switching;
mod vlans;

use super::policy::{Item, Policy};
use super::*;

/// A hub with one worker's or several workers' ports.
struct Bench {
    shared: HubShared,
    views: Vec<HubView>,
    now: Tick,
}

impl Bench {
    fn new(profile: Profile) -> Self {
        Self::with(HubSettings { profile, ..HubSettings::default() })
    }

    fn with(settings: HubSettings) -> Self {
        let workers = 2;
        let views = (0..workers).map(HubView::new).collect();
        Self { shared: HubShared::new(settings, workers), views, now: Tick::from_ms(1_000_000) }
    }

    /// Opens a port of worker `worker` at `slot`.
    fn open(&mut self, worker: u8, slot: u32, kind: PortKind, items: &[(Item, u32)]) -> PortId {
        let mut policy = Policy::default();
        for &(item, value) in items {
            policy.set(item, value).unwrap();
        }
        let port = PortId::new(worker, slot, 1);
        let settings = self.shared.compile(kind, &policy);
        self.shared.open_port(&mut self.views[port.worker()], port, settings).unwrap();
        port
    }

    /// A member on worker 0 or 1, by the parity of `slot`.
    fn member(&mut self, slot: u32) -> PortId {
        self.open((slot % 2) as u8, slot, PortKind::Member, &[])
    }

    fn close(&mut self, port: PortId) {
        assert!(self.shared.close_port(&mut self.views[port.worker()], port));
    }

    fn ingress(&mut self, port: PortId, bytes: &[u8]) -> Verdict {
        let frame = Frame::new_checked(bytes).unwrap();
        ingress(&self.shared, &mut self.views[port.worker()], port, frame, self.now)
    }

    fn dropped(&mut self, port: PortId, bytes: &[u8]) -> DropReason {
        match self.ingress(port, bytes) {
            Verdict::Drop(reason) => reason,
            verdict => panic!("not dropped: {verdict:?}"),
        }
    }

    /// All copies that leave, in the order of ports, as (port, bytes).
    fn deliver(&mut self, port: PortId, bytes: &[u8]) -> Vec<(PortId, Vec<u8>)> {
        let frame = Frame::new_checked(bytes).unwrap();
        let (ports, meta) = match self.ingress(port, bytes) {
            Verdict::Unicast(to, meta) => (vec![to], meta),
            Verdict::Flood(meta) => {
                let reached = self.views.iter().filter(|view| self.shared.floods_to(view.worker(), meta));
                (reached.flat_map(|view| view.flood_ports(meta)).collect(), meta)
            }
            Verdict::Drop(_) => return Vec::new(),
        };
        let mut copies = Vec::new();
        for to in ports {
            match egress(&self.shared, &mut self.views[to.worker()], to, meta, frame) {
                Egress::Pass => copies.push((to, bytes.to_vec())),
                Egress::Rewrite(edit) => {
                    let mut out = [0; meta::EDITED_BYTES_MAX];
                    let end = edit.apply(frame, &mut out);
                    copies.push((to, out[..end].to_vec()));
                }
                Egress::Drop(_) => {}
            }
        }
        copies.sort();
        copies
    }

    fn reached(&mut self, port: PortId, bytes: &[u8]) -> Vec<PortId> {
        self.deliver(port, bytes).into_iter().map(|(port, _)| port).collect()
    }

    fn wait_secs(&mut self, secs: u64) {
        self.now = Tick(self.now.0 + secs * 1_000_000_000);
    }
}

fn mac(n: u64) -> Mac {
    Mac::from_bits(0x0200_0000_0000 | n)
}

/// A frame with `rest` behind the addresses.
fn raw(dst: Mac, src: Mac, rest: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, rest].concat()
}

/// An ARP-like frame, which no profile refuses.
fn arp(dst: Mac, src: Mac) -> Vec<u8> {
    raw(dst, src, &[0x08, 0x06, 0, 1, 8, 0, 6, 4])
}

/// A UDP datagram over IPv4.
fn udp(dst: Mac, src: Mac, src_port: u16, dst_port: u16) -> Vec<u8> {
    let mut rest = vec![0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    rest.extend(src_port.to_be_bytes());
    rest.extend(dst_port.to_be_bytes());
    rest.extend([0, 8, 0, 0]);
    raw(dst, src, &rest)
}

/// An ICMPv6 message behind a destination options header.
fn icmpv6(dst: Mac, src: Mac, kind: u8) -> Vec<u8> {
    let mut rest = vec![0u8; 42];
    (rest[0], rest[1], rest[2], rest[8]) = (0x86, 0xdd, 0x60, 60);
    rest.extend([58, 0, 1, 4, 0, 0, 0, 0, kind, 0, 0, 0]);
    raw(dst, src, &rest)
}
