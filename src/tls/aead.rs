//! The ciphers: one seam, two libraries.
//!
//! aws-lc-rs is the default; RustCrypto's `aes-gcm` is there for machines and audits that want pure
//! Rust, at a fifth of the speed. Which one serves is chosen by an [`AeadBackend`] when a key is
//! made; [`CipherKey`] is then matched once per record.
#![forbid(unsafe_code)]

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use aws_lc_rs::aead as aws;

/// Length of a nonce, the same for all three algorithms.
pub const NONCE_BYTES: usize = 12;
/// Length of a tag, the same for all three algorithms.
pub const TAG_BYTES: usize = 16;
/// Length of the longest key.
pub const KEY_BYTES_MAX: usize = 32;

/// An AEAD algorithm of RFC 8446 Appendix B.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// AEAD_AES_128_GCM.
    Aes128Gcm,
    /// AEAD_AES_256_GCM.
    Aes256Gcm,
    /// AEAD_CHACHA20_POLY1305.
    ChaCha20Poly1305,
}

impl Algorithm {
    /// Length of its keys in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// Whose code seals and opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AeadBackend {
    /// aws-lc-rs, all suites.
    #[default]
    AwsLc,
    /// RustCrypto `aes-gcm`. It has no ChaCha20-Poly1305: those suites stay with aws-lc-rs, so that
    /// what a peer negotiated never decides whether a connection can live.
    RustCrypto,
}

/// The tag does not fit: wrong key, nonce or additional data, or changed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTag;

/// A key that seals and opens. Nonces are the caller's duty: one must never seal twice.
pub trait Aead {
    /// Encrypts `in_out` in place and returns the tag.
    fn seal(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_BYTES];

    /// Decrypts `ciphertext` into `out`, which must be as long.
    ///
    /// # Errors
    /// [`BadTag`]; `out` then holds nothing of use.
    fn open(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_BYTES],
        out: &mut [u8],
    ) -> Result<(), BadTag>;

    /// As [`Self::open`], in place, for ciphertext that already lies where the plaintext belongs.
    ///
    /// # Errors
    /// [`BadTag`]; `in_out` then holds nothing of use.
    fn open_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), BadTag>;
}

/// A key of one of the three algorithms in the hands of aws-lc-rs, which wipes it when dropped.
pub struct AwsLcKey(aws::LessSafeKey);

impl AwsLcKey {
    fn new(algorithm: Algorithm, key: &[u8]) -> Self {
        let algorithm = match algorithm {
            Algorithm::Aes128Gcm => &aws::AES_128_GCM,
            Algorithm::Aes256Gcm => &aws::AES_256_GCM,
            Algorithm::ChaCha20Poly1305 => &aws::CHACHA20_POLY1305,
        };
        let key = aws::UnboundKey::new(algorithm, key).expect("the key has the algorithm's length");
        Self(aws::LessSafeKey::new(key))
    }
}

impl Aead for AwsLcKey {
    #[inline]
    fn seal(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_BYTES] {
        let nonce = aws::Nonce::assume_unique_for_key(*nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, aws::Aad::from(aad), in_out);
        let tag = tag.expect("a record is far shorter than the algorithm's limit");
        tag.as_ref().try_into().expect("all three algorithms have tags of 16 bytes")
    }

    #[inline]
    fn open(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_BYTES],
        out: &mut [u8],
    ) -> Result<(), BadTag> {
        let nonce = aws::Nonce::assume_unique_for_key(*nonce);
        self.0.open_separate_gather(nonce, aws::Aad::from(aad), ciphertext, tag, out).map_err(|_| BadTag)
    }

    #[inline]
    fn open_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), BadTag> {
        let nonce = aws::Nonce::assume_unique_for_key(*nonce);
        self.0.open_in_place_separate_tag(nonce, aws::Aad::from(aad), tag, in_out).map(|_| ()).map_err(|_| BadTag)
    }
}

/// The RustCrypto ciphers share everything but their type.
macro_rules! rust_crypto_aead {
    ($cipher:ty) => {
        impl Aead for $cipher {
            #[inline]
            fn seal(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_BYTES] {
                self.encrypt_inout_detached(nonce.into(), aad, in_out.into())
                    .expect("a record is far shorter than the algorithm's limit")
                    .into()
            }

            #[inline]
            fn open(
                &self,
                nonce: &[u8; NONCE_BYTES],
                aad: &[u8],
                ciphertext: &[u8],
                tag: &[u8; TAG_BYTES],
                out: &mut [u8],
            ) -> Result<(), BadTag> {
                let buffer = InOutBuf::new(ciphertext, out).map_err(|_| BadTag)?;
                self.decrypt_inout_detached(nonce.into(), aad, buffer, tag.into()).map_err(|_| BadTag)
            }

            #[inline]
            fn open_in_place(
                &self,
                nonce: &[u8; NONCE_BYTES],
                aad: &[u8],
                in_out: &mut [u8],
                tag: &[u8; TAG_BYTES],
            ) -> Result<(), BadTag> {
                self.decrypt_inout_detached(nonce.into(), aad, in_out.into(), tag.into()).map_err(|_| BadTag)
            }
        }
    };
}

rust_crypto_aead!(Aes128Gcm);
rust_crypto_aead!(Aes256Gcm);

/// A key of either library.
pub enum CipherKey {
    /// Of AWS-LC, any algorithm.
    AwsLc(AwsLcKey),
    // Boxed: their expanded keys take about a kilobyte, which every connection would carry twice.
    /// Of RustCrypto, AES-128.
    RustCrypto128(Box<Aes128Gcm>),
    /// Of RustCrypto, AES-256.
    RustCrypto256(Box<Aes256Gcm>),
}

/// Calls the same method of whichever library holds the key.
macro_rules! with_key {
    ($self:expr, $key:ident => $call:expr) => {
        match $self {
            CipherKey::AwsLc($key) => $call,
            CipherKey::RustCrypto128($key) => $call,
            CipherKey::RustCrypto256($key) => $call,
        }
    };
}

impl CipherKey {
    /// # Panics
    /// If `key` has not the length the algorithm wants ([`Algorithm::key_len`]).
    pub fn new(algorithm: Algorithm, key: &[u8], backend: AeadBackend) -> Self {
        match (backend, algorithm) {
            (AeadBackend::RustCrypto, Algorithm::Aes128Gcm) => {
                let cipher = Aes128Gcm::new_from_slice(key).expect("the key has the algorithm's length");
                Self::RustCrypto128(Box::new(cipher))
            }
            (AeadBackend::RustCrypto, Algorithm::Aes256Gcm) => {
                let cipher = Aes256Gcm::new_from_slice(key).expect("the key has the algorithm's length");
                Self::RustCrypto256(Box::new(cipher))
            }
            (AeadBackend::AwsLc, _) | (_, Algorithm::ChaCha20Poly1305) => Self::AwsLc(AwsLcKey::new(algorithm, key)),
        }
    }
}

impl Aead for CipherKey {
    #[inline]
    fn seal(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_BYTES] {
        with_key!(self, key => key.seal(nonce, aad, in_out))
    }

    #[inline]
    fn open(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_BYTES],
        out: &mut [u8],
    ) -> Result<(), BadTag> {
        with_key!(self, key => key.open(nonce, aad, ciphertext, tag, out))
    }

    #[inline]
    fn open_in_place(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), BadTag> {
        with_key!(self, key => key.open_in_place(nonce, aad, in_out, tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALGORITHMS: [Algorithm; 3] = [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305];
    const BACKENDS: [AeadBackend; 2] = [AeadBackend::AwsLc, AeadBackend::RustCrypto];

    /// McGrew & Viega, "The Galois/Counter Mode of Operation", test case 2.
    #[test]
    fn gcm_vector() {
        let sealed = [0x03, 0x88, 0xda, 0xce, 0x60, 0xb6, 0xa3, 0x92, 0xf3, 0x28, 0xc2, 0xb9, 0x71, 0xb2, 0xfe, 0x78];
        let expected_tag =
            [0xab, 0x6e, 0x47, 0xd4, 0x2c, 0xec, 0x13, 0xbd, 0xf5, 0x3a, 0x67, 0xb2, 0x12, 0x57, 0xbd, 0xdf];
        for backend in BACKENDS {
            let key = CipherKey::new(Algorithm::Aes128Gcm, &[0; 16], backend);
            let mut text = [0; 16];
            assert_eq!(key.seal(&[0; 12], &[], &mut text), expected_tag, "{backend:?}");
            assert_eq!(text, sealed, "{backend:?}");
        }
    }

    #[test]
    fn each_backend_opens_what_each_sealed() {
        let key_bytes: Vec<u8> = (0..32).collect();
        for algorithm in ALGORITHMS {
            for (sealer, opener) in BACKENDS.iter().flat_map(|a| BACKENDS.map(|b| (*a, b))) {
                let sealer = CipherKey::new(algorithm, &key_bytes[..algorithm.key_len()], sealer);
                let opener = CipherKey::new(algorithm, &key_bytes[..algorithm.key_len()], opener);
                for len in [0_usize, 1, 15, 16, 17, 1500, 16385] {
                    let plain: Vec<u8> = (0..len).map(|i| i.to_le_bytes()[0]).collect();
                    let mut sealed = plain.clone();
                    let tag = sealer.seal(&[7; 12], b"aad", &mut sealed);

                    let mut out = vec![0; len];
                    opener.open(&[7; 12], b"aad", &sealed, &tag, &mut out).unwrap();
                    assert_eq!(out, plain);
                    let mut in_place = sealed.clone();
                    opener.open_in_place(&[7; 12], b"aad", &mut in_place, &tag).unwrap();
                    assert_eq!(in_place, plain);

                    let mut wrong = tag;
                    wrong[15] ^= 1;
                    assert_eq!(opener.open(&[7; 12], b"aad", &sealed, &wrong, &mut out), Err(BadTag));
                    assert_eq!(opener.open_in_place(&[7; 12], b"aae", &mut sealed, &tag), Err(BadTag));
                }
            }
        }
    }

    #[test]
    fn backend_is_the_one_asked_for() {
        let key = |algorithm, backend| CipherKey::new(algorithm, &[1; 32][..algorithm.key_len()], backend);
        assert!(matches!(key(Algorithm::Aes128Gcm, AeadBackend::RustCrypto), CipherKey::RustCrypto128(_)));
        assert!(matches!(key(Algorithm::Aes256Gcm, AeadBackend::RustCrypto), CipherKey::RustCrypto256(_)));
        assert!(matches!(key(Algorithm::ChaCha20Poly1305, AeadBackend::RustCrypto), CipherKey::AwsLc(_)));
        assert!(matches!(key(Algorithm::Aes128Gcm, AeadBackend::AwsLc), CipherKey::AwsLc(_)));
    }
}
