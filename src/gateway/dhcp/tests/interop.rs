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
