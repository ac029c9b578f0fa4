//! Logging members in, some at the same time.

use std::error::Error;
use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use clap::{Args, ValueEnum};
use hublane::client::dial::{DialError, Dialled, Route, dial, dial_additional};
use hublane::tls::config::{ServerTrust, Signatures, client_config_for};
use hublane::tunnel::link::Way;
use hublane::tunnel::login::client::{Account, Secret};
use hublane::tunnel::login::{ClientInfo, Direction, Wants};

use crate::driver::{Line, Member};
use crate::progress::Progress;
use crate::tls_choice::{TlsChoice, describe};

/// Where to log in, and as whom.
#[derive(Args, Clone)]
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
    /// Each member is a user of its own, with the same password: --user is how the names begin, numbers from 1 follow.
    #[arg(long)]
    numbered_users: bool,
    /// Read the password from the first line of standard input; else it is empty.
    #[arg(long)]
    password_stdin: bool,
    /// TCP connections of each member, 1 to 32.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) connections: u8,
    /// Logins at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    #[command(flatten)]
    tls: TlsChoice,
    /// Kinds of certificate to accept.
    #[arg(long, default_value = "any", value_name = "KIND")]
    signature: Kind,
}

/// Kinds of certificate, by who can verify them.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Any,
    Rsa,
    Ecdsa,
}

/// Logs members in, one at a time; shared by threads.
pub(crate) struct Dialer {
    route: Route,
    hub: String,
    user: String,
    numbered: bool,
    password: String,
    connections: u8,
}

impl Login {
    /// Ready to log in `count` members.
    pub(crate) fn dialer(&self, count: usize) -> Result<Dialer, Box<dyn Error>> {
        self.check_descriptors(count)?;
        let signatures = match self.signature {
            Kind::Any => Signatures::Any,
            Kind::Rsa => Signatures::Rsa,
            Kind::Ecdsa => Signatures::Ecdsa,
        };
        let (versions, suites) = (self.tls.versions(), self.tls.suites());
        let tls = Arc::new(client_config_for(ServerTrust::AcceptAny, versions, &suites, signatures));
        Ok(Dialer {
            route: Route { server: self.server, tls, timeout: Duration::from_secs(15) },
            hub: self.hub.clone(),
            user: self.user.clone(),
            numbered: self.numbered_users,
            password: self.password()?,
            connections: self.connections,
        })
    }

    /// Logs members 0 to `count` - 1 in.
    pub(crate) fn log_in(
        &self,
        dialer: &Dialer,
        count: usize,
        progress: &Progress,
    ) -> Result<Vec<Member>, Box<dyn Error>> {
        let mut members = Vec::with_capacity(count);
        self.each(dialer, count, |member| {
            members.push(member);
            progress.counted("logged in", members.len(), count);
        })?;
        members.sort_by_key(|member| member.number);
        Ok(members)
    }

    /// The same, giving each to `taken` as soon as it is there.
    pub(crate) fn each(
        &self,
        dialer: &Dialer,
        count: usize,
        mut taken: impl FnMut(Member),
    ) -> Result<(), Box<dyn Error>> {
        let next = AtomicUsize::new(0);
        let (members, received) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.parallel {
                let (next, members) = (&next, members.clone());
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Relaxed);
                        if number >= count {
                            return;
                        }
                        let member = dialer.member(number);
                        let failed = member.is_err();
                        if members.send(member).is_err() || failed {
                            next.store(count, Relaxed);
                            return;
                        }
                    }
                });
            }
            drop(members);
            for member in received {
                taken(member?);
            }
            Ok(())
        })
    }

    fn check_descriptors(&self, count: usize) -> Result<(), Box<dyn Error>> {
        let limit = hublane::sys::limits::raise_open_files()?;
        let spare = 64;
        let per_member = u64::from(self.connections);
        let possible = limit.saturating_sub(spare) / per_member;
        if (count as u64) > possible {
            return Err(format!(
                "{count} members of {per_member} connections are too many for {limit} open descriptors: {possible} can \
                 be had, or raise the limit (`ulimit -Hn`)"
            )
            .into());
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
}

impl Dialer {
    /// Logs member `number` in.
    pub(crate) fn member(&self, number: usize) -> Result<Member, DialError> {
        let account = Account {
            hub: self.hub.clone(),
            user: if self.numbered { format!("{}{}", self.user, number + 1) } else { self.user.clone() },
            secret: Secret::Password(self.password.clone().into()),
            client: client(number),
        };
        let wants = Wants { max_connection: self.connections, encrypt: true, ..Wants::default() };
        let first = dial(&self.route, account, wants)?;
        let timeout = Duration::from_millis(u64::from(first.granted.timeout_ms));
        let key = first.granted.session_key.clone();
        let half = first.granted.half_duplex;
        let more = self.connections.min(first.granted.max_connection);
        let way = Way { send: true, receive: !half };
        let mut lines = vec![line(first, way)];
        for _ in 1..more {
            let next = dial_additional(&self.route, &key, client(number))?;
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

impl Member {
    /// Version and suite of the first connection, for reports.
    pub(crate) fn tls(&self) -> String {
        describe(self.lines[0].layer.suite())
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
