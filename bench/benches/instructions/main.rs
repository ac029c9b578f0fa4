//! One piece of the way of a frame, run a number of times for callgrind. `scripts/instructions` runs it.
//!
//! Only what happens inside [`measured`] is counted: the script names it to callgrind's `--toggle-collect`. What a
//! round needs is made before, and checked after it, so that nothing passes by doing nothing. Same bytes, same
//! time, one thread: two runs count the same.
//!
//! Without arguments, as under `cargo bench`, it says what it is for and ends.
#![allow(clippy::unwrap_used, reason = "a measurement may fail by panicking")]

#[path = "../../../tests/common/mod.rs"]
mod common;
#[path = "../fixture/mod.rs"]
mod fixture;
mod layers;
mod self_test;
mod way_out;
mod workers;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Something to run in rounds.
pub(crate) trait Piece {
    /// Makes what the next round needs.
    fn prepare(&mut self) {}

    /// The round.
    fn run(&mut self);

    /// How much the round did, in the unit of the budget: frames, copies or records.
    fn done(&mut self) -> u64;
}

struct Entry {
    name: &'static str,
    /// What a round of it does, in the unit of the budget.
    each: u64,
    /// Rounds that make its cost per frame steady.
    rounds: u64,
    make: fn() -> Box<dyn Piece>,
    covers: &'static str,
}

const fn entry(
    name: &'static str,
    (each, rounds): (u64, u64),
    make: fn() -> Box<dyn Piece>,
    covers: &'static str,
) -> Entry {
    Entry { name, each, rounds, make, covers }
}

const PIECES: &[Entry] = &[
    entry(
        "deframe-64",
        (240, 50),
        || Box::new(layers::Deframe::new(64)),
        "a frame of 64 bytes out of a full record's plaintext",
    ),
    entry(
        "deframe-1400",
        (11, 500),
        || Box::new(layers::Deframe::new(1_400)),
        "a frame of 1400 bytes out of a full record's plaintext",
    ),
    entry("hub", (256, 50), || Box::new(layers::Hub::new()), "ingress and egress of a frame between known stations"),
    entry(
        "enframe-64",
        (200, 50),
        || Box::new(layers::Enframe::new(64, 200)),
        "Link::push of a frame of 64 bytes, into the record under construction",
    ),
    entry(
        "enframe-1400",
        (33, 100),
        || Box::new(layers::Enframe::new(1_400, 33)),
        "Link::push of a frame of 1400 bytes, into the record under construction",
    ),
    entry(
        "record",
        (1, 500),
        || Box::new(layers::Record::new(1_400)),
        "a record of 1400 bytes sealed and one opened, around the AEAD",
    ),
    entry(
        "mailbox",
        (128, 50),
        || Box::new(layers::Letters::new(64)),
        "a frame of 64 bytes into another worker's mailbox and out of it",
    ),
    entry(
        "switch-64",
        (240, 50),
        || Box::new(workers::Switch::new(64, 240)),
        "a frame of 64 bytes from member to member of one worker, 240 a turn",
    ),
    entry(
        "switch-1400",
        (33, 100),
        || Box::new(workers::Switch::new(1_400, 33)),
        "a frame of 1400 bytes from member to member of one worker, 33 a turn",
    ),
    entry(
        "switch-super",
        (12, 100),
        || Box::new(workers::SwitchSuper::new(3, 12)),
        "a super-frame of 3 segments of 1300 bytes from member to member of one worker, 12 a turn",
    ),
    entry(
        "flood",
        (256, 20),
        || Box::new(workers::Flood::new(64, 32, 8)),
        "a copy of a flooded frame of 64 bytes to each of 32 members, 8 frames a turn",
    ),
    entry(
        "nat-out-64",
        (200, 50),
        || Box::new(way_out::Out::datagrams(200)),
        "a datagram in a frame of 64 bytes from a member through the NAT to the lane, 200 a turn",
    ),
    entry(
        "nat-out-1400",
        (33, 100),
        || Box::new(way_out::Out::segments(33)),
        "a TCP segment in a frame of 1400 bytes from a member through the NAT into a super-packet, 33 a turn",
    ),
    entry(
        "nat-in-64",
        (64, 150),
        || Box::new(way_out::In::datagrams(64)),
        "a datagram in a frame of 64 bytes from the lane through the NAT to a member, 64 a turn",
    ),
    entry(
        "nat-in-1400",
        (33, 100),
        || Box::new(way_out::In::segments(33)),
        "a TCP segment in a frame of 1400 bytes from a super-packet through the NAT to a member, 33 a turn",
    ),
    entry("self-test", (1, 50), || Box::new(self_test::Forbidden::default()), ""),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--list"] => {
            for Entry { name, each, rounds, covers, .. } in PIECES {
                println!("{name}\t{each}\t{rounds}\t{covers}");
            }
            ExitCode::SUCCESS
        }
        ["--piece", name, "--rounds", rounds] => match PIECES.iter().find(|piece| piece.name == name) {
            Some(piece) => {
                run(&mut *(piece.make)(), rounds.parse().unwrap(), piece.each);
                ExitCode::SUCCESS
            }
            None => ExitCode::FAILURE,
        },
        _ => {
            println!("instructions --list | --piece NAME --rounds N: counted under callgrind by scripts/instructions");
            ExitCode::SUCCESS
        }
    }
}

/// Runs `rounds` rounds, each of which does `each`.
fn run(piece: &mut dyn Piece, rounds: u64, each: u64) {
    for round in 0..rounds {
        piece.prepare();
        measured(piece);
        assert_eq!(piece.done(), each, "round {round}");
    }
}

/// What callgrind counts.
#[inline(never)]
fn measured(piece: &mut dyn Piece) {
    piece.run();
}
