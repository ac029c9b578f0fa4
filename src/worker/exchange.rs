//! Frames from worker to worker: a full mesh of byte rings, and a doorbell per worker.
//!
//! Each pair of workers has a ring for each direction, with one writer and one reader. A message is
//! its length, four words of the caller's choice and a frame, or a super-frame. It goes in whole or not at all; a full
//! ring means that the receiver does not keep up, and the caller counts the drop.
//!
//! What is pushed in a turn is put together aside and goes into the ring by kilobytes: memory that two CPUs write
//! costs by the touch. [`Outbox::flush`] announces it at the end of the turn, once per receiver; only a receiver that
//! sleeps is rung, because that costs it about 24 µs ([`Doorbell`]).
#![forbid(unsafe_code)]

use std::sync::Arc;

use crossbeam::utils::CachePadded;
use rtrb::chunks::ReadChunk;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::ids::PortId;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::wire::super_frame::SUPER_BYTES_MAX;

/// What the caller says about a frame; opaque here.
pub type Header = [u64; 4];

/// The mailboxes of `workers` workers, in their order. Each of the `workers * (workers - 1)` rings holds
/// `bytes_per_ring`, at least one message of the greatest size.
///
/// # Panics
/// If there are more than [`PortId::WORKERS_MAX`] workers.
pub fn mesh(workers: usize, bytes_per_ring: usize) -> Vec<Mailbox> {
    assert!(workers <= PortId::WORKERS_MAX, "a doorbell has a bit for each of at most 63 workers");
    let doorbells: Arc<[_]> = (0..workers).map(|_| CachePadded::new(Doorbell::default())).collect();
    let mut mailboxes: Vec<_> = (0..workers).map(|me| Mailbox::empty(me, &doorbells)).collect();
    for from in 0..workers {
        for to in (0..workers).filter(|to| *to != from) {
            let (producer, consumer) = RingBuffer::new(bytes_per_ring.max(MESSAGE_BYTES_MAX));
            mailboxes[from].outbox.lanes[to] = Some(Lane { ring: producer, staged: Vec::new(), room: 0 });
            mailboxes[to].inbox.rings[from] = Some(consumer);
        }
    }
    mailboxes
}

/// One worker's ends of the mesh.
pub struct Mailbox {
    /// To the others.
    pub outbox: Outbox,
    /// From the others.
    pub inbox: Inbox,
}

impl Mailbox {
    fn empty(me: usize, doorbells: &Arc<[CachePadded<Doorbell>]>) -> Self {
        let workers = doorbells.len();
        let outbox = Outbox {
            me,
            lanes: (0..workers).map(|_| None).collect(),
            unannounced: 0,
            doorbells: Arc::clone(doorbells),
        };
        let inbox = Inbox {
            me,
            rings: (0..workers).map(|_| None).collect(),
            mail: 0,
            at: 0,
            taken: 0,
            scratch: vec![0; SUPER_BYTES_MAX].into_boxed_slice(),
            doorbells: Arc::clone(doorbells),
        };
        Self { outbox, inbox }
    }
}

/// A worker's sending side.
pub struct Outbox {
    me: usize,
    /// By receiver.
    lanes: Vec<Option<Lane>>,
    /// Bit per receiver: has messages that it was not told of.
    unannounced: u64,
    doorbells: Arc<[CachePadded<Doorbell>]>,
}

/// The way to one receiver.
struct Lane {
    ring: Producer<u8>,
    /// Whole messages that are not in the ring yet. Its memory comes with the first one.
    staged: Vec<u8>,
    /// Bytes that the ring had room for when it was last asked, less what went in since.
    room: usize,
}

impl Lane {
    /// `false` if the message does not fit into the ring.
    #[inline]
    fn push(&mut self, header: &Header, frame: &[u8]) -> bool {
        let bytes = HEAD_BYTES + frame.len();
        if self.room < self.staged.len() + bytes {
            self.room = self.ring.slots();
            if self.room < self.staged.len() + bytes {
                return false;
            }
        }
        if self.staged.len() + bytes > STAGED_BYTES_MAX {
            self.put();
            if bytes > STAGED_BYTES_MAX {
                self.put_long(header, frame);
                return true;
            }
        }
        if self.staged.capacity() == 0 {
            self.staged.reserve_exact(STAGED_BYTES_MAX);
        }
        self.staged.extend_from_slice(&pack_head(frame.len(), header));
        self.staged.extend_from_slice(frame);
        true
    }

    /// Moves a message into the ring that is too long to be put together with others.
    #[inline(never)]
    fn put_long(&mut self, header: &Header, frame: &[u8]) {
        let head = pack_head(frame.len(), header);
        let fits = self.ring.push_entire_slice(&head).and_then(|()| self.ring.push_entire_slice(frame)).is_ok();
        debug_assert!(fits, "only the writer takes room");
        self.room -= HEAD_BYTES + frame.len();
    }

    /// Moves what was put together into the ring.
    fn put(&mut self) {
        let fits = self.ring.push_entire_slice(&self.staged).is_ok();
        debug_assert!(fits, "only the writer takes room");
        self.room -= self.staged.len();
        self.staged.clear();
    }
}

impl Outbox {
    /// How many workers there are, this one included.
    pub fn workers(&self) -> usize {
        self.lanes.len()
    }

    /// Puts a message into the ring to worker `to`; `false` if it does not fit. The receiver may see it
    /// only after [`Self::flush`].
    ///
    /// # Panics
    /// If `to` is the worker itself or no worker, or `frame` is longer than [`SUPER_BYTES_MAX`].
    #[inline]
    pub fn push(&mut self, to: usize, header: &Header, frame: &[u8]) -> bool {
        assert!(frame.len() <= SUPER_BYTES_MAX, "a frame longer than the tunnel carries");
        let lane = self.lanes[to].as_mut().expect("a worker writes to itself without a mailbox");
        if !lane.push(header, frame) {
            return false;
        }
        self.unannounced |= 1 << to;
        true
    }

    /// Tells the receivers of what was pushed since the last flush; `ring` wakes a worker that sleeps.
    /// To be called at the end of each turn.
    #[inline]
    pub fn flush(&mut self, mut ring: impl FnMut(usize)) {
        for to in bits(std::mem::take(&mut self.unannounced)) {
            self.lanes[to].as_mut().expect("something was pushed").put();
            if self.doorbells[to].announce(self.me) {
                ring(to);
            }
        }
    }
}

/// A worker's receiving side.
pub struct Inbox {
    me: usize,
    /// By sender.
    rings: Vec<Option<Consumer<u8>>>,
    /// Bit per sender: its ring may have messages.
    mail: u64,
    /// The sender whose turn it is.
    at: usize,
    /// Messages taken from it in a row.
    taken: usize,
    /// A frame whose bytes wrap around the end of the ring, put together.
    scratch: Box<[u8]>,
    doorbells: Arc<[CachePadded<Doorbell>]>,
}

impl Inbox {
    /// The next message; `None` if there is none. Senders take turns. Its room is the sender's again
    /// when the message is dropped.
    #[inline]
    pub fn receive(&mut self) -> Option<Message<'_>> {
        if self.taken >= MESSAGES_IN_A_ROW {
            self.at += 1;
            self.taken = 0;
            self.mail |= self.doorbells[self.me].take();
        } else if self.mail == 0 {
            self.mail = self.doorbells[self.me].take();
        }
        let (header, len) = self.find_message()?;
        self.taken += 1;
        let ring = self.rings[self.at].as_mut().expect("only rings that exist are found");
        let chunk = ring.read_chunk(HEAD_BYTES + len).expect("found complete");
        let (first, second) = chunk.as_slices();
        if second.is_empty() {
            return Some(Message { from: self.at, header, chunk: Some(chunk), copied: &[] });
        }
        let copied = &mut self.scratch[..len];
        // The end of the ring may also lie in the head.
        let in_first = first.get(HEAD_BYTES..).unwrap_or_default();
        copied[..in_first.len()].copy_from_slice(in_first);
        copied[in_first.len()..].copy_from_slice(&second[second.len() - (len - in_first.len())..]);
        chunk.commit_all();
        Some(Message { from: self.at, header, chunk: None, copied })
    }

    /// Finds the sender whose message is next, leaves its number in `at` and returns the head of the
    /// message; all of the message is there.
    fn find_message(&mut self) -> Option<(Header, usize)> {
        while self.mail != 0 {
            let ahead = self.mail & (u64::MAX << self.at);
            self.at = if ahead == 0 { self.mail } else { ahead }.trailing_zeros() as usize;
            if let Some(found) = self.rings[self.at].as_mut().and_then(see_head) {
                return Some(found);
            }
            self.mail &= !(1 << self.at);
            self.taken = 0;
        }
        None
    }

    /// Says that the worker is about to sleep; `false` means that it must not: there is mail. To be
    /// called right before a turn that may wait; the next [`Self::receive`] ends the sleep.
    pub fn fall_asleep(&mut self) -> bool {
        self.mail == 0 && self.doorbells[self.me].fall_asleep()
    }
}

/// The head of the first message in `ring`, if there is one. Messages go in whole; of a long one the frame may not be
/// there yet, which counts as none: it is announced afterwards.
fn see_head(ring: &mut Consumer<u8>) -> Option<(Header, usize)> {
    let chunk = ring.read_chunk(HEAD_BYTES).ok()?;
    let (first, second) = chunk.as_slices();
    let (header, len) = match first.first_chunk() {
        Some(head) => unpack_head(head),
        None => {
            let mut head = [0; HEAD_BYTES];
            head[..first.len()].copy_from_slice(first);
            head[first.len()..].copy_from_slice(second);
            unpack_head(&head)
        }
    };
    let is_whole = HEAD_BYTES + len <= STAGED_BYTES_MAX || ring.slots() >= HEAD_BYTES + len;
    is_whole.then_some((header, len))
}

/// A message, lent by the ring it came in.
pub struct Message<'a> {
    from: usize,
    header: Header,
    /// Head and frame where they lie in the ring; `None` if it had to be put together.
    chunk: Option<ReadChunk<'a, u8>>,
    copied: &'a [u8],
}

impl Message<'_> {
    /// The worker that sent it.
    pub fn from(&self) -> usize {
        self.from
    }

    /// What the sender said about the frame.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The frame.
    pub fn frame(&self) -> &[u8] {
        match &self.chunk {
            Some(chunk) => &chunk.as_slices().0[HEAD_BYTES..],
            None => self.copied,
        }
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            chunk.commit_all();
        }
    }
}

fn pack_head(len: usize, header: &Header) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let (words, _) = head.as_chunks_mut::<8>();
    words[0] = (len as u64).to_ne_bytes();
    for (word, value) in words[1..].iter_mut().zip(header) {
        *word = value.to_ne_bytes();
    }
    head
}

fn unpack_head(head: &[u8; HEAD_BYTES]) -> (Header, usize) {
    let (words, _) = head.as_chunks::<8>();
    let word = |index: usize| u64::from_ne_bytes(words[index]);
    let len = usize::try_from(word(0)).expect("written from a usize");
    ([word(1), word(2), word(3), word(4)], len)
}

/// The numbers of the bits that are set in `mask`.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(bit)
    })
}

/// Who has mail for a worker and whether that worker sleeps, in one word: since every change is an
/// atomic step on the same word, either the sleeper sees the mail or the sender sees the sleeper.
///
/// Safe for any number of senders (below 63) and one receiver. A sleeper may be rung although it has
/// woken by itself meanwhile; it is never left asleep with mail.
#[derive(Debug, Default)]
pub struct Doorbell {
    /// Bit per sender: has announced mail that was not taken. Highest bit: the receiver sleeps.
    state: AtomicU64,
}

impl Doorbell {
    /// Sender `from` (below 63) has put mail where the receiver looks. `true`: the receiver sleeps, and
    /// this sender, no other, must wake it.
    #[inline]
    pub fn announce(&self, from: usize) -> bool {
        // Release: who takes the bit sees the mail.
        let before = self.state.fetch_or(1 << from, Ordering::AcqRel);
        // Of several senders who saw the sleeper, the one who ends its sleep rings.
        before & SLEEPING != 0 && self.state.fetch_and(!SLEEPING, Ordering::AcqRel) & SLEEPING != 0
    }

    /// Receiver: the senders with mail since the last call, a bit for each. Ends the sleep.
    #[inline]
    pub fn take(&self) -> u64 {
        // Mostly nothing has come, and a plain load does not take the line from the senders.
        if self.state.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.state.swap(0, Ordering::AcqRel) & !SLEEPING
    }

    /// Receiver: about to sleep. `false`: mail has come, so it must not.
    pub fn fall_asleep(&self) -> bool {
        self.state.compare_exchange(0, SLEEPING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

const SLEEPING: u64 = 1 << 63;
/// Length and header.
const HEAD_BYTES: usize = 40;
const MESSAGE_BYTES_MAX: usize = HEAD_BYTES + SUPER_BYTES_MAX;

/// Bytes put together before they go into the ring: several cache lines, and few enough to stay near. What is longer
/// goes in by itself.
const STAGED_BYTES_MAX: usize = 8 * 1024;
/// Enough to keep a ring's memory warm, few enough that no sender waits long for the others.
const MESSAGES_IN_A_ROW: usize = 32;

#[cfg(all(test, hublane_loom))]
mod loom_tests {
    use loom::sync::{Arc, Notify};
    use loom::thread;

    use super::*;

    /// Loom tries the interleavings; a lost wake-up leaves the receiver waiting, which loom reports.
    fn nobody_is_left_asleep(senders: usize, mails: u64) {
        // Three forced switches find the classic lost wake-up (look, put, announce nobody, sleep); all
        // of them would take hours for three threads.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let doorbell = Arc::new(Doorbell::default());
            let waker = Arc::new(Notify::new());
            let boxes: Arc<Vec<_>> = Arc::new((0..senders).map(|_| AtomicU64::new(0)).collect());
            let threads: Vec<_> = (0..senders)
                .map(|from| {
                    let (doorbell, waker, boxes) = (doorbell.clone(), waker.clone(), boxes.clone());
                    thread::spawn(move || {
                        for mail in 1..=mails {
                            boxes[from].store(mail, Ordering::Relaxed);
                            if doorbell.announce(from) {
                                waker.notify();
                            }
                        }
                    })
                })
                .collect();
            let mut seen = vec![0; senders];
            while seen.iter().any(|seen| *seen < mails) {
                let mail = doorbell.take();
                for from in bits(mail) {
                    let now = boxes[from].load(Ordering::Relaxed);
                    assert!(now > 0, "announced mail is visible");
                    seen[from] = now;
                }
                if mail == 0 && doorbell.fall_asleep() {
                    waker.wait();
                }
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }

    #[test]
    fn one_sender_twice() {
        nobody_is_left_asleep(1, 2);
    }

    #[test]
    fn two_senders() {
        nobody_is_left_asleep(2, 1);
    }
}

#[cfg(all(test, not(hublane_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(bytes_per_ring: usize) -> [Mailbox; 2] {
        mesh(2, bytes_per_ring).try_into().ok().expect("two were asked for")
    }

    fn frame(seed: u64, len: usize) -> Vec<u8> {
        (0..len).map(|index| (seed.wrapping_mul(31) + index as u64).to_le_bytes()[0]).collect()
    }

    proptest! {
        /// Any sequence of sizes, any rhythm of sending and receiving: what went in comes out, in order,
        /// and what did not fit left no trace.
        #[test]
        fn messages_come_out_as_they_went_in(
            steps in prop::collection::vec((prop_oneof![4 => 0..=1600usize, 1 => 0..=SUPER_BYTES_MAX], any::<bool>()), 1..200),
            spare in 0_usize..5000,
        ) {
            let [mut a, mut b] = pair(MESSAGE_BYTES_MAX + spare);
            let mut expected = std::collections::VecDeque::new();
            for (step, (len, drain)) in steps.into_iter().enumerate() {
                let header = [step as u64, u64::MAX, len as u64, 0];
                let frame = frame(step as u64, len);
                if a.outbox.push(1, &header, &frame) {
                    expected.push_back((header, frame));
                } else {
                    prop_assert!(!expected.is_empty(), "an empty ring takes any message");
                }
                if !drain {
                    continue;
                }
                a.outbox.flush(|_| {});
                while let Some(message) = b.inbox.receive() {
                    let (header, frame) = expected.pop_front().expect("no message without a push");
                    prop_assert_eq!(message.from(), 0);
                    prop_assert_eq!(message.header(), &header);
                    prop_assert_eq!(message.frame(), &frame[..]);
                }
                prop_assert!(expected.is_empty());
            }
        }
    }

    #[test]
    fn nothing_is_told_before_the_flush_and_only_sleepers_are_rung() {
        let [mut a, mut b] = pair(10_000);
        let mut rung = Vec::new();
        assert!(a.outbox.push(1, &[1; 4], b"one"));
        assert!(b.inbox.receive().is_none());
        a.outbox.flush(|to| rung.push(to));
        assert!(rung.is_empty(), "the receiver is awake");
        assert!(!b.inbox.fall_asleep(), "there is mail");
        assert_eq!(b.inbox.receive().unwrap().frame(), b"one");
        assert!(b.inbox.receive().is_none());

        assert!(b.inbox.fall_asleep());
        for _ in 0..3 {
            assert!(a.outbox.push(1, &[2; 4], b"two"));
        }
        a.outbox.flush(|to| rung.push(to));
        a.outbox.flush(|to| rung.push(to));
        assert_eq!(rung, [1], "once per batch");
        assert_eq!(std::iter::from_fn(|| b.inbox.receive().map(drop)).count(), 3);
    }

    #[test]
    fn sleeping_again_without_mail_needs_a_look_first() {
        let [mut a, mut b] = pair(10_000);
        assert!(b.inbox.fall_asleep());
        // Woken by something else.
        assert!(b.inbox.receive().is_none());
        assert!(b.inbox.fall_asleep());
        a.outbox.push(1, &[0; 4], b"x");
        let mut rings = 0;
        a.outbox.flush(|_| rings += 1);
        assert_eq!(rings, 1);
    }

    #[test]
    fn a_full_ring_refuses_and_room_comes_with_the_drop_of_a_message() {
        let [mut a, mut b] = pair(0);
        let longest = [7; SUPER_BYTES_MAX];
        assert!(a.outbox.push(1, &[0; 4], &longest));
        assert!(!a.outbox.push(1, &[0; 4], &[]));
        a.outbox.flush(|_| {});
        let message = b.inbox.receive().unwrap();
        assert_eq!(message.frame(), longest);
        assert!(!a.outbox.push(1, &[0; 4], &longest), "the frame is still lent");
        drop(message);
        assert!(a.outbox.push(1, &[0; 4], &longest));
    }

    #[test]
    fn senders_take_turns() {
        let mut mailboxes = mesh(3, 1 << 20);
        for from in [0, 2] {
            for _ in 0..100 {
                assert!(mailboxes[from].outbox.push(1, &[0; 4], &[0; 60]));
            }
            mailboxes[from].outbox.flush(|_| {});
        }
        let inbox = &mut mailboxes[1].inbox;
        let order: Vec<_> = std::iter::from_fn(|| inbox.receive().map(|message| message.from())).collect();
        assert_eq!(order.len(), 200);
        let runs: Vec<_> = order.chunk_by(|a, b| a == b).map(<[usize]>::len).collect();
        assert!(runs.len() >= 6 && runs.iter().all(|run| *run <= 36), "{runs:?}");
    }

    #[test]
    fn everybody_reaches_everybody() {
        let mut mailboxes = mesh(PortId::WORKERS_MAX, 0);
        for (from, mailbox) in mailboxes.iter_mut().enumerate() {
            for to in (0..PortId::WORKERS_MAX).filter(|to| *to != from) {
                assert!(mailbox.outbox.push(to, &[from as u64, to as u64, 0, 0], &[]));
            }
            mailbox.outbox.flush(|_| {});
        }
        for (to, mailbox) in mailboxes.iter_mut().enumerate() {
            let mut from = Vec::new();
            while let Some(message) = mailbox.inbox.receive() {
                assert_eq!(message.header()[..2], [message.from() as u64, to as u64]);
                from.push(message.from());
            }
            assert_eq!(from, (0..PortId::WORKERS_MAX).filter(|from| *from != to).collect::<Vec<_>>());
        }
    }

    #[test]
    fn threads_lose_nothing_between_sleep_and_mail() {
        const MESSAGES: u64 = 20_000;
        let [mut a, mut b] = pair(0);
        let (ring, bell) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            for number in 0..MESSAGES {
                while !a.outbox.push(1, &[number, 0, 0, 0], &frame(number, (number % 900) as usize)) {
                    a.outbox.flush(|_| ring.send(()).unwrap());
                    std::thread::yield_now();
                }
                if number % 7 == 0 {
                    a.outbox.flush(|_| ring.send(()).unwrap());
                }
            }
            a.outbox.flush(|_| ring.send(()).unwrap());
        });
        let mut expected = 0;
        while expected < MESSAGES {
            while let Some(message) = b.inbox.receive() {
                assert_eq!(message.header()[0], expected);
                assert_eq!(message.frame(), frame(expected, (expected % 900) as usize));
                expected += 1;
            }
            if expected < MESSAGES && b.inbox.fall_asleep() {
                bell.recv_timeout(std::time::Duration::from_secs(10)).expect("a lost wake-up");
            }
        }
        sender.join().unwrap();
    }
}
