//! What kind of network a hub is: the rules that hold before any policy of a member.
#![forbid(unsafe_code)]

use crate::wire::kinds::Kinds;

use super::port::{MACS_UNLIMITED, PortBits, PortKind};

/// Chosen per hub by the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// A transparent Ethernet between people who trust each other.
    #[default]
    Lan,
    /// Strangers side by side, who want the gateway and hardly each other.
    ///
    /// Members cannot play DHCP server or router, take over addresses that are in use, or make the hub
    /// copy chatter and unknown destinations to everybody: 5000 desktops' broadcasts alone would be
    /// 12 million sealed sends a second.
    Public,
}

/// A hub, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// Which rules hold.
    pub profile: Profile,
    /// Most addresses in the FDB, [`super::fdb::ENTRIES_RANGE`].
    pub fdb_entries: usize,
    /// Seconds until an address is forgotten, [`super::fdb::AGEING_RANGE`].
    pub ageing_secs: u32,
    /// Members exchange frames with the gateway and bridges only.
    pub isolate_members: bool,
    /// Members exchange IPv6. Without a service for it, IPv6 passes by gateway, NAT and log.
    pub members_ipv6: bool,
    /// Any number that members do not know; makes collisions in the FDB unpredictable.
    pub hash_seed: u64,
}

impl Default for HubSettings {
    fn default() -> Self {
        Self {
            profile: Profile::Lan,
            fdb_entries: super::fdb::ENTRIES_DEFAULT,
            ageing_secs: super::fdb::AGEING_SECS_DEFAULT,
            isolate_members: false,
            members_ipv6: true,
            hash_seed: 0,
        }
    }
}

/// The rules of a profile for one kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Rules that hold for the port whatever its policy says.
    pub bits: PortBits,
    /// Frames the port may never send.
    pub refuse_ingress: Kinds,
    /// Most addresses behind the port, unless its policy names a number.
    pub macs_max: u32,
    /// Flooded frames per second, unless its policy lifts the limit; 0: any number.
    pub floods_per_sec: u32,
}

impl Profile {
    /// Whether frames to unknown addresses go to all ports, or to bridge ports only.
    pub const fn floods_unknown(self) -> bool {
        matches!(self, Self::Lan)
    }

    /// The rules for ports of `kind`.
    pub const fn rules(self, kind: PortKind) -> Rules {
        match (self, kind) {
            (_, PortKind::Host) => {
                Rules { bits: PortBits::HOST, refuse_ingress: Kinds::NONE, macs_max: MACS_UNLIMITED, floods_per_sec: 0 }
            }
            // Behind a bridge is a whole network, let in by its operator: its limit guards against a
            // loop and is no quota.
            (_, PortKind::Bridge) => Rules {
                bits: PortBits::BRIDGE.or_if(matches!(self, Self::Public), PortBits::EXCLUSIVE),
                refuse_ingress: Kinds::NONE,
                macs_max: MACS_UNLIMITED,
                floods_per_sec: 4096,
            },
            (Self::Lan, PortKind::Member) => Rules {
                bits: PortBits::NONE,
                refuse_ingress: Kinds::NONE,
                // A computer with virtual machines; a flood of addresses ends here.
                macs_max: 64,
                // Games and discovery of a busy desktop stay below 50.
                floods_per_sec: 256,
            },
            (Self::Public, PortKind::Member) => Rules {
                bits: PortBits::EXCLUSIVE.or(PortBits::QUIET),
                refuse_ingress: Kinds::DHCP_SERVER.or(Kinds::DHCPV6_SERVER).or(ROUTER),
                // One card, and the addresses it randomises while the old ones age.
                macs_max: 4,
                // ARP, DHCP and neighbour discovery of one computer; each costs a copy per member.
                floods_per_sec: 32,
            },
        }
    }
}

/// What only a router sends, also where it may be hidden.
pub(super) const ROUTER: Kinds = Kinds::ROUTER_ADVERT.or(Kinds::OBSCURED);
