//! Whole turns of a worker: from the bytes that its back end lends to the buffer that it is given for sending.

use std::hint::black_box;

use hublane::wire::ethernet::Mac;
use hublane::wire::super_frame::SuperFrame;
use hublane::worker::io::Wait;

use super::Piece;
use super::common::enclosed::{Enclosed, Enclosure};
use super::common::{Bench, Login, Member};
use super::fixture::{BROADCAST, RECORD_PLAIN_MAX, batch, frame, frames_per_record, station};

/// Where work does not count.
pub(crate) struct Uncounted;

impl Enclosure for Uncounted {
    #[inline(always)]
    fn enclose<R>(work: impl FnOnce() -> R) -> R {
        aside(work)
    }
}

/// Callgrind counts nothing in here: `--toggle-collect` once more.
#[inline(never)]
fn aside<R>(work: impl FnOnce() -> R) -> R {
    // The result is looked at so that nothing of `work` moves behind the call.
    black_box(work())
}

/// One worker with members, all of whom the hub knows.
struct Hall {
    bench: Bench<Enclosed<Uncounted>>,
    sender: Member,
    receivers: Vec<Member>,
}

const SENDER: u32 = 100;

impl Hall {
    /// With receivers of the stations from 0 on.
    fn new(receivers: u32) -> Self {
        Self::with(receivers, &Login::default())
    }

    fn with(receivers: u32, login: &Login) -> Self {
        let mut bench = Bench::with(1, Enclosed::new);
        let sender = bench.member_with(u64::from(SENDER), 0, login);
        let receivers = (0..receivers).map(|number| bench.member_with(u64::from(number), 0, login)).collect();
        let mut hall = Self { bench, sender, receivers };
        hall.sender.send(&frame(BROADCAST, station(SENDER), 64));
        hall.bench.turn();
        hall.received();
        for number in 0..hall.receivers.len() {
            let address = station(u32::try_from(number).unwrap());
            hall.receivers[number].send(&frame(BROADCAST, address, 64));
            hall.bench.turn();
            hall.received();
        }
        hall.sender.received();
        hall
    }

    /// `count` frames of `bytes` to `dst`, in records that are as full as the frames allow.
    fn send(&mut self, dst: Mac, bytes: usize, mut count: usize) {
        let frame = frame(dst, station(SENDER), bytes);
        while count > 0 {
            let now = count.min(frames_per_record(bytes));
            self.sender.send_stream(&batch(&frame, now), RECORD_PLAIN_MAX);
            count -= now;
        }
    }

    /// A turn that takes the frames in, and one in which what was sent comes back.
    fn turn(&mut self) {
        let now = self.bench.now;
        for _ in 0..2 {
            self.bench.workers[0].turn(Wait::Poll, || now).unwrap();
        }
    }

    /// Frames that the receivers got.
    fn received(&mut self) -> u64 {
        self.receivers.iter_mut().map(|receiver| receiver.received().len() as u64).sum()
    }
}

/// Frames from one member to another.
pub(crate) struct Switch {
    hall: Hall,
    frame_bytes: usize,
    frames: usize,
}

impl Switch {
    pub(crate) fn new(frame_bytes: usize, frames: usize) -> Self {
        Self { hall: Hall::new(1), frame_bytes, frames }
    }
}

impl Piece for Switch {
    fn prepare(&mut self) {
        self.hall.send(station(0), self.frame_bytes, self.frames);
    }

    fn run(&mut self) {
        self.hall.turn();
    }

    fn done(&mut self) -> u64 {
        self.hall.received()
    }
}

/// Super-frames from one member to another, who has agreed to them, too.
pub(crate) struct SwitchSuper {
    hall: Hall,
    /// A packet of TCP, unfinished as a host leaves it.
    packet: Vec<u8>,
    count: usize,
}

impl SwitchSuper {
    const SEGMENT_BYTES: u16 = 1_300;

    /// Of `segments` segments. Three are the most before copies become `rep movsb`, of which callgrind counts each byte.
    pub(crate) fn new(segments: usize, count: usize) -> Self {
        let payload = segments * usize::from(Self::SEGMENT_BYTES);
        let login = Login { supers: true, ..Login::default() };
        let ip_bytes = u16::try_from(40 + payload).unwrap().to_be_bytes();
        let mut packet = frame(station(0), station(SENDER), 64);
        packet.truncate(12);
        packet.extend([8, 0, 0x45, 0, ip_bytes[0], ip_bytes[1], 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
        packet.resize(packet.len() + payload, 0xa5);
        Self { hall: Hall::with(1, &login), packet, count }
    }
}

impl Piece for SwitchSuper {
    fn prepare(&mut self) {
        let whole = SuperFrame::new_checked(&self.packet, Self::SEGMENT_BYTES).unwrap();
        for _ in 0..self.count {
            self.hall.sender.send_super(&whole);
        }
    }

    fn run(&mut self) {
        self.hall.turn();
    }

    fn done(&mut self) -> u64 {
        let cut = self.hall.received();
        assert_eq!(cut, 0, "they cross whole");
        self.hall.receivers[0].supers().len() as u64
    }
}

/// Frames from one member to all others.
pub(crate) struct Flood {
    hall: Hall,
    frame_bytes: usize,
    frames: usize,
}

impl Flood {
    pub(crate) fn new(frame_bytes: usize, receivers: u32, frames: usize) -> Self {
        Self { hall: Hall::new(receivers), frame_bytes, frames }
    }
}

impl Piece for Flood {
    fn prepare(&mut self) {
        self.hall.send(BROADCAST, self.frame_bytes, self.frames);
    }

    fn run(&mut self) {
        self.hall.turn();
    }

    fn done(&mut self) -> u64 {
        self.hall.received()
    }
}
