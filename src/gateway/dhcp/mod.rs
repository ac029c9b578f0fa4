//! The DHCPv4 server of a hub (RFC 2131): who gets which address, for how long, and what else he is told.
//!
//! 1. `options.rs` and `relay.rs`: is the message whole, and whose is it?
//! 2. `exchange.rs`: which of the eight messages is it, and in what state must the client be?
//! 3. `choose.rs`: which address?
//! 4. `journal.rs`: what is promised is written down before it is said (`durable` of [`DhcpSink::answer`])
//! 5. `answer.rs`: the reply, and where it goes
//!
//! A client is known by its session's member and by its identifier or card, so nobody can claim another member's lease,
//! and a member whose card changes its address at random finds his lease again. Time is an argument; leases run on the
//! monotonic clock, and only the journal knows seconds since 1970.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use lease::{Holder, Index, LeaseTable};
use options::{Joined, Told};
use rates::{Rate, Rates};
use reservations::Reservations;

use super::Origin;
use super::bindings::Binding;
use crate::ids::{MemberId, PortId, SessionId};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::dhcp::{BOOTREQUEST, Message, MessageType};
use crate::wire::ethernet::Mac;

mod answer;
mod choose;
mod exchange;
mod journal;
mod lease;
mod lists;
mod options;
mod rates;
mod relay;
mod reservations;
mod restore;
pub mod settings;
#[cfg(test)]
mod tests;

pub use answer::{DhcpReply, REPLY_FRAME_BYTES_MAX};
pub use lease::{ClientKey, LeaseState};
pub use restore::Restored;
pub use settings::DhcpSettings;

/// A message for the server, and what is known about it from outside.
#[derive(Clone, Copy, Debug)]
pub struct DhcpRequest<'a> {
    /// Who sent it.
    pub origin: &'a Origin,
    /// Source of the frame.
    pub src_mac: Mac,
    /// Source of the packet.
    pub src: Ipv4Addr,
    /// Destination of the packet.
    pub dst: Ipv4Addr,
    /// What is in the UDP datagram.
    pub payload: &'a [u8],
}

/// What the server does to the world.
pub trait DhcpSink {
    /// Sends `reply` to a port; with `durable` not before that record of the journal is on disk.
    fn answer(&mut self, to: PortId, reply: &DhcpReply<'_>, durable: Option<u64>);
    /// Asks by ARP whether somebody uses `address`; [`DhcpServer::seen`] takes the answer.
    fn probe(&mut self, address: Ipv4Addr);
    /// Lets a card use an address, or with `None` nobody.
    fn bind(&mut self, address: Ipv4Addr, binding: Option<Binding>);
    /// Appends a record to the journal; its number, or `u64::MAX` if there was no room for it.
    fn journal(&mut self, record: &[u8]) -> u64;
    /// Tells what happened.
    fn event(&mut self, event: DhcpEvent);
    /// Counts a message that was not followed.
    fn dropped(&mut self, reason: DropReason);
}

/// Something that happened to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhcpEvent {
    /// A client got an address.
    Granted {
        /// Which.
        address: Ipv4Addr,
        /// To whom.
        binding: Binding,
        /// For how long.
        secs: u32,
    },
    /// It keeps its address.
    Renewed {
        /// Which.
        address: Ipv4Addr,
        /// Who.
        binding: Binding,
        /// For how long.
        secs: u32,
    },
    /// A member who logged in again goes on with his lease.
    Moved {
        /// Which.
        address: Ipv4Addr,
        /// Where he is.
        binding: Binding,
    },
    /// A lease ended.
    Ended {
        /// Of which address.
        address: Ipv4Addr,
        /// Of whom.
        member: MemberId,
        /// His card.
        mac: Mac,
        /// Why.
        why: LeaseEnd,
    },
    /// An address is out of service: a client found it in use (`by` is the client), or somebody answered our probe.
    Conflict {
        /// Which.
        address: Ipv4Addr,
        /// Whose card.
        by: Mac,
        /// The client said so.
        declined: bool,
    },
    /// No address is left for a client. Told once, until there is one again.
    PoolEmpty {
        /// Whose client.
        member: MemberId,
        /// Which session.
        session: SessionId,
    },
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// The client gave it back.
    Released,
    /// It was not renewed.
    Expired,
    /// Another card of the same member has the address now, or the same card another address.
    Replaced,
    /// The client found the address in use.
    Declined,
    /// The operator ended it.
    Operator,
}

/// Messages since the start, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of RFC 2131")]
pub struct DhcpStats {
    pub discovers: u64,
    pub offers: u64,
    pub requests: u64,
    pub acks: u64,
    pub naks: u64,
    pub releases: u64,
    pub declines: u64,
    pub informs: u64,
    /// Addresses asked for by ARP.
    pub probes: u64,
    /// Addresses that somebody used without a lease.
    pub conflicts: u64,
    /// Clients that got nothing because the pool was empty.
    pub pool_empty: u64,
}

/// A row of the lease table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// The address.
    pub address: Ipv4Addr,
    /// What is with it.
    pub state: LeaseState,
    /// Whose it is or was.
    pub member: Option<MemberId>,
    /// His session, if it lives.
    pub session: Option<SessionId>,
    /// His card.
    pub mac: Option<Mac>,
    /// What he is known by.
    pub client: Option<ClientKey>,
    /// What he calls himself. From the network.
    pub host_name: Vec<u8>,
    /// Kept for somebody.
    pub is_reserved: bool,
    /// Time that is left.
    pub left: Duration,
}

/// See the module text.
#[derive(Debug)]
pub struct DhcpServer {
    settings: DhcpSettings,
    told: Told,
    reservations: Reservations,
    table: LeaseTable,
    /// Messages that are answered when nobody has answered a probe.
    pending: BTreeMap<Index, Pending>,
    rates: Rates,
    rng: u64,
    /// The same moment on both clocks.
    epoch: (Tick, u64),
    records: u64,
    is_exhausted: bool,
    stats: DhcpStats,
}

#[derive(Debug)]
struct Pending {
    origin: Origin,
    src_mac: Mac,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    payload: Box<[u8]>,
}

impl DhcpServer {
    /// `unix_s` is the wall clock's time at `now`. `seed` must not be known to clients.
    pub fn new(settings: DhcpSettings, seed: u64, now: Tick, unix_s: u64) -> Self {
        let mut rng = seed;
        let hash_seed = next_random(&mut rng);
        let mut reserved: Vec<Ipv4Addr> =
            settings.reservations.iter().filter_map(|reservation| reservation.address).collect();
        reserved.retain(|address| settings.is_host(*address));
        reserved.sort_unstable();
        let table = LeaseTable::new(&settings, &reserved, hash_seed);
        Self {
            told: Told::new(&settings),
            reservations: Reservations::new(&settings.reservations, &table),
            settings,
            table,
            pending: BTreeMap::new(),
            rates: Rates::default(),
            rng,
            epoch: (now, unix_s),
            records: 0,
            is_exhausted: false,
            stats: DhcpStats::default(),
        }
    }

    /// Takes a message of a client or relay.
    pub fn message(&mut self, request: DhcpRequest<'_>, now: Tick, sink: &mut impl DhcpSink) {
        self.message_at(&request, true, now, sink);
    }

    fn message_at(&mut self, request: &DhcpRequest<'_>, is_first: bool, now: Tick, sink: &mut impl DhcpSink) {
        if let Err(reason) = self.try_message(request, is_first, now, sink) {
            sink.dropped(reason);
        }
    }

    fn try_message(
        &mut self,
        request: &DhcpRequest<'_>,
        is_first: bool,
        now: Tick,
        sink: &mut impl DhcpSink,
    ) -> Result<(), DropReason> {
        let mut joined = Joined::new();
        let asked = Message::new_checked(request.payload)
            .filter(|message| message.op() == BOOTREQUEST && message.htype() == 1 && message.hlen() == 6)
            .filter(|message| !message.chaddr().is_group() && message.chaddr().to_bits() != 0)
            .and_then(|message| options::read(message, &mut joined))
            .ok_or(DropReason::DhcpMalformed)?;
        if !relay::is_acceptable(&asked, request.origin, &self.settings) {
            return Err(DropReason::DhcpRelay);
        }
        let chaddr = asked.message.chaddr();
        if self.settings.match_source_mac && asked.message.giaddr().is_unspecified() && chaddr != request.src_mac {
            return Err(DropReason::DhcpSourceMac);
        }
        let wants_answer = matches!(asked.what, MessageType::Discover | MessageType::Request | MessageType::Inform);
        if is_first && wants_answer && !self.may_ask(request.origin, now) {
            return Err(DropReason::DhcpRate);
        }
        let key = asked.client_id.map_or_else(|| ClientKey::from_mac(chaddr), ClientKey::from_id);
        let client = Client { origin: *request.origin, mac: chaddr, key, id: asked.client_id };
        match asked.what {
            MessageType::Discover => self.discover(request, &asked, &client, now, sink),
            MessageType::Request => self.request(request, &asked, &client, now, sink),
            MessageType::Decline => self.decline(&asked, &client, now, sink),
            MessageType::Release => self.release_by(&asked, &client, now, sink),
            MessageType::Inform => self.inform(request, &asked, &client, sink),
            MessageType::Offer | MessageType::Ack | MessageType::Nak => Err(DropReason::DhcpMalformed),
        }
    }

    /// Card `mac` behind `origin` says it has `address`. Of meaning only while that address is being probed, and not from
    /// the session it is probed for: that one says DECLINE, or puts out of service whatever it is about to get.
    pub fn seen(&mut self, origin: &Origin, address: Ipv4Addr, mac: Mac, now: Tick, sink: &mut impl DhcpSink) {
        let Some(at) = self.table.index(address) else { return };
        let place = self.table.place(at);
        let by_asker = place.holder.is_some_and(|holder| {
            holder.mac == mac || holder.session == origin.session && !holder.is_gone && !origin.is_bridge
        });
        if place.state != LeaseState::Probing || by_asker || !self.may_put_out(origin) {
            return;
        }
        // Counted for whoever says he has it, not for whom it was meant.
        let claims = Client { origin: *origin, mac, key: ClientKey::from_mac(mac), id: None };
        self.table.hold(at, claims.holder(), LeaseState::Probing, now);
        self.put_out(at, now, sink);
        self.stats.conflicts += 1;
        sink.event(DhcpEvent::Conflict { address, by: mac, declined: false });
        if let Some(pending) = self.pending.remove(&at) {
            self.resume(&pending, now, sink);
        }
    }

    /// Ends what is due, a bounded number at a time. When to come again.
    pub fn poll(&mut self, now: Tick, sink: &mut impl DhcpSink) -> Tick {
        for _ in 0..EXPIRIES_MAX {
            match self.table.timers.next() {
                None => return Tick(u64::MAX),
                Some((due, _)) if due > now => return due,
                Some((_, at)) => self.expire(at, now, sink),
            }
        }
        now
    }

    fn expire(&mut self, at: Index, now: Tick, sink: &mut impl DhcpSink) {
        let place = self.table.place(at);
        match (place.state, place.holder) {
            (LeaseState::Probing, Some(holder)) => {
                self.table.hold(at, holder, LeaseState::Offered, now + self.settings.offer_hold);
                if let Some(pending) = self.pending.remove(&at) {
                    self.resume(&pending, now, sink);
                }
            }
            (LeaseState::Leased, Some(_)) => self.end(at, LeaseEnd::Expired, now, sink),
            // Who was offered an address and did not take it has no claim to it.
            _ => self.table.free(at, false, now),
        }
    }

    fn resume(&mut self, pending: &Pending, now: Tick, sink: &mut impl DhcpSink) {
        let Pending { origin, src_mac, src, dst, payload } = pending;
        let request = DhcpRequest { origin, src_mac: *src_mac, src: *src, dst: *dst, payload };
        self.message_at(&request, false, now, sink);
    }

    /// The member of `origin`, who logged in again, goes on with `address` by card `mac` without asking. `true` if that
    /// is his right; then the address is bound to his port.
    pub fn adopt(&mut self, origin: &Origin, mac: Mac, address: Ipv4Addr, now: Tick, sink: &mut impl DhcpSink) -> bool {
        let Some(at) = self.table.index(address) else { return false };
        let place = self.table.place(at);
        let until = place.until;
        let Some(holder) = place.holder.filter(|_| place.state == LeaseState::Leased && until > now) else {
            return false;
        };
        if holder.member != origin.member || holder.mac != mac {
            return false;
        }
        if holder.session == origin.session && holder.port == origin.port && !holder.is_gone {
            return true;
        }
        let is_own = holder.session == origin.session && !holder.is_gone;
        if !is_own && self.is_at_limit(origin) {
            return false;
        }
        let holder = Holder { session: origin.session, port: origin.port, is_gone: false, ..holder };
        self.table.hold(at, holder, LeaseState::Leased, until);
        sink.bind(address, Some(binding(&holder)));
        sink.event(DhcpEvent::Moved { address, binding: binding(&holder) });
        true
    }

    /// The session is over: its leases run on, for its member to come back to, but nobody may use their addresses.
    pub fn session_ended(&mut self, session: SessionId, sink: &mut impl DhcpSink) {
        self.rates.end(session);
        loop {
            let next = self.table.of_session(session).next();
            let Some(at) = next else { break };
            self.table.set_gone(at);
            if self.table.place(at).state == LeaseState::Leased {
                sink.bind(self.table.address(at), None);
            }
        }
    }

    /// The operator ends the lease of `address`. `false` if there is none.
    pub fn release(&mut self, address: Ipv4Addr, now: Tick, sink: &mut impl DhcpSink) -> bool {
        let leased = |at: &Index| self.table.place(*at).state == LeaseState::Leased;
        let Some(at) = self.table.index(address).filter(leased) else { return false };
        self.end(at, LeaseEnd::Operator, now, sink);
        true
    }

    /// Addresses that somebody has, had, or wrongly uses.
    pub fn leases(&self, now: Tick) -> impl Iterator<Item = LeaseView> {
        (0..self.table.len()).filter_map(move |at| {
            let place = self.table.place(at);
            let is_empty = matches!(place.state, LeaseState::Unused | LeaseState::Closed | LeaseState::Free);
            if is_empty && place.holder.is_none() {
                return None;
            }
            let holder = place.holder;
            Some(LeaseView {
                address: self.table.address(at),
                state: place.state,
                member: holder.map(|holder| holder.member),
                session: holder.filter(|holder| !holder.is_gone).map(|holder| holder.session),
                mac: holder.map(|holder| holder.mac),
                client: holder.map(|holder| holder.key),
                host_name: place.host_name.as_deref().unwrap_or_default().to_vec(),
                is_reserved: place.is_reserved,
                left: place.until.since(now),
            })
        })
    }

    /// What the client with `address` calls itself. From the network.
    pub fn host_name(&self, address: Ipv4Addr) -> Option<&[u8]> {
        self.table.place(self.table.index(address)?).host_name.as_deref()
    }

    /// Addresses that are leased, and how many can be.
    pub fn usage(&self) -> (u64, u64) {
        (0..self.table.len()).map(|at| self.table.place(at).state).fold((0, 0), |(leased, all), state| {
            (leased + u64::from(state == LeaseState::Leased), all + u64::from(state != LeaseState::Closed))
        })
    }

    /// Messages so far.
    pub fn stats(&self) -> DhcpStats {
        self.stats
    }

    /// The lease of `at` ends; its client is remembered.
    fn end(&mut self, at: Index, why: LeaseEnd, now: Tick, sink: &mut impl DhcpSink) {
        let address = self.table.address(at);
        let holder = self.table.place(at).holder;
        self.table.free(at, true, now);
        // What has run out is known from the lease's own record.
        if why != LeaseEnd::Expired {
            self.write_down(at, sink);
        }
        sink.bind(address, None);
        if let Some(Holder { member, mac, .. }) = holder {
            sink.event(DhcpEvent::Ended { address, member, mac, why });
        }
    }

    /// Whether `origin` may put another address out of service. A member who finds everything in use, or says he has it,
    /// would do so with the whole pool; behind a bridge there are many.
    fn may_put_out(&self, origin: &Origin) -> bool {
        let most = if origin.is_bridge { CONFLICTS_OF_BRIDGE_MAX } else { CONFLICTS_MAX };
        self.table.conflicts_of(origin.member, most) < most
    }

    /// Somebody uses `at` who should not.
    fn put_out(&mut self, at: Index, now: Tick, sink: &mut impl DhcpSink) {
        self.table.put_out(at, now + Duration::from_secs(self.settings.decline_secs.into()));
        self.write_down(at, sink);
    }

    /// Puts the state of `at` into the journal.
    fn write_down(&mut self, at: Index, sink: &mut impl DhcpSink) {
        if let Some(line) = self.record(at).map(|record| record.to_line()) {
            let number = Some(sink.journal(&line)).filter(|number| *number != u64::MAX);
            self.records += u64::from(number.is_some());
            let place = self.table.place_mut(at);
            (place.durable, place.is_unwritten) = (number, number.is_none());
        }
    }

    /// Whether the session gets another answer.
    fn may_ask(&mut self, origin: &Origin, now: Tick) -> bool {
        let leases = u32::try_from(self.settings.leases_per_session).unwrap_or(u32::MAX);
        let rate = Rate { per_sec: MESSAGES_PER_SEC, burst: leases.saturating_mul(4).max(MESSAGES_BURST) };
        origin.is_bridge || self.rates.message(origin.session, rate, now)
    }

    /// Whether the session may change another lease. As many as it may have it takes at once.
    fn may_change(&mut self, origin: &Origin, now: Tick) -> bool {
        let leases = u32::try_from(self.settings.leases_per_session).unwrap_or(u32::MAX);
        let rate = Rate { per_sec: CHANGES_PER_SEC, burst: leases.max(CHANGES_BURST) };
        origin.is_bridge || self.rates.change(origin.session, rate, now)
    }

    /// Whether the session has as many addresses as it may.
    fn is_at_limit(&self, origin: &Origin) -> bool {
        !origin.is_bridge && self.taken_by(origin.session).count() >= self.settings.leases_per_session
    }

    /// Addresses that count for `session`. A session behind which there is a network may have any number, others are
    /// held to the limit; what they gave back stands in the same list.
    fn taken_by(&self, session: SessionId) -> impl Iterator<Item = Index> {
        self.table.of_session(session).take(SESSION_WALK_MAX).filter(|at| self.table.place(*at).is_taken())
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
struct Client<'a> {
    origin: Origin,
    mac: Mac,
    key: ClientKey,
    id: Option<&'a [u8]>,
}

impl Client<'_> {
    fn holder(&self) -> Holder {
        let Origin { port, session, member, .. } = self.origin;
        Holder { member, session, port, mac: self.mac, key: self.key, is_gone: false }
    }
}

fn binding(holder: &Holder) -> Binding {
    Binding { mac: holder.mac, port: holder.port, session: holder.session, member: holder.member }
}

/// SplitMix64: spreads jitter and seeds a hash, no more.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// What a single address, and what a single session, may cost the journal and the log. An honest client needs one
/// change, and another after a DECLINE elsewhere.
const CHANGES_PER_SEC: u32 = 4;
const CHANGES_BURST: u32 = 16;
/// What a session is answered. A client that got no answer asks again after seconds (RFC 2131 §4.1).
const MESSAGES_PER_SEC: u32 = 32;
const MESSAGES_BURST: u32 = 64;
/// Addresses out of service because of one member.
const CONFLICTS_MAX: usize = 4;
const CONFLICTS_OF_BRIDGE_MAX: usize = 64;
/// What one call of `poll` ends: some 100 µs.
const EXPIRIES_MAX: usize = 256;
/// A session's list is its leases and what it gave back; the newest stand in front.
const SESSION_WALK_MAX: usize = 4 * settings::SESSION_LEASES_MAX;
