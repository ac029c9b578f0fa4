//! The pure layers by themselves.

use std::hint::black_box;
use std::time::Duration;

use hublane::hub::{self, Egress, HubSettings, HubShared, HubView, PortSettings, Verdict};
use hublane::ids::{ConnKey, PortId};
use hublane::tls::aead::AeadBackend;
use hublane::tls::keys::Suite;
use hublane::tls::layer::{Opened, RecordLayer, connected_pair};
use hublane::tunnel::conn::Conn;
use hublane::tunnel::deframe::{Block, BlockPool, Deframer};
use hublane::tunnel::link::{Link, LinkSettings, Pools, Pushed, Way};
use hublane::wire::ethernet::Frame;
use hublane::worker::exchange::{Mailbox, mesh};

use super::Piece;
use super::fixture::{NOW, batch, frame, frames_per_record, station};

const SUITE: Suite = Suite::Tls13Aes128GcmSha256;

/// Plaintext of one full record → frames.
pub(crate) struct Deframe {
    plain: Vec<u8>,
    deframer: Deframer,
    pool: BlockPool,
    frames: u64,
}

impl Deframe {
    pub(crate) fn new(frame_bytes: usize) -> Self {
        let plain = batch(&frame(station(2), station(1), frame_bytes), frames_per_record(frame_bytes));
        Self { plain, deframer: Deframer::new(), pool: BlockPool::default(), frames: 0 }
    }
}

impl Piece for Deframe {
    fn run(&mut self) {
        let Self { plain, deframer, pool, frames } = self;
        let each = |block: Block<'_>| {
            if let Block::Data(frame) = block {
                black_box(frame);
                *frames += 1;
            }
        };
        deframer.push_with(black_box(plain), pool, each).unwrap();
    }

    fn done(&mut self) -> u64 {
        std::mem::take(&mut self.frames)
    }
}

/// Frames between stations that are known, through ingress and egress of a hub.
pub(crate) struct Hub {
    shared: HubShared,
    view: HubView,
    frames: Vec<(PortId, Vec<u8>)>,
    passed: u64,
}

impl Hub {
    const STATIONS: u32 = 16;
    const FRAMES: u32 = 256;

    pub(crate) fn new() -> Self {
        let shared = HubShared::new(HubSettings::default(), 1);
        let mut view = HubView::new(0);
        let port = |station: u32| PortId::new(0, station, 1);
        for number in 0..Self::STATIONS {
            shared.open_port(&mut view, port(number), PortSettings::OPEN).unwrap();
            let hello = frame(station(number + 1), station(number), 64);
            hub::ingress(&shared, &mut view, port(number), Frame::new_checked(&hello).unwrap(), NOW);
        }
        let frames = (0..Self::FRAMES).map(|n| {
            let (from, to) = (n % Self::STATIONS, (7 * n + 3) % Self::STATIONS);
            let to = if to == from { (to + 1) % Self::STATIONS } else { to };
            (port(from), frame(station(to), station(from), 64))
        });
        Self { frames: frames.collect(), shared, view, passed: 0 }
    }
}

impl Piece for Hub {
    fn run(&mut self) {
        let Self { shared, view, frames, passed } = self;
        for (port, bytes) in frames {
            let Some(frame) = Frame::new_checked(black_box(bytes)) else { continue };
            if let Verdict::Unicast(to, meta) = hub::ingress(shared, view, *port, frame, NOW)
                && hub::egress(shared, view, to, meta, frame) == Egress::Pass
            {
                *passed += 1;
            }
        }
    }

    fn done(&mut self) -> u64 {
        std::mem::take(&mut self.passed)
    }
}

/// Frames → records under construction.
pub(crate) struct Enframe {
    link: Link,
    pools: Pools,
    frames: Vec<Vec<u8>>,
    pushed: u64,
}

const KEY: ConnKey = ConnKey(0);

impl Enframe {
    pub(crate) fn new(frame_bytes: usize, frames: usize) -> Self {
        let settings = LinkSettings {
            timeout: Duration::from_secs(20),
            compress: false,
            supers: false,
            qos: false,
            queue_depth: 64,
            seed: 1,
        };
        let mut link = Link::new(settings, NOW);
        let (layer, _) = connected_pair(SUITE, AeadBackend::AwsLc);
        link.attach(KEY, Box::new(Conn::new(layer)), Way::BOTH, NOW);
        let frames = vec![frame(station(2), station(1), frame_bytes); frames];
        Self { link, pools: Pools::new(100), frames, pushed: 0 }
    }
}

impl Piece for Enframe {
    fn run(&mut self) {
        for frame in &self.frames {
            let pushed = self.link.push(black_box(frame), NOW, &mut self.pools);
            self.pushed += u64::from(matches!(pushed, Pushed::Building { .. }));
        }
    }

    /// Sends what was built, which is no part of it.
    fn done(&mut self) -> u64 {
        let flushed = self.link.flush(KEY, NOW, &mut self.pools).unwrap().unwrap();
        assert_eq!(flushed.frames, self.pushed);
        self.pools.sends.give(flushed.buf);
        self.link.sent(KEY, NOW);
        std::mem::take(&mut self.pushed)
    }
}

/// A record sealed by one end and opened by the other.
pub(crate) struct Record {
    server: RecordLayer,
    client: RecordLayer,
    record: Vec<u8>,
    plain: Vec<u8>,
    plain_bytes: usize,
    opened: Option<Opened>,
}

impl Record {
    pub(crate) fn new(plain_bytes: usize) -> Self {
        let (server, client) = connected_pair(SUITE, AeadBackend::AwsLc);
        let record = vec![7; client.prefix_len() + plain_bytes + client.suffix_len()];
        Self { server, client, plain: record.clone(), record, plain_bytes, opened: None }
    }
}

impl Piece for Record {
    fn run(&mut self) {
        let len = self.client.seal(&mut self.record, self.plain_bytes).unwrap();
        self.opened = Some(self.server.open(&self.record[..len], &mut self.plain).unwrap());
    }

    fn done(&mut self) -> u64 {
        u64::from(self.opened.take() == Some(Opened::Data(self.plain_bytes)))
    }
}

/// Frames into the mailbox of another worker and out of it.
pub(crate) struct Letters {
    from: Mailbox,
    to: Mailbox,
    frame: Vec<u8>,
    received: u64,
}

impl Letters {
    pub(crate) fn new(frame_bytes: usize) -> Self {
        let [from, to] = mesh(2, 1 << 16).try_into().ok().unwrap();
        Self { from, to, frame: frame(station(2), station(1), frame_bytes), received: 0 }
    }
}

impl Piece for Letters {
    fn run(&mut self) {
        for _ in 0..128 {
            self.from.outbox.push(1, &[1, 2, 3, 4], black_box(&self.frame));
        }
        self.from.outbox.flush(|_| {});
        while let Some(message) = self.to.inbox.receive() {
            black_box(message.frame());
            self.received += 1;
        }
    }

    fn done(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }
}
