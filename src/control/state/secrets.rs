//! Random secrets, and the form in which verifiers are written.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::{Zeroize, Zeroizing};

/// `hashed_password` of a user: SHA-0 over password and name (protocol note §3.3).
///
/// **Equivalent to the password**: whoever has it can log in as that user with a patched client, and it
/// is unsalted but for the name. That is the protocol's doing; hence files of mode 0600, no `Debug` of
/// the value, and wiping on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier(pub [u8; 20]);

impl Drop for Verifier {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(…)")
    }
}

impl Serialize for Verifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(hex(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Verifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let mut verifier = Verifier([0; 20]);
        if text.len() != 40 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(de::Error::custom("hashed_password must be 40 hexadecimal digits"));
        }
        for (byte, digits) in verifier.0.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digits.iter().fold(0, |value, digit| value << 4 | nibble(*digit));
        }
        Ok(verifier)
    }
}

/// Fills `bytes` from the cryptographic random generator, which the kernel seeds.
pub fn random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the random generator fails only when the kernel gives no entropy");
}

/// A password that is easy to read out and hard to guess: 20 characters, 116 bits.
pub fn generate_password() -> Zeroizing<String> {
    let mut password = Zeroizing::new(String::with_capacity(PASSWORD_CHARS));
    let mut bytes = Zeroizing::new([0; 32]);
    // Bytes above the last multiple of the alphabet's length would favour its first letters.
    let fair = u8::try_from(256 / ALPHABET.len() * ALPHABET.len()).expect("below 256");
    while password.len() < PASSWORD_CHARS {
        random(bytes.as_mut_slice());
        let fair = bytes.iter().filter(|byte| **byte < fair);
        for byte in fair.take(PASSWORD_CHARS - password.len()) {
            password.push(char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
        }
    }
    password
}

/// `bytes` as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// Letters and digits without those that look alike (0 O, 1 I l), none of which a shell minds.
const ALPHABET: &[u8; 57] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
const PASSWORD_CHARS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_different_and_unambiguous() {
        let passwords: std::collections::HashSet<String> = (0..200).map(|_| generate_password().to_string()).collect();
        assert_eq!(passwords.len(), 200);
        for password in &passwords {
            assert_eq!(password.len(), 20);
            assert!(password.bytes().all(|byte| ALPHABET.contains(&byte) && !b"0O1Il".contains(&byte)), "{password}");
        }
        let used: std::collections::HashSet<u8> = passwords.iter().flat_map(|p| p.bytes()).collect();
        assert_eq!(used.len(), ALPHABET.len(), "4000 letters show all 57");
    }

    #[test]
    fn verifiers_are_written_as_hex_and_never_shown() {
        let verifier = Verifier(std::array::from_fn(|i| u8::try_from(i * 13).unwrap()));
        let text = serde_json::to_string(&verifier).unwrap();
        assert_eq!(text, "\"000d1a2734414e5b6875828f9ca9b6c3d0ddeaf7\"");
        assert_eq!(serde_json::from_str::<Verifier>(&text).unwrap(), verifier);
        assert_eq!(serde_json::from_str::<Verifier>(&text.to_uppercase()).unwrap(), verifier);
        assert_eq!(format!("{verifier:?}"), "Verifier(…)");
        for bad in ["\"\"", "\"00\"", "\"zz0d1a2734414e5b6875828f9ca9b6c3d0ddeaf7\"", "1"] {
            assert!(serde_json::from_str::<Verifier>(bad).is_err(), "{bad}");
        }
    }
}
