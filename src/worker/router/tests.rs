//! Two workers without sockets, and a hub whose gateway is on the first: what passes between gateway, NAT and ports.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::departures::Departures;
use super::host::{HostSeed, Journal};
use super::orders::Order;
use super::plan::RouterPlan;
use super::view::RouterView;
use super::*;
use crate::gateway::arp::ArpGuard;
use crate::gateway::bindings::{Binding, Bindings};
use crate::gateway::dhcp::DhcpSettings;
use crate::gateway::{Gateway, GatewaySettings};
use crate::hub::{HubSettings, HubShared, PortSettings};
use crate::lane::mem::{MemWire, wire};
use crate::lane::uplink::{Ownership, Shared, UplinkSettings};
use crate::lane::{Lane, Link as LaneLink};
use crate::metrics::counters::Counters;
use crate::nat::{NatFilter, NatPlan, NatSettings, Prefix, Proto};
use crate::tunnel::link::{Link, LinkSettings};
use crate::wire::dhcp::{BOOTREQUEST, CLIENT_PORT, FIXED_BYTES, MAGIC_COOKIE, SERVER_PORT};
use crate::wire::ethernet::Mac;
use crate::wire::{ipv4, udp};
use crate::worker::exchange::{Inbox, Mailbox, mesh};
use crate::worker::slots::Port;

const HUB: HubId = HubId(0);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const SERVER: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);

/// A disk that is always ready.
struct Disk(u64);

impl Journal for Disk {
    fn record(&mut self, _: &[u8]) -> u64 {
        self.0 += 1;
        self.0
    }

    fn whole(&mut self, _: Vec<u8>) {}
}

struct Rig {
    fabrics: Vec<Fabric>,
    inboxes: Vec<Inbox>,
    /// What the gateway told other workers.
    told: Receiver<(usize, Order)>,
    plan: Arc<RouterPlan>,
    wire: MemWire,
    /// The second worker's end, if it has one.
    second: Option<MemWire>,
    now: Tick,
}

impl Rig {
    fn new() -> Self {
        Self::with(None)
    }

    /// `second`: the second worker has an end of the lane too, without a queue: that worker sends for it.
    fn with(second: Option<usize>) -> Self {
        let now = Tick::from_ms(1_000);
        let hubs: Arc<[_]> = Arc::new([Arc::new(HubShared::new(HubSettings::default(), 2))]);
        let settings = NatSettings::new(2, Prefix::new(GATEWAY, 16), GATEWAY, vec![Prefix::new(PUBLIC, 32)]);
        let nat_plan = Arc::new(NatPlan::new(settings).unwrap());
        let bindings = Arc::new(Bindings::new(Ipv4Addr::new(100, 64, 0, 0), 1 << 16));
        let plan = Arc::new(RouterPlan {
            hub: HUB,
            port: PortId::new(0, 0, 0),
            mac: GATEWAY_MAC,
            address: GATEWAY,
            broadcast: Ipv4Addr::new(100, 64, 255, 255),
            guard: ArpGuard { mac: GATEWAY_MAC, address: GATEWAY, bindings: Arc::clone(&bindings) },
            bindings,
            departures: Departures::default(),
            nat: Some(Arc::clone(&nat_plan)),
        });
        let (lane, wire) = wire(Mac([2, 0, 0, 0, 9, 9]), 1500);
        let uplink = UplinkSettings {
            network: (PUBLIC, 24),
            ownership: Ownership::Shared,
            next_hop: Some(Ipv4Addr::new(192, 0, 2, 1)),
            ask_from: PUBLIC,
            addresses: vec![PUBLIC],
        };
        let shared = Arc::new(Shared::new(&uplink));
        let mut lanes = [Some(Lane::new(AnyLaneIo::Mem(lane), uplink.clone(), Arc::clone(&shared), 0, 1, now)), None];
        let second = second.map(|worker| {
            let (lane, wire) = self::wire(Mac([2, 0, 0, 0, 9, 9]), 1500);
            wire.set_relay(Some(worker));
            lanes[1] = Some(Lane::new(AnyLaneIo::Mem(lane), uplink, shared, 1, 1, now));
            wire
        });
        let (tell, told) = channel();
        let mut host = Some(Self::host(&plan, &nat_plan, tell, now));
        let (mut fabrics, mut inboxes) = (Vec::new(), Vec::new());
        for (index, Mailbox { outbox, inbox }) in mesh(2, 1 << 16).into_iter().enumerate() {
            let mut fabric = Fabric::new(index, 100, outbox, &hubs, Arc::new(Counters::default()));
            let seed = RouterSeed {
                plan: Arc::clone(&plan),
                host: host.take(),
                nat: Some(Nat::new(Arc::clone(&nat_plan), index, 7, now)),
                lane: lanes[index].take(),
                events: Box::new(|_, _, _| {}),
            };
            fabric.take_routers(vec![seed], now);
            fabrics.push(fabric);
            inboxes.push(inbox);
        }
        // From then on lanes know their devices.
        fabrics.iter_mut().for_each(|fabric| fabric.poll_router(HUB, now));
        Self { fabrics, inboxes, told, plan, wire, second, now }
    }

    fn host(
        plan: &RouterPlan,
        nat: &Arc<NatPlan>,
        tell: std::sync::mpsc::Sender<(usize, Order)>,
        now: Tick,
    ) -> HostSeed {
        let nat = Arc::clone(nat);
        let dhcp = DhcpSettings {
            owner_of: Some(Arc::new(move |address| nat.owner_of_inside(address))),
            ..DhcpSettings::for_network(GATEWAY, 16)
        };
        let settings =
            GatewaySettings { mac: GATEWAY_MAC, address: GATEWAY, dhcp: Some(dhcp), ..GatewaySettings::default() };
        HostSeed {
            gateway: Gateway::new(settings, Arc::clone(&plan.bindings), 1, now, 1_790_000_000),
            journal: Box::new(Disk(0)),
            ask: Box::new(|_| {}),
            tell: Box::new(move |worker, order| tell.send((worker, order)).unwrap()),
        }
    }

    /// A session begins on `worker`.
    fn open(&mut self, worker: usize, session: u64, member: u32) -> PortId {
        let settings = LinkSettings {
            timeout: Duration::from_secs(20),
            compress: false,
            supers: false,
            qos: false,
            queue_depth: 8,
            seed: session,
        };
        let fabric = &mut self.fabrics[worker];
        let id = fabric.ports.reserve().unwrap();
        let port = Port {
            id,
            hub: HUB,
            session: SessionId(session),
            member: MemberId(member),
            link: Link::new(settings, self.now),
            timer_at: self.now,
        };
        assert!(fabric.open_port(Box::new(port), PortSettings::OPEN));
        id
    }

    fn close(&mut self, port: PortId) {
        assert!(self.fabrics[port.worker()].close_port(port).is_some());
    }

    /// A frame comes in by `port`; mail is carried until there is none.
    fn frame(&mut self, port: PortId, bytes: &[u8]) {
        self.fabrics[port.worker()].switch(HUB, port, bytes, self.now);
        for _ in 0..4 {
            for (fabric, inbox) in self.fabrics.iter_mut().zip(&mut self.inboxes) {
                fabric.outbox.flush(|_| {});
                while let Some(message) = inbox.receive() {
                    fabric.take_in(message.header(), message.frame(), self.now);
                }
            }
        }
    }

    /// The client behind `port` asks for an address; with `address` it takes that.
    fn dhcp(&mut self, port: PortId, mac: Mac, address: Option<Ipv4Addr>) {
        let mut message = vec![0; FIXED_BYTES];
        (message[0], message[1], message[2]) = (BOOTREQUEST, 1, 6);
        message[28..34].copy_from_slice(&mac.0);
        message[236..240].copy_from_slice(&MAGIC_COOKIE);
        match address {
            None => message.extend([53, 1, 1]),
            Some(address) => {
                message.extend([53, 1, 3, 50, 4]);
                message.extend(address.octets());
                message.extend([54, 4]);
                message.extend(GATEWAY.octets());
            }
        }
        message.push(255);
        let (from, to) = ((Ipv4Addr::UNSPECIFIED, CLIENT_PORT), (Ipv4Addr::BROADCAST, SERVER_PORT));
        self.frame(port, &framed(mac, Mac([0xff; 6]), from, to, &message));
    }

    /// The client behind `port` gets the address that the lease table then has for its card.
    fn lease(&mut self, port: PortId, mac: Mac) -> Ipv4Addr {
        self.dhcp(port, mac, None);
        let offered = self.leases().into_iter().find(|(_, holder)| *holder == Some(mac)).expect("an offer").0;
        self.dhcp(port, mac, Some(offered));
        assert_eq!(self.plan.bindings.of(offered).map(|binding| binding.mac), Some(mac));
        offered
    }

    fn leases(&mut self) -> Vec<(Ipv4Addr, Option<Mac>)> {
        self.host_says(|gateway, now| {
            gateway.dhcp().unwrap().leases(now).map(|lease| (lease.address, lease.mac)).collect()
        })
    }

    fn host_says<T: Send + Default + 'static>(
        &mut self,
        ask: impl FnOnce(&mut Gateway, Tick) -> T + Send + 'static,
    ) -> T {
        let said = Arc::new(Mutex::new(T::default()));
        let slot = Arc::clone(&said);
        let order = Order::Host(Box::new(move |gateway, _, now| *slot.lock().unwrap() = ask(gateway, now)));
        self.fabrics[0].obey_order(HUB, order, self.now);
        std::mem::take(&mut *said.lock().unwrap())
    }

    fn release(&mut self, address: Ipv4Addr) {
        let order = Order::Host(Box::new(move |gateway, sink, now| assert!(gateway.release(address, now, sink))));
        self.fabrics[0].obey_order(HUB, order, self.now);
    }

    /// The other workers do what they were told.
    fn obey(&mut self) -> usize {
        let told: Vec<(usize, Order)> = self.told.try_iter().collect();
        let count = told.len();
        for (worker, order) in told {
            self.fabrics[worker].obey_order(HUB, order, self.now);
        }
        count
    }

    /// Members who have mappings on `worker`.
    fn mapped(&mut self, worker: usize) -> Vec<MemberId> {
        let said = Arc::new(Mutex::new(Vec::new()));
        let slot = Arc::clone(&said);
        let order = Order::Nat(Box::new(move |nat, now| {
            let rows = nat.list(&NatFilter::default(), 100, now);
            *slot.lock().unwrap() = rows.iter().filter_map(|row| Some(row.insider?.member)).collect();
        }));
        self.fabrics[worker].obey_order(HUB, order, self.now);
        std::mem::take(&mut *said.lock().unwrap())
    }

    /// The member behind `port` sends a datagram to the Internet.
    fn send_out(&mut self, port: PortId, mac: Mac, address: Ipv4Addr) {
        self.frame(port, &framed(mac, GATEWAY_MAC, (address, 4000), (SERVER, 53), b"?"));
    }

    /// What becomes of a datagram from `remote` to the public port `port`.
    fn verdict(&mut self, worker: usize, port: u16, remote: SocketAddrV4) -> Result<(), DropReason> {
        let said = Arc::new(Mutex::new(Ok(())));
        let slot = Arc::clone(&said);
        let external = SocketAddrV4::new(PUBLIC, port);
        let order =
            Order::Nat(Box::new(move |nat, _| *slot.lock().unwrap() = nat.verdict(Proto::Udp, external, remote)));
        self.fabrics[worker].obey_order(HUB, order, self.now);
        *said.lock().unwrap()
    }

    fn view(&mut self, worker: usize) -> RouterView {
        let said = Arc::new(Mutex::new(RouterView::default()));
        let slot = Arc::clone(&said);
        let order = Order::Inspect(Box::new(move |view| *slot.lock().unwrap() = view));
        self.fabrics[worker].obey_order(HUB, order, self.now);
        std::mem::take(&mut *said.lock().unwrap())
    }
}

fn framed(src: Mac, dst: Mac, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut room = [0; 1400];
    let packet = udp::datagram(from, to, payload, &mut room);
    [&dst.0[..], &src.0, &ipv4::ETHERTYPE.to_be_bytes(), packet].concat()
}

fn card(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, n])
}

/// A member comes back with another card at the moment at which his old session is taken over: his first frame finds
/// his address free for him, with nothing between the end and the frame but the mailbox.
#[test]
fn a_session_has_ended_for_the_gateway_before_the_next_one_speaks() {
    for worker in [0, 1] {
        let mut rig = Rig::new();
        let old = rig.open(worker, 1, 5);
        let address = rig.lease(old, card(1));
        assert_eq!(rig.plan.nat.as_ref().unwrap().owner_of_inside(address), worker);
        rig.close(old);
        let next = rig.open(worker, 2, 5);
        rig.dhcp(next, card(2), None);
        rig.dhcp(next, card(2), Some(address));
        let binding = Binding { mac: card(2), port: next, session: SessionId(2), member: MemberId(5) };
        assert_eq!(rig.plan.bindings.of(address), Some(binding));
        assert_eq!(rig.leases().len(), 1, "he has no second address");
    }
}

#[test]
fn a_session_that_ended_unbinds_its_address_and_keeps_its_mappings() {
    let mut rig = Rig::new();
    let port = rig.open(1, 1, 5);
    let address = rig.lease(port, card(1));
    rig.send_out(port, card(1), address);
    rig.close(port);
    rig.now = rig.now + POLL;
    rig.fabrics[0].poll_router(HUB, rig.now);
    assert_eq!(rig.plan.bindings.of(address), None);
    assert_eq!((rig.obey(), rig.mapped(1)), (0, vec![MemberId(5)]), "they are his when he comes back");
}

/// On the gateway's own worker, and on another one.
#[test]
fn mappings_end_with_the_lease_of_their_address() {
    for worker in [0, 1] {
        let mut rig = Rig::new();
        let ports = [rig.open(worker, 1, 5), rig.open(worker, 2, 6)];
        let addresses = [rig.lease(ports[0], card(1)), rig.lease(ports[1], card(2))];
        for ((port, address), n) in ports.into_iter().zip(addresses).zip(1..) {
            rig.send_out(port, card(n), address);
        }
        assert_eq!(rig.mapped(worker), [MemberId(5), MemberId(6)]);
        rig.release(addresses[0]);
        assert_eq!(rig.obey(), worker, "told to the other worker only");
        assert_eq!(rig.mapped(worker), [MemberId(6)]);
    }
}

/// An order that comes late finds the next holder of the address.
#[test]
fn mappings_of_the_next_holder_stay() {
    let mut rig = Rig::new();
    let port = rig.open(1, 1, 5);
    let address = rig.lease(port, card(1));
    rig.send_out(port, card(1), address);
    rig.fabrics[1].obey_order(HUB, Order::EndAddress(address, MemberId(4)), rig.now);
    assert_eq!(rig.mapped(1), [MemberId(5)]);
    rig.fabrics[1].obey_order(HUB, Order::EndAddress(address, MemberId(5)), rig.now);
    assert_eq!(rig.mapped(1), []);
}

#[test]
fn a_verdict_is_what_happens_to_the_packet() {
    let mut rig = Rig::new();
    let port = rig.open(1, 1, 5);
    let address = rig.lease(port, card(1));
    rig.send_out(port, card(1), address);
    let said = Arc::new(Mutex::new(0));
    let slot = Arc::clone(&said);
    let look = Order::Nat(Box::new(move |nat, now| {
        *slot.lock().unwrap() = nat.list(&NatFilter::default(), 1, now)[0].translation.external.port();
    }));
    rig.fabrics[1].obey_order(HUB, look, rig.now);
    let external = *said.lock().unwrap();
    let stranger = Ipv4Addr::new(9, 9, 9, 9);
    for (port, remote, want) in [
        (external, SocketAddrV4::new(SERVER, 53), Ok(())),
        (external, SocketAddrV4::new(SERVER, 54), Ok(())),
        (external, SocketAddrV4::new(stranger, 53), Err(DropReason::NatFiltered)),
        (external ^ 1, SocketAddrV4::new(SERVER, 53), Err(DropReason::NatNoMapping)),
    ] {
        assert_eq!(rig.verdict(1, port, remote), want, "{port} {remote}");
        let counted = |rig: &Rig| {
            want.err().map_or(0, |reason| rig.fabrics.iter().map(|fabric| fabric.counters.drops(reason)).sum::<u64>())
        };
        let before = counted(&rig);
        let mut room = [0; 100];
        let packet = udp::datagram((*remote.ip(), remote.port()), (PUBLIC, port), b"!", &mut room);
        let bytes = [&[0; 12][..], &ipv4::ETHERTYPE.to_be_bytes(), packet].concat();
        let parcel = Parcel { hub: HUB, to: Dest::Inbound, meta: rig.plan.meta(Scope::Unicast) };
        rig.fabrics[1].take_in(&parcel.to_words(), &bytes, rig.now);
        assert_eq!(counted(&rig) - before, u64::from(want.is_err()), "{port} {remote}");
    }
}

#[test]
fn what_a_lane_counts_is_counted_by_its_worker_once() {
    let mut rig = Rig::new();
    let port = rig.open(0, 1, 5);
    let address = rig.lease(port, card(1));
    rig.wire.set_link(LaneLink { up: false, mac: Mac([2, 0, 0, 0, 9, 9]), mtu: 1500, generation: 1 });
    rig.fabrics[0].poll_router(HUB, rig.now);
    rig.send_out(port, card(1), address);
    for _ in 0..3 {
        rig.now = rig.now + POLL;
        rig.fabrics[0].poll_router(HUB, rig.now);
    }
    let counters = &rig.fabrics[0].counters;
    assert_eq!((counters.drops(DropReason::LaneTxDown), counters.lane_link_downs.read()), (1, 1));
    let view = rig.view(0);
    let leases = view.leases.unwrap();
    assert_eq!((leases.leased, view.nat.unwrap().mappings), (1, 1));
    assert!(leases.pool > 60_000 && view.lane.is_some_and(|(link, stats)| !link.up && stats.drop_tx_down == 1));
    assert_eq!((rig.view(1).leases, rig.view(1).lane), (None, None));
}

/// The NIC has one queue, and the member's address belongs to the worker without.
#[test]
fn a_worker_without_a_queue_sends_by_another() {
    let mut rig = Rig::with(Some(0));
    let port = rig.open(1, 1, 5);
    let address = rig.lease(port, card(1));
    assert_eq!(rig.plan.nat.as_ref().unwrap().owner_of_inside(address), 1);
    rig.wire.put(&answer(Ipv4Addr::new(192, 0, 2, 1)), crate::wire::offload::Offload::NONE);
    rig.send_out(port, card(1), address);
    for fabric in &mut rig.fabrics {
        fabric.receive_lane(HUB, rig.now);
        fabric.poll_router(HUB, rig.now);
        fabric.flush_lanes(rig.now);
    }
    let sent: Vec<_> = rig.wire.take().into_iter().filter(|(frame, _)| frame[12..14] == [8, 0]).collect();
    assert_eq!(sent.len(), 1);
    let packet = ipv4::Ipv4::new_checked(&sent[0].0[14..]).unwrap();
    assert_eq!((packet.src(), packet.dst()), (PUBLIC, SERVER));
    assert_eq!(rig.second.as_ref().unwrap().take(), [], "it has no queue");
    assert_eq!(rig.fabrics[1].counters.lane_relayed.read(), 1);
}

/// Queues have moved while a packet was on its way: it does not go round in circles.
#[test]
fn what_another_worker_shall_send_is_not_given_away_again() {
    let mut rig = Rig::with(Some(0));
    let mut room = [0; 100];
    let packet = udp::datagram((PUBLIC, 4000), (SERVER, 53), b"!", &mut room);
    let bytes = [&[0; 12][..], &ipv4::ETHERTYPE.to_be_bytes(), packet].concat();
    let parcel = Parcel { hub: HUB, to: Dest::Uplink, meta: rig.plan.meta(Scope::Unicast) };
    rig.fabrics[1].take_in(&parcel.to_words(), &bytes, rig.now);
    assert_eq!(rig.fabrics[1].counters.drops(DropReason::NatNoLane), 1);
    assert_eq!(rig.fabrics[1].counters.lane_relayed.read(), 0);
}

/// What the card of `hop` answers when it is asked for.
fn answer(hop: Ipv4Addr) -> Vec<u8> {
    let reply = crate::wire::arp::Arp {
        operation: crate::wire::arp::Operation::Reply,
        sender_mac: card(9),
        sender: hop,
        target_mac: Mac([2, 0, 0, 0, 9, 9]),
        target: PUBLIC,
    };
    reply.to_frame(Mac([2, 0, 0, 0, 9, 9])).to_vec()
}
