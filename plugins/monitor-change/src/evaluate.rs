//! From counts to findings.

use headland_monitor::{Summary, number, stats::binomial_critical_count};
use headland_sdk::monitor::{Finding, Severity};

use crate::{Config, Counts, DetectorConfig, Method};

/// What a window, or a fleet's windows together, mean.
///
/// Each change was reported when it was found. What is left is whether there
/// were more of them than good rows have: by the exact binomial upper tail of
/// the changes over the rows that the detector saw, at its `max-change-rate`,
/// `alarm-alpha` over all detectors together by Bonferroni's inequality. A
/// detector begins anew after a change, so that changes are, if anything, more
/// evenly spread than the test takes them to be. Noise that a privacy filter
/// added widens what chance explains.
///
/// # Errors
/// A field of the summary that has another form.
pub fn evaluate(config: &Config, summary: &Summary) -> Result<Vec<Finding>, String> {
    let noised = summary;
    let summary = noised.settled();
    let judged = config.detectors.iter().filter(|d| d.max_change_rate.is_some()).count();
    let alpha = config.alarm_alpha / judged.max(1) as f64;
    let mut findings = Vec::new();
    let mut undecided = Undecided::default();
    for detector in &config.detectors {
        let method = detector.parameters()?;
        let name = detector.name();
        let counts = Counts::read(&name, &summary)?;
        if counts.is_blind() {
            findings.push(blind(detector, &counts, summary.rows));
        }
        if counts.ready == 0 {
            undecided.add(&name, method.warm_up_rows());
        } else if let Some(good) = detector.max_change_rate {
            // Two counts, up and down, with noise each.
            let noise = 2.0 * noised.noise_variance(&format!("{name}/changes"));
            let chance = binomial_critical_count(counts.used, good, alpha) - 1;
            let most = chance as f64 + noise_bound(noise, alpha);
            if counts.used > 0 && counts.changes() as f64 > most {
                findings.push(too_often(detector, &method, &counts, most, (good, alpha)));
            }
        } else if counts.changes() > 0 {
            let message = told(&counts, "how many good rows have is not said");
            findings.push(Finding {
                severity: Severity::Info,
                statistic: format!("changes({})", method.statistic()),
                value: counts.changes() as f64,
                ..detector.finding("changes", counts.used, message)
            });
        }
    }
    if undecided.needed > 0 {
        findings.push(undecided.finding(summary.rows));
    }
    Ok(findings)
}

fn too_often(
    detector: &DetectorConfig,
    method: &Method,
    counts: &Counts,
    most: f64,
    (good, alpha): (f64, f64),
) -> Finding {
    let rows = counts.used as f64;
    let good_rows = format!("good rows have at most {} in as many", number(good * rows, 3));
    Finding {
        statistic: format!(
            "change-rate(test=binomial-upper-tail,p={},alpha={},of={})",
            number(good, 4),
            number(alpha, 4),
            method.statistic()
        ),
        value: counts.changes() as f64 / rows,
        threshold: most / rows,
        ..detector.finding("change-rate", counts.used, told(counts, &good_rows))
    }
}

/// What a privacy filter's noise of that variance exceeds with a probability
/// of at most `alpha`: exactly so for Laplace's distribution; a sum of several,
/// or a Gaussian, has lighter tails.
fn noise_bound(variance: f64, alpha: f64) -> f64 {
    (variance / 2.0).sqrt() * (0.5 / alpha).ln().max(0.0)
}

fn told(counts: &Counts, beside: &str) -> String {
    let Counts { up, used, .. } = counts;
    format!("changes in {used} rows: {}, of them upwards: {up}; {beside}", counts.changes())
}

/// A detector that sees nothing finds nothing: say so.
fn blind(detector: &DetectorConfig, counts: &Counts, rows: u64) -> Finding {
    let Counts { missing, refused, no_column, wrong_type, .. } = *counts;
    let message = format!(
        "{} saw no row: {missing} are missing, {refused} no number that it takes, \
         {wrong_type} of another type, {no_column} without the column",
        detector.method.as_str()
    );
    detector.finding("no-usable-values", rows, message)
}

/// Detectors that had not seen enough rows.
#[derive(Default)]
struct Undecided {
    names: String,
    needed: u64,
}

impl Undecided {
    fn add(&mut self, name: &str, needed: u64) {
        if !self.names.is_empty() {
            self.names.push_str(", ");
        }
        self.names.push_str(name);
        self.needed = self.needed.max(needed);
    }

    fn finding(self, rows: u64) -> Finding {
        let Self { names, needed } = self;
        Finding {
            check: "insufficient".to_owned(),
            feature: None,
            severity: Severity::Info,
            statistic: "rows".to_owned(),
            value: rows as f64,
            threshold: needed as f64,
            rows,
            message: format!("too few rows so far for {names}; {needed} are needed"),
        }
    }
}
