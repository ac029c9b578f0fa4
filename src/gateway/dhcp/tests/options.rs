//! Options, read and written.
#![forbid(unsafe_code)]

use super::super::settings::{RawOption, Reservation, Route};
use super::*;

#[test]
fn dhcp_d17_renewal_times() {
    let mut rig = Rig::new(settings());
    let offer = rig.say(origin(1, 1), &discover(mac(1))).unwrap();
    assert_eq!([51, 58, 59].map(|code| offer.secs(code)), [Some(3600), Some(1800), Some(3150)]);
    let mut rig = Rig::new(DhcpSettings { renew_spread_percent: 10, ..settings() });
    let seen: std::collections::BTreeSet<_> =
        (0..50).map(|n| rig.say(origin(n, n.into()), &discover(mac(n))).unwrap().secs(58).unwrap()).collect();
    assert!(seen.len() > 20 && seen.iter().all(|secs| (1620..=1800).contains(secs)), "{seen:?}");
}

#[test]
fn dhcp_d18_client_identifier() {
    let mut rig = Rig::new(DhcpSettings { leases_per_session: 8, ..settings() });
    let me = origin(1, 1);
    let (one, two) = (vec![0xff, 1, 2, 3], vec![7; 200]);
    let first = rig.lease_by(me, mac(1), |ask| ask.id(&one));
    let second = rig.lease_by(me, mac(1), |ask| ask.id(&two));
    let bare = rig.lease(me, mac(1));
    assert!(first != second && second != bare && first != bare, "the identifier is the key, else the address");
    // The same identifier by another card: the same client, and no long identifier is cut short.
    assert_eq!(rig.say(me, &discover(mac(2)).id(&one)).unwrap().yiaddr(), first);
    assert_eq!(rig.say(me, &discover(mac(2)).id(&two)).unwrap().yiaddr(), second);
    assert!(![first, second, bare].contains(&rig.say(me, &discover(mac(3)).id(&[7; 199])).unwrap().yiaddr()));
    // Echoed in all replies (RFC 6842).
    let offer = rig.say(me, &discover(mac(1)).id(&two)).unwrap();
    let ack = rig.say(me, &select(mac(1), offer.yiaddr()).id(&two)).unwrap();
    let nak = rig.say(me, &select(mac(1), host(255)).id(&two)).unwrap();
    for said in [offer, ack, nak] {
        assert_eq!(said.option(61), Some(two.clone()));
    }
    assert_eq!(rig.say(me, &discover(mac(1))).unwrap().option(61), None);
    // The card's address as identifier is what it is without one.
    let own = [&[1][..], &mac(1).0].concat();
    assert_eq!(rig.say(me, &discover(mac(1)).id(&own)).unwrap().yiaddr(), bare);
}

fn much() -> DhcpSettings {
    let raw = |code, len| RawOption { code, value: vec![code; len], always: false };
    let routes = (0..60).map(|n| Route { network: Ipv4Addr::new(10, n, 0, 0), prefix_len: 16, gateway: SERVER });
    DhcpSettings {
        raw: vec![raw(224, 100), raw(225, 110), raw(226, 90), raw(227, 255), raw(228, 400)],
        routes: routes.collect(),
        ..settings()
    }
}

#[test]
fn dhcp_d19_message_size() {
    let mut rig = Rig::new(much());
    let wanted = [224, 225, 226, 227, 1, 3];
    for (announced, bytes_max) in
        [(None, 548), (Some(0_u16), 548), (Some(400), 548), (Some(900), 872), (Some(65_535), 1472)]
    {
        let mut ask = discover(mac(1)).wants(&wanted);
        if let Some(announced) = announced {
            ask = ask.option(57, &announced.to_be_bytes());
        }
        let offer = rig.say(origin(1, 1), &ask).unwrap();
        assert!(offer.payload.len() <= bytes_max, "{announced:?}: {}", offer.payload.len());
        // 224 to 226 fit even the smallest, by file and sname; 227 needs more.
        assert_eq!(offer.codes().contains(&227), bytes_max > 548, "{announced:?}");
        for code in [224, 225, 226, 1, 3] {
            assert!(offer.option(code).is_some(), "{announced:?}: {code}");
        }
        assert_eq!(offer.codes().contains(&52), bytes_max == 548, "{announced:?}");
    }
    // RFC 3396, outbound: longer than 255 bytes.
    let ask = discover(mac(1)).wants(&[121, 228]).option(57, &1500_u16.to_be_bytes());
    let offer = rig.say(origin(1, 1), &ask).unwrap();
    assert_eq!((offer.option(228), offer.option(121).unwrap().len()), (Some(vec![228; 400]), 5 + 60 * 7));
}

#[test]
fn dhcp_d19_overload_and_long_options_are_read() {
    let mut rig = Rig::new(settings());
    let me = origin(1, 1);
    // Type in sname, requested address in file.
    let mut ask =
        discover(mac(1)).option(52, &[3]).field(108, &[50, 4, 100, 64, 7, 7, 0, 255]).field(44, &[53, 1, 1, 255]);
    ask.options.drain(..3);
    assert_eq!(rig.say(me, &ask).unwrap().yiaddr(), Ipv4Addr::new(100, 64, 7, 7));
    // Without option 52 those fields are names.
    let ask = discover(mac(2)).field(108, &[50, 4, 100, 64, 8, 8, 255]);
    assert_ne!(rig.say(origin(2, 2), &ask).unwrap().yiaddr(), Ipv4Addr::new(100, 64, 8, 8));
    // RFC 3396, inbound: an identifier in three parts, over all three fields.
    let ask = discover(mac(3)).id(&[1; 255]).option(52, &[3]);
    let ask = ask.field(108, &[61, 2, 2, 2, 255]).field(44, &[61, 3, 3, 3, 3, 255]).option(61, &[9]);
    let offer = rig.say(origin(3, 3), &ask).unwrap();
    assert_eq!(offer.option(61), Some([&[1; 255][..], &[9], &[2; 2], &[3; 3]].concat()));
    // A list of wishes in two parts.
    let offer = rig.say(origin(4, 4), &discover(mac(4)).wants(&[6]).wants(&[3, 1])).unwrap();
    assert_eq!(offer.codes(), [53, 54, 51, 58, 59, 6, 1, 3]);
}

#[test]
fn dhcp_d20_requested_options() {
    let mut rig = Rig::new(DhcpSettings { domain: "example.org".into(), mtu: Some(1400), ..settings() });
    let me = origin(1, 1);
    let told = |rig: &mut Rig, codes: &[u8]| rig.say(me, &discover(mac(1)).wants(codes)).unwrap().codes()[5..].to_vec();
    assert_eq!(told(&mut rig, &[15, 6, 26, 28, 1]), [15, 6, 26, 28, 1], "in the client's order");
    assert_eq!(told(&mut rig, &[200, 26, 26, 99]), [26], "unknown and repeated ones are passed over");
    assert_eq!(told(&mut rig, &[3, 6, 1]), [1, 3, 6], "RFC 2132 3.3: mask before router");
    assert_eq!(told(&mut rig, &[0, 53, 51, 54, 255, 52, 82, 3]), [3], "those of the protocol itself are not repeated");
    let usual = rig.say(me, &discover(mac(1))).unwrap().codes()[5..].to_vec();
    assert_eq!(usual, [1, 3, 6, 15, 28], "without a list");
    let generous = DhcpSettings { only_asked: false, ..rig.server.settings.clone() };
    assert_eq!(told(&mut Rig::new(generous), &[26]), [26, 1, 3, 6, 15, 28]);
    let always = RawOption { code: 43, value: vec![1, 2], always: true };
    let forced = DhcpSettings { raw: vec![always], ..rig.server.settings.clone() };
    assert_eq!(told(&mut Rig::new(forced), &[26]), [26, 43]);
}

#[test]
fn dhcp_d22_classless_routes() {
    let network = Ipv4Addr::new(10, 20, 128, 0);
    let routes = vec![Route { network, prefix_len: 17, gateway: host(2) }];
    let mut rig = Rig::new(DhcpSettings { routes, ..settings() });
    let offer = rig.say(origin(1, 1), &discover(mac(1)).wants(&[1, 3, 121, 249])).unwrap();
    let want = vec![0, 100, 64, 0, 1, 17, 10, 20, 128, 100, 64, 0, 2];
    assert_eq!((offer.option(121), offer.option(249)), (Some(want.clone()), Some(want)), "default route first");
    let offer = rig.say(origin(1, 1), &discover(mac(1)).wants(&[3])).unwrap();
    assert_eq!((offer.option(121), offer.option(3)), (None, Some(SERVER.octets().to_vec())));
    let mut rig = Rig::new(settings());
    let offer = rig.say(origin(1, 1), &discover(mac(1)).wants(&[121, 249])).unwrap();
    assert_eq!((offer.option(121), offer.option(249)), (None, None), "nothing to add to option 3");
}

/// Settings with something to say for every option.
fn settings_of_every_option() -> DhcpSettings {
    let raw = |code, value: &[u8]| RawOption { code, value: value.to_vec(), always: false };
    let name = Reservation {
        address: Some(host(77)),
        member: Some(MemberId(1)),
        host_name: "alice".into(),
        ..Reservation::default()
    };
    DhcpSettings {
        routers: vec![host(1), host(2)],
        dns: vec![host(3), host(4)],
        domain: "hub.example".into(),
        search: vec!["a.example".into(), "b.example".into()],
        mtu: Some(1454),
        ntp: vec![host(5)],
        routes: vec![Route { network: Ipv4Addr::new(10, 0, 0, 0), prefix_len: 8, gateway: host(2) }],
        captive_portal: "https://portal.example/api".into(),
        v6_only_wait_secs: Some(1800),
        proxy_url: "http://wpad.example/wpad.dat".into(),
        reservations: vec![name],
        raw: vec![
            raw(33, &[10, 0, 0, 9, 100, 64, 0, 2]),
            raw(43, &[1, 1, 7]),
            raw(60, b"PXEClient"),
            raw(66, b"tftp.example"),
            raw(67, b"boot.img"),
        ],
        ..settings()
    }
}

/// Every option of the table: asked for alone, it is told with these bytes.
#[test]
fn dhcp_d23_options() {
    let mut rig = Rig::new(settings_of_every_option());
    let routes = [0, 100, 64, 0, 1, 8, 10, 100, 64, 0, 2];
    let table: [(u8, &[u8]); 26] = [
        (1, &[255, 255, 0, 0]),
        (3, &[100, 64, 0, 1, 100, 64, 0, 2]),
        (6, &[100, 64, 0, 3, 100, 64, 0, 4]),
        (12, b"alice"),
        (15, b"hub.example"),
        (26, &[5, 174]),
        (28, &[100, 64, 255, 255]),
        (33, &[10, 0, 0, 9, 100, 64, 0, 2]),
        (42, &[100, 64, 0, 5]),
        (43, &[1, 1, 7]),
        (51, &[0, 0, 14, 16]),
        (54, &[100, 64, 0, 1]),
        (53, &[2]),
        (58, &[0, 0, 7, 8]),
        (59, &[0, 0, 12, 78]),
        (60, b"PXEClient"),
        (61, &[9, 8, 7]),
        (66, b"tftp.example"),
        (67, b"boot.img"),
        (81, &[14, 255, 255, 1, b'x', 0]),
        (108, &[0, 0, 7, 8]),
        (114, b"https://portal.example/api"),
        (119, b"\x01a\x07example\x00\x01b\xc0\x02"),
        (121, &routes),
        (249, &routes),
        (252, b"http://wpad.example/wpad.dat"),
    ];
    for (code, want) in table {
        let ask = discover(mac(1)).wants(&[code]).id(&[9, 8, 7]).option(81, &[5, 0, 0, 1, b'x', 0]);
        let offer = rig.say(origin(1, 1), &ask).unwrap();
        assert_eq!(offer.option(code).as_deref(), Some(want), "{code}");
        let mut codes: Vec<_> = offer.codes();
        codes.sort_unstable();
        let mut want: Vec<u8> = vec![51, 53, 54, 58, 59, 61, 81, code];
        want.sort_unstable();
        want.dedup();
        assert_eq!(codes, want, "nothing else");
    }
    // RFC 8925 3.2: not without being asked.
    assert_eq!(rig.say(origin(1, 1), &discover(mac(1))).unwrap().option(108), None);
}

#[test]
fn mistakes_in_settings_are_named() {
    use super::super::settings::DhcpSettingsError as E;
    let raw = |code, len| vec![RawOption { code, value: vec![0; len], always: false }];
    let reserved = |address| Reservation { address, mac: Some(mac(1)), ..Reservation::default() };
    let base = settings;
    assert_eq!(base().check(), Ok(()));
    for (settings, want) in [
        (DhcpSettings { prefix_len: 31, ..base() }, E::Prefix(31)),
        (DhcpSettings { pool: host(9)..=host(8), ..base() }, E::Pool(host(9), host(8))),
        (DhcpSettings { lease_secs: 30, lease_secs_min: 10, ..base() }, E::LeaseTime(30, 10)),
        (DhcpSettings { leases_per_session: 0, ..base() }, E::SessionLeases(0)),
        (DhcpSettings { raw: raw(53, 1), ..base() }, E::RawOption(53)),
        (DhcpSettings { raw: raw(200, 1025), ..base() }, E::LongOption(200, 1025)),
        (DhcpSettings { search: vec!["a..b".into()], ..base() }, E::Domain("a..b".into())),
        (DhcpSettings { reservations: vec![reserved(Some(SERVER))], ..base() }, E::ReservedOutside(SERVER)),
        (DhcpSettings { reservations: vec![reserved(None)], ..base() }, E::ReservedForNobody),
        (DhcpSettings { reservations: vec![reserved(Some(host(9))); 2], ..base() }, E::ReservedTwice(host(9))),
        (DhcpSettings { reservations: vec![Reservation::default()], ..base() }, E::ReservedForNobody),
    ] {
        assert_eq!(settings.check(), Err(want.clone()));
        // A server of such settings gives what makes sense, and does not fall over.
        let mut server = DhcpServer::new(settings, 1, START, 0);
        let (payload, mut world) = (discover(mac(1)).bytes(), World::default());
        let (src, dst) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        let request = DhcpRequest { origin: &origin(1, 1), src_mac: mac(1), src, dst, payload: &payload };
        server.message(request, START, &mut world);
        assert_eq!(world.said.len() + world.drops.len(), 1, "{want:?}");
    }
}
