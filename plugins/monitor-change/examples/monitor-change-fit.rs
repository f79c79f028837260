//! Learns from good rows how often detectors go off on them.
//!
//! Argument: a file with the monitor's configuration, as JSON. Standard input:
//! one JSON object a line, in the order in which the rows came, a key a column
//! of numbers. Standard output: the configuration, each detector with its
//! `max-change-rate`.
//!
//! ```sh
//! cargo run --release -p monitor-change --example monitor-change-fit -- \
//!     config.json < rows.jsonl
//! ```

use std::io::{Write, stdin, stdout};

use monitor_change::{Config, fit};
use serde_json::{Map, Value};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which configuration?")?;
    let mut config: Config = serde_json::from_slice(&std::fs::read(path)?)?;
    config.check()?;
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); config.detectors.len()];
    for line in stdin().lines() {
        let row: Map<String, Value> = serde_json::from_str(&line?)?;
        for (detector, values) in config.detectors.iter().zip(&mut columns) {
            let value = row.get(&detector.column).and_then(Value::as_f64);
            values.push(value.unwrap_or(f64::NAN));
        }
    }
    for (detector, values) in config.detectors.iter_mut().zip(&columns) {
        detector.max_change_rate = Some(fit(detector, values)?.max_change_rate);
    }
    writeln!(stdout(), "{}", serde_json::to_string_pretty(&config)?)?;
    Ok(())
}
