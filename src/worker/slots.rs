//! The tables of one worker: ports by slot, connections by key.
//!
//! A [`PortId`] is valid for one tenant of its slot; a [`ConnKey`] is used again once the back end has closed the
//! socket, so a connection stays in its table until then.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use crate::ids::{ConnId, ConnKey, HubId, MemberId, PortId, SessionId};
use crate::metrics::closes::CloseReason;
use crate::tick::Tick;
use crate::tunnel::conn::Conn;
use crate::tunnel::link::Link;

/// A session's place on this worker.
pub struct Port {
    /// Its name in the hub.
    pub id: PortId,
    /// Its hub.
    pub hub: HubId,
    /// Whose.
    pub session: SessionId,
    /// Who.
    pub member: MemberId,
    /// Its connections and queues.
    pub link: Link,
    /// The timer that counts; others for this port are stale.
    pub timer_at: Tick,
}

/// Ports of one worker.
pub struct PortTable {
    worker: u8,
    slots: Vec<Slot>,
    /// Oldest first, so that a slot rests before it is used again.
    free: VecDeque<u32>,
    sessions: HashMap<SessionId, PortId>,
}

struct Slot {
    generation: u16,
    port: Option<Box<Port>>,
}

impl PortTable {
    /// No ports, on worker `worker`.
    pub fn new(worker: u8) -> Self {
        Self { worker, slots: Vec::new(), free: VecDeque::new(), sessions: HashMap::new() }
    }

    /// A free slot as a name for a new port; `None` if all are taken.
    pub fn reserve(&mut self) -> Option<PortId> {
        let slot = match self.free.pop_front() {
            Some(slot) => slot,
            None if self.slots.len() < PortId::SLOTS_MAX => {
                self.slots.push(Slot { generation: 0, port: None });
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^18 slots")
            }
            None => return None,
        };
        Some(PortId::new(self.worker, slot, self.slots[slot as usize].generation))
    }

    /// Puts a port into the slot reserved for it.
    pub fn insert(&mut self, port: Box<Port>) {
        self.sessions.insert(port.session, port.id);
        self.put_back(port);
    }

    /// The port of that name, if it still exists and is not taken out.
    #[inline]
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut Port> {
        let slot = self.slots.get_mut(id.slot())?;
        if slot.generation == id.generation() { slot.port.as_deref_mut() } else { None }
    }

    /// Takes a port out for the time of one step, so that the step can reach every other port. It must come
    /// back by [`Self::put_back`] or [`Self::remove`].
    #[inline]
    pub fn take(&mut self, id: PortId) -> Option<Box<Port>> {
        let slot = self.slots.get_mut(id.slot())?;
        if slot.generation == id.generation() { slot.port.take() } else { None }
    }

    /// Whether a port of that name exists and is taken out.
    #[inline]
    pub fn is_out(&self, id: PortId) -> bool {
        self.slots.get(id.slot()).is_some_and(|slot| slot.generation == id.generation() && slot.port.is_none())
    }

    /// Ends [`Self::take`].
    #[inline]
    pub fn put_back(&mut self, port: Box<Port>) {
        let slot = port.id.slot();
        self.slots[slot].port = Some(port);
    }

    /// Frees the slot of a port that was taken out; its name is never valid again.
    pub fn remove(&mut self, port: &Port) {
        self.sessions.remove(&port.session);
        let slot = &mut self.slots[port.id.slot()];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push_back(u32::try_from(port.id.slot()).expect("fewer than 2^18 slots"));
    }

    /// Where a session lives.
    pub fn of_session(&self, session: SessionId) -> Option<PortId> {
        self.sessions.get(&session).copied()
    }

    /// All ports.
    pub fn iter(&self) -> impl Iterator<Item = &Port> {
        self.slots.iter().filter_map(|slot| slot.port.as_deref())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

/// A connection of this worker, alive or on its way out.
pub struct ConnState {
    /// Its number.
    pub id: ConnId,
    /// The peer's real address.
    pub peer: SocketAddr,
    /// What it is doing.
    pub phase: Phase,
}

/// Life of a connection on a worker.
pub enum Phase {
    /// Carries frames for that port.
    Live(PortId),
    /// Is being closed: close_notify, FIN, drain, close.
    Closing(Closing),
    /// The back end is closing the socket.
    Gone,
}

/// How far closing has come.
pub struct Closing {
    /// Keys for the close_notify that is still to be sent.
    pub conn: Option<Box<Conn>>,
    /// A send is in flight.
    pub in_flight: bool,
    /// The peer's end of stream was seen.
    pub eof: bool,
    /// Tells this closing from an earlier one with the same key.
    pub stamp: u64,
    /// Why.
    pub reason: CloseReason,
}

/// Connections of one worker.
#[derive(Default)]
pub struct ConnTable {
    conns: Vec<Option<ConnState>>,
    free: Vec<u32>,
    len: usize,
}

impl ConnTable {
    /// Adds a connection.
    pub fn insert(&mut self, state: ConnState) -> ConnKey {
        self.len += 1;
        let at = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            u32::try_from(self.conns.len() - 1).expect("fewer connections than descriptors")
        });
        self.conns[at as usize] = Some(state);
        ConnKey(at)
    }

    /// The connection of that key.
    #[inline]
    pub fn get_mut(&mut self, key: ConnKey) -> Option<&mut ConnState> {
        self.conns.get_mut(key.0 as usize)?.as_mut()
    }

    /// The connection of that key.
    pub fn get(&self, key: ConnKey) -> Option<&ConnState> {
        self.conns.get(key.0 as usize)?.as_ref()
    }

    /// The port that a live connection belongs to.
    #[inline]
    pub fn live_port(&self, key: ConnKey) -> Option<PortId> {
        match self.get(key)?.phase {
            Phase::Live(port) => Some(port),
            Phase::Closing(_) | Phase::Gone => None,
        }
    }

    /// Frees a key.
    pub fn remove(&mut self, key: ConnKey) -> Option<ConnState> {
        let state = self.conns.get_mut(key.0 as usize)?.take()?;
        self.free.push(key.0);
        self.len -= 1;
        Some(state)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
