//! A NAT that many share: RFC 6888, RFC 7422, RFC 6302, and what one member may do to the others.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::time::Duration;

use super::rig::*;
use crate::ids::SessionId;
use crate::metrics::drops::DropReason;
use crate::nat::*;
use crate::wire::icmp;

/// Every transport behaves as its own RFC says, through one NAT at once: the modules beside this one have the lines.
#[test]
fn nat_l1_all_transports() {
    let mut rig = Rig::new(settings());
    let u = rig.udp_out(member(5), 4000, server(0));
    let t = rig.connect(member(5), 4000, server(0));
    let i = rig.out(member(5), &ping(member(5).address, *server(0).ip(), 8, 4000)).one_sent().from;
    assert_eq!(rig.in_(&udp(server(0), u, b"")).one_delivered().to, at(member(5), 4000));
    assert_eq!(rig.in_(&tcp(server(0), t, ACK, b"")).one_delivered().to, at(member(5), 4000));
    assert_eq!(rig.in_(&ping(*server(0).ip(), EXTERNAL, 0, i.port())).one_delivered().to, at(member(5), 4000));
}

#[test]
fn nat_l2_paired_is_the_default() {
    assert_eq!(settings().pooling, Pooling::Paired);
    let mut rig = Rig::new(NatSettings { pool: vec!["5.5.5.0/28".parse().unwrap()], ..unlimited() });
    let addresses: BTreeSet<_> = (0..200).map(|n| *rig.udp_out(member(5), 4000 + n, server(n.into())).ip()).collect();
    assert_eq!(addresses.len(), 1);
}

#[test]
fn nat_l3_pool_of_any_ranges() {
    let pool: Vec<Prefix> = ["7.0.0.9", "5.5.5.4/31", "6.0.0.0/29"].map(|text| text.parse().unwrap()).to_vec();
    let mut rig = Rig::new(NatSettings { pool: pool.clone(), ..unlimited() });
    let used: BTreeSet<_> = (5..400).map(|n| *rig.udp_out(member(n), 4000, server(0)).ip()).collect();
    assert_eq!(used.len(), 11);
    assert!(used.iter().all(|address| pool.iter().any(|range| range.contains(*address))));
    assert_eq!(rig.plan.addresses().collect::<BTreeSet<_>>(), used);
    let twice = vec!["5.5.5.0/28".parse().unwrap(), "5.5.5.8".parse().unwrap()];
    assert!(matches!(NatPlan::new(NatSettings { pool: twice, ..settings() }), Err(NatPlanError::PoolOverlap(..))));
}

/// Per session (its address), per member, and for all.
#[test]
fn nat_l4_limit_on_ports() {
    for (of_address, of_member, of_all, want) in [(10, 99, 999, 10), (99, 20, 999, 20), (99, 99, 15, 15)] {
        let mut settings = settings();
        settings.limits.ports_per_address = of_address;
        settings.limits.ports_per_member = of_member;
        settings.limits.mappings = of_all;
        let mut rig = Rig::new(settings);
        let sent = (0..100)
            .filter(|n| {
                let from = Insider { member: member(5).member, ..member(5 + n % 2) };
                let from = if of_member == 20 { from } else { member(5) };
                let packet = udp(SocketAddrV4::new(from.address, 4000 + (*n & 0xff) as u16), server(0), b"");
                !rig.out(from, &packet).sent.is_empty()
            })
            .count();
        assert_eq!(sent, want);
        if of_all > 100 {
            rig.udp_out(member(9), 4000, server(0));
        }
    }
}

#[test]
fn nat_l5_limits_on_state_and_rate() {
    let mut settings = settings();
    settings.limits.flows_per_address = 50;
    settings.limits.new_flows_per_sec = 20;
    let mut rig = Rig::new(settings);
    let mut reasons = Vec::new();
    for n in 0..100 {
        reasons.extend(rig.out(member(5), &udp(at(member(5), 4000), server(n), b"")).drops);
    }
    assert_eq!((reasons.len(), reasons[0]), (80, DropReason::NatFlowRate), "twenty at once");
    for n in 0..100 {
        rig.pass(Duration::from_millis(100));
        reasons.extend(rig.out(member(5), &udp(at(member(5), 4000), server(n), b"")).drops);
    }
    assert_eq!((rig.stats().flows, *reasons.last().unwrap()), (50, DropReason::NatFlowLimit));
    rig.udp_out(member(6), 4000, server(0));
}

#[test]
fn nat_l6_no_translation_for_some_destinations() {
    let rule = Rule { to: "8.0.0.0/30".parse().unwrap(), protocol: Some(17), ports: Some((443, 443)) };
    let mut rig = Rig::new(NatSettings { no_nat: vec![rule], workers: 2, ..settings() });
    for who in [5, 6] {
        let packet = udp(at(member(who), 4000), server(0), b"data");
        let out = rig.out(member(who), &packet);
        assert_eq!(out.one_sent().from, at(member(who), 4000));
        assert_eq!(out.sent[0].0[8], 63, "a hop it is all the same");
        assert_eq!(rig.in_(&udp(server(0), at(member(who), 4000), b"")).one_delivered().to, at(member(who), 4000));
        assert_eq!(*rig.udp_out(member(who), 4000, end("8.0.0.1:444")).ip(), EXTERNAL, "another port");
        assert_eq!(*rig.udp_out(member(who), 4000, server(4)).ip(), EXTERNAL, "another address");
        assert_eq!(*rig.syn_out(member(who), 4000, server(0)).ip(), EXTERNAL, "another protocol");
        rig.in_(&udp(server(9), at(member(who), 4000), b"")).dropped_for(DropReason::NatNoMapping);
    }
}

#[test]
fn nat_l7_endpoint_independent_filtering_is_an_option() {
    let filtering_udp = Filtering::EndpointIndependent;
    let mut rig = Rig::new(NatSettings { filtering_udp, ..settings() });
    let external = rig.udp_out(member(5), 4000, server(0));
    assert_eq!(rig.in_(&udp(server(77), external, b"")).one_delivered().to, at(member(5), 4000));
    assert_eq!(rig.stats().flows, 1, "nobody outside fills tables");
    rig.udp_out(member(5), 4000, server(77));
    assert_eq!(rig.stats().flows, 2);
}

/// Blocks, single ports of the commons, and shared ones after a forced end.
#[test]
fn nat_l8_quarantine() {
    let mut rig = Rig::new(NatSettings { ports: (50_000, 50_127), ..unlimited() });
    let block = rig.udp_out(member(5), 4000, server(0));
    let common = rig.udp_out(member(6), 4000, server(0));
    let shared = rig.connect(member(6), 4000, server(0));
    assert!(block.port() < 50_064 && common.port() >= 50_064 && shared.port() >= 50_064);
    let mut out = Out::default();
    let now = rig.now;
    for who in [5, 6] {
        rig.nats[0].end_member(member(who).member, now, &mut out);
    }
    rig.pass_secs(119);
    for n in 0..200u16 {
        let got = rig.out(member(7), &udp(at(member(7), 4000 + n), server(0), b""));
        assert!(got.sent.iter().all(|(packet, _)| ![block, common].contains(&read(packet).from)));
        let got = rig.out(member(7), &tcp(at(member(7), 4000 + n), server(0), SYN, &[]));
        assert!(got.sent.iter().all(|(packet, _)| read(packet).from != shared), "towards the same destination");
    }
    rig.in_(&tcp(server(0), shared, ACK, b"late")).dropped_for(DropReason::NatNoFlow);
    rig.pass_secs(2);
    let begun: Vec<_> = (0..300).map(|n| rig.out(member(8), &udp(at(member(8), 4000 + n), server(0), b""))).collect();
    let ports: BTreeSet<_> = begun.iter().flat_map(|out| &out.sent).map(|(packet, _)| read(packet).from).collect();
    assert!(ports.contains(&block) && ports.contains(&common), "two minutes are over");
}

/// A member who returns within the hold finds his block as he left it.
#[test]
fn nat_l8_a_block_stays_for_a_while() {
    let mut rig = Rig::new(settings());
    let first = rig.udp_out(member(5), 4000, server(0));
    rig.pass_secs(302 + 100);
    assert_eq!(rig.stats().mappings, 0);
    assert_eq!(rig.udp_out(member(5), 4001, server(0)).port() / 64, first.port() / 64);
    let out = rig.pass_secs(302 + 122);
    assert!(matches!(out.events[..], [NatEvent::BlockReleased { .. }]), "{:?}", out.events);
    rig.pass_secs(200);
    let NatStats { hosts, blocks_used, .. } = rig.stats();
    assert_eq!((hosts, blocks_used), (0, 0), "nothing is left");
}

/// The port goes to nobody else meanwhile; PCP itself is tested in `pcp.rs`.
#[test]
fn nat_l9_members_control_mappings() {
    let mut rig = Rig::new(settings());
    let external = super::pcp::map(&mut rig, member(5), 17, 8080, 3_600).unwrap();
    rig.pass_secs(3_500);
    assert_eq!(rig.in_(&udp(server(3), external, b"")).one_delivered().to, at(member(5), 8080));
}

/// Counters that a metrics exporter takes as they are.
#[test]
fn nat_l10_management() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    rig.in_(&udp(server(0), external, b"data")).one_delivered();
    let s = rig.stats();
    assert_eq!((s.packets_out, s.packets_in, s.bytes_out, s.bytes_in), (1, 1, 32, 32));
    assert_eq!((s.hosts, s.mappings, s.flows, s.mappings_begun, s.flows_begun, s.blocks_used), (1, 1, 1, 1, 1, 1));
    let view = rig.nats[0].list(&NatFilter::default(), 10, rig.now)[0];
    assert_eq!((view.translation.external, view.remote, view.insider), (external, Some(server(0)), Some(member(5))));
    assert!(view.expires_secs.is_some_and(|secs| (299..=301).contains(&secs)));
    let only = |filter: NatFilter| rig.nats[0].list(&filter, 10, rig.now).len();
    assert_eq!(only(NatFilter { member: Some(member(6).member), ..NatFilter::default() }), 0);
    assert_eq!(only(NatFilter { external_port: Some(external.port()), ..NatFilter::default() }), 1);
    let why = rig.nats[0].explain(Proto::Udp, external, rig.now).unwrap();
    assert_eq!((why.owner, why.port_use, why.mappings.len()), (0, PortUse::Block, 1));
    assert_eq!(why.block.unwrap().1, member(5));
    assert_eq!(rig.nats[0].explain(Proto::Udp, server(0), rig.now), None);
}

/// Exhausted: dropped, told with code 1, reported, and nobody else's mapping ends.
#[test]
fn nat_l11_when_a_mapping_cannot_be_made() {
    let mut rig = Rig::new(NatSettings { ports: (50_000, 50_127), ..unlimited() });
    let first = rig.udp_out(member(5), 4000, server(0));
    let mut refused = 0;
    for n in 0..200 {
        let out = rig.out(member(6), &udp(at(member(6), 2000 + n), server(0), b""));
        if out.sent.is_empty() {
            refused += 1;
            assert_eq!(out.drops, [DropReason::NatExhausted]);
        }
        if refused == 1 {
            assert_eq!(quote(&out.delivered[0].1).0, (icmp::UNREACHABLE, icmp::CODE_HOST));
            let told = NatEvent::Refused { insider: member(6), reason: DropReason::NatExhausted };
            assert_eq!(out.events, [told]);
            refused += 1;
        }
    }
    assert!(refused > 100);
    assert_eq!(rig.in_(&udp(server(0), first, b"")).one_delivered().to, at(member(5), 4000));
}

#[test]
fn nat_l12_destinations_are_not_told() {
    for destinations in [false, true] {
        let record = Record { mappings: true, destinations };
        let mut rig = Rig::new(NatSettings { record, ..settings() });
        let mut events = rig.out(member(5), &udp(at(member(5), 4000), server(0), b"")).events;
        events.extend(rig.pass_secs(302).events);
        let of_flows = events.iter().filter(|e| matches!(e, NatEvent::FlowBegan { .. } | NatEvent::FlowEnded { .. }));
        assert_eq!(of_flows.count(), if destinations { 2 } else { 0 });
        let begun = events.iter().position(|e| matches!(e, NatEvent::MappingBegan { .. })).unwrap();
        let ended = events.iter().position(|e| matches!(e, NatEvent::MappingEnded { .. })).unwrap();
        assert!(begun < ended && matches!(events[0], NatEvent::BlockGranted { .. }));
    }
    assert_eq!(Record::default(), Record { mappings: false, destinations: false });
}

/// Nearly every port serves somebody before the first UDP flow is refused.
#[test]
fn nat_l13_ports_are_used() {
    let mut rig = Rig::new(NatSettings { ports: (50_000, 51_023), block_ports: 8, ..unlimited() });
    let (mut given, mut n) = (0, 0u16);
    loop {
        let who = member(5 + u32::from(n % 60));
        if rig.out(who, &udp(at(who, 2000 + n), server(0), b"")).sent.is_empty() {
            break;
        }
        (given, n) = (given + 1, n + 1);
    }
    assert!(given >= 1024 * 9 / 10, "{given} of 1024");
}

#[test]
fn nat_l14_one_record_for_many_ports() {
    let mut rig = Rig::new(unlimited());
    let mut events = Vec::new();
    for n in 0..128 {
        events.extend(rig.out(member(5), &udp(at(member(5), 4000 + n), server(n.into()), b"")).events);
        events.extend(rig.out(member(5), &tcp(at(member(5), 4000 + n), server(n.into()), SYN, &[])).events);
    }
    let blocks: Vec<_> = events
        .iter()
        .map(|event| match event {
            NatEvent::BlockGranted { insider, block } => (*insider, block.ports),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(blocks, [(member(5), 64), (member(5), 64)], "256 mappings, two records");
}

#[test]
fn nat_l15_ports_are_hard_to_guess() {
    let mut next_to_each_other = 0;
    for seed in 0..50 {
        let mut rig = Rig::with_seed(settings(), seed);
        let [a, b] = [4000, 4002].map(|port| rig.udp_out(member(5), port, server(0)).port());
        next_to_each_other += u32::from(a.abs_diff(b) == 2);
    }
    assert!(next_to_each_other < 15, "{next_to_each_other} of 50");
}

/// The record of RFC 6888 §4: protocol, subscriber, external address and ports. The caller adds time and names.
#[test]
fn nat_log_has_what_a_trace_needs() {
    let mut rig = Rig::new(NatSettings { ports: (50_000, 50_127), ..settings() });
    let events = rig.out(member(5), &udp(at(member(5), 4000), server(0), b"")).events;
    let block = PortBlock { address: EXTERNAL, first: 50_000, ports: 64 };
    assert_eq!(events, [NatEvent::BlockGranted { insider: member(5), block }]);
    let out = rig.out(member(6), &tcp(at(member(6), 4000), server(0), SYN, &[]));
    let external = out.one_sent().from;
    let translation = Translation { proto: Proto::Tcp, inside: at(member(6), 4000), external };
    assert_eq!(out.events, [NatEvent::FlowBegan { insider: member(6), translation, remote: server(0) }]);
    let again = Insider { session: SessionId(9), ..member(6) };
    let events = rig.out(again, &udp(at(member(6), 4001), server(0), b"")).events;
    assert_eq!(events[0], NatEvent::SessionChanged { insider: again });
}

/// Who may have a port, and which worker answers for it, is arithmetic over the plan. Blocks are given at need, not by
/// arithmetic (RFC 7422): with few members each may have many, and the record says who.
#[test]
fn nat_det_owners_by_arithmetic() {
    for workers in [1, 2, 3, 7, 16] {
        let plan = NatPlan::new(NatSettings { workers, ports: (2_000, 60_000), ..settings() }).unwrap();
        let slices = plan.slices();
        for slice in &slices {
            for port in [slice.first, slice.commons, slice.last] {
                assert_eq!(plan.owner_of_external(Proto::Udp, EXTERNAL, port), slice.worker);
            }
            assert_eq!(plan.use_of(EXTERNAL, slice.first), PortUse::Block);
            assert_eq!(plan.use_of(EXTERNAL, slice.commons - 1), PortUse::Block);
            assert_eq!(plan.use_of(EXTERNAL, slice.commons), PortUse::Commons);
        }
        assert!(slices.windows(2).all(|pair| pair[1].first == pair[0].last + 1), "no gaps");
        let inside: BTreeSet<_> = (0..64).map(|n| plan.owner_of_inside(member(n).address)).collect();
        assert_eq!(inside.len(), workers);
        assert_eq!(plan.owner_of_packet(&udp(server(0), SocketAddrV4::new(EXTERNAL, 1_999), b"")), None);
    }
}

/// Source port and time lead to one member; without the destination a shared port has candidates.
#[test]
fn nat_src_port_and_time_identify_a_member() {
    let mut rig = Rig::new(NatSettings { ports: (50_000, 50_127), ..unlimited() });
    let mut holders: BTreeMap<(SocketAddrV4, Option<SocketAddrV4>), BTreeSet<u32>> = BTreeMap::new();
    for n in 0..300u16 {
        let who = member(5 + u32::from(n % 7));
        let to = server((n / 7).into());
        if let Some((packet, _)) = rig.out(who, &tcp(at(who, 2000 + n), to, SYN, &[])).sent.first() {
            let external = read(packet).from;
            let shared = rig.plan.use_of(*external.ip(), external.port()) == PortUse::Commons;
            holders.entry((external, shared.then_some(to))).or_default().insert(who.member.0);
        }
    }
    assert!(holders.values().all(|members| members.len() == 1));
    assert!(holders.keys().any(|(_, remote)| remote.is_some()));
}

/// One member takes what he can get; others get theirs.
#[test]
fn nat_h15_port_exhaustion_by_one_member() {
    let mut rig = Rig::new(settings());
    let before = rig.udp_out(member(6), 4000, server(0));
    let mut reasons = BTreeSet::new();
    let mut sent = 0;
    for n in 0..64_000u16 {
        if n % 100 == 0 {
            rig.pass(Duration::from_millis(200));
        }
        let out = rig.out(member(5), &udp(at(member(5), n + 1), server((n % 500).into()), b""));
        sent += out.sent.len();
        reasons.extend(out.drops.iter().map(|reason| reason.label()));
    }
    assert_eq!(sent, 2_048, "his quota");
    assert!(reasons.contains("nat_port_limit"), "{reasons:?}");
    for who in 6..106 {
        for n in 0..10 {
            rig.udp_out(member(who), 4000 + n, server(0));
        }
    }
    assert_eq!(rig.in_(&udp(server(0), before, b"")).one_delivered().to, at(member(6), 4000));
}

#[test]
fn nat_h15_scans_are_braked() {
    let mut rig = Rig::new(settings());
    let mut reached = 0;
    for n in 0..20_000 {
        rig.pass(Duration::from_millis(3));
        reached += rig.out(member(5), &tcp(at(member(5), 4000), server(n), SYN, &[])).sent.len();
    }
    assert!((1_800..2_300).contains(&reached), "{reached} addresses in a minute");
    rig.udp_out(member(6), 4000, server(0));
}

/// Overlapping, tiny, endless: refused, bounded, and no others suffer.
#[test]
fn nat_h16_fragment_attacks() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    let pieces = super::udp::cut(&udp(server(0), external, &[7; 3000]), 1500, 9);
    assert_eq!(rig.in_(&pieces[0]).drops, []);
    let mut overlapping = pieces[1].clone();
    overlapping[7] -= 1;
    seal(&mut overlapping);
    assert!(!rig.in_(&overlapping).drops.is_empty());
    for piece in &pieces[1..] {
        rig.in_(piece).dropped_for(DropReason::NatFragment);
    }
    let pieces = super::udp::cut(&tcp(server(0), external, ACK, &[7; 100]), 36, 10);
    rig.in_(&pieces[0]).dropped_for(DropReason::NatFragment);

    // A copy of one that is here harms nothing.
    let pieces = super::udp::cut(&udp(server(0), external, &[7; 3000]), 1500, 11);
    let delivered: usize = pieces.iter().flat_map(|p| [p, p]).map(|p| rig.in_(p).delivered.len()).sum();
    assert_eq!(delivered, 3);

    for n in 0..10_000u32 {
        let from = SocketAddrV4::new((0x0900_0000 + n / 50).into(), 1);
        rig.in_(&super::udp::cut(&udp(from, external, &[0; 2000]), 1500, (n & 0xffff) as u16)[0]);
    }
    assert!(rig.stats().datagrams <= 1024, "{}", rig.stats().datagrams);
    rig.pass_secs(31);
    assert_eq!(rig.stats().datagrams, 0);
}

#[test]
fn nat_h16_one_source_has_its_bound() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    let mut drops = Vec::new();
    for n in 0..100 {
        for piece in &super::udp::cut(&udp(server(0), external, &[0; 40_000]), 1500, n)[..20] {
            drops.extend(rig.in_(piece).drops);
        }
    }
    assert!(drops.iter().all(|reason| *reason == DropReason::NatFragmentLimit) && drops.len() > 1_000);
    let whole = super::udp::cut(&udp(server(1), external, &[0; 100]), 100, 5);
    let out: Vec<_> = whole.iter().map(|piece| rig.in_(piece)).collect();
    assert_eq!(out.last().unwrap().drops, [DropReason::NatFiltered], "another source is put together and judged");
}

/// `hublane user block`: everything of the member ends at once, and nobody gets what is still on its way to him.
#[test]
fn a_blocked_member_has_nothing() {
    let mut rig = Rig::new(settings());
    let (u, t) = (rig.udp_out(member(5), 4000, server(0)), rig.connect(member(5), 4001, server(0)));
    let kept = rig.udp_out(member(6), 4000, server(0));
    let mut out = Out::default();
    let now = rig.now;
    rig.nats[0].end_member(member(5).member, now, &mut out);
    assert!(matches!(out.events[..], [NatEvent::BlockReleased { .. }]));
    rig.in_(&udp(server(0), u, b"")).dropped_for(DropReason::NatNoMapping);
    rig.in_(&tcp(server(0), t, ACK, b"")).dropped_for(DropReason::NatNoMapping);
    assert_eq!(rig.in_(&udp(server(0), kept, b"")).one_delivered().to, at(member(6), 4000));
    assert_eq!((rig.stats().hosts, rig.stats().flows), (1, 1));
}

/// An inside address that another member has now: nothing of the first one's is left to him.
#[test]
fn an_address_changes_hands() {
    let mut rig = Rig::new(settings());
    let old = rig.udp_out(member(5), 4000, server(0));
    let heir = Insider { member: member(9).member, ..member(5) };
    let seen = rig.out(heir, &udp(at(heir, 4000), server(0), b"")).one_sent();
    assert_ne!(seen.from, old);
    rig.in_(&udp(server(0), old, b"secret")).dropped_for(DropReason::NatNoMapping);
}

#[test]
fn policy_is_asked_and_told() {
    let mut rig = Rig::new(settings());
    for to in ["169.254.169.254:80", "127.0.0.1:80", "192.168.1.1:80", "8.0.0.1:25", "8.0.0.1:445"] {
        let out = rig.out(member(5), &tcp(at(member(5), 4000), end(to), SYN, &[]));
        assert_eq!((out.sent.len(), &out.drops[..]), (0, &[DropReason::NatPolicy][..]), "{to}");
        assert_eq!(quote(&out.delivered[0].1).0, (icmp::UNREACHABLE, icmp::CODE_PROHIBITED));
    }
    let external = rig.udp_out(member(5), 4000, server(0));
    rig.nats[0].set_host_addresses(&[*server(0).ip()]);
    rig.pass_secs(0);
    assert_eq!(rig.stats().flows, 0, "also what lives ends");
    rig.in_(&udp(server(0), external, b"")).dropped_for(DropReason::NatNoMapping);
    assert_eq!(rig.out(member(5), &udp(at(member(5), 4000), server(0), b"")).drops, [DropReason::NatPolicy]);
    let mut taken = rig.out(member(5), &udp(at(member(6), 4000), server(0), b""));
    assert_eq!(std::mem::take(&mut taken.drops), [DropReason::NatSource], "not his address");
}

/// Ports of a shared address that are the host's own stay closed to members.
#[test]
fn hairpin_reaches_members_only() {
    let mut rig = Rig::new(NatSettings { ports: (61_001, 65_535), ..settings() });
    for port in [22, 443, 60_000] {
        let out = rig.out(member(5), &tcp(at(member(5), 4000), SocketAddrV4::new(EXTERNAL, port), SYN, &[]));
        assert_eq!((out.hairpins.len(), &out.drops[..]), (0, &[DropReason::NatPolicy][..]));
    }
}

#[test]
fn static_mappings() {
    let fixed = StaticMapping { proto: Proto::Tcp, external: end("5.5.5.5:2222"), inside: end("100.64.0.6:22") };
    for workers in [1, 4] {
        let mut rig = Rig::new(NatSettings { statics: vec![fixed], workers, ..settings() });
        for n in 0..3 {
            let out = rig.in_(&tcp(server(n), end("5.5.5.5:2222"), SYN, &[]));
            assert_eq!(out.one_delivered().to, end("100.64.0.6:22"), "from anybody, before he was ever seen");
            let back = rig.out(member(6), &tcp(end("100.64.0.6:22"), server(n), SYN | ACK, &[])).one_sent();
            assert_eq!(back.from, end("5.5.5.5:2222"));
            rig.in_(&tcp(server(n), end("5.5.5.5:2222"), ACK, b"x")).one_delivered();
        }
        assert_eq!(*rig.udp_out(member(6), 4000, server(0)).ip(), EXTERNAL);
        rig.pass_secs(8_000);
        rig.in_(&tcp(server(9), end("5.5.5.5:2222"), SYN, &[])).one_delivered();
        let mut out = Out::default();
        let worker = rig.plan.owner_of_inside(member(6).address);
        let now = rig.now;
        rig.nats[worker].end_member(member(6).member, now, &mut out);
        rig.in_(&tcp(server(9), end("5.5.5.5:2222"), SYN, &[])).one_delivered();
    }
    let bad = |external: &str, inside: &str| {
        let fixed = StaticMapping { proto: Proto::Tcp, external: end(external), inside: end(inside) };
        NatPlan::new(NatSettings { statics: vec![fixed], ..settings() }).is_err()
    };
    assert!(
        bad("5.5.5.6:22", "100.64.0.6:22") && bad("5.5.5.5:22", "10.0.0.1:22") && bad("5.5.5.5:0", "100.64.0.6:22")
    );
}

/// A lease given back and taken again is no way around rates and quotas.
#[test]
fn nat_h15_release_renews_no_quota() {
    // The host's address shared, as by default.
    let mut rig = Rig::new(NatSettings { ports: (61_001, 65_535), ..settings() });
    let mut sent = 0;
    for cycle in 0..400u32 {
        for port in 0..64u16 {
            let from = member(5);
            sent += rig.out(from, &udp(at(from, 1000 + port), server(cycle * 64 + u32::from(port)), b"")).sent.len();
        }
        let (now, mut out) = (rig.now, Out::default());
        rig.nats[0].end_address_of(member(5).address, member(5).member, now, &mut out);
        rig.pass(Duration::from_millis(25));
    }
    let others = (6..106).filter(|n| !rig.out(member(*n), &udp(at(member(*n), 4000), server(0), b"")).sent.is_empty());
    let served = others.count();
    assert!(sent <= 10 * 500 + 500 && served == 100, "{sent} flows in 10 s, {served} of 100 others get a port");
}

/// A server that sends long datagrams, one after the other, each of them complete.
#[test]
fn nat_u14_many_datagrams_of_one_source() {
    let mut rig = Rig::new(NatSettings { workers: 3, ..settings() });
    let external = rig.udp_out(member(5), 4000, server(0));
    let mut whole = 0;
    for id in 1..=200u16 {
        let pieces = super::udp::cut(&udp(server(0), external, &[7; 2000]), 1400, id);
        whole += usize::from(pieces.iter().map(|piece| rig.in_(piece).delivered.len()).sum::<usize>() > 0);
        rig.pass(Duration::from_millis(10));
    }
    assert_eq!(whole, 200, "complete datagrams in 2 s");
}

/// Asking by PCP for what cannot be had, as fast as the link carries it.
#[test]
fn nat_h15_pcp_takes_no_more_than_packets() {
    let mut rig = Rig::new(NatSettings { ports: (61_001, 65_535), ..settings() });
    // PREFER_FAILURE, and an external address that is none of ours.
    let mut answers = 0;
    for n in 0..60_000u32 {
        let port = u16::try_from(n % 50_000 + 1).unwrap();
        let mut request = vec![2, 1, 0, 0, 0, 0, 0, 120];
        request.extend(member(5).address.to_ipv6_mapped().octets());
        request.extend([7; 12]);
        request.extend([17, 0, 0, 0]);
        request.extend(port.to_be_bytes());
        request.extend([0, 0]);
        request.extend(std::net::Ipv4Addr::new(9, 9, 9, 9).to_ipv6_mapped().octets());
        // Blocks first: those are kept.
        if n >= 2_000 {
            request.extend([2, 0, 0, 0]);
        }
        let (now, mut out, mut answer) = (rig.now, Out::default(), [0; 1100]);
        answers += rig.nats[0].pcp(&member(5), 4000, &request, &mut answer, now, &mut out).min(1);
    }
    let got = |n: &u32, rig: &mut Rig| !rig.out(member(*n), &udp(at(member(*n), 4000), server(0), b"")).sent.is_empty();
    let served = (6..306).filter(|n| got(n, &mut rig)).count();
    assert_eq!((answers, served), (60_000, 300), "others that get a port");
}

/// The session of a port, when its member is back and goes on with the flows he had.
#[test]
fn session_of_known_flows() {
    let mut rig = Rig::new(settings());
    rig.udp_out(member(5), 4000, server(0));
    let back = Insider { session: SessionId(77), ..member(5) };
    let out = rig.out(back, &udp(at(back, 4000), server(0), b""));
    assert_eq!(out.events, [NatEvent::SessionChanged { insider: back }]);
}

/// The same said by the caller, and once only.
#[test]
fn session_said_to_have_changed() {
    let mut rig = Rig::new(settings());
    rig.udp_out(member(5), 4000, server(0));
    let back = Insider { session: SessionId(77), ..member(5) };
    let mut out = Out::default();
    rig.nats[0].session_changed(&Insider { member: member(6).member, ..back }, &mut out);
    assert!(out.events.is_empty(), "somebody else's");
    rig.nats[0].session_changed(&back, &mut out);
    assert_eq!(out.events, [NatEvent::SessionChanged { insider: back }]);
    assert!(rig.out(back, &udp(at(back, 4000), server(0), b"")).events.is_empty());
}

/// With no rate in the way, a block or shared flow for each lease taken is bounded by the quotas, and free again later.
#[test]
fn nat_h15_what_rests_counts() {
    let mut settings = NatSettings { ports: (61_001, 65_535), ..unlimited() };
    (settings.limits.ports_per_address, settings.limits.flows_per_address) = (2_048, 100);
    let mut rig = Rig::new(settings);
    let from = member(5);
    let lease = |rig: &mut Rig, packet: &[u8]| {
        let (sent, now) = (rig.out(from, packet).sent.len(), rig.now);
        rig.nats[0].end_address_of(from.address, from.member, now, &mut Out::default());
        sent
    };
    let udp = (0..4_000).map(|_| lease(&mut rig, &udp(at(from, 4000), server(0), b""))).sum::<usize>();
    let tcp_of = |port| tcp(at(from, port), server(0), SYN, &[]);
    let tcp = (0..4_000).map(|port| lease(&mut rig, &tcp_of(1_000 + port))).sum::<usize>();
    assert!(udp <= 2_048 && tcp <= 100, "{udp} ports, {tcp} shared flows");
    let mut served = |n| !rig.out(member(n), &super::rig::udp(at(member(n), 4000), server(0), b"")).sent.is_empty();
    assert!((6..106).all(&mut served), "the others");
    rig.pass_secs(122);
    assert_eq!(lease(&mut rig, &tcp_of(1_000)), 1, "his quota is whole again");
}
