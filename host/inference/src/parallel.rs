//! At most so many runs at once.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use headland_tensor::{NamedTensors, Tensor};

use crate::{Engine, InferenceError, Model, ModelInfo, State, StateBinding, deadline::Deadline};

/// Lets at most so many runs go on at once, of all the models behind it; others
/// wait, in the order in which they came, until their deadline.
///
/// A run on the CPU keeps one core busy, so more runs than cores only take
/// memory from each other.
pub struct Gate {
    max_runs: NonZeroUsize,
    queue: Mutex<Queue>,
    /// Wakes those that wait.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    running: usize,
    /// The numbers of the runs that wait, the first to go first.
    waiting: VecDeque<u64>,
    /// The number of the next that has to wait.
    next: u64,
}

impl Gate {
    /// As many runs at once as the machine has cores for this process; one
    /// where it does not say.
    pub fn of_cores() -> Self {
        Self::new(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// So many runs at once.
    pub fn new(max_runs: NonZeroUsize) -> Self {
        Self { max_runs, queue: Mutex::default(), changed: Condvar::new() }
    }

    /// Runs that may go on at once.
    pub fn max_runs(&self) -> NonZeroUsize {
        self.max_runs
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for a place.
    fn enter(&self, deadline: Option<Instant>) -> Result<Place<'_>, InferenceError> {
        let mut queue = self.queue();
        if queue.running < self.max_runs.get() && queue.waiting.is_empty() {
            queue.running += 1;
            return Ok(Place(self));
        }
        let limit = deadline.map(Deadline::new);
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push_back(number);
        while queue.running >= self.max_runs.get() || queue.waiting.front() != Some(&number) {
            queue = match deadline {
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            let late = limit.map_or(Ok(()), |limit| limit.check("its turn among the runs"));
            if let Err(late) = late {
                queue.waiting.retain(|waiting| *waiting != number);
                self.wake(queue);
                return Err(late);
            }
        }
        queue.waiting.pop_front();
        queue.running += 1;
        // There may be a place for the next, too.
        self.wake(queue);
        Ok(Place(self))
    }

    /// Let those that wait look again.
    fn wake(&self, queue: MutexGuard<'_, Queue>) {
        let anyone = !queue.waiting.is_empty();
        drop(queue);
        if anyone {
            self.changed.notify_all();
        }
    }
}

/// A run's place among those that go on; given back however the run ends.
struct Place<'a>(&'a Gate);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.running = queue.running.saturating_sub(1);
        self.0.wake(queue);
    }
}

/// A model whose runs go through a [`Gate`].
pub struct Parallel {
    model: Arc<dyn Model>,
    gate: Arc<Gate>,
}

impl Parallel {
    /// Send the model's runs through that gate.
    pub fn new(model: Arc<dyn Model>, gate: Arc<Gate>) -> Self {
        Self { model, gate }
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
        let _place = self.gate.enter(deadline)?;
        self.model.run_until(inputs, deadline)
    }

    fn step(
        &self,
        inputs: &[(String, Tensor)],
        bindings: &[StateBinding],
        state: &mut State,
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        let _place = self.gate.enter(deadline)?;
        self.model.step(inputs, bindings, state, deadline)
    }
}
