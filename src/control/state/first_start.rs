//! The first start: certificates and one user are made, and a note says how to come in.
//!
//! The password is shown once and not kept; `hublane user reset` makes another.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::accounts::AccountStore;
use super::certificates::{self, ServerCertificates};
use super::{StateDir, StateError, secrets};
use crate::config::Config;

/// What a server needs of its state directory.
#[derive(Debug)]
pub struct Prepared {
    /// The accounts.
    pub accounts: Arc<AccountStore>,
    /// The certificates; taken once, for the TLS set-up.
    pub certificates: Option<ServerCertificates>,
    /// Kind and SHA-256 fingerprint of each.
    pub fingerprints: Vec<(&'static str, String)>,
    /// The user made just now, if this is the first start.
    pub first_user: Option<FirstUser>,
}

/// The user made at the first start.
#[derive(Debug)]
pub struct FirstUser {
    /// His hub: the first one configured.
    pub hub: String,
    /// His name.
    pub name: &'static str,
    /// Known only now.
    pub password: Zeroizing<String>,
}

/// Loads accounts and certificates; makes what is not there yet.
///
/// # Errors
/// As [`AccountStore::open`] and [`certificates::load`].
pub fn prepare(state: &StateDir, config: &Config) -> Result<Prepared, StateError> {
    let certificates = certificates::load(state.path(), &config.server.certificate)?;
    let accounts = Arc::new(AccountStore::open(state.path())?);
    let mut first_user = None;
    if accounts.is_new() {
        let hub = config.hubs.first().map_or(crate::config::DEFAULT_HUB, |hub| &hub.name).to_owned();
        let password = secrets::generate_password();
        accounts.add(&hub, FIRST_USER, &password)?;
        first_user = Some(FirstUser { hub, name: FIRST_USER, password });
    }
    let fingerprints = certificates.fingerprints();
    Ok(Prepared { accounts, certificates: Some(certificates), fingerprints, first_user })
}

impl Prepared {
    /// What to print once the server listens on `bound`: at the first start everything a member needs,
    /// later the fingerprints and how to get another password. `state` as the commands need it.
    pub fn note(&self, bound: &[SocketAddr], state: &Path) -> String {
        let mut note = String::new();
        let server = reachable(bound, &own_addresses());
        self.write_note(&mut note, server, state).expect("writing to a string cannot fail");
        note
    }

    fn write_note(&self, note: &mut String, server: SocketAddr, state: &Path) -> std::fmt::Result {
        match &self.first_user {
            Some(first) => first.write_note(note, server)?,
            None => writeln!(
                note,
                "Accounts: {}. A new password: hublane user reset NAME --hub HUB --state {}",
                self.accounts.list().len(),
                state.display()
            )?,
        }
        writeln!(note, "Certificate fingerprints (SHA-256):")?;
        for (kind, fingerprint) in &self.fingerprints {
            writeln!(note, "  {kind:<5}  {fingerprint}")?;
        }
        if let Some(first) = &self.first_user {
            writeln!(
                note,
                "The password is shown this once. A new one: hublane user reset {} --hub {} --state {}",
                first.name,
                quoted(&first.hub),
                state.display()
            )?;
        }
        Ok(())
    }
}

impl FirstUser {
    fn write_note(&self, note: &mut String, server: SocketAddr) -> std::fmt::Result {
        let Self { hub, name, password } = self;
        // Names may hold spaces and `&`; within double quotes the stock tool and shells take them as they are.
        writeln!(note, "First start. One user was made:")?;
        writeln!(note, "  hub       {hub}")?;
        writeln!(note, "  user      {name}")?;
        writeln!(note, "  password  {}", password.as_str())?;
        writeln!(note, "On a member's machine, with the stock client installed and running (vpnclient start):")?;
        let client = "vpncmd localhost /CLIENT /CMD";
        writeln!(note, "  {client} NicCreate vpn")?;
        writeln!(
            note,
            "  {client} AccountCreate hublane /SERVER:{server} /HUB:{} /USERNAME:{name} /NICNAME:vpn",
            quoted(hub)
        )?;
        writeln!(note, "  {client} AccountPasswordSet hublane /PASSWORD:{} /TYPE:standard", password.as_str())?;
        writeln!(note, "  {client} AccountConnect hublane")
    }
}

/// `name` as one word of a shell.
fn quoted(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@%".contains(&byte);
    if name.bytes().all(plain) { name.to_owned() } else { format!("\"{name}\"") }
}

/// The address to tell members: the first bound one; for "all addresses" one of this machine's own,
/// IPv4 first, since the stock tool's notation of IPv6 addresses is less certain.
fn reachable(bound: &[SocketAddr], own: &[IpAddr]) -> SocketAddr {
    let first = bound.first().copied().unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 443)));
    if !first.ip().is_unspecified() {
        return first;
    }
    let fits = |ip: &&IpAddr| first.is_ipv6() || ip.is_ipv4();
    let ip = own.iter().filter(fits).min_by_key(|ip| ip.is_ipv6()).copied();
    SocketAddr::new(ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), first.port())
}

/// Addresses of this machine that others may reach: neither loopback nor link-local.
fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let local = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    };
    interfaces.filter_map(address).filter(|ip| !local(ip)).collect()
}

const FIRST_USER: &str = "member1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::RawServer;

    #[test]
    fn the_note_has_every_line_and_comes_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(None, RawServer::default()).unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let first = prepare(&state, &config).unwrap();
        let password = first.first_user.as_ref().unwrap().password.to_string();
        let note = first.note(&["192.0.2.7:4430".parse().unwrap()], Path::new("/s"));
        for want in [
            "hub       PUBLIC",
            "user      member1",
            "AccountCreate hublane /SERVER:192.0.2.7:4430 /HUB:PUBLIC /USERNAME:member1 /NICNAME:vpn",
            &format!("AccountPasswordSet hublane /PASSWORD:{password} /TYPE:standard"),
            "/CMD AccountConnect hublane",
            "hublane user reset member1 --hub PUBLIC --state /s",
            &first.fingerprints[0].1,
            &first.fingerprints[1].1,
        ] {
            assert!(note.contains(want), "{want}\n{note}");
        }
        let hashed = *crate::tunnel::sha0::hashed_password(&password, "member1");
        assert_eq!(first.accounts.find("PUBLIC", "member1").unwrap().hashed_password.0, hashed);

        let later = prepare(&state, &config).unwrap();
        let note = later.note(&[], Path::new("/s"));
        assert!(later.first_user.is_none() && !note.contains("password  "), "{note}");
        assert!(note.contains("Accounts: 1.") && note.contains("hublane user reset"), "{note}");
        assert!(note.contains(&first.fingerprints[1].1), "{note}");
    }

    #[test]
    fn the_address_told_is_one_that_members_can_reach() {
        let own = ["2001:db8::1", "192.0.2.9"].map(|ip| ip.parse::<IpAddr>().unwrap());
        for (bound, own, want) in [
            ("[::]:443", &own[..], "192.0.2.9:443"),
            ("0.0.0.0:5555", &own[..], "192.0.2.9:5555"),
            ("[::]:443", &own[..1], "[2001:db8::1]:443"),
            ("0.0.0.0:443", &own[..1], "127.0.0.1:443"),
            ("198.51.100.1:992", &own[..], "198.51.100.1:992"),
            ("[::]:443", &[], "127.0.0.1:443"),
        ] {
            assert_eq!(reachable(&[bound.parse().unwrap()], own), want.parse().unwrap(), "{bound}");
        }
        assert_eq!((quoted("PUBLIC"), quoted("a b&c")), ("PUBLIC".to_owned(), "\"a b&c\"".to_owned()));
    }
}
