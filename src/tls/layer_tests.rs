//! The record layer by itself: both ends in one process, and the vectors of RFC 8448.
#![forbid(unsafe_code)]

use super::super::keys::KeyAndIv;
use super::super::saved::RestoreError;
use super::*;
use crate::tls::record::RECORD_BYTES_MAX;

const BACKENDS: [AeadBackend; 2] = [AeadBackend::AwsLc, AeadBackend::RustCrypto];

fn of(version: Version) -> impl Iterator<Item = Suite> {
    Suite::ALL.into_iter().filter(move |suite| suite.version() == version)
}

fn pair(suite: Suite) -> (RecordLayer, RecordLayer) {
    connected_pair(suite, AeadBackend::AwsLc)
}

/// A sealed record of any type.
fn record(layer: &mut RecordLayer, content_type: ContentType, text: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; RECORD_BYTES_MAX];
    let start = layer.prefix_len();
    buf[start..start + text.len()].copy_from_slice(text);
    let len = layer.seal_as(content_type, &mut buf, text.len()).unwrap();
    buf.truncate(len);
    buf
}

fn data(layer: &mut RecordLayer, text: &[u8]) -> Vec<u8> {
    let mut buf = [&vec![0; layer.prefix_len()], text, &vec![0; layer.suffix_len()]].concat();
    assert_eq!(layer.seal(&mut buf, text.len()), Ok(buf.len()));
    buf
}

fn open(layer: &mut RecordLayer, record: &[u8]) -> Result<(Opened, Vec<u8>), CloseReason> {
    let mut out = vec![0; record.len()];
    let opened = layer.open(record, &mut out)?;
    out.truncate(if let Opened::Data(len) = opened { len } else { 0 });
    Ok((opened, out))
}

/// What `open` answered, without data.
fn outcome(layer: &mut RecordLayer, record: &[u8]) -> Result<Opened, CloseReason> {
    open(layer, record).map(|(opened, _)| opened)
}

fn control(layer: &mut RecordLayer) -> Vec<u8> {
    let mut out = [0; CONTROL_BYTES_MAX];
    let len = layer.control(&mut out).unwrap();
    out[..len].to_vec()
}

fn close_notify(layer: &mut RecordLayer) -> Vec<u8> {
    let mut out = [0; CONTROL_BYTES_MAX];
    let len = layer.close_notify(&mut out).unwrap();
    out[..len].to_vec()
}

fn echo(from: &mut RecordLayer, to: &mut RecordLayer, text: &[u8]) {
    let sealed = data(from, text);
    assert_eq!(sealed.len(), from.prefix_len() + text.len() + from.suffix_len());
    assert_eq!(open(to, &sealed), Ok((Opened::Data(text.len()), text.to_vec())));
}

#[test]
fn moves_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<RecordLayer>();
}

#[test]
fn data_both_ways() {
    for (suite, backend) in Suite::ALL.into_iter().flat_map(|suite| BACKENDS.map(|backend| (suite, backend))) {
        let (mut server, _) = connected_pair(suite, backend);
        let (_, mut client) = connected_pair(suite, AeadBackend::AwsLc);
        for len in [1, 100, PLAINTEXT_BYTES_MAX] {
            echo(&mut server, &mut client, &vec![7; len]);
            echo(&mut client, &mut server, &vec![8; len]);
        }
        let room = match (suite.version(), suite.algorithm()) {
            (Version::Tls13, _) => (5, 17),
            (Version::Tls12, Algorithm::ChaCha20Poly1305) => (5, 16),
            (Version::Tls12, _) => (13, 16),
        };
        assert_eq!((server.prefix_len(), server.suffix_len()), room);
    }
}

/// RFC 8448 §3: the client's record of 50 bytes of application data.
#[test]
fn record_of_rfc_8448() {
    let secret = [
        0x9e, 0x40, 0x64, 0x6c, 0xe7, 0x9a, 0x7f, 0x9d, 0xc0, 0x5a, 0xf8, 0x88, 0x9b, 0xce, 0x65, 0x52, 0x87, 0x5a,
        0xfa, 0x0b, 0x06, 0xdf, 0x00, 0x87, 0xf7, 0x92, 0xeb, 0xb7, 0xc1, 0x75, 0x04, 0xa5,
    ];
    let expected = [
        0x17, 0x03, 0x03, 0x00, 0x43, 0xa2, 0x3f, 0x70, 0x54, 0xb6, 0x2c, 0x94, 0xd0, 0xaf, 0xfa, 0xfe, 0x82, 0x28,
        0xba, 0x55, 0xcb, 0xef, 0xac, 0xea, 0x42, 0xf9, 0x14, 0xaa, 0x66, 0xbc, 0xab, 0x3f, 0x2b, 0x98, 0x19, 0xa8,
        0xa5, 0xb4, 0x6b, 0x39, 0x5b, 0xd5, 0x4a, 0x9a, 0x20, 0x44, 0x1e, 0x2b, 0x62, 0x97, 0x4e, 0x1f, 0x5a, 0x62,
        0x92, 0xa2, 0x97, 0x70, 0x14, 0xbd, 0x1e, 0x3d, 0xea, 0xe6, 0x3a, 0xee, 0xbb, 0x21, 0x69, 0x49, 0x15, 0xe4,
    ];
    let text: Vec<u8> = (0..50).collect();
    let suite = Suite::Tls13Aes128GcmSha256;
    let new = |role| RecordLayer::from_traffic_secrets(suite, role, &secret, &secret, AeadBackend::AwsLc).unwrap();
    assert_eq!(data(&mut new(Role::Client), &text), expected);
    assert_eq!(open(&mut new(Role::Server), &expected), Ok((Opened::Data(50), text)));
}

#[test]
fn traffic_secrets_must_fit_the_suite() {
    let new = |suite, rx: &[u8], tx: &[u8]| {
        RecordLayer::from_traffic_secrets(suite, Role::Server, rx, tx, AeadBackend::AwsLc).is_some()
    };
    assert!(new(Suite::Tls13Aes256GcmSha384, &[1; 48], &[2; 48]));
    assert!(!new(Suite::Tls13Aes256GcmSha384, &[1; 32], &[2; 48]));
    assert!(!new(Suite::Tls13Aes128GcmSha256, &[1; 32], &[2; 49]));
    assert!(!new(Suite::EcdheRsaAes128GcmSha256, &[1; 16], &[2; 16]));
}

#[test]
fn padding_is_taken_off() {
    let suite = Suite::Tls13Aes128GcmSha256;
    let table: [(&[u8], Result<Opened, CloseReason>); 6] = [
        (&[1, 2, 0, 23, 0, 0, 0], Ok(Opened::Data(3))),
        (&[0, 23], Ok(Opened::Data(1))),
        (&[23, 0], Ok(Opened::Nothing)),
        (&[0, 0, 0], Err(CloseReason::RecordUnexpected)),
        (&[1, 24], Err(CloseReason::RecordUnexpected)),
        (&[1, 20], Err(CloseReason::RecordUnexpected)),
    ];
    for (inner, expected) in table {
        let (mut server, client) = pair(suite);
        assert_eq!(outcome(&mut server, &sealed_inner(&client, inner)), expected, "{inner:?}");
    }
    // RFC 8446 §5.4: the padding may fill a record, not more.
    for (len, expected) in
        [(PLAINTEXT_BYTES_MAX + 1, Ok(Opened::Data(1))), (PLAINTEXT_BYTES_MAX + 2, Err(CloseReason::RecordMalformed))]
    {
        let (mut server, client) = pair(suite);
        let mut inner = vec![0; len];
        inner[..2].copy_from_slice(&[9, 23]);
        assert_eq!(outcome(&mut server, &sealed_inner(&client, &inner)), expected);
    }
}

/// A TLS 1.3 record whose inner plaintext, type and padding included, is `inner`.
fn sealed_inner(layer: &RecordLayer, inner: &[u8]) -> Vec<u8> {
    let mut body = inner.to_vec();
    let len = u16::try_from(inner.len() + TAG_BYTES).unwrap().to_be_bytes();
    let header = [23, 3, 3, len[0], len[1]];
    let tag = layer.tx.key.seal(&layer.tx.nonce(), &header, &mut body);
    [&header[..], &body, &tag].concat()
}

#[test]
fn any_changed_byte_is_noticed() {
    for suite in Suite::ALL {
        let (mut server, mut client) = pair(suite);
        let sealed = data(&mut client, b"abc");
        // Length and type come first; the version is ignored in 1.3 but authenticated.
        for at in HEADER_BYTES..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 0x80;
            assert_eq!(outcome(&mut server, &changed), Err(CloseReason::RecordBadTag), "{suite:?} {at}");
        }
        let mut other_version = sealed.clone();
        other_version[2] = 1;
        let expected = match suite.version() {
            Version::Tls13 => CloseReason::RecordBadTag,
            Version::Tls12 => CloseReason::RecordMalformed,
        };
        assert_eq!(outcome(&mut server, &other_version), Err(expected));
        assert_eq!(outcome(&mut server, &sealed), Ok(Opened::Data(3)));
        assert_eq!(outcome(&mut server, &sealed), Err(CloseReason::RecordBadTag), "a replay");
    }
}

#[test]
fn malformed_records() {
    for suite in Suite::ALL {
        let (mut server, mut client) = pair(suite);
        let sealed = data(&mut client, b"abc");
        let mut unknown = sealed.clone();
        unknown[0] = 25;
        let bodies = [&[][..], &[0; 4], &[0; 15], &[0; 16]];
        let short = bodies.map(|body| [&[23, 3, 3, 0, u8::try_from(body.len()).unwrap()], body].concat());
        let long = [&[23, 3, 3, 0x41, 0x01][..], &[0; 0x4101]].concat();
        let malformed =
            [&sealed[..sealed.len() - 1], &sealed[..4], &[], &[&sealed[..], &[0]].concat(), &unknown, &long];
        for bytes in malformed.into_iter().chain(short[..3].iter().map(|bytes| &bytes[..])) {
            assert_eq!(outcome(&mut server, bytes), Err(CloseReason::RecordMalformed), "{suite:?}");
        }
        assert!(outcome(&mut server, &short[3]).is_err());
    }
}

#[test]
fn other_record_types() {
    for (suite, outer) in of(Version::Tls13).flat_map(|suite| [20, 21, 22].map(|outer| (suite, outer))) {
        let (mut server, _) = pair(suite);
        let expected = if outer == 20 { Ok(Opened::Nothing) } else { Err(CloseReason::RecordUnexpected) };
        assert_eq!(outcome(&mut server, &[outer, 3, 3, 0, 1, 1]), expected);
        assert_eq!(outcome(&mut server, &[outer, 3, 3, 0, 2, 1, 1]), Err(CloseReason::RecordUnexpected));
    }
    for suite in of(Version::Tls12) {
        let (mut server, mut client) = pair(suite);
        let sealed = record(&mut client, ContentType::ChangeCipherSpec, &[1]);
        assert_eq!(outcome(&mut server, &sealed), Err(CloseReason::RecordUnexpected));
    }
}

#[test]
fn alerts() {
    use Version::{Tls12, Tls13};
    let table: [(Version, &[u8], Result<Opened, CloseReason>); 12] = [
        (Tls13, &[1, 0], Ok(Opened::CloseNotify)),
        (Tls13, &[2, 0], Ok(Opened::CloseNotify)),
        (Tls13, &[1, 90], Ok(Opened::Nothing)),
        (Tls13, &[2, 20], Err(CloseReason::PeerAlert)),
        (Tls13, &[1, 20], Err(CloseReason::PeerAlert)),
        (Tls13, &[1], Err(CloseReason::RecordMalformed)),
        (Tls13, &[], Err(CloseReason::RecordMalformed)),
        (Tls12, &[1, 0], Ok(Opened::CloseNotify)),
        (Tls12, &[1, 100], Ok(Opened::Nothing)),
        (Tls12, &[2, 20], Err(CloseReason::PeerAlert)),
        (Tls12, &[3, 20], Err(CloseReason::PeerAlert)),
        (Tls12, &[1, 0, 0], Err(CloseReason::RecordMalformed)),
    ];
    for (version, text, expected) in table {
        for suite in of(version) {
            let (mut server, mut client) = pair(suite);
            let sealed = record(&mut client, ContentType::Alert, text);
            assert_eq!(outcome(&mut server, &sealed), expected, "{suite:?} {text:?}");
        }
    }
}

#[test]
fn close_notify_ends_one_direction() {
    for suite in Suite::ALL {
        let (mut server, mut client) = pair(suite);
        let sealed = close_notify(&mut server);
        assert!(close_notify(&mut server).is_empty(), "said once");
        assert_eq!(server.seal(&mut [0; 64], 1), Err(CloseReason::SessionEnded));
        assert_eq!(outcome(&mut client, &sealed), Ok(Opened::CloseNotify));
        assert_eq!(outcome(&mut client, b"anything"), Ok(Opened::CloseNotify), "ignored");
        echo(&mut client, &mut server, b"still open");
    }
}

#[test]
fn asked_for_key_update_is_answered() {
    for (suite, backend) in of(Version::Tls13).flat_map(|suite| BACKENDS.map(|backend| (suite, backend))) {
        let (mut server, mut client) = connected_pair(suite, backend);
        let update = record(&mut client, ContentType::Handshake, &[KEY_UPDATE, 0, 0, 1, 1]);
        client.tx.renew(suite, backend);
        assert!(!server.wants_control());
        assert_eq!(outcome(&mut server, &update), Ok(Opened::Nothing));
        assert!(server.wants_control());
        echo(&mut client, &mut server, b"under the new key");
        echo(&mut server, &mut client, b"before the answer");

        let answer = control(&mut server);
        assert!(!server.wants_control());
        assert_eq!(outcome(&mut client, &answer), Ok(Opened::Nothing));
        assert!(!client.wants_control(), "an answer asks for nothing");
        echo(&mut server, &mut client, b"after the answer");
        assert_eq!(server.key_updates(), 2);
        assert!(control(&mut server).is_empty());
    }
}

#[test]
fn keys_are_renewed_every_few_records() {
    for suite in of(Version::Tls13) {
        let (mut server, mut client) = pair(suite);
        server.set_rekey_after(3);
        for _ in 0..200 {
            echo(&mut server, &mut client, b"down");
            if server.wants_control() {
                let ask = control(&mut server);
                assert_eq!(outcome(&mut client, &ask), Ok(Opened::Nothing));
                let answer = control(&mut client);
                assert_eq!(outcome(&mut server, &answer), Ok(Opened::Nothing));
            }
        }
        assert_eq!((server.key_updates(), client.key_updates()), (132, 132));
    }
}

#[test]
fn a_peer_that_only_listens_may_ask_for_keys() {
    for suite in of(Version::Tls13) {
        let (mut server, mut client) = pair(suite);
        client.set_rekey_after(1);
        for _ in 0..100 {
            echo(&mut server, &mut client, b"down");
            let ask = control(&mut client);
            assert_eq!(outcome(&mut server, &ask), Ok(Opened::Nothing));
            let answer = control(&mut server);
            assert_eq!(outcome(&mut client, &answer), Ok(Opened::Nothing));
        }
        assert_eq!(server.key_updates(), 200);
    }
}

#[test]
fn a_peer_that_wears_its_key_is_asked_once() {
    for suite in of(Version::Tls13) {
        let (mut server, mut client) = pair(suite);
        server.set_rekey_after(2);
        echo(&mut client, &mut server, b"1");
        assert!(!server.wants_control());
        echo(&mut client, &mut server, b"2");
        assert!(server.wants_control());
        let ask = control(&mut server);
        echo(&mut client, &mut server, b"3, sent before the client saw it");
        assert!(!server.wants_control(), "asking again would not help");
        outcome(&mut client, &ask).unwrap();
        let answer = control(&mut client);
        outcome(&mut server, &answer).unwrap();
        echo(&mut client, &mut server, b"new key");
        assert!(!server.wants_control());
        echo(&mut client, &mut server, b"worn again");
        assert!(server.wants_control());
    }
}

#[test]
fn default_limits() {
    let suite = Suite::Tls13Aes128GcmSha256;
    let (mut server, _) = pair(suite);
    server.tx.seq = (1 << 23) - 1;
    assert!(!server.wants_control());
    server.tx.seq += 1;
    assert!(server.wants_control());
    server.tx.seq = 0;
    server.tx.blocks = 1 << 33;
    assert!(server.wants_control());
    server.tx.blocks = 1 << 34;
    assert_eq!(server.seal(&mut [0; 64], 1), Err(CloseReason::KeyLimit));

    for suite in Suite::ALL {
        let (mut server, _) = pair(suite);
        server.rx.seq = 1 << 24;
        let tls12 = suite.version() == Version::Tls12;
        let gcm = suite.algorithm() != Algorithm::ChaCha20Poly1305;
        assert!(!server.key_exhausted());
        assert_eq!(server.wants_control(), !tls12 && gcm);
        server.rx.blocks = 1 << 33;
        assert_eq!(server.key_exhausted(), tls12 && gcm);
        server.set_rekey_after(5);
        assert_eq!(server.key_exhausted(), tls12);
    }
}

#[test]
fn key_update_ends_its_record() {
    let suite = Suite::Tls13Aes128GcmSha256;
    let update = [KEY_UPDATE, 0, 0, 1, 0];
    let (mut server, mut client) = pair(suite);
    let sealed = record(&mut client, ContentType::Handshake, &[&update[..], &update].concat());
    assert_eq!(outcome(&mut server, &sealed), Err(CloseReason::RecordUnexpected));

    // Nothing may stand between the parts of a message.
    for content_type in [ContentType::ApplicationData, ContentType::Alert] {
        let (mut server, mut client) = pair(suite);
        let part = record(&mut client, ContentType::Handshake, &update[..2]);
        assert_eq!(outcome(&mut server, &part), Ok(Opened::Nothing));
        let between = record(&mut client, content_type, &[1, 0]);
        assert_eq!(outcome(&mut server, &between), Err(CloseReason::RecordUnexpected));
    }
    let (mut server, mut client) = pair(suite);
    let empty = record(&mut client, ContentType::Handshake, &[]);
    assert_eq!(outcome(&mut server, &empty), Err(CloseReason::RecordUnexpected));
}

#[test]
fn floods_are_bounded() {
    let flood = |suite, content_type, text: &[u8]| {
        let (mut server, mut client) = pair(suite);
        let mut send = |text: &[u8], content_type| {
            let sealed = record(&mut client, content_type, text);
            if text.first() == Some(&KEY_UPDATE) {
                client.tx.renew(suite, AeadBackend::AwsLc);
            }
            outcome(&mut server, &sealed)
        };
        for _ in 0..2 {
            for _ in 0..QUIET_RECORDS_MAX {
                assert_eq!(send(text, content_type), Ok(Opened::Nothing));
            }
            assert_eq!(send(b"x", ContentType::ApplicationData), Ok(Opened::Data(1)));
        }
        for _ in 0..QUIET_RECORDS_MAX {
            assert_eq!(send(text, content_type), Ok(Opened::Nothing));
        }
        assert_eq!(send(text, content_type), Err(CloseReason::RecordFlood));
    };
    flood(Suite::Tls13Aes128GcmSha256, ContentType::ApplicationData, &[]);
    flood(Suite::Tls13Aes128GcmSha256, ContentType::Handshake, &[KEY_UPDATE, 0, 0, 1, 1]);
    flood(Suite::EcdheRsaAes128GcmSha256, ContentType::ApplicationData, &[]);
    flood(Suite::EcdheRsaAes128GcmSha256, ContentType::Alert, &[1, 41]);
    flood(Suite::EcdheRsaAes128GcmSha256, ContentType::Handshake, &[1, 0, 0, 0]);
}

#[test]
fn renegotiation_is_declined() {
    for suite in of(Version::Tls12) {
        let (mut server, mut client) = pair(suite);
        let hello = record(&mut client, ContentType::Handshake, &[&[1, 0, 0, 200][..], &[5; 200]].concat());
        assert_eq!(outcome(&mut server, &hello), Ok(Opened::Nothing));
        assert!(server.wants_control());
        let warning = control(&mut server);
        assert!(warning.len() <= CONTROL_BYTES_MAX);
        let mut out = vec![0; warning.len()];
        assert_eq!(client.open(&warning, &mut out), Ok(Opened::Nothing));
        assert_eq!(out[..2], [alert::LEVEL_WARNING, alert::NO_RENEGOTIATION]);
        echo(&mut client, &mut server, b"goes on");

        let request = record(&mut server, ContentType::Handshake, &[0, 0, 0, 0]);
        assert_eq!(outcome(&mut client, &request), Ok(Opened::Nothing));
        assert!(client.wants_control());
    }
}

#[test]
fn saved_and_restored_in_the_middle_of_a_key_update() {
    for (suite, backend) in of(Version::Tls13).flat_map(|suite| BACKENDS.map(|backend| (suite, backend))) {
        let (mut server, mut client) = pair(suite);
        server.set_rekey_after(1000);
        echo(&mut client, &mut server, b"before");
        let update = [KEY_UPDATE, 0, 0, 1, 1];
        for part in [&update[..3], &update[3..4]] {
            let sealed = record(&mut client, ContentType::Handshake, part);
            outcome(&mut server, &sealed).unwrap();
        }
        let mut server = RecordLayer::from_bytes(&server.to_bytes(), backend).unwrap();
        assert_eq!(server.rekey_after, 1000);
        let sealed = record(&mut client, ContentType::Handshake, &update[4..]);
        client.tx.renew(suite, AeadBackend::AwsLc);
        assert_eq!(outcome(&mut server, &sealed), Ok(Opened::Nothing));

        let mut server = RecordLayer::from_bytes(&server.to_bytes(), backend).unwrap();
        assert!(server.wants_control());
        assert_eq!(server.quiet, 3);
        outcome(&mut client, &control(&mut server)).unwrap();
        echo(&mut server, &mut client, b"after");
        echo(&mut client, &mut server, b"after");
        assert_eq!(server.key_updates(), 2);
    }
}

#[test]
fn saved_and_restored_in_the_middle_of_a_ticket() {
    let (mut server, mut client) = pair(Suite::Tls13ChaCha20Poly1305Sha256);
    let ticket = [&[4, 0, 0, 100][..], &[6; 100]].concat();
    for part in [&ticket[..2], &ticket[2..50]] {
        let sealed = record(&mut server, ContentType::Handshake, part);
        assert_eq!(outcome(&mut client, &sealed), Ok(Opened::Nothing));
    }
    let mut client = RecordLayer::from_bytes(&client.to_bytes(), AeadBackend::AwsLc).unwrap();
    assert_eq!(client.role(), Role::Client);
    let sealed = record(&mut server, ContentType::Handshake, &ticket[50..]);
    assert_eq!(outcome(&mut client, &sealed), Ok(Opened::Nothing));
    echo(&mut server, &mut client, b"after");
}

#[test]
fn a_saved_count_of_quiet_records_above_its_limit_is_refused() {
    let (mut server, _) = pair(Suite::Tls13Aes128GcmSha256);
    for (quiet, accepted) in [(0, true), (QUIET_RECORDS_MAX, true), (QUIET_RECORDS_MAX + 1, false), (255, false)] {
        server.quiet = quiet;
        let restored = RecordLayer::from_bytes(&server.to_bytes(), AeadBackend::AwsLc);
        assert_eq!(restored.is_ok(), accepted, "{quiet}");
    }
}

#[test]
fn saved_and_restored_tls12() {
    for (suite, backend) in of(Version::Tls12).flat_map(|suite| BACKENDS.map(|backend| (suite, backend))) {
        let (mut server, mut client) = pair(suite);
        echo(&mut client, &mut server, b"before");
        close_notify(&mut server);
        let saved = server.to_bytes();
        let mut server = RecordLayer::from_bytes(&saved, backend).unwrap();
        assert_eq!(server.to_bytes(), saved);
        assert_eq!(server.suite(), suite);
        assert!(close_notify(&mut server).is_empty());
        echo(&mut client, &mut server, b"after");
    }
}

#[test]
fn saved_state_that_is_none() {
    let (server, _) = pair(Suite::Tls13Aes128GcmSha256);
    let saved = server.to_bytes();
    let restore = |bytes: &[u8]| RecordLayer::from_bytes(bytes, AeadBackend::AwsLc).map(|_| ());
    assert_eq!(restore(&saved), Ok(()));
    assert_eq!(restore(&saved[1..]), Err(RestoreError::Length(saved.len() - 1)));
    for (at, value, expected) in [
        (0, 2, RestoreError::Format(2)),
        (1, 2, RestoreError::Inconsistent),
        (2, 0x12, RestoreError::Suite(0x1201)),
        (4, 16, RestoreError::Inconsistent),
        (11, 5, RestoreError::Inconsistent),
    ] {
        let mut changed = saved.to_vec();
        changed[at] = value;
        assert_eq!(restore(&changed), Err(expected), "{at}");
    }
}

#[test]
fn control_records_fit_their_room() {
    for suite in Suite::ALL {
        let (mut server, _) = pair(suite);
        server.flags.answer_due = true;
        assert!((1..=CONTROL_BYTES_MAX).contains(&control(&mut server).len()));
        assert!((1..=CONTROL_BYTES_MAX).contains(&close_notify(&mut server).len()));
    }
}

#[test]
fn debug_output_has_no_key() {
    let (server, _) = pair(Suite::Tls13Aes128GcmSha256);
    let made = KeyAndIv::from_traffic_secret(server.suite, &server.rx.secret);
    let text = format!("{server:?} {:?}", server.rx.secret);
    assert!(!text.contains(&format!("{:?}", &made.key[..4])) && !text.contains("1, 1, 1"), "{text}");
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64), suite in 0..9_usize) {
        let (mut server, mut client) = pair(Suite::ALL[suite]);
        let _ = outcome(&mut server, &bytes);
        for content_type in [ContentType::Handshake, ContentType::Alert] {
            let sealed = record(&mut client, content_type, &bytes);
            let _ = outcome(&mut server, &sealed);
        }
        let _ = RecordLayer::from_bytes(&[&server.to_bytes()[..], &bytes].concat()[bytes.len()..], AeadBackend::AwsLc);
    }
}
