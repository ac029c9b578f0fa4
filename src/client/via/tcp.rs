//! Names and connections: all addresses of a host get their chance, the next one as soon as the one before has failed
//! or has kept us waiting (RFC 8305 in its simplest form: the two families take turns, the first that answers is
//! taken).
#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::stream::Stream;
use super::{Deadline, ViaError};

/// All addresses of `host`, families taking turns.
///
/// # Errors
/// [`ViaError::NoName`].
pub fn resolve(host: &str, port: u16, deadline: &Deadline) -> Result<Vec<SocketAddr>, ViaError> {
    let (tell, told) = mpsc::channel();
    let name = host.to_owned();
    let no = |why: String| ViaError::NoName { host: host.to_owned(), why };
    // The system's resolver knows no deadline. Who outlives it ends on its own.
    let asker = thread::Builder::new().name("resolve".into()).spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // Nobody may be waiting any more.
        let _ = tell.send(found);
    });
    asker.map_err(|error| no(error.to_string()))?;
    match told.recv_timeout(deadline.left().unwrap_or_default()) {
        Ok(Ok(found)) if !found.is_empty() => Ok(in_turns(found)),
        Ok(Ok(_)) => Err(no("the name exists without one".into())),
        Ok(Err(error)) => Err(no(error.to_string())),
        Err(_) => Err(no("no name server answered in time".into())),
    }
}

/// The resolver's order within each family, the family of its first address first; at most [`ADDRESSES_MAX`].
fn in_turns(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_ipv6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|address| address.is_ipv6() == first_is_ipv6);
    ours.reverse();
    others.reverse();
    let mut all = Vec::new();
    while all.len() < ADDRESSES_MAX {
        match (ours.pop(), others.pop()) {
            (None, None) => break,
            (one, other) => all.extend(one.into_iter().chain(other)),
        }
    }
    all.truncate(ADDRESSES_MAX);
    all
}

/// Connects to the first of `addresses` that answers. `segment_bytes_max`: the largest segment to agree on.
///
/// # Errors
/// What is most telling of all that went wrong: refused before unreachable before silence.
pub fn connect(
    addresses: &[SocketAddr],
    segment_bytes_max: Option<u32>,
    deadline: &Deadline,
    whom: &'static str,
) -> Result<(Stream, SocketAddr), ViaError> {
    let mut waiting: Vec<(Socket, SocketAddr)> = Vec::new();
    let mut failed: Vec<(SocketAddr, io::Error)> = Vec::new();
    let mut next = addresses.iter();
    loop {
        let started = next.next();
        if let Some(address) = started {
            match begin(*address, segment_bytes_max) {
                Ok(socket) => waiting.push((socket, *address)),
                Err(error) => failed.push((*address, error)),
            }
        }
        let Some(left) = deadline.left() else { break };
        if waiting.is_empty() {
            if started.is_none() {
                break;
            }
            continue;
        }
        let limit = if next.len() > 0 { left.min(HEAD_START) } else { left };
        if let Some((socket, address)) = first_ready(&mut waiting, &mut failed, limit).map_err(ViaError::Socket)? {
            return usable(socket).map(|stream| (stream, address)).map_err(ViaError::Socket);
        }
    }
    Err(why(whom, failed, addresses, deadline))
}

fn begin(address: SocketAddr, segment_bytes_max: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(bytes) = segment_bytes_max {
        socket.set_tcp_mss(bytes)?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket),
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Waits until one of `waiting` is connected, and takes it out; one that has failed ends the wait too.
fn first_ready(
    waiting: &mut Vec<(Socket, SocketAddr)>,
    failed: &mut Vec<(SocketAddr, io::Error)>,
    limit: Duration,
) -> io::Result<Option<(Socket, SocketAddr)>> {
    let end = Instant::now() + limit;
    let ready = loop {
        let mut polled: Vec<PollFd<'_>> =
            waiting.iter().map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLOUT)).collect();
        // Rounded up, so that the last wait is not a busy one.
        let left = end.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) => return Ok(None),
            Ok(_) => break polled.iter().position(|one| one.revents().is_some_and(|events| !events.is_empty())),
        }
    };
    let Some(ready) = ready else { return Ok(None) };
    let (socket, address) = waiting.remove(ready);
    match socket.take_error()? {
        None => Ok(Some((socket, address))),
        Some(error) => {
            failed.push((address, error));
            Ok(None)
        }
    }
}

fn usable(socket: Socket) -> io::Result<Stream> {
    socket.set_nonblocking(false)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

fn why(
    whom: &'static str,
    failed: Vec<(SocketAddr, io::Error)>,
    addresses: &[SocketAddr],
    deadline: &Deadline,
) -> ViaError {
    let refused = failed.iter().find(|(_, error)| error.kind() == io::ErrorKind::ConnectionRefused);
    if let Some((address, _)) = refused {
        return ViaError::Refused { whom, address: *address };
    }
    let silent = addresses.iter().find(|address| !failed.iter().any(|(other, _)| other == *address));
    let late = failed.iter().find(|(_, error)| error.kind() == io::ErrorKind::TimedOut).map(|(address, _)| address);
    if let Some(address) = silent.or(late) {
        return ViaError::Swallowed { whom, address: *address, secs: deadline.whole().as_secs_f64() };
    }
    match failed.into_iter().next() {
        Some((address, error)) => ViaError::Unreachable { whom, address, error },
        None => ViaError::Socket(io::ErrorKind::InvalidInput.into()),
    }
}

/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 8;

/// What an address gets before the next one is tried beside it (RFC 8305 §5 recommends it).
const HEAD_START: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn addresses(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let found = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"]);
        let turns = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"]);
        assert_eq!(in_turns(found), turns);
        assert_eq!(in_turns(vec![turns[1]; 20]).len(), ADDRESSES_MAX);
    }

    #[test]
    fn a_name_without_address_is_named() {
        let deadline = Deadline::after(Duration::from_secs(20));
        let error = resolve("no-such-name.invalid", 1, &deadline).unwrap_err();
        assert!(matches!(&error, ViaError::NoName { host, .. } if host == "no-such-name.invalid"), "{error}");
        assert!(resolve("localhost", 7, &deadline).unwrap().iter().all(|address| address.port() == 7));
        let error = resolve("localhost", 7, &Deadline::after(Duration::ZERO)).unwrap_err();
        assert!(error.to_string().contains("no name server answered"), "{error}");
    }

    #[test]
    fn a_refusing_address_gives_way_to_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let gone = TcpListener::bind("127.0.0.1:0").unwrap();
            gone.local_addr().unwrap()
        };
        let deadline = Deadline::after(Duration::from_secs(5));
        let (_, address) = connect(&[closed, open], Some(600), &deadline, "the server").unwrap();
        assert_eq!(address, open);
        let error = connect(&[closed], None, &deadline, "the server").unwrap_err();
        assert!(matches!(error, ViaError::Refused { address, .. } if address == closed), "{error}");
        let error = connect(&[closed], None, &deadline, "the proxy").unwrap_err().to_string();
        assert!(error.starts_with("the proxy at 127.0.0.1:"), "{error}");
    }

    #[test]
    fn a_silent_address_gives_way_to_the_next() {
        // A listener with a full queue swallows connections, as a firewall does.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let mut fillers = Vec::new();
        while let Ok((filler, _)) = connect(&[silent], None, &Deadline::after(Duration::from_millis(200)), "the server")
        {
            fillers.push(filler);
            assert!(fillers.len() < 8, "the queue takes everything");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let began = Instant::now();
        let deadline = Deadline::after(Duration::from_secs(20));
        let (_, address) = connect(&[silent, open], None, &deadline, "the server").unwrap();
        assert_eq!(address, open);
        assert!(began.elapsed() >= HEAD_START, "the first address had no head start");
        let error = connect(&[silent], None, &Deadline::after(Duration::from_millis(100)), "the server").unwrap_err();
        assert!(error.to_string().contains("within 0.1 s"), "{error}");
    }
}
