//! The hub's own host: what members find under the gateway's address.
//!
//! A port of the hub like any other, with one owner: the worker that has the [`Gateway`]. [`Gateway::frame`] takes what
//! the hub brought to that port:
//!
//! 1. ARP: answered for the gateway, and where the hub wants it for members ([`arp`])
//! 2. DHCP: before anything else of IPv4, for who asks has no address yet ([`dhcp`])
//! 3. binding: port, MAC and address of a packet are those of a lease, or of a member who logged in again ([`bindings`])
//! 4. ICMP echo, DNS by UDP and TCP, and "nobody here" for the rest (`icmp`, [`dns`], `tcp`)
//!
//! Answers go to the port the question came by, never to where its source address points. One frame makes one reply at
//! most, but for TCP; only announcements, and probes for the DHCP server, go to everybody, and both are limited.
#![forbid(unsafe_code)]

pub mod arp;
pub mod bindings;
pub mod datagram;
pub mod dhcp;
pub mod dns;

mod dhcp_port;
mod icmp;
mod sessions;
mod tcp;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::hub::limiter::StormLimiter;
use crate::ids::{MemberId, PortId, SessionId};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::arp::{self as arp_wire, Arp, Operation};
use crate::wire::ethernet::{Frame, Mac};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::{dhcp as dhcp_wire, dns as dns_wire, tcp as tcp_wire, udp};

use arp::{Announcer, Answer, ArpGuard, Claim};
use bindings::{Binding, Bindings};
use datagram::{Addressing, Datagram, FrameBuffer, MTU};
use dhcp::{DhcpEvent, DhcpRequest, DhcpServer, DhcpSettings};
use dhcp_port::DhcpPort;
use dns::{Asked, Asker, DnsAnswer, DnsQuestion, DnsSettings, Forwarder, Outcome, Way};
use sessions::Sessions;
use tcp::{TcpEnd, TcpLimits};

/// Who sent a frame: known from the port it came by, never from what stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The port.
    pub port: PortId,
    /// The session it belongs to.
    pub session: SessionId,
    /// The member logged in there.
    pub member: MemberId,
    /// Whether a network with many stations stands behind the port (bridge mode, relay agents).
    pub is_bridge: bool,
}

/// A gateway, as configured. A limit of 0 means any number.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Its card.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the inside network's prefix, 8 to 30.
    pub prefix_bits: u8,
    /// Whether it answers ARP for members from the binding table: in profile `public`, where questions reach nobody else.
    pub answers_for_members: bool,
    /// Whether only leased addresses are served. Without it also static ones, unless somebody else has a lease on them.
    pub bound_only: bool,
    /// ARP answers a session gets each second, in bursts of as many.
    pub arp_per_sec: u32,
    /// Echo replies a session gets each second.
    pub echo_per_sec: u32,
    /// ICMP errors a session gets each second.
    pub errors_per_sec: u32,
    /// Probes of the DHCP server, which go to everybody, each second.
    pub floods_per_sec: u32,
    /// Sessions whose limits are remembered at a time.
    pub sessions_max: usize,
    /// The DHCP server; `None`: there is none.
    pub dhcp: Option<DhcpSettings>,
    /// The DNS forwarder.
    pub dns: DnsSettings,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            mac: Mac([0x5e, 0, 0, 0, 0, 1]),
            address: Ipv4Addr::new(100, 64, 0, 1),
            prefix_bits: 16,
            answers_for_members: true,
            bound_only: true,
            // A desktop asks a few times a minute, a scan of its neighbours hundreds of times a second.
            arp_per_sec: 50,
            echo_per_sec: 200,
            // RFC 1812 §4.3.2.8; Linux allows one a second to an address.
            errors_per_sec: 10,
            floods_per_sec: 100,
            sessions_max: 16_384,
            dhcp: Some(DhcpSettings::for_network(Ipv4Addr::new(100, 64, 0, 1), 16)),
            dns: DnsSettings::default(),
        }
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// All that is to be done was done.
    Done,
    /// A packet for the Internet whose sender is bound (now): the caller may go on with NAT.
    Adopted,
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayEvent {
    /// ARP from `origin` said that `mac` has `address`, which is the gateway's (`holder` is `None`) or somebody's by lease.
    AddressClaimed {
        /// Who said it.
        origin: Origin,
        /// The card it named.
        mac: Mac,
        /// What it claimed.
        address: Ipv4Addr,
        /// Whose lease it is.
        holder: Option<Binding>,
    },
    /// The binding of `address` changed. NAT mappings of the binding before are not those of the one after.
    Bound {
        /// Which address.
        address: Ipv4Addr,
        /// Who had it.
        before: Option<Binding>,
        /// Who has it.
        after: Option<Binding>,
    },
    /// A question for the DNS; only if `log_questions` is set.
    Asked {
        /// Who asked.
        origin: Origin,
        /// The name as on the wire: labels with their lengths.
        name: Box<[u8]>,
        /// Its type.
        kind: u16,
    },
    /// Of the DHCP server.
    Dhcp(DhcpEvent),
}

/// What a gateway wants to be done.
pub trait GatewaySink {
    /// `frame` goes to exactly that port.
    fn reply(&mut self, to: PortId, frame: &[u8]);
    /// `frame` goes to everybody.
    fn flood(&mut self, frame: &[u8]);
    /// A line for the lease file; returns its number.
    fn journal(&mut self, record: &[u8]) -> u64;
    /// Like [`Self::reply`], once the record with this number is on disk.
    fn reply_when(&mut self, durable: u64, to: PortId, frame: &[u8]);
    /// A question for the upstreams, which comes back by [`Gateway::upstream_answered`].
    fn ask_upstream(&mut self, question: DnsQuestion);
    /// Something worth telling happened.
    fn event(&mut self, event: GatewayEvent);
    /// A frame or packet ends here.
    fn dropped(&mut self, reason: DropReason);
}

/// See the module text.
pub struct Gateway {
    settings: GatewaySettings,
    guard: ArpGuard,
    announcer: Announcer,
    floods: StormLimiter,
    sessions: Sessions,
    dhcp: Option<DhcpServer>,
    dns: Forwarder,
    tcp: TcpEnd,
    buffer: Box<FrameBuffer>,
}

/// By what right somebody uses his address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    /// It is his by lease.
    Lease,
    /// It is nobody's by lease.
    Static,
}

impl Gateway {
    /// `seed` is a number that members do not know.
    pub fn new(settings: GatewaySettings, bindings: Arc<Bindings>, seed: u64, now: Tick, unix_s: u64) -> Self {
        let (first, last) = inside(&settings);
        let limits = TcpLimits {
            connections_max: if settings.dns.enabled { settings.dns.connections_max } else { 0 },
            connections_per_session: settings.dns.connections_per_session.max(1),
        };
        Self {
            guard: ArpGuard { mac: settings.mac, address: settings.address, bindings },
            announcer: Announcer::new(now),
            floods: StormLimiter::default(),
            sessions: Sessions::new(settings.sessions_max),
            dhcp: settings.dhcp.clone().map(|dhcp| DhcpServer::new(dhcp, seed, now, unix_s)),
            dns: Forwarder::new(settings.dns.clone(), first, last),
            tcp: TcpEnd::new(settings.address, settings.prefix_bits, limits, seed.rotate_left(32), now),
            buffer: Box::default(),
            settings,
        }
    }

    /// What workers ask before they copy an ARP frame to anybody.
    pub fn guard(&self) -> &ArpGuard {
        &self.guard
    }

    /// The DHCP server, to restore its leases and to list them.
    pub fn dhcp(&mut self) -> Option<&mut DhcpServer> {
        self.dhcp.as_mut()
    }

    /// A frame that the hub brought to the gateway's port.
    pub fn frame(&mut self, origin: &Origin, frame: Frame<'_>, now: Tick, sink: &mut impl GatewaySink) -> Handled {
        let result = match frame.ethertype() {
            arp_wire::ETHERTYPE => self.arp(origin, frame, now, sink).map(|()| Handled::Done),
            ipv4::ETHERTYPE => self.ipv4(origin, frame, now, sink),
            _ => Err(DropReason::GatewayIgnored),
        };
        result.unwrap_or_else(|reason| {
            sink.dropped(reason);
            Handled::Done
        })
    }

    /// What came back for a question: see [`GatewaySink::ask_upstream`].
    pub fn upstream_answered(&mut self, answer: &DnsAnswer, now: Tick, sink: &mut impl GatewaySink) {
        match self.dns.answered(answer, now) {
            Ok(outcome) => {
                self.deliver(outcome, sink);
                self.serve_tcp(now, sink);
            }
            Err(reason) => sink.dropped(reason),
        }
    }

    /// What time brings; returns when to come again.
    pub fn poll(&mut self, now: Tick, sink: &mut impl GatewaySink) -> Tick {
        if let Some(frame) = self.announcer.due(&self.guard, now) {
            sink.flood(&frame);
        }
        for _ in 0..EXPIRED_AT_ONCE {
            let Some(outcome) = self.dns.expired(now) else { break };
            self.deliver(outcome, sink);
        }
        self.serve_tcp(now, sink);
        let dhcp = self.with_dhcp(now, sink, |dhcp, port| dhcp.poll(now, port)).unwrap_or(Tick(u64::MAX));
        dhcp.min(self.announcer.next()).min(self.dns.next()).min(self.tcp.next(now)).max(now + POLL_EVERY_MIN)
    }

    /// A session is gone: what was kept for it goes, but its leases stay for whoever logs in again.
    pub fn session_ended(&mut self, session: SessionId, now: Tick, sink: &mut impl GatewaySink) {
        self.sessions.end(session);
        self.tcp.session_ended(session);
        self.serve_tcp(now, sink);
        self.with_dhcp(now, sink, |dhcp, port| dhcp.session_ended(session, port));
    }

    /// The operator ends the lease of `address`. `false` if there is none.
    pub fn release(&mut self, address: Ipv4Addr, now: Tick, sink: &mut impl GatewaySink) -> bool {
        self.with_dhcp(now, sink, |dhcp, port| dhcp.release(address, now, port)).unwrap_or(false)
    }

    // ---- 1. ARP ----

    fn arp(
        &mut self,
        origin: &Origin,
        frame: Frame<'_>,
        now: Tick,
        sink: &mut impl GatewaySink,
    ) -> Result<(), DropReason> {
        let arp = Arp::parse(frame.payload()).ok_or(DropReason::GatewayMalformed)?;
        if let Some(claim) = self.guard.refuse_arp(origin, &arp) {
            return Err(self.refuse_claim(origin, &claim, now, sink));
        }
        self.learn_from(origin, &arp, now, sink);
        if arp.operation == Operation::Reply {
            return Ok(());
        }
        match arp::answer(&self.guard, self.settings.answers_for_members, &arp) {
            Answer::Silence => Err(DropReason::GatewayIgnored),
            Answer::At(mac) => {
                let limit = self.settings.arp_per_sec;
                let usage = self.sessions.usage(origin.session, now).ok_or(DropReason::GatewaySessions)?;
                if !usage.arp.allow(limit, now) {
                    return Err(DropReason::GatewayRate);
                }
                sink.reply(origin.port, &arp::reply(&self.guard, &arp, mac, frame.src()));
                Ok(())
            }
        }
    }

    /// Somebody claims what is not his: told to the operator, but not without end, and where it is the gateway's address
    /// everybody hears the truth.
    fn refuse_claim(&mut self, origin: &Origin, claim: &Claim, now: Tick, sink: &mut impl GatewaySink) -> DropReason {
        let usage = self.sessions.usage(origin.session, now);
        if usage.is_some_and(|usage| usage.events.allow(EVENTS_PER_SEC, now)) {
            let Claim { mac, address, holder } = *claim;
            sink.event(GatewayEvent::AddressClaimed { origin: *origin, mac, address, holder });
        }
        if claim.holder.is_none()
            && let Some(frame) = self.announcer.defend(&self.guard, now)
        {
            sink.flood(&frame);
        }
        DropReason::GatewayArpClaim
    }

    /// What an honest ARP packet tells beside its question: a member who logged in again, a static host.
    fn learn_from(&mut self, origin: &Origin, arp: &Arp, now: Tick, sink: &mut impl GatewaySink) {
        if !self.is_inside(arp.sender) {
            return;
        }
        match self.guard.bindings.of(arp.sender) {
            Some(binding) if binding.port == origin.port && binding.session == origin.session => {}
            Some(_) => {
                self.adopt(origin, arp.sender_mac, arp.sender, now, sink);
            }
            None => {
                if !self.adopt(origin, arp.sender_mac, arp.sender, now, sink) {
                    self.with_dhcp(now, sink, |dhcp, port| dhcp.seen(origin, arp.sender, arp.sender_mac, now, port));
                }
            }
        }
    }

    // ---- 2. to 4. IPv4 ----

    fn ipv4(
        &mut self,
        origin: &Origin,
        frame: Frame<'_>,
        now: Tick,
        sink: &mut impl GatewaySink,
    ) -> Result<Handled, DropReason> {
        let packet = Ipv4::new_checked(frame.payload()).filter(|packet| packet.header_is_intact());
        let whole = packet.and_then(Ipv4::whole).ok_or(DropReason::GatewayMalformed)?;
        let packet = Ipv4::new_checked(whole).ok_or(DropReason::GatewayMalformed)?;
        if self.is_dhcp(packet) {
            return self.dhcp_message(origin, frame.src(), packet, now, sink).map(|()| Handled::Done);
        }
        let to_us = packet.dst() == self.settings.address;
        // RFC 1122 §3.3.6: a packet for one host has no business in a frame for many.
        if frame.dst().is_group() || packet.dst().is_multicast() || (self.is_broadcast(packet.dst()) && !to_us) {
            return Err(DropReason::GatewayIgnored);
        }
        let right = self.right_of(origin, frame.src(), packet.src(), now, sink)?;
        if !to_us {
            return match (self.is_inside(packet.dst()), right) {
                (true, _) => Err(DropReason::GatewayInside),
                (false, Right::Lease) => Ok(Handled::Adopted),
                (false, Right::Static) => Err(DropReason::GatewayNotBound),
            };
        }
        if packet.is_fragment() {
            return Err(DropReason::GatewayFragment);
        }
        match packet.protocol() {
            icmp::PROTOCOL => self.echo(origin, frame.src(), packet, now, sink),
            udp::PROTOCOL => self.udp(origin, frame.src(), packet, now, sink),
            tcp_wire::PROTOCOL => {
                let opened = self.tcp.packet(origin, frame.src(), packet, now);
                self.serve_tcp(now, sink);
                opened
            }
            _ => Err(DropReason::GatewayIgnored),
        }
        .map(|()| Handled::Done)
    }

    /// Whether `packet` is for the DHCP server: from clients without an address, from clients who renew, from relays.
    fn is_dhcp(&self, packet: Ipv4<'_>) -> bool {
        let is_for_us = packet.dst() == self.settings.address || self.is_broadcast(packet.dst());
        let is_whole = packet.protocol() == udp::PROTOCOL && !packet.is_fragment();
        let to_server = udp::l4_ports(packet.payload()).is_some_and(|(_, to)| to == dhcp_wire::SERVER_PORT);
        self.dhcp.is_some() && is_for_us && is_whole && to_server
    }

    fn dhcp_message(
        &mut self,
        origin: &Origin,
        src_mac: Mac,
        packet: Ipv4<'_>,
        now: Tick,
        sink: &mut impl GatewaySink,
    ) -> Result<(), DropReason> {
        let datagram = Datagram::parse(packet).ok_or(DropReason::GatewayMalformed)?;
        let (src, dst) = (packet.src(), packet.dst());
        let request = DhcpRequest { origin, src_mac, src, dst, payload: datagram.payload };
        self.with_dhcp(now, sink, |dhcp, port| dhcp.message(request, now, port));
        Ok(())
    }

    /// By what right `mac` behind `origin` uses `address`.
    fn right_of(
        &mut self,
        origin: &Origin,
        mac: Mac,
        address: Ipv4Addr,
        now: Tick,
        sink: &mut impl GatewaySink,
    ) -> Result<Right, DropReason> {
        let binding = self.guard.bindings.of(address);
        let is_his =
            |binding: &Binding| (binding.port, binding.session, binding.mac) == (origin.port, origin.session, mac);
        if binding.as_ref().is_some_and(is_his) || self.adopt(origin, mac, address, now, sink) {
            return Ok(Right::Lease);
        }
        let is_free = self.is_inside(address) && address != self.settings.address && binding.is_none();
        let is_host = !self.is_broadcast(address) && u32::from(address) != u32::from(inside(&self.settings).0);
        if self.settings.bound_only || !is_free || !is_host {
            return Err(DropReason::GatewayNotBound);
        }
        Ok(Right::Static)
    }

    /// Whether the member behind `origin` may go on with `address`, and does now. Two sessions that pull at one address
    /// do so only so often.
    fn adopt(&mut self, origin: &Origin, mac: Mac, address: Ipv4Addr, now: Tick, sink: &mut impl GatewaySink) -> bool {
        if !self.is_inside(address) {
            return false;
        }
        let usage = self.sessions.usage(origin.session, now);
        if !usage.is_some_and(|usage| usage.adoptions.allow(ADOPTIONS_PER_SEC, now)) {
            return false;
        }
        self.with_dhcp(now, sink, |dhcp, port| dhcp.adopt(origin, mac, address, now, port)).unwrap_or(false)
    }

    fn echo(
        &mut self,
        origin: &Origin,
        mac: Mac,
        packet: Ipv4<'_>,
        now: Tick,
        sink: &mut impl GatewaySink,
    ) -> Result<(), DropReason> {
        if !icmp::is_echo_request(packet).ok_or(DropReason::GatewayMalformed)? {
            return Err(DropReason::GatewayIgnored);
        }
        let limit = self.settings.echo_per_sec;
        let usage = self.sessions.usage(origin.session, now).ok_or(DropReason::GatewaySessions)?;
        if !usage.echo.allow(limit, now) {
            return Err(DropReason::GatewayRate);
        }
        let mut out = [0; MTU];
        let reply = icmp::echo_reply(packet, &mut out).ok_or(DropReason::GatewayMalformed)?;
        sink.reply(origin.port, self.buffer.packet(self.settings.mac, mac, reply));
        Ok(())
    }

    fn udp(
        &mut self,
        origin: &Origin,
        mac: Mac,
        packet: Ipv4<'_>,
        now: Tick,
        sink: &mut impl GatewaySink,
    ) -> Result<(), DropReason> {
        let datagram = Datagram::parse(packet).ok_or(DropReason::GatewayMalformed)?;
        if datagram.src_port == 0 {
            // Nobody could hear an answer.
            return Err(DropReason::GatewayMalformed);
        }
        if datagram.dst_port == dns_wire::PORT && self.settings.dns.enabled {
            let address = packet.src();
            let way = Way::Udp { port: origin.port, mac, address, udp_port: datagram.src_port };
            if let Some(answer) = self.ask(origin, way, datagram.payload, now, sink)? {
                self.answer(way, Some(answer), sink);
            }
            return Ok(());
        }
        let limit = self.settings.errors_per_sec;
        let usage = self.sessions.usage(origin.session, now).ok_or(DropReason::GatewaySessions)?;
        if !usage.errors.allow(limit, now) {
            return Err(DropReason::GatewayRate);
        }
        let mut out = [0; MTU];
        let error = icmp::port_unreachable(packet, &mut out).ok_or(DropReason::GatewayMalformed)?;
        sink.reply(origin.port, self.buffer.packet(self.settings.mac, mac, error));
        Ok(())
    }

    // ---- DNS, by either way ----

    /// Asks the forwarder; returns the answer if there is one at once.
    fn ask(
        &mut self,
        origin: &Origin,
        way: Way,
        message: &[u8],
        now: Tick,
        sink: &mut impl GatewaySink,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let usage = self.sessions.usage(origin.session, now).ok_or(DropReason::GatewaySessions)?;
        let asked = self.dns.ask(message, Asker { session: origin.session, way }, usage, now);
        if self.settings.dns.log_questions && !matches!(asked, Asked::Drop(_)) {
            let question = dns_wire::Dns::new_checked(message).and_then(dns_wire::Dns::question);
            if let Some(question) = question {
                let (name, kind) = (question.name.into(), question.kind);
                sink.event(GatewayEvent::Asked { origin: *origin, name, kind });
            }
        }
        match asked {
            Asked::Answer(answer) => return Ok(Some(answer)),
            Asked::Forward(question) => sink.ask_upstream(question),
            Asked::Waits => {}
            Asked::Drop(reason) => return Err(reason),
        }
        Ok(None)
    }

    fn deliver(&mut self, outcome: Outcome, sink: &mut impl GatewaySink) {
        for delivery in outcome.deliveries {
            self.sessions.answered(delivery.asker.session);
            self.answer(delivery.asker.way, Some(delivery.message), sink);
        }
        if let Some(next) = outcome.next {
            sink.ask_upstream(next);
        }
    }

    fn answer(&mut self, way: Way, message: Option<Vec<u8>>, sink: &mut impl GatewaySink) {
        match (way, message) {
            (Way::Tcp(conn), message) => self.tcp.answer(conn, message),
            (Way::Udp { port, mac, address, udp_port }, Some(message)) => {
                let at = Addressing {
                    src_mac: self.settings.mac,
                    dst_mac: mac,
                    src: self.settings.address,
                    dst: address,
                    src_port: dns_wire::PORT,
                    dst_port: udp_port,
                };
                sink.reply(port, self.buffer.udp(&at, &message));
            }
            (Way::Udp { .. }, None) => {}
        }
    }

    /// Asks what came by connections and sends what goes into them.
    fn serve_tcp(&mut self, now: Tick, sink: &mut impl GatewaySink) {
        if self.tcp.is_idle() {
            return;
        }
        for _ in 0..QUESTIONS_AT_ONCE {
            let question = match self.tcp.question(now) {
                Some(Ok(question)) => question,
                Some(Err(reason)) => {
                    sink.dropped(reason);
                    continue;
                }
                None => break,
            };
            let way = Way::Tcp(question.conn);
            match self.ask(&question.from, way, &question.message, now, sink) {
                Ok(None) => {}
                Ok(answer) => self.answer(way, answer, sink),
                Err(reason) => {
                    sink.dropped(reason);
                    self.answer(way, None, sink);
                }
            }
        }
        let (buffer, src_mac) = (&mut self.buffer, self.settings.mac);
        self.tcp.flush(now, |port, mac, packet| sink.reply(port, buffer.packet(src_mac, mac, packet)));
    }

    // ---- helpers ----

    /// `None` where there is no DHCP server.
    fn with_dhcp<T, S: GatewaySink>(
        &mut self,
        now: Tick,
        sink: &mut S,
        call: impl FnOnce(&mut DhcpServer, &mut DhcpPort<'_, S>) -> T,
    ) -> Option<T> {
        let mut port = DhcpPort {
            guard: &self.guard,
            buffer: &mut self.buffer,
            floods: &mut self.floods,
            floods_per_sec: self.settings.floods_per_sec,
            dns: &mut self.dns,
            renamed: Vec::new(),
            now,
            sink,
        };
        let dhcp = self.dhcp.as_mut()?;
        let result = call(dhcp, &mut port);
        port.rename(dhcp);
        Some(result)
    }

    fn is_inside(&self, address: Ipv4Addr) -> bool {
        let (first, last) = inside(&self.settings);
        (first..=last).contains(&address)
    }

    /// To all hosts here or of the inside network, in either form that was ever used (RFC 1122 §3.3.6).
    fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast() || address == inside(&self.settings).1
    }
}

/// First and last address of the inside network.
fn inside(settings: &GatewaySettings) -> (Ipv4Addr, Ipv4Addr) {
    let hosts = u32::MAX.checked_shr(u32::from(settings.prefix_bits)).unwrap_or(0);
    let first = u32::from(settings.address) & !hosts;
    (first.into(), (first | hosts).into())
}

/// Claims told of one session; the rest is counted.
const EVENTS_PER_SEC: u32 = 1;
/// A session tries this after each login, for one address or some.
const ADOPTIONS_PER_SEC: u32 = 10;
/// Questions given up in one call, and read from connections in one.
const EXPIRED_AT_ONCE: usize = 64;
const QUESTIONS_AT_ONCE: usize = 64;
/// So that no timer of anybody makes the worker spin.
const POLL_EVERY_MIN: Duration = Duration::from_millis(1);
