//! Frames that tell on arrival what happened to them on the way.
//!
//! ```text
//! 0        6        12     14     18     26     34     42            len-8
//! | dst    | src    | 88b5 | flow | seq  | time | check | filling ... | check |
//! ```
//!
//! A flow is all that one member sends; its frames are numbered from 0.

use hublane::metrics::drops::DropReason;
use hublane::tick::Tick;
use hublane::tunnel::link::FrameSink;

/// EtherType for local experiments (IEEE 802).
const LOCAL_EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// Shortest frame that has room for everything.
pub(crate) const FRAME_BYTES_MIN: usize = 60;

/// A locally administered address for each member.
pub(crate) fn mac(number: usize) -> [u8; 6] {
    let [.., a, b, c, d] = (number as u64).to_be_bytes();
    [0x02, 0x5e, a, b, c, d]
}

/// Makes `frame` number `seq` of the flow of member `from`, addressed to member `to`.
pub(crate) fn stamp(frame: &mut [u8], from: usize, to: usize, seq: u64, now: Tick) {
    let end = frame.len() - 8;
    frame[..6].copy_from_slice(&mac(to));
    frame[6..12].copy_from_slice(&mac(from));
    frame[12..14].copy_from_slice(&LOCAL_EXPERIMENT);
    frame[14..18].copy_from_slice(&(from as u64).to_be_bytes()[4..]);
    frame[18..26].copy_from_slice(&seq.to_be_bytes());
    frame[26..34].copy_from_slice(&now.0.to_be_bytes());
    let check = check_of(from as u64, seq, now.0, end).to_be_bytes();
    frame[34..42].copy_from_slice(&check);
    frame[end..].copy_from_slice(&check);
}

fn check_of(flow: u64, seq: u64, time: u64, end: usize) -> u64 {
    let mixed = (flow ^ seq.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ time ^ end as u64;
    mixed.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// What arrived of a flow, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Frames that arrived whole.
    pub(crate) frames: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Frames that should have come before others that came.
    pub(crate) lost: u64,
    /// Frames that came a second time.
    pub(crate) duplicate: u64,
    /// Frames that came after later ones of their flow.
    pub(crate) reordered: u64,
    /// Frames that were not as they were sent.
    pub(crate) corrupt: u64,
}

/// What arrived.
pub(crate) struct Flows {
    flows: Vec<Flow>,
    stray: Seen,
}

#[derive(Clone, Copy, Default)]
struct Flow {
    /// One more than the highest number seen.
    next: u64,
    /// Which of the 64 numbers below `next` were seen, the last one in bit 0.
    window: u64,
    seen: Seen,
}

impl Flows {
    /// For the flows of members 0 to `members` - 1.
    pub(crate) fn new(members: usize) -> Self {
        Self { flows: vec![Flow::default(); members], stray: Seen::default() }
    }

    /// One more than the highest number that has arrived of the flow of `member`.
    pub(crate) fn next(&self, member: usize) -> u64 {
        self.flows[member].next
    }

    /// All flows together.
    pub(crate) fn total(&self) -> Seen {
        self.flows.iter().map(|flow| flow.seen).fold(self.stray, |a, b| Seen {
            frames: a.frames + b.frames,
            bytes: a.bytes + b.bytes,
            lost: a.lost + b.lost,
            duplicate: a.duplicate + b.duplicate,
            reordered: a.reordered + b.reordered,
            corrupt: a.corrupt + b.corrupt,
        })
    }
}

impl FrameSink for Flows {
    /// Takes a frame that arrived; other traffic is ignored.
    fn frame(&mut self, frame: &[u8]) {
        if frame.get(12..14) != Some(&LOCAL_EXPERIMENT) {
            return;
        }
        match read(frame).and_then(|(flow, seq)| Some((self.flows.get_mut(flow)?, seq))) {
            Some((flow, seq)) => flow.arrived(seq, frame.len()),
            None => self.stray.corrupt += 1,
        }
    }

    /// What the server sends is always a frame, else the tunnel is at fault.
    fn dropped(&mut self, _reason: DropReason) {
        self.stray.corrupt += 1;
    }
}

/// Flow and number of a frame that is as it was sent.
fn read(frame: &[u8]) -> Option<(usize, u64)> {
    if frame.len() < FRAME_BYTES_MIN {
        return None;
    }
    let end = frame.len() - 8;
    let word = |at: usize| frame[at..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let flow = u32::from_be_bytes(*frame[14..].first_chunk()?);
    let (seq, time) = (word(18)?, word(26)?);
    let check = check_of(u64::from(flow), seq, time, end);
    (word(34)? == check && word(end)? == check).then_some((usize::try_from(flow).ok()?, seq))
}

impl Flow {
    fn arrived(&mut self, seq: u64, len: usize) {
        if seq >= self.next {
            let skipped = seq - self.next;
            self.window = if skipped < 63 { self.window << (skipped + 1) | 1 } else { 1 };
            self.seen.lost += skipped;
            self.next = seq + 1;
        } else {
            let back = self.next - 1 - seq;
            let bit = 1u64.checked_shl(u32::try_from(back).unwrap_or(64)).unwrap_or(0);
            if bit == 0 || self.window & bit != 0 {
                self.seen.duplicate += 1;
                return;
            }
            self.window |= bit;
            self.seen.lost -= 1;
            self.seen.reordered += 1;
        }
        self.seen.frames += 1;
        self.seen.bytes += len as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows_after(numbers: &[u64]) -> Seen {
        let mut flows = Flows::new(2);
        let mut frame = [0; 100];
        for seq in numbers {
            stamp(&mut frame, 1, 0, *seq, Tick(7));
            flows.frame(&frame);
        }
        flows.total()
    }

    #[test]
    fn loss_order_and_doubles_are_told_apart() {
        for (numbers, frames, lost, reordered, duplicate) in [
            (&[0, 1, 2, 3][..], 4, 0, 0, 0),
            (&[0, 3], 2, 2, 0, 0),
            (&[0, 2, 1, 3], 4, 0, 1, 0),
            (&[0, 1, 1, 2], 3, 0, 0, 1),
            (&[0, 2, 1, 1], 3, 0, 1, 1),
            (&[0, 100, 99], 3, 98, 1, 0),
        ] {
            let seen = flows_after(numbers);
            let got = (seen.frames, seen.lost, seen.reordered, seen.duplicate);
            assert_eq!(got, (frames, lost, reordered, duplicate), "{numbers:?}");
        }
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let mut frame = [0; 60];
        stamp(&mut frame, 1, 0, 5, Tick(7));
        for at in (14..42).chain(52..60) {
            let mut flows = Flows::new(2);
            let mut damaged = frame;
            damaged[at] ^= 1;
            flows.frame(&damaged);
            assert_eq!(flows.total().corrupt, 1, "byte {at}");
        }
    }
}
