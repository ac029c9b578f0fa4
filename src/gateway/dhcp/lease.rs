//! The lease table: a place for each address of the pool, found by address, by client, by member and by session.
//!
//! Everything is as large as the pool from the start. Finding, giving and freeing take the same time however full it is;
//! whoever walks over the leases of a member or a session bounds that himself.
#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;

use aws_lc_rs::digest;

use super::lists::{Lists, Timers};
use super::settings::DhcpSettings;
use crate::hub::limiter::StormLimiter;
use crate::ids::{MemberId, PortId, SessionId};
use crate::tick::Tick;
use crate::wire::ethernet::Mac;

/// Number of a place.
pub(super) type Index = u32;

/// What is with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Nobody had it yet.
    Unused,
    /// Nobody has it. If it has a holder, that is who had it last.
    Free,
    /// Somebody shall get it if nobody answers its probe.
    Probing,
    /// Kept for the one it was offered to.
    Offered,
    /// Leased.
    Leased,
    /// Out of service: somebody uses it without a lease.
    Conflict,
    /// Never given.
    Closed,
}

/// Who a client is, within what one member may claim: its identifier (61), else type and address of its hardware.
///
/// Identifiers are kept whole up to 30 bytes, which all known kinds fit; of longer ones a digest is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey {
    len: u8,
    bytes: [u8; KEY_BYTES],
}

impl ClientKey {
    /// From option 61.
    pub fn from_id(id: &[u8]) -> Self {
        let mut bytes = [0; KEY_BYTES];
        let len = match bytes.get_mut(..id.len()) {
            Some(whole) => {
                whole.copy_from_slice(id);
                u8::try_from(id.len()).unwrap_or(DIGEST)
            }
            None => {
                let digest = digest::digest(&digest::SHA256, id);
                bytes.copy_from_slice(&digest.as_ref()[..KEY_BYTES]);
                DIGEST
            }
        };
        Self { len, bytes }
    }

    /// Of a client that sends no identifier. One that sends its hardware address as identifier is the same.
    pub fn from_mac(mac: Mac) -> Self {
        let [a, b, c, d, e, f] = mac.0;
        Self::from_id(&[1, a, b, c, d, e, f])
    }

    /// The identifier, or the digest of a long one.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or(&self.bytes)
    }

    /// Whether [`Self::bytes`] is a digest.
    pub fn is_digest(&self) -> bool {
        self.len == DIGEST
    }

    /// What [`Self::bytes`] and [`Self::is_digest`] said.
    pub(super) fn from_parts(bytes: &[u8], is_digest: bool) -> Option<Self> {
        match is_digest {
            true => Some(Self { len: DIGEST, bytes: bytes.try_into().ok()? }),
            false => (bytes.len() <= KEY_BYTES).then(|| Self::from_id(bytes)),
        }
    }
}

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

const KEY_BYTES: usize = 30;
const DIGEST: u8 = u8::MAX;

/// Somebody with an address, or who had it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) member: MemberId,
    pub(super) session: SessionId,
    pub(super) port: PortId,
    pub(super) mac: Mac,
    pub(super) key: ClientKey,
    /// The session is over.
    pub(super) is_gone: bool,
}

/// An address.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) state: LeaseState,
    /// When the state ends; for a free address: since when it is free.
    pub(super) until: Tick,
    pub(super) holder: Option<Holder>,
    /// Somebody had it once.
    pub(super) is_used: bool,
    pub(super) is_reserved: bool,
    owner: u8,
    /// Number of the journal's record that has the lease.
    pub(super) durable: Option<u64>,
    /// The journal had no room for the record: nothing may be promised until it is written.
    pub(super) is_unwritten: bool,
    /// How often the lease may change.
    pub(super) changes: StormLimiter,
    /// What the client calls itself.
    pub(super) host_name: Option<Box<[u8]>>,
}

impl Place {
    /// Whether the address counts as one that its session has.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self.state, LeaseState::Probing | LeaseState::Offered | LeaseState::Leased)
    }
}

/// See the module text.
#[derive(Debug)]
pub(super) struct LeaseTable {
    first: u32,
    pool_len: u32,
    /// Reserved addresses outside of the pool, in order; their places follow those of the pool.
    extra: Box<[Ipv4Addr]>,
    places: Box<[Place]>,
    hash_seed: u64,
    by_client: Lists,
    by_member: Lists,
    by_session: Lists,
    /// Addresses out of service, by the member who said so.
    conflicts: Lists,
    /// What may be given to anybody: a list for each worker of addresses without use, then one for each of free ones,
    /// in the order in which they became free.
    spare: Lists,
    owners: usize,
    pub(super) timers: Timers,
}

impl LeaseTable {
    pub(super) fn new(settings: &DhcpSettings, reserved: &[Ipv4Addr], hash_seed: u64) -> Self {
        let (first, last) = (*settings.pool.start(), *settings.pool.end());
        let fits = first <= last && settings.is_inside(first) && settings.is_inside(last);
        let first = u32::from(first);
        let pool_len = if fits { (u32::from(last) - first + 1).min(super::settings::POOL_MAX) } else { 0 };
        let is_extra = |address: &&Ipv4Addr| u32::from(**address).wrapping_sub(first) >= pool_len;
        let mut extra: Vec<Ipv4Addr> = reserved.iter().filter(is_extra).copied().collect();
        extra.sort_unstable();
        extra.dedup();
        let addresses = (0..pool_len).map(|n| Ipv4Addr::from(first + n)).chain(extra.iter().copied());
        let owner = |address| settings.owner_of.as_ref().map_or(0, |owner_of| owner_of(address)) % OWNERS_MAX;
        let places: Box<[Place]> = addresses
            .map(|address| Place {
                state: if settings.is_host(address) { LeaseState::Unused } else { LeaseState::Closed },
                until: Tick::default(),
                holder: None,
                is_used: false,
                is_reserved: reserved.binary_search(&address).is_ok(),
                owner: u8::try_from(owner(address)).unwrap_or(0),
                durable: None,
                is_unwritten: false,
                changes: StormLimiter::default(),
                host_name: None,
            })
            .collect();
        let count = places.len();
        let owners = places.iter().map(|place| usize::from(place.owner) + 1).max().unwrap_or(1);
        let index = || Lists::new(count.next_power_of_two(), count);
        let (by_client, by_member, by_session, conflicts) = (index(), index(), index(), index());
        let extra = extra.into_boxed_slice();
        let spare = Lists::new(2 * owners, count);
        let timers = Timers::new(count);
        let mut table = Self {
            first,
            pool_len,
            extra,
            places,
            hash_seed,
            by_client,
            by_member,
            by_session,
            conflicts,
            spare,
            owners,
            timers,
        };
        for address in &settings.excluded {
            if let Some(at) = table.index(*address) {
                table.places[at as usize].state = LeaseState::Closed;
            }
        }
        (0..table.len()).for_each(|at| table.make_spare(at));
        table
    }

    pub(super) fn len(&self) -> Index {
        Index::try_from(self.places.len()).unwrap_or(Index::MAX)
    }

    pub(super) fn index(&self, address: Ipv4Addr) -> Option<Index> {
        let at = u32::from(address).wrapping_sub(self.first);
        if at < self.pool_len {
            return Some(at);
        }
        let extra = self.extra.binary_search(&address).ok()?;
        Some(self.pool_len + Index::try_from(extra).ok()?)
    }

    pub(super) fn address(&self, at: Index) -> Ipv4Addr {
        match at.checked_sub(self.pool_len) {
            None => Ipv4Addr::from(self.first + at),
            Some(extra) => self.extra[extra as usize],
        }
    }

    pub(super) fn place(&self, at: Index) -> &Place {
        &self.places[at as usize]
    }

    /// For what no index depends on: not state, holder or date.
    pub(super) fn place_mut(&mut self, at: Index) -> &mut Place {
        &mut self.places[at as usize]
    }

    /// `at` gets a holder and a state that lasts until `until`.
    pub(super) fn hold(&mut self, at: Index, holder: Holder, state: LeaseState, until: Tick) {
        self.spare.remove(at);
        self.conflicts.remove(at);
        self.enter(at, holder);
        let place = &mut self.places[at as usize];
        place.state = state;
        place.until = until;
        place.is_used |= state == LeaseState::Leased;
        self.timers.set(at, until);
    }

    /// Nobody has `at` from `now` on. With `remember` its holder stays known as the one who had it last.
    pub(super) fn free(&mut self, at: Index, remember: bool, now: Tick) {
        self.timers.cancel(at);
        self.conflicts.remove(at);
        if !remember {
            self.forget(at);
        }
        let place = &mut self.places[at as usize];
        if place.state != LeaseState::Closed {
            place.state = if place.is_used { LeaseState::Free } else { LeaseState::Unused };
            place.until = now;
            place.durable = None;
        }
        self.make_spare(at);
    }

    /// `at` is out of service until `until`. Its holder, who said so, stays known by session and member.
    pub(super) fn put_out(&mut self, at: Index, until: Tick) {
        self.spare.remove(at);
        self.by_client.remove(at);
        if let Some(Holder { member, .. }) = self.places[at as usize].holder {
            self.conflicts.push_front(self.member_list(member), at);
        }
        let place = &mut self.places[at as usize];
        (place.state, place.until, place.is_used) = (LeaseState::Conflict, until, true);
        (place.durable, place.host_name) = (None, None);
        self.timers.set(at, until);
    }

    /// The holder of `at` is unknown from now on.
    pub(super) fn forget(&mut self, at: Index) {
        self.by_client.remove(at);
        self.by_member.remove(at);
        self.by_session.remove(at);
        let place = &mut self.places[at as usize];
        (place.holder, place.host_name) = (None, None);
    }

    /// The session of the holder of `at` is over. His member finds that one first.
    pub(super) fn set_gone(&mut self, at: Index) {
        self.by_session.remove(at);
        if let Some(holder) = &mut self.places[at as usize].holder {
            holder.is_gone = true;
            let member = holder.member;
            self.by_member.push_front(self.member_list(member), at);
        }
    }

    /// Places whose holder is client `key` of `member`.
    pub(super) fn of_client(&self, member: MemberId, key: &ClientKey) -> impl Iterator<Item = Index> {
        let key = *key;
        self.by_client
            .iter(self.client_list(member, &key))
            .filter(move |at| self.holder_is(*at, |holder| holder.member == member && holder.key == key))
    }

    /// Places whose holder is `member`, those of sessions that are over first.
    pub(super) fn of_member(&self, member: MemberId) -> impl Iterator<Item = Index> {
        self.by_member
            .iter(self.member_list(member))
            .filter(move |at| self.holder_is(*at, |holder| holder.member == member))
    }

    /// How many places are out of service because of `member`; walks over `most` at most.
    pub(super) fn conflicts_of(&self, member: MemberId, most: usize) -> usize {
        let all = self.conflicts.iter(self.member_list(member));
        all.filter(|at| self.holder_is(*at, |holder| holder.member == member)).take(most).count()
    }

    /// Places whose holder is session `session`, which is not over.
    pub(super) fn of_session(&self, session: SessionId) -> impl Iterator<Item = Index> {
        self.by_session
            .iter(self.session_list(session))
            .filter(move |at| self.holder_is(*at, |holder| holder.session == session && !holder.is_gone))
    }

    /// An address for somebody new: one of `owner` if there is one, never used if possible, else free for longest.
    pub(super) fn spare(&self, owner: usize) -> Option<Index> {
        let own = owner.min(self.owners - 1);
        let both = |owner: usize| self.spare.first(owner).or_else(|| self.spare.first(self.owners + owner));
        both(own)
            .or_else(|| (0..self.owners).find_map(|other| self.spare.first(other)))
            .or_else(|| (self.owners..self.spare.count()).find_map(|list| self.spare.first(list)))
    }

    fn make_spare(&mut self, at: Index) {
        let place = &self.places[at as usize];
        if place.is_reserved {
            return;
        }
        let owner = usize::from(place.owner);
        match place.state {
            LeaseState::Unused => self.spare.push_back(owner, at),
            LeaseState::Free => self.spare.push_back(self.owners + owner, at),
            _ => {}
        }
    }

    fn enter(&mut self, at: Index, holder: Holder) {
        self.places[at as usize].holder = Some(holder);
        let lists = [
            self.client_list(holder.member, &holder.key),
            self.member_list(holder.member),
            self.session_list(holder.session),
        ];
        self.by_client.push_front(lists[0], at);
        self.by_member.push_front(lists[1], at);
        if holder.is_gone {
            self.by_session.remove(at);
        } else {
            self.by_session.push_front(lists[2], at);
        }
    }

    fn holder_is(&self, at: Index, is: impl FnOnce(&Holder) -> bool) -> bool {
        self.places[at as usize].holder.as_ref().is_some_and(is)
    }

    fn client_list(&self, member: MemberId, key: &ClientKey) -> usize {
        self.list((member, key))
    }

    fn member_list(&self, member: MemberId) -> usize {
        self.list(member)
    }

    fn session_list(&self, session: SessionId) -> usize {
        self.list(session)
    }

    /// As many lists as there are places. Clients choose what is hashed, hence the seed.
    fn list(&self, what: impl Hash) -> usize {
        let mut hasher = DefaultHasher::new();
        self.hash_seed.hash(&mut hasher);
        what.hash(&mut hasher);
        let mask = u64::try_from(self.by_client.count()).unwrap_or(1) - 1;
        usize::try_from(hasher.finish() & mask).unwrap_or(0)
    }
}

/// As many as there are workers.
const OWNERS_MAX: usize = PortId::WORKERS_MAX;
