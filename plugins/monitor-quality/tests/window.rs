//! Windows of good and of bad rows: what is found, what is not, and that
//! counts merge.
#![allow(clippy::unwrap_used, clippy::panic)]

use headland_sdk::{
    Monitor,
    monitor::{Batch, Column, ColumnValues, Finding, MonitorError, Severity},
};
use monitor_quality::{Config, Quality, fit, psi};

/// SplitMix64, so that a failing case replays.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let r = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        r * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Rows of a good machine: a temperature of which one in a hundred is
/// missing, a whole number of revolutions, and a mode.
fn good(seed: u64, rows: usize) -> Vec<Column> {
    let mut random = Random(seed);
    let temperature = (0..rows)
        .map(|_| if random.uniform() < 0.01 { f64::NAN } else { 20.0 + random.normal() })
        .collect();
    let revolutions = (0..rows).map(|_| (random.uniform() * 8.0).floor()).collect();
    let mode = (0..rows)
        .map(|_| {
            let u = random.uniform();
            let mode = ["idle", "cut", "drill", "rare"]
                [[0.5, 0.9, 0.99, 1.0].iter().position(|&p| u < p).unwrap()];
            Some(mode.to_owned())
        })
        .collect();
    let column = |name: &str, values| Column { name: name.to_owned(), values };
    vec![
        column("temperature", ColumnValues::Numeric(temperature)),
        column("revolutions", ColumnValues::Numeric(revolutions)),
        column("mode", ColumnValues::Categorical(mode)),
    ]
}

fn reference() -> Vec<u8> {
    fit(&good(1, 5_000)).unwrap().to_json()
}

fn batch(columns: Vec<Column>) -> Batch {
    let rows = match &columns[0].values {
        ColumnValues::Numeric(v) => v.len(),
        ColumnValues::Categorical(v) => v.len(),
    } as u64;
    Batch {
        frame_ids: (0..rows).collect(),
        captured_at_ns: (0..rows).map(|i| 1_000 + i).collect(),
        columns,
    }
}

fn summary(columns: Vec<Column>) -> Vec<u8> {
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    monitor.observe(&batch(columns)).unwrap();
    monitor.close_window()
}

fn findings(columns: Vec<Column>) -> Vec<Finding> {
    Quality::evaluate(Config::default(), &reference(), &summary(columns)).unwrap()
}

fn found(columns: Vec<Column>) -> Vec<(String, Option<String>)> {
    findings(columns).into_iter().map(|f| (f.check, f.feature)).collect()
}

fn numbers(columns: &mut [Column], name: &str, change: impl Fn(usize, f64) -> f64) {
    let column = columns.iter_mut().find(|c| c.name == name).unwrap();
    let ColumnValues::Numeric(values) = &mut column.values else { panic!("{name} is no number") };
    values.iter_mut().enumerate().for_each(|(i, x)| *x = change(i, *x));
}

fn one(check: &str, feature: &str) -> (String, Option<String>) {
    (check.to_owned(), Some(feature.to_owned()))
}

/// The configuration promises at most one window in a hundred.
#[test]
fn good_rows_raise_no_alarm_in_small_and_large_windows() {
    for rows in [60, 200, 400, 5_000] {
        let alarms = (0..100)
            .filter(|seed| {
                findings(good(1_000 + seed, rows)).iter().any(|f| f.severity != Severity::Info)
            })
            .count();
        assert!(alarms <= 2, "{alarms} of 100 good windows of {rows} rows raised an alarm");
    }
}

#[test]
fn drift_of_a_standard_deviation_is_found_and_named() {
    let mut columns = good(2, 1_000);
    numbers(&mut columns, "temperature", |_, x| x + 1.0);
    let findings = findings(columns);
    let drift = findings.iter().find(|f| f.check == "drift").unwrap();
    assert_eq!(drift.feature.as_deref(), Some("temperature"));
    assert_eq!(drift.severity, Severity::Alarm);
    assert!(drift.value > 0.25 && drift.threshold >= 0.1);
    assert!(drift.statistic.starts_with("psi(bins=10,floor=1e-4,log=natural,"));
}

#[test]
fn missing_values_beyond_the_references_rate_are_found() {
    let mut columns = good(3, 500);
    numbers(&mut columns, "temperature", |i, x| if i % 10 == 0 { f64::NAN } else { x });
    let found = found(columns);
    assert!(found.contains(&one("missing-rate", "temperature")), "{found:?}");
    assert!(found.contains(&("incomplete-rows".to_owned(), None)), "{found:?}");
    assert!(!found.contains(&one("drift", "temperature")), "{found:?}");
}

#[test]
fn values_out_of_range_and_infinite_ones_are_found() {
    for bad in [1e6, f64::NEG_INFINITY] {
        let mut columns = good(4, 500);
        numbers(&mut columns, "temperature", |i, x| if i % 20 == 0 { bad } else { x });
        assert_eq!(found(columns), [one("out-of-range", "temperature")]);
    }
}

#[test]
fn frozen_sensor_is_found() {
    let mut columns = good(5, 60);
    numbers(&mut columns, "revolutions", |_, _| 3.0);
    let found = found(columns);
    assert!(found.contains(&one("constant", "revolutions")), "{found:?}");
}

#[test]
fn unseen_category_is_found() {
    let mut columns = good(6, 400);
    if let ColumnValues::Categorical(values) = &mut columns[2].values {
        values.iter_mut().step_by(10).for_each(|v| *v = Some("stuck".to_owned()));
    }
    assert!(found(columns).contains(&one("unseen-category", "mode")));
}

#[test]
fn missing_and_mistyped_columns_are_found_at_once() {
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    let mut columns = good(7, 60);
    columns[1].values = ColumnValues::Categorical(vec![Some("fast".to_owned()); 60]);
    columns.remove(0);
    let at_once = monitor.observe(&batch(columns)).unwrap();
    let checks: Vec<_> = at_once.into_iter().map(|f| (f.check, f.feature)).collect();
    assert_eq!(checks, [one("missing-column", "temperature"), one("wrong-type", "revolutions")]);
    let summary = monitor.close_window();
    let later = Quality::evaluate(Config::default(), &reference(), &summary).unwrap();
    assert!(later.iter().any(|f| f.check == "wrong-type"));
    assert!(later.iter().any(|f| f.check == "missing-rate" && f.value == 1.0));
}

#[test]
fn few_rows_are_insufficient_and_no_alarm() {
    let mut columns = good(8, 49);
    numbers(&mut columns, "temperature", |_, _| 1e9);
    let findings = findings(columns);
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].check.as_str(), findings[0].severity),
        ("insufficient", Severity::Info)
    );
    let drift = &self::findings(good(9, 100))[0];
    assert_eq!(drift.check, "insufficient");
    assert!(drift.message.contains("drift of temperature, revolutions, mode"), "{}", drift.message);
    assert!(drift.threshold > 200.0);
}

#[test]
fn merging_is_exact_commutative_and_associative() {
    let [a, b, c] = [10, 11, 12].map(|seed| summary(good(seed, 137)));
    let merge = |x: &[u8], y: &[u8]| Quality::merge(x, y).unwrap();
    let whole = merge(&merge(&a, &b), &c);
    assert_eq!(merge(&a, &b), merge(&b, &a));
    assert_eq!(whole, merge(&a, &merge(&b, &c)));
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    let empty = monitor.checkpoint();
    assert_eq!(merge(&whole, &empty), whole);
    for seed in [10, 11, 12] {
        monitor.observe(&batch(good(seed, 137))).unwrap();
    }
    assert_eq!(monitor.close_window(), whole);
    assert_eq!(monitor.close_window(), empty);
}

#[test]
fn restored_monitor_goes_on_where_it_stopped() {
    let mut straight = Quality::open(Config::default(), &reference()).unwrap();
    straight.observe(&batch(good(20, 90))).unwrap();
    let checkpoint = straight.checkpoint();
    let mut restored = Quality::restore(Config::default(), &reference(), &checkpoint).unwrap();
    for monitor in [&mut straight, &mut restored] {
        monitor.observe(&batch(good(21, 90))).unwrap();
    }
    assert_eq!(straight.close_window(), restored.close_window());
}

#[test]
fn checkpoint_of_another_reference_is_refused() {
    let checkpoint = summary(good(30, 60));
    let other = fit(&good(2, 5_000)).unwrap().to_json();
    assert!(matches!(
        Quality::restore(Config::default(), &other, &checkpoint),
        Err(MonitorError::BadCheckpoint(m)) if m.starts_with("is of reference ")
    ));
    let theirs = Quality::open(Config::default(), &other).unwrap().close_window();
    assert!(matches!(Quality::merge(&checkpoint, &theirs), Err(MonitorError::Incompatible(_))));
    assert!(matches!(
        Quality::evaluate(Config::default(), &other, &checkpoint),
        Err(MonitorError::Incompatible(_))
    ));
}

#[test]
fn truncated_or_edited_summary_is_refused() {
    let good = String::from_utf8(summary(good(31, 60))).unwrap();
    for bad in [
        good[..good.len() / 2].to_owned(),
        good.replace("\"rows\":60", "\"rows\":61"),
        good.replace("\"rows\":60", "\"rows\":18446744073709551615"),
        good.replace("\"rows\":60", "\"rows\":-1"),
        good.replace("\"version\":1", "\"version\":2"),
        good.replace("\"missing\"", "\"mising\""),
        "[".repeat(100_000),
    ] {
        assert_ne!(bad, good);
        assert!(matches!(
            Quality::restore(Config::default(), &reference(), bad.as_bytes()),
            Err(MonitorError::BadCheckpoint(_))
        ));
        assert!(Quality::merge(bad.as_bytes(), good.as_bytes()).is_err());
    }
}

#[test]
fn ragged_batch_is_refused_and_not_counted() {
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    let before = monitor.checkpoint();
    let mut ragged = batch(good(32, 60));
    ragged.columns[2].values = ColumnValues::Categorical(vec![None; 59]);
    let mut twice = batch(good(32, 60));
    twice.columns.push(twice.columns[0].clone());
    let mut untimed = batch(good(32, 60));
    untimed.captured_at_ns.pop();
    for bad in [ragged, twice, untimed] {
        assert!(matches!(monitor.observe(&bad), Err(MonitorError::BadBatch(_))));
    }
    assert_eq!(monitor.checkpoint(), before);
}

#[test]
fn damaged_reference_is_refused_with_the_column() {
    let good = String::from_utf8(reference()).unwrap();
    for (from, to, why) in [
        ("\"version\": 1", "\"version\": 3", "version is 3"),
        ("\"revolutions\"", "\"temperature\"", "`temperature` is there twice"),
        ("\"rare\"", "\"idle\"", "column `mode`: category `idle` is there twice"),
        ("\"max-missing-rate\": 0.", "\"max-missing-rate\": 7.", "not within 0..=1"),
        ("\"edges\": [", "\"edges\": [1e9,", "edges make"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from} is not in the reference");
        match Quality::open(Config::default(), bad.as_bytes()) {
            Err(MonitorError::BadReference(m)) => assert!(m.contains(why), "{m}"),
            other => panic!("{to} gave {:?}", other.err()),
        }
    }
    assert!(matches!(
        Quality::open(Config { alpha: 0.0, ..Config::default() }, good.as_bytes()),
        Err(MonitorError::BadConfig(_))
    ));
}

#[test]
fn rows_that_teach_nothing_are_refused() {
    let column = |values| vec![Column { name: "x".to_owned(), values }];
    for (columns, why) in [
        (vec![], "no rows to learn from"),
        (column(ColumnValues::Numeric(vec![f64::NAN; 3])), "column `x` has no value"),
        (
            column(ColumnValues::Numeric(vec![1.0, f64::INFINITY])),
            "column `x` has an infinite value",
        ),
        (
            column(ColumnValues::Categorical((0..2_000).map(|i| Some(i.to_string())).collect())),
            "column `x` has 2000 categories, more than 1000",
        ),
    ] {
        assert_eq!(fit(&columns).unwrap_err(), why);
    }
}

/// NumPy's number: `p, q = [30, 50, 1e-4 * 100, 20] / 100, [25, 25, 25, 25] / 100`.
#[test]
fn psi_agrees_with_numpy() {
    assert!((psi(&[250, 250, 250, 250], &[30, 50, 0, 20]) - 2.148789148658382).abs() < 1e-12);
    assert_eq!(psi(&[7, 3], &[70, 30]), 0.0);
}
