//! SOCKS 4, 4a and 5 (RFC 1928, with user and password of RFC 1929). Requests are made and replies read by pure code;
//! exactly as many bytes are taken as a reply has.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use zeroize::Zeroizing;

use super::stream::{Stream, broken, shown};
use super::{Deadline, Proxy, SocksRefusal, Target, ViaError};

/// The request of SOCKS 4 for an address.
///
/// # Errors
/// If `user` does not fit.
pub fn connect4(address: Ipv4Addr, port: u16, user: Option<&str>) -> Result<Vec<u8>, ViaError> {
    let mut request = vec![4, CONNECT];
    request.extend(port.to_be_bytes());
    request.extend(address.octets());
    let user = user.unwrap_or_default().as_bytes();
    if user.len() > FIELD_BYTES_MAX || user.contains(&0) {
        return Err(ViaError::SocksField { what: "the user name" });
    }
    request.extend(user);
    request.push(0);
    Ok(request)
}

/// The request of SOCKS 4a: the proxy resolves the name. Addresses go as in SOCKS 4.
///
/// # Errors
/// If the target is an IPv6 address, or something does not fit.
pub fn connect4a(target: &Target, user: Option<&str>) -> Result<Vec<u8>, ViaError> {
    match target.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => connect4(address, target.port, user),
        Ok(IpAddr::V6(_)) => Err(ViaError::SocksOnlyIpv4 { target: target.text() }),
        Err(_) => {
            // 0.0.0.x with x not 0 says that a name follows.
            let mut request = connect4(Ipv4Addr::new(0, 0, 0, 1), target.port, user)?;
            request.extend(target.host.as_bytes());
            request.push(0);
            Ok(request)
        }
    }
}

/// Asks a SOCKS 4 or 4a proxy.
///
/// # Errors
/// If it says no, or nothing sensible.
pub fn negotiate4(mut socket: Stream, deadline: &Deadline, proxy: &Proxy, request: &[u8]) -> Result<Stream, ViaError> {
    let mut talk = Talk { socket: &mut socket, deadline, proxy, version: 4 };
    talk.say(request)?;
    let reply: [u8; 8] = talk.hear()?;
    // Some write 4 where the protocol wants 0.
    if ![0, 4].contains(&reply[0]) || !(90..=93).contains(&reply[1]) {
        return Err(talk.garbage(&reply));
    }
    match SocksRefusal::of_socks4(reply[1]) {
        None => Ok(socket),
        Some(refusal) => Err(ViaError::SocksRefused { proxy: proxy.to_string(), refusal }),
    }
}

/// Asks a SOCKS 5 proxy.
///
/// # Errors
/// If it says no, or nothing sensible.
pub fn negotiate5(mut socket: Stream, deadline: &Deadline, proxy: &Proxy, target: &Target) -> Result<Stream, ViaError> {
    let refused = |refusal| ViaError::SocksRefused { proxy: proxy.to_string(), refusal };
    let request = connect5(target)?;
    let login = login5(proxy)?;
    let mut talk = Talk { socket: &mut socket, deadline, proxy, version: 5 };
    talk.say(if login.is_some() { &[5, 2, ANONYMOUS, BY_PASSWORD] } else { &[5, 1, ANONYMOUS] })?;
    let chosen: [u8; 2] = talk.hear()?;
    match (chosen, &login) {
        ([5, ANONYMOUS], _) => {}
        ([5, BY_PASSWORD], Some(login)) => {
            talk.say(login)?;
            let [_, status] = talk.hear()?;
            if status != 0 {
                return Err(refused(SocksRefusal::Password));
            }
        }
        ([5, NO_METHOD], Some(_)) => return Err(refused(SocksRefusal::NoCommonMethod)),
        ([5, NO_METHOD], None) => return Err(without_login(proxy)),
        _ => return Err(talk.garbage(&chosen)),
    }
    talk.say(&request)?;
    let reply: [u8; 4] = talk.hear()?;
    if reply[0] != 5 {
        return Err(talk.garbage(&reply));
    }
    if let Some(refusal) = SocksRefusal::of_socks5(reply[1]) {
        return Err(refused(refusal));
    }
    // The address by which the proxy reaches the server says nothing to us, but it has to be read.
    match reply[3] {
        BY_IPV4 => talk.hear_into(&mut [0; 6])?,
        BY_IPV6 => talk.hear_into(&mut [0; 18])?,
        BY_NAME => {
            let mut len = [0];
            talk.hear_into(&mut len)?;
            talk.hear_into(&mut vec![0; usize::from(len[0]) + 2])?;
        }
        _ => return Err(talk.garbage(&reply)),
    }
    Ok(socket)
}

fn without_login(proxy: &Proxy) -> ViaError {
    match &proxy.user {
        Some(user) => ViaError::ProxyWantsPassword { proxy: proxy.to_string(), user: user.clone() },
        None => ViaError::SocksRefused { proxy: proxy.to_string(), refusal: SocksRefusal::WantsUser },
    }
}

fn connect5(target: &Target) -> Result<Vec<u8>, ViaError> {
    let mut request = vec![5, CONNECT, 0];
    match target.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            request.push(BY_IPV4);
            request.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(BY_IPV6);
            request.extend(address.octets());
        }
        Err(_) => {
            request.push(BY_NAME);
            field(&mut request, &target.host, "the host name")?;
        }
    }
    request.extend(target.port.to_be_bytes());
    Ok(request)
}

/// RFC 1929 §2; `None` without user and password.
fn login5(proxy: &Proxy) -> Result<Option<Zeroizing<Vec<u8>>>, ViaError> {
    let (Some(user), Some(password)) = (&proxy.user, &proxy.password) else { return Ok(None) };
    let mut login = Zeroizing::new(Vec::with_capacity(LOGIN_BYTES_MAX));
    login.push(1);
    field(&mut login, user, "the user name")?;
    field(&mut login, password, "the password")?;
    Ok(Some(login))
}

fn field(request: &mut Vec<u8>, text: &str, what: &'static str) -> Result<(), ViaError> {
    let len = u8::try_from(text.len()).ok().filter(|len| *len > 0).ok_or(ViaError::SocksField { what })?;
    request.push(len);
    request.extend(text.as_bytes());
    Ok(())
}

/// A conversation with a proxy.
struct Talk<'a> {
    socket: &'a mut Stream,
    deadline: &'a Deadline,
    proxy: &'a Proxy,
    version: u8,
}

impl Talk<'_> {
    fn say(&mut self, bytes: &[u8]) -> Result<(), ViaError> {
        let sent = self.socket.write_all(bytes, self.deadline);
        sent.map_err(|error| broken(self.proxy, error, "takes no request", self.deadline))
    }

    /// An answer, or its beginning.
    fn hear<const N: usize>(&mut self) -> Result<[u8; N], ViaError> {
        let mut bytes = [0; N];
        match self.hear_into(&mut bytes) {
            Err(ViaError::ProxyHalf { bytes: got, .. }) if !self.begins_well(bytes[0]) => {
                Err(self.garbage(&bytes[..got]))
            }
            heard => heard.map(|()| bytes),
        }
    }

    /// So many bytes.
    fn hear_into(&mut self, bytes: &mut [u8]) -> Result<(), ViaError> {
        let got = self.socket.read_all(bytes, self.deadline);
        let got = got.map_err(|error| broken(self.proxy, error, "does not answer in SOCKS", self.deadline))?;
        let proxy = || self.proxy.to_string();
        match got {
            0 => Err(ViaError::ProxyClosed { proxy: proxy() }),
            _ if got < bytes.len() => Err(ViaError::ProxyHalf { proxy: proxy(), bytes: got }),
            _ => Ok(()),
        }
    }

    /// Whether an answer of this version can begin so; 1 is the one to user and password.
    fn begins_well(&self, first: u8) -> bool {
        if self.version == 4 { [0, 4].contains(&first) } else { [1, 5].contains(&first) }
    }

    fn garbage(&self, bytes: &[u8]) -> ViaError {
        ViaError::SocksGarbage { proxy: self.proxy.to_string(), version: self.version, seen: shown(bytes) }
    }
}

const CONNECT: u8 = 1;
const ANONYMOUS: u8 = 0;
const BY_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 255;
const BY_IPV4: u8 = 1;
const BY_NAME: u8 = 3;
const BY_IPV6: u8 = 4;

/// SOCKS 4 sets no limit; proxies do.
const FIELD_BYTES_MAX: usize = 255;
/// Version, and two fields with their lengths.
const LOGIN_BYTES_MAX: usize = 1 + 2 * 256;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn target(host: &str) -> Target {
        Target::new(host, 0x1234).unwrap()
    }

    fn proxy(user: Option<&str>, password: Option<&str>) -> Proxy {
        let password = password.map(|password| Zeroizing::new(password.to_owned()));
        Proxy { host: "p".into(), port: 1080, user: user.map(str::to_owned), password }
    }

    /// A proxy that hears so many bytes, then says so: step by step, then it ends.
    fn scripted(script: &[(usize, &[u8])]) -> (Stream, thread::JoinHandle<(Vec<u8>, UnixStream)>) {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        let script: Vec<(usize, Vec<u8>)> = script.iter().map(|(n, says)| (*n, says.to_vec())).collect();
        let thread = thread::spawn(move || {
            let mut heard = Vec::new();
            for (n, says) in script {
                let mut bytes = vec![0; n];
                peer.read_exact(&mut bytes).unwrap();
                heard.extend(bytes);
                peer.write_all(&says).unwrap();
            }
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            (heard, peer)
        });
        (OwnedFd::from(ours).into(), thread)
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_secs(5))
    }

    fn rest(mut socket: Stream) -> Vec<u8> {
        let mut rest = [0; 64];
        let n = socket.read_all(&mut rest, &deadline()).unwrap();
        rest[..n].to_vec()
    }

    #[test]
    fn requests_of_socks4() {
        let address = Ipv4Addr::new(10, 0, 0, 7);
        assert_eq!(connect4(address, 0x1234, None).unwrap(), b"\x04\x01\x12\x34\x0a\0\0\x07\0");
        assert_eq!(connect4(address, 0x1234, Some("me")).unwrap(), b"\x04\x01\x12\x34\x0a\0\0\x07me\0");
        assert_eq!(connect4a(&target("10.0.0.7"), None).unwrap(), b"\x04\x01\x12\x34\x0a\0\0\x07\0");
        assert_eq!(connect4a(&target("vpn"), Some("me")).unwrap(), b"\x04\x01\x12\x34\0\0\0\x01me\0vpn\0");
        assert!(matches!(connect4a(&target("::1"), None), Err(ViaError::SocksOnlyIpv4 { .. })));
        assert!(matches!(connect4(address, 1, Some("a\0b")), Err(ViaError::SocksField { .. })));
        assert!(matches!(connect4(address, 1, Some(&"a".repeat(256))), Err(ViaError::SocksField { .. })));
    }

    #[test]
    fn socks4_takes_its_reply_and_no_more() {
        let (ours, peer) = scripted(&[(9, b"\0\x5a\0\0\0\0\0\0TLS")]);
        let request = connect4(Ipv4Addr::LOCALHOST, 1, None).unwrap();
        let socket = negotiate4(ours, &deadline(), &proxy(None, None), &request).unwrap();
        assert_eq!(rest(socket), b"TLS");
        peer.join().unwrap();
    }

    #[test]
    fn every_refusal_of_socks4_has_its_name() {
        for (says, said) in [
            (&b"\0\x5b\0\0\0\0\0\0"[..], "rejected or failed (91)"),
            (b"\0\x5c\0\0\0\0\0\0", "no identd here (92)"),
            (b"\0\x5d\0\0\0\0\0\0", "another user (93)"),
            (b"\0\x5e\0\0\0\0\0\0", "is not SOCKS4"),
            (b"HTTP/1.1 400", "is not SOCKS4"),
            (b"HTTP", "is not SOCKS4"),
            (b"\x05\xff", "is not SOCKS4"),
            (b"\0\x5a", "in the middle of its answer"),
            (b"", "without an answer"),
        ] {
            let (ours, peer) = scripted(&[(9, says)]);
            let request = connect4(Ipv4Addr::LOCALHOST, 1, None).unwrap();
            let error = negotiate4(ours, &deadline(), &proxy(None, None), &request).unwrap_err().to_string();
            assert!(error.contains(said), "{says:?}: {error}");
            peer.join().unwrap();
        }
    }

    #[test]
    fn socks5_in_all_its_forms() {
        let name = b"\x05\x01\0\x03\x03vpn\x12\x34";
        for bound in [&b"\x01\x0a\0\0\x01\0\x50"[..], &[&b"\x04"[..], &[0; 18]].concat(), b"\x03\x02ab\0\x50"] {
            let reply = [b"\x05\0\0", bound, b"TLS"].concat();
            let (ours, peer) = scripted(&[(3, b"\x05\0"), (name.len(), &reply)]);
            let socket = negotiate5(ours, &deadline(), &proxy(None, None), &target("vpn")).unwrap();
            assert_eq!(rest(socket), b"TLS", "{bound:?}");
            assert_eq!(peer.join().unwrap().0, [b"\x05\x01\0", &name[..]].concat());
        }
        let v4 = connect5(&target("10.0.0.7")).unwrap();
        assert_eq!(v4, b"\x05\x01\0\x01\x0a\0\0\x07\x12\x34");
        assert_eq!(connect5(&target("::1")).unwrap(), [&b"\x05\x01\0\x04"[..], &[0; 15], b"\x01\x12\x34"].concat());
    }

    #[test]
    fn socks5_with_a_password() {
        let granted = b"\x05\0\0\x01\0\0\0\0\0\0";
        let script: [(usize, &[u8]); 3] = [(4, b"\x05\x02"), (12, b"\x01\0"), (10, granted)];
        let (ours, peer) = scripted(&script);
        negotiate5(ours, &deadline(), &proxy(Some("me"), Some("geheim!")), &target("10.0.0.7")).unwrap();
        let heard = peer.join().unwrap().0;
        assert!(heard.starts_with(b"\x05\x02\0\x02\x01\x02me\x07geheim!\x05\x01\0\x01"), "{heard:?}");
        // A proxy that does not ask is not told.
        let (ours, peer) = scripted(&[(4, b"\x05\0"), (10, granted)]);
        negotiate5(ours, &deadline(), &proxy(Some("me"), Some("geheim!")), &target("10.0.0.7")).unwrap();
        assert!(!peer.join().unwrap().0.windows(6).any(|bytes| bytes == b"geheim"));
    }

    #[test]
    fn every_refusal_of_socks5_has_its_name() {
        let fails = |script: &[(usize, &[u8])], proxy: &Proxy| {
            let (ours, peer) = scripted(script);
            let error = negotiate5(ours, &deadline(), proxy, &target("10.0.0.7")).unwrap_err().to_string();
            drop(peer);
            error
        };
        for (code, said) in [
            (1, "general failure (1)"),
            (2, "do not allow this server or port (2)"),
            (3, "network is unreachable from there (3)"),
            (4, "unreachable from there, or has no address there (4)"),
            (5, "refuses the connection (5)"),
            (6, "(6, TTL expired)"),
            (7, "knows no CONNECT (7)"),
            (8, "kind of address (8)"),
            (9, "code 9"),
        ] {
            let error = fails(&[(3, b"\x05\0"), (10, &[5, code, 0, 1, 0, 0, 0, 0, 0, 0])], &proxy(None, None));
            assert!(error.contains(said), "{code}: {error}");
        }
        let (nobody, named) = (proxy(None, None), proxy(Some("me"), Some("p")));
        assert!(fails(&[(3, b"\x05\xff")], &nobody).contains("--via socks5://USER@"));
        assert!(fails(&[(3, b"\x05\xff")], &proxy(Some("me"), None)).contains("HUBLANE_PROXY_PASSWORD"));
        assert!(fails(&[(4, b"\x05\xff")], &named).contains("neither anonymous"));
        assert!(fails(&[(4, b"\x05\x02"), (6, b"\x01\x01")], &named).contains("user or password is wrong"));
        assert!(fails(&[(3, b"\x05\x02")], &nobody).contains("is not SOCKS5"));
        assert!(fails(&[(3, b"HTTP/1.1 400")], &nobody).contains("is not SOCKS5"));
        assert!(fails(&[(3, b"\x05\0"), (10, b"\x05\0\0\x07")], &nobody).contains("is not SOCKS5"));
        assert!(fails(&[(3, b"\x05\0"), (10, b"\x05\0\0\x01\0")], &nobody).contains("in the middle"));
        assert!(fails(&[(3, b"")], &nobody).contains("without an answer"));
    }

    #[test]
    fn what_does_not_fit_is_said_before_anything_is_sent() {
        for (user, password, said) in
            [("", "p", "the user name"), ("me", "", "the password"), (&"a".repeat(256), "p", "the user name")]
        {
            let (ours, peer) = scripted(&[]);
            let error = negotiate5(ours, &deadline(), &proxy(Some(user), Some(password)), &target("h")).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert!(peer.join().unwrap().0.is_empty());
        }
    }
}
