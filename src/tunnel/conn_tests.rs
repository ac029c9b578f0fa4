//! A connection handed over at any byte goes on as if nothing had happened, and keeps renewing its keys.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::*;
use crate::tls::keys::{Suite, Version};
use crate::tls::layer::{CONTROL_BYTES_MAX, Opened, connected_pair};
use crate::tls::record::RECORD_BYTES_MAX;
use crate::tunnel::enframe::keep_alive;

const BACKEND: AeadBackend = AeadBackend::AwsLc;
const SUITES: [Suite; 3] =
    [Suite::Tls13Aes128GcmSha256, Suite::Tls13ChaCha20Poly1305Sha256, Suite::EcdheRsaAes256GcmSha384];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Data(Vec<u8>),
    KeepAlive,
}

/// A connection with the blocks it has received.
struct Receiver {
    conn: Conn,
    blocks: Vec<Owned>,
    arena: Vec<u8>,
    carries: CarryPool,
}

impl Receiver {
    fn new(layer: RecordLayer) -> Self {
        Self {
            conn: Conn::new(layer),
            blocks: Vec::new(),
            arena: vec![0; RECORD_BYTES_MAX],
            carries: CarryPool::default(),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<u64, CloseReason> {
        let Self { conn, blocks, arena, carries } = self;
        conn.receive(bytes, arena, carries, |block| {
            blocks.push(match block {
                Block::Data(bytes) => Owned::Data(bytes.to_vec()),
                Block::KeepAlive => Owned::KeepAlive,
                Block::Super { .. } => panic!("none were agreed on"),
            });
        })
    }

    /// Another process goes on.
    fn hand_over(&mut self) {
        let saved = self.conn.to_bytes();
        self.conn = Conn::from_bytes(&saved, BACKEND).unwrap();
        assert_eq!(self.conn.to_bytes(), saved, "nothing is lost");
        self.carries = CarryPool::default();
    }
}

fn record(layer: &mut RecordLayer, plain: &[u8]) -> Vec<u8> {
    let mut record = [&vec![0; layer.prefix_len()], plain, &vec![0; layer.suffix_len()]].concat();
    layer.seal(&mut record, plain.len()).unwrap();
    record
}

fn control(layer: &mut RecordLayer) -> Vec<u8> {
    let mut out = [0; CONTROL_BYTES_MAX];
    let len = layer.control(&mut out).unwrap();
    out[..len].to_vec()
}

/// A batch of `blocks`.
fn batch(blocks: &[&[u8]]) -> Vec<u8> {
    let word = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let mut out = word(blocks.len()).to_vec();
    for block in blocks {
        out.extend(word(block.len()));
        out.extend(*block);
    }
    out
}

/// Records whose ends fall into counts, sizes, blocks and paddings; in TLS 1.3 the key changes on the way.
fn stream(peer: &mut RecordLayer) -> (Vec<u8>, Vec<Owned>) {
    let mut alive = [0; 40];
    let len = keep_alive(&mut alive, &[7; 20]);
    let plain =
        [&batch(&[&[1; 60], &[2; 14], &[3; 30]])[..], &alive[..len], &batch(&[&[4; 50], &[], &[5; 5]])].concat();
    let mut bytes = Vec::new();
    let ends = [2, 6, 40, 69, 100, 125, 131, 145, 160, plain.len()];
    let mut start = 0;
    for (n, end) in ends.into_iter().enumerate() {
        bytes.extend(record(peer, &plain[start..end]));
        start = end;
        if n == 3 && peer.version() == Version::Tls13 {
            peer.set_rekey_after(1);
            bytes.extend(control(peer));
            peer.set_rekey_after(1 << 20);
        }
    }
    let data = |n: u8, len: usize| Owned::Data(vec![n; len]);
    let blocks = vec![data(1, 60), data(2, 14), data(3, 30), Owned::KeepAlive, data(4, 50), data(5, 5)];
    (bytes, blocks)
}

/// Data both ways, and in TLS 1.3 a key update in each direction, the peer's first.
fn goes_on(receiver: &mut Receiver, peer: &mut RecordLayer) {
    let suite = peer.suite();
    let mut out = vec![0; RECORD_BYTES_MAX];
    let mut to_peer = |receiver: &mut Receiver, peer: &mut RecordLayer| {
        let layer = &mut receiver.conn.layer;
        let mut expected = 0;
        if layer.wants_control() {
            let answer = control(layer);
            assert_eq!(peer.open(&answer, &mut out), Ok(Opened::Nothing), "{suite:?}");
            expected += 1;
        }
        let data = record(layer, b"from us");
        assert_eq!(peer.open(&data, &mut out), Ok(Opened::Data(7)), "{suite:?}");
        expected
    };
    let from_peer = |receiver: &mut Receiver, peer: &mut RecordLayer| {
        receiver.blocks.clear();
        let mut bytes = if peer.wants_control() { control(peer) } else { Vec::new() };
        bytes.extend(record(peer, &batch(&[b"from the peer"])));
        receiver.take(&bytes).unwrap();
        assert_eq!(receiver.blocks, [Owned::Data(b"from the peer".to_vec())], "{suite:?}");
    };
    to_peer(receiver, peer);
    from_peer(receiver, peer);
    if peer.version() == Version::Tls12 {
        return;
    }
    let before = receiver.conn.layer.key_updates();
    for rekey_after in [1, 1 << 20] {
        peer.set_rekey_after(rekey_after);
        from_peer(receiver, peer);
    }
    assert_eq!(to_peer(receiver, peer), 1, "the peer asked for our next key");
    assert_eq!(receiver.conn.layer.key_updates(), before + 2);
    for rekey_after in [1, 1 << 20] {
        receiver.conn.layer.set_rekey_after(rekey_after);
        to_peer(receiver, peer);
    }
    from_peer(receiver, peer);
    assert_eq!(receiver.conn.layer.key_updates(), before + 4, "ours, and the peer's answer to it");
}

#[test]
fn handed_over_at_every_byte() {
    for suite in SUITES {
        let (_, mut peer) = connected_pair(suite, BACKEND);
        let (bytes, blocks) = stream(&mut peer);
        let peer = peer.to_bytes();
        for cut in 0..=bytes.len() {
            let mut receiver = Receiver::new(connected_pair(suite, BACKEND).0);
            receiver.take(&bytes[..cut]).unwrap();
            receiver.hand_over();
            receiver.take(&bytes[cut..]).unwrap();
            assert_eq!(receiver.blocks, blocks, "{suite:?} handed over at {cut}");
            goes_on(&mut receiver, &mut RecordLayer::from_bytes(&peer, BACKEND).unwrap());
        }
    }
}

#[test]
fn handed_over_between_a_key_update_and_its_answer() {
    let (server, mut peer) = connected_pair(Suite::Tls13Aes256GcmSha384, BACKEND);
    let mut receiver = Receiver::new(server);
    peer.set_rekey_after(1);
    let first = record(&mut peer, &batch(&[b"one"]));
    receiver.take(&first).unwrap();
    receiver.take(&control(&mut peer)).unwrap();
    peer.set_rekey_after(1 << 20);
    assert!(receiver.conn.layer.wants_control());
    receiver.hand_over();
    assert!(receiver.conn.layer.wants_control(), "the answer is still owed");
    goes_on(&mut receiver, &mut peer);
}

#[test]
fn what_waits_to_be_sent_is_handed_over() {
    let mut receiver = Receiver::new(connected_pair(SUITES[0], BACKEND).0);
    receiver.conn.unsent = vec![3; 70_000];
    receiver.hand_over();
    assert_eq!(receiver.conn.unsent, vec![3; 70_000]);
}

#[test]
fn contradictions_are_refused() {
    let (server, mut peer) = connected_pair(SUITES[0], BACKEND);
    let whole = record(&mut peer, &batch(&[b"a block"]));
    let conn = |carry: Vec<u8>| {
        let (server, _) = connected_pair(SUITES[0], BACKEND);
        Conn { records: Records { carry }, ..Conn::new(server) }.to_bytes()
    };
    let accepted = |carry: &[u8]| Conn::from_bytes(&conn(carry.to_vec()), BACKEND).is_some();
    assert!(accepted(&[]) && accepted(&whole[..3]) && accepted(&whole[..whole.len() - 1]));
    assert!(!accepted(&whole), "a whole record does not wait");
    assert!(!accepted(&[&whole[..], &whole].concat()));
    assert!(!accepted(&[0xff; 10]), "no record begins so");
    let saved = Conn::new(server).to_bytes();
    assert!(Conn::from_bytes(&[&saved[..], &[0]].concat(), BACKEND).is_none(), "bytes are left over");
    for end in 0..saved.len() {
        assert!(Conn::from_bytes(&saved[..end], BACKEND).is_none(), "cut at {end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Large records, received in pieces of any length, handed over after each.
    #[test]
    fn handed_over_again_and_again(
        suite in prop::sample::select(&SUITES[..]),
        lens in prop::collection::vec(1..3_200usize, 1..30),
        record_bytes in 1..16_384usize,
        mut cuts in prop::collection::vec(0..100_000usize, 0..12),
    ) {
        let (server, mut peer) = connected_pair(suite, BACKEND);
        let blocks: Vec<Vec<u8>> = lens.iter().zip(0..).map(|(len, n)| vec![n; *len]).collect();
        let plain = batch(&blocks.iter().map(|block| &block[..]).collect::<Vec<_>>());
        let record_bytes = record_bytes.max(plain.len() / 40);
        let bytes: Vec<u8> = plain.chunks(record_bytes).flat_map(|part| record(&mut peer, part)).collect();
        let mut receiver = Receiver::new(server);
        cuts.iter_mut().for_each(|cut| *cut %= bytes.len());
        cuts.sort_unstable();
        let mut start = 0;
        for end in cuts.into_iter().chain([bytes.len()]) {
            receiver.take(&bytes[start..end]).unwrap();
            receiver.hand_over();
            start = end;
        }
        prop_assert_eq!(&receiver.blocks, &blocks.into_iter().map(Owned::Data).collect::<Vec<_>>());
        goes_on(&mut receiver, &mut peer);
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Conn::from_bytes(&bytes, BACKEND).is_none());
    }

    /// A state with a damaged byte is refused or works on; it neither panics nor hangs.
    #[test]
    fn damage_is_contained(suite in prop::sample::select(&SUITES[..]), cut in 0..1_000usize, at in 0..2_000usize, byte: u8) {
        let (server, mut peer) = connected_pair(suite, BACKEND);
        let (bytes, _) = stream(&mut peer);
        let cut = cut % bytes.len();
        let mut receiver = Receiver::new(server);
        receiver.take(&bytes[..cut]).unwrap();
        let mut saved = receiver.conn.to_bytes().to_vec();
        let at = at % saved.len();
        saved[at] = byte;
        if let Some(conn) = Conn::from_bytes(&saved, BACKEND) {
            receiver.conn = conn;
            let _ = receiver.take(&bytes[cut..]);
            let layer = &mut receiver.conn.layer;
            let mut out = vec![0; 100];
            let _ = layer.control(&mut out);
            let _ = layer.seal(&mut out, 20);
            let _ = layer.close_notify(&mut out);
        }
    }
}
