//! Policies: what a member may do, item by item as the protocol has them (protocol note §3.7), and
//! their compilation into [`PortSettings`].
//!
//! Where items are enforced: here those that need nothing but the frame; at login and by the client
//! [`AT_LOGIN`]; nowhere yet [`UNENFORCED`], which a configuration must refuse instead of ignore.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use crate::wire::kinds::Kinds;
use crate::wire::vlan;

use super::port::{PortBits, PortKind, PortSettings};
use super::profile::{HubSettings, ROUTER};

macro_rules! items {
    ($( $(#[doc = $help:literal])+ $item:ident = $default:literal, $range:expr; )+) => {
        /// One item of a policy, numbered as in the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Item { $( $(#[doc = $help])+ $item, )+ }

        impl Item {
            /// All of them, in the order of their numbers.
            pub const ALL: [Item; ITEMS] = [ $( Item::$item, )+ ];

            /// Name in configuration and, behind `policy:`, on the wire.
            pub const fn name(self) -> &'static str {
                match self { $( Item::$item => stringify!($item), )+ }
            }

            /// Value unless configured.
            pub const fn default_value(self) -> u32 {
                match self { $( Item::$item => $default, )+ }
            }

            /// Values it can have.
            pub const fn range(self) -> RangeInclusive<u32> {
                match self { $( Item::$item => $range, )+ }
            }
        }
    };
}

/// How many items there are.
pub const ITEMS: usize = 38;

items! {
    /// May log in.
    Access = 1, 0..=1;
    /// No DHCPv4, either way.
    DHCPFilter = 0, 0..=1;
    /// Sends no DHCPv4 as a server.
    DHCPNoServer = 0, 0..=1;
    /// Uses IPv4 addresses that DHCP gave, and no others.
    DHCPForce = 0, 0..=1;
    /// At most 3 MAC addresses.
    NoBridge = 0, 0..=1;
    /// At most 4 IPv4 addresses.
    NoRouting = 0, 0..=1;
    /// Takes over no MAC address that is in use.
    CheckMac = 0, 0..=1;
    /// Takes over no IPv4 address that is in use.
    CheckIP = 0, 0..=1;
    /// Of broadcasts only ARP, DHCP, DHCPv6 and ICMPv6.
    ArpDhcpOnly = 0, 0..=1;
    /// Exchanges nothing with others that have this item.
    PrivacyFilter = 0, 0..=1;
    /// Accepts no TCP connections over IPv4.
    NoServer = 0, 0..=1;
    /// Floods as much as it likes.
    NoBroadcastLimiter = 0, 0..=1;
    /// May see all frames of the hub.
    MonitorPort = 0, 0..=1;
    /// TCP connections of a session.
    MaxConnection = 32, 1..=32;
    /// Seconds of silence after which a session ends.
    TimeOut = 20, 5..=60;
    /// MAC addresses, 0 for no limit of its own; 1 and 2 mean 3.
    MaxMac = 0, 0..=65_535;
    /// IPv4 addresses.
    MaxIP = 0, 0..=65_535;
    /// Bits per second into the hub. Stock ends take large numbers as signed ones.
    MaxUpload = 0, 0..=i32::MAX.unsigned_abs();
    /// Bits per second out of the hub.
    MaxDownload = 0, 0..=i32::MAX.unsigned_abs();
    /// Cannot change the own password.
    FixPassword = 0, 0..=1;
    /// Sessions at a time.
    MultiLogins = 0, 0..=65_535;
    /// No priority for voice and video.
    NoQoS = 0, 0..=1;
    /// No IPv6 router solicitations and advertisements, either way.
    RSandRAFilter = 0, 0..=1;
    /// Sends no IPv6 router advertisements.
    RAFilter = 0, 0..=1;
    /// No DHCPv6, either way.
    DHCPv6Filter = 0, 0..=1;
    /// Sends no DHCPv6 as a server.
    DHCPv6NoServer = 0, 0..=1;
    /// At most 15 IPv6 addresses.
    NoRoutingV6 = 0, 0..=1;
    /// Takes over no IPv6 address that is in use.
    CheckIPv6 = 0, 0..=1;
    /// Accepts no TCP connections over IPv6.
    NoServerV6 = 0, 0..=1;
    /// IPv6 addresses.
    MaxIPv6 = 0, 0..=65_535;
    /// The client does not store the password.
    NoSavePassword = 0, 0..=1;
    /// Seconds after which the client ends the session.
    AutoDisconnect = 0, 0..=i32::MAX.unsigned_abs();
    /// No IPv4 and ARP, either way.
    FilterIPv4 = 0, 0..=1;
    /// No IPv6, either way.
    FilterIPv6 = 0, 0..=1;
    /// Nothing but IP and ARP, either way.
    FilterNonIP = 0, 0..=1;
    /// Receives no router advertisement that offers a default route.
    NoIPv6DefaultRouterInRA = 0, 0..=1;
    /// The same, if the session itself runs over IPv6.
    NoIPv6DefaultRouterInRAWhenIPv6 = 0, 0..=1;
    /// VLAN whose frames it exchanges without a tag. 4095 would be legal on the wire, but not in a
    /// tag (802.1Q table 9-2).
    VLanId = 0, 0..=4094;
}

impl Item {
    /// The item called `name`, in any case of letters.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|item| item.name().eq_ignore_ascii_case(name))
    }
}

/// Items that no part of the program enforces so far.
pub const UNENFORCED: &[Item] = &[
    Item::DHCPForce,
    Item::NoRouting,
    Item::CheckIP,
    Item::MonitorPort,
    Item::MaxIP,
    Item::MaxUpload,
    Item::MaxDownload,
    Item::NoRoutingV6,
    Item::CheckIPv6,
    Item::MaxIPv6,
    Item::NoIPv6DefaultRouterInRA,
    Item::NoIPv6DefaultRouterInRAWhenIPv6,
];

/// Items that the login, the session or the client acts upon; the hub does not see them.
pub const AT_LOGIN: &[Item] = &[
    Item::Access,
    Item::MaxConnection,
    Item::TimeOut,
    Item::FixPassword,
    Item::MultiLogins,
    Item::NoQoS,
    Item::NoSavePassword,
    Item::AutoDisconnect,
];

/// Why an item was not accepted. The text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The value lies outside the item's range.
    #[error("policy {name} must lie between {min} and {max}, not {value}")]
    OutOfRange {
        /// The item.
        name: &'static str,
        /// Smallest value.
        min: u32,
        /// Largest value.
        max: u32,
        /// The value given.
        value: u32,
    },
    /// The item is in [`UNENFORCED`].
    #[error("policy {0} is not enforced by this version; remove it, it would promise what nobody keeps")]
    Unenforced(&'static str),
}

/// A policy, as configured for a user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    values: [u32; ITEMS],
}

impl Default for Policy {
    fn default() -> Self {
        Self { values: Item::ALL.map(Item::default_value) }
    }
}

impl Policy {
    /// The value of `item`.
    pub const fn value(&self, item: Item) -> u32 {
        self.values[item as usize]
    }

    /// Whether `item` is not 0.
    pub const fn is_set(&self, item: Item) -> bool {
        self.value(item) != 0
    }

    /// Sets `item`.
    ///
    /// # Errors
    /// If `value` is not one of [`Item::range`], or if the item is unenforced and `value` is not its
    /// default.
    pub fn set(&mut self, item: Item, value: u32) -> Result<(), PolicyError> {
        let range = item.range();
        if !range.contains(&value) {
            let (min, max) = (*range.start(), *range.end());
            return Err(PolicyError::OutOfRange { name: item.name(), min, max, value });
        }
        if UNENFORCED.contains(&item) && value != item.default_value() {
            return Err(PolicyError::Unenforced(item.name()));
        }
        self.values[item as usize] = value;
        Ok(())
    }

    /// Name and value of every item, in the order of the protocol.
    pub fn items(&self) -> [(&'static str, u32); ITEMS] {
        Item::ALL.map(|item| (item.name(), self.value(item)))
    }

    /// The policy as the welcome tells it: who is not in bridge mode has NoBridge and NoRouting
    /// (protocol note §3.7). For telling only; [`compile`] takes the policy as configured.
    #[must_use]
    pub fn effective(&self, bridge_mode: bool) -> Self {
        let mut policy = self.clone();
        if !bridge_mode {
            policy.values[Item::NoBridge as usize] = 1;
            policy.values[Item::NoRouting as usize] = 1;
        }
        policy
    }
}

/// What `policy`, as configured, means for a port of `kind` on `hub`. The hub's own host has none.
pub fn compile(kind: PortKind, policy: &Policy, hub: &HubSettings) -> PortSettings {
    let rules = hub.profile.rules(kind);
    let mut settings = PortSettings {
        bits: rules.bits,
        refuse_ingress: rules.refuse_ingress,
        macs_max: rules.macs_max,
        floods_per_sec: rules.floods_per_sec,
        ..PortSettings::OPEN
    };
    if kind == PortKind::Host {
        return settings;
    }
    let isolated = hub.isolate_members && kind == PortKind::Member;
    settings.bits = settings
        .bits
        .or_if(policy.is_set(Item::CheckMac), PortBits::EXCLUSIVE)
        .or_if(policy.is_set(Item::PrivacyFilter) || isolated, PortBits::PRIVATE);
    if !hub.members_ipv6 && kind == PortKind::Member {
        settings.refuse_ingress = settings.refuse_ingress | Kinds::IPV6;
        settings.refuse_egress = settings.refuse_egress | Kinds::IPV6;
    }
    for &(item, ingress, egress) in FILTERS {
        if policy.is_set(item) {
            settings.refuse_ingress = settings.refuse_ingress | ingress;
            settings.refuse_egress = settings.refuse_egress | egress;
        }
    }
    settings.macs_max = match policy.value(Item::MaxMac) {
        0 => settings.macs_max,
        most => most.max(MACS_MAX_FLOOR),
    };
    if policy.is_set(Item::NoBridge) {
        settings.macs_max = settings.macs_max.min(MACS_MAX_FLOOR);
    }
    if policy.is_set(Item::NoBroadcastLimiter) {
        settings.floods_per_sec = 0;
    }
    let pvid = u16::try_from(policy.value(Item::VLanId)).unwrap_or(vlan::VID_RESERVED);
    PortSettings { pvid, ..settings }
}

/// Items that refuse frames for what they are: on their way into the hub, out of it. What hides its
/// upper layer is refused where it comes in, by every item that asks for that layer.
const FILTERS: &[(Item, Kinds, Kinds)] = &[
    (Item::DHCPFilter, Kinds::DHCP.or(Kinds::OBSCURED), Kinds::DHCP),
    (Item::DHCPNoServer, Kinds::DHCP_SERVER.or(Kinds::OBSCURED), Kinds::NONE),
    (Item::ArpDhcpOnly, Kinds::OTHER_GROUP, Kinds::NONE),
    (Item::NoServer, Kinds::SERVER_V4.or(Kinds::OBSCURED), Kinds::NONE),
    (Item::NoServerV6, Kinds::SERVER_V6.or(Kinds::OBSCURED), Kinds::NONE),
    (Item::RSandRAFilter, Kinds::ROUTER_SOLICIT.or(ROUTER), Kinds::ROUTER_SOLICIT.or(ROUTER)),
    (Item::RAFilter, ROUTER, Kinds::NONE),
    (Item::DHCPv6Filter, Kinds::DHCPV6.or(Kinds::OBSCURED), Kinds::DHCPV6),
    (Item::DHCPv6NoServer, Kinds::DHCPV6_SERVER.or(Kinds::OBSCURED), Kinds::NONE),
    (Item::FilterIPv4, Kinds::IPV4.or(Kinds::ARP), Kinds::IPV4.or(Kinds::ARP)),
    (Item::FilterIPv6, Kinds::IPV6, Kinds::IPV6),
    (Item::FilterNonIP, Kinds::NON_IP, Kinds::NON_IP),
];

/// What NoBridge leaves, and the least MaxMac means (protocol note §3.7).
const MACS_MAX_FLOOR: u32 = 3;

#[cfg(test)]
mod tests {
    use super::super::profile::Profile;
    use super::*;

    fn policy(items: &[(Item, u32)]) -> Policy {
        let mut policy = Policy::default();
        for &(item, value) in items {
            policy.set(item, value).unwrap();
        }
        policy
    }

    #[test]
    fn wire_names_and_defaults() {
        let items = Policy::default().items();
        assert_eq!(items[0], ("Access", 1));
        assert_eq!((items[13], items[14]), (("MaxConnection", 32), ("TimeOut", 20)));
        assert_eq!((items[22].0, items[31].0, items[37].0), ("RSandRAFilter", "AutoDisconnect", "VLanId"));
        assert!(items.iter().enumerate().all(|(i, item)| [0, 13, 14].contains(&i) || item.1 == 0));
        assert_eq!(Item::from_name("vlanid"), Some(Item::VLanId));
        assert_eq!(Item::from_name("policy"), None);
    }

    #[test]
    fn bridge_mode_decides_what_is_told() {
        let told = |bridge| {
            let policy = Policy::default().effective(bridge);
            (policy.value(Item::NoBridge), policy.value(Item::NoRouting))
        };
        assert_eq!((told(false), told(true)), ((1, 1), (0, 0)));
    }

    #[test]
    fn what_nobody_keeps_is_refused() {
        let mut policy = Policy::default();
        assert_eq!(policy.set(Item::CheckIP, 1), Err(PolicyError::Unenforced("CheckIP")));
        assert_eq!(policy.set(Item::CheckIP, 0), Ok(()));
        let error = policy.set(Item::VLanId, 4095).unwrap_err();
        assert_eq!(error.to_string(), "policy VLanId must lie between 0 and 4094, not 4095");
        assert_eq!(policy, Policy::default());
    }

    /// Every item is enforced by the hub, at login, or refused.
    #[test]
    fn no_item_is_forgotten() {
        let hub = HubSettings::default();
        for item in Item::ALL {
            let elsewhere = [UNENFORCED, AT_LOGIN].iter().filter(|list| list.contains(&item)).count();
            let mut changed = Policy::default();
            changed.values[item as usize] = 1;
            let kind = PortKind::Member;
            let here = usize::from(compile(kind, &changed, &hub) != compile(kind, &Policy::default(), &hub));
            assert_eq!(elsewhere + here, 1, "{item:?}");
        }
    }

    #[test]
    fn address_limits() {
        let public = HubSettings { profile: Profile::Public, ..HubSettings::default() };
        let lan = HubSettings::default();
        let cases = [
            (lan, PortKind::Member, vec![], 64),
            (public, PortKind::Member, vec![], 4),
            (lan, PortKind::Bridge, vec![], super::super::port::MACS_UNLIMITED),
            (lan, PortKind::Member, vec![(Item::NoBridge, 1)], 3),
            (lan, PortKind::Member, vec![(Item::MaxMac, 1)], 3),
            (public, PortKind::Member, vec![(Item::MaxMac, 200)], 200),
            (lan, PortKind::Bridge, vec![(Item::MaxMac, 200), (Item::NoBridge, 1)], 3),
        ];
        for (hub, kind, items, want) in cases {
            assert_eq!(compile(kind, &policy(&items), &hub).macs_max, want, "{kind:?} {items:?}");
        }
    }

    #[test]
    fn no_policy_refuses_nothing() {
        let settings = compile(PortKind::Member, &Policy::default(), &HubSettings::default());
        assert!(settings.refuse_ingress.is_empty() && settings.refuse_egress.is_empty());
        assert_eq!((settings.bits, settings.pvid), (PortBits::NONE, 0));
    }
}
