//! From certificates as stored to what rustls wants.
#![forbid(unsafe_code)]

use rustls::ServerConfig;

use super::state::certificates::{Identity, ServerCertificates as Stored};
use crate::tls::config::{self, ServerCertificates, TlsVersions, certified_key};

/// How the server shakes hands: with both certificates the client's offer decides.
///
/// # Errors
/// If a key cannot sign or does not belong to its certificate.
pub fn server_config(stored: Option<Stored>, versions: TlsVersions) -> Result<ServerConfig, rustls::Error> {
    let stored = stored.unwrap_or(Stored { rsa: None, ecdsa: None });
    let key = |(chain, key): Identity| certified_key(chain, key);
    let certificates = match (stored.rsa, stored.ecdsa) {
        (Some(rsa), Some(ecdsa)) => ServerCertificates::ByClient { ecdsa: key(ecdsa)?, rsa: key(rsa)? },
        (Some(one), None) | (None, Some(one)) => ServerCertificates::One(key(one)?),
        (None, None) => return Err(rustls::Error::NoCertificatesPresented),
    };
    Ok(config::server_config(certificates, versions))
}
