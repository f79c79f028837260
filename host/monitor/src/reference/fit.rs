//! From good rows to what good rows look like.

use super::{
    Bins, CategoricalReference, ColumnReference, EmbeddingReference, GroupCounts, NumericReference,
    Reference, VERSION, ValuesReference, decimal, element,
};
use crate::{
    Column, ColumnValues, Digest,
    stats::{clopper_pearson_upper, wilks_outside_range},
};

/// Bins of a numeric feature that [`fit`] aims at.
const BINS: usize = 10;

/// The smallest share of a bin: rarer ones are pooled, because no noise floor
/// holds for a handful of rows.
const MIN_BIN_SHARE: f64 = 0.05;

/// How sure [`fit`] is that a rate of good data is no higher than it says.
const CONFIDENCE: f64 = 0.99;

/// More distinct texts than this are identifiers and no categories.
const MAX_CATEGORIES: usize = 1_000;

/// Groups of which distributions are kept.
const MAX_GROUPS: usize = 64;

/// Digits of what is estimated: more would be noise.
const DIGITS: usize = 9;

/// Digits of a rate.
const RATE_DIGITS: usize = 4;

/// What [`fit`] cannot see in the rows.
#[derive(Debug, Clone, Default)]
pub struct FitOptions {
    /// SHA-256 of the models whose inputs and outputs the rows are.
    pub models: Vec<Digest>,
    /// A categorical column: distributions are also learnt for each of its
    /// values.
    pub by: Option<String>,
    /// The rows are in the order in which they were captured, so that equal
    /// rows in a row mean something.
    pub ordered: bool,
    /// Columns that together are a vector.
    pub embeddings: Vec<EmbeddingOptions>,
}

/// Columns that together are a vector.
#[derive(Debug, Clone)]
pub struct EmbeddingOptions {
    /// The vector's name.
    pub name: String,
    /// What the columns' names begin with, as
    /// [`EmbeddingReference::prefix`] has it.
    pub prefix: String,
}

/// Why nothing can be learnt from rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// No rows, or no columns.
    #[error("no rows to learn from")]
    Empty,
    /// A column is longer or shorter than the first.
    #[error("column `{column}` has {has} rows, the first {rows}")]
    Length {
        /// The column.
        column: String,
        /// Its rows.
        has: usize,
        /// The first column's.
        rows: usize,
    },
    /// A column's values teach nothing.
    #[error("column `{column}` {why}")]
    Column {
        /// The column.
        column: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Learn from good rows what good rows look like.
///
/// Ranges are those seen, categories likewise. The rates that are still good
/// are upper bounds of 99 % confidence for the rates of the process that gave
/// the rows, so that a window of the same process passes: Clopper-Pearson for
/// missing, incomplete and repeated rows and for a feature's most frequent
/// value, Wilks for values beyond the range, Clopper-Pearson over the
/// categories seen once (Good, Biometrika 40, 1953) for unseen ones. Whoever
/// knows better limits writes them over these.
///
/// Numbers get up to ten bins of about equal counts, none rarer than 5 %. An
/// edge is a number of few digits between two values that were seen.
///
/// # Errors
/// [`FitError`]: no rows, columns of different lengths, without a value, with
/// an infinite one, of more than 1000 categories or 64 groups, or an
/// embedding that is not there or does not vary.
pub fn fit(columns: &[Column], options: &FitOptions) -> Result<Reference, FitError> {
    let rows = columns.first().map_or(0, |c| c.values.len());
    if rows == 0 {
        return Err(FitError::Empty);
    }
    if let Some(Column { name, values }) = columns.iter().find(|c| c.values.len() != rows) {
        return Err(FitError::Length { column: name.clone(), has: values.len(), rows });
    }
    let of = |column: &str| {
        let column = column.to_owned();
        move |why| FitError::Column { column, why }
    };
    let is_element = |c: &&Column| options.embeddings.iter().any(|e| c.name.starts_with(&e.prefix));
    let features: Vec<&Column> = columns.iter().filter(|c| !is_element(c)).collect();
    let groups = match &options.by {
        None => Groups::default(),
        Some(by) => {
            let column = features.iter().find(|c| c.name == *by);
            Groups::of(column.map(|c| &c.values)).map_err(of(by))?
        }
    };
    let incomplete =
        (0..rows).filter(|&i| features.iter().any(|c| c.values.is_missing(i))).count() as u64;
    let repeats =
        (1..rows).filter(|&i| features.iter().all(|c| c.values.repeats(i))).count() as u64;
    Ok(Reference {
        version: VERSION,
        models: options.models.iter().map(Digest::to_string).collect(),
        rows: rows as u64,
        by: options.by.clone(),
        max_incomplete_rate: upper_rate(incomplete, rows as u64),
        max_repeat_rate: options.ordered.then(|| upper_rate(repeats, rows as u64)),
        columns: features
            .iter()
            .map(|c| fit_column(c, &groups).map_err(of(&c.name)))
            .collect::<Result<_, _>>()?,
        embeddings: options
            .embeddings
            .iter()
            .map(|e| fit_embedding(e, columns).map_err(of(&e.name)))
            .collect::<Result<_, _>>()?,
    })
}

fn upper_rate(k: u64, n: u64) -> f64 {
    decimal::rounded_up(clopper_pearson_upper(k, n, CONFIDENCE), RATE_DIGITS).min(1.0)
}

/// Which group each row is of.
#[derive(Default)]
struct Groups {
    names: Vec<String>,
    of_row: Vec<Option<usize>>,
}

impl Groups {
    fn of(values: Option<&ColumnValues>) -> Result<Self, String> {
        let Some(ColumnValues::Categorical(values)) = values else {
            return Err("is no column of categories, so rows cannot be grouped by it".to_owned());
        };
        let mut names: Vec<String> = values.iter().flatten().cloned().collect();
        names.sort_unstable();
        names.dedup();
        if names.len() > MAX_GROUPS {
            return Err(format!("makes {} groups, more than {MAX_GROUPS}", names.len()));
        }
        let of_row =
            values.iter().map(|v| v.as_ref().and_then(|v| names.binary_search(v).ok())).collect();
        Ok(Self { names, of_row })
    }

    /// The counts of each group, where `bin` says which of `bins` a row falls
    /// into.
    fn count(&self, bins: usize, bin: impl Fn(usize) -> Option<usize>) -> Vec<GroupCounts> {
        let mut counts = vec![vec![0; bins]; self.names.len()];
        for (row, group) in self.of_row.iter().enumerate() {
            if let (Some(group), Some(bin)) = (group, bin(row)) {
                counts[*group][bin] += 1;
            }
        }
        let named = self.names.iter().zip(counts);
        named.map(|(name, counts)| GroupCounts { name: name.clone(), counts }).collect()
    }
}

fn fit_column(column: &Column, groups: &Groups) -> Result<ColumnReference, String> {
    let rows = column.values.len() as u64;
    let (present, values) = match &column.values {
        ColumnValues::Numeric(values) => fit_numeric(values, groups)?,
        ColumnValues::Categorical(values) => fit_categorical(values, groups)?,
    };
    Ok(ColumnReference {
        name: column.name.clone(),
        max_missing_rate: upper_rate(rows - present, rows),
        values,
    })
}

fn fit_numeric(values: &[f64], groups: &Groups) -> Result<(u64, ValuesReference), String> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(&first), Some(&last)) = (sorted.first(), sorted.last()) else {
        return Err("has no value".to_owned());
    };
    if !first.is_finite() || !last.is_finite() {
        return Err("has an infinite value".to_owned());
    }
    let present = sorted.len() as u64;
    let mode = sorted.chunk_by(|a, b| a == b).map(<[f64]>::len).max().unwrap_or(0) as u64;
    let (min, max) = decimal::range(first, last);
    let mean = mean(&sorted);
    let std = deviation(&sorted, mean);
    let bins = fit_bins(&sorted).map(|mut bins| {
        bins.groups = groups.count(bins.counts.len(), |row| {
            Some(values[row]).filter(|x| !x.is_nan()).map(|x| bins.index(x))
        });
        bins
    });
    let values = NumericReference {
        min,
        max,
        max_out_of_range_rate: decimal::rounded_up(
            wilks_outside_range(present, CONFIDENCE),
            RATE_DIGITS,
        )
        .min(1.0),
        max_mode_rate: if first == last { 1.0 } else { upper_rate(mode, present) },
        mean: decimal::rounded(mean, DIGITS),
        std: decimal::rounded(std, DIGITS),
        bins,
    };
    Ok((present, ValuesReference::Numeric(values)))
}

/// The mean, of values whose sum may overflow; exact for equal ones.
fn mean(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let first = values.first().copied().unwrap_or(f64::NAN);
    first + values.iter().map(|x| x / n - first / n).sum::<f64>()
}

/// The standard deviation, of values whose squares may overflow.
fn deviation(values: &[f64], mean: f64) -> f64 {
    let unit = values.iter().map(|x| (x - mean).abs()).fold(0.0, f64::max);
    if unit == 0.0 {
        return 0.0;
    }
    let squares: Vec<f64> = values.iter().map(|x| ((x - mean) / unit).powi(2)).collect();
    unit * self::mean(&squares).sqrt()
}

/// Bins of about equal counts: at most [`BINS`], none rarer than
/// [`MIN_BIN_SHARE`]; none at all for fewer than two.
fn fit_bins(sorted: &[f64]) -> Option<Bins> {
    let mut edges: Vec<f64> = (1..BINS)
        .filter_map(|i| {
            let above = sorted[sorted.len() * i / BINS];
            let below = sorted[..sorted.partition_point(|&x| x < above)].last()?;
            Some(decimal::between(*below, above))
        })
        .collect();
    edges.dedup();
    let in_bins = |edges: &[f64]| -> Vec<Vec<f64>> {
        let mut rest = sorted;
        let mut bins = Vec::new();
        for &edge in edges {
            let (bin, after) = rest.split_at(rest.partition_point(|&x| x < edge));
            bins.push(bin.to_vec());
            rest = after;
        }
        bins.push(rest.to_vec());
        bins
    };
    let mut counts: Vec<u64> = in_bins(&edges).iter().map(|bin| bin.len() as u64).collect();
    let too_few = |c: u64| (c as f64) < MIN_BIN_SHARE * sorted.len() as f64;
    while let Some(i) = counts.iter().position(|&c| too_few(c)) {
        // The edge to the neighbour that has fewer rows goes.
        let left = i.checked_sub(1).map(|l| (counts[l], l));
        let right = counts.get(i + 1).map(|&c| (c, i));
        let (_, edge) = left.into_iter().chain(right).min()?;
        edges.remove(edge);
        counts[edge] += counts.remove(edge + 1);
    }
    let means = in_bins(&edges).iter().map(|bin| decimal::rounded(mean(bin), DIGITS)).collect();
    (counts.len() > 1).then_some(Bins { edges, counts, means, groups: Vec::new() })
}

fn fit_categorical(
    values: &[Option<String>],
    groups: &Groups,
) -> Result<(u64, ValuesReference), String> {
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
    let groups = groups.count(categories.len(), |row| {
        values[row].as_ref().and_then(|v| categories.binary_search(v).ok())
    });
    let max_unseen_rate = upper_rate(once, present);
    let values = CategoricalReference { categories, counts, max_unseen_rate, groups };
    Ok((present, ValuesReference::Categorical(values)))
}

fn fit_embedding(
    options: &EmbeddingOptions,
    columns: &[Column],
) -> Result<EmbeddingReference, String> {
    let mut elements: Vec<&[f64]> = Vec::new();
    while let Some(column) =
        columns.iter().find(|c| c.name == element(&options.prefix, elements.len()))
    {
        let ColumnValues::Numeric(values) = &column.values else {
            return Err(format!("has an element `{}` that is no number", column.name));
        };
        elements.push(values);
    }
    let first = elements.first().ok_or_else(|| {
        format!("has no elements: there is no column `{}`", element(&options.prefix, 0))
    })?;
    let complete: Vec<usize> =
        (0..first.len()).filter(|&row| elements.iter().all(|e| e[row].is_finite())).collect();
    if complete.len() < 2 {
        return Err("has fewer than two rows with all elements".to_owned());
    }
    let centred: Vec<(f64, Vec<f64>)> = elements
        .iter()
        .map(|e| {
            let values: Vec<f64> = complete.iter().map(|&row| e[row]).collect();
            let mean = mean(&values);
            (mean, values.iter().map(|x| x - mean).collect())
        })
        .collect();
    let traces = traces(&centred.iter().map(|(_, values)| values.as_slice()).collect::<Vec<_>>());
    if !traces.iter().all(|&t| t > 0.0 && t.is_finite()) {
        return Err("does not vary, or beyond all numbers".to_owned());
    }
    Ok(EmbeddingReference {
        name: options.name.clone(),
        prefix: options.prefix.clone(),
        rows: complete.len() as u64,
        mean: centred.iter().map(|(mean, _)| decimal::rounded(*mean, DIGITS)).collect(),
        traces: traces.map(|t| decimal::rounded(t, DIGITS)),
    })
}

/// The traces of the covariance matrix of centred columns, of its square and
/// of its cube. The latter two are too large on average when there are few
/// rows, which makes for fewer alarms, not more.
fn traces(columns: &[&[f64]]) -> [f64; 3] {
    let rows = columns.first().map_or(0, |c| c.len());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let covariance: Vec<Vec<f64>> = columns
        .iter()
        .map(|a| columns.iter().map(|b| dot(a, b) / (rows as f64 - 1.0)).collect())
        .collect();
    let one = (0..columns.len()).map(|i| covariance[i][i]).sum();
    let two = covariance.iter().map(|row| dot(row, row)).sum();
    // tr(C^3) = sum of (C^2)_ij C_ij, and C is symmetric.
    let three = covariance
        .iter()
        .map(|a| covariance.iter().zip(a).map(|(b, c)| dot(a, b) * c).sum::<f64>())
        .sum();
    [one, two, three]
}
