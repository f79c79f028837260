//! What was seen in a window, as integer counts: they merge exactly, in any
//! order, and two devices that saw the same rows say the same bytes.

use headland_sdk::monitor::{Batch, ColumnValues};
use serde::{Deserialize, Serialize};

use crate::reference::{ColumnReference, Reference, ValuesReference, is_missing, len};

/// More rows than a year of microseconds; counts up to here are exact in f64.
const MAX_ROWS: u64 = 1 << 53;

/// A window's counts. Its canonical form is the JSON of this struct without
/// white space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Window {
    /// The format's version, 1.
    version: u32,
    /// SHA-256 of the reference that the counts are of, in hex.
    reference: String,
    /// Rows seen.
    pub rows: u64,
    /// Rows with a missing value.
    pub incomplete: u64,
    /// When the first row was captured, in nanoseconds since the Unix epoch.
    first_captured_at_ns: Option<u64>,
    /// When the last row was captured.
    last_captured_at_ns: Option<u64>,
    /// The columns, in the reference's order.
    pub columns: Vec<ColumnCounts>,
}

/// The counts of one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ColumnCounts {
    /// The feature's name.
    name: String,
    /// Rows without a value, or without the column.
    pub missing: u64,
    /// Rows whose batch had the column in another type.
    pub wrong_type: u64,
    /// The rest.
    pub values: ValueCounts,
}

/// The counts of values of the right type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum ValueCounts {
    /// Of numbers.
    Numeric {
        /// Values seen.
        present: u64,
        /// Values outside the reference's range.
        out_of_range: u64,
        /// Values in each of the reference's bins; empty without bins.
        bins: Vec<u64>,
        /// Whether all values are one.
        level: Level,
    },
    /// Of categories.
    Categorical {
        /// Values of each of the reference's categories.
        counts: Vec<u64>,
        /// Values of any other.
        unseen: u64,
    },
}

/// Whether all values of a column are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// No value yet.
    None,
    /// All are the f64 of these bits.
    One(u64),
    /// They differ.
    Many,
}

impl Level {
    fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, level) | (level, Self::None) => level,
            (Self::One(a), Self::One(b)) if a == b => self,
            _ => Self::Many,
        }
    }
}

impl ValueCounts {
    /// How many values of the right type were seen; absent on overflow.
    pub fn present(&self) -> Option<u64> {
        match self {
            Self::Numeric { present, .. } => Some(*present),
            Self::Categorical { counts, unseen } => {
                counts.iter().try_fold(*unseen, |sum, &c| sum.checked_add(c))
            }
        }
    }
}

impl Window {
    /// Nothing seen yet.
    pub fn empty(reference: &Reference, digest: &str) -> Self {
        let columns = reference.columns.iter().map(|c| ColumnCounts {
            name: c.name.clone(),
            missing: 0,
            wrong_type: 0,
            values: match &c.values {
                ValuesReference::Numeric { bins, .. } => ValueCounts::Numeric {
                    present: 0,
                    out_of_range: 0,
                    bins: vec![0; bins.as_ref().map_or(0, |b| b.counts.len())],
                    level: Level::None,
                },
                ValuesReference::Categorical { categories, .. } => {
                    ValueCounts::Categorical { counts: vec![0; categories.len()], unseen: 0 }
                }
            },
        });
        Self {
            version: 1,
            reference: digest.to_owned(),
            rows: 0,
            incomplete: 0,
            first_captured_at_ns: None,
            last_captured_at_ns: None,
            columns: columns.collect(),
        }
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A struct of strings, integers and lists always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Read a window and check that its counts agree with each other.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let window: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if window.version != 1 {
            return Err(format!("version is {}, known is 1", window.version));
        }
        if window.rows > MAX_ROWS {
            return Err(format!("{} rows are more than {MAX_ROWS}", window.rows));
        }
        if window.incomplete > window.rows {
            return Err("more rows are incomplete than there are".to_owned());
        }
        let sum = |counts: &[u64]| counts.iter().try_fold(0u64, |s, &c| s.checked_add(c));
        for column in &window.columns {
            let agree = match &column.values {
                ValueCounts::Numeric { present, out_of_range, bins, level } => {
                    out_of_range <= present
                        && (bins.is_empty() || sum(bins) == Some(*present))
                        && (*level == Level::None) == (*present == 0)
                }
                ValueCounts::Categorical { .. } => true,
            };
            let total =
                column.values.present().and_then(|p| sum(&[p, column.missing, column.wrong_type]));
            if !agree || total != Some(window.rows) {
                return Err(format!("the counts of column `{}` do not add up", column.name));
            }
        }
        Ok(window)
    }

    /// Whether the counts are of this reference.
    ///
    /// # Errors
    /// That they are not.
    pub fn is_of(&self, reference: &Reference, digest: &str) -> Result<(), String> {
        if self.reference != digest {
            return Err(format!("is of reference {}, not {digest}", self.reference));
        }
        if !same_form(self, &Self::empty(reference, digest)) {
            return Err("its columns are not those of its reference".to_owned());
        }
        Ok(())
    }

    /// Count a batch.
    ///
    /// # Errors
    /// What is wrong with it: columns of another length than the ids, or a
    /// name that is there twice. Nothing is counted then.
    pub fn count(&mut self, reference: &Reference, batch: &Batch) -> Result<(), String> {
        let rows = batch.frame_ids.len();
        if batch.captured_at_ns.len() != rows {
            let times = batch.captured_at_ns.len();
            return Err(format!("{rows} frame ids have {times} times of capture"));
        }
        for (i, column) in batch.columns.iter().enumerate() {
            if len(&column.values) != rows {
                let n = len(&column.values);
                return Err(format!("column `{}` has {n} rows, the batch {rows}", column.name));
            }
            if batch.columns[..i].iter().any(|c| c.name == column.name) {
                return Err(format!("column `{}` is there twice", column.name));
            }
        }
        let given: Vec<Option<&ColumnValues>> = reference
            .columns
            .iter()
            .map(|r| batch.columns.iter().find(|c| c.name == r.name).map(|c| &c.values))
            .collect();
        for ((counts, column), values) in
            self.columns.iter_mut().zip(&reference.columns).zip(&given)
        {
            counts.count(column, *values, rows as u64);
        }
        let incomplete = |&i: &usize| {
            given.iter().zip(&reference.columns).any(|(values, column)| {
                values.is_none_or(|v| !is_of_type(v, column) || is_missing(v, i))
            })
        };
        self.incomplete += (0..rows).filter(incomplete).count() as u64;
        self.rows += rows as u64;
        let times = batch.captured_at_ns.iter().copied();
        self.first_captured_at_ns = earliest(self.first_captured_at_ns, times.clone().min());
        self.last_captured_at_ns = self.last_captured_at_ns.max(times.max());
        Ok(())
    }

    /// What two windows say together. Commutative, associative and exact.
    ///
    /// # Errors
    /// When they are not of one reference, or a count overflows.
    pub fn merge(mut self, other: &Self) -> Result<Self, String> {
        if self.reference != other.reference || !same_form(&self, other) {
            return Err(format!(
                "a summary of reference {} and one of {} do not merge",
                self.reference, other.reference
            ));
        }
        fn add(a: &mut u64, b: u64) -> Result<(), String> {
            *a = a.checked_add(b).ok_or("a count overflows")?;
            Ok(())
        }
        fn add_all(a: &mut [u64], b: &[u64]) -> Result<(), String> {
            a.iter_mut().zip(b).try_for_each(|(a, b)| add(a, *b))
        }
        add(&mut self.rows, other.rows)?;
        if self.rows > MAX_ROWS {
            return Err(format!("{} rows are more than {MAX_ROWS}", self.rows));
        }
        add(&mut self.incomplete, other.incomplete)?;
        self.first_captured_at_ns = earliest(self.first_captured_at_ns, other.first_captured_at_ns);
        self.last_captured_at_ns = self.last_captured_at_ns.max(other.last_captured_at_ns);
        for (a, b) in self.columns.iter_mut().zip(&other.columns) {
            add(&mut a.missing, b.missing)?;
            add(&mut a.wrong_type, b.wrong_type)?;
            match (&mut a.values, &b.values) {
                (
                    ValueCounts::Numeric { present, out_of_range, bins, level },
                    ValueCounts::Numeric { present: p, out_of_range: o, bins: c, level: l },
                ) => {
                    add(present, *p)?;
                    add(out_of_range, *o)?;
                    add_all(bins, c)?;
                    *level = level.merge(*l);
                }
                (
                    ValueCounts::Categorical { counts, unseen },
                    ValueCounts::Categorical { counts: c, unseen: u },
                ) => {
                    add_all(counts, c)?;
                    add(unseen, *u)?;
                }
                _ => return Err(format!("column `{}` has two types", a.name)),
            }
        }
        Ok(self)
    }
}

impl ColumnCounts {
    fn count(&mut self, reference: &ColumnReference, values: Option<&ColumnValues>, rows: u64) {
        match (&mut self.values, &reference.values, values) {
            (_, _, None) => self.missing += rows,
            (
                ValueCounts::Numeric { present, out_of_range, bins: counts, level },
                ValuesReference::Numeric { min, max, bins, .. },
                Some(ColumnValues::Numeric(values)),
            ) => {
                for &x in values {
                    if x.is_nan() {
                        self.missing += 1;
                        continue;
                    }
                    *present += 1;
                    *out_of_range += u64::from(!(*min..=*max).contains(&x));
                    if let Some(bins) = bins {
                        counts[bins.index(x)] += 1;
                    }
                    // Adding 0 makes -0 and 0 one value.
                    *level = level.merge(Level::One((x + 0.0).to_bits()));
                }
            }
            (
                ValueCounts::Categorical { counts, unseen },
                ValuesReference::Categorical { categories, .. },
                Some(ColumnValues::Categorical(values)),
            ) => {
                for value in values {
                    match value.as_ref().map(|v| categories.iter().position(|c| c == v)) {
                        None => self.missing += 1,
                        Some(None) => *unseen += 1,
                        Some(Some(i)) => counts[i] += 1,
                    }
                }
            }
            (_, _, Some(_)) => self.wrong_type += rows,
        }
    }
}

/// Whether a column has the type that its reference has.
pub fn is_of_type(values: &ColumnValues, reference: &ColumnReference) -> bool {
    matches!(
        (values, &reference.values),
        (ColumnValues::Numeric(_), ValuesReference::Numeric { .. })
            | (ColumnValues::Categorical(_), ValuesReference::Categorical { .. })
    )
}

/// Whether two windows have the same columns of the same types and bins.
fn same_form(a: &Window, b: &Window) -> bool {
    let bins = |v: &ValueCounts| match v {
        ValueCounts::Numeric { bins, .. } => (0, bins.len()),
        ValueCounts::Categorical { counts, .. } => (1, counts.len()),
    };
    a.columns.len() == b.columns.len()
        && a.columns
            .iter()
            .zip(&b.columns)
            .all(|(a, b)| a.name == b.name && bins(&a.values) == bins(&b.values))
}

/// The earlier of two times, where there are any.
fn earliest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}
