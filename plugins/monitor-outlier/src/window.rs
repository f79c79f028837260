//! What a window held, as counts that merge.

use headland_monitor::{Field, Summary};

use crate::Reference;

/// The counts of a window. However a stream is split over devices, and in
/// whatever order, they add up to the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Rows that got a score.
    pub scored: u64,
    /// Those whose score is above the threshold.
    pub outliers: u64,
    /// Rows with a missing value.
    pub incomplete: u64,
    /// Rows whose batch lacked a column.
    pub no_column: u64,
    /// Rows whose batch had a column in another type.
    pub wrong_type: u64,
    /// Rows that `sample-every` left out.
    pub skipped: u64,
    /// Scored rows in each bin of the reference.
    pub scores: Vec<u64>,
}

impl Counts {
    /// Nothing seen yet.
    pub fn empty(reference: &Reference) -> Self {
        Self {
            scored: 0,
            outliers: 0,
            incomplete: 0,
            no_column: 0,
            wrong_type: 0,
            skipped: 0,
            scores: vec![0; reference.scores.counts.len()],
        }
    }

    /// Put them into a summary.
    pub fn write(&self, summary: &mut Summary) {
        let Self { scored, outliers, incomplete, no_column, wrong_type, skipped, .. } = *self;
        let rows = vec![scored, outliers, incomplete, no_column, wrong_type, skipped];
        summary.fields.insert("scoring".to_owned(), Field::Counts(rows));
        summary.fields.insert("scores".to_owned(), Field::Counts(self.scores.clone()));
    }

    /// Take them out of a summary of this reference. A field that it lacks is
    /// all zeros.
    ///
    /// # Errors
    /// A field that has another form.
    pub fn read(reference: &Reference, summary: &Summary) -> Result<Self, String> {
        let field = |name: &str, length: usize| match summary.counts(name) {
            [] if !summary.fields.contains_key(name) => Ok(vec![0; length]),
            counts if counts.len() == length => Ok(counts.to_vec()),
            _ => Err(format!("field `{name}` is not of {length} counts")),
        };
        let rows = field("scoring", 6)?;
        let [scored, outliers, incomplete, no_column, wrong_type, skipped] = rows[..] else {
            return Err("field `scoring` is not of 6 counts".to_owned());
        };
        let scores = field("scores", reference.scores.counts.len())?;
        Ok(Self { scored, outliers, incomplete, no_column, wrong_type, skipped, scores })
    }
}

/// Count on; a counter that is full stays so.
pub fn count(counter: &mut u64, rows: u64) {
    *counter = counter.saturating_add(rows);
}
