//! Suites, the part of the key schedule that is needed after the handshake, and the use of a key:
//! nonces, sequence numbers, limits.
//!
//! A `Direction` is one half of a connection: what it takes to seal, or to open, the next record.
#![forbid(unsafe_code)]

use std::fmt;

use aws_lc_rs::hkdf;
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite as rustls_suite;
use zeroize::Zeroizing;

use super::aead::{AeadBackend, Algorithm, CipherKey, KEY_BYTES_MAX, NONCE_BYTES};
use crate::metrics::closes::CloseReason;

/// A protocol version this layer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// A cipher suite, by its number at IANA. How the key was agreed (ECDSA or RSA) makes no difference
/// to records, but names the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs, reason = "the names are those of the registry")]
pub enum Suite {
    Tls13Aes128GcmSha256 = 0x1301,
    Tls13Aes256GcmSha384 = 0x1302,
    Tls13ChaCha20Poly1305Sha256 = 0x1303,
    EcdheEcdsaAes128GcmSha256 = 0xc02b,
    EcdheEcdsaAes256GcmSha384 = 0xc02c,
    EcdheRsaAes128GcmSha256 = 0xc02f,
    EcdheRsaAes256GcmSha384 = 0xc030,
    EcdheRsaChaCha20Poly1305Sha256 = 0xcca8,
    EcdheEcdsaChaCha20Poly1305Sha256 = 0xcca9,
}

impl Suite {
    /// Every suite, in the order in which we prefer them: AES-GCM first, which is four to eight
    /// times as fast as ChaCha20 on processors with AES instructions, and AES-128 before AES-256.
    pub const ALL: [Self; 9] = [
        Self::Tls13Aes128GcmSha256,
        Self::Tls13Aes256GcmSha384,
        Self::Tls13ChaCha20Poly1305Sha256,
        Self::EcdheEcdsaAes128GcmSha256,
        Self::EcdheEcdsaAes256GcmSha384,
        Self::EcdheEcdsaChaCha20Poly1305Sha256,
        Self::EcdheRsaAes128GcmSha256,
        Self::EcdheRsaAes256GcmSha384,
        Self::EcdheRsaChaCha20Poly1305Sha256,
    ];

    /// The number at IANA.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// `None` for suites this layer does not have.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.code() == code)
    }

    /// The name at IANA.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls13Aes128GcmSha256 => "TLS_AES_128_GCM_SHA256",
            Self::Tls13Aes256GcmSha384 => "TLS_AES_256_GCM_SHA384",
            Self::Tls13ChaCha20Poly1305Sha256 => "TLS_CHACHA20_POLY1305_SHA256",
            Self::EcdheEcdsaAes128GcmSha256 => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            Self::EcdheEcdsaAes256GcmSha384 => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            Self::EcdheRsaAes128GcmSha256 => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            Self::EcdheRsaAes256GcmSha384 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            Self::EcdheRsaChaCha20Poly1305Sha256 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            Self::EcdheEcdsaChaCha20Poly1305Sha256 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        }
    }

    /// The version the suite belongs to.
    pub const fn version(self) -> Version {
        match self {
            Self::Tls13Aes128GcmSha256 | Self::Tls13Aes256GcmSha384 | Self::Tls13ChaCha20Poly1305Sha256 => {
                Version::Tls13
            }
            _ => Version::Tls12,
        }
    }

    /// The cipher of its records.
    pub const fn algorithm(self) -> Algorithm {
        match self {
            Self::Tls13Aes128GcmSha256 | Self::EcdheEcdsaAes128GcmSha256 | Self::EcdheRsaAes128GcmSha256 => {
                Algorithm::Aes128Gcm
            }
            Self::Tls13Aes256GcmSha384 | Self::EcdheEcdsaAes256GcmSha384 | Self::EcdheRsaAes256GcmSha384 => {
                Algorithm::Aes256Gcm
            }
            Self::Tls13ChaCha20Poly1305Sha256
            | Self::EcdheRsaChaCha20Poly1305Sha256
            | Self::EcdheEcdsaChaCha20Poly1305Sha256 => Algorithm::ChaCha20Poly1305,
        }
    }

    /// The same suite as rustls names it.
    pub const fn in_rustls(self) -> SupportedCipherSuite {
        match self {
            Self::Tls13Aes128GcmSha256 => rustls_suite::TLS13_AES_128_GCM_SHA256,
            Self::Tls13Aes256GcmSha384 => rustls_suite::TLS13_AES_256_GCM_SHA384,
            Self::Tls13ChaCha20Poly1305Sha256 => rustls_suite::TLS13_CHACHA20_POLY1305_SHA256,
            Self::EcdheEcdsaAes128GcmSha256 => rustls_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            Self::EcdheEcdsaAes256GcmSha384 => rustls_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            Self::EcdheRsaAes128GcmSha256 => rustls_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            Self::EcdheRsaAes256GcmSha384 => rustls_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            Self::EcdheRsaChaCha20Poly1305Sha256 => rustls_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            Self::EcdheEcdsaChaCha20Poly1305Sha256 => rustls_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        }
    }

    /// Hash of the 1.3 key schedule; its length is that of a traffic secret.
    fn hkdf(self) -> (hkdf::Algorithm, usize) {
        match self {
            Self::Tls13Aes256GcmSha384 => (hkdf::HKDF_SHA384, 48),
            _ => (hkdf::HKDF_SHA256, 32),
        }
    }

    /// Length of what a [`Direction`] starts from: a traffic secret in 1.3, a key in 1.2.
    pub(super) fn secret_len(self) -> usize {
        match self.version() {
            Version::Tls13 => self.hkdf().1,
            Version::Tls12 => self.algorithm().key_len(),
        }
    }
}

/// Longest [`Secret`]: a traffic secret of SHA-384.
pub(super) const SECRET_BYTES_MAX: usize = 48;

/// Key material, wiped when dropped: a traffic secret or a key, as the suite's version wants.
#[derive(Clone)]
pub(super) struct Secret {
    bytes: Zeroizing<[u8; SECRET_BYTES_MAX]>,
    len: usize,
}

impl Secret {
    /// `None` if `bytes` is longer than any secret.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self { bytes: Zeroizing::new([0; SECRET_BYTES_MAX]), len: bytes.len() };
        secret.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(secret)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Secret({} bytes)", self.len)
    }
}

/// A key and its initialisation vector.
pub(super) struct KeyAndIv {
    pub(super) key: Zeroizing<[u8; KEY_BYTES_MAX]>,
    pub(super) iv: Zeroizing<[u8; NONCE_BYTES]>,
}

impl KeyAndIv {
    /// The traffic keys of a traffic secret (RFC 8446 §7.3). `suite` is of TLS 1.3.
    pub(super) fn from_traffic_secret(suite: Suite, secret: &Secret) -> Self {
        let mut made = Self { key: Zeroizing::new([0; KEY_BYTES_MAX]), iv: Zeroizing::new([0; NONCE_BYTES]) };
        expand_label(suite, secret, b"key", &mut made.key[..suite.algorithm().key_len()]);
        expand_label(suite, secret, b"iv", &mut made.iv[..]);
        made
    }
}

/// The traffic secret that follows `secret` (RFC 8446 §7.2).
pub(super) fn next_traffic_secret(suite: Suite, secret: &Secret) -> Secret {
    let mut next = Secret { bytes: Zeroizing::new([0; SECRET_BYTES_MAX]), len: suite.secret_len() };
    expand_label(suite, secret, b"traffic upd", &mut next.bytes[..suite.secret_len()]);
    next
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1). Labels are ours and short.
fn expand_label(suite: Suite, secret: &Secret, label: &[u8], out: &mut [u8]) {
    const PREFIX: &[u8] = b"tls13 ";

    struct OutLen(usize);
    impl hkdf::KeyType for OutLen {
        fn len(&self) -> usize {
            self.0
        }
    }

    let out_len = u16::try_from(out.len()).expect("keys are short").to_be_bytes();
    let label_len = [u8::try_from(PREFIX.len() + label.len()).expect("labels are short")];
    let info = [&out_len[..], &label_len, PREFIX, label, &[0]];
    hkdf::Prk::new_less_safe(suite.hkdf().0, secret.bytes())
        .expand(&info, OutLen(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("HKDF gives up to 255 times the hash length");
}

/// AES blocks after which a key must never be used again: 2^34, just under the 2^34.5 that keep an
/// attacker's advantage below 2^-60 (draft-irtf-cfrg-aead-limits §5.1, RFC 8446 §5.5). Messages
/// count as a block each.
const BLOCKS_MAX: u64 = 1 << 34;

/// AES blocks after which a key should be renewed: half of it, so that there is time for it.
const BLOCKS_WORN: u64 = BLOCKS_MAX / 2;

const BLOCK_BYTES: u64 = 16;

/// One direction of a connection after the handshake.
pub(super) struct Direction {
    pub(super) secret: Secret,
    /// Kept for 1.2, derived from `secret` in 1.3.
    pub(super) iv: Zeroizing<[u8; NONCE_BYTES]>,
    /// Number of the next record under this key.
    pub(super) seq: u64,
    /// AES blocks and messages this key has processed.
    pub(super) blocks: u64,
    pub(super) key: CipherKey,
}

impl Direction {
    /// A direction of TLS 1.3; `secret` has the length the suite wants.
    pub(super) fn tls13(suite: Suite, secret: Secret, seq: u64, backend: AeadBackend) -> Self {
        let made = KeyAndIv::from_traffic_secret(suite, &secret);
        let key = CipherKey::new(suite.algorithm(), &made.key[..suite.algorithm().key_len()], backend);
        Self { secret, iv: made.iv, seq, blocks: 0, key }
    }

    /// A direction of TLS 1.2; `key` has the length the suite wants.
    pub(super) fn tls12(suite: Suite, key: Secret, iv: &[u8; NONCE_BYTES], seq: u64, backend: AeadBackend) -> Self {
        let cipher = CipherKey::new(suite.algorithm(), key.bytes(), backend);
        Self { secret: key, iv: Zeroizing::new(*iv), seq, blocks: 0, key: cipher }
    }

    /// Moves on to the next key (TLS 1.3).
    pub(super) fn renew(&mut self, suite: Suite, backend: AeadBackend) {
        *self = Self::tls13(suite, next_traffic_secret(suite, &self.secret), 0, backend);
    }

    /// Initialisation vector XOR sequence number (RFC 8446 §5.3, RFC 7905 §2).
    #[inline]
    pub(super) fn nonce(&self) -> [u8; NONCE_BYTES] {
        let mut nonce = *self.iv;
        for (byte, seq) in nonce[NONCE_BYTES - 8..].iter_mut().zip(self.seq.to_be_bytes()) {
            *byte ^= seq;
        }
        nonce
    }

    /// Counts one message of `len` bytes.
    #[inline]
    pub(super) fn count(&mut self, len: usize) {
        self.seq += 1;
        self.blocks += 1 + (len as u64).div_ceil(BLOCK_BYTES);
    }

    /// Whether the key must not process another message: its nonces or its blocks are used up.
    #[inline]
    pub(super) fn used_up(&self, algorithm: Algorithm) -> bool {
        self.seq == u64::MAX || (limited(algorithm) && self.blocks >= BLOCKS_MAX)
    }

    /// Whether the key should be renewed: after `records` of them, or by its blocks.
    #[inline]
    pub(super) fn worn(&self, algorithm: Algorithm, records: u64) -> bool {
        self.seq >= records || (limited(algorithm) && self.blocks >= BLOCKS_WORN)
    }
}

/// Records after which a key is renewed unless told otherwise. 1.3 with AES-GCM: 2^23, as a
/// full-sized record has 2^10 blocks. ChaCha20-Poly1305 has no such limit, and a key of 1.2 cannot
/// be renewed, so that there only the blocks count.
pub(super) const fn rekey_after_default(suite: Suite) -> u64 {
    match suite.version() {
        Version::Tls13 if limited(suite.algorithm()) => 1 << 23,
        // Before the sequence number ends, with time to act.
        _ => 1 << 63,
    }
}

/// Whether the algorithm wears out with use (draft-irtf-cfrg-aead-limits §5).
const fn limited(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::Aes128Gcm | Algorithm::Aes256Gcm)
}

/// `Err` if the direction cannot carry another record.
#[inline]
pub(super) fn usable(direction: &Direction, suite: Suite) -> Result<(), CloseReason> {
    if direction.used_up(suite.algorithm()) { Err(CloseReason::KeyLimit) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// RFC 8448 §3: application traffic secrets and the keys derived from them.
    #[test]
    fn traffic_keys_of_rfc_8448() {
        let table = [
            (
                "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
                "17422dda596ed5d9acd890e3c63f5051",
                "5b78923dee08579033e523d9",
            ),
            (
                "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
                "9f02283b6c9c07efc26bb9f2ac92e356",
                "cf782b88dd83549aadf1e984",
            ),
        ];
        for (secret, key, iv) in table {
            let secret = Secret::new(&hex(secret)).unwrap();
            let made = KeyAndIv::from_traffic_secret(Suite::Tls13Aes128GcmSha256, &secret);
            assert_eq!(made.key[..16], hex(key));
            assert_eq!(made.iv[..], hex(iv));
        }
    }

    #[test]
    fn suites_by_number() {
        for suite in Suite::ALL {
            assert_eq!(Suite::from_code(suite.code()), Some(suite));
            assert_eq!(u16::from(suite.in_rustls().suite()), suite.code());
        }
        assert_eq!(Suite::from_code(0x1304), None);
    }

    #[test]
    fn nonce_is_iv_xor_sequence_number() {
        let secret = Secret::new(&[1; 16]).unwrap();
        let suite = Suite::EcdheRsaAes128GcmSha256;
        let mut direction = Direction::tls12(suite, secret, &[0xff; 12], 0x0102, AeadBackend::AwsLc);
        let ones = [0xff; 10];
        assert_eq!(direction.nonce(), [&ones[..], &[0xfe, 0xfd]].concat()[..]);
        direction.count(1);
        assert_eq!(direction.nonce(), [&ones[..], &[0xfe, 0xfc]].concat()[..]);
    }

    #[test]
    fn wear_of_a_key() {
        let secret = Secret::new(&[1; 16]).unwrap();
        let suite = Suite::EcdheRsaAes128GcmSha256;
        let mut direction = Direction::tls12(suite, secret, &[0; 12], 0, AeadBackend::AwsLc);
        direction.count(0);
        assert_eq!(direction.blocks, 1);
        direction.count(17);
        assert_eq!(direction.blocks, 4);
        for (blocks, worn, used_up) in
            [(BLOCKS_WORN - 1, false, false), (BLOCKS_WORN, true, false), (BLOCKS_MAX, true, true)]
        {
            direction.blocks = blocks;
            assert_eq!(direction.worn(Algorithm::Aes128Gcm, 1 << 23), worn);
            assert_eq!(direction.used_up(Algorithm::Aes128Gcm), used_up);
            assert!(!direction.worn(Algorithm::ChaCha20Poly1305, 1 << 23));
        }
        assert!(direction.worn(Algorithm::ChaCha20Poly1305, 2));
        direction.seq = u64::MAX;
        assert!(direction.used_up(Algorithm::ChaCha20Poly1305));
    }
}
