//! What the monitor finds, what it does not, and what it does with bad input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use headland_monitor::{Digest, Field, Noised, Summary};
use headland_sdk::{
    Monitor,
    monitor::{Batch, Column, ColumnValues, Finding, MonitorError, Severity},
};
use monitor_change::{Changes, Config, fit};
use proptest::prelude::*;
use serde_json::json;

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

/// Normal rows around `mean`.
fn rows(seed: u64, count: usize, mean: f64) -> Vec<f64> {
    let mut random = Random(seed);
    (0..count).map(|_| mean + random.normal()).collect()
}

fn errors(seed: u64, count: usize, rate: f64) -> Vec<f64> {
    let mut random = Random(seed);
    (0..count).map(|_| f64::from(u8::from(random.uniform() < rate))).collect()
}

fn config(detectors: serde_json::Value) -> Config {
    serde_json::from_value(json!({ "detectors": detectors })).unwrap()
}

/// One detector with its defaults, over the column `x`.
fn one(method: &str) -> Config {
    config(json!([{ "column": "x", "method": method }]))
}

/// All detectors, over `x` and for DDM over `error`, some with a small memory
/// so that short streams take them through all they do.
fn all() -> Config {
    config(json!([
        { "column": "x", "method": "adwin", "clock": 4 },
        { "column": "x", "method": "page-hinkley", "threshold": 8.0 },
        { "column": "x", "method": "kswin", "window-size": 40, "stat-size": 15, "stride": 3 },
        { "column": "error", "method": "ddm", "severity": "warning" },
    ]))
}

fn batch(columns: Vec<(&str, ColumnValues)>) -> Batch {
    let rows = match &columns[0].1 {
        ColumnValues::Numeric(v) => v.len(),
        ColumnValues::Categorical(v) => v.len(),
    } as u64;
    let columns =
        columns.into_iter().map(|(name, values)| Column { name: name.to_owned(), values });
    Batch {
        frame_ids: (0..rows).collect(),
        captured_at_ns: (0..rows).map(|i| 1_000 + i).collect(),
        columns: columns.collect(),
    }
}

fn of_x(values: &[f64]) -> Batch {
    batch(vec![("x", ColumnValues::Numeric(values.to_vec()))])
}

fn open(config: &Config) -> Changes {
    Changes::open(config.clone(), b"").unwrap()
}

fn observe(monitor: &mut Changes, values: &[f64]) -> Vec<Finding> {
    monitor.observe(&of_x(values)).unwrap()
}

fn summary(config: &Config, values: &[f64]) -> Vec<u8> {
    let mut monitor = open(config);
    observe(&mut monitor, values);
    monitor.close_window()
}

fn checks(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.check.as_str()).collect()
}

/// Findings to compare; all of their numbers are in it to the last bit.
fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|f| format!("{f:?}")).collect()
}

#[test]
fn a_shift_is_reported_at_once_with_the_means_on_both_sides() {
    for (method, delta) in [("adwin", None), ("page-hinkley", Some(0.3)), ("kswin", None)] {
        let mut config = one(method);
        config.detectors[0].delta = delta;
        let mut monitor = open(&config);
        let mut findings = Vec::new();
        for x in [rows(1, 500, 20.0), rows(2, 200, 30.0)].concat() {
            findings.extend(observe(&mut monitor, &[x]));
        }
        assert_eq!(checks(&findings), ["change"], "{method}");
        let change = &findings[0];
        assert_eq!(change.severity, Severity::Alarm);
        assert_eq!(change.feature.as_deref(), Some("x"));
        assert!(change.statistic.starts_with(&format!("{method}(")), "{}", change.statistic);
        assert!(change.value > change.threshold);
        let numbers: Vec<f64> =
            change.message.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert!((numbers[0] - 20.0).abs() < 1.0, "{method}: {}", change.message);
        assert!(numbers[1] > 22.0, "{method}: {}", change.message);
    }
}

#[test]
fn more_errors_give_a_warning_and_then_a_change() {
    let mut monitor = open(&one("ddm"));
    let stream = [errors(1, 1_000, 0.1), errors(2, 1_000, 0.5)].concat();
    let findings = observe(&mut monitor, &stream);
    let change = findings.iter().position(|f| f.check == "change").unwrap();
    assert!(change > 0, "no warning before the change");
    assert!(findings[..change].iter().all(|f| f.check == "change-warning"));
    assert!(findings[..change].iter().all(|f| f.severity == Severity::Warning));
    assert_eq!(
        findings[change].statistic,
        "ddm(warm-start=30,warning-threshold=2,drift-threshold=3)"
    );
}

#[test]
fn a_change_below_min_effect_is_counted_and_not_reported() {
    let mut config = one("adwin");
    config.detectors[0].min_effect = 5.0;
    let mut monitor = open(&config);
    let stream = [rows(1, 500, 0.0), rows(2, 500, 3.0)].concat();
    assert!(observe(&mut monitor, &stream).is_empty());
    let summary = Summary::parse(&monitor.close_window()).unwrap();
    assert_eq!(summary.counts("x/adwin/changes"), [0, 0, 1, 0]);
    assert_eq!(summary.counts("x/adwin/at").iter().sum::<u64>(), 1);
}

#[test]
fn changes_are_counted_by_their_row_in_the_window() {
    let mut monitor = open(&one("adwin"));
    observe(&mut monitor, &rows(1, 500, 0.0));
    monitor.close_window();
    let (mut stream, mut found) = (rows(2, 100, 9.0), None);
    for (row, x) in stream.drain(..).enumerate() {
        if !observe(&mut monitor, &[x]).is_empty() {
            found = found.or(Some(row));
        }
    }
    // The detector still knows the rows of the window before.
    let bucket = (found.unwrap() + 1).ilog2() as usize;
    let summary = Summary::parse(&monitor.close_window()).unwrap();
    assert_eq!(summary.counts("x/adwin/at")[bucket], 1);
    assert_eq!(summary.counts("x/adwin/changes"), [1, 0, 0, 0]);
}

/// The configuration with what the detectors do to good rows.
fn fitted(mut config: Config, good: &[f64]) -> Config {
    for detector in &mut config.detectors {
        detector.max_change_rate = Some(fit(detector, good).unwrap().max_change_rate);
    }
    config
}

/// The configuration promises at most one window in a hundred.
#[test]
fn good_rows_do_not_change_more_often_than_max_change_rate() {
    let config = config(json!([
        { "column": "x", "method": "adwin" },
        { "column": "x", "method": "page-hinkley" },
        { "column": "x", "method": "kswin" },
    ]));
    let config = fitted(config, &rows(1, 50_000, 0.0));
    let mut changes = 0;
    let mut judged = |seed, mean| {
        let mut monitor = open(&config);
        changes += observe(&mut monitor, &rows(seed, 1_000, mean)).len();
        let summary = monitor.close_window();
        let findings = Changes::evaluate(config.clone(), b"", &summary).unwrap();
        usize::from(findings.iter().any(|f| f.check == "change-rate"))
    };
    let alarms: usize = (100..200).map(|seed| judged(seed, 0.0)).sum();
    assert!(alarms <= 2, "{alarms} of 100 windows of good rows");
    assert!(changes > 100, "there was nothing to judge");
}

#[test]
fn good_rows_tell_how_often_a_detector_goes_off_on_them() {
    // KSWIN's alpha of 0.5 % is of one of its many tests.
    let good = fit(&one("kswin").detectors[0], &rows(1, 20_000, 0.0)).unwrap();
    assert_eq!(good.rows, 20_000);
    assert!(good.changes > 20 && good.max_change_rate > good.changes as f64 / 20_000.0);
    let still = fit(&one("adwin").detectors[0], &[1.0; 1_000]).unwrap();
    // 1 - 0.01^(1/1000)
    assert!(still.changes == 0 && (still.max_change_rate - 0.004_594_6).abs() < 1e-7);
    assert!(fit(&one("ddm").detectors[0], &[0.5, f64::NAN]).is_err());
}

#[test]
fn more_changes_than_good_rows_have_are_found_in_a_fleets_summaries() {
    let config = fitted(one("adwin"), &rows(1, 20_000, 0.0));
    let device = |seed, shift| {
        summary(&config, &[rows(seed, 200, 0.0), rows(seed + 1, 200, shift)].concat())
    };
    let fleet = |shift| {
        let merge = |a: Vec<u8>, b: Vec<u8>| Changes::merge(&a, &b).unwrap();
        let summary = (0..50).map(|i| device(2 * i + 10, shift)).reduce(merge).unwrap();
        Changes::evaluate(config.clone(), b"", &summary).unwrap()
    };
    assert_eq!(checks(&fleet(0.0)), [""; 0]);
    let findings = fleet(4.0);
    assert_eq!(checks(&findings), ["change-rate"]);
    assert_eq!(findings[0].rows, 20_000);
    assert!(findings[0].value > findings[0].threshold);
}

#[test]
fn changes_without_max_change_rate_are_told_and_raise_no_alarm() {
    let config = one("adwin");
    let summary = summary(&config, &[rows(1, 500, 0.0), rows(2, 500, 9.0)].concat());
    let findings = Changes::evaluate(config, b"", &summary).unwrap();
    assert_eq!(checks(&findings), ["changes"]);
    assert_eq!(findings[0].severity, Severity::Info);
    assert_eq!((findings[0].value, findings[0].rows), (1.0, 1_000));
}

#[test]
fn empty_window_and_empty_batch_say_nothing_but_insufficient() {
    let config = one("kswin");
    let mut monitor = open(&config);
    assert!(observe(&mut monitor, &[]).is_empty());
    let findings = Changes::evaluate(config, b"", &monitor.close_window()).unwrap();
    assert_eq!(checks(&findings), ["insufficient"]);
    assert_eq!(findings[0].threshold, 100.0);
}

#[test]
fn single_value_is_insufficient_and_a_constant_stream_no_change() {
    for (method, needed) in
        [("adwin", 32.0), ("page-hinkley", 30.0), ("kswin", 100.0), ("ddm", 31.0)]
    {
        let config = one(method);
        let findings = Changes::evaluate(config.clone(), b"", &summary(&config, &[1.0])).unwrap();
        assert_eq!(checks(&findings), ["insufficient"], "{method}");
        assert_eq!(findings[0].threshold, needed, "{method}");
        assert!(findings[0].severity == Severity::Info && findings[0].message.contains(method));
        let findings = Changes::evaluate(config.clone(), b"", &summary(&config, &[1.0; 5_000]));
        assert_eq!(checks(&findings.unwrap()), [""; 0], "{method}");
    }
}

#[test]
fn nan_and_infinities_are_counted_and_not_seen() {
    let clean = rows(1, 300, 0.0);
    let mut dirty = clean.clone();
    for (i, x) in [(250, f64::INFINITY), (200, f64::NAN), (7, f64::NEG_INFINITY), (0, 1e200)] {
        dirty.insert(i, x);
    }
    for (method, ready) in [("adwin", 269), ("page-hinkley", 271), ("kswin", 201)] {
        let (mut a, mut b) = (open(&one(method)), open(&one(method)));
        observe(&mut a, &clean);
        observe(&mut b, &dirty);
        let summary = Summary::parse(&b.close_window()).unwrap();
        assert_eq!(summary.counts(&format!("x/{method}/values")), [300, ready, 1, 3, 0, 0]);
        a.close_window();
        assert!(a.checkpoint() == b.checkpoint(), "{method}");
    }
    let summary = summary(&one("ddm"), &[0.0, 1.0, 0.5, 2.0, f64::NAN]);
    assert_eq!(Summary::parse(&summary).unwrap().counts("x/ddm/values"), [2, 0, 1, 2, 0, 0]);
}

#[test]
fn a_column_of_nothing_usable_is_told() {
    let config = one("adwin");
    let findings = Changes::evaluate(config.clone(), b"", &summary(&config, &[f64::NAN; 100]));
    let findings = findings.unwrap();
    assert_eq!(checks(&findings), ["no-usable-values", "insufficient"]);
    assert!(findings[0].message.contains("100 are missing"), "{}", findings[0].message);
}

#[test]
fn missing_column_and_column_of_another_type_are_reported_once_a_window() {
    let mut monitor = open(&one("adwin"));
    let absent = batch(vec![("y", ColumnValues::Numeric(vec![1.0; 3]))]);
    let texts = batch(vec![("x", ColumnValues::Categorical(vec![None; 2]))]);
    assert_eq!(checks(&monitor.observe(&absent).unwrap()), ["missing-column"]);
    assert_eq!(checks(&monitor.observe(&absent).unwrap()), [""; 0]);
    assert_eq!(checks(&monitor.observe(&texts).unwrap()), ["wrong-type"]);
    assert_eq!(checks(&monitor.observe(&texts).unwrap()), [""; 0]);
    let summary = Summary::parse(&monitor.close_window()).unwrap();
    assert_eq!(summary.counts("x/adwin/values"), [0, 0, 0, 0, 6, 4]);
    assert_eq!(summary.rows, 10);
    assert_eq!(checks(&monitor.observe(&absent).unwrap()), ["missing-column"]);
}

#[test]
fn damaged_batch_is_refused_and_changes_nothing() {
    let mut monitor = open(&one("adwin"));
    observe(&mut monitor, &rows(1, 50, 0.0));
    let before = monitor.checkpoint();
    let mut short = of_x(&[1.0, 2.0]);
    short.frame_ids.push(9);
    short.captured_at_ns.push(9);
    let mut times = of_x(&[1.0, 2.0]);
    times.captured_at_ns.pop();
    let twice = batch(vec![
        ("x", ColumnValues::Numeric(vec![1.0])),
        ("x", ColumnValues::Numeric(vec![2.0])),
    ]);
    for bad in [short, times, twice] {
        assert!(matches!(monitor.observe(&bad), Err(MonitorError::BadBatch(_))));
        assert!(monitor.checkpoint() == before);
    }
}

#[test]
fn times_of_capture_that_go_back_change_nothing() {
    let (mut a, mut b) = (open(&one("adwin")), open(&one("adwin")));
    let stream = [rows(1, 500, 0.0), rows(2, 500, 9.0)].concat();
    let mut back = of_x(&stream);
    back.captured_at_ns.reverse();
    assert_eq!(texts(&a.observe(&of_x(&stream)).unwrap()), texts(&b.observe(&back).unwrap()));
    assert!(a.checkpoint() == b.checkpoint());
}

#[test]
fn memory_stays_bounded_however_many_rows_come() {
    let mut monitor = open(&all());
    let errors = errors(3, 100_000, 0.1);
    for seed in 0..10 {
        monitor
            .observe(&batch(vec![
                ("x", ColumnValues::Numeric(rows(seed, 100_000, 0.0))),
                ("error", ColumnValues::Numeric(errors.clone())),
            ]))
            .unwrap();
    }
    let size = monitor.checkpoint().len();
    assert!(size < 6_000, "{size} bytes");
}

#[test]
fn summary_of_thirty_detectors_stays_below_8_kb() {
    let detectors: Vec<_> = (0..30)
        .map(|i| json!({ "column": format!("feature-{i}"), "method": "page-hinkley" }))
        .collect();
    let config = config(json!(detectors));
    let mut monitor = open(&config);
    let values = rows(1, 1_000, 0.0);
    let names: Vec<String> = (0..30).map(|i| format!("feature-{i}")).collect();
    let columns = names.iter().map(|n| (n.as_str(), ColumnValues::Numeric(values.clone())));
    monitor.observe(&batch(columns.collect())).unwrap();
    let size = monitor.close_window().len();
    assert!(size < 8_000, "{size} bytes");
}

#[test]
fn configuration_out_of_range_is_refused_by_name() {
    let detector = |method: &str, key: &str, value: serde_json::Value| json!([{ "column": "x", "method": method, key: value }]);
    let twice = json!([
        { "column": "x", "method": "adwin" },
        { "column": "x", "method": "adwin", "clock": 1 },
    ]);
    let many: Vec<_> =
        (0..65).map(|i| json!({ "column": format!("{i}"), "method": "adwin" })).collect();
    let large: Vec<_> = (0..3)
        .map(|i| json!({ "column": format!("{i}"), "method": "kswin", "window-size": 2000 }))
        .collect();
    for (detectors, why) in [
        (json!([]), "there is no detector"),
        (json!(many), "65 detectors"),
        (json!(large), "6000 rows"),
        (twice, "`x/adwin`: it is there twice"),
        (json!([{ "column": "y".repeat(300), "method": "adwin" }]), "256 bytes"),
        (json!([{ "column": "", "method": "adwin" }]), "column"),
        (detector("adwin", "min-effect", json!(-1.0)), "min-effect"),
        (detector("adwin", "max-change-rate", json!(1.5)), "max-change-rate"),
        (detector("adwin", "stride", json!(1)), "stride is no parameter of it"),
        (detector("ddm", "alpha", json!(0.1)), "alpha is no parameter of it"),
        (detector("kswin", "window-size", json!(4097)), "4096"),
        (detector("adwin", "delta", json!(0.0)), "delta"),
        (detector("adwin", "delta", json!(1.0)), "delta"),
        (detector("adwin", "clock", json!(0)), "clock"),
        (detector("adwin", "max-buckets", json!(1)), "max-buckets"),
        (detector("adwin", "min-window-length", json!(0)), "min-window-length"),
        (detector("page-hinkley", "threshold", json!(0.0)), "threshold"),
        (detector("page-hinkley", "alpha", json!(1.5)), "alpha"),
        (detector("page-hinkley", "delta", json!(-0.1)), "delta"),
        (detector("page-hinkley", "min-instances", json!(0)), "min-instances"),
        (detector("kswin", "alpha", json!(0.0)), "alpha"),
        (detector("kswin", "stat-size", json!(0)), "stat-size"),
        (detector("kswin", "window-size", json!(59)), "twice stat-size"),
        (detector("kswin", "stride", json!(0)), "stride"),
        (detector("ddm", "warm-start", json!(0)), "warm-start"),
        (detector("ddm", "drift-threshold", json!(1.0)), "below warning-threshold"),
    ] {
        match Changes::open(config(detectors), b"") {
            Err(MonitorError::BadConfig(message)) => assert!(message.contains(why), "{message}"),
            _ => panic!("taken, although {why}"),
        }
    }
    for alarm_alpha in [0.0, 1.0, f64::NAN] {
        let config = Config { alarm_alpha, ..one("adwin") };
        assert!(matches!(Changes::open(config, b""), Err(MonitorError::BadConfig(_))));
    }
}

#[test]
fn unknown_keys_and_methods_are_refused() {
    for detector in [
        json!({ "column": "x", "method": "adwin", "detla": 0.1 }),
        json!({ "column": "x", "method": "cusum" }),
        json!({ "column": "x" }),
        json!({ "method": "adwin" }),
    ] {
        let config = json!({ "detectors": [detector] });
        assert!(serde_json::from_value::<Config>(config).is_err());
    }
}

#[test]
fn reference_of_whatever_kind_is_refused() {
    let summary = summary(&one("adwin"), &[1.0]);
    let opened = Changes::open(one("adwin"), b"{}");
    assert!(matches!(opened, Err(MonitorError::BadReference(_))));
    let evaluated = Changes::evaluate(one("adwin"), b"{}", &summary);
    assert!(matches!(evaluated, Err(MonitorError::BadReference(_))));
}

#[test]
fn checkpoint_of_another_configuration_or_monitor_is_refused() {
    let mut monitor = open(&one("adwin"));
    observe(&mut monitor, &rows(1, 100, 0.0));
    let checkpoint = monitor.checkpoint();
    let other = config(json!([{ "column": "x", "method": "adwin", "clock": 16 }]));
    let summary = Summary::empty("monitor-change", Digest::NONE).to_bytes();
    for (config, checkpoint) in [
        (other, &checkpoint[..]),
        (one("kswin"), &checkpoint),
        (all(), &checkpoint),
        (one("adwin"), &summary),
        (one("adwin"), b""),
    ] {
        let restored = Changes::restore(config, b"", checkpoint);
        assert!(matches!(restored, Err(MonitorError::BadCheckpoint(_))));
    }
}

#[test]
fn corrupt_checkpoint_is_refused_or_another_state_and_never_a_panic() {
    let mut monitor = open(&all());
    let of_both = |seed, count| {
        batch(vec![
            ("x", ColumnValues::Numeric(rows(seed, count, 0.0))),
            ("error", ColumnValues::Numeric(errors(seed, count, 0.2))),
        ])
    };
    monitor.observe(&of_both(1, 150)).unwrap();
    let checkpoint = monitor.checkpoint();
    let next = of_both(2, 60);
    let mut taken = 0;
    for at in 0..checkpoint.len() {
        let cut = Changes::restore(all(), b"", &checkpoint[..at]);
        assert!(matches!(cut, Err(MonitorError::BadCheckpoint(_))));
        // All bits would take minutes, and most bytes are a generator's state.
        for bit in [0, 4, 7] {
            let mut corrupt = checkpoint.clone();
            corrupt[at] ^= 1 << bit;
            match Changes::restore(all(), b"", &corrupt) {
                Ok(mut restored) => {
                    taken += 1;
                    assert!(restored.checkpoint() == corrupt);
                    restored.observe(&next).unwrap();
                }
                Err(MonitorError::BadCheckpoint(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    assert!(taken > 0);
    assert!(matches!(
        Changes::restore(all(), b"", &[&checkpoint[..], b"\0"].concat()),
        Err(MonitorError::BadCheckpoint(_))
    ));
}

#[test]
fn summaries_that_do_not_belong_together_are_refused() {
    let config = one("adwin");
    let ours = summary(&config, &rows(1, 100, 0.0));
    let other_reference = Summary::empty("monitor-change", Digest::of(b"x")).to_bytes();
    let other_monitor = Summary::empty("monitor-quality", Digest::NONE).to_bytes();
    let mut other_form = Summary::empty("monitor-change", Digest::NONE);
    other_form.fields.insert("x/adwin/at".to_owned(), Field::Counts(vec![1, 2]));
    let mut full = Summary::parse(&ours).unwrap();
    full.fields.insert("x/adwin/changes".to_owned(), Field::Counts(vec![u64::MAX, 0, 0, 0]));
    let changed = summary(&config, &[rows(1, 500, 0.0), rows(2, 500, 9.0)].concat());
    for (a, b) in [
        (&ours, &other_reference),
        (&ours, &other_monitor),
        (&ours, &other_form.to_bytes()),
        (&changed, &full.to_bytes()),
        (&ours, &b"damaged".to_vec()),
    ] {
        assert!(matches!(Changes::merge(a, b), Err(MonitorError::Incompatible(_))));
        assert!(matches!(Changes::merge(b, a), Err(MonitorError::Incompatible(_))));
    }
    for bad in [&other_reference, &other_monitor, &other_form.to_bytes()] {
        let evaluated = Changes::evaluate(config.clone(), b"", bad);
        assert!(matches!(evaluated, Err(MonitorError::Incompatible(_))));
    }
}

#[test]
fn full_counter_stays_full() {
    let mut monitor = open(&one("adwin"));
    observe(&mut monitor, &rows(1, 5, 0.0));
    let mut full = Summary::parse(&monitor.close_window()).unwrap();
    full.fields.insert("x/adwin/values".to_owned(), Field::Counts(vec![u64::MAX, 0, 0, 0, 0, 0]));
    // The checkpoint holds the summary as it is: put the full one in.
    let (empty, full) = (open(&one("adwin")).close_window(), full.to_bytes());
    let checkpoint = open(&one("adwin")).checkpoint();
    let at = checkpoint.windows(empty.len()).position(|w| w == empty).unwrap();
    let length = [0x58, full.len() as u8];
    let spliced = [&checkpoint[..at - 2], &length, &full, &checkpoint[at + empty.len()..]].concat();
    let mut monitor = Changes::restore(one("adwin"), b"", &spliced).unwrap();
    observe(&mut monitor, &[1.0]);
    let summary = Summary::parse(&monitor.close_window()).unwrap();
    assert_eq!(summary.counts("x/adwin/values")[0], u64::MAX);
}

#[test]
fn noise_of_a_privacy_filter_widens_what_chance_explains() {
    let mut config = one("adwin");
    config.detectors[0].max_change_rate = Some(0.0001);
    let noised = |variance: u64| {
        let mut summary = Summary::empty("monitor-change", Digest::NONE);
        summary.rows = 10_000;
        let field = |values| Field::NoisedCounts(Noised { variance: variance << 20, values });
        let values = field(vec![10_000, 9_969, -3, 0, 0, 0]);
        summary.fields.insert("x/adwin/values".to_owned(), values);
        summary.fields.insert("x/adwin/changes".to_owned(), field(vec![9, -2, 1, 0]));
        Changes::evaluate(config.clone(), b"", &summary.to_bytes()).unwrap()
    };
    assert_eq!(checks(&noised(0)), ["change-rate"]);
    assert_eq!(checks(&noised(50)), [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn restored_monitor_goes_on_as_if_never_interrupted(
        seed: u64,
        shift in -3.0..3.0f64,
        cut in 0usize..400,
        batches in 1usize..7,
    ) {
        let x = [rows(seed, 200, 0.0), rows(seed ^ 1, 200, shift)].concat();
        let error = [errors(seed, 200, 0.1), errors(seed ^ 1, 200, 0.3)].concat();
        let part = |range: std::ops::Range<usize>| batch(vec![
            ("x", ColumnValues::Numeric(x[range.clone()].to_vec())),
            ("error", ColumnValues::Numeric(error[range].to_vec())),
        ]);
        let mut whole = open(&all());
        let findings = whole.observe(&part(0..400)).unwrap();

        let mut first = open(&all());
        let mut resumed_findings = Vec::new();
        for i in 0..batches {
            let range = cut * i / batches..cut * (i + 1) / batches;
            resumed_findings.extend(first.observe(&part(range)).unwrap());
        }
        let checkpoint = first.checkpoint();
        let mut resumed = Changes::restore(all(), b"", &checkpoint).unwrap();
        prop_assert!(resumed.checkpoint() == checkpoint);
        resumed_findings.extend(resumed.observe(&part(cut..400)).unwrap());

        // A batch gives its findings detector by detector.
        let sorted = |findings| {
            let mut texts = texts(findings);
            texts.sort();
            texts
        };
        prop_assert_eq!(sorted(&findings), sorted(&resumed_findings));
        prop_assert!(whole.checkpoint() == resumed.checkpoint());
        prop_assert!(whole.close_window() == resumed.close_window());
    }

    #[test]
    fn merging_does_not_depend_on_order_or_grouping(
        seed: u64,
        lengths in prop::collection::vec(0usize..300, 1..12),
        order: u64,
        split in 0usize..12,
    ) {
        let config = one("adwin");
        let mut devices: Vec<Vec<u8>> = lengths
            .iter()
            .enumerate()
            .map(|(i, &n)| summary(&config, &rows(seed ^ i as u64, n, 3.0 * (i % 2) as f64)))
            .collect();
        let merge = |a: Vec<u8>, b: &Vec<u8>| Changes::merge(&a, b).unwrap();
        let identity = Summary::empty("monitor-change", Digest::NONE).to_bytes();
        let one_by_one = devices.iter().fold(identity.clone(), merge);
        let mut random = Random(order);
        for i in (1..devices.len()).rev() {
            devices.swap(i, (random.uniform() * (i + 1) as f64) as usize);
        }
        let (left, right) = devices.split_at(split.min(devices.len()));
        let left = left.iter().fold(identity.clone(), merge);
        let right = right.iter().fold(identity, merge);
        prop_assert!(merge(left, &right) == one_by_one);
    }
}
