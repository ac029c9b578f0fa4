//! Mode `latency`: how long frames take through the hub at given rates.
//!
//! Open loop: a frame carries the moment at which it was meant to leave, and its delay counts from then, so that a
//! stall shows in every frame that it held up (no coordinated omission). With `--round-trip` the receiver answers
//! each frame at once and the delay is that of both ways. `--bulk` adds pairs that send as fast as they can.

use std::error::Error;

use clap::Args;
use serde::Serialize;

use crate::bed::Bed;
use crate::capacity::Load;
use crate::engine::Measuring;
use crate::login::Login;
use crate::plan::{Flow, Pace, Pattern, Plan, Timetable, To};
use crate::report::Report;
use crate::throughput::{WINDOW_FRAMES, check_rate};
use crate::traffic::FrameSize;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Latency {
    #[command(flatten)]
    login: Login,
    /// How many members, without those of --bulk.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    members: u32,
    /// Who sends to whom.
    #[arg(long, value_enum, default_value = "pairs")]
    pattern: Pattern,
    /// Length of the frames in bytes, 60 to 1514, or "imix".
    #[arg(long, default_value = "64", value_name = "SIZE")]
    frame: FrameSize,
    /// Frames a second over all flows; several rates are run one after the other.
    #[arg(long, value_name = "FPS,..", value_delimiter = ',', conflicts_with = "load")]
    rate: Vec<f64>,
    /// The same in per cent of what goes through.
    #[arg(long, value_name = "PERCENT,..", value_delimiter = ',', default_value = "10,50,90")]
    load: Vec<f64>,
    /// What goes through without loss, in frames a second; looked for if not given.
    #[arg(long, value_name = "FPS", conflicts_with = "rate")]
    capacity: Option<f64>,
    /// Frames of a flow sent at a time, in one record.
    #[arg(long, default_value_t = 1, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=1000))]
    burst: u32,
    /// Receivers answer; the delay is that of both ways.
    #[arg(long)]
    round_trip: bool,
    /// Further pairs of members that send frames of 1400 bytes in a closed loop.
    #[arg(long, default_value_t = 0, value_name = "PAIRS")]
    bulk: u16,
    /// Frames on their way in each flow of --bulk.
    #[arg(long, default_value_t = WINDOW_FRAMES, value_name = "FRAMES")]
    window: u64,
    #[command(flatten)]
    measuring: Measuring,
}

/// Results of all rates.
#[derive(Serialize)]
struct Steps {
    mode: &'static str,
    /// In frames a second, if it was looked for or given.
    capacity: Option<f64>,
    steps: Vec<Report>,
}

impl Latency {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        self.rate.iter().chain(&self.load).chain(&self.capacity).try_for_each(|rate| check_rate(Some(*rate)))?;
        let count = self.members as usize + 2 * usize::from(self.bulk);
        let mut bed = Bed::new("latency", &self.login, &self.measuring, count)?;
        let (capacity, rates) = if self.rate.is_empty() {
            let capacity = self.capacity.map_or_else(|| self.load().capacity(&mut bed), Ok)?;
            (Some(capacity), self.load.iter().map(|percent| capacity * percent / 100.0).collect())
        } else {
            (None, self.rate.clone())
        };
        let mut steps = Steps { mode: "latency", capacity, steps: Vec::new() };
        for rate in rates {
            steps.steps.push(self.step(&mut bed, rate)?);
        }
        steps.print(self.measuring.json)
    }

    fn load(&self) -> Load {
        Load { members: self.members as usize, pattern: self.pattern, size: self.frame, burst: self.burst }
    }

    fn step(&self, bed: &mut Bed<'_>, rate: f64) -> Result<Report, Box<dyn Error>> {
        let mut plan = self.load().plan(Pace::Open);
        if self.round_trip {
            plan.answer_timed();
        }
        self.add_bulk(&mut plan);
        let table = Timetable::new(rate, self.burst, plan.open_flows());
        let outcome = bed.run(plan, Some(table))?;
        Ok(bed.report(self.pattern.name(), self.frame, &outcome))
    }

    /// Numbers of bulk members follow those of the others, so a pair of them is 2n, 2n + 1 if the others are even.
    fn add_bulk(&self, plan: &mut Plan) {
        for _ in 0..self.bulk {
            let from = plan.add_pair();
            plan.flows.push(Flow {
                from,
                to: To::Member(from + 1),
                size: FrameSize::Fixed(1400),
                pace: Pace::Closed { window: self.window },
                answer: None,
                timed: false,
                counted: true,
            });
        }
    }
}

impl Steps {
    fn print(&self, json: bool) -> Result<(), Box<dyn Error>> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        if let Some(capacity) = self.capacity {
            println!("goes through: {capacity:.0} frames/s");
        }
        self.steps.iter().try_for_each(|step| step.print(false))?;
        Ok(())
    }
}
