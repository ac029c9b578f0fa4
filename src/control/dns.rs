//! The other half of the DNS forwarder: asks the upstreams what members want to know.
//!
//! Each try has a socket of its own, connected to one upstream, and an id of its own, both random (RFC 5452): the kernel
//! takes datagrams from nobody else, picks the source port at random from its ephemeral range, and an answer counts only
//! if id and question are the same to the bit. Who sends wrong ids to the right port is guessing: after
//! `GUESSES_MAX` of them the socket is given up and the question asked by TCP.
//!
//! 1. the first upstream that lives is asked
//! 2. if it is silent for [`UpstreamSettings::patience`], or says that it failed, so is the next; earlier ones may still answer
//! 3. a name may be silent, so silence about members' questions only makes an upstream suspect: asked after those that
//!    live, and once by each question; dead is who is silent to a question of our own (`. NS`) as well
//! 4. who is dead is asked our question now and then, and one of a member's if no other lives: no storm against one that
//!    is down; any answer brings it back
//! 5. the first good answer is the answer, unchanged; none in time is none
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};

use crate::gateway::dns::{DnsAnswer, DnsQuestion, DnsTransport, answers};
use crate::wire::dns::{self, Dns, RCODE_REFUSED, RCODE_SERVER_FAILURE};

#[cfg(test)]
mod tests;

/// Whom to ask, and how long to wait.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Whom, the best first.
    pub upstreams: Vec<SocketAddr>,
    /// How long one is waited for before the next is asked too.
    pub patience: Duration,
    /// How long an answer may take in all.
    pub deadline: Duration,
    /// Questions asked at a time; each takes a descriptor for each try.
    pub questions_max: usize,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            // Members' resolvers ask again after 1 to 5 s.
            patience: Duration::from_millis(700),
            deadline: Duration::from_secs(5),
            questions_max: 1024,
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamStats {
    /// Tries: datagrams sent and connections begun.
    pub tries: u64,
    /// Questions that got an answer.
    pub answered: u64,
    /// Questions that got none.
    pub failed: u64,
    /// Datagrams from an upstream's address with another id or question.
    pub forged: u64,
    /// Upstreams that are dead.
    pub dead: usize,
}

/// See the module text.
#[derive(Debug)]
pub struct Upstreams {
    settings: UpstreamSettings,
    healths: Vec<Mutex<Health>>,
    room: Semaphore,
    tries: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    forged: AtomicU64,
}

impl Upstreams {
    /// Nobody is asked yet.
    pub fn new(settings: UpstreamSettings) -> Arc<Self> {
        let healths = settings.upstreams.iter().map(|_| Mutex::default()).collect();
        let room = Semaphore::new(settings.questions_max.clamp(1, Semaphore::MAX_PERMITS));
        let [tries, answered, failed, forged] = [0; 4].map(AtomicU64::new);
        Arc::new(Self { settings, healths, room, tries, answered, failed, forged })
    }

    /// What happened so far.
    pub fn stats(&self) -> UpstreamStats {
        UpstreamStats {
            tries: self.tries.load(Relaxed),
            answered: self.answered.load(Relaxed),
            failed: self.failed.load(Relaxed),
            forged: self.forged.load(Relaxed),
            dead: (0..self.healths.len()).filter(|at| self.health(*at, |health| health.is_dead())).count(),
        }
    }

    /// Asks `question` until somebody answers or the time is over.
    pub async fn resolve(self: &Arc<Self>, question: DnsQuestion) -> DnsAnswer {
        let token = question.token;
        let message = match self.room.try_acquire() {
            Ok(_room) => self.clone().ask_around(Arc::new(question)).await,
            // To wait would only make the queue longer.
            Err(_) => None,
        };
        let count = if message.is_some() { &self.answered } else { &self.failed };
        count.fetch_add(1, Relaxed);
        DnsAnswer { token, message }
    }

    async fn ask_around(self: Arc<Self>, question: Arc<DnsQuestion>) -> Option<Vec<u8>> {
        let begun = Instant::now();
        let deadline = begun + self.settings.deadline;
        let mut tries = JoinSet::new();
        let mut asked = Vec::with_capacity(TRIES_MAX);
        let (mut next_at, mut failure) = (begun, None);
        loop {
            if Instant::now() >= next_at {
                if let Some(upstream) = self.choose(&asked, Instant::now()) {
                    asked.push(upstream);
                    tries.spawn(self.clone().try_one(upstream, question.clone(), deadline));
                    next_at = deadline.min(Instant::now() + self.settings.patience);
                } else if tries.is_empty() {
                    return failure;
                } else {
                    // By then a suspect may have shown that it lives.
                    next_at = deadline.min(Instant::now() + self.settings.patience);
                }
            }
            tokio::select! {
                Some(done) = tries.join_next() => match done {
                    Ok((_, Some(answer))) if !is_failure(&answer) => return Some(answer),
                    // Another one may know better: what this one would have to ask may be out of its reach.
                    Ok((upstream, Some(answer))) => {
                        failure = Some(answer);
                        asked.push(upstream);
                        next_at = Instant::now();
                    }
                    _ => next_at = Instant::now(),
                },
                () = sleep_until(next_at.into()) => {}
            }
            if Instant::now() >= deadline {
                return failure;
            }
        }
    }

    /// Who is asked next, after `asked`: who is not dead and was asked least, suspects last; else the least dead, if it is
    /// time to look.
    fn choose(&self, asked: &[usize], now: Instant) -> Option<usize> {
        if asked.len() >= TRIES_MAX {
            return None;
        }
        let times = |at: usize| asked.iter().filter(|upstream| **upstream == at).count();
        let mut dead = Vec::new();
        let mut next = None;
        for at in 0..self.healths.len() {
            let (is_dead, is_suspect, unanswered) =
                self.health(at, |health| (health.is_dead(), health.is_suspect(), health.unanswered));
            let rank = (times(at), is_suspect, at);
            if is_dead {
                dead.push((unanswered, at));
            } else if rank.0 < if is_suspect { 1 } else { TRIES_EACH } {
                next = Some(next.map_or(rank, |best| rank.min(best)));
            }
        }
        dead.sort_unstable();
        let mut looks = dead.into_iter().map(|(_, at)| at).filter(|at| times(*at) == 0);
        let next = next.map(|(_, _, at)| at);
        next.or_else(|| looks.find(|at| self.health(*at, |health| health.may_look(now))))
    }

    async fn try_one(
        self: Arc<Self>,
        upstream: usize,
        question: Arc<DnsQuestion>,
        deadline: Instant,
    ) -> (usize, Option<Vec<u8>>) {
        let begun = Instant::now();
        self.tries.fetch_add(1, Relaxed);
        let mut exchange = Box::pin(self.exchange(self.settings.upstreams[upstream], &question));
        let mut result = timeout(self.settings.patience, &mut exchange).await;
        if result.is_err() {
            self.was_silent(upstream, begun);
            result = timeout_at(deadline.into(), exchange).await;
        } else if matches!(result, Ok(Err(_))) {
            self.was_silent(upstream, begun);
        }
        let answer = result.ok().and_then(Result::ok);
        if answer.is_some() {
            self.health(upstream, Health::answered_member);
        }
        (upstream, answer)
    }

    /// A try from `begun` on had no answer: is it the name, or the upstream?
    fn was_silent(self: &Arc<Self>, upstream: usize, begun: Instant) {
        if self.health(upstream, |health| health.was_silent(begun)) {
            tokio::spawn(probe(Arc::downgrade(self), upstream));
        }
    }

    /// Asks an upstream our own question, so many times within its patience; whether it answers.
    async fn answers_probe(self: &Arc<Self>, upstream: usize, copies: u32) -> bool {
        let end = Instant::now() + self.settings.patience;
        let mut asking = JoinSet::new();
        for copy in 0..copies {
            let this = self.clone();
            asking.spawn(async move {
                sleep(this.settings.patience * copy / copies).await;
                this.tries.fetch_add(1, Relaxed);
                let question = DnsQuestion { token: 0, transport: DnsTransport::Udp, message: PROBE.to_vec() };
                this.exchange(this.settings.upstreams[upstream], &question).await.is_ok()
            });
        }
        while let Ok(Some(done)) = timeout_at(end.into(), asking.join_next()).await {
            if done.unwrap_or(false) {
                return true;
            }
        }
        false
    }

    async fn exchange(&self, address: SocketAddr, question: &DnsQuestion) -> io::Result<Vec<u8>> {
        let by_udp = match question.transport {
            DnsTransport::Udp => self.by_udp(address, &question.message).await?,
            DnsTransport::Tcp => None,
        };
        match by_udp {
            Some(answer) => Ok(answer),
            None => by_tcp(address, &question.message).await,
        }
    }

    /// The answer by UDP; `None` if somebody tries to guess the id.
    async fn by_udp(&self, address: SocketAddr, message: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        let query = with_random_id(message)?;
        socket.send(&query).await?;
        for _ in 0..GUESSES_MAX {
            let answer = receive(&socket).await?;
            if is_answer_to(&answer, &query) {
                return Ok(Some(answer));
            }
            self.forged.fetch_add(1, Relaxed);
        }
        Ok(None)
    }

    fn health<T>(&self, upstream: usize, look: impl FnOnce(&mut Health) -> T) -> T {
        look(&mut self.healths[upstream].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Asks an upstream our own question now and then until it answers that or another one.
async fn probe(upstreams: Weak<Upstreams>, upstream: usize) {
    let mut copies = PROBE_COPIES;
    // Weak, so that nobody probes for a hub that is gone.
    while let Some(upstreams) = upstreams.upgrade() {
        if !upstreams.health(upstream, Health::is_probe_wanted) {
            break;
        }
        let is_answered = upstreams.answers_probe(upstream, copies).await;
        let Some(pause) = upstreams.health(upstream, |health| health.was_probed(is_answered)) else { break };
        drop(upstreams);
        sleep(pause).await;
        copies = 1;
    }
}

/// Asks what comes by `questions` until that ends; `answered` gets each answer.
pub async fn run(
    upstreams: Arc<Upstreams>,
    mut questions: UnboundedReceiver<DnsQuestion>,
    answered: impl Fn(DnsAnswer) + Clone + Send + 'static,
) {
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            question = questions.recv() => {
                let Some(question) = question else { break };
                let (upstreams, answered) = (upstreams.clone(), answered.clone());
                under_way.spawn(async move {
                    let answer = upstreams.resolve(question).await;
                    answered(answer);
                });
            }
            // So that those that ended take no memory.
            Some(_) = under_way.join_next() => {}
        }
    }
}

/// The name servers that `text`, in the form of `/etc/resolv.conf`, names.
pub fn name_servers(text: &str) -> Vec<SocketAddr> {
    let words = text.lines().map(|line| line.split_whitespace());
    let servers = words.filter_map(|mut words| match (words.next(), words.next()) {
        (Some("nameserver"), Some(address)) => address.parse::<IpAddr>().ok(),
        _ => None,
    });
    servers.map(|address| (address, dns::PORT).into()).take(SERVERS_MAX).collect()
}

/// How an upstream fares.
#[derive(Debug, Default)]
struct Health {
    /// Members' questions without answer since the last answer.
    silences: u32,
    /// Our own questions without answer since then.
    unanswered: u32,
    is_probed: bool,
    /// Whether it ever answered a member, and us.
    knows_members: bool,
    knows_probe: bool,
    answered_at: Option<Instant>,
    look_at: Option<Instant>,
}

impl Health {
    fn is_dead(&self) -> bool {
        // Who answers members, but never answered us, may have something against our question.
        let proof = if self.knows_members && !self.knows_probe { UNANSWERED_DEAD_UNPROVEN } else { UNANSWERED_DEAD };
        self.silences >= SILENCES_DEAD && self.unanswered >= proof
    }

    fn is_suspect(&self) -> bool {
        self.silences >= SILENCES_DEAD
    }

    /// Whether a dead one may be tried; only one question at a time is told so.
    fn may_look(&mut self, now: Instant) -> bool {
        if self.look_at.is_some_and(|at| now < at) {
            return false;
        }
        self.look_at = Some(now + self.pause());
        true
    }

    fn answered(&mut self) {
        (self.silences, self.unanswered) = (0, 0);
        (self.answered_at, self.look_at) = (Some(Instant::now()), None);
    }

    fn answered_member(&mut self) {
        self.answered();
        self.knows_members = true;
    }

    /// A try from `begun` on had no answer; it tells nothing if another one since had. Whether to begin to probe.
    fn was_silent(&mut self, begun: Instant) -> bool {
        if self.answered_at.is_some_and(|at| at > begun) {
            return false;
        }
        self.silences = self.silences.saturating_add(1);
        !std::mem::replace(&mut self.is_probed, true)
    }

    /// Whether the one who probes is to go on.
    fn is_probe_wanted(&mut self) -> bool {
        self.is_probed = self.silences > 0;
        self.is_probed
    }

    /// What came of our own question; how long to wait before the next, if there is to be one.
    fn was_probed(&mut self, is_answered: bool) -> Option<Duration> {
        if is_answered {
            self.answered();
            self.knows_probe = true;
        }
        if !self.is_probe_wanted() {
            return None;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        let pause = self.pause();
        self.look_at.get_or_insert(Instant::now() + pause);
        Some(pause)
    }

    /// Doubles up to [`LOOK_EVERY_MAX`].
    fn pause(&self) -> Duration {
        (LOOK_EVERY_MIN * 2u32.pow(self.unanswered.min(8))).min(LOOK_EVERY_MAX)
    }
}

/// One datagram, or what ICMP said about ours.
async fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            // Seen, and not there: without this it would be seen again at once.
            let _ = socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        match try_receive(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

/// The buffer is on the stack, so that nobody holds 64 KiB while he waits.
fn try_receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    let length = socket.try_recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

async fn by_tcp(address: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let query = with_random_id(message)?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(address).await?;
    // One segment for both (RFC 7766 §8).
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = Vec::new();
    (&mut stream).take(u64::from(length)).read_to_end(&mut answer).await?;
    if answer.len() == usize::from(length) && is_answer_to(&answer, &query) {
        Ok(answer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn with_random_id(message: &[u8]) -> io::Result<Vec<u8>> {
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| io::Error::other("no randomness"))?;
    let mut query = message.to_vec();
    dns::set_id(&mut query, u16::from_be_bytes(id));
    Ok(query)
}

fn is_answer_to(answer: &[u8], query: &[u8]) -> bool {
    answer.get(..2) == query.get(..2) && answers(answer, query)
}

fn is_failure(answer: &[u8]) -> bool {
    Dns::new_checked(answer).is_none_or(|dns| matches!(dns.rcode(), RCODE_SERVER_FAILURE | RCODE_REFUSED))
}

/// A datagram has 16 bits of length.
const MESSAGE_BYTES_MAX: usize = 65_535;
/// Of one question: to all upstreams together, and to each.
const TRIES_MAX: usize = 6;
const TRIES_EACH: usize = 2;
/// Wrong datagrams to one socket: with 4 guesses at 65,536 ids and some 28,000 ports nobody gets far.
const GUESSES_MAX: u32 = 4;
/// Two are bad luck.
const SILENCES_DEAD: u32 = 3;
/// Our own questions that a dead one left without answer; one that may just not know them left more, some 30 s long.
const UNANSWERED_DEAD: u32 = 1;
const UNANSWERED_DEAD_UNPROVEN: u32 = 8;
/// The first time our question is asked thrice, as a single datagram gets lost.
const PROBE_COPIES: u32 = 3;
/// `. NS`, recursion desired: any resolver has the answer at hand, and no member has a say in it.
const PROBE: [u8; 17] = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
/// How often a dead one is tried.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(500);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(5);
/// More are never reached before the deadline.
const SERVERS_MAX: usize = 8;
