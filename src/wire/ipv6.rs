//! IPv6 headers (RFC 8200) and the chain of extension headers in front of the upper layer.
//!
//! A guard against router advertisements has to find the upper layer behind any number of extension
//! headers (RFC 7113 §3), so the walk ends only with the packet: every header has at least 8 bytes,
//! a frame of 1600 bytes at most 200 of them.
#![forbid(unsafe_code)]

/// EtherType.
pub const ETHERTYPE: u16 = 0x86dd;
/// Length of the fixed header.
pub const HEADER_BYTES: usize = 40;

/// A packet whose fixed header lies within the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a>(&'a [u8]);

/// What the chain of headers leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper<'a> {
    /// The header of the upper layer begins here.
    Protocol {
        /// Its number; that of an unknown extension header if there is one.
        number: u8,
        /// From its header to the end of the bytes.
        payload: &'a [u8],
        /// Whether the packet is the first of several fragments.
        fragment: bool,
    },
    /// A fragment that is not the first: the upper layer's header is elsewhere.
    LaterFragment,
    /// The bytes end within the chain.
    Unreadable,
}

impl<'a> Ipv6<'a> {
    /// `None` unless `bytes` begin with a whole fixed header of version 6.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || bytes[0] >> 4 != 6 { None } else { Some(Self(bytes)) }
    }

    /// Number of the header behind the fixed one.
    #[inline]
    pub fn next_header(self) -> u8 {
        self.0[6]
    }

    /// Source and destination address, 32 bytes in the order of the wire.
    #[inline]
    pub fn addresses(self) -> &'a [u8] {
        &self.0[8..40]
    }

    /// Everything behind the fixed header up to the end of the bytes; the payload length is not
    /// consulted, as in [`super::ipv4::Ipv4::payload`].
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        &self.0[HEADER_BYTES..]
    }

    /// Walks the extension headers.
    pub fn upper(self) -> Upper<'a> {
        let mut number = self.next_header();
        let mut rest = self.payload();
        let mut fragment = false;
        loop {
            let header_bytes = match number {
                HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 => match rest {
                    [_, units, ..] => (usize::from(*units) + 1) * 8,
                    _ => return Upper::Unreadable,
                },
                // RFC 4302 §2.2: in units of 4 bytes, less 2.
                AUTHENTICATION => match rest {
                    [_, units, ..] => (usize::from(*units) + 2) * 4,
                    _ => return Upper::Unreadable,
                },
                FRAGMENT => match rest {
                    [_, _, high, low, ..] => {
                        if u16::from_be_bytes([*high, *low]) & 0xfff8 != 0 {
                            return Upper::LaterFragment;
                        }
                        fragment = true;
                        8
                    }
                    _ => return Upper::Unreadable,
                },
                _ => return Upper::Protocol { number, payload: rest, fragment },
            };
            number = rest[0];
            match rest.get(header_bytes..) {
                Some(behind) => rest = behind,
                None => return Upper::Unreadable,
            }
        }
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed header that announces `next`, then `rest`.
    fn packet(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0u8; HEADER_BYTES];
        bytes[0] = 0x60;
        bytes[6] = next;
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn chain_leads_to_the_upper_layer() {
        let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
        let fragment = |next: u8, offset: u16| {
            let [high, low] = (offset << 3 | 1).to_be_bytes();
            [next, 0, high, low, 0, 0, 0, 7]
        };
        let icmp = [134u8, 0, 0, 0];
        let found = |fragment| Upper::Protocol { number: 58, payload: &[134, 0, 0, 0], fragment };
        let cases: Vec<(&str, Vec<u8>, Upper<'_>)> = vec![
            ("plain", packet(58, &icmp), found(false)),
            ("hop by hop", packet(0, &[&options(58)[..], &icmp].concat()), found(false)),
            ("two destination options", packet(60, &[&options(60)[..], &options(58), &icmp].concat()), found(false)),
            ("first fragment", packet(44, &[&fragment(58, 0)[..], &icmp].concat()), found(true)),
            ("options behind fragment", packet(44, &[&fragment(60, 0)[..], &options(58), &icmp].concat()), found(true)),
            ("later fragment", packet(44, &[&fragment(58, 1)[..], &icmp].concat()), Upper::LaterFragment),
            ("authentication", packet(51, &[&[58, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &icmp].concat()), found(false)),
            ("cut in the fragment", packet(44, &[&fragment(60, 0)[..], &options(58)[..4]].concat()), Upper::Unreadable),
            ("cut before options", packet(44, &fragment(60, 0)), Upper::Unreadable),
            ("length beyond the end", packet(60, &[58, 9, 0, 0, 0, 0, 0, 0]), Upper::Unreadable),
        ];
        for (name, bytes, want) in cases {
            assert_eq!(Ipv6::new_checked(&bytes).unwrap().upper(), want, "{name}");
        }
    }

    #[test]
    fn long_chains_end() {
        let bytes = packet(60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(195));
        assert_eq!(Ipv6::new_checked(&bytes).unwrap().upper(), Upper::Unreadable);
    }
}
