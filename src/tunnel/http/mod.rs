//! As much HTTP/1.1 as the login needs (protocol note §1.2): a few small requests on one
//! connection, bodies by Content-Length only, everything bounded.
//!
//! [`RequestReader`] is the server's side, [`ResponseReader`] the client's. Bytes go in as they
//! come; a message comes out once it is complete; what stands behind the last message is kept, for
//! after the login the same bytes are the data stream.
#![forbid(unsafe_code)]

mod head;
mod request;
mod response;

use thiserror::Error;

pub use request::{Method, Request, RequestReader, write_post};
pub use response::{Response, ResponseReader, Status, write_head, write_response};

/// Longest line of a head, as in the stock implementation.
pub const LINE_BYTES_MAX: usize = 4096;

/// Longest head. Real ones have 200 to 600 bytes.
pub const HEAD_BYTES_MAX: usize = 16_384;

/// Header lines of a head.
pub const HEADERS_MAX: usize = 64;

/// Longest body, as in the stock implementation for strangers.
pub const BODY_BYTES_MAX: usize = 65_536;

/// Content type of a PACK.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// Content type under which stock clients post their signature.
pub const IMAGE_JPEG: &str = "image/jpeg";

/// Why bytes are not a message we read. The connection cannot be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HttpError {
    /// Not HTTP, or a Content-Length that is no number or stands there twice.
    #[error("not a valid HTTP message")]
    Malformed,
    /// A line, the head or the number of headers beyond the limit.
    #[error("HTTP head too large")]
    HeadTooLarge,
    /// Body beyond the limit.
    #[error("HTTP body too large")]
    BodyTooLarge,
    /// Version other than 1.0 and 1.1.
    #[error("HTTP version not supported")]
    Version,
    /// Transfer-Encoding, which no VPN peer uses.
    #[error("HTTP transfer coding not supported")]
    TransferCoding,
}

impl HttpError {
    /// What a server answers before it closes.
    pub const fn status(self) -> Status {
        match self {
            Self::Malformed => Status::BadRequest,
            Self::HeadTooLarge => Status::HeadersTooLarge,
            Self::BodyTooLarge => Status::ContentTooLarge,
            Self::Version => Status::VersionNotSupported,
            Self::TransferCoding => Status::NotImplemented,
        }
    }
}

#[cfg(test)]
mod tests;
