//! Gamma and beta functions, to about 1e-13 of relative error.
//!
//! What stands in front of the incomplete functions is a point of the Poisson
//! or binomial distribution. Its logarithm is a small difference of large
//! numbers, so it is computed by Loader's saddle-point expansion, which
//! leaves the large numbers out.
//!
//! # Source
//! Loader, "Fast and accurate computation of binomial probabilities" (2000);
//! DLMF chapters 5 and 8.

use std::f64::consts::TAU;

/// What Stirling's formula lacks:
/// `ln Γ(x + 1) - (x + 1/2) ln x + x - ln(2π) / 2`, for `x > 0`.
///
/// # Source
/// DLMF 5.11.1, after a shift to `x >= 10`.
fn stirling_error(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 10.0 {
        shift += (x + 0.5) * (1.0 / x).ln_1p() - 1.0;
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    let series =
        1.0 / 12.0 - y * (1.0 / 360.0 - y * (1.0 / 1260.0 - y * (1.0 / 1680.0 - y / 1188.0)));
    shift + series / x
}

/// `x ln(x / mean) + mean - x`, without the cancellation near `x = mean`.
fn deviance(x: f64, mean: f64) -> f64 {
    let relative = (x - mean) / (x + mean);
    if relative.abs() >= 0.1 {
        return x * (x / mean).ln() + mean - x;
    }
    let mut sum = (x - mean) * relative;
    let mut power = 2.0 * x * relative;
    let mut odd = 1.0;
    loop {
        power *= relative * relative;
        odd += 2.0;
        let next = sum + power / odd;
        if next == sum {
            return sum;
        }
        sum = next;
    }
}

/// `x^a e^-x / Γ(a + 1)`.
fn poisson_point(a: f64, x: f64) -> f64 {
    (-stirling_error(a) - deviance(a, x)).exp() / (TAU * a).sqrt()
}

/// `x^a y^b Γ(a + b + 1) / (Γ(a + 1) Γ(b + 1))` for `y = 1 - x`.
fn binomial_point(a: f64, b: f64, x: f64, y: f64) -> f64 {
    let n = a + b;
    let exponent = stirling_error(n)
        - stirling_error(a)
        - stirling_error(b)
        - deviance(a, n * x)
        - deviance(b, n * y);
    exponent.exp() * (n / (TAU * a * b)).sqrt()
}

/// A continued fraction `a0/(b0 + a1/(b1 + ...))` from its terms `(a, b)`, by
/// the modified Lentz method (DLMF 3.10(iii)).
fn continued_fraction(term: &dyn Fn(u32) -> (f64, f64)) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_0 = |x: f64| if x.abs() < TINY { TINY } else { x };
    let (mut f, mut c, mut d) = (TINY, TINY, 0.0);
    for i in 0..100_000 {
        let (a, b) = term(i);
        d = 1.0 / away_from_0(b + a * d);
        c = away_from_0(b + a / c);
        f *= c * d;
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    f
}

/// The regularised incomplete beta function `I_x(a, b)`, given `y = 1 - x`,
/// too, which a caller may know better.
///
/// # Source
/// DLMF 8.17.4 and 8.17.22.
pub fn incomplete_beta(a: f64, b: f64, x: f64, y: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if y <= 0.0 {
        return 1.0;
    }
    // The fraction converges fast on this side only.
    if x > (a + 1.0) / (a + b + 2.0) {
        1.0 - beta_fraction(b, a, y, x)
    } else {
        beta_fraction(a, b, x, y)
    }
}

fn beta_fraction(a: f64, b: f64, x: f64, y: f64) -> f64 {
    let term = |i: u32| {
        let m = f64::from(i / 2);
        let coefficient = match i {
            0 => 1.0,
            _ if i.is_multiple_of(2) => m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            _ => -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        };
        (coefficient, 1.0)
    };
    binomial_point(a, b, x, y) * b / (a + b) * continued_fraction(&term)
}

/// The upper regularised incomplete gamma function `Q(a, x)`.
///
/// # Source
/// DLMF 8.7.1 below `a + 1`, 8.9.2 above.
pub fn incomplete_gamma_upper(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let front = a * poisson_point(a, x);
    if x < a + 1.0 {
        let (mut term, mut sum, mut k) = (1.0 / a, 1.0 / a, a);
        while term > sum * 1e-17 {
            k += 1.0;
            term *= x / k;
            sum += term;
        }
        1.0 - front * sum
    } else {
        let term = |i: u32| {
            let n = f64::from(i);
            let numerator = if i == 0 { 1.0 } else { -n * (n - a) };
            (numerator, x + 2.0 * n + 1.0 - a)
        };
        front * continued_fraction(&term)
    }
}

/// Where a rising function of `low..high` reaches `target`, by bisection down
/// to the last bit.
pub fn solve(mut low: f64, mut high: f64, target: f64, rising: &dyn Fn(f64) -> f64) -> f64 {
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if rising(middle) < target { low = middle } else { high = middle }
    }
}
