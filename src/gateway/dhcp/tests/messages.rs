//! The eight messages: what is answered, to whom, and what not.
#![forbid(unsafe_code)]

use super::*;

#[test]
fn dhcp_d1_where_replies_go() {
    let mut rig = Rig::new(settings());
    let me = origin(1, 1);
    let offer = rig.say(me, &discover(mac(1))).unwrap();
    let address = offer.yiaddr();
    assert_eq!((offer.dst_mac, offer.dst, offer.dst_port), (mac(1), address, 68), "unicast to chaddr and yiaddr");
    let offer = rig.say(me, &discover(mac(1)).broadcast()).unwrap();
    assert_eq!((offer.dst_mac, offer.dst, offer.dst_port), (Mac::BROADCAST, Ipv4Addr::BROADCAST, 68));
    rig.say(me, &select(mac(1), address)).unwrap();
    let ack = rig.say(me, &renew(mac(1), address).broadcast()).unwrap();
    assert_eq!((ack.dst_mac, ack.dst, ack.dst_port), (mac(1), address, 68), "ciaddr goes before the flag");
    let mut relayed = discover(mac(2)).giaddr(host(250)).broadcast();
    relayed.src_mac = mac(250);
    let offer = rig.say(bridge(), &relayed).unwrap();
    assert_eq!((offer.dst_mac, offer.dst, offer.dst_port), (mac(250), host(250), 67), "giaddr goes before all");
    assert_eq!((offer.to, ack.to), (bridge().port, me.port));
}

#[test]
fn dhcp_d2_naks_are_broadcast() {
    let mut rig = Rig::new(settings());
    let elsewhere = Ipv4Addr::new(192, 168, 1, 5);
    for ask in [reboot(mac(1), elsewhere), renew(mac(1), elsewhere), select(mac(1), elsewhere)] {
        let nak = rig.say(origin(1, 1), &ask).unwrap();
        assert_eq!((nak.what(), nak.dst_mac, nak.dst), (MessageType::Nak, Mac::BROADCAST, Ipv4Addr::BROADCAST));
        assert!(!nak.message().wants_broadcast(), "flags are echoed");
        assert_eq!((nak.yiaddr(), nak.message().ciaddr()), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
        assert_eq!(nak.codes(), [53, 54, 56]);
    }
    let nak = rig.say(bridge(), &reboot(mac(1), elsewhere).giaddr(host(250))).unwrap();
    assert_eq!((nak.what(), nak.dst, nak.dst_port), (MessageType::Nak, host(250), 67));
    assert!(nak.message().wants_broadcast(), "else the relay would unicast it");
}

#[test]
fn dhcp_d3_fields_are_echoed() {
    let mut rig = Rig::new(settings());
    let me = bridge();
    let marked = |ask: Ask| ask.field(3, &[4]).field(8, &[0, 9]).broadcast().giaddr(host(250)).field(34, &[7; 10]);
    let offer = rig.say(me, &marked(discover(mac(1)))).unwrap();
    let ack = rig.say(me, &marked(select(mac(1), offer.yiaddr()))).unwrap();
    let nak = rig.say(me, &marked(select(mac(1), host(255)))).unwrap();
    let inform = rig.say(me, &marked(Ask::new(MessageType::Inform, mac(1)).ciaddr(host(9)))).unwrap();
    for said in [offer, ack, nak, inform] {
        let bytes = &said.payload;
        assert_eq!(bytes[..4], [2, 1, 6, 0], "op, htype, hlen, no hops");
        assert_eq!(bytes[4..8], 0xdead_beef_u32.to_be_bytes());
        assert_eq!(bytes[8..12], [0, 0, 0x80, 0], "no secs, flags");
        assert_eq!(bytes[24..28], host(250).octets());
        assert_eq!((&bytes[28..34], &bytes[34..44]), (&mac(1).0[..], &[7; 10][..]));
        assert_eq!(bytes[236..240], [99, 130, 83, 99]);
    }
}

#[test]
fn dhcp_d4_server_identifier() {
    let mut rig = Rig::new(settings());
    let me = origin(1, 1);
    let offer = rig.say(me, &discover(mac(1))).unwrap();
    let ack = rig.say(me, &select(mac(1), offer.yiaddr())).unwrap();
    let nak = rig.say(me, &select(mac(1), host(255))).unwrap();
    assert_eq!([offer.what(), ack.what(), nak.what()], [MessageType::Offer, MessageType::Ack, MessageType::Nak]);
    for said in [offer, ack, nak] {
        assert_eq!(said.option(code::SERVER_ID), Some(SERVER.octets().to_vec()));
    }
}

#[test]
fn dhcp_d5_lease_time() {
    let mut rig = Rig::new(settings());
    let me = origin(1, 1);
    let offer = rig.say(me, &discover(mac(1))).unwrap();
    let ack = rig.say(me, &select(mac(1), offer.yiaddr())).unwrap();
    assert_eq!((offer.secs(51), ack.secs(51)), (Some(3600), Some(3600)));
    let inform =
        rig.say(me, &Ask::new(MessageType::Inform, mac(1)).ciaddr(offer.yiaddr()).wants(&[51, 58, 59, 1])).unwrap();
    assert_eq!(inform.what(), MessageType::Ack);
    assert_eq!(inform.codes(), [53, 54, 1]);
    // A client may ask for less, but not for nearly nothing, and not for more.
    for (wish, want) in [(600, 600), (1, 120), (0, 120), (u32::MAX, 3600)] {
        let ask = discover(mac(1)).option(51, &u32::to_be_bytes(wish));
        assert_eq!(rig.say(me, &ask).unwrap().secs(51), Some(want));
    }
    let ask = select(mac(1), offer.yiaddr()).option(51, &600_u32.to_be_bytes());
    rig.secs(2000);
    assert_eq!(rig.say(me, &ask).unwrap().secs(51), Some(600));
    rig.secs(601);
    assert_eq!(rig.state(offer.yiaddr()), Some(LeaseState::Free));
}

#[test]
fn dhcp_d9_selecting() {
    let mut rig = Rig::new(ten());
    let me = origin(1, 1);
    let offered = rig.say(me, &discover(mac(1))).unwrap().yiaddr();
    let ack = rig.say(me, &select(mac(1), offered)).unwrap();
    assert_eq!((ack.what(), ack.yiaddr(), ack.message().ciaddr()), (MessageType::Ack, offered, Ipv4Addr::UNSPECIFIED));
    assert_eq!(
        rig.world.bound[&offered],
        Binding { mac: mac(1), port: me.port, session: me.session, member: me.member }
    );
    // What was offered to somebody else.
    let other = rig.say(origin(2, 2), &discover(mac(2))).unwrap().yiaddr();
    assert_ne!(other, offered);
    assert_eq!(rig.say(origin(3, 3), &select(mac(3), other)).unwrap().what(), MessageType::Nak);
    // Another server was chosen: the offer is free again at once, and nothing is said.
    let ask = Ask::new(MessageType::Request, mac(2)).requested(host(99)).server(host(77));
    assert_eq!(rig.drop_reason(origin(2, 2), &ask), DropReason::DhcpOtherServer);
    assert_eq!(rig.state(other), None);
    // Neither fish nor fowl.
    for ask in [
        Ask::new(MessageType::Request, mac(1)).server(SERVER),
        select(mac(1), offered).ciaddr(offered),
        Ask::new(MessageType::Request, mac(1)),
    ] {
        assert_eq!(rig.drop_reason(me, &ask), DropReason::DhcpMalformed);
    }
    assert_eq!(rig.state(offered), Some(LeaseState::Leased));
}

#[test]
fn dhcp_d9_an_offer_that_ran_out_still_holds_if_nobody_else_came() {
    let mut rig = Rig::new(ten());
    let offered = rig.say(origin(1, 1), &discover(mac(1))).unwrap().yiaddr();
    rig.secs(100);
    assert_eq!(rig.state(offered), None);
    assert_eq!(rig.say(origin(1, 1), &select(mac(1), offered)).unwrap().what(), MessageType::Ack);
    assert_eq!(rig.say(origin(1, 1), &select(mac(7), host(15))).unwrap().what(), MessageType::Nak, "one for a session");
}

#[test]
fn dhcp_d10_init_reboot() {
    let mut rig = Rig::new(ten());
    let address = rig.lease(origin(1, 1), mac(1));
    let ack = rig.say(origin(1, 1), &reboot(mac(1), address)).unwrap();
    assert_eq!((ack.what(), ack.yiaddr()), (MessageType::Ack, address));
    // Wrong network: anybody.
    let nak = rig.say(origin(2, 2), &reboot(mac(2), Ipv4Addr::new(10, 0, 0, 4))).unwrap();
    assert_eq!(nak.what(), MessageType::Nak);
    // Known, but with another address.
    assert_eq!(rig.say(origin(1, 1), &reboot(mac(1), host(18))).unwrap().what(), MessageType::Nak);
    assert_eq!(rig.say(origin(1, 1), &reboot(mac(1), host(200))).unwrap().what(), MessageType::Nak);
    // Unknown: silent, whatever it asks for in our network.
    for asked in [address, host(18), host(200), SERVER] {
        assert_eq!(rig.drop_reason(origin(2, 2), &reboot(mac(2), asked)), DropReason::DhcpUnknownClient);
    }
    // Remembered after the lease ran out.
    rig.secs(4000);
    assert_eq!(rig.say(origin(1, 1), &reboot(mac(1), address)).unwrap().what(), MessageType::Ack);
}

#[test]
fn dhcp_d11_renewing() {
    let mut rig = Rig::new(ten());
    let me = origin(1, 1);
    let address = rig.lease(me, mac(1));
    rig.secs(1800);
    let ack = rig.say(me, &renew(mac(1), address)).unwrap();
    assert_eq!((ack.what(), ack.yiaddr(), ack.message().ciaddr()), (MessageType::Ack, address, address));
    assert_eq!((ack.dst, ack.secs(51), ack.durable), (address, Some(3600), Some(2)));
    rig.secs(3500);
    assert_eq!(rig.state(address), Some(LeaseState::Leased), "extended");
    // Another's address.
    assert_eq!(rig.say(origin(2, 2), &renew(mac(2), address)).unwrap().what(), MessageType::Nak);
    rig.secs(200);
    assert_eq!(rig.state(address), Some(LeaseState::Free));
    assert_eq!(rig.say(me, &renew(mac(1), address)).unwrap().what(), MessageType::Ack, "late, but still free");
}

#[test]
fn dhcp_d11_a_renewal_within_a_moment_costs_no_disk() {
    let mut rig = Rig::new(ten());
    let me = origin(1, 1);
    let address = rig.lease(me, mac(1));
    let before = rig.world.journal.len();
    rig.secs(100);
    let ack = rig.say(me, &renew(mac(1), address)).unwrap();
    assert_eq!((ack.secs(51), ack.durable), (Some(3500), Some(1)), "what is written down is said again");
    assert_eq!(rig.world.journal.len(), before);
}

#[test]
fn dhcp_d12_rebinding() {
    let mut rig = Rig::new(ten());
    let me = origin(1, 1);
    let address = rig.lease(me, mac(1));
    rig.secs(3200);
    let ack = rig.say(me, &rebind(mac(1), address)).unwrap();
    assert_eq!((ack.what(), ack.yiaddr(), ack.secs(51)), (MessageType::Ack, address, Some(3600)));
    assert_eq!(rig.say(origin(2, 2), &rebind(mac(2), address)).unwrap().what(), MessageType::Nak);
    // Not ours to judge.
    for unknown in [host(15), host(200)] {
        assert_eq!(rig.drop_reason(origin(2, 2), &rebind(mac(2), unknown)), DropReason::DhcpUnknownClient);
    }
}

#[test]
fn dhcp_d13_decline() {
    let mut rig = Rig::new(ten());
    let me = origin(1, 1);
    let address = rig.lease(me, mac(1));
    assert_eq!(rig.drop_reason(origin(2, 2), &decline(mac(2), address)), DropReason::DhcpUnknownClient, "not his");
    assert_eq!(rig.say(me, &decline(mac(1), address)), None);
    assert_eq!(rig.state(address), Some(LeaseState::Conflict));
    assert!(rig.world.bound.is_empty());
    assert!(rig.world.events.contains(&DhcpEvent::Conflict { address, by: mac(1), declined: true }));
    let second = rig.lease(me, mac(1));
    assert_ne!(second, address);
    // Nobody else gets it either, until the period is over; then only after a probe.
    rig.secs(500);
    let others: Vec<_> = (2..10).map(|n| rig.lease(origin(n, n.into()), mac(n))).collect();
    assert!(!others.contains(&address));
    assert_eq!(rig.drop_reason(origin(50, 50), &discover(mac(50))), DropReason::DhcpPoolEmpty);
    rig.secs(101);
    assert_eq!(rig.say(origin(50, 50), &discover(mac(50))), None);
    assert_eq!(rig.world.probed, [address]);
}

#[test]
fn dhcp_d13_declines_of_one_member_are_limited() {
    let mut rig = Rig::new(ten());
    let mut refused = 0;
    for n in 0..8 {
        let me = origin(1, n);
        let address = rig.lease(me, mac(u32::try_from(n).unwrap()));
        rig.say(me, &decline(mac(u32::try_from(n).unwrap()), address));
        refused = rig.world.drops.iter().filter(|reason| **reason == DropReason::DhcpRate).count();
        rig.server.session_ended(me.session, &mut rig.world);
        rig.secs(1);
    }
    assert_eq!(refused, 4);
    let out = rig.server.leases(rig.now).filter(|row| row.state == LeaseState::Conflict).count();
    assert_eq!(out, 4);
}

#[test]
fn dhcp_d14_release() {
    let mut rig = Rig::new(ten());
    let me = origin(1, 1);
    let address = rig.lease(me, mac(1));
    assert_eq!(rig.drop_reason(origin(2, 2), &give_back(mac(1), address)), DropReason::DhcpUnknownClient, "not his");
    assert_eq!(rig.say(me, &give_back(mac(1), address)), None);
    assert_eq!((rig.state(address), rig.world.bound.len()), (Some(LeaseState::Free), 0));
    let (member, why) = (MemberId(1), LeaseEnd::Released);
    assert_eq!(rig.world.events.last(), Some(&DhcpEvent::Ended { address, member, mac: mac(1), why }));
    // The memory of D6: others get others, he gets it back without a probe.
    assert_ne!(rig.lease(origin(2, 2), mac(2)), address);
    assert_eq!(rig.lease(me, mac(1)), address);
    assert!(rig.world.probed.is_empty());
}

#[test]
fn dhcp_d15_inform() {
    let mut rig = Rig::new(ten());
    let elsewhere = Ipv4Addr::new(192, 0, 2, 9);
    let ask =
        Ask::new(MessageType::Inform, mac(1)).ciaddr(elsewhere).wants(&[6, 3]).from(elsewhere, Ipv4Addr::BROADCAST);
    let ack = rig.say(origin(1, 1), &ask).unwrap();
    assert_eq!((ack.what(), ack.dst, ack.dst_mac), (MessageType::Ack, elsewhere, mac(1)));
    assert_eq!((ack.yiaddr(), ack.message().ciaddr()), (Ipv4Addr::UNSPECIFIED, elsewhere));
    assert_eq!((ack.codes(), ack.durable), (vec![53, 54, 6, 3], None));
    // The address stands only in the packet.
    let ask = Ask::new(MessageType::Inform, mac(1)).from(elsewhere, Ipv4Addr::BROADCAST);
    assert_eq!(rig.say(origin(1, 1), &ask).unwrap().dst, elsewhere);
    assert_eq!((rig.server.leases(rig.now).count(), rig.world.journal.len()), (0, 0), "no lease is looked for or made");
}

#[test]
fn dhcp_d21_relay_information() {
    let mut rig = Rig::new(settings());
    let circuit = [1, 4, 9, 9, 9, 9, 2, 3, 1, 2, 3];
    let elsewhere = Ipv4Addr::new(10, 9, 9, 1);
    let at = |giaddr, information: &[u8]| discover(mac(1)).giaddr(giaddr).option(82, information).wants(&[1, 3]);
    let offer = rig.say(bridge(), &at(host(250), &circuit)).unwrap();
    assert_eq!(offer.options().last(), Some(&(82, circuit.to_vec())), "unchanged, and last");
    let nak = rig.say(bridge(), &reboot(mac(1), elsewhere).giaddr(host(250)).option(82, &circuit)).unwrap();
    assert_eq!(nak.options().last(), Some(&(82, circuit.to_vec())));
    // A relay on another network, unless it says that the client is on ours.
    assert_eq!(rig.drop_reason(bridge(), &at(elsewhere, &circuit)), DropReason::DhcpRelay);
    let ours = [&circuit[..], &[5, 4, 100, 64, 0, 0]].concat();
    let offer = rig.say(bridge(), &at(elsewhere, &ours)).unwrap();
    assert_eq!((offer.dst, offer.option(82)), (elsewhere, Some(ours)));
    let theirs = [5, 4, 10, 9, 9, 0];
    assert_eq!(rig.drop_reason(bridge(), &at(host(250), &theirs)), DropReason::DhcpRelay);
    let by_118 = at(elsewhere, &circuit).option(118, &[100, 64, 0, 0]);
    assert_eq!(rig.say(bridge(), &by_118).unwrap().dst, elsewhere);
    // Longer than an option can be in one piece.
    let (front, back) = ([1, 200].into_iter().chain([7; 200]).collect::<Vec<_>>(), vec![8; 150]);
    let long = discover(mac(1)).giaddr(host(250)).option(82, &front).option(82, &back);
    let offer = rig.say(bridge(), &long.option(57, &1400_u16.to_be_bytes())).unwrap();
    assert_eq!(offer.option(82), Some([front, back].concat()));
}

#[test]
fn dhcp_d21_members_are_no_relays() {
    let mut rig = Rig::new(settings());
    assert_eq!(rig.drop_reason(origin(1, 1), &discover(mac(1)).giaddr(host(250))), DropReason::DhcpRelay);
    let offer = rig.say(origin(1, 1), &discover(mac(1)).option(82, &[1, 1, 1])).unwrap();
    assert_eq!(offer.option(82), None);
}

#[test]
fn dhcp_d24_old_clients() {
    use crate::wire::checksum::Sum;
    let mut rig = Rig::new(settings());
    let offer = rig.say(origin(1, 1), &discover(mac(1))).unwrap();
    let nak = rig.say(origin(1, 1), &select(mac(1), host(255))).unwrap();
    assert!(offer.payload.len() >= 300 && nak.payload.len() == 300);
    let reply =
        DhcpReply { dst_mac: offer.dst_mac, src: SERVER, dst: offer.dst, dst_port: 68, payload: &offer.payload };
    let mut frame = [0; REPLY_FRAME_BYTES_MAX];
    let len = reply.write_frame(mac(99), &mut frame);
    let frame = &frame[..len];
    assert_eq!((&frame[..6], &frame[6..12]), (&mac(1).0[..], &mac(99).0[..]));
    let packet = crate::wire::ipv4::Ipv4::new_checked(&frame[14..]).unwrap();
    assert!(packet.ttl() >= 64 && packet.header_is_intact());
    assert_eq!((packet.src(), packet.dst(), packet.whole().unwrap().len()), (SERVER, offer.yiaddr(), len - 14));
    let datagram = packet.payload();
    assert_eq!(datagram[..4], [0, 67, 0, 68]);
    assert_ne!(datagram[6..8], [0, 0]);
    let length = u16::try_from(datagram.len()).unwrap();
    assert_eq!(Sum::pseudo(packet.src(), packet.dst(), 17, length).bytes(datagram).finish(), 0);
    assert_eq!(datagram[8..], offer.payload);
}
