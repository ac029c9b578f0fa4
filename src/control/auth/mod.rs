//! Who may come in: the seam for authenticators, and the one over the account store.
//!
//! The login asks with what the client presented; the answer tells member and policy, or why not. An
//! authenticator runs on control threads, may wait, and is dropped to cancel it: it must leave nothing
//! behind that only its end would tidy up. [`within`] puts a deadline on it.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod password;
pub mod penalty;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use zeroize::{Zeroize, Zeroizing};

use crate::config::policy::Policy;
use crate::event::Refusal;
use crate::ids::MemberId;
use crate::tick::Tick;

/// What a client presented to prove who he is (protocol note §3.2).
#[derive(Clone)]
pub enum Presented {
    /// Nothing (authtype 0).
    Anonymous,
    /// Answer to our challenge (authtype 1).
    Hashed {
        /// `SHA0(hashed_password || challenge)`.
        secure: [u8; 20],
        /// What our hello had as `random`.
        challenge: [u8; 20],
    },
    /// The password itself (authtype 2).
    Plain(Zeroizing<String>),
    /// A certificate (authtype 3).
    Certificate(certificate::Proof),
    /// Another authtype.
    Other,
}

impl Drop for Presented {
    fn drop(&mut self) {
        if let Presented::Hashed { secure, .. } = self {
            secure.zeroize();
        }
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Hashed { .. } => "Hashed(…)",
            Self::Plain(_) => "Plain(…)",
            Self::Certificate(_) => "Certificate(…)",
            Self::Other => "Other",
        })
    }
}

/// One attempt to log in.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Where it comes from.
    pub source: IpAddr,
    /// Hub, as configured.
    pub hub: Arc<str>,
    /// User, as the client wrote it: at most 255 bytes of anything.
    pub user: Arc<str>,
    /// His proof.
    pub presented: Presented,
    /// When.
    pub now: Tick,
}

/// Somebody who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// Who.
    pub member: MemberId,
    /// His name as stored.
    pub name: Arc<str>,
    /// Items of his own, laid over the hub's policy.
    pub policy: Policy,
}

/// Why somebody may not. Clients are told only the protocol's code: see [`AuthError::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// Unknown user or wrong proof: not told apart, neither by answer nor by time.
    Failed,
    /// Too many failed attempts: nothing was compared. Answered as `Failed`.
    Penalty,
    /// Right proof, but the user is disabled.
    Disabled,
    /// This way of logging in is not offered.
    Unsupported,
    /// No answer before the deadline.
    Timeout,
}

impl AuthError {
    /// Error code for the client (protocol note §3.5).
    pub const fn code(self) -> u32 {
        match self {
            Self::Failed | Self::Penalty => 9,
            Self::Disabled => 12,
            Self::Unsupported => 7,
            // Not a verdict: "hub busy" makes the client come again after a minute.
            Self::Timeout => 16,
        }
    }

    /// For the log.
    pub const fn refusal(self) -> Refusal {
        match self {
            Self::Failed => Refusal::Failed,
            Self::Penalty => Refusal::Penalty,
            Self::Disabled => Refusal::Disabled,
            Self::Unsupported => Refusal::Unsupported,
            Self::Timeout => Refusal::Timeout,
        }
    }
}

/// The answer of an authenticator.
pub type Verdict = Result<Authenticated, AuthError>;

/// An answer to wait for. Dropping it cancels the question.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// Somebody who can tell who may come in.
pub trait Authenticator: Send + Sync {
    /// Answers `attempt`. Bounded in memory; safe to drop at any await.
    fn authenticate<'a>(&'a self, attempt: &'a Attempt) -> Answer<'a>;
}

/// The answer of `authenticator`, or [`AuthError::Timeout`] after `deadline`.
pub async fn within(authenticator: &dyn Authenticator, attempt: &Attempt, deadline: Duration) -> Verdict {
    tokio::time::timeout(deadline, authenticator.authenticate(attempt)).await.unwrap_or(Err(AuthError::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Never;

    impl Authenticator for Never {
        fn authenticate<'a>(&'a self, _attempt: &'a Attempt) -> Answer<'a> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn a_silent_authenticator_is_given_up() {
        let attempt = Attempt {
            source: IpAddr::from([192, 0, 2, 1]),
            hub: "h".into(),
            user: "u".into(),
            presented: Presented::Plain(Zeroizing::new("secret".to_owned())),
            now: Tick(0),
        };
        assert_eq!(within(&Never, &attempt, Duration::from_millis(1)).await, Err(AuthError::Timeout));
        assert!(!format!("{attempt:?}").contains("secret"));
    }

    #[test]
    fn codes_tell_nothing_about_users() {
        assert_eq!(AuthError::Failed.code(), AuthError::Penalty.code());
        assert_eq!([AuthError::Failed, AuthError::Disabled, AuthError::Unsupported].map(AuthError::code), [9, 12, 7]);
    }
}
