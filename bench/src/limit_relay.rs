//! Mode `limit relay`: a bare pipe, what a hub costs when nothing but bytes has to be carried.
//!
//! Each TLS connection accepted is joined to another one that is called for it. One pinned thread does, for both
//! directions: receive, open, one copy into a send buffer, seal, send. It is the hub's way of a frame with back end,
//! receive buffers, arena, carries, send buffers and socket options of the hub, but without frames: nothing is
//! deframed, learned, looked up, queued or dropped, and records are filled to the brim whatever they held before.
//!
//! Another thread shakes hands, one connection after the other. The end of one connection ends the other one, after
//! what is still on its way. The process runs until it is killed.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use clap::{Args, ValueEnum};
use hublane::client::wire::{Wire, WireError};
use hublane::control::front::NOTSENT_LOWAT;
use hublane::control::state::certificates::{Kind, ServerCertificates, unkept};
use hublane::control::tls_setup;
use hublane::ids::ConnKey;
use hublane::metrics::closes::CloseReason;
use hublane::sys::affinity::pin_current_thread;
use hublane::sys::epoll::{EpollConfig, EpollIo};
use hublane::sys::features::{FeatureMask, KernelFeatures};
use hublane::sys::limits::raise_open_files;
use hublane::sys::socket::prepare_member_socket;
use hublane::sys::uring::{UringConfig, UringIo};
use hublane::sys::waker::Waker;
use hublane::tls::buffered::Parts;
use hublane::tls::config::{ServerTrust, TlsVersions, client_config};
use hublane::tls::layer::RecordLayer;
use hublane::tls::record::{PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX};
use hublane::tunnel::buffer::SendPool;
use hublane::tunnel::records::{RecordPool, Records};
use hublane::worker::io::{CloseHow, Completion, StreamIo, Wait};
use rustls::{ClientConfig, ServerConfig};

use crate::outflow::Outflow;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct LimitRelay {
    /// Where to accept connections.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Where to connect for each of them.
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddr,
    /// CPU of the thread that carries bytes; else it runs where the kernel puts it.
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// Kind of the certificate's key.
    #[arg(long, value_enum, default_value = "ecdsa")]
    signature: Signature,
    /// Use only what Linux of this version has: all, 6.1 or 5.15 (epoll).
    #[arg(long, default_value = "all", value_name = "VERSION")]
    kernel_features: FeatureMask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Signature {
    Ecdsa,
    Rsa,
}

impl LimitRelay {
    /// Runs the mode; does not return unless something failed.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        raise_open_files()?;
        let listener = TcpListener::bind(self.listen)?;
        let waker = Waker::new()?;
        let (pairs, received) = mpsc::channel();
        let host = self.listen.ip().to_string();
        let stored = match self.signature {
            Signature::Ecdsa => ServerCertificates { rsa: None, ecdsa: Some(unkept(Kind::Ecdsa, &host)?) },
            Signature::Rsa => ServerCertificates { rsa: Some(unkept(Kind::Rsa, &host)?), ecdsa: None },
        };
        let porter = Porter {
            server: Arc::new(tls_setup::server_config(Some(stored), TlsVersions::Both)?),
            client: Arc::new(client_config(ServerTrust::AcceptAny, TlsVersions::Both)),
            to: self.to,
            pairs,
            waker: waker.clone(),
        };
        let features = KernelFeatures::probe(self.kernel_features);
        // Before this thread is pinned, as others are pinned with it.
        std::thread::Builder::new().name("porter".into()).spawn(move || porter.serve(&listener))?;
        if let Some(cpu) = self.cpu {
            pin_current_thread(cpu)?;
        }
        eprintln!("relay from {} to {} over {}", self.listen, self.to, features.back_end());
        match &features.uring {
            Ok(uring) => Relay::new(UringIo::new(&UringConfig::default(), uring, waker)?, received).run()?,
            Err(_) => Relay::new(EpollIo::new(&EpollConfig::default(), waker)?, received).run()?,
        }
        Ok(())
    }
}

/// Two connections to be joined.
type Joined = [(TcpStream, Parts); 2];

/// Lets connections in.
struct Porter {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    to: SocketAddr,
    pairs: mpsc::Sender<Joined>,
    waker: Waker,
}

impl Porter {
    fn serve(&self, listener: &TcpListener) {
        loop {
            let joined = listener.accept().map_err(WireError::from).and_then(|(socket, _)| self.join(socket));
            match joined {
                Ok(joined) => {
                    // The relay's thread has ended, and the process with it.
                    if self.pairs.send(joined).is_err() {
                        return;
                    }
                    self.waker.wake();
                }
                Err(error) => {
                    eprintln!("a connection was not joined: {error}");
                    std::thread::sleep(AFTER_FAILURE);
                }
            }
        }
    }

    fn join(&self, socket: TcpStream) -> Result<Joined, WireError> {
        let from = Wire::accept(socket, &self.server, HANDSHAKE)?.into_parts();
        let to = Wire::connect(self.to, &self.client, HANDSHAKE)?.into_parts();
        for (socket, _) in [&from, &to] {
            prepare_member_socket(socket, NOTSENT_LOWAT)?;
        }
        Ok([from, to])
    }
}

/// One end of a pair.
struct End {
    layer: RecordLayer,
    records: Records,
    out: Outflow,
    closed: bool,
}

/// Two connections, each of which gets what comes from the other. Their keys are twice the pair's number, and that
/// plus one.
struct Pair {
    ends: [End; 2],
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The other end has gone; this one still gets what it sent.
    Draining(usize),
    Closed,
}

/// The thread that carries bytes.
struct Relay<Io> {
    io: Io,
    joined: mpsc::Receiver<Joined>,
    pairs: Vec<Option<Pair>>,
    arena: Box<[u8]>,
    pool: RecordPool,
    sends: SendPool,
    /// Connections that got something in this turn.
    dirty: Vec<ConnKey>,
}

impl<Io: StreamIo<Socket = OwnedFd>> Relay<Io> {
    fn new(io: Io, joined: mpsc::Receiver<Joined>) -> Self {
        Self {
            io,
            joined,
            pairs: Vec::new(),
            arena: vec![0; RECORD_BYTES_MAX].into_boxed_slice(),
            pool: RecordPool::default(),
            sends: SendPool::default(),
            dirty: Vec::new(),
        }
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            self.turn(Wait::Forever)?;
        }
    }

    fn turn(&mut self, wait: Wait) -> io::Result<()> {
        self.io.turn(wait)?;
        self.reap()?;
        while let Some(key) = self.dirty.pop() {
            self.flush(key);
        }
        Ok(())
    }

    /// What is left when the turn has read enough waits for the next one, as in the hub.
    fn reap(&mut self) -> io::Result<()> {
        let mut bytes = 0;
        while bytes < BYTES_PER_TURN
            && let Some(completion) = self.io.next()
        {
            match completion {
                Completion::Received { key, buf } => {
                    bytes += u64::from(buf.len);
                    self.received(key, Bytes::Lent(&buf));
                    self.io.recycle(buf);
                }
                Completion::Sent { key, buf, result } => {
                    self.sends.give(buf);
                    let Some((pair, side)) = self.find(key) else { continue };
                    pair.ends[side].out.sent();
                    match result {
                        Ok(()) => self.flush(key),
                        Err(_) => self.abort(key, None),
                    }
                }
                Completion::Eof { key } => self.end(key),
                Completion::RecvFailed { key, .. } => self.abort(key, None),
                Completion::Closed { key } => self.closed(key),
                Completion::Ready { .. } => {}
                Completion::Woken => self.let_in()?,
            }
        }
        Ok(())
    }

    fn let_in(&mut self) -> io::Result<()> {
        while let Ok(joined) = self.joined.try_recv() {
            let number = self.pairs.iter().position(Option::is_none).unwrap_or(self.pairs.len());
            if number == self.pairs.len() {
                self.pairs.push(None);
            }
            let [(from, from_parts), (to, to_parts)] = joined;
            let end = |layer| End {
                layer,
                records: Records::default(),
                out: Outflow::new(PLAINTEXT_BYTES_MAX),
                closed: false,
            };
            let ends = [end(from_parts.layer), end(to_parts.layer)];
            self.pairs[number] = Some(Pair { ends, state: State::Open });
            for (side, socket) in [from, to].into_iter().enumerate() {
                self.io.open(key_of(number, side)?, OwnedFd::from(socket))?;
            }
            for (side, cipher) in [from_parts.cipher, to_parts.cipher].iter().enumerate() {
                self.received(key_of(number, side)?, Bytes::Own(cipher));
            }
        }
        Ok(())
    }

    fn find(&mut self, key: ConnKey) -> Option<(&mut Pair, usize)> {
        let key = key.0 as usize;
        Some((self.pairs.get_mut(key / 2)?.as_mut()?, key % 2))
    }

    fn received(&mut self, key: ConnKey, bytes: Bytes<'_>) {
        let Self { io, pairs, arena, pool, sends, dirty, .. } = self;
        let number = key.0 as usize;
        let Some(pair) = pairs.get_mut(number / 2).and_then(Option::as_mut) else { return };
        if pair.state != State::Open {
            return;
        }
        let bytes = match bytes {
            Bytes::Lent(buf) => io.bytes(buf),
            Bytes::Own(bytes) => bytes,
        };
        let [a, b] = &mut pair.ends;
        let (from, to) = if number.is_multiple_of(2) { (a, b) } else { (b, a) };
        let End { layer, records, .. } = from;
        let opened = records.open_all(layer, bytes, arena, pool, |plain| to.out.append(&mut to.layer, plain, sends));
        let (waiting, answer) = (to.out.waiting_bytes(), layer.wants_control());
        dirty.push(ConnKey(key.0 ^ 1));
        if answer {
            dirty.push(key);
        }
        match opened {
            Ok(_) if waiting > WAITING_BYTES_MAX => self.abort(key, Some("the other side does not take its bytes")),
            Ok(_) => {}
            Err(CloseReason::PeerCloseNotify) => self.end(key),
            Err(reason) => self.abort(key, Some(reason.label())),
        }
    }

    fn flush(&mut self, key: ConnKey) {
        let Self { io, pairs, sends, .. } = self;
        let number = key.0 as usize;
        let Some(pair) = pairs.get_mut(number / 2).and_then(Option::as_mut) else { return };
        let side = number % 2;
        if !matches!(pair.state, State::Open) && pair.state != State::Draining(side) {
            return;
        }
        let end = &mut pair.ends[side];
        match end.out.flush(&mut end.layer, sends) {
            Ok(Some(buf)) => io.send(key, buf),
            Ok(None) if pair.state == State::Draining(side) && end.out.is_empty() => {
                pair.state = State::Closed;
                io.close(key, CloseHow::Orderly);
            }
            Ok(None) => {}
            Err(reason) => self.abort(key, Some(reason.label())),
        }
    }

    /// The connection of `key` has come to its end; the other one gets what there is, and ends.
    fn end(&mut self, key: ConnKey) {
        let other = ConnKey(key.0 ^ 1);
        let Self { io, pairs, sends, dirty, .. } = self;
        let Some(pair) = pairs.get_mut(key.0 as usize / 2).and_then(Option::as_mut) else { return };
        match pair.state {
            State::Open => {}
            // Both have ended: nobody is left to wait for.
            State::Draining(side) if side == key.0 as usize % 2 => return self.abort(key, None),
            State::Draining(_) | State::Closed => return,
        }
        let side = other.0 as usize % 2;
        pair.state = State::Draining(side);
        io.close(key, CloseHow::Orderly);
        let end = &mut pair.ends[side];
        match end.out.finish(&mut end.layer, sends) {
            Ok(()) => dirty.push(other),
            Err(reason) => self.abort(other, Some(reason.label())),
        }
    }

    /// Ends both connections at once.
    fn abort(&mut self, key: ConnKey, why: Option<&str>) {
        let Some((pair, _)) = self.find(key) else { return };
        if pair.state == State::Closed {
            return;
        }
        pair.state = State::Closed;
        if let Some(why) = why {
            eprintln!("pair {} was closed: {why}", key.0 / 2);
        }
        self.io.close(key, CloseHow::Abort);
        self.io.close(ConnKey(key.0 ^ 1), CloseHow::Abort);
    }

    fn closed(&mut self, key: ConnKey) {
        let Some((pair, side)) = self.find(key) else { return };
        pair.ends[side].closed = true;
        if pair.ends.iter().all(|end| end.closed) {
            self.pairs[key.0 as usize / 2] = None;
        }
    }
}

/// Ciphertext, and where it is.
enum Bytes<'a> {
    Lent(&'a hublane::worker::io::RecvBuf),
    Own(&'a [u8]),
}

fn key_of(pair: usize, side: usize) -> io::Result<ConnKey> {
    u32::try_from(pair * 2 + side).map(ConnKey).map_err(io::Error::other)
}

/// Limit of each wait for a peer that shakes hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// So that a listener without descriptors does not turn for ever.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// As in the hub.
const BYTES_PER_TURN: u64 = 1 << 20;

/// What may wait for one connection: many times the window of any sender.
const WAITING_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use hublane::tls::aead::AeadBackend;
    use hublane::tls::buffered::Buffered;
    use hublane::tls::handshake::Established;
    use hublane::tls::keys::Suite;
    use hublane::tls::layer::connected_pair;

    use super::*;

    /// A peer of the relay, and the relay's end.
    fn peer(listener: &TcpListener) -> (TcpStream, Buffered, (TcpStream, Parts)) {
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let (server, client) = connected_pair(Suite::Tls13Aes128GcmSha256, AeadBackend::AwsLc);
        let tls = Buffered::new(Established { layer: client, leftover: Vec::new() });
        (ours, tls, (theirs, Parts { layer: server, cipher: Vec::new() }))
    }

    /// Everything up to close_notify.
    fn read_all(socket: &mut TcpStream, tls: &mut Buffered) -> Vec<u8> {
        let (mut all, mut buf) = (Vec::new(), vec![0; 65_536]);
        loop {
            match tls.next_plain() {
                Ok(Some(plain)) => all.extend(plain),
                Ok(None) => {
                    let n = socket.read(&mut buf).unwrap();
                    assert!(n > 0, "the end came without close_notify");
                    tls.receive(&buf[..n]);
                }
                Err(reason) => {
                    assert_eq!(reason, CloseReason::PeerCloseNotify);
                    return all;
                }
            }
        }
    }

    #[test]
    fn what_one_end_sends_reaches_the_other_and_so_does_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut a, mut a_tls, a_end) = peer(&listener);
        let (mut b, mut b_tls, b_end) = peer(&listener);
        let (joined, received) = mpsc::channel();
        let waker = Waker::new().unwrap();
        let io = EpollIo::new(&EpollConfig::default(), waker.clone()).unwrap();
        joined.send([a_end, b_end]).unwrap();
        waker.wake();
        let text: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
        let sent = text.clone();
        let writer = std::thread::spawn(move || {
            // The other direction first: it must have come before the end of this one.
            let answer = b_tls.seal(b"answer").unwrap();
            b.write_all(&answer).unwrap();
            let mut buf = vec![0; 65_536];
            while a_tls.next_plain().unwrap().is_none() {
                let n = a.read(&mut buf).unwrap();
                a_tls.receive(&buf[..n]);
            }
            let reader = std::thread::spawn(move || read_all(&mut b, &mut b_tls));
            for part in sent.chunks(5000) {
                let records = a_tls.seal(part).unwrap();
                a.write_all(&records).unwrap();
            }
            a.write_all(&a_tls.close_notify()).unwrap();
            reader.join().unwrap()
        });
        let mut relay = Relay::new(io, received);
        // Bounded by the time limit of the peers' reads.
        while !writer.is_finished() || relay.pairs.iter().any(Option::is_some) {
            relay.turn(Wait::For(Duration::from_millis(20))).unwrap();
        }
        assert!(writer.join().unwrap() == text, "the text has changed on the way");
    }
}
