//! A [`RecordLayer`] as bytes, so that a process can hand its live connections to its successor.
//!
//! Fixed length, big-endian: format, role, suite, flags, quiet, post-handshake message in parts
//! (5 + 1 + 4), rekey_after, key_updates, then for rx and tx: secret (48), iv (12), sequence number,
//! blocks. The bytes contain every key: they go to the successor by a private descriptor, never to
//! a disk.
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

use super::aead::{AeadBackend, NONCE_BYTES};
use super::keys::{Direction, SECRET_BYTES_MAX, Secret, Suite, Version};
use super::layer::{Flags, QUIET_RECORDS_MAX, RecordLayer, Role};
use super::post::Reassembly;

/// Changes with the layout.
const FORMAT: u8 = 1;

const DIRECTION_BYTES: usize = SECRET_BYTES_MAX + NONCE_BYTES + 8 + 8;
const STATE_BYTES: usize = 1 + 1 + 2 + 1 + 1 + 10 + 8 + 8 + 2 * DIRECTION_BYTES;

/// Why bytes are not a saved [`RecordLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Too short or too long.
    #[error("saved TLS state of {0} bytes, {STATE_BYTES} expected")]
    Length(usize),
    /// Written by another version of this code.
    #[error("saved TLS state of format {0}, {FORMAT} expected")]
    Format(u8),
    /// A suite that we do not have.
    #[error("saved TLS state with unknown suite {0:#06x}")]
    Suite(u16),
    /// A version, role or length that does not belong to the suite.
    #[error("saved TLS state contradicts itself")]
    Inconsistent,
}

impl RecordLayer {
    /// Everything, keys included. See [`Self::from_bytes`].
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // The capacity is exact, so that growing leaves no copy of a key behind.
        let mut out = Zeroizing::new(Vec::with_capacity(STATE_BYTES));
        out.extend([FORMAT, u8::from(self.role == Role::Client)]);
        out.extend(self.suite.code().to_be_bytes());
        out.extend([self.flags.to_byte(), self.quiet]);
        out.extend(self.post.head);
        out.push(self.post.have);
        out.extend(self.post.skip.to_be_bytes());
        out.extend(self.rekey_after.to_be_bytes());
        out.extend(self.key_updates.to_be_bytes());
        for direction in [&self.rx, &self.tx] {
            let padding = SECRET_BYTES_MAX - direction.secret.bytes().len();
            out.extend(direction.secret.bytes());
            out.extend(&[0; SECRET_BYTES_MAX][..padding]);
            out.extend(*direction.iv);
            out.extend(direction.seq.to_be_bytes());
            out.extend(direction.blocks.to_be_bytes());
        }
        out
    }

    /// The connection that [`Self::to_bytes`] saved, to go on with exactly where it stood.
    ///
    /// # Errors
    /// If the bytes are not what this version of the program saves.
    pub fn from_bytes(bytes: &[u8], backend: AeadBackend) -> Result<Self, RestoreError> {
        if bytes.len() != STATE_BYTES {
            return Err(RestoreError::Length(bytes.len()));
        }
        let mut reader = Reader(bytes);
        let [format, role] = reader.take()?;
        if format != FORMAT {
            return Err(RestoreError::Format(format));
        }
        let role = match role {
            0 => Role::Server,
            1 => Role::Client,
            _ => return Err(RestoreError::Inconsistent),
        };
        let code = u16::from_be_bytes(reader.take()?);
        let suite = Suite::from_code(code).ok_or(RestoreError::Suite(code))?;
        let [flags, quiet] = reader.take()?;
        if quiet > QUIET_RECORDS_MAX {
            return Err(RestoreError::Inconsistent);
        }
        let flags = Flags::from_byte(flags).ok_or(RestoreError::Inconsistent)?;
        let post = reader.reassembly()?;
        let rekey_after = u64::from_be_bytes(reader.take()?);
        let key_updates = u64::from_be_bytes(reader.take()?);
        let rx = reader.direction(suite, backend)?;
        let tx = reader.direction(suite, backend)?;
        Ok(Self { suite, role, backend, rx, tx, flags, quiet, post, rekey_after, key_updates })
    }
}

impl Flags {
    fn to_byte(self) -> u8 {
        u8::from(self.answer_due)
            | u8::from(self.update_asked) << 1
            | u8::from(self.rx_closed) << 2
            | u8::from(self.tx_closed) << 3
    }

    fn from_byte(byte: u8) -> Option<Self> {
        let bit = |n: u8| byte >> n & 1 == 1;
        (byte < 16).then(|| Self { answer_due: bit(0), update_asked: bit(1), rx_closed: bit(2), tx_closed: bit(3) })
    }
}

/// What has not been read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(RestoreError::Inconsistent)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn reassembly(&mut self) -> Result<Reassembly, RestoreError> {
        let head: [u8; 5] = self.take()?;
        let [have] = self.take()?;
        let skip = u32::from_be_bytes(self.take()?);
        // Anything else would be read on past the end of `head`.
        if usize::from(have) >= head.len() || (have > 0 && skip > 0) {
            return Err(RestoreError::Inconsistent);
        }
        Ok(Reassembly { head, have, skip })
    }

    fn direction(&mut self, suite: Suite, backend: AeadBackend) -> Result<Direction, RestoreError> {
        let padded = Zeroizing::new(self.take::<SECRET_BYTES_MAX>()?);
        let iv = Zeroizing::new(self.take::<NONCE_BYTES>()?);
        let seq = u64::from_be_bytes(self.take()?);
        let blocks = u64::from_be_bytes(self.take()?);
        let secret = Secret::new(&padded[..suite.secret_len()]).ok_or(RestoreError::Inconsistent)?;
        let mut direction = match suite.version() {
            Version::Tls13 => Direction::tls13(suite, secret, seq, backend),
            Version::Tls12 => Direction::tls12(suite, secret, &iv, seq, backend),
        };
        direction.blocks = blocks;
        Ok(direction)
    }
}
