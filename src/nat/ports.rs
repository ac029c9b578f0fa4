//! External ports of one worker: blocks, given to one inside address at a time, and commons.
//!
//! **Blocks.** An inside address gets its first block if any is free. A further one only while it has fewer than a
//! quarter of what is free (a dynamic threshold): few members share all, many get one each. Blocks of its member's that
//! rest count as had. Inside a block ports are chosen at random, for each protocol by itself. A block without a mapping goes back after a while, then rests.
//!
//! **Commons** serve what blocks cannot. UDP and ICMP take single ports, never shared; they rest after use. TCP of several
//! members may share one towards different destinations: which flows live there only the table of flows knows, so the
//! caller looks for a port of which the destination is free.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::hash::{Halves, Random};
use super::plan::{NatPlan, Proto, Slice, UNIT_PORTS};
use super::table::NONE;
use crate::tick::Tick;

/// See the module text.
#[derive(Debug)]
pub(super) struct Ports {
    areas: Vec<Area>,
    blocks: Vec<Block>,
    slice: Slice,
    block_ports: u16,
    /// Blocks whose last mapping ended, and when.
    empty: VecDeque<(Tick, u32)>,
    /// Blocks that rest, and until when.
    resting: VecDeque<(Tick, u32)>,
    /// Ports of the commons that rest.
    resting_ports: VecDeque<(Tick, u32, u16, Proto)>,
    hold: Duration,
    quarantine: Duration,
}

/// One external address.
#[derive(Debug)]
struct Area {
    address: Ipv4Addr,
    /// Numbers of blocks that nobody has.
    free: Vec<u32>,
    /// One word for each unit of the commons, a bit for each port that is free; of UDP and ICMP.
    commons: [Vec<u64>; 2],
    commons_free: [u32; 2],
    /// First ports of units of the commons that TCP may use.
    tcp_units: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    area: u32,
    first: u16,
    /// Number of the host that has it; [`NONE`]: nobody.
    host: u32,
    /// A bit for each port in use, by protocol.
    used: [u64; 3],
    empty_since: Tick,
    /// Whether it stands in `Ports::empty`.
    is_queued: bool,
}

impl Ports {
    pub(super) fn new(plan: &NatPlan, worker: usize) -> Self {
        let slice = plan.slice(worker);
        let timeouts = plan.settings().timeouts;
        let mut ports = Self {
            areas: Vec::new(),
            blocks: Vec::new(),
            slice,
            block_ports: plan.block_ports(),
            empty: VecDeque::new(),
            resting: VecDeque::new(),
            resting_ports: VecDeque::new(),
            hold: timeouts.block_hold,
            quarantine: timeouts.quarantine,
        };
        for (number, address) in (0..).zip(plan.addresses()) {
            ports.add_area(plan, number, address);
        }
        ports
    }

    fn add_area(&mut self, plan: &NatPlan, number: u32, address: Ipv4Addr) {
        let Slice { first, last, commons, .. } = self.slice;
        let mut free = Vec::new();
        for first in (first..commons).step_by(self.block_ports.into()) {
            if !plan.unit_has_static(address, first) {
                free.push((self.blocks.len() as u64).low());
            }
            self.blocks.push(Block {
                area: number,
                first,
                host: NONE,
                used: [0; 3],
                empty_since: Tick(0),
                is_queued: false,
            });
        }
        let units: Vec<u16> = (commons..=last).step_by(UNIT_PORTS.into()).collect();
        let words: Vec<u64> =
            units.iter().map(|unit| if plan.unit_has_static(address, *unit) { 0 } else { u64::MAX }).collect();
        let tcp_units: Vec<u16> = units.into_iter().zip(&words).filter(|(_, w)| **w != 0).map(|(u, _)| u).collect();
        let ports = (tcp_units.len() as u64).low() * u32::from(UNIT_PORTS);
        self.areas.push(Area { address, free, commons: [words.clone(), words], commons_free: [ports; 2], tcp_units });
    }

    /// Number of external addresses.
    pub(super) fn areas(&self) -> u32 {
        (self.areas.len() as u64).low()
    }

    pub(super) fn address(&self, area: u32) -> Ipv4Addr {
        self.areas[area as usize].address
    }

    /// The external address with the most free blocks, one of them at random.
    pub(super) fn roomiest(&self, random: &mut Random) -> u32 {
        let (count, start) = (self.areas.len(), random.below(self.areas()) as usize);
        let by_room = |at: &usize| (self.areas[*at].free.len(), self.areas[*at].commons_free);
        let best = (0..count).map(|n| (start + n) % count).max_by_key(by_room);
        (best.unwrap_or(0) as u64).low()
    }

    /// Gives a block of `area` to `host`, against which `held` of them count.
    pub(super) fn grant(&mut self, area: u32, host: u32, held: usize, now: Tick, random: &mut Random) -> Option<u32> {
        self.wake(now);
        let free = &mut self.areas[area as usize].free;
        if free.is_empty() || (held > 0 && held >= free.len() / SHARE) {
            return None;
        }
        let number = free.swap_remove(random.below((free.len() as u64).low()) as usize);
        let block = &mut self.blocks[number as usize];
        (block.host, block.used) = (host, [0; 3]);
        self.emptied(number, now);
        Some(number)
    }

    fn emptied(&mut self, number: u32, now: Tick) {
        let block = &mut self.blocks[number as usize];
        block.empty_since = now;
        if !std::mem::replace(&mut block.is_queued, true) {
            self.empty.push_back((now, number));
        }
    }

    /// Address, first port and number of ports of a block.
    pub(super) fn extent(&self, block: u32) -> (Ipv4Addr, u16, u16) {
        let block = &self.blocks[block as usize];
        (self.address(block.area), block.first, self.block_ports)
    }

    /// A free port of a block: `wanted` if that is free, else one of the same parity if asked for, else any.
    pub(super) fn take(
        &mut self,
        block: u32,
        proto: Proto,
        wanted: Option<u16>,
        parity: Option<u16>,
        random: &mut Random,
    ) -> Option<u16> {
        let all = u64::MAX >> (UNIT_PORTS - self.block_ports);
        let block = &mut self.blocks[block as usize];
        let free = !block.used[proto.index()] & all;
        let bit = match wanted.and_then(|port| port.checked_sub(block.first)) {
            Some(bit) if bit < self.block_ports && free >> bit & 1 == 1 => bit,
            _ => pick(free, parity.map(|port| port ^ block.first), random)?,
        };
        block.used[proto.index()] |= 1 << bit;
        Some(block.first + bit)
    }

    /// Gives a port back.
    pub(super) fn give(&mut self, number: u32, proto: Proto, port: u16, now: Tick) {
        let block = &mut self.blocks[number as usize];
        block.used[proto.index()] &= !(1 << (port - block.first));
        if block.used == [0; 3] && block.host != NONE {
            self.emptied(number, now);
        }
    }

    /// Takes a block from its holder. It rests first.
    pub(super) fn release(&mut self, block: u32, now: Tick) {
        self.blocks[block as usize].host = NONE;
        self.resting.push_back((now + self.quarantine, block));
    }

    /// A block that had no mapping for long, and its holder. Looks at a bounded number.
    pub(super) fn next_idle(&mut self, now: Tick) -> Option<(u32, u32)> {
        for _ in 0..IDLE_PER_CALL {
            let (since, number) = *self.empty.front()?;
            if now < since + self.hold {
                return None;
            }
            self.empty.pop_front();
            let block = &mut self.blocks[number as usize];
            block.is_queued = false;
            if block.host == NONE || block.used != [0; 3] {
                continue;
            }
            if now >= block.empty_since + self.hold {
                return Some((number, block.host));
            }
            let since = block.empty_since;
            self.emptied(number, since);
        }
        None
    }

    /// When [`Self::next_idle`] or [`Self::wake`] may have something.
    pub(super) fn next_at(&self) -> Option<Tick> {
        let dues = [
            self.empty.front().map(|(since, _)| *since + self.hold),
            self.resting.front().map(|(until, _)| *until),
            self.resting_ports.front().map(|(until, ..)| *until),
        ];
        dues.into_iter().flatten().min()
    }

    /// Whether [`Self::take`] would find just what is asked for.
    pub(super) fn suits(&self, block: u32, proto: Proto, wanted: Option<u16>, parity: Option<u16>) -> bool {
        let Block { first, used, .. } = self.blocks[block as usize];
        let free = !used[proto.index()] & (u64::MAX >> (UNIT_PORTS - self.block_ports));
        let bit = wanted.and_then(|port| port.checked_sub(first)).filter(|bit| *bit < self.block_ports);
        match (wanted, parity) {
            (Some(_), _) => bit.is_some_and(|bit| free >> bit & 1 == 1),
            (None, Some(port)) => free & of_parity(port ^ first) != 0,
            (None, None) => free != 0,
        }
    }

    /// A port of the commons for UDP or ICMP.
    pub(super) fn take_common(
        &mut self,
        area: u32,
        proto: Proto,
        parity: Option<u16>,
        now: Tick,
        random: &mut Random,
    ) -> Option<u16> {
        self.wake(now);
        let kind = common_kind(proto)?;
        let area = &mut self.areas[area as usize];
        if area.commons_free[kind] == 0 {
            return None;
        }
        let words = &mut area.commons[kind];
        let start = random.below((words.len() as u64).low()) as usize;
        let at = (0..words.len()).map(|n| (start + n) % words.len()).find(|at| words[*at] != 0)?;
        let first = self.slice.commons + u16::try_from(at).ok()? * UNIT_PORTS;
        let bit = pick(words[at], parity.map(|port| port ^ first), random)?;
        words[at] &= !(1 << bit);
        area.commons_free[kind] -= 1;
        Some(first + bit)
    }

    /// Gives one back. It rests first.
    pub(super) fn give_common(&mut self, area: u32, proto: Proto, port: u16, now: Tick) {
        self.resting_ports.push_back((now + self.quarantine, area, port, proto));
    }

    /// Ports of the commons of `area` that TCP may try, in random order, at most [`TRIES`].
    pub(super) fn tries(&self, area: u32, random: &mut Random) -> impl Iterator<Item = u16> + use<'_> {
        let units = &self.areas[area as usize].tcp_units;
        let total = (units.len() as u64).low() * u32::from(UNIT_PORTS);
        let start = random.below(total);
        // Steps that have no divisor in common with the number of ports visit each of them once.
        let step = (random.below(total.max(2) - 1) + 1..).find(|step| gcd(*step, total) == 1).unwrap_or(1);
        let first = self.slice.commons;
        let port = move |n: u32| {
            let at = ((u64::from(start) + u64::from(n) * u64::from(step)) % u64::from(total.max(1))).low();
            let unit = units.get((at / u32::from(UNIT_PORTS)) as usize).copied().unwrap_or(first);
            unit + u16::try_from(at % u32::from(UNIT_PORTS)).unwrap_or(0)
        };
        (0..total.min(TRIES)).map(port)
    }

    /// Blocks that nobody has, and all.
    pub(super) fn blocks(&self) -> (usize, usize) {
        (self.areas.iter().map(|area| area.free.len()).sum(), self.blocks.len())
    }

    /// The block that `port` is in and its holder.
    pub(super) fn holder(&self, area: u32, port: u16) -> Option<(u32, u32)> {
        let per_area = self.blocks.len() / self.areas.len().max(1);
        let at = usize::from(port.checked_sub(self.slice.first)? / self.block_ports);
        let number = (at < per_area).then_some(area as usize * per_area + at)?;
        let host = self.blocks[number].host;
        (host != NONE).then_some(((number as u64).low(), host))
    }

    /// Ends the rest of blocks and ports whose time is up; each call as many as two at least, so that queues shrink
    /// faster than they grow.
    pub(super) fn wake(&mut self, now: Tick) {
        for _ in 0..WAKES_PER_CALL {
            let Some(&(until, block)) = self.resting.front() else { break };
            if until > now {
                break;
            }
            self.resting.pop_front();
            let area = self.blocks[block as usize].area;
            self.areas[area as usize].free.push(block);
        }
        for _ in 0..WAKES_PER_CALL {
            let Some(&(until, area, port, proto)) = self.resting_ports.front() else { break };
            if until > now {
                break;
            }
            self.resting_ports.pop_front();
            let Some(kind) = common_kind(proto) else { continue };
            let (at, bit) = ((port - self.slice.commons) / UNIT_PORTS, (port - self.slice.commons) % UNIT_PORTS);
            let area = &mut self.areas[area as usize];
            area.commons[kind][usize::from(at)] |= 1 << bit;
            area.commons_free[kind] += 1;
        }
    }
}

/// A bit of `free` at random; of the parity of `like` if there is one.
fn pick(free: u64, like: Option<u16>, random: &mut Random) -> Option<u16> {
    let same = like.map_or(0, |like| free & of_parity(like));
    let free = if same == 0 { free } else { same };
    if free == 0 {
        return None;
    }
    let skip = random.below(free.count_ones());
    let rest = (0..skip).fold(free, |rest, _| rest & (rest - 1));
    u16::try_from(rest.trailing_zeros()).ok()
}

/// The bits at even or odd places.
fn of_parity(like: u16) -> u64 {
    if like & 1 == 0 { EVEN } else { !EVEN }
}

fn common_kind(proto: Proto) -> Option<usize> {
    match proto {
        Proto::Tcp => None,
        Proto::Udp => Some(0),
        Proto::Icmp => Some(1),
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Bits at even places.
const EVEN: u64 = 0x5555_5555_5555_5555;
/// A member may have as many further blocks as a quarter of what is free.
const SHARE: usize = 4;
/// At 95 % of a destination's ports in use, one flow in 250 billion finds none.
const TRIES: u32 = 512;
const IDLE_PER_CALL: usize = 64;
const WAKES_PER_CALL: usize = 64;
