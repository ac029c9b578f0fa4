//! Super-frames: what a host with segmentation offload sends as one packet of up to 64 KiB, to be cut into the frames of
//! a wire by whoever comes to one. Between two of our own ends they cross the tunnel whole.
//!
//! A super-frame has the headers of its first segment; its checksum of TCP or UDP is unfinished: the field holds the sum
//! of the pseudo-header, as Linux keeps it (virtio 1.2 §5.1.6). How much payload each segment gets travels beside it.
//!
//! Cutting copies the headers and the part of the payload to each segment, and writes lengths, sequence number, flags,
//! identification of IPv4 and checksums.
#![forbid(unsafe_code)]

use super::checksum::Sum;
use super::ethernet::{FRAME_BYTES_MAX, Frame, HEADER_BYTES};
use super::ipv4::{self, Ipv4};
use super::{ipv6, tcp, udp, vlan};

/// Longest super-frame: the longest IP packet behind an Ethernet header with two tags.
pub const SUPER_BYTES_MAX: usize = HEADER_BYTES + 2 * vlan::TAG_BYTES + 65_535;

/// What is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either: each segment is a datagram.
    Udp,
}

/// Where in a frame everything stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    kind: Kind,
    is_v6: bool,
    /// The header of IP.
    l3: usize,
    /// That of TCP or UDP.
    l4: usize,
    /// The payload: so long are all headers.
    headers: usize,
}

impl Place {
    /// Where TCP or UDP begins at `l4`, as who made the frame says, so that extension headers of IPv6 are no matter.
    /// `None` if `frame` is not what is said.
    pub fn at(frame: &[u8], kind: Kind, l4: usize) -> Option<Self> {
        let (l3, is_v6) = network(frame)?;
        let l3_bytes = if is_v6 { ipv6::HEADER_BYTES } else { usize::from(frame.get(l3)? & 0xf) * 4 };
        let l4_bytes = match kind {
            Kind::Tcp4 | Kind::Tcp6 => usize::from(frame.get(l4 + 12)? >> 4) * 4,
            Kind::Udp => udp::HEADER_BYTES,
        };
        let fits_kind = matches!((kind, is_v6), (Kind::Tcp4, false) | (Kind::Tcp6, true) | (Kind::Udp, _));
        let fits_v4 = is_v6 || (l3_bytes >= ipv4::HEADER_BYTES_MIN && l3 + l3_bytes == l4);
        let fits_tcp = kind == Kind::Udp || l4_bytes >= tcp::HEADER_BYTES_MIN;
        let headers = l4 + l4_bytes;
        let fits = l4 >= l3 + l3_bytes && headers < frame.len() && headers <= HEADERS_BYTES_MAX;
        (fits && fits_kind && fits_v4 && fits_tcp).then_some(Self { kind, is_v6, l3, l4, headers })
    }

    /// As the headers say: whole packets of IPv4, of IPv6 without extension headers.
    fn of(frame: &[u8]) -> Option<Self> {
        let (l3, is_v6) = network(frame)?;
        let packet = &frame[l3..];
        let (protocol, l4) = match is_v6 {
            true => (*packet.get(6)?, l3 + ipv6::HEADER_BYTES),
            false => {
                let packet = Ipv4::new_checked(packet).filter(|packet| !packet.is_fragment())?;
                (packet.protocol(), l3 + packet.header_bytes())
            }
        };
        let kind = match (protocol, is_v6) {
            (tcp::PROTOCOL, false) => Kind::Tcp4,
            (tcp::PROTOCOL, true) => Kind::Tcp6,
            (udp::PROTOCOL, _) => Kind::Udp,
            _ => return None,
        };
        Self::at(frame, kind, l4)
    }

    /// Calls `sink` with the segments of `frame` of `segment_bytes` of payload each, in order; says how many. 0: they
    /// would be longer than a frame may be.
    pub fn cut(self, frame: &[u8], segment_bytes: usize, sink: &mut impl FnMut(&[u8])) -> usize {
        let mut room = [0; FRAME_BYTES_MAX];
        if segment_bytes == 0 || self.headers + segment_bytes > room.len() {
            return 0;
        }
        self.part(frame, segment_bytes, segment_bytes, &mut room, &mut |segment, _| sink(segment))
    }

    /// Calls `sink` with parts of `part_bytes` of payload, whole segments, of which those that are still several have an
    /// unfinished checksum; says how many. `room` is for one of them.
    fn part(
        self,
        frame: &[u8],
        part_bytes: usize,
        segment_bytes: usize,
        room: &mut [u8],
        sink: &mut impl FnMut(&[u8], bool),
    ) -> usize {
        let headers = self.headers;
        let (template, payload) = frame.split_at(headers);
        let last = payload.len().div_ceil(part_bytes) - 1;
        for (number, payload) in payload.chunks(part_bytes).enumerate() {
            let part = &mut room[..headers + payload.len()];
            part[..headers].copy_from_slice(template);
            part[headers..].copy_from_slice(payload);
            self.network(part, number * (part_bytes / segment_bytes));
            if self.kind != Kind::Udp {
                tcp::move_on(&mut part[self.l4..], number * part_bytes, number == 0, number == last);
            }
            let is_several = payload.len() > segment_bytes;
            self.checksum(part, !is_several);
            sink(part, is_several);
        }
        last + 1
    }

    /// Lengths, and what numbers packets of IPv4.
    fn network(self, segment: &mut [u8], number: usize) {
        let total = short(segment.len() - self.l3);
        let header = &mut segment[self.l3..];
        if self.is_v6 {
            let payload = total.saturating_sub(short(ipv6::HEADER_BYTES));
            header[4..6].copy_from_slice(&payload.to_be_bytes());
            return;
        }
        let id = u16::from_be_bytes([header[4], header[5]]).wrapping_add(short(number));
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[10..12].fill(0);
        let checksum = Sum::ZERO.bytes(&header[..self.l4 - self.l3]).finish();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Length of UDP, checksum of both: finished, or the sum of the pseudo-header.
    fn checksum(self, segment: &mut [u8], finished: bool) {
        let length = short(segment.len() - self.l4);
        let is_udp = self.kind == Kind::Udp;
        let protocol = if is_udp { udp::PROTOCOL } else { tcp::PROTOCOL };
        if is_udp {
            segment[self.l4 + 4..][..2].copy_from_slice(&length.to_be_bytes());
        }
        let field = self.checksum_at();
        segment[field..field + 2].fill(0);
        let addresses = if self.is_v6 { self.l3 + 8..self.l3 + 40 } else { self.l3 + 12..self.l3 + 20 };
        let pseudo = Sum::ZERO.bytes(&segment[addresses]).word(u16::from(protocol)).word(length);
        if !finished {
            segment[field..field + 2].copy_from_slice(&pseudo.partial().to_be_bytes());
            return;
        }
        let checksum = match pseudo.bytes(&segment[self.l4..]).finish() {
            0 if is_udp => 0xffff,
            checksum => checksum,
        };
        segment[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    fn checksum_at(self) -> usize {
        self.l4 + if self.kind == Kind::Udp { udp::CHECKSUM_AT } else { tcp::CHECKSUM_AT }
    }
}

/// A super-frame that can be cut.
#[derive(Clone, Copy, Debug)]
pub struct SuperFrame<'a> {
    bytes: &'a [u8],
    segment_bytes: u16,
    place: Place,
}

impl<'a> SuperFrame<'a> {
    /// `None` if `bytes` is no packet that can be cut into segments of `segment_bytes` of payload, if that would be fewer
    /// than two, longer ones than the tunnel carries or ones that no host cuts so short, or if its own length fields do not tell its length.
    pub fn new_checked(bytes: &'a [u8], segment_bytes: u16) -> Option<Self> {
        let place = Place::of(bytes)?;
        let length = usize::from(match place.is_v6 {
            true => word(bytes, place.l3 + 4)?,
            false => word(bytes, place.l3 + 2)?,
        });
        let header_bytes = if place.is_v6 { ipv6::HEADER_BYTES } else { 0 };
        let (segment, payload) = (usize::from(segment_bytes), bytes.len() - place.headers);
        let fits = bytes.len() <= SUPER_BYTES_MAX
            && length + header_bytes == bytes.len() - place.l3
            && (SEGMENT_BYTES_MIN..payload).contains(&segment)
            && place.headers + segment <= FRAME_BYTES_MAX;
        fits.then_some(Self { bytes, segment_bytes, place })
    }

    /// The whole of it.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Payload of each segment but the last.
    pub fn segment_bytes(&self) -> u16 {
        self.segment_bytes
    }

    /// Its beginning, no longer than a frame, by which it can be judged and switched as one.
    pub fn head(&self) -> Frame<'a> {
        let bytes = &self.bytes[..self.bytes.len().min(FRAME_BYTES_MAX)];
        Frame::new_checked(bytes).expect("a super-frame has an Ethernet header")
    }

    /// How many frames it is on a wire, and how many bytes those have together.
    pub fn on_wire(&self) -> (u64, u64) {
        on_wire(self.bytes, self.bytes.len(), self.segment_bytes)
    }

    /// What is to be cut.
    pub fn kind(&self) -> Kind {
        self.place.kind
    }

    /// Length of the headers that each segment gets.
    pub fn header_bytes(&self) -> usize {
        self.place.headers
    }

    /// Where the checksum begins to count, and where it belongs.
    pub fn checksum(&self) -> (usize, usize) {
        (self.place.l4, self.place.checksum_at())
    }

    /// Calls `sink` with parts of no more than about `bytes`, in order: super-frames again, or, where a single segment is
    /// left, frames.
    pub fn split(&self, bytes: usize, sink: &mut impl FnMut(Part<'_>)) {
        let segment = usize::from(self.segment_bytes);
        let mut room = [0; PART_BYTES_MAX];
        let most = room.len().min(bytes).saturating_sub(self.place.headers);
        let part_bytes = (most / segment).max(1) * segment;
        self.place.part(self.bytes, part_bytes, segment, &mut room, &mut |bytes, is_several| {
            sink(match is_several {
                true => Part::Super(SuperFrame { bytes, ..*self }),
                false => Part::Frame(bytes),
            });
        });
    }

    /// Calls `sink` with its segments, in order.
    pub fn cut(&self, sink: &mut impl FnMut(&[u8])) {
        self.place.cut(self.bytes, usize::from(self.segment_bytes), sink);
    }
}

/// What [`SuperFrame::split`] makes.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Several segments.
    Super(SuperFrame<'a>),
    /// One.
    Frame(&'a [u8]),
}

/// Room for a part; the longest segment fits.
const PART_BYTES_MAX: usize = 16 * 1024;

/// What a super-frame of `len` bytes that begins with `head` is on a wire: frames, and their bytes.
pub fn on_wire(head: &[u8], len: usize, segment_bytes: u16) -> (u64, u64) {
    let Some(place) = Place::of(head).filter(|_| segment_bytes > 0) else { return (1, len as u64) };
    let segments = len.saturating_sub(place.headers).div_ceil(usize::from(segment_bytes)).max(1) as u64;
    (segments, len as u64 + (segments - 1) * place.headers as u64)
}

/// Where the header of IP begins, and whether it is that of version 6.
fn network(frame: &[u8]) -> Option<(usize, bool)> {
    let mut l3 = HEADER_BYTES;
    let mut ethertype = word(frame, 12)?;
    for _ in 0..TAGS_MAX {
        if !vlan::is_tag(ethertype) {
            break;
        }
        ethertype = word(frame, l3 + 2)?;
        l3 += vlan::TAG_BYTES;
    }
    match ethertype {
        ipv4::ETHERTYPE => Some((l3, false)),
        ipv6::ETHERTYPE => Some((l3, true)),
        _ => None,
    }
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

/// Lengths here are those of packets.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// Shortest segments that a super-frame may ask for: whoever has to cut it does the work of each, so one must not be
/// thousands. Hosts have an MSS of 500 and more; for others it is the sender who cuts.
const SEGMENT_BYTES_MIN: usize = 256;
const TAGS_MAX: usize = 2;
/// Ethernet with two tags, IPv6 with some extension headers, TCP with all options.
const HEADERS_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An unfinished packet of TCP over IPv4.
    fn packet(payload: usize) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0]);
        frame.extend(short(40 + payload).to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, tcp::PROTOCOL, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
        frame.extend((0..payload).map(|i| u8::try_from(i % 251).unwrap()));
        frame
    }

    #[test]
    fn it_counts_as_its_segments() {
        let bytes = packet(3000);
        let frame = SuperFrame::new_checked(&bytes, 1400).unwrap();
        let mut cut = Vec::new();
        frame.cut(&mut |segment| cut.push(segment.len()));
        assert_eq!(cut, [1454, 1454, 254]);
        assert_eq!(frame.on_wire(), (3, cut.iter().sum::<usize>() as u64));
        assert_eq!((frame.kind(), frame.header_bytes(), frame.checksum()), (Kind::Tcp4, 54, (34, 50)));
        assert_eq!(frame.head().bytes(), &bytes[..FRAME_BYTES_MAX]);
    }

    #[test]
    fn parts_are_the_same_segments() {
        let bytes = packet(30_000);
        let frame = SuperFrame::new_checked(&bytes, 1_400).unwrap();
        let mut whole = Vec::new();
        frame.cut(&mut |segment| whole.push(segment.to_vec()));
        for most in [0, 1_500, 3_000, 8_192, 70_000] {
            let (mut parts, mut longest, mut segments) = (0, 0, Vec::new());
            frame.split(most, &mut |part| {
                parts += 1;
                match part {
                    Part::Super(part) => {
                        longest = longest.max(part.bytes().len());
                        assert!(SuperFrame::new_checked(part.bytes(), part.segment_bytes()).is_some());
                        part.cut(&mut |segment| segments.push(segment.to_vec()));
                    }
                    Part::Frame(frame) => segments.push(frame.to_vec()),
                }
            });
            assert!(longest <= most && (parts > 1), "{parts} of up to {longest}");
            assert!(segments == whole, "{most}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let good = packet(3000);
        assert!(SuperFrame::new_checked(&good, 1460).is_some());
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let cases: [(&str, Vec<u8>, u16); 10] = [
            ("segments too short", good.clone(), 255),
            ("no segments", good.clone(), 0),
            ("one segment", good.clone(), 3000),
            ("segments too long", good.clone(), 1560),
            ("longer than it says", [&good[..], &[0]].concat(), 1460),
            ("shorter than it says", good[..3000].to_vec(), 1460),
            ("a fragment", with(20, 0x20), 1460),
            ("ICMP", with(23, 1), 1460),
            ("no IP", with(12, 9), 1460),
            ("no TCP header", with(46, 0x10), 1460),
        ];
        for (name, bytes, segment_bytes) in cases {
            assert!(SuperFrame::new_checked(&bytes, segment_bytes).is_none(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..4000), segment_bytes: u16, v6: bool) {
            if bytes.len() > 24 {
                bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
                let total = short(bytes.len() - 14);
                bytes[if v6 { 18 } else { 16 }..][..2].copy_from_slice(&(total - if v6 { 40 } else { 0 }.min(total)).to_be_bytes());
            }
            if let Some(frame) = SuperFrame::new_checked(&bytes, segment_bytes) {
                let (mut count, mut length) = (0, 0);
                frame.cut(&mut |segment| {
                    assert!(segment.len() <= FRAME_BYTES_MAX);
                    (count, length) = (count + 1, length + segment.len() as u64);
                });
                assert_eq!((count, length), frame.on_wire());
            }
        }
    }
}
