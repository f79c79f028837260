//! `monitor-bias`: are two facets of the rows treated alike?
//!
//! Rows are split into a disadvantaged facet and the rest, and counted by
//! label and prediction, each positive, negative or none. From these counts
//! follow the metrics of bias that [`Metric`] lists, before training (over
//! labels) and after it (over predictions).
//!
//! ```toml
//! [[monitor]]
//! id = "bias"
//! component = "monitor-bias"
//! window-rows = 1000
//! taps = [
//!   { from = "source", columns = ["age", "department", "label"] },
//!   { from = "prediction", columns = ["class"] },
//! ]
//!
//! [monitor.config]
//! facet = { column = "age", above = 60.0 }
//! label = { column = "label", values = ["granted"] }
//! prediction = { column = "class", values = ["granted"] }
//! group = { column = "department", values = ["north", "south"] }
//! judge = { di = 0.8, rd = 0.1 }
//! ```
//!
//! # Findings
//! | check | what | when |
//! |---|---|---|
//! | `missing-column`, `wrong-type` | a batch lacks a column (other than the label's), or has it in another type | at once |
//! | a metric's name, for example `di` | the metric is beyond its bound and above noise | at the window's end |
//! | `insufficient` | a facet has too few rows for a metric, or it is undefined; severity `info` | at the window's end |
//! | a metric's name, severity `info` | its value, with `report = true` | at the window's end |
//!
//! [`evaluate()`] names the tests. `feature` is the facet's column.
//!
//! # Summary
//! All fields are counts, and all are always there. One row adds 1 to one
//! element of each `counts/..` or `facet-missing`, and of one group.
//!
//! | field | elements |
//! |---|---|
//! | `counts/<facet>/<label>/<prediction>` | rows of facet `advantaged` or `disadvantaged`, with label and prediction `positive`, `negative` or `none` |
//! | `group/<group>` | the same 18 counts for one group, in the order of the facets, then labels, then predictions as named above; `other` is the rest |
//! | `facet-missing` | rows whose facet is not known; they are counted nowhere else |
//!
//! The counts do not depend on the rows' order or times. Nothing is learnt
//! from a reference, and none is taken.

mod config;
mod counts;
mod evaluate;
mod metrics;

pub use config::{Bounds, Config, Group, OTHER, Split};
pub use counts::{Cells, Counter, Counts, Facets, NAME, Problem};
pub use evaluate::{evaluate, newcombe, wilson};
use headland_monitor::{Digest, Summary, SummaryError};
use headland_sdk::{
    Monitor, Result,
    monitor::{Batch, Finding, MonitorError, Severity},
};
pub use metrics::{Metric, Needs, Rate};

/// The monitor, over one window.
pub struct Bias {
    config: Config,
    counter: Counter,
    window: Summary,
}

impl Monitor for Bias {
    type Config = Config;

    fn open(config: Config, reference: &[u8]) -> Result<Self, MonitorError> {
        check(&config, reference)?;
        let counter = Counter::new(&config);
        let window = counter.empty();
        Ok(Self { config, counter, window })
    }

    fn restore(config: Config, reference: &[u8], checkpoint: &[u8]) -> Result<Self, MonitorError> {
        let mut monitor = Self::open(config, reference)?;
        let bad = |why: String| MonitorError::BadCheckpoint(why);
        let window = parse(checkpoint).map_err(|e| bad(e.to_string()))?;
        Counts::of(&monitor.config, &window).map_err(bad)?;
        monitor.window = window;
        Ok(monitor)
    }

    fn observe(&mut self, batch: &Batch) -> Result<Vec<Finding>, MonitorError> {
        let counted = self.counter.count(batch).map_err(MonitorError::BadBatch)?;
        self.window.merge(&counted).map_err(|e| MonitorError::BadBatch(e.to_string()))?;
        let rows = batch.frame_ids.len() as u64;
        let finding = |(column, problem): (&str, Problem)| Finding {
            check: match problem {
                Problem::Missing => "missing-column",
                Problem::WrongType => "wrong-type",
            }
            .to_owned(),
            feature: Some(column.to_owned()),
            severity: Severity::Alarm,
            statistic: "rate".to_owned(),
            value: 1.0,
            threshold: 0.0,
            rows,
            message: match problem {
                Problem::Missing => format!("no column `{column}`"),
                Problem::WrongType => {
                    format!("column `{column}` is not of the type that the configuration names")
                }
            },
        };
        Ok(self.counter.problems(batch).into_iter().map(finding).collect())
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.window.to_bytes()
    }

    fn close_window(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.window, self.counter.empty()).to_bytes()
    }

    fn merge(a: &[u8], b: &[u8]) -> Result<Vec<u8>, MonitorError> {
        let merged = parse(a).and_then(|mut a| a.merge(&parse(b)?).map(|()| a));
        Ok(merged.map_err(|e| MonitorError::Incompatible(e.to_string()))?.to_bytes())
    }

    fn evaluate(
        config: Config,
        reference: &[u8],
        summary: &[u8],
    ) -> Result<Vec<Finding>, MonitorError> {
        check(&config, reference)?;
        let summary = parse(summary).map_err(|e| MonitorError::Incompatible(e.to_string()))?;
        let counts = Counts::of(&config, &summary).map_err(MonitorError::Incompatible)?;
        Ok(evaluate(&config, &counts, summary.settled().rows))
    }
}

fn check(config: &Config, reference: &[u8]) -> Result<(), MonitorError> {
    if !reference.is_empty() {
        return Err(MonitorError::BadReference("this monitor takes no reference".to_owned()));
    }
    config.check().map_err(MonitorError::BadConfig)
}

/// A summary of this monitor's.
fn parse(bytes: &[u8]) -> Result<Summary, SummaryError> {
    let summary = Summary::parse(bytes)?;
    if summary.by != NAME {
        return Err(SummaryError::Monitor { ours: NAME.to_owned(), theirs: summary.by });
    }
    summary.is_of(Digest::NONE)?;
    Ok(summary)
}

headland_sdk::export!(Bias as monitor, schema = "config.schema.json");
