//! Members who log in by a certificate: what is stored of it, and whether somebody has its key.
//!
//! A user is known by the SHA-256 fingerprint of the one certificate that he has. What it says of names and issuers does not
//! matter; that it has not expired does, as on stock servers (protocol note §3.2).
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::control::state::secrets::hex;
use crate::tls::config::fingerprint;
use crate::tls::x509::{self, Fields};

/// A certificate, and the challenge signed with its key (authtype 3).
#[derive(Clone)]
pub struct Proof {
    /// DER.
    pub certificate: Vec<u8>,
    /// RSASSA-PKCS1-v1_5 with SHA-1.
    pub signature: Vec<u8>,
    /// What our hello had as `random`.
    pub challenge: [u8; 20],
}

impl Proof {
    /// The fingerprint of the certificate, if who presents it has its key and it has not expired.
    ///
    /// The signature is looked at before anybody's fingerprint, so that time tells nothing about users.
    pub(super) fn holds(&self) -> Option<String> {
        let fields = Fields::of(&self.certificate)?;
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, fields.rsa_key()?);
        key.verify(&self.challenge, &self.signature).ok()?;
        let mark = hex(&fingerprint(&self.certificate.as_slice().into()));
        if fields.not_after_unix_s.is_none_or(|end| end < now_unix_s()) {
            tracing::info!(certificate = mark, "a certificate has expired: no login by it");
            return None;
        }
        Some(mark)
    }
}

/// The fingerprint of the certificate in `path` (PEM or DER), in hexadecimal digits. The text of an error says what to do.
///
/// # Errors
/// If there is none by which somebody can log in.
pub fn fingerprint_of_file(path: &Path) -> Result<String, String> {
    let wrong = |what: &str| format!("{}: {what}", path.display());
    let bytes = std::fs::read(path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let certificate = CertificateDer::from_pem_slice(&bytes).unwrap_or_else(|_| bytes.as_slice().into());
    let fields = Fields::of(&certificate).ok_or_else(|| wrong("has no certificate; give one in PEM or DER"))?;
    if !fields.rsa_key().and_then(x509::rsa_bits).is_some_and(|bits| BITS.contains(&bits)) {
        return Err(wrong("has no key for RSA with 2048 bits or more, and nobody can log in by it; make another"));
    }
    if fields.not_after_unix_s.is_none_or(|end| end < now_unix_s()) {
        return Err(wrong("the certificate has expired, and nobody can log in by it; make another"));
    }
    Ok(hex(&fingerprint(&certificate)))
}

fn now_unix_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    i64::try_from(now).unwrap_or(i64::MAX)
}

/// Lengths of the modulus: what [`RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY`] takes.
const BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sys::rsa::sign_sha1;
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, date_time_ymd};

    /// A certificate until this year, its key in DER.
    pub(in crate::control::auth) fn made(year: i32) -> (rcgen::Certificate, Vec<u8>) {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        (params.self_signed(&key).unwrap(), key.serialize_der())
    }

    pub(in crate::control::auth) fn proof(certificate: &rcgen::Certificate, key: &[u8]) -> Proof {
        let challenge = [3; 20];
        let signature = sign_sha1(key, &challenge).unwrap();
        Proof { certificate: certificate.der().to_vec(), signature, challenge }
    }

    #[test]
    fn only_the_key_proves_a_certificate() {
        let ((certificate, key), (_, other)) = (made(2100), made(2100));
        let good = proof(&certificate, &key);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.pem");
        for content in [certificate.pem().into_bytes(), certificate.der().to_vec()] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(good.holds(), Some(fingerprint_of_file(&path).unwrap()));
        }
        assert_eq!(proof(&certificate, &other).holds(), None);
        assert_eq!(Proof { challenge: [4; 20], ..good.clone() }.holds(), None);
        for end in [0, 1, 255] {
            assert_eq!(Proof { signature: good.signature[..end].to_vec(), ..good.clone() }.holds(), None);
        }
        for end in 0..good.certificate.len() {
            assert_eq!(Proof { certificate: good.certificate[..end].to_vec(), ..good.clone() }.holds(), None);
        }
    }

    #[test]
    fn what_nobody_could_log_in_by_is_refused() {
        let (expired, key) = made(2001);
        assert_eq!(proof(&expired, &key).holds(), None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.pem");
        let curve = KeyPair::generate().unwrap();
        let curve = CertificateParams::new(vec![]).unwrap().self_signed(&curve).unwrap();
        for (content, said) in
            [("nothing".to_owned(), "no certificate"), (expired.pem(), "expired"), (curve.pem(), "no key for RSA")]
        {
            std::fs::write(&path, content).unwrap();
            assert!(fingerprint_of_file(&path).unwrap_err().contains(said), "{said}");
        }
        assert!(fingerprint_of_file(&dir.path().join("none")).unwrap_err().contains("cannot be read"));
    }
}
