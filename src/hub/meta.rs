//! What travels with a frame from ingress to egress, and what egress does to its tags.
#![forbid(unsafe_code)]

use crate::ids::PortId;
use crate::wire::ethernet::{FRAME_BYTES_MAX, Frame};
use crate::wire::kinds::Kinds;
use crate::wire::vlan::{self, TAG_BYTES};

use super::port::PortBits;

/// To whom a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One port.
    Unicast,
    /// All ports but the one it came from.
    All,
    /// All bridge ports but the one it came from.
    Bridges,
    /// The hub's own host and all bridge ports but the one it came from.
    Hosts,
}

/// What egress has to know about a frame's way in. Small enough to travel through a mailbox beside
/// the frame: [`Self::to_words`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameMeta {
    /// The port it came from.
    pub ingress: PortId,
    /// The rules of that port.
    pub bits: PortBits,
    /// The VLAN it is in, below 4096; 0 for none.
    pub vlan: u16,
    /// Whether `vlan` is that of the ingress port and does not stand in the frame.
    pub vlan_assigned: bool,
    /// To whom it goes.
    pub scope: Scope,
    /// What it is, if ingress had to find out.
    pub kinds: Option<Kinds>,
    /// Of a super-frame: payload of each of its segments, below 2^14; else 0.
    pub segment_bytes: u16,
}

impl FrameMeta {
    /// As two words, for a mailbox.
    pub fn to_words(self) -> [u64; 2] {
        let scope: u64 = match self.scope {
            Scope::Unicast => 0,
            Scope::All => 1,
            Scope::Bridges => 2,
            Scope::Hosts => 3,
        };
        let first = self.ingress.bits()
            | u64::from(self.vlan & 0xfff) << VLAN_SHIFT
            | scope << SCOPE_SHIFT
            | if self.vlan_assigned { ASSIGNED } else { 0 }
            | if self.kinds.is_some() { KINDS } else { 0 };
        let second = u64::from(self.kinds.unwrap_or_default().bits())
            | u64::from(self.bits.bits()) << 32
            | u64::from(self.segment_bytes) << SEGMENT_SHIFT;
        [first, second]
    }

    /// From [`Self::to_words`].
    pub fn from_words([first, second]: [u64; 2]) -> Self {
        Self {
            ingress: PortId::from_bits(first),
            bits: PortBits::from_bits(((second >> 32) & 0xffff) as u16),
            vlan: ((first >> VLAN_SHIFT) & 0xfff) as u16,
            vlan_assigned: first & ASSIGNED != 0,
            scope: match (first >> SCOPE_SHIFT) & 3 {
                0 => Scope::Unicast,
                1 => Scope::All,
                2 => Scope::Bridges,
                _ => Scope::Hosts,
            },
            kinds: (first & KINDS != 0).then(|| Kinds::from_bits((second & 0xffff_ffff) as u32)),
            segment_bytes: (second >> SEGMENT_SHIFT) as u16,
        }
    }
}

const SEGMENT_SHIFT: u32 = 48;
const VLAN_SHIFT: u32 = PortId::BITS;
const SCOPE_SHIFT: u32 = VLAN_SHIFT + 12;
const ASSIGNED: u64 = 1 << (SCOPE_SHIFT + 2);
const KINDS: u64 = 1 << (SCOPE_SHIFT + 3);

/// Room for an edited frame.
pub const EDITED_BYTES_MAX: usize = FRAME_BYTES_MAX + TAG_BYTES;

/// A change to a frame's tags on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlanEdit {
    /// Insert an 802.1Q tag with this VID.
    Push(u16),
    /// Remove the outermost tag.
    Pop,
    /// Put this VID into the outermost tag and keep its priority.
    SetVid(u16),
}

impl VlanEdit {
    /// Writes the changed frame to the beginning of `out` and returns its length. 0 if it does not fit
    /// or has no tag to change; neither occurs with frames and edits from [`super::egress`].
    pub fn apply(self, frame: Frame<'_>, out: &mut [u8; EDITED_BYTES_MAX]) -> usize {
        let (addresses, rest) = frame.bytes().split_at(ADDRESS_BYTES);
        let (tag, rest) = match (self, rest) {
            (Self::Push(vid), _) => {
                let [high, low] = vid.to_be_bytes();
                let [tpid_high, tpid_low] = vlan::TPID_CUSTOMER.to_be_bytes();
                ([tpid_high, tpid_low, high, low], rest)
            }
            (Self::SetVid(vid), [tpid_high, tpid_low, high, _, rest @ ..]) => {
                let [vid_high, vid_low] = vid.to_be_bytes();
                ([*tpid_high, *tpid_low, (high & 0xf0) | vid_high, vid_low], rest)
            }
            (Self::Pop, [_, _, _, _, rest @ ..]) => ([0; TAG_BYTES], rest),
            _ => return 0,
        };
        let tag = if self == Self::Pop { &[][..] } else { &tag };
        let mut end = 0;
        for part in [addresses, tag, rest] {
            let Some(place) = out.get_mut(end..end + part.len()) else { return 0 };
            place.copy_from_slice(part);
            end += part.len();
        }
        end
    }
}

const ADDRESS_BYTES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_mailbox() {
        for scope in [Scope::Unicast, Scope::All, Scope::Bridges, Scope::Hosts] {
            for kinds in [None, Some(Kinds::NONE), Some(Kinds::from_bits(u32::MAX))] {
                for (vlan, vlan_assigned) in [(0, false), (4095, true), (5, false)] {
                    let (ingress, bits) = (PortId::new(62, 262_143, 65_535), PortBits::from_bits(0xffff));
                    let meta = FrameMeta { ingress, bits, vlan, vlan_assigned, scope, kinds, segment_bytes: vlan };
                    assert_eq!(FrameMeta::from_words(meta.to_words()), meta);
                }
            }
        }
    }

    #[test]
    fn edits() {
        let plain = [&[7u8; 12][..], &[8, 0, 1, 2]].concat();
        let tagged = [&[7u8; 12][..], &[0x81, 0, 0x60, 5, 8, 0, 1, 2]].concat();
        let cases = [
            (VlanEdit::Push(0x123), &plain, vec![0x81, 0, 1, 0x23, 8, 0, 1, 2]),
            (VlanEdit::Pop, &tagged, vec![8, 0, 1, 2]),
            (VlanEdit::SetVid(0x123), &tagged, vec![0x81, 0, 0x61, 0x23, 8, 0, 1, 2]),
        ];
        for (edit, bytes, want) in cases {
            let mut out = [0; EDITED_BYTES_MAX];
            let end = edit.apply(Frame::new_checked(bytes).unwrap(), &mut out);
            assert_eq!((&out[..12], &out[12..end]), (&[7u8; 12][..], &want[..]), "{edit:?}");
        }
        let longest = [0; FRAME_BYTES_MAX];
        let mut out = [0; EDITED_BYTES_MAX];
        assert_eq!(VlanEdit::Push(1).apply(Frame::new_checked(&longest).unwrap(), &mut out), EDITED_BYTES_MAX);
        let longer = [0; FRAME_BYTES_MAX + 1];
        assert_eq!(VlanEdit::Push(1).apply(Frame::new_checked(&longer).unwrap(), &mut out), 0);
        assert_eq!(VlanEdit::Pop.apply(Frame::new_checked(&longer[..14]).unwrap(), &mut out), 0);
    }
}
