//! What a network device is: index, card, MTU, whether it is up, its IPv4 addresses, where its default route goes.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::wire::ethernet::Mac;

/// What can change from one moment to the next, found by three short system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number for it: another one if it was deleted and made again.
    pub index: u32,
    /// Address of the card.
    pub mac: Mac,
    /// Longest packet.
    pub mtu: usize,
    /// Switched on, and the other end is there.
    pub up: bool,
}

/// What the operator told the kernel about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addressing {
    /// Addresses with the lengths of their prefixes.
    pub addresses: Vec<(Ipv4Addr, u8)>,
    /// Where the default route with the best metric goes.
    pub next_hop: Option<Ipv4Addr>,
}

/// Asks for devices by name.
#[derive(Debug)]
pub struct Devices {
    socket: OwnedFd,
}

impl Devices {
    /// # Errors
    /// If no socket can be had.
    pub fn new() -> io::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { socket })
    }

    /// The device called so.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn find(&self, name: &str) -> io::Result<Device> {
        let index = self.ask(name, libc::SIOCGIFINDEX)?;
        let flags = self.ask(name, libc::SIOCGIFFLAGS)?;
        let card = self.ask(name, libc::SIOCGIFHWADDR)?;
        let mtu = self.ask(name, libc::SIOCGIFMTU)?;
        // SAFETY: SIOCGIFINDEX has filled this field; any bits are an integer.
        let index = unsafe { index.ifr_ifru.ifru_ifindex };
        // SAFETY: as before, by SIOCGIFFLAGS.
        let flags = i32::from(unsafe { flags.ifr_ifru.ifru_flags });
        // SAFETY: as before, by SIOCGIFHWADDR.
        let card = unsafe { card.ifr_ifru.ifru_hwaddr };
        // SAFETY: as before, by SIOCGIFMTU.
        let mtu = unsafe { mtu.ifr_ifru.ifru_mtu };
        if card.sa_family != libc::ARPHRD_ETHER {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "not an Ethernet device"));
        }
        let mac = Mac(std::array::from_fn(|i| card.sa_data[i].to_ne_bytes()[0]));
        let wanted = libc::IFF_UP | libc::IFF_RUNNING;
        Ok(Device {
            index: index.cast_unsigned(),
            mac,
            mtu: usize::try_from(mtu).unwrap_or(0),
            up: flags & wanted == wanted,
        })
    }

    fn ask(&self, name: &str, question: libc::Ioctl) -> io::Result<libc::ifreq> {
        let name = CString::new(name)?;
        let name = name.as_bytes_with_nul();
        // SAFETY: a structure of integers and bytes, for which zeros are values.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() > request.ifr_name.len() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no device has such a long name"));
        }
        for (place, byte) in request.ifr_name.iter_mut().zip(name) {
            *place = libc::c_char::from_ne_bytes([*byte]);
        }
        // SAFETY: all these questions take and fill a `struct ifreq`, which lives through the call.
        let answered = unsafe { libc::ioctl(self.socket.as_raw_fd(), question, &raw mut request) };
        match answered {
            0 => Ok(request),
            _ => Err(match io::Error::last_os_error() {
                gone if gone.raw_os_error() == Some(libc::ENODEV) => io::ErrorKind::NotFound.into(),
                other => other,
            }),
        }
    }
}

/// Addresses and default route of the device called `name`. Reads a file of the kernel: not for workers.
///
/// # Errors
/// If the kernel does not say.
pub fn addressing(name: &str) -> io::Result<Addressing> {
    let addresses = getifaddrs()?
        .filter(|entry| entry.interface_name == name)
        .filter_map(|entry| {
            let address = entry.address?.as_sockaddr_in()?.ip();
            let mask = entry.netmask?.as_sockaddr_in()?.ip();
            let prefix = u8::try_from(u32::from(mask).count_ones()).ok()?;
            Some((address, prefix))
        })
        .collect();
    let next_hop = default_route(&fs::read_to_string("/proc/net/route")?, name);
    Ok(Addressing { addresses, next_hop })
}

/// Every IPv4 address of this host.
///
/// # Errors
/// If the kernel does not say.
pub fn host_addresses() -> io::Result<Vec<Ipv4Addr>> {
    let mut addresses: Vec<Ipv4Addr> =
        getifaddrs()?.filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip())).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Finds the default route of `device` with the smallest metric in the text of `/proc/net/route`.
fn default_route(routes: &str, device: &str) -> Option<Ipv4Addr> {
    let candidates = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let &[name, destination, gateway, flags, _, _, metric, mask, ..] = fields.as_slice() else { return None };
        let is_gateway = u32::from_str_radix(flags, 16).ok()? & ROUTE_IS_GATEWAY != 0;
        if name != device || destination != "00000000" || mask != "00000000" || !is_gateway {
            return None;
        }
        // Printed as a number in the machine's order, of what stands in memory in the order of the wire.
        let gateway = u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes();
        Some((metric.parse::<u32>().ok()?, Ipv4Addr::from(gateway)))
    });
    candidates.min().map(|(_, gateway)| gateway)
}

/// `RTF_GATEWAY`.
const ROUTE_IS_GATEWAY: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                    eth0\t00000000\t0200000A\t0003\t0\t0\t50\t00000000\t0\t0\t0\n\
                    eth0\t00000000\t00000000\t0001\t0\t0\t10\t00000000\t0\t0\t0\n\
                    eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                    eth1\t00000000\t0300000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let little = cfg!(target_endian = "little");
        let want = |last| little.then_some(Ipv4Addr::new(10, 0, 0, last));
        if little {
            assert_eq!(default_route(text, "eth0"), want(2));
            assert_eq!(default_route(text, "eth1"), want(3));
        }
        assert_eq!(default_route(text, "eth"), None);
        assert_eq!(default_route("", "eth0"), None);
    }

    #[test]
    fn names_that_are_none() {
        let devices = Devices::new().unwrap();
        for name in ["hl-is-not-there", "a name of more than fifteen bytes"] {
            assert_eq!(devices.find(name).unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
        }
        assert_eq!(devices.find("lo").unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn loopback_has_its_address() {
        let found = addressing("lo").unwrap();
        assert!(found.addresses.contains(&(Ipv4Addr::LOCALHOST, 8)), "{found:?}");
    }
}
