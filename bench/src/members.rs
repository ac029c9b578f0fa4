//! Mode `members`: how a server bears many who mostly stay quiet.

use std::error::Error;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use clap::Args;
use hublane::client::dial::{DialError, Dialled, Route, dial, dial_additional};
use hublane::sys::epoll::{EpollConfig, EpollIo};
use hublane::sys::features::{FeatureMask, KernelFeatures};
use hublane::sys::uring::{UringConfig, UringIo};
use hublane::sys::waker::Waker;
use hublane::tls::config::{ServerTrust, TlsVersions, client_config};
use hublane::tunnel::link::Way;
use hublane::tunnel::login::client::{Account, Secret};
use hublane::tunnel::login::{ClientInfo, Direction, Wants};
use hublane::worker::io::StreamIo;

use crate::driver::{Driver, Line, Member};

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Members {
    /// Server to log in to.
    #[arg(long, value_name = "ADDR:PORT")]
    server: SocketAddr,
    /// Hub to log in to.
    #[arg(long, default_value = "PUBLIC")]
    hub: String,
    /// User to log in as; all members are the same user on different machines.
    #[arg(long)]
    user: String,
    /// Read the password from the first line of standard input; else it is empty.
    #[arg(long)]
    password_stdin: bool,
    /// How many members.
    #[arg(long, default_value_t = 100, value_name = "N")]
    count: usize,
    /// TCP connections of each, 1 to 32.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: u8,
    /// How long they stay after the last has logged in, in seconds.
    #[arg(long, default_value_t = 10, value_name = "S")]
    seconds: u64,
    /// Frames a second in all: each goes from one member to the next one. 0 = silence.
    #[arg(long, default_value_t = 0, value_name = "R")]
    chatter_pps: u64,
    /// Length of those frames in bytes, 60 to 1514.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(60..=1514))]
    frame_bytes: u16,
    /// Logins at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
}

impl Members {
    /// Runs the mode.
    pub(crate) fn run(self) -> Result<(), Box<dyn Error>> {
        let descriptors = hublane::sys::limits::raise_open_files()?;
        let wanted = self.count as u64 * u64::from(self.connections) + 64;
        if descriptors < wanted {
            return Err(
                format!("{wanted} descriptors wanted, the limit is {descriptors}: raise it by `ulimit -Hn`").into()
            );
        }
        let password = self.password()?;
        let began = Instant::now();
        let members = self.log_in_all(&password)?;
        let took = began.elapsed();
        println!(
            "{}",
            serde_json::json!({ "event": "logged_in", "members": members.len(), "seconds": took.as_secs_f64(),
                "logins_per_second": members.len() as f64 / took.as_secs_f64() })
        );
        std::io::stdout().flush()?;
        match KernelFeatures::probe(FeatureMask::All).uring {
            Ok(uring) => self.drive(UringIo::new(&UringConfig::default(), &uring, Waker::new()?)?, members),
            Err(_) => self.drive(EpollIo::new(&EpollConfig::default(), Waker::new()?)?, members),
        }
    }

    fn drive<Io: StreamIo<Socket = OwnedFd>>(&self, io: Io, members: Vec<Member>) -> Result<(), Box<dyn Error>> {
        let mut driver = Driver::new(io, members)?;
        let report = driver.run(Duration::from_secs(self.seconds), self.chatter_pps, usize::from(self.frame_bytes))?;
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }

    fn password(&self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        if self.password_stdin {
            std::io::stdin().lock().read_line(&mut line)?;
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn log_in_all(&self, password: &str) -> Result<Vec<Member>, Box<dyn Error>> {
        let route = Route {
            server: self.server,
            tls: Arc::new(client_config(ServerTrust::AcceptAny, TlsVersions::Both)),
            timeout: Duration::from_secs(15),
        };
        let next = AtomicUsize::new(0);
        let (members, received) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.parallel {
                let (route, next, members) = (&route, &next, members.clone());
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Relaxed);
                        if number >= self.count {
                            return;
                        }
                        let member = self.log_in(route, password, number);
                        let failed = member.is_err();
                        if members.send(member).is_err() || failed {
                            next.store(self.count, Relaxed);
                            return;
                        }
                    }
                });
            }
        });
        drop(members);
        Ok(received.iter().collect::<Result<Vec<_>, _>>()?)
    }

    fn log_in(&self, route: &Route, password: &str, number: usize) -> Result<Member, DialError> {
        let account = Account {
            hub: self.hub.clone(),
            user: self.user.clone(),
            secret: Secret::Password(password.to_owned().into()),
            client: client(number),
        };
        let wants = Wants { max_connection: self.connections, encrypt: true, ..Wants::default() };
        let first = dial(route, account, wants)?;
        let timeout = Duration::from_millis(u64::from(first.granted.timeout_ms));
        let key = first.granted.session_key.clone();
        let half = first.granted.half_duplex;
        let more = self.connections.min(first.granted.max_connection);
        let way = Way { send: true, receive: !half };
        let mut lines = vec![line(first, way)];
        for _ in 1..more {
            let next = dial_additional(route, &key, client(number))?;
            let way = match next.granted {
                Direction::Both => Way::BOTH,
                Direction::ToClient => Way { send: false, receive: true },
                Direction::ToServer => Way { send: true, receive: false },
            };
            lines.push(line(next, way));
        }
        Ok(Member { number, timeout, lines })
    }
}

fn line<W>(dialled: Dialled<W>, way: Way) -> Line {
    let Dialled { socket, layer, plain, cipher, .. } = dialled;
    Line { socket, layer, plain, cipher, way }
}

fn client(number: usize) -> ClientInfo {
    ClientInfo {
        product: "Hublane Bench Client".into(),
        version: 100,
        build: 1,
        unique_id: machine(number),
        installation_id: machine(number),
        ..ClientInfo::default()
    }
}

/// An id that differs from member to member, so that none takes over the session of another.
fn machine<const N: usize>(number: usize) -> [u8; N] {
    let mut id = [0x5e; N];
    id[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    id
}
