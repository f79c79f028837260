//! What a window held, as counts that merge.

use headland_monitor::{Field, Summary};

/// Powers of two that [`Counts::at`] tells apart.
const POSITIONS: usize = 24;

/// The counts of one detector over a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that the detector saw.
    pub used: u64,
    /// Those at which it had seen enough to find a change.
    pub ready: u64,
    /// Rows without a value.
    pub missing: u64,
    /// Rows whose value it does not take: not finite, beyond 1e100, or, for
    /// DDM, neither 0 nor 1.
    pub refused: u64,
    /// Rows whose batch lacked the column.
    pub no_column: u64,
    /// Rows whose batch had the column in another type.
    pub wrong_type: u64,
    /// Changes after which the mean was higher.
    pub up: u64,
    /// Changes after which it was lower, or the same.
    pub down: u64,
    /// Changes smaller than `min-effect`; in neither of the above.
    pub small: u64,
    /// Warnings that began; of DDM alone.
    pub warnings: u64,
    /// All changes by the row of the window that they were found at: element
    /// `i` counts rows `2^i - 1 ..= 2^(i+1) - 2`, from 0; the last is open.
    pub at: [u64; POSITIONS],
}

impl Counts {
    /// A change was found at a row of the window.
    pub fn found_at(&mut self, row: u64) {
        let position = row.saturating_add(1).ilog2() as usize;
        count(&mut self.at[position.min(POSITIONS - 1)], 1);
    }

    /// All changes that matter.
    pub fn changes(&self) -> u64 {
        self.up.saturating_add(self.down)
    }

    /// Whether rows came, and the detector could take none of them.
    pub fn is_blind(&self) -> bool {
        let Self { used, missing, refused, no_column, wrong_type, .. } = *self;
        used == 0 && missing | refused | no_column | wrong_type > 0
    }

    /// Put them into a summary, under the detector's name.
    pub fn write(&self, name: &str, summary: &mut Summary) {
        let mut field = |part: &str, counts: &[u64]| {
            summary.fields.insert(format!("{name}/{part}"), Field::Counts(counts.to_vec()));
        };
        let Self { used, ready, missing, refused, no_column, wrong_type, .. } = *self;
        field("values", &[used, ready, missing, refused, no_column, wrong_type]);
        field("changes", &[self.up, self.down, self.small, self.warnings]);
        field("at", &self.at);
    }

    /// Take them out of a summary. A field that it lacks is all zeros.
    ///
    /// # Errors
    /// The name of a field that has another form.
    pub fn read(name: &str, summary: &Summary) -> Result<Self, String> {
        let (mut values, mut changes, mut at) = ([0; 6], [0; 4], [0; POSITIONS]);
        field(name, "values", summary, &mut values)?;
        field(name, "changes", summary, &mut changes)?;
        field(name, "at", summary, &mut at)?;
        let [used, ready, missing, refused, no_column, wrong_type] = values;
        let [up, down, small, warnings] = changes;
        let rows = Self { used, ready, missing, refused, no_column, wrong_type, ..Self::default() };
        Ok(Self { up, down, small, warnings, at, ..rows })
    }
}

fn field(name: &str, part: &str, summary: &Summary, counts: &mut [u64]) -> Result<(), String> {
    let name = format!("{name}/{part}");
    match summary.fields.get(&name) {
        None => Ok(()),
        Some(Field::Counts(given)) if given.len() == counts.len() => {
            counts.copy_from_slice(given);
            Ok(())
        }
        Some(_) => Err(format!("field `{name}` is not of {} counts", counts.len())),
    }
}

/// Count on; a counter that is full stays so.
pub fn count(counter: &mut u64, rows: u64) {
    *counter = counter.saturating_add(rows);
}
