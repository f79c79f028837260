//! `monitor-change`: has this stream of numbers changed?
//!
//! Watches columns of numbers, row by row, with the detectors of the field:
//! [`Adwin`], [`PageHinkley`], [`Kswin`] and, for errors, [`Ddm`]. A change is
//! reported at once.
//!
//! ```toml
//! [[monitor]]
//! id = "change"
//! component = "monitor-change"
//! window-rows = 1000
//! taps = [{ from = "prediction", columns = ["confidence"] }]
//!
//! [monitor.config]
//! detectors = [
//!     { column = "confidence", method = "adwin", max-change-rate = 0.0005 },
//!     { column = "confidence", method = "page-hinkley-down", threshold = 5.0, severity = "warning" },
//! ]
//! ```
//!
//! # Findings
//! | check | what | when |
//! |---|---|---|
//! | `change` | a detector found a change of at least `min-effect` | at once |
//! | `change-warning` | DDM entered its warning zone; severity `warning` | at once |
//! | `missing-column`, `wrong-type` | a batch lacks a column, or has it in another type | at once, the first time in a window |
//! | `change-rate` | more changes than good rows have, by `max-change-rate` | at the window's end |
//! | `changes` | changes, and no `max-change-rate` to hold them against; severity `info` | at the window's end |
//! | `no-usable-values` | a detector saw no row that it could take | at the window's end |
//! | `insufficient` | fewer rows so far than a detector needs; severity `info` | at the window's end |
//!
//! A detector goes off on good rows, too, some far more often than their
//! parameters suggest: [`fit`] says how often. There is no reference data
//! beside the configuration.
//!
//! # Windows
//! Detection depends on the order of rows: what a detector has in mind is kept
//! in the checkpoint, goes on from one window to the next, and is in no
//! summary. A summary has counts alone, which merge exactly; merged counts are
//! those of the devices together, not those of one detector over all rows.
//! Times of capture are not looked at: rows are taken in the order in which
//! they come.
//!
//! | field | counts |
//! |---|---|
//! | `COLUMN/METHOD/values` | rows: seen, those of them at which it could find a change, missing, not taken, without the column, of another type |
//! | `COLUMN/METHOD/changes` | changes: up, down, smaller than `min-effect`; warnings |
//! | `COLUMN/METHOD/at` | changes by their row in the window, in powers of two |
//!
//! A missing value (NaN) and one that a detector does not take (infinite,
//! beyond 1e100, for DDM neither 0 nor 1) are counted, and the detector does
//! not see them.

mod adwin;
mod checkpoint;
mod config;
mod ddm;
mod detector;
mod evaluate;
mod fit;
mod kswin;
mod mersenne;
mod page_hinkley;
mod window;

pub use adwin::Adwin;
pub use checkpoint::CheckpointError;
use checkpoint::{VERSION, Words, Writer, Written};
pub use config::{
    AdwinConfig, Config, DdmConfig, DetectorConfig, KswinConfig, Method, MethodName, Mode,
    PageHinkleyConfig, Urgency,
};
pub use ddm::Ddm;
pub use detector::{Change, Detector, Signal};
pub use evaluate::evaluate;
pub use fit::{GoodRows, fit};
use headland_monitor::{Digest, Summary, SummaryError, check_batch, number};
use headland_sdk::{
    Monitor,
    monitor::{Batch, ColumnValues, Finding, MonitorError, Severity},
};
pub use kswin::{Kswin, ks_p_value};
use minicbor::{Decoder, Encoder};
pub use page_hinkley::PageHinkley;
pub use window::Counts;
use window::count;

/// The name in summaries.
const BY: &str = "monitor-change";

/// Counts up to here are exact in f64, and a summary takes no more rows.
const MAX_ROWS: u64 = 1 << 53;

/// The monitor.
pub struct Changes {
    watches: Vec<Watch>,
    /// Rows of the window.
    rows: u64,
}

/// A detector at work.
struct Watch {
    config: DetectorConfig,
    method: Method,
    detector: Detector,
    counts: Counts,
}

impl Monitor for Changes {
    type Config = Config;

    fn open(config: Config, reference: &[u8]) -> Result<Self, MonitorError> {
        no_reference(reference)?;
        config.check().map_err(MonitorError::BadConfig)?;
        let mut watches = Vec::new();
        for config in config.detectors {
            let method = config.parameters().map_err(MonitorError::BadConfig)?;
            let (detector, counts) = (Detector::new(&method), Counts::default());
            watches.push(Watch { config, method, detector, counts });
        }
        Ok(Self { watches, rows: 0 })
    }

    fn restore(config: Config, reference: &[u8], checkpoint: &[u8]) -> Result<Self, MonitorError> {
        let mut monitor = Self::open(config, reference)?;
        monitor.read(checkpoint).map_err(|e| MonitorError::BadCheckpoint(e.to_string()))?;
        Ok(monitor)
    }

    fn observe(&mut self, batch: &Batch) -> Result<Vec<Finding>, MonitorError> {
        let total = check(batch, self.rows).map_err(MonitorError::BadBatch)?;
        let mut findings = Vec::new();
        for watch in &mut self.watches {
            let column = batch.columns.iter().find(|c| c.name == watch.config.column);
            match column.map(|c| &c.values) {
                Some(ColumnValues::Numeric(values)) => {
                    for (row, &x) in (self.rows..).zip(values) {
                        if let Some(signal) = watch.see(x) {
                            watch.hear(row, signal, &mut findings);
                        }
                    }
                }
                other => watch.miss(other.is_some(), batch.frame_ids.len(), &mut findings),
            }
        }
        self.rows = total;
        Ok(findings)
    }

    fn checkpoint(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to a vector cannot fail.
        let _: Written = self.write(&mut Encoder::new(&mut bytes));
        bytes
    }

    fn close_window(&mut self) -> Vec<u8> {
        let summary = self.summary().to_bytes();
        self.rows = 0;
        for watch in &mut self.watches {
            watch.counts = Counts::default();
        }
        summary
    }

    fn merge(a: &[u8], b: &[u8]) -> Result<Vec<u8>, MonitorError> {
        let mut merged = read_summary(a)?;
        merged.merge(&read_summary(b)?).map_err(|e| MonitorError::Incompatible(e.to_string()))?;
        Ok(merged.to_bytes())
    }

    fn evaluate(
        config: Config,
        reference: &[u8],
        summary: &[u8],
    ) -> Result<Vec<Finding>, MonitorError> {
        no_reference(reference)?;
        config.check().map_err(MonitorError::BadConfig)?;
        evaluate(&config, &read_summary(summary)?).map_err(MonitorError::Incompatible)
    }
}

impl Watch {
    fn see(&mut self, x: f64) -> Option<Signal> {
        if !self.detector.takes(x) {
            let of = if x.is_nan() { &mut self.counts.missing } else { &mut self.counts.refused };
            count(of, 1);
            return None;
        }
        count(&mut self.counts.used, 1);
        let ready = self.detector.rows() + 1 >= self.method.warm_up_rows();
        count(&mut self.counts.ready, ready.into());
        self.detector.update(x)
    }

    fn hear(&mut self, row: u64, signal: Signal, findings: &mut Vec<Finding>) {
        let counts = &mut self.counts;
        let (check, severity, change) = match signal {
            Signal::Warning(change) => {
                count(&mut counts.warnings, 1);
                ("change-warning", Severity::Warning, change)
            }
            Signal::Change(change) => {
                counts.found_at(row);
                if change.effect() < self.config.min_effect {
                    count(&mut counts.small, 1);
                    return;
                }
                let rises = change.after > change.before;
                count(if rises { &mut counts.up } else { &mut counts.down }, 1);
                ("change", self.config.severity.into(), change)
            }
        };
        findings.push(self.report(check, severity, &change));
    }

    /// A batch without the column, or with one of another type.
    fn miss(&mut self, has_it: bool, rows: usize, findings: &mut Vec<Finding>) {
        let (counter, check, what) = if has_it {
            (&mut self.counts.wrong_type, "wrong-type", "holds categories, not numbers")
        } else {
            (&mut self.counts.no_column, "missing-column", "is not there")
        };
        let is_first = *counter == 0 && rows > 0;
        count(counter, rows as u64);
        if is_first {
            let message = format!("column `{}` {what}", self.config.column);
            findings.push(self.config.finding(check, rows as u64, message));
        }
    }

    fn report(&self, check: &str, severity: Severity, change: &Change) -> Finding {
        let Change { value, threshold, rows, before, after } = *change;
        let message = format!(
            "the mean of `{}` went from {} to {}",
            self.config.column,
            number(before, 4),
            number(after, 4)
        );
        let statistic = self.method.statistic();
        Finding {
            severity,
            statistic,
            value,
            threshold,
            ..self.config.finding(check, rows, message)
        }
    }
}

impl Changes {
    fn summary(&self) -> Summary {
        let mut summary = Summary::empty(BY, Digest::NONE);
        summary.rows = self.rows;
        for watch in &self.watches {
            watch.counts.write(&watch.config.name(), &mut summary);
        }
        summary
    }

    /// The detectors with their parameters, a line each: what a checkpoint is
    /// of.
    fn detectors(&self) -> String {
        let mut lines = String::new();
        for Watch { config, method, .. } in &self.watches {
            lines.push_str(&config.column);
            lines.push('/');
            lines.push_str(&method.statistic());
            lines.push('\n');
        }
        lines
    }

    fn write(&self, e: &mut Writer<'_>) -> Written {
        let mut words = Words::default();
        for watch in &self.watches {
            watch.detector.put(&mut words);
        }
        e.array(4)?.u64(VERSION)?.str(&self.detectors())?.bytes(&self.summary().to_bytes())?;
        words.write(e)
    }

    fn read(&mut self, checkpoint: &[u8]) -> Result<(), CheckpointError> {
        let d = &mut Decoder::new(checkpoint);
        if d.array()? != Some(4) {
            return Err(CheckpointError::Malformed("not a list of four".to_owned()));
        }
        match d.u64()? {
            VERSION => {}
            other => return Err(CheckpointError::Version(other)),
        }
        if d.str()? != self.detectors() {
            return Err(CheckpointError::Detectors);
        }
        let summary = Summary::parse(d.bytes()?)?;
        self.rows = summary.rows;
        let mut words = Words::read(d)?;
        for Watch { config, method, detector, counts } in &mut self.watches {
            *detector = Detector::take(method, &mut words).ok_or(CheckpointError::State)?;
            *counts = Counts::read(&config.name(), &summary).map_err(CheckpointError::Malformed)?;
        }
        // One comparison holds what is left over, what is not canonical, and
        // what the summary has beside the counts.
        if self.checkpoint() == checkpoint { Ok(()) } else { Err(CheckpointError::NotCanonical) }
    }
}

fn no_reference(reference: &[u8]) -> Result<(), MonitorError> {
    if reference.is_empty() {
        return Ok(());
    }
    Err(MonitorError::BadReference(format!("{BY} takes none: `max-change-rate` says it")))
}

fn read_summary(bytes: &[u8]) -> Result<Summary, MonitorError> {
    let refuse = |e: SummaryError| MonitorError::Incompatible(e.to_string());
    let summary = Summary::parse(bytes).map_err(refuse)?;
    summary.is_of(Digest::NONE).map_err(refuse)?;
    if summary.by == BY {
        return Ok(summary);
    }
    Err(MonitorError::Incompatible(format!("a summary of {}, not of {BY}", summary.by)))
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

headland_sdk::export!(Changes as monitor, schema = "config.schema.json");
