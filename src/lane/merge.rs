//! What a lane sends in one go, and the merging of TCP segments in it.
//!
//! A virtual device moves a packet of 64 KiB for the price of four of 1,500 bytes, and a physical one cuts it in
//! hardware. So segments of one connection that follow each other become one *super-packet*, by the rules that Linux
//! keeps when it receives (GRO): headers equal but for what counts along, sequence numbers without a gap, all
//! segments of one size and only the last shorter, nothing behind PSH, don't-fragment set. Cutting the result gives
//! the same segments again (`cut.rs`).
//!
//! 1. [`TxBurst::push`] looks whether the packet goes on with one that is still open; if so only its payload is copied.
//! 2. Otherwise it becomes a message of its own, which ends the open one of its connection: order inside a connection
//!    is that of arrival.
//! 3. [`TxBurst::seal`] writes lengths and unfinished checksums of what was merged; the back end sends.
//!
//! Of pure acknowledgements that follow each other in a burst, a later one takes the place of those before it: they
//! count up, so it says all that they said. Each that stays saves the other side the work for the others, which on a
//! virtual device is ours. One that says the same again (a sign of loss), or more than how far (SACK), stays as it is.
//!
//! A message's bytes lie as pieces in one arena, in the order in which they came: memory stays dense however many
//! connections take turns. A checksum that is finished is verified before its segment is merged, because afterwards
//! nobody could see that it was wrong; what does not hold travels alone, as it came.
#![forbid(unsafe_code)]

use crate::wire::checksum::Sum;
use crate::wire::ethernet::HEADER_BYTES as ETHERNET_BYTES;
use crate::wire::ipv4::Ipv4;
use crate::wire::offload::{L4Checksum, Offload};
use crate::wire::{ipv6, tcp, udp};

/// The burst has no room left: it has to be sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BurstFull;

/// See the module text.
#[derive(Debug)]
pub struct TxBurst {
    arena: Box<[u8]>,
    used: usize,
    pieces: Vec<Piece>,
    messages: Vec<Message>,
    /// By hash of the connection: the message that may grow.
    open: Box<[Open]>,
    /// By hash of the connection: the acknowledgement that a later one may replace.
    acks: Box<[OpenAck]>,
    /// Entries of `open` with another number are from a burst that was sent.
    round: u32,
    merges: bool,
}

/// A stretch of the arena.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
    next: Option<u16>,
}

/// A frame to be sent.
#[derive(Clone, Copy, Debug)]
struct Message {
    first: u16,
    last: u16,
    frame_bytes: usize,
    offload: Offload,
    /// Segments that were put into it; 1: as it came.
    parts: u16,
    /// Acknowledgements whose place it took.
    acks: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct OpenAck {
    round: u32,
    message: u16,
    flow: Flow,
    seq: u32,
    ack: u32,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    round: u32,
    message: u16,
    flow: Flow,
    next_seq: u32,
    headers: usize,
    segment_bytes: usize,
    /// The first segment's checksum was looked at, or had nothing to look at.
    verified: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flow {
    addresses: u64,
    ports: u32,
}

/// A message of a sealed burst.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    burst: &'a TxBurst,
    message: &'a Message,
}

impl<'a> Outgoing<'a> {
    /// What is left to do on the way.
    pub fn offload(&self) -> Offload {
        self.message.offload
    }

    /// Length of the frame, Ethernet header included.
    pub fn frame_bytes(&self) -> usize {
        self.message.frame_bytes
    }

    /// Segments that were merged into it, or acknowledgements it stands for; 1 if none were.
    pub fn parts(&self) -> u16 {
        self.message.parts + self.message.acks
    }

    /// Lengths of the headers up to that of TCP or UDP, and where in it the checksum stands, as far as `offload` needs it.
    pub fn l4(&self) -> Option<L4Place> {
        let piece = &self.burst.pieces[usize::from(self.message.first)];
        L4Place::of_either(&self.burst.arena[piece.start + ETHERNET_BYTES..piece.end])
    }

    /// The bytes, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let burst = self.burst;
        let mut next = Some(self.message.first);
        std::iter::from_fn(move || {
            let piece = &burst.pieces[usize::from(next?)];
            next = piece.next;
            Some(&burst.arena[piece.start..piece.end])
        })
    }
}

/// Where in an IP packet the header of TCP or UDP stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L4Place {
    /// [`tcp::PROTOCOL`] or [`udp::PROTOCOL`].
    pub protocol: u8,
    /// The packet is one of IPv6.
    pub is_v6: bool,
    /// Offset of the header in the packet.
    pub at: usize,
    /// Length of the header.
    pub header_bytes: usize,
    /// Offset of the checksum in the header.
    pub checksum_at: usize,
}

impl L4Place {
    /// `None` if `packet` is no TCP or UDP over IPv4 with its whole header, or a fragment.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let ip = Ipv4::new_checked(packet)?;
        if ip.is_fragment() {
            return None;
        }
        let (protocol, at) = (ip.protocol(), ip.header_bytes());
        let (header_bytes, checksum_at) = match protocol {
            tcp::PROTOCOL => (usize::from(*packet.get(at + 12)? >> 4) * 4, 16),
            udp::PROTOCOL => (udp::HEADER_BYTES, 6),
            _ => return None,
        };
        let least = if protocol == tcp::PROTOCOL { TCP_HEADER_BYTES_MIN } else { udp::HEADER_BYTES };
        let fits = header_bytes >= least && at + header_bytes <= packet.len();
        fits.then_some(Self { protocol, is_v6: false, at, header_bytes, checksum_at })
    }

    /// The same, also for TCP right behind the header of IPv6: all that merging takes.
    #[inline]
    fn of_either(packet: &[u8]) -> Option<Self> {
        if !is_v6(packet) {
            return Self::of(packet);
        }
        let at = ipv6::HEADER_BYTES;
        let header_bytes = usize::from(*packet.get(at + 12)? >> 4) * 4;
        let fits =
            packet[6] == tcp::PROTOCOL && header_bytes >= TCP_HEADER_BYTES_MIN && at + header_bytes <= packet.len();
        fits.then_some(Self { protocol: tcp::PROTOCOL, is_v6: true, at, header_bytes, checksum_at: 16 })
    }

    /// Offset of the payload in the packet.
    pub fn headers(self) -> usize {
        self.at + self.header_bytes
    }

    /// Whether the checksum of `packet`, a whole one, looks like one that has to be finished.
    #[inline]
    pub fn is_begun(self, packet: &[u8]) -> bool {
        let field = pseudo(packet, self.protocol, packet.len() - self.at).partial();
        packet[self.at + self.checksum_at..][..2] == field.to_be_bytes()
    }

    /// Makes the checksum of `packet`, whose headers these are, one that has to be finished.
    pub(super) fn begin_checksum(self, packet: &mut [u8], l4_bytes: usize) {
        let field = pseudo(packet, self.protocol, l4_bytes).partial();
        packet[self.at + self.checksum_at..][..2].copy_from_slice(&field.to_be_bytes());
    }
}

/// Sum of the pseudo-header of `packet`.
pub(super) fn pseudo(packet: &[u8], protocol: u8, l4_bytes: usize) -> Sum {
    // A packet is no longer than its length field can say.
    let l4_bytes = u16::try_from(l4_bytes).unwrap_or(u16::MAX);
    // Twice, because the short one is quick when its length is known.
    let addresses = match is_v6(packet) {
        true => Sum::ZERO.bytes(&packet[8..ipv6::HEADER_BYTES]),
        false => Sum::ZERO.bytes(&packet[12..20]),
    };
    addresses.word(u16::from(protocol)).word(l4_bytes)
}

#[inline]
fn is_v6(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 6)
}

/// A TCP segment as merging sees it.
struct Segment {
    flow: Flow,
    place: L4Place,
    seq: u32,
    flags: u8,
    payload: usize,
}

impl Segment {
    /// `None` for what is never merged and keeps no order with what is.
    fn of(packet: &[u8]) -> Option<Self> {
        let place = L4Place::of_either(packet)?;
        if place.protocol != tcp::PROTOCOL {
            return None;
        }
        let l4 = &packet[place.at..];
        let addresses = match place.is_v6 {
            // They are longer: whether they are equal is seen from the headers.
            true => {
                let (words, _) = packet[8..ipv6::HEADER_BYTES].as_chunks();
                words.iter().fold(0, |mixed: u64, word| mixed.rotate_left(9) ^ u64::from_be_bytes(*word))
            }
            false => u64::from_be_bytes(*packet[12..].first_chunk()?),
        };
        let flow = Flow { addresses, ports: u32::from_be_bytes(*l4.first_chunk()?) };
        let seq = u32::from_be_bytes(*l4[4..].first_chunk()?);
        Some(Self { flow, place, seq, flags: l4[13], payload: packet.len() - place.headers() })
    }

    /// How far it acknowledges, if it does nothing else.
    fn pure_ack(&self, packet: &[u8]) -> Option<u32> {
        let plain_ip = packet[0] == 0x45 && packet[6] & 0x40 != 0;
        let lengths_hold = usize::from(u16::from_be_bytes([packet[2], packet[3]])) == packet.len();
        let l4 = &packet[self.place.at..];
        let plain_options = match self.place.header_bytes {
            TCP_HEADER_BYTES_MIN => true,
            // Two to fill up, and timestamps (RFC 7323 appendix A).
            32 => l4[20..24] == [1, 1, 8, 10],
            _ => false,
        };
        let is_pure = plain_ip && lengths_hold && plain_options && self.payload == 0 && self.flags == tcp::FLAG_ACK;
        if is_pure { l4[8..].first_chunk().map(|ack| u32::from_be_bytes(*ack)) } else { None }
    }

    /// Whether it may be part of a super-packet at all.
    fn may_merge(&self, packet: &[u8]) -> bool {
        let (plain_ip, length_at, beside) = match is_v6(packet) {
            true => (true, 4, ipv6::HEADER_BYTES),
            false => (packet[0] == 0x45 && packet[6] & 0x40 != 0, 2, 0),
        };
        let length = u16::from_be_bytes([packet[length_at], packet[length_at + 1]]);
        let lengths_hold = usize::from(length) + beside == packet.len();
        let plain_tcp = self.flags & !(tcp::FLAG_PSH | tcp::FLAG_ECE) == tcp::FLAG_ACK;
        plain_ip && lengths_hold && plain_tcp && self.payload > 0
    }
}

impl TxBurst {
    /// For about `bytes` of frames; `merges`: whether the back end takes super-packets.
    pub fn new(bytes: usize, merges: bool) -> Self {
        let none = Open {
            round: 0,
            message: 0,
            flow: Flow::default(),
            next_seq: 0,
            headers: 0,
            segment_bytes: 0,
            verified: false,
        };
        Self {
            arena: vec![0; bytes.max(PACKET_BYTES_MAX + ETHERNET_BYTES)].into_boxed_slice(),
            used: 0,
            pieces: Vec::with_capacity(PIECES_MAX),
            messages: Vec::with_capacity(MESSAGES_MAX),
            open: vec![none; OPEN_FLOWS].into_boxed_slice(),
            acks: vec![OpenAck::default(); OPEN_FLOWS].into_boxed_slice(),
            round: 1,
            merges,
        }
    }

    /// Nothing to send.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// So much is waiting that it should be sent before more is taken in.
    pub fn is_half_full(&self) -> bool {
        self.used > self.arena.len() / 2 || self.messages.len() > MESSAGES_MAX / 2 || self.pieces.len() > PIECES_MAX / 2
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Message number `index`, after [`Self::seal`].
    pub fn message(&self, index: usize) -> Option<Outgoing<'_>> {
        self.messages.get(index).map(|message| Outgoing { burst: self, message })
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.used = 0;
        self.pieces.clear();
        self.messages.clear();
        self.round = self.round.wrapping_add(1);
    }

    /// A frame that is none of IP, as it stands.
    ///
    /// # Errors
    /// If there is no room.
    pub fn push_frame(&mut self, frame: &[u8]) -> Result<(), BurstFull> {
        self.room(frame.len())?;
        self.begin(&[frame], Offload::NONE);
        Ok(())
    }

    /// Copies the IP packet `packet` behind an Ethernet header, or to the packet of its connection that is open.
    ///
    /// # Errors
    /// If there is no room; the burst is as before.
    #[inline]
    pub fn push(&mut self, ethernet: &[u8; ETHERNET_BYTES], packet: &[u8], offload: Offload) -> Result<(), BurstFull> {
        self.room(ETHERNET_BYTES + packet.len())?;
        let segment = if self.merges { Segment::of(packet) } else { None };
        let Some(segment) = segment else {
            self.add(ethernet, packet, offload);
            return Ok(());
        };
        let place = segment.flow.place();
        if let Some(ack) = segment.pure_ack(packet).filter(|_| offload == Offload::NONE) {
            self.acknowledge(place, ethernet, packet, &segment, ack);
            return Ok(());
        }
        if self.acks[place].flow == segment.flow {
            self.acks[place].round = self.round.wrapping_sub(1);
        }
        let may_merge = segment.may_merge(packet);
        let open = self.open[place];
        if open.round == self.round && open.flow == segment.flow {
            if may_merge && self.append(place, ethernet, packet, offload, &segment) {
                return Ok(());
            }
            self.open[place].round = self.round.wrapping_sub(1);
        }
        let message = self.add(ethernet, packet, offload);
        let segment_bytes = match offload.segment_bytes {
            0 => segment.payload,
            bytes => usize::from(bytes),
        };
        let is_whole = segment.payload.is_multiple_of(segment_bytes.max(1));
        if may_merge && segment.flags & tcp::FLAG_PSH == 0 && segment_bytes >= SEGMENT_BYTES_MIN && is_whole {
            self.open[place] = Open {
                round: self.round,
                message,
                flow: segment.flow,
                next_seq: advance(segment.seq, segment.payload),
                headers: segment.place.headers(),
                segment_bytes,
                verified: offload.checksum != L4Checksum::Complete || offload.segment_bytes > 0,
            };
        }
        Ok(())
    }

    /// Finishes the headers of merged packets. Afterwards the messages may be read.
    pub fn seal(&mut self) {
        for message in &mut self.messages {
            if message.parts == 1 {
                continue;
            }
            let Piece { start, .. } = self.pieces[usize::from(message.first)];
            let total = message.frame_bytes - ETHERNET_BYTES;
            let packet = &mut self.arena[start + ETHERNET_BYTES..];
            set_total_bytes(packet, total);
            if let Some(place) = L4Place::of_either(packet) {
                place.begin_checksum(packet, total - place.at);
            }
            message.offload.checksum = L4Checksum::Partial;
        }
        // What comes now would change sealed headers.
        self.round = self.round.wrapping_add(1);
    }

    /// Puts a pure acknowledgement in the place of the one before, or gives it a message of its own.
    fn acknowledge(
        &mut self,
        place: usize,
        ethernet: &[u8; ETHERNET_BYTES],
        packet: &[u8],
        segment: &Segment,
        ack: u32,
    ) {
        // Data that came before it stays before it.
        if self.open[place].flow == segment.flow {
            self.open[place].round = self.round.wrapping_sub(1);
        }
        let open = self.acks[place];
        let goes_on = open.round == self.round && open.flow == segment.flow && open.seq == segment.seq;
        let ahead = ack.wrapping_sub(open.ack);
        if goes_on && (1..ACK_AHEAD_MAX).contains(&ahead) {
            let message = &mut self.messages[usize::from(open.message)];
            let Piece { start, end, .. } = self.pieces[usize::from(message.first)];
            let is_alike =
                end - start == ETHERNET_BYTES + packet.len() && self.arena[start..][..ETHERNET_BYTES] == *ethernet;
            if is_alike && message.acks < ACKS_MAX && checksum_holds(packet, segment.place) {
                self.arena[start + ETHERNET_BYTES..end].copy_from_slice(packet);
                message.acks += 1;
                self.acks[place].ack = ack;
                return;
            }
        }
        let message = self.add(ethernet, packet, Offload::NONE);
        self.acks[place] = OpenAck { round: self.round, message, flow: segment.flow, seq: segment.seq, ack };
    }

    fn room(&self, bytes: usize) -> Result<(), BurstFull> {
        let fits = self.used + bytes <= self.arena.len();
        let counts = self.messages.len() < MESSAGES_MAX && self.pieces.len() < PIECES_MAX;
        if fits && counts { Ok(()) } else { Err(BurstFull) }
    }

    /// A message of its own; its number.
    fn add(&mut self, ethernet: &[u8], packet: &[u8], offload: Offload) -> u16 {
        let start = self.used;
        let number = self.begin(&[ethernet, packet], offload);
        let is_finished = offload.checksum == L4Checksum::Complete && offload.segment_bytes == 0;
        if is_finished || offload.checksum == L4Checksum::Partial {
            return number;
        }
        // Whoever sends it on computes the checksum; on a virtual device nobody has to.
        let copy = &mut self.arena[start + ETHERNET_BYTES..self.used];
        let checksum = match L4Place::of(copy) {
            Some(place) => {
                let l4_bytes = copy.len() - place.at;
                place.begin_checksum(copy, l4_bytes);
                L4Checksum::Partial
            }
            // A fragment or another protocol: nothing can be done about it here.
            None => L4Checksum::Complete,
        };
        self.messages[usize::from(number)].offload.checksum = checksum;
        number
    }

    fn begin(&mut self, parts: &[&[u8]], offload: Offload) -> u16 {
        let start = self.used;
        for part in parts {
            self.arena[self.used..][..part.len()].copy_from_slice(part);
            self.used += part.len();
        }
        let piece = index(self.pieces.len());
        self.pieces.push(Piece { start, end: self.used, next: None });
        let frame_bytes = self.used - start;
        self.messages.push(Message { first: piece, last: piece, frame_bytes, offload, parts: 1, acks: 0 });
        index(self.messages.len() - 1)
    }

    /// Whether the segment could be put behind the open message at `place`.
    fn append(
        &mut self,
        place: usize,
        ethernet: &[u8; ETHERNET_BYTES],
        packet: &[u8],
        offload: Offload,
        segment: &Segment,
    ) -> bool {
        let open = self.open[place];
        let message = self.messages[usize::from(open.message)];
        let Piece { start, end, .. } = self.pieces[usize::from(message.first)];
        let first = &self.arena[start..end];
        let sizes_fit = match offload.segment_bytes {
            0 => segment.payload <= open.segment_bytes,
            bytes => usize::from(bytes) == open.segment_bytes,
        };
        let fits = sizes_fit
            && segment.seq == open.next_seq
            && segment.place.headers() == open.headers
            && message.frame_bytes + segment.payload <= PACKET_BYTES_MAX + ETHERNET_BYTES
            && first[..ETHERNET_BYTES] == *ethernet
            && same_headers(&first[ETHERNET_BYTES..], packet, segment.place);
        let is_single = offload.checksum == L4Checksum::Complete && offload.segment_bytes == 0;
        if !fits || (is_single && !checksum_holds(packet, segment.place)) {
            return false;
        }
        if !open.verified && !checksum_holds(&first[ETHERNET_BYTES..], segment.place) {
            return false;
        }
        self.grow(open, packet, segment);
        let goes_on = segment.flags & tcp::FLAG_PSH == 0 && segment.payload.is_multiple_of(open.segment_bytes);
        let entry = &mut self.open[place];
        entry.verified = true;
        entry.next_seq = advance(segment.seq, segment.payload);
        if !goes_on {
            entry.round = self.round.wrapping_sub(1);
        }
        true
    }

    fn grow(&mut self, open: Open, packet: &[u8], segment: &Segment) {
        let payload = &packet[open.headers..];
        let start = self.used;
        self.arena[start..][..payload.len()].copy_from_slice(payload);
        self.used += payload.len();
        let message = &mut self.messages[usize::from(open.message)];
        let last = &mut self.pieces[usize::from(message.last)];
        if last.end == start {
            last.end = self.used;
        } else {
            let number = index(self.pieces.len());
            self.pieces[usize::from(message.last)].next = Some(number);
            self.pieces.push(Piece { start, end: self.used, next: None });
            message.last = number;
        }
        message.frame_bytes += payload.len();
        message.parts += 1;
        message.offload.segment_bytes = u16::try_from(open.segment_bytes).unwrap_or(u16::MAX);
        let flags_at = self.pieces[usize::from(message.first)].start + ETHERNET_BYTES + segment.place.at + 13;
        self.arena[flags_at] |= segment.flags & tcp::FLAG_PSH;
    }
}

impl Flow {
    /// Where in the table of open messages.
    fn place(self) -> usize {
        let mixed = (self.addresses ^ u64::from(self.ports)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The upper bits of a product depend on all bits of its factors.
        usize::try_from(mixed >> 32).unwrap_or(0) % OPEN_FLOWS
    }
}

/// Equal but for length, identification, checksums, sequence number and PSH.
fn same_headers(a: &[u8], b: &[u8], place: L4Place) -> bool {
    let (x, y) = (&a[place.at..place.headers()], &b[place.at..place.headers()]);
    let same_ip = match is_v6(a) {
        true => a[..4] == b[..4] && a[6..ipv6::HEADER_BYTES] == b[6..ipv6::HEADER_BYTES],
        false => a[..2] == b[..2] && a[6..10] == b[6..10],
    };
    same_ip
        && x[8..13] == y[8..13]
        && (x[13] ^ y[13]) & !tcp::FLAG_PSH == 0
        && x[14..16] == y[14..16]
        && x[18..] == y[18..]
}

/// Whether the finished TCP checksum of `packet` is right.
fn checksum_holds(packet: &[u8], place: L4Place) -> bool {
    let l4 = &packet[place.at..];
    pseudo(packet, place.protocol, l4.len()).bytes(l4).finish() == 0
}

/// Writes the length in an IP header, and its checksum, anew; `total` is that of the packet.
pub(super) fn set_total_bytes(packet: &mut [u8], total: usize) {
    if is_v6(packet) {
        let payload = u16::try_from(total - ipv6::HEADER_BYTES).unwrap_or(u16::MAX);
        return packet[4..6].copy_from_slice(&payload.to_be_bytes());
    }
    let total = u16::try_from(total).unwrap_or(u16::MAX);
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[10..12].fill(0);
    let header = usize::from(packet[0] & 0xf) * 4;
    let checksum = Sum::ZERO.bytes(&packet[..header]).finish();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn advance(seq: u32, payload: usize) -> u32 {
    // A packet is shorter than 64 KiB.
    seq.wrapping_add(u32::try_from(payload).unwrap_or(0))
}

fn index(at: usize) -> u16 {
    u16::try_from(at).expect("pieces and messages are fewer than 65,536")
}

const TCP_HEADER_BYTES_MIN: usize = 20;
/// Longest packet that the length field of IPv4 can name.
pub const PACKET_BYTES_MAX: usize = 65_535;
/// Shorter segments are not a bulk transfer: to wait for more of them gains nothing.
const SEGMENT_BYTES_MIN: usize = 256;
/// Acknowledgements of which the last one stands for all: with two segments each, half of what a super-packet holds.
/// More would let the sender burst.
const ACKS_MAX: u16 = 15;
/// Further ahead than any window: not the next, but a wrong or an old one.
const ACK_AHEAD_MAX: u32 = 1 << 30;
/// Connections that take turns within a burst; two that meet in one place end each other's packets, no more.
const OPEN_FLOWS: usize = 64;
/// Frames of one burst; a turn of a worker seldom has more, and then sends twice.
pub const MESSAGES_MAX: usize = 256;
/// Every message needs one, every change between connections one more.
const PIECES_MAX: usize = 1024;
