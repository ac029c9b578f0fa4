//! Files of the state directory: private, and never half-written.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use zeroize::Zeroizing;

use super::StateError;

/// Puts `bytes` in the place of the file at `path`, mode 0600: whoever opens it finds the old content
/// or the new, also after a crash.
///
/// Run by root, the file belongs to whom the old one belonged, or the directory: `hublane user` typed
/// by root must not lock out a server that runs as somebody else.
///
/// # Errors
/// When it cannot be written; the old content stands then.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = write_new(&temporary, owner_like(path, folder), bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        // The rename is in the directory: without this a crash may bring the old file back.
        .and_then(|()| File::open(folder)?.sync_all());
    written.map_err(|error| {
        // Of no use to anybody; if it cannot be removed the error says enough.
        let _ = std::fs::remove_file(&temporary);
        StateError::io(path, "write", &error)
    })
}

/// Content of the file at `path`, at most `bytes_max`; `None` if there is none.
///
/// # Errors
/// When it cannot be read, is too large, or others may read or write it (bits of `forbidden_mode`).
pub fn read(path: &Path, bytes_max: u64, forbidden_mode: u32) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let failed = |error: std::io::Error| StateError::io(path, "read", &error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & forbidden_mode != 0 {
        let what = format!("holds secrets, but others may read or write it (mode {mode:04o})");
        return Err(StateError::new(path, what, format!("chmod 600 {}", path.display())));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    Read::by_ref(&mut file).take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(StateError::new(path, "is too large", format!("at most {bytes_max} bytes")));
    }
    Ok(Some(bytes))
}

fn write_new(path: &Path, owner: Option<(u32, u32)>, bytes: &[u8]) -> std::io::Result<()> {
    // A leftover of a process with our number that crashed here.
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some((uid, gid)) = owner {
        fchown(&file, Some(uid), Some(gid))?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

fn owner_like(path: &Path, folder: &Path) -> Option<(u32, u32)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let meta = path.metadata().or_else(|_| folder.metadata()).ok()?;
    Some((meta.uid(), meta.gid()))
}

/// Mode bits that a file of ours must not have: anything for group and others.
pub const PRIVATE: u32 = 0o077;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaced_as_a_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.json");
        assert_eq!(read(&path, 10, PRIVATE).unwrap(), None);
        replace(&path, b"old").unwrap();
        // Whoever had it open keeps the old content: nothing is overwritten in place.
        let mut opened = File::open(&path).unwrap();
        replace(&path, b"new").unwrap();
        let mut old = String::new();
        opened.read_to_string(&mut old).unwrap();
        assert_eq!((old.as_str(), read(&path, 10, PRIVATE).unwrap().unwrap().as_slice()), ("old", b"new".as_slice()));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(dir.path().read_dir().unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.json");
        replace(&path, b"old").unwrap();
        // A directory where the temporary file should stand makes the write fail, for root too.
        std::fs::create_dir(path.with_extension(format!("{}.new", std::process::id()))).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(read(&path, 10, PRIVATE).unwrap().unwrap().as_slice(), b"old");
    }

    #[test]
    fn open_or_oversized_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.json");
        replace(&path, b"0123456789").unwrap();
        assert!(read(&path, 9, PRIVATE).unwrap_err().what.contains("too large"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&path, 10, PRIVATE).unwrap_err();
        assert!(error.what.contains("mode 0640") && error.hint.contains("chmod 600"), "{error}");
    }
}
