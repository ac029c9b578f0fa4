//! Which address, and whose it stays.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::settings::Reservation;
use super::*;

#[test]
fn dhcp_d6_order_of_choice() {
    let mut rig = Rig::new(ten());
    let me = origin(1, 1);
    // Nothing known: the one asked for, else a new one.
    assert_eq!(rig.say(me, &discover(mac(1)).requested(host(15))).unwrap().yiaddr(), host(15));
    let mine = rig.lease_by(me, mac(1), |ask| if ask.options[2] == 1 { ask.requested(host(15)) } else { ask });
    assert_eq!(mine, host(15));
    // The current one goes before the one asked for.
    assert_eq!(rig.say(me, &discover(mac(1)).requested(host(16))).unwrap().yiaddr(), mine);
    // So does the last one, if it is free.
    rig.say(me, &give_back(mac(1), mine));
    assert_eq!(rig.say(me, &discover(mac(1)).requested(host(16))).unwrap().yiaddr(), mine);
    // What another has, or what is outside of the pool, is not given on request.
    let taken = rig.lease(origin(2, 2), mac(2));
    for asked in [taken, SERVER, host(99), Ipv4Addr::new(8, 8, 8, 8)] {
        let offered = rig.offer(origin(3, 3), &discover(mac(3)).requested(asked)).yiaddr();
        assert!(offered != asked && (host(10)..=host(19)).contains(&offered));
    }
}

#[test]
fn dhcp_d6_a_last_address_that_is_another_s_by_now() {
    let mut rig = Rig::new(ten());
    let mine = rig.lease(origin(1, 1), mac(1));
    rig.say(origin(1, 1), &give_back(mac(1), mine));
    for n in 2..=11 {
        rig.lease(origin(n, n.into()), mac(n));
    }
    assert_eq!(rig.drop_reason(origin(1, 1), &discover(mac(1))), DropReason::DhcpPoolEmpty);
    assert_eq!(rig.say(origin(1, 1), &renew(mac(1), mine)).unwrap().what(), MessageType::Nak);
}

#[test]
fn dhcp_d7_probe_before_reuse() {
    let mut rig = Rig::new(ten());
    let mut all = Vec::new();
    for n in 0..10 {
        all.push(rig.lease(origin(n, n.into()), mac(n)));
        rig.secs(1);
    }
    assert!(rig.world.probed.is_empty(), "addresses that nobody had need none");
    for n in 0..10 {
        rig.server.session_ended(SessionId(n), &mut rig.world);
    }
    rig.secs(4000);
    // The first to become free is asked for, and somebody with a static address answers.
    let me = origin(100, 100);
    assert_eq!(rig.say(me, &discover(mac(100)).broadcast()), None);
    let asked = rig.world.probed.clone();
    assert_eq!(asked, all[..1]);
    rig.server.seen(&origin(50, 50), asked[0], mac(666), rig.now, &mut rig.world);
    assert_eq!(rig.state(asked[0]), Some(LeaseState::Conflict));
    let conflict = DhcpEvent::Conflict { address: asked[0], by: mac(666), declined: false };
    assert!(rig.world.events.contains(&conflict));
    // The next one is asked for at once; the client's retry changes nothing but the number of its exchange.
    assert_eq!(rig.world.probed, all[..2]);
    assert_eq!(rig.say(me, &discover(mac(100)).field(4, &[1, 2, 3, 4])), None);
    rig.server.seen(&origin(50, 50), all[1], mac(100), rig.now, &mut rig.world);
    assert_eq!(rig.pass(Duration::from_millis(299)), []);
    let offers = rig.pass(Duration::from_millis(1));
    assert_eq!((offers.len(), offers[0].yiaddr(), offers[0].message().xid()), (1, all[1], 0x01020304));
    assert_eq!((offers[0].what(), offers[0].to), (MessageType::Offer, me.port));
    assert_eq!(rig.say(me, &select(mac(100), all[1])).unwrap().what(), MessageType::Ack);
    assert_eq!(rig.world.probed.len(), 2);
    // Who had it before it was his gets it no more without asking.
    assert_eq!(rig.say(origin(1, 200), &discover(mac(1))), None);
}

#[test]
fn dhcp_d8_offers_are_held() {
    let mut rig = Rig::new(settings());
    let mut offered = BTreeSet::new();
    for n in 0..1000 {
        assert!(offered.insert(rig.say(origin(n, n.into()), &discover(mac(n))).unwrap().yiaddr()));
    }
    assert_eq!(offered.len(), 1000);
    for n in 0..1000 {
        assert!(offered.contains(&rig.say(origin(n, n.into()), &discover(mac(n))).unwrap().yiaddr()), "the same again");
    }
    let mut rig = Rig::new(ten());
    let first = rig.say(origin(1, 1), &discover(mac(1))).unwrap().yiaddr();
    (2..=10).for_each(|n| assert!(rig.say(origin(n, n.into()), &discover(mac(n))).is_some()));
    rig.pass(Duration::from_millis(59_999));
    assert_eq!(rig.drop_reason(origin(11, 11), &discover(mac(11))), DropReason::DhcpPoolEmpty);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.say(origin(11, 11), &discover(mac(11)).requested(first)).unwrap().yiaddr(), first);
}

fn reserved(address: u8, member: Option<u32>, card: Option<u32>, id: Option<&[u8]>) -> Reservation {
    Reservation {
        address: Some(host(address)),
        member: member.map(MemberId),
        mac: card.map(mac),
        client_id: id.map(<[u8]>::to_vec),
        host_name: String::new(),
    }
}

#[test]
fn dhcp_d25_reservations() {
    let reservations = vec![
        reserved(12, Some(1), None, None),
        reserved(13, None, Some(2), None),
        reserved(14, None, None, Some(b"\x00printer")),
        reserved(200, Some(4), Some(4), None),
    ];
    let mut rig = Rig::new(DhcpSettings { reservations, ..ten() });
    assert_eq!(rig.lease(origin(1, 1), mac(1001)), host(12), "by member, whatever the card");
    assert_eq!(rig.lease(origin(2, 2), mac(2)), host(13), "by card");
    assert_eq!(rig.lease_by(origin(3, 3), mac(1003), |ask| ask.id(b"\x00printer")), host(14), "by identifier");
    assert_eq!(rig.lease(origin(4, 4), mac(4)), host(200), "outside of the pool, by member and card");
    assert_ne!(rig.lease(origin(4, 5), mac(5)), host(200), "both must fit");
    // Static beats dynamic: another card of the member asks for another address and gets the reserved one.
    rig.server.session_ended(SessionId(1), &mut rig.world);
    assert_eq!(rig.say(origin(1, 9), &discover(mac(1002)).requested(host(19))).unwrap().yiaddr(), host(12));
    assert_eq!(rig.say(origin(1, 9), &reboot(mac(1002), host(19))).unwrap().what(), MessageType::Nak);
    // Nobody else gets it by asking.
    assert_ne!(rig.say(origin(7, 7), &discover(mac(7)).requested(host(12))).unwrap().yiaddr(), host(12));
    assert_eq!(rig.say(origin(7, 7), &select(mac(7), host(12))).unwrap().what(), MessageType::Nak);
}

/// SE#1947: a member whose connection broke is back before anybody noticed, with another card.
#[test]
fn dhcp_d25_reconnect_takes_over_at_once() {
    let mut rig = Rig::new(DhcpSettings { reservations: vec![reserved(12, Some(1), None, None)], ..ten() });
    assert_eq!(rig.lease(origin(1, 1), mac(1)), host(12));
    rig.server.session_ended(SessionId(1), &mut rig.world);
    assert_eq!(rig.world.bound.get(&host(12)), None, "nobody may use it meanwhile");
    let (offer, ack) = {
        let offer = rig.say(origin(1, 2), &discover(mac(2))).expect("no wait");
        (offer.yiaddr(), rig.say(origin(1, 2), &select(mac(2), host(12))).unwrap())
    };
    assert_eq!((offer, ack.what()), (host(12), MessageType::Ack));
    assert_eq!(rig.world.bound[&host(12)].mac, mac(2));
    // Without a reservation, the same card takes its lease from its own ghost.
    let dynamic = rig.lease(origin(5, 5), mac(5));
    assert_eq!(rig.lease(origin(5, 6), mac(5)), dynamic);
    assert_eq!(rig.world.bound[&dynamic].session, SessionId(6));
    // Two devices of a member do not take the reserved address from each other.
    assert_ne!(rig.lease(origin(1, 3), mac(3)), host(12));
    assert_eq!(rig.world.bound[&host(12)].session, SessionId(2));
}

#[test]
fn dhcp_d25_a_member_finds_his_lease_with_another_card() {
    let mut rig = Rig::new(settings());
    let first = rig.lease(origin(1, 1), mac(1));
    for n in 2..50 {
        let (session, card) = (u64::from(n), mac(n));
        rig.server.session_ended(SessionId(session - 1), &mut rig.world);
        rig.secs(1);
        assert_eq!(rig.lease(origin(1, session), card), first);
    }
    // In a session that goes on, too.
    assert_eq!(rig.lease(origin(1, 49), mac(99)), first);
    let ended = rig.world.events.iter().filter(|event| matches!(event, DhcpEvent::Ended { .. })).count();
    assert_eq!(ended, 49);
    // What is offered to a session is not offered to the member's next one.
    rig.server.session_ended(SessionId(49), &mut rig.world);
    assert_eq!(rig.say(origin(1, 50), &discover(mac(50))).unwrap().yiaddr(), first);
    assert_ne!(rig.say(origin(1, 51), &discover(mac(51))).unwrap().yiaddr(), first);
}

#[test]
fn adopted_without_asking() {
    let mut rig = Rig::new(settings());
    let address = rig.lease(origin(1, 1), mac(1));
    rig.server.session_ended(SessionId(1), &mut rig.world);
    let mut adopt = |origin: Origin, card, address| rig.server.adopt(&origin, card, address, rig.now, &mut rig.world);
    assert!(!adopt(origin(2, 2), mac(1), address), "another member");
    assert!(!adopt(origin(1, 2), mac(2), address), "another card");
    assert!(!adopt(origin(1, 2), mac(1), host(200)), "another address");
    assert!(!adopt(origin(1, 2), mac(1), SERVER));
    assert!(adopt(origin(1, 2), mac(1), address));
    assert!(adopt(origin(1, 2), mac(1), address), "and again");
    assert_eq!(
        rig.world.bound[&address],
        Binding { mac: mac(1), port: origin(1, 2).port, session: SessionId(2), member: MemberId(1) }
    );
    let moved = rig.world.events.iter().filter(|event| matches!(event, DhcpEvent::Moved { .. })).count();
    assert_eq!(moved, 1);
    rig.secs(3601);
    assert!(!rig.server.adopt(&origin(1, 3), mac(1), address, rig.now, &mut rig.world), "the lease is over");
}

#[test]
fn a_session_adopts_no_more_than_it_may_have() {
    let mut rig = Rig::new(settings());
    let old: Vec<_> = (1..4).map(|n| rig.lease(origin(1, n.into()), mac(n))).collect();
    (1..4).for_each(|n| rig.server.session_ended(SessionId(n), &mut rig.world));
    let adopted: Vec<_> = (1..4)
        .zip(&old)
        .map(|(n, address)| rig.server.adopt(&origin(1, 9), mac(n), *address, rig.now, &mut rig.world))
        .collect();
    assert_eq!(adopted, [true, false, false]);
}

#[test]
fn the_operator_ends_a_lease() {
    let mut rig = Rig::new(settings());
    let address = rig.lease(origin(1, 1), mac(1));
    assert!(rig.server.release(address, rig.now, &mut rig.world));
    assert!(!rig.server.release(address, rig.now, &mut rig.world));
    assert_eq!((rig.state(address), rig.world.bound.len()), (Some(LeaseState::Free), 0));
}

#[test]
fn leases_are_listed() {
    let mut rig = Rig::new(settings());
    let address = rig.lease_by(origin(1, 7), mac(1), |ask| ask.option(12, b"laptop"));
    rig.secs(600);
    let row = rig.row(address).unwrap();
    assert_eq!((row.state, row.member, row.session), (LeaseState::Leased, Some(MemberId(1)), Some(SessionId(7))));
    assert_eq!(
        (row.mac, row.host_name.as_slice(), row.left),
        (Some(mac(1)), &b"laptop"[..], Duration::from_secs(3000))
    );
    rig.server.session_ended(SessionId(7), &mut rig.world);
    assert_eq!(rig.row(address).unwrap().session, None);
}

#[test]
fn dhcp_d26_pool_exhausted() {
    let reservations = vec![reserved(12, Some(77), None, None), reserved(13, None, Some(13), None)];
    let mut rig = Rig::new(DhcpSettings { reservations, ..ten() });
    let given: BTreeSet<_> = (0..8).map(|n| rig.lease(origin(n, n.into()), mac(n + 100))).collect();
    assert!(given.len() == 8 && !given.contains(&host(12)) && !given.contains(&host(13)));
    for n in 8..20 {
        assert_eq!(rig.drop_reason(origin(n, n.into()), &discover(mac(n + 100))), DropReason::DhcpPoolEmpty);
    }
    let told = rig.world.events.iter().filter(|event| matches!(event, DhcpEvent::PoolEmpty { .. })).count();
    assert_eq!((told, rig.server.stats().pool_empty), (1, 12), "one event, all counted");
    // Those for whom addresses are kept get them.
    assert_eq!(rig.lease(origin(77, 77), mac(177)), host(12));
    assert_eq!(rig.lease(origin(78, 78), mac(13)), host(13));
    // Again somebody leaves, and again the pool is exhausted.
    let first = *given.first().unwrap();
    rig.server.release(first, rig.now, &mut rig.world);
    assert_eq!(rig.offer(origin(50, 50), &discover(mac(50))).yiaddr(), first);
    assert_eq!(rig.drop_reason(origin(51, 51), &discover(mac(51))), DropReason::DhcpPoolEmpty);
    let told = rig.world.events.iter().filter(|event| matches!(event, DhcpEvent::PoolEmpty { .. })).count();
    assert_eq!(told, 2);
}

#[test]
fn addresses_of_the_session_s_worker_are_preferred() {
    let owner_of: settings::OwnerOf = Arc::new(|address| usize::from(address.octets()[3] % 3));
    let mut rig = Rig::new(DhcpSettings { owner_of: Some(owner_of), ..ten() });
    let on = |worker, n| Origin { port: PortId::new(worker, n, 1), ..origin(n, n.into()) };
    let mut given = Vec::new();
    for n in 0..10 {
        given.push(rig.lease(on(2, n), mac(n)).octets()[3]);
    }
    assert_eq!(given[..3], [11, 14, 17], "its own while there are some");
    let all: BTreeSet<_> = given.into_iter().collect();
    assert_eq!(all, (10..20).collect(), "then any");
    // A worker that owns nothing.
    rig.server.release(host(13), rig.now, &mut rig.world);
    assert_eq!(rig.offer(on(9, 50), &discover(mac(50))).yiaddr(), host(13));
}

#[test]
fn stations_behind_a_bridge_are_not_one_another() {
    let mut rig = Rig::new(settings());
    let all: BTreeSet<_> = (0..300).map(|n| rig.lease(bridge(), mac(n))).collect();
    assert_eq!(all.len(), 300);
    rig.server.session_ended(bridge().session, &mut rig.world);
    assert!(rig.world.bound.is_empty());
    let next = Origin { session: SessionId(901), ..bridge() };
    assert!(!all.contains(&rig.lease(next, mac(1000))), "nobody inherits");
    assert_eq!(rig.lease(next, mac(7)), *all.iter().nth(7).unwrap(), "and each keeps his own");
}

#[test]
fn stations_of_one_session_do_not_take_from_each_other() {
    let mut rig = Rig::new(DhcpSettings { leases_per_session: 3, ..ten() });
    let me = origin(1, 1);
    let first = rig.lease(me, mac(1));
    for ask in [select(mac(2), first), renew(mac(2), first), rebind(mac(2), first)] {
        assert_eq!(rig.say(me, &ask).unwrap().what(), MessageType::Nak);
    }
    assert_eq!(rig.drop_reason(me, &reboot(mac(2), first)), DropReason::DhcpUnknownClient);
    rig.secs(1);
    let others = [rig.lease(me, mac(2)), rig.lease(me, mac(3))];
    assert!(others[0] != others[1] && !others.contains(&first));
    // The fourth gets the one that ends first, and nobody a fourth address.
    rig.secs(10);
    assert_eq!(rig.lease(me, mac(4)), first);
    assert_eq!(rig.world.bound.len(), 3);
}

/// The message that waits for a probe does not outlive it.
#[test]
fn what_is_given_up_waits_for_nothing() {
    let mut rig = Rig::new(DhcpSettings { reservations: vec![reserved(30, None, None, Some(b"\x00x"))], ..ten() });
    for n in 0..10 {
        rig.lease(origin(n, n.into()), mac(n));
        rig.server.session_ended(SessionId(n.into()), &mut rig.world);
    }
    rig.secs(4000);
    let me = origin(50, 50);
    assert_eq!(rig.say(me, &discover(mac(50))), None);
    assert_eq!(rig.server.pending.len(), 1);
    assert_eq!(rig.lease_by(me, mac(50), |ask| ask.id(b"\x00x")), host(30));
    assert_eq!(
        (rig.server.pending.len(), rig.server.leases(rig.now).filter(|row| row.state == LeaseState::Probing).count()),
        (0, 0)
    );
}

#[test]
fn a_place_costs_what_is_said() {
    let place = size_of::<super::super::lease::Place>();
    // And four lists with two ends and a link each, and two words of a timer.
    assert!(place + 4 * 20 + 4 + 16 <= 256, "{place}");
}
