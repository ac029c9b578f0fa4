//! Who sends what to whom, and how fast: the plan of a run, made before it begins.

use clap::ValueEnum;
use hublane::tick::Tick;

use crate::traffic::FrameSize;

/// Who sends to whom (RFC 2889 §5, RFC 2285 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    /// Member 0 to member 1, 2 to 3 and so on.
    Pairs,
    /// Each to each.
    Mesh,
    /// Member 0 to each other.
    OneToMany,
    /// Each other to member 0.
    ManyToOne,
}

impl Pattern {
    /// For reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Mesh => "mesh",
            Self::OneToMany => "one-to-many",
            Self::ManyToOne => "many-to-one",
        }
    }

    /// Sender and receiver of each flow among `members`.
    fn flows(self, members: usize) -> Vec<(usize, usize)> {
        match self {
            Self::Pairs => (0..members / 2).map(|pair| (2 * pair, 2 * pair + 1)).collect(),
            // Each round every member sends one and receives one.
            Self::Mesh => (1..members).flat_map(|step| (0..members).map(move |a| (a, (a + step) % members))).collect(),
            Self::OneToMany => (1..members).map(|to| (0, to)).collect(),
            Self::ManyToOne => (1..members).map(|from| (from, 0)).collect(),
        }
    }
}

/// Who receives a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// One.
    Member(usize),
    /// All but the sender.
    Everyone,
}

/// When a frame of a flow is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As long as fewer than so many are on their way.
    Closed {
        /// Frames.
        window: u64,
    },
    /// By the clock; see [`Timetable`].
    Open,
    /// For each frame of another flow that arrives at the sender.
    Answer,
    /// While its visitor is there.
    Visit,
}

/// Frames from one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Sender.
    pub(crate) from: usize,
    /// Receiver.
    pub(crate) to: To,
    /// Lengths.
    pub(crate) size: FrameSize,
    /// When.
    pub(crate) pace: Pace,
    /// The flow in which the receiver answers each frame.
    pub(crate) answer: Option<u32>,
    /// Its delay is recorded.
    pub(crate) timed: bool,
    /// It counts as delivered load.
    pub(crate) counted: bool,
}

/// All flows of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Members there from beginning to end, numbered from 0.
    pub(crate) members: usize,
    /// Members that come and go, numbered from `members` on.
    pub(crate) visitors: usize,
    /// Flows.
    pub(crate) flows: Vec<Flow>,
}

impl Plan {
    /// `members` without traffic.
    pub(crate) fn new(members: usize) -> Self {
        Self { members, ..Self::default() }
    }

    /// Flows of `pattern` among all members; a closed window is divided such that no receiver has more of them on
    /// their way to it than one window.
    pub(crate) fn add_pattern(&mut self, pattern: Pattern, size: FrameSize, pace: Pace, timed: bool) {
        let flows = pattern.flows(self.members);
        let into_one = match pattern {
            Pattern::Pairs | Pattern::OneToMany => 1,
            Pattern::Mesh | Pattern::ManyToOne => self.members as u64 - 1,
        };
        let pace = match pace {
            Pace::Closed { window } => Pace::Closed { window: (window / into_one).max(1) },
            other => other,
        };
        for (from, to) in flows {
            let to = To::Member(to);
            self.flows.push(Flow { from, to, size, pace, answer: None, timed, counted: true });
        }
    }

    /// Two further members with a flow from one to the other; the number of the first one.
    pub(crate) fn add_pair(&mut self) -> usize {
        self.members += 2;
        self.members - 2
    }

    /// Makes every timed flow be answered; the delay is then that of both ways.
    pub(crate) fn answer_timed(&mut self) {
        for at in 0..self.flows.len() {
            let Flow { from, to: To::Member(to), size, timed: true, .. } = self.flows[at] else { continue };
            let answer = u32::try_from(self.flows.len()).expect("fewer flows than 2^32");
            let back = Flow {
                from: to,
                to: To::Member(from),
                size,
                pace: Pace::Answer,
                answer: None,
                timed: true,
                counted: true,
            };
            self.flows.push(back);
            (self.flows[at].answer, self.flows[at].timed) = (Some(answer), false);
        }
    }

    /// Flows that are sent by the clock.
    pub(crate) fn open_flows(&self) -> usize {
        self.flows.iter().filter(|flow| flow.pace == Pace::Open).count()
    }
}

/// When open flows send: one record every `interval_ns`, each time of another flow, so that all get the same and
/// nothing comes at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timetable {
    /// Distance of two records of any flows, in nanoseconds.
    pub(crate) interval_ns: f64,
    /// Frames in each.
    pub(crate) burst: u32,
    /// Flows that take turns.
    pub(crate) flows: usize,
}

impl Timetable {
    /// `rate` frames a second over `flows` flows, `burst` of them in a record.
    pub(crate) fn new(rate: f64, burst: u32, flows: usize) -> Self {
        Self { interval_ns: f64::from(burst) * 1e9 / rate, burst, flows }
    }

    /// When flow `order` (in order of the plan, open ones only) sends its record number `round`.
    pub(crate) fn due(&self, start: Tick, order: usize, round: u64) -> Tick {
        let slot = round as f64 * self.flows as f64 + order as f64;
        Tick(start.0.saturating_add(nanos(slot * self.interval_ns)))
    }
}

/// Whole nanoseconds of a time that is not negative.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, which is what is wanted"
)]
fn nanos(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_the_flows_of_rfc_2889() {
        assert_eq!(Pattern::Pairs.flows(4), [(0, 1), (2, 3)]);
        assert_eq!(Pattern::OneToMany.flows(3), [(0, 1), (0, 2)]);
        assert_eq!(Pattern::ManyToOne.flows(3), [(1, 0), (2, 0)]);
        let mesh = Pattern::Mesh.flows(4);
        assert_eq!(mesh.len(), 12);
        assert!(mesh.iter().all(|(from, to)| from != to));
        let mut sorted = mesh.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 12);
    }

    #[test]
    fn a_receiver_of_many_flows_has_one_window() {
        let mut plan = Plan::new(5);
        plan.add_pattern(Pattern::ManyToOne, FrameSize::Fixed(60), Pace::Closed { window: 768 }, false);
        assert!(plan.flows.iter().all(|flow| flow.pace == Pace::Closed { window: 192 }));
    }

    #[test]
    fn answers_go_back_and_carry_the_delay() {
        let mut plan = Plan::new(2);
        plan.add_pattern(Pattern::Pairs, FrameSize::Fixed(60), Pace::Open, true);
        plan.answer_timed();
        let [there, back] = plan.flows[..] else { panic!("two flows") };
        assert_eq!((there.answer, there.timed), (Some(1), false));
        assert_eq!((back.from, back.to, back.timed), (1, To::Member(0), true));
        assert_eq!(plan.open_flows(), 1);
    }

    #[test]
    fn the_timetable_spreads_flows_evenly() {
        let table = Timetable::new(1000.0, 1, 4);
        let due = |order, round| table.due(Tick(500), order, round).0;
        assert_eq!([due(0, 0), due(1, 0), due(3, 0), due(0, 1)], [500, 1_000_500, 3_000_500, 4_000_500]);
        assert_eq!(Timetable::new(1000.0, 8, 1).due(Tick(0), 0, 1), Tick(8_000_000));
    }
}
