//! The ways to a server: straight, through an HTTP proxy, through a SOCKS proxy, through somebody's SSH server.
//!
//! 1. [`Via`] says which way; [`text`] reads it as people write it and as environments hold it.
//! 2. [`open`] goes it: name, connection ([`tcp`]), then what the way asks for ([`http`], [`socks`], [`ssh`]).
//! 3. What comes back is a stream socket on which the server's TLS begins with the very next byte: no way reads more
//!    than its own answer.
//!
//! Names are resolved where the way ends, as far as it can: by the HTTP proxy, by SOCKS 4a and 5, by the SSH server.
//! Blocking, with one deadline for everything. What is said to proxies is made and read by pure code.
#![forbid(unsafe_code)]

pub mod digest;
pub mod error;
pub mod head;
pub mod http;
pub mod secret;
pub mod socks;
pub mod ssh;
pub mod stream;
pub mod tcp;
pub mod text;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

pub use error::{SocksRefusal, ViaError};
pub use ssh::Helper;
pub use text::WrongVia;

/// How to get to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Straight.
    Direct,
    /// Through an HTTP proxy, by CONNECT.
    Http(Proxy),
    /// Through a SOCKS 4 proxy, which knows IPv4 addresses only.
    Socks4(Proxy),
    /// Through a SOCKS 4 proxy that takes names.
    Socks4a(Proxy),
    /// Through a SOCKS 5 proxy (RFC 1928).
    Socks5(Proxy),
    /// Through an SSH server, by this system's `ssh`.
    Ssh(SshHost),
}

/// Where a proxy is, and who asks it.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User, if the proxy wants one.
    pub user: Option<String>,
    /// His password.
    pub password: Option<Zeroizing<String>>,
}

impl fmt::Debug for Proxy {
    /// Without the password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Proxy({self})")
    }
}

impl fmt::Display for Proxy {
    /// Name and port only.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&authority(&self.host, self.port))
    }
}

/// What `ssh` is told to connect to; all else stands in its own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshHost {
    /// Name, address, or a `Host` of the user's configuration.
    pub host: String,
    /// TCP port; without it, what the configuration says.
    pub port: Option<u16>,
    /// User there; without it, what the configuration says.
    pub user: Option<String>,
}

impl Via {
    /// True if the way has a user who needs a password, and none is set.
    pub fn needs_password(&self) -> bool {
        match self {
            Self::Http(proxy) | Self::Socks5(proxy) => proxy.user.is_some() && proxy.password.is_none(),
            Self::Direct | Self::Socks4(_) | Self::Socks4a(_) | Self::Ssh(_) => false,
        }
    }

    /// Sets the password of the proxy's user. Ways without passwords forget it at once.
    pub fn set_password(&mut self, password: Zeroizing<String>) {
        if let Self::Http(proxy) | Self::Socks5(proxy) = self {
            proxy.password = Some(password);
        }
    }

    /// True if the name of the server is resolved beyond the way, not here.
    pub fn resolves_far(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Socks4a(_) | Self::Socks5(_) | Self::Ssh(_))
    }
}

/// A way that has been gone.
#[derive(Debug)]
pub struct Opened {
    /// A stream socket, blocking: TCP, or for SSH one end of a socket pair. TLS begins with its next byte.
    pub socket: OwnedFd,
    /// The `ssh` that carries the bytes; dropping it ends it.
    pub helper: Option<Helper>,
    /// What was done, in order, and how long each took.
    pub steps: Vec<Step>,
    /// The way, for people.
    pub path: String,
}

/// A step of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `name`, `connect`, `proxy` or `ssh`.
    pub name: &'static str,
    /// Whom it reached, where that is an address.
    pub address: Option<SocketAddr>,
    /// How long it took.
    pub took: Duration,
}

/// Goes the way to `host`, `port`, within `timeout` altogether.
///
/// # Errors
/// A [`ViaError`]: a sentence with what to do.
pub fn open(via: &Via, host: &str, port: u16, timeout: Duration) -> Result<Opened, ViaError> {
    let mut journey = Journey::new(timeout);
    journey.go(via, host, port)
}

/// A way that is being gone: what has been done stands here too when it fails.
pub struct Journey {
    /// Steps done so far.
    pub steps: Vec<Step>,
    /// Largest TCP segment to agree on with the first station; for finding out about paths that swallow large packets.
    pub segment_bytes_max: Option<u32>,
    deadline: Deadline,
}

impl Journey {
    /// With `timeout` for all of it, from now on.
    pub fn new(timeout: Duration) -> Self {
        Self { steps: Vec::new(), segment_bytes_max: None, deadline: Deadline::after(timeout) }
    }

    /// Goes it.
    ///
    /// # Errors
    /// As [`open`].
    pub fn go(&mut self, via: &Via, host: &str, port: u16) -> Result<Opened, ViaError> {
        let target = Target::new(host, port)?;
        let (socket, helper, path) = match via {
            Via::Direct => {
                let (socket, address) = self.connect(host, port, "the server")?;
                (socket, None, format!("straight to {address}"))
            }
            Via::Http(proxy) => (self.http(proxy, &target)?, None, format!("through the HTTP proxy {proxy}")),
            Via::Socks4(proxy) => {
                let address = self.ipv4(&target)?;
                let request = socks::connect4(address, port, proxy.user.as_deref())?;
                (self.socks4(proxy, &request)?, None, format!("through the SOCKS4 proxy {proxy}"))
            }
            Via::Socks4a(proxy) => {
                let request = socks::connect4a(&target, proxy.user.as_deref())?;
                (self.socks4(proxy, &request)?, None, format!("through the SOCKS4a proxy {proxy}"))
            }
            Via::Socks5(proxy) => {
                let (socket, _) = self.connect(&proxy.host, proxy.port, "the proxy")?;
                let socket = self.timed("proxy", |deadline| socks::negotiate5(socket, deadline, proxy, &target))?;
                (socket, None, format!("through the SOCKS5 proxy {proxy}"))
            }
            Via::Ssh(host) => {
                let (socket, helper) = self.timed("ssh", |deadline| ssh::forward(host, &target, deadline))?;
                (socket, Some(helper), format!("through SSH to {host}"))
            }
        };
        let socket = stream::plain(socket).map_err(ViaError::Socket)?;
        Ok(Opened { socket, helper, steps: self.steps.clone(), path })
    }

    fn http(&mut self, proxy: &Proxy, target: &Target) -> Result<stream::Stream, ViaError> {
        let mut answers = http::Credentials::new(proxy);
        loop {
            // A connection for each try: what a proxy sends behind its 407 then needs no reading.
            let (socket, _) = self.connect(&proxy.host, proxy.port, "the proxy")?;
            let asked = self.timed("proxy", |deadline| http::ask(socket, deadline, &mut answers, target))?;
            if let Some(socket) = asked {
                return Ok(socket);
            }
        }
    }

    fn socks4(&mut self, proxy: &Proxy, request: &[u8]) -> Result<stream::Stream, ViaError> {
        let (socket, _) = self.connect(&proxy.host, proxy.port, "the proxy")?;
        self.timed("proxy", |deadline| socks::negotiate4(socket, deadline, proxy, request))
    }

    /// An IPv4 address of the target, for a proxy that knows nothing else.
    fn ipv4(&mut self, target: &Target) -> Result<std::net::Ipv4Addr, ViaError> {
        let all = self.resolve(&target.host, target.port)?;
        let first = all.iter().find_map(|address| match address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        first.ok_or_else(|| ViaError::SocksOnlyIpv4 { target: target.text() })
    }

    fn resolve(&mut self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ViaError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        self.timed("name", |deadline| tcp::resolve(host, port, deadline))
    }

    fn connect(&mut self, host: &str, port: u16, whom: &'static str) -> Result<(stream::Stream, SocketAddr), ViaError> {
        let addresses = self.resolve(host, port)?;
        let segment = self.segment_bytes_max;
        let opened = self.timed("connect", |deadline| tcp::connect(&addresses, segment, deadline, whom))?;
        if let Some(step) = self.steps.last_mut() {
            step.address = Some(opened.1);
        }
        Ok(opened)
    }

    fn timed<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&Deadline) -> Result<T, ViaError>,
    ) -> Result<T, ViaError> {
        let began = Instant::now();
        let done = work(&self.deadline);
        self.steps.push(Step { name, address: None, took: began.elapsed() });
        done
    }
}

/// When it all has to be done.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    end: Instant,
    whole: Duration,
}

impl Deadline {
    /// From now on.
    pub fn after(whole: Duration) -> Self {
        Self { end: Instant::now() + whole, whole }
    }

    /// What is left; `None` if nothing is.
    pub fn left(&self) -> Option<Duration> {
        Some(self.end.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// How long there was in the beginning.
    pub fn whole(&self) -> Duration {
        self.whole
    }
}

/// The server as a proxy is told it: nothing in it can be taken for a further line or word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Target {
    /// Checks `host`.
    ///
    /// # Errors
    /// [`ViaError::NotAName`] if it is neither a name nor an address.
    pub fn new(host: &str, port: u16) -> Result<Self, ViaError> {
        if text::is_host(host) {
            Ok(Self { host: host.to_owned(), port })
        } else {
            Err(ViaError::NotAName { host: host.to_owned() })
        }
    }

    /// `host:port`, or `[address]:port` for IPv6.
    pub fn text(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// `host:port`, or `[address]:port` for IPv6.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests;
