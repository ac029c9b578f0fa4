//! Why a way did not lead to the server: each a sentence that names the station and says what to do.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

/// Why a way did not lead to the server.
#[derive(Debug, Error)]
pub enum ViaError {
    /// What was given as the server's name cannot be one.
    #[error("{host:?} is neither a host name nor an address")]
    NotAName {
        /// As given.
        host: String,
    },
    /// The name has no address here.
    #[error(
        "there is no address for {host} here ({why}): check the spelling and this machine's name servers, or give an address"
    )]
    NoName {
        /// The name.
        host: String,
        /// What the resolver says.
        why: String,
    },
    /// A TCP port is closed.
    #[error(
        "{whom} at {address} refuses the connection: nothing listens there, or a firewall says so; check host and port"
    )]
    Refused {
        /// `the server` or `the proxy`.
        whom: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// Nothing came back.
    #[error(
        "no answer from {whom} at {address} within {secs:.1} s: the host is off, or a firewall swallows the packets; try another port or way (--via)"
    )]
    Swallowed {
        /// `the server` or `the proxy`.
        whom: &'static str,
        /// Where.
        address: SocketAddr,
        /// How long was waited.
        secs: f64,
    },
    /// No route.
    #[error("{whom} at {address} cannot be reached from here ({error}): check the network and its routes")]
    Unreachable {
        /// `the server` or `the proxy`.
        whom: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the kernel says.
        error: io::Error,
    },
    /// A socket could not be made or set up.
    #[error("no socket to go on with: {0}")]
    Socket(io::Error),

    /// The proxy wants to know who asks.
    #[error(
        "the proxy {proxy} wants a user and a password ({offers}): name the user, as in --via {scheme}://USER@{proxy}"
    )]
    ProxyWantsUser {
        /// The proxy.
        proxy: String,
        /// What it takes.
        offers: String,
        /// Scheme of its URL.
        scheme: &'static str,
    },
    /// There is a user, but no password for him.
    #[error(
        "the proxy {proxy} wants the password of {user}: set HUBLANE_PROXY_PASSWORD, or name a file with --proxy-password-file"
    )]
    ProxyWantsPassword {
        /// The proxy.
        proxy: String,
        /// The user.
        user: String,
    },
    /// The proxy knows the user not, or by another password.
    #[error("the proxy {proxy} does not take this password of {user}: check both")]
    ProxyPassword {
        /// The proxy.
        proxy: String,
        /// The user.
        user: String,
    },
    /// The proxy wants proof of a kind that is not known here.
    #[error(
        "the proxy {proxy} takes only {offers}; known here are Basic and Digest (MD5, SHA-256): ask its operator, or try another way"
    )]
    ProxyProof {
        /// The proxy.
        proxy: String,
        /// What it takes.
        offers: String,
    },
    /// The proxy's rules forbid it.
    #[error("the proxy {proxy} does not allow {target} (HTTP {status}): many allow port 443 only")]
    ProxyForbids {
        /// The proxy.
        proxy: String,
        /// The server.
        target: String,
        /// Its answer.
        status: u16,
    },
    /// The proxy could not reach the server.
    #[error(
        "the proxy {proxy} cannot reach {target} (HTTP {status}): check name and port as they are seen from the proxy"
    )]
    ProxyCannotReach {
        /// The proxy.
        proxy: String,
        /// The server.
        target: String,
        /// Its answer.
        status: u16,
    },
    /// Some other status.
    #[error("the proxy {proxy} answers CONNECT with HTTP {status} {reason}: is it a proxy that takes CONNECT?")]
    ProxyStatus {
        /// The proxy.
        proxy: String,
        /// Its answer.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// Bytes that are no HTTP.
    #[error("what {proxy} answers is not HTTP ({seen}): is it an HTTP proxy, and is the port right?")]
    ProxyGarbage {
        /// The proxy.
        proxy: String,
        /// How it began.
        seen: String,
    },
    /// The connection ended in the middle of the answer.
    #[error(
        "the proxy {proxy} ended the connection in the middle of its answer, after {bytes} bytes: try again, or ask its operator"
    )]
    ProxyHalf {
        /// The proxy.
        proxy: String,
        /// How much there was.
        bytes: usize,
    },
    /// The connection ended without an answer.
    #[error("the proxy {proxy} ended the connection without an answer: it may not serve this address of ours")]
    ProxyClosed {
        /// The proxy.
        proxy: String,
    },
    /// Nothing, or not all of it, came in time.
    #[error(
        "the proxy {proxy} took the connection but {what} within {secs:.1} s: is it overloaded, or no proxy of this kind?"
    )]
    ProxySilent {
        /// The proxy.
        proxy: String,
        /// What is missing.
        what: &'static str,
        /// How long was waited.
        secs: f64,
    },
    /// Headers without an end.
    #[error("the proxy {proxy} sends headers without end (more than {max} bytes): that is no sound proxy")]
    ProxyEndless {
        /// The proxy.
        proxy: String,
        /// What is read at most.
        max: usize,
    },
    /// The connection to the proxy failed.
    #[error("the connection to the proxy {proxy} broke: {error}")]
    ProxyBroke {
        /// The proxy.
        proxy: String,
        /// What the kernel says.
        error: io::Error,
    },

    /// A SOCKS proxy said no.
    #[error("the SOCKS proxy {proxy} refuses: {}", .refusal.sentence())]
    SocksRefused {
        /// The proxy.
        proxy: String,
        /// Its answer.
        refusal: SocksRefusal,
    },
    /// Bytes that are no SOCKS.
    #[error(
        "what {proxy} answers is not SOCKS{version} ({seen}): is it a SOCKS{version} proxy, and is the port right?"
    )]
    SocksGarbage {
        /// The proxy.
        proxy: String,
        /// `4` or `5`.
        version: u8,
        /// How it began.
        seen: String,
    },
    /// SOCKS 4 cannot name this server.
    #[error("SOCKS4 knows IPv4 addresses only and {target} has none: use socks5:// if the proxy speaks it")]
    SocksOnlyIpv4 {
        /// The server.
        target: String,
    },
    /// A field of SOCKS has no room for it.
    #[error("{what} does not fit into SOCKS: it takes 1 to 255 bytes without NUL")]
    SocksField {
        /// `the user name`, `the password`, `the host name`.
        what: &'static str,
    },

    /// There is no `ssh` here.
    #[error("the program ssh cannot be started ({error}): install OpenSSH's client")]
    SshMissing {
        /// What the kernel says.
        error: io::Error,
    },
    /// `ssh` ended without a connection to the server.
    #[error(
        "ssh to {host} did not lead to {target}: {said}; what `ssh {host}` does by hand, without asking anything, works here too"
    )]
    SshFailed {
        /// The SSH server.
        host: String,
        /// The server.
        target: String,
        /// What `ssh` wrote.
        said: String,
    },
    /// `ssh` did not come to an end.
    #[error("ssh to {host} did not reach {target} within {secs:.1} s: {said}")]
    SshSilent {
        /// The SSH server.
        host: String,
        /// The server.
        target: String,
        /// How far it came.
        said: String,
        /// How long was waited.
        secs: f64,
    },
}

/// What SOCKS proxies refuse with: the codes of SOCKS 4, of RFC 1928 §6, and of RFC 1929.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocksRefusal {
    /// SOCKS 4, 91.
    Rejected,
    /// SOCKS 4, 92.
    NoIdent,
    /// SOCKS 4, 93.
    OtherIdent,
    /// 1.
    General,
    /// 2.
    NotAllowed,
    /// 3.
    NetworkUnreachable,
    /// 4.
    HostUnreachable,
    /// 5.
    ConnectionRefused,
    /// 6.
    TtlExpired,
    /// 7.
    CommandUnknown,
    /// 8.
    AddressKindUnknown,
    /// Method 255, and no user was named.
    WantsUser,
    /// Method 255 although a user was named.
    NoCommonMethod,
    /// RFC 1929: a status other than 0.
    Password,
    /// Any other code.
    Other(u8),
}

impl SocksRefusal {
    /// Of a SOCKS 4 reply; `None` for 90, granted.
    pub const fn of_socks4(code: u8) -> Option<Self> {
        Some(match code {
            90 => return None,
            91 => Self::Rejected,
            92 => Self::NoIdent,
            93 => Self::OtherIdent,
            other => Self::Other(other),
        })
    }

    /// Of a SOCKS 5 reply; `None` for 0, granted.
    pub const fn of_socks5(code: u8) -> Option<Self> {
        Some(match code {
            0 => return None,
            1 => Self::General,
            2 => Self::NotAllowed,
            3 => Self::NetworkUnreachable,
            4 => Self::HostUnreachable,
            5 => Self::ConnectionRefused,
            6 => Self::TtlExpired,
            7 => Self::CommandUnknown,
            8 => Self::AddressKindUnknown,
            other => Self::Other(other),
        })
    }

    /// What it means and what to do.
    pub fn sentence(self) -> String {
        match self {
            Self::Rejected => {
                "request rejected or failed (91): its rules forbid it, or it cannot reach the server".into()
            }
            Self::NoIdent => "it finds no identd here (92): it wants one, or another proxy".into(),
            Self::OtherIdent => "identd names another user (93): give the user in --via socks4://USER@…".into(),
            Self::General => "general failure (1): often it cannot reach or resolve the server".into(),
            Self::NotAllowed => "its rules do not allow this server or port (2): try port 443".into(),
            Self::NetworkUnreachable => "the server's network is unreachable from there (3)".into(),
            Self::HostUnreachable => "the server is unreachable from there, or has no address there (4)".into(),
            Self::ConnectionRefused => "the server refuses the connection (5): check host and port".into(),
            Self::TtlExpired => "no answer from the server there (6, TTL expired)".into(),
            Self::CommandUnknown => "it knows no CONNECT (7)".into(),
            Self::AddressKindUnknown => {
                "it does not take this kind of address (8): try a name, or the IPv4 address".into()
            }
            Self::WantsUser => "it wants a user and a password: name the user, as in --via socks5://USER@…".into(),
            Self::NoCommonMethod => "it takes neither anonymous requests nor user and password (255)".into(),
            Self::Password => "user or password is wrong".into(),
            Self::Other(code) => format!("code {code}, which has no meaning known here"),
        }
    }
}
