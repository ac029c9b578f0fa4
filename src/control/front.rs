//! A member's connection from TCP to the worker: TLS, HTTP, login, welcome, hand-over.
//!
//! 1. TLS handshake, within its deadline
//! 2. HTTP front and login message, parsed by the pure machine in `tunnel::login`
//! 3. who: hub, authenticator, policies, limits
//! 4. the same member's older session is taken over
//! 5. welcome, then the socket goes to a worker
//!
//! A refusal is answered with the protocol's code, and the connection is closed properly.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::auth::certificate::Proof;
use super::auth::{Attempt, AuthError, Authenticated, Authenticator, Presented, within};
use super::log::EventSender;
use super::sessions::{ClientId, JoinError, Joined, NewSession, Session, SessionKey, Sessions};
use super::state::secrets;
use super::stream::{MemberStream, StreamError};
use super::ways::WayOut;
use super::workers::{WorkerHandle, place};
use crate::config::snapshot::CurrentConfig;
use crate::config::{Hub, SameMember};
use crate::event::{Event, Refusal, Stamp, What};
use crate::hub::policy::{Item, Policy};
use crate::hub::{HubShared, PortKind};
use crate::ids::{ConnId, HubId, MemberId, SessionId};
use crate::metrics::closes::CloseReason;
use crate::sys::clock::{monotonic, wall_ns};
use crate::sys::socket::{give_up_soon, prepare_member_socket};
use crate::tls::aead::AeadBackend;
use crate::tls::buffered::Parts;
use crate::tunnel::conn::Conn;
use crate::tunnel::error_code::ErrorCode;
use crate::tunnel::link::{LinkSettings, Way};
use crate::tunnel::login::negotiate::{Limits, Negotiated, negotiate};
use crate::tunnel::login::server::{AdditionalRequest, Credentials, LoginRequest, Next, ServerLogin, Welcome};
use crate::tunnel::login::{CARD_PRODUCT, Direction, Hello};
use crate::worker::seeds::{Command, ConnSeed, SessionSeed};

/// What every connection needs on its way in.
pub struct Front {
    /// What the operator decided, as it is now.
    pub config: CurrentConfig,
    /// How rustls shakes hands.
    pub tls: Arc<ServerConfig>,
    /// Which AEAD the record layers use.
    pub aead: AeadBackend,
    /// Who may log in.
    pub authenticator: Box<dyn Authenticator>,
    /// Who is there.
    pub sessions: Sessions,
    /// Where frames are carried.
    pub workers: Arc<[WorkerHandle]>,
    /// The hubs themselves.
    pub hubs: Arc<[Arc<HubShared>]>,
    /// The ways out of those with a gateway.
    pub ways: Arc<[WayOut]>,
    /// What happened.
    pub events: EventSender,
    /// Logins that were not granted.
    pub refusals: Refusals,
    /// Becomes true when the server stops: who is on the way in is sent away properly.
    pub stopping: watch::Receiver<bool>,
}

/// How often a login was refused, by reason.
#[derive(Debug, Default)]
pub struct Refusals([AtomicU64; Refusal::ALL.len()]);

impl Refusals {
    fn count(&self, refusal: Refusal) {
        self.0[refusal as usize].fetch_add(1, Relaxed);
    }

    /// Reason and count of each.
    pub fn read(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.iter().map(|refusal| (*refusal, self.0[*refusal as usize].load(Relaxed)))
    }
}

/// A login that was granted.
struct Granted {
    session: Session,
    conn: ConnId,
    key: SessionKey,
    terms: Negotiated,
    policy: Policy,
    kind: PortKind,
}

/// Why a login is refused: what the client is told, what the log says.
type No = (ErrorCode, Refusal);

impl Front {
    /// Serves one accepted connection until a worker has it or it is closed.
    pub async fn serve(&self, tcp: TcpStream, peer: SocketAddr) {
        // Small messages go back and forth; the worker's settings replace this one.
        if tcp.set_nodelay(true).is_err() {
            return;
        }
        let config = Arc::clone(&self.config.load().config);
        let server = &config.server;
        let handshake = MemberStream::accept(tcp, &self.tls, self.aead);
        let handshake = timeout(server.handshake_timeout, handshake);
        let Some(handshake) = self.unless_stopping(handshake, STOP_GRACE).await else { return };
        let mut stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS connection"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
        };
        if let Some(records) = server.rekey_after_records {
            stream.set_rekey_after(records);
        }
        let conversation = timeout(server.login_timeout, self.converse(&mut stream, peer));
        let conversation = self.unless_stopping(conversation, Duration::ZERO).await;
        match conversation.unwrap_or(Ok(Ok(None))) {
            Ok(Ok(Some(entry))) => self.hand_over(stream, peer, entry),
            Ok(Ok(None)) => stream.close().await,
            Ok(Err(StreamError::Socket(error))) => tracing::debug!(%peer, %error, "connection ended before its login"),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "connection closed before its login");
                stream.close().await;
            }
            Err(_) => {
                tracing::debug!(%peer, "login took too long");
                stream.close().await;
            }
        }
    }

    /// The result of `work`; `None` if it is not done `grace` after the server has begun to stop.
    async fn unless_stopping<T>(&self, work: impl Future<Output = T>, grace: Duration) -> Option<T> {
        let mut stopping = self.stopping.clone();
        let stop = async {
            // An error means that who would say so is gone, which is no less an end.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            done = work => Some(done),
            () = stop => None,
        }
    }

    /// HTTP and login; `None` once the connection is to be closed.
    async fn converse(&self, stream: &mut MemberStream, peer: SocketAddr) -> Result<Option<Entry>, StreamError> {
        let mut challenge = [0; 20];
        secrets::random(&mut challenge);
        let mut login = ServerLogin::new(hello(), challenge);
        loop {
            match login.next() {
                Next::NeedBytes => {
                    let plain = stream.receive().await?;
                    login.receive(&plain);
                }
                Next::Write(bytes) => stream.send(&bytes).await?,
                Next::WriteAndClose(bytes) => {
                    stream.send(&bytes).await?;
                    return Ok(None);
                }
                Next::Login(request) => return self.log_in(stream, login, *request, peer).await,
                Next::Additional(request) => return self.join(stream, login, &request, peer).await,
                Next::EnumHubs => {
                    let config = Arc::clone(&self.config.load().config);
                    let names: Vec<&str> = config.hubs.iter().map(|hub| hub.name.as_str()).collect();
                    let answer = login.hubs(&names);
                    stream.send(&answer).await?;
                }
            }
        }
    }

    async fn log_in(
        &self,
        stream: &mut MemberStream,
        mut login: ServerLogin,
        request: LoginRequest,
        peer: SocketAddr,
    ) -> Result<Option<Entry>, StreamError> {
        let granted = match self.decide(&request, peer).await {
            Ok(granted) => granted,
            Err((code, refusal)) => {
                self.refusals.count(refusal);
                let (hub, user) = (request.hub.as_str().into(), request.user.as_str().into());
                self.tell(What::LoginRefused { peer, hub, user, refusal });
                let answer = login.refuse(code);
                stream.send(&answer).await?;
                return Ok(None);
            }
        };
        let answer = login.accept(&welcome(&granted));
        let undo = Undo::new(|| drop(self.sessions.end(granted.session.id)));
        stream.send(&answer).await?;
        undo.forget();
        let seed = SessionSeed {
            session: granted.session.id,
            member: granted.session.member,
            hub: granted.session.hub,
            port: self.hubs[usize::from(granted.session.hub.0)].compile(granted.kind, &granted.policy),
            link: LinkSettings {
                timeout: Duration::from_millis(u64::from(granted.terms.timeout_ms)),
                compress: granted.terms.compress,
                supers: granted.terms.supers,
                qos: granted.terms.qos,
                queue_depth: QUEUE_FRAMES,
                seed: u64::from_be_bytes(*granted.key.first_chunk().expect("a key has 20 bytes")),
            },
        };
        let direction = if granted.terms.half_duplex { Direction::ToServer } else { Direction::Both };
        Ok(Some(Entry {
            worker: granted.session.worker,
            conn: granted.conn,
            direction,
            is_card: granted.session.product == CARD_PRODUCT,
            plain: login.into_leftover(),
            home: Home::New(Box::new(seed), Box::new(granted.session)),
        }))
    }

    /// Hub, secret, policies, limits, in this order; then the session exists.
    async fn decide(&self, request: &LoginRequest, peer: SocketAddr) -> Result<Granted, No> {
        let config = Arc::clone(&self.config.load().config);
        let (at, hub) = config.hub(&request.hub).ok_or((ErrorCode::HubNotFound, Refusal::UnknownHub))?;
        let hub_id = HubId(u16::try_from(at).expect("a configuration has at most 4096 hubs"));
        let attempt = Attempt {
            hub: hub.name.as_str().into(),
            user: request.user.as_str().into(),
            source: peer.ip(),
            presented: presented(request),
            now: monotonic(),
        };
        for _ in 0..EVICTIONS_MAX {
            let evictions = self.sessions.evictions();
            let account = within(&*self.authenticator, &attempt, AUTHENTICATION_MAX).await.map_err(no_of)?;
            if let Some(granted) = self.admit(request, peer, (hub_id, hub), &account, evictions)? {
                return Ok(granted);
            }
        }
        Err((ErrorCode::HubBusy, Refusal::HubRefused))
    }

    /// The session of somebody who proved who he is; `None` if since then somebody was evicted, perhaps he.
    fn admit(
        &self,
        request: &LoginRequest,
        peer: SocketAddr,
        (hub_id, hub): (HubId, &Hub),
        account: &Authenticated,
        evictions: u64,
    ) -> Result<Option<Granted>, No> {
        let policy = policy_of(hub, &account.policy);
        let kind = check_modes(request, hub, &policy)?;
        let client = client_id(request);
        let _admission = self.sessions.admission();
        if self.sessions.evictions() != evictions {
            return Ok(None);
        }
        let (same, others) = self.sessions.of_member(hub_id, account.member, client);
        let logins_max = policy.value(Item::MultiLogins);
        if logins_max > 0 && others as u64 >= u64::from(logins_max) {
            return Err((ErrorCode::TooManySessionsOfUser, Refusal::HubRefused));
        }
        if !same.is_empty() && hub.same_member == SameMember::Refuse {
            return Err((ErrorCode::TooManySessionsOfUser, Refusal::HubRefused));
        }
        for session in &same {
            self.end(session, CloseReason::TakenOver);
        }
        let terms = negotiate(&request.wants, &limits(hub, &policy));
        let mut random = [0; 28];
        secrets::random(&mut random);
        let (key, draw) = random.split_at(20);
        let key: SessionKey = key.try_into().expect("20 of 28 bytes");
        let draw = u64::from_be_bytes(draw.try_into().expect("8 of 28 bytes"));
        let worker = match same.first() {
            // His FDB entries and lease are at home there.
            Some(session) => session.worker,
            None => place(&self.workers, draw),
        };
        let new = NewSession {
            hub: hub_id,
            hub_name: hub.name.clone(),
            member: account.member,
            user: account.name.to_string(),
            client,
            product: request.client.product.clone(),
            worker,
            conns_max: terms.max_connection,
            half_duplex: terms.half_duplex,
            since_ns: wall_ns(),
        };
        let sessions_max = usize::try_from(hub.sessions_max).unwrap_or(usize::MAX);
        let (session, conn) =
            self.sessions.begin(new, key, peer, sessions_max).ok_or((ErrorCode::HubBusy, Refusal::HubRefused))?;
        Ok(Some(Granted { session, conn, key, terms, policy, kind }))
    }

    /// Ends all sessions of a member, those included that are about to begin; how many. What the accounts say by now
    /// decides whether he may come back.
    pub fn evict(&self, hub: HubId, member: MemberId, reason: CloseReason) -> usize {
        let _admission = self.sessions.admission();
        self.sessions.evict();
        let sessions = self.sessions.all();
        let his = sessions.iter().filter(|session| session.hub == hub && session.member == member);
        his.map(|session| self.end(session, reason)).count()
    }

    /// Ends a session: it is forgotten here at once, its worker closes it.
    pub fn end(&self, session: &Session, reason: CloseReason) {
        if self.sessions.end(session.id).is_some() {
            self.workers[session.worker].tell(Command::End(session.id, reason));
        }
    }

    async fn join(
        &self,
        stream: &mut MemberStream,
        mut login: ServerLogin,
        request: &AdditionalRequest,
        peer: SocketAddr,
    ) -> Result<Option<Entry>, StreamError> {
        let joined = match self.sessions.join(&request.session_key, peer) {
            Ok(joined) => joined,
            Err(error) => {
                let answer = login.refuse(match error {
                    JoinError::Unknown => ErrorCode::SessionTimeout,
                    JoinError::Full => ErrorCode::TooManyConnections,
                });
                stream.send(&answer).await?;
                return Ok(None);
            }
        };
        let Joined { session, worker, conn, direction, is_card } = joined;
        let undo = Undo::new(|| self.sessions.leave(session, conn));
        if !self.sessions.wait_open(session).await {
            let answer = login.refuse(ErrorCode::SessionTimeout);
            stream.send(&answer).await?;
            return Ok(None);
        }
        let answer = login.accept_additional(direction);
        stream.send(&answer).await?;
        undo.forget();
        Ok(Some(Entry { worker, conn, direction, is_card, plain: login.into_leftover(), home: Home::Known(session) }))
    }

    fn hand_over(&self, stream: MemberStream, peer: SocketAddr, entry: Entry) {
        let Entry { worker, conn: id, direction, is_card, plain, home } = entry;
        let session_id = match &home {
            Home::New(seed, _) => seed.session,
            Home::Known(session) => *session,
        };
        let parts = stream.into_parts().and_then(|(socket, parts)| {
            prepare_member_socket(&socket, NOTSENT_LOWAT)?;
            self.config.load().config.server.congestion.apply(&socket)?;
            if is_card {
                give_up_soon(&socket, CARD_SILENT)?;
            }
            Ok((socket, parts))
        });
        let (socket, Parts { layer, cipher }) = match parts {
            Ok(parts) => parts,
            Err(error) => {
                tracing::warn!(%peer, %error, "a connection could not be handed to its worker");
                match home {
                    Home::New(..) => drop(self.sessions.end(session_id)),
                    Home::Known(_) => self.sessions.leave(session_id, id),
                }
                return;
            }
        };
        let suite = layer.suite();
        let way = Way { send: direction != Direction::ToServer, receive: direction != Direction::ToClient };
        let conn = Box::new(Conn::new(layer));
        let seed = Box::new(ConnSeed { id, peer, socket: socket.into(), conn, way, plain, cipher });
        let is_new = matches!(home, Home::New(..));
        let command = match home {
            Home::New(session, known) => {
                self.tell(What::SessionOpened {
                    session: session_id,
                    name: known.name.as_str().into(),
                    member: known.member,
                    user: known.user.as_str().into(),
                    hub: known.hub_name.as_str().into(),
                    worker: known.worker,
                    client: known.product.as_str().into(),
                });
                self.workers[worker].sessions.fetch_add(1, Relaxed);
                Command::Open(session, seed)
            }
            Home::Known(session) => Command::Attach(session, seed),
        };
        self.tell(What::ConnectionOpened { session: session_id, conn: id, peer, suite: suite.name() });
        self.workers[worker].tell(command);
        if is_new {
            self.sessions.opened(session_id);
        }
        // Ended between login and now, by the operator or by the same member: then the worker got the order
        // to end it before the order to open it.
        if !self.sessions.is_alive(session_id) {
            self.workers[worker].tell(Command::End(session_id, CloseReason::TakenOver));
        }
    }

    /// Puts an event on the log.
    pub fn tell(&self, what: What) {
        self.events.send(Event { at: Stamp { wall_ns: wall_ns(), tick: monotonic() }, what });
    }
}

/// Undoes what a login has entered in the session table, unless the connection gets as far as its worker: the
/// deadline or the end of the server may drop the login at any await.
struct Undo<F: FnMut()>(Option<F>);

impl<F: FnMut()> Undo<F> {
    fn new(undo: F) -> Self {
        Self(Some(undo))
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        if let Some(undo) = &mut self.0 {
            undo();
        }
    }
}

/// A connection that may carry frames.
struct Entry {
    worker: usize,
    conn: ConnId,
    direction: Direction,
    /// The client is our card, which takes a reset well and comes back. Stock clients do not (protocol note §1.1).
    is_card: bool,
    plain: Vec<u8>,
    home: Home,
}

/// Where a connection belongs.
enum Home {
    New(Box<SessionSeed>, Box<Session>),
    Known(SessionId),
}

fn hello() -> Hello {
    Hello { product: concat!("Hublane ", env!("CARGO_PKG_VERSION")).into(), version: HELLO_VERSION, build: HELLO_BUILD }
}

fn presented(request: &LoginRequest) -> Presented {
    match &request.credentials {
        Credentials::Anonymous => Presented::Anonymous,
        Credentials::HashedPassword(secure) => Presented::Hashed { secure: *secure, challenge: request.challenge },
        Credentials::PlainPassword(password) => Presented::Plain(password.clone()),
        Credentials::Certificate { cert, signature } => Presented::Certificate(Proof {
            certificate: cert.clone(),
            signature: signature.clone(),
            challenge: request.challenge,
        }),
        Credentials::Ticket(_) | Credentials::Unsupported(_) => Presented::Other,
    }
}

fn no_of(error: AuthError) -> No {
    (ErrorCode::from_number(error.code()).unwrap_or(ErrorCode::AuthFailed), error.refusal())
}

/// The hub's policy with the member's own items over it.
fn policy_of(hub: &Hub, own: &crate::config::policy::Policy) -> Policy {
    let mut policy = Policy::default();
    let keys = [
        (Item::MaxConnection, Some(u32::from(hub.max_connections))),
        (Item::TimeOut, u32::try_from(hub.session_timeout.as_secs()).ok()),
        (Item::MaxMac, hub.macs_per_session),
    ];
    let keys = keys.into_iter().filter_map(|(item, value)| Some((item, value?)));
    for (item, value) in own.over(&hub.policy).set_items().chain(keys) {
        let set = policy.set(item, value);
        debug_assert!(set.is_ok(), "{} = {value} passed the check of the configuration", item.name());
    }
    policy
}

/// What kind of port it will be, if policies allow what the client asks for.
fn check_modes(request: &LoginRequest, hub: &Hub, policy: &Policy) -> Result<PortKind, No> {
    if !policy.is_set(Item::Access) {
        return Err((ErrorCode::AccessDenied, Refusal::HubRefused));
    }
    // Mirroring frames to a member is not offered, whatever the policy says.
    if request.wants.monitor_mode {
        return Err((ErrorCode::MonitorModeDenied, Refusal::HubRefused));
    }
    if !request.wants.bridge_mode {
        return Ok(PortKind::Member);
    }
    if !hub.bridges || (policy.is_set(Item::NoBridge) && policy.is_set(Item::NoRouting)) {
        return Err((ErrorCode::BridgeModeDenied, Refusal::HubRefused));
    }
    Ok(PortKind::Bridge)
}

fn client_id(request: &LoginRequest) -> Option<ClientId> {
    let client = &request.client;
    if client.installation_id != [0; 16] {
        let mut id = [0; 20];
        id[..16].copy_from_slice(&client.installation_id);
        return Some(ClientId(id));
    }
    (client.unique_id != [0; 20]).then_some(ClientId(client.unique_id))
}

fn limits(hub: &Hub, policy: &Policy) -> Limits {
    Limits {
        max_connection: hub.max_connections,
        compress: hub.compression,
        half_duplex: true,
        qos: !policy.is_set(Item::NoQoS),
        timeout_ms: u32::try_from(hub.session_timeout.as_millis()).expect("at most 60 s"),
    }
}

fn welcome(granted: &Granted) -> Welcome {
    let Granted { session, conn, key, terms, policy, kind } = granted;
    Welcome {
        session_name: session.name.clone(),
        connection_name: format!("CID-{}", conn.0),
        session_key: *key,
        max_connection: terms.max_connection,
        compress: terms.compress,
        supers: terms.supers,
        half_duplex: terms.half_duplex,
        qos: terms.qos,
        timeout_ms: terms.timeout_ms,
        vlan_id: policy.value(Item::VLanId),
        policy: policy.effective(*kind == PortKind::Bridge).items().to_vec(),
        message: None,
    }
}

/// Version and build that clients see. Stock clients choose nothing by them; 4.x and 5.x treat a server of
/// the stable line as complete.
const HELLO_VERSION: u32 = 444;
const HELLO_BUILD: u32 = 9807;

/// Frames that may wait for one session: what a 10 Gbit/s member takes in 5 ms, and what the window of one TCP flow holds
/// as Linux has it by default. How long they wait is bounded by the queue itself.
const QUEUE_FRAMES: usize = 4096;

/// Unsent bytes in the kernel from which on we keep frames to ourselves, where they can still be dropped.
pub const NOTSENT_LOWAT: u32 = crate::tunnel::pace::UNSENT_MAX;

/// How long a card may acknowledge nothing. Its own end looks at the path again and again; here the path is known as it was
/// at the login, and one that becomes slower by seconds must not look dead.
const CARD_SILENT: Duration = Duration::from_secs(6);

/// How long a TLS handshake may go on when the server stops. Cut off in the middle of it, stock clients would
/// have got an end without close_notify (protocol note §1.1).
pub const STOP_GRACE: Duration = Duration::from_millis(300);

/// Logins that are asked again because the operator ended sessions meanwhile; more often than this he does not.
const EVICTIONS_MAX: usize = 4;

/// How long an authenticator may take; the login as a whole has its own deadline.
const AUTHENTICATION_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::config::raw::RawServer;
    use crate::tunnel::login::Wants;

    #[test]
    fn a_login_dropped_at_an_await_is_undone_and_a_finished_one_is_not() {
        let undone = Cell::new(0);
        drop(Undo::new(|| undone.set(undone.get() + 1)));
        assert_eq!(undone.get(), 1);
        Undo::new(|| undone.set(undone.get() + 1)).forget();
        assert_eq!(undone.get(), 1);
    }

    #[test]
    fn the_policy_decides_about_a_connection_for_what_is_urgent() {
        for (items, qos) in [("", true), ("policy = { NoQoS = true }\n", false)] {
            let text = format!("[[hub]]\nname = \"a\"\n{items}");
            let config = Config::build("test", &text, Path::new("."), RawServer::default()).unwrap();
            let hub = &config.hubs[0];
            let policy = policy_of(hub, &crate::config::policy::Policy::default());
            assert_eq!(limits(hub, &policy).qos, qos);
            let wants = Wants { qos: true, ..Wants::default() };
            assert_eq!(negotiate(&wants, &limits(hub, &policy)).max_connection, if qos { 2 } else { 1 });
        }
    }
}
