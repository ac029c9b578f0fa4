//! The `pencore` element: up to 999 bytes that hide the length of a message from who watches the
//! TLS records.
#![forbid(unsafe_code)]

const PADDING_BYTES_MAX: u64 = 999;

/// 0 to 999 bytes derived from the challenge, which is random for each connection and seen only
/// inside TLS. `serial` tells the messages of a connection apart. Nothing secret depends on them, so
/// a plain xorshift generator does.
pub(super) fn padding(challenge: &[u8; 20], serial: u32) -> Vec<u8> {
    let mut state = challenge.chunks(8).fold(u64::from(serial) + 1, |state, chunk| {
        chunk.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    }) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    // The high bits are the good ones.
    let length = (next() >> 32) % (PADDING_BYTES_MAX + 1);
    (0..length).map(|_| next().to_be_bytes()[0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_vary_within_the_limit() {
        let lengths: Vec<usize> = (0..200).map(|serial| padding(&[7; 20], serial).len()).collect();
        assert!(lengths.iter().all(|length| *length <= 999));
        assert!(*lengths.iter().min().unwrap() < 100 && *lengths.iter().max().unwrap() > 900);
        assert_ne!(padding(&[7; 20], 0), padding(&[8; 20], 0));
    }
}
