//! Our handshakes and records against ordinary rustls connections, in memory.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, Connection, ServerConnection, SignatureScheme};

use super::aead::AeadBackend;
use super::config::{
    ServerCertificates, ServerTrust, Signatures, TlsVersions, certified_key, client_config, client_config_for,
    fingerprint, server_config, server_config_for,
};
use super::handshake::{Established, Handshake, HandshakeError, INPUT_BYTES_MAX, Step};
use super::keys::{Suite, Version};
use super::layer::{CONTROL_BYTES_MAX, Opened, RecordLayer, Role};
use super::record::{PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, record_len};
use crate::metrics::closes::CloseReason;

const BACKENDS: [AeadBackend; 2] = [AeadBackend::AwsLc, AeadBackend::RustCrypto];

/// Self-signed with serial number 0, as SoftEther servers make theirs (protocol note §1.1).
fn self_signed(algorithm: &'static rcgen::SignatureAlgorithm) -> Arc<CertifiedKey> {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["vpn.example".into()]).unwrap();
    params.serial_number = Some(rcgen::SerialNumber::from(vec![0]));
    let certificate = params.self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    certified_key(vec![certificate.der().clone()], key).unwrap()
}

/// An ECDSA P-256 and an RSA-2048 certificate, made once for all tests.
fn both_certificates() -> ServerCertificates {
    static MADE: OnceLock<ServerCertificates> = OnceLock::new();
    let make = || ServerCertificates::ByClient {
        ecdsa: self_signed(&rcgen::PKCS_ECDSA_P256_SHA256),
        rsa: self_signed(&rcgen::PKCS_RSA_SHA256),
    };
    MADE.get_or_init(make).clone()
}

fn leaf_of(certificates: &ServerCertificates, ecdsa_wanted: bool) -> CertificateDer<'static> {
    let ServerCertificates::ByClient { ecdsa, rsa } = certificates else { panic!("both were made") };
    if ecdsa_wanted { ecdsa.cert[0].clone() } else { rsa.cert[0].clone() }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("vpn.example").unwrap()
}

fn our_server(backend: AeadBackend) -> Handshake {
    Handshake::server(&Arc::new(server_config(both_certificates(), TlsVersions::Both)), backend).unwrap()
}

fn rustls_client(suites: &[Suite]) -> Connection {
    let config = client_config_for(ServerTrust::AcceptAny, TlsVersions::Both, suites, Signatures::Any);
    ClientConnection::new(Arc::new(config), name()).unwrap().into()
}

fn rustls_server(suites: &[Suite], tickets: usize) -> Connection {
    let mut config = server_config_for(both_certificates(), TlsVersions::Both, suites);
    config.send_tls13_tickets = tickets;
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    ServerConnection::new(Arc::new(config)).unwrap().into()
}

fn our_client(backend: AeadBackend) -> Handshake {
    Handshake::client(&Arc::new(client_config(ServerTrust::AcceptAny, TlsVersions::Both)), name(), backend).unwrap()
}

/// What `peer` has to send.
fn from_peer(peer: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn to_peer(peer: &mut Connection, mut bytes: &[u8]) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).unwrap();
        peer.process_new_packets()?;
    }
    Ok(())
}

/// Shakes hands.
fn shake(mut ours: Handshake, peer: &mut Connection) -> Result<Established, HandshakeError> {
    for _ in 0..20 {
        match ours.step()? {
            Step::Write(bytes) => to_peer(peer, &bytes).unwrap(),
            Step::NeedBytes => ours.receive(&from_peer(peer)),
            Step::Done => return ours.finish(),
        }
    }
    panic!("the handshake does not end");
}

/// An established connection as a worker would drive it.
struct Ours {
    layer: RecordLayer,
    incoming: Vec<u8>,
    received: Vec<u8>,
    closed: bool,
}

impl Ours {
    fn new(established: Established) -> Self {
        Self { layer: established.layer, incoming: established.leftover, received: Vec::new(), closed: false }
    }

    /// Opens what has come and answers what wants an answer.
    fn receive(&mut self, peer: &mut Connection) -> Result<(), CloseReason> {
        self.incoming.extend(from_peer(peer));
        while let Some(len) = record_len(&self.incoming)?.filter(|len| *len <= self.incoming.len()) {
            let mut out = vec![0; len];
            let opened = self.layer.open(&self.incoming[..len], &mut out)?;
            self.incoming.drain(..len);
            match opened {
                Opened::Data(len) => self.received.extend(&out[..len]),
                Opened::Nothing => {}
                Opened::CloseNotify => self.closed = true,
            }
            self.control(peer);
        }
        Ok(())
    }

    fn control(&mut self, peer: &mut Connection) {
        if self.layer.wants_control() {
            let mut out = [0; CONTROL_BYTES_MAX];
            let len = self.layer.control(&mut out).unwrap();
            to_peer(peer, &out[..len]).unwrap();
        }
    }

    /// One record.
    fn send(&mut self, peer: &mut Connection, text: &[u8]) {
        let mut buf = vec![0; RECORD_BYTES_MAX];
        let start = self.layer.prefix_len();
        buf[start..start + text.len()].copy_from_slice(text);
        let len = self.layer.seal(&mut buf, text.len()).unwrap();
        to_peer(peer, &buf[..len]).unwrap();
        self.control(peer);
    }

    /// `text` to the peer and back.
    fn echo(&mut self, peer: &mut Connection, text: &[u8]) {
        let mut received = Vec::new();
        for part in text.chunks(PLAINTEXT_BYTES_MAX) {
            self.send(peer, part);
            let start = received.len();
            received.resize(start + part.len(), 0);
            peer.reader().read_exact(&mut received[start..]).unwrap();
        }
        assert_eq!(received, text);
        peer.writer().write_all(&received).unwrap();
        self.receive(peer).unwrap();
        assert_eq!(std::mem::take(&mut self.received), text);
    }
}

fn sizes() -> impl Iterator<Item = Vec<u8>> {
    [1, 100, 16384, 50_000].into_iter().map(|len: u32| (0..len).map(|i| i.to_le_bytes()[0]).collect())
}

/// Every suite, either role, either backend.
fn for_each_connection(mut test: impl FnMut(Suite, Ours, Connection)) {
    for suite in Suite::ALL {
        for backend in BACKENDS {
            let mut peer = rustls_client(&[suite]);
            let ours = shake(our_server(backend), &mut peer).unwrap();
            assert_eq!((ours.layer.suite(), ours.layer.role()), (suite, Role::Server));
            test(suite, Ours::new(ours), peer);

            let mut peer = rustls_server(&[suite], 2);
            let ours = shake(our_client(backend), &mut peer).unwrap();
            assert_eq!((ours.layer.suite(), ours.layer.role()), (suite, Role::Client));
            test(suite, Ours::new(ours), peer);
        }
    }
}

#[test]
fn echo_and_close() {
    for_each_connection(|_, mut ours, mut peer| {
        for text in sizes() {
            ours.echo(&mut peer, &text);
        }
        peer.send_close_notify();
        ours.receive(&mut peer).unwrap();
        assert!(ours.closed);
        let mut out = [0; CONTROL_BYTES_MAX];
        let len = ours.layer.close_notify(&mut out).unwrap();
        to_peer(&mut peer, &out[..len]).unwrap();
        assert_eq!(peer.reader().read(&mut [0; 1]).unwrap(), 0, "an orderly end");
    });
}

#[test]
fn key_updates_by_the_peer() {
    for_each_connection(|suite, mut ours, mut peer| {
        if suite.version() == Version::Tls12 {
            return;
        }
        for round in 1..=3 {
            peer.refresh_traffic_keys().unwrap();
            ours.echo(&mut peer, b"under its new key");
            ours.echo(&mut peer, b"under both new keys");
            assert_eq!(ours.layer.key_updates(), 2 * round);
        }
    });
}

#[test]
fn key_updates_every_few_records() {
    for_each_connection(|suite, mut ours, mut peer| {
        ours.layer.set_rekey_after(5);
        for round in 0_u8..100 {
            ours.echo(&mut peer, &[round; 20]);
        }
        assert_eq!(ours.layer.key_updates() >= 40, suite.version() == Version::Tls13);
        assert_eq!(ours.layer.key_exhausted(), suite.version() == Version::Tls12);
    });
}

#[test]
fn saved_and_restored_between_records_and_updates() {
    for_each_connection(|suite, mut ours, mut peer| {
        ours.echo(&mut peer, b"before");
        ours.layer = RecordLayer::from_bytes(&ours.layer.to_bytes(), AeadBackend::AwsLc).unwrap();
        ours.echo(&mut peer, b"after");
        if suite.version() == Version::Tls13 {
            peer.refresh_traffic_keys().unwrap();
            ours.echo(&mut peer, b"updated");
        }
        ours.layer = RecordLayer::from_bytes(&ours.layer.to_bytes(), AeadBackend::RustCrypto).unwrap();
        ours.echo(&mut peer, b"after");
    });
}

/// Application data and a key update that come in one piece with the client's Finished are left to
/// the record layer, cut wherever the read ended.
#[test]
fn bytes_behind_the_handshake_are_not_lost() {
    let text: Vec<u8> = (0..40_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    for suite in Suite::ALL {
        let mut peer = rustls_client(&[suite]);
        let mut server = our_server(AeadBackend::AwsLc);
        peer.set_buffer_limit(None);
        peer.writer().write_all(&text).unwrap();
        let mut wire = Vec::new();
        let done = loop {
            match server.step().unwrap() {
                Step::Write(bytes) => to_peer(&mut peer, &bytes).unwrap(),
                Step::Done => break server.finish().unwrap(),
                Step::NeedBytes => {
                    wire.extend(from_peer(&mut peer));
                    if suite.version() == Version::Tls13 && !peer.is_handshaking() {
                        peer.refresh_traffic_keys().unwrap();
                        peer.writer().write_all(&text).unwrap();
                        wire.extend(from_peer(&mut peer));
                    }
                    // The end of the last record comes later.
                    let now = if peer.is_handshaking() { wire.len() } else { wire.len().max(100) - 100 };
                    server.receive(&wire.drain(..now).collect::<Vec<_>>());
                }
            }
        };
        let mut ours = Ours::new(done);
        ours.incoming.extend(&wire);
        ours.receive(&mut peer).unwrap();
        let times = if suite.version() == Version::Tls13 { 2 } else { 1 };
        assert_eq!(ours.received, text.repeat(times), "{suite:?}");
        ours.received.clear();
        ours.echo(&mut peer, b"and on it goes");
    }
}

#[test]
fn our_two_ends_shake_hands() {
    for (versions, version) in [
        (TlsVersions::Both, Version::Tls13),
        (TlsVersions::Only13, Version::Tls13),
        (TlsVersions::Only12, Version::Tls12),
    ] {
        let config = Arc::new(client_config(ServerTrust::AcceptAny, versions));
        let mut client = Handshake::client(&config, name(), AeadBackend::AwsLc).unwrap();
        let mut server = our_server(AeadBackend::RustCrypto);
        let (mut client_done, mut server_done) = (false, false);
        while !(client_done && server_done) {
            match client.step().unwrap() {
                // One byte at a time, as a network might.
                Step::Write(bytes) => bytes.iter().for_each(|byte| server.receive(&[*byte])),
                Step::NeedBytes => {}
                Step::Done => client_done = true,
            }
            match server.step().unwrap() {
                Step::Write(bytes) => client.receive(&bytes),
                Step::NeedBytes => {}
                Step::Done => server_done = true,
            }
        }
        let (mut client, mut server) = (client.finish().unwrap().layer, server.finish().unwrap().layer);
        assert_eq!((client.version(), client.suite()), (version, server.suite()));
        // AES-GCM and ECDSA come first.
        let best = if version == Version::Tls13 { 0x1301 } else { 0xc02b };
        assert_eq!(server.suite().code(), best);

        let mut buf = vec![0; 64];
        let len = server.seal(&mut buf, 10).unwrap();
        assert_eq!(client.open(&buf[..len], &mut [0; 64]), Ok(Opened::Data(10)));
    }
}

#[test]
fn certificate_follows_the_client() {
    let certificates = both_certificates();
    for (suites, ecdsa) in [
        (&Suite::ALL[..], true),
        (&[Suite::EcdheRsaAes128GcmSha256, Suite::EcdheEcdsaAes256GcmSha384], true),
        (&[Suite::EcdheRsaAes128GcmSha256], false),
    ] {
        let mut peer = rustls_client(suites);
        shake(our_server(AeadBackend::AwsLc), &mut peer).unwrap();
        assert_eq!(peer.peer_certificates().unwrap()[0], leaf_of(&certificates, ecdsa));
    }
    let ServerCertificates::ByClient { ecdsa, rsa } = &certificates else { panic!("both were made") };
    assert!(ecdsa.key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).is_none());

    // One certificate serves everyone.
    let config = Arc::new(server_config(ServerCertificates::One(Arc::clone(rsa)), TlsVersions::Both));
    let mut peer = rustls_client(&Suite::ALL);
    shake(Handshake::server(&config, AeadBackend::AwsLc).unwrap(), &mut peer).unwrap();
    assert_eq!(peer.peer_certificates().unwrap()[0], rsa.cert[0]);
}

#[test]
fn pinned_certificate() {
    let pin = fingerprint(&leaf_of(&both_certificates(), true));
    for (pin, good) in [(pin, true), ([0; 32], false)] {
        let config = Arc::new(client_config(ServerTrust::Pin(pin), TlsVersions::Both));
        let mut peer = rustls_server(&Suite::ALL, 0);
        let client = Handshake::client(&config, name(), AeadBackend::AwsLc).unwrap();
        assert_eq!(shake(client, &mut peer).is_ok(), good);
    }
}

/// A server that shows a certificate without having its key.
#[test]
fn signatures_are_checked_for_any_certificate() {
    let ServerCertificates::ByClient { ecdsa, .. } = both_certificates() else { panic!("both were made") };
    let other = self_signed(&rcgen::PKCS_ECDSA_P256_SHA256);
    let stolen = Arc::new(CertifiedKey::new(ecdsa.cert.clone(), Arc::clone(&other.key)));
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let config = server_config(ServerCertificates::One(Arc::clone(&stolen)), versions);
        let mut peer = ServerConnection::new(Arc::new(config)).unwrap().into();
        let error = shake(our_client(AeadBackend::AwsLc), &mut peer).err().unwrap();
        assert!(matches!(error, HandshakeError::Tls(rustls::Error::InvalidCertificate(_))), "{error:?}");
    }
}

#[test]
fn failures_are_explained_to_the_peer() {
    // Nothing in common.
    let config = Arc::new(server_config_for(both_certificates(), TlsVersions::Both, &[Suite::Tls13Aes128GcmSha256]));
    let mut server = Handshake::server(&config, AeadBackend::AwsLc).unwrap();
    let mut peer = rustls_client(&[Suite::EcdheRsaAes128GcmSha256]);
    server.receive(&from_peer(&mut peer));
    assert!(matches!(server.step(), Err(HandshakeError::Tls(_))));
    let alert = server.alert();
    assert_eq!(alert[..3], [21, 3, 3]);
    assert!(matches!(to_peer(&mut peer, &alert), Err(rustls::Error::AlertReceived(_))));
    assert!(server.alert().is_empty());
    assert!(matches!(server.step(), Err(HandshakeError::AlreadyFailed)));
    assert!(matches!(server.finish(), Err(HandshakeError::NotDone)));

    // No TLS at all.
    let mut server = our_server(AeadBackend::AwsLc);
    server.receive(b"GET / HTTP/1.1\r\nHost: vpn.example\r\n\r\n");
    assert!(matches!(server.step(), Err(HandshakeError::Tls(_))));
    assert_eq!(server.alert()[0], 21);

    // A certificate the client refuses: the alert goes out, protected in 1.3.
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let config = Arc::new(client_config(ServerTrust::Pin([0; 32]), versions));
        let mut client = Handshake::client(&config, name(), AeadBackend::AwsLc).unwrap();
        let mut peer = rustls_server(&Suite::ALL, 0);
        let error = loop {
            match client.step() {
                Ok(Step::Write(bytes)) => to_peer(&mut peer, &bytes).unwrap(),
                Ok(Step::NeedBytes) => client.receive(&from_peer(&mut peer)),
                Ok(Step::Done) => panic!("a wrong certificate was accepted"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, HandshakeError::Tls(rustls::Error::InvalidCertificate(_))));
        assert!(matches!(to_peer(&mut peer, &client.alert()), Err(rustls::Error::AlertReceived(_))));
    }
}

#[test]
fn input_is_bounded() {
    let mut server = our_server(AeadBackend::AwsLc);
    // A message of 64 KiB announced, records of it without end.
    let first = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 0x3ffc]].concat();
    let further = [&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    server.receive(&first);
    let mut received = first.len();
    while let Ok(step) = server.step() {
        assert_eq!(step, Step::NeedBytes);
        assert!(received <= INPUT_BYTES_MAX);
        server.receive(&further);
        received += further.len();
    }
    let mut server = our_server(AeadBackend::AwsLc);
    server.receive(&vec![22; INPUT_BYTES_MAX + 1]);
    assert!(matches!(server.step(), Err(HandshakeError::TooMuchInput)));
}

/// A ClientHello cut into many small records.
#[test]
fn fragmented_client_hello() {
    for suite in [Suite::Tls13Aes128GcmSha256, Suite::EcdheRsaAes128GcmSha256] {
        let mut config = client_config_for(ServerTrust::AcceptAny, TlsVersions::Both, &[suite], Signatures::Any);
        config.max_fragment_size = Some(32);
        let mut peer: Connection = ClientConnection::new(Arc::new(config), name()).unwrap().into();
        let mut ours = Ours::new(shake(our_server(AeadBackend::AwsLc), &mut peer).unwrap());
        ours.echo(&mut peer, &[1; 1000]);
    }
}

/// SoftEther clients put IP addresses into SNI, contrary to RFC 6066 §3 (protocol note §1.1).
#[test]
fn ip_address_in_sni_is_tolerated() {
    let config = client_config(ServerTrust::AcceptAny, TlsVersions::Both);
    let name = ServerName::try_from("a0.231.0.b1").unwrap();
    let mut peer: Connection = ClientConnection::new(Arc::new(config), name).unwrap().into();
    let mut hello = from_peer(&mut peer);
    let at = hello.windows(11).position(|window| window == b"a0.231.0.b1").unwrap();
    hello[at..at + 11].copy_from_slice(b"10.231.0.11");
    let mut server = our_server(AeadBackend::AwsLc);
    server.receive(&hello);
    let Ok(Step::Write(flight)) = server.step() else { panic!("no answer") };
    assert_eq!((flight[0], flight[5]), (22, 2), "a ServerHello");
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), framed in any::<bool>()) {
        if framed && bytes.len() >= 5 {
            let len = u16::try_from(bytes.len() - 5).unwrap().to_be_bytes();
            bytes[..5].copy_from_slice(&[22, 3, 1, len[0], len[1]]);
        }
        for mut handshake in [our_server(AeadBackend::AwsLc), our_client(AeadBackend::AwsLc)] {
            handshake.receive(&bytes);
            while let Ok(Step::Write(_)) = handshake.step() {}
            handshake.alert();
        }
    }
}
