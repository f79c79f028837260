//! What the monitor finds, what it does not, and what it does with bad input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use headland_monitor::{
    Column as Given, ColumnValues as GivenValues, Digest, Field, Noised, Summary,
};
use headland_sdk::{
    Monitor,
    monitor::{Batch, Column, ColumnValues, Finding, MonitorError, Severity},
};
use monitor_outlier::{
    Config, FitError, Kind, Method, Outliers, Reference, Scorer, Scores, Threshold, cholesky, fit,
    mahalanobis_squared, nearest,
};
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

/// Two correlated columns of normal rows; of the second, one row in a hundred
/// is missing. The second moves by `shift`.
fn rows(seed: u64, count: usize, shift: f64) -> Vec<(&'static str, Vec<f64>)> {
    let mut random = Random(seed);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let x = random.normal();
        let y = 0.8 * x + 0.6 * random.normal() + shift;
        a.push(20.0 + x);
        b.push(if random.uniform() < 0.01 { f64::NAN } else { 1_000.0 * y });
    }
    vec![("a", a), ("b", b)]
}

fn given(columns: &[(&str, Vec<f64>)]) -> Vec<Given> {
    let column = |(name, values): &(&str, Vec<f64>)| Given {
        name: (*name).to_owned(),
        values: GivenValues::Numeric(values.clone()),
    };
    columns.iter().map(column).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&n| n.to_owned()).collect()
}

fn nearest_method() -> Method {
    Method::Nearest { k: 5, max_points: 200, seed: 1 }
}

fn learn(method: &Method, count: usize) -> Reference {
    let names = names(&["a", "b"]);
    fit(&given(&rows(1, count, 0.0)), &names, method, Threshold::Quantile(0.99)).unwrap()
}

fn json_of(reference: &Reference) -> Vec<u8> {
    serde_json::to_vec(reference).unwrap()
}

fn reference() -> Vec<u8> {
    json_of(&learn(&Method::Mahalanobis, 4_000))
}

/// A reference of one column whose score is its value.
fn errors(threshold: f64) -> Reference {
    Reference {
        version: 1,
        columns: names(&["error"]),
        kind: Kind::Reconstruction {},
        threshold,
        rows: 1_000,
        max_outlier_rate: 0.02,
        max_unscored_rate: 0.0,
        scores: Scores { edges: vec![0.25, 0.5, 0.75], counts: vec![250; 4] },
    }
}

fn batch(first_frame: u64, columns: &[(&str, Vec<f64>)]) -> Batch {
    let rows = columns[0].1.len() as u64;
    let column = |(name, values): &(&str, Vec<f64>)| Column {
        name: (*name).to_owned(),
        values: ColumnValues::Numeric(values.clone()),
    };
    Batch {
        frame_ids: (first_frame..first_frame + rows).collect(),
        captured_at_ns: (0..rows).map(|i| 1_000 + i).collect(),
        columns: columns.iter().map(column).collect(),
    }
}

fn open(reference: &[u8]) -> Outliers {
    Outliers::open(Config::default(), reference).unwrap()
}

fn summary(reference: &[u8], batch: &Batch) -> Vec<u8> {
    let mut monitor = open(reference);
    monitor.observe(batch).unwrap();
    monitor.close_window()
}

fn findings(reference: &[u8], columns: &[(&str, Vec<f64>)]) -> Vec<Finding> {
    let summary = summary(reference, &batch(0, columns));
    Outliers::evaluate(Config::default(), reference, &summary).unwrap()
}

fn checks(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.check.as_str()).collect()
}

fn counts(summary: &[u8]) -> Vec<u64> {
    Summary::parse(summary).unwrap().counts("scoring").to_vec()
}

#[test]
fn distances_are_those_computed_by_hand() {
    // Covariance [[4, 2], [2, 3]]: the inverse is [[3, -2], [-2, 4]] / 8.
    let factor = cholesky(&[vec![4.0], vec![2.0, 3.0]]).unwrap();
    assert_eq!(factor, [2.0, 1.0, 2f64.sqrt()]);
    let squared = mahalanobis_squared(&[1.0, 1.0], &factor, &[3.0, 0.0], &mut Vec::new());
    assert!((squared - (3.0 * 4.0 + 2.0 * 2.0 * 2.0 + 4.0) / 8.0).abs() < 1e-15);
    let points = [0.0, 0.0, 3.0, 4.0, 6.0, 8.0];
    for (k, distance) in [(1, 0.0), (2, 5.0), (3, 10.0)] {
        let x = [0.0, 0.0].into_iter();
        assert_eq!(nearest(&points, k, x, &mut Vec::new()), distance);
    }
}

#[test]
fn column_that_follows_from_others_is_refused_by_name() {
    let mut columns = rows(1, 400, 0.0);
    let sum = columns[0].1.iter().zip(&columns[1].1).map(|(a, b)| a + b).collect();
    columns.push(("sum", sum));
    let names = names(&["a", "b", "sum"]);
    let threshold = Threshold::Quantile(0.99);
    let error = fit(&given(&columns), &names, &Method::Mahalanobis, threshold);
    assert_eq!(error, Err(FitError::Dependent("sum".to_owned())));
    columns[2].1.fill(7.0);
    for method in [Method::Mahalanobis, nearest_method()] {
        let error = fit(&given(&columns), &names, &method, threshold);
        assert_eq!(error, Err(FitError::Dependent("sum".to_owned())));
    }
}

#[test]
fn what_cannot_be_learnt_from_is_refused() {
    let threshold = Threshold::Quantile(0.99);
    let columns = given(&rows(1, 400, 0.0));
    let ab = names(&["a", "b"]);
    let refused = |columns: &[Given], names: &[String], method, threshold| {
        fit(columns, names, &method, threshold).unwrap_err().to_string()
    };
    for (error, why) in [
        (refused(&columns, &[], Method::Mahalanobis, threshold), "0 columns"),
        (refused(&columns, &names(&["c"]), Method::Mahalanobis, threshold), "`c`"),
        (refused(&given(&rows(1, 10, 0.0)), &ab, nearest_method(), threshold), "20 are needed"),
        (refused(&[], &ab, nearest_method(), threshold), "`a`"),
        (refused(&columns, &ab, Method::Mahalanobis, Threshold::Quantile(1.0)), "Quantile"),
        (refused(&columns, &ab, nearest_method(), Threshold::Chi2 { alpha: 0.01 }), "Chi2"),
        (
            refused(&columns, &ab, Method::Nearest { k: 0, max_points: 9, seed: 0 }, threshold),
            "k 0",
        ),
        (
            refused(&columns, &ab, Method::Nearest { k: 1, max_points: 2049, seed: 0 }, threshold),
            "2049 points",
        ),
        (refused(&columns, &ab, Method::Reconstruction, threshold), "one column"),
    ] {
        assert!(error.contains(why), "{error}");
    }
    let mut texts = columns;
    texts[1].values = GivenValues::Categorical(vec![None; 400]);
    assert!(refused(&texts, &ab, Method::Mahalanobis, threshold).contains("`b`"));
}

/// The configuration promises at most one window in a hundred.
#[test]
fn good_rows_raise_no_alarm_in_small_and_large_windows() {
    for method in [Method::Mahalanobis, nearest_method()] {
        let reference = json_of(&learn(&method, 2_000));
        for count in [60, 300, 2_000] {
            let alarms = (0..100)
                .filter(|seed| {
                    let findings = findings(&reference, &rows(1_000 + seed, count, 0.0));
                    findings.iter().any(|f| f.severity != Severity::Info)
                })
                .count();
            assert!(alarms <= 2, "{alarms} of 100 windows of {count} good rows, {method:?}");
        }
    }
}

#[test]
fn rows_that_break_a_correlation_are_found_although_each_column_is_as_good() {
    let columns = rows(2, 500, 0.0);
    let (a, mut b) = (columns[0].1.clone(), columns[1].1.clone());
    b.reverse();
    for method in [Method::Mahalanobis, nearest_method()] {
        let reference = json_of(&learn(&method, 4_000));
        let findings = findings(&reference, &[("a", a.clone()), ("b", b.clone())]);
        assert_eq!(checks(&findings), ["outlier-rate", "score-shift"], "{method:?}");
        let rate = &findings[0];
        assert_eq!(rate.severity, Severity::Alarm);
        assert!(rate.value > 0.04 && rate.value > rate.threshold, "{}", rate.message);
        assert!(rate.statistic.contains("columns=2"), "{}", rate.statistic);
    }
}

#[test]
fn more_missing_values_than_good_rows_have_are_found() {
    let mut columns = rows(3, 500, 0.0);
    columns[1].1.iter_mut().step_by(5).for_each(|b| *b = f64::NAN);
    let findings = findings(&reference(), &columns);
    assert_eq!(checks(&findings), ["unscored-rate"]);
    assert_eq!(findings[0].rows, 500);
}

#[test]
fn predictions_that_move_when_the_input_is_squeezed_are_found() {
    let pairs = |seed, noise: f64| {
        let mut random = Random(seed);
        let plain: Vec<f64> = (0..1_000).map(|_| random.uniform()).collect();
        let squeezed = plain.iter().map(|p| p + noise * random.uniform()).collect();
        vec![("p", plain), ("squeezed.p", squeezed)]
    };
    let method = Method::Squeezing { squeezed: names(&["squeezed.p"]) };
    let threshold = Threshold::Quantile(0.95);
    let reference = fit(&given(&pairs(1, 0.1)), &names(&["p"]), &method, threshold).unwrap();
    assert!(reference.threshold > 0.09 && reference.threshold < 0.1);
    assert_eq!(Scorer::new(&reference).score(&[0.25, 0.75]), Some(0.5));
    let reference = json_of(&reference);
    assert_eq!(checks(&findings(&reference, &pairs(2, 0.1))), [""; 0]);
    assert_eq!(checks(&findings(&reference, &pairs(2, 0.2))), ["outlier-rate", "score-shift"]);
}

#[test]
fn chi_squared_threshold_is_that_of_normal_rows() {
    let names = names(&["a", "b"]);
    let threshold = Threshold::Chi2 { alpha: 0.01 };
    let reference = fit(&given(&rows(1, 4_000, 0.0)), &names, &Method::Mahalanobis, threshold);
    let reference = reference.unwrap();
    // Of two degrees of freedom: -2 ln(alpha).
    assert!((reference.threshold + 2.0 * 0.01f64.ln()).abs() < 1e-12);
    assert!(reference.max_outlier_rate > 0.01 && reference.max_outlier_rate < 0.025);
}

#[test]
fn single_outliers_are_reported_if_asked_for_and_not_beyond_the_number() {
    let reference = json_of(&errors(1.0));
    let config = Config { report_rows: 2, ..Config::default() };
    let mut monitor = Outliers::open(config, &reference).unwrap();
    let values = vec![0.1, 5.0, 0.2, 6.0, 7.0];
    let findings = monitor.observe(&batch(40, &[("error", values.clone())])).unwrap();
    assert_eq!(checks(&findings), ["outlier", "outlier"]);
    assert_eq!((findings[0].value, findings[0].threshold), (5.0, 1.0));
    assert!(findings[0].severity == Severity::Info && findings[0].message.contains("41"));
    let mut silent = open(&reference);
    assert!(silent.observe(&batch(40, &[("error", values)])).unwrap().is_empty());
    assert_eq!(counts(&silent.close_window()), [5, 3, 0, 0, 0, 0]);
}

#[test]
fn sampling_takes_about_one_row_in_so_many_and_says_so() {
    let reference = json_of(&errors(1.0));
    let config = Config { sample_every: 10, ..Config::default() };
    let mut monitor = Outliers::open(config.clone(), &reference).unwrap();
    monitor.observe(&batch(0, &[("error", vec![0.5; 10_000])])).unwrap();
    let rows = counts(&monitor.close_window());
    assert!((900..1_100).contains(&rows[0]) && rows[0] + rows[5] == 10_000);
    // Every tenth frame alone: still about one in ten of them.
    let sampled = (0..1_000).filter(|i| config.samples(10 * i)).count();
    assert!((60..140).contains(&sampled), "{sampled}");
}

#[test]
fn empty_window_and_single_value_are_insufficient() {
    let reference = json_of(&errors(1.0));
    for values in [vec![], vec![0.5]] {
        let findings = findings(&reference, &[("error", values)]);
        assert_eq!(checks(&findings), ["insufficient"]);
        assert_eq!((findings[0].severity, findings[0].threshold), (Severity::Info, 50.0));
    }
}

#[test]
fn sixty_rows_of_a_histogram_of_many_bins_are_pooled() {
    let mut reference = errors(1.0);
    reference.scores.edges = (1..20).map(|i| f64::from(i) / 20.0).collect();
    reference.scores.counts = vec![50; 20];
    let low: Vec<f64> = (0..60).map(|i| f64::from(i) / 240.0).collect();
    let findings = findings(&json_of(&reference), &[("error", low)]);
    assert_eq!(checks(&findings), ["score-shift"]);
    assert!(findings[0].statistic.starts_with("psi(bins=2,"), "{}", findings[0].statistic);
}

#[test]
fn missing_value_has_no_score_and_an_infinite_one_an_infinite_score() {
    let reference = json_of(&errors(1.0));
    let values = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.5];
    let summary = summary(&reference, &batch(0, &[("error", values)]));
    assert_eq!(counts(&summary), [3, 2, 1, 0, 0, 0]);
    assert_eq!(Summary::parse(&summary).unwrap().counts("scores"), [0, 0, 1, 2]);
    let mut scorer = Scorer::new(&learn(&Method::Mahalanobis, 400));
    assert_eq!(scorer.score(&[f64::INFINITY, f64::NEG_INFINITY]), Some(f64::INFINITY));
    assert_eq!(scorer.score(&[1e308, -1e308]), Some(f64::INFINITY));
    assert_eq!(scorer.score(&[f64::INFINITY, f64::NAN]), None);
}

#[test]
fn window_without_a_score_is_an_alarm() {
    let findings = findings(&json_of(&errors(1.0)), &[("error", vec![f64::NAN; 100])]);
    assert_eq!(checks(&findings), ["no-scores", "insufficient"]);
    assert_eq!(findings[0].severity, Severity::Alarm);
}

#[test]
fn missing_column_and_column_of_another_type_are_reported_once_a_window() {
    let mut monitor = open(&reference());
    let absent = batch(0, &[("a", vec![1.0; 3])]);
    let mut texts = batch(0, &[("a", vec![1.0; 2]), ("b", vec![1.0; 2])]);
    texts.columns[1].values = ColumnValues::Categorical(vec![None; 2]);
    let found = monitor.observe(&absent).unwrap();
    assert_eq!(checks(&found), ["missing-column"]);
    assert_eq!(found[0].feature.as_deref(), Some("b"));
    assert_eq!(checks(&monitor.observe(&absent).unwrap()), [""; 0]);
    assert_eq!(checks(&monitor.observe(&texts).unwrap()), ["wrong-type"]);
    assert_eq!(checks(&monitor.observe(&texts).unwrap()), [""; 0]);
    assert_eq!(counts(&monitor.close_window()), [0, 0, 0, 6, 4, 0]);
    assert_eq!(checks(&monitor.observe(&absent).unwrap()), ["missing-column"]);
}

#[test]
fn damaged_batch_is_refused_and_changes_nothing() {
    let mut monitor = open(&json_of(&errors(1.0)));
    monitor.observe(&batch(0, &[("error", vec![0.5; 9])])).unwrap();
    let before = monitor.checkpoint();
    let mut short = batch(0, &[("error", vec![0.5; 2])]);
    short.frame_ids.push(9);
    short.captured_at_ns.push(9);
    let mut times = batch(0, &[("error", vec![0.5; 2])]);
    times.captured_at_ns.pop();
    let twice = batch(0, &[("error", vec![0.5]), ("error", vec![0.5])]);
    for bad in [short, times, twice] {
        assert!(matches!(monitor.observe(&bad), Err(MonitorError::BadBatch(_))));
        assert!(monitor.checkpoint() == before);
    }
}

#[test]
fn times_of_capture_that_go_back_change_nothing() {
    let forth = batch(0, &rows(1, 100, 0.0));
    let mut back = forth.clone();
    back.captured_at_ns.reverse();
    let reference = reference();
    assert!(summary(&reference, &forth) == summary(&reference, &back));
}

#[test]
fn configuration_out_of_range_is_refused_by_name() {
    let good = Config::default();
    for (config, why) in [
        (Config { sample_every: 0, ..good.clone() }, "sample-every"),
        (Config { alpha: 0.0, ..good.clone() }, "alpha"),
        (Config { alpha: 1.0, ..good.clone() }, "alpha"),
        (Config { alpha: f64::NAN, ..good.clone() }, "alpha"),
        (Config { min_excess_rate: -0.1, ..good.clone() }, "min-excess-rate"),
        (Config { min_psi: f64::INFINITY, ..good }, "min-psi"),
    ] {
        match Outliers::open(config, &reference()) {
            Err(MonitorError::BadConfig(message)) => assert!(message.contains(why), "{message}"),
            _ => panic!("taken, although {why}"),
        }
    }
    assert!(serde_json::from_value::<Config>(json!({ "alhpa": 0.1 })).is_err());
}

#[test]
fn reference_of_another_version_out_of_range_or_damaged_is_refused() {
    let good = serde_json::to_value(learn(&nearest_method(), 400)).unwrap();
    assert!(Outliers::open(Config::default(), good.to_string().as_bytes()).is_ok());
    let changed = |path: &str, value: serde_json::Value| {
        let mut json = good.clone();
        *json.pointer_mut(path).unwrap() = value;
        json.to_string()
    };
    let mahalanobis = serde_json::to_value(learn(&Method::Mahalanobis, 400)).unwrap();
    let factor = |value| {
        let mut json = mahalanobis.clone();
        *json.pointer_mut("/kind/mahalanobis/factor").unwrap() = value;
        json.to_string()
    };
    for (json, why) in [
        (changed("/version", json!(2)), "version is 2"),
        (changed("/columns", json!([])), "no columns"),
        (changed("/columns", json!(["a", "a"])), "`a` is there twice"),
        (changed("/columns", json!(["a"])), "the scale"),
        (changed("/columns", json!(["a", "b", "c"])), "nearest"),
        (changed("/rows", json!(1)), "add up"),
        (changed("/max-outlier-rate", json!(1.5)), "max-outlier-rate"),
        (changed("/max-unscored-rate", json!(-0.5)), "max-unscored-rate"),
        (changed("/scores/edges", json!([2.0, 1.0])), "bins"),
        (changed("/scores", json!({ "edges": [2.0, 1.0], "counts": [200, 0, 0] })), ""),
        (changed("/kind/nearest/k", json!(0)), "k is not within"),
        (changed("/kind/nearest/k", json!(33)), "k is not within"),
        (changed("/kind/nearest/scale", json!([1.0, 0.0])), "scale"),
        (changed("/kind/nearest/points", json!([1.0])), "points"),
        (changed("/kind/nearest/points", json!([1.0, 2.0])), "fewer points"),
        (changed("/kind/nearest/points", json!(vec![0.0; 4098])), "4096"),
        (changed("/kind", json!({ "forest": {} })), "forest"),
        (changed("/threshold", json!("high")), "line 1"),
        (factor(json!([1.0, 0.0, -1.0])), "diagonal"),
        (factor(json!([1.0, 0.0])), "size"),
        (good.to_string().replace("max-outlier-rate", "max-rate"), "max-rate"),
        ("{".to_owned(), "line 1"),
        (String::new(), "there is none"),
    ] {
        match Outliers::open(Config::default(), json.as_bytes()) {
            Err(MonitorError::BadReference(message)) => assert!(message.contains(why), "{message}"),
            _ => panic!("taken, although {why}: {json:.200}"),
        }
    }
}

#[test]
fn checkpoint_of_another_reference_or_monitor_or_with_other_fields_is_refused() {
    let reference = reference();
    let checkpoint = summary(&reference, &batch(0, &rows(1, 100, 0.0)));
    let other_reference = json_of(&errors(1.0));
    let other_monitor = Summary::empty("monitor-quality", Digest::of(&reference)).to_bytes();
    let mut more = Summary::parse(&checkpoint).unwrap();
    more.fields.insert("more".to_owned(), Field::Counts(vec![1]));
    let mut fewer = Summary::parse(&checkpoint).unwrap();
    fewer.fields.insert("scores".to_owned(), Field::Counts(vec![1]));
    for (reference, checkpoint) in [
        (&other_reference, &checkpoint),
        (&reference, &other_monitor),
        (&reference, &more.to_bytes()),
        (&reference, &fewer.to_bytes()),
        (&reference, &b"".to_vec()),
    ] {
        let restored = Outliers::restore(Config::default(), reference, checkpoint);
        assert!(matches!(restored, Err(MonitorError::BadCheckpoint(_))));
    }
}

#[test]
fn corrupt_checkpoint_is_refused_or_another_state_and_never_a_panic() {
    let reference = reference();
    let checkpoint = summary(&reference, &batch(0, &rows(1, 300, 0.0)));
    let next = batch(300, &rows(2, 50, 0.0));
    for at in 0..checkpoint.len() {
        let cut = Outliers::restore(Config::default(), &reference, &checkpoint[..at]);
        assert!(matches!(cut, Err(MonitorError::BadCheckpoint(_))));
        for bit in 0..8 {
            let mut corrupt = checkpoint.clone();
            corrupt[at] ^= 1 << bit;
            match Outliers::restore(Config::default(), &reference, &corrupt) {
                Ok(mut restored) => {
                    assert!(restored.checkpoint() == corrupt);
                    restored.observe(&next).unwrap();
                }
                Err(MonitorError::BadCheckpoint(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn summaries_that_do_not_belong_together_are_refused() {
    let reference = reference();
    let ours = summary(&reference, &batch(0, &rows(1, 100, 0.0)));
    let other_reference = summary(&json_of(&errors(1.0)), &batch(0, &[("error", vec![0.5; 9])]));
    let other_monitor = Summary::empty("monitor-quality", Digest::of(&reference)).to_bytes();
    let mut other_bins = Summary::parse(&ours).unwrap();
    other_bins.fields.insert("scores".to_owned(), Field::Counts(vec![1, 2]));
    let mut full = Summary::parse(&ours).unwrap();
    full.fields.insert("scoring".to_owned(), Field::Counts(vec![u64::MAX, 0, 0, 0, 0, 0]));
    for other in [
        &other_reference,
        &other_monitor,
        &other_bins.to_bytes(),
        &full.to_bytes(),
        &b"damaged".to_vec(),
    ] {
        assert!(matches!(Outliers::merge(&ours, other), Err(MonitorError::Incompatible(_))));
        assert!(matches!(Outliers::merge(other, &ours), Err(MonitorError::Incompatible(_))));
    }
    for bad in [&other_reference, &other_monitor, &other_bins.to_bytes()] {
        let evaluated = Outliers::evaluate(Config::default(), &reference, bad);
        assert!(matches!(evaluated, Err(MonitorError::Incompatible(_))));
    }
}

#[test]
fn full_counter_stays_full_and_a_full_window_takes_no_more_rows() {
    let reference = json_of(&errors(1.0));
    let mut full = Summary::parse(&open(&reference).close_window()).unwrap();
    full.fields.insert("scoring".to_owned(), Field::Counts(vec![u64::MAX, 0, 0, 0, 0, 0]));
    let restore = |full: &Summary| {
        Outliers::restore(Config::default(), &reference, &full.to_bytes()).unwrap()
    };
    let mut monitor = restore(&full);
    monitor.observe(&batch(0, &[("error", vec![0.5])])).unwrap();
    assert_eq!(counts(&monitor.close_window())[0], u64::MAX);
    full.rows = 1 << 53;
    let observed = restore(&full).observe(&batch(0, &[("error", vec![0.5])]));
    assert!(matches!(observed, Err(MonitorError::BadBatch(_))));
}

#[test]
fn noise_of_a_privacy_filter_widens_what_chance_explains() {
    let reference = json_of(&errors(1.0));
    let noised = |variance: u64| {
        let mut summary = Summary::empty("monitor-outlier", Digest::of(&reference));
        summary.rows = 1_000;
        let field = |values| Field::NoisedCounts(Noised { variance: variance << 20, values });
        summary.fields.insert("scoring".to_owned(), field(vec![1_000, 60, -3, 1, 0, 0]));
        summary.fields.insert("scores".to_owned(), field(vec![240, 255, 251, 256]));
        let findings = Outliers::evaluate(Config::default(), &reference, &summary.to_bytes());
        checks(&findings.unwrap()).join(" ")
    };
    assert_eq!(noised(0), "outlier-rate");
    assert_eq!(noised(100), "");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However the rows are split over devices, windows and batches, and in
    /// whatever order the summaries are merged.
    #[test]
    fn merged_summaries_are_those_of_the_whole_stream(
        seed: u64,
        cuts in prop::collection::vec(0usize..600, 0..12),
        order: u64,
        sample_every in 1u32..4,
    ) {
        let reference = json_of(&learn(&Method::Mahalanobis, 400));
        let config = Config { sample_every, ..Config::default() };
        let columns = rows(seed, 600, 0.5);
        let part = |from: usize, to: usize| {
            let cut: Vec<_> = columns.iter().map(|(n, v)| (*n, v[from..to].to_vec())).collect();
            batch(from as u64, &cut)
        };
        let summary = |batch: &Batch| {
            let mut monitor = Outliers::open(config.clone(), &reference).unwrap();
            monitor.observe(batch).unwrap();
            // By way of a checkpoint, as after a loss of power.
            let checkpoint = monitor.checkpoint();
            Outliers::restore(config.clone(), &reference, &checkpoint).unwrap().close_window()
        };
        let whole = summary(&part(0, 600));
        let mut cuts = cuts;
        cuts.extend([0, 600]);
        cuts.sort_unstable();
        let mut parts: Vec<Vec<u8>> =
            cuts.windows(2).map(|c| summary(&part(c[0], c[1]))).collect();
        let mut random = Random(order);
        for i in (1..parts.len()).rev() {
            parts.swap(i, (random.uniform() * (i + 1) as f64) as usize);
        }
        let identity = Summary::empty("monitor-outlier", Digest::of(&reference)).to_bytes();
        let merge = |a: Vec<u8>, b: &Vec<u8>| Outliers::merge(&a, b).unwrap();
        let (left, right) = parts.split_at(parts.len() / 2);
        let right = right.iter().fold(identity.clone(), merge);
        prop_assert!(merge(left.iter().fold(identity, merge), &right) == whole);
    }
}
