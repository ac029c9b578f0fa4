//! Settings that change while the program runs.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::frames::{tcp, to_card, udp};
use super::{HOST, NEIGHBOUR, OTHER, OURS, decide, load, settings, with, xdp_socket};
use crate::sys::bpf::{XdpAction, XdpSettings};

#[test]
fn before_the_first_settings_all_passes() {
    let Some(program) = load() else { return };
    for frame in [to_card(&tcp(OURS, 61_001)), vec![0; 60]] {
        assert_eq!(decide(&program, &frame), (XdpAction::Pass, "passed"));
    }
}

#[test]
fn what_is_given_up_passes_again() {
    let Some(program) = with(&settings(true)) else { return };
    let ours = |address, port| decide(&program, &to_card(&tcp(address, port))).1 == "no_socket";
    assert!(ours(OURS, 22) && ours(HOST, 22));
    program.configure(&XdpSettings { addresses: vec![OURS], ..settings(false) }).unwrap();
    assert!(ours(OURS, 61_001) && !ours(OURS, 22) && !ours(HOST, 61_001));
    program.configure(&XdpSettings { ports: vec![100..=200], statics: Vec::new(), ..settings(false) }).unwrap();
    assert!(!ours(OURS, 61_001) && !ours(OURS, 8080) && !ours(OURS, 99) && !ours(OURS, 201));
    assert!(ours(OURS, 100) && ours(HOST, 200));
    program.configure(&XdpSettings { ports: vec![0..=65_535], ..settings(false) }).unwrap();
    assert!(ours(OURS, 0) && ours(OURS, 65_535) && ours(OURS, 22));
    program.configure(&XdpSettings { mac: NEIGHBOUR, ..settings(true) }).unwrap();
    assert!(!ours(OURS, 22), "the card has another address");
    program.configure(&XdpSettings { addresses: Vec::new(), ..settings(true) }).unwrap();
    assert!(!ours(OURS, 22) && !ours(HOST, 61_001));
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let Some(program) = with(&settings(false)) else { return };
    let many = |count: u32| (0..count).map(|n| Ipv4Addr::from(n << 1)).collect::<Vec<_>>();
    let listed = |bits| vec![(OTHER, bits)];
    for (hint, wrong) in [
        ("1024", XdpSettings { addresses: many(1025), ..settings(true) }),
        (
            "32768",
            XdpSettings {
                dropped_sources: many(32_769).into_iter().map(|address| (address, 32)).collect(),
                ..settings(true)
            },
        ),
        ("32 bits", XdpSettings { dropped_sources: listed(33), ..settings(true) }),
        ("4094", XdpSettings { vlan: 4095, ..settings(true) }),
        ("TCP or UDP", XdpSettings { statics: vec![(1, OURS, 5)], ..settings(true) }),
    ] {
        let error = program.configure(&wrong).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(hint), "{error}");
        assert_eq!(decide(&program, &to_card(&tcp(OURS, 22))).1, "passed", "{hint}");
        assert_eq!(decide(&program, &to_card(&tcp(OURS, 61_001))).1, "no_socket", "{hint}");
    }
    let full = |first: u32| XdpSettings {
        addresses: (first..first + 1024).map(Ipv4Addr::from).collect(),
        dropped_sources: (first..first + 32_768).map(|n| (Ipv4Addr::from(n), 32)).collect(),
        ..settings(true)
    };
    program.configure(&full(1 << 30)).unwrap();
    program.configure(&full(1 << 29)).unwrap();
    assert_eq!(decide(&program, &to_card(&tcp(Ipv4Addr::from((1 << 29) + 1023), 22))).1, "no_socket");
}

#[test]
fn only_sockets_of_xdp_are_taken() {
    let Some(program) = load() else { return };
    let (other, right) = (std::net::UdpSocket::bind("127.0.0.1:0").unwrap(), xdp_socket());
    assert!(program.set_socket(0, other.as_fd()).is_err());
    program.set_socket(255, right.as_fd()).unwrap();
    assert!(program.set_socket(256, right.as_fd()).is_err());
}

/// While settings go to and fro, what both call ours never passes, and what neither does is never taken.
#[test]
fn no_frame_sees_settings_half_done() {
    let shared = XdpSettings {
        addresses: vec![OURS, OTHER],
        ports: vec![20_000..=30_000],
        dropped_sources: vec![(Ipv4Addr::new(10, 0, 0, 0), 8)],
        ..settings(false)
    };
    let other_shared = XdpSettings { ports: vec![25_000..=40_000], statics: Vec::new(), ..settings(false) };
    let dedicated = XdpSettings { addresses: vec![OURS], ports: Vec::new(), ..settings(true) };
    for (one, two) in [(&shared, &other_shared), (&shared, &dedicated), (&other_shared, &dedicated)] {
        let Some(program) = with(one) else { return };
        let ours = [to_card(&tcp(OURS, 25_000)), to_card(&udp(OURS, 30_000))];
        // The host's own address, and ports of nobody of the addresses that are shared.
        let theirs =
            [to_card(&tcp(Ipv4Addr::new(203, 0, 113, 1), 25_000)), to_card(&tcp(HOST, 22)), to_card(&tcp(OTHER, 22))];
        let over = AtomicBool::new(false);
        let asked = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut asked = 0;
                while !over.load(Ordering::Relaxed) {
                    for frame in &ours {
                        assert_eq!(program.try_on(frame, 0).unwrap(), XdpAction::Drop, "{one:?} {two:?}");
                    }
                    for frame in &theirs {
                        assert_eq!(program.try_on(frame, 0).unwrap(), XdpAction::Pass, "{one:?} {two:?}");
                    }
                    asked += 1;
                }
                asked
            });
            for _ in 0..100 {
                program.configure(two).unwrap();
                program.configure(one).unwrap();
            }
            over.store(true, Ordering::Relaxed);
            asking.join().unwrap()
        });
        assert!(asked > 10, "asked only {asked} times");
    }
}
