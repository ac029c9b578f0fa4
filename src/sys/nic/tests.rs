//! Devices of each kind, in network namespaces of their own.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs `test` in a network namespace of its own. Without root nothing is run, which the output says.
pub(crate) fn in_namespace(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: network namespaces take root");
        return;
    }
    thread::scope(|scope| {
        let done = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
            test();
        });
        if let Err(panic) = done.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// `ip …` in the namespace of this thread.
pub(crate) fn ip(line: &str) {
    assert!(try_ip(line), "ip {line} fails");
}

/// The same for what a kernel may lack; false if it does.
fn try_ip(line: &str) -> bool {
    let done = Command::new("ip").args(line.split_whitespace()).output().expect("iproute2 is installed");
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        eprintln!("ip {line}: {said}");
    }
    assert!(done.status.success() || said.contains("Unknown device type"), "ip {line}: {said}");
    done.status.success()
}

/// Attaches a program that passes everything, until the descriptor is closed.
pub(crate) fn attach_pass(index: u32, generic: bool) -> io::Result<OwnedFd> {
    // r0 = XDP_PASS; exit.
    const PASS: [u64; 2] = [0x0000_0002_0000_00B7, 0x0000_0000_0000_0095];
    const PROG_LOAD: libc::c_int = 5;
    const LINK_CREATE: libc::c_int = 28;
    // Type XDP, two instructions, where they and the licence are; attach type XDP at byte 68.
    let mut load = [0_u64; 16];
    load[0] = 6 | 2 << 32;
    load[1] = PASS.as_ptr().addr() as u64;
    load[2] = c"GPL".as_ptr().addr() as u64;
    load[8] = 37 << 32;
    let program = bpf(PROG_LOAD, &load)?;
    let flags: u64 = if generic { 2 } else { 4 };
    let link = [u64::try_from(raw(&program)).unwrap() | u64::from(index) << 32, 37 | flags << 32, 0, 0];
    bpf(LINK_CREATE, &link)
}

fn raw(fd: &OwnedFd) -> RawFd {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

fn bpf(command: libc::c_int, attribute: &[u64]) -> io::Result<OwnedFd> {
    let (at, bytes) = (attribute.as_ptr(), size_of_val(attribute));
    // SAFETY: both commands only read the attribute and what it points to, which live through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, at, bytes) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap()) })
}

#[test]
fn a_veth_is_known() {
    in_namespace(|| {
        ip("link add hl0 type veth peer name hl1");
        assert!(!facts("hl0").unwrap().is_up);
        ip("link set hl0 up");
        ip("link set hl1 up");
        let found = facts("hl0").unwrap();
        assert_eq!((found.kind.clone(), found.driver.as_str(), found.mtu), (NicKind::Veth, "veth", 1500));
        assert!(found.is_up && found.is_ethernet && found.tso && found.peer_tso == Some(true), "{found:?}");
        assert_eq!((found.queues.rx, found.queues.tx), (1, 1));
        assert_eq!(queues("hl0").unwrap(), found.queues);
        assert!(tso("hl0").unwrap());
        assert_eq!((found.ntuple, found.attached, found.numa_node), (Ntuple::None, None, None));
        assert!(found.irqs.is_empty() && found.rss.is_none());
        // Before Linux 6.3 the kernel does not say.
        if let Some(offer) = found.xdp {
            assert!(offer.native && offer.redirect && !offer.zero_copy, "{offer:?}");
        }
    });
}

#[test]
fn several_queues_are_counted() {
    in_namespace(|| {
        ip("link add hl0 numrxqueues 4 numtxqueues 2 type veth peer name hl1");
        let found = queues("hl0").unwrap();
        assert_eq!((found.rx, found.tx, found.max), (4, 2, 4));
    });
}

#[test]
fn attached_programs_are_seen_and_cost_the_peer_its_tso() {
    in_namespace(|| {
        ip("link add hl0 type veth peer name hl1");
        let index = facts("hl0").unwrap().index;
        let link = attach_pass(index, true).unwrap();
        let found = facts("hl0").unwrap();
        assert!(found.attached.as_ref().is_some_and(|program| program.generic && program.id > 0), "{found:?}");
        assert_eq!(found.peer_tso, Some(true));
        drop(link);
        assert_eq!(facts("hl0").unwrap().attached, None);
        let _link = attach_pass(index, false).unwrap();
        let found = facts("hl0").unwrap();
        assert!(found.attached.as_ref().is_some_and(|program| !program.generic), "{found:?}");
        assert_eq!((found.peer_tso, tso("hl1").unwrap()), (Some(false), false));
    });
}

#[test]
fn other_kinds_are_told_apart() {
    in_namespace(|| {
        ip("link add hl0 type veth peer name hl1");
        ip("link add br0 type bridge");
        ip("tuntap add tap0 mode tap");
        ip("tuntap add tun0 mode tun");
        let kind = |name: &str| facts(name).unwrap().kind;
        if try_ip("link add link hl0 name hl0.9 type vlan id 9") {
            assert_eq!(kind("hl0.9"), NicKind::Vlan { parent: "hl0".into(), vid: 9 });
            assert!(facts("hl0").unwrap().has_vlans && !facts("hl1").unwrap().has_vlans);
        }
        assert_eq!((kind("br0"), kind("tap0"), kind("lo")), (NicKind::Bridge, NicKind::Tap, NicKind::Loopback));
        assert_eq!(kind("tun0"), NicKind::OtherVirtual);
        if try_ip("link add dum0 type dummy") {
            assert_eq!(kind("dum0"), NicKind::OtherVirtual);
        }
        assert!(!facts("tun0").unwrap().is_ethernet && !facts("lo").unwrap().is_ethernet);
        assert_eq!(facts("tap0").unwrap().driver, "tun");
    });
}

#[test]
fn kinds_as_rtnetlink_says_them() {
    let link = |kind: Option<&str>, change: fn(&mut LinkFacts)| {
        let kind = kind.map(str::to_owned);
        let mut link = LinkFacts { kind, is_ethernet: true, vlan: Some(9), link: Some(1), ..LinkFacts::default() };
        change(&mut link);
        link
    };
    let same = |_: &mut LinkFacts| {};
    // Number 1 is the loopback device of every namespace.
    let vlan = |parent: &str| NicKind::Vlan { parent: parent.into(), vid: 9 };
    assert_eq!(kind(&link(Some("vlan"), same), false), vlan("lo"));
    assert_eq!(kind(&link(Some("vlan"), |link| link.link_is_elsewhere = true), false), vlan(""));
    assert_eq!(kind(&link(Some("bond"), same), false), NicKind::Bond);
    assert_eq!(kind(&link(Some("wireguard"), same), false), NicKind::OtherVirtual);
    assert_eq!(kind(&link(None, same), false), NicKind::OtherVirtual);
    assert_eq!(kind(&link(None, same), true), NicKind::Physical);
    assert_eq!(kind(&link(None, |link| link.parent = Some("virtio2".into())), false), NicKind::Physical);
}

#[test]
fn the_other_end_may_be_elsewhere() {
    in_namespace(|| {
        let (here, there) = (mpsc::channel(), mpsc::channel::<()>());
        thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
                here.0.send(nix::unistd::gettid()).unwrap();
                // The namespace lives as long as this thread, which is until the other end is dropped.
                let until = there.1;
                let _ = until.recv();
            });
            let elsewhere = here.1.recv().unwrap();
            ip("link add hl0 type veth peer name hl1");
            ip(&format!("link set hl1 netns {elsewhere}"));
            let found = facts("hl0");
            drop(there.0);
            let found = found.unwrap();
            assert_eq!((found.kind, found.peer_tso), (NicKind::Veth, None));
        });
    });
}

#[test]
fn a_missing_device_is_not_found() {
    for error in [facts("hl-none").unwrap_err(), queues("hl-none").unwrap_err(), tso("hl-none").unwrap_err()] {
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

#[test]
fn vlan_tables_are_read() {
    let text =
        "VLAN Dev name    | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\neth0.5         | 5  | eth0\n";
    assert!(has_vlans(text, "eth0") && !has_vlans(text, "eth0.5") && !has_vlans(text, "eth") && !has_vlans("", "eth0"));
}

#[test]
fn queues_of_either_style() {
    let of = |change: fn(&mut Channels)| {
        let mut channels = Channels::default();
        change(&mut channels);
        let queues = of_channels(&channels);
        (queues.rx, queues.tx, queues.max)
    };
    assert_eq!(of(|c| (c.combined, c.combined_max) = (4, 63)), (4, 4, 63));
    assert_eq!(of(|c| (c.rx, c.rx_max, c.tx, c.tx_max) = (1, 2, 3, 4)), (1, 3, 2));
    assert_eq!(of(|c| (c.combined, c.combined_max, c.rx, c.tx) = (2, 8, 1, 0)), (3, 2, 8));
}

#[test]
fn shares_of_queues() {
    let rss = Rss { indirection: vec![0, 1, 2, 0, 1, 0], ..Rss::default() };
    assert_eq!(rss.shares(), [(0, 3), (1, 2), (2, 1)]);
    assert!(Rss::default().shares().is_empty());
}

#[test]
fn offers_are_read_from_their_bits() {
    let features = XdpFeatures { actions: 0b100_1001, zero_copy_segments: 8, rx_metadata: 2, socket: 2 };
    let found = offer(features);
    assert!(found.native && found.zero_copy && found.tx_checksum && found.rx_hash);
    assert!(!found.redirect && !found.multi_buffer && !found.rx_vlan_tag);
}
