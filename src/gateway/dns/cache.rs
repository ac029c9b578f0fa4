//! Answers kept for a while, if the operator wants that.
//!
//! The key is the whole question with its flags and options: nobody gets an answer to what another asked otherwise. Kept
//! are answers of up to [`ANSWER_BYTES_MAX`] that are not cut, for their shortest time to live; "there is none" only
//! where a SOA record says for how long (RFC 2308 §5). Bounded by entries and by bytes; the oldest makes room.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};

use crate::tick::Tick;
use crate::wire::dns::{Dns, RCODE_NO_ERROR, RCODE_NO_NAME, TYPE_OPT, TYPE_SOA};

/// See the module text.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Box<[u8]>, Entry>,
    /// Keys by age, with the number of the entry they meant: a key may have been used again.
    order: VecDeque<(Box<[u8]>, u64)>,
    entries_max: usize,
    bytes_max: usize,
    bytes: usize,
    number: u64,
}

#[derive(Debug)]
struct Entry {
    answer: Box<[u8]>,
    since: Tick,
    ttl_s: u64,
    number: u64,
}

impl Cache {
    pub(super) fn new(entries_max: usize, bytes_max: usize) -> Self {
        let (entries, order) = (HashMap::new(), VecDeque::new());
        Self { entries, order, entries_max, bytes_max, bytes: 0, number: 0 }
    }

    /// The answer to `question` (its id is 0), with what is left of its times to live.
    pub(super) fn get(&self, question: &[u8], now: Tick) -> Option<Vec<u8>> {
        let entry = self.entries.get(question)?;
        let age_s = now.since(entry.since).as_secs();
        if age_s >= entry.ttl_s {
            return None;
        }
        let mut answer = entry.answer.to_vec();
        for record in Dns::new_checked(&entry.answer)?.records().filter(|record| record.kind != TYPE_OPT) {
            let left = record.ttl.saturating_sub(u32::try_from(age_s).unwrap_or(u32::MAX));
            answer[record.ttl_at..][..4].copy_from_slice(&left.to_be_bytes());
        }
        Some(answer)
    }

    /// Keeps `answer`, if it is one to keep.
    pub(super) fn put(&mut self, question: &[u8], answer: &[u8], now: Tick) {
        let Some(ttl_s) = time_to_live(answer).filter(|ttl| *ttl > 0) else { return };
        let size = question.len() * 2 + answer.len() + ENTRY_BYTES;
        if self.entries_max == 0 || answer.len() > ANSWER_BYTES_MAX || size > self.bytes_max {
            return;
        }
        self.forget(question);
        while self.order.len() >= self.entries_max || self.bytes + size > self.bytes_max {
            let Some((key, number)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
                self.forget(&key);
            }
        }
        self.number += 1;
        self.bytes += size;
        self.order.push_back((question.into(), self.number));
        let entry = Entry { answer: answer.into(), since: now, ttl_s: u64::from(ttl_s), number: self.number };
        self.entries.insert(question.into(), entry);
    }

    fn forget(&mut self, question: &[u8]) {
        if let Some(entry) = self.entries.remove(question) {
            self.bytes -= question.len() * 2 + entry.answer.len() + ENTRY_BYTES;
        }
    }
}

/// For how many seconds `answer` may be kept; `None`: not at all.
fn time_to_live(answer: &[u8]) -> Option<u32> {
    let dns = Dns::new_checked(answer)?;
    if dns.is_truncated() || !matches!(dns.rcode(), RCODE_NO_ERROR | RCODE_NO_NAME) {
        return None;
    }
    dns.question()?;
    let mut shortest = TTL_MAX_S;
    let (mut has_answer, mut negative) = (false, None);
    let mut records = dns.records();
    for record in records.by_ref().filter(|record| record.kind != TYPE_OPT) {
        shortest = shortest.min(record.ttl);
        has_answer |= record.section == 0;
        if record.kind == TYPE_SOA && record.section == 1 {
            let minimum = answer[record.data].last_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
            negative = Some(minimum.min(record.ttl));
        }
    }
    if records.is_broken() {
        return None;
    }
    let is_negative = !has_answer || dns.rcode() == RCODE_NO_NAME;
    if is_negative { Some(negative?.min(shortest).min(NEGATIVE_MAX_S)) } else { Some(shortest) }
}

/// Longer ones are rare, and would push out many others.
const ANSWER_BYTES_MAX: usize = 4096;
/// What the tables take for an entry.
const ENTRY_BYTES: usize = 128;
/// RFC 8767 §4 has a week; a wrong answer should not stay that long.
const TTL_MAX_S: u32 = 86_400;
/// RFC 2308 §5.
const NEGATIVE_MAX_S: u32 = 10_800;

#[cfg(test)]
mod tests {
    use super::*;

    fn question(n: u32) -> Vec<u8> {
        let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8];
        message.extend(format!("{n:08x}").as_bytes());
        message.extend([0, 0, 1, 0, 1]);
        message
    }

    /// An answer to `question` with records: section, kind, ttl, data.
    fn answer(question: &[u8], flags: u16, records: &[(usize, u8, u32, &[u8])]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        for (section, kind, ttl, data) in records {
            message[7 + section * 2] += 1;
            message.extend([0xc0, 12, 0, *kind, 0, 1]);
            message.extend(ttl.to_be_bytes());
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(*data);
        }
        message
    }

    fn at(s: u64) -> Tick {
        Tick::from_ms(s * 1000)
    }

    #[test]
    fn dns_n7_kept_as_long_as_it_holds() {
        let asked = question(0);
        let told = answer(&asked, 0x8180, &[(0, 1, 300, &[10, 0, 0, 1]), (0, 1, 100, &[10, 0, 0, 2])]);
        let mut cache = Cache::new(10, 1 << 20);
        assert_eq!(cache.get(&asked, at(5)), None);
        cache.put(&asked, &told, at(5));
        assert_eq!(cache.get(&asked, at(5)), Some(told));
        let aged = answer(&asked, 0x8180, &[(0, 1, 201, &[10, 0, 0, 1]), (0, 1, 1, &[10, 0, 0, 2])]);
        assert_eq!(cache.get(&asked, at(104)), Some(aged));
        assert_eq!(cache.get(&asked, at(105)), None);
        let mut other_flags = asked.clone();
        other_flags[3] = 0x10;
        assert_eq!(cache.get(&other_flags, at(6)), None, "another question");
    }

    /// RFC 2308: N5's second half.
    #[test]
    fn dns_n5_negative_answers_hold_as_the_soa_says() {
        let asked = question(0);
        let soa = |minimum: u32| [&[0u8; 18][..], &minimum.to_be_bytes()].concat();
        for (flags, records, holds) in [
            (0x8183u16, vec![(1, 6, 600, soa(60))], Some(60)),
            (0x8183, vec![(1, 6, 30, soa(60))], Some(30)),
            (0x8180, vec![(1, 6, 600, soa(60))], Some(60)),
            (0x8183, vec![(1, 6, 90_000, soa(90_000))], Some(10_800)),
            (0x8183, vec![], None),
            (0x8180, vec![], None),
            (0x8182, vec![(1, 6, 600, soa(60))], None),
            (0x8380, vec![(0, 1, 600, vec![1, 2, 3, 4])], None),
            (0x8180, vec![(0, 1, 600, vec![1, 2, 3, 4])], Some(600)),
            (0x8180, vec![(0, 1, 600_000, vec![1, 2, 3, 4])], Some(86_400)),
            (0x8183, vec![(1, 6, 600, vec![0, 0])], None),
        ] {
            let records: Vec<_> = records.iter().map(|(s, k, ttl, data)| (*s, *k, *ttl, &data[..])).collect();
            let told = answer(&asked, flags, &records);
            assert_eq!(time_to_live(&told), holds, "{flags:x} {records:?}");
            let mut cut = told;
            cut.pop();
            assert!(records.is_empty() || time_to_live(&cut).is_none(), "records are missing");
        }
    }

    #[test]
    fn dns_n7_bounded() {
        let mut cache = Cache::new(100, 20_000);
        for n in 0..1000 {
            let asked = question(n);
            for _ in 0..2 {
                cache.put(&asked, &answer(&asked, 0x8180, &[(0, 1, 60, &[0; 4])]), at(0));
            }
            assert!(cache.entries.len() <= 100 && cache.order.len() <= 100 && cache.bytes <= 20_000);
        }
        assert!(cache.get(&question(999), at(1)).is_some() && cache.get(&question(0), at(1)).is_none());
        let long = answer(&question(1), 0x8180, &[(0, 16, 60, &[0; 5000])]);
        cache.put(&question(5000), &long, at(0));
        assert!(cache.get(&question(5000), at(1)).is_none());
        let all: Vec<_> = cache.entries.keys().cloned().collect();
        all.iter().for_each(|key| cache.forget(key));
        assert_eq!(cache.bytes, 0);
    }
}
