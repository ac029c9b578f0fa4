//! Members behind a NAT on one thread: all boot, all open flows, all look whether their flows are still theirs.
//!
//! A flow tells the far end who it is by its data (`Crowd::tag`), and learns from it how it is seen
//! (`echo`), so that mixed-up flows and external endpoints given twice are found here, without any state there.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hdrhistogram::Histogram;
use hublane::sys::clock::monotonic;
use hublane::tick::Tick;
use hublane::wire::ethernet::Mac;
use hublane::wire::tcp::{FLAG_ACK, FLAG_SYN};
use hublane::worker::io::{StreamIo, Wait};

use crate::driver::{Arrivals, Driver, Member};
use crate::echo::seen;
use crate::nat_client::Client;
use crate::nat_wire::{Arrival, Ends, FLAG_PSH, FLAG_RST, Segment, frame, read, tcp_packet, udp_packet};
use crate::traffic::mac;

/// What flows there are.
#[derive(Clone, Copy)]
pub(crate) struct Flows {
    /// By member.
    pub(crate) each: usize,
    /// Flow k of a member goes to this address plus k.
    pub(crate) first: Ipv4Addr,
    /// Addresses there are; then it begins anew.
    pub(crate) spread: u32,
    /// Port of all of them.
    pub(crate) port: u16,
    /// UDP instead of TCP.
    pub(crate) udp: bool,
}

/// Members and their flows.
pub(crate) struct Crowd {
    clients: Vec<Client>,
    what: Flows,
    /// Flow k of member m is number `m * each + k`.
    flows: Vec<Flow>,
    /// To be sent.
    out: VecDeque<(usize, Vec<u8>)>,
    /// When flows are looked at again.
    again: VecDeque<(Tick, usize)>,
    pub(crate) counts: Counts,
    /// How long leases took, in microseconds.
    pub(crate) lease_us: Histogram<u64>,
    /// When the last lease came.
    pub(crate) last_lease: Tick,
}

/// What happened, in numbers.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) leases: u64,
    pub(crate) ready: usize,
    pub(crate) open: u64,
    /// RST in answer to a SYN.
    pub(crate) reset: u64,
    /// Destination Unreachable, by code.
    pub(crate) unreachable: HashMap<u8, u64>,
    /// Questions of flows sent again.
    pub(crate) again: u64,
    /// Flows that answered the check.
    pub(crate) alive: u64,
    /// Answers that were for another flow.
    pub(crate) misdelivered: u64,
    /// UDP flows that were seen at another endpoint than before.
    pub(crate) moved: u64,
    /// Frames that found no room.
    pub(crate) dropped_here: u64,
    /// What arrived and was no frame.
    pub(crate) broken: u64,
}

#[derive(Clone, Copy, Default)]
struct Flow {
    stage: Stage,
    tries: u8,
    /// External port and low half of the external address.
    seen: u32,
}

/// In this order; who is open stays so.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
enum Stage {
    #[default]
    Unopened,
    Opening,
    Refused,
    Open,
    Checking,
    Alive,
}

impl Crowd {
    /// `members` members that have not begun.
    pub(crate) fn new(members: usize, what: Flows) -> Self {
        Self {
            clients: (0..members).map(|number| Client::new(number, Mac(mac(number)))).collect(),
            what,
            flows: vec![Flow::default(); members * what.each],
            out: VecDeque::new(),
            again: VecDeque::new(),
            counts: Counts::default(),
            lease_us: Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds in order"),
            last_lease: Tick(0),
        }
    }

    /// Members without a lease; addresses that more than one has.
    pub(crate) fn leases(&self) -> (usize, usize) {
        let mut owners: HashMap<Ipv4Addr, usize> = HashMap::new();
        for address in self.clients.iter().filter_map(Client::address) {
            *owners.entry(address).or_default() += 1;
        }
        let without = self.clients.iter().filter(|client| client.address().is_none()).count();
        (without, owners.values().filter(|count| **count > 1).count())
    }

    /// DHCP questions sent again, and NAKs.
    pub(crate) fn trouble(&self) -> (u64, u64) {
        let sum = |of: fn(&Client) -> u32| self.clients.iter().map(|client| u64::from(of(client))).sum();
        (sum(|client| client.retries), sum(|client| client.refused))
    }

    /// Flows that share external endpoint and destination with another: what a server saw would name two members.
    /// Then external addresses and endpoints (address and port) in use.
    pub(crate) fn traces(&self) -> (u64, usize, usize) {
        let mut traces: HashMap<(u32, Ipv4Addr), u64> = HashMap::new();
        let mut endpoints: HashMap<u32, u64> = HashMap::new();
        let mut addresses: HashMap<u32, u64> = HashMap::new();
        for (number, flow) in self.flows.iter().enumerate().filter(|(_, flow)| flow.stage >= Stage::Open) {
            *traces.entry((flow.seen, self.target(number))).or_default() += 1;
            *endpoints.entry(flow.seen).or_default() += 1;
            *addresses.entry(flow.seen & 0xffff).or_default() += 1;
        }
        let ambiguous = traces.values().filter(|count| **count > 1).sum();
        (ambiguous, addresses.len(), endpoints.len())
    }

    fn target(&self, number: usize) -> Ipv4Addr {
        let at = u32::try_from(number % self.what.each).unwrap_or(0) % self.what.spread;
        Ipv4Addr::from(u32::from(self.what.first).wrapping_add(at))
    }

    /// Both ends of a flow as its member sees them; the router's card.
    fn ends(&self, number: usize) -> Option<(Ends, Mac)> {
        let (src, router) = self.clients[number / self.what.each].ready()?;
        let src_port = PORT_FIRST + u16::try_from(number % self.what.each).ok()?;
        Some((Ends { src, src_port, dst: self.target(number), dst_port: self.what.port }, router))
    }

    /// The number of the flow with the member's end `ends` (as sent).
    fn number(&self, member: usize, ends: Ends) -> Option<usize> {
        let k = usize::from(ends.src_port.checked_sub(PORT_FIRST)?);
        let number = member * self.what.each + k;
        (k < self.what.each && self.ends(number)?.0 == ends).then_some(number)
    }

    /// Says which flow it is.
    fn tag(number: usize) -> [u8; 8] {
        (number as u64).to_be_bytes()
    }

    /// Where a flow's sequence numbers begin.
    fn first_seq(number: usize) -> u32 {
        u32::try_from(number & 0xffff_ffff).unwrap_or(0).wrapping_mul(0x9e37_79b1)
    }

    /// Sends the question that belongs to the flow's stage, and looks at it again later.
    fn ask(&mut self, number: usize, now: Tick) {
        let Some((ends, router)) = self.ends(number) else { return };
        let member = number / self.what.each;
        let Flow { stage, seen, .. } = self.flows[number];
        let (seq, ack) = (Self::first_seq(number).wrapping_add(1), seen.wrapping_add(1));
        let packet = match (self.what.udp, stage) {
            (true, _) => udp_packet(ends, &Self::tag(number)),
            (false, Stage::Opening) => {
                tcp_packet(ends, Segment { seq: seq.wrapping_sub(1), ack: 0, flags: FLAG_SYN }, &[])
            }
            (false, _) => tcp_packet(ends, Segment { seq, ack, flags: FLAG_PSH | FLAG_ACK }, &Self::tag(number)),
        };
        self.out.push_back((member, frame(self.clients[member].mac(), router, &packet)));
        self.again.push_back((now + AGAIN, number));
    }

    fn heard_tcp(&mut self, member: usize, ends: Ends, segment: Segment, payload: &[u8]) {
        let Some(number) = self.number(member, ends.back()) else { return self.counts.misdelivered += 1 };
        let seq = Self::first_seq(number).wrapping_add(1);
        let flow = &mut self.flows[number];
        match flow.stage {
            Stage::Opening if segment.flags & FLAG_RST != 0 => {
                flow.stage = Stage::Refused;
                self.counts.reset += 1;
            }
            Stage::Opening if segment.flags & FLAG_SYN != 0 && segment.ack == seq => {
                (flow.stage, flow.seen) = (Stage::Open, segment.seq);
                self.counts.open += 1;
                let Some((ends, router)) = self.ends(number) else { return };
                let ack = Segment { seq, ack: segment.seq.wrapping_add(1), flags: FLAG_ACK };
                let packet = tcp_packet(ends, ack, &[]);
                self.out.push_back((member, frame(self.clients[member].mac(), router, &packet)));
            }
            Stage::Checking if !payload.is_empty() => self.checked(number, payload),
            _ => {}
        }
    }

    fn heard_udp(&mut self, member: usize, ends: Ends, payload: &[u8]) {
        let number = self.number(member, ends.back());
        let (Some(number), Some((tag, [a, b, c, d, e, f]))) = (number, payload.split_first_chunk::<8>()) else {
            return self.counts.misdelivered += 1;
        };
        let at = seen(Ipv4Addr::new(*a, *b, *c, *d), u16::from_be_bytes([*e, *f]));
        let flow = &mut self.flows[number];
        match flow.stage {
            Stage::Opening => {
                (flow.stage, flow.seen) = (Stage::Open, at);
                self.counts.open += 1;
            }
            Stage::Checking => {
                self.counts.moved += u64::from(flow.seen != at);
                self.checked(number, tag);
            }
            _ => {}
        }
    }

    fn checked(&mut self, number: usize, tag: &[u8]) {
        if tag == Self::tag(number) {
            self.flows[number].stage = Stage::Alive;
            self.counts.alive += 1;
        } else {
            self.counts.misdelivered += 1;
        }
    }

    /// Sends again what was not answered; gives up after [`TRIES`].
    fn look_again(&mut self, now: Tick) {
        while self.again.front().is_some_and(|(when, _)| *when <= now) {
            let Some((_, number)) = self.again.pop_front() else { return };
            let flow = &mut self.flows[number];
            if !matches!(flow.stage, Stage::Opening | Stage::Checking) {
                continue;
            }
            flow.tries += 1;
            if flow.tries < TRIES {
                self.counts.again += 1;
                self.ask(number, now);
            }
        }
    }
}

impl Arrivals for Crowd {
    fn frame(&mut self, member: usize, bytes: &[u8], now: Tick) {
        match read(bytes) {
            Arrival::Tcp(ends, segment, payload) => self.heard_tcp(member, ends, segment, payload),
            Arrival::Udp(ends, payload) if ends.src_port == self.what.port => self.heard_udp(member, ends, payload),
            Arrival::Unreachable(code, about) => {
                *self.counts.unreachable.entry(code).or_default() += 1;
                let Some(number) = self.number(member, about) else { return };
                if self.flows[number].stage == Stage::Opening {
                    self.flows[number].stage = Stage::Refused;
                }
            }
            arrival => {
                let was_ready = self.clients[member].ready().is_some();
                let (answer, leased) = self.clients[member].hear(&arrival, now);
                self.out.extend(answer.map(|frame| (member, frame)));
                if let Some(took) = leased {
                    self.lease_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                    (self.counts.leases, self.last_lease) = (self.counts.leases + 1, now);
                }
                self.counts.ready += usize::from(!was_ready && self.clients[member].ready().is_some());
            }
        }
    }

    fn broken(&mut self) {
        self.counts.broken += 1;
    }
}

/// A crowd with its links.
pub(crate) struct Load<Io> {
    driver: Driver<Io>,
    pub(crate) crowd: Crowd,
    polled: Tick,
}

impl<Io: StreamIo<Socket = OwnedFd>> Load<Io> {
    /// Takes over the members, numbered from 0 in this order.
    pub(crate) fn new(io: Io, members: Vec<Member>, what: Flows) -> io::Result<Self> {
        let mut load = Self { driver: Driver::new(io), crowd: Crowd::new(members.len(), what), polled: Tick(0) };
        for (number, member) in members.into_iter().enumerate() {
            let at = load.driver.add(member, &mut load.crowd)?;
            debug_assert_eq!(at, number, "nobody has left");
        }
        Ok(load)
    }

    /// Connections lost.
    pub(crate) fn lost(&self) -> u64 {
        self.driver.lost()
    }

    /// Members begin one after the other, all within `span`; until all have lease and router, or `patience` after that.
    pub(crate) fn boot(&mut self, span: Duration, patience: Duration) -> io::Result<Tick> {
        let members = self.crowd.clients.len();
        let began = monotonic();
        let mut started = 0;
        while self.crowd.counts.ready < members && monotonic() < began + span + patience {
            let now = monotonic();
            while started < members && share(began, now, span) * members as f64 > started as f64 {
                let question = self.crowd.clients[started].start(now);
                self.crowd.out.push_back((started, question));
                started += 1;
            }
            self.step(now)?;
        }
        Ok(began)
    }

    /// Every member opens its first flow, then every member its second one and so on, `rate` a second.
    pub(crate) fn open(&mut self, rate: f64) -> io::Result<()> {
        let (each, members) = (self.crowd.what.each, self.crowd.clients.len());
        let order = move |at: usize| at % members * each + at / members;
        self.paced(rate, members * each, |crowd, at, now| {
            let number = order(at);
            if crowd.clients[number / each].ready().is_some() {
                crowd.flows[number] = Flow { stage: Stage::Opening, ..Flow::default() };
                crowd.ask(number, now);
            }
        })
    }

    /// Every open flow sends something and waits for it to come back.
    pub(crate) fn check(&mut self, rate: f64) -> io::Result<()> {
        self.paced(rate, self.crowd.flows.len(), |crowd, number, now| {
            if crowd.flows[number].stage == Stage::Open {
                (crowd.flows[number].stage, crowd.flows[number].tries) = (Stage::Checking, 0);
                crowd.ask(number, now);
            }
        })
    }

    /// `what` for 0 to `count` - 1, `rate` a second; ends when nothing is looked at again.
    fn paced(&mut self, rate: f64, count: usize, what: impl Fn(&mut Crowd, usize, Tick)) -> io::Result<()> {
        let (began, mut done) = (monotonic(), 0);
        let span = Duration::from_secs_f64(count as f64 / rate);
        while done < count || !self.crowd.again.is_empty() {
            let now = monotonic();
            let due = (share(began, now, span) * count as f64).ceil();
            let mut room = PER_TURN;
            while done < count && (done as f64) < due && room > 0 {
                what(&mut self.crowd, done, now);
                (done, room) = (done + 1, room - 1);
            }
            self.step(now)?;
        }
        Ok(())
    }

    fn step(&mut self, now: Tick) -> io::Result<()> {
        self.crowd.look_again(now);
        if now >= self.polled + POLL {
            self.polled = now;
            for (number, client) in self.crowd.clients.iter_mut().enumerate() {
                self.crowd.out.extend(client.poll(now).map(|question| (number, question)));
            }
        }
        for (member, frame) in self.crowd.out.drain(..) {
            if !self.driver.push(member, &frame, now) {
                self.crowd.counts.dropped_here += 1;
            }
        }
        self.driver.flush(now);
        self.driver.turn(Wait::For(TURN), &mut self.crowd)
    }
}

/// How much of `span` has passed, at most all of it.
fn share(began: Tick, now: Tick, span: Duration) -> f64 {
    (now.since(began).as_secs_f64() / span.as_secs_f64().max(1e-9)).min(1.0)
}

/// Source port of a member's first flow.
const PORT_FIRST: u16 = 20_000;

/// Silence after which a flow asks again, and how often it asks in all.
const AGAIN: Duration = Duration::from_secs(1);
const TRIES: u8 = 4;

/// Flows handled in a turn, so that what arrives is not kept waiting.
const PER_TURN: usize = 256;

/// Longest turn, and distance of two looks at members that boot.
const TURN: Duration = Duration::from_millis(1);
const POLL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use hublane::wire::arp::{Arp, Operation};

    use super::*;
    use crate::echo::Echo;
    use crate::nat_wire::{ACK, OFFER, Reply};

    const ROUTER: Mac = Mac([2, 9, 9, 9, 9, 9]);
    const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const FAR: Echo = Echo { first: Ipv4Addr::new(198, 51, 100, 100), addresses: 3, cpu: None };

    /// Two members with leases and three flows each.
    fn crowd(udp: bool) -> Crowd {
        let mut crowd = Crowd::new(2, Flows { each: 3, first: FAR.first, spread: 3, port: 80, udp });
        for (number, client) in crowd.clients.iter_mut().enumerate() {
            let question = client.start(Tick(0));
            let Arrival::Udp(_, message) = read(&question) else { panic!("a datagram") };
            let xid = u32::from_be_bytes(*message[4..].first_chunk().unwrap());
            let address = Ipv4Addr::new(100, 64, 0, 10 + u8::try_from(number).unwrap());
            for kind in [OFFER, ACK] {
                let reply = Reply { kind, xid, address, server: ROUTER_ADDRESS, router: ROUTER_ADDRESS };
                client.hear(&Arrival::Dhcp(reply), Tick(0));
            }
            let (operation, target_mac) = (Operation::Reply, client.mac());
            let arp = Arp { operation, sender_mac: ROUTER, sender: ROUTER_ADDRESS, target_mac, target: address };
            client.hear(&Arrival::Arp(arp), Tick(0));
        }
        crowd
    }

    /// Carries what waits to the far end and back, through a NAT that gives member and flow `port(member, flow)`.
    fn carry(crowd: &mut Crowd, port: impl Fn(u16, u16) -> u16) {
        let mut answers = Vec::new();
        for (member, bytes) in std::mem::take(&mut crowd.out) {
            let translate = |ends: Ends| {
                let inside = u16::from(ends.src.octets()[3]) - 10;
                Ends { src: OUTSIDE, src_port: port(inside, ends.src_port - PORT_FIRST), ..ends }
            };
            let (inside, packet) = match read(&bytes) {
                Arrival::Tcp(ends, segment, payload) => (ends, tcp_packet(translate(ends), segment, payload)),
                Arrival::Udp(ends, payload) => (ends, udp_packet(translate(ends), payload)),
                other => panic!("{other:?}"),
            };
            let Some((_, packet)) = FAR.answer(&packet) else { continue };
            let back = match crate::nat_wire::read_packet(&packet) {
                Arrival::Tcp(_, segment, payload) => tcp_packet(inside.back(), segment, payload),
                Arrival::Udp(_, payload) => udp_packet(inside.back(), payload),
                other => panic!("{other:?}"),
            };
            answers.push((member, frame(ROUTER, crowd.clients[member].mac(), &back)));
        }
        for (member, frame) in answers {
            crowd.frame(member, &frame, Tick(0));
        }
    }

    fn all(crowd: &mut Crowd, stage: Stage, port: impl Fn(u16, u16) -> u16 + Copy) {
        for number in 0..crowd.flows.len() {
            crowd.flows[number].stage = stage;
            crowd.ask(number, Tick(0));
        }
        carry(crowd, port);
    }

    #[test]
    fn flows_open_and_find_their_way_back() {
        for udp in [false, true] {
            let mut crowd = crowd(udp);
            // One port for all flows of a member: their destinations differ.
            let port = |member, _| 4000 + member;
            all(&mut crowd, Stage::Opening, port);
            assert_eq!((crowd.counts.open, crowd.traces()), (6, (0, 1, 2)), "udp {udp}");
            crowd.out.clear();
            all(&mut crowd, Stage::Checking, port);
            assert_eq!((crowd.counts.alive, crowd.counts.misdelivered, crowd.counts.moved), (6, 0, 0), "udp {udp}");
        }
    }

    #[test]
    fn an_endpoint_of_two_members_is_ambiguous() {
        let mut crowd = crowd(false);
        // Flow 0 of both members is seen at the same endpoint.
        all(&mut crowd, Stage::Opening, |member, flow| if flow == 0 { 4000 } else { 5000 + 10 * member + flow });
        assert_eq!(crowd.traces(), (2, 1, 5));
    }

    #[test]
    fn what_is_for_another_flow_is_misdelivered() {
        let mut crowd = crowd(true);
        all(&mut crowd, Stage::Opening, |member, flow| 5000 + 10 * member + flow);
        let (mut ends, _) = crowd.ends(0).unwrap();
        let answer = |ends: Ends| frame(ROUTER, ROUTER, &udp_packet(ends.back(), &[0; 14]));
        crowd.frame(1, &answer(ends), Tick(0));
        assert_eq!(crowd.counts.misdelivered, 1, "at another member");
        ends.src_port += 1;
        crowd.frame(0, &answer(ends), Tick(0));
        assert_eq!(crowd.counts.misdelivered, 2, "from the destination of another flow");
    }

    #[test]
    fn silence_is_asked_again_and_then_given_up() {
        let mut crowd = crowd(false);
        crowd.flows[0].stage = Stage::Opening;
        crowd.ask(0, Tick(0));
        let mut now = Tick(0);
        for _ in 0..10 {
            now = now + AGAIN;
            crowd.look_again(now);
        }
        assert_eq!((crowd.out.len(), crowd.again.len()), (usize::from(TRIES), 0));
        assert_eq!(crowd.counts.open, 0);
    }
}
