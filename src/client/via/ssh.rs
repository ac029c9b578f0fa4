//! Through an SSH server, by this system's `ssh -W`: its configuration, agent and known hosts count, as do connections
//! that it already shares (`ControlMaster`).
//!
//! * Its standard input and output are one end of a socket pair; the other end is the way to the server.
//! * It asks nobody anything (`BatchMode`): what needs an answer is an error, with `ssh`'s own words.
//! * Whether the server could be reached from there, only `ssh`'s second level of diagnosis tells. It is read as long
//!   as the way lasts, and all but the words meant for people is thrown away.
//! * It is in a process group of its own, so that an interrupt at the terminal ends us first, in good order. If we
//!   die without a word, its standard input ends, and so does it.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::stream::Stream;
use super::{Deadline, SshHost, Target, ViaError, secret};

/// The `ssh` that carries a way; dropping it ends it.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    /// Our end of its standard error. A process that it has left behind (`ControlPersist`) may hold the other end for
    /// ever.
    errors: UnixStream,
    said: Arc<Mutex<Said>>,
}

impl Helper {
    /// What `ssh` has written for people so far; tells why a way has ended.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).text()
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_some())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Fails only if it has ended already; it is waited for in any case, so that no zombie is left.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Ends the thread that reads.
        let _ = self.errors.shutdown(Shutdown::Both);
    }
}

/// Opens the way.
///
/// # Errors
/// If there is no `ssh`, or it does not reach the server.
pub fn forward(host: &SshHost, target: &Target, deadline: &Deadline) -> Result<(Stream, Helper), ViaError> {
    forward_by(&["ssh"], host, target, deadline)
}

/// As [`forward`], with the program to start and words before all others.
fn forward_by(
    program: &[&str],
    host: &SshHost,
    target: &Target,
    deadline: &Deadline,
) -> Result<(Stream, Helper), ViaError> {
    let (ours, theirs) = UnixStream::pair().map_err(ViaError::Socket)?;
    let (errors, their_errors) = UnixStream::pair().map_err(ViaError::Socket)?;
    let their_input = theirs.try_clone().map_err(ViaError::Socket)?;
    let reader = errors.try_clone().map_err(ViaError::Socket)?;
    let mut command = secret::program(program[0]);
    command.args(&program[1..]).args(arguments(host, target, deadline.whole())).process_group(0);
    command.stdin(OwnedFd::from(their_input)).stdout(OwnedFd::from(theirs)).stderr(OwnedFd::from(their_errors));
    let child = command.spawn().map_err(|error| ViaError::SshMissing { error })?;
    // Holds copies of the other ends: as long as it lives, nothing would ever end.
    drop(command);
    let said = Arc::new(Mutex::new(Said::default()));
    let mut helper = Helper { child, errors, said: Arc::clone(&said) };
    let (tell, told) = mpsc::channel();
    let thread = thread::Builder::new().name("ssh".into()).spawn(move || listen(reader, &said, &tell));
    thread.map_err(ViaError::Socket)?;
    let fails = |helper: &Helper, sign: Sign| {
        let (host, target, said) = (host.to_string(), target.text(), helper.said());
        match sign {
            Sign::Ended => ViaError::SshFailed { host, target, said: or(said, "it ended without a word") },
            sign => {
                let stage = match sign {
                    Sign::LoggedIn => "logged in there, but no connection to the server came about",
                    _ => "no login there",
                };
                ViaError::SshSilent { host, target, said: or(said, stage), secs: deadline.whole().as_secs_f64() }
            }
        }
    };
    match wait(&mut helper, &told, deadline) {
        Sign::Open => Ok((OwnedFd::from(ours).into(), helper)),
        sign => Err(fails(&helper, sign)),
    }
}

/// How far `ssh` has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Begun,
    LoggedIn,
    Open,
    Ended,
}

/// Waits for a connection or an end, and says which; at the deadline how far it came.
fn wait(helper: &mut Helper, told: &Receiver<Sign>, deadline: &Deadline) -> Sign {
    let mut last = Sign::Begun;
    while let Some(left) = deadline.left() {
        match told.recv_timeout(left.min(LOOK_EVERY)) {
            Ok(sign @ (Sign::Open | Sign::Ended)) => return sign,
            Ok(sign) => last = sign,
            Err(RecvTimeoutError::Disconnected) => return Sign::Ended,
            Err(RecvTimeoutError::Timeout) => {
                // Its standard error may outlive it in other hands.
                if helper.child.try_wait().is_ok_and(|status| status.is_some()) {
                    return Sign::Ended;
                }
            }
        }
    }
    last
}

fn arguments(host: &SshHost, target: &Target, limit: Duration) -> Vec<String> {
    let mut words = vec!["-W".to_owned(), target.text()];
    let mut option = |text: String| words.extend(["-o".to_owned(), text]);
    option("BatchMode=yes".into());
    option("ExitOnForwardFailure=yes".into());
    option(format!("ConnectTimeout={}", limit.as_secs().max(1)));
    option("LogLevel=DEBUG2".into());
    // Neither a command nor forwardings of the user's configuration belong to this way.
    option("ClearAllForwardings=yes".into());
    option("PermitLocalCommand=no".into());
    if let Some(port) = host.port {
        words.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(user) = &host.user {
        words.extend(["-l".to_owned(), user.clone()]);
    }
    words.extend(["--".to_owned(), host.host.clone()]);
    words
}

/// Reads what `ssh` writes until it ends.
fn listen(errors: UnixStream, said: &Mutex<Said>, tell: &Sender<Sign>) {
    let mut errors = BufReader::new(errors);
    let mut line = Vec::new();
    loop {
        line.clear();
        let is_end = (&mut errors).take_line(&mut line);
        if is_end {
            // Nobody may be waiting any more, here and below.
            let _ = tell.send(Sign::Ended);
            return;
        }
        let text = String::from_utf8_lossy(&line);
        match meaning(text.trim()) {
            Meaning::Sign(sign) => drop(tell.send(sign)),
            Meaning::Words(words) => said.lock().unwrap_or_else(PoisonError::into_inner).add(words),
            Meaning::Nothing => {}
        }
    }
}

trait TakeLine {
    /// Reads a line, at most [`LINE_BYTES_MAX`] of it at a time; true at the end.
    fn take_line(self, line: &mut Vec<u8>) -> bool;
}

impl TakeLine for &mut BufReader<UnixStream> {
    fn take_line(self, line: &mut Vec<u8>) -> bool {
        use std::io::Read as _;
        !matches!(self.take(LINE_BYTES_MAX).read_until(b'\n', line), Ok(n) if n > 0)
    }
}

/// What a line of `ssh` means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning<'a> {
    Sign(Sign),
    Words(&'a str),
    Nothing,
}

fn meaning(line: &str) -> Meaning<'_> {
    let is_diagnosis = ["debug1: ", "debug2: ", "debug3: "].iter().any(|level| line.starts_with(level));
    if is_diagnosis && (line.contains("open confirm") || line.contains("master session id")) {
        return Meaning::Sign(Sign::Open);
    }
    if line.starts_with("Authenticated to ") {
        return Meaning::Sign(Sign::LoggedIn);
    }
    let is_empty = line.is_empty() || line.starts_with("OpenSSH_") || line.starts_with("Transferred: ");
    if is_diagnosis || is_empty || line.starts_with("Bytes per second: ") {
        return Meaning::Nothing;
    }
    Meaning::Words(line)
}

/// The last lines for people.
#[derive(Debug, Default)]
struct Said(Vec<String>);

impl Said {
    fn add(&mut self, line: &str) {
        if self.0.len() == SAID_LINES_MAX {
            self.0.remove(0);
        }
        self.0.push(line.chars().filter(|c| !c.is_control()).take(SAID_CHARS_MAX).collect());
    }

    fn text(&self) -> String {
        self.0.join("; ")
    }
}

fn or(text: String, other: &str) -> String {
    if text.is_empty() { other.to_owned() } else { text }
}

/// How often it is looked whether `ssh` is still there.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest line that is looked at as a whole.
const LINE_BYTES_MAX: u64 = 4096;
/// Lines that are kept, and how much of each: a changed host key makes a dozen.
const SAID_LINES_MAX: usize = 16;
const SAID_CHARS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    fn host() -> SshHost {
        SshHost { host: "gate".into(), port: Some(2222), user: Some("me".into()) }
    }

    /// Goes through a program that does what `script` says in place of `ssh`.
    fn through(script: &str, limit: Duration) -> Result<(Stream, Helper), ViaError> {
        let target = Target::new("vpn", 443).unwrap();
        forward_by(&["sh", "-c", script, "ssh"], &host(), &target, &Deadline::after(limit))
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn what_ssh_is_told() {
        let words = arguments(&host(), &Target::new("::1", 443).unwrap(), Duration::from_millis(100)).join(" ");
        assert!(words.starts_with("-W [::1]:443 -o BatchMode=yes -o ExitOnForwardFailure=yes"), "{words}");
        assert!(words.contains("-o ConnectTimeout=1 "), "{words}");
        assert!(words.ends_with("-p 2222 -l me -- gate"), "{words}");
        let bare = SshHost { port: None, user: None, ..host() };
        let words = arguments(&bare, &Target::new("vpn", 443).unwrap(), LONG).join(" ");
        assert!(words.ends_with("PermitLocalCommand=no -- gate"), "{words}");
    }

    #[test]
    fn lines_and_their_meaning() {
        for (line, expected) in [
            ("debug1: Connecting to gate [10.0.0.1] port 22.", Meaning::Nothing),
            ("OpenSSH_9.2p1 Debian-2+deb12u6, OpenSSL 3.0.19", Meaning::Nothing),
            ("Authenticated to gate ([10.0.0.1]:22) using \"publickey\".", Meaning::Sign(Sign::LoggedIn)),
            ("debug2: channel 0: open confirm rwindow 2097152 rmax 32768", Meaning::Sign(Sign::Open)),
            ("debug1: mux_client_request_stdio_fwd: master session id: 2", Meaning::Sign(Sign::Open)),
            ("debug2: channel 0: window 1998848 sent adjust 98304", Meaning::Nothing),
            ("stdio forwarding failed", Meaning::Words("stdio forwarding failed")),
            ("open confirm", Meaning::Words("open confirm")),
        ] {
            assert_eq!(meaning(line), expected);
        }
    }

    #[test]
    fn bytes_go_both_ways_and_no_process_is_left() {
        let script = "echo 'debug2: channel 0: open confirm rwindow 1 rmax 1' >&2; echo 'a warning' >&2; exec cat";
        let (mut socket, helper) = through(script, LONG).unwrap();
        let deadline = Deadline::after(LONG);
        socket.write_all(b"there and back", &deadline).unwrap();
        let mut back = [0; 14];
        assert_eq!(socket.read_all(&mut back, &deadline).unwrap(), 14);
        assert_eq!(&back, b"there and back");
        // Another thread reads it.
        while helper.said().is_empty() {
            assert!(deadline.left().is_some(), "nothing is kept");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(helper.said(), "a warning");
        let process = format!("/proc/{}", helper.pid());
        assert!(Path::new(&process).exists());
        drop(helper);
        assert!(!Path::new(&process).exists(), "still there, perhaps as a zombie");
        assert_eq!(socket.read(&mut back, &deadline).unwrap(), 0, "the way has not ended");
    }

    #[test]
    fn its_own_words_say_why() {
        let refused = "echo 'debug1: x' >&2; echo 'Authenticated to gate ([::1]:22) using \"publickey\".' >&2;
            echo 'channel 0: open failed: connect failed: Connection refused' >&2;
            echo 'stdio forwarding failed' >&2; exit 255";
        let error = through(refused, LONG).unwrap_err();
        assert!(matches!(error, ViaError::SshFailed { .. }), "{error}");
        let said = "ssh to me@gate:2222 did not lead to vpn:443: channel 0: open failed: connect failed: \
            Connection refused; stdio forwarding failed";
        assert!(error.to_string().starts_with(said), "{error}");
        let error = through("exit 255", LONG).unwrap_err().to_string();
        assert!(error.contains("ended without a word"), "{error}");
    }

    #[test]
    fn silence_has_a_limit() {
        let limit = Duration::from_millis(300);
        let error = through("exec sleep 60", limit).unwrap_err().to_string();
        assert!(error.contains("within 0.3 s: no login there"), "{error}");
        let logged_in = "echo 'Authenticated to x' >&2; exec sleep 60";
        let error = through(logged_in, limit).unwrap_err().to_string();
        assert!(error.contains("logged in there, but no connection"), "{error}");
    }

    #[test]
    fn an_end_is_seen_though_others_hold_its_standard_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let began = Instant::now();
        let script = format!("sleep 60 & echo $! >{}; exit 1", file.display());
        let error = through(&script, LONG).unwrap_err();
        assert!(matches!(error, ViaError::SshFailed { .. }) && began.elapsed() < LONG, "{error}");
        let pid = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_missing_program_is_named() {
        let target = Target::new("vpn", 443).unwrap();
        let error = forward_by(&["/no/such/ssh"], &host(), &target, &Deadline::after(LONG)).unwrap_err();
        assert!(matches!(error, ViaError::SshMissing { .. }), "{error}");
        assert!(error.to_string().contains("install OpenSSH"), "{error}");
    }

    #[test]
    fn what_it_says_is_bounded() {
        let mut said = Said::default();
        (0..100).for_each(|n| said.add(&format!("{n}{}", "x".repeat(1000))));
        assert!(said.text().len() <= SAID_LINES_MAX * (SAID_CHARS_MAX + 2));
        assert!(said.text().starts_with("84x"));
        let (mut peer, ours) = UnixStream::pair().unwrap();
        peer.write_all(&[b'x'; 3 * 4096]).unwrap();
        drop(peer);
        let mut reader = BufReader::new(ours);
        let mut line = Vec::new();
        assert!(!(&mut reader).take_line(&mut line));
        assert_eq!(line.len(), 4096);
        reader.read_to_end(&mut line).unwrap();
    }
}
