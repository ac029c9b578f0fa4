//! What the kernel knows about a TCP connection, and how long it waits before it sends again.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// State of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Segments sent again since the connection began.
    pub retransmitted: u32,
    /// How often in a row the retransmission timer has run out without an answer.
    pub timeouts: u8,
    /// Time since the peer last acknowledged something.
    pub silent: Duration,
}

/// Asks the kernel; fails for what is no TCP socket.
///
/// # Errors
/// What the kernel says.
pub fn tcp_info(socket: &impl AsFd) -> io::Result<TcpInfo> {
    // SAFETY: a structure of integers, for which zeros are values.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut bytes = libc::socklen_t::try_from(size_of_val(&info)).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `bytes` bytes to `info`, and how many to `bytes`.
    let done =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut bytes) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpInfo {
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        retransmitted: info.tcpi_total_retrans,
        timeouts: info.tcpi_retransmits,
        silent: Duration::from_millis(info.tcpi_last_ack_recv.into()),
    })
}

/// However often the retransmission timer has run out in a row, the next attempt comes after `longest` at the latest (from
/// a second on; Linux 6.15): a way that was dead and is back carries frames again at once, and those that wait are not
/// lost. By default the waits double up to two minutes.
///
/// # Errors
/// On older kernels, and for what is no TCP socket.
pub fn limit_retransmission_wait(socket: &impl AsFd, longest: Duration) -> io::Result<()> {
    let ms = u32::try_from(longest.as_millis()).unwrap_or(u32::MAX);
    let bytes = libc::socklen_t::try_from(size_of_val(&ms)).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: an option that takes an integer, which lives through the call.
    let done = unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, TCP_RTO_MAX_MS, (&raw const ms).cast(), bytes) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// From the kernel's `linux/tcp.h`.
const TCP_RTO_MAX_MS: libc::c_int = 44;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_has_a_round_trip_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let info = tcp_info(&socket).unwrap();
        assert!(info.rtt > Duration::ZERO && info.rtt < Duration::from_secs(10), "{info:?}");
        assert_eq!((info.retransmitted, info.timeouts), (0, 0));
        let other = std::os::unix::net::UnixStream::pair().unwrap().0;
        assert!(tcp_info(&other).is_err() && limit_retransmission_wait(&other, Duration::from_secs(2)).is_err());
        match limit_retransmission_wait(&socket, Duration::from_secs(2)) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT)),
        }
    }
}
