//! `hublane doctor`: looks at this machine and says what can work here, what cannot, and what would help.
//!
//! Here, about a device for a lane. It needs no server, changes nothing, and works for everybody; what the kernel tells only
//! root is left out. About the ways to a server: [`reach`].
#![forbid(unsafe_code)]

pub mod reach;

use std::fs;
use std::io;

use serde::Serialize;

use crate::control::admin::table::{Align, Table};
use crate::lane::choice::{Choice, LaneKind, LaneMode, LaneSteer, NoChoice, choose};
use crate::lane::xdp::LOCKED_BYTES_PER_QUEUE;
use crate::sys::affinity::CpuList;
use crate::sys::ethtool::HashFields;
use crate::sys::irq::Irq;
use crate::sys::limits::{self, Capability};
use crate::sys::nic::{self, NicFacts, NicKind, Ntuple};

/// What a device is worth for a lane.
#[derive(Clone, Debug, Serialize)]
pub struct LaneReport {
    /// The device.
    pub facts: NicFacts,
    /// The machine and this process.
    pub host: Host,
    /// What each mode would mean.
    pub modes: Vec<ModeReport>,
    /// What would improve it.
    pub improvements: Vec<Improvement>,
    /// Whether a lane can work there.
    pub works: bool,
    /// The same in a sentence.
    pub verdict: String,
}

/// What a lane needs besides the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Host {
    /// As many workers as a server here has by default.
    pub workers: usize,
    /// Rights that this process lacks and a server with a lane needs.
    pub missing_rights: Vec<&'static str>,
    /// Bytes that may be locked in memory. `None`: as many as there are.
    pub locked_memory_bytes: Option<u64>,
    /// Processors near the device, where the machine has far ones.
    pub near_cpus: Option<String>,
}

/// What a mode would mean.
#[derive(Clone, Debug, Serialize)]
pub struct ModeReport {
    /// As it would be asked for.
    pub mode: LaneMode,
    /// The NAT shares the address of the host.
    pub shared_address: bool,
    /// What would be taken.
    pub choice: Option<Choice>,
    /// Why nothing.
    pub refused: Option<String>,
}

/// A command that would improve something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Improvement {
    /// To be typed.
    pub command: String,
    /// What it is good for.
    pub why: String,
}

/// Looks at the device called `name`.
///
/// # Errors
/// A sentence, if there is no such device or the kernel does not answer.
pub fn lane(name: &str) -> Result<LaneReport, String> {
    let facts = nic::facts(name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no device called {name} here: `ip link` shows all"),
        _ => format!("the kernel tells nothing about {name}: {error}"),
    })?;
    let host = host(&facts);
    Ok(examine(facts, host))
}

fn host(facts: &NicFacts) -> Host {
    let needed = [Capability::NetRaw, Capability::NetAdmin, Capability::Bpf, Capability::PerfMon];
    let is_unlimited = limits::lacking(&[Capability::IpcLock]).is_empty();
    // With one node every processor is near.
    let has_far_cpus = fs::exists("/sys/devices/system/node/node1").unwrap_or(false);
    let near = |node: u32| fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).ok();
    Host {
        workers: CpuList::available().map_or(1, |cpus| cpus.numbers().len()),
        missing_rights: limits::lacking(&needed),
        locked_memory_bytes: limits::locked_memory().ok().filter(|_| !is_unlimited),
        near_cpus: facts.numa_node.filter(|_| has_far_cpus).and_then(near).map(|list| list.trim().to_owned()),
    }
}

fn examine(facts: NicFacts, host: Host) -> LaneReport {
    let asked = [
        (LaneMode::Auto, false),
        (LaneMode::Auto, true),
        (LaneMode::Xdp, false),
        (LaneMode::Xdp, true),
        (LaneMode::Packet, false),
        (LaneMode::Generic, false),
    ];
    let modes: Vec<ModeReport> = asked
        .into_iter()
        .map(|(mode, shared_address)| {
            let chosen = choose(mode, LaneSteer::Auto, &facts, shared_address, host.workers);
            let refused = chosen.as_ref().err().map(|NoChoice(why)| why.clone());
            ModeReport { mode, shared_address, choice: chosen.ok(), refused }
        })
        .collect();
    let (works, verdict, improvements) = match (&modes[0].choice, &modes[0].refused) {
        (Some(choice), _) => {
            let verdict = format!("A lane can work on {}: auto takes {}.", facts.name, choice.mode.text());
            (true, verdict, improvements(&facts, &host, choice.mode))
        }
        (None, refused) => (false, refused.clone().unwrap_or_default(), Vec::new()),
    };
    LaneReport { facts, host, modes, improvements, works, verdict }
}

impl LaneReport {
    /// For people.
    pub fn text(&self) -> String {
        let mut parts = vec![device(&self.facts)];
        // Else all modes are refused for the reason of the verdict.
        if self.works {
            parts.push(modes(&self.modes));
        }
        parts.extend(remarks(&self.modes));
        parts.extend(interrupts(&self.facts.irqs));
        if !self.improvements.is_empty() {
            let mut table = Table::new(&[("WHAT WOULD HELP", Align::Left), ("BECAUSE", Align::Left)]);
            for improvement in &self.improvements {
                table.row([improvement.command.clone(), improvement.why.clone()]);
            }
            parts.push(table.text());
        }
        if self.works {
            parts.push(format!("{}\n", self.verdict));
        }
        parts.join("\n")
    }

    /// For programs: all fields.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain fields can be written");
        text.push('\n');
        text
    }
}

fn device(facts: &NicFacts) -> String {
    let mut table = Table::new(&[("DEVICE", Align::Left), (&facts.name, Align::Left)]);
    let mut row = |what: &str, text: String| table.row([what.to_owned(), text]);
    let place = if facts.bus.is_empty() { String::new() } else { format!(" at {}", facts.bus) };
    row("kind", format!("{}, driver {}{place}", facts.kind.text(), or_unknown(&facts.driver)));
    row("state", format!("{}, MTU {}", if facts.is_up { "up" } else { "down" }, facts.mtu));
    let queues = facts.queues;
    row("queues", format!("{} receiving, {} sending, at most {}", queues.rx, queues.tx, queues.max));
    row("XDP", offer(facts));
    row(
        "XDP program",
        facts.attached.as_ref().map_or("none".into(), |other| {
            format!("id {}, {}", other.id, if other.generic { "behind the driver" } else { "in the driver" })
        }),
    );
    let flag = |name: &str, is_on: bool| format!("{name} {}", if is_on { "on" } else { "off" });
    let offloads = [
        flag("TSO", facts.tso),
        flag("GRO", facts.gro),
        flag("merging in hardware", facts.merges_in_hardware),
        format!("VLAN tags {}", if facts.strips_vlan { "taken off" } else { "kept" }),
    ];
    row("offloads", offloads.join(", "));
    let rules = match facts.ntuple {
        Ntuple::None => "none",
        Ntuple::Off => "off",
        Ntuple::On => "on",
    };
    row("rules for flows", rules.to_owned());
    row("hash over queues", hash(facts));
    row("NUMA node", facts.numa_node.map_or("none".into(), |node| node.to_string()));
    if let Some(napi) = facts.napi {
        row("interrupts", format!("put off by {} polls and {} ns", napi.defer_hard_irqs, napi.gro_flush_ns));
    }
    table.text()
}

fn or_unknown(word: &str) -> &str {
    if word.is_empty() { "unknown" } else { word }
}

fn offer(facts: &NicFacts) -> String {
    let Some(offer) = facts.xdp else { return "the kernel does not say".into() };
    let parts = [
        (offer.native, "in the driver"),
        (offer.redirect, "redirect"),
        (offer.zero_copy, "zero-copy"),
        (offer.multi_buffer, "several buffers a frame"),
        (offer.tx_checksum, "checksums when sending"),
        (offer.rx_hash, "hash when receiving"),
        (offer.rx_vlan_tag, "VLAN tag when receiving"),
    ];
    let has: Vec<_> = parts.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    if has.is_empty() { "none".into() } else { has.join(", ") }
}

/// The table in short: which queue has how much of it.
fn hash(facts: &NicFacts) -> String {
    let Some(rss) = &facts.rss else { return "none".into() };
    let shares = rss.shares();
    let (least, most) = (shares.iter().map(|share| share.1).min(), shares.iter().map(|share| share.1).max());
    let fields = |fields: Option<HashFields>| fields.map_or("unknown".into(), |fields| fields.names().join(" + "));
    format!(
        "{} entries over {} queues, {} to {} each; TCP by {}; UDP by {}",
        rss.indirection.len(),
        shares.len(),
        least.unwrap_or(0),
        most.unwrap_or(0),
        fields(rss.tcp4_fields),
        fields(rss.udp4_fields)
    )
}

fn modes(modes: &[ModeReport]) -> String {
    let mut table = Table::new(&[
        ("MODE", Align::Left),
        ("ADDRESS", Align::Left),
        ("LANE", Align::Left),
        ("STEERING", Align::Left),
        ("WHY, OR WHY NOT", Align::Left),
    ]);
    for report in modes {
        let lane = report.choice.as_ref().map_or("none", |choice| choice.mode.text());
        let steer = report.choice.as_ref().map_or("", |choice| word(choice.steer, LaneSteer::WORDS));
        let why = report.choice.as_ref().map(|choice| &choice.why).or(report.refused.as_ref());
        let [mode, address] = mode_and_address(report);
        table.row([mode, address, lane.into(), steer.into(), why.cloned().unwrap_or_default()]);
    }
    table.text()
}

fn remarks(modes: &[ModeReport]) -> Option<String> {
    let mut table = Table::new(&[("MODE", Align::Left), ("ADDRESS", Align::Left), ("REMARK", Align::Left)]);
    for report in modes {
        for remark in report.choice.iter().flat_map(|choice| &choice.remarks) {
            let [mode, address] = mode_and_address(report);
            table.row([mode, address, remark.clone()]);
        }
    }
    (!table.is_empty()).then(|| table.text())
}

fn mode_and_address(report: &ModeReport) -> [String; 2] {
    let address = if report.shared_address { "shared" } else { "own" };
    [word(report.mode, LaneMode::WORDS).to_owned(), address.to_owned()]
}

fn word<T: PartialEq>(value: T, words: &'static [(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, other)| *other == value).map_or("", |(word, _)| word)
}

fn interrupts(irqs: &[Irq]) -> Option<String> {
    let mut table = Table::new(&[("IRQ", Align::Right), ("QUEUE", Align::Left), ("CPUS", Align::Left)]);
    for irq in irqs {
        let cpus: Vec<String> = irq.cpus.iter().map(u32::to_string).collect();
        table.row([irq.number.to_string(), irq.queue.clone(), cpus.join(",")]);
    }
    (!table.is_empty()).then(|| table.text())
}

/// What applies to a lane of kind `mode` on this device.
fn improvements(facts: &NicFacts, host: &Host, mode: LaneKind) -> Vec<Improvement> {
    let name = &facts.name;
    let mut all = Vec::new();
    let mut add = |command: String, why: &str| all.push(Improvement { command, why: why.to_owned() });
    if !facts.is_up {
        add(format!("ip link set {name} up"), "nothing passes a device that is down");
    }
    if facts.kind == NicKind::Physical {
        let workers = u32::try_from(host.workers).unwrap_or(u32::MAX);
        let queues = workers.min(facts.queues.max);
        if facts.queues.rx < queues {
            add(format!("ethtool -L {name} combined {queues}"), "there are more workers than queues");
        }
        if mode == LaneKind::Packet && !facts.gro {
            add(format!("ethtool -K {name} gro on"), "merged segments cost a fraction of single ones");
        }
        let is_for_xdp = facts.xdp.is_some_and(|offer| offer.native && offer.zero_copy);
        if mode == LaneKind::Packet && is_for_xdp && facts.merges_in_hardware {
            add(
                format!("ethtool -K {name} lro off rx-gro-hw off"),
                "then auto takes AF_XDP for addresses of the NAT's own; TCP of the host itself gets slower",
            );
        }
        if facts.queues.rx > 1 && facts.ntuple == Ntuple::Off && mode != LaneKind::Packet {
            add(format!("ethtool -K {name} ntuple on"), "rules of the card bring packets to the worker of their port");
        }
        if let Some(rss) = &facts.rss {
            let (used, queues) = (rss.shares().len(), facts.queues.rx);
            if u32::try_from(used).is_ok_and(|used| used < queues) {
                add(format!("ethtool -X {name} equal {queues}"), "the hash leaves queues out");
            }
            let by_ports = |fields: HashFields| fields.names().contains(&"destination port");
            if queues > 1 && rss.udp4_fields.is_some_and(|fields| !by_ports(fields)) {
                add(
                    format!("ethtool -N {name} rx-flow-hash udp4 sdfn"),
                    "all UDP between two hosts comes by one queue",
                );
            }
        }
    }
    if mode == LaneKind::XdpNative {
        for_xdp(facts, &mut add);
    }
    if let Some(cpus) = &host.near_cpus {
        add(format!("hublane serve --workers {cpus}"), "these processors are near the device");
    }
    rights(facts, host, mode, &mut add);
    all.extend(affinity(facts, host));
    all
}

fn for_xdp(facts: &NicFacts, add: &mut impl FnMut(String, &str)) {
    let name = &facts.name;
    if facts.strips_vlan && facts.has_vlans {
        add(format!("ethtool -K {name} rxvlan off"), "XDP does not see tags that the card has taken off");
    }
    if facts.napi.is_some_and(|napi| napi.defer_hard_irqs == 0) {
        add(
            format!("echo 2 >/sys/class/net/{name}/napi_defer_hard_irqs"),
            "with --lane-busy-poll-us: no interrupts while somebody polls",
        );
    }
    if facts.napi.is_some_and(|napi| napi.gro_flush_ns == 0) {
        add(
            format!("echo 200000 >/sys/class/net/{name}/gro_flush_timeout"),
            "with --lane-busy-poll-us: the kernel polls if nobody does",
        );
    }
}

fn rights(facts: &NicFacts, host: &Host, mode: LaneKind, add: &mut impl FnMut(String, &str)) {
    if !host.missing_rights.is_empty() {
        let all = host.missing_rights.join(" ");
        add(
            format!("AmbientCapabilities={all}"),
            "in the unit, if the server runs as this user: a lane needs these rights",
        );
    }
    let is_short = host
        .locked_memory_bytes
        .is_some_and(|bytes| bytes < LOCKED_BYTES_PER_QUEUE * u64::from(facts.queues.rx.max(1)));
    if is_short && mode != LaneKind::Packet {
        add("LimitMEMLOCK=infinity".into(), "in the unit (`ulimit -l`): frames of AF_XDP lie in locked memory");
    }
}

/// If all queues interrupt one processor: one for each.
fn affinity(facts: &NicFacts, host: &Host) -> Vec<Improvement> {
    let one = facts.irqs.first().map(|irq| irq.cpus.as_slice()).filter(|cpus| cpus.len() == 1);
    let is_crowded = facts.irqs.len() > 1 && one.is_some_and(|one| facts.irqs.iter().all(|irq| irq.cpus == one));
    if !is_crowded || host.workers < 2 {
        return Vec::new();
    }
    let command = |(index, irq): (usize, &Irq)| Improvement {
        command: format!("echo {} >/proc/irq/{}/smp_affinity_list", index % host.workers, irq.number),
        why: "all queues interrupt the same processor".into(),
    };
    facts.irqs.iter().enumerate().map(command).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::nic::{Napi, Queues, Rss, XdpOffer};

    fn card() -> NicFacts {
        let all = XdpOffer { native: true, redirect: true, zero_copy: true, multi_buffer: true, ..XdpOffer::default() };
        NicFacts {
            name: "eth0".into(),
            kind: NicKind::Physical,
            is_ethernet: true,
            is_up: true,
            driver: "ice".into(),
            bus: "0000:03:00.0".into(),
            mtu: 1500,
            queues: Queues { rx: 4, tx: 4, max: 64 },
            xdp: Some(all),
            gro: true,
            ntuple: Ntuple::On,
            rss: Some(Rss { indirection: vec![0, 1, 2, 3], key_bytes: 40, ..Rss::default() }),
            irqs: (0..4)
                .map(|index| Irq { number: 60 + index, queue: format!("eth0-TxRx-{index}"), cpus: vec![index] })
                .collect(),
            napi: Some(Napi { defer_hard_irqs: 2, gro_flush_ns: 200_000 }),
            ..NicFacts::default()
        }
    }

    fn commands(change: impl FnOnce(&mut NicFacts, &mut Host)) -> Vec<String> {
        let (mut facts, mut host) = (card(), Host { workers: 4, ..Host::default() });
        change(&mut facts, &mut host);
        examine(facts, host).improvements.into_iter().map(|improvement| improvement.command).collect()
    }

    #[test]
    fn only_what_applies_is_advised() {
        assert!(commands(|_, _| {}).is_empty());
        let one = |change: fn(&mut NicFacts, &mut Host), said: &str| {
            let found = commands(change);
            assert!(found.len() == 1 && found[0].contains(said), "{said}: {found:?}");
        };
        one(|facts, _| facts.is_up = false, "ip link set eth0 up");
        one(|_, host| host.workers = 8, "ethtool -L eth0 combined 8");
        one(|facts, _| facts.ntuple = Ntuple::Off, "ntuple on");
        one(|facts, _| facts.rss.as_mut().unwrap().indirection = vec![0, 1], "ethtool -X eth0 equal 4");
        one(|facts, _| facts.rss.as_mut().unwrap().udp4_fields = Some(HashFields(0x30)), "rx-flow-hash udp4 sdfn");
        one(|facts, _| facts.merges_in_hardware = true, "lro off");
        one(|facts, _| (facts.strips_vlan, facts.has_vlans) = (true, true), "rxvlan off");
        one(|facts, _| facts.napi.as_mut().unwrap().defer_hard_irqs = 0, "napi_defer_hard_irqs");
        one(|facts, _| facts.napi.as_mut().unwrap().gro_flush_ns = 0, "gro_flush_timeout");
        one(|_, host| host.near_cpus = Some("8-15".into()), "--workers 8-15");
        one(|_, host| host.missing_rights = vec!["CAP_BPF"], "AmbientCapabilities=CAP_BPF");
        one(|_, host| host.locked_memory_bytes = Some(8 << 20), "LimitMEMLOCK");
        let crowded = commands(|facts, _| facts.irqs.iter_mut().for_each(|irq| irq.cpus = vec![0]));
        assert_eq!(crowded.len(), 4);
        assert_eq!(crowded[1], "echo 1 >/proc/irq/61/smp_affinity_list");
        // What packet sockets do not need is not advised for them.
        let packet = commands(|facts, host| {
            facts.xdp = None;
            facts.gro = false;
            facts.ntuple = Ntuple::Off;
            facts.merges_in_hardware = true;
            host.locked_memory_bytes = Some(0);
        });
        assert_eq!(packet, ["ethtool -K eth0 gro on"]);
    }

    #[test]
    fn the_text_has_everything() {
        let report = examine(card(), Host { workers: 4, ..Host::default() });
        let text = report.text();
        for said in [
            "a physical device, driver ice at 0000:03:00.0",
            "up, MTU 1500",
            "4 receiving, 4 sending, at most 64",
            "in the driver, redirect, zero-copy, several buffers a frame",
            "4 entries over 4 queues, 1 to 1 each",
            "auto     own      AF_XDP          ntuple",
            "auto     shared   packet sockets  handoff",
            "loses fragments",
            "gro off lro off",
            " 62  eth0-TxRx-2  2",
            "A lane can work on eth0: auto takes AF_XDP.",
        ] {
            assert!(text.contains(said), "{said}:\n{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["modes"][0]["choice"]["mode"], "xdp-native");
        assert_eq!(json["facts"]["xdp"]["zero_copy"], true);
    }

    #[test]
    fn a_device_without_ethernet_is_refused() {
        let lo = NicFacts { name: "lo".into(), kind: NicKind::Loopback, ..NicFacts::default() };
        let report = examine(lo, Host::default());
        assert!(!report.works && report.verdict.contains("lo is the loopback device"));
        assert!(report.improvements.is_empty() && report.modes.iter().all(|mode| mode.choice.is_none()));
    }
}
