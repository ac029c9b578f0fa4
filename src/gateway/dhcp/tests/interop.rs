//! What clients in the field send, option by option, and that they get what they need.
#![forbid(unsafe_code)]

use super::*;

/// Says what the client says in its first exchange and returns OFFER and ACK.
fn exchange(options: &[(u8, &[u8])], with: impl Fn(Ask) -> Ask) -> (Said, Said) {
    let mut rig = Rig::new(DhcpSettings { domain: "hub.example".into(), mtu: Some(1400), ..settings() });
    let all = |ask: Ask| with(options.iter().fold(ask, |ask, (code, value)| ask.option(*code, value)));
    let offer = rig.offer(origin(1, 1), &all(discover(mac(1))));
    let ack = rig.say(origin(1, 1), &all(select(mac(1), offer.yiaddr()))).unwrap();
    assert_eq!((ack.what(), ack.yiaddr()), (MessageType::Ack, offer.yiaddr()));
    (offer, ack)
}

/// Windows 10: identifier, name, class "MSFT 5.0", its list with 119, 121, 249, 252 (as Microsoft's MS-DHCPE lists it).
#[test]
fn dhcp_d28_windows() {
    let id = [&[1][..], &mac(1).0].concat();
    let fqdn = [0, 0, 0, b'P', b'C'];
    let wishes = [1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252];
    let (offer, ack) = exchange(&[(61, &id), (12, b"PC"), (81, &fqdn), (60, b"MSFT 5.0"), (55, &wishes)], |ask| ask);
    assert_eq!(offer.codes(), [53, 54, 51, 58, 59, 61, 1, 3, 6, 15, 81]);
    assert_eq!(ack.option(81), Some(vec![8, 255, 255, b'P', b'C']));
}

/// Android: no identifier before Android 10, size 1500, class "android-dhcp-14", wants 26, 28, 108, 114.
#[test]
fn dhcp_d28_android() {
    let wishes = [1, 3, 6, 15, 26, 28, 51, 58, 59, 43, 114, 108];
    let (offer, _) = exchange(&[(57, &[5, 220]), (60, b"android-dhcp-14"), (12, b"Pixel-8"), (55, &wishes)], |ask| ask);
    assert_eq!(offer.codes(), [53, 54, 51, 58, 59, 1, 3, 6, 15, 26, 28]);
}

/// systemd-networkd: DUID-EN as identifier (RFC 4361), 576 or more, anonymous or not; retries with secs counting up.
#[test]
fn dhcp_d28_systemd_networkd() {
    let id = [&[0xff, 0xca, 0x53, 0x09, 0x5a, 0, 2, 0, 0, 0xab, 0x11][..], &[7; 8]].concat();
    let wishes = [1, 3, 6, 12, 15, 26, 33, 42, 119, 120, 121, 162];
    let (offer, ack) =
        exchange(&[(61, &id), (55, &wishes), (57, &[5, 192]), (12, b"host")], |ask| ask.field(8, &[0, 3]));
    assert_eq!(offer.codes(), [53, 54, 51, 58, 59, 61, 1, 3, 6, 15, 26]);
    assert_eq!(ack.option(61), Some(id));
}

/// iOS and macOS: padded to 300 bytes and more, asks for a lease of 90 days.
#[test]
fn dhcp_d28_macos() {
    let id = [&[1][..], &mac(1).0].concat();
    let wishes = [1, 121, 3, 6, 15, 108, 114, 119, 252, 95, 44, 46];
    let options: [(u8, &[u8]); 5] =
        [(55, &wishes), (57, &[5, 220]), (61, &id), (51, &[0, 0x76, 0xa7, 0]), (12, b"Mac")];
    let (offer, ack) = exchange(&options, |mut ask| {
        ask.options.extend([255]);
        ask.options.extend([0; 40]);
        ask
    });
    assert_eq!((offer.secs(51), ack.secs(51)), (Some(3600), Some(3600)));
}

/// A PXE ROM: broadcast flag, options 93, 94, 97, class "PXEClient:…", and a boot file by 66 and 67.
#[test]
fn dhcp_d28_pxe() {
    let (offer, _) = exchange(
        &[
            (
                55,
                &[1, 2, 3, 4, 5, 6, 11, 12, 13, 15, 16, 17, 18, 43, 54, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135],
            ),
            (57, &[4, 236]),
            (97, &[0; 17]),
            (93, &[0, 0]),
            (94, &[1, 2, 1]),
            (60, b"PXEClient:Arch:00000:UNDI:002001"),
        ],
        Ask::broadcast,
    );
    assert_eq!(offer.dst, Ipv4Addr::BROADCAST);
    assert_eq!(offer.codes(), [53, 54, 51, 58, 59, 1, 3, 6, 15]);
}

/// A message as it was captured, from the options on; the fixed part has nothing but these.
fn captured(rig: &mut Rig, options: &str, ciaddr: Ipv4Addr) -> Option<Said> {
    let card = Mac([0x72, 0x53, 0xad, 0x3c, 0, 0x4c]);
    let mut ask = discover(card).ciaddr(ciaddr);
    let digits: Vec<_> = options.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    ask.options = digits.chunks(2).map(byte).collect();
    // The end option is added again.
    assert_eq!(ask.options.pop(), Some(255));
    if !ciaddr.is_unspecified() {
        ask = ask.from(ciaddr, SERVER);
    }
    rig.say(origin(1, 1), &ask)
}

/// Four captured messages of a life: DISCOVER, REQUEST, the next REQUEST (with the address in `ciaddr` if it renews),
/// RELEASE. The server had the same address and pool.
fn life(messages: [&str; 4], renews: bool, codes: &[u8]) {
    let routes = vec![settings::Route { network: Ipv4Addr::new(10, 9, 0, 0), prefix_len: 16, gateway: host(1) }];
    let search = vec!["a.example".into()];
    let mut rig =
        Rig::new(DhcpSettings { domain: "hub.example".into(), mtu: Some(1400), routes, search, ..settings() });
    let (none, own) = (Ipv4Addr::UNSPECIFIED, host(2));
    let offer = captured(&mut rig, messages[0], none).unwrap();
    assert_eq!((offer.what(), offer.yiaddr(), offer.codes()), (MessageType::Offer, own, codes.to_vec()));
    let ack = captured(&mut rig, messages[1], none).unwrap();
    assert_eq!((ack.what(), ack.yiaddr(), ack.codes()), (MessageType::Ack, own, codes.to_vec()));
    rig.secs(1800);
    let ack = captured(&mut rig, messages[2], if renews { own } else { none }).unwrap();
    assert_eq!((ack.what(), ack.yiaddr(), ack.secs(51)), (MessageType::Ack, own, Some(3600)));
    assert_eq!(captured(&mut rig, messages[3], own), None);
    assert_eq!(rig.state(own), Some(LeaseState::Free));
}

/// ISC dhclient 4.4.3 of Debian 12: no identifier; killed and started again it is in INIT-REBOOT.
#[test]
fn dhcp_d28_dhclient() {
    life(
        [
            "350101 370d011c02030f06770c2c2f1a792a ff",
            "350103 360464400001 320464400002 370d011c02030f06770c2c2f1a792a ff",
            "350103 320464400002 370d011c02030f06770c2c2f1a792a ff",
            "350107 360464400001 ff",
        ],
        false,
        &[53, 54, 51, 58, 59, 1, 28, 3, 15, 6, 119, 26, 121],
    );
}

/// udhcpc of busybox 1.35: announces 576 bytes, tells its name.
#[test]
fn dhcp_d28_udhcpc() {
    const REST: &str =
        "39020240 37090103060c0f1a1c2a79 0c06636c69656e74 3c0c756468637020312e33352e30 3d07017253ad3c004c ff";
    life(
        [
            &format!("350101 {REST}"),
            &format!("350103 320464400002 360464400001 {REST}"),
            &format!("350103 {REST}"),
            "350107 360464400001 3d07017253ad3c004c ff",
        ],
        true,
        &[53, 54, 51, 58, 59, 61, 1, 3, 6, 15, 26, 28, 121],
    );
}

/// dhcpcd 9.4.1: RFC 4361 identifier, rapid commit (80, not ours), forced renewal (145, not ours).
#[test]
fn dhcp_d28_dhcpcd() {
    const ID: &str = "3d13ffad3c004c00010001329535867253ad3c004c";
    let rest = format!("370e017903060c0f1a1c2133363a3b77 3902055c {ID}");
    life(
        [
            &format!("350101 {rest} 50007401 01 910101 ff"),
            &format!("320464400002 350103 360464400001 {rest} 910101 ff"),
            &format!("350103 {rest} 910101 ff"),
            &format!("350107 360464400001 {ID} ff"),
        ],
        true,
        &[53, 54, 51, 58, 59, 61, 1, 121, 3, 6, 15, 26, 28, 119],
    );
}
