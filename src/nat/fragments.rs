//! Fragments: gathered into whole datagrams before translation, cut again behind it.
//!
//! Only the first fragment has ports. Those from outside come to one worker, chosen by a hash, which hands them to the
//! owner of the port once it has seen the first; the owner puts them together. Memory is bounded in all and for each
//! source. When it is full the oldest datagram goes: a real one is complete within milliseconds.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::Nat;
use super::events::{Insider, NatSink};
use super::parse::{self, Head};
use super::plan::Proto;
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::{HEADER_BYTES_MIN, Ipv4};
use crate::wire::offload::Offload;
use crate::wire::{tcp, udp};

/// What fragments of a datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    identification: u16,
    protocol: u8,
}

#[derive(Debug)]
struct Datagram {
    born: Tick,
    /// Whole fragments in the order they came; offset and length of their payload.
    pieces: Vec<(usize, usize, Box<[u8]>)>,
    /// Bytes of payload gathered.
    bytes: usize,
    /// Length of the whole payload, once the last fragment is here.
    end: Option<usize>,
    state: Gathering,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gathering {
    Here,
    /// Fragments go to that worker.
    Handed(usize),
    /// Something was wrong with one; so is the rest.
    Refused,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Fragments {
    datagrams: BTreeMap<Key, Datagram>,
    /// In the order they began.
    order: VecDeque<(Tick, Key)>,
    bytes: usize,
    bytes_max: usize,
    timeout: Duration,
}

/// A datagram that is complete.
type Whole = Vec<u8>;

impl Fragments {
    /// For one of `workers`, which share the memory.
    pub(super) fn new(timeout: Duration, workers: usize) -> Self {
        let bytes_max = (BYTES_MAX / workers.max(1)).max(SOURCE_BYTES_MAX);
        Self { datagrams: BTreeMap::new(), order: VecDeque::new(), bytes: 0, bytes_max, timeout }
    }

    pub(super) fn len(&self) -> usize {
        self.datagrams.len()
    }

    pub(super) fn next_at(&self) -> Option<Tick> {
        self.order.front().map(|(born, _)| *born + self.timeout)
    }

    pub(super) fn expire(&mut self, now: Tick, sink: &mut impl NatSink) {
        while self.order.front().is_some_and(|(born, _)| *born + self.timeout <= now) {
            self.drop_oldest(sink);
        }
    }

    fn drop_oldest(&mut self, sink: &mut impl NatSink) {
        let Some((born, key)) = self.order.pop_front() else { return };
        if self.datagrams.get(&key).is_some_and(|datagram| datagram.born == born) {
            let pieces = self.remove(key).map_or(0, |datagram| datagram.pieces.len());
            (0..pieces).for_each(|_| sink.dropped(DropReason::NatFragment));
        }
    }

    fn remove(&mut self, key: Key) -> Option<Datagram> {
        let datagram = self.datagrams.remove(&key)?;
        self.bytes -= datagram.bytes;
        Some(datagram)
    }

    /// Adds a fragment; the datagram if it is complete now.
    fn gather(
        &mut self,
        key: Key,
        packet: &[u8],
        now: Tick,
        sink: &mut impl NatSink,
    ) -> Result<Option<Whole>, DropReason> {
        let (offset, length, last) = extent(packet)?;
        if self.datagrams.get(&key).is_some_and(|datagram| datagram.state == Gathering::Refused) {
            return Err(DropReason::NatFragment);
        }
        let of_source: (usize, usize) = self
            .datagrams
            .range(Key { dst: Ipv4Addr::UNSPECIFIED, identification: 0, protocol: 0, ..key }..)
            .take_while(|(other, _)| other.src == key.src)
            .fold((0, 0), |(count, bytes), (_, datagram)| (count + 1, bytes + datagram.bytes));
        let is_new = !self.datagrams.contains_key(&key);
        if of_source.1 + length > SOURCE_BYTES_MAX || (is_new && of_source.0 >= SOURCE_DATAGRAMS_MAX) {
            return Err(DropReason::NatFragmentLimit);
        }
        while self.bytes + length > self.bytes_max || (is_new && self.datagrams.len() >= DATAGRAMS_MAX) {
            if self.order.is_empty() {
                return Err(DropReason::NatFragmentLimit);
            }
            self.drop_oldest(sink);
        }
        let datagram = self.datagrams.entry(key).or_insert_with(|| {
            self.order.push_back((now, key));
            Datagram { born: now, pieces: Vec::new(), bytes: 0, end: None, state: Gathering::Here }
        });
        match datagram.add(offset, length, last, packet) {
            Err(reason) => {
                // What is here goes; what follows meets the refusal until its time is up.
                self.bytes -= datagram.bytes;
                let pieces = std::mem::take(&mut datagram.pieces);
                (datagram.bytes, datagram.state) = (0, Gathering::Refused);
                pieces.iter().for_each(|_| sink.dropped(reason));
                Err(reason)
            }
            Ok(added) => {
                self.bytes += added;
                if datagram.end != Some(datagram.bytes) {
                    return Ok(None);
                }
                Ok(self.remove(key).and_then(|datagram| datagram.assemble()))
            }
        }
    }
}

impl Datagram {
    /// Bytes that were added: none for a copy of what is here.
    fn add(&mut self, offset: usize, length: usize, last: bool, packet: &[u8]) -> Result<usize, DropReason> {
        let end = offset + length;
        let same = |piece: &&(usize, usize, Box<[u8]>)| piece.0 == offset && piece.1 == length;
        if let Some(piece) = self.pieces.iter().find(same)
            && payload(&piece.2) == payload(packet)
        {
            return Ok(0);
        }
        let overlaps = self.pieces.iter().any(|(o, l, _)| offset < o + l && *o < end);
        let beyond = self.end.is_some_and(|known| end > known || last)
            || (last && self.pieces.iter().any(|(o, l, _)| o + l > end));
        if overlaps || beyond || self.pieces.len() >= PIECES_MAX {
            return Err(DropReason::NatFragment);
        }
        if last {
            self.end = Some(end);
        }
        self.pieces.push((offset, length, packet.into()));
        self.bytes += length;
        Ok(length)
    }

    /// The header of the first fragment before all payloads.
    fn assemble(mut self) -> Option<Whole> {
        self.pieces.sort_by_key(|piece| piece.0);
        let (_, _, first) = self.pieces.first()?;
        let header = Ipv4::new_checked(first)?.header_bytes();
        let mut whole = first[..header].to_vec();
        for (_, _, piece) in &self.pieces {
            whole.extend_from_slice(payload(piece));
        }
        let total = u16::try_from(whole.len()).ok()?;
        whole[2..4].copy_from_slice(&total.to_be_bytes());
        whole[6..8].fill(0);
        finish_header(&mut whole[..header]);
        Some(whole)
    }
}

/// Offset and length of the payload, and whether no fragment follows. Fragments that no honest stack makes are refused:
/// empty ones, such as reach beyond 65,535 bytes, and first ones that cut their transport header in two (RFC 1858).
fn extent(packet: &[u8]) -> Result<(usize, usize, bool), DropReason> {
    let ip = Ipv4::new_checked(packet).ok_or(DropReason::NatMalformed)?;
    let (offset, length) = (usize::from(ip.fragment_offset()) * 8, ip.payload().len());
    let header = match ip.protocol() {
        tcp::PROTOCOL => tcp::HEADER_BYTES_MIN,
        _ => udp::HEADER_BYTES,
    };
    let tiny = offset == 0 && length < header;
    let uneven = ip.more_fragments() && length % 8 != 0;
    if length == 0 || tiny || uneven || ip.header_bytes() + offset + length > usize::from(u16::MAX) {
        return Err(DropReason::NatFragment);
    }
    Ok((offset, length, !ip.more_fragments()))
}

fn payload(packet: &[u8]) -> &[u8] {
    Ipv4::new_checked(packet).map_or(&[], Ipv4::payload)
}

fn finish_header(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = Sum::ZERO.bytes(header).finish();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

impl Nat {
    pub(super) fn outbound_fragment(
        &mut self,
        from: &Insider,
        head: &Head,
        packet: &[u8],
        now: Tick,
        sink: &mut impl NatSink,
    ) {
        if Proto::from_number(head.protocol).is_none() {
            return sink.dropped(DropReason::NatProtocol);
        }
        match self.fragments.gather(key(head, packet), packet, now, sink) {
            Err(reason) => sink.dropped(reason),
            Ok(None) => {}
            Ok(Some(mut whole)) => match Head::parse(&whole) {
                Ok(head) => self.outbound_whole(from, &head, &mut whole, Offload::NONE, now, sink),
                Err(reason) => sink.dropped(reason),
            },
        }
    }

    pub(super) fn inbound_fragment(&mut self, head: &Head, packet: &mut [u8], now: Tick, sink: &mut impl NatSink) {
        if Proto::from_number(head.protocol).is_none() {
            return sink.dropped(DropReason::NatProtocol);
        }
        if !self.plan.is_external(head.dst) {
            if let Err(refusal) = self.deliver_untranslated(head, packet, Offload::NONE, sink) {
                sink.dropped(refusal.reason);
            }
            return;
        }
        let key = key(head, packet);
        let finds_owner = self.plan.owner_of_fragment(packet) == self.worker;
        if finds_owner
            && let Some(owner) = self.known_owner(key, packet)
            && owner != self.worker
        {
            return sink.hand_over(owner, packet);
        }
        match self.fragments.gather(key, packet, now, sink) {
            Err(reason) => return sink.dropped(reason),
            Ok(Some(mut whole)) => {
                return match Head::parse(&whole) {
                    Ok(head) if self.owns(&head, &whole) => {
                        self.inbound_whole(&head, &mut whole, Offload::NONE, now, sink);
                    }
                    Ok(_) => self.hand_over_whole(&whole, sink),
                    Err(reason) => sink.dropped(reason),
                };
            }
            Ok(None) => {}
        }
        if finds_owner && head_is_first(packet) {
            self.hand_over_gathered(key, packet, sink);
        }
    }

    /// The worker that a datagram was handed to. Another first fragment makes it another datagram.
    fn known_owner(&mut self, key: Key, packet: &[u8]) -> Option<usize> {
        match self.fragments.datagrams.get(&key)?.state {
            Gathering::Handed(_) if head_is_first(packet) => {
                self.fragments.remove(key);
                None
            }
            Gathering::Handed(owner) => Some(owner),
            Gathering::Here | Gathering::Refused => None,
        }
    }

    /// With the first fragment here: those gathered so far go to the owner of its port.
    fn hand_over_gathered(&mut self, key: Key, first: &[u8], sink: &mut impl NatSink) {
        let owner = self.plan.owner_of_first(first);
        let Some(datagram) = self.fragments.datagrams.get_mut(&key) else { return };
        if owner == Some(self.worker) {
            return;
        }
        let pieces = std::mem::take(&mut datagram.pieces);
        self.fragments.bytes -= std::mem::take(&mut datagram.bytes);
        let Some(owner) = owner else {
            datagram.state = Gathering::Refused;
            return pieces.iter().for_each(|_| sink.dropped(DropReason::NatNoMapping));
        };
        datagram.state = Gathering::Handed(owner);
        for (_, _, mut piece) in pieces {
            sink.hand_over(owner, &mut piece);
        }
    }

    fn owns(&self, head: &Head, whole: &[u8]) -> bool {
        let owner = self.plan.owner_of_packet(whole);
        owner.is_none() || owner == Some(self.worker) || !self.plan.is_external(head.dst)
    }

    /// The first fragment came last: its owner gets the datagram in pieces again, of the size of a link's.
    fn hand_over_whole(&mut self, whole: &[u8], sink: &mut impl NatSink) {
        if let Some(owner) = self.plan.owner_of_packet(whole) {
            cut(whole, HANDED_BYTES, &mut self.scratch, |fragment| sink.hand_over(owner, fragment));
        }
    }
}

fn key(head: &Head, packet: &[u8]) -> Key {
    let identification = Ipv4::new_checked(packet).map_or(0, Ipv4::identification);
    Key { src: head.src, dst: head.dst, identification, protocol: head.protocol }
}

fn head_is_first(packet: &[u8]) -> bool {
    Ipv4::new_checked(packet).is_some_and(|ip| ip.fragment_offset() == 0)
}

/// Cuts `packet` into fragments of at most `mtu` bytes (RFC 791 §3.2), in order; `scratch` is where they are made. A
/// packet that is a fragment stays part of its datagram.
pub fn cut(packet: &[u8], mtu: usize, scratch: &mut Vec<u8>, mut emit: impl FnMut(&mut [u8])) {
    let Some(ip) = Ipv4::new_checked(packet) else { return };
    let (header, rest) = packet.split_at(ip.header_bytes());
    let follows = ip.more_fragments();
    let (mut payload, mut at) = (rest, usize::from(ip.fragment_offset()));
    while !payload.is_empty() {
        scratch.clear();
        scratch.extend_from_slice(&header[..HEADER_BYTES_MIN]);
        let is_first = payload.len() == rest.len();
        options(&header[HEADER_BYTES_MIN..], is_first, scratch);
        let room = mtu.saturating_sub(scratch.len()).max(8);
        let length = if payload.len() <= room { payload.len() } else { room / 8 * 8 };
        let (now, later) = payload.split_at(length);
        let header_bytes = scratch.len();
        scratch.extend_from_slice(now);
        let total = u16::try_from(scratch.len()).unwrap_or(u16::MAX);
        let more = if follows || !later.is_empty() { 0x2000 } else { 0 };
        let place = u16::try_from(at).unwrap_or(0) & 0x1fff | more;
        scratch[0] = 0x40 | u8::try_from(header_bytes / 4).unwrap_or(5);
        scratch[2..4].copy_from_slice(&total.to_be_bytes());
        scratch[6..8].copy_from_slice(&place.to_be_bytes());
        finish_header(&mut scratch[..header_bytes]);
        emit(scratch);
        (payload, at) = (later, at + length / 8);
    }
}

/// The options of a fragment: all in the first, those marked as copied in the others, padded to whole words.
fn options(options: &[u8], is_first: bool, out: &mut Vec<u8>) {
    if is_first {
        return out.extend_from_slice(options);
    }
    let mut rest = options;
    while let [kind, after @ ..] = rest {
        let length = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(after.first().copied().unwrap_or(0)).max(2),
        };
        let Some(option) = rest.get(..length) else { break };
        if kind & 0x80 != 0 {
            out.extend_from_slice(option);
        }
        rest = &rest[length..];
    }
    out.resize(out.len().next_multiple_of(4), 0);
}

impl super::NatPlan {
    /// The owner of the port that the first fragment of a datagram goes to.
    fn owner_of_first(&self, packet: &[u8]) -> Option<usize> {
        let ip = Ipv4::new_checked(packet)?;
        let proto = Proto::from_number(ip.protocol())?;
        let port = match proto {
            Proto::Icmp => parse::source_port(proto, ip.payload())?,
            Proto::Tcp | Proto::Udp => udp::l4_ports(ip.payload())?.1,
        };
        self.owner(proto, ip.dst(), port)
    }
}

/// Of a NAT, by all its workers together (H16).
const BYTES_MAX: usize = 4 << 20;
/// Of a source: the longest datagram.
const SOURCE_BYTES_MAX: usize = 64 << 10;
const SOURCE_DATAGRAMS_MAX: usize = 16;
const DATAGRAMS_MAX: usize = 1_024;
/// The longest datagram in fragments of 576 bytes.
const PIECES_MAX: usize = 128;
/// Fits every mailbox.
const HANDED_BYTES: usize = 1_500;
