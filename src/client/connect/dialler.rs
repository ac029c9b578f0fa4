//! The thread that calls the server: the loop of the card never waits for a handshake.
//!
//! One order at a time: log in, or add a connection. A login always begins at the server of the command line and follows
//! the controller of a cluster once; further connections go to where the login ended.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use zeroize::Zeroizing;

use super::args::{Auth, Endpoint};
use super::identity::{Identity, IdentityError, Standing};
use crate::client::card::Line;
use crate::client::dial::{DialError, Dialled, join, log_in};
use crate::client::via::{self, Helper, Opened, Via, ViaError};
use crate::client::wire::{Wire, WireError};
use crate::sys::congestion::Congestion;
use crate::sys::socket::{give_up_soon, limit_retransmissions, prepare_member_socket};
use crate::sys::waker::Waker;
use crate::tls::config::fingerprint;
use crate::tls::handshake::HandshakeError;
use crate::tls::keys::Suite;
use crate::tunnel::error_code::ErrorCode;
use crate::tunnel::link::Way;
use crate::tunnel::login::client::{Account, Certificate, Redirect, Secret, WelcomeSeen};
use crate::tunnel::login::{ClientInfo, Direction, Wants};

/// What the dialler is told.
pub(super) enum Order {
    /// Log in.
    Login,
    /// Add a connection to the session of this key; `session` comes back with the answer.
    Join {
        /// The session's secret.
        key: Zeroizing<[u8; 20]>,
        /// Which session it is, for whoever asked.
        session: u64,
        /// Longest time until the server's TCP answers, if the way there is straight.
        patience: Duration,
        /// The server is of our kind.
        is_ours: bool,
    },
}

/// What it came to.
pub(super) enum Answer {
    /// Logged in.
    Entered(Box<Entered>),
    /// The login failed.
    NotEntered(CallError),
    /// A connection for session number `.0`.
    Joined(u64, Result<Box<Line<OwnedFd>>, CallError>),
}

/// A session.
pub(super) struct Entered {
    /// Its first connection.
    pub(super) line: Line<OwnedFd>,
    /// What the server granted.
    pub(super) welcome: Box<WelcomeSeen>,
    /// By which way, for people.
    pub(super) path: String,
    /// How it is encrypted.
    pub(super) suite: Suite,
    /// Of the server's certificate.
    pub(super) fingerprint: [u8; 32],
    /// What was known about the server.
    pub(super) standing: Standing,
}

/// Why there is no connection. The text says what to do, where something can be done.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// No stream.
    #[error("no way to {0}: {1}")]
    Open(Endpoint, ViaError),
    /// The name cannot stand in a certificate.
    #[error("\"{0}\" is neither a name nor an address")]
    Name(String),
    /// Another server than was meant.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The member of a cluster shows another certificate than its controller has said.
    #[error("{0}, to which the cluster sends us, shows another certificate than the cluster says")]
    Member(Endpoint),
    /// Everything behind that.
    #[error(transparent)]
    Dial(#[from] DialError),
}

impl CallError {
    /// Whether the server's certificate is the reason.
    pub(super) fn is_certificate(&self) -> bool {
        use rustls::Error::InvalidCertificate;
        let by_us = matches!(self, Self::Identity(_) | Self::Member(_));
        let by_rustls =
            matches!(self, Self::Dial(DialError::Wire(WireError::Tls(HandshakeError::Tls(InvalidCertificate(_))))));
        by_us || by_rustls
    }

    /// Whether something answers there, but not as a VPN server would.
    pub(super) fn is_of_the_server(&self) -> bool {
        matches!(self, Self::Dial(DialError::Wire(_) | DialError::Login(_))) && !self.is_certificate()
    }

    /// The code of a server that said no.
    pub(super) fn refusal(&self) -> Option<u32> {
        match self {
            Self::Dial(DialError::Refused(code)) => Some(*code),
            _ => None,
        }
    }
}

/// How a user proves who he is.
pub(super) enum Proof {
    /// By a password, and how that is proven.
    Password(Zeroizing<String>, Auth),
    /// By a certificate.
    Certificate(Certificate),
}

impl Proof {
    /// What is tried first.
    fn first(&self) -> Secret {
        match self {
            Self::Password(password, Auth::Plain) => Secret::PlainPassword(password.clone()),
            Self::Password(password, _) => Secret::Password(password.clone()),
            Self::Certificate(certificate) => Secret::Certificate(certificate.clone()),
        }
    }

    /// What a server that is known may see where it has refused the first.
    fn second(&self) -> Option<Secret> {
        match self {
            Self::Password(password, Auth::Auto) => Some(Secret::PlainPassword(password.clone())),
            Self::Password(..) | Self::Certificate(_) => None,
        }
    }
}

/// Who logs in where.
pub(super) struct Caller {
    /// The server of the command line.
    pub(super) server: Endpoint,
    /// The way there.
    pub(super) via: Via,
    /// What its certificate is compared with.
    pub(super) identity: Identity,
    /// Hub, user, and what the server is told about us.
    pub(super) hub: String,
    /// See `hub`.
    pub(super) user: String,
    /// How he proves who he is.
    pub(super) proof: Proof,
    /// How connections share the network with others.
    pub(super) congestion: Congestion,
    /// What is asked for.
    pub(super) wants: Wants,
    /// What the server is told about us.
    pub(super) client: ClientInfo,
}

/// The end of the thread that gives orders.
pub(super) struct Dialler {
    orders: Sender<Order>,
    answers: Receiver<Answer>,
}

impl Dialler {
    /// Starts the thread, which rings `waker` with each answer. It ends with the orders.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(super) fn start(caller: Caller, waker: Waker) -> io::Result<Self> {
        let (orders, ordered) = mpsc::channel();
        let (tell, answers) = mpsc::channel();
        let mut line =
            Calling { tls: caller.identity.tls(), caller, member: None, helpers: Vec::new(), took: Duration::ZERO };
        std::thread::Builder::new().name("dialler".into()).spawn(move || {
            for order in ordered {
                let answer = line.answer(order);
                if tell.send(answer).is_err() {
                    return;
                }
                waker.wake();
            }
        })?;
        Ok(Self { orders, answers })
    }

    /// Gives an order; the answer comes later.
    pub(super) fn order(&self, order: Order) {
        // The thread ends only with us.
        let _ = self.orders.send(order);
    }

    /// An answer that has come.
    pub(super) fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

/// What the thread knows.
struct Calling {
    caller: Caller,
    tls: Arc<ClientConfig>,
    /// Where the cluster has sent us, and the fingerprint of the certificate there.
    member: Option<(Endpoint, [u8; 32])>,
    /// What carries the bytes of connections that are no TCP of ours.
    helpers: Vec<Helper>,
    /// How long the way took the last time that it could be gone.
    took: Duration,
}

/// A server that has shown who it is.
struct Called {
    wire: Wire,
    path: String,
    fingerprint: [u8; 32],
    standing: Standing,
    /// Our own end, as the login tells it.
    local: Option<(IpAddr, u16)>,
}

impl Calling {
    fn answer(&mut self, order: Order) -> Answer {
        match order {
            Order::Login => match self.login() {
                Ok(entered) => Answer::Entered(Box::new(entered)),
                Err(error) => Answer::NotEntered(error),
            },
            Order::Join { key, session, patience, is_ours } => {
                Answer::Joined(session, self.join(&key, patience, is_ours))
            }
        }
    }

    fn login(&mut self) -> Result<Entered, CallError> {
        self.member = None;
        match (self.login_by(self.caller.proof.first()), self.caller.proof.second()) {
            (Err((error, Standing::Certain)), Some(second)) if wants_plain(&error) => {
                self.login_by(second).map_err(|(error, _)| error)
            }
            (done, _) => done.map_err(|(error, _)| error),
        }
    }

    /// The error comes with what is known about the server that caused it.
    fn login_by(&mut self, secret: Secret) -> Result<Entered, (CallError, Standing)> {
        let called = self.call(PATIENCE).map_err(|error| (error, Standing::Unknown))?;
        let (standing, fingerprint) = (called.standing, called.fingerprint);
        let entered = match self.enter(called, secret) {
            Err(CallError::Dial(DialError::Redirected(to))) => self.follow(&to),
            done => done,
        };
        let entered = entered.and_then(|entered| {
            if standing == Standing::FirstSeen {
                self.caller.identity.remember(&self.caller.server, &fingerprint)?;
            }
            // Of the server that was called: a member of its cluster is known only through it.
            Ok(Entered { standing, fingerprint, ..entered })
        });
        entered.map_err(|error| (error, standing))
    }

    /// The member of the cluster must have the certificate that its controller names, so that it is known as well as that.
    fn follow(&mut self, to: &Redirect) -> Result<Entered, CallError> {
        let port = if to.ports.contains(&self.caller.server.port) { self.caller.server.port } else { to.ports[0] };
        let server = Endpoint { host: to.ip.to_string(), port };
        let certificate = fingerprint(&CertificateDer::from(to.cert.clone()));
        self.member = Some((server, certificate));
        let called = self.call(PATIENCE)?;
        self.enter(called, Secret::Ticket(to.ticket.clone()))
    }

    fn enter(&self, called: Called, secret: Secret) -> Result<Entered, CallError> {
        let Called { wire, path, fingerprint, standing, local } = called;
        let mut client = self.caller.client.clone();
        client.local_ip = local.map(|(ip, _)| ip);
        client.local_port = local.map_or(0, |(_, port)| port);
        let account = Account { hub: self.caller.hub.clone(), user: self.caller.user.clone(), secret, client };
        let Dialled { socket, layer, granted, plain, cipher } =
            log_in(wire, &self.target().host, account, self.caller.wants)?;
        let suite = layer.suite();
        let way = Way { send: true, receive: !granted.half_duplex };
        let socket = self.caller.ready(socket, granted.hello.is_ours());
        let line = Line { socket, layer, plain, cipher, way };
        Ok(Entered { line, welcome: granted, path, suite, fingerprint, standing })
    }

    fn join(&mut self, key: &[u8; 20], patience: Duration, is_ours: bool) -> Result<Box<Line<OwnedFd>>, CallError> {
        let Called { wire, .. } = self.call(patience_for(&self.caller.via, patience, self.took))?;
        let Dialled { socket, layer, granted, plain, cipher } =
            join(wire, &self.target().host, key, self.caller.client.clone())?;
        let way = match granted {
            Direction::Both => Way::BOTH,
            Direction::ToClient => Way { send: false, receive: true },
            Direction::ToServer => Way { send: true, receive: false },
        };
        Ok(Box::new(Line { socket: self.caller.ready(socket, is_ours), layer, plain, cipher, way }))
    }

    fn target(&self) -> &Endpoint {
        self.member.as_ref().map_or(&self.caller.server, |(server, _)| server)
    }

    /// A TLS connection to whom it should be.
    fn call(&mut self, patience: Duration) -> Result<Called, CallError> {
        let server = self.target().clone();
        self.helpers.retain_mut(|helper| !helper.is_over());
        let name = ServerName::try_from(server.host.clone()).map_err(|_| CallError::Name(server.host.clone()))?;
        let began = Instant::now();
        let opened = via::open(&self.caller.via, &server.host, server.port, patience);
        let Opened { socket, path, helper, .. } = opened.map_err(|error| CallError::Open(server.clone(), error))?;
        self.helpers.extend(helper);
        self.took = began.elapsed();
        let socket = TcpStream::from(socket);
        let local = socket.local_addr().ok().map(|local| (local.ip(), local.port()));
        // The certificate of a cluster's member is compared here, whoever else would vouch for it.
        let tls = if self.member.is_some() { &Identity::Any.tls() } else { &self.tls };
        let wire = Wire::over(socket, name, tls, PATIENCE.min(patience * 3)).map_err(DialError::from)?;
        let fingerprint = wire.fingerprint().unwrap_or_default();
        let standing = match &self.member {
            None => self.caller.identity.check(&server, &fingerprint),
            Some((_, wanted)) if *wanted == fingerprint => Ok(Standing::Certain),
            Some((member, _)) => {
                wire.close();
                return Err(CallError::Member(member.clone()));
            }
        };
        match standing {
            Ok(standing) => Ok(Called { wire, path, fingerprint, standing, local }),
            Err(error) => {
                wire.close();
                Err(error.into())
            }
        }
    }
}

impl Caller {
    /// The socket as the card wants it. Servers of our kind take a connection that has gone without a word well.
    fn ready(&self, socket: TcpStream, is_ours: bool) -> OwnedFd {
        // A stream that is no TCP has none of these, and does without.
        let _ = socket.set_read_timeout(None);
        let _ = socket.set_write_timeout(None);
        let _ = prepare_member_socket(&socket, NOTSENT_LOWAT);
        let _ = self.congestion.apply(&socket);
        suit_path(&socket, is_ours);
        socket.into()
    }
}

/// Fits what the kernel does about silence to the round-trip time, which changes: to be called again and again.
pub(super) fn suit_path(socket: &impl AsFd, is_ours: bool) {
    limit_retransmissions(socket, RETRANSMISSION_WAIT);
    if is_ours {
        // What is no TCP does without.
        let _ = give_up_soon(socket, SILENT);
    }
}

/// How long it may take until a way is gone: what is `asked` counts for a single round trip, but proxies and SSH want eight
/// or nine, and what the way `took` the last time tells more than either.
fn patience_for(via: &Via, asked: Duration, took: Duration) -> Duration {
    let least = if matches!(via, Via::Direct) { asked } else { asked.max(PATIENCE_STATIONS) };
    took.saturating_mul(2).max(least).min(PATIENCE)
}

/// Whether the server may know the user by a password that it has to see.
fn wants_plain(error: &CallError) -> bool {
    let codes = [ErrorCode::AuthFailed, ErrorCode::AuthTypeNotSupported];
    error.refusal().is_some_and(|code| codes.iter().any(|wanted| wanted.number() == code))
}

/// The shortest that the kernel allows: this one machine harms nobody by it.
const RETRANSMISSION_WAIT: Duration = Duration::from_secs(1);
/// How long a server of our kind may acknowledge nothing.
const SILENT: Duration = Duration::from_secs(3);
/// For a way with stations in between.
const PATIENCE_STATIONS: Duration = Duration::from_secs(5);
/// For each step of a call, as stock clients have it.
const PATIENCE: Duration = Duration::from_secs(15);
/// Unsent bytes in the kernel before more waits with us, where urgent frames still come first.
const NOTSENT_LOWAT: u32 = crate::tunnel::pace::UNSENT_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_ways_are_waited_for() {
        let ssh = Via::Ssh(via::SshHost { host: "host".into(), port: None, user: None });
        for (via, asked_ms, took_ms, want_ms) in [
            (&Via::Direct, 1_500, 20, 1_500),
            (&Via::Direct, 1_500, 2_500, 5_000),
            (&Via::Direct, 60_000, 20, 15_000),
            (&ssh, 1_500, 1_350, 5_000),
            (&ssh, 1_500, 4_000, 8_000),
            (&ssh, 1_500, 12_000, 15_000),
        ] {
            let [asked, took, want] = [asked_ms, took_ms, want_ms].map(Duration::from_millis);
            assert_eq!(patience_for(via, asked, took), want, "{via:?} {asked:?} {took:?}");
        }
    }
}
