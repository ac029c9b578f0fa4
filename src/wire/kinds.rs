//! What a frame is, as far as policies ask: a set of [`Kinds`], found in one walk over its headers.
//!
//! A policy is then a mask, and asking it one AND. Written as a guard, not as a receiver: where a
//! header could hide what a host would still read (stacked tags and LLC/SNAP in front of IP,
//! CVE-2021-27853 and following; extension headers and tiny fragments, RFC 7113 and RFC 3128), the
//! walk goes on or says [`Kinds::OBSCURED`].
#![forbid(unsafe_code)]

use std::ops::BitOr;

use super::ethernet::Frame;
use super::ipv4::Ipv4;
use super::ipv6::{Ipv6, Upper};
use super::{arp, dhcp, icmpv6, ipv4, ipv6, tcp, udp, vlan};

/// A set of things a frame can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kinds(u32);

impl Kinds {
    /// Nothing.
    pub const NONE: Kinds = Kinds(0);
    /// ARP.
    pub const ARP: Kinds = Kinds(1);
    /// IPv4.
    pub const IPV4: Kinds = Kinds(1 << 1);
    /// IPv6.
    pub const IPV6: Kinds = Kinds(1 << 2);
    /// Neither ARP nor IP.
    pub const NON_IP: Kinds = Kinds(1 << 3);
    /// DHCPv4, either direction.
    pub const DHCP: Kinds = Kinds(1 << 4);
    /// DHCPv4 as a server or relay sends it: from port 67 or to port 68.
    pub const DHCP_SERVER: Kinds = Kinds(1 << 5);
    /// DHCPv6, either direction.
    pub const DHCPV6: Kinds = Kinds(1 << 6);
    /// DHCPv6 as a server or relay sends it: from port 547 or to port 546.
    pub const DHCPV6_SERVER: Kinds = Kinds(1 << 7);
    /// ICMPv6.
    pub const ICMPV6: Kinds = Kinds(1 << 8);
    /// Router solicitation.
    pub const ROUTER_SOLICIT: Kinds = Kinds(1 << 9);
    /// Router advertisement.
    pub const ROUTER_ADVERT: Kinds = Kinds(1 << 10);
    /// TCP over IPv4 with SYN and ACK: the answer of a server.
    pub const SERVER_V4: Kinds = Kinds(1 << 11);
    /// TCP over IPv6 with SYN and ACK.
    pub const SERVER_V6: Kinds = Kinds(1 << 12);
    /// NetBIOS, LLMNR, SSDP or mDNS, by UDP port.
    pub const CHATTER: Kinds = Kinds(1 << 13);
    /// To a group address, and neither ARP, DHCP, DHCPv6 nor ICMPv6.
    pub const OTHER_GROUP: Kinds = Kinds(1 << 14);
    /// Built so that its upper layer cannot be told: a header chain cut by fragmentation or by the
    /// end of the frame, a fragment that overwrites TCP flags, too many tags.
    pub const OBSCURED: Kinds = Kinds(1 << 15);

    /// As a number, to carry it through a mailbox.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From [`Self::bits`].
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Whether the sets share a member.
    #[inline]
    pub const fn intersects(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set is empty.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Members of both sets.
    #[inline]
    pub const fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 & other.0)
    }

    /// Members of either set.
    #[inline]
    pub const fn or(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    /// What `frame` is.
    pub fn of(frame: Frame<'_>) -> Kinds {
        let kinds = beneath_ethernet(frame);
        if frame.dst().is_group() && !kinds.intersects(ALLOWED_GROUP) { kinds | Self::OTHER_GROUP } else { kinds }
    }
}

impl BitOr for Kinds {
    type Output = Kinds;

    fn bitor(self, other: Kinds) -> Kinds {
        self.or(other)
    }
}

/// Looks behind tags and LLC/SNAP for the network layer.
fn beneath_ethernet(frame: Frame<'_>) -> Kinds {
    let mut ethertype = frame.ethertype();
    let mut rest = frame.payload();
    for _ in 0..HEADERS_MAX {
        let skip = match (ethertype, rest) {
            (ipv4::ETHERTYPE, _) => return Kinds::IPV4 | beneath_ipv4(rest),
            (ipv6::ETHERTYPE, _) => return Kinds::IPV6 | beneath_ipv6(rest),
            (arp::ETHERTYPE, _) => return Kinds::ARP,
            (vlan::TPID_CUSTOMER | vlan::TPID_SERVICE | TPID_OLD_SERVICE, [_, _, _, _, ..]) => vlan::TAG_BYTES,
            // A length, then LLC "SNAP" with an OUI whose protocol identifier is an EtherType (RFC 1042, 802.1H).
            (0..=LENGTH_MAX, [0xaa, 0xaa, 0x03, 0, 0, 0 | 0xf8, _, _, ..]) => SNAP_BYTES,
            _ => return Kinds::NON_IP,
        };
        ethertype = u16::from_be_bytes([rest[skip - 2], rest[skip - 1]]);
        rest = &rest[skip..];
    }
    Kinds::NON_IP | Kinds::OBSCURED
}

fn beneath_ipv4(bytes: &[u8]) -> Kinds {
    // No host accepts a packet with a broken header.
    let Some(packet) = Ipv4::new_checked(bytes) else { return Kinds::NONE };
    match (packet.fragment_offset(), packet.protocol()) {
        (0, tcp::PROTOCOL) => tcp_kinds(packet.payload(), Kinds::SERVER_V4),
        (0, udp::PROTOCOL) => udp_kinds(packet.payload()),
        // RFC 3128: a second fragment 8 bytes in can replace the flags of the first.
        (1, tcp::PROTOCOL) => Kinds::OBSCURED,
        _ => Kinds::NONE,
    }
}

fn beneath_ipv6(bytes: &[u8]) -> Kinds {
    let Some(packet) = Ipv6::new_checked(bytes) else { return Kinds::NONE };
    match packet.upper() {
        Upper::Protocol { number: icmpv6::PROTOCOL, payload, .. } => match payload.first() {
            Some(&icmpv6::ROUTER_SOLICIT) => Kinds::ICMPV6 | Kinds::ROUTER_SOLICIT,
            Some(&icmpv6::ROUTER_ADVERT) => Kinds::ICMPV6 | Kinds::ROUTER_ADVERT,
            Some(_) => Kinds::ICMPV6,
            None => Kinds::ICMPV6 | Kinds::OBSCURED,
        },
        Upper::Protocol { number: tcp::PROTOCOL, payload, .. } => tcp_kinds(payload, Kinds::SERVER_V6),
        Upper::Protocol { number: udp::PROTOCOL, payload, .. } => udp_kinds(payload),
        Upper::Protocol { .. } => Kinds::NONE,
        // Useless to the receiver without the first fragment, which was looked at (RFC 7113 §3).
        Upper::LaterFragment => Kinds::NONE,
        Upper::Unreadable => Kinds::OBSCURED,
    }
}

fn tcp_kinds(segment: &[u8], server: Kinds) -> Kinds {
    const SYN_ACK: u8 = tcp::FLAG_SYN | tcp::FLAG_ACK;
    match tcp::flags(segment) {
        Some(flags) if flags & SYN_ACK == SYN_ACK => server,
        Some(_) => Kinds::NONE,
        None => Kinds::OBSCURED,
    }
}

fn udp_kinds(segment: &[u8]) -> Kinds {
    let Some((src_port, dst_port)) = udp::l4_ports(segment) else { return Kinds::OBSCURED };
    let mut kinds = Kinds::NONE;
    if src_port == dhcp::SERVER_PORT || dst_port == dhcp::CLIENT_PORT {
        kinds = kinds | Kinds::DHCP | Kinds::DHCP_SERVER;
    }
    if dst_port == dhcp::SERVER_PORT {
        kinds = kinds | Kinds::DHCP;
    }
    if src_port == dhcp::V6_SERVER_PORT || dst_port == dhcp::V6_CLIENT_PORT {
        kinds = kinds | Kinds::DHCPV6 | Kinds::DHCPV6_SERVER;
    }
    if dst_port == dhcp::V6_SERVER_PORT {
        kinds = kinds | Kinds::DHCPV6;
    }
    if matches!(dst_port, NETBIOS_NAME | NETBIOS_DATAGRAM | SSDP | MDNS | LLMNR) {
        kinds = kinds | Kinds::CHATTER;
    }
    kinds
}

/// Pre-standard tag of stacked VLANs, still understood by many drivers.
const TPID_OLD_SERVICE: u16 = 0x9100;
/// Largest value of the field at offset 12 that is a length (802.3 clause 3.2.6).
const LENGTH_MAX: u16 = 1500;
const SNAP_BYTES: usize = 8;
/// Tags and SNAP headers looked behind. Two tags and a SNAP header occur; more is an attempt to hide.
const HEADERS_MAX: usize = 5;

const ALLOWED_GROUP: Kinds = Kinds::ARP.or(Kinds::DHCP).or(Kinds::DHCPV6).or(Kinds::ICMPV6);

const NETBIOS_NAME: u16 = 137;
const NETBIOS_DATAGRAM: u16 = 138;
const SSDP: u16 = 1900;
const MDNS: u16 = 5353;
const LLMNR: u16 = 5355;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNICAST: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    const BROADCAST: [u8; 12] = [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 2];

    fn of(parts: &[&[u8]]) -> Kinds {
        Kinds::of(Frame::new_checked(&parts.concat()).unwrap())
    }

    fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0u8; 40];
        (bytes[0], bytes[6]) = (0x60, next);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn udp(src_port: u16, dst_port: u16) -> Vec<u8> {
        [&src_port.to_be_bytes()[..], &dst_port.to_be_bytes(), &[0, 8, 0, 0]].concat()
    }

    fn tcp(flags: u8) -> Vec<u8> {
        let mut bytes = vec![0u8; 20];
        bytes[13] = flags;
        bytes
    }

    const V4: &[u8] = &[0x08, 0x00];
    const V6: &[u8] = &[0x86, 0xdd];

    #[test]
    fn network_and_upper_layers() {
        let cases: Vec<(&str, Kinds, Kinds)> = vec![
            ("arp", of(&[&UNICAST, &[0x08, 0x06]]), Kinds::ARP),
            ("pppoe", of(&[&UNICAST, &[0x88, 0x64, 0, 0]]), Kinds::NON_IP),
            ("dhcp discover", of(&[&UNICAST, V4, &ipv4(17, 0, &udp(68, 67))]), Kinds::IPV4 | Kinds::DHCP),
            (
                "dhcp offer",
                of(&[&UNICAST, V4, &ipv4(17, 0, &udp(67, 68))]),
                Kinds::IPV4 | Kinds::DHCP | Kinds::DHCP_SERVER,
            ),
            ("syn", of(&[&UNICAST, V4, &ipv4(6, 0, &tcp(2))]), Kinds::IPV4),
            ("syn ack", of(&[&UNICAST, V4, &ipv4(6, 0, &tcp(0x12))]), Kinds::IPV4 | Kinds::SERVER_V4),
            ("syn ack psh v6", of(&[&UNICAST, V6, &ipv6(6, &tcp(0x1a))]), Kinds::IPV6 | Kinds::SERVER_V6),
            ("tiny first fragment", of(&[&UNICAST, V4, &ipv4(6, 0x2000, &[0; 8])]), Kinds::IPV4 | Kinds::OBSCURED),
            ("flags overwritten", of(&[&UNICAST, V4, &ipv4(6, 1, &[0; 8])]), Kinds::IPV4 | Kinds::OBSCURED),
            ("later fragment", of(&[&UNICAST, V4, &ipv4(17, 100, &udp(67, 68))]), Kinds::IPV4),
            ("dhcpv6 solicit", of(&[&UNICAST, V6, &ipv6(17, &udp(546, 547))]), Kinds::IPV6 | Kinds::DHCPV6),
            (
                "dhcpv6 advertise",
                of(&[&UNICAST, V6, &ipv6(17, &udp(547, 546))]),
                Kinds::IPV6 | Kinds::DHCPV6 | Kinds::DHCPV6_SERVER,
            ),
            ("mdns", of(&[&UNICAST, V4, &ipv4(17, 0, &udp(5353, 5353))]), Kinds::IPV4 | Kinds::CHATTER),
            ("neighbour", of(&[&UNICAST, V6, &ipv6(58, &[135, 0])]), Kinds::IPV6 | Kinds::ICMPV6),
        ];
        for (name, got, want) in cases {
            assert_eq!(got, want, "{name}");
        }
    }

    /// H11, RFC 7113, CVE-2021-27853, -27854, -27861, -27862.
    #[test]
    fn router_advertisement_cannot_hide() {
        let advert = ipv6(58, &[134, 0]);
        let options = ipv6(60, &[58, 0, 1, 4, 0, 0, 0, 0, 134, 0]);
        let fragment = ipv6(44, &[60, 0, 0, 1, 0, 0, 0, 1, 58, 0, 1, 4, 0, 0, 0, 0, 134, 0]);
        let snap: &[u8] = &[0, 50, 0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd];
        let tag: &[u8] = &[0x81, 0, 0, 0];
        let service: &[u8] = &[0x88, 0xa8, 0, 5];
        let cases: [(&str, Vec<&[u8]>); 6] = [
            ("plain", vec![&UNICAST, V6, &advert]),
            ("behind options", vec![&UNICAST, V6, &options]),
            ("in a first fragment", vec![&UNICAST, V6, &fragment]),
            ("in SNAP", vec![&UNICAST, snap, &advert]),
            ("behind two tags", vec![&UNICAST, service, tag, V6, &advert]),
            ("behind tag and SNAP", vec![&UNICAST, tag, snap, &advert]),
        ];
        for (name, parts) in cases {
            assert!(of(&parts).intersects(Kinds::ROUTER_ADVERT), "{name}");
        }
        let cut = ipv6(44, &[60, 0, 0, 1, 0, 0, 0, 1]);
        assert!(of(&[&UNICAST, V6, &cut]).intersects(Kinds::OBSCURED), "chain cut by fragmentation");
        let many = tag.repeat(6);
        assert!(of(&[&UNICAST, &many, V6, &advert]).intersects(Kinds::OBSCURED), "too many tags");
    }

    #[test]
    fn group_destinations() {
        for (want, kinds) in [
            (false, of(&[&BROADCAST, &[0x08, 0x06]])),
            (false, of(&[&BROADCAST, V4, &ipv4(17, 0, &udp(68, 67))])),
            (false, of(&[&BROADCAST, V6, &ipv6(58, &[133, 0])])),
            (true, of(&[&BROADCAST, V4, &ipv4(17, 0, &udp(1, 2))])),
            (false, of(&[&UNICAST, V4, &ipv4(17, 0, &udp(1, 2))])),
        ] {
            assert_eq!(kinds.intersects(Kinds::OTHER_GROUP), want);
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 14..200), ethertype in 0usize..6) {
            let mut bytes = bytes;
            let known = [[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [0, 40], [8, 6]];
            bytes[12..14].copy_from_slice(&known[ethertype]);
            let _ = Kinds::of(Frame::new_checked(&bytes).unwrap());
        }
    }
}
