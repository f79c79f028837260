//! The summary's form, and merging it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use headland_monitor::{
    Digest, Field, Level, Noised, Summary, SummaryError, fixed_point, from_fixed_point,
};
use proptest::prelude::*;
use support::summary;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn text(text: &str) -> String {
    assert!(text.len() < 24);
    let bytes: String = text.bytes().map(|b| format!("{b:02x}")).collect();
    format!("{:02x}{bytes}", 0x60 + text.len())
}

/// A summary of one field `f`, from the hex of its parts.
fn of_parts(version: &str, by: &str, rows: &str, fields: &str) -> Vec<u8> {
    let none = "5820".to_owned() + &"00".repeat(32);
    let keys = [("v", version), ("by", by), ("rows", rows), ("fields", fields)];
    let keys: String = keys.iter().map(|(key, value)| text(key) + value).collect();
    hex(&format!("a5{keys}{}{none}", text("reference")))
}

fn of_field(field: &str) -> Vec<u8> {
    of_parts("01", &text("m"), "00", &format!("a1{}{field}", text("f")))
}

fn one(field: Field) -> Summary {
    let mut summary = Summary::empty("m", Digest::NONE);
    summary.fields.insert("f".to_owned(), field);
    summary
}

/// RFC 8949, appendix A: what these integers are in CBOR.
const UNSIGNED: [(u64, &str); 11] = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1_000_000, "1a000f4240"),
    (1_000_000_000_000, "1b000000e8d4a51000"),
    (u64::MAX, "1bffffffffffffffff"),
];

const SIGNED: [(i64, &str); 6] =
    [(-1, "20"), (-10, "29"), (-100, "3863"), (-1000, "3903e7"), (1000, "1903e8"), (0, "00")];

const TEXT: [(&str, &str); 6] = [
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ("\"\\", "62225c"),
    ("\u{fc}", "62c3bc"),
    ("\u{6c34}", "63e6b0b4"),
];

#[test]
fn integers_are_those_of_rfc_8949() {
    let list = |vectors: &[&str]| format!("{:02x}{}", 0x80 + vectors.len(), vectors.concat());
    let counts = UNSIGNED.map(|(n, _)| n).to_vec();
    let bytes = of_field(&format!("8200{}", list(&UNSIGNED.map(|(_, hex)| hex))));
    assert_eq!(one(Field::Counts(counts)).to_bytes(), bytes);
    let sums = SIGNED.map(|(n, _)| n).to_vec();
    let bytes = of_field(&format!("8201{}", list(&SIGNED.map(|(_, hex)| hex))));
    assert_eq!(one(Field::Sums(sums.clone())).to_bytes(), bytes);
    let noised = Noised { variance: 1_000_000, values: sums };
    let bytes = of_field(&format!("8204821a000f4240{}", list(&SIGNED.map(|(_, hex)| hex))));
    assert_eq!(one(Field::NoisedCounts(noised)).to_bytes(), bytes);
    // [1, 2, ..., 25]
    let bytes = of_field("82009819 0102030405060708090a0b0c0d0e0f101112131415161718181819");
    assert_eq!(one(Field::Counts((1..=25).collect())).to_bytes(), bytes);
}

#[test]
fn text_null_and_false_are_those_of_rfc_8949() {
    for (name, vector) in TEXT {
        let mut summary = Summary::empty(name, Digest::NONE);
        summary.fields.insert(name.to_owned(), Field::Level(Level::None));
        let bytes = of_parts("01", vector, "00", &format!("a1{vector}8202f6"));
        assert_eq!(summary.to_bytes(), bytes);
        assert_eq!(Summary::parse(&bytes).unwrap(), summary);
    }
    assert_eq!(one(Field::Level(Level::Many)).to_bytes(), of_field("8202f4"));
    // 1.0 is 0x3ff0000000000000.
    let bytes = of_field("82021b3ff0000000000000");
    assert_eq!(one(Field::Level(Level::of(1.0))).to_bytes(), bytes);
}

#[test]
fn keys_are_ordered_by_length_and_then_by_bytes() {
    let mut summary = Summary::empty("m", Digest::NONE);
    for name in ["b", "aa", "a", "\u{e9}", ""] {
        summary.fields.insert(name.to_owned(), Field::Level(Level::Many));
    }
    let names = ["60", "6161", "6162", "626161", "62c3a9"].map(|name| format!("{name}8202f4"));
    let bytes = of_parts("01", &text("m"), "00", &format!("a5{}", names.concat()));
    assert_eq!(summary.to_bytes(), bytes);
    assert_eq!(Summary::parse(&bytes).unwrap(), summary);
}

#[test]
fn other_cbor_of_the_same_content_is_refused() {
    let good = of_field("8200820a00");
    assert_eq!(Summary::parse(&good).unwrap(), one(Field::Counts(vec![10, 0])));
    let m = text("m");
    let f = text("f");
    let cases = [
        ("a count of two bytes", of_field("820082180a00")),
        ("a count of nine bytes", of_field("8200821b000000000000000a00")),
        ("a long list", of_field("820098020a00")),
        ("a long kind", of_field("821800820a00")),
        ("a long version", of_parts("1801", &m, "00", &format!("a1{f}8200820a00"))),
        ("long rows", of_parts("01", &m, "1800", &format!("a1{f}8200820a00"))),
        ("a long name", of_parts("01", &m, "00", "a178016682 00820a00")),
        ("a level true for false", of_field("8202f5")),
        ("a level -0", of_field("82021b8000000000000000")),
        ("a level of another NaN", of_field("82021b7ff8000000000001")),
        ("unsorted", of_parts("01", &m, "00", "a261628202f661618202f6")),
        ("sorted by bytes, not by length", of_parts("01", &m, "00", "a26261618202f661628202f6")),
        ("a field twice", of_parts("01", &m, "00", "a261618202f661618202f6")),
        ("trailing bytes", [good.clone(), vec![0]].concat()),
        ("a summary twice", good.repeat(2)),
    ];
    for (what, bytes) in cases {
        assert_eq!(Summary::parse(&bytes), Err(SummaryError::NotCanonical), "{what}");
    }
    let cases = [
        ("a list without length", of_field("82009f0a00ff")),
        ("a pair without length", of_field("9f00820a00ff")),
        ("fields without length", of_parts("01", &m, "00", &format!("bf{f}8200820a00ff"))),
        ("a name without length", of_parts("01", &m, "00", "a17f6166ff8200820a00")),
        ("a level undefined for null", of_field("8202f7")),
        ("a tag", of_field("c18200820a00")),
        ("a float", of_field("820082f9490000")),
    ];
    for (what, bytes) in cases {
        let parsed = Summary::parse(&bytes);
        assert!(matches!(parsed, Err(SummaryError::Malformed(_))), "{what}: {parsed:?}");
    }
    for cut in 0..good.len() {
        assert!(Summary::parse(&good[..cut]).is_err(), "cut to {cut}");
    }
}

#[test]
fn another_version_is_named() {
    let bytes = of_parts("02", &text("m"), "00", "a0");
    assert_eq!(Summary::parse(&bytes), Err(SummaryError::Version(2)));
}

#[test]
fn what_is_no_summary_is_refused() {
    let malformed = |bytes: &[u8], why: &str| match Summary::parse(bytes) {
        Err(SummaryError::Malformed(what)) => assert!(what.contains(why), "{what}: {why}"),
        other => panic!("{why}: {other:?}"),
    };
    malformed(b"", "damaged");
    malformed(b"{\"rows\": 3}", "damaged");
    malformed(&hex("a0"), "not a map of five");
    malformed(&of_field("8206f6"), "unknown kind 6");
    malformed(&of_field("83008000"), "not a pair");
    malformed(&of_field("820120"), "damaged");
    malformed(&of_field("820081 20"), "damaged");
    malformed(&of_field("82011bffffffffffffffff"), "damaged");
    malformed(&of_field("8201811bffffffffffffffff"), "damaged");
    malformed(&of_field("820380"), "a range is two");
    malformed(&of_field("8203820100"), "a range is two");
    malformed(&of_field("820382001b7ff8000000000000"), "a range is two");
    malformed(&of_field("820383000000"), "a range is two");
    malformed(&of_field("820480"), "not a pair");
    malformed(&of_field("82048220 80"), "damaged");
    malformed(&of_parts("01", "61ff", "00", "a0"), "damaged");
}

/// Lengths are the sender's word: memory grows with what really came.
#[test]
fn announced_lengths_are_limited_and_not_believed() {
    let too_large = |bytes: &[u8], announced: u64| match Summary::parse(bytes) {
        Err(SummaryError::TooLarge { value, .. }) => assert_eq!(value, announced),
        other => panic!("{other:?}"),
    };
    too_large(&of_field("82009a000f4240"), 1_000_000);
    too_large(&of_field("82019bffffffffffffffff"), u64::MAX);
    too_large(&of_field("820482009a000f4240"), 1_000_000);
    too_large(&of_parts("01", &text("m"), "00", "ba000f4240"), 1_000_000);
    too_large(&of_parts("01", &text("m"), "1b0020000000000001", "a0"), (1 << 53) + 1);
    for bytes in [
        of_field("82009a00010000"),
        of_parts("01", &text("m"), "00", "b94000"),
        of_parts("01", "7b7fffffffffffffff", "00", "a0"),
        of_parts("01", &text("m"), "00", "a17affffffff"),
    ] {
        assert!(matches!(Summary::parse(&bytes), Err(SummaryError::Malformed(_))));
    }
    let mut summary = Summary::empty(&"m".repeat(513), Digest::NONE);
    too_large(&summary.to_bytes(), 513);
    summary.by.pop();
    assert!(Summary::parse(&summary.to_bytes()).is_ok());
    summary.fields.insert("f".repeat(513), Field::Level(Level::None));
    too_large(&summary.to_bytes(), 513);
}

#[test]
fn every_change_of_one_byte_is_seen() {
    let summary = support::of_row(2.5, 3);
    let mut bytes = summary.to_bytes();
    for at in 0..bytes.len() {
        let was = bytes[at];
        for change in 1..=255 {
            bytes[at] = was ^ change;
            assert_ne!(Summary::parse(&bytes).as_ref(), Ok(&summary), "byte {at} ^ {change:02x}");
        }
        bytes[at] = was;
    }
}

#[test]
fn merging_an_overflow_is_refused_and_changes_nothing() {
    let cases = [
        (Field::Counts(vec![1, u64::MAX]), Field::Counts(vec![1, 1])),
        (Field::Sums(vec![i64::MIN]), Field::Sums(vec![-1])),
        (Field::Sums(vec![i64::MAX]), Field::NoisedSums(Noised { variance: 0, values: vec![1] })),
        (
            Field::Counts(vec![u64::MAX]),
            Field::NoisedCounts(Noised { variance: 0, values: vec![0] }),
        ),
        (
            Field::NoisedCounts(Noised { variance: u64::MAX, values: vec![0] }),
            Field::NoisedCounts(Noised { variance: 1, values: vec![0] }),
        ),
    ];
    for (a, b) in cases {
        for (a, b) in [(&a, &b), (&b, &a)] {
            // A field before it in order has been merged by then.
            let mut ours = one(a.clone());
            let mut theirs = one(b.clone());
            ours.fields.insert("a".to_owned(), Field::Counts(vec![1]));
            theirs.fields.insert("a".to_owned(), Field::Counts(vec![2]));
            (ours.rows, theirs.rows) = (1, 1);
            let before = ours.clone();
            assert_eq!(ours.merge(&theirs), Err(SummaryError::Overflow("f".to_owned())));
            assert_eq!(ours, before);
        }
    }
    let mut ours = Summary { rows: 1 << 53, ..one(Field::Counts(vec![1])) };
    let before = ours.clone();
    let theirs = Summary { rows: u64::MAX, ..before.clone() };
    assert!(matches!(ours.merge(&theirs), Err(SummaryError::TooLarge { .. })));
    assert_eq!(ours, before);
}

#[test]
fn merging_another_form_monitor_or_reference_is_refused_and_changes_nothing() {
    let noised = Noised { variance: 1, values: vec![1] };
    let forms = [
        Field::Counts(vec![1]),
        Field::Counts(vec![1, 2]),
        Field::Sums(vec![1]),
        Field::Sums(vec![1, 2]),
        Field::Level(Level::None),
        Field::range(1.0),
        Field::NoisedCounts(Noised { values: vec![1, 2, 3], ..noised.clone() }),
        Field::NoisedSums(Noised { values: vec![1, 2, 3], ..noised }),
    ];
    for (i, a) in forms.iter().enumerate() {
        for (j, b) in forms.iter().enumerate() {
            let mut ours = one(a.clone());
            let merged = ours.merge(&one(b.clone()));
            if i == j {
                assert_eq!(merged, Ok(()));
            } else {
                assert_eq!(merged, Err(SummaryError::Form("f".to_owned())), "{a:?} {b:?}");
                assert_eq!(ours, one(a.clone()));
            }
        }
    }
    let mut ours = one(Field::Counts(vec![1]));
    let before = ours.clone();
    let theirs = Summary { by: "other".to_owned(), ..before.clone() };
    assert!(matches!(ours.merge(&theirs), Err(SummaryError::Monitor { .. })));
    let theirs = Summary { reference: Digest::of(b"another"), ..before.clone() };
    assert!(matches!(ours.merge(&theirs), Err(SummaryError::Reference { .. })));
    assert_eq!(ours, before);
}

#[test]
fn exact_and_noised_numbers_merge_and_have_the_noise() {
    let noised = |variance, values: &[i64]| Noised { variance, values: values.to_vec() };
    let mut a = one(Field::Counts(vec![3, 0]));
    a.merge(&one(Field::NoisedCounts(noised(5, &[-4, 2])))).unwrap();
    assert_eq!(a, one(Field::NoisedCounts(noised(5, &[-1, 2]))));
    let mut b = one(Field::NoisedSums(noised(5, &[-4])));
    b.merge(&one(Field::Sums(vec![-7]))).unwrap();
    b.merge(&one(Field::NoisedSums(noised(6, &[1])))).unwrap();
    assert_eq!(b, one(Field::NoisedSums(noised(11, &[-10]))));
}

#[test]
fn settling_cuts_noised_counts_at_nought_and_leaves_exact_summaries_alone() {
    let mut summary = one(Field::NoisedCounts(Noised { variance: 3 << 20, values: vec![-2, 7] }));
    let noised = |n| Field::NoisedCounts(Noised { variance: 1 << 19, values: vec![n] });
    summary.fields.insert("rows".to_owned(), noised(95));
    summary
        .fields
        .insert("s".to_owned(), Field::NoisedSums(Noised { variance: 1, values: vec![-2] }));
    summary.rows = 10;
    assert_eq!(summary.noise_variance("f"), 3.0);
    assert_eq!(summary.noise_variance("rows"), 0.5);
    assert_eq!(summary.noise_variance("none"), 0.0);
    let settled = summary.settled();
    assert_eq!(settled.rows, 105);
    assert_eq!(settled.counts("f"), [0, 7]);
    assert_eq!(settled.sums("s"), [-2]);
    assert!(!settled.fields.contains_key("rows"));
    assert_eq!(settled.settled(), settled);
    summary.fields.insert("rows".to_owned(), noised(-95));
    assert_eq!(summary.settled().rows, 0);
    let exact = support::of_row(1.0, 1);
    assert_eq!(exact.settled(), exact);
}

#[test]
fn fixed_point_rounds_cuts_and_has_nothing_for_nan() {
    assert_eq!(fixed_point(1.0), Some(1 << 20));
    assert_eq!(fixed_point(-0.5f64.powi(21)), Some(0));
    assert_eq!(fixed_point(1.5 * 0.5f64.powi(20)), Some(2));
    assert_eq!(fixed_point(f64::INFINITY), Some(1 << 42));
    assert_eq!(fixed_point(-f64::MAX), Some(-(1 << 42)));
    assert_eq!(fixed_point(f64::NAN), None);
    assert_eq!(from_fixed_point(-3 << 19), -1.5);
}

#[test]
fn a_range_gives_back_the_values_it_is_of() {
    let mut range = one(Field::range(-3.25));
    for x in [f64::INFINITY, -0.0, 5e-324, f64::NEG_INFINITY] {
        range.merge(&one(Field::range(x))).unwrap();
    }
    assert_eq!(range.fields["f"].bounds(), Some((f64::NEG_INFINITY, f64::INFINITY)));
    assert_eq!(Field::range(-0.0), Field::range(0.0));
    assert_eq!(Field::Counts(vec![]).bounds(), None);
}

fn counts() -> impl Strategy<Value = Field> {
    prop::array::uniform2(0..1u64 << 40).prop_map(|n| Field::Counts(n.to_vec()))
}

fn sums() -> impl Strategy<Value = Field> {
    prop::array::uniform2(-(1i64 << 40)..1 << 40).prop_map(|n| Field::Sums(n.to_vec()))
}

fn noised() -> impl Strategy<Value = Noised> {
    (0..1u64 << 40, prop::array::uniform2(-(1i64 << 40)..1 << 40))
        .prop_map(|(variance, n)| Noised { variance, values: n.to_vec() })
}

proptest! {
    #[test]
    fn parsing_gives_back_what_was_written(summary in summary()) {
        let bytes = summary.to_bytes();
        let parsed = Summary::parse(&bytes).unwrap();
        prop_assert_eq!(&parsed, &summary);
        prop_assert_eq!(parsed.to_bytes(), bytes);
    }

    /// What parses has one form, whatever it came from.
    #[test]
    fn mutated_bytes_never_parse_to_the_same_summary(
        summary in summary(),
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = summary.to_bytes();
        for (at, to) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Ok(parsed) = Summary::parse(&bytes) {
            prop_assert_eq!(parsed.to_bytes(), &*bytes);
            prop_assert_eq!(parsed == summary, bytes == summary.to_bytes());
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(parsed) = Summary::parse(&bytes) {
            prop_assert_eq!(parsed.to_bytes(), bytes);
        }
    }

    #[test]
    fn merging_is_commutative_and_empty_is_its_identity(a in summary(), b in summary()) {
        let b = Summary { by: a.by.clone(), reference: a.reference, ..b };
        let (mut ab, mut ba) = (a.clone(), b.clone());
        let (one, other) = (ab.merge(&b), ba.merge(&a));
        prop_assert_eq!(one.is_ok(), other.is_ok());
        if one.is_ok() {
            prop_assert_eq!(&ab, &ba);
        } else {
            prop_assert_eq!(&ab, &a);
        }
        let empty = Summary::empty(&a.by, a.reference);
        let mut left = empty.clone();
        left.merge(&a).unwrap();
        prop_assert_eq!(&left, &a);
        left.merge(&empty).unwrap();
        prop_assert_eq!(&left, &a);
    }

    /// Fields of one form: exact and noised ones mixed as they may be.
    #[test]
    fn merging_is_associative(
        [a, b, c] in prop_oneof![
            prop::array::uniform3(prop_oneof![counts(), noised().prop_map(Field::NoisedCounts)]),
            prop::array::uniform3(prop_oneof![sums(), noised().prop_map(Field::NoisedSums)]),
            prop::array::uniform3((0..3u8).prop_map(|n| Field::range(n.into()))),
            prop::array::uniform3((0..4u8).prop_map(|n| Field::Level(match n {
                0 => Level::None,
                1 => Level::Many,
                n => Level::of(n.into()),
            }))),
        ],
    ) {
        let merge = |a: &Summary, b: &Summary| {
            let mut merged = a.clone();
            merged.merge(b).unwrap();
            merged
        };
        let [a, b, c] = [a, b, c].map(one);
        let (left, right) = (merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
        prop_assert_eq!(left.to_bytes(), right.to_bytes());
    }

    #[test]
    fn order_is_that_of_numbers(a in any::<f64>(), b in any::<f64>()) {
        prop_assume!(!a.is_nan() && !b.is_nan());
        if let (Field::Range { low: x, .. }, Field::Range { low: y, .. }) =
            (Field::range(a), Field::range(b))
        {
            prop_assert_eq!(Some(x.cmp(&y)), a.partial_cmp(&b));
        }
        prop_assert_eq!(Field::range(a).bounds(), Some((a, a)));
    }
}
