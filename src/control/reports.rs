//! What workers tell, brought to the session table and the log: the only way by which the control threads learn
//! that a connection or session ended by itself.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::mpsc::UnboundedReceiver;

use super::front::Front;
use crate::event::{Event, Stamp, Traffic, What};
use crate::ids::SessionId;
use crate::sys::clock::wall_ns;
use crate::worker::seeds::Report;

/// Takes reports until the workers are gone. `ended` is told of every session that is over.
pub async fn run(mut reports: UnboundedReceiver<Report>, front: Arc<Front>, ended: impl Fn(SessionId) + Send) {
    while let Some(report) = reports.recv().await {
        let (at, what) = match report {
            Report::ConnClosed { session, conn, peer, reason, at } => {
                front.sessions.leave(session, conn);
                (at, What::ConnectionClosed { conn, session, peer, reason })
            }
            Report::Dropped { worker, reason, count, at } => (at, What::DropSample { worker, reason, count }),
            Report::SessionEnded { session, worker, reason, carried, at } => {
                front.sessions.end(session);
                ended(session);
                front.workers[worker].sessions.fetch_sub(1, Relaxed);
                let traffic = Traffic {
                    frames_in: carried.frames_in,
                    bytes_in: carried.bytes_in,
                    frames_out: carried.frames_out,
                    bytes_out: carried.bytes_out,
                };
                (at, What::SessionClosed { session, reason, traffic })
            }
        };
        front.events.send(Event { at: Stamp { wall_ns: wall_ns(), tick: at }, what });
    }
}
