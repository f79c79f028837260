//! `monitor-quality`: are these rows like the good ones?
//!
//! A reference, learnt by [`fit`] from good rows, says per feature its type,
//! range or categories, the rates of missing, out-of-range and unseen values
//! that are still good, and its distribution over bins. A window is counted
//! into integers over that reference, so that windows of many devices merge
//! exactly and in any order.
//!
//! # Findings
//! | check | what | when |
//! |---|---|---|
//! | `missing-column` | a batch lacks a feature | at once |
//! | `wrong-type` | a batch has a feature in another type | at once, and at the window's end |
//! | `incomplete-rows`, `missing-rate`, `out-of-range`, `unseen-category` | a rate is above the reference's | at the window's end |
//! | `constant` | a feature that varies has stopped | at the window's end |
//! | `drift` | the distribution over the reference's bins moved | at the window's end |
//! | `insufficient` | too few rows to judge; severity `info` | at the window's end |
//!
//! All but the first two alarm only on what is practical and above noise; the
//! function that decides, [`evaluate()`], names its tests.

mod evaluate;
mod reference;
mod stats;
mod window;

pub use evaluate::{evaluate, psi};
use headland_sdk::{
    Monitor, Result,
    monitor::{Batch, Finding, MonitorError, Severity},
};
pub use reference::{Bins, ColumnReference, Reference, ValuesReference, digest, fit};
use schemars::JsonSchema;
use serde::Deserialize;
pub use window::Window;

/// What is worth an alarm.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// The probability that a window of good rows raises any alarm at all.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
    /// Windows of fewer rows are not judged.
    pub min_rows: u64,
    /// By how much a rate must exceed the reference's to matter.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_excess_rate: f64,
    /// The population stability index from which on drift matters.
    #[schemars(range(min = 0.0))]
    pub min_psi: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { alpha: 0.01, min_rows: 50, min_excess_rate: 0.01, min_psi: 0.1 }
    }
}

impl Config {
    fn check(&self) -> Result<(), MonitorError> {
        let bad = |why: String| Err(MonitorError::BadConfig(why));
        if !(self.alpha > 0.0 && self.alpha < 1.0) {
            return bad(format!("alpha {} is not between 0 and 1", self.alpha));
        }
        if !(0.0..=1.0).contains(&self.min_excess_rate) {
            return bad(format!("min-excess-rate {} is not within 0..=1", self.min_excess_rate));
        }
        if !(self.min_psi >= 0.0 && self.min_psi.is_finite()) {
            return bad(format!("min-psi {} is no PSI", self.min_psi));
        }
        Ok(())
    }
}

/// The monitor, over one window.
pub struct Quality {
    reference: Reference,
    digest: String,
    window: Window,
}

impl Monitor for Quality {
    type Config = Config;

    fn open(config: Config, reference: &[u8]) -> Result<Self, MonitorError> {
        config.check()?;
        let digest = digest(reference);
        let reference = Reference::parse(reference).map_err(MonitorError::BadReference)?;
        let window = Window::empty(&reference, &digest);
        Ok(Self { reference, digest, window })
    }

    fn restore(config: Config, reference: &[u8], checkpoint: &[u8]) -> Result<Self, MonitorError> {
        let mut monitor = Self::open(config, reference)?;
        let window = Window::parse(checkpoint).map_err(MonitorError::BadCheckpoint)?;
        window.is_of(&monitor.reference, &monitor.digest).map_err(MonitorError::BadCheckpoint)?;
        monitor.window = window;
        Ok(monitor)
    }

    fn observe(&mut self, batch: &Batch) -> Result<Vec<Finding>, MonitorError> {
        self.window.count(&self.reference, batch).map_err(MonitorError::BadBatch)?;
        let rows = batch.frame_ids.len() as u64;
        let finding = |check: &str, feature: &str, message: String| Finding {
            check: check.to_owned(),
            feature: Some(feature.to_owned()),
            severity: Severity::Alarm,
            statistic: "rate".to_owned(),
            value: 1.0,
            threshold: 0.0,
            rows,
            message,
        };
        let found = self.reference.columns.iter().filter_map(|column| {
            let name = &column.name;
            match batch.columns.iter().find(|c| c.name == *name) {
                None => Some(finding("missing-column", name, format!("no column `{name}`"))),
                Some(c) if !window::is_of_type(&c.values, column) => {
                    let message = match column.values {
                        ValuesReference::Numeric { .. } => "holds categories, not numbers",
                        ValuesReference::Categorical { .. } => "holds numbers, not categories",
                    };
                    Some(finding("wrong-type", name, message.to_owned()))
                }
                Some(_) => None,
            }
        });
        Ok(found.collect())
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.window.to_bytes()
    }

    fn close_window(&mut self) -> Vec<u8> {
        let empty = Window::empty(&self.reference, &self.digest);
        std::mem::replace(&mut self.window, empty).to_bytes()
    }

    fn merge(a: &[u8], b: &[u8]) -> Result<Vec<u8>, MonitorError> {
        let a = Window::parse(a).map_err(MonitorError::Incompatible)?;
        let b = Window::parse(b).map_err(MonitorError::Incompatible)?;
        Ok(a.merge(&b).map_err(MonitorError::Incompatible)?.to_bytes())
    }

    fn evaluate(
        config: Config,
        reference: &[u8],
        summary: &[u8],
    ) -> Result<Vec<Finding>, MonitorError> {
        config.check()?;
        let digest = digest(reference);
        let reference = Reference::parse(reference).map_err(MonitorError::BadReference)?;
        let window = Window::parse(summary).map_err(MonitorError::Incompatible)?;
        window.is_of(&reference, &digest).map_err(MonitorError::Incompatible)?;
        Ok(evaluate(&config, &reference, &window))
    }
}

headland_sdk::export!(Quality as monitor);
