//! What was seen in a window, as integers.

use headland_monitor::{Digest, Field, Summary, check_batch, fixed_point};
use headland_sdk::monitor::{Batch, ColumnValues};

use crate::plan::{Embedding, Kind, Plan};

/// The monitor's name in its summaries.
pub const NAME: &str = "monitor-drift";

/// Counts up to here are exact in f64.
const MAX_ROWS: u64 = 1 << 53;

/// An element of an embedding that is further from the reference's mean, in
/// units of its deviation, counts as this far: one damaged vector does not
/// move the mean of thousands.
const MAX_UNITS: f64 = 64.0;

/// A window's counts, in the plan's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    rows: u64,
    /// Part by part, feature by feature, bin by bin.
    counts: Vec<u64>,
    /// Embedding by embedding.
    vectors: Vec<u64>,
    /// Embedding by embedding, element by element.
    sums: Vec<Vec<i64>>,
}

impl Window {
    /// Nothing seen yet.
    pub fn empty(plan: &Plan) -> Self {
        Self {
            rows: 0,
            counts: vec![0; plan.fields.iter().map(|(_, len)| len).sum()],
            vectors: vec![0; plan.embeddings.len()],
            sums: plan.embeddings.iter().map(|e| vec![0; e.columns.len()]).collect(),
        }
    }

    /// Count a batch.
    ///
    /// # Errors
    /// What is wrong with it; nothing is counted then.
    pub fn count(&mut self, plan: &Plan, batch: &Batch) -> Result<(), String> {
        check(batch)?;
        let rows = self.rows.saturating_add(batch.frame_ids.len() as u64);
        if rows > MAX_ROWS {
            return Err("the number of rows overflows".to_owned());
        }
        self.rows = rows;
        let parts = plan.by.as_ref().map(|by| parts(plan, batch, by));
        let per_part = self.counts.len() / plan.parts();
        let mut start = 0;
        for (i, feature) in plan.features.iter().enumerate() {
            let bins = feature.expected.len();
            let counts = &mut self.counts;
            let mut add = |row: usize, bin: usize| {
                counts[start + bin] += 1;
                if let Some(parts) = &parts {
                    counts[parts[row] * per_part + start + bin] += 1;
                }
            };
            match (&feature.kind, column(batch, i, &feature.name)) {
                (Kind::Numeric { edges, .. }, Some(ColumnValues::Numeric(values))) => {
                    for (row, &x) in values.iter().enumerate().filter(|(_, x)| !x.is_nan()) {
                        // As headland_monitor::Bins::index.
                        add(row, edges.iter().map(|&edge| usize::from(edge <= x)).sum());
                    }
                }
                (kind, Some(ColumnValues::Categorical(values)))
                    if matches!(kind, Kind::Categorical { .. }) =>
                {
                    for (row, value) in values.iter().enumerate() {
                        if let Some(value) = value {
                            add(row, kind.category(value));
                        }
                    }
                }
                _ => {}
            }
            start += bins;
        }
        for (i, embedding) in plan.embeddings.iter().enumerate() {
            self.vectors[i] += add_vectors(embedding, batch, &mut self.sums[i]);
        }
        Ok(())
    }

    /// The window as a summary: every field, also those of nothing, so that
    /// equal streams give equal bytes however they are split.
    pub fn to_summary(&self, plan: &Plan, reference: Digest) -> Summary {
        let mut summary = Summary::empty(NAME, reference);
        summary.rows = self.rows;
        let mut at = 0;
        for (name, len) in &plan.fields {
            let counts = self.counts[at..at + len].to_vec();
            summary.fields.insert(name.clone(), Field::Counts(counts));
            at += len;
        }
        for (i, embedding) in plan.embeddings.iter().enumerate() {
            let vectors = vec![self.vectors[i]];
            summary.fields.insert(embedding.vectors.clone(), Field::Counts(vectors));
            summary.fields.insert(embedding.sums.clone(), Field::Sums(self.sums[i].clone()));
        }
        summary
    }

    /// The window that a summary of this plan was made from.
    ///
    /// # Errors
    /// That it is none, or lacks a field.
    pub fn from_summary(plan: &Plan, reference: Digest, summary: &Summary) -> Result<Self, String> {
        check_summary(plan, reference, summary)?;
        if summary.fields.len() != plan.fields.len() + 2 * plan.embeddings.len() {
            return Err("it lacks some of its fields".to_owned());
        }
        let mut window = Self { rows: summary.rows, ..Self::empty(plan) };
        window.counts.clear();
        for (name, _) in &plan.fields {
            window.counts.extend_from_slice(summary.counts(name));
        }
        for (i, embedding) in plan.embeddings.iter().enumerate() {
            window.vectors[i] = summary.counts(&embedding.vectors)[0];
            window.sums[i].copy_from_slice(summary.sums(&embedding.sums));
        }
        Ok(window)
    }
}

/// Whether a summary is of this plan: of this reference, with no field of
/// another name or form, and counts that can be added up. It may lack fields:
/// a privacy filter takes some away.
///
/// # Errors
/// What is wrong with it.
pub fn check_summary(plan: &Plan, reference: Digest, summary: &Summary) -> Result<(), String> {
    if summary.by != NAME {
        return Err(format!("it is of `{}`", summary.by));
    }
    summary.is_of(reference).map_err(|e| e.to_string())?;
    let mut known = 0;
    let mut check = |name: &String, len: usize, is_sum: bool| match summary.fields.get(name) {
        None => Ok(()),
        Some(field) => {
            known += 1;
            let fits = match field {
                Field::Counts(counts) => !is_sum && counts.len() == len && add_up(counts),
                Field::Sums(sums) => is_sum && sums.len() == len,
                _ => false,
            };
            if fits { Ok(()) } else { Err(format!("its field `{name}` is not of this monitor")) }
        }
    };
    for (name, len) in &plan.fields {
        check(name, *len, false)?;
    }
    for embedding in &plan.embeddings {
        check(&embedding.vectors, 1, false)?;
        check(&embedding.sums, embedding.columns.len(), true)?;
    }
    if known != summary.fields.len() {
        return Err("it has fields of another configuration".to_owned());
    }
    Ok(())
}

/// Whether the sum of counts is one that a window can have.
fn add_up(counts: &[u64]) -> bool {
    let mut sum = 0u64;
    for &count in counts {
        sum = sum.saturating_add(count);
    }
    sum <= MAX_ROWS
}

/// # Errors
/// What is wrong with a batch: columns of another length than the ids, or a
/// name that is there twice.
fn check(batch: &Batch) -> Result<(), String> {
    let columns = batch.columns.iter().map(|c| match &c.values {
        ColumnValues::Numeric(values) => (c.name.as_str(), values.len()),
        ColumnValues::Categorical(values) => (c.name.as_str(), values.len()),
    });
    check_batch(batch.frame_ids.len(), batch.captured_at_ns.len(), columns)
        .map_err(|e| e.to_string())
}

/// The column of that name, which is most likely at that place.
fn column<'a>(batch: &'a Batch, place: usize, name: &str) -> Option<&'a ColumnValues> {
    let there = batch.columns.get(place).filter(|c| c.name == name);
    there.or_else(|| batch.columns.iter().find(|c| c.name == name)).map(|c| &c.values)
}

/// The part that each row is of.
fn parts(plan: &Plan, batch: &Batch, by: &str) -> Vec<usize> {
    match column(batch, 0, by) {
        Some(ColumnValues::Categorical(values)) => {
            values.iter().map(|value| plan.part(value.as_deref())).collect()
        }
        _ => vec![plan.part(None); batch.frame_ids.len()],
    }
}

/// Add the rows that have all of their elements; gives how many.
fn add_vectors(embedding: &Embedding, batch: &Batch, sums: &mut [i64]) -> u64 {
    let mut elements: Vec<&[f64]> = Vec::with_capacity(sums.len());
    let first = batch.columns.iter().position(|c| c.name == embedding.columns[0]).unwrap_or(0);
    for (i, name) in embedding.columns.iter().enumerate() {
        match column(batch, first + i, name) {
            Some(ColumnValues::Numeric(values)) => elements.push(values),
            _ => return 0,
        }
    }
    let mut complete = Vec::new();
    for row in 0..batch.frame_ids.len() {
        if elements.iter().all(|e| e[row].is_finite()) {
            complete.push(row);
        }
    }
    for (i, sum) in sums.iter_mut().enumerate() {
        let mean = embedding.reference.mean[i];
        for &row in &complete {
            let units = (elements[i][row] - mean) * embedding.per_unit;
            // 2^37 rows of the furthest vectors fill a sum; it stays there.
            let add = fixed_point(units.clamp(-MAX_UNITS, MAX_UNITS)).unwrap_or(0);
            *sum = sum.saturating_add(add);
        }
    }
    complete.len() as u64
}
