//! Questions to a network driver, and the few settings of it that steering needs: the ioctl SIOCETHTOOL.
//!
//! The structures are those of `linux/ethtool.h`; a test compares sizes and offsets with what a C compiler says.
#![allow(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde::Serialize;

/// Asks the driver of one device.
#[derive(Debug)]
pub struct Ethtool {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

/// Who drives a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Name of the driver.
    pub name: String,
    /// Where the device is, such as `0000:03:00.0`; empty if nowhere.
    pub bus: String,
}

/// Queues in use and the most there can be (`ethtool -l`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    command: u32,
    /// The most that only receive.
    pub rx_max: u32,
    /// The most that only send.
    pub tx_max: u32,
    other_max: u32,
    /// The most that do both.
    pub combined_max: u32,
    /// That only receive.
    pub rx: u32,
    /// That only send.
    pub tx: u32,
    other: u32,
    /// That do both.
    pub combined: u32,
}

/// A feature by its name in `ethtool -k`'s long form, such as `tx-tcp-segmentation`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Feature {
    name: String,
    is_changeable: bool,
    is_on: bool,
}

/// Features of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features(Vec<Feature>);

impl Features {
    /// Whether the feature is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.0.iter().any(|feature| feature.name == name && feature.is_on)
    }

    /// Whether the feature can be switched.
    pub fn is_changeable(&self, name: &str) -> bool {
        self.0.iter().any(|feature| feature.name == name && feature.is_changeable)
    }
}

/// IPv4 packets that hash and rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flow {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Flow {
    const fn number(self) -> u32 {
        match self {
            Self::Tcp => TCP_V4_FLOW,
            Self::Udp => UDP_V4_FLOW,
        }
    }
}

/// Which fields of a packet decide about its queue: bits `RXH_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HashFields(pub u32);

impl HashFields {
    /// Destination address and destination port, nothing of the sender.
    pub const DESTINATION: Self = Self(RXH_IP_DST | RXH_L4_DST);

    /// In words.
    pub fn names(self) -> Vec<&'static str> {
        let words = [
            (RXH_IP_SRC, "source address"),
            (RXH_IP_DST, "destination address"),
            (RXH_L4_SRC, "source port"),
            (RXH_L4_DST, "destination port"),
        ];
        words.into_iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, word)| word).collect()
    }
}

/// A rule of the card: such packets go to that queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Protocol.
    pub flow: Flow,
    /// Destination.
    pub address: Ipv4Addr,
    /// Destination port, where [`Self::port_mask`] has ones.
    pub port: u16,
    /// Bits of the port that count.
    pub port_mask: u16,
    /// Where matching packets go.
    pub queue: u32,
}

/// Where the rules of a device are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleTable {
    /// Places there are.
    pub size: u32,
    /// The driver finds a place itself.
    pub chooses_place: bool,
    /// Places in use.
    pub used: Vec<u32>,
}

/// How a device spreads what it receives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashTable {
    /// Queue for each remainder of the hash.
    pub indirection: Vec<u32>,
    /// Bytes of its key.
    pub key_bytes: u32,
}

impl Ethtool {
    /// For the device called `name`, which need not exist.
    ///
    /// # Errors
    /// `NotFound` if no device can have that name; if no socket can be had.
    pub fn open(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut field = [0; libc::IFNAMSIZ];
        for (place, byte) in field.iter_mut().zip(name.bytes()) {
            *place = libc::c_char::from_ne_bytes([byte]);
        }
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { socket, name: field })
    }

    /// Who drives it.
    ///
    /// # Errors
    /// `NotFound` if there is no such device; if the driver does not say.
    pub fn driver(&self) -> io::Result<Driver> {
        let mut words = [0_u32; DRIVER_INFO_BYTES / 4];
        words[0] = GDRVINFO;
        self.words(&mut words)?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let text = |at: usize| word_of(&bytes[at..at + DRIVER_TEXT_BYTES]);
        Ok(Driver { name: text(DRIVER_NAME_AT), bus: text(DRIVER_BUS_AT) })
    }

    /// Queues in use and possible.
    ///
    /// # Errors
    /// `NotFound` if there is no such device; if the driver does not say.
    pub fn channels(&self) -> io::Result<Channels> {
        let mut channels = Channels { command: GCHANNELS, ..Channels::default() };
        // SAFETY: GCHANNELS fills a `struct ethtool_channels`, which this is.
        unsafe { self.call((&raw mut channels).cast()) }?;
        Ok(channels)
    }

    /// Whether it cuts TCP super-packets itself.
    ///
    /// # Errors
    /// `NotFound` if there is no such device.
    pub fn tso(&self) -> io::Result<bool> {
        let mut value = [GTSO, 0];
        self.words(&mut value)?;
        Ok(value[1] != 0)
    }

    /// Every feature that this kernel knows, and how it stands with this device.
    ///
    /// # Errors
    /// `NotFound` if there is no such device.
    pub fn features(&self) -> io::Result<Features> {
        // Count of the names of set number 4, behind a mask of the sets asked for.
        let mut info = [GSSET_INFO, 0, 1 << SET_FEATURES, 0, 0];
        self.words(&mut info)?;
        // The kernel hands out all names whatever room it was offered: no guess may be too short.
        let count = usize::try_from(info[4]).unwrap_or(usize::MAX);
        if count > FEATURES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut names = vec![0; 3 + count * FEATURE_NAME_BYTES / 4];
        (names[0], names[1], names[2]) = (GSTRINGS, SET_FEATURES, info[4]);
        self.words(&mut names)?;
        let blocks = count.div_ceil(32);
        let mut bits = vec![0; 2 + blocks * FEATURE_BLOCK_WORDS];
        (bits[0], bits[1]) = (GFEATURES, u32::try_from(blocks).unwrap_or(0));
        self.words(&mut bits)?;
        Ok(features(&names[3..], &bits[2..]))
    }

    /// Which fields decide about the queue of such packets.
    ///
    /// # Errors
    /// If the driver does not say, or there is no such device.
    pub fn hash_fields(&self, flow: Flow) -> io::Result<HashFields> {
        let mut question = RxQuestion::new(GRXFH, flow.number());
        self.ask_rx(&mut question)?;
        Ok(HashFields(low_half(question.data)))
    }

    /// Says which fields decide about the queue of such packets.
    ///
    /// # Errors
    /// If the driver or the rights do not allow it.
    pub fn set_hash_fields(&self, flow: Flow, fields: HashFields) -> io::Result<()> {
        let mut question = RxQuestion::new(SRXFH, flow.number());
        question.data = fields.0.into();
        self.ask_rx(&mut question)
    }

    /// How received packets are spread over the queues.
    ///
    /// # Errors
    /// If the driver does not say, or there is no such device.
    pub fn hash_table(&self) -> io::Result<HashTable> {
        let mut sizes = [0_u32; HASH_HEADER_WORDS];
        sizes[0] = GRSSH;
        self.words(&mut sizes)?;
        let (entries, key_bytes) = (sizes[2].min(HASH_ENTRIES_MAX), sizes[3].min(HASH_KEY_BYTES_MAX));
        let length = |count: u32| usize::try_from(count).unwrap_or(0);
        let mut all = vec![0; HASH_HEADER_WORDS + length(entries) + length(key_bytes.div_ceil(4))];
        (all[0], all[2], all[3]) = (GRSSH, entries, key_bytes);
        self.words(&mut all)?;
        let indirection = all[HASH_HEADER_WORDS..][..length(entries)].to_vec();
        Ok(HashTable { indirection, key_bytes })
    }

    /// Places of the card's rules.
    ///
    /// # Errors
    /// If the driver has no rules, or there is no such device.
    pub fn rule_table(&self) -> io::Result<RuleTable> {
        let mut question = RxQuestion::new(GRXCLSRLCNT, 0);
        self.ask_rx(&mut question)?;
        let chooses_place = low_half(question.data) & PLACE_CHOSEN_BY_DRIVER != 0;
        let count = usize::try_from(question.rule_count).unwrap_or(0).min(RULES_MAX);
        let mut all = vec![0; RX_QUESTION_WORDS + count];
        all[0] = GRXCLSRLALL;
        all[RX_COUNT_WORD] = u32::try_from(count).unwrap_or(0);
        self.words(&mut all)?;
        let count = usize::try_from(all[RX_COUNT_WORD]).unwrap_or(0).min(count);
        // The low half of a number of 64 bits; tables are never that long.
        let size = if cfg!(target_endian = "little") { all[RX_DATA_WORD] } else { all[RX_DATA_WORD + 1] };
        Ok(RuleTable { size, chooses_place, used: all[RX_PLACES_WORD..][..count].to_vec() })
    }

    /// The rule at `place`. `None` if it is none that [`Rule`] can describe.
    ///
    /// # Errors
    /// If there is no rule.
    pub fn rule(&self, place: u32) -> io::Result<Option<Rule>> {
        let mut question = RxQuestion::new(GRXCLSRULE, 0);
        question.spec.place = place;
        self.ask_rx(&mut question)?;
        Ok(question.spec.rule())
    }

    /// Puts a rule at `place`, or where the driver likes ([`RuleTable::chooses_place`]). Says where.
    ///
    /// # Errors
    /// If the driver or the rights do not allow it, or the table is full.
    pub fn insert(&self, rule: &Rule, place: Option<u32>) -> io::Result<u32> {
        let mut question = RxQuestion::new(SRXCLSRLINS, 0);
        question.spec = FlowSpec::of(rule, place.unwrap_or(PLACE_ANY));
        self.ask_rx(&mut question)?;
        Ok(question.spec.place)
    }

    /// Takes the rule at `place` away.
    ///
    /// # Errors
    /// If there is none, or the rights do not allow it.
    pub fn remove(&self, place: u32) -> io::Result<()> {
        let mut question = RxQuestion::new(SRXCLSRLDEL, 0);
        question.spec.place = place;
        self.ask_rx(&mut question)
    }

    fn ask_rx(&self, question: &mut RxQuestion) -> io::Result<()> {
        // SAFETY: all these questions take and fill at most a `struct ethtool_rxnfc`, which this is.
        unsafe { self.call(std::ptr::from_mut(question).cast()) }
    }

    /// Asks a question whose structure is made of 32-bit words, as long as its fields say.
    fn words(&self, words: &mut [u32]) -> io::Result<()> {
        // SAFETY: the callers are above; each has room for the structure and for all entries that the kernel said
        // before it has, or that it is told there is room for. Any bits are integers.
        unsafe { self.call(words.as_mut_ptr().cast()) }
    }

    /// # Safety
    /// `data` points to what the command in its first four bytes has the kernel read and write.
    unsafe fn call(&self, data: *mut libc::c_void) -> io::Result<()> {
        let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_data: data.cast() };
        let mut request = libc::ifreq { ifr_name: self.name, ifr_ifru };
        // SAFETY: SIOCETHTOOL takes a `struct ifreq`, which lives through the call; what it points to is the caller's
        // promise.
        let answered =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut request) };
        match answered {
            -1 => Err(match io::Error::last_os_error() {
                gone if gone.raw_os_error() == Some(libc::ENODEV) => io::ErrorKind::NotFound.into(),
                other => other,
            }),
            _ => Ok(()),
        }
    }
}

/// `struct ethtool_rxnfc`, without the places at its end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct RxQuestion {
    command: u32,
    flow: u32,
    data: u64,
    spec: FlowSpec,
    rule_count: u32,
    padding: u32,
}

impl RxQuestion {
    fn new(command: u32, flow: u32) -> Self {
        Self { command, flow, data: 0, spec: FlowSpec::default(), rule_count: 0, padding: 0 }
    }
}

/// `struct ethtool_rx_flow_spec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FlowSpec {
    flow: u32,
    value: FlowFields,
    value_extra: [u32; 5],
    mask: FlowFields,
    mask_extra: [u32; 5],
    padding: u32,
    queue: u64,
    place: u32,
    padding_behind: u32,
}

/// `struct ethtool_tcpip4_spec` in `union ethtool_flow_union`; all in the order of the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FlowFields {
    source: [u8; 4],
    destination: [u8; 4],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    service: u8,
    unused: [u8; 3],
    rest: [u32; 9],
}

impl FlowSpec {
    fn of(rule: &Rule, place: u32) -> Self {
        let value = FlowFields {
            destination: rule.address.octets(),
            destination_port: (rule.port & rule.port_mask).to_be_bytes(),
            ..FlowFields::default()
        };
        let mask = FlowFields {
            destination: [0xFF; 4],
            destination_port: rule.port_mask.to_be_bytes(),
            ..FlowFields::default()
        };
        Self { flow: rule.flow.number(), value, mask, queue: rule.queue.into(), place, ..Self::default() }
    }

    /// The rule, if it looks at nothing but a destination.
    fn rule(&self) -> Option<Rule> {
        let flow = [Flow::Tcp, Flow::Udp].into_iter().find(|flow| flow.number() == self.flow)?;
        let rule = Rule {
            flow,
            address: self.value.destination.into(),
            port: u16::from_be_bytes(self.value.destination_port),
            port_mask: u16::from_be_bytes(self.mask.destination_port),
            queue: u32::try_from(self.queue).ok()?,
        };
        let plain = Self::of(&rule, self.place);
        // Values under a mask of zeros mean nothing, and drivers leave what they like there.
        (plain.mask == self.mask && self.mask_extra == plain.mask_extra).then_some(rule)
    }
}

fn low_half(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
}

fn word_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Names, 32 bytes each, and blocks of four words (changeable, wanted, on, never to change) for each 32 of them.
fn features(names: &[u32], bits: &[u32]) -> Features {
    let named = names.chunks_exact(FEATURE_NAME_BYTES / 4).enumerate().filter_map(|(index, words)| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let block = bits.get(index / 32 * FEATURE_BLOCK_WORDS..)?.first_chunk::<FEATURE_BLOCK_WORDS>()?;
        let has = |word: u32| word & (1 << (index % 32)) != 0;
        Some(Feature { name: word_of(&bytes), is_changeable: has(block[0]), is_on: has(block[2]) })
    });
    Features(named.collect())
}

const GDRVINFO: u32 = 0x03;
const GSTRINGS: u32 = 0x1B;
const GTSO: u32 = 0x1E;
const GRXFH: u32 = 0x29;
const SRXFH: u32 = 0x2A;
const GRXCLSRLCNT: u32 = 0x2E;
const GRXCLSRULE: u32 = 0x2F;
const GRXCLSRLALL: u32 = 0x30;
const SRXCLSRLDEL: u32 = 0x31;
const SRXCLSRLINS: u32 = 0x32;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3A;
const GCHANNELS: u32 = 0x3C;
const GRSSH: u32 = 0x46;

const TCP_V4_FLOW: u32 = 1;
const UDP_V4_FLOW: u32 = 2;
const RXH_IP_SRC: u32 = 1 << 4;
const RXH_IP_DST: u32 = 1 << 5;
const RXH_L4_SRC: u32 = 1 << 6;
const RXH_L4_DST: u32 = 1 << 7;
/// `RX_CLS_LOC_SPECIAL`, `RX_CLS_LOC_ANY`.
const PLACE_CHOSEN_BY_DRIVER: u32 = 1 << 31;
const PLACE_ANY: u32 = u32::MAX;

/// `struct ethtool_drvinfo`.
const DRIVER_INFO_BYTES: usize = 196;
const DRIVER_NAME_AT: usize = 4;
const DRIVER_BUS_AT: usize = 100;
const DRIVER_TEXT_BYTES: usize = 32;
/// `struct ethtool_rxfh` before its table.
const HASH_HEADER_WORDS: usize = 6;
/// `struct ethtool_rxnfc`, in words.
const RX_QUESTION_WORDS: usize = 48;
const RX_DATA_WORD: usize = 2;
const RX_COUNT_WORD: usize = 46;
const RX_PLACES_WORD: usize = 47;
const SET_FEATURES: u32 = 4;
const FEATURE_NAME_BYTES: usize = 32;
const FEATURE_BLOCK_WORDS: usize = 4;
/// Kernels have some 60.
const FEATURES_MAX: usize = 1024;
/// Large cards have 4096 entries and 52 bytes.
const HASH_ENTRIES_MAX: u32 = 65_536;
const HASH_KEY_BYTES_MAX: u32 = 1024;
/// Large cards have some 8192.
const RULES_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};
    use std::process::Command;

    use super::*;

    const RULE: Rule =
        Rule { flow: Flow::Udp, address: Ipv4Addr::new(192, 0, 2, 9), port: 0x8040, port_mask: 0xFFC0, queue: 3 };

    /// Ours, each with the words that a C compiler is asked for.
    fn layouts() -> Vec<(&'static str, usize)> {
        vec![
            ("sizeof(struct ethtool_drvinfo)", DRIVER_INFO_BYTES),
            ("offsetof(struct ethtool_drvinfo, driver)", DRIVER_NAME_AT),
            ("offsetof(struct ethtool_drvinfo, bus_info)", DRIVER_BUS_AT),
            ("sizeof(struct ethtool_channels)", size_of::<Channels>()),
            ("offsetof(struct ethtool_channels, max_combined)", offset_of!(Channels, combined_max)),
            ("offsetof(struct ethtool_channels, combined_count)", offset_of!(Channels, combined)),
            ("sizeof(struct ethtool_rxfh)", HASH_HEADER_WORDS * 4),
            ("offsetof(struct ethtool_rxfh, indir_size)", 8),
            ("offsetof(struct ethtool_rxfh, key_size)", 12),
            ("sizeof(struct ethtool_rxnfc)", size_of::<RxQuestion>()),
            ("sizeof(struct ethtool_rxnfc)", RX_QUESTION_WORDS * 4),
            ("offsetof(struct ethtool_rxnfc, data)", offset_of!(RxQuestion, data)),
            ("offsetof(struct ethtool_rxnfc, data)", RX_DATA_WORD * 4),
            ("offsetof(struct ethtool_rxnfc, fs)", offset_of!(RxQuestion, spec)),
            ("offsetof(struct ethtool_rxnfc, rule_cnt)", offset_of!(RxQuestion, rule_count)),
            ("offsetof(struct ethtool_rxnfc, rule_cnt)", RX_COUNT_WORD * 4),
            ("offsetof(struct ethtool_rxnfc, rule_locs)", RX_PLACES_WORD * 4),
            ("sizeof(struct ethtool_rx_flow_spec)", size_of::<FlowSpec>()),
            ("offsetof(struct ethtool_rx_flow_spec, h_u)", offset_of!(FlowSpec, value)),
            ("offsetof(struct ethtool_rx_flow_spec, h_ext)", offset_of!(FlowSpec, value_extra)),
            ("offsetof(struct ethtool_rx_flow_spec, m_u)", offset_of!(FlowSpec, mask)),
            ("offsetof(struct ethtool_rx_flow_spec, m_ext)", offset_of!(FlowSpec, mask_extra)),
            ("offsetof(struct ethtool_rx_flow_spec, ring_cookie)", offset_of!(FlowSpec, queue)),
            ("offsetof(struct ethtool_rx_flow_spec, location)", offset_of!(FlowSpec, place)),
            ("offsetof(struct ethtool_tcpip4_spec, ip4dst)", offset_of!(FlowFields, destination)),
            ("offsetof(struct ethtool_tcpip4_spec, pdst)", offset_of!(FlowFields, destination_port)),
            ("sizeof(struct ethtool_get_features_block)", FEATURE_BLOCK_WORDS * 4),
            ("offsetof(struct ethtool_gstrings, data)", 12),
            ("offsetof(struct ethtool_sset_info, data)", 16),
            ("ETH_GSTRING_LEN", FEATURE_NAME_BYTES),
        ]
    }

    fn numbers() -> Vec<(&'static str, u32)> {
        vec![
            ("ETHTOOL_GDRVINFO", GDRVINFO),
            ("ETHTOOL_GSTRINGS", GSTRINGS),
            ("ETHTOOL_GTSO", GTSO),
            ("ETHTOOL_GRXFH", GRXFH),
            ("ETHTOOL_SRXFH", SRXFH),
            ("ETHTOOL_GRXCLSRLCNT", GRXCLSRLCNT),
            ("ETHTOOL_GRXCLSRULE", GRXCLSRULE),
            ("ETHTOOL_GRXCLSRLALL", GRXCLSRLALL),
            ("ETHTOOL_SRXCLSRLDEL", SRXCLSRLDEL),
            ("ETHTOOL_SRXCLSRLINS", SRXCLSRLINS),
            ("ETHTOOL_GSSET_INFO", GSSET_INFO),
            ("ETHTOOL_GFEATURES", GFEATURES),
            ("ETHTOOL_GCHANNELS", GCHANNELS),
            ("ETHTOOL_GRSSH", GRSSH),
            ("ETH_SS_FEATURES", SET_FEATURES),
            ("TCP_V4_FLOW", TCP_V4_FLOW),
            ("UDP_V4_FLOW", UDP_V4_FLOW),
            ("RXH_IP_SRC", RXH_IP_SRC),
            ("RXH_IP_DST", RXH_IP_DST),
            ("RXH_L4_B_0_1", RXH_L4_SRC),
            ("RXH_L4_B_2_3", RXH_L4_DST),
            ("RX_CLS_LOC_SPECIAL", PLACE_CHOSEN_BY_DRIVER),
            ("RX_CLS_LOC_ANY", PLACE_ANY),
        ]
    }

    #[test]
    fn layouts_are_those_of_the_kernel() {
        // As a C compiler on x86-64 says, for machines without one.
        let sizes = [size_of::<Channels>(), size_of::<RxQuestion>(), size_of::<FlowSpec>(), size_of::<FlowFields>()];
        assert_eq!(sizes, [36, 192, 168, 52]);
        let of_spec = [offset_of!(FlowSpec, mask), offset_of!(FlowSpec, queue), offset_of!(FlowSpec, place)];
        assert_eq!(of_spec, [76, 152, 160]);
        let mut source = String::from("#include <stddef.h>\n#include <linux/ethtool.h>\n");
        for (words, ours) in layouts() {
            source += &format!("_Static_assert({words} == {ours}, \"{words}\");\n");
        }
        for (words, ours) in numbers() {
            source += &format!("_Static_assert((unsigned){words} == {ours}u, \"{words}\");\n");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("layout.c");
        std::fs::write(&file, source).unwrap();
        let has_header = std::path::Path::new("/usr/include/linux/ethtool.h").exists();
        match Command::new("gcc").arg("-fsyntax-only").arg(&file).output() {
            Ok(done) if has_header => assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr)),
            _ => eprintln!("not compared with linux/ethtool.h: no gcc or no such header"),
        }
    }

    #[test]
    fn rules_survive_the_structure() {
        let spec = FlowSpec::of(&RULE, 7);
        assert_eq!((spec.rule(), spec.place), (Some(RULE), 7));
        assert_eq!((spec.value.destination, spec.value.destination_port), ([192, 0, 2, 9], [0x80, 0x40]));
        assert_eq!((spec.mask.destination, spec.mask.destination_port), ([255; 4], [0xFF, 0xC0]));
        let mut other = spec;
        other.mask.source = [255; 4];
        assert_eq!(other.rule(), None, "it looks at the source too");
        other = spec;
        other.value.source = [9; 4];
        assert_eq!(other.rule(), Some(RULE), "a value under no mask");
        other = spec;
        other.flow = 3;
        assert_eq!(other.rule(), None, "SCTP");
        // Queue of a virtual function, or "drop".
        other = spec;
        other.queue = u64::MAX;
        assert_eq!(other.rule(), None);
    }

    #[test]
    fn features_are_read_from_their_bits() {
        let name = |text: &str| {
            let mut bytes = [0; FEATURE_NAME_BYTES];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            bytes.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect::<Vec<_>>()
        };
        let mut names: Vec<u32> = (0..33).flat_map(|_| name("other")).collect();
        names[..8].copy_from_slice(&name("rx-gro"));
        names.splice(32 * 8.., name("rx-lro"));
        let found = features(&names, &[1, 0, 0, 0, 0, 0, 1, 0]);
        assert!(found.is_changeable("rx-gro") && !found.is_on("rx-gro"));
        assert!(!found.is_changeable("rx-lro") && found.is_on("rx-lro"));
        assert!(!found.is_on("none") && features(&names, &[]) == Features::default());
    }

    #[test]
    fn loopback_answers_little() {
        let lo = Ethtool::open("lo").unwrap();
        assert!(lo.channels().is_err() && lo.rule_table().is_err() && lo.hash_table().is_err());
        let features = lo.features().unwrap();
        assert!(features.is_on("loopback") && features.is_on("tx-tcp-segmentation") == lo.tso().unwrap());
        for name in ["", "hl-is-not-there", "a name of more than fifteen bytes"] {
            let error = Ethtool::open(name).and_then(|device| device.tso()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name:?}");
        }
    }
}
