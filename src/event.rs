//! What happened: one enum, one stream to the log thread (design §2).
//!
//! Events are values without any sink in mind; `control/log.rs` makes lines of them. Names that came
//! from the network are kept as they came: whoever shows them must escape them.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::ids::{ConnId, MemberId, SessionId};
use crate::metrics::closes::CloseReason;
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::worker::router::RouterEvent;

/// A moment on both clocks: wall time to compare with other machines, monotonic time to measure with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since 1970-01-01 UTC; may jump when the clock is set.
    pub wall_ns: u64,
    /// Never jumps; its origin is this process's own.
    pub tick: Tick,
}

impl Stamp {
    /// `tick` and the wall clock's time now.
    pub fn now(tick: Tick) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall_ns: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX), tick }
    }
}

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Unknown user or wrong secret; they are not told apart.
    Failed,
    /// Too many failed attempts from there or for that user; nothing was compared.
    Penalty,
    /// Right secret, but the user is disabled.
    Disabled,
    /// Way of logging in that this server does not offer.
    Unsupported,
    /// The authenticator gave no answer in time.
    Timeout,
    /// No hub of that name.
    UnknownHub,
    /// A policy or limit of the hub.
    HubRefused,
    /// Malformed or incomplete login message.
    Malformed,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Failed,
        Self::Penalty,
        Self::Disabled,
        Self::Unsupported,
        Self::Timeout,
        Self::UnknownHub,
        Self::HubRefused,
        Self::Malformed,
    ];

    /// Name in logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Penalty => "penalty",
            Self::Disabled => "disabled",
            Self::Unsupported => "unsupported",
            Self::Timeout => "timeout",
            Self::UnknownHub => "unknown_hub",
            Self::HubRefused => "hub_refused",
            Self::Malformed => "malformed",
        }
    }
}

/// Traffic of a session or connection over its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames from the member.
    pub frames_in: u64,
    /// Bytes of those frames.
    pub bytes_in: u64,
    /// Frames to the member.
    pub frames_out: u64,
    /// Bytes of those frames.
    pub bytes_out: u64,
}

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Stamp,
    /// What.
    pub what: What,
}

/// Kinds of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A member logged in.
    SessionOpened {
        /// Number of the session.
        session: SessionId,
        /// `SID-…` (protocol note §3.8).
        name: Arc<str>,
        /// Who.
        member: MemberId,
        /// His name as stored.
        user: Arc<str>,
        /// Hub as configured.
        hub: Arc<str>,
        /// The worker that carries it.
        worker: usize,
        /// What the client says it is. From the network.
        client: Arc<str>,
    },
    /// A session ended.
    SessionClosed {
        /// Number of the session.
        session: SessionId,
        /// Why.
        reason: CloseReason,
        /// What it carried.
        traffic: Traffic,
    },
    /// A TCP connection joined a session.
    ConnectionOpened {
        /// Number of the connection.
        conn: ConnId,
        /// Session it belongs to.
        session: SessionId,
        /// Real address and port it came from.
        peer: SocketAddr,
        /// TLS version and cipher suite.
        suite: &'static str,
    },
    /// A TCP connection ended.
    ConnectionClosed {
        /// Number of the connection.
        conn: ConnId,
        /// Session it belonged to.
        session: SessionId,
        /// Real address and port it came from.
        peer: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
    /// A login was refused.
    LoginRefused {
        /// Where it came from.
        peer: SocketAddr,
        /// Hub asked for. From the network.
        hub: Arc<str>,
        /// User asked for. From the network.
        user: Arc<str>,
        /// Why.
        refusal: Refusal,
    },
    /// Frames that a worker dropped since its last sample; the counters have them all.
    DropSample {
        /// Which worker.
        worker: usize,
        /// Why.
        reason: DropReason,
        /// How many.
        count: u64,
    },
    /// Something at a hub's gateway or NAT.
    Router {
        /// Hub as configured.
        hub: Arc<str>,
        /// What.
        event: Box<RouterEvent>,
    },
    /// A configuration took effect.
    ConfigChanged {
        /// Its number.
        epoch: u64,
        /// Where it came from, such as a file's name.
        source: Arc<str>,
    },
}

/// The address that penalties and limits count by: IPv4 as it is (also inside IPv6), IPv6 by its /64,
/// since one subscriber owns at least that.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        for (address, want) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(source_of(address.parse().unwrap()), want.parse::<IpAddr>().unwrap(), "{address}");
        }
    }
}
