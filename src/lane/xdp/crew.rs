//! What the AF_XDP lanes of a device have in common: the program on it, and the opening of a socket for each queue.
//!
//! A *generation* is one opening of everything. The first worker looks once a second whether the device is still the
//! one, has as many queues, and has our program; where it does not, a later generation is wanted: each worker gives its
//! sockets back when it sees that, because a queue can only be opened when nobody has it, and whoever comes first after
//! that opens them for all. A program that was taken off the device from outside is put on again in place.
//!
//! Locks are taken when a device is looked at, never for a packet; ARP that has to go to the first worker is so rare
//! that it may take one too.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::{Source, XdpLane};
use crate::lane::Link;
use crate::lane::choice::LaneSteer;
use crate::lane::filter::LaneFilter;
use crate::sys::bpf::{self, Base, NoXdp, XdpCounts, XdpLink, XdpMode, XdpProgram};
use crate::sys::netdev::{Device, Devices};
use crate::sys::packet::{Options, PacketSocket};
use crate::sys::steer::{DestinationHash, NoSteering, NtupleRules, PortsToQueue};
use crate::sys::waker::Waker;
use crate::sys::xsk::{BusyPoll, Copying, NoXsk, Xsk, XskOptions};
use crate::sys::{netlink, nic};
use crate::wire::arp;
use crate::wire::ethernet::Mac;

/// How to open lanes on a device.
#[derive(Clone, Debug)]
pub struct XdpSettings {
    /// Name of the device.
    pub device: String,
    /// What comes to the lanes.
    pub filter: LaneFilter,
    /// How many lanes.
    pub workers: usize,
    /// Generic mode: behind the kernel's buffers instead of in the driver: for tests of drivers without XDP.
    pub generic: bool,
    /// Whether the device shall read and write our memory itself.
    pub copying: Copying,
    /// Whether receiving drives the device, instead of its interrupts.
    pub busy_poll: Option<BusyPoll>,
    /// The driver finishes checksums of what its card reads from our memory.
    pub tx_checksum: bool,
    /// How packets come to the worker that has their port.
    pub steer: LaneSteer,
    /// Without that there shall be no lane; otherwise it falls back to handing over.
    pub steer_or_fail: bool,
    /// Next hops are asked for in the host's name.
    pub asks_for_host: bool,
    /// What the operator is to know of the choice.
    pub remarks: Vec<String>,
}

/// Why there is no lane.
#[derive(Debug, thiserror::Error)]
pub enum NoXdpLane {
    /// No such device, or no Ethernet.
    #[error("device \"{0}\" cannot carry a lane: {1}; `ip link` lists those there are")]
    Device(String, io::Error),
    /// No program, or not on this device.
    #[error("no XDP program on device \"{0}\": {1}")]
    Program(String, NoXdp),
    /// The device is somebody else's.
    #[error(
        "device \"{0}\" has an XDP program already: \"{1}\" (id {2}); take it off (`ip link set dev {0} xdp off`, or its own tool), or use --lane-mode packet"
    )]
    Occupied(String, String, u32),
    /// No socket.
    #[error("queue {1} of device \"{0}\": {2}")]
    Socket(String, u32, NoXsk),
    /// The card does not steer.
    #[error("{0}")]
    Steering(#[from] NoSteering),
    /// Something else.
    #[error("the lane on device \"{0}\": {1}")]
    Io(String, io::Error),
}

impl NoXdpLane {
    /// Whether what is in the way may be left from a process of ours that has ended.
    fn may_pass(&self) -> bool {
        match self {
            Self::Occupied(_, program, _) => [bpf::XDP_NAME, UNTOLD].contains(&program.as_str()),
            Self::Socket(_, _, error) => matches!(error, NoXsk::Busy(_)),
            _ => false,
        }
    }
}

/// A frame with ARP, padded.
pub(super) type ArpFrame = [u8; arp::FRAME_BYTES];

/// One worker's part of a generation.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) generation: u32,
    /// Index of the device.
    pub(super) device: u32,
    pub(super) queues: Vec<Xsk>,
    /// Numbers of `queues` at the device.
    pub(super) numbers: Vec<u32>,
    /// Hears the answers to the host; only the first worker's.
    pub(super) ears: Option<PacketSocket>,
    /// Who sends for us if `queues` is empty.
    pub(super) relay: Option<usize>,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Crew {
    settings: XdpSettings,
    program: XdpProgram,
    /// The generation that shall be.
    wanted: AtomicU32,
    made: Mutex<Made>,
    arp: Mutex<VecDeque<ArpFrame>>,
    /// Rings when there is something in `arp`.
    bell: Option<Waker>,
}

#[derive(Debug, Default)]
struct Made {
    generation: u32,
    device: u32,
    /// The device's address, which the program compares frames with.
    mac: Option<Mac>,
    queues: u32,
    /// By worker; those that were not fetched yet.
    shares: Vec<Option<Share>>,
    /// Shares that were fetched and not given back.
    out: usize,
    link: Option<XdpLink>,
    has_lost_tso: bool,
    steering: Option<Steering>,
    /// What has kept the lane down since the last opening, or was lost by it.
    remarks: Vec<String>,
}

/// What the card was told; undone when dropped.
#[derive(Debug)]
enum Steering {
    Rules { _rules: NtupleRules },
    Hash { _hash: DestinationHash },
}

/// Makes the lanes of all workers, in their order. A device that is down opens them when it comes up.
///
/// # Errors
/// Without the device, the rights, or the driver's support.
pub fn open(settings: XdpSettings) -> Result<Vec<XdpLane>, NoXdpLane> {
    let name = settings.device.clone();
    let devices = || Devices::new().map_err(|error| NoXdpLane::Device(name.clone(), error));
    let device = devices()?.find(&name).map_err(|error| NoXdpLane::Device(name.clone(), error))?;
    let program = XdpProgram::load().map_err(|error| NoXdpLane::Program(name.clone(), error))?;
    let workers = settings.workers.max(1);
    let bell = if workers > 1 { Waker::new().ok() } else { None };
    let crew =
        Crew { settings, program, wanted: AtomicU32::new(1), made: Mutex::default(), arp: Mutex::default(), bell };
    let crew = Arc::new(crew);
    if device.up {
        crew.make_patiently(device)?;
    }
    let lane = |worker| {
        let watched = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
        let mut lane = XdpLane {
            crew: Arc::clone(&crew),
            worker,
            devices: devices()?,
            link: Link { up: false, mac: device.mac, mtu: device.mtu, generation: 0 },
            share: None,
            lent: (Source::Box, 0),
            next: 0,
            boxed: Vec::with_capacity(ARP_MAX),
            watched: watched.map_err(|error| NoXdpLane::Io(name.clone(), error.into()))?,
            told_lost: 0,
        };
        if device.up {
            lane.fetch(device);
        }
        Ok(lane)
    };
    (0..workers).map(lane).collect()
}

/// Adds `fd` to what is watched.
pub(super) fn watch(epoll: &Epoll, fd: BorrowedFd<'_>) -> io::Result<()> {
    match epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0)) {
        // The bell stays from one generation to the next.
        Err(nix::Error::EEXIST) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Crew {
    #[cfg(test)]
    pub(super) fn settings(&self) -> &XdpSettings {
        &self.settings
    }

    pub(super) fn device(&self) -> &str {
        &self.settings.device
    }

    pub(super) fn bell(&self) -> Option<&Waker> {
        self.bell.as_ref()
    }

    pub(super) fn mode(&self) -> &'static str {
        if self.settings.generic { "xdp generic" } else { "xdp" }
    }

    pub(super) fn steer(&self) -> &'static str {
        match &self.lock().steering {
            Some(Steering::Rules { .. }) => "ntuple",
            Some(Steering::Hash { .. }) => "rss",
            None => "handoff",
        }
    }

    /// Decisions of the program, and what there is to say.
    pub(super) fn tell(&self) -> (Vec<(&'static str, u64)>, Vec<String>) {
        let decisions = self.program.counts().map(list).unwrap_or_default();
        (decisions, [&self.settings.remarks[..], &self.lock().remarks].concat())
    }

    /// Gives a frame with ARP to the first worker.
    pub(super) fn put_arp(&self, frame: &[u8]) {
        let Some(bell) = &self.bell else { return };
        let Some(frame) = frame.first_chunk() else { return };
        let mut waiting = self.arp.lock().unwrap_or_else(PoisonError::into_inner);
        // Who asks and gets no answer asks again.
        if waiting.len() < ARP_MAX {
            waiting.push_back(*frame);
            bell.wake();
        }
    }

    /// Takes what others have put.
    pub(super) fn take_arp(&self, into: &mut Vec<ArpFrame>) {
        let Some(bell) = &self.bell else { return };
        bell.drain();
        into.extend(self.arp.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `share` is still what it should be on `device`.
    pub(super) fn is_current(&self, share: &Share, device: Device) -> bool {
        share.device == device.index && share.generation == self.wanted.load(Relaxed)
    }

    pub(super) fn give_back(&self, share: Share) {
        // First the sockets, then the word that their queues are free.
        drop(share);
        self.lock().out -= 1;
    }

    /// The part of `worker`; makes all if nobody has yet. `None`: not now, come again.
    pub(super) fn fetch(&self, worker: usize, device: Device) -> Option<Share> {
        let mut made = match self.made.try_lock() {
            Ok(made) => made,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another worker is at it.
            Err(TryLockError::WouldBlock) => return None,
        };
        let is_current = made.device == device.index && made.generation == self.wanted.load(Relaxed);
        if !is_current {
            if made.out > 0 {
                return None;
            }
            if let Err(error) = self.make(&mut made, device) {
                self.remark(&mut made, error.to_string());
                return None;
            }
        }
        let share = made.shares.get_mut(worker).and_then(Option::take)?;
        made.out += 1;
        Some(share)
    }

    /// Whether everything on `device` is as it should be, and mends what is not.
    pub(super) fn inspect(&self, device: Device) {
        let mut made = self.lock();
        let is_made = made.generation == self.wanted.load(Relaxed);
        if !is_made {
            return;
        }
        if made.device != device.index {
            self.wanted.fetch_add(1, Relaxed);
            return;
        }
        if made.mac != Some(device.mac) {
            match self.program.configure(&self.steering(device.mac)) {
                Ok(()) => made.mac = Some(device.mac),
                Err(error) => {
                    self.remark(&mut made, format!("the XDP program does not learn the card's address: {error}"))
                }
            }
        }
        match nic::queues(&self.settings.device) {
            Ok(queues) if queues_of(queues) != made.queues => {
                tracing::info!(device = self.device(), queues = queues.rx, "the device has another number of queues");
                self.wanted.fetch_add(1, Relaxed);
                return;
            }
            Ok(_) | Err(_) => {}
        }
        if made.link.as_ref().is_some_and(XdpLink::is_attached) {
            return;
        }
        match self.attach(device.index) {
            Ok(link) => {
                tracing::warn!(device = self.device(), "the XDP program was taken off the device; it is on it again");
                made.link = Some(link);
                made.remarks.clear();
            }
            Err(error) => self.remark(&mut made, error.to_string()),
        }
    }

    /// Keeps what keeps a lane down, and tells the log once.
    fn remark(&self, made: &mut Made, text: String) {
        if !made.remarks.contains(&text) {
            tracing::error!(device = self.device(), "{text}; the lane is down until that changes");
            made.remarks = vec![text];
        }
    }

    fn attach(&self, index: u32) -> Result<XdpLink, NoXdpLane> {
        let mode = if self.settings.generic { XdpMode::Generic } else { XdpMode::Native };
        self.program.attach(index, mode).map_err(|error| {
            let name = self.settings.device.clone();
            match netlink::link(&name).map(|link| link.xdp) {
                Ok(Some(other)) if matches!(error, NoXdp::Occupied(_)) => {
                    let program = bpf::program_name(other.id).unwrap_or_else(|| UNTOLD.into());
                    NoXdpLane::Occupied(name, program, other.id)
                }
                _ => NoXdpLane::Program(name, error),
            }
        })
    }

    /// Opens everything on `device`, which is up, also if the process before this one has only just been killed.
    fn make_patiently(&self, device: Device) -> Result<(), NoXdpLane> {
        let mut made = self.lock();
        for _ in 0..FREED_WITHIN {
            match self.make(&mut made, device) {
                Err(error) if error.may_pass() => thread::sleep(FREED_LOOK),
                done => return done,
            }
        }
        self.make(&mut made, device)
    }

    /// Opens everything on `device`, which is up; all queues are free.
    fn make(&self, made: &mut Made, device: Device) -> Result<(), NoXdpLane> {
        let name = &self.settings.device;
        let io = |error| NoXdpLane::Io(name.clone(), error);
        let generation = self.wanted.load(Relaxed);
        made.shares.clear();
        made.remarks.clear();
        self.program.configure(&self.steering(device.mac)).map_err(io)?;
        made.mac = Some(device.mac);
        let queues = queues_of(nic::queues(name).map_err(io)?);
        // First the program: drivers give queues their rings for it, and a queue without socket drops what is ours. A
        // queue that is new may come without what the program needs there, so it is put on again.
        let is_attached = made.link.as_ref().is_some_and(XdpLink::is_attached);
        if !is_attached || (made.device, made.queues) != (device.index, queues) {
            let had_tso = nic::tso(name).unwrap_or(false);
            made.link = None;
            made.link = Some(self.attach(device.index)?);
            made.has_lost_tso = had_tso && !nic::tso(name).unwrap_or(had_tso);
        }
        if made.has_lost_tso {
            made.remarks.push(LOST_TSO.into());
        }
        let mut shares = self.open_queues(device.index, queues, generation)?;
        for gone in queues..made.queues {
            // The kernel has emptied the place when the socket was closed.
            let _ = self.program.clear_socket(gone);
        }
        if self.settings.asks_for_host {
            shares[0].ears = Some(self.ears(device.index).map_err(io)?);
        }
        made.steering = None;
        made.steering = match self.steer_to(queues) {
            Err(error) if self.settings.steer_or_fail => return Err(error.into()),
            Err(error) => {
                tracing::warn!(device = self.device(), "{error}; packets are handed from worker to worker");
                made.remarks.push(error.to_string());
                None
            }
            Ok(steering) => steering,
        };
        made.shares = shares.into_iter().map(Some).collect();
        (made.generation, made.device, made.queues) = (generation, device.index, queues);
        Ok(())
    }

    /// Tells the card which packets go to which of `queues`: to those of the worker that has their port.
    fn steer_to(&self, queues: u32) -> Result<Option<Steering>, NoSteering> {
        let LaneFilter { addresses, slices, statics, .. } = &self.settings.filter;
        let queue_of = |worker: usize| u32::try_from(worker).unwrap_or(0) % queues;
        match self.settings.steer {
            LaneSteer::Auto | LaneSteer::Handoff => Ok(None),
            LaneSteer::Rss => Ok(Some(Steering::Hash { _hash: DestinationHash::set(self.device())? })),
            LaneSteer::Ntuple => {
                let slices = slices.iter().enumerate().filter(|(_, ports)| !ports.is_empty());
                let ranges = slices.flat_map(|(worker, ports)| {
                    let to = move |address: &Ipv4Addr| PortsToQueue {
                        address: *address,
                        ports: ports.clone(),
                        queue: queue_of(worker),
                    };
                    addresses.iter().map(to)
                });
                let single = statics.iter().map(|fixed| PortsToQueue {
                    address: fixed.address,
                    ports: fixed.port..=fixed.port,
                    queue: queue_of(fixed.worker),
                });
                let wanted: Vec<_> = single.chain(ranges).collect();
                Ok(Some(Steering::Rules { _rules: NtupleRules::install(self.device(), &wanted)? }))
            }
        }
    }

    fn open_queues(&self, index: u32, queues: u32, generation: u32) -> Result<Vec<Share>, NoXdpLane> {
        let workers = self.settings.workers.max(1);
        let dealt = usize::try_from(queues).unwrap_or(usize::MAX);
        let share = |worker: usize| Share {
            generation,
            device: index,
            queues: Vec::new(),
            numbers: Vec::new(),
            ears: None,
            relay: (worker >= dealt).then(|| worker % dealt),
        };
        let mut shares: Vec<Share> = (0..workers).map(share).collect();
        for (queue, worker) in (0..queues).zip((0..workers).cycle()) {
            let refused = |error| NoXdpLane::Socket(self.settings.device.clone(), queue, error);
            let socket = Xsk::open(&self.options(index, queue)).map_err(refused)?;
            let placed = self.program.set_socket(queue, socket.as_fd());
            placed.map_err(|error| NoXdpLane::Io(self.settings.device.clone(), error))?;
            shares[worker].queues.push(socket);
            shares[worker].numbers.push(queue);
        }
        Ok(shares)
    }

    fn options(&self, ifindex: u32, queue: u32) -> XskOptions {
        XskOptions {
            ifindex,
            queue,
            copying: self.settings.copying,
            rx_chunks: RX_CHUNKS,
            tx_chunks: TX_CHUNKS,
            chunk_bytes: CHUNK_BYTES,
            busy_poll: self.settings.busy_poll,
            trust_driver_checksum: self.settings.tx_checksum,
        }
    }

    fn ears(&self, index: u32) -> io::Result<PacketSocket> {
        let options =
            Options { receive_bytes: EARS_BYTES, send_bytes: EARS_BYTES, frames: ARP_MAX, qdisc_bypass: false };
        let ears = PacketSocket::open(index, options)?;
        ears.set_filter(&self.settings.filter.ears().classic(Base::Ethernet)?)?;
        Ok(ears)
    }

    fn steering(&self, mac: Mac) -> bpf::XdpSettings {
        let filter = &self.settings.filter;
        bpf::XdpSettings {
            dedicated: filter.dedicated,
            vlan: 0,
            mac,
            addresses: filter.addresses.clone(),
            ports: filter.slices.iter().filter(|slice| !slice.is_empty()).cloned().collect(),
            statics: filter.statics.iter().map(|port| (port.protocol, port.address, port.port)).collect(),
            dropped_sources: Vec::new(),
        }
    }
}

/// By name, as the operator reads them.
fn list(counts: XdpCounts) -> Vec<(&'static str, u64)> {
    let XdpCounts { passed, malformed, listed_source, no_socket, tcp, udp, icmp, other_protocol, fragment, arp } =
        counts;
    vec![
        ("passed", passed),
        ("malformed", malformed),
        ("listed_source", listed_source),
        ("no_socket", no_socket),
        ("tcp", tcp),
        ("udp", udp),
        ("icmp", icmp),
        ("other_protocol", other_protocol),
        ("fragment", fragment),
        ("arp", arp),
    ]
}

fn queues_of(queues: nic::Queues) -> u32 {
    queues.rx.clamp(1, bpf::QUEUES_MAX)
}

/// Names of programs are not for everybody.
const UNTOLD: &str = "?";
const LOST_TSO: &str = "the device has no TSO while the XDP program is on it: the host's own TCP costs more";
/// The kernel takes some milliseconds to free what a process had that was killed; many more while it is busy.
const FREED_WITHIN: u32 = 20;
/// Distance of two looks at it.
const FREED_LOOK: Duration = Duration::from_millis(100);
/// What arrives in 2 ms at two million packets a second.
const RX_CHUNKS: u32 = 4096;
/// Several bursts: a NIC that copies nothing gives chunks back when it has sent them.
const TX_CHUNKS: u32 = 2048;
/// A frame of 1,514 bytes with the kernel's 256 in front; longer ones take several.
const CHUNK_BYTES: u32 = 2048;
/// ARP that waits for the first worker.
const ARP_MAX: usize = 64;
/// A few hundred frames with ARP.
const EARS_BYTES: usize = 256 << 10;
