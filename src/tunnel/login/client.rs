//! The client's side of the login.
//!
//! 1. Signature, without the probe of the root page: servers do not ask for it.
//! 2. The Hello brings the challenge; the login or the wish to join a session goes out.
//! 3. Welcome, direction, redirection or refusal; what follows in the stream is data.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use thiserror::Error;
use zeroize::Zeroizing;

use super::client_pack::{self, Answer};
use super::{CONNECT_PATH, ClientInfo, Direction, Hello, NOOPS_MAX, SIGNATURE, VPN_PATH, Wants, finish_padded};
use crate::tunnel::error_code::ErrorCode;
use crate::tunnel::http::{self, HttpError, IMAGE_JPEG, OCTET_STREAM, Response, ResponseReader};
use crate::tunnel::pack::{Pack, PackError, PackLimits, PackWriter};

/// Who logs in where.
#[derive(Clone, Debug)]
pub struct Account {
    /// Name of the hub.
    pub hub: String,
    /// Name of the user.
    pub user: String,
    /// The proof.
    pub secret: Secret,
    /// What the server is told about us. The product must contain "Client", and neither "Server"
    /// nor "Bridge" unless the session is to be a bridge (§14).
    pub client: ClientInfo,
}

/// Proof of being a user; all of them are wiped when dropped.
#[derive(Clone)]
pub enum Secret {
    /// None.
    Anonymous,
    /// A password, proven by a hash of it and the challenge.
    Password(Zeroizing<String>),
    /// The hashed password ([`crate::tunnel::sha0::hashed_password`]), used the same way.
    HashedPassword(Zeroizing<[u8; 20]>),
    /// A password sent as it is, for users whom the server asks elsewhere (RADIUS).
    PlainPassword(Zeroizing<String>),
    /// A certificate, proven by the challenge signed with its key.
    Certificate(Certificate),
    /// Ticket of a [`Redirect`].
    Ticket(Zeroizing<[u8; 20]>),
}

/// A certificate, and what signs with its key.
#[derive(Clone)]
pub struct Certificate {
    /// DER.
    pub der: Vec<u8>,
    /// RSASSA-PKCS1-v1_5 with SHA-1; nothing if it cannot, which servers take for a wrong proof.
    pub sign: Arc<Sign>,
}

/// The signature of what it is given.
pub type Sign = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

impl fmt::Debug for Secret {
    /// The kind only.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password(_) => "Password",
            Self::HashedPassword(_) => "HashedPassword",
            Self::PlainPassword(_) => "PlainPassword",
            Self::Certificate(_) => "Certificate",
            Self::Ticket(_) => "Ticket",
        })
    }
}

/// What to do now.
#[derive(Debug)]
pub enum ClientNext {
    /// Wait for bytes of the server.
    NeedBytes,
    /// Send this, which may hold a password, then ask again.
    Write(Vec<u8>),
    /// Logged in. The data stream begins with [`ClientLogin::into_leftover`].
    Welcome(Box<WelcomeSeen>),
    /// Joined the session. The data stream begins with [`ClientLogin::into_leftover`].
    Additional(Direction),
    /// Log in to another server of the cluster: send the bytes, close, connect there.
    Redirect(Box<Redirect>),
    /// The server said no.
    Refused(Refusal),
    /// The server's bytes make no sense. Close the connection.
    Failed(LoginError),
}

/// A refusal by its number; [`ErrorCode`] names those that servers like ours use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The number on the wire, not 0.
    pub number: u32,
    /// The server wants a stored password forgotten.
    pub forget_password: bool,
}

impl Refusal {
    /// The code, if it is one we know.
    pub const fn code(self) -> Option<ErrorCode> {
        ErrorCode::from_number(self.number)
    }
}

/// What a welcome said.
#[derive(Clone)]
pub struct WelcomeSeen {
    /// Who the server is.
    pub hello: Hello,
    /// Name of the session.
    pub session_name: String,
    /// Name of the connection.
    pub connection_name: String,
    /// The secret by which further connections join.
    pub session_key: Zeroizing<[u8; 20]>,
    /// Connections, 1 to what we asked for.
    pub max_connection: u8,
    /// zlib per frame, both ways.
    pub compress: bool,
    /// Super-frames cross whole.
    pub supers: bool,
    /// One-way connections; the first carries data to the server.
    pub half_duplex: bool,
    /// The priority connection was granted.
    pub qos: bool,
    /// Receive timeout in ms, at least 1,000.
    pub timeout_ms: u32,
    /// VLAN of the port; for information.
    pub vlan_id: u32,
    /// Effective policy: names without prefix, in lower case or as the server writes them.
    pub policy: Vec<(String, u32)>,
    /// Text to show.
    pub message: Option<String>,
}

impl fmt::Debug for WelcomeSeen {
    /// Without the key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "WelcomeSeen({} {})", self.session_name, self.connection_name)
    }
}

/// Where a cluster's controller sends us (§9.1).
#[derive(Clone)]
pub struct Redirect {
    /// Send this to the controller before closing.
    pub goodbye: Vec<u8>,
    /// Address of the member.
    pub ip: Ipv4Addr,
    /// Its ports, at least one; prefer the one in use now, else the first.
    pub ports: Vec<u16>,
    /// Proof for the login there.
    pub ticket: Zeroizing<[u8; 20]>,
    /// The member's certificate in DER; the one presented must be the same.
    pub cert: Vec<u8>,
}

impl fmt::Debug for Redirect {
    /// Without the ticket.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Redirect({} {:?})", self.ip, self.ports)
    }
}

/// Why a server's answer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LoginError {
    /// Not HTTP.
    #[error("the server does not speak HTTP as a VPN server would: {0}")]
    Http(#[from] HttpError),
    /// A status other than 200; 403 and 404 come from a server that is no VPN server.
    #[error("the server answered HTTP status {0}; is it a VPN server?")]
    Status(u16),
    /// A body that is no PACK.
    #[error("the server answered something that is no PACK: {0}")]
    Pack(#[from] PackError),
    /// An answer lacks this element.
    #[error("the server's answer lacks {0:?}")]
    Missing(&'static str),
    /// The server wants to leave TLS.
    #[error("the server wants to go on without encryption")]
    Unencrypted,
    /// The server keeps us waiting for ever.
    #[error("the server sends nothing but NOOPs")]
    Noops,
}

/// What the connection is for.
enum Goal {
    Session { account: Account, wants: Wants },
    Join { session_key: Zeroizing<[u8; 20]>, client: ClientInfo },
}

enum State {
    AwaitHello,
    AwaitAnswer { hello: Hello, challenge: [u8; 20] },
    Done,
}

/// One connection on its way into a session: send [`Self::start`], then hand in what arrives and
/// ask [`Self::next`].
pub struct ClientLogin {
    /// Text of the `Host` header.
    host: String,
    goal: Goal,
    reader: ResponseReader,
    state: State,
    noops: u32,
}

impl ClientLogin {
    /// A login. `host` is the server's address as text.
    pub fn new(host: &str, account: Account, wants: Wants) -> Self {
        Self::with_goal(host, Goal::Session { account, wants })
    }

    /// A further connection of the session that `session_key` names.
    pub fn additional(host: &str, session_key: &[u8; 20], client: ClientInfo) -> Self {
        Self::with_goal(host, Goal::Join { session_key: Zeroizing::new(*session_key), client })
    }

    fn with_goal(host: &str, goal: Goal) -> Self {
        let reader = ResponseReader::new();
        Self { host: host.to_owned(), goal, reader, state: State::AwaitHello, noops: 0 }
    }

    /// The first bytes to send.
    pub fn start(&self) -> Vec<u8> {
        http::write_post(&self.host, CONNECT_PATH, IMAGE_JPEG, SIGNATURE)
    }

    /// Takes bytes of the TLS stream.
    pub fn receive(&mut self, plaintext: &[u8]) {
        self.reader.receive(plaintext);
    }

    /// What to do now.
    #[expect(clippy::should_implement_trait, reason = "a machine to be asked again, not a sequence that ends")]
    pub fn next(&mut self) -> ClientNext {
        if matches!(self.state, State::Done) {
            return ClientNext::NeedBytes;
        }
        match self.step() {
            Ok(next) => next,
            Err(error) => {
                self.state = State::Done;
                ClientNext::Failed(error)
            }
        }
    }

    /// What the server has said about itself, once it has and until it has answered the login.
    pub fn hello(&self) -> Option<&Hello> {
        match &self.state {
            State::AwaitAnswer { hello, .. } => Some(hello),
            State::AwaitHello | State::Done => None,
        }
    }

    /// What the server sent behind its answer: the start of its data stream.
    pub fn into_leftover(self) -> Vec<u8> {
        self.reader.into_rest()
    }

    fn step(&mut self) -> Result<ClientNext, LoginError> {
        while let Some(response) = self.reader.next_response()? {
            if let Some(next) = self.response(&response)? {
                return Ok(next);
            }
        }
        Ok(ClientNext::NeedBytes)
    }

    /// `None` if the answer was to be skipped.
    fn response(&mut self, response: &Response) -> Result<Option<ClientNext>, LoginError> {
        if response.status != 200 {
            return Err(LoginError::Status(response.status));
        }
        let pack = Pack::parse(&response.body, &PackLimits::LOGIN)?;
        if let Some(number) = pack.int("error").filter(|number| *number != 0) {
            self.state = State::Done;
            return Ok(Some(ClientNext::Refused(Refusal { number, forget_password: pack.bool("no_save_password") })));
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::AwaitHello => {
                let (hello, challenge) = client_pack::hello(&pack)?;
                let request = self.request(&challenge);
                self.state = State::AwaitAnswer { hello, challenge };
                Ok(Some(ClientNext::Write(request)))
            }
            State::AwaitAnswer { hello, challenge } if pack.bool("noop") => {
                self.noops += 1;
                if self.noops > NOOPS_MAX {
                    return Err(LoginError::Noops);
                }
                self.state = State::AwaitAnswer { hello, challenge };
                Ok(None)
            }
            State::AwaitAnswer { hello, challenge } => self.answer(&pack, hello, &challenge).map(Some),
            State::Done => Ok(None),
        }
    }

    fn request(&self, challenge: &[u8; 20]) -> Vec<u8> {
        let pack = match &self.goal {
            Goal::Session { account, wants } => client_pack::login(account, wants, challenge),
            Goal::Join { session_key, client } => client_pack::additional(session_key, client),
        };
        self.post(pack, challenge, 0)
    }

    fn answer(&self, pack: &Pack<'_>, hello: Hello, challenge: &[u8; 20]) -> Result<ClientNext, LoginError> {
        let Goal::Session { wants, .. } = &self.goal else {
            return client_pack::direction(pack).map(ClientNext::Additional);
        };
        Ok(match client_pack::answer(pack, hello, wants)? {
            Answer::Welcome(welcome) => ClientNext::Welcome(welcome),
            Answer::Redirect(mut redirect) => {
                redirect.goodbye = self.post(PackWriter::new(), challenge, 1);
                ClientNext::Redirect(redirect)
            }
        })
    }

    fn post(&self, pack: PackWriter, challenge: &[u8; 20], serial: u32) -> Vec<u8> {
        let body = Zeroizing::new(finish_padded(pack, challenge, serial));
        http::write_post(&self.host, VPN_PATH, OCTET_STREAM, &body)
    }
}
