//! What the modes that carry frames run on: members who are logged in, the threads that drive them, and the server
//! that is watched meanwhile.

use std::error::Error;
use std::time::Duration;

use crate::driver::Member;
use crate::engine::{Engine, Measuring, Outcome, Watch};
use crate::login::Login;
use crate::plan::{Plan, Timetable};
use crate::progress::Progress;
use crate::report::Report;
use crate::traffic::FrameSize;

/// Ready for plans, one after the other.
pub(crate) struct Bed<'a> {
    login: &'a Login,
    measuring: &'a Measuring,
    tls: String,
    pub(crate) engine: Engine,
    watch: Watch,
}

type Tried<T> = Result<T, Box<dyn Error>>;

impl<'a> Bed<'a> {
    /// Logs `count` members in.
    pub(crate) fn new(mode: &'static str, login: &'a Login, measuring: &'a Measuring, count: usize) -> Tried<Self> {
        let progress = Progress::new();
        let members = login.log_in(&login.dialer(count)?, count, &progress)?;
        Self::with(members, mode, login, measuring, progress)
    }

    /// The same, with members whom the caller has logged in.
    pub(crate) fn with(
        members: Vec<Member>,
        mode: &'static str,
        login: &'a Login,
        measuring: &'a Measuring,
        progress: Progress,
    ) -> Tried<Self> {
        let watch = Watch { server: measuring.server(), progress, mode };
        Ok(Self { login, measuring, tls: members[0].tls(), engine: Engine::start(measuring, members)?, watch })
    }

    /// Carries out `plan` for as long as the options say.
    pub(crate) fn run(&mut self, plan: Plan, table: Option<Timetable>) -> Tried<Outcome> {
        let Measuring { warm_up_ms, seconds, .. } = *self.measuring;
        self.run_for(Duration::from_millis(warm_up_ms), Duration::from_secs(seconds), plan, table)
    }

    /// Carries out `plan` for `seconds` after `warm_up`.
    pub(crate) fn run_for(
        &mut self,
        warm_up: Duration,
        seconds: Duration,
        plan: Plan,
        table: Option<Timetable>,
    ) -> Tried<Outcome> {
        self.engine.run(plan, table, warm_up, seconds, &self.watch)
    }

    /// What a run of `frame`s by `pattern` came to.
    pub(crate) fn report(&self, pattern: &'static str, frame: FrameSize, outcome: &Outcome) -> Report {
        let (connections, tls, frame) = (self.login.connections, self.tls.clone(), frame.to_string());
        Report { connections, pattern, frame, tls, ..Report::new(self.watch.mode, outcome) }
    }
}
