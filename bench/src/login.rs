//! Logging many members in, some at the same time.

use std::error::Error;
use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use clap::Args;
use hublane::client::dial::{DialError, Dialled, Route, dial, dial_additional};
use hublane::tls::config::{ServerTrust, TlsVersions, client_config};
use hublane::tunnel::link::Way;
use hublane::tunnel::login::client::{Account, Secret};
use hublane::tunnel::login::{ClientInfo, Direction, Wants};

use crate::driver::{Line, Member};

/// Where to log in, and as whom.
#[derive(Args)]
pub(crate) struct Login {
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
    /// TCP connections of each member, 1 to 32.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: u8,
    /// Logins at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
}

impl Login {
    /// Logs `count` members in.
    pub(crate) fn log_in(&self, count: usize) -> Result<Vec<Member>, Box<dyn Error>> {
        self.check_descriptors(count)?;
        let password = self.password()?;
        let route = Route {
            server: self.server,
            tls: Arc::new(client_config(ServerTrust::AcceptAny, TlsVersions::Both)),
            timeout: Duration::from_secs(15),
        };
        let next = AtomicUsize::new(0);
        let (members, received) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.parallel {
                let (route, next, members, password) = (&route, &next, members.clone(), &password);
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Relaxed);
                        if number >= count {
                            return;
                        }
                        let member = self.member(route, password, number);
                        let failed = member.is_err();
                        if members.send(member).is_err() || failed {
                            next.store(count, Relaxed);
                            return;
                        }
                    }
                });
            }
        });
        drop(members);
        let mut members = received.iter().collect::<Result<Vec<_>, _>>()?;
        members.sort_by_key(|member| member.number);
        Ok(members)
    }

    fn check_descriptors(&self, count: usize) -> Result<(), Box<dyn Error>> {
        let limit = hublane::sys::limits::raise_open_files()?;
        let wanted = count as u64 * u64::from(self.connections) + 64;
        if limit < wanted {
            return Err(format!("{wanted} descriptors wanted, the limit is {limit}: raise it by `ulimit -Hn`").into());
        }
        Ok(())
    }

    fn password(&self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        if self.password_stdin {
            std::io::stdin().lock().read_line(&mut line)?;
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn member(&self, route: &Route, password: &str, number: usize) -> Result<Member, DialError> {
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
