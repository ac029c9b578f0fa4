//! The program at devices: pairs of veth, each in a network namespace of its own.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::frames::{tcp, to_card, udp};
use super::{CARD, FAR, HOST, NEIGHBOUR, OTHER, OURS, load, settings, with, xdp_socket};
use crate::sys::bpf::{NoXdp, XdpAction, XdpMode, XdpSettings, link_detach, program_name};
use crate::sys::netdev::Devices;

/// Runs `ip` in the namespace of this thread; what it wrote.
fn ip(arguments: &str) -> String {
    let done = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Calls `test` with the index of a device `a` of two queues, whose other end is `b`, in a namespace of its own.
fn with_pair(test: impl FnOnce(u32) + Send + 'static) {
    if load().is_none() {
        return;
    }
    let one = thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("not asked of the kernel: no network namespace ({error})");
            return;
        }
        make_pair();
        test(index("a"));
    });
    if let Err(panic) = one.join() {
        std::panic::resume_unwind(panic);
    }
}

fn make_pair() {
    let (card, neighbour) = (CARD, NEIGHBOUR);
    ip(&format!(
        "link add name a address {card} numrxqueues 2 numtxqueues 2 type veth peer name b address {neighbour} numrxqueues 2 numtxqueues 2"
    ));
    ip("link set dev a up");
    ip("link set dev b up");
}

fn index(name: &str) -> u32 {
    Devices::new().unwrap().find(name).unwrap().index
}

/// In every namespace.
const LOOPBACK: u32 = 1;

fn shows_xdp() -> bool {
    ip("-d link show dev a").contains("prog/xdp")
}

/// Waits for what the kernel does a little later.
fn soon(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < end, "not within 5 s: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_link_holds_the_program_at_the_device() {
    with_pair(|a| {
        let program = with(&settings(false)).unwrap();
        for mode in [XdpMode::Native, XdpMode::Generic, XdpMode::Native] {
            let link = program.attach(a, mode).unwrap();
            assert!(link.is_attached() && shows_xdp(), "{mode:?}");
            assert!(ip("-d link show dev a").contains(&format!("id {}", program.id().unwrap())), "{mode:?}");
            drop(link);
            assert!(!shows_xdp(), "{mode:?}");
        }
        let link = program.attach(a, XdpMode::Native).unwrap();
        drop(program);
        assert!(link.is_attached(), "the link keeps the program");
    });
}

#[test]
fn somebody_elses_program_stays() {
    with_pair(|a| {
        let (theirs, ours) = (load().unwrap(), with(&settings(false)).unwrap());
        let link = theirs.attach(a, XdpMode::Native).unwrap();
        for mode in [XdpMode::Native, XdpMode::Generic] {
            let refused = ours.attach(a, mode).unwrap_err();
            assert!(matches!(refused, NoXdp::Occupied(_)), "{mode:?}: {refused}");
        }
        assert!(link.is_attached());
        let id = theirs.id().unwrap();
        assert!(ip("-d link show dev a").contains(&format!("id {id}")));
        assert_eq!(program_name(id).as_deref(), Some("hublane_xdp"));
        drop(link);
        assert!(ours.attach(a, XdpMode::Native).unwrap().is_attached());
        assert_eq!(program_name(u32::MAX), None);
    });
}

#[test]
fn what_happens_outside_is_noticed() {
    with_pair(|a| {
        let program = with(&settings(false)).unwrap();
        let link = program.attach(a, XdpMode::Native).unwrap();
        link_detach(link.as_fd()).unwrap();
        assert!(!link.is_attached(), "taken off by somebody");
        let link = program.attach(a, XdpMode::Native).unwrap();
        assert!(link.is_attached());
        ip("link set dev a down");
        assert!(link.is_attached(), "it stays at a device that is down");
        ip("link del dev a");
        assert!(!link.is_attached(), "the device is gone");
        assert!(matches!(program.attach(a, XdpMode::Native), Err(NoXdp::Gone(_))), "so it cannot be attached there");
        make_pair();
        assert!(program.attach(index("a"), XdpMode::Native).unwrap().is_attached());
    });
}

#[test]
fn devices_without_xdp_say_so() {
    with_pair(|_| {
        let program = load().unwrap();
        let refused = program.attach(LOOPBACK, XdpMode::Native).unwrap_err();
        assert!(matches!(refused, NoXdp::NotSupported(_)), "{refused}");
    });
}

/// A large MTU needs frames of several buffers.
#[test]
fn jumbo_frames_fit() {
    with_pair(|a| {
        let program = load().unwrap();
        ip("link set dev a mtu 9000");
        ip("link set dev b mtu 9000");
        match program.attach(a, XdpMode::Native) {
            Ok(link) => assert!(program.has_frags() && link.is_attached()),
            Err(refused) => assert!(!program.has_frags() && matches!(refused, NoXdp::DoesNotFit(_)), "{refused}"),
        }
    });
}

#[test]
fn each_queue_has_its_socket() {
    with_pair(|a| {
        let program = with(&settings(false)).unwrap();
        let _link = program.attach(a, XdpMode::Native).unwrap();
        let (socket, ours) = (xdp_socket(), to_card(&tcp(OURS, 61_001)));
        program.set_socket(1, socket.as_fd()).unwrap();
        assert_eq!(program.try_on(&ours, 1).unwrap(), XdpAction::Redirect);
        assert_eq!(program.try_on(&ours, 0).unwrap(), XdpAction::Drop);
        assert_eq!(program.try_on(&to_card(&udp(OURS, 53)), 1).unwrap(), XdpAction::Pass);
        assert!(program.try_on(&ours, 2).is_err(), "there is no such queue");
    });
}

/// Real frames: those of ours are dropped (nobody receives), the host's arrive, and a reload changes which is which.
#[test]
fn frames_of_a_device_are_decided() {
    with_pair(|a| {
        let program = with(&settings(false)).unwrap();
        ip(&format!("addr add {FAR}/24 dev b"));
        ip(&format!("route add {OURS}/32 dev b src {FAR}"));
        ip(&format!("neigh add {OURS} lladdr {CARD} dev b"));
        let sender = UdpSocket::bind((FAR, 53)).unwrap();
        let send = |port| sender.send_to(&[1; 100], SocketAddrV4::new(OURS, port)).map(drop);
        for mode in [XdpMode::Native, XdpMode::Generic] {
            program.configure(&settings(false)).unwrap();
            let _link = program.attach(a, mode).unwrap();
            let before = program.counts().unwrap();
            let dropped = || program.counts().unwrap().no_socket - before.no_socket;
            let passed = || program.counts().unwrap().passed - before.passed;
            (0..5).try_for_each(|_| send(61_001)).unwrap();
            soon("five frames of ours", || dropped() == 5);
            let so_far = passed();
            (0..3).try_for_each(|_| send(22)).unwrap();
            soon("three frames of the host's", || passed() >= so_far + 3);
            assert_eq!(dropped(), 5, "{mode:?}");
            program.configure(&XdpSettings { addresses: vec![HOST, OTHER, OURS], ..settings(true) }).unwrap();
            (0..2).try_for_each(|_| send(22)).unwrap();
            soon("two more of ours", || dropped() == 7);
        }
    });
}

#[test]
fn a_device_that_does_not_exist_is_refused() {
    let Some(program) = load() else { return };
    let refused = program.attach(i32::MAX.cast_unsigned(), XdpMode::Native).unwrap_err();
    assert!(matches!(refused, NoXdp::Gone(_)), "{refused}");
    assert_eq!(program.try_on(&[0; 5], 0).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidInput));
}
