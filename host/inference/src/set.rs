//! The models of one host.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use headland_tensor::Shape;

use crate::{Dimension, Executor, InferenceError, LoadLimits, Model, ModelInfo};

/// Models by name, loaded and unloaded at run time from any thread.
///
/// A model that is running, or that a [`Session`](crate::Session) holds,
/// outlives its unloading until the last reference goes.
#[derive(Default)]
pub struct ModelSet {
    /// Bytes that the models may take.
    budget: Option<u64>,
    contents: RwLock<Contents>,
}

#[derive(Default)]
struct Contents {
    models: BTreeMap<String, Entry>,
    /// Models that were unloaded and may yet be held, with what they take.
    unloaded: Vec<(Weak<dyn Model>, u64)>,
    /// What the models take that are being loaded.
    loading: u64,
}

struct Entry {
    model: Arc<dyn Model>,
    /// What it takes of the budget.
    needed: u64,
    /// Fetched since [`ModelSet::evict_idle`] last looked.
    fetched: AtomicBool,
    /// When `evict_idle` first looked after the last time it was fetched.
    idle_since: Option<Instant>,
}

impl ModelSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty set whose models may take so many bytes together.
    ///
    /// What a model takes is reckoned from its file: its constants, its inputs
    /// and its outputs, with 1 for each size that it leaves open. That is the
    /// least that it takes: what comes between inputs and outputs is not in the
    /// file, and is held to [`LoadLimits::max_run_bytes`] when it runs; an
    /// executor may keep constants twice, once in the form that it computes
    /// with. A model counts for as long as something holds it, unloaded or not.
    pub fn with_budget(bytes: u64) -> Self {
        Self { budget: Some(bytes), ..Self::default() }
    }

    /// Load a model under a name. One that already has the name is replaced,
    /// but only once the new one has loaded; what it takes counts as free.
    ///
    /// # Errors
    /// As [`Executor::load`]; [`InferenceError::OverBudget`] before the
    /// executor sees the model.
    pub fn load(
        &self,
        name: impl Into<String>,
        executor: &dyn Executor,
        onnx: &[u8],
        limits: &LoadLimits,
    ) -> Result<Arc<dyn Model>, InferenceError> {
        let name = name.into();
        let mut reserved = self.reserve(&name, onnx, limits)?;
        let model = executor.load(onnx, limits)?;
        let entry = Entry {
            model: Arc::clone(&model),
            needed: reserved.bytes,
            fetched: AtomicBool::new(true),
            idle_since: None,
        };
        let mut contents = self.write();
        contents.release(&mut reserved);
        let replaced = contents.models.insert(name, entry);
        contents.forget(replaced);
        drop(contents);
        Ok(model)
    }

    /// Set aside what a model takes.
    fn reserve(
        &self,
        name: &str,
        onnx: &[u8],
        limits: &LoadLimits,
    ) -> Result<Reserved<'_>, InferenceError> {
        let Some(budget) = self.budget else { return Ok(Reserved { set: self, bytes: 0 }) };
        let needed = needed_bytes(&ModelInfo::from_onnx(onnx, limits)?);
        let mut contents = self.write();
        contents.unloaded.retain(|(model, _)| model.strong_count() > 0);
        let others = contents.models.iter().filter(|(other, _)| *other != name);
        let taken = others
            .map(|(_, entry)| entry.needed)
            .chain(contents.unloaded.iter().map(|(_, needed)| *needed))
            .fold(contents.loading, u64::saturating_add);
        let available = budget.saturating_sub(taken);
        if needed > available {
            let model = name.to_owned();
            return Err(InferenceError::OverBudget { model, needed, available, budget });
        }
        contents.loading = contents.loading.saturating_add(needed);
        Ok(Reserved { set: self, bytes: needed })
    }

    /// Forget a model.
    ///
    /// # Errors
    /// [`InferenceError::UnknownModel`].
    pub fn unload(&self, name: &str) -> Result<(), InferenceError> {
        let mut contents = self.write();
        match contents.models.remove(name) {
            Some(entry) => {
                contents.forget(Some(entry));
                Ok(())
            }
            None => Err(InferenceError::UnknownModel { name: name.to_owned() }),
        }
    }

    /// Unload the models that nothing holds and that nobody has fetched for so
    /// long; gives their names, sorted.
    ///
    /// [`get`](Self::get) reads no clock: the time of a model that was fetched,
    /// loaded or held starts at the next call of this, so it is unloaded late
    /// by the pause between two calls, and never early.
    pub fn evict_idle(&self, now: Instant, idle_for: Duration) -> Vec<String> {
        let mut contents = self.write();
        let mut evicted = Vec::new();
        contents.models.retain(|name, entry| {
            // One that is held takes its memory in the set or out of it.
            let held = Arc::strong_count(&entry.model) > 1;
            if std::mem::take(entry.fetched.get_mut()) || held {
                entry.idle_since = None;
            }
            let since = *entry.idle_since.get_or_insert(now);
            let stays = held || now.saturating_duration_since(since) < idle_for;
            if !stays {
                evicted.push(name.clone());
            }
            stays
        });
        evicted
    }

    /// The model of that name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Model>> {
        let contents = self.read();
        let entry = contents.models.get(name)?;
        entry.fetched.store(true, Ordering::Relaxed);
        Some(Arc::clone(&entry.model))
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.read().models.keys().cloned().collect()
    }

    /// Bytes of the constants of all models in the set.
    pub fn resident_bytes(&self) -> u64 {
        self.read().models.values().map(|entry| entry.model.info().parameter_bytes).sum()
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.contents.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    /// Keep an eye on a model that has left the set.
    fn forget(&mut self, entry: Option<Entry>) {
        self.unloaded.retain(|(model, _)| model.strong_count() > 0);
        let Some(Entry { model, needed, .. }) = entry else { return };
        let seen = Arc::downgrade(&model);
        drop(model);
        if needed > 0 && seen.strong_count() > 0 {
            self.unloaded.push((seen, needed));
        }
    }

    fn release(&mut self, reserved: &mut Reserved<'_>) {
        self.loading = self.loading.saturating_sub(std::mem::take(&mut reserved.bytes));
    }
}

/// What is set aside for a model while it loads, given back if it does not.
struct Reserved<'a> {
    set: &'a ModelSet,
    bytes: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.set.write().release(self);
        }
    }
}

/// The least that a model takes, as [`ModelSet::with_budget`] says.
fn needed_bytes(info: &ModelInfo) -> u64 {
    info.inputs
        .iter()
        .chain(&info.outputs)
        .map(|tensor| {
            let size = |dimension: &Dimension| match dimension {
                Dimension::Fixed(size) => *size,
                Dimension::Symbolic(_) => 1,
            };
            let dims: Vec<u32> = tensor.shape.iter().map(size).collect();
            // A shape that no tensor can have is never run.
            Shape::new(dims)
                .map_or(0, |shape| shape.element_count() as u64)
                .saturating_mul(tensor.dtype.size_bytes() as u64)
        })
        .fold(info.parameter_bytes, u64::saturating_add)
}
