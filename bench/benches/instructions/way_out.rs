//! Whole turns of a worker with a way out: between a member's tunnel and the burst of the lane, without the wire.

use std::net::SocketAddrV4;

use hublane::wire::offload::{L4Checksum, Offload};
use hublane::wire::tcp::{FLAG_ACK, FLAG_SYN};
use hublane::worker::io::Wait;

use super::Piece;
use super::common::enclosed::Enclosed;
use super::common::packets::{Segment, datagram, framed};
use super::common::way_out::{GATEWAY_CARD, SERVER, Setup, Station, WayOut};
use super::fixture::{RECORD_PLAIN_MAX, batch, frames_per_record};
use super::workers::Uncounted;

/// A member who has a connection and a mapping, alone on a worker.
struct Internet {
    way: WayOut<Enclosed<Uncounted>>,
    a: Station,
    /// As whom the server sees them.
    tcp: SocketAddrV4,
    udp: SocketAddrV4,
    /// Bytes of the connection so far.
    seq: u32,
}

impl Internet {
    fn new() -> Self {
        let mut way = WayOut::with(Setup::new(1), Enclosed::new);
        let mut a = way.booted(1, 0);
        a.send(&Segment { flags: FLAG_SYN, ..Segment::default() }.packet(a.at(6000), SERVER));
        let tcp = way.one_sent().1.from;
        let answer = Segment { flags: FLAG_SYN | FLAG_ACK, ..Segment::default() };
        way.arrive(0, &answer.packet(SERVER, tcp), Offload::NONE);
        a.send(&datagram(a.at(7000), SERVER, b""));
        let udp = way.one_sent().1.from;
        a.packets();
        Self { way, a, tcp, udp, seq: 0 }
    }

    /// A turn that takes in what came, and one in which what was sent comes back.
    fn turn(&mut self) {
        let now = self.way.bench.now;
        for _ in 0..2 {
            self.way.bench.workers[0].turn(Wait::Poll, || now).unwrap();
        }
    }

    /// A packet to the Internet, in the frame of the member.
    fn framed(&self, packet: &[u8]) -> Vec<u8> {
        framed(GATEWAY_CARD, self.a.card, packet)
    }

    /// Packets on the wire, super-packets by their segments.
    fn sent(&mut self) -> u64 {
        let segments = |(_, frame, offload): (usize, Vec<u8>, Offload)| match usize::from(offload.segment_bytes) {
            0 => 1,
            bytes => (frame.len() - HEADERS).div_ceil(bytes) as u64,
        };
        self.way.frames().into_iter().map(segments).sum()
    }
}

/// From the member to the wire.
pub(crate) struct Out {
    internet: Internet,
    is_tcp: bool,
    packets: usize,
}

impl Out {
    pub(crate) fn datagrams(packets: usize) -> Self {
        Self { internet: Internet::new(), is_tcp: false, packets }
    }

    pub(crate) fn segments(packets: usize) -> Self {
        Self { internet: Internet::new(), is_tcp: true, packets }
    }
}

impl Piece for Out {
    fn prepare(&mut self) {
        let Internet { a, .. } = &self.internet;
        if !self.is_tcp {
            let frame = self.internet.framed(&datagram(a.at(7000), SERVER, &[7; DATAGRAM_BYTES]));
            return self.internet.a.member.send_stream(&batch(&frame, self.packets), RECORD_PLAIN_MAX);
        }
        let mut left = self.packets;
        while left > 0 {
            let now = left.min(frames_per_record(HEADERS + SEGMENT_BYTES));
            let mut stream = u32::try_from(now).unwrap().to_be_bytes().to_vec();
            for _ in 0..now {
                let Internet { a, seq, .. } = &mut self.internet;
                let segment = Segment { seq: *seq, flags: FLAG_ACK, data: &[5; SEGMENT_BYTES], ..Segment::default() };
                let packet = segment.packet(a.at(6000), SERVER);
                *seq = seq.wrapping_add(u32::try_from(SEGMENT_BYTES).unwrap());
                let frame = self.internet.framed(&packet);
                stream.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
                stream.extend(frame);
            }
            self.internet.a.member.send_stream(&stream, RECORD_PLAIN_MAX);
            left -= now;
        }
    }

    fn run(&mut self) {
        self.internet.turn();
    }

    fn done(&mut self) -> u64 {
        self.internet.sent()
    }
}

/// From the wire to the member.
pub(crate) struct In {
    internet: Internet,
    is_tcp: bool,
    packets: usize,
}

impl In {
    pub(crate) fn datagrams(packets: usize) -> Self {
        Self { internet: Internet::new(), is_tcp: false, packets }
    }

    /// All in one super-packet.
    pub(crate) fn segments(packets: usize) -> Self {
        Self { internet: Internet::new(), is_tcp: true, packets }
    }
}

impl Piece for In {
    fn prepare(&mut self) {
        let Internet { way, tcp, udp, seq, .. } = &mut self.internet;
        if !self.is_tcp {
            let packet = datagram(SERVER, *udp, &[7; DATAGRAM_BYTES]);
            return (0..self.packets).for_each(|_| way.put(0, &packet, Offload::NONE));
        }
        let data = vec![5; self.packets * SEGMENT_BYTES];
        let segment = Segment { seq: *seq, flags: FLAG_ACK, data: &data, ..Segment::default() };
        let segment_bytes = u16::try_from(SEGMENT_BYTES).unwrap();
        *seq = seq.wrapping_add(u32::try_from(data.len()).unwrap());
        way.put(0, &segment.unfinished(SERVER, *tcp), Offload { checksum: L4Checksum::Partial, segment_bytes });
    }

    fn run(&mut self) {
        self.internet.turn();
    }

    fn done(&mut self) -> u64 {
        self.internet.a.packets().len() as u64
    }
}

/// Headers of Ethernet, IPv4 and TCP.
const HEADERS: usize = 14 + 20 + 20;
/// Makes a frame of 1400 bytes.
const SEGMENT_BYTES: usize = 1_400 - HEADERS;
/// Makes a frame of 64 bytes.
const DATAGRAM_BYTES: usize = 64 - 14 - 20 - 8;
