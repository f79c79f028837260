//! Summaries and random bytes for the tests.

// Each test takes what it needs.
#![allow(dead_code)]

use std::convert::Infallible;

use headland_monitor::{Digest, Field, Level, Noised, Summary, fixed_point};
use proptest::{collection::vec, prelude::*};

/// Random bytes that can be replayed: SplitMix64 (Steele, Lea and Flood,
/// OOPSLA 2014). Good to test with, and for nothing else.
pub fn seeded(mut state: u64) -> impl FnMut(&mut [u8]) -> Result<(), Infallible> {
    move |bytes| {
        for chunk in bytes.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// The summary of one row of two columns, as a monitor would count it.
pub fn of_row(x: f64, category: usize) -> Summary {
    let mut summary = Summary::empty("monitor-test", Digest::of(b"reference"));
    summary.rows = 1;
    let mut counts = vec![0; 5];
    counts[category % 5] = 1;
    let fields = &mut summary.fields;
    fields.insert("c/counts".to_owned(), Field::Counts(counts));
    fields.insert("x/missing".to_owned(), Field::Counts(vec![u64::from(x.is_nan())]));
    if let Some(sum) = fixed_point(x) {
        fields.insert("x/sums".to_owned(), Field::Sums(vec![sum, fixed_point(x * x).unwrap()]));
        fields.insert("x/range".to_owned(), Field::range(x));
    }
    fields.insert("x/level".to_owned(), Field::Level(Level::of(x)));
    summary
}

fn noised() -> impl Strategy<Value = Noised> {
    let values = vec(-(1i64 << 40)..1 << 40, 0..5);
    (0..1u64 << 40, values).prop_map(|(variance, values)| Noised { variance, values })
}

/// Any field that a summary can hold.
pub fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        vec(prop_oneof![0..300u64, any::<u64>()], 0..5).prop_map(Field::Counts),
        vec(prop_oneof![-300..300i64, any::<i64>()], 0..5).prop_map(Field::Sums),
        prop_oneof![
            Just(Level::None),
            any::<f64>().prop_map(Level::of),
            Just(Level::of(f64::NAN)),
            Just(Level::Many)
        ]
        .prop_map(Field::Level),
        (any::<f64>(), any::<f64>()).prop_filter_map("NaN", |(a, b)| {
            let number = !a.is_nan() && !b.is_nan();
            let bounds = number.then(|| (Field::range(a.min(b)), Field::range(a.max(b))))?;
            match bounds {
                (Field::Range { low, .. }, Field::Range { high, .. }) => {
                    Some(Field::Range { low, high })
                }
                _ => None,
            }
        }),
        noised().prop_map(Field::NoisedCounts),
        noised().prop_map(Field::NoisedSums),
    ]
}

/// Any summary, of few fields with names of one to three letters.
pub fn summary() -> impl Strategy<Value = Summary> {
    let fields = proptest::collection::btree_map("[a-c/é]{0,3}", field(), 0..6);
    ("[a-z-]{0,30}", any::<[u8; 32]>(), 0..=1u64 << 53, fields).prop_map(
        |(by, reference, rows, fields)| Summary { by, reference: Digest(reference), rows, fields },
    )
}
