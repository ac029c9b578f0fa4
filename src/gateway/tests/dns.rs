//! The DNS forwarder over UDP, seen from members: N1 to N9.
#![forbid(unsafe_code)]

use super::*;
use proptest::prelude::*;

fn ask(bench: &mut Bench, from: &Member, udp_port: u16, message: &[u8]) -> Option<DropReason> {
    let frame = udp_to(from, GATEWAY, (udp_port, 53), message);
    bench.dropped(from, &frame)
}

/// The only question that is at the upstreams.
fn asked(bench: &mut Bench) -> DnsQuestion {
    assert_eq!(bench.seen.questions.len(), 1);
    bench.seen.questions.pop().unwrap()
}

/// What was answered: to which port of the hub, to which UDP port, what.
fn told(bench: &mut Bench) -> Vec<(PortId, u16, Vec<u8>)> {
    let replies = std::mem::take(&mut bench.seen.replies);
    let told = replies.iter().map(|(port, frame)| {
        let (_, datagram) = datagram(frame);
        assert_eq!(datagram.src_port, 53);
        (*port, datagram.dst_port, datagram.payload.to_vec())
    });
    told.collect()
}

fn without_id(message: &[u8]) -> Vec<u8> {
    [&[0, 0], &message[2..]].concat()
}

fn with_id(message: &[u8], id: u16) -> Vec<u8> {
    [&id.to_be_bytes(), &message[2..]].concat()
}

/// 200 types and classes, flags, and EDNS options that nobody has heard of, unchanged both ways.
#[test]
fn dns_n1_whatever_is_asked_is_forwarded() {
    let mut bench = Bench::new(|settings| settings.dns.questions_per_sec = 0);
    let member = bench.member(9);
    for n in 0..200u16 {
        let id = n.wrapping_mul(40_503);
        let kind = n.wrapping_mul(331).wrapping_add(1);
        let flags = (n << 7) & 0x7ff0;
        let option = [&[0xfd, (n & 0xff) as u8, 0, 3][..], &[1, 2, 3]].concat();
        let length = u16::try_from(option.len()).unwrap().to_be_bytes();
        let opt = [&[0, 0, 41, 0x10, 0, 0, 0, 0x80, 1][..], &length, &option].concat();
        let mut message = question(id, NAME, kind, flags, &opt);
        // The class too.
        let class_at = 12 + NAME.len() + 2;
        message[class_at..class_at + 2].copy_from_slice(&n.wrapping_mul(7).to_be_bytes());
        assert_eq!(ask(&mut bench, &member, 40_000, &message), None);
        let asked = asked(&mut bench);
        assert_eq!(asked.message, without_id(&message));
        let answer = with_id(&answer_to(&message, b"anything"), 0x5555);
        bench.answer(asked.token, Some(answer.clone()));
        assert_eq!(told(&mut bench), [(member.origin.port, 40_000, with_id(&answer, id))]);
    }
}

/// Answers that were cut upstream, or are longer than the asker takes, go by UDP with TC; whole ones by TCP (see tcp.rs).
#[test]
fn dns_n2_truncated_answers() {
    let mut bench = Bench::new(|_| ());
    let member = bench.member(9);
    let opt = |bytes: u16| [&[0, 0, 41][..], &bytes.to_be_bytes(), &[0; 6]].concat();
    for (rest, bytes_max) in
        [(vec![], 512), (opt(100), 512), (opt(1232), 1232), (opt(1472), 1472), (opt(4096), 1472), (opt(65_535), 1472)]
    {
        for bytes in [bytes_max, bytes_max + 1, 65_000] {
            let message = question(7, NAME, 16, 0x100, &rest);
            let fixed = answer_to(&message, b"").len();
            let answer = answer_to(&message, &vec![0xaa; bytes - fixed]);
            assert_eq!((ask(&mut bench, &member, 5, &message), answer.len()), (None, bytes));
            let token = asked(&mut bench).token;
            bench.answer(token, Some(answer.clone()));
            let (_, _, reply) = told(&mut bench).remove(0);
            if bytes <= bytes_max {
                assert_eq!(reply, answer);
            } else {
                let mut cut = answer[..12 + NAME.len() + 4].to_vec();
                (cut[2], cut[7]) = (cut[2] | 2, 0);
                assert_eq!(reply, cut);
            }
        }
    }
    let message = question(8, NAME, 16, 0x100, b"");
    ask(&mut bench, &member, 5, &message);
    let token = asked(&mut bench).token;
    let mut cut = answer_to(&message, b"");
    cut[2] |= 2;
    bench.answer(token, Some(cut.clone()));
    assert_eq!(told(&mut bench)[0].2, cut);
}

proptest! {
    /// Nothing in an answer but its id is touched, whatever stands in it.
    #[test]
    fn dns_n3_answers_are_not_rewritten(
        flags in any::<u16>(),
        counts in any::<[u8; 6]>(),
        rest in proptest::collection::vec(any::<u8>(), 0..400),
        id in any::<u16>(),
    ) {
        let mut bench = Bench::new(|_| ());
        let member = bench.member(9);
        let message = question(id, NAME, 48, 0x0130, b"");
        ask(&mut bench, &member, 5, &message);
        let token = asked(&mut bench).token;
        let mut answer = [&message[..], &rest].concat();
        answer[2..4].copy_from_slice(&(flags | 0x8000).to_be_bytes());
        answer[6..12].copy_from_slice(&counts);
        bench.answer(token, Some(with_id(&answer, 0)));
        prop_assert_eq!(told(&mut bench), [(member.origin.port, 5, answer)]);
    }
}

/// 100 who ask the same: one question goes out; each gets the answer with his id, and to his port.
#[test]
fn dns_n4_one_question_at_a_time() {
    let mut bench = Bench::new(|_| ());
    let members: Vec<_> = (2..102).map(|n| bench.member(n)).collect();
    for (member, id) in members.iter().zip(1000..) {
        assert_eq!(ask(&mut bench, member, id, &question(id, NAME, 1, 0x100, b"")), None);
    }
    let first = asked(&mut bench);
    let again = question(1000, NAME, 1, 0x100, b"");
    assert_eq!(ask(&mut bench, &members[0], 1000, &again), Some(DropReason::GatewayDnsRepeated));
    bench.answer(first.token, Some(answer_to(&first.message, b"x")));
    let mut told = told(&mut bench);
    told.sort();
    let mut wanted: Vec<_> = members
        .iter()
        .zip(1000..)
        .map(|(member, id)| (member.origin.port, id, with_id(&answer_to(&first.message, b"x"), id)))
        .collect();
    wanted.sort();
    assert_eq!(told, wanted);
    assert!(bench.seen.questions.is_empty());
}

/// The same name in other case, with other flags or options is the same question to a forger: they wait for each other.
/// Each keeps its case (0x20) and gets the answer to its own form.
#[test]
fn dns_n4_forms_of_a_question_take_turns() {
    let mut bench = Bench::new(|_| ());
    let members: Vec<_> = (2..7).map(|n| bench.member(n)).collect();
    let forms = [
        question(1, NAME, 1, 0x100, b""),
        question(2, b"\x03WWW\x07EXAMPLE\x00", 1, 0x100, b""),
        question(3, NAME, 1, 0x110, b""),
        question(4, NAME, 1, 0x100, &[0, 0, 41, 5, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (member, form) in members.iter().zip(&forms) {
        assert_eq!(ask(&mut bench, member, 5, form), None);
    }
    for (n, form) in forms.iter().enumerate() {
        let now = asked(&mut bench);
        assert_eq!(now.message, without_id(form));
        bench.answer(now.token, Some(answer_to(&now.message, b"x")));
        let told = told(&mut bench);
        assert_eq!((told.len(), told[0].0), (1, members[n].origin.port));
        assert_eq!(told[0].2, answer_to(form, b"x"));
    }
    assert!(bench.seen.questions.is_empty());
    // Another type of the same name is another question.
    for kind in [1, 28] {
        assert_eq!(ask(&mut bench, &members[0], 5, &question(9, NAME, kind, 0x100, b"")), None);
    }
    assert_eq!(bench.seen.questions.len(), 2);
}

/// An answer to something else is none; that to the question still counts.
#[test]
fn dns_n4_answers_to_other_questions() {
    let mut bench = Bench::new(|_| ());
    let member = bench.member(9);
    ask(&mut bench, &member, 5, &question(7, NAME, 1, 0x100, b""));
    let asked = asked(&mut bench);
    let other_case = question(0, b"\x03www\x07example\x00", 1, 0x100, b"");
    for forged in [
        answer_to(&question(0, NAME, 28, 0x100, b""), b"x"),
        answer_to(&other_case, b"x"),
        asked.message.clone(),
        answer_to(&asked.message, b"x")[..12].to_vec(),
        vec![],
    ] {
        bench.answer(asked.token, Some(forged));
    }
    bench.answer(asked.token + 1, Some(answer_to(&asked.message, b"x")));
    assert_eq!(bench.seen.drops[..5], [DropReason::GatewayDnsForged; 5]);
    assert_eq!(bench.seen.drops[5..], [DropReason::GatewayDnsLate]);
    assert!(bench.seen.replies.is_empty());
    bench.answer(asked.token, Some(answer_to(&asked.message, b"x")));
    assert_eq!(told(&mut bench).len(), 1);
}

/// No upstream: everybody who waits hears so, and nobody is asked again for them.
#[test]
fn dns_n5_failure_is_told() {
    let mut bench = Bench::new(|_| ());
    let (a, b) = (bench.member(9), bench.member(10));
    ask(&mut bench, &a, 5, &question(7, NAME, 1, 0x100, b""));
    ask(&mut bench, &b, 5, &question(8, NAME, 1, 0x110, b""));
    let token = asked(&mut bench).token;
    bench.answer(token, None);
    let told = told(&mut bench);
    let failures: Vec<_> = told.iter().map(|(_, _, reply)| (reply[1], reply[2] & 0x80, reply[3] & 0xf)).collect();
    assert_eq!(failures, [(7, 0x80, 2), (8, 0x80, 2)]);
    assert!(bench.seen.questions.is_empty(), "no storm");
}

/// Even if the other half is gone nobody waits for ever.
#[test]
fn dns_n5_questions_end_by_themselves() {
    let mut bench = Bench::new(|_| ());
    let member = bench.member(9);
    ask(&mut bench, &member, 5, &question(7, NAME, 1, 0x100, b""));
    for _ in 0..9 {
        bench.later(1_000);
        bench.poll();
    }
    assert_eq!(told(&mut bench)[0].2[3] & 0xf, 2);
    let token = asked(&mut bench).token;
    bench.answer(token, Some(answer_to(&question(0, NAME, 1, 0x100, b""), b"x")));
    assert_eq!(bench.seen.drops, [DropReason::GatewayDnsLate]);
    assert_eq!(ask(&mut bench, &member, 5, &question(7, NAME, 1, 0x100, b"")), None, "and may be asked again");
}

/// Only members ask, as often as they may; one who asks too much does not take the others' room.
#[test]
fn dns_n6_limits_of_a_session() {
    let mut bench = Bench::new(|settings| {
        settings.dns.questions_per_sec = 50;
        settings.dns.waiting_per_session = 30;
    });
    let (loud, quiet) = (bench.member(9), bench.member(10));
    let name = |n: u8| [&[1, b'a' + n % 26, 1, b'a' + n / 26][..], NAME].concat();
    for n in 0..100 {
        ask(&mut bench, &loud, 5, &question(n.into(), &name(n), 1, 0x100, b""));
    }
    let count = |bench: &Bench, reason| bench.seen.drops.iter().filter(|drop| **drop == reason).count();
    assert_eq!(bench.seen.questions.len(), 30);
    assert_eq!(count(&bench, DropReason::GatewayDnsBusy), 20);
    assert_eq!(count(&bench, DropReason::GatewayDnsRate), 50);
    assert_eq!(ask(&mut bench, &quiet, 5, &question(1, &name(0), 1, 0x100, b"")), None);
    // What is answered makes room.
    bench.later(1_000);
    let first = bench.seen.questions.remove(0);
    bench.answer(first.token, Some(answer_to(&first.message, b"x")));
    assert_eq!(ask(&mut bench, &loud, 5, &question(1, &name(90), 1, 0x100, b"")), None);
    assert_eq!(ask(&mut bench, &loud, 5, &question(1, &name(91), 1, 0x100, b"")), Some(DropReason::GatewayDnsBusy));
    // An address without a lease, be it as if from outside, hears nothing at all: services.rs.
    let outside = Member { address: Ipv4Addr::new(192, 0, 2, 1), ..quiet };
    assert_eq!(ask(&mut bench, &outside, 5, &question(1, NAME, 1, 0x100, b"")), Some(DropReason::GatewayNotBound));
}

/// Tables have ends: questions, and askers.
#[test]
fn dns_n6_tables_are_bounded() {
    let mut bench = Bench::new(|settings| {
        settings.dns.flights_max = 10;
        settings.dns.waiting_max = 25;
    });
    let members: Vec<_> = (2..30).map(|n| bench.member(n)).collect();
    let mut waiting = 0;
    for member in &members {
        let name = [&[1, member.mac.0[5]][..], NAME].concat();
        waiting += usize::from(ask(&mut bench, member, 5, &question(1, &name, 1, 0x100, b"")).is_none());
        waiting += usize::from(
            ask(&mut bench, member, 5, &question(1, b"\x01\x02\x03www\x07example\x00", 1, 0x100, b"")).is_none(),
        );
    }
    assert_eq!((bench.seen.questions.len(), waiting), (10, 25));
}

/// 10,000 questions answered at once leave nothing behind, and one that is not answered still ends.
#[test]
fn dns_n6_what_ended_is_forgotten() {
    let mut bench = Bench::new(|settings| {
        settings.dns.flights_max = 10;
        settings.dns.questions_per_sec = 0;
    });
    let member = bench.member(9);
    let slow = question(1, b"\x04slow\x00", 1, 0x100, b"");
    assert_eq!(ask(&mut bench, &member, 5, &slow), None);
    let slow = asked(&mut bench);
    for n in 0..10_000u16 {
        ask(&mut bench, &member, 5, &question(n, NAME, 1, 0x100, b""));
        let now = asked(&mut bench);
        bench.answer(now.token, Some(answer_to(&now.message, b"x")));
    }
    assert_eq!(told(&mut bench).len(), 10_000);
    bench.later(9_000);
    bench.poll();
    assert_eq!(told(&mut bench)[0].2[3] & 0xf, 2, "failed");
    bench.answer(slow.token, None);
    assert_eq!(bench.seen.drops, [DropReason::GatewayDnsLate]);
}

#[test]
fn dns_n7_cache_is_off_unless_wanted() {
    for (entries, asked_again) in [(0, true), (100, false)] {
        let mut bench = Bench::new(|settings| settings.dns.cache_entries = entries);
        let (a, b) = (bench.member(9), bench.member(10));
        ask(&mut bench, &a, 5, &question(7, NAME, 1, 0x100, b""));
        let first = asked(&mut bench);
        bench.answer(first.token, Some(answer_to(&first.message, b"x")));
        told(&mut bench);
        bench.later(10_000);
        let frame = udp_to(&b, GATEWAY, (6, 53), &question(8, NAME, 1, 0x100, b""));
        bench.frame(&b.origin, &frame);
        assert_eq!(bench.seen.questions.len(), usize::from(asked_again));
        if !asked_again {
            let (port, udp_port, reply) = told(&mut bench).remove(0);
            let mut aged = answer_to(&question(8, NAME, 1, 0x100, b""), b"x");
            let ttl_at = aged.len() - 4;
            aged[ttl_at] = 50;
            assert_eq!((port, udp_port, reply), (b.origin.port, 6, aged));
        }
    }
}

/// Withheld: an answer without records, as for a name without IPv6 (not "no such name").
#[test]
fn dns_aaaa_can_be_withheld() {
    for (withhold, forwarded) in [(false, 2), (true, 1)] {
        let mut bench = Bench::new(|settings| settings.dns.withhold_aaaa = withhold);
        let member = bench.member(9);
        for kind in [28, 1] {
            let frame = udp_to(&member, GATEWAY, (6, 53), &question(8, NAME, kind, 0x100, b""));
            bench.frame(&member.origin, &frame);
        }
        assert_eq!(bench.seen.questions.len(), forwarded);
        if withhold {
            let mut none = question(8, NAME, 28, 0x8180, b"");
            none[7] = 0;
            assert_eq!(told(&mut bench), [(member.origin.port, 6, none)]);
        }
    }
}

#[test]
fn dns_what_is_no_question() {
    let mut bench = Bench::new(|_| ());
    let member = bench.member(9);
    let answer = question(7, NAME, 1, 0x8180, b"");
    for message in [&answer[..], b"", &answer[..11]] {
        assert_eq!(ask(&mut bench, &member, 5, message), Some(DropReason::GatewayDnsMalformed), "{message:02x?}");
    }
    let mut two = question(7, NAME, 1, 0x100, b"");
    two[5] = 2;
    let cut = question(7, NAME, 1, 0x100, b"");
    for message in [&two[..], &cut[..cut.len() - 1]] {
        let frame = udp_to(&member, GATEWAY, (5, 53), message);
        bench.replied(&member, &frame);
    }
    assert!(bench.seen.questions.is_empty());
}

/// N9: what members ask is nobody's business, unless the operator decides otherwise.
#[test]
fn dns_n9_questions_are_told_only_if_configured() {
    for log in [false, true] {
        let mut bench = Bench::new(|settings| settings.dns.log_questions = log);
        let member = bench.member(9);
        ask(&mut bench, &member, 5, &question(7, NAME, 28, 0x100, b""));
        ask(&mut bench, &member, 6, &question(8, NAME, 28, 0x8100, b""));
        let told = bench.seen.events.iter().map(|event| match event {
            GatewayEvent::Asked { origin, name, kind } => (*origin, &name[..], *kind),
            event => panic!("{event:?}"),
        });
        let told: Vec<_> = told.collect();
        assert_eq!(told, if log { vec![(member.origin, NAME, 28)] } else { vec![] });
    }
}
