//! What this monitor makes of given rows, for `tests/judge.py`.
//!
//! Standard input: one JSON object a line, `config`, `reference` (absent for
//! none), `parts` (how many devices see the rows) and `columns`, lists of
//! texts, nulls and numbers, a number as the 16 hexadecimal digits of its f64
//! in an object `{"f": ...}`. Standard output: one list a line, of what was
//! measured, numbers in the same form.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Write, stdin, stdout};

use headland_monitor::Summary;
use headland_sdk::{
    Monitor,
    monitor::{Batch, Column, ColumnValues},
};
use monitor_performance::{Config, Counted, Performance, measure};
use serde_json::{Value, json};

fn main() {
    let mut out = stdout().lock();
    for line in stdin().lines() {
        let case: Value = serde_json::from_str(&line.unwrap()).unwrap();
        writeln!(out, "{}", answer(&case)).unwrap();
    }
}

fn answer(case: &Value) -> Value {
    let config: Config = serde_json::from_value(case["config"].clone()).unwrap();
    let reference = case.get("reference").map_or_else(Vec::new, |r| r.to_string().into_bytes());
    let columns: Vec<Column> = case["columns"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, cells)| Column { name: name.clone(), values: values(cells) })
        .collect();
    let rows = len(&columns[0].values);
    let parts = case["parts"].as_u64().unwrap() as usize;
    let summaries = (0..parts).map(|part| {
        // Every device starts anew, and sees every so many rows.
        let mut monitor = Performance::open(config.clone(), &reference).unwrap();
        let mine: Vec<usize> = (part..rows).step_by(parts).collect();
        monitor.observe(&batch(&columns, &mine)).unwrap();
        monitor.close_window()
    });
    let whole = summaries.reduce(|a, b| Performance::merge(&b, &a).unwrap()).unwrap();
    let counted = Counted::of(&config, &Summary::parse(&whole).unwrap()).unwrap();
    let measured = measure(&config, &counted);
    let one = |m: &monitor_performance::Measured| {
        json!({
            "metric": m.metric.name(),
            "class": m.class,
            "estimated": m.is_estimated,
            "value": hex(m.value),
            "bound": hex(m.bound),
            "error": hex(m.spread.standard_error()),
            "trials": m.spread.trials(),
            "rows": m.rows,
        })
    };
    json!({
        "measured": measured.iter().map(one).collect::<Vec<_>>(),
        "rows": counted.rows,
        "unlabelled": counted.unlabelled,
        "clipped": counted.clipped,
        "bytes": whole.len(),
    })
}

fn values(cells: &Value) -> ColumnValues {
    let cells = cells.as_array().unwrap();
    if cells.iter().any(Value::is_object) {
        let number = |cell: &Value| {
            cell.get("f").map_or(f64::NAN, |bits| {
                f64::from_bits(u64::from_str_radix(bits.as_str().unwrap(), 16).unwrap())
            })
        };
        return ColumnValues::Numeric(cells.iter().map(number).collect());
    }
    ColumnValues::Categorical(cells.iter().map(|c| c.as_str().map(str::to_owned)).collect())
}

fn len(values: &ColumnValues) -> usize {
    match values {
        ColumnValues::Numeric(values) => values.len(),
        ColumnValues::Categorical(values) => values.len(),
    }
}

fn batch(columns: &[Column], rows: &[usize]) -> Batch {
    let pick = |values: &ColumnValues| match values {
        ColumnValues::Numeric(values) => {
            ColumnValues::Numeric(rows.iter().map(|&i| values[i]).collect())
        }
        ColumnValues::Categorical(values) => {
            ColumnValues::Categorical(rows.iter().map(|&i| values[i].clone()).collect())
        }
    };
    Batch {
        frame_ids: rows.iter().map(|&i| i as u64).collect(),
        captured_at_ns: vec![0; rows.len()],
        columns: columns
            .iter()
            .map(|c| Column { name: c.name.clone(), values: pick(&c.values) })
            .collect(),
    }
}

fn hex(x: f64) -> String {
    format!("{:016x}", x.to_bits())
}
