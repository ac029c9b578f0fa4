//! ICMP: RFC 5508.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};

use super::rig::*;
use crate::metrics::drops::DropReason;
use crate::nat::*;
use crate::wire::icmp;
use crate::wire::ipv4::Ipv4;

const ROUTER: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);

fn ping_out(rig: &mut Rig, identifier: u16, to: Ipv4Addr) -> u16 {
    let seen = rig.out(member(5), &ping(member(5).address, to, icmp::ECHO, identifier)).one_sent();
    assert_eq!((*seen.from.ip(), *seen.to.ip()), (EXTERNAL, to));
    seen.from.port()
}

#[test]
fn nat_i1_queries_and_replies() {
    let mut rig = Rig::new(settings());
    for (query, reply) in [(icmp::ECHO, icmp::ECHO_REPLY), (icmp::TIMESTAMP, icmp::TIMESTAMP_REPLY)] {
        let seen = rig.out(member(5), &ping(member(5).address, *server(0).ip(), query, 77)).one_sent();
        let seen = rig.in_(&ping(*server(0).ip(), EXTERNAL, reply, seen.from.port())).one_delivered();
        assert_eq!((*seen.to.ip(), seen.to.port()), (member(5).address, 77));
    }
    rig.in_(&ping(*server(1).ip(), EXTERNAL, icmp::ECHO_REPLY, 77)).dropped_for(DropReason::NatNoMapping);
}

#[test]
fn nat_i1a_identifier_is_endpoint_independent() {
    let mut rig = Rig::new(settings());
    let first = ping_out(&mut rig, 77, *server(0).ip());
    for n in 1..100 {
        assert_eq!(ping_out(&mut rig, 77, *server(n).ip()), first);
    }
    assert_ne!(ping_out(&mut rig, 78, *server(0).ip()), first);
}

#[test]
fn nat_i2_query_timer() {
    for (secs, lives) in [(59, true), (62, false)] {
        let mut rig = Rig::new(settings());
        let id = ping_out(&mut rig, 77, *server(0).ip());
        rig.pass_secs(secs);
        let out = rig.in_(&ping(*server(0).ip(), EXTERNAL, icmp::ECHO_REPLY, id));
        assert_eq!(out.delivered.len(), usize::from(lives), "{secs}");
    }
}

#[test]
fn nat_i2a_query_timer_is_configurable() {
    let timeouts = Timeouts { icmp: std::time::Duration::from_secs(100), ..Timeouts::default() };
    let mut rig = Rig::new(NatSettings { timeouts, ..settings() });
    ping_out(&mut rig, 77, *server(0).ip());
    rig.pass_secs(99);
    assert_eq!(rig.stats().mappings, 1);
}

/// A rig with a UDP flow; its external end, and an error about it from the Internet.
fn with_flow() -> (Rig, Vec<u8>) {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    let error = icmp_error(ROUTER, EXTERNAL, (icmp::UNREACHABLE, 1), &udp(external, server(0), b"some data"));
    (rig, error)
}

#[test]
fn nat_i3_bad_checksum() {
    let (mut rig, error) = with_flow();
    rig.in_(&error).one_delivered();
    for at in [21, 24, 30, 60] {
        let mut bad = error.clone();
        bad[at] ^= 4;
        rig.in_(&bad).dropped_for(DropReason::NatIcmpError);
    }
}

#[test]
fn nat_i3a_bad_embedded_checksum() {
    let (mut rig, mut error) = with_flow();
    error[28 + 8] ^= 1;
    icmp::finish(&mut error[20..]);
    rig.in_(&error).dropped_for(DropReason::NatIcmpError);
}

#[test]
fn nat_i3b_embedded_options() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    let with_options = |packet: Vec<u8>| {
        let mut packet = [&packet[..20], &[148, 4, 0, 0, 1, 1, 1, 0], &packet[20..]].concat();
        packet[0] = 0x47;
        let length = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        seal(&mut packet);
        packet
    };
    let about = with_options(udp(external, server(0), b"data"));
    let out = rig.in_(&icmp_error(ROUTER, EXTERNAL, (11, 0), &about));
    assert_eq!(quote(&out.delivered[0].1).1, with_options(udp(at(member(5), 4000), server(0), b"data")));
}

/// A wrong checksum of the quoted payload stays as wrong as it was.
#[test]
fn nat_i3c_embedded_transport_checksum_is_not_checked() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    let mut about = udp(external, server(0), b"data");
    about[26] ^= 0x55;
    let out = rig.in_(&icmp_error(ROUTER, EXTERNAL, (3, 1), &about));
    let quoted = quote(&out.delivered[0].1).1;
    assert_eq!(quoted[..26], udp(at(member(5), 4000), server(0), b"data")[..26]);
    assert!(std::panic::catch_unwind(|| read(&quoted)).is_err());
}

/// Quotes cut after eight bytes, then zeros and an extension (RFC 4884): these stay as they are.
#[test]
fn nat_i3d_extensions_and_padding() {
    let mut rig = Rig::new(settings());
    let external = rig.connect(member(5), 4000, server(0));
    let mut about = tcp(external, server(0), ACK, &[7; 400])[..28].to_vec();
    about.resize(128, 0);
    let extension = [0x20, 0, 0xde, 0xad, 0, 8, 1, 1, 0, 1, 0x21, 1];
    about.extend(extension);
    let mut error = icmp_error(ROUTER, EXTERNAL, (11, 0), &about);
    error[25] = 32;
    icmp::finish(&mut error[20..]);
    let out = rig.in_(&error);
    let quoted = quote(&out.delivered[0].1).1;
    assert_eq!(quoted[..28], tcp(at(member(5), 4000), server(0), ACK, &[7; 400])[..28]);
    assert!(quoted[28..128].iter().all(|byte| *byte == 0), "padding stays zero");
    assert_eq!(quoted[128..], extension);
}

/// About TCP, UDP and ICMP; with and without a mapping.
#[test]
fn nat_i4_errors_from_outside() {
    let mut rig = Rig::new(settings());
    let (udp_end, tcp_end) = (rig.udp_out(member(5), 4000, server(0)), rig.connect(member(5), 4001, server(0)));
    let id = ping_out(&mut rig, 77, *server(0).ip());
    for (about, want) in [
        (udp(udp_end, server(0), b"data"), udp(at(member(5), 4000), server(0), b"data")),
        (tcp(tcp_end, server(0), ACK, b"data"), tcp(at(member(5), 4001), server(0), ACK, b"data")),
        (ping(EXTERNAL, *server(0).ip(), 8, id), ping(member(5).address, *server(0).ip(), 8, 77)),
    ] {
        for kind in [(3, 0), (3, 3), (3, 4), (11, 0), (12, 0)] {
            let out = rig.in_(&icmp_error(ROUTER, EXTERNAL, kind, &about));
            assert_eq!(quote(&out.delivered[0].1), (kind, want.clone()), "I4a: as he sent it, I4b: type and code");
            assert_eq!(out.delivered[0].0, member(5).address, "I4c");
        }
        let port_at = if about[9] == 1 { 25 } else { 21 };
        for (byte, what) in [(15, "another address"), (port_at, "another port")] {
            let mut other = about.clone();
            other[byte] ^= 1;
            seal(&mut other);
            let error = icmp_error(ROUTER, EXTERNAL, (3, 1), &other);
            let out = rig.in_(&error);
            assert_eq!((out.delivered.len(), out.sent.len(), out.drops.len()), (0, 0, 1), "{what}");
        }
    }
}

#[test]
fn nat_i4a_embedded_packet_is_restored() {
    let (mut rig, error) = with_flow();
    let out = rig.in_(&error);
    assert_eq!(quote(&out.delivered[0].1).1, udp(at(member(5), 4000), server(0), b"some data"));
}

#[test]
fn nat_i4b_type_and_code_stay() {
    let (mut rig, error) = with_flow();
    assert_eq!(rig.in_(&error).delivered[0].1[20..22], error[20..22]);
}

#[test]
fn nat_i4c_outer_destination() {
    let (mut rig, error) = with_flow();
    let seen = rig.in_(&error).one_delivered();
    assert_eq!((*seen.from.ip(), *seen.to.ip()), (ROUTER, member(5).address));
}

#[test]
fn nat_i5_errors_from_inside() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    rig.in_(&udp(server(0), external, b"data")).one_delivered();
    let about = udp(server(0), at(member(5), 4000), b"data");
    for kind in [(3, 3), (3, 2), (11, 1), (12, 0)] {
        let out = rig.out(member(5), &icmp_error(member(5).address, *server(0).ip(), kind, &about));
        out.one_sent();
        assert_eq!(quote(&out.sent[0].0), (kind, udp(server(0), external, b"data")));
    }
    let unknown = udp(server(0), at(member(5), 4999), b"data");
    rig.out(member(5), &icmp_error(member(5).address, *server(0).ip(), (3, 3), &unknown))
        .dropped_for(DropReason::NatIcmpError);
    // Not to anybody else than who sent the packet.
    rig.out(member(5), &icmp_error(member(5).address, *server(1).ip(), (3, 3), &about))
        .dropped_for(DropReason::NatIcmpError);
}

/// An error of a member about what `server(0)` sent him: its kind and the packet quoted, as the Internet gets them.
fn error_from_inside(kind: (u8, u8)) -> ((u8, u8), Vec<u8>, SocketAddrV4) {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    rig.in_(&udp(server(0), external, b"data")).one_delivered();
    let about = udp(server(0), at(member(5), 4000), b"data");
    let out = rig.out(member(5), &icmp_error(member(5).address, *server(0).ip(), kind, &about));
    let (kind, quoted) = quote(&out.sent[0].0);
    (kind, quoted, external)
}

#[test]
fn nat_i5a_the_embedded_packet_is_what_the_outside_sent() {
    let (_, quoted, external) = error_from_inside((3, 3));
    assert_eq!(quoted, udp(server(0), external, b"data"));
    assert_eq!((read(&quoted).from, read(&quoted).to), (server(0), external));
}

#[test]
fn nat_i5b_type_and_code_stay() {
    for kind in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 10), (3, 13), (11, 0), (11, 1), (12, 0)] {
        assert_eq!(error_from_inside(kind).0, kind);
    }
}

#[test]
fn nat_i5c_outer_source_is_external() {
    let mut rig = Rig::new(settings());
    rig.udp_out(member(5), 4000, server(0));
    let about = udp(server(0), at(member(5), 4000), b"data");
    let seen = rig.out(member(5), &icmp_error(member(5).address, *server(0).ip(), (3, 3), &about)).one_sent();
    assert_eq!((*seen.from.ip(), *seen.to.ip()), (EXTERNAL, *server(0).ip()));
}

#[test]
fn nat_i6_errors_neither_refresh_nor_end() {
    let mut rig = Rig::new(settings());
    let id = ping_out(&mut rig, 77, *server(0).ip());
    let about = ping(EXTERNAL, *server(0).ip(), 8, id);
    for _ in 0..5 {
        rig.pass_secs(11);
        rig.in_(&icmp_error(ROUTER, EXTERNAL, (3, 1), &about)).one_delivered();
    }
    assert_eq!(rig.stats().mappings, 1, "not ended after 55 s");
    rig.pass_secs(7);
    assert_eq!(rig.stats().mappings, 0, "nor kept beyond 60 s");
}

#[test]
fn nat_i7_hairpinned_errors() {
    let mut rig = Rig::new(NatSettings { filtering_udp: Filtering::EndpointIndependent, ..settings() });
    let b = rig.udp_out(member(6), 5000, server(0));
    let got = rig.hairpin(member(5), &udp(at(member(5), 4000), b, b"data"));
    let about = &got.delivered[0].1;
    let error = icmp_error(member(6).address, EXTERNAL, (3, 3), about);
    let out = rig.hairpin(member(6), &error);
    let (kind, quoted) = quote(&out.delivered[0].1);
    assert_eq!((kind, read(&quoted).from, read(&quoted).to), ((3, 3), at(member(5), 4000), b));
}

#[test]
fn nat_i7a_outer_destination_of_hairpinned_errors() {
    let mut rig = Rig::new(NatSettings { filtering_udp: Filtering::EndpointIndependent, ..settings() });
    let b = rig.udp_out(member(6), 5000, server(0));
    let got = rig.hairpin(member(5), &udp(at(member(5), 4000), b, b"data"));
    let error = icmp_error(member(6).address, EXTERNAL, (3, 3), &got.delivered[0].1);
    let seen = rig.hairpin(member(6), &error).one_delivered();
    assert_eq!((*seen.from.ip(), *seen.to.ip()), (EXTERNAL, member(5).address));
}

/// Over quota: code 13, at a limited rate.
#[test]
fn nat_i8_no_mapping_no_silence() {
    let mut settings = settings();
    settings.limits.ports_per_address = 3;
    let mut rig = Rig::new(settings);
    for n in 0..3 {
        rig.udp_out(member(5), 4000 + n, server(0));
    }
    let mut told = 0;
    for n in 0..100 {
        let packet = udp(at(member(5), 5000 + n), server(0), b"data");
        let out = rig.out(member(5), &packet);
        assert_eq!((out.sent.len(), &out.drops[..]), (0, &[DropReason::NatPortLimit][..]));
        for (_, error, _) in &out.delivered {
            assert_eq!(quote(error), ((icmp::UNREACHABLE, icmp::CODE_PROHIBITED), packet.clone()));
            told += 1;
        }
    }
    assert_eq!(told, IcmpSettings::default().per_sec, "then the rate is used up");
    rig.pass_secs(1);
    assert_eq!(rig.out(member(5), &udp(at(member(5), 5000), server(0), b"")).delivered.len(), 1);
}

#[test]
fn nat_i9_icmp_of_our_own_is_a_policy() {
    for to_members in [true, false] {
        let icmp = IcmpSettings { to_members, ..IcmpSettings::default() };
        let mut rig = Rig::new(NatSettings { icmp, ..settings() });
        let out = rig.out(member(5), &udp(at(member(5), 4000), end("10.0.0.1:80"), b""));
        assert_eq!((out.delivered.len(), out.drops.len()), (usize::from(to_members), 1));
    }
}

/// What passes, by type, with a flow that it fits.
#[test]
fn nat_i10_supported_types() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    let about = udp(external, server(0), b"data");
    for (kind, passes) in [(3, true), (11, true), (12, true), (4, false), (5, false)] {
        let out = rig.in_(&icmp_error(ROUTER, EXTERNAL, (kind, 0), &about));
        assert_eq!(out.delivered.len(), usize::from(passes), "error of type {kind}");
    }
    for (kind, passes) in [(8, true), (13, true), (0, false), (14, false), (15, false), (17, false), (10, false)] {
        let out = rig.out(member(5), &ping(member(5).address, *server(0).ip(), kind, 9));
        assert_eq!((out.sent.len(), out.drops.len()), (usize::from(passes), usize::from(!passes)), "query {kind}");
    }
    // Source routes would lead around the egress policy.
    let plain = udp(at(member(5), 4000), server(0), b"data");
    for option in [131, 137] {
        let mut routed = [&plain[..20], &[option, 7, 4, 10, 0, 0, 1, 0], &plain[20..]].concat();
        routed[0] = 0x47;
        routed[3] += 8;
        seal(&mut routed);
        rig.out(member(5), &routed).dropped_for(DropReason::NatMalformed);
    }
}

#[test]
fn nat_i11_other_icmp_is_dropped_and_counted() {
    let mut rig = Rig::new(settings());
    for kind in (0..=255).filter(|kind| ![0, 3, 8, 11, 12, 13, 14].contains(kind)) {
        rig.out(member(5), &ping(member(5).address, *server(0).ip(), kind, 9)).dropped_for(DropReason::NatIcmpType);
        let mut out = Out::default();
        let packet = ping(*server(0).ip(), EXTERNAL, kind, 9);
        rig.nats[0].inbound(&mut packet.clone(), crate::wire::offload::Offload::NONE, rig.now, &mut out);
        out.dropped_for(DropReason::NatIcmpType);
    }
}

/// Members may ping their external address; the Internet may if the operator says so.
#[test]
fn echo_to_an_external_address() {
    let request = ping(member(5).address, EXTERNAL, icmp::ECHO, 9);
    let mut rig = Rig::new(settings());
    let out = rig.out(member(5), &request);
    let seen = out.one_delivered();
    assert_eq!((*seen.from.ip(), *seen.to.ip(), out.delivered[0].1[20]), (EXTERNAL, member(5).address, 0));
    assert_eq!(seen.data, read(&request).data);
    let request = ping(*server(0).ip(), EXTERNAL, icmp::ECHO, 9);
    assert_eq!(rig.plan.owner_of_packet(&request), None);
    let icmp = IcmpSettings { answer_echo: true, ..IcmpSettings::default() };
    let mut rig = Rig::new(NatSettings { icmp, ..settings() });
    let out = rig.in_(&request);
    assert_eq!((out.one_sent().data, out.sent[0].0[20]), (read(&request).data, 0));
    assert_eq!(Ipv4::new_checked(&out.sent[0].0).unwrap().ttl(), 64);
}
