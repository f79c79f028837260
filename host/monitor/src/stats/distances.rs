//! Distances of two histograms over the same bins, from integer counts.
//!
//! Throughout, `expected` and `seen` have one length, and the distance is NaN
//! when one of them holds nothing: there is no distribution to compare then.

use super::distributions::chi2_upper_tail;

/// What a bin's share is taken as in [`psi`] when it is smaller.
pub const PSI_FLOOR: f64 = 1e-4;

/// The sum over the bins of what `of` makes of the two shares.
fn sum(expected: &[u64], seen: &[u64], of: &dyn Fn(f64, f64) -> f64) -> f64 {
    debug_assert_eq!(expected.len(), seen.len());
    let (m, n) = (total(expected), total(seen));
    let mut sum = 0.0;
    for (&e, &s) in expected.iter().zip(seen) {
        sum += of(e as f64 / m, s as f64 / n);
    }
    sum
}

/// Exact up to 2^53, which no summary exceeds.
fn total(counts: &[u64]) -> f64 {
    let mut total = 0.0;
    for &count in counts {
        total += count as f64;
    }
    total
}

/// The population stability index `sum((p - q) ln(p / q))`, in nats: the
/// symmetrised divergence of Kullback and Leibler. No share is taken below
/// `floor`, which belongs into the statistic's name.
///
/// # Source
/// Jeffreys, Proceedings of the Royal Society A 186 (1946); under its name in
/// credit scoring.
pub fn psi(expected: &[u64], seen: &[u64], floor: f64) -> f64 {
    // `max` would turn NaN into the floor.
    let at_least = |share: f64| if share < floor { floor } else { share };
    sum(expected, seen, &|p, q| {
        let (p, q) = (at_least(p), at_least(q));
        (p - q) * (p / q).ln()
    })
}

/// The Jensen-Shannon distance, the square root of the divergence in units of
/// logarithms to `base`; within 0..=1 for base 2.
///
/// # Source
/// Endres and Schindelin, IEEE Transactions on Information Theory 49 (2003).
pub fn jensen_shannon(expected: &[u64], seen: &[u64], base: f64) -> f64 {
    // p ln(p / m) + q ln(q / m) with p = m + d, q = m - d: through ln_1p, near
    // distributions do not drown in rounding.
    let part = |x: f64, relative: f64| if x > 0.0 { x * relative.ln_1p() } else { x };
    let divergence = sum(expected, seen, &|p, q| {
        if p + q == 0.0 {
            return 0.0;
        }
        let relative = (p - q) / (p + q);
        part(p, relative) + part(q, -relative)
    });
    if divergence < 0.0 { 0.0 } else { (divergence / 2.0 / base.ln()).sqrt() }
}

/// The Hellinger distance, within 0..=1.
pub fn hellinger(expected: &[u64], seen: &[u64]) -> f64 {
    (sum(expected, seen, &|p, q| (p.sqrt() - q.sqrt()).powi(2)) / 2.0).sqrt()
}

/// The total variation distance: the share of rows that would have to move to
/// another bin.
pub fn total_variation(expected: &[u64], seen: &[u64]) -> f64 {
    sum(expected, seen, &|p, q| (p - q).abs()) / 2.0
}

/// The Kolmogorov-Smirnov statistic at the bins' edges: at most that of the
/// raw values.
pub fn ks_binned(expected: &[u64], seen: &[u64]) -> f64 {
    let mut greatest = 0.0;
    for difference in differences(expected, seen) {
        if difference.is_nan() {
            return difference;
        }
        greatest = f64::max(greatest, difference.abs());
    }
    greatest
}

/// The Wasserstein-1 distance when every value of a bin stands at the bin's
/// `position`, rising, in units of the positions.
pub fn wasserstein_binned(expected: &[u64], seen: &[u64], positions: &[f64]) -> f64 {
    let mut distance = 0.0;
    for (difference, at) in differences(expected, seen).iter().zip(positions.windows(2)) {
        distance += difference.abs() * (at[1] - at[0]);
    }
    distance
}

/// The differences of the cumulative shares after each bin.
fn differences(expected: &[u64], seen: &[u64]) -> Vec<f64> {
    let (m, n) = (total(expected), total(seen));
    // Whole numbers are summed, so that the last difference is exactly 0.
    let (mut below_e, mut below_s) = (0.0, 0.0);
    let mut differences = Vec::with_capacity(expected.len());
    for (&e, &s) in expected.iter().zip(seen) {
        below_e += e as f64;
        below_s += s as f64;
        differences.push(below_e / m - below_s / n);
    }
    differences
}

/// A chi-squared statistic with its degrees of freedom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChiSquare {
    /// The statistic.
    pub statistic: f64,
    /// Degrees of freedom.
    pub degrees: f64,
}

impl ChiSquare {
    /// The probability of a statistic at least as large by chance; 1 without
    /// a degree of freedom.
    pub fn p_value(&self) -> f64 {
        if self.degrees <= 0.0 { 1.0 } else { chi2_upper_tail(self.statistic, self.degrees) }
    }
}

/// Whether two samples are of one distribution: Pearson's statistic of the
/// table of two rows, over the bins that hold anything.
///
/// # Source
/// Pearson, Biometrika 8 (1911).
pub fn chi_square_homogeneity(a: &[u64], b: &[u64]) -> ChiSquare {
    let (m, n) = (total(a), total(b));
    let (mut statistic, mut bins) = (0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        if x == 0 && y == 0 {
            continue;
        }
        let (x, y) = (x as f64, y as f64);
        // Both rows' terms of the column in one.
        statistic += (x * n - y * m).powi(2) / ((x + y) * m * n);
        bins += 1.0;
    }
    ChiSquare { statistic, degrees: bins - 1.0 }
}

/// Whether `seen` is of the distribution that `weights` gives, which counts as
/// known: Pearson's statistic. Infinite for rows where none can be.
///
/// # Source
/// Pearson, Philosophical Magazine 50 (1900).
pub fn chi_square_goodness(weights: &[u64], seen: &[u64]) -> ChiSquare {
    let (m, n) = (total(weights), total(seen));
    let (mut statistic, mut bins) = (0.0, 0.0);
    for (&w, &s) in weights.iter().zip(seen) {
        if w == 0 && s == 0 {
            continue;
        }
        let expected = w as f64 / m * n;
        statistic += (s as f64 - expected).powi(2) / expected;
        bins += 1.0;
    }
    ChiSquare { statistic, degrees: bins - 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Distance = fn(&[u64], &[u64]) -> f64;

    const EVEN: [u64; 4] = [250; 4];
    const MOVED: [u64; 4] = [30, 50, 0, 20];

    /// NumPy: `p, q = [.25] * 4, [.3, .5, 1e-4, .2]`.
    #[test]
    fn psi_takes_an_empty_bin_for_its_floor() {
        assert!((psi(&EVEN, &MOVED, PSI_FLOOR) - 2.148_789_148_658_382).abs() < 1e-12);
        assert_eq!(psi(&[7, 3], &[70, 30], PSI_FLOOR), 0.0);
    }

    /// What shares of 1/4 and 3/4, turned round, give by hand.
    #[test]
    fn distances_have_the_values_computed_by_hand() {
        let (a, b) = ([1, 3], [30, 10]);
        let entropy = 0.25 * 4f64.ln() + 0.75 * (4f64 / 3.0).ln();
        let near = |x: f64, y: f64| assert!((x - y).abs() < 1e-14, "{x} is not {y}");
        near(psi(&a, &b, PSI_FLOOR), 3f64.ln());
        near(jensen_shannon(&a, &b, 2.0), ((2f64.ln() - entropy) / 2f64.ln()).sqrt());
        near(total_variation(&a, &b), 0.5);
        near(ks_binned(&a, &b), 0.5);
        near(wasserstein_binned(&a, &b, &[1.0, 7.0]), 3.0);
        near(hellinger(&a, &b), 0.75f64.sqrt() - 0.5);
        near(chi_square_homogeneity(&a, &b).statistic, 281_600.0 / 64_480.0);
        near(chi_square_goodness(&a, &b).statistic, 40.0 * 4.0 / 3.0);
    }

    #[test]
    fn far_apart_is_one_and_equal_is_zero() {
        let (a, b) = ([1, 0], [0, 1]);
        let bounded: [Distance; 4] =
            [|a, b| jensen_shannon(a, b, 2.0), hellinger, total_variation, ks_binned];
        for f in bounded {
            assert!((f(&a, &b) - 1.0).abs() < 1e-15);
            assert_eq!(f(&MOVED, &MOVED), 0.0);
        }
        assert_eq!(chi_square_homogeneity(&EVEN, &EVEN).p_value(), 1.0);
        assert_eq!(chi_square_goodness(&a, &b).statistic, f64::INFINITY);
    }

    #[test]
    fn histogram_of_nothing_has_no_distance() {
        let nothing = [0; 4];
        let some: [Distance; 4] = [
            |a, b| psi(a, b, PSI_FLOOR),
            |a, b| jensen_shannon(a, b, 2.0),
            hellinger,
            total_variation,
        ];
        for f in some {
            assert!(f(&EVEN, &nothing).is_nan() && f(&nothing, &EVEN).is_nan());
        }
        assert!(wasserstein_binned(&EVEN, &nothing, &[0.0, 1.0, 2.0, 3.0]).is_nan());
        assert!(ks_binned(&nothing, &EVEN).is_nan());
    }
}
