//! Learns a reference from good rows.
//!
//! Standard input: one JSON object a line, a key a feature, null for a missing
//! value; numbers make a numeric feature, texts a categorical one. Standard
//! output: the reference that a package ships.
//!
//! ```sh
//! cargo run --release -p monitor-quality --example fit < rows.jsonl > reference.json
//! ```

use std::io::{Write, stdin, stdout};

use headland_sdk::monitor::{Column, ColumnValues};
use serde_json::{Map, Value};

fn main() -> Result<(), String> {
    let mut rows: Vec<Map<String, Value>> = Vec::new();
    for (i, line) in stdin().lines().enumerate() {
        let line = line.map_err(|e| format!("line {}: {e}", i + 1))?;
        rows.push(serde_json::from_str(&line).map_err(|e| format!("line {}: {e}", i + 1))?);
    }
    let names = rows.first().ok_or("no rows")?.keys().cloned();
    let columns = names.map(|name| column(&rows, name)).collect::<Result<Vec<_>, _>>()?;
    let reference = monitor_quality::fit(&columns)?;
    stdout().write_all(&reference.to_json()).map_err(|e| e.to_string())
}

/// The column of one key, typed by the first value that is there.
fn column(rows: &[Map<String, Value>], name: String) -> Result<Column, String> {
    let cells: Vec<&Value> =
        rows.iter().map(|row| row.get(&name).unwrap_or(&Value::Null)).collect();
    let is_text = cells.iter().find(|v| !v.is_null()).is_some_and(|v| v.is_string());
    let wrong = |v: &Value| format!("column `{name}`: {v} beside values of another type");
    let values = if is_text {
        let texts = cells.iter().map(|v| match v {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            other => Err(wrong(other)),
        });
        ColumnValues::Categorical(texts.collect::<Result<_, _>>()?)
    } else {
        let numbers = cells.iter().map(|v| match v {
            Value::Null => Ok(f64::NAN),
            other => other.as_f64().ok_or_else(|| wrong(other)),
        });
        ColumnValues::Numeric(numbers.collect::<Result<_, _>>()?)
    };
    Ok(Column { name, values })
}
