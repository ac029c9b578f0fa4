//! What is asked about gateways and NATs, and how the answers look.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::nat::NatStats;

/// Which mappings are wanted; all conditions together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatWanted {
    /// Of that hub, in any case; none means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// Of that user, in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Of that inside address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// At most as many.
    pub max: u32,
}

/// A public endpoint, and perhaps somebody on the Internet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatEndpoint {
    /// `tcp`, `udp` or `icmp`.
    pub proto: String,
    /// Public address and port; of ICMP the identifier.
    pub external: SocketAddrV4,
    /// The other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddrV4>,
}

/// An address of a DHCP pool that somebody has or had, or that is in use without a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// Hub.
    pub hub: String,
    /// The address.
    pub address: String,
    /// `leased`, `offered`, `probing`, `free` (who had it last is remembered) or `conflict`.
    pub state: String,
    /// User who has or had it.
    pub user: String,
    /// His number; 0: nobody.
    pub member: u32,
    /// His session, if it lives.
    pub session: String,
    /// His card.
    pub mac: String,
    /// Client identifier in hexadecimal digits, or the digest of a long one.
    pub client: String,
    /// What he calls his computer.
    pub host_name: String,
    /// Kept for somebody by the configuration.
    pub reserved: bool,
    /// Seconds until the state ends.
    pub left_s: u64,
}

/// A mapping of a NAT, or a flow through one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatRow {
    /// Hub.
    pub hub: String,
    /// `tcp`, `udp` or `icmp`.
    pub proto: String,
    /// Address and port in the hub.
    pub inside: String,
    /// As seen from the Internet.
    pub external: String,
    /// The other end; empty: nobody.
    pub remote: String,
    /// User.
    pub user: String,
    /// His number; 0: a static mapping whose member was not seen.
    pub member: u32,
    /// His session.
    pub session: String,
    /// State of the flow; empty without one.
    pub state: String,
    /// `dynamic`, `static`, `pcp`, or `shared` (its public port serves others too).
    pub kind: String,
    /// Seconds until it ends if nothing happens; none: lasts.
    pub expires_s: Option<u64>,
    /// Worker that has it.
    pub worker: u32,
}

/// A NAT as a whole: all workers together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatStatsRow {
    /// Hub.
    pub hub: String,
    /// Device towards the Internet.
    pub device: String,
    /// Public addresses.
    pub addresses: Vec<String>,
    /// Ports of a block.
    pub block_ports: u16,
    /// What it counts.
    #[serde(flatten)]
    pub stats: NatStats,
}

/// What is behind a public endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatExplained {
    /// Hub.
    pub hub: String,
    /// `tcp`, `udp` or `icmp`.
    pub proto: String,
    /// The endpoint.
    pub external: String,
    /// `block` (one member has it for a while), `commons` (shared, each use recorded), `static` or `none`.
    pub port_use: String,
    /// Worker that has its state.
    pub worker: u32,
    /// First and last port of the block; empty: nobody has it.
    pub block: String,
    /// Inside address that has the block.
    pub inside: String,
    /// User who has it.
    pub user: String,
    /// His number; 0: nobody.
    pub member: u32,
    /// His session.
    pub session: String,
    /// Mapping and flows, at most 64; with a remote end those with that address only.
    pub rows: Vec<NatRow>,
    /// What becomes of a packet from the remote end: `passes`, or the reason for which it is dropped.
    pub verdict: Option<String>,
}

/// A gateway in the answer to `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayView {
    /// Its address in the hub.
    pub address: String,
    /// Worker that has it.
    pub worker: u32,
    /// Addresses leased now.
    pub leases: u64,
    /// Addresses that can be leased.
    pub pool: u64,
    /// The way to the Internet, if the hub has one.
    pub nat: Option<NatView>,
}

/// A queue of a NIC in the answer to `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneQueueView {
    /// Its number.
    pub queue: u32,
    /// The worker that has it.
    pub worker: u32,
    /// The device reads and writes our memory itself.
    pub zero_copy: bool,
    /// Why it does not; empty: it does.
    pub why_copy: String,
    /// Packets lost because the ring to us was full, or for want of a chunk where the kernel copies.
    pub ring_drops: u64,
    /// Times the kernel or the device found no chunk to receive into.
    pub starved: u64,
    /// Descriptors that the kernel or we refused.
    pub bad_descriptors: u64,
}

/// A NAT in the answer to `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatView {
    /// Device towards the Internet.
    pub device: String,
    /// `up` or `down`; empty: no worker said.
    pub link: String,
    /// What is at work: `packet`, `xdp`, `xdp generic`; empty: no worker said.
    pub lane: String,
    /// How packets come to the worker that has their port: `fanout`, `ntuple`, `rss`, `handoff`.
    pub steer: String,
    /// Queues of the device, by number; none with packet sockets.
    pub queues: Vec<LaneQueueView>,
    /// What the XDP program has decided, by name.
    pub decisions: BTreeMap<String, u64>,
    /// What the device has lost by the program, or why the lane is down.
    pub remarks: Vec<String>,
    /// Mappings now.
    pub mappings: u64,
    /// Flows now.
    pub flows: u64,
    /// Blocks of public ports that members have, or that rest.
    pub blocks_used: u64,
    /// Blocks there are.
    pub blocks: u64,
}
