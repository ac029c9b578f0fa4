//! Whole ways over loopback, with proxies that say what they are told to say.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use super::*;

/// A listener that serves as many connections as it has scripts: each hears a request up to its blank line, then says
/// so, then either ends or holds the connection until everybody else has ended. Returns what it heard.
fn proxy(scripts: Vec<(Vec<u8>, bool)>) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || {
        let (mut heard, mut held) = (Vec::new(), Vec::new());
        for (says, holds) in scripts {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            heard.push(String::from_utf8(request).unwrap());
            // Who has seen enough may be gone.
            let _ = socket.write_all(&says);
            if holds {
                held.push(socket);
            }
        }
        for mut socket in held {
            let _ = socket.read(&mut [0; 16]);
        }
        heard
    });
    (port, thread)
}

fn through(scheme: &str, port: u16, password: Option<&str>, limit: Duration) -> Result<Opened, ViaError> {
    let user = if password.is_some() { "me@" } else { "" };
    let mut via: Via = format!("{scheme}://{user}127.0.0.1:{port}").parse().unwrap();
    if let Some(password) = password {
        via.set_password(Zeroizing::new(password.into()));
    }
    open(&via, "vpn.example", 443, limit)
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn straight_ways_lead_to_the_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let opened = open(&Via::Direct, "localhost", address.port(), LONG).unwrap();
    let mut socket = TcpStream::from(opened.socket);
    socket.write_all(b"x").unwrap();
    assert_eq!(listener.accept().unwrap().1, socket.local_addr().unwrap());
    assert_eq!((socket.read_timeout().unwrap(), socket.write_timeout().unwrap()), (None, None));
    assert_eq!(opened.steps.iter().map(|step| step.name).collect::<Vec<_>>(), ["name", "connect"]);
    assert_eq!(opened.steps[1].address, Some(address));
    assert_eq!(opened.path, format!("straight to {address}"));
    drop(listener);
    let error = open(&Via::Direct, "127.0.0.1", address.port(), LONG).unwrap_err();
    assert!(matches!(error, ViaError::Refused { whom: "the server", .. }), "{error}");
    let error = open(&Via::Direct, "a\r\nb", 1, LONG).unwrap_err();
    assert!(matches!(error, ViaError::NotAName { .. }), "{error}");
}

#[test]
fn an_http_proxy_that_agrees() {
    let (port, peer) = proxy(vec![(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nTLS".to_vec(), false)]);
    let opened = through("http", port, None, LONG).unwrap();
    let mut rest = String::new();
    TcpStream::from(opened.socket).read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "TLS");
    assert_eq!(opened.steps.iter().map(|step| step.name).collect::<Vec<_>>(), ["connect", "proxy"]);
    assert!(peer.join().unwrap()[0].starts_with("CONNECT vpn.example:443 HTTP/1.1\r\n"));
}

#[test]
fn an_http_proxy_that_asks_gets_its_answer_on_another_connection() {
    let asks = b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=x\r\n\
        Proxy-Authenticate: Digest realm=\"x\", nonce=\"n\", qop=\"auth\", algorithm=SHA-256\r\n\
        Content-Length: 5\r\n\r\nnever";
    let (port, peer) = proxy(vec![(asks.to_vec(), true), (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), true)]);
    let opened = through("http", port, Some("secret"), LONG).unwrap();
    drop(opened);
    let heard = peer.join().unwrap();
    assert!(!heard[0].contains("Authorization"), "{}", heard[0]);
    assert!(heard[1].contains("\r\nProxy-Authorization: Digest username=\"me\""), "{}", heard[1]);
    assert!(!heard.concat().contains("secret"));
    let (port, peer) = proxy(vec![(asks.to_vec(), false), (asks.to_vec(), false)]);
    let error = through("http", port, Some("wrong"), LONG).unwrap_err();
    assert!(matches!(error, ViaError::ProxyPassword { .. }), "{error}");
    peer.join().unwrap();
}

#[test]
fn an_http_proxy_that_answers_badly() {
    let endless = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(4000)].concat();
    for (says, holds, limit, said) in [
        (b"".to_vec(), false, LONG, "without an answer"),
        (b"HTTP/1.1 200 Conn".to_vec(), false, LONG, "in the middle of its answer, after 17 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n".to_vec(), false, LONG, "in the middle of its answer"),
        (b"220 mail.example ESMTP\r\n".to_vec(), true, LONG, "it begins with \"220 mail.example ESMTP\""),
        (b"\x15\x03\x01\0\x02\x02\x0a".to_vec(), true, LONG, "the bytes 15 03 01 00 02 02 0a"),
        (endless, true, LONG, "headers without end"),
        (b"".to_vec(), true, SHORT, "says nothing within 0.3 s"),
        (b"HTTP/1.1 200 OK\r\n".to_vec(), true, SHORT, "does not finish its answer within 0.3 s"),
        (b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\n\r\n".to_vec(), true, LONG, "wants a user and a password"),
        (b"HTTP/1.1 502 x\r\n\r\n".to_vec(), true, LONG, "cannot reach vpn.example:443"),
    ] {
        let (port, peer) = proxy(vec![(says, holds)]);
        let error = through("http", port, None, limit).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
        assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
        peer.join().unwrap();
    }
}

#[test]
fn a_proxy_that_resets_has_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = thread::spawn(move || {
        for _ in 0..2 {
            let (socket, _) = listener.accept().unwrap();
            socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
            // Unread bytes or none: either way a reset.
            socket.peek(&mut [0]).unwrap();
        }
    });
    for scheme in ["http", "socks5"] {
        let error = through(scheme, port, None, LONG).unwrap_err();
        assert!(matches!(error, ViaError::ProxyClosed { .. }), "{scheme}: {error}");
    }
    peer.join().unwrap();
}

#[test]
fn socks_ways_through_a_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = thread::spawn(move || {
        let serve = |expects: &[u8], says: &[u8]| {
            let (mut socket, _) = listener.accept().unwrap();
            let mut heard = vec![0; expects.len()];
            socket.read_exact(&mut heard).unwrap();
            assert_eq!(heard, expects);
            socket.write_all(says).unwrap();
        };
        serve(b"\x04\x01\x01\xbb\0\0\0\x01\0vpn.example\0", b"\0\x5a\0\0\0\0\0\0TLS");
        serve(b"\x05\x01\0", b"\x05\0\x05\0\0\x01\0\0\0\0\0\0TLS");
    });
    for scheme in ["socks4a", "socks5"] {
        let opened = through(scheme, port, None, LONG).unwrap();
        let mut rest = [0; 3];
        TcpStream::from(opened.socket).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"TLS");
    }
    peer.join().unwrap();
    // SOCKS 4 resolves here: the test name has no address, and the proxy is not even asked.
    let error = through("socks4", port, None, LONG).unwrap_err();
    assert!(matches!(error, ViaError::NoName { .. }), "{error}");
    let error = through("socks4a", port, None, LONG).unwrap_err();
    assert!(matches!(error, ViaError::Refused { whom: "the proxy", .. }), "{error}");
}

#[test]
fn steps_stand_there_when_a_way_fails() {
    let (port, peer) = proxy(vec![(b"HTTP/1.1 403 no\r\n\r\n".to_vec(), false)]);
    let mut journey = Journey::new(LONG);
    let via: Via = format!("http://localhost:{port}").parse().unwrap();
    assert!(journey.go(&via, "vpn.example", 443).is_err());
    assert_eq!(journey.steps.iter().map(|step| step.name).collect::<Vec<_>>(), ["name", "connect", "proxy"]);
    peer.join().unwrap();
}

#[test]
fn a_unix_socket_serves_as_well() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let mut stream = stream::Stream::from(OwnedFd::from(ours));
    peer.write_all(b"abc").unwrap();
    let deadline = Deadline::after(LONG);
    let mut bytes = [0; 2];
    assert_eq!(stream.peek(&mut bytes, &deadline).unwrap(), 2);
    assert_eq!(stream.read(&mut bytes, &deadline).unwrap(), 2);
    let error = stream.read_all(&mut bytes, &Deadline::after(SHORT)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}
