//! E1 to E4, E6 and E7: whom a frame reaches.
#![forbid(unsafe_code)]

use super::*;

#[test]
fn e1_never_back_to_ingress_port() {
    let mut bench = Bench::new(Profile::Lan);
    let ports: Vec<PortId> = (0..6).map(|slot| bench.member(slot)).collect();
    let others = |port: PortId| {
        let mut others: Vec<PortId> = ports.iter().copied().filter(|&other| other != port).collect();
        others.sort();
        others
    };
    for &port in &ports {
        let src = mac(port.slot() as u64);
        assert_eq!(bench.reached(port, &arp(Mac::BROADCAST, src)), others(port), "flood");
        assert_eq!(bench.reached(port, &arp(mac(999), src)), others(port), "unknown");
        assert_eq!(bench.dropped(port, &arp(src, mac(500))), DropReason::HubSamePort);
        assert_eq!(bench.reached(port, &arp(mac(500), src)), [], "neighbour behind the same port");
    }
    let meta = match bench.ingress(ports[0], &arp(Mac::BROADCAST, mac(0))) {
        Verdict::Flood(meta) => meta,
        verdict => panic!("{verdict:?}"),
    };
    let bytes = arp(Mac::BROADCAST, mac(0));
    let frame = Frame::new_checked(&bytes).unwrap();
    let back = egress(&bench.shared, &mut bench.views[0], ports[0], meta, frame);
    assert_eq!(back, Egress::Drop(DropReason::HubSamePort), "egress is sure by itself");
}

#[test]
fn e1_learned_unicast_goes_to_one_port() {
    let mut bench = Bench::new(Profile::Lan);
    let (a, b, _c) = (bench.member(0), bench.member(1), bench.member(2));
    bench.ingress(b, &arp(Mac::BROADCAST, mac(2)));
    assert_eq!(bench.reached(a, &arp(mac(2), mac(1))), [b]);
}

#[test]
fn e2_group_and_zero_sources_are_refused() {
    let mut bench = Bench::new(Profile::Lan);
    let a = bench.member(0);
    for src in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0; 6])] {
        assert_eq!(bench.dropped(a, &arp(mac(2), src)), DropReason::HubGroupSource);
    }
    assert_eq!(bench.shared.fdb_len(), 0);
}

#[test]
fn e2_address_moves_and_ages() {
    let mut bench = Bench::new(Profile::Lan);
    let (a, b, c) = (bench.member(0), bench.member(1), bench.member(2));
    bench.ingress(a, &arp(Mac::BROADCAST, mac(9)));
    bench.ingress(b, &arp(Mac::BROADCAST, mac(9)));
    assert_eq!(bench.reached(c, &arp(mac(9), mac(3))), [b], "moved");
    assert_eq!((bench.shared.macs(a), bench.shared.macs(b)), (0, 1));
    bench.wait_secs(300);
    assert_eq!(bench.reached(c, &arp(mac(9), mac(3))), [b], "300 s are not over");
    bench.wait_secs(1);
    assert_eq!(bench.reached(c, &arp(mac(9), mac(3))), [a, b], "aged");
    let table = bench.shared.mac_table(bench.now);
    assert_eq!(table.iter().map(|entry| (entry.mac, entry.port, entry.age_secs)).collect::<Vec<_>>(), [(mac(3), c, 0)]);
}

#[test]
fn e2_ageing_is_configurable() {
    for (configured, holds) in [(1, 10), (10, 10), (1_000_000, 1_000_000), (u32::MAX, 1_000_000)] {
        let mut bench = Bench::with(HubSettings { ageing_secs: configured, ..HubSettings::default() });
        let (a, b, c) = (bench.member(0), bench.member(1), bench.member(2));
        bench.ingress(a, &arp(Mac::BROADCAST, mac(1)));
        bench.wait_secs(holds);
        assert_eq!(bench.reached(b, &arp(mac(1), mac(2))), [a]);
        bench.wait_secs(1);
        assert_eq!(bench.reached(b, &arp(mac(1), mac(2))), [a, c]);
    }
}

#[test]
fn e3_reserved_groups_stay_on_their_link() {
    let mut bench = Bench::new(Profile::Lan);
    let (member, bridge) = (bench.member(0), bench.open(1, 1, PortKind::Bridge, &[]));
    let group = |last| Mac([0x01, 0x80, 0xc2, 0, 0, last]);
    assert_eq!(bench.dropped(bridge, &arp(group(0), mac(2))), DropReason::HubReservedGroup, "no other bridge");
    let far = bench.open(0, 2, PortKind::Bridge, &[]);
    for last in 0..=0x0f {
        assert_eq!(bench.dropped(member, &arp(group(last), mac(1))), DropReason::HubReservedGroup);
        let want = if last == 1 { vec![] } else { vec![far] };
        assert_eq!(bench.reached(bridge, &arp(group(last), mac(2))), want, "{last:#x}");
    }
    assert_eq!(bench.reached(member, &arp(group(0x10), mac(1))), [far, bridge]);
}

#[test]
fn e4_no_duplicates_while_ports_come_and_go() {
    let mut bench = Bench::new(Profile::Lan);
    let sender = bench.member(0);
    let ports: Vec<PortId> = (1..40).map(|slot| bench.member(slot)).collect();
    for &port in ports.iter().step_by(3) {
        bench.close(port);
    }
    let mut want: Vec<PortId> = ports.iter().copied().enumerate().filter(|(i, _)| i % 3 != 0).map(|(_, p)| p).collect();
    want.sort();
    assert_eq!(bench.reached(sender, &arp(Mac::BROADCAST, mac(1))), want);
}

#[test]
fn e6_frame_sizes() {
    let mut bench = Bench::new(Profile::Lan);
    let (a, b) = (bench.member(0), bench.member(1));
    for len in [14, 15, 60, 1514, 1518, 1600] {
        let mut bytes = arp(Mac::BROADCAST, mac(1));
        bytes.resize(len, 0);
        assert_eq!(bench.deliver(a, &bytes), [(b, bytes)], "{len}");
    }
    let mut bytes = arp(Mac::BROADCAST, mac(1));
    bytes.resize(1601, 0);
    assert_eq!(bench.dropped(a, &bytes), DropReason::FrameTooLong);
    assert!(Frame::new_checked(&bytes[..13]).is_none());
}

#[test]
fn e7_multicast_is_flooded() {
    for profile in [Profile::Lan, Profile::Public] {
        let mut bench = Bench::new(profile);
        let (a, b, c) = (bench.member(0), bench.member(1), bench.member(2));
        for group in [[0x01, 0, 0x5e, 1, 2, 3], [0x33, 0x33, 0, 0, 0, 1]] {
            assert_eq!(bench.reached(a, &arp(Mac(group), mac(1))), [c, b], "{profile:?}");
        }
    }
}

#[test]
fn public_does_not_flood_unknown_unicast_to_members() {
    let mut bench = Bench::new(Profile::Public);
    let (a, b) = (bench.member(0), bench.member(1));
    assert_eq!(bench.dropped(a, &arp(mac(9), mac(1))), DropReason::HubUnknownUnicast);
    let bridge = bench.open(1, 3, PortKind::Bridge, &[]);
    assert_eq!(bench.reached(a, &arp(mac(9), mac(1))), [bridge]);
    assert_eq!(bench.dropped(bridge, &arp(mac(9), mac(3))), DropReason::HubUnknownUnicast);
    assert_eq!(bench.reached(b, &arp(mac(1), mac(2))), [a], "known unicast between members");
}

#[test]
fn isolated_members_reach_the_gateway_only() {
    let settings = HubSettings { profile: Profile::Public, isolate_members: true, ..HubSettings::default() };
    let mut bench = Bench::with(settings);
    let (a, b) = (bench.member(0), bench.member(1));
    let gateway = bench.open(0, 2, PortKind::Host, &[]);
    bench.ingress(a, &arp(Mac::BROADCAST, mac(1)));
    assert_eq!(bench.reached(b, &arp(mac(1), mac(2))), [], "known unicast");
    assert_eq!(bench.reached(b, &arp(Mac::BROADCAST, mac(2))), [gateway]);
    assert_eq!(bench.reached(gateway, &arp(mac(1), mac(100))), [a]);
    assert_eq!(bench.reached(a, &arp(mac(100), mac(1))), [gateway]);
}

/// R12: settings change under live ports; nothing learned is lost.
#[test]
fn r12_reload_keeps_ports_and_addresses() {
    let mut bench = Bench::new(Profile::Lan);
    let (a, b) = (bench.member(0), bench.member(1));
    bench.ingress(b, &arp(Mac::BROADCAST, mac(2)));
    for round in 0..1000 {
        let kind = if round % 2 == 0 { PortKind::Bridge } else { PortKind::Member };
        let settings = bench.shared.compile(kind, &Policy::default());
        assert!(bench.shared.update_port(&mut bench.views[b.worker()], b, settings));
        assert_eq!(bench.reached(a, &arp(mac(2), mac(1))), [b]);
        assert_eq!(bench.shared.ports.open_bridges(1), u32::from(kind == PortKind::Bridge));
        assert_eq!((bench.views[1].own_ports().count(), bench.shared.open_ports(1)), (1, 1));
    }
}

#[test]
fn ports_belong_to_their_worker() {
    let mut bench = Bench::new(Profile::Lan);
    let a = bench.member(0);
    let open =
        |bench: &mut Bench, view: usize, port| bench.shared.open_port(&mut bench.views[view], port, PortSettings::OPEN);
    assert_eq!(open(&mut bench, 1, PortId::new(0, 5, 1)), Err(PortError::NotOwn));
    assert_eq!(open(&mut bench, 0, PortId::new(7, 5, 1)), Err(PortError::NotOwn));
    assert_eq!(open(&mut bench, 0, PortId::new(0, 0, 2)), Err(PortError::SlotTaken));
    assert!(!bench.shared.close_port(&mut bench.views[1], a));
    bench.close(a);
    assert!(!bench.shared.close_port(&mut bench.views[0], a), "once");
    assert_eq!(bench.dropped(a, &arp(mac(1), mac(2))), DropReason::HubPortClosed);
    assert_eq!(open(&mut bench, 0, PortId::new(0, 0, 2)), Ok(()));
    assert_eq!(bench.dropped(a, &arp(mac(1), mac(2))), DropReason::HubPortClosed, "the slot has another tenant");
}

#[test]
fn frame_for_a_port_that_closed_on_the_way() {
    let mut bench = Bench::new(Profile::Lan);
    let (a, b) = (bench.member(0), bench.member(1));
    bench.ingress(b, &arp(Mac::BROADCAST, mac(2)));
    let bytes = arp(mac(2), mac(1));
    let Verdict::Unicast(to, meta) = bench.ingress(a, &bytes) else { panic!("b is known") };
    bench.close(b);
    let copy = egress(&bench.shared, &mut bench.views[1], to, meta, Frame::new_checked(&bytes).unwrap());
    assert_eq!(copy, Egress::Drop(DropReason::EgressPortGone));
}
