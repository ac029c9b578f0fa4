//! Options: what a client said, read once and checked (RFC 2131 §4.1, RFC 3396), and the values it may be told.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::settings::DhcpSettings;
use crate::wire::dhcp::{Message, MessageType, code, each_option};

/// What a message asks, with the options that matter here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) message: Message<'a>,
    pub(super) what: MessageType,
    pub(super) requested: Option<Ipv4Addr>,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) client_id: Option<&'a [u8]>,
    /// Codes of options the client wants; empty if it does not say.
    pub(super) parameters: &'a [u8],
    /// Longest message it takes, without IPv4 and UDP headers.
    pub(super) bytes_max: usize,
    pub(super) lease_secs: Option<u32>,
    pub(super) host_name: &'a [u8],
    pub(super) fqdn: Option<&'a [u8]>,
    pub(super) relay: Option<&'a [u8]>,
    pub(super) subnet: Option<Ipv4Addr>,
}

/// Where values are put together that came in several parts. All options of a message fit.
pub(super) type Joined = ArrayVec<u8, 2048>;

/// `None` if the message contradicts itself: see D29 for the ways.
pub(super) fn read<'a>(message: Message<'a>, joined: &'a mut Joined) -> Option<Asked<'a>> {
    let mut found = Found::default();
    let areas = areas(message)?;
    for area in areas {
        if !each_option(area, |code, value| found.note(code, value)) {
            return None;
        }
    }
    if found.split != 0 {
        found.join(areas, joined)?;
    }
    let what = MessageType::from_byte(u8::from_be_bytes(found.fixed(code::MESSAGE_TYPE)?))?;
    let address = |code| found.optional(code).map(|bytes| bytes.map(Ipv4Addr::from));
    let bytes_max = found.optional(code::MESSAGE_BYTES_MAX)?.map(u16::from_be_bytes);
    Some(Asked {
        message,
        what,
        requested: address(code::REQUESTED_ADDRESS)?,
        server: address(code::SERVER_ID)?,
        client_id: found.value(code::CLIENT_ID).filter(|id| !id.is_empty()),
        parameters: found.value(code::PARAMETERS).unwrap_or_default(),
        bytes_max: usize::from(bytes_max.unwrap_or(0).max(DATAGRAM_BYTES_MIN)) - HEADERS_BYTES,
        lease_secs: found.optional(code::LEASE_TIME)?.map(u32::from_be_bytes),
        host_name: found.value(code::HOST_NAME).unwrap_or_default(),
        fqdn: found.value(code::FQDN),
        relay: found.value(code::RELAY_AGENT),
        subnet: address(code::SUBNET_SELECTION)?,
    })
}

/// The fields that hold options, in the order in which their values are joined (RFC 3396 §5).
fn areas(message: Message<'_>) -> Option<[&[u8]; 3]> {
    let mut overload: Option<&[u8]> = None;
    let mut twice = false;
    let whole = each_option(message.options(), |code, value| {
        if code == code::OVERLOAD {
            twice = overload.replace(value).is_some();
        }
    });
    let (file, sname) = (message.file(), message.sname());
    let none: &[u8] = &[code::END];
    match overload {
        _ if !whole || twice => None,
        None => Some([message.options(), none, none]),
        Some([1]) => Some([message.options(), file, none]),
        Some([2]) => Some([message.options(), none, sname]),
        Some([3]) => Some([message.options(), file, sname]),
        Some(_) => None,
    }
}

/// First parts of the options of [`READ`].
#[derive(Default)]
struct Found<'a> {
    values: [Option<&'a [u8]>; READ.len()],
    /// Bit for each that has further parts.
    split: u16,
}

impl<'a> Found<'a> {
    fn note(&mut self, code: u8, value: &'a [u8]) {
        let Some(at) = READ.iter().position(|read| *read == code) else { return };
        if self.values[at].is_some() {
            self.split |= 1 << at;
        } else {
            self.values[at] = Some(value);
        }
    }

    fn join(&mut self, areas: [&'a [u8]; 3], joined: &'a mut Joined) -> Option<()> {
        let mut ends = [0; READ.len()];
        for (at, code) in READ.iter().enumerate() {
            if self.split & 1 << at != 0 {
                let mut fits = true;
                for area in areas {
                    each_option(area, |c, part| {
                        fits &= c != *code || joined.try_extend_from_slice(part).is_ok();
                    });
                }
                fits.then_some(())?;
            }
            ends[at] = joined.len();
        }
        let (joined, mut begin): (&'a [u8], _) = (joined, 0);
        for (at, end) in ends.into_iter().enumerate() {
            if self.split & 1 << at != 0 {
                self.values[at] = joined.get(begin..end);
            }
            begin = end;
        }
        Some(())
    }

    fn value(&self, code: u8) -> Option<&'a [u8]> {
        READ.iter().position(|read| *read == code).and_then(|at| self.values[at])
    }

    /// A value that must be there and have `N` bytes. Two of them have twice as many, and are refused by that.
    fn fixed<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.value(code)?.try_into().ok()
    }

    /// The inner `None`: not there. The outer: of another length.
    fn optional<const N: usize>(&self, code: u8) -> Option<Option<[u8; N]>> {
        match self.value(code) {
            None => Some(None),
            Some(_) => self.fixed(code).map(Some),
        }
    }
}

/// The options that are read; others are ignored.
const READ: [u8; 11] = [
    code::HOST_NAME,
    code::REQUESTED_ADDRESS,
    code::LEASE_TIME,
    code::MESSAGE_TYPE,
    code::SERVER_ID,
    code::PARAMETERS,
    code::MESSAGE_BYTES_MAX,
    code::CLIENT_ID,
    code::FQDN,
    code::RELAY_AGENT,
    code::SUBNET_SELECTION,
];

/// The least a client may announce (RFC 2132 §9.10). What is counted there is the datagram.
const DATAGRAM_BYTES_MIN: u16 = 576;
/// IPv4 and UDP.
const HEADERS_BYTES: usize = 28;

/// Values that are the same for every client, by code.
#[derive(Debug)]
pub(super) struct Told {
    values: Vec<(u8, Box<[u8]>)>,
    /// Place in `values` plus one; 0: none.
    places: Box<[u16; 256]>,
    /// Codes of those that go to everybody.
    pub(super) always: Vec<u8>,
}

impl Told {
    pub(super) fn new(settings: &DhcpSettings) -> Self {
        let mut told = Self { values: Vec::new(), places: Box::new([0; 256]), always: Vec::new() };
        told.set(code::SUBNET_MASK, &settings.mask().octets());
        told.set(code::BROADCAST, &settings.broadcast().octets());
        told.set(code::ROUTER, &addresses(&settings.routers));
        told.set(code::DNS, &addresses(&settings.dns));
        told.set(code::NTP, &addresses(&settings.ntp));
        told.set(code::DOMAIN_NAME, settings.domain.as_bytes());
        told.set(code::DOMAIN_SEARCH, &search_list(&settings.search));
        told.set(code::CAPTIVE_PORTAL, settings.captive_portal.as_bytes());
        told.set(code::PROXY, settings.proxy_url.as_bytes());
        if let Some(mtu) = settings.mtu {
            told.set(code::MTU, &mtu.to_be_bytes());
        }
        if let Some(secs) = settings.v6_only_wait_secs {
            told.set(code::V6_ONLY, &secs.to_be_bytes());
        }
        let routes = classless_routes(settings);
        told.set(code::CLASSLESS_ROUTES, &routes);
        told.set(code::CLASSLESS_ROUTES_OLD, &routes);
        for option in &settings.raw {
            told.set(option.code, &option.value);
            if option.always {
                told.always.push(option.code);
            }
        }
        told
    }

    /// An empty value is none: no option here has a meaning without one.
    fn set(&mut self, code: u8, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        // At most 256 of them, so that a place fits.
        self.values.retain(|(other, _)| *other != code);
        self.values.push((code, value.into()));
        self.places.fill(0);
        for (place, (code, _)) in (1..).zip(&self.values) {
            self.places[usize::from(*code)] = place;
        }
    }

    pub(super) fn value(&self, code: u8) -> Option<&[u8]> {
        let place = usize::from(self.places[usize::from(code)]).checked_sub(1)?;
        self.values.get(place).map(|(_, value)| &**value)
    }
}

fn addresses(list: &[Ipv4Addr]) -> Vec<u8> {
    list.iter().flat_map(|address| address.octets()).collect()
}

/// RFC 3442: significant octets of the prefix only. A client that knows this option ignores option 3, so the default
/// route stands here too.
fn classless_routes(settings: &DhcpSettings) -> Vec<u8> {
    let mut bytes = Vec::new();
    if settings.routes.is_empty() {
        return bytes;
    }
    if let Some(router) = settings.routers.first() {
        bytes.push(0);
        bytes.extend(router.octets());
    }
    for route in settings.routes.iter().filter(|route| (1..=32).contains(&route.prefix_len)) {
        bytes.push(route.prefix_len);
        bytes.extend(&route.network.octets()[..usize::from(route.prefix_len.div_ceil(8))]);
        bytes.extend(route.gateway.octets());
    }
    bytes
}

/// Names as in DNS; the ends that two of them share are pointed to (RFC 3397 §2, RFC 1035 §4.1.4).
fn search_list(names: &[String]) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut known: Vec<(&str, u16)> = Vec::new();
    for name in names {
        let mut rest = name.as_str();
        loop {
            if rest.is_empty() {
                bytes.push(0);
                break;
            }
            if let Some((_, at)) = known.iter().find(|(suffix, _)| suffix.eq_ignore_ascii_case(rest)) {
                bytes.extend((0xc000 | at).to_be_bytes());
                break;
            }
            if let Ok(at @ ..0x4000) = u16::try_from(bytes.len()) {
                known.push((rest, at));
            }
            let (label, later) = rest.split_once('.').unwrap_or((rest, ""));
            let label = &label.as_bytes()[..label.len().min(63)];
            bytes.push(u8::try_from(label.len()).unwrap_or(63));
            bytes.extend(label);
            rest = later;
        }
    }
    bytes
}

/// RFC 4702 §4: names are left to the client, nobody updates DNS for it. The name itself is echoed.
pub(super) fn fqdn_reply(asked: &[u8]) -> Option<ArrayVec<u8, 255>> {
    let [flags, _, _, name @ ..] = asked else { return None };
    let mut reply = ArrayVec::new();
    // N: no updates. O: the client wanted us to (S), and we overrule it. E, the encoding, as it came.
    let overruled = if flags & 1 == 0 { 0 } else { 2 };
    reply.try_extend_from_slice(&[flags & 4 | overruled | 8, 255, 255]).ok()?;
    reply.try_extend_from_slice(name).ok()?;
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_lists_share_their_ends() {
        let names = ["eng.apple.com".to_owned(), "marketing.apple.com".to_owned()];
        // RFC 3397 §3.
        let mut want = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04".to_vec();
        assert_eq!(search_list(&names), want);
        want.extend(b"\xc0\x00");
        assert_eq!(search_list(&[&names[..], &names[..1]].concat()), want);
    }

    #[test]
    fn routes_are_as_short_as_they_can_be() {
        let mut settings = DhcpSettings::for_network(Ipv4Addr::new(10, 0, 0, 1), 24);
        assert!(classless_routes(&settings).is_empty());
        let gateway = Ipv4Addr::new(10, 0, 0, 2);
        // The table of RFC 3442, "Classless Route Option Format".
        for (network, prefix_len, want) in [
            ([10, 0, 0, 0], 8, &[8, 10][..]),
            ([10, 0, 0, 0], 24, &[24, 10, 0, 0]),
            ([10, 17, 0, 0], 16, &[16, 10, 17]),
            ([10, 27, 129, 0], 24, &[24, 10, 27, 129]),
            ([10, 229, 0, 128], 25, &[25, 10, 229, 0, 128]),
            ([10, 198, 122, 47], 32, &[32, 10, 198, 122, 47]),
        ] {
            settings.routes = vec![super::super::settings::Route { network: network.into(), prefix_len, gateway }];
            assert_eq!(classless_routes(&settings), [&[0, 10, 0, 0, 1][..], want, &[10, 0, 0, 2]].concat());
        }
    }

    #[test]
    fn names_are_left_to_the_client() {
        assert_eq!(fqdn_reply(&[5, 0, 0, 1, b'h', 0]).unwrap().as_slice(), [4 | 2 | 8, 255, 255, 1, b'h', 0]);
        assert_eq!(fqdn_reply(&[0, 0, 0]).unwrap().as_slice(), [8, 255, 255]);
        assert_eq!(fqdn_reply(&[0, 0]), None);
    }
}
