//! The reader of object files, with files that are none.

use proptest::prelude::*;

use super::load;
use crate::sys::bpf::object::Object;
use crate::sys::bpf::{NoXdp, XdpProgram};

const LANE: &[u8] = include_bytes!("../../../../xdp/lane.o");

fn read(bytes: &[u8]) -> Result<Object, String> {
    Object::read(bytes, "xdp.frags").map_err(|error| error.to_string())
}

#[test]
fn the_program_and_its_maps_are_found() {
    let object = read(LANE).unwrap();
    let names: Vec<_> = object.maps.iter().map(|(name, map)| (name.as_str(), map.kind, map.entries)).collect();
    assert_eq!(
        names,
        [
            ("config", 2, 1),
            ("addresses", 1, 1024),
            ("ports", 2, 3 * 1024),
            ("sources", 11, 65_536),
            ("sockets", 17, 256),
            ("counts", 6, 10),
        ]
    );
    assert_eq!(object.license.as_c_str(), c"MIT");
    let code = object.code(&[100, 101, 102, 103, 104, 105]).unwrap();
    for fd in 100..106 {
        // A load of 64 bits into some register, with a descriptor in it.
        let loads = code.iter().filter(|insn| (insn.code, insn.registers >> 4, insn.immediate) == (0x18, 1, fd));
        assert!(loads.count() > 0, "map {fd} is never used");
    }
    assert!(object.code(&[100, 101]).is_err());
}

#[test]
fn other_files_are_refused() {
    let said = |bytes: &[u8]| read(bytes).unwrap_err();
    assert!(said(b"").contains("no ELF file"));
    assert!(said(&[0; 4096]).contains("no ELF file"));
    let mut machine = LANE.to_vec();
    // e_machine: x86-64.
    machine[18..20].copy_from_slice(&[62, 0]);
    assert!(said(&machine).contains("not for BPF"));
    let mut big = LANE.to_vec();
    // EI_DATA: most significant byte first.
    big[5] = 2;
    assert!(said(&big).contains("no ELF file"));
    assert!(Object::read(LANE, "tc").unwrap_err().to_string().contains("no section tc"));
}

#[test]
fn what_the_verifier_says_is_shown() {
    if load().is_none() {
        return;
    }
    let mut exits = LANE.to_vec();
    // The program is the first section behind the header of the file.
    exits[64..72].copy_from_slice(&[0x95, 0, 0, 0, 0, 0, 0, 0]);
    match XdpProgram::of_object(&exits) {
        Err(NoXdp::Refused { log, .. }) => assert!(log.contains("unreachable insn 1"), "{log}"),
        other => panic!("{other:?}"),
    }
    // Entries of the map "config", the fourth number of the first: the loader relies on one.
    let maps = LANE.windows(12).position(|bytes| bytes == [2, 0, 0, 0, 4, 0, 0, 0, 12, 0, 0, 0]).unwrap();
    let mut other = LANE.to_vec();
    other[maps + 12] = 2;
    let refused = XdpProgram::of_object(&other).unwrap_err().to_string();
    assert!(refused.contains("do not fit") && refused.contains("config"), "{refused}");
}

#[test]
fn no_cut_makes_it_panic() {
    // The table of sections stands at the end.
    for bytes in 0..LANE.len() {
        assert!(read(&LANE[..bytes]).is_err(), "{bytes} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is read from it can also be turned into code.
    #[test]
    fn flipped_bytes_do_not_make_it_panic(
        flips in proptest::collection::vec((0..LANE.len(), any::<u8>()), 1..8),
        cut in 0..=LANE.len(),
        descriptors in 0usize..8,
    ) {
        let mut bytes = LANE.to_vec();
        for (at, byte) in flips {
            bytes[at] = byte;
        }
        for bytes in [&bytes[..], &bytes[..cut]] {
            if let Ok(object) = read(bytes) {
                let _ = object.code(&vec![7; descriptors]);
            }
        }
    }

    /// Headers and tables, where a byte matters most.
    #[test]
    fn nor_do_other_tables(at in 0usize..64, value in any::<u64>(), section in 0usize..700) {
        let mut bytes = LANE.to_vec();
        bytes[at] = value.to_le_bytes()[0];
        let tables = bytes.len() - 700;
        for (place, byte) in bytes[tables + section..].iter_mut().zip(value.to_le_bytes()) {
            *place = byte;
        }
        if let Ok(object) = read(&bytes) {
            let _ = object.code(&[1, 2, 3, 4, 5, 6]);
        }
    }
}
