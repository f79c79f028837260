//! From counts to findings.

use headland_sdk::monitor::{Finding, Severity};

use crate::{
    Config,
    reference::{ColumnReference, MIN_BIN_SHARE, Reference, ValuesReference},
    stats::{binomial_critical_count, chi2_upper_quantile},
    window::{ColumnCounts, Level, ValueCounts, Window},
};

/// Rows that the rarest bin must be expected to hold before drift is tested:
/// below, PSI is mostly noise.
const MIN_EXPECTED: f64 = 20.0;

/// What an empty bin's share is taken as in PSI.
const PSI_FLOOR: f64 = 1e-4;

/// The PSI from which on drift is an alarm and no mere warning: the customary
/// limit of credit scoring, where the statistic comes from.
const PSI_ALARM: f64 = 0.25;

/// What a window means.
///
/// # Source
/// Every check alarms only on what is both practical (beyond the
/// configuration's margin) and above noise (beyond what good rows give by
/// chance in one window of `1 / alpha`, over all checks together by
/// Bonferroni's inequality):
/// rates by the exact binomial upper tail, equal rows by the reference's most
/// frequent value, drift by the PSI with its noise floor
/// `chi2(1 - alpha, bins - 1) * (1/n + 1/m)`, after Yurdakul and Naranjo,
/// Journal of Risk Model Validation 14 (2020).
pub fn evaluate(config: &Config, reference: &Reference, window: &Window) -> Vec<Finding> {
    if window.rows < config.min_rows {
        return vec![insufficient(
            window.rows,
            config.min_rows,
            format!("{} rows are too few to judge; {} are needed", window.rows, config.min_rows),
        )];
    }
    let tests = 1 + reference.columns.iter().map(tests_of).sum::<usize>();
    let checks = Checks { config, alpha: config.alpha / tests as f64, rows: window.rows };
    let mut findings = Vec::new();
    let mut undecided = Vec::new();
    findings.extend(checks.rate(
        "incomplete-rows",
        None,
        (window.incomplete, window.rows),
        reference.max_incomplete_rate,
        "of rows lack a value",
    ));
    for (column, counts) in reference.columns.iter().zip(&window.columns) {
        findings.extend(checks.types(column, counts));
        findings.extend(checks.rate(
            "missing-rate",
            Some(&column.name),
            (counts.missing, window.rows),
            column.max_missing_rate,
            "of values are missing",
        ));
        match (&column.values, &counts.values) {
            (
                ValuesReference::Numeric { max_out_of_range_rate, max_mode_rate, min, max, bins },
                ValueCounts::Numeric { present, out_of_range, bins: seen, level },
            ) => {
                findings.extend(checks.rate(
                    "out-of-range",
                    Some(&column.name),
                    (*out_of_range, *present),
                    *max_out_of_range_rate,
                    &format!("of values are outside {min}..={max}"),
                ));
                findings.extend(checks.constant(column, *level, *present, *max_mode_rate));
                if let Some(bins) = bins {
                    match checks.drift(column, &bins.counts, seen) {
                        Ok(finding) => findings.extend(finding),
                        Err(needed) => undecided.push((&column.name, needed)),
                    }
                }
            }
            (
                ValuesReference::Categorical { counts: expected, max_unseen_rate, .. },
                ValueCounts::Categorical { counts: seen, unseen },
            ) => {
                let present = counts.values.present().unwrap_or(0);
                findings.extend(checks.rate(
                    "unseen-category",
                    Some(&column.name),
                    (*unseen, present),
                    *max_unseen_rate,
                    "of values are of unknown categories",
                ));
                let (expected, seen) = pool(expected, seen, *unseen);
                if expected.len() > 1 {
                    match checks.drift(column, &expected, &seen) {
                        Ok(finding) => findings.extend(finding),
                        Err(needed) => undecided.push((&column.name, needed)),
                    }
                }
            }
            _ => {}
        }
    }
    if let Some(needed) = undecided.iter().map(|(_, needed)| *needed).max() {
        let names: Vec<&str> = undecided.iter().map(|(name, _)| name.as_str()).collect();
        findings.push(insufficient(
            window.rows,
            needed,
            format!("too few rows to judge the drift of {}; {needed} are needed", names.join(", ")),
        ));
    }
    findings
}

/// How many tests a column is put to at most.
fn tests_of(column: &ColumnReference) -> usize {
    match column.values {
        ValuesReference::Numeric { .. } => 4,
        ValuesReference::Categorical { .. } => 3,
    }
}

fn insufficient(rows: u64, needed: u64, message: String) -> Finding {
    Finding {
        check: "insufficient".to_owned(),
        feature: None,
        severity: Severity::Info,
        statistic: "rows".to_owned(),
        value: rows as f64,
        threshold: needed as f64,
        rows,
        message,
    }
}

/// Counts of categories with the rare ones, and those that the reference does
/// not know, as one; without that one where the reference has nothing in it.
fn pool(expected: &[u64], seen: &[u64], unseen: u64) -> (Vec<u64>, Vec<u64>) {
    let total: u64 = expected.iter().sum();
    let (mut rest, mut rest_seen) = (0, unseen);
    let (mut pooled, mut pooled_seen) = (Vec::new(), Vec::new());
    for (&e, &s) in expected.iter().zip(seen) {
        if e as f64 >= MIN_BIN_SHARE * total as f64 {
            pooled.push(e);
            pooled_seen.push(s);
        } else {
            rest += e;
            rest_seen += s;
        }
    }
    if rest as f64 >= MIN_BIN_SHARE * total as f64 {
        pooled.push(rest);
        pooled_seen.push(rest_seen);
    }
    (pooled, pooled_seen)
}

/// The population stability index of two histograms over the same bins:
/// `sum((p - q) * ln(p / q))`, in nats, no share taken below `PSI_FLOOR`.
pub fn psi(expected: &[u64], seen: &[u64]) -> f64 {
    let (m, n) = (expected.iter().sum::<u64>() as f64, seen.iter().sum::<u64>() as f64);
    let share = |count: u64, total: f64| (count as f64 / total).max(PSI_FLOOR);
    expected
        .iter()
        .zip(seen)
        .map(|(&e, &s)| (share(s, n), share(e, m)))
        .map(|(p, q)| (p - q) * (p / q).ln())
        .sum()
}

struct Checks<'a> {
    config: &'a Config,
    /// The false-alarm probability of one test.
    alpha: f64,
    rows: u64,
}

impl Checks<'_> {
    fn rate(
        &self,
        check: &str,
        feature: Option<&str>,
        (count, of): (u64, u64),
        good: f64,
        message: &str,
    ) -> Option<Finding> {
        if of == 0 {
            return None;
        }
        let noise = (binomial_critical_count(of, good, self.alpha) - 1) as f64 / of as f64;
        let threshold = noise.max(good + self.config.min_excess_rate);
        let value = count as f64 / of as f64;
        (value > threshold).then(|| Finding {
            check: check.to_owned(),
            feature: feature.map(str::to_owned),
            severity: Severity::Alarm,
            statistic: format!(
                "rate(test=binomial-upper-tail,p={good:.3e},alpha={:.3e})",
                self.alpha
            ),
            value,
            threshold,
            rows: of,
            message: format!("{:.2} % {message}", value * 100.0),
        })
    }

    fn types(&self, column: &ColumnReference, counts: &ColumnCounts) -> Option<Finding> {
        (counts.wrong_type > 0).then(|| Finding {
            check: "wrong-type".to_owned(),
            feature: Some(column.name.clone()),
            severity: Severity::Alarm,
            statistic: "rate".to_owned(),
            value: counts.wrong_type as f64 / self.rows as f64,
            threshold: 0.0,
            rows: self.rows,
            message: format!("{} rows hold another type", counts.wrong_type),
        })
    }

    /// `n` independent rows all hold one value with a probability of at most
    /// `mode_rate^(n - 1)`.
    fn constant(
        &self,
        column: &ColumnReference,
        level: Level,
        present: u64,
        mode_rate: f64,
    ) -> Option<Finding> {
        let Level::One(bits) = level else { return None };
        let threshold = 1.0 + (self.alpha.ln() / mode_rate.ln()).floor();
        (mode_rate < 1.0 && present as f64 > threshold).then(|| Finding {
            check: "constant".to_owned(),
            feature: Some(column.name.clone()),
            severity: Severity::Alarm,
            statistic: format!("equal-rows(mode-rate={mode_rate:.3e},alpha={:.3e})", self.alpha),
            value: present as f64,
            threshold,
            rows: present,
            message: format!("all {present} values are {}", f64::from_bits(bits)),
        })
    }

    /// # Errors
    /// How many rows are needed when there are too few.
    fn drift(
        &self,
        column: &ColumnReference,
        expected: &[u64],
        seen: &[u64],
    ) -> Result<Option<Finding>, u64> {
        let (m, n) = (expected.iter().sum::<u64>() as f64, seen.iter().sum::<u64>() as f64);
        let rarest = expected.iter().copied().min().unwrap_or(0) as f64;
        if n * rarest < MIN_EXPECTED * m {
            return Err((MIN_EXPECTED * m / rarest).ceil() as u64);
        }
        let noise =
            chi2_upper_quantile(self.alpha, expected.len() as u64 - 1) * (1.0 / n + 1.0 / m);
        let value = psi(expected, seen);
        let threshold = noise.max(self.config.min_psi);
        Ok((value > threshold).then(|| Finding {
            check: "drift".to_owned(),
            feature: Some(column.name.clone()),
            severity: if value > PSI_ALARM { Severity::Alarm } else { Severity::Warning },
            statistic: format!(
                "psi(bins={},floor={PSI_FLOOR:e},log=natural,alpha={:.3e})",
                expected.len(),
                self.alpha
            ),
            value,
            threshold,
            rows: n as u64,
            message: format!("the distribution moved: PSI {value:.3} over {threshold:.3}"),
        }))
    }
}
