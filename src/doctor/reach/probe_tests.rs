//! Servers and boxes in between that do one thing each, over loopback.

use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use rustls::{ServerConfig, ServerConnection};

use super::super::verdict::{Finding, of_tls};
use super::*;
use crate::tls::config::{ServerCertificates, certified_key, server_config};

/// A listener that serves `connections`, each by `serve`.
fn listen(connections: usize, serve: impl Fn(TcpStream) + Send + 'static) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || (0..connections).for_each(|_| serve(listener.accept().unwrap().0)));
    (port, thread)
}

fn probe() -> Probe {
    let limit = Duration::from_millis(700);
    Probe { host: "127.0.0.1".into(), limit, pin: None, roots: Arc::new(RootCertStore::empty()) }
}

fn identity() -> (CertificateDer<'static>, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let der = made.cert.der().clone();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let key = certified_key(vec![der.clone()], key).unwrap();
    (der, Arc::new(server_config(ServerCertificates::One(key), TlsVersions::Both)))
}

/// Serves TLS: reads a request, says `answer`.
fn https(config: &Arc<ServerConfig>, mut socket: TcpStream, answer: &[u8]) {
    let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    let n = stream.read(&mut [0; 4096]).unwrap_or(0);
    if n > 0 {
        let _ = stream.write_all(answer);
        let _ = stream.read(&mut [0; 4096]);
    }
}

fn finding(seen: &Seen) -> (Finding, String) {
    of_tls(seen.tls.as_ref().unwrap_or_else(|error| panic!("{error}")), "here", 1)
}

#[test]
fn what_is_no_tls_is_named() {
    type Serve = fn(TcpStream);
    let cases: [(Serve, usize, Finding, &str); 5] = [
        (|mut socket| socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap(), 1, Finding::NotTls, "SSH-2.0-OpenSSH_9.2"),
        (
            |mut socket| {
                let _ = socket.read(&mut [0; 4096]);
                socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            },
            1,
            Finding::NotTls,
            "HTTP/1.1 400",
        ),
        (|mut socket| drop(socket.read(&mut [0; 4096])), 1, Finding::Cut, "ends as soon as TLS begins"),
        // The second connection is the one with small segments.
        (
            |socket| socket.peek(&mut [0]).map_or((), |_| thread::sleep(Duration::from_millis(900))),
            2,
            Finding::Silent,
            "nothing",
        ),
        (
            |mut socket| {
                let _ = socket.read(&mut [0; 4096]);
                socket.write_all(&[21, 3, 3, 0, 2, 2, 70]).unwrap();
            },
            1,
            Finding::TlsFailed,
            "ProtocolVersion",
        ),
    ];
    for (serve, connections, expected, said) in cases {
        let (port, peer) = listen(connections, serve);
        let seen = probe().go(&Via::Direct, port);
        let (finding, sentence) = finding(&seen);
        assert!(finding == expected && sentence.contains(said), "{said}: {finding:?} {sentence}");
        assert_eq!(seen.steps.last().map(|step| step.name), Some("tls"));
        peer.join().unwrap();
    }
}

#[test]
fn a_web_server_is_no_vpn_server() {
    let (der, config) = identity();
    let answer = b"HTTP/1.1 404 Not Found\r\nServer: nginx/1.2\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n";
    let (port, peer) = listen(1, move |socket| https(&config, socket, answer));
    let seen = probe().go(&Via::Direct, port);
    let Ok(Tls::Done(done)) = &seen.tls else { panic!("no TLS") };
    assert_eq!(done.answer, Answer::Web(404, "nginx/1.2".into()));
    assert_eq!(done.date_unix_s, Some(784_111_777));
    assert_eq!(done.trust, Trust::SelfSigned);
    assert_eq!(done.certificate, CertificateView::new(&der));
    assert_eq!(seen.steps.iter().map(|step| step.name).collect::<Vec<_>>(), ["connect", "tls", "answer"]);
    assert!(seen.session.as_deref().is_some_and(|session| session.starts_with("TLSv1_3 ")), "{:?}", seen.session);
    peer.join().unwrap();
}

#[test]
fn what_speaks_otherwise_inside_tls_is_no_vpn_server() {
    let (_, config) = identity();
    for (answer, said) in [
        (&b"+OK POP3\r\n"[..], "no VPN server (it begins with \"+OK POP3\")"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "web server answers here with HTTP 200"),
        (b"", "then nothing answers"),
    ] {
        let config = Arc::clone(&config);
        let (port, peer) = listen(1, move |socket| https(&config, socket, answer));
        let (found, sentence) = finding(&probe().go(&Via::Direct, port));
        assert!(found == Finding::NoVpn && sentence.contains(said), "{said}: {sentence}");
        peer.join().unwrap();
    }
}

#[test]
fn certificates_are_compared_with_the_pin() {
    let (der, config) = identity();
    let chain = [der.clone()];
    let mut probe = probe();
    probe.pin = Some(CertificateView::new(&der).fingerprint.parse().unwrap());
    assert_eq!(probe.trust(&chain, true), Trust::Pinned);
    probe.pin = Some(Fingerprint([0; 32]));
    assert_eq!(probe.trust(&chain, true), Trust::NotPinned);
    let (port, peer) = listen(1, move |socket| https(&config, socket, b"HTTP/1.1 404 x\r\n\r\n"));
    let (found, sentence) = finding(&probe.go(&Via::Direct, port));
    assert!(found == Finding::Inspected && sentence.contains(&CertificateView::new(&der).fingerprint), "{sentence}");
    peer.join().unwrap();
}

#[test]
fn issuers_are_judged_by_the_systems_list() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "Inspector");
    let ca_key = KeyPair::generate().unwrap();
    let ca_der = ca.self_signed(&ca_key).unwrap().der().clone();
    let issuer = Issuer::new(ca, ca_key);
    let signed = |name: &str, year: i32| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        vec![params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()]
    };
    let mut probe = probe();
    probe.host = "vpn.example".into();
    assert_eq!(probe.trust(&signed("vpn.example", 2099), false), Trust::UnknownIssuer);
    let mut roots = RootCertStore::empty();
    roots.add(ca_der).unwrap();
    probe.roots = Arc::new(roots);
    assert_eq!(probe.trust(&signed("vpn.example", 2099), false), Trust::Known);
    assert_eq!(probe.trust(&signed("vpn.example", 2001), false), Trust::Known);
    assert_eq!(probe.trust(&signed("other.example", 2099), false), Trust::OtherName);
    assert_eq!(probe.trust(&[], false), Trust::UnknownIssuer);
}

#[test]
fn a_large_hello_is_large_and_understood() {
    let (_, config) = identity();
    let (port, peer) = listen(2, move |mut socket| {
        let mut begin = [0; 5];
        while socket.peek(&mut begin).unwrap() < 5 {}
        // Also from a record's header, without trusting it: the bytes have to be there.
        let len = usize::from(u16::from_be_bytes([begin[3], begin[4]]));
        assert!(len > 2 * 1460, "{len}");
        https(&config, socket.try_clone().unwrap(), b"");
        let _ = socket.read(&mut [0]);
    });
    assert!(probe().answers(&Via::Direct, port, Hello::Large, None));
    assert!(probe().answers(&Via::Direct, port, Hello::Large, Some(SMALL_SEGMENT_BYTES)));
    peer.join().unwrap();
}

#[test]
fn dates_of_http() {
    assert_eq!(http_date("Thu, 01 Jan 1970 00:00:01 GMT"), Some(1));
    for odd in [
        "",
        "Thu, 01 Jan 1970 00:00:01",
        "Thu, 32 Jan 1970 00:00:01 GMT",
        "Thu, 01 Foo 1970 00:00:01 GMT",
        "a b c d e GMT",
    ] {
        assert_eq!(http_date(odd), None, "{odd}");
    }
}
