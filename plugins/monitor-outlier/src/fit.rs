//! Learning what good rows look like.

use headland_monitor::{
    Column, ColumnValues,
    stats::{chi2_upper_quantile, clopper_pearson_upper},
};

use crate::{
    Kind, Reference, Scorer, Scores,
    config::split_mix,
    reference::{MAX_COLUMNS, MAX_NEIGHBOURS, MAX_POINT_VALUES},
    score::cholesky,
};

/// How sure [`fit`] is that a rate of good rows is no higher than it says.
const CONFIDENCE: f64 = 0.99;

/// The fewest rows that anything is learnt from.
const MIN_ROWS: usize = 20;

/// The quantiles between the bins of scores.
const QUANTILES: [f64; 11] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99];

/// How rows are to be scored.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// See [`Kind::Mahalanobis`].
    Mahalanobis,
    /// See [`Kind::Reconstruction`].
    Reconstruction,
    /// See [`Kind::Nearest`].
    Nearest {
        /// Which neighbour counts, 1 to 32.
        k: u32,
        /// Good rows that are kept, at most 4096 numbers. Of more rows they
        /// are drawn.
        max_points: usize,
        /// Of the draw, by SplitMix64.
        seed: u64,
    },
    /// See [`Kind::Squeezing`].
    Squeezing {
        /// The counterparts of the columns.
        squeezed: Vec<String>,
    },
}

/// Where the line is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// The smallest score that no smaller share of good rows is at or below.
    Quantile(f64),
    /// What the squared Mahalanobis distance of normally distributed rows
    /// exceeds with this probability: a quantile of chi-squared with a degree
    /// of freedom a column.
    Chi2 {
        /// The probability.
        alpha: f64,
    },
}

/// Why nothing can be learnt.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FitError {
    /// A column is not there, is of categories or of another length.
    #[error("there is no column `{0}` of numbers, as long as the others")]
    Column(String),
    /// Too few rows are complete.
    #[error("{rows} complete rows are too few; {needed} are needed")]
    Rows {
        /// How many there are.
        rows: usize,
        /// How many it takes.
        needed: usize,
    },
    /// A column does not vary, or follows from those before it.
    #[error("column `{0}` is constant, or a combination of those before it: leave it out")]
    Dependent(String),
    /// A parameter makes no sense.
    #[error("{0}")]
    Parameter(String),
}

/// Learn a reference from good rows.
///
/// For [`Method::Mahalanobis`] and [`Method::Nearest`], every other row is
/// learnt from, and the scores of the rest give threshold, rates and bins: a
/// row that was learnt from is nearer than a new one would be. Rates that are
/// still good are upper bounds of 99 % confidence (Clopper-Pearson). Rows that
/// lack a value, or have an infinite one, are left out.
///
/// # Errors
/// [`FitError`].
pub fn fit(
    columns: &[Column],
    names: &[String],
    method: &Method,
    threshold: Threshold,
) -> Result<Reference, FitError> {
    if !(1..=MAX_COLUMNS).contains(&names.len()) {
        return Err(FitError::Parameter(format!(
            "{} columns, 1 to {MAX_COLUMNS} allowed",
            names.len()
        )));
    }
    let squeezed = match method {
        Method::Squeezing { squeezed } => squeezed.as_slice(),
        _ => &[],
    };
    let all: Vec<&String> = names.iter().chain(squeezed).collect();
    let (rows, given) = complete_rows(columns, &all)?;
    let (learnt, judged) = match method {
        Method::Mahalanobis | Method::Nearest { .. } => halves(&rows),
        Method::Reconstruction | Method::Squeezing { .. } => (Vec::new(), rows.clone()),
    };
    let needed = match method {
        // Beyond one a column, the covariance is singular.
        Method::Mahalanobis => MIN_ROWS.max(4 * (names.len() + 1)),
        _ => MIN_ROWS,
    };
    if rows.len() < needed {
        return Err(FitError::Rows { rows: rows.len(), needed });
    }
    let kind = match method {
        Method::Mahalanobis => fit_mahalanobis(names, &learnt)?,
        Method::Reconstruction => Kind::Reconstruction {},
        Method::Nearest { k, max_points, seed } => {
            fit_nearest(names, &learnt, *k, *max_points, *seed)?
        }
        Method::Squeezing { squeezed } => Kind::Squeezing { squeezed: squeezed.clone() },
    };
    let mut reference = Reference {
        version: 1,
        columns: names.to_vec(),
        kind,
        threshold: 0.0,
        rows: judged.len() as u64,
        max_outlier_rate: 0.0,
        max_unscored_rate: clopper_pearson_upper(
            (given - rows.len()) as u64,
            given as u64,
            CONFIDENCE,
        ),
        scores: Scores { edges: Vec::new(), counts: Vec::new() },
    };
    let mut scorer = Scorer::new(&reference);
    let mut scores: Vec<f64> = judged.iter().filter_map(|row| scorer.score(row)).collect();
    scores.sort_unstable_by(f64::total_cmp);
    reference.threshold = match threshold {
        Threshold::Quantile(q) if q > 0.0 && q < 1.0 => quantile(&scores, q),
        Threshold::Chi2 { alpha }
            if alpha > 0.0 && alpha < 1.0 && *method == Method::Mahalanobis =>
        {
            chi2_upper_quantile(alpha, names.len() as f64)
        }
        other => return Err(FitError::Parameter(format!("{other:?} is no threshold for it"))),
    };
    let outliers = scores.iter().filter(|s| **s > reference.threshold).count() as u64;
    reference.max_outlier_rate = clopper_pearson_upper(outliers, reference.rows, CONFIDENCE);
    reference.scores = bins(&scores);
    reference.check().map_err(FitError::Parameter)?;
    Ok(reference)
}

/// The rows without a gap, and how many there are with them.
fn complete_rows(
    columns: &[Column],
    names: &[&String],
) -> Result<(Vec<Vec<f64>>, usize), FitError> {
    let mut values: Vec<&[f64]> = Vec::new();
    for &name in names {
        let column = columns.iter().find(|c| c.name == *name).map(|c| &c.values);
        match column {
            Some(ColumnValues::Numeric(v)) if values.first().is_none_or(|f| f.len() == v.len()) => {
                values.push(v);
            }
            _ => return Err(FitError::Column(name.clone())),
        }
    }
    let given = values.first().map_or(0, |v| v.len());
    let rows = (0..given).map(|i| values.iter().map(|v| v[i]).collect::<Vec<f64>>());
    Ok((rows.filter(|row| row.iter().all(|x| x.is_finite())).collect(), given))
}

/// Every other row, and the rest.
fn halves(rows: &[Vec<f64>]) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let every_other = |first| rows.iter().skip(first).step_by(2).cloned().collect();
    (every_other(0), every_other(1))
}

/// Mean and maximum-likelihood covariance, the lower half of it.
fn moments(rows: &[Vec<f64>], d: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = rows.len() as f64;
    let mean: Vec<f64> = (0..d).map(|i| rows.iter().map(|r| r[i]).sum::<f64>() / n).collect();
    let deviation = |row: &[f64], i: usize| row[i] - mean[i];
    let covariance = |i, j| rows.iter().map(|r| deviation(r, i) * deviation(r, j)).sum::<f64>() / n;
    let covariance = (0..d).map(|i| (0..=i).map(|j| covariance(i, j)).collect()).collect();
    (mean, covariance)
}

fn fit_mahalanobis(names: &[String], rows: &[Vec<f64>]) -> Result<Kind, FitError> {
    let (mean, covariance) = moments(rows, names.len());
    let factor = cholesky(&covariance).map_err(|i| FitError::Dependent(names[i].clone()))?;
    Ok(Kind::Mahalanobis { mean, factor })
}

fn fit_nearest(
    names: &[String],
    rows: &[Vec<f64>],
    k: u32,
    max_points: usize,
    seed: u64,
) -> Result<Kind, FitError> {
    let d = names.len();
    if !(1..=MAX_NEIGHBOURS).contains(&k) {
        return Err(FitError::Parameter(format!("k {k} is not within 1..={MAX_NEIGHBOURS}")));
    }
    if max_points * d > MAX_POINT_VALUES {
        return Err(FitError::Parameter(format!(
            "{max_points} points of {d} columns, {MAX_POINT_VALUES} numbers allowed"
        )));
    }
    let (_, covariance) = moments(rows, d);
    let scale: Vec<f64> = (0..d).map(|i| covariance[i][i].sqrt()).collect();
    if let Some(i) = scale.iter().position(|s| *s <= 0.0) {
        return Err(FitError::Dependent(names[i].clone()));
    }
    let chosen = draw(rows.len(), max_points.min(rows.len()), seed);
    let points =
        chosen.iter().flat_map(|&i| rows[i].iter().zip(&scale).map(|(x, s)| x / s)).collect();
    Ok(Kind::Nearest { k, scale, points })
}

/// `k` of `n` rows, in order: those with the smallest SplitMix64 numbers.
fn draw(n: usize, k: usize, seed: u64) -> Vec<usize> {
    let mut keyed: Vec<(u64, usize)> =
        (0..n).map(|i| (split_mix(seed.wrapping_add(i as u64)), i)).collect();
    keyed.sort_unstable();
    let mut chosen: Vec<usize> = keyed.iter().take(k).map(|(_, i)| *i).collect();
    chosen.sort_unstable();
    chosen
}

/// The smallest of the sorted scores that a share of `q` is at or below.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn bins(sorted: &[f64]) -> Scores {
    let mut edges: Vec<f64> = QUANTILES.iter().map(|&q| quantile(sorted, q)).collect();
    edges.dedup();
    // Nothing is below the smallest score.
    edges.retain(|&e| e > sorted[0]);
    let mut bins = Scores { counts: vec![0; edges.len() + 1], edges };
    for &score in sorted {
        let i = bins.bin(score);
        bins.counts[i] += 1;
    }
    bins
}
