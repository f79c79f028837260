//! Rows from files: CSV, JSON Lines, Parquet and NumPy.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, bail};
use headland_monitor::{Column, ColumnValues};
use headland_pipeline::{Cell, Row};
use headland_tensor::Tensor;
use parquet::{
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::Field,
};
use serde_json::{Map, Value};

use crate::{npy, source};

/// Columns of one table.
const MAX_COLUMNS: usize = 4_096;

/// A table: columns of one length.
#[derive(Debug, Clone, PartialEq)]
pub struct Table(Vec<Column>);

impl Table {
    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.0
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.0.first().map_or(0, |c| c.values.len())
    }

    /// The rows as a monitor is given them; frames are numbered and times rise
    /// by a nanosecond from `start_ns`, since a table says nothing of either.
    pub fn monitor_rows(&self, start_ns: u64) -> impl Iterator<Item = Row> {
        (0..self.rows()).map(move |i| Row {
            frame_id: i as u64,
            captured_at_ns: start_ns.saturating_add(i as u64),
            cells: self.0.iter().map(|c| (c.name.clone(), cell(&c.values, i))).collect(),
        })
    }

    /// The rows as JSON objects, as a source gives them to a pipeline.
    pub fn objects(&self) -> impl Iterator<Item = Map<String, Value>> {
        (0..self.rows()).map(|i| {
            let value = |values: &ColumnValues| match cell(values, i) {
                Cell::Numeric(x) => whole(x),
                Cell::Categorical(text) => Value::String(text),
                Cell::Missing => Value::Null,
            };
            self.0.iter().map(|c| (c.name.clone(), value(&c.values))).collect()
        })
    }

    /// Only these columns, in this order; all of them when there are none.
    ///
    /// # Errors
    /// A column that is not there.
    pub fn select(self, names: &[String]) -> anyhow::Result<Self> {
        if names.is_empty() {
            return Ok(self);
        }
        let has: Vec<String> = self.0.iter().map(|c| c.name.clone()).collect();
        let mut by_name: BTreeMap<String, Column> =
            self.0.into_iter().map(|c| (c.name.clone(), c)).collect();
        let columns = names.iter().map(|name| {
            by_name.remove(name).with_context(|| format!("no column {name:?}; there are {has:?}"))
        });
        Ok(Self(columns.collect::<anyhow::Result<_>>()?))
    }

    /// Take a column out, as text.
    ///
    /// # Errors
    /// A column that is not there.
    pub fn take_text(&mut self, name: &str) -> anyhow::Result<Vec<Option<String>>> {
        let has: Vec<&str> = self.0.iter().map(|c| c.name.as_str()).collect();
        let at = has
            .iter()
            .position(|c| *c == name)
            .with_context(|| format!("no column {name:?}; there are {has:?}"))?;
        Ok(match self.0.remove(at).values {
            ColumnValues::Categorical(values) => values,
            ColumnValues::Numeric(values) => {
                values.into_iter().map(|x| (!x.is_nan()).then(|| whole(x).to_string())).collect()
            }
        })
    }
}

/// A number as JSON has it, whole where it is whole; null where JSON has none.
fn whole(x: f64) -> Value {
    const EXACT: f64 = (1u64 << 53) as f64;
    if x.fract() == 0.0 && x.abs() <= EXACT { Value::from(x as i64) } else { Value::from(x) }
}

fn cell(values: &ColumnValues, i: usize) -> Cell {
    match values {
        ColumnValues::Numeric(values) => match values.get(i) {
            Some(x) if !x.is_nan() => Cell::Numeric(*x),
            _ => Cell::Missing,
        },
        ColumnValues::Categorical(values) => match values.get(i) {
            Some(Some(text)) => Cell::Categorical(text.clone()),
            _ => Cell::Missing,
        },
    }
}

/// Read a table. A column is numeric when all that it has are numbers, unless
/// it is among `categorical`.
///
/// # Errors
/// A file that cannot be read, or is of no form that is known; always with its
/// path.
pub fn read(path: &Path, categorical: &[String]) -> anyhow::Result<Table> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let cannot = || format!("cannot read {}", path.display());
    let table = match extension.as_str() {
        "csv" => csv(&source::read(path)?),
        "jsonl" | "ndjson" => json_lines(&source::read(path)?),
        "parquet" => parquet(path),
        "npy" => array(&npy::decode(&source::read(path)?).with_context(cannot)?),
        _ => bail!(
            "{} is no table: a name that ends in .csv, .jsonl, .parquet or .npy is wanted",
            path.display()
        ),
    };
    let table = table.and_then(|raw| raw.typed(categorical)).with_context(cannot)?;
    if table.rows() == 0 {
        bail!("{} has no rows", path.display());
    }
    Ok(table)
}

/// Columns before their types are known.
struct Raw {
    names: Vec<String>,
    /// One a column.
    cells: Vec<Vec<Value>>,
}

impl Raw {
    fn new(names: Vec<String>) -> anyhow::Result<Self> {
        if let Some((_, twice)) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            bail!("two columns are called {twice:?}");
        }
        if names.len() > MAX_COLUMNS {
            bail!("{} columns, at most {MAX_COLUMNS} are read", names.len());
        }
        Ok(Self { cells: names.iter().map(|_| Vec::new()).collect(), names })
    }

    fn push(&mut self, row: impl Iterator<Item = Value>) {
        self.cells.iter_mut().zip(row).for_each(|(column, cell)| column.push(cell));
    }

    fn typed(self, categorical: &[String]) -> anyhow::Result<Table> {
        if let Some(name) = categorical.iter().find(|c| !self.names.contains(c)) {
            bail!("no column {name:?}; there are {:?}", self.names);
        }
        let columns = self.names.into_iter().zip(self.cells).map(|(name, cells)| {
            let numeric =
                !categorical.contains(&name) && cells.iter().all(|v| v.is_number() || v.is_null());
            let values = if numeric {
                let number = |v: Value| v.as_f64().unwrap_or(f64::NAN);
                ColumnValues::Numeric(cells.into_iter().map(number).collect())
            } else {
                ColumnValues::Categorical(cells.into_iter().map(text).collect())
            };
            Column { name, values }
        });
        Ok(Table(columns.collect()))
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

fn csv(bytes: &[u8]) -> anyhow::Result<Raw> {
    let mut reader = csv::Reader::from_reader(bytes);
    let mut raw = Raw::new(reader.headers()?.iter().map(str::to_owned).collect())?;
    for record in reader.records() {
        raw.push(record?.iter().map(source::cell));
    }
    Ok(raw)
}

fn json_lines(bytes: &[u8]) -> anyhow::Result<Raw> {
    let text = std::str::from_utf8(bytes)?;
    let mut rows: Vec<Map<String, Value>> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let row: Map<String, Value> =
            serde_json::from_str(line).with_context(|| format!("line {}", i + 1))?;
        for (name, value) in &row {
            if value.is_array() || value.is_object() {
                bail!("line {}: {name:?} is no number, text, boolean or null", i + 1);
            }
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        rows.push(row);
    }
    let mut raw = Raw::new(names)?;
    let names = raw.names.clone();
    for mut row in rows {
        raw.push(names.iter().map(|name| row.remove(name).unwrap_or(Value::Null)));
    }
    Ok(raw)
}

/// Flat columns of a Parquet file, as pandas, Arrow and Spark write them.
fn parquet(path: &Path) -> anyhow::Result<Raw> {
    let reader = SerializedFileReader::new(fs::File::open(path)?)?;
    let schema = reader.metadata().file_metadata().schema();
    let mut raw = Raw::new(schema.get_fields().iter().map(|f| f.name().to_owned()).collect())?;
    for row in reader.get_row_iter(None)? {
        let cells: Vec<Value> = row?
            .get_column_iter()
            .map(|(name, field)| {
                parquet_cell(field).with_context(|| format!("column {name:?} is nested or binary"))
            })
            .collect::<anyhow::Result<_>>()?;
        raw.push(cells.into_iter());
    }
    Ok(raw)
}

fn parquet_cell(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => Value::String(b.to_string()),
        Field::Byte(x) => Value::from(*x),
        Field::Short(x) => Value::from(*x),
        Field::Int(x) | Field::Date(x) | Field::TimeMillis(x) => Value::from(*x),
        Field::Long(x)
        | Field::TimeMicros(x)
        | Field::TimestampMillis(x)
        | Field::TimestampMicros(x) => Value::from(*x),
        Field::UByte(x) => Value::from(*x),
        Field::UShort(x) => Value::from(*x),
        Field::UInt(x) => Value::from(*x),
        Field::ULong(x) => Value::from(*x),
        Field::Float16(x) => Value::from(x.to_f32()),
        Field::Float(x) => Value::from(*x),
        Field::Double(x) => Value::from(*x),
        Field::Decimal(_) => source::cell(&field.to_string()),
        Field::Str(text) => Value::String(text.clone()),
        _ => return None,
    })
}

/// An array of one dimension as the column `value`, of more as a column an
/// element of the rest: `c0`, `c1` and so on.
fn array(tensor: &Tensor) -> anyhow::Result<Raw> {
    let Some((&rows, rest)) = tensor.shape().dims().split_first() else {
        bail!("the array is a scalar, not rows");
    };
    let width: usize = rest.iter().map(|&d| d as usize).product();
    let names = match rest {
        [] => vec!["value".to_owned()],
        _ => (0..width.min(MAX_COLUMNS + 1)).map(|i| format!("c{i}")).collect(),
    };
    let mut raw = Raw::new(names)?;
    let values = tensor.to_f64();
    for row in values.chunks(width.max(1)).take(rows as usize) {
        raw.push(row.iter().map(|&x| Value::from(x)));
    }
    Ok(raw)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn table(name: &str, contents: &[u8], categorical: &[&str]) -> anyhow::Result<Table> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, contents).unwrap();
        let categorical: Vec<String> = categorical.iter().map(|c| (*c).to_owned()).collect();
        read(&path, &categorical)
    }

    fn refused(name: &str, contents: &[u8]) -> String {
        format!("{:#}", table(name, contents, &[]).unwrap_err())
    }

    #[test]
    fn csv_and_json_lines_say_the_same() {
        let of_csv = table("a.csv", b"x,site\n1,north\n,south\n2.5,\n", &[]).unwrap();
        let lines = b"{\"x\":1,\"site\":\"north\"}\n{\"site\":\"south\"}\n{\"x\":2.5}\n";
        let of_json = table("a.jsonl", lines, &[]).unwrap();
        let rows = |t: &Table| t.clone().select(&["x".into(), "site".into()]).unwrap();
        assert_eq!(
            format!("{:?}", rows(&of_csv).monitor_rows(7).collect::<Vec<_>>()),
            format!("{:?}", rows(&of_json).monitor_rows(7).collect::<Vec<_>>())
        );
        assert_eq!(of_csv.rows(), 3);
        let objects: Vec<_> = of_csv.objects().collect();
        assert_eq!(Value::from(objects[0].clone()), serde_json::json!({"x": 1, "site": "north"}));
    }

    #[test]
    fn a_column_of_codes_is_categorical_when_told() {
        let t = table("a.csv", b"code\n7\n8\n", &["code"]).unwrap();
        let texts = ColumnValues::Categorical(vec![Some("7".into()), Some("8".into())]);
        assert_eq!(t.columns()[0].values, texts);
        assert!(table("a.csv", b"code\n7\n", &["cod"]).is_err());
    }

    #[test]
    fn an_array_is_rows() {
        let t = Tensor::from_elements::<f32>(&[2, 3], &[1., 2., 3., 4., 5., 6.]).unwrap();
        let t = table("a.npy", &npy::encode(&t), &[]).unwrap();
        assert_eq!((t.rows(), t.columns().len()), (2, 3));
        assert_eq!(t.columns()[2].values, ColumnValues::Numeric(vec![3.0, 6.0]));
    }

    #[test]
    fn what_is_no_table_is_refused_by_name() {
        assert!(refused("a.png", b"x").contains("is no table"));
        assert!(refused("a.csv", b"x,x\n1,2\n").contains("two columns"));
        assert!(refused("a.csv", b"x\n").contains("no rows"));
        assert!(refused("a.jsonl", b"{\"x\":[1]}\n").contains("line 1"));
        assert!(refused("a.parquet", b"PAR1 not really").contains("cannot read"));
        assert!(refused("a.npy", b"\x93NUMPY\x01").contains("cannot read"));
    }
}
