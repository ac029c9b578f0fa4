//! ARP (RFC 826): answers, announcements (RFC 5227), and who claims what is not his.
//!
//! [`ArpGuard`] runs on every worker, before a frame is copied to anybody: what it refuses reaches nobody.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::Origin;
use super::bindings::{Binding, Bindings};
use crate::tick::Tick;
use crate::wire::arp::{self, Arp, FRAME_BYTES, Operation};
use crate::wire::ethernet::{Frame, Mac};
use crate::wire::vlan;

/// An address that is somebody else's, or the gateway's (`holder` is `None`), claimed by ARP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The card that is said to have it.
    pub mac: Mac,
    /// The address.
    pub address: Ipv4Addr,
    /// Whose it is by lease.
    pub holder: Option<Binding>,
}

/// Knows what may be claimed by whom.
#[derive(Clone, Debug)]
pub struct ArpGuard {
    /// The gateway's card.
    pub mac: Mac,
    /// The gateway's address.
    pub address: Ipv4Addr,
    /// Whose the others are.
    pub bindings: Arc<Bindings>,
}

impl ArpGuard {
    /// What `frame` claims without right; `None` for everything that is no such thing.
    pub fn refuse(&self, origin: &Origin, frame: Frame<'_>) -> Option<Claim> {
        self.refuse_arp(origin, &Arp::parse(arp_packet(frame)?)?)
    }

    /// Requests claim their sender's address as replies do: everybody who hears one updates his table (RFC 826).
    pub(super) fn refuse_arp(&self, origin: &Origin, arp: &Arp) -> Option<Claim> {
        let holder = if arp.sender == self.address {
            None
        } else {
            let holder = self.bindings.of(arp.sender)?;
            // The same card of the same member elsewhere: he logged in again.
            let is_his = holder.member == origin.member || holder.port == origin.port;
            if holder.mac == arp.sender_mac && is_his {
                return None;
            }
            Some(holder)
        };
        Some(Claim { mac: arp.sender_mac, address: arp.sender, holder })
    }
}

/// What a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The address is with this card.
    At(Mac),
    /// Nothing, as the asker has it himself or nobody does.
    Silence,
}

/// Who has the address that `request` asks for: the gateway, or with `for_members` who has a lease on it.
pub(super) fn answer(guard: &ArpGuard, for_members: bool, request: &Arp) -> Answer {
    if request.target == guard.address {
        return Answer::At(guard.mac);
    }
    match guard.bindings.of(request.target) {
        // A probe for one's own address hears that it is taken if it gets an answer.
        Some(holder) if for_members && holder.mac != request.sender_mac => Answer::At(holder.mac),
        _ => Answer::Silence,
    }
}

/// The reply to `request`: `mac` has the address. Its frame comes from the gateway's card whoever `mac` is, for bridges
/// learn where a card is from the source of frames.
pub(super) fn reply(guard: &ArpGuard, request: &Arp, mac: Mac, dst: Mac) -> [u8; FRAME_BYTES] {
    let reply = Arp {
        operation: Operation::Reply,
        sender_mac: mac,
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
    };
    from_gateway(guard, &reply, dst)
}

/// "Who has `address`?", for the DHCP server.
pub(super) fn probe(guard: &ArpGuard, address: Ipv4Addr) -> [u8; FRAME_BYTES] {
    request(guard, address)
}

/// "The gateway has its address" (RFC 5227 §2.3).
fn announcement(guard: &ArpGuard) -> [u8; FRAME_BYTES] {
    request(guard, guard.address)
}

fn request(guard: &ArpGuard, target: Ipv4Addr) -> [u8; FRAME_BYTES] {
    let request = Arp {
        operation: Operation::Request,
        sender_mac: guard.mac,
        sender: guard.address,
        target_mac: Mac([0; 6]),
        target,
    };
    from_gateway(guard, &request, Mac::BROADCAST)
}

fn from_gateway(guard: &ArpGuard, arp: &Arp, dst: Mac) -> [u8; FRAME_BYTES] {
    let mut frame = arp.to_frame(dst);
    frame[6..12].copy_from_slice(&guard.mac.0);
    frame
}

/// When the gateway announces itself: at its start, and when somebody claims to be it.
#[derive(Debug)]
pub(super) struct Announcer {
    left: u8,
    at: Tick,
    defended: Option<Tick>,
}

impl Announcer {
    pub(super) fn new(now: Tick) -> Self {
        Self { left: ANNOUNCEMENTS, at: now, defended: None }
    }

    /// The frame for everybody that is due.
    pub(super) fn due(&mut self, guard: &ArpGuard, now: Tick) -> Option<[u8; FRAME_BYTES]> {
        if self.left == 0 || now < self.at {
            return None;
        }
        self.left -= 1;
        self.at = now + ANNOUNCE_EVERY;
        Some(announcement(guard))
    }

    /// Somebody claimed the gateway's address: says the truth, but not more often than RFC 5227 §2.4 (c) allows, or two
    /// who both insist would fill the hub.
    pub(super) fn defend(&mut self, guard: &ArpGuard, now: Tick) -> Option<[u8; FRAME_BYTES]> {
        if self.defended.is_some_and(|at| now.since(at) < DEFEND_EVERY) {
            return None;
        }
        self.defended = Some(now);
        Some(announcement(guard))
    }

    /// When [`Self::due`] has something again.
    pub(super) fn next(&self) -> Tick {
        if self.left == 0 { Tick(u64::MAX) } else { self.at }
    }
}

/// The ARP packet in `frame`, also behind tags and LLC/SNAP, where many hosts look for it (CVE-2021-27853).
fn arp_packet(frame: Frame<'_>) -> Option<&[u8]> {
    let mut ethertype = frame.ethertype();
    let mut rest = frame.payload();
    for _ in 0..HEADERS_MAX {
        let skip = match (ethertype, rest) {
            (arp::ETHERTYPE, _) => return Some(rest),
            (tag, _) if vlan::is_tag(tag) => vlan::TAG_BYTES,
            (0..=LENGTH_MAX, [0xaa, 0xaa, 0x03, ..]) => SNAP_BYTES,
            _ => return None,
        };
        ethertype = u16::from_be_bytes([*rest.get(skip - 2)?, *rest.get(skip - 1)?]);
        rest = &rest[skip..];
    }
    None
}

/// RFC 5227 §1.1.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);
const DEFEND_EVERY: Duration = Duration::from_secs(10);
/// As in `wire::kinds`: frames with more are refused in hubs of strangers.
const HEADERS_MAX: usize = 5;
const LENGTH_MAX: u16 = 1500;
const SNAP_BYTES: usize = 8;
