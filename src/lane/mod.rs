//! The lane: how packets of members leave for the Internet and come back, past the host's own stack.
//!
//! Each worker has one end, a [`Lane`] over a [`LaneIo`]: AF_XDP sockets (`xdp.rs`), packet sockets (`packet.rs`), or
//! memory for tests (`mem.rs`). Packets are IPv4, from the IP header on; everything below it is the lane's own business.
//!
//! Out: [`Lane::push`] finds the next hop's card (`uplink.rs`, `neighbours.rs`) and copies the packet into the burst
//! under construction (`merge.rs`); [`Lane::flush`] sends the burst and never waits: what the device does not take is
//! dropped and counted. In: [`Lane::receive`] lends packets where the kernel has put them; they may be super-packets of
//! 64 KiB with unfinished checksums, which `cut.rs` makes digestible for members.
//!
//! Without a link everything is dropped and counted until [`Lane::poll`] sees the link come back.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::tick::Tick;
use crate::wire::arp::{self, Arp};
use crate::wire::ethernet::{Frame, HEADER_BYTES, Mac};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::offload::{L4Checksum, Offload};

use self::merge::{L4Place, TxBurst};
use self::outlet::Outlet;
use self::report::LaneReport;
use self::uplink::{Conflict, Shared, Uplink, UplinkSettings};

pub mod any;
pub mod choice;
pub mod cut;
pub mod filter;
pub mod mem;
pub mod merge;
pub mod neighbours;
pub mod outlet;
pub mod packet;
pub mod report;
pub mod uplink;
pub mod xdp;

#[cfg(test)]
mod tests;

/// A back end: one worker's frames from and to a device.
pub trait LaneIo {
    /// The device as [`Self::look`] saw it last.
    fn link(&self) -> Link;

    /// Looks at the device again and opens it again if it is another one of the same name. True if the descriptor of
    /// [`Self::fd`] is another one now.
    fn look(&mut self) -> bool;

    /// Receives what has arrived, at most `frames_max` frames; how many. They are lent by [`Self::frame`] until the
    /// next call. Never waits.
    ///
    /// # Errors
    /// If the device is down or gone.
    fn receive(&mut self, frames_max: usize) -> io::Result<usize>;

    /// The bytes of received frame number `index`, to look at.
    fn peek(&self, index: usize) -> Option<&[u8]>;

    /// Received frame number `index`, as long as it is whole and can be told apart.
    fn frame(&mut self, index: usize) -> Option<(&mut [u8], Offload)>;

    /// Sends the messages of `burst` from number `from` on; how many, and why not the next. Never waits.
    fn send(&mut self, burst: &TxBurst, from: usize) -> (usize, Option<SendFault>);

    /// Whether super-packets and unfinished checksums may be sent.
    fn takes_super_packets(&self) -> bool;

    /// Frames that were lost because the back end's queue was full, since it was last asked.
    fn overflowed(&mut self) -> u64;

    /// What becomes readable when frames have arrived, or the device has gone down.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// How long to go on asking after frames have come, without sleep in between.
    fn linger(&self) -> Duration {
        Duration::ZERO
    }

    /// The worker that sends for this one, whose end has no queue of the device.
    fn relay(&self) -> Option<usize> {
        None
    }

    /// What the operator wants to know of it.
    fn report(&self) -> LaneReport;
}

/// Takes what a lane has received.
pub trait PacketSink {
    /// What [`Self::packet`] is about to bring, some dozens at once, from the IP header on and padded as they came: for
    /// what can be fetched for all of them together.
    fn announce<'p>(&mut self, _packets: impl Iterator<Item = &'p [u8]>) {}

    /// A packet, exactly as long as its header says, and an [`Outlet`] for what is to be sent at once.
    fn packet(&mut self, outlet: &mut Outlet, packet: &mut [u8], offload: Offload);
}

impl<F: FnMut(&mut Outlet, &mut [u8], Offload)> PacketSink for F {
    fn packet(&mut self, outlet: &mut Outlet, packet: &mut [u8], offload: Offload) {
        self(outlet, packet, offload);
    }
}

/// State of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Frames can pass.
    pub up: bool,
    /// Address of the card.
    pub mac: Mac,
    /// Longest packet that can be sent.
    pub mtu: usize,
    /// Another number for another device of the same name.
    pub generation: u32,
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFault {
    /// The socket takes no more now.
    Full,
    /// The queue of the device did not take this one.
    Congested,
    /// The kernel refuses this one.
    Refused,
    /// The device is down or gone.
    Down,
}

/// What [`Lane::receive`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Frames taken.
    pub frames: usize,
    /// More may wait, or are to be looked for without sleeping.
    pub more: bool,
}

/// What [`Lane::poll`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// When to come again.
    pub next: Tick,
    /// [`Lane::fd`] is another descriptor now.
    pub fd_changed: bool,
}

/// Plain counts of one lane; drops are in frames or packets (a super-packet is one).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Packets handed up.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Of those, super-packets.
    pub received_super: u64,
    /// Frames sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Of those, super-packets.
    pub sent_super: u64,
    /// Packets that were merged into one before them.
    pub merged: u64,
    /// Times the link went down.
    pub link_downs: u64,
    /// Signs that somebody else uses an address of ours.
    pub conflicts: u64,
    /// Requests for the card of a next hop.
    pub arp_asked: u64,
    /// Dropped: the device or its socket took no more.
    pub drop_tx_full: u64,
    /// Dropped: the link was down.
    pub drop_tx_down: u64,
    /// Dropped: the kernel refused the frame.
    pub drop_tx_refused: u64,
    /// Dropped: longer than the device's MTU.
    pub drop_tx_too_long: u64,
    /// Dropped: no whole IPv4 packet.
    pub drop_tx_malformed: u64,
    /// Dropped: the source address is still being probed, or somebody else has it.
    pub drop_tx_unclaimed: u64,
    /// Dropped: no route.
    pub drop_tx_no_route: u64,
    /// Dropped: the next hop did not answer.
    pub drop_tx_no_neighbour: u64,
    /// Dropped: too many packets wait for answers of next hops.
    pub drop_tx_waiting_full: u64,
    /// Dropped by the kernel: we read too slowly.
    pub drop_rx_overflow: u64,
    /// Dropped: cut off, or no whole IPv4 packet.
    pub drop_rx_malformed: u64,
    /// Dropped: neither IPv4 nor ARP.
    pub drop_rx_foreign: u64,
}

/// One worker's end. See the module text.
#[derive(Debug)]
pub struct Lane<Io> {
    io: Io,
    out: Outlet,
    uplink_speaks: bool,
    look_due: Tick,
    /// Until then frames are looked for.
    linger_until: Tick,
    last_conflict: Option<Conflict>,
}

impl<Io: LaneIo> Lane<Io> {
    /// Worker number `worker`'s end; the first speaks for the addresses. `shared` is of the same settings for all.
    pub fn new(io: Io, settings: UplinkSettings, shared: Arc<Shared>, worker: usize, seed: u64, now: Tick) -> Self {
        let speaks = worker == 0;
        let uplink = Uplink::new(settings, speaks, seed, now);
        let burst = TxBurst::new(BURST_BYTES, io.takes_super_packets());
        let out = Outlet::new(uplink, shared, io.link(), burst);
        Self { io, out, uplink_speaks: speaks, look_due: now, linger_until: now, last_conflict: None }
    }

    /// Takes at most `packets_max` packets that have arrived. What `sink` sends at once leaves with the next
    /// [`Self::flush`].
    pub fn receive(&mut self, packets_max: usize, now: Tick, sink: &mut impl PacketSink) -> Received {
        let mut received = Received::default();
        while received.frames < packets_max {
            if self.out.burst.is_half_full() {
                self.flush(now);
            }
            let wanted = packets_max - received.frames;
            let Ok(frames) = self.io.receive(wanted) else {
                self.look_due = now;
                return received;
            };
            for index in 0..frames {
                if index.is_multiple_of(ANNOUNCED) {
                    let batch = index..frames.min(index + ANNOUNCED);
                    sink.announce(batch.filter_map(|at| self.io.peek(at)?.get(HEADER_BYTES..)));
                }
                if self.out.burst.is_half_full() {
                    self.flush(now);
                }
                match self.io.frame(index) {
                    Some((frame, offload)) => {
                        let conflict = take_frame(&mut self.out, frame, offload, now, sink);
                        self.last_conflict = conflict.or(self.last_conflict);
                    }
                    None => self.out.stats.drop_rx_malformed += 1,
                }
            }
            received.frames += frames;
            if frames == 0 {
                if received.frames > 0 {
                    self.linger_until = now + self.io.linger();
                }
                received.more = now < self.linger_until;
                return received;
            }
        }
        received.more = true;
        received
    }

    /// Takes an IPv4 packet, exactly as long as its header says, to be sent with the next [`Self::flush`] at the latest.
    #[inline]
    pub fn push(&mut self, packet: &[u8], offload: Offload, now: Tick) {
        if self.out.burst.is_half_full() {
            self.flush(now);
        }
        self.out.push(packet, offload, now);
    }

    /// Sends what waits.
    pub fn flush(&mut self, now: Tick) {
        if self.out.burst.is_empty() {
            return;
        }
        self.out.burst.seal();
        let (count, mut at) = (self.out.burst.len(), 0);
        while at < count {
            let (sent, fault) = self.io.send(&self.out.burst, at);
            self.out.count_sent(at, sent);
            at += sent;
            let rest = count - at;
            let (lost, counter) = match fault {
                Some(SendFault::Congested) => (rest.min(1), &mut self.out.stats.drop_tx_full),
                Some(SendFault::Refused) => (rest.min(1), &mut self.out.stats.drop_tx_refused),
                Some(SendFault::Full) => (rest, &mut self.out.stats.drop_tx_full),
                Some(SendFault::Down) => {
                    self.look_due = now;
                    (rest, &mut self.out.stats.drop_tx_down)
                }
                // A back end that neither sends nor says why would keep us here.
                None if sent == 0 => (rest, &mut self.out.stats.drop_tx_refused),
                None => continue,
            };
            *counter += u64::try_from(lost).unwrap_or(0);
            at += lost;
        }
        self.out.burst.clear();
    }

    /// Does what time asks for: looks after the link, ARP, packets that wait for it. Flushes.
    pub fn poll(&mut self, now: Tick) -> Polled {
        let mut fd_changed = false;
        if now >= self.look_due {
            fd_changed = self.look(now);
        }
        let planned = self.out.poll(now);
        self.flush(now);
        let next = planned.map_or(self.look_due, |planned| planned.min(self.look_due));
        Polled { next, fd_changed }
    }

    /// What becomes readable when packets have arrived or the link has changed; see [`Polled::fd_changed`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.io.fd()
    }

    /// State of the device.
    pub fn link(&self) -> Link {
        self.out.link
    }

    /// What was counted.
    pub fn stats(&self) -> &LaneStats {
        &self.out.stats
    }

    /// The last sign that somebody else uses an address of ours, once.
    pub fn take_conflict(&mut self) -> Option<Conflict> {
        self.last_conflict.take()
    }

    /// Another next hop for what is not on the link.
    pub fn set_next_hop(&mut self, next_hop: Option<std::net::Ipv4Addr>) {
        self.out.uplink.set_next_hop(next_hop);
    }

    /// The worker whose lane takes what this one has to send, because this end has no queue of the device.
    #[inline]
    pub fn relay(&self) -> Option<usize> {
        self.io.relay()
    }

    /// What the operator wants to know of the back end.
    pub fn report(&self) -> LaneReport {
        self.io.report()
    }

    /// The back end.
    pub fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    /// Whether another descriptor is to be watched.
    fn look(&mut self, now: Tick) -> bool {
        let before = self.out.link;
        let fd_changed = self.io.look();
        let link = self.io.link();
        self.out.link = link;
        self.out.stats.drop_rx_overflow += self.io.overflowed();
        self.look_due = now + if link.up { LOOK_UP } else { LOOK_DOWN };
        if before.up && (!link.up || link.generation != before.generation) {
            self.out.stats.link_downs += 1;
        }
        let is_other = link.generation != before.generation || link.mac != before.mac;
        if link.up && (!before.up || is_other) {
            if self.uplink_speaks {
                self.out.shared.neighbours.forget_all();
            }
            self.out.uplink.link_up(now);
        }
        fd_changed
    }
}

/// A frame that came in.
fn take_frame(
    out: &mut Outlet,
    bytes: &mut [u8],
    offload: Offload,
    now: Tick,
    sink: &mut impl PacketSink,
) -> Option<Conflict> {
    let Some(frame) = Frame::new_checked(bytes) else {
        out.stats.drop_rx_malformed += 1;
        return None;
    };
    match frame.ethertype() {
        ipv4::ETHERTYPE => {
            take_packet(out, &mut bytes[HEADER_BYTES..], offload, sink);
            None
        }
        arp::ETHERTYPE => match Arp::parse(frame.payload()) {
            Some(arp) => out.arp(&arp, now),
            None => {
                out.stats.drop_rx_malformed += 1;
                None
            }
        },
        _ => {
            out.stats.drop_rx_foreign += 1;
            None
        }
    }
}

fn take_packet(out: &mut Outlet, bytes: &mut [u8], mut offload: Offload, sink: &mut impl PacketSink) {
    // Short frames are padded; the length field says where the packet ends.
    let Some(length) = Ipv4::new_checked(bytes).and_then(Ipv4::whole).map(<[u8]>::len) else {
        out.stats.drop_rx_malformed += 1;
        return;
    };
    let packet = &mut bytes[..length];
    if offload.segment_bytes > 0 {
        out.stats.received_super += 1;
        if offload.checksum != L4Checksum::Partial {
            // Verified by the card; what stands in the field belongs to none of the segments.
            let Some(place) = L4Place::of(packet) else {
                out.stats.drop_rx_malformed += 1;
                return;
            };
            let l4_bytes = packet.len() - place.at;
            place.begin_checksum(packet, l4_bytes);
            offload.checksum = L4Checksum::Partial;
        }
    }
    out.stats.received += 1;
    out.stats.received_bytes += u64::try_from(length).unwrap_or(0);
    sink.packet(out, packet, offload);
}

/// Packets that are announced together: as many reads as a processor has under way, and few enough to stay in its cache.
const ANNOUNCED: usize = 32;
/// Frames of several turns fit; more would leave the cache before they are sent.
const BURST_BYTES: usize = 512 * 1024;
/// A link that is up tells itself when it goes down; other addresses, MTUs and lost frames are looked for.
const LOOK_UP: Duration = Duration::from_secs(1);
/// A link that is down does not say when it comes back.
const LOOK_DOWN: Duration = Duration::from_millis(100);
