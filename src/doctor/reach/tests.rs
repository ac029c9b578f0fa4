//! Whole reports over loopback, and how ways are put together.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::tls::config::{ServerCertificates, TlsVersions, certified_key, server_config};
use crate::tunnel::login::Hello;
use crate::tunnel::login::server::{Next, ServerLogin};

fn asked(server: &str) -> Asked {
    let mut asked = Asked::new(server, Duration::from_secs(2)).unwrap();
    asked.roots = Arc::new(RootCertStore::empty());
    asked
}

/// A VPN server for `connections`, as far as its greeting; its port and certificate.
fn vpn(connections: usize) -> (u16, CertificateView, thread::JoinHandle<()>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let view = CertificateView::new(made.cert.der());
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let key = certified_key(vec![made.cert.der().clone()], key).unwrap();
    let config = Arc::new(server_config(ServerCertificates::One(key), TlsVersions::Both));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let greet = move || (0..connections).for_each(|_| greet(&config, listener.accept().unwrap().0));
    (port, view, thread::spawn(greet))
}

fn greet(config: &Arc<ServerConfig>, mut socket: TcpStream) {
    let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    let hello = Hello { product: "Test Server".into(), version: 500, build: 9807 };
    let (mut login, mut bytes) = (ServerLogin::new(hello, [7; 20]), [0; 4096]);
    // The doctor goes when it has seen enough.
    while let Ok(n @ 1..) = stream.read(&mut bytes) {
        login.receive(&bytes[..n]);
        while let Next::Write(answer) = login.next() {
            stream.write_all(&answer).unwrap();
        }
    }
}

#[test]
fn a_server_that_is_there_is_found() {
    // One to talk to, one for the large ClientHello.
    let (port, certificate, server) = vpn(2);
    let report = reach(&asked(&format!("127.0.0.1:{port}"))).unwrap();
    assert!(report.works, "{}", report.text());
    let way = &report.ways[0];
    assert_eq!((way.via.as_str(), way.port, way.finding), ("direct", port, Finding::Works));
    assert_eq!((way.certificate.as_ref(), way.trust), (Some(&certificate), Some(Trust::SelfSigned)));
    assert_eq!(way.steps.iter().map(|step| step.name).collect::<Vec<_>>(), ["connect", "tls", "answer"]);
    let said = format!("127.0.0.1 can be reached: Test Server (build 9807) answers straight at port {port}");
    assert!(report.verdict.starts_with(&said), "{}", report.verdict);
    let text = report.text();
    for said in ["WAY", "TLSv1_3", "issued by itself", certificate.fingerprint.as_str(), "self-signed: compare"] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!((&json["ways"][0]["finding"], &json["ways"][0]["trust"]), (&"works".into(), &"self-signed".into()));
    server.join().unwrap();
}

#[test]
fn a_server_that_is_not_there_is_not() {
    let mut asked = asked("127.0.0.1");
    let closed = {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        gone.local_addr().unwrap().port()
    };
    asked.port = Some(closed);
    asked.vias.push(format!("socks5://127.0.0.1:{closed}").parse().unwrap());
    let report = reach(&asked).unwrap();
    assert!(!report.works);
    let (straight, through) = (&report.ways[0], report.ways.last().unwrap());
    assert!(straight.finding == Finding::Refused && straight.sentence.starts_with("the server at "), "{straight:?}");
    assert!(through.finding == Finding::Refused && through.sentence.starts_with("the proxy at "), "{through:?}");
    assert_eq!((through.via.as_str(), through.port), (format!("socks5://127.0.0.1:{closed}").as_str(), closed));
    assert!(report.text().contains("connection"), "{}", report.text());
}

#[test]
fn which_ways_are_tried() {
    let ways = |server: &str, vias: &[&str]| {
        let mut asked = asked(server);
        asked.vias = vias.iter().map(|via| via.parse().unwrap()).collect();
        asked.ways().iter().map(|(via, port)| format!("{via} {port}")).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(ways("h", &[]), "direct 443, direct 992, direct 1194, direct 5555");
    assert_eq!(ways("h:5555", &[]), "direct 5555, direct 443, direct 992, direct 1194");
    assert_eq!(ways("[::1]:7", &["ssh://g"]), "direct 7, direct 443, direct 992, direct 1194, direct 5555, ssh://g 7");
    assert!(
        ways("h", &["socks5://p:1"])
            .ends_with("socks5://p:1 443, socks5://p:1 992, socks5://p:1 1194, socks5://p:1 5555")
    );
    for odd in ["", "h:", "h:0", "h:x", "a b", "[::1", "h/x", "-h"] {
        assert!(Asked::new(odd, Duration::ZERO).is_err_and(|said| said.contains("no HOST[:PORT]")), "{odd}");
    }
}

fn seen(via: &str, finding: Finding, fingerprint: &str) -> WayReport {
    WayReport {
        via: via.into(),
        port: 443,
        steps: Vec::new(),
        finding,
        sentence: format!("{finding:?} by {via}"),
        remarks: Vec::new(),
        tls: None,
        certificate: Some(CertificateView { fingerprint: fingerprint.into(), ..CertificateView::default() }),
        trust: None,
    }
}

#[test]
fn the_furthest_way_gives_the_verdict() {
    let found = [Finding::Swallowed, Finding::Refused, Finding::NoVpn, Finding::NoVpn, Finding::Proxy];
    let ways = found.iter().zip(["a", "b", "c", "d", "e"]).map(|(finding, via)| seen(via, *finding, "x")).collect();
    let report = super::report(&asked("h"), ways);
    assert_eq!((report.works, report.verdict.as_str()), (false, "h cannot be reached: NoVpn by c"));
    let works = ["a", "b", "c"].map(|via| seen(via, Finding::Works, "x")).into();
    let verdict = super::report(&asked("h"), works).verdict;
    assert_eq!(verdict, "h can be reached: Works by a, and 2 other ways work.");
}

#[test]
fn certificates_that_differ_are_remarked_on() {
    let ways = |second: &str| vec![seen("direct", Finding::Works, "x"), seen("http://p:1", Finding::Works, second)];
    assert!(super::report(&asked("h"), ways("x")).remarks.is_empty());
    let report = super::report(&asked("h"), ways("y"));
    assert!(report.remarks[0].contains("another certificate by direct than by http://p:1"), "{:?}", report.remarks);
    assert!(report.text().contains(&report.remarks[0]));
}
