//! Which way out a lane takes on a device, and why: decided from what is known about the device, without asking it.
//!
//! The rule of `auto` is never to be worse in silence. AF_XDP pays where the driver has it without a copy; elsewhere a
//! packet socket with super-packets carries several times as much, so `auto` takes that and says so. What is asked for
//! by name is taken, or refused with the reason, and never replaced by something else.
#![forbid(unsafe_code)]

use serde::Serialize;

use crate::sys::bpf;
use crate::sys::nic::{Attached, NicFacts, NicKind, Ntuple, XdpOffer};

/// What the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneMode {
    /// What is best on this device.
    #[default]
    Auto,
    /// AF_XDP in the driver.
    Xdp,
    /// Packet sockets.
    Packet,
    /// AF_XDP behind the driver.
    Generic,
}

impl LaneMode {
    /// As written in configurations.
    pub const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("xdp", Self::Xdp), ("packet", Self::Packet), ("generic", Self::Generic)];
}

/// How inbound packets come to the worker that owns their port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneSteer {
    /// What the device can do.
    #[default]
    Auto,
    /// By rules of the card.
    Ntuple,
    /// All packets of a mapping by one queue, from there by mailbox.
    Rss,
    /// As they come, from there by mailbox.
    Handoff,
}

impl LaneSteer {
    /// As written in configurations.
    pub const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("ntuple", Self::Ntuple), ("rss", Self::Rss), ("handoff", Self::Handoff)];
}

/// A kind of lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneKind {
    /// Packet sockets, with super-packets.
    Packet,
    /// AF_XDP, the program in the driver.
    XdpNative,
    /// AF_XDP, the program behind the driver.
    XdpGeneric,
}

impl LaneKind {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Packet => "packet sockets",
            Self::XdpNative => "AF_XDP",
            Self::XdpGeneric => "AF_XDP in generic mode",
        }
    }
}

/// The way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Which kind of lane.
    pub mode: LaneKind,
    /// The driver says that it needs no copy; the socket tells in the end.
    pub zero_copy_expected: bool,
    /// How packets come to their workers; never [`LaneSteer::Auto`].
    pub steer: LaneSteer,
    /// In a sentence.
    pub why: String,
    /// What is lost by it or could be better, each a sentence.
    pub remarks: Vec<String>,
}

/// Why there is no such lane on a device, with a hint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoChoice(pub String);

/// Chooses for the device of `facts`; `shared_address`: the NAT uses the host's own address; `workers`: how many there are.
///
/// # Errors
/// If what is asked for does not exist on this device.
pub fn choose(
    mode: LaneMode,
    steer: LaneSteer,
    facts: &NicFacts,
    shared_address: bool,
    workers: usize,
) -> Result<Choice, NoChoice> {
    if !facts.is_ethernet {
        let what = format!("{} is {} and no Ethernet device", facts.name, facts.kind.text());
        return Err(NoChoice(format!("{what}: a lane needs one that leads to the Internet")));
    }
    let mut remarks = Vec::new();
    let (mode, why) = match mode {
        LaneMode::Auto => automatic(facts, shared_address),
        LaneMode::Packet => (LaneKind::Packet, "packet sockets were asked for".to_owned()),
        LaneMode::Xdp => {
            check_native(facts)?;
            (LaneKind::XdpNative, "AF_XDP was asked for".to_owned())
        }
        LaneMode::Generic => {
            check_generic(facts, &mut remarks)?;
            (LaneKind::XdpGeneric, "AF_XDP in generic mode was asked for".to_owned())
        }
    };
    let zero_copy_expected = mode == LaneKind::XdpNative && facts.xdp.is_some_and(|offer| offer.zero_copy);
    match mode {
        LaneKind::Packet => {}
        LaneKind::XdpNative => native_remarks(facts, shared_address, zero_copy_expected, &mut remarks),
        LaneKind::XdpGeneric => {
            remarks.push("generic mode copies each frame and has no super-packets: packet sockets carry more".into());
            host_remarks(facts, shared_address, &mut remarks);
        }
    }
    let steer = steering(mode, steer, facts, workers, &mut remarks)?;
    Ok(Choice { mode, zero_copy_expected, steer, why, remarks })
}

/// The better of native AF_XDP and packet sockets.
fn automatic(facts: &NicFacts, shared_address: bool) -> (LaneKind, String) {
    let packet = |why: String| (LaneKind::Packet, why);
    if facts.kind != NicKind::Physical {
        let kind = facts.kind.text();
        return packet(format!(
            "{} is {kind}: AF_XDP would copy each frame there, and a packet socket moves super-packets",
            facts.name
        ));
    }
    let Some(offer) = facts.xdp else {
        return packet("the kernel does not say what the driver offers to XDP (Linux 6.3 and later do)".into());
    };
    if let Err(NoChoice(why)) = check_native(facts) {
        return packet(why);
    }
    if !offer.zero_copy {
        return packet(format!("{} has AF_XDP with a copy only, which a packet socket outdoes", driver(facts)));
    }
    if facts.merges_in_hardware {
        let name = &facts.name;
        return packet(format!(
            "{name} merges received segments itself, which AF_XDP would end: `ethtool -K {name} lro off rx-gro-hw off` first"
        ));
    }
    if shared_address {
        return packet("the NAT shares the address of the host, which would lose packets to AF_XDP".into());
    }
    let why = format!("{} has AF_XDP without a copy, and the NAT has an address of its own", driver(facts));
    (LaneKind::XdpNative, why)
}

/// Whether a program can be put into the driver.
fn check_native(facts: &NicFacts) -> Result<(), NoChoice> {
    let name = &facts.name;
    let refuse = |why: String| Err(NoChoice(why));
    if let NicKind::Vlan { parent, vid } = &facts.kind {
        let parent = if parent.is_empty() { "the device below" } else { parent };
        return refuse(format!(
            "{name} is VLAN {vid} on {parent}: its driver has no XDP, and a program is not put on {parent} for it; use packet"
        ));
    }
    check_attached(facts)?;
    match facts.xdp {
        // Attaching tells.
        None => {}
        Some(XdpOffer { native: false, .. }) => {
            return refuse(format!("{} has no XDP on {name}; use packet", driver(facts)));
        }
        Some(XdpOffer { redirect: false, .. }) => {
            return refuse(format!(
                "XDP of {} cannot redirect on {name}, which AF_XDP needs; use packet",
                driver(facts)
            ));
        }
        Some(XdpOffer { multi_buffer: false, .. }) if facts.mtu > ONE_BUFFER_MTU => {
            return refuse(format!(
                "{} takes XDP only where a frame fits into one buffer, and the MTU of {name} is {}: `ip link set {name} mtu 1500`, or use packet",
                driver(facts),
                facts.mtu
            ));
        }
        Some(_) => {}
    }
    Ok(())
}

fn check_attached(facts: &NicFacts) -> Result<(), NoChoice> {
    match &facts.attached {
        None => Ok(()),
        Some(Attached { id, name, .. }) if name == bpf::XDP_NAME => {
            Err(NoChoice(format!("a Hublane server has a lane on {} already (XDP program {id})", facts.name)))
        }
        Some(Attached { id, .. }) => Err(NoChoice(format!(
            "another XDP program has {}: its id is {id} (`bpftool prog show id {id}` tells whose it is); it is left alone",
            facts.name
        ))),
    }
}

/// Behind the driver come super-packets, which fit into no buffer of AF_XDP and are lost.
fn check_generic(facts: &NicFacts, remarks: &mut Vec<String>) -> Result<(), NoChoice> {
    let name = &facts.name;
    check_attached(facts)?;
    if facts.gro || facts.merges_in_hardware {
        return Err(NoChoice(format!(
            "with GRO or LRO on {name} received segments are merged into super-packets before generic XDP sees them, and those are lost: `ethtool -K {name} gro off lro off rx-gro-hw off`, or use packet"
        )));
    }
    match (&facts.kind, facts.peer_tso) {
        (NicKind::Veth, Some(true)) => Err(NoChoice(format!(
            "the other end of {name} sends super-packets (TSO), which generic XDP loses: `ethtool -K PEER tso off gso off` there, or use packet"
        ))),
        (NicKind::Veth, None) => {
            remarks.push(format!(
                "the other end of {name} is in another namespace: if TSO is on there, its TCP is lost (`ethtool -K PEER tso off gso off`)"
            ));
            Ok(())
        }
        (NicKind::Physical, _) => Ok(()),
        (NicKind::Veth, Some(false)) => Ok(()),
        _ => {
            remarks.push(format!("super-packets that come to {name} from this machine are lost in generic mode"));
            Ok(())
        }
    }
}

fn native_remarks(facts: &NicFacts, shared_address: bool, zero_copy: bool, remarks: &mut Vec<String>) {
    let name = &facts.name;
    if facts.xdp.is_none() {
        remarks.push("the kernel does not say what the driver offers to XDP: attaching may be refused".into());
    }
    if !zero_copy {
        remarks.push(format!(
            "{} copies each frame for AF_XDP: packet sockets carry several times as much TCP",
            driver(facts)
        ));
    }
    if facts.kind == NicKind::Veth {
        remarks.push(format!(
            "while the program is on {name}, the other end has no TSO: what goes through it to this host costs more too"
        ));
    }
    if facts.merges_in_hardware {
        remarks.push(format!(
            "{name} merges received segments itself, with which drivers refuse XDP or end it: `ethtool -K {name} lro off rx-gro-hw off`"
        ));
    }
    host_remarks(facts, shared_address, remarks);
}

/// What AF_XDP of either kind means to the host and its VLANs.
fn host_remarks(facts: &NicFacts, shared_address: bool, remarks: &mut Vec<String>) {
    if shared_address {
        remarks.push(
            "the host shares its address with the NAT and loses fragments sent to it, and answers to its own pings whose identifier lies in the NAT's range of ports".into(),
        );
    }
    if facts.strips_vlan && facts.has_vlans {
        let name = &facts.name;
        remarks.push(format!(
            "{name} takes VLAN tags off before XDP sees frames, so packets for the NAT's address in a VLAN count as without: `ethtool -K {name} rxvlan off`"
        ));
    }
}

fn steering(
    mode: LaneKind,
    wanted: LaneSteer,
    facts: &NicFacts,
    workers: usize,
    remarks: &mut Vec<String>,
) -> Result<LaneSteer, NoChoice> {
    let name = &facts.name;
    if mode == LaneKind::Packet {
        if !matches!(wanted, LaneSteer::Auto | LaneSteer::Handoff) {
            remarks
                .push("packet sockets need no steering: the kernel gives each packet to the worker of its port".into());
        }
        return Ok(LaneSteer::Handoff);
    }
    let is_alone = facts.queues.rx <= 1 || workers <= 1;
    if is_alone && !matches!(wanted, LaneSteer::Auto | LaneSteer::Handoff) {
        remarks.push("with one queue or one worker there is nothing to steer".into());
    }
    match wanted {
        _ if is_alone => Ok(LaneSteer::Handoff),
        LaneSteer::Handoff => Ok(LaneSteer::Handoff),
        LaneSteer::Ntuple => match facts.ntuple {
            Ntuple::On => Ok(LaneSteer::Ntuple),
            Ntuple::Off => Err(NoChoice(format!("rules for flows are off on {name}: `ethtool -K {name} ntuple on`"))),
            Ntuple::None => Err(NoChoice(format!("{} has no rules for flows on {name}; use handoff", driver(facts)))),
        },
        LaneSteer::Rss if facts.rss.is_some() => Ok(LaneSteer::Rss),
        LaneSteer::Rss => {
            Err(NoChoice(format!("{} has no hash over queues that could be set on {name}; use handoff", driver(facts))))
        }
        LaneSteer::Auto => Ok(automatic_steering(facts, remarks)),
    }
}

fn automatic_steering(facts: &NicFacts, remarks: &mut Vec<String>) -> LaneSteer {
    let name = &facts.name;
    match facts.ntuple {
        Ntuple::On => return LaneSteer::Ntuple,
        Ntuple::Off => remarks
            .push(format!("the card could give each worker its own ports by rules: `ethtool -K {name} ntuple on`")),
        Ntuple::None => remarks.push(format!(
            "{} has no rules for flows: packets go from the worker of their queue to that of their port by mailbox",
            driver(facts)
        )),
    }
    LaneSteer::Handoff
}

fn driver(facts: &NicFacts) -> String {
    if facts.driver.is_empty() { "the driver".into() } else { format!("driver {}", facts.driver) }
}

/// A page, less what XDP keeps in front, what the kernel keeps behind, the Ethernet header and two tags.
const ONE_BUFFER_MTU: usize = 4096 - 256 - 320 - 22;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::nic::{Queues, Rss};

    /// A card that has everything.
    fn card() -> NicFacts {
        NicFacts {
            name: "eth0".into(),
            kind: NicKind::Physical,
            is_ethernet: true,
            is_up: true,
            driver: "ice".into(),
            mtu: 1500,
            queues: Queues { rx: 8, tx: 8, max: 64 },
            xdp: Some(XdpOffer {
                native: true,
                redirect: true,
                zero_copy: true,
                multi_buffer: true,
                ..XdpOffer::default()
            }),
            tso: true,
            gro: true,
            ntuple: Ntuple::On,
            rss: Some(Rss::default()),
            ..NicFacts::default()
        }
    }

    fn veth() -> NicFacts {
        let xdp = Some(XdpOffer { native: true, redirect: true, multi_buffer: true, ..XdpOffer::default() });
        let queues = Queues { rx: 1, tx: 1, max: 2 };
        NicFacts {
            kind: NicKind::Veth,
            driver: "veth".into(),
            xdp,
            queues,
            gro: false,
            peer_tso: Some(true),
            ntuple: Ntuple::None,
            rss: None,
            ..card()
        }
    }

    fn with(mut facts: NicFacts, change: impl FnOnce(&mut NicFacts)) -> NicFacts {
        change(&mut facts);
        facts
    }

    fn offer(facts: NicFacts, change: impl FnOnce(&mut XdpOffer)) -> NicFacts {
        with(facts, |facts| change(facts.xdp.as_mut().unwrap()))
    }

    #[test]
    fn automatic_never_takes_the_worse() {
        let vlan = NicKind::Vlan { parent: "eth0".into(), vid: 9 };
        let cases = [
            (card(), false, LaneKind::XdpNative, "without a copy"),
            (card(), true, LaneKind::Packet, "shares the address"),
            (offer(card(), |xdp| xdp.zero_copy = false), false, LaneKind::Packet, "with a copy only"),
            (offer(card(), |xdp| xdp.native = false), false, LaneKind::Packet, "no XDP"),
            (offer(card(), |xdp| xdp.redirect = false), false, LaneKind::Packet, "cannot redirect"),
            (with(card(), |card| card.xdp = None), false, LaneKind::Packet, "does not say"),
            (
                with(card(), |card| card.attached = Some(Attached { id: 77, name: "other".into(), generic: false })),
                false,
                LaneKind::Packet,
                "its id is 77",
            ),
            (
                with(offer(card(), |xdp| xdp.multi_buffer = false), |card| card.mtu = 9000),
                false,
                LaneKind::Packet,
                "the MTU of eth0 is 9000",
            ),
            (with(card(), |card| card.mtu = 9000), false, LaneKind::XdpNative, "without a copy"),
            (
                with(card(), |card| card.merges_in_hardware = true),
                false,
                LaneKind::Packet,
                "lro off rx-gro-hw off` first",
            ),
            (veth(), false, LaneKind::Packet, "a veth device"),
            (with(card(), |card| card.kind = NicKind::Tap), false, LaneKind::Packet, "a tap device"),
            (with(card(), |card| card.kind = NicKind::Bridge), false, LaneKind::Packet, "a bridge"),
            (with(card(), |card| card.kind = vlan), false, LaneKind::Packet, "VLAN 9 on eth0"),
            (with(card(), |card| card.kind = NicKind::OtherVirtual), false, LaneKind::Packet, "a virtual device"),
        ];
        for (facts, shared, kind, said) in cases {
            let choice = choose(LaneMode::Auto, LaneSteer::Auto, &facts, shared, 4).unwrap();
            assert_eq!(choice.mode, kind, "{facts:?}");
            assert_eq!(choice.zero_copy_expected, kind == LaneKind::XdpNative);
            assert!(choice.why.contains(said), "{said}: {}", choice.why);
        }
    }

    #[test]
    fn what_is_asked_for_is_taken_or_refused() {
        let ours = |facts| {
            with(facts, |facts| facts.attached = Some(Attached { id: 6, name: bpf::XDP_NAME.into(), generic: false }))
        };
        let attached =
            |facts| with(facts, |facts| facts.attached = Some(Attached { id: 5, name: String::new(), generic: true }));
        let vlan = with(card(), |card| card.kind = NicKind::Vlan { parent: "eth0".into(), vid: 9 });
        let no_gro = |facts| with(facts, |facts| facts.gro = false);
        let refused = [
            (LaneMode::Xdp, offer(card(), |xdp| xdp.native = false), "no XDP on eth0"),
            (LaneMode::Xdp, vlan, "a program is not put on eth0"),
            (LaneMode::Xdp, attached(card()), "its id is 5"),
            (LaneMode::Generic, attached(no_gro(card())), "its id is 5"),
            (LaneMode::Xdp, ours(card()), "a Hublane server has a lane on"),
            (LaneMode::Generic, card(), "gro off"),
            (LaneMode::Generic, veth(), "tso off"),
            (LaneMode::Generic, with(no_gro(card()), |card| card.merges_in_hardware = true), "lro off"),
        ];
        for (mode, facts, said) in refused {
            let error = choose(mode, LaneSteer::Auto, &facts, false, 4).unwrap_err();
            assert!(error.0.contains(said), "{said}: {error}");
        }
        let taken = [
            (LaneMode::Xdp, veth(), LaneKind::XdpNative),
            (LaneMode::Xdp, with(card(), |card| card.xdp = None), LaneKind::XdpNative),
            (LaneMode::Generic, no_gro(card()), LaneKind::XdpGeneric),
            (LaneMode::Generic, with(veth(), |veth| veth.peer_tso = Some(false)), LaneKind::XdpGeneric),
            (LaneMode::Generic, with(veth(), |veth| veth.peer_tso = None), LaneKind::XdpGeneric),
            (LaneMode::Packet, attached(card()), LaneKind::Packet),
        ];
        for (mode, facts, kind) in taken {
            let choice = choose(mode, LaneSteer::Auto, &facts, false, 4).unwrap();
            assert_eq!(choice.mode, kind);
            assert!(choice.why.contains("asked for"));
        }
        for mode in LaneMode::WORDS {
            let lo = with(card(), |card| (card.is_ethernet, card.kind) = (false, NicKind::Loopback));
            let error = choose(mode.1, LaneSteer::Auto, &lo, false, 4).unwrap_err();
            assert!(error.0.contains("the loopback device and no Ethernet"), "{error}");
        }
    }

    #[test]
    fn losses_are_said() {
        let remarks = |mode, facts: &NicFacts, shared| choose(mode, LaneSteer::Auto, facts, shared, 1).unwrap().remarks;
        let all = |mode, facts: &NicFacts, shared| remarks(mode, facts, shared).join("\n");
        assert!(remarks(LaneMode::Xdp, &card(), false).is_empty());
        let shared = all(LaneMode::Xdp, &card(), true);
        assert!(shared.contains("loses fragments") && shared.contains("pings"), "{shared}");
        let veth_xdp = all(LaneMode::Xdp, &veth(), false);
        assert!(veth_xdp.contains("copies each frame") && veth_xdp.contains("no TSO"), "{veth_xdp}");
        let tags = with(card(), |card| (card.strips_vlan, card.has_vlans) = (true, true));
        assert!(all(LaneMode::Xdp, &tags, false).contains("rxvlan off"));
        assert!(all(LaneMode::Xdp, &with(card(), |card| card.merges_in_hardware = true), false).contains("lro off"));
        assert!(all(LaneMode::Xdp, &with(card(), |card| card.xdp = None), false).contains("may be refused"));
        let elsewhere = with(veth(), |veth| veth.peer_tso = None);
        assert!(all(LaneMode::Generic, &elsewhere, false).contains("another namespace"));
        assert!(remarks(LaneMode::Packet, &tags, true).is_empty());
    }

    #[test]
    fn steering_follows_the_card() {
        let of = |steer, facts: &NicFacts, workers| choose(LaneMode::Xdp, steer, facts, false, workers);
        let steer = |wanted, facts: &NicFacts, workers| of(wanted, facts, workers).unwrap().steer;
        let ntuple = |state| with(card(), |card| card.ntuple = state);
        let one_queue = with(card(), |card| card.queues.rx = 1);
        assert_eq!(steer(LaneSteer::Auto, &card(), 4), LaneSteer::Ntuple);
        assert_eq!(steer(LaneSteer::Auto, &card(), 1), LaneSteer::Handoff);
        assert_eq!(steer(LaneSteer::Auto, &one_queue, 4), LaneSteer::Handoff);
        assert_eq!(steer(LaneSteer::Auto, &ntuple(Ntuple::None), 4), LaneSteer::Handoff);
        let off = of(LaneSteer::Auto, &ntuple(Ntuple::Off), 4).unwrap();
        assert!(off.steer == LaneSteer::Handoff && off.remarks.join("").contains("ntuple on"));
        assert_eq!(steer(LaneSteer::Handoff, &card(), 4), LaneSteer::Handoff);
        assert_eq!(steer(LaneSteer::Rss, &card(), 4), LaneSteer::Rss);
        assert_eq!(steer(LaneSteer::Ntuple, &card(), 4), LaneSteer::Ntuple);
        let alone = of(LaneSteer::Rss, &one_queue, 4).unwrap();
        assert!(alone.steer == LaneSteer::Handoff && alone.remarks.join("").contains("nothing to steer"));
        for (wanted, facts, said) in [
            (LaneSteer::Ntuple, ntuple(Ntuple::Off), "ntuple on"),
            (LaneSteer::Ntuple, ntuple(Ntuple::None), "no rules"),
            (LaneSteer::Rss, with(card(), |card| card.rss = None), "no hash"),
        ] {
            let error = of(wanted, &facts, 4).unwrap_err();
            assert!(error.0.contains(said), "{error}");
        }
        let packet = choose(LaneMode::Packet, LaneSteer::Ntuple, &card(), false, 4).unwrap();
        assert!(packet.steer == LaneSteer::Handoff && packet.remarks.join("").contains("need no steering"));
    }
}
