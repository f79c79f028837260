//! Windows of good rows and of rows that moved: what is found, what is not,
//! and that counts merge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::OnceLock;

use headland_monitor::{
    Column as Learnt, ColumnValues as Values, Digest, EmbeddingOptions, Field, FitOptions, Noised,
    Reference, Summary, fit,
};
use headland_sdk::{
    Monitor,
    monitor::{Batch, Column, ColumnValues, Finding, MonitorError, Severity},
};
use monitor_drift::{Config, Drift, Statistic, Thresholds};
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

const ELEMENTS: usize = 16;

/// Rows of a good machine: a temperature that is 5 higher in the south and of
/// which one in a hundred is missing, a mode, and an embedding whose elements
/// depend on each other.
fn good(seed: u64, rows: usize) -> Vec<Learnt> {
    let mut random = Random(seed);
    let mut columns = vec![
        ("temperature".to_owned(), Values::Numeric(vec![])),
        ("mode".to_owned(), Values::Categorical(vec![])),
        ("site".to_owned(), Values::Categorical(vec![])),
    ];
    columns.extend((0..ELEMENTS).map(|i| (format!("embedding[{i}]"), Values::Numeric(Vec::new()))));
    for _ in 0..rows {
        let south = random.uniform() < 0.2;
        let missing = random.uniform() < 0.01;
        let temperature = 20.0 + random.normal() + if south { 5.0 } else { 0.0 };
        let u = random.uniform();
        let mode = ["idle", "cut", "drill", "rare"]
            [[0.5, 0.9, 0.99, 1.0].iter().position(|&p| u < p).unwrap()];
        let shared = random.normal();
        for (name, values) in &mut columns {
            match values {
                Values::Numeric(values) if name == "temperature" => {
                    values.push(if missing { f64::NAN } else { temperature });
                }
                Values::Numeric(values) => values.push(3.0 * shared + random.normal()),
                Values::Categorical(values) if name == "mode" => values.push(Some(mode.to_owned())),
                Values::Categorical(values) => {
                    values.push(Some(if south { "south" } else { "north" }.to_owned()));
                }
            }
        }
    }
    columns.into_iter().map(|(name, values)| Learnt { name, values }).collect()
}

fn reference_by(by: Option<&str>) -> Vec<u8> {
    static LEARNT: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
    LEARNT[usize::from(by.is_some())].get_or_init(|| learn(by)).clone()
}

fn learn(by: Option<&str>) -> Vec<u8> {
    let embedding = EmbeddingOptions { name: "embedding".into(), prefix: "embedding[".into() };
    let options = FitOptions {
        by: by.map(str::to_owned),
        embeddings: vec![embedding],
        ..FitOptions::default()
    };
    fit(&good(1, 5_000), &options).unwrap().to_json()
}

fn reference() -> Vec<u8> {
    reference_by(None)
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

fn summary_of(config: &Config, reference: &[u8], columns: Vec<Learnt>) -> Vec<u8> {
    let mut monitor = Drift::open(config.clone(), reference).unwrap();
    assert!(monitor.observe(&batch(columns)).unwrap().is_empty());
    monitor.close_window()
}

fn findings_of(config: &Config, reference: &[u8], columns: Vec<Learnt>) -> Vec<Finding> {
    let summary = summary_of(config, reference, columns);
    Drift::evaluate(config.clone(), reference, &summary).unwrap()
}

fn findings(columns: Vec<Learnt>) -> Vec<Finding> {
    findings_of(&Config::default(), &reference(), columns)
}

fn found(findings: &[Finding]) -> Vec<(&str, &str)> {
    findings.iter().map(|f| (f.check.as_str(), f.feature.as_deref().unwrap_or_default())).collect()
}

fn numbers(columns: &mut [Learnt], name: &str, change: impl Fn(usize, f64) -> f64) {
    let column = columns.iter_mut().find(|c| c.name == name).unwrap();
    let Values::Numeric(values) = &mut column.values else { panic!("{name} is no number") };
    values.iter_mut().enumerate().for_each(|(i, x)| *x = change(i, *x));
}

fn texts(columns: &mut [Learnt], name: &str, change: impl Fn(usize) -> Option<String>) {
    let column = columns.iter_mut().find(|c| c.name == name).unwrap();
    let Values::Categorical(values) = &mut column.values else { panic!("{name} is no text") };
    for (i, value) in values.iter_mut().enumerate() {
        if let Some(text) = change(i) {
            *value = Some(text);
        }
    }
}

fn by_site() -> Config {
    Config { by: Some("site".to_owned()), ..Config::default() }
}

/// The configuration promises at most one window in a hundred.
#[test]
fn good_rows_raise_no_alarm_in_small_and_large_windows() {
    let reference = reference_by(Some("site"));
    for rows in [30, 60, 200, 1_000] {
        for config in [Config::default(), by_site()] {
            let alarms = (0..100)
                .filter(|seed| {
                    let findings = findings_of(&config, &reference, good(1_000 + seed, rows));
                    findings.iter().any(|f| f.severity != Severity::Info)
                })
                .count();
            assert!(alarms <= 4, "{alarms} of 100 good windows of {rows} rows raised an alarm");
        }
    }
}

#[test]
fn drift_of_a_standard_deviation_is_found_and_says_where() {
    let mut columns = good(2, 300);
    numbers(&mut columns, "temperature", |_, x| x + 1.0);
    let findings = findings(columns);
    assert_eq!(found(&findings), [("drift", "temperature")]);
    let drift = &findings[0];
    assert_eq!(drift.severity, Severity::Alarm);
    assert!(drift.value > 0.25 && drift.threshold >= 0.1);
    let name = "psi(bins=10,floor=1e-4,log=natural,alpha=";
    assert!(drift.statistic.starts_with(name), "{}", drift.statistic);
    assert!(drift.statistic.ends_with("correction=holm,tests=4)"), "{}", drift.statistic);
    assert!(drift.message.contains(" and below 18."), "{}", drift.message);
    assert!(drift.message.contains("(10 % to "), "{}", drift.message);
}

#[test]
fn shift_below_the_threshold_is_no_alarm_however_many_rows_show_it() {
    let mut columns = good(3, 100_000);
    numbers(&mut columns, "temperature", |_, x| x + 0.2);
    assert_eq!(found(&findings(columns)), []);
}

#[test]
fn category_that_grows_and_category_that_is_new_are_found() {
    for text in ["rare", "stuck"] {
        let mut columns = good(4, 400);
        texts(&mut columns, "mode", |i| (i % 5 == 0).then(|| text.to_owned()));
        let findings = findings(columns);
        assert_eq!(found(&findings), [("drift", "mode")]);
        assert!(findings[0].message.contains("drill with 2 more"), "{}", findings[0].message);
    }
}

#[test]
fn each_statistic_can_alarm_and_the_others_are_reported() {
    use Statistic::*;
    let all =
        [Psi, JensenShannon, Hellinger, TotalVariation, Wasserstein, KolmogorovSmirnov, ChiSquare];
    let columns = vec!["temperature".to_owned()];
    for i in 0..all.len() {
        let mut statistics = all.to_vec();
        statistics.rotate_left(i);
        let config = Config { statistics, columns: columns.clone(), ..Config::default() };
        assert_eq!(
            found(&findings_of(&config, &reference(), good(5, 500))),
            [("distance", "temperature"); 6]
        );
        let mut moved = good(5, 500);
        numbers(&mut moved, "temperature", |_, x| x + 1.0);
        let findings = findings_of(&config, &reference(), moved);
        assert_eq!(findings.len(), 7);
        assert_eq!(findings[0].check, "drift");
        assert!(findings.iter().all(|f| f.value > f.threshold), "{findings:?}");
        assert!(findings[1..].iter().all(|f| f.severity == Severity::Info));
    }
}

/// A shift by one standard deviation, and nothing else, is a Wasserstein
/// distance of about one.
#[test]
fn wasserstein_distance_is_in_standard_deviations() {
    let config = Config {
        statistics: vec![Statistic::Wasserstein],
        columns: vec!["temperature".to_owned(), "mode".to_owned()],
        ..Config::default()
    };
    let Values::Numeric(values) = &good(1, 5_000)[0].values else { panic!() };
    let present: Vec<f64> = values.iter().copied().filter(|x| !x.is_nan()).collect();
    let mean = present.iter().sum::<f64>() / present.len() as f64;
    let std =
        (present.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / present.len() as f64).sqrt();
    let mut columns = good(6, 5_000);
    numbers(&mut columns, "temperature", |_, x| x + std);
    texts(&mut columns, "mode", |_| Some("cut".to_owned()));
    let findings = findings_of(&config, &reference(), columns);
    assert_eq!(found(&findings), [("drift", "temperature"), ("drift", "mode")]);
    assert!((0.9..1.1).contains(&findings[0].value), "{}", findings[0].value);
    assert!(findings[1].statistic.starts_with("total-variation("));
}

#[test]
fn group_that_moves_is_found_where_the_whole_does_not() {
    let reference = reference_by(Some("site"));
    let mut columns = good(7, 2_000);
    let Values::Categorical(sites) = columns[2].values.clone() else { panic!() };
    let south = |i: usize| sites[i].as_deref() == Some("south");
    texts(&mut columns, "mode", |i| (south(i) && i % 3 == 0).then(|| "cut".to_owned()));
    let whole = findings_of(&Config::default(), &reference, columns.clone());
    assert_eq!(found(&whole), []);
    let findings = findings_of(&by_site(), &reference, columns);
    assert_eq!(found(&findings), [("group-drift", "mode")]);
    assert!(findings[0].message.starts_with("site=south: PSI is "), "{}", findings[0].message);
    assert!(findings[0].statistic.ends_with(",site=south)"));
}

#[test]
fn a_million_groups_are_one_group_more() {
    let reference = reference_by(Some("site"));
    let few = summary_of(&by_site(), &reference, good(8, 500));
    let mut monitor = Drift::open(by_site(), &reference).unwrap();
    for seed in 0..10 {
        let mut columns = good(seed, 500);
        texts(&mut columns, "site", |i| Some(format!("site {}", seed * 500 + i as u64)));
        monitor.observe(&batch(columns)).unwrap();
    }
    let many = Summary::parse(&monitor.close_window()).unwrap();
    assert_eq!(many.fields.len(), Summary::parse(&few).unwrap().fields.len());
    assert_eq!(many.counts("other-groups/mode/bins").iter().sum::<u64>(), 5_000);
    let findings = Drift::evaluate(by_site(), &reference, &many.to_bytes()).unwrap();
    assert!(findings.iter().all(|f| f.severity == Severity::Info), "{findings:?}");
}

#[test]
fn groups_can_be_configured_and_share_a_reference_that_has_none() {
    let config = Config { groups: vec!["west".into(), "east".into()], ..by_site() };
    let mut columns = good(9, 1_000);
    texts(&mut columns, "site", |i| Some(if i % 2 == 0 { "east" } else { "west" }.to_owned()));
    numbers(&mut columns, "temperature", |i, x| if i % 2 == 0 { x + 3.0 } else { x });
    let findings = findings_of(&config, &reference(), columns);
    assert_eq!(found(&findings), [("drift", "temperature"), ("group-drift", "temperature")]);
    assert!(findings[1].message.starts_with("site=east"));
}

#[test]
fn embedding_whose_mean_moves_is_found_and_one_that_does_not_is_not() {
    for (shift, expected) in [(0.0, vec![]), (1.0, vec![("embedding-drift", "embedding")])] {
        let mut columns = good(10, 400);
        for i in 0..ELEMENTS {
            numbers(&mut columns, &format!("embedding[{i}]"), |_, x| x + shift);
        }
        let findings = findings(columns);
        assert_eq!(found(&findings), expected);
        if let Some(drift) = findings.first() {
            // A shift of 1 in each element, whose variance is 10.
            assert!((drift.value - 0.1f64.sqrt()).abs() < 0.1, "{}", drift.value);
        }
    }
}

#[test]
fn vector_with_a_missing_element_is_left_out_and_a_damaged_one_is_clipped() {
    let mut columns = good(11, 400);
    numbers(&mut columns, "embedding[3]", |i, x| if i % 2 == 0 { f64::NAN } else { x });
    numbers(&mut columns, "embedding[4]", |i, x| if i % 4 == 0 { f64::INFINITY } else { x });
    numbers(&mut columns, "embedding[5]", |i, x| if i == 1 { 1e300 } else { x });
    let summary = Summary::parse(&summary_of(&Config::default(), &reference(), columns)).unwrap();
    assert_eq!(summary.counts("embedding/vectors"), [200]);
    assert!(summary.sums("embedding/sums")[5] < (64 + 200) << 20);
}

#[test]
fn few_rows_are_insufficient_and_say_how_many_are_needed() {
    let mut columns = good(12, 19);
    numbers(&mut columns, "temperature", |_, _| 1e9);
    let findings = findings(columns);
    assert_eq!(found(&findings), [("insufficient", "")]);
    let said = &findings[0];
    assert_eq!(said.severity, Severity::Info);
    assert!(
        said.message
            .starts_with("too few values to judge the drift of temperature, mode, site, embedding")
    );
    assert!((90.0..110.0).contains(&said.threshold), "{said:?}");
    assert!(said.message.ends_with(&format!("; {} are needed", said.threshold)));
    let needed = said.threshold as usize;
    assert_eq!(found(&self::findings(good(12, needed + 2))), []);
}

#[test]
fn empty_window_and_window_of_one_row_are_insufficient() {
    for rows in [0, 1] {
        let findings = findings(good(13, rows));
        assert_eq!(found(&findings), [("insufficient", "")]);
        assert_eq!(findings[0].rows, rows as u64);
    }
}

#[test]
fn column_that_is_missing_or_of_another_type_is_insufficient_and_no_alarm() {
    let mut columns = good(14, 500);
    columns[0].values = Values::Categorical(vec![Some("hot".to_owned()); 500]);
    columns.remove(1);
    let findings = findings(columns);
    assert_eq!(found(&findings), [("insufficient", "")]);
    assert!(findings[0].message.contains(" of temperature, mode;"), "{}", findings[0].message);
    assert_eq!(findings[0].value, 0.0);
}

#[test]
fn nan_is_in_no_bin_and_infinities_are_in_the_outer_ones() {
    let columns = vec![Learnt {
        name: "temperature".to_owned(),
        values: Values::Numeric(vec![f64::NAN, f64::NEG_INFINITY, f64::INFINITY, f64::INFINITY]),
    }];
    let summary = Summary::parse(&summary_of(&Config::default(), &reference(), columns)).unwrap();
    assert_eq!(summary.rows, 4);
    assert_eq!(summary.counts("temperature/bins"), [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
}

#[test]
fn value_at_an_edge_is_in_the_bin_above_it_as_in_the_reference() {
    let Reference { columns, .. } = Reference::parse(&reference()).unwrap();
    let headland_monitor::ValuesReference::Numeric(numeric) = &columns[0].values else { panic!() };
    let bins = numeric.bins.as_ref().unwrap();
    let mut expected = vec![0; bins.counts.len()];
    let mut values = bins.edges.clone();
    values.extend(bins.edges.iter().map(|e| e.next_down()));
    values.iter().for_each(|&x| expected[bins.index(x)] += 1);
    assert_eq!(expected, [1, 2, 2, 2, 2, 2, 2, 2, 2, 1]);
    let columns = vec![Learnt { name: "temperature".to_owned(), values: Values::Numeric(values) }];
    let summary = Summary::parse(&summary_of(&Config::default(), &reference(), columns)).unwrap();
    assert_eq!(summary.counts("temperature/bins"), expected);
}

#[test]
fn clock_that_goes_back_changes_nothing() {
    let mut monitor = Drift::open(Config::default(), &reference()).unwrap();
    let mut back = batch(good(15, 100));
    back.captured_at_ns.reverse();
    monitor.observe(&back).unwrap();
    let summary = summary_of(&Config::default(), &reference(), good(15, 100));
    assert_eq!(monitor.close_window(), summary);
}

fn cut(columns: &[Learnt], rows: &[usize]) -> Vec<Learnt> {
    let values = |values: &Values| match values {
        Values::Numeric(v) => Values::Numeric(rows.iter().map(|&i| v[i]).collect()),
        Values::Categorical(v) => Values::Categorical(rows.iter().map(|&i| v[i].clone()).collect()),
    };
    columns.iter().map(|c| Learnt { name: c.name.clone(), values: values(&c.values) }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Rows of one stream, dealt to devices that close windows when they
    /// like, merged in any order: the bytes of the whole stream's window.
    #[test]
    fn merged_windows_are_the_whole_streams(
        dealt in prop::collection::vec((0usize..7, any::<bool>()), 0..200),
        order in any::<u64>(),
        grouped in any::<bool>(),
    ) {
        let config = if grouped { by_site() } else { Config::default() };
        let reference = reference_by(Some("site"));
        let rows = good(16, dealt.len());
        let whole = summary_of(&config, &reference, rows.clone());
        let mut summaries = Vec::new();
        for device in 0..7 {
            let mut monitor = Drift::open(config.clone(), &reference).unwrap();
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
            summaries.push(Drift::merge(&one, &other).unwrap());
        }
        prop_assert_eq!(&summaries[0], &whole);
    }

    /// Bytes that are no checkpoint are refused, whatever they are.
    #[test]
    fn damaged_checkpoint_is_refused_or_says_something_else(
        at in 0usize..100_000,
        bit in 0u32..8,
    ) {
        let good = summary_of(&Config::default(), &reference(), good(17, 50));
        let mut bad = good.clone();
        let at = at % bad.len();
        bad[at] ^= 1 << bit;
        if let Ok(monitor) = Drift::restore(Config::default(), &reference(), &bad) {
            prop_assert_eq!(&monitor.checkpoint(), &bad);
        }
        let _ = Drift::merge(&bad, &good);
        let _ = Drift::evaluate(Config::default(), &reference(), &bad);
    }
}

#[test]
fn empty_window_is_the_identity_of_merging() {
    let summary = summary_of(&by_site(), &reference(), good(18, 77));
    let empty = summary_of(&by_site(), &reference(), good(18, 0));
    assert_eq!(Drift::merge(&summary, &empty).unwrap(), summary);
    assert_eq!(Drift::merge(&empty, &summary).unwrap(), summary);
}

#[test]
fn restored_monitor_goes_on_where_it_stopped() {
    let mut straight = Drift::open(by_site(), &reference()).unwrap();
    straight.observe(&batch(good(20, 90))).unwrap();
    let checkpoint = straight.checkpoint();
    let mut restored = Drift::restore(by_site(), &reference(), &checkpoint).unwrap();
    for monitor in [&mut straight, &mut restored] {
        monitor.observe(&batch(good(21, 90))).unwrap();
    }
    assert_eq!(straight.close_window(), restored.close_window());
    assert_eq!(straight.close_window(), Drift::open(by_site(), &reference()).unwrap().checkpoint());
}

#[test]
fn checkpoint_of_another_reference_or_configuration_is_refused() {
    let checkpoint = summary_of(&Config::default(), &reference(), good(30, 60));
    let other = fit(&good(2, 5_000), &FitOptions::default()).unwrap().to_json();
    assert!(matches!(
        Drift::restore(Config::default(), &other, &checkpoint),
        Err(MonitorError::BadCheckpoint(m)) if m.starts_with("a summary of reference ")
    ));
    assert!(matches!(
        Drift::restore(by_site(), &reference(), &checkpoint),
        Err(MonitorError::BadCheckpoint(m)) if m == "it has fields of another configuration"
    ));
    let theirs = summary_of(&Config::default(), &other, good(30, 60));
    assert!(matches!(Drift::merge(&checkpoint, &theirs), Err(MonitorError::Incompatible(_))));
    assert!(matches!(
        Drift::evaluate(Config::default(), &other, &checkpoint),
        Err(MonitorError::Incompatible(_))
    ));
}

#[test]
fn summary_of_another_monitor_is_refused() {
    let other = Summary::empty("monitor-quality", Digest::of(&reference())).to_bytes();
    assert!(matches!(Drift::merge(&other, &other), Err(MonitorError::Incompatible(_))));
    assert!(Drift::restore(Config::default(), &reference(), &other).is_err());
    assert!(Drift::evaluate(Config::default(), &reference(), &other).is_err());
}

/// A damaged summary, as this monitor's.
fn edited(edit: impl Fn(&mut Summary)) -> Vec<u8> {
    let bytes = summary_of(&Config::default(), &reference(), good(31, 60));
    let mut summary = Summary::parse(&bytes).unwrap();
    edit(&mut summary);
    summary.to_bytes()
}

#[test]
fn summary_with_bins_of_another_form_is_refused() {
    let bins = |field: Field| {
        edited(|s| {
            s.fields.insert("temperature/bins".to_owned(), field.clone());
        })
    };
    for bad in [
        bins(Field::Counts(vec![1; 9])),
        bins(Field::Counts(vec![u64::MAX; 10])),
        bins(Field::Counts(vec![1 << 53; 10])),
        bins(Field::Sums(vec![1; 10])),
        edited(|s| {
            s.fields.insert("pressure/bins".to_owned(), Field::Counts(vec![1]));
        }),
    ] {
        let config = Config::default;
        assert!(matches!(
            Drift::restore(config(), &reference(), &bad),
            Err(MonitorError::BadCheckpoint(_))
        ));
        assert!(matches!(
            Drift::evaluate(config(), &reference(), &bad),
            Err(MonitorError::Incompatible(_))
        ));
    }
    let good = summary_of(&Config::default(), &reference(), good(31, 60));
    let short = bins(Field::Counts(vec![1; 9]));
    assert!(matches!(Drift::merge(&good, &short), Err(MonitorError::Incompatible(_))));
}

#[test]
fn summary_that_lacks_a_field_can_be_judged_and_not_gone_on_from() {
    let lacks = edited(|s| {
        s.fields.remove("mode/bins");
    });
    let findings = Drift::evaluate(Config::default(), &reference(), &lacks).unwrap();
    assert!(findings.iter().any(|f| f.message.contains("mode")), "{findings:?}");
    assert!(Drift::restore(Config::default(), &reference(), &lacks).is_err());
}

#[test]
fn counter_at_its_end_refuses_the_batch_and_the_merge() {
    let full = edited(|s| s.rows = 1 << 53);
    let mut monitor = Drift::restore(Config::default(), &reference(), &full).unwrap();
    assert!(matches!(
        monitor.observe(&batch(good(32, 1))),
        Err(MonitorError::BadBatch(m)) if m.contains("overflows")
    ));
    assert_eq!(monitor.checkpoint(), full);
    assert!(matches!(Drift::merge(&full, &full), Err(MonitorError::Incompatible(_))));
}

#[test]
fn noise_of_a_privacy_filter_is_no_drift_and_drift_is_found_through_it() {
    let noised = |columns: Vec<Learnt>, seed: u64, variance: u64| {
        let bytes = summary_of(&Config::default(), &reference(), columns);
        let mut summary = Summary::parse(&bytes).unwrap();
        let mut random = Random(seed);
        for field in summary.fields.values_mut() {
            if let Field::Counts(counts) = field {
                let noise = || (6.0 * random.normal()).round() as i64;
                let values = counts.iter().zip(std::iter::repeat_with(noise));
                let values = values.map(|(&c, noise)| c as i64 + noise).collect();
                *field = Field::NoisedCounts(Noised { variance: variance << 20, values });
            }
        }
        Drift::evaluate(Config::default(), &reference(), &summary.to_bytes()).unwrap()
    };
    let alarms = |variance| {
        let findings = (0..50).map(|seed| noised(good(100 + seed, 300), seed, variance));
        findings.filter(|f| f.iter().any(|f| f.severity != Severity::Info)).count()
    };
    assert!(alarms(37) <= 2, "{} of 50 windows raised an alarm", alarms(37));
    // The noise is there: who does not know of it takes it for drift.
    assert!(alarms(0) > 10, "{} of 50 windows raised an alarm", alarms(0));
    let mut moved = good(33, 400);
    numbers(&mut moved, "temperature", |_, x| x + 1.5);
    assert_eq!(found(&noised(moved, 1, 37)), [("drift", "temperature")]);
}

#[test]
fn ragged_batch_is_refused_and_not_counted() {
    let mut monitor = Drift::open(Config::default(), &reference()).unwrap();
    let before = monitor.checkpoint();
    let mut ragged = batch(good(34, 60));
    ragged.columns[1].values = ColumnValues::Categorical(vec![None; 59]);
    let mut twice = batch(good(34, 60));
    twice.columns.push(twice.columns[0].clone());
    let mut untimed = batch(good(34, 60));
    untimed.captured_at_ns.pop();
    for bad in [ragged, twice, untimed] {
        assert!(matches!(monitor.observe(&bad), Err(MonitorError::BadBatch(_))));
    }
    assert_eq!(monitor.checkpoint(), before);
}

#[test]
fn configuration_that_makes_no_sense_is_refused_with_the_reason() {
    let config = Config::default;
    let thresholds = |psi| Thresholds { psi, ..Thresholds::default() };
    let many = (0..65).map(|i| format!("site {i}")).collect();
    for (bad, why) in [
        (Config { alpha: 0.0, ..config() }, "alpha"),
        (Config { alpha: f64::NAN, ..config() }, "alpha"),
        (Config { alarm_factor: 0.5, ..config() }, "alarm-factor"),
        (Config { thresholds: thresholds(-1.0), ..config() }, "threshold"),
        (Config { thresholds: thresholds(f64::INFINITY), ..config() }, "threshold"),
        (Config { statistics: vec![], ..config() }, "no statistic"),
        (Config { groups: vec!["a".into()], ..config() }, "groups need `by`"),
        (Config { by: Some("where".into()), ..config() }, "neither"),
        (Config { by: Some("temperature".into()), ..config() }, "holds numbers"),
        (Config { groups: many, ..by_site() }, "65 groups are more than 64"),
        (Config { columns: vec!["pressure".into()], ..config() }, "no column `pressure`"),
    ] {
        match Drift::open(bad, &reference()) {
            Err(MonitorError::BadConfig(m)) => assert!(m.contains(why), "{m}"),
            other => panic!("{why}: {:?}", other.err()),
        }
    }
}

#[test]
fn damaged_reference_is_refused() {
    let good = String::from_utf8(reference()).unwrap();
    for bad in [
        "",
        "{",
        &good[..good.len() / 2],
        &good.replace("\"version\": 2", "\"version\": 1"),
        &good.replace("\"temperature\"", "\"mode\""),
    ] {
        assert_ne!(bad, good);
        assert!(matches!(
            Drift::open(Config::default(), bad.as_bytes()),
            Err(MonitorError::BadReference(_))
        ));
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
    let summary = summary_of(&Config::default(), &reference, columns(10_000));
    assert!(summary.len() < 2_000, "{} bytes", summary.len());
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
    let mut monitor = Drift::open(Config::default(), &reference).unwrap();
    let started = std::time::Instant::now();
    for _ in 0..25 {
        batches.iter().for_each(|batch| assert!(monitor.observe(batch).unwrap().is_empty()));
    }
    let each = started.elapsed().as_nanos() / (25 * 4_096);
    println!("{each} ns a row of 30 features, in batches of 32");
}
