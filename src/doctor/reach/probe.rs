//! Goes one way and says what it saw.
//!
//! 1. The way is opened.
//! 2. TLS, with any certificate: what to think of it is decided afterwards.
//! 3. The signature of a VPN client, and what is answered. There is no login, and no password.
//! 4. On a way that works, once more with a ClientHello of several packets: whether large packets pass.
//!
//! Where TLS gets no answer, or only a small one, the same is tried with small segments: if that works, it is the size.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{CertificateError, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificate::{CertificateView, Fingerprint};
use super::verdict::{Answer, Done, Large, SMALL_SEGMENT_BYTES, Tls, Trust};
use crate::client::via::stream::{Stream, shown};
use crate::client::via::{Deadline, Helper, Journey, Step, Via, ViaError};
use crate::tls::config::{ServerTrust, TlsVersions, client_config};
use crate::tls::x509::unix;
use crate::tunnel::login::client::{Account, ClientLogin, ClientNext, Secret};
use crate::tunnel::login::{ClientInfo, Wants};

/// What all probes of a server have in common.
pub struct Probe {
    /// Name or address of the server.
    pub host: String,
    /// Longest wait for the connection, for TLS, and for the answer, each.
    pub limit: Duration,
    /// What its certificate must be.
    pub pin: Option<Fingerprint>,
    /// Issuers that this system knows.
    pub roots: Arc<RootCertStore>,
}

/// What was seen on a way.
pub struct Seen {
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// How far it came.
    pub tls: Result<Tls, ViaError>,
    /// Version and suite of TLS.
    pub session: Option<String>,
}

/// A TLS connection, or why there is none.
enum Shaken {
    Done(Box<ClientConnection>, Tap),
    Failed(Tls),
}

impl Probe {
    /// Goes the way.
    pub fn go(&self, via: &Via, port: u16) -> Seen {
        let mut journey = Journey::new(self.limit);
        let opened = journey.go(via, &self.host, port);
        let (mut steps, mut session) = (journey.steps, None);
        let tls = opened.map(|opened| {
            let tls = self.behind(opened.socket.into(), &mut steps, &mut session);
            // What carries the way is needed up to here.
            drop(opened.helper);
            self.size(via, port, tls)
        });
        Seen { steps, tls, session }
    }

    /// Whether it is the size of packets that is in the way, where it may be.
    fn size(&self, via: &Via, port: u16, tls: Tls) -> Tls {
        match tls {
            Tls::Silent { .. } => {
                Tls::Silent { small_segments_work: self.answers(via, port, Hello::Usual, Some(SMALL_SEGMENT_BYTES)) }
            }
            Tls::Done(mut done) if matches!(done.answer, Answer::Vpn(_)) => {
                done.large = self.large(via, port);
                Tls::Done(done)
            }
            other => other,
        }
    }

    fn behind(&self, stream: Stream, steps: &mut Vec<Step>, session: &mut Option<String>) -> Tls {
        let began = Instant::now();
        let shaken = self.shake(stream, Hello::Usual);
        steps.push(Step { name: "tls", address: None, took: began.elapsed() });
        let (mut tls, mut tap) = match shaken {
            Shaken::Done(tls, tap) => (*tls, tap),
            Shaken::Failed(why) => return why,
        };
        let suite = tls.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
        let version = tls.protocol_version().map(|version| format!("{version:?}"));
        *session = version.zip(suite).map(|(version, suite)| format!("{version} {suite}"));
        let chain = tls.peer_certificates().unwrap_or_default().to_vec();
        let Some(first) = chain.first() else { return Tls::Failed("the server showed no certificate".into()) };
        let certificate = CertificateView::new(first);
        let trust = self.trust(&chain, certificate.self_signed);
        let began = Instant::now();
        tap.deadline = Deadline::after(self.limit);
        let (answer, date_unix_s) = self.sign(&mut tls, &mut tap);
        steps.push(Step { name: "answer", address: None, took: began.elapsed() });
        Tls::Done(Box::new(Done { certificate, trust, answer, date_unix_s, large: Large::Untried }))
    }

    /// Whether a ClientHello of several packets is answered.
    fn large(&self, via: &Via, port: u16) -> Large {
        if self.answers(via, port, Hello::Large, None) {
            Large::Pass
        } else if self.answers(via, port, Hello::Large, Some(SMALL_SEGMENT_BYTES)) {
            Large::OnlyInSmallSegments
        } else {
            Large::NotAtAll
        }
    }

    /// Whether anything in TLS comes back.
    fn answers(&self, via: &Via, port: u16, hello: Hello, segment_bytes_max: Option<u32>) -> bool {
        // The connection of `ssh` is its own.
        if segment_bytes_max.is_some() && matches!(via, Via::Ssh(_)) {
            return false;
        }
        let mut journey = Journey::new(self.limit);
        journey.segment_bytes_max = segment_bytes_max;
        let Ok(opened) = journey.go(via, &self.host, port) else { return false };
        let _helper: Option<Helper> = opened.helper;
        match self.shake(opened.socket.into(), hello) {
            Shaken::Done(..) => true,
            // A refusal is an answer: the packets have passed.
            Shaken::Failed(Tls::Failed(_)) => true,
            Shaken::Failed(_) => false,
        }
    }

    fn shake(&self, stream: Stream, hello: Hello) -> Shaken {
        let mut config = client_config(ServerTrust::AcceptAny, TlsVersions::Both);
        if hello == Hello::Large {
            config.alpn_protocols =
                (0..PADDING_NAMES).map(|n| format!("{n:0>PADDING_NAME_BYTES$}").into_bytes()).collect();
        }
        let mut tap = Tap { stream, deadline: Deadline::after(self.limit), first: Vec::new() };
        let name = ServerName::try_from(self.host.clone());
        let tls = name
            .map_err(|error| error.to_string())
            .and_then(|name| ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string()));
        let mut tls = match tls {
            Ok(tls) => tls,
            Err(why) => return Shaken::Failed(Tls::Failed(why)),
        };
        match tls.complete_io(&mut tap) {
            Ok(_) => Shaken::Done(Box::new(tls), tap),
            Err(error) => Shaken::Failed(failed(&error, &tap.first)),
        }
    }

    fn trust(&self, chain: &[CertificateDer<'_>], is_self_signed: bool) -> Trust {
        let Some((first, others)) = chain.split_first() else { return Trust::UnknownIssuer };
        if let Some(pin) = self.pin {
            return if pin.fits(first) { Trust::Pinned } else { Trust::NotPinned };
        }
        let provider = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider).build();
        let (Ok(verifier), Ok(name)) = (verifier, ServerName::try_from(self.host.as_str())) else {
            return if is_self_signed { Trust::SelfSigned } else { Trust::UnknownIssuer };
        };
        match verifier.verify_server_cert(first, others, &name, &[], UnixTime::now()) {
            Ok(_) => Trust::Known,
            Err(rustls::Error::InvalidCertificate(error)) => match error {
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Trust::OtherName,
                // The clock is remarked on by itself.
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
                    if !is_self_signed =>
                {
                    Trust::Known
                }
                _ if is_self_signed => Trust::SelfSigned,
                _ => Trust::UnknownIssuer,
            },
            Err(_) => Trust::UnknownIssuer,
        }
    }

    /// Sends what a VPN client begins with; the server's answer, and the time by its clock.
    fn sign(&self, tls: &mut ClientConnection, tap: &mut Tap) -> (Answer, Option<i64>) {
        let client = ClientInfo { product: "Hublane Client".into(), version: 100, ..ClientInfo::default() };
        let account = Account { hub: String::new(), user: String::new(), secret: Secret::Anonymous, client };
        let mut login = ClientLogin::new(&self.host, account, Wants::default());
        let (mut all, mut bytes) = (Vec::new(), vec![0; 4096]);
        let mut stream = rustls::Stream::new(tls, tap);
        let ended = |error: &io::Error| {
            if error.kind() == io::ErrorKind::TimedOut { Answer::Nothing } else { Answer::Closed }
        };
        if let Err(error) = stream.write_all(&login.start()) {
            return (ended(&error), None);
        }
        let answer = loop {
            match login.next() {
                ClientNext::NeedBytes => {}
                // How it began says more than that it is no HTTP.
                ClientNext::Failed(_) if !all.starts_with(b"HTTP/") => break no_vpn(&all).unwrap_or(Answer::Closed),
                ClientNext::Failed(error) => break web(&all).unwrap_or_else(|| Answer::Other(error.to_string())),
                // The server has introduced itself; that is all there is to know.
                ClientNext::Write(_) => match login.hello() {
                    Some(hello) => break Answer::Vpn(format!("{} (build {})", hello.product, hello.build)),
                    None => break Answer::Other("it asks for a login before its greeting".into()),
                },
                next => break Answer::Other(format!("{next:?}")),
            }
            match stream.read(&mut bytes) {
                Ok(0) => break no_vpn(&all).unwrap_or(Answer::Closed),
                Ok(n) => {
                    all.extend_from_slice(&bytes[..n]);
                    login.receive(&bytes[..n]);
                }
                Err(error) => break no_vpn(&all).unwrap_or_else(|| ended(&error)),
            }
        };
        stream.conn.send_close_notify();
        // Only a courtesy: who has gone does not need it.
        let _ = stream.flush();
        (answer, header(&all, "Date").and_then(|date| http_date(&date)))
    }
}

/// What a handshake that failed with `error` means; `first`: how what was received begins.
fn failed(error: &io::Error, first: &[u8]) -> Tls {
    // Alert and handshake are what a TLS server begins with (RFC 8446 §5.1).
    let is_tls = matches!(first, [] | [21 | 22] | [21 | 22, 3, ..]);
    if !is_tls {
        return Tls::NotTls(shown(first));
    }
    match error.kind() {
        io::ErrorKind::TimedOut => Tls::Silent { small_segments_work: false },
        io::ErrorKind::InvalidData => {
            Tls::Failed(error.get_ref().map_or_else(|| error.to_string(), ToString::to_string))
        }
        _ if first.is_empty() => Tls::Closed,
        _ => Tls::Failed(error.to_string()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hello {
    Usual,
    /// With names of protocols that nobody knows, for its size.
    Large,
}

/// A stream within a deadline, which remembers how it began.
struct Tap {
    stream: Stream,
    deadline: Deadline,
    first: Vec<u8>,
}

impl Read for Tap {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(bytes, &self.deadline)?;
        let room = FIRST_BYTES.saturating_sub(self.first.len());
        self.first.extend_from_slice(&bytes[..n.min(room)]);
        Ok(n)
    }
}

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write_all(bytes, &self.deadline)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What it is that has said so and no more, if it has said anything.
fn no_vpn(answer: &[u8]) -> Option<Answer> {
    web(answer).or_else(|| (!answer.is_empty()).then(|| Answer::Other(shown(answer))))
}

/// The web server that has answered so, if it is one.
fn web(answer: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    head.parse(answer).ok()?;
    let status = head.code?;
    Some(Answer::Web(status, header(answer, "Server").unwrap_or_default()))
}

fn header(answer: &[u8], name: &str) -> Option<String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    head.parse(answer).ok()?;
    let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    let text = String::from_utf8_lossy(found.value);
    Some(text.chars().filter(|c| !c.is_control()).take(HEADER_CHARS_MAX).collect())
}

/// RFC 9110 §5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`, in seconds since 1970.
fn http_date(text: &str) -> Option<i64> {
    let [_, day, month, year, time, "GMT"] = text.split(' ').collect::<Vec<_>>()[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)?;
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>()[..] else { return None };
    let number = |text: &str| text.parse::<u8>().ok();
    let month = u8::try_from(month + 1).ok()?;
    unix(year.parse().ok()?, month, number(day)?, [number(hour)?, number(minute)?, number(second)?])
}

/// Issuers that this system trusts; none if it has no list.
pub fn system_roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let named = std::env::var("SSL_CERT_FILE").ok();
    let all = named.iter().map(String::as_str).chain(BUNDLES.iter().copied());
    if let Some(text) = all.filter_map(|file| fs::read(file).ok()).next() {
        let certificates = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
        roots.add_parsable_certificates(certificates);
    }
    Arc::new(roots)
}

/// This machine's clock, in seconds since 1970.
pub fn now_unix_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Where Debian, Red Hat and Alpine, SUSE keep their list.
const BUNDLES: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Names of 200 bytes, 20 of them: three packets of 1,460 bytes with what else a ClientHello has.
const PADDING_NAMES: usize = 20;
const PADDING_NAME_BYTES: usize = 200;

const FIRST_BYTES: usize = 64;
const HEADERS_MAX: usize = 64;
const HEADER_CHARS_MAX: usize = 60;

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
