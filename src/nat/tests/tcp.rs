//! TCP: RFC 5382.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::rig::*;
use crate::metrics::drops::DropReason;
use crate::nat::tcp::State;
use crate::nat::*;
use crate::wire::icmp;
use crate::wire::offload::{L4Checksum, Offload};

fn state(rig: &Rig) -> State {
    rig.nats[0].list(&NatFilter::default(), 10, rig.now)[0].state.unwrap()
}

#[test]
fn nat_t1_endpoint_independent_mapping() {
    let mut rig = Rig::new(settings());
    let first = rig.connect(member(5), 4000, server(0));
    for n in 1..100 {
        assert_eq!(rig.connect(member(5), 4000, server(n)), first);
    }
    assert_ne!(rig.connect(member(5), 4001, server(0)), first);
}

/// Each sequence ends in the state that it should, and passes whole.
#[test]
fn nat_t2_all_sequences() {
    let (a, b) = (at(member(5), 4000), server(0));
    let open = [(true, SYN), (false, SYN | ACK), (true, ACK)];
    for (more, want) in [
        (&[][..], State::Established),
        (&[(true, ACK), (false, ACK)], State::Established),
        (&[(true, FIN | ACK)], State::FinOut),
        (&[(true, FIN | ACK), (false, ACK), (false, ACK), (true, ACK)], State::FinOut),
        (&[(false, FIN | ACK), (true, ACK), (true, ACK)], State::FinIn),
        (&[(true, FIN | ACK), (false, FIN | ACK), (true, ACK)], State::FinBoth),
        (&[(false, FIN), (true, FIN), (false, ACK)], State::FinBoth),
        (&[(true, RST)], State::Reset),
        (&[(false, RST | ACK)], State::Reset),
        (&[(false, RST), (true, ACK)], State::Established),
        (&[(true, SYN)], State::Established),
        (&[(true, FIN), (false, FIN), (true, SYN)], State::SynOut),
        (&[(true, FIN), (false, FIN), (true, SYN), (false, SYN | ACK)], State::Established),
        (&[(true, RST), (true, SYN), (false, SYN | ACK), (true, ACK)], State::Established),
    ] {
        let mut rig = Rig::new(settings());
        let external = rig.syn_out(member(5), 4000, b);
        for (outbound, flags) in open[1..].iter().chain(more) {
            match outbound {
                true => assert_eq!(rig.out(member(5), &tcp(a, b, *flags, b"x")).one_sent().from, external),
                false => assert_eq!(rig.in_(&tcp(b, external, *flags, b"y")).one_delivered().to, a),
            }
        }
        assert_eq!(state(&rig), want, "{more:?}");
    }
}

#[test]
fn nat_t2a_simultaneous_open() {
    let mut rig = Rig::new(settings());
    let (a, b) = (at(member(5), 4000), server(0));
    let external = rig.syn_out(member(5), 4000, b);
    assert_eq!(rig.in_(&tcp(b, external, SYN, &[])).one_delivered().to, a);
    assert_eq!(state(&rig), State::Established);
    rig.out(member(5), &tcp(a, b, SYN | ACK, &[])).one_sent();
    rig.in_(&tcp(b, external, SYN | ACK, &[])).one_delivered();
    assert_eq!(state(&rig), State::Established);
}

#[test]
fn nat_t2_syn_again_with_another_number() {
    let mut rig = Rig::new(settings());
    let external = rig.syn_out(member(5), 4000, server(0));
    for n in 1..5 {
        let mut again = tcp(at(member(5), 4000), server(0), SYN, &[]);
        again[24] ^= n;
        again[36] ^= n;
        let out = rig.out(member(5), &again);
        assert_eq!(out.sent.len(), 1);
        assert_eq!(out.sent[0].0[20..22], external.port().to_be_bytes());
    }
    assert_eq!(state(&rig), State::SynOut);
}

#[test]
fn nat_t3_filtering_differs_from_udp() {
    for filtering in [Filtering::EndpointIndependent, Filtering::Address, Filtering::AddressPort] {
        let mut rig =
            Rig::new(NatSettings { filtering_tcp: filtering, filtering_udp: Filtering::AddressPort, ..settings() });
        let external = rig.connect(member(5), 4000, server(0));
        for (from, passes) in [
            (end("8.0.0.1:9"), filtering != Filtering::AddressPort),
            (server(1), filtering == Filtering::EndpointIndependent),
        ] {
            let out = rig.in_(&tcp(from, external, SYN, &[]));
            match passes {
                true => assert_eq!(out.one_delivered().from, from),
                false => out.dropped_for(DropReason::NatFiltered),
            }
        }
    }
}

#[test]
fn nat_t4_unsolicited_syn() {
    for (mapped, to_internet) in [(true, true), (false, true), (true, false)] {
        let icmp = IcmpSettings { to_internet, ..IcmpSettings::default() };
        let mut rig = Rig::new(NatSettings { icmp, ..settings() });
        let mut external = rig.connect(member(5), 4000, server(0));
        if !mapped {
            external.set_port(65_000);
        }
        let syn = tcp(server(1), external, SYN, &[]);
        rig.in_(&syn).dropped_for(if mapped { DropReason::NatFiltered } else { DropReason::NatNoMapping });
        assert_eq!(rig.pass(Duration::from_millis(5_900)), Out::default(), "silence for six seconds");
        let out = rig.pass(Duration::from_millis(200));
        match to_internet {
            true => {
                let (kind, about) = quote(&out.sent[0].0);
                assert_eq!((kind, &about[..]), ((icmp::UNREACHABLE, icmp::CODE_PORT), &syn[..]));
                assert_eq!((out.sent.len(), read(&out.sent[0].0).to.ip()), (1, server(1).ip()));
            }
            false => assert_eq!(out, Out::default()),
        }
    }
}

/// The other half came from inside in time: no answer, and the connection opens.
#[test]
fn nat_t4_outbound_syn_in_time() {
    let mut rig = Rig::new(settings());
    let external = rig.connect(member(5), 4000, server(0));
    rig.in_(&tcp(server(1), external, SYN, &[])).dropped_for(DropReason::NatFiltered);
    rig.pass_secs(5);
    assert_eq!(rig.syn_out(member(5), 4000, server(1)), external);
    assert_eq!(rig.pass_secs(10), Out::default());
    rig.in_(&tcp(server(1), external, SYN | ACK, &[])).one_delivered();
}

/// A flood is answered at the rate of ICMP, and remembered up to a bound.
#[test]
fn nat_t4_flood() {
    let mut rig = Rig::new(settings());
    let mut external = rig.connect(member(5), 4000, server(0));
    for n in 0..5_000u16 {
        external.set_port(2_000 + n);
        rig.in_(&tcp(server(n.into()), external, SYN, &[]));
    }
    let out = rig.pass_secs(7);
    assert!((1..=40).contains(&out.sent.len()), "{} answers", out.sent.len());
}

#[test]
fn nat_t5_times() {
    let times = Timeouts::default();
    assert_eq!((times.tcp_established.as_secs(), times.tcp_partial_open.as_secs()), (7_440, 240));
    assert_eq!(times.tcp_closing.as_secs(), 240);
    let (a, b) = (at(member(5), 4000), server(0));
    for (more, secs) in [
        (&[][..], 240),
        (&[(false, SYN | ACK)][..], 7_440),
        (&[(false, SYN | ACK), (true, FIN | ACK)], 7_440),
        (&[(false, SYN | ACK), (true, FIN | ACK), (false, FIN | ACK)], 240),
        (&[(false, SYN | ACK), (true, RST)], 240),
    ] {
        for (after, lives) in [(secs - 1, true), (secs + 2, false)] {
            let mut rig = Rig::new(settings());
            let external = rig.syn_out(member(5), 4000, b);
            for (outbound, flags) in more {
                match outbound {
                    true => rig.out(member(5), &tcp(a, b, *flags, &[])).one_sent(),
                    false => rig.in_(&tcp(b, external, *flags, &[])).one_delivered(),
                };
            }
            rig.pass_secs(after);
            assert_eq!(rig.stats().flows, u64::from(lives), "{more:?} after {after} s");
            assert_eq!(rig.stats().mappings, u64::from(lives));
        }
    }
}

/// Also FTP passes unchanged: its passive mode needs no help.
#[test]
fn nat_t6_no_alg() {
    let mut rig = Rig::new(settings());
    let ftp = end("8.0.0.1:21");
    rig.connect(member(5), 4000, ftp);
    let data = b"PORT 100,64,0,5,15,160\r\n";
    let seen = rig.out(member(5), &tcp(at(member(5), 4000), ftp, ACK, data)).one_sent();
    assert_eq!(seen.data, data);
}

/// A member's first ports are his alone.
#[test]
fn nat_t7_no_overloading() {
    let mut rig = Rig::new(settings());
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..100u16 {
        for who in 5..15 {
            assert!(seen.insert(rig.syn_out(member(who), 4000 + n, server(who))), "member {who}, connection {n}");
        }
    }
    assert_eq!(rig.stats().overlaps_begun, 0);
}

#[test]
fn nat_t8_hairpin() {
    let fixed = StaticMapping { proto: Proto::Tcp, external: end("5.5.5.5:80"), inside: end("100.64.0.6:8080") };
    for workers in [1, 3] {
        let mut rig = Rig::new(NatSettings { statics: vec![fixed], workers, ..settings() });
        let (a, b, public) = (at(member(5), 4000), end("100.64.0.6:8080"), end("5.5.5.5:80"));
        let seen = rig.hairpin(member(5), &tcp(a, public, SYN, &[])).one_delivered();
        assert_eq!((*seen.from.ip(), seen.to), (EXTERNAL, b), "from the external address");
        let back = rig.hairpin(member(6), &tcp(b, seen.from, SYN | ACK, &[])).one_delivered();
        assert_eq!((back.from, back.to), (public, a));
        let seen = rig.hairpin(member(5), &tcp(a, public, ACK, b"GET")).one_delivered();
        assert_eq!((seen.to, &seen.data[..]), (b, &b"GET"[..]));
    }
}

/// Path MTU discovery works through the NAT.
#[test]
fn nat_t9_destination_unreachable() {
    let mut rig = Rig::new(settings());
    let external = rig.connect(member(5), 4000, server(0));
    let about = tcp(external, server(0), ACK, &[7; 1400]);
    let mut error = icmp_error([9, 9, 9, 9].into(), EXTERNAL, (3, 4), &about);
    error[26..28].copy_from_slice(&1300u16.to_be_bytes());
    icmp::finish(&mut error[20..]);
    let out = rig.in_(&error);
    let seen = &out.delivered[0].1;
    assert_eq!(seen[26..28], 1300u16.to_be_bytes());
    assert_eq!(quote(seen).1, tcp(at(member(5), 4000), server(0), ACK, &[7; 1400])[..548]);
}

#[test]
fn nat_t10_icmp_never_ends_a_connection() {
    let mut rig = Rig::new(settings());
    let external = rig.connect(member(5), 4000, server(0));
    for kind in 0..=255 {
        for code in 0..16 {
            let about = tcp(external, server(0), ACK, &[]);
            rig.in_(&icmp_error([9, 9, 9, 9].into(), EXTERNAL, (kind, code), &about));
        }
    }
    assert_eq!(state(&rig), State::Established);
    assert_eq!(rig.in_(&tcp(server(0), external, ACK, b"x")).one_delivered().to, at(member(5), 4000));
}

#[test]
fn segments_of_no_connection() {
    let mut rig = Rig::new(settings());
    for flags in [ACK, SYN | ACK, RST, FIN | ACK, SYN | RST, 0] {
        let out = rig.out(member(5), &tcp(at(member(5), 4000), server(0), flags, &[]));
        assert_eq!((out.sent.len(), &out.drops[..]), (0, &[DropReason::NatNoFlow][..]), "{flags:#x}");
    }
    let external = rig.connect(member(5), 4001, server(0));
    for flags in [ACK, SYN | ACK, RST] {
        rig.in_(&tcp(end("8.0.0.1:99"), external, flags, &[])).dropped_for(DropReason::NatNoFlow);
    }
}

/// Both ways, to what both links carry.
#[test]
fn segment_size_is_clamped() {
    for (uplink, inside, want) in [(1500, 1500, 1460u16), (1454, 1500, 1414), (1500, 1280, 1240)] {
        let mut rig = Rig::new(NatSettings { uplink_mtu: uplink, inside_mtu: inside, ..settings() });
        let (a, b) = (at(member(5), 4000), server(0));
        let out = rig.out(member(5), &tcp_options(a, b, SYN, &[2, 4, 5, 180], &[]));
        let external = out.one_sent().from;
        assert_eq!(out.sent[0].0[42..44], want.to_be_bytes());
        let out = rig.in_(&tcp_options(b, external, SYN | ACK, &[1, 2, 4, 35, 40, 0, 0, 0], &[]));
        out.one_delivered();
        assert_eq!(out.delivered[0].1[43..45], want.to_be_bytes());
    }
}

fn partial(mut packet: Vec<u8>) -> Vec<u8> {
    let sum = |a: &[u8]| crate::wire::checksum::Sum::ZERO.bytes(a);
    let l4 = u16::try_from(packet.len() - 20).unwrap();
    let field = sum(&packet[12..20]).word(6).word(l4).partial();
    packet[36..38].copy_from_slice(&field.to_be_bytes());
    packet
}

/// An unfinished checksum stays unfinished and right; one that nobody vouches for is computed.
#[test]
fn checksums_by_offload() {
    let (a, b) = (at(member(5), 4000), server(0));
    let mut rig = Rig::new(settings());
    let external = rig.connect(member(5), 4000, b);
    let segment = tcp(a, b, ACK, &[9; 999]);
    let offload = Offload { checksum: L4Checksum::Partial, segment_bytes: 0 };
    let out = rig.out_with(member(5), &partial(segment.clone()), offload);
    assert_eq!(out.sent[0].1, offload);
    let whole = tcp(external, b, ACK, &[9; 999]);
    assert_eq!(out.sent[0].0[20..], partial(whole.clone())[20..]);

    let offload = Offload { checksum: L4Checksum::Untrusted, segment_bytes: 0 };
    for wrong in [partial(segment.clone()), segment.clone()] {
        let out = rig.out_with(member(5), &wrong, offload);
        assert_eq!(out.sent[0].1, Offload::NONE);
        assert_eq!(out.one_sent().data, [9; 999]);
    }

    let long = tcp(a, b, ACK, &[9; 30_000]);
    let offload = Offload { checksum: L4Checksum::Untrusted, segment_bytes: 1448 };
    let out = rig.out_with(member(5), &long, offload);
    assert_eq!(out.sent[0].1, Offload { checksum: L4Checksum::Partial, segment_bytes: 1448 });
    assert_eq!(out.sent[0].0[20..], partial(tcp(external, b, ACK, &[9; 30_000]))[20..]);

    let mut damaged = segment;
    damaged[60] ^= 1;
    let out = rig.out(member(5), &damaged);
    assert_ne!(out.sent[0].0[36..38], [0, 0]);
    assert!(std::panic::catch_unwind(|| read(&out.sent[0].0)).is_err(), "an error on the way stays visible");
}

#[test]
fn super_packets_count_by_their_segments() {
    let (a, b) = (at(member(5), 4000), server(0));
    for (uplink, df, segment, want) in [
        (1500, true, 1460, Some(1460)),
        (1400, true, 1460, None),
        (1400, false, 1460, Some(1360)),
        (1400, true, 1360, Some(1360)),
    ] {
        let mut rig = Rig::new(NatSettings { uplink_mtu: uplink, ..settings() });
        rig.connect(member(5), 4000, b);
        let mut long = tcp(a, b, ACK, &[9; 30_000]);
        long[6] = if df { 0x40 } else { 0 };
        seal(&mut long);
        let offload = Offload { checksum: L4Checksum::Partial, segment_bytes: segment };
        let out = rig.out_with(member(5), &long, offload);
        assert_eq!(out.sent.first().map(|(_, offload)| offload.segment_bytes), want, "{uplink} {df} {segment}");
        assert_eq!(out.delivered.len(), usize::from(want.is_none()), "told so");
    }
}

#[test]
fn time_to_live() {
    let mut rig = Rig::new(settings());
    let external = rig.connect(member(5), 4000, server(0));
    let with_ttl = |mut packet: Vec<u8>, ttl| {
        packet[8] = ttl;
        seal(&mut packet);
        packet
    };
    let there = |ttl| with_ttl(tcp(at(member(5), 4000), server(0), ACK, &[]), ttl);
    let back = |ttl| with_ttl(tcp(server(0), external, ACK, &[]), ttl);
    assert_eq!(rig.out(member(5), &there(2)).sent[0].0[8], 1);
    assert_eq!(rig.in_(&back(64)).delivered[0].1[8], 63);
    for ttl in [0, 1] {
        let out = rig.out(member(5), &there(ttl));
        assert_eq!((quote(&out.delivered[0].1).0, &out.drops[..]), ((11, 0), &[DropReason::NatTtl][..]));
        assert_eq!(*read(&out.delivered[0].1).from.ip(), GATEWAY);
        let out = rig.in_(&back(ttl));
        assert_eq!((quote(&out.sent[0].0).0, &out.drops[..]), ((11, 0), &[DropReason::NatTtl][..]));
        assert_eq!(*read(&out.sent[0].0).from.ip(), EXTERNAL);
    }
}
