//! What travels with a frame from worker to worker.
#![forbid(unsafe_code)]

use super::exchange::Header;
use crate::hub::FrameMeta;
use crate::ids::{HubId, PortId};

/// Where a frame goes on the other worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dest {
    /// To one port.
    Port(PortId),
    /// To all ports that are in the hub.
    Flood,
    /// To the hub's own host, which lives there.
    Host,
    /// To the NAT, on its way out: that worker owns the inside address it comes from.
    Outbound,
    /// To the NAT, on its way in: that worker owns the public port it goes to. The header of the frame is blank.
    Inbound,
    /// To the lane, translated: that worker has a queue of the device. The header of the frame is blank.
    Uplink,
}

impl Dest {
    fn to_word(self) -> u64 {
        match self {
            Self::Port(port) => port.bits(),
            Self::Flood => FLOOD,
            Self::Host => HOST,
            Self::Outbound => OUTBOUND,
            Self::Inbound => INBOUND,
            Self::Uplink => UPLINK,
        }
    }

    fn from_word(word: u64) -> Self {
        match word {
            FLOOD => Self::Flood,
            HOST => Self::Host,
            OUTBOUND => Self::Outbound,
            INBOUND => Self::Inbound,
            UPLINK => Self::Uplink,
            port => Self::Port(PortId::from_bits(port)),
        }
    }
}

/// See the module text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// In which hub.
    pub hub: HubId,
    /// To whom.
    pub to: Dest,
    /// What the ingress found out about it.
    pub meta: FrameMeta,
}

impl Parcel {
    /// As the header of a mailbox message.
    #[inline]
    pub fn to_words(self) -> Header {
        let [first, second] = self.meta.to_words();
        [u64::from(self.hub.0), self.to.to_word(), first, second]
    }

    /// From [`Self::to_words`].
    #[inline]
    pub fn from_words([hub, to, first, second]: Header) -> Self {
        let hub = HubId(u16::try_from(hub).unwrap_or(u16::MAX));
        Self { hub, to: Dest::from_word(to), meta: FrameMeta::from_words([first, second]) }
    }
}

/// Beyond any port, as are those that follow.
const FLOOD: u64 = u64::MAX;
const HOST: u64 = u64::MAX - 1;
const OUTBOUND: u64 = u64::MAX - 2;
const INBOUND: u64 = u64::MAX - 3;
const UPLINK: u64 = u64::MAX - 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Scope;
    use crate::hub::port::PortBits;

    #[test]
    fn survives_the_mailbox() {
        let port = PortId::from_bits(u64::MAX);
        let meta = FrameMeta {
            ingress: port,
            bits: PortBits::HOST,
            vlan: 7,
            vlan_assigned: true,
            scope: Scope::Hosts,
            kinds: None,
            segment_bytes: 1400,
        };
        for to in [Dest::Port(port), Dest::Flood, Dest::Host, Dest::Outbound, Dest::Inbound, Dest::Uplink] {
            let parcel = Parcel { hub: HubId(4095), to, meta };
            assert_eq!(Parcel::from_words(parcel.to_words()), parcel);
        }
    }
}
