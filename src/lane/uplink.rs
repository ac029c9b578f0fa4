//! The lane as a station on its network: which next hop a packet takes, ARP for it, and ARP for our own addresses.
//!
//! *Dedicated* addresses are ours alone. They are probed before use, announced, answered for and defended (RFC 5227);
//! the host's kernel knows nothing of them. An address *shared* with the host stays the kernel's: it answers for it,
//! we only ask for next hops in its name, and hear the answers because a packet socket hears everything.
//!
//! One worker, the first, speaks for the addresses; each asks for the next hops it needs. Pure: frames to be sent go
//! to a sink, time is an argument.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

use super::neighbours::Neighbours;
use crate::tick::Tick;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::Mac;

/// Whose the outside addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Ours. `probe`: look first whether somebody else has them, which takes four to seven seconds (RFC 5227 §1.1).
    Dedicated {
        /// See there.
        probe: bool,
    },
    /// The host's; we use a range of its ports.
    Shared,
}

/// How the lane stands in its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkSettings {
    /// Outside addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Whose they are.
    pub ownership: Ownership,
    /// Any address of the network behind the device, and the length of its prefix: who is in it is reached directly.
    pub network: (Ipv4Addr, u8),
    /// Where everything else goes; `None`: nowhere.
    pub next_hop: Option<Ipv4Addr>,
    /// Name in which next hops are asked for: the host's address if ours are not of the network behind the device.
    pub ask_from: Ipv4Addr,
}

/// What the lanes of a hub share.
#[derive(Debug)]
pub struct Shared {
    /// Cards of next hops.
    pub neighbours: Neighbours,
    /// Which of our addresses may be used.
    pub claims: Claims,
}

impl Shared {
    /// For lanes with these settings.
    pub fn new(settings: &UplinkSettings) -> Self {
        Self { neighbours: Neighbours::new(), claims: Claims::new(settings) }
    }
}

/// Which of our addresses may be used: all, but for those being probed and those that somebody else has.
#[derive(Debug)]
pub struct Claims {
    all: AtomicBool,
    claims: Box<[(Ipv4Addr, AtomicU8)]>,
}

/// State of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Somebody else may have it; to be seen.
    Probing,
    /// In use.
    Ours,
    /// Somebody else has it.
    Taken,
}

impl Claims {
    fn new(settings: &UplinkSettings) -> Self {
        let probe = settings.ownership == Ownership::Dedicated { probe: true };
        let mut addresses = settings.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        let state = if probe { Claim::Probing } else { Claim::Ours };
        let claims = addresses.into_iter().map(|address| (address, AtomicU8::new(state as u8))).collect();
        Self { all: AtomicBool::new(!probe), claims }
    }

    /// Whether packets may leave from `address`.
    #[inline]
    pub fn may_use(&self, address: Ipv4Addr) -> bool {
        self.all.load(Relaxed) || self.of(address) == Some(Claim::Ours)
    }

    /// State of `address`; `None` if it is none of ours.
    pub fn of(&self, address: Ipv4Addr) -> Option<Claim> {
        let at = self.claims.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        Some(match self.claims[at].1.load(Acquire) {
            1 => Claim::Ours,
            2 => Claim::Taken,
            _ => Claim::Probing,
        })
    }

    fn set(&self, address: Ipv4Addr, claim: Claim) {
        if let Ok(at) = self.claims.binary_search_by_key(&address, |(address, _)| *address) {
            self.claims[at].1.store(claim as u8, Release);
        }
        let all = self.claims.iter().all(|(_, state)| state.load(Relaxed) == Claim::Ours as u8);
        self.all.store(all, Release);
    }
}

/// What somebody else did with an address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: Ipv4Addr,
    /// The other's card.
    pub mac: Mac,
    /// The address is given up; otherwise it is defended.
    pub lost: bool,
}

/// See the module text.
#[derive(Debug)]
pub struct Uplink {
    settings: UplinkSettings,
    mask: u32,
    /// Empty unless this worker speaks for dedicated addresses.
    own: Vec<Own>,
    /// When the first of them has something to say; `None`: none has.
    due: Option<Tick>,
    random: u64,
}

#[derive(Clone, Copy, Debug)]
struct Own {
    address: Ipv4Addr,
    state: OwnState,
    due: Tick,
    defended: Option<Tick>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnState {
    /// So many probes were sent.
    Probing(u8),
    /// So many announcements were sent.
    Announcing(u8),
    Settled,
    Taken,
}

impl Uplink {
    /// `speaks`: whether this worker answers for the addresses.
    pub fn new(settings: UplinkSettings, speaks: bool, seed: u64, now: Tick) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(settings.network.1.min(32))).unwrap_or(0);
        let mut uplink = Self { mask, own: Vec::new(), due: Some(now), random: seed, settings };
        if speaks {
            uplink.claim_all(now);
        }
        uplink
    }

    /// Where a packet to `dst` goes first.
    #[inline]
    pub fn next_hop(&self, dst: Ipv4Addr) -> Option<Ipv4Addr> {
        let differs = u32::from(dst) ^ u32::from(self.settings.network.0);
        if differs & self.mask == 0 { Some(dst) } else { self.settings.next_hop }
    }

    /// Another next hop for what is not on the link.
    pub fn set_next_hop(&mut self, next_hop: Option<Ipv4Addr>) {
        self.settings.next_hop = next_hop;
    }

    /// A request for the card of `hop`; to `known` alone if it shall only be confirmed.
    pub fn question(&self, hop: Ipv4Addr, mac: Mac, known: Option<Mac>) -> [u8; crate::wire::arp::FRAME_BYTES] {
        let question = Arp {
            operation: Operation::Request,
            sender_mac: mac,
            sender: self.settings.ask_from,
            target_mac: Mac([0; 6]),
            target: hop,
        };
        question.to_frame(known.unwrap_or(Mac::BROADCAST))
    }

    /// The link is there (again), perhaps another one: everybody hears where our addresses are. What was in use needs
    /// no new probe.
    pub fn link_up(&mut self, now: Tick) {
        self.due = Some(now);
        for own in &mut self.own {
            if matches!(own.state, OwnState::Settled | OwnState::Announcing(_)) {
                (own.state, own.due) = (OwnState::Announcing(0), now);
            }
        }
    }

    /// An ARP packet came in on our card `mac`. `sink` gets the frames it calls for.
    pub fn arp(
        &mut self,
        arp: &Arp,
        mac: Mac,
        shared: &Shared,
        now: Tick,
        sink: &mut impl FnMut(&[u8]),
    ) -> Option<Conflict> {
        if arp.sender_mac == mac || arp.sender_mac.is_group() {
            return None;
        }
        if !arp.sender.is_unspecified() {
            shared.neighbours.learn(arp.sender, arp.sender_mac, now);
        }
        let conflict = self.conflict(arp, mac, &shared.claims, now, sink);
        if conflict.is_some() || arp.operation != Operation::Request {
            return conflict;
        }
        let is_ours =
            |own: &&Own| own.address == arp.target && matches!(own.state, OwnState::Announcing(_) | OwnState::Settled);
        if self.own.iter().any(|own| is_ours(&own)) {
            let answer = Arp {
                operation: Operation::Reply,
                sender_mac: mac,
                sender: arp.target,
                target_mac: arp.sender_mac,
                target: arp.sender,
            };
            sink(&answer.to_frame(arp.sender_mac));
        }
        None
    }

    /// Probes and announces what is due. When to come again; `None`: nothing is planned.
    pub fn poll(&mut self, mac: Mac, claims: &Claims, now: Tick, sink: &mut impl FnMut(&[u8])) -> Option<Tick> {
        if self.due.is_none_or(|due| now < due) {
            return self.due;
        }
        let mut random = self.random;
        for own in self.own.iter_mut().filter(|own| own.due <= now) {
            own.step(mac, claims, now, &mut random, sink);
        }
        self.random = random;
        self.due = self.own.iter().filter(|own| own.state != OwnState::Settled).map(|own| own.due).min();
        self.due
    }

    fn claim_all(&mut self, now: Tick) {
        let Ownership::Dedicated { probe } = self.settings.ownership else { return };
        let (mut random, mut own) = (self.random, Vec::new());
        for &address in &self.settings.addresses {
            let wait = if probe { spread(&mut random, Duration::ZERO, PROBE_WAIT) } else { Duration::ZERO };
            let state = if probe { OwnState::Probing(0) } else { OwnState::Announcing(0) };
            own.push(Own { address, state, due: now + wait, defended: None });
        }
        (self.own, self.random) = (own, random);
    }

    /// Whether `arp` shows that somebody else has, or wants, an address of ours (RFC 5227 §2.1.1, §2.4).
    fn conflict(
        &mut self,
        arp: &Arp,
        mac: Mac,
        claims: &Claims,
        now: Tick,
        sink: &mut impl FnMut(&[u8]),
    ) -> Option<Conflict> {
        let is_probe = arp.operation == Operation::Request && arp.sender.is_unspecified();
        let own = self.own.iter_mut().find(|own| {
            own.address == arp.sender
                || (is_probe && own.address == arp.target && matches!(own.state, OwnState::Probing(_)))
        })?;
        let lost = match own.state {
            OwnState::Probing(_) | OwnState::Taken => {
                (own.state, own.due) = (OwnState::Taken, now + RETRY);
                self.due = Some(self.due.map_or(own.due, |due| due.min(own.due)));
                claims.set(own.address, Claim::Taken);
                true
            }
            // §2.4 (c): a server keeps its address, and says so at most every ten seconds.
            OwnState::Announcing(_) | OwnState::Settled => {
                if own.defended.is_none_or(|last| now.since(last) >= DEFEND_INTERVAL) {
                    own.defended = Some(now);
                    sink(&announcement(own.address, mac));
                }
                false
            }
        };
        Some(Conflict { address: own.address, mac: arp.sender_mac, lost })
    }
}

impl Own {
    fn step(&mut self, mac: Mac, claims: &Claims, now: Tick, random: &mut u64, sink: &mut impl FnMut(&[u8])) {
        match self.state {
            OwnState::Probing(PROBES) => {
                claims.set(self.address, Claim::Ours);
                self.announce(0, mac, now, sink);
            }
            OwnState::Probing(sent) => {
                let unspecified = Ipv4Addr::UNSPECIFIED;
                sink(&request(unspecified, mac, self.address));
                self.state = OwnState::Probing(sent + 1);
                let wait = if sent + 1 == PROBES { ANNOUNCE_WAIT } else { spread(random, PROBE_MIN, PROBE_MAX) };
                self.due = now + wait;
            }
            OwnState::Announcing(sent) => self.announce(sent, mac, now, sink),
            OwnState::Taken => {
                claims.set(self.address, Claim::Probing);
                (self.state, self.due) = (OwnState::Probing(0), now);
            }
            OwnState::Settled => {}
        }
    }

    fn announce(&mut self, sent: u8, mac: Mac, now: Tick, sink: &mut impl FnMut(&[u8])) {
        sink(&announcement(self.address, mac));
        self.state = if sent + 1 == ANNOUNCEMENTS { OwnState::Settled } else { OwnState::Announcing(sent + 1) };
        self.due = now + ANNOUNCE_INTERVAL;
    }
}

fn announcement(address: Ipv4Addr, mac: Mac) -> [u8; crate::wire::arp::FRAME_BYTES] {
    request(address, mac, address)
}

fn request(sender: Ipv4Addr, mac: Mac, target: Ipv4Addr) -> [u8; crate::wire::arp::FRAME_BYTES] {
    let arp = Arp { operation: Operation::Request, sender_mac: mac, sender, target_mac: Mac([0; 6]), target };
    arp.to_frame(Mac::BROADCAST)
}

/// A time between the two, by a step of SplitMix64: stations that start together shall not speak together, no more.
fn spread(random: &mut u64, least: Duration, most: Duration) -> Duration {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*random ^ (*random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let span = most.saturating_sub(least);
    least + span.mul_f64((mixed >> 11) as f64 / (1u64 << 53) as f64)
}

// RFC 5227 §1.1.
const PROBE_WAIT: Duration = Duration::from_secs(1);
const PROBES: u8 = 3;
const PROBE_MIN: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(2);
const ANNOUNCE_WAIT: Duration = Duration::from_secs(2);
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// `RATE_LIMIT_INTERVAL`: an address that was taken is tried again after this time.
const RETRY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::super::neighbours::Neighbour;
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
    const HOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    const CARD: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 8]);

    fn settings(ownership: Ownership) -> UplinkSettings {
        UplinkSettings {
            addresses: vec![OURS],
            ownership,
            network: (Ipv4Addr::new(203, 0, 113, 0), 24),
            next_hop: Some(HOP),
            ask_from: OURS,
        }
    }

    fn uplink(ownership: Ownership) -> (Uplink, Shared) {
        let settings = settings(ownership);
        let shared = Shared::new(&settings);
        (Uplink::new(settings, true, 5, Tick::from_ms(1)), shared)
    }

    /// Frames that `until` seconds of polling bring, with their times in ms.
    fn run(uplink: &mut Uplink, shared: &Shared, from: u64, until: u64) -> Vec<(u64, Arp)> {
        let mut seen = Vec::new();
        for ms in (from * 1000..until * 1000).step_by(10) {
            uplink.poll(CARD, &shared.claims, Tick::from_ms(ms), &mut |frame| {
                seen.push((ms, Arp::parse(&frame[14..]).unwrap()));
            });
        }
        seen
    }

    fn heard(uplink: &mut Uplink, shared: &Shared, arp: Arp, ms: u64) -> (Option<Conflict>, Vec<Arp>) {
        let mut said = Vec::new();
        let conflict = uplink.arp(&arp, CARD, shared, Tick::from_ms(ms), &mut |frame| {
            assert_eq!(frame[6..12], CARD.0);
            said.push(Arp::parse(&frame[14..]).unwrap());
        });
        (conflict, said)
    }

    fn ask(sender: Ipv4Addr, target: Ipv4Addr) -> Arp {
        Arp { operation: Operation::Request, sender_mac: OTHER, sender, target_mac: Mac([0; 6]), target }
    }

    /// RFC 5227 §2.1.1, §2.3.
    #[test]
    fn probes_then_announces() {
        let (mut uplink, shared) = uplink(Ownership::Dedicated { probe: true });
        assert!(!shared.claims.may_use(OURS));
        let (_, said) = heard(&mut uplink, &shared, ask(HOP, OURS), 1);
        assert_eq!(said, [], "not ours yet");
        let seen = run(&mut uplink, &shared, 0, 20);
        assert!(shared.claims.may_use(OURS));
        let senders: Vec<_> = seen.iter().map(|(_, arp)| arp.sender).collect();
        let none = Ipv4Addr::UNSPECIFIED;
        assert_eq!(senders, [none, none, none, OURS, OURS]);
        assert!(seen.iter().all(|(_, arp)| arp.target == OURS && arp.operation == Operation::Request));
        let gaps: Vec<_> = seen.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(seen[0].0 <= 1000 && (1000..=2010).contains(&gaps[0]) && (1000..=2010).contains(&gaps[1]), "{gaps:?}");
        assert!((2000..=2010).contains(&gaps[2]) && (2000..=2010).contains(&gaps[3]), "{gaps:?}");
    }

    #[test]
    fn gives_way_while_probing_and_tries_again() {
        let theirs = ask(OURS, HOP);
        let probe = ask(Ipv4Addr::UNSPECIFIED, OURS);
        for sign in [theirs, probe] {
            let (mut uplink, shared) = uplink(Ownership::Dedicated { probe: true });
            run(&mut uplink, &shared, 0, 2);
            let (conflict, said) = heard(&mut uplink, &shared, sign, 2000);
            assert_eq!(conflict, Some(Conflict { address: OURS, mac: OTHER, lost: true }));
            assert_eq!((said, shared.claims.of(OURS)), (vec![], Some(Claim::Taken)));
            assert_eq!(run(&mut uplink, &shared, 3, 61), []);
            assert_eq!(run(&mut uplink, &shared, 61, 80).len(), 5);
            assert_eq!(shared.claims.of(OURS), Some(Claim::Ours));
        }
    }

    #[test]
    fn answers_and_defends_what_is_in_use() {
        let (mut uplink, shared) = uplink(Ownership::Dedicated { probe: false });
        assert!(shared.claims.may_use(OURS));
        assert_eq!(run(&mut uplink, &shared, 0, 9).len(), 2);
        let (_, said) = heard(&mut uplink, &shared, ask(HOP, OURS), 9000);
        let answer =
            Arp { operation: Operation::Reply, sender_mac: CARD, sender: OURS, target_mac: OTHER, target: HOP };
        assert_eq!(said, [answer]);
        assert_eq!(heard(&mut uplink, &shared, ask(HOP, Ipv4Addr::new(203, 0, 113, 9)), 9000).1, []);
        // A probe of somebody who wants our address is answered like any question.
        assert_eq!(heard(&mut uplink, &shared, ask(Ipv4Addr::UNSPECIFIED, OURS), 9000).1.len(), 1);
        for (ms, frames) in [(10_000, 1), (11_000, 0), (20_000, 1)] {
            let (conflict, said) = heard(&mut uplink, &shared, ask(OURS, OURS), ms);
            assert_eq!(conflict, Some(Conflict { address: OURS, mac: OTHER, lost: false }));
            assert_eq!(said.len(), frames, "{ms}");
        }
        assert!(shared.claims.may_use(OURS));
        uplink.link_up(Tick::from_ms(30_000));
        assert_eq!(run(&mut uplink, &shared, 30, 40).len(), 2);
    }

    #[test]
    fn a_shared_address_is_left_to_the_kernel() {
        let (mut uplink, shared) = uplink(Ownership::Shared);
        assert!(shared.claims.may_use(OURS));
        assert_eq!(run(&mut uplink, &shared, 0, 20), []);
        assert_eq!(heard(&mut uplink, &shared, ask(HOP, OURS), 9000), (None, vec![]));
        assert_eq!(heard(&mut uplink, &shared, ask(OURS, OURS), 9000), (None, vec![]));
    }

    #[test]
    fn next_hops() {
        let (mut uplink, shared) = uplink(Ownership::Shared);
        let far = Ipv4Addr::new(198, 51, 100, 1);
        let near = Ipv4Addr::new(203, 0, 113, 200);
        assert_eq!((uplink.next_hop(far), uplink.next_hop(near)), (Some(HOP), Some(near)));
        uplink.set_next_hop(None);
        assert_eq!((uplink.next_hop(far), uplink.next_hop(near)), (None, Some(near)));
        let now = Tick::from_ms(5);
        assert_eq!(shared.neighbours.find(near, now), Neighbour::Unknown(true));
        let question = Arp::parse(&uplink.question(near, CARD, None)[14..]).unwrap();
        assert_eq!((question.sender, question.target, question.sender_mac), (OURS, near, CARD));
        let answer =
            Arp { operation: Operation::Reply, sender_mac: OTHER, sender: near, target_mac: CARD, target: OURS };
        heard(&mut uplink, &shared, answer, 6);
        assert_eq!(shared.neighbours.find(near, now), Neighbour::At(OTHER));
    }
}
