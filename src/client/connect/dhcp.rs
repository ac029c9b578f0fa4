//! The system's DHCP client, run for the device: which one there is, how it is started and ended.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::via::secret;
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

    /// In the foreground, IPv4, giving the address back at the end; dhcpcd does that by another signal.
    fn start(self, device: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Dhclient => &["-4", "-d", "-q"],
            Self::Udhcpc => &["-f", "-R", "-i"],
            Self::Dhcpcd => &["-4", "-B"],
        };
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        if self == Self::Dhclient {
            words.extend(files_of(device).options());
        }
        words.push(device.to_owned());
        words
    }

    /// The signal by which it gives the address back and ends.
    fn end(self) -> Signal {
        match self {
            // What `dhcpcd --release` sends; at SIGTERM it keeps the address.
            Self::Dhcpcd => Signal::SIGALRM,
            Self::Dhclient | Self::Udhcpc => Signal::SIGTERM,
        }
    }
}

/// What a dhclient writes beside name servers.
struct Files {
    process: String,
    leases: String,
}

impl Files {
    fn options(self) -> [String; 4] {
        ["-pf".into(), self.process, "-lf".into(), self.leases]
    }

    /// None is left: neither of ours, nor of a process with our number that has crashed.
    fn remove(&self) {
        for file in [&self.process, &self.leases] {
            // If it is not there, all is well.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Not those of a dhclient that the system itself runs, nor of a card with the same device in another network namespace:
/// one would end the other. AppArmor lets it write nothing but /run/dhclient*.pid and dhclient* where its leases are.
fn files_of(device: &str) -> Files {
    let me = std::process::id();
    let folder = ["/var/lib/dhcp", "/var/lib/dhclient"].into_iter().find(|folder| Path::new(folder).is_dir());
    Files {
        process: format!("/run/dhclient-hublane-{device}-{me}.pid"),
        leases: format!("{}/dhclient-hublane-{device}-{me}.leases", folder.unwrap_or("/run")),
    }
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
        let mut command = secret::program(program);
        command.args(kind.start(device)).stdin(Stdio::null()).stdout(Stdio::null());
        files_of(device).remove();
        end_with_us(&mut command);
        let child = command.spawn()?;
        Ok(Self { kind, program: program.to_owned(), device: device.to_owned(), child })
    }

    /// Asks it to give the address back and to end. The card must go on carrying frames until [`Self::has_ended`].
    pub(super) fn ask_to_end(&mut self) {
        if self.kind == Kind::Dhclient {
            let mut command = secret::program(&self.program);
            command.args(["-4", "-r", "-q"]).args(files_of(&self.device).options()).arg(&self.device);
            command.stdin(Stdio::null()).stdout(Stdio::null());
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
            let _ = kill(Pid::from_raw(pid), self.kind.end());
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
        if self.kind == Kind::Dhclient {
            files_of(&self.device).remove();
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

    /// Processes with a device of the same name may live in other namespaces, with the same /run.
    #[test]
    fn no_two_processes_share_files() {
        let words = Kind::Dhclient.start("hub0");
        let after = |option| words.iter().skip_while(|word| *word != option).nth(1).unwrap().clone();
        let me = format!("-hub0-{}.", std::process::id());
        for option in ["-pf", "-lf"] {
            assert!(after(option).contains(&me), "{words:?}");
        }
        assert_ne!(after("-pf"), after("-lf"));
    }

    #[test]
    fn each_gives_the_address_back() {
        let dir = tempfile::tempdir().unwrap();
        for (name, signal) in [("udhcpc", "TERM"), ("dhcpcd", "ALRM")] {
            let (program, said) = (dir.path().join(name), dir.path().join("said"));
            let script = format!(
                "#!/bin/sh\ntrap 'echo {signal} >{0}; exit' {signal}\n: >{0}\nwhile :; do sleep 0.01; done\n",
                said.display()
            );
            std::fs::write(&program, script).unwrap();
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let mut client = DhcpClient::start(&program, "hub0").unwrap();
            let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
            let wait = || {
                assert!(std::time::Instant::now() < end);
                std::thread::sleep(std::time::Duration::from_millis(10));
            };
            while !said.exists() {
                wait();
            }
            client.ask_to_end();
            while !client.has_ended() {
                wait();
            }
            assert_eq!(std::fs::read_to_string(&said).unwrap().trim(), signal);
            std::fs::remove_file(&said).unwrap();
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
