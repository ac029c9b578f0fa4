//! Which TLS is spoken, by option.

use clap::{Args, ValueEnum};
use hublane::tls::aead::Algorithm;
use hublane::tls::config::TlsVersions;
use hublane::tls::keys::{Suite, Version};

/// Options about TLS.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct TlsChoice {
    /// Offer and accept only this cipher; else all.
    #[arg(long, value_enum)]
    suite: Option<Cipher>,
    /// Offer and accept only this version.
    #[arg(long, value_enum, default_value = "both")]
    tls: Versions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cipher {
    #[value(name = "aes-128-gcm")]
    Aes128Gcm,
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl Cipher {
    const fn algorithm(self) -> Algorithm {
        match self {
            Self::Aes128Gcm => Algorithm::Aes128Gcm,
            Self::Aes256Gcm => Algorithm::Aes256Gcm,
            Self::ChaCha20Poly1305 => Algorithm::ChaCha20Poly1305,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Versions {
    #[value(name = "1.2")]
    Only12,
    #[value(name = "1.3")]
    Only13,
    Both,
}

impl TlsChoice {
    /// The versions wanted.
    pub(crate) fn versions(self) -> TlsVersions {
        match self.tls {
            Versions::Only12 => TlsVersions::Only12,
            Versions::Only13 => TlsVersions::Only13,
            Versions::Both => TlsVersions::Both,
        }
    }

    /// The suites wanted, best first; at least one.
    pub(crate) fn suites(self) -> Vec<Suite> {
        let of_version = |suite: &Suite| match self.tls {
            Versions::Only12 => suite.version() == Version::Tls12,
            Versions::Only13 => suite.version() == Version::Tls13,
            Versions::Both => true,
        };
        let of_cipher = |suite: &Suite| self.suite.is_none_or(|cipher| cipher.algorithm() == suite.algorithm());
        Suite::ALL.into_iter().filter(of_version).filter(of_cipher).collect()
    }
}

/// Version and cipher of `suite` for a report.
pub(crate) fn describe(suite: Suite) -> String {
    let version = match suite.version() {
        Version::Tls12 => "TLS1.2",
        Version::Tls13 => "TLS1.3",
    };
    let cipher = match suite.algorithm() {
        Algorithm::Aes128Gcm => "AES-128-GCM",
        Algorithm::Aes256Gcm => "AES-256-GCM",
        Algorithm::ChaCha20Poly1305 => "CHACHA20-POLY1305",
    };
    format!("{version} {cipher}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_leaves_suites() {
        for tls in [Versions::Only12, Versions::Only13, Versions::Both] {
            for suite in [None, Some(Cipher::Aes128Gcm), Some(Cipher::Aes256Gcm), Some(Cipher::ChaCha20Poly1305)] {
                let choice = TlsChoice { suite, tls };
                assert!(!choice.suites().is_empty(), "{choice:?}");
            }
        }
        let choice = TlsChoice { suite: Some(Cipher::Aes256Gcm), tls: Versions::Only13 };
        assert_eq!(choice.suites(), [Suite::Tls13Aes256GcmSha384]);
        assert_eq!(describe(Suite::Tls13Aes256GcmSha384), "TLS1.3 AES-256-GCM");
    }
}
