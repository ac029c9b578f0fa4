//! DNS messages (RFC 1035 §4) as far as a forwarder looks into them: header, question, records, EDNS0 (RFC 6891).
//!
//! Names are walked over, never followed: a compression pointer ends a name (RFC 1035 §4.1.4), so no message makes a
//! walk longer than itself. Questions do not have pointers, as there is nothing before them to point to.
#![forbid(unsafe_code)]

use std::ops::Range;

/// Port of servers, UDP and TCP.
pub const PORT: u16 = 53;
/// Length of the header.
pub const HEADER_BYTES: usize = 12;
/// Longest UDP message where the asker says nothing else (RFC 1035 §4.2.1).
pub const UDP_BYTES_MIN: u16 = 512;

/// IPv4 address.
pub const TYPE_A: u16 = 1;
/// Start of a zone: says how long "there is none" holds (RFC 2308).
pub const TYPE_SOA: u16 = 6;
/// Name of an address.
pub const TYPE_PTR: u16 = 12;
/// IPv6 address.
pub const TYPE_AAAA: u16 = 28;
/// EDNS0.
pub const TYPE_OPT: u16 = 41;
/// Internet.
pub const CLASS_IN: u16 = 1;

/// It is an answer (QR).
pub const FLAG_ANSWER: u16 = 0x8000;
/// The answer is the zone's own (AA).
pub const FLAG_AUTHORITATIVE: u16 = 0x0400;
/// The answer was cut (TC).
pub const FLAG_TRUNCATED: u16 = 0x0200;
/// A resolver is asked to do the whole work (RD).
pub const FLAG_RECURSION_DESIRED: u16 = 0x0100;
/// It can (RA).
pub const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
/// Do not validate (CD).
pub const FLAG_CHECKING_DISABLED: u16 = 0x0010;

/// All is well, perhaps without records.
pub const RCODE_NO_ERROR: u8 = 0;
/// The question cannot be understood.
pub const RCODE_FORMAT: u8 = 1;
/// Something is wrong between here and there.
pub const RCODE_SERVER_FAILURE: u8 = 2;
/// There is no such name.
pub const RCODE_NO_NAME: u8 = 3;
/// The server will not.
pub const RCODE_REFUSED: u8 = 5;

/// A message with a whole header.
#[derive(Clone, Copy, Debug)]
pub struct Dns<'a>(&'a [u8]);

/// The one question of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// Labels with their lengths, the empty one at the end included.
    pub name: &'a [u8],
    /// Type.
    pub kind: u16,
    /// Class.
    pub class: u16,
    /// All bytes of it.
    pub bytes: &'a [u8],
}

/// A resource record, by its places in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Answer 0, authority 1, additional 2.
    pub section: u8,
    /// Type.
    pub kind: u16,
    /// Class; of an OPT record the UDP size of its sender.
    pub class: u16,
    /// Time to live in seconds; of an OPT record flags.
    pub ttl: u32,
    /// Where the time to live stands.
    pub ttl_at: usize,
    /// Where the data stand.
    pub data: Range<usize>,
    /// The whole record.
    pub whole: Range<usize>,
}

/// A walk over the records of a message; ends where one does not fit into it.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    section: u8,
    left: [u16; 3],
    is_broken: bool,
}

impl<'a> Dns<'a> {
    /// `None` unless `bytes` have a whole header.
    pub fn new_checked(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= HEADER_BYTES).then_some(Self(bytes))
    }

    /// By which asker and answerer know which question is meant.
    pub fn id(self) -> u16 {
        self.word(0)
    }

    /// The second word: flags, opcode and rcode.
    pub fn flags(self) -> u16 {
        self.word(2)
    }

    /// Whether it is an answer.
    pub fn is_answer(self) -> bool {
        self.flags() & FLAG_ANSWER != 0
    }

    /// Whether it was cut.
    pub fn is_truncated(self) -> bool {
        self.flags() & FLAG_TRUNCATED != 0
    }

    /// What kind of question it is; 0 for an ordinary one.
    pub fn opcode(self) -> u8 {
        ((self.flags() >> 11) & 0xf) as u8
    }

    /// How the answerer fared, without the bits that EDNS adds.
    pub fn rcode(self) -> u8 {
        (self.flags() & 0xf) as u8
    }

    /// The question; `None` unless there is exactly one (RFC 9619) and it is whole.
    pub fn question(self) -> Option<Question<'a>> {
        if self.word(4) != 1 {
            return None;
        }
        let name_end = uncompressed_name_end(self.0, HEADER_BYTES)?;
        let fixed: &[u8; 4] = self.0.get(name_end..)?.first_chunk()?;
        Some(Question {
            name: &self.0[HEADER_BYTES..name_end],
            kind: u16::from_be_bytes([fixed[0], fixed[1]]),
            class: u16::from_be_bytes([fixed[2], fixed[3]]),
            bytes: &self.0[HEADER_BYTES..name_end + 4],
        })
    }

    /// The records behind the one question; none if there is not exactly one.
    pub fn records(self) -> Records<'a> {
        let question = self.question().map_or(0, |question| question.bytes.len());
        let left = if question == 0 { [0; 3] } else { [self.word(6), self.word(8), self.word(10)] };
        Records { bytes: self.0, at: HEADER_BYTES + question, section: 0, left, is_broken: false }
    }

    /// The OPT record, whole.
    pub fn opt(self) -> Option<(Record, &'a [u8])> {
        let record = self.records().find(|record| record.section == ADDITIONAL && record.kind == TYPE_OPT)?;
        let bytes = &self.0[record.whole.clone()];
        Some((record, bytes))
    }

    /// The longest UDP answer its sender takes (RFC 6891 §6.2.3).
    pub fn udp_bytes_max(self) -> u16 {
        self.opt().map_or(UDP_BYTES_MIN, |(opt, _)| opt.class.max(UDP_BYTES_MIN))
    }

    fn word(self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }
}

impl Records<'_> {
    /// Whether the message ended before its records did.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn record(&self) -> Option<Record> {
        let fixed_at = name_end(self.bytes, self.at)?;
        let fixed: &[u8; 10] = self.bytes.get(fixed_at..)?.first_chunk()?;
        let data_at = fixed_at + fixed.len();
        let end = data_at + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        (end <= self.bytes.len()).then(|| Record {
            section: self.section,
            kind: u16::from_be_bytes([fixed[0], fixed[1]]),
            class: u16::from_be_bytes([fixed[2], fixed[3]]),
            ttl: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ttl_at: fixed_at + 4,
            data: data_at..end,
            whole: self.at..end,
        })
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        while *self.left.get(usize::from(self.section))? == 0 {
            self.section += 1;
        }
        if self.is_broken {
            return None;
        }
        let record = self.record();
        match &record {
            Some(record) => {
                self.at = record.whole.end;
                self.left[usize::from(self.section)] -= 1;
            }
            None => self.is_broken = true,
        }
        record
    }
}

/// Writes `id` into `message`, which has a header.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.first_chunk_mut() {
        *place = id.to_be_bytes();
    }
}

/// Where the name at `at` ends; a pointer ends it.
fn name_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=LABEL_BYTES_MAX => at += 1 + usize::from(length),
            0xc0.. => return (at + 2 <= bytes.len()).then_some(at + 2),
            // Kinds of labels that were never used (RFC 6891 §5).
            _ => return None,
        }
    }
}

/// Where the name at `at` ends, if it is written out and not too long.
fn uncompressed_name_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match *bytes.get(at)? {
            0 => return (at + 1 - from <= NAME_BYTES_MAX).then_some(at + 1),
            length @ 1..=LABEL_BYTES_MAX => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// Number of the section that an OPT record stands in.
pub const ADDITIONAL: u8 = 2;
/// RFC 1035 §2.3.4.
const LABEL_BYTES_MAX: u8 = 63;
/// RFC 1035 §2.3.4, lengths of labels included.
const NAME_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(counts: [u16; 4], parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 0x01, 0x20];
        counts.iter().for_each(|count| bytes.extend(count.to_be_bytes()));
        bytes.extend(parts.concat());
        bytes
    }

    const NAME: &[u8] = b"\x03wWw\x07example\x00";
    const OPT: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 4, 0, 10, 0, 0];

    #[test]
    fn header_and_question() {
        let bytes = message([1, 0, 0, 1], &[NAME, &[0, 28, 0, 1], OPT]);
        let dns = Dns::new_checked(&bytes).unwrap();
        assert_eq!((dns.id(), dns.flags(), dns.is_answer(), dns.opcode(), dns.rcode()), (0xabcd, 0x0120, false, 0, 0));
        let question = dns.question().unwrap();
        assert_eq!((question.name, question.kind, question.class), (NAME, TYPE_AAAA, CLASS_IN));
        assert_eq!(question.bytes.len(), NAME.len() + 4);
        let (opt, whole) = dns.opt().unwrap();
        assert_eq!((whole, opt.class, opt.ttl, dns.udp_bytes_max()), (OPT, 1232, 0x8000, 1232));
        assert!(Dns::new_checked(&bytes[..11]).is_none());
    }

    #[test]
    fn questions_that_are_none() {
        for (counts, parts) in [
            ([0, 0, 0, 0], vec![NAME, &[0, 1, 0, 1]]),
            ([2, 0, 0, 0], vec![NAME, &[0, 1, 0, 1], NAME, &[0, 1, 0, 1]]),
            ([1, 0, 0, 0], vec![NAME, &[0, 1, 0]]),
            ([1, 0, 0, 0], vec![&[0xc0, 0x0c], &[0, 1, 0, 1]]),
            ([1, 0, 0, 0], vec![&[0x40], &[0; 70]]),
            ([1, 0, 0, 0], vec![&[9, 1, 2]]),
        ] {
            let bytes = message(counts, &parts);
            assert_eq!(Dns::new_checked(&bytes).unwrap().question(), None, "{bytes:02x?}");
        }
        let labels = |count: usize| [b"\x03abc".repeat(count), vec![0, 0, 1, 0, 1]].concat();
        for (count, is_name) in [(63, true), (64, false)] {
            let bytes = message([1, 0, 0, 0], &[&labels(count)]);
            assert_eq!(Dns::new_checked(&bytes).unwrap().question().is_some(), is_name, "{count}");
        }
    }

    #[test]
    fn records_by_section() {
        let a = [&[0xc0, 0x0c][..], &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]].concat();
        let bytes = message([1, 1, 1, 1], &[NAME, &[0, 1, 0, 1], &a, &a, OPT]);
        let records: Vec<_> = Dns::new_checked(&bytes).unwrap().records().collect();
        let kinds: Vec<_> = records.iter().map(|r| (r.section, r.kind)).collect();
        assert_eq!(kinds, [(0, TYPE_A), (1, TYPE_A), (2, TYPE_OPT)]);
        assert_eq!((records[0].ttl, &bytes[records[0].data.clone()]), (60, &[10, 0, 0, 1][..]));
        assert_eq!(&bytes[records[1].ttl_at..][..4], [0, 0, 0, 60]);
        let mut cut = Dns::new_checked(&bytes[..bytes.len() - 1]).unwrap().records();
        assert_eq!((cut.by_ref().count(), cut.is_broken()), (2, true));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), question in any::<bool>()) {
            let mut bytes = bytes;
            if question && bytes.len() > 30 {
                bytes[4..6].copy_from_slice(&[0, 1]);
                bytes[12..12 + NAME.len()].copy_from_slice(NAME);
            }
            if let Some(dns) = Dns::new_checked(&bytes) {
                let mut records = dns.records();
                prop_assert!(records.by_ref().all(|record| record.whole.end <= bytes.len()));
                let _ = (dns.question(), dns.udp_bytes_max(), dns.opt());
            }
        }
    }
}
