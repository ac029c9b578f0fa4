//! TLS over a blocking socket, by our own record layer: either end of it.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use crate::metrics::closes::CloseReason;
use crate::tls::aead::AeadBackend;
use crate::tls::buffered::{Buffered, Parts};
use crate::tls::handshake::{Handshake, HandshakeError, Step};
use crate::tls::record::RECORD_BYTES_MAX;

/// A TLS connection over a blocking socket.
pub struct Wire {
    socket: TcpStream,
    tls: Buffered,
    fingerprint: Option<[u8; 32]>,
}

/// Why there is no TLS connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed or the peer closed it.
    #[error("{0}")]
    Socket(#[from] io::Error),
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
    /// Calls `server`; `timeout` is the limit of each wait for it.
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
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
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
                    let bytes = read_some(&mut socket)?;
                    handshake.receive(&bytes);
                }
                Step::Done => break,
            }
        }
        let fingerprint = handshake.server_fingerprint();
        Ok(Self { socket, tls: Buffered::new(handshake.finish()?), fingerprint })
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
            let bytes = read_some(&mut self.socket)?;
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
        (self.socket, self.tls.into_parts())
    }
}

fn read_some(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; RECORD_BYTES_MAX];
    let n = socket.read(&mut buf)?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buf.truncate(n);
    Ok(buf)
}
