//! What travels with a frame from worker to worker.
#![forbid(unsafe_code)]

use super::exchange::Header;
use crate::hub::FrameMeta;
use crate::ids::{HubId, PortId};

/// Where a frame goes on the other worker: to one port, or to all that are in the hub.
#[derive(Clone, Copy, Debug)]
pub struct Parcel {
    /// In which hub.
    pub hub: HubId,
    /// To which port; `None` for a flood.
    pub to: Option<PortId>,
    /// What the ingress found out about it.
    pub meta: FrameMeta,
}

impl Parcel {
    /// As the header of a mailbox message.
    pub fn to_words(self) -> Header {
        let [first, second] = self.meta.to_words();
        [u64::from(self.hub.0), self.to.map_or(FLOOD, PortId::bits), first, second]
    }

    /// From [`Self::to_words`].
    pub fn from_words([hub, to, first, second]: Header) -> Self {
        let hub = HubId(u16::try_from(hub).unwrap_or(u16::MAX));
        let to = (to != FLOOD).then(|| PortId::from_bits(to));
        Self { hub, to, meta: FrameMeta::from_words([first, second]) }
    }
}

/// Beyond any port.
const FLOOD: u64 = u64::MAX;
