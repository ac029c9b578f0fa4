//! IPv4 headers (RFC 791).
#![forbid(unsafe_code)]

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
