//! From a row to its score.

use crate::{Kind, Reference};

/// Scores rows by a reference.
#[derive(Debug, Clone)]
pub struct Scorer {
    kind: Kind,
    /// Room to work in, one number a column or neighbour.
    scratch: Vec<f64>,
}

impl Scorer {
    /// The reference has been checked.
    pub fn new(reference: &Reference) -> Self {
        Self { kind: reference.kind.clone(), scratch: Vec::new() }
    }

    /// The score of a row, whose values are in the order of
    /// [`Reference::names`]. Nothing for a row with a missing value; infinite
    /// for one with an infinite value.
    pub fn score(&mut self, row: &[f64]) -> Option<f64> {
        if row.iter().any(|x| x.is_nan()) {
            return None;
        }
        if row.iter().any(|x| x.is_infinite()) {
            return Some(f64::INFINITY);
        }
        let score = match &self.kind {
            Kind::Mahalanobis { mean, factor } => {
                mahalanobis_squared(mean, factor, row, &mut self.scratch)
            }
            Kind::Reconstruction {} => row.first().copied()?,
            Kind::Nearest { k, scale, points } => {
                let k = *k as usize;
                nearest(points, k, row.iter().zip(scale).map(|(x, s)| x / s), &mut self.scratch)
            }
            Kind::Squeezing { squeezed } => {
                let (plain, squeezed) = row.split_at(row.len() - squeezed.len());
                plain.iter().zip(squeezed).map(|(a, b)| (a - b).abs()).sum()
            }
        };
        // Finite values whose distance is not, or is not a number.
        Some(if score.is_nan() { f64::INFINITY } else { score })
    }
}

/// `(x - mean)' C^-1 (x - mean)` by the lower Cholesky factor of `C`, row by
/// row without the zeros.
///
/// # Source
/// Mahalanobis, "On the generalised distance in statistics", 1936.
pub fn mahalanobis_squared(mean: &[f64], factor: &[f64], x: &[f64], y: &mut Vec<f64>) -> f64 {
    y.clear();
    let mut rows = factor;
    let mut squared = 0.0;
    for (i, (x, mean)) in x.iter().zip(mean).enumerate() {
        let Some((row, rest)) = rows.split_at_checked(i + 1) else { return f64::NAN };
        let dot: f64 = row.iter().zip(y.iter()).map(|(l, y)| l * y).sum();
        let solved = (x - mean - dot) / row[i];
        squared += solved * solved;
        y.push(solved);
        rows = rest;
    }
    squared
}

/// The distance of `x` from the `k`-th nearest of the points, which lie one
/// after the other.
///
/// # Source
/// Ramaswamy, Rastogi and Shim, "Efficient algorithms for mining outliers from
/// large data sets", SIGMOD 2000: the distance of the k-th neighbour as score.
pub fn nearest(
    points: &[f64],
    k: usize,
    x: impl ExactSizeIterator<Item = f64>,
    scratch: &mut Vec<f64>,
) -> f64 {
    let d = x.len();
    scratch.clear();
    scratch.extend(x);
    // Behind the row, the squared distances of the k nearest so far, rising.
    scratch.resize(d + k, f64::INFINITY);
    let (x, least) = scratch.split_at_mut(d);
    for point in points.chunks_exact(d) {
        let squared: f64 = x.iter().zip(point).map(|(a, b)| (a - b) * (a - b)).sum();
        if least.last().is_some_and(|&last| squared < last) {
            let i = least.partition_point(|&other| other <= squared);
            least[i..].rotate_right(1);
            least[i] = squared;
        }
    }
    least.last().map_or(f64::NAN, |squared| squared.sqrt())
}

/// The lower Cholesky factor of a covariance matrix, both row by row; of the
/// matrix the lower half is read, and the factor is without the zeros.
///
/// # Errors
/// The first column that is a combination of those before it, to 1e-10 of its
/// variance: the distance would mean nothing in its direction.
pub fn cholesky(covariance: &[Vec<f64>]) -> Result<Vec<f64>, usize> {
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for (i, of) in covariance.iter().enumerate() {
        let mut row: Vec<f64> = Vec::with_capacity(i + 1);
        for (j, of) in of.iter().enumerate().take(i) {
            let dot: f64 = row.iter().zip(&rows[j]).map(|(a, b)| a * b).sum();
            row.push((of - dot) / rows[j][j]);
        }
        let left = of[i] - row.iter().map(|x| x * x).sum::<f64>();
        if left.is_nan() || left <= 1e-10 * of[i] {
            return Err(i);
        }
        row.push(left.sqrt());
        rows.push(row);
    }
    Ok(rows.concat())
}
