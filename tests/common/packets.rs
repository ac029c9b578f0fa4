//! IPv4 packets, made and read. Whoever reads one has looked at all of its checksums.

use std::net::{Ipv4Addr, SocketAddrV4};

use hublane::wire::checksum::Sum;
use hublane::wire::ethernet::Mac;
use hublane::wire::ipv4::{self, Ipv4};
use hublane::wire::{icmp, tcp, udp};

/// A packet with don't-fragment set and a time to live of 64.
pub(crate) fn ip(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    [&ipv4::header(src, dst, protocol, 64, u16::try_from(payload.len()).unwrap()), payload].concat()
}

/// Puts the checksum of the IP header right.
pub(crate) fn seal(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let checksum = Sum::ZERO.bytes(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

pub(crate) fn datagram(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let mut room = vec![0; 28 + data.len()];
    udp::datagram((*from.ip(), from.port()), (*to.ip(), to.port()), data, &mut room).to_vec()
}

/// A TCP segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segment<'a> {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) options: &'a [u8],
    pub(crate) data: &'a [u8],
}

impl Segment<'_> {
    pub(crate) fn packet(&self, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
        let mut l4 = self.l4(from, to);
        let checksum = pseudo(from, to, l4.len()).bytes(&l4).finish();
        l4[tcp::CHECKSUM_AT..][..2].copy_from_slice(&checksum.to_be_bytes());
        ip(*from.ip(), *to.ip(), tcp::PROTOCOL, &l4)
    }

    /// As a virtual card hands it over: the checksum is that of the pseudo-header alone.
    pub(crate) fn unfinished(&self, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
        let mut l4 = self.l4(from, to);
        let begun = pseudo(from, to, l4.len()).partial();
        l4[tcp::CHECKSUM_AT..][..2].copy_from_slice(&begun.to_be_bytes());
        ip(*from.ip(), *to.ip(), tcp::PROTOCOL, &l4)
    }

    /// With a checksum of zero.
    fn l4(&self, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(from.port().to_be_bytes());
        l4.extend(to.port().to_be_bytes());
        l4.extend(self.seq.to_be_bytes());
        l4.extend(self.ack.to_be_bytes());
        let words = u8::try_from((tcp::HEADER_BYTES_MIN + self.options.len()) / 4).unwrap();
        l4.extend([words << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        l4.extend(self.options);
        l4.extend(self.data);
        l4
    }
}

fn pseudo(from: SocketAddrV4, to: SocketAddrV4, l4_bytes: usize) -> Sum {
    Sum::pseudo(*from.ip(), *to.ip(), tcp::PROTOCOL, u16::try_from(l4_bytes).unwrap())
}

/// An echo request or reply.
pub(crate) fn ping(from: Ipv4Addr, to: Ipv4Addr, kind: u8, identifier: u16) -> Vec<u8> {
    let [a, b] = identifier.to_be_bytes();
    let mut message = vec![kind, 0, 0, 0, a, b, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8];
    icmp::finish(&mut message);
    ip(from, to, icmp::PROTOCOL, &message)
}

/// An ICMP error about `about`.
pub(crate) fn icmp_error(from: Ipv4Addr, to: Ipv4Addr, kind: (u8, u8), about: &[u8]) -> Vec<u8> {
    let mut out = [0; icmp::ERROR_BYTES_MAX];
    let length = icmp::error((from, to), kind, 0, about, &mut out);
    out[..length].to_vec()
}

/// Cuts a packet into fragments with at most `payload` bytes each, a multiple of eight.
pub(crate) fn fragments(packet: &[u8], identification: u16, payload: usize) -> Vec<Vec<u8>> {
    let (header, rest) = packet.split_at(20);
    let last = rest.len().div_ceil(payload) - 1;
    let piece = |(n, part): (usize, &[u8])| {
        let mut fragment = [header, part].concat();
        let length = u16::try_from(fragment.len()).unwrap();
        let flags = if n == last { 0 } else { 0x2000 };
        let place = u16::try_from(n * payload / 8).unwrap() | flags;
        fragment[2..4].copy_from_slice(&length.to_be_bytes());
        fragment[4..6].copy_from_slice(&identification.to_be_bytes());
        fragment[6..8].copy_from_slice(&place.to_be_bytes());
        seal(&mut fragment);
        fragment
    };
    rest.chunks(payload).enumerate().map(piece).collect()
}

/// The packet that was cut into `fragments`, given in order.
pub(crate) fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = fragments[0][..20].to_vec();
    for (n, fragment) in fragments.iter().enumerate() {
        let ip = Ipv4::new_checked(fragment).unwrap();
        assert!(ip.header_is_intact() && ip.total_bytes() == fragment.len());
        assert_eq!(usize::from(ip.fragment_offset()) * 8, whole.len() - 20);
        assert_eq!(ip.more_fragments(), n + 1 < fragments.len());
        whole.extend(ip.payload());
    }
    let length = u16::try_from(whole.len()).unwrap();
    whole[2..4].copy_from_slice(&length.to_be_bytes());
    whole[6..8].fill(0);
    seal(&mut whole);
    whole
}

/// What a packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    /// Of ICMP the identifier is the port of both ends.
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    /// Behind the header of the transport protocol.
    pub(crate) data: Vec<u8>,
    /// That header.
    pub(crate) header: Vec<u8>,
}

impl Seen {
    pub(crate) fn seq(&self) -> u32 {
        u32::from_be_bytes(self.header[4..8].try_into().unwrap())
    }
}

/// Reads a whole packet. Panics if a length or checksum is wrong.
pub(crate) fn read(packet: &[u8]) -> Seen {
    let ip = Ipv4::new_checked(packet).unwrap();
    let l4 = ip.payload();
    let length = u16::try_from(l4.len()).unwrap();
    let sum = Sum::pseudo(ip.src(), ip.dst(), ip.protocol(), length).bytes(l4).finish();
    assert!(ip.protocol() == icmp::PROTOCOL || sum == 0, "checksum of protocol {}", ip.protocol());
    read_unfinished(packet)
}

/// The same for a packet whose transport checksum is somebody else's business.
pub(crate) fn read_unfinished(packet: &[u8]) -> Seen {
    let ip = Ipv4::new_checked(packet).unwrap();
    assert!(ip.header_is_intact(), "header checksum");
    assert_eq!(ip.total_bytes(), packet.len());
    let l4 = ip.payload();
    let ((src, dst), header) = match ip.protocol() {
        icmp::PROTOCOL => {
            assert!(icmp::is_intact(l4), "ICMP checksum");
            let identifier = icmp::identifier(l4).unwrap();
            ((identifier, identifier), icmp::HEADER_BYTES)
        }
        udp::PROTOCOL => (udp::l4_ports(l4).unwrap(), udp::HEADER_BYTES),
        tcp::PROTOCOL => (udp::l4_ports(l4).unwrap(), tcp::header_bytes(l4).unwrap()),
        other => panic!("protocol {other}"),
    };
    Seen {
        protocol: ip.protocol(),
        ttl: ip.ttl(),
        from: SocketAddrV4::new(ip.src(), src),
        to: SocketAddrV4::new(ip.dst(), dst),
        data: l4[header..].to_vec(),
        header: l4[..header].to_vec(),
    }
}

/// `packet` in a frame.
pub(crate) fn framed(dst: Mac, src: Mac, packet: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &ipv4::ETHERTYPE.to_be_bytes(), packet].concat()
}

/// A question for the address of `name`, one label.
pub(crate) fn dns_question(id: u16, name: &str) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    let mut message = vec![a, b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()];
    message.extend(name.as_bytes());
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The answer of an upstream to `question`.
pub(crate) fn dns_answer(question: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut message = question.to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    message[6..8].copy_from_slice(&[0, 1]);
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    message.extend(address.octets());
    message
}
