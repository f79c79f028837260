//! `monitor-quality`: are these rows as whole as the good ones?
//!
//! A reference ([`headland_monitor::Reference`], learnt by
//! [`headland_monitor::fit`] from good rows) says per feature its type, its
//! range or categories, and the rates of missing, out-of-range and unseen
//! values that are still good. Whether the values' distribution moved is
//! `monitor-drift`'s question, over the same reference.
//!
//! ```toml
//! [[monitor]]
//! id = "quality"
//! component = "monitor-quality"
//! reference = "training-rows"
//! window-rows = 500
//! taps = [{ from = "source" }]
//!
//! [monitor.config]
//! min-excess-rate = 0.02
//! ```
//!
//! # Findings
//! | check | what | when |
//! |---|---|---|
//! | `missing-column` | a batch lacks a feature | at once |
//! | `wrong-type` | a batch has a feature in another type | at once, and at the window's end |
//! | `incomplete-rows`, `missing-rate`, `out-of-range`, `unseen-category` | a rate is above the reference's | at the window's end |
//! | `repeated-rows` | more rows equal the row before them than the reference allows | at the window's end |
//! | `constant` | a feature that varies has stopped | at the window's end |
//! | `insufficient` | too few rows to judge; severity `info` | at the window's end |
//!
//! All but the first two alarm only on what is practical and above noise; the
//! function that decides, [`evaluate()`], names its tests.
//!
//! # Summary
//! | field | what |
//! |---|---|
//! | `incomplete` | counts: rows with a missing value |
//! | `repeats` | counts: rows that equal the row that this device saw before them |
//! | `COLUMN/missing` | counts: rows without a value, or without the column |
//! | `COLUMN/wrong-type` | counts: rows whose batch had the column in another type |
//! | `COLUMN/out-of-range` | counts, of numbers: values outside the reference's range; infinities are |
//! | `COLUMN/level` | level, of numbers: whether all values are one |
//! | `COLUMN/unseen` | counts, of categories: values of categories that the reference does not know, however many |
//!
//! Every field is in every summary, and a stream's summary is the same however
//! its rows are split over windows and devices, in whatever order. `repeats`
//! is the exception: which row comes before which is a device's own
//! experience. Over windows of one device it is exact, because a row is also
//! compared with the last one of the window before.

mod evaluate;
mod window;

pub use evaluate::evaluate;
use headland_monitor::{Digest, Reference, Summary, SummaryError};
use headland_sdk::{
    Monitor, json,
    monitor::{Batch, Finding, MonitorError, Severity},
};
use schemars::JsonSchema;
use serde::Deserialize;
pub use window::{Feature, Kind};
use window::{Window, check_summary, column};

/// What is worth an alarm.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// The probability that a window of good rows raises any alarm at all.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
    /// Windows of fewer rows are not judged.
    #[schemars(range(min = 1))]
    pub min_rows: u64,
    /// By how much a rate must exceed the reference's to matter.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_excess_rate: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { alpha: 0.01, min_rows: 50, min_excess_rate: 0.01 }
    }
}

impl Config {
    fn check(&self) -> Result<(), MonitorError> {
        let problem = if !(self.alpha > 0.0 && self.alpha < 1.0) {
            "alpha is not between 0 and 1"
        } else if self.min_rows == 0 {
            "min-rows is 0, and a window of no rows says nothing"
        } else if !(0.0..=1.0).contains(&self.min_excess_rate) {
            "min-excess-rate is not within 0..=1"
        } else {
            return Ok(());
        };
        Err(MonitorError::BadConfig(problem.to_owned()))
    }
}

/// The monitor, over one window.
pub struct Quality {
    features: Vec<Feature>,
    reference: Digest,
    window: Window,
}

fn read(reference: &[u8]) -> Result<Reference, MonitorError> {
    let json =
        json::from_slice(reference).map_err(|e| MonitorError::BadReference(e.to_string()))?;
    Reference::from_json(json).map_err(|e| MonitorError::BadReference(e.to_string()))
}

fn incompatible(e: SummaryError) -> MonitorError {
    MonitorError::Incompatible(e.to_string())
}

impl Monitor for Quality {
    type Config = Config;

    fn open(config: Config, reference: &[u8]) -> Result<Self, MonitorError> {
        config.check()?;
        let features = Feature::all(&read(reference)?);
        let window = Window::empty(&features);
        Ok(Self { features, reference: Digest::of(reference), window })
    }

    fn restore(config: Config, reference: &[u8], checkpoint: &[u8]) -> Result<Self, MonitorError> {
        let mut monitor = Self::open(config, reference)?;
        monitor.window = Window::from_checkpoint(&monitor.features, monitor.reference, checkpoint)
            .map_err(MonitorError::BadCheckpoint)?;
        Ok(monitor)
    }

    fn observe(&mut self, batch: &Batch) -> Result<Vec<Finding>, MonitorError> {
        self.window.count(&self.features, batch).map_err(MonitorError::BadBatch)?;
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
        let found = self.features.iter().enumerate().filter_map(|(i, feature)| {
            let name = &feature.name;
            match column(batch, i, name) {
                None => Some(finding("missing-column", name, format!("no column `{name}`"))),
                Some(values) if !feature.is_of_type(values) => {
                    let message = match feature.kind {
                        Kind::Numeric(..) => "holds categories, not numbers",
                        Kind::Categorical(_) => "holds numbers, not categories",
                    };
                    Some(finding("wrong-type", name, message.to_owned()))
                }
                Some(_) => None,
            }
        });
        Ok(found.collect())
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.window.to_checkpoint(&self.features, self.reference)
    }

    fn close_window(&mut self) -> Vec<u8> {
        self.window.close().to_summary(&self.features, self.reference).to_bytes()
    }

    fn merge(a: &[u8], b: &[u8]) -> Result<Vec<u8>, MonitorError> {
        let mut a = Summary::parse(a).map_err(incompatible)?;
        a.merge(&Summary::parse(b).map_err(incompatible)?).map_err(incompatible)?;
        if a.by != window::NAME {
            return Err(MonitorError::Incompatible(format!("summaries of `{}`", a.by)));
        }
        Ok(a.to_bytes())
    }

    fn evaluate(
        config: Config,
        reference: &[u8],
        summary: &[u8],
    ) -> Result<Vec<Finding>, MonitorError> {
        config.check()?;
        let digest = Digest::of(reference);
        let reference = read(reference)?;
        let features = Feature::all(&reference);
        let summary = Summary::parse(summary).map_err(incompatible)?;
        check_summary(&features, digest, &summary.settled()).map_err(MonitorError::Incompatible)?;
        Ok(evaluate(&config, &reference, &features, &summary))
    }
}

headland_sdk::export!(Quality as monitor, schema = "config.schema.json");
