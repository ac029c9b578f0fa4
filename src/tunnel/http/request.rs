//! Requests: read by the server, written by the client.
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

use super::head::{Headers, Input, parse_error};
use super::{HEADERS_MAX, HttpError};

/// Methods we tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// Any other.
    Other,
}

/// A complete request.
#[derive(Debug)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its target as it stands in the request line.
    pub target: String,
    /// The client keeps the connection open (HTTP/1.1 and no `Connection: close`).
    pub keep_alive: bool,
    /// Its content type.
    pub content_type: Option<String>,
    /// Its body; wiped when dropped.
    pub body: Zeroizing<Vec<u8>>,
}

/// Reads the requests of one connection.
#[derive(Default)]
pub struct RequestReader {
    input: Input,
    /// The head whose body is awaited, with the length of that.
    head: Option<(Request, usize)>,
}

impl RequestReader {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes received. Nothing bounds them here but the calls of [`Self::next_request`] in
    /// between: give what one read of the socket gave.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.receive(bytes);
    }

    /// The next request, once it is complete.
    ///
    /// # Errors
    /// If the bytes are no request or exceed a limit; nothing can be read after that.
    pub fn next_request(&mut self) -> Result<Option<Request>, HttpError> {
        if self.head.is_none() {
            let Some(head_bytes) = self.input.head_bytes()? else { return Ok(None) };
            let head = parse(&self.input.bytes()[..head_bytes])?;
            self.input.take(head_bytes);
            self.head = Some(head);
        }
        let received = self.input.bytes().len();
        let Some((mut request, body_bytes)) = self.head.take_if(|(_, body_bytes)| received >= *body_bytes) else {
            return Ok(None);
        };
        request.body = self.input.take(body_bytes);
        Ok(Some(request))
    }

    /// What was received behind the last request.
    pub fn into_rest(self) -> Vec<u8> {
        self.input.into_rest()
    }
}

/// The request without its body, and the length of that.
fn parse(head: &[u8]) -> Result<(Request, usize), HttpError> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut slots);
    if parsed.parse(head).map_err(parse_error)?.is_partial() {
        return Err(HttpError::Malformed);
    }
    let headers = Headers::read(parsed.headers)?;
    let method = match parsed.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("POST") => Method::Post,
        _ => Method::Other,
    };
    let request = Request {
        method,
        target: parsed.path.unwrap_or_default().to_owned(),
        keep_alive: parsed.version == Some(1) && !headers.close,
        content_type: headers.content_type,
        body: Zeroizing::default(),
    };
    Ok((request, headers.body_bytes))
}

/// A POST as stock clients write it (§1.2). `host` is the server's address as text; it must not
/// hold control characters.
pub fn write_post(host: &str, target: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    debug_assert!(!host.contains(char::is_control), "a host with control characters");
    let mut bytes = format!(
        "POST {target} HTTP/1.1\r\n\
         Connection: Keep-Alive\r\n\
         Content-Length: {}\r\n\
         Content-Type: {content_type}\r\n\
         Host: {host}\r\n\
         Keep-Alive: timeout=15; max=19\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
