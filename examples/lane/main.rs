//! Lanes on real devices, as `scripts/lane-check` needs them: an echo, and a relay between two devices.
//!
//! ```text
//! lane echo DEVICE ADDRESS/PREFIX [probe] [shared] [MODE] [slice=FIRST-LAST]...   one worker for each slice
//! lane relay DEVICE_A ADDRESS_A DEVICE_B ADDRESS_B [bypass] [MODE]                 a station behind each device
//! lane masquerade DEVICE_IN FAR DEVICE_OUT OWN [MODE]                       the NAT between two devices: FAR is a station
//!                                                                           outside, OWN the address it sees
//! lane blast ADDRESS:PORT BYTES SECONDS                                     datagrams by the kernel's sockets
//! lane attached DEVICE                                                      programs at its ingress
//! lane detach DEVICE                                                        takes the XDP program off it
//! ```
//!
//! MODE: `xdp` and `generic` use AF_XDP sockets, otherwise packet sockets.
//!
//! The echo answers pings, and each datagram with the number of the worker that got it. What the lanes counted is
//! printed whenever it changes, and of each queue of AF_XDP that is opened whether the device itself moves the bytes.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hublane::lane::any::AnyLaneIo;
use hublane::lane::choice::LaneSteer;
use hublane::lane::filter::LaneFilter;
use hublane::lane::outlet::Outlet;
use hublane::lane::packet::{self, PacketSettings};
use hublane::lane::uplink::{Ownership, Shared, UplinkSettings};
use hublane::lane::xdp::{self, XdpSettings};
use hublane::lane::{Lane, LaneStats};
use hublane::nat::Prefix;
use hublane::sys::netdev::{self, Devices};
use hublane::sys::xsk::Copying;
use hublane::sys::{bpf, nic, tc};
use hublane::tick::Tick;
use hublane::wire::checksum::Sum;
use hublane::wire::ipv4::{self, Ipv4};
use hublane::wire::offload::{L4Checksum, Offload};
use hublane::wire::udp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

mod blast;
mod masquerade;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lane: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", device, address, rest @ ..] => echo(device, address, rest),
        ["relay", device_a, address_a, device_b, address_b, rest @ ..] => {
            relay((device_a, address_a.parse()?), (device_b, address_b.parse()?), rest)
        }
        ["masquerade", device_in, far, device_out, own, rest @ ..] => {
            masquerade_between((device_in, far.parse()?), (device_out, own.parse()?), rest)
        }
        ["blast", to, bytes, seconds] => blast::blast(to.parse()?, bytes.parse()?, seconds.parse()?),
        ["detach", device] => {
            let attached = nic::facts(device)?.attached.ok_or("no XDP program is on the device")?;
            let taken = bpf::detach(attached.id)?;
            if taken { Ok(()) } else { Err("no link of XDP is at the device".into()) }
        }
        ["attached", device] => {
            println!("{}", tc::programs_at(Devices::new()?.find(device)?.index)?);
            Ok(())
        }
        _ => Err("see the head of examples/lane/main.rs".into()),
    }
}

/// Lanes with one address each, on this network.
fn lanes(
    device: &str,
    address: Ipv4Addr,
    network: (Ipv4Addr, u8),
    ownership: Ownership,
    slices: Vec<RangeInclusive<u16>>,
    options: &[&str],
) -> Outcome<Vec<Lane<AnyLaneIo>>> {
    let workers = slices.len();
    let dedicated = ownership != Ownership::Shared;
    let filter = LaneFilter { addresses: vec![address], dedicated, slices, statics: Vec::new() };
    let uplink = UplinkSettings {
        addresses: vec![address],
        ownership,
        network,
        next_hop: netdev::addressing(device)?.next_hop,
        ask_from: address,
    };
    let shared = Arc::new(Shared::new(&uplink));
    let generic = options.contains(&"generic");
    let ends: Vec<AnyLaneIo> = if generic || options.contains(&"xdp") {
        let settings = XdpSettings {
            device: device.into(),
            filter,
            workers,
            generic,
            copying: Copying::Auto,
            busy_poll: None,
            tx_checksum: false,
            steer: LaneSteer::Handoff,
            steer_or_fail: false,
            remarks: Vec::new(),
            asks_for_host: !dedicated,
        };
        xdp::open(settings)?.into_iter().map(|lane| AnyLaneIo::Xdp(Box::new(lane))).collect()
    } else {
        let qdisc_bypass = options.contains(&"bypass");
        let settings = PacketSettings { device: device.into(), filter, workers, receive_bytes: 16 << 20, qdisc_bypass };
        packet::open(settings)?.into_iter().map(AnyLaneIo::Packet).collect()
    };
    let lane = |(worker, io)| Lane::new(io, uplink.clone(), Arc::clone(&shared), worker, 7, Tick(1));
    Ok(ends.into_iter().enumerate().map(lane).collect())
}

fn echo(device: &str, address: &str, options: &[&str]) -> Outcome {
    let (address, prefix) = address.split_once('/').ok_or("ADDRESS/PREFIX")?;
    let mut slices = Vec::new();
    for slice in options.iter().filter_map(|option| option.strip_prefix("slice=")) {
        let (first, last) = slice.split_once('-').ok_or("FIRST-LAST")?;
        slices.push(first.parse()?..=last.parse()?);
    }
    if slices.is_empty() {
        slices.push(1..=u16::MAX);
    }
    let ownership = match options.contains(&"shared") {
        true => Ownership::Shared,
        false => Ownership::Dedicated { probe: options.contains(&"probe") },
    };
    let address = address.parse()?;
    let lanes = lanes(device, address, (address, prefix.parse()?), ownership, slices, options)?;
    let threads: Vec<_> =
        lanes.into_iter().enumerate().map(|(worker, lane)| thread::spawn(move || serve(worker, lane))).collect();
    for thread in threads {
        thread.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

fn serve(worker: usize, mut lane: Lane<AnyLaneIo>) -> Outcome {
    let start = Instant::now();
    let mut last = Told::default();
    loop {
        let now = now(start);
        lane.receive(256, now, &mut |out: &mut Outlet, packet: &mut [u8], offload: Offload| {
            if let Some(answer) = answer(packet, offload, worker) {
                out.push(&answer, Offload { checksum: L4Checksum::Untrusted, segment_bytes: 0 }, now);
            }
        });
        lane.flush(now);
        let next = lane.poll(now).next;
        report(&format!("worker {worker}"), &lane, &mut last);
        wait(&[&lane], next.since(now));
    }
}

/// To a ping, its answer; to a datagram, the worker's number.
fn answer(packet: &[u8], offload: Offload, worker: usize) -> Option<Vec<u8>> {
    let ip = Ipv4::new_checked(packet)?;
    let payload = ip.payload();
    let (dst, src) = (ip.src(), ip.dst());
    let mut body = match ip.protocol() {
        1 if payload.first() == Some(&8) => {
            let mut body = payload.to_vec();
            body[0] = 0;
            body[2..4].fill(0);
            let checksum = Sum::ZERO.bytes(&body).finish();
            body[2..4].copy_from_slice(&checksum.to_be_bytes());
            body
        }
        udp::PROTOCOL if offload.segment_bytes == 0 && payload.len() >= udp::HEADER_BYTES => {
            let text = format!("{worker}\n");
            let length = u16::try_from(udp::HEADER_BYTES + text.len()).ok()?;
            let mut body = vec![payload[2], payload[3], payload[0], payload[1]];
            body.extend(length.to_be_bytes());
            body.extend([0, 0]);
            body.extend(text.bytes());
            body
        }
        _ => return None,
    };
    let mut answer = ipv4::header(src, dst, ip.protocol(), 64, u16::try_from(body.len()).ok()?).to_vec();
    answer.append(&mut body);
    Some(answer)
}

/// Each lane answers ARP for the station behind the other.
fn relay(a: (&str, Ipv4Addr), b: (&str, Ipv4Addr), options: &[&str]) -> Outcome {
    let one = |device: &str, address| -> Outcome<Lane<AnyLaneIo>> {
        let ownership = Ownership::Dedicated { probe: false };
        let lane = lanes(device, address, (address, 24), ownership, vec![1..=u16::MAX], options)?.pop();
        Ok(lane.ok_or("one worker, one lane")?)
    };
    let (mut left, mut right) = (one(a.0, b.1)?, one(b.0, a.1)?);
    let start = Instant::now();
    let mut last = [Told::default(); 2];
    let mut reported = 0;
    loop {
        let now = now(start);
        let mut more = false;
        for (from, to) in [(0, 1), (1, 0)] {
            let (source, sink) = if from < to { (&mut left, &mut right) } else { (&mut right, &mut left) };
            let received = source.receive(BURST, now, &mut |_: &mut Outlet, packet: &mut [u8], offload: Offload| {
                sink.push(packet, offload, now)
            });
            more |= received.more;
            sink.flush(now);
        }
        let next = left.poll(now).next.min(right.poll(now).next);
        if now.as_ms() / 200 != reported {
            reported = now.as_ms() / 200;
            report("left", &left, &mut last[0]);
            report("right", &right, &mut last[1]);
        }
        if !more {
            wait(&[&left, &right], next.since(now).min(Duration::from_millis(200)));
        }
    }
}

/// Each device has an address of the kernel's, which says what network is there.
fn masquerade_between(inside: (&str, Ipv4Addr), outside: (&str, Ipv4Addr), options: &[&str]) -> Outcome {
    let network = |device: &str| -> Outcome<(Ipv4Addr, u8)> {
        Ok(*netdev::addressing(device)?.addresses.first().ok_or("the device has no address")?)
    };
    let one = |(device, address): (&str, Ipv4Addr)| -> Outcome<Lane<AnyLaneIo>> {
        let ownership = Ownership::Dedicated { probe: false };
        let lane = lanes(device, address, network(device)?, ownership, vec![1..=u16::MAX], options)?.pop();
        Ok(lane.ok_or("one worker, one lane")?)
    };
    let prefix = |(address, bits)| Prefix::new(address, bits);
    let (stations, allow) = (prefix(network(inside.0)?), prefix(network(outside.0)?));
    masquerade::masquerade(one(inside)?, one(outside)?, stations, outside.1, allow)
}

fn now(start: Instant) -> Tick {
    Tick(1) + start.elapsed()
}

/// What was printed last of a lane.
#[derive(Clone, Copy, Default)]
struct Told {
    stats: LaneStats,
    generation: Option<u32>,
}

fn report(name: &str, lane: &Lane<AnyLaneIo>, last: &mut Told) {
    let link = lane.link();
    if link.up && last.generation != Some(link.generation) {
        last.generation = Some(link.generation);
        for queue in lane.report().queues {
            let why = queue.why_copy.map(|why| format!(", {why}")).unwrap_or_default();
            println!("queue {} of {name} zero-copy: {}{why}", queue.queue, if queue.zero_copy { "yes" } else { "no" });
        }
    }
    if *lane.stats() != last.stats {
        last.stats = *lane.stats();
        println!("{name} up={} {:?}", link.up, last.stats);
    }
}

fn wait(lanes: &[&Lane<AnyLaneIo>], longest: Duration) {
    let fds: Vec<_> = lanes.iter().filter_map(|lane| lane.fd()).collect();
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    let ms = u16::try_from(longest.as_millis().clamp(1, 60_000)).unwrap_or(u16::MAX);
    // Interrupted or not, the loop looks at everything again.
    let _ = poll(&mut fds, PollTimeout::from(ms));
}

/// Frames taken from one side before the other gets its turn.
const BURST: usize = 32;
