//! Frames from worker to worker: a full mesh of byte rings, and a doorbell per worker.
//!
//! Each pair of workers has a ring for each direction, with one writer and one reader. A message is
//! its length, four words of the caller's choice and a frame. It goes in whole or not at all; a full
//! ring is the receiver's overload, and the caller counts the drop.
//!
//! What was pushed in a turn is announced by [`Outbox::flush`] at its end, once per receiver; only a
//! receiver that sleeps is rung, because that costs it about 24 µs ([`Doorbell`]).
#![forbid(unsafe_code)]

use std::sync::Arc;

use crossbeam::utils::CachePadded;
use rtrb::chunks::ReadChunk;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::ids::PortId;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::wire::ethernet::FRAME_BYTES_MAX;

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
            mailboxes[from].outbox.rings[to] = Some(producer);
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
            rings: (0..workers).map(|_| None).collect(),
            unannounced: 0,
            doorbells: Arc::clone(doorbells),
        };
        let inbox = Inbox {
            me,
            rings: (0..workers).map(|_| None).collect(),
            mail: 0,
            at: 0,
            taken: 0,
            scratch: Box::new([0; FRAME_BYTES_MAX]),
            doorbells: Arc::clone(doorbells),
        };
        Self { outbox, inbox }
    }
}

/// A worker's sending side.
pub struct Outbox {
    me: usize,
    /// By receiver.
    rings: Vec<Option<Producer<u8>>>,
    /// Bit per receiver: has messages that it was not told of.
    unannounced: u64,
    doorbells: Arc<[CachePadded<Doorbell>]>,
}

impl Outbox {
    /// How many workers there are, this one included.
    pub fn workers(&self) -> usize {
        self.rings.len()
    }

    /// Puts a message into the ring to worker `to`; `false` if it does not fit. The receiver may see it
    /// only after [`Self::flush`].
    ///
    /// # Panics
    /// If `to` is the worker itself or no worker, or `frame` is longer than [`FRAME_BYTES_MAX`].
    #[inline]
    pub fn push(&mut self, to: usize, header: &Header, frame: &[u8]) -> bool {
        assert!(frame.len() <= FRAME_BYTES_MAX, "a frame longer than the tunnel carries");
        let ring = self.rings[to].as_mut().expect("a worker writes to itself without a mailbox");
        if ring.slots() < HEAD_BYTES + frame.len() {
            return false;
        }
        // Two steps that the reader may see half done; it leaves an incomplete message where it is.
        let fits = ring.push_entire_slice(&pack_head(frame.len(), header)).is_ok()
            && ring.push_entire_slice(frame).is_ok();
        debug_assert!(fits, "only the writer takes room");
        self.unannounced |= 1 << to;
        true
    }

    /// Tells the receivers of what was pushed since the last flush; `ring` wakes a worker that sleeps.
    /// To be called at the end of each turn.
    #[inline]
    pub fn flush(&mut self, mut ring: impl FnMut(usize)) {
        for to in bits(std::mem::take(&mut self.unannounced)) {
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
    scratch: Box<[u8; FRAME_BYTES_MAX]>,
    doorbells: Arc<[CachePadded<Doorbell>]>,
}

impl Inbox {
    /// The next message; `None` if there is none. Senders take turns. Its room is free for the sender when
    /// the message is dropped.
    #[inline]
    pub fn receive(&mut self) -> Option<Message<'_>> {
        self.mail |= self.doorbells[self.me].take();
        let len = self.find_message()?;
        let from = self.at;
        self.taken += 1;
        let ring = self.rings[from].as_mut().expect("only rings that exist are found");
        let chunk = ring.read_chunk(HEAD_BYTES + len).expect("found complete");
        let (head, frame) = locate(&chunk, len, &mut self.scratch);
        let frame = match frame {
            Place::First => Frame::InRing,
            Place::Second(start) => Frame::InSecond(start),
            Place::Scratch => Frame::Copied(&self.scratch[..len]),
        };
        Some(Message { from, header: unpack_head(&head).1, chunk: Some(chunk), frame })
    }

    /// Finds the sender whose message is next and leaves its number in `at`; the length of its frame.
    fn find_message(&mut self) -> Option<usize> {
        if self.taken >= MESSAGES_IN_A_ROW {
            self.at += 1;
            self.taken = 0;
        }
        while self.mail != 0 {
            let ahead = self.mail.checked_shr(u32::try_from(self.at).unwrap_or(u64::BITS)).unwrap_or(0);
            if ahead == 0 {
                self.at = 0;
                continue;
            }
            self.at += ahead.trailing_zeros() as usize;
            if let Some(len) = self.rings[self.at].as_mut().and_then(complete_message) {
                return Some(len);
            }
            self.mail &= !(1 << self.at);
            self.taken = 0;
        }
        None
    }

    /// Says that the worker will sleep unless this returns `false`: there is mail. To be called right
    /// before a turn that may wait; the first [`Self::receive`] afterwards ends the sleep.
    pub fn fall_asleep(&mut self) -> bool {
        self.mail == 0 && self.doorbells[self.me].fall_asleep()
    }
}

/// A message, lent by the ring it came in.
pub struct Message<'a> {
    from: usize,
    header: Header,
    chunk: Option<ReadChunk<'a, u8>>,
    frame: Frame<'a>,
}
