//! One set of tests for every back end: what [`StreamIo`] promises, and what real peers do.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use self::rigs::{Found, Peer, Rig};
use super::waker::Waker;
use crate::ids::ConnKey;
use crate::tunnel::buffer::SendBuf;
use crate::worker::io::{CloseHow, Completion, RecvBuf, StreamIo, Wait};

mod rigs;

/// A worker that notes all it is told, in place of the real one.
struct Harness<R: Rig> {
    io: R::Io,
    waker: Waker,
    conns: Vec<Conn<R::Peer>>,
    /// Send back what is received.
    echo: bool,
    /// Keep what is lent, instead of giving it back at once.
    hold: bool,
    held: Vec<RecvBuf>,
    woken: usize,
    /// Numbers of devices that were told to be readable.
    ready: Vec<u8>,
}

struct Conn<P> {
    peer: Option<P>,
    /// Bytes received by the worker.
    received: Vec<u8>,
    /// Bytes received by the peer.
    returned: Vec<u8>,
    to_echo: VecDeque<u8>,
    sending: bool,
    eof: bool,
    failed: Option<io::ErrorKind>,
    sent: Vec<(usize, Result<(), io::ErrorKind>)>,
    closed: bool,
}

impl<R: Rig> Harness<R> {
    fn new(buffers: u16, buffer_bytes: u32) -> Option<Self> {
        let waker = Waker::new().unwrap();
        let io = R::io(buffers, buffer_bytes, waker.clone());
        if io.is_none() {
            eprintln!("skipped: this host cannot run it");
        }
        Some(Self {
            io: io?,
            waker,
            conns: Vec::new(),
            echo: false,
            hold: false,
            held: Vec::new(),
            woken: 0,
            ready: Vec::new(),
        })
    }

    fn open(&mut self) -> usize {
        let index = self.conns.len();
        self.conns.push(Conn {
            peer: None,
            received: Vec::new(),
            returned: Vec::new(),
            to_echo: VecDeque::new(),
            sending: false,
            eof: false,
            failed: None,
            sent: Vec::new(),
            closed: true,
        });
        self.reopen(index);
        index
    }

    fn reopen(&mut self, index: usize) {
        let (socket, peer) = R::pair();
        let conn = &mut self.conns[index];
        assert!(conn.closed);
        (conn.peer, conn.closed, conn.eof) = (Some(peer), false, false);
        conn.received.clear();
        self.io.open(key(index), socket).unwrap();
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        self.conns[index].sending = true;
        self.io.send(key(index), filled(bytes));
    }

    fn peer(&mut self, index: usize) -> &mut R::Peer {
        self.conns[index].peer.as_mut().unwrap()
    }

    /// One turn; how many things happened.
    fn step(&mut self, wait: Wait) -> usize {
        self.io.turn(wait).unwrap();
        let mut happened = 0;
        while let Some(completion) = self.io.next() {
            happened += 1;
            self.note(completion);
        }
        happened
    }

    fn note(&mut self, completion: Completion) {
        match completion {
            Completion::Received { key, buf } => {
                let conn = &mut self.conns[key.0 as usize];
                assert!(!conn.closed && !conn.eof && buf.len > 0);
                let bytes = self.io.bytes(&buf);
                if self.echo {
                    conn.to_echo.extend(bytes);
                }
                conn.received.extend_from_slice(bytes);
                if self.hold {
                    self.held.push(buf)
                } else {
                    self.io.recycle(buf)
                }
                self.echo_more(key);
            }
            Completion::Eof { key } => {
                let conn = &mut self.conns[key.0 as usize];
                assert!(!conn.closed && !conn.eof);
                conn.eof = true;
            }
            Completion::RecvFailed { key, error } => self.conns[key.0 as usize].failed = Some(error),
            Completion::Sent { key, buf, result } => {
                let conn = &mut self.conns[key.0 as usize];
                assert!(!conn.closed && conn.sending);
                assert_eq!(result.is_ok(), buf.pending().is_empty());
                conn.sending = false;
                conn.sent.push((buf.pending().len(), result));
                self.echo_more(key);
            }
            Completion::Closed { key } => {
                let conn = &mut self.conns[key.0 as usize];
                assert!(!conn.closed && !conn.sending);
                conn.closed = true;
            }
            Completion::Ready { watch } => self.ready.push(watch),
            Completion::Woken => self.woken += 1,
        }
    }

    fn echo_more(&mut self, key: ConnKey) {
        let conn = &mut self.conns[key.0 as usize];
        if !conn.sending && !conn.to_echo.is_empty() {
            conn.sending = true;
            let bytes: Vec<u8> = conn.to_echo.drain(..).collect();
            self.io.send(key, filled(&bytes));
        }
    }

    /// Turns until `done`, ten seconds at most.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(self) {
            assert!(Instant::now() < deadline, "never happened: {what}");
            self.step(Wait::For(Duration::from_millis(2)));
        }
    }

    /// The peer of `index` reads what there is; what it found last.
    fn read(&mut self, index: usize, max: usize) -> Found {
        let conn = &mut self.conns[index];
        let (peer, into) = (conn.peer.as_mut().unwrap(), &mut conn.returned);
        loop {
            match peer.read(into, max) {
                Found::Bytes if max == usize::MAX => {}
                found => return found,
            }
        }
    }
}

fn key(index: usize) -> ConnKey {
    ConnKey(u32::try_from(index).unwrap())
}

fn filled(bytes: &[u8]) -> SendBuf {
    let mut buf = SendBuf::with_capacity(bytes.len());
    buf.storage_mut().copy_from_slice(bytes);
    buf.set_end(bytes.len());
    buf
}

/// Bytes that tell where they belong: a lost, doubled or swapped piece shows.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
    }
    bytes.truncate(len);
    bytes
}

fn echo_of_many_sizes_over_many_sockets<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(16, 8192) else { return };
    h.echo = true;
    let sizes = [1, 2, 100, 4095, 4096, 8191, 8192, 8193, 65_535, 65_536, 200_000, 1_000_000];
    let texts: Vec<_> = (0..40).map(|index| pattern(index, sizes[index % sizes.len()])).collect();
    let mut written = vec![0; texts.len()];
    for _ in &texts {
        h.open();
    }
    h.until("all echoed", |h| {
        let mut done = true;
        for (index, text) in texts.iter().enumerate() {
            let rest = &text[written[index]..];
            if !rest.is_empty() {
                written[index] += h.peer(index).write(rest);
            }
            h.read(index, usize::MAX);
            done &= h.conns[index].returned.len() >= text.len();
        }
        done
    });
    for (index, text) in texts.iter().enumerate() {
        assert!(h.conns[index].returned == *text, "socket {index}");
        assert!(h.conns[index].sent.iter().all(|(_, result)| result.is_ok()));
    }
}

fn slow_reader_gets_everything_in_one_send<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    let index = h.open();
    let text = pattern(1, 6_000_000);
    h.send(index, &text);
    for _ in 0..5 {
        h.step(Wait::For(Duration::from_millis(1)));
    }
    assert!(h.conns[index].sent.is_empty(), "more than the kernel buffers");
    h.until("all read", |h| {
        h.read(index, 30_000);
        h.conns[index].returned.len() == text.len()
    });
    h.until("told once", |h| h.conns[index].sent == [(0, Ok(()))]);
    assert!(h.conns[index].returned == text);
}

fn an_empty_send_is_done_at_once<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    let index = h.open();
    h.send(index, &[]);
    h.until("sent", |h| h.conns[index].sent == [(0, Ok(()))]);
}

fn close_while_sending_answers_the_send_first<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    let index = h.open();
    h.send(index, &pattern(1, 8_000_000));
    h.step(Wait::For(Duration::from_millis(5)));
    h.io.close(key(index), CloseHow::Abort);
    h.until("closed", |h| h.conns[index].closed);
    let (left, result) = h.conns[index].sent[0];
    assert!(left > 0);
    assert_eq!(result, Err(io::ErrorKind::ConnectionAborted));
    if R::RESETS {
        h.until("peer is reset", |h| h.read(index, usize::MAX) == Found::Reset);
    }
}

/// The send was not even handed over.
fn close_in_the_same_turn_as_the_send<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    let index = h.open();
    h.send(index, &pattern(1, 8_000_000));
    h.io.close(key(index), CloseHow::Abort);
    h.io.close(key(index), CloseHow::Abort);
    h.until("closed", |h| h.conns[index].closed);
    assert_eq!(h.conns[index].sent.len(), 1);
}

fn close_while_receiving_loses_no_buffer<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    for round in 0..20 {
        let index = h.open();
        h.peer(index).write(&pattern(round, 30_000));
        if round % 2 == 0 {
            h.step(Wait::Poll);
        }
        h.peer(index).write(&pattern(round, 30_000));
        h.io.close(key(index), if round % 3 == 0 { CloseHow::Orderly } else { CloseHow::Abort });
        h.until("closed", |h| h.conns[index].closed);
    }
    // All four buffers are there: held, they take four pieces.
    h.hold = true;
    for _ in 0..4 {
        let index = h.open();
        h.peer(index).write(&[1]);
    }
    h.until("four buffers lent", |h| h.held.len() == 4);
}

fn orderly_close_delivers_what_was_sent<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    let index = h.open();
    let text = pattern(3, 50_000);
    h.send(index, &text);
    h.until("sent", |h| !h.conns[index].sent.is_empty());
    h.io.close(key(index), CloseHow::Orderly);
    h.until("closed", |h| h.conns[index].closed);
    h.until("peer sees the end", |h| h.read(index, usize::MAX) == Found::Eof);
    assert!(h.conns[index].returned == text);
}

fn shutdown_waits_for_the_send_and_leaves_receiving<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    let index = h.open();
    let text = pattern(4, 3_000_000);
    h.send(index, &text);
    h.io.shutdown_write(key(index));
    h.until("peer sees the end", |h| h.read(index, usize::MAX) == Found::Eof);
    assert!(h.conns[index].returned == text);
    h.peer(index).write(b"still here");
    h.until("received", |h| h.conns[index].received == b"still here");
    h.until("sent", |h| h.conns[index].sent == [(0, Ok(()))]);
    h.send(index, b"too late");
    h.until("refused", |h| h.conns[index].sent.len() == 2);
    assert_eq!(h.conns[index].sent[1], (8, Err(io::ErrorKind::BrokenPipe)));
}

fn peer_reset_is_told<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    if !R::RESETS {
        return;
    }
    let index = h.open();
    h.step(Wait::Poll);
    h.conns[index].peer.take().unwrap().reset();
    h.until("told", |h| h.conns[index].failed == Some(io::ErrorKind::ConnectionReset));
    h.send(index, b"in vain");
    h.until("refused", |h| h.conns[index].sent.iter().any(|(left, result)| *left == 7 && result.is_err()));
    h.io.close(key(index), CloseHow::Abort);
    h.until("closed", |h| h.conns[index].closed);
    assert!(!h.conns[index].eof);
}

fn peer_half_close_leaves_sending<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    let index = h.open();
    let text = pattern(5, 10_000);
    assert_eq!(h.peer(index).write(&text), text.len());
    h.peer(index).finish();
    h.until("end seen", |h| h.conns[index].eof);
    assert!(h.conns[index].received == text);
    h.send(index, &text);
    h.until("peer gets it", |h| {
        h.read(index, usize::MAX);
        h.conns[index].returned == text
    });
    h.io.close(key(index), CloseHow::Orderly);
    h.until("closed", |h| h.conns[index].closed);
}

fn a_key_serves_one_socket_after_another<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    let index = h.open();
    for round in 0..200 {
        let text = pattern(round, 100);
        h.peer(index).write(&text);
        if round % 2 == 0 {
            h.until("received", |h| h.conns[index].received == text);
        }
        h.send(index, &text);
        h.io.close(key(index), CloseHow::Abort);
        h.until("closed", |h| h.conns[index].closed);
        h.reopen(index);
    }
    h.peer(index).write(b"the last");
    h.until("received", |h| h.conns[index].received == b"the last");
}

fn five_hundred_sockets_share_four_buffers<R: Rig>() {
    super::limits::raise_open_files().unwrap();
    let Some(mut h) = Harness::<R>::new(4, 2048) else { return };
    for _ in 0..500 {
        h.open();
    }
    for round in 0..3 {
        for index in 0..500 {
            assert_eq!(h.peer(index).write(&pattern(index + round, 3000)), 3000);
        }
        h.until("all received", |h| h.conns.iter().all(|conn| conn.received.len() == 3000));
        for (index, conn) in h.conns.iter_mut().enumerate() {
            assert!(conn.received == pattern(index + round, 3000));
            conn.received.clear();
        }
    }
}

fn a_kept_buffer_stops_only_itself<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(2, 1024) else { return };
    for _ in 0..10 {
        h.open();
    }
    h.hold = true;
    h.peer(0).write(b"forgotten");
    h.until("lent", |h| h.held.len() == 1);
    h.hold = false;
    for index in 1..10 {
        h.peer(index).write(&pattern(index, 5000));
    }
    h.until("others go on", |h| h.conns[1..].iter().all(|conn| conn.received.len() == 5000));
}

fn with_all_buffers_lent_receiving_waits_and_sending_goes_on<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(2, 1024) else { return };
    for _ in 0..4 {
        h.open();
    }
    h.hold = true;
    for index in 0..4 {
        h.peer(index).write(&pattern(index, 4000));
    }
    h.until("all lent", |h| h.held.len() == 2);
    if R::WAITS {
        h.step(Wait::Poll);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {
            h.step(Wait::For(Duration::from_millis(50)));
        }
    }
    assert_eq!(h.held.len(), 2);
    h.send(3, b"goes on");
    h.until("peer gets it", |h| {
        h.read(3, usize::MAX);
        h.conns[3].returned == b"goes on"
    });
    h.hold = false;
    for buf in std::mem::take(&mut h.held) {
        h.io.recycle(buf);
    }
    h.until("all received", |h| h.conns.iter().all(|conn| conn.received.len() == 4000));
    for (index, conn) in h.conns.iter().enumerate() {
        assert!(conn.received == pattern(index, 4000));
    }
}

fn a_wake_from_another_thread_ends_the_sleep<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    if !R::WAITS {
        h.waker.wake();
        h.waker.wake();
        h.step(Wait::Poll);
        assert_eq!(h.woken, 1);
        return;
    }
    for round in 1..=3 {
        let waker = h.waker.clone();
        let ringer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            for _ in 0..5 {
                waker.wake();
            }
        });
        while h.woken == 0 {
            h.step(Wait::Forever);
        }
        ringer.join().unwrap();
        // The rest of the burst, then quiet.
        h.step(Wait::For(Duration::from_millis(20)));
        h.step(Wait::Poll);
        assert!((1..=5).contains(&h.woken), "round {round}: {}", h.woken);
        h.woken = 0;
        h.step(Wait::For(Duration::from_millis(5)));
        assert_eq!(h.woken, 0, "round {round}");
    }
    // Rung while awake: the next sleep ends at once.
    h.waker.wake();
    h.step(Wait::Forever);
    assert_eq!(h.woken, 1);
}

fn it_is_quiet_when_everything_was_told<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    let index = h.open();
    h.step(Wait::Poll);
    assert!(h.io.is_quiet());
    for what in ["bytes", "bell", "both"] {
        if what != "bell" {
            h.peer(index).write(b"there");
        }
        if what != "bytes" {
            h.waker.wake();
        }
        assert!(h.io.is_quiet(), "nothing happens between two turns");
        let deadline = Instant::now() + Duration::from_secs(10);
        while h.io.is_quiet() {
            assert!(Instant::now() < deadline, "never told: {what}");
            h.io.turn(Wait::Poll).unwrap();
        }
        // Would not end if it waited.
        h.io.turn(Wait::Forever).unwrap();
        assert!(!h.io.is_quiet(), "{what}");
        h.until(what, |h| {
            let told = (h.conns[index].received == b"there", h.woken == 1);
            told == (what != "bell", what != "bytes")
        });
        assert!(h.io.is_quiet(), "{what}");
        h.conns[index].received.clear();
        h.woken = 0;
    }
}

fn a_watched_device_is_told_when_readable<R: Rig>() {
    if !R::WAITS {
        return;
    }
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    for round in 0..3 {
        let (mut far, mut near) = UnixStream::pair().unwrap();
        h.io.watch(2, near.try_clone().unwrap().into()).unwrap();
        h.step(Wait::For(Duration::from_millis(5)));
        assert!(std::mem::take(&mut h.ready).is_empty(), "round {round}: nothing there");
        for _ in 0..3 {
            far.write_all(b"frame").unwrap();
            h.step(Wait::For(Duration::from_secs(2)));
            let told = std::mem::take(&mut h.ready);
            assert!(!told.is_empty() && told.iter().all(|watch| *watch == 2), "round {round}: {told:?}");
            near.read_exact(&mut [0; 5]).unwrap();
        }
        // What follows takes its place: this one is no longer looked at.
        h.io.watch(2, UnixStream::pair().unwrap().0.into()).unwrap();
        h.step(Wait::For(Duration::from_millis(5)));
        h.ready.clear();
        far.write_all(b"unheard").unwrap();
        h.step(Wait::For(Duration::from_millis(5)));
        assert!(h.ready.is_empty(), "round {round}: no longer watched");
    }
}

fn a_turn_waits_as_long_as_allowed<R: Rig>() {
    if !R::WAITS {
        return;
    }
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    let index = h.open();
    // What opening brings about is over.
    for _ in 0..3 {
        h.step(Wait::For(Duration::from_millis(1)));
    }
    for micros in [0, 300, 1500, 20_000] {
        let span = Duration::from_micros(micros);
        let start = Instant::now();
        assert_eq!(h.step(Wait::For(span)), 0);
        let waited = start.elapsed();
        assert!(waited >= span && waited < span + Duration::from_secs(2), "{span:?} took {waited:?}");
    }
    let start = Instant::now();
    assert_eq!(h.step(Wait::Poll), 0);
    assert!(start.elapsed() < Duration::from_secs(1));
    h.peer(index).write(b"x");
    h.until("received", |h| !h.conns[index].received.is_empty());
}

fn dropping_the_back_end_in_the_middle_is_sound<R: Rig>() {
    let Some(mut h) = Harness::<R>::new(4, 4096) else { return };
    for index in 0..10 {
        h.open();
        h.peer(index).write(&pattern(index, 20_000));
        h.send(index, &pattern(index, 5_000_000));
    }
    h.hold = true;
    h.step(Wait::For(Duration::from_millis(5)));
    // Asked for but not handed over.
    h.open();
    h.send(10, b"never handed over");
    let start = Instant::now();
    drop(h);
    assert!(start.elapsed() < Duration::from_secs(1), "nothing had to be given up");
}

macro_rules! conformance {
    ($($module:ident: $rig:ident),+) => { $(
        mod $module {
            use crate::sys::conformance::rigs::$rig;

            conformance! { @tests $rig:
                echo_of_many_sizes_over_many_sockets, slow_reader_gets_everything_in_one_send,
                an_empty_send_is_done_at_once, close_while_sending_answers_the_send_first,
                close_in_the_same_turn_as_the_send, close_while_receiving_loses_no_buffer,
                orderly_close_delivers_what_was_sent, shutdown_waits_for_the_send_and_leaves_receiving,
                peer_reset_is_told, peer_half_close_leaves_sending, a_key_serves_one_socket_after_another,
                five_hundred_sockets_share_four_buffers, a_kept_buffer_stops_only_itself,
                with_all_buffers_lent_receiving_waits_and_sending_goes_on,
                a_wake_from_another_thread_ends_the_sleep, it_is_quiet_when_everything_was_told,
                a_watched_device_is_told_when_readable, a_turn_waits_as_long_as_allowed,
                dropping_the_back_end_in_the_middle_is_sound
            }
        }
    )+ };
    (@tests $rig:ident: $($test:ident),+) => { $(
        #[test]
        fn $test() {
            super::$test::<$rig>();
        }
    )+ };
}

conformance! {
    uring_tcp: UringTcp, uring_old: UringOld, uring_tiny: UringTiny, uring_tiny_deferred: UringTinyDeferred,
    epoll_tcp: EpollTcp, epoll_unix: EpollUnix, memory: Memory
}
