//! Dynamic batching: calls that come at about the same time share one run.
//!
//! ```text
//! caller --> lane (one for each inner shape) --> worker: one run --> each its rows
//!    \------------- alone, on the caller's own thread --------------/
//! ```
//!
//! The worker runs batches and nothing else. A call that is not part of one, or
//! whose batch failed, runs on its caller's thread, so it fails, panics and
//! takes its time as if there were no batches.
//!
//! That a model names its first dimension alike everywhere does not prove that
//! its rows are independent: it may normalise over them, or reshape to a size
//! that its exporter wrote down. So batches 1, 2, 4, 8 and so on are checked:
//! their callers run alone as well, and that is what they get. Where the
//! batch's rows are others, no more batches are made.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use headland_tensor::{DType, NamedTensors, Shape, Tensor};

use crate::{
    Dimension, Engine, InferenceError, Model, ModelInfo, StateBinding, deadline::Deadline, session,
};

/// How calls are batched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Rows of a batch. One that is not full is padded to a power of two, so
    /// that a model plans for few sizes.
    pub max_batch: u32,
    /// How long a call waits for others.
    pub max_delay: Duration,
    /// Calls that wait at once; one more is refused.
    pub max_queue: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { max_batch: 8, max_delay: Duration::from_millis(2), max_queue: 256 }
    }
}

/// What a [`Batcher`] has done, and how it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchStatistics {
    /// Batches that ran.
    pub batches: u64,
    /// Calls that were part of them.
    pub batched_calls: u64,
    /// Rows of these calls.
    pub batched_rows: u64,
    /// Batches that failed; each of their calls ran alone.
    pub failed: u64,
    /// Calls that were never part of a batch.
    pub alone: u64,
    /// Calls whose deadline passed while they waited.
    pub late: u64,
    /// Calls refused because [`BatchOptions::max_queue`] others waited.
    pub refused: u64,
    /// Calls that wait now.
    pub waiting: usize,
    /// Rows that a batch may have now. Less than [`BatchOptions::max_batch`]
    /// once a batch failed whose calls all ran alone; below 2, no batches are
    /// made: the model cannot, or its rows depend on each other.
    pub max_batch: u32,
}

impl BatchStatistics {
    /// Rows of a batch on average, padding left out; 0 before the first.
    pub fn mean_rows(&self) -> f64 {
        if self.batches == 0 { 0.0 } else { self.batched_rows as f64 / self.batches as f64 }
    }
}

/// A model whose concurrent runs are batched.
///
/// A model can batch if the first dimension of every input and output is one
/// and the same symbol, which stands nowhere else. Calls share a batch if
/// their other sizes are the same. Those of any other model, calls that fill a
/// batch by themselves, and calls whose deadline leaves no time to wait go
/// straight to the model.
///
/// A batch ends at the tightest deadline of its calls. A batch's rows equal
/// those of the same call alone up to rounding: a kernel may add in another
/// order for another number of rows.
///
/// One thread runs the batches of a model. That pays where a run of many rows
/// takes less than as many runs, as on a device; on a CPU, two cores that run
/// one row each may be as fast.
pub struct Batcher {
    shared: Arc<Shared>,
    /// None for a model that cannot batch.
    worker: Option<JoinHandle<()>>,
}

struct Shared {
    model: Arc<dyn Model>,
    options: BatchOptions,
    state: Mutex<State>,
    /// Wakes the worker.
    changed: Condvar,
}

struct State {
    /// Calls that wait, by the shape of their rows; none is empty.
    lanes: Vec<Lane>,
    closed: bool,
    /// What the last batch took.
    last_run: Duration,
    statistics: BatchStatistics,
}

/// The inner sizes of each input, in the model's order.
type Rows = Vec<Box<[u32]>>;

struct Lane {
    of: Rows,
    /// In the order in which they came.
    calls: VecDeque<Call>,
    rows: u32,
}

struct Call {
    /// In the model's order.
    inputs: Vec<Tensor>,
    rows: u32,
    deadline: Option<Instant>,
    came: Instant,
    answer: SyncSender<Answer>,
}

/// What the worker has for a call.
enum Answer {
    /// No other call came in time: run alone.
    Alone,
    /// The call's rows.
    Rows(NamedTensors),
    /// The call's rows, to be compared with a run alone.
    Checked(NamedTensors),
    /// The batch failed: run alone, and say if that went well.
    Failed(Arc<Failure>),
}

/// A batch that failed.
struct Failure {
    /// Rows, padding included.
    rows: u32,
    calls: usize,
    /// Calls of it that have run alone since.
    fine: AtomicUsize,
}

impl Batcher {
    /// Batch the runs of a model.
    ///
    /// # Errors
    /// [`InferenceError::Failed`] if there is no thread to run batches.
    pub fn new(model: Arc<dyn Model>, options: BatchOptions) -> Result<Self, InferenceError> {
        let can_batch = options.max_batch > 1 && has_rows(model.info());
        let statistics = BatchStatistics {
            max_batch: if can_batch { options.max_batch } else { 1 },
            ..BatchStatistics::default()
        };
        let shared = Arc::new(Shared {
            model,
            options,
            state: Mutex::new(State {
                lanes: Vec::new(),
                closed: false,
                last_run: Duration::ZERO,
                statistics,
            }),
            changed: Condvar::new(),
        });
        let worker = can_batch.then(|| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("headland-batch".to_owned()).spawn(move || shared.work())
        });
        let worker = worker.transpose().map_err(|e| InferenceError::Failed {
            reason: format!("no thread to run batches: {e}"),
        })?;
        Ok(Self { shared, worker })
    }

    /// What has been done so far.
    pub fn statistics(&self) -> BatchStatistics {
        let state = self.shared.state();
        let waiting = state.waiting();
        BatchStatistics { waiting, ..state.statistics }
    }

    /// End batching: calls that wait, and those that come later, fail. Dropping
    /// does the same, and waits for a batch that runs.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.close();
        if let Some(worker) = self.worker.take() {
            // It contains the model's panics, and has none of its own to tell.
            let _ = worker.join();
        }
    }
}

impl Model for Batcher {
    fn info(&self) -> &ModelInfo {
        self.shared.model.info()
    }

    fn engine(&self) -> Engine {
        self.shared.model.engine()
    }

    fn run_until(
        &self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        let limit = deadline.map(Deadline::new);
        let check = |next: &str| limit.map_or(Ok(()), |limit| limit.check(next));
        let alone = || {
            check("a run alone")?;
            self.shared.model.run_until(inputs, deadline)
        };
        let answer = match self.shared.submit(inputs, deadline)? {
            Some(answer) => receive(&answer, deadline, check)?,
            None => return self.shared.model.run_until(inputs, deadline),
        };
        match answer {
            Answer::Alone => alone(),
            Answer::Rows(outputs) => Ok(outputs),
            Answer::Checked(batched) => {
                let outputs = alone()?;
                if !agree(&outputs, &batched) {
                    self.shared.state().statistics.max_batch = 1;
                }
                Ok(outputs)
            }
            Answer::Failed(failure) => {
                let outputs = alone()?;
                if failure.fine.fetch_add(1, Ordering::Relaxed) + 1 == failure.calls {
                    // It was not for any of its calls, so for its size.
                    let mut state = self.shared.state();
                    state.statistics.max_batch = state.statistics.max_batch.min(failure.rows / 2);
                }
                Ok(outputs)
            }
        }
    }

    /// Not batched: each session has a state of its own.
    fn step(
        &self,
        inputs: &[(String, Tensor)],
        bindings: &[StateBinding],
        state: &mut session::State,
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        self.shared.model.step(inputs, bindings, state, deadline)
    }
}

/// Wait for the worker, until the deadline.
fn receive(
    answer: &Receiver<Answer>,
    deadline: Option<Instant>,
    check: impl Fn(&str) -> Result<(), InferenceError>,
) -> Result<Answer, InferenceError> {
    loop {
        let received = match deadline {
            Some(end) => answer.recv_timeout(end.saturating_duration_since(Instant::now())),
            None => answer.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => check("its batch")?,
            Err(RecvTimeoutError::Disconnected) => {
                // The worker leaves calls whose deadline has passed.
                check("its batch")?;
                return Err(closed());
            }
        }
    }
}

fn closed() -> InferenceError {
    InferenceError::Failed { reason: "the batcher is closed".to_owned() }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        // With its sender gone, a call knows.
        state.lanes.clear();
        drop(state);
        self.changed.notify_all();
    }

    /// Put a call in its lane; none for one that is to run alone.
    fn submit(
        &self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<Option<Receiver<Answer>>, InferenceError> {
        let mut state = self.state();
        if state.closed {
            return Err(closed());
        }
        if state.statistics.max_batch < 2 {
            state.statistics.alone += 1;
            return Ok(None);
        }
        drop(state);
        // A model that can batch has a first dimension everywhere.
        let inputs = self.model.info().bind(inputs)?;
        let rows = inputs.first().and_then(|t| t.shape().dims().first()).copied().unwrap_or(0);
        let of: Rows =
            inputs.iter().map(|t| t.shape().dims().iter().skip(1).copied().collect()).collect();

        let came = Instant::now();
        let mut state = self.state();
        if state.closed {
            return Err(closed());
        }
        // A batch may be running, and the call's own comes after it.
        let takes = self.options.max_delay.saturating_add(state.last_run.saturating_mul(2));
        let waits = deadline.is_none_or(|end| end.saturating_duration_since(came) > takes);
        if rows == 0 || rows >= state.statistics.max_batch || !waits {
            state.statistics.alone += 1;
            return Ok(None);
        }
        let waiting = state.waiting();
        if waiting >= self.options.max_queue {
            state.statistics.refused += 1;
            let what = "max_queue: calls that wait for a batch";
            let allowed = self.options.max_queue as u64;
            return Err(InferenceError::over(what, waiting as u64 + 1, allowed));
        }
        let (answer, received) = sync_channel(1);
        let call = Call { inputs, rows, deadline, came, answer };
        match state.lanes.iter_mut().find(|lane| lane.of == of) {
            Some(lane) => {
                lane.rows = lane.rows.saturating_add(rows);
                lane.calls.push_back(call);
            }
            None => state.lanes.push(Lane { of, calls: VecDeque::from([call]), rows }),
        }
        drop(state);
        self.changed.notify_all();
        Ok(Some(received))
    }

    /// What the worker does until the batcher is closed.
    fn work(&self) {
        // Whatever ends the worker, nobody waits for it.
        struct Closing<'a>(&'a Shared);
        impl Drop for Closing<'_> {
            fn drop(&mut self) {
                self.0.close();
            }
        }
        let _closing = Closing(self);
        while let Some(calls) = self.next() {
            self.run(calls);
        }
    }

    /// Wait until the calls of a lane are enough for a batch, or have waited
    /// long enough; none once the batcher is closed.
    fn next(&self) -> Option<Vec<Call>> {
        let mut state = self.state();
        while !state.closed {
            let most = state.statistics.max_batch;
            let now = Instant::now();
            let full = state.lanes.iter().position(|lane| lane.rows >= most);
            // None for a delay that never ends.
            let due = |lane: &Lane| lane.calls.front()?.came.checked_add(self.options.max_delay);
            let first = state
                .lanes
                .iter()
                .enumerate()
                .filter_map(|(index, lane)| Some((due(lane)?, index)))
                .min();
            let wait = match (full, first) {
                (Some(index), _) => return Some(state.take(index)),
                (None, Some((due, index))) if due <= now => return Some(state.take(index)),
                (None, Some((due, _))) => Some(due.saturating_duration_since(now)),
                (None, None) => None,
            };
            state = match wait {
                Some(wait) => {
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        None
    }

    /// Run a batch and answer its calls.
    fn run(&self, mut calls: Vec<Call>) {
        let now = Instant::now();
        let came = calls.len();
        calls.retain(|call| call.deadline.is_none_or(|end| now < end));
        self.state().statistics.late += (came - calls.len()) as u64;
        if calls.len() < 2 {
            self.state().statistics.alone += calls.len() as u64;
            answer(calls, |_| Answer::Alone);
            return;
        }
        let rows: u32 = calls.iter().map(|call| call.rows).sum();
        let most = self.state().statistics.max_batch.max(rows);
        let padded = rows.checked_next_power_of_two().unwrap_or(rows).min(most);
        let deadline = calls.iter().filter_map(|call| call.deadline).min();
        let outcome = join(self.model.info(), &calls, padded).and_then(|inputs| {
            // What a panic leaves behind is the model's own affair: the calls
            // run on it next, as they would have without a batch.
            catch_unwind(AssertUnwindSafe(|| self.model.run_until(&inputs, deadline)))
                .map_err(|_| InferenceError::Failed { reason: "panic".to_owned() })?
        });
        let parts = outcome.and_then(|outputs| split(&outputs, &calls, padded));

        let mut state = self.state();
        state.last_run = now.elapsed();
        let statistics = &mut state.statistics;
        let checked = match &parts {
            Ok(_) => {
                statistics.batches += 1;
                statistics.batched_calls += calls.len() as u64;
                statistics.batched_rows += u64::from(rows);
                statistics.batches.is_power_of_two()
            }
            Err(_) => {
                statistics.failed += 1;
                false
            }
        };
        drop(state);
        match parts {
            Ok(parts) => {
                let mut parts = parts.into_iter();
                answer(calls, |_| match parts.next() {
                    Some(part) if checked => Answer::Checked(part),
                    Some(part) => Answer::Rows(part),
                    None => Answer::Alone,
                });
            }
            // One call's deadline is no fault of the others', nor of the size.
            Err(InferenceError::DeadlineExceeded { .. }) => answer(calls, |_| Answer::Alone),
            Err(_) => {
                let fine = AtomicUsize::new(0);
                let failure = Arc::new(Failure { rows: padded, calls: calls.len(), fine });
                answer(calls, |_| Answer::Failed(Arc::clone(&failure)));
            }
        }
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.calls.len()).sum()
    }

    /// The oldest calls of a lane, as many as go into a batch.
    fn take(&mut self, index: usize) -> Vec<Call> {
        let most = self.statistics.max_batch;
        let lane = &mut self.lanes[index];
        let mut taken = Vec::new();
        let mut rows = 0u32;
        while let Some(call) = lane.calls.front() {
            let more = rows.saturating_add(call.rows);
            if more > most && !taken.is_empty() {
                break;
            }
            rows = more;
            taken.extend(lane.calls.pop_front());
        }
        lane.rows = lane.calls.iter().fold(0, |rows, call| rows.saturating_add(call.rows));
        if lane.calls.is_empty() {
            self.lanes.swap_remove(index);
        }
        taken
    }
}

/// Answer calls; one that has given up does not hear it.
fn answer(calls: Vec<Call>, mut of: impl FnMut(&Call) -> Answer) {
    for call in calls {
        let answer = of(&call);
        let _ = call.answer.send(answer);
    }
}

/// Whether a model says that it takes and gives rows, any number of them.
fn has_rows(info: &ModelInfo) -> bool {
    let first = info.inputs.first().and_then(|input| input.shape.first());
    let Some(rows @ Dimension::Symbolic(_)) = first else { return false };
    info.inputs.iter().chain(&info.outputs).all(|tensor| match tensor.shape.split_first() {
        Some((first, inner)) => first == rows && !inner.contains(rows),
        None => false,
    })
}

/// The inputs of a batch: the rows of its calls one after the other, and the
/// last of them again and again up to `padded`.
fn join(info: &ModelInfo, calls: &[Call], padded: u32) -> Result<NamedTensors, InferenceError> {
    let mut joined = NamedTensors::with_capacity(info.inputs.len());
    for (index, input) in info.inputs.iter().enumerate() {
        let tensors = || calls.iter().filter_map(|call| call.inputs.get(index));
        let Some(last) = tensors().next_back() else { break };
        let mut dims = last.shape().dims().to_vec();
        let row_bytes = match dims.first_mut() {
            Some(rows) => {
                let row_bytes = last.bytes().len() / (*rows).max(1) as usize;
                *rows = padded;
                row_bytes
            }
            None => break,
        };
        let shape = Shape::new(dims)?;
        let len_bytes = shape.element_count().saturating_mul(last.dtype().size_bytes());
        let mut bytes = Vec::with_capacity(len_bytes);
        tensors().for_each(|tensor| bytes.extend_from_slice(tensor.bytes()));
        let row = &last.bytes()[last.bytes().len() - row_bytes..];
        while row_bytes > 0 && bytes.len() < len_bytes {
            bytes.extend_from_slice(row);
        }
        joined.push((input.name.clone(), Tensor::new(last.dtype(), shape, bytes)?));
    }
    Ok(joined)
}

/// The rows of each call, of outputs that must have `padded` of them.
fn split(
    outputs: &NamedTensors,
    calls: &[Call],
    padded: u32,
) -> Result<Vec<NamedTensors>, InferenceError> {
    let mut parts = Vec::with_capacity(calls.len());
    let mut start = 0;
    for call in calls {
        let mut part = NamedTensors::with_capacity(outputs.len());
        for (name, tensor) in outputs {
            let mut dims = tensor.shape().dims().to_vec();
            match dims.first_mut() {
                Some(rows) if *rows == padded => *rows = call.rows,
                _ => {
                    let reason = format!("{padded} rows gave {name:?} {}", tensor.shape());
                    return Err(InferenceError::Failed { reason });
                }
            }
            let row_bytes = tensor.bytes().len() / padded as usize;
            let from = start * row_bytes;
            let bytes = &tensor.bytes()[from..from + call.rows as usize * row_bytes];
            part.push((name.clone(), Tensor::new(tensor.dtype(), Shape::new(dims)?, bytes)?));
        }
        parts.push(part);
        start += call.rows as usize;
    }
    Ok(parts)
}

/// Whether a batch gave what a run alone did: the same whole numbers, and
/// floats within what the order of additions makes of them, relative to the
/// largest.
fn agree(alone: &NamedTensors, batched: &NamedTensors) -> bool {
    alone.len() == batched.len()
        && alone.iter().zip(batched).all(|((_, a), (_, b))| {
            let tolerance = match a.dtype() {
                DType::F32 | DType::F64 => 1e-3,
                DType::F16 | DType::BF16 => 1e-2,
                _ => return a == b,
            };
            if a == b {
                return true;
            }
            let same_kind = a.dtype() == b.dtype() && a.shape() == b.shape();
            let (a, b) = (a.to_f64(), b.to_f64());
            let largest = a.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
            let close = |(a, b): (&f64, &f64)| {
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * largest
            };
            same_kind && a.iter().zip(&b).all(close)
        })
}
