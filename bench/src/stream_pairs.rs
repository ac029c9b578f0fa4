//! The two ends of every stream through a pipe: one connection to it and the one it makes for that.

use std::error::Error;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hublane::client::wire::{Wire, WireError};
use hublane::control::state::certificates::{Kind, unkept};
use hublane::tls::buffered::Parts;
use hublane::tls::config::{
    ServerCertificates, ServerTrust, Signatures, certified_key, client_config_for, server_config_for,
};
use hublane::tls::layer::RecordLayer;
use hublane::tunnel::records::Records;
use rustls::{ClientConfig, ServerConfig};

use crate::outflow::Outflow;
use crate::tls_choice::TlsChoice;

/// One end of a stream, connected.
pub(crate) struct End {
    pub(crate) socket: TcpStream,
    pub(crate) layer: RecordLayer,
    pub(crate) records: Records,
    pub(crate) out: Outflow,
    /// Ciphertext that was received but not opened.
    pub(crate) cipher: Vec<u8>,
}

/// Both ends of a stream.
pub(crate) struct Ends {
    pub(crate) number: u64,
    pub(crate) source: End,
    pub(crate) sink: End,
}

/// What is wanted.
pub(crate) struct Pairing {
    pub(crate) via: SocketAddr,
    pub(crate) listen: SocketAddr,
    pub(crate) count: usize,
    pub(crate) tls: TlsChoice,
    pub(crate) plain_max: usize,
}

impl Pairing {
    /// Makes all streams, in their order.
    pub(crate) fn connect(&self) -> Result<Vec<Ends>, Box<dyn Error>> {
        let listener = TcpListener::bind(self.listen).map_err(|error| format!("{}: {error}", self.listen))?;
        // Accepting waits no longer than it may.
        listener.set_nonblocking(true)?;
        let (suites, versions) = (self.tls.suites(), self.tls.versions());
        let client = Arc::new(client_config_for(ServerTrust::AcceptAny, versions, &suites, Signatures::Any));
        let (chain, key) = unkept(Kind::Ecdsa, &self.listen.ip().to_string())?;
        let certificates = ServerCertificates::One(certified_key(chain, key)?);
        let server = Arc::new(server_config_for(certificates, versions, &suites));
        let (sources, sinks) = thread::scope(|scope| {
            let sinks = scope.spawn(|| self.sinks(&listener, &server));
            let sources = self.sources(&client);
            (sources, sinks.join().unwrap_or_else(|_| Err("accepting broke".into())))
        });
        // The source's reason is the better one: without it the sink has only waited.
        let (sources, mut sinks) = (sources?, sinks?);
        sinks.sort_by_key(|(number, _)| *number);
        if sinks.iter().map(|(number, _)| *number).ne(0..self.count as u64) {
            return Err("the pipe has not connected every stream once".into());
        }
        let ends = sources.into_iter().zip(sinks);
        Ok(ends.map(|(source, (number, sink))| Ends { number, source, sink }).collect())
    }

    fn sources(&self, tls: &Arc<ClientConfig>) -> Result<Vec<End>, String> {
        let source = |number| -> Result<End, WireError> {
            let mut wire = Wire::connect(self.via, tls, PATIENCE)?;
            wire.send(&hello(number))?;
            Ok(self.end(wire))
        };
        (0..self.count as u64)
            .map(|number| source(number).map_err(|error| format!("stream {number} to {}: {error}", self.via)))
            .collect()
    }

    fn sinks(&self, listener: &TcpListener, tls: &Arc<ServerConfig>) -> Result<Vec<(u64, End)>, String> {
        (0..self.count)
            .map(|_| {
                let socket = accept(listener)?;
                self.sink(socket, tls).map_err(|error| format!("a connection to {}: {error}", self.listen))
            })
            .collect()
    }

    fn sink(&self, socket: TcpStream, tls: &Arc<ServerConfig>) -> Result<(u64, End), Box<dyn Error>> {
        let mut wire = Wire::accept(socket, tls, PATIENCE)?;
        let mut said = Vec::new();
        while said.len() < HELLO_BYTES {
            said.extend(wire.receive()?);
        }
        let number = number_of(&said).ok_or("what came is no stream of this program")?;
        Ok((number, self.end(wire)))
    }

    fn end(&self, wire: Wire) -> End {
        let (socket, Parts { layer, cipher }) = wire.into_parts();
        End { socket, layer, records: Records::default(), out: Outflow::new(self.plain_max), cipher }
    }
}

/// Waits for a connection.
fn accept(listener: &TcpListener) -> Result<TcpStream, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((socket, _)) => return Ok(socket),
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error.to_string()),
            Err(_) if Instant::now() > end => return Err("the pipe does not connect".into()),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The first bytes of stream `number`.
fn hello(number: u64) -> [u8; HELLO_BYTES] {
    let mut hello = [0; HELLO_BYTES];
    hello[..8].copy_from_slice(MAGIC);
    hello[8..].copy_from_slice(&number.to_be_bytes());
    hello
}

/// The number in them.
fn number_of(said: &[u8]) -> Option<u64> {
    let number = said.strip_prefix(MAGIC)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

const MAGIC: &[u8; 8] = b"hlstream";
const HELLO_BYTES: usize = 16;

/// Limit of each wait for the pipe.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_says_its_number() {
        assert_eq!(number_of(&hello(77)), Some(77));
        assert_eq!(number_of(b"GET / HTTP/1.1\r\n"), None);
        assert_eq!(number_of(&[&hello(1)[..], b"x"].concat()), None);
    }
}
