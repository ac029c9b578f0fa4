//! Where the password of a proxy's user comes from: the environment, a file, or the person at the terminal. Never the
//! command line, which everybody on the machine can read.
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use thiserror::Error;
use zeroize::Zeroizing;

use super::Via;

/// Name of the variable.
pub const VARIABLE: &str = "HUBLANE_PROXY_PASSWORD";
/// Name of the one with the password of the hub's user.
pub const USER_VARIABLE: &str = "HUBLANE_PASSWORD";

/// Another program, to be started without the passwords that our environment may hold: scripts that it starts in turn
/// could show them.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env_remove(VARIABLE).env_remove(USER_VARIABLE);
    command
}

/// Why there is no password.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("the password file {path} cannot be read: {error}")]
    File {
        /// Its path.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The file is empty.
    #[error("the password file {0} has no password in its first line")]
    Empty(PathBuf),
    /// The terminal failed.
    #[error("the password cannot be asked for: {0}")]
    Terminal(io::Error),
}

impl Via {
    /// Sets the password if one is needed: from `file`, else from [`VARIABLE`], else, if somebody sits at the
    /// terminal, as he types it. Without any of these it stays away, and the proxy's answer says whether it was
    /// needed.
    ///
    /// # Errors
    /// If there is something wrong with the file or the terminal.
    pub fn find_password(&mut self, file: Option<&Path>) -> Result<(), SecretError> {
        if !self.needs_password() {
            return Ok(());
        }
        if let Some(file) = file {
            self.set_password(from_file(file)?);
        } else if let Some(password) = env::var(VARIABLE).ok().filter(|password| !password.is_empty()) {
            self.set_password(Zeroizing::new(password));
        } else if io::stdin().is_terminal() {
            let asked = ask(&format!("Password for {self}: ")).map_err(SecretError::Terminal)?;
            self.set_password(asked);
        }
        Ok(())
    }
}

/// The first line of `file`.
///
/// # Errors
/// If it cannot be read or is empty.
pub fn from_file(file: &Path) -> Result<Zeroizing<String>, SecretError> {
    let text = fs::read_to_string(file).map_err(|error| SecretError::File { path: file.into(), error })?;
    let text = Zeroizing::new(text);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() { Err(SecretError::Empty(file.into())) } else { Ok(Zeroizing::new(line.to_owned())) }
}

/// Asks at the terminal, without showing what is typed.
///
/// # Errors
/// If there is no terminal, or it fails.
pub fn ask(question: &str) -> io::Result<Zeroizing<String>> {
    let terminal = File::options().read(true).write(true).open("/dev/tty")?;
    (&terminal).write_all(question.as_bytes())?;
    let was = tcgetattr(&terminal)?;
    let _quiet = Quiet::new(&terminal, was)?;
    let mut line = Zeroizing::new(String::new());
    BufReader::new(&terminal).read_line(&mut line)?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Quiet<'a> {
    terminal: &'a File,
    was: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a File, was: Termios) -> io::Result<Self> {
        let mut quiet = was.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(terminal, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { terminal, was })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // Were it to fail, nobody could be told better than by the terminal itself.
        let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.was);
        let _ = self.terminal.write_all(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_do_not_get_passwords() {
        let command = program("ssh");
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert_eq!(removed, ["HUBLANE_PASSWORD", "HUBLANE_PROXY_PASSWORD"]);
    }

    #[test]
    fn a_file_gives_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "geheim \r\nmore\n").unwrap();
        let mut via: Via = "http://me@proxy:1".parse().unwrap();
        via.find_password(Some(&file)).unwrap();
        let Via::Http(proxy) = &via else { panic!("http") };
        assert_eq!(proxy.password.as_ref().map(|password| password.as_str()), Some("geheim "));
        fs::write(&file, "\n").unwrap();
        assert!(matches!(from_file(&file), Err(SecretError::Empty(_))));
        assert!(matches!(from_file(&dir.path().join("none")), Err(SecretError::File { .. })));
        // No password is looked for where there is none: this file would be an error.
        let mut direct = Via::Direct;
        direct.find_password(Some(&dir.path().join("none"))).unwrap();
    }
}
