//! The frame by which cards in bridge mode find loops: sent into LAN and hub, it comes back only if there is one.
//!
//! ```text
//! 0    group address   03-48-4c-6c-6f-70, locally administered: every bridge forwards it
//! 6    source          an address of its own, so that limits by address know it apart
//! 12   EtherType       88b6, IEEE 802 local experimental 2 (1 is what load generators use, ours too)
//! 14   "HLloop", 0, 1  whose experiment it is, and its version
//! 22   leg             who has sent it: start of its session (ms since 1970), random token
//! 38   newest leg      of those that it has passed, the sender among them
//! 54   number          counted by the sender, for LAN and hub from random numbers of their own
//! 58   sent into       0: LAN, 1: hub, 2: both, since its sender gives way; the sender itself goes by the number
//! 59   legs passed
//! ```
#![forbid(unsafe_code)]

use super::ethernet::Mac;

/// Where probes go.
pub const GROUP: Mac = Mac([0x03, 0x48, 0x4c, 0x6c, 0x6f, 0x70]);
/// IEEE 802 "local experimental 2", as it stands in a frame.
pub const ETHERTYPE: [u8; 2] = [0x88, 0xb6];
/// The shortest frame of Ethernet: nobody pads it.
pub const BYTES: usize = 60;

/// One end of a tunnel, in one session. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leg {
    /// When its session began, in milliseconds since 1970 by its own clock.
    pub started_ms: u64,
    /// Random, so that no two are equal.
    pub token: u64,
}

/// The two sides of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The device, and the bridge behind it.
    Lan,
    /// The tunnel.
    Hub,
}

/// What a probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopProbe {
    /// The sender.
    pub leg: Leg,
    /// The newest leg that it has passed.
    pub newest: Leg,
    /// Counted by the sender.
    pub number: u32,
    /// By which side it has left its sender; `None`: by both, since that one has found a loop and gives way.
    pub sent_into: Option<Side>,
    /// How many legs it has passed.
    pub passed: u8,
}

impl LoopProbe {
    /// `None` if `frame` is none.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let frame: &[u8; BYTES] = frame.first_chunk()?;
        if frame[..6] != GROUP.0 || frame[12..14] != ETHERTYPE || frame[14..22] != MAGIC {
            return None;
        }
        let sent_into = match frame[58] {
            0 => Some(Side::Lan),
            1 => Some(Side::Hub),
            2 => None,
            _ => return None,
        };
        Some(Self {
            leg: leg(frame, 22)?,
            newest: leg(frame, 38)?,
            number: u32::from_be_bytes(*frame[54..].first_chunk()?),
            sent_into,
            passed: frame[59],
        })
    }

    /// As a frame from `source`.
    pub fn to_bytes(&self, source: Mac) -> [u8; BYTES] {
        let mut frame = [0; BYTES];
        frame[..6].copy_from_slice(&GROUP.0);
        frame[6..12].copy_from_slice(&source.0);
        frame[12..14].copy_from_slice(&ETHERTYPE);
        frame[14..22].copy_from_slice(&MAGIC);
        for (at, word) in
            [(22, self.leg.started_ms), (30, self.leg.token), (38, self.newest.started_ms), (46, self.newest.token)]
        {
            frame[at..at + 8].copy_from_slice(&word.to_be_bytes());
        }
        frame[54..58].copy_from_slice(&self.number.to_be_bytes());
        frame[58] = match self.sent_into {
            Some(Side::Lan) => 0,
            Some(Side::Hub) => 1,
            None => 2,
        };
        frame[59] = self.passed;
        frame
    }
}

fn leg(frame: &[u8; BYTES], at: usize) -> Option<Leg> {
    let word = |at: usize| frame[at..].first_chunk().map(|word| u64::from_be_bytes(*word));
    Some(Leg { started_ms: word(at)?, token: word(at + 8)? })
}

const MAGIC: [u8; 8] = *b"HLloop\0\x01";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let probe = LoopProbe {
            leg: Leg { started_ms: 1_700_000_000_123, token: 0x1122_3344_5566_7788 },
            newest: Leg { started_ms: 1_700_000_009_999, token: 7 },
            number: 0xfeed_0001,
            sent_into: Some(Side::Hub),
            passed: 3,
        };
        let mut frame = probe.to_bytes(Mac([0x5e, 1, 2, 3, 4, 5])).to_vec();
        assert_eq!((frame.len(), LoopProbe::parse(&frame)), (60, Some(probe)));
        assert!(GROUP.is_group());
        frame.extend([0; 4]);
        assert_eq!(LoopProbe::parse(&frame), Some(probe), "padded");
        for at in [0, 12, 14, 21, 58] {
            let mut other = frame.clone();
            other[at] ^= 0x80;
            assert_eq!(LoopProbe::parse(&other), None, "byte {at}");
        }
        assert_eq!(LoopProbe::parse(&frame[..59]), None);
        for sent_into in [Some(Side::Lan), None] {
            let other = LoopProbe { sent_into, ..probe };
            assert_eq!(LoopProbe::parse(&other.to_bytes(Mac::BROADCAST)), Some(other));
        }
    }

    #[test]
    fn later_legs_are_newer() {
        let leg = |started_ms, token| Leg { started_ms, token };
        assert!(leg(2, 1) > leg(1, 9) && leg(1, 9) > leg(1, 8));
    }
}
