//! Messages by way of a relay agent: whom to believe, and which network the client is on.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::options::Asked;
use super::settings::DhcpSettings;
use crate::gateway::Origin;

/// Whether `asked` may be answered, as far as relays matter: it came from no relay, or from one behind a port where
/// relays may be, for a client on our network.
pub(super) fn is_acceptable(asked: &Asked<'_>, origin: &Origin, settings: &DhcpSettings) -> bool {
    let relay = asked.message.giaddr();
    if relay.is_unspecified() {
        // Option 118 without a relay is a client's own wish; there is only one network it can be on.
        return true;
    }
    origin.is_bridge && settings.is_inside(client_network(asked, relay))
}

/// RFC 3527: the link selection sub-option tells the client's network if the relay's address does not; RFC 3011 (118)
/// is for those who ask on behalf of clients; else it is the network of `giaddr`.
fn client_network(asked: &Asked<'_>, relay: Ipv4Addr) -> Ipv4Addr {
    let selected = asked.relay.and_then(link_selection);
    selected.or(asked.subnet).unwrap_or(relay)
}

/// Sub-option 5 of option 82.
fn link_selection(mut information: &[u8]) -> Option<Ipv4Addr> {
    while let [kind, length, rest @ ..] = information {
        let (value, later) = rest.split_at_checked(usize::from(*length))?;
        if *kind == LINK_SELECTION {
            return <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
        }
        information = later;
    }
    None
}

/// What is echoed (RFC 3046 §2.2): all of option 82, where relays may be, with `giaddr` or without: a switch that adds
/// the option is no router.
pub(super) fn echoed<'a>(asked: &Asked<'a>, origin: &Origin) -> Option<&'a [u8]> {
    asked.relay.filter(|_| origin.is_bridge)
}

const LINK_SELECTION: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_selection_is_found_or_not() {
        for (information, want) in [
            (&[1, 2, 9, 9, 5, 4, 10, 0, 0, 0][..], Some(Ipv4Addr::new(10, 0, 0, 0))),
            (&[5, 3, 10, 0, 0], None),
            (&[5, 4, 10, 0], None),
            (&[1, 2, 9, 9], None),
            (&[1], None),
            (&[], None),
        ] {
            assert_eq!(link_selection(information), want, "{information:?}");
        }
    }
}
