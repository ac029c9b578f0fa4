//! Plaintext on its way into one TLS connection: copied once into the buffer that will be sent, sealed in place.
//!
//! As in the hub, records are as large as they may be, a buffer holds four of the largest and is one send, and at
//! most one send is in flight. What comes meanwhile is put into the buffers that follow.

use std::collections::VecDeque;

use hublane::metrics::closes::CloseReason;
use hublane::tls::layer::{CONTROL_BYTES_MAX, RecordLayer};
use hublane::tunnel::buffer::SendBuf;
use hublane::tunnel::buffer::SendPool;
use hublane::tunnel::egress::SEND_BYTES;

/// What waits for one connection.
#[derive(Debug)]
pub(crate) struct Outflow {
    /// Plaintext of a record at most.
    plain_max: usize,
    /// Full buffers, oldest first; every record in them is sealed.
    ready: VecDeque<SendBuf>,
    /// The buffer under construction.
    buf: Option<SendBuf>,
    /// The record under construction: where its plaintext begins in `buf`, and how much there is.
    open: Option<(usize, usize)>,
    in_flight: bool,
}

impl Outflow {
    /// With records of `plain_max` bytes of plaintext at most.
    pub(crate) const fn new(plain_max: usize) -> Self {
        Self { plain_max, ready: VecDeque::new(), buf: None, open: None, in_flight: false }
    }

    /// Appends `plain`: the one copy.
    pub(crate) fn append(
        &mut self,
        layer: &mut RecordLayer,
        mut plain: &[u8],
        sends: &mut SendPool,
    ) -> Result<(), CloseReason> {
        while !plain.is_empty() {
            let room = self.room(layer, sends);
            let (part, rest) = plain.split_at(plain.len().min(room.len()));
            room[..part.len()].copy_from_slice(part);
            plain = rest;
            self.filled(layer, part.len())?;
        }
        Ok(())
    }

    /// Appends a record of the greatest length, which `fill` writes in place.
    pub(crate) fn record(
        &mut self,
        layer: &mut RecordLayer,
        sends: &mut SendPool,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), CloseReason> {
        self.close_record(layer)?;
        let room = self.room(layer, sends);
        fill(room);
        let len = room.len();
        self.filled(layer, len)
    }

    /// What is left of the record under construction; at least one byte.
    fn room(&mut self, layer: &RecordLayer, sends: &mut SendPool) -> &mut [u8] {
        if self.open.is_none() {
            let end = self.with_room(layer.prefix_len() + self.plain_max + layer.suffix_len(), sends).end();
            self.open = Some((end + layer.prefix_len(), 0));
        }
        let (at, len) = self.open.expect("a record was begun");
        let buf = self.buf.as_mut().expect("a record under construction has a buffer");
        &mut buf.storage_mut()[at + len..at + self.plain_max]
    }

    fn filled(&mut self, layer: &mut RecordLayer, more: usize) -> Result<(), CloseReason> {
        let Some((_, len)) = &mut self.open else { return Ok(()) };
        *len += more;
        if *len == self.plain_max { self.close_record(layer) } else { Ok(()) }
    }

    /// The buffer under construction, one with `wanted` free bytes and those of a control record behind them.
    fn with_room(&mut self, wanted: usize, sends: &mut SendPool) -> &mut SendBuf {
        if let Some(full) = self.buf.take_if(|buf| buf.end() + wanted + CONTROL_BYTES_MAX > buf.capacity()) {
            self.ready.push_back(full);
        }
        self.buf.get_or_insert_with(|| sends.take())
    }

    fn close_record(&mut self, layer: &mut RecordLayer) -> Result<(), CloseReason> {
        let (Some((_, len)), Some(buf)) = (self.open.take(), &mut self.buf) else { return Ok(()) };
        if len == 0 {
            return Ok(());
        }
        let start = buf.end();
        let sealed = layer.seal(&mut buf.storage_mut()[start..], len)?;
        buf.set_end(start + sealed);
        // A renewed key is for the records behind, so its record stands here and not at the end.
        if layer.wants_control() && buf.end() + CONTROL_BYTES_MAX <= buf.capacity() {
            let start = buf.end();
            let len = layer.control(&mut buf.storage_mut()[start..])?;
            buf.set_end(start + len);
        }
        Ok(())
    }

    /// Puts a close_notify behind everything else.
    pub(crate) fn finish(&mut self, layer: &mut RecordLayer, sends: &mut SendPool) -> Result<(), CloseReason> {
        self.close_record(layer)?;
        let buf = self.with_room(0, sends);
        let start = buf.end();
        let len = layer.close_notify(&mut buf.storage_mut()[start..])?;
        buf.set_end(start + len);
        Ok(())
    }

    /// The next buffer to send; `None` while one is in flight or if there is nothing.
    pub(crate) fn flush(
        &mut self,
        layer: &mut RecordLayer,
        sends: &mut SendPool,
    ) -> Result<Option<SendBuf>, CloseReason> {
        if self.in_flight {
            return Ok(None);
        }
        if self.ready.is_empty() {
            self.close_record(layer)?;
            if layer.wants_control() {
                let buf = self.with_room(0, sends);
                let start = buf.end();
                let len = layer.control(&mut buf.storage_mut()[start..])?;
                buf.set_end(start + len);
            }
        }
        // `with_room` may have moved the buffer.
        let next = self.ready.pop_front().or_else(|| self.buf.take_if(|buf| !buf.pending().is_empty()));
        self.in_flight = next.is_some();
        Ok(next)
    }

    /// The send in flight has ended.
    pub(crate) fn sent(&mut self) {
        self.in_flight = false;
    }

    /// Whether all is in the hands of the kernel.
    pub(crate) fn is_empty(&self) -> bool {
        let building = self.open.is_some_and(|(_, len)| len > 0);
        let built = self.buf.as_ref().is_some_and(|buf| !buf.pending().is_empty());
        !self.in_flight && self.ready.is_empty() && !building && !built
    }

    /// Bytes of memory that wait in full buffers.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.ready.len() * SEND_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hublane::tls::aead::AeadBackend;
    use hublane::tls::keys::Suite;
    use hublane::tls::layer::connected_pair;
    use hublane::tls::record::RECORD_BYTES_MAX;
    use hublane::tunnel::records::{RecordPool, Records};

    /// Lengths of the records in `buf`; their plaintext goes to `text`.
    fn open(layer: &mut RecordLayer, buf: &SendBuf, text: &mut Vec<u8>) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut arena = vec![0; RECORD_BYTES_MAX];
        let ended =
            Records::default().open_all(layer, buf.pending(), &mut arena, &mut RecordPool::default(), |plain| {
                lengths.push(plain.len());
                text.extend_from_slice(plain);
                Ok(())
            });
        assert!(matches!(ended, Ok(_) | Err(CloseReason::PeerCloseNotify)), "{ended:?}");
        lengths
    }

    #[test]
    fn records_are_rebuilt_as_large_as_they_may_be() {
        for suite in [Suite::Tls13Aes128GcmSha256, Suite::EcdheEcdsaAes256GcmSha384] {
            let (mut to, mut from) = connected_pair(suite, AeadBackend::AwsLc);
            let (mut out, mut sends) = (Outflow::new(16_384), SendPool::default());
            let (mut sent, mut seen, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
            for n in 0..100u8 {
                let part = vec![n; 1 + usize::from(n) * 37];
                out.append(&mut from, &part, &mut sends).unwrap();
                sent.extend_from_slice(&part);
            }
            while let Some(buf) = out.flush(&mut from, &mut sends).unwrap() {
                assert!(out.flush(&mut from, &mut sends).unwrap().is_none(), "one send at a time");
                lengths.extend(open(&mut to, &buf, &mut seen));
                out.sent();
            }
            assert_eq!(seen, sent);
            let (last, full) = lengths.split_last().unwrap();
            assert!(full.iter().all(|len| *len == 16_384) && *last == sent.len() % 16_384, "{lengths:?}");
            assert!(out.is_empty());
        }
    }

    #[test]
    fn what_waits_is_told_and_close_notify_comes_last() {
        let (mut to, mut from) = connected_pair(Suite::Tls13Aes128GcmSha256, AeadBackend::AwsLc);
        let (mut out, mut sends) = (Outflow::new(16_384), SendPool::default());
        out.append(&mut from, &[1; 100], &mut sends).unwrap();
        let first = out.flush(&mut from, &mut sends).unwrap().unwrap();
        out.append(&mut from, &[2; 10 * 16_384], &mut sends).unwrap();
        assert_eq!(out.waiting_bytes(), 2 * SEND_BYTES);
        out.finish(&mut from, &mut sends).unwrap();
        let mut seen = Vec::new();
        open(&mut to, &first, &mut seen);
        out.sent();
        let mut sizes = Vec::new();
        while let Some(buf) = out.flush(&mut from, &mut sends).unwrap() {
            sizes.push(open(&mut to, &buf, &mut seen).len());
            out.sent();
        }
        assert_eq!((sizes, seen.len()), (vec![4, 4, 2], 100 + 10 * 16_384));
        assert_eq!(to.open(&[], &mut []), Ok(hublane::tls::layer::Opened::CloseNotify));
    }

    #[test]
    fn keys_are_renewed_between_records() {
        let (mut to, mut from) = connected_pair(Suite::Tls13Aes128GcmSha256, AeadBackend::AwsLc);
        from.set_rekey_after(3);
        let (mut out, mut sends) = (Outflow::new(64), SendPool::default());
        let mut seen = Vec::new();
        for n in 0..50u8 {
            out.record(&mut from, &mut sends, |room| room.fill(n)).unwrap();
        }
        while let Some(buf) = out.flush(&mut from, &mut sends).unwrap() {
            open(&mut to, &buf, &mut seen);
            out.sent();
        }
        let expected: Vec<u8> = (0..50u8).flat_map(|n| [n; 64]).collect();
        assert_eq!(seen, expected);
        assert!(from.key_updates() >= 10, "{}", from.key_updates());
    }
}
