//! Frames on their way through a worker allocate nothing.
//!
//! Measured are whole turns of all workers: everything from the bytes that the back end lends to the buffer that it
//! is given for sending, the mailboxes between workers included. Not measured is what the back end in memory does
//! itself, nor timers, which run twice a second, nor logins. Each path runs for a while first, until tables and
//! pools have the size that the traffic needs.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use allocation_counter::{measure, opt_out};
use common::enclosed::{Enclosed, Enclosure};
use common::packets::{Segment, datagram};
use common::way_out::{EXTERNAL, SERVER, Setup, Station, WayOut, card};
use common::{Bench, Login, Member, broadcast, frame};
use hublane::tls::aead::AeadBackend;
use hublane::tls::keys::Suite;
use hublane::wire::offload::{L4Checksum, Offload};
use hublane::wire::tcp::{FLAG_ACK, FLAG_SYN};

/// Where allocations do not count.
struct Uncounted;

impl Enclosure for Uncounted {
    fn enclose<R>(work: impl FnOnce() -> R) -> R {
        let mut done = None;
        opt_out(|| done = Some(work()));
        done.unwrap()
    }
}

/// Members A, B and C; A on the last worker, the others on the first.
struct Path {
    bench: Bench<Enclosed<Uncounted>>,
    a: Member,
    b: Member,
    c: Member,
}

/// A member with a TCP connection and a UDP mapping to the Internet. With two workers he is on the second one, and his
/// address and the gateway belong to the first.
struct Internet {
    way: WayOut<Enclosed<Uncounted>>,
    a: Station,
    /// As whom the server sees connection and mapping.
    outside: [SocketAddrV4; 2],
    round: u32,
}

impl Internet {
    fn new(workers: usize) -> Self {
        let reserved = vec![(card(1), Ipv4Addr::new(100, 64, 3, 2))];
        let mut way = WayOut::with(Setup { reserved, ..Setup::new(workers) }, Enclosed::new);
        let mut a = way.booted(1, workers - 1);
        a.send(&Segment { flags: FLAG_SYN, ..Segment::default() }.packet(a.at(6000), SERVER));
        let tcp = way.one_sent().1.from;
        let answer = Segment { flags: FLAG_SYN | FLAG_ACK, ..Segment::default() }.packet(SERVER, tcp);
        way.arrive(0, &answer, Offload::NONE);
        a.send(&datagram(a.at(7000), SERVER, b""));
        let udp = way.one_sent().1.from;
        assert_eq!([*tcp.ip(), *udp.ip()], [EXTERNAL; 2]);
        a.packets();
        Self { way, a, outside: [tcp, udp], round: 0 }
    }

    /// The same as [`Path::allocations`], but time stands still, so that no timer comes in between; `traffic` brings
    /// `packets` to the member or, by `sent` messages, to the wire.
    fn allocations(mut self, sent: usize, packets: usize, mut traffic: impl FnMut(&mut Self)) -> u64 {
        let mut allocations = 0;
        for round in 0..2 * ROUNDS {
            self.round = round;
            traffic(&mut self);
            let measured = measure(|| self.way.bench.turn());
            let came = (self.way.frames().len(), self.a.packets().len());
            assert_eq!(came, (sent, packets), "round {round}");
            if round >= ROUNDS {
                allocations += measured.count_total;
            }
        }
        assert_eq!(self.way.drops(), []);
        allocations
    }

    /// Twenty segments of the connection, one behind the other, and some datagrams.
    fn upload(&mut self) {
        for n in 0..20 {
            let seq = (self.round * 20 + n) * 1448;
            let segment = Segment { seq, flags: FLAG_ACK, data: &[5; 1448], ..Segment::default() };
            self.a.send(&segment.packet(self.a.at(6000), SERVER));
        }
        for len in LENS.iter().filter(|len| **len <= 1400) {
            self.a.send(&datagram(self.a.at(7000), SERVER, &vec![7; *len]));
        }
    }

    /// A super-packet of twenty segments and some datagrams, half of them by the end of another worker.
    fn download(&mut self) {
        let seq = self.round * 20 * 1448;
        let segment = Segment { seq, flags: FLAG_ACK, data: &[5; 20 * 1448], ..Segment::default() };
        let wires = self.way.wires.len();
        let offload = Offload { checksum: L4Checksum::Partial, segment_bytes: 1448 };
        self.way.put(self.round as usize % wires, &segment.unfinished(SERVER, self.outside[0]), offload);
        for (n, len) in LENS.iter().filter(|len| **len <= 1400).enumerate() {
            self.way.put(n % wires, &datagram(SERVER, self.outside[1], &vec![7; *len]), Offload::NONE);
        }
    }
}

const ROUNDS: u32 = 60;

impl Path {
    fn new(workers: usize, login: &Login) -> Self {
        let mut bench = Bench::with(workers, Enclosed::new);
        let mut a = bench.member_with(1, workers - 1, login);
        let [mut b, mut c] = [2, 3].map(|number| bench.member_with(number, 0, login));
        for (member, src) in [(&mut a, 0xa), (&mut b, 0xb), (&mut c, 0xc)] {
            member.send(&broadcast(src));
        }
        bench.turn();
        for member in [&mut a, &mut b, &mut c] {
            member.received();
        }
        Self { bench, a, b, c }
    }

    /// Allocations of the workers' turns in rounds of `traffic`, which are measured after as many that are not.
    /// Asserts that each round brings B and C together `frames` frames.
    fn allocations(mut self, frames: usize, mut traffic: impl FnMut(&mut Self)) -> u64 {
        let mut allocations = 0;
        for round in 0..2 * ROUNDS {
            traffic(&mut self);
            let measured = measure(|| self.bench.turn());
            let received = self.b.received().len() + self.c.received().len();
            assert_eq!(received, frames, "round {round}");
            if round >= ROUNDS {
                allocations += measured.count_total;
            }
            self.bench.now = self.bench.now + Duration::from_millis(1);
        }
        allocations
    }
}

/// A sends B a frame of each of several lengths.
fn some_frames(path: &mut Path) {
    for len in LENS {
        path.a.send(&frame(0xb, 0xa, &vec![7; len]));
    }
}

const LENS: [usize; 6] = [0, 46, 46, 500, 1_500, 1_500];

#[test]
fn the_count_sees_allocations() {
    assert_eq!(measure(|| drop(std::hint::black_box(vec![1; 10]))).count_total, 1);
    assert_eq!(measure(|| Uncounted::enclose(|| drop(std::hint::black_box(vec![1; 10])))).count_total, 0);
    let logins = measure(|| drop(Path::new(1, &Login::default()))).count_total;
    assert!(logins > 100, "{logins}");
}

#[test]
fn from_member_to_member() {
    for suite in Suite::ALL {
        for backend in [AeadBackend::AwsLc, AeadBackend::RustCrypto] {
            let path = Path::new(1, &Login { suite, backend, ..Login::default() });
            assert_eq!(path.allocations(LENS.len(), some_frames), 0, "{suite:?} {backend:?}");
        }
    }
}

#[test]
fn over_the_mailbox() {
    let path = Path::new(2, &Login::default());
    assert_eq!(path.allocations(LENS.len(), some_frames), 0);
}

#[test]
fn compressed() {
    let path = Path::new(2, &Login { compress: true, ..Login::default() });
    assert_eq!(path.allocations(LENS.len(), some_frames), 0);
}

#[test]
fn flooded() {
    for workers in [1, 2] {
        let path = Path::new(workers, &Login::default());
        let allocations = path.allocations(2 * 5, |path| (0..5).for_each(|_| path.a.send(&broadcast(0xa))));
        assert_eq!(allocations, 0, "{workers} workers");
    }
}

#[test]
fn records_cut_between_reads() {
    let path = Path::new(1, &Login::default());
    let allocations = path.allocations(LENS.len(), |path| {
        path.a.peer.script_reads([3, 700]);
        some_frames(path);
    });
    assert_eq!(allocations, 0);
}

#[test]
fn by_way_of_the_queue() {
    let path = Path::new(1, &Login::default());
    let allocations = path.allocations(1 + LENS.len(), |path| {
        path.b.peer.set_window(0);
        path.a.send(&frame(0xb, 0xa, b"in flight"));
        path.bench.turn();
        some_frames(path);
        path.bench.turn();
        path.b.peer.set_window(usize::MAX);
    });
    assert_eq!(allocations, 0);
}

#[test]
fn dropped_because_the_queue_is_full() {
    let path = Path::new(1, &Login { queue_depth: 2, ..Login::default() });
    let allocations = path.allocations(0, |path| {
        path.b.peer.set_window(0);
        some_frames(path);
    });
    assert_eq!(allocations, 0);
}

/// Stock senders cut their stream into records wherever 16 KiB end.
#[test]
fn blocks_cut_between_records() {
    let path = Path::new(1, &Login::default());
    let allocations = path.allocations(5, |path| {
        let mut stream = Vec::new();
        for n in 0..5 {
            let frame = frame(0xb, 0xa, &[n; 1_400]);
            stream.extend(1u32.to_be_bytes());
            stream.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
            stream.extend(frame);
        }
        path.a.send_stream(&stream, 1_000);
    });
    assert_eq!(allocations, 0);
}

#[test]
fn to_the_internet() {
    for workers in [1, 2] {
        // The segments as one message.
        assert_eq!(Internet::new(workers).allocations(1 + 4, 0, Internet::upload), 0, "{workers} workers");
    }
}

#[test]
fn from_the_internet() {
    for workers in [1, 2] {
        assert_eq!(Internet::new(workers).allocations(0, 20 + 4, Internet::download), 0, "{workers} workers");
    }
}
