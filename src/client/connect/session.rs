//! The life of a session, seen from the member: what to ask the dialler for, and when.
//!
//! * No session: log in; after a failure wait, longer each time.
//! * A session with fewer connections than wanted: add one at a time. Without any it still lives at the server for its
//!   timeout; who comes back in time finds it as it was, and frames pass again without a login.
//! * A connection whose bytes the server does not acknowledge is stuck. TCP itself would try again ever more seldom, so a
//!   fresh one is called until the way is there again, and takes the place of the stuck one. Between us and a server of our
//!   kind the kernels give it up after a while, both (`crate::sys::socket`): what it still carried is too old then.
//! * There is a loop in bridge mode: the session ends, the device loses its carrier, and the next login waits.
//! * The server does not know the session (answer 13), was silent for its timeout, or ends what we attach to it at once: log
//!   in.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::args::ConnectArgs;
use super::backoff::Backoff;
use super::dhcp::DhcpClient;
use super::dialler::{Answer, CallError, Dialler, Entered, Order, suit_path};
use super::identity::{Standing, hex};
use super::keeper::Keeper;
use super::report::{Reporter, notify, rate, span};
use super::{ConnectError, WATCH_SIGNALS, while_doing};
use crate::client::card::loops::{Loops, Place};
use crate::client::card::{Card, Line, Modes, News};
use crate::ids::ConnKey;
use crate::metrics::closes::CloseReason;
use crate::sys::clock::monotonic;
use crate::sys::tap::Tap;
use crate::sys::tcp::{TcpInfo, tcp_info};
use crate::tick::Tick;
use crate::tls::keys::{Suite, Version};
use crate::tunnel::error_code::ErrorCode;
use crate::tunnel::link::Carried;
use crate::wire::loop_probe::Leg;
use crate::worker::io::StreamIo;

/// See the module text.
pub(super) struct Life<'a, Io> {
    card: Card<Io, Tap>,
    args: &'a ConnectArgs,
    reporter: &'a mut Reporter,
    dialler: Dialler,
    backoff: Backoff,
    state: State,
    /// Number of the session, counted from 1.
    sessions: u64,
    /// The program to start once the card is up.
    dhcp_program: Option<PathBuf>,
    dhcp: Option<DhcpClient>,
    /// Wants to see what the DHCP client does.
    keeper: Option<&'a mut Keeper>,
    seed: u64,
    now: Tick,
    look_at: Tick,
    /// At the last look: when, and what had been carried.
    looked: (Tick, Carried),
    told_to_stop: bool,
    /// The service manager has heard that the device is there.
    told_ready: bool,
    /// The last session has ended by a loop.
    looped: bool,
}

enum State {
    Waiting { until: Tick },
    LoggingIn,
    Up(Box<Session>),
}

struct Session {
    number: u64,
    name: String,
    key: zeroize::Zeroizing<[u8; 20]>,
    /// Connections there should be.
    wanted: usize,
    since: Tick,
    path: String,
    cipher: String,
    lines: Vec<Attached>,
    /// Round-trip time, as it was when it was last known.
    rtt: Duration,
    /// A connection was ordered.
    joining: bool,
    join_at: Tick,
    /// How many in a row could not be had.
    not_joined: u8,
    /// As long as those that there are do well, no further one is called until then.
    content_until: Tick,
    /// Further connections have come.
    has_joined: bool,
    /// How many connections in a row the server has ended as soon as they had come.
    ended_at_once: u8,
    /// The server is of our kind: it takes a reset well.
    is_ours: bool,
    /// The newest connection is for what is urgent.
    qos: bool,
}

struct Attached {
    key: ConnKey,
    since: Tick,
    /// The same socket, to ask about; none where it is no TCP.
    probe: Option<OwnedFd>,
}

impl Session {
    fn infos(&self) -> impl Iterator<Item = (ConnKey, TcpInfo)> + '_ {
        self.lines.iter().filter_map(|line| Some((line.key, tcp_info(line.probe.as_ref()?).ok()?)))
    }

    /// The connection to give up when there is one too many and all do well: that which carries least. The one before
    /// the newest was for what is urgent, until that came; else it is the newest.
    fn spare(&self) -> Option<ConnKey> {
        let back = if self.qos && self.lines.len() > 2 { 2 } else { 1 };
        self.lines.iter().nth_back(back - 1).map(|line| line.key)
    }

    /// Looks at the path, which may have become a slow one, or a fast one.
    fn suit_path(&mut self) {
        for line in &self.lines {
            line.probe.iter().for_each(|probe| suit_path(probe, self.is_ours));
        }
        let known = self.infos().filter(|(_, info)| info.timeouts == 0).map(|(_, info)| info.rtt);
        self.rtt = known.max().unwrap_or(self.rtt);
    }

    /// One of those that are stuck.
    fn stuck(&self) -> Option<ConnKey> {
        self.infos().find(|(_, info)| is_stuck(info)).map(|(key, _)| key)
    }
}

/// Three timeouts in a row come after 1.4 s at the least; a lost segment alone does not make them.
fn is_stuck(info: &TcpInfo) -> bool {
    info.timeouts >= STUCK_TIMEOUTS && info.silent >= STUCK_SILENT.max(info.rtt * 2)
}

/// How long to wait for a connection while the way may be dead, over a path of this round-trip time. After some in a row
/// that did not come (`failed`) one gets more: the way may have become a slow one.
fn patience_stuck(rtt: Duration, failed: u8) -> Duration {
    let patience = rtt.saturating_mul(4).max(PATIENCE_STUCK);
    if failed % LONGER_EACH == LONGER_EACH - 1 { patience.max(PATIENCE) } else { patience }
}

impl<'a, Io: StreamIo<Socket = OwnedFd>> Life<'a, Io> {
    pub(super) fn new(
        card: Card<Io, Tap>,
        args: &'a ConnectArgs,
        reporter: &'a mut Reporter,
        dialler: Dialler,
        (dhcp_program, keeper): (Option<PathBuf>, Option<&'a mut Keeper>),
        seed: u64,
    ) -> Self {
        let now = monotonic();
        Self {
            card,
            args,
            reporter,
            dialler,
            backoff: Backoff::new(seed),
            state: State::Waiting { until: now },
            sessions: 0,
            dhcp_program,
            dhcp: None,
            keeper,
            seed,
            now,
            look_at: now,
            looked: (now, Carried::default()),
            told_to_stop: false,
            told_ready: false,
            looped: false,
        }
    }

    /// Until a signal comes, or something that time does not cure.
    pub(super) fn run(mut self) -> Result<(), ConnectError> {
        while !self.told_to_stop {
            self.turn(self.next_time())?;
            self.hear()?;
            self.tend();
        }
        self.stop()
    }

    /// One turn of the card.
    fn turn(&mut self, until: Tick) -> Result<(), ConnectError> {
        self.card.wait(until).map_err(while_doing("wait for the connections"))?;
        self.now = monotonic();
        let device = |error| ConnectError::Device(format!("device {} is gone: {error}", self.args.device));
        self.card.step(self.now).map_err(device)
    }

    fn next_time(&self) -> Tick {
        match &self.state {
            State::Waiting { until } => self.look_at.min(*until),
            State::LoggingIn => self.look_at,
            State::Up(session) if session.joining || session.lines.len() >= session.wanted => self.look_at,
            State::Up(session) => self.look_at.min(session.join_at),
        }
    }

    /// Takes what card and dialler have to tell.
    fn hear(&mut self) -> Result<(), ConnectError> {
        let news: Vec<News> = self.card.news().collect();
        for news in news {
            match news {
                News::Lost(key, reason) => self.lost(key, reason),
                News::Expired => self.session_over("the server was silent for the session's timeout"),
                News::Loop(place) => self.give_way(place),
                News::Stale => self.make_bridge_forget(),
                News::Ready(WATCH_SIGNALS) => self.told_to_stop = true,
                News::Ready(_) | News::Woken => {}
            }
        }
        while let Some(answer) = self.dialler.answer() {
            match answer {
                Answer::Entered(entered) => self.entered(*entered)?,
                Answer::NotEntered(error) => self.not_entered(&error)?,
                Answer::Joined(number, line) => self.joined(number, line),
            }
        }
        Ok(())
    }

    /// Does what time has made due.
    fn tend(&mut self) {
        let now = self.now;
        match &mut self.state {
            State::Waiting { until } if now >= *until => {
                self.state = State::LoggingIn;
                // The device is there, and whoever waits for this program may go on: the server may be away for hours.
                let ready = if std::mem::replace(&mut self.told_ready, true) { "" } else { "READY=1\n" };
                notify(&format!("{ready}STATUS=calling {}", self.args.server));
                self.reporter.tell(
                    "connecting",
                    json!({"server": self.args.server.to_string()}),
                    &format!("calling {}", self.args.server),
                );
                self.dialler.order(Order::Login);
            }
            State::Up(session)
                if !session.joining
                    && session.lines.len() < session.wanted
                    && now >= session.join_at
                    && (session.lines.is_empty() || now >= session.content_until) =>
            {
                // Without any the way may be dead, and shall not be waited for when it is back.
                let stuck = patience_stuck(session.rtt, session.not_joined);
                let patience = if session.lines.is_empty() { stuck } else { stuck.max(PATIENCE) };
                order_join(session, &self.dialler, patience);
            }
            _ => {}
        }
        if now >= self.look_at {
            self.look_at = now + LOOK;
            if let State::Up(session) = &mut self.state {
                session.suit_path();
            }
            self.replace_stuck();
            self.show();
            if let (Some(_), Some(keeper)) = (&self.dhcp, &mut self.keeper) {
                keeper.look();
            }
        }
    }

    /// Calls a fresh connection if one is stuck. Once that is there, the way is: a stuck one has a moment to recover by
    /// itself, with all that it has to send, and then one of them goes.
    fn replace_stuck(&mut self) {
        let State::Up(session) = &mut self.state else { return };
        if session.joining || self.now < session.join_at {
            return;
        }
        let stuck = session.stuck();
        if stuck.is_some() {
            session.content_until = self.now;
        }
        if session.lines.len() <= session.wanted {
            if stuck.is_some() {
                let patience = patience_stuck(session.rtt, session.not_joined);
                order_join(session, &self.dialler, patience);
            }
            return;
        }
        // A reset tells the server at once, which then sends by another connection what waits for this one. Stock servers
        // lose the session's other connections by it (protocol note §1.1).
        let reason = if session.is_ours { CloseReason::SocketFailed } else { CloseReason::Timeout };
        match (stuck, session.spare()) {
            (Some(stuck), _) => self.card.drop_conn(stuck, reason),
            (None, Some(spare)) => self.card.drop_conn(spare, CloseReason::SessionEnded),
            (None, None) => {}
        }
    }

    fn entered(&mut self, entered: Entered) -> Result<(), ConnectError> {
        let Entered { line, welcome, path, suite, fingerprint, standing } = entered;
        self.sessions += 1;
        let timeout = Duration::from_millis(welcome.timeout_ms.into());
        let modes = Modes { compress: welcome.compress, supers: welcome.supers, qos: welcome.qos };
        self.card.begin(timeout, modes, self.seed ^ self.sessions);
        if self.args.bridge.is_some() {
            self.watch_loops();
        }
        let mut session = Session {
            number: self.sessions,
            name: one_line(&welcome.session_name),
            key: welcome.session_key.clone(),
            wanted: usize::from(welcome.max_connection),
            since: self.now,
            path,
            cipher: describe(suite),
            lines: Vec::new(),
            rtt: Duration::ZERO,
            joining: false,
            join_at: self.now,
            not_joined: 0,
            content_until: self.now,
            has_joined: false,
            ended_at_once: 0,
            is_ours: welcome.hello.is_ours(),
            qos: welcome.qos,
        };
        attach(&mut self.card, &mut session, line, self.now).map_err(while_doing("watch a connection"))?;
        if standing == Standing::FirstSeen {
            let fields = json!({"fingerprint": hex(&fingerprint), "server": self.args.server.to_string()});
            let text = format!("first time at {}: fingerprint sha256:{}", self.args.server, hex(&fingerprint));
            self.reporter.tell("first_seen", fields, &text);
        }
        let fields = json!({
            "session": session.name, "server": welcome.hello.product, "path": session.path, "cipher": session.cipher,
            "connections": session.wanted, "timeout_ms": welcome.timeout_ms, "compress": welcome.compress,
            "super_frames": welcome.supers, "qos": welcome.qos,
        });
        let text = format!("connected: {}, {}, {}", session.name, session.path, session.cipher);
        self.reporter.tell("connected", fields, &text);
        if let Some(message) = &welcome.message {
            self.reporter.tell("message", json!({"text": message}), &printable(message));
        }
        notify(&format!("STATUS=connected to {} as {}", self.args.server, session.name));
        self.state = State::Up(Box::new(session));
        if let Some(program) = self.dhcp_program.take() {
            self.keeper.as_mut().map_or(Ok(()), |keeper| keeper.before_dhcp()).map_err(ConnectError::Device)?;
            let failed = |error| ConnectError::Device(format!("{} cannot be started: {error}", program.display()));
            self.dhcp = Some(DhcpClient::start(&program, self.card.device().name()).map_err(failed)?);
        }
        Ok(())
    }

    /// In bridge mode. After a loop nothing but probes passes at first.
    fn watch_loops(&mut self) {
        let looped = std::mem::take(&mut self.looped);
        if looped {
            // Where the kernel cannot do it, it was never off.
            let _ = self.card.device().set_carrier(true);
        }
        let mut random = [0; 16];
        // Equal tokens would take a failing generator and the same millisecond.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let [token, numbers] = [0, 8].map(|at| random[at..].first_chunk().map_or(0, |word| u64::from_be_bytes(*word)));
        let numbers = [numbers >> 32, numbers & 0xffff_ffff].map(|number| u32::try_from(number).unwrap_or(0));
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let leg = Leg { started_ms, token };
        self.card.watch_loops(Loops::new(leg, super::probe_mac(self.args), numbers, looped, self.now));
    }

    /// Else hosts that the storm has shown it in the wrong place are lost until they speak. Who may not do this has to wait
    /// for that.
    fn make_bridge_forget(&self) {
        let _ = std::fs::write(format!("/sys/class/net/{}/brport/flush", self.card.device().name()), "1");
    }

    /// The card has found a loop: the other way stays.
    fn give_way(&mut self, place: Place) {
        let State::Up(session) = std::mem::replace(&mut self.state, State::Waiting { until: self.now + LOOP_WAIT })
        else {
            return;
        };
        let reason = CloseReason::BridgeLoop;
        self.card.end_because(reason);
        self.looped = true;
        let _ = self.card.device().set_carrier(false);
        notify(&format!("STATUS={}", place.help()));
        let fields = json!({
            "reason": reason.label(), "place": place.label(), "session": session.name,
            "after_ms": u64::try_from(self.now.since(session.since).as_millis()).unwrap_or(u64::MAX),
            "retry_ms": u64::try_from(LOOP_WAIT.as_millis()).unwrap_or(u64::MAX),
        });
        let text = format!("{}; this card gives way, again in {} s", place.help(), LOOP_WAIT.as_secs());
        self.reporter.tell("loop", fields, &text);
    }

    fn not_entered(&mut self, error: &CallError) -> Result<(), ConnectError> {
        let mut text = describe_refusal(error);
        if let Some(file) = self.args.cert.as_ref().filter(|_| error.refusal().is_some_and(is_about_proof)) {
            text = format!("{text}; {}", hint(file));
        }
        if error.is_of_the_server() {
            text = format!("{text}; `hublane doctor {}` looks for the reason", self.args.server);
        }
        // What was right once may be right again: a hub that is away, somebody else's network.
        if self.sessions == 0 {
            if error.is_certificate() {
                return Err(ConnectError::Certificate(text));
            }
            if error.refusal().is_some_and(is_for_good) {
                return Err(ConnectError::Refused(text));
            }
        }
        self.wait(&text);
        Ok(())
    }

    fn wait(&mut self, why: &str) {
        let wait = self.backoff.next_wait();
        let secs = format!("{:.1}", wait.as_secs_f64());
        let fields = json!({"reason": why, "retry_ms": u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)});
        notify(&format!("STATUS={}; again in {secs} s", one_line(why)));
        self.reporter.tell("waiting", fields, &format!("{why}; again in {secs} s"));
        self.state = State::Waiting { until: self.now + wait };
    }

    fn joined(&mut self, number: u64, line: Result<Box<Line<OwnedFd>>, CallError>) {
        let session = match &mut self.state {
            State::Up(session) if session.number == number => session,
            // Of a session that has ended meanwhile.
            _ => return,
        };
        session.joining = false;
        session.join_at = self.now + JOIN_AGAIN;
        session.not_joined = if line.is_ok() { 0 } else { session.not_joined.wrapping_add(1) };
        session.content_until = self.now + content_for(session.not_joined);
        let error = match line {
            Ok(line) => {
                let failed = attach(&mut self.card, session, *line, self.now).is_err();
                session.join_at = if session.lines.len() > session.wanted { self.now + RECOVERY } else { self.now };
                if failed {
                    return;
                }
                session.has_joined = true;
                let count = session.lines.len();
                return self.reporter.tell("attached", json!({"connections": count}), &format!("{count} connections"));
            }
            Err(error) => error,
        };
        let gone = [ErrorCode::SessionTimeout, ErrorCode::InvalidProtocol].map(ErrorCode::number);
        match error.refusal() {
            Some(code) if gone.contains(&code) => {
                // One name, several servers, and the other one has answered: what works is not given up for that.
                if session.has_joined || session.lines.is_empty() || session.stuck().is_some() {
                    return self.session_over("the server does not know the session any more");
                }
                session.wanted = session.lines.len();
                let text = "the session is not known there: it keeps to the connections it has";
                self.reporter.tell("not_attached", json!({"reason": text}), &format!("no further connection: {text}"));
            }
            _ => {
                let text = error.to_string();
                self.reporter.tell("not_attached", json!({"reason": text}), &format!("no further connection: {text}"));
            }
        }
    }

    fn lost(&mut self, key: ConnKey, reason: CloseReason) {
        let State::Up(session) = &mut self.state else { return };
        let Some(at) = session.lines.iter().position(|line| line.key == key) else { return };
        let line = session.lines.remove(at);
        let left = session.lines.len();
        let at_once = is_ended_at_once(reason, self.now.since(line.since));
        session.ended_at_once = if at_once { session.ended_at_once.saturating_add(1) } else { 0 };
        let is_spoiled = left == 0 && session.ended_at_once >= SPOILED;
        if at_once {
            session.join_at = session.join_at.max(self.now + JOIN_AGAIN);
            session.content_until = self.now + content_for(session.ended_at_once);
        }
        let fields = json!({"reason": reason.label(), "connections": left});
        let text = format!("a connection has ended, {left} left: {}", reason.help().trim());
        self.reporter.tell("lost", fields, &text);
        if is_spoiled {
            self.session_over("the server ends each connection of the session as soon as it has come");
        }
    }

    /// The session has gone: a new one, within a second if this one had lived for a while.
    fn session_over(&mut self, why: &str) {
        let State::Up(session) = std::mem::replace(&mut self.state, State::LoggingIn) else { return };
        self.card.end();
        if self.now.since(session.since) < SETTLED {
            return self.wait(why);
        }
        let wait = self.backoff.after_session();
        notify(&format!("STATUS={why}"));
        self.reporter.tell("disconnected", json!({"reason": why, "session": session.name}), why);
        self.state = State::Waiting { until: self.now + wait };
    }

    /// The line of state.
    fn show(&mut self) {
        let carried = self.card.carried();
        let (before, then) = self.looked;
        let ms = u64::try_from(self.now.since(before).as_millis()).unwrap_or(u64::MAX);
        if ms < 1_000 || !self.reporter.shows_state() {
            return;
        }
        self.looked = (self.now, carried);
        let a_second = |now: u64, then: u64| rate((now - then).saturating_mul(1_000) / ms);
        let rates = format!(
            "in {}, out {}",
            a_second(carried.bytes_in, then.bytes_in),
            a_second(carried.bytes_out, then.bytes_out)
        );
        let text = match &self.state {
            State::Waiting { until } => format!("waiting, again in {} s", until.since(self.now).as_secs() + 1),
            State::LoggingIn => format!("calling {}", self.args.server),
            State::Up(session) => {
                let infos: Vec<_> = session.infos().map(|(_, info)| info).collect();
                let rtt = infos.iter().map(|info| info.rtt).min().unwrap_or_default();
                let again: u32 = infos.iter().map(|info| info.retransmitted).sum();
                format!(
                    "{} | {} | {rates} | {:.1} ms, {again} sent again | {} x {} | {}",
                    session.name,
                    span(self.now.since(session.since).as_secs()),
                    rtt.as_secs_f64() * 1e3,
                    session.lines.len(),
                    session.path,
                    session.cipher,
                )
            }
        };
        self.reporter.state(&text);
    }

    /// Ends everything in good order: the DHCP client gives its address back, then the connections are closed.
    fn stop(mut self) -> Result<(), ConnectError> {
        notify("STOPPING=1");
        let end = self.now + STOPPING;
        if let Some(dhcp) = &mut self.dhcp {
            self.keeper.iter_mut().for_each(|keeper| keeper.before_dhcp_ends());
            dhcp.ask_to_end();
        }
        while self.dhcp.as_mut().is_some_and(|dhcp| !dhcp.has_ended()) && self.now < end {
            self.turn(self.now + Duration::from_millis(50))?;
        }
        self.card.end();
        while !self.card.is_closed() && self.now < end {
            self.turn(end)?;
        }
        let Carried { frames_in, bytes_in, frames_out, bytes_out, .. } = self.card.carried();
        let fields = json!({
            "frames_in": frames_in, "bytes_in": bytes_in, "frames_out": frames_out, "bytes_out": bytes_out,
        });
        self.reporter.tell("ended", fields, &format!("ended; {bytes_in} bytes in, {bytes_out} out"));
        Ok(())
    }
}

fn attach<Io: StreamIo<Socket = OwnedFd>>(
    card: &mut Card<Io, Tap>,
    session: &mut Session,
    line: Line<OwnedFd>,
    now: Tick,
) -> std::io::Result<()> {
    // What is no TCP cannot be asked.
    let probe = line.socket.try_clone().ok().filter(|probe| tcp_info(probe).is_ok());
    let key = card.attach(line)?;
    session.lines.push(Attached { key, since: now, probe });
    session.suit_path();
    Ok(())
}

fn order_join(session: &mut Session, dialler: &Dialler, patience: Duration) {
    session.joining = true;
    let (key, is_ours) = (session.key.clone(), session.is_ours);
    dialler.order(Order::Join { key, session: session.number, patience, is_ours });
}

/// Whether the server has ended a connection for no reason of that connection.
fn is_ended_at_once(reason: CloseReason, lived: Duration) -> bool {
    let by_peer = matches!(reason, CloseReason::PeerEof | CloseReason::PeerCloseNotify | CloseReason::SocketFailed);
    by_peer && lived < AT_ONCE
}

/// The same login would be refused again.
fn is_for_good(code: u32) -> bool {
    const FOR_GOOD: [ErrorCode; 5] = [
        ErrorCode::AuthTypeNotSupported,
        ErrorCode::HubNotFound,
        ErrorCode::AuthFailed,
        ErrorCode::AccessDenied,
        ErrorCode::EmptyPasswordLocalOnly,
    ];
    code == BRIDGE_DENIED || FOR_GOOD.iter().any(|known| known.number() == code)
}

/// The server does not take the proof.
fn is_about_proof(code: u32) -> bool {
    [ErrorCode::AuthFailed, ErrorCode::AuthTypeNotSupported].iter().any(|known| known.number() == code)
}

/// What makes a server take the certificate in `file`.
fn hint(file: &Path) -> String {
    format!(
        "the user must be one who logs in by the certificate in {}: `hublane user set NAME --cert FILE` on our server, \
         UserCertSet or UserSignedSet on a stock one",
        file.display()
    )
}

/// What went wrong, for people.
fn describe_refusal(error: &CallError) -> String {
    match error.refusal() {
        None => error.to_string(),
        Some(code) => match ErrorCode::from_number(code) {
            Some(known) => format!("the server refuses the login: {} (code {code})", known.help()),
            None => format!("the server refuses the login with code {code}"),
        },
    }
}

fn describe(suite: Suite) -> String {
    let version = match suite.version() {
        Version::Tls12 => "TLS 1.2",
        Version::Tls13 => "TLS 1.3",
    };
    format!("{version} {}", suite.name())
}

/// How long a session with connections that do well keeps to those after so many failures in a row to have one more.
fn content_for(failures: u8) -> Duration {
    match failures {
        0 => Duration::ZERO,
        _ => JOIN_AGAIN * (1 << failures.min(JOIN_AGAIN_DOUBLED)),
    }
}

/// A server's text on our terminal.
fn printable(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// A server's name for something, also for systemd, to which a line break begins another statement.
fn one_line(text: &str) -> String {
    printable(text).chars().take(NAME_CHARS_MAX).map(|c| if c == '\n' { ' ' } else { c }).collect()
}

/// As long as names of the protocol are.
const NAME_CHARS_MAX: usize = 255;
/// Of a text of the server: a screenful, and far more than a name has.
const TEXT_CHARS_MAX: usize = 4_000;
/// Bridge mode is denied (protocol note §3.5).
const BRIDGE_DENIED: u32 = 108;
/// Distance of two looks at connections and of two lines of state.
const LOOK: Duration = Duration::from_millis(500);
/// For the server's TCP to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same while a connection is stuck, on a path that is fast: TCP's own second attempt comes after a second, the next
/// after two more.
const PATIENCE_STUCK: Duration = Duration::from_millis(1_500);
/// Of so many attempts that fail one waits for [`PATIENCE`].
const LONGER_EACH: u8 = 4;
/// After a further connection has failed.
const JOIN_AGAIN: Duration = Duration::from_millis(500);
/// The same while others do well doubles so often: to half a minute.
const JOIN_AGAIN_DOUBLED: u8 = 6;
/// For a stuck connection, once the way is there again; TCP itself tries every second.
const RECOVERY: Duration = Duration::from_millis(1_100);
/// Stock servers (5.01) that have seen one connection of a session end without close_notify, as a proxy's end makes it,
/// take the error for one of the next, within 0.3 s, and so for ever (protocol note §1.1). Only a new session helps.
const AT_ONCE: Duration = Duration::from_secs(1);
/// So many in a row are no accident.
const SPOILED: u8 = 2;
/// See [`is_stuck`].
const STUCK_TIMEOUTS: u8 = 3;
const STUCK_SILENT: Duration = Duration::from_millis(1_500);
/// A session that ends sooner did not work: the next login waits.
const SETTLED: Duration = Duration::from_secs(10);
/// For somebody to pull the second cable; longer than a spanning tree takes to settle.
const LOOP_WAIT: Duration = Duration::from_secs(60);
/// Longest end.
const STOPPING: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::dial::DialError;

    #[test]
    fn a_session_that_does_well_asks_ever_more_seldom_for_another_connection() {
        assert_eq!([0, 1, 2, 3, 6, 200].map(|n| content_for(n).as_secs()), [0, 1, 2, 4, 32, 32]);
    }

    #[test]
    fn refusals() {
        for (code, for_good) in [(9, true), (8, true), (12, true), (108, true), (16, false), (10, false), (13, false)] {
            assert_eq!(is_for_good(code), for_good, "{code}");
            let text = describe_refusal(&CallError::Dial(DialError::Refused(code)));
            assert!(text.contains(&format!("code {code}")), "{text}");
        }
    }

    #[test]
    fn only_the_server_ends_a_connection_at_once() {
        for (reason, lived_ms, want) in [
            (CloseReason::PeerEof, 0, true),
            (CloseReason::SocketFailed, 300, true),
            (CloseReason::PeerCloseNotify, 999, true),
            (CloseReason::PeerEof, 1_000, false),
            (CloseReason::SessionEnded, 0, false),
            (CloseReason::Timeout, 0, false),
        ] {
            assert_eq!(is_ended_at_once(reason, Duration::from_millis(lived_ms)), want, "{reason:?} {lived_ms}");
        }
    }

    #[test]
    fn stuck_is_more_than_one_lost_segment() {
        let info =
            |timeouts, silent_ms| TcpInfo { timeouts, silent: Duration::from_millis(silent_ms), ..TcpInfo::default() };
        for (timeouts, silent_ms, want) in [(0, 60_000, false), (1, 2_000, false), (3, 300, false), (3, 1_500, true)] {
            assert_eq!(is_stuck(&info(timeouts, silent_ms)), want, "{timeouts} {silent_ms}");
        }
    }

    #[test]
    fn on_a_slow_path_all_takes_longer() {
        let slow = Duration::from_millis(2_500);
        let info =
            |silent_s| TcpInfo { timeouts: 3, silent: Duration::from_secs(silent_s), rtt: slow, ..TcpInfo::default() };
        assert!(!is_stuck(&info(4)) && is_stuck(&info(5)));
        let fast = Duration::from_millis(20);
        let waits = [0, 1, 2, 3, 4].map(|failed| patience_stuck(fast, failed));
        assert_eq!(waits, [PATIENCE_STUCK, PATIENCE_STUCK, PATIENCE_STUCK, PATIENCE, PATIENCE_STUCK]);
        assert_eq!([0, 3].map(|failed| patience_stuck(slow, failed)), [slow * 4; 2]);
    }

    #[test]
    fn a_server_cannot_write_to_the_terminal() {
        assert_eq!(printable("hello\u{1b}[2J\nworld\u{7}"), "hello [2J\nworld ");
        assert_eq!(one_line("SID-A-1\nMAINPID=1\u{9b}"), "SID-A-1 MAINPID=1 ");
        let long = "x".repeat(100_000);
        assert_eq!((printable(&long).len(), one_line(&long).len()), (4_000, 255));
    }
}
