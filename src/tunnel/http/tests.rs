//! Real requests, damaged ones, limits, and any split.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<Option<Request>, HttpError> {
    let mut reader = RequestReader::new();
    reader.receive(bytes);
    reader.next_request()
}

fn fails(bytes: &[u8]) -> HttpError {
    read(bytes).unwrap_err()
}

const REAL: &[u8] = b"POST /vpnsvc/connect.cgi HTTP/1.1\r\nConnection: Keep-Alive\r\ncontent-length: 10\r\n\
    Content-Type: image/jpeg\r\nHost: 10.231.0.1\r\n\r\nVPNCONNECTGET / HTTP/1.1\r\nX-VPN: 1\r\n\r\nrest";

#[test]
fn requests_follow_each_other() {
    let mut reader = RequestReader::new();
    reader.receive(REAL);
    let first = reader.next_request().unwrap().unwrap();
    assert_eq!((first.method, &first.target[..], first.keep_alive), (Method::Post, "/vpnsvc/connect.cgi", true));
    assert_eq!(first.content_type.as_deref(), Some(IMAGE_JPEG));
    assert_eq!(&first.body[..], b"VPNCONNECT");
    let second = reader.next_request().unwrap().unwrap();
    assert_eq!((second.method, &second.target[..], second.body.len()), (Method::Get, "/", 0));
    assert!(reader.next_request().unwrap().is_none());
    assert_eq!(reader.into_rest(), b"rest");
}

#[test]
fn methods_versions_and_close() {
    let table: &[(&[u8], Method, bool)] = &[
        (b"HEAD / HTTP/1.1\r\n\r\n", Method::Head, true),
        (b"\r\n\n\r\nGET / HTTP/1.1\r\n\r\n", Method::Get, true),
        (b"GET / HTTP/1.1\n\n", Method::Get, true),
        (b"GET / HTTP/1.0\r\n\r\n", Method::Get, false),
        (b"GET / HTTP/1.1\r\nConnection: foo, Close\r\n\r\n", Method::Get, false),
        (b"BREW / HTTP/1.1\r\n\r\n", Method::Other, true),
    ];
    for (bytes, method, keep_alive) in table {
        let request = read(bytes).unwrap().unwrap();
        assert_eq!((request.method, request.keep_alive), (*method, *keep_alive), "{}", bytes.escape_ascii());
    }
}

#[test]
fn damaged_requests_are_refused() {
    let table: &[(&[u8], HttpError)] = &[
        (b"\x16\x03\x01\x02\n\n", HttpError::Malformed),
        (b"GET /\r\n\r\n", HttpError::Malformed),
        (b"GET / HTTP/2.0\r\n\r\n", HttpError::Version),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", HttpError::Malformed),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", HttpError::Malformed),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", HttpError::Malformed),
        (b"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", HttpError::Malformed),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", HttpError::Malformed),
        (b"POST / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", HttpError::BodyTooLarge),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", HttpError::BodyTooLarge),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", HttpError::TransferCoding),
    ];
    for (bytes, error) in table {
        assert_eq!(fails(bytes), *error, "{}", bytes.escape_ascii());
    }
}

#[test]
fn heads_are_bounded() {
    let long_line = [b"GET /".as_slice(), &[b'a'; LINE_BYTES_MAX]].concat();
    assert_eq!(fails(&long_line), HttpError::HeadTooLarge);
    assert_eq!(fails(&[&long_line[..], b" HTTP/1.1\r\n\r\n"].concat()), HttpError::HeadTooLarge);
    let many = |headers| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(headers)).into_bytes();
    assert!(read(&many(HEADERS_MAX)).unwrap().is_some());
    assert_eq!(fails(&many(HEADERS_MAX + 1)), HttpError::HeadTooLarge);
    let large = format!("GET / HTTP/1.1\r\n{}", format!("a: {}\r\n", "b".repeat(4000)).repeat(5));
    assert_eq!(fails(large.as_bytes()), HttpError::HeadTooLarge);
}

#[test]
fn what_the_client_writes_the_server_reads() {
    let bytes = write_post("10.231.0.1", "/vpnsvc/vpn.cgi", OCTET_STREAM, b"body");
    let request = read(&bytes).unwrap().unwrap();
    assert_eq!((request.method, &request.target[..]), (Method::Post, "/vpnsvc/vpn.cgi"));
    assert_eq!(request.content_type.as_deref(), Some(OCTET_STREAM));
    assert_eq!(&request.body[..], b"body");
}

#[test]
fn a_greeting_of_another_protocol_is_told_at_once() {
    for (bytes, good) in [
        (&b"220 mail.example ESMTP\r\n"[..], false),
        (b"HTTPS", false),
        (b"hTTP/1.1", false),
        (b"HT", true),
        (b"\r\nHTTP/1.1 2", true),
        (b"", true),
    ] {
        let mut reader = ResponseReader::new();
        reader.receive(bytes);
        assert_eq!(reader.next_response().map(|response| response.is_none()).ok(), good.then_some(true), "{bytes:?}");
    }
}

#[test]
fn what_the_server_writes_the_client_reads() {
    let mut bytes = write_response(Status::Ok, OCTET_STREAM, true, "", b"pack");
    assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 4\r\n"));
    bytes.extend_from_slice(b"stream");
    let mut reader = ResponseReader::new();
    reader.receive(&bytes);
    let response = reader.next_response().unwrap().unwrap();
    assert_eq!((response.status, response.content_type.as_deref()), (200, Some(OCTET_STREAM)));
    assert_eq!(&response.body[..], b"pack");
    assert_eq!(reader.into_rest(), b"stream");
}

proptest! {
    #[test]
    fn any_split_reads_the_same(cuts in prop::collection::vec(0usize..40, 1..20)) {
        let mut reader = RequestReader::new();
        let mut rest = REAL;
        let mut seen = Vec::new();
        for cut in cuts.iter().cycle().take(400) {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            reader.receive(now);
            rest = later;
            while let Some(request) = reader.next_request().unwrap() {
                seen.push((request.target, request.body.to_vec()));
            }
        }
        prop_assume!(rest.is_empty());
        prop_assert_eq!(seen, [("/vpnsvc/connect.cgi".to_owned(), b"VPNCONNECT".to_vec()), ("/".to_owned(), vec![])]);
        prop_assert_eq!(reader.into_rest(), b"rest");
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let _ = read(&[b"GET / HTTP/1.1\r\n", &bytes[..], b"\r\n\r\n"].concat());
        let mut reader = ResponseReader::new();
        reader.receive(&[b"HTTP/1.1 ", &bytes[..], b"\r\n\r\n"].concat());
        let _ = reader.next_response();
    }
}
