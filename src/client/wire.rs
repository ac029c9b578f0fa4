//! TLS over a blocking socket, by our own record layer: either end of it.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use crate::metrics::closes::CloseReason;
use crate::tls::aead::AeadBackend;
use crate::tls::buffered::{Buffered, Parts};
use crate::tls::handshake::{Handshake, HandshakeError, Step};
use crate::tls::record::RECORD_BYTES_MAX;

/// A TLS connection over a blocking socket, for as long as it is being set up: [`Wire::into_parts`] ends the limits.
pub struct Wire {
    socket: TcpStream,
    limits: Limits,
    tls: Buffered,
    fingerprint: Option<[u8; 32]>,
}

/// Why there is no TLS connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// The peer closed it.
    #[error("the other end closed the connection while it was being set up")]
    Ended,
    /// Nothing came for so long.
    #[error("the other end says nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// Something came now and then, but it did not come to an end for so long.
    #[error("the connection was not set up within {} s", .0.as_secs())]
    Slow(Duration),
    /// No TLS connection came about.
    #[error("TLS handshake: {0}")]
    Tls(#[from] HandshakeError),
    /// rustls refuses its configuration.
    #[error("TLS: {0}")]
    Setup(#[from] rustls::Error),
    /// The TLS connection broke.
    #[error("TLS connection: {}", .0.help().trim())]
    Record(CloseReason),
}

impl Wire {
    /// Calls `server`; `timeout` is the limit of each wait for it, four times that the limit of all of them.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn connect(server: SocketAddr, tls: &Arc<ClientConfig>, timeout: Duration) -> Result<Self, WireError> {
        let socket = TcpStream::connect_timeout(&server, timeout)?;
        Self::over(socket, ServerName::IpAddress(server.ip().into()), tls, timeout)
    }

    /// Shakes hands with the server called `name` at the other end of `socket`, which may be any stream.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn over(
        socket: TcpStream,
        name: ServerName<'static>,
        tls: &Arc<ClientConfig>,
        timeout: Duration,
    ) -> Result<Self, WireError> {
        Self::shake_hands(socket, Handshake::client(tls, name, AeadBackend::AwsLc)?, timeout)
    }

    /// Answers the client that has connected to `socket`; `timeout` is the limit of each wait for it.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn accept(socket: TcpStream, tls: &Arc<ServerConfig>, timeout: Duration) -> Result<Self, WireError> {
        Self::shake_hands(socket, Handshake::server(tls, AeadBackend::AwsLc)?, timeout)
    }

    fn shake_hands(mut socket: TcpStream, mut handshake: Handshake, timeout: Duration) -> Result<Self, WireError> {
        // A helper program's socket pair knows no such thing.
        let _ = socket.set_nodelay(true);
        socket.set_write_timeout(Some(timeout))?;
        let limits = Limits::new(timeout);
        loop {
            let step = match handshake.step() {
                Ok(step) => step,
                Err(error) => {
                    // The alert tells the peer why; whether it arrives does not matter to us.
                    let _ = socket.write_all(&handshake.alert());
                    return Err(error.into());
                }
            };
            match step {
                Step::Write(bytes) => socket.write_all(&bytes)?,
                Step::NeedBytes => {
                    let bytes = limits.read_some(&mut socket)?;
                    handshake.receive(&bytes);
                }
                Step::Done => break,
            }
        }
        let fingerprint = handshake.server_fingerprint();
        Ok(Self { socket, limits, tls: Buffered::new(handshake.finish()?), fingerprint })
    }

    /// Sends `plain`.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn send(&mut self, plain: &[u8]) -> Result<(), WireError> {
        let records = self.tls.seal(plain).map_err(WireError::Record)?;
        Ok(self.socket.write_all(&records)?)
    }

    /// The next plaintext there is; waits for at least one byte.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn receive(&mut self) -> Result<Vec<u8>, WireError> {
        loop {
            if let Some(plain) = self.tls.next_plain().map_err(WireError::Record)? {
                return Ok(plain);
            }
            let bytes = self.limits.read_some(&mut self.socket)?;
            self.tls.receive(&bytes);
        }
    }

    /// SHA-256 of the server's certificate, at the client's end.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        self.fingerprint
    }

    /// Ends it properly: stock programs take an end without close_notify badly (protocol note §1.1).
    pub fn close(mut self) {
        // What is not delivered now will not be missed.
        let _ = self.socket.write_all(&self.tls.close_notify());
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// The socket, blocking still, with keys and what was received but not opened.
    pub fn into_parts(self) -> (TcpStream, Parts) {
        // It worked when it was set.
        let _ = self.socket.set_read_timeout(Some(self.limits.wait));
        (self.socket, self.tls.into_parts())
    }
}

/// How long a peer is waited for: each time, and in all. Without the second one a byte now and then would keep it for ever.
#[derive(Clone, Copy)]
struct Limits {
    wait: Duration,
    until: Instant,
}

impl Limits {
    fn new(wait: Duration) -> Self {
        Self { wait, until: Instant::now() + wait * WAITS }
    }

    fn read_some(&self, socket: &mut TcpStream) -> Result<Vec<u8>, WireError> {
        let left = self.until.saturating_duration_since(Instant::now());
        let slow = || WireError::Slow(self.wait * WAITS);
        if left.is_zero() {
            return Err(slow());
        }
        socket.set_read_timeout(Some(self.wait.min(left)))?;
        let mut buf = vec![0; RECORD_BYTES_MAX];
        match socket.read(&mut buf) {
            Ok(0) => Err(WireError::Ended),
            Ok(n) => {
                buf.truncate(n);
                Ok(buf)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(if left < self.wait { slow() } else { WireError::Silent(self.wait) })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A server that asks others who somebody is (RADIUS) may take several of its waits, and says meanwhile that it does.
const WAITS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// How it ends with a peer that does this.
    fn ends(wait_ms: u64, peer: impl FnOnce(TcpStream) + Send + 'static) -> WireError {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let peer = thread::spawn(move || peer(listener.accept().unwrap().0));
        let tls = crate::tls::config::client_config(
            crate::tls::config::ServerTrust::AcceptAny,
            crate::tls::config::TlsVersions::Both,
        );
        let error = Wire::connect(server, &Arc::new(tls), Duration::from_millis(wait_ms)).err().unwrap();
        peer.join().unwrap();
        error
    }

    /// Until the other end has gone.
    fn hold(mut socket: TcpStream) {
        while socket.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
    }

    #[test]
    fn a_peer_is_waited_for_so_long_and_no_longer() {
        assert!(matches!(ends(200, hold), WireError::Silent(_)));
        assert!(matches!(ends(5_000, |mut socket| drop(socket.read(&mut [0; 4096]))), WireError::Ended));
        let begun = Instant::now();
        let drips = ends(300, |mut socket| {
            // A record of 16 KiB that comes byte by byte.
            let _ = socket.write_all(&[22, 3, 3, 0x40, 0]);
            while socket.write_all(&[2]).is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        assert!(matches!(drips, WireError::Slow(_)), "{drips}");
        assert!((1_200..5_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_peer_that_does_not_speak_tls_is_told_from_one_that_does() {
        let error = ends(5_000, |mut socket| {
            let _ = socket.write_all(b"220 mail.example ESMTP\r\n");
            hold(socket);
        });
        assert!(matches!(error, WireError::Tls(_)), "{error}");
    }
}
