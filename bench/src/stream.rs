//! Mode `stream`: source and sink of a TLS pipe, ours (`limit relay`) or another one.
//!
//! Connects to the pipe, and is connected to by it, as often as told; which belongs to which is told by the first
//! bytes of each stream. Then numbered units go in at one end and are checked at the other.
//!
//! Closed loop: a bounded number of bytes of each stream is on its way, which this process knows at both ends. Open
//! loop: units leave at even distances whatever comes of them, and carry the moment they were due, so that what had
//! to wait here counts as latency.
//!
//! 1. connections, until every stream has two ends (`stream_pairs.rs`)
//! 2. a thread for each CPU, which drives its share of the streams (`stream_drive.rs`)
//! 3. all count from the same moment to the same moment; the first one asks for the server's CPU time when it reads
//!    its own counters, so that both belong together

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use hublane::sys::affinity::{CpuList, pin_current_thread};
use hublane::sys::clock::monotonic;
use hublane::sys::limits::{exact_timers, raise_open_files};
use hublane::tls::keys::Suite;
use hublane::tls::record::PLAINTEXT_BYTES_MAX;
use serde::Serialize;

use crate::driver::with_back_end;
use crate::process::Process;
use crate::stream_drive::{Counted, Drive, Plan};
use crate::stream_pairs::{Ends, Pairing};
use crate::tls_choice::{TlsChoice, describe};

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Stream {
    /// Where the pipe accepts connections.
    #[arg(long, value_name = "ADDR:PORT")]
    via: SocketAddr,
    /// Where the pipe connects to, which is here.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Streams.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Plaintext of a record in bytes.
    #[arg(long, default_value_t = 16_384, value_name = "R", value_parser = clap::value_parser!(u16).range(64..=16_384))]
    record_bytes: u16,
    /// Closed loop: bytes of each stream on their way, 32 MiB at most.
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(64..=32 << 20))]
    window: u64,
    /// Open loop: records a second over all streams.
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    rate: Option<u64>,
    #[command(flatten)]
    tls: TlsChoice,
    /// CPUs of the generator, a thread each; else one thread that runs where the kernel puts it.
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,
    /// Process of the pipe, on this machine, to count its CPU time.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 5, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How long to send before that, in milliseconds.
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    warm_up_ms: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it; a frame is a record's worth of plaintext.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    members: Option<u64>,
    connections: u16,
    pattern: &'static str,
    frame: String,
    record_bytes: u16,
    window: Option<u64>,
    rate: Option<u64>,
    burst: Option<u64>,
    seconds: f64,
    tls: String,
    sent: u64,
    frames: u64,
    bytes: u64,
    frames_per_second: f64,
    mbit_per_second: f64,
    /// A stream that is wrong anywhere shows as corrupt.
    lost: Option<u64>,
    duplicate: Option<u64>,
    reordered: Option<u64>,
    corrupt: u64,
    stray: Option<u64>,
    /// Open loop: units that were not sent since too much was waiting.
    dropped_here: u64,
    connections_lost: u64,
    server_cpu_seconds: Option<f64>,
    server_cpu_s_per_gb: Option<f64>,
    server_cpu_us_per_frame: Option<f64>,
    server_cores: Option<f64>,
    server_rss_kib: Option<u64>,
    server_threads: Option<u64>,
    generator_busy: f64,
    generator_late_us: Option<f64>,
    frames_per_record: Option<f64>,
    latency_us: Option<Latency>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
    count: u64,
}

impl Stream {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        if self.rate.is_none() && self.window < u64::from(self.record_bytes) {
            return Err("the window must hold a record".into());
        }
        raise_open_files()?;
        let pairing = Pairing {
            via: self.via,
            listen: self.listen,
            count: self.connections.into(),
            tls: self.tls,
            plain_max: usize::from(self.record_bytes).min(PLAINTEXT_BYTES_MAX),
        };
        let ends = pairing.connect()?;
        let tls = tls_of(&ends);
        let report = self.measure(ends, tls)?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print_table(&report);
        }
        Ok(())
    }

    fn measure(&self, ends: Vec<Ends>, tls: String) -> Result<Report, Box<dyn Error>> {
        let cpus: Vec<Option<usize>> = match &self.cpus {
            Some(list) => list.numbers().iter().copied().map(Some).collect(),
            None => vec![None],
        };
        let threads = cpus.len().min(ends.len());
        let mut shares: Vec<Vec<Ends>> = (0..threads).map(|_| Vec::new()).collect();
        for (number, ends) in ends.into_iter().enumerate() {
            shares[number % threads].push(ends);
        }
        let start = monotonic() + Duration::from_millis(50);
        let from = start + Duration::from_millis(self.warm_up_ms);
        let until = from + Duration::from_secs(self.seconds);
        let counted: Result<Vec<Counted>, String> = std::thread::scope(|scope| {
            let running: Vec<_> = shares
                .into_iter()
                .zip(&cpus)
                .enumerate()
                .map(|(thread, (share, cpu))| {
                    let plan = Plan {
                        unit_bytes: self.record_bytes.into(),
                        window: self.window,
                        rate: self.rate,
                        thread: thread as u64,
                        threads: threads as u64,
                        start,
                        from,
                        until,
                        server_pid: self.server_pid.filter(|_| thread == 0),
                    };
                    scope.spawn(move || drive(share, plan, *cpu).map_err(|error| error.to_string()))
                })
                .collect();
            running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread broke".into()))).collect()
        });
        self.report(&counted?, tls)
    }

    fn report(&self, counted: &[Counted], tls: String) -> Result<Report, Box<dyn Error>> {
        let sum = |of: fn(&Counted) -> u64| counted.iter().map(of).sum::<u64>();
        let frames = sum(|counted| counted.units);
        let bytes = frames * u64::from(self.record_bytes);
        let seconds = counted.iter().map(|counted| counted.seconds).sum::<f64>() / counted.len() as f64;
        let (mut latency, mut late) = (histogram(), histogram());
        for counted in counted {
            // All have the same bounds.
            latency += &counted.latency;
            late += &counted.late;
        }
        let us = |ns: u64| ns as f64 / 1e3;
        let open_loop = self.rate.is_some();
        let process = self.server_pid.map(Process::new);
        let cpu = counted.iter().find_map(|counted| Some((counted.server_ns? as f64 / 1e9, counted.seconds)));
        let (cpu, cores) = (cpu.map(|(cpu, _)| cpu), cpu.map(|(cpu, seconds)| cpu / seconds));
        Ok(Report {
            mode: "stream",
            members: None,
            connections: self.connections,
            pattern: "stream",
            frame: self.record_bytes.to_string(),
            record_bytes: self.record_bytes,
            window: (!open_loop).then_some(self.window),
            rate: self.rate,
            burst: open_loop.then_some(1),
            seconds,
            tls,
            sent: sum(|counted| counted.sent),
            frames,
            bytes,
            frames_per_second: frames as f64 / seconds,
            mbit_per_second: bytes as f64 * 8.0 / 1e6 / seconds,
            lost: None,
            duplicate: None,
            reordered: None,
            corrupt: sum(|counted| counted.corrupt),
            stray: None,
            dropped_here: sum(|counted| counted.dropped_here),
            connections_lost: sum(|counted| counted.connections_lost),
            server_cpu_seconds: cpu,
            server_cpu_s_per_gb: cpu.map(|cpu| cpu / (bytes as f64 / 1e9)),
            server_cpu_us_per_frame: cpu.map(|cpu| cpu / frames as f64 * 1e6),
            server_cores: cores,
            server_rss_kib: process.as_ref().map(Process::rss_kib).transpose()?,
            server_threads: process.as_ref().map(Process::threads).transpose()?,
            generator_busy: counted.iter().map(|counted| counted.busy).fold(0.0, f64::max),
            generator_late_us: open_loop.then(|| us(late.value_at_quantile(0.99))),
            frames_per_record: None,
            latency_us: open_loop.then(|| Latency {
                p50: us(latency.value_at_quantile(0.5)),
                p90: us(latency.value_at_quantile(0.9)),
                p99: us(latency.value_at_quantile(0.99)),
                p999: us(latency.value_at_quantile(0.999)),
                max: us(latency.max()),
                count: latency.len(),
            }),
        })
    }
}

fn drive(share: Vec<Ends>, plan: Plan, cpu: Option<usize>) -> Result<Counted, Box<dyn Error>> {
    exact_timers()?;
    if let Some(cpu) = cpu {
        pin_current_thread(cpu)?;
    }
    with_back_end!(io, drive_over(io, share, plan))
}

fn drive_over<Io>(io: Io, share: Vec<Ends>, plan: Plan) -> Result<Counted, Box<dyn Error>>
where
    Io: hublane::worker::io::StreamIo<Socket = OwnedFd>,
{
    Ok(Drive::new(io, share, plan)?.run().map_err(|error: io::Error| error.to_string())?)
}

/// In nanoseconds, to a thousandth, up to a minute; what takes longer counts as a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds and precision are in range")
}

/// The suites at both sides of the pipe, which may differ.
fn tls_of(ends: &[Ends]) -> String {
    let of = |suite: fn(&Ends) -> Suite| ends.first().map(|ends| describe(suite(ends))).unwrap_or_default();
    let (source, sink) = (of(|ends| ends.source.layer.suite()), of(|ends| ends.sink.layer.suite()));
    if source == sink { source } else { format!("{source} / {sink}") }
}

fn print_table(report: &Report) {
    let optional =
        |value: Option<f64>, digits: usize| value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"));
    println!(
        "{} streams, records of {} bytes, {}, {:.1} s",
        report.connections, report.record_bytes, report.tls, report.seconds
    );
    println!("  records/s            {:>12.0}", report.frames_per_second);
    println!("  Mbit/s               {:>12.0}", report.mbit_per_second);
    println!("  corrupt              {:>12}", report.corrupt);
    println!("  connections lost     {:>12}", report.connections_lost);
    println!("  server CPU, s/GB     {:>12}", optional(report.server_cpu_s_per_gb, 3));
    println!("  server CPU, us/rec.  {:>12}", optional(report.server_cpu_us_per_frame, 3));
    println!("  server CPU, cores    {:>12}", optional(report.server_cores, 2));
    println!("  generator busy       {:>12.2}", report.generator_busy);
    if let Some(latency) = &report.latency_us {
        println!("  not sent             {:>12}", report.dropped_here);
        println!("  left late, p99, us   {:>12}", optional(report.generator_late_us, 1));
        println!("  latency p50, us      {:>12.1}", latency.p50);
        println!("  latency p99, us      {:>12.1}", latency.p99);
        println!("  latency p99.9, us    {:>12.1}", latency.p999);
    }
    if report.generator_busy > 0.9 {
        println!("  The generator was at its limit: the server may be able to do more.");
    }
}
