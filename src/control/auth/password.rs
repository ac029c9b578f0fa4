//! Passwords and certificates against the account store.
//!
//! A user has one or the other: who logs in by a certificate has a password that nobody knows.
//!
//! An unknown user costs the same work as a wrong password: the same look-up, the same hashes over bytes
//! of the same length, the same comparison in constant time, against a verifier that fits nothing.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::penalty::{self, Penalties};
use super::{Answer, Attempt, AuthError, Authenticated, Authenticator, Presented, Verdict};
use crate::config::policy::Policy;
use crate::control::state::accounts::{AccountStore, PASSWORD_BYTES_MAX};
use crate::control::state::secrets::{self, Verifier};
use crate::tunnel::sha0;

/// Users with a password or a certificate, from the account store.
#[derive(Debug)]
pub struct PasswordAuthenticator {
    accounts: Arc<AccountStore>,
    penalties: Mutex<Penalties>,
    /// Stands in for users who do not exist. Random, so that no password fits it.
    nobody: Verifier,
}

impl PasswordAuthenticator {
    /// Over `accounts`, with nobody under penalty.
    pub fn new(accounts: Arc<AccountStore>) -> Self {
        let mut nobody = Verifier([0; 20]);
        secrets::random(&mut nobody.0);
        Self { accounts, penalties: Mutex::new(Penalties::new(penalty::ENTRIES_MAX)), nobody }
    }

    fn decide(&self, attempt: &Attempt) -> Verdict {
        if matches!(attempt.presented, Presented::Anonymous | Presented::Other) {
            return Err(AuthError::Unsupported);
        }
        // Users of two hubs are different users; a NUL is in no configured hub's name.
        let user = format!("{}\0{}", attempt.hub, attempt.user);
        let source = attempt.source;
        // Held from the check to the count, else guesses sent at once would all be looked at.
        let mut penalties = self.penalties.lock().unwrap_or_else(PoisonError::into_inner);
        penalties.check(source, &user, attempt.now).map_err(|_| AuthError::Penalty)?;
        let verdict = self.compare(attempt);
        match verdict {
            Ok(_) | Err(AuthError::Disabled) => penalties.succeeded(source, &user, attempt.now),
            Err(_) => penalties.failed(source, &user, attempt.now),
        }
        verdict
    }

    fn compare(&self, attempt: &Attempt) -> Verdict {
        let account = self.accounts.find(&attempt.hub, &attempt.user);
        let fits = match &attempt.presented {
            Presented::Certificate(proof) => {
                let held = proof.holds();
                held.is_some() && account.as_ref().is_some_and(|account| account.certificate == held)
            }
            password => {
                let expected = account.as_ref().map_or(&self.nobody, |account| &account.hashed_password);
                fits(expected, &attempt.user, password)
            }
        };
        match account {
            Some(account) if fits && account.disabled => Err(AuthError::Disabled),
            Some(account) if fits => Ok(Authenticated {
                member: account.member(),
                name: account.name.as_str().into(),
                policy: Policy::default(),
            }),
            _ => Err(AuthError::Failed),
        }
    }
}

impl Authenticator for PasswordAuthenticator {
    fn authenticate<'a>(&'a self, attempt: &'a Attempt) -> Answer<'a> {
        Box::pin(async move { self.decide(attempt) })
    }
}

/// Whether `presented` proves knowledge of the password behind `expected`.
fn fits(expected: &Verifier, user: &str, presented: &Presented) -> bool {
    match presented {
        Presented::Hashed { secure, challenge } => {
            let right = Zeroizing::new(sha0::secure_password(&expected.0, challenge));
            right.as_slice().ct_eq(secure).into()
        }
        Presented::Plain(password) if password.len() <= PASSWORD_BYTES_MAX => {
            let hashed = sha0::hashed_password(password, user);
            expected.0.as_slice().ct_eq(hashed.as_slice()).into()
        }
        Presented::Plain(_) | Presented::Anonymous | Presented::Certificate(_) | Presented::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::auth::certificate::tests::{made, proof};
    use crate::control::state::files;
    use crate::tick::Tick;
    use std::net::IpAddr;
    use std::time::Duration;

    struct Fixture {
        dir: tempfile::TempDir,
        authenticator: PasswordAuthenticator,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Arc::new(AccountStore::open(dir.path()).unwrap());
        accounts.add("PUBLIC", "Alice", "secret").unwrap();
        Fixture { dir, authenticator: PasswordAuthenticator::new(accounts) }
    }

    fn plain(password: &str) -> Presented {
        Presented::Plain(Zeroizing::new(password.to_owned()))
    }

    fn hashed(secure: &str) -> Presented {
        let secure = std::array::from_fn(|i| u8::from_str_radix(&secure[2 * i..2 * i + 2], 16).unwrap());
        Presented::Hashed { secure, challenge: std::array::from_fn(|i| u8::try_from(i).unwrap()) }
    }

    fn ask(fixture: &Fixture, source: [u8; 4], hub: &str, user: &str, presented: Presented, second: u64) -> Verdict {
        let now = Tick(0) + Duration::from_secs(second);
        let attempt = Attempt { source: IpAddr::from(source), hub: hub.into(), user: user.into(), presented, now };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(fixture.authenticator.authenticate(&attempt))
    }

    /// Answer to the challenge 00 01 … 13 for "secret" and Alice (protocol note §3.3).
    const SECURE: &str = "1394b82845bfb7a2711c4963f2b62978cb2c6ce3";

    #[test]
    fn verdicts() {
        let fixture = fixture();
        let long = "x".repeat(100_000);
        for (i, (hub, user, presented, want)) in [
            ("PUBLIC", "Alice", hashed(SECURE), Ok("Alice")),
            ("public", "aLICE", hashed(SECURE), Ok("Alice")),
            ("PUBLIC", "ALICE", plain("secret"), Ok("Alice")),
            ("PUBLIC", "Alice", plain("Secret"), Err(AuthError::Failed)),
            ("PUBLIC", "Alice", plain(""), Err(AuthError::Failed)),
            ("PUBLIC", "Alice", plain(&long), Err(AuthError::Failed)),
            ("PUBLIC", "Alice", hashed(&SECURE.replace('1', "2")), Err(AuthError::Failed)),
            ("PUBLIC", "bob", plain("secret"), Err(AuthError::Failed)),
            ("PUBLIC", "bob", hashed(SECURE), Err(AuthError::Failed)),
            ("other", "Alice", plain("secret"), Err(AuthError::Failed)),
            ("PUBLIC", &long, plain("secret"), Err(AuthError::Failed)),
            ("PUBLIC", "PUBLIC\0Alice", plain("secret"), Err(AuthError::Failed)),
            ("PUBLIC", "Alice", Presented::Anonymous, Err(AuthError::Unsupported)),
            ("PUBLIC", "Alice", Presented::Other, Err(AuthError::Unsupported)),
        ]
        .into_iter()
        .enumerate()
        {
            let source = [10, 0, 0, u8::try_from(i).unwrap()];
            let verdict = ask(&fixture, source, hub, user, presented, 600 * i as u64);
            assert_eq!(verdict.as_ref().map(|yes| &*yes.name).map_err(|no| *no), want, "{i}");
        }
    }

    #[test]
    fn a_user_with_a_certificate_has_no_password() {
        let fixture = fixture();
        let ((certificate, key), (other, other_key)) = (made(2100), made(2100));
        let right = || Presented::Certificate(proof(&certificate, &key));
        let store = AccountStore::open(fixture.dir.path()).unwrap();
        let ask = |presented, second| ask(&fixture, [10, 0, 0, 1], "PUBLIC", "alice", presented, second);
        assert_eq!(ask(right(), 0), Err(AuthError::Failed), "not his yet");
        let fingerprint = proof(&certificate, &key).holds().unwrap();
        store.set_certificate("PUBLIC", "Alice", &fingerprint).unwrap();
        assert_eq!(&*ask(right(), 1).unwrap().name, "Alice");
        for (second, wrong) in
            [(600, proof(&other, &other_key)), (1200, proof(&certificate, &other_key)), (1800, proof(&other, &key))]
        {
            assert_eq!(ask(Presented::Certificate(wrong), second), Err(AuthError::Failed));
        }
        assert_eq!(ask(plain("secret"), 2400), Err(AuthError::Failed));
        assert_eq!(ask(hashed(SECURE), 3000), Err(AuthError::Failed));
        store.set_disabled("PUBLIC", "alice", true).unwrap();
        assert_eq!(ask(right(), 3600), Err(AuthError::Disabled));
        store.set_disabled("PUBLIC", "alice", false).unwrap();
        store.reset("PUBLIC", "alice", "another").unwrap();
        assert_eq!(ask(right(), 4200), Err(AuthError::Failed), "he has a password again");
        assert!(ask(plain("another"), 4800).is_ok());
    }

    #[test]
    fn only_who_knows_the_password_learns_that_he_is_disabled() {
        let fixture = fixture();
        let path = fixture.dir.path().join("users.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("\"disabled\": false", "\"disabled\": true");
        files::replace(&path, text.as_bytes()).unwrap();
        assert_eq!(ask(&fixture, [10, 0, 0, 1], "PUBLIC", "Alice", plain("secret"), 0), Err(AuthError::Disabled));
        assert_eq!(ask(&fixture, [10, 0, 0, 1], "PUBLIC", "Alice", plain("wrong"), 0), Err(AuthError::Failed));
    }

    #[test]
    fn guessing_is_slowed_for_known_and_unknown_users_alike() {
        let fixture = fixture();
        for user in ["Alice", "nobody"] {
            let source = if user == "Alice" { [10, 0, 0, 1] } else { [10, 0, 0, 2] };
            let verdicts: Vec<_> =
                (0..100).map(|_| ask(&fixture, source, "PUBLIC", user, plain("guess"), 0).unwrap_err()).collect();
            let compared = verdicts.iter().filter(|error| **error == AuthError::Failed).count();
            assert_eq!((compared, verdicts[99]), (5, AuthError::Penalty), "{user}");
        }
        let from_there = ask(&fixture, [10, 0, 0, 1], "PUBLIC", "Alice", plain("secret"), 1);
        assert_eq!(from_there, Err(AuthError::Penalty), "not even the right one");
        assert!(ask(&fixture, [10, 0, 0, 3], "PUBLIC", "Alice", plain("secret"), 6).is_ok());
    }
}
