//! The hub against a reference switch of a hundred lines: any schedule of frames, ports and time gives
//! the same outputs (E1 to E5). Ports are spread over two workers, frames between them pass through
//! a mailbox message. `PROPTEST_CASES=10000` makes it as thorough as a release asks for.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, HashMap};

use hublane::hub::meta::EDITED_BYTES_MAX;
use hublane::hub::policy::{Item, Policy};
use hublane::hub::{self, Egress, FrameMeta, HubSettings, HubShared, HubView, PortKind, Profile, Verdict};
use hublane::ids::PortId;
use hublane::metrics::drops::DropReason;
use hublane::tick::Tick;
use hublane::wire::ethernet::Frame;
use proptest::prelude::*;

/// What leaves: copies in the order of ports, or the reason why nothing does.
type Output = Result<Vec<(PortId, Vec<u8>)>, DropReason>;

#[derive(Clone, Copy, Debug)]
struct ModelPort {
    kind: PortKind,
    pvid: u16,
    check_mac: bool,
    private: bool,
}

impl ModelPort {
    fn is_bridge(self) -> bool {
        self.kind == PortKind::Bridge
    }
}

/// The reference: maps, no sharing, no cleverness.
struct Model {
    profile: Profile,
    ports: BTreeMap<PortId, ModelPort>,
    table: HashMap<(u16, [u8; 6]), (PortId, u64)>,
}

impl Model {
    const AGEING_SECS: u64 = 300;
    const HOLD_SECS: u64 = 13;

    fn alive(&self, (port, seen): (PortId, u64), now: u64) -> bool {
        self.ports.get(&port).is_some_and(|p| p.kind == PortKind::Host || now - seen <= Self::AGEING_SECS)
    }

    fn macs_max(&self, port: ModelPort) -> usize {
        match (port.kind, self.profile) {
            (PortKind::Member, Profile::Public) => 4,
            (PortKind::Member, Profile::Lan) => 64,
            _ => usize::MAX,
        }
    }

    fn frame(&mut self, from: PortId, bytes: &[u8], now: u64) -> Output {
        let sender = *self.ports.get(&from).ok_or(DropReason::HubPortClosed)?;
        let (dst, src): ([u8; 6], [u8; 6]) = (bytes[..6].try_into().unwrap(), bytes[6..12].try_into().unwrap());
        if src[0] & 1 == 1 || src == [0; 6] {
            return Err(DropReason::HubGroupSource);
        }
        // The frame as a trunk would carry it, and its VLAN.
        let tagged = bytes[12..14] == [0x81, 0];
        let control = if tagged { u16::from_be_bytes([bytes[14], bytes[15]]) } else { 0 };
        let (priority, vid) = (control & 0xf000, control & 0xfff);
        let untagged = if tagged { [&bytes[..12], &bytes[16..]].concat() } else { bytes.to_vec() };
        if vid == 4095 || (sender.pvid != 0 && vid != 0) {
            return Err(DropReason::HubVlan);
        }
        let vlan = if sender.pvid != 0 { sender.pvid } else { vid };
        let on_trunk = if sender.pvid == 0 {
            bytes.to_vec()
        } else {
            [&bytes[..12], &[0x81, 0], &(priority | vlan).to_be_bytes(), &untagged[12..]].concat()
        };
        let on_access = if sender.pvid == 0 { untagged.clone() } else { bytes.to_vec() };

        self.learn(from, sender, (vlan, src), now)?;
        let known = self.table.get(&(vlan, dst)).copied().filter(|&entry| self.alive(entry, now));
        let other_bridge = self.ports.iter().any(|(&port, p)| port != from && p.is_bridge());
        let reserved = dst[..5] == [1, 0x80, 0xc2, 0, 0] && dst[5] < 16;
        let is_stranger = self.profile == Profile::Public && sender.kind == PortKind::Member;
        let has_host = self.ports.values().any(|p| p.kind == PortKind::Host);
        let asks_host = is_stranger && has_host && untagged[12..14] == [8, 6];
        let to = |wanted: &dyn Fn(&ModelPort) -> bool| -> Vec<PortId> {
            self.ports.iter().filter(|(port, p)| **port != from && wanted(p)).map(|(port, _)| *port).collect()
        };
        let targets = match known {
            _ if reserved && !(sender.is_bridge() && other_bridge && dst[5] != 1) => {
                return Err(DropReason::HubReservedGroup);
            }
            _ if reserved => to(&|p| p.is_bridge()),
            _ if dst[0] & 1 == 1 && asks_host => to(&|p| p.is_bridge() || p.kind == PortKind::Host),
            _ if dst[0] & 1 == 1 => to(&|_| true),
            Some((port, _)) if port == from => return Err(DropReason::HubSamePort),
            Some((port, _)) => vec![port],
            None if self.profile == Profile::Lan => to(&|_| true),
            None if other_bridge => to(&|p| p.is_bridge()),
            None => return Err(DropReason::HubUnknownUnicast),
        };
        let copy = |port: PortId| match self.ports[&port] {
            p if p.private && sender.private => None,
            p if p.pvid == 0 => Some((port, on_trunk.clone())),
            p if p.pvid == vlan => Some((port, on_access.clone())),
            _ => None,
        };
        Ok(targets.into_iter().filter_map(copy).collect())
    }

    fn learn(&mut self, from: PortId, sender: ModelPort, key: (u16, [u8; 6]), now: u64) -> Result<(), DropReason> {
        let entry = self.table.get(&key).copied();
        if let Some((owner, seen)) = entry.filter(|&entry| entry.0 != from && self.alive(entry, now)) {
            let exclusive = sender.check_mac || (self.profile == Profile::Public && sender.kind != PortKind::Host);
            if self.ports[&owner].kind == PortKind::Host || (exclusive && now - seen <= Self::HOLD_SECS) {
                return Err(DropReason::HubMacHeld);
            }
        }
        let mine = self.table.values().filter(|entry| entry.0 == from).count();
        if entry.is_none_or(|entry| entry.0 != from) && mine >= self.macs_max(sender) {
            return Err(DropReason::HubMacLimit);
        }
        self.table.insert(key, (from, now));
        Ok(())
    }
}

/// The hub under test, with its workers' views and the mailbox between them.
struct Hub {
    shared: HubShared,
    views: [HubView; 2],
}

impl Hub {
    fn open(&mut self, port: PortId, p: ModelPort) {
        let mut policy = Policy::default();
        for (item, value) in [
            (Item::VLanId, u32::from(p.pvid)),
            (Item::CheckMac, u32::from(p.check_mac)),
            (Item::PrivacyFilter, u32::from(p.private)),
            (Item::NoBroadcastLimiter, 1),
        ] {
            policy.set(item, value).unwrap();
        }
        let settings = self.shared.compile(p.kind, &policy);
        self.shared.open_port(&mut self.views[port.worker()], port, settings).unwrap();
    }

    fn frame(&mut self, from: PortId, bytes: &[u8], now: Tick) -> Output {
        let frame = Frame::new_checked(bytes).unwrap();
        let (targets, meta) = match hub::ingress(&self.shared, &mut self.views[from.worker()], from, frame, now) {
            Verdict::Drop(reason) => return Err(reason),
            Verdict::Unicast(to, meta) => (vec![to], meta),
            Verdict::Flood(meta) => {
                let mut targets = Vec::new();
                for view in &self.views {
                    let ports: Vec<PortId> = view.flood_ports(meta).collect();
                    assert!(ports.is_empty() || self.shared.floods_to(view.worker(), meta));
                    targets.extend(ports);
                }
                (targets, meta)
            }
        };
        let meta = FrameMeta::from_words(meta.to_words());
        let mut copies = Vec::new();
        for to in targets {
            match hub::egress(&self.shared, &mut self.views[to.worker()], to, meta, frame) {
                Egress::Pass => copies.push((to, bytes.to_vec())),
                Egress::Rewrite(edit) => {
                    let mut out = [0; EDITED_BYTES_MAX];
                    let end = edit.apply(frame, &mut out);
                    copies.push((to, out[..end].to_vec()));
                }
                Egress::Drop(_) => {}
            }
        }
        copies.sort();
        Ok(copies)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Frame { from: u8, dst: u8, src: u8, head: usize },
    Open(u8, ModelPort),
    Close(u8),
    WaitMs(u64),
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![4 => Just(PortKind::Member), 2 => Just(PortKind::Bridge), 1 => Just(PortKind::Host)];
    let port = (kind, prop_oneof![3 => Just(0u16), 1 => Just(5), 1 => Just(6)], any::<bool>(), any::<bool>()).prop_map(
        |(kind, pvid, check_mac, private)| match kind {
            // The hub's own host has no policy.
            PortKind::Host => ModelPort { kind, pvid: 0, check_mac: false, private: false },
            _ => ModelPort { kind, pvid, check_mac, private },
        },
    );
    let step = prop_oneof![
        20 => (0..SLOTS, 0..24u8, 0..24u8, 0..HEADS.len())
            .prop_map(|(from, dst, src, head)| Step::Frame { from, dst, src, head }),
        3 => (0..SLOTS, port).prop_map(|(slot, port)| Step::Open(slot, port)),
        1 => (0..SLOTS).prop_map(Step::Close),
        2 => prop_oneof![0..3_000u64, 10_000..16_000u64, 100_000..400_000u64].prop_map(Step::WaitMs),
        1 => Just(Step::Sweep),
    ];
    proptest::collection::vec(step, 1..250)
}

const SLOTS: u8 = 8;

/// What follows the addresses.
const HEADS: [&[u8]; 7] = [
    &[0x88, 0xb5, 9],
    &[8, 6, 1, 2],
    &[8, 6, 3],
    &[0x81, 0, 0, 5, 8, 6, 4],
    &[0x81, 0, 0x60, 6, 8, 6],
    &[0x81, 0, 0xe0, 0, 8, 6],
    &[0x81, 0, 0x0f, 0xff, 8, 6],
];

/// Addresses 0 to 15 are stations, the rest have a meaning of their own.
fn mac(n: u8) -> [u8; 6] {
    match n {
        16 => [0xff; 6],
        17 => [0x33, 0x33, 0, 0, 0, 1],
        18..=20 => [1, 0x80, 0xc2, 0, 0, n - 18],
        21 => [0; 6],
        n => [2, 0, 0, 0, 0, n],
    }
}

fn run(profile: Profile, steps: Vec<Step>) {
    // A small table: room for all addresses in all VLANs, and quick to sweep.
    let settings = HubSettings { profile, fdb_entries: 256, ..HubSettings::default() };
    let mut hub = Hub { shared: HubShared::new(settings, 2), views: [HubView::new(0), HubView::new(1)] };
    let mut model = Model { profile, ports: BTreeMap::new(), table: HashMap::new() };
    let (mut now, mut generations) = (Tick::from_ms(5_000), [0u16; SLOTS as usize]);
    let port = |slot: u8, generation: u16| PortId::new(slot % 2, u32::from(slot) * 100, generation);
    for step in steps {
        match step {
            Step::Frame { from, dst, src, head } => {
                let from = port(from, generations[usize::from(from)]);
                let bytes = [&mac(dst)[..], &mac(src), HEADS[head]].concat();
                let want = model.frame(from, &bytes, now.as_secs());
                assert_eq!(hub.frame(from, &bytes, now), want, "{from} {bytes:02x?}");
            }
            Step::Open(slot, settings) => {
                if !model.ports.contains_key(&port(slot, generations[usize::from(slot)])) {
                    generations[usize::from(slot)] += 1;
                    let port = port(slot, generations[usize::from(slot)]);
                    model.ports.insert(port, settings);
                    hub.open(port, settings);
                }
            }
            Step::Close(slot) => {
                let port = port(slot, generations[usize::from(slot)]);
                let known = model.ports.remove(&port).is_some();
                assert_eq!(hub.shared.close_port(&mut hub.views[port.worker()], port), known);
            }
            Step::WaitMs(ms) => now = Tick(now.0 + ms * 1_000_000),
            Step::Sweep => {
                let freed: usize = hub.views.iter_mut().map(|view| hub.shared.sweep(view, usize::MAX, now)).sum();
                let dead: Vec<_> =
                    model.table.iter().filter(|(_, e)| !model.alive(**e, now.as_secs())).map(|(key, _)| *key).collect();
                assert_eq!(freed, dead.len());
                model.table.retain(|key, _| !dead.contains(key));
            }
        }
        assert_eq!(hub.shared.fdb_len(), model.table.len());
    }
    let mut shown: Vec<_> = hub
        .shared
        .mac_table(now)
        .iter()
        .map(|e| ((e.vlan, e.mac.0), (e.port, now.as_secs() - u64::from(e.age_secs))))
        .collect();
    let mut want: Vec<_> =
        model.table.iter().filter(|(_, e)| model.alive(**e, now.as_secs())).map(|(key, e)| (*key, *e)).collect();
    shown.sort();
    want.sort();
    assert_eq!(shown, want);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lan_is_the_reference_switch(steps in steps()) {
        run(Profile::Lan, steps);
    }

    #[test]
    fn public_is_the_reference_switch(steps in steps()) {
        run(Profile::Public, steps);
    }
}
