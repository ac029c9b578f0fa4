//! Ethernet II frames (IEEE 802.3 clause 3), without preamble and FCS.
#![forbid(unsafe_code)]

use std::fmt;

/// Length of the header: two addresses and the EtherType.
pub const HEADER_BYTES: usize = 14;

/// Longest frame the tunnel carries, header included (protocol note §5.1).
pub const FRAME_BYTES_MAX: usize = 1600;

/// A 48-bit MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff-ff-ff-ff-ff-ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// The I/G bit: broadcast and multicast.
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The address as a number below 2^48.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// From [`Self::to_bits`]; higher bits are cut.
    pub const fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

/// A frame of at least [`HEADER_BYTES`].
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a>(&'a [u8]);

impl<'a> Frame<'a> {
    /// `None` if `bytes` is shorter than a header.
    #[inline]
    pub const fn new_checked(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES { None } else { Some(Self(bytes)) }
    }

    /// The whole frame.
    #[inline]
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// One check of the length for all fields of the header.
    #[inline(always)]
    fn header(self) -> &'a [u8; HEADER_BYTES] {
        self.0.first_chunk().expect("checked by new_checked")
    }

    /// Destination address.
    #[inline(always)]
    pub fn dst(self) -> Mac {
        let h = self.header();
        Mac([h[0], h[1], h[2], h[3], h[4], h[5]])
    }

    /// Source address.
    #[inline(always)]
    pub fn src(self) -> Mac {
        let h = self.header();
        Mac([h[6], h[7], h[8], h[9], h[10], h[11]])
    }

    /// EtherType or length field at offset 12; 0x8100 if the frame is tagged.
    #[inline(always)]
    pub fn ethertype(self) -> u16 {
        let h = self.header();
        u16::from_be_bytes([h[12], h[13]])
    }

    /// What follows the header.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        &self.0[HEADER_BYTES..]
    }
}
