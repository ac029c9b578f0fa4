//! The way out of a lane: from an IPv4 packet to a frame in the burst under construction.
//!
//! 1. Is the packet one that the link can carry, from an address that is ours by now?
//! 2. Which next hop, which card? A packet whose next hop has to be asked for waits, with few others and not for long.
//! 3. Copied into the burst, merged if possible.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::merge::{L4Place, PACKET_BYTES_MAX, TxBurst};
use super::neighbours::{ASK_AGAIN, Neighbour};
use super::uplink::{Conflict, Shared, Uplink};
use super::{LaneStats, Link};
use crate::tick::Tick;
use crate::wire::arp::Arp;
use crate::wire::ethernet::{HEADER_BYTES, Mac};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::offload::Offload;

/// See the module text.
#[derive(Debug)]
pub struct Outlet {
    pub(super) uplink: Uplink,
    pub(super) shared: Arc<Shared>,
    pub(super) link: Link,
    pub(super) burst: TxBurst,
    pub(super) stats: LaneStats,
    waiting: Waiting,
}

/// Packets whose next hop was asked for. Their bytes lie one behind the other; the room is free again when all are gone,
/// which takes [`PATIENCE`] at most.
#[derive(Debug)]
struct Waiting {
    bytes: Box<[u8]>,
    used: usize,
    packets: Vec<Waiter>,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    hop: Ipv4Addr,
    start: usize,
    end: usize,
    offload: Offload,
    since: Tick,
}

impl Outlet {
    pub(super) fn new(uplink: Uplink, shared: Arc<Shared>, link: Link, burst: TxBurst) -> Self {
        let waiting = Waiting {
            bytes: vec![0; WAITING_BYTES].into_boxed_slice(),
            used: 0,
            packets: Vec::with_capacity(WAITING_MAX),
        };
        Self { uplink, shared, link, burst, stats: LaneStats::default(), waiting }
    }

    /// Takes an IPv4 packet, exactly as long as its header says.
    #[inline]
    pub fn push(&mut self, packet: &[u8], offload: Offload, now: Tick) {
        let Some(ip) = Ipv4::new_checked(packet) else {
            self.stats.drop_tx_malformed += 1;
            return;
        };
        if ip.total_bytes() != packet.len() {
            self.stats.drop_tx_malformed += 1;
        } else if !self.link.up {
            self.stats.drop_tx_down += 1;
        } else if !fits(packet, offload, self.link.mtu) {
            self.stats.drop_tx_too_long += 1;
        } else if !self.shared.claims.may_use(ip.src()) {
            self.stats.drop_tx_unclaimed += 1;
        } else {
            match self.uplink.next_hop(ip.dst()) {
                Some(hop) => self.push_to(hop, packet, offload, now),
                None => self.stats.drop_tx_no_route += 1,
            }
        }
    }

    #[inline]
    fn push_to(&mut self, hop: Ipv4Addr, packet: &[u8], offload: Offload, now: Tick) {
        let card = match self.shared.neighbours.find(hop, now) {
            Neighbour::At(card) => card,
            Neighbour::Stale(card, shall_ask) => {
                if shall_ask {
                    self.ask(hop, Some(card));
                }
                card
            }
            Neighbour::Unknown(shall_ask) => {
                if shall_ask {
                    self.ask(hop, None);
                }
                self.wait(hop, packet, offload, now);
                return;
            }
        };
        if self.burst.push(&self.header(card), packet, offload).is_err() {
            self.stats.drop_tx_full += 1;
        }
    }

    fn header(&self, to: Mac) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..6].copy_from_slice(&to.0);
        header[6..12].copy_from_slice(&self.link.mac.0);
        header[12..].copy_from_slice(&ipv4::ETHERTYPE.to_be_bytes());
        header
    }

    #[cold]
    fn ask(&mut self, hop: Ipv4Addr, known: Option<Mac>) {
        self.stats.arp_asked += 1;
        let question = self.uplink.question(hop, self.link.mac, known);
        if self.burst.push_frame(&question).is_err() {
            self.stats.drop_tx_full += 1;
        }
    }

    #[cold]
    fn wait(&mut self, hop: Ipv4Addr, packet: &[u8], offload: Offload, now: Tick) {
        let waiting = &mut self.waiting;
        let (start, end) = (waiting.used, waiting.used + packet.len());
        if waiting.packets.len() == WAITING_MAX || end > waiting.bytes.len() {
            self.stats.drop_tx_waiting_full += 1;
            return;
        }
        waiting.bytes[start..end].copy_from_slice(packet);
        waiting.used = end;
        waiting.packets.push(Waiter { hop, start, end, offload, since: now });
    }

    /// An ARP packet came in.
    pub(super) fn arp(&mut self, arp: &Arp, now: Tick) -> Option<Conflict> {
        let Self { uplink, shared, link, burst, stats, .. } = self;
        let conflict = uplink.arp(arp, link.mac, shared, now, &mut |frame| {
            stats.drop_tx_full += u64::from(burst.push_frame(frame).is_err());
        });
        stats.conflicts += u64::from(conflict.is_some());
        if !self.waiting.packets.is_empty() {
            self.try_waiting(now);
        }
        conflict
    }

    /// Probes, announcements, packets that wait. When to come again, if anything is planned.
    pub(super) fn poll(&mut self, now: Tick) -> Option<Tick> {
        let mut planned = None;
        if self.link.up {
            let Self { uplink, shared, link, burst, stats, .. } = self;
            planned = uplink.poll(link.mac, &shared.claims, now, &mut |frame| {
                stats.drop_tx_full += u64::from(burst.push_frame(frame).is_err());
            });
        }
        if self.waiting.packets.is_empty() {
            return planned;
        }
        self.try_waiting(now);
        let again = now + WAITING_LOOK;
        Some(planned.map_or(again, |planned| planned.min(again)))
    }

    /// Sends those whose next hop has answered, gives up those that have waited long enough.
    fn try_waiting(&mut self, now: Tick) {
        let mut kept = 0;
        for at in 0..self.waiting.packets.len() {
            let waiter = self.waiting.packets[at];
            let found = self.shared.neighbours.find(waiter.hop, now);
            match found {
                Neighbour::At(card) | Neighbour::Stale(card, _) => {
                    let header = self.header(card);
                    let packet = &self.waiting.bytes[waiter.start..waiter.end];
                    self.stats.drop_tx_full += u64::from(self.burst.push(&header, packet, waiter.offload).is_err());
                }
                Neighbour::Unknown(_) if now.since(waiter.since) >= PATIENCE => self.stats.drop_tx_no_neighbour += 1,
                Neighbour::Unknown(shall_ask) => {
                    self.waiting.packets[kept] = waiter;
                    kept += 1;
                    if shall_ask {
                        self.ask(waiter.hop, None);
                    }
                }
            }
        }
        self.waiting.packets.truncate(kept);
        if kept == 0 {
            self.waiting.used = 0;
        }
    }

    pub(super) fn count_sent(&mut self, from: usize, count: usize) {
        for at in from..from + count {
            let Some(message) = self.burst.message(at) else { return };
            self.stats.sent += 1;
            self.stats.sent_bytes += u64::try_from(message.frame_bytes()).unwrap_or(0);
            self.stats.sent_super += u64::from(message.offload().segment_bytes > 0);
            self.stats.merged += u64::from(message.parts()) - 1;
        }
    }
}

/// Whether each packet that becomes of it on the wire is at most `mtu` long.
#[inline]
fn fits(packet: &[u8], offload: Offload, mtu: usize) -> bool {
    if packet.len() <= mtu {
        return true;
    }
    let segment = usize::from(offload.segment_bytes);
    let headers = |place: L4Place| place.headers() + segment <= mtu;
    segment > 0 && packet.len() <= PACKET_BYTES_MAX && L4Place::of(packet).is_some_and(headers)
}

/// Packets that wait for ARP in one lane.
const WAITING_MAX: usize = 64;
/// Room for as many of the usual size, and for some super-packets.
const WAITING_BYTES: usize = 256 * 1024;
/// Three questions without an answer.
const PATIENCE: Duration = ASK_AGAIN.saturating_mul(3);
/// The answer comes to the first worker; the others look for it.
const WAITING_LOOK: Duration = Duration::from_millis(5);
