//! Datagrams by the kernel's own sockets, as many as go.
#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use super::Outcome;

/// Sends datagrams of `bytes` to `to` for `seconds`, from eight sockets in turn; prints how many were sent.
pub(super) fn blast(to: SocketAddrV4, bytes: usize, seconds: u64) -> Outcome {
    let sockets: Vec<UdpSocket> = (0..8)
        .map(|_| UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect(to).map(|()| s)))
        .collect::<Result<_, _>>()?;
    let data = vec![0x5a; bytes];
    let messages: Vec<[IoSlice<'_>; 1]> = (0..BATCH).map(|_| [IoSlice::new(&data)]).collect();
    let nowhere: Vec<Option<SockaddrIn>> = vec![None; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let (end, mut sent) = (Instant::now() + Duration::from_secs(seconds), 0u64);
    while Instant::now() < end {
        for socket in &sockets {
            // A full queue is no error of ours: what the device does not take is not sent.
            if let Ok(done) = sendmmsg(socket.as_raw_fd(), &mut headers, &messages, &nowhere, [], MsgFlags::empty()) {
                sent += done.count() as u64;
            }
        }
    }
    println!("{sent}");
    Ok(())
}

/// Datagrams of one system call.
const BATCH: usize = 32;
