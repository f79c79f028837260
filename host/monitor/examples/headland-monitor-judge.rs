//! Our numbers, for `tests/judge.py` to hold against SciPy's.
//!
//! Standard input: a JSON object a line, `f` the function and its arguments in
//! `numbers`, `counts` and `samples`. Standard output: a list a line. Floats
//! go both ways as their bits, so that JSON rounds nothing.

use std::io::{BufRead, Write, stdin, stdout};

use headland_monitor::stats;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    f: String,
    #[serde(default)]
    numbers: Vec<u64>,
    #[serde(default)]
    counts: Vec<Vec<u64>>,
    #[serde(default)]
    samples: Vec<Vec<u64>>,
}

fn main() -> Result<(), String> {
    let mut out = stdout().lock();
    for line in stdin().lock().lines() {
        let line = line.map_err(|e| e.to_string())?;
        let case: Case = serde_json::from_str(&line).map_err(|e| format!("{line}: {e}"))?;
        let numbers = answer(&case).ok_or_else(|| format!("no such function: {line}"))?;
        let bits: Vec<u64> = numbers.into_iter().map(f64::to_bits).collect();
        writeln!(out, "{bits:?}").map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn answer(case: &Case) -> Option<Vec<f64>> {
    let floats = |bits: &[u64]| bits.iter().map(|&b| f64::from_bits(b)).collect::<Vec<_>>();
    let numbers = floats(&case.numbers);
    if let [a, b] = case.samples.as_slice() {
        let (d, p) = stats::ks_two_sample(&floats(a), &floats(b));
        return (case.f == "ks_two_sample").then(|| vec![d, p]);
    }
    if let [a, b] = case.counts.as_slice() {
        let one = |value: f64| vec![value];
        let test = |t: stats::ChiSquare| vec![t.statistic, t.degrees, t.p_value()];
        return Some(match (case.f.as_str(), numbers.as_slice()) {
            ("psi", [floor]) => one(stats::psi(a, b, *floor)),
            ("jensen_shannon", [base]) => one(stats::jensen_shannon(a, b, *base)),
            ("hellinger", []) => one(stats::hellinger(a, b)),
            ("total_variation", []) => one(stats::total_variation(a, b)),
            ("ks_binned", []) => one(stats::ks_binned(a, b)),
            ("wasserstein_binned", positions) => one(stats::wasserstein_binned(a, b, positions)),
            ("chi_square_homogeneity", []) => test(stats::chi_square_homogeneity(a, b)),
            ("chi_square_goodness", []) => test(stats::chi_square_goodness(a, b)),
            _ => return None,
        });
    }
    let value = match (case.f.as_str(), numbers.as_slice()) {
        ("binomial_upper_tail", &[k, n, p]) => stats::binomial_upper_tail(k as u64, n as u64, p),
        ("binomial_lower_tail", &[k, n, p]) => stats::binomial_lower_tail(k as u64, n as u64, p),
        ("clopper_pearson_upper", &[k, n, c]) => {
            stats::clopper_pearson_upper(k as u64, n as u64, c)
        }
        ("clopper_pearson_lower", &[k, n, c]) => {
            stats::clopper_pearson_lower(k as u64, n as u64, c)
        }
        ("wilks_outside_range", &[n, c]) => stats::wilks_outside_range(n as u64, c),
        ("chi2_upper_tail", &[x, k]) => stats::chi2_upper_tail(x, k),
        ("chi2_upper_quantile", &[a, k]) => stats::chi2_upper_quantile(a, k),
        ("normal_upper_tail", &[z]) => stats::normal_upper_tail(z),
        ("normal_upper_quantile", &[a]) => stats::normal_upper_quantile(a),
        ("kolmogorov_upper_tail", &[x]) => stats::kolmogorov_upper_tail(x),
        ("kolmogorov_upper_quantile", &[a]) => stats::kolmogorov_upper_quantile(a),
        _ => return None,
    };
    Some(vec![value])
}
