//! Where the password comes from: a file, the environment, or a person. Never the command line, which everybody sees.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::args::ConnectArgs;
use crate::client::via::secret::USER_VARIABLE as VARIABLE;
use crate::control::state::accounts::PASSWORD_BYTES_MAX;
use crate::control::state::files::PRIVATE;

/// The password; the text of an error says what to do.
///
/// # Errors
/// If there is none, or it is in a file that others may read.
pub(super) fn password(args: &ConnectArgs) -> Result<Zeroizing<String>, String> {
    let password = match (&args.password_file, std::env::var(VARIABLE)) {
        (Some(file), _) => of_file(file)?,
        (None, Ok(password)) => Zeroizing::new(password),
        (None, Err(_)) => asked(args)?,
    };
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(format!("a password has at most {PASSWORD_BYTES_MAX} bytes"));
    }
    Ok(password)
}

fn of_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let line = first_line(&mut BufReader::new(private_file(path)?));
    line.map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}

/// A file with a secret; the text of an error says what to do.
///
/// # Errors
/// If it cannot be opened, or others may read it.
pub(super) fn private_file(path: &Path) -> Result<File, String> {
    let failed = |error: io::Error| format!("{}: cannot be read: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    // What is no file, such as a pipe of a password manager, is seen by nobody else.
    if meta.is_file() && meta.mode() & PRIVATE != 0 {
        return Err(format!("{0}: others may read it; `chmod 600 {0}`", path.display()));
    }
    Ok(file)
}

fn asked(args: &ConnectArgs) -> Result<Zeroizing<String>, String> {
    let (input, mut out) = (io::stdin(), io::stderr());
    if !input.is_terminal() {
        return Err(format!("no password: give --password-file FILE or {VARIABLE}, or start this on a terminal"));
    }
    let failed = |error: io::Error| format!("cannot ask for the password: {error}");
    let _ = write!(out, "Password of {} in hub {} of {}: ", args.user, args.hub, args.server);
    let before = tcgetattr(&input).map_err(|error| failed(error.into()))?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&input, SetArg::TCSAFLUSH, &silent).map_err(|error| failed(error.into()))?;
    let line = first_line(&mut input.lock());
    // What was typed stays typed; the terminal must echo again in any case.
    let _ = tcsetattr(&input, SetArg::TCSAFLUSH, &before);
    let _ = writeln!(out);
    line.map_err(failed)
}

fn first_line(input: &mut impl BufRead) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::with_capacity(PASSWORD_BYTES_MAX + 3));
    input.take(PASSWORD_BYTES_MAX as u64 + 3).read_line(&mut line)?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "pass word\r\nnext\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(of_file(&file).unwrap_err().contains("chmod 600"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(*of_file(&file).unwrap(), "pass word");
        assert!(of_file(&dir.path().join("none")).unwrap_err().contains("none"));
    }
}
