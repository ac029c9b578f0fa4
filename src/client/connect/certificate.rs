//! The certificate of a member who logs in by one, and its key. RSA only: the protocol has nothing else (note §3.2).
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::KeyPair as _;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::args::ConnectArgs;
use super::password::private_file;
use crate::sys::rsa::sign_sha1;
use crate::tls::x509::{self, Fields};
use crate::tunnel::login::client::Certificate;

/// What --cert and --key name; the text of an error says what to do.
///
/// # Errors
/// If a file cannot be read or others may read the key, if there is no certificate or no key for RSA, if they do not belong
/// together, and if the certificate has expired.
pub(super) fn certificate(args: &ConnectArgs) -> Result<Option<Certificate>, String> {
    let (Some(certificate), Some(key)) = (&args.cert, &args.key) else { return Ok(None) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    load(certificate, key, i64::try_from(now).unwrap_or(i64::MAX)).map(Some)
}

fn load(certificate: &Path, key: &Path, now_unix_s: i64) -> Result<Certificate, String> {
    let der = CertificateDer::from_pem_file(certificate)
        .map_err(|error| format!("{}: cannot be read as a certificate in PEM: {error}", certificate.display()))?;
    let wrong = |what: &str| format!("{}: {what}", certificate.display());
    let fields = Fields::of(&der).ok_or_else(|| wrong("is no certificate"))?;
    let public = fields.rsa_key().ok_or_else(|| wrong(ONLY_RSA))?;
    if !x509::rsa_bits(public).is_some_and(|bits| BITS.contains(&bits)) {
        return Err(wrong("has an RSA key of a length that servers do not take; make one of 2048, 3072 or 4096 bits"));
    }
    if fields.not_after_unix_s.is_some_and(|end| end < now_unix_s) {
        return Err(wrong("the certificate has expired, and servers refuse it then; get another"));
    }
    let secret = private_key(key)?;
    let belongs = pair(&secret).is_some_and(|pair| pair.public_key().as_ref() == public);
    if !belongs {
        return Err(format!("{} is not the key of the certificate in {}", key.display(), certificate.display()));
    }
    let secret = Zeroizing::new(secret.secret_der().to_vec());
    let sign = move |challenge: &[u8]| sign_sha1(&secret, challenge).unwrap_or_default();
    // A library that makes no such signatures shall say so here, and not look like a refusal.
    if sign(&[0; 20]).is_empty() {
        return Err(format!("{}: the key cannot sign", key.display()));
    }
    Ok(Certificate { der: der.to_vec(), sign: Arc::new(sign) })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let mut text = Zeroizing::new(Vec::new());
    let read = private_file(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text);
    read.map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    // Either form says so in clear: RFC 7468 §11, and the older headers of RFC 1421.
    if text.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED) {
        return Err(format!(
            "{0}: the key is encrypted; `umask 077; openssl pkey -in {0} -out FILE` writes it as it is wanted here",
            path.display()
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| format!("{}: cannot be read as a private key in PEM: {error}", path.display()))?;
    match pair(&key) {
        Some(_) => Ok(key),
        None => Err(format!("{}: {ONLY_RSA}", path.display())),
    }
}

fn pair(key: &PrivateKeyDer<'_>) -> Option<KeyPair> {
    match key {
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()).ok(),
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()).ok(),
        _ => None,
    }
}

const ONLY_RSA: &str = "is not of RSA with 2048 to 4096 bits, and the protocol signs with nothing else; \
    `openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=NAME -days 3650 -keyout KEY.pem -out CERT.pem` makes what it takes";
/// What stock servers take (note §3.2), less those lengths that are broken.
const BITS: [usize; 3] = [2048, 3072, 4096];
const ENCRYPTED: &[u8] = b"ENCRYPTED";
/// A key of 4,096 bits takes 3,300.
const FILE_BYTES_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
    use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Certificate and key of a new key pair.
    fn made(dir: &Path, name: &str, kind: &'static SignatureAlgorithm) -> (PathBuf, PathBuf, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate_for(kind).unwrap();
        let certificate = CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        let paths = (write(dir, name, &certificate.pem()), write(dir, &format!("{name}.key"), &key.serialize_pem()));
        (paths.0, paths.1, key)
    }

    #[test]
    fn certificate_and_key_belong_together() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key, pair) = made(dir.path(), "a", &PKCS_RSA_SHA256);
        let (other, other_key, _) = made(dir.path(), "b", &PKCS_RSA_SHA256);
        let loaded = load(&certificate, &key, 0).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, pair.public_key_raw());
        public.verify(&[7; 20], &(loaded.sign)(&[7; 20])).unwrap();
        for (certificate, key) in [(&certificate, &other_key), (&other, &key)] {
            assert!(load(certificate, key, 0).err().unwrap().contains("is not the key of"));
        }
        assert!(load(&certificate, &key, i64::MAX).err().unwrap().contains("expired"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key, pair) = made(dir.path(), "a", &PKCS_RSA_SHA256);
        let (curve, curve_key, _) = made(dir.path(), "c", &PKCS_ECDSA_P256_SHA256);
        let plain = pair.serialize_pem();
        let encrypted = write(dir.path(), "e", &plain.replace("PRIVATE", "ENCRYPTED PRIVATE"));
        let headed = write(dir.path(), "h", &plain.replace("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\n"));
        let empty = write(dir.path(), "n", "nothing");
        let open = write(dir.path(), "o", &plain);
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o640)).unwrap();
        for (certificate, key, said) in [
            (&curve, &key, "not of RSA"),
            (&certificate, &curve_key, "not of RSA"),
            (&certificate, &encrypted, "openssl pkey"),
            (&certificate, &headed, "openssl pkey"),
            (&certificate, &empty, "private key in PEM"),
            (&empty, &key, "certificate in PEM"),
            (&certificate, &open, "chmod 600"),
            (&certificate, &dir.path().join("none"), "cannot be read"),
        ] {
            let error = load(certificate, key, 0).err().unwrap();
            assert!(error.contains(said), "{error}");
        }
    }
}
