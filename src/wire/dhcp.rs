//! DHCP for IPv4 (RFC 2131): a view of a message, and a builder of replies that fills it as tightly as RFC 3396 allows.
//! The ports also tell DHCPv6 traffic.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::ethernet::Mac;

/// Servers and relays (RFC 2131 §4.1).
pub const SERVER_PORT: u16 = 67;
/// Clients.
pub const CLIENT_PORT: u16 = 68;
/// DHCPv6 clients (RFC 8415 §7.2).
pub const V6_CLIENT_PORT: u16 = 546;
/// DHCPv6 servers and relays.
pub const V6_SERVER_PORT: u16 = 547;

/// The fields before the options, magic cookie included.
pub const FIXED_BYTES: usize = 240;
/// What tells that options follow (RFC 2131 §3).
pub const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];
/// `op` of a message from a client.
pub const BOOTREQUEST: u8 = 1;
/// `op` of a message from a server.
pub const BOOTREPLY: u8 = 2;
/// Clients of BOOTP's days drop anything shorter (RFC 951 §3: 64 bytes of vendor area).
pub const REPLY_BYTES_MIN: usize = 300;
/// What an Ethernet frame of 1,500 bytes payload has room for behind IPv4 and UDP headers.
pub const MESSAGE_BYTES_MAX: usize = 1472;
/// What every client takes: 576 bytes with IPv4 and UDP headers (RFC 2131 §2).
pub const MESSAGE_BYTES_ALWAYS: usize = 548;

/// Codes of options (RFC 2132 where nothing else is said).
#[allow(missing_docs, reason = "the names are those of the registry")]
pub mod code {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const MTU: u8 = 26;
    pub const BROADCAST: u8 = 28;
    pub const STATIC_ROUTES: u8 = 33;
    pub const NTP: u8 = 42;
    pub const VENDOR: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const TEXT: u8 = 56;
    pub const MESSAGE_BYTES_MAX: u8 = 57;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER: u8 = 66;
    pub const BOOT_FILE: u8 = 67;
    /// RFC 4702.
    pub const FQDN: u8 = 81;
    /// RFC 3046.
    pub const RELAY_AGENT: u8 = 82;
    /// RFC 8925.
    pub const V6_ONLY: u8 = 108;
    /// RFC 8910.
    pub const CAPTIVE_PORTAL: u8 = 114;
    /// RFC 3011.
    pub const SUBNET_SELECTION: u8 = 118;
    /// RFC 3397.
    pub const DOMAIN_SEARCH: u8 = 119;
    /// RFC 3442.
    pub const CLASSLESS_ROUTES: u8 = 121;
    /// What Windows before Vista asks for in place of 121.
    pub const CLASSLESS_ROUTES_OLD: u8 = 249;
    /// draft-ietf-wrec-wpad-01.
    pub const PROXY: u8 = 252;
    pub const END: u8 = 255;
}

/// Option 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageType {
    /// Who has an address for me?
    Discover = 1,
    /// This one.
    Offer = 2,
    /// Then I take it, or: I keep it.
    Request = 3,
    /// Somebody else uses it.
    Decline = 4,
    /// It is yours.
    Ack = 5,
    /// It is not.
    Nak = 6,
    /// I have done with it.
    Release = 7,
    /// I have an address, tell me the rest.
    Inform = 8,
}

impl MessageType {
    /// `None` for types of other RFCs.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            _ => return None,
        })
    }
}

/// A message: the fixed part and the bytes of the options field.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    fixed: &'a [u8; FIXED_BYTES],
    options: &'a [u8],
}

impl<'a> Message<'a> {
    /// `None` unless `bytes` begin with a whole fixed part and its cookie.
    pub fn new_checked(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, options) = bytes.split_first_chunk()?;
        let message = Self { fixed, options };
        (message.fixed[236..] == MAGIC_COOKIE).then_some(message)
    }

    /// [`BOOTREQUEST`] or [`BOOTREPLY`].
    pub fn op(self) -> u8 {
        self.fixed[0]
    }

    /// Type of the hardware address; 1: Ethernet.
    pub fn htype(self) -> u8 {
        self.fixed[1]
    }

    /// Length of the hardware address.
    pub fn hlen(self) -> u8 {
        self.fixed[2]
    }

    /// The client's number for this exchange.
    pub fn xid(self) -> u32 {
        u32::from_be_bytes([self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]])
    }

    /// Whether the client cannot receive unicast yet.
    pub fn wants_broadcast(self) -> bool {
        self.fixed[10] & 0x80 != 0
    }

    /// The address the client has and answers ARP for.
    pub fn ciaddr(self) -> Ipv4Addr {
        self.address(12)
    }

    /// The address given.
    pub fn yiaddr(self) -> Ipv4Addr {
        self.address(16)
    }

    /// The relay on the client's network.
    pub fn giaddr(self) -> Ipv4Addr {
        self.address(24)
    }

    /// The client's Ethernet address; of meaning if `hlen` is 6.
    pub fn chaddr(self) -> Mac {
        Mac(std::array::from_fn(|i| self.fixed[28 + i]))
    }

    /// The server's name, or options if option 52 says so.
    pub fn sname(self) -> &'a [u8] {
        &self.fixed[SNAME..SNAME + SNAME_BYTES]
    }

    /// The boot file's name, or options if option 52 says so.
    pub fn file(self) -> &'a [u8] {
        &self.fixed[FILE..FILE + FILE_BYTES]
    }

    /// The options field.
    pub fn options(self) -> &'a [u8] {
        self.options
    }

    fn address(self, at: usize) -> Ipv4Addr {
        Ipv4Addr::from(std::array::from_fn(|i| self.fixed[at + i]))
    }
}

/// Calls `each` with code and value of every option of a field. `false`, perhaps after some calls, if a length leads out
/// of the field or the end option is missing.
pub fn each_option<'a>(mut field: &'a [u8], mut each: impl FnMut(u8, &'a [u8])) -> bool {
    loop {
        field = match field {
            [code::PAD, rest @ ..] => rest,
            [code::END, ..] => return true,
            [code, length, rest @ ..] => {
                let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else { return false };
                each(*code, value);
                rest
            }
            _ => return false,
        };
    }
}

/// A reply under construction. Options are placed as they come; what no longer fits the options field goes into `file`
/// and `sname` (option 52), and a value that fits nowhere in one piece is split (RFC 3396).
#[derive(Debug)]
pub struct ReplyBuilder {
    bytes: [u8; MESSAGE_BYTES_MAX],
    /// Of options field, `file`, `sname`: where the next option begins, and where the area ends.
    areas: [(usize, usize); 3],
    kept: usize,
}

impl ReplyBuilder {
    /// Echoes of `request` what RFC 2131 table 3 wants echoed. The reply has at most `bytes_max` bytes; `kept` of them
    /// are kept free for the option given to [`Self::finish`].
    pub fn new(request: Message<'_>, bytes_max: usize, kept: usize) -> Self {
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        bytes[..12].copy_from_slice(&request.fixed[..12]);
        bytes[0] = BOOTREPLY;
        // hops and secs are the client's and the relay's own.
        bytes[3] = 0;
        bytes[8..10].fill(0);
        bytes[24..44].copy_from_slice(&request.fixed[24..44]);
        bytes[236..FIXED_BYTES].copy_from_slice(&MAGIC_COOKIE);
        let end = bytes_max.clamp(MESSAGE_BYTES_ALWAYS, MESSAGE_BYTES_MAX) - OVERLOAD_BYTES - 1;
        let areas =
            [(FIXED_BYTES, end.saturating_sub(kept)), (FILE, FILE + FILE_BYTES - 1), (SNAME, SNAME + SNAME_BYTES - 1)];
        Self { bytes, areas, kept }
    }

    /// Sets `ciaddr`.
    pub fn set_ciaddr(&mut self, address: Ipv4Addr) {
        self.bytes[12..16].copy_from_slice(&address.octets());
    }

    /// Sets `yiaddr`.
    pub fn set_yiaddr(&mut self, address: Ipv4Addr) {
        self.bytes[16..20].copy_from_slice(&address.octets());
    }

    /// Sets the broadcast flag: the relay is to broadcast this.
    pub fn set_broadcast(&mut self) {
        self.bytes[10] |= 0x80;
    }

    /// Adds an option; `false`, with nothing written, if there is no room for all of it.
    pub fn put(&mut self, code: u8, value: &[u8]) -> bool {
        if value.len() <= PART_BYTES_MAX
            && let Some(area) = (0..3).find(|area| self.room(*area) >= value.len() + 2)
        {
            self.write(area, code, value);
            return true;
        }
        // Parts are read in the order options, file, sname (RFC 3396 §5).
        if (0..3).map(|area| split_room(self.room(area))).sum::<usize>() < value.len() {
            return false;
        }
        let mut rest = value;
        for area in 0..3 {
            while !rest.is_empty() && self.room(area) > 2 {
                let (part, later) = rest.split_at(rest.len().min(self.room(area) - 2).min(PART_BYTES_MAX));
                self.write(area, code, part);
                rest = later;
            }
        }
        true
    }

    /// The message, with `last` as its last option (if it fits what was kept for it) and padded.
    pub fn finish(&mut self, last: Option<(u8, &[u8])>) -> &[u8] {
        let (file_used, sname_used) = (self.areas[1].0 > FILE, self.areas[2].0 > SNAME);
        self.areas[0].1 += OVERLOAD_BYTES;
        if file_used || sname_used {
            let which = u8::from(file_used) | u8::from(sname_used) << 1;
            self.write(0, code::OVERLOAD, &[which]);
            for (used, area) in [(file_used, 1), (sname_used, 2)] {
                if used {
                    self.bytes[self.areas[area].0] = code::END;
                }
            }
        }
        self.areas[0].1 += self.kept;
        if let Some((code, value)) = last {
            let parts = value.chunks(PART_BYTES_MAX);
            if value.len() + 2 * parts.len() <= self.room(0) {
                parts.for_each(|part| self.write(0, code, part));
            }
        }
        let end = self.areas[0].0;
        self.bytes[end] = code::END;
        &self.bytes[..REPLY_BYTES_MIN.max(end + 1)]
    }

    fn room(&self, area: usize) -> usize {
        let (at, end) = self.areas[area];
        end.saturating_sub(at)
    }

    /// `value` is at most [`PART_BYTES_MAX`] long and there is room.
    fn write(&mut self, area: usize, code: u8, value: &[u8]) {
        let at = self.areas[area].0;
        self.bytes[at] = code;
        self.bytes[at + 1] = u8::try_from(value.len()).unwrap_or(u8::MAX);
        self.bytes[at + 2..at + 2 + value.len()].copy_from_slice(value);
        self.areas[area].0 = at + 2 + value.len();
    }
}

/// Bytes of a value that parts of it could fill in `room`, at least.
fn split_room(room: usize) -> usize {
    room.saturating_sub(2 * room.div_ceil(PART_BYTES_MAX + 2))
}

const SNAME: usize = 44;
const SNAME_BYTES: usize = 64;
const FILE: usize = 108;
const FILE_BYTES: usize = 128;
const OVERLOAD_BYTES: usize = 3;
const PART_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> [u8; FIXED_BYTES] {
        let mut bytes = [0; FIXED_BYTES];
        bytes[..4].copy_from_slice(&[1, 1, 6, 3]);
        bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
        bytes[8..12].copy_from_slice(&[0, 9, 0x80, 0]);
        bytes[24..28].copy_from_slice(&[10, 0, 0, 7]);
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        bytes[236..].copy_from_slice(&MAGIC_COOKIE);
        bytes
    }

    fn all(field: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut found = Vec::new();
        assert!(each_option(field, |code, value| found.push((code, value.to_vec()))));
        found
    }

    #[test]
    fn fields_are_echoed_or_cleared() {
        let request = request();
        let mut builder = ReplyBuilder::new(Message::new_checked(&request).unwrap(), 576, 0);
        builder.set_yiaddr(Ipv4Addr::new(10, 0, 0, 9));
        let reply = builder.finish(None).to_vec();
        let reply = Message::new_checked(&reply).unwrap();
        assert_eq!((reply.op(), reply.htype(), reply.hlen(), reply.fixed[3]), (2, 1, 6, 0));
        assert_eq!((reply.xid(), &reply.fixed[8..12]), (0x01020304, &[0, 0, 0x80, 0][..]));
        assert_eq!((reply.giaddr(), reply.yiaddr()), (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!((reply.chaddr(), reply.wants_broadcast()), (Mac([2, 0, 0, 0, 0, 1]), true));
        assert_eq!(reply.fixed.len() + reply.options.len(), REPLY_BYTES_MIN);
    }

    #[test]
    fn options_end_or_are_refused() {
        for (field, ok, count) in [
            (&[255][..], true, 0),
            (&[0, 0, 53, 1, 1, 0, 255, 99], true, 1),
            (&[53, 1, 1], false, 1),
            (&[53, 2, 1], false, 0),
            (&[53], false, 0),
            (&[], false, 0),
            (&[61, 0, 255], true, 1),
        ] {
            let mut seen = 0;
            assert_eq!((each_option(field, |_, _| seen += 1), seen), (ok, count), "{field:?}");
        }
    }

    #[test]
    fn what_does_not_fit_overflows_into_file_and_sname() {
        let request = request();
        let mut builder = ReplyBuilder::new(Message::new_checked(&request).unwrap(), 548, 0);
        // 304 bytes of options: 255 + 2 leave 47, the next go to file (127), sname (63), and nowhere.
        assert!(builder.put(1, &[1; 255]) && builder.put(2, &[2; 100]) && builder.put(3, &[3; 61]));
        assert!(builder.put(4, &[4; 45]) && !builder.put(5, &[5; 45]));
        let reply = builder.finish(None).to_vec();
        assert!(reply.len() <= 548);
        let reply = Message::new_checked(&reply).unwrap();
        let main = all(reply.options());
        assert_eq!(main, [(1, vec![1; 255]), (4, vec![4; 45]), (52, vec![3])]);
        assert_eq!((all(reply.file()), all(reply.sname())), (vec![(2, vec![2; 100])], vec![(3, vec![3; 61])]));
    }

    #[test]
    fn long_values_are_split_and_join_again() {
        let value: Vec<u8> = (0..=255).chain(0..200).collect();
        let request = request();
        for (bytes_max, parts) in [(1472, &[255, 201][..]), (548, &[255, 45, 125, 31])] {
            let mut builder = ReplyBuilder::new(Message::new_checked(&request).unwrap(), bytes_max, 0);
            assert!(builder.put(121, &value));
            let reply = builder.finish(None).to_vec();
            assert!(reply.len() <= bytes_max);
            let reply = Message::new_checked(&reply).unwrap();
            let mut found = all(reply.options());
            if found.last().is_some_and(|(code, _)| *code == 52) {
                found.pop();
                found.extend(all(reply.file()));
                found.extend(all(reply.sname()));
            }
            assert_eq!(found.iter().map(|(_, part)| part.len()).collect::<Vec<_>>(), parts);
            assert_eq!(found.concat_values(), value);
        }
        let mut builder = ReplyBuilder::new(Message::new_checked(&request).unwrap(), 548, 0);
        assert!(!builder.put(121, &[0; 600]));
        assert_eq!(all(Message::new_checked(builder.finish(None)).unwrap().options()), []);
    }

    trait ConcatValues {
        fn concat_values(&self) -> Vec<u8>;
    }

    impl ConcatValues for Vec<(u8, Vec<u8>)> {
        fn concat_values(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, value)| value.clone()).collect()
        }
    }

    #[test]
    fn the_last_option_has_its_room() {
        let request = request();
        let mut builder = ReplyBuilder::new(Message::new_checked(&request).unwrap(), 548, 302);
        assert!(builder.put(1, &[1; 61]));
        let reply = builder.finish(Some((82, &[7; 298]))).to_vec();
        assert_eq!(reply.len(), 240 + 3 + 302 + 1);
        let found = all(Message::new_checked(&reply).unwrap().options());
        let lengths: Vec<_> = found.iter().map(|(code, value)| (*code, value.len())).collect();
        assert_eq!(lengths, [(52, 1), (82, 255), (82, 43)]);
    }
}
