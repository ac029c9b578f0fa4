//! The content of a stream: units of equal length that tell on arrival whether they came whole and in order.
//!
//! ```text
//! 0        8     16     24      32            len-8
//! | stream | seq | time | check | anything ... | check |
//! ```
//!
//! A pipe may cut the stream into other records than it was sent in, so units are found by their position.

use hublane::tick::Tick;

/// Shortest unit.
pub(crate) const UNIT_BYTES_MIN: usize = 64;

const HEAD_BYTES: usize = 32;
const TAIL_BYTES: usize = 8;

/// Writes what is checked of unit `seq` of `stream`; the rest of `unit` stays as it is.
pub(crate) fn stamp(unit: &mut [u8], stream: u64, seq: u64, time: Tick) {
    let check = check_of(stream, seq, time.0, unit.len());
    for (at, word) in [stream, seq, time.0, check].into_iter().enumerate() {
        unit[at * 8..][..8].copy_from_slice(&word.to_be_bytes());
    }
    let tail = unit.len() - TAIL_BYTES;
    unit[tail..].copy_from_slice(&check.to_be_bytes());
}

fn check_of(stream: u64, seq: u64, time: u64, len: usize) -> u64 {
    let mixed = (stream ^ seq.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ time ^ len as u64;
    mixed.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// The receiving end of one stream.
#[derive(Debug)]
pub(crate) struct Checker {
    stream: u64,
    len: usize,
    /// Bytes that have come of the unit under way.
    at: usize,
    head: [u8; HEAD_BYTES],
    tail: [u8; TAIL_BYTES],
    units: u64,
    corrupt: u64,
}

impl Checker {
    /// For `stream`, in units of `len` bytes.
    pub(crate) const fn new(stream: u64, len: usize) -> Self {
        Self { stream, len, at: 0, head: [0; HEAD_BYTES], tail: [0; TAIL_BYTES], units: 0, corrupt: 0 }
    }

    /// Units that have come whole.
    pub(crate) const fn units(&self) -> u64 {
        self.units
    }

    /// Those among them that were not what was to come at their place.
    pub(crate) const fn corrupt(&self) -> u64 {
        self.corrupt
    }

    /// Takes the next bytes; calls `each` with the time in every good unit that they complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Tick)) {
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(self.len - self.at));
            copy_overlap(&mut self.head, 0, part, self.at);
            copy_overlap(&mut self.tail, self.len - TAIL_BYTES, part, self.at);
            self.at += part.len();
            bytes = rest;
            if self.at == self.len {
                self.at = 0;
                self.complete(&mut each);
            }
        }
    }

    fn complete(&mut self, each: &mut impl FnMut(Tick)) {
        let word = |bytes: &[u8]| bytes.iter().fold(0, |word: u64, byte| word << 8 | u64::from(*byte));
        let [stream, seq, time, check] = [0, 8, 16, 24].map(|at| word(&self.head[at..at + 8]));
        let good = stream == self.stream
            && seq == self.units
            && check == check_of(stream, seq, time, self.len)
            && check == word(&self.tail);
        self.units += 1;
        if good { each(Tick(time)) } else { self.corrupt += 1 }
    }
}

/// Copies what `part`, which stands at `at`, has of the bytes of `to`, which stand at `to_at`.
fn copy_overlap(to: &mut [u8], to_at: usize, part: &[u8], at: usize) {
    let (start, end) = (at.max(to_at), (at + part.len()).min(to_at + to.len()));
    if start < end {
        to[start - to_at..end - to_at].copy_from_slice(&part[start - at..end - at]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_of(units: &[u64], len: usize) -> Vec<u8> {
        let mut stream = vec![0x5a; units.len() * len];
        for (unit, seq) in stream.chunks_mut(len).zip(units) {
            stamp(unit, 7, *seq, Tick(seq * 100));
        }
        stream
    }

    #[test]
    fn units_are_found_however_the_stream_is_cut() {
        for len in [UNIT_BYTES_MIN, 100, 1400] {
            let stream = stream_of(&[0, 1, 2, 3, 4], len);
            for step in [1, 7, 31, 33, 63, 64, 65, 1399, 10_000] {
                let (mut checker, mut times) = (Checker::new(7, len), Vec::new());
                for part in stream.chunks(step) {
                    checker.push(part, |time| times.push(time.0));
                }
                assert_eq!((checker.units(), checker.corrupt()), (5, 0), "{len} {step}");
                assert_eq!(times, [0, 100, 200, 300, 400], "{len} {step}");
            }
        }
    }

    #[test]
    fn a_changed_byte_a_wrong_order_and_a_wrong_stream_are_seen() {
        let good = stream_of(&[0], UNIT_BYTES_MIN);
        for at in (0..HEAD_BYTES).chain(UNIT_BYTES_MIN - TAIL_BYTES..UNIT_BYTES_MIN) {
            let (mut damaged, mut checker) = (good.clone(), Checker::new(7, UNIT_BYTES_MIN));
            damaged[at] ^= 1;
            checker.push(&damaged, |_| panic!("byte {at}"));
            assert_eq!((checker.units(), checker.corrupt()), (1, 1), "byte {at}");
        }
        let mut checker = Checker::new(7, UNIT_BYTES_MIN);
        checker.push(&stream_of(&[0, 2, 1, 3], UNIT_BYTES_MIN), |_| {});
        assert_eq!((checker.units(), checker.corrupt()), (4, 2));
        let mut other = Checker::new(8, UNIT_BYTES_MIN);
        other.push(&good, |_| {});
        assert_eq!(other.corrupt(), 1);
    }
}
