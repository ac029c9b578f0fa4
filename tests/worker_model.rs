//! Two workers against a reference switch: any schedule of logins, ends, frames and time gives every member the
//! same frames, and those from one address to another in the order in which they were sent.
//!
//! The hub alone has its own model (`tests/hub_model.rs`); here frames are sealed, received, carried between workers
//! and sealed again. `PROPTEST_CASES=10000` makes it as thorough as a release asks for.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use common::{Bench, Member};
use hublane::ids::SessionId;
use hublane::metrics::closes::CloseReason;
use hublane::metrics::drops::DropReason;
use hublane::worker::seeds::Command;
use proptest::prelude::*;

/// The reference: one table, no workers, no queues.
#[derive(Default)]
struct Model {
    /// What each member who is logged in has to receive.
    inboxes: BTreeMap<u64, Vec<Vec<u8>>>,
    /// Behind whom an address was last seen, and when, in seconds.
    table: HashMap<[u8; 6], (u64, u64)>,
}

impl Model {
    const AGEING_SECS: u64 = 300;

    fn frame(&mut self, from: u64, bytes: &[u8], now: u64) {
        let (dst, src): ([u8; 6], [u8; 6]) = (bytes[..6].try_into().unwrap(), bytes[6..12].try_into().unwrap());
        if src[0] & 1 == 1 {
            return;
        }
        self.table.insert(src, (from, now));
        let known = self
            .table
            .get(&dst)
            .filter(|(owner, seen)| self.inboxes.contains_key(owner) && now - seen <= Self::AGEING_SECS);
        match known {
            Some((owner, _)) if *owner == from => {}
            Some((owner, _)) => self.inboxes.get_mut(owner).unwrap().push(bytes.to_vec()),
            None => {
                let others = self.inboxes.iter_mut().filter(|(number, _)| **number != from);
                others.for_each(|(_, inbox)| inbox.push(bytes.to_vec()));
            }
        }
    }

    fn end(&mut self, number: u64) {
        self.inboxes.remove(&number);
        self.table.retain(|_, (owner, _)| *owner != number);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A member sends a frame of so many bytes behind its number.
    Frame {
        from: usize,
        dst: u8,
        src: u8,
        len: usize,
    },
    Login {
        worker: usize,
    },
    End {
        member: usize,
        how: End,
    },
    Wait {
        secs: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum End {
    Kicked,
    /// The member hangs up and does not come back.
    Vanished,
    /// Bytes that are no record.
    Noise,
}

/// 0 to 9 are stations, 10 is everybody, 11 and 12 are groups.
fn mac(n: u8) -> [u8; 6] {
    match n {
        10 => [0xff; 6],
        11 => [1, 0, 0x5e, 0, 0, 251],
        12 => [0x33, 0x33, 0, 0, 0, 1],
        n => [2, 0, 0, 0, 0, n],
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![Just(End::Kicked), Just(End::Vanished), Just(End::Noise)];
    let step = prop_oneof![
        40 => (0..8usize, 0..13u8, 0..11u8, prop_oneof![Just(0usize), 0..1_580usize])
            .prop_map(|(from, dst, src, len)| Step::Frame { from, dst, src, len }),
        3 => (0..2usize).prop_map(|worker| Step::Login { worker }),
        2 => (0..8usize, end).prop_map(|(member, how)| Step::End { member, how }),
        1 => prop_oneof![0..3u64, 290..310u64].prop_map(|secs| Step::Wait { secs }),
    ];
    prop::collection::vec(step, 1..150)
}

/// Two workers, the model, and the members both know.
struct Run {
    bench: Bench,
    model: Model,
    members: BTreeMap<u64, (usize, Member)>,
    logins: u64,
    frames: u32,
    /// Who has sent since the last turn.
    sender: Option<u64>,
}

impl Run {
    fn new() -> Self {
        let (bench, model) = (Bench::new(2), Model::default());
        let mut run = Self { bench, model, members: BTreeMap::new(), logins: 0, frames: 0, sender: None };
        (0..4).for_each(|n| run.login(n % 2));
        run
    }

    fn login(&mut self, worker: usize) {
        self.logins += 1;
        self.members.insert(self.logins, (worker, self.bench.member(self.logins, worker)));
        self.model.inboxes.insert(self.logins, Vec::new());
    }

    /// The number of one of the members.
    fn number(&self, at: usize) -> u64 {
        *self.members.keys().nth(at % self.members.len()).unwrap()
    }

    fn step(&mut self, step: &Step) {
        if !matches!(step, Step::Frame { .. }) {
            self.bench.turn();
        }
        match *step {
            Step::Frame { from, dst, src, len } => self.frame(self.number(from), dst, src, len),
            Step::Login { worker } if self.members.len() < 8 => self.login(worker),
            Step::End { member, how } if self.members.len() > 2 => self.end(self.number(member), how),
            Step::Wait { secs } => self.wait(secs),
            Step::Login { .. } | Step::End { .. } => {}
        }
    }

    /// Frames of one member may share a turn; between two members the order of a turn is the worker's.
    fn frame(&mut self, from: u64, dst: u8, src: u8, len: usize) {
        if self.sender.replace(from).is_some_and(|sender| sender != from) {
            self.bench.turn();
        }
        self.frames += 1;
        let frame = [&mac(dst)[..], &mac(src), &[0x88, 0xb5], &self.frames.to_be_bytes(), &vec![7; len]].concat();
        self.model.frame(from, &frame, self.bench.now.as_secs());
        self.members.get_mut(&from).unwrap().1.send(&frame);
    }

    fn end(&mut self, number: u64, how: End) {
        self.check(number);
        let (worker, mut member) = self.members.remove(&number).unwrap();
        match how {
            End::Kicked => {
                self.bench.command(worker, Command::End(SessionId(number), CloseReason::Kicked));
                self.bench.turn();
                assert_eq!(member.close_reason(), Some(CloseReason::PeerCloseNotify));
            }
            // The session would wait for its member, and be sent frames meanwhile.
            End::Vanished => {
                member.peer.close();
                self.bench.turn();
                self.bench.command(worker, Command::End(SessionId(number), CloseReason::SessionExpired));
            }
            End::Noise => {
                member.peer.write(&[0x16; 100]);
                self.bench.turn();
                assert!(member.peer.saw_fin());
                self.bench.command(worker, Command::End(SessionId(number), CloseReason::SessionExpired));
            }
        }
        self.bench.turn();
        self.model.end(number);
    }

    /// Time passes in which everybody says that he is alive.
    fn wait(&mut self, secs: u64) {
        for _ in 0..secs.div_ceil(5) {
            self.bench.wait(Duration::from_secs(5));
            for (_, member) in self.members.values_mut() {
                member.now = self.bench.now;
                member.keep_alive();
            }
        }
        self.bench.turn();
    }

    /// What a member has received is what the model wants him to have, and in order.
    fn check(&mut self, number: u64) {
        let sorted = |mut frames: Vec<Vec<u8>>| {
            // Stable: within a source and destination the order stays.
            frames.sort_by_key(|frame| <[u8; 12]>::try_from(&frame[..12]).unwrap());
            frames
        };
        let wanted = std::mem::take(self.model.inboxes.get_mut(&number).unwrap());
        let (_, member) = self.members.get_mut(&number).unwrap();
        assert_eq!(sorted(member.received()), sorted(wanted), "member {number}");
    }

    fn finish(&mut self) {
        self.bench.turn();
        let numbers: Vec<u64> = self.members.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.check(number));
        assert_eq!(self.bench.closes(CloseReason::Panicked), 0);
        for reason in [DropReason::EgressQueueFull, DropReason::EgressPoolEmpty, DropReason::MailboxFull] {
            assert_eq!(self.bench.drops(reason), 0, "{}", reason.label());
        }
        let ports: u64 = self.bench.workers.iter().map(|worker| worker.counters().ports.read()).sum();
        assert_eq!(ports, self.members.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_workers_are_one_switch(steps in steps()) {
        let mut run = Run::new();
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }
}
