//! `hublane connect`: the virtual LAN card as a program.
//!
//! The thread of [`run`] is the card's (`crate::client::card`): one loop over device, connections, signals and time. A
//! second one calls the server (`dialler.rs`). In between stands the session's life (`session.rs`): log in, add
//! connections, replace those that are lost or stuck, log in again, for ever, until a signal comes. The device stays all
//! the time, and with it its addresses and what the host's programs have open.
#![forbid(unsafe_code)]

pub mod args;

mod backoff;
mod certificate;
mod dhcp;
mod dialler;
mod folder;
mod identity;
mod keeper;
mod password;
mod report;
mod session;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::json;
use thiserror::Error;

use self::args::{ConnectArgs, Switch};
use self::dialler::{Caller, Dialler, Proof};
use self::identity::{Identity, IdentityError};
use self::keeper::{Keeper, Places};
use self::report::Reporter;
use self::session::Life;
use crate::client::card::{Card, WATCH_DEVICE};
use crate::client::via::Via;
use crate::sys::clock::monotonic;
use crate::sys::congestion::Congestion;
use crate::sys::epoll::{EpollConfig, EpollIo};
use crate::sys::features::KernelFeatures;
use crate::sys::limits::forbid_core_dumps;
use crate::sys::signals;
use crate::sys::tap::{Tap, TapError, TapSettings};
use crate::sys::uring::{UringConfig, UringIo};
use crate::sys::waker::Waker;
use crate::tunnel::login::{CARD_PRODUCT, ClientInfo, Wants};
use crate::wire::ethernet::Mac;
use crate::worker::io::StreamIo;

/// Why it ended other than by a signal; each kind has an exit code.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The options cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// The server said no, and would say so again.
    #[error("{0}")]
    Refused(String),
    /// It is not the server that was meant.
    #[error("{0}")]
    Certificate(String),
    /// No device, or no address for it.
    #[error("{0}")]
    Device(String),
    /// Something of this machine failed.
    #[error("cannot {0}: {1}")]
    System(&'static str, io::Error),
}

impl ConnectError {
    /// As docs/connect.md lists them.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::System(..) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Certificate(_) => 4,
            Self::Device(_) => 5,
        }
    }
}

impl From<TapError> for ConnectError {
    fn from(error: TapError) -> Self {
        Self::Device(error.to_string())
    }
}

fn while_doing(doing: &'static str) -> impl FnOnce(io::Error) -> ConnectError {
    move |error| ConnectError::System(doing, error)
}

/// Runs until a signal or an error ends it, and says which.
pub fn run(args: &ConnectArgs) -> ExitCode {
    let mut reporter = Reporter::new(args.json);
    let done = connect(args, &mut reporter);
    reporter.end();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            if !reporter.shows_state() {
                reporter.tell("failed", json!({"error": error.to_string(), "exit_code": code}), "");
            }
            eprintln!("hublane: {error}");
            ExitCode::from(code)
        }
    }
}

/// The way that is asked for, or that the environment names; its password is asked for before anything is made.
fn way(args: &ConnectArgs) -> Result<Via, ConnectError> {
    let usage = |error: String| ConnectError::Usage(error);
    let mut via = match &args.via {
        Some(via) => via.clone(),
        None => {
            Via::from_environment(&args.server.host).map_err(|error| usage(error.to_string()))?.unwrap_or(Via::Direct)
        }
    };
    via.find_password(args.proxy_password_file.as_deref()).map_err(|error| usage(error.to_string()))?;
    Ok(via)
}

fn connect(args: &ConnectArgs, reporter: &mut Reporter) -> Result<(), ConnectError> {
    let identity = Identity::of(args).map_err(|error: IdentityError| ConnectError::Usage(error.to_string()))?;
    let dhcp = if args.dhcp { Some(dhcp::find().map_err(ConnectError::Device)?) } else { None };
    args.congestion.iter().try_for_each(Congestion::check).map_err(ConnectError::Usage)?;
    let proof = match certificate::certificate(args).map_err(ConnectError::Usage)? {
        Some(certificate) => Proof::Certificate(certificate),
        None => Proof::Password(password::password(args).map_err(ConnectError::Usage)?, args.auth),
    };
    let via = way(args)?;
    forbid_core_dumps().map_err(while_doing("forbid core dumps"))?;
    let signals = signals::catch().map_err(while_doing("catch signals"))?;
    let tap = Tap::attach(&args.device)?;
    let mut keeper = keep(args, reporter)?;
    set_up_device(args, &tap)?;
    let told = json!({"device": tap.name(), "mac": mac(args).to_string(), "bridge": args.bridge});
    reporter.tell("device", told, &format!("device {}", tap.name()));
    let waker = Waker::new().map_err(while_doing("make an eventfd"))?;
    let caller = Caller {
        server: args.server.clone(),
        via,
        identity,
        hub: args.hub.clone(),
        user: args.user.clone(),
        proof,
        congestion: args.congestion.clone().unwrap_or_default(),
        wants: Wants {
            max_connection: args.connections,
            compress: args.compress,
            bridge_mode: args.bridge.is_some(),
            supers: args.super_frames == Switch::On,
            qos: args.connections > 1,
            ..Wants::default()
        },
        client: client_info(args),
    };
    let dialler = Dialler::start(caller, waker.clone()).map_err(while_doing("start a thread"))?;
    let parts = Parts { args, reporter, dialler, signals, dhcp, keeper: keeper.as_mut() };
    let done = match KernelFeatures::probe(args.kernel_features).uring {
        Ok(features) => {
            let io =
                UringIo::new(&UringConfig { buffers: RECEIVE_BUFFERS, ..UringConfig::default() }, &features, waker);
            parts.serve(io.map_err(while_doing("make a ring"))?, tap)
        }
        Err(_) => {
            let io = EpollIo::new(&EpollConfig { buffers: RECEIVE_BUFFERS.into(), ..EpollConfig::default() }, waker);
            parts.serve(io.map_err(while_doing("make an epoll descriptor"))?, tap)
        }
    };
    tell_restored(reporter, keeper.map(Keeper::end).unwrap_or_default());
    done
}

/// Puts back what a run before could not, and writes down what this one is going to change. The device is ours already:
/// that run has ended.
fn keep(args: &ConnectArgs, reporter: &mut Reporter) -> Result<Option<Keeper>, ConnectError> {
    let places =
        Places { folder: folder::default_path(), resolver: "/etc/resolv.conf".into(), device: args.device.clone() };
    tell_restored(reporter, Keeper::after_crash(&places).map_err(ConnectError::Device)?);
    Keeper::begin(places, args.dhcp).map_err(ConnectError::Device)
}

fn tell_restored(reporter: &mut Reporter, what: Vec<String>) {
    if !what.is_empty() {
        let text = format!("put back: {}", what.join(", "));
        reporter.tell("restored", json!({"what": what}), &text);
    }
}

/// What the loop needs beside sockets and device.
struct Parts<'a> {
    args: &'a ConnectArgs,
    reporter: &'a mut Reporter,
    dialler: Dialler,
    signals: OwnedFd,
    dhcp: Option<PathBuf>,
    keeper: Option<&'a mut Keeper>,
}

impl Parts<'_> {
    fn serve<Io: StreamIo<Socket = OwnedFd>>(self, mut io: Io, tap: Tap) -> Result<(), ConnectError> {
        let watched = tap.as_fd().try_clone_to_owned().map_err(while_doing("watch the device"))?;
        io.watch(WATCH_DEVICE, watched).map_err(while_doing("watch the device"))?;
        io.watch(WATCH_SIGNALS, self.signals).map_err(while_doing("watch for signals"))?;
        let now = monotonic();
        let card = Card::new(io, tap, now);
        let dhcp = (self.dhcp, self.keeper);
        Life::new(card, self.args, self.reporter, self.dialler, dhcp, seed(self.args)).run()
    }
}

fn set_up_device(args: &ConnectArgs, tap: &Tap) -> Result<(), ConnectError> {
    tap.set_up(&TapSettings { mac: mac(args), mtu: MTU, queue: DEVICE_QUEUE })?;
    for network in &args.address {
        tap.set_address(network.address, network.prefix)?;
    }
    if let Some(bridge) = &args.bridge {
        tap.join_bridge(bridge)?;
    }
    Ok(())
}

/// The address of the card: as typed, else one that this account on this machine always has, locally administered. A
/// bridge takes the lowest address of its ports for its own: that must go on being another one.
fn mac(args: &ConnectArgs) -> Mac {
    args.mac.unwrap_or_else(|| {
        let [a, b, c, d, e, ..] = account_id(args, "card");
        Mac([if args.bridge.is_some() { 0xfe } else { 0x5e }, a, b, c, d, e])
    })
}

/// Where probes for loops come from: not the card itself, whose frames a server may limit in a storm.
fn probe_mac(args: &ConnectArgs) -> Mac {
    let [a, b, c, d, e, ..] = account_id(args, "probe");
    Mac([0x5e, a, b, c, d, e])
}

/// A number that this account on this machine always has, and no other: servers know by it who has come back.
fn account_id(args: &ConnectArgs, purpose: &str) -> [u8; 32] {
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let host = hostname();
    let server = args.server.to_string();
    let mut context = Context::new(&SHA256);
    for part in [&machine, host.as_bytes(), server.as_bytes(), args.hub.as_bytes(), args.user.as_bytes()] {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    context.update(args.device.as_bytes());
    context.update(purpose.as_bytes());
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Spreads what is random without having to be secret: waits, and times of keep-alives.
fn seed(args: &ConnectArgs) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = account_id(args, "seed");
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ monotonic().0
}

fn client_info(args: &ConnectArgs) -> ClientInfo {
    let id = account_id(args, "client");
    let cut = |from: usize| id.get(from..).unwrap_or_default();
    let system = nix::sys::utsname::uname().ok();
    let os_version = system.map(|system| system.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut info = ClientInfo {
        // A name with "Server" or "Bridge" would make a bridge of the session (protocol note §3.4).
        product: CARD_PRODUCT.into(),
        version: 100,
        build: 1,
        os_name: "Linux".into(),
        os_version,
        hostname: hostname(),
        ..ClientInfo::default()
    };
    info.unique_id.iter_mut().zip(cut(0)).for_each(|(place, byte)| *place = *byte);
    info.installation_id.iter_mut().zip(cut(12)).for_each(|(place, byte)| *place = *byte);
    info
}

fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What the tunnel carries.
const MTU: usize = 1500;
/// Frames, super-packets among them, that the device keeps while the session's queue is full.
const DEVICE_QUEUE: usize = 200;
/// 32 connections of a burst each; 4 MiB at most.
const RECEIVE_BUFFERS: u16 = 64;
/// The number of the signals among what is watched.
const WATCH_SIGNALS: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        connect: ConnectArgs,
    }

    #[test]
    fn a_bridge_keeps_its_own_address() {
        let first = |more: &[&str]| {
            let line = Line::parse_from([&["connect", "vpn.example.org", "--user", "alice"], more].concat());
            mac(&line.connect).0[0]
        };
        assert_eq!((first(&[]), first(&["--bridge", "br0"])), (0x5e, 0xfe));
        assert_eq!(first(&["--bridge", "br0", "--mac", "02:00:00:00:00:01"]), 2);
    }
}
