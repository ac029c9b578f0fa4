//! The Internet checksum of bytes that lie in several places.
#![forbid(unsafe_code)]

use crate::wire::checksum::Sum;

/// A sum over parts of any length, in order.
#[derive(Debug, Default)]
pub(super) struct Running {
    sum: Sum,
    /// The parts so far have an odd length: the next byte is the low half of a word.
    is_odd: bool,
}

impl Running {
    /// Adds the next part.
    pub(super) fn add(&mut self, part: &[u8]) {
        let partial = Sum::ZERO.bytes(part).partial();
        // Turned around, a sum is that of the same bytes one place further on (RFC 1071 §2 (B)).
        self.sum = self.sum.word(if self.is_odd { partial.swap_bytes() } else { partial });
        self.is_odd ^= part.len() % 2 == 1;
    }

    /// The checksum. Zero is written as 0xffff, which means the same to TCP, and in UDP zero means that there is none.
    pub(super) fn finish(self) -> u16 {
        match self.sum.finish() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_sum_up_to_the_whole(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..8)) {
            let mut running = Running::default();
            parts.iter().for_each(|part| running.add(part));
            let whole = Sum::ZERO.bytes(&parts.concat()).finish();
            prop_assert_eq!(running.finish(), if whole == 0 { 0xffff } else { whole });
        }
    }

    #[test]
    fn zero_is_written_as_ones() {
        let mut running = Running::default();
        running.add(&[0xff]);
        running.add(&[0xff]);
        assert_eq!(running.finish(), 0xffff);
    }
}
