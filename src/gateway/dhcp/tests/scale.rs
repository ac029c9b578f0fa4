//! Many clients.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::*;

#[test]
fn dhcp_d27_five_thousand_boot_in_ten_seconds() {
    let mut rig = Rig::new(settings());
    let mut given = BTreeSet::new();
    for n in 0..5000 {
        assert!(given.insert(rig.lease(origin(n, n.into()), mac(n))), "none twice");
        rig.pass(Duration::from_millis(2));
    }
    assert_eq!((given.len(), rig.world.bound.len(), rig.server.stats().acks), (5000, 5000, 5000));
    assert_eq!(rig.now.since(START), Duration::from_secs(10));
    // All of them again, an hour later, in a pool where every address was somebody's: each his own.
    for n in 0..5000 {
        rig.server.session_ended(SessionId(n), &mut rig.world);
    }
    rig.secs(3700);
    for n in 0..5000 {
        assert!(given.contains(&rig.lease(origin(n, 10_000 + u64::from(n)), mac(n))));
    }
    assert!(rig.world.probed.is_empty());
}

/// All at once: every client has sent its DISCOVER before the first one sends its REQUEST.
#[test]
fn dhcp_d27_five_thousand_at_once_by_a_relay() {
    let mut rig = Rig::new(settings());
    let by_relay = |ask: Ask| {
        let mut ask = ask.giaddr(host(250)).option(82, &[1, 2, 0, 7]);
        ask.src_mac = mac(250);
        ask
    };
    let offered: Vec<_> = (0..5000).map(|n| rig.say(bridge(), &by_relay(discover(mac(n)))).unwrap().yiaddr()).collect();
    assert_eq!(offered.iter().collect::<BTreeSet<_>>().len(), 5000);
    for (n, address) in (0..).zip(&offered) {
        let ack = rig.say(bridge(), &by_relay(select(mac(n), *address))).unwrap();
        assert_eq!((ack.what(), ack.yiaddr(), ack.dst), (MessageType::Ack, *address, host(250)));
    }
}

/// A pool to the last address, then the same again with other clients: every address is given again, after its probe.
#[test]
fn the_whole_pool_is_used_and_used_again() {
    let mut rig = Rig::new(settings());
    let size = 65_536 - 3;
    let first: BTreeSet<_> = (0..size).map(|n| rig.lease(origin(n, n.into()), mac(n))).collect();
    assert_eq!(first.len(), size as usize);
    assert!(!first.contains(&SERVER));
    assert_eq!(rig.drop_reason(origin(70_000, 70_000), &discover(mac(70_000))), DropReason::DhcpPoolEmpty);
    (0..size).for_each(|n| rig.server.session_ended(SessionId(n.into()), &mut rig.world));
    rig.secs(4000);
    let mut second = BTreeSet::new();
    for n in 100_000..101_000 {
        assert!(second.insert(rig.lease(origin(n, n.into()), mac(n))));
    }
    assert_eq!(rig.world.probed.len(), 1000);
}
