//! Records of an established connection, both directions: open, seal, and what keeps keys fresh.
//!
//! Starts where the handshake ends ([`super::handshake`]) and is the same for server and client.
//! Nothing is stored but keys and counters: records come in whole, plaintext goes out at once.
//!
//! After each [`RecordLayer::open`] and [`RecordLayer::seal`] the caller asks
//! [`RecordLayer::wants_control`]; if so, a record made by [`RecordLayer::control`] goes out before
//! more data. After an error the connection is of no use; it may still say
//! [`RecordLayer::close_notify`].
#![forbid(unsafe_code)]

use std::fmt;
use std::mem;

use super::aead::{Aead, AeadBackend, Algorithm, NONCE_BYTES, TAG_BYTES};
use super::keys::{Direction, Secret, Suite, Version, rekey_after_default, usable};
use super::post::{KEY_UPDATE, Message, Reassembly};
use super::record::{ContentType, HEADER_BYTES, PLAINTEXT_BYTES_MAX, RecordHeader, VERSION_BYTES, alert};
use crate::metrics::closes::CloseReason;

/// Room that [`RecordLayer::control`] and [`RecordLayer::close_notify`] need: an alert of TLS 1.2
/// with AES-GCM takes 31 bytes, a KeyUpdate 27.
pub const CONTROL_BYTES_MAX: usize = 32;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that was called.
    Server,
    /// The one that called.
    Client,
}

/// What a record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Application data: that many bytes, at least one, at the start of the output.
    Data(usize),
    /// Nothing for the caller: a ticket, a key update, an empty record.
    Nothing,
    /// The peer will send nothing more. Every later record is ignored with this answer
    /// (RFC 8446 §6.1).
    CloseNotify,
}

/// Both directions of one connection after its handshake. A plain value: moves between threads.
pub struct RecordLayer {
    pub(super) suite: Suite,
    pub(super) role: Role,
    pub(super) backend: AeadBackend,
    pub(super) rx: Direction,
    pub(super) tx: Direction,
    pub(super) flags: Flags,
    /// Records that brought nothing since the last application data, see [`QUIET_RECORDS_MAX`].
    pub(super) quiet: u8,
    pub(super) post: Reassembly,
    pub(super) rekey_after: u64,
    pub(super) key_updates: u64,
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// The peer asked for something that [`RecordLayer::control`] answers.
    pub(super) answer_due: bool,
    /// We asked for the peer's next key and it has not come yet; asking again would not help.
    pub(super) update_asked: bool,
    /// close_notify was received.
    pub(super) rx_closed: bool,
    /// close_notify was sealed.
    pub(super) tx_closed: bool,
}

/// Records without application data that a peer may send in a row; OpenSSL and rustls bound the
/// same things by 32. Each record of data that we send allows one more, as a peer that only listens
/// may ask for our next key, and answers to our own key updates are free. So nobody is cut off for
/// renewing keys, however often, while there is traffic in either direction.
pub(super) const QUIET_RECORDS_MAX: u8 = 32;

/// Explicit part of the nonce in TLS 1.2 records with AES-GCM (RFC 5288 §3).
const EXPLICIT_NONCE_BYTES: usize = 8;
/// Byte that ends the plaintext in TLS 1.3: the content type (RFC 8446 §5.2).
const INNER_TYPE_BYTES: usize = 1;

impl RecordLayer {
    /// A TLS 1.3 connection from its first application traffic secrets. `None` if a secret has not
    /// the length of the suite's hash, or the suite is of TLS 1.2.
    pub fn from_traffic_secrets(
        suite: Suite,
        role: Role,
        rx_secret: &[u8],
        tx_secret: &[u8],
        backend: AeadBackend,
    ) -> Option<Self> {
        let fits = |secret: &&[u8]| secret.len() == suite.secret_len();
        let direction =
            |secret| Some(Direction::tls13(suite, Secret::new(secret).filter(|_| fits(&secret))?, 0, backend));
        match suite.version() {
            Version::Tls13 => Some(Self::new(suite, role, backend, direction(rx_secret)?, direction(tx_secret)?)),
            Version::Tls12 => None,
        }
    }

    pub(super) fn new(suite: Suite, role: Role, backend: AeadBackend, rx: Direction, tx: Direction) -> Self {
        Self {
            suite,
            role,
            backend,
            rx,
            tx,
            flags: Flags::default(),
            quiet: 0,
            post: Reassembly::default(),
            rekey_after: rekey_after_default(suite),
            key_updates: 0,
        }
    }

    /// The protocol version.
    pub const fn version(&self) -> Version {
        self.suite.version()
    }

    /// The cipher suite.
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// Which end we are.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Keys renewed since the handshake, both directions together.
    pub const fn key_updates(&self) -> u64 {
        self.key_updates
    }

    /// Opens one whole record, header included, into the start of `out`.
    ///
    /// # Errors
    /// Anything that must end the connection; `out` then holds nothing of use.
    ///
    /// # Panics
    /// If `out` is shorter than `record`.
    #[inline]
    pub fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<Opened, CloseReason> {
        assert!(out.len() >= record.len(), "no room for the plaintext of a record");
        if self.flags.rx_closed {
            return Ok(Opened::CloseNotify);
        }
        let header = RecordHeader::parse(record)?.ok_or(CloseReason::RecordMalformed)?;
        if record.len() != HEADER_BYTES + header.len {
            return Err(CloseReason::RecordMalformed);
        }
        usable(&self.rx, self.suite)?;
        match self.version() {
            Version::Tls13 => self.open_tls13(header.content_type, record, out),
            Version::Tls12 => self.open_tls12(header, record, out),
        }
    }

    /// RFC 8446 §5.2: the type is the last byte of the plaintext that is not zero.
    #[inline]
    fn open_tls13(&mut self, outer: ContentType, record: &[u8], out: &mut [u8]) -> Result<Opened, CloseReason> {
        match outer {
            ContentType::ApplicationData => {}
            // Has no meaning in 1.3 and no protection. OpenSSL ignores it at any time, as we do.
            ContentType::ChangeCipherSpec if record[HEADER_BYTES..] == [1] => return self.nothing(),
            _ => return Err(CloseReason::RecordUnexpected),
        }
        let (aad, body) = record.split_at(HEADER_BYTES);
        let (sealed, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(CloseReason::RecordMalformed)?;
        if sealed.len() > PLAINTEXT_BYTES_MAX + INNER_TYPE_BYTES {
            return Err(CloseReason::RecordMalformed);
        }
        let out = &mut out[..sealed.len()];
        let nonce = self.rx.nonce();
        self.rx.key.open(&nonce, aad, sealed, tag, out).map_err(|_| CloseReason::RecordBadTag)?;
        self.rx.count(sealed.len());

        let type_at = out.iter().rposition(|byte| *byte != 0).ok_or(CloseReason::RecordUnexpected)?;
        let inner = ContentType::from_byte(out[type_at]).ok_or(CloseReason::RecordUnexpected)?;
        if self.post.is_partial() && inner != ContentType::Handshake {
            // RFC 8446 §5.1: nothing stands between the parts of a handshake message.
            return Err(CloseReason::RecordUnexpected);
        }
        self.opened(inner, &out[..type_at])
    }

    /// RFC 5246 §6.2.3.3, with the nonces of RFC 5288 §3 and RFC 7905 §2.
    #[inline]
    fn open_tls12(&mut self, header: RecordHeader, record: &[u8], out: &mut [u8]) -> Result<Opened, CloseReason> {
        if header.version != VERSION_BYTES {
            return Err(CloseReason::RecordMalformed);
        }
        let mut nonce = self.rx.nonce();
        let mut body = &record[HEADER_BYTES..];
        if self.explicit_nonce_len() > 0 {
            let (explicit, rest) =
                body.split_first_chunk::<EXPLICIT_NONCE_BYTES>().ok_or(CloseReason::RecordMalformed)?;
            nonce[NONCE_BYTES - EXPLICIT_NONCE_BYTES..].copy_from_slice(explicit);
            body = rest;
        }
        let (sealed, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(CloseReason::RecordMalformed)?;
        if sealed.len() > PLAINTEXT_BYTES_MAX {
            return Err(CloseReason::RecordMalformed);
        }
        let aad = tls12_aad(self.rx.seq, header.content_type, sealed.len());
        let out = &mut out[..sealed.len()];
        self.rx.key.open(&nonce, &aad, sealed, tag, out).map_err(|_| CloseReason::RecordBadTag)?;
        self.rx.count(sealed.len());
        self.opened(header.content_type, out)
    }

    #[inline]
    fn opened(&mut self, content_type: ContentType, plaintext: &[u8]) -> Result<Opened, CloseReason> {
        match content_type {
            ContentType::ApplicationData if !plaintext.is_empty() => {
                self.quiet = 0;
                Ok(Opened::Data(plaintext.len()))
            }
            ContentType::ApplicationData => self.nothing(),
            ContentType::Handshake => self.receive_handshake(plaintext),
            ContentType::Alert => self.receive_alert(plaintext),
            // Never protected in 1.3; in 1.2 it belongs to a handshake, which we do not repeat.
            ContentType::ChangeCipherSpec => Err(CloseReason::RecordUnexpected),
        }
    }

    /// A record that brought nothing, which costs us work all the same.
    #[cold]
    fn nothing(&mut self) -> Result<Opened, CloseReason> {
        self.quiet += 1;
        if self.quiet > QUIET_RECORDS_MAX { Err(CloseReason::RecordFlood) } else { Ok(Opened::Nothing) }
    }

    #[cold]
    fn receive_handshake(&mut self, mut bytes: &[u8]) -> Result<Opened, CloseReason> {
        if bytes.is_empty() {
            return Err(CloseReason::RecordUnexpected);
        }
        while let Some(message) = self.post.next(self.version(), self.role, &mut bytes)? {
            match message {
                Message::Renegotiation => self.flags.answer_due = true,
                // RFC 8446 §5.1: what follows is under another key, so it cannot be in this record.
                Message::KeyUpdate { .. } if !bytes.is_empty() => return Err(CloseReason::RecordUnexpected),
                Message::KeyUpdate { answer } => {
                    self.rx.renew(self.suite, self.backend);
                    self.key_updates += 1;
                    self.flags.answer_due |= answer;
                    if mem::take(&mut self.flags.update_asked) {
                        return Ok(Opened::Nothing);
                    }
                }
            }
        }
        self.nothing()
    }

    /// Alerts are two bytes in a record of their own. In 1.3 the level says nothing: all but two
    /// are fatal (RFC 8446 §6).
    #[cold]
    fn receive_alert(&mut self, bytes: &[u8]) -> Result<Opened, CloseReason> {
        let &[level, description] = bytes else { return Err(CloseReason::RecordMalformed) };
        match (self.version(), level, description) {
            (_, _, alert::CLOSE_NOTIFY) => {
                self.flags.rx_closed = true;
                Ok(Opened::CloseNotify)
            }
            (Version::Tls13, _, alert::USER_CANCELED) | (Version::Tls12, alert::LEVEL_WARNING, _) => self.nothing(),
            _ => Err(CloseReason::PeerAlert),
        }
    }

    /// Bytes of a record before its plaintext: 5, or 13 for TLS 1.2 with AES-GCM.
    #[inline]
    pub const fn prefix_len(&self) -> usize {
        HEADER_BYTES + self.explicit_nonce_len()
    }

    /// Bytes of a record after its plaintext: 17 for TLS 1.3, 16 for 1.2.
    #[inline]
    pub const fn suffix_len(&self) -> usize {
        match self.version() {
            Version::Tls13 => INNER_TYPE_BYTES + TAG_BYTES,
            Version::Tls12 => TAG_BYTES,
        }
    }

    /// Makes a record of application data out of the `len` bytes of plaintext that stand at
    /// `buf[prefix_len..]`, in place. Returns the record's length, from the start of `buf`.
    ///
    /// # Errors
    /// [`CloseReason::KeyLimit`] if the key is used up, [`CloseReason::SessionEnded`] after
    /// [`Self::close_notify`].
    ///
    /// # Panics
    /// If `buf` has no room for prefix, plaintext and suffix, or `len` is above
    /// [`PLAINTEXT_BYTES_MAX`].
    #[inline]
    pub fn seal(&mut self, buf: &mut [u8], len: usize) -> Result<usize, CloseReason> {
        if self.flags.tx_closed {
            return Err(CloseReason::SessionEnded);
        }
        self.quiet = self.quiet.saturating_sub(1);
        self.seal_as(ContentType::ApplicationData, buf, len)
    }

    #[inline]
    fn seal_as(&mut self, content_type: ContentType, buf: &mut [u8], len: usize) -> Result<usize, CloseReason> {
        assert!(len <= PLAINTEXT_BYTES_MAX, "plaintext longer than a record may have");
        usable(&self.tx, self.suite)?;
        let prefix_len = self.prefix_len();
        let record = &mut buf[..prefix_len + len + self.suffix_len()];
        let body_len = u16::try_from(record.len() - HEADER_BYTES).expect("a record is shorter than 2^16");
        let nonce = self.tx.nonce();

        let (prefix, rest) = record.split_at_mut(prefix_len);
        let (text, tag_at) = rest.split_last_chunk_mut::<TAG_BYTES>().expect("the suffix ends with the tag");
        prefix[1..3].copy_from_slice(&VERSION_BYTES);
        prefix[3..HEADER_BYTES].copy_from_slice(&body_len.to_be_bytes());
        *tag_at = match self.suite.version() {
            Version::Tls13 => {
                prefix[0] = ContentType::ApplicationData as u8;
                text[len] = content_type as u8;
                self.tx.key.seal(&nonce, prefix, text)
            }
            Version::Tls12 => {
                prefix[0] = content_type as u8;
                let explicit = &mut prefix[HEADER_BYTES..];
                explicit.copy_from_slice(&nonce[NONCE_BYTES - explicit.len()..]);
                self.tx.key.seal(&nonce, &tls12_aad(self.tx.seq, content_type, len), text)
            }
        };
        self.tx.count(text.len());
        Ok(record.len())
    }

    /// Writes the record that ends our direction and returns its length; zero if it was written
    /// before. `out` needs [`CONTROL_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`CloseReason::KeyLimit`] if the key is used up.
    ///
    /// # Panics
    /// If `out` is too short.
    pub fn close_notify(&mut self, out: &mut [u8]) -> Result<usize, CloseReason> {
        if self.flags.tx_closed {
            return Ok(0);
        }
        let len = self.seal_message(ContentType::Alert, &[alert::LEVEL_WARNING, alert::CLOSE_NOTIFY], out)?;
        self.flags.tx_closed = true;
        Ok(len)
    }

    /// Whether a record made by [`Self::control`] must go out before more data.
    #[inline]
    pub fn wants_control(&self) -> bool {
        !self.flags.tx_closed && (self.flags.answer_due || self.update_due())
    }

    /// Whether a key should be renewed and can be. A peer whose own key is worn is asked once.
    #[inline]
    fn update_due(&self) -> bool {
        let algorithm = self.suite.algorithm();
        let rx_due = !self.flags.update_asked && self.rx.worn(algorithm, self.rekey_after);
        self.version() == Version::Tls13 && (rx_due || self.tx.worn(algorithm, self.rekey_after))
    }

    /// Writes the record that [`Self::wants_control`] speaks of and returns its length; zero if
    /// none is wanted. `out` needs [`CONTROL_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`CloseReason::KeyLimit`] if the key is used up.
    ///
    /// # Panics
    /// If `out` is too short.
    pub fn control(&mut self, out: &mut [u8]) -> Result<usize, CloseReason> {
        if !self.wants_control() {
            return Ok(0);
        }
        let len = match self.version() {
            Version::Tls13 => {
                // An answer that asks in turn would be answered, and so on for ever.
                let ask = !self.flags.answer_due;
                let message = [KEY_UPDATE, 0, 0, 1, u8::from(ask)];
                let len = self.seal_message(ContentType::Handshake, &message, out)?;
                self.tx.renew(self.suite, self.backend);
                self.key_updates += 1;
                self.flags.update_asked |= ask;
                len
            }
            Version::Tls12 => {
                self.seal_message(ContentType::Alert, &[alert::LEVEL_WARNING, alert::NO_RENEGOTIATION], out)?
            }
        };
        self.flags.answer_due = false;
        Ok(len)
    }

    fn seal_message(&mut self, content_type: ContentType, text: &[u8], out: &mut [u8]) -> Result<usize, CloseReason> {
        let start = self.prefix_len();
        out[start..start + text.len()].copy_from_slice(text);
        self.seal_as(content_type, out, text.len())
    }

    /// Whether a key is near its limit and cannot be renewed (TLS 1.2): the connection should be
    /// retired. Half of the key's life is left then.
    #[inline]
    pub fn key_exhausted(&self) -> bool {
        let algorithm = self.suite.algorithm();
        let worn = |direction: &Direction| direction.worn(algorithm, self.rekey_after);
        self.version() == Version::Tls12 && (worn(&self.rx) || worn(&self.tx))
    }

    /// Sets after how many records a key counts as worn: TLS 1.3 then renews it, TLS 1.2 reports
    /// [`Self::key_exhausted`]. At least 1. By default 2^23 for AES-GCM in TLS 1.3, else no number;
    /// the limit in AES blocks holds in any case.
    pub const fn set_rekey_after(&mut self, records: u64) {
        self.rekey_after = if records == 0 { 1 } else { records };
    }

    const fn explicit_nonce_len(&self) -> usize {
        match (self.version(), self.suite.algorithm()) {
            (Version::Tls12, Algorithm::Aes128Gcm | Algorithm::Aes256Gcm) => EXPLICIT_NONCE_BYTES,
            _ => 0,
        }
    }
}

impl fmt::Debug for RecordLayer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RecordLayer")
            .field("suite", &self.suite)
            .field("role", &self.role)
            .field("rx_seq", &self.rx.seq)
            .field("tx_seq", &self.tx.seq)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

/// Additional data of TLS 1.2 records (RFC 5246 §6.2.3.3).
#[inline]
fn tls12_aad(seq: u64, content_type: ContentType, len: usize) -> [u8; 13] {
    let len = u16::try_from(len).expect("plaintext is at most 2^14 bytes");
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&seq.to_be_bytes());
    aad[8] = content_type as u8;
    aad[9..11].copy_from_slice(&VERSION_BYTES);
    aad[11..].copy_from_slice(&len.to_be_bytes());
    aad
}

/// Server's and client's end of a connection whose keys anyone can compute: for tests and
/// measurements that have no use for a handshake.
pub fn connected_pair(suite: Suite, backend: AeadBackend) -> (RecordLayer, RecordLayer) {
    let direction = |fill: u8| {
        let secret = Secret::new(&[fill; 48][..suite.secret_len()]).expect("no secret is longer than 48 bytes");
        match suite.version() {
            Version::Tls13 => Direction::tls13(suite, secret, 0, backend),
            // The Finished message has used up number 0.
            Version::Tls12 => Direction::tls12(suite, secret, &[fill; NONCE_BYTES], 1, backend),
        }
    };
    (
        RecordLayer::new(suite, Role::Server, backend, direction(1), direction(2)),
        RecordLayer::new(suite, Role::Client, backend, direction(2), direction(1)),
    )
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
