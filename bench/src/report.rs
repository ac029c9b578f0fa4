//! What a run came to, as JSON and as a table for people.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::engine::Outcome;
use crate::plan::To;

/// Results of a run; `None`: not measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) mode: &'static str,
    pub(crate) members: usize,
    pub(crate) connections: u8,
    pub(crate) pattern: &'static str,
    pub(crate) frame: String,
    /// Frames a second that were meant to be sent; `None`: as many as the way takes.
    pub(crate) rate: Option<f64>,
    pub(crate) burst: Option<u32>,
    pub(crate) tls: String,
    pub(crate) seconds: f64,
    /// Over the whole run, the time before measuring included; so are those that were lost and so on.
    pub(crate) sent: u64,
    /// Delivered while it was measured.
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) frames_per_second: f64,
    pub(crate) mbit_per_second: f64,
    /// Never arrived.
    pub(crate) lost: u64,
    /// Arrived more than once.
    pub(crate) duplicate: u64,
    /// Arrived after later ones of their flow.
    pub(crate) reordered: u64,
    /// Were not as they were sent.
    pub(crate) corrupt: u64,
    /// Arrived at a member that they were not for: floods of a hub that did not know the address.
    pub(crate) stray: u64,
    /// Never sent, since the member's connection did not take them.
    pub(crate) dropped_here: u64,
    pub(crate) connections_lost: u64,
    pub(crate) server_cpu_seconds: Option<f64>,
    pub(crate) server_cpu_s_per_gb: Option<f64>,
    pub(crate) server_cpu_us_per_frame: Option<f64>,
    pub(crate) server_cores: Option<f64>,
    /// At the end.
    pub(crate) server_rss_kib: Option<u64>,
    pub(crate) server_threads: Option<u64>,
    /// CPU time of the busiest thread of the generator by elapsed time. `None` if it sends by the clock: it does not
    /// sleep then.
    pub(crate) generator_busy: Option<f64>,
    /// How late records left, 99th percentile of the thread where it was most.
    pub(crate) generator_late_us: Option<f64>,
    pub(crate) frames_per_record: f64,
    pub(crate) latency_us: Option<Delays>,
}

/// Delays in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Delays {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    pub(crate) count: u64,
}

impl Delays {
    fn new(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e3,
            count: histogram.len(),
        })
    }
}

impl Report {
    /// Of a run; the caller adds what it alone knows.
    pub(crate) fn new(mode: &'static str, outcome: &Outcome) -> Self {
        let mut report = Self { mode, members: outcome.run.plan.members, seconds: outcome.seconds, ..Self::default() };
        report.add_load(outcome);
        report.add_losses(outcome);
        report.add_server(outcome);
        report
    }

    fn add_load(&mut self, outcome: &Outcome) {
        let mut delays = Histogram::<u64>::new(3).expect("3 digits");
        let mut late = 0;
        let (mut records, mut frames_out, mut busiest) = (0, 0, 0);
        for part in &outcome.parts {
            self.frames += part.measured.frames;
            self.bytes += part.measured.bytes;
            self.corrupt += part.corrupt;
            self.stray += part.stray;
            self.dropped_here += part.dropped_here;
            self.connections_lost += part.connections_lost;
            delays.add(&part.delays).expect("histograms that grow");
            late = late.max(part.late.value_at_quantile(0.99));
            records += part.records;
            frames_out += part.frames_out;
            busiest = busiest.max(part.cpu_ns);
        }
        self.frames_per_second = self.frames as f64 / self.seconds;
        self.mbit_per_second = self.bytes as f64 * 8e-6 / self.seconds;
        self.frames_per_record = frames_out as f64 / (records as f64).max(1.0);
        self.latency_us = Delays::new(&delays);
        if let Some(table) = &outcome.run.table {
            self.rate = Some(1e9 / table.interval_ns * f64::from(table.burst));
            self.burst = Some(table.burst);
            self.generator_late_us = Some(late as f64 / 1e3);
        } else {
            self.generator_busy = Some(busiest as f64 / 1e9 / self.seconds);
        }
    }

    fn add_losses(&mut self, outcome: &Outcome) {
        let plan = &outcome.run.plan;
        for (index, flow) in plan.flows.iter().enumerate() {
            let sent: u64 = outcome.parts.iter().map(|part| part.sent[index]).sum();
            self.sent += sent;
            let tracks: Vec<_> = match flow.to {
                To::Member(_) => outcome.parts.iter().filter_map(|part| part.tracks[index]).collect(),
                To::Everyone => {
                    let all = outcome.parts.iter().flat_map(|part| &part.floods);
                    all.filter(|(flow, _)| *flow == index).map(|(_, track)| *track).collect()
                }
            };
            let receivers = if flow.to == To::Everyone { plan.members - 1 } else { 1 };
            self.lost += sent * receivers.saturating_sub(tracks.len()) as u64;
            for track in tracks {
                self.lost += sent.saturating_sub(track.next) + track.missing;
                self.duplicate += track.duplicate;
                self.reordered += track.reordered;
            }
        }
    }

    fn add_server(&mut self, outcome: &Outcome) {
        let cpu = outcome.server_cpu_ns.map(|ns| ns as f64 / 1e9);
        self.server_cpu_seconds = cpu;
        self.server_cpu_s_per_gb = cpu.map(|cpu| cpu / (self.bytes as f64 / 1e9));
        self.server_cpu_us_per_frame = cpu.map(|cpu| cpu / self.frames as f64 * 1e6);
        self.server_cores = cpu.map(|cpu| cpu / self.seconds);
        self.server_rss_kib = outcome.server_rss_kib.last().copied();
        self.server_threads = outcome.server_threads;
    }

    /// Why the figures are the generator's rather than the server's, if they are.
    pub(crate) fn generator_limit(&self) -> Option<String> {
        if let Some(busy) = self.generator_busy.filter(|busy| *busy > 0.9) {
            return Some(format!("its busiest thread was busy for {:.0} % of the time", busy * 100.0));
        }
        if let Some(late) = self.generator_late_us.filter(|late| *late > 300.0) {
            return Some(format!("one record in a hundred left {late:.0} us late or later"));
        }
        (self.dropped_here > 0).then(|| format!("{} frames found no room in their connection", self.dropped_here))
    }

    /// As JSON in one line, or as a table.
    pub(crate) fn print(&self, json: bool) -> Result<(), serde_json::Error> {
        if json {
            println!("{}", serde_json::to_string(self)?);
        } else {
            self.table();
        }
        Ok(())
    }

    fn table(&self) {
        let rate = self.rate.map_or_else(|| "closed loop".into(), |rate| format!("{rate:.0} frames/s"));
        let burst = self.burst.map_or_else(String::new, |burst| format!(", {burst} a record"));
        println!(
            "{}: {} members x {} connections, {}, {} bytes, {rate}{burst}, {}, {:.1} s",
            self.mode, self.members, self.connections, self.pattern, self.frame, self.tls, self.seconds
        );
        row("frames/s delivered", Some(self.frames_per_second), 0);
        row("Mbit/s", Some(self.mbit_per_second), 1);
        for (name, count) in [
            ("sent", self.sent),
            ("lost", self.lost),
            ("duplicate", self.duplicate),
            ("reordered", self.reordered),
            ("corrupt", self.corrupt),
            ("stray", self.stray),
            ("connections lost", self.connections_lost),
        ] {
            println!("  {name:<22} {count:>12}");
        }
        row("frames a record", Some(self.frames_per_record), 2);
        if let Some(Delays { p50, p90, p99, p999, max, .. }) = self.latency_us {
            println!("  {:<22} p50 {p50:.0}  p90 {p90:.0}  p99 {p99:.0}  p99.9 {p999:.0}  max {max:.0}", "delay, us");
        }
        row("server CPU, s/GB", self.server_cpu_s_per_gb, 3);
        row("server CPU, us/frame", self.server_cpu_us_per_frame, 3);
        row("server CPU, cores", self.server_cores, 3);
        row("server RSS, MiB", self.server_rss_kib.map(|kib| kib as f64 / 1024.0), 1);
        row("server threads", self.server_threads.map(|count| count as f64), 0);
        row("generator busy", self.generator_busy, 2);
        row("generator late, us", self.generator_late_us, 0);
        if let Some(why) = self.generator_limit() {
            println!("  The generator was at its limit ({why}): the server may be able to do more.");
        }
    }
}

fn row(name: &str, value: Option<f64>, digits: usize) {
    match value {
        Some(value) => println!("  {name:<22} {value:>12.digits$}"),
        None => println!("  {name:<22} {:>12}", "-"),
    }
}
