//! Options of a member's socket.
#![forbid(unsafe_code)]

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;

use super::tcp::{limit_retransmission_wait, tcp_info};
use crate::worker::io::CloseHow;

/// Readies a member's TCP socket for a worker.
///
/// * Linger 0: if the process dies, the kernel resets the peer at once. A plain FIN without
///   close_notify looks like a proper end to a client, which then waits instead of connecting again.
/// * No Nagle: a turn's records leave together anyway.
/// * `TCP_NOTSENT_LOWAT`: the socket counts as writable only while fewer than `notsent_lowat` bytes
///   wait unsent, so that plaintext queues with us, where it may still be dropped or reordered.
/// * No TCP keep-alive: the tunnel has its own.
/// * Retransmissions at least every 2 s, or every two round-trip times if that is more, where the kernel can do that: a
///   session lives for 20 s of silence (5 to 60, as configured), and a way that is back within them shall carry frames at once. RFC 6298 §2.5 wants a bound of the timer
///   to be 60 s or more, so that senders give way to a network that collapses; a server is thousands of senders. Here they
///   give way by an end instead of ever longer waits: a member of whom nothing comes loses his session, and with it the
///   connections. In the 20 s until then each sends a dozen segments where the doubling timer makes six (the window is one
///   segment then: RFC 5681 §3.1), at most one in 2 s; less than the login costs by which a session that was lost for
///   nothing begins anew. RFC 8085 §3.1.3 allows one in 3 s to senders who hear nothing of the way at all.
/// * A minute until the kernel gives up a peer that acknowledges nothing. Without it the number of attempts would decide,
///   which the bound above brings down to 27 s. RFC 9293 §3.8.3 leaves this limit (R2) to the application, and advises 100 s
///   or more where it says nothing; RFC 5482 would announce it to the peer, which Linux does not. No session ends by it
///   that would not end by its own timeout, 60 s at most. What it ends are connections that still bring something while
///   their other direction takes nothing, and what the kernel goes on with after we have closed.
///
/// # Errors
/// If `socket` is not a TCP socket.
pub fn prepare_member_socket(socket: &impl AsFd, notsent_lowat: u32) -> io::Result<()> {
    let options = SockRef::from(socket);
    options.set_linger(Some(Duration::ZERO))?;
    options.set_tcp_nodelay(true)?;
    options.set_tcp_notsent_lowat(notsent_lowat)?;
    options.set_keepalive(false)?;
    options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    limit_retransmissions(socket, RETRANSMISSION_WAIT);
    Ok(())
}

/// Has the kernel end the connection soon when the peer acknowledges nothing: for peers who come back to their session by a
/// fresh one. What waits on a way that is dead reaches the far end only when it is back, and does harm there: TCP inside
/// takes its age for the round-trip time, and the next lost segment then costs it half a minute. `least`: how soon it may
/// be; a way with a long round-trip time gets more of it.
///
/// # Errors
/// If `socket` is not a TCP socket.
pub fn give_up_soon(socket: &impl AsFd, least: Duration) -> io::Result<()> {
    let rtt = tcp_info(socket)?.rtt;
    SockRef::from(socket).set_tcp_user_timeout(Some(silence_allowed(least, rtt)))
}

/// How long a peer may acknowledge nothing over a path of this round-trip time. Not less than `least`, which must be long
/// enough for three attempts, so that a short outage loses nothing.
fn silence_allowed(least: Duration, rtt: Duration) -> Duration {
    rtt.saturating_mul(6).max(least).min(USER_TIMEOUT)
}

/// Has the kernel wait at most `longest` between two retransmissions, but twice the round-trip time if that is more: else
/// each segment of a slow path would be sent again before its acknowledgement can be there. Best effort: it needs Linux
/// 6.15.
pub fn limit_retransmissions(socket: &impl AsFd, longest: Duration) {
    let rtt = tcp_info(socket).map_or(Duration::ZERO, |info| info.rtt);
    let _ = limit_retransmission_wait(socket, rtt.saturating_mul(2).max(longest));
}

/// Until the kernel gives a silent peer up.
const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait between two retransmissions.
const RETRANSMISSION_WAIT: Duration = Duration::from_secs(2);

/// Has the kernel take more only while fewer than `bytes` wait unsent.
pub(super) fn limit_unsent(socket: &impl AsFd, bytes: u32) {
    // Works on every open socket of TCP; others have no such queue.
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(bytes);
}

/// Sets how the kernel will end the connection when `socket` is closed.
pub(super) fn set_close_mode(socket: &impl AsFd, how: CloseHow) {
    let linger = match how {
        CloseHow::Orderly => None,
        CloseHow::Abort => Some(Duration::ZERO),
    };
    // Works on every open socket; were it to fail, the socket is closed all the same.
    let _ = SockRef::from(socket).set_linger(linger);
}

/// Sends FIN. A plain system call for every back end: io_uring would hand it to a helper thread.
pub(super) fn end_our_direction(socket: &impl AsFd) {
    // Fails only if the connection is gone already, which receiving tells.
    let _ = SockRef::from(socket).shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn member_socket_has_its_options() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        SockRef::from(&socket).set_keepalive(true).unwrap();
        prepare_member_socket(&socket, 16_384).unwrap();
        let options = SockRef::from(&socket);
        assert_eq!(options.linger().unwrap(), Some(Duration::ZERO));
        assert!(options.tcp_nodelay().unwrap());
        assert_eq!(options.tcp_notsent_lowat().unwrap(), 16_384);
        assert!(!options.keepalive().unwrap());
    }

    #[test]
    fn slow_paths_have_more_time() {
        let least = Duration::from_secs(3);
        for (rtt_ms, want_ms) in [(0, 3_000), (500, 3_000), (501, 3_006), (2_500, 15_000), (60_000, 60_000)] {
            let allowed = silence_allowed(least, Duration::from_millis(rtt_ms));
            assert_eq!(allowed, Duration::from_millis(want_ms), "{rtt_ms}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        give_up_soon(&socket, least).unwrap();
        assert_eq!(SockRef::from(&socket).tcp_user_timeout().unwrap(), Some(least));
    }

    #[test]
    fn other_sockets_are_refused() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        assert!(prepare_member_socket(&socket, 1).is_err() && give_up_soon(&socket, Duration::ZERO).is_err());
    }
}
