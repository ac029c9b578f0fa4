//! The asking side: one question, one answer, shown as tables or as JSON.
#![forbid(unsafe_code)]

mod router;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::table::{Align, Table, age, bytes, count, plain};
use super::{ANSWER_BYTES_MAX, Answer, MacRow, Request, SessionRow, StatusView};

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("no server answers at {}\n  hint: start it, or name its socket by --control-socket PATH", .0.display())]
    NoServer(PathBuf),
    /// The socket belongs to somebody else.
    #[error("{} may only be used by the user who runs the server\n  hint: run this command as that user or as root", .0.display())]
    NotAllowed(PathBuf),
    /// The connection failed.
    #[error("{}: {error}", .path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The answer is not one.
    #[error("{} answered something else than this program understands: {error}\n  hint: use the program of the same version", .path.display())]
    NotUnderstood {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

/// Asks the server whose socket is `path`.
///
/// # Errors
/// When nobody answers, or not in a form we know.
pub fn ask(path: &Path, request: &Request) -> Result<Answer, AskError> {
    let line = exchange(path, request).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NoServer(path.to_owned()),
        io::ErrorKind::PermissionDenied => AskError::NotAllowed(path.to_owned()),
        _ => AskError::Failed { path: path.to_owned(), error },
    })?;
    serde_json::from_slice(&line).map_err(|error| AskError::NotUnderstood { path: path.to_owned(), error })
}

fn exchange(path: &Path, request: &Request) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request).expect("questions are plain data");
    line.push(b'\n');
    stream.write_all(&line)?;
    line.clear();
    BufReader::new(stream).take(ANSWER_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server hung up before the end of its answer"));
    }
    Ok(line)
}

/// `answer` as JSON for programs.
pub fn json(answer: &Answer) -> String {
    let mut text = match answer {
        Answer::Sessions { rows } => serde_json::to_string_pretty(rows),
        Answer::Macs { rows } => serde_json::to_string_pretty(rows),
        Answer::Status(status) => serde_json::to_string_pretty(status),
        Answer::Leases { rows } => serde_json::to_string_pretty(rows),
        Answer::Mappings { rows, .. } => serde_json::to_string_pretty(rows),
        Answer::NatStats { rows } => serde_json::to_string_pretty(rows),
        Answer::Explained(view) => serde_json::to_string_pretty(view),
        Answer::Done { .. } | Answer::Error { .. } => serde_json::to_string_pretty(answer),
    }
    .expect("answers are plain data");
    text.push('\n');
    text
}

/// `answer` as text for people. `now_unix_s` is the wall clock's time, for ages.
pub fn text(answer: &Answer, now_unix_s: u64) -> String {
    match answer {
        Answer::Status(view) => status(view),
        Answer::Sessions { rows } => sessions(rows, now_unix_s),
        Answer::Macs { rows } => macs(rows),
        Answer::Leases { rows } => router::leases(rows),
        Answer::Mappings { rows, more } => router::mappings(rows, *more),
        Answer::NatStats { rows } => router::nat_stats(rows),
        Answer::Explained(view) => router::explained(view),
        Answer::Done { message } | Answer::Error { message } => format!("{}\n", plain(message)),
    }
}

fn sessions(rows: &[SessionRow], now_unix_s: u64) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("SESSION", Left),
        ("HUB", Left),
        ("USER", Left),
        ("FROM", Left),
        ("CONNS", Right),
        ("WORKER", Right),
        ("AGE", Right),
        ("IN", Right),
        ("OUT", Right),
        ("MACS", Right),
        ("QUEUE", Right),
        ("TLS", Left),
        ("CLIENT", Left),
    ]);
    for row in rows {
        let from = match row.address.contains(':') {
            true => format!("[{}]:{}", row.address, row.port),
            false => format!("{}:{}", row.address, row.port),
        };
        table.row([
            row.name.clone(),
            row.hub.clone(),
            row.user.clone(),
            from,
            row.connections.to_string(),
            row.worker.to_string(),
            age(now_unix_s.saturating_sub(row.since_unix_s)),
            bytes(row.bytes_in),
            bytes(row.bytes_out),
            row.macs.to_string(),
            row.queue.to_string(),
            row.suite.clone(),
            row.client.clone(),
        ]);
    }
    table.text() + &total(rows.len(), "session", "sessions")
}

fn macs(rows: &[MacRow]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("HUB", Left),
        ("MAC", Left),
        ("VLAN", Right),
        ("SESSION", Left),
        ("WORKER", Right),
        ("AGE", Right),
    ]);
    for row in rows {
        let vlan = if row.vlan == 0 { "-".to_owned() } else { row.vlan.to_string() };
        let (hub, mac, session) = (row.hub.clone(), row.mac.clone(), row.session.clone());
        table.row([hub, mac, vlan, session, row.worker.to_string(), age(row.age_s)]);
    }
    table.text() + &total(rows.len(), "address", "addresses")
}

fn total(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}\n", if n == 1 { one } else { many })
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn status(view: &StatusView) -> String {
    let mut text = format!("hublane {}, up {}, {}\n", plain(&view.version), age(view.uptime_s), plain(&view.back_end));
    if !view.features.is_empty() {
        text += &format!("kernel features: {}\n", plain(&view.features.join(" ")));
    }
    text += "\n";
    text += &hubs(view);
    text += &router::gateways(view);
    text += "\n";
    text += &workers(view);
    for (title, counts) in [("DROPPED", &view.drops), ("CLOSED", &view.closes), ("COUNTER", &view.counters)] {
        let mut table = Table::new(&[(title, Align::Left), ("COUNT", Align::Right)]);
        for (name, n) in counts.iter().filter(|(_, n)| **n != 0) {
            table.row([name.clone(), count(*n)]);
        }
        if !table.is_empty() {
            text += "\n";
            text += &table.text();
        }
    }
    text
}

fn hubs(view: &StatusView) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[("HUB", Left), ("PROFILE", Left), ("SESSIONS", Right), ("MACS", Right)]);
    for hub in &view.hubs {
        table.row([hub.name.clone(), hub.profile.clone(), count(hub.sessions), count(hub.macs)]);
    }
    table.text()
}

fn workers(view: &StatusView) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("WORKER", Right),
        ("CPU", Right),
        ("BACK END", Left),
        ("PORTS", Right),
        ("CONNS", Right),
        ("FRAMES", Right),
        ("BYTES", Right),
        ("TURNS", Right),
        ("CPU TIME", Right),
    ]);
    for (number, worker) in view.workers.iter().enumerate() {
        table.row([
            number.to_string(),
            worker.cpu.to_string(),
            worker.back_end.clone(),
            count(worker.ports),
            count(worker.conns),
            count(worker.frames),
            bytes(worker.bytes),
            count(worker.turns),
            format!("{}.{:03} s", worker.cpu_ms / 1000, worker.cpu_ms % 1000),
        ]);
    }
    table.text()
}

/// The server answers within its own deadlines for arriving, finding and sending; and some.
const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::super::{HubView, WorkerView};
    use super::*;

    fn session() -> SessionRow {
        SessionRow {
            name: "SID-ALICE-1".into(),
            hub: "PUBLIC".into(),
            user: "alice".into(),
            address: "2001:db8::1".into(),
            port: 7,
            connections: 2,
            since_unix_s: 1000,
            bytes_in: 1_500_000,
            client: "VPN\u{1b}[2J\nClient".into(),
            ..SessionRow::default()
        }
    }

    #[test]
    fn sessions_stand_in_columns_and_names_are_cleaned() {
        let mut second = session();
        second.name = "SID-BOB-10000".into();
        second.address = "192.0.2.1".into();
        let text = text(&Answer::Sessions { rows: vec![session(), second] }, 1000 + 3_700);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[3], "2 sessions");
        let column = lines[0].find("HUB").unwrap();
        assert!(lines[1..3].iter().all(|line| line[column..].starts_with("PUBLIC")), "{text}");
        assert!(lines[1].contains("[2001:db8::1]:7") && lines[2].contains("192.0.2.1:7"), "{text}");
        assert!(lines[1].contains("1h 01m") && lines[1].contains("1.5 MB"), "{text}");
        assert!(!text.contains('\u{1b}') && text.contains(r"VPN\u{1b}[2J\nClient"), "{text}");
    }

    #[test]
    fn status_and_macs() {
        let row = MacRow { hub: "H".into(), mac: "02:00:00:00:00:01".into(), age_s: 5, ..MacRow::default() };
        let shown = text(&Answer::Macs { rows: vec![row] }, 0);
        assert!(shown.contains("02:00:00:00:00:01") && shown.ends_with("1 address\n"), "{shown}");
        let view = StatusView {
            version: "0.1.0".into(),
            uptime_s: 90_061,
            back_end: "epoll".into(),
            features: vec!["bundles".into()],
            workers: vec![WorkerView { cpu: 3, cpu_ms: 1_234, frames: 12_345, ..WorkerView::default() }],
            hubs: vec![HubView {
                name: "PUBLIC".into(),
                profile: "public".into(),
                sessions: 2,
                macs: 3,
                gateway: None,
            }],
            drops: [("hub_storm".to_owned(), 7), ("hub_vlan".to_owned(), 0)].into(),
            ..StatusView::default()
        };
        let shown = text(&Answer::Status(Box::new(view)), 0);
        assert!(shown.starts_with("hublane 0.1.0, up 1d 01h, epoll\nkernel features: bundles\n"), "{shown}");
        for want in ["PUBLIC  public", "1.234 s", "12,345", "hub_storm"] {
            assert!(shown.contains(want), "{want}\n{shown}");
        }
        assert!(!shown.contains("hub_vlan") && !shown.contains("CLOSED"), "{shown}");
    }

    #[test]
    fn json_is_what_the_server_said() {
        let text = json(&Answer::Sessions { rows: vec![session()] });
        assert_eq!(serde_json::from_str::<Vec<SessionRow>>(&text).unwrap(), [session()]);
        assert!(json(&Answer::error("no")).contains("\"message\": \"no\""));
    }

    #[test]
    fn no_server_is_told_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(matches!(ask(&path, &Request::Status {}), Err(AskError::NoServer(_))));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            for reply in ["{\"answer\":\"x\"}\n", "{\"answer\""] {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(&stream).read_line(&mut String::new()).unwrap();
                stream.write_all(reply.as_bytes()).unwrap();
            }
        });
        assert!(matches!(ask(&path, &Request::Status {}), Err(AskError::NotUnderstood { .. })));
        assert!(matches!(ask(&path, &Request::Status {}), Err(AskError::Failed { .. })));
        server.join().unwrap();
        assert!(ask(&path, &Request::Status {}).unwrap_err().to_string().contains("--control-socket"));
    }
}
