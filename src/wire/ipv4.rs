//! IPv4 headers (RFC 791).
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::checksum::Sum;

/// EtherType.
pub const ETHERTYPE: u16 = 0x0800;
/// Length of a header without options.
pub const HEADER_BYTES_MIN: usize = 20;

/// A packet whose header, options included, lies within the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a>(&'a [u8]);

impl<'a> Ipv4<'a> {
    /// `None` unless `bytes` begin with a whole header of version 4.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES_MIN || bytes[0] >> 4 != 4 {
            return None;
        }
        let header = usize::from(bytes[0] & 0xf) * 4;
        if header < HEADER_BYTES_MIN || header > bytes.len() { None } else { Some(Self(bytes)) }
    }

    /// Length of the header, options included.
    #[inline]
    pub fn header_bytes(self) -> usize {
        usize::from(self.0[0] & 0xf) * 4
    }

    /// The total length field: header and payload. May lie; see [`Self::whole`].
    #[inline]
    pub fn total_bytes(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[2], self.0[3]]))
    }

    /// The packet without padding behind it; `None` if the total length field lies.
    #[inline]
    pub fn whole(self) -> Option<&'a [u8]> {
        if self.total_bytes() < self.header_bytes() { None } else { self.0.get(..self.total_bytes()) }
    }

    /// Identification, by which fragments of a datagram know each other.
    #[inline]
    pub fn identification(self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// Time to live.
    #[inline]
    pub fn ttl(self) -> u8 {
        self.0[8]
    }

    /// Whether routers may not fragment it.
    #[inline]
    pub fn dont_fragment(self) -> bool {
        self.0[6] & 0x40 != 0
    }

    /// Whether fragments follow.
    #[inline]
    pub fn more_fragments(self) -> bool {
        self.0[6] & 0x20 != 0
    }

    /// Source address.
    #[inline]
    pub fn src(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[12], self.0[13], self.0[14], self.0[15])
    }

    /// Destination address.
    #[inline]
    pub fn dst(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[16], self.0[17], self.0[18], self.0[19])
    }

    /// Whether the checksum of the header is right.
    #[inline]
    pub fn header_is_intact(self) -> bool {
        Sum::ZERO.bytes(&self.0[..self.header_bytes()]).finish() == 0
    }

    /// Number of the protocol above.
    #[inline]
    pub fn protocol(self) -> u8 {
        self.0[9]
    }

    /// Source and destination address, eight bytes in the order of the wire.
    #[inline]
    pub fn addresses(self) -> &'a [u8] {
        &self.0[12..20]
    }

    /// Where in its datagram this fragment begins, in units of 8 bytes; 0 for a whole datagram.
    #[inline]
    pub fn fragment_offset(self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x1fff
    }

    /// Whether this is one of several fragments.
    #[inline]
    pub fn is_fragment(self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x3fff != 0
    }

    /// Everything behind the header up to the end of the bytes. The total length field is not
    /// consulted: a filter must not see less than a receiver that ignores it.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        &self.0[usize::from(self.0[0] & 0xf) * 4..]
    }
}

/// A header without options, don't-fragment set, for a packet of our own with `payload_bytes` behind it.
///
/// An atomic datagram needs no identification (RFC 6864 §4.1).
pub fn header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ttl: u8, payload_bytes: u16) -> [u8; HEADER_BYTES_MIN] {
    let [high, low] = payload_bytes.saturating_add(20).to_be_bytes();
    let mut bytes = [0x45, 0, high, low, 0, 0, 0x40, 0, ttl, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[12..16].copy_from_slice(&src.octets());
    bytes[16..20].copy_from_slice(&dst.octets());
    let checksum = Sum::ZERO.bytes(&bytes).finish();
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_must_be_whole() {
        let mut bytes = [0u8; 28];
        for (first, len, ok) in [
            (0x45, 20, true),
            (0x45, 19, false),
            (0x44, 28, false),
            (0x47, 28, true),
            (0x48, 28, false),
            (0x65, 28, false),
        ] {
            bytes[0] = first;
            assert_eq!(Ipv4::new_checked(&bytes[..len]).is_some(), ok, "{first:#x} {len}");
        }
    }

    #[test]
    fn own_headers() {
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let bytes = [&header(src, dst, 17, 64, 5)[..], &[1, 2, 3, 4, 5, 0, 0]].concat();
        let packet = Ipv4::new_checked(&bytes).unwrap();
        assert_eq!((packet.src(), packet.dst(), packet.ttl(), packet.protocol()), (src, dst, 64, 17));
        assert_eq!((packet.whole().unwrap().len(), packet.header_is_intact()), (25, true));
        assert!(packet.dont_fragment() && !packet.more_fragments());
        assert_eq!(Ipv4::new_checked(&bytes[..24]).unwrap().whole(), None);
    }

    #[test]
    fn fields() {
        let mut bytes = [0u8; 26];
        bytes[0] = 0x46;
        bytes[6..8].copy_from_slice(&[0x20, 0x03]);
        bytes[9] = 17;
        bytes[24] = 0xaa;
        let packet = Ipv4::new_checked(&bytes).unwrap();
        assert_eq!((packet.protocol(), packet.fragment_offset(), packet.is_fragment()), (17, 3, true));
        assert_eq!(packet.payload(), [0xaa, 0]);
    }
}
