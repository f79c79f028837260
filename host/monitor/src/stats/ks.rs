//! The two-sample test of Kolmogorov and Smirnov over raw values.

use super::distributions::kolmogorov_upper_tail;

/// Samples of up to this size get an exact p-value, as in SciPy.
const EXACT_ROWS: usize = 10_000;

/// The two-sided two-sample Kolmogorov-Smirnov statistic, and the probability
/// of one at least as large from two samples of one continuous distribution.
///
/// The probability is exact for samples of up to 10 000 values, with the
/// smaller one's size in memory and the product of both in time, and
/// Kolmogorov's limit beyond. Of an empty sample it is `(0, 1)`. The caller
/// leaves NaN out.
///
/// # Source
/// The exact one counts lattice paths, as Hodges, Arkiv för Matematik 3
/// (1958).
pub fn ks_two_sample(a: &[f64], b: &[f64]) -> (f64, f64) {
    let (m, n) = (a.len() as u64, b.len() as u64);
    if m == 0 || n == 0 {
        return (0.0, 1.0);
    }
    let sorted = |sample: &[f64]| {
        let mut sample = sample.to_vec();
        sample.sort_unstable_by(f64::total_cmp);
        sample
    };
    let steps = greatest_gap(&sorted(a), &sorted(b));
    let common = gcd(m, n);
    let d = (steps / common) as f64 / (m / common * n) as f64;
    let p = if a.len().max(b.len()) <= EXACT_ROWS {
        exact(m.min(n), m.max(n), steps)
    } else {
        let size = (m as f64 * n as f64 / (m + n) as f64).sqrt();
        kolmogorov_upper_tail(size * d).clamp(0.0, 1.0)
    };
    (d, p)
}

/// The greatest difference of the two empirical distribution functions, in
/// units of `1 / (m n)`: an integer, so that nothing depends on rounding.
fn greatest_gap(a: &[f64], b: &[f64]) -> u64 {
    let (m, n) = (a.len() as u64, b.len() as u64);
    let (mut i, mut j, mut gap) = (0, 0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        // Equal values are one step of both.
        let at = x.min(*y);
        i += a[i..].iter().take_while(|v| **v <= at).count();
        j += b[j..].iter().take_while(|v| **v <= at).count();
        gap = gap.max((i as u64 * n).abs_diff(j as u64 * m));
    }
    gap
}

/// The probability that a random path from `(0, 0)` to `(m, n)` leaves
/// `|i n - j m| < steps`, for `m <= n`.
///
/// A random path comes to `(i, j)` from `(i - 1, j)` with probability
/// `i / (i + j)`. Only products of probabilities are added, so that small
/// results are as exact as large ones.
fn exact(m: u64, n: u64, steps: u64) -> f64 {
    if steps == 0 {
        return 1.0;
    }
    let mut left = vec![0.0; m as usize + 1];
    for j in 0..=n {
        for i in 0..=m {
            let at = i as usize;
            left[at] = if (i * n).abs_diff(j * m) >= steps {
                1.0
            } else if i == 0 {
                // Straight along the edge, from a point that was inside.
                0.0
            } else {
                (i as f64 * left[at - 1] + j as f64 * left[at]) / (i + j) as f64
            };
        }
    }
    left[m as usize]
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted by hand: of the 20 orders of two samples of three, 2 have all
    /// of one first, and 12 have a gap of at least two.
    #[test]
    fn samples_of_three_have_the_probabilities_counted_by_hand() {
        let (d, p) = ks_two_sample(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]);
        assert_eq!(d, 1.0);
        assert!((p - 2.0 / 20.0).abs() < 1e-15);
        let (d, p) = ks_two_sample(&[1.0, 2.0, 4.0], &[3.0, 5.0, 6.0]);
        assert_eq!(d, 2.0 / 3.0);
        assert!((p - 12.0 / 20.0).abs() < 1e-15);
    }

    #[test]
    fn equal_values_are_one_step_and_equal_samples_differ_in_nothing() {
        assert_eq!(ks_two_sample(&[0.0; 50], &[-0.0; 20]), (0.0, 1.0));
        assert_eq!(ks_two_sample(&[1.0, 1.0, 2.0], &[2.0, 1.0, 1.0]), (0.0, 1.0));
    }

    #[test]
    fn empty_sample_says_nothing() {
        assert_eq!(ks_two_sample(&[], &[1.0]), (0.0, 1.0));
        assert_eq!(ks_two_sample(&[1.0], &[]), (0.0, 1.0));
    }

    #[test]
    fn infinities_are_values_like_others() {
        let (d, _) = ks_two_sample(&[f64::NEG_INFINITY, 0.0], &[0.0, f64::INFINITY]);
        assert_eq!(d, 0.5);
    }
}
