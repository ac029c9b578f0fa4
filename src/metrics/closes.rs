//! Why a connection or a session ended, and whose doing it was.
#![forbid(unsafe_code)]

use super::drops::reasons;

/// Who caused the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The other end, by its bytes or its silence.
    Peer,
    /// A decision of the operator or of a policy.
    Policy,
    /// A limit of this process or machine.
    Resource,
    /// The network in between.
    Transport,
}

reasons! {
    /// Why a connection or session was closed.
    CloseReason {
        /// The peer sent close_notify.
        PeerCloseNotify = "peer_close_notify",
        /// The peer closed the TCP connection without close_notify.
        PeerEof = "peer_eof",
        /// The peer sent a fatal TLS alert.
        PeerAlert = "peer_alert",
        /// TLS record with a bad header, type or length.
        RecordMalformed = "record_malformed",
        /// TLS record whose authentication tag does not fit.
        RecordBadTag = "record_bad_tag",
        /// TLS handshake message that has no place here.
        RecordUnexpected = "record_unexpected",
        /// TLS peer that asks for something harmless too often (empty records, key updates).
        RecordFlood = "record_flood",
        /// Block of more than 3200 bytes announced.
        BlockTooLong = "block_too_long",
        /// Keep-alive of more than 512 bytes announced.
        KeepAliveTooLong = "keep_alive_too_long",
        /// Nothing received on this connection for the session's timeout, though another one is alive.
        Timeout = "timeout",
        /// The key reached its usage limit, and TLS 1.2 cannot renew it; the client connects again.
        KeyLimit = "key_limit",
        /// The session this connection belongs to ended.
        SessionEnded = "session_ended",
        /// Nothing received on any connection of the session for its timeout.
        SessionExpired = "session_expired",
        /// The same member logged in again and took the session over.
        TakenOver = "taken_over",
        /// Ended by the operator.
        Kicked = "kicked",
        /// The operator blocked the user.
        Blocked = "blocked",
        /// The server is stopping.
        ServerStopping = "server_stopping",
        /// A defect of this server, contained to this session. Please report it.
        Panicked = "panicked",
        /// No room for another connection or session on this worker.
        NoRoom = "no_room",
        /// A card in bridge mode found a loop, and gave way.
        BridgeLoop = "bridge_loop",
        /// The socket failed: reset, unreachable or timed out.
        SocketFailed = "socket_failed",
    }
}

impl CloseReason {
    /// Whose doing it was.
    pub const fn fault(self) -> Fault {
        match self {
            Self::PeerCloseNotify
            | Self::PeerEof
            | Self::PeerAlert
            | Self::RecordMalformed
            | Self::RecordBadTag
            | Self::RecordUnexpected
            | Self::RecordFlood
            | Self::BlockTooLong
            | Self::KeepAliveTooLong
            | Self::Timeout
            | Self::SessionExpired => Fault::Peer,
            Self::SessionEnded
            | Self::TakenOver
            | Self::Kicked
            | Self::Blocked
            | Self::ServerStopping
            | Self::BridgeLoop
            | Self::KeyLimit => Fault::Policy,
            Self::Panicked | Self::NoRoom => Fault::Resource,
            Self::SocketFailed => Fault::Transport,
        }
    }
}
