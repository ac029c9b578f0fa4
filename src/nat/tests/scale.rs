//! Many members, many flows: one address for thousands, and what it takes.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::time::Duration;

use super::rig::*;
use crate::ids::{MemberId, SessionId};
use crate::nat::*;
use crate::wire::offload::Offload;

/// 5,000 members with 100 TCP connections each on one address: none refused, and no port and destination twice.
#[test]
fn five_thousand_members_share_one_address() {
    let mut rig = Rig::new(NatSettings { members_expected: 5_000, ..settings() });
    assert!(rig.plan.block_ports() == 8 && rig.plan.blocks() >= 5_000, "each gets a block");
    let mut seen = HashSet::new();
    let mut own = 0;
    for round in 0..100u16 {
        for n in 0..5_000u32 {
            let who = member(10 + n);
            let to = server((n * 7 + u32::from(round)) % 400);
            let external = rig.syn_out(who, 20_000 + round, to);
            assert!(seen.insert((external, to)), "{external} to {to} belongs to two");
            own += u32::from(rig.plan.use_of(*external.ip(), external.port()) == PortUse::Block);
        }
        rig.pass(Duration::from_millis(500));
    }
    assert_eq!((rig.stats().flows, rig.stats().overlaps_begun), (500_000, 500_000 - u64::from(own)));
    assert!((40_000..=40_320).contains(&own), "{own} flows use a member's own ports, eight for each and what is left");
}

/// Memory of a mapping with one flow, indexes at their emptiest included.
#[test]
fn memory_per_mapping() {
    let mut rig = Rig::new(NatSettings { pool: vec!["5.5.5.0/29".parse().unwrap()], ..unlimited() });
    let count = 200_000u32;
    for n in 0..count {
        let who = member(10 + n % 2_000);
        rig.udp_out(who, 2_000 + u16::try_from(n / 2_000).unwrap(), server(n % 100));
    }
    let NatStats { mappings, flows, table_bytes, .. } = rig.stats();
    assert_eq!((mappings, flows), (count.into(), count.into()));
    let each = table_bytes / u64::from(count);
    assert!(each <= BYTES_PER_MAPPING as u64, "{each} bytes for each");
}

/// 50,000 new ones a second, as many ending, in virtual time: nothing piles up.
#[test]
fn create_and_expire() {
    let timeouts = Timeouts { udp: Duration::from_secs(2), ..Timeouts::default() };
    let mut rig = Rig::new(NatSettings { pool: vec!["5.5.5.0/29".parse().unwrap()], timeouts, ..unlimited() });
    for tenth in 0..80u32 {
        for n in 0..5_000u32 {
            let who = member(10 + n % 1_000);
            let port = 2_000 + (tenth % 50) * 5 + n / 1_000;
            rig.udp_out(who, u16::try_from(port).unwrap(), server(tenth));
        }
        rig.pass(Duration::from_millis(100));
        assert!(rig.stats().flows <= 150_000, "{} flows", rig.stats().flows);
    }
    rig.pass_secs(3);
    assert_eq!((rig.stats().flows, rig.stats().mappings, rig.stats().mappings_begun), (0, 0, 400_000));
}

/// Known flows allocate nothing, also where their state changes.
#[test]
fn known_flows_allocate_nothing() {
    struct Count(u32);
    impl NatSink for Count {
        fn send(&mut self, _: &mut [u8], _: Offload) {
            self.0 += 1;
        }
        fn hairpin(&mut self, _: &mut [u8], _: Offload) {}
        fn deliver(&mut self, _: std::net::Ipv4Addr, _: &mut [u8], _: Offload) {
            self.0 += 1;
        }
        fn hand_over(&mut self, _: usize, _: &mut [u8]) {}
        fn dropped(&mut self, _: crate::metrics::drops::DropReason) {}
        fn event(&mut self, _: NatEvent) {}
    }
    let mut rig = Rig::new(settings());
    let who = Insider { address: member(5).address, member: MemberId(5), session: SessionId(1_005) };
    let (u, t) = (rig.udp_out(who, 4000, server(0)), rig.connect(who, 4000, server(0)));
    let out = [udp(at(who, 4000), server(0), b"x"), tcp(at(who, 4000), server(0), ACK, b"x")];
    let back = [udp(server(0), u, b"x"), tcp(server(0), t, ACK, b"x"), tcp(server(0), t, RST, b"")];
    let (mut count, now) = (Count(0), rig.now);
    let mut buffer = [0; 100];
    let nat = &mut rig.nats[0];
    let used = allocation_counter::measure(|| {
        for _ in 0..100 {
            for packet in &out {
                let buffer = &mut buffer[..packet.len()];
                buffer.copy_from_slice(packet);
                nat.outbound(&who, buffer, Offload::NONE, now, &mut count);
            }
            for packet in &back {
                let buffer = &mut buffer[..packet.len()];
                buffer.copy_from_slice(packet);
                nat.inbound(buffer, Offload::NONE, now, &mut count);
            }
            nat.poll(now, &mut count);
        }
    });
    assert_eq!((count.0, used.count_total), (500, 0));
}
