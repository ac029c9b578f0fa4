//! Opens a session at a server, or one more connection of it: TCP, TLS, HTTP, login. Blocking.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::metrics::closes::CloseReason;
use crate::tls::aead::AeadBackend;
use crate::tls::buffered::{Buffered, Parts};
use crate::tls::handshake::{Handshake, HandshakeError, Step};
use crate::tls::layer::RecordLayer;
use crate::tls::record::RECORD_BYTES_MAX;
use crate::tunnel::login::client::{Account, ClientLogin, ClientNext, LoginError, WelcomeSeen};
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
    /// The socket failed or the server closed it.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// No TLS connection came about.
    #[error("TLS handshake: {0}")]
    Tls(#[from] HandshakeError),
    /// rustls refuses its configuration.
    #[error("TLS: {0}")]
    Setup(#[from] rustls::Error),
    /// The TLS connection broke.
    #[error("TLS connection: {}", .0.help().trim())]
    Record(CloseReason),
    /// TLS, but then something that is no VPN server.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The server belongs to a cluster and names another one, which is not followed.
    #[error("the server sends its members to another server of its cluster")]
    Redirected,
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
    let login = ClientLogin::new(&route.server.ip().to_string(), account, wants);
    converse(route, login, |next| match next {
        ClientNext::Welcome(welcome) => Some(welcome),
        _ => None,
    })
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
    let login = ClientLogin::additional(&route.server.ip().to_string(), session_key, client);
    converse(route, login, |next| match next {
        ClientNext::Additional(direction) => Some(direction),
        _ => None,
    })
}

fn converse<W>(
    route: &Route,
    mut login: ClientLogin,
    granted: impl Fn(ClientNext) -> Option<W>,
) -> Result<Dialled<W>, DialError> {
    let mut wire = Wire::connect(route)?;
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
            ClientNext::Redirect(_) => return Err(DialError::Redirected),
            next => {
                let Some(granted) = granted(next) else {
                    return Err(DialError::OutOfTurn);
                };
                let Wire { socket, tls } = wire;
                let Parts { layer, cipher } = tls.into_parts();
                return Ok(Dialled { socket, layer, granted, plain: login.into_leftover(), cipher });
            }
        }
    }
}

/// TLS over a blocking socket, by our own record layer.
struct Wire {
    socket: TcpStream,
    tls: Buffered,
}

impl Wire {
    fn connect(route: &Route) -> Result<Self, DialError> {
        let mut socket = TcpStream::connect_timeout(&route.server, route.timeout)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(route.timeout))?;
        socket.set_write_timeout(Some(route.timeout))?;
        let name = ServerName::IpAddress(route.server.ip().into());
        let mut handshake = Handshake::client(&route.tls, name, AeadBackend::AwsLc)?;
        loop {
            match handshake.step()? {
                Step::Write(bytes) => socket.write_all(&bytes)?,
                Step::NeedBytes => {
                    let bytes = read_some(&mut socket)?;
                    handshake.receive(&bytes);
                }
                Step::Done => break,
            }
        }
        Ok(Self { socket, tls: Buffered::new(handshake.finish()?) })
    }

    fn send(&mut self, plain: &[u8]) -> Result<(), DialError> {
        let records = self.tls.seal(plain).map_err(DialError::Record)?;
        Ok(self.socket.write_all(&records)?)
    }

    /// The next plaintext there is; waits for at least one byte.
    fn receive(&mut self) -> Result<Vec<u8>, DialError> {
        loop {
            if let Some(plain) = self.tls.next_plain().map_err(DialError::Record)? {
                return Ok(plain);
            }
            let bytes = read_some(&mut self.socket)?;
            self.tls.receive(&bytes);
        }
    }
}

fn read_some(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; RECORD_BYTES_MAX];
    let n = socket.read(&mut buf)?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buf.truncate(n);
    Ok(buf)
}
