//! Names of members in a zone of the hub's own, from the host names their DHCP clients send.
//!
//! A name belongs to the first who has it, as long as he has an address: nobody can take another's by claiming it. The
//! names of addresses (`9.0.64.100.in-addr.arpa`) come from the same table.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crate::wire::dns::{CLASS_IN, Question, TYPE_A, TYPE_PTR};

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It is not about this zone.
    Elsewhere,
    /// There is no such name.
    NoName,
    /// The name has no such record.
    NoData,
    /// This record: its data.
    Data(Vec<u8>),
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Names {
    /// The zone as on the wire, lower case, without the empty label at the end. Empty: there is none.
    zone: Vec<u8>,
    first: u32,
    last: u32,
    by_name: HashMap<Box<[u8]>, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, Box<[u8]>>,
}

impl Names {
    /// For `zone`, and for the addresses from `first` to `last`, each of which can have one name.
    pub(super) fn new(zone: Option<&str>, first: Ipv4Addr, last: Ipv4Addr) -> Self {
        Self {
            zone: zone.and_then(wire_form).unwrap_or_default(),
            first: first.into(),
            last: last.into(),
            by_name: HashMap::new(),
            by_address: HashMap::new(),
        }
    }

    /// `address` is with the host `name`; no name, one of other characters than host names have (RFC 1123 §2.1), or one
    /// that somebody has: it is with a host without one.
    pub(super) fn set(&mut self, address: Ipv4Addr, name: &[u8]) {
        self.clear(address);
        let label = name.split(|byte| *byte == b'.').next().unwrap_or_default();
        let is_inside = (self.first..=self.last).contains(&u32::from(address));
        if self.zone.is_empty() || !is_inside || !is_host_label(label) {
            return;
        }
        let label: Box<[u8]> = label.to_ascii_lowercase().into();
        if self.by_name.contains_key(&label) {
            return;
        }
        self.by_name.insert(label.clone(), address);
        self.by_address.insert(address, label);
    }

    /// `address` is with nobody.
    pub(super) fn clear(&mut self, address: Ipv4Addr) {
        if let Some(name) = self.by_address.remove(&address) {
            self.by_name.remove(&name);
        }
    }

    /// What the zone has to say to `question`.
    pub(super) fn answer(&self, question: &Question<'_>) -> Said {
        if self.zone.is_empty() || question.class != CLASS_IN {
            return Said::Elsewhere;
        }
        let name = question.name.to_ascii_lowercase();
        let name = name.strip_suffix(&[0]).unwrap_or(&name);
        if let Some(address) = reverse(name) {
            return match self.by_address.get(&address) {
                _ if !(self.first..=self.last).contains(&u32::from(address)) => Said::Elsewhere,
                None => Said::NoName,
                Some(_) if question.kind != TYPE_PTR => Said::NoData,
                Some(label) => Said::Data([&label_with_length(label), &self.zone[..], &[0]].concat()),
            };
        }
        let Some(host) = under(name, &self.zone) else { return Said::Elsewhere };
        if host.is_empty() {
            return Said::NoData;
        }
        let label = &host[1..];
        match self.by_name.get(label) {
            // One label, and nothing beneath it.
            Some(address) if usize::from(host[0]) == label.len() => match question.kind {
                TYPE_A => Said::Data(address.octets().to_vec()),
                _ => Said::NoData,
            },
            _ => Said::NoName,
        }
    }
}

/// What stands before `zone` in `name`, both in wire form; `None` if `name` is not in it.
fn under<'n>(name: &'n [u8], zone: &[u8]) -> Option<&'n [u8]> {
    let mut at = 0;
    // Label by label: the last bytes of a longer label may look like the zone.
    while name.len() - at >= zone.len() {
        if &name[at..] == zone {
            return Some(&name[..at]);
        }
        at += 1 + usize::from(*name.get(at)?);
        if at > name.len() {
            return None;
        }
    }
    None
}

/// The address that `name` is the reverse name of.
fn reverse(name: &[u8]) -> Option<Ipv4Addr> {
    let mut rest = name.strip_suffix(b"\x07in-addr\x04arpa")?;
    let mut octets = [0; 4];
    for octet in octets.iter_mut().rev() {
        let (length, tail) = rest.split_first()?;
        let (label, tail) = tail.split_at_checked(usize::from(*length))?;
        *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
        rest = tail;
    }
    rest.is_empty().then(|| octets.into())
}

/// `text` as labels with their lengths; `None` if it is no name of a zone.
fn wire_form(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for label in text.trim_end_matches('.').split('.') {
        if !is_host_label(label.as_bytes()) {
            return None;
        }
        bytes.extend(label_with_length(&label.as_bytes().to_ascii_lowercase()));
    }
    (bytes.len() <= ZONE_BYTES_MAX).then_some(bytes)
}

fn label_with_length(label: &[u8]) -> Vec<u8> {
    let length = u8::try_from(label.len()).expect("checked by is_host_label");
    [&[length], label].concat()
}

fn is_host_label(label: &[u8]) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    matches!(label.len(), 1..=63) && label.iter().all(inner) && label[0] != b'-' && label[label.len() - 1] != b'-'
}

/// Leaves room for a host before it (RFC 1035 §2.3.4: 255).
const ZONE_BYTES_MAX: usize = 190;

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(names: &Names, name: &[u8], kind: u16) -> Said {
        names.answer(&Question { name, kind, class: CLASS_IN, bytes: &[] })
    }

    fn address(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(100, 64, 0, n)
    }

    fn names() -> Names {
        Names::new(Some("Hub.internal."), address(0), address(255))
    }

    #[test]
    fn dns_n8_names_of_members() {
        let mut names = names();
        names.set(address(9), b"Laptop.home.example");
        let laptop = b"\x06lapTOP\x03hub\x08internal\x00";
        assert_eq!(asked(&names, laptop, TYPE_A), Said::Data(vec![100, 64, 0, 9]));
        assert_eq!(asked(&names, laptop, 28), Said::NoData);
        assert_eq!(asked(&names, b"\x05other\x03hub\x08internal\x00", TYPE_A), Said::NoName);
        assert_eq!(asked(&names, b"\x01a\x06laptop\x03hub\x08internal\x00", TYPE_A), Said::NoName);
        assert_eq!(asked(&names, b"\x03hub\x08internal\x00", 6), Said::NoData);
        assert_eq!(asked(&names, b"\x0cx\x03hub\x08internal\x00", TYPE_A), Said::Elsewhere, "not at a label's border");
        assert_eq!(asked(&names, b"\x06laptop\x08internal\x00", TYPE_A), Said::Elsewhere);
        assert_eq!(asked(&names, b"\x00", TYPE_A), Said::Elsewhere);
        let reverse = b"\x019\x010\x0264\x03100\x07in-addr\x04arpa\x00";
        assert_eq!(asked(&names, reverse, TYPE_PTR), Said::Data(b"\x06laptop\x03hub\x08internal\x00".to_vec()));
        names.clear(address(9));
        assert_eq!(asked(&names, reverse, TYPE_PTR), Said::NoName);
        assert_eq!(asked(&names, b"\x011\x010\x010\x0210\x07in-addr\x04arpa\x00", TYPE_PTR), Said::Elsewhere);
        assert_eq!(asked(&names, laptop, TYPE_A), Said::NoName);
    }

    /// Nobody takes the name of another, nor puts anything but a name into the zone.
    #[test]
    fn dns_n8_first_come() {
        let mut names = names();
        names.set(address(1), b"printer");
        names.set(address(2), b"PRINTER");
        let printer = b"\x07printer\x03hub\x08internal\x00";
        assert_eq!(asked(&names, printer, TYPE_A), Said::Data(vec![100, 64, 0, 1]));
        names.clear(address(2));
        assert_eq!(asked(&names, printer, TYPE_A), Said::Data(vec![100, 64, 0, 1]));
        names.set(address(1), b"scanner");
        assert_eq!(asked(&names, printer, TYPE_A), Said::NoName, "renamed");
        for bad in [&b""[..], b"-a", b"a-", b"a b", b"*", b"a\0b", &[b'a'; 64], "ä".as_bytes()] {
            names.set(address(3), bad);
            assert_eq!(names.by_address.get(&address(3)), None);
        }
        names.set(Ipv4Addr::new(8, 8, 8, 8), b"outside");
        assert_eq!(names.by_name.len(), 1);
    }

    #[test]
    fn dns_n8_without_zone() {
        for zone in [None, Some(""), Some("a..b"), Some("a b")] {
            let mut names = Names::new(zone, address(0), address(255));
            names.set(address(9), b"laptop");
            assert_eq!(asked(&names, b"\x06laptop\x00", TYPE_A), Said::Elsewhere);
        }
    }
}
