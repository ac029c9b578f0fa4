//! A stream socket with a deadline, from which exactly as much is taken as was meant to be.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv};
use socket2::Socket;

use super::{Deadline, Proxy, ViaError};

/// A connected stream socket, blocking.
#[derive(Debug)]
pub struct Stream(Socket);

impl From<OwnedFd> for Stream {
    fn from(socket: OwnedFd) -> Self {
        Self(socket.into())
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        Self(socket)
    }
}

impl Stream {
    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// As the socket; [`io::ErrorKind::TimedOut`] after the deadline.
    pub fn write_all(&mut self, bytes: &[u8], deadline: &Deadline) -> io::Result<()> {
        self.0.set_write_timeout(Some(left(deadline)?))?;
        self.0.write_all(bytes).map_err(late)
    }

    /// Looks at what is there, at least a byte, and leaves it there. 0: the peer has ended.
    ///
    /// # Errors
    /// As [`Self::write_all`].
    pub fn peek(&mut self, bytes: &mut [u8], deadline: &Deadline) -> io::Result<usize> {
        self.0.set_read_timeout(Some(left(deadline)?))?;
        loop {
            match recv(self.0.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_PEEK) {
                Err(nix::Error::EINTR) => {}
                done => return done.map_err(|error| late(error.into())),
            }
        }
    }

    /// Takes some, at most `bytes`. 0: the peer has ended.
    ///
    /// # Errors
    /// As [`Self::write_all`].
    pub fn read(&mut self, bytes: &mut [u8], deadline: &Deadline) -> io::Result<usize> {
        loop {
            self.0.set_read_timeout(Some(left(deadline)?))?;
            match self.0.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done.map_err(late),
            }
        }
    }

    /// Takes as many as `bytes` has room for, and says how many came before the peer ended.
    ///
    /// # Errors
    /// As [`Self::write_all`].
    pub fn read_all(&mut self, bytes: &mut [u8], deadline: &Deadline) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read(&mut bytes[filled..], deadline)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(filled)
    }
}

/// Back to a socket that waits for ever, as everybody expects one.
///
/// # Errors
/// As the socket.
pub fn plain(stream: Stream) -> io::Result<OwnedFd> {
    stream.0.set_read_timeout(None)?;
    stream.0.set_write_timeout(None)?;
    Ok(stream.0.into())
}

/// The error of a conversation with `proxy`; `what` is missing if it took too long.
pub fn broken(proxy: &Proxy, error: io::Error, what: &'static str, deadline: &Deadline) -> ViaError {
    let proxy = proxy.to_string();
    match error.kind() {
        io::ErrorKind::TimedOut => ViaError::ProxySilent { proxy, what, secs: deadline.whole().as_secs_f64() },
        // A reset instead of an answer is how some end what they do not like.
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ViaError::ProxyClosed { proxy },
        _ => ViaError::ProxyBroke { proxy, error },
    }
}

/// The beginning of what came instead of an answer, as it can be shown.
pub fn shown(bytes: &[u8]) -> String {
    let begin = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let is_text = !begin.is_empty() && begin.iter().all(|byte| byte.is_ascii_graphic() || b" \r\n\t".contains(byte));
    if is_text {
        let text = String::from_utf8_lossy(begin);
        format!("it begins with {:?}", text.lines().next().unwrap_or_default())
    } else {
        let hex: Vec<String> = begin.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("it begins with the bytes {}", hex.join(" "))
    }
}

fn left(deadline: &Deadline) -> io::Result<std::time::Duration> {
    deadline.left().ok_or_else(|| io::ErrorKind::TimedOut.into())
}

/// A socket whose time-out has passed says that it would block.
fn late(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

const SHOWN_BYTES_MAX: usize = 40;
