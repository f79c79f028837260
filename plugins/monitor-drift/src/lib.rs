//! `monitor-drift`: do rows still come from where the good ones came from?
//!
//! Watches whatever columns it is given: features, outputs, confidences,
//! summaries of images, embeddings. Each is counted over the bins of a
//! reference ([`headland_monitor::Reference`], learnt by
//! [`headland_monitor::fit`]), so that windows of many devices merge exactly
//! and in any order.
//!
//! ```toml
//! [[monitor]]
//! id = "drift"
//! component = "monitor-drift"
//! reference = "training-rows"
//! window-rows = 500
//! taps = [{ from = "source" }, { from = "prediction", columns = ["class"] }]
//!
//! [monitor.config]
//! statistics = ["psi", "wasserstein"]    # the first one alarms
//! thresholds = { psi = 0.2 }
//! by = "site"                            # optional: each site by itself, too
//! ```
//!
//! # Findings
//! All come at the window's end.
//!
//! | check | what |
//! |---|---|
//! | `drift` | a column's distribution over the reference's bins moved |
//! | `group-drift` | it moved in the rows of one group |
//! | `embedding-drift` | the mean of a vector moved |
//! | `distance` | the value of a statistic that was asked for beside the first; severity `info` |
//! | `insufficient` | too few values to judge; severity `info` |
//!
//! A finding is above the configured threshold **and** above noise:
//! [`Statistic`] says what noise is for each statistic, and Holm's procedure
//! keeps the probability of any false alarm in a window at `alpha`. Bins are
//! pooled until the window is expected to have 20 rows in each; with rows for
//! less than two bins, nothing is judged. A column that is missing, or of
//! another type than the reference has, holds no values: `monitor-quality`
//! says so.
//!
//! An embedding's mean is compared as a vector: a change of its spread alone
//! is not seen. Its elements count as at most 64 standard deviations.
//!
//! # Groups
//! With `by`, rows are also counted by the values of that column, up to 64,
//! and each group is held against its own distribution where the reference was
//! learnt with the same `by`, against that of all rows otherwise. Groups that
//! are neither configured nor in the reference are one group together, so that
//! no stream makes more of them.
//!
//! # Summary
//! | field | what |
//! |---|---|
//! | `COLUMN/bins` | counts: values in each of the reference's bins; of categories, the last is of unknown ones |
//! | `group/GROUP/COLUMN/bins` | counts: the same of one group |
//! | `other-groups/COLUMN/bins` | counts: the same of all other groups |
//! | `EMBEDDING/vectors` | counts: vectors without a missing element |
//! | `EMBEDDING/sums` | sums: each element less the reference's mean, over the root mean square of the elements' standard deviations |
//!
//! Missing values are in no bin, infinities in the outer ones. Every field is
//! in every summary. The summary does not depend on the rows' order or times.

mod config;
mod evaluate;
mod plan;
mod pool;
mod statistic;
mod window;

pub use config::{Config, Thresholds};
use headland_monitor::{Digest, Reference, Summary, SummaryError};
use headland_sdk::{
    Monitor, json,
    monitor::{Batch, Finding, MonitorError},
};
use plan::Plan;
pub use statistic::{Noise, Statistic};
use window::{Window, check_summary};

/// The monitor, over one window.
pub struct Drift {
    plan: Plan,
    reference: Digest,
    window: Window,
}

fn plan(config: &Config, reference: &[u8]) -> Result<(Plan, Digest), MonitorError> {
    config.check()?;
    let digest = Digest::of(reference);
    let json =
        json::from_slice(reference).map_err(|e| MonitorError::BadReference(e.to_string()))?;
    let reference =
        Reference::from_json(json).map_err(|e| MonitorError::BadReference(e.to_string()))?;
    Ok((Plan::new(config, reference).map_err(MonitorError::BadConfig)?, digest))
}

fn incompatible(e: SummaryError) -> MonitorError {
    MonitorError::Incompatible(e.to_string())
}

impl Monitor for Drift {
    type Config = Config;

    fn open(config: Config, reference: &[u8]) -> Result<Self, MonitorError> {
        let (plan, reference) = plan(&config, reference)?;
        let window = Window::empty(&plan);
        Ok(Self { plan, reference, window })
    }

    fn restore(config: Config, reference: &[u8], checkpoint: &[u8]) -> Result<Self, MonitorError> {
        let mut monitor = Self::open(config, reference)?;
        let summary =
            Summary::parse(checkpoint).map_err(|e| MonitorError::BadCheckpoint(e.to_string()))?;
        monitor.window = Window::from_summary(&monitor.plan, monitor.reference, &summary)
            .map_err(MonitorError::BadCheckpoint)?;
        Ok(monitor)
    }

    fn observe(&mut self, batch: &Batch) -> Result<Vec<Finding>, MonitorError> {
        self.window.count(&self.plan, batch).map_err(MonitorError::BadBatch)?;
        Ok(Vec::new())
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.window.to_summary(&self.plan, self.reference).to_bytes()
    }

    fn close_window(&mut self) -> Vec<u8> {
        let summary = self.checkpoint();
        self.window = Window::empty(&self.plan);
        summary
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
        let (plan, digest) = plan(&config, reference)?;
        let summary = Summary::parse(summary).map_err(incompatible)?;
        check_summary(&plan, digest, &summary.settled()).map_err(MonitorError::Incompatible)?;
        Ok(evaluate::evaluate(&config, &plan, &summary))
    }
}

headland_sdk::export!(Drift as monitor, schema = "config.schema.json");
