//! Mode `throughput`: pairs of members, one sends to the other as fast as the way takes it.
//!
//! Closed loop: of each flow a bounded number of frames is on its way, fewer than a server queues for a member,
//! so that nothing need be lost; what is lost all the same shows. One thread drives all members; how busy it
//! was is part of the result, since a busy generator measures itself.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::time::Duration;

use clap::Args;
use hublane::sys::clock::thread_cpu_ns;
use hublane::worker::io::{StreamIo, Wait};
use serde::Serialize;

use crate::driver::{Driver, Member, Pushing, with_back_end};
use crate::login::Login;
use crate::process::Process;
use crate::traffic;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Throughput {
    #[command(flatten)]
    login: Login,
    /// Pairs of members: the even ones send, the odd ones receive.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pairs: u16,
    /// Length of the frames in bytes, 60 to 1514.
    #[arg(long, default_value_t = 1400, value_parser = clap::value_parser!(u16).range(60..=1514))]
    frame_bytes: u16,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 5, value_name = "S")]
    seconds: u64,
    /// Process of the server, on this machine, to count its CPU time.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    pairs: u16,
    frame_bytes: u16,
    seconds: f64,
    frames_per_second: f64,
    mbit_per_second: f64,
    lost: u64,
    duplicate: u64,
    reordered: u64,
    corrupt: u64,
    connections_lost: u64,
    server_cpu_seconds: Option<f64>,
    server_cpu_seconds_per_gb: Option<f64>,
    server_cpu_us_per_frame: Option<f64>,
    /// CPU time of the generator's thread by elapsed time; near 1 the generator is the limit.
    generator_busy: f64,
}

impl Throughput {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let members = self.login.log_in(usize::from(self.pairs) * 2)?;
        let report: Report = with_back_end!(io, self.measure(io, members))?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print_table(&report);
        }
        Ok(())
    }

    fn measure<Io: StreamIo<Socket = OwnedFd>>(&self, io: Io, members: Vec<Member>) -> Result<Report, Box<dyn Error>> {
        let count = members.len();
        let mut driver = Driver::new(io, members)?;
        let mut next = vec![0; count];
        let mut frame = vec![0; usize::from(self.frame_bytes)];
        // The hub learns where everybody is, senders get up to speed.
        for (member, next) in next.iter_mut().enumerate() {
            traffic::stamp(&mut frame, member, member ^ 1, 0, driver.now());
            driver.push(member, &frame, driver.now())?;
            *next = 1;
        }
        self.load(&mut driver, &mut next, &mut frame, WARM_UP)?;
        let process = self.server_pid.map(Process::new);
        let server_before = process.as_ref().map(Process::cpu_seconds).transpose()?;
        let (before, own_before, start) = (driver.seen(), thread_cpu_ns(), driver.now());
        self.load(&mut driver, &mut next, &mut frame, Duration::from_secs(self.seconds))?;
        let (after, own, end) = (driver.seen(), thread_cpu_ns() - own_before, driver.now());
        let server_after = process.as_ref().map(Process::cpu_seconds).transpose()?;
        let seconds = end.since(start).as_secs_f64();
        let (frames, bytes) = ((after.frames - before.frames) as f64, (after.bytes - before.bytes) as f64);
        let cpu = server_after.zip(server_before).map(|(after, before)| after - before);
        Ok(Report {
            pairs: self.pairs,
            frame_bytes: self.frame_bytes,
            seconds,
            frames_per_second: frames / seconds,
            mbit_per_second: bytes * 8.0 / 1e6 / seconds,
            lost: after.lost - before.lost,
            duplicate: after.duplicate - before.duplicate,
            reordered: after.reordered - before.reordered,
            corrupt: after.corrupt - before.corrupt,
            connections_lost: driver.lost(),
            server_cpu_seconds: cpu,
            server_cpu_seconds_per_gb: cpu.map(|cpu| cpu / (bytes / 1e9)),
            server_cpu_us_per_frame: cpu.map(|cpu| cpu / frames * 1e6),
            generator_busy: own as f64 / 1e9 / seconds,
        })
    }

    fn load<Io: StreamIo<Socket = OwnedFd>>(
        &self,
        driver: &mut Driver<Io>,
        next: &mut [u64],
        frame: &mut [u8],
        span: Duration,
    ) -> Result<(), Box<dyn Error>> {
        let end = driver.now() + span;
        // Where each flow stood when it last moved, and when that was.
        let mut moved = vec![(0, driver.now()); next.len()];
        while driver.now() < end {
            let now = driver.now();
            for sender in (0..next.len()).step_by(2) {
                let arrived = driver.arrived(sender);
                if moved[sender].0 != arrived {
                    moved[sender] = (arrived, now);
                }
                // The last frames of a window may be lost; then nothing would ever move again.
                let stuck = now.since(moved[sender].1) > STUCK;
                let until = if stuck { next[sender] + 1 } else { arrived + WINDOW_FRAMES };
                while next[sender] < until {
                    traffic::stamp(frame, sender, sender + 1, next[sender], now);
                    if driver.gather(sender, frame, now) == Pushing::Dropped {
                        break;
                    }
                    next[sender] += 1;
                }
                driver.send(sender, now);
            }
            driver.turn(Wait::For(Duration::from_millis(1)))?;
        }
        Ok(())
    }
}

fn print_table(report: &Report) {
    let optional =
        |value: Option<f64>, digits: usize| value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"));
    println!("{} pairs, frames of {} bytes, {:.1} s", report.pairs, report.frame_bytes, report.seconds);
    println!("  frames/s             {:>12.0}", report.frames_per_second);
    println!("  Mbit/s               {:>12.0}", report.mbit_per_second);
    println!("  lost                 {:>12}", report.lost);
    println!("  duplicate            {:>12}", report.duplicate);
    println!("  reordered            {:>12}", report.reordered);
    println!("  corrupt              {:>12}", report.corrupt);
    println!("  server CPU, s/GB     {:>12}", optional(report.server_cpu_seconds_per_gb, 3));
    println!("  server CPU, us/frame {:>12}", optional(report.server_cpu_us_per_frame, 3));
    println!("  generator busy       {:>12.2}", report.generator_busy);
    if report.generator_busy > 0.9 {
        println!("  The generator was at its limit: the server may be able to do more.");
    }
}

/// Before measuring: TCP's windows open, the hub knows the addresses.
const WARM_UP: Duration = Duration::from_millis(500);

/// Frames of a flow on their way: less than the 1024 that stock servers and ours queue for a member.
const WINDOW_FRAMES: u64 = 768;

/// Silence after which a sender tries one more frame.
const STUCK: Duration = Duration::from_millis(200);
