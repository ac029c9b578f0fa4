//! What `hublane connect` says: on a terminal sentences and a line that shows the state, otherwise a line of JSON for each
//! event; to systemd that it is ready.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// See the module text.
pub(super) struct Reporter {
    /// Sentences, not JSON.
    sentences: bool,
    /// A line of state stands there and has to be overwritten.
    shown: bool,
}

impl Reporter {
    /// JSON if standard output is no terminal, or wanted so.
    pub(super) fn new(json: bool) -> Self {
        Self { sentences: !json && io::stdout().is_terminal(), shown: false }
    }

    /// Something has happened: its name and `fields` for programs, `sentence` for people.
    pub(super) fn tell(&mut self, event: &str, fields: Value, sentence: &str) {
        let line = if self.sentences { sentence.to_owned() } else { line(event, fields, OffsetDateTime::now_utc()) };
        let clear = if std::mem::take(&mut self.shown) { CLEAR } else { "" };
        print(&format!("{clear}{line}\n"));
    }

    /// Shows the state, on a terminal only.
    pub(super) fn state(&mut self, state: &str) {
        if self.sentences {
            self.shown = true;
            print(&state_line(state));
        }
    }

    /// Leaves the last line of state to be read.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            print("\n");
        }
    }

    /// Whether [`Self::state`] shows anything.
    pub(super) fn shows_state(&self) -> bool {
        self.sentences
    }
}

/// Standard output may be a closed pipe; the card works all the same.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn line(event: &str, fields: Value, now: OffsetDateTime) -> String {
    let mut all = Map::new();
    all.insert("event".into(), json!(event));
    all.insert("time".into(), json!(now.format(&Rfc3339).unwrap_or_default()));
    if let Value::Object(fields) = fields {
        all.extend(fields);
    }
    Value::Object(all).to_string()
}

/// Tells the service manager, if there is one that wants to hear (sd_notify(3)).
pub(super) fn notify(message: &str) {
    if let Some(address) = std::env::var_os("NOTIFY_SOCKET") {
        // Who does not listen will not miss it.
        let _ = send(&address, message);
    }
}

fn send(address: &OsStr, message: &str) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(|_| ())
}

/// The line in place of the one before. On a terminal that is too narrow it is cut off by the terminal itself (DECAWM off):
/// of a line that was wrapped, only the last row would be overwritten. All that is cut off passes through the last column:
/// the space at the end stays there.
fn state_line(state: &str) -> String {
    format!("{CLEAR}\x1b[?7l{state} \x1b[?7h")
}

/// Back to the left, and nothing behind.
const CLEAR: &str = "\r\x1b[K";

/// A rate of `bytes` a second for people.
pub(super) fn rate(bytes: u64) -> String {
    match bytes.saturating_mul(8) {
        bits @ 0..1_000_000 => format!("{} kbit/s", bits / 1_000),
        bits @ 1_000_000..10_000_000_000 => format!("{}.{} Mbit/s", bits / 1_000_000, bits / 100_000 % 10),
        bits => format!("{}.{} Gbit/s", bits / 1_000_000_000, bits / 100_000_000 % 10),
    }
}

/// A span of `secs` seconds for people.
pub(super) fn span(secs: u64) -> String {
    match (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60, secs % 60) {
        (0, hours, minutes, secs) => format!("{hours}:{minutes:02}:{secs:02}"),
        (days, hours, minutes, _) => format!("{days} d {hours}:{minutes:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json() {
        let text = line("lost", json!({"reason": "a \"b\"\n"}), OffsetDateTime::UNIX_EPOCH);
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back, json!({"event": "lost", "time": "1970-01-01T00:00:00Z", "reason": "a \"b\"\n"}));
        assert!(!text.contains('\n'));
    }

    #[test]
    fn a_line_of_state_takes_one_row() {
        let line = state_line("up");
        assert!(line.starts_with("\r\x1b[K\x1b[?7l"), "{line:?}");
        assert!(line.ends_with("up \x1b[?7h") && !line.contains('\n'), "{line:?}");
    }

    #[test]
    fn rates_and_spans() {
        for (bytes, want) in
            [(0, "0 kbit/s"), (12_500, "100 kbit/s"), (11_812_500, "94.5 Mbit/s"), (1_875_000_000, "15.0 Gbit/s")]
        {
            assert_eq!(rate(bytes), want);
        }
        for (secs, want) in [(0, "0:00:00"), (3_725, "1:02:05"), (90_061, "1 d 1:01")] {
            assert_eq!(span(secs), want);
        }
    }

    #[test]
    fn a_service_manager_hears() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        let abstract_name = format!("@hublane-test-{}", std::process::id());
        let other = SocketAddr::from_abstract_name(&abstract_name.as_bytes()[1..]).unwrap();
        let other = UnixDatagram::bind_addr(&other).unwrap();
        send(OsStr::new(&abstract_name), "READY=2").unwrap();
        let mut room = [0; 16];
        for (socket, want) in [(socket, &b"READY=1"[..]), (other, b"READY=2")] {
            let len = socket.recv(&mut room).unwrap();
            assert_eq!(&room[..len], want);
        }
    }
}
