//! Reading the file: bounded, and only one that strangers cannot have written.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Content of the configuration file at `path`, or what is wrong and a hint.
///
/// Refuses a file that others may write or that belongs to somebody else than root or the user we run
/// as: who writes it decides which key the server shows and who may come in.
pub(super) fn read(path: &Path) -> Result<String, (String, String)> {
    let failed = |error: std::io::Error| {
        (format!("cannot be read: {error}"), "name a file that the server may read, by --config FILE".to_owned())
    };
    let mut file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(("is not a file".to_owned(), "name a TOML file by --config FILE".to_owned()));
    }
    let shown = path.display();
    if meta.mode() & 0o002 != 0 {
        return Err((
            format!("may be written by anybody (mode {:04o})", meta.mode() & 0o7777),
            format!("chmod o-w {shown}"),
        ));
    }
    let own = nix::unistd::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != own {
        return Err((
            format!("belongs to user {}, who is neither root nor us (user {own})", meta.uid()),
            format!("chown {own} {shown}"),
        ));
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(("is too large".to_owned(), format!("at most {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        (format!("line {line} is not UTF-8"), "save the file as UTF-8".to_owned())
    })
}

/// 4096 hubs with every key and a comment each fit several times.
const FILE_BYTES_MAX: u64 = 8 << 20;
