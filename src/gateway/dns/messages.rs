//! Messages of the forwarder's own: answers that need no upstream, and answers cut for UDP.
#![forbid(unsafe_code)]

use crate::wire::dns::{
    Dns, FLAG_ANSWER, FLAG_AUTHORITATIVE, FLAG_CHECKING_DISABLED, FLAG_RECURSION_AVAILABLE, FLAG_RECURSION_DESIRED,
    FLAG_TRUNCATED, HEADER_BYTES, TYPE_OPT,
};

/// A record of the hub's own zone, which is the answer to the question for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnRecord<'a> {
    /// Its data.
    pub(super) data: &'a [u8],
    /// Its time to live.
    pub(super) ttl_s: u32,
}

/// The answer to `question` with `rcode` and perhaps a record. With EDNS where the question has it (RFC 6891 §6.1.1).
pub(super) fn own(question: Dns<'_>, rcode: u8, is_own_zone: bool, record: Option<OwnRecord<'_>>) -> Vec<u8> {
    let kept = FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED | OPCODE;
    let authority = if is_own_zone { FLAG_AUTHORITATIVE } else { 0 };
    let flags = (question.flags() & kept) | FLAG_ANSWER | FLAG_RECURSION_AVAILABLE | authority | u16::from(rcode & 0xf);
    let asked = question.question();
    let opt = question.opt();
    let counts = [u16::from(asked.is_some()), u16::from(record.is_some()), 0, u16::from(opt.is_some())];
    let mut message = header(question.id(), flags, counts);
    message.extend(asked.map_or(&[][..], |asked| asked.bytes));
    if let (Some(asked), Some(record)) = (asked, record) {
        message.extend([0xc0, HEADER_BYTES_LOW]);
        message.extend(asked.kind.to_be_bytes());
        message.extend(asked.class.to_be_bytes());
        message.extend(record.ttl_s.to_be_bytes());
        message.extend(u16::try_from(record.data.len()).unwrap_or(0).to_be_bytes());
        message.extend(record.data);
    }
    if let Some((opt, _)) = opt {
        message.push(0);
        message.extend(TYPE_OPT.to_be_bytes());
        message.extend(EDNS_UDP_BYTES.to_be_bytes());
        // Version 0 and nothing but the asker's DO bit (RFC 3225 §3).
        message.extend((opt.ttl & DNSSEC_OK).to_be_bytes());
        message.extend([0, 0]);
    }
    message
}

/// `answer` as it fits into `bytes_max` of UDP: whole, or cut behind the question, with TC and its OPT record.
pub(super) fn fit(answer: &[u8], bytes_max: usize) -> Vec<u8> {
    let whole = answer.to_vec();
    let Some(dns) = Dns::new_checked(answer).filter(|_| answer.len() > bytes_max) else { return whole };
    let question = dns.question().map_or(&[][..], |question| question.bytes);
    let opt = dns.opt().map_or(&[][..], |(_, opt)| opt);
    let has_room = HEADER_BYTES + question.len() + opt.len() <= bytes_max;
    let opt = if has_room { opt } else { &[] };
    let counts = [u16::from(!question.is_empty()), 0, 0, u16::from(!opt.is_empty())];
    let mut cut = header(dns.id(), dns.flags() | FLAG_TRUNCATED, counts);
    cut.extend(question);
    cut.extend(opt);
    cut
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [[id, flags].as_slice(), &counts].concat().into_iter().flat_map(u16::to_be_bytes).collect()
}

const OPCODE: u16 = 0x7800;
const HEADER_BYTES_LOW: u8 = 12;
/// What the gateway takes by UDP: one packet inside the hub without fragments, as the flag day of 2020 recommends.
const EDNS_UDP_BYTES: u16 = 1232;
const DNSSEC_OK: u32 = 0x8000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dns::{RCODE_FORMAT, RCODE_NO_ERROR};

    const QUESTION: &[u8] = b"\x01a\x00\x00\x01\x00\x01";
    const OPT: &[u8] = &[0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 3, 1, 2, 3];

    fn message(flags: u16, counts: [u16; 4], parts: &[&[u8]]) -> Vec<u8> {
        [header(7, flags, counts), parts.concat()].concat()
    }

    #[test]
    fn own_answers() {
        let asked = message(0x0110, [1, 0, 0, 1], &[QUESTION, OPT]);
        let record = OwnRecord { data: &[10, 0, 0, 1], ttl_s: 60 };
        let answer = own(Dns::new_checked(&asked).unwrap(), RCODE_NO_ERROR, true, Some(record));
        let dns = Dns::new_checked(&answer).unwrap();
        assert_eq!((dns.id(), dns.flags(), dns.question().unwrap().bytes), (7, 0x8590, QUESTION));
        let records: Vec<_> = dns.records().collect();
        assert_eq!((records[0].kind, records[0].ttl, &answer[records[0].data.clone()]), (1, 60, &[10, 0, 0, 1][..]));
        assert_eq!((records.len(), dns.opt().unwrap().0.ttl), (2, 0x8000));
        let none = message(0x2800, [0, 0, 0, 0], &[]);
        assert_eq!(own(Dns::new_checked(&none).unwrap(), RCODE_FORMAT, false, None), header(7, 0xa881, [0; 4]));
    }

    #[test]
    fn dns_n2_cut_for_udp() {
        let record = [&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 2, 0][..], &[0; 512]].concat();
        let answer = message(0x8180, [1, 1, 0, 1], &[QUESTION, &record, OPT]);
        assert_eq!(fit(&answer, answer.len()), answer);
        let cut = message(0x8380, [1, 0, 0, 1], &[QUESTION, OPT]);
        assert_eq!(fit(&answer, answer.len() - 1), cut);
        assert_eq!(fit(&answer, cut.len() - 1), message(0x8380, [1, 0, 0, 0], &[QUESTION]));
    }
}
