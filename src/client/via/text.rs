//! Ways as people write them (`--via socks5://me@proxy:1080`) and as environments hold them (`https_proxy`,
//! `all_proxy`, `no_proxy`, as curl reads them). Pure: the environment is an argument.
#![forbid(unsafe_code)]

use std::env;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;
use zeroize::Zeroizing;

use super::{Proxy, SshHost, Via, authority};

/// Why a text is no way.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WrongVia {
    /// A scheme that is none of ours.
    #[error(
        "there is no way {0:?}: write direct, http://[USER@]HOST:PORT, socks4://, socks4a://, socks5:// alike, or ssh://[USER@]HOST[:PORT]"
    )]
    Scheme(String),
    /// TLS to the proxy itself.
    #[error("TLS to the proxy itself (https://) is not spoken here: use the proxy's http:// port")]
    Https,
    /// No host, or none that can be one.
    #[error("{0:?} has no valid host name or address")]
    Host(String),
    /// No port, or none that can be one.
    #[error("{0:?} needs a port from 1 to 65535, as in http://proxy:3128")]
    Port(String),
    /// A user that cannot be one.
    #[error("the user in {0:?} is empty or has characters that a user cannot have")]
    User(String),
    /// A password where other users of this machine can read it.
    #[error(
        "a password does not belong on the command line, where others can read it: leave it away and set HUBLANE_PROXY_PASSWORD, name a file with --proxy-password-file, or type it when asked"
    )]
    Password,
    /// Something behind host and port.
    #[error("{0:?} has something behind host and port")]
    Trailing(String),
    /// A variable of the environment is wrong.
    #[error("{variable} of the environment: {wrong}")]
    Variable {
        /// Its name.
        variable: &'static str,
        /// What is wrong.
        wrong: Box<WrongVia>,
    },
}

impl FromStr for Via {
    type Err = WrongVia;

    /// As on a command line: a password is refused.
    fn from_str(text: &str) -> Result<Self, WrongVia> {
        parse(text, false)
    }
}

impl Via {
    /// What this process's environment says about the way to `host`; `None` if nothing.
    ///
    /// # Errors
    /// If a variable that counts is set to something that is no way.
    pub fn from_environment(host: &str) -> Result<Option<Self>, WrongVia> {
        Self::from_variables(host, |name| env::var(name).ok())
    }

    /// As [`Self::from_environment`], of any environment.
    ///
    /// # Errors
    /// As there.
    pub fn from_variables(host: &str, get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, WrongVia> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        // Lower case comes first, as in curl.
        let exceptions = get("no_proxy").or_else(|| get("NO_PROXY")).unwrap_or_default();
        if is_exempt(host, &exceptions) {
            return Ok(None);
        }
        for variable in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            let Some(value) = get(variable) else { continue };
            let value = value.trim();
            let value = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
            return match parse(&value, true) {
                Ok(via) => Ok(Some(via)),
                Err(wrong) => Err(WrongVia::Variable { variable, wrong: Box::new(wrong) }),
            };
        }
        Ok(None)
    }
}

impl fmt::Display for Via {
    /// As it would be typed, without a password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, proxy) = match self {
            Self::Direct => return out.write_str("direct"),
            Self::Ssh(host) => return write!(out, "ssh://{host}"),
            Self::Http(proxy) => ("http", proxy),
            Self::Socks4(proxy) => ("socks4", proxy),
            Self::Socks4a(proxy) => ("socks4a", proxy),
            Self::Socks5(proxy) => ("socks5", proxy),
        };
        write!(out, "{scheme}://")?;
        if let Some(user) = &proxy.user {
            write!(out, "{}@", encoded(user))?;
        }
        write!(out, "{proxy}")
    }
}

impl fmt::Display for SshHost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(out, "{user}@")?;
        }
        match self.port {
            Some(port) => out.write_str(&authority(&self.host, port)),
            None if self.host.contains(':') => write!(out, "[{}]", self.host),
            None => out.write_str(&self.host),
        }
    }
}

fn parse(text: &str, may_have_password: bool) -> Result<Via, WrongVia> {
    if text.eq_ignore_ascii_case("direct") {
        return Ok(Via::Direct);
    }
    let Some((scheme, rest)) = text.split_once("://") else { return Err(WrongVia::Scheme(text.to_owned())) };
    let scheme = scheme.to_ascii_lowercase();
    let proxy = || proxy(text, rest, may_have_password, if scheme == "http" { None } else { Some(SOCKS_PORT) });
    Ok(match scheme.as_str() {
        "http" => Via::Http(proxy()?),
        "socks4" => Via::Socks4(proxy()?),
        "socks4a" => Via::Socks4a(proxy()?),
        // curl's name for SOCKS 5 with names resolved by the proxy, which is the only one there is here.
        "socks5" | "socks5h" => Via::Socks5(proxy()?),
        "ssh" => Via::Ssh(ssh(text, rest)?),
        "https" => return Err(WrongVia::Https),
        _ => return Err(WrongVia::Scheme(without_password(text))),
    })
}

fn proxy(text: &str, rest: &str, may_have_password: bool, usual_port: Option<u16>) -> Result<Proxy, WrongVia> {
    let Parts { user, password, place } = parts(rest)?;
    if password.is_some() && !may_have_password {
        return Err(WrongVia::Password);
    }
    let shown = || without_password(text);
    let (host, port) = host_and_port(place).map_err(|wrong| wrong.named(shown()))?;
    let port = port.or(usual_port).ok_or_else(|| WrongVia::Port(shown()))?;
    if user.as_ref().is_some_and(|user| user.is_empty() || user.chars().any(char::is_control)) {
        return Err(WrongVia::User(shown()));
    }
    Ok(Proxy { host, port, user, password })
}

fn ssh(text: &str, rest: &str) -> Result<SshHost, WrongVia> {
    let Parts { user, password, place } = parts(rest)?;
    if password.is_some() {
        return Err(WrongVia::Password);
    }
    let (host, port) = host_and_port(place).map_err(|wrong| wrong.named(text.to_owned()))?;
    // Neither may be taken for an option of ssh, nor for a second host by ssh's own way of writing users.
    let is_odd = |user: &String| {
        user.is_empty() || user.starts_with('-') || user.chars().any(|c| c.is_control() || " @\"'`$;&|<>\\".contains(c))
    };
    if user.as_ref().is_some_and(is_odd) {
        return Err(WrongVia::User(text.to_owned()));
    }
    Ok(SshHost { host, port, user })
}

/// What stands behind the scheme: user and password, decoded, and the rest.
#[derive(Default)]
struct Parts<'a> {
    user: Option<String>,
    password: Option<Zeroizing<String>>,
    place: &'a str,
}

fn parts(rest: &str) -> Result<Parts<'_>, WrongVia> {
    // One slash at the end is how URLs are often written.
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let Some((who, place)) = rest.rsplit_once('@') else {
        return Ok(Parts { place: rest, ..Parts::default() });
    };
    let wrong = || WrongVia::User(place.to_owned());
    let (user, password) = match who.split_once(':') {
        Some((user, password)) => (user, Some(Zeroizing::new(decoded(password).ok_or_else(wrong)?))),
        None => (who, None),
    };
    Ok(Parts { user: Some(decoded(user).ok_or_else(wrong)?), password, place })
}

/// What is wrong with a place, before it is known what is to be shown of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongPlace {
    /// The host.
    Host,
    /// The port.
    Port,
    /// Something behind it.
    Trailing,
}

impl WrongPlace {
    fn named(self, text: String) -> WrongVia {
        match self {
            Self::Host => WrongVia::Host(text),
            Self::Port => WrongVia::Port(text),
            Self::Trailing => WrongVia::Trailing(text),
        }
    }
}

/// `host`, `host:port`, `address`, `[address]:port`; an IPv6 address without brackets has no port behind it.
///
/// # Errors
/// What of it is wrong.
pub fn host_and_port(place: &str) -> Result<(String, Option<u16>), WrongPlace> {
    if place.contains(['/', '?', '#']) {
        return Err(WrongPlace::Trailing);
    }
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, behind) = rest.split_once(']').ok_or(WrongPlace::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| WrongPlace::Host)?;
        match behind.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if behind.is_empty() => (host, None),
            None => return Err(WrongPlace::Trailing),
        }
    } else if place.parse::<Ipv6Addr>().is_ok() {
        (place, None)
    } else {
        place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)))
    };
    if !is_host(host) {
        return Err(WrongPlace::Host);
    }
    let number = |port: &str| port.parse().ok().filter(|port| *port != 0).ok_or(WrongPlace::Port);
    Ok((host.to_owned(), port.map(number).transpose()?))
}

/// True if it can be a name or an address: nothing that a proxy, a log or `ssh` could take for anything else.
pub fn is_host(host: &str) -> bool {
    if host.contains(':') {
        return host.parse::<Ipv6Addr>().is_ok();
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    (1..=HOST_BYTES_MAX).contains(&host.len()) && !host.starts_with(['-', '.']) && host.chars().all(is_plain)
}

/// True if `no_proxy` names `host`: `*`, a name and all below it, an address, or a network.
fn is_exempt(host: &str, no_proxy: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok();
    let entries = no_proxy.split([',', ' ', '\t']).map(str::trim).filter(|entry| !entry.is_empty());
    for entry in entries {
        let entry = entry.to_ascii_lowercase();
        let entry = entry.trim_start_matches("*.").trim_matches('.');
        // A port, which some programs compare, says nothing here.
        let bare = host_and_port(entry).map_or_else(|_| entry.to_owned(), |(host, _)| host);
        let found = match address {
            Some(address) => bare.parse() == Ok(address) || is_in_network(address, entry),
            None => bare == host || host.strip_suffix(bare.as_str()).is_some_and(|front| front.ends_with('.')),
        };
        if entry == "*" || found {
            return true;
        }
    }
    false
}

fn is_in_network(address: IpAddr, network: &str) -> bool {
    let Some((base, bits)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) if bits <= 32 => {
            let shift = 32 - bits;
            u64::from(address.to_bits()) >> shift == u64::from(base.to_bits()) >> shift
        }
        (IpAddr::V6(address), IpAddr::V6(base)) if bits <= 128 => {
            bits == 0 || address.to_bits() >> (128 - bits) == base.to_bits() >> (128 - bits)
        }
        _ => false,
    }
}

/// Percent-decoded, as UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) {
            all.push(c);
        } else {
            all.push_str(&format!("%{byte:02X}"));
        }
        all
    })
}

fn without_password(text: &str) -> String {
    let Some((front, place)) = text.rsplit_once('@') else { return text.to_owned() };
    let at = front.find("://").map_or(0, |at| at + 3);
    let user = front[at..].split(':').next().unwrap_or_default();
    format!("{}{user}@{place}", &front[..at])
}

/// Where SOCKS proxies listen if nobody says otherwise (IANA).
const SOCKS_PORT: u16 = 1080;

/// Longest name (RFC 1035 §2.3.4); also what fits into SOCKS 5.
const HOST_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn via(text: &str) -> Via {
        text.parse().unwrap_or_else(|wrong| panic!("{text}: {wrong}"))
    }

    #[test]
    fn what_is_typed_is_understood_and_shown_the_same() {
        for text in [
            "direct",
            "http://proxy:3128",
            "http://me@proxy.example:8080",
            "http://a%40b@[2001:db8::1]:3128",
            "socks4://me@10.0.0.1:1080",
            "socks4a://proxy:1081",
            "socks5://me@proxy:1080",
            "ssh://host",
            "ssh://me@host",
            "ssh://me@host:2222",
            "ssh://me@[::1]:22",
        ] {
            assert_eq!(via(text).to_string(), text);
        }
        assert_eq!(via("SOCKS5H://proxy/").to_string(), "socks5://proxy:1080");
        let Via::Http(proxy) = via("http://a%40b@proxy:1") else { panic!("http") };
        assert_eq!((proxy.user.as_deref(), proxy.password), (Some("a@b"), None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, said) in [
            ("", "there is no way"),
            ("proxy:3128", "there is no way"),
            ("ftp://proxy:3128", "there is no way"),
            ("https://proxy:3128", "TLS to the proxy itself"),
            ("http://proxy", "needs a port"),
            ("http://proxy:0", "needs a port"),
            ("http://proxy:65536", "needs a port"),
            ("http://proxy:", "needs a port"),
            ("http://:3128", "no valid host"),
            ("http://pro xy:3128", "no valid host"),
            ("http://[::1:3128", "no valid host"),
            ("http://[proxy]:3128", "no valid host"),
            ("http://[::1]3128", "behind host and port"),
            ("http://proxy:3128/path", "behind host and port"),
            ("http://@proxy:3128", "the user"),
            ("http://%zz@proxy:3128", "the user"),
            ("http://a%0d%0ab@proxy:3128", "the user"),
            ("http://me:secret@proxy:3128", "command line"),
            ("ssh://me:secret@host", "command line"),
            ("ssh://-oProxyCommand=x", "no valid host"),
            ("ssh://-l@host", "the user"),
            ("ssh://a b@host", "the user"),
        ] {
            let wrong = text.parse::<Via>().expect_err(text).to_string();
            assert!(wrong.contains(said), "{text}: {wrong}");
            assert!(!wrong.contains("secret"), "{text}: {wrong}");
        }
        let wrong = "ftp://me:secret@proxy:1".parse::<Via>().unwrap_err().to_string();
        assert!(wrong.contains("ftp://me@proxy:1"), "{wrong}");
    }

    #[test]
    fn passwords_are_asked_for_where_there_are_some() {
        for (text, needs) in [
            ("direct", false),
            ("http://proxy:1", false),
            ("http://me@proxy:1", true),
            ("socks4://me@proxy:1", false),
            ("socks5://me@proxy:1", true),
            ("ssh://me@host", false),
        ] {
            let mut way = via(text);
            assert_eq!(way.needs_password(), needs, "{text}");
            way.set_password(Zeroizing::new("secret".into()));
            assert!(!way.needs_password());
            assert!(!format!("{way:?} {way}").contains("secret"), "{text}");
        }
    }

    fn environment(host: &str, variables: &[(&str, &str)]) -> String {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        match Via::from_variables(host, get) {
            Ok(via) => via.map_or("none".into(), |via| via.to_string()),
            Err(wrong) => wrong.to_string(),
        }
    }

    #[test]
    fn the_environment_counts_as_for_curl() {
        let of = |variables: &[(&str, &str)]| environment("vpn.example.com", variables);
        assert_eq!(of(&[]), "none");
        assert_eq!(of(&[("http_proxy", "http://a:1")]), "none");
        assert_eq!(of(&[("https_proxy", "a:1")]), "http://a:1");
        assert_eq!(of(&[("https_proxy", " ")]), "none");
        assert_eq!(of(&[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:1")]), "http://b:1");
        assert_eq!(of(&[("ALL_PROXY", "socks5h://a:1"), ("HTTPS_PROXY", "b:2")]), "http://b:2");
        assert_eq!(of(&[("ALL_PROXY", "socks5h://a:1/")]), "socks5://a:1");
        assert!(of(&[("all_proxy", "https://a:1")]).starts_with("all_proxy of the environment: TLS to the proxy"));
        assert!(!of(&[("all_proxy", "xx://u:secret@a:1")]).contains("secret"));
        let get = |name: &str| (name == "https_proxy").then(|| "http://u:p%3a@a:1".to_owned());
        let Ok(Some(Via::Http(proxy))) = Via::from_variables("h", get) else { panic!("http") };
        assert_eq!(proxy.password.as_ref().map(|password| password.as_str()), Some("p:"));
    }

    #[test]
    fn no_proxy_exempts() {
        for (host, list, exempt) in [
            ("vpn.example.com", "*", true),
            ("vpn.example.com", "example.com", true),
            ("vpn.example.com", "a, .EXAMPLE.com", true),
            ("vpn.example.com", "*.example.com", true),
            ("vpn.example.com.", "vpn.example.com:443", true),
            ("badexample.com", "example.com", false),
            ("example.com", "vpn.example.com", false),
            ("example.com", "", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.0.0.0/8", true),
            ("10.1.2.3", "0.0.0.0/0", true),
            ("10.1.2.3", "10.1.3.0/24", false),
            ("10.1.2.3", "10.1.2.3/33", false),
            ("10.1.2.3", "3", false),
            ("2001:db8::5", "2001:db8::/32", true),
            ("2001:db8::5", "::/0", true),
            ("2001:db8::5", "2001:db8::5", true),
            ("2001:db8::5", "[2001:db8::6]", false),
        ] {
            let got = environment(host, &[("no_proxy", list), ("https_proxy", "p:1")]);
            assert_eq!(got == "none", exempt, "{host} {list}: {got}");
        }
    }
}
