//! Mode `limit sleep`: what it costs a worker to fall asleep and be woken, which bounds every server that sleeps between
//! frames, whoever wrote it.
//!
//! A pinned thread sleeps in the back end of our workers, without sockets. Another one, on another CPU, stays awake and
//! rings it at even distances. What the sleeper has used, by wake, is the cost.

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use clap::Args;
use hublane::sys::affinity::pin_current_thread;
use hublane::sys::clock::{monotonic, thread_cpu_ns};
use hublane::sys::epoll::{EpollConfig, EpollIo};
use hublane::sys::features::{FeatureMask, KernelFeatures};
use hublane::sys::uring::{UringConfig, UringIo};
use hublane::sys::waker::Waker;
use hublane::worker::io::{Completion, StreamIo, Wait};
use serde::Serialize;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct LimitSleep {
    /// CPU of the sleeper.
    #[arg(long, default_value_t = 1, value_name = "CPU")]
    cpu: usize,
    /// CPU of the thread that wakes it.
    #[arg(long, default_value_t = 0, value_name = "CPU")]
    waker_cpu: usize,
    /// Wakes a second; several rates are run one after the other.
    #[arg(long, value_name = "RATE,..", value_delimiter = ',', default_value = "1000,5000,20000",
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Vec<u32>,
    /// How long each is measured, in seconds.
    #[arg(long, default_value_t = 2, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// As if the kernel were of this version.
    #[arg(long, default_value = "all", value_name = "VERSION")]
    kernel_features: FeatureMask,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What came of a rate.
#[derive(Serialize)]
struct Step {
    rate: u32,
    wakes: u64,
    cpu_us_per_wake: f64,
}

impl LimitSleep {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        if self.cpu == self.waker_cpu {
            return Err("sleeper and waker need a CPU each".into());
        }
        let steps = self.rate.iter().map(|rate| self.step(*rate)).collect::<Result<Vec<_>, _>>()?;
        if self.json {
            println!("{}", serde_json::json!({ "mode": "limit sleep", "steps": steps }));
            return Ok(());
        }
        println!("{:>12} {:>12} {:>18}", "wakes/s", "wakes", "CPU, us a wake");
        for Step { rate, wakes, cpu_us_per_wake } in steps {
            println!("{rate:>12} {wakes:>12} {cpu_us_per_wake:>18.2}");
        }
        Ok(())
    }

    fn step(&self, rate: u32) -> io::Result<Step> {
        let waker = Waker::new()?;
        let stop = Arc::new(AtomicBool::new(false));
        let sleeper = {
            let (waker, stop, cpu, features) = (waker.clone(), Arc::clone(&stop), self.cpu, self.kernel_features);
            thread::spawn(move || -> io::Result<(u64, u64)> {
                pin_current_thread(cpu)?;
                match KernelFeatures::probe(features).uring {
                    Ok(uring) => sleep(UringIo::new(&UringConfig::default(), &uring, waker)?, &stop),
                    Err(_) => sleep(EpollIo::new(&EpollConfig::default(), waker)?, &stop),
                }
            })
        };
        pin_current_thread(self.waker_cpu)?;
        let gap = Duration::from_secs(1) / rate;
        let (mut next, end) = (monotonic(), monotonic() + Duration::from_secs(self.seconds));
        while next < end {
            while monotonic() < next {
                std::hint::spin_loop();
            }
            waker.wake();
            next = next + gap;
        }
        stop.store(true, Relaxed);
        waker.wake();
        let (wakes, cpu_ns) = sleeper.join().map_err(|_| io::Error::other("the sleeper panicked"))??;
        Ok(Step { rate, wakes, cpu_us_per_wake: cpu_ns as f64 / 1e3 / wakes.max(1) as f64 })
    }
}

/// Sleeps and wakes until told to stop; how often, and the CPU time it took.
fn sleep(mut io: impl StreamIo<Socket = OwnedFd>, stop: &AtomicBool) -> io::Result<(u64, u64)> {
    let (mut wakes, mut before) = (0, thread_cpu_ns());
    while !stop.load(Relaxed) {
        io.turn(Wait::For(Duration::from_secs(1)))?;
        while let Some(completion) = io.next() {
            if let Completion::Woken = completion {
                wakes += 1;
                if wakes == 1 {
                    // What came before was its start.
                    before = thread_cpu_ns();
                }
            }
        }
    }
    Ok((wakes, thread_cpu_ns() - before))
}
