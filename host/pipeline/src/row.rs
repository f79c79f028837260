//! Rows for monitors, and batches of them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use headland_monitor::{Batch, Column, ColumnValues};
use headland_tensor::{DType, Frame, Prediction, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    graph::{Graph, Tap},
    spec::{Reduce, essence},
    stats::MonitorStats,
};

/// The most columns that a monitor sees.
pub const MAX_COLUMNS: usize = 1_024;
/// The longest JSON payload that is read for a monitor, in bytes.
pub const MAX_JSON_BYTES: usize = 1 << 20;
/// The longest category, in bytes; a longer one is missing.
pub const MAX_CATEGORY_BYTES: usize = 256;

/// What one frame has in one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// A number; NaN is a missing one.
    Numeric(f64),
    /// A category.
    Categorical(String),
    /// Nothing, and no telling which of the two it would have been.
    Missing,
}

/// What a monitor sees of one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The frame.
    pub frame_id: u64,
    /// When it was captured, in nanoseconds since the Unix epoch.
    pub captured_at_ns: u64,
    /// The columns' names and values; no name comes twice.
    pub cells: Vec<(String, Cell)>,
}

/// The queue of one monitor: takes rows, gives columnar batches.
///
/// A column's type is that of the first value seen in it. Once a column has
/// been seen, every further batch has it, missing where a row lacks it; a
/// batch may add columns and never loses one.
#[derive(Debug, Clone)]
pub struct Batcher {
    batch_rows: usize,
    queue_rows: usize,
    rows: VecDeque<Row>,
    columns: Vec<(String, ColumnType)>,
    index: HashMap<String, usize>,
    dropped_rows: u64,
    misfits: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ColumnType {
    Numeric,
    Categorical,
}

impl ColumnType {
    /// A column of `count` missing values.
    fn missing(self, count: usize) -> ColumnValues {
        match self {
            Self::Numeric => ColumnValues::Numeric(vec![f64::NAN; count]),
            Self::Categorical => ColumnValues::Categorical(vec![None; count]),
        }
    }
}

impl Batcher {
    /// The queue of the monitor of that index.
    ///
    /// # Panics
    /// Never for an index of a command; as slices do for one out of range.
    pub fn new(graph: &Graph, monitor: usize) -> Self {
        let spec = &graph.monitors()[monitor];
        let mut batcher = Self {
            batch_rows: spec.batch_rows as usize,
            queue_rows: spec.queue as usize,
            rows: VecDeque::new(),
            columns: Vec::new(),
            index: HashMap::new(),
            dropped_rows: 0,
            misfits: 0,
        };
        for name in &graph.monitors[monitor].declared {
            batcher.column(name, ColumnType::Numeric);
        }
        batcher
    }

    /// Add a row; when the queue is full, the oldest goes.
    pub fn push(&mut self, row: Row) {
        if self.rows.len() == self.queue_rows {
            self.rows.pop_front();
            self.dropped_rows += 1;
        }
        self.rows.push_back(row);
    }

    /// The next batch, when there are rows enough to fill one.
    pub fn next_batch(&mut self) -> Option<Batch> {
        (self.rows.len() >= self.batch_rows).then(|| self.take(self.batch_rows))
    }

    /// The next batch, however few rows it has: for the end of a window. Call
    /// it until it gives nothing.
    pub fn flush(&mut self) -> Option<Batch> {
        let rows = self.rows.len().min(self.batch_rows);
        (rows > 0).then(|| self.take(rows))
    }

    /// How many rows are waiting.
    pub fn waiting_rows(&self) -> usize {
        self.rows.len()
    }

    /// How many rows went because the queue was full.
    pub fn dropped_rows(&self) -> u64 {
        self.dropped_rows
    }

    /// How many values were missing because their column has the other type,
    /// or because there are [`MAX_COLUMNS`] columns already.
    pub fn misfits(&self) -> u64 {
        self.misfits
    }

    /// The column of that name, a new one if need be and room is left.
    fn column(&mut self, name: &str, new: ColumnType) -> Option<usize> {
        if let Some(&column) = self.index.get(name) {
            return Some(column);
        }
        if self.columns.len() == MAX_COLUMNS {
            return None;
        }
        self.columns.push((name.to_owned(), new));
        self.index.insert(name.to_owned(), self.columns.len() - 1);
        Some(self.columns.len() - 1)
    }

    fn take(&mut self, count: usize) -> Batch {
        let mut values: Vec<ColumnValues> =
            self.columns.iter().map(|(_, kind)| kind.missing(count)).collect();
        let mut batch = Batch {
            frame_ids: Vec::with_capacity(count),
            captured_at_ns: Vec::with_capacity(count),
            columns: Vec::with_capacity(values.len()),
        };
        let rows: Vec<Row> = self.rows.drain(..count).collect();
        for (at, row) in rows.into_iter().enumerate() {
            batch.frame_ids.push(row.frame_id);
            batch.captured_at_ns.push(row.captured_at_ns);
            let mut expected = 0;
            for (name, cell) in row.cells {
                // Rows have their cells in one order: nearly always, the next
                // column is the one, and no name is looked up.
                let is_next = self.columns.get(expected).is_some_and(|(known, _)| *known == name);
                let column = match &cell {
                    _ if is_next => Some(expected),
                    Cell::Numeric(_) => self.column(&name, ColumnType::Numeric),
                    Cell::Categorical(_) => self.column(&name, ColumnType::Categorical),
                    Cell::Missing => self.index.get(&name).copied(),
                };
                expected = column.map_or(expected, |column| column + 1);
                if let (Some(column), Some((_, kind))) = (column, self.columns.last())
                    && column == values.len()
                {
                    values.push(kind.missing(count));
                }
                match (column.and_then(|column| values.get_mut(column)), cell) {
                    (_, Cell::Missing) => {}
                    (Some(ColumnValues::Numeric(values)), Cell::Numeric(value)) => {
                        values[at] = value;
                    }
                    (Some(ColumnValues::Categorical(values)), Cell::Categorical(value)) => {
                        values[at] = Some(value);
                    }
                    _ => self.misfits += 1,
                }
            }
        }
        let names = self.columns.iter().map(|(name, _)| name.clone());
        batch.columns = names.zip(values).map(|(name, values)| Column { name, values }).collect();
        batch
    }
}

/// What a tap is on.
pub(crate) enum Tapped<'a> {
    Tensors(&'a [(String, Tensor)]),
    /// What the source gave, which may be a JSON object.
    Source(&'a [(String, Tensor)]),
    Prediction(&'a Prediction),
}

/// Makes the rows of one monitor.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowMaker {
    /// Which tap a column belongs to, and the last row that has it. It is the
    /// first tap that brought it: another that brings the same name does not
    /// mix its values in.
    owners: BTreeMap<String, (usize, u64)>,
    rows: u64,
}

impl RowMaker {
    /// The row of a frame; `of` says what each tap is on, nothing where the
    /// stage did not run. Nothing when no tap has anything.
    pub(crate) fn row<'a>(
        &mut self,
        frame: &Frame,
        taps: &[Tap],
        of: impl Fn(&Tap) -> Option<Tapped<'a>>,
        stats: &mut MonitorStats,
    ) -> Option<Row> {
        self.rows += 1;
        let mut row =
            Row { frame_id: frame.id, captured_at_ns: frame.captured_at_ns, cells: Vec::new() };
        for (index, tap) in taps.iter().enumerate() {
            let Some(tapped) = of(tap) else { continue };
            match cells(frame, tap, &tapped) {
                Ok(cells) => {
                    for (name, cell) in cells {
                        let name = format!("{}{name}", tap.prefix);
                        if self.claims(index, &name) {
                            row.cells.push((name, cell));
                        } else {
                            stats.values_left_out += 1;
                        }
                    }
                }
                Err(problem) => {
                    stats.taps_failed += 1;
                    stats.last_tap_failure = Some(format!("frame {}: {problem}", frame.id));
                }
            }
        }
        if row.cells.is_empty() {
            return None;
        }
        stats.rows += 1;
        Some(row)
    }

    /// Whether the tap may put a value under that name into this row.
    fn claims(&mut self, tap: usize, name: &str) -> bool {
        let this = (tap, self.rows);
        if let Some(owner) = self.owners.get_mut(name) {
            let free = owner.0 == tap && *owner != this;
            if free {
                *owner = this;
            }
            return free;
        }
        let room = self.owners.len() < MAX_COLUMNS;
        if room {
            self.owners.insert(name.to_owned(), this);
        }
        room
    }
}

type Cells = Vec<(String, Cell)>;

fn cells(frame: &Frame, tap: &Tap, tapped: &Tapped) -> Result<Cells, String> {
    let tensors = match *tapped {
        Tapped::Prediction(prediction) => return Ok(select(tap, prediction_cells(prediction))),
        Tapped::Source(tensors) => {
            let is_json = essence(&frame.media_type) == "application/json";
            if is_json && tap.tensor.is_none() && tap.reduce == Reduce::None {
                return Ok(select(tap, json_cells(tensors)?));
            }
            tensors
        }
        Tapped::Tensors(tensors) => tensors,
    };
    let taken: Vec<&(String, Tensor)> = tensors
        .iter()
        .filter(|(name, _)| tap.tensor.as_ref().is_none_or(|picked| picked == name))
        .collect();
    if let (Some(picked), true) = (&tap.tensor, taken.is_empty()) {
        return Err(format!("there is no tensor {picked:?} to tap"));
    }
    tensor_cells(tap, &taken)
}

fn tensor_cells(tap: &Tap, tensors: &[&(String, Tensor)]) -> Result<Cells, String> {
    let of = |tensor: &Tensor| match tap.reduce {
        Reduce::None => tensor.shape().element_count(),
        Reduce::Stats => STATS.len(),
    };
    // Counted before anything is copied out of a tensor that is too large.
    let count: usize = tensors.iter().map(|(_, tensor)| of(tensor)).sum();
    if count > MAX_COLUMNS {
        let reduced = if tap.reduce == Reduce::None { "; `reduce = \"stats\"` is 4" } else { "" };
        return Err(format!(
            "the tap gives {count} columns, more than the {MAX_COLUMNS} allowed{reduced}"
        ));
    }
    if let Some(columns) = &tap.columns
        && columns.len() != count
    {
        return Err(format!("the tap names {} columns, but there are {count}", columns.len()));
    }
    let mut cells = Vec::with_capacity(count);
    for (name, tensor) in tensors {
        match tap.reduce {
            Reduce::None => {
                let elements = tensor.to_f64().into_iter().enumerate();
                cells.extend(elements.map(|(i, v)| (format!("{name}[{i}]"), Cell::Numeric(v))));
            }
            Reduce::Stats => {
                let stats = STATS.into_iter().zip(stats(tensor));
                cells.extend(stats.map(|(s, v)| (format!("{name}.{s}"), Cell::Numeric(v))));
            }
        }
    }
    if let Some(columns) = &tap.columns {
        for ((name, _), given) in cells.iter_mut().zip(columns) {
            name.clone_from(given);
        }
    }
    Ok(cells)
}

const STATS: [&str; 4] = ["mean", "std", "min", "max"];

/// Mean, population standard deviation, minimum and maximum of the elements
/// that are not NaN; NaN when there are none.
fn stats(tensor: &Tensor) -> [f64; 4] {
    let mut values = tensor.to_f64();
    values.retain(|value| !value.is_nan());
    if values.is_empty() {
        return [f64::NAN; 4];
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [mean, variance.sqrt(), min, max]
}

/// The columns that the tap takes, in its order; all when it does not say.
/// One that is not there is missing.
fn select(tap: &Tap, cells: Cells) -> Cells {
    let Some(columns) = &tap.columns else { return cells };
    let mut by_name: BTreeMap<String, Cell> = cells.into_iter().collect();
    let take = |name: &String| (name.clone(), by_name.remove(name).unwrap_or(Cell::Missing));
    columns.iter().map(take).collect()
}

fn category(text: &str) -> Cell {
    match text.len() <= MAX_CATEGORY_BYTES {
        true => Cell::Categorical(text.to_owned()),
        false => Cell::Missing,
    }
}

fn prediction_cells(prediction: &Prediction) -> Cells {
    let mut cells = Vec::new();
    if let Some(top) = prediction.classes.first() {
        cells.push(("class".to_owned(), category(&top.label)));
        cells.push(("score".to_owned(), Cell::Numeric(top.score.into())));
    }
    let values = prediction.values.iter();
    cells.extend(values.map(|value| (value.name.clone(), Cell::Numeric(value.value))));
    if let Some(alarm) = prediction.alarm {
        cells.push(("alarm".to_owned(), category(&alarm.to_string())));
    }
    cells
}

fn json_cells(tensors: &[(String, Tensor)]) -> Result<Cells, String> {
    let [(_, payload)] = tensors else {
        return Err(format!("a JSON payload is one tensor, not {}", tensors.len()));
    };
    if payload.dtype() != DType::U8 || payload.bytes().len() > MAX_JSON_BYTES {
        return Err(format!(
            "the JSON payload is {payload:?}; it must be bytes, at most {MAX_JSON_BYTES}"
        ));
    }
    // Not `serde_json::Map`, whose order depends on how serde_json was built.
    let object: BTreeMap<String, serde_json::Value> = serde_json::from_slice(payload.bytes())
        .map_err(|e| format!("the payload is no JSON object: {e}"))?;
    let cell = |value: serde_json::Value| {
        Some(match value {
            serde_json::Value::Null => Cell::Missing,
            serde_json::Value::Bool(b) => category(&b.to_string()),
            serde_json::Value::Number(n) => Cell::Numeric(n.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(s) => category(&s),
            serde_json::Value::Array(_) | serde_json::Value::Object(_) => return None,
        })
    };
    Ok(object.into_iter().filter_map(|(key, value)| Some((key, cell(value)?))).collect())
}
