//! The pure half of the DNS forwarder (RFC 5625): who asks what, who waits for which answer.
//!
//! 1. what is no question, or one too many, ends here
//! 2. what needs no upstream is answered: withheld types, names of members (`names`), answers kept (`cache`)
//! 3. one question is at the upstreams once at a time (RFC 5452 §5): who asks the same waits for the same answer; who asks
//!    for the same with other flags or options waits until it is his turn
//! 4. an answer goes back as it came, with the asker's id; by UDP cut with TC where it is too long for him
//!
//! The other half, `src/control/dns.rs`, talks to the upstreams.
#![forbid(unsafe_code)]

mod cache;
mod messages;
mod names;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::datagram::PAYLOAD_BYTES_MAX;
use super::sessions::Usage;
use super::tcp::ConnRef;
use crate::ids::{PortId, SessionId};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::dns::{
    self, CLASS_IN, Dns, Question, RCODE_FORMAT, RCODE_NO_ERROR, RCODE_NO_NAME, RCODE_SERVER_FAILURE, TYPE_AAAA,
};
use crate::wire::ethernet::Mac;

use cache::Cache;
use messages::OwnRecord;
use names::{Names, Said};

/// By which way a question came, and is to be asked upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsTransport {
    /// A datagram; the answer may be cut (TC).
    Udp,
    /// A connection; the answer is whole, up to 64 KiB.
    Tcp,
}

/// A question for the upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsQuestion {
    /// By which the answer finds back.
    pub token: u64,
    /// How to ask.
    pub transport: DnsTransport,
    /// The message as the member sent it, but its id is 0: who asks takes a random one for each try.
    pub message: Vec<u8>,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// Of the question.
    pub token: u64,
    /// The message as it came, whatever its id; `None`: no upstream answered.
    pub message: Option<Vec<u8>>,
}

/// The forwarder, as configured. A limit of 0 means any number, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// Whether questions for AAAA get the answer that there is none.
    pub withhold_aaaa: bool,
    /// Questions of a session each second, in bursts of as many.
    pub questions_per_sec: u32,
    /// Questions of a session that may wait for an answer; at least 1.
    pub waiting_per_session: u32,
    /// Questions at the upstreams; at least 1.
    pub flights_max: usize,
    /// Askers who wait for answers, all together; at least 1.
    pub waiting_max: usize,
    /// Answers kept; 0: none.
    pub cache_entries: usize,
    /// Bytes of the answers kept.
    pub cache_bytes: usize,
    /// Zone in which members have their DHCP host names (`hub.internal`); `None`: nowhere.
    pub zone: Option<String>,
    /// Whether each question is an event.
    pub log_questions: bool,
    /// TCP connections; 0: none.
    pub connections_max: usize,
    /// TCP connections of a session; at least 1.
    pub connections_per_session: usize,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            withhold_aaaa: false,
            // Loading a page full of advertisements asks some dozens at once.
            questions_per_sec: 100,
            // A few per cent of what the upstreams are asked at a time, so that no handful of members takes all of it.
            waiting_per_session: 32,
            flights_max: 4096,
            waiting_max: 16_384,
            cache_entries: 0,
            cache_bytes: 8 << 20,
            zone: None,
            log_questions: false,
            connections_max: 128,
            connections_per_session: 4,
        }
    }
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// To this card, address and UDP port behind this port of the hub.
    Udp { port: PortId, mac: Mac, address: Ipv4Addr, udp_port: u16 },
    /// Into this connection.
    Tcp(ConnRef),
}

/// Somebody who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asker {
    pub(super) session: SessionId,
    pub(super) way: Way,
}

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// This is the answer.
    Answer(Vec<u8>),
    /// The upstreams are to be asked; the asker waits.
    Forward(DnsQuestion),
    /// The asker waits for an answer that is on its way.
    Waits,
    /// It ends here.
    Drop(DropReason),
}

/// An answer for one asker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) asker: Asker,
    pub(super) message: Vec<u8>,
}

/// What an answer leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) deliveries: Vec<Delivery>,
    /// The next question, which waited for this one.
    pub(super) next: Option<DnsQuestion>,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Forwarder {
    settings: DnsSettings,
    names: Names,
    cache: Cache,
    flights: HashMap<u64, Flight>,
    by_question: HashMap<Box<[u8]>, u64>,
    /// In the order in which they end, as all take the same time.
    ends: VecDeque<(Tick, u64)>,
    waiting: usize,
    token: u64,
}

/// A question at the upstreams, and others for the same that wait for their turn.
#[derive(Debug)]
struct Flight {
    /// Name in lower case, type and class.
    key: Box<[u8]>,
    current: Variant,
    queue: VecDeque<Variant>,
}

/// One way to ask a question: case, flags, options.
#[derive(Debug)]
struct Variant {
    transport: DnsTransport,
    /// Its id is 0.
    message: Vec<u8>,
    waiters: HashSet<Waiter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Waiter {
    asker: Asker,
    id: u16,
}

impl Variant {
    /// Whether nobody but `session` waits for it.
    fn is_of(&self, session: SessionId) -> bool {
        self.waiters.iter().all(|waiter| waiter.asker.session == session)
    }
}

impl Forwarder {
    /// `first` and `last` are the addresses that can have names.
    pub(super) fn new(settings: DnsSettings, first: Ipv4Addr, last: Ipv4Addr) -> Self {
        Self {
            names: Names::new(settings.zone.as_deref(), first, last),
            cache: Cache::new(settings.cache_entries, settings.cache_bytes),
            flights: HashMap::new(),
            by_question: HashMap::new(),
            ends: VecDeque::new(),
            waiting: 0,
            token: 0,
            settings,
        }
    }

    /// `asker` sent `message`, of which `usage` tells what he has had.
    pub(super) fn ask(&mut self, message: &[u8], asker: Asker, usage: &mut Usage, now: Tick) -> Asked {
        if !usage.questions.allow(self.settings.questions_per_sec, now) {
            return Asked::Drop(DropReason::GatewayDnsRate);
        }
        let dns = match Dns::new_checked(message) {
            // An answer to an answer would be one more answer (RFC 5358 is about such games).
            Some(dns) if !dns.is_answer() => dns,
            _ => return Asked::Drop(DropReason::GatewayDnsMalformed),
        };
        let Some(question) = dns.question().filter(|_| message.len() <= QUESTION_BYTES_MAX) else {
            return Asked::Answer(messages::own(dns, RCODE_FORMAT, false, None));
        };
        let mut asked = message.to_vec();
        dns::set_id(&mut asked, 0);
        if let Some(answer) = self.own_answer(dns, &question, &asked, now) {
            return Asked::Answer(answer_for(&answer, dns.id(), asker.way, &asked));
        }
        let waiter = Waiter { asker, id: dns.id() };
        let is_full = self.waiting >= self.settings.waiting_max.max(1)
            || usage.waiting >= self.settings.waiting_per_session.max(1);
        match self.join(key(&question), asked, waiter, is_full, now) {
            Ok(joined) => {
                self.waiting += 1;
                usage.waiting += 1;
                joined.map_or(Asked::Waits, Asked::Forward)
            }
            Err(reason) => Asked::Drop(reason),
        }
    }

    /// What came back. Who gets it and who was asked for next; `Err` if nobody waits for such an answer.
    pub(super) fn answered(&mut self, answer: &DnsAnswer, now: Tick) -> Result<Outcome, DropReason> {
        let flight = self.flights.get(&answer.token).ok_or(DropReason::GatewayDnsLate)?;
        match &answer.message {
            Some(message) if !answers(message, &flight.current.message) => Err(DropReason::GatewayDnsForged),
            message => Ok(self.land(answer.token, message.as_deref(), now)),
        }
    }

    /// A question that was out for too long; `None`: none (any more).
    pub(super) fn expired(&mut self, now: Tick) -> Option<Outcome> {
        while let Some((_, token)) = self.ends.front().copied().filter(|(end, _)| *end <= now) {
            self.ends.pop_front();
            if self.flights.contains_key(&token) {
                return Some(self.land(token, None, now));
            }
        }
        None
    }

    /// When [`Self::expired`] may have something.
    pub(super) fn next(&self) -> Tick {
        self.ends.front().map_or(Tick(u64::MAX), |(end, _)| *end)
    }

    /// Whether members have names.
    pub(super) fn has_zone(&self) -> bool {
        self.settings.zone.is_some()
    }

    /// `address` is with the host `name`; `None`: with nobody.
    pub(super) fn set_name(&mut self, address: Ipv4Addr, name: Option<&[u8]>) {
        match name {
            Some(name) => self.names.set(address, name),
            None => self.names.clear(address),
        }
    }

    /// An answer that needs no upstream.
    fn own_answer(&self, dns: Dns<'_>, question: &Question<'_>, asked: &[u8], now: Tick) -> Option<Vec<u8>> {
        let own = |rcode, data: Option<&[u8]>| {
            let record = data.map(|data| OwnRecord { data, ttl_s: OWN_TTL_S });
            Some(messages::own(dns, rcode, true, record))
        };
        match self.names.answer(question) {
            Said::Data(data) => return own(RCODE_NO_ERROR, Some(&data)),
            Said::NoData => return own(RCODE_NO_ERROR, None),
            Said::NoName => return own(RCODE_NO_NAME, None),
            Said::Elsewhere => {}
        }
        if self.settings.withhold_aaaa && (question.kind, question.class) == (TYPE_AAAA, CLASS_IN) {
            return Some(messages::own(dns, RCODE_NO_ERROR, false, None));
        }
        self.cache.get(asked, now)
    }

    /// Puts `waiter` where he gets his answer; returns what is to be asked for that, if anything. With `is_full` nobody
    /// new may wait.
    fn join(
        &mut self,
        key: Box<[u8]>,
        message: Vec<u8>,
        waiter: Waiter,
        is_full: bool,
        now: Tick,
    ) -> Result<Option<DnsQuestion>, DropReason> {
        let transport = match waiter.asker.way {
            Way::Udp { .. } => DnsTransport::Udp,
            Way::Tcp(_) => DnsTransport::Tcp,
        };
        let flight = self.by_question.get(&key).and_then(|token| self.flights.get_mut(token));
        let Some(flight) = flight else {
            if is_full || self.flights.len() >= self.settings.flights_max.max(1) {
                return Err(DropReason::GatewayDnsBusy);
            }
            let variant = Variant { transport, message, waiters: HashSet::from([waiter]) };
            return Ok(Some(self.start(Flight { key, current: variant, queue: VecDeque::new() }, now)));
        };
        let session = waiter.asker.session;
        let of_session = flight.queue.iter().filter(|variant| variant.is_of(session)).count();
        let has_room = flight.queue.len() < VARIANTS_MAX && of_session < VARIANTS_PER_SESSION;
        let same = |variant: &&mut Variant| variant.transport == transport && variant.message == message;
        match std::iter::once(&mut flight.current).chain(&mut flight.queue).find(same) {
            Some(variant) if variant.waiters.contains(&waiter) => Err(DropReason::GatewayDnsRepeated),
            _ if is_full => Err(DropReason::GatewayDnsBusy),
            Some(variant) => {
                variant.waiters.insert(waiter);
                Ok(None)
            }
            None if !has_room => Err(DropReason::GatewayDnsBusy),
            None => {
                flight.queue.push_back(Variant { transport, message, waiters: HashSet::from([waiter]) });
                Ok(None)
            }
        }
    }

    fn start(&mut self, flight: Flight, now: Tick) -> DnsQuestion {
        self.token += 1;
        let question = DnsQuestion {
            token: self.token,
            transport: flight.current.transport,
            message: flight.current.message.clone(),
        };
        self.by_question.insert(flight.key.clone(), self.token);
        self.flights.insert(self.token, flight);
        self.ends.push_back((now + FLIGHT_MAX, self.token));
        // Most ended long before their time.
        if self.ends.len() > 2 * self.settings.flights_max.max(32) {
            self.ends.retain(|(_, token)| self.flights.contains_key(token));
        }
        question
    }

    /// The question `token` ended, with `answer` or without.
    fn land(&mut self, token: u64, answer: Option<&[u8]>, now: Tick) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(mut flight) = self.flights.remove(&token) else { return outcome };
        self.by_question.remove(&flight.key);
        match answer {
            Some(answer) => {
                self.cache.put(&flight.current.message, answer, now);
                self.deliver(&flight.current, answer, &mut outcome);
                if let Some(next) = flight.queue.pop_front() {
                    flight.current = next;
                    outcome.next = Some(self.start(flight, now));
                }
            }
            // Whoever waits for the same would wait as long for nothing.
            None => {
                for variant in std::iter::once(&flight.current).chain(&flight.queue) {
                    if let Some(dns) = Dns::new_checked(&variant.message) {
                        self.deliver(variant, &messages::own(dns, RCODE_SERVER_FAILURE, false, None), &mut outcome);
                    }
                }
            }
        }
        outcome
    }

    fn deliver(&mut self, variant: &Variant, answer: &[u8], outcome: &mut Outcome) {
        self.waiting -= variant.waiters.len();
        outcome.deliveries.extend(variant.waiters.iter().map(|waiter| Delivery {
            asker: waiter.asker,
            message: answer_for(answer, waiter.id, waiter.asker.way, &variant.message),
        }));
    }
}

/// `answer` with the asker's id, as it fits his way.
fn answer_for(answer: &[u8], id: u16, way: Way, question: &[u8]) -> Vec<u8> {
    let bytes_max = match way {
        Way::Tcp(_) => usize::MAX,
        Way::Udp { .. } => {
            let asked = Dns::new_checked(question).map_or(dns::UDP_BYTES_MIN, Dns::udp_bytes_max);
            usize::from(asked).min(PAYLOAD_BYTES_MAX)
        }
    };
    let mut message = messages::fit(answer, bytes_max);
    dns::set_id(&mut message, id);
    message
}

/// Whether `answer` is one to `question`: its question is the same to the bit, case included (RFC 5452 §9.1).
pub fn answers(answer: &[u8], question: &[u8]) -> bool {
    let (Some(answer), Some(question)) = (Dns::new_checked(answer), Dns::new_checked(question)) else { return false };
    answer.is_answer() && answer.question().is_some() && answer.question() == question.question()
}

/// What a question is about, whatever its case.
fn key(question: &Question<'_>) -> Box<[u8]> {
    let mut key = question.name.to_ascii_lowercase();
    key.extend(question.kind.to_be_bytes());
    key.extend(question.class.to_be_bytes());
    key.into()
}

/// Longest question that is forwarded: names have up to 255 bytes, the rest is options.
pub(super) const QUESTION_BYTES_MAX: usize = 4096;
/// Ways to ask the same that may wait for their turn. Stock resolvers know two or three; nobody alone may fill the queue
/// before a name that others want.
const VARIANTS_MAX: usize = 32;
const VARIANTS_PER_SESSION: usize = 2;
/// Longer than the other half tries, so that only its loss shows here.
const FLIGHT_MAX: Duration = Duration::from_secs(8);
/// A member may leave at any time.
const OWN_TTL_S: u32 = 30;
