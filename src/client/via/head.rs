//! The head of an HTTP answer, taken from a socket up to its blank line and not a byte further.
//!
//! A proxy may send the first bytes of the server in the same segment as its answer. They are peeked at and left where
//! they are: what is read is only what belongs to the head.
#![forbid(unsafe_code)]

use std::io;

use super::Deadline;
use super::stream::Stream;

/// Longest head that is read. Real ones have some hundred bytes; Negotiate and NTLM bring up to a few thousand.
pub const HEAD_BYTES_MAX: usize = 16_384;

/// What came of reading a head.
#[derive(Debug)]
pub enum Head {
    /// All of it, with its blank line.
    Whole(Vec<u8>),
    /// The peer ended before its blank line; this is what there was.
    Cut(Vec<u8>),
    /// [`HEAD_BYTES_MAX`] without a blank line.
    Endless,
    /// The deadline passed; this is what there was.
    Late(Vec<u8>),
    /// What came first is no HTTP.
    Garbage(Vec<u8>),
}

/// Reads one.
///
/// # Errors
/// As the socket, but for the deadline.
pub fn read(stream: &mut Stream, deadline: &Deadline) -> io::Result<Head> {
    let mut head = Vec::new();
    let mut end = BlankLine::default();
    let mut seen = [0; 1024];
    loop {
        let n = match stream.peek(&mut seen, deadline) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(Head::Late(head)),
            // Who resets behind what he has said has said it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !head.is_empty() => 0,
            Err(error) => return Err(error),
        };
        if n == 0 {
            return Ok(Head::Cut(head));
        }
        let (take, is_whole) = match end.find(&seen[..n]) {
            Some(len) => (len, true),
            None => (n, false),
        };
        let at = head.len();
        head.resize(at + take, 0);
        let got = stream.read_all(&mut head[at..], deadline)?;
        head.truncate(at + got);
        if !begins_like_http(&head) {
            return Ok(Head::Garbage(head));
        }
        if is_whole {
            return Ok(Head::Whole(head));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Ok(Head::Endless);
        }
    }
}

/// Finds the blank line in bytes that come in pieces: a line feed, perhaps a carriage return, a line feed.
#[derive(Default)]
struct BlankLine {
    is_line_empty: bool,
}

impl BlankLine {
    /// How many of `bytes` belong to the head, if it ends in them.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.is_line_empty => return Some(index + 1),
                b'\n' => self.is_line_empty = true,
                b'\r' => {}
                _ => self.is_line_empty = false,
            }
        }
        None
    }
}

fn begins_like_http(head: &[u8]) -> bool {
    let len = head.len().min(HTTP.len());
    head[..len] == HTTP[..len]
}

const HTTP: &[u8] = b"HTTP/1.";

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn pair() -> (UnixStream, Stream) {
        let (peer, ours) = UnixStream::pair().unwrap();
        (peer, OwnedFd::from(ours).into())
    }

    #[test]
    fn not_a_byte_too_many() {
        let (mut peer, mut ours) = pair();
        peer.write_all(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n\x16\x03rest").unwrap();
        let deadline = Deadline::after(Duration::from_secs(5));
        let Head::Whole(head) = read(&mut ours, &deadline).unwrap() else { panic!("not whole") };
        assert_eq!(head, b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n");
        let mut rest = [0; 6];
        ours.read_all(&mut rest, &deadline).unwrap();
        assert_eq!(&rest, b"\x16\x03rest");
    }

    #[test]
    fn heads_in_pieces_end_at_the_same_byte() {
        let whole = b"HTTP/1.0 200 Fine\r\nB: c\n\r\nX";
        for cut in 1..whole.len() {
            let mut end = BlankLine::default();
            let found = end.find(&whole[..cut]).or_else(|| end.find(&whole[cut..]).map(|len| len + cut));
            assert_eq!(found, Some(whole.len() - 1), "cut at {cut}");
        }
        assert_eq!(BlankLine::default().find(b"a\n\nb"), Some(3));
        assert_eq!(BlankLine::default().find(b"a\r\nb\r\n"), None);
    }

    #[test]
    fn each_end_has_its_name() {
        let read_after = |bytes: &[u8], closes: bool, millis| {
            let (mut peer, mut ours) = pair();
            peer.write_all(bytes).unwrap();
            let peer = (!closes).then_some(peer);
            let head = read(&mut ours, &Deadline::after(Duration::from_millis(millis))).unwrap();
            drop(peer);
            head
        };
        assert!(matches!(read_after(b"HTTP/1.1 20", true, 5000), Head::Cut(head) if head.len() == 11));
        assert!(matches!(read_after(b"", true, 5000), Head::Cut(head) if head.is_empty()));
        assert!(matches!(read_after(b"HTTP/1.1 20", false, 50), Head::Late(head) if head.len() == 11));
        assert!(matches!(read_after(b"SSH-2.0-x\r\n", false, 5000), Head::Garbage(_)));
        assert!(matches!(read_after(b"\x05\x00", false, 5000), Head::Garbage(_)));
        let endless = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"A: b\r\n".repeat(3000)].concat();
        assert!(matches!(read_after(&endless, false, 5000), Head::Endless));
    }
}
