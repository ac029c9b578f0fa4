//! Names of hubs and users.
#![forbid(unsafe_code)]

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
