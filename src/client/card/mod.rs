//! The virtual LAN card: a TAP device and the connections of one session, joined by a [`Link`]. No hub.
//!
//! One thread, one wait for all of it. A step:
//! 1. what has come by the connections → frames → the burst for the device, where segments in order become
//!    super-packets (`crate::lane::merge`) → device;
//! 2. what the host sends → cut into frames (`cut.rs`) → [`Link::push`];
//! 3. what that filled is sealed; the wait that follows hands it to the kernel.
//!
//! What the host sends is read at once, also while the tunnel is full: only in the session's queue do flows take turns
//! ([`crate::tunnel::fair`]). While a session has no connection the device is not read, because what TCP inside has sent
//! meanwhile tells it sooner than its own timer that the way is back. Without a session what the host sends is read and
//! forgotten.
//!
//! In bridge mode loops are looked for (`loops.rs`).
//!
//! Closing a connection is what a worker does (`crate::worker`): what is in flight, close_notify, FIN, read on until the
//! peer's, a second at most.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::ids::ConnKey;
use crate::lane::merge::TxBurst;
use crate::lane::packet::header_of;
use crate::metrics::closes::CloseReason;
use crate::metrics::drops::DropReason;
use crate::sys::tap::Tap;
use crate::sys::vnet::{Segments, VnetHeader};
use crate::tick::Tick;
use crate::tls::layer::RecordLayer;
use crate::tunnel::conn::Conn;
use crate::tunnel::link::{
    Carried, Detached, Due, Flushed, FrameSink, Link, LinkSettings, Pools, Pushed, Scratch, Way,
};
use crate::wire::ethernet::HEADER_BYTES;
use crate::wire::loop_probe::Side;
use crate::wire::offload::Offload;
use crate::wire::super_frame::{Kind, SuperFrame};
use crate::wire::{ipv4, ipv6};
use crate::worker::io::{CloseHow, Completion, StreamIo, Wait};

mod cut;
pub mod loops;

#[cfg(test)]
mod tests;

use loops::{Loops, Passage, Place};

/// The host's end of the card.
pub trait Device {
    /// The next frame that the host sends, perhaps a super-packet. Never waits.
    ///
    /// # Errors
    /// If the device is gone.
    fn receive(&mut self) -> io::Result<Option<(VnetHeader, &mut [u8])>>;

    /// Gives the host a frame in pieces; false if it does not take it. Never waits.
    ///
    /// # Errors
    /// If the device is gone.
    fn send<'a>(&mut self, header: VnetHeader, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<bool>;
}

impl Device for Tap {
    #[inline]
    fn receive(&mut self) -> io::Result<Option<(VnetHeader, &mut [u8])>> {
        Tap::receive(self)
    }

    #[inline]
    fn send<'a>(&mut self, header: VnetHeader, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<bool> {
        Tap::send(self, header, pieces)
    }
}

/// A connection that is logged in.
pub struct Line<S> {
    /// Its socket.
    pub socket: S,
    /// Its keys.
    pub layer: RecordLayer,
    /// Plaintext that came behind the server's answer.
    pub plain: Vec<u8>,
    /// Ciphertext that was received but not opened.
    pub cipher: Vec<u8>,
    /// Which way it carries frames.
    pub way: Way,
}

/// What was agreed on about the form of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Every frame is compressed.
    pub compress: bool,
    /// Super-frames cross whole.
    pub supers: bool,
    /// The newest connection is for urgent frames.
    pub qos: bool,
}

/// What has happened that the card's owner wants to know.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// A connection of the session has ended.
    Lost(ConnKey, CloseReason),
    /// Nothing came by any connection for the session's timeout.
    Expired,
    /// There is a loop: the session must end. Nothing passes any more.
    Loop(Place),
    /// What the bridge has learned of the device may be wrong.
    Stale,
    /// A watched descriptor other than the device's has become readable.
    Ready(u8),
    /// Somebody rang.
    Woken,
}

/// Frames that were dropped, and super-packets that passed, since the card was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CardCounts {
    /// From the host: could not be cut, or there was no session.
    pub dropped_out: u64,
    /// For the host: the device did not take it, or it was no frame.
    pub dropped_in: u64,
}

/// See the module text.
pub struct Card<Io, D> {
    io: Io,
    /// By key.
    slots: Vec<Slot>,
    link: Option<Link>,
    pools: Pools,
    scratch: Scratch,
    inward: Inward<D>,
    /// Connections with a record under construction.
    dirty: Vec<ConnKey>,
    due: Vec<Due>,
    /// When to look at keep-alives and timeouts.
    poll_at: Tick,
    now: Tick,
    /// The device may have more.
    readable: bool,
    news: Vec<News>,
    counts: CardCounts,
    /// Of sessions that have ended.
    carried: Carried,
}

enum Slot {
    Free,
    /// Closed by us; the back end has not said so yet.
    Leaving,
    Live,
    Closing(Closing),
}

struct Closing {
    /// Keys to say goodbye with, until that was done.
    conn: Option<Box<Conn>>,
    in_flight: bool,
    eof: bool,
    until: Tick,
}

/// The number of the device among what the back end watches; the owner of the card may use others.
pub const WATCH_DEVICE: u8 = 0;

impl<Io: StreamIo, D: Device> Card<Io, D> {
    /// A card without a session; `io` watches the device as [`WATCH_DEVICE`].
    pub fn new(io: Io, device: D, now: Tick) -> Self {
        Self {
            io,
            slots: Vec::new(),
            link: None,
            // A session takes no more than half.
            pools: Pools::new(2 * QUEUE_FRAMES),
            scratch: Scratch::default(),
            inward: Inward { device, burst: TxBurst::new(BURST_BYTES, true), refused: 0, failed: None, loops: None },
            dirty: Vec::new(),
            due: Vec::new(),
            poll_at: now,
            now,
            readable: false,
            news: Vec::new(),
            counts: CardCounts::default(),
            carried: Carried::default(),
        }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.inward.device
    }

    /// Watches `fd` as number `watch`.
    ///
    /// # Errors
    /// If the back end cannot.
    pub fn watch(&mut self, watch: u8, fd: OwnedFd) -> io::Result<()> {
        self.io.watch(watch, fd)
    }

    /// Begins a session without connections. One before must have ended.
    pub fn begin(&mut self, timeout: Duration, modes: Modes, seed: u64) {
        let Modes { compress, supers, qos } = modes;
        let settings = LinkSettings { timeout, compress, supers, qos, queue_depth: QUEUE_FRAMES, seed };
        self.link = Some(Link::new(settings, self.now));
        self.poll_at = self.now;
    }

    /// Looks for loops from now on, until the session ends.
    pub fn watch_loops(&mut self, loops: Loops) {
        self.inward.loops = Some(Box::new(loops));
        self.poll_at = self.now;
    }

    /// Adds a connection to the session.
    ///
    /// # Errors
    /// If the back end cannot take it, or what came with it breaks the protocol.
    pub fn attach(&mut self, line: Line<Io::Socket>) -> io::Result<ConnKey> {
        let Line { socket, layer, plain, cipher, way } = line;
        let now = self.now;
        let Some(link) = &mut self.link else { return Err(io::Error::other("there is no session")) };
        let at = self.slots.iter().position(|slot| matches!(slot, Slot::Free)).unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        let key = ConnKey(u32::try_from(at).map_err(io::Error::other)?);
        self.io.open(key, socket)?;
        self.slots[at] = Slot::Live;
        link.attach(key, Box::new(Conn::new(layer)), way, now);
        let scratch = &mut self.scratch;
        let early = link
            .receive_plain(key, &plain, scratch, &mut self.inward)
            .and_then(|()| link.receive(key, &cipher, now, scratch, &mut self.inward).map(|_| ()));
        // The first keep-alive is due.
        self.poll_at = now;
        if let Err(reason) = early {
            self.lose(key, reason);
        }
        Ok(key)
    }

    /// Ends the session: closes its connections in good order.
    pub fn end(&mut self) {
        self.end_because(CloseReason::SessionEnded);
    }

    /// The same, for another reason.
    pub fn end_because(&mut self, reason: CloseReason) {
        self.inward.loops = None;
        let keys: Vec<ConnKey> = self.link.iter().flat_map(Link::keys).collect();
        for key in keys {
            self.lose(key, reason);
        }
        if let Some(mut link) = self.link.take() {
            link.end(&mut self.pools);
            self.carried = sum(self.carried, link.carried());
        }
    }

    /// Closes one connection of the session in good order; its flows go by the others.
    pub fn drop_conn(&mut self, key: ConnKey, reason: CloseReason) {
        self.lose(key, reason);
    }

    /// Whether all connections are closed, those of sessions that have ended too.
    pub fn is_closed(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot, Slot::Free))
    }

    /// Connections that carry frames.
    pub fn conns(&self) -> usize {
        self.link.as_ref().map_or(0, Link::conns)
    }

    /// Frames and bytes of all sessions.
    pub fn carried(&self) -> Carried {
        sum(self.carried, self.link.as_ref().map(Link::carried).unwrap_or_default())
    }

    /// Frames dropped by the card itself.
    pub fn counts(&self) -> CardCounts {
        let refused = self.inward.refused;
        CardCounts { dropped_in: self.counts.dropped_in + refused, ..self.counts }
    }

    /// What has happened since this was asked before.
    pub fn news(&mut self) -> impl Iterator<Item = News> + '_ {
        self.news.drain(..)
    }

    /// Hands over what is to be sent and waits until something happens, until `until` at most.
    ///
    /// # Errors
    /// If the kernel object itself failed.
    pub fn wait(&mut self, until: Tick) -> io::Result<()> {
        let left = until.min(self.poll_at).since(self.now);
        let busy = !self.news.is_empty() || (self.readable && self.has_room());
        self.io.turn(if busy || left.is_zero() { Wait::Poll } else { Wait::For(left) })
    }

    /// Does what has come up, at `now`.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn step(&mut self, now: Tick) -> io::Result<()> {
        self.now = now;
        if let Some(loops) = &mut self.inward.loops {
            loops.at(now);
        }
        while let Some(completion) = self.io.next() {
            self.completed(completion);
        }
        self.inward.flush();
        if self.readable {
            self.read_device()?;
        }
        self.probe_loops()?;
        self.flush_all();
        if now >= self.poll_at {
            self.poll();
            self.flush_all();
        }
        self.inward.failed.take().map_or(Ok(()), Err)
    }

    fn has_room(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.conns() > 0)
    }

    /// Some of what the host sends.
    fn read_device(&mut self) -> io::Result<()> {
        for _ in 0..FRAMES_PER_STEP {
            if !self.has_room() {
                return Ok(());
            }
            let Some((header, frame)) = self.inward.device.receive()? else {
                self.readable = false;
                return Ok(());
            };
            let (now, pools, dirty) = (self.now, &mut self.pools, &mut self.dirty);
            let Some(link) = &mut self.link else {
                self.counts.dropped_out += 1;
                continue;
            };
            let mut marked;
            let frame = match &mut self.inward.loops {
                Some(loops) if loops.concerns(frame) => match loops.look(Side::Lan, frame) {
                    Passage::As => frame,
                    Passage::Marked(probe) => {
                        marked = probe;
                        &mut marked[..]
                    }
                    Passage::Ends => {
                        self.counts.dropped_out += 1;
                        continue;
                    }
                },
                _ => frame,
            };
            let mut note = |pushed| {
                if let Pushed::Building { key, first: true } = pushed {
                    dirty.push(key);
                }
            };
            if link.takes_supers()
                && let Some(frame) = cut::whole_super(frame, header)
            {
                link.push_super(&frame, now, pools, &mut |pushed, _| note(pushed));
                continue;
            }
            let parts = cut::cut(frame, header, &mut |frame| note(link.push(frame, now, pools)));
            self.counts.dropped_out += u64::from(parts == 0);
        }
        Ok(())
    }

    /// Sends the probes that are due, and tells the loop that was found.
    fn probe_loops(&mut self) -> io::Result<()> {
        let (now, frames) = (self.now, self.carried());
        let Some(loops) = &mut self.inward.loops else { return Ok(()) };
        self.news.extend(loops.take_stale().then_some(News::Stale));
        let probes = match loops.found() {
            Some((place, last)) => {
                self.news.push(News::Loop(place));
                Some(last)
            }
            None => loops.due(frames.frames_in + frames.frames_out),
        };
        if let (Some(probes), Some(link)) = (probes, &mut self.link) {
            self.inward.device.send(VnetHeader::default(), std::iter::once(&probes.into_lan[..]))?;
            if let Pushed::Building { key, first: true } = link.push(&probes.into_hub, now, &mut self.pools) {
                self.dirty.push(key);
            }
        }
        self.poll_at = self.poll_at.min(loops.next());
        Ok(())
    }

    fn completed(&mut self, completion: Completion) {
        match completion {
            Completion::Received { key, buf } => {
                let live = matches!(self.slot(key), Some(Slot::Live));
                let Some(link) = self.link.as_mut().filter(|_| live) else { return self.io.recycle(buf) };
                let received = link.receive(key, self.io.bytes(&buf), self.now, &mut self.scratch, &mut self.inward);
                if link.wants_flush(key) {
                    self.dirty.push(key);
                }
                self.io.recycle(buf);
                if let Err(reason) = received {
                    self.lose(key, reason);
                }
            }
            Completion::Sent { key, buf, result } => {
                self.pools.sends.give(buf);
                self.sent(key, result.is_ok());
            }
            Completion::Eof { key } => self.ended(key, CloseReason::PeerEof),
            Completion::RecvFailed { key, .. } => self.ended(key, CloseReason::SocketFailed),
            Completion::Closed { key } => {
                if let Some(slot) = self.slot(key) {
                    *slot = Slot::Free;
                }
            }
            Completion::Ready { watch: WATCH_DEVICE } => self.readable = true,
            Completion::Ready { watch } => self.news.push(News::Ready(watch)),
            Completion::Woken => self.news.push(News::Woken),
        }
    }

    fn slot(&mut self, key: ConnKey) -> Option<&mut Slot> {
        self.slots.get_mut(key.0 as usize)
    }

    fn sent(&mut self, key: ConnKey, ok: bool) {
        match self.slot(key) {
            Some(Slot::Live) => {
                let sent = self.link.as_mut().map(|link| link.sent(key, self.now)).unwrap_or_default();
                if let Some(bytes) = sent.unsent {
                    self.io.limit_unsent(key, bytes);
                }
                match ok {
                    true if sent.more => self.dirty.push(key),
                    true => {}
                    false => self.lose(key, CloseReason::SocketFailed),
                }
            }
            Some(Slot::Closing(closing)) => {
                closing.in_flight = false;
                if ok { self.say_goodbye(key) } else { self.drop_socket(key, CloseHow::Abort) }
            }
            _ => {}
        }
    }

    /// The peer has ended its direction, or the socket failed.
    fn ended(&mut self, key: ConnKey, reason: CloseReason) {
        match self.slot(key) {
            Some(Slot::Live) => self.lose(key, reason),
            Some(Slot::Closing(_)) if reason == CloseReason::SocketFailed => self.drop_socket(key, CloseHow::Abort),
            Some(Slot::Closing(closing)) => {
                closing.eof = true;
                if closing.conn.is_none() && !closing.in_flight {
                    self.drop_socket(key, CloseHow::Orderly);
                }
            }
            _ => {}
        }
    }

    /// Seals and hands over what was built.
    fn flush_all(&mut self) {
        while let Some(key) = self.dirty.pop() {
            let Some(link) = &mut self.link else { continue };
            match link.flush(key, self.now, &mut self.pools) {
                Ok(Some(Flushed { buf, .. })) => self.io.send(key, buf),
                Ok(None) => {}
                Err(reason) => self.lose(key, reason),
            }
        }
    }

    fn poll(&mut self) {
        let now = self.now;
        let mut next = now + POLL_MAX;
        let mut due = std::mem::take(&mut self.due);
        if let Some(link) = &mut self.link {
            next = next.min(link.poll(now, &mut self.pools, &mut due));
        }
        for what in due.drain(..) {
            match what {
                Due::Flush(key) => self.dirty.push(key),
                Due::Close(key, reason) => self.lose(key, reason),
                Due::Expired => self.news.push(News::Expired),
            }
        }
        self.due = due;
        for at in 0..self.slots.len() {
            let Slot::Closing(Closing { until, .. }) = &self.slots[at] else { continue };
            if now >= *until {
                self.drop_socket(ConnKey(u32::try_from(at).unwrap_or(u32::MAX)), CloseHow::Orderly);
            } else {
                next = next.min(*until);
            }
        }
        self.poll_at = next;
    }

    /// Takes a connection off the session and closes it.
    fn lose(&mut self, key: ConnKey, reason: CloseReason) {
        let Some(link) = &mut self.link else { return };
        let abort = reason == CloseReason::SocketFailed;
        // Records that were sealed have used their numbers: close_notify can be read only behind them.
        let built = if abort { Ok(None) } else { link.flush(key, self.now, &mut self.pools) };
        let in_flight = link.in_flight(key);
        let Some(Detached { conn, .. }) = link.detach(key, self.now, &mut self.pools) else { return };
        // Frames that waited for this connection moved to the others.
        self.dirty.extend(link.keys());
        self.news.push(News::Lost(key, reason));
        if abort {
            return self.drop_socket(key, CloseHow::Abort);
        }
        let until = self.now + DRAIN;
        self.poll_at = self.poll_at.min(until);
        let eof = reason == CloseReason::PeerEof;
        if let Some(slot) = self.slot(key) {
            *slot = Slot::Closing(Closing { conn: Some(conn), in_flight, eof, until });
        }
        // Where nothing can be sealed any more there is no close_notify either.
        if let Ok(Some(flushed)) = built {
            self.io.send(key, flushed.buf);
        }
        if !in_flight {
            self.say_goodbye(key);
        }
    }

    /// Sends close_notify, or FIN if that was sent.
    fn say_goodbye(&mut self, key: ConnKey) {
        let Some(Slot::Closing(closing)) = self.slots.get_mut(key.0 as usize) else { return };
        if let Some(mut conn) = closing.conn.take() {
            let mut buf = self.pools.sends.take_short();
            if let Ok(len) = conn.layer.close_notify(buf.storage_mut()) {
                buf.set_end(len);
                closing.in_flight = true;
                return self.io.send(key, buf);
            }
            self.pools.sends.give(buf);
        }
        let eof = closing.eof;
        self.io.shutdown_write(key);
        if eof {
            self.drop_socket(key, CloseHow::Orderly);
        }
    }

    fn drop_socket(&mut self, key: ConnKey, how: CloseHow) {
        if let Some(slot) = self.slot(key) {
            *slot = Slot::Leaving;
        }
        self.io.close(key, how);
    }
}

/// Frames on their way to the host.
struct Inward<D> {
    device: D,
    burst: TxBurst,
    /// What the host did not get.
    refused: u64,
    /// The device has failed.
    failed: Option<io::Error>,
    /// In bridge mode.
    loops: Option<Box<Loops>>,
}

impl<D: Device> Inward<D> {
    fn flush(&mut self) {
        if self.burst.is_empty() {
            return;
        }
        self.burst.seal();
        for at in 0..self.burst.len() {
            let Some(message) = self.burst.message(at) else { break };
            match self.device.send(header_of(&message), message.pieces()) {
                Ok(true) => {}
                Ok(false) => self.refused += 1,
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        self.burst.clear();
    }
}

impl<D: Device> FrameSink for Inward<D> {
    #[inline]
    fn frame(&mut self, frame: &[u8]) {
        let marked;
        let frame = match &mut self.loops {
            Some(loops) if loops.concerns(frame) => match loops.look(Side::Hub, frame) {
                Passage::As => frame,
                Passage::Marked(probe) => {
                    marked = probe;
                    &marked[..]
                }
                Passage::Ends => return,
            },
            _ => frame,
        };
        if self.burst.is_half_full() {
            self.flush();
        }
        let pushed = match frame.split_first_chunk::<HEADER_BYTES>() {
            Some((ethernet, packet))
                if [ipv4::ETHERTYPE, ipv6::ETHERTYPE].contains(&u16::from_be_bytes([ethernet[12], ethernet[13]])) =>
            {
                self.burst.push(ethernet, packet, Offload::NONE)
            }
            _ => self.burst.push_frame(frame),
        };
        self.refused += u64::from(pushed.is_err());
    }

    fn super_frame(&mut self, frame: &SuperFrame<'_>) {
        if self.loops.as_deref().is_some_and(Loops::is_shut) {
            return;
        }
        // What came before goes before.
        self.flush();
        let (start, field) = frame.checksum();
        let header = VnetHeader {
            needs_checksum: true,
            segments: match frame.kind() {
                Kind::Tcp4 => Segments::Tcp4,
                Kind::Tcp6 => Segments::Tcp6,
                Kind::Udp => Segments::Udp,
            },
            header_bytes: short(frame.header_bytes()),
            segment_bytes: frame.segment_bytes(),
            checksum_start: short(start),
            checksum_offset: short(field - start),
        };
        match self.device.send(header, std::iter::once(frame.bytes())) {
            Ok(true) => {}
            // Before Linux 6.2 the device does not cut UDP.
            Ok(false) if frame.kind() == Kind::Udp => frame.cut(&mut |frame| self.frame(frame)),
            Ok(false) => self.refused += frame.on_wire().0,
            Err(error) => self.failed = Some(error),
        }
    }

    fn dropped(&mut self, _reason: DropReason) {
        self.refused += 1;
    }
}

/// Lengths of headers.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn sum(a: Carried, b: Carried) -> Carried {
    Carried {
        frames_in: a.frames_in + b.frames_in,
        bytes_in: a.bytes_in + b.bytes_in,
        frames_out: a.frames_out + b.frames_out,
        bytes_out: a.bytes_out + b.bytes_out,
        dropped_out: a.dropped_out + b.dropped_out,
    }
}

/// Frames that may wait, or super-frames of so many cells: what the window of one TCP flow holds as Linux has it by
/// default, so that a tunnel between two fast hosts loses nothing. How long frames wait is bounded elsewhere.
const QUEUE_FRAMES: usize = 4096;
/// Of the host, in one step: enough to fill the records of a send, and what comes by the connections does not wait long.
const FRAMES_PER_STEP: usize = 32;
/// Room for what one step brings for the host; it leaves in between if it is more.
const BURST_BYTES: usize = 512 * 1024;
/// Longest time between two looks at the timers.
const POLL_MAX: Duration = Duration::from_millis(1_000);
/// How long a closing connection may take.
const DRAIN: Duration = Duration::from_secs(1);
