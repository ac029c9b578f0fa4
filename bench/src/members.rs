//! Mode `members`: how a server bears many who mostly stay quiet.

use std::error::Error;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use clap::Args;
use hublane::tick::Tick;
use hublane::worker::io::{StreamIo, Wait};
use serde::Serialize;

use crate::driver::{Driver, Member, Pushing, with_back_end};
use crate::login::Login;
use crate::traffic;

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Members {
    #[command(flatten)]
    login: Login,
    /// How many members.
    #[arg(long, default_value_t = 100, value_name = "N")]
    count: usize,
    /// How long they stay after the last has logged in, in seconds.
    #[arg(long, default_value_t = 10, value_name = "S")]
    seconds: u64,
    /// Frames a second in all: each goes from one member to the next one. 0 = silence.
    #[arg(long, default_value_t = 0, value_name = "R")]
    chatter_pps: u64,
    /// Length of those frames in bytes, 60 to 1514.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(60..=1514))]
    frame_bytes: u16,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Report {
    members_at_end: usize,
    frames_sent: u64,
    frames_received: u64,
    frames_dropped_here: u64,
    frames_corrupt: u64,
    connections_lost: u64,
    seconds: f64,
}

impl Members {
    /// Runs the mode.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let began = Instant::now();
        let members = self.login.log_in(self.count)?;
        let took = began.elapsed();
        println!(
            "{}",
            serde_json::json!({ "event": "logged_in", "members": members.len(), "seconds": took.as_secs_f64(),
                "logins_per_second": members.len() as f64 / took.as_secs_f64() })
        );
        std::io::stdout().flush()?;
        with_back_end!(io, self.stay(io, members))
    }

    fn stay<Io: StreamIo<Socket = OwnedFd>>(&self, io: Io, members: Vec<Member>) -> Result<(), Box<dyn Error>> {
        let mut driver = Driver::new(io, members)?;
        let mut report = Report::default();
        let start = driver.now();
        let end = start + Duration::from_secs(self.seconds);
        let mut frame = vec![0; usize::from(self.frame_bytes)];
        let pause = Duration::from_millis(if self.chatter_pps > 0 { 5 } else { 250 });
        while driver.now() < end {
            let now = driver.now();
            let due = due_frames(now, start, self.chatter_pps);
            while report.frames_sent < due {
                self.chatter(&mut driver, &mut frame, now, &mut report)?;
            }
            driver.turn(Wait::For(pause))?;
        }
        report.members_at_end = driver.members_up();
        report.connections_lost = driver.lost();
        report.seconds = driver.now().since(start).as_secs_f64();
        let seen = driver.seen();
        (report.frames_received, report.frames_corrupt) = (seen.frames, seen.corrupt);
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }

    /// One frame from a member to the next one. The first round only makes addresses known.
    fn chatter<Io: StreamIo<Socket = OwnedFd>>(
        &self,
        driver: &mut Driver<Io>,
        frame: &mut [u8],
        now: Tick,
        report: &mut Report,
    ) -> Result<(), Box<dyn Error>> {
        let count = report.frames_sent;
        let from = usize::try_from(count % self.count as u64)?;
        traffic::stamp(frame, from, (from + 1) % self.count, count / self.count as u64, now);
        report.frames_sent += 1;
        match driver.push(from, frame, now)? {
            Pushing::Taken => {}
            Pushing::Dropped => report.frames_dropped_here += 1,
        }
        Ok(())
    }
}

fn due_frames(now: Tick, start: Tick, pps: u64) -> u64 {
    u64::try_from(now.since(start).as_nanos() * u128::from(pps) / 1_000_000_000).unwrap_or(u64::MAX)
}
