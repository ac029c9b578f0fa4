//! `[hub.policy]`: items of the protocol that an operator sets (protocol note §3.7).
//!
//! What items there are, and what values they take, says [`crate::hub::policy`]; names are those of the wire and
//! of the stock management tools, so that an operator finds here what he knows from there.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::problem::{Located, Place, Report, nearest};
use super::raw::RawPolicyValue;
use crate::hub::policy::{Item, UNENFORCED};

/// Items that differ from their defaults, with values that were checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy(BTreeMap<Item, u32>);

impl Policy {
    /// Sets an item to a value of its range.
    pub fn set(&mut self, item: Item, value: u32) {
        self.0.insert(item, value);
    }

    /// Every item that was set, with its value.
    pub fn set_items(&self) -> impl Iterator<Item = (Item, u32)> + '_ {
        self.0.iter().map(|(item, value)| (*item, *value))
    }

    /// Items of `self` where set, else those of `base`.
    pub fn over(&self, base: &Policy) -> Policy {
        let mut items = base.0.clone();
        items.extend(self.set_items());
        Policy(items)
    }
}

/// Items that have a key of `[[hub]]` of their own.
const KEYS: [(Item, &str); 3] = [
    (Item::MaxConnection, "max_connections"),
    (Item::TimeOut, "session_timeout_s"),
    (Item::MaxMac, "macs_per_session"),
];

/// Items that `[hub.policy]` takes: all that this server enforces and that have no key of their own.
pub fn settable() -> impl Iterator<Item = Item> {
    let has_key = |item: &Item| KEYS.iter().any(|(with_key, _)| with_key == item);
    Item::ALL.into_iter().filter(move |item| !UNENFORCED.contains(item) && !has_key(item))
}

/// Checks `[hub.policy]`. An item that this server cannot enforce is refused: an operator who reads
/// it in his file would rely on it.
pub(super) fn check(raw: Vec<(Located<String>, RawPolicyValue)>, report: &mut Report<'_>) -> Policy {
    let mut policy = Policy::default();
    for (name, value) in raw {
        let Some(item) = Item::ALL.into_iter().find(|item| item.name() == name.value) else {
            let names = Item::ALL.map(Item::name);
            report.add(&name.place, format!("unknown policy item {:?}", name.value), nearest(&name.value, &names));
            continue;
        };
        if let Some((_, key)) = KEYS.iter().find(|(with_key, _)| *with_key == item) {
            let what = format!("{} is not set in [hub.policy]", item.name());
            report.add(&name.place, what, format!("use the key {key} of [[hub]]"));
        } else if UNENFORCED.contains(&item) {
            let what = format!("policy item {} is known, but this version does not enforce it", item.name());
            let names: Vec<&str> = settable().map(Item::name).collect();
            report.add(&name.place, what, format!("leave it away; can be set: {}", names.join(", ")));
        } else if let Some(value) = check_value(item, &value, report) {
            policy.set(item, value);
        }
    }
    policy
}

fn check_value(item: Item, value: &RawPolicyValue, report: &mut Report<'_>) -> Option<u32> {
    let (number, place): (i64, &Place) = match value {
        RawPolicyValue::Flag(flag) if is_flag(item) => return Some(u32::from(flag.value)),
        RawPolicyValue::Number(number) => (number.value, &number.place),
        RawPolicyValue::Flag(flag) => {
            let what = format!("{} must be a whole number, found true or false", item.name());
            report.add(&flag.place, what, range(item));
            return None;
        }
    };
    let value = u32::try_from(number).ok().filter(|value| item.range().contains(value));
    if value.is_none() {
        report.add(place, format!("{} = {number} is out of range", item.name()), range(item));
    }
    value
}

fn is_flag(item: Item) -> bool {
    item.range() == (0..=1)
}

fn range(item: Item) -> String {
    if is_flag(item) {
        "true or false (1 or 0)".to_owned()
    } else {
        format!("1 to {}, or 0 for none", item.range().end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_items_come_before_those_of_his_hub() {
        let (mut hub, mut user) = (Policy::default(), Policy::default());
        hub.set(Item::NoBridge, 1);
        hub.set(Item::MultiLogins, 4);
        user.set(Item::MultiLogins, 9);
        let both: Vec<_> = user.over(&hub).set_items().collect();
        assert_eq!(both, [(Item::NoBridge, 1), (Item::MultiLogins, 9)]);
    }

    #[test]
    fn every_item_is_set_here_or_by_a_key_or_refused() {
        let settable: Vec<Item> = settable().collect();
        for item in Item::ALL {
            let places =
                [settable.contains(&item), KEYS.iter().any(|(key, _)| *key == item), UNENFORCED.contains(&item)];
            assert_eq!(places.iter().filter(|place| **place).count(), 1, "{}", item.name());
        }
    }
}
