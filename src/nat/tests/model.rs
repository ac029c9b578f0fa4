//! The NAT against a small model, and against bytes that mean nothing.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddrV4;
use std::time::Duration;

use proptest::prelude::*;

use super::rig::*;
use crate::nat::*;
use crate::wire::offload::{L4Checksum, Offload};

/// What a member or the clock does.
#[derive(Clone, Debug)]
enum Step {
    Send { member: u32, port: u16, server: u32, tcp: bool },
    Pass(u64),
    End(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (5u32..17, 2000u16..2012, 0u32..6, any::<bool>())
            .prop_map(|(member, port, server, tcp)| Step::Send { member, port, server, tcp }),
        2 => (1u64..200).prop_map(Step::Pass),
        1 => (5u32..17).prop_map(Step::End),
    ];
    proptest::collection::vec(step, 1..300)
}

/// What must hold, kept by hand: who has which external end, towards whom.
#[derive(Debug, Default)]
struct Model {
    /// Blocks and single ports by the events alone: what a trace would have.
    blocks: BTreeMap<(std::net::Ipv4Addr, u16), (Insider, u16)>,
    mappings: HashMap<(Proto, SocketAddrV4), Insider>,
    flows: HashMap<(Proto, SocketAddrV4, SocketAddrV4), Insider>,
}

impl Model {
    fn take(&mut self, events: &[NatEvent]) {
        for event in events {
            match *event {
                NatEvent::BlockGranted { insider, block } => {
                    let before = self.blocks.insert((block.address, block.first), (insider, block.ports));
                    assert_eq!(before, None, "a block given twice");
                }
                NatEvent::BlockReleased { insider, block } => {
                    assert_eq!(self.blocks.remove(&(block.address, block.first)), Some((insider, block.ports)));
                }
                NatEvent::MappingBegan { insider, translation: t } => {
                    assert_eq!(self.mappings.insert((t.proto, t.external), insider), None);
                }
                NatEvent::MappingEnded { insider, translation: t } => {
                    assert_eq!(self.mappings.remove(&(t.proto, t.external)), Some(insider));
                }
                NatEvent::FlowBegan { insider, translation: t, remote } => {
                    assert_eq!(self.flows.insert((t.proto, t.external, remote), insider), None);
                }
                NatEvent::FlowEnded { insider, translation: t, remote } => {
                    assert_eq!(self.flows.remove(&(t.proto, t.external, remote)), Some(insider));
                }
                NatEvent::SessionChanged { .. } | NatEvent::Refused { .. } => {}
            }
        }
    }

    /// The one whom records name for an external end towards a destination.
    fn trace(&self, proto: Proto, external: SocketAddrV4, remote: SocketAddrV4) -> Option<Insider> {
        let by_flow = self.flows.get(&(proto, external, remote));
        let by_mapping = by_flow.or(self.mappings.get(&(proto, external)));
        let mut blocks = self.blocks.iter().filter(|((address, first), (_, ports))| {
            address == external.ip() && (*first..first + ports).contains(&external.port())
        });
        by_mapping.or(blocks.next().map(|(_, (insider, _))| insider)).copied()
    }
}

/// What the member's computer would see: out, and the answer back.
fn send(rig: &mut Rig, model: &mut Model, who: Insider, port: u16, to: SocketAddrV4, is_tcp: bool) {
    let inside = at(who, port);
    let proto = if is_tcp { Proto::Tcp } else { Proto::Udp };
    let packet = if is_tcp { tcp(inside, to, SYN, b"") } else { udp(inside, to, b"question") };
    let out = rig.out(who, &packet);
    model.take(&out.events);
    let Some((sent, _)) = out.sent.first() else {
        assert_eq!(out.drops.len(), 1, "refused with a reason");
        return;
    };
    let external = read(sent).from;
    assert_eq!(model.trace(proto, external, to), Some(who), "the records name who sent it");
    let answer = if is_tcp { tcp(to, external, SYN | ACK, b"") } else { udp(to, external, b"answer") };
    let back = rig.in_(&answer).one_delivered();
    assert_eq!((back.from, back.to), (to, inside), "back where it came from");
    rig.out(who, &packet).one_sent();
}

/// No two inside ends share an external one, but TCP towards different destinations; and records agree with lists.
fn check(rig: &Rig, model: &Model) {
    let mut ends: HashMap<(Proto, SocketAddrV4), SocketAddrV4> = HashMap::new();
    let mut shared: HashMap<(Proto, SocketAddrV4, SocketAddrV4), SocketAddrV4> = HashMap::new();
    for nat in &rig.nats {
        for view in nat.list(&NatFilter::default(), usize::MAX, rig.now) {
            let Translation { proto, inside, external } = view.translation;
            if view.is_shared {
                assert_eq!(proto, Proto::Tcp);
                assert_eq!(shared.insert((proto, external, view.remote.unwrap()), inside), None);
                assert_eq!(model.flows.get(&(proto, external, view.remote.unwrap())), view.insider.as_ref());
            } else if let Some(other) = ends.insert((proto, external), inside) {
                assert_eq!(other, inside);
            }
        }
    }
    assert!(shared.keys().all(|(proto, external, _)| !ends.contains_key(&(*proto, *external))));
    let recorded = shared.len();
    assert_eq!(model.flows.len(), recorded, "every record of a flow has its flow");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn invariants_hold(steps in steps(), seed in any::<u64>(), workers in 1usize..3, block in 0usize..4) {
        let mut rig = Rig::with_seed(
            NatSettings { workers, ports: (50_000, 50_255), block_ports: [8, 16, 32, 64][block], ..unlimited() },
            seed,
        );
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Send { member: n, port, server: to, tcp } => {
                    send(&mut rig, &mut model, member(n), port, server(to), tcp);
                }
                Step::Pass(secs) => model.take(&rig.pass_secs(secs).events),
                Step::End(n) => {
                    let mut out = Out::default();
                    let now = rig.now;
                    for nat in &mut rig.nats {
                        nat.end_member(member(n).member, now, &mut out);
                    }
                    model.take(&out.events);
                }
            }
            check(&rig, &model);
        }
        model.take(&rig.pass_secs(20_000).events);
        prop_assert!(model.blocks.is_empty() && model.mappings.is_empty() && model.flows.is_empty(), "{:?}", model);
        for nat in &rig.nats {
            let NatStats { hosts, mappings, flows, blocks_used, .. } = nat.stats();
            prop_assert_eq!((hosts, mappings, flows, blocks_used), (0, 0, 0, 0));
        }
    }

    /// Whatever a packet says of itself: one answer or drop, no panic, bounded tables.
    #[test]
    fn lying_headers_never_panic(
        kind in 0usize..6,
        changes in proptest::collection::vec((0usize..80, any::<u8>()), 0..6),
        length in 0usize..120,
        sealed in any::<bool>(),
        checksum in 0usize..3,
        segment in prop_oneof![Just(0u16), any::<u16>()],
    ) {
        let mut rig = Rig::new(NatSettings { filtering_udp: Filtering::EndpointIndependent, ..settings() });
        let external = rig.udp_out(member(5), 4000, server(0));
        let connection = rig.connect(member(5), 4000, server(0));
        let a = at(member(5), 4000);
        let mut packet = match kind {
            0 => udp(a, server(0), b"some data"),
            1 => tcp_options(a, server(0), SYN, &[2, 4, 5, 180, 1, 1, 1, 0], b"data"),
            2 => icmp_error(*server(0).ip(), EXTERNAL, (3, 4), &tcp(connection, server(0), ACK, b"data")),
            3 => icmp_error(member(5).address, *server(0).ip(), (3, 3), &udp(server(0), a, b"data")),
            4 => udp(server(0), external, b"some data"),
            _ => tcp(server(0), connection, FIN | ACK, b"data"),
        };
        for (at, byte) in changes {
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
        }
        packet.truncate(length.max(1));
        if sealed && packet.len() >= 20 {
            packet[0] = 0x40 | (packet[0] & 15).clamp(5, 15);
            let header = usize::from(packet[0] & 15) * 4;
            if header <= packet.len() {
                let total = u16::try_from(packet.len()).unwrap();
                packet[2..4].copy_from_slice(&total.to_be_bytes());
                if packet.len() > header + 8 && packet[9] == 1 {
                    crate::wire::icmp::finish(&mut packet[header..]);
                }
                seal(&mut packet);
            }
        }
        let checksum = [L4Checksum::Complete, L4Checksum::Partial, L4Checksum::Untrusted][checksum];
        let offload = Offload { checksum, segment_bytes: segment };
        let mut out = Out::default();
        let now = rig.now;
        let _ = rig.plan.owner_of_packet(&packet);
        rig.nats[0].warm([&packet[..]], kind % 2 == 0);
        rig.nats[0].outbound(&member(5), &mut packet.clone(), offload, now, &mut out);
        rig.nats[0].inbound(&mut packet.clone(), offload, now, &mut out);
        rig.pass(Duration::from_secs(40));
        prop_assert_eq!(rig.stats().datagrams, 0);
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in prop_oneof![Just(0x45u8), any::<u8>()]) {
        let mut rig = Rig::new(settings());
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        let mut answer = [0; 1100];
        let now = rig.now;
        let mut out = Out::default();
        let length = rig.nats[0].pcp(&member(5), 1, &bytes, &mut answer, now, &mut out);
        prop_assert!(length <= 1100);
        if bytes.len() > 36 {
            // With what makes a request worth reading.
            (bytes[0], bytes[1]) = (2, bytes[1] % 3);
            bytes[8..24].copy_from_slice(&member(5).address.to_ipv6_mapped().octets());
            rig.nats[0].pcp(&member(5), 1, &bytes, &mut answer, now, &mut out);
        }
        rig.out(member(5), &bytes);
        let _ = rig.in_(&bytes);
        rig.nats[0].inbound(&mut bytes, Offload::NONE, now, &mut out);
    }

    /// Fragments of any places and lengths: what comes out is what one sender sent, or nothing.
    #[test]
    fn any_fragments(pieces in proptest::collection::vec((0u16..40, 0usize..12, any::<bool>()), 1..30)) {
        let mut rig = Rig::new(settings());
        let external = rig.udp_out(member(5), 4000, server(0));
        let data: Vec<u8> = (0..400u32).map(|n| (n & 0xff) as u8).collect();
        let whole = udp(server(0), external, &data);
        for (at, length, more) in pieces {
            let (from, to) = (20 + usize::from(at) * 8, (20 + usize::from(at) * 8 + length * 8).min(whole.len()));
            let Some(payload) = whole.get(from..to) else { continue };
            let mut piece = ip(*server(0).ip(), EXTERNAL, 17, payload);
            let place = at | if more { 0x2000 } else { 0 };
            piece[6..8].copy_from_slice(&place.to_be_bytes());
            seal(&mut piece);
            for (_, delivered, _) in rig.in_(&piece).delivered {
                prop_assert!(data.starts_with(&delivered[28..]), "only what was sent");
            }
        }
        rig.pass_secs(40);
        prop_assert_eq!(rig.stats().datagrams, 0);
    }
}
