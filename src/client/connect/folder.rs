//! The card's own folder: what it keeps from run to run, and nobody else may write.
//!
//! Not the server's state directory: the server faces the network and may run as a user of its own, to whom that
//! directory belongs then, while root acts on what stands here.
#![forbid(unsafe_code)]

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::geteuid;

use crate::control::state;

/// `/var/lib/hublane-connect` for root, else what [`state::default_path`] says.
pub(super) fn default_path() -> PathBuf {
    if geteuid().is_root() { PathBuf::from("/var/lib/hublane-connect") } else { state::default_path() }
}

/// Whether the folder is ours alone to write, if it is there. The text of an error says what to do.
///
/// # Errors
/// If it is not, or is no folder.
pub(super) fn check(folder: &Path) -> Result<(), String> {
    match folder.symlink_metadata() {
        Ok(meta) if meta.is_dir() => check_owner(folder, &meta),
        Ok(_) => Err(format!("{}: is no directory", folder.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(folder, "look at", &error)),
    }
}

/// Makes the folder if it is not there.
///
/// # Errors
/// If it cannot be made, or is not ours alone.
pub(super) fn make(folder: &Path) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed(folder, "make", &error))?;
    check(folder)
}

/// What the file says.
///
/// # Errors
/// If it cannot be read, is a symbolic link, no file at all, or not ours alone to write.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| failed(path, "read", &error);
    // Without O_NONBLOCK a pipe would be waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    if !meta.is_file() {
        return Err(format!("{}: is no file", path.display()));
    }
    check_owner(path, &meta)?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(cannot)?;
    Ok(bytes)
}

/// Puts `bytes` in the place of the file at `path`, mode 0600: it is never there by half, also after a crash.
///
/// # Errors
/// If it cannot be written, or the folder is not ours alone.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make(folder)?;
    let temporary = path.with_extension("new");
    let written = write_new(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        // The rename is in the directory.
        .and_then(|()| File::open(folder)?.sync_all());
    written.map_err(|error| failed(path, "write", &error))
}

pub(super) fn failed(path: &Path, doing: &str, error: &io::Error) -> String {
    format!("cannot {doing} {}: {error}", path.display())
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Of a process with our number that crashed here.
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn check_owner(path: &Path, meta: &Metadata) -> Result<(), String> {
    let (owner, us, mode) = (meta.uid(), geteuid().as_raw(), meta.mode() & 0o7777);
    if owner == us && mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(format!(
        "{}: belongs to user {owner} and has mode {mode:04o}, so that others than user {us} may change it; look at what \
         it says, and remove it or make it yours alone",
        path.display()
    ))
}

const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Far more than a note has.
const BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let note = folder.join("note.json");
        assert_eq!(check(&folder), Ok(()), "none is none of somebody else");
        write(&note, b"first").unwrap();
        write(&note, b"second").unwrap();
        assert_eq!(read(&note).unwrap(), b"second");
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&note)), (0o700, 0o600));
        assert_eq!(folder.read_dir().unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a");
        let note = folder.join("note.json");
        write(&note, b"text").unwrap();
        for mode in [0o620, 0o602] {
            set_mode(&note, mode);
            assert!(read(&note).unwrap_err().contains(&format!("{mode:04o}")));
        }
        set_mode(&note, 0o600);
        for mode in [0o770, 0o777, 0o1777] {
            set_mode(&folder, mode);
            assert!(check(&folder).is_err() && make(&folder).is_err() && write(&note, b"").is_err(), "{mode:o}");
        }
        set_mode(&folder, 0o755);
        assert_eq!((check(&folder), read(&note).unwrap()), (Ok(()), b"text".to_vec()));
        if geteuid().is_root() {
            chown(&note, Some(65_534), None).unwrap();
            assert!(read(&note).unwrap_err().contains("belongs to user 65534"));
            chown(&folder, Some(65_534), None).unwrap();
            assert!(check(&folder).is_err() && write(&note, b"").is_err());
        }
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::write(&real, "text").unwrap();
        symlink(&real, &link).unwrap();
        assert!(read(&link).is_err());
        write(&link, b"other").unwrap();
        assert_eq!((std::fs::read(&real).unwrap(), read(&link).unwrap()), (b"text".to_vec(), b"other".to_vec()));
        let folder = dir.path().join("folder");
        symlink(dir.path(), &folder).unwrap();
        assert!(check(&folder).unwrap_err().contains("no directory"));
    }
}
