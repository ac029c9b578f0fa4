//! The Internet checksum: computed (RFC 1071), updated for a change (RFC 1624), begun for another to finish.
//!
//! A sum is kept as a `u32` of 16-bit words with end-around carry still to be folded in; [`Sum::finish`] folds and
//! complements. Virtual NICs hand out segments whose checksum field holds only the folded sum of the pseudo-header,
//! not complemented: [`Sum::partial`].
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

/// A one's complement sum in the making.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Nothing yet.
    pub const ZERO: Sum = Sum(0);

    /// Adds `bytes`, which begin at an even offset; an odd last byte counts as the high half of a word.
    #[inline]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // The sum does not depend on the order of bytes (RFC 1071 §2 (B)): words are added as the machine reads them, four
        // bytes at once, and the sum is turned at the end. Below 2^64 for any length that fits a packet.
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum = 0;
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        let folded = Sum(sum + u64::from(u32::from_ne_bytes(last))).partial();
        Sum(self.0 + u64::from(u16::from_be_bytes(folded.to_ne_bytes())))
    }

    /// Adds a 16-bit word.
    #[inline]
    pub fn word(self, word: u16) -> Self {
        Sum(self.0 + u64::from(word))
    }

    /// Takes a 16-bit word away that was added before.
    #[inline]
    pub fn without(self, word: u16) -> Self {
        Sum(self.0 + u64::from(!word))
    }

    /// Adds an address.
    #[inline]
    pub fn address(self, address: Ipv4Addr) -> Self {
        Sum(self.0 + u64::from(u32::from(address)))
    }

    /// Takes an address away that was added before.
    #[inline]
    pub fn without_address(self, address: Ipv4Addr) -> Self {
        Sum(self.0 + u64::from(!u32::from(address)))
    }

    /// The pseudo-header of TCP and UDP over IPv4 (RFC 9293 §3.1); `l4_bytes` is the length of header and data.
    #[inline]
    pub fn pseudo(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, l4_bytes: u16) -> Self {
        Self::ZERO.address(src).address(dst).word(u16::from(protocol)).word(l4_bytes)
    }

    /// The sum in 16 bits, not complemented: what an unfinished checksum field holds.
    #[inline]
    pub fn partial(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum & 0xffff) as u16
    }

    /// The checksum.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.partial()
    }
}

/// `checksum` after the change that `change` describes: every new word added, every old one taken away (RFC 1624 eqn. 3).
#[inline]
pub fn update(checksum: u16, change: Sum) -> u16 {
    change.word(!checksum).finish()
}

/// An unfinished checksum field after the same change.
#[inline]
pub fn update_partial(field: u16, change: Sum) -> u16 {
    change.word(field).partial()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §3.
    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!((Sum::ZERO.bytes(&bytes).partial(), Sum::ZERO.bytes(&bytes).finish()), (0xddf2, 0x220d));
    }

    /// RFC 1624 §4: the case in which equation 2 gave 0xffff.
    #[test]
    fn rfc_1624_example() {
        assert_eq!(update(0xdd2f, Sum::ZERO.without(0x5555).word(0x3285)), 0x0000);
    }

    #[test]
    fn odd_lengths_are_padded_behind() {
        assert_eq!(Sum::ZERO.bytes(&[1, 2, 3]).partial(), 0x0402);
        assert_eq!(Sum::ZERO.bytes(&[9]).partial(), 0x0900);
    }

    proptest! {
        #[test]
        fn an_update_is_the_sum_of_the_changed_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..200),
            old_at in 0usize..3,
            new in any::<[u8; 4]>(),
        ) {
            // A sum of zero has two forms; a byte that is not zero keeps both sides from it.
            bytes[7] |= 1;
            let at = old_at * 2;
            let before = Sum::ZERO.bytes(&bytes).finish();
            let old = Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
            bytes[at..at + 4].copy_from_slice(&new);
            bytes[7] |= 1;
            let changed = Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
            let after = Sum::ZERO.bytes(&bytes);
            let change = Sum::ZERO.without_address(old).address(changed);
            prop_assert_eq!(update(before, change), after.finish());
            prop_assert_eq!(update_partial(!before, change), after.partial());
        }
    }
}
