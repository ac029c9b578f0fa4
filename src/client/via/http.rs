//! CONNECT through an HTTP proxy (RFC 9110 §9.3.6).
//!
//! The first request goes without a proof, so that a proxy that takes Digest never sees the password. A 407 then says
//! what the proxy takes, and the next request, on a connection of its own, has it. A nonce that was too old is
//! replaced once.
#![forbid(unsafe_code)]

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::digest::{Challenge, Proof, hex};
use super::head::{self, HEAD_BYTES_MAX, Head};
use super::stream::{Stream, broken, shown};
use super::{Deadline, Proxy, Target, ViaError};

/// Who asks, and what the proxy has said about it so far.
#[derive(Debug)]
pub struct Credentials<'a> {
    proxy: &'a Proxy,
    proof: Option<Proof>,
    has_renewed: bool,
}

impl<'a> Credentials<'a> {
    /// The user of `proxy`; nothing has been said yet.
    pub fn new(proxy: &'a Proxy) -> Self {
        Self { proxy, proof: None, has_renewed: false }
    }

    /// The request.
    pub fn request(&self, target: &Target, cnonce: &str) -> Zeroizing<Vec<u8>> {
        let target = target.text();
        let mut text = Zeroizing::new(String::with_capacity(REQUEST_BYTES));
        text.push_str(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Connection: Keep-Alive\r\n"));
        if let (Some(proof), Some(user), Some(password)) = (&self.proof, &self.proxy.user, &self.proxy.password) {
            text.push_str("Proxy-Authorization: ");
            text.push_str(&proof.header(user, password, "CONNECT", &target, cnonce));
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        Zeroizing::new(text.as_bytes().to_vec())
    }

    /// What the proxy's answer means: `true` for a connection, `false` for another try.
    ///
    /// # Errors
    /// If it says no.
    pub fn judge(&mut self, head: &[u8], target: &Target) -> Result<bool, ViaError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        let status = match answer.parse(head) {
            Ok(httparse::Status::Complete(_)) => answer.code,
            _ => None,
        };
        let proxy = self.proxy.to_string();
        let Some(status) = status else { return Err(ViaError::ProxyGarbage { proxy, seen: shown(head) }) };
        let target = target.text();
        match status {
            200..=299 => Ok(true),
            407 => self.challenged(answer.headers).map(|()| false),
            // tinyproxy's answer to a wrong password.
            401 if self.proof.is_some() => {
                let user = self.proxy.user.clone().unwrap_or_default();
                Err(ViaError::ProxyPassword { proxy, user })
            }
            403 | 405 => Err(ViaError::ProxyForbids { proxy, target, status }),
            500 | 502..=504 => Err(ViaError::ProxyCannotReach { proxy, target, status }),
            _ => {
                let reason = answer.reason.unwrap_or_default().chars().take(REASON_CHARS_MAX).collect();
                Err(ViaError::ProxyStatus { proxy, status, reason })
            }
        }
    }

    /// Takes what the proxy wants to be shown next time.
    fn challenged(&mut self, headers: &[httparse::Header<'_>]) -> Result<(), ViaError> {
        let challenges: Vec<Challenge> = headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case("Proxy-Authenticate"))
            .flat_map(|header| Challenge::parse_all(&String::from_utf8_lossy(header.value)))
            .collect();
        let proxy = self.proxy.to_string();
        let mut schemes: Vec<&str> = challenges.iter().map(|challenge| challenge.scheme.as_str()).collect();
        schemes.dedup();
        let offers = if schemes.is_empty() { "no scheme it names".to_owned() } else { schemes.join(", ") };
        let Some(user) = self.proxy.user.clone() else {
            return Err(ViaError::ProxyWantsUser { proxy, offers, scheme: "http" });
        };
        if self.proxy.password.is_none() {
            return Err(ViaError::ProxyWantsPassword { proxy, user });
        }
        let Some(next) = Proof::choose(&challenges) else { return Err(ViaError::ProxyProof { proxy, offers }) };
        if self.proof.is_some() {
            let is_renewal = matches!(&next, Proof::Digest(digest) if digest.is_stale) && !self.has_renewed;
            if !is_renewal {
                return Err(ViaError::ProxyPassword { proxy, user });
            }
            self.has_renewed = true;
        }
        self.proof = Some(next);
        Ok(())
    }
}

/// Asks once; `None`: ask again on another connection.
///
/// # Errors
/// If the proxy says no, or nothing sensible.
pub fn ask(
    mut socket: Stream,
    deadline: &Deadline,
    credentials: &mut Credentials<'_>,
    target: &Target,
) -> Result<Option<Stream>, ViaError> {
    let proxy = credentials.proxy;
    let name = || proxy.to_string();
    let secs = deadline.whole().as_secs_f64();
    let mut cnonce = [0; 16];
    rand::fill(&mut cnonce).map_err(|_| ViaError::Socket(std::io::Error::other("the system has no randomness")))?;
    let request = credentials.request(target, &hex(&cnonce));
    socket.write_all(&request, deadline).map_err(|error| broken(proxy, error, "takes no request", deadline))?;
    let read = head::read(&mut socket, deadline).map_err(|error| broken(proxy, error, "says nothing", deadline))?;
    let head = match read {
        Head::Whole(head) => head,
        Head::Cut(head) if head.is_empty() => return Err(ViaError::ProxyClosed { proxy: name() }),
        Head::Cut(head) => return Err(ViaError::ProxyHalf { proxy: name(), bytes: head.len() }),
        Head::Late(head) => {
            let what = if head.is_empty() { "says nothing" } else { "does not finish its answer" };
            return Err(ViaError::ProxySilent { proxy: name(), what, secs });
        }
        Head::Endless => return Err(ViaError::ProxyEndless { proxy: name(), max: HEAD_BYTES_MAX }),
        Head::Garbage(head) => return Err(ViaError::ProxyGarbage { proxy: name(), seen: shown(&head) }),
    };
    Ok(credentials.judge(&head, target)?.then_some(socket))
}

/// Header lines of a proxy's answer that are read.
const HEADERS_MAX: usize = 100;
/// What is shown of a reason phrase.
const REASON_CHARS_MAX: usize = 60;
/// Room for a request, so that the text with the password does not move while it grows.
const REQUEST_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(user: Option<&str>, password: Option<&str>) -> Proxy {
        let password = password.map(|password| Zeroizing::new(password.to_owned()));
        Proxy { host: "proxy".into(), port: 3128, user: user.map(str::to_owned), password }
    }

    fn target() -> Target {
        Target::new("vpn.example", 443).unwrap()
    }

    fn text(credentials: &Credentials<'_>) -> String {
        String::from_utf8(credentials.request(&target(), "c").to_vec()).unwrap()
    }

    #[test]
    fn the_password_waits_for_the_question() {
        let proxy = proxy(Some("me"), Some("secret"));
        let mut credentials = Credentials::new(&proxy);
        let first = "CONNECT vpn.example:443 HTTP/1.1\r\nHost: vpn.example:443\r\nProxy-Connection: Keep-Alive\r\n\r\n";
        assert_eq!(text(&credentials), first);
        let asks = b"HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n";
        assert!(!credentials.judge(asks, &target()).unwrap());
        assert!(text(&credentials).contains("\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"));
        assert!(credentials.judge(b"HTTP/1.0 200 Connection established\r\n\r\n", &target()).unwrap());
        for refusal in [&asks[..], b"HTTP/1.0 401 Unauthorized\r\n\r\n"] {
            let error = credentials.judge(refusal, &target()).unwrap_err();
            assert!(matches!(error, ViaError::ProxyPassword { .. }), "{error}");
        }
    }

    #[test]
    fn a_stale_nonce_is_renewed_once() {
        let proxy = proxy(Some("me"), Some("secret"));
        let mut credentials = Credentials::new(&proxy);
        let asks = |nonce: &str, stale: bool| {
            let line = format!("Digest realm=\"x\", nonce=\"{nonce}\", qop=\"auth\", stale={stale}");
            format!("HTTP/1.1 407 Auth\r\nProxy-Authenticate: {line}\r\n\r\n").into_bytes()
        };
        assert!(!credentials.judge(&asks("1", false), &target()).unwrap());
        assert!(text(&credentials).contains("nonce=\"1\"") && text(&credentials).contains("uri=\"vpn.example:443\""));
        assert!(!credentials.judge(&asks("2", true), &target()).unwrap());
        assert!(text(&credentials).contains("nonce=\"2\""));
        let error = credentials.judge(&asks("3", true), &target()).unwrap_err();
        assert!(matches!(error, ViaError::ProxyPassword { .. }), "{error}");
    }

    #[test]
    fn every_answer_has_its_name() {
        let judge = |user, password, answer: &str| {
            let proxy = proxy(user, password);
            Credentials::new(&proxy).judge(answer.as_bytes(), &target()).unwrap_err().to_string()
        };
        let asks = |scheme: &str| format!("HTTP/1.1 407 x\r\nProxy-Authenticate: {scheme}\r\n\r\n");
        for (answer, said) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "does not allow vpn.example:443 (HTTP 403)"),
            ("HTTP/1.1 405 x\r\n\r\n", "does not allow"),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "cannot reach vpn.example:443 (HTTP 502)"),
            ("HTTP/1.1 503 x\r\n\r\n", "cannot reach"),
            ("HTTP/1.1 504 x\r\n\r\n", "cannot reach"),
            ("HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP 400 Bad Request"),
            ("HTTP/1.1 302 Found\r\n\r\n", "HTTP 302 Found"),
            ("HTTP/1.1 abc\r\n\r\n", "is not HTTP"),
            ("HTTP/1.1 407 x\r\n\r\n", "no scheme it names"),
        ] {
            let error = judge(None, None, answer);
            assert!(error.contains(said), "{answer}: {error}");
        }
        assert!(judge(None, None, &asks("Basic realm=x")).contains("--via http://USER@proxy:3128"));
        assert!(judge(Some("me"), None, &asks("Basic realm=x")).contains("HUBLANE_PROXY_PASSWORD"));
        assert!(judge(Some("me"), Some("p"), &asks("NTLM, Negotiate")).contains("takes only NTLM, Negotiate"));
        let endless: String = std::iter::repeat_n("A: b\r\n", HEADERS_MAX + 1).collect();
        assert!(judge(None, None, &format!("HTTP/1.1 200 x\r\n{endless}\r\n")).contains("is not HTTP"));
    }

    #[test]
    fn addresses_of_ipv6_have_brackets() {
        let proxy = proxy(None, None);
        let request = Credentials::new(&proxy).request(&Target::new("2001:db8::1", 443).unwrap(), "");
        assert!(request.starts_with(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n"));
    }
}
