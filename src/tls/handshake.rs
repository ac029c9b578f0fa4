//! A TLS handshake without a socket, for server and client: rustls shakes hands, then hands its
//! secrets over to our [`RecordLayer`].
//!
//! 1. [`Handshake::receive`] what came from the socket,
//! 2. [`Handshake::step`] until it needs more bytes, writing what it says,
//! 3. after [`Step::Done`], [`Handshake::finish`].
//!
//! rustls sees one record at a time. It therefore never takes a record that comes after the
//! handshake: no application data, and no key update that its secrets would have moved past.
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;
use std::sync::{Arc, OnceLock};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, ConnectionTrafficSecrets, ExtractedSecrets, KeyLog, ServerConfig, SupportedCipherSuite};

use super::aead::{AeadBackend, Algorithm};
use super::config::fingerprint;
use super::keys::{Direction, KeyAndIv, Secret, Suite, Version};
use super::layer::{RecordLayer, Role};
use super::record::record_len;

/// Bytes that may wait to be understood. A handshake message has at most 64 KiB in rustls; the rest
/// is what one read may bring behind the last one.
pub const INPUT_BYTES_MAX: usize = 128 * 1024;

/// A handshake in progress.
pub struct Handshake {
    side: Side,
    secrets: Arc<CapturedSecrets>,
    backend: AeadBackend,
    /// Bytes received and not yet used up. The first `shown` of them, whole records, rustls has
    /// seen. Invariant: `shown <= incoming.len() <= INPUT_BYTES_MAX`.
    incoming: Vec<u8>,
    shown: usize,
    outgoing: Vec<u8>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// Too much was received; the next step says so.
    Overflow,
    Failed,
    Done,
}

// One value for the few seconds that a handshake lasts.
#[allow(clippy::large_enum_variant)]
enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl Side {
    fn wants_write(&self) -> bool {
        match self {
            Self::Server(connection) => connection.wants_write(),
            Self::Client(connection) => connection.wants_write(),
        }
    }
}

/// What the caller has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Write this to the socket, then step again.
    Write(Vec<u8>),
    /// Read from the socket, [`Handshake::receive`], then step again.
    NeedBytes,
    /// Call [`Handshake::finish`].
    Done,
}

/// The handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// By rustls' judgement.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// More than [`INPUT_BYTES_MAX`] received without progress.
    #[error("more than {INPUT_BYTES_MAX} bytes received that are no handshake")]
    TooMuchInput,
    /// The peer said close_notify.
    #[error("the peer closed the connection during the handshake")]
    PeerClosed,
    /// [`Handshake::step`] was called after it had failed.
    #[error("the handshake has already failed")]
    AlreadyFailed,
    /// [`Handshake::finish`] was called before [`Step::Done`].
    #[error("the handshake is not done")]
    NotDone,
    /// rustls and this layer do not agree on where the handshake ended or what its keys are.
    #[error("the handshake ended in a state that cannot be taken over")]
    Inconsistent,
}

/// What a handshake leads to.
pub struct Established {
    /// Seals and opens every further record.
    pub layer: RecordLayer,
    /// Bytes received behind the handshake: records for `layer`, the last one perhaps cut.
    pub leftover: Vec<u8>,
}

impl Handshake {
    /// A server's handshake.
    ///
    /// # Errors
    /// If rustls refuses `config`.
    pub fn server(config: &Arc<ServerConfig>, backend: AeadBackend) -> Result<Self, rustls::Error> {
        let secrets = Arc::new(CapturedSecrets::default());
        // The log of secrets belongs to the configuration, so that each connection needs its own.
        // A clone is a handful of reference counts.
        let mut config = ServerConfig::clone(config);
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        config.enable_secret_extraction = true;
        Ok(Self::new(Side::Server(UnbufferedServerConnection::new(Arc::new(config))?), secrets, backend))
    }

    /// A client's handshake. `name` goes into SNI unless it is an IP address.
    ///
    /// # Errors
    /// If rustls refuses `config`.
    pub fn client(
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
        backend: AeadBackend,
    ) -> Result<Self, rustls::Error> {
        let secrets = Arc::new(CapturedSecrets::default());
        let mut config = ClientConfig::clone(config);
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        config.enable_secret_extraction = true;
        Ok(Self::new(Side::Client(UnbufferedClientConnection::new(Arc::new(config), name)?), secrets, backend))
    }

    fn new(side: Side, secrets: Arc<CapturedSecrets>, backend: AeadBackend) -> Self {
        Self { side, secrets, backend, incoming: Vec::new(), shown: 0, outgoing: Vec::new(), stage: Stage::Running }
    }

    /// Takes bytes from the socket. More than [`INPUT_BYTES_MAX`] waiting makes the next
    /// [`Self::step`] fail.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.incoming.len() + bytes.len() <= INPUT_BYTES_MAX {
            self.incoming.extend_from_slice(bytes);
        } else {
            self.stage = Stage::Overflow;
        }
    }

    /// Goes as far as it can.
    ///
    /// # Errors
    /// If the handshake failed; [`Self::alert`] then has what to send before closing.
    pub fn step(&mut self) -> Result<Step, HandshakeError> {
        let step = match self.stage {
            Stage::Running => self.run(),
            Stage::Overflow => Err(HandshakeError::TooMuchInput),
            // rustls must not be asked again: it would judge the same bytes a second time.
            Stage::Failed => Err(HandshakeError::AlreadyFailed),
            Stage::Done => Ok(Step::Done),
        };
        match step {
            Ok(Step::Done) => self.stage = Stage::Done,
            Ok(_) => {}
            Err(_) => self.stage = Stage::Failed,
        }
        step
    }

    fn run(&mut self) -> Result<Step, HandshakeError> {
        loop {
            match self.turn()? {
                Turn::Encoded => {}
                Turn::Transmit => return Ok(Step::Write(mem::take(&mut self.outgoing))),
                Turn::Blocked if self.show_next_record() => {}
                Turn::Blocked => return Ok(Step::NeedBytes),
                Turn::Done if self.shown > 0 => return Err(HandshakeError::Inconsistent),
                Turn::Done => return Ok(Step::Done),
                Turn::PeerClosed => return Err(HandshakeError::PeerClosed),
                Turn::Impossible => return Err(HandshakeError::Inconsistent),
            }
        }
    }

    /// After an error: the alert that tells the peer why, perhaps empty. Without it the peer would
    /// only see the connection end.
    pub fn alert(&mut self) -> Vec<u8> {
        // Only while something is queued, which comes before any reading: see `step`.
        while self.side.wants_write() && self.turn().is_ok() {}
        mem::take(&mut self.outgoing)
    }

    /// SHA-256 of the certificate that the server has shown; nothing on the server's side.
    pub fn server_fingerprint(&self) -> Option<[u8; 32]> {
        match &self.side {
            Side::Server(_) => None,
            Side::Client(connection) => connection.peer_certificates()?.first().map(fingerprint),
        }
    }

    /// Takes the secrets out of rustls.
    ///
    /// # Errors
    /// If the handshake is not done or its outcome is not one this layer knows.
    pub fn finish(self) -> Result<Established, HandshakeError> {
        if self.stage != Stage::Done {
            return Err(HandshakeError::NotDone);
        }
        let (secrets, role, suite) = match self.side {
            Side::Server(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                (secrets, Role::Server, kernel.negotiated_cipher_suite())
            }
            Side::Client(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                (secrets, Role::Client, kernel.negotiated_cipher_suite())
            }
        };
        let layer =
            take_over(&secrets, role, suite, &self.secrets, self.backend).ok_or(HandshakeError::Inconsistent)?;
        Ok(Established { layer, leftover: self.incoming })
    }

    /// One call of rustls.
    fn turn(&mut self) -> Result<Turn, HandshakeError> {
        let shown = &mut self.incoming[..self.shown];
        let (discard, turn) = match &mut self.side {
            Side::Server(connection) => turn_of(connection.process_tls_records(shown), &mut self.outgoing),
            Side::Client(connection) => turn_of(connection.process_tls_records(shown), &mut self.outgoing),
        };
        self.incoming.drain(..discard);
        self.shown -= discard;
        turn
    }

    /// Lets rustls see one more record; whether there was one.
    fn show_next_record(&mut self) -> bool {
        let hidden = self.incoming.len() - self.shown;
        let next = match record_len(&self.incoming[self.shown..]) {
            Ok(Some(len)) if len <= hidden => len,
            Ok(_) => 0,
            // No record: rustls is to say why, and to make the alert.
            Err(_) => hidden,
        };
        self.shown += next;
        next > 0
    }
}

/// What one call of rustls came to.
enum Turn {
    Encoded,
    Transmit,
    Blocked,
    Done,
    PeerClosed,
    /// Application data, which rustls cannot have received here.
    Impossible,
}

/// Does what rustls asks for. Also returns how many bytes it has used up.
fn turn_of<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Vec<u8>,
) -> (usize, Result<Turn, HandshakeError>) {
    let turn = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::EncodeTlsData(mut chunk)) => {
            let start = outgoing.len();
            let mut encoded = chunk.encode(&mut []);
            if let Err(EncodeError::InsufficientSize(short)) = &encoded {
                outgoing.resize(start + short.required_size, 0);
                encoded = chunk.encode(&mut outgoing[start..]);
            }
            encoded.map(|_| Turn::Encoded).map_err(|_| HandshakeError::Inconsistent)
        }
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Ok(Turn::Transmit)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Turn::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Turn::Done),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Turn::PeerClosed),
        Ok(_) => Ok(Turn::Impossible),
    };
    (status.discard, turn)
}

/// Our record layer with the secrets of rustls; `None` if they do not fit together.
fn take_over(
    extracted: &ExtractedSecrets,
    role: Role,
    suite: SupportedCipherSuite,
    captured: &CapturedSecrets,
    backend: AeadBackend,
) -> Option<RecordLayer> {
    let suite = Suite::from_code(u16::from(suite.suite()))?;
    let (rx_secret, tx_secret) = match role {
        Role::Server => (captured.client.get(), captured.server.get()),
        Role::Client => (captured.server.get(), captured.client.get()),
    };
    let direction = |(seq, keys): &(u64, ConnectionTrafficSecrets), traffic_secret: Option<&Secret>| {
        let (key, iv) = key_and_iv(suite, keys)?;
        match suite.version() {
            Version::Tls12 => Some(Direction::tls12(suite, Secret::new(key)?, iv.try_into().ok()?, *seq, backend)),
            Version::Tls13 => {
                let secret = traffic_secret.filter(|secret| secret.bytes().len() == suite.secret_len())?;
                // That the secret leads to the key in use is what key updates stand on.
                let derived = KeyAndIv::from_traffic_secret(suite, secret);
                let same = derived.key[..key.len()] == *key && derived.iv[..] == *iv;
                same.then(|| Direction::tls13(suite, secret.clone(), *seq, backend))
            }
        }
    };
    let rx = direction(&extracted.rx, rx_secret)?;
    let tx = direction(&extracted.tx, tx_secret)?;
    Some(RecordLayer::new(suite, role, backend, rx, tx))
}

/// Key and initialisation vector, if they are of the suite's algorithm.
fn key_and_iv(suite: Suite, secrets: &ConnectionTrafficSecrets) -> Option<(&[u8], &[u8])> {
    let (algorithm, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Algorithm::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Algorithm::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Algorithm::ChaCha20Poly1305, key, iv),
        _ => return None,
    };
    // rustls' keys have room for the longest one.
    let key = key.as_ref().get(..algorithm.key_len())?;
    (algorithm == suite.algorithm()).then_some((key, iv.as_ref()))
}

/// The first application traffic secrets of a TLS 1.3 connection, as rustls logs them. Without them
/// keys could not be updated outside rustls. Wiped when dropped.
#[derive(Default)]
struct CapturedSecrets {
    client: OnceLock<Secret>,
    server: OnceLock<Secret>,
}

impl CapturedSecrets {
    fn slot(&self, label: &str) -> Option<&OnceLock<Secret>> {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => Some(&self.client),
            "SERVER_TRAFFIC_SECRET_0" => Some(&self.server),
            _ => None,
        }
    }
}

impl KeyLog for CapturedSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if let (Some(slot), Some(secret)) = (self.slot(label), Secret::new(secret)) {
            slot.get_or_init(|| secret);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        self.slot(label).is_some()
    }
}

impl fmt::Debug for CapturedSecrets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("CapturedSecrets")
    }
}
