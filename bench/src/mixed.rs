//! Mode `mixed`: a day's traffic in minutes. Members exchange frames of mixed sizes at a steady rate while others log
//! in, exchange some frames and leave.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::bed::Bed;
use crate::capacity::Load;
use crate::engine::Measuring;
use crate::login::{Dialer, Login};
use crate::plan::{Pace, Pattern, Timetable};
use crate::progress::Progress;
use crate::report::Report;
use crate::shard::Order;
use crate::throughput::check_rate;
use crate::traffic::FrameSize;
use crate::visits::Visit;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Mixed {
    #[command(flatten)]
    login: Login,
    /// Members that stay.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=10_000))]
    members: u32,
    /// Who sends to whom.
    #[arg(long, value_enum, default_value = "mesh")]
    pattern: Pattern,
    /// Length of the frames in bytes, 60 to 1514, or "imix".
    #[arg(long, default_value = "imix", value_name = "SIZE")]
    frame: FrameSize,
    /// Frames a second over all flows of those that stay.
    #[arg(long, value_name = "FPS", conflicts_with = "load")]
    rate: Option<f64>,
    /// The same in per cent of what goes through, which is looked for first.
    #[arg(long, value_name = "PERCENT", default_value_t = 70.0)]
    load: f64,
    /// Frames of a flow sent at a time, in one record.
    #[arg(long, default_value_t = 8, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=1000))]
    burst: u32,
    /// Members that come a second. Each exchanges 40 frames each way and leaves.
    #[arg(long, default_value_t = 5.0, value_name = "LOGINS")]
    churn: f64,
    #[command(flatten)]
    measuring: Measuring,
}

/// What came of it.
#[derive(Serialize)]
struct Day {
    #[serde(flatten)]
    report: Report,
    /// Found or not looked for.
    capacity: Option<f64>,
    /// Visitors who got all frames and left; those who did not in five seconds; those who were not let in.
    visits: u64,
    visits_unfinished: u64,
    logins_failed: u64,
    /// Memory of the server in KiB: median of the first and of the last tenth of the time, and the most of all.
    rss_kib_begin: Option<u64>,
    rss_kib_end: Option<u64>,
    rss_kib_max: Option<u64>,
}

impl Mixed {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        check_rate(self.rate)?;
        check_rate(Some(self.load))?;
        let progress = Progress::new();
        let count = self.members as usize;
        // At the same time: as many as come in the longest visit and some more.
        let visitors = if self.churn > 0.0 { self.visitors()? } else { 0 };
        let dialer = self.login.dialer(count + visitors)?;
        let members = self.login.log_in(&dialer, count, &progress)?;
        let mut bed = Bed::with(members, "mixed", &self.login, &self.measuring, progress)?;
        let load = Load { members: count, pattern: self.pattern, size: self.frame, burst: self.burst };
        let (capacity, rate) = match self.rate {
            Some(rate) => (None, rate),
            None => {
                let capacity = load.capacity(&mut bed)?;
                (Some(capacity), capacity * self.load / 100.0)
            }
        };
        let mut plan = load.plan(Pace::Open);
        Visit::plan(&mut plan, visitors, self.measuring.threads(), self.frame);
        let table = Timetable::new(rate, self.burst, plan.open_flows());
        let churn = Churn { dialer: &dialer, first: count, visitors, rate: self.churn, doors: bed.engine.doors() };
        let (stop, failed) = (AtomicBool::new(false), AtomicU64::new(0));
        let outcome = std::thread::scope(|scope| {
            if visitors > 0 {
                scope.spawn(|| churn.run(&stop, &failed));
            }
            let outcome = bed.run(plan, Some(table));
            stop.store(true, Relaxed);
            outcome
        })?;
        let report = bed.report(self.pattern.name(), self.frame, &outcome);
        let visits = outcome.parts.iter().map(|part| part.visits).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let rss = &outcome.server_rss_kib;
        let tenth = (rss.len() / 10).max(1);
        self.print(&Day {
            report,
            capacity,
            visits: visits.0,
            visits_unfinished: visits.1,
            logins_failed: failed.load(Relaxed),
            rss_kib_begin: median(&rss[..tenth.min(rss.len())]),
            rss_kib_end: median(&rss[rss.len().saturating_sub(tenth)..]),
            rss_kib_max: rss.iter().copied().max(),
        })
    }

    /// Names that visitors take in turn: a name is free again long before its turn comes.
    fn visitors(&self) -> Result<usize, Box<dyn Error>> {
        let longest_visit_secs = 8;
        (1..=1000)
            .find(|visitors| f64::from(*visitors) >= self.churn * f64::from(longest_visit_secs))
            .and_then(|visitors| usize::try_from(visitors).ok())
            .ok_or_else(|| format!("{} logins a second are too many: 125 can be had", self.churn).into())
    }

    fn print(&self, day: &Day) -> Result<(), Box<dyn Error>> {
        if self.measuring.json {
            println!("{}", serde_json::to_string(day)?);
            return Ok(());
        }
        day.report.print(false)?;
        for (name, count) in
            [("visits", day.visits), ("visits unfinished", day.visits_unfinished), ("logins failed", day.logins_failed)]
        {
            println!("  {name:<22} {count:>12}");
        }
        if let (Some(begin), Some(end), Some(most)) = (day.rss_kib_begin, day.rss_kib_end, day.rss_kib_max) {
            println!("  {:<22} {begin:>12} at first, {end} at last, {most} at most", "server RSS, KiB");
        }
        Ok(())
    }
}

/// Sends visitors.
struct Churn<'a> {
    dialer: &'a Dialer,
    first: usize,
    visitors: usize,
    rate: f64,
    doors: Vec<Sender<Order>>,
}

impl Churn<'_> {
    fn run(&self, stop: &AtomicBool, failed: &AtomicU64) {
        let began = Instant::now();
        let mut come = 0_u32;
        while !stop.load(Relaxed) {
            let due = Duration::from_secs_f64(f64::from(come) / self.rate);
            match due.checked_sub(began.elapsed()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(Duration::from_millis(50))),
                _ => {
                    let visitor = come as usize % self.visitors;
                    come += 1;
                    match self.dialer.member(self.first + visitor) {
                        // A thread that has failed tells so itself.
                        Ok(member) => drop(self.doors[visitor % self.doors.len()].send(Order::Visitor(member))),
                        Err(_) => drop(failed.fetch_add(1, Relaxed)),
                    }
                }
            }
        }
    }
}

fn median(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}
