//! Visitors: members that come while a run goes on, exchange some frames with one who stays, and leave once all of
//! them have arrived, so that a frame that is missing afterwards was really lost.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hublane::tick::Tick;

use crate::plan::{Flow, Pace, Plan, To};
use crate::shard::Run;
use crate::traffic::FrameSize;

/// A visitor who is there.
#[derive(Clone, Copy)]
pub(crate) struct Visit {
    /// Number of the member.
    pub(crate) member: usize,
    /// From him, to him.
    flows: [usize; 2],
    /// What either flow shall come to.
    goals: [u64; 2],
    /// Where his own flow stood when he came.
    came_at: u64,
    /// When he sends next.
    next: Tick,
    /// When he goes in any case.
    latest: Tick,
}

impl Visit {
    /// Frames sent at a time.
    pub(crate) const BURST: u64 = 4;

    /// Adds `visitors` to `plan`, each with a host among the members of his thread.
    pub(crate) fn plan(plan: &mut Plan, visitors: usize, threads: usize, size: FrameSize) {
        plan.visitors = visitors;
        for visitor in 0..visitors {
            let number = plan.members + visitor;
            let pairs_here = plan.members / 2 / threads;
            // Member m lives on thread m / 2 % threads, visitor v on thread v % threads.
            let host = 2 * (visitor % threads + threads * (visitor / threads % pairs_here.max(1)));
            for (from, to) in [(number, host), (host, number)] {
                let to = To::Member(to);
                plan.flows.push(Flow { from, to, size, pace: Pace::Visit, answer: None, timed: false, counted: true });
            }
        }
    }

    /// Member `number` has come; `next` has what was sent so far, by flow.
    pub(crate) fn begin(run: &Run, next: &[u64], number: usize, now: Tick) -> Option<Self> {
        let first = run.plan.flows.iter().position(|flow| flow.pace == Pace::Visit)?;
        let flow = first + 2 * (number - run.plan.members);
        let flows = [flow, flow + 1];
        let goals = flows.map(|flow| next[flow] + FRAMES);
        let came_at = run.arrived[flow].load(Relaxed);
        Some(Self { member: number, flows, goals, came_at, next: now + PAUSE, latest: now + STAY_MAX })
    }

    /// The flows that send a burst now.
    pub(crate) fn sends(&mut self, run: &Run, next: &[u64], now: Tick) -> [Option<usize>; 2] {
        if now < self.next {
            return [None; 2];
        }
        self.next = now + PAUSE;
        let [out, back] = self.flows;
        // His host answers once it has heard him: from then on the hub knows where he is.
        let heard = run.arrived[out].load(Relaxed) > self.came_at;
        [(next[out] < self.goals[0]).then_some(out), (heard && next[back] < self.goals[1]).then_some(back)]
    }

    /// Whether he leaves, and if so, whether everything has arrived.
    pub(crate) fn over(&self, run: &Run, next: &[u64], now: Tick) -> Option<bool> {
        let done = self
            .flows
            .iter()
            .zip(self.goals)
            .all(|(flow, goal)| next[*flow] >= goal && run.arrived[*flow].load(Relaxed) >= next[*flow]);
        if done { Some(true) } else { (now >= self.latest).then_some(false) }
    }
}

/// Frames each way.
const FRAMES: u64 = 40;

/// Distance of two bursts.
const PAUSE: Duration = Duration::from_millis(5);

/// Longest visit.
const STAY_MAX: Duration = Duration::from_secs(5);
