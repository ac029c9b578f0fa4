//! What travels with a frame from worker to worker.
#![forbid(unsafe_code)]

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
