//! SHA-0 and the password maths on it (protocol note §3.3).
//!
//! SHA-0 is broken as a hash; it stands here because it is what stock clients send.
#![forbid(unsafe_code)]

/// `SHA0(password || ASCII_UPPER(user))`: what the server keeps. Whoever has it can log in.
pub fn hashed_password(password: &[u8], user: &str) -> [u8; 20] {
    sha0(&[password, user.to_ascii_uppercase().as_bytes()].concat())
}

/// `SHA0(hashed || random)`: what a client sends in answer to the server's challenge.
pub fn secure_password(hashed: &[u8; 20], random: &[u8; 20]) -> [u8; 20] {
    sha0(&[hashed.as_slice(), random.as_slice()].concat())
}

/// SHA-0 of `bytes`: SHA-1 without the rotation in the message schedule.
pub fn sha0(bytes: &[u8]) -> [u8; 20] {
    let mut message = bytes.to_vec();
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend_from_slice(&(bytes.len() as u64 * 8).to_be_bytes());
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in message.chunks_exact(64) {
        compress(&mut state, block);
    }
    let mut digest = [0; 20];
    for (out, word) in digest.chunks_exact_mut(4).zip(state) {
        out.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

fn compress(state: &mut [u32; 5], block: &[u8]) {
    let mut w = [0u32; 80];
    for (word, bytes) in w.iter_mut().zip(block.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    for t in 16..80 {
        w[t] = w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16];
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (t, word) in w.iter().enumerate() {
        let (f, k) = match t {
            0..20 => ((b & c) | (!b & d), 0x5a82_7999),
            20..40 => (b ^ c ^ d, 0x6ed9_eba1),
            40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6),
        };
        let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_the_protocol_note() {
        let hex = |digest: [u8; 20]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(sha0(b"")), "f96cea198ad1dd5617ac084a3d92c6107708c0ef");
        assert_eq!(hex(sha0(b"abc")), "0164b8a914cd2a5e74c4f7ff082c4d97f1edf880");
        let hashed = hashed_password(b"secret", "Alice");
        assert_eq!(hex(hashed), "0e782dacdb78918d73007999da81bc408906d451");
        let random = std::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(hex(secure_password(&hashed, &random)), "1394b82845bfb7a2711c4963f2b62978cb2c6ce3");
    }
}
