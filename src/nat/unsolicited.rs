//! SYNs from outside that nobody expects (RFC 5382 REQ-4): silence for six seconds, in which the other half of a
//! simultaneous open may come from inside; then an answer, if it did not.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

use super::Nat;
use super::answers::Answer;
use super::events::NatSink;
use super::parse::{Head, Tuple};
use crate::tick::Tick;
use crate::wire::icmp;

/// See the module text.
#[derive(Debug)]
pub(super) struct Unsolicited {
    queue: VecDeque<Held>,
    wait: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    due: Tick,
    tuple: Tuple,
    /// The beginning of the packet, for the answer to quote.
    quote: [u8; QUOTE_BYTES_MAX],
    length: usize,
}

impl Unsolicited {
    pub(super) fn new(wait: Duration) -> Self {
        Self { queue: VecDeque::new(), wait }
    }

    /// Remembers a packet; with too many of them it goes unanswered, as most of a flood should.
    pub(super) fn hold(&mut self, tuple: &Tuple, packet: &[u8], now: Tick) {
        if self.queue.len() >= HELD_MAX {
            return;
        }
        let length = packet.len().min(QUOTE_BYTES_MAX);
        let mut quote = [0; QUOTE_BYTES_MAX];
        quote[..length].copy_from_slice(&packet[..length]);
        self.queue.push_back(Held { due: now + self.wait, tuple: *tuple, quote, length });
    }

    pub(super) fn next_at(&self) -> Option<Tick> {
        self.queue.front().map(|held| held.due)
    }
}

impl Nat {
    pub(super) fn answer_unsolicited(&mut self, now: Tick, sink: &mut impl NatSink) {
        while let Some(held) = self.unsolicited.queue.front().copied().filter(|held| held.due <= now) {
            self.unsolicited.queue.pop_front();
            if self.flows.inbound(&held.tuple).is_some() {
                continue;
            }
            let packet = &held.quote[..held.length];
            if let Ok(head) = Head::parse_quote(packet) {
                self.answer_outside(&head, packet, Answer::Unreachable(icmp::CODE_PORT), now, sink);
            }
        }
    }
}

/// A header with all options, and the ports and sequence number behind it.
const QUOTE_BYTES_MAX: usize = 68;
const HELD_MAX: usize = 1_024;
