//! Which of a card's queues gets which public ports, so that the worker that owns a port reads it first-hand.
//!
//! Either by rules of the card ([`NtupleRules`]: destination address and a block of ports → queue), or by letting its hash
//! look at nothing but the destination ([`DestinationHash`]), so that all packets of a mapping come by one queue. Both are
//! undone when dropped. A process that is killed leaves them behind: rules that equal ours are then taken over, others for
//! our ports replaced.
#![forbid(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::ethtool::{Ethtool, Flow, HashFields, Rule, RuleTable};

/// Ports of one address that go to one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortsToQueue {
    /// Public address.
    pub address: Ipv4Addr,
    /// Its ports.
    pub ports: RangeInclusive<u16>,
    /// Number of the queue.
    pub queue: u32,
}

/// Why a device cannot be steered.
#[derive(Debug, thiserror::Error)]
pub enum NoSteering {
    /// No rules at all.
    #[error(
        "the driver of {device} has no rules for flows ({error}): `ethtool -k {device}` shows ntuple-filters; use --lane-steer auto"
    )]
    NoRules {
        /// Its name.
        device: String,
        /// What the kernel says.
        error: io::Error,
    },
    /// This rule not.
    #[error(
        "{device} refuses a rule for ports {first} with mask {mask:#06x} of {address} to queue {queue} ({error}): is ntuple on (`ethtool -K {device} ntuple on`), does the card take masked ports, has it room for {wanted} rules? Else use --lane-steer handoff"
    )]
    Rule {
        /// Its name.
        device: String,
        /// What the kernel says.
        error: io::Error,
        /// Of the rule.
        address: Ipv4Addr,
        /// First port of the rule.
        first: u16,
        /// Bits that count.
        mask: u16,
        /// Of the rule.
        queue: u32,
        /// How many rules there would be.
        wanted: usize,
    },
    /// The hash cannot be set.
    #[error(
        "the hash of {device} cannot be set to destination address and port ({error}): the driver must allow it (`ethtool -N {device} rx-flow-hash udp4 dn`), and CAP_NET_ADMIN be granted; else use --lane-steer handoff"
    )]
    Hash {
        /// Its name.
        device: String,
        /// What the kernel says.
        error: io::Error,
    },
}

/// Rules on a card, until dropped.
#[derive(Debug)]
pub struct NtupleRules {
    card: Ethtool,
    places: Vec<(u32, Rule)>,
    adopted: usize,
}

impl NtupleRules {
    /// Steers TCP and UDP to these ports of `device`. Rules that are there already are taken over; rules that send our
    /// ports elsewhere, left by a process with other workers, are taken away.
    ///
    /// # Errors
    /// If the driver has no rules, or refuses one; then none of ours is left.
    pub fn install(device: &str, wanted: &[PortsToQueue]) -> Result<Self, NoSteering> {
        let no_rules = |error| NoSteering::NoRules { device: device.to_owned(), error };
        let card = Ethtool::open(device).map_err(no_rules)?;
        let mut table = card.rule_table().map_err(no_rules)?;
        let rules = rules(wanted);
        let standing: Vec<(u32, Rule)> =
            table.used.iter().filter_map(|place| Some((*place, card.rule(*place).ok()??))).collect();
        for place in stale(&standing, wanted, &rules) {
            // One that stays makes the card refuse ours, which is told.
            if card.remove(place).is_ok() {
                table.used.retain(|used| *used != place);
            }
        }
        let mut done = Self { card, places: Vec::new(), adopted: 0 };
        for rule in &rules {
            if let Some((place, _)) = standing.iter().find(|(_, standing)| standing == rule) {
                done.places.push((*place, *rule));
                done.adopted += 1;
                continue;
            }
            let place = done.insert(rule, &mut table).map_err(|error| NoSteering::Rule {
                device: device.to_owned(),
                error,
                address: rule.address,
                first: rule.port,
                mask: rule.port_mask,
                queue: rule.queue,
                wanted: rules.len(),
            })?;
            done.places.push((place, *rule));
        }
        Ok(done)
    }

    /// How many rules there are, and how many of them were there before.
    pub fn count(&self) -> (usize, usize) {
        (self.places.len(), self.adopted)
    }

    fn insert(&self, rule: &Rule, table: &mut RuleTable) -> io::Result<u32> {
        let place = if table.chooses_place { None } else { Some(free_place(table)?) };
        let place = self.card.insert(rule, place)?;
        table.used.push(place);
        Ok(place)
    }
}

impl Drop for NtupleRules {
    fn drop(&mut self) {
        for (place, rule) in &self.places {
            // Gone with the device, or taken away by the operator, who may have another one there: nothing is left to undo.
            if matches!(self.card.rule(*place), Ok(Some(standing)) if standing == *rule) {
                let _ = self.card.remove(*place);
            }
        }
    }
}

/// The hash of a card looks at destinations only, until dropped.
#[derive(Debug)]
pub struct DestinationHash {
    card: Ethtool,
    before: Vec<(Flow, HashFields)>,
}

impl DestinationHash {
    /// For TCP and UDP of `device`.
    ///
    /// # Errors
    /// If the driver or the rights do not allow it; then the hash is as before.
    pub fn set(device: &str) -> Result<Self, NoSteering> {
        let failed = |error| NoSteering::Hash { device: device.to_owned(), error };
        let card = Ethtool::open(device).map_err(failed)?;
        let mut done = Self { card, before: Vec::new() };
        for flow in [Flow::Tcp, Flow::Udp] {
            let before = done.card.hash_fields(flow).map_err(failed)?;
            done.card.set_hash_fields(flow, HashFields::DESTINATION).map_err(failed)?;
            // A killed server has left it so: what was before is not known any more.
            if before != HashFields::DESTINATION {
                done.before.push((flow, before));
            }
        }
        Ok(done)
    }
}

impl Drop for DestinationHash {
    fn drop(&mut self) {
        for (flow, fields) in &self.before {
            // As with rules: what cannot be put back is gone.
            let _ = self.card.set_hash_fields(*flow, *fields);
        }
    }
}

/// Places of rules for ports of ours that are none of ours.
fn stale(standing: &[(u32, Rule)], wanted: &[PortsToQueue], ours: &[Rule]) -> Vec<u32> {
    let is_for_us = |rule: &Rule| {
        let same = || wanted.iter().filter(|ports| ports.address == rule.address).map(|ports| &ports.ports);
        // A block of another process may reach over several queues of ours.
        let (first, last) = (same().map(|ports| *ports.start()).min(), same().map(|ports| *ports.end()).max());
        let (low, high) = (rule.port & rule.port_mask, rule.port | !rule.port_mask);
        first.is_some_and(|first| first <= low) && last.is_some_and(|last| high <= last)
    };
    standing.iter().filter(|(_, rule)| is_for_us(rule) && !ours.contains(rule)).map(|(place, _)| *place).collect()
}

/// The highest place without a rule: low ones come first for the card, and are left to the operator.
fn free_place(table: &RuleTable) -> io::Result<u32> {
    (0..table.size)
        .rev()
        .find(|place| !table.used.contains(place))
        .ok_or_else(|| io::Error::new(io::ErrorKind::StorageFull, "no place for another rule"))
}

fn rules(wanted: &[PortsToQueue]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for PortsToQueue { address, ports, queue } in wanted {
        for (port, port_mask) in blocks(ports.clone()) {
            let rule = |flow| Rule { flow, address: *address, port, port_mask, queue: *queue };
            rules.extend([Flow::Tcp, Flow::Udp].map(rule));
        }
    }
    rules
}

/// The fewest pairs of value and mask that match exactly the ports of a range.
pub fn blocks(ports: RangeInclusive<u16>) -> Vec<(u16, u16)> {
    let (mut at, end) = (u32::from(*ports.start()), u32::from(*ports.end()) + 1);
    let mut blocks = Vec::new();
    while at < end {
        // As large as its first port allows, and as is left.
        let aligned = if at == 0 { 16 } else { at.trailing_zeros() };
        let bits = aligned.min((end - at).ilog2()).min(16);
        let low = |number: u32| u16::try_from(number & 0xFFFF).unwrap_or(0);
        blocks.push((low(at), low(!((1 << bits) - 1))));
        at += 1 << bits;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::nic::tests::{in_namespace, ip};

    proptest! {
        #[test]
        fn blocks_match_exactly_the_range(a: u16, b: u16) {
            let range = a.min(b)..=a.max(b);
            let blocks = blocks(range.clone());
            // 2 × 16 − 2 are the most that a range of 16 bits takes.
            prop_assert!(blocks.len() <= 30);
            let mut matched = vec![0_u8; 65_536];
            for (value, mask) in blocks {
                prop_assert_eq!(value & mask, value);
                for low in 0..=!mask {
                    matched[usize::from(value | low)] += 1;
                }
            }
            for port in 0..=u16::MAX {
                prop_assert_eq!(matched[usize::from(port)], u8::from(range.contains(&port)), "port {}", port);
            }
        }
    }

    #[test]
    fn blocks_of_usual_ranges() {
        assert_eq!(blocks(0..=u16::MAX), [(0, 0)]);
        assert_eq!(blocks(80..=80), [(80, 0xFFFF)]);
        assert_eq!(blocks(1024..=2047), [(1024, 0xFC00)]);
        assert_eq!(blocks(1023..=1025), [(1023, 0xFFFF), (1024, 0xFFFE)]);
        assert_eq!(blocks(u16::MAX..=u16::MAX), [(u16::MAX, 0xFFFF)]);
    }

    #[test]
    fn each_block_is_a_rule_for_tcp_and_one_for_udp() {
        let address = Ipv4Addr::new(192, 0, 2, 9);
        let wanted = [
            PortsToQueue { address, ports: 1024..=2047, queue: 0 },
            PortsToQueue { address, ports: 2048..=2050, queue: 1 },
        ];
        let rules = rules(&wanted);
        assert_eq!(rules.len(), 6);
        assert!(rules.iter().all(|rule| rule.address == address && (rule.queue == 1) == (rule.port >= 2048)));
        assert_eq!(rules.iter().filter(|rule| rule.flow == Flow::Tcp).count(), 3);
    }

    #[test]
    fn rules_of_a_killed_process_with_other_workers_are_stale() {
        let address = Ipv4Addr::new(192, 0, 2, 9);
        let wanted = [
            PortsToQueue { address, ports: 2048..=3071, queue: 0 },
            PortsToQueue { address, ports: 3072..=4095, queue: 1 },
        ];
        let ours = rules(&wanted);
        let rule = |port, port_mask, queue| Rule { flow: Flow::Tcp, address, port, port_mask, queue };
        let elsewhere = Rule { address: Ipv4Addr::new(192, 0, 2, 8), ..rule(2048, 0xF800, 0) };
        let standing = [
            (9, ours[0]),
            (8, rule(2048, 0xF800, 0)),
            (7, rule(3072, 0xFC00, 0)),
            (6, rule(80, 0xFFFF, 0)),
            (5, rule(0, 0, 0)),
            (4, elsewhere),
        ];
        assert_eq!(stale(&standing, &wanted, &ours), [8, 7]);
        assert!(stale(&standing, &[], &[]).is_empty());
    }

    #[test]
    fn places_are_taken_from_the_end() {
        let table = RuleTable { size: 4, chooses_place: false, used: vec![3, 1] };
        assert_eq!(free_place(&table).unwrap(), 2);
        let full = RuleTable { size: 2, chooses_place: false, used: vec![0, 1] };
        assert!(free_place(&full).is_err() && free_place(&RuleTable::default()).is_err());
    }

    #[test]
    fn a_veth_refuses_both_with_a_hint() {
        in_namespace(|| {
            ip("link add hl0 type veth peer name hl1");
            let ports = PortsToQueue { address: Ipv4Addr::new(192, 0, 2, 9), ports: 1024..=65_535, queue: 0 };
            let error = NtupleRules::install("hl0", &[ports]).unwrap_err().to_string();
            assert!(error.contains("hl0 has no rules for flows") && error.contains("--lane-steer"), "{error}");
            let error = DestinationHash::set("hl0").unwrap_err().to_string();
            assert!(error.contains("hash of hl0 cannot be set") && error.contains("--lane-steer"), "{error}");
            assert!(matches!(DestinationHash::set("hl-none"), Err(NoSteering::Hash { .. })));
        });
    }
}
