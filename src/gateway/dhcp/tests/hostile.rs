//! Clients that mean harm, and bytes that mean nothing.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn raw(rig: &mut Rig, payload: &[u8], src_mac: Mac) -> Option<DropReason> {
    let before = (rig.world.drops.len(), rig.world.said.len());
    let (src, dst) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    rig.server.message(DhcpRequest { origin: &origin(1, 1), src_mac, src, dst, payload }, rig.now, &mut rig.world);
    let reason = rig.world.drops.get(before.0).copied();
    assert!(reason.is_none() || rig.world.said.len() == before.1, "answered or dropped");
    reason
}

#[test]
fn dhcp_d29_malformed() {
    let mut rig = Rig::new(settings());
    let good = discover(mac(1)).bytes();
    assert_eq!(raw(&mut rig, &good, mac(1)), None);
    let whole = |options: &[u8]| [&good[..240], options].concat();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for (what, bytes) in [
        ("empty", vec![]),
        ("truncated before the cookie", good[..239].to_vec()),
        ("truncated behind it", good[..240].to_vec()),
        ("truncated option", good[..242].to_vec()),
        ("missing end", good[..243].to_vec()),
        ("a reply", changed(0, 2)),
        ("not Ethernet", changed(1, 6)),
        ("hlen 0", changed(2, 0)),
        ("hlen 16", changed(2, 16)),
        ("hlen 255", changed(2, 255)),
        ("wrong cookie", changed(239, 0)),
        ("group address", changed(28, 1)),
        ("no type", whole(&[255])),
        ("type of length 0", whole(&[53, 0, 255])),
        ("duplicate type", whole(&[53, 1, 1, 53, 1, 3, 255])),
        ("type out of range", whole(&[53, 1, 99, 255])),
        ("a server's type", whole(&[53, 1, 2, 255])),
        ("option past the end", whole(&[53, 1, 1, 61, 200, 1, 255])),
        ("requested address of 3 bytes", whole(&[53, 1, 1, 50, 3, 1, 2, 3, 255])),
        ("two server identifiers", whole(&[53, 1, 3, 54, 4, 1, 2, 3, 4, 54, 4, 1, 2, 3, 4, 255])),
        ("message size of 1 byte", whole(&[53, 1, 1, 57, 1, 9, 255])),
        ("overload 0", whole(&[53, 1, 1, 52, 1, 0, 255])),
        ("overload 4", whole(&[53, 1, 1, 52, 1, 4, 255])),
        ("overload twice", whole(&[53, 1, 1, 52, 1, 1, 52, 1, 1, 255])),
        ("overload without end", whole(&[53, 1, 1, 52, 1, 1, 255])),
        (
            "too long to join",
            whole(&[&[53, 1, 1][..], &[&[61, 255][..], &[7; 255]].concat().repeat(9), &[255]].concat()),
        ),
    ] {
        assert_eq!(raw(&mut rig, &bytes, mac(1)), Some(DropReason::DhcpMalformed), "{what}");
    }
    assert_eq!(rig.server.leases(rig.now).count(), 1, "only the good one did anything");
}

#[test]
fn dhcp_d29_source_address() {
    let mut rig = Rig::new(settings());
    assert_eq!(raw(&mut rig, &discover(mac(1)).bytes(), mac(2)), Some(DropReason::DhcpSourceMac));
    let mut lenient = Rig::new(DhcpSettings { match_source_mac: false, ..settings() });
    assert_eq!(raw(&mut lenient, &discover(mac(1)).bytes(), mac(2)), None);
    // By way of a relay the frame is the relay's.
    let mut relayed = discover(mac(1)).giaddr(host(250));
    relayed.src_mac = mac(250);
    assert!(rig.say(bridge(), &relayed).is_some());
}

/// H14: as many clients as the pool has addresses, all in one session.
#[test]
fn dhcp_h14_starvation() {
    let mut rig = Rig::new(settings());
    let victim = rig.lease(origin(2, 2), mac(2));
    let mut offered = BTreeSet::new();
    for n in 0..65_536_u32 {
        let id = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
        if n % 100 == 0 {
            rig.pass(Duration::from_millis(10));
        }
        let Some(offer) = rig.say(origin(1, 1), &discover(mac(n + 1000)).id(&id)) else {
            assert_eq!(rig.world.drops.last(), Some(&DropReason::DhcpRate));
            continue;
        };
        offered.insert(offer.yiaddr());
        if n % 3 == 0 {
            let taken = rig.say(origin(1, 1), &select(mac(n + 1000), offer.yiaddr()).id(&id));
            assert!(taken.is_none_or(|ack| ack.yiaddr() == offer.yiaddr()));
        }
    }
    // 6.5 s at 32 messages a second, and the first burst.
    assert!((200..300).contains(&rig.world.said.len()), "{} answers", rig.world.said.len());
    assert_eq!(offered.len(), 1, "one address");
    assert_eq!(rig.server.leases(rig.now).count(), 2);
    // 6.5 s at 4 changes a second, and the first burst.
    assert!(rig.world.records < 40, "{} records", rig.world.records);
    // Others are not affected.
    assert_eq!(rig.say(origin(2, 2), &renew(mac(2), victim)).unwrap().what(), MessageType::Ack);
    for n in 3..1003 {
        rig.lease(origin(n, n.into()), mac(n + 1_000_000));
    }
    assert!(rig.world.probed.is_empty());
}

#[test]
fn dhcp_h14_starvation_with_release_decline_and_new_sessions() {
    let mut rig = Rig::new(settings());
    for n in 0..3000_u32 {
        let me = origin(1, 1 + u64::from(n) / 10);
        if n % 10 == 0 {
            rig.server.session_ended(SessionId(me.session.0 - 1), &mut rig.world);
        }
        let Some(offer) = rig.say(me, &discover(mac(n)).requested(Ipv4Addr::from(u32::from(host(0)) + n))) else {
            continue;
        };
        rig.say(me, &select(mac(n), offer.yiaddr()));
        match n % 7 {
            0 => drop(rig.say(me, &give_back(mac(n), offer.yiaddr()))),
            1 => drop(rig.say(me, &decline(mac(n), offer.yiaddr()))),
            _ => {}
        }
        rig.pass(Duration::from_millis(100));
    }
    let rows: Vec<_> = rig.server.leases(rig.now).collect();
    assert!(rows.len() <= 8, "{} addresses for one member: {rows:?}", rows.len());
}

#[test]
fn nobody_takes_what_another_member_has() {
    let mut rig = Rig::new(settings());
    let victim = rig.lease_by(origin(1, 1), mac(1), |ask| ask.id(b"\x00victim"));
    let thief = origin(2, 2);
    for ask in [
        select(mac(1), victim),
        select(mac(1), victim).id(b"\x00victim"),
        renew(mac(1), victim).id(b"\x00victim"),
        rebind(mac(1), victim).id(b"\x00victim"),
        reboot(mac(1), victim).id(b"\x00victim"),
        give_back(mac(1), victim).id(b"\x00victim"),
        decline(mac(1), victim).id(b"\x00victim"),
    ] {
        let said = rig.say(thief, &ask);
        assert!(said.is_none_or(|said| said.what() == MessageType::Nak), "{ask:?}");
        assert_eq!(rig.world.bound[&victim].session, SessionId(1));
    }
    assert_ne!(rig.offer(thief, &discover(mac(1)).id(b"\x00victim").requested(victim)).yiaddr(), victim);
    rig.server.session_ended(SessionId(1), &mut rig.world);
    assert_ne!(rig.offer(thief, &discover(mac(1)).id(b"\x00victim").requested(victim)).yiaddr(), victim);
}

#[test]
fn probes_and_pending_messages_are_bounded() {
    let pool = Ipv4Addr::new(100, 64, 0, 10)..=Ipv4Addr::new(100, 64, 15, 255);
    let mut rig = Rig::new(DhcpSettings { pool, ..settings() });
    for n in 0..3000 {
        rig.lease(origin(n, n.into()), mac(n));
    }
    (0..3000).for_each(|n| rig.server.session_ended(SessionId(n), &mut rig.world));
    rig.secs(4000);
    let fresh: usize =
        (3000..6000).filter(|n| rig.say(origin(*n, u64::from(*n)), &discover(mac(*n))).is_some()).count();
    let pending = rig.server.pending.len();
    assert!(fresh < 1100 && pending == 1024, "{fresh} {pending}");
    let offers = rig.pass(Duration::from_millis(400));
    assert_eq!((offers.len(), rig.server.pending.len()), (1024, 0));
    // Whose message was not kept asks again, and is answered at once.
    let left = (3000..6000).filter(|n| rig.say(origin(*n, u64::from(*n)), &discover(mac(*n))).is_some()).count();
    assert_eq!(left, 3000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_read_or_dropped(payload in prop::collection::vec(any::<u8>(), 0..700)) {
        let mut rig = Rig::new(ten());
        raw(&mut rig, &payload, mac(1));
    }

    /// Behind a right fixed part the options are nonsense.
    #[test]
    fn any_options_are_read_or_dropped(options in prop::collection::vec(
        (prop::sample::select(vec![0_u8, 12, 50, 51, 52, 53, 54, 55, 57, 61, 81, 82, 118, 255]),
         prop::collection::vec(any::<u8>(), 0..12)), 0..12),
        areas in prop::collection::vec(any::<u8>(), 192), cut in 0..400_usize)
    {
        let mut rig = Rig::new(ten());
        let mut ask = discover(mac(1)).field(44, &areas);
        for (code, value) in &options {
            ask = ask.option(*code, value);
        }
        let bytes = ask.bytes();
        raw(&mut rig, &bytes[..bytes.len().min(cut + 200)], mac(1));
        let me = bridge();
        let (src_mac, src, dst) = (mac(1), Ipv4Addr::UNSPECIFIED, SERVER);
        rig.server.message(DhcpRequest { origin: &me, src_mac, src, dst, payload: &bytes }, rig.now, &mut rig.world);
    }

    /// A good message with some bytes changed.
    #[test]
    fn any_change_is_read_or_dropped(what in 1..9_u8, changes in prop::collection::vec((0..400_usize, any::<u8>()), 1..6)) {
        let mut rig = Rig::new(ten());
        let ask = discover(mac(1)).requested(host(12)).server(SERVER).wants(&[1, 3, 6, 121]).id(&[1; 7]).option(82, &[1, 1, 9]);
        let mut bytes = ask.bytes();
        bytes[242] = what;
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        raw(&mut rig, &bytes, mac(1));
    }
}

/// H14: taking and giving back, as fast as the link carries it, another address each time.
#[test]
fn dhcp_h14_walk_through_the_pool() {
    let mut rig = Rig::new(settings());
    let me = origin(1, 1);
    for n in 0..2_000u32 {
        let address = Ipv4Addr::from(u32::from(host(10)) + n);
        rig.say(me, &select(mac(1), address));
        rig.say(me, &give_back(mac(1), address));
    }
    let World { records, events, drops, .. } = &rig.world;
    assert!(*records < 100 && events.len() < 100, "{records} records, {} events in no time", events.len());
    assert!(drops.contains(&DropReason::DhcpRate));
    // Others, and whoever has a network behind him, are not held up.
    rig.lease(origin(2, 2), mac(2));
    for n in 100..200 {
        rig.lease(bridge(), mac(n));
    }
    rig.secs(1);
    rig.lease(me, mac(1));
}

/// H14: "I have it", by ARP, to each probe that follows one DISCOVER.
#[test]
fn dhcp_h14_answers_to_probes() {
    let out = |claims: Origin| {
        let mut rig = Rig::new(ten());
        for n in 10..20u8 {
            // Addresses that somebody had once.
            let owner = origin(20 + u32::from(n), 20 + u64::from(n));
            rig.say(owner, &select(mac(n.into()), host(n)));
            rig.say(owner, &give_back(mac(n.into()), host(n)));
        }
        rig.say(origin(1, 1), &discover(mac(100)));
        while let Some(probed) = rig.world.probed.pop() {
            rig.server.seen(&claims, probed, mac(999), rig.now, &mut rig.world);
            // What he had in between makes nobody forget what he said.
            rig.say(claims, &select(mac(999), host(10)));
        }
        // Who asked is answered all the same, as far as there is anything left.
        let offered = !rig.pass(Duration::from_millis(300)).is_empty();
        (rig.server.leases(rig.now).filter(|row| row.state == LeaseState::Conflict).count(), offered)
    };
    assert_eq!(out(origin(1, 1)), (0, true), "another card of the session that asked");
    assert_eq!(out(origin(1, 3)), (4, true), "another session of its member");
    assert_eq!(out(origin(2, 2)), (4, true), "another member");
    assert_eq!(out(bridge()), (10, false), "many hosts");
}

/// A host behind a bridge that has an address, and another one that asks for one.
#[test]
fn a_bridge_may_answer_for_its_hosts() {
    let mut rig = Rig::new(ten());
    for n in 10..20u8 {
        let address = rig.lease(bridge(), mac(n.into()));
        rig.say(bridge(), &give_back(mac(n.into()), address));
    }
    rig.say(bridge(), &discover(mac(100)));
    let probed = rig.world.probed[0];
    rig.server.seen(&bridge(), probed, mac(999), rig.now, &mut rig.world);
    assert_eq!(rig.state(probed), Some(LeaseState::Conflict));
    assert_ne!(rig.offer(bridge(), &discover(mac(100))).yiaddr(), probed);
}

/// H14: renewals, as fast as the link carries them.
#[test]
fn dhcp_h14_renewals_at_line_rate() {
    let mut rig = Rig::new(settings());
    let address = rig.lease(origin(1, 1), mac(1));
    let (events, said) = (rig.world.events.len(), rig.world.said.len());
    for _ in 0..10_000 {
        rig.say(origin(1, 1), &renew(mac(1), address));
    }
    assert_eq!(rig.world.events.len(), events, "nothing changed");
    assert!(rig.world.said.len() - said <= 64, "{} answers in no time", rig.world.said.len() - said);
    assert_eq!(rig.world.drops.last(), Some(&DropReason::DhcpRate));
    // Another name each time is a change, but a rare one.
    for n in 0..1_000_u32 {
        rig.say(origin(1, 1), &renew(mac(1), address).option(12, &n.to_be_bytes()));
        rig.pass(Duration::from_millis(10));
    }
    let news = rig.world.events.len() - events;
    assert!((40..=60).contains(&news), "{news} events in 10 s");
    // The member is back, elsewhere: that is told.
    rig.server.session_ended(SessionId(1), &mut rig.world);
    let news = rig.world.events.len();
    assert_eq!(rig.say(origin(1, 2), &renew(mac(1), address)).unwrap().what(), MessageType::Ack);
    assert!(
        matches!(rig.world.events[news..], [DhcpEvent::Renewed { binding, .. }] if binding.session == SessionId(2))
    );
}
