//! Whether a server is the one that was meant: by those who vouch for it, by its fingerprint, or by what it showed the
//! first time.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

use super::args::{ConnectArgs, Endpoint, parse_fingerprint};
use super::folder;
use crate::control::state::files;
use crate::tls::config::{ServerTrust, TlsVersions, client_config};

/// What a server's certificate is compared with.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    /// Those who vouch for it.
    Ca(Arc<RootCertStore>),
    /// Its fingerprint.
    Pin([u8; 32]),
    /// What it showed before; the file.
    Known(PathBuf),
    /// Nothing.
    Any,
}

/// What is known about a server that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is the one that was meant.
    Certain,
    /// It was never seen before.
    FirstSeen,
    /// Nobody looked.
    Unknown,
}

/// The server is not the one that was meant, or it cannot be told. The text says what to do.
#[derive(Debug, Error)]
pub(super) enum IdentityError {
    /// Another certificate than the one that was named.
    #[error(
        "{server} shows a certificate with the fingerprint sha256:{seen}, not the one of --pin: its operator has \
         changed it, or somebody stands in between; ask him for the fingerprint"
    )]
    Pin {
        /// Whom we called.
        server: String,
        /// What it showed.
        seen: String,
    },
    /// Another certificate than before.
    #[error(
        "{server} shows another certificate than before: sha256:{seen}, known is sha256:{known}. Its operator has \
         changed it, or somebody stands in between. Ask him for the fingerprint; if it is this one, remove the line \
         of {server} from {}", .file.display()
    )]
    Changed {
        /// Whom we called.
        server: String,
        /// What it showed.
        seen: String,
        /// What it showed before.
        known: String,
        /// Where that stands.
        file: PathBuf,
    },
    /// A file cannot be used.
    #[error("{}: {what}", .file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        what: String,
    },
}

impl Identity {
    /// As the options say.
    ///
    /// # Errors
    /// If the file of --ca cannot be used, or others may write to the folder of known servers.
    pub(super) fn of(args: &ConnectArgs) -> Result<Self, IdentityError> {
        if let Some(file) = &args.ca {
            return Ok(Self::Ca(Arc::new(roots(file)?)));
        }
        if let Some(pin) = args.pin {
            return Ok(Self::Pin(pin));
        }
        if args.insecure {
            return Ok(Self::Any);
        }
        if let Some(file) = &args.known_servers {
            return Ok(Self::Known(file.clone()));
        }
        let folder = folder::default_path();
        folder::check(&folder).map_err(|what| failed(&folder.join(KNOWN_SERVERS), what))?;
        Ok(Self::Known(folder.join(KNOWN_SERVERS)))
    }

    /// How rustls is set up for it: fingerprints are compared by [`Self::check`], which can tell them.
    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        let trust = match self {
            Self::Ca(roots) => ServerTrust::Ca(Arc::clone(roots)),
            _ => ServerTrust::AcceptAny,
        };
        Arc::new(client_config(trust, TlsVersions::Both))
    }

    /// Looks at the certificate that `server` has shown, before anything is said to it.
    ///
    /// # Errors
    /// If it is another one than it should be, or the file cannot be read.
    pub(super) fn check(&self, server: &Endpoint, seen: &[u8; 32]) -> Result<Standing, IdentityError> {
        match self {
            Self::Ca(_) => Ok(Standing::Certain),
            Self::Any => Ok(Standing::Unknown),
            Self::Pin(pin) if pin == seen => Ok(Standing::Certain),
            Self::Pin(_) => Err(IdentityError::Pin { server: server.to_string(), seen: hex(seen) }),
            Self::Known(file) => match known(&read(file)?, server) {
                None => Ok(Standing::FirstSeen),
                Some(before) if before == *seen => Ok(Standing::Certain),
                Some(before) => Err(IdentityError::Changed {
                    server: server.to_string(),
                    seen: hex(seen),
                    known: hex(&before),
                    file: file.clone(),
                }),
            },
        }
    }

    /// Remembers the certificate of a server that was seen for the first time and has let us in.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn remember(&self, server: &Endpoint, seen: &[u8; 32]) -> Result<(), IdentityError> {
        let Self::Known(file) = self else { return Ok(()) };
        let mut text = read(file)?;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let _ = writeln!(text, "{server} sha256:{}", hex(seen));
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| failed(file, format!("cannot make its folder: {error}")))?;
        }
        files::replace(file, text.as_bytes()).map_err(|error| failed(file, error.what))
    }
}

/// A fingerprint for people.
pub(super) fn hex(fingerprint: &[u8; 32]) -> String {
    fingerprint.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn roots(file: &Path) -> Result<RootCertStore, IdentityError> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(file, format!("cannot be read as certificates in PEM: {error}")))?;
    let mut roots = RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(certificates);
    if good == 0 {
        return Err(failed(file, "has no certificate".to_owned()));
    }
    Ok(roots)
}

fn read(file: &Path) -> Result<String, IdentityError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(failed(file, format!("cannot be read: {error}"))),
    }
}

fn failed(file: &Path, what: String) -> IdentityError {
    IdentityError::File { file: file.to_owned(), what }
}

/// The fingerprint of `server` in the text of such a file: lines of server and fingerprint.
fn known(text: &str, server: &Endpoint) -> Option<[u8; 32]> {
    let wanted = server.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let (name, fingerprint) = line.split_once(char::is_whitespace)?;
        name.eq_ignore_ascii_case(&wanted).then(|| parse_fingerprint(fingerprint.trim()).ok())?
    })
}

/// In the card's own folder.
const KNOWN_SERVERS: &str = "known_servers";

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn first_seen_then_known_then_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("below/known_servers");
        let identity = Identity::Known(file.clone());
        let (a, b) = (server("a.example:443"), server("b.example:443"));
        assert_eq!(identity.check(&a, &[1; 32]).unwrap(), Standing::FirstSeen);
        identity.remember(&a, &[1; 32]).unwrap();
        identity.remember(&b, &[2; 32]).unwrap();
        assert_eq!(identity.check(&server("A.example:443"), &[1; 32]).unwrap(), Standing::Certain);
        assert_eq!(identity.check(&b, &[2; 32]).unwrap(), Standing::Certain);
        assert_eq!(identity.check(&server("a.example:992"), &[1; 32]).unwrap(), Standing::FirstSeen);
        let error = identity.check(&a, &[3; 32]).unwrap_err().to_string();
        for part in [&hex(&[1; 32]), &hex(&[3; 32]), "a.example:443", &file.display().to_string()] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn pins_and_nothing() {
        let a = server("a:1");
        assert_eq!(Identity::Pin([1; 32]).check(&a, &[1; 32]).unwrap(), Standing::Certain);
        let error = Identity::Pin([1; 32]).check(&a, &[2; 32]).unwrap_err().to_string();
        assert!(error.contains(&hex(&[2; 32])) && error.contains("--pin"), "{error}");
        assert_eq!(Identity::Any.check(&a, &[2; 32]).unwrap(), Standing::Unknown);
        Identity::Any.remember(&a, &[2; 32]).unwrap();
    }

    #[test]
    fn files_that_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        assert!(roots(&file).unwrap_err().to_string().contains("ca.pem"));
        std::fs::write(&file, "nothing").unwrap();
        assert!(roots(&file).unwrap_err().to_string().contains("no certificate"));
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        std::fs::write(&file, made.cert.pem()).unwrap();
        assert_eq!(roots(&file).unwrap().len(), 1);
        assert!(Identity::Known(dir.path().to_owned()).check(&server("a:1"), &[0; 32]).is_err());
    }
}
