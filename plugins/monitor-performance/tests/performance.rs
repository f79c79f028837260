//! Windows of a model as good as it was, and of a worse one: what is found,
//! what is not, and that counts merge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use headland_monitor::{Digest, Field, Noised, Summary};
use headland_sdk::{
    Monitor,
    monitor::{Batch, Column, ColumnValues, Finding, MonitorError, Severity},
};
use monitor_performance::{Config, Counted, Metric, Performance, Reference, Spread, measure};
use proptest::prelude::*;
use serde_json::{Value, json};

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

/// A row of a classifier: label, prediction, the probability of `fault`.
type Row = (Option<&'static str>, Option<&'static str>, f64);

/// Rows of a calibrated model of whose labels a share is turned over, so that
/// it is worse without knowing it.
fn rows(seed: u64, count: usize, turned: f64) -> Vec<Row> {
    let mut random = Random(seed);
    let row = |_| {
        let p = 1.0 / (1.0 + (-2.5 * random.normal() + 0.5).exp());
        let mut fault = random.uniform() < p;
        fault ^= random.uniform() < turned;
        let name = |fault| if fault { "fault" } else { "normal" };
        (Some(name(fault)), Some(name(p >= 0.5)), p)
    };
    (0..count).map(row).collect()
}

fn texts(values: impl Iterator<Item = Option<&'static str>>) -> ColumnValues {
    ColumnValues::Categorical(values.map(|v| v.map(str::to_owned)).collect())
}

fn column(name: &str, values: ColumnValues) -> Column {
    Column { name: name.to_owned(), values }
}

fn batch_of(rows: usize, columns: Vec<Column>) -> Batch {
    let rows = rows as u64;
    Batch { frame_ids: (0..rows).collect(), captured_at_ns: (0..rows).collect(), columns }
}

fn batch(rows: &[Row]) -> Batch {
    let score = |r: &Row| if r.1 == Some("fault") { r.2 } else { 1.0 - r.2 };
    batch_of(
        rows.len(),
        vec![
            column("label", texts(rows.iter().map(|r| r.0))),
            column("class", texts(rows.iter().map(|r| r.1))),
            column("p", ColumnValues::Numeric(rows.iter().map(|r| r.2).collect())),
            column("rest", ColumnValues::Numeric(rows.iter().map(|r| 1.0 - r.2).collect())),
            column("score", ColumnValues::Numeric(rows.iter().map(score).collect())),
        ],
    )
}

fn config(with: Value) -> Config {
    let mut config = json!({
        "classification": { "classes": ["normal", "fault"], "confidence": "score" },
    });
    for (key, value) in with.as_object().unwrap() {
        config[key] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

fn summary_of(config: &Config, reference: &[u8], batch: &Batch) -> Vec<u8> {
    let mut monitor = Performance::open(config.clone(), reference).unwrap();
    monitor.observe(batch).unwrap();
    monitor.close_window()
}

fn counted(config: &Config, batch: &Batch) -> Counted {
    Counted::of(config, &Summary::parse(&summary_of(config, &[], batch)).unwrap()).unwrap()
}

/// What 5000 rows of the good model say.
fn reference(config: &Config) -> Vec<u8> {
    serde_json::to_vec(&Reference::of(config, &counted(config, &batch(&rows(1, 5_000, 0.0)))))
        .unwrap()
}

fn findings(with: Value, rows: &[Row]) -> Vec<Finding> {
    let config = config(with);
    let reference = reference(&config);
    let summary = summary_of(&config, &reference, &batch(rows));
    Performance::evaluate(config, &reference, &summary).unwrap()
}

fn found(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.check.as_str()).collect()
}

fn alarms(findings: &[Finding]) -> Vec<&str> {
    let alarms = findings.iter().filter(|f| f.severity == Severity::Alarm);
    alarms.map(|f| f.check.as_str()).collect()
}

fn value(config: &Config, batch: &Batch, metric: Metric, class: Option<usize>) -> f64 {
    let measured = measure(config, &counted(config, batch));
    let is_it = |m: &&monitor_performance::Measured| {
        m.metric == metric && m.class == class && !m.is_estimated
    };
    measured.iter().find(is_it).unwrap().value
}

/// The configuration promises at most one window in a hundred, of any size,
/// with labels and without.
#[test]
fn model_as_good_as_it_was_raises_no_alarm_in_small_and_large_windows() {
    let config = config(json!({ "min-drop": 0.0, "min-rise": 0.0 }));
    let reference = reference(&config);
    for size in [60, 200, 1_000] {
        let raised = (0..300)
            .filter(|seed| {
                let summary =
                    summary_of(&config, &reference, &batch(&rows(1_000 + seed, size, 0.0)));
                let findings = Performance::evaluate(config.clone(), &reference, &summary).unwrap();
                !alarms(&findings).is_empty()
            })
            .count();
        assert!(raised <= 7, "{raised} of 300 good windows of {size} rows raised an alarm");
    }
}

/// Three classes, of which one comes once in a hundred rows or not at all: that
/// its one row is wrong is no alarm, neither in averages.
#[test]
fn rare_class_raises_no_alarm_by_chance() {
    let config = config(json!({
        "classification": { "classes": ["normal", "fault", "rare"], "score": "p", "positive": "rare" },
        "min-drop": 0.0,
    }));
    let draw = |seed: u64, count: usize| {
        let mut random = Random(seed);
        let rows: Vec<Row> = (0..count)
            .map(|_| {
                let which = random.uniform();
                let label = if which < 0.01 { 2 } else { usize::from(which < 0.5) };
                let is_right = random.uniform() < 0.8;
                let guess =
                    if is_right { label } else { (label + 1 + usize::from(label == 0)) % 3 };
                let p = if guess == 2 { 0.9 } else { 0.1 * random.uniform() };
                let name = |class: usize| Some(["normal", "fault", "rare"][class]);
                (name(label), name(guess), p)
            })
            .collect();
        batch(&rows)
    };
    let reference = Reference::of(&config, &counted(&config, &draw(1, 5_000)));
    let reference = serde_json::to_vec(&reference).unwrap();
    for size in [60, 200] {
        let raised = (0..300)
            .filter(|seed| {
                let summary = summary_of(&config, &reference, &draw(10 + seed, size));
                let findings = Performance::evaluate(config.clone(), &reference, &summary).unwrap();
                !alarms(&findings).is_empty()
            })
            .count();
        assert!(raised <= 7, "{raised} of 300 good windows of {size} rows raised an alarm");
    }
}

#[test]
fn worse_model_is_found_by_its_labels_and_not_by_its_scores() {
    let findings = findings(json!({}), &rows(2, 1_000, 0.3));
    let alarms = alarms(&findings);
    for check in ["accuracy", "macro-f1", "weighted-f1", "roc-auc", "log-loss", "brier", "ece"] {
        assert!(alarms.contains(&check), "{check} is not among {alarms:?}");
    }
    // The scores are as sure as they were: that the relation of inputs to
    // labels has changed is what they cannot know.
    assert!(alarms.iter().all(|check| !check.starts_with("estimated-")), "{alarms:?}");
    let accuracy = findings.iter().find(|f| f.check == "accuracy").unwrap();
    assert!(accuracy.statistic.starts_with("accuracy(test=binomial,alpha="));
    assert!(accuracy.value < accuracy.threshold && accuracy.rows == 1_000);
    let recall = findings.iter().find(|f| f.check == "recall").unwrap();
    assert_eq!(recall.feature.as_deref(), Some("normal"));
    let auc = findings.iter().find(|f| f.check == "roc-auc").unwrap();
    assert!(auc.statistic.starts_with("roc-auc(bound="), "{}", auc.statistic);
}

#[test]
fn harder_inputs_are_found_without_labels_and_the_assumption_is_said() {
    // Scores near one half: right less often, and they say so.
    let mut random = Random(3);
    let rows: Vec<Row> = (0..1_000)
        .map(|_| {
            let p = 0.3 + 0.4 * random.uniform();
            (None, Some(if p >= 0.5 { "fault" } else { "normal" }), p)
        })
        .collect();
    let findings = findings(json!({}), &rows);
    let accuracy = findings.iter().find(|f| f.check == "estimated-accuracy").unwrap();
    assert_eq!(accuracy.severity, Severity::Alarm);
    assert!(accuracy.statistic.starts_with("estimated-accuracy(method=cbpe,test=binomial,"));
    assert!(accuracy.message.contains("holds where scores are as right as in the reference"));
    assert!((accuracy.value - 0.6).abs() < 0.03, "{}", accuracy.value);
    let unlabelled = findings.iter().find(|f| f.check == "unlabelled").unwrap();
    assert_eq!((unlabelled.value, unlabelled.severity), (1_000.0, Severity::Info));
    let insufficient = findings.iter().find(|f| f.check == "insufficient").unwrap();
    assert!(insufficient.message.contains("what needs labels"), "{}", insufficient.message);
}

#[test]
fn estimate_without_labels_is_what_the_labels_then_say() {
    for seed in 0..20 {
        let config = config(json!({}));
        let measured = measure(&config, &counted(&config, &batch(&rows(50 + seed, 4_000, 0.0))));
        for estimated in measured.iter().filter(|m| m.is_estimated) {
            let same = |m: &&monitor_performance::Measured| {
                (m.metric, m.class, m.is_estimated) == (estimated.metric, estimated.class, false)
            };
            let real = measured.iter().find(same).unwrap().value;
            // Four standard deviations of a share of 1000 rows.
            assert!((estimated.value - real).abs() < 0.06, "{estimated:?} is {real} by labels");
        }
    }
}

#[test]
fn small_drop_that_labels_make_sure_is_no_alarm_below_the_margin() {
    let many = rows(4, 50_000, 0.06);
    assert_eq!(alarms(&findings(json!({ "min-drop": 0.2, "min-rise": 5.0 }), &many)), [""; 0]);
    let strict = findings(json!({ "min-drop": 0.005 }), &many);
    assert!(alarms(&strict).contains(&"accuracy"), "{:?}", found(&strict));
}

#[test]
fn large_drop_that_chance_explains_is_no_alarm() {
    let few = rows(5, 55, 0.0);
    let config = config(json!({ "min-drop": 0.0 }));
    let measured = measure(&config, &counted(&config, &batch(&few)));
    let of_window = measured.iter().find(|m| m.metric == Metric::Accuracy).unwrap().value;
    let baseline = of_window + 0.05;
    let reference =
        json!({ "version": 1, "baselines": [{ "metric": "accuracy", "value": baseline }] });
    let reference = reference.to_string().into_bytes();
    let summary = summary_of(&config, &reference, &batch(&few));
    let findings = Performance::evaluate(config, &reference, &summary).unwrap();
    assert_eq!(alarms(&findings), [""; 0]);
}

#[test]
fn too_few_labels_are_insufficient_and_no_alarm() {
    let findings = findings(json!({}), &rows(6, 49, 0.5));
    assert_eq!(found(&findings)[0], "insufficient");
    let f = &findings[0];
    assert_eq!((f.severity, f.value, f.threshold), (Severity::Info, 49.0, 50.0));
    assert_eq!(alarms(&findings), [""; 0]);
}

#[test]
fn rare_class_is_insufficient_and_named() {
    let mut rows = rows(7, 400, 0.0);
    rows.retain(|r| r.0 == Some("normal"));
    rows.truncate(150);
    rows.push((Some("fault"), Some("normal"), 0.1));
    let findings = findings(json!({}), &rows);
    let f = findings.iter().find(|f| f.check == "insufficient").unwrap();
    assert!(f.message.contains("recall of `fault`"), "{}", f.message);
    assert!(!findings.iter().any(|f| f.check == "recall" && f.feature.as_deref() == Some("fault")));
}

#[test]
fn empty_window_and_single_row_say_only_that_they_are_too_few() {
    for rows in [vec![], rows(8, 1, 0.0)] {
        let findings = findings(json!({}), &rows);
        assert_eq!(found(&findings)[0], "insufficient", "{findings:?}");
        assert_eq!(alarms(&findings), [""; 0]);
    }
}

#[test]
fn without_reference_nothing_is_judged_and_all_can_be_reported() {
    let config = config(json!({ "report": true }));
    let summary = summary_of(&config, &[], &batch(&rows(9, 500, 0.3)));
    let findings = Performance::evaluate(config, &[], &summary).unwrap();
    assert!(findings.iter().all(|f| f.severity == Severity::Info));
    for check in ["accuracy", "macro-f1", "ece", "estimated-accuracy", "estimated-f1"] {
        assert!(found(&findings).contains(&check), "{check}");
    }
}

/// By hand: 6 rows of three classes, of which 4 are right.
#[test]
fn metrics_of_a_small_matrix_are_those_by_hand() {
    let config = config(json!({ "classification": { "classes": ["a", "b", "c"] } }));
    let labels = ["a", "a", "a", "b", "b", "d"].map(Some);
    let predictions = ["a", "a", "b", "b", "c", "d"].map(Some);
    let batch = batch_of(
        6,
        vec![
            column("label", texts(labels.into_iter())),
            column("class", texts(predictions.into_iter())),
        ],
    );
    let of = |metric, class| value(&config, &batch, metric, class);
    // `d` is no class of the configuration, but it is right.
    assert_eq!(of(Metric::Accuracy, None), 4.0 / 6.0);
    assert_eq!(of(Metric::Precision, Some(1)), 0.5);
    assert_eq!(of(Metric::Recall, Some(0)), 2.0 / 3.0);
    assert_eq!(of(Metric::F1, Some(0)), 0.8);
    assert_eq!(of(Metric::F1, Some(2)), 0.0);
    assert_eq!(of(Metric::MacroF1, None), (0.8 + 0.5 + 0.0) / 3.0);
    assert!((of(Metric::WeightedF1, None) - (3.0 * 0.8 + 2.0 * 0.5) / 5.0).abs() < 1e-15);
}

#[test]
fn both_wrong_in_the_same_unknown_class_is_right_and_in_two_is_wrong() {
    let config = config(json!({ "classification": { "classes": ["a", "b"] } }));
    let batch = |prediction| {
        let columns = vec![
            column("label", texts([Some("x"), Some("a")].into_iter())),
            column("class", texts([Some(prediction), Some("a")].into_iter())),
        ];
        batch_of(2, columns)
    };
    assert_eq!(value(&config, &batch("x"), Metric::Accuracy, None), 1.0);
    assert_eq!(value(&config, &batch("y"), Metric::Accuracy, None), 0.5);
}

#[test]
fn confidence_of_two_classes_says_as_much_as_the_score_of_one() {
    let rows = batch(&rows(10, 500, 0.1));
    let by = |form: Value| {
        let mut classification = json!({ "classes": ["normal", "fault"] });
        for (key, value) in form.as_object().unwrap() {
            classification[key] = value.clone();
        }
        let config = config(json!({ "classification": classification }));
        let counted = counted(&config, &rows);
        [Metric::LogLoss, Metric::Brier, Metric::Ece, Metric::RocAuc].map(|metric| {
            let class = (metric != Metric::LogLoss && metric != Metric::Brier).then_some(1);
            let found = measure(&config, &counted);
            found.iter().find(|m| m.metric == metric && m.class == class).unwrap().value
        })
    };
    let confidence = by(json!({ "confidence": "score" }));
    let score = by(json!({ "score": "p", "positive": "fault" }));
    let scores = by(json!({ "scores": ["rest", "p"] }));
    for ((a, b), c) in confidence.iter().zip(score).zip(scores) {
        // 1 - (1 - p) is not always p.
        assert!((a - b).abs() < 1e-6 && (b - c).abs() < 1e-6, "{a} {b} {c}");
    }
}

#[test]
fn scores_that_are_no_probability_are_counted_as_unscored() {
    let scores = [0.5, 1.0 + 1e-9, 1.1, -0.1, f64::NAN, f64::INFINITY];
    let batch = batch_of(
        6,
        vec![
            column("label", texts([Some("fault"); 6].into_iter())),
            column("class", texts([Some("fault"); 6].into_iter())),
            column("score", ColumnValues::Numeric(scores.to_vec())),
        ],
    );
    let counted = counted(&config(json!({})), &batch);
    assert_eq!(
        (counted.rows, counted.unscored, counted.labelled(), counted.loss_rows),
        (6, 4, 6, 2)
    );
}

#[test]
fn certain_and_wrong_costs_36_nats_and_no_infinity() {
    let row = [(Some("normal"), Some("fault"), 1.0)];
    let loss = value(&config(json!({})), &batch(&row), Metric::LogLoss, None);
    assert!((loss - 36.043_653).abs() < 1e-5, "{loss}");
}

fn regression(unit: f64) -> Config {
    serde_json::from_value(json!({ "regression": { "unit": unit } })).unwrap()
}

fn errors(labels: &[f64], values: &[f64]) -> Batch {
    batch_of(
        labels.len(),
        vec![
            column("label", ColumnValues::Numeric(labels.to_vec())),
            column("value", ColumnValues::Numeric(values.to_vec())),
        ],
    )
}

#[test]
fn errors_of_a_regression_are_those_by_hand() {
    let (config, batch) = (regression(0.5), errors(&[1.0, 2.0, 3.0, 4.0], &[1.5, 2.0, 2.0, 6.0]));
    assert_eq!(value(&config, &batch, Metric::Mae, None), 0.875);
    assert_eq!(value(&config, &batch, Metric::Bias, None), 0.375);
    assert_eq!(value(&config, &batch, Metric::Rmse, None), 1.3125f64.sqrt());
}

#[test]
fn infinite_and_huge_errors_are_cut_and_counted_and_missing_ones_are_not_errors() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let batch = errors(&[0.0, 0.0, 0.0, inf, nan, 0.0], &[inf, -1e300, 1.0, 0.0, 0.0, nan]);
    let counted = counted(&regression(1.0), &batch);
    assert_eq!((counted.error_rows, counted.clipped), (3, 2));
    assert_eq!((counted.unlabelled, counted.unpredicted), (2, 1));
    assert_eq!(counted.errors[0], 1 << 20);
    let summary = summary_of(&regression(1.0), &[], &errors(&[0.0; 60], &[100.0; 60]));
    let findings = Performance::evaluate(regression(1.0), &[], &summary).unwrap();
    assert_eq!((found(&findings), findings[0].severity), (vec!["clipped"], Severity::Warning));
}

#[test]
fn worse_regression_is_found_and_a_good_one_is_not() {
    let config = regression(1.0);
    let draw = |seed: u64, scale: f64, bias: f64| {
        let mut random = Random(seed);
        let labels: Vec<f64> = (0..500).map(|_| 20.0 * random.uniform()).collect();
        let values: Vec<f64> = labels.iter().map(|l| l + bias + scale * random.normal()).collect();
        errors(&labels, &values)
    };
    let reference = Reference::of(&config, &counted(&config, &draw(1, 1.0, 0.0)));
    let reference = serde_json::to_vec(&reference).unwrap();
    let alarms_of = |batch: &Batch| {
        let summary = summary_of(&config, &reference, batch);
        let findings = Performance::evaluate(config.clone(), &reference, &summary).unwrap();
        alarms(&findings).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let raised = (0..200).filter(|seed| !alarms_of(&draw(100 + seed, 1.0, 0.0)).is_empty()).count();
    assert!(raised <= 5, "{raised} of 200 good windows raised an alarm");
    assert_eq!(alarms_of(&draw(2, 1.5, 0.0)), ["mae", "rmse"]);
    for bias in [-0.5, 0.5] {
        assert!(alarms_of(&draw(3, 1.0, bias)).contains(&"bias".to_owned()));
    }
    // Better is no alarm.
    assert_eq!(alarms_of(&draw(4, 0.5, 0.0)), [""; 0]);
}

#[test]
fn absent_label_column_is_late_and_other_absent_columns_are_found_at_once() {
    let mut monitor = Performance::open(config(json!({})), &[]).unwrap();
    let mut batch = batch(&rows(11, 20, 0.0));
    batch.columns.retain(|c| c.name == "class");
    let at_once = monitor.observe(&batch).unwrap();
    assert_eq!(found(&at_once), ["missing-column"]);
    assert_eq!(at_once[0].feature.as_deref(), Some("score"));
    let summary = Summary::parse(&monitor.close_window()).unwrap();
    assert_eq!((summary.counts("unlabelled"), summary.counts("unscored")), (&[20][..], &[20][..]));
}

#[test]
fn column_of_another_type_is_found_and_its_rows_are_missing() {
    let mut monitor = Performance::open(config(json!({})), &[]).unwrap();
    let mut batch = batch(&rows(12, 20, 0.0));
    batch.columns[1].values = ColumnValues::Numeric(vec![1.0; 20]);
    batch.columns[4].values = texts([None; 20].into_iter());
    let at_once = monitor.observe(&batch).unwrap();
    assert_eq!(found(&at_once), ["wrong-type", "wrong-type"]);
    let summary = Summary::parse(&monitor.close_window()).unwrap();
    assert_eq!(summary.counts("unpredicted"), [20]);
}

#[test]
fn classes_that_are_numbers_are_read_from_columns_of_numbers() {
    let config = config(json!({ "classification": { "classes": ["0", "1"] } }));
    let batch = batch_of(
        4,
        vec![
            column("label", ColumnValues::Numeric(vec![0.0, 1.0, f64::NAN, 7.0])),
            column("class", texts(["0", "0", "1", "1"].map(Some).into_iter())),
        ],
    );
    let counted = counted(&config, &batch);
    assert_eq!((counted.unlabelled, counted.confusion), (1, vec![1, 0, 0, 1, 0, 0, 0, 1, 0]));
}

#[test]
fn a_billion_categories_take_no_more_room_than_two() {
    let config = config(json!({}));
    let empty = summary_of(&config, &[], &batch(&[])).len();
    let mut monitor = Performance::open(config, &[]).unwrap();
    for round in 0..20 {
        let text = |i: usize| Some(format!("{round} {i}"));
        let names = || ColumnValues::Categorical((0..500).map(text).collect());
        let columns = vec![column("label", names()), column("class", names())];
        monitor.observe(&batch_of(500, columns)).unwrap();
    }
    let summary = monitor.close_window();
    assert!(summary.len() <= empty + 20, "{} bytes after {empty}", summary.len());
    let summary = Summary::parse(&summary).unwrap();
    assert_eq!(summary.counts("confusion/other"), [0, 0, 10_000]);
    assert_eq!(summary.counts("other-correct"), [10_000]);
}

#[test]
fn order_and_times_of_rows_do_not_matter() {
    let config = config(json!({}));
    let mut rows = rows(13, 300, 0.1);
    let forward = summary_of(&config, &[], &batch(&rows));
    rows.reverse();
    let mut backward = batch(&rows);
    backward.captured_at_ns.reverse();
    assert_eq!(summary_of(&config, &[], &backward), forward);
}

#[test]
fn ragged_batch_is_refused_and_not_counted() {
    let mut monitor = Performance::open(config(json!({})), &[]).unwrap();
    let before = monitor.checkpoint();
    let good = || batch(&rows(14, 20, 0.0));
    let (mut ragged, mut twice, mut untimed) = (good(), good(), good());
    ragged.columns[2].values = ColumnValues::Numeric(vec![0.5; 19]);
    twice.columns.push(twice.columns[0].clone());
    untimed.captured_at_ns.pop();
    for bad in [ragged, twice, untimed] {
        assert!(matches!(monitor.observe(&bad), Err(MonitorError::BadBatch(_))));
    }
    assert_eq!(monitor.checkpoint(), before);
}

#[test]
fn counts_and_sums_that_overflow_are_refused_and_nothing_is_lost() {
    let config = config(json!({}));
    let one = summary_of(&config, &[], &batch(&rows(15, 1, 0.0)));
    for (name, field) in
        [("log-loss", Field::Sums(vec![i64::MAX, 0])), ("losses", Field::Counts(vec![u64::MAX]))]
    {
        let mut full = Summary::parse(&one).unwrap();
        full.fields.insert(name.to_owned(), field);
        let full = full.to_bytes();
        assert!(matches!(
            Performance::merge(&full, &one),
            Err(MonitorError::Incompatible(m)) if m.contains(name) && m.contains("overflows")
        ));
        let mut monitor = Performance::restore(config.clone(), &[], &full).unwrap();
        assert!(matches!(
            monitor.observe(&batch(&rows(15, 1, 0.0))),
            Err(MonitorError::BadBatch(m)) if m.contains("overflows")
        ));
        assert_eq!(monitor.checkpoint(), full);
    }
}

#[test]
fn counts_that_cannot_be_are_evaluated_without_a_trap() {
    let config = config(json!({ "report": true }));
    let reference = reference(&config);
    let mut full = Summary::parse(&summary_of(&config, &reference, &batch(&[]))).unwrap();
    for field in full.fields.values_mut() {
        match field {
            Field::Counts(counts) => counts.fill(u64::MAX),
            Field::Sums(sums) => sums.fill(i64::MIN),
            other => panic!("{other:?} is not counted"),
        }
    }
    assert!(Performance::evaluate(config.clone(), &reference, &full.to_bytes()).is_ok());
    for field in full.fields.values_mut() {
        if let Field::Counts(counts) = field {
            counts.fill(0);
        }
    }
    assert!(Performance::evaluate(config, &reference, &full.to_bytes()).is_ok());
}

#[test]
fn restored_monitor_goes_on_where_it_stopped() {
    let config = config(json!({}));
    let reference = reference(&config);
    let mut straight = Performance::open(config.clone(), &reference).unwrap();
    straight.observe(&batch(&rows(16, 90, 0.0))).unwrap();
    let checkpoint = straight.checkpoint();
    let mut restored = Performance::restore(config, &reference, &checkpoint).unwrap();
    for monitor in [&mut straight, &mut restored] {
        monitor.observe(&batch(&rows(17, 90, 0.0))).unwrap();
    }
    assert_eq!(straight.close_window(), restored.close_window());
    assert_eq!(straight.checkpoint(), restored.checkpoint());
}

#[test]
fn damaged_or_foreign_checkpoint_is_refused() {
    let config = config(json!({}));
    let reference = reference(&config);
    let good = summary_of(&config, &reference, &batch(&rows(18, 60, 0.0)));
    let edited = |edit: &dyn Fn(&mut Summary)| {
        let mut summary = Summary::parse(&good).unwrap();
        edit(&mut summary);
        summary.to_bytes()
    };
    let bad = [
        Vec::new(),
        b"{}".to_vec(),
        good[..good.len() / 2].to_vec(),
        [&good[..], &[0]].concat(),
        edited(&|s| s.by = "monitor-quality".to_owned()),
        edited(&|s| s.reference = Digest::of(b"another")),
        edited(&|s| s.reference = Digest::NONE),
        edited(&|s| drop(s.fields.insert("score/normal/true".to_owned(), Field::Counts(vec![])))),
        edited(&|s| drop(s.fields.insert("brier".to_owned(), Field::Sums(vec![0])))),
        edited(&|s| drop(s.fields.insert("brier".to_owned(), Field::Counts(vec![0, 0])))),
    ];
    for (i, bad) in bad.iter().enumerate() {
        let restored = Performance::restore(config.clone(), &reference, bad);
        assert!(matches!(restored, Err(MonitorError::BadCheckpoint(_))), "case {i}");
        let evaluated = Performance::evaluate(config.clone(), &reference, bad);
        assert!(matches!(evaluated, Err(MonitorError::Incompatible(_))), "case {i}");
    }
}

#[test]
fn summaries_of_other_references_bins_and_monitors_do_not_merge() {
    let config_of = |bins: u32| {
        config(json!({ "classification": {
            "classes": ["normal", "fault"], "confidence": "score", "score-bins": bins } }))
    };
    let rows = batch(&rows(19, 60, 0.0));
    let good = summary_of(&config_of(50), &[], &rows);
    let mut foreign = Summary::parse(&good).unwrap();
    foreign.by = "monitor-quality".to_owned();
    for other in [
        summary_of(&config_of(20), &[], &rows),
        summary_of(&config_of(50), &reference(&config_of(50)), &rows),
        foreign.to_bytes(),
        Vec::new(),
    ] {
        assert!(matches!(Performance::merge(&good, &other), Err(MonitorError::Incompatible(_))));
        assert!(matches!(Performance::merge(&other, &good), Err(MonitorError::Incompatible(_))));
    }
}

#[test]
fn damaged_reference_and_one_of_other_classes_are_refused() {
    let baseline = |with: Value| {
        let mut baseline = json!({ "metric": "accuracy", "value": 0.9 });
        for (key, value) in with.as_object().unwrap() {
            baseline[key] = value.clone();
        }
        json!({ "version": 1, "baselines": [baseline] })
    };
    let calibration = |rows: Value, positives: Value| {
        json!({ "version": 1, "calibration": [
            { "class": "fault", "rows": rows, "positives": positives }] })
    };
    let twice = json!({ "metric": "accuracy", "value": 0.9 });
    for (reference, why) in [
        (json!({ "version": 2 }), "version is 2"),
        (json!({ "version": 1, "columns": [] }), "columns"),
        (json!({ "version": 1, "baselines": [twice.clone(), twice] }), "is there twice"),
        (baseline(json!({ "value": 1.5 })), "out of its range"),
        (baseline(json!({ "class": "breakdown" })), "class that is not configured"),
        (baseline(json!({ "metric": "gini" })), "gini"),
        (baseline(json!({ "standard-error": -1.0 })), "standard error"),
        (baseline(json!({ "rows": -1 })), "rows needs whole numbers"),
        (baseline(json!({ "rows": 0.5 })), "rows needs whole numbers"),
        (baseline(json!({ "value": "high" })), "value needs a number"),
        (baseline(json!({ "values": 0.9 })), "values is unknown here"),
        (json!({ "version": 1, "baselines": {} }), "baselines needs a list"),
        (json!({ "baselines": [] }), "version is 0"),
        (json!({ "version": 1, "baselines": [{ "metric": "mae" }] }), "out of its range"),
        (calibration(json!([]), json!([])), "as many bins of rows as of positives"),
        (calibration(json!([1, 2]), json!([1])), "as many bins of rows as of positives"),
        (calibration(json!([1]), json!([2])), "more positives than rows"),
        (
            json!({ "version": 1, "calibration": [{ "class": "x", "rows": [1], "positives": [1] }] }),
            "class that is not configured",
        ),
    ] {
        let opened = Performance::open(config(json!({})), reference.to_string().as_bytes());
        match opened {
            Err(MonitorError::BadReference(m)) => assert!(m.contains(why), "{m} for {reference}"),
            other => panic!("{reference} gave {:?}", other.err()),
        }
    }
    for bytes in [&b"{"[..], b"\xff", b"null", b"[1]"] {
        let opened = Performance::open(config(json!({})), bytes);
        assert!(matches!(opened, Err(MonitorError::BadReference(_))));
    }
}

#[test]
fn measured_reference_reads_back_as_it_was() {
    let config = config(json!({}));
    let bytes = reference(&config);
    let read: Reference = headland_sdk::json::from_slice(&bytes).unwrap();
    assert_eq!(serde_json::to_vec(&read).unwrap(), bytes);
    read.check(&config).unwrap();
    assert_eq!(read.calibration.len(), 1);
    // Every metric of labels, and none that is an estimate.
    assert_eq!(read.baselines.len(), 1 + 3 * 2 + 6 + 2 + 2);
}

#[test]
fn calibration_of_the_reference_is_what_estimates_go_by() {
    let config = config(json!({}));
    // Scores that are too sure by half.
    let calibration = json!({ "version": 1, "calibration": [
        { "class": "fault", "rows": [100, 100], "positives": [30, 70] }] });
    let reference = calibration.to_string().into_bytes();
    let rows = [(None, Some("fault"), 0.99), (None, Some("normal"), 0.01)];
    let summary = Summary::parse(&summary_of(&config, &reference, &batch(&rows))).unwrap();
    let measured = measure(&config, &Counted::of(&config, &summary).unwrap());
    let accuracy = measured.iter().find(|m| m.metric == Metric::Accuracy).unwrap();
    assert!(accuracy.is_estimated && (accuracy.value - 0.7).abs() < 1e-6, "{accuracy:?}");
    assert_eq!(accuracy.spread, Spread::Share(2.0));
}

#[test]
fn configuration_out_of_range_is_refused_by_key() {
    let classification = |with: Value| {
        let mut c = json!({ "classes": ["normal", "fault"] });
        for (key, value) in with.as_object().unwrap() {
            c[key] = value.clone();
        }
        json!({ "classification": c })
    };
    let many: Vec<String> = (0..33).map(|i| i.to_string()).collect();
    for (with, why) in [
        (json!({ "alpha": 0.0 }), "alpha"),
        (json!({ "min-rows": 0 }), "min-rows"),
        (json!({ "min-drop": 1.5 }), "min-drop"),
        (json!({ "min-rise": -0.1 }), "min-rise"),
        (json!({ "classification": null }), "either classification or regression"),
        (json!({ "regression": {} }), "either classification or regression"),
        (json!({ "classification": null, "regression": { "unit": 0.0 } }), "unit"),
        (classification(json!({ "classes": ["a"] })), "1 classes"),
        (classification(json!({ "classes": many })), "33 classes"),
        (classification(json!({ "classes": ["a", "a"] })), "`a` is there twice"),
        (classification(json!({ "classes": ["a", "other"] })), "class `other` is what the rest"),
        (classification(json!({ "classes": ["a", ""] })), "has no name"),
        (classification(json!({ "confidence": "c", "scores": ["a", "b"] })), "exclude each other"),
        (classification(json!({ "scores": ["a"] })), "not as many scores"),
        (classification(json!({ "score": "s" })), "score needs positive"),
        (classification(json!({ "positive": "x" })), "none of the classes"),
        (classification(json!({ "score-bins": 101 })), "score-bins"),
        (classification(json!({ "calibration-bins": 1 })), "calibration-bins"),
        (classification(json!({ "calibration-bins": 20 })), "not a multiple"),
    ] {
        match Performance::open(config(with.clone()), &[]) {
            Err(MonitorError::BadConfig(m)) => assert!(m.contains(why), "{m} for {with}"),
            other => panic!("{with} gave {:?}", other.err()),
        }
    }
}

/// What the schema calls a default is what the reader takes it for, and no
/// name is known to one of the two alone.
#[test]
fn schema_and_reader_agree() {
    let schema: Value = serde_json::from_str(include_str!("../config.schema.json")).unwrap();
    let resolve = |property: &Value| {
        let name = property["anyOf"][0]["$ref"].as_str()?.rsplit('/').next()?.to_owned();
        Some(schema["$defs"][name].clone())
    };
    let classes = json!({ "classes": ["a", "b"] });
    let mut full = json!({});
    let mut names = 0;
    for (name, property) in schema["properties"].as_object().unwrap() {
        names += 1;
        full[name] = property["default"].clone();
        let Some(table) = resolve(property) else { continue };
        full[name] = json!({});
        for (key, property) in table["properties"].as_object().unwrap() {
            names += 1;
            full[name][key] = property["default"].clone();
        }
    }
    full["classification"]["classes"] = classes["classes"].clone();
    assert_eq!(names, 8 + 8 + 2);
    let bare = json!({ "classification": classes, "regression": {} });
    let read = |config: &Value| serde_json::from_value::<Config>(config.clone());
    assert_eq!(read(&full).unwrap(), read(&bare).unwrap());
    for at in ["", "/classification", "/regression"] {
        let mut more = full.clone();
        more.pointer_mut(at).unwrap()["unheard-of"] = json!(1);
        assert!(read(&more).unwrap_err().to_string().contains("unheard-of is unknown here"));
    }
    for (key, wrong) in [
        ("alpha", json!("small")),
        ("min-rows", json!(1.5)),
        ("report", json!(1)),
        ("label", json!(1)),
        ("classification", json!([])),
    ] {
        let mut config = full.clone();
        config[key] = wrong;
        assert!(read(&config).unwrap_err().to_string().contains(key), "{key}");
    }
}

/// A filter's noise of a great variance in each count explains a drop that is
/// otherwise sure.
#[test]
fn noise_of_a_privacy_filter_widens_what_chance_explains() {
    let config = config(json!({}));
    let reference = reference(&config);
    let summary = summary_of(&config, &reference, &batch(&rows(20, 1_000, 0.3)));
    let with_variance = |variance: u64| {
        let mut noised = Summary::parse(&summary).unwrap();
        for field in noised.fields.values_mut() {
            let noise = |values| Noised { variance: variance << 20, values };
            *field = match field {
                Field::Counts(counts) => {
                    Field::NoisedCounts(noise(counts.iter().map(|&n| n as i64).collect()))
                }
                Field::Sums(sums) => Field::NoisedSums(noise(sums.clone())),
                _ => panic!("only counts and sums are counted"),
            };
        }
        let findings =
            Performance::evaluate(config.clone(), &reference, &noised.to_bytes()).unwrap();
        alarms(&findings).len()
    };
    assert!(with_variance(1) > 5);
    assert_eq!(with_variance(40_000), 0);
}

fn any_row() -> impl Strategy<Value = Row> {
    let class = || {
        prop_oneof![Just(None), Just(Some("normal")), Just(Some("fault")), Just(Some("unknown"))]
    };
    let score = prop_oneof![0.0..=1.0f64, Just(f64::NAN), Just(2.0), Just(0.0), Just(1.0)];
    (class(), class(), score)
}

proptest! {
    /// However rows are split over devices, into batches, and merged.
    #[test]
    fn merged_summaries_are_those_of_the_whole(
        rows in proptest::collection::vec((any_row(), 0..5usize, 0..3usize), 0..150),
        reversed in any::<bool>(),
        is_regression in any::<bool>(),
    ) {
        let config = if is_regression {
            serde_json::from_value(json!({ "label": "p", "regression": { "value": "score" } })).unwrap()
        } else {
            config(json!({}))
        };
        let all: Vec<Row> = rows.iter().map(|(row, ..)| *row).collect();
        let mut parts: Vec<Vec<u8>> = (0..5)
            .map(|device| {
                let mut monitor = Performance::open(config.clone(), &[]).unwrap();
                for part in 0..3 {
                    let mine: Vec<Row> =
                        rows.iter().filter(|r| (r.1, r.2) == (device, part)).map(|r| r.0).collect();
                    monitor.observe(&batch(&mine)).unwrap();
                }
                monitor.close_window()
            })
            .collect();
        if reversed {
            parts.reverse();
        }
        let empty = Summary::empty("monitor-performance", Digest::NONE).to_bytes();
        let merged = parts.iter().fold(empty, |a, b| Performance::merge(&a, b).unwrap());
        prop_assert_eq!(merged, summary_of(&config, &[], &batch(&all)));
    }
}

/// `cargo test --release -p monitor-performance -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn speed() {
    let batch = batch(&rows(1, 256, 0.0));
    let mut monitor = Performance::open(config(json!({})), &[]).unwrap();
    let start = std::time::Instant::now();
    for _ in 0..4_000 {
        monitor.observe(&batch).unwrap();
    }
    println!("{} ns a row", start.elapsed().as_nanos() / (4_000 * 256));
}
