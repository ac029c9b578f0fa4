//! Mode `nat`: members boot by DHCP, open flows through the gateway, and look whether the flows are still theirs.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use clap::Args;
use hublane::sys::affinity::pin_current_thread;
use hublane::worker::io::StreamIo;
use serde::Serialize;

use crate::driver::{Member, with_back_end};
use crate::login::Login;
use crate::nat_crowd::{Flows, Load};
use crate::process::Process;
use crate::progress::Progress;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Nat {
    #[command(flatten)]
    login: Login,
    /// How many members.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    members: u32,
    /// Time within which all of them boot, in seconds.
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    boot_seconds: f64,
    /// Time that the last ones have after that, in seconds.
    #[arg(long, default_value_t = 20.0, value_name = "S")]
    patience_seconds: f64,
    /// Flows of each member.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=40_000))]
    flows: u32,
    /// Address of each member's first flow; `hublane-bench echo` must answer there.
    #[arg(long, default_value = "198.51.100.100", value_name = "ADDR")]
    target: Ipv4Addr,
    /// Addresses there are from that one on: the second flow goes to the second one and so on.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    targets: u32,
    /// Port there.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// Flows opened a second, all members together; afterwards as many are checked.
    #[arg(long, default_value_t = 20_000.0, value_name = "N")]
    rate: f64,
    /// UDP instead of TCP.
    #[arg(long)]
    udp: bool,
    /// Process of the server, on this machine: its CPU time and memory are reported.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// CPU of the generator.
    #[arg(long, value_name = "CPU")]
    cpus: Option<usize>,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Report {
    mode: &'static str,
    tls: String,
    members: usize,
    /// From the first question to the last lease, if everybody has one.
    all_leased_seconds: Option<f64>,
    members_without_lease: usize,
    /// Addresses that more than one member has.
    leased_twice: usize,
    /// Members that found no router.
    members_without_router: usize,
    lease_ms_p50: f64,
    lease_ms_p99: f64,
    dhcp_retries: u64,
    dhcp_naks: u64,
    boot_server_cpu_ms_per_member: Option<f64>,
    flows: usize,
    open: u64,
    /// Flows that were not opened, for whatever reason.
    refused: u64,
    reset: u64,
    unreachable: BTreeMap<u8, u64>,
    questions_again: u64,
    open_per_second: f64,
    open_server_cpu_us_per_flow: Option<f64>,
    /// Flows whose external endpoint and destination are also those of another.
    ambiguous: u64,
    external_addresses: usize,
    external_endpoints: usize,
    /// Flows that still carried data at the end, and open ones that did not.
    alive: u64,
    dead: u64,
    misdelivered: u64,
    moved: u64,
    check_server_cpu_us_per_flow: Option<f64>,
    server_rss_kib_before: Option<u64>,
    server_rss_kib: Option<u64>,
    connections_lost: u64,
    dropped_here: u64,
    corrupt: u64,
}

impl Nat {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        if !(self.rate > 0.0 && self.boot_seconds >= 0.0 && self.patience_seconds >= 0.0) {
            return Err("--rate must be above 0, times not below".into());
        }
        let count = self.members as usize;
        let progress = Progress::new();
        let members = self.login.log_in(&self.login.dialer(count)?, count, &progress)?;
        progress.clear();
        if let Some(cpu) = self.cpus {
            pin_current_thread(cpu)?;
        }
        let report = with_back_end!(io, self.load(io, members)?);
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        } else {
            writeln!(out, "{report:#?}")?;
        }
        Ok(())
    }

    fn load<Io: StreamIo<Socket = OwnedFd>>(&self, io: Io, members: Vec<Member>) -> Result<Report, Box<dyn Error>> {
        let what = Flows {
            each: self.flows as usize,
            first: self.target,
            spread: self.targets,
            port: self.port,
            udp: self.udp,
        };
        let server = self.server_pid.map(Process::new);
        let rss = || server.as_ref().map(Process::rss_kib).transpose();
        let mut report = Report {
            mode: "nat",
            tls: members[0].tls(),
            members: members.len(),
            server_rss_kib_before: rss()?,
            ..Report::default()
        };
        let mut load = Load::new(io, members, what)?;
        self.boot(&mut load, &mut report, server.as_ref())?;
        if what.each > 0 {
            self.open_and_check(&mut load, &mut report, server.as_ref())?;
        }
        report.server_rss_kib = rss()?;
        report.connections_lost = load.lost();
        report.dropped_here = load.crowd.counts.dropped_here;
        report.corrupt = load.crowd.counts.broken;
        Ok(report)
    }

    fn boot<Io: StreamIo<Socket = OwnedFd>>(
        &self,
        load: &mut Load<Io>,
        report: &mut Report,
        server: Option<&Process>,
    ) -> Result<(), Box<dyn Error>> {
        let before = cpu(server)?;
        let began =
            load.boot(Duration::from_secs_f64(self.boot_seconds), Duration::from_secs_f64(self.patience_seconds))?;
        let crowd = &load.crowd;
        let milliseconds = |quantile| crowd.lease_us.value_at_quantile(quantile) as f64 / 1e3;
        (report.members_without_lease, report.leased_twice) = crowd.leases();
        let took = crowd.last_lease.since(began).as_secs_f64();
        report.all_leased_seconds = (report.members_without_lease == 0).then_some(took);
        report.members_without_router = report.members - crowd.counts.ready;
        (report.lease_ms_p50, report.lease_ms_p99) = (milliseconds(0.5), milliseconds(0.99));
        (report.dhcp_retries, report.dhcp_naks) = crowd.trouble();
        report.boot_server_cpu_ms_per_member = cpu_each(before, server, report.members as f64 / 1e3)?;
        Ok(())
    }

    fn open_and_check<Io: StreamIo<Socket = OwnedFd>>(
        &self,
        load: &mut Load<Io>,
        report: &mut Report,
        server: Option<&Process>,
    ) -> Result<(), Box<dyn Error>> {
        let (before, began) = (cpu(server)?, Instant::now());
        load.open(self.rate)?;
        let counts = &load.crowd.counts;
        report.flows = report.members * self.flows as usize;
        report.open = counts.open;
        report.refused = report.flows as u64 - counts.open;
        report.reset = counts.reset;
        report.unreachable = counts.unreachable.iter().map(|(code, count)| (*code, *count)).collect();
        report.open_per_second = counts.open as f64 / began.elapsed().as_secs_f64();
        report.open_server_cpu_us_per_flow = cpu_each(before, server, counts.open as f64 / 1e6)?;
        (report.ambiguous, report.external_addresses, report.external_endpoints) = load.crowd.traces();
        let before = cpu(server)?;
        load.check(self.rate)?;
        let counts = &load.crowd.counts;
        report.questions_again = counts.again;
        (report.alive, report.misdelivered, report.moved) = (counts.alive, counts.misdelivered, counts.moved);
        report.dead = report.open - report.alive;
        report.check_server_cpu_us_per_flow = cpu_each(before, server, counts.alive as f64 / 1e6)?;
        Ok(())
    }
}

fn cpu(server: Option<&Process>) -> Result<Option<f64>, Box<dyn Error>> {
    server.map(Process::cpu_seconds).transpose()
}

/// CPU time since `before`, divided.
fn cpu_each(before: Option<f64>, server: Option<&Process>, by: f64) -> Result<Option<f64>, Box<dyn Error>> {
    Ok(cpu(server)?.zip(before).map(|(after, before)| (after - before) / by))
}
