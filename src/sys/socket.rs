//! Options of a member's socket.
#![forbid(unsafe_code)]

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;

use super::tcp::limit_retransmission_wait;
use crate::worker::io::CloseHow;

/// Readies a member's TCP socket for a worker.
///
/// * Linger 0: if the process dies, the kernel resets the peer at once. A plain FIN without
///   close_notify looks like a proper end to a client, which then waits instead of connecting again.
/// * No Nagle: a turn's records leave together anyway.
/// * `TCP_NOTSENT_LOWAT`: the socket counts as writable only while fewer than `notsent_lowat` bytes
///   wait unsent, so that plaintext queues with us, where it may still be dropped or reordered.
/// * No TCP keep-alive: the tunnel has its own.
/// * Retransmissions at least every 2 s, where the kernel can do that: a session lives for 20 s of silence, and a way
///   that is back within them shall carry frames at once. So that so many attempts do not end the connection before, it
///   has a minute; the tunnel's own timeout is shorter.
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
    // Best effort: it needs Linux 6.15.
    let _ = limit_retransmission_wait(socket, RETRANSMISSION_WAIT);
    Ok(())
}

/// Has the kernel end the connection soon when the peer acknowledges nothing: for peers who come back to their session by a
/// fresh one. What waits on a way that is dead reaches the far end only when it is back, and does harm there: TCP inside
/// takes its age for the round-trip time, and the next lost segment then costs it half a minute.
///
/// # Errors
/// If `socket` is not a TCP socket.
pub fn give_up_soon(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(USER_TIMEOUT_SHORT))
}

/// Long enough for three attempts, so that a short outage loses nothing.
const USER_TIMEOUT_SHORT: Duration = Duration::from_secs(3);
/// Until the kernel gives a silent peer up.
const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait between two retransmissions.
const RETRANSMISSION_WAIT: Duration = Duration::from_secs(2);

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
    fn other_sockets_are_refused() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        assert!(prepare_member_socket(&socket, 1).is_err());
    }
}
