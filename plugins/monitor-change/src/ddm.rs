//! DDM: the rate of errors against the best that there was.

use crate::{Change, DdmConfig, Signal, checkpoint::Words};

/// The drift detection method.
///
/// Takes 1 for an error and 0 for none. The rate `p` over all rows so far has
/// the standard deviation `s = sqrt(p (1 - p) / n)`; where `p + s` is smallest,
/// it is kept. There is a change once `p + s` is `drift_threshold` of the kept
/// deviations above the kept rate, and a warning at `warning_threshold`.
///
/// # Source
/// Gama, Medas, Castillo and Rodrigues, "Learning with drift detection", SBIA
/// 2004, in the form of river 0.26.1.
#[derive(Debug, Clone)]
pub struct Ddm {
    config: DdmConfig,
    rows: u64,
    rate: f64,
    best: Option<Best>,
    warning: bool,
}

/// Where `p + s` was smallest.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Best {
    rows: u64,
    rate: f64,
    deviation: f64,
}

impl Ddm {
    /// Before the first row.
    pub fn new(config: DdmConfig) -> Self {
        Self { config, rows: 0, rate: 0.0, best: None, warning: false }
    }

    /// See a row: 0 or 1. A warning is given once, when it begins; after a
    /// change the detector begins anew.
    pub fn update(&mut self, error: f64) -> Option<Signal> {
        self.rows += 1;
        let n = self.rows as f64;
        self.rate += 1.0 / n * (error - self.rate);
        let deviation = (self.rate * (1.0 - self.rate) / n).sqrt();
        if self.rows <= u64::from(self.config.warm_start) {
            return None;
        }
        let value = self.rate + deviation;
        let best = match self.best {
            Some(best) if value > best.rate + best.deviation => best,
            _ => *self.best.insert(Best { rows: self.rows, rate: self.rate, deviation }),
        };
        let at = |threshold: f64| best.rate + threshold * best.deviation;
        let change = |threshold| Change {
            value,
            threshold,
            rows: self.rows,
            before: best.rate,
            after: match self.rows - best.rows {
                0 => self.rate,
                since => (self.rate * n - best.rate * best.rows as f64) / since as f64,
            },
        };
        let (warns, changes) = (at(self.config.warning_threshold), at(self.config.drift_threshold));
        if value > changes {
            let change = change(changes);
            *self = Self::new(self.config);
            return Some(Signal::Change(change));
        }
        let begins = value > warns && !self.warning;
        let signal = begins.then(|| Signal::Warning(change(warns)));
        self.warning = value > warns;
        signal
    }

    /// Rows since it began.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn put(&self, words: &mut Words) {
        words.put(self.rows);
        words.put_number(self.rate);
        words.put(self.warning.into());
        if let Some(best) = self.best {
            words.put(best.rows);
            words.put_number(best.rate);
            words.put_number(best.deviation);
        }
    }

    pub(crate) fn take(config: DdmConfig, words: &mut Words) -> Option<Self> {
        let rows = words.take()?;
        let rate = words.take_number().filter(|rate| (0.0..=1.0).contains(rate))?;
        let warning = words.take_at_most(1)? == 1;
        let warm = rows > u64::from(config.warm_start);
        let best = match warm {
            false => None,
            true => Some(Best {
                rows: words.take_at_most(rows)?,
                rate: words.take_number()?,
                deviation: words.take_number()?,
            }),
        };
        (warm || !warning).then_some(Self { config, rows, rate, best, warning })
    }
}
