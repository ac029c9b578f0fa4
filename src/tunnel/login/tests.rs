//! Both machines: against each other, against every short sequence of messages, byte by byte.
#![forbid(unsafe_code)]

use std::sync::Arc;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::client::{Account, Certificate, ClientLogin, ClientNext, LoginError, Secret};
use super::server::{Credentials, LoginRequest, Next, ServerLogin, Welcome};
use super::*;
use crate::tunnel::error_code::ErrorCode;
use crate::tunnel::http::{OCTET_STREAM, ResponseReader, Status, write_post, write_response};
use crate::tunnel::pack::{Pack, PackLimits};
use crate::tunnel::sha0::{answer_fits, hashed_password};

const CHALLENGE: [u8; 20] = *b"twenty random bytes!";
const KEY: [u8; 20] = *b"the key of a session";
const MARKER: &str = "9C37197CA7C2428388C2E6E59B829B30";

fn server() -> ServerLogin {
    ServerLogin::new(Hello { product: "Test VPN".into(), version: 501, build: 9674 }, CHALLENGE)
}

fn client_info() -> ClientInfo {
    ClientInfo {
        product: "Test VPN Client".into(),
        version: 444,
        build: 9807,
        os_name: "Linux".into(),
        os_version: "6.1".into(),
        hostname: "host".into(),
        unique_id: [3; 20],
        installation_id: [4; 16],
        local_ip: Some([10, 0, 0, 7].into()),
        local_port: 45000,
    }
}

fn client(secret: Secret, wants: Wants) -> ClientLogin {
    let account = Account { hub: "LAN".into(), user: "Alice".into(), secret, client: client_info() };
    ClientLogin::new("10.231.0.1", account, wants)
}

fn password(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

fn a_welcome() -> Welcome {
    Welcome {
        session_name: "SID-ALICE-1".into(),
        connection_name: "CID-7".into(),
        session_key: KEY,
        max_connection: 4,
        compress: true,
        supers: true,
        half_duplex: false,
        qos: true,
        timeout_ms: 20_000,
        vlan_id: 3,
        policy: vec![("Access", 1), ("MaxConnection", 8)],
        message: Some("Grüße".into()),
    }
}

/// Runs both until the server has something to decide.
fn until_decision(client: &mut ClientLogin, server: &mut ServerLogin) -> Next {
    server.receive(&client.start());
    loop {
        match server.next() {
            Next::Write(bytes) => client.receive(&bytes),
            Next::NeedBytes => match client.next() {
                ClientNext::Write(bytes) => server.receive(&bytes),
                other => panic!("client: {other:?}"),
            },
            decision => return decision,
        }
    }
}

fn login_of(decision: Next) -> LoginRequest {
    match decision {
        Next::Login(login) => *login,
        other => panic!("no login but {other:?}"),
    }
}

#[test]
fn a_login_meets_its_welcome() {
    let wants = Wants { max_connection: 8, compress: true, qos: true, ..Wants::default() };
    let (mut client, mut server) = (client(Secret::Password(password("secret")), wants), server());
    let login = login_of(until_decision(&mut client, &mut server));
    assert_eq!((&login.hub[..], &login.user[..], login.challenge), ("LAN", "Alice", CHALLENGE));
    assert_eq!((&login.client, login.wants), (&client_info(), wants));
    let Credentials::HashedPassword(answer) = login.credentials else { panic!("{:?}", login.credentials) };
    assert!(answer_fits(&hashed_password("secret", "alice"), &login.challenge, &answer));
    assert!(!answer_fits(&hashed_password("Secret", "alice"), &login.challenge, &answer));

    assert!(matches!(server.next(), Next::NeedBytes));
    client.receive(&server.accept(&a_welcome()));
    client.receive(b"stream to the client");
    server.receive(b"stream to the server");
    let ClientNext::Welcome(seen) = client.next() else { panic!("no welcome") };
    assert_eq!((&seen.session_name[..], &seen.connection_name[..]), ("SID-ALICE-1", "CID-7"));
    assert_eq!((*seen.session_key, seen.max_connection, seen.timeout_ms, seen.vlan_id), (KEY, 4, 20_000, 3));
    assert_eq!((seen.compress, seen.half_duplex, seen.qos), (true, false, true));
    assert_eq!(seen.message.as_deref(), Some("Grüße"));
    assert_eq!(seen.policy, [("Access".into(), 1), ("MaxConnection".into(), 8), ("Ver3".to_owned(), 1)]);
    assert_eq!(seen.hello, Hello { product: "Test VPN".into(), version: 501, build: 9674 });
    assert_eq!(client.into_leftover(), b"stream to the client");
    assert_eq!(server.into_leftover(), b"stream to the server");
}

#[test]
fn a_connection_for_what_is_urgent_raises_the_number_only_for_who_has_asked() {
    // Asked for: qos, connections, each way its own; granted the same; what the client makes of it.
    let table = [
        ((true, 1, false), (true, 2, false), (true, 2)),
        ((true, 1, false), (true, 32, false), (true, 2)),
        ((true, 2, false), (false, 2, false), (false, 2)),
        ((false, 1, false), (true, 2, false), (false, 1)),
        ((true, 1, true), (true, 4, true), (true, 4)),
        ((false, 1, true), (true, 4, true), (false, 2)),
    ];
    for ((qos, max_connection, half_duplex), granted, expected) in table {
        let wants = Wants { max_connection, half_duplex, qos, ..Wants::default() };
        let (mut client, mut server) = (client(Secret::Password(password("secret")), wants), server());
        login_of(until_decision(&mut client, &mut server));
        let (qos, max_connection, half_duplex) = granted;
        client.receive(&server.accept(&Welcome { max_connection, half_duplex, qos, ..a_welcome() }));
        let ClientNext::Welcome(seen) = client.next() else { panic!("no welcome") };
        assert_eq!((seen.qos, seen.max_connection), expected, "{wants:?}, {granted:?}");
    }
}

#[test]
fn every_kind_of_proof_arrives() {
    let hashed = hashed_password("secret", "Alice");
    let secrets = [
        Secret::Anonymous,
        Secret::HashedPassword(hashed.clone()),
        Secret::PlainPassword(password(" with blanks ")),
        Secret::Certificate(Certificate { der: b"with blanks".to_vec(), sign: Arc::new(|text| [text, b"!"].concat()) }),
        Secret::Ticket(Zeroizing::new([9; 20])),
    ];
    for secret in secrets {
        let login = login_of(until_decision(&mut client(secret.clone(), Wants::default()), &mut server()));
        match (&secret, &login.credentials) {
            (Secret::Anonymous, Credentials::Anonymous) => {}
            (Secret::HashedPassword(_), Credentials::HashedPassword(answer)) => {
                assert!(answer_fits(&hashed, &CHALLENGE, answer));
            }
            (Secret::PlainPassword(sent), Credentials::PlainPassword(seen)) => assert_eq!(sent, seen),
            (Secret::Certificate(sent), Credentials::Certificate { cert, signature }) => {
                assert_eq!((&sent.der, &signature[..20], signature[20]), (cert, &CHALLENGE[..], b'!'));
            }
            (Secret::Ticket(sent), Credentials::Ticket(seen)) => assert_eq!(**sent, *seen),
            other => panic!("{other:?}"),
        }
        assert!(!format!("{login:?} {secret:?}").contains("blanks"));
    }
}

#[test]
fn a_refusal_arrives() {
    let (mut client, mut server) = (client(Secret::Anonymous, Wants::default()), server());
    until_decision(&mut client, &mut server);
    client.receive(&server.refuse(ErrorCode::AuthFailed));
    let ClientNext::Refused(refusal) = client.next() else { panic!("no refusal") };
    assert_eq!((refusal.number, refusal.code()), (9, Some(ErrorCode::AuthFailed)));
    assert!(matches!(server.next(), Next::WriteAndClose(bytes) if bytes.is_empty()));
}

#[test]
fn an_additional_connection_joins_or_is_refused() {
    for direction in [Direction::Both, Direction::ToClient, Direction::ToServer] {
        let mut client = ClientLogin::additional("10.231.0.1", &KEY, client_info());
        let mut server = server();
        let Next::Additional(additional) = until_decision(&mut client, &mut server) else { panic!("no additional") };
        assert_eq!((additional.session_key, &additional.product[..]), (KEY, "Test VPN Client"));
        client.receive(&server.accept_additional(direction));
        assert!(matches!(client.next(), ClientNext::Additional(seen) if seen == direction));
    }
    let (mut client, mut server) = (ClientLogin::additional("10.231.0.1", &KEY, client_info()), server());
    until_decision(&mut client, &mut server);
    client.receive(&server.refuse(ErrorCode::SessionTimeout));
    assert!(matches!(client.next(), ClientNext::Refused(refusal) if refusal.number == 13));
}

/// What the server makes of bytes, as text; decisions are answered by a refusal.
fn run(server: &mut ServerLogin, log: &mut Vec<String>) {
    for _ in 0..100 {
        match server.next() {
            Next::NeedBytes => return,
            Next::Write(bytes) => log.push(format!("write {}", bytes.escape_ascii())),
            Next::WriteAndClose(bytes) => {
                log.push(format!("close {}", bytes.escape_ascii()));
                return;
            }
            Next::Login(login) => log.push(format!("login {login:?} {:?}", secret_of(&login.credentials))),
            Next::Additional(additional) => log.push(format!("additional {:?}", additional.session_key)),
            Next::EnumHubs => log.push("enum hubs".into()),
        }
    }
    panic!("the machine does not come to rest");
}

fn secret_of(credentials: &Credentials) -> Vec<u8> {
    match credentials {
        Credentials::HashedPassword(answer) => answer.to_vec(),
        Credentials::PlainPassword(password) => password.as_bytes().to_vec(),
        _ => Vec::new(),
    }
}

fn post(build: impl FnOnce(&mut PackWriter)) -> Vec<u8> {
    let mut pack = PackWriter::new();
    build(&mut pack);
    write_post("h", VPN_PATH, OCTET_STREAM, &pack.finish())
}

/// Ends a chain of writes where a closure has to return nothing.
fn put(_: &mut PackWriter) {}

fn login_pack(pack: &mut PackWriter) {
    pack.str("method", "login").str("hubname", "LAN").str("username", "bob").int("authtype", 0);
}

fn signature() -> Vec<u8> {
    write_post("h", CONNECT_PATH, "image/jpeg", SIGNATURE)
}

/// Messages of the exhaustive test; the first two are what a login needs.
fn alphabet() -> Vec<Vec<u8>> {
    vec![
        signature(),
        post(login_pack),
        b"GET / HTTP/1.1\r\nX-VPN: 1\r\n\r\n".to_vec(),
        b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        b"BREW /pot HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /vpnsvc/vpn.cgi HTTP/1.1\r\n\r\n".to_vec(),
        write_post("h", CONNECT_PATH, "image/jpeg", b"too short"),
        write_post("h", VPN_PATH, OCTET_STREAM, b"\0\0\0\x01no pack"),
        post(|pack| {
            pack.int("noop", 1).int("error", 0);
        }),
        post(|pack| {
            pack.str("method", "additional_connect").data("session_key", &KEY);
        }),
        post(|pack| {
            pack.str("method", "enum_hub");
        }),
        post(|pack| {
            pack.str("method", "admin");
        }),
        post(|pack| {
            pack.str("method", "login").str("hubname", "LAN");
        }),
        b"\x16\x03\x01\x02\x00\r\n\r\n".to_vec(),
        b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\nContent-Length: 70000\r\n\r\n".to_vec(),
    ]
}

/// Sends every letter after `sequence`, and goes on from there while the connection stays open.
/// Returns how many sequences reached a login.
fn explore(alphabet: &[Vec<u8>], sequence: &mut Vec<usize>, length_max: usize) -> usize {
    let mut logins = 0;
    for letter in 0..alphabet.len() {
        sequence.push(letter);
        let mut server = server();
        let mut last = Next::NeedBytes;
        for letter in sequence.iter() {
            server.receive(&alphabet[*letter]);
            last = server.next();
        }
        let signed = sequence[..sequence.len() - 1].contains(&0);
        match last {
            Next::Login(login) => {
                assert!(signed && letter == 1, "{sequence:?}");
                assert_eq!((&login.hub[..], &login.user[..]), ("LAN", "bob"));
                logins += 1;
            }
            Next::Additional(_) => assert!(signed && letter == 9, "{sequence:?}"),
            Next::EnumHubs => assert!(signed && letter == 10, "{sequence:?}"),
            Next::WriteAndClose(_) => {}
            Next::Write(bytes) => {
                assert!(!bytes.is_empty());
                if sequence.len() < length_max {
                    logins += explore(alphabet, sequence, length_max);
                }
            }
            Next::NeedBytes => panic!("a whole message was not answered: {sequence:?}"),
        }
        sequence.pop();
    }
    logins
}

#[test]
fn no_short_sequence_reaches_a_login_without_signature_and_login() {
    assert!(explore(&alphabet(), &mut Vec::new(), 6) > 0);
}

/// After a verdict or a closing answer, whatever comes is left alone.
#[test]
fn nothing_is_answered_after_the_end() {
    for letter in alphabet() {
        let mut server = server();
        server.receive(&[signature(), post(login_pack), letter.clone()].concat());
        assert!(matches!(server.next(), Next::Write(_)));
        login_of(server.next());
        assert!(matches!(server.next(), Next::NeedBytes));
        server.refuse(ErrorCode::HubBusy);
        server.receive(&letter);
        assert!(matches!(server.next(), Next::WriteAndClose(bytes) if bytes.is_empty()));
    }
}

#[test]
fn byte_by_byte_is_the_same_as_whole() {
    let alphabet = alphabet();
    for last in 0..alphabet.len() {
        let bytes = [&alphabet[2][..], &alphabet[0], &alphabet[8], &alphabet[last]].concat();
        let (mut whole, mut bytewise) = (Vec::new(), Vec::new());
        let mut server_whole = server();
        server_whole.receive(&bytes);
        run(&mut server_whole, &mut whole);
        let mut server_bytewise = server();
        for byte in &bytes {
            server_bytewise.receive(&[*byte]);
            run(&mut server_bytewise, &mut bytewise);
            if bytewise.last().is_some_and(|line| line.starts_with("close")) {
                break;
            }
        }
        assert_eq!(whole, bytewise);
    }
}

fn response_to(request: &[u8]) -> (u16, Vec<u8>, bool) {
    let mut server = server();
    server.receive(request);
    let (bytes, closes) = match server.next() {
        Next::Write(bytes) => (bytes, false),
        Next::WriteAndClose(bytes) => (bytes, true),
        other => panic!("{other:?}"),
    };
    let mut reader = ResponseReader::new();
    reader.receive(&bytes);
    let response = reader.next_response().unwrap().unwrap();
    (response.status, response.body.to_vec(), closes)
}

#[test]
fn the_root_page_has_the_marker_early() {
    let (status, body, closes) = response_to(b"GET / HTTP/1.1\r\nX-VPN: 1\r\n\r\n");
    assert_eq!((status, closes), (200, false));
    let text = String::from_utf8(body).unwrap();
    assert!(text[..1023.min(text.len())].contains(MARKER));
}

#[test]
fn a_head_has_no_body() {
    let mut server = server();
    server.receive(b"HEAD / HTTP/1.1\r\n\r\n");
    let Next::Write(bytes) = server.next() else { panic!("no answer") };
    assert!(bytes.ends_with(b"\r\n\r\n"));
}

#[test]
fn http_refusals() {
    let table: &[(&[u8], u16, bool)] = &[
        (b"GET /favicon.ico HTTP/1.1\r\n\r\n", 404, false),
        (b"GET /vpnsvc/connect.cgi HTTP/1.1\r\n\r\n", 405, false),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405, false),
        (b"OPTIONS / HTTP/1.1\r\n\r\n", 501, false),
        (b"POST /vpnsvc/connect.cgi HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789", 403, false),
        (b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413, true),
        (b"\x16\x03\x01\r\n\r\n", 400, true),
        (b"GET / HTTP/1.0\r\n\r\n", 200, true),
    ];
    for (request, status, closes) in table {
        let (seen_status, _, seen_closes) = response_to(request);
        assert_eq!((seen_status, seen_closes), (*status, *closes), "{}", request.escape_ascii());
    }
}

#[test]
fn signatures_of_10_to_4096_bytes() {
    for (bytes, status) in [(9, 403), (10, 200), (1411 + 1999, 200), (4096, 200), (4097, 403)] {
        let (seen, body, _) = response_to(&write_post("h", CONNECT_PATH, "image/jpeg", &vec![b'G'; bytes]));
        assert_eq!(seen, status, "{bytes}");
        if status == 200 {
            let pack = Pack::parse(&body, &PackLimits::LOGIN).unwrap();
            assert_eq!(pack.data_array("random"), Some(CHALLENGE));
            assert_eq!(
                (pack.str("hello"), pack.int("version"), pack.int("build")),
                (Some("Test VPN"), Some(501), Some(9674))
            );
            assert!(pack.data("pencore").unwrap().len() <= 999);
        }
    }
}

/// The code a connection is refused with after its signature.
fn refused_with(build: impl FnOnce(&mut PackWriter)) -> Option<u32> {
    let mut server = server();
    server.receive(&signature());
    assert!(matches!(server.next(), Next::Write(_)));
    server.receive(&post(build));
    let Next::WriteAndClose(bytes) = server.next() else { return None };
    let mut reader = ResponseReader::new();
    reader.receive(&bytes);
    let response = reader.next_response().unwrap().unwrap();
    let pack = Pack::parse(&response.body, &PackLimits::LOGIN).unwrap();
    assert_eq!((response.status, pack.int("no_save_password")), (200, Some(0)));
    pack.int("error")
}

#[test]
fn refusals_by_code() {
    let login = |hub: &str, user: &str| {
        let (hub, user) = (hub.to_owned(), user.to_owned());
        refused_with(move |pack| {
            pack.str("method", "login").str("hubname", &hub).str("username", &user).int("authtype", 0);
        })
    };
    assert_eq!(login("LAN", "a.b-c_d@e (f) #%&"), None);
    assert_eq!(login("LAN", "*"), Some(9));
    assert_eq!(login("LAN", ""), Some(9));
    assert_eq!(login("LAN", "bob\n"), Some(9));
    assert_eq!(login("LAN", "bób"), Some(9));
    assert_eq!(login("LAN", &"x".repeat(256)), Some(9));
    assert_eq!(login("", "bob"), Some(8));
    assert_eq!(login("L\tN", "bob"), Some(8));
    assert_eq!(login(&"x".repeat(256), "bob"), Some(8));
    let method = |method: &'static str| refused_with(move |pack| put(pack.str("method", method)));
    assert_eq!(method("admin"), Some(33));
    assert_eq!(method("password"), Some(33));
    assert_eq!(method("farm_connect"), Some(46));
    assert_eq!(method("additional_connect"), Some(4));
    assert_eq!(method("nonsense"), Some(4));
    assert_eq!(refused_with(|_| ()), Some(4));
    let secret = |authtype: u32, name: &'static str, bytes: &'static [u8]| {
        refused_with(move |pack| {
            pack.str("method", "login").str("hubname", "LAN").str("username", "bob").int("authtype", authtype);
            pack.data(name, bytes);
        })
    };
    assert_eq!(secret(1, "secure_password", &[0; 19]), Some(4));
    assert_eq!(secret(1, "secure_password", &[0; 20]), None);
    assert_eq!(secret(2, "plain_password", b"data, not a string"), Some(4));
    assert_eq!(secret(99, "ticket", &[0; 21]), Some(4));
    assert_eq!(secret(77, "x", b""), None);
}

#[test]
fn a_login_before_the_signature_is_error_4() {
    let (status, body, closes) = response_to(&post(login_pack));
    assert_eq!((status, closes), (200, true));
    assert_eq!(Pack::parse(&body, &PackLimits::LOGIN).unwrap().int("error"), Some(4));
}

#[test]
fn a_cascade_is_a_bridge_and_wishes_are_clamped() {
    let with = |product: &'static str, connections: u32| {
        let mut server = server();
        server.receive(&signature());
        server.next();
        server.receive(&post(|pack| {
            login_pack(pack);
            pack.str("client_str", product).int("max_connection", connections).int("use_encrypt", 1);
        }));
        login_of(server.next()).wants
    };
    assert!(with("SoftEther VPN Server (Cascade Mode)", 1).bridge_mode);
    assert!(with("A Bridge", 1).bridge_mode);
    assert!(!with("SoftEther VPN Client", 1).bridge_mode);
    for (asked, taken) in [(0, 1), (1, 1), (32, 32), (33, 32), (u32::MAX, 32)] {
        assert_eq!(with("x", asked).max_connection, taken);
    }
}

#[test]
fn texts_for_logs_are_made_harmless() {
    let mut server = server();
    server.receive(&signature());
    server.next();
    server.receive(&post(|pack| {
        login_pack(pack);
        pack.str("ClientHostname", "a\nb\u{1b}[0m").str("client_str", &"é".repeat(5000));
    }));
    let client = login_of(server.next()).client;
    assert_eq!(client.hostname, "a?b?[0m");
    assert_eq!(client.product.chars().count(), 128);
}

#[test]
fn noops_are_answered_thirty_times() {
    let noop = post(|pack| put(pack.int("noop", 1).int("error", 0)));
    let mut server = server();
    server.receive(&signature());
    server.next();
    for _ in 0..30 {
        server.receive(&noop);
        assert!(matches!(server.next(), Next::Write(_)));
    }
    server.receive(&noop);
    assert!(matches!(server.next(), Next::WriteAndClose(_)));
}

#[test]
fn the_19th_request_is_the_last() {
    let mut server = server();
    for request in 1..=19 {
        server.receive(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(matches!(server.next(), Next::WriteAndClose(_)), request == 19);
    }
}

#[test]
fn the_list_of_hubs() {
    let mut server = server();
    server.receive(&[signature(), post(|pack| put(pack.str("method", "enum_hub")))].concat());
    server.next();
    assert!(matches!(server.next(), Next::EnumHubs));
    let mut reader = ResponseReader::new();
    reader.receive(&server.hubs(&["LAN", "PUBLIC"]));
    let response = reader.next_response().unwrap().unwrap();
    let pack = Pack::parse(&response.body, &PackLimits::LOGIN).unwrap();
    assert_eq!((pack.str_at("HubName", 0), pack.str_at("HubName", 1)), (Some("LAN"), Some("PUBLIC")));
    assert_eq!(pack.int("NumHub"), Some(2));
}

/// What the client makes of `answer` to its login.
fn client_after(build: impl FnOnce(&mut PackWriter)) -> ClientNext {
    let mut client = client(Secret::Anonymous, Wants { max_connection: 4, ..Wants::default() });
    let mut server = server();
    until_decision(&mut client, &mut server);
    let mut pack = PackWriter::new();
    build(&mut pack);
    client.receive(&write_response(Status::Ok, OCTET_STREAM, true, "", &pack.finish()));
    client.next()
}

fn minimal_welcome(pack: &mut PackWriter, encrypt: u32, connections: u32, timeout: u32) {
    pack.str("session_name", "S").str("connection_name", "C").data("session_key", &KEY);
    pack.int("use_encrypt", encrypt).int("max_connection", connections).int("timeout", timeout);
}

#[test]
fn the_client_checks_a_welcome() {
    for (granted, used) in [(0, 1), (1, 1), (4, 4), (32, 4), (u32::MAX, 4)] {
        let ClientNext::Welcome(seen) = client_after(|pack| minimal_welcome(pack, 1, granted, 20_000)) else {
            panic!("no welcome")
        };
        assert_eq!(seen.max_connection, used);
    }
    let failed = |next| match next {
        ClientNext::Failed(error) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(client_after(|pack| minimal_welcome(pack, 0, 1, 20_000))), LoginError::Unencrypted);
    assert_eq!(failed(client_after(|pack| minimal_welcome(pack, 1, 1, 0))), LoginError::Missing("timeout"));
    assert_eq!(failed(client_after(|_| ())), LoginError::Missing("session_name"));
}

#[test]
fn the_client_follows_a_redirect() {
    let next = client_after(|pack| {
        pack.int("Redirect", 1).ip("Ip", [10, 231, 0, 9].into()).ints("Port", &[0, 443, 70_000, 992]);
        pack.data("Ticket", &[5; 20]).data("Cert", b"der");
    });
    let ClientNext::Redirect(redirect) = next else { panic!("{next:?}") };
    assert_eq!((redirect.ip, &redirect.ports[..]), ([10, 231, 0, 9].into(), &[443, 992][..]));
    assert_eq!((*redirect.ticket, &redirect.cert[..]), ([5; 20], &b"der"[..]));
    assert!(redirect.goodbye.starts_with(b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\n"));
}

#[test]
fn the_client_skips_noops_and_refuses_other_statuses() {
    assert!(matches!(client_after(|pack| put(pack.int("noop", 2))), ClientNext::NeedBytes));
    let mut client = client(Secret::Anonymous, Wants::default());
    client.receive(&write_response(Status::Forbidden, "text/html", true, "", b"no"));
    assert!(matches!(client.next(), ClientNext::Failed(LoginError::Status(403))));
    assert!(matches!(client.next(), ClientNext::NeedBytes));
}

proptest! {
    #[test]
    fn damaged_bytes_never_panic(at in 0usize..900, value in any::<u8>(), cut in 0usize..900) {
        let mut bytes = [signature(), post(login_pack)].concat();
        let length = bytes.len();
        bytes[at % length] = value;
        let mut server = server();
        for part in [&bytes[..cut % length], &bytes[cut % length..]] {
            server.receive(part);
            run(&mut server, &mut Vec::new());
        }
    }

    #[test]
    fn damaged_answers_never_panic(at in 0usize..4000, value in any::<u8>()) {
        let (mut client, mut server) = (client(Secret::Anonymous, Wants::default()), server());
        until_decision(&mut client, &mut server);
        let mut bytes = server.accept(&a_welcome());
        let length = bytes.len();
        bytes[at % length] = value;
        client.receive(&bytes);
        let _ = client.next();
    }
}
