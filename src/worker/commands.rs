//! What control threads ask a worker to do. Rare: may allocate.
//!
//! Every session and connection that is handed to a worker is answered for by a report at its end, also if it
//! never began for want of room.
#![forbid(unsafe_code)]

use super::Worker;
use super::ingress::Ingress;
use super::io::StreamIo;
use super::seeds::{Command, ConnSeed, ConnView, PortView, Report, SessionSeed};
use super::slots::{ConnState, Phase, Port};
use crate::ids::{ConnKey, PortId, SessionId};
use crate::metrics::closes::CloseReason;
use crate::tls::keys::Version;
use crate::tunnel::link::Link;

/// Commands per turn, so that a wave of logins cannot hold up frames.
const COMMANDS_PER_TURN: usize = 32;

impl<Io: StreamIo> Worker<Io> {
    #[inline]
    pub(super) fn obey(&mut self) {
        if !self.commands.is_empty() {
            self.obey_some();
        }
    }

    /// Aside of the turn, so that nothing of it is worked on where there is no command.
    #[cold]
    #[inline(never)]
    fn obey_some(&mut self) {
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else { return };
            match command {
                Command::Open(session, conn) => self.open_session(*session, *conn),
                Command::Attach(session, conn) => self.attach(session, *conn),
                Command::End(session, reason) => {
                    if let Some(id) = self.fabric.ports.of_session(session) {
                        self.end_port(id, reason);
                    }
                }
                Command::Inspect(answer) => answer(self.inspect()),
                Command::Router(hub, order) => self.fabric.obey_order(hub, order, self.now),
                Command::Stop => self.stop(),
                Command::Leave => self.leaving = true,
            }
        }
    }

    fn open_session(&mut self, seed: SessionSeed, conn: ConnSeed<Io::Socket>) {
        let session = seed.session;
        // A session that never had a connection would wait for its client in vain.
        if !self.stopping
            && self.conns.len() < self.settings.conns_max
            && let Some(id) = self.open_port(seed)
        {
            return self.add_conn(id, conn);
        }
        let reason = if self.stopping { CloseReason::ServerStopping } else { CloseReason::NoRoom };
        self.turn_away(session, conn, reason);
        let (worker, at) = (self.fabric.index, self.now);
        (self.reports)(Report::SessionEnded { session, worker, reason, carried: Default::default(), at });
    }

    fn open_port(&mut self, seed: SessionSeed) -> Option<PortId> {
        let id = self.fabric.ports.reserve()?;
        let port = Port {
            id,
            hub: seed.hub,
            session: seed.session,
            member: seed.member,
            link: Link::new(seed.link, self.now),
            timer_at: self.now,
        };
        self.fabric.open_port(Box::new(port), seed.port).then_some(id)
    }

    fn attach(&mut self, session: SessionId, conn: ConnSeed<Io::Socket>) {
        match self.fabric.ports.of_session(session) {
            Some(id) => self.add_conn(id, conn),
            None => self.turn_away(session, conn, CloseReason::SessionEnded),
        }
    }

    /// Adds a connection to a port, with what it had already received.
    fn add_conn(&mut self, id: PortId, seed: ConnSeed<Io::Socket>) {
        let Some(session) = self.fabric.ports.get_mut(id).map(|port| port.session) else { return };
        if self.conns.len() >= self.settings.conns_max {
            return self.turn_away(session, seed, CloseReason::NoRoom);
        }
        let ConnSeed { socket, conn, way, plain, cipher, id: conn_id, peer } = seed;
        let state = ConnState { id: conn_id, peer, phase: Phase::Live(id) };
        let key = self.conns.insert(state);
        if self.io.open(key, socket).is_err() {
            self.conns.remove(key);
            self.fabric.counters.close(CloseReason::NoRoom);
            (self.reports)(Report::ConnClosed {
                session,
                conn: conn_id,
                peer,
                reason: CloseReason::NoRoom,
                at: self.now,
            });
            return;
        }
        self.fabric.counters.conns.set(self.conns.len() as u64);
        let Some(port) = self.fabric.ports.get_mut(id) else { return };
        port.link.attach(key, conn, way, self.now);
        self.receive_early(id, key, &plain, &cipher);
        self.poll_port(id);
    }

    /// Takes what was received before the worker had the socket.
    fn receive_early(&mut self, id: PortId, key: ConnKey, plain: &[u8], cipher: &[u8]) {
        let received = self.step(id, |_, port, scratch, fabric, now| {
            let mut sink = Ingress { fabric, port: id, hub: port.hub, now };
            port.link.receive_plain(key, plain, scratch, &mut sink)?;
            port.link.receive(key, cipher, now, scratch, &mut sink)
        });
        if let Some(Err(reason)) = received {
            self.close_conn(key, reason);
        }
    }

    fn inspect(&self) -> Vec<PortView> {
        let conn_view = |port: &Port, key: ConnKey| {
            let state = self.conns.get(key)?;
            let layer = &port.link.conn(key)?.layer;
            let version = match layer.version() {
                Version::Tls12 => "1.2",
                Version::Tls13 => "1.3",
            };
            let tls = format!("{version} {}", layer.suite().name());
            Some(ConnView { id: state.id, peer: state.peer, tls, key_updates: layer.key_updates() })
        };
        let view = |port: &Port| PortView {
            session: port.session,
            port: port.id,
            macs: self.fabric.macs_of(port),
            queued: port.link.queued(),
            carried: port.link.carried(),
            conns: port.link.keys().filter_map(|key| conn_view(port, key)).collect(),
        };
        self.fabric.ports.iter().map(view).collect()
    }

    fn stop(&mut self) {
        self.stopping = true;
        let sessions: Vec<SessionId> = self.fabric.ports.iter().map(|port| port.session).collect();
        for session in sessions {
            if let Some(id) = self.fabric.ports.of_session(session) {
                self.end_port(id, CloseReason::ServerStopping);
            }
        }
    }
}
