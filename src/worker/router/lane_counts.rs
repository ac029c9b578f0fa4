//! What a lane has counted, brought to the counters of its worker: drops by reason, the rest by name.
#![forbid(unsafe_code)]

use crate::lane::LaneStats;
use crate::metrics::counters::Counters;
use crate::metrics::drops::DropReason;

/// Adds what `now` has more than `before`.
pub(super) fn add(counters: &Counters, before: &LaneStats, now: &LaneStats) {
    let more = |count: fn(&LaneStats) -> u64| count(now).saturating_sub(count(before));
    counters.lane_received.add(more(|stats| stats.received));
    counters.lane_received_bytes.add(more(|stats| stats.received_bytes));
    counters.lane_received_super.add(more(|stats| stats.received_super));
    counters.lane_sent.add(more(|stats| stats.sent));
    counters.lane_sent_bytes.add(more(|stats| stats.sent_bytes));
    counters.lane_sent_super.add(more(|stats| stats.sent_super));
    counters.lane_merged.add(more(|stats| stats.merged));
    counters.lane_link_downs.add(more(|stats| stats.link_downs));
    counters.lane_conflicts.add(more(|stats| stats.conflicts));
    counters.lane_arp_asked.add(more(|stats| stats.arp_asked));
    for (reason, count) in DROPS {
        counters.drop_frames(*reason, more(*count));
    }
}

type Count = fn(&LaneStats) -> u64;

const DROPS: &[(DropReason, Count)] = &[
    (DropReason::LaneTxFull, |stats| stats.drop_tx_full),
    (DropReason::LaneTxDown, |stats| stats.drop_tx_down),
    (DropReason::LaneTxRefused, |stats| stats.drop_tx_refused),
    (DropReason::LaneTxTooLong, |stats| stats.drop_tx_too_long),
    (DropReason::LaneTxMalformed, |stats| stats.drop_tx_malformed),
    (DropReason::LaneTxUnclaimed, |stats| stats.drop_tx_unclaimed),
    (DropReason::LaneTxNoRoute, |stats| stats.drop_tx_no_route),
    (DropReason::LaneTxNoNeighbour, |stats| stats.drop_tx_no_neighbour),
    (DropReason::LaneTxWaitingFull, |stats| stats.drop_tx_waiting_full),
    (DropReason::LaneRxOverflow, |stats| stats.drop_rx_overflow),
    (DropReason::LaneRxMalformed, |stats| stats.drop_rx_malformed),
    (DropReason::LaneRxForeign, |stats| stats.drop_rx_foreign),
];
