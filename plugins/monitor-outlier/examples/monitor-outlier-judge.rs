//! What is learnt, how rows are scored and when there are too many outliers,
//! for `tests/judge.py` to hold against scikit-learn and SciPy.
//!
//! Standard input: one case a line; numbers that must arrive as they are, are
//! the bits of an f64. Standard output: one answer a line.
//!
//! ```text
//! {"method": "mahalanobis", "k": 5, "max_points": 100, "seed": 1, "squeezed": [],
//!  "threshold": ["quantile", 0.99], "columns": [["a", [bits, ...]], ...],
//!  "rows": [[bits, ...], ...]}
//!     -> {"reference": {...}, "numbers": {"threshold": bits, ...}, "scores": [bits, ...]}
//! {"good": 0.01, "scored": 500, "outliers": 20, "alpha": 0.01}
//!     -> {"threshold": bits of that for outlier-rate, or null where it is not exceeded}
//! ```

use std::{
    collections::BTreeMap,
    io::{Write, stdin, stdout},
};

use headland_monitor::{Column, ColumnValues, Digest, Summary};
use monitor_outlier::{
    Config, Counts, Kind, Method, Reference, Scorer, Scores, Threshold, evaluate, fit,
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(untagged)]
enum Case {
    Fit(Box<Fit>),
    Evaluate { good: f64, scored: u64, outliers: u64, alpha: f64 },
}

#[derive(Deserialize)]
struct Fit {
    method: String,
    k: u32,
    max_points: usize,
    seed: u64,
    squeezed: Vec<String>,
    threshold: (String, f64),
    columns: Vec<(String, Vec<u64>)>,
    rows: Vec<Vec<u64>>,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let mut out = stdout().lock();
    for line in stdin().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Case::Fit(case) => learn(*case)?,
            Case::Evaluate { good, scored, outliers, alpha } => {
                judge(good, scored, outliers, alpha)?
            }
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn numbers(bits: &[u64]) -> Vec<f64> {
    bits.iter().map(|&b| f64::from_bits(b)).collect()
}

fn bits(numbers: &[f64]) -> Vec<u64> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

fn learn(case: Fit) -> Result<Value> {
    let Fit { method, k, max_points, seed, squeezed, threshold, columns, rows } = case;
    let names: Vec<String> =
        columns.iter().map(|(name, _)| name.clone()).filter(|n| !squeezed.contains(n)).collect();
    let columns: Vec<Column> = columns
        .into_iter()
        .map(|(name, values)| Column { name, values: ColumnValues::Numeric(numbers(&values)) })
        .collect();
    let method = match method.as_str() {
        "mahalanobis" => Method::Mahalanobis,
        "reconstruction" => Method::Reconstruction,
        "nearest" => Method::Nearest { k, max_points, seed },
        "squeezing" => Method::Squeezing { squeezed },
        other => return Err(format!("no method {other}").into()),
    };
    let threshold = match (threshold.0.as_str(), threshold.1) {
        ("quantile", q) => Threshold::Quantile(q),
        ("chi2", alpha) => Threshold::Chi2 { alpha },
        (other, _) => return Err(format!("no threshold {other}").into()),
    };
    let reference = fit(&columns, &names, &method, threshold)?;
    let mut scorer = Scorer::new(&reference);
    let scores: Vec<f64> =
        rows.iter().map(|row| scorer.score(&numbers(row)).unwrap_or(f64::NAN)).collect();
    let mut exact = BTreeMap::from([
        ("threshold", bits(&[reference.threshold])),
        ("max-outlier-rate", bits(&[reference.max_outlier_rate])),
        ("max-unscored-rate", bits(&[reference.max_unscored_rate])),
        ("edges", bits(&reference.scores.edges)),
    ]);
    match &reference.kind {
        Kind::Mahalanobis { mean, factor } => {
            exact.extend([("mean", bits(mean)), ("factor", bits(factor))]);
        }
        Kind::Nearest { scale, points, .. } => {
            exact.extend([("scale", bits(scale)), ("points", bits(points))]);
        }
        Kind::Reconstruction {} | Kind::Squeezing { .. } => {}
    }
    Ok(json!({ "reference": reference, "numbers": exact, "scores": bits(&scores) }))
}

fn judge(good: f64, scored: u64, outliers: u64, alpha: f64) -> Result<Value> {
    let reference = Reference {
        version: 1,
        columns: vec!["error".to_owned()],
        kind: Kind::Reconstruction {},
        threshold: 1.0,
        rows: 1,
        max_outlier_rate: good,
        max_unscored_rate: 1.0,
        scores: Scores { edges: Vec::new(), counts: vec![1] },
    };
    let config = Config { alpha, min_rows: 0, min_excess_rate: 0.0, ..Config::default() };
    let mut summary = Summary::empty("monitor-outlier", Digest::NONE);
    summary.rows = scored;
    let counts = Counts { scored, outliers, ..Counts::empty(&reference) };
    counts.write(&mut summary);
    let findings = evaluate(&config, &reference, &summary)?;
    let found = findings.iter().find(|f| f.check == "outlier-rate");
    Ok(json!({ "threshold": found.map(|f| f.threshold.to_bits()) }))
}
