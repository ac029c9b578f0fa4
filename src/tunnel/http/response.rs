//! Responses: written by the server, read by the client.
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

use super::head::{Headers, Input, parse_error};
use super::{HEADERS_MAX, HttpError};

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The answer stands in the body, be it a PACK that refuses.
    Ok,
    /// Not HTTP.
    BadRequest,
    /// Not a VPN signature.
    Forbidden,
    /// No such path.
    NotFound,
    /// The path is known, the method does not fit it.
    MethodNotAllowed,
    /// Body beyond the limit.
    ContentTooLarge,
    /// Head beyond a limit.
    HeadersTooLarge,
    /// Method or transfer coding that we do not know.
    NotImplemented,
    /// HTTP version that we do not know.
    VersionNotSupported,
}

impl Status {
    /// Its number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::ContentTooLarge => 413,
            Self::HeadersTooLarge => 431,
            Self::NotImplemented => 501,
            Self::VersionNotSupported => 505,
        }
    }

    /// The phrase behind the number.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::BadRequest => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::ContentTooLarge => "Content Too Large",
            Self::HeadersTooLarge => "Request Header Fields Too Large",
            Self::NotImplemented => "Not Implemented",
            Self::VersionNotSupported => "HTTP Version Not Supported",
        }
    }
}

/// A response as stock servers write it (§1.2), without `Date`: nobody reads it, and this layer has
/// no clock. `extra` are whole header lines with their ends, or nothing.
pub fn write_response(status: Status, content_type: &str, keep_alive: bool, extra: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = write_head(status, content_type, keep_alive, extra, body.len());
    bytes.extend_from_slice(body);
    bytes
}

/// The head of [`write_response`] alone, as an answer to HEAD.
pub fn write_head(status: Status, content_type: &str, keep_alive: bool, extra: &str, body_bytes: usize) -> Vec<u8> {
    let (connection, keep) =
        if keep_alive { ("Keep-Alive", "Keep-Alive: timeout=15; max=19\r\n") } else { ("close", "") };
    format!(
        "HTTP/1.1 {} {}\r\n\
         Connection: {connection}\r\n\
         Content-Length: {body_bytes}\r\n\
         Content-Type: {content_type}\r\n\
         {keep}{extra}\r\n",
        status.number(),
        status.reason(),
    )
    .into_bytes()
}

/// A complete response.
#[derive(Debug)]
pub struct Response {
    /// Status number.
    pub status: u16,
    /// Its content type.
    pub content_type: Option<String>,
    /// Its body; wiped when dropped, for a welcome carries the session key.
    pub body: Zeroizing<Vec<u8>>,
}

/// Reads the responses of one connection.
#[derive(Default)]
pub struct ResponseReader {
    input: Input,
    /// The head whose body is awaited, with the length of that.
    head: Option<(Response, usize)>,
}

impl ResponseReader {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes received, as in [`super::RequestReader::receive`].
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.receive(bytes);
    }

    /// The next response, once it is complete. A response without Content-Length has no body here.
    ///
    /// # Errors
    /// If the bytes are no response or exceed a limit; nothing can be read after that.
    pub fn next_response(&mut self) -> Result<Option<Response>, HttpError> {
        if self.head.is_none() {
            let Some(head_bytes) = self.input.head_bytes()? else {
                // What begins otherwise never becomes a response, however long one waits for more.
                let begins_well = self.input.bytes().iter().zip(START).all(|(byte, wanted)| byte == wanted);
                return if begins_well { Ok(None) } else { Err(HttpError::Malformed) };
            };
            let head = parse(&self.input.bytes()[..head_bytes])?;
            self.input.take(head_bytes);
            self.head = Some(head);
        }
        let received = self.input.bytes().len();
        let Some((mut response, body_bytes)) = self.head.take_if(|(_, body_bytes)| received >= *body_bytes) else {
            return Ok(None);
        };
        response.body = self.input.take(body_bytes);
        Ok(Some(response))
    }

    /// What was received behind the last response.
    pub fn into_rest(self) -> Vec<u8> {
        self.input.into_rest()
    }
}

/// Every response begins so (RFC 9112 §4).
const START: &[u8] = b"HTTP/";

/// The response without its body, and the length of that.
fn parse(head: &[u8]) -> Result<(Response, usize), HttpError> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut slots);
    if parsed.parse(head).map_err(parse_error)?.is_partial() {
        return Err(HttpError::Malformed);
    }
    let headers = Headers::read(parsed.headers)?;
    let status = parsed.code.ok_or(HttpError::Malformed)?;
    let response = Response { status, content_type: headers.content_type, body: Zeroizing::default() };
    Ok((response, headers.body_bytes))
}
