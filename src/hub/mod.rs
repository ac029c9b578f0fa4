//! Layer-2 switching: by which port does a frame leave?
//!
//! [`ingress`], on the worker that owns the port the frame came from, in the order of protocol note
//! §12.3:
//!
//! 1. form: lengths, source address, VLAN
//! 2. policy: may this port send this frame?
//! 3. learn: the source address lives behind this port
//! 4. lookup: behind which port does the destination live?
//! 5. flood: what goes to many is limited
//!
//! [`egress`], on the worker that owns the port the frame leaves by, once for each copy:
//!
//! 1. is the port there, and is the frame meant for it?
//! 2. policy: may this port receive this frame, and from this sender?
//! 3. tags: as the port wants them
//!
//! Decides and remembers; sends nothing. The caller acts on [`Verdict`] and [`Egress`].
#![forbid(unsafe_code)]

pub mod atomic;
pub mod fdb;
pub mod limiter;
pub mod meta;
pub mod policy;
pub mod port;
pub mod profile;
pub mod shared;
pub mod view;

#[cfg(test)]
mod tests;

pub use meta::{FrameMeta, Scope, VlanEdit};
pub use port::{PortKind, PortSettings, Tenant};
pub use profile::{HubSettings, Profile};
pub use shared::{HubShared, PortError};
pub use view::HubView;

use crate::ids::PortId;
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::ethernet::{FRAME_BYTES_MAX, Frame, Mac};
use crate::wire::kinds::Kinds;
use crate::wire::loop_probe;
use crate::wire::vlan::{self, Tagging};

use fdb::{Claim, Key, Learned};
use port::PortBits;

/// What becomes of a frame that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to this port.
    Unicast(PortId, FrameMeta),
    /// It goes once to every worker with [`HubShared::floods_to`], there to all of
    /// [`HubView::flood_ports`].
    Flood(FrameMeta),
    /// It goes nowhere.
    Drop(DropReason),
}

/// What becomes of one copy of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Sent as it is.
    Pass,
    /// Sent with other tags.
    Rewrite(VlanEdit),
    /// Not sent.
    Drop(DropReason),
}

/// `frame` came in by `port` at `now`. `view` is that of the worker that owns the port.
pub fn ingress(shared: &HubShared, view: &mut HubView, port: PortId, frame: Frame<'_>, now: Tick) -> Verdict {
    match switch(shared, view, port, frame, now) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Drop(reason),
    }
}

/// A copy of `frame`, with what [`ingress`] said about it, is to leave by `port`. `view` is that of the
/// worker that owns the port.
pub fn egress(shared: &HubShared, view: &mut HubView, port: PortId, meta: FrameMeta, frame: Frame<'_>) -> Egress {
    debug_assert_eq!(view.worker(), port.worker(), "egress runs where the port lives");
    let Some(settings) = shared.ports.settings(port) else {
        return Egress::Drop(DropReason::EgressPortGone);
    };
    match refuse_egress(&settings, port, meta, frame) {
        Some(reason) => Egress::Drop(reason),
        None => retag(settings.pvid, meta, frame),
    }
}

#[inline]
fn switch(
    shared: &HubShared,
    view: &mut HubView,
    port: PortId,
    frame: Frame<'_>,
    now: Tick,
) -> Result<Verdict, DropReason> {
    let settings = shared.ports.settings(port).ok_or(DropReason::HubPortClosed)?;

    // 1. form
    check_form(frame)?;
    let (vlan, vlan_assigned) = classify_vlan(settings.pvid, frame)?;

    // 2. policy
    let quiet = settings.bits.has(PortBits::QUIET);
    let kinds = if settings.refuse_ingress.is_empty() && !quiet { None } else { Some(Kinds::of(frame)) };
    if let Some(reason) = kinds.and_then(|kinds| refusal(kinds.and(settings.refuse_ingress))) {
        return Err(reason);
    }

    // 3. learn
    let claim = Claim { port, macs_max: settings.macs_max, exclusive: settings.bits.has(PortBits::EXCLUSIVE) };
    match shared.fdb.learn(Key::new(frame.src(), vlan), &claim, now, &shared.ports) {
        Learned::Refreshed | Learned::New | Learned::Moved | Learned::Busy => {}
        // A full table costs flooding, never connectivity.
        Learned::Full => view.not_learned += 1,
        Learned::Held => return Err(DropReason::HubMacHeld),
        Learned::PortLimit => return Err(DropReason::HubMacLimit),
    }

    // 4. lookup
    let (bits, scope) = (settings.bits, Scope::Unicast);
    let meta = FrameMeta { ingress: port, bits, vlan, vlan_assigned, scope, kinds, segment_bytes: 0 };
    let scope = if frame.dst().is_group() {
        group_scope(shared, settings.bits, frame.dst())?
    } else {
        match shared.fdb.lookup(Key::new(frame.dst(), vlan), now, &shared.ports) {
            Some(egress) if egress == port => return Err(DropReason::HubSamePort),
            Some(egress) => return Ok(Verdict::Unicast(egress, meta)),
            None => unknown_scope(shared, settings.bits)?,
        }
    };
    flood(shared, view, FrameMeta { scope, ..meta }, frame.dst(), settings.floods_per_sec, now)
}

/// 5. flood
#[inline(never)]
fn flood(
    shared: &HubShared,
    view: &mut HubView,
    meta: FrameMeta,
    dst: Mac,
    floods_per_sec: u32,
    now: Tick,
) -> Result<Verdict, DropReason> {
    let FrameMeta { ingress: port, bits, scope, kinds, .. } = meta;
    let quiet = bits.has(PortBits::QUIET);
    let asks_host = quiet && scope == Scope::All && kinds.is_some_and(|kinds| kinds.intersects(ASKS_HOST));
    let scope = if asks_host && shared.has_host() { Scope::Hosts } else { scope };
    if quiet && kinds.is_some_and(|kinds| kinds.intersects(Kinds::CHATTER)) {
        return Err(DropReason::HubChatter);
    }
    if let Some(own) = view.own(port)
        && !own.storm.allow(floods_per_sec, now)
        // What finds the loop must not drown in its storm.
        && !(dst == loop_probe::GROUP && own.probes.allow(PROBES_PER_SEC, now))
    {
        return Err(DropReason::HubStorm);
    }
    Ok(Verdict::Flood(FrameMeta { scope, ..meta }))
}

fn check_form(frame: Frame<'_>) -> Result<(), DropReason> {
    if frame.bytes().len() > FRAME_BYTES_MAX {
        return Err(DropReason::FrameTooLong);
    }
    let src = frame.src();
    if src.is_group() || src.to_bits() == 0 {
        return Err(DropReason::HubGroupSource);
    }
    Ok(())
}

/// The VLAN of a frame, and whether it is the port's rather than the frame's.
///
/// A port with a VLAN of its own (`pvid` not 0) sends frames without a tag or with a priority only. On
/// any other port tags are the business of those who use them: the outermost one names the VLAN,
/// 802.1Q and 802.1ad alike, and none means VLAN 0.
#[inline]
fn classify_vlan(pvid: u16, frame: Frame<'_>) -> Result<(u16, bool), DropReason> {
    match vlan::tagging(frame) {
        Tagging::Untagged => Ok((pvid, pvid != 0)),
        Tagging::Truncated => Err(DropReason::FrameTooShort),
        Tagging::Tagged(tag) if tag.vid() == vlan::VID_RESERVED => Err(DropReason::HubVlan),
        Tagging::Tagged(tag) if pvid == 0 => Ok((tag.vid(), false)),
        Tagging::Tagged(tag) if tag.tpid == vlan::TPID_CUSTOMER && tag.vid() == vlan::VID_PRIORITY => Ok((pvid, true)),
        Tagging::Tagged(_) => Err(DropReason::HubVlan),
    }
}

/// Who gets a frame to a group address.
#[inline]
fn group_scope(shared: &HubShared, bits: PortBits, dst: Mac) -> Result<Scope, DropReason> {
    if dst.to_bits() & !0xf != RESERVED_GROUPS {
        return match dst {
            // Among strangers only bridges have a loop to find.
            loop_probe::GROUP if !shared.settings.profile.floods_unknown() && !bits.has(PortBits::BRIDGE) => {
                Err(DropReason::HubUnknownUnicast)
            }
            // Where members cannot be bridges probes for loops would only cost.
            loop_probe::GROUP => unknown_scope(shared, bits),
            _ => Ok(Scope::All),
        };
    }
    // PAUSE is for the other end of one cable, whoever it is (802.3 annex 31B).
    let to_bridges = dst.to_bits() != PAUSE_GROUP && bits.has(PortBits::BRIDGE) && shared.has_other_bridge(bits);
    if to_bridges { Ok(Scope::Bridges) } else { Err(DropReason::HubReservedGroup) }
}

/// Who gets a frame to an unknown address.
#[inline]
fn unknown_scope(shared: &HubShared, bits: PortBits) -> Result<Scope, DropReason> {
    if shared.settings.profile.floods_unknown() {
        Ok(Scope::All)
    } else if shared.has_other_bridge(bits) {
        Ok(Scope::Bridges)
    } else {
        Err(DropReason::HubUnknownUnicast)
    }
}

#[inline]
fn refuse_egress(settings: &PortSettings, port: PortId, meta: FrameMeta, frame: Frame<'_>) -> Option<DropReason> {
    // 1. is it meant for this port?
    if meta.ingress == port {
        return Some(DropReason::HubSamePort);
    }
    if meta.scope == Scope::Bridges && !settings.bits.has(PortBits::BRIDGE) {
        let reserved = frame.dst().is_group();
        return Some(if reserved { DropReason::HubReservedGroup } else { DropReason::HubUnknownUnicast });
    }
    // 2. policy
    if meta.bits.has(PortBits::PRIVATE) && settings.bits.has(PortBits::PRIVATE) {
        return Some(DropReason::HubPrivacy);
    }
    if settings.refuse_egress.is_empty() {
        return None;
    }
    let kinds = meta.kinds.unwrap_or_else(|| Kinds::of(frame));
    refusal(kinds.and(settings.refuse_egress))
}

/// 3. of egress: tags as a port with VLAN `pvid` wants them.
#[inline]
fn retag(pvid: u16, meta: FrameMeta, frame: Frame<'_>) -> Egress {
    match (pvid, meta.vlan_assigned) {
        (0, false) => Egress::Pass,
        (0, true) => match vlan::tagging(frame) {
            Tagging::Untagged => Egress::Rewrite(VlanEdit::Push(meta.vlan)),
            _ => Egress::Rewrite(VlanEdit::SetVid(meta.vlan)),
        },
        _ if meta.vlan != pvid => Egress::Drop(DropReason::HubVlan),
        (_, true) => Egress::Pass,
        (_, false) => match vlan::tagging(frame) {
            Tagging::Tagged(tag) if tag.tpid == vlan::TPID_CUSTOMER => Egress::Rewrite(VlanEdit::Pop),
            // The same number as a service VLAN is another VLAN.
            _ => Egress::Drop(DropReason::HubVlan),
        },
    }
}

/// The reason to name for a frame that was refused for being `hit`; `None` if for nothing.
#[inline]
fn refusal(hit: Kinds) -> Option<DropReason> {
    if hit.is_empty() {
        None
    } else if hit.intersects(Kinds::ROUTER_ADVERT) {
        Some(DropReason::HubRouterAdvert)
    } else if hit.intersects(Kinds::DHCP_SERVER | Kinds::DHCPV6_SERVER) {
        Some(DropReason::HubDhcpServer)
    } else if hit.intersects(Kinds::IPV6) {
        Some(DropReason::HubIpv6)
    } else {
        Some(DropReason::HubPolicy)
    }
}

/// What the gateway answers for everybody, where members are strangers.
const ASKS_HOST: Kinds = Kinds::ARP.or(Kinds::DHCP);

/// A port's probes for loops in a storm: ten a second of a card, and a few of others behind it.
const PROBES_PER_SEC: u32 = 64;

/// 01-80-C2-00-00-00 to 0F: between neighbouring bridges, never forwarded (802.1Q table 8-1).
const RESERVED_GROUPS: u64 = 0x0180_c200_0000;
const PAUSE_GROUP: u64 = 0x0180_c200_0001;
