//! One TCP connection of a session, from ciphertext to blocks of the tunnel and as a value that can move.
//!
//! The same `Conn` is made by the handshake on a control thread, used by a worker, and can be written
//! to bytes in mid-record and continued elsewhere.
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

use super::deframe::{Block, BlockPool, Deframer};
use crate::metrics::closes::CloseReason;
use crate::tls::aead::AeadBackend;
use crate::tls::layer::{Opened, RecordLayer};
use crate::tls::record::{RECORD_BYTES_MAX, record_len};

/// State of one connection between two receives.
pub struct Conn {
    /// Keys and sequence numbers of both directions.
    pub layer: RecordLayer,
    deframer: Deframer,
    /// Ciphertext of a record that has not arrived whole. Has storage only while it has content.
    carry: Vec<u8>,
    /// Sealed bytes that wait to be sent; used only while the connection is handed over.
    pub unsent: Vec<u8>,
}

/// Buffers for incomplete records and blocks, shared by the connections of a worker.
#[derive(Debug, Default)]
pub struct CarryPool {
    free: Vec<Vec<u8>>,
    blocks: BlockPool,
}

impl CarryPool {
    /// Buffers kept for re-use; those above are freed, so that a burst leaves nothing behind.
    const KEPT: usize = 64;

    fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| Vec::with_capacity(RECORD_BYTES_MAX))
    }

    fn give(&mut self, mut buf: Vec<u8>) {
        if buf.capacity() >= RECORD_BYTES_MAX && self.free.len() < Self::KEPT {
            buf.clear();
            self.free.push(buf);
        }
    }
}

impl Conn {
    /// A connection whose TLS handshake is done.
    pub fn new(layer: RecordLayer) -> Self {
        Self { layer, deframer: Deframer::new(), carry: Vec::new(), unsent: Vec::new() }
    }

    /// Takes plaintext that was opened before the connection became a stream of blocks.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_plain(&mut self, plain: &[u8], each: impl FnMut(Block<'_>)) -> Result<(), CloseReason> {
        self.deframer.push(plain, each)
    }

    /// Takes ciphertext as it comes from the socket, calls `each` for every block in it and returns the
    /// number of records opened. `arena` holds the plaintext of one record at a time; it must be at
    /// least [`RECORD_BYTES_MAX`] long.
    ///
    /// # Errors
    /// The connection must be closed for the reason given. Blocks before the fault were delivered.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        arena: &mut [u8],
        carries: &mut CarryPool,
        mut each: impl FnMut(Block<'_>),
    ) -> Result<u64, CloseReason> {
        let mut records = 0;
        while !bytes.is_empty() {
            let whole = if self.carry.is_empty() {
                match record_len(bytes)? {
                    Some(len) if len <= bytes.len() => {
                        let (record, rest) = bytes.split_at(len);
                        bytes = rest;
                        Some(self.layer.open(record, arena)?)
                    }
                    _ => {
                        self.carry = carries.take();
                        self.carry.extend_from_slice(bytes);
                        bytes = &[];
                        None
                    }
                }
            } else {
                bytes = self.fill_carry(bytes)?;
                match record_len(&self.carry)? {
                    Some(len) if len == self.carry.len() => {
                        let opened = self.layer.open(&self.carry, arena);
                        carries.give(std::mem::take(&mut self.carry));
                        Some(opened?)
                    }
                    _ => None,
                }
            };
            match whole {
                Some(Opened::Data(len)) => self.deframer.push_with(&arena[..len], &mut carries.blocks, &mut each)?,
                Some(Opened::CloseNotify) => return Err(CloseReason::PeerCloseNotify),
                Some(Opened::Nothing) => {}
                None => continue,
            }
            records += 1;
        }
        Ok(records)
    }

    /// Moves bytes into the carry until it holds exactly one record; returns the rest.
    fn fill_carry<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], CloseReason> {
        // The first pass may only complete the header; the second then knows the length.
        for _ in 0..2 {
            let wanted = record_len(&self.carry)?.unwrap_or(HEADER_BYTES);
            let (head, rest) = bytes.split_at(bytes.len().min(wanted.saturating_sub(self.carry.len())));
            self.carry.extend_from_slice(head);
            bytes = rest;
        }
        Ok(bytes)
    }

    /// The whole state, keys included.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        for part in [&self.layer.to_bytes()[..], &self.deframer.to_bytes(), &self.carry, &self.unsent] {
            let len = u32::try_from(part.len()).expect("state of a connection is far below 4 GiB");
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }

    /// From [`Self::to_bytes`]. `None` if the bytes are not such a state.
    pub fn from_bytes(mut bytes: &[u8], backend: AeadBackend) -> Option<Self> {
        let mut part = || -> Option<&[u8]> {
            let (len, rest) = bytes.split_first_chunk::<4>()?;
            let (part, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
            bytes = rest;
            Some(part)
        };
        let layer = RecordLayer::from_bytes(part()?, backend).ok()?;
        let deframer = Deframer::from_bytes(part()?)?;
        let carry = part()?.to_vec();
        let unsent = part()?.to_vec();
        // A record that is whole, or more than one, would be waited for for ever.
        let carry_waits = carry.is_empty() || record_len(&carry).ok()?.is_none_or(|len| carry.len() < len);
        (carry_waits && bytes.is_empty()).then_some(Self { layer, deframer, carry, unsent })
    }
}

/// TLS record header: type, version, length.
const HEADER_BYTES: usize = 5;

#[cfg(test)]
#[path = "conn_tests.rs"]
mod tests;
