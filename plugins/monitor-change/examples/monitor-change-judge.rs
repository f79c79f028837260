//! What the detectors say, for `tests/judge.py` to hold against river.
//!
//! Standard input: one case a line; numbers are the bits of an f64, so that
//! they arrive as they are. Standard output: one answer a line.
//!
//! ```text
//! {"detector": {"column": "x", "method": "adwin"}, "values": [bits, ...]}
//!     -> {"changes": [row, ...], "warnings": [row, ...], "after": [bits, ...],
//!         "windows": [[width, bits of total, bits of variance], ...]}
//! {"ks": [n, h]}
//!     -> {"p": bits}
//! ```
//!
//! `after` is the mean after each change, `windows` ADWIN's after every row.

use std::io::{Write, stdin, stdout};

use monitor_change::{Detector, DetectorConfig, Method, Signal, ks_p_value};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
#[serde(untagged)]
enum Case {
    Stream { detector: Box<DetectorConfig>, values: Vec<u64> },
    Ks { ks: (u32, u32) },
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = stdout().lock();
    for line in stdin().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Case::Stream { detector, values } => stream(&detector.parameters()?, &values),
            Case::Ks { ks: (n, h) } => json!({ "p": ks_p_value(n, h).to_bits() }),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn stream(method: &Method, values: &[u64]) -> serde_json::Value {
    let mut detector = Detector::new(method);
    let (mut changes, mut warnings, mut after, mut windows) = (vec![], vec![], vec![], vec![]);
    for (row, &bits) in values.iter().enumerate() {
        match detector.update(f64::from_bits(bits)) {
            None => {}
            Some(Signal::Warning(_)) => warnings.push(row),
            Some(Signal::Change(change)) => {
                changes.push(row);
                after.push(change.after.to_bits());
            }
        }
        if let Detector::Adwin(adwin) = &detector {
            let (total, variance) = (adwin.total(), adwin.variance());
            windows.push((adwin.width(), total.to_bits(), variance.to_bits()));
        }
    }
    json!({ "changes": changes, "warnings": warnings, "after": after, "windows": windows })
}
