//! `monitor-outlier`: which rows are unlike the good ones, and are there more
//! of them than there should be?
//!
//! A reference, learnt by [`fit`] from good rows, says how a row is scored
//! ([`Kind`]) and above which score it is an outlier. Some outliers are in the
//! nature of things: the window's end tells whether there are more than good
//! rows have.
//!
//! ```toml
//! [[monitor]]
//! id = "outliers"
//! component = "monitor-outlier"
//! reference = "outliers-of-training-rows"
//! window-rows = 1000
//! taps = [{ from = "source", columns = ["V2", "V3", "V4"] }]
//!
//! [monitor.config]
//! sample-every = 10
//! ```
//!
//! | kind | columns | what a stage of the pipeline must give |
//! |---|---|---|
//! | `mahalanobis` | up to 64 numbers | nothing |
//! | `nearest` | up to 64 numbers | nothing; scans all points a row: see `sample-every` |
//! | `reconstruction` | one | the autoencoder's reconstruction error |
//! | `squeezing` | predictions, twice as many | the prediction for the squeezed input, by a shadow stage |
//!
//! Feature squeezing (Xu, Evans and Qi, NDSS 2018) compares what a model says
//! of an input with what it says of the same input with fewer bits or
//! smoothed. A monitor runs no model: the pipeline has a second preprocessing
//! stage that squeezes and a shadow stage that runs the model on what it
//! gives, and the taps hand both predictions in, the second under a prefix.
//!
//! # Findings
//! | check | what | when |
//! |---|---|---|
//! | `missing-column`, `wrong-type` | a batch lacks a column, or has it in another type | at once, the first time in a window |
//! | `outlier` | a single row, if `report-rows` asks for it; severity `info` | at once |
//! | `outlier-rate` | more outliers than good rows have | at the window's end |
//! | `unscored-rate` | more rows with a missing value than good rows have | at the window's end |
//! | `score-shift` | the scores are distributed otherwise; severity `warning` | at the window's end |
//! | `no-scores` | rows came, and none had a score | at the window's end |
//! | `insufficient` | too few rows to judge; severity `info` | at the window's end |
//!
//! # Windows
//! A row's count depends on the row alone, so that merged summaries are those
//! of the whole stream, however it was split. The checkpoint is the summary.
//! Times of capture are not looked at.
//!
//! | field | counts |
//! |---|---|
//! | `scoring` | scored, outliers among them, with a missing value, without a column, with another type, left out by `sample-every` |
//! | `scores` | scored rows in each of the reference's bins |
//!
//! A row with a missing value (NaN) has no score; one with an infinite value
//! has an infinite one.

mod config;
mod evaluate;
mod fit;
mod reference;
mod score;
mod window;

pub use config::Config;
pub use evaluate::evaluate;
pub use fit::{FitError, Method, Threshold, fit};
use headland_monitor::{Digest, Summary, check_batch};
use headland_sdk::{
    Monitor, json,
    monitor::{Batch, ColumnValues, Finding, MonitorError, Severity},
};
pub use reference::{Kind, Reference, Scores};
pub use score::{Scorer, cholesky, mahalanobis_squared, nearest};
pub use window::Counts;
use window::count;

/// The name in summaries.
const BY: &str = "monitor-outlier";

/// Counts up to here are exact in f64, and a summary takes no more rows.
const MAX_ROWS: u64 = 1 << 53;

/// The monitor.
pub struct Outliers {
    config: Config,
    digest: Digest,
    reference: Reference,
    scorer: Scorer,
    /// Rows of the window.
    rows: u64,
    counts: Counts,
    /// The row at work, as the scorer takes it.
    row: Vec<f64>,
}

impl Monitor for Outliers {
    type Config = Config;

    fn open(config: Config, reference: &[u8]) -> Result<Self, MonitorError> {
        config.check().map_err(|why| MonitorError::BadConfig(why.to_owned()))?;
        let digest = Digest::of(reference);
        let reference = read_reference(reference)?;
        Ok(Self {
            config,
            digest,
            scorer: Scorer::new(&reference),
            rows: 0,
            counts: Counts::empty(&reference),
            row: Vec::new(),
            reference,
        })
    }

    fn restore(config: Config, reference: &[u8], checkpoint: &[u8]) -> Result<Self, MonitorError> {
        let mut monitor = Self::open(config, reference)?;
        monitor.read(checkpoint).map_err(MonitorError::BadCheckpoint)?;
        Ok(monitor)
    }

    fn observe(&mut self, batch: &Batch) -> Result<Vec<Finding>, MonitorError> {
        self.rows = check(batch, self.rows).map_err(MonitorError::BadBatch)?;
        let rows = batch.frame_ids.len() as u64;
        let mut columns: Vec<&[f64]> = Vec::new();
        let (mut absent, mut mistyped) = (Vec::new(), Vec::new());
        for name in self.reference.names() {
            match batch.columns.iter().find(|c| c.name == *name).map(|c| &c.values) {
                Some(ColumnValues::Numeric(values)) => columns.push(values),
                Some(ColumnValues::Categorical(_)) => mistyped.push(name),
                None => absent.push(name),
            }
        }
        if !absent.is_empty() {
            let findings = report(&absent, "missing-column", "is not there", rows);
            return Ok(first(&mut self.counts.no_column, rows, findings));
        }
        if !mistyped.is_empty() {
            let findings = report(&mistyped, "wrong-type", "holds categories, not numbers", rows);
            return Ok(first(&mut self.counts.wrong_type, rows, findings));
        }
        let mut findings = Vec::new();
        for (i, &frame) in batch.frame_ids.iter().enumerate() {
            if !self.config.samples(frame) {
                count(&mut self.counts.skipped, 1);
                continue;
            }
            self.row.clear();
            self.row.extend(columns.iter().map(|values| values[i]));
            let Some(score) = self.scorer.score(&self.row) else {
                count(&mut self.counts.incomplete, 1);
                continue;
            };
            count(&mut self.counts.scored, 1);
            count(&mut self.counts.scores[self.reference.scores.bin(score)], 1);
            if score > self.reference.threshold {
                if self.counts.outliers < u64::from(self.config.report_rows) {
                    findings.push(self.outlier(frame, score));
                }
                count(&mut self.counts.outliers, 1);
            }
        }
        Ok(findings)
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.summary().to_bytes()
    }

    fn close_window(&mut self) -> Vec<u8> {
        let summary = self.summary().to_bytes();
        self.rows = 0;
        self.counts = Counts::empty(&self.reference);
        summary
    }

    fn merge(a: &[u8], b: &[u8]) -> Result<Vec<u8>, MonitorError> {
        let mut merged = read_summary(a).map_err(MonitorError::Incompatible)?;
        let other = read_summary(b).map_err(MonitorError::Incompatible)?;
        merged.merge(&other).map_err(|e| MonitorError::Incompatible(e.to_string()))?;
        Ok(merged.to_bytes())
    }

    fn evaluate(
        config: Config,
        reference: &[u8],
        summary: &[u8],
    ) -> Result<Vec<Finding>, MonitorError> {
        config.check().map_err(|why| MonitorError::BadConfig(why.to_owned()))?;
        let known = read_reference(reference)?;
        let summary = read_summary(summary).map_err(MonitorError::Incompatible)?;
        summary
            .is_of(Digest::of(reference))
            .map_err(|e| MonitorError::Incompatible(e.to_string()))?;
        evaluate(&config, &known, &summary).map_err(MonitorError::Incompatible)
    }
}

impl Outliers {
    fn summary(&self) -> Summary {
        let mut summary = Summary::empty(BY, self.digest);
        summary.rows = self.rows;
        self.counts.write(&mut summary);
        summary
    }

    fn read(&mut self, checkpoint: &[u8]) -> Result<(), String> {
        let summary = read_summary(checkpoint)?;
        summary.is_of(self.digest).map_err(|e| e.to_string())?;
        self.rows = summary.rows;
        self.counts = Counts::read(&self.reference, &summary)?;
        // What a summary may have and this monitor does not write.
        if self.summary() == summary {
            return Ok(());
        }
        Err("it has other fields than this monitor's".to_owned())
    }

    fn outlier(&self, frame: u64, score: f64) -> Finding {
        Finding {
            check: "outlier".to_owned(),
            feature: None,
            severity: Severity::Info,
            statistic: self.reference.statistic(),
            value: score,
            threshold: self.reference.threshold,
            rows: 1,
            message: format!("frame {frame} is unlike good ones"),
        }
    }
}

/// Findings of a whole batch, the first time in a window.
fn first(counter: &mut u64, rows: u64, findings: Vec<Finding>) -> Vec<Finding> {
    let is_first = *counter == 0 && rows > 0;
    count(counter, rows);
    if is_first { findings } else { Vec::new() }
}

fn report(columns: &[&String], check: &str, what: &str, rows: u64) -> Vec<Finding> {
    let finding = |name: &&String| Finding {
        check: check.to_owned(),
        feature: Some((*name).clone()),
        severity: Severity::Alarm,
        statistic: "rate".to_owned(),
        value: 1.0,
        threshold: 0.0,
        rows,
        message: format!("column `{name}` {what}"),
    };
    columns.iter().map(finding).collect()
}

fn read_reference(json: &[u8]) -> Result<Reference, MonitorError> {
    if json.is_empty() {
        return Err(MonitorError::BadReference("there is none; `fit` makes one".to_owned()));
    }
    let reference: Reference =
        json::from_slice(json).map_err(|e| MonitorError::BadReference(e.to_string()))?;
    reference.check().map_err(MonitorError::BadReference)?;
    Ok(reference)
}

fn read_summary(bytes: &[u8]) -> Result<Summary, String> {
    let summary = Summary::parse(bytes).map_err(|e| e.to_string())?;
    if summary.by == BY {
        Ok(summary)
    } else {
        Err(format!("a summary of {}, not of {BY}", summary.by))
    }
}

/// What every batch must be, and what a summary has room for.
fn check(batch: &Batch, seen: u64) -> Result<u64, String> {
    let columns = batch.columns.iter().map(|c| match &c.values {
        ColumnValues::Numeric(values) => (c.name.as_str(), values.len()),
        ColumnValues::Categorical(values) => (c.name.as_str(), values.len()),
    });
    let rows = batch.frame_ids.len();
    check_batch(rows, batch.captured_at_ns.len(), columns).map_err(|e| e.to_string())?;
    match seen.checked_add(rows as u64) {
        Some(total) if total <= MAX_ROWS => Ok(total),
        _ => Err("the number of rows overflows".to_owned()),
    }
}

headland_sdk::export!(Outliers as monitor, schema = "config.schema.json");
