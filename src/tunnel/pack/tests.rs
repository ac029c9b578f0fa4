//! Vectors of protocol note §2, damaged messages, round trips.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn example() -> Vec<u8> {
    let bytes = unhex(
        "00000006
         00000007 6d6574686f64      00000002 00000001 00000005 6c6f67696e
         00000009 6175746874797065  00000000 00000001 00000001
         00000007 7469636b6574      00000001 00000001 00000003 010203
         00000005 6e6f7465          00000003 00000001 00000004 61c3a900
         00000002 74                00000004 00000001 0000000000000001
         00000005 706f7274          00000000 00000002 000001bb 000003e0",
    );
    assert_eq!(bytes.len(), 149);
    bytes
}

fn parse(bytes: &[u8]) -> Result<Pack<'_>, PackError> {
    Pack::parse(bytes, &PackLimits::LOGIN)
}

#[test]
fn the_worked_example_reads() {
    let bytes = example();
    let pack = parse(&bytes).unwrap();
    assert_eq!(pack.str("method"), Some("login"));
    assert_eq!(pack.str("METHOD"), Some("login"));
    assert_eq!(pack.int("authtype"), Some(1));
    assert_eq!(pack.data("ticket"), Some(&[1, 2, 3][..]));
    assert_eq!(pack.data_array::<3>("ticket"), Some([1, 2, 3]));
    assert_eq!(pack.data_array::<4>("ticket"), None);
    assert_eq!(pack.unistr("note"), Some("aé"));
    assert_eq!(pack.int64("t"), Some(1));
    assert_eq!((pack.int_at("port", 0), pack.int_at("port", 1), pack.int_at("port", 2)), (Some(443), Some(992), None));
    assert_eq!((pack.count("port"), pack.count("absent")), (2, 0));
}

#[test]
fn a_wrong_type_reads_as_absent() {
    let bytes = example();
    let pack = parse(&bytes).unwrap();
    assert_eq!(pack.int("method"), None);
    assert_eq!(pack.str("authtype"), None);
    assert_eq!(pack.data("method"), None);
    assert_eq!(pack.int64("authtype"), None);
    assert_eq!(pack.unistr("method"), None);
    assert!(!pack.bool("method"));
}

#[test]
fn the_worked_example_writes() {
    let mut pack = PackWriter::new();
    pack.str("method", "login").int("authtype", 1).data("ticket", &[1, 2, 3]).unistr("note", "aé");
    pack.int64("t", 1).ints("port", &[443, 992]).ints("nothing", &[]);
    assert_eq!(pack.finish(), example());
}

#[test]
fn damaged_messages_are_refused() {
    let cases: &[(&str, PackError)] = &[
        ("", PackError::Truncated),
        ("000000", PackError::Truncated),
        ("00000001", PackError::Truncated),
        ("00000101", PackError::TooLarge),
        ("ffffffff", PackError::TooLarge),
        ("00000001 00000000 00000000 00000001 00000000", PackError::BadName),
        ("00000001 00000001 00000000 00000001 00000000", PackError::BadName),
        ("00000001 00000041 61", PackError::BadName),
        ("00000001 00000002 00 00000000 00000001 00000000", PackError::BadName),
        ("00000001 00000002 61 00000005 00000001 00000000", PackError::BadType),
        ("00000001 00000002 61 00000000 00000000", PackError::NoValues),
        ("00000001 00000002 61 00000000 00000101", PackError::TooLarge),
        ("00000001 00000002 61 00000000 00000002 00000000", PackError::Truncated),
        ("00000001 00000002 61 00000004 00000001 00000000", PackError::Truncated),
        ("00000001 00000002 61 00000001 00000001 00000002 00", PackError::Truncated),
        ("00000001 00000002 61 00000001 00000001 ffffffff 00", PackError::Truncated),
        (
            "00000002 00000002 61 00000000 00000001 00000000 00000002 41 00000000 00000001 00000000",
            PackError::Duplicate,
        ),
    ];
    for (bytes, error) in cases {
        assert_eq!(parse(&unhex(bytes)).unwrap_err(), *error, "{bytes}");
    }
    let long = vec![0; PackLimits::LOGIN.bytes + 1];
    assert_eq!(parse(&long).unwrap_err(), PackError::TooLarge);
}

#[test]
fn every_cut_of_the_example_is_refused() {
    let bytes = example();
    for end in 0..bytes.len() {
        assert_eq!(parse(&bytes[..end]).unwrap_err(), PackError::Truncated, "cut at {end}");
    }
}

#[test]
fn unistr_without_nul_is_tolerated() {
    let bytes = unhex("00000001 00000002 61 00000003 00000001 00000002 6869");
    assert_eq!(parse(&bytes).unwrap().unistr("a"), Some("hi"));
}

#[test]
fn ipv4_stands_reversed() {
    let mut pack = PackWriter::new();
    pack.ip("X", IpAddr::from([10, 231, 0, 2]));
    let bytes = pack.finish();
    assert!(bytes.ends_with(&[2, 0, 0xe7, 10]));
    let pack = parse(&bytes).unwrap();
    assert_eq!(pack.int("X"), Some(0x0200_e70a));
    assert_eq!(pack.ip("x"), Some(IpAddr::from([10, 231, 0, 2])));
    assert_eq!(pack.names().count(), 4);
}

#[test]
fn ipv6_needs_three_elements_only() {
    let address: IpAddr = "2001:db8::7".parse().unwrap();
    let mut pack = PackWriter::new();
    pack.ip("X", address);
    let bytes = pack.finish();
    assert_eq!(parse(&bytes).unwrap().ip("X"), Some(address));
}

#[test]
fn times_count_from_nine_hours_before_1970() {
    assert_eq!(wire_time(Some(1_795_287_600_000)), 1_795_255_200_000);
    assert_eq!(unix_ms(1_795_255_200_000), Some(1_795_287_600_000));
    assert_eq!((wire_time(None), unix_ms(0)), (0, None));
}

#[test]
fn debug_output_has_no_values() {
    let mut pack = PackWriter::new();
    pack.str("plain_password", "hunter2");
    let bytes = pack.finish();
    assert!(!format!("{:?}", parse(&bytes).unwrap()).contains("hunter2"));
}

#[derive(Clone, Debug)]
enum Value {
    Ints(Vec<u32>),
    Int64s(Vec<u64>),
    Data(Vec<u8>),
    Strs(Vec<String>),
    Unistr(String),
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::collection::vec(any::<u32>(), 1..5).prop_map(Value::Ints),
        prop::collection::vec(any::<u64>(), 1..5).prop_map(Value::Int64s),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Data),
        prop::collection::vec("[a-zäé ]{0,12}", 1..5).prop_map(Value::Strs),
        "[a-zäé ]{0,12}".prop_map(Value::Unistr),
    ]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(values in prop::collection::btree_map("[a-z@:_]{1,63}", value(), 0..20)) {
        let values: BTreeMap<String, Value> = values;
        let mut pack = PackWriter::new();
        for (name, value) in &values {
            match value {
                Value::Ints(v) => pack.ints(name, v),
                Value::Int64s(v) => pack.int64s(name, v),
                Value::Data(v) => pack.data(name, v),
                Value::Strs(v) => pack.strs(name, &v.iter().map(String::as_str).collect::<Vec<_>>()),
                Value::Unistr(v) => pack.unistr(name, v),
            };
        }
        let bytes = pack.finish();
        let pack = parse(&bytes).unwrap();
        prop_assert_eq!(pack.names().collect::<Vec<_>>(), values.keys().map(String::as_str).collect::<Vec<_>>());
        for (name, value) in &values {
            let name = name.to_uppercase();
            match value {
                Value::Ints(v) => for (i, x) in v.iter().enumerate() { prop_assert_eq!(pack.int_at(&name, i), Some(*x)); },
                Value::Int64s(v) => for (i, x) in v.iter().enumerate() { prop_assert_eq!(pack.int64_at(&name, i), Some(*x)); },
                Value::Data(v) => prop_assert_eq!(pack.data(&name), Some(&v[..])),
                Value::Strs(v) => for (i, x) in v.iter().enumerate() { prop_assert_eq!(pack.str_at(&name, i), Some(&x[..])); },
                Value::Unistr(v) => prop_assert_eq!(pack.unistr(&name), Some(&v[..])),
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn a_damaged_example_never_panics(at in 0usize..149, value in any::<u8>()) {
        let mut bytes = example();
        bytes[at] = value;
        if let Ok(pack) = parse(&bytes) {
            for name in pack.names() {
                let _ = (pack.int(name), pack.str(name), pack.data(name), pack.unistr(name), pack.int64(name), pack.ip(name));
            }
        }
    }
}
