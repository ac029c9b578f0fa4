//! TLS over a blocking socket, by our own record layer: either end of it.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
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
        let name = ServerName::IpAddress(server.ip().into());
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
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        loop {
            match handshake.step()? {
                Step::Write(bytes) => socket.write_all(&bytes)?,
                Step::NeedBytes => {
                    let bytes = read_some(&mut socket)?;
                    handshake.receive(&bytes);
                }
                Step::Done => break,
            }
        }
        Ok(Self { socket, tls: Buffered::new(handshake.finish()?) })
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
