//! Frames for the port that is being served: it is out of its table until the end of its step.
#![forbid(unsafe_code)]

use super::Fabric;
use crate::hub::FrameMeta;
use crate::ids::{HubId, PortId};
use crate::tick::Tick;
use crate::wire::ethernet::Frame;

/// See the module text. Its memory stays for the next time.
#[derive(Default)]
pub(in crate::worker) struct Later {
    bytes: Vec<u8>,
    frames: Vec<Waiting>,
}

struct Waiting {
    hub: HubId,
    to: PortId,
    meta: FrameMeta,
    end: usize,
}

impl Later {
    /// `false` if there is no room.
    pub(super) fn push(&mut self, hub: HubId, to: PortId, meta: FrameMeta, frame: Frame<'_>) -> bool {
        let end = self.bytes.len() + frame.bytes().len();
        let fits = end <= BYTES_MAX;
        if fits {
            self.bytes.extend_from_slice(frame.bytes());
            self.frames.push(Waiting { hub, to, meta, end });
        }
        fits
    }
}

impl Fabric {
    /// Delivers what waited for the end of a step.
    pub(in crate::worker) fn deliver_late(&mut self, now: Tick) {
        if self.later.frames.is_empty() {
            return;
        }
        let mut later = std::mem::take(&mut self.later);
        let mut start = 0;
        for Waiting { hub, to, meta, end } in later.frames.drain(..) {
            if let Some(frame) = Frame::new_checked(&later.bytes[start..end]) {
                self.deliver(hub, to, meta, frame, now);
            }
            start = end;
        }
        later.bytes.clear();
        self.later = later;
    }
}

/// One member's questions of one step, answered: more would be an amplifier.
const BYTES_MAX: usize = 1 << 20;
