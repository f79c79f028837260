//! How often a detector goes off on good rows.

use headland_monitor::stats::clopper_pearson_upper;

use crate::{Detector, DetectorConfig, Signal};

/// How sure [`fit`] is that good rows change no more often than it says.
const CONFIDENCE: f64 = 0.99;

/// What good rows do to a detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoodRows {
    /// Rows that it saw.
    pub rows: u64,
    /// Changes of at least `min-effect` that it found in them.
    pub changes: u64,
    /// The changes a row that are still good: what
    /// [`DetectorConfig::max_change_rate`] takes.
    pub max_change_rate: f64,
}

/// Learn from good rows, in the order in which they came, how often a detector
/// goes off on them.
///
/// The rate that is still good is the upper bound of 99 % confidence for that
/// of the process which gave the rows (Clopper-Pearson): with few rows it is
/// generous. A thousand rows without a change bound it by 0.46 %.
///
/// # Errors
/// What makes no sense in the configuration, or that the detector takes none
/// of the rows.
pub fn fit(config: &DetectorConfig, values: &[f64]) -> Result<GoodRows, String> {
    let mut detector = Detector::new(&config.parameters()?);
    let (mut rows, mut changes) = (0, 0);
    for &x in values {
        if !detector.takes(x) {
            continue;
        }
        rows += 1;
        if let Some(Signal::Change(change)) = detector.update(x) {
            changes += u64::from(change.effect() >= config.min_effect);
        }
    }
    if rows == 0 {
        return Err(format!("`{}` takes none of the rows", config.name()));
    }
    let max_change_rate = clopper_pearson_upper(changes, rows, CONFIDENCE);
    Ok(GoodRows { rows, changes, max_change_rate })
}
