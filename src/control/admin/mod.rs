//! The operator's door: questions and answers over a Unix socket.
//!
//! One JSON object per line in each direction, one answer per question. The socket has mode 0600: who
//! may open it may ask anything. [`server`] answers, [`client`] asks and shows.
#![forbid(unsafe_code)]

pub mod client;
pub mod router;
pub mod server;
pub mod table;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::Ipv4Addr;

use router::{GatewayView, LeaseRow, NatEndpoint, NatExplained, NatRow, NatStatsRow, NatWanted};
use serde::{Deserialize, Serialize};

/// What can be asked: `{"request":"session-list","hub":"PUBLIC"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the server is.
    Status {},
    /// Sessions, of one hub or all.
    SessionList {
        /// Hub, in any case; none means all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hub: Option<String>,
    },
    /// Ends a session.
    SessionKick {
        /// `SID-…`, in any case.
        name: String,
    },
    /// FDB entries, of one hub or all.
    MacList {
        /// Hub, in any case; none means all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hub: Option<String>,
    },
    /// Reads the accounts again now instead of at the next login.
    UsersReload {},
    /// Ends a user's sessions and everything he has in the NAT.
    UserEnd {
        /// Hub, in any case.
        hub: String,
        /// User, in any case.
        user: String,
    },
    /// Leases, of one hub or all.
    DhcpList {
        /// Hub, in any case; none means all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hub: Option<String>,
    },
    /// Ends a lease.
    DhcpRelease {
        /// Hub, in any case; none means the one whose network the address is in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hub: Option<String>,
        /// Its address.
        address: Ipv4Addr,
    },
    /// Mappings and flows.
    NatList(NatWanted),
    /// How NATs are, of one hub or all.
    NatStats {
        /// Hub, in any case; none means all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hub: Option<String>,
    },
    /// Who is behind a public endpoint.
    NatExplain(NatEndpoint),
}

/// What is answered: `{"answer":"sessions","rows":[…]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<StatusView>),
    /// To [`Request::SessionList`].
    Sessions {
        /// By hub and number of the session.
        rows: Vec<SessionRow>,
    },
    /// To [`Request::MacList`].
    Macs {
        /// By hub and address.
        rows: Vec<MacRow>,
    },
    /// To [`Request::DhcpList`].
    Leases {
        /// By hub and address.
        rows: Vec<LeaseRow>,
    },
    /// To [`Request::NatList`].
    Mappings {
        /// By hub, inside endpoint and protocol.
        rows: Vec<NatRow>,
        /// There are more than were asked for.
        more: bool,
    },
    /// To [`Request::NatStats`].
    NatStats {
        /// By hub.
        rows: Vec<NatStatsRow>,
    },
    /// To [`Request::NatExplain`].
    Explained(Box<NatExplained>),
    /// It was done.
    Done {
        /// What was done.
        message: String,
    },
    /// It was not done.
    Error {
        /// Why not, and what would be right.
        message: String,
    },
}

impl Answer {
    /// An [`Answer::Error`].
    pub fn error(message: impl Into<String>) -> Self {
        Self::Error { message: message.into() }
    }
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// `SID-…`.
    pub name: String,
    /// Hub.
    pub hub: String,
    /// User.
    pub user: String,
    /// Number of the user.
    pub member: u32,
    /// Number of the session.
    pub session: u64,
    /// Worker that has it.
    pub worker: u32,
    /// TCP connections now.
    pub connections: u32,
    /// Real address of the oldest connection.
    pub address: String,
    /// Its TCP port.
    pub port: u16,
    /// TLS version and cipher suite of the oldest connection.
    pub suite: String,
    /// What the client says it is.
    pub client: String,
    /// Seconds since 1970 at which it was opened.
    pub since_unix_s: u64,
    /// Frames from the member.
    pub frames_in: u64,
    /// Bytes of those.
    pub bytes_in: u64,
    /// Frames put into records for the member.
    pub frames_out: u64,
    /// Bytes of those, compressed if the session compresses.
    pub bytes_out: u64,
    /// Source addresses learned.
    pub macs: u32,
    /// Frames waiting in the egress queue.
    pub queue: u32,
}

/// An FDB entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacRow {
    /// Hub.
    pub hub: String,
    /// `02:00:5e:…`.
    pub mac: String,
    /// VLAN; 0 is none.
    pub vlan: u16,
    /// Session behind whose port it lives.
    pub session: String,
    /// Worker that has the port.
    pub worker: u32,
    /// Seconds since it was last seen.
    pub age_s: u64,
}

/// How the server is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the program.
    pub version: String,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Kernel back end of the workers: `io_uring` or `epoll`.
    pub back_end: String,
    /// Kernel features in use.
    pub features: Vec<String>,
    /// Workers, by number.
    pub workers: Vec<WorkerView>,
    /// Hubs, as configured.
    pub hubs: Vec<HubView>,
    /// Frames dropped, by reason; every reason there is.
    pub drops: BTreeMap<String, u64>,
    /// Connections and sessions closed, by reason; every reason there is.
    pub closes: BTreeMap<String, u64>,
    /// Other counters, by name: those of the workers, added up, and those of the control threads.
    pub counters: BTreeMap<String, u64>,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Processor it is pinned to.
    pub cpu: u32,
    /// Its kernel back end.
    pub back_end: String,
    /// Passes of its loop.
    pub turns: u64,
    /// Ports open.
    pub ports: u64,
    /// TCP connections open.
    pub conns: u64,
    /// Frames received from its members.
    pub frames: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Processor time used by its thread, in milliseconds; written about once a second.
    pub cpu_ms: u64,
}

/// A hub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubView {
    /// Name.
    pub name: String,
    /// `lan` or `public`.
    pub profile: String,
    /// Sessions now.
    pub sessions: u64,
    /// FDB entries now, those included that wait for the sweep.
    pub macs: u64,
    /// Its gateway, if it has one.
    pub gateway: Option<GatewayView>,
}

/// Who knows the answers. Called on control threads; given up after [`server::DEADLINE`].
pub trait AdminHandler: Send + Sync + 'static {
    /// Answers `request`.
    fn handle(&self, request: Request) -> impl Future<Output = Answer> + Send;
}

/// Longest question, its line break included.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest answer: the FDBs of some full hubs.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_fixed() {
        for (request, text) in [
            (Request::Status {}, r#"{"request":"status"}"#),
            (Request::SessionList { hub: None }, r#"{"request":"session-list"}"#),
            (Request::SessionList { hub: Some("a".into()) }, r#"{"request":"session-list","hub":"a"}"#),
            (Request::SessionKick { name: "SID-A-1".into() }, r#"{"request":"session-kick","name":"SID-A-1"}"#),
            (Request::MacList { hub: None }, r#"{"request":"mac-list"}"#),
            (Request::UsersReload {}, r#"{"request":"users-reload"}"#),
            (Request::UserEnd { hub: "H".into(), user: "u".into() }, r#"{"request":"user-end","hub":"H","user":"u"}"#),
            (
                Request::DhcpRelease { hub: None, address: Ipv4Addr::new(100, 64, 0, 9) },
                r#"{"request":"dhcp-release","address":"100.64.0.9"}"#,
            ),
            (
                Request::NatList(NatWanted { user: Some("u".into()), max: 9, ..NatWanted::default() }),
                r#"{"request":"nat-list","user":"u","max":9}"#,
            ),
            (
                Request::NatExplain(NatEndpoint {
                    proto: "udp".into(),
                    external: "192.0.2.9:61002".parse().unwrap(),
                    remote: None,
                }),
                r#"{"request":"nat-explain","proto":"udp","external":"192.0.2.9:61002"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
        for bad in [
            r#"{"request":"stop"}"#,
            r#"{"request":"status","x":1}"#,
            r#"{"request":"session-kick"}"#,
            r#"{"request":"session-list","hup":"a"}"#,
            r#"{"request":"dhcp-release","address":"100.64.0"}"#,
            r#"{"request":"nat-list","max":9,"x":1}"#,
            "[]",
            "",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
        let answer = Answer::Status(Box::default());
        let text = serde_json::to_string(&answer).unwrap();
        assert!(text.starts_with(r#"{"answer":"status","version":"""#), "{text}");
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer);
    }
}
