//! AF_XDP sockets as a lane: packets pass between the NIC's queues and our memory, and the host's stack never sees them.
//!
//! The XDP program (`xdp/lane.c`) redirects what belongs to the lane to the socket of the queue it came on. Queues are
//! dealt out to the workers in turn; a worker without one gives what it has to send to another ([`LaneIo::relay`]), and
//! what arrives on the queue of a worker that does not own the public port crosses over by mailbox, as the NAT asks.
//!
//! ARP for dedicated addresses comes by the queues like everything else, and is given to the first worker, which speaks
//! for the addresses. Answers to the host's address, where we ask in its name, go to the host; a packet socket hears them.
//!
//! There are no super-packets here. Frames of a virtual device come with unfinished checksums and nothing says which
//! do; but a finished checksum that is right equals what finishing gives, so one that *looks* begun may be finished in
//! any case.
//!
//! Sockets are opened, and opened anew when the device changes, by the crew of all workers (`crew.rs`).
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::epoll::Epoll;

use super::merge::{L4Place, TxBurst};
use super::packet::{fault_of, link_of};
use super::report::{LaneReport, QueueReport};
use super::{LaneIo, Link, SendFault};
use crate::sys::netdev::{Device, Devices};
use crate::sys::xsk::{TxRefused, Xsk};
use crate::wire::ethernet::{Frame, HEADER_BYTES};
use crate::wire::offload::{L4Checksum, Offload};
use crate::wire::{arp, vlan};

mod crew;

#[cfg(test)]
mod tests;

use crew::{ArpFrame, Crew, Share};
pub use crew::{LOCKED_BYTES_PER_QUEUE, NoXdpLane, XdpSettings, open};

/// One worker's sockets. See the module text.
#[derive(Debug)]
pub struct XdpLane {
    crew: Arc<Crew>,
    worker: usize,
    devices: Devices,
    link: Link,
    /// What the crew gave us; `None` while there is no device.
    share: Option<Share>,
    /// Where the frames lent now are, and how many.
    lent: (Source, usize),
    /// Where to look first next time: no source shall starve another.
    next: usize,
    /// ARP that other workers have received.
    boxed: Vec<ArpFrame>,
    /// All descriptors of `share`; it stays the same when those change.
    watched: Epoll,
    /// How long to poll after frames have come; none if the kernel does not let us.
    linger: Duration,
    /// Losses that were told already.
    told_lost: u64,
}

/// Where frames come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A queue, by its place among ours.
    Queue(usize),
    /// The packet socket that hears ARP.
    Ears,
    /// Other workers.
    Box,
}

impl XdpLane {
    /// The one that speaks for the addresses, and looks after the device for all.
    fn is_first(&self) -> bool {
        self.worker == 0
    }

    fn queues(&self) -> &[Xsk] {
        self.share.as_ref().map_or(&[], |share| &share.queues)
    }

    fn source(&self, at: usize) -> Option<Source> {
        let queues = self.queues().len();
        match at.checked_sub(queues) {
            None => Some(Source::Queue(at)),
            Some(0) => Some(Source::Ears),
            Some(1) => Some(Source::Box),
            Some(_) => None,
        }
    }

    fn receive_from(&mut self, source: Source, frames_max: usize) -> io::Result<usize> {
        let Some(share) = &mut self.share else { return Ok(0) };
        match source {
            Source::Queue(at) => share.queues[at].receive(frames_max),
            Source::Ears => share.ears.as_mut().map_or(Ok(0), |ears| Ok(ears.receive(frames_max)?.0)),
            Source::Box if self.worker == 0 => {
                self.boxed.clear();
                self.crew.take_arp(&mut self.boxed);
                Ok(self.boxed.len())
            }
            Source::Box => Ok(0),
        }
    }

    /// Gives everything back to the crew.
    fn release(&mut self) {
        self.link.up = false;
        self.lent.1 = 0;
        if let Some(share) = self.share.take() {
            self.crew.give_back(share);
        }
    }

    /// Fetches what is ours on `device`, which is up.
    fn fetch(&mut self, device: Device) {
        let Some(share) = self.crew.fetch(self.worker, device) else { return };
        let bells = self.crew.bell().filter(|_| self.is_first()).map(AsFd::as_fd);
        let sockets = share.queues.iter().map(AsFd::as_fd).chain(share.ears.as_ref().map(AsFd::as_fd));
        let watched: io::Result<()> = sockets.chain(bells).try_for_each(|fd| crew::watch(&self.watched, fd));
        if let Err(error) = watched {
            tracing::warn!(%error, "sockets of the lane cannot be watched; they are looked at now and then");
        }
        self.link = link_of(device, share.generation, true);
        self.told_lost = 0;
        let polls = share.queues.iter().any(|queue| queue.facts().busy_poll);
        self.linger = if polls { self.crew.linger() } else { Duration::ZERO };
        self.share = Some(share);
    }

    /// What the kernel would not take at the last attempt has another one.
    fn kick_what_waits(&mut self) {
        let queue = self.share.as_mut().and_then(|share| share.queues.first_mut());
        if let Some(queue) = queue.filter(|queue| queue.queued() > 0) {
            // A device that is down or gone is found out by looking at it.
            let _ = queue.kick();
        }
    }

    fn lost(&self) -> u64 {
        let lost = |queue: &Xsk| queue.statistics().map_or(0, |stats| stats.rx_dropped + stats.rx_ring_full);
        self.queues().iter().map(lost).sum()
    }
}

impl LaneIo for XdpLane {
    fn link(&self) -> Link {
        self.link
    }

    fn look(&mut self) -> bool {
        let device = match self.devices.find(self.crew.device()) {
            Ok(device) if device.up => device,
            Ok(device) if self.share.as_ref().is_some_and(|share| share.device == device.index) => {
                // It only went down: sockets and program stay with it.
                self.link = link_of(device, self.link.generation, false);
                return false;
            }
            _ => {
                self.release();
                return false;
            }
        };
        if self.is_first() {
            self.crew.inspect(device);
        }
        if let Some(share) = &self.share
            && share.queues.iter().any(|queue| queue.trouble().is_err())
        {
            // Its device went, and another one has its number.
            self.crew.renew(share);
        }
        match &self.share {
            Some(share) if self.crew.is_current(share, device) => {
                self.link = link_of(device, share.generation, self.crew.is_attached());
            }
            _ => {
                self.release();
                self.fetch(device);
            }
        }
        false
    }

    fn receive(&mut self, frames_max: usize) -> io::Result<usize> {
        self.kick_what_waits();
        let sources = self.queues().len() + 2;
        let mut fault = None;
        for _ in 0..sources {
            let at = self.next % sources;
            self.next = at + 1;
            let Some(source) = self.source(at) else { continue };
            match self.receive_from(source, frames_max.min(FRAMES)) {
                Ok(0) => {}
                Ok(frames) => {
                    self.lent = (source, frames);
                    return Ok(frames);
                }
                Err(error) => fault = Some(error),
            }
        }
        self.lent.1 = 0;
        // One source's trouble keeps nobody from the others.
        fault.map_or(Ok(0), Err)
    }

    #[inline]
    fn peek(&self, index: usize) -> Option<&[u8]> {
        match self.lent.0 {
            Source::Queue(at) => self.queues().get(at)?.peek(index),
            Source::Ears | Source::Box => None,
        }
    }

    #[inline]
    fn frame(&mut self, index: usize) -> Option<(&mut [u8], Offload)> {
        let Self { crew, share, boxed, worker, .. } = self;
        match self.lent.0 {
            Source::Queue(at) => {
                let frame = vlan::without_priority_tags(share.as_mut()?.queues.get_mut(at)?.frame(index)?);
                if *worker != 0 && Frame::new_checked(frame).is_some_and(|frame| frame.ethertype() == arp::ETHERTYPE) {
                    crew.put_arp(frame);
                }
                let offload = offload_of(frame);
                Some((frame, offload))
            }
            Source::Ears => {
                let (_, frame) = share.as_mut()?.ears.as_mut()?.frame(index)?;
                Some((frame, Offload::NONE))
            }
            Source::Box => Some((boxed.get_mut(index)?.as_mut_slice(), Offload::NONE)),
        }
    }

    fn send(&mut self, burst: &TxBurst, from: usize) -> (usize, Option<SendFault>) {
        let Some(share) = &mut self.share else { return (0, Some(SendFault::Down)) };
        if share.relay.is_some() {
            // Only what answers at once while the lane is being read comes here.
            return (0, Some(SendFault::Refused));
        }
        let Some(queue) = share.queues.first_mut() else { return (0, Some(SendFault::Down)) };
        let mut sent = 0;
        while let Some(message) = burst.message(from + sent) {
            let checksum = match message.offload().checksum {
                L4Checksum::Partial => message.l4().map(|l4| (HEADER_BYTES + l4.at, l4.checksum_at)),
                L4Checksum::Complete | L4Checksum::Untrusted => None,
            };
            let mut pushed = queue.push(message.frame_bytes(), message.pieces(), checksum);
            if pushed == Err(TxRefused::Full) {
                if let Err(error) = queue.kick() {
                    return (sent, Some(fault_of(&error)));
                }
                pushed = queue.push(message.frame_bytes(), message.pieces(), checksum);
            }
            match pushed {
                Ok(()) => sent += 1,
                Err(TxRefused::Full) => return (sent, Some(SendFault::Full)),
                Err(TxRefused::TooLong | TxRefused::TooShort) => return (sent, Some(SendFault::Refused)),
            }
        }
        match queue.kick() {
            Ok(()) => (sent, None),
            Err(error) => (sent, Some(fault_of(&error)).filter(|fault| *fault == SendFault::Down)),
        }
    }

    fn takes_super_packets(&self) -> bool {
        false
    }

    fn overflowed(&mut self) -> u64 {
        let lost = self.lost();
        let more = lost.saturating_sub(self.told_lost);
        self.told_lost = lost;
        more
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.watched.0.as_fd())
    }

    fn linger(&self) -> Duration {
        self.linger
    }

    #[inline]
    fn relay(&self) -> Option<usize> {
        self.share.as_ref()?.relay
    }

    fn report(&self) -> LaneReport {
        let queue = |(queue, number): (&Xsk, &u32)| {
            let stats = queue.statistics().unwrap_or_default();
            QueueReport {
                queue: *number,
                zero_copy: queue.facts().zero_copy,
                why_copy: queue.facts().why_copy.clone(),
                ring_drops: stats.rx_dropped + stats.rx_ring_full,
                starved: stats.rx_no_chunk,
                bad_descriptors: stats.bad_descriptors + stats.rx_invalid + stats.tx_invalid,
            }
        };
        let numbers = self.share.as_ref().map_or(&[][..], |share| &share.numbers);
        let (decisions, remarks) = if self.is_first() { self.crew.tell() } else { Default::default() };
        LaneReport {
            mode: self.crew.mode(),
            steer: self.crew.steer(),
            queues: self.queues().iter().zip(numbers).map(queue).collect(),
            relay: self.relay(),
            decisions,
            remarks,
        }
    }
}

impl Drop for XdpLane {
    fn drop(&mut self) {
        self.release();
    }
}

/// What is left to do on a frame that came in: whether the checksum looks like one that was only begun.
#[inline]
fn offload_of(frame: &[u8]) -> Offload {
    let begun = || {
        let ip = crate::wire::ipv4::Ipv4::new_checked(frame.get(HEADER_BYTES..)?)?;
        let packet = ip.whole()?;
        Some(L4Place::of(packet)?.is_begun(packet))
    };
    match begun() {
        Some(true) => Offload { checksum: L4Checksum::Partial, segment_bytes: 0 },
        _ => Offload::NONE,
    }
}

/// Frames of one call: chunks go back to the kernel with the next, and it wants to have some.
const FRAMES: usize = 64;
