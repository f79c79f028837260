//! From counts to findings.

use headland_monitor::{
    Field, Level, Reference, Summary, ValuesReference, from_fixed_point, number,
    stats::{binomial_critical_count, normal_upper_quantile},
};
use headland_sdk::monitor::{Finding, Severity};

use crate::{
    Config,
    window::{Feature, level},
};

/// What a window means.
///
/// # Source
/// Every check alarms only on what is both practical (beyond the
/// configuration's margin) and above noise (beyond what good rows give by
/// chance in one window of `1 / alpha`, over all checks together by
/// Bonferroni's inequality): rates by the exact binomial upper tail, equal
/// values by the reference's most frequent one.
///
/// `summary` may have been noised by a privacy filter: a rate must then also
/// be above what that noise gives, which is taken as normal.
pub fn evaluate(
    config: &Config,
    reference: &Reference,
    features: &[Feature],
    summary: &Summary,
) -> Vec<Finding> {
    let exact = summary.settled();
    if exact.rows < config.min_rows {
        return vec![Finding {
            check: "insufficient".to_owned(),
            feature: None,
            severity: Severity::Info,
            statistic: "rows".to_owned(),
            value: exact.rows as f64,
            threshold: config.min_rows as f64,
            rows: exact.rows,
            message: format!(
                "{} rows are too few to judge; {} are needed",
                exact.rows, config.min_rows
            ),
        }];
    }
    let tests = 1
        + usize::from(reference.max_repeat_rate.is_some())
        + reference.columns.iter().map(|c| tests_of(&c.values)).sum::<usize>();
    let checks = Checks { config, summary, exact: &exact, alpha: config.alpha / tests as f64 };
    let rows = exact.rows;
    let mut findings = Vec::new();
    findings.extend(checks.rate(
        "incomplete-rows",
        None,
        ("incomplete", rows),
        reference.max_incomplete_rate,
        || "of rows lack a value".to_owned(),
    ));
    if let Some(good) = reference.max_repeat_rate {
        findings.extend(checks.rate("repeated-rows", None, ("repeats", rows), good, || {
            "of rows equal the row before them".to_owned()
        }));
    }
    for (column, feature) in reference.columns.iter().zip(features) {
        let missing = feature.field("missing");
        let wrong_type = checks.count(&feature.field("wrong-type"));
        let gone = checks.count(&missing).saturating_add(wrong_type);
        let present = rows.saturating_sub(gone);
        let name = Some(feature.name.as_str());
        findings.extend(checks.types(feature, wrong_type));
        findings.extend(checks.rate(
            "missing-rate",
            name,
            (&missing, rows),
            column.max_missing_rate,
            || "of values are missing".to_owned(),
        ));
        let beyond = feature.field(feature.beyond());
        match &column.values {
            ValuesReference::Numeric(good) => {
                findings.extend(checks.rate(
                    "out-of-range",
                    name,
                    (&beyond, present),
                    good.max_out_of_range_rate,
                    || {
                        format!(
                            "of values are outside {} to {}",
                            number(good.min, 4),
                            number(good.max, 4)
                        )
                    },
                ));
                findings.extend(checks.constant(feature, present, good.max_mode_rate));
            }
            ValuesReference::Categorical(good) => findings.extend(checks.rate(
                "unseen-category",
                name,
                (&beyond, present),
                good.max_unseen_rate,
                || "of values are of unknown categories".to_owned(),
            )),
        }
    }
    findings
}

/// How many tests a column is put to at most.
fn tests_of(values: &ValuesReference) -> usize {
    match values {
        ValuesReference::Numeric(_) => 3,
        ValuesReference::Categorical(_) => 2,
    }
}

struct Checks<'a> {
    config: &'a Config,
    /// As it came.
    summary: &'a Summary,
    /// Without what a privacy filter made of it.
    exact: &'a Summary,
    /// The false-alarm probability of one test.
    alpha: f64,
}

impl Checks<'_> {
    fn count(&self, field: &str) -> u64 {
        self.exact.counts(field).first().copied().unwrap_or(0)
    }

    /// What noise on a count does not exceed but with probability `alpha`.
    fn noise(&self, field: &str) -> f64 {
        let Some(Field::NoisedCounts(noised)) = self.summary.fields.get(field) else { return 0.0 };
        let variance = from_fixed_point(i64::try_from(noised.variance).unwrap_or(i64::MAX));
        normal_upper_quantile(self.alpha) * variance.sqrt()
    }

    fn rate(
        &self,
        check: &str,
        feature: Option<&str>,
        (field, of): (&str, u64),
        good: f64,
        message: impl FnOnce() -> String,
    ) -> Option<Finding> {
        if of == 0 {
            return None;
        }
        let count = self.count(field);
        let value = count as f64 / of as f64;
        // Cheaper than a quantile, and nearly always the end of it.
        if value <= good + self.config.min_excess_rate {
            return None;
        }
        let critical = (binomial_critical_count(of, good, self.alpha) - 1) as f64;
        let noise = (critical + self.noise(field)) / of as f64;
        let threshold = noise.max(good + self.config.min_excess_rate);
        (value > threshold).then(|| Finding {
            check: check.to_owned(),
            feature: feature.map(str::to_owned),
            severity: Severity::Alarm,
            statistic: format!(
                "rate(test=binomial-upper-tail,p={},alpha={},correction=bonferroni)",
                number(good, 4),
                number(self.alpha, 3)
            ),
            value,
            threshold,
            rows: of,
            message: format!("{} % {}", number(value * 100.0, 3), message()),
        })
    }

    fn types(&self, feature: &Feature, wrong_type: u64) -> Option<Finding> {
        // A noised count of nought is none.
        let threshold = self.noise(&feature.field("wrong-type"));
        (wrong_type as f64 > threshold).then(|| Finding {
            check: "wrong-type".to_owned(),
            feature: Some(feature.name.clone()),
            severity: Severity::Alarm,
            statistic: "rate".to_owned(),
            value: wrong_type as f64 / self.exact.rows as f64,
            threshold: threshold / self.exact.rows as f64,
            rows: self.exact.rows,
            message: format!("{wrong_type} rows hold another type"),
        })
    }

    /// `n` independent rows all hold one value with a probability of at most
    /// `mode_rate^(n - 1)`.
    fn constant(&self, feature: &Feature, present: u64, mode_rate: f64) -> Option<Finding> {
        let Some(Level::One(bits)) = level(self.exact, feature) else { return None };
        let threshold = 1.0 + (self.alpha.ln() / mode_rate.ln()).floor();
        (mode_rate < 1.0 && present as f64 > threshold).then(|| Finding {
            check: "constant".to_owned(),
            feature: Some(feature.name.clone()),
            severity: Severity::Alarm,
            statistic: format!(
                "equal-values(mode-rate={},alpha={},correction=bonferroni)",
                number(mode_rate, 4),
                number(self.alpha, 3)
            ),
            value: present as f64,
            threshold,
            rows: present,
            message: format!("all {present} values are {}", number(f64::from_bits(bits), 4)),
        })
    }
}
