//! A handful of fields of X.509, by the rules of DER. Pure; what is odd is not there.
//!
//! Which certificate of a server to trust is decided by fingerprints and by rustls, never by these fields. Members who log
//! in by a certificate are known by its fingerprint, too; from here comes the key that must have signed.
#![forbid(unsafe_code)]

use time::{Date, Month, Time};

/// Where the fields are. Names are in DER.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// By whom it was issued.
    pub issuer: &'a [u8],
    /// For whom.
    pub subject: &'a [u8],
    /// Valid from then on, in seconds since 1970.
    pub not_before_unix_s: Option<i64>,
    /// And until then.
    pub not_after_unix_s: Option<i64>,
    key: &'a [u8],
}

impl<'a> Fields<'a> {
    /// RFC 5280 §4.1: version, serial number, algorithm, issuer, validity, subject, key.
    pub fn of(certificate: &'a [u8]) -> Option<Self> {
        let (certificate, _) = element(certificate, SEQUENCE)?;
        let (mut rest, _) = element(certificate, SEQUENCE)?;
        if let Some((_, behind)) = element(rest, VERSION) {
            rest = behind;
        }
        (_, rest) = element(rest, INTEGER)?;
        (_, rest) = element(rest, SEQUENCE)?;
        let (issuer, rest) = element(rest, SEQUENCE)?;
        let (validity, rest) = element(rest, SEQUENCE)?;
        let (subject, rest) = element(rest, SEQUENCE)?;
        let (key, _) = element(rest, SEQUENCE)?;
        let (_, _, behind) = any(validity)?;
        Some(Self { issuer, subject, not_before_unix_s: instant(validity), not_after_unix_s: instant(behind), key })
    }

    /// The public key in PKCS #1, if it is one for RSA (RFC 3279 §2.3.1).
    pub fn rsa_key(&self) -> Option<&'a [u8]> {
        let (algorithm, rest) = element(self.key, SEQUENCE)?;
        let (oid, _) = element(algorithm, OID)?;
        let (bits, _) = element(rest, BIT_STRING)?;
        let (unused, key) = bits.split_first()?;
        (oid == RSA_ENCRYPTION && *unused == 0).then_some(key)
    }
}

/// Bits of the modulus of such a key.
pub fn rsa_bits(key: &[u8]) -> Option<usize> {
    let (numbers, _) = element(key, SEQUENCE)?;
    let (modulus, _) = element(numbers, INTEGER)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    Some((modulus.len() - zeros) * 8 - first.leading_zeros() as usize)
}

/// The first element of `der`: tag, contents, and what stands behind it.
pub fn any(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
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
pub fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = any(der)?;
    (found == tag).then_some((contents, rest))
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

/// Tag of a list of elements.
pub const SEQUENCE: u8 = 0x30;
/// Tag of the name of an algorithm or an attribute.
pub const OID: u8 = 6;
const VERSION: u8 = 0xa0;
const INTEGER: u8 = 2;
const BIT_STRING: u8 = 3;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// 1.2.840.113549.1.1.1.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, date_time_ymd};

    #[test]
    fn times_as_text() {
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
    }

    #[test]
    fn the_key_of_a_certificate() {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2030, 1, 2);
        let made = params.self_signed(&key).unwrap();
        let fields = Fields::of(made.der()).unwrap();
        assert_eq!(fields.rsa_key(), Some(key.public_key_raw()));
        assert_eq!(rsa_bits(key.public_key_raw()), Some(2048));
        assert_eq!(fields.not_after_unix_s, unix(2030, 1, 2, [0, 0, 0]));
        for end in 0..made.der().len() {
            // Cut off anywhere it gives nothing, and no panic.
            assert!(Fields::of(&made.der()[..end]).is_none());
        }
        let other = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec![]).unwrap().self_signed(&other).unwrap();
        assert_eq!(Fields::of(made.der()).unwrap().rsa_key(), None);
        assert_eq!(rsa_bits(&[]), None);
    }
}
