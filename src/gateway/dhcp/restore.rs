//! The lease table out of the journal, and a journal out of the lease table.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::journal::{Record, Who};
use super::lease::{Holder, Index};
use super::{DhcpServer, LeaseState};
use crate::ids::{PortId, SessionId};
use crate::tick::Tick;

/// What was found in a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Lines that were followed.
    pub lines: usize,
    /// Leases that still run.
    pub leases: usize,
    /// Lines that are damaged, that is torn or changed.
    pub damaged: usize,
    /// Lines about addresses that are not in the pool any more.
    pub foreign: usize,
}

impl DhcpServer {
    /// Takes leases from what an earlier process wrote down. To be called before anything else. Bindings follow when
    /// their members are back.
    pub fn restore(&mut self, journal: &[u8]) -> Restored {
        let mut restored = Restored::default();
        let mut freed: Vec<(u64, Index)> = Vec::new();
        for line in journal.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match Record::from_line(line) {
                None => restored.damaged += 1,
                Some(record) => match self.follow(record, &mut freed) {
                    true => restored.lines += 1,
                    false => restored.foreign += 1,
                },
            }
        }
        self.records = u64::try_from(restored.lines).unwrap_or(u64::MAX);
        // Those that are free for longest are given first.
        freed.sort_unstable();
        for (_, at) in freed {
            if self.table.place(at).state == LeaseState::Free {
                self.table.free(at, true, self.epoch.0);
            }
        }
        restored.leases = (0..self.table.len()).filter(|at| self.table.place(*at).state == LeaseState::Leased).count();
        restored
    }

    /// `false` if the address is none of ours.
    fn follow(&mut self, record: Record, freed: &mut Vec<(u64, Index)>) -> bool {
        let (Record::Lease { address, .. } | Record::Free { address, .. } | Record::Out { address, .. }) = record;
        let Some(at) = self.place_of(address) else { return false };
        let (now, unix_s) = self.epoch;
        match record {
            Record::Lease { until_unix_s, who, .. } => {
                if !self.reservations.could_be_for(at, who.member, who.mac) {
                    return false;
                }
                self.take(at, &who, self.tick_at(until_unix_s));
                if until_unix_s <= unix_s {
                    self.table.free(at, true, now);
                    freed.push((until_unix_s, at));
                }
            }
            Record::Free { since_unix_s, who, .. } => {
                match who {
                    Some(who) => self.take(at, &who, now),
                    None => {
                        self.table.forget(at);
                        self.table.place_mut(at).is_used = true;
                    }
                }
                self.table.free(at, true, now);
                freed.push((since_unix_s, at));
            }
            Record::Out { until_unix_s, .. } => {
                self.table.forget(at);
                self.table.put_out(at, self.tick_at(until_unix_s));
            }
        }
        true
    }

    fn place_of(&self, address: Ipv4Addr) -> Option<Index> {
        self.table.index(address).filter(|at| self.table.place(*at).state != LeaseState::Closed)
    }

    /// As `give_up_others` did it when the line was written: a client has one place.
    fn take(&mut self, at: Index, who: &Who, until: Tick) {
        loop {
            let other = self.table.of_client(who.member, &who.key).find(|other| *other != at);
            let Some(other) = other else { break };
            self.table.free(other, false, self.epoch.0);
        }
        let (session, port) = (SessionId(0), PortId::new(0, 0, 0));
        let holder = Holder { member: who.member, session, port, mac: who.mac, key: who.key, is_gone: true };
        self.table.hold(at, holder, LeaseState::Leased, until);
        let place = self.table.place_mut(at);
        place.host_name = (!who.host_name.is_empty()).then(|| who.host_name.clone());
        place.durable = None;
    }

    /// Whether a new journal from [`Self::compact`] would be much shorter than what was written.
    pub fn is_journal_long(&self) -> bool {
        self.records > 4 * u64::from(self.table.len()) + 1024
    }

    /// Calls `line` with what stands for up to `budget` places from `*cursor` on in a new journal; `true` when that was
    /// the last. Start with 0. Records made meanwhile must go into the new journal too, behind these lines.
    pub fn compact(&mut self, cursor: &mut u32, budget: u32, mut line: impl FnMut(&[u8])) -> bool {
        if *cursor == 0 {
            self.records = 0;
        }
        let end = cursor.saturating_add(budget).min(self.table.len());
        for at in *cursor..end {
            if let Some(record) = self.record(at) {
                self.records += 1;
                line(&record.to_line());
            }
        }
        *cursor = end;
        end == self.table.len()
    }

    /// What the journal says about `at`; `None` where nothing is worth keeping.
    pub(super) fn record(&self, at: Index) -> Option<Record> {
        let place = self.table.place(at);
        let address = self.table.address(at);
        let unix_s = self.unix_at(place.until);
        let who = place.holder.map(|Holder { member, mac, key, .. }| {
            let host_name = place.host_name.clone().unwrap_or_default();
            Who { member, mac, key, host_name }
        });
        match (place.state, who) {
            (LeaseState::Leased, Some(who)) => Some(Record::Lease { address, until_unix_s: unix_s, who }),
            (LeaseState::Conflict, _) => Some(Record::Out { address, until_unix_s: unix_s }),
            (LeaseState::Free, who) => Some(Record::Free { address, since_unix_s: unix_s, who }),
            // Whoever is being offered it has no claim yet.
            (LeaseState::Offered | LeaseState::Probing, _) if place.is_used => {
                Some(Record::Free { address, since_unix_s: unix_s, who: None })
            }
            _ => None,
        }
    }

    /// Rounded up: a client must not have its address for longer than the journal says.
    fn unix_at(&self, tick: Tick) -> u64 {
        let (now, unix_s) = self.epoch;
        let after = tick.since(now);
        (unix_s + after.as_secs() + u64::from(after.subsec_nanos() > 0)).saturating_sub(now.since(tick).as_secs())
    }

    fn tick_at(&self, unix: u64) -> Tick {
        let (now, unix_s) = self.epoch;
        now + std::time::Duration::from_secs(unix.saturating_sub(unix_s))
    }
}
