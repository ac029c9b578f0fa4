//! The table of `xdp/README.md`, frame by frame.

use super::frames::{arp, error, fragment, frame, icmp, ip, ports, query, tagged, tcp, to_card, udp, with_options};
use super::{CARD, FAR, HOST, NEIGHBOUR, OTHER, OURS, decide, settings, with, xdp_socket};
use crate::sys::bpf::{XdpAction, XdpSettings};
use crate::wire::ethernet::Mac;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

struct Case {
    name: &'static str,
    frame: Vec<u8>,
    /// The counter that rises with shared addresses, and with dedicated ones.
    shared: &'static str,
    dedicated: &'static str,
    /// Without one of the first so many bytes behind the first header after Ethernet, it is nobody's.
    needs: (usize, usize),
}

/// A packet to the card; `l4` bytes behind its header are needed if addresses are shared.
fn packet(name: &'static str, packet: &[u8], shared: &'static str, dedicated: &'static str, l4: usize) -> Case {
    let header = usize::from(packet[0] & 0xf) * 4;
    Case { name, frame: to_card(packet), shared, dedicated, needs: (header + l4, header) }
}

const PASSED: &str = "passed";
const MALFORMED: &str = "malformed";

fn port_cases() -> Vec<Case> {
    let edge = |name, protocol: &'static str, port, ours: bool| {
        let body = if protocol == "tcp" { tcp(OURS, port) } else { udp(OURS, port) };
        packet(name, &body, if ours { protocol } else { PASSED }, protocol, 4)
    };
    vec![
        edge("TCP port 0", "tcp", 0, false),
        edge("TCP below the first range", "tcp", 61_000, false),
        edge("TCP begin of the first range", "tcp", 61_001, true),
        edge("TCP end of the first range", "tcp", 62_000, true),
        edge("TCP begin of the second range", "tcp", 62_001, true),
        edge("TCP end of the second range", "tcp", 63_000, true),
        edge("TCP above the second range", "tcp", 63_001, false),
        edge("TCP last port", "tcp", 65_535, true),
        edge("UDP below the first range", "udp", 61_000, false),
        edge("UDP begin of the first range", "udp", 61_001, true),
        edge("UDP end of the second range", "udp", 63_000, true),
        edge("UDP above the second range", "udp", 63_001, false),
        edge("UDP below the last range", "udp", 63_999, false),
        edge("UDP begin of the last range", "udp", 64_000, true),
        edge("UDP last port", "udp", 65_535, true),
        edge("static port of TCP", "tcp", 8080, true),
        edge("not of UDP", "udp", 8080, false),
        edge("static port of UDP", "udp", 5353, true),
        edge("not of TCP", "tcp", 5353, false),
        packet("TCP to our other address", &tcp(HOST, 61_001), "tcp", "tcp", 4),
        packet("TCP to another address", &tcp(OTHER, 61_001), PASSED, PASSED, 0),
        packet("UDP to another address", &udp(OTHER, 61_001), PASSED, PASSED, 0),
        packet("TCP behind options of IP", &with_options(&tcp(OURS, 61_001)), "tcp", "tcp", 4),
        packet("the host's behind options", &with_options(&udp(OURS, 53)), PASSED, "udp", 4),
        packet("GRE", &ip(FAR, OURS, 47, &[0; 40]), PASSED, "other_protocol", 0),
        packet("SCTP to a port of ours", &ip(FAR, OURS, 132, &ports(1, 61_001)), PASSED, "other_protocol", 0),
        packet("don't-fragment alone", &fragment(tcp(OURS, 22), 0x4000), PASSED, "tcp", 4),
        packet("first fragment", &fragment(udp(OURS, 62_001), 0x2000), "fragment", "fragment", 0),
        packet("first fragment to the host's port", &fragment(udp(OURS, 53), 0x2000), "fragment", "fragment", 0),
        packet("middle fragment", &fragment(udp(OURS, 1), 0x2010), "fragment", "fragment", 0),
        packet("last fragment", &fragment(udp(OURS, 1), 0x0001), "fragment", "fragment", 0),
        packet("fragment behind options", &with_options(&fragment(tcp(OURS, 1), 0x2000)), "fragment", "fragment", 0),
        packet("fragment to another address", &fragment(udp(OTHER, 1), 0x2000), PASSED, PASSED, 0),
    ]
}

fn icmp_cases() -> Vec<Case> {
    let sent = |protocol, port| ip(OURS, FAR, protocol, &ports(port, 443));
    let ping = |identifier| ip(OURS, FAR, 1, &query(8, identifier));
    let others = ip(OTHER, FAR, 6, &ports(61_001, 443));
    let about =
        |name, kind, inner: &[u8], shared, l4: usize| packet(name, &error(kind, inner), shared, "icmp", 8 + 20 + l4);
    vec![
        packet("echo reply", &icmp(OURS, 0, 62_001), "icmp", "icmp", 8),
        packet("echo reply to the host", &icmp(OURS, 0, 61_000), PASSED, "icmp", 8),
        packet("echo reply, static port's number", &icmp(OURS, 0, 8080), PASSED, "icmp", 8),
        packet("timestamp reply", &icmp(OURS, 14, 65_535), "icmp", "icmp", 8),
        packet("timestamp reply to the host", &icmp(OURS, 14, 5), PASSED, "icmp", 8),
        packet("echo request", &icmp(OURS, 8, 62_001), PASSED, "icmp", 8),
        packet("echo reply to another", &icmp(OTHER, 0, 62_001), PASSED, PASSED, 0),
        about("unreachable, TCP of ours", 3, &sent(6, 62_002), "icmp", 4),
        about("time exceeded, UDP of ours", 11, &sent(17, 64_001), "icmp", 4),
        about("parameter problem, TCP of ours", 12, &sent(6, 65_535), "icmp", 4),
        about("about a static port", 3, &sent(6, 8080), "icmp", 4),
        about("about a static port of UDP", 3, &sent(17, 5353), "icmp", 4),
        about("about it with the other protocol", 3, &sent(17, 8080), PASSED, 4),
        about("about the host's TCP", 3, &sent(6, 22), PASSED, 4),
        about("about another's", 3, &others, PASSED, 4),
        about("about our ping", 11, &ping(62_003), "icmp", 8),
        about("about the host's ping", 11, &ping(3), PASSED, 8),
        about("about a first fragment of ours", 3, &fragment(sent(17, 62_002), 0x2000), "icmp", 4),
        about("about a later one, without ports", 3, &fragment(sent(17, 62_002), 0x2001), PASSED, 4),
        about("about GRE", 3, &ip(OURS, FAR, 47, &ports(62_002, 1)), PASSED, 4),
        about("source quench", 4, &sent(6, 62_002), PASSED, 4),
        about("redirect", 5, &sent(6, 62_002), PASSED, 4),
        about("about what has options", 3, &with_options(&sent(6, 62_002)), "icmp", 8 + 4),
        packet(
            "both with options",
            &with_options(&error(3, &with_options(&sent(6, 8080)))),
            "icmp",
            "icmp",
            8 + 28 + 4,
        ),
    ]
}

fn other_cases() -> Vec<Case> {
    let case = |name, frame, shared, dedicated, needs| Case { name, frame, shared, dedicated, needs: (needs, needs) };
    let arps = |name, dst, body: Vec<u8>, dedicated| case(name, frame(dst, 0x0806, &body), PASSED, dedicated, 28);
    let station = Mac([2, 0, 0, 0, 0, 8]);
    let wrong = |at: usize, byte| {
        let mut packet = tcp(OURS, 61_001);
        packet[at] = byte;
        to_card(&packet)
    };
    let unspecified = Ipv4Addr::UNSPECIFIED;
    vec![
        arps("ARP question for us", Mac::BROADCAST, arp(1, FAR, OURS), "arp"),
        arps("to the card", CARD, arp(1, FAR, OURS), "arp"),
        arps("probe for ours", Mac::BROADCAST, arp(1, unspecified, OURS), "arp"),
        arps("answer to us", CARD, arp(2, FAR, OURS), "arp"),
        arps("question in our name", Mac::BROADCAST, arp(1, OURS, OTHER), "arp"),
        arps("announcement in our name", Mac::BROADCAST, arp(2, OURS, OURS), "arp"),
        arps("question for another", Mac::BROADCAST, arp(1, FAR, OTHER), PASSED),
        arps("answer to another", CARD, arp(2, FAR, OTHER), PASSED),
        arps("question to another station", station, arp(1, FAR, OURS), PASSED),
        case("packet to another station", frame(station, 0x0800, &tcp(OURS, 61_001)), PASSED, PASSED, 0),
        case("packet in a frame to all", frame(Mac::BROADCAST, 0x0800, &udp(OURS, 61_001)), PASSED, PASSED, 0),
        case("to a group", frame(Mac([1, 0, 94, 0, 0, 7]), 0x0800, &udp(OURS, 61_001)), PASSED, PASSED, 0),
        case("from the card's own address", frame(NEIGHBOUR, 0x0800, &tcp(OURS, 61_001)), PASSED, PASSED, 0),
        case("IPv6", frame(CARD, 0x86dd, &[0x60; 60]), PASSED, PASSED, 0),
        case("another version", wrong(0, 0x65), MALFORMED, MALFORMED, 0),
        case("header too short", wrong(0, 0x44), MALFORMED, MALFORMED, 0),
        case("header longer than the frame", wrong(0, 0x4f), MALFORMED, MALFORMED, 0),
    ]
}

fn cases() -> Vec<Case> {
    [port_cases(), icmp_cases(), other_cases()].into_iter().flatten().collect()
}

/// What becomes of a frame that counts so, with a socket.
fn action(counter: &str) -> XdpAction {
    match counter {
        PASSED | MALFORMED => XdpAction::Pass,
        "listed_source" | "no_socket" => XdpAction::Drop,
        _ => XdpAction::Redirect,
    }
}

#[test]
fn each_frame_goes_where_the_table_says() {
    for dedicated in [false, true] {
        let Some(program) = with(&settings(dedicated)) else { return };
        let socket = xdp_socket();
        program.set_socket(0, socket.as_fd()).unwrap();
        for case in cases() {
            let counter = if dedicated { case.dedicated } else { case.shared };
            let decided = decide(&program, &case.frame);
            assert_eq!(decided, (action(counter), counter), "{}, dedicated: {dedicated}", case.name);
        }
    }
}

/// Cut behind what decides, a frame is decided as the whole one; cut before, it is the host's to look at.
#[test]
fn cut_frames_are_never_redirected_by_chance() {
    for dedicated in [false, true] {
        let Some(program) = with(&settings(dedicated)) else { return };
        let socket = xdp_socket();
        program.set_socket(0, socket.as_fd()).unwrap();
        for case in cases() {
            let counter = if dedicated { case.dedicated } else { case.shared };
            let needs = if dedicated { case.needs.1 } else { case.needs.0 };
            for bytes in 14..=case.frame.len() {
                let got = program.try_on(&case.frame[..bytes], 0).unwrap();
                let whole = bytes >= 14 + needs;
                let wanted = if whole { action(counter) } else { XdpAction::Pass };
                assert_eq!(got, wanted, "{}, dedicated: {dedicated}, {bytes} bytes", case.name);
            }
        }
    }
}

#[test]
fn cut_headers_are_counted() {
    let Some(program) = with(&settings(true)) else { return };
    let whole = to_card(&tcp(OURS, 61_001));
    let tag = tagged(&whole, 0x8100, 0x2000);
    let question = frame(Mac::BROADCAST, 0x0806, &arp(1, FAR, OURS));
    for (cut, counter) in [(&whole[..14], MALFORMED), (&whole[..33], MALFORMED), (&whole[..34], "no_socket")] {
        assert_eq!(decide(&program, cut).1, counter, "{} bytes", cut.len());
    }
    for cut in [&tag[..14], &tag[..17], &tag[..18], &tag[..37], &question[..41]] {
        assert_eq!(decide(&program, cut), (XdpAction::Pass, MALFORMED), "{} bytes", cut.len());
    }
}

#[test]
fn without_a_socket_what_is_ours_is_dropped() {
    for dedicated in [false, true] {
        let Some(program) = with(&settings(dedicated)) else { return };
        for case in cases() {
            let counter = if dedicated { case.dedicated } else { case.shared };
            let wanted = match counter {
                PASSED | MALFORMED => (XdpAction::Pass, counter),
                _ => (XdpAction::Drop, "no_socket"),
            };
            assert_eq!(decide(&program, &case.frame), wanted, "{}, dedicated: {dedicated}", case.name);
        }
        let (socket, ours) = (xdp_socket(), to_card(&tcp(OURS, 61_001)));
        program.set_socket(1, socket.as_fd()).unwrap();
        assert_eq!(decide(&program, &ours), (XdpAction::Drop, "no_socket"), "the socket is another queue's");
        program.set_socket(0, socket.as_fd()).unwrap();
        assert_eq!(decide(&program, &ours), (XdpAction::Redirect, "tcp"));
        program.clear_socket(0).unwrap();
        program.clear_socket(0).unwrap();
        assert_eq!(decide(&program, &ours), (XdpAction::Drop, "no_socket"));
        program.set_socket(0, socket.as_fd()).unwrap();
        drop(socket);
        assert_eq!(decide(&program, &ours), (XdpAction::Drop, "no_socket"), "a closed socket leaves the map");
    }
}

#[test]
fn frames_count_in_their_vlan_only() {
    let (ours, question) = (to_card(&tcp(OURS, 61_001)), frame(Mac::BROADCAST, 0x0806, &arp(1, FAR, OURS)));
    const CUSTOMER: u16 = 0x8100;
    const SERVICE: u16 = 0x88a8;
    type Tags = &'static [(u16, u16)];
    let frames: [(&str, Tags, u16); 11] = [
        ("untagged", &[], 0),
        ("priority only", &[(CUSTOMER, 0xe000)], 0),
        ("two priorities", &[(CUSTOMER, 0x2000), (CUSTOMER, 0x4000)], 0),
        ("VLAN 7", &[(CUSTOMER, 7)], 7),
        ("VLAN 7 with priority and drop eligible", &[(CUSTOMER, 0xf007)], 7),
        ("VLAN 7 of a provider", &[(SERVICE, 7)], 7),
        ("priority, then VLAN 7", &[(CUSTOMER, 0x6000), (CUSTOMER, 7)], 7),
        ("VLAN 7, then priority", &[(CUSTOMER, 7), (CUSTOMER, 0x6000)], 7),
        ("last VLAN", &[(CUSTOMER, 4094)], 4094),
        ("VLAN in a VLAN", &[(SERVICE, 7), (CUSTOMER, 7)], u16::MAX),
        ("three tags", &[(CUSTOMER, 7), (CUSTOMER, 0), (CUSTOMER, 0)], u16::MAX),
    ];
    for vlan in [0, 7, 8, 4094] {
        let Some(program) = with(&XdpSettings { vlan, ..settings(true) }) else { return };
        let socket = xdp_socket();
        program.set_socket(0, socket.as_fd()).unwrap();
        for (name, tags, belongs) in frames {
            for (untagged, counter) in [(&ours, "tcp"), (&question, "arp")] {
                let frame = tags.iter().rev().fold(untagged.clone(), |f, (kind, control)| tagged(&f, *kind, *control));
                let wanted = if belongs == vlan { counter } else { PASSED };
                assert_eq!(decide(&program, &frame), (action(wanted), wanted), "{name}, {counter}, lane in {vlan}");
            }
        }
    }
}

#[test]
fn listed_sources_are_dropped() {
    let listed = |sources: &[(Ipv4Addr, u8)]| XdpSettings { dropped_sources: sources.to_vec(), ..settings(false) };
    let net = Ipv4Addr::new(198, 51, 100, 77);
    let from = |src, dst| to_card(&ip(src, dst, 6, &ports(443, 22)));
    let Some(program) = with(&listed(&[(net, 24), (FAR, 32), (OTHER, 32)])) else { return };
    let dropped = (XdpAction::Drop, "listed_source");
    let passed = (XdpAction::Pass, PASSED);
    for (name, frame, wanted) in [
        ("within the prefix", from(Ipv4Addr::new(198, 51, 100, 255), HOST), dropped),
        ("to an address of the host alone", from(FAR, Ipv4Addr::new(192, 0, 2, 1)), dropped),
        ("beside the prefix", from(Ipv4Addr::new(198, 51, 101, 0), HOST), passed),
        ("a single address", from(OTHER, HOST), dropped),
        ("beside it", from(Ipv4Addr::new(203, 0, 113, 98), HOST), passed),
        ("to another station", frame(NEIGHBOUR, 0x0800, &tcp(HOST, 22)), passed),
        ("ARP", frame(CARD, 0x0806, &arp(1, FAR, HOST)), passed),
        ("ours", to_card(&tcp(OURS, 61_001)), dropped),
        ("a fragment", to_card(&fragment(tcp(OURS, 61_001), 0x2000)), dropped),
        ("in another VLAN", tagged(&from(FAR, HOST), 0x8100, 5), passed),
    ] {
        assert_eq!(decide(&program, &frame), wanted, "{name}");
    }
    program.configure(&listed(&[(OTHER, 32)])).unwrap();
    assert_eq!(decide(&program, &from(FAR, HOST)), passed, "no longer listed");
    assert_eq!(decide(&program, &from(OTHER, HOST)), dropped, "still listed");
    program.configure(&listed(&[(Ipv4Addr::UNSPECIFIED, 0)])).unwrap();
    assert_eq!(decide(&program, &from(HOST, HOST)), dropped, "everybody is listed");
    program.configure(&settings(false)).unwrap();
    assert_eq!(decide(&program, &from(OTHER, HOST)), passed, "nobody is listed");
}

/// More than a page: the kernel gives the program a frame of several buffers, which only one with frags may have.
#[test]
fn frames_of_several_buffers_are_taken() {
    let Some(program) = with(&settings(false)) else { return };
    if !program.has_frags() {
        eprintln!("not asked: the kernel has no frames of several buffers");
        return;
    }
    let socket = xdp_socket();
    program.set_socket(0, socket.as_fd()).unwrap();
    let mut jumbo = to_card(&tcp(OURS, 61_001));
    jumbo.resize(9014, 0x5a);
    assert_eq!(decide(&program, &jumbo), (XdpAction::Redirect, "tcp"));
}
