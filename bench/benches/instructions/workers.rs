//! Whole turns of a worker: from the bytes that its back end lends to the buffer that it is given for sending.

use std::hint::black_box;

use hublane::wire::ethernet::Mac;
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
        let mut bench = Bench::with(1, Enclosed::new);
        let login = Login::default();
        let sender = bench.member_with(u64::from(SENDER), 0, &login);
        let receivers = (0..receivers).map(|number| bench.member_with(u64::from(number), 0, &login)).collect();
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
