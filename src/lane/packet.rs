//! Packet sockets as a lane: the back end for virtual devices, and the one that works on any.
//!
//! [`open`] makes one socket for each worker, all at once and in their order, and keeps the host's stack away from what
//! they get. If the device is deleted and made again under the same name, the first lane that sees it opens everything
//! anew for all; the others fetch theirs. A device that only goes down and up again keeps its sockets.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::filter::LaneFilter;
use super::merge::{L4Place, Outgoing, TxBurst};
use super::report::LaneReport;
use super::{LaneIo, Link, SendFault};
use crate::sys::bpf::{Base, Classic};
use crate::sys::netdev::{Device, Devices};
use crate::sys::packet::{Options, PacketSocket};
use crate::sys::tc::{HostGuard, NoGuard};
use crate::sys::vnet::{Segments, VnetHeader};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{HEADER_BYTES, Mac};
use crate::wire::offload::{L4Checksum, Offload};
use crate::wire::tcp;

/// How to open lanes on a device.
#[derive(Clone, Debug)]
pub struct PacketSettings {
    /// Name of the device.
    pub device: String,
    /// What comes to the lanes.
    pub filter: LaneFilter,
    /// How many lanes.
    pub workers: usize,
    /// Bytes that may wait in front of each lane, as the kernel counts them (a super-packet counts about 70 KiB).
    pub receive_bytes: usize,
    /// Past the queueing discipline of the device: a little cheaper, but without its fairness, and invisible for tcpdump.
    pub qdisc_bypass: bool,
}

/// Why there is no lane.
#[derive(Debug, thiserror::Error)]
pub enum NoLane {
    /// No such device, or no Ethernet.
    #[error("device \"{0}\" cannot carry a lane: {1}; `ip link` lists those there are")]
    Device(String, io::Error),
    /// The host would answer.
    #[error("{0}")]
    Guard(#[from] NoGuard),
    /// No socket.
    #[error("a packet socket on device \"{0}\" is refused ({1}): CAP_NET_RAW is needed, or root")]
    Socket(String, io::Error),
}

/// Makes the lanes of all workers, in their order. A device that is down opens them when it comes up.
///
/// # Errors
/// Without the device or the rights.
pub fn open(settings: PacketSettings) -> Result<Vec<PacketLane>, NoLane> {
    let devices = || Devices::new().map_err(|error| NoLane::Device(settings.device.clone(), error));
    let device = devices()?.find(&settings.device).map_err(|e| NoLane::Device(settings.device.clone(), e))?;
    let workers = settings.workers.max(1);
    let mut links = Vec::new();
    for _ in 0..workers {
        links.push(devices()?);
    }
    let crew = Arc::new(Crew { settings, made: Mutex::new(Made::default()) });
    let mut made = crew.lock();
    crew.make(&mut made, device)?;
    drop(made);
    let lane = |(worker, devices)| {
        let mut made = crew.lock();
        let socket = made.sockets.get_mut(worker).and_then(Option::take);
        let link = link_of(device, made.generation, socket.is_some());
        PacketLane { crew: Arc::clone(&crew), worker, devices, socket, device: made.device, link, frames: FRAMES }
    };
    Ok(links.into_iter().enumerate().map(lane).collect())
}

/// One worker's socket. See the module text.
#[derive(Debug)]
pub struct PacketLane {
    crew: Arc<Crew>,
    worker: usize,
    devices: Devices,
    socket: Option<PacketSocket>,
    /// Index of the device that `socket` belongs to; 0: none.
    device: u32,
    link: Link,
    /// Frames to ask for at once, by what came last.
    frames: usize,
}

/// What the lanes of a device share. Locked only when a device is opened.
#[derive(Debug)]
struct Crew {
    settings: PacketSettings,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    generation: u32,
    device: u32,
    /// By worker; those that were not fetched yet.
    sockets: Vec<Option<PacketSocket>>,
    _guard: Option<HostGuard>,
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens everything on `device`. What was opened before goes only if that works. A device that is down takes a guard
    /// and a socket, which tells about rights, but none can join a group there: they are closed again.
    fn make(&self, made: &mut Made, device: Device) -> Result<(), NoLane> {
        let refused = |error| NoLane::Socket(self.settings.device.clone(), error);
        let filter = &self.settings.filter;
        // First the guard: what our sockets get, the host shall not have seen.
        let guard = HostGuard::attach(&filter.host(), device.index)?;
        let takes = filter.socket().classic(Base::Ethernet).map_err(refused)?;
        let steer = filter.steer().classic(Base::Network).map_err(refused)?;
        if !device.up {
            return PacketSocket::open(device.index, self.options()).map(drop).map_err(refused);
        }
        let sockets = self.sockets(device.index, &takes, &steer).map_err(refused)?;
        *made = Made { generation: made.generation + 1, device: device.index, sockets, _guard: Some(guard) };
        Ok(())
    }

    fn options(&self) -> Options {
        let PacketSettings { receive_bytes, qdisc_bypass, .. } = self.settings;
        Options { receive_bytes, send_bytes: SEND_BYTES, frames: FRAMES, qdisc_bypass }
    }

    fn sockets(&self, index: u32, takes: &Classic, steer: &Classic) -> io::Result<Vec<Option<PacketSocket>>> {
        let (workers, options) = (self.settings.workers, self.options());
        let (mut sockets, mut group) = (Vec::new(), None);
        for _ in 0..workers.max(1) {
            let socket = PacketSocket::open(index, options)?;
            if workers > 1 {
                group = Some(socket.join(group, steer)?);
            }
            sockets.push(Some(socket));
        }
        // All have their places: now frames may come.
        for socket in sockets.iter().flatten() {
            socket.set_filter(takes)?;
        }
        Ok(sockets)
    }
}

impl PacketLane {
    /// Fetches our socket on `device`, which is up; makes all if nobody has yet.
    fn fetch(&mut self, device: Device) -> bool {
        let crew = Arc::clone(&self.crew);
        let mut made = match crew.made.try_lock() {
            Ok(made) => made,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another worker is making them; the next look will find ours.
            Err(TryLockError::WouldBlock) => return false,
        };
        if made.device != device.index && crew.make(&mut made, device).is_err() {
            // Gone or down again in between, or out of memory: the next look tries once more.
            return false;
        }
        self.socket = made.sockets.get_mut(self.worker).and_then(Option::take);
        self.device = made.device;
        self.link = link_of(device, made.generation, self.socket.is_some());
        true
    }
}

impl LaneIo for PacketLane {
    fn link(&self) -> Link {
        self.link
    }

    fn look(&mut self) -> bool {
        match self.devices.find(&self.crew.settings.device) {
            Ok(device) if device.index == self.device => {
                self.link = link_of(device, self.link.generation, device.up && self.socket.is_some());
                false
            }
            Ok(device) if device.up => {
                self.link.up = false;
                self.fetch(device)
            }
            _ => {
                self.link.up = false;
                false
            }
        }
    }

    fn receive(&mut self, frames_max: usize) -> io::Result<usize> {
        let Some(socket) = &mut self.socket else { return Ok(0) };
        let (frames, bytes) = socket.receive(frames_max.min(self.frames))?;
        self.frames = if bytes > frames * LARGE_BYTES { FRAMES_LARGE } else { FRAMES };
        Ok(frames)
    }

    #[inline]
    fn peek(&self, index: usize) -> Option<&[u8]> {
        self.socket.as_ref()?.peek(index)
    }

    #[inline]
    fn frame(&mut self, index: usize) -> Option<(&mut [u8], Offload)> {
        let (header, frame) = self.socket.as_mut()?.frame(index)?;
        let offload = offload_of(header, frame)?;
        Some((frame, offload))
    }

    fn send(&mut self, burst: &TxBurst, from: usize) -> (usize, Option<SendFault>) {
        let Some(socket) = &mut self.socket else { return (0, Some(SendFault::Down)) };
        let mut at = from;
        let (sent, error) = socket.send(|| {
            let message = burst.message(at)?;
            at += 1;
            Some((header_of(&message), message.pieces()))
        });
        (sent, error.map(|error| fault_of(&error)))
    }

    fn takes_super_packets(&self) -> bool {
        true
    }

    fn overflowed(&mut self) -> u64 {
        self.socket.as_ref().map_or(0, PacketSocket::overflowed)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    fn report(&self) -> LaneReport {
        LaneReport { mode: "packet", steer: "fanout", ..LaneReport::default() }
    }
}

pub(super) fn link_of(device: Device, generation: u32, up: bool) -> Link {
    let Device { mac, mtu, .. } = device;
    Link { up: up && mac != Mac([0; 6]), mac, mtu, generation }
}

pub(super) fn fault_of(error: &io::Error) -> SendFault {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => SendFault::Full,
        Some(libc::ENOBUFS) => SendFault::Congested,
        Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => SendFault::Down,
        _ => SendFault::Refused,
    }
}

/// What is left to do on a frame that came in; `None` if it cannot be told in our terms.
#[inline]
pub(crate) fn offload_of(header: VnetHeader, frame: &mut [u8]) -> Option<Offload> {
    let segment_bytes = match header.segments {
        Segments::None => 0,
        Segments::Tcp4 | Segments::Udp => header.segment_bytes,
        Segments::Tcp6 | Segments::Other => return None,
    };
    if !header.needs_checksum {
        return Some(Offload { checksum: L4Checksum::Complete, segment_bytes });
    }
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    let expected = L4Place::of(frame.get(HEADER_BYTES..)?);
    if expected.is_some_and(|l4| (l4.at, l4.checksum_at) == (start - HEADER_BYTES.min(start), field - start)) {
        return Some(Offload { checksum: L4Checksum::Partial, segment_bytes });
    }
    // The checksum of something inside, as of a tunnel that ends here: finished at once, and nobody needs to know.
    if segment_bytes > 0 || field + 2 > frame.len() {
        return None;
    }
    let checksum = Sum::ZERO.bytes(&frame[start..]).finish();
    frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    Some(Offload::NONE)
}

/// What is left to do on a frame that goes out.
#[inline]
pub(crate) fn header_of(message: &Outgoing<'_>) -> VnetHeader {
    let offload = message.offload();
    if offload == Offload::NONE {
        return VnetHeader::default();
    }
    let Some(l4) = message.l4() else { return VnetHeader::default() };
    let word = |value: usize| u16::try_from(value).unwrap_or(0);
    let segments = match (offload.segment_bytes, l4.protocol) {
        (0, _) => Segments::None,
        (_, tcp::PROTOCOL) if l4.is_v6 => Segments::Tcp6,
        (_, tcp::PROTOCOL) => Segments::Tcp4,
        _ => Segments::Udp,
    };
    VnetHeader {
        needs_checksum: offload.checksum == L4Checksum::Partial,
        segments,
        header_bytes: word(HEADER_BYTES + l4.headers()),
        segment_bytes: offload.segment_bytes,
        checksum_start: word(HEADER_BYTES + l4.at),
        checksum_offset: word(l4.checksum_at),
    }
}

/// Frames of one system call.
const FRAMES: usize = 32;
/// The same if they are super-packets: they shall be in the cache still when they are sent on.
const FRAMES_LARGE: usize = 8;
/// Frames longer than this on average are large.
const LARGE_BYTES: usize = 16 * 1024;
/// A burst fits, as the kernel counts it.
const SEND_BYTES: usize = 4 * 1024 * 1024;
