//! Mode `flood`: one member broadcasts, all others receive.

use std::error::Error;
use std::time::Duration;

use clap::Args;

use crate::engine::{Engine, Measuring, Watch};
use crate::login::Login;
use crate::plan::{Flow, Pace, Plan, Timetable, To};
use crate::progress::Progress;
use crate::report::Report;
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
        let progress = Progress::new();
        let count = self.members as usize;
        let members = self.login.log_in(&self.login.dialer(count)?, count, &progress)?;
        let tls = members[0].tls();
        let mut engine = Engine::start(&self.measuring, members)?;
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
        let table = Timetable::new(self.rate, 1, 1);
        let server = self.measuring.server();
        let watch = Watch { server: server.as_ref(), progress: &progress, label: "flood" };
        let warm_up = Duration::from_millis(self.measuring.warm_up_ms);
        let seconds = Duration::from_secs(self.measuring.seconds);
        let outcome = engine.run(plan, Some(table), warm_up, seconds, &watch)?;
        let report = Report {
            connections: self.login.connections,
            pattern: "flood",
            frame: self.frame.to_string(),
            tls,
            ..Report::new("flood", &outcome)
        };
        Ok(report.print(self.measuring.json)?)
    }
}
