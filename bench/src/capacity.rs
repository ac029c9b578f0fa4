//! How much goes through without loss, in an open loop: throughput as RFC 2544 §26.1 defines it, with a bound on
//! delay in place of its pause of two seconds.

use std::error::Error;
use std::time::Duration;

use crate::bed::Bed;
use crate::plan::{Pace, Pattern, Plan, Timetable};
use crate::report::Report;
use crate::throughput::WINDOW_FRAMES;
use crate::traffic::FrameSize;

/// A load whose rate is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Members.
    pub(crate) members: usize,
    /// Who sends to whom.
    pub(crate) pattern: Pattern,
    /// Lengths.
    pub(crate) size: FrameSize,
    /// Frames in a record.
    pub(crate) burst: u32,
}

impl Load {
    /// Frames a second, over all flows. A closed loop gives what can be at most; then the interval is halved.
    pub(crate) fn capacity(self, bed: &mut Bed<'_>) -> Result<f64, Box<dyn Error>> {
        let (mut good, mut bad) = (0.0, self.closed(bed)?);
        let most = bad;
        let mut rate = most;
        for _ in 0..TRIALS {
            // A second try: one stumble of the machine must not halve what was found.
            if self.goes_through(rate, bed)? || self.goes_through(rate, bed)? {
                good = rate;
            } else {
                bad = rate;
            }
            if good >= most {
                break;
            }
            rate = (good + bad) / 2.0;
        }
        if good == 0.0 {
            return Err(format!("not even {bad:.0} frames/s go through without loss").into());
        }
        Ok(good)
    }

    fn closed(self, bed: &mut Bed<'_>) -> Result<f64, Box<dyn Error>> {
        let plan = self.plan(Pace::Closed { window: WINDOW_FRAMES });
        let outcome = bed.run_for(WARM_UP, TRIAL, plan, None)?;
        let report = Report::new("capacity", &outcome);
        if let Some(why) = report.generator_limit() {
            eprintln!("hublane-bench: more may go through: the generator was at its limit ({why})");
        }
        Ok(report.frames_per_second)
    }

    fn goes_through(self, rate: f64, bed: &mut Bed<'_>) -> Result<bool, Box<dyn Error>> {
        let plan = self.plan(Pace::Open);
        let table = Timetable::new(rate, self.burst, plan.open_flows());
        let outcome = bed.run_for(WARM_UP, TRIAL, plan, Some(table))?;
        let report = Report::new("capacity", &outcome);
        let prompt = report.latency_us.as_ref().is_some_and(|delays| delays.p99 <= DELAY_US_MAX);
        Ok(report.lost == 0 && report.dropped_here == 0 && prompt)
    }

    /// The load, at `pace`.
    pub(crate) fn plan(self, pace: Pace) -> Plan {
        let mut plan = Plan::new(self.members);
        plan.add_pattern(self.pattern, self.size, pace, pace == Pace::Open);
        plan
    }
}

/// Trials of halving: the rate is known to a hundredth of the first one.
const TRIALS: usize = 8;

/// Length of a trial.
const TRIAL: Duration = Duration::from_secs(1);

/// Load before each, which counts for loss only.
const WARM_UP: Duration = Duration::from_millis(200);

/// A queue that grows without end shows as delay before it shows as loss.
const DELAY_US_MAX: f64 = 10_000.0;
