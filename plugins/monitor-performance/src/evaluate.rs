//! From metrics to findings.

use headland_monitor::{
    number,
    stats::{binomial_critical_count, clopper_pearson_lower, normal_upper_quantile},
};
use headland_sdk::monitor::{Finding, Severity};

use crate::{
    config::Config,
    metrics::{Measured, Metric, Spread, measure},
    reference::{Baseline, Reference},
    window::{Counted, MAX_ERROR_UNITS},
};

/// The share of cut errors from which on metrics of regression say little.
const MAX_CLIPPED: f64 = 0.01;

/// What a window means.
///
/// A metric with a baseline is an alarm when it is worse than that by more
/// than the configuration's margin and by more than chance makes it in one
/// window of `1 / alpha`, over all judged metrics together by Bonferroni's
/// inequality. What chance makes:
///
/// | `test=` | for | |
/// |---|---|---|
/// | `binomial` | `accuracy`, `precision`, `recall`, and what is estimated of them | the exact lower tail of the binomial at the baseline's lower bound after Clopper and Pearson, each at half the level |
/// | `binomial-jaccard` | `f1` | the same of `j`, the share of true positives among true and false positives and false negatives, of which `f1` is `2 j / (1 + j)` |
/// | `delong` | `roc-auc` | its standard error and the baseline's; alarms even when the bins hide as much as they can |
/// | `delta` | averages over classes | the delta method over the confusion matrix, as in Takahashi et al., Applied Intelligence 52 (2022) |
/// | `half-normal` | `ece` | the distance that right scores have by chance in each bin, and the standard error of the distances' mean |
/// | `normal` | losses and errors | the standard error of the mean, of `rmse` by the delta method |
///
/// A privacy filter's noise widens all of them by its variance.
pub fn evaluate(config: &Config, reference: &Reference, window: &Counted) -> Vec<Finding> {
    let measured = measure(config, window);
    let name = |m: &Measured| config.classification.as_ref().and_then(|c| c.name(m.class));
    let mut judged = Vec::new();
    for m in &measured {
        if let Some(baseline) = reference.baseline(m.metric, name(m)) {
            judged.push((m, baseline));
        }
    }
    let alpha = config.alpha / judged.len().max(1) as f64;
    let mut findings = Vec::new();
    let mut undecided = Undecided::default();
    let has_labels = window.labelled() >= config.min_rows;
    if !has_labels && !reference.baselines.is_empty() {
        undecided.add("what needs labels", config.min_rows);
    }
    for (m, baseline) in judged {
        if !m.is_estimated && !has_labels {
            continue;
        }
        let margin = match m.metric {
            metric if metric.is_share() => config.min_drop,
            Metric::Bias => config.min_rise * usual_error(reference, &measured),
            _ => config.min_rise * baseline.value,
        };
        match judge(m, baseline, margin, config.min_rows, alpha) {
            Ok(Some(threshold)) => {
                findings.push(alarm(m, name(m), threshold, baseline.value, alpha));
            }
            Ok(None) => {}
            Err(needed) => undecided.add(&title(m, name(m)), needed),
        }
    }
    let Undecided { names, needed } = undecided;
    if !names.is_empty() {
        let message = format!("too few rows to judge {names}; {needed} are needed");
        findings.push(info("insufficient", "rows", window.rows as f64, window.rows, message));
        if let Some(insufficient) = findings.last_mut() {
            insufficient.threshold = needed as f64;
        }
    }
    for (check, count, problem) in [
        ("unlabelled", window.unlabelled, "have no label yet"),
        ("unpredicted", window.unpredicted, "have no prediction"),
        ("unscored", window.unscored, "have no probability between 0 and 1"),
    ] {
        if count > 0 {
            let message = format!("{count} of {} rows {problem}", window.rows);
            findings.push(info(check, "count", count as f64, window.rows, message));
        }
    }
    let cut = window.clipped as f64 / window.error_rows.max(1) as f64;
    if cut > MAX_CLIPPED && has_labels {
        let message = format!(
            "{} % of errors are beyond {} units and were cut: choose a greater unit",
            number(100.0 * cut, 3),
            number(MAX_ERROR_UNITS, 3)
        );
        let clipped = info("clipped", "rate", cut, window.error_rows, message);
        findings.push(Finding { severity: Severity::Warning, threshold: MAX_CLIPPED, ..clipped });
    }
    if config.report {
        for m in &measured {
            let message = format!("{} is {}", title(m, name(m)), number(m.value, 4));
            let finding = info(&check(m), &statistic(m, None), m.value, m.rows, message);
            findings.push(Finding { feature: name(m).map(str::to_owned), ..finding });
        }
    }
    findings
}

fn info(check: &str, statistic: &str, value: f64, rows: u64, message: String) -> Finding {
    Finding {
        check: check.to_owned(),
        feature: None,
        severity: Severity::Info,
        statistic: statistic.to_owned(),
        value,
        threshold: 0.0,
        rows,
        message,
    }
}

/// The root mean squared error of the reference; of the window where the
/// reference does not say.
fn usual_error(reference: &Reference, measured: &[Measured]) -> f64 {
    let of_window = || measured.iter().find(|m| m.metric == Metric::Rmse).map(|m| m.value);
    let of_reference = reference.baseline(Metric::Rmse, None).map(|b| b.value);
    of_reference.or_else(of_window).unwrap_or(0.0)
}

/// The threshold that a metric is beyond; nothing where it is not.
///
/// # Errors
/// How many rows it would have to be over where no value could be beyond it.
fn judge(
    m: &Measured,
    baseline: &Baseline,
    margin: f64,
    min_rows: u64,
    alpha: f64,
) -> Result<Option<f64>, u64> {
    let filter = normal_upper_quantile(alpha) * m.noise.sqrt();
    let threshold = match m.spread {
        Spread::Share(of) => {
            let noise = lowest_by_chance(baseline.value, baseline.rows, of, alpha)?;
            (baseline.value - margin).min(noise - filter)
        }
        Spread::F1(of) => {
            let j = baseline.value / (2.0 - baseline.value);
            let noise = lowest_by_chance(j, baseline.rows, of, alpha)?;
            (baseline.value - margin).min(2.0 * noise / (1.0 + noise) - filter)
        }
        Spread::Normal { .. } if m.rows < min_rows => return Err(min_rows),
        Spread::Normal { error, excess } => {
            let alpha = if m.metric == Metric::Bias { alpha / 2.0 } else { alpha };
            let variance = error * error + baseline.standard_error.powi(2) + m.noise;
            let off = margin.max(excess + normal_upper_quantile(alpha) * variance.sqrt()) + m.bound;
            match m.metric {
                metric if metric.is_better_high() => baseline.value - off,
                Metric::Bias if m.value < baseline.value => baseline.value - off,
                _ => baseline.value + off,
            }
        }
    };
    let is_low = m.metric.is_better_high() || threshold < baseline.value;
    let is_beyond = if is_low { m.value < threshold } else { m.value > threshold };
    Ok(is_beyond.then_some(threshold))
}

/// The lowest share of `of` rows that chance gives where the true one is what
/// was measured over `rows`, or is `share` exactly for 0 rows.
///
/// # Errors
/// How many rows it takes for any share to be lower.
fn lowest_by_chance(share: f64, rows: u64, of: f64, alpha: f64) -> Result<f64, u64> {
    let level = alpha / 2.0;
    let hits = (share * rows as f64).round() as u64;
    let low = match rows {
        0 => share,
        _ => clopper_pearson_lower(hits, rows, 1.0 - level),
    };
    // A summary may claim any count; beyond this, chance moves nothing.
    let of = (of as u64).min(1 << 53);
    let misses = binomial_critical_count(of, 1.0 - low, level);
    if misses > of {
        // All rows must miss, and that must be rare.
        let needed = (level.ln() / (1.0 - low).ln()).ceil().max(1.0);
        // Nothing is below a share of 0.
        return if needed.is_finite() { Err(needed as u64) } else { Ok(0.0) };
    }
    Ok(1.0 - (misses.saturating_sub(1)) as f64 / of as f64)
}

fn check(m: &Measured) -> String {
    let prefix = if m.is_estimated { "estimated-" } else { "" };
    format!("{prefix}{}", m.metric.name())
}

fn title(m: &Measured, class: Option<&str>) -> String {
    let check = check(m);
    class.map_or(check.clone(), |class| format!("{check} of `{class}`"))
}

fn statistic(m: &Measured, alpha: Option<f64>) -> String {
    let mut parameters = String::new();
    let mut add = |parameter: &str, value: &str| {
        parameters.push(if parameters.is_empty() { '(' } else { ',' });
        parameters.push_str(parameter);
        parameters.push_str(value);
    };
    if m.is_estimated {
        add("method=", "cbpe");
    }
    if m.metric == Metric::RocAuc {
        add("bound=", &number(m.bound, 4));
    }
    if let Some(alpha) = alpha {
        let test = match (m.metric, m.spread) {
            (_, Spread::Share(_)) => "binomial",
            (_, Spread::F1(_)) => "binomial-jaccard",
            (Metric::RocAuc, _) => "delong",
            (Metric::Ece, _) => "half-normal",
            (metric, _) if metric.is_better_high() => "delta",
            _ => "normal",
        };
        add("test=", test);
        add("alpha=", &number(alpha, 4));
    }
    if !parameters.is_empty() {
        parameters.push(')');
    }
    check(m) + &parameters
}

fn alarm(m: &Measured, class: Option<&str>, threshold: f64, baseline: f64, alpha: f64) -> Finding {
    let assumption = match m.is_estimated {
        true => {
            "; an estimate without labels, which holds where scores are as right as in the \
             reference and inputs mean what they meant"
        }
        false => "",
    };
    let message = format!(
        "{} is {}, beyond {}; the baseline is {}{assumption}",
        title(m, class),
        number(m.value, 4),
        number(threshold, 4),
        number(baseline, 4)
    );
    Finding {
        feature: class.map(str::to_owned),
        severity: Severity::Alarm,
        threshold,
        ..info(&check(m), &statistic(m, Some(alpha)), m.value, m.rows, message)
    }
}

/// What there are too few rows for.
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
}
