//! Handshake messages after the handshake.
//!
//! Three may come: a ticket (1.3, to the client), which we skip because sessions are never resumed
//! (protocol note §1.1), a key update (1.3) and the wish to negotiate again (1.2), which is
//! declined. A message may be cut anywhere between records (RFC 8446 §5.1); as none has a body that
//! we keep, five bytes and a count are all there is to remember.
#![forbid(unsafe_code)]

use super::keys::Version;
use super::layer::Role;
use crate::metrics::closes::CloseReason;

/// A message that wants something from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The peer's next record is under its next key; `answer` asks us to renew ours as well.
    KeyUpdate { answer: bool },
    /// The peer wants a new handshake (TLS 1.2).
    Renegotiation,
}

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
pub(super) const KEY_UPDATE: u8 = 24;

/// Type and 24-bit length.
const MESSAGE_HEADER_BYTES: usize = 4;
/// Header and the one byte of a KeyUpdate (RFC 8446 §4.6.3).
const KEY_UPDATE_BYTES: usize = MESSAGE_HEADER_BYTES + 1;
/// Longest message that is skipped: a ticket with its extensions rounded up, or a ClientHello.
const SKIPPED_BYTES_MAX: u32 = 1 << 16;

/// What is known of a message that has not wholly arrived.
///
/// Invariant: `have < 4` or the header announces a KeyUpdate; `skip > 0` only if `have == 0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reassembly {
    pub(super) head: [u8; KEY_UPDATE_BYTES],
    pub(super) have: u8,
    /// Bytes of a message's body that are still to come and do not matter.
    pub(super) skip: u32,
}

impl Reassembly {
    /// Whether the next handshake bytes continue a message.
    pub(super) const fn is_partial(&self) -> bool {
        self.have > 0 || self.skip > 0
    }

    /// Takes bytes off the front of `bytes` up to the end of the next message that wants something;
    /// `None` once all bytes are taken.
    ///
    /// # Errors
    /// [`CloseReason::RecordUnexpected`] for any other message.
    pub(super) fn next(
        &mut self,
        version: Version,
        role: Role,
        bytes: &mut &[u8],
    ) -> Result<Option<Message>, CloseReason> {
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            *bytes = &bytes[skipped..];
            self.skip -= u32::try_from(skipped).expect("skipped is at most skip");

            let Some((&byte, rest)) = bytes.split_first() else { return Ok(None) };
            *bytes = rest;
            self.head[usize::from(self.have)] = byte;
            self.have += 1;
            let message = match usize::from(self.have) {
                MESSAGE_HEADER_BYTES => self.header_complete(version, role)?,
                KEY_UPDATE_BYTES => Some(self.key_update_complete()?),
                _ => None,
            };
            if message.is_some() {
                return Ok(message);
            }
        }
    }

    fn header_complete(&mut self, version: Version, role: Role) -> Result<Option<Message>, CloseReason> {
        let [kind, high, middle, low, _] = self.head;
        let len = u32::from_be_bytes([0, high, middle, low]);
        let message = match (version, role, kind) {
            (Version::Tls13, _, KEY_UPDATE) if len == 1 => return Ok(None),
            (Version::Tls13, Role::Client, NEW_SESSION_TICKET) if len <= SKIPPED_BYTES_MAX => None,
            (Version::Tls12, Role::Client, HELLO_REQUEST) if len == 0 => Some(Message::Renegotiation),
            (Version::Tls12, Role::Server, CLIENT_HELLO) if len <= SKIPPED_BYTES_MAX => Some(Message::Renegotiation),
            _ => return Err(CloseReason::RecordUnexpected),
        };
        (self.have, self.skip) = (0, len);
        Ok(message)
    }

    fn key_update_complete(&mut self) -> Result<Message, CloseReason> {
        self.have = 0;
        match self.head[MESSAGE_HEADER_BYTES] {
            0 => Ok(Message::KeyUpdate { answer: false }),
            1 => Ok(Message::KeyUpdate { answer: true }),
            _ => Err(CloseReason::RecordUnexpected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `piece`, collects what wants something.
    fn feed(version: Version, role: Role, bytes: &[u8], piece: usize) -> Result<(Vec<Message>, bool), CloseReason> {
        let mut reassembly = Reassembly::default();
        let mut messages = Vec::new();
        for mut part in bytes.chunks(piece) {
            while let Some(message) = reassembly.next(version, role, &mut part)? {
                messages.push(message);
            }
        }
        Ok((messages, reassembly.is_partial()))
    }

    #[test]
    fn any_cut_gives_the_same_messages() {
        let ticket = [&[4, 0, 0, 7][..], &[24; 7]].concat();
        let update = [24, 0, 0, 1, 1];
        let hello = [&[1, 0, 1, 0][..], &[9; 256]].concat();
        let table = [
            (
                Version::Tls13,
                Role::Client,
                [&ticket[..], &ticket, &update].concat(),
                vec![Message::KeyUpdate { answer: true }],
            ),
            (Version::Tls13, Role::Server, [24, 0, 0, 1, 0].to_vec(), vec![Message::KeyUpdate { answer: false }]),
            (Version::Tls12, Role::Server, [&hello[..], &hello].concat(), vec![Message::Renegotiation; 2]),
            (Version::Tls12, Role::Client, vec![0; 8], vec![Message::Renegotiation; 2]),
        ];
        for (version, role, bytes, expected) in table {
            for piece in 1..=bytes.len() {
                assert_eq!(feed(version, role, &bytes, piece), Ok((expected.clone(), false)), "{piece}");
            }
            assert!(feed(version, role, &bytes[..bytes.len() - 1], 3).unwrap().1);
        }
    }

    #[test]
    fn others_are_refused() {
        let table = [
            (Version::Tls13, Role::Server, [4, 0, 0, 1, 0]), // a ticket to the server
            (Version::Tls13, Role::Client, [4, 1, 0, 1, 0]), // a ticket without end
            (Version::Tls13, Role::Client, [13, 0, 0, 1, 0]), // CertificateRequest
            (Version::Tls13, Role::Server, [1, 0, 0, 1, 0]), // ClientHello
            (Version::Tls13, Role::Server, [24, 0, 0, 2, 0]), // KeyUpdate of a wrong length
            (Version::Tls13, Role::Server, [24, 0, 0, 1, 2]), // KeyUpdate with a wrong value
            (Version::Tls12, Role::Server, [24, 0, 0, 1, 0]), // KeyUpdate in 1.2
            (Version::Tls12, Role::Server, [20, 0, 0, 12, 0]), // Finished
            (Version::Tls12, Role::Client, [1, 0, 0, 1, 0]), // ClientHello to the client
            (Version::Tls12, Role::Client, [0, 0, 0, 1, 0]), // HelloRequest with a body
        ];
        for (version, role, bytes) in table {
            assert_eq!(feed(version, role, &bytes, 5), Err(CloseReason::RecordUnexpected), "{bytes:?}");
        }
    }
}
