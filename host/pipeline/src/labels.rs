//! Rows that wait for what was right.

use std::collections::VecDeque;

use crate::row::{Cell, Row};

/// The most rows that may wait for their labels.
pub const MAX_WAITING_ROWS: u32 = 65_536;

/// The rows of one monitor that wait for their labels, oldest first.
///
/// Every row comes out once: with its label when that comes, or without it
/// when as many later ones wait as may.
#[derive(Debug, Clone)]
pub struct LabelJoin {
    wait: usize,
    /// By frame id, rising.
    rows: VecDeque<Row>,
}

impl LabelJoin {
    /// Let `wait` rows wait.
    pub fn new(wait: u32) -> Self {
        Self { wait: wait.min(MAX_WAITING_ROWS) as usize, rows: VecDeque::new() }
    }

    /// Let a row wait. Gives the one that has waited long enough.
    pub fn wait(&mut self, row: Row) -> Option<Row> {
        self.rows.push_back(row);
        if self.rows.len() > self.wait { self.rows.pop_front() } else { None }
    }

    /// The row of that frame, with the label's columns added; those that it
    /// has already give way. Nothing when no such row waits.
    pub fn label(&mut self, frame_id: u64, label: &[(String, Cell)]) -> Option<Row> {
        let at = self.rows.binary_search_by_key(&frame_id, |row| row.frame_id).ok()?;
        let mut row = self.rows.remove(at)?;
        row.cells.retain(|(name, _)| label.iter().all(|(given, _)| given != name));
        row.cells.extend(label.iter().cloned());
        Some(row)
    }

    /// All that wait, without their labels: for the end of a window.
    pub fn give_up(&mut self) -> impl Iterator<Item = Row> {
        self.rows.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(frame_id: u64) -> Row {
        let cells = vec![("score".to_owned(), Cell::Numeric(0.5))];
        Row { frame_id, captured_at_ns: frame_id, cells }
    }

    fn label(of: f64) -> Vec<(String, Cell)> {
        vec![("label".to_owned(), Cell::Numeric(of))]
    }

    #[test]
    fn a_row_goes_with_its_label_whatever_the_order() {
        let mut join = LabelJoin::new(3);
        assert!((0..3).all(|i| join.wait(row(i)).is_none()));
        let joined = join.label(1, &label(7.0));
        assert_eq!(joined.map(|r| (r.frame_id, r.cells.len())), Some((1, 2)));
        assert_eq!(join.label(1, &label(7.0)), None, "a label counts once");
        assert_eq!(join.label(9, &label(7.0)), None);
        assert_eq!(join.label(0, &label(7.0)).map(|r| r.frame_id), Some(0));
        assert_eq!(join.give_up().map(|r| r.frame_id).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_row_that_waited_long_enough_goes_without() {
        let mut join = LabelJoin::new(2);
        let gone: Vec<u64> = (0..5).filter_map(|i| join.wait(row(i))).map(|r| r.frame_id).collect();
        assert_eq!(gone, [0, 1, 2]);
        assert_eq!(join.label(2, &label(1.0)), None);
    }

    #[test]
    fn a_label_replaces_what_the_row_has_under_its_name() {
        let mut join = LabelJoin::new(2);
        join.wait(row(0));
        let joined = join.label(0, &[("score".to_owned(), Cell::Missing)]);
        assert_eq!(joined.map(|r| r.cells), Some(vec![("score".to_owned(), Cell::Missing)]));
    }
}
