//! VLAN tags (IEEE 802.1Q clause 9): four bytes between the addresses and the EtherType.
#![forbid(unsafe_code)]

use super::ethernet::{Frame, HEADER_BYTES};

/// Tag protocol identifier of a customer tag (802.1Q).
pub const TPID_CUSTOMER: u16 = 0x8100;
/// Tag protocol identifier of a service tag (802.1ad, "QinQ").
pub const TPID_SERVICE: u16 = 0x88a8;
/// Length of a tag.
pub const TAG_BYTES: usize = 4;
/// The two addresses before it.
const ADDRESSES_BYTES: usize = 12;
/// VID that marks a frame as priority-tagged: it carries a priority and belongs to no VLAN.
pub const VID_PRIORITY: u16 = 0;
/// VID that may neither be configured nor sent (802.1Q table 9-2).
pub const VID_RESERVED: u16 = 0xfff;

/// Whether `ethertype` announces a tag.
#[inline]
pub const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, TPID_CUSTOMER | TPID_SERVICE)
}

/// The outermost tag of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// [`TPID_CUSTOMER`] or [`TPID_SERVICE`].
    pub tpid: u16,
    /// Priority (3 bits), drop eligible (1), VID (12).
    pub control: u16,
}

impl Tag {
    /// VLAN identifier, below 4096.
    #[inline]
    pub const fn vid(self) -> u16 {
        self.control & 0xfff
    }
}

/// `frame` without tags that carry a priority only; the bytes before them move up, so its front is not the same place.
pub fn without_priority_tags(mut frame: &mut [u8]) -> &mut [u8] {
    while let [_, _, _, _, _, _, _, _, _, _, _, _, kind, more, high, low, _, _, ..] = frame {
        let is_priority =
            is_tag(u16::from_be_bytes([*kind, *more])) && u16::from_be_bytes([*high, *low]) & 0xfff == VID_PRIORITY;
        if !is_priority {
            break;
        }
        frame.copy_within(..ADDRESSES_BYTES, TAG_BYTES);
        frame = &mut frame[TAG_BYTES..];
    }
    frame
}

/// What stands behind the addresses of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tagging {
    /// EtherType or length.
    Untagged,
    /// A tag and then an EtherType.
    Tagged(Tag),
    /// A tag announced, but the frame ends inside it.
    Truncated,
}

/// Looks at the outermost tag of `frame`.
#[inline]
pub fn tagging(frame: Frame<'_>) -> Tagging {
    let tpid = frame.ethertype();
    if !is_tag(tpid) {
        return Tagging::Untagged;
    }
    match frame.bytes().get(HEADER_BYTES..HEADER_BYTES + TAG_BYTES) {
        Some(&[high, low, _, _]) => Tagging::Tagged(Tag { tpid, control: u16::from_be_bytes([high, low]) }),
        _ => Tagging::Truncated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outermost_tag() {
        let cases: [(&[u8], Tagging); 5] = [
            (&[0x08, 0x00, 1, 2], Tagging::Untagged),
            (&[0x81, 0x00, 0x60, 0x05, 0x08, 0x00], Tagging::Tagged(Tag { tpid: 0x8100, control: 0x6005 })),
            (&[0x88, 0xa8, 0x0f, 0xff, 0x81, 0x00, 0, 1, 8, 0], Tagging::Tagged(Tag { tpid: 0x88a8, control: 0x0fff })),
            (&[0x81, 0x00, 0x60, 0x05, 0x08], Tagging::Truncated),
            (&[0x81, 0x00], Tagging::Truncated),
        ];
        for (tail, want) in cases {
            let bytes = [&[0u8; 12][..], tail].concat();
            assert_eq!(tagging(Frame::new_checked(&bytes).unwrap()), want, "{tail:02x?}");
        }
    }

    #[test]
    fn only_priority_tags_come_off() {
        let addresses: Vec<u8> = (0..12).collect();
        let cases: [(&[u8], &[u8]); 6] = [
            (&[0x08, 0x00, 1, 2], &[0x08, 0x00, 1, 2]),
            (&[0x88, 0xa8, 0, 0, 0x81, 0x00, 0x20, 0, 0x08, 0x00, 9], &[0x08, 0x00, 9]),
            (&[0x81, 0x00, 0xe0, 0x00, 0x08, 0x00, 9], &[0x08, 0x00, 9]),
            (&[0x81, 0x00, 0xe0, 0x05, 0x08, 0x00, 9], &[0x81, 0x00, 0xe0, 0x05, 0x08, 0x00, 9]),
            (&[0x88, 0xa8, 0xe0, 0x07, 0x08, 0x00, 9], &[0x88, 0xa8, 0xe0, 0x07, 0x08, 0x00, 9]),
            (&[0x81, 0x00, 0xe0, 0x00, 0x08], &[0x81, 0x00, 0xe0, 0x00, 0x08]),
        ];
        for (tail, want) in cases {
            let mut bytes = [&addresses[..], tail].concat();
            assert_eq!(without_priority_tags(&mut bytes), [&addresses[..], want].concat(), "{tail:02x?}");
        }
    }
}
