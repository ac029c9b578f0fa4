//! One session's end of the tunnel, for either role: 1 to 32 connections that together carry frames.
//!
//! In:  ciphertext of a connection → records → blocks → frames   ([`Link::receive`])
//! Out: frame → choice of connection → queue or record under construction → sealed   ([`Link::push`], [`Link::flush`])
//! Time: keep-alives, silent connections, the session's own timeout   ([`Link::poll`])
//!
//! Does no I/O and knows no clock: the caller owns the sockets, calls [`Link::flush`] for every
//! connection it was told about and sends the buffer it gets. At most one buffer per connection is
//! in flight; what comes meanwhile waits as plaintext, where it can still be dropped or reordered.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::buffer::{SendBuf, SendPool};
use super::codec::Codec;
use super::conn::{CarryPool, Conn};
use super::egress::{BLOCK_BYTES_MAX, Outgoing, SuperBlock};
use super::fair::{Class, FairQueue, Scheduler};
use super::pace::Pace;
use super::parked::Parked;
use super::queue::{self, Band, Cell, FramePool};
use super::taker::Taker;
pub use super::taker::{FrameSink, check_frame};
use crate::ids::ConnKey;
use crate::metrics::closes::CloseReason;
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::tls::record::RECORD_BYTES_MAX;
use crate::wire::ethernet::FRAME_BYTES_MAX;
use crate::wire::flow::flow_hash;
use crate::wire::super_frame::{Part, SuperFrame, on_wire};

/// What the caller lends to its links for sending.
pub struct Pools {
    /// Frames that wait.
    pub frames: FramePool,
    /// Buffers for sealed records.
    pub sends: SendPool,
    deflater: Deflater,
}

/// Compression with a place for its result.
struct Deflater {
    codec: Codec,
    out: Box<[u8; BLOCK_BYTES_MAX]>,
}

impl Deflater {
    /// The block that carries `frame`. One whose compressed form would not fit goes as it is, and the peer
    /// drops it; [`BLOCK_BYTES_MAX`] has room for any that the tunnel carries.
    fn block<'a>(&'a mut self, frame: &'a [u8], compress: bool) -> &'a [u8] {
        if !compress {
            return frame;
        }
        match self.codec.deflate(frame, &mut self.out[..]) {
            Some(len) => &self.out[..len],
            None => frame,
        }
    }
}

impl Pools {
    /// Storage for `frames` waiting frames; the rest grows with use.
    pub fn new(frames: usize) -> Self {
        Self {
            frames: FramePool::new(frames),
            sends: SendPool::default(),
            deflater: Deflater { codec: Codec::new(), out: Box::new([0; BLOCK_BYTES_MAX]) },
        }
    }
}

/// What the caller lends to its links for receiving. Apart from [`Pools`], so that a frame can be pushed
/// to one link while it is still being lent by another.
pub struct Scratch {
    /// Plaintext of one record.
    arena: Box<[u8]>,
    carries: CarryPool,
    codec: Codec,
    inflated: Box<[u8; FRAME_BYTES_MAX]>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            arena: vec![0; RECORD_BYTES_MAX].into_boxed_slice(),
            carries: CarryPool::default(),
            codec: Codec::new(),
            inflated: Box::new([0; FRAME_BYTES_MAX]),
        }
    }
}

/// What was agreed at login, and local limits.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// A connection silent for this long is dead, a session silent on all of them is over; keep-alives are
    /// sent 2 to 5 times as often.
    pub timeout: Duration,
    /// Every frame is a zlib stream of its own.
    pub compress: bool,
    /// Super-frames cross whole ([`crate::wire::super_frame`]). Not together with `compress`.
    pub supers: bool,
    /// Of two connections or more the newest is for urgent frames alone (protocol note §5.6).
    pub qos: bool,
    /// Frames that may wait for this session, over all its connections.
    pub queue_depth: usize,
    /// Seed of the keep-alive jitter.
    pub seed: u64,
}

/// Which way a connection carries data, seen from this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// We may send data and keep-alives.
    pub send: bool,
    /// The peer may.
    pub receive: bool,
}

impl Way {
    /// Both ways.
    pub const BOTH: Way = Way { send: true, receive: true };
}

/// What became of a frame given to [`Link::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is in a record under construction. If it is the `first`, this connection must be flushed before
    /// the turn ends.
    Building {
        /// Whose record.
        key: ConnKey,
        /// Nothing was under construction before.
        first: bool,
    },
    /// It waits; it goes with a flush after the send in flight has ended.
    Waiting,
    /// It waits, in the place of others that waited before.
    Replacing {
        /// Why there was no room for all.
        reason: DropReason,
        /// How many frames were dropped.
        shed: u32,
    },
    /// It was dropped.
    Dropped(DropReason),
}

/// What [`Link::poll`] found due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Flush this connection.
    Flush(ConnKey),
    /// Close this connection.
    Close(ConnKey, CloseReason),
    /// Nothing was received on any connection for the session's timeout: end it.
    Expired,
}

/// Frames and bytes carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Frames from the peer.
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames put into records for the peer.
    pub frames_out: u64,
    /// Their bytes, compressed if the session compresses.
    pub bytes_out: u64,
    /// Frames for the peer that were dropped while they waited, or instead of waiting.
    pub dropped_out: u64,
}

/// One session's end of the tunnel.
pub struct Link<S = FairQueue> {
    conns: Vec<LinkConn<S>>,
    settings: LinkSettings,
    /// For a peer without connections.
    parked: Parked,
    /// All that wait, parked ones too.
    queued: usize,
    /// When anything was last received on any connection.
    heard: Tick,
    random: u64,
    carried: Carried,
    /// Frames that were dropped because they had waited too long, since the last flush that sent something.
    late: u64,
}

struct LinkConn<S> {
    key: ConnKey,
    conn: Box<Conn>,
    way: Way,
    out: Outgoing,
    queue: S,
    pace: Pace,
    in_flight: bool,
    heard: Tick,
    attached: Tick,
    /// When the send in flight was handed over.
    sent_at: Tick,
    keep_alive_at: Tick,
    /// Tells flows apart between connections; stays with the connection while others come and go.
    salt: u32,
}

impl<S: Scheduler> Link<S> {
    /// A session without connections, alive for its timeout from `now` on.
    pub fn new(settings: LinkSettings, now: Tick) -> Self {
        let random = settings.seed | 1;
        Self {
            conns: Vec::new(),
            settings,
            parked: Parked::default(),
            queued: 0,
            heard: now,
            random,
            carried: Carried::default(),
            late: 0,
        }
    }

    /// Adds a connection. The first keep-alive is due at once (protocol note §5.3), and so is what was kept for a peer who
    /// had none: call [`Self::poll`].
    ///
    /// The others send one too: a peer who adds a connection may have lost another of which we know nothing, and what TCP
    /// does not get acknowledged tells.
    pub fn attach(&mut self, key: ConnKey, mut conn: Box<Conn>, way: Way, now: Tick) {
        conn.allow_supers(self.settings.supers);
        let high = step(&mut self.random) >> 32;
        self.conns.iter_mut().for_each(|conn| conn.keep_alive_at = now);
        self.heard = now;
        self.conns.push(LinkConn {
            key,
            conn,
            way,
            out: Outgoing::default(),
            queue: S::default(),
            pace: Pace::default(),
            in_flight: false,
            heard: now,
            attached: now,
            sent_at: now,
            keep_alive_at: now,
            salt: u32::try_from(high).expect("32 bits are left"),
        });
    }

    /// Removes a connection and gives it back. Its waiting frames move to the connections that are left, which
    /// must then be flushed; with the last one that may send they are lost. So is what stands in records that
    /// were built but not flushed.
    pub fn detach(&mut self, key: ConnKey, now: Tick, pools: &mut Pools) -> Option<Detached> {
        let at = self.conns.iter().position(|c| c.key == key)?;
        let mut gone = self.conns.remove(at);
        let mut lost = gone.out.frames();
        if let Some(buf) = gone.out.abandon() {
            pools.sends.give(buf);
        }
        let mut late = Shed::default();
        while let Some(cell) = gone.queue.pop(&mut pools.frames, now, |_| true, |frames, cell| late.add(frames, cell)) {
            let class = class_of(pools.frames.frame(&cell));
            match self.choose(class) {
                Some(at) => self.conns[at].queue.push(&mut pools.frames, cell, class, now),
                None => late.add(&mut pools.frames, cell),
            }
        }
        self.queued -= late.cells;
        lost += late.frames;
        self.carried.dropped_out += lost;
        Some(Detached { conn: gone.conn, lost })
    }

    /// Takes ciphertext of connection `key`; gives `sink` every frame of 14 to 1600 bytes, and the reason
    /// for every block that is none. Ask [`Self::wants_flush`] afterwards.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn receive(
        &mut self,
        key: ConnKey,
        bytes: &[u8],
        now: Tick,
        scratch: &mut Scratch,
        sink: &mut impl FrameSink,
    ) -> Result<Received, CloseReason> {
        let Some(at) = self.conns.iter().position(|c| c.key == key) else { return Ok(Received::default()) };
        let conn = &mut self.conns[at];
        (conn.heard, self.heard) = (now, now);
        let Scratch { arena, carries, codec, inflated } = scratch;
        let mut taker =
            Taker { inflate: self.settings.compress.then_some((codec, inflated)), carried: &mut self.carried, sink };
        let before = conn.conn.layer.key_updates();
        let records = conn.conn.receive(bytes, arena, carries, |block| taker.take(block))?;
        Ok(Received { records, key_updates: conn.conn.layer.key_updates() - before })
    }

    /// The same for plaintext that was opened before the session began.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn receive_plain(
        &mut self,
        key: ConnKey,
        plain: &[u8],
        scratch: &mut Scratch,
        sink: &mut impl FrameSink,
    ) -> Result<(), CloseReason> {
        let Some(conn) = self.conns.iter_mut().find(|c| c.key == key) else { return Ok(()) };
        let Scratch { codec, inflated, .. } = scratch;
        let mut taker =
            Taker { inflate: self.settings.compress.then_some((codec, inflated)), carried: &mut self.carried, sink };
        conn.conn.receive_plain(plain, |block| taker.take(block))
    }

    /// Gives `frame` (14 to 1604 bytes: a VLAN tag may have been added) to the peer: at once if the connection of
    /// its flow has no send in flight and nothing waiting, else later, by its place in the queue.
    #[inline]
    pub fn push(&mut self, frame: &[u8], now: Tick, pools: &mut Pools) -> Pushed {
        let pushed = self.place(frame, now, pools);
        if let Pushed::Dropped(_) = pushed {
            self.carried.dropped_out += 1;
        }
        pushed
    }

    #[inline(always)]
    fn place(&mut self, frame: &[u8], now: Tick, pools: &mut Pools) -> Pushed {
        let chosen =
            if self.conns.len() == 1 && self.conns[0].way.send { Some(0) } else { self.choose(class_of(frame)) };
        let Some(at) = chosen else { return self.park(frame, pools) };
        let conn = &mut self.conns[at];
        if conn.may_build(frame.len()) {
            let block = pools.deflater.block(frame, self.settings.compress);
            let first = !conn.out.is_building();
            if conn.out.append(&mut conn.conn.layer, block, now, &mut pools.sends) {
                return Pushed::Building { key: conn.key, first };
            }
        }
        self.wait(at, frame, now, pools)
    }

    /// Puts `frame` into the queue of connection `at`.
    #[inline(never)]
    fn wait(&mut self, at: usize, frame: &[u8], now: Tick, pools: &mut Pools) -> Pushed {
        let pushed = self.make_room(1, pools);
        if let Pushed::Dropped(_) = pushed {
            return pushed;
        }
        let Some(cell) = pools.frames.store(frame) else { return Pushed::Dropped(DropReason::EgressPoolEmpty) };
        self.conns[at].queue.push(&mut pools.frames, cell, class_of(frame), now);
        self.queued += 1;
        pushed
    }

    /// Sees to it that a frame of so many cells may wait, at the cost of the flow that has most waiting.
    fn make_room(&mut self, cells: usize, pools: &mut Pools) -> Pushed {
        // Not even without all that waits: then that shall not be lost for nothing.
        if cells > self.settings.queue_depth || cells > pools.frames.free() + self.queued {
            return Pushed::Dropped(DropReason::EgressPoolEmpty);
        }
        let (mut shed, mut why) = (Shed::default(), None);
        while let Some(reason) = self.refusal(cells, pools) {
            let longest = self.conns.iter_mut().max_by_key(|conn| conn.queue.len());
            let cell = longest.and_then(|conn| conn.queue.shed(&mut pools.frames));
            let Some(cell) = cell.or_else(|| self.parked.pop(&pools.frames)) else { return Pushed::Dropped(reason) };
            let before = shed.cells;
            shed.add(&mut pools.frames, cell);
            self.queued -= shed.cells - before;
            why = Some(reason);
        }
        self.carried.dropped_out += shed.frames;
        let shed = u32::try_from(shed.frames).unwrap_or(u32::MAX);
        why.map_or(Pushed::Waiting, |reason| Pushed::Replacing { reason, shed })
    }

    /// Why no frame of so many cells may wait, if there is a reason.
    fn refusal(&self, cells: usize, pools: &Pools) -> Option<DropReason> {
        if self.queued + cells > self.settings.queue_depth {
            return Some(DropReason::EgressQueueFull);
        }
        // No more than what is left for all others, else a few slow readers would have the whole pool: n of
        // them leave 1/(n + 1) of it free.
        (self.queued + cells > pools.frames.free()).then_some(DropReason::EgressPoolEmpty)
    }

    /// Whether super-frames were agreed on with the peer.
    #[inline]
    pub fn takes_supers(&self) -> bool {
        self.settings.supers
    }

    /// As [`Self::push`] for a super-frame, which crosses whole if that was agreed on, else in its segments; says what
    /// became of each part, and how many frames it is on a wire.
    pub fn push_super(
        &mut self,
        frame: &SuperFrame<'_>,
        now: Tick,
        pools: &mut Pools,
        pushed: &mut impl FnMut(Pushed, u64),
    ) {
        if !self.settings.supers {
            return frame.cut(&mut |frame| pushed(self.push_segment(frame, now, pools), 1));
        }
        let part_bytes = self.conns.iter().filter_map(|conn| conn.pace.part_bytes()).min();
        match part_bytes.filter(|bytes| *bytes < frame.bytes().len()) {
            None => pushed(self.push_whole(frame, now, pools), frame.on_wire().0),
            Some(bytes) => frame.split(bytes, &mut |part| match part {
                Part::Super(part) => pushed(self.push_whole(&part, now, pools), part.on_wire().0),
                Part::Frame(frame) => pushed(self.push_segment(frame, now, pools), 1),
            }),
        }
    }

    fn push_whole(&mut self, frame: &SuperFrame<'_>, now: Tick, pools: &mut Pools) -> Pushed {
        let placed = self.place_super(frame, now, pools);
        if let Pushed::Dropped(_) = placed {
            self.carried.dropped_out += frame.on_wire().0;
        }
        placed
    }

    /// [`Self::push`] where its size matters more than its speed.
    #[inline(never)]
    fn push_segment(&mut self, frame: &[u8], now: Tick, pools: &mut Pools) -> Pushed {
        self.push(frame, now, pools)
    }

    fn place_super(&mut self, frame: &SuperFrame<'_>, now: Tick, pools: &mut Pools) -> Pushed {
        let head = frame.head().bytes();
        let Some(at) = self.choose(class_of(head)) else { return Pushed::Dropped(DropReason::EgressNoConnection) };
        let conn = &mut self.conns[at];
        if conn.may_build(frame.bytes().len()) {
            let first = !conn.out.is_building();
            let pieces = std::iter::once(frame.bytes());
            let block = SuperBlock::of(frame);
            if conn.out.append_super(&mut conn.conn.layer, block, pieces, now, &mut pools.sends, false) {
                return Pushed::Building { key: conn.key, first };
            }
        }
        let pushed = self.make_room(queue::cells(frame.bytes().len()), pools);
        if let Pushed::Dropped(_) = pushed {
            return pushed;
        }
        let Some(cell) = pools.frames.store_super(frame) else { return Pushed::Dropped(DropReason::EgressPoolEmpty) };
        self.queued += pools.frames.cells(&cell);
        self.conns[at].queue.push(&mut pools.frames, cell, class_of(head), now);
        pushed
    }

    /// Keeps `frame` for a peer who has lost all his connections, in place of the oldest one if there are many.
    #[cold]
    fn park(&mut self, frame: &[u8], pools: &mut Pools) -> Pushed {
        // What is for everybody would soon have driven out what is for this peer.
        let is_group = frame.first().is_none_or(|byte| byte & 1 == 1);
        if !self.conns.is_empty() || is_group {
            return Pushed::Dropped(DropReason::EgressNoConnection);
        }
        let is_full = self.parked.is_full() && self.release_parked(pools);
        if self.queued >= pools.frames.free() {
            return Pushed::Dropped(DropReason::EgressPoolEmpty);
        }
        let Some(cell) = pools.frames.store(frame) else { return Pushed::Dropped(DropReason::EgressPoolEmpty) };
        self.parked.push(&mut pools.frames, cell);
        self.queued += 1;
        // One is dropped: the oldest.
        if is_full { Pushed::Dropped(DropReason::EgressNoConnection) } else { Pushed::Waiting }
    }

    fn release_parked(&mut self, pools: &mut Pools) -> bool {
        let Some(cell) = self.parked.pop(&pools.frames) else { return false };
        pools.frames.release(cell);
        self.queued -= 1;
        true
    }

    /// Gives back what is parked, and says how many frames are lost with it. To be called when the session ends, after its
    /// connections were detached.
    pub fn end(&mut self, pools: &mut Pools) -> u64 {
        let mut lost = 0;
        while self.release_parked(pools) {
            lost += 1;
        }
        self.carried.dropped_out += lost;
        lost
    }

    /// Seals what was built for connection `key`, and of what waits as much as a buffer holds, and returns it to
    /// be sent: it counts as in flight until [`Self::sent`]. Nothing if a send is in flight already.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn flush(&mut self, key: ConnKey, now: Tick, pools: &mut Pools) -> Result<Option<Flushed>, CloseReason> {
        let Some(conn) = self.conns.iter_mut().find(|c| c.key == key) else { return Ok(None) };
        if conn.in_flight {
            return Ok(None);
        }
        if conn.conn.layer.wants_control() {
            conn.out.control(&mut conn.conn.layer, &mut pools.sends)?;
        }
        if !conn.queue.is_empty() {
            let Filled { cells, late } = conn.fill(now, pools, self.settings.compress);
            self.queued -= cells + late.cells;
            self.late += late.frames;
            self.carried.dropped_out += late.frames;
        }
        let sealed = conn.out.seal(&mut conn.conn.layer)?;
        let Some(mut sealed) = sealed else { return Ok(None) };
        sealed.late = std::mem::take(&mut self.late);
        self.carried.frames_out += sealed.frames;
        self.carried.bytes_out += sealed.bytes;
        conn.in_flight = true;
        conn.pace.begin(sealed.buf.pending().len(), now);
        conn.sent_at = now;
        conn.keep_alive_at = now + keep_alive_interval(self.settings.timeout, step(&mut self.random));
        Ok(Some(sealed))
    }

    /// The send in flight of `key` ended.
    pub fn sent(&mut self, key: ConnKey, now: Tick) -> Sent {
        let Some(conn) = self.conns.iter_mut().find(|c| c.key == key) else { return Sent::default() };
        conn.in_flight = false;
        let unsent = conn.pace.end(now);
        Sent { more: !conn.queue.is_empty() || conn.conn.layer.wants_control() || conn.out.is_building(), unsent }
    }

    /// Whether something beside frames wants to be sent on `key` (a key update, an answer to one).
    pub fn wants_flush(&self, key: ConnKey) -> bool {
        self.conns.iter().any(|c| c.key == key && !c.in_flight && c.conn.layer.wants_control())
    }

    /// Notes in `due` what the caller must do now; says when to come again, always later than `now`.
    pub fn poll(&mut self, now: Tick, pools: &mut Pools, due: &mut Vec<Due>) -> Tick {
        let timeout = self.settings.timeout;
        if now >= self.heard + timeout {
            due.push(Due::Expired);
            return now + timeout;
        }
        let mut next = self.heard + timeout;
        self.unpark(now, pools, due);
        for conn in &mut self.conns {
            if conn.conn.layer.key_exhausted() {
                due.push(Due::Close(conn.key, CloseReason::KeyLimit));
                continue;
            }
            if conn.way.receive {
                let dead_at = conn.heard + timeout;
                if now >= dead_at {
                    due.push(Due::Close(conn.key, CloseReason::Timeout));
                    continue;
                }
                next = next.min(dead_at);
            } else if conn.in_flight {
                // The peer is silent here by agreement. That it takes nothing is all that can show its end.
                let dead_at = conn.sent_at + timeout;
                if now >= dead_at {
                    due.push(Due::Close(conn.key, CloseReason::Timeout));
                    continue;
                }
                next = next.min(dead_at);
            }
            if conn.way.send {
                if now >= conn.keep_alive_at {
                    conn.keep_alive_at = now + keep_alive_interval(timeout, step(&mut self.random));
                    // A send in flight shows the peer that we live.
                    if !conn.in_flight && conn.out.keep_alive(&mut conn.conn.layer, self.random, &mut pools.sends) {
                        due.push(Due::Flush(conn.key));
                    }
                }
                next = next.min(conn.keep_alive_at);
            }
        }
        next
    }

    /// Has what is parked leave by the connection that has come.
    fn unpark(&mut self, now: Tick, pools: &mut Pools, due: &mut Vec<Due>) {
        if self.parked.is_empty() || !self.conns.iter().any(|conn| conn.way.send) {
            return;
        }
        while let Some(cell) = self.parked.pop(&pools.frames) {
            let class = class_of(pools.frames.frame(&cell));
            let at = self.choose(class).unwrap_or(0);
            self.conns[at].queue.push(&mut pools.frames, cell, class, now);
        }
        due.extend(self.conns.iter().filter(|conn| conn.way.send).map(|conn| Due::Flush(conn.key)));
    }

    /// Keys of the connections, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = ConnKey> + '_ {
        self.conns.iter().map(|c| c.key)
    }

    /// Connections now.
    pub fn conns(&self) -> usize {
        self.conns.len()
    }

    /// Frames that wait for the peer.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Frames and bytes so far.
    pub fn carried(&self) -> Carried {
        self.carried
    }

    /// The TLS side of connection `key`.
    pub fn conn(&self, key: ConnKey) -> Option<&Conn> {
        self.conns.iter().find(|c| c.key == key).map(|c| &*c.conn)
    }

    /// Whether a send of `key` is in flight.
    pub fn in_flight(&self, key: ConnKey) -> bool {
        self.conns.iter().any(|c| c.key == key && c.in_flight)
    }

    /// The connection for a flow, by rendezvous hashing: frames of a flow go one way and so stay in order. The
    /// end of a connection moves its own flows only; a new one takes its share from all, and only then, once,
    /// can a frame overtake one that still waits for the connection that the flow has left.
    ///
    /// Where the newest connection is for what is urgent, a loss on one of the others does not hold that up. When it comes
    /// or ends, the one before it takes its share of the rest, or gives it up: once there is a sign that it lives, because
    /// a new one may have come in its place.
    fn choose(&self, class: Class) -> Option<usize> {
        let weight = |salt: u32| {
            let hash = class.flow;
            (hash ^ salt).wrapping_mul(0x9e37_79b1) ^ (hash ^ salt).rotate_left(15).wrapping_mul(0x85eb_ca6b)
        };
        let mut sending = self.conns.iter().enumerate().filter(|(_, c)| c.way.send).peekable();
        let newest = if self.settings.qos { sending.next_back() } else { None };
        if sending.peek().is_none() || (newest.is_some() && class.band == Band::Priority) {
            return newest.map(|(at, _)| at);
        }
        let since = newest.map_or(Tick::default(), |(_, newest)| newest.attached);
        let lives = |c: &LinkConn<S>| !c.way.receive || c.heard >= since;
        sending.max_by_key(|(_, c)| (lives(c), weight(c.salt))).map(|(at, _)| at)
    }
}

impl<S: Scheduler> LinkConn<S> {
    /// Whether a frame of `len` bytes goes into the record under construction, and not behind others or a send.
    #[inline(always)]
    fn may_build(&self, len: usize) -> bool {
        !self.in_flight && self.queue.is_empty() && (!self.pace.is_slow() || self.has_pace(len))
    }

    /// Whether one of `len` bytes may still join this send.
    fn has_pace(&self, len: usize) -> bool {
        let used = self.out.used();
        used == 0 || used + len <= self.pace.send_bytes()
    }

    /// Of what waits, as much as may leave in one send.
    #[inline(never)]
    fn fill(&mut self, now: Tick, pools: &mut Pools, compress: bool) -> Filled {
        let (layer, mut filled) = (&mut self.conn.layer, Filled::default());
        let Pools { frames, sends, deflater } = pools;
        loop {
            let (used, late) = (self.out.used(), &mut filled.late);
            let fits = |len| self.out.has_room(layer, len) && (used == 0 || used + len <= self.pace.send_bytes());
            let Some(cell) = self.queue.pop(frames, now, fits, |frames, cell| late.add(frames, cell)) else { break };
            let (frame, len) = (frames.frame(&cell), frames.len_of(&cell));
            let fits = match frames.segment_bytes(&cell) {
                0 => self.out.append_backlog(layer, deflater.block(frame, compress), now, sends),
                segment_bytes => {
                    let block = SuperBlock::of_head(frame, len, segment_bytes);
                    self.out.append_super(layer, block, frames.pieces(&cell), now, sends, true)
                }
            };
            debug_assert!(fits, "has_room leaves place for what comes next");
            if !fits {
                // The keys are used up, which closes the connection with the next record.
                filled.late.add(frames, cell);
                continue;
            }
            filled.cells += frames.cells(&cell);
            frames.release(cell);
        }
        filled
    }
}

/// What left a queue.
#[derive(Default)]
struct Filled {
    /// Into records.
    cells: usize,
    /// Nowhere.
    late: Shed,
}

/// What the end of a send asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// There is more to flush.
    pub more: bool,
    /// How many bytes may wait unsent in the kernel from here on ([`super::pace`]), if that has changed.
    pub unsent: Option<u32>,
}

/// A connection that left its session.
pub struct Detached {
    /// Keys, to say goodbye with.
    pub conn: Box<Conn>,
    /// Frames that are lost with it.
    pub lost: u64,
}

/// What [`Link::receive`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// TLS records.
    pub records: u64,
    /// How often the peer renewed its key.
    pub key_updates: u64,
}

/// A buffer ready to be sent, and what is in it.
#[derive(Debug)]
pub struct Flushed {
    /// Sealed records.
    pub buf: SendBuf,
    /// How many.
    pub records: u64,
    /// How often we renewed our key.
    pub key_updates: u64,
    /// Frames in them.
    pub frames: u64,
    /// Bytes of those frames, as blocks: compressed if the session compresses.
    pub bytes: u64,
    /// Frames dropped since the last one because they had waited too long ([`DropReason::EgressLate`]).
    pub late: u64,
}

/// What decides about the place of `frame`, or of a super-frame that begins with it, in a queue.
fn class_of(frame: &[u8]) -> Class {
    Class { band: Band::of(frame), flow: flow_hash(frame) }
}

/// Frames that waited and do not leave.
#[derive(Default)]
struct Shed {
    frames: u64,
    cells: usize,
}

impl Shed {
    fn add(&mut self, pool: &mut FramePool, cell: Cell) {
        let (frame, len, segment_bytes) = (pool.frame(&cell), pool.len_of(&cell), pool.segment_bytes(&cell));
        self.frames += if segment_bytes == 0 { 1 } else { on_wire(frame, len, segment_bytes).0 };
        self.cells += pool.cells(&cell);
        pool.release(cell);
    }
}

/// Between a fifth and half of the timeout (protocol note §5.3).
fn keep_alive_interval(timeout: Duration, random: u64) -> Duration {
    let span = timeout / 2 - timeout / 5;
    let part = u32::try_from(random >> 48).expect("16 bits are left");
    timeout / 5 + span * part / 0x1_0000
}

/// xorshift64: jitter needs spread, not secrecy.
fn step(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
