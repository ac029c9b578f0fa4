//! The gateway's end of TCP: DNS (RFC 7766), and a reset for everything else.
//!
//! smoltcp does the protocol, over a device of two queues in memory: packets go in one at a time, what it has to say comes
//! out and is sent to the port of the hub that the connection lives behind. Who connects is known by the binding of his
//! address, so there is nobody to answer to but members.
//!
//! Bounded: connections in all and of each session (who has too many is reset), questions of one under way, packets for
//! each call, the time without a whole question.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration as TcpDuration, Instant as TcpInstant};
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::Origin;
use super::datagram::MTU;
use super::dns::QUESTION_BYTES_MAX;
use crate::ids::{PortId, SessionId};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::dns;
use crate::wire::ethernet::Mac;
use crate::wire::ipv4::Ipv4;
use crate::wire::tcp::{FLAG_ACK, FLAG_SYN, flags};
use crate::wire::udp::l4_ports;

/// A connection, told from those that had its place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnRef {
    place: usize,
    number: u64,
}

/// A question that came by a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TcpQuestion {
    pub(super) conn: ConnRef,
    pub(super) from: Origin,
    pub(super) message: Vec<u8>,
}

/// Limits of [`TcpEnd`].
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpLimits {
    pub(super) connections_max: usize,
    pub(super) connections_per_session: usize,
}

/// See the module text.
pub(super) struct TcpEnd {
    limits: TcpLimits,
    interface: Interface,
    device: Queues,
    sockets: SocketSet<'static>,
    /// Places never shrink: their sockets' buffers are used again.
    places: Vec<Place>,
    number: u64,
}

struct Place {
    socket: SocketHandle,
    conn: Option<Conn>,
}

struct Conn {
    number: u64,
    from: Peer,
    session: SessionId,
    /// The last whole question, or the beginning.
    active: Tick,
    /// Bytes of a question that is not whole.
    inbox: Vec<u8>,
    under_way: usize,
    outbox: VecDeque<Vec<u8>>,
    /// Bytes sent of the first of them.
    sent: usize,
    closing: Option<Tick>,
}

#[derive(Clone, Copy)]
struct Peer {
    origin: Origin,
    mac: Mac,
    address: Ipv4Addr,
    tcp_port: u16,
}

impl TcpEnd {
    pub(super) fn new(address: Ipv4Addr, prefix_bits: u8, limits: TcpLimits, seed: u64, now: Tick) -> Self {
        let mut device = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        // Begins of sequence numbers; who could guess them is a member and would fool himself only.
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, instant(now));
        interface.update_ip_addrs(|addresses| {
            let is_added = addresses.push(IpCidr::new(address.into(), prefix_bits.min(32)));
            debug_assert!(is_added.is_ok(), "there is room for two");
        });
        Self { limits, interface, device, sockets: SocketSet::new(Vec::new()), places: Vec::new(), number: 0 }
    }

    /// `packet` is a whole one to the gateway's address, from somebody whose binding was checked. What it leads to is
    /// told by [`Self::question`] and sent by [`Self::flush`]; `Err` tells that it opened nothing, though it wanted to.
    pub(super) fn packet(&mut self, origin: &Origin, mac: Mac, packet: Ipv4<'_>, now: Tick) -> Result<(), DropReason> {
        let malformed = DropReason::GatewayMalformed;
        let whole = packet.whole().ok_or(malformed)?;
        let segment = whole.get(packet.header_bytes()..).ok_or(malformed)?;
        let (tcp_port, to_port) = l4_ports(segment).ok_or(malformed)?;
        let opens = flags(segment).ok_or(malformed)? & (FLAG_SYN | FLAG_ACK) == FLAG_SYN;
        let from = Peer { origin: *origin, mac, address: packet.src(), tcp_port };
        let mut result = Ok(());
        let mut place = self.place_of(from.address, tcp_port);
        if let Some(conn) = place.and_then(|place| self.places[place].conn.as_mut()) {
            // He may have logged in again since.
            conn.from = from;
        } else if opens && to_port == dns::PORT {
            place = self.listen(&from, now);
            result = place.map(|_| ()).ok_or(DropReason::GatewayTcpFull);
        } else if opens {
            result = Err(DropReason::GatewayPortClosed);
        }
        self.device.asker = Some(from);
        self.device.incoming = Some(whole.to_vec());
        self.interface.poll_ingress_single(instant(now), &mut self.device, &mut self.sockets);
        // A broken segment reached nobody, a reset took the opening back: in either case the socket would take anybody.
        if let Some(place) = place
            && self.socket(place).state() == State::Listen
        {
            self.socket(place).close();
            self.places[place].conn = None;
        }
        result
    }

    /// A question that came whole; to be called until there is none. Each is to be given to [`Self::answer`] some time.
    /// `Err` tells that a connection ended for what it sent.
    pub(super) fn question(&mut self, now: Tick) -> Option<Result<TcpQuestion, DropReason>> {
        (0..self.places.len()).find_map(|place| self.read(place, now))
    }

    /// Sends `message` into `conn`, if that is still there; `None`: there will be no answer.
    pub(super) fn answer(&mut self, conn: ConnRef, message: Option<Vec<u8>>) {
        let place = self.places.get_mut(conn.place).and_then(|place| place.conn.as_mut());
        let Some(found) = place.filter(|found| found.number == conn.number) else { return };
        found.under_way = found.under_way.saturating_sub(1);
        if let Some(message) = message
            && let Ok(length) = u16::try_from(message.len())
        {
            // One segment for both (RFC 7766 §8).
            found.outbox.push_back([&length.to_be_bytes()[..], &message].concat());
        }
    }

    /// Moves answers on, ends what is idle, and sends: `send` gets port, card and packet.
    pub(super) fn flush(&mut self, now: Tick, mut send: impl FnMut(PortId, Mac, &[u8])) {
        for place in 0..self.places.len() {
            self.write(place);
            self.end(place, now);
        }
        // Each pass lets each socket send one segment.
        for _ in 0..SEGMENTS_AT_ONCE {
            let result = self.interface.poll_egress(instant(now), &mut self.device, &mut self.sockets);
            if result == PollResult::None {
                break;
            }
            (0..self.places.len()).for_each(|place| self.write(place));
        }
        while let Some(packet) = self.device.outgoing.pop_front() {
            let Some((address, tcp_port)) = destination(&packet) else { continue };
            let asker = self.device.asker.filter(|peer| (peer.address, peer.tcp_port) == (address, tcp_port));
            let conn = self.place_of(address, tcp_port).and_then(|place| self.places[place].conn.as_ref());
            if let Some(to) = conn.map(|conn| conn.from).or(asker) {
                send(to.origin.port, to.mac, &packet);
            }
        }
        self.device.asker = None;
        for place in 0..self.places.len() {
            if self.socket(place).state() == State::Closed {
                self.places[place].conn = None;
            }
        }
    }

    /// Whether there is no connection, and nothing to say to anybody.
    pub(super) fn is_idle(&self) -> bool {
        self.device.outgoing.is_empty() && self.places.iter().all(|place| place.conn.is_none())
    }

    /// When [`Self::flush`] has something to do.
    pub(super) fn next(&mut self, now: Tick) -> Tick {
        if self.is_idle() {
            return Tick(u64::MAX);
        }
        let wait = self.interface.poll_delay(instant(now), &self.sockets);
        let wait = wait.map_or(LOOK_EVERY, |wait| Duration::from_micros(wait.total_micros()));
        now + wait.min(LOOK_EVERY)
    }

    /// Ends the connections of `session`.
    pub(super) fn session_ended(&mut self, session: SessionId) {
        for place in 0..self.places.len() {
            if self.places[place].conn.as_ref().is_some_and(|conn| conn.session == session) {
                self.socket(place).abort();
            }
        }
    }

    fn place_of(&self, address: Ipv4Addr, tcp_port: u16) -> Option<usize> {
        self.places.iter().position(|place| {
            let from = place.conn.as_ref().map(|conn| &conn.from);
            from.is_some_and(|from| (from.address, from.tcp_port) == (address, tcp_port))
        })
    }

    fn socket(&mut self, place: usize) -> &mut Socket<'static> {
        let handle = self.places[place].socket;
        self.sockets.get_mut(handle)
    }

    /// A place whose socket takes the connection `from` asks for; `None` if he may not have it.
    fn listen(&mut self, from: &Peer, now: Tick) -> Option<usize> {
        let session = from.origin.session;
        let conns = self.places.iter().filter_map(|place| place.conn.as_ref());
        if conns.filter(|conn| conn.session == session).count() >= self.limits.connections_per_session {
            return None;
        }
        let place = match self.places.iter().position(|place| place.conn.is_none()) {
            Some(place) => place,
            None if self.places.len() >= self.limits.connections_max => return None,
            None => self.add_place(),
        };
        self.socket(place).listen(dns::PORT).ok()?;
        self.number += 1;
        self.places[place].conn = Some(Conn {
            number: self.number,
            from: *from,
            session,
            active: now,
            inbox: Vec::new(),
            under_way: 0,
            outbox: VecDeque::new(),
            sent: 0,
            closing: None,
        });
        Some(place)
    }

    fn add_place(&mut self) -> usize {
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(RECEIVE_BYTES), buffer(SEND_BYTES));
        socket.set_timeout(Some(TcpDuration::from_secs(STALLED.as_secs())));
        // Answers are written whole.
        socket.set_nagle_enabled(false);
        let socket = self.sockets.add(socket);
        self.places.push(Place { socket, conn: None });
        self.places.len() - 1
    }

    /// The next whole question of the connection at `place`, unless it has enough under way.
    fn read(&mut self, place: usize, now: Tick) -> Option<Result<TcpQuestion, DropReason>> {
        let Place { socket, conn } = &mut self.places[place];
        let conn = conn.as_mut()?;
        let socket = self.sockets.get_mut::<Socket<'_>>(*socket);
        while socket.can_recv() && conn.closing.is_none() && conn.under_way + conn.outbox.len() < UNDER_WAY_MAX {
            // At least a byte: what is whole never stays in the inbox.
            let missing = wanted(&conn.inbox) - conn.inbox.len();
            let inbox = &mut conn.inbox;
            let taken = socket.recv(|bytes| {
                let taken = bytes.len().min(missing);
                inbox.extend(&bytes[..taken]);
                (taken, taken)
            });
            if taken.is_err() {
                return None;
            }
            let [_, _, begun @ ..] = &conn.inbox[..] else { continue };
            let message_bytes = wanted(&conn.inbox) - 2;
            if !(dns::HEADER_BYTES..=QUESTION_BYTES_MAX).contains(&message_bytes) {
                socket.abort();
                conn.closing = Some(now);
                return Some(Err(DropReason::GatewayDnsMalformed));
            }
            if begun.len() == message_bytes {
                let message = conn.inbox.split_off(2);
                conn.inbox.clear();
                conn.active = now;
                conn.under_way += 1;
                let conn_ref = ConnRef { place, number: conn.number };
                return Some(Ok(TcpQuestion { conn: conn_ref, from: conn.from.origin, message }));
            }
        }
        None
    }

    /// Gives the socket at `place` what it has room for.
    fn write(&mut self, place: usize) {
        let Place { socket, conn: Some(conn) } = &mut self.places[place] else { return };
        let socket = self.sockets.get_mut::<Socket<'_>>(*socket);
        while let Some(first) = conn.outbox.front().filter(|_| socket.can_send()) {
            conn.sent += socket.send_slice(&first[conn.sent..]).unwrap_or(0);
            if conn.sent < first.len() {
                return;
            }
            conn.outbox.pop_front();
            conn.sent = 0;
        }
    }

    /// Ends the connection at `place` when there is nothing to come, or nothing came for too long.
    fn end(&mut self, place: usize, now: Tick) {
        let Place { socket, conn: Some(conn) } = &mut self.places[place] else { return };
        let socket = self.sockets.get_mut::<Socket<'_>>(*socket);
        let is_quiet = conn.under_way == 0 && conn.outbox.is_empty();
        let quiet_for = now.since(conn.active);
        if conn.closing.is_some_and(|since| now.since(since) > CLOSING) || quiet_for > STALLED {
            socket.abort();
        } else if conn.closing.is_none() && is_quiet && (quiet_for > IDLE || socket.state() == State::CloseWait) {
            conn.closing = Some(now);
            socket.close();
        }
    }
}

/// Bytes of the message in `inbox`, its length included, as far as that is known.
fn wanted(inbox: &[u8]) -> usize {
    match inbox {
        [high, low, ..] => 2 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => 2,
    }
}

/// Address and port that a packet of ours goes to.
fn destination(packet: &[u8]) -> Option<(Ipv4Addr, u16)> {
    let packet = Ipv4::new_checked(packet)?;
    let (_, to_port) = l4_ports(packet.payload())?;
    Some((packet.dst(), to_port))
}

fn instant(now: Tick) -> TcpInstant {
    TcpInstant::from_micros(i64::try_from(now.0 / 1000).unwrap_or(i64::MAX))
}

/// A device in memory: one packet in, some out.
#[derive(Default)]
struct Queues {
    incoming: Option<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    /// Who sent the packet under way, for a reset that belongs to no connection.
    asker: Option<Peer>,
}

struct Incoming(Vec<u8>);

struct Outgoing<'q>(&'q mut VecDeque<Vec<u8>>);

impl Device for Queues {
    type RxToken<'q> = Incoming;
    type TxToken<'q> = Outgoing<'q>;

    fn receive(&mut self, _: TcpInstant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.incoming.take()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: TcpInstant) -> Option<Outgoing<'_>> {
        (self.outgoing.len() < PACKETS_AT_ONCE).then_some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        self.0.push_back(packet);
        result
    }
}

/// Questions are short, and read as they come.
const RECEIVE_BYTES: usize = 2048;
/// Eleven segments under way; the rest of an answer waits in the outbox.
const SEND_BYTES: usize = 16 * 1024;
/// Questions of one connection that are not answered completely; 4 answers of 64 KiB each are kept for it at most.
const UNDER_WAY_MAX: usize = 4;
/// What one frame or timer can make the gateway send: to one connection, and to all.
const SEGMENTS_AT_ONCE: usize = 12;
const PACKETS_AT_ONCE: usize = 256;
/// Some seconds (RFC 7766 §6.2.3); few, as there are many members.
const IDLE: Duration = Duration::from_secs(10);
/// Longer than any answer takes, for those who do not read it.
const STALLED: Duration = Duration::from_secs(30);
/// Time for the exchange of FINs; the quiet time after it (10 s in smoltcp) included.
const CLOSING: Duration = Duration::from_secs(15);
/// How often connections are looked at whatever happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
