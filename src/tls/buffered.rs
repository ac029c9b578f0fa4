//! A record layer with buffers of its own, for the few messages before a connection carries frames.
//!
//! Allocates as it likes: the login uses it, the frame path does not.
#![forbid(unsafe_code)]

use super::handshake::Established;
use super::layer::{Opened, RecordLayer};
use super::record::{RECORD_BYTES_MAX, record_len};
use crate::metrics::closes::CloseReason;

/// Plaintext of a record at most (RFC 8446 §5.1).
const PLAIN_BYTES_MAX: usize = 16_384;

/// Records in both directions, as bytes to send and bytes received.
pub struct Buffered {
    layer: RecordLayer,
    cipher: Vec<u8>,
}

/// What is left when the login is done.
pub struct Parts {
    /// Keys.
    pub layer: RecordLayer,
    /// Ciphertext that was received but not opened.
    pub cipher: Vec<u8>,
}

impl Buffered {
    /// Goes on where the handshake ended.
    pub fn new(done: Established) -> Self {
        Self { layer: done.layer, cipher: done.leftover }
    }

    /// Takes bytes from the socket.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.cipher.extend_from_slice(bytes);
    }

    /// The next plaintext, if a whole record is there.
    ///
    /// # Errors
    /// The connection must be closed; [`CloseReason::PeerCloseNotify`] if the peer did.
    pub fn next_plain(&mut self) -> Result<Option<Vec<u8>>, CloseReason> {
        let mut plain = vec![0; RECORD_BYTES_MAX];
        loop {
            let Some(len) = record_len(&self.cipher)?.filter(|len| *len <= self.cipher.len()) else { return Ok(None) };
            let opened = self.layer.open(&self.cipher[..len], &mut plain)?;
            self.cipher.drain(..len);
            match opened {
                Opened::Data(len) => {
                    plain.truncate(len);
                    return Ok(Some(plain));
                }
                Opened::Nothing => {}
                Opened::CloseNotify => return Err(CloseReason::PeerCloseNotify),
            }
        }
    }

    /// Records to send for `plain`, with whatever answer the record layer owes before it.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn seal(&mut self, plain: &[u8]) -> Result<Vec<u8>, CloseReason> {
        let mut out = Vec::with_capacity(plain.len() + 64);
        if self.layer.wants_control() {
            out.resize(super::layer::CONTROL_BYTES_MAX, 0);
            let len = self.layer.control(&mut out)?;
            out.truncate(len);
        }
        let (prefix, suffix) = (self.layer.prefix_len(), self.layer.suffix_len());
        for part in plain.chunks(PLAIN_BYTES_MAX) {
            let start = out.len();
            out.resize(start + prefix + part.len() + suffix, 0);
            out[start + prefix..][..part.len()].copy_from_slice(part);
            let len = self.layer.seal(&mut out[start..], part.len())?;
            out.truncate(start + len);
        }
        Ok(out)
    }

    /// The close_notify to send before closing; empty if the layer cannot seal any more.
    pub fn close_notify(&mut self) -> Vec<u8> {
        let mut out = vec![0; 64];
        let len = self.layer.close_notify(&mut out).unwrap_or(0);
        out.truncate(len);
        out
    }

    /// The TLS side.
    pub fn layer_mut(&mut self) -> &mut RecordLayer {
        &mut self.layer
    }

    /// Takes it apart.
    pub fn into_parts(self) -> Parts {
        Parts { layer: self.layer, cipher: self.cipher }
    }
}
