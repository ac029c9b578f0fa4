//! Listeners: who gets in at all.
//!
//! Connections in their handshake or login are bounded, in all and by source; those above are closed at
//! once, before they cost a handshake. Running out of descriptors pauses accepting, it never ends it.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::front::Front;
use crate::config::Listen;
use crate::event::source_of;

/// Pending connections in the kernel.
const BACKLOG: i32 = 1024;

/// How long to wait when the process or the machine is out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens a listener.
///
/// # Errors
/// If the address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted server must not wait for the last connections of the one before.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Opens what was asked for. Default addresses may fail as long as one works.
///
/// # Errors
/// If a required address cannot be had, or none at all.
pub fn listen_all(wanted: &[Listen]) -> io::Result<Vec<std::net::TcpListener>> {
    let mut open = Vec::new();
    let mut last_error = None;
    for Listen { address, required } in wanted {
        match listen(*address) {
            Ok(listener) => open.push(listener),
            Err(error) if *required => {
                return Err(io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")));
            }
            Err(error) => {
                tracing::warn!(%address, %error, "not listening there");
                last_error = Some(error);
            }
        }
    }
    match last_error {
        Some(error) if open.is_empty() => Err(error),
        _ => Ok(open),
    }
}

/// Who is on the way in.
pub struct Gate {
    all: Arc<Semaphore>,
    sources: Arc<Mutex<HashMap<IpAddr, u32>>>,
    max: usize,
    per_source_max: u32,
    turned_away: AtomicU64,
}

impl Gate {
    /// At most `max` on the way in at the same time, `per_source_max` of one source (an IPv6 source is a /64).
    pub fn new(max: u32, per_source_max: u32) -> Self {
        let max = usize::try_from(max).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(max)),
            sources: Arc::default(),
            max,
            per_source_max,
            turned_away: AtomicU64::new(0),
        }
    }

    /// Connections closed at once because too many were on the way in.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Relaxed)
    }

    /// Waits until nobody is on the way in, `longest` at most.
    pub async fn wait_empty(&self, longest: Duration) {
        let all = u32::try_from(self.max).unwrap_or(u32::MAX);
        // Past that time the rest is cut off; nobody is told.
        let _ = tokio::time::timeout(longest, self.all.acquire_many(all)).await;
    }

    /// A ticket for a connection from `peer`; `None` if there are too many.
    fn enter(&self, peer: IpAddr) -> Option<Ticket> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let source = source_of(peer);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_default();
        if *count >= self.per_source_max {
            return None;
        }
        *count += 1;
        Some(Ticket { sources: Arc::clone(&self.sources), source, _permit: permit })
    }
}

/// A connection on the way in; dropped when it is in or gone.
struct Ticket {
    sources: Arc<Mutex<HashMap<IpAddr, u32>>>,
    source: IpAddr,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// Accepts until the server stops; the listener is closed then.
pub async fn run(listener: TcpListener, gate: Arc<Gate>, front: Arc<Front>) {
    let mut stopping = front.stopping.clone();
    loop {
        let accepted = tokio::select! {
            // Who is already in the backlog gets his goodbye instead of a reset.
            biased;
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        match accepted {
            Ok((tcp, peer)) => admit(tcp, peer, &gate, &front),
            Err(error) => {
                if is_shortage(&error) {
                    tracing::warn!(%error, "accepting pauses");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

fn admit(tcp: TcpStream, peer: SocketAddr, gate: &Gate, front: &Arc<Front>) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let Some(ticket) = gate.enter(peer.ip()) else {
        gate.turned_away.fetch_add(1, Relaxed);
        return tracing::debug!(%peer, "too many connections on their way in; closed");
    };
    let front = Arc::clone(front);
    tokio::spawn(async move {
        front.serve(tcp, peer).await;
        drop(ticket);
    });
}

/// Errors of `accept` that come back at once if nothing is done: no descriptors, no memory.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_bounds_sources_and_the_whole_and_forgets() {
        let gate = Gate::new(3, 2);
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = gate.enter(a).unwrap();
        let second = gate.enter(a).unwrap();
        assert!(gate.enter(a).is_none(), "a third of one source");
        let other = gate.enter(b).unwrap();
        assert!(gate.enter(b).is_none(), "a fourth in all");
        drop((first, second, other));
        assert!(gate.sources.lock().unwrap().is_empty());
        assert!(gate.enter(a).is_some());
    }

    #[test]
    fn gate_counts_an_ipv6_network_as_one_source() {
        let gate = Gate::new(10, 1);
        let (a, b): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let _first = gate.enter(a).unwrap();
        assert!(gate.enter(b).is_none());
    }

    #[test]
    fn a_default_address_may_fail_a_required_one_not() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let free = Listen { address: "127.0.0.1:0".parse().unwrap(), required: true };
        assert_eq!(listen_all(&[Listen { address, required: false }, free]).unwrap().len(), 1);
        let error = listen_all(&[Listen { address, required: true }, free]).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(listen_all(&[Listen { address, required: false }]).is_err());
    }
}
