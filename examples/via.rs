//! Goes one way to a server and stays on it: for `scripts/via-check`.
//!
//!     via WAY HOST PORT [SECONDS]
//!
//! Prints the way and its steps, then `tls VERSION` when a TLS handshake has come about on it (with any certificate), then
//! waits up to SECONDS and prints how it ended: `held`, or `ended:` and what the helper said. Exits with 1 and a sentence if
//! the way does not open.
#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Read};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hublane::client::via::{self, Via};
use hublane::tls::config::{ServerTrust, TlsVersions, client_config};
use rustls::ClientConnection;
use rustls_pki_types::ServerName;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match go(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn go(words: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [way, host, port, rest @ ..] = words else { return Err("usage: via WAY HOST PORT [SECONDS]".into()) };
    let mut way: Via = way.parse()?;
    way.find_password(None)?;
    let opened = via::open(&way, host, port.parse()?, LIMIT)?;
    println!("{}", opened.path);
    for step in &opened.steps {
        println!("  {} {:.1} ms", step.name, step.took.as_secs_f64() * 1e3);
    }
    let config = Arc::new(client_config(ServerTrust::AcceptAny, TlsVersions::Both));
    let mut tls = ClientConnection::new(config, ServerName::try_from(host.clone())?)?;
    let mut socket = TcpStream::from(opened.socket);
    socket.set_read_timeout(Some(LIMIT))?;
    tls.complete_io(&mut socket)?;
    println!("tls {:?}", tls.protocol_version());
    let Some(seconds) = rest.first() else { return Ok(()) };
    let (began, limit) = (Instant::now(), Duration::from_secs(seconds.parse()?));
    socket.set_read_timeout(Some(limit))?;
    let ended = match socket.read(&mut [0; 4096]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => Some(error.to_string()),
        Ok(0) => Some("end of stream".to_owned()),
        // The server itself ends what does not log in: that is no end of the way.
        Ok(n) => Some(format!("{n} bytes from the server")),
    };
    match ended {
        None => println!("held"),
        Some(how) => {
            let said = opened.helper.map(|helper| helper.said()).unwrap_or_default();
            println!("ended: after {:.1} s: {how}; {said}", began.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

const LIMIT: Duration = Duration::from_secs(10);
