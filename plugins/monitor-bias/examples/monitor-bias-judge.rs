//! What this monitor makes of given rows, for `tests/judge.py`.
//!
//! Standard input: one JSON object a line, `config`, `parts` (how many devices
//! see the rows), `z` and `columns`, lists of texts, numbers and nulls.
//! Standard output: one object a line, of each metric that is defined its
//! value, and of the two facets' shares and their difference the intervals,
//! numbers as the 16 hexadecimal digits of their f64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    io::{Write, stdin, stdout},
};

use headland_monitor::Summary;
use headland_sdk::{
    Monitor,
    monitor::{Batch, Column, ColumnValues},
};
use monitor_bias::{Bias, Config, Counts, Metric, newcombe, wilson};
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
    let columns: Vec<(&String, &Vec<Value>)> = case["columns"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, cells)| (name, cells.as_array().unwrap()))
        .collect();
    let parts = case["parts"].as_u64().unwrap() as usize;
    let summaries = (0..parts).map(|part| {
        // Every device starts anew, and sees every so many rows.
        let mut monitor = Bias::open(config.clone(), &[]).unwrap();
        monitor.observe(&batch(&columns, part, parts)).unwrap();
        monitor.close_window()
    });
    let whole = summaries.reduce(|a, b| Bias::merge(&b, &a).unwrap()).unwrap();
    let counts = Counts::of(&config, &Summary::parse(&whole).unwrap()).unwrap();
    let values: BTreeMap<&str, String> = Metric::ALL
        .into_iter()
        .filter(|&metric| config.has_columns_for(metric))
        .filter_map(|metric| Some((metric.name(), hex(metric.value(&counts)?))))
        .collect();
    let z = case["z"].as_f64().unwrap();
    let rate = Metric::Dppl.rate().unwrap();
    let [a, d]: [f64; 2] = counts
        .all
        .map(|facet| facet.iter().enumerate().filter(|(i, _)| i % 3 < 2).map(|(_, n)| n).sum());
    let hits = [counts.advantaged(), counts.disadvantaged()]
        .map(|facet| facet.iter().step_by(3).sum::<f64>());
    let intervals = [wilson(hits[0], a, z), wilson(hits[1], d, z), newcombe(rate, &counts, z)];
    json!({
        "values": values,
        "intervals": intervals.map(|(low, high)| [hex(low), hex(high)]),
        "bytes": whole.len(),
    })
}

fn batch(columns: &[(&String, &Vec<Value>)], part: usize, parts: usize) -> Batch {
    let mine = |cells: &Vec<Value>| -> Vec<Value> {
        cells.iter().skip(part).step_by(parts).cloned().collect()
    };
    let column = |(name, cells): &(&String, &Vec<Value>)| {
        let values = if cells.iter().any(Value::is_number) {
            let number = |cell: &Value| cell.as_f64().unwrap_or(f64::NAN);
            ColumnValues::Numeric(mine(cells).iter().map(number).collect())
        } else {
            let text = |cell: &Value| cell.as_str().map(str::to_owned);
            ColumnValues::Categorical(mine(cells).iter().map(text).collect())
        };
        Column { name: (*name).clone(), values }
    };
    let columns: Vec<Column> = columns.iter().map(column).collect();
    let rows = match &columns[0].values {
        ColumnValues::Numeric(values) => values.len(),
        ColumnValues::Categorical(values) => values.len(),
    };
    Batch { frame_ids: (0..rows as u64).collect(), captured_at_ns: vec![0; rows], columns }
}

fn hex(x: f64) -> String {
    format!("{:016x}", x.to_bits())
}
