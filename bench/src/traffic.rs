//! Frames that tell on arrival what happened to them on the way.
//!
//! ```text
//! 0        6        12     14     18     26     34     42            len-8
//! | dst    | src    | 88b5 | flow | seq  | time | check | filling ... | check |
//! ```
//!
//! The filling is a piece of a table, another one for each frame, and is compared whole on arrival.
//! Frames of a flow are numbered from 0. `time` is when the frame was meant to leave, by the clock of this machine.

use std::sync::LazyLock;

use hublane::tick::Tick;

/// EtherType for local experiments (IEEE 802).
const LOCAL_EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// Shortest frame that has room for everything; also the shortest of Ethernet.
pub(crate) const FRAME_BYTES_MIN: u16 = 60;

/// Longest frame that stock clients carry: MTU 1500 and a header.
pub(crate) const FRAME_BYTES_MAX: u16 = 1514;

/// The flow of frames that only make their sender's address known.
pub(crate) const HELLO: u32 = u32::MAX;

/// To all.
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// A locally administered address for each member. The second byte differs from run to run: a server may remember for
/// a while where members of the same number were.
pub(crate) fn mac(number: usize) -> [u8; 6] {
    let [.., a, b, c, d] = (number as u64).to_be_bytes();
    [0x02, *RUN, a, b, c, d]
}

/// Before the filling.
const HEAD_BYTES: usize = 42;

static FILLING: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1_u64;
    let next = |_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state.to_be_bytes()[0]
    };
    (0..1024 + usize::from(FRAME_BYTES_MAX)).map(next).collect()
});

static RUN: LazyLock<u8> = LazyLock::new(|| std::process::id().to_le_bytes()[0]);

/// What a frame says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which flow it belongs to.
    pub(crate) flow: u32,
    /// Its number in the flow.
    pub(crate) seq: u64,
    /// When it was meant to leave.
    pub(crate) time: Tick,
}

impl Stamp {
    /// Writes it into all of `frame`, from member `from` to address `dst`.
    pub(crate) fn write(self, frame: &mut [u8], dst: [u8; 6], from: usize) {
        let end = frame.len() - 8;
        frame[..6].copy_from_slice(&dst);
        frame[6..12].copy_from_slice(&mac(from));
        frame[12..14].copy_from_slice(&LOCAL_EXPERIMENT);
        frame[14..18].copy_from_slice(&self.flow.to_be_bytes());
        frame[18..26].copy_from_slice(&self.seq.to_be_bytes());
        frame[26..34].copy_from_slice(&self.time.0.to_be_bytes());
        let check = self.check(frame, end).to_be_bytes();
        frame[34..42].copy_from_slice(&check);
        frame[HEAD_BYTES..end].copy_from_slice(self.filling(end));
        frame[end..].copy_from_slice(&check);
    }

    /// The stamp of a frame that is as it was sent; `None` if it is not.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        if frame.len() < usize::from(FRAME_BYTES_MIN) {
            return None;
        }
        let end = frame.len() - 8;
        let word = |at: usize| frame[at..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let flow = u32::from_be_bytes(*frame[14..].first_chunk()?);
        let stamp = Self { flow, seq: word(18)?, time: Tick(word(26)?) };
        let check = stamp.check(frame, end);
        let whole = word(34)? == check && word(end)? == check && frame[HEAD_BYTES..end] == *stamp.filling(end);
        whole.then_some(stamp)
    }

    /// Of the stamp, the length and both addresses.
    fn check(self, frame: &[u8], end: usize) -> u64 {
        let mix = |a: u64, b: u64| (a.rotate_left(23) ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let [first, last] = [0, 4].map(|at| u64::from_be_bytes(*frame[at..].first_chunk().expect("a whole header")));
        let words = [u64::from(self.flow), self.seq, self.time.0, end as u64, first, last];
        words.into_iter().fold(0, mix)
    }

    /// What stands between the two checks.
    fn filling(self, end: usize) -> &'static [u8] {
        let from = usize::try_from(self.seq.wrapping_mul(31) % 1024).expect("below 1024");
        &FILLING[from..][..end - HEAD_BYTES]
    }
}

/// Whether `frame` is of this program; others (discovery of the server, say) are not counted.
pub(crate) fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&LOCAL_EXPERIMENT)
}

/// What arrived of one flow at one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Track {
    /// One more than the highest number seen.
    pub(crate) next: u64,
    /// Which of the 64 numbers below `next` were seen, the last one in bit 0.
    window: u64,
    /// Numbers below `next` that were not seen.
    pub(crate) missing: u64,
    /// Frames that came a second time.
    pub(crate) duplicate: u64,
    /// Frames that came after later ones.
    pub(crate) reordered: u64,
}

impl Track {
    /// Frame `seq` has arrived. `false`: not for the first time.
    pub(crate) fn arrived(&mut self, seq: u64) -> bool {
        if seq >= self.next {
            let skipped = seq - self.next;
            self.window = if skipped < 63 { self.window << (skipped + 1) | 1 } else { 1 };
            self.missing += skipped;
            self.next = seq + 1;
            return true;
        }
        let back = self.next - 1 - seq;
        let bit = 1u64.checked_shl(u32::try_from(back).unwrap_or(64)).unwrap_or(0);
        if bit == 0 || self.window & bit != 0 {
            self.duplicate += 1;
            return false;
        }
        self.window |= bit;
        self.missing -= 1;
        self.reordered += 1;
        true
    }
}

/// Length of the frames of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameSize {
    /// All alike.
    Fixed(u16),
    /// Seven of 60 bytes to four of 590 and one of 1514: the "simple IMIX" of the Internet (RFC 6985 §3).
    Imix,
}

impl FrameSize {
    /// Length of frame `seq`.
    pub(crate) fn of(self, seq: u64) -> usize {
        const IMIX: [u16; 12] = [60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 590, 60];
        usize::from(match self {
            Self::Fixed(len) => len,
            Self::Imix => IMIX[usize::try_from(seq % 12).expect("below 12")],
        })
    }
}

impl std::str::FromStr for FrameSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        match text.parse() {
            Ok(len @ FRAME_BYTES_MIN..=FRAME_BYTES_MAX) => Ok(Self::Fixed(len)),
            _ => Err(format!("a number from {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX}, or imix")),
        }
    }
}

impl std::fmt::Display for FrameSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(len) => len.fmt(f),
            Self::Imix => f.write_str("imix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_order_and_doubles_are_told_apart() {
        for (numbers, missing, reordered, duplicate) in [
            (&[0, 1, 2, 3][..], 0, 0, 0),
            (&[0, 3], 2, 0, 0),
            (&[0, 2, 1, 3], 0, 1, 0),
            (&[0, 1, 1, 2], 0, 0, 1),
            (&[0, 2, 1, 1], 0, 1, 1),
            (&[0, 100, 99], 98, 1, 0),
            (&[0, 100, 10], 99, 0, 1),
        ] {
            let mut track = Track::default();
            for seq in numbers {
                track.arrived(*seq);
            }
            assert_eq!(
                (track.missing, track.reordered, track.duplicate),
                (missing, reordered, duplicate),
                "{numbers:?}"
            );
        }
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let mut frame = [0; 200];
        let stamp = Stamp { flow: 1, seq: 5, time: Tick(7) };
        stamp.write(&mut frame, mac(2), 1);
        assert_eq!(Stamp::read(&frame), Some(stamp));
        for at in (0..12).chain(14..frame.len()) {
            let mut damaged = frame;
            damaged[at] ^= 1;
            assert_eq!(Stamp::read(&damaged), None, "byte {at}");
        }
        assert_eq!(Stamp::read(&frame[..59]), None);
    }

    #[test]
    fn imix_is_seven_to_four_to_one() {
        let mut counts = [60, 590, 1514].map(|len| (len, 0));
        for seq in 0..1200 {
            counts.iter_mut().find(|(len, _)| *len == FrameSize::Imix.of(seq)).expect("one of three").1 += 1;
        }
        assert_eq!(counts, [(60, 700), (590, 400), (1514, 100)]);
        assert_eq!("64".parse(), Ok(FrameSize::Fixed(64)));
        assert!("59".parse::<FrameSize>().is_err() && "1515".parse::<FrameSize>().is_err());
    }
}
