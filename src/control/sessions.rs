//! Sessions that live, as the control threads know them: names, keys, who may come back.
//!
//! A worker owns what carries frames; this table owns what a login or an operator asks for. It hears of
//! the end of connections and sessions by the workers' reports.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use crate::ids::{ConnId, HubId, MemberId, SessionId};
use crate::tunnel::login::{CARD_PRODUCT, Direction};

/// Secret by which a client adds connections to its session.
pub type SessionKey = [u8; 20];

/// Which installation of the client a member uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId(pub [u8; 20]);

/// A session about to begin.
pub struct NewSession {
    /// Where.
    pub hub: HubId,
    /// Name of that hub.
    pub hub_name: String,
    /// Who.
    pub member: MemberId,
    /// His name, as stored.
    pub user: String,
    /// From which installation; `None` if the client does not say.
    pub client: Option<ClientId>,
    /// Product of the client, as it says.
    pub product: String,
    /// Which worker carries it.
    pub worker: usize,
    /// Connections it may have.
    pub conns_max: u8,
    /// Each connection carries data one way only.
    pub half_duplex: bool,
    /// Wall clock, in nanoseconds since 1970.
    pub since_ns: u64,
}

/// A session that lives.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// Its name, as the protocol wants it (note §3.8).
    pub name: String,
    /// Where.
    pub hub: HubId,
    /// Name of that hub.
    pub hub_name: String,
    /// Who.
    pub member: MemberId,
    /// His name, as stored.
    pub user: String,
    /// From which installation.
    pub client: Option<ClientId>,
    /// Product of the client, as it says.
    pub product: String,
    /// Which worker carries it.
    pub worker: usize,
    /// Wall clock, in nanoseconds since 1970.
    pub since_ns: u64,
    conns_max: u8,
    half_duplex: bool,
    /// Its worker was told to open its port.
    open: bool,
    key: SessionKey,
    conns: HashMap<ConnId, (SocketAddr, Direction)>,
}

/// Why a connection cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// There is no session of that key.
    Unknown,
    /// It has as many connections as it may have.
    Full,
}

/// A connection that was let in.
#[derive(Clone, Copy, Debug)]
pub struct Joined {
    /// Its session.
    pub session: SessionId,
    /// The worker of that session.
    pub worker: usize,
    /// Its number.
    pub conn: ConnId,
    /// Which way it carries data.
    pub direction: Direction,
    /// The client is our card.
    pub is_card: bool,
}

/// Sessions that live.
pub struct Sessions {
    table: Mutex<Table>,
    admission: Mutex<()>,
    /// How often the operator ended all sessions of somebody.
    evictions: AtomicU64,
    /// A session was opened or ended.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<SessionId, Session>,
    by_key: HashMap<SessionKey, SessionId>,
    /// Sessions and the last number given, by hub.
    hubs: HashMap<HubId, (usize, u64)>,
    last_session: u64,
    last_conn: u64,
}

impl Sessions {
    /// None yet. `start_ms` is the wall clock at start: numbers count up from it, so that they are never used
    /// twice as long as sessions begin less often than a million times a millisecond.
    pub fn new(start_ms: u64) -> Self {
        let first = start_ms << 20;
        let table = Table { last_session: first, last_conn: first, ..Table::default() };
        Self {
            table: Mutex::new(table),
            admission: Mutex::new(()),
            evictions: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// To be held from the look at a member's sessions to [`Self::begin`]: else logins at the same moment would
    /// not see each other, and pass limits or take nobody over.
    pub fn admission(&self) -> MutexGuard<'_, ()> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody is not to be there any more: who proved himself before now has to do so again. To be called with
    /// [`Self::admission`] held.
    pub fn evict(&self) {
        self.evictions.fetch_add(1, Relaxed);
    }

    /// Calls of [`Self::evict`].
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }

    /// Begins a session with its first connection; `None` if the hub has `sessions_max` already.
    pub fn begin(
        &self,
        new: NewSession,
        key: SessionKey,
        peer: SocketAddr,
        sessions_max: usize,
    ) -> Option<(Session, ConnId)> {
        let mut table = self.lock();
        let (count, number) = table.hubs.entry(new.hub).or_default();
        if *count >= sessions_max {
            return None;
        }
        (*count, *number) = (*count + 1, *number + 1);
        let name = format!("SID-{}-{}", new.user.to_ascii_uppercase(), number);
        let conn = table.next_conn();
        table.last_session += 1;
        let id = SessionId(table.last_session);
        let first = if new.half_duplex { Direction::ToServer } else { Direction::Both };
        let session = Session {
            id,
            name,
            hub: new.hub,
            hub_name: new.hub_name,
            member: new.member,
            user: new.user,
            client: new.client,
            product: new.product,
            worker: new.worker,
            since_ns: new.since_ns,
            conns_max: new.conns_max,
            half_duplex: new.half_duplex,
            open: false,
            key,
            conns: HashMap::from([(conn, (peer, first))]),
        };
        table.by_key.insert(key, id);
        table.sessions.insert(id, session.clone());
        Some((session, conn))
    }

    /// Adds a connection to the session of `key`. One more than agreed is let in: a client replaces a dead
    /// connection before we know of its death (protocol note §4.1).
    ///
    /// # Errors
    /// The code to answer follows from [`JoinError`].
    pub fn join(&self, key: &SessionKey, peer: SocketAddr) -> Result<Joined, JoinError> {
        let mut table = self.lock();
        let id = *table.by_key.get(key).ok_or(JoinError::Unknown)?;
        let conn = table.next_conn();
        let session = table.sessions.get_mut(&id).ok_or(JoinError::Unknown)?;
        // The table finds the key by a keyed hash; this keeps the comparison itself from telling anything.
        if !bool::from(session.key.ct_eq(key)) {
            return Err(JoinError::Unknown);
        }
        if session.conns.len() > usize::from(session.conns_max) {
            return Err(JoinError::Full);
        }
        let direction = session.next_direction();
        session.conns.insert(conn, (peer, direction));
        let is_card = session.product == CARD_PRODUCT;
        Ok(Joined { session: id, worker: session.worker, conn, direction, is_card })
    }

    /// Sessions of `member` in `hub`: those of the same installation, and how many others.
    pub fn of_member(&self, hub: HubId, member: MemberId, client: Option<ClientId>) -> (Vec<Session>, usize) {
        let table = self.lock();
        let mine = table.sessions.values().filter(|s| s.hub == hub && s.member == member);
        let (same, others): (Vec<_>, Vec<_>) = mine.partition(|s| client.is_some() && s.client == client);
        (same.into_iter().cloned().collect(), others.len())
    }

    /// Forgets a connection.
    pub fn leave(&self, session: SessionId, conn: ConnId) {
        if let Some(session) = self.lock().sessions.get_mut(&session) {
            session.conns.remove(&conn);
        }
    }

    /// Forgets a session; its key is worth nothing from now on.
    pub fn end(&self, id: SessionId) -> Option<Session> {
        let mut table = self.lock();
        let session = table.sessions.remove(&id)?;
        table.by_key.remove(&session.key);
        if let Some((count, _)) = table.hubs.get_mut(&session.hub) {
            *count -= 1;
        }
        self.changed.notify_waiters();
        Some(session)
    }

    /// The worker of a session was told of it: what it is told from now on comes after that.
    pub fn opened(&self, id: SessionId) {
        if let Some(session) = self.lock().sessions.get_mut(&id) {
            session.open = true;
        }
        self.changed.notify_waiters();
    }

    /// Waits until [`Self::opened`] was called for a session, as a client knows its key a moment earlier; `false`
    /// if it has ended.
    pub async fn wait_open(&self, id: SessionId) -> bool {
        loop {
            // Made before the look at the table, so that no change goes unnoticed.
            let changed = self.changed.notified();
            let open = self.lock().sessions.get(&id).map(|session| session.open);
            match open {
                Some(false) => changed.await,
                Some(true) => return true,
                None => return false,
            }
        }
    }

    /// Whether a session lives.
    pub fn is_alive(&self, id: SessionId) -> bool {
        self.lock().sessions.contains_key(&id)
    }

    /// The session called `name`, in any case, in `hub` if one is given.
    pub fn by_name(&self, hub: Option<&str>, name: &str) -> Vec<Session> {
        let table = self.lock();
        let wanted = table.sessions.values().filter(|s| {
            s.name.eq_ignore_ascii_case(name) && hub.is_none_or(|hub| s.hub_name.eq_ignore_ascii_case(hub))
        });
        wanted.cloned().collect()
    }

    /// All, oldest first.
    pub fn all(&self) -> Vec<Session> {
        let mut all: Vec<_> = self.lock().sessions.values().cloned().collect();
        all.sort_by_key(|session| session.id);
        all
    }

    /// How many live in `hub`.
    pub fn count(&self, hub: HubId) -> usize {
        self.lock().hubs.get(&hub).map_or(0, |(count, _)| *count)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while the table is half-changed; and if it did, the rest could still be served.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn next_conn(&mut self) -> ConnId {
        self.last_conn += 1;
        ConnId(self.last_conn)
    }
}

impl Session {
    /// The peer of its oldest connection; `None` while it has none.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.conns.iter().min_by_key(|(id, _)| **id).map(|(_, (peer, _))| *peer)
    }

    /// Connections now.
    pub fn conns(&self) -> usize {
        self.conns.len()
    }

    /// Half-duplex sessions get connections to the client until there are more of those than the others
    /// (protocol note §4.3).
    fn next_direction(&self) -> Direction {
        if !self.half_duplex {
            return Direction::Both;
        }
        let to_client = self.conns.values().filter(|(_, direction)| *direction == Direction::ToClient).count();
        if to_client > self.conns.len() - to_client { Direction::ToServer } else { Direction::ToClient }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> SocketAddr {
        "192.0.2.7:40000".parse().unwrap()
    }

    fn new(half_duplex: bool, client: Option<ClientId>) -> NewSession {
        NewSession {
            hub: HubId(0),
            hub_name: "PUBLIC".into(),
            member: MemberId(1),
            user: "alice".into(),
            client,
            product: String::new(),
            worker: 1,
            conns_max: 8,
            half_duplex,
            since_ns: 0,
        }
    }

    #[test]
    fn names_count_up_per_hub_and_ids_follow_the_start() {
        let sessions = Sessions::new(5);
        let (first, conn) = sessions.begin(new(false, None), [1; 20], peer(), 10).unwrap();
        let (second, _) = sessions.begin(new(false, None), [2; 20], peer(), 10).unwrap();
        assert_eq!((first.name.as_str(), second.name.as_str()), ("SID-ALICE-1", "SID-ALICE-2"));
        assert_eq!(first.id, SessionId((5 << 20) + 1));
        assert_eq!(conn, ConnId((5 << 20) + 1));
        assert_eq!(sessions.count(HubId(0)), 2);
    }

    #[test]
    fn a_full_hub_refuses_and_has_room_again() {
        let sessions = Sessions::new(0);
        let (first, _) = sessions.begin(new(false, None), [1; 20], peer(), 1).unwrap();
        assert!(sessions.begin(new(false, None), [2; 20], peer(), 1).is_none());
        sessions.end(first.id);
        assert!(sessions.begin(new(false, None), [2; 20], peer(), 1).is_some());
    }

    #[test]
    fn join_wants_the_key_and_stops_one_above_the_limit() {
        let sessions = Sessions::new(0);
        let (session, _) = sessions.begin(new(false, None), [1; 20], peer(), 1).unwrap();
        assert_eq!(sessions.join(&[9; 20], peer()).unwrap_err(), JoinError::Unknown);
        for _ in 0..8 {
            let joined = sessions.join(&[1; 20], peer()).unwrap();
            assert_eq!((joined.session, joined.worker, joined.direction), (session.id, 1, Direction::Both));
        }
        assert_eq!(sessions.join(&[1; 20], peer()).unwrap_err(), JoinError::Full);
        sessions.end(session.id);
        assert_eq!(sessions.join(&[1; 20], peer()).unwrap_err(), JoinError::Unknown);
    }

    #[tokio::test]
    async fn who_joins_waits_for_the_port_or_the_end() {
        let sessions = Sessions::new(0);
        let (first, _) = sessions.begin(new(false, None), [1; 20], peer(), 9).unwrap();
        let (second, _) = sessions.begin(new(false, None), [2; 20], peer(), 9).unwrap();
        let (open, gone, ()) = tokio::join!(sessions.wait_open(first.id), sessions.wait_open(second.id), async {
            tokio::task::yield_now().await;
            sessions.opened(first.id);
            sessions.end(second.id);
        });
        assert_eq!((open, gone), (true, false));
    }

    #[test]
    fn half_duplex_directions_follow_the_protocol() {
        let sessions = Sessions::new(0);
        sessions.begin(new(true, None), [1; 20], peer(), 1).unwrap();
        let answers: Vec<u32> = (0..7)
            .map(|_| match sessions.join(&[1; 20], peer()).unwrap().direction {
                Direction::Both => 0,
                Direction::ToClient => 1,
                Direction::ToServer => 2,
            })
            .collect();
        assert_eq!(answers, [1, 1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn the_same_installation_is_told_from_others() {
        let sessions = Sessions::new(0);
        let (mine, other) = (Some(ClientId([1; 20])), Some(ClientId([2; 20])));
        let (session, _) = sessions.begin(new(false, mine), [1; 20], peer(), 9).unwrap();
        sessions.begin(new(false, other), [2; 20], peer(), 9).unwrap();
        sessions.begin(new(false, None), [3; 20], peer(), 9).unwrap();
        let (same, others) = sessions.of_member(HubId(0), MemberId(1), mine);
        assert_eq!((same.len(), same[0].id, others), (1, session.id, 2));
        assert_eq!(sessions.of_member(HubId(0), MemberId(1), None).0.len(), 0);
    }
}
