//! One TCP connection of a session, from ciphertext to blocks of the tunnel and as a value that can move.
//!
//! The same `Conn` is made by the handshake on a control thread, used by a worker, and can be written
//! to bytes in mid-record and continued elsewhere.
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

use super::deframe::{Block, BlockPool, Deframer};
use super::records::{RecordPool, Records};
use crate::metrics::closes::CloseReason;
use crate::tls::aead::AeadBackend;
use crate::tls::layer::RecordLayer;
use crate::tls::record::record_len;

/// State of one connection between two receives.
pub struct Conn {
    /// Keys and sequence numbers of both directions.
    pub layer: RecordLayer,
    deframer: Deframer,
    records: Records,
    /// Sealed bytes that wait to be sent; used only while the connection is handed over.
    pub unsent: Vec<u8>,
}

/// Buffers for incomplete records and blocks, shared by the connections of a worker.
#[derive(Debug, Default)]
pub struct CarryPool {
    records: RecordPool,
    blocks: BlockPool,
}

impl Conn {
    /// A connection whose TLS handshake is done.
    pub fn new(layer: RecordLayer) -> Self {
        Self { layer, deframer: Deframer::new(), records: Records::default(), unsent: Vec::new() }
    }

    /// Says whether super-frames were agreed on; at first they were not.
    pub fn allow_supers(&mut self, supers: bool) {
        self.deframer.allow_supers(supers);
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
    /// least [`crate::tls::record::RECORD_BYTES_MAX`] long.
    ///
    /// # Errors
    /// The connection must be closed for the reason given. Blocks before the fault were delivered.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        arena: &mut [u8],
        carries: &mut CarryPool,
        mut each: impl FnMut(Block<'_>),
    ) -> Result<u64, CloseReason> {
        let Self { layer, deframer, records, .. } = self;
        let CarryPool { records: pool, blocks } = carries;
        records.open_all(layer, bytes, arena, pool, |plain| deframer.push_with(plain, blocks, &mut each))
    }

    /// The whole state, keys included.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        for part in [&self.layer.to_bytes()[..], &self.deframer.to_bytes(), &self.records.carry, &self.unsent] {
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
        (carry_waits && bytes.is_empty()).then_some(Self { layer, deframer, records: Records { carry }, unsent })
    }
}

#[cfg(test)]
#[path = "conn_tests.rs"]
mod tests;
