//! A defect met in one session's step costs that session alone: it is closed and counted, its peer is reset, and
//! everybody else goes on.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::cell::Cell;
use std::collections::HashMap;
use std::io;

use common::{Bench, Login, Member, broadcast, frame};
use hublane::ids::{ConnKey, SessionId};
use hublane::metrics::closes::CloseReason;
use hublane::tls::aead::AeadBackend;
use hublane::tls::keys::Suite;
use hublane::tls::layer::RecordLayer;
use hublane::tunnel::buffer::SendBuf;
use hublane::worker::io::{CloseHow, Completion, RecvBuf, StreamIo, Wait};
use hublane::worker::mem::{MemIo, MemSocket};
use hublane::worker::seeds::Command;

/// A back end whose `bytes` panics for one connection, once.
struct Trap {
    io: MemIo,
    /// Whose bytes each buffer holds.
    lent: HashMap<u32, ConnKey>,
    victim: Cell<Option<ConnKey>>,
}

impl Trap {
    fn new(io: MemIo) -> Self {
        Self { io, lent: HashMap::new(), victim: Cell::new(None) }
    }
}

impl StreamIo for Trap {
    type Socket = MemSocket;

    fn open(&mut self, key: ConnKey, socket: MemSocket) -> io::Result<()> {
        self.io.open(key, socket)
    }

    fn watch(&mut self, watch: u8, device: std::os::fd::OwnedFd) -> io::Result<()> {
        self.io.watch(watch, device)
    }

    fn send(&mut self, key: ConnKey, buf: SendBuf) {
        self.io.send(key, buf);
    }

    fn limit_unsent(&mut self, key: ConnKey, bytes: u32) {
        self.io.limit_unsent(key, bytes);
    }

    fn shutdown_write(&mut self, key: ConnKey) {
        self.io.shutdown_write(key);
    }

    fn close(&mut self, key: ConnKey, how: CloseHow) {
        self.io.close(key, how);
    }

    fn turn(&mut self, wait: Wait) -> io::Result<()> {
        self.io.turn(wait)
    }

    fn next(&mut self) -> Option<Completion> {
        let next = self.io.next();
        if let Some(Completion::Received { key, buf }) = &next {
            self.lent.insert(buf.id, *key);
        }
        next
    }

    fn is_quiet(&self) -> bool {
        self.io.is_quiet()
    }

    fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        if self.victim.get() == Some(self.lent[&buf.id]) {
            self.victim.set(None);
            panic!("injected");
        }
        self.io.bytes(buf)
    }

    fn recycle(&mut self, buf: RecvBuf) {
        self.io.recycle(buf);
    }
}

/// Everybody but the one that is gone still hears everybody, and a newcomer finds a working hub.
fn the_rest_goes_on<Io: StreamIo<Socket = MemSocket>>(bench: &mut Bench<Io>, rest: &mut [&mut Member]) {
    let mut newcomer = bench.member(99, 0);
    for speaker in 0..rest.len() {
        let src = 0x80 + u8::try_from(speaker).unwrap();
        rest[speaker].send(&broadcast(src));
        bench.turn();
        assert_eq!(newcomer.received(), [broadcast(src)]);
        for (listener, member) in rest.iter_mut().enumerate() {
            let expected = if listener == speaker { vec![] } else { vec![broadcast(src)] };
            assert_eq!(member.received(), expected, "{listener} listens to {speaker}");
        }
    }
    let ports = rest.len() + 1;
    assert_eq!(bench.workers.iter().map(|worker| worker.counters().ports.read()).sum::<u64>(), ports as u64);
}

#[test]
fn a_panic_while_receiving_ends_that_session_alone() {
    let mut bench = Bench::with(1, Trap::new);
    // Keys are given in the order of logins.
    let [mut a, mut b, mut c] = [1, 2, 3].map(|number| bench.member(number, 0));
    bench.workers[0].io_mut().victim.set(Some(ConnKey(1)));
    a.send(&frame(0xc, 0xa, b"before"));
    b.send(&frame(0xc, 0xb, b"lost"));
    c.send(&frame(0xa, 0xc, b"at the same time"));
    bench.turn();
    assert_eq!(bench.ended(), [(2, CloseReason::Panicked)]);
    assert_eq!(bench.closes(CloseReason::Panicked), 2, "a connection and its session");
    assert!(b.peer.saw_reset());
    assert_eq!(a.received(), [frame(0xa, 0xc, b"at the same time")]);
    assert_eq!(c.received(), [frame(0xc, 0xa, b"before")]);
    the_rest_goes_on(&mut bench, &mut [&mut a, &mut c]);
    assert!(bench.workers[0].io_mut().victim.get().is_none());
}

#[test]
fn a_panic_with_frames_waiting_gives_their_storage_back() {
    let mut bench = Bench::with(1, Trap::new);
    let login = Login { queue_depth: 400, ..Login::default() };
    let [mut a, mut b, mut c] = [1, 2, 3].map(|number| bench.member_with(number, 0, &login));
    b.send(&broadcast(0xb));
    bench.turn();
    // Three times what the worker can store, were it not for the sessions that end.
    for round in 0..10 {
        b.peer.set_window(0);
        for n in 0..=255 {
            a.send(&frame(0xb, 0xa, &[n; 100]));
            bench.turn();
        }
        bench.workers[0].io_mut().victim.set(Some(ConnKey(1)));
        b.send(&broadcast(0xb));
        bench.turn();
        assert_eq!(bench.ended(), [(2, CloseReason::Panicked)], "round {round}");
        b = bench.member_with(2, 0, &login);
        b.send(&broadcast(0xb));
        bench.turn();
    }
    assert_eq!(bench.drops(hublane::metrics::drops::DropReason::EgressPoolEmpty), 0);
    for member in [&mut a, &mut b, &mut c] {
        member.received();
    }
    the_rest_goes_on(&mut bench, &mut [&mut a, &mut b, &mut c]);
}

/// A TLS side that panics when it seals more than a keep-alive: its count of cipher blocks is near its end, which
/// only a state restored from damaged bytes can bring about, and is no limit with ChaCha20.
fn cannot_seal(layer: &mut RecordLayer) {
    let mut saved = layer.to_bytes().to_vec();
    let blocks_at = saved.len() - 8;
    saved[blocks_at..].copy_from_slice(&(u64::MAX - 60).to_be_bytes());
    *layer = RecordLayer::from_bytes(&saved, AeadBackend::AwsLc).unwrap();
}

/// The second frame of 1000 bytes completes a record, in the step of the member who sent it.
fn a_panic_while_delivering(workers: usize) {
    if !cfg!(debug_assertions) {
        // The count overflows silently without checks.
        return;
    }
    let mut bench = Bench::new(workers);
    let mut a = bench.member(1, workers - 1);
    let suite = Suite::Tls13ChaCha20Poly1305Sha256;
    let mut b = bench.member_with(2, 0, &Login { suite, prepare: cannot_seal, ..Login::default() });
    let mut c = bench.member(3, 0);
    a.send(&broadcast(0xa));
    c.send(&broadcast(0xc));
    bench.turn();
    for member in [&mut a, &mut b, &mut c] {
        member.received();
    }
    let long = |n: u8| [&broadcast(0xa)[..], &[n; 1000]].concat();
    for n in 0..5 {
        a.send(&long(n));
    }
    a.send(&frame(0xc, 0xa, b"behind it"));
    c.send(&frame(0xa, 0xc, b"answer"));
    bench.turn();
    assert_eq!(bench.ended(), [(2, CloseReason::Panicked)]);
    assert!(b.peer.saw_reset());
    let expected: Vec<_> = (0..5).map(long).chain([frame(0xc, 0xa, b"behind it")]).collect();
    assert_eq!(c.received(), expected, "the sender's step went on");
    assert_eq!(a.received(), [frame(0xa, 0xc, b"answer")]);
    the_rest_goes_on(&mut bench, &mut [&mut a, &mut c]);
}

#[test]
fn a_panic_while_delivering_ends_the_receiver_alone() {
    a_panic_while_delivering(1);
}

#[test]
fn a_panic_while_delivering_from_another_worker_ends_the_receiver_alone() {
    a_panic_while_delivering(2);
}

/// What the turn has built for B cannot be sealed when B is sent away.
#[test]
fn a_panic_while_closing_ends_that_session_alone() {
    if !cfg!(debug_assertions) {
        return;
    }
    let mut bench = Bench::new(1);
    let mut a = bench.member(1, 0);
    let suite = Suite::Tls13ChaCha20Poly1305Sha256;
    let b = bench.member_with(2, 0, &Login { suite, prepare: cannot_seal, ..Login::default() });
    let mut c = bench.member(3, 0);
    a.send(&[&broadcast(0xa)[..], &[1; 1000]].concat());
    bench.command(0, Command::End(SessionId(2), CloseReason::Kicked));
    bench.turn();
    assert_eq!(c.received().len(), 1);
    assert_eq!(bench.ended(), [(2, CloseReason::Panicked)]);
    assert!(b.peer.saw_reset());
    assert_eq!(bench.workers[0].counters().conns.read(), 2);
    the_rest_goes_on(&mut bench, &mut [&mut a, &mut c]);
}
