//! Ciphertext as it comes from a socket, cut into records and opened.
//!
//! A record that lies whole in the bytes received is opened from there, into the caller's arena. One that is cut
//! between two receives is put together in a carry first, which costs it one more copy.
#![forbid(unsafe_code)]

use crate::metrics::closes::CloseReason;
use crate::tls::layer::{Opened, RecordLayer};
use crate::tls::record::{HEADER_BYTES, RECORD_BYTES_MAX, record_len};

/// The receiving side of one connection between two receives.
#[derive(Debug, Default)]
pub struct Records {
    /// Ciphertext of a record that has not arrived whole. Has storage only while it has content.
    pub(super) carry: Vec<u8>,
}

/// Buffers for incomplete records, shared by the connections of a thread.
#[derive(Debug, Default)]
pub struct RecordPool {
    free: Vec<Vec<u8>>,
}

impl RecordPool {
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

impl Records {
    /// Takes ciphertext as it comes from the socket, calls `each` with the plaintext of every record of
    /// application data in it and returns the number of records opened. `arena` holds the plaintext of one
    /// record at a time; it must be at least [`RECORD_BYTES_MAX`] long.
    ///
    /// # Errors
    /// The connection must be closed for the reason given, which may be that of `each`;
    /// [`CloseReason::PeerCloseNotify`] if the peer closed it. What came before was delivered.
    #[inline]
    pub fn open_all(
        &mut self,
        layer: &mut RecordLayer,
        mut bytes: &[u8],
        arena: &mut [u8],
        pool: &mut RecordPool,
        mut each: impl FnMut(&[u8]) -> Result<(), CloseReason>,
    ) -> Result<u64, CloseReason> {
        let mut records = 0;
        while !bytes.is_empty() {
            let whole = if self.carry.is_empty() {
                match record_len(bytes)? {
                    Some(len) if len <= bytes.len() => {
                        let (record, rest) = bytes.split_at(len);
                        bytes = rest;
                        Some(layer.open(record, arena)?)
                    }
                    _ => {
                        self.carry = pool.take();
                        self.carry.extend_from_slice(bytes);
                        bytes = &[];
                        None
                    }
                }
            } else {
                bytes = self.fill_carry(bytes)?;
                match record_len(&self.carry)? {
                    Some(len) if len == self.carry.len() => {
                        let opened = layer.open(&self.carry, arena);
                        pool.give(std::mem::take(&mut self.carry));
                        Some(opened?)
                    }
                    _ => None,
                }
            };
            match whole {
                Some(Opened::Data(len)) => each(&arena[..len])?,
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::aead::AeadBackend;
    use crate::tls::keys::Suite;
    use crate::tls::layer::connected_pair;

    #[test]
    fn records_are_found_however_the_bytes_are_cut() {
        let texts = [&b"one"[..], &[7; 16_384], b"three", &[9; 300]];
        for step in [1, 2, 5, 22, 1000, 16_406, 100_000] {
            let (mut server, mut client) = connected_pair(Suite::Tls13Aes128GcmSha256, AeadBackend::AwsLc);
            let mut stream = Vec::new();
            for text in texts {
                let mut record = vec![0; client.prefix_len() + text.len() + client.suffix_len()];
                record[client.prefix_len()..][..text.len()].copy_from_slice(text);
                let len = client.seal(&mut record, text.len()).unwrap();
                stream.extend_from_slice(&record[..len]);
            }
            let (mut records, mut pool) = (Records::default(), RecordPool::default());
            let mut arena = vec![0; RECORD_BYTES_MAX];
            let mut found = Vec::new();
            for part in stream.chunks(step) {
                records
                    .open_all(&mut server, part, &mut arena, &mut pool, |plain| {
                        found.push(plain.to_vec());
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(found, texts, "{step}");
            assert!(records.carry.is_empty(), "{step}");
        }
    }
}
