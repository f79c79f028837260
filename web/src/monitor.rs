//! Monitors in a page: rows wait in a bounded queue until the page has time.

use std::sync::Arc;

use headland_pipeline::{Batch, Batcher, ColumnValues, Graph, Row};
use serde::Serialize;

use crate::{
    component::{
        abi::Value,
        contract::{EVALUATE, SESSION_CLOSE_WINDOW, SESSION_OBSERVE, SESSION_OPEN},
        host::{CallError, clip},
        instance::Instance,
    },
    pipeline::{Prepared, broken, result},
};

/// Findings that one call may give.
const MAX_FINDINGS: usize = 1024;

/// The longest summary of a window, in bytes.
const MAX_SUMMARY_BYTES: usize = 1 << 20;

/// One thing that a monitor found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    monitor: String,
    check: String,
    feature: Option<String>,
    severity: &'static str,
    statistic: String,
    value: f64,
    threshold: f64,
    rows: u64,
    frames: (u64, u64),
    message: String,
}

/// What a monitor reported, as the native engine says it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum MonitorReport {
    Early {
        finding: Finding,
    },
    Window {
        monitor: String,
        rows: u64,
        frames: (u64, u64),
        #[serde(skip)]
        summary: Arc<[u8]>,
        findings: Vec<Finding>,
    },
    Disabled {
        monitor: String,
        reason: String,
    },
    Error {
        monitor: String,
        message: String,
    },
}

/// A monitor with its open session.
pub struct Monitor {
    prepared: Prepared,
    reference: Arc<[u8]>,
    /// None once it has failed.
    open: Option<Open>,
    batcher: Batcher,
    queue: std::collections::VecDeque<Row>,
    queue_rows: usize,
    window_rows: u64,
    rows: u64,
    frames: Option<(u64, u64)>,
    dropped: u64,
}

struct Open {
    instance: Instance,
    /// The session's representation, by which its methods know it.
    session: u32,
}

impl Monitor {
    pub fn open(
        prepared: Prepared,
        reference: Arc<[u8]>,
        graph: &Graph,
        index: usize,
    ) -> Result<Self, CallError> {
        let spec = &graph.monitors()[index];
        let instance = prepared.instantiate()?;
        let config = Value::String(prepared.config.clone());
        let session =
            instance.call(&SESSION_OPEN, &[config, Value::Bytes(Arc::clone(&reference))])?;
        let Some(Value::Handle(handle)) = result(session).map_err(monitor_error)? else {
            return Err(broken());
        };
        let session = instance.host().own_representation(handle)?;
        Ok(Self {
            prepared,
            reference,
            open: Some(Open { instance, session }),
            batcher: Batcher::new(graph, index),
            queue: std::collections::VecDeque::new(),
            queue_rows: spec.queue as usize,
            window_rows: u64::from(spec.window_rows),
            rows: 0,
            frames: None,
            dropped: 0,
        })
    }

    /// Hand over a row. The oldest make room.
    pub fn offer(&mut self, row: Row) {
        if self.open.is_none() {
            self.dropped += 1;
            return;
        }
        if self.queue.len() >= self.queue_rows {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back(row);
    }

    /// See every row that waits.
    pub fn work(&mut self, out: &mut Vec<MonitorReport>) {
        while let Some(row) = self.queue.pop_front() {
            if let Err(e) = self.see(row, out) {
                self.disable(&e, out);
                return;
            }
        }
    }

    /// End the window.
    pub fn close_window(&mut self, out: &mut Vec<MonitorReport>) {
        if let Err(e) = self.end_window(out) {
            self.disable(&e, out);
        }
    }

    /// Its id in the pipeline.
    pub fn id(&self) -> &str {
        &self.prepared.id
    }

    /// See no more rows.
    pub fn turn_off(&mut self) {
        self.open = None;
        self.dropped += self.queue.len() as u64;
        self.queue.clear();
    }

    fn disable(&mut self, e: &CallError, out: &mut Vec<MonitorReport>) {
        self.turn_off();
        let (monitor, reason) = (self.prepared.id.clone(), e.to_string());
        out.push(MonitorReport::Disabled { monitor, reason });
    }

    fn see(&mut self, row: Row, out: &mut Vec<MonitorReport>) -> Result<(), CallError> {
        let id = row.frame_id;
        let (first, _) = self.frames.unwrap_or((id, id));
        self.frames = Some((first, id));
        self.rows += 1;
        self.batcher.push(row);
        while let Some(batch) = self.batcher.next_batch() {
            self.batch(batch, out)?;
        }
        if self.rows >= self.window_rows { self.end_window(out) } else { Ok(()) }
    }

    fn batch(&mut self, batch: Batch, out: &mut Vec<MonitorReport>) -> Result<(), CallError> {
        let Some(open) = &self.open else { return Ok(()) };
        let found = open
            .instance
            .call(&SESSION_OBSERVE, &[Value::Handle(open.session), value_of(batch)])?;
        match result(found) {
            Ok(found) => {
                let findings = self.findings(found)?;
                out.extend(findings.into_iter().map(|finding| MonitorReport::Early { finding }));
            }
            Err(e) => out.push(self.error(&monitor_error(e))),
        }
        Ok(())
    }

    fn end_window(&mut self, out: &mut Vec<MonitorReport>) -> Result<(), CallError> {
        while let Some(rest) = self.batcher.flush() {
            self.batch(rest, out)?;
        }
        let (Some(frames), Some(open)) = (self.frames, &self.open) else { return Ok(()) };
        let summary = open.instance.call(&SESSION_CLOSE_WINDOW, &[Value::Handle(open.session)])?;
        let Value::Bytes(summary) = summary else { return Err(broken()) };
        if summary.len() > MAX_SUMMARY_BYTES {
            let len = summary.len();
            return Err(CallError::BadOutput(format!(
                "a summary of {len} bytes, {MAX_SUMMARY_BYTES} allowed"
            )));
        }
        let params = [
            Value::String(self.prepared.config.clone()),
            Value::Bytes(Arc::clone(&self.reference)),
            Value::Bytes(Arc::clone(&summary)),
        ];
        let findings = match result(open.instance.call(&EVALUATE, &params)?) {
            Ok(found) => self.findings(found)?,
            Err(e) => {
                out.push(self.error(&monitor_error(e)));
                Vec::new()
            }
        };
        let (monitor, rows) = (self.prepared.id.clone(), self.rows);
        out.push(MonitorReport::Window { monitor, rows, frames, summary, findings });
        (self.rows, self.frames) = (0, None);
        Ok(())
    }

    fn error(&self, e: &CallError) -> MonitorReport {
        MonitorReport::Error { monitor: self.prepared.id.clone(), message: e.to_string() }
    }

    fn findings(&self, found: Option<Value>) -> Result<Vec<Finding>, CallError> {
        let Some(Value::List(found)) = found else { return Err(broken()) };
        if found.len() > MAX_FINDINGS {
            let count = found.len();
            return Err(CallError::BadOutput(format!("{count} findings, {MAX_FINDINGS} allowed")));
        }
        found.into_iter().map(|value| self.finding(value).ok_or_else(broken)).collect()
    }

    fn finding(&self, value: Value) -> Option<Finding> {
        let Value::Record(fields) = value else { return None };
        let [
            Value::String(check),
            Value::Variant(_, feature),
            Value::Variant(severity, _),
            Value::String(statistic),
            Value::F64(value),
            Value::F64(threshold),
            Value::U64(rows),
            Value::String(message),
        ] = &fields[..]
        else {
            return None;
        };
        let feature = match feature.as_deref() {
            Some(Value::String(feature)) => Some(clip(feature)),
            _ => None,
        };
        Some(Finding {
            monitor: self.prepared.id.clone(),
            check: clip(check),
            feature,
            severity: ["info", "warning", "alarm"].get(*severity as usize)?,
            statistic: clip(statistic),
            value: *value,
            threshold: *threshold,
            rows: *rows,
            frames: self.frames.unwrap_or_default(),
            message: clip(message),
        })
    }
}

fn monitor_error(e: Value) -> CallError {
    let Value::Variant(case, Some(text)) = e else { return broken() };
    let Value::String(text) = *text else { return broken() };
    let what = ["reference", "checkpoint", "batch", "summary", "configuration"];
    let what = what.get(case as usize).copied().unwrap_or("call");
    CallError::Refused(format!("bad {what}: {}", clip(&text)))
}

fn value_of(batch: Batch) -> Value {
    let option = |text: Option<String>| match text {
        Some(text) => Value::Variant(1, Some(Box::new(Value::String(text)))),
        None => Value::Variant(0, None),
    };
    let columns = batch.columns.into_iter().map(|column| {
        let (case, values) = match column.values {
            ColumnValues::Numeric(values) => (0, Value::F64s(values)),
            ColumnValues::Categorical(values) => {
                (1, Value::List(values.into_iter().map(option).collect()))
            }
        };
        let values = Value::Variant(case, Some(Box::new(values)));
        Value::Record(vec![Value::String(column.name), values])
    });
    Value::Record(vec![
        Value::U64s(batch.frame_ids),
        Value::U64s(batch.captured_at_ns),
        Value::List(columns.collect()),
    ])
}
