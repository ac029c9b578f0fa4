//! What people are shown of a certificate: who issued it for whom, from when until when, its fingerprint. Pure.
//!
//! A handful of fields of X.509, by the rules of DER; anything odd leaves its field empty. Nothing is decided by it:
//! what to trust is decided by fingerprints and by rustls.
#![forbid(unsafe_code)]

use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use time::{Date, Month, Time};

use crate::control::state::certificates;
use crate::tls::config;

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

    /// RFC 5280 §4.1: version, serial number, algorithm, issuer, validity, subject.
    fn filled(mut self, der: &[u8]) -> Option<Self> {
        let (certificate, _) = element(der, SEQUENCE)?;
        let (mut rest, _) = element(certificate, SEQUENCE)?;
        if let Some((_, behind)) = element(rest, VERSION) {
            rest = behind;
        }
        (_, rest) = element(rest, INTEGER)?;
        (_, rest) = element(rest, SEQUENCE)?;
        let (issuer, rest) = element(rest, SEQUENCE)?;
        let (validity, rest) = element(rest, SEQUENCE)?;
        let (subject, _) = element(rest, SEQUENCE)?;
        self.issuer = name(issuer);
        self.subject = name(subject);
        self.self_signed = issuer == subject;
        let (_, _, behind) = any(validity)?;
        self.not_before_unix_s = instant(validity);
        self.not_after_unix_s = instant(behind);
        Some(self)
    }
}

/// The first element of `der`: tag, contents, and what stands behind it.
fn any(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // Lengths of up to three bytes; a certificate has no longer ones.
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(len)?;
    Some((*tag, contents, rest))
}

/// The first element, if it has this tag.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = any(der)?;
    (found == tag).then_some((contents, rest))
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

/// The first element, a UTCTime or GeneralizedTime, in seconds since 1970.
fn instant(der: &[u8]) -> Option<i64> {
    let (tag, bytes, _) = any(der)?;
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i32 = year.parse().ok()?;
            // RFC 5280 §4.1.2.5.1.
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 || !rest.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let two = |at: usize| rest[at..at + 2].parse::<u8>().ok();
    unix(year, two(0)?, two(2)?, [two(4)?, two(6)?, two(8)?])
}

/// Seconds since 1970 of a day and a time of day.
pub fn unix(year: i32, month: u8, day: u8, time: [u8; 3]) -> Option<i64> {
    let day = Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()?;
    let time = Time::from_hms(time[0], time[1], time[2]).ok()?;
    Some(day.with_time(time).assume_utc().unix_timestamp())
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const INTEGER: u8 = 2;
const OID: u8 = 6;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
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
    fn times_and_fingerprints_as_text() {
        let of = |tag: u8, text: &str| {
            let mut der = vec![tag, u8::try_from(text.len()).unwrap()];
            der.extend(text.as_bytes());
            instant(&der)
        };
        assert_eq!(of(UTC_TIME, "700101000001Z"), Some(1));
        assert_eq!(of(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(of(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        for odd in ["700101000001", "7001010000Z", "701301000001Z", "700101240001Z", "70010100000éZ", ""] {
            assert_eq!(of(UTC_TIME, odd), None, "{odd}");
        }
        for odd in ["", "AA:BB", &"g".repeat(64), &"a".repeat(65)] {
            assert!(odd.parse::<Fingerprint>().is_err(), "{odd}");
        }
    }
}
