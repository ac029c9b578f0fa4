//! Values that have a notation of their own: lists of processors, sets of TLS versions, names.
#![forbid(unsafe_code)]

use std::fmt;

/// A set of processors, such as `0-3,6`. Never empty; ascending, without doubles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

impl CpuList {
    /// Parses `0`, `0-3`, `0,2,4-7`. The error says what would be right.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (cpu(first)?, cpu(last)?);
            if first > last {
                return Err("a range goes upwards: 0-3");
            }
            cpus.extend(first..=last);
        }
        cpus.sort_unstable();
        let distinct = cpus.windows(2).all(|pair| pair[0] != pair[1]);
        if distinct { Ok(Self(cpus)) } else { Err("name each processor once") }
    }

    /// The processors, ascending.
    pub fn cpus(&self) -> &[usize] {
        &self.0
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for run in self.0.chunk_by(|a, b| a + 1 == *b) {
            match run {
                [single] => write!(f, "{gap}{single}")?,
                [first, .., last] => write!(f, "{gap}{first}-{last}")?,
                [] => {}
            }
            gap = ",";
        }
        Ok(())
    }
}

fn cpu(text: &str) -> Result<usize, &'static str> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(cpu) if digits && cpu <= CPU_MAX => Ok(cpu),
        _ => Err("processor numbers 0 to 1023, as 0-3 or 0,2,4-7"),
    }
}

/// Largest processor number: that of the kernel's `cpu_set_t`.
const CPU_MAX: usize = 1023;

/// Which TLS versions are offered. At least one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsVersions {
    /// TLS 1.2 (RFC 5246).
    pub v1_2: bool,
    /// TLS 1.3 (RFC 8446).
    pub v1_3: bool,
}

/// Checks the name of a hub: 1 to 255 characters of `A–Z a–z 0–9 space ( ) - _ # % & . @`, no space at
/// either end. The same alphabet as for users (protocol note §3.2), so that both go into logs, file
/// names and session names alike. The error says what would be right.
pub fn check_hub_name(name: &str) -> Result<(), &'static str> {
    check_alphabet(name)
}

/// Checks the name of a user (protocol note §3.2): as for hubs, and not one that the protocol keeps for itself.
pub fn check_user_name(name: &str) -> Result<(), &'static str> {
    check_alphabet(name)?;
    let folded = name.to_ascii_lowercase();
    if RESERVED_USERS.contains(&folded.as_str()) || folded.starts_with("l3sw_") {
        return Err("another name: link, cascade, securenat, local bridge, administrator and L3SW_… are reserved");
    }
    Ok(())
}

fn check_alphabet(name: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b" ()-_#%&.@".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) || name.trim() != name {
        return Err("1 to 255 characters of A-Z a-z 0-9 space ( ) - _ # % & . @, no space at either end");
    }
    Ok(())
}

/// Longest name of a hub or user on the wire (protocol note §3.2).
pub const NAME_BYTES_MAX: usize = 255;

/// Names that sessions of the server itself have (protocol note §3.2), in lower case.
const RESERVED_USERS: [&str; 6] = ["link", "cascade", "securenat", "localbridge", "local bridge", "administrator"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        for (text, want, shown) in [
            ("0", &[0][..], "0"),
            ("0-3", &[0, 1, 2, 3], "0-3"),
            ("7, 0-1,3", &[0, 1, 3, 7], "0-1,3,7"),
            ("1023", &[1023], "1023"),
        ] {
            let list = CpuList::parse(text).unwrap();
            assert_eq!((list.cpus(), list.to_string().as_str()), (want, shown), "{text}");
        }
        for text in ["", "a", "3-1", "0,0", "0-3,2", "1024", "-1", "0-", "0-99999999999", "+1", "0..3"] {
            assert!(CpuList::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names() {
        for good in ["PUBLIC", "a", "Team (1) #2 50% a&b x.y@z-_", &"x".repeat(255)] {
            assert_eq!(check_hub_name(good), Ok(()), "{good}");
        }
        for bad in ["", " a", "a ", "a\n", "é", "a/b", "a\"b", "*", &"x".repeat(256)] {
            assert!(check_hub_name(bad).is_err() && check_user_name(bad).is_err(), "{bad:?}");
        }
        for reserved in ["administrator", "SecureNAT", "LINK", "l3sw_1", "Local Bridge"] {
            assert!(check_user_name(reserved).is_err(), "{reserved}");
        }
        assert_eq!(check_user_name("linker"), Ok(()));
    }
}
