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
    time::Instant,
};

use headland_monitor::MonitorReport;
use headland_pipeline::{Batcher, Cell, Graph, LabelJoin, Row, Sampler};
use serde::{Deserialize, Serialize};

use crate::{
    ComponentError,
    component::CallError,
    watch::{PreparedMonitor, Watch},
};

/// Reports kept for whoever collects them; older ones make room.
const MAX_REPORTS: usize = 1024;

/// What the kept reports may take, about, in bytes.
const MAX_REPORT_BYTES: usize = 16 << 20;

/// Rows that may wait for the thread while those that waited for labels are
/// handed over.
const MAX_BACKLOG_ROWS: u64 = 256;

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
    sampled_out: AtomicU64,
    pending: AtomicU64,
    /// Time in calls of the monitor, in nanoseconds.
    busy_ns: AtomicU64,
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
    /// Rows that it was not shown because it takes more than its share of the
    /// time.
    pub rows_sampled_out: u64,
    /// Time that it has taken, in nanoseconds.
    pub busy_ns: u64,
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
    /// Of the monitors whose rows wait for labels.
    joins: Vec<Option<LabelJoin>>,
    /// Of the monitors that keep to a share of the time.
    samplers: Vec<Option<Sampler>>,
    /// Time that the stages have taken, in nanoseconds.
    stages_ns: u64,
    /// Rows that are kept rather than shown to a monitor.
    recorded: Option<Vec<(usize, Row)>>,
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
        let labels = graph.monitors().iter().map(|m| m.labels);
        let joins = labels.map(|l| l.map(|l| LabelJoin::new(l.wait))).collect();
        let samplers = graph.monitors().iter().map(|m| m.max_percent.map(Sampler::new)).collect();
        Ok(Self {
            specs: specs.to_vec(),
            shared,
            joins,
            samplers,
            stages_ns: 0,
            recorded: None,
            rows,
            thread,
        })
    }

    /// No monitors, and all their rows.
    pub(crate) fn recording() -> Self {
        let stop = AtomicBool::new(false);
        let shared = Shared { reports: Reports::default(), counters: Vec::new(), stop };
        Self {
            specs: Vec::new(),
            shared: Arc::new(shared),
            joins: Vec::new(),
            samplers: Vec::new(),
            stages_ns: 0,
            recorded: Some(Vec::new()),
            rows: None,
            thread: None,
        }
    }

    /// The rows that were kept since the last time.
    pub(crate) fn take_rows(&mut self) -> Vec<(usize, Row)> {
        self.recorded.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A row of a frame: for its monitor, or to wait for its label.
    pub(crate) fn observe(&mut self, monitor: usize, row: Row) {
        if let Some(recorded) = &mut self.recorded {
            recorded.push((monitor, row));
            return;
        }
        if let (Some(Some(sampler)), Some(counters)) =
            (self.samplers.get_mut(monitor), self.shared.counters.get(monitor))
        {
            let busy_ns = counters.busy_ns.load(Ordering::Relaxed);
            if !sampler.keeps(row.frame_id, self.stages_ns, busy_ns) {
                counters.sampled_out.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let row = match self.joins.get_mut(monitor) {
            Some(Some(join)) => join.wait(row),
            _ => Some(row),
        };
        if let Some(row) = row {
            self.offer(monitor, row);
        }
    }

    /// The stages have taken so much time for a frame.
    pub(crate) fn stages_took(&mut self, duration_ns: u64) {
        self.stages_ns = self.stages_ns.saturating_add(duration_ns);
    }

    /// What was right for a frame; how many monitors it reached.
    pub(crate) fn label(&mut self, frame_id: u64, label: &[(String, Cell)]) -> usize {
        let joins = self.joins.iter_mut().enumerate();
        let joined: Vec<(usize, Row)> = joins
            .filter_map(|(i, join)| Some((i, join.as_mut()?.label(frame_id, label)?)))
            .collect();
        let reached = joined.len();
        joined.into_iter().for_each(|(monitor, row)| self.offer(monitor, row));
        reached
    }

    /// Hand over a row. Never waits: a full queue drops and counts it.
    fn offer(&self, monitor: usize, row: Row) {
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

    /// End every window now and wait for what it gives. Rows that wait for
    /// their labels go without.
    pub(crate) fn close_windows(&mut self) {
        let joins = self.joins.iter_mut().enumerate();
        let waiting: Vec<(usize, Row)> = joins
            .flat_map(|(i, join)| {
                join.iter_mut().flat_map(move |j| j.give_up().map(move |r| (i, r)))
            })
            .collect();
        for (monitor, row) in waiting {
            // There is time now, so that no row need be dropped.
            let room = self.specs.get(monitor).map_or(0, |spec| spec.queue_rows as u64);
            if self.backlog() >= room.min(MAX_BACKLOG_ROWS) {
                self.settle();
            }
            self.offer(monitor, row);
        }
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
                rows_sampled_out: c.sampled_out.load(Ordering::Relaxed),
                busy_ns: c.busy_ns.load(Ordering::Relaxed),
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
                        let start = Instant::now();
                        attempt(slot, shared, |w, out| w.see(row, out));
                        let busy = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                        counters.busy_ns.fetch_add(busy, Ordering::Relaxed);
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
    call: impl FnOnce(&mut Watch, &mut Vec<MonitorReport>) -> Result<(), CallError>,
) {
    let Some(watch) = slot else { return };
    let mut reports = Vec::new();
    let result = call(watch, &mut reports);
    reports.into_iter().for_each(|report| shared.reports.push(report));
    if let Err(e) = result {
        let monitor = watch.id().to_owned();
        *slot = None;
        shared.reports.push(MonitorReport::Disabled { monitor, reason: e.to_string() });
    }
}
