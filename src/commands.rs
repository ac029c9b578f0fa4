//! Every command but `serve`: short-lived, on one thread, without any part of the server.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::cli::{
    AskArgs, BlockArgs, Command, ConfigCommand, DhcpCommand, DoctorArgs, MacCommand, NatCommand, PasswordArgs,
    SessionCommand, UserArgs, UserCommand,
};
use crate::config::problem::ConfigError;
use crate::config::raw::RawServer;
use crate::config::{Config, DEFAULT_HUB};
use crate::control::admin::client::{self, AskError};
use crate::control::admin::router::{NatEndpoint, NatWanted};
use crate::control::admin::table::{Align, Table};
use crate::control::admin::{Answer, Request};
use crate::control::auth::certificate::fingerprint_of_file;
use crate::control::state::accounts::{AccountStore, PASSWORD_BYTES_MAX};
use crate::control::state::{self, StateError, secrets};
use crate::doctor;
use crate::doctor::reach::Asked;
use crate::metrics::closes::CloseReason;
use crate::metrics::drops::DropReason;
use crate::server::capacity::{Capacity, capacities};

/// Why a command failed. Its text has a hint.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory is wrong.
    #[error(transparent)]
    State(#[from] StateError),
    /// No answer from a server.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The server said no.
    #[error("{0}")]
    Refused(String),
    /// Standard input or output failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs `command`. Does nothing for `serve` and `connect`, which are not
/// for here.
///
/// # Errors
/// As the command has it; the caller prints it and exits with 1.
pub fn run(command: &Command, input: &mut dyn BufRead, out: &mut dyn Write) -> Result<(), CommandError> {
    match command {
        Command::Serve(_) | Command::Connect(_) => {}
        Command::User(args) => user(args, input, out)?,
        Command::Status(args) => ask(args, &Request::Status {}, out)?,
        Command::Session(SessionCommand::List(list)) => {
            ask(&list.ask, &Request::SessionList { hub: list.hub.clone() }, out)?;
        }
        Command::Session(SessionCommand::Kick { name, ask: args }) => {
            ask(args, &Request::SessionKick { name: name.clone() }, out)?;
        }
        Command::Mac(MacCommand::List(list)) => ask(&list.ask, &Request::MacList { hub: list.hub.clone() }, out)?,
        Command::Dhcp(command) => dhcp(command, out)?,
        Command::Nat(command) => nat(command, out)?,
        Command::Config(ConfigCommand::Check { file }) => check(file, out)?,
        Command::Drops => out.write_all(reasons().as_bytes())?,
        Command::Doctor(args) => examine(args, out)?,
    }
    Ok(())
}

fn examine(args: &DoctorArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let (text, works, verdict) = if let Some(device) = &args.lane {
        let report = doctor::lane(device).map_err(CommandError::Refused)?;
        (if args.json { report.json() } else { report.text() }, report.works, report.verdict)
    } else {
        let report = doctor::reach::reach(&asked(args)?).map_err(CommandError::Refused)?;
        (if args.json { report.json() } else { report.text() }, report.works, report.verdict)
    };
    out.write_all(text.as_bytes())?;
    if works { Ok(()) } else { Err(CommandError::Refused(verdict)) }
}

/// The server to be looked at, with the ways that are named here and in the environment.
fn asked(args: &DoctorArgs) -> Result<Asked, CommandError> {
    let mut asked = Asked::new(args.server.as_deref().unwrap_or_default(), Duration::from_secs(args.timeout))
        .map_err(CommandError::Refused)?;
    asked.pin = args.pin;
    asked.add_ways(&args.via);
    asked
        .find_passwords(args.proxy_password_file.as_deref())
        .map_err(|error| CommandError::Refused(error.to_string()))?;
    Ok(asked)
}

fn dhcp(command: &DhcpCommand, out: &mut dyn Write) -> Result<(), CommandError> {
    match command {
        DhcpCommand::List(list) => ask(&list.ask, &Request::DhcpList { hub: list.hub.clone() }, out),
        DhcpCommand::Release { address, hub, ask: args } => {
            ask(args, &Request::DhcpRelease { hub: hub.clone(), address: *address }, out)
        }
    }
}

fn nat(command: &NatCommand, out: &mut dyn Write) -> Result<(), CommandError> {
    match command {
        NatCommand::List { user, address, max, list } => {
            let wanted = NatWanted { hub: list.hub.clone(), user: user.clone(), address: *address, max: *max };
            ask(&list.ask, &Request::NatList(wanted), out)
        }
        NatCommand::Stats(list) => ask(&list.ask, &Request::NatStats { hub: list.hub.clone() }, out),
        NatCommand::Explain { proto, external, remote, ask: args } => {
            let endpoint = NatEndpoint { proto: proto.clone(), external: *external, remote: *remote };
            ask(args, &Request::NatExplain(endpoint), out)
        }
    }
}

fn check(file: &Path, out: &mut dyn Write) -> Result<(), CommandError> {
    let config = Config::load(Some(file), RawServer::default())?;
    let capacities = capacities(&config).map_err(CommandError::Refused)?;
    let hubs: Vec<&str> = config.hubs.iter().map(|hub| hub.name.as_str()).collect();
    writeln!(out, "{}: good. Hubs: {}", file.display(), hubs.join(", "))?;
    for Capacity { text, is_short } in capacities {
        writeln!(out, "{}{text}", if is_short { "warning: " } else { "" })?;
    }
    Ok(())
}

fn user(args: &UserArgs, input: &mut dyn BufRead, out: &mut dyn Write) -> Result<(), CommandError> {
    let store = AccountStore::open(&args.state_dir())?;
    let hub = args.hub.as_deref().unwrap_or(DEFAULT_HUB);
    match &args.command {
        UserCommand::List => out.write_all(users(&store, args.hub.as_deref()).as_bytes())?,
        UserCommand::Add(add) => {
            let password = password(add, input)?;
            let account = store.add(hub, &add.name, &password)?;
            writeln!(out, "user {} of hub {} added", account.name, account.hub)?;
            tell(add, &password, out)?;
        }
        UserCommand::Reset(reset) => {
            let password = password(reset, input)?;
            store.reset(hub, &reset.name, &password)?;
            writeln!(out, "user {} of hub {hub} has another password", reset.name)?;
            tell(reset, &password, out)?;
        }
        UserCommand::Set { name, cert } => {
            let fingerprint = fingerprint_of_file(cert).map_err(CommandError::Refused)?;
            store.set_certificate(hub, name, &fingerprint)?;
            writeln!(out, "user {name} of hub {hub} logs in by the certificate sha256:{fingerprint}")?;
        }
        UserCommand::Remove { name } => {
            store.remove(hub, name)?;
            writeln!(out, "user {name} of hub {hub} removed")?;
        }
        UserCommand::Block(block) => {
            store.set_disabled(hub, &block.name, true)?;
            writeln!(out, "user {} of hub {hub} is blocked: he cannot log in", block.name)?;
            end_user(args, hub, block, out)?;
        }
        UserCommand::Unblock { name } => {
            store.set_disabled(hub, name, false)?;
            writeln!(out, "user {name} of hub {hub} may log in again")?;
        }
    }
    Ok(())
}

/// Has the running server, if there is one, end what a blocked user has there.
fn end_user(args: &UserArgs, hub: &str, block: &BlockArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let socket = block.control_socket.clone().unwrap_or_else(|| state::control_socket(&args.state_dir()));
    let request = Request::UserEnd { hub: hub.to_owned(), user: block.name.clone() };
    match client::ask(&socket, &request) {
        Err(AskError::NoServer(path)) => {
            writeln!(out, "no server answers at {}: there are no sessions to end", path.display())?;
        }
        Err(error) => return Err(error.into()),
        Ok(Answer::Error { message }) => return Err(CommandError::Refused(message)),
        Ok(answer) => out.write_all(client::text(&answer, 0).as_bytes())?,
    }
    Ok(())
}

fn users(store: &AccountStore, hub: Option<&str>) -> String {
    let mut table = Table::new(&[
        ("HUB", Align::Left),
        ("USER", Align::Left),
        ("MEMBER", Align::Right),
        ("CREATED", Align::Left),
        ("BY", Align::Left),
        ("STATE", Align::Left),
    ]);
    for user in store.list().iter().filter(|user| hub.is_none_or(|hub| user.hub.eq_ignore_ascii_case(hub))) {
        let state = if user.disabled { "disabled" } else { "enabled" };
        let member = user.member().0.to_string();
        let by = user.certificate.as_deref().map_or("password".to_owned(), |mark| format!("sha256:{mark}"));
        table.row([user.hub.clone(), user.name.clone(), member, user.created.clone(), by, state.to_owned()]);
    }
    table.text()
}

/// The password: from standard input, or a new one.
fn password(args: &PasswordArgs, input: &mut dyn BufRead) -> Result<Zeroizing<String>, CommandError> {
    if !args.password_stdin {
        return Ok(secrets::generate_password());
    }
    let mut line = Zeroizing::new(String::with_capacity(PASSWORD_BYTES_MAX + 3));
    // Two bytes for the line break, one to see that it is too long.
    input.take(PASSWORD_BYTES_MAX as u64 + 3).read_line(&mut line)?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

fn tell(args: &PasswordArgs, password: &str, out: &mut dyn Write) -> io::Result<()> {
    if args.password_stdin { Ok(()) } else { writeln!(out, "password {password}   (shown this once)") }
}

fn ask(args: &AskArgs, request: &Request, out: &mut dyn Write) -> Result<(), CommandError> {
    let answer = client::ask(&args.control_socket(), request)?;
    if let Answer::Error { message } = &answer
        && !args.json
    {
        return Err(CommandError::Refused(message.clone()));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = if args.json { client::json(&answer) } else { client::text(&answer, now) };
    out.write_all(text.as_bytes())?;
    match answer {
        Answer::Error { message } => Err(CommandError::Refused(message)),
        _ => Ok(()),
    }
}

/// Every reason with its help.
fn reasons() -> String {
    let mut drops = Table::new(&[("FRAME DROPPED", Align::Left), ("MEANING", Align::Left)]);
    for reason in DropReason::ALL {
        drops.row([reason.label().to_owned(), reason.help().trim().to_owned()]);
    }
    let mut closes = Table::new(&[("CONNECTION CLOSED", Align::Left), ("BY", Align::Left), ("MEANING", Align::Left)]);
    for reason in CloseReason::ALL {
        let by = format!("{:?}", reason.fault()).to_ascii_lowercase();
        closes.row([reason.label().to_owned(), by, reason.help().trim().to_owned()]);
    }
    format!("{}\n{}", drops.text(), closes.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn run_line(line: &str, input: &str) -> (Result<(), CommandError>, String) {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let mut out = Vec::new();
        let result = run(&cli.command, &mut input.as_bytes(), &mut out);
        (result, String::from_utf8(out).unwrap())
    }

    #[test]
    fn users_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().display();
        let (result, out) = run_line(&format!("hublane user add alice --state {state}"), "");
        assert!(result.is_ok() && out.contains("user alice of hub PUBLIC added\npassword "), "{out}");
        let (result, out) =
            run_line(&format!("hublane user add bob --hub H --password-stdin --state {state}"), "pw\r\n");
        assert!(result.is_ok() && !out.contains("password"), "{out}");
        let hashed = crate::tunnel::sha0::hashed_password("pw", "bob");
        let store = AccountStore::open(dir.path()).unwrap();
        assert_eq!(store.find("H", "bob").unwrap().hashed_password.0, *hashed);
        let (_, out) = run_line(&format!("hublane user list --state {state}"), "");
        assert!(out.contains("PUBLIC  alice") && out.contains("bob"), "{out}");
        let (_, out) = run_line(&format!("hublane user list --hub h --state {state}"), "");
        assert!(!out.contains("alice") && out.contains("bob"), "{out}");
        let (_, out) = run_line(&format!("hublane user reset ALICE --state {state}"), "");
        assert!(out.contains("another password\npassword "), "{out}");
        assert!(run_line(&format!("hublane user remove alice --state {state}"), "").0.is_ok());
        let (result, _) = run_line(&format!("hublane user remove alice --state {state}"), "");
        assert!(result.unwrap_err().to_string().contains("hint: `hublane user list`"));
        let too_long = "x".repeat(256);
        let (result, _) = run_line(&format!("hublane user add eve --password-stdin --state {state}"), &too_long);
        assert!(result.unwrap_err().to_string().contains("1 to 255 bytes"));
    }

    #[test]
    fn a_user_logs_in_by_a_certificate_until_he_has_a_password_again() {
        let dir = tempfile::tempdir().unwrap();
        let (state, file) = (dir.path().display(), dir.path().join("c.pem"));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let made = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        std::fs::write(&file, made.pem()).unwrap();
        let set =
            |name: &str| run_line(&format!("hublane user set {name} --cert {} --state {state}", file.display()), "");
        let list = || run_line(&format!("hublane user list --state {state}"), "").1;
        assert!(run_line(&format!("hublane user add alice --state {state}"), "").0.is_ok());
        let before = AccountStore::open(dir.path()).unwrap().find("PUBLIC", "alice").unwrap();
        let (result, out) = set("Alice");
        assert!(result.is_ok(), "{out}");
        let mark = out.trim_end().rsplit(' ').next().unwrap();
        assert!(mark.starts_with("sha256:") && list().contains(mark), "{out}{}", list());
        let after = AccountStore::open(dir.path()).unwrap().find("PUBLIC", "alice").unwrap();
        assert_ne!(before.hashed_password, after.hashed_password);
        assert!(set("eve").0.unwrap_err().to_string().contains("no user \"eve\""));
        assert!(run_line(&format!("hublane user reset alice --state {state}"), "").0.is_ok());
        assert!(!list().contains("sha256:") && list().contains("password"), "{}", list());
        std::fs::write(&file, "x").unwrap();
        assert!(set("alice").0.unwrap_err().to_string().contains("no certificate"));
    }

    /// A server that knows one question: who is to go.
    fn serve_once(socket: &std::path::Path, reply: &'static str) -> std::thread::JoinHandle<String> {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            io::BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
            line
        })
    }

    #[test]
    fn a_user_is_blocked_with_and_without_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().display();
        assert!(run_line(&format!("hublane user add alice --state {state}"), "").0.is_ok());
        let disabled = || AccountStore::open(dir.path()).unwrap().find("PUBLIC", "alice").unwrap().disabled;
        let (result, out) = run_line(&format!("hublane user block ALICE --state {state}"), "");
        assert!(result.is_ok() && out.contains("is blocked") && out.contains("no server answers at"), "{out}");
        assert!(disabled());
        let (_, out) = run_line(&format!("hublane user unblock alice --state {state}"), "");
        assert!(out.contains("may log in again") && !disabled(), "{out}");
        let socket = dir.path().join("control.sock");
        let server = serve_once(&socket, "{\"answer\":\"done\",\"message\":\"2 sessions ended\"}\n");
        let (_, out) = run_line(&format!("hublane user block alice --state {state}"), "");
        assert!(out.ends_with("2 sessions ended\n") && disabled(), "{out}");
        assert_eq!(server.join().unwrap(), "{\"request\":\"user-end\",\"hub\":\"PUBLIC\",\"user\":\"alice\"}\n");
        std::fs::remove_file(&socket).unwrap();
        let server = serve_once(&socket, "{\"answer\":\"error\",\"message\":\"worker 1 does not answer\"}\n");
        let (result, _) = run_line(&format!("hublane user block alice --state {state}"), "");
        assert!(result.unwrap_err().to_string().contains("worker 1"));
        server.join().unwrap();
        let (result, _) = run_line(&format!("hublane user block eve --state {state}"), "");
        assert!(result.unwrap_err().to_string().contains("no user \"eve\""));
    }

    #[test]
    fn doctor_exits_with_what_it_found() {
        use crate::sys::nic::tests::{in_namespace, ip};
        in_namespace(|| {
            ip("link add hl0 type veth peer name hl1");
            let (result, out) = run_line("hublane doctor --lane hl0", "");
            assert!(result.is_ok() && out.contains("packet sockets") && out.contains("ip link set hl0 up"), "{out}");
            let (result, out) = run_line("hublane doctor --lane hl0 --json", "");
            let report: serde_json::Value = serde_json::from_str(&out).unwrap();
            assert!(result.is_ok() && report["facts"]["kind"] == "veth", "{out}");
            let (result, out) = run_line("hublane doctor --lane lo", "");
            assert!(result.unwrap_err().to_string().contains("no Ethernet device") && out.contains("lo"), "{out}");
            let (result, out) = run_line("hublane doctor --lane hl-none", "");
            assert!(result.unwrap_err().to_string().contains("no device called hl-none") && out.is_empty());
        });
    }

    #[test]
    fn doctor_says_why_a_server_cannot_be_reached() {
        // Nothing listens at port 1 of this machine, nor is a proxy of the environment likely to let us there.
        let (result, out) = run_line("hublane doctor 127.0.0.1:1 --timeout 1 --via socks5://127.0.0.1:1", "");
        let error = result.unwrap_err().to_string();
        assert!(
            error.starts_with("127.0.0.1 cannot be reached: ") && out.contains("socks5://127.0.0.1:1"),
            "{out}{error}"
        );
        let (result, out) = run_line("hublane doctor 127.0.0.1:x", "");
        assert!(result.unwrap_err().to_string().contains("is no HOST[:PORT]") && out.is_empty());
    }

    #[test]
    fn reasons_are_all_explained() {
        let (_, out) = run_line("hublane drops", "");
        let rows = out.lines().filter(|line| !line.is_empty()).count();
        assert_eq!(rows, DropReason::ALL.len() + CloseReason::ALL.len() + 2);
        assert!(out.contains("egress_queue_full") && out.contains("peer_close_notify"), "{out}");
    }

    #[test]
    fn config_check_and_missing_servers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "[[hub]]\nname = \"Home\"\n").unwrap();
        let line = format!("hublane config check {}", file.display());
        assert!(run_line(&line, "").1.ends_with("good. Hubs: Home\n"));
        let nat = "[server]\nworkers = \"0\"\n[[hub]]\nname = \"Home\"\n[hub.gateway]\n[hub.nat]\ndevice = \"e\"\n";
        std::fs::write(&file, nat).unwrap();
        let (result, out) = run_line(&line, "");
        assert!(result.is_ok() && out.contains("\nwarning: hub Home: 1 public address, ports 61001-65535: "), "{out}");
        std::fs::write(&file, format!("{nat}ports = \"61001-61520\"\n").replace("\"0\"", "\"0-9\"")).unwrap();
        assert!(run_line(&line, "").0.unwrap_err().to_string().contains("hub Home: ports 61001-61520"));
        std::fs::write(&file, "[[hub]]\nnam = \"Home\"\n").unwrap();
        assert!(run_line(&line, "").0.unwrap_err().to_string().contains("c.toml:2:1: unknown key \"nam\""));
        let (result, _) = run_line(&format!("hublane status --state {}", dir.path().display()), "");
        assert!(matches!(result, Err(CommandError::Ask(AskError::NoServer(_)))));
    }
}
