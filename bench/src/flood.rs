//! Mode `flood`: one member broadcasts, all others receive.

use std::error::Error;

use clap::Args;

use crate::bed::Bed;
use crate::engine::Measuring;
use crate::login::Login;
use crate::plan::{Flow, Pace, Plan, Timetable, To};
use crate::throughput::check_rate;
use crate::traffic::FrameSize;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Flood {
    #[command(flatten)]
    login: Login,
    /// How many members; all but one receive.
    #[arg(long, default_value_t = 1001, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    members: u32,
    /// Length of the frames in bytes, 60 to 1514, or "imix".
    #[arg(long, default_value = "100", value_name = "SIZE")]
    frame: FrameSize,
    /// Broadcasts a second.
    #[arg(long, default_value_t = 20.0, value_name = "FPS")]
    rate: f64,
    #[command(flatten)]
    measuring: Measuring,
}

impl Flood {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        check_rate(Some(self.rate))?;
        let count = self.members as usize;
        let mut bed = Bed::new("flood", &self.login, &self.measuring, count)?;
        let mut plan = Plan::new(count);
        plan.flows.push(Flow {
            from: 0,
            to: To::Everyone,
            size: self.frame,
            pace: Pace::Open,
            answer: None,
            timed: true,
            counted: true,
        });
        let outcome = bed.run(plan, Some(Timetable::new(self.rate, 1, 1)))?;
        Ok(bed.report("flood", self.frame, &outcome).print(self.measuring.json)?)
    }
}
