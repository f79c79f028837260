//! Learns a reference from good rows.
//!
//! Standard input: one JSON object a line, a key a column of numbers, null for
//! a missing one. Standard output: the reference that a package ships.
//!
//! ```sh
//! cargo run --release -p monitor-outlier --example monitor-outlier-fit -- \
//!     mahalanobis 0.99 < rows.jsonl > reference.json
//! ```
//!
//! Methods: `mahalanobis`, `nearest` (the fifth neighbour among up to 100
//! rows), `reconstruction`, and `squeezing`, whose second half of keys is the
//! counterpart of the first, in order. The number is the share of good rows
//! that are no outliers.

use std::io::{Write, stdin, stdout};

use headland_monitor::{Column, ColumnValues};
use monitor_outlier::{Method, Threshold, fit};
use serde_json::{Map, Value};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(method), Some(share)) = (args.next(), args.next()) else {
        return Err("which method, and which share of good rows is no outlier?".into());
    };
    let mut columns: Vec<(String, Vec<f64>)> = Vec::new();
    for line in stdin().lines() {
        let row: Map<String, Value> = serde_json::from_str(&line?)?;
        if columns.is_empty() {
            columns = row.keys().map(|name| (name.clone(), Vec::new())).collect();
        }
        for (name, values) in &mut columns {
            values.push(match row.get(name) {
                None | Some(Value::Null) => f64::NAN,
                Some(value) => value.as_f64().ok_or(format!("`{name}`: {value} is no number"))?,
            });
        }
    }
    let mut names: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
    let method = match method.as_str() {
        "mahalanobis" => Method::Mahalanobis,
        "nearest" => {
            Method::Nearest { k: 5, max_points: (4096 / names.len().max(1)).min(100), seed: 0 }
        }
        "reconstruction" => Method::Reconstruction,
        "squeezing" => Method::Squeezing { squeezed: names.split_off(names.len() / 2) },
        other => return Err(format!("there is no method `{other}`").into()),
    };
    let columns: Vec<Column> = columns
        .into_iter()
        .map(|(name, values)| Column { name, values: ColumnValues::Numeric(values) })
        .collect();
    let reference = fit(&columns, &names, &method, Threshold::Quantile(share.parse()?))?;
    writeln!(stdout(), "{}", serde_json::to_string_pretty(&reference)?)?;
    Ok(())
}
