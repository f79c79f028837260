//! What is learnt from rows, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use headland_monitor::{
    Bins, Column, ColumnValues, Digest, EmbeddingOptions, FitError, FitOptions, NumericReference,
    Reference, ReferenceError, ValuesReference, fit,
};
use proptest::prelude::*;

fn numbers(name: &str, values: impl IntoIterator<Item = f64>) -> Column {
    let values = ColumnValues::Numeric(values.into_iter().collect());
    Column { name: name.to_owned(), values }
}

fn texts<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Column {
    let values = values.into_iter().map(|v| Some(v.to_owned()));
    Column { name: name.to_owned(), values: ColumnValues::Categorical(values.collect()) }
}

fn learn(columns: &[Column]) -> Reference {
    fit(columns, &FitOptions::default()).unwrap()
}

fn numeric(reference: &Reference, name: &str) -> NumericReference {
    match &reference.column(name).unwrap().values {
        ValuesReference::Numeric(numeric) => numeric.clone(),
        ValuesReference::Categorical(_) => panic!("{name} is no number"),
    }
}

/// Rows 0 to 99 of a counter, a column that is constant, a category.
fn rows() -> Vec<Column> {
    vec![
        numbers("counter", (0..100).map(f64::from)),
        numbers("constant", [7.5; 100]),
        texts("mode", (0..100).map(|i| if i % 4 == 0 { "cut" } else { "idle" })),
    ]
}

#[test]
fn whole_numbers_get_ten_bins_of_ten_with_their_means() {
    let counter = numeric(&learn(&rows()), "counter");
    assert_eq!((counter.min, counter.max, counter.mean), (0.0, 99.0, 49.5));
    // Of the numbers 0 to 99: (100^2 - 1) / 12.
    assert!((counter.std - (9999f64 / 12.0).sqrt()).abs() < 1e-7);
    let bins = counter.bins.unwrap();
    assert_eq!(bins.counts, [10; 10]);
    assert_eq!(bins.means, [4.5, 14.5, 24.5, 34.5, 44.5, 54.5, 64.5, 74.5, 84.5, 94.5]);
    for (edge, tens) in bins.edges.iter().zip(1..) {
        let above = f64::from(10 * tens);
        assert!(above - 1.0 < *edge && *edge <= above);
    }
}

#[test]
fn constant_column_has_no_bins_and_may_stay_constant() {
    let constant = numeric(&learn(&rows()), "constant");
    assert_eq!((constant.bins, constant.max_mode_rate, constant.std), (None, 1.0, 0.0));
}

#[test]
fn most_frequent_value_gets_a_bin_and_rare_ones_are_pooled() {
    let values = (0..1000).map(|i| if i < 900 { 0.0 } else { f64::from(i) });
    let bins = numeric(&learn(&[numbers("x", values)]), "x").bins.unwrap();
    assert_eq!(bins.counts, [900, 100]);
    assert_eq!(bins.index(0.0), 0);
    assert_eq!(bins.index(900.0), 1);
}

#[test]
fn rates_are_upper_bounds_of_what_was_seen() {
    let mut columns = rows();
    if let ColumnValues::Numeric(values) = &mut columns[0].values {
        values[3] = f64::NAN;
    }
    let reference = learn(&columns);
    // SciPy's beta.ppf(0.99, 2, 99), rounded up to four digits.
    assert_eq!(reference.max_incomplete_rate, 0.06455);
    assert_eq!(reference.columns[0].max_missing_rate, 0.06455);
    assert_eq!(reference.columns[1].max_missing_rate, 0.04501);
}

#[test]
fn repeated_rows_are_learnt_only_when_rows_are_in_order() {
    let columns = [numbers("x", [1.0, 1.0, 2.0, 2.0, f64::NAN, f64::NAN])];
    assert_eq!(learn(&columns).max_repeat_rate, None);
    let ordered = fit(&columns, &FitOptions { ordered: true, ..FitOptions::default() }).unwrap();
    assert!(ordered.max_repeat_rate.unwrap() > 0.5);
}

#[test]
fn groups_have_their_own_counts_over_the_same_bins() {
    let options = FitOptions { by: Some("mode".to_owned()), ..FitOptions::default() };
    let reference = fit(&rows(), &options).unwrap();
    let Bins { counts, groups, .. } = numeric(&reference, "counter").bins.unwrap();
    assert_eq!(groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["cut", "idle"]);
    let sums = groups[0].counts.iter().zip(&groups[1].counts).map(|(a, b)| a + b);
    assert_eq!(sums.collect::<Vec<_>>(), counts);
    assert_eq!(groups[0].counts.iter().sum::<u64>(), 25);
    for by in ["counter", "nowhere"] {
        let options = FitOptions { by: Some(by.to_owned()), ..FitOptions::default() };
        assert!(
            matches!(fit(&rows(), &options), Err(FitError::Column { column, .. }) if column == by)
        );
    }
}

/// Two elements with variances 4 and 1 and no covariance: traces 5, 17, 65.
#[test]
fn embedding_has_the_traces_of_its_covariance_matrix() {
    let half = 0.5 * 3f64.sqrt();
    let columns = [
        numbers("e[0]", [2.0 * half, -2.0 * half, 2.0 * half, -2.0 * half]),
        numbers("e[1]", [10.0 + half, 10.0 + half, 10.0 - half, 10.0 - half]),
        numbers("x", [1.0, 2.0, 3.0, 4.0]),
    ];
    let embedding = EmbeddingOptions { name: "e".to_owned(), prefix: "e[".to_owned() };
    let options = FitOptions { embeddings: vec![embedding], ..FitOptions::default() };
    let reference = fit(&columns, &options).unwrap();
    assert_eq!(reference.columns.len(), 1);
    let e = &reference.embeddings[0];
    assert_eq!((e.rows, &e.mean[..], e.traces), (4, &[0.0, 10.0][..], [5.0, 17.0, 65.0]));
    assert_eq!(e.column(1), "e[1]");
    assert_eq!(Reference::parse(&reference.to_json()).unwrap(), reference);
}

#[test]
fn rows_that_teach_nothing_are_refused() {
    let many: Vec<String> = (0..2_000).map(|i| i.to_string()).collect();
    for (columns, why) in [
        (vec![], "no rows to learn from"),
        (vec![numbers("x", [])], "no rows to learn from"),
        (vec![numbers("x", [f64::NAN; 3])], "column `x` has no value"),
        (vec![numbers("x", [1.0, f64::INFINITY])], "column `x` has an infinite value"),
        (vec![numbers("x", [1.0]), numbers("y", [])], "column `y` has 0 rows, the first 1"),
        (
            vec![texts("x", many.iter().map(String::as_str))],
            "column `x` has 2000 categories, more than 1000",
        ),
    ] {
        assert_eq!(fit(&columns, &FitOptions::default()).unwrap_err().to_string(), why);
    }
}

#[test]
fn embedding_that_teaches_nothing_is_refused() {
    let embedding = |prefix: &str| FitOptions {
        embeddings: vec![EmbeddingOptions { name: "e".to_owned(), prefix: prefix.to_owned() }],
        ..FitOptions::default()
    };
    for (column, why) in [
        (numbers("f[0]", [1.0, 2.0]), "column `e` has no elements: there is no column `e[0]`"),
        (numbers("e[0]", [1.0, 1.0]), "column `e` does not vary, or beyond all numbers"),
        (numbers("e[0]", [1.0, f64::NAN]), "column `e` has fewer than two rows with all elements"),
        (texts("e[0]", ["a", "b"]), "column `e` has an element `e[0]` that is no number"),
    ] {
        assert_eq!(fit(&[column], &embedding("e[")).unwrap_err().to_string(), why);
    }
}

#[test]
fn models_are_named_by_digest() {
    let options = FitOptions { models: vec![Digest::of(b"model")], ..FitOptions::default() };
    let json = String::from_utf8(fit(&rows(), &options).unwrap().to_json()).unwrap();
    assert!(json.contains("\"models\": [\"sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4\"]"), "{json}");
    for bad in [
        "sha256:9372",
        "SHA256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4",
        "",
    ] {
        let json = json.replace(
            "sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4",
            bad,
        );
        assert_eq!(
            Reference::parse(json.as_bytes()).unwrap_err().to_string(),
            "the reference names a model by something else than sha256:"
        );
    }
}

#[test]
fn damaged_reference_is_refused_with_the_column() {
    let good = String::from_utf8(learn(&rows()).to_json()).unwrap();
    for (from, to, why) in [
        ("\"version\": 2", "\"version\": 1", "a reference of version 1, known is 2"),
        ("\"constant\"", "\"counter\"", "column `counter` is there twice"),
        ("\"idle\"", "\"cut\"", "column `mode`: a category is there twice"),
        (
            "\"counts\": [25, 75]",
            "\"counts\": [25]",
            "column `mode`: its categories have another number of counts",
        ),
        ("\"counts\": [25, 75]", "\"counts\": [0, 0]", "column `mode`: all its counts are 0"),
        (
            "\"counts\": [25, 75]",
            "\"counts\": [18446744073709551615, 75]",
            "no reference: `mode` `values` `categorical` `counts` has an item that is no count",
        ),
        (
            "\"edges\": [",
            "\"edges\": [1e9, ",
            "column `counter`: its edges do not make that many bins",
        ),
        (
            "\"means\": [4.5, 14.5",
            "\"means\": [14.5, 4.5",
            "column `counter`: the bins' means do not rise",
        ),
        (
            "\"counts\": [10, 10",
            "\"counts\": [10, 0",
            "column `counter`: a bin has no rows: pool it with a neighbour",
        ),
        ("\"min\": 0.0", "\"min\": 100.0", "column `counter`: its range is empty"),
        ("\"mean\": 49.5", "\"mean\": 1e999", "no reference: "),
        ("\"rows\": 100", "\"rows\": -1", "no reference: "),
        ("\"rows\": 100", "\"rowes\": 100", "no reference: `rows` is no number"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from} is not in the reference");
        let error = Reference::parse(bad.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(why), "{error}");
    }
    for cut in [0, 1, good.len() / 2, good.len() - 3] {
        let error = Reference::parse(&good.as_bytes()[..cut]).unwrap_err();
        assert!(matches!(error, ReferenceError::Malformed(_)));
    }
    let nested = "[".repeat(100_000);
    assert!(Reference::parse(nested.as_bytes()).is_err());
}

#[test]
fn reference_is_lines_that_people_can_read() {
    let json = String::from_utf8(learn(&rows()[2..]).to_json()).unwrap();
    let expected = r#"{
  "version": 2,
  "rows": 100,
  "max-incomplete-rate": 0.04501,
  "columns": [{
    "name": "mode",
    "max-missing-rate": 0.04501,
    "values": {
      "categorical": {
        "categories": ["cut", "idle"],
        "counts": [25, 75],
        "max-unseen-rate": 0.04501
      }
    }
  }]
}
"#;
    assert_eq!(json, expected);
}

/// Numbers of all sizes, many of them equal, as sensors give them.
fn values() -> impl Strategy<Value = Vec<f64>> {
    let value = prop_oneof![
        Just(f64::NAN),
        (-20i32..20).prop_map(f64::from),
        (-20i32..20).prop_map(|i| f64::from(i) * 0.1),
        (-1e-6f32..1e-6).prop_map(f64::from),
        (-1e6f32..1e6).prop_map(f64::from),
        -1e18f64..1e18,
        -1f64..1.0,
    ];
    prop::collection::vec(value, 1..300)
        .prop_filter("a value", |values| values.iter().any(|x| !x.is_nan()))
}

proptest! {
    /// Every reader, `serde_json` without its exact one among them, sees the
    /// values of every magnitude that is measured in the bins and ranges that they were counted in.
    #[test]
    fn values_are_in_the_same_bins_after_writing_and_reading(values in values()) {
        let learnt = learn(&[numbers("x", values.clone())]);
        let read = Reference::parse(&learnt.to_json()).unwrap();
        prop_assert_eq!(&read.columns.len(), &1);
        let numeric = numeric(&read, "x");
        let present: Vec<f64> = values.into_iter().filter(|x| !x.is_nan()).collect();
        prop_assert!(present.iter().all(|x| (numeric.min..=numeric.max).contains(x)));
        if let Some(bins) = &numeric.bins {
            let mut counts = vec![0; bins.counts.len()];
            present.iter().for_each(|&x| counts[bins.index(x)] += 1);
            prop_assert_eq!(&counts, &bins.counts);
        }
    }

    #[test]
    fn damaged_reference_is_an_error_and_no_panic(at in 0usize..2_000, byte in any::<u8>()) {
        let mut json = learn(&rows()).to_json();
        let at = at % json.len();
        json[at] = byte;
        let _ = Reference::parse(&json);
    }
}
