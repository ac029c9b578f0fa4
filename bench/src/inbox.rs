//! What arrives at the members of one thread: checked, counted, timed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use hdrhistogram::Histogram;
use hublane::tick::Tick;

use crate::driver::Arrivals;
use crate::plan::To;
use crate::shard::Run;
use crate::traffic::{HELLO, Stamp, Track, is_ours};

/// Frames and bytes that were delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Frames.
    pub(crate) frames: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl Totals {
    /// What has come since `earlier`.
    pub(crate) fn since(self, earlier: &Self) -> Self {
        Self { frames: self.frames - earlier.frames, bytes: self.bytes - earlier.bytes }
    }
}

/// A frame that is to be answered.
pub(crate) struct Answer {
    /// In this flow.
    pub(crate) flow: usize,
    /// When the frame that it answers was meant to leave.
    pub(crate) time: Tick,
}

/// Takes what arrives.
pub(crate) struct Inbox {
    run: Option<Arc<Run>>,
    /// Number of the member, by number here.
    numbers: Vec<Option<usize>>,
    /// By flow.
    tracks: Vec<Option<Track>>,
    /// By number here, then by flow that goes to all.
    floods: Vec<Vec<(usize, Track)>>,
    totals: Totals,
    published: Totals,
    corrupt: u64,
    stray: u64,
    delays: Histogram<u64>,
    answers: VecDeque<Answer>,
    /// By member: whether his hello has arrived.
    heard: Arc<[AtomicBool]>,
}

impl Inbox {
    /// Without members.
    pub(crate) fn new(heard: Arc<[AtomicBool]>) -> Self {
        Self {
            run: None,
            numbers: Vec::new(),
            tracks: Vec::new(),
            floods: Vec::new(),
            totals: Totals::default(),
            published: Totals::default(),
            corrupt: 0,
            stray: 0,
            delays: delays(),
            answers: VecDeque::new(),
            heard,
        }
    }

    /// Member `number` is number `at` here.
    pub(crate) fn is_at(&mut self, number: usize, at: usize) {
        if self.numbers.len() <= at {
            self.numbers.resize(at + 1, None);
        }
        self.numbers[at] = Some(number);
    }

    /// The member that is number `at` here has left.
    pub(crate) fn is_gone(&mut self, at: usize) {
        self.numbers[at] = None;
    }

    /// Room for `members` here.
    pub(crate) fn fit(&mut self, members: usize) {
        self.floods.resize_with(members.max(self.floods.len()), Vec::new);
    }

    /// Counts from nought, for `run`.
    pub(crate) fn begin(&mut self, run: &Arc<Run>, members: usize) {
        self.tracks = vec![None; run.plan.flows.len()];
        self.floods.clear();
        self.fit(members);
        self.answers.clear();
        self.delays = delays();
        (self.totals, self.published) = (Totals::default(), Totals::default());
        (self.corrupt, self.stray) = (0, 0);
        self.run = Some(Arc::clone(run));
    }

    /// What was delivered so far.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Tells those who watch.
    pub(crate) fn publish(&mut self) {
        if self.totals != self.published
            && let Some(run) = &self.run
        {
            let new = self.totals.since(&self.published);
            run.frames.fetch_add(new.frames, Relaxed);
            run.bytes.fetch_add(new.bytes, Relaxed);
            self.published = self.totals;
        }
    }

    /// A frame that waits to be answered.
    pub(crate) fn next_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// What came of the run: delays, corrupt frames, strays, tracks of flows to one, tracks of floods.
    #[allow(clippy::type_complexity, reason = "taken apart at once by the only caller")]
    pub(crate) fn end(&mut self) -> (Histogram<u64>, u64, u64, Vec<Option<Track>>, Vec<(usize, Track)>) {
        self.run = None;
        let floods = self.floods.drain(..).flatten().collect();
        let delays = std::mem::replace(&mut self.delays, delays());
        (delays, self.corrupt, self.stray, std::mem::take(&mut self.tracks), floods)
    }

    /// Number of the member that is number `at` here; none while he is still coming in.
    fn at(&self, at: usize) -> Option<usize> {
        self.numbers.get(at).copied().flatten()
    }

    fn count(&mut self, member: usize, stamp: Stamp, len: usize, now: Tick) {
        let Some(run) = &self.run else { return };
        let Some(index) = run.flow_of(stamp.flow) else { return };
        let Some(flow) = run.plan.flows.get(index) else { return self.corrupt += 1 };
        let first = match flow.to {
            To::Member(number) if self.at(member) != Some(number) => return self.stray += 1,
            // A flood does not come back.
            To::Everyone if self.at(member) == Some(flow.from) => return self.stray += 1,
            To::Member(_) => {
                let track = self.tracks[index].get_or_insert_default();
                let first = track.arrived(stamp.seq);
                run.arrived[index].store(track.next, Relaxed);
                first
            }
            To::Everyone => {
                let Some(tracks) = self.floods.get_mut(member) else { return };
                let at = tracks.iter().position(|(flow, _)| *flow == index).unwrap_or_else(|| {
                    tracks.push((index, Track::default()));
                    tracks.len() - 1
                });
                tracks[at].1.arrived(stamp.seq)
            }
        };
        if !first {
            return;
        }
        if flow.counted {
            self.totals.frames += 1;
            self.totals.bytes += len as u64;
        }
        if flow.timed && stamp.time >= run.from {
            self.delays.saturating_record(u64::try_from(now.since(stamp.time).as_nanos()).unwrap_or(u64::MAX));
        }
        if let Some(answer) = flow.answer {
            self.answers.push_back(Answer { flow: answer as usize, time: stamp.time });
        }
    }
}

impl Arrivals for Inbox {
    #[inline]
    fn frame(&mut self, member: usize, frame: &[u8], now: Tick) {
        if !is_ours(frame) {
            return;
        }
        match Stamp::read(frame) {
            Some(Stamp { flow: HELLO, seq, .. }) => {
                // Visitors are not waited for.
                let from = usize::try_from(seq).ok().and_then(|number| self.heard.get(number));
                if let Some(heard) = from.filter(|_| self.at(member) == Some(0)) {
                    heard.store(true, Relaxed);
                }
            }
            Some(stamp) => self.count(member, stamp, frame.len(), now),
            None => self.corrupt += 1,
        }
    }

    fn broken(&mut self) {
        self.corrupt += 1;
    }
}

fn delays() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds in order")
}
