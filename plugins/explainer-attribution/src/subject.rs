//! The model that is explained, and what it may cost.

use headland_sdk::Result as StageResult;

use crate::error::Error;

/// Elements of the rows that wait for one run: 128 KiB.
const BATCH_ELEMENTS: usize = 16_384;

/// Runs the model on rows, one after the other: gives as many numbers for each
/// row as the output has elements.
pub type Run<'a> = dyn FnMut(&[f64]) -> StageResult<Vec<f64>> + 'a;

/// What one explanation may cost.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Rows that one run of the model may hold; 1 where it takes no batches.
    pub batch_rows: usize,
    /// What one row counts as. More than 1 only where the input's first
    /// dimension is open without being a batch's, such as time.
    pub calls_per_row: u64,
    /// The most that all rows together may count as.
    pub max_calls: u64,
}

/// A model, the input that it is explained for, and the one number of its
/// output that is explained.
pub struct Subject<'a> {
    run: &'a mut Run<'a>,
    input: &'a [f64],
    allowance: Allowance,
    calls: u64,
    index: usize,
    elements: usize,
    prediction: f64,
}

impl<'a> Subject<'a> {
    /// Run the model on the input itself. Without an `index`, the greatest
    /// element of what it gives is explained; of equal ones the first.
    ///
    /// # Errors
    /// As [`each`](Self::each), and [`Error::NoSuchElement`].
    pub fn new(
        run: &'a mut Run<'a>,
        input: &'a [f64],
        allowance: Allowance,
        index: Option<usize>,
    ) -> Result<Self, Error> {
        let mut subject =
            Self { run, input, allowance, calls: 0, index: 0, elements: 1, prediction: 0.0 };
        subject.spend(1)?;
        let given = (subject.run)(input).map_err(Error::Model)?;
        let top = || {
            let better = |best: usize, i: usize| if given[i] > given[best] { i } else { best };
            (0..given.len()).reduce(better).unwrap_or(0)
        };
        if let Some(&value) = given.iter().find(|v| !v.is_finite()) {
            return Err(Error::NotFinite { value });
        }
        subject.elements = given.len();
        subject.index = index.unwrap_or_else(top);
        subject.prediction = *given
            .get(subject.index)
            .ok_or(Error::NoSuchElement { index: subject.index, elements: given.len() })?;
        Ok(subject)
    }

    /// The input.
    pub fn input(&self) -> &'a [f64] {
        self.input
    }

    /// What the model says of the input.
    pub fn prediction(&self) -> f64 {
        self.prediction
    }

    /// Runs so far; each row of a batch counts.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// How many more rows are allowed.
    pub fn rows_left(&self) -> u64 {
        (self.allowance.max_calls - self.calls) / self.allowance.calls_per_row.max(1)
    }

    fn spend(&mut self, rows: u64) -> Result<(), Error> {
        let needed =
            rows.saturating_mul(self.allowance.calls_per_row.max(1)).saturating_add(self.calls);
        if needed > self.allowance.max_calls {
            return Err(Error::Budget { needed, allowed: self.allowance.max_calls });
        }
        self.calls = needed;
        Ok(())
    }

    /// Run the model on `rows` rows: `write` is given each row, filled with the
    /// input, to change it, and `read` what the model says of it.
    ///
    /// # Errors
    /// [`Error::Budget`] before anything is run, [`Error::Model`],
    /// [`Error::Outputs`], [`Error::NotFinite`].
    pub fn each(
        &mut self,
        rows: usize,
        mut write: impl FnMut(usize, &mut [f64]),
        mut read: impl FnMut(usize, f64),
    ) -> Result<(), Error> {
        self.spend(rows as u64)?;
        let width = self.input.len();
        let fitting = BATCH_ELEMENTS / width.max(1);
        let batch = self.allowance.batch_rows.min(fitting).max(1);
        let mut buffer = Vec::with_capacity(batch.min(rows) * width);
        let mut at = 0;
        while at < rows {
            let count = batch.min(rows - at);
            buffer.clear();
            for i in 0..count {
                buffer.extend_from_slice(self.input);
                write(at + i, &mut buffer[i * width..]);
            }
            let given = (self.run)(&buffer).map_err(Error::Model)?;
            if given.len() != count * self.elements {
                return Err(Error::Outputs { rows: count, numbers: given.len() });
            }
            for (i, outputs) in given.chunks_exact(self.elements).enumerate() {
                let value = outputs[self.index];
                if !value.is_finite() {
                    return Err(Error::NotFinite { value });
                }
                read(at + i, value);
            }
            at += count;
        }
        Ok(())
    }
}
