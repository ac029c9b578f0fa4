//! The server between clients made by hand and a world that remembers everything. Names of tests begin with the line
//! of the conformance table they hold.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::*;
use crate::wire::dhcp::{Message, MessageType, code, each_option};

mod addresses;
mod hostile;
mod interop;
mod journal;
mod messages;
mod options;
mod scale;

const SERVER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const GIVEN_UNIX_S: u64 = 1_790_000_000;
const START: Tick = Tick::from_ms(5_000);

fn settings() -> DhcpSettings {
    DhcpSettings::for_network(SERVER, 16)
}

/// A small pool: .10 to .19 of the network.
fn ten() -> DhcpSettings {
    DhcpSettings { pool: host(10)..=host(19), ..settings() }
}

fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, n)
}

fn mac(n: u32) -> Mac {
    Mac::from_bits(0x0200_0000_0000 | u64::from(n))
}

/// Member `member` in session `session`, whose port is on worker 0.
fn origin(member: u32, session: u64) -> Origin {
    let port = PortId::new(0, u32::try_from(session).unwrap(), 1);
    Origin { port, session: SessionId(session), member: MemberId(member), is_bridge: false }
}

fn bridge() -> Origin {
    Origin { is_bridge: true, ..origin(900, 900) }
}

/// A reply as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    to: PortId,
    dst_mac: Mac,
    dst: Ipv4Addr,
    dst_port: u16,
    durable: Option<u64>,
    payload: Vec<u8>,
}

impl Said {
    fn message(&self) -> Message<'_> {
        Message::new_checked(&self.payload).expect("a reply is a message")
    }

    /// All options in their order, those of `file` and `sname` behind, parts joined.
    fn options(&self) -> Vec<(u8, Vec<u8>)> {
        let message = self.message();
        let mut found: Vec<(u8, Vec<u8>)> = Vec::new();
        let mut note = |code, value: &[u8]| match found.iter_mut().find(|(other, _)| *other == code) {
            Some((_, whole)) => whole.extend(value),
            None => found.push((code, value.to_vec())),
        };
        assert!(each_option(message.options(), &mut note));
        let mut overload = 0;
        each_option(message.options(), |code, value| {
            if code == code::OVERLOAD {
                overload = value[0];
            }
        });
        for (bit, area) in [(1, message.file()), (2, message.sname())] {
            assert!(overload & bit == 0 || each_option(area, &mut note));
        }
        found
    }

    fn codes(&self) -> Vec<u8> {
        self.options().into_iter().map(|(code, _)| code).collect()
    }

    fn option(&self, code: u8) -> Option<Vec<u8>> {
        self.options().into_iter().find(|(other, _)| *other == code).map(|(_, value)| value)
    }

    fn secs(&self, code: u8) -> Option<u32> {
        self.option(code).map(|value| u32::from_be_bytes(value.try_into().unwrap()))
    }

    fn what(&self) -> MessageType {
        MessageType::from_byte(self.option(code::MESSAGE_TYPE).unwrap()[0]).unwrap()
    }

    fn yiaddr(&self) -> Ipv4Addr {
        self.message().yiaddr()
    }
}

/// Everything the server did.
#[derive(Default)]
struct World {
    said: Vec<Said>,
    probed: Vec<Ipv4Addr>,
    bound: BTreeMap<Ipv4Addr, Binding>,
    journal: Vec<u8>,
    records: u64,
    /// The disk is slow.
    journal_is_full: bool,
    events: Vec<DhcpEvent>,
    drops: Vec<DropReason>,
}

impl DhcpSink for World {
    fn answer(&mut self, to: PortId, reply: &DhcpReply<'_>, durable: Option<u64>) {
        assert_eq!(reply.src, SERVER);
        if let Some(number) = durable {
            assert!(number <= self.records, "an answer waits for a record that is not written");
        }
        let DhcpReply { dst_mac, dst, dst_port, payload, .. } = *reply;
        self.said.push(Said { to, dst_mac, dst, dst_port, durable, payload: payload.to_vec() });
    }

    fn probe(&mut self, address: Ipv4Addr) {
        self.probed.push(address);
    }

    fn bind(&mut self, address: Ipv4Addr, binding: Option<Binding>) {
        match binding {
            Some(binding) => self.bound.insert(address, binding),
            None => self.bound.remove(&address),
        };
    }

    fn journal(&mut self, record: &[u8]) -> u64 {
        assert!(record.ends_with(b"\n"));
        if self.journal_is_full {
            return u64::MAX;
        }
        self.journal.extend(record);
        self.records += 1;
        self.records
    }

    fn event(&mut self, event: DhcpEvent) {
        self.events.push(event);
    }

    fn dropped(&mut self, reason: DropReason) {
        self.drops.push(reason);
    }
}

/// A message under construction.
#[derive(Clone, Debug)]
struct Ask {
    fixed: [u8; 240],
    options: Vec<u8>,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    src_mac: Mac,
}

impl Ask {
    fn new(what: MessageType, mac: Mac) -> Self {
        let mut fixed = [0; 240];
        fixed[..3].copy_from_slice(&[1, 1, 6]);
        fixed[4..8].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
        fixed[28..34].copy_from_slice(&mac.0);
        fixed[236..].copy_from_slice(&[99, 130, 83, 99]);
        let options = vec![53, 1, what as u8];
        Self { fixed, options, src: Ipv4Addr::UNSPECIFIED, dst: Ipv4Addr::BROADCAST, src_mac: mac }
    }

    fn option(mut self, code: u8, value: &[u8]) -> Self {
        self.options.extend([code, u8::try_from(value.len()).unwrap()]);
        self.options.extend(value);
        self
    }

    fn field(mut self, at: usize, bytes: &[u8]) -> Self {
        self.fixed[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn ciaddr(self, address: Ipv4Addr) -> Self {
        self.field(12, &address.octets())
    }

    fn giaddr(self, address: Ipv4Addr) -> Self {
        self.field(24, &address.octets())
    }

    fn broadcast(self) -> Self {
        self.field(10, &[0x80])
    }

    fn id(self, id: &[u8]) -> Self {
        self.option(code::CLIENT_ID, id)
    }

    fn wants(self, codes: &[u8]) -> Self {
        self.option(code::PARAMETERS, codes)
    }

    fn requested(self, address: Ipv4Addr) -> Self {
        self.option(code::REQUESTED_ADDRESS, &address.octets())
    }

    fn server(self, address: Ipv4Addr) -> Self {
        self.option(code::SERVER_ID, &address.octets())
    }

    fn from(mut self, src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        (self.src, self.dst) = (src, dst);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        [&self.fixed[..], &self.options, &[255]].concat()
    }
}

fn discover(mac: Mac) -> Ask {
    Ask::new(MessageType::Discover, mac)
}

/// The client takes `address` from our offer.
fn select(mac: Mac, address: Ipv4Addr) -> Ask {
    Ask::new(MessageType::Request, mac).requested(address).server(SERVER)
}

fn reboot(mac: Mac, address: Ipv4Addr) -> Ask {
    Ask::new(MessageType::Request, mac).requested(address)
}

fn renew(mac: Mac, address: Ipv4Addr) -> Ask {
    Ask::new(MessageType::Request, mac).ciaddr(address).from(address, SERVER)
}

fn rebind(mac: Mac, address: Ipv4Addr) -> Ask {
    Ask::new(MessageType::Request, mac).ciaddr(address).from(address, Ipv4Addr::BROADCAST)
}

fn decline(mac: Mac, address: Ipv4Addr) -> Ask {
    Ask::new(MessageType::Decline, mac).requested(address).server(SERVER)
}

fn give_back(mac: Mac, address: Ipv4Addr) -> Ask {
    Ask::new(MessageType::Release, mac).ciaddr(address).server(SERVER).from(address, SERVER)
}

/// A server, its world, and the time.
struct Rig {
    server: DhcpServer,
    world: World,
    now: Tick,
}

impl Rig {
    fn new(settings: DhcpSettings) -> Self {
        settings.check().expect("settings of a test make sense");
        let server = DhcpServer::new(settings, 42, START, GIVEN_UNIX_S);
        Self { server, world: World::default(), now: START }
    }

    /// Says `ask` and gives back the reply, if there is one at once.
    fn say(&mut self, origin: Origin, ask: &Ask) -> Option<Said> {
        let before = self.world.said.len();
        let payload = ask.bytes();
        let request =
            DhcpRequest { origin: &origin, src_mac: ask.src_mac, src: ask.src, dst: ask.dst, payload: &payload };
        self.server.message(request, self.now, &mut self.world);
        assert!(self.world.said.len() <= before + 1, "at most one reply");
        self.world.said.get(before).cloned()
    }

    /// Lets time pass; replies made meanwhile.
    fn pass(&mut self, span: Duration) -> Vec<Said> {
        let before = self.world.said.len();
        let end = self.now + span;
        loop {
            let next = self.server.poll(self.now, &mut self.world);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
        }
        self.now = end;
        self.world.said[before..].to_vec()
    }

    fn secs(&mut self, secs: u64) {
        self.pass(Duration::from_secs(secs));
    }

    fn drop_reason(&mut self, origin: Origin, ask: &Ask) -> DropReason {
        let before = self.world.drops.len();
        assert_eq!(self.say(origin, ask), None);
        assert_eq!(self.world.drops.len(), before + 1, "a message without answer is counted once");
        self.world.drops[before]
    }

    /// DISCOVER, OFFER (perhaps after a probe), REQUEST, ACK.
    fn lease(&mut self, origin: Origin, mac: Mac) -> Ipv4Addr {
        self.lease_by(origin, mac, |ask| ask)
    }

    fn lease_by(&mut self, origin: Origin, mac: Mac, with: impl Fn(Ask) -> Ask) -> Ipv4Addr {
        let offer = self.offer(origin, &with(discover(mac)));
        let ack = self.say(origin, &with(select(mac, offer.yiaddr()))).expect("an answer");
        assert_eq!((ack.what(), ack.yiaddr()), (MessageType::Ack, offer.yiaddr()));
        ack.yiaddr()
    }

    fn offer(&mut self, origin: Origin, ask: &Ask) -> Said {
        let offer = match self.say(origin, ask) {
            Some(offer) => offer,
            None => self.pass(Duration::from_millis(300)).pop().expect("an offer after the probe"),
        };
        assert_eq!(offer.what(), MessageType::Offer);
        offer
    }

    fn row(&self, address: Ipv4Addr) -> Option<LeaseView> {
        self.server.leases(self.now).find(|row| row.address == address)
    }

    fn state(&self, address: Ipv4Addr) -> Option<LeaseState> {
        self.row(address).map(|row| row.state)
    }

    /// The process is killed, and another one begins with its journal.
    fn killed(&mut self) -> Restored {
        let settings = self.server.settings.clone();
        let wall = GIVEN_UNIX_S + self.now.since(START).as_secs();
        // Another process, another origin of its clock.
        self.now = Tick::from_ms(77);
        let mut server = DhcpServer::new(settings, 43, self.now, wall);
        let restored = server.restore(&self.world.journal);
        self.server = server;
        self.world.bound.clear();
        self.pass(Duration::ZERO);
        restored
    }
}
