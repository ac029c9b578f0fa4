//! The smallest netlink client that can ask about one device: rtnetlink for what it is, generic netlink for what its
//! driver offers to XDP.
//!
//! Every wait is bounded, and what comes back is read by a walker that takes any bytes: an attribute that is cut off
//! or lies about its length ends the walk.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// What rtnetlink says about a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkFacts {
    /// The kernel's number for it.
    pub index: u32,
    /// Its frames are Ethernet, and it is not the loopback device.
    pub is_ethernet: bool,
    /// It is the loopback device.
    pub is_loopback: bool,
    /// Switched on, and the other end is there.
    pub is_up: bool,
    /// Longest packet.
    pub mtu: usize,
    /// Which kind of software device it is, such as `veth`. `None`: real, or made before there were kinds.
    pub kind: Option<String>,
    /// VLAN identifier of a VLAN device.
    pub vlan: Option<u16>,
    /// Device below it, or the other end of a veth; of this namespace unless [`Self::link_is_elsewhere`].
    pub link: Option<u32>,
    /// The number in [`Self::link`] is of another network namespace.
    pub link_is_elsewhere: bool,
    /// Name of what it hangs on, such as `0000:03:00.0` or `virtio2`: real devices have one.
    pub parent: Option<String>,
    /// Queues that were made for it, used or not.
    pub rx_queues: u32,
    /// The same for sending.
    pub tx_queues: u32,
    /// The XDP program on it.
    pub xdp: Option<XdpAttached>,
}

/// An XDP program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpAttached {
    /// The kernel's number for the program.
    pub id: u32,
    /// Behind the driver (generic mode), not in it.
    pub is_generic: bool,
}

/// What a driver offers to XDP: bits of `linux/netdev.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// `netdev_xdp_act`.
    pub actions: u64,
    /// Buffers that a frame may take in zero-copy mode.
    pub zero_copy_segments: u32,
    /// `netdev_xdp_rx_metadata`.
    pub rx_metadata: u64,
    /// `netdev_xsk_flags`.
    pub socket: u64,
}

/// Asks rtnetlink about the device called `name`.
///
/// # Errors
/// `NotFound` if there is none; if the kernel does not answer.
pub fn link(name: &str) -> io::Result<LinkFacts> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut body = vec![0; LINK_HEADER_BYTES];
    put_attribute(&mut body, libc::IFLA_IFNAME, &terminated(name));
    put_attribute(&mut body, libc::IFLA_EXT_MASK, &SKIP_STATISTICS.to_ne_bytes());
    let mut netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    let answer = netlink.ask(libc::RTM_GETLINK, &body)?;
    parse_link(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Asks the family `netdev` about the device with this number. `None`: the kernel does not say (before Linux 6.3).
///
/// # Errors
/// If the device is gone or the kernel does not answer.
pub fn xdp_features(index: u32) -> io::Result<Option<XdpFeatures>> {
    let mut netlink = Netlink::open(SockProtocol::NetlinkGeneric)?;
    let Some(family) = netlink.family("netdev")? else { return Ok(None) };
    let mut body = vec![DEV_GET, 1, 0, 0];
    put_attribute(&mut body, DEV_IFINDEX, &index.to_ne_bytes());
    match netlink.ask(family, &body) {
        Ok(answer) => Ok(parse_features(&answer)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A socket of one netlink protocol.
#[derive(Debug)]
struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        let wait = i64::try_from(ANSWER_WAIT.as_millis()).unwrap_or(i64::MAX);
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(wait))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request and returns what the first message of the answer carries.
    fn ask(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence += 1;
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), &message(kind, self.sequence, body), &kernel, MsgFlags::empty())?;
        let deadline = Instant::now() + ANSWER_WAIT;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        while Instant::now() < deadline {
            let (length, from) = match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok(received) => received,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            // Other processes may write to us; only the kernel answers.
            if from.is_some_and(|from| from.pid() != 0) {
                continue;
            }
            match answer(&buffer[..length], self.sequence) {
                Some(Ok(body)) => return Ok(body.to_vec()),
                Some(Err(Errno::ENODEV)) => return Err(io::ErrorKind::NotFound.into()),
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer by netlink"))
    }

    /// The number of a generic family, if the kernel has it.
    fn family(&mut self, name: &str) -> io::Result<Option<u16>> {
        let mut body = vec![GET_FAMILY, 1, 0, 0];
        put_attribute(&mut body, FAMILY_NAME, &terminated(name));
        match self.ask(GENERIC_CONTROL, &body) {
            Ok(answer) => Ok(answer
                .get(GENERIC_HEADER_BYTES..)
                .and_then(|bytes| Attributes(bytes).find(FAMILY_ID))
                .and_then(u16_of)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Attributes one after the other: type and value. Ends at the first that does not fit into the bytes.
#[derive(Clone, Copy, Debug)]
struct Attributes<'b>(&'b [u8]);

impl<'b> Attributes<'b> {
    fn find(mut self, wanted: u16) -> Option<&'b [u8]> {
        self.find_map(|(kind, value)| (kind == wanted).then_some(value))
    }

    /// Attributes within the attribute `wanted`; none if there is no such attribute.
    fn nested(self, wanted: u16) -> Attributes<'b> {
        Attributes(self.find(wanted).unwrap_or_default())
    }

    fn number(self, wanted: u16) -> Option<u32> {
        self.find(wanted).and_then(u32_of)
    }

    fn word(self, wanted: u16) -> Option<String> {
        let bytes = self.find(wanted)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

impl<'b> Iterator for Attributes<'b> {
    type Item = (u16, &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_of(self.0)?);
        let kind = u16_of(self.0.get(2..)?)? & ATTRIBUTE_TYPE_MASK;
        let value = self.0.get(ATTRIBUTE_HEADER_BYTES..length)?;
        // The last one may lack its padding.
        self.0 = self.0.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn u16_of(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn put_attribute(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).expect("names and numbers are short");
    into.extend(length.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(value);
    into.resize(into.len().next_multiple_of(ALIGN), 0);
}

fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(MESSAGE_HEADER_BYTES + body.len()).expect("requests are short");
    let mut bytes = Vec::with_capacity(MESSAGE_HEADER_BYTES + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // Sender: the kernel knows.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// The body of the first message in `bytes` that answers the request of that number, or the error it tells.
fn answer(mut bytes: &[u8], sequence: u32) -> Option<Result<&[u8], Errno>> {
    loop {
        let length = usize::try_from(u32_of(bytes)?).ok()?;
        let kind = u16_of(bytes.get(4..)?)?;
        let body = bytes.get(MESSAGE_HEADER_BYTES..length)?;
        if u32_of(&bytes[8..]) == Some(sequence) {
            match kind {
                MESSAGE_ERROR => {
                    let code = u32_of(body)?.cast_signed();
                    return Some(Err(Errno::from_raw(code.checked_neg().unwrap_or(libc::EIO))));
                }
                MESSAGE_DONE => return Some(Err(Errno::ENODATA)),
                MESSAGE_NOTHING => {}
                _ => return Some(Ok(body)),
            }
        }
        bytes = bytes.get(length.next_multiple_of(ALIGN)..)?;
    }
}

fn parse_link(body: &[u8]) -> Option<LinkFacts> {
    let hardware = u16_of(body.get(2..)?)?;
    let index = u32_of(body.get(4..)?)?;
    let flags = u32_of(body.get(8..)?)?;
    let all = Attributes(body.get(LINK_HEADER_BYTES..)?);
    let wanted = (libc::IFF_UP | libc::IFF_RUNNING).cast_unsigned();
    let info = all.nested(libc::IFLA_LINKINFO);
    let kind = info.word(libc::IFLA_INFO_KIND);
    let vlan = kind
        .as_deref()
        .filter(|kind| *kind == "vlan")
        .and_then(|_| info.nested(libc::IFLA_INFO_DATA).find(VLAN_ID).and_then(u16_of));
    Some(LinkFacts {
        index,
        is_ethernet: hardware == libc::ARPHRD_ETHER,
        is_loopback: hardware == libc::ARPHRD_LOOPBACK,
        is_up: flags & wanted == wanted,
        mtu: all.number(libc::IFLA_MTU).and_then(|mtu| usize::try_from(mtu).ok()).unwrap_or(0),
        kind,
        vlan,
        link: all.number(libc::IFLA_LINK),
        link_is_elsewhere: all.find(libc::IFLA_LINK_NETNSID).is_some(),
        parent: all.word(PARENT_DEVICE_NAME),
        rx_queues: all.number(libc::IFLA_NUM_RX_QUEUES).unwrap_or(1),
        tx_queues: all.number(libc::IFLA_NUM_TX_QUEUES).unwrap_or(1),
        xdp: parse_xdp(all.nested(libc::IFLA_XDP)),
    })
}

fn parse_xdp(xdp: Attributes<'_>) -> Option<XdpAttached> {
    let how = *xdp.find(XDP_ATTACHED)?.first()?;
    // With programs in several places at once the kernel names them apart only; the one in the driver decides.
    let id = [XDP_PROGRAM, XDP_DRIVER_PROGRAM, XDP_HARDWARE_PROGRAM, XDP_GENERIC_PROGRAM];
    let id = id.into_iter().find_map(|kind| xdp.number(kind))?;
    (how != ATTACHED_NONE).then_some(XdpAttached { id, is_generic: how == ATTACHED_GENERIC })
}

fn parse_features(body: &[u8]) -> Option<XdpFeatures> {
    let all = Attributes(body.get(GENERIC_HEADER_BYTES..)?);
    let bits = |kind| all.find(kind).and_then(u64_of);
    Some(XdpFeatures {
        actions: bits(DEV_XDP_FEATURES)?,
        zero_copy_segments: all.number(DEV_ZERO_COPY_SEGMENTS).unwrap_or(1),
        rx_metadata: bits(DEV_RX_METADATA).unwrap_or(0),
        socket: bits(DEV_SOCKET_FEATURES).unwrap_or(0),
    })
}

/// The kernel answers before the request returns; more means that something is broken.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// A device with many virtual functions and addresses takes some KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const ALIGN: usize = 4;

const MESSAGE_HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// `struct ifinfomsg`.
const LINK_HEADER_BYTES: usize = 16;
/// `struct genlmsghdr`.
const GENERIC_HEADER_BYTES: usize = 4;
/// `NLA_TYPE_MASK`: the two highest bits say "nested" and "network order".
const ATTRIBUTE_TYPE_MASK: u16 = 0x3FFF;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
const MESSAGE_NOTHING: u16 = 1;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

/// `RTEXT_FILTER_SKIP_STATS`.
const SKIP_STATISTICS: u32 = 1 << 3;
/// `IFLA_VLAN_ID`.
const VLAN_ID: u16 = 1;
/// `IFLA_PARENT_DEV_NAME`, since Linux 5.14.
const PARENT_DEVICE_NAME: u16 = 56;
/// `IFLA_XDP_*`.
const XDP_ATTACHED: u16 = 2;
const XDP_PROGRAM: u16 = 4;
const XDP_DRIVER_PROGRAM: u16 = 5;
const XDP_GENERIC_PROGRAM: u16 = 6;
const XDP_HARDWARE_PROGRAM: u16 = 7;
/// `XDP_ATTACHED_*`.
const ATTACHED_NONE: u8 = 0;
const ATTACHED_GENERIC: u8 = 2;

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_*`.
const GENERIC_CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_*`.
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;
const DEV_ZERO_COPY_SEGMENTS: u16 = 4;
const DEV_RX_METADATA: u16 = 5;
const DEV_SOCKET_FEATURES: u16 = 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_attribute(&mut bytes, kind, value);
        bytes
    }

    #[test]
    fn attributes_are_walked() {
        let inner = [attribute(XDP_ATTACHED, &[1]), attribute(XDP_PROGRAM, &77_u32.to_ne_bytes())].concat();
        let nested_bit = 0x8000;
        let bytes = [attribute(3, b"eth0\0"), attribute(libc::IFLA_XDP | nested_bit, &inner)].concat();
        let all = Attributes(&bytes);
        assert_eq!(all.map(|(kind, _)| kind).collect::<Vec<_>>(), [3, libc::IFLA_XDP]);
        assert_eq!(all.word(3).unwrap(), "eth0");
        assert_eq!(parse_xdp(all.nested(libc::IFLA_XDP)), Some(XdpAttached { id: 77, is_generic: false }));
        assert_eq!(parse_xdp(all.nested(9)), None);
        // The last value without its padding, a length that lies, a length below the header.
        assert_eq!(Attributes(&bytes[..9]).count(), 1);
        assert_eq!(Attributes(&bytes[..8]).count(), 0);
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn a_vlan_device_is_read() {
        let mut body = vec![0; LINK_HEADER_BYTES];
        body[2..4].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
        body[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        body[8..12].copy_from_slice(&(libc::IFF_UP | libc::IFF_RUNNING).to_ne_bytes());
        let data = attribute(VLAN_ID, &9_u16.to_ne_bytes());
        let info = [attribute(libc::IFLA_INFO_KIND, b"vlan\0"), attribute(libc::IFLA_INFO_DATA, &data)].concat();
        put_attribute(&mut body, libc::IFLA_LINKINFO, &info);
        put_attribute(&mut body, libc::IFLA_LINK, &2_u32.to_ne_bytes());
        put_attribute(&mut body, PARENT_DEVICE_NAME, b"0000:03:00.0\0");
        let found = parse_link(&body).unwrap();
        assert_eq!((found.kind.as_deref(), found.vlan, found.link), (Some("vlan"), Some(9), Some(2)));
        assert_eq!((found.index, found.parent.as_deref()), (7, Some("0000:03:00.0")));
        assert!(found.is_ethernet && found.is_up && !found.is_loopback && !found.link_is_elsewhere);
    }

    #[test]
    fn answers_are_told_apart() {
        let ours = message(16, 7, b"body");
        let other = message(16, 6, b"else");
        assert_eq!(answer(&[other.clone(), ours.clone()].concat(), 7), Some(Ok(b"body".as_slice())));
        assert_eq!(answer(&other, 7), None);
        let failed = message(MESSAGE_ERROR, 7, &(-libc::ENODEV).to_ne_bytes());
        assert_eq!(answer(&failed, 7), Some(Err(Errno::ENODEV)));
        let odd = message(MESSAGE_ERROR, 7, &i32::MIN.to_ne_bytes());
        assert_eq!(answer(&odd, 7), Some(Err(Errno::EIO)));
        assert_eq!(answer(&message(MESSAGE_DONE, 7, &[0; 4]), 7), Some(Err(Errno::ENODATA)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..256), short in any::<bool>()) {
            // Lengths that fit by chance are rare: half of the cases have small ones.
            let mut bytes = bytes;
            if short {
                bytes.iter_mut().skip(1).step_by(2).for_each(|byte| *byte = 0);
            }
            let walked: usize = Attributes(&bytes).map(|(_, value)| ATTRIBUTE_HEADER_BYTES + value.len()).sum();
            prop_assert!(walked <= bytes.len());
            let _ = answer(&bytes, 0);
            let _ = parse_features(&bytes);
            if let Some(facts) = parse_link(&bytes) {
                prop_assert!(bytes.len() >= LINK_HEADER_BYTES, "{facts:?}");
            }
        }
    }

    #[test]
    fn loopback_is_found_and_others_are_not() {
        let lo = link("lo").unwrap();
        assert!(lo.is_loopback && !lo.is_ethernet && lo.index > 0 && lo.mtu >= 1500, "{lo:?}");
        for name in ["", "hl-is-not-there", "a name of more than fifteen bytes"] {
            assert_eq!(link(name).unwrap_err().kind(), io::ErrorKind::NotFound, "{name:?}");
        }
        // What a driver offers is 0 for the loopback device; older kernels have no such family.
        assert!(xdp_features(lo.index).unwrap().is_none_or(|offer| offer.actions == 0));
    }
}
