//! What RFC 7857 changed.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use super::rig::*;
use crate::metrics::drops::DropReason;
use crate::nat::tcp::State;
use crate::nat::*;
use crate::wire::ipv4::Ipv4;

fn state(rig: &Rig) -> State {
    rig.nats[0].list(&NatFilter::default(), 10, rig.now)[0].state.unwrap()
}

/// The states of a connection's life, one after the other; `tcp.rs` has every transition.
#[test]
fn nat_p1_state_machine() {
    let mut rig = Rig::new(settings());
    let (a, b) = (at(member(5), 4000), server(0));
    let external = rig.syn_out(member(5), 4000, b);
    assert_eq!(state(&rig), State::SynOut);
    for (outbound, flags, want) in [
        (false, SYN | ACK, State::Established),
        (true, ACK, State::Established),
        (true, FIN | ACK, State::FinOut),
        (false, ACK, State::FinOut),
        (false, FIN | ACK, State::FinBoth),
        (true, ACK, State::FinBoth),
        (true, SYN, State::SynOut),
        (false, SYN | ACK, State::Established),
        (false, RST, State::Reset),
    ] {
        match outbound {
            true => rig.out(member(5), &tcp(a, b, flags, &[])).one_sent(),
            false => rig.in_(&tcp(b, external, flags, &[])).one_delivered(),
        };
        assert_eq!(state(&rig), want, "after {flags:#x}");
    }
}

#[test]
fn nat_p2_separate_timers() {
    let timeouts = Timeouts {
        tcp_partial_open: Duration::from_secs(250),
        tcp_closing: Duration::from_secs(500),
        tcp_established: Duration::from_secs(9_000),
        ..Timeouts::default()
    };
    for (phase, secs) in [(0, 250), (1, 9_000), (2, 500)] {
        for (after, lives) in [(secs - 1, 1), (secs + 2, 0)] {
            let mut rig = Rig::new(NatSettings { timeouts, ..settings() });
            let external = rig.syn_out(member(5), 4000, server(0));
            if phase > 0 {
                rig.in_(&tcp(server(0), external, SYN | ACK, &[])).one_delivered();
            }
            if phase > 1 {
                rig.in_(&tcp(server(0), external, RST, &[])).one_delivered();
            }
            rig.pass_secs(after);
            assert_eq!(rig.stats().flows, lives, "phase {phase} after {after} s");
        }
    }
}

#[test]
fn nat_p3_forged_rst() {
    let mut rig = Rig::new(settings());
    let (a, b) = (at(member(5), 4000), server(0));
    let external = rig.connect(member(5), 4000, b);
    for _ in 0..3 {
        rig.in_(&tcp(b, external, RST, &[])).one_delivered();
        rig.pass_secs(200);
        assert_eq!(rig.in_(&tcp(b, external, ACK, b"still here")).one_delivered().to, a);
        rig.pass_secs(7_000);
        assert_eq!(rig.stats().flows, 1, "the connection goes on as before");
    }
    rig.in_(&tcp(b, external, RST, &[])).one_delivered();
    rig.pass_secs(239);
    assert_eq!(rig.stats().flows, 1, "a reset leaves it four minutes");
    rig.pass_secs(3);
    assert_eq!(rig.stats().flows, 0, "of quiet");
}

/// Only beyond a member's own ports, only TCP, only towards other destinations, and always recorded.
#[test]
fn nat_p4_overlap_is_the_exception() {
    let mut rig = Rig::new(NatSettings { ports: (50_000, 50_127), ..unlimited() });
    let mut flows = BTreeSet::new();
    let mut recorded = 0;
    for n in 0..400u16 {
        let who = member(5 + u32::from(n % 4));
        let to = server((n / 4).into());
        let out = rig.out(who, &tcp(at(who, 2000 + n), to, SYN, &[]));
        let seen = out.one_sent();
        assert!(flows.insert((seen.from, seen.to)), "one port, one destination, one member");
        let began = out.events.iter().any(
            |e| matches!(e, NatEvent::FlowBegan { translation, remote, .. } if translation.external == seen.from && *remote == to),
        );
        let slice = rig.plan.slice(0);
        assert_eq!(began, seen.from.port() >= slice.commons, "recorded if shared");
        recorded += usize::from(began);
    }
    let ports: BTreeSet<u16> = flows.iter().map(|(external, _)| external.port()).collect();
    assert!(ports.len() <= 128 && recorded >= 300, "{} ports, {recorded} shared", ports.len());
    assert_eq!(rig.stats().overlaps_begun, recorded as u64);
}

#[test]
fn nat_p5_paired_by_default() {
    let two = || NatSettings { pool: vec!["5.5.5.4/31".parse().unwrap()], ports: (50_000, 50_127), ..unlimited() };
    assert_eq!(two().pooling, Pooling::Paired);
    for (pooling, addresses) in [(Pooling::Paired, 1), (Pooling::Arbitrary, 2)] {
        let mut rig = Rig::new(NatSettings { pooling, ..two() });
        let mut used = BTreeSet::new();
        let mut refused = 0;
        for n in 0..400 {
            let out = rig.out(member(5), &udp(at(member(5), 2000 + n), server(0), b""));
            match out.sent.first() {
                Some((packet, _)) => drop(used.insert(*read(packet).from.ip())),
                None => refused += 1,
            }
        }
        assert_eq!(used.len(), addresses);
        assert!(refused > 0, "rather refused than mixed");
    }
}

#[test]
fn nat_p6_mappings_by_protocol() {
    let mut rig = Rig::new(settings());
    let (udp_end, tcp_end) = (rig.udp_out(member(5), 4000, server(0)), rig.connect(member(5), 4000, server(0)));
    rig.pass_secs(302);
    assert_eq!(rig.stats().mappings, 1, "UDP ended by itself");
    rig.in_(&udp(server(0), udp_end, b"")).dropped_for(DropReason::NatNoMapping);
    assert_eq!(rig.in_(&tcp(server(0), tcp_end, ACK, b"x")).one_delivered().to, at(member(5), 4000));
}

#[test]
fn nat_p7_filters_by_protocol() {
    let (tcp_filter, udp_filter) = (Filtering::EndpointIndependent, Filtering::AddressPort);
    let mut rig = Rig::new(NatSettings { filtering_tcp: tcp_filter, filtering_udp: udp_filter, ..settings() });
    let (udp_end, tcp_end) = (rig.udp_out(member(5), 4000, server(0)), rig.connect(member(5), 4000, server(0)));
    rig.in_(&udp(server(1), udp_end, b"")).dropped_for(DropReason::NatFiltered);
    rig.in_(&tcp(server(1), tcp_end, SYN, &[])).one_delivered();
}

/// Off by default, also where anybody may send.
#[test]
fn nat_p8_inbound_refresh_is_configurable() {
    assert!(!settings().inbound_refresh);
    for inbound_refresh in [false, true] {
        let filtering_udp = Filtering::EndpointIndependent;
        let mut rig = Rig::new(NatSettings { inbound_refresh, filtering_udp, ..settings() });
        let external = rig.udp_out(member(5), 4000, server(0));
        for n in 0..3 {
            rig.pass_secs(150);
            rig.in_(&udp(server(50 + n), external, b"x"));
        }
        assert_eq!(rig.stats().mappings, u64::from(inbound_refresh));
    }
}

/// A member's computer that refuses what it did not ask for keeps nothing alive.
#[test]
fn nat_p9_refusals_do_not_refresh() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    for _ in 0..2 {
        rig.pass_secs(140);
        rig.in_(&udp(server(0), external, b"x")).one_delivered();
        let about = udp(server(0), at(member(5), 4000), b"x");
        rig.out(member(5), &icmp_error(member(5).address, *server(0).ip(), (3, 3), &about)).one_sent();
    }
    rig.pass_secs(22);
    assert_eq!(rig.stats().mappings, 0, "after ICMP errors");

    let mut rig = Rig::new(settings());
    let external = rig.connect(member(5), 4000, server(0));
    rig.in_(&tcp(server(0), external, RST, &[])).one_delivered();
    for _ in 0..3 {
        rig.pass_secs(70);
        rig.out(member(5), &tcp(at(member(5), 4000), server(0), RST, &[])).one_sent();
    }
    rig.pass_secs(32);
    assert_eq!(rig.stats().mappings, 0, "after resets");
}

#[test]
fn nat_p10_port_parity_is_an_option() {
    for port_parity in [true, false] {
        let mut rig = Rig::new(NatSettings { port_parity, ..settings() });
        let kept = (0..20).filter(|n| rig.udp_out(member(5), 4000 + 2 * n, server(0)).port().is_multiple_of(2)).count();
        assert_eq!(kept == 20, port_parity, "{kept} of 20");
    }
}

#[test]
fn nat_p11_ports_are_random() {
    let ports = |seed| {
        let mut rig = Rig::with_seed(settings(), seed);
        (0..20).map(|n| rig.udp_out(member(5), 4000 + n, server(0)).port()).collect::<Vec<_>>()
    };
    let (a, b) = (ports(1), ports(2));
    assert_ne!(a, b, "another seed, other ports");
    assert_ne!(a[0] / 64, b[0] / 64, "another block, too");
    let steps: BTreeSet<u16> = a.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.len() > 8, "no series: {a:?}");
}

/// No two datagrams that may be fragmented leave with the same identification, whoever sends them and by which worker.
#[test]
fn nat_p12_identifications_are_unique() {
    let mut rig = Rig::new(NatSettings { workers: 3, ..unlimited() });
    let mut seen = BTreeSet::new();
    for n in 0..3_000u32 {
        let who = member(5 + n % 30);
        let mut packet = udp(at(who, 4000), server(0), b"x");
        packet[4..8].copy_from_slice(&[0, 7, 0, 0]);
        seal(&mut packet);
        let out = rig.out(who, &packet);
        out.one_sent();
        let identification = Ipv4::new_checked(&out.sent[0].0).unwrap().identification();
        assert!(seen.insert(identification), "identification {identification} again");
    }
    let atomic = udp(at(member(5), 4000), server(0), b"x");
    let out = rig.out(member(5), &atomic);
    assert_eq!(out.sent[0].0[4..6], atomic[4..6], "nobody needs that of a datagram that stays whole (RFC 6864)");
}

#[test]
fn nat_p13_query_mapping_ends_with_its_last_session() {
    let mut rig = Rig::new(settings());
    let ping_out =
        |rig: &mut Rig, n| rig.out(member(5), &ping(member(5).address, *server(n).ip(), 8, 77)).one_sent().from.port();
    let first = ping_out(&mut rig, 0);
    rig.pass_secs(40);
    assert_eq!(ping_out(&mut rig, 1), first);
    rig.pass_secs(22);
    assert_eq!((rig.stats().flows, rig.stats().mappings), (1, 1), "one session is left");
    rig.pass_secs(40);
    assert_eq!((rig.stats().flows, rig.stats().mappings), (0, 0));
}
