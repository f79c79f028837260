//! The record's form, and merging it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use headland_monitor::{Digest, Level, Record, RecordError, Subject, Summary};
use proptest::prelude::*;

fn record() -> Record {
    Record {
        subject: Subject {
            monitor: "drift".to_owned(),
            component: Digest::of(b"component"),
            config: Digest::of(b"{}"),
            reference: Digest::of(b"reference"),
            models: vec![Digest([1; 32]), Digest([2; 32])],
        },
        boot: Level::One(7),
        window_ns: (1_000, 2_000),
        windows: 1,
        summary: support::of_row(1.0, 2).to_bytes(),
    }
}

fn merge_summaries(a: &[u8], b: &[u8]) -> Result<Vec<u8>, String> {
    let mut a = Summary::parse(a).map_err(|e| e.to_string())?;
    let b = Summary::parse(b).map_err(|e| e.to_string())?;
    a.merge(&b).map_err(|e| e.to_string())?;
    Ok(a.to_bytes())
}

/// The bytes of a record, with one part in place of another.
fn with(from: &[u8], to: &[u8]) -> Vec<u8> {
    let bytes = record().to_bytes();
    let at = bytes.windows(from.len()).position(|w| w == from).expect("the part is there");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn parsing_gives_back_what_was_written() {
    for boot in [Level::None, Level::One(u64::MAX), Level::Many] {
        for models in [vec![], vec![Digest([9; 32])], vec![Digest([1; 32]), Digest([2; 32])]] {
            let mut record = Record { boot, ..record() };
            record.subject.models = models;
            assert_eq!(Record::parse(&record.to_bytes()), Ok(record));
        }
    }
}

#[test]
fn every_change_of_one_byte_is_seen() {
    let record = record();
    let mut bytes = record.to_bytes();
    for at in 0..bytes.len() {
        let was = bytes[at];
        for change in 1..=255 {
            bytes[at] = was ^ change;
            assert_ne!(Record::parse(&bytes).as_ref(), Ok(&record), "byte {at} ^ {change:02x}");
        }
        bytes[at] = was;
    }
    for cut in 0..bytes.len() {
        assert!(Record::parse(&bytes[..cut]).is_err(), "cut to {cut}");
    }
}

#[test]
fn other_cbor_of_the_same_content_is_refused() {
    let cases = [
        ("a long version", with(b"\x61v\x01", b"\x61v\x18\x01")),
        ("a long boot", with(b"\x64boot\x07", b"\x64boot\x18\x07")),
        ("boot true for false", with(b"\x64boot\x07", b"\x64boot\xf5")),
        ("long windows", with(b"\x67windows\x01", b"\x67windows\x18\x01")),
        ("a long monitor", with(b"\x65drift", b"\x78\x05drift")),
        ("models without length", {
            let bytes = with(b"\x66models\x82", b"\x66models\x9f");
            let at = bytes.windows(7).position(|w| w == b"\x66window").unwrap();
            [&bytes[..at], b"\xff", &bytes[at..]].concat()
        }),
        ("trailing bytes", [record().to_bytes(), vec![0]].concat()),
    ];
    for (what, bytes) in cases {
        assert!(Record::parse(&bytes).is_err(), "{what}");
    }
    let mut unsorted = record();
    unsorted.subject.models.reverse();
    assert_eq!(Record::parse(&unsorted.to_bytes()), Err(RecordError::NotCanonical));
}

#[test]
fn what_is_no_record_is_refused() {
    let malformed = |bytes: &[u8], why: &str| match Record::parse(bytes) {
        Err(RecordError::Malformed(what)) => assert!(what.contains(why), "{what}: {why}"),
        other => panic!("{why}: {other:?}"),
    };
    malformed(b"", "end of input");
    malformed(b"\xa0", "not a map of ten");
    malformed(&with(b"\x64boot", b"\x64boat"), "`boot` is not where it belongs");
    malformed(
        &with(b"\x82\x19\x03\xe8\x19\x07\xd0", b"\x82\x19\x07\xd0\x19\x03\xe8"),
        "ends before",
    );
    malformed(&with(b"\x66models\x82", b"\x66models\x9a\x00\x0f\x42\x40"), "too many models");
    malformed(
        &with(b"\x66models\x82", b"\x66models\x9b\xff\xff\xff\xff\xff\xff\xff\xff"),
        "too many",
    );
    malformed(&with(b"\x66config\x58\x20", b"\x66config\x58\x1f"), "32 bytes");
    assert_eq!(Record::parse(&with(b"\x61v\x01", b"\x61v\x02")), Err(RecordError::Version(2)));
}

#[test]
fn records_of_different_things_do_not_merge_and_say_of_what() {
    type Change = fn(&mut Subject);
    let changes: [(&str, Change); 5] = [
        ("monitor", |s| s.monitor = "other".to_owned()),
        ("component", |s| s.component = Digest::NONE),
        ("config", |s| s.config = Digest::NONE),
        ("reference", |s| s.reference = Digest::NONE),
        ("models", |s| s.models = vec![]),
    ];
    for (wanted, change) in changes {
        let mut other = record();
        change(&mut other.subject);
        match record().merge(&other, |_, _| panic!("asked to merge what differs")) {
            Err(RecordError::Subject { what, .. }) => assert_eq!(what, wanted),
            merged => panic!("{wanted}: {merged:?}"),
        }
    }
}

#[test]
fn a_merge_covers_both_windows_and_boots() {
    let later = Record { boot: Level::One(8), window_ns: (500, 1_500), windows: 3, ..record() };
    let merged = record().merge(&later, merge_summaries).unwrap();
    assert_eq!(merged.boot, Level::Many);
    assert_eq!(merged.window_ns, (500, 2_000));
    assert_eq!(merged.windows, 4);
    assert_eq!(Summary::parse(&merged.summary).unwrap().rows, 2);
    assert_eq!(record().merge(&record(), merge_summaries).unwrap().boot, Level::One(7));
}

#[test]
fn overflow_and_a_component_that_refuses_are_errors() {
    let many = Record { windows: u64::MAX, ..record() };
    assert_eq!(many.merge(&record(), merge_summaries), Err(RecordError::Overflow));
    let refused = record().merge(&record(), |_, _| Err("no".to_owned()));
    assert!(matches!(refused, Err(RecordError::Summary { why, .. }) if why == "no"));
}

proptest! {
    #[test]
    fn merging_is_commutative_and_associative(
        parts in prop::array::uniform3((0..3u64, 0..100u64, 0..100u64, 1..5u64, 0..9usize)),
    ) {
        let [a, b, c] = parts.map(|(boot, first, length, windows, category)| Record {
            boot: Level::One(boot),
            window_ns: (first, first + length),
            windows,
            summary: support::of_row(windows as f64, category).to_bytes(),
            ..record()
        });
        let merge = |a: &Record, b: &Record| a.merge(b, merge_summaries).unwrap();
        prop_assert_eq!(merge(&a, &b), merge(&b, &a));
        prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(parsed) = Record::parse(&bytes) {
            prop_assert_eq!(parsed.to_bytes(), bytes);
        }
    }
}
