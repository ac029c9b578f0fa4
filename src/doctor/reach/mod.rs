//! `hublane doctor HOST[:PORT]`: tries every way to a server, times each step, and says in a sentence what is in the
//! way.
//!
//! The ways: straight on the usual ports, what the environment names, what is asked for by `--via`. All are gone at
//! once, each by [`probe`]; [`verdict`] says what was seen means. Nothing is changed, nobody is logged in; a proxy is
//! told its password.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod probe;
pub mod verdict;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::RootCertStore;
use serde::Serialize;

use self::certificate::{CertificateView, Fingerprint};
use self::probe::{Probe, Seen, now_unix_s, system_roots};
use self::verdict::{Finding, Tls, Trust, of_error, of_tls, remarks};
use crate::client::via::secret::SecretError;
use crate::client::via::text::host_and_port;
use crate::client::via::{Step, Via};
use crate::control::admin::table::{Align, Table};

/// What is asked.
pub struct Asked {
    /// Name or address of the server.
    pub host: String,
    /// Its port, if one is named.
    pub port: Option<u16>,
    /// Ways besides the straight one.
    pub vias: Vec<Via>,
    /// What its certificate must be.
    pub pin: Option<Fingerprint>,
    /// Longest wait for each part of a way.
    pub limit: Duration,
    /// Issuers to trust.
    pub roots: Arc<RootCertStore>,
    /// What the environment says and cannot be understood.
    pub remarks: Vec<String>,
}

impl Asked {
    /// About `server`, a `HOST[:PORT]`.
    ///
    /// # Errors
    /// A sentence, if it is none.
    pub fn new(server: &str, limit: Duration) -> Result<Self, String> {
        let wrong = |_| {
            format!(
                "{server:?} is no HOST[:PORT]: write vpn.example, vpn.example:443, 192.0.2.1:443 or [2001:db8::1]:443"
            )
        };
        let (host, port) = host_and_port(server).map_err(wrong)?;
        Ok(Self { host, port, vias: Vec::new(), pin: None, limit, roots: system_roots(), remarks: Vec::new() })
    }

    /// The ways that are named, and that of the environment.
    pub fn add_ways(&mut self, named: &[Via]) {
        self.vias.extend(named.iter().filter(|via| **via != Via::Direct).cloned());
        match Via::from_environment(&self.host) {
            Ok(Some(via)) if !self.vias.contains(&via) => self.vias.push(via),
            Ok(_) => {}
            Err(wrong) => self.remarks.push(wrong.to_string()),
        }
    }

    /// Passwords of proxies' users; see [`Via::find_password`].
    ///
    /// # Errors
    /// As there.
    pub fn find_passwords(&mut self, file: Option<&Path>) -> Result<(), SecretError> {
        self.vias.iter_mut().try_for_each(|via| via.find_password(file))
    }

    /// Way and port of all that is to be tried, what was asked for first.
    fn ways(&self) -> Vec<(Via, u16)> {
        let asked: Vec<u16> = self.port.into_iter().collect();
        let others = USUAL_PORTS.into_iter().filter(|port| Some(*port) != self.port);
        let straight: Vec<u16> = asked.iter().copied().chain(others).collect();
        let through = if asked.is_empty() { &USUAL_PORTS[..] } else { &asked };
        let straight = straight.iter().map(|port| (Via::Direct, *port));
        let through = self.vias.iter().flat_map(|via| through.iter().map(|port| (via.clone(), *port)));
        straight.chain(through).collect()
    }
}

/// What was found out.
#[derive(Debug, Serialize)]
pub struct ReachReport {
    /// The server.
    pub host: String,
    /// Each way.
    pub ways: Vec<WayReport>,
    /// What else there is to say.
    pub remarks: Vec<String>,
    /// Whether one of them leads to a VPN server.
    pub works: bool,
    /// The same in a sentence.
    pub verdict: String,
}

/// A way.
#[derive(Debug, Serialize)]
pub struct WayReport {
    /// As it would be typed behind `--via`.
    pub via: String,
    /// The server's port.
    pub port: u16,
    /// What was done.
    pub steps: Vec<StepView>,
    /// What is in the way.
    pub finding: Finding,
    /// The same in a sentence.
    pub sentence: String,
    /// What else there is to say.
    pub remarks: Vec<String>,
    /// Version and suite of TLS.
    pub tls: Option<String>,
    /// Certificate of the server.
    pub certificate: Option<CertificateView>,
    /// What to think of it.
    pub trust: Option<Trust>,
}

/// A step and its time.
#[derive(Debug, Serialize)]
pub struct StepView {
    /// `name`, `connect`, `proxy`, `ssh`, `tls` or `answer`.
    pub name: &'static str,
    /// Whom it reached.
    pub address: Option<String>,
    /// Milliseconds.
    pub ms: f64,
}

impl From<&Step> for StepView {
    fn from(step: &Step) -> Self {
        let ms = (step.took.as_secs_f64() * 1e4).round() / 10.0;
        Self { name: step.name, address: step.address.map(|address| address.to_string()), ms }
    }
}

/// Tries all ways.
///
/// # Errors
/// A sentence, if not even a thread can be had.
pub fn reach(asked: &Asked) -> Result<ReachReport, String> {
    let (host, roots) = (asked.host.clone(), Arc::clone(&asked.roots));
    let probe = Probe { host, limit: asked.limit, pin: asked.pin, roots };
    let ways = asked.ways();
    let seen = thread::scope(|scope| {
        let go = |(via, port): &(Via, u16)| {
            let (probe, via, port) = (&probe, via.clone(), *port);
            thread::Builder::new().spawn_scoped(scope, move || probe.go(&via, port))
        };
        let threads: Vec<_> = ways.iter().map(go).collect();
        let join =
            |thread: std::io::Result<thread::ScopedJoinHandle<'_, Seen>>| match thread.map(|thread| thread.join()) {
                Ok(Ok(seen)) => Ok(seen),
                Ok(Err(_)) => Err("a probe failed: this is a defect of the program".to_owned()),
                Err(error) => Err(format!("no thread for a probe: {error}")),
            };
        threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
    })?;
    let now = now_unix_s();
    let reports = ways.iter().zip(&seen).map(|((via, port), seen)| way(via, *port, seen, asked, now)).collect();
    Ok(report(asked, reports))
}

fn way(via: &Via, port: u16, seen: &Seen, asked: &Asked, now_unix_s: i64) -> WayReport {
    let place = match via {
        Via::Direct => format!("straight at port {port}"),
        via => format!("at port {port} through {via}"),
    };
    let (finding, sentence) = match &seen.tls {
        Ok(tls) => of_tls(tls, &place, asked.limit.as_secs()),
        Err(error) => (of_error(error), error.to_string()),
    };
    let done = match &seen.tls {
        Ok(Tls::Done(done)) => Some(done),
        _ => None,
    };
    WayReport {
        via: via.to_string(),
        port,
        steps: seen.steps.iter().map(StepView::from).collect(),
        finding,
        sentence,
        remarks: done.map(|done| remarks(done, now_unix_s)).unwrap_or_default(),
        tls: seen.session.clone(),
        certificate: done.map(|done| done.certificate.clone()),
        trust: done.map(|done| done.trust),
    }
}

fn report(asked: &Asked, ways: Vec<WayReport>) -> ReachReport {
    let working: Vec<&WayReport> = ways.iter().filter(|way| way.finding == Finding::Works).collect();
    let mut all_remarks = asked.remarks.clone();
    all_remarks.extend(disagreement(&ways));
    let verdict = match working.first() {
        Some(best) => {
            let others = working.len() - 1;
            let more = if others == 0 { String::new() } else { format!(", and {others} other ways work") };
            let odd = best.remarks.first().map(|remark| format!("; {remark}")).unwrap_or_default();
            format!("{} can be reached: {}{more}{odd}.", asked.host, best.sentence)
        }
        // The way that led furthest tells most; among equals the one that was asked for first.
        None => match ways.iter().rev().max_by_key(|way| way.finding) {
            Some(best) => format!("{} cannot be reached: {}", asked.host, best.sentence),
            None => format!("{} cannot be reached: there is no way to try", asked.host),
        },
    };
    ReachReport { host: asked.host.clone(), works: !working.is_empty(), ways, remarks: all_remarks, verdict }
}

/// The same port shows different certificates on different ways: somebody sits on one of them.
fn disagreement(ways: &[WayReport]) -> Option<String> {
    let shown = |way: &WayReport| way.certificate.as_ref().map(|certificate| certificate.fingerprint.clone());
    for (index, way) in ways.iter().enumerate() {
        let Some(own) = shown(way) else { continue };
        let others = ways[index + 1..].iter().filter(|other| other.port == way.port);
        if let Some(other) = others.into_iter().find(|other| shown(other).is_some_and(|shown| shown != own)) {
            return Some(format!(
                "port {} shows another certificate by {} than by {}: a proxy opens TLS on one of the two",
                way.port, way.via, other.via
            ));
        }
    }
    None
}

impl ReachReport {
    /// For people.
    pub fn text(&self) -> String {
        let columns = [
            ("WAY", Align::Left),
            ("PORT", Align::Right),
            ("NAME", Align::Right),
            ("CONNECT", Align::Right),
            ("PROXY", Align::Right),
            ("TLS", Align::Right),
            ("ANSWER", Align::Right),
            ("RESULT", Align::Left),
        ];
        let mut table = Table::new(&columns);
        for way in &self.ways {
            let ms = |names: &[&str]| {
                let steps: Vec<f64> =
                    way.steps.iter().filter(|step| names.contains(&step.name)).map(|step| step.ms).collect();
                if steps.is_empty() { String::new() } else { format!("{:.1} ms", steps.iter().sum::<f64>()) }
            };
            let proxy = ms(&["proxy", "ssh"]);
            let (name, connect, tls, answer) = (ms(&["name"]), ms(&["connect"]), ms(&["tls"]), ms(&["answer"]));
            let cells =
                [way.via.clone(), way.port.to_string(), name, connect, proxy, tls, answer, way.sentence.clone()];
            table.row(cells);
        }
        let mut parts = vec![table.text()];
        let mut certificates: Vec<String> = self.ways.iter().filter_map(certificate).collect();
        certificates.dedup();
        parts.push(certificates.concat());
        let mut said: Vec<String> =
            self.ways.iter().flat_map(|way| &way.remarks).chain(&self.remarks).cloned().collect();
        said.sort();
        said.dedup();
        parts.push(said.iter().map(|remark| format!("{remark}\n")).collect());
        if self.works {
            parts.push(format!("{}\n", self.verdict));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("\n")
    }

    /// For programs: all fields.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain fields can be written");
        text.push('\n');
        text
    }
}

fn certificate(way: &WayReport) -> Option<String> {
    let certificate = way.certificate.as_ref()?;
    let tls = way.tls.as_deref().unwrap_or_default();
    let issuer = if certificate.self_signed { "itself" } else { &certificate.issuer };
    Some(format!(
        "{tls}, certificate of {}, issued by {issuer}\n  SHA-256 {}\n",
        certificate.subject, certificate.fingerprint
    ))
}

/// Where SoftEther servers listen (protocol note §1.1).
const USUAL_PORTS: [u16; 4] = [443, 992, 1194, 5555];

#[cfg(test)]
mod tests;
