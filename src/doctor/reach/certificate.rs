//! What people are shown of a certificate: who issued it for whom, from when until when, its fingerprint. Pure.
//!
//! Anything odd leaves its field empty. Nothing is decided by it: what to trust is decided by fingerprints and by rustls.
#![forbid(unsafe_code)]

use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use serde::Serialize;

use crate::control::state::certificates;
use crate::tls::config;
use crate::tls::x509::{Fields, OID, SEQUENCE, any, element};

/// SHA-256 of a certificate, as people write it: 64 hexadecimal digits, perhaps with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| ![':', ' '].contains(c)).collect();
        let wrong = || format!("a SHA-256 fingerprint has 64 hexadecimal digits, perhaps with colons, not {text:?}");
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * index..][..2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl Fingerprint {
    /// True if `certificate` has it.
    pub fn fits(&self, certificate: &CertificateDer<'_>) -> bool {
        config::fingerprint(certificate) == self.0
    }
}

/// A certificate, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    /// SHA-256, as `AA:BB:…`.
    pub fingerprint: String,
    /// For whom it is: `CN=…, O=…`.
    pub subject: String,
    /// By whom.
    pub issuer: String,
    /// Both are the same.
    pub self_signed: bool,
    /// Valid from then on, in seconds since 1970.
    pub not_before_unix_s: Option<i64>,
    /// And until then.
    pub not_after_unix_s: Option<i64>,
}

impl CertificateView {
    /// Of a certificate in DER.
    pub fn new(certificate: &CertificateDer<'_>) -> Self {
        let fingerprint = certificates::fingerprint(certificate);
        let view = Self { fingerprint, ..Self::default() };
        view.clone().filled(certificate).unwrap_or(view)
    }

    fn filled(mut self, der: &[u8]) -> Option<Self> {
        let fields = Fields::of(der)?;
        self.issuer = name(fields.issuer);
        self.subject = name(fields.subject);
        self.self_signed = fields.issuer == fields.subject;
        self.not_before_unix_s = fields.not_before_unix_s;
        self.not_after_unix_s = fields.not_after_unix_s;
        Some(self)
    }
}

/// The parts of a name that people know.
fn name(mut rest: &[u8]) -> String {
    let mut parts = Vec::new();
    while let Some((set, behind)) = element(rest, SET) {
        rest = behind;
        let Some((pair, _)) = element(set, SEQUENCE) else { continue };
        let Some((oid, value)) = element(pair, OID) else { continue };
        let Some((_, title)) = TITLES.iter().find(|(known, _)| *known == oid) else { continue };
        let Some((tag, bytes, _)) = any(value) else { continue };
        let text: String = words(tag, bytes).chars().filter(|c| !c.is_control()).take(PART_CHARS_MAX).collect();
        parts.push(format!("{title}={text}"));
    }
    parts.join(", ")
}

fn words(tag: u8, bytes: &[u8]) -> String {
    match tag {
        BMP_STRING => {
            let units = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        T61_STRING => bytes.iter().map(|byte| char::from(*byte)).collect(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

const SET: u8 = 0x31;
const T61_STRING: u8 = 0x14;
const BMP_STRING: u8 = 0x1e;

/// Attributes of a name (RFC 5280, appendix A.1).
const TITLES: &[(&[u8], &str)] =
    &[(&[0x55, 4, 3], "CN"), (&[0x55, 4, 10], "O"), (&[0x55, 4, 11], "OU"), (&[0x55, 4, 6], "C")];

const PART_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

    #[test]
    fn what_is_shown_of_a_certificate() {
        let mut params = CertificateParams::new(vec!["vpn.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "vpn.example");
        params.distinguished_name.push(DnType::OrganizationName, "Käse\r\nGmbH");
        params.not_before = date_time_ymd(2024, 2, 29);
        params.not_after = date_time_ymd(2051, 1, 1);
        let key = KeyPair::generate().unwrap();
        let own = CertificateView::new(params.self_signed(&key).unwrap().der());
        assert!(own.self_signed);
        assert!(own.subject.contains("CN=vpn.example") && own.subject.contains("O=KäseGmbH"), "{}", own.subject);
        assert_eq!((own.not_before_unix_s, own.not_after_unix_s), (Some(1_709_164_800), Some(2_556_144_000)));
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "Inspector");
        let ca_key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let view = CertificateView::new(signed.der());
        assert!(!view.self_signed && view.issuer.contains("CN=Inspector"), "{view:?}");
        assert_eq!(view.fingerprint.len(), 32 * 3 - 1);
        let pin: Fingerprint = view.fingerprint.parse().unwrap();
        assert!(pin.fits(signed.der()));
        assert_eq!(view.fingerprint.to_lowercase().replace(':', "").parse(), Ok(pin));
    }

    #[test]
    fn odd_bytes_leave_fields_empty() {
        let mut params = CertificateParams::new(vec!["a".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a");
        let whole = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        for len in 0..whole.len() {
            let view = CertificateView::new(&CertificateDer::from(&whole[..len]));
            assert!(view.subject.is_empty() && view.not_after_unix_s.is_none(), "{len}");
        }
        for at in 0..whole.len() {
            for bits in [0xff, 0x80, 1] {
                let mut odd = whole.clone();
                odd[at] ^= bits;
                CertificateView::new(&CertificateDer::from(odd));
            }
        }
    }

    #[test]
    fn fingerprints_as_text() {
        for odd in ["", "AA:BB", &"g".repeat(64), &"a".repeat(65)] {
            assert!(odd.parse::<Fingerprint>().is_err(), "{odd}");
        }
    }
}
