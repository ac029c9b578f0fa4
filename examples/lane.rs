//! Lanes on real devices, as `scripts/lane-check` needs them: an echo, and a relay between two devices.
//!
//! ```text
//! lane echo DEVICE ADDRESS/PREFIX [probe] [shared] [slice=FIRST-LAST]...   one worker for each slice
//! lane relay DEVICE_A ADDRESS_A DEVICE_B ADDRESS_B [bypass]                 a station behind each device
//! lane attached DEVICE                                                      programs at its ingress
//! ```
//!
//! The echo answers pings, and each datagram with the number of the worker that got it. What the lanes counted is
//! printed whenever it changes.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hublane::lane::filter::LaneFilter;
use hublane::lane::outlet::Outlet;
use hublane::lane::packet::{self, PacketLane, PacketSettings};
use hublane::lane::uplink::{Ownership, Shared, UplinkSettings};
use hublane::lane::{Lane, LaneStats};
use hublane::sys::netdev::{self, Devices};
use hublane::sys::tc;
use hublane::tick::Tick;
use hublane::wire::checksum::Sum;
use hublane::wire::ipv4::{self, Ipv4};
use hublane::wire::offload::{L4Checksum, Offload};
use hublane::wire::udp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", device, address, rest @ ..] => echo(device, address, rest),
        ["relay", device_a, address_a, device_b, address_b, rest @ ..] => {
            relay((device_a, address_a.parse()?), (device_b, address_b.parse()?), rest.contains(&"bypass"))
        }
        ["attached", device] => {
            println!("{}", tc::programs_at(Devices::new()?.find(device)?.index)?);
            Ok(())
        }
        _ => Err("see the head of examples/lane.rs".into()),
    }
}

/// Lanes with one address each, on a network of their own.
fn lanes(
    device: &str,
    address: Ipv4Addr,
    prefix: u8,
    ownership: Ownership,
    slices: Vec<RangeInclusive<u16>>,
    qdisc_bypass: bool,
) -> Outcome<Vec<Lane<PacketLane>>> {
    let workers = slices.len();
    let dedicated = ownership != Ownership::Shared;
    let filter = LaneFilter { addresses: vec![address], dedicated, slices, statics: Vec::new() };
    let settings = PacketSettings { device: device.into(), filter, workers, receive_bytes: 16 << 20, qdisc_bypass };
    let uplink = UplinkSettings {
        addresses: vec![address],
        ownership,
        network: (address, prefix),
        next_hop: netdev::addressing(device)?.next_hop,
        ask_from: address,
    };
    let shared = Arc::new(Shared::new(&uplink));
    let ends = packet::open(settings)?;
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
    let lanes = lanes(device, address.parse()?, prefix.parse()?, ownership, slices, false)?;
    let threads: Vec<_> =
        lanes.into_iter().enumerate().map(|(worker, lane)| thread::spawn(move || serve(worker, lane))).collect();
    for thread in threads {
        thread.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

fn serve(worker: usize, mut lane: Lane<PacketLane>) -> Outcome {
    let start = Instant::now();
    let mut last = LaneStats::default();
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
fn relay(a: (&str, Ipv4Addr), b: (&str, Ipv4Addr), bypass: bool) -> Outcome {
    let one = |device: &str, address| -> Outcome<Lane<PacketLane>> {
        let ownership = Ownership::Dedicated { probe: false };
        let lane = lanes(device, address, 24, ownership, vec![1..=u16::MAX], bypass)?.pop();
        Ok(lane.ok_or("one worker, one lane")?)
    };
    let (mut left, mut right) = (one(a.0, b.1)?, one(b.0, a.1)?);
    let start = Instant::now();
    let mut last = [LaneStats::default(); 2];
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

fn now(start: Instant) -> Tick {
    Tick(1) + start.elapsed()
}

fn report(name: &str, lane: &Lane<PacketLane>, last: &mut LaneStats) {
    if lane.stats() != last {
        *last = *lane.stats();
        println!("{name} up={} {last:?}", lane.link().up);
    }
}

fn wait(lanes: &[&Lane<PacketLane>], longest: Duration) {
    let fds: Vec<_> = lanes.iter().filter_map(|lane| lane.fd()).collect();
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    let ms = u16::try_from(longest.as_millis().clamp(1, 60_000)).unwrap_or(u16::MAX);
    // Interrupted or not, the loop looks at everything again.
    let _ = poll(&mut fds, PollTimeout::from(ms));
}

/// Frames taken from one side before the other gets its turn.
const BURST: usize = 32;
