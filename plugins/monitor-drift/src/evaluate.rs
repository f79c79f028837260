//! From counts to findings.

use headland_monitor::{
    Field, Summary, from_fixed_point, number, sorted_indices,
    stats::{chi2_upper_quantile, chi2_upper_tail},
};
use headland_sdk::monitor::{Finding, Severity};

use crate::{
    config::Config,
    plan::{Embedding, Feature, Kind, Plan},
    pool::{self, MIN_EXPECTED, Pooled},
    statistic::{Noise, Statistic},
};

/// Names that the message about too few rows has room for.
const MAX_NAMES: usize = 5;

/// What a window means.
///
/// Something is found only when its statistic is above what matters in
/// practice and above noise. Noise is what good rows exceed with probability
/// `alpha` in one window, over all that is tested in it, by Holm's procedure
/// (Scandinavian Journal of Statistics 6, 1979).
///
/// `summary` may have been noised by a privacy filter: what that adds to the
/// noise is taken into account.
pub fn evaluate(config: &Config, plan: &Plan, summary: &Summary) -> Vec<Finding> {
    let exact = summary.settled();
    let mut tests = Vec::new();
    let mut undecided = Undecided::default();
    for (i, (field, bins)) in plan.fields.iter().enumerate() {
        let feature = &plan.features[i % plan.features.len()];
        let part = i / plan.features.len();
        let mut seen = exact.counts(field).to_vec();
        // Absent, it is as good as nought.
        seen.resize(*bins, 0);
        let group = part.checked_sub(1).and_then(|group| plan.groups.get(group));
        let expected = feature.expected_of(group);
        let variance = variance(summary, field);
        let pooled = match &feature.kind {
            Kind::Numeric { means, std, .. } => {
                pool::neighbours(expected, &seen, means, *std, variance)
            }
            Kind::Categorical { .. } => pool::rare(expected, &seen, variance),
        };
        match pooled {
            Ok(pooled) => {
                let group = (part > 0).then(|| group.map_or("*", String::as_str));
                tests.push(Test::of_feature(config, feature, group, pooled, variance));
            }
            Err(needed) if part == 0 => {
                undecided.push(&feature.name, seen.iter().sum(), needed);
            }
            Err(_) => undecided.in_groups += 1,
        }
    }
    for embedding in &plan.embeddings {
        let n = exact.counts(&embedding.vectors).first().copied().unwrap_or(0);
        if n < MIN_EXPECTED as u64 {
            undecided.push(&embedding.reference.name, n, Some(MIN_EXPECTED as u64));
        } else {
            let sums = exact.sums(&embedding.sums);
            tests.push(Test::of_embedding(embedding, n, sums, variance(summary, &embedding.sums)));
        }
    }
    let mut findings = found(config, &tests);
    if let Some(finding) = undecided.finding(exact.rows) {
        findings.push(finding);
    }
    findings
}

/// The variance of the noise that a privacy filter added to each number of a
/// field, in squares of the number's unit.
fn variance(summary: &Summary, field: &str) -> f64 {
    match summary.fields.get(field) {
        Some(Field::NoisedCounts(noised) | Field::NoisedSums(noised)) => {
            from_fixed_point(i64::try_from(noised.variance).unwrap_or(i64::MAX))
        }
        _ => 0.0,
    }
}

/// What is put to the test.
struct Test<'a> {
    what: What<'a>,
    /// Values in the window.
    n: u64,
    /// The probability of what was seen in a window of good rows.
    p_value: f64,
}

enum What<'a> {
    Feature {
        feature: &'a Feature,
        /// The group of rows that it is of, `*` for all others, nothing for
        /// all rows.
        group: Option<&'a str>,
        pooled: Pooled,
        /// `1/n + 1/m`.
        sampling: f64,
        noise: Noise,
    },
    Embedding {
        embedding: &'a Embedding,
        distance: f64,
        /// What the mean's variance is over that of a vector.
        scale: f64,
    },
}

/// Findings of all tests, judged together.
fn found(config: &Config, tests: &[Test]) -> Vec<Finding> {
    // Holm: the smallest probability is held against alpha / count, the next
    // one against alpha / (count - 1), until one is not rare enough.
    let order = sorted_indices(tests.len(), &|a, b| tests[a].p_value.total_cmp(&tests[b].p_value));
    let mut alphas = vec![0.0; tests.len()];
    let mut rejecting = true;
    let mut alpha = config.alpha;
    for (rank, i) in order.into_iter().enumerate() {
        if rejecting {
            alpha = config.alpha / (tests.len() - rank) as f64;
            rejecting = tests[i].p_value <= alpha;
        }
        alphas[i] = alpha;
    }
    let mut findings = Vec::new();
    for (test, &alpha) in tests.iter().zip(&alphas) {
        let judged = Judged { config, test, alpha, tests: tests.len() };
        match &test.what {
            What::Embedding { embedding, distance, scale } => {
                let threshold = embedding_floor(embedding, alpha, *scale);
                let practical = config.thresholds.mean_embedding;
                judged.report(None, *distance, practical, threshold, &mut findings);
            }
            What::Feature { feature, pooled, sampling, noise, .. } => {
                let mut done = Vec::new();
                for statistic in &config.statistics {
                    let statistic = statistic.of(feature.has_order());
                    if !done.contains(&statistic) {
                        done.push(statistic);
                        let value = statistic.value(pooled);
                        let practical = statistic.practical(&config.thresholds, *sampling);
                        let floor = statistic.floor(alpha, *sampling, *noise);
                        let reported = Some((statistic, done.len() == 1));
                        judged.report(reported, value, practical, floor, &mut findings);
                    }
                }
            }
        }
    }
    findings
}

impl<'a> Test<'a> {
    fn of_feature(
        config: &Config,
        feature: &'a Feature,
        group: Option<&'a str>,
        pooled: Pooled,
        variance: f64,
    ) -> Self {
        let n: u64 = pooled.seen.iter().sum();
        let m: u64 = pooled.expected.iter().sum();
        let (rows, m) = (n as f64, m as f64);
        let sampling = 1.0 / rows + 1.0 / m;
        // A bin of share q strays by the variance of its members' noise over
        // q n^2; the worst bin stands for all.
        let (mut added, mut rarest) = (0.0f64, m);
        for (i, &expected) in pooled.expected.iter().enumerate() {
            let expected = expected as f64;
            let members = pooled.part_of.iter().filter(|&&part| part == i).count() as f64;
            added = added.max(variance * members * m / (expected * rows * rows));
            rarest = rarest.min(expected);
        }
        // A logarithm of few rows strays further than a chi-squared variable:
        // `examples/false-alarms.rs` measures 1.5 % in place of 1 % for bins
        // of 20, of which this takes the half away.
        let few = 1.0 + m / (rarest * rows);
        let noise =
            Noise { scale: (sampling + added) * few, degrees: pooled.expected.len() as f64 - 1.0 };
        let statistic = gate(config).of(feature.has_order());
        let p_value = statistic.p_value(statistic.value(&pooled), sampling, noise);
        Self { what: What::Feature { feature, group, pooled, sampling, noise }, n, p_value }
    }

    /// The squared distance of the means of `n` and `m` vectors of one
    /// distribution is `1/n + 1/m` times a sum of chi-squared variables,
    /// weighted with the eigenvalues of the covariance matrix. Its tail is
    /// that of one chi-squared variable with the same first three cumulants,
    /// which the matrix's traces give.
    ///
    /// # Source
    /// Buckley and Eagleson, Australian Journal of Statistics 30A (1988).
    fn of_embedding(embedding: &'a Embedding, n: u64, sums: &[i64], variance: f64) -> Self {
        let rows = n as f64;
        let mut square = 0.0;
        for &sum in sums {
            square += (from_fixed_point(sum) / rows).powi(2);
        }
        let distance = (square / embedding.columns.len() as f64).sqrt();
        let scale = 1.0 / rows + 1.0 / embedding.reference.rows as f64 + variance / (rows * rows);
        let [one, two, three] = embedding.reference.traces;
        let degrees = two.powi(3) / three.powi(2);
        let excess = distance.powi(2) * one / scale - one;
        let p_value = chi2_upper_tail(degrees + excess * (degrees / two).sqrt(), degrees);
        Self { what: What::Embedding { embedding, distance, scale }, n, p_value }
    }
}

/// The distance that an embedding's mean does not exceed by chance but with
/// probability `alpha`: the inverse of what [`Test::of_embedding`] says.
fn embedding_floor(embedding: &Embedding, alpha: f64, scale: f64) -> f64 {
    let [one, two, three] = embedding.reference.traces;
    let degrees = two.powi(3) / three.powi(2);
    let excess = (chi2_upper_quantile(alpha, degrees) - degrees) * (two / degrees).sqrt();
    ((one + excess) * scale / one).sqrt()
}

/// A test with the probability that it was held against.
struct Judged<'a> {
    config: &'a Config,
    test: &'a Test<'a>,
    alpha: f64,
    /// How many tests there were.
    tests: usize,
}

impl Judged<'_> {
    /// The finding of one statistic: of the one that alarms if it is above
    /// both thresholds, of another one in any case. `reported` is nothing for
    /// an embedding.
    fn report(
        &self,
        reported: Option<(Statistic, bool)>,
        value: f64,
        practical: f64,
        floor: f64,
        findings: &mut Vec<Finding>,
    ) {
        let threshold = practical.max(floor);
        let alarms = reported.is_none_or(|(_, alarms)| alarms);
        if alarms && value.partial_cmp(&threshold) != Some(std::cmp::Ordering::Greater) {
            return;
        }
        let mut message = String::new();
        let mut tail =
            format!("alpha={},correction=holm,tests={}", number(self.alpha, 3), self.tests);
        let (check, feature, statistic, title) = match (&self.test.what, reported) {
            (What::Feature { feature, group, pooled, .. }, Some((statistic, alarms))) => {
                if let Some(group) = group {
                    let by = self.config.by.as_deref().unwrap_or_default();
                    message = [by, "=", group, ": "].concat();
                    tail.push_str(&[",", by, "=", group].concat());
                }
                let check = match (alarms, group) {
                    (false, _) => "distance",
                    (true, None) => "drift",
                    (true, Some(_)) => "group-drift",
                };
                let bins = pooled.expected.len().to_string();
                let name = [statistic.key(), "(bins=", &bins, statistic.parameters(), ","].concat();
                (check, &feature.name, name, statistic.title())
            }
            (What::Embedding { embedding, .. }, _) => (
                "embedding-drift",
                &embedding.reference.name,
                "mean-embedding(norm=2,unit=reference-std,".to_owned(),
                "distance of the mean vector",
            ),
            (What::Feature { .. }, None) => return,
        };
        message.push_str(title);
        message.push_str(" is ");
        message.push_str(&number(value, 3));
        let mut severity = Severity::Info;
        if alarms {
            message.push_str(", over ");
            message.push_str(&number(threshold, 3));
            if let What::Feature { feature, pooled, .. } = &self.test.what {
                describe(&mut message, feature, pooled);
            }
            severity = Severity::Warning;
            if value > practical * self.config.alarm_factor {
                severity = Severity::Alarm;
            }
        }
        findings.push(Finding {
            check: check.to_owned(),
            feature: Some(feature.clone()),
            severity,
            statistic: [&statistic, tail.as_str(), ")"].concat(),
            value,
            threshold,
            rows: self.test.n,
            message,
        });
    }
}

/// The statistic that alarms.
fn gate(config: &Config) -> Statistic {
    config.statistics.first().copied().unwrap_or(Statistic::Psi)
}

/// Say which two bins moved most.
fn describe(message: &mut String, feature: &Feature, pooled: &Pooled) {
    let m: u64 = pooled.expected.iter().sum();
    let n: u64 = pooled.seen.iter().sum();
    let share = |i: usize| (pooled.expected[i] as f64 / m as f64, pooled.seen[i] as f64 / n as f64);
    let moved = |i: usize| {
        let (before, now) = share(i);
        (before - now).abs()
    };
    let order = sorted_indices(pooled.seen.len(), &|a, b| moved(b).total_cmp(&moved(a)));
    let mut separator = "; most moved ";
    for &bin in order.iter().take(2) {
        let (before, now) = share(bin);
        message.push_str(separator);
        name_bin(message, feature, pooled, bin);
        message.push_str(" (");
        message.push_str(&number(before * 100.0, 3));
        message.push_str(" % to ");
        message.push_str(&number(now * 100.0, 3));
        message.push_str(" %)");
        separator = " and ";
    }
}

/// Name a pooled bin.
fn name_bin(message: &mut String, feature: &Feature, pooled: &Pooled, bin: usize) {
    // Its first and last member, the most frequent one, and how many there are.
    let (mut first, mut last, mut greatest, mut members) = (None, 0, 0, 0);
    for (i, &part) in pooled.part_of.iter().enumerate() {
        if part == bin {
            if first.is_none() || feature.expected[i] > feature.expected[greatest] {
                greatest = i;
            }
            first = first.or(Some(i));
            last = i;
            members += 1;
        }
    }
    match &feature.kind {
        Kind::Numeric { edges, .. } => {
            let edge = |i: usize| edges.get(i).map(|&edge| number(edge, 4));
            let (from, to) = (first.and_then(|i| i.checked_sub(1)).and_then(edge), edge(last));
            message.push_str(from.as_deref().unwrap_or("below"));
            message.push_str(if from.is_some() && to.is_some() { " to " } else { " " });
            message.push_str(to.as_deref().unwrap_or("and above"));
        }
        Kind::Categorical { names, .. } => {
            message.push_str(names.get(greatest).map_or("unseen ones", String::as_str));
            if members > 1 {
                message.push_str(" with ");
                message.push_str(&(members - 1).to_string());
                message.push_str(" more");
            }
        }
    }
}

/// What could not be judged.
#[derive(Default)]
struct Undecided<'a> {
    names: Vec<&'a str>,
    /// The fewest values that one of them has.
    fewest: u64,
    /// The most values that one of them needs.
    needed: u64,
    in_groups: usize,
}

impl<'a> Undecided<'a> {
    /// Nothing is said of a feature that no number of rows could decide.
    fn push(&mut self, name: &'a str, has: u64, needed: Option<u64>) {
        let Some(needed) = needed else { return };
        self.fewest = if self.names.is_empty() { has } else { self.fewest.min(has) };
        self.needed = self.needed.max(needed);
        self.names.push(name);
    }

    fn finding(self, rows: u64) -> Option<Finding> {
        if self.names.is_empty() {
            return None;
        }
        let mut message = "too few values to judge the drift of ".to_owned();
        for (i, name) in self.names.iter().take(MAX_NAMES).enumerate() {
            message.push_str(if i == 0 { "" } else { ", " });
            message.push_str(name);
        }
        if let Some(more @ 1..) = self.names.len().checked_sub(MAX_NAMES) {
            message.push_str(&[" and ", &more.to_string(), " more"].concat());
        }
        message.push_str(&["; ", &self.needed.to_string(), " are needed"].concat());
        if self.in_groups > 0 {
            let count = self.in_groups.to_string();
            message.push_str(&[" (nor that of ", &count, " features in groups)"].concat());
        }
        Some(Finding {
            check: "insufficient".to_owned(),
            feature: None,
            severity: Severity::Info,
            statistic: "rows".to_owned(),
            value: self.fewest as f64,
            threshold: self.needed as f64,
            rows,
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use headland_monitor::EmbeddingReference;

    use super::*;

    fn embedding(traces: [f64; 3]) -> Embedding {
        let (name, prefix) = ("e".to_owned(), "e[".to_owned());
        Embedding::new(EmbeddingReference {
            name,
            prefix,
            rows: 1 << 40,
            mean: vec![0.0; 10],
            traces,
        })
    }

    /// With equal eigenvalues the squared distance is a chi-squared variable,
    /// and the approximation exact.
    #[test]
    fn embedding_of_equal_variances_has_the_chi_squared_floor() {
        let ten = embedding([10.0, 10.0, 10.0]);
        let floor = embedding_floor(&ten, 0.01, 1.0 / 50.0);
        let exact = (chi2_upper_quantile(0.01, 10.0) / 10.0 / 50.0).sqrt();
        assert!((floor / exact - 1.0).abs() < 1e-12);
    }

    #[test]
    fn floor_is_where_the_probability_is_alpha() {
        let uneven = embedding([20.0, 109.0, 1009.0]);
        for alpha in [0.05, 1e-3, 1e-5] {
            let floor = embedding_floor(&uneven, alpha, 1.0 / 200.0);
            // In the unit of the sums, which is the mean square of one element.
            let sum = headland_monitor::fixed_point(floor * 200.0).unwrap_or(0);
            let p = Test::of_embedding(&uneven, 200, &[sum; 10], 0.0).p_value;
            assert!((p / alpha - 1.0).abs() < 1e-3, "{p} is not {alpha}");
        }
    }

    #[test]
    fn every_statistic_has_its_floor_where_its_probability_is_alpha() {
        let noise = Noise { scale: 0.01, degrees: 9.0 };
        for statistic in Statistic::ALL {
            let floor = statistic.floor(1e-3, 0.008, noise);
            let p = statistic.p_value(floor, 0.008, noise);
            assert!((p / 1e-3 - 1.0).abs() < 1e-9, "{} has {p}", statistic.key());
        }
    }
}
