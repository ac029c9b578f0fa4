//! What was seen on a way → what it means, in a word and in a sentence. Pure.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::certificate::CertificateView;
use crate::client::via::ViaError;

/// What is in the way, from "nowhere near" to "works": of several ways the furthest tells most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The name has no address.
    NoName,
    /// There is no route.
    Unreachable,
    /// Packets are swallowed.
    Swallowed,
    /// The port is closed.
    Refused,
    /// The proxy says no, or nothing sensible.
    Proxy,
    /// `ssh` did not lead there.
    Ssh,
    /// The port is open, but TLS gets no answer.
    Silent,
    /// The connection ends when TLS begins.
    Cut,
    /// Something else than TLS answers.
    NotTls,
    /// TLS fails.
    TlsFailed,
    /// A server, but none for VPN.
    NoVpn,
    /// Large packets are swallowed.
    Mtu,
    /// Somebody in between, or another server, shows his own certificate.
    Inspected,
    /// It works.
    Works,
}

/// How far TLS came.
#[derive(Debug)]
pub enum Tls {
    /// Nothing came back, or not enough.
    Silent {
        /// With small segments it worked.
        small_segments_work: bool,
    },
    /// The connection ended.
    Closed,
    /// Other bytes came; how they begin.
    NotTls(String),
    /// It failed; in the words of rustls.
    Failed(String),
    /// A connection.
    Done(Box<Done>),
}

/// A TLS connection, and what was found behind it.
#[derive(Debug)]
pub struct Done {
    /// The server's certificate.
    pub certificate: CertificateView,
    /// What to think of it.
    pub trust: Trust,
    /// What the server said to the signature of a VPN client.
    pub answer: Answer,
    /// What the server's clock said.
    pub date_unix_s: Option<i64>,
    /// Whether large packets pass.
    pub large: Large,
}

/// What to think of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// It has the fingerprint it must have.
    Pinned,
    /// It has another.
    NotPinned,
    /// Issued for this name by somebody whom this system knows.
    Known,
    /// Issued by somebody whom this system knows, but for other names.
    OtherName,
    /// Issued by itself, as servers like ours have it.
    SelfSigned,
    /// Issued by somebody whom this system does not know.
    UnknownIssuer,
}

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is a VPN server: product and build.
    Vpn(String),
    /// A web server: status, and what it calls itself.
    Web(u16, String),
    /// Something else, in words.
    Other(String),
    /// Nothing in time.
    Nothing,
    /// The end.
    Closed,
}

/// Whether packets of full size pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Large {
    /// They do.
    Pass,
    /// Only if they are cut small.
    OnlyInSmallSegments,
    /// What needs several packets does not pass at all: a box that reads the beginning of TLS, more likely than the
    /// size.
    NotAtAll,
    /// It was not tried.
    Untried,
}

/// What it means that a way did not open.
pub fn of_error(error: &ViaError) -> Finding {
    match error {
        ViaError::NotAName { .. } | ViaError::NoName { .. } => Finding::NoName,
        ViaError::Refused { .. } => Finding::Refused,
        ViaError::Swallowed { .. } => Finding::Swallowed,
        ViaError::Unreachable { .. } | ViaError::Socket(_) => Finding::Unreachable,
        ViaError::SshMissing { .. } | ViaError::SshFailed { .. } | ViaError::SshSilent { .. } => Finding::Ssh,
        _ => Finding::Proxy,
    }
}

/// What it means that it opened and TLS came so far; `place` is the way in a word or two.
pub fn of_tls(tls: &Tls, place: &str, secs: u64) -> (Finding, String) {
    match tls {
        Tls::Silent { small_segments_work: true } => (
            Finding::Mtu,
            format!(
                "large packets are swallowed {place}: TLS hangs, and works with segments of {SMALL_SEGMENT_BYTES} bytes; \
                 lower the MTU of the device (ip link set DEV mtu 1280), or let the router cut the MSS"
            ),
        ),
        Tls::Silent { small_segments_work: false } => (
            Finding::Silent,
            format!(
                "the connection opens {place}, but nothing answers to TLS within {secs} s: a firewall that lets only the \
                 beginning pass, or a service that waits for something else; try another port or way"
            ),
        ),
        Tls::Closed => (
            Finding::Cut,
            format!(
                "the connection opens {place} and ends as soon as TLS begins: a firewall that forbids TLS there, or a server \
                 that does not like us; try another port or way"
            ),
        ),
        Tls::NotTls(seen) => (
            Finding::NotTls,
            format!("what answers {place} is not TLS ({seen}): another service has this port; check the port"),
        ),
        Tls::Failed(why) => (
            Finding::TlsFailed,
            format!(
                "TLS fails {place} ({why}): the server may be too old for TLS 1.2, or something in between spoils it"
            ),
        ),
        Tls::Done(done) => of_done(done, place),
    }
}

fn of_done(done: &Done, place: &str) -> (Finding, String) {
    let certificate = &done.certificate;
    let shown = format!("issuer {}, SHA-256 {}", or_none(&certificate.issuer), certificate.fingerprint);
    match done.trust {
        Trust::NotPinned => {
            let text = format!(
                "the certificate {place} is not the one that is expected ({shown}): a proxy opens TLS on the way, or the \
                 server has another one; ask its operator, and do not log in before"
            );
            return (Finding::Inspected, text);
        }
        Trust::UnknownIssuer => {
            let text = format!(
                "the certificate {place} comes from an issuer that is unknown here ({shown}): probably a proxy that opens TLS; \
                 if the fingerprint is the one that the server prints at its start, give it as --pin"
            );
            return (Finding::Inspected, text);
        }
        Trust::Pinned | Trust::Known | Trust::OtherName | Trust::SelfSigned => {}
    }
    let product = match &done.answer {
        Answer::Vpn(product) => product,
        other => return (Finding::NoVpn, no_vpn(other, place)),
    };
    if done.large == Large::OnlyInSmallSegments {
        let text = format!(
            "{product} answers {place}, but large packets towards it are swallowed: lower the MTU of the device \
             (ip link set DEV mtu 1280), or let the router cut the MSS"
        );
        return (Finding::Mtu, text);
    }
    (Finding::Works, format!("{product} answers {place}"))
}

fn no_vpn(answer: &Answer, place: &str) -> String {
    match answer {
        Answer::Vpn(product) => format!("{product} answers {place}"),
        Answer::Web(status, server) => {
            let server = if server.is_empty() { String::new() } else { format!(" ({server})") };
            format!("a web server{server} answers {place} with HTTP {status}, no VPN server: check host and port")
        }
        Answer::Other(seen) => {
            format!("what answers {place} inside TLS is no VPN server ({seen}): check host and port")
        }
        Answer::Nothing => format!("TLS opens {place}, but then nothing answers: check whether it is a VPN server"),
        Answer::Closed => format!("TLS opens {place}, and then the connection ends: check whether it is a VPN server"),
    }
}

/// What else there is to say; `now_unix_s` is our clock.
pub fn remarks(done: &Done, now_unix_s: i64) -> Vec<String> {
    let mut all = Vec::new();
    let certificate = &done.certificate;
    if let Some(skew) =
        done.date_unix_s.map(|date| now_unix_s.saturating_sub(date)).filter(|skew| skew.abs() > SKEW_SECS_MAX)
    {
        let side = if skew > 0 { "ahead of" } else { "behind" };
        all.push(format!("this machine's clock is {} {side} the server's: one of them is wrong", span(skew.abs())));
    }
    if let Some(early) = certificate.not_before_unix_s.map(|from| from - now_unix_s).filter(|early| *early > 0) {
        let text = "the certificate becomes valid in";
        all.push(format!("{text} {}: this machine's clock is probably behind; set it (timedatectl)", span(early)));
    }
    if let Some(late) = certificate.not_after_unix_s.map(|until| now_unix_s - until).filter(|late| *late > 0) {
        all.push(format!("the certificate expired {} ago, unless this machine's clock is ahead", span(late)));
    }
    if done.trust == Trust::OtherName {
        all.push("the certificate is good, but for another name than this".to_owned());
    }
    if done.trust == Trust::SelfSigned {
        let text =
            "self-signed: compare its fingerprint with what the server prints at its start, and give it as --pin";
        all.push(text.to_owned());
    }
    if done.large == Large::NotAtAll {
        let text =
            "a ClientHello in several packets gets no answer, however small they are: a box on the way reads TLS";
        all.push(text.to_owned());
    }
    all
}

/// A time as people say it, in its largest unit.
fn span(secs: i64) -> String {
    match secs {
        ..=119 => format!("{secs} s"),
        120..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 => format!("{} h", secs / 3600),
        _ => format!("{} days", secs / 86_400),
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "without a name" } else { text }
}

/// Segments that pass every path: the least that IPv4 promises, 576 bytes with headers (RFC 9293 §3.7.1).
pub const SMALL_SEGMENT_BYTES: u32 = 536;

/// Clocks that differ less do no harm.
const SKEW_SECS_MAX: i64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> Done {
        Done {
            certificate: CertificateView { fingerprint: "AA:BB".into(), issuer: "CN=x".into(), ..Default::default() },
            trust: Trust::Known,
            answer: Answer::Vpn("Hublane 0.1".into()),
            date_unix_s: None,
            large: Large::Pass,
        }
    }

    fn judged(change: impl FnOnce(&mut Done)) -> (Finding, String) {
        let mut done = done();
        change(&mut done);
        of_tls(&Tls::Done(Box::new(done)), "at port 443", 5)
    }

    #[test]
    fn every_outcome_has_its_word_and_sentence() {
        for (found, finding, said) in [
            (judged(|_| {}), Finding::Works, "Hublane 0.1 answers at port 443"),
            (judged(|done| done.trust = Trust::Pinned), Finding::Works, "answers"),
            (judged(|done| done.trust = Trust::SelfSigned), Finding::Works, "answers"),
            (judged(|done| done.trust = Trust::NotPinned), Finding::Inspected, "issuer CN=x, SHA-256 AA:BB"),
            (judged(|done| done.trust = Trust::UnknownIssuer), Finding::Inspected, "issuer CN=x, SHA-256 AA:BB"),
            (judged(|done| done.large = Large::OnlyInSmallSegments), Finding::Mtu, "large packets towards it"),
            (judged(|done| done.large = Large::NotAtAll), Finding::Works, "answers"),
            (
                judged(|done| done.answer = Answer::Web(404, "nginx".into())),
                Finding::NoVpn,
                "web server (nginx) answers",
            ),
            (judged(|done| done.answer = Answer::Web(404, "".into())), Finding::NoVpn, "HTTP 404, no VPN server"),
            (judged(|done| done.answer = Answer::Nothing), Finding::NoVpn, "nothing answers"),
            (judged(|done| done.answer = Answer::Closed), Finding::NoVpn, "connection ends"),
            (judged(|done| done.answer = Answer::Other("+OK".into())), Finding::NoVpn, "(+OK)"),
        ] {
            assert!(found.0 == finding && found.1.contains(said), "{said}: {found:?}");
        }
        for (tls, finding, said) in [
            (Tls::Silent { small_segments_work: true }, Finding::Mtu, "mtu 1280"),
            (Tls::Silent { small_segments_work: false }, Finding::Silent, "within 5 s"),
            (Tls::Closed, Finding::Cut, "ends as soon as TLS begins"),
            (Tls::NotTls("SSH".into()), Finding::NotTls, "not TLS (SSH)"),
            (Tls::Failed("x".into()), Finding::TlsFailed, "TLS fails at port 443 (x)"),
        ] {
            let found = of_tls(&tls, "at port 443", 5);
            assert!(found.0 == finding && found.1.contains(said), "{said}: {found:?}");
        }
    }

    #[test]
    fn clocks_are_remarked_on() {
        let now = 1_000_000;
        let said = |date, from, until| {
            let mut done = done();
            (done.date_unix_s, done.certificate.not_before_unix_s, done.certificate.not_after_unix_s) =
                (date, from, until);
            remarks(&done, now).join("; ")
        };
        assert_eq!(said(Some(now - 300), Some(now), Some(now)), "");
        assert!(said(Some(now - 301), None, None).starts_with("this machine's clock is 5 min ahead of"));
        assert!(said(Some(now + 90_000), None, None).starts_with("this machine's clock is 25 h behind"));
        assert!(said(None, Some(now + 200_000), None).starts_with("the certificate becomes valid in 2 days"));
        assert!(said(None, None, Some(now - 60)).starts_with("the certificate expired 60 s ago"));
        let mut odd = done();
        (odd.large, odd.trust) = (Large::NotAtAll, Trust::SelfSigned);
        assert_eq!(remarks(&odd, now).len(), 2);
    }

    #[test]
    fn errors_of_ways_have_their_word() {
        let address = "192.0.2.1:1".parse().unwrap();
        for (error, finding) in [
            (ViaError::NoName { host: "h".into(), why: "w".into() }, Finding::NoName),
            (ViaError::Refused { whom: "the server", address }, Finding::Refused),
            (ViaError::Swallowed { whom: "the server", address, secs: 1.0 }, Finding::Swallowed),
            (ViaError::ProxyClosed { proxy: "p".into() }, Finding::Proxy),
            (ViaError::SshMissing { error: std::io::ErrorKind::NotFound.into() }, Finding::Ssh),
        ] {
            assert_eq!(of_error(&error), finding, "{error}");
        }
    }
}
