//! The lease file: a line for each change, with a checksum, so that leases survive whatever ends the process.
//!
//! ```text
//! lease 100.64.0.9 1790000000 17 02:00:00:00:00:01 i:01020000000001 h:686f7374 1a2b3c4d
//! free  100.64.0.9 1789990000 17 02:00:00:00:00:01 i:01020000000001 h: 5e6f7a8b
//! out   100.64.0.9 1790000600 0badf00d
//! ```
//!
//! Address, until when (for `free`: since when; seconds since 1970), member, card, client (`i:` identifier, `d:` digest),
//! name, CRC-32 of all before. The last line for an address counts. A line that is torn or damaged is passed over.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::lease::ClientKey;
use crate::ids::MemberId;
use crate::wire::ethernet::Mac;

/// A line of the file, line end included.
pub(super) type Line = ArrayVec<u8, 384>;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Lease { address: Ipv4Addr, until_unix_s: u64, who: Who },
    Free { address: Ipv4Addr, since_unix_s: u64, who: Option<Who> },
    Out { address: Ipv4Addr, until_unix_s: u64 },
}

/// Who has or had an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) member: MemberId,
    pub(super) mac: Mac,
    pub(super) key: ClientKey,
    pub(super) host_name: Box<[u8]>,
}

impl Record {
    pub(super) fn to_line(&self) -> Line {
        let mut line = Line::new();
        // A line has room for the longest of everything.
        let _ = self.write(&mut line);
        let checksum = crc32(&line);
        let _ = writeln!(line, "{checksum:08x}");
        line
    }

    fn write(&self, line: &mut Line) -> std::io::Result<()> {
        match self {
            Self::Lease { address, until_unix_s, who } => {
                write!(line, "lease {address} {until_unix_s} ")?;
                who.write(line)
            }
            Self::Free { address, since_unix_s, who } => {
                write!(line, "free {address} {since_unix_s} ")?;
                who.as_ref().map_or(Ok(()), |who| who.write(line))
            }
            Self::Out { address, until_unix_s } => write!(line, "out {address} {until_unix_s} "),
        }
    }

    /// `None` unless `line`, without its end, is whole.
    pub(super) fn from_line(line: &[u8]) -> Option<Self> {
        let (said, checksum) = line.split_at_checked(line.len().checked_sub(8)?)?;
        let checksum = std::str::from_utf8(checksum).ok()?;
        if u32::from_str_radix(checksum, 16).ok()? != crc32(said) {
            return None;
        }
        let mut words = std::str::from_utf8(said).ok()?.split_ascii_whitespace();
        let kind = words.next()?;
        let address = words.next()?.parse().ok()?;
        let unix_s = words.next()?.parse().ok()?;
        let record = match kind {
            "lease" => Self::Lease { address, until_unix_s: unix_s, who: Who::read(&mut words)? },
            "free" => Self::Free { address, since_unix_s: unix_s, who: Who::read(&mut words) },
            "out" => Self::Out { address, until_unix_s: unix_s },
            _ => return None,
        };
        words.next().is_none().then_some(record)
    }
}

impl Who {
    fn write(&self, line: &mut Line) -> std::io::Result<()> {
        write!(line, "{} {} {}:", self.member.0, self.mac, if self.key.is_digest() { 'd' } else { 'i' })?;
        write_hex(line, self.key.bytes())?;
        line.write_all(b" h:")?;
        write_hex(line, &self.host_name[..self.host_name.len().min(HOST_NAME_BYTES_MAX)])?;
        line.write_all(b" ")
    }

    fn read<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Self> {
        let member = MemberId(words.next()?.parse().ok()?);
        let mut mac = [0; 6];
        let mut octets = words.next()?.split(':');
        for byte in &mut mac {
            *byte = u8::from_str_radix(octets.next()?, 16).ok()?;
        }
        let (kind, key) = words.next()?.split_once(':')?;
        let key = ClientKey::from_parts(&hex(key)?, kind == "d")?;
        let host_name = hex(words.next()?.strip_prefix("h:")?)?;
        Some(Self { member, mac: Mac(mac), key, host_name: host_name.as_slice().into() })
    }
}

fn write_hex(line: &mut Line, bytes: &[u8]) -> std::io::Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().try_for_each(|byte| line.write_all(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]))
}

fn hex(text: &str) -> Option<ArrayVec<u8, HOST_NAME_BYTES_MAX>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = ArrayVec::new();
    for pair in pairs {
        bytes.try_push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?).ok()?;
    }
    Some(bytes)
}

/// CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| crc >> 8 ^ CRC[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

#[allow(clippy::cast_possible_truncation, reason = "n is below 256")]
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};

/// As long as a label of DNS.
pub(super) const HOST_NAME_BYTES_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let address = Ipv4Addr::new(255, 255, 255, 254);
        let who = |id: &[u8], name: usize| Who {
            member: MemberId(u32::MAX),
            mac: Mac([0xfe; 6]),
            key: ClientKey::from_id(id),
            host_name: vec![b'\n'; name].into(),
        };
        vec![
            Record::Lease { address, until_unix_s: u64::MAX, who: who(&[0xff; 30], 63) },
            Record::Lease { address, until_unix_s: 0, who: who(&[0xff; 31], 0) },
            Record::Free { address, since_unix_s: 7, who: Some(who(&[1], 1)) },
            Record::Free { address, since_unix_s: 7, who: None },
            Record::Out { address, until_unix_s: 9 },
        ]
    }

    #[test]
    fn lines_are_read_as_written() {
        for record in records() {
            let line = record.to_line();
            assert!(!line.is_full(), "{record:?}");
            assert_eq!(Record::from_line(line.strip_suffix(b"\n").unwrap()), Some(record));
        }
    }

    #[test]
    fn damage_is_seen() {
        // The check value of CRC-32.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        for record in records() {
            let line = record.to_line();
            let line = line.strip_suffix(b"\n").unwrap();
            for at in 0..line.len() {
                assert_eq!(Record::from_line(&line[..at]), None, "cut at {at}");
                for bit in 0..8 {
                    let mut bad = line.to_vec();
                    bad[at] ^= 1 << bit;
                    // A digit of the checksum in capitals is the same digit.
                    let same = bad.eq_ignore_ascii_case(line) && at >= line.len() - 8;
                    assert!(same || Record::from_line(&bad).is_none(), "bit {bit} of {at}");
                }
            }
        }
    }
}
