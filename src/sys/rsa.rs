//! Signing by RSA with SHA-1, as the certificate login of the protocol wants it (note §3.2: PKCS #1 v1.5 over 20 bytes).
//!
//! aws-lc-rs verifies such signatures, for legacy use, but makes none. The library below it does. SHA-1's weakness is that
//! two texts with one hash can be made; what is signed here is 20 random bytes of the server, of which each login has others.
#![allow(unsafe_code)]

use std::ptr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_sys::{EVP_PKEY, EVP_PKEY_free, EVP_PKEY_get0_RSA, NID_sha1, RSA_sign, RSA_size, d2i_AutoPrivateKey};

/// The signature of `message` by the private key in `key` (DER, PKCS #8 or PKCS #1); `None` if that is no RSA key.
pub fn sign_sha1(key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let key = Key::parse(key)?;
    // SAFETY: the key lives; what is returned belongs to it, and is null if it is of another kind.
    let rsa = unsafe { EVP_PKEY_get0_RSA(key.0) };
    if rsa.is_null() {
        return None;
    }
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, message);
    // SAFETY: `rsa` lives as long as `key`.
    let bytes = unsafe { RSA_size(rsa) };
    let mut signature = vec![0; usize::try_from(bytes).ok()?];
    let mut written = 0;
    let hash = hash.as_ref();
    // SAFETY: the hash is read for its length; the signature has the room that the key says it takes.
    let done = unsafe { RSA_sign(NID_sha1, hash.as_ptr(), hash.len(), signature.as_mut_ptr(), &raw mut written, rsa) };
    (done == 1 && written == bytes).then_some(signature)
}

/// A private key, wiped by the library when it is freed.
struct Key(*mut EVP_PKEY);

impl Key {
    fn parse(der: &[u8]) -> Option<Self> {
        let mut at = der.as_ptr();
        let length = der.len().try_into().ok()?;
        // SAFETY: reads at most `length` bytes from `at`, makes a key of its own, and returns null if it cannot.
        let key = unsafe { d2i_AutoPrivateKey(ptr::null_mut(), &raw mut at, length) };
        (!key.is_null()).then_some(Self(key))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: made by `parse`, freed once.
        unsafe { EVP_PKEY_free(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};

    #[test]
    fn another_library_of_calls_takes_the_signature() {
        for size in [KeySize::Rsa2048, KeySize::Rsa3072] {
            let pair = KeyPair::generate(size).unwrap();
            let key = pair.as_der().unwrap();
            let signature = sign_sha1(key.as_ref(), b"twenty random bytes.").unwrap();
            assert_eq!(signature.len(), size.len());
            let public =
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, pair.public_key().as_ref());
            public.verify(b"twenty random bytes.", &signature).unwrap();
            assert!(public.verify(b"twenty other bytes..", &signature).is_err());
        }
    }

    #[test]
    fn what_is_no_rsa_key_signs_nothing() {
        let other = rcgen::KeyPair::generate().unwrap().serialize_der();
        for der in [&other[..], &other[..10], b""] {
            assert_eq!(sign_sha1(der, b"x"), None);
        }
    }
}
