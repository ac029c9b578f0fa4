//! What passes between control threads and workers: seeds of sessions and connections one way, reports
//! the other. Rare, so it may allocate.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use super::router::orders::Order;
use crate::hub::PortSettings;
use crate::ids::{ConnId, HubId, MemberId, PortId, SessionId};
use crate::metrics::closes::CloseReason;
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::tunnel::conn::Conn;
use crate::tunnel::link::{Carried, LinkSettings, Way};

/// A session about to open its port.
pub struct SessionSeed {
    /// Its number.
    pub session: SessionId,
    /// Who logged in.
    pub member: MemberId,
    /// Where.
    pub hub: HubId,
    /// What the port may do.
    pub port: PortSettings,
    /// What was agreed about the tunnel.
    pub link: LinkSettings,
}

/// A connection whose login is done, ready to carry frames.
pub struct ConnSeed<Socket> {
    /// Its number.
    pub id: ConnId,
    /// The peer's real address.
    pub peer: SocketAddr,
    /// The socket, for the worker's back end.
    pub socket: Socket,
    /// The TLS side.
    pub conn: Box<Conn>,
    /// Which way it carries data.
    pub way: Way,
    /// Plaintext that was opened behind the login.
    pub plain: Vec<u8>,
    /// Ciphertext that was received but not opened.
    pub cipher: Vec<u8>,
}

/// What a worker is asked to do.
pub enum Command<Socket> {
    /// Open a port with its first connection.
    Open(Box<SessionSeed>, Box<ConnSeed<Socket>>),
    /// Add a connection; refused with [`CloseReason::SessionEnded`] if the session has gone.
    Attach(SessionId, Box<ConnSeed<Socket>>),
    /// End a session.
    End(SessionId, CloseReason),
    /// Tell about every port.
    Inspect(Box<dyn FnOnce(Vec<PortView>) + Send>),
    /// Something about the way out of a hub.
    Router(HubId, Order),
    /// End every session and take no more: who still comes is sent away properly.
    Stop,
    /// Leave the loop once every connection is closed. The last command: after it nobody is sent away.
    Leave,
}

/// A port, as an operator sees it.
#[derive(Clone, Debug)]
pub struct PortView {
    /// Whose.
    pub session: SessionId,
    /// Where.
    pub port: PortId,
    /// Source addresses learned behind it.
    pub macs: u32,
    /// Frames that wait for the member.
    pub queued: usize,
    /// Frames and bytes so far.
    pub carried: Carried,
    /// Its connections.
    pub conns: Vec<ConnView>,
}

/// A connection, as an operator sees it.
#[derive(Clone, Debug)]
pub struct ConnView {
    /// Its number.
    pub id: ConnId,
    /// The peer's real address.
    pub peer: SocketAddr,
    /// TLS version and cipher suite.
    pub tls: String,
    /// TLS key updates so far, either direction.
    pub key_updates: u64,
}

/// What a worker tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A connection left its session.
    ConnClosed {
        /// Its session, which may live on.
        session: SessionId,
        /// Which.
        conn: ConnId,
        /// The peer's real address.
        peer: SocketAddr,
        /// Why.
        reason: CloseReason,
        /// When.
        at: Tick,
    },
    /// Frames were dropped since the last time.
    Dropped {
        /// By which worker.
        worker: usize,
        /// Why.
        reason: DropReason,
        /// How many.
        count: u64,
        /// When.
        at: Tick,
    },
    /// A session ended; nothing more comes of it.
    SessionEnded {
        /// Which.
        session: SessionId,
        /// The worker that carried it.
        worker: usize,
        /// Why.
        reason: CloseReason,
        /// What it had carried.
        carried: Carried,
        /// When.
        at: Tick,
    },
}
