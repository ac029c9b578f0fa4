//! One table of packets, asked of the programs on the machine of `sys::bpf` and, as root, of the kernel's.

use std::net::Ipv4Addr;

use super::super::filter::{HOST_MAY_NOT_SEE, HOST_MAY_SEE, LaneFilter, StaticPort};
use super::{FAR, OURS, datagram, ip};
use crate::sys::bpf::machine::Facts;
use crate::sys::bpf::{Base, Program, TcProgram, XdpAction, XdpProgram, XdpSettings};
use crate::wire::arp::{self, Arp, Operation};
use crate::wire::ethernet::Mac;

const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 8);
const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);
const CARD: Mac = Mac([0; 6]);

fn filter(dedicated: bool) -> LaneFilter {
    let port = |protocol, address, port, worker| StaticPort { protocol, address, port, worker };
    LaneFilter {
        addresses: vec![HOST, OURS],
        dedicated,
        slices: vec![61_001..=62_000, 62_001..=63_000, 64_000..=65_535],
        statics: vec![port(6, OURS, 8080, 2), port(17, OURS, 8080, 1), port(6, HOST, 8080, 1)],
    }
}

fn frame(packet: Vec<u8>, ethertype: u16) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

fn tcp(dst: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut l4 = vec![0; 20];
    l4[2..4].copy_from_slice(&port.to_be_bytes());
    ip(FAR, dst, 6, 0, l4)
}

fn udp(dst: Ipv4Addr, port: u16) -> Vec<u8> {
    datagram((FAR, 53), (dst, port), &[1; 8])
}

fn icmp(dst: Ipv4Addr, kind: u8, id: u16) -> Vec<u8> {
    ip(FAR, dst, 1, 0, [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat())
}

/// An error about `inner`.
fn error(kind: u8, inner: &[u8]) -> Vec<u8> {
    ip(FAR, OURS, 1, 0, [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &inner[..inner.len().min(60)]].concat())
}

/// The same packet seen from its sender.
fn reversed(mut packet: Vec<u8>) -> Vec<u8> {
    let (src, dst) = (packet[12..16].to_vec(), packet[16..20].to_vec());
    packet[12..16].copy_from_slice(&dst);
    packet[16..20].copy_from_slice(&src);
    let (src, dst) = (packet[20..22].to_vec(), packet[22..24].to_vec());
    if packet[9] != 1 {
        packet[20..22].copy_from_slice(&dst);
        packet[22..24].copy_from_slice(&src);
    }
    packet
}

/// With four bytes of options in the IP header.
fn with_options(packet: &[u8]) -> Vec<u8> {
    let mut longer = [&packet[..20], &[1, 1, 1, 0], &packet[20..]].concat();
    longer[0] = 0x46;
    longer
}

fn fragment(mut packet: Vec<u8>, bits: u16) -> Vec<u8> {
    packet[6..8].copy_from_slice(&bits.to_be_bytes());
    packet
}

struct Case {
    name: &'static str,
    frame: Vec<u8>,
    /// Taken by our sockets; kept from the host; with a shared address, then a dedicated one.
    shared: (bool, bool),
    dedicated: (bool, bool),
    worker: u32,
}

fn packet(name: &'static str, packet: Vec<u8>, shared: (bool, bool), dedicated: (bool, bool), worker: u32) -> Case {
    Case { name, frame: frame(packet, 0x0800), shared, dedicated, worker }
}

const BOTH: (bool, bool) = (true, true);
const NEITHER: (bool, bool) = (false, false);
const COPY: (bool, bool) = (true, false);

fn ports_and_fragments() -> Vec<Case> {
    let unaligned = with_options(&tcp(OURS, 62_500));
    vec![
        packet("first slice", tcp(OURS, 61_001), BOTH, BOTH, 0),
        packet("its end", udp(HOST, 62_000), BOTH, BOTH, 0),
        packet("second slice", tcp(OURS, 62_001), BOTH, BOTH, 1),
        packet("between slices", tcp(OURS, 63_500), NEITHER, BOTH, 0),
        packet("last port", udp(OURS, 65_535), BOTH, BOTH, 2),
        packet("below", tcp(OURS, 61_000), NEITHER, BOTH, 0),
        packet("options in the header", unaligned, BOTH, BOTH, 1),
        packet("static port", tcp(OURS, 8080), BOTH, BOTH, 2),
        packet("of UDP", udp(OURS, 8080), BOTH, BOTH, 1),
        packet("at another address", tcp(HOST, 8080), BOTH, BOTH, 1),
        packet("other address", tcp(OTHER, 61_001), NEITHER, NEITHER, 0),
        packet("other protocol", ip(FAR, OURS, 47, 0, vec![0; 40]), NEITHER, BOTH, 0),
        packet("first fragment", fragment(udp(OURS, 62_001), 0x2000), BOTH, BOTH, 0),
        packet("first fragment to the host", fragment(udp(OURS, 53), 0x2000), COPY, BOTH, 0),
        packet("later fragment", fragment(udp(OURS, 62_001), 0x2010), COPY, BOTH, 0),
        packet("last fragment", fragment(udp(OURS, 62_001), 0x0010), COPY, BOTH, 0),
        packet("cut off", tcp(OURS, 61_001)[..21].to_vec(), NEITHER, BOTH, 0),
    ]
}

fn icmp_and_others() -> Vec<Case> {
    let about = |port| reversed(tcp(OURS, port));
    let arp = |operation, sender, target| {
        let arp = Arp { operation, sender_mac: Mac([2; 6]), sender, target_mac: CARD, target };
        arp.to_frame(CARD).to_vec()
    };
    let case = |name, frame, taken| Case { name, frame, shared: (taken, false), dedicated: (taken, false), worker: 0 };
    vec![
        packet("echo reply", icmp(OURS, 0, 62_001), COPY, BOTH, 1),
        packet("of the host", icmp(OURS, 0, 5), NEITHER, BOTH, 0),
        packet("timestamp reply", icmp(OURS, 14, 65_000), COPY, BOTH, 2),
        packet("echo request", icmp(OURS, 8, 62_001), NEITHER, BOTH, 0),
        packet("error about ours", error(3, &about(62_002)), BOTH, BOTH, 1),
        packet("too big", error(3, &with_options(&about(62_002))), BOTH, BOTH, 1),
        packet("time exceeded", error(11, &reversed(udp(OURS, 64_001))), BOTH, BOTH, 2),
        packet("about a static port", error(3, &about(8080)), BOTH, BOTH, 2),
        packet("and with options", error(12, &with_options(&reversed(udp(OURS, 8080)))), BOTH, BOTH, 1),
        packet("about the host's", error(3, &about(22)), NEITHER, BOTH, 0),
        packet("about another's", error(3, &reversed(tcp(OTHER, 62_002))), NEITHER, BOTH, 1),
        packet("about a ping", error(11, &reversed(icmp(OURS, 8, 62_003))), COPY, BOTH, 1),
        packet("redirect", error(5, &about(62_002)), NEITHER, BOTH, 0),
        case("IPv6", frame(vec![0x60; 60], 0x86dd), false),
        case("question for us", arp(Operation::Request, FAR, OURS), true),
        case("probe for ours", arp(Operation::Request, Ipv4Addr::UNSPECIFIED, OURS), true),
        case("question for another", arp(Operation::Request, FAR, OTHER), false),
        case("in our name", arp(Operation::Request, HOST, OTHER), true),
        case("announcement", arp(Operation::Request, FAR, FAR), true),
        case("answer", arp(Operation::Reply, FAR, OTHER), true),
    ]
}

fn cases() -> Vec<Case> {
    let mut all = ports_and_fragments();
    all.extend(icmp_and_others());
    all
}

#[test]
fn what_is_ours_and_whose() {
    for dedicated in [false, true] {
        let filter = filter(dedicated);
        let (socket, host, steer) = (filter.socket(), filter.host(), filter.steer());
        for case in cases() {
            let (taken, kept) = if dedicated { case.dedicated } else { case.shared };
            let name = format!("{}, dedicated: {dedicated}", case.name);
            assert_eq!(socket.run(&case.frame, Facts::default()) != 0, taken, "socket: {name}");
            // Beyond the packet's end the kernel's answer is 0, which ends the chain of programs as well.
            let host_sees = host.run(&case.frame, Facts::default());
            assert_eq!(host_sees == HOST_MAY_NOT_SEE, kept, "host: {name}");
            assert!([0, HOST_MAY_SEE, HOST_MAY_NOT_SEE].contains(&host_sees), "{name}");
            assert_eq!(steer.run(&case.frame, Facts::default()), case.worker, "worker: {name}");
        }
    }
}

#[test]
fn other_vlans_and_other_stations_are_not_ours() {
    let filter = filter(true);
    let (socket, host) = (filter.socket(), filter.host());
    let ours = frame(tcp(OURS, 61_001), 0x0800);
    let question =
        Arp { operation: Operation::Request, sender_mac: Mac([2; 6]), sender: FAR, target_mac: CARD, target: OURS };
    let question = question.to_frame(Mac::BROADCAST);
    let vlan = |tag| Facts { vlan: Some(tag), ..Facts::default() };
    let to = |packet_type| Facts { packet_type, ..Facts::default() };
    for (facts, packet_taken, arp_taken, kept) in [
        (Facts::default(), true, true, true),
        (vlan(0xe000), true, true, true),
        (vlan(0x0005), false, false, false),
        (to(1), false, true, true),
        (to(2), false, false, true),
        (to(3), false, false, false),
    ] {
        assert_eq!(socket.run(&ours, facts) != 0, packet_taken, "{facts:?}");
        assert_eq!(socket.run(&question, facts) != 0, arp_taken, "{facts:?}");
        assert_eq!(host.run(&ours, facts) == HOST_MAY_NOT_SEE, kept, "{facts:?}");
        assert_eq!(host.run(&question, facts), HOST_MAY_SEE, "{facts:?}");
    }
}

/// Names that are many: a pool of 256 addresses is one range, static ports that follow each other too.
#[test]
fn many_workers_and_static_ports_fit() {
    let statics = (0..250).map(|n| StaticPort {
        protocol: if n % 2 == 0 { 6 } else { 17 },
        address: OURS,
        port: n * 3,
        worker: usize::from(n) % 64,
    });
    let large = LaneFilter {
        addresses: (0..=255).map(|n| Ipv4Addr::new(203, 0, 113, n)).collect(),
        dedicated: false,
        slices: (0..64).map(|n| 1024 + n * 1000..=1024 + n * 1000 + 999).collect(),
        statics: statics.collect(),
    };
    for (n, worker) in [(0u16, 0), (3 * 100, 100 % 64), (3 * 248, 248 % 64), (1024, 0), (64_023, 62)] {
        assert_eq!(large.steer().run(&frame(tcp(OURS, n), 0x0800), Facts::default()), worker, "{n}");
    }
    assert!(large.socket().classic(Base::Ethernet).is_ok());
    assert!(large.steer().classic(Base::Network).is_ok());
    let beyond = LaneFilter { statics: vec![large.statics[0]; 3000], ..large };
    assert!(beyond.steer().classic(Base::Network).is_err());
}

/// `None` without the right to load programs, which only root has.
fn load(program: &Program) -> Option<TcProgram> {
    match TcProgram::load(program) {
        Ok(loaded) => Some(loaded),
        Err(error) if nix::unistd::geteuid().is_root() => panic!("the kernel refuses the program: {error}"),
        Err(error) => {
            eprintln!("not asked of the kernel: {error}");
            None
        }
    }
}

/// BPF_PROG_TEST_RUN.
#[test]
fn the_kernel_says_the_same() {
    for dedicated in [false, true] {
        let Some(program) = load(&filter(dedicated).host()) else { return };
        for case in cases() {
            let kept = if dedicated { case.dedicated.1 } else { case.shared.1 };
            let said = program.try_on(&case.frame).unwrap();
            assert_eq!(said == HOST_MAY_NOT_SEE, kept, "{}, dedicated: {dedicated}: {said}", case.name);
        }
    }
}

/// The XDP program takes what our sockets get, but for ARP: a frame has one receiver there.
#[test]
fn the_xdp_program_takes_the_same() {
    for dedicated in [false, true] {
        let filter = filter(dedicated);
        // The rights for it are those for the other one.
        if load(&filter.host()).is_none() {
            return;
        }
        let program = XdpProgram::load().unwrap();
        let settings = XdpSettings {
            dedicated,
            vlan: 0,
            mac: CARD,
            addresses: filter.addresses,
            ports: filter.slices,
            statics: filter.statics.iter().map(|port| (port.protocol, port.address, port.port)).collect(),
            dropped_sources: Vec::new(),
        };
        program.configure(&settings).unwrap();
        for case in cases().iter().filter(|case| case.frame[12..14] != arp::ETHERTYPE.to_be_bytes()) {
            let taken = if dedicated { case.dedicated.0 } else { case.shared.0 };
            // It would go to a socket, of which there is none.
            let decided = program.try_on(&case.frame, 0).unwrap();
            assert_eq!(decided == XdpAction::Drop, taken, "{}, dedicated: {dedicated}", case.name);
        }
    }
}
