//! The virtio-net header in front of a frame, by which the kernel and a program spare each other checksums and cutting
//! (virtio 1.2 §5.1.6): packet sockets and TAP devices have the same.
#![forbid(unsafe_code)]

/// The header in front of a frame, as far as it matters (virtio 1.2 §5.1.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum from `checksum_start` on is to be finished and put `checksum_offset` bytes behind.
    pub needs_checksum: bool,
    /// What is to be cut, if anything.
    pub segments: Segments,
    /// Length of the headers that each segment gets.
    pub header_bytes: u16,
    /// Payload of a segment.
    pub segment_bytes: u16,
    /// See `needs_checksum`.
    pub checksum_start: u16,
    /// See `needs_checksum`.
    pub checksum_offset: u16,
}

/// How a frame is to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segments {
    /// Not at all.
    #[default]
    None,
    /// Into segments of TCP over IPv4.
    Tcp4,
    /// Into segments of TCP over IPv6.
    Tcp6,
    /// Into datagrams of UDP.
    Udp,
    /// In some way that we do not know.
    Other,
}

impl VnetHeader {
    /// As the kernel wrote it.
    pub(super) fn parse(bytes: &[u8; VNET_BYTES]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let segments = match bytes[1] & !GSO_ECN {
            0 => Segments::None,
            GSO_TCP4 => Segments::Tcp4,
            GSO_TCP6 => Segments::Tcp6,
            GSO_UDP_L4 => Segments::Udp,
            _ => Segments::Other,
        };
        Self {
            needs_checksum: bytes[0] & NEEDS_CSUM != 0,
            segments,
            header_bytes: word(2),
            segment_bytes: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    /// As the kernel reads it.
    pub(super) fn to_bytes(self) -> [u8; VNET_BYTES] {
        let mut bytes = [0; VNET_BYTES];
        bytes[0] = if self.needs_checksum { NEEDS_CSUM } else { 0 };
        bytes[1] = match self.segments {
            Segments::Tcp4 => GSO_TCP4,
            Segments::Tcp6 => GSO_TCP6,
            Segments::Udp => GSO_UDP_L4,
            Segments::None | Segments::Other => 0,
        };
        let words = [self.header_bytes, self.segment_bytes, self.checksum_start, self.checksum_offset];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// Length of the header.
pub(super) const VNET_BYTES: usize = 10;
const NEEDS_CSUM: u8 = 1;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Beside the kind: the connection uses ECN.
const GSO_ECN: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_there_and_back() {
        for segments in [Segments::None, Segments::Tcp4, Segments::Tcp6, Segments::Udp] {
            let header = VnetHeader {
                needs_checksum: true,
                segments,
                header_bytes: 66,
                segment_bytes: 1448,
                checksum_start: 34,
                checksum_offset: 16,
            };
            assert_eq!(VnetHeader::parse(&header.to_bytes()), header);
        }
        let odd = VnetHeader::parse(&[2, 0x83, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((odd.needs_checksum, odd.segments), (false, Segments::Other));
        assert_eq!(VnetHeader::parse(&[0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]).segments, Segments::Tcp4);
    }
}
