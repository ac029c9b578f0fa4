//! The hub's own host: what members find under the gateway's address.
//!
//! A port of the hub like any other, with one owner: the worker that has the [`Gateway`]. [`Gateway::frame`] takes what
//! the hub brought to that port:
//!
//! 1. ARP: answered for the gateway, and where the hub wants it for members ([`arp`])
//! 2. DHCP: before anything else of IPv4, for who asks has no address yet ([`dhcp`])
//! 3. binding: port, MAC and address of a packet are those of a lease, or of a member who logged in again ([`bindings`])
//! 4. ICMP echo, DNS by UDP and TCP, and "nobody here" for the rest ([`icmp`], [`dns`], [`tcp`])
//!
//! Answers go to the port the question came by, never to where its source address points. One frame makes one reply at
//! most; only announcements, and probes for the DHCP server, go to everybody, and both are limited.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::ids::{MemberId, PortId, SessionId};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::ethernet::{Frame, Mac};

pub mod bindings;
pub mod dhcp;
pub mod dns;

use bindings::{Binding, Bindings};
use dhcp::{DhcpEvent, DhcpSettings};
use dns::{DnsAnswer, DnsQuestion, DnsSettings};

/// Who sent a frame: known from the port it came by, never from what stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The port.
    pub port: PortId,
    /// The session it belongs to.
    pub session: SessionId,
    /// The member logged in there.
    pub member: MemberId,
    /// Whether a network with many stations stands behind the port (bridge mode, relay agents).
    pub is_bridge: bool,
}

/// A gateway, as configured. A limit of 0 means any number.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Its card.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the inside network's prefix, 8 to 30.
    pub prefix_bits: u8,
    /// Whether it answers ARP for members from the binding table: in profile `public`, where questions reach nobody else.
    pub answers_for_members: bool,
    /// Whether only leased addresses are served. Without it also static ones, unless somebody else has a lease on them.
    pub bound_only: bool,
    /// ARP answers a session gets each second, in bursts of as many.
    pub arp_per_sec: u32,
    /// Echo replies a session gets each second.
    pub echo_per_sec: u32,
    /// ICMP errors a session gets each second.
    pub errors_per_sec: u32,
    /// Frames to everybody (announcements, probes for the DHCP server) each second.
    pub floods_per_sec: u32,
    /// Sessions whose limits are remembered at a time.
    pub sessions_max: usize,
    /// The DHCP server; `None`: there is none.
    pub dhcp: Option<DhcpSettings>,
    /// The DNS forwarder.
    pub dns: DnsSettings,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            mac: Mac([0x5e, 0, 0, 0, 0, 1]),
            address: Ipv4Addr::new(100, 64, 0, 1),
            prefix_bits: 16,
            answers_for_members: true,
            bound_only: true,
            // A desktop asks a few times a minute, a scan of its neighbours hundreds of times a second.
            arp_per_sec: 50,
            echo_per_sec: 200,
            // RFC 1812 §4.3.2.8; Linux allows one a second to an address.
            errors_per_sec: 10,
            floods_per_sec: 100,
            sessions_max: 16_384,
            dhcp: Some(DhcpSettings::default()),
            dns: DnsSettings::default(),
        }
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// All that is to be done was done.
    Done,
    /// A packet for the Internet whose sender is bound (now): the caller may go on with NAT.
    Adopted,
}

/// Something worth telling.
#[derive(Clone, Debug)]
pub enum GatewayEvent {
    /// ARP from `origin` said that `mac` has `address`, which is the gateway's (`holder` is `None`) or somebody's by lease.
    AddressClaimed {
        /// Who said it.
        origin: Origin,
        /// The card it named.
        mac: Mac,
        /// What it claimed.
        address: Ipv4Addr,
        /// Whose lease it is.
        holder: Option<Binding>,
    },
    /// The binding of `address` changed. NAT mappings of the binding before are not those of the one after.
    Bound {
        /// Which address.
        address: Ipv4Addr,
        /// Who had it.
        before: Option<Binding>,
        /// Who has it.
        after: Option<Binding>,
    },
    /// A question for the DNS; only if `log_questions` is set.
    Asked {
        /// Who asked.
        origin: Origin,
        /// The name as on the wire: labels with their lengths.
        name: Box<[u8]>,
        /// Its type.
        kind: u16,
    },
    /// Of the DHCP server.
    Dhcp(DhcpEvent),
}

/// What a gateway wants to be done.
pub trait GatewaySink {
    /// `frame` goes to exactly that port.
    fn reply(&mut self, to: PortId, frame: &[u8]);
    /// `frame` goes to everybody.
    fn flood(&mut self, frame: &[u8]);
    /// A line for the lease file; returns its number.
    fn journal(&mut self, record: &[u8]) -> u64;
    /// Like [`Self::reply`], once the record with this number is on disk.
    fn reply_when(&mut self, durable: u64, to: PortId, frame: &[u8]);
    /// A question for the upstreams, which comes back by [`Gateway::upstream_answered`].
    fn ask_upstream(&mut self, question: DnsQuestion);
    /// Something worth telling happened.
    fn event(&mut self, event: GatewayEvent);
    /// A frame or packet ends here.
    fn dropped(&mut self, reason: DropReason);
}

/// See the module text.
pub struct Gateway {
    settings: GatewaySettings,
    bindings: Arc<Bindings>,
}

impl Gateway {
    /// `seed` is a number that members do not know.
    pub fn new(settings: GatewaySettings, bindings: Arc<Bindings>, seed: u64, now: Tick, unix_s: u64) -> Self {
        let _ = (seed, now, unix_s);
        Self { settings, bindings }
    }

    /// A frame that the hub brought to the gateway's port.
    pub fn frame(&mut self, origin: &Origin, frame: Frame<'_>, now: Tick, sink: &mut impl GatewaySink) -> Handled {
        let _ = (origin, frame, now, sink, &self.settings, &self.bindings);
        Handled::Done
    }

    /// What came back for a question: see [`GatewaySink::ask_upstream`].
    pub fn upstream_answered(&mut self, answer: &DnsAnswer, now: Tick, sink: &mut impl GatewaySink) {
        let _ = (answer, now, sink);
    }

    /// What time brings; returns when to come again.
    pub fn poll(&mut self, now: Tick, sink: &mut impl GatewaySink) -> Tick {
        let _ = (now, sink);
        Tick(u64::MAX)
    }

    /// A session is gone.
    pub fn session_ended(&mut self, session: SessionId, now: Tick, sink: &mut impl GatewaySink) {
        let _ = (session, now, sink);
    }

    /// The DHCP server, to restore its leases and to list them.
    pub fn dhcp(&mut self) -> Option<&mut dhcp::DhcpServer> {
        None
    }
}
