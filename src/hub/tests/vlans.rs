//! E5: tags.
#![forbid(unsafe_code)]

use super::*;

/// What stands between the addresses and the payload.
const UNTAGGED: &[u8] = &[0x08, 0x06];
const PRIORITY: &[u8] = &[0x81, 0x00, 0xa0, 0x00, 0x08, 0x06];
const VLAN_5: &[u8] = &[0x81, 0x00, 0x00, 0x05, 0x08, 0x06];
const VLAN_5_PRIORITY: &[u8] = &[0x81, 0x00, 0xa0, 0x05, 0x08, 0x06];
const VLAN_6: &[u8] = &[0x81, 0x00, 0x00, 0x06, 0x08, 0x06];
const QINQ_5: &[u8] = &[0x88, 0xa8, 0x00, 0x05, 0x81, 0x00, 0x00, 0x07, 0x08, 0x06];
const RESERVED: &[u8] = &[0x81, 0x00, 0x0f, 0xff, 0x08, 0x06];
const TRUNCATED: &[u8] = &[0x81, 0x00, 0x00];

/// Per kind of tag: what leaves by a transparent port, by a port of VLAN 5, by a port of VLAN 6.
type Row = (&'static [u8], Option<&'static [u8]>, Option<&'static [u8]>, Option<&'static [u8]>);

fn check(ingress_vlan: u32, rows: &[Row]) {
    for &(head, transparent, vlan_5, vlan_6) in rows {
        let mut bench = Bench::new(Profile::Lan);
        let sender = bench.open(0, 9, PortKind::Member, &[(Item::VLanId, ingress_vlan)]);
        let ports = [0, 5, 6].map(|vlan| bench.open(1, vlan, PortKind::Member, &[(Item::VLanId, vlan)]));
        let copies = bench.deliver(sender, &raw(Mac::BROADCAST, mac(1), &[head, &[1, 2, 3]].concat()));
        for (port, want) in ports.into_iter().zip([transparent, vlan_5, vlan_6]) {
            let got = copies.iter().find(|(to, _)| *to == port).map(|(_, bytes)| bytes.clone());
            let want = want.map(|head| raw(Mac::BROADCAST, mac(1), &[head, &[1, 2, 3]].concat()));
            assert_eq!(got, want, "{head:02x?} from {ingress_vlan} to {port}");
        }
    }
}

#[test]
fn e5_tags_from_a_transparent_port() {
    check(
        0,
        &[
            (UNTAGGED, Some(UNTAGGED), None, None),
            (PRIORITY, Some(PRIORITY), None, None),
            (VLAN_5, Some(VLAN_5), Some(UNTAGGED), None),
            (VLAN_6, Some(VLAN_6), None, Some(UNTAGGED)),
            (QINQ_5, Some(QINQ_5), None, None),
            (RESERVED, None, None, None),
        ],
    );
}

#[test]
fn e5_tags_from_a_port_of_vlan_5() {
    check(
        5,
        &[
            (UNTAGGED, Some(VLAN_5), Some(UNTAGGED), None),
            (PRIORITY, Some(VLAN_5_PRIORITY), Some(PRIORITY), None),
            (VLAN_5, None, None, None),
            (VLAN_6, None, None, None),
            (QINQ_5, None, None, None),
            (RESERVED, None, None, None),
        ],
    );
}

#[test]
fn e5_reasons() {
    let mut bench = Bench::new(Profile::Lan);
    let transparent = bench.member(0);
    let access = bench.open(0, 2, PortKind::Member, &[(Item::VLanId, 5)]);
    for (port, head, reason) in [
        (transparent, RESERVED, DropReason::HubVlan),
        (access, VLAN_6, DropReason::HubVlan),
        (transparent, TRUNCATED, DropReason::FrameTooShort),
        (access, TRUNCATED, DropReason::FrameTooShort),
    ] {
        assert_eq!(bench.dropped(port, &raw(Mac::BROADCAST, mac(1), head)), reason, "{head:02x?}");
    }
}

/// The same address in two VLANs is two addresses.
#[test]
fn e5_addresses_are_learned_per_vlan() {
    let mut bench = Bench::new(Profile::Lan);
    let (a, b, c) = (bench.member(0), bench.member(1), bench.member(2));
    bench.ingress(a, &raw(Mac::BROADCAST, mac(1), VLAN_5));
    bench.ingress(b, &raw(Mac::BROADCAST, mac(1), VLAN_6));
    assert_eq!(bench.reached(c, &raw(mac(1), mac(3), VLAN_5)), [a]);
    assert_eq!(bench.reached(c, &raw(mac(1), mac(3), VLAN_6)), [b]);
    assert_eq!(bench.reached(c, &raw(mac(1), mac(3), UNTAGGED)), [a, b], "unknown there");
    let mut vlans: Vec<u16> = bench.shared.mac_table(bench.now).iter().map(|entry| entry.vlan).collect();
    vlans.sort_unstable();
    assert_eq!(vlans, [0, 5, 5, 6, 6]);
}
