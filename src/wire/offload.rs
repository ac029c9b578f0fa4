//! What a network card or a virtual one still owes a packet: its checksum, its cutting into segments.
//!
//! The fields of a virtio-net header, as far as IPv4 needs them (virtio 1.2 §5.1.6).
#![forbid(unsafe_code)]

/// State of the TCP or UDP checksum of a packet. Checksums of IP headers and ICMP are always finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum L4Checksum {
    /// Finished by its sender: a change is carried on in it, so that an error on the way stays visible.
    #[default]
    Complete,
    /// The field holds the folded sum of the pseudo-header, not complemented; who sends the packet on finishes it.
    Partial,
    /// Nobody says which of the two: it has to be computed anew from all bytes.
    Untrusted,
}

/// See the module text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// State of the checksum.
    pub checksum: L4Checksum,
    /// Payload bytes of each TCP segment (or UDP datagram) that the packet is to be cut into; 0: it is whole.
    pub segment_bytes: u16,
}

impl Offload {
    /// A packet as it travels on a wire.
    pub const NONE: Offload = Offload { checksum: L4Checksum::Complete, segment_bytes: 0 };
}
