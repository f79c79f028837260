//! Tails, quantiles and bounds.

use std::f64::consts::{PI, SQRT_2};

use super::special::{incomplete_beta, incomplete_gamma_upper, solve};

/// `P(X >= k)` for `X` binomial of `n` trials with probability `p`.
pub fn binomial_upper_tail(k: u64, n: u64, p: f64) -> f64 {
    match k {
        0 => 1.0,
        k if k > n => 0.0,
        k => incomplete_beta(k as f64, (n - k) as f64 + 1.0, p, 1.0 - p),
    }
}

/// `P(X <= k)` for `X` binomial of `n` trials with probability `p`.
pub fn binomial_lower_tail(k: u64, n: u64, p: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    incomplete_beta((n - k) as f64, k as f64 + 1.0, 1.0 - p, p)
}

/// The smallest count of `n` trials whose binomial upper tail at `p` is at
/// most `alpha`; `n + 1` when no count is that rare.
pub fn binomial_critical_count(n: u64, p: f64, alpha: f64) -> u64 {
    let (mut low, mut high) = (0, n + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if binomial_upper_tail(middle, n, p) <= alpha { high = middle } else { low = middle + 1 }
    }
    low
}

/// The one-sided upper confidence bound for a probability of which `k` of `n`
/// trials were seen.
///
/// # Source
/// Clopper and Pearson, Biometrika 26 (1934).
pub fn clopper_pearson_upper(k: u64, n: u64, confidence: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    let (a, b) = (k as f64 + 1.0, (n - k) as f64);
    solve(0.0, 1.0, confidence, &|p| incomplete_beta(a, b, p, 1.0 - p))
}

/// The one-sided lower confidence bound for a probability of which `k` of `n`
/// trials were seen.
///
/// # Source
/// Clopper and Pearson, Biometrika 26 (1934).
pub fn clopper_pearson_lower(k: u64, n: u64, confidence: f64) -> f64 {
    if k == 0 {
        return 0.0;
    }
    let (a, b) = (k as f64, n.saturating_sub(k) as f64 + 1.0);
    solve(0.0, 1.0, 1.0 - confidence, &|p| incomplete_beta(a, b, p, 1.0 - p))
}

/// The upper confidence bound, whatever the distribution, for the probability
/// that a further value falls outside the range of `n`.
///
/// # Source
/// Wilks, Annals of Mathematical Statistics 12 (1941): what the range of `n`
/// values leaves out is distributed as Beta(2, n - 1).
pub fn wilks_outside_range(n: u64, confidence: f64) -> f64 {
    if n < 2 {
        return 1.0;
    }
    solve(0.0, 1.0, confidence, &|p| incomplete_beta(2.0, (n - 1) as f64, p, 1.0 - p))
}

/// The probability that a chi-squared variable of `degrees` degrees of
/// freedom, which need not be whole, exceeds `x`.
pub fn chi2_upper_tail(x: f64, degrees: f64) -> f64 {
    incomplete_gamma_upper(degrees / 2.0, x / 2.0)
}

/// What a chi-squared variable of `degrees` degrees of freedom, which need not
/// be whole, exceeds with probability `alpha`.
pub fn chi2_upper_quantile(alpha: f64, degrees: f64) -> f64 {
    let mut high = degrees + 1.0;
    while chi2_upper_tail(high, degrees) > alpha {
        high *= 2.0;
    }
    solve(0.0, high, -alpha, &|x| -chi2_upper_tail(x, degrees))
}

/// The probability that a standard normal variable exceeds `z`.
///
/// # Source
/// DLMF 7.11.1: `erfc` is an incomplete gamma function.
pub fn normal_upper_tail(z: f64) -> f64 {
    let half = 0.5 * incomplete_gamma_upper(0.5, z / SQRT_2 * (z / SQRT_2));
    if z < 0.0 { 1.0 - half } else { half }
}

/// What a standard normal variable exceeds with probability `alpha`.
pub fn normal_upper_quantile(alpha: f64) -> f64 {
    if alpha > 0.5 {
        return -normal_upper_quantile(1.0 - alpha);
    }
    // Beyond 39 the tail is 0 in f64.
    solve(0.0, 39.0, -alpha, &|z| -normal_upper_tail(z))
}

/// The probability that a variable of Kolmogorov's distribution exceeds `x`:
/// the limit of `sqrt(n m / (n + m)) D` of two samples of one distribution.
///
/// # Source
/// Kolmogorov (1933); below 1 by its theta-function dual, which converges
/// there.
pub fn kolmogorov_upper_tail(x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    if x < 1.0 {
        let mut sum = 0.0;
        for k in [1.0, 3.0, 5.0, 7.0] {
            sum += (-(k * PI / x).powi(2) / 8.0).exp();
        }
        return 1.0 - (2.0 * PI).sqrt() / x * sum;
    }
    let mut sum = 0.0;
    for (k, sign) in [(1.0, 1.0), (2.0, -1.0), (3.0, 1.0), (4.0, -1.0), (5.0, 1.0)] {
        sum += sign * (-2.0 * (k * x).powi(2)).exp();
    }
    2.0 * sum
}

/// What a variable of Kolmogorov's distribution exceeds with probability
/// `alpha`.
pub fn kolmogorov_upper_quantile(alpha: f64) -> f64 {
    // Beyond 20 the tail is 0 in f64.
    solve(0.0, 20.0, -alpha, &|x| -kolmogorov_upper_tail(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(ours: f64, published: f64) {
        let relative = (ours / published - 1.0).abs();
        assert!(relative < 1e-11, "{ours} is not {published}");
    }

    /// A few of SciPy 1.17's; `tests/judge.py` has the thousands.
    #[test]
    fn agree_with_scipy() {
        near(binomial_upper_tail(16, 500, 0.01), 6.14585658159338e-05);
        near(clopper_pearson_upper(0, 100, 0.99), 0.045007413978564045);
        near(chi2_upper_quantile(0.05, 1.0), 3.841458820694124);
        near(normal_upper_quantile(0.025), 1.959963984540054);
        near(kolmogorov_upper_quantile(0.05), 1.3580986393225505);
    }

    #[test]
    fn bounds_of_nothing_and_of_all_are_closed() {
        assert_eq!(clopper_pearson_lower(0, 10, 0.99), 0.0);
        assert_eq!(clopper_pearson_upper(10, 10, 0.99), 1.0);
        assert_eq!(binomial_upper_tail(0, 10, 0.1), 1.0);
        assert_eq!(binomial_upper_tail(11, 10, 0.1), 0.0);
        assert_eq!(binomial_lower_tail(10, 10, 0.1), 1.0);
        assert_eq!(wilks_outside_range(1, 0.99), 1.0);
    }

    #[test]
    fn critical_count_is_the_first_rare_one() {
        for (n, p, alpha) in [(50, 0.1, 0.01), (1000, 0.003, 1e-4), (100_000, 0.02, 1e-6)] {
            let k = binomial_critical_count(n, p, alpha);
            assert!(binomial_upper_tail(k, n, p) <= alpha);
            assert!(binomial_upper_tail(k - 1, n, p) > alpha);
        }
        assert_eq!(binomial_critical_count(50, 0.0, 0.01), 1);
        assert_eq!(binomial_critical_count(3, 0.9, 0.01), 4);
    }
}
