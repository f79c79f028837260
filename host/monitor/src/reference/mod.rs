//! What monitors hold a window against: learnt once from good rows.

mod decimal;
mod fit;
mod pretty;
mod read;

pub use fit::{EmbeddingOptions, FitError, FitOptions, fit};
use serde::Serialize;

use crate::sorting::repeated;

/// The format's version.
const VERSION: u32 = 2;

/// The longest vector of an embedding.
const MAX_DIMENSIONS: usize = 4_096;

/// The longest name of a column, in bytes, so that a summary's fields can be
/// named after it.
const MAX_NAME_BYTES: usize = 256;

/// The reference data of a package, as JSON: one file for all monitors that
/// count over it.
///
/// ```json
/// {
///   "version": 2,
///   "models": ["sha256:9f86d08..."],
///   "rows": 43500,
///   "max-incomplete-rate": 0.0001059,
///   "columns": [
///     {
///       "name": "V4",
///       "max-missing-rate": 0.0001059,
///       "values": {
///         "numeric": {
///           "min": -3939, "max": 3830, "max-out-of-range-rate": 0.0001526,
///           "max-mode-rate": 0.66, "mean": 0.16, "std": 41.0,
///           "bins": {
///             "edges": [-2, 0, 2],
///             "counts": [4153, 3707, 30178, 5462],
///             "means": [-11.9, -1.4, 0.1, 14.5]
///           }
///         }
///       }
///     },
///     {
///       "name": "mode",
///       "max-missing-rate": 0.0001059,
///       "values": {
///         "categorical": {
///           "categories": ["idle", "cut"], "counts": [40000, 3500],
///           "max-unseen-rate": 0.0001059
///         }
///       }
///     }
///   ]
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reference {
    /// The format's version, 2.
    pub version: u32,
    /// The models whose inputs and outputs the rows are, as `sha256:` and 64
    /// hexadecimal digits; none when it does not matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// How many rows it was learnt from.
    pub rows: u64,
    /// The categorical column that says which group a row is of, when the
    /// distributions are also given for each group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The share of rows with a missing value that is still good.
    pub max_incomplete_rate: f64,
    /// The share of rows that may equal the row before them; absent where
    /// that is not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_repeat_rate: Option<f64>,
    /// The features.
    pub columns: Vec<ColumnReference>,
    /// Vectors that are compared as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<EmbeddingReference>,
}

/// What is good for one feature.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ColumnReference {
    /// The feature's name.
    pub name: String,
    /// The share of missing values that is still good.
    pub max_missing_rate: f64,
    /// What depends on the feature's type.
    pub values: ValuesReference,
}

/// What is good for the values of a feature that are not missing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValuesReference {
    /// Numbers.
    Numeric(NumericReference),
    /// Categories.
    Categorical(CategoricalReference),
}

/// What is good for numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NumericReference {
    /// The smallest good value.
    pub min: f64,
    /// The greatest good value.
    pub max: f64,
    /// The share of values outside `min..=max` that is still good; 0 where
    /// the limits are physical.
    pub max_out_of_range_rate: f64,
    /// The share of rows that may hold one and the same value; 1 for a
    /// feature that is constant by nature.
    pub max_mode_rate: f64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub std: f64,
    /// The distribution; absent when there were too few rows for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bins: Option<Bins>,
}

/// What is good for categories.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CategoricalReference {
    /// The known categories.
    pub categories: Vec<String>,
    /// How many rows held each.
    pub counts: Vec<u64>,
    /// The share of other categories that is still good.
    pub max_unseen_rate: f64,
    /// The counts of each group, where [`Reference::by`] names a column.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupCounts>,
}

/// A histogram: bin `i` holds `edges[i - 1] <= x < edges[i]`, the first and
/// the last are open.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Bins {
    /// The inner edges, rising.
    pub edges: Vec<f64>,
    /// How many rows fell into each bin: one more than the edges.
    pub counts: Vec<u64>,
    /// The mean of the values in each bin: where the bin stands for distances
    /// along the axis.
    pub means: Vec<f64>,
    /// The counts of each group, where [`Reference::by`] names a column.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupCounts>,
}

impl Bins {
    /// The bin that `x` falls into; `x` is not NaN.
    #[inline]
    pub fn index(&self, x: f64) -> usize {
        // Faster than a search for the dozen edges that there are, and without
        // a branch that depends on the data.
        self.edges.iter().map(|&edge| usize::from(edge <= x)).sum()
    }
}

/// A group's counts, over the same bins or categories as the whole's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GroupCounts {
    /// The group: a value of the column that [`Reference::by`] names.
    pub name: String,
    /// Its counts.
    pub counts: Vec<u64>,
}

/// Where the vectors of good rows lie.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EmbeddingReference {
    /// The vector's name.
    pub name: String,
    /// Element `i` is the column of this name, then `i`, then `]` if the
    /// prefix ends in `[`.
    pub prefix: String,
    /// How many rows it was learnt from.
    pub rows: u64,
    /// The mean vector.
    pub mean: Vec<f64>,
    /// The traces of the covariance matrix, of its square and of its cube:
    /// what the mean of a few good rows strays by.
    pub traces: [f64; 3],
}

impl EmbeddingReference {
    /// The name of the column that holds element `i`.
    pub fn column(&self, i: usize) -> String {
        element(&self.prefix, i)
    }
}

fn element(prefix: &str, i: usize) -> String {
    let end = if prefix.ends_with('[') { "]" } else { "" };
    format!("{prefix}{i}{end}")
}

/// Why bytes are no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not JSON of this form.
    #[error("no reference: {0}")]
    Malformed(String),
    /// A version that this code does not know.
    #[error("a reference of version {0}, known is {VERSION}")]
    Version(u32),
    /// Something outside the columns is wrong.
    #[error("the reference {0}")]
    Whole(&'static str),
    /// A column or embedding is there twice.
    #[error("column `{0}` is there twice")]
    Twice(String),
    /// Something is wrong with a column or embedding.
    #[error("column `{column}`: {why}")]
    Column {
        /// Its name.
        column: String,
        /// What.
        why: &'static str,
    },
}

impl Reference {
    /// Read and check a reference.
    ///
    /// # Errors
    /// What is wrong with it, with the column's name.
    pub fn parse(json: &[u8]) -> Result<Self, ReferenceError> {
        let json = serde_json::from_slice(json);
        Self::from_json(json.map_err(|e| ReferenceError::Malformed(e.to_string()))?)
    }

    /// The reference as a package ships it.
    pub fn to_json(&self) -> Vec<u8> {
        pretty::pretty(self)
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&ColumnReference> {
        self.columns.iter().find(|c| c.name == name)
    }

    fn check(&self) -> Result<(), ReferenceError> {
        if self.version != VERSION {
            return Err(ReferenceError::Version(self.version));
        }
        let whole = |good: bool, why| if good { Ok(()) } else { Err(ReferenceError::Whole(why)) };
        whole(is_rate(self.max_incomplete_rate), "has a max-incomplete-rate outside 0..=1")?;
        let repeats = self.max_repeat_rate.is_none_or(is_rate);
        whole(repeats, "has a max-repeat-rate outside 0..=1")?;
        let any = !(self.columns.is_empty() && self.embeddings.is_empty());
        whole(any, "has no columns")?;
        whole(
            self.models.iter().all(|m| is_digest(m)),
            "names a model by something else than sha256:",
        )?;
        let mut names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
        names.extend(self.embeddings.iter().map(|e| e.name.as_str()));
        let short = names.iter().all(|name| name.len() <= MAX_NAME_BYTES);
        whole(short, "has a column with too long a name")?;
        if let Some(name) = repeated(&names) {
            return Err(ReferenceError::Twice(name.to_owned()));
        }
        let of = |column: &str, checked: Result<(), &'static str>| {
            checked.map_err(|why| ReferenceError::Column { column: column.to_owned(), why })
        };
        for column in &self.columns {
            of(&column.name, column.check())?;
        }
        for embedding in &self.embeddings {
            of(&embedding.name, embedding.check())?;
        }
        match self.by.as_ref().map(|by| self.column(by)) {
            None => Ok(()),
            Some(Some(ColumnReference { values: ValuesReference::Categorical(_), .. })) => Ok(()),
            Some(_) => {
                Err(ReferenceError::Whole("is by a column that it does not have as a category"))
            }
        }
    }
}

/// `Err(why)` unless `good`.
fn ensure(good: bool, why: &'static str) -> Result<(), &'static str> {
    if good { Ok(()) } else { Err(why) }
}

impl ColumnReference {
    fn check(&self) -> Result<(), &'static str> {
        ensure(is_rate(self.max_missing_rate), "max-missing-rate is outside 0..=1")?;
        match &self.values {
            ValuesReference::Numeric(numeric) => numeric.check(),
            ValuesReference::Categorical(categorical) => categorical.check(),
        }
    }
}

impl NumericReference {
    fn check(&self) -> Result<(), &'static str> {
        ensure(is_rate(self.max_out_of_range_rate), "max-out-of-range-rate is outside 0..=1")?;
        ensure(is_rate(self.max_mode_rate), "max-mode-rate is outside 0..=1")?;
        ensure(self.min <= self.max, "its range is empty")?;
        ensure(self.mean.is_finite(), "its mean is no number")?;
        ensure(self.std >= 0.0 && self.std.is_finite(), "its std is no standard deviation")?;
        let Some(Bins { edges, counts, means, groups }) = &self.bins else { return Ok(()) };
        ensure(!edges.is_empty(), "one bin tells no drift: leave the bins out")?;
        ensure(counts.len() == edges.len() + 1, "its edges do not make that many bins")?;
        ensure(means.len() == counts.len(), "its bins have another number of means")?;
        ensure(edges.is_sorted_by(|a, b| a < b), "the edges do not rise")?;
        ensure(self.std > 0.0, "its values vary, but its std is 0")?;
        ensure(means.is_sorted(), "the bins' means do not rise")?;
        ensure(!counts.contains(&0), "a bin has no rows: pool it with a neighbour")?;
        check_counts(counts, groups)
    }
}

impl CategoricalReference {
    fn check(&self) -> Result<(), &'static str> {
        ensure(is_rate(self.max_unseen_rate), "max-unseen-rate is outside 0..=1")?;
        ensure(
            self.categories.len() == self.counts.len(),
            "its categories have another number of counts",
        )?;
        let names: Vec<&str> = self.categories.iter().map(String::as_str).collect();
        ensure(repeated(&names).is_none(), "a category is there twice")?;
        check_counts(&self.counts, &self.groups)
    }
}

impl EmbeddingReference {
    fn check(&self) -> Result<(), &'static str> {
        ensure(
            (1..=MAX_DIMENSIONS).contains(&self.mean.len()),
            "its mean has no or too many elements",
        )?;
        ensure(
            self.mean.iter().all(|x| x.is_finite()),
            "its mean has an element that is no number",
        )?;
        ensure(self.rows > 1, "one row tells nothing of how rows vary")?;
        let [one, two, three] = self.traces;
        // What holds for the eigenvalues of any covariance matrix, with room
        // for the rounding of what was written down.
        let of_matrix = 0.0 < one
            && one.is_finite()
            && 0.0 < two
            && two <= one * one * 1.001
            && 0.0 < three
            && three <= one * two * 1.001
            && two * two <= one * three * 1.001;
        ensure(of_matrix, "its traces are of no covariance matrix")
    }
}

fn is_rate(rate: f64) -> bool {
    (0.0..=1.0).contains(&rate)
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn check_counts(counts: &[u64], groups: &[GroupCounts]) -> Result<(), &'static str> {
    // So that sums of counts are exact in f64.
    let total = |counts: &[u64]| {
        counts.iter().try_fold(0u64, |sum, &c| sum.checked_add(c)).filter(|&sum| sum <= 1 << 53)
    };
    let sum = total(counts);
    ensure(sum.is_some(), "its counts overflow")?;
    ensure(sum != Some(0), "all its counts are 0")?;
    let names: Vec<&str> = groups.iter().map(|g| g.name.as_str()).collect();
    ensure(repeated(&names).is_none(), "a group is there twice")?;
    for group in groups {
        ensure(group.counts.len() == counts.len(), "a group has another number of counts")?;
        ensure(total(&group.counts).is_some(), "its counts overflow")?;
    }
    Ok(())
}
