//! How rustls is set up, for server and client.
//!
//! Members' programs are SoftEther clients of many ages (protocol note §1.1): they name IP addresses
//! in SNI, some know no ECDSA, none resumes a session. Their servers have self-signed certificates.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use super::keys::Suite;

/// Which protocol versions are offered or accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersions {
    /// 1.2 and 1.3.
    #[default]
    Both,
    /// 1.2 only.
    Only12,
    /// 1.3 only.
    Only13,
}

impl TlsVersions {
    fn in_rustls(self) -> &'static [&'static SupportedProtocolVersion] {
        static NEWEST_FIRST: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        match self {
            Self::Both => &NEWEST_FIRST,
            Self::Only12 => &NEWEST_FIRST[1..],
            Self::Only13 => &NEWEST_FIRST[..1],
        }
    }
}

/// A certificate chain, leaf first, with the leaf's private key.
///
/// # Errors
/// If the key cannot be read, is of a kind that cannot sign, or is not the certificate's.
pub fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, Error> {
    CertifiedKey::from_der(chain, key, &provider::default_provider()).map(Arc::new)
}

/// What a server shows. All listeners of a server need the same: a member's further connections
/// compare the certificate with that of the first one, byte by byte (protocol note §1.1).
#[derive(Clone, Debug)]
pub enum ServerCertificates {
    /// The same for everyone.
    One(Arc<CertifiedKey>),
    /// ECDSA, which signs some twenty times as fast, for clients that can verify it; RSA for the
    /// others. A client offers the same each time, so it sees the same certificate each time.
    ByClient {
        /// For clients that can verify ECDSA.
        ecdsa: Arc<CertifiedKey>,
        /// For the others.
        rsa: Arc<CertifiedKey>,
    },
}

impl ResolvesServerCert for ServerCertificates {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Without regard to SNI: clients name what they please, IP addresses too. In TLS 1.2 rustls
        // has already taken out the schemes that no common suite can use.
        Some(Arc::clone(self.choose(client_hello.signature_schemes())))
    }
}

impl ServerCertificates {
    fn choose(&self, offered: &[SignatureScheme]) -> &Arc<CertifiedKey> {
        match self {
            Self::One(only) => only,
            Self::ByClient { ecdsa, .. } if ecdsa.key.choose_scheme(offered).is_some() => ecdsa,
            Self::ByClient { rsa, .. } => rsa,
        }
    }
}

/// What a client demands of the server's certificate. The server must prove in any case that it has
/// the certificate's key.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// This certificate and no other: SHA-256 of its DER form.
    Pin([u8; 32]),
    /// One that these vouch for, directly or by others, for the name or address that was called.
    Ca(Arc<RootCertStore>),
    /// Any certificate, as SoftEther clients do by default: safe against listeners, not against
    /// someone in the middle.
    AcceptAny,
}

/// Which kinds of certificate a client says it can verify; a server with several shows one that fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signatures {
    /// All that the library knows.
    #[default]
    Any,
    /// RSA only, as clients of SoftEther's older versions.
    Rsa,
    /// ECDSA only.
    Ecdsa,
}

impl Signatures {
    fn include(self, scheme: SignatureScheme) -> bool {
        use SignatureScheme::{
            RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
        };
        let rsa =
            [RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512];
        match self {
            Self::Any => true,
            Self::Rsa => rsa.contains(&scheme),
            Self::Ecdsa => !rsa.contains(&scheme),
        }
    }
}

/// SHA-256 of a certificate, for [`ServerTrust::Pin`].
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, certificate);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A server for SoftEther clients: our order of suites, no resumption, no client certificate.
pub fn server_config(certificates: ServerCertificates, versions: TlsVersions) -> ServerConfig {
    server_config_for(certificates, versions, &Suite::ALL)
}

/// As [`server_config`], with only the given suites, best first.
///
/// # Panics
/// If none of the suites belongs to one of the versions.
pub fn server_config_for(certificates: ServerCertificates, versions: TlsVersions, suites: &[Suite]) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(with_suites(suites))
        .with_protocol_versions(versions.in_rustls())
        .expect("a suite belongs to one of the versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.ignore_client_order = true;
    config.enable_secret_extraction = true;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

/// A client for SoftEther servers: no resumption, no certificate of its own.
pub fn client_config(trust: ServerTrust, versions: TlsVersions) -> ClientConfig {
    client_config_for(trust, versions, &Suite::ALL, Signatures::Any)
}

/// As [`client_config`], with only the given suites, best first, and only the given kinds of certificate.
///
/// # Panics
/// If none of the suites belongs to one of the versions.
pub fn client_config_for(
    trust: ServerTrust,
    versions: TlsVersions,
    suites: &[Suite],
    signatures: Signatures,
) -> ClientConfig {
    let provider = with_suites(suites);
    let verifier = ServerVerifier { trust, algorithms: provider.signature_verification_algorithms, signatures };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions.in_rustls())
        .expect("a suite belongs to one of the versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    config.resumption = Resumption::disabled();
    config
}

fn with_suites(suites: &[Suite]) -> Arc<CryptoProvider> {
    let cipher_suites = suites.iter().map(|suite| suite.in_rustls()).collect();
    Arc::new(CryptoProvider { cipher_suites, ..provider::default_provider() })
}

/// Judges the certificate by [`ServerTrust`], signatures by rustls.
struct ServerVerifier {
    trust: ServerTrust,
    algorithms: WebPkiSupportedAlgorithms,
    signatures: Signatures,
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("ServerVerifier").field(&self.trust).finish()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            ServerTrust::Pin(pin) if fingerprint(end_entity) != *pin => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            ServerTrust::Ca(roots) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                let algorithms = self.algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
                verify_server_name(&certificate, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            ServerTrust::Pin(_) | ServerTrust::AcceptAny => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = self.algorithms.supported_schemes();
        known.into_iter().filter(|scheme| self.signatures.include(*scheme)).collect()
    }
}
