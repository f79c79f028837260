//! Page-Hinkley: the sum of deviations from a running mean.

use crate::{Change, Mode, PageHinkleyConfig, checkpoint::Words};

/// The Page-Hinkley test with a forgetting factor, one- or two-sided.
///
/// # Source
/// Page, "Continuous inspection schemes", Biometrika 41 (1954), in the form of
/// river 0.26.1: the deviation of each row from the mean of all rows so far,
/// less `delta`, is added to `alpha` times the sum; there is a change once the
/// sum is `threshold` above its smallest, or, for a fall, below its greatest.
#[derive(Debug, Clone)]
pub struct PageHinkley {
    config: PageHinkleyConfig,
    rows: u64,
    mean: f64,
    rise: Side,
    fall: Side,
}

/// The test for one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Side {
    /// The sum of deviations.
    sum: f64,
    /// Its smallest so far for a rise, its greatest for a fall.
    extreme: f64,
    /// Rows since then, and their sum: what came after the change, if it was
    /// one.
    since: u64,
    total_since: f64,
}

impl Side {
    fn new(extreme: f64) -> Self {
        Self { sum: 0.0, extreme, since: 0, total_since: 0.0 }
    }

    fn add(&mut self, x: f64, sum: f64, is_extreme: bool) {
        self.sum = sum;
        if is_extreme {
            *self = Self::new(sum);
            self.sum = sum;
        } else {
            self.since += 1;
            self.total_since += x;
        }
    }
}

impl PageHinkley {
    /// Before the first row.
    pub fn new(config: PageHinkleyConfig) -> Self {
        // Where they start is river's, too.
        let (rise, fall) = (Side::new(f64::INFINITY), Side::new(-1.0));
        Self { config, rows: 0, mean: 0.0, rise, fall }
    }

    /// See a row, finite. After a change the detector begins anew.
    pub fn update(&mut self, x: f64) -> Option<Change> {
        let PageHinkleyConfig { min_instances, delta, threshold, alpha, mode } = self.config;
        self.rows += 1;
        self.mean += 1.0 / self.rows as f64 * (x - self.mean);
        let deviation = x - self.mean;
        let up = alpha * self.rise.sum + deviation - delta;
        self.rise.add(x, up, up < self.rise.extreme);
        let down = alpha * self.fall.sum + deviation + delta;
        self.fall.add(x, down, down > self.fall.extreme);
        if self.rows < u64::from(min_instances) {
            return None;
        }
        let rise = up - self.rise.extreme;
        let fall = self.fall.extreme - down;
        let (value, side) = if mode != Mode::Down && rise > threshold {
            (rise, &self.rise)
        } else if mode != Mode::Up && fall > threshold {
            (fall, &self.fall)
        } else {
            return None;
        };
        let whole = self.mean * self.rows as f64;
        let change = Change {
            value,
            threshold,
            rows: self.rows,
            before: (whole - side.total_since) / (self.rows - side.since) as f64,
            after: side.total_since / side.since as f64,
        };
        *self = Self::new(self.config);
        Some(change)
    }

    /// Rows since it began.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn put(&self, words: &mut Words) {
        words.put(self.rows);
        words.put_number(self.mean);
        for side in [&self.rise, &self.fall] {
            words.put_number(side.sum);
            words.put_number(side.extreme);
            words.put(side.since);
            words.put_number(side.total_since);
        }
    }

    pub(crate) fn take(config: PageHinkleyConfig, words: &mut Words) -> Option<Self> {
        let mut detector = Self::new(config);
        detector.rows = words.take()?;
        detector.mean = words.take_number()?;
        for side in [&mut detector.rise, &mut detector.fall] {
            side.sum = words.take_number()?;
            // Infinite before the first row.
            side.extreme = words.take().map(f64::from_bits)?;
            // One row at least is no later than the extreme.
            side.since = words.take_at_most(detector.rows.saturating_sub(1))?;
            side.total_since = words.take_number()?;
        }
        let begun = detector.rows > 0;
        let fits = detector.rise.extreme.is_finite() == begun && detector.fall.extreme.is_finite();
        fits.then_some(detector)
    }
}
