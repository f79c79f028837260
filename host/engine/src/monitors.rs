//! Monitors: components that watch rows on a thread of their own.
//!
//! Rows reach them through a bounded channel that is never waited for, so a
//! slow, stuck or trapping monitor costs a frame nothing.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use headland_pipeline::{Batch, Batcher, ColumnValues, Graph, Row};
use serde::{Deserialize, Serialize};
use wasmtime::component::{ResourceAny, TypedFunc};

use crate::{
    ComponentError,
    bindings::monitoring as wit,
    component::{CallError, Live, Prepared},
    host::clip,
};

/// Reports kept for whoever collects them; older ones make room.
const MAX_REPORTS: usize = 1024;

/// What the kept reports may take, about, in bytes.
const MAX_REPORT_BYTES: usize = 16 << 20;

/// Findings that one call may give.
const MAX_FINDINGS: usize = 1024;

/// The longest summary of a window, in bytes.
const MAX_SUMMARY_BYTES: usize = 1 << 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth recording.
    Info,
    /// Worth a look.
    Warning,
    /// Act.
    Alarm,
}

/// One thing that a monitor found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The monitor's id in the pipeline.
    pub monitor: String,
    /// The check, for example `missing-rate`.
    pub check: String,
    /// The feature, if it is of one.
    pub feature: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// The statistic's name with its parameters.
    pub statistic: String,
    /// Its value.
    pub value: f64,
    /// What it was held against.
    pub threshold: f64,
    /// Rows that it was computed from.
    pub rows: u64,
    /// The first and last frame that it was computed from.
    pub frames: (u64, u64),
    /// One sentence.
    pub message: String,
}

/// What a monitor reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum MonitorReport {
    /// Something that could not wait for the window's end.
    Early {
        /// What.
        finding: Finding,
    },
    /// A window ended.
    Window {
        /// The monitor.
        monitor: String,
        /// Rows in the window.
        rows: u64,
        /// The first and last frame of the window.
        frames: (u64, u64),
        /// The summary in the monitor's own form, for merging.
        summary: Vec<u8>,
        /// What it means.
        findings: Vec<Finding>,
    },
    /// The monitor failed and sees no more rows.
    Disabled {
        /// The monitor.
        monitor: String,
        /// Why.
        reason: String,
    },
    /// One call failed; the monitor goes on.
    Error {
        /// The monitor.
        monitor: String,
        /// Why.
        message: String,
    },
}

/// A monitor compiled and checked, with its reference.
pub(crate) struct PreparedMonitor {
    pub(crate) id: String,
    pub(crate) prepared: Prepared,
    pub(crate) reference: Arc<[u8]>,
    pub(crate) window_rows: u64,
    pub(crate) queue_rows: usize,
}

/// Why a monitor did not start.
#[derive(Debug, thiserror::Error)]
pub enum MonitorStartError {
    /// Its component failed.
    #[error("monitor {monitor:?}")]
    Component {
        /// Which.
        monitor: String,
        /// Why.
        #[source]
        source: ComponentError,
    },
    /// No thread.
    #[error("cannot start the monitors' thread")]
    Thread(#[from] io::Error),
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
type Evaluate = TypedFunc<(String, Vec<u8>, Vec<u8>), Checked<Vec<wit::Finding>>>;

/// One instance of a monitor with its open session.
struct Watch {
    spec: Arc<PreparedMonitor>,
    live: Live,
    session: ResourceAny,
    observe: Observe,
    close: CloseWindow,
    evaluate: Evaluate,
    batcher: Batcher,
    rows: u64,
    frames: Option<(u64, u64)>,
}

impl Watch {
    fn open(spec: &Arc<PreparedMonitor>, batcher: Batcher) -> Result<Self, ComponentError> {
        let prepared = &spec.prepared;
        let interface = prepared.world().interface();
        let mut live = Live::new(prepared).map_err(ComponentError::Instantiate)?;
        let open = live
            .export::<(String, Vec<u8>), Checked<ResourceAny>>(interface, "[static]session.open")?;
        let observe = live.export(interface, "[method]session.observe")?;
        let close = live.export(interface, "[method]session.close-window")?;
        let evaluate = live.export(interface, "evaluate")?;
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
            evaluate,
            batcher,
            rows: 0,
            frames: None,
        })
    }

    fn see(&mut self, row: Row, out: &Reports) -> Result<(), CallError> {
        let id = row.frame_id;
        let (first, _) = self.frames.unwrap_or((id, id));
        self.frames = Some((first, id));
        self.rows += 1;
        self.batcher.push(row);
        while let Some(batch) = self.batcher.next_batch() {
            self.batch(batch, out)?;
        }
        if self.rows >= self.spec.window_rows { self.close_window(out) } else { Ok(()) }
    }

    fn batch(&mut self, batch: Batch, out: &Reports) -> Result<(), CallError> {
        let observe = self.observe;
        let (found,) = self.live.call(&observe, (self.session, to_wit(batch)))?;
        match found {
            Ok(found) => {
                for finding in self.findings(found)? {
                    out.push(MonitorReport::Early { finding });
                }
            }
            Err(e) => out.push(self.error(monitor_error(e))),
        }
        Ok(())
    }

    fn error(&self, e: CallError) -> MonitorReport {
        MonitorReport::Error { monitor: self.spec.id.clone(), message: e.to_string() }
    }

    fn close_window(&mut self, out: &Reports) -> Result<(), CallError> {
        while let Some(rest) = self.batcher.flush() {
            self.batch(rest, out)?;
        }
        let Some(frames) = self.frames else { return Ok(()) };
        let (close, evaluate) = (self.close, self.evaluate);
        let (summary,) = self.live.call(&close, (self.session,))?;
        if summary.len() > MAX_SUMMARY_BYTES {
            let len = summary.len();
            return Err(CallError::BadOutput(format!(
                "a summary of {len} bytes, {MAX_SUMMARY_BYTES} allowed"
            )));
        }
        let config = self.spec.prepared.config().to_owned();
        let (found,) =
            self.live.call(&evaluate, (config, self.spec.reference.to_vec(), summary.clone()))?;
        let findings = match found {
            Ok(found) => self.findings(found)?,
            Err(e) => {
                out.push(self.error(monitor_error(e)));
                Vec::new()
            }
        };
        out.push(MonitorReport::Window {
            monitor: self.spec.id.clone(),
            rows: self.rows,
            frames,
            summary,
            findings,
        });
        (self.rows, self.frames) = (0, None);
        Ok(())
    }

    fn findings(&self, found: Vec<wit::Finding>) -> Result<Vec<Finding>, CallError> {
        let frames = self.frames.unwrap_or_default();
        if found.len() > MAX_FINDINGS {
            let count = found.len();
            return Err(CallError::BadOutput(format!("{count} findings, {MAX_FINDINGS} allowed")));
        }
        let findings = found
            .into_iter()
            .map(|f| Finding {
                monitor: self.spec.id.clone(),
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

enum Message {
    Row(usize, Row),
    /// Answer when everything before has been seen.
    Settle(SyncSender<()>),
    /// End every window, then answer.
    CloseWindows(SyncSender<()>),
}

/// What the monitors' thread and its owner share.
struct Shared {
    reports: Reports,
    counters: Vec<Counters>,
    /// Nobody is interested any more: rows that wait are let go.
    stop: AtomicBool,
}

#[derive(Default)]
struct Counters {
    seen: AtomicU64,
    dropped: AtomicU64,
    pending: AtomicU64,
}

/// Rows that one monitor saw and did not see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorCounts {
    /// The monitor's id.
    pub monitor: String,
    /// Rows that it saw.
    pub rows_seen: u64,
    /// Rows that were dropped because it was behind, or disabled.
    pub rows_dropped: u64,
}

/// Reports that wait for whoever collects them.
#[derive(Default)]
struct Reports(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    reports: VecDeque<MonitorReport>,
    bytes: usize,
    dropped: u64,
}

impl MonitorReport {
    /// About what it takes.
    fn size_bytes(&self) -> usize {
        let of = |f: &Finding| size_of::<Finding>() + f.message.len() + f.statistic.len();
        size_of::<Self>()
            + match self {
                Self::Early { finding } => of(finding),
                Self::Window { summary, findings, .. } => {
                    summary.len() + findings.iter().map(of).sum::<usize>()
                }
                Self::Disabled { reason: text, .. } | Self::Error { message: text, .. } => {
                    text.len()
                }
            }
    }
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, report: MonitorReport) {
        let mut kept = self.lock();
        kept.bytes += report.size_bytes();
        kept.reports.push_back(report);
        while kept.reports.len() > MAX_REPORTS || kept.bytes > MAX_REPORT_BYTES {
            let Some(oldest) = kept.reports.pop_front() else { break };
            kept.bytes -= oldest.size_bytes();
            kept.dropped += 1;
        }
    }

    fn take(&self) -> Vec<MonitorReport> {
        let mut kept = self.lock();
        kept.bytes = 0;
        kept.reports.drain(..).collect()
    }
}

/// The running monitors of one pipeline.
pub(crate) struct Monitors {
    specs: Vec<Arc<PreparedMonitor>>,
    shared: Arc<Shared>,
    rows: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitors {
    /// Open a session of each and start their thread.
    pub(crate) fn start(
        specs: &[Arc<PreparedMonitor>],
        graph: &Graph,
    ) -> Result<Self, MonitorStartError> {
        let shared = Arc::new(Shared {
            reports: Reports::default(),
            counters: specs.iter().map(|_| Counters::default()).collect(),
            stop: AtomicBool::new(false),
        });
        let mut watches = Vec::with_capacity(specs.len());
        for (i, spec) in specs.iter().enumerate() {
            let watch = Watch::open(spec, Batcher::new(graph, i)).map_err(|source| {
                MonitorStartError::Component { monitor: spec.id.clone(), source }
            })?;
            watches.push(Some(watch));
        }
        let (mut rows, mut thread) = (None, None);
        if !watches.is_empty() {
            let capacity = specs.iter().map(|s| s.queue_rows).sum::<usize>().max(1);
            let (sender, receiver) = sync_channel(capacity);
            let state = Arc::clone(&shared);
            let spawned = std::thread::Builder::new()
                .name("headland-monitors".to_owned())
                .spawn(move || work(&receiver, &mut watches, &state))?;
            (rows, thread) = (Some(sender), Some(spawned));
        }
        Ok(Self { specs: specs.to_vec(), shared, rows, thread })
    }

    /// Hand over a row. Never waits: a full queue drops and counts it.
    pub(crate) fn offer(&self, monitor: usize, row: Row) {
        let (Some(rows), Some(spec), Some(counters)) =
            (&self.rows, self.specs.get(monitor), self.shared.counters.get(monitor))
        else {
            return;
        };
        let queued = counters.pending.fetch_add(1, Ordering::AcqRel) < spec.queue_rows as u64;
        let sent = queued
            && !matches!(
                rows.try_send(Message::Row(monitor, row)),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
            );
        if !sent {
            counters.pending.fetch_sub(1, Ordering::AcqRel);
            counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ask(&self, message: impl FnOnce(SyncSender<()>) -> Message) {
        let Some(rows) = &self.rows else { return };
        let (answer, answered) = sync_channel(1);
        if rows.send(message(answer)).is_ok() {
            // An error is a thread that is gone: there is nothing to wait for.
            let _ = answered.recv();
        }
    }

    /// Wait until every row handed over so far was seen.
    pub(crate) fn settle(&self) {
        self.ask(Message::Settle);
    }

    /// End every window now and wait for what it gives.
    pub(crate) fn close_windows(&self) {
        self.ask(Message::CloseWindows);
    }

    /// Rows that wait.
    pub(crate) fn backlog(&self) -> u64 {
        self.shared.counters.iter().map(|c| c.pending.load(Ordering::Acquire)).sum()
    }

    /// What was reported since the last time.
    pub(crate) fn take_reports(&self) -> Vec<MonitorReport> {
        self.shared.reports.take()
    }

    /// Reports that made room before they were collected.
    pub(crate) fn reports_dropped(&self) -> u64 {
        self.shared.reports.lock().dropped
    }

    pub(crate) fn counts(&self) -> Vec<MonitorCounts> {
        self.specs
            .iter()
            .zip(&self.shared.counters)
            .map(|(spec, c)| MonitorCounts {
                monitor: spec.id.clone(),
                rows_seen: c.seen.load(Ordering::Relaxed),
                rows_dropped: c.dropped.load(Ordering::Relaxed),
            })
            .collect()
    }
}

impl Drop for Monitors {
    fn drop(&mut self) {
        // Closing the channel ends the thread; the call that it is in, if
        // any, ends at its time limit.
        self.shared.stop.store(true, Ordering::Release);
        self.rows = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(receiver: &Receiver<Message>, watches: &mut [Option<Watch>], shared: &Shared) {
    while let Ok(message) = receiver.recv() {
        match message {
            Message::Row(i, row) => {
                let Some(counters) = shared.counters.get(i) else { continue };
                counters.pending.fetch_sub(1, Ordering::AcqRel);
                match watches.get_mut(i) {
                    _ if shared.stop.load(Ordering::Acquire) => {
                        counters.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(slot @ Some(_)) => {
                        counters.seen.fetch_add(1, Ordering::Relaxed);
                        attempt(slot, shared, |w, out| w.see(row, out));
                    }
                    _ => {
                        counters.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Message::Settle(answer) => {
                let _ = answer.send(());
            }
            Message::CloseWindows(answer) => {
                for slot in watches.iter_mut() {
                    attempt(slot, shared, Watch::close_window);
                }
                let _ = answer.send(());
            }
        }
    }
}

/// Call into a monitor; one that fails is disabled, with the reason reported.
fn attempt(
    slot: &mut Option<Watch>,
    shared: &Shared,
    call: impl FnOnce(&mut Watch, &Reports) -> Result<(), CallError>,
) {
    let Some(watch) = slot else { return };
    if let Err(e) = call(watch, &shared.reports) {
        let monitor = watch.spec.id.clone();
        *slot = None;
        shared.reports.push(MonitorReport::Disabled { monitor, reason: e.to_string() });
    }
}
