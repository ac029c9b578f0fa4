//! The end of connections and ports.
//!
//! Closing a connection: send what is in flight, then close_notify, then FIN; read on and discard until the
//! peer's FIN, one second at most; then close. Unread bytes at close would make the kernel reset the peer
//! before it has read the close_notify, which stock clients take badly (protocol note §1.1).
//!
//! A connection whose socket failed, or whose session met a defect, is reset instead.
//!
//! A session outlives its connections for its timeout: the client comes back with its session key.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::Worker;
use super::egress::Fabric;
use super::io::{CloseHow, StreamIo};
use super::seeds::{ConnSeed, Report};
use super::slots::{Closing, ConnState, Phase, Port};
use super::timers::Timer;
use crate::ids::{ConnKey, PortId, SessionId};
use crate::metrics::closes::CloseReason;
use crate::metrics::drops::DropReason;
use crate::tunnel::link::{Detached, Scratch};

/// How long a closing connection may take.
const DRAIN: Duration = Duration::from_secs(1);

impl<Io: StreamIo> Worker<Io> {
    /// Takes a connection off its session and closes it; the session stays.
    pub(super) fn close_conn(&mut self, key: ConnKey, reason: CloseReason) {
        let Some(id) = self.conns.live_port(key) else { return };
        let abort = matches!(reason, CloseReason::SocketFailed | CloseReason::Panicked);
        // Records that this turn has sealed have used their numbers: close_notify can be read only behind them.
        let flush = |_: &Io, port: &mut Port, _: &mut Scratch, fabric: &mut Fabric, now| {
            port.link.flush(key, now, &mut fabric.pools)
        };
        let built = if abort { None } else { self.step(id, flush) };
        let Some(port) = self.fabric.ports.get_mut(id) else { return };
        let in_flight = port.link.in_flight(key);
        let Some(Detached { conn, lost }) = port.link.detach(key, self.now, &mut self.fabric.pools) else { return };
        let rest: Vec<ConnKey> = port.link.keys().collect();
        let session = port.session;
        // Frames that waited for this connection moved to the others.
        self.fabric.dirty.extend(rest);
        self.fabric.counters.drop_frames(DropReason::EgressConnectionLost, lost);
        self.fabric.counters.close(reason);
        self.stamp += 1;
        let Some(state) = self.conns.get_mut(key) else { return };
        (self.reports)(Report::ConnClosed { session, conn: state.id, peer: state.peer, reason, at: self.now });
        state.phase = Phase::Closing(Closing {
            conn: Some(conn),
            in_flight,
            eof: reason == CloseReason::PeerEof,
            stamp: self.stamp,
            reason,
        });
        if abort {
            self.drop_socket(key, CloseHow::Abort);
            return;
        }
        // Where nothing can be sealed any more there is no close_notify either.
        if let Some(Ok(Some(flushed))) = built {
            self.send(key, flushed);
        }
        self.timers.set(self.now + DRAIN, Timer::Closing { key, stamp: self.stamp });
        if !in_flight {
            self.say_goodbye(key);
        }
    }

    /// Closes a connection that came too late for its session, or too many.
    pub(super) fn turn_away(&mut self, session: SessionId, seed: ConnSeed<Io::Socket>, reason: CloseReason) {
        let ConnSeed { id, peer, socket, conn, .. } = seed;
        self.fabric.counters.close(reason);
        (self.reports)(Report::ConnClosed { session, conn: id, peer, reason, at: self.now });
        self.stamp += 1;
        let closing = Closing { conn: Some(conn), in_flight: false, eof: false, stamp: self.stamp, reason };
        let state = ConnState { id, peer, phase: Phase::Closing(closing) };
        let key = self.conns.insert(state);
        if self.io.open(key, socket).is_err() {
            self.conns.remove(key);
            return;
        }
        self.timers.set(self.now + DRAIN, Timer::Closing { key, stamp: self.stamp });
        self.say_goodbye(key);
    }

    /// Sends close_notify, or FIN if that was sent.
    fn say_goodbye(&mut self, key: ConnKey) {
        let Some(Phase::Closing(closing)) = self.conns.get_mut(key).map(|state| &mut state.phase) else { return };
        if let Some(mut conn) = closing.conn.take() {
            let mut buf = self.fabric.pools.sends.take_short();
            if let Ok(len) = conn.layer.close_notify(buf.storage_mut()) {
                buf.set_end(len);
                closing.in_flight = true;
                self.io.send(key, buf);
                return;
            }
            self.fabric.pools.sends.give(buf);
        }
        let eof = closing.eof;
        self.io.shutdown_write(key);
        if eof {
            self.drop_socket(key, CloseHow::Orderly);
        }
    }

    /// A send of a connection that is being closed has ended.
    pub(super) fn closing_sent(&mut self, key: ConnKey, ok: bool) {
        let Some(Phase::Closing(closing)) = self.conns.get_mut(key).map(|state| &mut state.phase) else { return };
        closing.in_flight = false;
        if ok { self.say_goodbye(key) } else { self.drop_socket(key, CloseHow::Abort) }
    }

    /// The peer of a connection that is being closed has ended its direction, or the socket failed.
    pub(super) fn closing_ended(&mut self, key: ConnKey, reason: CloseReason) {
        let Some(Phase::Closing(closing)) = self.conns.get_mut(key).map(|state| &mut state.phase) else { return };
        closing.eof = true;
        let said_goodbye = closing.conn.is_none() && !closing.in_flight;
        if reason == CloseReason::SocketFailed {
            self.drop_socket(key, CloseHow::Abort);
        } else if said_goodbye {
            self.drop_socket(key, CloseHow::Orderly);
        }
    }

    /// [`DRAIN`] is over.
    pub(super) fn closing_expired(&mut self, key: ConnKey, stamp: u64) {
        let Some(Phase::Closing(closing)) = self.conns.get(key).map(|state| &state.phase) else { return };
        if closing.stamp == stamp {
            let how = if closing.in_flight { CloseHow::Abort } else { CloseHow::Orderly };
            self.drop_socket(key, how);
        }
    }

    fn drop_socket(&mut self, key: ConnKey, how: CloseHow) {
        if let Some(state) = self.conns.get_mut(key) {
            state.phase = Phase::Gone;
            self.io.close(key, how);
        }
    }

    /// Ends a session: closes its connections and its port.
    pub(super) fn end_port(&mut self, id: PortId, reason: CloseReason) {
        let conn_reason = match reason {
            CloseReason::Panicked
            | CloseReason::ServerStopping
            | CloseReason::TakenOver
            | CloseReason::Kicked
            | CloseReason::Blocked => reason,
            _ => CloseReason::SessionEnded,
        };
        let Some(port) = self.fabric.ports.get_mut(id) else { return };
        let keys: Vec<ConnKey> = port.link.keys().collect();
        for key in keys {
            self.close_conn(key, conn_reason);
        }
        let Some(mut port) = self.fabric.close_port(id) else { return };
        let lost = port.link.end(&mut self.fabric.pools);
        self.fabric.counters.drop_frames(DropReason::EgressNoConnection, lost);
        self.fabric.counters.close(reason);
        let (session, carried) = (port.session, port.link.carried());
        (self.reports)(Report::SessionEnded { session, worker: self.fabric.index, reason, carried, at: self.now });
    }
}
