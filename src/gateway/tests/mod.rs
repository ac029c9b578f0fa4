//! The gateway through its front door: frames in, frames out.
#![forbid(unsafe_code)]

mod arp;
mod dhcp;
mod dns;
mod hostile;
mod services;
mod tcp;

use super::dns::{DnsAnswer, DnsQuestion};
use super::*;
use crate::wire::checksum::Sum;

pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

/// What the gateway did.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) replies: Vec<(PortId, Vec<u8>)>,
    pub(super) floods: Vec<Vec<u8>>,
    pub(super) questions: Vec<DnsQuestion>,
    pub(super) events: Vec<GatewayEvent>,
    pub(super) drops: Vec<DropReason>,
    journal: u64,
}

impl GatewaySink for Seen {
    fn reply(&mut self, to: PortId, frame: &[u8]) {
        self.replies.push((to, frame.to_vec()));
    }

    fn flood(&mut self, frame: &[u8]) {
        self.floods.push(frame.to_vec());
    }

    fn journal(&mut self, _record: &[u8]) -> u64 {
        self.journal += 1;
        self.journal
    }

    fn reply_when(&mut self, durable: u64, to: PortId, frame: &[u8]) {
        assert!(durable <= self.journal, "waits for a record there is");
        self.replies.push((to, frame.to_vec()));
    }

    fn ask_upstream(&mut self, question: DnsQuestion) {
        self.questions.push(question);
    }

    fn event(&mut self, event: GatewayEvent) {
        self.events.push(event);
    }

    fn dropped(&mut self, reason: DropReason) {
        self.drops.push(reason);
    }
}

/// A member with one card and one leased address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) origin: Origin,
    pub(super) mac: Mac,
    pub(super) address: Ipv4Addr,
}

pub(super) struct Bench {
    pub(super) gateway: Gateway,
    pub(super) bindings: Arc<Bindings>,
    pub(super) now: Tick,
    pub(super) seen: Seen,
}

impl Bench {
    pub(super) fn new(change: impl FnOnce(&mut GatewaySettings)) -> Self {
        // A table for 65,536 addresses takes longer to make than most tests.
        let dhcp = Some(DhcpSettings::for_network(GATEWAY, 24));
        let mut settings = GatewaySettings { dhcp, ..GatewaySettings::default() };
        change(&mut settings);
        let bindings = Arc::new(Bindings::new(Ipv4Addr::new(100, 64, 0, 0), 1 << 16));
        let now = Tick::from_ms(1_000_000);
        let gateway = Gateway::new(settings, bindings.clone(), 7, now, 1_800_000_000);
        Self { gateway, bindings, now, seen: Seen::default() }
    }

    /// A member whose lease is written into the table.
    pub(super) fn member(&self, n: u8) -> Member {
        let member = stranger(n);
        let Member { origin, mac, address } = member;
        let binding = Binding { mac, port: origin.port, session: origin.session, member: origin.member };
        assert!(self.bindings.set(address, Some(binding)));
        member
    }

    pub(super) fn frame(&mut self, origin: &Origin, bytes: &[u8]) -> Handled {
        let frame = Frame::new_checked(bytes).unwrap();
        self.gateway.frame(origin, frame, self.now, &mut self.seen)
    }

    /// Sends a frame that gets exactly one reply, to its own port.
    pub(super) fn replied(&mut self, from: &Member, bytes: &[u8]) -> Vec<u8> {
        let before = self.seen.replies.len();
        self.frame(&from.origin, bytes);
        assert_eq!(self.seen.replies.len(), before + 1, "{:?}", self.seen.drops);
        let (port, frame) = self.seen.replies.pop().unwrap();
        assert_eq!((port, &frame[..6]), (from.origin.port, &from.mac.0[..]));
        frame
    }

    /// Sends a frame that gets none, and returns why.
    pub(super) fn dropped(&mut self, from: &Member, bytes: &[u8]) -> Option<DropReason> {
        let before = (self.seen.replies.len(), self.seen.drops.len());
        assert_eq!(self.frame(&from.origin, bytes), Handled::Done);
        assert_eq!(self.seen.replies.len(), before.0);
        assert!(self.seen.drops.len() <= before.1 + 1, "one reason for one frame");
        self.seen.drops.get(before.1).copied()
    }

    pub(super) fn poll(&mut self) -> Tick {
        self.gateway.poll(self.now, &mut self.seen)
    }

    pub(super) fn later(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
    }

    pub(super) fn answer(&mut self, token: u64, message: Option<Vec<u8>>) {
        self.gateway.upstream_answered(&DnsAnswer { token, message }, self.now, &mut self.seen);
    }
}

/// A member without a lease.
pub(super) fn stranger(n: u8) -> Member {
    Member {
        origin: Origin {
            port: PortId::new(0, n.into(), 1),
            session: SessionId(100 + u64::from(n)),
            member: MemberId(n.into()),
            is_bridge: false,
        },
        mac: Mac([2, 0, 0, 0, 0, n]),
        address: Ipv4Addr::new(100, 64, 0, n),
    }
}

/// An IPv4 packet in a frame to the gateway.
pub(super) fn ip(from: &Member, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = ipv4::header(from.address, dst, protocol, 64, u16::try_from(payload.len()).unwrap());
    [&GatewaySettings::default().mac.0[..], &from.mac.0, &[8, 0], &header, payload].concat()
}

pub(super) fn udp_to(from: &Member, dst: Ipv4Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let bytes = u16::try_from(8 + payload.len()).unwrap();
    let mut segment = [ports.0, ports.1, bytes, 0].map(u16::to_be_bytes).concat();
    segment.extend(payload);
    let sum = Sum::pseudo(from.address, dst, 17, bytes).bytes(&segment).finish();
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    ip(from, dst, 17, &segment)
}

pub(super) fn echo(from: &Member, dst: Ipv4Addr) -> Vec<u8> {
    let mut message = [8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7];
    let sum = Sum::ZERO.bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(from, dst, 1, &message)
}

/// The datagram in a frame from the gateway.
pub(super) fn datagram(frame: &[u8]) -> (Ipv4Addr, Datagram<'_>) {
    let packet = Ipv4::new_checked(&frame[14..]).unwrap();
    assert!(packet.header_is_intact() && packet.src() == GATEWAY && packet.ttl() == 64);
    (packet.dst(), Datagram::parse(packet).unwrap())
}

/// A DNS question with id, name as labels, type, flags, and what follows.
pub(super) fn question(id: u16, name: &[u8], kind: u16, flags: u16, rest: &[u8]) -> Vec<u8> {
    let header = [id, flags, 1, 0, 0, u16::from(!rest.is_empty())].map(u16::to_be_bytes).concat();
    [&header[..], name, &kind.to_be_bytes(), &[0, 1], rest].concat()
}

/// An answer to `question` with a record of `data`, so long that the message has `bytes` if that is more than it needs.
pub(super) fn answer_to(question: &[u8], data: &[u8]) -> Vec<u8> {
    let mut message = question.to_vec();
    message[2] |= 0x80;
    message[3] |= 0x80;
    message[7] += 1;
    // The record stands before what is additional; tests with EDNS in the question answer without it.
    message.truncate(12 + dns_wire::Dns::new_checked(question).unwrap().question().unwrap().bytes.len());
    message[11] = 0;
    message.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
    message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    message.extend(data);
    message
}

pub(super) const NAME: &[u8] = b"\x03wWw\x07example\x00";
