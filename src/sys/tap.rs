//! A TAP device: a network card of the host whose frames a program carries.
//!
//! In front of each frame stands a virtio-net header ([`super::vnet`]), so that a super-packet of 64 KiB passes in one
//! piece, both ways, with its checksum unfinished. A device that [`Tap::attach`] made goes away with the last descriptor
//! of it, and so do its addresses and routes; one that somebody made before for this user (`ip tuntap add`) stays.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::uio::writev;
use nix::unistd::read;

use super::vnet::{VNET_BYTES, VnetHeader};
use crate::wire::ethernet::Mac;

/// Why there is no device. Its text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No kernel module, or none inside of this container.
    #[error("/dev/net/tun is not there: load the kernel's module (`modprobe tun`), or give it to this container")]
    NoTun,
    /// The name is none.
    #[error("\"{0}\" is no name of a device: 1 to 15 of A-Z a-z 0-9 . _ -, and not . or ..")]
    Name(String),
    /// Neither root nor the owner of the device.
    #[error(
        "making device {0} is not permitted: run this as root or with CAP_NET_ADMIN, or let root make the device for \
         you: `ip tuntap add dev {0} mode tap user NAME`"
    )]
    NotPermitted(String),
    /// Somebody else has it open.
    #[error("device {0} is in use: another `hublane connect` or another program has it; choose another --device")]
    Busy(String),
    /// There is a device of another kind.
    #[error("there is a device {0} that is no TAP device; choose another --device")]
    OtherKind(String),
    /// Something else.
    #[error("device {device}: cannot {doing}: {source}")]
    System {
        /// Its name.
        device: String,
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// How a device shall be.
#[derive(Clone, Debug)]
pub struct TapSettings {
    /// Address of the card.
    pub mac: Mac,
    /// Longest packet.
    pub mtu: usize,
    /// Frames, super-packets among them, that the kernel keeps for us; it drops those beyond.
    pub queue: usize,
}

/// See the module text.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    /// Room for one frame with its header.
    room: Box<[u8]>,
    /// The kernel hands out datagrams of UDP uncut, too.
    cuts_udp: bool,
}

impl Tap {
    /// Makes the device called `name`, or takes the one that was made for this user, which stays as it is. Nobody else can
    /// take it then.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn attach(name: &str) -> Result<Self, TapError> {
        check_name(name)?;
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let tun = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun");
        let fd = OwnedFd::from(tun.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoTun,
            Some(libc::EACCES | libc::EPERM) => TapError::NotPermitted(name.to_owned()),
            _ => TapError::System { device: name.to_owned(), doing: "open /dev/net/tun", source: error },
        })?);
        attach(&fd, name)?;
        let cuts_udp = offload(&fd, OFFLOAD_TCP | OFFLOAD_UDP).is_ok();
        if !cuts_udp {
            offload(&fd, OFFLOAD_TCP).map_err(|source| failed(name, "leave checksums to us", source))?;
        }
        Ok(Self { fd, name: name.to_owned(), room: vec![0; ROOM_BYTES].into_boxed_slice(), cuts_udp })
    }

    /// Makes it as it shall be and switches it on, if we have the right to do so.
    ///
    /// # Errors
    /// If the kernel does not take the settings.
    pub fn set_up(&self, settings: &TapSettings) -> Result<(), TapError> {
        match self.configure(settings) {
            // The owner of a device that root made may use it as it is, and only that.
            Err(TapError::System { source, .. }) if source.raw_os_error() == Some(libc::EPERM) => Ok(()),
            done => done,
        }
    }

    fn configure(&self, &TapSettings { mac, mtu, queue }: &TapSettings) -> Result<(), TapError> {
        let failed = |doing| move |source| failed(&self.name, doing, source);
        let control = Control::new(AddressFamily::Inet).map_err(failed("open a socket"))?;
        let mut card = request(&self.name);
        card.ifr_ifru.ifru_hwaddr = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data: std::array::from_fn(|i| libc::c_char::from_ne_bytes([mac.0.get(i).copied().unwrap_or(0)])),
        };
        control.ask(libc::SIOCSIFHWADDR, &mut card).map_err(failed("set the address of the card"))?;
        let mut longest = request(&self.name);
        longest.ifr_ifru.ifru_mtu = i32::try_from(mtu).unwrap_or(i32::MAX);
        control.ask(libc::SIOCSIFMTU, &mut longest).map_err(failed("set the MTU"))?;
        let mut frames = request(&self.name);
        frames.ifr_ifru.ifru_metric = i32::try_from(queue).unwrap_or(i32::MAX);
        control.ask(libc::SIOCSIFTXQLEN, &mut frames).map_err(failed("set the length of the queue"))?;
        control.switch_on(&self.name).map_err(failed("switch it on"))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether datagrams of UDP come uncut, too.
    pub fn cuts_udp(&self) -> bool {
        self.cuts_udp
    }

    /// Gives it an address, beside those it has of the other family. IPv4 has one from us.
    ///
    /// # Errors
    /// Without the right to do so.
    pub fn set_address(&self, address: IpAddr, prefix: u8) -> Result<(), TapError> {
        let set = match address {
            IpAddr::V4(address) => self.set_ipv4(address.octets(), prefix),
            IpAddr::V6(address) => self.set_ipv6(address.octets(), prefix),
        };
        set.map_err(|source| match source.raw_os_error() {
            // Who has not the right is told EPERM.
            Some(libc::EACCES) if address.is_ipv6() => failed(
                &self.name,
                "set its IPv6 address",
                io::Error::other("IPv6 is switched off here (`sysctl net.ipv6.conf.default.disable_ipv6`)"),
            ),
            _ => failed(&self.name, "set its address", source),
        })
    }

    fn set_ipv4(&self, address: [u8; 4], prefix: u8) -> io::Result<()> {
        let control = Control::new(AddressFamily::Inet)?;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        let mut asked = request(&self.name);
        asked.ifr_ifru.ifru_addr = ipv4_name(address);
        control.ask(libc::SIOCSIFADDR, &mut asked)?;
        asked.ifr_ifru.ifru_netmask = ipv4_name(mask.to_be_bytes());
        control.ask(libc::SIOCSIFNETMASK, &mut asked)
    }

    fn set_ipv6(&self, address: [u8; 16], prefix: u8) -> io::Result<()> {
        let control = Control::new(AddressFamily::Inet6)?;
        let asked = In6Ifreq { address, prefix: prefix.into(), ifindex: self.index()?.cast_signed() };
        // SAFETY: for IPv6 the kernel reads a `struct in6_ifreq`, which lives through the call.
        let done = unsafe { libc::ioctl(control.0.as_raw_fd(), libc::SIOCSIFADDR, &raw const asked) };
        match io::Error::last_os_error() {
            _ if done == 0 => Ok(()),
            // It has it already.
            error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            error => Err(error),
        }
    }

    /// Makes it a port of the bridge called `bridge`.
    ///
    /// # Errors
    /// Without that bridge or the right to change it.
    pub fn join_bridge(&self, bridge: &str) -> Result<(), TapError> {
        check_name(bridge)?;
        let joined = self.index().and_then(|index| {
            let mut asked = request(bridge);
            asked.ifr_ifru.ifru_ifindex = index.cast_signed();
            Control::new(AddressFamily::Inet)?.ask(SIOCBRADDIF, &mut asked)
        });
        joined.map_err(|source| match source.raw_os_error() {
            Some(libc::ENODEV | libc::EOPNOTSUPP) => failed(
                bridge,
                "join it",
                io::Error::other("there is no bridge of that name; `ip link add NAME type bridge` makes one"),
            ),
            _ => failed(bridge, "join it", source),
        })
    }

    /// Plugs the cable in or out, as the host sees it; a bridge forgets then what it has learned there. Kernels before 5.0
    /// cannot.
    ///
    /// # Errors
    /// Where the kernel cannot.
    pub fn set_carrier(&self, on: bool) -> io::Result<()> {
        let carrier = libc::c_int::from(on);
        // SAFETY: TUNSETCARRIER reads an int, which lives through the call.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNSETCARRIER, &raw const carrier) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn index(&self) -> io::Result<u32> {
        let mut asked = request(&self.name);
        Control::new(AddressFamily::Inet)?.ask(libc::SIOCGIFINDEX, &mut asked)?;
        // SAFETY: SIOCGIFINDEX has filled this field; any bits are an integer.
        Ok(unsafe { asked.ifr_ifru.ifru_ifindex }.cast_unsigned())
    }

    /// The next frame that the host sends, behind its header; `None` if there is none. Never waits.
    ///
    /// # Errors
    /// If the device is gone.
    #[inline]
    pub fn receive(&mut self) -> io::Result<Option<(VnetHeader, &mut [u8])>> {
        let bytes = match read(&self.fd, &mut self.room) {
            Ok(bytes) => bytes,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let whole = self.room[..bytes].split_first_chunk_mut();
        Ok(whole.map(|(header, frame)| (VnetHeader::parse(header), frame)))
    }

    /// Gives the host a frame in pieces; false if it does not take it. Never waits.
    ///
    /// # Errors
    /// If the device is gone.
    #[inline]
    pub fn send<'a>(&mut self, header: VnetHeader, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<bool> {
        let header = header.to_bytes();
        let mut vectors: ArrayVec<IoSlice<'_>, PIECES_MAX> = ArrayVec::new();
        vectors.push(IoSlice::new(&header));
        for piece in pieces {
            if vectors.try_push(IoSlice::new(piece)).is_err() {
                return Ok(false);
            }
        }
        match writev(&self.fd, &vectors) {
            Ok(_) => Ok(true),
            // Switched off, out of memory, or a frame that the kernel does not like.
            Err(Errno::EIO | Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS | Errno::EINVAL) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A socket by which devices are asked and told.
struct Control(OwnedFd);

impl Control {
    fn new(family: AddressFamily) -> io::Result<Self> {
        Ok(Self(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?))
    }

    fn ask(&self, question: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: all questions asked here take and fill a `struct ifreq`, which lives through the call.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), question, &raw mut *request) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn switch_on(&self, name: &str) -> io::Result<()> {
        let mut asked = request(name);
        self.ask(libc::SIOCGIFFLAGS, &mut asked)?;
        // SAFETY: SIOCGIFFLAGS has filled this field; any bits are an integer.
        let flags = unsafe { asked.ifr_ifru.ifru_flags };
        asked.ifr_ifru.ifru_flags = flags | libc::c_short::try_from(libc::IFF_UP).unwrap_or(0);
        self.ask(libc::SIOCSIFFLAGS, &mut asked)
    }
}

/// `struct in6_ifreq` of the kernel.
#[repr(C)]
struct In6Ifreq {
    address: [u8; 16],
    prefix: u32,
    ifindex: i32,
}

/// Makes `fd` the end of the device. The kernel lets go of one that has just been closed after a moment only.
fn attach(fd: &OwnedFd, name: &str) -> Result<(), TapError> {
    let wanted = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    for attempt in 1.. {
        let mut asked = request(name);
        asked.ifr_ifru.ifru_flags = libc::c_short::try_from(wanted).unwrap_or(0);
        // SAFETY: TUNSETIFF takes a `struct ifreq`, which lives through the call.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut asked) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            _ if done == 0 => break,
            Some(libc::EBUSY) if attempt < ATTEMPTS => std::thread::sleep(BETWEEN_ATTEMPTS),
            Some(libc::EBUSY) => return Err(TapError::Busy(name.to_owned())),
            Some(libc::EPERM | libc::EACCES) => return Err(TapError::NotPermitted(name.to_owned())),
            Some(libc::EINVAL) => return Err(TapError::OtherKind(name.to_owned())),
            _ => return Err(failed(name, "make it", error)),
        }
    }
    Ok(())
}

fn offload(fd: &OwnedFd, what: libc::c_ulong) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes an integer.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, what) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn failed(device: &str, doing: &'static str, source: io::Error) -> TapError {
    TapError::System { device: device.to_owned(), doing, source }
}

fn check_name(name: &str) -> Result<(), TapError> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = (1..libc::IFNAMSIZ).contains(&name.len()) && name.chars().all(is_good) && ![".", ".."].contains(&name);
    if good { Ok(()) } else { Err(TapError::Name(name.to_owned())) }
}

/// A question about the device called `name`, which was checked.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: a structure of integers and bytes, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = CString::new(name).unwrap_or_default();
    for (place, byte) in request.ifr_name.iter_mut().zip(name.as_bytes_with_nul()) {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    request
}

/// An IPv4 address as these calls want it.
fn ipv4_name(address: [u8; 4]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (place, byte) in data[2..].iter_mut().zip(address) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    libc::sockaddr { sa_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or(0), sa_data: data }
}

/// Header, an Ethernet header with two tags, and the longest packet there is.
const ROOM_BYTES: usize = VNET_BYTES + 22 + 65_536;
/// Header and pieces of a frame: the shortest segments that are merged fill a packet with 256.
const PIECES_MAX: usize = 260;
/// Checksums, and TCP over both families also with ECN.
const OFFLOAD_TCP: libc::c_ulong = 1 | 2 | 4 | 8;
/// Both families of UDP; the kernel wants them together (6.2).
const OFFLOAD_UDP: libc::c_ulong = 0x20 | 0x40;
/// `TUNSETCARRIER`, `_IOW('T', 226, int)`.
const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2;
/// `SIOCBRADDIF`.
const SIOCBRADDIF: libc::Ioctl = 0x89a2;
/// A second in all.
const ATTEMPTS: u32 = 10;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netdev::Devices;
    use crate::sys::nic::tests::{in_namespace, ip};

    fn open(name: &str) -> Result<Tap, TapError> {
        let tap = Tap::attach(name)?;
        tap.set_up(&TapSettings { mac: Mac([0x5e, 1, 2, 3, 4, 5]), mtu: 1500, queue: 100 })?;
        Ok(tap)
    }

    #[test]
    fn a_device_comes_and_goes() {
        in_namespace(|| {
            let tap = open("hub0").unwrap();
            let seen = Devices::new().unwrap().find("hub0").unwrap();
            assert_eq!((seen.mac, seen.mtu, seen.up), (Mac([0x5e, 1, 2, 3, 4, 5]), 1500, true));
            assert!(matches!(open("hub0"), Err(TapError::Busy(_))));
            tap.set_address("192.0.2.7".parse().unwrap(), 24).unwrap();
            tap.set_address("2001:db8::7".parse().unwrap(), 64).unwrap();
            let addresses = crate::sys::netdev::addressing("hub0").unwrap().addresses;
            assert_eq!(addresses, [("192.0.2.7".parse().unwrap(), 24)]);
            ip("link add br0 type bridge");
            tap.join_bridge("br0").unwrap();
            for on in [false, true] {
                tap.set_carrier(on).unwrap();
                // The kernel passes it on within a second.
                let end = std::time::Instant::now() + Duration::from_secs(10);
                while Devices::new().unwrap().find("hub0").unwrap().up != on {
                    assert!(std::time::Instant::now() < end, "no carrier {on}");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            assert!(tap.join_bridge("br1").unwrap_err().to_string().contains("no bridge"));
            drop(tap);
            assert!(Devices::new().unwrap().find("hub0").is_err());
        });
    }

    #[test]
    fn names_that_are_none() {
        for name in ["", "a name", "sixteen-letters-", "..", "a/b"] {
            assert!(matches!(open(name), Err(TapError::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_device_of_another_kind_is_left_alone() {
        in_namespace(|| {
            ip("link add hl0 type veth peer name hl1");
            assert!(matches!(open("hl0"), Err(TapError::OtherKind(_))));
        });
    }

    /// What the host sends arrives with its header, and what is sent to it arrives there.
    #[test]
    fn frames_pass_both_ways() {
        in_namespace(|| {
            let mut tap = open("hub0").unwrap();
            tap.set_address("192.0.2.7".parse().unwrap(), 24).unwrap();
            let arp = |op: u8, from: [u8; 4], to: [u8; 4]| {
                let mut frame =
                    vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x5e, 9, 9, 9, 9, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, op];
                frame.extend([0x5e, 9, 9, 9, 9, 9]);
                frame.extend(from);
                frame.extend([0; 6]);
                frame.extend(to);
                frame
            };
            let question = arp(1, [192, 0, 2, 9], [192, 0, 2, 7]);
            let (head, tail) = question.split_at(20);
            assert!(tap.send(VnetHeader::default(), [head, tail].into_iter()).unwrap());
            let end = std::time::Instant::now() + Duration::from_secs(5);
            loop {
                assert!(std::time::Instant::now() < end, "no answer");
                match tap.receive().unwrap() {
                    Some((_, frame)) if frame[12..14] == [8, 6] && frame[21] == 2 => break,
                    Some(_) => {}
                    None => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
    }
}
