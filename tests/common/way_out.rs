//! A hub for strangers with its way out: gateway, NAT and a lane for each worker, all in one thread.
//!
//! Real are the workers and everything in them. Played are the wires ([`MemWire`]) and who is on them, the disk of the
//! lease file ([`Disk`]), which keeps what it is given and is slow as the test likes, and the upstreams of the DNS
//! forwarder. A [`Station`] is a member with a card, whose every frame passes the tunnel.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, unbounded};
use hublane::gateway::arp::ArpGuard;
use hublane::gateway::bindings::Bindings;
use hublane::gateway::dhcp::DhcpSettings;
use hublane::gateway::dhcp::settings::Reservation;
use hublane::gateway::dns::DnsQuestion;
use hublane::gateway::{Gateway, GatewaySettings};
use hublane::hub::{HubSettings, HubShared, PortKind, PortSettings, Profile};
use hublane::ids::{HubId, MemberId, PortId, SessionId};
use hublane::lane::Lane;
use hublane::lane::any::AnyLaneIo;
use hublane::lane::mem::{MemWire, wire};
use hublane::lane::uplink::{Ownership, Shared, UplinkSettings};
use hublane::metrics::closes::CloseReason;
use hublane::metrics::drops::DropReason;
use hublane::nat::{Nat, NatPlan, NatSettings, Prefix};
use hublane::wire::arp::{self, Arp, Operation};
use hublane::wire::dhcp::{CLIENT_PORT, Message, MessageType, SERVER_PORT, code, each_option};
use hublane::wire::ethernet::{Frame, Mac};
use hublane::wire::offload::Offload;
use hublane::wire::udp;
use hublane::worker::io::StreamIo;
use hublane::worker::mem::{MemIo, MemSocket};
use hublane::worker::router::departures::Departures;
use hublane::worker::router::host::{HostSeed, Journal};
use hublane::worker::router::orders::Order;
use hublane::worker::router::plan::RouterPlan;
use hublane::worker::router::{EventSink, RouterEvent, RouterSeed};
use hublane::worker::seeds::Command;

use super::packets::{Seen, datagram, framed, read};
use super::{Bench, Login, Member, START};

pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
pub(crate) const GATEWAY_CARD: Mac = Mac([0x5e, 0, 0, 0, 0, 1]);
pub(crate) const EXTERNAL: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 5);
/// Somebody on the Internet.
pub(crate) const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(9, 9, 9, 9), 443);
pub(crate) const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 1);
pub(crate) const NEXT_HOP_CARD: Mac = Mac([2, 0, 0, 0, 9, 1]);
/// The card of the device towards the Internet.
pub(crate) const DEVICE_CARD: Mac = Mac([2, 0, 0, 0, 9, 2]);
const HUB: HubId = HubId(0);
const INSIDE_BITS: u8 = 16;
const MTU: usize = 1500;
const START_UNIX_S: u64 = 1_790_000_000;

/// The lease file: what was handed over, and what of it is safe.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) safe: Vec<u8>,
    waiting: Vec<u8>,
    last: u64,
}

struct DiskWriter(Arc<Mutex<Disk>>);

impl Journal for DiskWriter {
    fn record(&mut self, record: &[u8]) -> u64 {
        let mut disk = self.0.lock().unwrap();
        disk.waiting.extend(record);
        disk.last += 1;
        disk.last
    }

    fn whole(&mut self, content: Vec<u8>) {
        let mut disk = self.0.lock().unwrap();
        disk.waiting.clear();
        disk.safe = content;
    }
}

/// What a way out is made from.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    /// The worker that has the gateway.
    pub(crate) owner: usize,
    /// Addresses kept for cards.
    pub(crate) reserved: Vec<(Mac, Ipv4Addr)>,
    /// What the lease file holds.
    pub(crate) leases: Vec<u8>,
}

impl Setup {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers, owner: 0, reserved: Vec::new(), leases: Vec::new() }
    }
}

/// See the module text.
pub(crate) struct WayOut<Io: StreamIo<Socket = MemSocket> = MemIo> {
    pub(crate) bench: Bench<Io>,
    pub(crate) setup: Setup,
    pub(crate) nat: Arc<NatPlan>,
    /// By worker.
    pub(crate) wires: Vec<MemWire>,
    pub(crate) disk: Arc<Mutex<Disk>>,
    pub(crate) questions: Receiver<DnsQuestion>,
    /// Orders of the gateway to other workers.
    told: Receiver<(usize, Order)>,
    pub(crate) events: Receiver<RouterEvent>,
    /// The next event, or question to the upstreams, meets a defect.
    pub(crate) trap: Arc<AtomicBool>,
    port: PortSettings,
    sessions: u64,
}

/// A packet as it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// By whose end of the lane.
    pub(crate) worker: usize,
    pub(crate) packet: Vec<u8>,
    pub(crate) offload: Offload,
}

impl WayOut {
    pub(crate) fn new(setup: Setup) -> Self {
        Self::with(setup, |io| io)
    }

    /// The server is started again: only what the disk has is left.
    pub(crate) fn restart(self) -> Self {
        let leases = self.disk.lock().unwrap().safe.clone();
        Self { sessions: self.sessions, ..Self::new(Setup { leases, ..self.setup }) }
    }
}

impl<Io: StreamIo<Socket = MemSocket>> WayOut<Io> {
    pub(crate) fn with(setup: Setup, wrap: impl Fn(MemIo) -> Io) -> Self {
        let workers = setup.workers;
        let hub_settings = HubSettings { profile: Profile::Public, ..HubSettings::default() };
        let hub = Arc::new(HubShared::new(hub_settings, workers));
        let (disk, trap) = (Arc::<Mutex<Disk>>::default(), Arc::<AtomicBool>::default());
        disk.lock().unwrap().safe.clone_from(&setup.leases);
        let inside = Prefix::new(GATEWAY, INSIDE_BITS);
        let nat_settings = NatSettings::new(workers, inside, GATEWAY, vec![Prefix::new(EXTERNAL, 32)]);
        let nat = Arc::new(NatPlan::new(nat_settings).unwrap());
        let bindings = Arc::new(Bindings::new(inside.first(), 1 << (32 - INSIDE_BITS)));
        let plan = Arc::new(RouterPlan {
            hub: HUB,
            port: PortId::new(u8::try_from(setup.owner).unwrap(), 0, 0),
            mac: GATEWAY_CARD,
            address: GATEWAY,
            broadcast: inside.last(),
            guard: ArpGuard { mac: GATEWAY_CARD, address: GATEWAY, bindings: Arc::clone(&bindings) },
            bindings,
            departures: Departures::default(),
            nat: Some(Arc::clone(&nat)),
        });
        let (ask, questions) = unbounded();
        let (tell, told) = unbounded();
        let asks = Arc::clone(&trap);
        let mut host = Some(HostSeed {
            gateway: gateway(&setup, &plan),
            journal: Box::new(DiskWriter(Arc::clone(&disk))),
            ask: Box::new(move |question| {
                assert!(!asks.swap(false, Relaxed), "injected");
                ask.send(question).unwrap();
            }),
            tell: Box::new(move |worker, order| tell.send((worker, order)).unwrap()),
        });
        let (event, events) = unbounded();
        let (lanes, wires): (Vec<_>, Vec<_>) = lanes(workers).into_iter().unzip();
        let routers = lanes.into_iter().enumerate().map(|(worker, lane)| {
            let (event, trap) = (event.clone(), Arc::clone(&trap));
            let events: EventSink = Box::new(move |_, what, _| {
                assert!(!trap.swap(false, Relaxed), "injected");
                event.send(what).unwrap();
            });
            let nat = Some(Nat::new(Arc::clone(&nat), worker, 7, START));
            let host = if worker == setup.owner { host.take() } else { None };
            vec![RouterSeed { plan: Arc::clone(&plan), host, nat, lane: Some(lane), events }]
        });
        let bench = Bench::routing(Arc::clone(&hub), routers.collect(), Duration::ZERO, wrap);
        let port = hub.compile(PortKind::Member, &Default::default());
        let mut way = Self { bench, setup, nat, wires, disk, questions, told, events, trap, port, sessions: 0 };
        // From then on devices are watched, and addresses announced.
        way.run(200);
        way
    }

    /// Everybody turns until nothing moves any more, across workers too.
    pub(crate) fn turn(&mut self) {
        self.bench.turn();
        self.bench.turn();
        for (worker, order) in self.told.try_iter() {
            self.bench.command(worker, Command::Router(HUB, order));
            self.bench.turn();
        }
    }

    /// Time passes, in steps that no timer of a gateway is finer than.
    pub(crate) fn run(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.bench.now = self.bench.now + Duration::from_millis(10);
            self.turn();
        }
    }

    /// To the worker that has the gateway.
    fn order(&self, order: Order) {
        self.bench.command(self.setup.owner, Command::Router(HUB, order));
    }

    /// What waits for the disk is on it.
    pub(crate) fn sync(&mut self) {
        let mut disk = self.disk.lock().unwrap();
        let waiting = std::mem::take(&mut disk.waiting);
        disk.safe.extend(waiting);
        let last = disk.last;
        drop(disk);
        self.order(Order::Durable(last));
        self.turn();
    }

    /// The upstreams answer every question with `address`. How many there were.
    pub(crate) fn answer_questions(&mut self, address: Ipv4Addr) -> usize {
        let asked: Vec<DnsQuestion> = self.questions.try_iter().collect();
        for question in &asked {
            let message = Some(super::packets::dns_answer(&question.message, address));
            self.order(Order::Answered(hublane::gateway::dns::DnsAnswer { token: question.token, message }));
        }
        self.turn();
        asked.len()
    }

    /// Member `number`, by the card that is his, on `worker`.
    pub(crate) fn login(&mut self, number: u8, worker: usize) -> Station {
        self.login_as(number, card(number), worker)
    }

    pub(crate) fn login_as(&mut self, number: u8, card: Mac, worker: usize) -> Station {
        self.sessions += 1;
        let login = Login { member: MemberId(number.into()), port: self.port, ..Login::default() };
        let member = self.bench.member_with(self.sessions, worker, &login);
        Station { member, card, address: Ipv4Addr::UNSPECIFIED, worker, session: SessionId(self.sessions) }
    }

    /// His session ends and the gateway hears of it.
    pub(crate) fn logout(&mut self, station: &Station) {
        self.bench.command(station.worker, Command::End(station.session, CloseReason::Kicked));
        self.turn();
        station.member.peer.close();
        self.turn();
    }

    /// DISCOVER to ACK. Returns what the station was told.
    pub(crate) fn boot(&mut self, station: &mut Station) {
        station.say(MessageType::Discover, &[]);
        let offer = (0..100).find_map(|_| {
            self.run(10);
            station.dhcp_replies().pop()
        });
        let (what, address) = offer.expect("an offer");
        assert_eq!(what, MessageType::Offer);
        let wanted = [&[code::REQUESTED_ADDRESS, 4], &address.octets()[..], &[code::SERVER_ID, 4], &GATEWAY.octets()];
        station.say(MessageType::Request, &wanted.concat());
        self.turn();
        assert_eq!(station.dhcp_replies(), [], "the lease is not on disk yet");
        self.sync();
        assert_eq!(station.dhcp_replies(), [(MessageType::Ack, address)]);
        station.address = address;
    }

    /// A member with an address.
    pub(crate) fn booted(&mut self, number: u8, worker: usize) -> Station {
        let mut station = self.login(number, worker);
        self.boot(&mut station);
        station
    }

    /// Frames on the wires.
    pub(crate) fn frames(&mut self) -> Vec<(usize, Vec<u8>, Offload)> {
        let taken = self.wires.iter().enumerate();
        taken.flat_map(|(at, wire)| wire.take().into_iter().map(move |(frame, offload)| (at, frame, offload))).collect()
    }

    /// What the members sent to the Internet, once the next hop has said which its card is.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        let mut packets = Vec::new();
        // What members sent; what waited for the next hop's answer, on any worker.
        for ms in [0, 110] {
            self.turn();
            self.run(ms);
            for (worker, frame, offload) in self.frames() {
                let seen = Frame::new_checked(&frame).unwrap();
                assert_eq!(seen.src(), DEVICE_CARD);
                if seen.ethertype() == arp::ETHERTYPE {
                    self.answer_arp(&Arp::parse(seen.payload()).unwrap());
                    continue;
                }
                assert_eq!(seen.dst(), NEXT_HOP_CARD);
                packets.push(Sent { worker, packet: seen.payload().to_vec(), offload });
            }
        }
        packets
    }

    /// The next hop answers, to everybody's ears: sockets of all workers but the first are deaf to ARP.
    pub(crate) fn answer_arp(&self, question: &Arp) {
        if question.operation == Operation::Request && question.target == NEXT_HOP {
            let answer = Arp {
                operation: Operation::Reply,
                sender_mac: NEXT_HOP_CARD,
                sender: NEXT_HOP,
                target_mac: DEVICE_CARD,
                target: question.sender,
            };
            self.wires[0].put(&answer.to_frame(DEVICE_CARD), Offload::NONE);
        }
    }

    /// The only packet that was sent, whole.
    pub(crate) fn one_sent(&mut self) -> (usize, Seen) {
        let sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!(sent[0].offload, Offload::NONE);
        (sent[0].worker, read(&sent[0].packet))
    }

    /// `packet` comes from the Internet by the end of `worker`.
    pub(crate) fn arrive(&mut self, worker: usize, packet: &[u8], offload: Offload) {
        self.put(worker, packet, offload);
        self.turn();
    }

    /// The same, when the next turn comes.
    pub(crate) fn put(&self, worker: usize, packet: &[u8], offload: Offload) {
        self.wires[worker].put(&framed(DEVICE_CARD, NEXT_HOP_CARD, packet), offload);
    }

    /// Frames dropped so far, by reason.
    pub(crate) fn drops(&self) -> Vec<(DropReason, u64)> {
        let counted = DropReason::ALL.iter().map(|reason| (*reason, self.bench.drops(*reason)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

fn gateway(setup: &Setup, plan: &RouterPlan) -> Gateway {
    let nat = plan.nat.clone().unwrap();
    let reserve = |(mac, address): &(Mac, Ipv4Addr)| Reservation {
        mac: Some(*mac),
        address: Some(*address),
        ..Default::default()
    };
    let dhcp = DhcpSettings {
        reservations: setup.reserved.iter().map(reserve).collect(),
        owner_of: Some(Arc::new(move |address| nat.owner_of_inside(address))),
        ..DhcpSettings::for_network(GATEWAY, INSIDE_BITS)
    };
    dhcp.check().unwrap();
    let settings = GatewaySettings {
        mac: GATEWAY_CARD,
        address: GATEWAY,
        prefix_bits: INSIDE_BITS,
        dhcp: Some(dhcp),
        ..GatewaySettings::default()
    };
    let mut gateway = Gateway::new(settings, Arc::clone(&plan.bindings), 3, START, START_UNIX_S);
    let restored = gateway.dhcp().unwrap().restore(&setup.leases);
    assert_eq!((restored.damaged, restored.foreign), (0, 0));
    gateway
}

fn lanes(workers: usize) -> Vec<(Lane<AnyLaneIo>, MemWire)> {
    let settings = UplinkSettings {
        addresses: vec![EXTERNAL],
        ownership: Ownership::Dedicated { probe: false },
        network: (NEXT_HOP, 24),
        next_hop: Some(NEXT_HOP),
        ask_from: EXTERNAL,
    };
    let shared = Arc::new(Shared::new(&settings));
    let lane = |worker| {
        let (io, wire) = wire(DEVICE_CARD, MTU);
        (Lane::new(AnyLaneIo::Mem(io), settings.clone(), Arc::clone(&shared), worker, 5, START), wire)
    };
    (0..workers).map(lane).collect()
}

/// The card of member `number`.
pub(crate) fn card(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, number])
}

/// A member with a card.
pub(crate) struct Station {
    pub(crate) member: Member,
    pub(crate) card: Mac,
    pub(crate) address: Ipv4Addr,
    pub(crate) worker: usize,
    pub(crate) session: SessionId,
}

impl Station {
    /// One of his sockets.
    pub(crate) fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, port)
    }

    /// `packet` by way of the gateway.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        self.member.send(&framed(GATEWAY_CARD, self.card, packet));
    }

    /// Whole packets that came.
    pub(crate) fn received(&mut self) -> Vec<Seen> {
        self.packets().iter().map(|packet| read(packet)).collect()
    }

    /// The only packet that came.
    pub(crate) fn one_received(&mut self) -> Seen {
        let mut received = self.received();
        assert_eq!(received.len(), 1, "{received:?}");
        received.remove(0)
    }

    /// Packets that came from the gateway, as they came. What goes to everybody is none of them.
    pub(crate) fn packets(&mut self) -> Vec<Vec<u8>> {
        let frames = self.member.received();
        let own = frames.iter().filter_map(|bytes| Frame::new_checked(bytes)).filter(|frame| !frame.dst().is_group());
        let packet = |frame: Frame<'_>| {
            assert_eq!((frame.dst(), frame.src()), (self.card, GATEWAY_CARD));
            frame.payload().to_vec()
        };
        own.map(packet).collect()
    }

    /// A question by ARP, and the card that was named in the answer.
    pub(crate) fn ask_arp(&mut self, way: &mut WayOut, target: Ipv4Addr) -> Option<Mac> {
        let (operation, target_mac) = (Operation::Request, Mac([0; 6]));
        let question = Arp { operation, sender_mac: self.card, sender: self.address, target_mac, target };
        self.member.send(&question.to_frame(Mac::BROADCAST));
        way.turn();
        let frames = self.member.received();
        let answers = frames.iter().filter_map(|frame| Arp::parse(&frame[14..]));
        let mut named = answers.filter(|arp| arp.operation == Operation::Reply && arp.sender == target);
        named.next().map(|arp| arp.sender_mac)
    }

    /// A DHCP message to everybody.
    pub(crate) fn say(&mut self, what: MessageType, options: &[u8]) {
        let mut fixed = [0; 240];
        fixed[..3].copy_from_slice(&[1, 1, 6]);
        fixed[4..8].copy_from_slice(&[1, 2, 3, self.card.0[5]]);
        fixed[28..34].copy_from_slice(&self.card.0);
        fixed[236..].copy_from_slice(&[99, 130, 83, 99]);
        let message = [&fixed[..], &[code::MESSAGE_TYPE, 1, what as u8], options, &[code::END]].concat();
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
        let packet = datagram(from, SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT), &message);
        self.member.send(&framed(Mac::BROADCAST, self.card, &packet));
    }

    /// What the DHCP server said to him.
    pub(crate) fn dhcp_replies(&mut self) -> Vec<(MessageType, Ipv4Addr)> {
        let replies = self.received().into_iter().filter(|seen| seen.protocol == udp::PROTOCOL);
        let reply = |seen: Seen| {
            assert_eq!((seen.from, seen.to.port()), (SocketAddrV4::new(GATEWAY, SERVER_PORT), CLIENT_PORT));
            let message = Message::new_checked(&seen.data).unwrap();
            let mut what = None;
            assert!(each_option(message.options(), |code, value| {
                if code == code::MESSAGE_TYPE {
                    what = MessageType::from_byte(value[0]);
                }
            }));
            (what.unwrap(), message.yiaddr())
        };
        replies.map(reply).collect()
    }
}
