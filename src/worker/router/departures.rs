//! Sessions that have ended, on their way to the worker that has the gateway.
//!
//! Whoever sees a frame that was sent after the end of a session sees that end here: it is put down by the worker that
//! closed the port, before it serves the session by which the same member comes back. A mailbox would not do, for it may
//! be full; nor would orders, which a worker reads after its mail.
#![forbid(unsafe_code)]

use crossbeam::queue::SegQueue;

use crate::ids::SessionId;

/// See the module text. Grows by the sessions that end between two looks, 100 ms at most.
#[derive(Debug, Default)]
pub struct Departures(SegQueue<SessionId>);

impl Departures {
    /// `session` has ended and its port is closed. From any worker.
    pub fn add(&self, session: SessionId) {
        self.0.push(session);
    }

    /// One that the gateway was not told of. Without any it costs two loads.
    #[inline]
    pub fn take(&self) -> Option<SessionId> {
        if self.0.is_empty() { None } else { self.0.pop() }
    }
}
