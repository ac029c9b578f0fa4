//! Options of `hublane connect`.
#![forbid(unsafe_code)]
#![allow(rustdoc::broken_intra_doc_links, rustdoc::bare_urls, reason = "comments are the texts of --help")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::client::via::Via;
use crate::config::DEFAULT_HUB;
use crate::sys::congestion::Congestion;
use crate::sys::features::FeatureMask;
use crate::wire::ethernet::Mac;

/// What to connect, and how.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ConnectArgs {
    /// Server, as HOST, HOST:PORT or [IPV6]:PORT [port: 443].
    #[arg(value_name = "HOST[:PORT]")]
    pub server: Endpoint,
    /// The way to the server: direct, http://[USER@]HOST:PORT, socks4://, socks4a://, socks5:// or ssh://[USER@]HOST
    /// [default: what https_proxy or all_proxy say, else direct].
    #[arg(long, value_name = "WAY")]
    pub via: Option<Via>,
    /// Take the proxy's password from the first line of this file [default: environment variable
    /// HUBLANE_PROXY_PASSWORD, else asked on the terminal].
    #[arg(long, value_name = "FILE")]
    pub proxy_password_file: Option<PathBuf>,
    /// Hub to join.
    #[arg(long, default_value = DEFAULT_HUB, value_name = "HUB")]
    pub hub: String,
    /// User to log in as.
    #[arg(long, value_name = "NAME")]
    pub user: String,
    /// Take the password from the first line of this file, which only its owner may read [default: environment variable
    /// HUBLANE_PASSWORD, else asked on the terminal].
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Log in by this certificate (PEM, RSA with 2048, 3072 or 4096 bits) instead of a password.
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with_all = ["password_file", "auth"])]
    pub cert: Option<PathBuf>,
    /// Private key of that certificate (PEM, not encrypted), in a file that only its owner may read.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// How to prove the password: auto tries hashed, and plain where the server wants that and is known to be the right
    /// one.
    #[arg(long, value_enum, default_value_t = Auth::Auto, value_name = "HOW")]
    pub auth: Auth,
    /// TCP connections of the session, 1 to 32; each inner flow keeps to one of them. Of two or more the newest is for
    /// what is urgent (ARP, short ICMP, IP packets with a DSCP that does not say bulk), if the server agrees.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=32), value_name = "N")]
    pub connections: u8,
    /// Compress every frame, if the server agrees.
    #[arg(long)]
    pub compress: bool,
    /// Packets of up to 64 KiB cross the tunnel whole, if the server agrees; else, and for other members, they are cut
    /// into frames.
    #[arg(long, value_enum, default_value_t = Switch::On, value_name = "ON|OFF")]
    pub super_frames: Switch,
    /// Congestion control of the connections to the server, by its name in the kernel [default: cubic, if the kernel has it].
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<Congestion>,
    /// Name of the network device, made for the time of the program.
    #[arg(long, default_value = "hub0", value_name = "NAME")]
    pub device: String,
    /// Address of the card [default: derived from this machine and the account, the same each time].
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub mac: Option<Mac>,
    /// Give the device this address; once for IPv4 and once for IPv6.
    #[arg(long, value_name = "ADDR/PREFIX")]
    pub address: Vec<Network>,
    /// Have the system's DHCP client (dhclient, udhcpc or dhcpcd) get an address once the card is up.
    #[arg(long)]
    pub dhcp: bool,
    /// Make the device a port of this bridge, and ask the server for bridge mode: many addresses behind one session.
    #[arg(long, value_name = "BRIDGE", conflicts_with_all = ["address", "dhcp"])]
    pub bridge: Option<String>,
    /// The server's certificate must be vouched for by one in this file (PEM), for the name that is called.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pin", "insecure"])]
    pub ca: Option<PathBuf>,
    /// The server's certificate must have this fingerprint: SHA-256 in hexadecimal, with or without colons.
    #[arg(long, value_name = "SHA256", value_parser = parse_fingerprint, conflicts_with = "insecure")]
    pub pin: Option<[u8; 32]>,
    /// Where certificates of servers are remembered, if neither --ca nor --pin is given: the first one is taken and shown,
    /// another one refused [default: known_servers in /var/lib/hublane-connect for root, else in ~/.local/state/hublane].
    #[arg(long, value_name = "FILE")]
    pub known_servers: Option<PathBuf>,
    /// Take any certificate: whoever stands in between can read and change everything.
    #[arg(long)]
    pub insecure: bool,
    /// Print events as lines of JSON, also on a terminal.
    #[arg(long)]
    pub json: bool,
    /// Use at most the kernel features of that version: all, 6.1 or 5.15 (which means epoll).
    #[arg(long, value_name = "VERSION", default_value_t = FeatureMask::All)]
    pub kernel_features: FeatureMask,
}

/// How to prove a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// Hashed, then plain.
    Auto,
    /// By a hash of it and the server's challenge.
    Hashed,
    /// As it is: for users whom the server asks elsewhere (RADIUS).
    Plain,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "[{}]:{}", self.host, self.port),
            false => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no server: say HOST, HOST:PORT or [IPV6]:PORT");
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) })
            }
            // An IPv6 address as it is.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(DEFAULT_PORT), |port| port.parse().map_err(|_| wrong()))?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
        let good = (1..=253).contains(&host.len()) && host.chars().all(is_host) && port > 0;
        if good { Ok(Self { host: host.to_owned(), port }) } else { Err(wrong()) }
    }
}

/// An address with the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The address.
    pub address: IpAddr,
    /// The length.
    pub prefix: u8,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let (address, prefix) = (address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?);
            (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self { address, prefix })
        });
        parsed.ok_or_else(|| format!("\"{text}\" is no address with a prefix, such as 192.0.2.5/24"))
    }
}

fn parse_mac(text: &str) -> Result<Mac, String> {
    let parts: Vec<_> = text.split([':', '-']).map(|part| u8::from_str_radix(part, 16)).collect();
    let bytes: Option<[u8; 6]> = parts.into_iter().collect::<Result<Vec<_>, _>>().ok().and_then(|b| b.try_into().ok());
    match bytes.map(Mac).filter(|mac| !mac.is_group() && mac.to_bits() != 0) {
        Some(mac) => Ok(mac),
        None => Err(format!("\"{text}\" is no address of a card, such as 5e:00:12:34:56:78")),
    }
}

/// A fingerprint as people write it.
pub(super) fn parse_fingerprint(text: &str) -> Result<[u8; 32], String> {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let mut bytes = [0; 32];
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
    let good =
        digits.len() == 64 && bytes.iter_mut().zip(pairs).all(|(place, byte)| byte.map(|b| *place = b).is_some());
    if good { Ok(bytes) } else { Err("a SHA-256 fingerprint has 64 hexadecimal digits".to_owned()) }
}

/// HTTPS: what firewalls let through.
const DEFAULT_PORT: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        for (text, host, port) in [
            ("vpn.example.org", "vpn.example.org", 443),
            ("192.0.2.1:5555", "192.0.2.1", 5555),
            ("[2001:db8::1]:992", "2001:db8::1", 992),
            ("[2001:db8::1]", "2001:db8::1", 443),
            ("2001:db8::1", "2001:db8::1", 443),
        ] {
            assert_eq!(text.parse(), Ok(Endpoint { host: host.into(), port }), "{text}");
        }
        for text in ["", ":443", "host:", "host:0", "host:70000", "[::1", "[::1]x", "a b", "user@host"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        assert_eq!("[::1]:5".parse::<Endpoint>().unwrap().to_string(), "[::1]:5");
    }

    #[test]
    fn addresses_and_fingerprints() {
        let network = |text: &str| text.parse::<Network>().map(|n| (n.address.to_string(), n.prefix));
        assert_eq!(network("10.0.0.5/24"), Ok(("10.0.0.5".into(), 24)));
        assert_eq!(network("2001:db8::5/64"), Ok(("2001:db8::5".into(), 64)));
        for text in ["10.0.0.5", "10.0.0.5/33", "::1/129", "x/1", "10.0.0.5/"] {
            assert!(network(text).is_err(), "{text}");
        }
        assert_eq!(parse_mac("5e:00:12:34:56:78"), Ok(Mac([0x5e, 0, 0x12, 0x34, 0x56, 0x78])));
        for text in ["", "5e:00:12:34:56", "01:00:00:00:00:01", "00:00:00:00:00:00", "5e:00:12:34:56:7g"] {
            assert!(parse_mac(text).is_err(), "{text}");
        }
        let mut want = [0xab; 32];
        want[31] = 0x0c;
        let plain = format!("{}0c", "ab".repeat(31));
        let colons = format!("sha256:{}0C", "AB:".repeat(31));
        for text in [&plain, &colons] {
            assert_eq!(parse_fingerprint(text), Ok(want), "{text}");
        }
        for text in ["", &plain[1..], &format!("{plain}0"), &plain.replace('c', "x")] {
            assert!(parse_fingerprint(text).is_err(), "{text}");
        }
    }
}
