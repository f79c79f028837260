//! `monitor-performance`: how right are the predictions?
//!
//! Rows have a prediction and, once it is known, a label; the host joins the
//! two. A classifier's are counted into a confusion matrix and by score, a
//! regression's errors are summed in fixed point. Where the reference has
//! baselines, a window that is worse by more than a margin and by more than
//! chance is an alarm. For rows whose labels are still outstanding, the scores
//! themselves say how often predictions are right, as long as they say it
//! truly (confidence-based performance estimation).
//!
//! ```toml
//! [[monitor]]
//! id = "performance"
//! component = "monitor-performance"
//! reference = "validation"      # optional
//! window-rows = 2000
//! taps = [{ from = "prediction", columns = ["class", "score"] }]
//! labels = { wait = 5000 }
//!
//! [monitor.config]
//! label = "label"
//! min-drop = 0.03
//!
//! [monitor.config.classification]
//! prediction = "class"
//! classes = ["normal", "fault"]
//! confidence = "score"
//! ```
//!
//! A regression has, instead of the last table:
//!
//! ```toml
//! [monitor.config.regression]
//! value = "temperature"
//! unit = 0.5                    # about the usual error
//! ```
//!
//! # Findings
//! | check | what | when |
//! |---|---|---|
//! | `missing-column`, `wrong-type` | a batch lacks a column (other than the label's), or has it in another type | at once |
//! | a metric's name, for example `recall` | it is worse than its baseline; `feature` is the class, where it is of one | at the window's end |
//! | `estimated-` and a metric's name | the same, estimated without labels | at the window's end |
//! | `insufficient` | too few rows for a metric; severity `info` | at the window's end |
//! | `unlabelled`, `unpredicted`, `unscored` | how many rows lack a label, a prediction, a score; severity `info` | at the window's end |
//! | `clipped` | errors are too great for their unit; severity `warning` | at the window's end |
//! | a metric's name, severity `info` | its value, with `report = true` | at the window's end |
//!
//! [`evaluate()`] names the tests, [`Metric`] the metrics.
//!
//! # Reference
//! [`Reference`], as JSON; [`Reference::of`] measures one from labelled rows.
//!
//! ```json
//! {
//!   "version": 1,
//!   "baselines": [
//!     { "metric": "accuracy", "value": 0.93, "rows": 5000 },
//!     { "metric": "recall", "class": "fault", "value": 0.88, "rows": 410 },
//!     { "metric": "log-loss", "value": 0.21, "standard-error": 0.006 }
//!   ],
//!   "calibration": [{ "class": "fault", "rows": [4000, 1000], "positives": [90, 320] }]
//! }
//! ```
//!
//! # Summary
//! All fields of a configuration are always there. `<class>` is one of the
//! configured ones or `other`; sums are in units of 2^-20.
//!
//! | field | elements |
//! |---|---|
//! | `confusion/<label>` | counts of labelled rows by predicted class, `other` last |
//! | `other-correct` | rows of the class `other` whose label and prediction are the same |
//! | `unlabelled`, `unpredicted`, `unscored` | rows without a label, a prediction, a score |
//! | `score/<class>/true`, `/false`, `/unlabelled` | rows whose label is the class, is another one, is not there, by bins of its score |
//! | `score/<class>/sum` | the score of labelled rows, summed by bins of the calibration |
//! | `score/<class>/expected` | the probability that the score stands for, summed over all rows by bins |
//! | `score/<class>/predicted`, `/expected-predicted` | rows that are predicted to be of the class, and that probability summed over them |
//! | `confidence/..` | the same of a confidence with more than two classes; `true` is that the prediction is right |
//! | `losses`, `log-loss`, `brier` | rows, and the loss and its square summed over them |
//! | `errors`, `clipped` | rows with an error, and those where it was cut |
//! | `error` | the error in units, its absolute value, its square, its fourth power, summed |
//!
//! A mean of rounded sums is off by at most 2^-21. A sum of errors has room
//! for 8 million rows that are all cut, one of losses for more.
//!
//! The counts do not depend on the rows' order or times. A row is counted
//! once, with its label or without: a label that comes after its row was
//! given is lost.

mod config;
mod evaluate;
mod fields;
mod metrics;
mod reference;
mod window;

pub use config::{Classification, Config, Event, OTHER, Regression};
pub use evaluate::evaluate;
use headland_monitor::{Digest, Summary};
use headland_sdk::{
    Monitor, Result, json,
    monitor::{Batch, Finding, MonitorError, Severity},
};
pub use metrics::{Measured, Metric, Spread, measure};
pub use reference::{Baseline, Calibration, Reference};
pub use window::{Counted, Counter, MAX_ERROR_UNITS, NAME, Problem, ScoreCounts, bin};

/// The monitor, over one window.
pub struct Performance {
    counter: Counter,
    digest: Digest,
    window: Summary,
}

impl Monitor for Performance {
    type Config = Config;

    fn open(config: Config, reference: &[u8]) -> Result<Self, MonitorError> {
        let (reference, digest) = check(&config, reference)?;
        let window = Counted::empty(&config).into_summary(&config, digest);
        Ok(Self { counter: Counter::new(config, reference), digest, window })
    }

    fn restore(config: Config, reference: &[u8], checkpoint: &[u8]) -> Result<Self, MonitorError> {
        let mut monitor = Self::open(config, reference)?;
        let read = parse(checkpoint, Some(monitor.digest)).and_then(|window| {
            Counted::of(monitor.counter.config(), &window)?;
            Ok(window)
        });
        monitor.window = read.map_err(MonitorError::BadCheckpoint)?;
        Ok(monitor)
    }

    fn observe(&mut self, batch: &Batch) -> Result<Vec<Finding>, MonitorError> {
        let counted = self.counter.count(batch).map_err(MonitorError::BadBatch)?;
        let summary = counted.into_summary(self.counter.config(), self.digest);
        self.window.merge(&summary).map_err(|e| MonitorError::BadBatch(e.to_string()))?;
        let mut findings = Vec::new();
        for (column, problem) in self.counter.problems(batch) {
            let (check, is) = match problem {
                Problem::Missing => ("missing-column", "not there"),
                Problem::WrongType => ("wrong-type", "not of the type that is configured"),
            };
            findings.push(Finding {
                check: check.to_owned(),
                feature: Some(column.to_owned()),
                severity: Severity::Alarm,
                statistic: "rate".to_owned(),
                value: 1.0,
                threshold: 0.0,
                rows: batch.frame_ids.len() as u64,
                message: format!("column `{column}` is {is}"),
            });
        }
        Ok(findings)
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.window.to_bytes()
    }

    fn close_window(&mut self) -> Vec<u8> {
        let config = self.counter.config();
        let empty = Counted::empty(config).into_summary(config, self.digest);
        std::mem::replace(&mut self.window, empty).to_bytes()
    }

    fn merge(a: &[u8], b: &[u8]) -> Result<Vec<u8>, MonitorError> {
        let merged = parse(a, None).and_then(|mut a| {
            a.merge(&parse(b, None)?).map_err(|e| e.to_string())?;
            Ok(a.to_bytes())
        });
        merged.map_err(MonitorError::Incompatible)
    }

    fn evaluate(
        config: Config,
        reference: &[u8],
        summary: &[u8],
    ) -> Result<Vec<Finding>, MonitorError> {
        let (reference, digest) = check(&config, reference)?;
        let window = parse(summary, Some(digest)).and_then(|s| Counted::of(&config, &s));
        Ok(evaluate(&config, &reference, &window.map_err(MonitorError::Incompatible)?))
    }
}

/// The reference, which may be empty, and its digest.
fn check(config: &Config, bytes: &[u8]) -> Result<(Reference, Digest), MonitorError> {
    config.check().map_err(MonitorError::BadConfig)?;
    if bytes.is_empty() {
        return Ok((Reference::default(), Digest::NONE));
    }
    let bad = MonitorError::BadReference;
    let reference: Reference = json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    reference.check(config).map_err(bad)?;
    Ok((reference, Digest::of(bytes)))
}

/// A summary of this monitor's; over a reference, where one is given.
fn parse(bytes: &[u8], reference: Option<Digest>) -> Result<Summary, String> {
    let parsed = Summary::parse(bytes).and_then(|summary| {
        if let Some(reference) = reference {
            summary.is_of(reference)?;
        }
        Ok(summary)
    });
    let summary = parsed.map_err(|e| e.to_string())?;
    if summary.by != NAME {
        return Err(format!("a summary of {}, not of {NAME}", summary.by));
    }
    Ok(summary)
}

headland_sdk::export!(Performance as monitor, schema = "config.schema.json");
