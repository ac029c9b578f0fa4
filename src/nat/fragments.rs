//! Fragments: gathered into whole datagrams before translation, cut again behind it.
//!
//! Only the first fragment has ports. Those from outside come to one worker, chosen by a hash, which hands them to the
//! owner of the port once it has seen the first; the owner puts them together. Memory is bounded in all and for each
//! source. When it is full the oldest datagram goes: a real one is complete within milliseconds.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
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

impl Key {
    /// The least of that source.
    fn first_of_source(self) -> Self {
        Self { dst: Ipv4Addr::UNSPECIFIED, identification: 0, protocol: 0, ..self }
    }
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
}

/// What becomes of fragments of a datagram that is not gathered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// They go to that worker.
    Handed(usize),
    /// Something was wrong with one; so is the rest.
    Refused,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Fragments {
    datagrams: BTreeMap<Key, Datagram>,
    /// The same in the order they began.
    order: BTreeSet<(Tick, Key)>,
    /// Kept for a moment: the rest of such a datagram comes at once, if ever.
    decided: BTreeMap<Key, (Tick, Verdict)>,
    /// The same in the order they were decided.
    decided_order: BTreeSet<(Tick, Key)>,
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
        Self {
            datagrams: BTreeMap::new(),
            order: BTreeSet::new(),
            decided: BTreeMap::new(),
            decided_order: BTreeSet::new(),
            bytes: 0,
            bytes_max,
            timeout,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.datagrams.len()
    }

    pub(super) fn next_at(&self) -> Option<Tick> {
        self.order.first().map(|(born, _)| *born + self.timeout)
    }

    pub(super) fn expire(&mut self, now: Tick, sink: &mut impl NatSink) {
        while self.order.first().is_some_and(|(born, _)| *born + self.timeout <= now) {
            self.drop_oldest(sink);
        }
        self.expire_decided(now);
    }

    fn drop_oldest(&mut self, sink: &mut impl NatSink) {
        let Some((_, key)) = self.order.first().copied() else { return };
        let pieces = self.remove(key).map_or(0, |datagram| datagram.pieces.len());
        (0..pieces).for_each(|_| sink.dropped(DropReason::NatFragment));
    }

    fn remove(&mut self, key: Key) -> Option<Datagram> {
        let datagram = self.datagrams.remove(&key)?;
        self.order.remove(&(datagram.born, key));
        self.bytes -= datagram.bytes;
        Some(datagram)
    }

    /// What was decided about a datagram not long ago.
    fn verdict(&self, key: Key, now: Tick) -> Option<Verdict> {
        let (at, verdict) = self.decided.get(&key)?;
        (now < *at + DECIDED_KEPT).then_some(*verdict)
    }

    /// Decides about a datagram. With too many of its source, or in all, the oldest is forgotten.
    fn decide(&mut self, key: Key, verdict: Verdict, now: Tick) {
        self.expire_decided(now);
        self.forget(key);
        let of_source = self.decided.range(key.first_of_source()..).take_while(|(other, _)| other.src == key.src);
        let (count, oldest) = of_source
            .map(|(key, (at, _))| (*at, *key))
            .fold((0, None), |(count, oldest), one| (count + 1, Some(oldest.map_or(one, |oldest| one.min(oldest)))));
        let surplus = if count >= SOURCE_DECIDED_MAX {
            oldest
        } else {
            self.decided_order.first().copied().filter(|_| self.decided.len() >= DECIDED_MAX)
        };
        if let Some((_, key)) = surplus {
            self.forget(key);
        }
        self.decided.insert(key, (now, verdict));
        self.decided_order.insert((now, key));
    }

    fn forget(&mut self, key: Key) {
        if let Some((at, _)) = self.decided.remove(&key) {
            self.decided_order.remove(&(at, key));
        }
    }

    fn expire_decided(&mut self, now: Tick) {
        while let Some((at, key)) = self.decided_order.first().copied()
            && at + DECIDED_KEPT <= now
        {
            self.forget(key);
        }
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
        if self.verdict(key, now) == Some(Verdict::Refused) {
            return Err(DropReason::NatFragment);
        }
        let of_source: (usize, usize) = self
            .datagrams
            .range(key.first_of_source()..)
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
            self.order.insert((now, key));
            Datagram { born: now, pieces: Vec::new(), bytes: 0, end: None }
        });
        match datagram.add(offset, length, last, packet) {
            Err(reason) => {
                // What is here goes; what follows meets the refusal.
                let pieces = self.remove(key).map_or(0, |datagram| datagram.pieces.len());
                (0..pieces).for_each(|_| sink.dropped(reason));
                self.decide(key, Verdict::Refused, now);
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
            && let Some(owner) = self.known_owner(key, packet, now)
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
            self.hand_over_gathered(key, packet, now, sink);
        }
    }

    /// The worker that a datagram was handed to. Another first fragment makes it another datagram.
    fn known_owner(&mut self, key: Key, packet: &[u8], now: Tick) -> Option<usize> {
        match self.fragments.verdict(key, now)? {
            Verdict::Handed(_) if head_is_first(packet) => {
                self.fragments.forget(key);
                None
            }
            Verdict::Handed(owner) => Some(owner),
            Verdict::Refused => None,
        }
    }

    /// With the first fragment here: those gathered so far go to the owner of its port.
    fn hand_over_gathered(&mut self, key: Key, first: &[u8], now: Tick, sink: &mut impl NatSink) {
        let owner = self.plan.owner_of_first(first);
        if owner == Some(self.worker) {
            return;
        }
        let Some(datagram) = self.fragments.remove(key) else { return };
        let Some(owner) = owner else {
            self.fragments.decide(key, Verdict::Refused, now);
            return datagram.pieces.iter().for_each(|_| sink.dropped(DropReason::NatNoMapping));
        };
        self.fragments.decide(key, Verdict::Handed(owner), now);
        for (_, _, mut piece) in datagram.pieces {
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
/// Of those handed over or refused.
const DECIDED_MAX: usize = 4_096;
const SOURCE_DECIDED_MAX: usize = 256;
const DECIDED_KEPT: Duration = Duration::from_secs(2);
/// Of a source: the longest datagram.
const SOURCE_BYTES_MAX: usize = 64 << 10;
const SOURCE_DATAGRAMS_MAX: usize = 16;
const DATAGRAMS_MAX: usize = 1_024;
/// The longest datagram in fragments of 576 bytes.
const PIECES_MAX: usize = 128;
/// Fits every mailbox.
const HANDED_BYTES: usize = 1_500;

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;
    impl NatSink for Nowhere {
        fn send(&mut self, _: &mut [u8], _: Offload) {}
        fn hairpin(&mut self, _: &mut [u8], _: Offload) {}
        fn deliver(&mut self, _: Ipv4Addr, _: &mut [u8], _: Offload) {}
        fn hand_over(&mut self, _: usize, _: &mut [u8]) {}
        fn dropped(&mut self, _: DropReason) {}
        fn event(&mut self, _: super::super::NatEvent) {}
    }

    /// Complete datagrams leave nothing behind.
    #[test]
    fn nat_h16_memory_of_complete_datagrams() {
        let mut fragments = Fragments::new(Duration::from_secs(30), 1);
        let (src, dst) = (Ipv4Addr::new(100, 64, 0, 5), Ipv4Addr::new(8, 8, 8, 8));
        for n in 0..1_000_000u32 {
            let identification = (n & 0xffff) as u16;
            let key = Key { src, dst, identification, protocol: 17 };
            for place in [0x2000u16, 1] {
                let mut packet = [0; 28];
                packet[..20].copy_from_slice(&crate::wire::ipv4::header(src, dst, 17, 64, 8));
                packet[6..8].copy_from_slice(&place.to_be_bytes());
                fragments.gather(key, &packet, Tick::from_ms(u64::from(n / 100)), &mut Nowhere).unwrap();
            }
        }
        assert_eq!(fragments.len(), 0);
        assert_eq!((fragments.order.len(), fragments.decided.len(), fragments.bytes), (0, 0, 0));
    }

    /// What is handed over or refused is bounded, of a source and in all, and forgotten soon.
    #[test]
    fn nat_h16_memory_of_decided_datagrams() {
        let mut fragments = Fragments::new(Duration::from_secs(30), 1);
        let dst = Ipv4Addr::new(5, 5, 5, 5);
        let key = |src: u32, identification| Key { src: src.into(), dst, identification, protocol: 17 };
        let at = |id: u16| Tick::from_ms(1_000) + Duration::from_micros(id.into());
        (0..1_000).for_each(|id| fragments.decide(key(1, id), Verdict::Handed(1), at(id)));
        assert_eq!(fragments.decided.len(), SOURCE_DECIDED_MAX);
        let known = |fragments: &Fragments, id| fragments.verdict(key(1, id), at(1_000));
        assert_eq!((known(&fragments, 999), known(&fragments, 0)), (Some(Verdict::Handed(1)), None), "the oldest goes");
        (2..10_000).for_each(|src| fragments.decide(key(src, 0), Verdict::Refused, at(1_000)));
        assert_eq!((fragments.decided.len(), fragments.decided_order.len()), (DECIDED_MAX, DECIDED_MAX));
        assert_eq!(fragments.verdict(key(9_999, 0), at(1_000) + DECIDED_KEPT), None);
        fragments.expire_decided(at(1_000) + DECIDED_KEPT);
        assert!(fragments.decided.is_empty() && fragments.decided_order.is_empty());
    }
}
