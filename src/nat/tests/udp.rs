//! UDP: RFC 4787.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use super::rig::*;
use crate::metrics::drops::DropReason;
use crate::nat::*;
use crate::wire::icmp;
use crate::wire::ipv4::Ipv4;

/// One mapping for 100 destinations.
#[test]
fn nat_u1_endpoint_independent_mapping() {
    let mut rig = Rig::new(settings());
    let first = rig.udp_out(member(5), 4000, server(0));
    assert_eq!(*first.ip(), EXTERNAL);
    for n in 1..100 {
        assert_eq!(rig.udp_out(member(5), 4000, server(n)), first);
    }
    let out = rig.in_(&udp(server(50), first, b"back"));
    let seen = out.one_delivered();
    assert_eq!((seen.from, seen.to, &seen.data[..]), (server(50), at(member(5), 4000), &b"back"[..]));
    assert_ne!(rig.udp_out(member(5), 4001, server(0)), first);
}

#[test]
fn nat_u2_paired_pooling() {
    let mut rig = Rig::new(NatSettings { pool: vec!["5.5.5.4/30".parse().unwrap()], ..unlimited() });
    let mut used = BTreeSet::new();
    for n in 5..105 {
        let addresses: BTreeSet<_> = (0..40)
            .flat_map(|port| {
                let udp = rig.udp_out(member(n), 4000 + port, server(port.into()));
                let tcp = rig.syn_out(member(n), 4000 + port, server(port.into()));
                [*udp.ip(), *tcp.ip()]
            })
            .collect();
        assert_eq!(addresses.len(), 1, "of member {n}");
        used.extend(addresses);
    }
    assert_eq!(used.len(), 4, "members spread over the pool");
}

/// A pool so small that it runs out.
fn tiny() -> NatSettings {
    NatSettings { ports: (50_000, 50_255), ..unlimited() }
}

#[test]
fn nat_u3_no_overloading() {
    let mut rig = Rig::new(tiny());
    let mut taken = BTreeSet::new();
    let mut refused = 0;
    for n in 0..300u16 {
        let out =
            rig.out(member(u32::from(n % 9) + 5), &udp(at(member(u32::from(n % 9) + 5), 2000 + n), server(0), b""));
        match out.sent.len() {
            0 => refused += 1,
            _ => assert!(taken.insert(read(&out.sent[0].0).from.port()), "a port given twice"),
        }
    }
    assert!(taken.len() >= 128 && refused > 0, "{} given, {refused} refused", taken.len());
    assert_eq!(
        rig.out(member(5), &udp(at(member(5), 2000), server(0), b"")).one_sent().protocol,
        17,
        "known ones go on"
    );
}

/// Ports below 1024 serve static mappings only, which says `NatSettings::ports`; nothing else may have them.
#[test]
fn nat_u3a_low_ports_are_for_static_mappings() {
    let low = NatPlan::new(NatSettings { ports: (512, 4096), ..settings() });
    assert_eq!(low.unwrap_err(), NatPlanError::PortRange(512, 4096));
    let mut rig = Rig::new(settings());
    assert!(rig.udp_out(member(5), 123, server(0)).port() >= 1024);
    let fixed = StaticMapping { proto: Proto::Udp, external: end("5.5.5.5:123"), inside: end("100.64.0.5:123") };
    let mut rig = Rig::new(NatSettings { statics: vec![fixed], ..settings() });
    assert_eq!(rig.udp_out(member(5), 123, server(0)), end("5.5.5.5:123"));
}

#[test]
fn nat_u3b_ports_are_not_preserved() {
    let mut rig = Rig::new(settings());
    let kept = (0..40).filter(|n| rig.udp_out(member(5), 4000 + n, server(0)).port() == 4000 + n).count();
    assert!(kept < 10, "{kept} of 40 kept their port");
}

#[test]
fn nat_u4_port_parity() {
    let mut rig = Rig::new(settings());
    for port in (4000..4020).chain(5001..5011) {
        assert_eq!(rig.udp_out(member(5), port, server(0)).port() % 2, port % 2, "port {port}");
    }
}

#[test]
fn nat_u5_mapping_lasts_its_time() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    rig.pass_secs(299);
    assert_eq!(rig.in_(&udp(server(0), external, b"x")).delivered.len(), 1);
    rig.pass_secs(3);
    rig.in_(&udp(server(0), external, b"x")).dropped_for(DropReason::NatNoMapping);
}

/// Only a question to port 53 that has its answer ends sooner.
#[test]
fn nat_u5_dns_is_short_after_the_answer() {
    let dns = end("9.9.9.9:53");
    for (answered, after, lives) in [(false, 299, true), (true, 29, true), (true, 32, false)] {
        let mut rig = Rig::new(settings());
        let external = rig.udp_out(member(5), 4000, dns);
        if answered {
            rig.in_(&udp(dns, external, b"answer")).one_delivered();
        }
        rig.pass_secs(after);
        assert_eq!(rig.in_(&udp(dns, external, b"x")).delivered.len(), usize::from(lives), "{answered} {after}");
    }
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, dns);
    for _ in 0..10 {
        rig.pass_secs(20);
        rig.in_(&udp(dns, external, b"answer")).one_delivered();
        rig.pass_secs(5);
        assert_eq!(rig.udp_out(member(5), 4000, dns), external, "another question makes it long again");
    }
    rig.pass_secs(299);
    assert_eq!(rig.in_(&udp(dns, external, b"late")).delivered.len(), 1);
}

#[test]
fn nat_u5c_default_timeout() {
    assert_eq!(Timeouts::default().udp, Duration::from_secs(300));
    let mut rig = Rig::new(NatSettings {
        timeouts: Timeouts { udp: Duration::from_secs(600), ..Timeouts::default() },
        ..settings()
    });
    let external = rig.udp_out(member(5), 4000, server(0));
    rig.pass_secs(599);
    assert_eq!(rig.in_(&udp(server(0), external, b"x")).delivered.len(), 1);
}

#[test]
fn nat_u6_outbound_refreshes() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    for n in 1..20 {
        rig.pass_secs(250);
        assert_eq!(rig.udp_out(member(5), 4000, server(n)), external, "to whomever");
    }
    rig.pass_secs(302);
    assert_eq!(rig.stats().mappings, 0);
}

#[test]
fn nat_u6a_inbound_refresh_is_an_option() {
    for inbound_refresh in [false, true] {
        let mut rig = Rig::new(NatSettings { inbound_refresh, ..settings() });
        let external = rig.udp_out(member(5), 4000, server(0));
        for _ in 0..3 {
            rig.pass_secs(150);
            rig.in_(&udp(server(0), external, b"x"));
        }
        assert_eq!(rig.stats().mappings, u64::from(inbound_refresh));
    }
}

#[test]
fn nat_u7_address_conflict_is_refused() {
    for (pool, inside) in [("100.64.5.0/28", "100.64.0.0/16"), ("100.0.0.0/30", "100.0.0.0/8")] {
        let (pool, inside): (Prefix, Prefix) = (pool.parse().unwrap(), inside.parse().unwrap());
        let plan = NatPlan::new(NatSettings::new(1, inside, inside.first(), vec![pool]));
        assert_eq!(plan.unwrap_err(), NatPlanError::InsideIsOutside(pool, inside));
    }
}

/// From whom a mapping that has sent to 8.0.0.1:443 takes packets, by filtering.
#[test]
fn nat_u8_filtering() {
    assert_eq!(settings().filtering_udp, Filtering::Address);
    for (filtering, same, port, other) in [
        (Filtering::EndpointIndependent, true, true, true),
        (Filtering::Address, true, true, false),
        (Filtering::AddressPort, true, false, false),
    ] {
        let mut rig = Rig::new(NatSettings { filtering_udp: filtering, ..settings() });
        let external = rig.udp_out(member(5), 4000, server(0));
        for (from, passes) in [(server(0), same), (end("8.0.0.1:9"), port), (server(1), other)] {
            let out = rig.in_(&udp(from, external, b"x"));
            match passes {
                true => assert_eq!(out.one_delivered().from, from),
                false => out.dropped_for(DropReason::NatFiltered),
            }
        }
    }
}

/// The address stays known while any flow to it lives, whichever ended first.
#[test]
fn nat_u8_address_is_forgotten_with_its_last_flow() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, end("8.0.0.1:1"));
    for (n, port) in (1..8u16).zip([2, 3, 1, 4, 2, 5, 1]) {
        rig.pass_secs(100);
        rig.udp_out(member(5), 4000, std::net::SocketAddrV4::new([8, 0, 0, 1].into(), port));
        assert_eq!(rig.in_(&udp(end("8.0.0.1:77"), external, b"x")).delivered.len(), 1, "step {n}");
    }
    for _ in 0..5 {
        rig.pass_secs(100);
        rig.udp_out(member(5), 4000, server(9));
    }
    rig.in_(&udp(end("8.0.0.1:77"), external, b"x")).dropped_for(DropReason::NatFiltered);
}

#[test]
fn nat_u9_hairpin() {
    let mut rig = Rig::new(settings());
    let (a, b) = (rig.udp_out(member(5), 4000, server(0)), rig.udp_out(member(6), 5000, server(0)));
    let first = rig.hairpin(member(5), &udp(at(member(5), 4000), b, b"hello"));
    first.dropped_for(DropReason::NatFiltered);
    let second = rig.hairpin(member(6), &udp(at(member(6), 5000), a, b"hello"));
    assert_eq!(second.one_delivered().to, at(member(5), 4000), "both have sent: the hole is there");
    assert_eq!(rig.hairpin(member(5), &udp(at(member(5), 4000), b, b"hello")).one_delivered().to, at(member(6), 5000));
    assert_eq!(rig.stats().hairpins, 3);
}

#[test]
fn nat_u9a_hairpin_source_is_external() {
    let mut rig = Rig::new(NatSettings { filtering_udp: Filtering::EndpointIndependent, ..settings() });
    let b = rig.udp_out(member(6), 5000, server(0));
    let seen = rig.hairpin(member(5), &udp(at(member(5), 4000), b, b"hello")).one_delivered();
    assert_eq!((seen.from, seen.to), (rig.udp_out(member(5), 4000, server(0)), at(member(6), 5000)));
}

/// Nothing in a payload is ever looked at: what looks like the inside address of another protocol passes unchanged.
#[test]
fn nat_u10_no_alg() {
    let mut rig = Rig::new(settings());
    for (port, data) in [
        (5060, "INVITE sip:b SIP/2.0\r\nContact: <sip:a@100.64.0.5:4000>\r\n\r\n"),
        (69, "\0\x01file\0octet\0"),
        (1719, "100.64.0.5:4000"),
    ] {
        let to = std::net::SocketAddrV4::new([8, 0, 0, 1].into(), port);
        let seen = rig.out(member(5), &udp(at(member(5), 4000), to, data.as_bytes())).one_sent();
        assert_eq!(seen.data, data.as_bytes());
    }
}

/// Behaviour depends neither on how full the pool is nor on chance.
#[test]
fn nat_u11_deterministic_at_any_fill() {
    for percent in [10u16, 90, 100] {
        let mut rig = Rig::new(NatSettings { ports: (50_000, 51_023), ..unlimited() });
        let fill = 1_024 / 100 * percent - 2;
        for n in 0..fill {
            rig.udp_out(member(50 + u32::from(n % 16)), 2000 + n, server(1));
        }
        let first = rig.udp_out(member(5), 4000, server(0));
        for n in 0..20 {
            assert_eq!(rig.udp_out(member(5), 4000, server(n)), first, "mapping at {percent} %");
        }
        rig.in_(&udp(server(99), first, b"")).dropped_for(DropReason::NatFiltered);
        assert_eq!(
            rig.in_(&udp(server(7), first, b"")).one_delivered().to,
            at(member(5), 4000),
            "filter at {percent} %"
        );
        rig.pass_secs(299);
        assert_eq!(rig.in_(&udp(server(7), first, b"")).delivered.len(), 1, "time at {percent} %");
    }
}

/// All types and codes, about the flow and about anything.
#[test]
fn nat_u12_icmp_never_ends_a_mapping() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    let about = udp(external, server(0), b"data");
    for kind in 0..=255 {
        for code in 0..16 {
            rig.in_(&icmp_error([9, 9, 9, 9].into(), EXTERNAL, (kind, code), &about));
            let inner = udp(server(0), at(member(5), 4000), b"data");
            rig.out(member(5), &icmp_error(member(5).address, *server(0).ip(), (kind, code), &inner));
        }
    }
    assert_eq!(rig.in_(&udp(server(0), external, b"x")).one_delivered().to, at(member(5), 4000));
    assert_eq!(rig.udp_out(member(5), 4000, server(0)), external);
}

#[test]
fn nat_u12a_icmp_from_any_router() {
    let mut rig = Rig::new(NatSettings { filtering_udp: Filtering::AddressPort, ..settings() });
    let external = rig.udp_out(member(5), 4000, server(0));
    for router in ["9.9.9.9", "8.0.0.1", "77.1.2.3"] {
        let error = icmp_error(router.parse().unwrap(), EXTERNAL, (11, 0), &udp(external, server(0), b"data"));
        assert_eq!(*rig.in_(&error).one_delivered().from.ip(), router.parse::<std::net::Ipv4Addr>().unwrap());
    }
}

#[test]
fn nat_u12b_destination_unreachable() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    for code in 0..=15 {
        let error = icmp_error(*server(0).ip(), EXTERNAL, (3, code), &udp(external, server(0), b"data"));
        let out = rig.in_(&error);
        assert_eq!(quote(&out.delivered[0].1), ((3, code), udp(at(member(5), 4000), server(0), b"data")));
    }
}

fn with_df(mut packet: Vec<u8>, dont_fragment: bool) -> Vec<u8> {
    packet[6] = if dont_fragment { 0x40 } else { 0 };
    seal(&mut packet);
    packet
}

#[test]
fn nat_u13_too_big() {
    for mtu in [1460u16, 1454, 1280] {
        let mut rig = Rig::new(NatSettings { uplink_mtu: mtu, ..settings() });
        let fits = with_df(udp(at(member(5), 4000), server(0), &vec![7; usize::from(mtu) - 28]), true);
        rig.out(member(5), &fits).one_sent();
        let long = with_df(udp(at(member(5), 4000), server(0), &vec![7; usize::from(mtu) - 27]), true);
        let out = rig.out(member(5), &long);
        assert_eq!((out.sent.len(), &out.drops[..]), (0, &[DropReason::NatTooBig][..]));
        let (to, error, _) = &out.delivered[0];
        assert_eq!((*to, quote(error).0), (member(5).address, (icmp::UNREACHABLE, icmp::CODE_TOO_BIG)));
        assert_eq!(error[26..28], mtu.to_be_bytes());
        assert_eq!(quote(error).1, long[..548], "as the member sent it");
        assert_eq!(*read(error).from.ip(), GATEWAY);
    }
    let mut rig = Rig::new(NatSettings { inside_mtu: 1400, ..settings() });
    let external = rig.udp_out(member(5), 4000, server(0));
    let out = rig.in_(&with_df(udp(server(0), external, &[7; 1400]), true));
    assert_eq!((out.delivered.len(), out.sent.len(), out.sent[0].0[26..28].to_vec()), (0, 1, vec![5, 120]));
    assert_eq!((read(&out.sent[0].0).from.ip(), read(&out.sent[0].0).to.ip()), (&EXTERNAL, server(0).ip()));
}

/// Offsets, lengths and whether more follow; payloads together.
fn fragments(packets: &[Vec<u8>]) -> (Vec<(u16, usize, bool)>, Vec<u8>) {
    let mut payload = Vec::new();
    let places = packets
        .iter()
        .map(|packet| {
            let ip = Ipv4::new_checked(packet).unwrap();
            assert!(ip.header_is_intact() && ip.whole().unwrap().len() == packet.len());
            payload.extend_from_slice(ip.payload());
            (ip.fragment_offset() * 8, ip.payload().len(), ip.more_fragments())
        })
        .collect();
    (places, payload)
}

#[test]
fn nat_u13a_fragments_in_order() {
    let mut rig = Rig::new(NatSettings { uplink_mtu: 1280, inside_mtu: 1280, ..settings() });
    let long = with_df(udp(at(member(5), 4000), server(0), &[7; 1400]), false);
    let sent: Vec<_> = rig.out(member(5), &long).sent.into_iter().map(|(packet, _)| packet).collect();
    let (places, payload) = fragments(&sent);
    assert_eq!(places, [(0, 1256, true), (1256, 152, false)]);
    let whole = ip(EXTERNAL, *server(0).ip(), 17, &payload);
    assert_eq!(read(&whole).data, [7; 1400]);
    let external = read(&whole).from;
    let back = rig.in_(&with_df(udp(server(0), external, &[8; 1400]), false));
    let (places, payload) = fragments(&back.delivered.into_iter().map(|(_, packet, _)| packet).collect::<Vec<_>>());
    assert_eq!(places, [(0, 1256, true), (1256, 152, false)]);
    assert_eq!(read(&ip(*server(0).ip(), member(5).address, 17, &payload)).data, [8; 1400]);
}

/// Cuts a packet into fragments of at most `mtu` bytes, with an identification.
pub(super) fn cut(packet: &[u8], mtu: usize, identification: u16) -> Vec<Vec<u8>> {
    let mut packet = with_df(packet.to_vec(), false);
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    seal(&mut packet);
    let mut out = Vec::new();
    crate::nat::fragments::cut(&packet, mtu, &mut Vec::new(), |fragment| out.push(fragment.to_vec()));
    out
}

/// All orders of four fragments, both ways, with one worker and with several.
#[test]
fn nat_u14_fragments_in_any_order() {
    for workers in [1, 3] {
        let mut rig = Rig::new(NatSettings { workers, ..settings() });
        let external = rig.udp_out(member(5), 4000, server(0));
        let data: Vec<u8> = (0..2000u32).map(|n| (n % 251) as u8).collect();
        let mut id = 0;
        for order in orders(4) {
            id += 1;
            let pieces = cut(&udp(at(member(5), 4000), server(0), &data), 572, id);
            assert_eq!(pieces.len(), 4);
            let mut sent = Vec::new();
            for (n, at) in order.iter().enumerate() {
                let out = rig.out(member(5), &pieces[*at]);
                assert_eq!((out.sent.is_empty(), &out.drops[..]), (n < 3, &[][..]));
                sent.extend(out.sent.into_iter().map(|(packet, _)| packet));
            }
            let seen = read(&ip(EXTERNAL, *server(0).ip(), 17, &fragments(&sent).1));
            assert_eq!((seen.from, &seen.data), (external, &data), "{order:?} outbound");

            let pieces = cut(&udp(server(0), external, &data), 572, id);
            let mut delivered = Vec::new();
            for at in &order {
                let out = rig.in_(&pieces[*at]);
                assert_eq!(out.drops, []);
                delivered.extend(out.delivered.into_iter().map(|(_, packet, _)| packet));
            }
            let seen = read(&ip(*server(0).ip(), member(5).address, 17, &fragments(&delivered).1));
            assert_eq!((seen.to, &seen.data), (at(member(5), 4000), &data), "{order:?} inbound, {workers} workers");
        }
    }
}

fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![vec![]];
    }
    let shorter = orders(count - 1);
    let insert = |order: &Vec<usize>| {
        (0..count)
            .map(|at| {
                let mut order = order.clone();
                order.insert(at, count - 1);
                order
            })
            .collect::<Vec<_>>()
    };
    shorter.iter().flat_map(insert).collect()
}

#[test]
fn nat_u14a_fragment_floods_hurt_nobody_else() {
    let mut rig = Rig::new(unlimited());
    let external = rig.udp_out(member(5), 4000, server(0));
    for n in 0..20_000u32 {
        let from = std::net::SocketAddrV4::new((0x0900_0000 + n).into(), 1);
        let pieces = cut(&udp(from, external, &[0; 2000]), 1500, (n & 0xffff) as u16);
        rig.in_(&pieces[0]);
    }
    assert!(rig.stats().datagrams <= 1024);
    assert_eq!(rig.in_(&udp(server(0), external, b"x")).delivered.len(), 1);
    let pieces = cut(&udp(server(0), external, &[9; 2000]), 1500, 7);
    let delivered: usize = pieces.iter().map(|piece| rig.in_(piece).delivered.len()).sum();
    assert_eq!(delivered, 2, "a real datagram still comes through");
}
