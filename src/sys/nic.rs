//! What a network device is and what it offers to a lane: kind, driver, queues, XDP, offloads, steering, interrupts.
//!
//! [`facts`] asks everybody who knows (rtnetlink, the family `netdev`, ethtool, /proc, /sys) and is for the start and
//! for operators. [`queues`] and [`tso`] are one system call each and may be asked every second. What a driver does not
//! answer counts as not there; only a device that does not exist is an error.

use std::fs;
use std::io;
use std::path::PathBuf;

use nix::net::if_::if_indextoname;
use serde::Serialize;

use super::bpf;
use super::ethtool::{Channels, Ethtool, Features, Flow, HashFields};
use super::irq::{self, Irq};
use super::netlink::{self, LinkFacts, XdpFeatures};

/// A device as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NicFacts {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// Hardware or what else.
    pub kind: NicKind,
    /// Its frames are Ethernet.
    pub is_ethernet: bool,
    /// Switched on, and the other end is there.
    pub is_up: bool,
    /// Name of the driver; empty if it does not say.
    pub driver: String,
    /// Where it is, such as `0000:03:00.0`; empty if nowhere.
    pub bus: String,
    /// Longest packet.
    pub mtu: usize,
    /// Its queues.
    pub queues: Queues,
    /// What the driver offers to XDP. `None`: the kernel does not say (before Linux 6.3).
    pub xdp: Option<XdpOffer>,
    /// XDP program on it.
    pub attached: Option<Attached>,
    /// It cuts TCP super-packets itself.
    pub tso: bool,
    /// TSO of the other end of a veth. `None`: no veth, or the other end is in another namespace.
    pub peer_tso: Option<bool>,
    /// The kernel merges received segments.
    pub gro: bool,
    /// The card merges received segments (LRO or GRO in hardware).
    pub merges_in_hardware: bool,
    /// It takes VLAN tags off received frames.
    pub strips_vlan: bool,
    /// There are VLAN devices on top of it.
    pub has_vlans: bool,
    /// Rules "such packets to that queue".
    pub ntuple: Ntuple,
    /// Spreading by hash over queues.
    pub rss: Option<Rss>,
    /// Interrupts of its queues.
    pub irqs: Vec<Irq>,
    /// NUMA node it is connected to, if the machine has several.
    pub numa_node: Option<u32>,
    /// How its interrupts are put off for polling.
    pub napi: Option<Napi>,
}

/// What a device is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicKind {
    /// Hardware, or what a hypervisor shows as such.
    Physical,
    /// One end of a cable in memory.
    Veth,
    /// A program is at its other end.
    Tap,
    /// Frames with a tag on another device.
    Vlan {
        /// That device; empty if it is in another namespace.
        parent: String,
        /// The tag.
        vid: u16,
    },
    /// A switch in the kernel.
    Bridge,
    /// Several devices as one.
    Bond,
    /// Of the host to itself.
    Loopback,
    /// Another software device.
    #[default]
    OtherVirtual,
}

impl NicKind {
    /// In a word or three, with its article.
    pub fn text(&self) -> String {
        match self {
            Self::Physical => "a physical device".into(),
            Self::Veth => "a veth device".into(),
            Self::Tap => "a tap device".into(),
            Self::Vlan { parent, vid } if parent.is_empty() => format!("VLAN {vid} on a device elsewhere"),
            Self::Vlan { parent, vid } => format!("VLAN {vid} on {parent}"),
            Self::Bridge => "a bridge".into(),
            Self::Bond => "a bond".into(),
            Self::Loopback => "the loopback device".into(),
            Self::OtherVirtual => "a virtual device".into(),
        }
    }
}

/// Queues of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Queues {
    /// That receive, in use.
    pub rx: u32,
    /// That send, in use.
    pub tx: u32,
    /// The most that can receive.
    pub max: u32,
}

/// What a driver offers to XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct XdpOffer {
    /// Programs run in the driver.
    pub native: bool,
    /// They can redirect, which AF_XDP needs.
    pub redirect: bool,
    /// AF_XDP without a copy.
    pub zero_copy: bool,
    /// Frames may lie in several buffers.
    pub multi_buffer: bool,
    /// Buffers a frame may take in zero-copy mode.
    pub zero_copy_segments: u32,
    /// The card finishes checksums of what AF_XDP sends.
    pub tx_checksum: bool,
    /// Programs can ask for the card's hash.
    pub rx_hash: bool,
    /// Programs can ask for a VLAN tag that was taken off.
    pub rx_vlan_tag: bool,
}

/// An XDP program on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// The kernel's number for it: `bpftool prog show id N`.
    pub id: u32,
    /// What it is called; empty if the kernel does not tell us.
    pub name: String,
    /// Behind the driver, not in it.
    pub generic: bool,
}

/// Whether the card has rules for flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ntuple {
    /// None.
    #[default]
    None,
    /// It could, but is told not to.
    Off,
    /// It does.
    On,
}

/// How received packets are spread over the queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rss {
    /// Queue for each remainder of the hash.
    pub indirection: Vec<u32>,
    /// Bytes of the key.
    pub key_bytes: u32,
    /// What of TCP packets goes into the hash. `None`: the driver does not say.
    pub tcp4_fields: Option<HashFields>,
    /// The same of UDP.
    pub udp4_fields: Option<HashFields>,
}

impl Rss {
    /// Entries of each queue, by queue.
    pub fn shares(&self) -> Vec<(u32, usize)> {
        let mut queues = self.indirection.clone();
        queues.sort_unstable();
        queues.chunk_by(|a, b| a == b).map(|same| (same[0], same.len())).collect()
    }
}

/// How interrupts are put off while somebody polls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Napi {
    /// `napi_defer_hard_irqs`: empty polls before interrupts are on again.
    pub defer_hard_irqs: u32,
    /// `gro_flush_timeout`: nanoseconds until the kernel polls by itself.
    pub gro_flush_ns: u64,
}

/// Everything about the device called `name`. Reads files: not for workers.
///
/// # Errors
/// `NotFound` if there is none; if the kernel does not answer at all.
pub fn facts(name: &str) -> io::Result<NicFacts> {
    let link = netlink::link(name)?;
    let ethtool = Ethtool::open(name)?;
    let (driver, bus) = ethtool.driver().map(|driver| (driver.name, driver.bus)).unwrap_or_default();
    let features = ethtool.features().unwrap_or_default();
    let folder = folder(name, link.index);
    let kind = kind(&link, folder.as_ref().is_some_and(|folder| folder.join("device").exists()));
    let parents = [bus.as_str(), link.parent.as_deref().unwrap_or_default()];
    Ok(NicFacts {
        index: link.index,
        is_ethernet: link.is_ethernet,
        is_up: link.is_up,
        mtu: link.mtu,
        queues: counted(ethtool.channels().ok(), &link),
        xdp: xdp_offer(link.index)?,
        attached: link.xdp.map(|xdp| Attached {
            id: xdp.id,
            name: bpf::program_name(xdp.id).unwrap_or_default(),
            generic: xdp.is_generic,
        }),
        tso: features.is_on(TSO),
        peer_tso: peer_tso(&kind, &link),
        gro: features.is_on("rx-gro"),
        merges_in_hardware: features.is_on("rx-lro") || features.is_on("rx-gro-hw"),
        strips_vlan: features.is_on("rx-vlan-hw-parse"),
        has_vlans: has_vlans(&fs::read_to_string("/proc/net/vlan/config").unwrap_or_default(), name),
        ntuple: ntuple(&ethtool, &features),
        rss: rss(&ethtool),
        irqs: if kind == NicKind::Physical { irq::of_device(name, &parents) } else { Vec::new() },
        numa_node: folder.as_ref().and_then(|folder| number(folder.join("device/numa_node"))),
        napi: folder.as_ref().and_then(|folder| {
            Some(Napi {
                defer_hard_irqs: number(folder.join("napi_defer_hard_irqs"))?,
                gro_flush_ns: number(folder.join("gro_flush_timeout"))?,
            })
        }),
        name: name.to_owned(),
        kind,
        driver,
        bus,
    })
}

/// Queues of the device called `name`: one system call, or two where the driver does not say.
///
/// # Errors
/// `NotFound` if there is none.
pub fn queues(name: &str) -> io::Result<Queues> {
    match Ethtool::open(name)?.channels() {
        Ok(channels) => Ok(of_channels(&channels)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(_) => Ok(of_link(&netlink::link(name)?)),
    }
}

/// Whether the device called `name` cuts TCP super-packets itself. Native XDP at the other end of a veth ends it.
///
/// # Errors
/// `NotFound` if there is none.
pub fn tso(name: &str) -> io::Result<bool> {
    Ethtool::open(name)?.tso()
}

fn counted(channels: Option<Channels>, link: &LinkFacts) -> Queues {
    channels.map_or_else(|| of_link(link), |channels| of_channels(&channels))
}

fn of_channels(channels: &Channels) -> Queues {
    let rx = channels.combined.saturating_add(channels.rx);
    Queues {
        rx,
        tx: channels.combined.saturating_add(channels.tx),
        // Drivers have either kind; with both, the combined ones are what can be asked for.
        max: channels.combined_max.max(channels.rx_max).max(rx),
    }
}

/// What was made for the device; without `ethtool -l` all of it is in use.
fn of_link(link: &LinkFacts) -> Queues {
    Queues { rx: link.rx_queues, tx: link.tx_queues, max: link.rx_queues }
}

fn kind(link: &LinkFacts, has_hardware: bool) -> NicKind {
    let name_of = |index: u32| if_indextoname(index).ok().and_then(|name| name.into_string().ok());
    match link.kind.as_deref() {
        _ if link.is_loopback => NicKind::Loopback,
        Some("veth") => NicKind::Veth,
        Some("tun") if link.is_ethernet => NicKind::Tap,
        Some("vlan") => NicKind::Vlan {
            parent: link.link.filter(|_| !link.link_is_elsewhere).and_then(name_of).unwrap_or_default(),
            vid: link.vlan.unwrap_or(0),
        },
        Some("bridge") => NicKind::Bridge,
        Some("bond" | "team") => NicKind::Bond,
        None if link.parent.is_some() || has_hardware => NicKind::Physical,
        _ => NicKind::OtherVirtual,
    }
}

fn xdp_offer(index: u32) -> io::Result<Option<XdpOffer>> {
    match netlink::xdp_features(index) {
        Ok(features) => Ok(features.map(offer)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        // Forbidden to ask, or no answer: as with a kernel that does not say.
        Err(_) => Ok(None),
    }
}

fn offer(features: XdpFeatures) -> XdpOffer {
    let has = |bits: u64, bit: u64| bits & bit != 0;
    XdpOffer {
        native: has(features.actions, ACT_BASIC),
        redirect: has(features.actions, ACT_REDIRECT),
        zero_copy: has(features.actions, ACT_ZERO_COPY),
        multi_buffer: has(features.actions, ACT_RX_SG),
        zero_copy_segments: features.zero_copy_segments,
        tx_checksum: has(features.socket, SOCKET_TX_CHECKSUM),
        rx_hash: has(features.rx_metadata, METADATA_HASH),
        rx_vlan_tag: has(features.rx_metadata, METADATA_VLAN_TAG),
    }
}

fn peer_tso(kind: &NicKind, link: &LinkFacts) -> Option<bool> {
    let is_here = *kind == NicKind::Veth && !link.link_is_elsewhere;
    let peer = link.link.filter(|_| is_here)?;
    tso(if_indextoname(peer).ok()?.to_str().ok()?).ok()
}

fn ntuple(ethtool: &Ethtool, features: &Features) -> Ntuple {
    if features.is_on(NTUPLE) {
        // Some drivers show the feature and have no rules.
        if ethtool.rule_table().is_ok() { Ntuple::On } else { Ntuple::None }
    } else if features.is_changeable(NTUPLE) {
        Ntuple::Off
    } else {
        Ntuple::None
    }
}

fn rss(ethtool: &Ethtool) -> Option<Rss> {
    let table = ethtool.hash_table().ok().filter(|table| !table.indirection.is_empty())?;
    Some(Rss {
        indirection: table.indirection,
        key_bytes: table.key_bytes,
        tcp4_fields: ethtool.hash_fields(Flow::Tcp).ok(),
        udp4_fields: ethtool.hash_fields(Flow::Udp).ok(),
    })
}

/// The folder of the device in /sys, which shows the devices of the namespace it was mounted in: not always ours.
fn folder(name: &str, index: u32) -> Option<PathBuf> {
    let folder = PathBuf::from("/sys/class/net").join(name);
    (number::<u32>(folder.join("ifindex"))? == index).then_some(folder)
}

/// The number in a file; `None` too for -1, which means "nothing" here.
fn number<T: std::str::FromStr>(file: PathBuf) -> Option<T> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Whether the text of `/proc/net/vlan/config` has a VLAN device on `device`.
fn has_vlans(text: &str, device: &str) -> bool {
    text.lines()
        .filter(|line| line.matches('|').count() == 2)
        .any(|line| line.rsplit('|').next().is_some_and(|parent| parent.trim() == device))
}

const TSO: &str = "tx-tcp-segmentation";
const NTUPLE: &str = "rx-ntuple-filter";

/// `NETDEV_XDP_ACT_*`.
const ACT_BASIC: u64 = 1;
const ACT_REDIRECT: u64 = 1 << 1;
const ACT_ZERO_COPY: u64 = 1 << 3;
const ACT_RX_SG: u64 = 1 << 5;
/// `NETDEV_XDP_RX_METADATA_*`.
const METADATA_HASH: u64 = 1 << 1;
const METADATA_VLAN_TAG: u64 = 1 << 2;
/// `NETDEV_XSK_FLAGS_TX_CHECKSUM`.
const SOCKET_TX_CHECKSUM: u64 = 1 << 1;

#[cfg(test)]
pub(crate) mod tests;
