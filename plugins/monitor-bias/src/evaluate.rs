//! From counts to findings.

use headland_monitor::{number, stats::normal_upper_quantile};
use headland_sdk::monitor::{Finding, Severity};

use crate::{
    config::Config,
    counts::{Cells, Counts},
    metrics::{Metric, Rate, sum},
};

/// What a window means.
///
/// A judged metric is an alarm when it is both beyond its bound and above
/// noise: beyond what chance alone gives in one window of `1 / alpha`, over
/// all judged metrics together by Bonferroni's inequality. What is above
/// noise is said by a confidence interval of level `1 - alpha / metrics`:
///
/// | `test=` | for | above noise when |
/// |---|---|---|
/// | `newcombe` | metrics that are 0 (or 1, `di`) exactly when a share is the same in both facets | the interval of the shares' difference leaves 0 out |
/// | `wilson` | `ci` | the interval of the facet's share leaves one half out |
/// | `delta` | `cddl`, `cddpl`, `dca`, `dcr`, `te` | the interval leaves 0 out |
/// | `delta-beyond-bound` | `ge`, which is above 0 wherever a prediction is wrong | the interval leaves the bound out |
///
/// # Source
/// Newcombe, Statistics in Medicine 17 (1998), 873-890, method 10. Wilson,
/// Journal of the American Statistical Association 22 (1927). The delta
/// method over independent Poisson counts, with one row more in each cell, so
/// that an empty cell is no certainty (after Agresti and Caffo, The American
/// Statistician 54, 2000); its derivatives are central differences of half a
/// row. A privacy filter's noise widens every interval by its variance.
pub fn evaluate(config: &Config, counts: &Counts, rows: u64) -> Vec<Finding> {
    let judged = config.judged();
    let alpha = config.alpha / judged.len().max(1) as f64;
    let z = normal_upper_quantile(alpha / 2.0);
    let column = &config.facet.column;
    let mut findings = Vec::new();
    let mut undecided = String::new();
    let mut smallest = u64::MAX;
    for &(metric, bound) in &judged {
        let smaller = smaller_denominator(metric, counts);
        let value = metric.value(counts).filter(|_| smaller >= config.min_rows as f64);
        let Some(value) = value else {
            let separator = if undecided.is_empty() { "" } else { ", " };
            undecided.push_str(separator);
            undecided.push_str(metric.name());
            smallest = smallest.min(smaller as u64);
            continue;
        };
        let threshold = match metric {
            Metric::Di if value > 1.0 => 1.0 / bound,
            _ => bound,
        };
        let is_practical = match metric {
            Metric::Di => value < bound || value > threshold,
            _ => value.abs() > bound,
        };
        let noise = Noise::of(metric, counts, value, bound, z);
        if is_practical && noise.is_exceeded {
            findings.push(Finding {
                check: metric.name().to_owned(),
                feature: Some(column.clone()),
                severity: Severity::Alarm,
                statistic: statistic(metric, Some((noise.test, alpha))),
                value,
                threshold,
                rows: rows_of(metric, counts),
                message: sentence(metric, counts, value, threshold),
            });
        }
    }
    if !undecided.is_empty() {
        findings.push(Finding {
            check: "insufficient".to_owned(),
            feature: Some(column.clone()),
            severity: Severity::Info,
            statistic: "rows".to_owned(),
            value: smallest as f64,
            threshold: config.min_rows as f64,
            rows,
            message: format!(
                "too few rows of one facet to judge {undecided}: the smallest of the rates is over \
                 {smallest}, {} are needed, or the metric is undefined",
                config.min_rows
            ),
        });
    }
    if config.report {
        findings.extend(Metric::ALL.into_iter().filter_map(|metric| {
            let value = metric.value(counts).filter(|_| config.has_columns_for(metric))?;
            Some(Finding {
                check: metric.name().to_owned(),
                feature: Some(column.clone()),
                severity: Severity::Info,
                statistic: statistic(metric, None),
                value,
                threshold: 0.0,
                rows: rows_of(metric, counts),
                message: format!("{} is {}", metric.name(), number(value, 4)),
            })
        }));
    }
    findings
}

fn statistic(metric: Metric, test: Option<(&str, f64)>) -> String {
    let (name, parameters) = (metric.name(), metric.parameters());
    match test {
        Some((test, alpha)) => {
            format!("{name}({parameters}test={test},alpha={})", number(alpha, 4))
        }
        None if parameters.is_empty() => name.to_owned(),
        None => format!("{name}({})", parameters.trim_end_matches(',')),
    }
}

fn sentence(metric: Metric, counts: &Counts, value: f64, threshold: f64) -> String {
    let name = metric.name();
    let shares = metric.rate().and_then(|rate| {
        Some((rate.what, rate.share(counts.advantaged())?, rate.share(counts.disadvantaged())?))
    });
    let (value, threshold) = (number(value, 3), number(threshold, 3));
    match shares {
        Some((what, a, d)) => format!(
            "{name} is {value}, beyond {threshold}: {what} is {} % for the disadvantaged and {} % \
             for the others",
            number(100.0 * d, 3),
            number(100.0 * a, 3)
        ),
        None => format!("{name} is {value}, beyond {threshold}"),
    }
}

/// The smaller of what the two facets' rates are over.
fn smaller_denominator(metric: Metric, counts: &Counts) -> f64 {
    let of = metric.denominator();
    counts.all.iter().map(|facet| sum(facet, of)).fold(f64::INFINITY, f64::min)
}

fn rows_of(metric: Metric, counts: &Counts) -> u64 {
    counts.all.iter().map(|facet| sum(facet, metric.denominator())).sum::<f64>() as u64
}

struct Noise {
    test: &'static str,
    is_exceeded: bool,
}

impl Noise {
    fn of(metric: Metric, counts: &Counts, value: f64, bound: f64, z: f64) -> Self {
        if let Some(rate) = metric.rate() {
            let (low, high) = newcombe(rate, counts, z);
            return Self { test: "newcombe", is_exceeded: low > 0.0 || high < 0.0 };
        }
        if metric == Metric::Ci {
            let rows = counts.all.map(|facet| facet.iter().sum::<f64>());
            let (low, high) = wilson(rows[1], rows[0] + rows[1], z);
            // The share of one facet, as half of `ci`, moves by half a row
            // for every row of noise.
            let noise = z * (18.0 * counts.noise_variance).sqrt() / (2.0 * (rows[0] + rows[1]));
            return Self { test: "wilson", is_exceeded: low - noise > 0.5 || high + noise < 0.5 };
        }
        let margin = z * delta_variance(metric, counts).sqrt();
        match metric {
            Metric::Ge => Self { test: "delta-beyond-bound", is_exceeded: value - margin > bound },
            _ => Self { test: "delta", is_exceeded: value.abs() > margin },
        }
    }
}

/// The score interval of a share.
pub fn wilson(hits: f64, of: f64, z: f64) -> (f64, f64) {
    let (p, z2) = (hits / of, z * z);
    let centre = p + z2 / (2.0 * of);
    let margin = z * (p * (1.0 - p) / of + z2 / (4.0 * of * of)).sqrt();
    let scale = 1.0 + z2 / of;
    (((centre - margin) / scale).max(0.0), ((centre + margin) / scale).min(1.0))
}

/// The hybrid score interval of the difference of the advantaged's share and
/// the disadvantaged's.
pub fn newcombe(rate: Rate, counts: &Counts, z: f64) -> (f64, f64) {
    let one = |facet: &Cells| {
        let (hits, of) = (sum(facet, rate.hits), sum(facet, rate.of));
        let p = hits / of;
        // What a row of noise more in a cell moves the share by, squared and
        // summed over the cells.
        let cells = |mask: u16| f64::from(mask.count_ones());
        let moved =
            cells(rate.hits) * (1.0 - p) * (1.0 - p) + (cells(rate.of) - cells(rate.hits)) * p * p;
        (p, wilson(hits, of, z), counts.noise_variance * moved / (of * of))
    };
    let (a, (a_low, a_high), a_noise) = one(counts.advantaged());
    let (d, (d_low, d_high), d_noise) = one(counts.disadvantaged());
    let noise = z * z * (a_noise + d_noise);
    let below = ((a - a_low).powi(2) + (d_high - d).powi(2) + noise).sqrt();
    let above = ((a_high - a).powi(2) + (d - d_low).powi(2) + noise).sqrt();
    (a - d - below, a - d + above)
}

/// The variance of a metric whose counts vary as Poisson's do.
fn delta_variance(metric: Metric, counts: &Counts) -> f64 {
    let mut counts = counts.clone();
    let mut variance = 0.0;
    // Metrics by group are over the groups' counts alone.
    let is_grouped = metric.needs().group;
    let places = if is_grouped { counts.groups.len() } else { 1 };
    for place in 0..places {
        for cell in 0..18 {
            let count = {
                let facets = if is_grouped { &mut counts.groups[place] } else { &mut counts.all };
                facets[cell / 9][cell % 9]
            };
            let mut moved = |by: f64| {
                let facets = if is_grouped { &mut counts.groups[place] } else { &mut counts.all };
                facets[cell / 9][cell % 9] = count + by;
                metric.value(&counts)
            };
            // An empty cell has no half row to give.
            let down = if count > 0.0 { 0.5 } else { 0.0 };
            let slope = match (moved(0.5), moved(-down)) {
                (Some(high), Some(low)) => (high - low) / (0.5 + down),
                _ => 0.0,
            };
            moved(0.0);
            variance += (count + 1.0 + counts.noise_variance) * slope * slope;
        }
    }
    variance
}
