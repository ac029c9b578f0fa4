//! Port Control Protocol: RFC 6887.
#![forbid(unsafe_code)]

use std::net::{Ipv6Addr, SocketAddrV4};

use super::rig::*;
use crate::metrics::drops::DropReason;
use crate::nat::*;

const NONCE: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn header(from: Insider, opcode: u8, lifetime: u32) -> Vec<u8> {
    let mut request = vec![2, opcode, 0, 0];
    request.extend(lifetime.to_be_bytes());
    request.extend(from.address.to_ipv6_mapped().octets());
    request
}

fn map_request(from: Insider, proto: u8, port: u16, wanted: u16, lifetime: u32) -> Vec<u8> {
    let mut request = header(from, 1, lifetime);
    request.extend(NONCE);
    request.extend([proto, 0, 0, 0]);
    request.extend(port.to_be_bytes());
    request.extend(wanted.to_be_bytes());
    request.extend(std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    request
}

fn ask(rig: &mut Rig, from: Insider, request: &[u8]) -> Vec<u8> {
    let mut answer = [0; 1100];
    let worker = rig.plan.owner_of_inside(from.address);
    let now = rig.now;
    let length = rig.nats[worker].pcp(&from, 40_000, request, &mut answer, now, &mut Out::default());
    answer[..length].to_vec()
}

/// Result code, lifetime, external end.
fn result(answer: &[u8]) -> (u8, u32, SocketAddrV4) {
    assert_eq!((answer[0], answer[1] & 0x80), (2, 0x80));
    let lifetime = u32::from_be_bytes(answer[4..8].try_into().unwrap());
    let port = u16::from_be_bytes([answer[42], answer[43]]);
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(&answer[44..60]).unwrap());
    (answer[3], lifetime, SocketAddrV4::new(address.to_ipv4_mapped().unwrap(), port))
}

/// A mapping by MAP; its external end, or the result code.
pub(super) fn map(rig: &mut Rig, from: Insider, proto: u8, port: u16, lifetime: u32) -> Result<SocketAddrV4, u8> {
    let answer = ask(rig, from, &map_request(from, proto, port, 0, lifetime));
    let (code, granted, external) = result(&answer);
    assert_eq!(answer[24..36], NONCE);
    if code == 0 {
        assert_eq!(granted, lifetime.clamp(if lifetime == 0 { 0 } else { 120 }, 86_400));
        Ok(external)
    } else {
        Err(code)
    }
}

#[test]
fn nat_l9_map() {
    for proto in [6, 17] {
        let mut rig = Rig::new(settings());
        let external = map(&mut rig, member(5), proto, 8080, 600).unwrap();
        let packet = match proto {
            6 => tcp(server(3), external, SYN, &[]),
            _ => udp(server(3), external, b""),
        };
        assert_eq!(rig.in_(&packet).one_delivered().to, at(member(5), 8080), "from anybody");
        rig.pass_secs(400);
        assert_eq!(map(&mut rig, member(5), proto, 8080, 600).unwrap(), external, "renewed");
        rig.pass_secs(590);
        rig.in_(&packet).one_delivered();
        rig.pass_secs(260);
        assert_eq!(rig.stats().mappings, 0, "its time is over");
    }
}

#[test]
fn nat_l9_map_keeps_an_endpoint_independent_mapping() {
    let mut rig = Rig::new(settings());
    let external = map(&mut rig, member(5), 17, 4000, 7_200).unwrap();
    assert_eq!(rig.udp_out(member(5), 4000, server(0)), external, "what goes out uses it");
    rig.pass_secs(4_000);
    assert_eq!(rig.udp_out(member(5), 4000, server(1)), external);
    assert_eq!(map(&mut rig, member(5), 17, 4000, 0), Ok(SocketAddrV4::new([0, 0, 0, 0].into(), 0)));
    assert_eq!(rig.stats().mappings, 1, "a flow still uses it");
    rig.in_(&udp(server(7), external, b"")).dropped_for(DropReason::NatFiltered);
    rig.pass_secs(302);
    assert_eq!(rig.stats().mappings, 0);
}

#[test]
fn nat_l9_others_cannot_touch_it() {
    let mut rig = Rig::new(settings());
    map(&mut rig, member(5), 17, 8080, 600).unwrap();
    let mut other = map_request(member(5), 17, 8080, 0, 0);
    other[30] ^= 1;
    assert_eq!(ask(&mut rig, member(5), &other)[3], 2, "another nonce is not authorized");
    let forged = map_request(member(5), 17, 8080, 0, 0);
    assert_eq!(ask(&mut rig, member(6), &forged)[3], 12, "another address does not match");
    assert_eq!(rig.stats().mappings, 1);
}

#[test]
fn nat_l9_peer() {
    let mut rig = Rig::new(settings());
    let mut request = map_request(member(5), 6, 4000, 0, 600);
    request[1] = 2;
    request.extend(server(0).port().to_be_bytes());
    request.extend([0, 0]);
    request.extend(server(0).ip().to_ipv6_mapped().octets());
    let (code, lifetime, external) = result(&ask(&mut rig, member(5), &request));
    assert_eq!((code, rig.syn_out(member(5), 4000, server(0))), (0, external));
    assert!((230..=241).contains(&lifetime), "{lifetime}");
    request[64..80].copy_from_slice(&std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
    assert_eq!(ask(&mut rig, member(5), &request)[3], 2, "the egress policy holds here, too");
}

#[test]
fn nat_l9_announce_and_errors() {
    let mut rig = Rig::new(settings());
    rig.pass_secs(17);
    let answer = ask(&mut rig, member(5), &header(member(5), 0, 0));
    assert_eq!((answer.len(), &answer[..4], &answer[8..12]), (24, &[2, 0x80, 0, 0][..], &[0, 0, 0, 17][..]));
    let good = map_request(member(5), 17, 8080, 0, 600);
    let with = |at: usize, byte: u8| {
        let mut request = good.clone();
        request[at] = byte;
        request
    };
    let option = |bytes: &[u8]| [&good[..], bytes].concat();
    for (request, code) in [
        (with(0, 3), 1),
        (with(1, 9), 4),
        (with(36, 1), 9),
        (with(36, 0), 9),
        (good[..40].to_vec(), 3),
        (good[..8].to_vec(), 3),
        (option(&[3, 0, 0, 20, 0, 0]), 3),
        (option(&[3, 0, 0, 20]), 6),
        (option(&[3, 0, 0, 4, 0, 0, 0, 0]), 5),
        (option(&[1, 0, 0, 0]), 5),
        (option(&[2, 0, 0, 4, 0, 0, 0, 0]), 6),
        (option(&[200, 0, 0, 4, 0, 0, 0, 0]), 0),
    ] {
        let answer = ask(&mut rig, member(5), &request);
        assert_eq!(answer[3], code, "{request:?}");
        assert!(answer.len() >= 24 && answer.len().is_multiple_of(4));
    }
    assert_eq!(ask(&mut rig, member(5), &[0, 0])[..4], [0, 0x80, 0, 1], "NAT-PMP: only PCP here");
    assert!(ask(&mut rig, member(5), &with(1, 0x81)).is_empty(), "answers are not answered");
    assert!(ask(&mut rig, member(5), &[2]).is_empty());
}

#[test]
fn nat_l9_wishes() {
    let mut rig = Rig::new(settings());
    let block = rig.udp_out(member(5), 4000, server(0)).port() / 64 * 64;
    let free = (block..block + 64).find(|port| *port != rig.udp_out(member(5), 4000, server(0)).port()).unwrap();
    let mut request = map_request(member(5), 17, 8080, free, 600);
    request.extend([2, 0, 0, 0]);
    let (code, _, external) = result(&ask(&mut rig, member(5), &request));
    assert_eq!((code, external.port()), (0, free), "a port of his own block");
    let mut request = map_request(member(5), 17, 8081, 80, 600);
    assert_eq!(result(&ask(&mut rig, member(5), &request)).0, 0, "another one is better than none");
    request[41] += 1;
    request.extend([2, 0, 0, 0]);
    let before = rig.stats().mappings;
    assert_eq!(ask(&mut rig, member(5), &request)[3], 11, "unless he prefers failure");
    assert_eq!(rig.stats().mappings, before);
}

#[test]
fn nat_l9_quota_holds() {
    let mut settings = settings();
    settings.limits.ports_per_address = 2;
    let mut rig = Rig::new(settings);
    assert!(map(&mut rig, member(5), 17, 1, 600).is_ok() && map(&mut rig, member(5), 6, 1, 600).is_ok());
    assert_eq!(map(&mut rig, member(5), 17, 2, 600), Err(10));
}
