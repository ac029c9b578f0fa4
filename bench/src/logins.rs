//! Mode `logins`: what a login costs the server.
//!
//! Members log in and hang up at once. A login is all of it: TCP, TLS handshake, HTTP front, password, the port on
//! the hub, and its end.

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::login::Login;
use crate::process::Process;
use crate::progress::Progress;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Logins {
    #[command(flatten)]
    login: Login,
    /// How many logins.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Process of the server, on this machine, to count its CPU time.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    mode: &'static str,
    tls: String,
    count: u32,
    seconds: f64,
    logins_per_second: f64,
    /// From the first packet to the welcome, in milliseconds, by the mean of those that ran at the same time.
    server_cpu_seconds: Option<f64>,
    server_cpu_ms_per_login: Option<f64>,
    /// Between two welcomes, in milliseconds.
    gap_ms_p50: f64,
    gap_ms_p99: f64,
}

impl Logins {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let progress = Progress::new();
        let dialer = self.login.dialer(self.count as usize)?;
        let process = self.server_pid.map(Process::new);
        let before = process.as_ref().map(Process::cpu_seconds).transpose()?;
        let began = Instant::now();
        let (mut last, mut done, mut tls) = (began, 0, String::new());
        let mut gaps = Histogram::<u64>::new(3)?;
        self.login.each(&dialer, self.count as usize, |member| {
            gaps.saturating_record(u64::try_from(last.elapsed().as_nanos()).unwrap_or(u64::MAX));
            last = Instant::now();
            done += 1;
            if tls.is_empty() {
                tls = member.tls();
            }
            progress.counted("logins", done, self.count as usize);
        })?;
        let seconds = began.elapsed().as_secs_f64();
        progress.clear();
        // The ends of the sessions belong to it.
        std::thread::sleep(AFTERWARDS);
        let after = process.as_ref().map(Process::cpu_seconds).transpose()?;
        let cpu = after.zip(before).map(|(after, before)| after - before);
        self.print(&Report {
            mode: "logins",
            tls,
            count: self.count,
            seconds,
            logins_per_second: f64::from(self.count) / seconds,
            server_cpu_seconds: cpu,
            server_cpu_ms_per_login: cpu.map(|cpu| cpu * 1e3 / f64::from(self.count)),
            gap_ms_p50: gaps.value_at_quantile(0.5) as f64 / 1e6,
            gap_ms_p99: gaps.value_at_quantile(0.99) as f64 / 1e6,
        })
    }

    fn print(&self, report: &Report) -> Result<(), Box<dyn Error>> {
        if self.json {
            println!("{}", serde_json::to_string(report)?);
            return Ok(());
        }
        println!("logins: {} one after the other, {}, {:.1} s", report.count, report.tls, report.seconds);
        println!("  {:<22} {:>12.0}", "logins/s", report.logins_per_second);
        println!("  {:<22} {:>12.2} {:.2}", "gap ms, p50 p99", report.gap_ms_p50, report.gap_ms_p99);
        if let Some(ms) = report.server_cpu_ms_per_login {
            println!("  {:<22} {ms:>12.3}", "server CPU, ms/login");
        }
        Ok(())
    }
}

/// Time for the server to notice that the last ones have gone.
const AFTERWARDS: Duration = Duration::from_millis(300);
