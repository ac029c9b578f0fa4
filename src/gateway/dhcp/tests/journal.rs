//! Leases that outlive the process.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::*;

/// What the journal had no room for is written when the client asks again, and promised only then.
#[test]
fn a_journal_without_room_promises_nothing() {
    let mut rig = Rig::new(ten());
    let me = origin(1, 1);
    let address = rig.offer(me, &discover(mac(1))).yiaddr();
    rig.world.journal_is_full = true;
    for ask in [select(mac(1), address), renew(mac(1), address)] {
        assert_eq!(rig.drop_reason(me, &ask), DropReason::GatewayJournalSlow);
    }
    rig.world.journal_is_full = false;
    let ack = rig.say(me, &select(mac(1), address)).unwrap();
    assert_eq!((ack.what(), ack.durable, rig.world.records), (MessageType::Ack, Some(1), 1));
    assert_eq!(rig.say(me, &renew(mac(1), address)).unwrap().durable, Some(1), "and is written once");
    assert_eq!((rig.world.records, rig.killed().leases), (1, 1));
}

#[test]
fn dhcp_d16_bindings_survive_kill() {
    let mut rig = Rig::new(settings());
    let address = rig.lease_by(origin(1, 1), mac(1), |ask| ask.option(12, b"laptop").id(&[3; 40]));
    assert_eq!(rig.world.said.last().unwrap().durable, Some(1), "the ACK waits for its record");
    assert_eq!(rig.world.said.first().unwrap().durable, None, "an OFFER promises nothing for long");
    rig.secs(1000);
    let restored = rig.killed();
    assert_eq!((restored.lines, restored.leases, restored.damaged), (1, 1, 0));
    let row = rig.row(address).unwrap();
    assert_eq!((row.state, row.left, row.session), (LeaseState::Leased, Duration::from_secs(2600), None));
    assert_eq!(row.host_name, b"laptop");
    // The next renewal, in the member's next session.
    let ack = rig.say(origin(1, 2), &renew(mac(1), address).id(&[3; 40])).unwrap();
    assert_eq!((ack.what(), ack.yiaddr()), (MessageType::Ack, address));
    assert_eq!(rig.world.bound[&address].session, SessionId(2));
    // And nobody else gets it, neither before nor after.
    assert_ne!(rig.lease(origin(2, 3), mac(2)), address);
    rig.killed();
    assert_ne!(rig.offer(origin(4, 4), &discover(mac(4)).requested(address)).yiaddr(), address);
    // Or he goes on without asking, or asks as after switching on.
    assert!(rig.server.adopt(&origin(1, 5), mac(1), address, rig.now, &mut rig.world));
    rig.killed();
    assert_eq!(rig.say(origin(1, 6), &reboot(mac(1), address).id(&[3; 40])).unwrap().what(), MessageType::Ack);
}

#[test]
fn dhcp_d16_time_goes_on_while_nobody_serves() {
    let mut rig = Rig::new(settings());
    let address = rig.lease(origin(1, 1), mac(1));
    rig.now = rig.now + Duration::from_secs(3601);
    let restored = rig.killed();
    assert_eq!((restored.lines, restored.leases), (1, 0));
    assert_eq!(rig.state(address), Some(LeaseState::Free));
    assert_eq!(rig.say(origin(1, 2), &discover(mac(1))).unwrap().yiaddr(), address, "remembered, without a probe");
    // Others only after a probe.
    assert_eq!(rig.say(origin(3, 3), &discover(mac(3)).requested(host(2))).unwrap().yiaddr(), host(3), "{address}");
}

#[test]
fn dhcp_d16_released_and_declined_ones_too() {
    let mut rig = Rig::new(ten());
    let mut given: Vec<_> = (1..4).map(|n| rig.lease(origin(n, n.into()), mac(n))).collect();
    given.sort_unstable();
    rig.secs(10);
    rig.say(origin(1, 1), &give_back(mac(1), given[0]));
    rig.say(origin(2, 2), &decline(mac(2), given[1]));
    rig.killed();
    let states = given.iter().map(|address| rig.state(*address));
    assert_eq!(states.collect::<Vec<_>>(), [LeaseState::Free, LeaseState::Conflict, LeaseState::Leased].map(Some));
    assert_eq!(rig.row(given[1]).unwrap().left, Duration::from_secs(600));
    rig.secs(601);
    assert_eq!(rig.state(given[1]), None);
}

#[test]
fn dhcp_d16_settings_may_change_between() {
    let mut rig = Rig::new(ten());
    let given: Vec<_> = (1..4).map(|n| rig.lease(origin(n, n.into()), mac(n))).collect();
    let address = Some(given[1]);
    let reservation = settings::Reservation { address, member: Some(MemberId(50)), ..settings::Reservation::default() };
    // One fell out of the pool, one is reserved for another by now.
    rig.server.settings.pool = host(11)..=host(19);
    rig.server.settings.reservations = vec![reservation];
    let restored = rig.killed();
    assert_eq!((restored.lines, restored.foreign, restored.leases), (1, 2, 1));
    assert_eq!(rig.say(origin(2, 9), &renew(mac(2), given[1])).unwrap().what(), MessageType::Nak);
    assert_eq!(rig.lease(origin(50, 50), mac(50)), given[1]);
}

#[test]
fn dhcp_d16_damage_costs_no_more_than_its_line() {
    let mut rig = Rig::new(ten());
    let given: Vec<_> = (1..4).map(|n| rig.lease(origin(n, n.into()), mac(n))).collect();
    let whole = rig.world.journal.clone();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for end in last..whole.len() {
        rig.world.journal = whole[..end].to_vec();
        let restored = rig.killed();
        let torn = usize::from(end > last && end < whole.len() - 1);
        assert_eq!(restored.damaged, torn, "{end}");
        assert_eq!(restored.leases, if end == whole.len() - 1 { 3 } else { 2 }, "{end}");
        assert_eq!((rig.state(given[0]), rig.state(given[1])), (Some(LeaseState::Leased), Some(LeaseState::Leased)));
    }
    // What is appended behind a torn line stands on a line of its own only if the file was cut; if not, one is lost.
    let mut journal = whole[..last + 9].to_vec();
    journal.extend(&whole[..last]);
    rig.world.journal = journal;
    let restored = rig.killed();
    assert_eq!((restored.damaged, restored.lines), (1, 3));
    rig.world.journal = (0..=255).collect::<Vec<u8>>().repeat(10);
    assert_eq!(rig.killed().leases, 0);
}

type Essence = (LeaseState, Option<(MemberId, Mac, ClientKey)>, u128);

/// What must not be lost or made up: who has which address until when, and what is out of service.
fn essence(server: &DhcpServer, now: Tick) -> BTreeMap<Ipv4Addr, Essence> {
    let kept = |row: &LeaseView| matches!(row.state, LeaseState::Leased | LeaseState::Conflict);
    let rows = server.leases(now).filter(kept).map(|row| {
        let who = row.member.zip(row.mac).zip(row.client).map(|((member, mac), client)| (member, mac, client));
        // Out of service is out of service, whoever said so.
        let who = who.filter(|_| row.state == LeaseState::Leased);
        (row.address, (row.state, who, row.left.as_millis().div_ceil(1000)))
    });
    rows.collect()
}

/// Compacted, the journal says the same in fewer lines.
fn compacted(server: &mut DhcpServer, budget: u32) -> Vec<u8> {
    let (mut cursor, mut journal) = (0, Vec::new());
    while !server.compact(&mut cursor, budget, |line| journal.extend(line)) {}
    journal
}

#[test]
fn compaction_keeps_what_counts() {
    let mut rig = Rig::new(ten());
    let address = rig.lease(origin(1, 1), mac(1));
    let freed = rig.lease(origin(2, 2), mac(2));
    rig.say(origin(2, 2), &give_back(mac(2), freed));
    for _ in 0..1100 {
        rig.secs(1000);
        rig.say(origin(1, 1), &renew(mac(1), address)).unwrap();
    }
    assert!(rig.server.is_journal_long());
    let before = essence(&rig.server, rig.now);
    rig.world.journal = compacted(&mut rig.server, 3);
    assert!(!rig.server.is_journal_long());
    assert_eq!(rig.world.journal.iter().filter(|byte| **byte == b'\n').count(), 2);
    rig.killed();
    assert_eq!(essence(&rig.server, rig.now), before);
    assert_eq!(rig.say(origin(2, 9), &discover(mac(2))).unwrap().yiaddr(), freed);
}

mod random {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Discover { station: u32, session: u64, requested: Option<u8> },
        Take { station: u32, session: u64 },
        Request { station: u32, session: u64, address: u8, form: u8 },
        GiveBack { station: u32, session: u64 },
        Decline { station: u32, session: u64 },
        Claimed { address: u8 },
        End { session: u64 },
        Adopt { station: u32, session: u64, address: u8 },
        Pass { ms: u64 },
        Kill,
        Compact,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (station, session, address) = (|| 0..12_u32, || 0..10_u64, || 8..22_u8);
        let step = prop_oneof![
            6 => (station(), session(), prop::option::of(address()))
                .prop_map(|(station, session, requested)| Step::Discover { station, session, requested }),
            6 => (station(), session()).prop_map(|(station, session)| Step::Take { station, session }),
            4 => (station(), session(), address(), 0..4_u8)
                .prop_map(|(station, session, address, form)| Step::Request { station, session, address, form }),
            1 => (station(), session()).prop_map(|(station, session)| Step::GiveBack { station, session }),
            1 => (station(), session()).prop_map(|(station, session)| Step::Decline { station, session }),
            1 => address().prop_map(|address| Step::Claimed { address }),
            2 => session().prop_map(|session| Step::End { session }),
            1 => (station(), session(), address())
                .prop_map(|(station, session, address)| Step::Adopt { station, session, address }),
            3 => prop_oneof![3 => 0..1000_u64, 1 => 0..4_000_000_u64].prop_map(|ms| Step::Pass { ms }),
            1 => Just(Step::Kill),
            1 => Just(Step::Compact),
        ];
        prop::collection::vec(step, 1..120)
    }

    /// Ten sessions of five members, the last of them a bridge; two addresses are reserved.
    fn who(session: u64, generation: u64) -> Origin {
        let member = u32::try_from(session % 5).unwrap();
        Origin { is_bridge: member == 4, ..origin(member, session + 100 * generation) }
    }

    fn rig() -> Rig {
        let reserved = |address, member| settings::Reservation {
            address: Some(host(address)),
            member: Some(MemberId(member)),
            ..settings::Reservation::default()
        };
        Rig::new(DhcpSettings { reservations: vec![reserved(12, 0), reserved(30, 1)], ..ten() })
    }

    /// What clients believe: every address ACKed, to whom, and until when.
    type Believed = BTreeMap<Ipv4Addr, (MemberId, Mac, Tick)>;

    fn follow(
        rig: &mut Rig,
        believed: &mut Believed,
        origin: Origin,
        station: u32,
        ask: &Ask,
    ) -> Result<(), TestCaseError> {
        let before = rig.world.events.len();
        let bound = rig.world.bound.clone();
        let said = rig.say(origin, ask);
        for event in &rig.world.events[before..] {
            if let DhcpEvent::Ended { address, .. } = event {
                believed.remove(address);
            }
        }
        let Some(said) = said.filter(|said| said.what() == MessageType::Ack) else { return Ok(()) };
        let (address, secs) = (said.yiaddr(), said.secs(51).unwrap());
        prop_assert!(said.durable.is_some() || rig.world.records == 0 || ask.options[2] == 3, "unwritten");
        if let Some((member, card, until)) = believed.get(&address) {
            prop_assert!(
                *until <= rig.now || (*member, *card) == (origin.member, mac(station)) || *member == origin.member,
                "{address} is {member:?}'s, and given to {:?}",
                origin.member
            );
        }
        if let Some(held) = bound.get(&address) {
            let is_same = (held.member, held.mac) == (origin.member, mac(station));
            prop_assert!(is_same || held.session == origin.session, "{address} is in use by {held:?}");
        }
        let binding = rig.world.bound.get(&address);
        prop_assert_eq!(
            binding.map(|b| (b.member, b.mac, b.session)),
            Some((origin.member, mac(station), origin.session))
        );
        believed.insert(address, (origin.member, mac(station), rig.now + Duration::from_secs(secs.into())));
        Ok(())
    }

    /// The server is killed, and another one reads its journal.
    fn kill(rig: &mut Rig) -> Result<(), TestCaseError> {
        // Whole seconds are all that the journal knows.
        let past = rig.now.since(START).subsec_nanos();
        rig.pass(Duration::from_nanos(1_000_000_000 - u64::from(past)));
        let before = essence(&rig.server, rig.now);
        let span = rig.now.since(START);
        let now = rig.now;
        rig.killed();
        prop_assert_eq!(&essence(&rig.server, rig.now), &before);
        // The rig's clock goes on where it was.
        rig.now = now;
        rig.server.epoch = (now, GIVEN_UNIX_S + span.as_secs());
        let journal = rig.world.journal.clone();
        let mut server = DhcpServer::new(rig.server.settings.clone(), 44, now, GIVEN_UNIX_S + span.as_secs());
        server.restore(&journal);
        rig.server = server;
        Ok(())
    }

    /// Table, world and bindings say the same.
    fn agree(rig: &Rig, believed: &Believed) -> Result<(), TestCaseError> {
        for row in rig.server.leases(rig.now).filter(|row| row.state == LeaseState::Leased) {
            let held = believed.get(&row.address).map(|(member, card, _)| (*member, *card));
            prop_assert_eq!(held, row.member.zip(row.mac), "{} in the table and in the world", row.address);
        }
        // A session without a network behind it has one address.
        let mut of_sessions: BTreeMap<SessionId, usize> = BTreeMap::new();
        for (_, binding) in rig.world.bound.iter().filter(|(_, binding)| binding.member != MemberId(4)) {
            *of_sessions.entry(binding.session).or_default() += 1;
        }
        prop_assert!(of_sessions.values().all(|count| *count <= 1), "{:?}", of_sessions);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn no_address_has_two_holders_and_the_journal_knows_them_all(steps in steps()) {
            let mut rig = rig();
            let mut believed = Believed::new();
            let mut generation = 0;
            for step in steps {
                match step {
                    Step::Discover { station, session, requested } => {
                        let ask = discover(mac(station));
                        let ask = requested.map_or(ask.clone(), |address| ask.requested(host(address)));
                        follow(&mut rig, &mut believed, who(session, generation), station, &ask)?;
                    }
                    Step::Take { station, session } => {
                        let to = who(session, generation).port;
                        let last = rig.world.said.iter().rev().find(|said| {
                            said.to == to && said.what() == MessageType::Offer && said.message().chaddr() == mac(station)
                        });
                        let Some(address) = last.map(Said::yiaddr) else { continue };
                        follow(&mut rig, &mut believed, who(session, generation), station, &select(mac(station), address))?;
                    }
                    Step::Request { station, session, address, form } => {
                        let ask = [select, reboot, renew, rebind][usize::from(form)](mac(station), host(address));
                        follow(&mut rig, &mut believed, who(session, generation), station, &ask)?;
                    }
                    Step::GiveBack { station, session } | Step::Decline { station, session } => {
                        let origin = who(session, generation);
                        let own = believed.iter().find(|(_, (member, card, _))| (*member, *card) == (origin.member, mac(station)));
                        let Some((address, _)) = own else { continue };
                        let ask = match step {
                            Step::Decline { .. } => decline(mac(station), *address),
                            _ => give_back(mac(station), *address),
                        };
                        follow(&mut rig, &mut believed, origin, station, &ask)?;
                    }
                    Step::Claimed { address } => rig.server.seen(&origin(5, 5), host(address), mac(666), rig.now, &mut rig.world),
                    Step::End { session } => {
                        rig.server.session_ended(who(session, generation).session, &mut rig.world);
                    }
                    Step::Adopt { station, session, address } => {
                        let origin = who(session, generation);
                        let ok = rig.server.adopt(&origin, mac(station), host(address), rig.now, &mut rig.world);
                        let right = believed.get(&host(address)).is_some_and(|(member, card, until)| {
                            *until > rig.now && (*member, *card) == (origin.member, mac(station))
                        });
                        prop_assert!(right || !ok);
                    }
                    Step::Pass { ms } => drop(rig.pass(Duration::from_millis(ms))),
                    Step::Kill => {
                        kill(&mut rig)?;
                        generation += 1;
                    }
                    Step::Compact => rig.world.journal = compacted(&mut rig.server, 4),
                }
                agree(&rig, &believed)?;
            }
        }
    }
}
