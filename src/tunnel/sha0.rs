//! SHA-0 and the password arithmetic of the protocol (note §3.3).
//!
//! SHA-0 (FIPS 180, 1993) is SHA-1 without the rotation in the message schedule. It is broken as a
//! hash; stock clients know no other, and the challenge runs inside TLS.
//!
//! A hashed password is as good as the password itself: whoever has it can log in.
#![forbid(unsafe_code)]

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Size of a digest in bytes.
pub const DIGEST_BYTES: usize = 20;

const BLOCK_BYTES: usize = 64;
/// Initial state (FIPS 180 §7), as in SHA-1.
const INITIAL: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// The verifier that account stores keep: SHA0(password ‖ user in ASCII upper case).
pub fn hashed_password(password: &str, user: &str) -> Zeroizing<[u8; DIGEST_BYTES]> {
    let mut hash = Sha0::new();
    hash.update(password.as_bytes());
    for byte in user.bytes() {
        hash.update(&[byte.to_ascii_uppercase()]);
    }
    Zeroizing::new(hash.finish())
}

/// The answer to the challenge `random`: SHA0(hashed password ‖ random).
pub fn secure_password(hashed: &[u8; DIGEST_BYTES], random: &[u8; 20]) -> [u8; DIGEST_BYTES] {
    let mut hash = Sha0::new();
    hash.update(hashed);
    hash.update(random);
    hash.finish()
}

/// Does `answer` fit the verifier `hashed` and the challenge `random`? Takes the same time either way.
pub fn answer_fits(hashed: &[u8; DIGEST_BYTES], random: &[u8; 20], answer: &[u8; DIGEST_BYTES]) -> bool {
    secure_password(hashed, random).ct_eq(answer).into()
}

/// The digest of `bytes`.
pub fn sha0(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hash = Sha0::new();
    hash.update(bytes);
    hash.finish()
}

/// A digest in the making. Wiped when dropped, for what goes in is a password.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Sha0 {
    state: [u32; 5],
    block: [u8; BLOCK_BYTES],
    filled: usize,
    bytes: u64,
}

impl Sha0 {
    fn new() -> Self {
        Self { state: INITIAL, block: [0; BLOCK_BYTES], filled: 0, bytes: 0 }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let taken = bytes.len().min(BLOCK_BYTES - self.filled);
            let (now, later) = bytes.split_at(taken);
            self.block[self.filled..self.filled + taken].copy_from_slice(now);
            self.filled += taken;
            bytes = later;
            if self.filled == BLOCK_BYTES {
                self.compress();
                self.filled = 0;
            }
        }
    }

    fn finish(mut self) -> [u8; DIGEST_BYTES] {
        let bits = self.bytes * 8;
        self.update(&[0x80]);
        while self.filled != BLOCK_BYTES - 8 {
            self.update(&[0]);
        }
        self.update(&bits.to_be_bytes());
        let mut digest = [0; DIGEST_BYTES];
        for (out, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *out = word.to_be_bytes();
        }
        digest
    }

    fn compress(&mut self) {
        let mut w = Zeroizing::new([0u32; 80]);
        for (word, bytes) in w.iter_mut().zip(self.block.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        for t in 16..80 {
            // SHA-1 rotates this by one bit; that is the whole difference.
            w[t] = w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16];
        }
        let [mut a, mut b, mut c, mut d, mut e] = self.state;
        for (t, word) in w.iter().enumerate() {
            let (f, k) = match t {
                0..20 => ((b & c) | (!b & d), 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6u32),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (state, word) in self.state.iter_mut().zip([a, b, c, d, e]) {
            *state = state.wrapping_add(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn counting() -> [u8; 20] {
        std::array::from_fn(|i| u8::try_from(i).unwrap())
    }

    #[test]
    fn vectors_of_the_protocol_note() {
        assert_eq!(hex(&sha0(b"")), "f96cea198ad1dd5617ac084a3d92c6107708c0ef");
        assert_eq!(hex(&sha0(b"abc")), "0164b8a914cd2a5e74c4f7ff082c4d97f1edf880");
        let hashed = hashed_password("secret", "Alice");
        assert_eq!(hex(&*hashed), "0e782dacdb78918d73007999da81bc408906d451");
        assert_eq!(hex(&secure_password(&hashed, &counting())), "1394b82845bfb7a2711c4963f2b62978cb2c6ce3");
    }

    /// FIPS 180 (1993), appendix B: two blocks.
    #[test]
    fn a_message_of_two_blocks() {
        let message = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hex(&sha0(message)), "d2516ee1acfa5baf33dfc1c471e438449ef134c8");
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let message: Vec<u8> = (0..=255).collect();
        for cut in 0..message.len() {
            let mut hash = Sha0::new();
            hash.update(&message[..cut]);
            hash.update(&message[cut..]);
            assert_eq!(hash.finish(), sha0(&message));
        }
    }

    #[test]
    fn only_the_right_answer_fits() {
        let hashed = hashed_password("secret", "alice");
        let mut answer = secure_password(&hashed, &counting());
        assert!(answer_fits(&hashed, &counting(), &answer));
        answer[19] ^= 1;
        assert!(!answer_fits(&hashed, &counting(), &answer));
    }

    #[test]
    fn the_user_name_folds_ascii_only() {
        assert_eq!(hashed_password("p", "alice"), hashed_password("p", "ALICE"));
        assert_ne!(hashed_password("p", "é"), hashed_password("p", "É"));
    }
}
