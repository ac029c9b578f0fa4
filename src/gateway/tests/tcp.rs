//! DNS over TCP through the front door; the member's end is a smoltcp of its own.
#![forbid(unsafe_code)]

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::*;
use crate::gateway::dns::DnsTransport;
use std::collections::VecDeque;

/// A wire between a client and the bench: packets in either direction.
#[derive(Default)]
struct Wire {
    to_client: VecDeque<Vec<u8>>,
    to_gateway: VecDeque<Vec<u8>>,
}

struct Taken(Vec<u8>);
struct Given<'w>(&'w mut VecDeque<Vec<u8>>);

impl RxToken for Taken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Given<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'w> = Taken;
    type TxToken<'w> = Given<'w>;

    fn receive(&mut self, _: Instant) -> Option<(Taken, Given<'_>)> {
        let packet = self.to_client.pop_front()?;
        Some((Taken(packet), Given(&mut self.to_gateway)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Given<'_>> {
        Some(Given(&mut self.to_gateway))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ip, 1500);
        capabilities
    }
}

/// A member's host, with any number of connections.
struct Host {
    member: Member,
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
}

impl Host {
    fn new(member: Member, now: Tick) -> Self {
        let mut wire = Wire::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, at(now));
        interface.update_ip_addrs(|list| list.push(IpCidr::new(member.address.into(), 16)).unwrap());
        Self { member, interface, sockets: SocketSet::new(Vec::new()), wire }
    }

    fn connect(&mut self, from: u16, to: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 70_000]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.connect(self.interface.context(), (GATEWAY, to), from).unwrap();
        self.sockets.add(socket)
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Until nothing moves any more, at most `ms`.
    fn talk(&mut self, bench: &mut Bench, ms: u64) {
        for _ in 0..ms {
            self.interface.poll(at(bench.now), &mut self.wire, &mut self.sockets);
            while let Some(packet) = self.wire.to_gateway.pop_front() {
                let frame = [&GatewaySettings::default().mac.0[..], &self.member.mac.0, &[8, 0], &packet].concat();
                assert_eq!(bench.frame(&self.member.origin, &frame), Handled::Done);
            }
            bench.poll();
            let mine = |(port, _): &mut (PortId, Vec<u8>)| *port == self.member.origin.port;
            for (_, frame) in bench.seen.replies.extract_if(.., mine) {
                assert_eq!((&frame[..6], &frame[12..14]), (&self.member.mac.0[..], &[8, 0][..]));
                self.wire.to_client.push_back(frame[14..].to_vec());
            }
            bench.later(1);
        }
    }

    fn send(&mut self, handle: SocketHandle, message: &[u8]) {
        let bytes = [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat();
        assert_eq!(self.socket(handle).send_slice(&bytes), Ok(bytes.len()));
    }

    fn received(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut bytes = vec![0; 70_000];
        let length = self.socket(handle).recv_slice(&mut bytes).unwrap_or(0);
        bytes.truncate(length);
        bytes
    }
}

fn at(now: Tick) -> Instant {
    Instant::from_micros(i64::try_from(now.0 / 1000).unwrap())
}

fn host(bench: &Bench, n: u8) -> Host {
    Host::new(bench.member(n), bench.now)
}

/// 64 KiB come whole; a second question uses the same connection.
#[test]
fn dns_n2_long_answers_by_tcp() {
    let mut bench = Bench::new(|_| ());
    let mut host = host(&bench, 9);
    let conn = host.connect(40_000, 53);
    host.talk(&mut bench, 5);
    for (id, bytes) in [(1, 65_535usize), (2, 100)] {
        let message = question(id, NAME, 16, 0x100, b"");
        host.send(conn, &message);
        host.talk(&mut bench, 50);
        let asked = bench.seen.questions.pop().expect("asked upstream");
        assert_eq!((asked.transport, &asked.message[2..]), (DnsTransport::Tcp, &message[2..]));
        let fixed = answer_to(&message, b"").len();
        let answer = answer_to(&message, &vec![0x5a; bytes - fixed]);
        bench.answer(asked.token, Some(answer.clone()));
        host.talk(&mut bench, 300);
        let got = host.received(conn);
        assert_eq!((usize::from(u16::from_be_bytes([got[0], got[1]])), got.len()), (bytes, bytes + 2));
        assert!(got[2..] == answer, "byte by byte");
    }
    host.socket(conn).close();
    host.talk(&mut bench, 50);
    assert_eq!(host.socket(conn).state(), State::TimeWait);
}

/// Several questions in one connection, cut anywhere; answers as they come.
#[test]
fn dns_n2_pipelined_and_cut() {
    let mut bench = Bench::new(|_| ());
    let mut host = host(&bench, 9);
    let conn = host.connect(40_000, 53);
    host.talk(&mut bench, 10);
    let questions: Vec<_> = (1..=6).map(|id| question(id, NAME, 15 + id, 0x100, b"")).collect();
    for message in &questions {
        let bytes = [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat();
        for piece in bytes.chunks(7) {
            host.socket(conn).send_slice(piece).unwrap();
            host.talk(&mut bench, 3);
        }
    }
    assert_eq!(bench.seen.questions.len(), 4, "no more at a time");
    let mut got = Vec::new();
    while let Some(asked) = bench.seen.questions.pop() {
        bench.answer(asked.token, Some(answer_to(&asked.message, b"x")));
        host.talk(&mut bench, 30);
        got.extend(host.received(conn));
    }
    let mut ids = Vec::new();
    while got.len() > 2 {
        let rest = got.split_off(2 + usize::from(u16::from_be_bytes([got[0], got[1]])));
        ids.push(got[3]);
        got = rest;
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn tcp_other_ports_are_reset() {
    let mut bench = Bench::new(|_| ());
    let mut host = host(&bench, 9);
    for (from, to) in [(40_000, 80), (40_001, 22), (40_002, 65_535)] {
        let conn = host.connect(from, to);
        host.talk(&mut bench, 5);
        assert_eq!(host.socket(conn).state(), State::Closed, "port {to}");
    }
    let mut off = Bench::new(|settings| settings.dns.enabled = false);
    let mut host = super::tcp::host(&off, 9);
    let conn = host.connect(40_000, 53);
    host.talk(&mut off, 5);
    assert_eq!(host.socket(conn).state(), State::Closed);
}

/// A session has its share of connections, and all together have an end; who leaves makes room.
#[test]
fn tcp_connections_are_bounded() {
    let mut bench = Bench::new(|settings| {
        settings.dns.connections_max = 5;
        settings.dns.connections_per_session = 3;
    });
    let (mut a, mut b) = (host(&bench, 9), host(&bench, 10));
    let open = |host: &mut Host, bench: &mut Bench| {
        let conns: Vec<_> = (0..4).map(|n| host.connect(40_000 + n, 53)).collect();
        host.talk(bench, 10);
        let states: Vec<_> = conns.iter().map(|conn| host.socket(*conn).state() == State::Established).collect();
        (conns[0], states)
    };
    let (_, states) = open(&mut a, &mut bench);
    assert_eq!(states, [true, true, true, false]);
    let (first, states) = open(&mut b, &mut bench);
    assert_eq!(states, [true, true, false, false]);
    assert_eq!(bench.seen.drops, [DropReason::GatewayTcpFull; 3]);
    b.socket(first).abort();
    b.talk(&mut bench, 5);
    let again = b.connect(41_000, 53);
    b.talk(&mut bench, 5);
    assert_eq!(b.socket(again).state(), State::Established);
    bench.gateway.session_ended(a.member.origin.session, bench.now, &mut bench.seen);
    a.talk(&mut bench, 5);
    let (_, states) = open(&mut Host::new(bench.member(11), bench.now), &mut bench);
    assert_eq!(states, [true, true, true, false], "those of a session that ended are free");
}

/// Who says nothing, or half a question, is gone after a while: openings without a third step too.
#[test]
fn tcp_idle_connections_end() {
    let mut bench = Bench::new(|_| ());
    let mut host = host(&bench, 9);
    let (silent, half) = (host.connect(40_000, 53), host.connect(40_001, 53));
    host.talk(&mut bench, 10);
    host.socket(half).send_slice(&[0, 40, 1, 2]).unwrap();
    // An opening whose maker is never heard of again.
    let lost = host.connect(40_002, 53);
    host.interface.poll(at(bench.now), &mut host.wire, &mut host.sockets);
    let syn = host.wire.to_gateway.iter().position(|packet| packet[20..22] == 40_002u16.to_be_bytes()).unwrap();
    let syn = host.wire.to_gateway.remove(syn).unwrap();
    host.sockets.remove(lost);
    let frame = [&GatewaySettings::default().mac.0[..], &host.member.mac.0, &[8, 0], &syn].concat();
    bench.frame(&host.member.origin, &frame);
    host.talk(&mut bench, 9_000);
    assert_eq!(host.socket(silent).state(), State::Established);
    host.talk(&mut bench, 2_000);
    assert_eq!((host.socket(silent).state(), host.socket(half).state()), (State::CloseWait, State::CloseWait));
    host.socket(silent).close();
    host.talk(&mut bench, 40_000);
    assert!(bench.poll() > bench.now + Duration::from_secs(3600), "nothing is left to wait for");
}

#[test]
fn tcp_hostile_lengths_end_the_connection() {
    let mut bench = Bench::new(|_| ());
    let mut host = host(&bench, 9);
    for (from, bytes) in [(40_000, &[0xff, 0xff, 1, 2, 3][..]), (40_001, &[0, 0]), (40_002, &[0, 3, 1, 2, 3])] {
        let conn = host.connect(from, 53);
        host.talk(&mut bench, 5);
        host.socket(conn).send_slice(bytes).unwrap();
        host.talk(&mut bench, 20);
        assert_eq!(host.socket(conn).state(), State::Closed, "reset");
    }
    assert_eq!(bench.seen.drops, [DropReason::GatewayDnsMalformed; 3]);
    assert!(bench.seen.questions.is_empty());
}
