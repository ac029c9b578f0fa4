//! Counters of a worker: one writer, any reader, relaxed.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::closes::CloseReason;
use super::drops::DropReason;

/// A count with one writer. Adding is a plain load and store: no locked instruction on the hot path.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the thread that owns the counter may call this; a second writer loses counts.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets the value, for gauges.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value now.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($( $(#[doc = $help:literal])+ $field:ident, )+) => {
        /// What one worker counts.
        #[derive(Debug)]
        pub struct Counters {
            $( $(#[doc = $help])+ pub $field: Counter, )+
            drops: Vec<Counter>,
            closes: Vec<Counter>,
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $( $field: Counter::default(), )+
                    drops: DropReason::ALL.iter().map(|_| Counter::default()).collect(),
                    closes: CloseReason::ALL.iter().map(|_| Counter::default()).collect(),
                }
            }
        }

        impl Counters {
            /// Name and value of every counter that is not a drop or close reason.
            pub fn plain(&self) -> Vec<(&'static str, u64)> {
                vec![ $( (stringify!($field), self.$field.read()), )+ ]
            }
        }
    };
}

counters! {
    /// Passes of the loop.
    turns,
    /// Frames received from members.
    frames_in,
    /// Bytes of those frames.
    bytes_in,
    /// Frames put into records for members; a flooded frame counts once per copy.
    frames_out,
    /// Bytes of those frames.
    bytes_out,
    /// TLS records opened.
    records_in,
    /// TLS records sealed.
    records_out,
    /// Frames flooded.
    floods,
    /// Frames handed to another worker.
    handed_over,
    /// Frames that waited in an egress queue.
    queued,
    /// TLS key updates, either direction.
    key_updates,
    /// Source addresses that could not be learned because the FDB was full; they cost flooding.
    fdb_full,
    /// Packets received from the Internet; super-packets count once.
    lane_received,
    /// Bytes of those packets.
    lane_received_bytes,
    /// Of those, super-packets.
    lane_received_super,
    /// Frames sent to the Internet; super-packets count once.
    lane_sent,
    /// Bytes of those frames.
    lane_sent_bytes,
    /// Of those, super-packets.
    lane_sent_super,
    /// Packets that were merged into one before them.
    lane_merged,
    /// Times the link of a device went down, as each worker sees it.
    lane_link_downs,
    /// Signs that somebody else uses a public address of ours.
    lane_conflicts,
    /// Questions for the card of a next hop.
    lane_arp_asked,
    /// Packets from outside that came to a worker other than that which has their port.
    lane_crossed,
    /// Packets for outside that another worker sent, because the NIC has fewer queues than there are workers.
    lane_relayed,
    /// Ports open now.
    ports,
    /// Connections open now.
    conns,
}

impl Counters {
    /// Counts one frame dropped for `reason`.
    #[inline]
    pub fn drop_frame(&self, reason: DropReason) {
        self.drops[reason.index()].add(1);
    }

    /// Counts `n` frames dropped for `reason`.
    pub fn drop_frames(&self, reason: DropReason, n: u64) {
        self.drops[reason.index()].add(n);
    }

    /// Counts one connection or session closed for `reason`.
    pub fn close(&self, reason: CloseReason) {
        self.closes[reason.index()].add(1);
    }

    /// Frames dropped for `reason` so far.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()].read()
    }

    /// Connections and sessions closed for `reason` so far.
    pub fn closes(&self, reason: CloseReason) -> u64 {
        self.closes[reason.index()].read()
    }
}
