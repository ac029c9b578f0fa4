//! Mode `throughput`: how much goes through, and what it costs the server.
//!
//! Closed loop (no `--rate`): of each flow a bounded number of frames is on its way, fewer than a server queues for a
//! member, so that nothing need be lost; what is lost all the same shows. Open loop: records leave by the clock,
//! evenly spaced over all flows, whether or not the server keeps up.

use std::error::Error;

use clap::Args;

use crate::bed::Bed;
use crate::engine::Measuring;
use crate::login::Login;
use crate::plan::{Pace, Pattern, Plan, Timetable};
use crate::traffic::FrameSize;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Throughput {
    #[command(flatten)]
    login: Login,
    /// How many members.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    members: u32,
    /// Who sends to whom.
    #[arg(long, value_enum, default_value = "pairs")]
    pattern: Pattern,
    /// Length of the frames in bytes, 60 to 1514, or "imix".
    #[arg(long, default_value = "1400", value_name = "SIZE")]
    frame: FrameSize,
    /// Closed loop: frames of a flow on their way at most.
    #[arg(long, default_value_t = WINDOW_FRAMES, value_name = "FRAMES", conflicts_with = "rate",
        value_parser = clap::value_parser!(u64).range(1..))]
    window: u64,
    /// Open loop: frames a second, over all flows.
    #[arg(long, value_name = "FPS")]
    rate: Option<f64>,
    /// Open loop: frames of a flow sent at a time, in one record.
    #[arg(long, default_value_t = 1, value_name = "B", requires = "rate",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    burst: u32,
    #[command(flatten)]
    measuring: Measuring,
}

impl Throughput {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        check_rate(self.rate)?;
        let count = self.members as usize;
        let mut bed = Bed::new("throughput", &self.login, &self.measuring, count)?;
        let mut plan = Plan::new(count);
        let pace = if self.rate.is_some() { Pace::Open } else { Pace::Closed { window: self.window } };
        plan.add_pattern(self.pattern, self.frame, pace, self.rate.is_some());
        let table = self.rate.map(|rate| Timetable::new(rate, self.burst, plan.open_flows()));
        let outcome = bed.run(plan, table)?;
        Ok(bed.report(self.pattern.name(), self.frame, &outcome).print(self.measuring.json)?)
    }
}

/// A rate must be a positive number.
pub(crate) fn check_rate(rate: Option<f64>) -> Result<(), String> {
    match rate {
        Some(rate) if !(rate.is_finite() && rate >= 0.1) => Err(format!("{rate} is no rate: 0.1 or more is needed")),
        _ => Ok(()),
    }
}

/// Frames of a flow on their way: less than the 1024 that stock servers and ours queue for a member.
pub(crate) const WINDOW_FRAMES: u64 = 768;
