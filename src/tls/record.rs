//! The record header (RFC 8446 §5.1) and the numbers that stand in records.
//!
//! Finds out how long a record is, before anything is known about keys. Records longer than our
//! AEAD suites can produce are refused at once, so that nobody can make us wait for them.
#![forbid(unsafe_code)]

use crate::metrics::closes::CloseReason;

/// Length of the header: type, version, length.
pub const HEADER_BYTES: usize = 5;

/// Longest plaintext of one record (RFC 8446 §5.1).
pub const PLAINTEXT_BYTES_MAX: usize = 1 << 14;

/// Longest record, header included. RFC 8446 §5.2 allows 256 bytes around the plaintext; TLS 1.2
/// allows 2048 (RFC 5246 §6.2.3), of which its AEAD suites need at most 24.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + PLAINTEXT_BYTES_MAX + 256;

/// The version field of every record we send (RFC 8446 §5.1: 1.3 keeps the number of 1.2).
pub const VERSION_BYTES: [u8; 2] = [3, 3];

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are those of RFC 8446 §5.1")]
pub enum ContentType {
    ChangeCipherSpec = 20,
    Alert = 21,
    Handshake = 22,
    ApplicationData = 23,
}

impl ContentType {
    /// `None` for numbers that neither TLS 1.2 nor 1.3 uses.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::ApplicationData),
            _ => None,
        }
    }
}

/// Alert levels and descriptions (RFC 8446 §6, RFC 5246 §7.2) that this layer sends or tells apart.
#[allow(missing_docs, reason = "the names are those of the RFC")]
pub mod alert {
    pub const LEVEL_WARNING: u8 = 1;
    pub const LEVEL_FATAL: u8 = 2;

    pub const CLOSE_NOTIFY: u8 = 0;
    pub const USER_CANCELED: u8 = 90;
    pub const NO_RENEGOTIATION: u8 = 100;
}

/// The five bytes before a record's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the body is, as far as it is told in the clear.
    pub content_type: ContentType,
    /// As sent; only the major number is checked, as RFC 8446 §5.1 asks to ignore the field.
    pub version: [u8; 2],
    /// Bytes that follow the header.
    pub len: usize,
}

/// Why bytes are not the beginning of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A type that TLS does not have.
    #[error("unknown record type {0}")]
    UnknownType(u8),
    /// A major version other than 3.
    #[error("record of version {0}.{1}")]
    BadVersion(u8, u8),
    /// More bytes than a record may have.
    #[error("record of {0} bytes announced")]
    TooLong(usize),
}

impl From<RecordError> for CloseReason {
    fn from(_: RecordError) -> Self {
        CloseReason::RecordMalformed
    }
}

impl RecordHeader {
    /// The header at the start of `bytes`; `None` if fewer than [`HEADER_BYTES`] are there.
    ///
    /// # Errors
    /// If a whole header is there and no record can begin with it.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, RecordError> {
        let Some(&[kind, major, minor, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let content_type = ContentType::from_byte(kind).ok_or(RecordError::UnknownType(kind))?;
        if major != VERSION_BYTES[0] {
            return Err(RecordError::BadVersion(major, minor));
        }
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len > RECORD_BYTES_MAX - HEADER_BYTES {
            return Err(RecordError::TooLong(len));
        }
        Ok(Some(Self { content_type, version: [major, minor], len }))
    }
}

/// Length of the whole record at the start of `bytes`, header included; `None` if fewer than
/// [`HEADER_BYTES`] are there. The record itself may still be incomplete.
///
/// # Errors
/// As [`RecordHeader::parse`].
#[inline]
pub fn record_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    Ok(RecordHeader::parse(bytes)?.map(|header| HEADER_BYTES + header.len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_records() {
        let table = [
            (&[][..], Ok(None)),
            (&[23, 3, 3, 0], Ok(None)),
            (&[23, 3, 3, 0, 0], Ok(Some(5))),
            (&[22, 3, 1, 2, 0, 99], Ok(Some(517))),
            (&[23, 3, 3, 0x41, 0x00], Ok(Some(RECORD_BYTES_MAX))),
            (&[23, 3, 3, 0x41, 0x01], Err(RecordError::TooLong(0x4101))),
            (&[24, 3, 3, 0, 1], Err(RecordError::UnknownType(24))),
            (&[19, 3, 3, 0, 1], Err(RecordError::UnknownType(19))),
            (&[23, 2, 0, 0, 1], Err(RecordError::BadVersion(2, 0))),
            (b"GET / HTTP/1.1", Err(RecordError::UnknownType(b'G'))),
        ];
        for (bytes, expected) in table {
            assert_eq!(record_len(bytes), expected, "{bytes:?}");
        }
        assert_eq!(CloseReason::from(RecordError::TooLong(1)), CloseReason::RecordMalformed);
    }
}
