//! The server's side of the login.
//!
//! 1. HTTP: the root page, refusals, the signature, NOOPs are answered here.
//! 2. `method` of the first real PACK: login, additional connection, list of hubs; others are refused.
//! 3. The caller's verdict becomes the last answer; what follows in the stream is data.
#![forbid(unsafe_code)]

use std::fmt;

use zeroize::Zeroizing;

use super::server_pack::{self, Asked};
use super::{CONNECT_PATH, ClientInfo, Direction, Hello, NOOPS_MAX, VPN_PATH, Wants, finish_padded};
use crate::tunnel::error_code::ErrorCode;
use crate::tunnel::http::{self, Method, OCTET_STREAM, Request, RequestReader, Status};
use crate::tunnel::pack::{Pack, PackLimits, PackWriter};

/// Requests answered on one connection, NOOPs aside (§1.2).
const REQUESTS_MAX: u32 = 19;

/// Bodies taken for a signature: from our own short form to the stock picture with its padding (§1.2).
const SIGNATURE_BYTES: std::ops::RangeInclusive<usize> = 10..=4096;

/// Stock clients up to 5.01 go on only if the page at `/` has the marker of §1.3 in its first 1023 bytes.
const ROOT_PAGE: &str = "<!DOCTYPE html>\n\
    <!-- 9C37197CA7C2428388C2E6E59B829B30 -->\n\
    <html><head><title>VPN</title></head><body><p>This is a VPN server.</p></body></html>\n";

const HTML: &str = "text/html; charset=utf-8";
const PLAIN: &str = "text/plain";

/// What to do now.
#[derive(Debug)]
pub enum Next {
    /// Wait for bytes of the peer; after a [`Self::Login`] and its like, for nothing: the verdict is the caller's.
    NeedBytes,
    /// Send this, then ask again.
    Write(Vec<u8>),
    /// Send this, which may be nothing, and close the connection.
    WriteAndClose(Vec<u8>),
    /// Somebody wants to log in: answer by [`ServerLogin::accept`] or [`ServerLogin::refuse`].
    Login(Box<LoginRequest>),
    /// A connection wants to join a session: answer by [`ServerLogin::accept_additional`] or
    /// [`ServerLogin::refuse`].
    Additional(AdditionalRequest),
    /// The list of hubs is asked for: answer by [`ServerLogin::hubs`] or [`ServerLogin::refuse`].
    EnumHubs,
}

/// What a login asks for. Lengths and alphabets are checked, nothing else.
#[derive(Clone, Debug)]
pub struct LoginRequest {
    /// Name of the hub; case does not matter.
    pub hub: String,
    /// Name of the user; case does not matter.
    pub user: String,
    /// The proof offered.
    pub credentials: Credentials,
    /// Who asks.
    pub client: ClientInfo,
    /// What is asked for.
    pub wants: Wants,
    /// The challenge that the proof answers.
    pub challenge: [u8; 20],
}

/// Proof of being a user (§3.2).
#[derive(Clone)]
pub enum Credentials {
    /// None.
    Anonymous,
    /// SHA0(hashed password ‖ challenge): compare by [`crate::tunnel::sha0::answer_fits`].
    HashedPassword([u8; 20]),
    /// The password itself, at most 255 bytes.
    PlainPassword(Zeroizing<String>),
    /// A certificate, and the challenge signed by its key.
    Certificate {
        /// DER.
        cert: Vec<u8>,
        /// RSASSA-PKCS1-v1_5 with SHA-1.
        signature: Vec<u8>,
    },
    /// Ticket of a cluster's controller.
    Ticket([u8; 20]),
    /// A kind we do not know, by its number.
    Unsupported(u32),
}

impl fmt::Debug for Credentials {
    /// The kind only.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => out.write_str("Anonymous"),
            Self::HashedPassword(_) => out.write_str("HashedPassword"),
            Self::PlainPassword(_) => out.write_str("PlainPassword"),
            Self::Certificate { .. } => out.write_str("Certificate"),
            Self::Ticket(_) => out.write_str("Ticket"),
            Self::Unsupported(number) => write!(out, "Unsupported({number})"),
        }
    }
}

/// A connection that wants to join a session.
#[derive(Clone)]
pub struct AdditionalRequest {
    /// The session's secret. Compare in constant time.
    pub session_key: [u8; 20],
    /// Product of the client, for logs.
    pub product: String,
    /// 100 · major + minor.
    pub version: u32,
    /// Build number.
    pub build: u32,
}

impl fmt::Debug for AdditionalRequest {
    /// Without the key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "AdditionalRequest({} {} {})", self.product, self.version, self.build)
    }
}

/// What a new session is told (§3.6). Encryption is always answered 1.
#[derive(Clone)]
pub struct Welcome {
    /// Name of the session, §3.8.
    pub session_name: String,
    /// Name of the connection, `CID-<n>`.
    pub connection_name: String,
    /// The secret by which further connections join.
    pub session_key: [u8; 20],
    /// Connections, 1 to 32.
    pub max_connection: u8,
    /// zlib per frame.
    pub compress: bool,
    /// Super-frames cross whole; told only if so.
    pub supers: bool,
    /// One-way connections.
    pub half_duplex: bool,
    /// The newest connection is for urgent frames.
    pub qos: bool,
    /// Receive timeout in ms; 0 would end the session at once.
    pub timeout_ms: u32,
    /// VLAN of the port, 0 if none; for information.
    pub vlan_id: u32,
    /// Effective policy: names of §3.7 without prefix.
    pub policy: Vec<(&'static str, u32)>,
    /// Text that the client shows.
    pub message: Option<String>,
}

impl fmt::Debug for Welcome {
    /// Without the key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Welcome({} {})", self.session_name, self.connection_name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No signature yet.
    Stranger,
    /// Signature seen, Hello sent.
    Greeted,
    /// The caller owes a verdict.
    Pending,
    /// Everything was said.
    Done,
}

/// One connection on its way to a session.
///
/// The caller hands in what one read of the socket gave, then asks [`Self::next`] until it says
/// [`Next::NeedBytes`]. While a verdict is pending it does not read the socket: what arrives then is
/// kept without a bound of its own.
pub struct ServerLogin {
    hello: Hello,
    challenge: [u8; 20],
    reader: RequestReader,
    state: State,
    requests: u32,
    noops: u32,
    /// PACKs sent, so that each gets other padding.
    sent: u32,
}

impl ServerLogin {
    /// `challenge` has to be random for each connection.
    pub fn new(hello: Hello, challenge: [u8; 20]) -> Self {
        let reader = RequestReader::new();
        Self { hello, challenge, reader, state: State::Stranger, requests: 0, noops: 0, sent: 0 }
    }

    /// Takes bytes of the TLS stream.
    pub fn receive(&mut self, plaintext: &[u8]) {
        self.reader.receive(plaintext);
    }

    /// What to do now.
    #[expect(clippy::should_implement_trait, reason = "a machine to be asked again, not a sequence that ends")]
    pub fn next(&mut self) -> Next {
        match self.state {
            State::Pending => return Next::NeedBytes,
            State::Done => return Next::WriteAndClose(Vec::new()),
            State::Stranger | State::Greeted => {}
        }
        match self.reader.next_request() {
            Ok(None) => Next::NeedBytes,
            Ok(Some(request)) => self.request(&request),
            Err(error) => {
                let status = error.status();
                self.close_with(http::write_response(status, PLAIN, false, "", status.reason().as_bytes()))
            }
        }
    }

    /// The answer that turns the connection into the first one of a session. Afterwards
    /// [`Self::into_leftover`].
    pub fn accept(&mut self, welcome: &Welcome) -> Vec<u8> {
        self.verdict(server_pack::welcome(welcome))
    }

    /// The answer that adds the connection to its session. Afterwards [`Self::into_leftover`].
    pub fn accept_additional(&mut self, direction: Direction) -> Vec<u8> {
        let mut pack = PackWriter::new();
        pack.int("error", 0).int("direction", direction.number());
        self.verdict(pack)
    }

    /// The answer that refuses. Then close the connection, giving the peer a moment to read it.
    pub fn refuse(&mut self, code: ErrorCode) -> Vec<u8> {
        self.verdict(server_pack::refusal(code))
    }

    /// The list of hubs. Then close the connection, giving the peer a moment to read it.
    pub fn hubs(&mut self, names: &[&str]) -> Vec<u8> {
        let mut pack = PackWriter::new();
        pack.strs("HubName", names).int("NumHub", u32::try_from(names.len()).unwrap_or(u32::MAX));
        self.verdict(pack)
    }

    /// What the client sent behind its login: the start of its data stream.
    pub fn into_leftover(self) -> Vec<u8> {
        self.reader.into_rest()
    }

    fn request(&mut self, request: &Request) -> Next {
        if self.requests >= REQUESTS_MAX {
            return self.close_with(Vec::new());
        }
        self.requests += 1;
        let path = request.target.split('?').next().unwrap_or_default();
        match (path, request.method) {
            (_, Method::Other) => self.page(request, Status::NotImplemented, ""),
            ("/", Method::Get | Method::Head) => self.root(request),
            (CONNECT_PATH, Method::Post) => self.signature(request),
            (VPN_PATH, Method::Post) => self.pack(request),
            ("/", _) => self.page(request, Status::MethodNotAllowed, "Allow: GET, HEAD\r\n"),
            (CONNECT_PATH | VPN_PATH, _) => self.page(request, Status::MethodNotAllowed, "Allow: POST\r\n"),
            _ => self.page(request, Status::NotFound, ""),
        }
    }

    fn root(&mut self, request: &Request) -> Next {
        self.answer(request, Status::Ok, HTML, "", ROOT_PAGE.as_bytes())
    }

    fn page(&mut self, request: &Request, status: Status, extra: &str) -> Next {
        self.answer(request, status, PLAIN, extra, status.reason().as_bytes())
    }

    fn signature(&mut self, request: &Request) -> Next {
        if !SIGNATURE_BYTES.contains(&request.body.len()) {
            return self.page(request, Status::Forbidden, "");
        }
        self.state = State::Greeted;
        let mut pack = PackWriter::new();
        pack.str("hello", &self.hello.product).int("version", self.hello.version).int("build", self.hello.build);
        pack.data("random", &self.challenge);
        let body = self.finish(pack);
        self.answer(request, Status::Ok, OCTET_STREAM, "", &body)
    }

    fn pack(&mut self, request: &Request) -> Next {
        if self.state == State::Stranger {
            return self.refuse_now(ErrorCode::Protocol);
        }
        let Ok(pack) = Pack::parse(&request.body, &PackLimits::LOGIN) else {
            return self.refuse_now(ErrorCode::Protocol);
        };
        match server_pack::asked(&pack, &self.challenge) {
            Err(code) => self.refuse_now(code),
            Ok(Asked::Noop) => self.noop(),
            Ok(Asked::Login(login)) => self.pending(Next::Login(login)),
            Ok(Asked::Additional(additional)) => self.pending(Next::Additional(additional)),
            Ok(Asked::EnumHubs) => self.pending(Next::EnumHubs),
        }
    }

    fn noop(&mut self) -> Next {
        if self.noops >= NOOPS_MAX {
            return self.refuse_now(ErrorCode::Protocol);
        }
        self.noops += 1;
        self.requests -= 1;
        let mut pack = PackWriter::new();
        // 4.44 and 5.01 answer 1, 5.2 answers 2; clients skip anything but 0.
        pack.int("error", 0).int("noop", 1);
        let body = self.finish(pack);
        Next::Write(http::write_response(Status::Ok, OCTET_STREAM, true, "", &body))
    }

    fn pending(&mut self, next: Next) -> Next {
        self.state = State::Pending;
        next
    }

    fn refuse_now(&mut self, code: ErrorCode) -> Next {
        let bytes = self.refuse(code);
        Next::WriteAndClose(bytes)
    }

    fn verdict(&mut self, pack: PackWriter) -> Vec<u8> {
        debug_assert_ne!(self.state, State::Done, "a connection gets one verdict");
        self.state = State::Done;
        let body = self.finish(pack);
        http::write_response(Status::Ok, OCTET_STREAM, true, "", &body)
    }

    /// Answers, and closes if the client wants it or has asked as often as it may.
    fn answer(&mut self, request: &Request, status: Status, content_type: &str, extra: &str, body: &[u8]) -> Next {
        let keep_alive = request.keep_alive && self.requests < REQUESTS_MAX;
        let bytes = match request.method {
            Method::Head => http::write_head(status, content_type, keep_alive, extra, body.len()),
            _ => http::write_response(status, content_type, keep_alive, extra, body),
        };
        if keep_alive { Next::Write(bytes) } else { self.close_with(bytes) }
    }

    fn close_with(&mut self, bytes: Vec<u8>) -> Next {
        self.state = State::Done;
        Next::WriteAndClose(bytes)
    }

    fn finish(&mut self, pack: PackWriter) -> Vec<u8> {
        self.sent += 1;
        finish_padded(pack, &self.challenge, self.sent)
    }
}
