//! The policy items of the protocol (protocol note §3.7): names, ranges, defaults.
//!
//! The names are those of the wire (`policy:<Name>`) and of the stock management tools, so that an
//! operator finds here what he knows from there.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::problem::{Place, Report, nearest};
use super::raw::RawPolicyValue;

/// What values an item takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// true or false, 1 or 0.
    Flag,
    /// A number from 1 to the given one; 0 = no limit, or not set.
    Limit(u32),
    /// Set by a key of `[[hub]]`, named here, not in `[hub.policy]`.
    Key(&'static str),
}

/// One item: name on the wire, kind, default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyItem {
    /// Without the prefix `policy:`.
    pub name: &'static str,
    /// Values it takes.
    pub kind: PolicyKind,
    /// Value if nothing is said. For [`PolicyKind::Key`] that of the protocol.
    pub default: u32,
}

/// Items that differ from their defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy(BTreeMap<&'static str, u32>);

impl Policy {
    /// Value of the item `name`: as set, else its default. `None` if there is no such item.
    pub fn value(&self, name: &str) -> Option<u32> {
        let item = item(name)?;
        Some(self.0.get(item.name).copied().unwrap_or(item.default))
    }

    /// True if the flag `name` is set. False for a name that does not exist.
    pub fn flag(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != 0)
    }

    /// Sets an item whose value has been checked. An unknown name is ignored.
    pub fn set(&mut self, name: &str, value: u32) {
        if let Some(item) = item(name) {
            self.0.insert(item.name, value);
        }
    }

    /// Name and value of every item that was set, by name.
    pub fn set_items(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        self.0.iter().map(|(name, value)| (*name, *value))
    }

    /// Items of `self` where set, else those of `base`.
    pub fn over(&self, base: &Policy) -> Policy {
        let mut items = base.0.clone();
        items.extend(self.0.iter().map(|(name, value)| (*name, *value)));
        Policy(items)
    }
}

/// The item called `name`, exactly as written in the protocol note.
pub fn item(name: &str) -> Option<&'static PolicyItem> {
    ITEMS.iter().find(|item| item.name == name)
}

/// Checks `[hub.policy]`. An item that this server cannot enforce is refused: an operator who reads
/// it in his file would rely on it.
pub(super) fn check(
    raw: Vec<(super::problem::Located<String>, RawPolicyValue)>,
    enforced: &[&str],
    report: &mut Report<'_>,
) -> Policy {
    let mut policy = Policy::default();
    for (name, value) in raw {
        let Some(item) = item(&name.value) else {
            let names: Vec<&str> = ITEMS.iter().map(|item| item.name).collect();
            report.add(&name.place, format!("unknown policy item {:?}", name.value), nearest(&name.value, &names));
            continue;
        };
        if let PolicyKind::Key(key) = item.kind {
            let what = format!("{} is not set in [hub.policy]", item.name);
            report.add(&name.place, what, format!("use the key {key} of [[hub]]"));
        } else if !enforced.contains(&item.name) {
            let what = format!("policy item {} is known, but this version does not enforce it", item.name);
            report.add(&name.place, what, enforced_hint(enforced));
        } else if let Some(value) = check_value(item, &value, report) {
            policy.set(item.name, value);
        }
    }
    policy
}

fn check_value(item: &PolicyItem, value: &RawPolicyValue, report: &mut Report<'_>) -> Option<u32> {
    let (number, place): (i64, &Place) = match (item.kind, value) {
        (PolicyKind::Flag, RawPolicyValue::Flag(flag)) => return Some(u32::from(flag.value)),
        (_, RawPolicyValue::Number(number)) => (number.value, &number.place),
        (_, RawPolicyValue::Flag(flag)) => {
            report.add(&flag.place, format!("{} must be a whole number, found true or false", item.name), range(item));
            return None;
        }
    };
    let max = match item.kind {
        PolicyKind::Limit(max) => max,
        PolicyKind::Flag | PolicyKind::Key(_) => 1,
    };
    match u32::try_from(number) {
        Ok(value) if value <= max => Some(value),
        _ => {
            report.add(place, format!("{} = {number} is out of range", item.name), range(item));
            None
        }
    }
}

fn range(item: &PolicyItem) -> String {
    match item.kind {
        PolicyKind::Limit(max) => format!("1 to {max}, or 0 for none"),
        PolicyKind::Flag | PolicyKind::Key(_) => "true or false (1 or 0)".to_owned(),
    }
}

fn enforced_hint(enforced: &[&str]) -> String {
    let can_be_set = |name: &&str| item(name).is_some_and(|item| !matches!(item.kind, PolicyKind::Key(_)));
    let names: Vec<&str> = enforced.iter().copied().filter(can_be_set).collect();
    if names.is_empty() {
        return "leave it away: no policy item can be set yet".to_owned();
    }
    format!("leave it away; can be set: {}", names.join(", "))
}

const fn flag(name: &'static str) -> PolicyItem {
    PolicyItem { name, kind: PolicyKind::Flag, default: 0 }
}

const fn limit(name: &'static str, max: u32) -> PolicyItem {
    PolicyItem { name, kind: PolicyKind::Limit(max), default: 0 }
}

/// All items, by their numbers on the wire (protocol note §3.7).
pub const ITEMS: [PolicyItem; 38] = [
    PolicyItem { name: "Access", kind: PolicyKind::Flag, default: 1 },
    flag("DHCPFilter"),
    flag("DHCPNoServer"),
    flag("DHCPForce"),
    flag("NoBridge"),
    flag("NoRouting"),
    flag("CheckMac"),
    flag("CheckIP"),
    flag("ArpDhcpOnly"),
    flag("PrivacyFilter"),
    flag("NoServer"),
    flag("NoBroadcastLimiter"),
    flag("MonitorPort"),
    PolicyItem { name: "MaxConnection", kind: PolicyKind::Key("max_connections"), default: 32 },
    PolicyItem { name: "TimeOut", kind: PolicyKind::Key("session_timeout_s"), default: 20 },
    PolicyItem { name: "MaxMac", kind: PolicyKind::Key("macs_per_session"), default: 0 },
    limit("MaxIP", 65_535),
    // The protocol carries bits per second as a signed number.
    limit("MaxUpload", i32::MAX as u32),
    limit("MaxDownload", i32::MAX as u32),
    flag("FixPassword"),
    limit("MultiLogins", 65_535),
    flag("NoQoS"),
    flag("RSandRAFilter"),
    flag("RAFilter"),
    flag("DHCPv6Filter"),
    flag("DHCPv6NoServer"),
    flag("NoRoutingV6"),
    flag("CheckIPv6"),
    flag("NoServerV6"),
    limit("MaxIPv6", 65_535),
    flag("NoSavePassword"),
    limit("AutoDisconnect", i32::MAX as u32),
    flag("FilterIPv4"),
    flag("FilterIPv6"),
    flag("FilterNonIP"),
    flag("NoIPv6DefaultRouterInRA"),
    flag("NoIPv6DefaultRouterInRAWhenIPv6"),
    // 4095 is reserved in tags (802.1Q table 9-2).
    limit("VLanId", 4_094),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_those_of_the_protocol_note() {
        assert_eq!(ITEMS[12].name, "MonitorPort");
        assert_eq!(ITEMS[37].name, "VLanId");
        let mut names: Vec<_> = ITEMS.iter().map(|item| item.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ITEMS.len());
    }

    #[test]
    fn defaults_and_layers() {
        let mut hub = Policy::default();
        assert_eq!((hub.value("Access"), hub.flag("NoBridge"), hub.value("nonsense")), (Some(1), false, None));
        hub.set("NoBridge", 1);
        hub.set("MaxIP", 4);
        let mut user = Policy::default();
        user.set("MaxIP", 9);
        let both = user.over(&hub);
        assert_eq!((both.flag("NoBridge"), both.value("MaxIP")), (true, Some(9)));
        assert_eq!(both.set_items().collect::<Vec<_>>(), [("MaxIP", 9), ("NoBridge", 1)]);
    }
}
