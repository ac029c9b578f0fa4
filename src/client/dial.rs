//! Opens a session at a server, or one more connection of it: TCP, TLS, HTTP, login. Blocking.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::wire::{Wire, WireError};
use crate::tls::buffered::Parts;
use crate::tls::layer::RecordLayer;
use crate::tunnel::login::client::{Account, ClientLogin, ClientNext, LoginError, Redirect, WelcomeSeen};
use crate::tunnel::login::{ClientInfo, Direction, Wants};

/// A connection that carries frames from now on.
pub struct Dialled<W> {
    /// The socket, blocking still.
    pub socket: TcpStream,
    /// Keys.
    pub layer: RecordLayer,
    /// What the server granted.
    pub granted: W,
    /// Plaintext behind the server's answer.
    pub plain: Vec<u8>,
    /// Ciphertext that was received but not opened.
    pub cipher: Vec<u8>,
}

/// Why it did not come to a session.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No TLS connection came about, or it broke.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// TLS, but then something that is no VPN server.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The server belongs to a cluster and names the one to log in to.
    #[error("the server sends its members to another server of its cluster, {}", .0.ip)]
    Redirected(Box<Redirect>),
    /// The server answered another question than was asked.
    #[error("the server answered another question than was asked")]
    OutOfTurn,
    /// The server said no, with this code (protocol note §3.5).
    #[error("the server refused the login with code {0}")]
    Refused(u32),
}

/// How to reach a server.
#[derive(Clone)]
pub struct Route {
    /// Its address.
    pub server: SocketAddr,
    /// What to trust; see [`crate::tls::config::client_config`].
    pub tls: Arc<ClientConfig>,
    /// Limit of each wait for the server.
    pub timeout: Duration,
}

/// Logs in.
///
/// # Errors
/// See [`DialError`].
pub fn dial(route: &Route, account: Account, wants: Wants) -> Result<Dialled<Box<WelcomeSeen>>, DialError> {
    log_in(called(route)?, &route.server.ip().to_string(), account, wants)
}

/// Adds a connection to the session of `session_key`.
///
/// # Errors
/// See [`DialError`]; code 13 means that the session has gone.
pub fn dial_additional(
    route: &Route,
    session_key: &[u8; 20],
    client: ClientInfo,
) -> Result<Dialled<Direction>, DialError> {
    join(called(route)?, &route.server.ip().to_string(), session_key, client)
}

fn called(route: &Route) -> Result<Wire, WireError> {
    Wire::connect(route.server, &route.tls, route.timeout)
}

/// Logs in over `wire`, to the server that was called as `host`.
///
/// # Errors
/// See [`DialError`].
pub fn log_in(wire: Wire, host: &str, account: Account, wants: Wants) -> Result<Dialled<Box<WelcomeSeen>>, DialError> {
    converse(wire, ClientLogin::new(host, account, wants), |next| match next {
        ClientNext::Welcome(welcome) => Some(welcome),
        _ => None,
    })
}

/// Makes `wire` a further connection of the session of `session_key`.
///
/// # Errors
/// See [`DialError`]; code 13 means that the session has gone.
pub fn join(
    wire: Wire,
    host: &str,
    session_key: &[u8; 20],
    client: ClientInfo,
) -> Result<Dialled<Direction>, DialError> {
    converse(wire, ClientLogin::additional(host, session_key, client), |next| match next {
        ClientNext::Additional(direction) => Some(direction),
        _ => None,
    })
}

fn converse<W>(
    mut wire: Wire,
    mut login: ClientLogin,
    granted: impl Fn(ClientNext) -> Option<W>,
) -> Result<Dialled<W>, DialError> {
    match answer(&mut wire, &mut login, granted) {
        Ok(granted) => {
            let (socket, Parts { layer, cipher }) = wire.into_parts();
            Ok(Dialled { socket, layer, granted, plain: login.into_leftover(), cipher })
        }
        Err(error) => {
            wire.close();
            Err(error)
        }
    }
}

fn answer<W>(
    wire: &mut Wire,
    login: &mut ClientLogin,
    granted: impl Fn(ClientNext) -> Option<W>,
) -> Result<W, DialError> {
    wire.send(&login.start())?;
    loop {
        match login.next() {
            ClientNext::NeedBytes => {
                let plain = wire.receive()?;
                login.receive(&plain);
            }
            ClientNext::Write(bytes) => wire.send(&bytes)?,
            ClientNext::Refused(refusal) => return Err(DialError::Refused(refusal.number)),
            ClientNext::Failed(error) => return Err(error.into()),
            ClientNext::Redirect(redirect) => {
                wire.send(&redirect.goodbye)?;
                return Err(DialError::Redirected(redirect));
            }
            next => return granted(next).ok_or(DialError::OutOfTurn),
        }
    }
}
