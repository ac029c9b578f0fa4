//! The hub's own host: what members find under the gateway's address.
#![forbid(unsafe_code)]

use crate::ids::{MemberId, PortId, SessionId};

pub mod bindings;
pub mod dhcp;

/// Who sent a frame: known from the port it came by, never from what stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The port.
    pub port: PortId,
    /// The session it belongs to.
    pub session: SessionId,
    /// The member logged in there.
    pub member: MemberId,
    /// Whether a network with many stations stands behind the port (bridge mode, relay agents).
    pub is_bridge: bool,
}
