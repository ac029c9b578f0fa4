//! Mode `link`: an emulated link between two devices, for kernels without netem.
//!
//! The devices are the near ends of two veth pairs, whose far ends belong to those who talk over the link; their offloads
//! must be off (`ip link set DEVICE gso_max_segs 1`), since a wire carries no super-packets. What comes in by one device
//! goes out by the other when and if [`way`] says so. One thread, which wakes for what comes and for what is due, and
//! takes as much as there is each time.
//!
//! Prints a line when it carries, and JSON with what became of the frames when it ends.

mod way;

use std::error::Error;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use clap::Args;
use hublane::sys::bpf::{Base, Program};
use hublane::sys::clock::{monotonic, process_cpu_ns};
use hublane::sys::netdev::Devices;
use hublane::sys::packet::{Options, PacketSocket};
use hublane::sys::signals;
use hublane::sys::vnet::{Segments, VnetHeader};
use hublane::tick::Tick;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl::set_timerslack;
use nix::sys::time::TimeSpec;
use serde::Serialize;

use way::{Counts, Shape, Way};

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Link {
    /// The two devices.
    #[arg(num_args = 2, required = true, value_name = "DEVICE")]
    devices: Vec<String>,
    /// Delay one way, in microseconds.
    #[arg(long, default_value_t = 0, value_name = "US")]
    delay_us: u32,
    /// Rate each way in kbit/s, of bytes on the wire: 24 more a frame than its own. Without it there is no limit.
    #[arg(long, default_value_t = 0, value_name = "KBIT")]
    rate_kbit: u32,
    /// Bytes that may wait for their turn; a frame that finds no room is dropped.
    #[arg(long, default_value_t = 250_000, value_name = "BYTES")]
    queue_bytes: u32,
    /// Frames lost, in a million, each way.
    #[arg(long, default_value_t = 0, value_name = "PPM", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    loss_ppm: u32,
    /// Which ones: the same seed loses the same ones, counted from the first frame of this run.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Nothing passes from one time to another, in seconds since it began: `5s..20s`.
    #[arg(long, value_name = "FROM..TO", value_parser = span_of, default_value = "0s..0s")]
    dead: Range<u64>,
    /// How long; else until a signal.
    #[arg(long, value_name = "S")]
    seconds: Option<u32>,
}

/// What a run came to; the first direction is from the first device to the second.
#[derive(Serialize)]
struct Report {
    mode: &'static str,
    seconds: f64,
    cpu_seconds: f64,
    ways: [Counts; 2],
}

impl Link {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let [a, b] = self.devices.as_slice() else { return Err("two devices are needed".into()) };
        let ends = [open(a)?, open(b)?];
        let shape = Shape {
            delay_ns: u64::from(self.delay_us) * 1_000,
            rate_kbit: self.rate_kbit.into(),
            queue_bytes: self.queue_bytes.into(),
            loss_ppm: self.loss_ppm,
            seed: self.seed,
            dead_ns: self.dead.clone(),
        };
        let bell = signals::catch()?;
        // A wake that comes 50 us late, as by default, makes the link jitter by half a frame at 100 Mbit/s.
        set_timerslack(1_000)?;
        let end_ns = self.seconds.map_or(u64::MAX, |seconds| u64::from(seconds) * 1_000_000_000);
        let mut relay = Relay { ends, ways: [Way::new(shape.clone(), 0), Way::new(shape, 1)], begun: monotonic() };
        println!("link between {a} and {b}");
        io::stdout().flush()?;
        while relay.now_ns() < end_ns && relay.turn(&bell, end_ns)? {}
        println!("{}", serde_json::to_string(&relay.report()?)?);
        Ok(())
    }
}

/// A frame on its way.
struct Frame {
    header: VnetHeader,
    bytes: Box<[u8]>,
}

struct Relay {
    ends: [PacketSocket; 2],
    /// From the end of the same index to the other one.
    ways: [Way<Frame>; 2],
    begun: Tick,
}

impl Relay {
    fn now_ns(&self) -> u64 {
        u64::try_from(monotonic().since(self.begun).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Takes what came, hands on what is due, and sleeps until there is more; false at a signal.
    fn turn(&mut self, bell: &OwnedFd, end_ns: u64) -> io::Result<bool> {
        let mut more = false;
        for (end, way) in self.ends.iter_mut().zip(&mut self.ways) {
            let got = take(end, way, self.begun)?;
            more |= got == BATCH;
        }
        let now_ns = self.now_ns();
        let [a, b] = &mut self.ends;
        for (end, way) in [b, a].into_iter().zip(&mut self.ways) {
            deliver(end, way, now_ns);
        }
        let next_ns = self.ways.iter().filter_map(Way::next_ns).min().unwrap_or(u64::MAX).min(end_ns);
        let sleep_ns = if more { 0 } else { next_ns.saturating_sub(self.now_ns()) };
        // Bounded, since the kernel takes no time of centuries.
        let sleep = TimeSpec::from(Duration::from_nanos(sleep_ns.min(SLEEP_NS_MAX)));
        let [a, b] = &self.ends;
        let mut fds = [a.as_fd(), b.as_fd(), bell.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match ppoll(&mut fds, Some(sleep), None) {
            Ok(_) => Ok(fds[2].any() != Some(true)),
            Err(nix::errno::Errno::EINTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn report(&self) -> Result<Report, Box<dyn Error>> {
        let mut ways = [self.ways[0].counts, self.ways[1].counts];
        for (way, end) in ways.iter_mut().zip(&self.ends) {
            way.unread = end.overflowed();
        }
        Ok(Report {
            mode: "link",
            seconds: self.now_ns() as f64 / 1e9,
            cpu_seconds: process_cpu_ns(std::process::id())? as f64 / 1e9,
            ways,
        })
    }
}

/// A socket that gets all frames of the device and nothing that this program sends there.
fn open(device: &str) -> Result<PacketSocket, Box<dyn Error>> {
    let found = Devices::new()?.find(device).map_err(|error| format!("{device}: {error}"))?;
    let options = Options { receive_bytes: 8 << 20, send_bytes: 8 << 20, frames: BATCH, qdisc_bypass: true };
    let socket = PacketSocket::open(found.index, options).map_err(|error| format!("{device}: {error}"))?;
    let mut everything = Program::default();
    everything.ret(u32::MAX);
    socket.set_filter(&everything.classic(Base::Ethernet)?)?;
    Ok(socket)
}

/// What waits at `end` enters `way`; how many frames that were, at most [`BATCH`].
fn take(end: &mut PacketSocket, way: &mut Way<Frame>, begun: Tick) -> io::Result<usize> {
    let got = match end.receive(BATCH) {
        Ok((got, _)) => got,
        // Told once when the device is switched off; it may be switched on again.
        Err(error) if error.kind() == io::ErrorKind::NetworkDown => 0,
        Err(error) => return Err(error),
    };
    let now_ns = u64::try_from(monotonic().since(begun).as_nanos()).unwrap_or(u64::MAX);
    for number in 0..got {
        match end.frame(number) {
            Some((header, bytes)) if header.segments == Segments::None => {
                way.offer(now_ns, bytes.len(), || Frame { header, bytes: (&*bytes).into() });
            }
            // A super-packet, or one that was cut off.
            _ => way.offer(now_ns, usize::MAX, || Frame { header: VnetHeader::default(), bytes: Box::default() }),
        }
    }
    Ok(got)
}

/// What has arrived by now goes out at `end`.
fn deliver(end: &mut PacketSocket, way: &mut Way<Frame>, now_ns: u64) {
    loop {
        let mut arrived = way.arrived(now_ns);
        let (sent, error) = end.send(|| arrived.next().map(|frame| (frame.header, std::iter::once(&*frame.bytes))));
        drop(arrived);
        way.forget(sent);
        match error {
            // The first one is not taken.
            Some(_) => {
                way.counts.refused += 1;
                way.forget(1);
            }
            None if sent == 0 => return,
            None => {}
        }
    }
}

/// `5s..20s` or `5..20` in nanoseconds.
fn span_of(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("\"{text}\" is no span of time such as 5s..20s");
    let time = |word: &str| {
        let seconds: f64 = word.trim_end_matches('s').parse().map_err(|_| wrong())?;
        let time = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
        u64::try_from(time.as_nanos()).map_err(|_| wrong())
    };
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let span = time(from)?..time(to)?;
    if span.start <= span.end { Ok(span) } else { Err(wrong()) }
}

/// Frames of one system call.
const BATCH: usize = 64;
const SLEEP_NS_MAX: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        assert_eq!(span_of("5s..20s"), Ok(5_000_000_000..20_000_000_000));
        assert_eq!(span_of("0.5..2"), Ok(500_000_000..2_000_000_000));
        for wrong in ["", "5s", "5s..", "x..2", "-1..2", "3s..2s", "1..1e40"] {
            assert!(span_of(wrong).is_err(), "{wrong}");
        }
    }
}
