//! Windows of good and of bad rows: what is found, what is not, and that
//! counts merge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::OnceLock;

use headland_monitor::{
    Column as Learnt, ColumnValues as Values, Digest, Field, FitOptions, Level, Noised, Summary,
    fit,
};
use headland_sdk::{
    Monitor,
    monitor::{Batch, Column, ColumnValues, Finding, MonitorError, Severity},
};
use monitor_quality::{Config, Quality};
use proptest::prelude::*;

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
fn good(seed: u64, rows: usize) -> Vec<Learnt> {
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
    let column = |name: &str, values| Learnt { name: name.to_owned(), values };
    vec![
        column("temperature", Values::Numeric(temperature)),
        column("revolutions", Values::Numeric(revolutions)),
        column("mode", Values::Categorical(mode)),
    ]
}

fn reference() -> Vec<u8> {
    static LEARNT: OnceLock<Vec<u8>> = OnceLock::new();
    let options = FitOptions { ordered: true, ..FitOptions::default() };
    LEARNT.get_or_init(|| fit(&good(1, 5_000), &options).unwrap().to_json()).clone()
}

fn batch(columns: Vec<Learnt>) -> Batch {
    let rows = columns[0].values.len() as u64;
    let column = |Learnt { name, values }| Column {
        name,
        values: match values {
            Values::Numeric(values) => ColumnValues::Numeric(values),
            Values::Categorical(values) => ColumnValues::Categorical(values),
        },
    };
    Batch {
        frame_ids: (0..rows).collect(),
        captured_at_ns: (0..rows).map(|i| 1_000 + i).collect(),
        columns: columns.into_iter().map(column).collect(),
    }
}

fn summary(columns: Vec<Learnt>) -> Vec<u8> {
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    monitor.observe(&batch(columns)).unwrap();
    monitor.close_window()
}

fn findings(columns: Vec<Learnt>) -> Vec<Finding> {
    Quality::evaluate(Config::default(), &reference(), &summary(columns)).unwrap()
}

fn found(columns: Vec<Learnt>) -> Vec<(String, Option<String>)> {
    findings(columns).into_iter().map(|f| (f.check, f.feature)).collect()
}

fn numbers(columns: &mut [Learnt], name: &str, change: impl Fn(usize, f64) -> f64) {
    let column = columns.iter_mut().find(|c| c.name == name).unwrap();
    let Values::Numeric(values) = &mut column.values else { panic!("{name} is no number") };
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
fn missing_values_beyond_the_references_rate_are_found() {
    let mut columns = good(3, 500);
    numbers(&mut columns, "temperature", |i, x| if i % 10 == 0 { f64::NAN } else { x });
    let found = found(columns);
    assert!(found.contains(&one("missing-rate", "temperature")), "{found:?}");
    assert!(found.contains(&("incomplete-rows".to_owned(), None)), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");
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
    if let Values::Categorical(values) = &mut columns[2].values {
        values.iter_mut().step_by(10).for_each(|v| *v = Some("stuck".to_owned()));
    }
    assert!(found(columns).contains(&one("unseen-category", "mode")));
}

#[test]
fn missing_and_mistyped_columns_are_found_at_once() {
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    let mut columns = good(7, 60);
    columns[1].values = Values::Categorical(vec![Some("fast".to_owned()); 60]);
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
    assert!(findings[0].message.ends_with("50 are needed"), "{}", findings[0].message);
    for rows in [0, 1] {
        assert_eq!(self::findings(good(8, rows))[0].check, "insufficient");
    }
}

#[test]
fn rows_that_come_twice_are_found() {
    let mut columns = good(9, 300);
    for column in &mut columns {
        match &mut column.values {
            Values::Numeric(values) => (1..300).step_by(2).for_each(|i| values[i] = values[i - 1]),
            Values::Categorical(values) => {
                (1..300).step_by(2).for_each(|i| values[i] = values[i - 1].clone());
            }
        }
    }
    let findings = findings(columns);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].check.as_str(), findings[0].value), ("repeated-rows", 0.5));
}

#[test]
fn repeats_are_not_judged_where_the_reference_was_not_in_order() {
    let unordered = fit(&good(1, 5_000), &FitOptions::default()).unwrap().to_json();
    let mut monitor = Quality::open(Config::default(), &unordered).unwrap();
    for seed in 0..100 {
        monitor.observe(&batch(cut(&good(seed, 1), &[0, 0]))).unwrap();
    }
    let summary = monitor.close_window();
    assert_eq!(Summary::parse(&summary).unwrap().counts("repeats"), [100]);
    assert!(Quality::evaluate(Config::default(), &unordered, &summary).unwrap().is_empty());
}

#[test]
fn row_is_compared_with_the_one_before_it_across_batches_windows_and_restarts() {
    let row = || good(10, 1);
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    let repeats = |summary: &[u8]| Summary::parse(summary).unwrap().counts("repeats")[0];
    monitor.observe(&batch(row())).unwrap();
    monitor.observe(&batch(row())).unwrap();
    assert_eq!(repeats(&monitor.close_window()), 1);
    let mut monitor =
        Quality::restore(Config::default(), &reference(), &monitor.checkpoint()).unwrap();
    monitor.observe(&batch(row())).unwrap();
    monitor.observe(&batch(good(11, 1))).unwrap();
    assert_eq!(repeats(&monitor.close_window()), 1);
}

#[test]
fn rows_that_differ_in_one_value_are_no_repeats() {
    for column in 0..3 {
        let mut columns = good(12, 1);
        let other = good(13, 1);
        for (i, (column_values, other)) in columns.iter_mut().zip(other).enumerate() {
            let values = &mut column_values.values;
            match (values, other.values) {
                (Values::Numeric(a), Values::Numeric(b)) => {
                    a.push(if i == column { b[0] + 1.0 } else { a[0] });
                }
                (Values::Categorical(a), _) => {
                    a.push(if i == column { None } else { a[0].clone() });
                }
                _ => panic!(),
            }
        }
        assert_eq!(Summary::parse(&summary(columns)).unwrap().counts("repeats"), [0]);
    }
}

fn cut(columns: &[Learnt], rows: &[usize]) -> Vec<Learnt> {
    let values = |values: &Values| match values {
        Values::Numeric(v) => Values::Numeric(rows.iter().map(|&i| v[i]).collect()),
        Values::Categorical(v) => Values::Categorical(rows.iter().map(|&i| v[i].clone()).collect()),
    };
    columns.iter().map(|c| Learnt { name: c.name.clone(), values: values(&c.values) }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Rows of one stream, dealt to devices that close windows when they
    /// like, merged in any order: the bytes of the whole stream's window, but
    /// for which row came before which.
    #[test]
    fn merged_windows_are_the_whole_streams(
        dealt in prop::collection::vec((0usize..7, any::<bool>()), 0..200),
        order in any::<u64>(),
    ) {
        let rows = good(16, dealt.len());
        let mut summaries = Vec::new();
        for device in 0..7 {
            let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
            for (i, (_, close)) in dealt.iter().enumerate().filter(|(_, (d, _))| *d == device) {
                monitor.observe(&batch(cut(&rows, &[i]))).unwrap();
                if *close {
                    summaries.push(monitor.close_window());
                }
            }
            summaries.push(monitor.close_window());
        }
        let mut random = Random(order);
        while summaries.len() > 1 {
            let one = summaries.swap_remove((random.uniform() * summaries.len() as f64) as usize);
            let other = summaries.swap_remove((random.uniform() * summaries.len() as f64) as usize);
            summaries.push(Quality::merge(&one, &other).unwrap());
        }
        let [whole, merged] = [&summary(rows), &summaries[0]].map(|bytes| {
            let mut summary = Summary::parse(bytes).unwrap();
            summary.fields.remove("repeats");
            summary.to_bytes()
        });
        prop_assert_eq!(whole, merged);
    }

    /// Windows of one device, repeats too, are exact however it is cut.
    #[test]
    fn windows_of_one_device_are_the_whole_streams(
        closes in prop::collection::vec(any::<bool>(), 1..100),
    ) {
        let rows = good(17, closes.len());
        let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
        let mut merged = monitor.close_window();
        for (i, close) in closes.iter().enumerate() {
            monitor.observe(&batch(cut(&rows, &[i / 2]))).unwrap();
            if *close {
                merged = Quality::merge(&merged, &monitor.close_window()).unwrap();
            }
        }
        merged = Quality::merge(&merged, &monitor.close_window()).unwrap();
        let halved: Vec<usize> = (0..closes.len()).map(|i| i / 2).collect();
        prop_assert_eq!(merged, summary(cut(&rows, &halved)));
    }

    /// Bytes that are no checkpoint are refused, whatever they are.
    #[test]
    fn damaged_checkpoint_is_refused_or_says_something_else(
        at in 0usize..100_000,
        bit in 0u32..8,
    ) {
        let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
        monitor.observe(&batch(good(18, 50))).unwrap();
        let good = monitor.checkpoint();
        let mut bad = good.clone();
        let at = at % bad.len();
        bad[at] ^= 1 << bit;
        if let Ok(monitor) = Quality::restore(Config::default(), &reference(), &bad) {
            prop_assert_eq!(&monitor.checkpoint(), &bad);
        }
        let _ = Quality::merge(&bad[9..], &good[9..]);
        let _ = Quality::evaluate(Config::default(), &reference(), &bad[9..]);
        prop_assert!(Quality::restore(Config::default(), &reference(), &good[..at]).is_err());
    }
}

#[test]
fn a_billion_categories_are_one_count() {
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    let size = monitor.checkpoint().len();
    for seed in 0..20 {
        let mut columns = good(seed, 500);
        let name = |i: usize| Some(format!("mode {}", seed * 500 + i as u64));
        columns[2].values = Values::Categorical((0..500).map(name).collect());
        monitor.observe(&batch(columns)).unwrap();
    }
    assert!(monitor.checkpoint().len() < size + 32);
    let summary = Summary::parse(&monitor.close_window()).unwrap();
    assert_eq!(summary.counts("mode/unseen"), [10_000]);
}

#[test]
fn clock_that_goes_back_changes_nothing() {
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    let mut back = batch(good(15, 100));
    back.captured_at_ns.reverse();
    monitor.observe(&back).unwrap();
    assert_eq!(monitor.close_window(), summary(good(15, 100)));
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
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    monitor.observe(&batch(good(30, 60))).unwrap();
    let checkpoint = monitor.checkpoint();
    let other = fit(&good(2, 5_000), &FitOptions::default()).unwrap().to_json();
    assert!(matches!(
        Quality::restore(Config::default(), &other, &checkpoint),
        Err(MonitorError::BadCheckpoint(m)) if m.starts_with("a summary of reference ")
    ));
    let ours = monitor.close_window();
    let theirs = Quality::open(Config::default(), &other).unwrap().close_window();
    assert!(matches!(Quality::merge(&ours, &theirs), Err(MonitorError::Incompatible(_))));
    assert!(matches!(
        Quality::evaluate(Config::default(), &other, &ours),
        Err(MonitorError::Incompatible(_))
    ));
}

#[test]
fn summary_of_another_monitor_is_refused() {
    let other = Summary::empty("monitor-drift", Digest::of(&reference())).to_bytes();
    assert!(matches!(Quality::merge(&other, &other), Err(MonitorError::Incompatible(_))));
    assert!(Quality::evaluate(Config::default(), &reference(), &other).is_err());
}

/// A checkpoint of sixty rows, edited.
fn edited(edit: impl Fn(&mut Summary)) -> Vec<u8> {
    let mut monitor = Quality::open(Config::default(), &reference()).unwrap();
    monitor.observe(&batch(good(31, 60))).unwrap();
    let checkpoint = monitor.checkpoint();
    let mut summary = Summary::parse(&checkpoint[9..]).unwrap();
    edit(&mut summary);
    [&checkpoint[..9], &summary.to_bytes()].concat()
}

#[test]
fn checkpoint_whose_counts_do_not_add_up_is_refused() {
    let set = |name: &'static str, field: Field| {
        edited(move |s| {
            s.fields.insert(name.to_owned(), field.clone());
        })
    };
    for bad in [
        edited(|s| s.rows = 0),
        set("incomplete", Field::Counts(vec![61])),
        set("temperature/missing", Field::Counts(vec![u64::MAX])),
        set("temperature/wrong-type", Field::Counts(vec![61])),
        set("temperature/out-of-range", Field::Counts(vec![61])),
        set("temperature/level", Field::Level(Level::None)),
        set("temperature/level", Field::Counts(vec![1])),
        set("temperature/missing", Field::Counts(vec![1, 1])),
        set("pressure/missing", Field::Counts(vec![1])),
        edited(|s| {
            s.fields.remove("mode/unseen");
        }),
    ] {
        assert!(matches!(
            Quality::restore(Config::default(), &reference(), &bad),
            Err(MonitorError::BadCheckpoint(_))
        ));
    }
}

#[test]
fn counter_at_its_end_refuses_the_batch_and_the_merge() {
    let full = edited(|s| s.rows = 1 << 53);
    let mut monitor = Quality::restore(Config::default(), &reference(), &full).unwrap();
    assert!(matches!(
        monitor.observe(&batch(good(32, 1))),
        Err(MonitorError::BadBatch(m)) if m.contains("overflows")
    ));
    assert_eq!(monitor.checkpoint(), full);
    let summary = &full[9..];
    assert!(matches!(Quality::merge(summary, summary), Err(MonitorError::Incompatible(_))));
}

#[test]
fn noise_of_a_privacy_filter_is_no_finding_and_bad_rows_are_found_through_it() {
    let noised = |columns: Vec<Learnt>, seed: u64| {
        let mut summary = Summary::parse(&summary(columns)).unwrap();
        let mut random = Random(seed);
        summary.fields.retain(|_, field| !matches!(field, Field::Level(_)));
        for field in summary.fields.values_mut() {
            if let Field::Counts(counts) = field {
                let values = vec![counts[0] as i64 + (10.0 * random.normal()).round() as i64];
                *field = Field::NoisedCounts(Noised { variance: 101 << 20, values });
            }
        }
        let findings =
            Quality::evaluate(Config::default(), &reference(), &summary.to_bytes()).unwrap();
        findings.into_iter().map(|f| (f.check, f.feature)).collect::<Vec<_>>()
    };
    let alarms = (0..100).filter(|&seed| !noised(good(200 + seed, 400), seed).is_empty()).count();
    assert!(alarms <= 3, "{alarms} of 100 good windows raised an alarm");
    let mut bad = good(33, 400);
    numbers(&mut bad, "temperature", |i, x| if i % 3 == 0 { 1e6 } else { x });
    assert_eq!(noised(bad, 5), [one("out-of-range", "temperature")]);
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
        ("\"version\": 2", "\"version\": 1", "of version 1"),
        ("\"revolutions\"", "\"temperature\"", "`temperature` is there twice"),
        ("\"rare\"", "\"idle\"", "column `mode`: a category is there twice"),
        ("\"max-missing-rate\": 0.", "\"max-missing-rate\": 7.", "outside 0..=1"),
        ("\"edges\": [", "\"edges\": [1e9, ", "do not make that many bins"),
        ("\"columns\"", "\"colums\"", "colums"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from} is not in the reference");
        match Quality::open(Config::default(), bad.as_bytes()) {
            Err(MonitorError::BadReference(m)) => assert!(m.contains(why), "{m}"),
            other => panic!("{to} gave {:?}", other.err()),
        }
    }
}

#[test]
fn configuration_that_makes_no_sense_is_refused_with_the_reason() {
    let config = Config::default;
    for (bad, why) in [
        (Config { alpha: 0.0, ..config() }, "alpha"),
        (Config { alpha: f64::NAN, ..config() }, "alpha"),
        (Config { min_rows: 0, ..config() }, "min-rows"),
        (Config { min_excess_rate: 1.5, ..config() }, "min-excess-rate"),
    ] {
        match Quality::open(bad, &reference()) {
            Err(MonitorError::BadConfig(m)) => assert!(m.contains(why), "{m}"),
            other => panic!("{why}: {:?}", other.err()),
        }
    }
}

/// Thirty features and the default configuration.
#[test]
fn summary_of_thirty_features_is_small() {
    let columns = |rows| -> Vec<Learnt> {
        (0..30)
            .map(|i| Learnt {
                name: format!("feature-{i}"),
                values: good(40 + i, rows).swap_remove(0).values,
            })
            .collect()
    };
    let reference = fit(&columns(2_000), &FitOptions::default()).unwrap().to_json();
    let mut monitor = Quality::open(Config::default(), &reference).unwrap();
    monitor.observe(&batch(columns(10_000))).unwrap();
    let bytes = monitor.close_window().len();
    assert!(bytes < 3_500, "{bytes} bytes");
}

/// `cargo test --release -- --ignored --nocapture` says it.
#[test]
#[ignore = "a timing"]
#[allow(clippy::print_stdout)]
fn time_of_a_row_of_thirty_features() {
    let columns: Vec<Learnt> = (0..30)
        .map(|i| Learnt {
            name: format!("feature-{i}"),
            values: good(40 + i, 4_096).swap_remove(0).values,
        })
        .collect();
    let reference = fit(&columns, &FitOptions::default()).unwrap().to_json();
    let rows: Vec<usize> = (0..4_096).collect();
    let batches: Vec<Batch> = rows.chunks(32).map(|rows| batch(cut(&columns, rows))).collect();
    let mut monitor = Quality::open(Config::default(), &reference).unwrap();
    let started = std::time::Instant::now();
    for _ in 0..25 {
        batches.iter().for_each(|batch| assert!(monitor.observe(batch).unwrap().is_empty()));
    }
    let each = started.elapsed().as_nanos() / (25 * 4_096);
    println!("{each} ns a row of 30 features, in batches of 32");
}
