//! Members: what counts against one beyond the hosts he has at the moment.
//!
//! Ports, blocks and shared ports rest before somebody else gets them. Until then they count against the member who had
//! them, and the rates of a host that ends go on with his next one: giving an address back and taking another renews
//! nothing. A member is forgotten when nothing of his is mapped or rests and his rates are whole again.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::hosts::Host;
use super::limits::{Brake, Rate};
use crate::ids::MemberId;
use crate::tick::Tick;

/// What rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resting {
    /// Single ones, and all of `blocks`.
    pub(super) ports: u32,
    pub(super) blocks: u32,
    /// Flows that shared a port.
    pub(super) flows: u32,
}

impl Resting {
    fn add(&mut self, other: Self) {
        self.ports += other.ports;
        self.blocks += other.blocks;
        self.flows += other.flows;
    }

    fn subtract(&mut self, other: Self) {
        self.ports -= other.ports;
        self.blocks -= other.blocks;
        self.flows -= other.flows;
    }
}

#[derive(Debug, Default)]
struct Member {
    /// Mappings, static ones not counted.
    ports: u32,
    resting: Resting,
    /// The same by the time of its end; one entry for what ends within a second.
    ends: VecDeque<(Tick, Resting)>,
    /// Of hosts that ended.
    rate: Rate,
    refusals: Rate,
    brake: Brake,
}

impl Member {
    fn expire(&mut self, now: Tick) {
        while let Some((until, ended)) = self.ends.front().copied()
            && until <= now
        {
            self.ends.pop_front();
            self.resting.subtract(ended);
        }
    }

    fn is_over(&self, now: Tick) -> bool {
        let rates = self.rate.is_whole(now) && self.refusals.is_whole(now) && self.brake.is_whole(now);
        self.ports == 0 && self.ends.is_empty() && rates
    }
}

/// All members of a worker of whom there is something to remember.
#[derive(Debug)]
pub(super) struct Members {
    members: BTreeMap<MemberId, Member>,
    /// How many there may be before those that are over are looked for.
    sweep_at: usize,
    quarantine: Duration,
}

impl Members {
    pub(super) fn new(quarantine: Duration) -> Self {
        Self { members: BTreeMap::new(), sweep_at: SWEEP_AT_MIN, quarantine }
    }

    /// Mappings of a member.
    pub(super) fn ports(&self, member: MemberId) -> u32 {
        self.members.get(&member).map_or(0, |member| member.ports)
    }

    /// What rests of a member's.
    pub(super) fn resting(&mut self, member: MemberId, now: Tick) -> Resting {
        let Some(member) = self.members.get_mut(&member) else { return Resting::default() };
        member.expire(now);
        member.resting
    }

    /// Counts a mapping.
    pub(super) fn count_port(&mut self, member: MemberId) {
        self.members.entry(member).or_default().ports += 1;
    }

    /// Counts one less.
    pub(super) fn uncount_port(&mut self, member: MemberId) {
        if let Some(member) = self.members.get_mut(&member) {
            member.ports = member.ports.saturating_sub(1);
        }
    }

    /// Counts `what`, which rests from here on.
    pub(super) fn rest(&mut self, member: MemberId, what: Resting, now: Tick) {
        let until = now + self.quarantine;
        let member = self.members.entry(member).or_default();
        member.expire(now);
        member.resting.add(what);
        match member.ends.back_mut() {
            Some((last, resting)) if until.since(*last) < Duration::from_secs(1) => resting.add(what),
            _ => member.ends.push_back((until + Duration::from_secs(1), what)),
        }
    }

    /// Gives a host that begins the rates its member has left.
    pub(super) fn resume(&self, host: &mut Host) {
        if let Some(member) = self.members.get(&host.insider.member) {
            (host.rate, host.refusals, host.brake) = (member.rate, member.refusals, member.brake.clone());
        }
    }

    /// Keeps the rates of a host that ended.
    pub(super) fn keep(&mut self, host: Host, now: Tick) {
        self.sweep(now);
        let is_full = self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&host.insider.member);
        let is_whole = host.rate.is_whole(now) && host.refusals.is_whole(now) && host.brake.is_whole(now);
        if is_full || is_whole {
            return;
        }
        let member = self.members.entry(host.insider.member).or_default();
        member.rate = member.rate.max(host.rate);
        member.refusals = member.refusals.max(host.refusals);
        if member.brake.is_whole(now) || member.brake.count() < host.brake.count() {
            member.brake = host.brake;
        }
    }

    /// Forgets members, when there are twice as many as were left the last time.
    fn sweep(&mut self, now: Tick) {
        if self.members.len() < self.sweep_at {
            return;
        }
        self.members.retain(|_, member| {
            member.expire(now);
            !member.is_over(now)
        });
        self.sweep_at = (2 * self.members.len()).max(SWEEP_AT_MIN);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }
}

/// Beyond, rates of hosts that end are not kept; what is mapped or rests still counts, which the ports bound.
const MEMBERS_MAX: usize = 1 << 14;
const SWEEP_AT_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// What rests counts for the quarantine and at most a second longer; then nothing is left to remember.
    #[test]
    fn nat_h15_members_are_forgotten() {
        let mut members = Members::new(Duration::from_secs(120));
        let block = Resting { ports: 64, blocks: 1, flows: 0 };
        for n in 0..10_000u64 {
            members.rest(MemberId(1), block, Tick::from_ms(n * 100));
        }
        let one = &members.members[&MemberId(1)];
        assert!(one.ends.len() <= 122, "{} entries", one.ends.len());
        let last = Tick::from_ms(999_900);
        assert!((1_200..1_220).contains(&members.resting(MemberId(1), last).blocks));
        assert_eq!(members.resting(MemberId(1), last + Duration::from_secs(122)), Resting::default());
        for n in 0..10_000 {
            let now = Tick::from_ms(2_000_000 + n * 1_000);
            let number = u32::try_from(n).unwrap();
            members.rest(MemberId(number), Resting { ports: 1, ..Resting::default() }, now);
            members.sweep(now);
        }
        assert!(members.len() <= 2 * 122, "{} members", members.len());
    }
}
