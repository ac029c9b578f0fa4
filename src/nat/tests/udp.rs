//! UDP: RFC 4787.
#![forbid(unsafe_code)]

use super::rig::*;
use crate::metrics::drops::DropReason;
use crate::nat::*;

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
fn nat_u5_mapping_lasts_its_time() {
    let mut rig = Rig::new(settings());
    let external = rig.udp_out(member(5), 4000, server(0));
    rig.pass_secs(299);
    assert_eq!(rig.in_(&udp(server(0), external, b"x")).delivered.len(), 1);
    rig.pass_secs(3);
    rig.in_(&udp(server(0), external, b"x")).dropped_for(DropReason::NatNoMapping);
}
