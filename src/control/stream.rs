//! A member's socket while a control thread has it: TLS handshake, then plaintext both ways over our own record
//! layer, which goes to the worker with the socket.
//!
//! Knows no deadlines but that of closing; the caller puts them around whole stages.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::metrics::closes::CloseReason;
use crate::tls::aead::AeadBackend;
use crate::tls::buffered::{Buffered, Parts};
use crate::tls::handshake::{Handshake, HandshakeError, Step};
use crate::tls::record::RECORD_BYTES_MAX;

/// How long the peer may take to read our close_notify and close its side.
const DRAIN: Duration = Duration::from_secs(1);

/// A TLS connection that a control thread serves.
pub struct MemberStream {
    tcp: TcpStream,
    tls: Buffered,
    buf: Vec<u8>,
}

/// Why a connection did not get to its login.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The socket failed or ended.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// The handshake failed.
    #[error("TLS handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// rustls refuses its configuration.
    #[error("TLS: {0}")]
    Setup(#[from] rustls::Error),
    /// The record layer refused to go on.
    #[error("{}", .0.label())]
    Record(CloseReason),
}

impl MemberStream {
    /// Does the TLS handshake. After a failure the peer was told by an alert.
    ///
    /// # Errors
    /// If it did not come to one.
    pub async fn accept(
        mut tcp: TcpStream,
        config: &Arc<ServerConfig>,
        aead: AeadBackend,
    ) -> Result<Self, StreamError> {
        let mut handshake = Handshake::server(config, aead)?;
        let mut buf = vec![0; RECORD_BYTES_MAX];
        loop {
            match handshake.step() {
                Ok(Step::Write(bytes)) => tcp.write_all(&bytes).await?,
                Ok(Step::NeedBytes) => {
                    let n = read_some(&mut tcp, &mut buf).await?;
                    handshake.receive(&buf[..n]);
                }
                Ok(Step::Done) => return Ok(Self { tcp, tls: Buffered::new(handshake.finish()?), buf }),
                Err(error) => {
                    // Without the alert the peer can only report an unexpected end.
                    let alert = handshake.alert();
                    if tcp.write_all(&alert).await.is_ok() {
                        drain(tcp, &mut buf).await;
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// The next plaintext there is; waits for at least one byte.
    ///
    /// # Errors
    /// If the connection has to be closed.
    pub async fn receive(&mut self) -> Result<Vec<u8>, StreamError> {
        loop {
            if let Some(plain) = self.tls.next_plain().map_err(StreamError::Record)? {
                return Ok(plain);
            }
            let n = read_some(&mut self.tcp, &mut self.buf).await?;
            self.tls.receive(&self.buf[..n]);
        }
    }

    /// Sends `plain`.
    ///
    /// # Errors
    /// If the connection has to be closed.
    pub async fn send(&mut self, plain: &[u8]) -> Result<(), StreamError> {
        let records = self.tls.seal(plain).map_err(StreamError::Record)?;
        Ok(self.tcp.write_all(&records).await?)
    }

    /// Sends close_notify, then FIN, and waits shortly for the peer's: bytes of his that nobody reads would
    /// reset the connection before he has read ours.
    pub async fn close(mut self) {
        let notify = self.tls.close_notify();
        if self.tcp.write_all(&notify).await.is_ok() {
            drain(self.tcp, &mut self.buf).await;
        }
    }

    /// Hands the connection over to a worker.
    ///
    /// # Errors
    /// If the socket cannot leave the runtime.
    pub fn into_parts(self) -> io::Result<(std::net::TcpStream, Parts)> {
        Ok((self.tcp.into_std()?, self.tls.into_parts()))
    }

    /// Has the TLS 1.3 key renewed after so many records.
    pub fn set_rekey_after(&mut self, records: u64) {
        self.tls.layer_mut().set_rekey_after(records);
    }
}

async fn read_some(tcp: &mut TcpStream, buf: &mut [u8]) -> io::Result<usize> {
    match tcp.read(buf).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => Ok(n),
    }
}

async fn drain(mut tcp: TcpStream, buf: &mut [u8]) {
    let until_eof = async {
        tcp.shutdown().await?;
        while tcp.read(buf).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever happens here, the connection is over.
    let _ = timeout(DRAIN, until_eof).await;
}
