//! Where members may go: not into address space that is no place of the Internet, not to the host itself, not to the
//! TCP ports by which worms and spam travel. Asked once for each flow, when it begins.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::plan::Prefix;
use crate::wire::tcp;

/// Destinations, all conditions together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Addresses.
    pub to: Prefix,
    /// Protocol number; `None`: any.
    pub protocol: Option<u8>,
    /// First and last port; `None`: any, also of protocols without ports.
    pub ports: Option<(u16, u16)>,
}

impl Rule {
    /// Everything there.
    pub const fn to(to: Prefix) -> Self {
        Self { to, protocol: None, ports: None }
    }

    /// Whether a packet to `port` at `address` is meant.
    pub fn matches(self, protocol: u8, address: Ipv4Addr, port: u16) -> bool {
        self.to.contains(address)
            && self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.ports.is_none_or(|(first, last)| (first..=last).contains(&port))
    }
}

/// What an operator may change. The default lets members reach the Internet only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// Whether special-purpose address space is closed.
    pub special_purpose: bool,
    /// Closed TCP ports.
    pub tcp_ports: Vec<(u16, u16)>,
    /// Closed destinations besides.
    pub deny: Vec<Rule>,
    /// Open all the same.
    pub allow: Vec<Rule>,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            special_purpose: true,
            tcp_ports: vec![(25, 25), (135, 139), (445, 445)],
            deny: Vec::new(),
            allow: Vec::new(),
        }
    }
}

/// Settings and the addresses of the host.
#[derive(Debug)]
pub(super) struct Policy {
    settings: PolicySettings,
    inside: Prefix,
    /// Sorted.
    host: Vec<Ipv4Addr>,
}

impl Policy {
    pub(super) fn new(settings: PolicySettings, inside: Prefix) -> Self {
        Self { settings, inside, host: Vec::new() }
    }

    pub(super) fn set(&mut self, settings: PolicySettings) {
        self.settings = settings;
    }

    pub(super) fn set_host_addresses(&mut self, addresses: &[Ipv4Addr]) {
        self.host = addresses.to_vec();
        self.host.sort_unstable();
    }

    /// Whether members may send there.
    pub(super) fn allows(&self, protocol: u8, address: Ipv4Addr, port: u16) -> bool {
        if self.settings.allow.iter().any(|rule| rule.matches(protocol, address, port)) {
            return true;
        }
        let closed_port =
            || protocol == tcp::PROTOCOL && self.settings.tcp_ports.iter().any(|(a, b)| (*a..=*b).contains(&port));
        !(self.inside.contains(address)
            || self.host.binary_search(&address).is_ok()
            || (self.settings.special_purpose && is_special(address))
            || closed_port()
            || self.settings.deny.iter().any(|rule| rule.matches(protocol, address, port)))
    }
}

/// Whether `address` is no unicast address of the Internet.
fn is_special(address: Ipv4Addr) -> bool {
    let address = u32::from(address);
    SPECIAL.iter().any(|(first, bits)| (address ^ u32::from_be_bytes(*first)) >> (32 - bits) == 0)
}

/// RFC 6890 and its registry, as far as not globally reachable, besides multicast.
const SPECIAL: &[([u8; 4], u32)] = &[
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn defaults() {
        let mut policy = Policy::new(PolicySettings::default(), prefix("25.0.0.0/16"));
        policy.set_host_addresses(&[address("9.9.9.9"), address("1.0.0.7")]);
        for (to, port, open) in [
            ("8.8.8.8", 53, true),
            ("8.8.8.8", 25, false),
            ("8.8.8.8", 134, true),
            ("8.8.8.8", 137, false),
            ("8.8.8.8", 445, false),
            ("169.254.169.254", 80, false),
            ("127.0.0.1", 80, false),
            ("10.255.255.255", 80, false),
            ("11.0.0.0", 80, true),
            ("172.15.255.255", 80, true),
            ("172.16.0.0", 80, false),
            ("172.31.255.255", 80, false),
            ("172.32.0.0", 80, true),
            ("192.168.3.4", 80, false),
            ("192.0.0.1", 80, false),
            ("192.0.1.1", 80, true),
            ("100.64.0.1", 80, false),
            ("100.128.0.0", 80, true),
            ("198.17.255.255", 80, true),
            ("198.19.255.255", 80, false),
            ("223.255.255.255", 80, true),
            ("224.0.0.1", 80, false),
            ("255.255.255.255", 80, false),
            ("0.0.0.0", 80, false),
            ("25.0.3.4", 80, false),
            ("9.9.9.9", 443, false),
            ("1.0.0.7", 443, false),
            ("1.0.0.8", 443, true),
        ] {
            assert_eq!(policy.allows(6, address(to), port), open, "{to}:{port}");
        }
        assert!(policy.allows(17, address("8.8.8.8"), 25), "the ports are those of TCP");
    }

    #[test]
    fn rules() {
        let settings = PolicySettings {
            allow: vec![
                Rule { to: prefix("192.168.1.0/24"), protocol: Some(6), ports: Some((80, 443)) },
                Rule::to(prefix("10.1.0.0/16")),
            ],
            deny: vec![Rule { to: prefix("8.0.0.0/8"), protocol: Some(17), ports: None }],
            ..PolicySettings::default()
        };
        let policy = Policy::new(settings, prefix("100.64.0.0/16"));
        for (protocol, to, port, open) in [
            (6, "192.168.1.9", 80, true),
            (6, "192.168.1.9", 444, false),
            (17, "192.168.1.9", 80, false),
            (6, "192.168.2.9", 80, false),
            (1, "10.1.2.3", 0, true),
            (6, "10.1.2.3", 25, true),
            (6, "8.8.8.8", 53, true),
            (17, "8.8.8.8", 53, false),
        ] {
            assert_eq!(policy.allows(protocol, address(to), port), open, "{protocol} {to}:{port}");
        }
    }
}
