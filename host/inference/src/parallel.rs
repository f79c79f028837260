//! At most so many runs of a model at once.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use headland_tensor::{NamedTensors, Tensor};

use crate::{Engine, InferenceError, Model, ModelInfo, deadline::Deadline};

/// A model of which at most so many runs go on at once; others wait, in the
/// order in which they came, until their deadline.
///
/// A run on the CPU keeps one core busy, so more runs than cores only take
/// memory from each other.
pub struct Parallel {
    model: Arc<dyn Model>,
    max_runs: NonZeroUsize,
    gate: Mutex<Gate>,
    /// Wakes those that wait.
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    running: usize,
    /// The numbers of the runs that wait, the first to go first.
    waiting: VecDeque<u64>,
    /// The number of the next that has to wait.
    next: u64,
}

impl Parallel {
    /// As many runs at once as the machine has cores for this process; one
    /// where it does not say.
    pub fn new(model: Arc<dyn Model>) -> Self {
        Self::with_runs(model, thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// So many runs at once.
    pub fn with_runs(model: Arc<dyn Model>, max_runs: NonZeroUsize) -> Self {
        Self { model, max_runs, gate: Mutex::default(), changed: Condvar::new() }
    }

    /// Runs that may go on at once.
    pub fn max_runs(&self) -> NonZeroUsize {
        self.max_runs
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for a place.
    fn enter(&self, deadline: Option<Instant>) -> Result<Place<'_>, InferenceError> {
        let limit = deadline.map(Deadline::new);
        let mut gate = self.gate();
        let number = gate.next;
        gate.next += 1;
        gate.waiting.push_back(number);
        while gate.running >= self.max_runs.get() || gate.waiting.front() != Some(&number) {
            gate = match deadline {
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(gate, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(gate).unwrap_or_else(PoisonError::into_inner),
            };
            let late = limit.map_or(Ok(()), |limit| limit.check("its turn among the runs"));
            if let Err(late) = late {
                gate.waiting.retain(|waiting| *waiting != number);
                drop(gate);
                // The one behind may be the first now.
                self.changed.notify_all();
                return Err(late);
            }
        }
        gate.waiting.pop_front();
        gate.running += 1;
        drop(gate);
        // There may be a place for the next, too.
        self.changed.notify_all();
        Ok(Place(self))
    }
}

/// A run's place among those that go on; given back however the run ends.
struct Place<'a>(&'a Parallel);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut gate = self.0.gate();
        gate.running = gate.running.saturating_sub(1);
        drop(gate);
        self.0.changed.notify_all();
    }
}

impl Model for Parallel {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    fn engine(&self) -> Engine {
        self.model.engine()
    }

    fn run_until(
        &self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        let _place = self.enter(deadline)?;
        self.model.run_until(inputs, deadline)
    }
}
