//! What requests and responses share: finding the end of a head, headers that matter, bodies.
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

use super::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HttpError, LINE_BYTES_MAX};

/// Bytes received and not yet used. Wiped when dropped: bodies carry passwords.
#[derive(Default)]
pub(super) struct Input {
    bytes: Zeroizing<Vec<u8>>,
    /// Everything before was searched for the end of the head.
    scanned: usize,
    /// Start of the line at `scanned`.
    line_start: usize,
}

impl Input {
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            // Grown by hand, so that the old storage is wiped as well.
            let mut grown = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            grown.extend_from_slice(&self.bytes);
            self.bytes = grown;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Length of the head with the empty line that ends it. Each byte is looked at once, however
    /// the head is cut.
    pub(super) fn head_bytes(&mut self) -> Result<Option<usize>, HttpError> {
        if self.line_start == 0 {
            // Empty lines before a message are to be ignored (RFC 9112 §2.2).
            let blank = self.bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if blank > 0 {
                self.take(blank);
            }
        }
        while let Some(at) = self.bytes[self.scanned..].iter().position(|byte| *byte == b'\n') {
            let line_end = self.scanned + at;
            let line = &self.bytes[self.line_start..line_end];
            if line.len() > LINE_BYTES_MAX {
                return Err(HttpError::HeadTooLarge);
            }
            let is_empty = matches!(line, [] | [b'\r']);
            self.scanned = line_end + 1;
            self.line_start = line_end + 1;
            if self.scanned > HEAD_BYTES_MAX {
                return Err(HttpError::HeadTooLarge);
            }
            if is_empty {
                return Ok(Some(self.scanned));
            }
        }
        self.scanned = self.bytes.len();
        if self.scanned - self.line_start > LINE_BYTES_MAX || self.scanned > HEAD_BYTES_MAX {
            return Err(HttpError::HeadTooLarge);
        }
        Ok(None)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the first `count` bytes away. The next head is searched from the start.
    pub(super) fn take(&mut self, count: usize) -> Zeroizing<Vec<u8>> {
        let taken = Zeroizing::new(self.bytes[..count].to_vec());
        self.bytes.drain(..count);
        (self.scanned, self.line_start) = (0, 0);
        taken
    }

    pub(super) fn into_rest(self) -> Vec<u8> {
        self.bytes.to_vec()
    }
}

/// The headers that matter here.
pub(super) struct Headers {
    pub(super) body_bytes: usize,
    pub(super) content_type: Option<String>,
    pub(super) close: bool,
}

impl Headers {
    pub(super) fn read(headers: &[httparse::Header<'_>]) -> Result<Self, HttpError> {
        let mut found = Self { body_bytes: 0, content_type: None, close: false };
        let mut has_length = false;
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let value = header.value.trim_ascii();
            if is("Transfer-Encoding") {
                return Err(HttpError::TransferCoding);
            } else if is("Content-Length") {
                if has_length {
                    return Err(HttpError::Malformed);
                }
                has_length = true;
                found.body_bytes = content_length(value)?;
            } else if is("Content-Type") {
                found.content_type = std::str::from_utf8(value).ok().map(str::to_owned);
            } else if is("Connection") {
                found.close =
                    value.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
        }
        Ok(found)
    }
}

fn content_length(value: &[u8]) -> Result<usize, HttpError> {
    // Digits only: `usize::from_str` would take a sign, too.
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HttpError::Malformed);
    }
    match std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()) {
        Some(bytes) if bytes <= BODY_BYTES_MAX => Ok(bytes),
        _ => Err(HttpError::BodyTooLarge),
    }
}

pub(super) fn parse_error(error: httparse::Error) -> HttpError {
    match error {
        httparse::Error::TooManyHeaders => HttpError::HeadTooLarge,
        httparse::Error::Version => HttpError::Version,
        _ => HttpError::Malformed,
    }
}
