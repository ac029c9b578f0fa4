//! The certificates the server shows: of its own making, or the operator's.
//!
//! Ours are self-signed: stock clients check a server by the fingerprint or not at all, so what counts
//! is that they stay the same. Each lies with its key in one PEM file, so that the two cannot part.
#![forbid(unsafe_code)]

use std::path::Path;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, RsaKeySize, SerialNumber,
};
use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::{StateError, files, secrets};
use crate::config::Certificate;

/// A certificate, those between it and its root, and its private key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What the server can show. At least one is there.
#[derive(Debug)]
pub struct ServerCertificates {
    /// For clients that offer RSA signatures.
    pub rsa: Option<Identity>,
    /// For clients that offer ECDSA with P-256.
    pub ecdsa: Option<Identity>,
}

impl ServerCertificates {
    /// Kind and SHA-256 fingerprint (`AA:BB:…`) of each.
    pub fn fingerprints(&self) -> Vec<(&'static str, String)> {
        let kinds = [("RSA", &self.rsa), ("ECDSA", &self.ecdsa)];
        kinds
            .into_iter()
            .filter_map(|(kind, identity)| Some((kind, fingerprint(identity.as_ref()?.0.first()?))))
            .collect()
    }
}

/// Loads the certificates `wanted`, after making ours in `state` if they are not there.
///
/// # Errors
/// When a file cannot be read or written, is damaged, or key and certificate do not belong together.
pub fn load(state: &Path, wanted: &Certificate) -> Result<ServerCertificates, StateError> {
    let ours = |kind: Kind| ours(state, kind).map(Some);
    Ok(match wanted {
        Certificate::Own { chain, key } => return own(chain, key),
        Certificate::Auto => ServerCertificates { rsa: ours(Kind::Rsa)?, ecdsa: ours(Kind::Ecdsa)? },
        Certificate::Rsa => ServerCertificates { rsa: ours(Kind::Rsa)?, ecdsa: None },
        Certificate::Ecdsa => ServerCertificates { rsa: None, ecdsa: ours(Kind::Ecdsa)? },
    })
}

/// SHA-256 of `certificate` as bytes in upper-case hexadecimal with colons between.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let bytes: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// A certificate for `host` that signs itself and is kept nowhere: for programs that need one while they run.
///
/// # Errors
/// If `host` is no name a certificate can carry.
pub fn unkept(kind: Kind, host: &str) -> Result<Identity, rcgen::Error> {
    let (key, certificate) = self_signed(kind, host)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok((vec![certificate.der().clone()], key))
}

/// Kind of a certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RSA with 2048 bits.
    Rsa,
    /// ECDSA with P-256.
    Ecdsa,
}

fn ours(state: &Path, kind: Kind) -> Result<Identity, StateError> {
    let path = state.join(match kind {
        Kind::Rsa => "certificate-rsa.pem",
        Kind::Ecdsa => "certificate-ecdsa.pem",
    });
    let pem = match files::read(&path, FILE_BYTES_MAX, files::PRIVATE)? {
        Some(pem) => pem,
        None => {
            let pem = make(kind, &host_name()).map_err(|error| {
                StateError::new(&path, format!("cannot make a certificate: {error}"), "please report this")
            })?;
            files::replace(&path, &pem)?;
            pem
        }
    };
    const AGAIN: &str = "move the file away: the next start makes another one (its fingerprint will differ)";
    let identity = (chain(&pem, &path, AGAIN)?, private_key(&pem, &path, AGAIN)?);
    if check(&identity, &path, AGAIN)? != kind {
        return Err(StateError::new(&path, "has a key of another kind", AGAIN));
    }
    Ok(identity)
}

fn own(chain_path: &Path, key_path: &Path) -> Result<ServerCertificates, StateError> {
    const HINT: &str = "a PEM file: the server's certificate first, then the intermediate ones; key without password";
    let read = |path: &Path, forbidden_mode| {
        files::read(path, FILE_BYTES_MAX, forbidden_mode)?.ok_or_else(|| {
            StateError::new(path, "is not there", "see certificate_chain and private_key in the configuration")
        })
    };
    // A group may read the key: that is how distributions hand one file to several servers.
    let (chain_pem, key_pem) = (read(chain_path, 0o002)?, read(key_path, 0o027)?);
    let identity = (chain(&chain_pem, chain_path, HINT)?, private_key(&key_pem, key_path, HINT)?);
    Ok(match check(&identity, key_path, HINT)? {
        Kind::Rsa => ServerCertificates { rsa: Some(identity), ecdsa: None },
        Kind::Ecdsa => ServerCertificates { rsa: None, ecdsa: Some(identity) },
    })
}

/// Key followed by certificate, PEM.
fn make(kind: Kind, host: &str) -> Result<Zeroizing<Vec<u8>>, rcgen::Error> {
    let (key, certificate) = self_signed(kind, host)?;
    let mut pem = Zeroizing::new(Vec::new());
    pem.extend_from_slice(Zeroizing::new(key.serialize_pem()).as_bytes());
    pem.extend_from_slice(certificate.pem().as_bytes());
    Ok(pem)
}

fn self_signed(kind: Kind, host: &str) -> Result<(KeyPair, rcgen::Certificate), rcgen::Error> {
    let key = match kind {
        Kind::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        Kind::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
    };
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, host);
    // Fixed, not "now": machines without a clock of their own start in the past.
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    // Old clients count seconds in 32 bits, which end in January 2038.
    params.not_after = rcgen::date_time_ymd(2037, 12, 31);
    let mut serial = [0; 16];
    secrets::random(&mut serial);
    // Positive and of full length (RFC 5280 §4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key)?;
    Ok((key, certificate))
}

fn chain(pem: &[u8], path: &Path, hint: &str) -> Result<Vec<CertificateDer<'static>>, StateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if (1..=CHAIN_MAX).contains(&chain.len()) => Ok(chain),
        Ok(chain) => {
            let what = format!("holds {} certificates, 1 to {CHAIN_MAX} are expected", chain.len());
            Err(StateError::new(path, what, hint))
        }
        Err(error) => Err(StateError::new(path, format!("is not PEM: {error}"), hint)),
    }
}

fn private_key(pem: &[u8], path: &Path, hint: &str) -> Result<PrivateKeyDer<'static>, StateError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| StateError::new(path, format!("no private key: {error}"), hint))
}

/// Kind of the key, once it is certain that it belongs to the certificate.
fn check((chain, key): &Identity, path: &Path, hint: &str) -> Result<Kind, StateError> {
    let wrong = |what: String| StateError::new(path, what, hint);
    let key = any_supported_type(key).map_err(|error| wrong(format!("the private key cannot be used: {error}")))?;
    let algorithm = key.algorithm();
    CertifiedKey::new(chain.clone(), key)
        .keys_match()
        .map_err(|error| wrong(format!("certificate and private key do not belong together: {error}")))?;
    match algorithm {
        SignatureAlgorithm::RSA => Ok(Kind::Rsa),
        SignatureAlgorithm::ECDSA => Ok(Kind::Ecdsa),
        other => Err(wrong(format!("stock clients cannot use a key of kind {other:?}; RSA or ECDSA"))),
    }
}

/// Name of this machine as far as a certificate can carry it.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let name: String = name.trim().chars().filter(fits).take(COMMON_NAME_CHARS_MAX).collect();
    if name.is_empty() { "hublane".to_owned() } else { name }
}

/// RFC 5280 appendix A: ub-common-name.
const COMMON_NAME_CHARS_MAX: usize = 64;
/// Ten certificates of 4096-bit keys and a key fit several times.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Longer chains do not occur, and would not fit the first flight.
const CHAIN_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn replace_pem(path: &Path, pem: &[u8]) {
        files::replace(path, pem).unwrap();
    }

    #[test]
    fn made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load(dir.path(), &Certificate::Auto).unwrap().fingerprints();
        assert_eq!(first.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["RSA", "ECDSA"]);
        assert!(first.iter().all(|(_, print)| print.len() == 95 && print.matches(':').count() == 31), "{first:?}");
        assert_eq!(load(dir.path(), &Certificate::Auto).unwrap().fingerprints(), first);
        let rsa = load(dir.path(), &Certificate::Rsa).unwrap();
        assert!(rsa.ecdsa.is_none() && rsa.fingerprints() == first[..1]);
        let ecdsa = load(dir.path(), &Certificate::Ecdsa).unwrap();
        assert!(ecdsa.rsa.is_none() && ecdsa.fingerprints() == first[1..]);
        for entry in dir.path().read_dir().unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn an_unkept_certificate_belongs_to_its_key() {
        for kind in [Kind::Rsa, Kind::Ecdsa] {
            let identity = unkept(kind, "10.91.1.1").unwrap();
            assert_eq!(check(&identity, Path::new("unkept"), "").unwrap(), kind);
        }
    }

    #[test]
    fn the_operators_chain_goes_where_its_key_belongs() {
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
        let wanted = Certificate::Own { chain: chain.clone(), key: key.clone() };
        assert!(load(dir.path(), &wanted).unwrap_err().what.contains("is not there"));
        let ecdsa = make(Kind::Ecdsa, "vpn.example").unwrap();
        replace_pem(&chain, &ecdsa);
        replace_pem(&key, &ecdsa);
        let loaded = load(dir.path(), &wanted).unwrap();
        assert!(loaded.rsa.is_none() && loaded.ecdsa.is_some());
        replace_pem(&key, &make(Kind::Ecdsa, "vpn.example").unwrap());
        assert!(load(dir.path(), &wanted).unwrap_err().what.contains("do not belong together"));
        replace_pem(&key, b"garbage");
        assert!(load(dir.path(), &wanted).unwrap_err().what.contains("no private key"));
        replace_pem(&key, &ecdsa);
        replace_pem(&chain, b"garbage");
        assert!(load(dir.path(), &wanted).unwrap_err().what.contains("holds 0 certificates"));
        replace_pem(&chain, &ecdsa);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load(dir.path(), &wanted).unwrap_err().hint.contains("chmod 600"));
    }

    #[test]
    fn a_damaged_certificate_is_told_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        load(dir.path(), &Certificate::Ecdsa).unwrap();
        let path = dir.path().join("certificate-ecdsa.pem");
        let good = std::fs::read(&path).unwrap();
        replace_pem(&path, &good[..good.len() / 2]);
        assert!(load(dir.path(), &Certificate::Ecdsa).unwrap_err().hint.contains("move the file away"));
        replace_pem(&dir.path().join("certificate-rsa.pem"), &good);
        assert!(load(dir.path(), &Certificate::Rsa).unwrap_err().what.contains("another kind"));
    }
}
