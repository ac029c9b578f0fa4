//! Sockets on a veth pair, in a network namespace of the test's own. Needs root; without, says so and passes.
#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit};

use super::redirect::Redirect;
use crate::sys::bpf::{Base, Program};
use crate::sys::netdev::Devices;
use crate::sys::packet::{Options, PacketSocket};
use crate::sys::vnet::VnetHeader;
use crate::sys::xsk::frames::Sending;
use crate::sys::xsk::{BusyPoll, Copying, NoXsk, Xsk, XskOptions, XskStatistics};
use crate::wire::checksum::Sum;

/// Runs `test` in a thread with a veth pair `lane` and `peer` between which nothing else talks.
fn on_veth(mtu: u32, test: impl FnOnce(u32, u32) + Send + 'static) {
    let test = move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            eprintln!("not run: no right to make a network namespace");
            return;
        }
        // With several queues, what a packet socket sends goes to that of the CPU it happens to run on.
        ip("link add lane numrxqueues 1 numtxqueues 1 type veth peer name peer numrxqueues 1 numtxqueues 1");
        for device in ["lane", "peer"] {
            // No address, so the kernel has nothing to say.
            ip(&format!("link set {device} addrgenmode none mtu {mtu} up"));
        }
        let index = |name| Devices::new().unwrap().find(name).unwrap().index;
        test(index("lane"), index("peer"));
    };
    std::thread::spawn(test).join().unwrap();
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

fn options(ifindex: u32) -> XskOptions {
    XskOptions {
        ifindex,
        queue: 0,
        copying: Copying::Auto,
        rx_chunks: 1024,
        tx_chunks: 512,
        chunk_bytes: 2048,
        frame_bytes: 1514,
        busy_poll: None,
        trust_driver_checksum: false,
    }
}

fn listen(ifindex: u32) -> PacketSocket {
    let options = Options { receive_bytes: 64 << 20, send_bytes: 16 << 20, frames: 256, qdisc_bypass: true };
    let socket = PacketSocket::open(ifindex, options).unwrap();
    let mut all = Program::new();
    all.ret(u32::MAX);
    socket.set_filter(&all.classic(Base::Ethernet).unwrap()).unwrap();
    socket
}

/// A frame of an EtherType for experiments.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; len];
    frame[..12].fill(2);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame[len - 1] = frame[17];
    frame
}

fn push(xsk: &mut Xsk, frame: &[u8], checksum: Option<(usize, usize)>) {
    let (a, b) = frame.split_at(frame.len() / 3);
    xsk.push(frame.len(), [a, b].into_iter(), checksum).unwrap();
}

/// Calls `step`, which says how many it got, until there were `wanted` or a while has passed; how many.
fn until(wanted: usize, mut step: impl FnMut() -> usize) -> usize {
    let (mut got, began) = (0, Instant::now());
    while got < wanted && began.elapsed() < Duration::from_secs(5) {
        match step() {
            0 => std::thread::sleep(Duration::from_micros(50)),
            some => got += some,
        }
    }
    got
}

fn receive_all(socket: &mut PacketSocket, wanted: usize) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut all = Vec::new();
    until(wanted, || {
        let (got, _) = socket.receive(wanted).unwrap();
        all.extend((0..got).map(|index| {
            let (header, frame) = socket.frame(index).unwrap();
            (header, frame.to_vec())
        }));
        got
    });
    all
}

fn send_all(socket: &mut PacketSocket, frames: &[Vec<u8>]) {
    let mut next = frames.iter();
    while next.len() > 0 {
        let (sent, error) = socket.send(|| {
            let frame = next.next()?;
            Some((VnetHeader::default(), std::iter::once(frame.as_slice())))
        });
        assert!(error.is_none() && sent > 0, "{error:?}");
    }
}

#[test]
fn what_is_pushed_is_seen_by_the_peer() {
    on_veth(9000, |lane, peer| {
        let mut peer = listen(peer);
        let mut xsk = Xsk::open(&options(lane)).unwrap();
        let facts = xsk.facts().clone();
        assert!(!facts.zero_copy && facts.multi_buffer && !facts.busy_poll, "{facts:?}");
        assert_eq!(facts.why_copy.as_deref(), Some("the driver does not offer it"));
        // Four chunks make a frame of 7,000 bytes; more than one kick sends them all.
        let lens = [14, 60, 1514, 2016, 2017, 2048, 7000, 9014];
        let frames: Vec<_> = (0..120u32).map(|n| frame(n, lens[n as usize % lens.len()].max(18))).collect();
        frames.iter().for_each(|frame| push(&mut xsk, frame, None));
        assert!(xsk.queued() > 120);
        assert_eq!(peer.receive(1).unwrap().0, 0, "sent without a kick");
        xsk.kick().unwrap();
        assert_eq!(xsk.queued(), 0);
        let seen = receive_all(&mut peer, frames.len());
        assert_eq!(seen.len(), frames.len());
        assert!(seen.iter().zip(&frames).all(|((_, seen), sent)| seen == sent));
        // Every chunk came back.
        (0..512u32).for_each(|n| push(&mut xsk, &frame(n, 100), None));
        xsk.kick().unwrap();
        assert_eq!(receive_all(&mut peer, 512).len(), 512);
        let quiet = XskStatistics { tx_ring_empty: xsk.statistics().unwrap().tx_ring_empty, ..Default::default() };
        assert_eq!(xsk.statistics().unwrap(), quiet);
    });
}

/// A datagram from 10.0.0.1 to 10.0.0.2 whose checksum field holds the sum of the pseudo-header.
fn unfinished(payload: usize) -> Vec<u8> {
    let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let udp_bytes = u16::try_from(8 + payload).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_bytes).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let header_sum = Sum::ZERO.bytes(&packet).finish();
    packet[10..12].copy_from_slice(&header_sum.to_be_bytes());
    packet.extend([0x10, 0, 0x20, 0]);
    packet.extend(udp_bytes.to_be_bytes());
    packet.extend(Sum::pseudo(src, dst, 17, udp_bytes).partial().to_be_bytes());
    packet.extend((0..payload).map(|n| u8::try_from(n % 251).unwrap()));
    [&[2; 12][..], &[8, 0], &packet].concat()
}

#[test]
fn checksums_are_finished_or_said_to_be_unfinished() {
    on_veth(9000, |lane, peer| {
        let mut peer = listen(peer);
        let mut xsk = Xsk::open(&options(lane)).unwrap();
        let frames = [unfinished(1), unfinished(1400), unfinished(8000)];
        for by_kernel in [true, false] {
            if by_kernel && !xsk.facts().tx_checksum {
                eprintln!("not run: this kernel takes no metadata");
                continue;
            }
            if !by_kernel {
                let metadata_room = if xsk.facts().tx_checksum { 32 } else { 0 };
                xsk.frames.set_sending(Sending { metadata_room, offload: false, pieces_max: 16 });
            }
            frames.iter().for_each(|frame| push(&mut xsk, frame, Some((34, 6))));
            xsk.kick().unwrap();
            let seen = receive_all(&mut peer, frames.len());
            assert_eq!(seen.len(), frames.len());
            for ((header, mut seen), sent) in seen.into_iter().zip(&frames) {
                if by_kernel {
                    // The peer of a veth gets the frame as it is, with the word of the kernel about it.
                    assert!(header.needs_checksum, "{header:?}");
                    assert_eq!((header.checksum_start, header.checksum_offset), (34, 6));
                } else {
                    assert!(!header.needs_checksum);
                    let udp_bytes = u16::try_from(seen.len() - 34).unwrap();
                    let pseudo = Sum::pseudo([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, udp_bytes);
                    assert_eq!(pseudo.bytes(&seen[34..]).finish(), 0, "a wrong checksum");
                    seen[40..42].copy_from_slice(&sent[40..42]);
                }
                assert_eq!(&seen, sent);
            }
        }
    });
}

#[test]
fn what_is_missing_is_said() {
    on_veth(1500, |lane, _| {
        let open = |change: &dyn Fn(&mut XskOptions)| {
            let mut options = options(lane);
            change(&mut options);
            Xsk::open(&options).map(|xsk| xsk.facts().clone())
        };
        let refused = open(&|options| options.copying = Copying::ZeroCopy).unwrap_err();
        assert!(matches!(refused, NoXsk::NoZeroCopy(_)), "{refused}");
        assert!(refused.to_string().contains("the driver does not offer it"), "{refused}");
        for copying in [Copying::Auto, Copying::ZeroCopy, Copying::Copy] {
            let refused = open(&|options| (options.queue, options.copying) = (7, copying)).unwrap_err();
            assert!(matches!(refused, NoXsk::NoQueue(7)), "{refused}");
        }
        assert!(matches!(open(&|options| options.ifindex = 9999), Err(NoXsk::DeviceGone)));
        assert!(matches!(open(&|options| options.chunk_bytes = 1000), Err(NoXsk::Options(_))));
        assert!(matches!(open(&|options| options.rx_chunks = 0), Err(NoXsk::Options(_))));
        let first = Xsk::open(&XskOptions { copying: Copying::Copy, ..options(lane) }).unwrap();
        assert_eq!(first.facts().why_copy.as_deref(), Some("copying was asked for"));
        let busy = open(&|_| ()).unwrap_err();
        assert!(matches!(busy, NoXsk::Busy(0)), "{busy}");
        drop(first);
        // The queue is free a little later.
        assert_eq!(until(1, || usize::from(open(&|_| ()).is_ok())), 1);
        let polls = |options: &mut XskOptions| options.busy_poll = Some(BusyPoll { micros: 20, budget: 64 });
        let mut facts = None;
        until(1, || {
            facts = open(&polls).ok();
            usize::from(facts.is_some())
        });
        assert!(facts.unwrap().busy_poll);
        without(CAP_NET_RAW, move || assert!(matches!(Xsk::open(&options(lane)), Err(NoXsk::NoRight))));
    });
}

#[test]
fn locked_memory_has_its_limit() {
    const MIB: u64 = 1 << 20;
    on_veth(1500, |lane, _| {
        let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        if !(7 * MIB..128 * MIB).contains(&limit) {
            eprintln!("not run: RLIMIT_MEMLOCK is {limit}");
            return;
        }
        without(CAP_IPC_LOCK, move || {
            let refused = Xsk::open(&XskOptions { rx_chunks: 65_536, ..options(lane) }).unwrap_err();
            assert!(matches!(refused, NoXsk::MemoryLock { need_kib: 132_096, .. }), "{refused}");
            // Once it fits, but not while a try before still holds it.
            let chunks = XskOptions { rx_chunks: 2048, tx_chunks: 1024, ..options(lane) };
            let opened = Xsk::open(&chunks);
            assert!(opened.is_ok(), "{opened:?}");
        });
    });
}

/// Runs `test` in a thread that lacks a capability.
fn without(capability: u32, test: impl FnOnce() + Send + 'static) {
    let test = move || {
        // `struct __user_cap_header_struct`, version 3, this thread; two times effective, permitted, inheritable.
        let mut header = [0x2008_0522u32, 0];
        let mut sets = [0u32; 6];
        // SAFETY: both have the form of the call and live through it.
        let done = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
        assert_eq!(done, 0);
        sets[0] &= !(1 << capability);
        // SAFETY: as before.
        let done = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_mut_ptr()) };
        assert_eq!(done, 0);
        test();
    };
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn a_device_that_goes_is_told() {
    on_veth(1500, |lane, _| {
        let mut xsk = Xsk::open(&options(lane)).unwrap();
        ip("link set lane down");
        push(&mut xsk, &frame(0, 60), None);
        assert_eq!(xsk.kick().unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        ip("link set lane up");
        xsk.kick().unwrap();
        assert_eq!(xsk.queued(), 0);
        xsk.trouble().unwrap();
        ip("link delete lane");
        assert_eq!(until(1, || usize::from(xsk.trouble().is_err())), 1);
        push(&mut xsk, &frame(0, 60), None);
        let gone = xsk.kick().unwrap_err().raw_os_error();
        assert!(matches!(gone, Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV)), "{gone:?}");
    });
}

/// Receives what there is, after a wait for it; how many.
fn receive(xsk: &mut Xsk, max: usize) -> usize {
    match xsk.receive(max).unwrap() {
        0 => {
            let mut ready = [PollFd::new(xsk.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::from(100u16)).unwrap();
            xsk.receive(max).unwrap()
        }
        some => some,
    }
}

#[test]
fn frames_of_all_lengths_are_received() {
    for (mtu, frags) in [(1500, false), (9000, true)] {
        on_veth(mtu, move |lane, peer| {
            let mut peer = listen(peer);
            let mut xsk = Xsk::open(&options(lane)).unwrap();
            let redirect = Redirect::attach(lane, frags).unwrap();
            redirect.insert(0, xsk.as_fd());
            let longest = mtu as usize + 14;
            let lens = [18, 60, 100, 1500, 1514, 1792, 1793, 3584, 3585, 9014];
            let lens: Vec<_> = lens.into_iter().filter(|len| *len <= longest).collect();
            let frames: Vec<_> = (0..200u32).map(|n| frame(n, lens[n as usize % lens.len()])).collect();
            send_all(&mut peer, &frames);
            let mut seen = Vec::new();
            until(frames.len(), || {
                let got = receive(&mut xsk, 7);
                seen.extend((0..got).map(|index| xsk.peek(index).unwrap().to_vec()));
                got
            });
            assert!(seen == frames, "{} of {} frames, {:?}", seen.len(), frames.len(), xsk.statistics());
        });
    }
}

#[test]
fn an_echo_within_the_rings_loses_nothing() {
    const FRAMES: u32 = 100_000;
    on_veth(1500, |lane, peer| {
        let mut peer = listen(peer);
        let mut xsk = Xsk::open(&options(lane)).unwrap();
        let redirect = Redirect::attach(lane, false).unwrap();
        redirect.insert(0, xsk.as_fd());
        let mut copy = Vec::new();
        for first in (0..FRAMES).step_by(250) {
            let frames: Vec<_> = (first..first + 250).map(|n| frame(n, 60 + n as usize % 1400)).collect();
            send_all(&mut peer, &frames);
            let echoed = until(frames.len(), || {
                let got = receive(&mut xsk, 64);
                for index in 0..got {
                    copy.clear();
                    copy.extend_from_slice(xsk.frame(index).unwrap());
                    push(&mut xsk, &copy, None);
                }
                xsk.kick().unwrap();
                got
            });
            assert_eq!(echoed, frames.len(), "{:?}", xsk.statistics());
            let seen = receive_all(&mut peer, frames.len());
            assert!(seen.iter().map(|(_, frame)| frame).eq(&frames), "{} after {first}", seen.len());
        }
        let said = xsk.statistics().unwrap();
        let clean = XskStatistics { tx_ring_empty: said.tx_ring_empty, ..Default::default() };
        assert_eq!(said, clean);
    });
}

#[test]
fn more_than_the_rings_hold_is_lost_and_counted() {
    on_veth(1500, |lane, peer| {
        let mut peer = listen(peer);
        let mut xsk = Xsk::open(&XskOptions { rx_chunks: 64, tx_chunks: 64, ..options(lane) }).unwrap();
        let redirect = Redirect::attach(lane, false).unwrap();
        redirect.insert(0, xsk.as_fd());
        for round in 0..5u32 {
            let frames: Vec<_> = (0..200).map(|n| frame(round * 200 + n, 60)).collect();
            send_all(&mut peer, &frames);
            // All have been delivered or lost when nothing more comes.
            let mut got = 0;
            for _ in 0..3 {
                got += receive(&mut xsk, 64);
            }
            assert!((64..200).contains(&got), "{got}");
        }
        let said = xsk.statistics().unwrap();
        assert!(said.rx_no_chunk + said.rx_ring_full + said.rx_dropped > 0, "{said:?}");
        assert_eq!(said.bad_descriptors, 0);
    });
}

const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
