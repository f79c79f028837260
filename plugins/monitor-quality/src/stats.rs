//! The tests that the checks are held against.

/// `ln Γ(x)` for `x > 0`, to about 1e-14 of relative error: Stirling's series
/// after a shift to `x >= 10`.
///
/// # Source
/// DLMF 5.5.1 and 5.11.1.
fn ln_gamma(mut x: f64) -> f64 {
    const HALF_LN_TWO_PI: f64 = 0.918_938_533_204_672_8;
    let mut shift = 0.0;
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    let series =
        1.0 / 12.0 - y * (1.0 / 360.0 - y * (1.0 / 1260.0 - y * (1.0 / 1680.0 - y / 1188.0)));
    (x - 0.5) * x.ln() - x + HALF_LN_TWO_PI + series / x - shift
}

/// A continued fraction `a1/(b1 + a2/(b2 + ...))` from its terms `(a, b)`, by
/// the modified Lentz method (DLMF 3.10(iii)).
fn continued_fraction(terms: impl Iterator<Item = (f64, f64)>) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_0 = |x: f64| if x.abs() < TINY { TINY } else { x };
    let (mut f, mut c, mut d) = (TINY, TINY, 0.0);
    for (a, b) in terms.take(100_000) {
        d = 1.0 / away_from_0(b + a * d);
        c = away_from_0(b + a / c);
        f *= c * d;
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    f
}

/// The regularised incomplete beta function `I_x(a, b)`.
///
/// # Source
/// DLMF 8.17.4 and 8.17.22.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast on this side only.
    if x > (a + 1.0) / (a + b + 2.0) {
        1.0 - beta_fraction(b, a, 1.0 - x)
    } else {
        beta_fraction(a, b, x)
    }
}

fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let terms = (0u32..).map(|i| {
        let m = f64::from(i / 2);
        let coefficient = match i {
            0 => 1.0,
            _ if i % 2 == 0 => m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            _ => -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        };
        (coefficient, 1.0)
    });
    let front = a * x.ln() + b * (-x).ln_1p() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    front.exp() / a * continued_fraction(terms)
}

/// The upper regularised incomplete gamma function `Q(a, x)`.
///
/// # Source
/// DLMF 8.7.1 below `a + 1`, 8.9.2 above.
fn incomplete_gamma_upper(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let front = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut k) = (1.0 / a, 1.0 / a, a);
        while term > sum * 1e-17 {
            k += 1.0;
            term *= x / k;
            sum += term;
        }
        1.0 - front * sum
    } else {
        let terms = (0u32..).map(|i| {
            let n = f64::from(i);
            let numerator = if i == 0 { 1.0 } else { -n * (n - a) };
            (numerator, x + 2.0 * n + 1.0 - a)
        });
        front * continued_fraction(terms)
    }
}

/// Where a rising function of `low..high` reaches `target`, by bisection down
/// to the last bit.
fn solve(mut low: f64, mut high: f64, target: f64, rising: impl Fn(f64) -> f64) -> f64 {
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if rising(middle) < target { low = middle } else { high = middle }
    }
}

/// `P(X >= k)` for `X` binomial of `n` trials with probability `p`.
pub fn binomial_upper_tail(k: u64, n: u64, p: f64) -> f64 {
    match k {
        0 => 1.0,
        k if k > n => 0.0,
        k => incomplete_beta(k as f64, (n - k) as f64 + 1.0, p),
    }
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
    solve(0.0, 1.0, confidence, |p| incomplete_beta(a, b, p))
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
    solve(0.0, 1.0, confidence, |p| incomplete_beta(2.0, (n - 1) as f64, p))
}

/// What a chi-squared variable of `degrees` degrees of freedom exceeds with
/// probability `alpha`.
pub fn chi2_upper_quantile(alpha: f64, degrees: u64) -> f64 {
    let a = degrees as f64 / 2.0;
    let mut high = degrees as f64 + 1.0;
    while incomplete_gamma_upper(a, high / 2.0) > alpha {
        high *= 2.0;
    }
    solve(0.0, high, -alpha, |x| -incomplete_gamma_upper(a, x / 2.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// SciPy's numbers, as `tests/reference.py` prints them.
    #[test]
    fn agree_with_scipy() {
        let reference: Value =
            serde_json::from_str(include_str!("../tests/reference.json")).unwrap();
        let check = |name: &str, tolerance: f64, f: &dyn Fn(&[f64]) -> f64| {
            let cases = reference[name].as_array().unwrap();
            assert!(cases.len() > 5);
            for case in cases {
                let args: Vec<f64> = serde_json::from_value(case["args"].clone()).unwrap();
                let expected = case["value"].as_f64().unwrap();
                let got = f(&args);
                assert!(
                    (got - expected).abs() <= tolerance * expected.abs(),
                    "{name}{args:?} is {got}, SciPy has {expected}"
                );
            }
        };
        check("binom.sf", 1e-8, &|a| binomial_upper_tail(a[0] as u64, a[1] as u64, a[2]));
        check("beta.ppf", 1e-10, &|a| clopper_pearson_upper(a[0] as u64, a[1] as u64, a[2]));
        check("chi2.isf", 1e-12, &|a| chi2_upper_quantile(a[0], a[1] as u64));
        check("beta.ppf(2,n-1)", 1e-10, &|a| wilks_outside_range(a[0] as u64, a[1]));
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
