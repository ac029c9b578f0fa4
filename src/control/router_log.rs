//! Events of gateways and NATs as lines: who has which address, and which public port, from when to when.
#![forbid(unsafe_code)]

use std::fmt;

use crate::gateway::GatewayEvent;
use crate::gateway::bindings::Binding;
use crate::gateway::dhcp::{DhcpEvent, LeaseEnd};
use crate::nat::{Insider, NatEvent, Translation};
use crate::worker::router::RouterEvent;

/// An event as `key=value` words.
#[derive(Debug)]
pub struct RouterWords<'e>(pub &'e RouterEvent);

impl fmt::Display for RouterWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RouterEvent::Gateway(event) => gateway(f, event),
            RouterEvent::Nat(event) => nat(f, event),
        }
    }
}

/// Whether the event is a sign that somebody does what he should not.
pub fn is_warning(event: &RouterEvent) -> bool {
    matches!(
        event,
        RouterEvent::Gateway(
            GatewayEvent::AddressClaimed { .. }
                | GatewayEvent::Dhcp(DhcpEvent::Conflict { .. } | DhcpEvent::PoolEmpty { .. })
        ) | RouterEvent::Nat(NatEvent::Refused { .. })
    )
}

/// Whether the event tells who had which address or public port: what an abuse report is answered from.
pub fn is_trace(event: &RouterEvent) -> bool {
    match event {
        RouterEvent::Nat(event) => !matches!(event, NatEvent::Refused { .. }),
        RouterEvent::Gateway(event) => matches!(
            event,
            GatewayEvent::Bound { .. }
                | GatewayEvent::Dhcp(DhcpEvent::Granted { .. } | DhcpEvent::Moved { .. } | DhcpEvent::Ended { .. })
        ),
    }
}

fn gateway(f: &mut fmt::Formatter<'_>, event: &GatewayEvent) -> fmt::Result {
    match event {
        GatewayEvent::AddressClaimed { origin, mac, address, holder } => {
            write!(f, "address claimed address={address} mac={mac} session={}", origin.session.0)?;
            holder.map_or(Ok(()), |holder| write!(f, " holder={}", holder.session.0))
        }
        GatewayEvent::Bound { address, before, after } => {
            write!(f, "address bound address={address}")?;
            before.map_or(Ok(()), |before| write!(f, " before={}", before.session.0))?;
            after.map_or(Ok(()), |after| write!(f, "{}", BindingWords(&after)))
        }
        GatewayEvent::Asked { origin, name, kind } => {
            write!(f, "dns question session={} type={kind} name=\"{}\"", origin.session.0, name.escape_ascii())
        }
        GatewayEvent::Dhcp(event) => dhcp(f, event),
    }
}

fn dhcp(f: &mut fmt::Formatter<'_>, event: &DhcpEvent) -> fmt::Result {
    match event {
        DhcpEvent::Granted { address, binding, secs } => {
            write!(f, "lease granted address={address} secs={secs}{}", BindingWords(binding))
        }
        DhcpEvent::Renewed { address, binding, secs } => {
            write!(f, "lease renewed address={address} secs={secs}{}", BindingWords(binding))
        }
        DhcpEvent::Moved { address, binding } => write!(f, "lease moved address={address}{}", BindingWords(binding)),
        DhcpEvent::Ended { address, member, mac, why } => {
            let why = match why {
                LeaseEnd::Released => "released",
                LeaseEnd::Expired => "expired",
                LeaseEnd::Replaced => "replaced",
                LeaseEnd::Declined => "declined",
                LeaseEnd::Operator => "operator",
            };
            write!(f, "lease ended address={address} member={} mac={mac} reason={why}", member.0)
        }
        DhcpEvent::Conflict { address, by, declined } => {
            write!(f, "address in use without a lease address={address} by={by} declined={declined}")
        }
        DhcpEvent::PoolEmpty { member, session } => {
            write!(f, "no address left member={} session={}", member.0, session.0)
        }
    }
}

fn nat(f: &mut fmt::Formatter<'_>, event: &NatEvent) -> fmt::Result {
    match event {
        NatEvent::BlockGranted { insider, block } | NatEvent::BlockReleased { insider, block } => {
            let what = if matches!(event, NatEvent::BlockGranted { .. }) { "granted" } else { "released" };
            let last = block.first + (block.ports - 1);
            write!(f, "ports {what} external={} ports={}-{last}{}", block.address, block.first, InsiderWords(insider))
        }
        NatEvent::SessionChanged { insider } => write!(f, "ports moved{}", InsiderWords(insider)),
        NatEvent::MappingBegan { insider, translation } => {
            write!(f, "mapping begins{}{}", TranslationWords(translation), InsiderWords(insider))
        }
        NatEvent::MappingEnded { insider, translation } => {
            write!(f, "mapping ends{}{}", TranslationWords(translation), InsiderWords(insider))
        }
        NatEvent::FlowBegan { insider, translation, remote } => {
            write!(f, "flow begins{} remote={remote}{}", TranslationWords(translation), InsiderWords(insider))
        }
        NatEvent::FlowEnded { insider, translation, remote } => {
            write!(f, "flow ends{} remote={remote}{}", TranslationWords(translation), InsiderWords(insider))
        }
        NatEvent::Refused { insider, reason } => {
            write!(f, "nat refused reason={}{}", reason.label(), InsiderWords(insider))
        }
    }
}

struct BindingWords<'b>(&'b Binding);

impl fmt::Display for BindingWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Binding { mac, session, member, .. } = self.0;
        write!(f, " mac={mac} session={} member={}", session.0, member.0)
    }
}

struct InsiderWords<'i>(&'i Insider);

impl fmt::Display for InsiderWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Insider { address, member, session } = self.0;
        write!(f, " address={address} session={} member={}", session.0, member.0)
    }
}

struct TranslationWords<'t>(&'t Translation);

impl fmt::Display for TranslationWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Translation { proto, inside, external } = self.0;
        let proto = format!("{proto:?}").to_ascii_lowercase();
        write!(f, " proto={proto} inside={inside} external={external}")
    }
}
