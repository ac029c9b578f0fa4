//! The system's DHCP client, run for the device: which one there is, how it is started and ended.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys::signals::end_with_us;

/// A client that runs.
pub(super) struct DhcpClient {
    kind: Kind,
    program: PathBuf,
    device: String,
    child: Child,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dhclient,
    Udhcpc,
    Dhcpcd,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Dhclient, Self::Udhcpc, Self::Dhcpcd];

    fn name(self) -> &'static str {
        match self {
            Self::Dhclient => "dhclient",
            Self::Udhcpc => "udhcpc",
            Self::Dhcpcd => "dhcpcd",
        }
    }

    /// In the foreground, IPv4, giving the address back at the end.
    fn start(self, device: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Dhclient => &["-4", "-d", "-q", "-pf"],
            Self::Udhcpc => &["-f", "-R", "-i"],
            Self::Dhcpcd => &["-4", "-B"],
        };
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        if self == Self::Dhclient {
            words.push(pid_file(device));
        }
        words.push(device.to_owned());
        words
    }
}

/// Not the one of a dhclient that the system itself runs.
fn pid_file(device: &str) -> String {
    format!("/run/hublane-dhclient-{device}.pid")
}

/// Which client the system has; the text of the error says what to do.
///
/// # Errors
/// If it has none.
pub(super) fn find() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/sbin", "/usr/sbin"].map(PathBuf::from));
    let folders: Vec<_> = folders.collect();
    let found = Kind::ALL.iter().find_map(|kind| folders.iter().map(|f| f.join(kind.name())).find(|p| p.is_file()));
    found.ok_or_else(|| "--dhcp needs dhclient, udhcpc or dhcpcd, and none of them is installed".to_owned())
}

impl DhcpClient {
    /// Starts `program`, as [`find`] found it, for `device`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(program: &Path, device: &str) -> io::Result<Self> {
        let name = program.file_name().unwrap_or_default();
        let kind = Kind::ALL.into_iter().find(|kind| name == kind.name()).ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(program);
        command.args(kind.start(device)).stdin(Stdio::null()).stdout(Stdio::null());
        // Of a run before that has crashed: its number may be somebody else's.
        let _ = std::fs::remove_file(pid_file(device));
        end_with_us(&mut command);
        let child = command.spawn()?;
        Ok(Self { kind, program: program.to_owned(), device: device.to_owned(), child })
    }

    /// Asks it to give the address back and to end. The card must go on carrying frames until [`Self::has_ended`].
    pub(super) fn ask_to_end(&mut self) {
        if self.kind == Kind::Dhclient {
            let (pid_file, device) = (pid_file(&self.device), &self.device);
            let mut command = Command::new(&self.program);
            command.args(["-4", "-r", "-q", "-pf", &pid_file, device]).stdin(Stdio::null()).stdout(Stdio::null());
            end_with_us(&mut command);
            // It ends the one before; this one is the child then.
            if let Ok(mut other) = command.spawn() {
                std::mem::swap(&mut self.child, &mut other);
                // Reaped by whoever reaps ours.
                drop(other);
                return;
            }
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for DhcpClient {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_the_device() {
        for kind in Kind::ALL {
            let words = kind.start("hub0");
            assert_eq!(words.last().map(String::as_str), Some("hub0"), "{}", kind.name());
        }
    }

    #[test]
    fn one_that_runs_can_be_ended() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("udhcpc");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut client = DhcpClient::start(&program, "hub0").unwrap();
        assert!(!client.has_ended());
        client.ask_to_end();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !client.has_ended() {
            assert!(std::time::Instant::now() < end);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(DhcpClient::start(Path::new("/bin/sh"), "hub0").is_err());
    }
}
