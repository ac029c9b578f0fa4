//! Finds loops of a card in bridge mode: a LAN and a hub joined twice, or a LAN that is joined with itself.
//!
//! Once a second, and ten times while the card carries much, it sends a probe (`crate::wire::loop_probe`) into the hub
//! and one into the LAN. None of them has a way back but a loop:
//!
//! | sent into | came back from | place |
//! |---|---|---|
//! | LAN | LAN, again and again | the LAN itself |
//! | hub, LAN | LAN, hub | a ring: LAN and hub are joined by another way, too |
//! | hub | hub | among others in the hub |
//!
//! Whatever makes the ring, one leg less is enough. Cards that a probe passes on its way write themselves into it if they
//! are newer than those before: so each card in a ring learns whether it is the newest one, and only that one gives way.
//! Bridges of other makes write nothing and never give way: then it is the card. Where another one should have given way
//! and did not within `PATIENCE`, or where the loop is among others, the card gives way, too, since its LAN would
//! carry the storm.
//!
//! Who gives way says so to the others: what their bridges have learned may be wrong from then on
//! (`Loops::take_stale`). As anybody can say so, they forget it only now and then.
//!
//! All in a hub see the probes that are sent into it, and can send them back changed. So a card does not believe a probe
//! that has come back on which side it was sent: its number tells, since those for the LAN and those for the hub are
//! counted from two random ones.
//!
//! A card that comes back after a loop lets nothing pass but probes for `GATE`. Pure: time comes by `Loops::at`.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::tick::Tick;
use crate::wire::ethernet::Mac;
use crate::wire::loop_probe::{BYTES, ETHERTYPE, Leg, LoopProbe, Side};

/// Where a loop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The LAN behind the card comes back to itself.
    Lan,
    /// The LAN and the hub are joined by another way, too.
    Ring,
    /// Among others in the hub.
    Hub,
}

impl Place {
    /// As it stands in events.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Ring => "ring",
            Self::Hub => "hub",
        }
    }

    /// For people.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Lan => "a loop in the LAN behind the bridge",
            Self::Ring => "a loop: LAN and hub are joined by another way, too",
            Self::Hub => "a loop among other members of the hub",
        }
    }
}

/// What becomes of a frame that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// It goes on as it is.
    As,
    /// This goes on in its place.
    Marked([u8; BYTES]),
    /// It goes nowhere.
    Ends,
}

/// Probes that are due.
#[derive(Debug)]
pub(super) struct Probes {
    pub(super) into_lan: [u8; BYTES],
    pub(super) into_hub: [u8; BYTES],
}

/// See the module text. One per session.
#[derive(Debug)]
pub struct Loops {
    leg: Leg,
    source: Mac,
    /// Of the last probe into the LAN, and of the last one into the hub.
    numbers: [u32; 2],
    now: Tick,
    /// When the next probes are due, at the latest and while much is carried.
    next: Tick,
    next_busy: Tick,
    /// Frames carried when the last probes left.
    frames: u64,
    /// Until when nothing passes but probes.
    gate: Option<Tick>,
    /// Number of the last probe that has come back from the LAN to which it went, and how often it has.
    circled: (u32, u8),
    /// Somebody else should give way: since when probes come back, and when the last one did.
    patience: Option<(Tick, Tick)>,
    found: Option<Place>,
    told: bool,
    /// What bridges have learned may be wrong; and when that was last told.
    stale: bool,
    stale_told: Option<Tick>,
}

impl Loops {
    /// For a session of `leg`, whose probes come from `source`; `gated` if there was a loop before. `numbers`: where those of
    /// probes into LAN and hub begin, random and secret.
    pub fn new(leg: Leg, source: Mac, numbers: [u32; 2], gated: bool, now: Tick) -> Self {
        let [lan, hub] = numbers;
        // They stay as far from each other as they are now.
        let is_near = lan.wrapping_sub(hub) < RECENT || hub.wrapping_sub(lan) < RECENT;
        Self {
            leg,
            source,
            numbers: if is_near { [lan, hub ^ 1 << 31] } else { numbers },
            now,
            next: now,
            next_busy: now,
            frames: 0,
            gate: gated.then(|| now + GATE),
            circled: (0, 0),
            patience: None,
            found: None,
            told: false,
            stale: false,
            stale_told: None,
        }
    }

    /// It is `now`.
    pub(super) fn at(&mut self, now: Tick) {
        self.now = now;
        self.gate = self.gate.filter(|until| now < *until);
        // Somebody else has given way.
        if self.patience.take_if(|(_, last)| now.since(*last) >= FORGET).is_some() {
            self.stale = true;
        }
    }

    /// Whether [`Self::look`] has to see `frame`.
    #[inline]
    pub(super) fn concerns(&self, frame: &[u8]) -> bool {
        frame.get(12..14) == Some(&ETHERTYPE) || self.is_shut()
    }

    /// A loop was found, or there was one before and it is not known yet whether it has gone.
    #[inline]
    pub(super) fn is_shut(&self) -> bool {
        self.gate.is_some() || self.found.is_some()
    }

    /// `frame` has come from `side`.
    #[cold]
    pub(super) fn look(&mut self, side: Side, frame: &[u8]) -> Passage {
        match LoopProbe::parse(frame) {
            Some(probe) if probe.leg == self.leg => {
                self.judge(&probe, side);
                Passage::Ends
            }
            _ if self.is_shut() => Passage::Ends,
            None => Passage::As,
            // Where three legs join the same two networks probes would multiply for ever.
            Some(probe) if probe.passed >= PASSED_MAX => Passage::Ends,
            Some(probe) => {
                self.stale |= probe.sent_into.is_none();
                let source = frame[6..].first_chunk().map_or(self.source, |mac| Mac(*mac));
                let marked = LoopProbe { newest: probe.newest.max(self.leg), passed: probe.passed + 1, ..probe };
                Passage::Marked(marked.to_bytes(source))
            }
        }
    }

    /// One of our own has come back.
    fn judge(&mut self, probe: &LoopProbe, side: Side) {
        let Some(sent_into) = self.sent_into(probe.number).filter(|_| probe.sent_into.is_some()) else { return };
        let place = match (sent_into, side) {
            (Side::Lan, Side::Lan) => Place::Lan,
            (Side::Hub, Side::Hub) => Place::Hub,
            _ => Place::Ring,
        };
        if place == Place::Lan && !self.circles(probe.number) {
            return;
        }
        let now = self.now;
        let somebody_else = place == Place::Hub || probe.newest > self.leg;
        if somebody_else {
            let (since, _) = self.patience.unwrap_or((now, now));
            self.patience = Some((since, now));
            if now.since(since) < PATIENCE {
                return;
            }
        }
        self.found.get_or_insert(place);
    }

    /// On which side the probe of this number has left; `None` if no recent one has it.
    fn sent_into(&self, number: u32) -> Option<Side> {
        let is_recent = |last: u32| last.wrapping_sub(number) < RECENT;
        let [lan, hub] = self.numbers.map(is_recent);
        if lan { Some(Side::Lan) } else { hub.then_some(Side::Hub) }
    }

    /// Whether probe `number`, which has come back from the LAN to which it went, does so for ever. Switches of virtual
    /// machines and access points send some frames back once, which is no loop.
    fn circles(&mut self, number: u32) -> bool {
        let times = if self.circled.0 == number { self.circled.1.saturating_add(1) } else { 1 };
        self.circled = (number, times);
        times >= CIRCLES
    }

    /// The probes that are due where `frames` were carried so far.
    pub(super) fn due(&mut self, frames: u64) -> Option<Probes> {
        let busy = frames.wrapping_sub(self.frames) >= BUSY_FRAMES;
        if self.found.is_some() || self.now < self.next_busy || (self.now < self.next && !busy) {
            return None;
        }
        (self.next, self.next_busy, self.frames) = (self.now + INTERVAL, self.now + INTERVAL_BUSY, frames);
        self.numbers = self.numbers.map(|number| number.wrapping_add(1));
        Some(self.probes(Some(Side::Lan), Some(Side::Hub)))
    }

    /// One each, which say that they were sent so.
    fn probes(&self, lan: Option<Side>, hub: Option<Side>) -> Probes {
        let probe = |sent_into, number| {
            let probe = LoopProbe { leg: self.leg, newest: self.leg, number, sent_into, passed: 0 };
            probe.to_bytes(self.source)
        };
        let [into_lan, into_hub] = self.numbers;
        Probes { into_lan: probe(lan, into_lan), into_hub: probe(hub, into_hub) }
    }

    /// When [`Self::due`] must be asked at the latest.
    pub(super) fn next(&self) -> Tick {
        self.next
    }

    /// Whether the bridge shall forget what it has learned of the device: somebody gives way, or has done so. Hosts beyond
    /// the ring would be looked for on its wrong side for minutes. Once in `FORGET`, however often it is said.
    pub(super) fn take_stale(&mut self) -> bool {
        if !self.stale || self.stale_told.is_some_and(|told| self.now.since(told) < FORGET) {
            return false;
        }
        self.stale_told = Some(self.now);
        std::mem::take(&mut self.stale)
    }

    /// The loop that was found, once, and what the others shall hear of it.
    pub(super) fn found(&mut self) -> Option<(Place, Probes)> {
        let found = self.found.filter(|_| !self.told)?;
        self.told = true;
        Some((found, self.probes(None, None)))
    }
}

const INTERVAL: Duration = Duration::from_secs(1);
/// In a storm some are lost in queues that are full; more of them make up for it.
const INTERVAL_BUSY: Duration = Duration::from_millis(100);
/// Frames since the last probe that make it a storm, perhaps.
const BUSY_FRAMES: u64 = 500;
/// The newest leg sees its own probe within [`INTERVAL`], and has gone a moment later; with this a loop that it leaves
/// alone is still found within 3 s.
const PATIENCE: Duration = Duration::from_millis(1_800);
/// Without a probe that comes back for so long the loop has gone.
const FORGET: Duration = Duration::from_millis(1_500);
/// Three probes each way. Meanwhile the hub learns that the leg is there.
const GATE: Duration = Duration::from_millis(2_500);
/// Times that a probe comes back which circles in a LAN.
const CIRCLES: u8 = 4;
/// Probes sent since: older ones were under way too long to tell about the present.
const RECENT: u32 = 32;
/// Legs that a probe may pass: a ring of so many tunnels is found.
const PASSED_MAX: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const START: Tick = Tick::from_ms(5_000);

    const NUMBERS: [u32; 2] = [u32::MAX - 3, 7_000_000];

    fn leg(started_ms: u64) -> Leg {
        Leg { started_ms, token: started_ms * 7 }
    }

    fn source(n: u8) -> Mac {
        Mac([0x5e, 0, 0, 0, 0, n])
    }

    /// Something that joins a LAN with a hub, both by number.
    struct Joint {
        lan: u8,
        hub: u8,
        /// None: of another make.
        loops: Option<Loops>,
        open: bool,
    }

    /// LANs and hubs, which carry a frame to everybody else who is there, at once.
    #[derive(Default)]
    struct World {
        joints: Vec<Joint>,
        /// LANs that hear everything so often that is said in them, those who said it, too.
        looped_lans: Vec<(u8, usize)>,
        now: u64,
    }

    impl World {
        fn join(mut self, lan: u8, hub: u8, started: Option<u64>) -> Self {
            let n = u8::try_from(self.joints.len()).unwrap();
            let loops = started.map(|started| Loops::new(leg(started), source(n), NUMBERS, false, START));
            self.joints.push(Joint { lan, hub, loops, open: true });
            self
        }

        /// Carries `frame`, said by joint `from` on `side`, to all others there, and what they make of it.
        fn carry(&mut self, from: usize, side: Side, frame: &[u8], steps: &mut usize) {
            if *steps == 0 {
                return;
            }
            *steps -= 1;
            let place = |joint: &Joint| if side == Side::Lan { joint.lan } else { joint.hub };
            let here = place(&self.joints[from]);
            let copies = self.looped_lans.iter().find(|(lan, _)| side == Side::Lan && *lan == here);
            let copies = copies.map_or(1, |(_, copies)| *copies);
            let joints = self.joints.len();
            for at in (0..copies).flat_map(|_| 0..joints) {
                let joint = &mut self.joints[at];
                let itself = at == from && copies == 1;
                if !joint.open || itself || place(joint) != here {
                    continue;
                }
                let on = match &mut joint.loops {
                    None => frame.to_vec(),
                    Some(loops) => match loops.look(side, frame) {
                        Passage::As => frame.to_vec(),
                        Passage::Marked(frame) => frame.to_vec(),
                        Passage::Ends => continue,
                    },
                };
                self.carry(at, if side == Side::Lan { Side::Hub } else { Side::Lan }, &on, steps);
            }
        }

        /// A tenth of a second: probes that are due; legs that have found a loop go.
        fn tick(&mut self) -> Vec<(usize, Place)> {
            self.now += 100;
            let mut gone = Vec::new();
            for at in 0..self.joints.len() {
                let now = START + Duration::from_millis(self.now);
                let joint = &mut self.joints[at];
                let Some(loops) = joint.loops.as_mut().filter(|_| joint.open) else { continue };
                loops.at(now);
                if let Some(probes) = loops.due(0) {
                    let mut steps = 400;
                    self.carry(at, Side::Lan, &probes.into_lan, &mut steps);
                    self.carry(at, Side::Hub, &probes.into_hub, &mut steps);
                }
            }
            for (at, joint) in self.joints.iter_mut().enumerate() {
                if let Some((place, last)) = joint.loops.as_mut().and_then(Loops::found) {
                    joint.open = false;
                    gone.push((at, place, last));
                }
            }
            for (at, _, last) in &gone {
                let mut steps = 400;
                self.carry(*at, Side::Lan, &last.into_lan, &mut steps);
                self.carry(*at, Side::Hub, &last.into_hub, &mut steps);
            }
            gone.into_iter().map(|(at, place, _)| (at, place)).collect()
        }

        fn run(&mut self, ms: u64) -> Vec<(usize, Place)> {
            (0..ms / 100).flat_map(|_| self.tick()).collect()
        }
    }

    #[test]
    fn a_tree_is_left_alone() {
        let mut world = World::default().join(1, 1, Some(10)).join(2, 1, Some(20)).join(3, 1, None).join(3, 2, Some(5));
        assert_eq!(world.run(20_000), []);
    }

    #[test]
    fn the_newest_leg_of_a_ring_gives_way() {
        let two = World::default().join(1, 1, Some(10)).join(1, 1, Some(20)).join(2, 1, Some(30));
        // A ring of two hubs and two LANs.
        let four = World::default().join(1, 1, Some(40)).join(2, 1, Some(30)).join(2, 2, Some(20)).join(1, 2, Some(10));
        // Two LANs with a cable between them: one network.
        let cable = World::default().join(1, 1, Some(10)).join(1, 1, Some(11));
        for (mut world, want, stays) in [(two, 1, 0), (four, 0, 1), (cable, 1, 0)] {
            assert_eq!(world.run(1_200), [(want, Place::Ring)]);
            let mut stale = || world.joints[stays].loops.as_mut().unwrap().take_stale();
            assert!(stale() && !stale(), "who stays hears of it");
            assert_eq!(world.run(20_000), [], "once is enough");
        }
    }

    #[test]
    fn three_legs_leave_one() {
        let mut world = World::default().join(1, 1, Some(10)).join(1, 1, Some(30)).join(1, 1, Some(20));
        let mut gone = world.run(3_000);
        gone.sort_by_key(|(at, _)| *at);
        assert_eq!(gone, [(1, Place::Ring), (2, Place::Ring)]);
        assert_eq!(world.run(10_000), []);
    }

    #[test]
    fn beside_another_make_the_card_gives_way() {
        let mut world = World::default().join(1, 1, Some(10)).join(1, 1, None);
        assert_eq!(world.run(1_200), [(0, Place::Ring)]);
    }

    #[test]
    fn a_loop_within_the_lan() {
        let mut world = World::default().join(1, 1, Some(10)).join(2, 1, Some(20));
        assert_eq!(world.run(2_000), []);
        world.looped_lans.push((1, 2));
        assert_eq!(world.run(2_000), [], "a switch that sends back once");
        world.looped_lans[0].1 = 9;
        let gone = world.run(3_000);
        assert_eq!(gone.first(), Some(&(0, Place::Lan)), "{gone:?}");
        assert_eq!(gone.len(), 1, "the other LAN has none: {gone:?}");
    }

    #[test]
    fn a_loop_among_others_of_another_make() {
        let mut world = World::default().join(1, 1, Some(10)).join(2, 1, None).join(2, 1, None);
        assert_eq!(world.run(1_500), [], "they may see to it");
        assert_eq!(world.run(1_500), [(0, Place::Hub)]);
    }

    /// Nobody says that he gives way, but the loop has gone.
    #[test]
    fn when_a_loop_has_gone_the_bridge_forgets() {
        let mut loops = Loops::new(leg(10), source(1), NUMBERS, false, START);
        loops.at(START);
        let probe = LoopProbe::parse(&loops.due(0).unwrap().into_hub).unwrap();
        let back = LoopProbe { newest: leg(99), passed: 1, ..probe }.to_bytes(source(1));
        loops.look(Side::Lan, &back);
        loops.at(START + Duration::from_millis(1_400));
        assert!(!loops.take_stale());
        loops.at(START + Duration::from_millis(1_500));
        assert!(loops.take_stale() && !loops.take_stale());
    }

    /// The newest leg sees nothing, for it is of another make in disguise: the other one does not wait for ever.
    #[test]
    fn who_does_not_give_way_is_not_waited_for() {
        let mut loops = Loops::new(leg(10), source(1), NUMBERS, false, START);
        for ms in (0..=2_000).step_by(500) {
            loops.at(START + Duration::from_millis(ms));
            let frame = loops.due(ms * 1_000).unwrap().into_hub;
            let probe = LoopProbe::parse(&frame).unwrap();
            let back = LoopProbe { newest: leg(99), passed: 1, ..probe }.to_bytes(source(1));
            assert_eq!(loops.look(Side::Lan, &back), Passage::Ends);
            assert_eq!(
                loops.found().map(|(place, _)| place),
                if ms < 1_800 { None } else { Some(Place::Ring) },
                "{ms} ms"
            );
        }
        assert!(loops.found().is_none(), "told once");
        assert_eq!(loops.look(Side::Lan, &[0; 60]), Passage::Ends, "nothing passes any more");
    }

    #[test]
    fn stale_probes_and_strangers_do_not_count() {
        let mut loops = Loops::new(leg(10), source(1), NUMBERS, false, START);
        let old = loops.due(0).unwrap().into_hub;
        for n in 1..=u64::from(RECENT) {
            loops.at(START + INTERVAL * u32::try_from(n).unwrap());
            loops.due(0).unwrap();
        }
        assert!(loops.look(Side::Lan, &old) == Passage::Ends && loops.found().is_none());
        let other = Loops::new(leg(11), source(2), NUMBERS, false, START).due(0).unwrap().into_hub;
        let Passage::Marked(marked) = loops.look(Side::Hub, &other) else { panic!("not passed on") };
        let marked = LoopProbe::parse(&marked).unwrap();
        assert_eq!((marked.newest, marked.passed), (leg(11), 1));
        assert!(loops.found().is_none() && !loops.take_stale());
        // The experiment of somebody else.
        let mut foreign = other;
        foreign[14] = 0;
        assert!(loops.concerns(&foreign));
        assert_eq!(loops.look(Side::Hub, &foreign), Passage::As);
        assert!(!loops.concerns(&[0; 60]) && !loops.concerns(&[0; 13]));
    }

    /// Who sees the probes of a hub sends one back as if it had gone into the LAN, or as a farewell.
    #[test]
    fn a_forged_direction_finds_nothing() {
        let mut loops = Loops::new(leg(10), source(1), NUMBERS, false, START);
        for sent_into in [Some(Side::Lan), None] {
            let probe = LoopProbe::parse(&loops.due(0).unwrap().into_hub).unwrap();
            let forged = LoopProbe { sent_into, ..probe }.to_bytes(source(9));
            assert_eq!(loops.look(Side::Hub, &forged), Passage::Ends);
            assert!(loops.found().is_none(), "{sent_into:?}");
            loops.at(START + INTERVAL);
        }
        for numbers in [[5, 5], [5, 6], [0, u32::MAX], [7, 7 + 2 * RECENT], NUMBERS] {
            let mut loops = Loops::new(leg(10), source(1), numbers, false, START);
            let probes = loops.due(0).unwrap();
            let number = |frame: &[u8]| LoopProbe::parse(frame).unwrap().number;
            let (lan, hub) = (number(&probes.into_lan), number(&probes.into_hub));
            assert!(lan.abs_diff(hub) >= RECENT, "{numbers:?}");
            assert_eq!([lan, hub].map(|number| loops.sent_into(number)), [Some(Side::Lan), Some(Side::Hub)]);
            assert_eq!([lan, hub].map(|number| loops.sent_into(number.wrapping_add(1))), [None; 2], "to come");
        }
    }

    #[test]
    fn farewells_make_bridges_forget_only_now_and_then() {
        let mut loops = Loops::new(leg(10), source(1), NUMBERS, false, START);
        let probe = LoopProbe { leg: leg(9), newest: leg(9), number: 1, sent_into: None, passed: 0 };
        let mut flushes = 0;
        for ms in 0..3_000 {
            loops.at(START + Duration::from_millis(ms));
            loops.look(Side::Hub, &probe.to_bytes(source(9)));
            flushes += usize::from(loops.take_stale());
        }
        assert_eq!(flushes, 2);
        loops.at(START + Duration::from_millis(3_000));
        assert!(loops.take_stale() && !loops.take_stale(), "none is lost");
    }

    #[test]
    fn a_storm_makes_it_ask_more_often() {
        let mut loops = Loops::new(leg(10), source(1), NUMBERS, false, START);
        let mut asked = |ms: u64, frames: u64| {
            loops.at(START + Duration::from_millis(ms));
            loops.due(frames).is_some()
        };
        assert!(asked(0, 0) && !asked(500, 100) && !asked(999, 499) && asked(1_000, 499));
        assert!(!asked(1_050, 50_000) && asked(1_100, 50_000) && !asked(1_199, 90_000) && asked(1_200, 90_000));
    }

    #[test]
    fn after_a_loop_only_probes_pass_at_first() {
        let mut loops = Loops::new(leg(10), source(1), NUMBERS, true, START);
        let frame = [1; 60];
        assert!(loops.concerns(&frame));
        assert_eq!(loops.look(Side::Lan, &frame), Passage::Ends);
        let other = Loops::new(leg(11), source(2), NUMBERS, false, START).due(0).unwrap().into_hub;
        assert_eq!(loops.look(Side::Hub, &other), Passage::Ends, "an older one must not see us in it");
        loops.at(START + GATE);
        assert!(!loops.concerns(&frame));
        // Behind the gate a loop is found like any other.
        let mut loops = Loops::new(leg(10), source(1), NUMBERS, true, START);
        let own = loops.due(0).unwrap().into_hub;
        loops.look(Side::Lan, &own);
        assert_eq!(loops.found().map(|(place, _)| place), Some(Place::Ring));
    }
}
