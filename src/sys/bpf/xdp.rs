//! The XDP program of the lane (`xdp/lane.c`): loaded once, set up through its maps, attached by links.
//!
//! What callers can rely on:
//!
//! * Settings can be replaced while the program runs, and at every moment each frame is decided as by the former ones or as
//!   by the present ones ([`XdpProgram::configure`]).
//! * A link lives as long as its [`XdpLink`], so a process that dies leaves nothing behind. A program of somebody else at
//!   the device is never replaced, and nobody else can replace ours without taking the link off, which
//!   [`XdpLink::is_attached`] tells.
//! * A device can be attached to before there are sockets: what belongs to the lane is dropped until its queue has one.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::map::{Definition, Map};
use super::object::Object;
use super::refusal::{NoXdp, end_of_log};
use super::{Code, Insn, link_create, link_detach, object_info, prog_by_id, prog_load, prog_test_run};
use crate::wire::ethernet::Mac;
use crate::wire::{tcp, udp};

/// What belongs to the lane at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpSettings {
    /// The addresses are ours alone: everything to them is ours.
    pub dedicated: bool,
    /// The VLAN whose frames count; 0 for frames without a tag.
    pub vlan: u16,
    /// Address of the card.
    pub mac: Mac,
    /// Outside addresses, at most [`ADDRESSES_MAX`].
    pub addresses: Vec<Ipv4Addr>,
    /// Ports of TCP and UDP, and identifiers of ICMP.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Single ports: protocol (6 or 17), address, port.
    pub statics: Vec<(u8, Ipv4Addr, u16)>,
    /// Prefixes whose packets are dropped, whether for us or for the host; at most [`SOURCES_MAX`].
    pub dropped_sources: Vec<(Ipv4Addr, u8)>,
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the stack, for drivers without XDP. Packets that the sender's card was to cut are lost (see `xdp/README.md`).
    Generic,
}

/// What the program decided, by [`XdpProgram::try_on`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpAction {
    /// Dropped as after a defect of the program.
    Aborted,
    /// Dropped.
    Drop,
    /// To the host.
    Pass,
    /// Back out of the device.
    Tx,
    /// To the socket of the queue.
    Redirect,
}

/// Frames since the program was loaded, by decision, on all devices that it is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpCounts {
    /// To the host.
    pub passed: u64,
    /// To the host, because a header is cut off or impossible.
    pub malformed: u64,
    /// Dropped: from a listed source.
    pub listed_source: u64,
    /// Dropped: ours, but the queue has no socket.
    pub no_socket: u64,
    /// To the lane: TCP.
    pub tcp: u64,
    /// To the lane: UDP.
    pub udp: u64,
    /// To the lane: ICMP.
    pub icmp: u64,
    /// To the lane: another protocol over IPv4.
    pub other_protocol: u64,
    /// To the lane: a fragment of anything.
    pub fragment: u64,
    /// To the lane: ARP.
    pub arp: u64,
}

/// The program and its maps.
#[derive(Debug)]
pub struct XdpProgram {
    program: OwnedFd,
    has_frags: bool,
    config: Map,
    addresses: Map,
    ports: Map,
    sources: Map,
    sockets: Map,
    counts: Map,
    /// What stands in the maps.
    written: Mutex<Written>,
    /// The last device it was attached to.
    device: AtomicU32,
}

/// Contents of maps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    addresses: BTreeSet<Ipv4Addr>,
    ports: Vec<u64>,
    sources: BTreeSet<(Ipv4Addr, u8)>,
}

impl XdpProgram {
    /// Makes the maps and loads the program. It does nothing yet, and for nobody.
    ///
    /// # Errors
    /// See [`NoXdp`].
    pub fn load() -> Result<Self, NoXdp> {
        Self::of_object(OBJECT)
    }

    /// The same with a file that is not the one built in.
    pub(super) fn of_object(bytes: &[u8]) -> Result<Self, NoXdp> {
        let object = Object::read(bytes, SECTION)?;
        let mut maps = Vec::new();
        for (name, definition) in &object.maps {
            maps.push((name.as_str(), Map::new(name, *definition).map_err(NoXdp::loading)?));
        }
        let fds: Vec<_> = maps.iter().map(|(_, map)| map.fd().as_raw_fd()).collect();
        let (program, has_frags) = load_code(&object, &object.code(&fds)?)?;
        let mut take = |name: &str, key_bytes, value_bytes, entries| {
            let at = maps.iter().position(|(found, map)| {
                let Definition { key_bytes: key, value_bytes: value, entries: room, .. } = map.definition();
                *found == name && (key, value, room) == (key_bytes, value_bytes, entries)
            });
            at.map(|at| maps.swap_remove(at).1).ok_or_else(|| {
                NoXdp::Io("the XDP program and its loader do not fit", io::Error::other(name.to_owned()))
            })
        };
        Ok(Self {
            config: take("config", 4, 12, 1)?,
            addresses: take("addresses", 4, 4, ADDRESSES_MAX)?,
            ports: take("ports", 4, 8, BITMAPS * BITMAP_WORDS)?,
            sources: take("sources", 8, 4, 2 * SOURCES_MAX)?,
            sockets: take("sockets", 4, 4, QUEUES_MAX)?,
            counts: take("counts", 4, 8, DECISIONS)?,
            written: Mutex::new(Written::nothing()),
            device: AtomicU32::new(0),
            program,
            has_frags,
        })
    }

    /// Whether it takes frames that fill more than one buffer (Linux 5.18): without, drivers refuse it at devices with a
    /// large MTU.
    pub const fn has_frags(&self) -> bool {
        self.has_frags
    }

    /// Its number, as `ip link show` and `bpftool` name it.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn id(&self) -> io::Result<u32> {
        let [_, _, _, _, id @ ..] = object_info::<8>(self.program.as_fd())?;
        Ok(u32::from_ne_bytes(id))
    }

    /// Replaces the settings. Meanwhile each frame is decided as by the former ones or as by these: what both call ours
    /// never passes to the host, and what neither does is never taken from it.
    ///
    /// # Errors
    /// `InvalidInput` for what does not fit the maps, before anything is changed; else what the kernel says, in which case
    /// the settings are partly these, and another call sets them right.
    pub fn configure(&self, settings: &XdpSettings) -> io::Result<()> {
        let wanted = Written::of(settings)?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // 1. Addresses that are given up, while everything else is as it was.
        let stale: Vec<_> = written.addresses.difference(&wanted.addresses).copied().collect();
        for address in stale {
            self.addresses.remove(&address.octets())?;
            written.addresses.remove(&address);
        }
        // 2. Of the addresses that stay, ports of both settings.
        let both: Vec<_> = written.ports.iter().zip(&wanted.ports).map(|(is, shall)| is | shall).collect();
        self.write_ports(&mut written, &both)?;
        for source in wanted.sources.iter().copied() {
            if !written.sources.contains(&source) {
                self.sources.set(&prefix_key(source), &[0; 4])?;
                written.sources.insert(source);
            }
        }
        // 3. Flags (in one byte, so they are never half written), card and VLAN (whose change no frame survives).
        self.config.set(&[0; 4], &config_value(settings))?;
        // 4. Ports that are given up.
        self.write_ports(&mut written, &wanted.ports)?;
        let stale: Vec<_> = written.sources.difference(&wanted.sources).copied().collect();
        for source in stale {
            self.sources.remove(&prefix_key(source))?;
            written.sources.remove(&source);
        }
        // 5. Addresses that are added, under the settings that are meant for them.
        for address in wanted.addresses {
            if !written.addresses.contains(&address) {
                self.addresses.set(&address.octets(), &[0; 4])?;
                written.addresses.insert(address);
            }
        }
        Ok(())
    }

    fn write_ports(&self, written: &mut Written, wanted: &[u64]) -> io::Result<()> {
        for ((at, is), shall) in (0u32..).zip(&mut written.ports).zip(wanted) {
            if is != shall {
                self.ports.set(&at.to_ne_bytes(), &shall.to_ne_bytes())?;
                *is = *shall;
            }
        }
        Ok(())
    }

    /// Attaches the program to the device with this index, for as long as the result lives.
    ///
    /// # Errors
    /// See [`NoXdp`].
    pub fn attach(&self, ifindex: u32, mode: XdpMode) -> Result<XdpLink, NoXdp> {
        let flags = match mode {
            XdpMode::Native => XDP_FLAGS_DRV_MODE,
            XdpMode::Generic => XDP_FLAGS_SKB_MODE,
        };
        let link = link_create(self.program.as_fd(), ifindex, BPF_XDP, flags);
        let link = link.map_err(|error| NoXdp::attaching(error, ifindex))?;
        self.device.store(ifindex, Ordering::Relaxed);
        Ok(XdpLink { link })
    }

    /// Frames of receive queue `queue` go to this AF_XDP socket, which must be bound to that queue.
    ///
    /// # Errors
    /// `E2BIG` from queue 256 on; if it is no such socket.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.sockets.set(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }

    /// Frames of this queue that are ours are dropped again. (A socket that is closed also leaves the map.)
    ///
    /// # Errors
    /// `EINVAL` from queue 256 on.
    pub fn clear_socket(&self, queue: u32) -> io::Result<()> {
        self.sockets.remove(&queue.to_ne_bytes()).map(drop)
    }

    /// What has been decided so far.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn counts(&self) -> io::Result<XdpCounts> {
        let count = |decision: u32| self.counts.sum(&decision.to_ne_bytes());
        Ok(XdpCounts {
            passed: count(0)?,
            malformed: count(1)?,
            listed_source: count(2)?,
            no_socket: count(3)?,
            tcp: count(4)?,
            udp: count(5)?,
            icmp: count(6)?,
            other_protocol: count(7)?,
            fragment: count(8)?,
            arp: count(9)?,
        })
    }

    /// Runs it on `frame` as if it had come in by this queue (`BPF_PROG_TEST_RUN`). Redirected frames go nowhere, but
    /// everything is counted. Queues but the first are those of the last device it was attached to.
    ///
    /// # Errors
    /// For frames of less than 14 bytes, and queues that do not exist.
    pub fn try_on(&self, frame: &[u8], queue: u32) -> io::Result<XdpAction> {
        let context = if queue == 0 { Vec::new() } else { self.context(frame, queue)? };
        match prog_test_run(self.program.as_fd(), frame, &context)? {
            0 => Ok(XdpAction::Aborted),
            1 => Ok(XdpAction::Drop),
            2 => Ok(XdpAction::Pass),
            3 => Ok(XdpAction::Tx),
            4 => Ok(XdpAction::Redirect),
            other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("the XDP program returned {other}"))),
        }
    }

    /// `struct xdp_md` for a frame of that queue: begin, end and metadata of the frame, device, queue, device it goes to.
    fn context(&self, frame: &[u8], queue: u32) -> io::Result<Vec<u8>> {
        let end = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let fields = [0, end, 0, self.device.load(Ordering::Relaxed), queue, 0];
        Ok(fields.into_iter().flat_map(u32::to_ne_bytes).collect())
    }
}

/// Loads the code; whether it takes frames of several buffers.
fn load_code(object: &Object, insns: &[Insn]) -> Result<(OwnedFd, bool), NoXdp> {
    let mut code = Code {
        prog_type: PROG_TYPE_XDP,
        name: XDP_NAME,
        license: &object.license,
        insns,
        flags: BPF_F_XDP_HAS_FRAGS,
        expected_attach_type: BPF_XDP,
    };
    let mut loaded = prog_load(&code, &mut []);
    if loaded.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
        // Kernels before 5.18 do not know the flag.
        code.flags = 0;
        loaded = prog_load(&code, &mut []);
    }
    match loaded {
        Ok(program) => Ok((program, code.flags != 0)),
        Err(error) => Err(explained(&code, error)),
    }
}

/// Asks the verifier, if it was the one that refused.
fn explained(code: &Code<'_>, error: io::Error) -> NoXdp {
    let mut log = vec![0; LOG_BYTES];
    // A full log is an error of its own; what matters is what stands in it.
    let refused = prog_load(code, &mut log).is_err();
    let log = end_of_log(&log);
    if refused && !log.is_empty() { NoXdp::refused(error, log) } else { NoXdp::loading(error) }
}

impl Written {
    fn nothing() -> Self {
        let ports = (0..BITMAPS * BITMAP_WORDS).map(|_| 0).collect();
        Self { addresses: BTreeSet::new(), ports, sources: BTreeSet::new() }
    }

    fn of(settings: &XdpSettings) -> io::Result<Self> {
        let mut wanted = Self::nothing();
        wanted.addresses.extend(&settings.addresses);
        for &(address, bits) in &settings.dropped_sources {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            wanted.sources.insert((Ipv4Addr::from(u32::from(address) & mask), bits));
        }
        for range in &settings.ports {
            for number in range.clone() {
                for bitmap in [TCP_PORTS, UDP_PORTS, IDENTIFIERS] {
                    wanted.add_port(bitmap, number);
                }
            }
        }
        for &(protocol, _, port) in &settings.statics {
            // The address is one of ours, and which of them matters only to the NAT.
            match protocol {
                tcp::PROTOCOL => wanted.add_port(TCP_PORTS, port),
                udp::PROTOCOL => wanted.add_port(UDP_PORTS, port),
                _ => return Err(invalid("static ports are of TCP or UDP")),
            }
        }
        if wanted.addresses.len() > ADDRESSES_MAX as usize {
            return Err(invalid("more addresses than the XDP program has room for (1024)"));
        }
        if wanted.sources.len() > SOURCES_MAX as usize {
            return Err(invalid("more listed sources than the XDP program has room for (32768)"));
        }
        if settings.dropped_sources.iter().any(|(_, bits)| *bits > 32) {
            return Err(invalid("a prefix has at most 32 bits"));
        }
        if settings.vlan > VLAN_MAX {
            return Err(invalid("VLANs go up to 4094"));
        }
        Ok(wanted)
    }

    fn add_port(&mut self, bitmap: u32, number: u16) {
        let at = bitmap * BITMAP_WORDS + u32::from(number) / u64::BITS;
        self.ports[at as usize] |= 1 << (u32::from(number) % u64::BITS);
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// `struct config` of `xdp/lane.c`.
fn config_value(settings: &XdpSettings) -> [u8; 12] {
    let mut flags = 0;
    if settings.dedicated {
        flags |= DEDICATED;
    }
    if !settings.dropped_sources.is_empty() {
        flags |= SOURCES;
    }
    let mut value = [0; 12];
    value[..6].copy_from_slice(&settings.mac.0);
    value[6..8].copy_from_slice(&settings.vlan.to_ne_bytes());
    value[8..].copy_from_slice(&flags.to_ne_bytes());
    value
}

/// `struct prefix` of `xdp/lane.c`.
fn prefix_key((address, bits): (Ipv4Addr, u8)) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&u32::from(bits).to_ne_bytes());
    key[4..].copy_from_slice(&address.octets());
    key
}

/// Holds the program at a device. Dropping it takes the program away.
#[derive(Debug)]
pub struct XdpLink {
    link: OwnedFd,
}

impl XdpLink {
    /// Whether the program is still at its device: not if that was deleted, or somebody took the link off.
    pub fn is_attached(&self) -> bool {
        // `struct bpf_link_info`: kind, id, program, padding, then the index of the device.
        let index = object_info::<20>(self.link.as_fd()).ok().and_then(|info| info.last_chunk().copied());
        index.is_some_and(|index: [u8; 4]| index != [0; 4])
    }

    /// The kernel's number for it: another one when the program was put on anew.
    #[cfg(test)]
    pub(crate) fn id(&self) -> io::Result<u32> {
        let [_, _, _, _, id @ ..] = object_info::<8>(self.link.as_fd())?;
        Ok(u32::from_ne_bytes(id))
    }

    #[cfg(test)]
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

impl Drop for XdpLink {
    fn drop(&mut self) {
        // Closing it is enough, but takes effect only when no child process that is about to be another program still has
        // the descriptor. Kernels before 5.11 cannot do it at once, and a device that is gone has nothing to do.
        let _ = link_detach(self.link.as_fd());
    }
}

/// Name of our program, as others see it.
pub const XDP_NAME: &str = "hublane_xdp";

/// Name of the program with this id, for "somebody else's program is there".
pub fn program_name(id: u32) -> Option<String> {
    let program = prog_by_id(id).ok()?;
    let info = object_info::<80>(program.as_fd()).ok()?;
    // `struct bpf_prog_info`: 64 bytes of other fields before it.
    let (_, name) = info.split_at(64);
    let name: Vec<u8> = name.iter().copied().take_while(|byte| *byte != 0).collect();
    Some(String::from_utf8_lossy(&name).into_owned()).filter(|name| !name.is_empty())
}

/// Addresses that there is room for.
pub const ADDRESSES_MAX: u32 = 1024;
/// Listed sources that there is room for: half of the map, so that two lists fit while one follows the other.
pub const SOURCES_MAX: u32 = 32_768;
/// Queues of a device that can have a socket.
pub const QUEUES_MAX: u32 = 256;

static OBJECT: &[u8] = include_bytes!("../../../xdp/lane.o");
const SECTION: &str = "xdp.frags";
// As in `xdp/lane.c`.
const DEDICATED: u32 = 1;
const SOURCES: u32 = 2;
const TCP_PORTS: u32 = 0;
const UDP_PORTS: u32 = 1;
const IDENTIFIERS: u32 = 2;
const BITMAPS: u32 = 3;
const BITMAP_WORDS: u32 = 65_536 / u64::BITS;
const DECISIONS: u32 = 10;
const VLAN_MAX: u16 = 4094;

/// More than the verifier has to say about a program of this size.
const LOG_BYTES: usize = 1 << 20;

const PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_SKB_MODE: u32 = 2;
const XDP_FLAGS_DRV_MODE: u32 = 4;
