//! What the server keeps between starts: accounts, certificates, and a lock so that only one server uses them.
//!
//! Everything lies in one directory of mode 0700, files of mode 0600, each replaced as a whole.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod certificates;
pub mod files;
pub mod first_start;
pub mod leases;
pub mod secrets;

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

/// Something is wrong with the state directory: where, what, and what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}: {what}\n  hint: {hint}", .path.display())]
pub struct StateError {
    /// File or directory.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl StateError {
    /// `what` is wrong with `path`; `hint` says what to do.
    pub fn new(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { path: path.to_owned(), what: what.into(), hint: hint.into() }
    }

    fn io(path: &Path, doing: &str, error: &std::io::Error) -> Self {
        let hint = "the directory (--state DIR) must belong to the user who runs the server, and have room";
        Self::new(path, format!("cannot {doing}: {error}"), hint)
    }
}

/// The state directory, locked by this process until dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory if needed and locks it.
    ///
    /// # Errors
    /// When another server holds it, or it cannot be used, or others may write to it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        make_dir(path)?;
        let lock_path = path.join(LOCK);
        let file = lock_file(&lock_path)?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, errno)| {
            if errno == Errno::EWOULDBLOCK {
                let mut owner = String::new();
                // The note is for people; without it the message only says less.
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut owner);
                let owner: String = owner.chars().take_while(char::is_ascii_digit).collect();
                let what = format!("another server (process {owner}) uses this directory");
                return StateError::new(
                    path,
                    what,
                    "stop that one, or give this one a directory of its own by --state DIR",
                );
            }
            StateError::io(&lock_path, "lock", &errno.into())
        })?;
        write_note(&mut lock, Path::new("")).map_err(|error| StateError::io(&lock_path, "write", &error))?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Notes where this server answers, for [`control_socket`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_socket(&mut self, socket: &Path) -> Result<(), StateError> {
        let written = std::path::absolute(socket).and_then(|socket| write_note(&mut self.lock, &socket));
        written.map_err(|error| StateError::io(&self.path.join(LOCK), "write", &error))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// `/var/lib/hublane` for root, else `$XDG_STATE_HOME/hublane` or `~/.local/state/hublane`.
pub fn default_path() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/hublane");
    }
    let home = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    home.unwrap_or_else(|| PathBuf::from(".")).join("hublane")
}

/// Socket of a server that uses `state`, unless it is told otherwise.
pub fn default_control_socket(state: &Path) -> PathBuf {
    state.join("control.sock")
}

/// Socket of the server that uses `state`, as it noted, or of the one that did so last.
pub fn control_socket(state: &Path) -> PathBuf {
    let note = std::fs::read(state.join(LOCK)).unwrap_or_default();
    match note.split(|byte| *byte == b'\n').nth(1) {
        None | Some([]) => default_control_socket(state),
        Some(socket) => PathBuf::from(OsStr::from_bytes(socket)),
    }
}

/// A line for people, a line for [`control_socket`].
fn write_note(lock: &mut File, socket: &Path) -> std::io::Result<()> {
    let process = format!("{}\n", std::process::id());
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(&[process.as_bytes(), socket.as_os_str().as_bytes(), b"\n"].concat())
}

/// Makes `path` (mode 0700) with its parents if it is not there; refuses one that others may write to.
fn make_dir(path: &Path) -> Result<(), StateError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| StateError::io(path, "make the directory", &error))?;
    let meta = path.metadata().map_err(|error| StateError::io(path, "look at the directory", &error))?;
    if meta.mode() & 0o022 != 0 {
        let what = format!("others may write here (mode {:04o})", meta.mode() & 0o7777);
        return Err(StateError::new(path, what, format!("chmod 700 {}", path.display())));
    }
    Ok(())
}

fn lock_file(path: &Path) -> Result<File, StateError> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.map_err(|error| StateError::io(path, "open", &error))
}

/// File that whoever uses the directory holds locked.
const LOCK: &str = "lock";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn two_servers_cannot_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = StateDir::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        let error = StateDir::open(&path).unwrap_err();
        assert!(error.what.contains(&format!("another server (process {})", std::process::id())), "{error}");
        assert!(error.hint.contains("--state"), "{error}");
        drop(first);
        assert_eq!(StateDir::open(&path).unwrap().path(), path);
    }

    #[test]
    fn a_socket_elsewhere_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("7");
        assert_eq!(control_socket(&path), path.join("control.sock"));
        let mut state = StateDir::open(&path).unwrap();
        assert_eq!(control_socket(&path), path.join("control.sock"));
        state.note_socket(Path::new("/run/x 1.sock")).unwrap();
        assert_eq!(control_socket(&path), Path::new("/run/x 1.sock"));
        let error = StateDir::open(&path).unwrap_err();
        assert!(error.what.contains(&format!("another server (process {})", std::process::id())), "{error}");
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = StateDir::open(dir.path()).unwrap_err();
        assert!(error.what.contains("mode 0777") && error.hint.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_file_in_the_way_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(StateDir::open(file.path()).unwrap_err().what.starts_with("cannot make the directory"));
    }
}
