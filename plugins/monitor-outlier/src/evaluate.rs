//! From counts to findings.

use headland_monitor::{
    Summary, number,
    stats::{PSI_FLOOR, binomial_critical_count, chi2_upper_quantile, psi},
};
use headland_sdk::monitor::{Finding, Severity};

use crate::{Config, Counts, Reference};

/// Rows that a bin of scores must be expected to hold: below, the noise floor
/// of the PSI does not hold.
const MIN_EXPECTED: f64 = 20.0;

/// Two rates and the scores' distribution.
const TESTS: f64 = 3.0;

/// What a window, or a fleet's windows together, mean.
///
/// # Source
/// Every check alarms only on what is both practical (beyond the
/// configuration's margin) and above noise (beyond what good rows give by
/// chance in one window of `1 / alpha`, over all three checks together by
/// Bonferroni's inequality): rates by the exact binomial upper tail, the
/// distribution of the scores by the PSI with its noise floor
/// `chi2(1 - alpha, bins - 1) * (1/n + 1/m)`, after Yurdakul and Naranjo,
/// Journal of Risk Model Validation 14 (2020). Noise that a privacy filter
/// added widens what chance explains.
///
/// # Errors
/// A field of the summary that has another form.
pub fn evaluate(
    config: &Config,
    reference: &Reference,
    summary: &Summary,
) -> Result<Vec<Finding>, String> {
    let noise = |name: &str| summary.noise_variance(name);
    let (noise_of_rows, noise_of_scores) = (noise("scoring"), noise("scores"));
    let summary = summary.settled();
    let counts = Counts::read(reference, &summary)?;
    let checks =
        Checks { config, reference, alpha: config.alpha / TESTS, statistic: reference.statistic() };
    let mut findings = Vec::new();
    findings.extend(checks.blind(&counts, summary.rows));
    if counts.scored < config.min_rows {
        findings.push(insufficient(counts.scored, config.min_rows, "to judge"));
        return Ok(findings);
    }
    let unscored = counts.incomplete;
    findings.extend(checks.rate(
        "unscored-rate",
        (unscored, counts.scored.saturating_add(unscored)),
        reference.max_unscored_rate,
        noise_of_rows,
        "of rows lack a value and have no score",
    ));
    findings.extend(checks.rate(
        "outlier-rate",
        (counts.outliers, counts.scored),
        reference.max_outlier_rate,
        noise_of_rows,
        "of rows are outliers",
    ));
    match checks.shift(&counts.scores, noise_of_scores) {
        Ok(finding) => findings.extend(finding),
        Err(needed) => {
            findings.push(insufficient(counts.scored, needed, "to judge the scores' distribution"));
        }
    }
    Ok(findings)
}

fn insufficient(rows: u64, needed: u64, what: &str) -> Finding {
    Finding {
        check: "insufficient".to_owned(),
        feature: None,
        severity: Severity::Info,
        statistic: "rows".to_owned(),
        value: rows as f64,
        threshold: needed as f64,
        rows,
        message: format!("{rows} scored rows are too few {what}; {needed} are needed"),
    }
}

struct Checks<'a> {
    config: &'a Config,
    reference: &'a Reference,
    /// The false-alarm probability of one test.
    alpha: f64,
    /// The score's name.
    statistic: String,
}

impl Checks<'_> {
    /// A monitor that scores nothing finds nothing: say so.
    fn blind(&self, counts: &Counts, rows: u64) -> Option<Finding> {
        let Counts { scored, incomplete, no_column, wrong_type, .. } = *counts;
        if scored > 0 || [incomplete, no_column, wrong_type] == [0; 3] {
            return None;
        }
        Some(Finding {
            check: "no-scores".to_owned(),
            feature: None,
            severity: Severity::Alarm,
            statistic: "rate".to_owned(),
            value: 1.0,
            threshold: 0.0,
            rows,
            message: format!(
                "no row has a score: {incomplete} lack a value, {no_column} a column, \
                 {wrong_type} have a column in another type"
            ),
        })
    }

    fn rate(
        &self,
        check: &str,
        (count, of): (u64, u64),
        good: f64,
        noise_variance: f64,
        message: &str,
    ) -> Option<Finding> {
        if of == 0 {
            return None;
        }
        let chance = (binomial_critical_count(of, good, self.alpha) - 1) as f64;
        let noise = noise_bound(noise_variance, self.alpha);
        let threshold = ((chance + noise) / of as f64).max(good + self.config.min_excess_rate);
        let value = count as f64 / of as f64;
        (value > threshold).then(|| Finding {
            check: check.to_owned(),
            feature: None,
            severity: Severity::Alarm,
            statistic: format!(
                "rate(test=binomial-upper-tail,p={},alpha={},of={},above={})",
                number(good, 4),
                number(self.alpha, 4),
                self.statistic,
                number(self.reference.threshold, 6)
            ),
            value,
            threshold,
            rows: of,
            message: format!("{} % {message}, {} % are good", percent(value), percent(good)),
        })
    }

    /// Whether the scores are distributed otherwise than the reference's; the
    /// rows that it takes, if there are too few.
    fn shift(&self, scores: &[u64], noise_variance: f64) -> Result<Option<Finding>, u64> {
        let (expected, seen) = pool(&self.reference.scores.counts, scores)?;
        let m = self.reference.rows as f64;
        let n = seen.iter().fold(0u64, |sum, &s| sum.saturating_add(s));
        let degrees = expected.len() as f64 - 1.0;
        // Noise in each bin adds to the binomial's variance, about n / bins.
        let noise = 1.0 + noise_variance * expected.len() as f64 / n as f64;
        let floor = chi2_upper_quantile(self.alpha, degrees) * (noise / n as f64 + 1.0 / m);
        let threshold = floor.max(self.config.min_psi);
        let value = psi(&expected, &seen, PSI_FLOOR);
        Ok((value > threshold).then(|| Finding {
            check: "score-shift".to_owned(),
            feature: None,
            severity: Severity::Warning,
            statistic: format!(
                "psi(bins={},floor=1e-4,log=natural,alpha={},of={})",
                expected.len(),
                number(self.alpha, 4),
                self.statistic
            ),
            value,
            threshold,
            rows: n,
            message: format!(
                "scores are distributed otherwise than those of good rows: {} % are above \
                 what {} % of those are",
                percent(seen[seen.len() - 1] as f64 / n as f64),
                percent(expected[expected.len() - 1] as f64 / m)
            ),
        }))
    }
}

/// What a privacy filter's noise of that variance exceeds with a probability
/// of at most `alpha`: exactly so for Laplace's distribution; a sum of several,
/// or a Gaussian, has lighter tails.
fn noise_bound(variance: f64, alpha: f64) -> f64 {
    (variance / 2.0).sqrt() * (0.5 / alpha).ln().max(0.0)
}

fn percent(share: f64) -> String {
    number(share * 100.0, 3)
}

/// Both histograms with neighbouring bins joined, from the highest scores
/// down, until each is expected to hold enough.
///
/// # Errors
/// The rows that it takes for two such bins, where there are fewer.
fn pool(expected: &[u64], seen: &[u64]) -> Result<(Vec<u64>, Vec<u64>), u64> {
    let m: u64 = expected.iter().sum();
    let n: u64 = seen.iter().fold(0, |sum, &s| sum.saturating_add(s));
    let enough = |count: u64| count as f64 * n as f64 >= MIN_EXPECTED * m as f64;
    let (mut pooled, mut pooled_seen) = (Vec::new(), Vec::new());
    let (mut rest, mut rest_seen) = (0, 0u64);
    for (&e, &s) in expected.iter().zip(seen).rev() {
        rest += e;
        rest_seen = rest_seen.saturating_add(s);
        if enough(rest) {
            pooled.push(rest);
            pooled_seen.push(rest_seen);
            (rest, rest_seen) = (0, 0);
        }
    }
    // What is left, of the lowest scores, joins the bin above.
    if let (Some(e), Some(s)) = (pooled.last_mut(), pooled_seen.last_mut()) {
        *e += rest;
        *s = s.saturating_add(rest_seen);
    }
    pooled.reverse();
    pooled_seen.reverse();
    if pooled.len() < 2 { Err((2.0 * MIN_EXPECTED) as u64) } else { Ok((pooled, pooled_seen)) }
}
