//! The XDP program, asked of the kernel, and what its tests build frames with. Without the right to load programs, which
//! only root has, nothing is asked.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use super::{XdpAction, XdpCounts, XdpProgram, XdpSettings};
use crate::wire::ethernet::Mac;

mod attach;
mod decisions;
mod frames;
mod object;
mod settings;

pub(super) const OURS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 8);
pub(super) const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub(super) const CARD: Mac = Mac([2, 0, 0, 0, 0, 7]);
pub(super) const NEIGHBOUR: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// `None`, with a note, where the kernel does not let us.
pub(super) fn load() -> Option<XdpProgram> {
    match XdpProgram::load() {
        Ok(program) => Some(program),
        Err(error) if nix::unistd::geteuid().is_root() => panic!("the kernel refuses the program: {error}"),
        Err(error) => {
            eprintln!("not asked of the kernel: {error}");
            None
        }
    }
}

pub(super) fn settings(dedicated: bool) -> XdpSettings {
    XdpSettings {
        dedicated,
        vlan: 0,
        mac: CARD,
        addresses: vec![HOST, OURS],
        ports: vec![61_001..=62_000, 62_001..=63_000, 64_000..=65_535],
        statics: vec![(6, OURS, 8080), (17, OURS, 5353)],
        dropped_sources: Vec::new(),
    }
}

/// Loaded and set up.
pub(super) fn with(settings: &XdpSettings) -> Option<XdpProgram> {
    let program = load()?;
    program.configure(settings).unwrap();
    Some(program)
}

/// An AF_XDP socket, bound to nothing: enough for a frame to be redirected to it.
pub(super) fn xdp_socket() -> OwnedFd {
    socket2::Socket::new(socket2::Domain::from(libc::AF_XDP), socket2::Type::RAW, None).unwrap().into()
}

/// Names of the counters, in the order of [`values`].
const NAMES: [&str; 10] =
    ["passed", "malformed", "listed_source", "no_socket", "tcp", "udp", "icmp", "other_protocol", "fragment", "arp"];

fn values(counts: XdpCounts) -> [u64; 10] {
    let XdpCounts { passed, malformed, listed_source, no_socket, tcp, udp, icmp, other_protocol, fragment, arp } =
        counts;
    [passed, malformed, listed_source, no_socket, tcp, udp, icmp, other_protocol, fragment, arp]
}

/// What the program does with a frame on its first queue, and the counter that rose: one, by one.
pub(super) fn decide(program: &XdpProgram, frame: &[u8]) -> (XdpAction, &'static str) {
    let before = values(program.counts().unwrap());
    let action = program.try_on(frame, 0).unwrap();
    let after = values(program.counts().unwrap());
    let mut risen = (0..NAMES.len()).filter(|n| after[*n] != before[*n]);
    let at = risen.next().expect("a counter rises");
    assert_eq!((after[at] - before[at], risen.next()), (1, None), "one counter by one");
    (action, NAMES[at])
}
