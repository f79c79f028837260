//! What the monitor holds a window against: learnt once from good rows.

use headland_sdk::monitor::{Column, ColumnValues};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::stats::{clopper_pearson_upper, wilks_outside_range};

/// Bins of a numeric feature that [`fit`] aims at.
const BINS: usize = 10;

/// The smallest share of a bin that drift is computed over: rarer bins are
/// pooled, because the noise floor does not hold for a handful of rows.
pub const MIN_BIN_SHARE: f64 = 0.05;

/// How sure [`fit`] is that a rate of good data is no higher than it says.
const CONFIDENCE: f64 = 0.99;

/// More distinct texts than this are identifiers and no categories.
const MAX_CATEGORIES: usize = 1_000;

/// The reference data of a package, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Reference {
    /// The format's version, 1.
    pub version: u32,
    /// How many rows it was learnt from.
    pub rows: u64,
    /// The share of rows with a missing value that is still good.
    pub max_incomplete_rate: f64,
    /// The features.
    pub columns: Vec<ColumnReference>,
}

/// What is good for one feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ColumnReference {
    /// The feature's name.
    pub name: String,
    /// The share of missing values that is still good.
    pub max_missing_rate: f64,
    /// What depends on the feature's type.
    pub values: ValuesReference,
}

/// What is good for the values of a feature that are not missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum ValuesReference {
    /// Numbers.
    Numeric {
        /// The smallest good value.
        min: f64,
        /// The greatest good value.
        max: f64,
        /// The share of values outside `min..=max` that is still good; 0
        /// where the limits are physical.
        max_out_of_range_rate: f64,
        /// The share of rows that may hold one and the same value; 1 for a
        /// feature that is constant by nature.
        max_mode_rate: f64,
        /// The distribution; absent when there were too few rows for one.
        bins: Option<Bins>,
    },
    /// Categories.
    Categorical {
        /// The known categories.
        categories: Vec<String>,
        /// How many rows held each.
        counts: Vec<u64>,
        /// The share of other categories that is still good.
        max_unseen_rate: f64,
    },
}

/// A histogram: bin `i` holds `edges[i - 1] <= x < edges[i]`, the first and
/// the last are open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Bins {
    /// The inner edges, rising.
    pub edges: Vec<f64>,
    /// How many rows fell into each bin: one more than the edges.
    pub counts: Vec<u64>,
}

impl Bins {
    /// The bin that `x` falls into.
    pub fn index(&self, x: f64) -> usize {
        self.edges.partition_point(|&e| e <= x)
    }
}

impl Reference {
    /// Read and check a reference.
    ///
    /// # Errors
    /// What is wrong with it, with the column's name.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let reference: Self = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if reference.version != 1 {
            return Err(format!("version is {}, known is 1", reference.version));
        }
        rate("max-incomplete-rate", reference.max_incomplete_rate)?;
        if reference.columns.is_empty() {
            return Err("has no columns".to_owned());
        }
        for (i, column) in reference.columns.iter().enumerate() {
            if reference.columns[..i].iter().any(|c| c.name == column.name) {
                return Err(format!("column `{}` is there twice", column.name));
            }
            column.check().map_err(|why| format!("column `{}`: {why}", column.name))?;
        }
        Ok(reference)
    }

    /// The reference as a package ships it.
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings, numbers and lists always serialises.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }
}

/// The digest by which a summary names its reference: SHA-256 in hex.
pub fn digest(reference: &[u8]) -> String {
    Sha256::digest(reference).iter().map(|b| format!("{b:02x}")).collect()
}

impl ColumnReference {
    fn check(&self) -> Result<(), String> {
        rate("max-missing-rate", self.max_missing_rate)?;
        match &self.values {
            ValuesReference::Numeric { min, max, max_out_of_range_rate, max_mode_rate, bins } => {
                rate("max-out-of-range-rate", *max_out_of_range_rate)?;
                rate("max-mode-rate", *max_mode_rate)?;
                if min > max {
                    return Err(format!("range {min}..={max} is empty"));
                }
                if let Some(Bins { edges, counts }) = bins {
                    if counts.len() != edges.len() + 1 {
                        let (e, c) = (edges.len(), counts.len());
                        return Err(format!("{e} edges make {} bins, there are {c}", e + 1));
                    }
                    if edges.is_empty() {
                        return Err("one bin tells no drift: leave the bins out".to_owned());
                    }
                    if let Some(i) = counts.iter().position(|&c| c == 0) {
                        return Err(format!("bin {i} has no rows: pool it with a neighbour"));
                    }
                    if edges.windows(2).any(|e| e[0] >= e[1]) {
                        return Err("the edges do not rise".to_owned());
                    }
                    positive_total(counts)?;
                }
            }
            ValuesReference::Categorical { categories, counts, max_unseen_rate } => {
                rate("max-unseen-rate", *max_unseen_rate)?;
                if categories.len() != counts.len() {
                    let (k, c) = (categories.len(), counts.len());
                    return Err(format!("{k} categories have {c} counts"));
                }
                if let Some((_, c)) =
                    categories.iter().enumerate().find(|(i, c)| categories[..*i].contains(c))
                {
                    return Err(format!("category `{c}` is there twice"));
                }
                positive_total(counts)?;
            }
        }
        Ok(())
    }
}

fn rate(name: &str, rate: f64) -> Result<(), String> {
    if (0.0..=1.0).contains(&rate) {
        return Ok(());
    }
    Err(format!("{name} {rate} is not within 0..=1"))
}

fn positive_total(counts: &[u64]) -> Result<(), String> {
    match counts.iter().try_fold(0u64, |sum, &c| sum.checked_add(c)) {
        Some(0) => Err("all counts are 0".to_owned()),
        Some(_) => Ok(()),
        None => Err("the counts overflow".to_owned()),
    }
}

/// Learn from good rows what good rows look like.
///
/// Ranges are those seen, categories likewise. The rates that are still good
/// are upper bounds of 99 % confidence for the rates of the process that gave
/// the rows, so that a window of the same process passes: Clopper-Pearson for
/// missing and incomplete rows and for a feature's most frequent value, Wilks
/// for values beyond the range, Clopper-Pearson over the categories seen once
/// (Good, Biometrika 40, 1953) for unseen ones. Whoever knows better limits
/// writes them over these.
///
/// # Errors
/// What is wrong with the rows: none, columns of different lengths or without
/// a value, more than 1000 categories.
pub fn fit(columns: &[Column]) -> Result<Reference, String> {
    let rows = columns.first().map_or(0, |c| len(&c.values));
    if rows == 0 {
        return Err("no rows to learn from".to_owned());
    }
    if let Some(c) = columns.iter().find(|c| len(&c.values) != rows) {
        return Err(format!("column `{}` has {} rows, not {rows}", c.name, len(&c.values)));
    }
    let incomplete =
        (0..rows).filter(|&i| columns.iter().any(|c| is_missing(&c.values, i))).count() as u64;
    let references = columns.iter().map(fit_column).collect::<Result<_, _>>()?;
    let rows = rows as u64;
    Ok(Reference {
        version: 1,
        rows,
        max_incomplete_rate: clopper_pearson_upper(incomplete, rows, CONFIDENCE),
        columns: references,
    })
}

fn fit_column(column: &Column) -> Result<ColumnReference, String> {
    let rows = len(&column.values) as u64;
    let (present, values) = match &column.values {
        ColumnValues::Numeric(values) => fit_numeric(values),
        ColumnValues::Categorical(values) => fit_categorical(values),
    }
    .map_err(|why| format!("column `{}` {why}", column.name))?;
    Ok(ColumnReference {
        name: column.name.clone(),
        max_missing_rate: clopper_pearson_upper(rows - present, rows, CONFIDENCE),
        values,
    })
}

fn fit_numeric(values: &[f64]) -> Result<(u64, ValuesReference), String> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
        return Err("has no value".to_owned());
    };
    if !min.is_finite() || !max.is_finite() {
        return Err("has an infinite value".to_owned());
    }
    let present = sorted.len() as u64;
    let mode = sorted.chunk_by(|a, b| a == b).map(<[f64]>::len).max().unwrap_or(0) as u64;
    let values = ValuesReference::Numeric {
        min,
        max,
        max_out_of_range_rate: wilks_outside_range(present, CONFIDENCE),
        max_mode_rate: if min == max {
            1.0
        } else {
            clopper_pearson_upper(mode, present, CONFIDENCE)
        },
        bins: fit_bins(&sorted),
    };
    Ok((present, values))
}

/// Bins of about equal counts: at most [`BINS`], none rarer than
/// [`MIN_BIN_SHARE`]; none at all for fewer than two.
fn fit_bins(sorted: &[f64]) -> Option<Bins> {
    let mut edges: Vec<f64> = (1..BINS).map(|i| sorted[sorted.len() * i / BINS]).collect();
    edges.dedup();
    edges.retain(|&e| e > sorted[0]);
    let mut bins = Bins { counts: vec![0; edges.len() + 1], edges };
    for &x in sorted {
        let i = bins.index(x);
        bins.counts[i] += 1;
    }
    let too_few = |c: u64| (c as f64) < MIN_BIN_SHARE * sorted.len() as f64;
    while let Some(i) = bins.counts.iter().position(|&c| too_few(c)) {
        // The edge to the neighbour that has fewer rows goes.
        let left = i.checked_sub(1).map(|l| (bins.counts[l], l));
        let right = bins.counts.get(i + 1).map(|&c| (c, i));
        let (_, edge) = left.into_iter().chain(right).min()?;
        bins.edges.remove(edge);
        bins.counts[edge] += bins.counts.remove(edge + 1);
    }
    (bins.counts.len() > 1).then_some(bins)
}

fn fit_categorical(values: &[Option<String>]) -> Result<(u64, ValuesReference), String> {
    let mut sorted: Vec<&str> = values.iter().flatten().map(String::as_str).collect();
    sorted.sort_unstable();
    let present = sorted.len() as u64;
    let (categories, counts): (Vec<String>, Vec<u64>) =
        sorted.chunk_by(|a, b| a == b).map(|c| (c[0].to_owned(), c.len() as u64)).unzip();
    if present == 0 {
        return Err("has no value".to_owned());
    }
    if categories.len() > MAX_CATEGORIES {
        return Err(format!("has {} categories, more than {MAX_CATEGORIES}", categories.len()));
    }
    let once = counts.iter().filter(|&&c| c == 1).count() as u64;
    let max_unseen_rate = clopper_pearson_upper(once, present, CONFIDENCE);
    Ok((present, ValuesReference::Categorical { categories, counts, max_unseen_rate }))
}

/// How many rows a column has.
pub fn len(values: &ColumnValues) -> usize {
    match values {
        ColumnValues::Numeric(v) => v.len(),
        ColumnValues::Categorical(v) => v.len(),
    }
}

/// Whether row `i` of a column is missing.
pub fn is_missing(values: &ColumnValues, i: usize) -> bool {
    match values {
        ColumnValues::Numeric(v) => v.get(i).is_none_or(|x| x.is_nan()),
        ColumnValues::Categorical(v) => v.get(i).is_none_or(Option::is_none),
    }
}
