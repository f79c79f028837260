//! Rows, as monitors see them.

use serde::{Deserialize, Serialize};

use crate::sorting::repeated;

/// The values of a column, one a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnValues {
    /// Numbers; NaN stands for a missing one.
    Numeric(Vec<f64>),
    /// Categories; absent stands for a missing one.
    Categorical(Vec<Option<String>>),
}

impl ColumnValues {
    /// How many rows it has.
    pub fn len(&self) -> usize {
        match self {
            Self::Numeric(values) => values.len(),
            Self::Categorical(values) => values.len(),
        }
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether row `i` is missing, or is not there at all.
    pub fn is_missing(&self, i: usize) -> bool {
        match self {
            Self::Numeric(values) => values.get(i).is_none_or(|x| x.is_nan()),
            Self::Categorical(values) => values.get(i).is_none_or(Option::is_none),
        }
    }

    /// Whether row `i` holds what the row before it holds, both missing, too.
    pub fn repeats(&self, i: usize) -> bool {
        match self {
            Self::Numeric(values) => match (i.checked_sub(1).map(|i| values[i]), values[i]) {
                (Some(before), now) => before == now || (before.is_nan() && now.is_nan()),
                (None, _) => false,
            },
            Self::Categorical(values) => i > 0 && values[i - 1] == values[i],
        }
    }
}

/// One column of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The feature's name, unique within the batch.
    pub name: String,
    /// The values, one a row.
    pub values: ColumnValues,
}

/// Rows that a monitor sees at once, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// The frame that each row came from.
    pub frame_ids: Vec<u64>,
    /// When each row was captured, in nanoseconds since the Unix epoch.
    pub captured_at_ns: Vec<u64>,
    /// The columns, all of the batch's length.
    pub columns: Vec<Column>,
}

/// What is wrong with a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Ids and times differ in number.
    #[error("{rows} frame ids have {times} times of capture")]
    Times {
        /// Frame ids.
        rows: usize,
        /// Times of capture.
        times: usize,
    },
    /// A column is longer or shorter than the batch.
    #[error("column `{column}` has {has} rows, the batch {rows}")]
    Length {
        /// The column.
        column: String,
        /// Its rows.
        has: usize,
        /// The batch's.
        rows: usize,
    },
    /// A name comes twice.
    #[error("column `{0}` is there twice")]
    Twice(String),
}

impl Batch {
    /// How many rows.
    pub fn rows(&self) -> usize {
        self.frame_ids.len()
    }
}

/// Check what every monitor relies on, of a batch in whatever form: how many
/// frame ids and times of capture it has, and the columns' names and lengths.
///
/// # Errors
/// [`BatchError`]: lengths that differ, or a name that comes twice.
pub fn check_batch<'a>(
    rows: usize,
    times: usize,
    columns: impl Iterator<Item = (&'a str, usize)>,
) -> Result<(), BatchError> {
    if times != rows {
        return Err(BatchError::Times { rows, times });
    }
    let mut names = Vec::new();
    for (name, has) in columns {
        if has != rows {
            return Err(BatchError::Length { column: name.to_owned(), has, rows });
        }
        names.push(name);
    }
    match repeated(&names) {
        Some(name) => Err(BatchError::Twice(name.to_owned())),
        None => Ok(()),
    }
}
