//! The loop of the card over sockets and a device in memory, against a bare link at the other end.

use std::collections::VecDeque;
use std::fs::File;

use super::*;
use crate::sys::vnet::Segments;
use crate::sys::waker::Waker;
use crate::tls::aead::AeadBackend;
use crate::tls::keys::Suite;
use crate::tls::layer::connected_pair;
use crate::wire::checksum::Sum;
use crate::worker::mem::{MemIo, MemPeer, MemSocket, pipe};

const START: Tick = Tick::from_ms(1_000);
const TIMEOUT: Duration = Duration::from_secs(20);

/// The host's end.
#[derive(Default)]
struct Host {
    sends: VecDeque<(VnetHeader, Vec<u8>)>,
    current: Vec<u8>,
    got: Vec<(VnetHeader, Vec<u8>)>,
    gone: bool,
}

impl Device for Host {
    fn receive(&mut self) -> io::Result<Option<(VnetHeader, &mut [u8])>> {
        if self.gone {
            return Err(io::ErrorKind::NotFound.into());
        }
        let Some((header, frame)) = self.sends.pop_front() else { return Ok(None) };
        self.current = frame;
        Ok(Some((header, &mut self.current)))
    }

    fn send<'a>(&mut self, header: VnetHeader, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<bool> {
        self.got.push((header, pieces.flatten().copied().collect()));
        Ok(true)
    }
}

/// The server's end of one connection.
struct Peer {
    pipe: MemPeer,
    link: Link,
    pools: Pools,
    scratch: Scratch,
    got: Got,
}

#[derive(Default)]
struct Got(Vec<Vec<u8>>);

impl FrameSink for Got {
    fn frame(&mut self, frame: &[u8]) {
        self.0.push(frame.to_vec());
    }

    fn dropped(&mut self, reason: DropReason) {
        panic!("the card sends what is no frame: {reason:?}");
    }
}

impl Peer {
    /// Reads what the card has sent; the frames, or why the connection has ended.
    fn receive(&mut self, now: Tick) -> Result<Vec<Vec<u8>>, CloseReason> {
        let bytes = self.pipe.read_all();
        self.link.receive(ConnKey(0), &bytes, now, &mut self.scratch, &mut self.got)?;
        Ok(std::mem::take(&mut self.got.0))
    }

    fn send(&mut self, frames: &[Vec<u8>], now: Tick) {
        for frame in frames {
            self.link.push(frame, now, &mut self.pools);
        }
        if let Some(flushed) = self.link.flush(ConnKey(0), now, &mut self.pools).unwrap() {
            self.pipe.write(flushed.buf.pending());
            self.pools.sends.give(flushed.buf);
            self.link.sent(ConnKey(0), START);
        }
    }
}

fn card() -> Card<MemIo, Host> {
    let mut io = MemIo::new(16, 128 * 1024, Waker::new().unwrap());
    io.watch(WATCH_DEVICE, File::open("/dev/null").unwrap().into()).unwrap();
    Card::new(io, Host::default(), START)
}

fn connect(card: &mut Card<MemIo, Host>) -> (ConnKey, Peer) {
    let (socket, pipe) = pipe();
    let (theirs, ours) = connected_pair(Suite::Tls13Aes128GcmSha256, AeadBackend::AwsLc);
    let line: Line<MemSocket> = Line { socket, layer: ours, plain: Vec::new(), cipher: Vec::new(), way: Way::BOTH };
    let key = card.attach(line).unwrap();
    let settings =
        LinkSettings { timeout: TIMEOUT, compress: false, supers: false, qos: false, queue_depth: 4_000, seed: 3 };
    let mut link = Link::new(settings, START);
    link.attach(ConnKey(0), Box::new(Conn::new(theirs)), Way::BOTH, START);
    let peer = Peer { pipe, link, pools: Pools::new(8_000), scratch: Scratch::default(), got: Got::default() };
    (key, peer)
}

/// A few turns: what is sent in one is told in the next.
fn turns(card: &mut Card<MemIo, Host>, now: Tick) {
    for _ in 0..4 {
        card.wait(now).unwrap();
        card.step(now).unwrap();
    }
}

/// A segment of TCP over IPv4 with `payload`, its checksum unfinished, to be cut into segments of 1,000 bytes.
fn segment(payload: usize) -> (VnetHeader, Vec<u8>) {
    let l4_bytes = u16::try_from(20 + payload).unwrap();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend((20 + l4_bytes).to_be_bytes());
    frame.extend([0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let checksum = Sum::ZERO.bytes(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = Sum::ZERO.bytes(&frame[26..34]).word(6).word(l4_bytes).partial();
    frame.extend([0x12, 0x34, 0, 80, 0, 0, 1, 0, 0, 0, 0, 9, 0x50, 0x10, 1, 0]);
    frame.extend(pseudo.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..payload).map(|i| u8::try_from(i % 251).unwrap()));
    let header = VnetHeader {
        needs_checksum: true,
        segments: if payload > 1_000 { Segments::Tcp4 } else { Segments::None },
        header_bytes: 54,
        segment_bytes: if payload > 1_000 { 1_000 } else { 0 },
        checksum_start: 34,
        checksum_offset: 16,
    };
    (header, frame)
}

#[test]
fn a_super_packet_is_cut_for_the_tunnel_and_merged_for_the_host() {
    let mut card = card();
    card.begin(TIMEOUT, Modes::default(), 1);
    let (_, mut peer) = connect(&mut card);
    let (header, whole) = segment(30_000);
    card.inward.device.sends.push_back((header, whole.clone()));
    turns(&mut card, START);
    let frames = peer.receive(START).unwrap();
    assert_eq!(frames.len(), 30);
    assert!(frames.iter().all(|frame| frame.len() == 1_054));
    // The other way it comes together again, as it was.
    peer.send(&frames, START);
    turns(&mut card, START);
    assert!(card.inward.device.got == [(header, whole)], "{} frames", card.inward.device.got.len());
    assert_eq!((card.carried().frames_out, card.carried().frames_in), (30, 30));
}

#[test]
fn without_a_session_frames_are_forgotten() {
    let mut card = card();
    card.inward.device.sends.push_back(segment(100));
    turns(&mut card, START);
    assert_eq!((card.inward.device.sends.len(), card.counts().dropped_out), (0, 1));
    card.begin(TIMEOUT, Modes::default(), 1);
    let (_, mut peer) = connect(&mut card);
    turns(&mut card, START);
    assert!(peer.receive(START).unwrap().is_empty());
}

#[test]
fn a_full_queue_costs_the_flow_that_fills_it() {
    let mut card = card();
    card.begin(TIMEOUT, Modes::default(), 1);
    let (_, mut peer) = connect(&mut card);
    peer.pipe.set_window(0);
    for _ in 0..400 {
        card.inward.device.sends.push_back(segment(30_000));
    }
    // Another flow, by its port.
    let (header, mut other) = segment(100);
    other[35] = 0x35;
    card.inward.device.sends.push_back((header, other));
    for _ in 0..40 {
        turns(&mut card, START);
    }
    assert!(card.inward.device.sends.is_empty(), "the host never waits");
    let dropped = card.carried().dropped_out;
    assert!((6_000..9_000).contains(&dropped), "{dropped} of 12,001");
    peer.pipe.set_window(usize::MAX);
    let mut frames = Vec::new();
    for _ in 0..800 {
        turns(&mut card, START);
        frames.extend(peer.receive(START).unwrap());
    }
    assert_eq!(frames.len() as u64 + card.carried().dropped_out, 12_001);
    let place = frames.iter().position(|frame| frame[35] == 0x35).unwrap();
    assert!(place < 200, "behind {place} frames of the others");
}

#[test]
fn a_lost_connection_leaves_its_flows_to_the_others() {
    let mut card = card();
    card.begin(TIMEOUT, Modes::default(), 1);
    let (first, one) = connect(&mut card);
    let (_, mut two) = connect(&mut card);
    turns(&mut card, START);
    one.pipe.close();
    turns(&mut card, START);
    let news: Vec<_> = card.news().collect();
    assert_eq!(news, [News::Lost(first, CloseReason::PeerEof)]);
    assert!(one.pipe.saw_fin(), "closed by us, too");
    card.inward.device.sends.push_back(segment(100));
    turns(&mut card, START);
    assert_eq!((two.receive(START).unwrap().len(), card.conns()), (1, 1));
}

#[test]
fn a_session_ends_with_close_notify() {
    let mut card = card();
    card.begin(TIMEOUT, Modes::default(), 1);
    let (_, mut peer) = connect(&mut card);
    card.inward.device.sends.push_back(segment(100));
    turns(&mut card, START);
    card.end();
    turns(&mut card, START);
    assert!(!card.is_closed(), "the peer may still have something to say");
    assert_eq!(peer.receive(START).unwrap_err(), CloseReason::PeerCloseNotify);
    assert_eq!((peer.got.0.len(), peer.pipe.saw_fin()), (1, true));
    peer.pipe.close();
    turns(&mut card, START);
    assert!(card.is_closed() && !peer.pipe.saw_reset());
    // One that keeps silent is not waited for.
    card.begin(TIMEOUT, Modes::default(), 1);
    let (_, _silent) = connect(&mut card);
    card.end();
    turns(&mut card, START);
    assert!(!card.is_closed());
    turns(&mut card, START + DRAIN);
    assert!(card.is_closed());
}

#[test]
fn silence_ends_connections_and_the_session() {
    let mut card = card();
    card.begin(TIMEOUT, Modes::default(), 1);
    let (key, mut peer) = connect(&mut card);
    turns(&mut card, START);
    peer.receive(START).unwrap();
    assert!(card.news().next().is_none());
    turns(&mut card, START + TIMEOUT);
    let news: Vec<_> = card.news().collect();
    assert!(news.contains(&News::Expired) || news.contains(&News::Lost(key, CloseReason::Timeout)), "{news:?}");
}

#[test]
fn a_device_that_is_gone_is_told() {
    let mut card = card();
    card.inward.device.gone = true;
    card.wait(START).unwrap();
    assert!(card.step(START).is_err());
}

/// As long as nothing comes back the card is in the way of nothing; then nothing passes any more, both ways.
#[test]
fn a_probe_that_comes_back_is_told() {
    use crate::wire::ethernet::Mac;
    use crate::wire::loop_probe::{Leg, LoopProbe};
    let mut card = card();
    card.begin(TIMEOUT, Modes::default(), 1);
    card.watch_loops(Loops::new(
        Leg { started_ms: 1, token: 1 },
        Mac([0x5e, 0, 0, 0, 0, 1]),
        [1 << 9, 1 << 20],
        false,
        START,
    ));
    let (_, mut peer) = connect(&mut card);
    card.inward.device.sends.push_back(segment(100));
    turns(&mut card, START);
    let frames = peer.receive(START).unwrap();
    let probes: Vec<_> = frames.iter().filter_map(|frame| LoopProbe::parse(frame)).collect();
    assert_eq!((frames.len(), probes.len()), (2, 1), "a segment and a probe");
    let into_lan: Vec<_> = card.inward.device.got.drain(..).collect();
    assert!(into_lan.len() == 1 && LoopProbe::parse(&into_lan[0].1).is_some());
    assert!(card.news().next().is_none());
    // The one of another card passes, marked.
    let other =
        Loops::new(Leg { started_ms: 0, token: 1 }, Mac([0x5e, 0, 0, 0, 0, 2]), [1 << 9, 1 << 20], false, START)
            .due(0)
            .unwrap();
    peer.send(&[other.into_hub.to_vec()], START);
    turns(&mut card, START);
    let passed: Vec<_> = card.inward.device.got.drain(..).collect();
    assert_eq!(LoopProbe::parse(&passed[0].1).unwrap().passed, 1);
    // Our own, by way of the LAN.
    let back = frames.into_iter().find(|frame| LoopProbe::parse(frame).is_some()).unwrap();
    card.inward.device.sends.push_back((VnetHeader::default(), back));
    turns(&mut card, START);
    assert_eq!(card.news().collect::<Vec<_>>(), [News::Loop(Place::Ring)]);
    card.inward.device.sends.push_back(segment(100));
    peer.send(&[segment(100).1], START);
    turns(&mut card, START);
    let last = |frame: &[u8]| LoopProbe::parse(frame).is_some_and(|probe| probe.sent_into.is_none());
    let (into_hub, into_lan) = (peer.receive(START).unwrap(), std::mem::take(&mut card.inward.device.got));
    assert!(into_hub.len() == 1 && last(&into_hub[0]) && into_lan.len() == 1 && last(&into_lan[0].1));
    card.end_because(CloseReason::BridgeLoop);
    turns(&mut card, START);
    assert_eq!(peer.receive(START).unwrap_err(), CloseReason::PeerCloseNotify);
    // Without a session, or not in bridge mode, none is sent.
    card.begin(TIMEOUT, Modes::default(), 1);
    let (_, mut peer) = connect(&mut card);
    turns(&mut card, START + Duration::from_secs(5));
    assert!(peer.receive(START).unwrap().is_empty() && card.inward.device.got.is_empty());
}
