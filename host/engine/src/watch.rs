//! One monitor: its session over windows, and what its summaries mean.

use std::sync::Arc;

use headland_monitor::{
    Batch, ColumnValues, Finding, MonitorReport, Record, RecordError, Severity, Subject,
};
use headland_pipeline::{Batcher, Row};
use wasmtime::component::{ResourceAny, TypedFunc};

use crate::{
    bindings::monitoring as wit,
    component::{CallError, ComponentError, Live, Prepared},
    host::clip,
};

/// Findings that one call may give.
const MAX_FINDINGS: usize = 1024;

/// The longest summary of a window, in bytes.
const MAX_SUMMARY_BYTES: usize = 1 << 20;

/// A monitor compiled and checked, with its reference.
pub(crate) struct PreparedMonitor {
    pub(crate) id: String,
    pub(crate) prepared: Prepared,
    pub(crate) reference: Arc<[u8]>,
    pub(crate) window_rows: u64,
    pub(crate) queue_rows: usize,
    /// What its summaries are of.
    pub(crate) subject: Subject,
}

fn monitor_error(e: wit::MonitorError) -> CallError {
    let (what, why) = match e {
        wit::MonitorError::BadReference(m) => ("reference", m),
        wit::MonitorError::BadCheckpoint(m) => ("checkpoint", m),
        wit::MonitorError::BadBatch(m) => ("batch", m),
        wit::MonitorError::Incompatible(m) => ("summary", m),
        wit::MonitorError::BadConfig(m) => ("configuration", m),
    };
    CallError::Refused(format!("bad {what}: {}", clip(&why)))
}

type Checked<T> = (Result<T, wit::MonitorError>,);
type Observe = TypedFunc<(ResourceAny, wit::Batch), Checked<Vec<wit::Finding>>>;
type CloseWindow = TypedFunc<(ResourceAny,), (Vec<u8>,)>;
type Merge = TypedFunc<(Vec<u8>, Vec<u8>), Checked<Vec<u8>>>;
type Evaluate = TypedFunc<(String, Vec<u8>, Vec<u8>), Checked<Vec<wit::Finding>>>;

/// The functions of a monitor that need no session.
struct Functions {
    merge: Merge,
    evaluate: Evaluate,
}

impl Functions {
    fn of(live: &mut Live, interface: &str) -> Result<Self, ComponentError> {
        let merge = live.export(interface, "merge")?;
        let evaluate = live.export(interface, "evaluate")?;
        Ok(Self { merge, evaluate })
    }

    fn evaluate(
        &self,
        live: &mut Live,
        spec: &PreparedMonitor,
        summary: &[u8],
        frames: (u64, u64),
    ) -> Result<Vec<Finding>, CallError> {
        let config = spec.prepared.config().to_owned();
        let arguments = (config, spec.reference.to_vec(), summary.to_vec());
        let (found,) = live.call(&self.evaluate, arguments)?;
        findings(&spec.id, found.map_err(monitor_error)?, frames)
    }
}

/// An instance of a monitor that merges summaries and says what they mean: the
/// component that made them, wherever they have got to.
pub struct Judge {
    spec: Arc<PreparedMonitor>,
    live: Live,
    functions: Functions,
}

impl Judge {
    pub(crate) fn new(spec: &Arc<PreparedMonitor>) -> Result<Self, ComponentError> {
        let mut live = Live::new(&spec.prepared).map_err(ComponentError::Instantiate)?;
        let functions = Functions::of(&mut live, spec.prepared.world().interface())?;
        Ok(Self { spec: Arc::clone(spec), live, functions })
    }

    /// What its records are of.
    pub fn subject(&self) -> &Subject {
        &self.spec.subject
    }

    /// The reference that it counts over; empty without one.
    pub fn reference(&self) -> &[u8] {
        &self.spec.reference
    }

    /// One summary of what two say together.
    ///
    /// # Errors
    /// [`CallError`]: the monitor refuses, or breaks a limit.
    pub fn merge(&mut self, a: &[u8], b: &[u8]) -> Result<Vec<u8>, CallError> {
        let (merged,) = self.live.call(&self.functions.merge, (a.to_vec(), b.to_vec()))?;
        let merged = merged.map_err(monitor_error)?;
        check_size(&merged)?;
        Ok(merged)
    }

    /// What a summary means. The findings name no frames: a summary may be of
    /// many devices.
    ///
    /// # Errors
    /// [`CallError`]: the monitor refuses, or breaks a limit.
    pub fn evaluate(&mut self, summary: &[u8]) -> Result<Vec<Finding>, CallError> {
        self.functions.evaluate(&mut self.live, &self.spec, summary, (0, 0))
    }

    /// One record of what several say together.
    ///
    /// # Errors
    /// [`MergeError`]: there is none, one is of something else than this
    /// monitor's summaries, or the monitor refuses.
    pub fn merge_records<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<Record, MergeError> {
        let mut merged: Option<Record> = None;
        for record in records {
            self.spec.subject.same_as(&record.subject)?;
            merged = Some(match merged {
                None => record.clone(),
                Some(so_far) => {
                    so_far.merge(record, |a, b| self.merge(a, b).map_err(|e| e.to_string()))?
                }
            });
        }
        merged.ok_or(MergeError::Nothing)
    }
}

/// Why records do not merge.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// There is no record.
    #[error("there is no record to merge")]
    Nothing,
    /// They are of different things, or the monitor refuses.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// One instance of a monitor with its open session.
pub(crate) struct Watch {
    spec: Arc<PreparedMonitor>,
    live: Live,
    session: ResourceAny,
    observe: Observe,
    close: CloseWindow,
    functions: Functions,
    batcher: Batcher,
    rows: u64,
    /// The least and greatest frame of the window.
    frames: Option<(u64, u64)>,
    /// The first and last time of capture.
    captured_at_ns: (u64, u64),
}

impl Watch {
    pub(crate) fn id(&self) -> &str {
        &self.spec.id
    }

    /// Instantiate the monitor and open a session.
    pub(crate) fn open(
        spec: &Arc<PreparedMonitor>,
        batcher: Batcher,
    ) -> Result<Self, ComponentError> {
        let prepared = &spec.prepared;
        let interface = prepared.world().interface();
        let mut live = Live::new(prepared).map_err(ComponentError::Instantiate)?;
        let open = live
            .export::<(String, Vec<u8>), Checked<ResourceAny>>(interface, "[static]session.open")?;
        let observe = live.export(interface, "[method]session.observe")?;
        let close = live.export(interface, "[method]session.close-window")?;
        let functions = Functions::of(&mut live, interface)?;
        let (session,) = live
            .call(&open, (prepared.config().to_owned(), spec.reference.to_vec()))
            .map_err(ComponentError::Configure)?;
        let session = session.map_err(|e| ComponentError::Configure(monitor_error(e)))?;
        Ok(Self {
            spec: Arc::clone(spec),
            live,
            session,
            observe,
            close,
            functions,
            batcher,
            rows: 0,
            frames: None,
            captured_at_ns: (u64::MAX, 0),
        })
    }

    /// See a row, and what its window gives when it ends with it.
    pub(crate) fn see(&mut self, row: Row, out: &mut Vec<MonitorReport>) -> Result<(), CallError> {
        // Rows that waited for labels come out of order, and clocks go back.
        let widen = |(first, last): (u64, u64), x: u64| (first.min(x), last.max(x));
        let id = row.frame_id;
        self.frames = Some(widen(self.frames.unwrap_or((id, id)), id));
        self.captured_at_ns = widen(self.captured_at_ns, row.captured_at_ns);
        self.rows += 1;
        self.batcher.push(row);
        while let Some(batch) = self.batcher.next_batch() {
            self.batch(batch, out)?;
        }
        if self.rows >= self.spec.window_rows { self.close_window(out) } else { Ok(()) }
    }

    fn batch(&mut self, batch: Batch, out: &mut Vec<MonitorReport>) -> Result<(), CallError> {
        let observe = self.observe;
        let (found,) = self.live.call(&observe, (self.session, to_wit(batch)))?;
        match found {
            Ok(found) => {
                let frames = self.frames.unwrap_or_default();
                let found = findings(&self.spec.id, found, frames)?;
                out.extend(found.into_iter().map(|finding| MonitorReport::Early { finding }));
            }
            Err(e) => out.push(self.error(monitor_error(e))),
        }
        Ok(())
    }

    fn error(&self, e: CallError) -> MonitorReport {
        MonitorReport::Error { monitor: self.spec.id.clone(), message: e.to_string() }
    }

    /// End the window now, if it has a row.
    pub(crate) fn close_window(&mut self, out: &mut Vec<MonitorReport>) -> Result<(), CallError> {
        while let Some(rest) = self.batcher.flush() {
            self.batch(rest, out)?;
        }
        let Some(frames) = self.frames else { return Ok(()) };
        let close = self.close;
        let (summary,) = self.live.call(&close, (self.session,))?;
        check_size(&summary)?;
        let findings = match self.functions.evaluate(&mut self.live, &self.spec, &summary, frames) {
            Ok(findings) => findings,
            Err(e @ CallError::Refused(_)) => {
                out.push(self.error(e));
                Vec::new()
            }
            Err(e) => return Err(e),
        };
        out.push(MonitorReport::Window {
            monitor: self.spec.id.clone(),
            rows: self.rows,
            frames,
            captured_at_ns: self.captured_at_ns,
            summary,
            findings,
        });
        (self.rows, self.frames, self.captured_at_ns) = (0, None, (u64::MAX, 0));
        Ok(())
    }
}

/// A monitor that sees recorded rows, on the caller's own thread.
pub struct Replay(Watch);

impl Replay {
    pub(crate) fn new(
        spec: &Arc<PreparedMonitor>,
        batcher: Batcher,
    ) -> Result<Self, ComponentError> {
        Watch::open(spec, batcher).map(Self)
    }

    /// See a row. Gives what the monitor reports at once, and its window when
    /// it ends with this row.
    ///
    /// # Errors
    /// [`CallError`]: the monitor trapped or broke a limit, and can see no
    /// more rows.
    pub fn see(&mut self, row: Row) -> Result<Vec<MonitorReport>, CallError> {
        let mut reports = Vec::new();
        self.0.see(row, &mut reports)?;
        Ok(reports)
    }

    /// End the window, if it has a row.
    ///
    /// # Errors
    /// As [`Replay::see`].
    pub fn close_window(&mut self) -> Result<Vec<MonitorReport>, CallError> {
        let mut reports = Vec::new();
        self.0.close_window(&mut reports)?;
        Ok(reports)
    }
}

/// What the host takes of a monitor's findings.
fn findings(
    monitor: &str,
    found: Vec<wit::Finding>,
    frames: (u64, u64),
) -> Result<Vec<Finding>, CallError> {
    if found.len() > MAX_FINDINGS {
        let count = found.len();
        return Err(CallError::BadOutput(format!("{count} findings, {MAX_FINDINGS} allowed")));
    }
    let findings = found
        .into_iter()
        .map(|f| Finding {
            monitor: monitor.to_owned(),
            check: clip(&f.check),
            feature: f.feature.as_deref().map(clip),
            severity: match f.severity {
                wit::Severity::Info => Severity::Info,
                wit::Severity::Warning => Severity::Warning,
                wit::Severity::Alarm => Severity::Alarm,
            },
            statistic: clip(&f.statistic),
            value: f.value,
            threshold: f.threshold,
            rows: f.rows,
            frames,
            message: clip(&f.message),
        })
        .collect();
    Ok(findings)
}

fn check_size(summary: &[u8]) -> Result<(), CallError> {
    let len = summary.len();
    if len <= MAX_SUMMARY_BYTES {
        return Ok(());
    }
    Err(CallError::BadOutput(format!("a summary of {len} bytes, {MAX_SUMMARY_BYTES} allowed")))
}

fn to_wit(batch: Batch) -> wit::Batch {
    wit::Batch {
        frame_ids: batch.frame_ids,
        captured_at_ns: batch.captured_at_ns,
        columns: batch
            .columns
            .into_iter()
            .map(|c| wit::Column {
                name: c.name,
                values: match c.values {
                    ColumnValues::Numeric(v) => wit::ColumnValues::Numeric(v),
                    ColumnValues::Categorical(v) => wit::ColumnValues::Categorical(v),
                },
            })
            .collect(),
    }
}
