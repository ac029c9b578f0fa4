//! H9 to H12, and the policies that refuse frames.
#![forbid(unsafe_code)]

use super::*;

/// H9: a million addresses from one port.
#[test]
fn h9_mac_flood_costs_only_the_flooder() {
    let mut bench = Bench::new(Profile::Lan);
    let (attacker, victim, third) = (bench.member(0), bench.member(1), bench.member(2));
    bench.ingress(victim, &arp(Mac::BROADCAST, mac(1)));
    bench.ingress(third, &arp(Mac::BROADCAST, mac(2)));
    let mut accepted = 0;
    for n in 0..1_000_000 {
        let verdict = bench.ingress(attacker, &arp(mac(1), mac(0x10_0000 + n)));
        accepted += u32::from(verdict != Verdict::Drop(DropReason::HubMacLimit));
        if n % 10_000 == 0 {
            assert_eq!(bench.reached(third, &arp(mac(1), mac(2))), [victim], "their unicast is never flooded");
        }
    }
    assert_eq!((accepted, bench.shared.macs(attacker), bench.shared.fdb_len()), (64, 64, 66));
}

#[test]
fn h9_allowance_returns_with_the_sweep() {
    let mut bench = Bench::new(Profile::Public);
    let a = bench.member(0);
    for n in 0..4 {
        bench.ingress(a, &arp(Mac::BROADCAST, mac(n + 1)));
    }
    assert_eq!(bench.dropped(a, &arp(Mac::BROADCAST, mac(9))), DropReason::HubMacLimit);
    bench.wait_secs(301);
    let freed: usize = (0..2).map(|w| bench.shared.sweep(&mut bench.views[w], usize::MAX, bench.now)).sum();
    assert_eq!((freed, bench.shared.macs(a), bench.shared.fdb_len()), (4, 0, 0));
    assert!(matches!(bench.ingress(a, &arp(Mac::BROADCAST, mac(9))), Verdict::Flood(_)));
}

#[test]
fn h10_mac_of_a_live_member_is_held() {
    let mut bench = Bench::new(Profile::Public);
    let (owner, thief) = (bench.member(0), bench.member(1));
    bench.ingress(owner, &arp(Mac::BROADCAST, mac(1)));
    bench.wait_secs(13);
    assert_eq!(bench.dropped(thief, &arp(mac(5), mac(1))), DropReason::HubMacHeld);
    bench.ingress(owner, &arp(Mac::BROADCAST, mac(1)));
    bench.wait_secs(14);
    bench.ingress(thief, &arp(Mac::BROADCAST, mac(1)));
    assert_eq!(bench.shared.mac_table(bench.now)[0].port, thief, "silent for more than 13 s");
}

#[test]
fn h10_a_ghost_holds_nothing() {
    let mut bench = Bench::new(Profile::Public);
    let (ghost, again) = (bench.member(0), bench.member(1));
    bench.ingress(ghost, &arp(Mac::BROADCAST, mac(1)));
    bench.close(ghost);
    bench.ingress(again, &arp(Mac::BROADCAST, mac(1)));
    assert_eq!(bench.shared.mac_table(bench.now)[0].port, again);
    assert_eq!((bench.shared.macs(again), bench.shared.fdb_len()), (1, 1));
}

#[test]
fn h10_check_mac_is_a_policy_in_a_lan() {
    let mut bench = Bench::new(Profile::Lan);
    let owner = bench.member(0);
    let checked = bench.open(1, 1, PortKind::Member, &[(Item::CheckMac, 1)]);
    bench.ingress(owner, &arp(Mac::BROADCAST, mac(1)));
    assert_eq!(bench.dropped(checked, &arp(mac(5), mac(1))), DropReason::HubMacHeld);
}

/// The gateway's address stays the gateway's, however long it is silent.
#[test]
fn h11_the_gateways_address_cannot_be_taken() {
    let mut bench = Bench::new(Profile::Lan);
    let (a, b) = (bench.member(0), bench.member(1));
    let gateway = bench.open(0, 2, PortKind::Host, &[]);
    bench.ingress(gateway, &arp(Mac::BROADCAST, mac(100)));
    bench.wait_secs(100_000);
    bench.shared.sweep(&mut bench.views[0], usize::MAX, bench.now);
    bench.shared.sweep(&mut bench.views[1], usize::MAX, bench.now);
    assert_eq!(bench.dropped(a, &arp(mac(5), mac(100))), DropReason::HubMacHeld);
    assert_eq!(bench.reached(b, &arp(mac(100), mac(2))), [gateway]);
}

#[test]
fn h11_public_members_are_no_servers() {
    let mut bench = Bench::new(Profile::Public);
    let (member, bridge) = (bench.member(0), bench.open(1, 1, PortKind::Bridge, &[]));
    let cases = [
        (udp(Mac::BROADCAST, mac(1), 67, 68), DropReason::HubDhcpServer),
        (icmpv6(Mac([0x33, 0x33, 0, 0, 0, 1]), mac(1), 134), DropReason::HubRouterAdvert),
    ];
    for (bytes, reason) in cases {
        assert_eq!(bench.dropped(member, &bytes), reason);
        let mut bytes = bytes;
        bytes[11] = 2;
        assert_eq!(bench.reached(bridge, &bytes), [member]);
    }
    assert_eq!(bench.reached(member, &udp(Mac::BROADCAST, mac(1), 68, 67)), [bridge], "asking is allowed");
}

#[test]
fn public_chatter_is_not_flooded() {
    let mut bench = Bench::new(Profile::Public);
    let (a, b) = (bench.member(0), bench.member(1));
    bench.ingress(b, &arp(Mac::BROADCAST, mac(2)));
    for port in [137, 138, 1900, 5353, 5355] {
        assert_eq!(bench.dropped(a, &udp(Mac::BROADCAST, mac(1), port, port)), DropReason::HubChatter);
        assert_eq!(bench.reached(a, &udp(mac(2), mac(1), port, port)), [b], "to one it is nobody's burden");
    }
}

#[test]
fn strangers_ask_the_gateway_alone() {
    let mut bench = Bench::new(Profile::Public);
    let (a, b) = (bench.member(0), bench.member(1));
    let questions = [arp(Mac::BROADCAST, mac(1)), udp(Mac::BROADCAST, mac(1), 68, 67)];
    for question in &questions {
        assert_eq!(bench.reached(a, question), [b], "nobody but the others could answer");
    }
    let gateway = bench.open(1, 9, PortKind::Host, &[]);
    let bridge = bench.open(0, 4, PortKind::Bridge, &[]);
    for question in &questions {
        assert_eq!(bench.reached(a, question), [bridge, gateway]);
    }
    assert_eq!(bench.reached(gateway, &arp(Mac::BROADCAST, mac(9))), [a, bridge, b], "the gateway tells everybody");
    bench.close(gateway);
    assert_eq!(bench.reached(a, &questions[0]), [bridge, b]);
    let mut friends = Bench::new(Profile::Lan);
    let (a, b) = (friends.member(0), friends.member(1));
    let gateway = friends.open(1, 9, PortKind::Host, &[]);
    assert_eq!(friends.reached(a, &arp(Mac::BROADCAST, mac(1))), [b, gateway]);
}

#[test]
fn ipv6_without_a_service_stays_out() {
    let group6 = Mac([0x33, 0x33, 0, 0, 0, 1]);
    let mut bench =
        Bench::with(HubSettings { profile: Profile::Public, members_ipv6: false, ..HubSettings::default() });
    let (a, b) = (bench.member(0), bench.member(1));
    let bridge = bench.open(0, 4, PortKind::Bridge, &[]);
    bench.ingress(b, &arp(Mac::BROADCAST, mac(2)));
    for dst in [group6, mac(2)] {
        assert_eq!(bench.dropped(a, &icmpv6(dst, mac(1), 135)), DropReason::HubIpv6);
        assert_eq!(bench.reached(bridge, &icmpv6(dst, mac(7), 135)), [], "nor does it reach a member");
    }
    assert_eq!(bench.dropped(a, &icmpv6(group6, mac(1), 134)), DropReason::HubRouterAdvert);
    assert_eq!(bench.reached(a, &udp(mac(2), mac(1), 9, 9)), [b]);
}

#[test]
fn h12_storm_is_limited_and_unicast_is_not() {
    let mut bench = Bench::new(Profile::Lan);
    let (a, b) = (bench.member(0), bench.member(1));
    bench.ingress(b, &arp(Mac::BROADCAST, mac(2)));
    let start = bench.now.0;
    let mut flooded = 0;
    for n in 0..100_000 {
        bench.now = Tick(start + n * 10_000);
        match bench.ingress(a, &arp(Mac::BROADCAST, mac(1))) {
            Verdict::Flood(_) => flooded += 1,
            Verdict::Drop(reason) => assert_eq!(reason, DropReason::HubStorm),
            Verdict::Unicast(..) => panic!("broadcast"),
        }
        if n % 1000 == 0 {
            assert_eq!(bench.reached(a, &arp(mac(2), mac(1))), [b]);
        }
    }
    assert!((500..=520).contains(&flooded), "{flooded}: a burst of 256 and 256 in the second");
    let free = bench.open(0, 4, PortKind::Member, &[(Item::NoBroadcastLimiter, 1)]);
    assert!((0..10_000).all(|_| matches!(bench.ingress(free, &arp(Mac::BROADCAST, mac(4))), Verdict::Flood(_))));
}

#[test]
fn a_probe_for_loops_passes_the_storm() {
    let mut bench = Bench::new(Profile::Lan);
    let bridge = bench.open(0, 4, PortKind::Bridge, &[]);
    let storm = arp(Mac::BROADCAST, mac(4));
    while matches!(bench.ingress(bridge, &storm), Verdict::Flood(_)) {}
    let mut probe = arp(loop_probe::GROUP, mac(5));
    let sent = (0..1_000).filter(|_| matches!(bench.ingress(bridge, &probe), Verdict::Flood(_))).count();
    assert_eq!(sent, 64, "not any number of them");
    probe[0] ^= 0x10;
    assert_eq!(bench.dropped(bridge, &probe), DropReason::HubStorm);
}

#[test]
fn probes_for_loops_go_where_a_loop_can_be() {
    let probe = arp(loop_probe::GROUP, mac(5));
    let mut lan = Bench::new(Profile::Lan);
    let (member, bridge) = (lan.member(0), lan.open(0, 4, PortKind::Bridge, &[]));
    assert_eq!(lan.reached(bridge, &probe), [member]);
    let mut public = Bench::new(Profile::Public);
    let (member, bridge) = (public.member(0), public.open(0, 4, PortKind::Bridge, &[]));
    assert_eq!(public.reached(bridge, &probe), []);
    assert_eq!(public.dropped(member, &arp(loop_probe::GROUP, mac(1))), DropReason::HubUnknownUnicast, "no bridge");
    let other = public.open(0, 5, PortKind::Bridge, &[]);
    assert_eq!(public.reached(bridge, &probe), [other]);
}

#[test]
fn policies_on_ingress() {
    use DropReason::{HubDhcpServer, HubIpv6, HubPolicy, HubRouterAdvert};
    let group6 = Mac([0x33, 0x33, 0, 0, 0, 1]);
    let syn_ack = |v6: bool| {
        let mut bytes = if v6 { icmpv6(mac(2), mac(1), 0) } else { udp(mac(2), mac(1), 80, 5000) };
        let (protocol, tcp) = if v6 { (54, 62) } else { (23, 34) };
        bytes[protocol] = 6;
        bytes.resize(tcp + 20, 0);
        bytes[tcp + 13] = 0x12;
        bytes
    };
    let cases: Vec<(Item, Vec<u8>, Option<DropReason>)> = vec![
        (Item::DHCPFilter, udp(Mac::BROADCAST, mac(1), 68, 67), Some(HubPolicy)),
        (Item::DHCPNoServer, udp(Mac::BROADCAST, mac(1), 68, 67), None),
        (Item::DHCPNoServer, udp(Mac::BROADCAST, mac(1), 67, 68), Some(HubDhcpServer)),
        (Item::ArpDhcpOnly, arp(Mac::BROADCAST, mac(1)), None),
        (Item::ArpDhcpOnly, udp(Mac::BROADCAST, mac(1), 68, 67), None),
        (Item::ArpDhcpOnly, udp(Mac::BROADCAST, mac(1), 9, 9), Some(HubPolicy)),
        (Item::ArpDhcpOnly, udp(mac(2), mac(1), 9, 9), None),
        (Item::NoServer, syn_ack(false), Some(HubPolicy)),
        (Item::NoServer, syn_ack(true), None),
        (Item::NoServerV6, syn_ack(true), Some(HubPolicy)),
        (Item::NoServerV6, syn_ack(false), None),
        (Item::RSandRAFilter, icmpv6(group6, mac(1), 133), Some(HubPolicy)),
        (Item::RAFilter, icmpv6(group6, mac(1), 133), None),
        (Item::RAFilter, icmpv6(group6, mac(1), 134), Some(HubRouterAdvert)),
        (Item::RAFilter, icmpv6(group6, mac(1), 135), None),
        (Item::FilterIPv4, arp(Mac::BROADCAST, mac(1)), Some(HubPolicy)),
        (Item::FilterIPv4, icmpv6(group6, mac(1), 135), None),
        (Item::FilterIPv6, icmpv6(group6, mac(1), 135), Some(HubIpv6)),
        (Item::FilterIPv6, arp(Mac::BROADCAST, mac(1)), None),
        (Item::FilterNonIP, raw(Mac::BROADCAST, mac(1), &[0x88, 0x63, 0x11, 9]), Some(HubPolicy)),
        (Item::FilterNonIP, arp(Mac::BROADCAST, mac(1)), None),
    ];
    for (item, bytes, want) in cases {
        let mut bench = Bench::new(Profile::Lan);
        let port = bench.open(0, 0, PortKind::Member, &[(item, 1)]);
        let got = match bench.ingress(port, &bytes) {
            Verdict::Drop(reason) => Some(reason),
            _ => None,
        };
        assert_eq!(got, want, "{item:?} {bytes:02x?}");
    }
}

#[test]
fn policies_on_egress() {
    let group6 = Mac([0x33, 0x33, 0, 0, 0, 1]);
    for (item, bytes, reaches) in [
        (Item::DHCPFilter, udp(Mac::BROADCAST, mac(1), 67, 68), false),
        (Item::DHCPNoServer, udp(Mac::BROADCAST, mac(1), 67, 68), true),
        (Item::RSandRAFilter, icmpv6(group6, mac(1), 134), false),
        (Item::RAFilter, icmpv6(group6, mac(1), 134), true),
        (Item::FilterIPv4, arp(Mac::BROADCAST, mac(1)), false),
        (Item::FilterIPv6, arp(Mac::BROADCAST, mac(1)), true),
    ] {
        let mut bench = Bench::new(Profile::Lan);
        let sender = bench.member(0);
        let port = bench.open(1, 1, PortKind::Member, &[(item, 1)]);
        let plain = bench.member(2);
        let reached = bench.reached(sender, &bytes);
        assert_eq!((reached.contains(&port), reached.contains(&plain)), (reaches, true), "{item:?}");
    }
}

#[test]
fn privacy_filter_needs_both_ends() {
    let mut bench = Bench::new(Profile::Lan);
    let private: Vec<PortId> =
        (0..2).map(|slot| bench.open(0, slot, PortKind::Member, &[(Item::PrivacyFilter, 1)])).collect();
    let plain = bench.open(0, 2, PortKind::Member, &[]);
    assert_eq!(bench.reached(private[0], &arp(Mac::BROADCAST, mac(1))), [plain]);
    assert_eq!(bench.reached(plain, &arp(Mac::BROADCAST, mac(3))), private);
    bench.ingress(private[1], &arp(Mac::BROADCAST, mac(2)));
    assert_eq!(bench.reached(private[0], &arp(mac(2), mac(1))), [], "nor by unicast");
}
