//! ADWIN: a window whose length adapts to its contents.

use crate::{AdwinConfig, Change, checkpoint::Words};

/// Levels that a checkpoint may have: more than 2^48 rows nobody has seen.
const MAX_LEVELS: u64 = 48;

/// Adaptive windowing.
///
/// The window holds the newest rows for as long as no cut through it has means
/// on both sides that differ by more than chance; the older side of such a cut
/// is dropped, and that is a change. Rows are kept as buckets of 1, 2, 4, ...
/// rows with their sum and variance, at most `max_buckets` of a size, so that
/// memory grows with the logarithm of the window's length.
///
/// # Source
/// Bifet and Gavaldà, "Learning from time-changing data with adaptive
/// windowing", SDM 2007 (ADWIN2; the cut's bound is that of its section 4 with
/// the variance); variances of buckets by Babcock et al., PODS 2003. Additions
/// come in the order in which river 0.26.1 makes them: detections and the
/// window's moments agree to the last bit.
#[derive(Debug, Clone)]
pub struct Adwin {
    config: AdwinConfig,
    /// Rows since the last check.
    since_check: u32,
    /// Rows in the window.
    width: f64,
    /// Their sum.
    total: f64,
    /// The sum of their squared deviations from their mean.
    variance: f64,
    /// `levels[i]` has buckets of 2^i rows, oldest first. None is empty but
    /// the first one before the first row.
    levels: Vec<Vec<Bucket>>,
}

/// Some rows in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    total: f64,
    /// The sum of squared deviations from the bucket's mean.
    variance: f64,
}

/// A cut through the window whose sides differ.
struct Cut {
    difference: f64,
    threshold: f64,
}

impl Adwin {
    /// An empty window.
    pub fn new(config: AdwinConfig) -> Self {
        let levels = vec![Vec::new()];
        Self { config, since_check: 0, width: 0.0, total: 0.0, variance: 0.0, levels }
    }

    /// Rows in the window.
    pub fn width(&self) -> u64 {
        self.width as u64
    }

    /// The sum of the window's rows.
    pub fn total(&self) -> f64 {
        self.total
    }

    /// The sum of the squared deviations of the window's rows from their mean.
    pub fn variance(&self) -> f64 {
        self.variance
    }

    /// See a row, finite. After a change the detector begins anew.
    pub fn update(&mut self, x: f64) -> Option<Change> {
        self.insert(x);
        self.since_check += 1;
        if self.since_check < self.config.clock {
            return None;
        }
        self.since_check = 0;
        if self.width <= f64::from(self.config.grace_period) {
            return None;
        }
        let cut = self.cut()?;
        let (width, total) = (self.width, self.total);
        self.drop_oldest();
        while self.cut().is_some() {
            self.drop_oldest();
        }
        let change = Change {
            value: cut.difference,
            threshold: cut.threshold,
            rows: width as u64,
            before: (total - self.total) / (width - self.width),
            after: self.total / self.width,
        };
        *self = Self::new(self.config);
        Some(change)
    }

    fn insert(&mut self, x: f64) {
        let before = self.width;
        self.width += 1.0;
        if before > 0.0 {
            let deviation = x - self.total / before;
            self.variance += before * deviation * deviation / self.width;
        }
        self.total += x;
        let mut bucket = Bucket { total: x, variance: 0.0 };
        let (full, mut size) = (self.config.max_buckets as usize, 1.0);
        for level in &mut self.levels {
            level.push(bucket);
            if level.len() <= full {
                return;
            }
            bucket = Bucket::join(level[0], level[1], size);
            level.remove(0);
            level.remove(0);
            size *= 2.0;
        }
        self.levels.push(vec![bucket]);
    }

    fn drop_oldest(&mut self) {
        let size = size(self.levels.len() - 1);
        let Some(level) = self.levels.last_mut() else { return };
        let oldest = level.remove(0);
        if level.is_empty() {
            self.levels.pop();
        }
        self.width -= size;
        self.total -= oldest.total;
        let between = oldest.total / size - self.total / self.width;
        self.variance -=
            oldest.variance + size * self.width * between * between / (size + self.width);
    }

    /// The first cut, from the oldest row on, whose sides differ.
    fn cut(&self) -> Option<Cut> {
        let at_least = f64::from(self.config.min_window_length);
        let confidence = (2.0 * self.width.ln() / self.config.delta).ln();
        let variance = self.variance / self.width;
        let (mut n0, mut n1) = (0.0, self.width);
        let (mut sum0, mut sum1) = (0.0, self.total);
        for (i, level) in self.levels.iter().enumerate().rev() {
            let size = size(i);
            for bucket in level {
                n0 += size;
                n1 -= size;
                sum0 += bucket.total;
                sum1 -= bucket.total;
                if n0 < at_least {
                    continue;
                }
                if n1 < at_least {
                    return None;
                }
                let difference = (sum0 / n0 - sum1 / n1).abs();
                // One over the harmonic mean of the sides' lengths.
                let harmonic = 1.0 / (n0 - at_least + 1.0) + 1.0 / (n1 - at_least + 1.0);
                let threshold = (2.0 * harmonic * variance * confidence).sqrt()
                    + 2.0 / 3.0 * confidence * harmonic;
                if difference > threshold {
                    return Some(Cut { difference, threshold });
                }
            }
        }
        None
    }
}

impl Bucket {
    /// Two neighbours of `size` rows each as one.
    fn join(a: Self, b: Self, size: f64) -> Self {
        let between = a.total / size - b.total / size;
        Self {
            total: a.total + b.total,
            variance: a.variance + b.variance + size * 0.5 * between * between,
        }
    }
}

/// Rows in a bucket of a level.
fn size(level: usize) -> f64 {
    (1u64 << level) as f64
}

impl Adwin {
    pub(crate) fn put(&self, words: &mut Words) {
        words.put(self.since_check.into());
        words.put_number(self.total);
        words.put_number(self.variance);
        words.put(self.levels.len() as u64);
        for level in &self.levels {
            words.put(level.len() as u64);
            for bucket in level {
                words.put_number(bucket.total);
                words.put_number(bucket.variance);
            }
        }
    }

    pub(crate) fn take(config: AdwinConfig, words: &mut Words) -> Option<Self> {
        let since_check = words.take_at_most(u64::from(config.clock) - 1)? as u32;
        let (total, variance) = (words.take_number()?, words.take_number()?);
        let count = words.take_at_most(MAX_LEVELS)?;
        let (mut levels, mut width) = (Vec::new(), 0.0);
        for i in 0..count as usize {
            let mut level = Vec::new();
            for _ in 0..words.take_at_most(config.max_buckets.into())? {
                level.push(Bucket { total: words.take_number()?, variance: words.take_number()? });
            }
            if level.is_empty() && count > 1 {
                return None;
            }
            width += level.len() as f64 * size(i);
            levels.push(level);
        }
        (count > 0).then_some(Self { config, since_check, width, total, variance, levels })
    }
}
