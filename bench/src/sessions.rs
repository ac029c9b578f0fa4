//! Mode `sessions`: how a server bears many who mostly stay quiet.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::bed::Bed;
use crate::engine::Measuring;
use crate::login::Login;
use crate::plan::{Flow, Pace, Plan, Timetable, To};
use crate::process::Process;
use crate::progress::Progress;
use crate::report::Report;
use crate::throughput::check_rate;
use crate::traffic::FrameSize;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Sessions {
    #[command(flatten)]
    login: Login,
    /// How many members.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    members: u32,
    /// Frames a second in all while they stay: each goes from one member to the next one. Silence if not given.
    #[arg(long, value_name = "FPS")]
    rate: Option<f64>,
    /// Length of those frames in bytes, 60 to 1514, or "imix".
    #[arg(long, default_value = "200", value_name = "SIZE")]
    frame: FrameSize,
    #[command(flatten)]
    measuring: Measuring,
}

/// What came of it.
#[derive(Serialize)]
struct Sitting {
    #[serde(flatten)]
    report: Report,
    members_at_end: usize,
    logins_per_second: f64,
    /// Memory and threads before the first login, and what a member took of either.
    server_rss_kib_before: Option<u64>,
    server_threads_before: Option<u64>,
    server_kib_per_member: Option<f64>,
}

impl Sessions {
    /// Runs the mode. The line `{"event":"logged_in",..}` tells scripts when all are there.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        check_rate(self.rate)?;
        let progress = Progress::new();
        let count = self.members as usize;
        let server = self.measuring.server();
        let memory = server.as_ref().map(Process::rss_kib).transpose()?;
        let threads = server.as_ref().map(Process::threads).transpose()?;
        let began = Instant::now();
        let members = self.login.log_in(&self.login.dialer(count)?, count, &progress)?;
        let took = began.elapsed().as_secs_f64();
        println!("{}", serde_json::json!({ "event": "logged_in", "members": members.len(), "seconds": took }));
        std::io::stdout().flush()?;
        let mut bed = Bed::with(members, "sessions", &self.login, &self.measuring, progress)?;
        let (plan, table) = self.chatter(count);
        let outcome = bed.run(plan, table)?;
        let report = bed.report("ring", self.frame, &outcome);
        let grown = report.server_rss_kib.zip(memory).map(|(after, before)| after.saturating_sub(before));
        self.print(&Sitting {
            members_at_end: outcome.parts.iter().map(|part| part.members_up).sum(),
            logins_per_second: count as f64 / took,
            server_rss_kib_before: memory,
            server_threads_before: threads,
            server_kib_per_member: grown.map(|grown| grown as f64 / count as f64),
            report,
        })
    }

    /// Each member to the next one, if they are to talk at all.
    fn chatter(&self, count: usize) -> (Plan, Option<Timetable>) {
        let mut plan = Plan::new(count);
        let Some(rate) = self.rate else { return (plan, None) };
        plan.flows.extend((0..count).map(|from| Flow {
            from,
            to: To::Member((from + 1) % count),
            size: self.frame,
            pace: Pace::Open,
            answer: None,
            timed: true,
            counted: true,
        }));
        (plan, Some(Timetable::new(rate, 1, count)))
    }

    fn print(&self, sitting: &Sitting) -> Result<(), Box<dyn Error>> {
        if self.measuring.json {
            println!("{}", serde_json::to_string(sitting)?);
            return Ok(());
        }
        sitting.report.print(false)?;
        println!("  {:<22} {:>12.0}", "logins/s", sitting.logins_per_second);
        println!("  {:<22} {:>12}", "members at the end", sitting.members_at_end);
        if let (Some(kib), Some(threads)) = (sitting.server_kib_per_member, sitting.server_threads_before) {
            println!("  {:<22} {kib:>12.1}", "server KiB a member");
            println!("  {:<22} {threads:>12}", "threads before");
        }
        Ok(())
    }
}
