//! The threads of the generator, and a run over all of them from order to result.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::Args;
use hublane::sys::affinity::pin_current_thread;
use hublane::sys::clock::monotonic;
use hublane::tick::Tick;

use crate::driver::{Member, with_back_end};
use crate::inbox::Inbox;
use crate::plan::{Plan, Timetable};
use crate::process::Process;
use crate::progress::Progress;
use crate::shard::{Order, Part, Run, Shard, Told};

/// How a run is measured.
#[derive(Args, Clone)]
pub(crate) struct Measuring {
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 5, value_name = "S")]
    pub(crate) seconds: u64,
    /// How long the load runs before that, in milliseconds: TCP's windows open, the hub knows the addresses.
    #[arg(long, default_value_t = 500, value_name = "MS")]
    pub(crate) warm_up_ms: u64,
    /// Process of the server, on this machine: its CPU time, memory and threads are reported.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// CPUs of the generator: a thread pinned to each, such as 0 or 0,2,3; a CPU named twice has two. Members 0 and 1
    /// are on the first thread, 2 and 3 on the next one and so on. One thread, not pinned, if not given.
    #[arg(long, value_name = "CPU,..", value_delimiter = ',')]
    pub(crate) cpus: Vec<usize>,
    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Measuring {
    /// The server's process, if it was named.
    pub(crate) fn server(&self) -> Option<Process> {
        self.server_pid.map(Process::new)
    }

    /// Threads that this asks for.
    pub(crate) fn threads(&self) -> usize {
        self.cpus.len().max(1)
    }
}

/// Members, spread over threads.
pub(crate) struct Engine {
    orders: Vec<Sender<Order>>,
    told: Receiver<Told>,
    threads: Vec<JoinHandle<()>>,
    runs: u32,
}

/// What a run came to, all threads together.
pub(crate) struct Outcome {
    /// Time measured, in seconds.
    pub(crate) seconds: f64,
    /// The run.
    pub(crate) run: Arc<Run>,
    /// Of each thread.
    pub(crate) parts: Vec<Part>,
    /// CPU time of the server meanwhile, in nanoseconds.
    pub(crate) server_cpu_ns: Option<u64>,
    /// Its memory, in KiB, every second.
    pub(crate) server_rss_kib: Vec<u64>,
    /// Its threads at the end.
    pub(crate) server_threads: Option<u64>,
}

impl Engine {
    /// Starts the threads, gives them `members`, and waits until the hub knows all their addresses.
    pub(crate) fn start(measuring: &Measuring, members: Vec<Member>) -> Result<Self, Box<dyn Error>> {
        let mut cpus: Vec<_> = measuring.cpus.iter().copied().map(Some).collect();
        if cpus.is_empty() {
            cpus.push(None);
        }
        let heard: Arc<[AtomicBool]> = members.iter().map(|_| AtomicBool::new(false)).collect();
        let mut shares: Vec<Vec<Member>> = cpus.iter().map(|_| Vec::new()).collect();
        for member in members {
            shares[member.number / 2 % cpus.len()].push(member);
        }
        let (tell, told) = mpsc::channel();
        let mut engine = Self { orders: Vec::new(), told, threads: Vec::new(), runs: 0 };
        for (cpu, members) in cpus.into_iter().zip(shares) {
            let (order, orders) = mpsc::channel();
            let (tell, inbox) = (tell.clone(), Inbox::new(Arc::clone(&heard)));
            engine.orders.push(order);
            engine.threads.push(thread::Builder::new().name("load".into()).spawn(move || {
                let told = tell.clone();
                let served = catch_unwind(AssertUnwindSafe(|| serve(cpu, members, inbox, orders, told)));
                let failed =
                    served.unwrap_or_else(|_| Err(std::io::Error::other("a thread of the generator panicked")));
                if let Err(error) = failed {
                    // Nobody listens if the program is ending.
                    let _ = tell.send(Told::Failed(error));
                }
            })?);
        }
        engine.greet(&heard)?;
        Ok(engine)
    }

    /// Each member sends a frame to member 0, who must have got them all before any load begins. Servers drop some when
    /// thousands come at once, so those that were not heard greet again.
    fn greet(&mut self, heard: &[AtomicBool]) -> Result<(), Box<dyn Error>> {
        self.order(0, Order::Hello(vec![0]))?;
        self.rest(Duration::from_millis(50))?;
        let missing = || (1..heard.len()).filter(|number| !heard[*number].load(Relaxed)).collect::<Vec<_>>();
        let end = monotonic() + GREETING;
        while monotonic() < end {
            let unheard = missing();
            for thread in 0..self.orders.len() {
                let here = unheard.iter().copied().filter(|number| number / 2 % self.orders.len() == thread).collect();
                self.order(thread, Order::Hello(here))?;
            }
            let again = monotonic() + GREET_AGAIN;
            while monotonic() < again {
                if missing().is_empty() {
                    return Ok(());
                }
                self.rest(Duration::from_millis(2))?;
            }
        }
        let unheard = missing().len();
        Err(format!("{unheard} of {} members cannot reach the first one through the hub", heard.len() - 1).into())
    }

    /// Where visitors of a run are handed in, by thread.
    pub(crate) fn doors(&self) -> Vec<Sender<Order>> {
        self.orders.clone()
    }

    /// Carries out `plan` for `seconds` after `warm_up`.
    pub(crate) fn run(
        &mut self,
        plan: Plan,
        table: Option<Timetable>,
        warm_up: Duration,
        seconds: Duration,
        watch: &Watch,
    ) -> Result<Outcome, Box<dyn Error>> {
        if plan.flows.len() > Run::FLOWS_MAX {
            return Err(
                format!("{} flows are more than the {} a run can have", plan.flows.len(), Run::FLOWS_MAX).into()
            );
        }
        let start = monotonic() + BEFORE_START;
        let from = start + warm_up;
        self.runs += 1;
        let arrived = plan.flows.iter().map(|_| AtomicU64::new(0)).collect();
        let run = Arc::new(Run {
            number: self.runs,
            plan,
            table,
            start,
            from,
            to: from + seconds,
            arrived,
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        for thread in 0..self.orders.len() {
            self.order(thread, Order::Run(Arc::clone(&run)))?;
        }
        sleep_until(from);
        let (began, cpu) = (monotonic(), watch.cpu_ns()?);
        let server_rss_kib = watch.until_end(&run)?;
        let server_cpu_ns = watch.cpu_ns()?.zip(cpu).map(|(after, before)| after - before);
        let seconds = monotonic().since(began).as_secs_f64();
        let server_threads = watch.server.as_ref().map(Process::threads).transpose()?;
        watch.progress.clear();
        let mut parts = Vec::new();
        for _ in 0..self.orders.len() {
            match self.told.recv()? {
                Told::Done(part) => parts.push(*part),
                Told::Failed(error) => return Err(error.into()),
            }
        }
        Ok(Outcome { seconds, run, parts, server_cpu_ns, server_rss_kib, server_threads })
    }

    /// Lets time pass, unless a thread fails.
    pub(crate) fn rest(&self, span: Duration) -> Result<(), Box<dyn Error>> {
        match self.told.recv_timeout(span) {
            Ok(Told::Failed(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn order(&self, thread: usize, order: Order) -> Result<(), Box<dyn Error>> {
        let failed = |_| -> Box<dyn Error> {
            match self.told.try_recv() {
                Ok(Told::Failed(error)) => error.into(),
                _ => "a thread of the generator has ended".into(),
            }
        };
        self.orders[thread].send(order).map_err(failed)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for order in &self.orders {
            // A thread that has failed has gone already.
            let _ = order.send(Order::Stop);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(
    cpu: Option<usize>,
    members: Vec<Member>,
    inbox: Inbox,
    orders: Receiver<Order>,
    told: Sender<Told>,
) -> std::io::Result<()> {
    if let Some(cpu) = cpu {
        pin_current_thread(cpu)?;
    }
    with_back_end!(io, {
        Shard::new(io, members, inbox, orders, told, cpu.is_some())?.serve();
        Ok(())
    })
}

/// What is looked at while a run goes on.
pub(crate) struct Watch {
    /// The server.
    pub(crate) server: Option<Process>,
    /// The terminal.
    pub(crate) progress: Progress,
    /// What is being done, for the terminal and the report.
    pub(crate) mode: &'static str,
}

impl Watch {
    fn cpu_ns(&self) -> Result<Option<u64>, Box<dyn Error>> {
        self.server.as_ref().map(Process::cpu_ns).transpose()
    }

    /// Waits for the end of the measurement; the server's memory, every second.
    fn until_end(&self, run: &Run) -> Result<Vec<u64>, Box<dyn Error>> {
        let mut memory = Vec::new();
        let mut next = run.from;
        let (mut frames, mut bytes) = (run.frames.load(Relaxed), run.bytes.load(Relaxed));
        while next < run.to {
            memory.extend(self.server.as_ref().map(Process::rss_kib).transpose()?);
            next = run.to.min(next + Duration::from_secs(1));
            sleep_until(next);
            let (frames_now, bytes_now) = (run.frames.load(Relaxed), run.bytes.load(Relaxed));
            let done = next.since(run.from).as_secs();
            let all = run.to.since(run.from).as_secs();
            let (new, mbit) = (frames_now - frames, (bytes_now - bytes) as f64 * 8e-6);
            self.progress.line(&format!("{}: {done} of {all} s, {new} frames/s, {mbit:.0} Mbit/s", self.mode));
            (frames, bytes) = (frames_now, bytes_now);
        }
        memory.extend(self.server.as_ref().map(Process::rss_kib).transpose()?);
        Ok(memory)
    }
}

fn sleep_until(tick: Tick) {
    thread::sleep(tick.since(monotonic()));
}

/// Time for the threads to get ready for a run.
const BEFORE_START: Duration = Duration::from_millis(50);

/// Longest time until the hub knows all members.
const GREETING: Duration = Duration::from_secs(20);

/// Time for a hello to arrive, also where thousands come at once.
const GREET_AGAIN: Duration = Duration::from_secs(3);
