//! The models of an engine: loaded once by digest and device, for all its
//! deployments, under one budget for each kind of memory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use headland_inference::{
    BatchOptions, Batcher, Executor, Gate, InferenceError, LoadLimits, Model, ModelSet, Parallel,
};
use headland_package::Digest;
use headland_pipeline::{BatchSpec, Device};

use crate::engine::Executors;

/// What the models of an engine may take together, as
/// [`ModelSet::with_budget`] reckons it; none has no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelMemory {
    /// Bytes of main memory, for models on `cpu` and `auto`.
    pub host_bytes: Option<u64>,
    /// Bytes on the device, for models on `gpu`.
    pub device_bytes: Option<u64>,
}

/// Why a model is not at hand.
pub(crate) enum NoModel {
    /// The host has no executor for the device.
    NoDevice,
    Refused(InferenceError),
}

pub(crate) struct Models {
    host: ModelSet,
    device: ModelSet,
    /// For runs in main memory: those of all models share the cores.
    gate: Arc<Gate>,
}

impl Models {
    pub(crate) fn new(memory: ModelMemory) -> Self {
        let set = |bytes: Option<u64>| bytes.map_or_else(ModelSet::new, ModelSet::with_budget);
        Self {
            host: set(memory.host_bytes),
            device: set(memory.device_bytes),
            gate: Arc::new(Gate::of_cores()),
        }
    }

    /// Load and warm up, or take what is loaded.
    pub(crate) fn load(
        &self,
        executors: &Executors,
        device: Device,
        name: &str,
        digest: Digest,
        onnx: &[u8],
    ) -> Result<Arc<dyn Model>, NoModel> {
        let (set, executor) = match device {
            Device::Auto => (&self.host, &executors.auto),
            Device::Cpu => (&self.host, &executors.cpu),
            Device::Gpu => (&self.device, executors.gpu.as_ref().ok_or(NoModel::NoDevice)?),
        };
        let key = format!("{digest} on {}", executor.name());
        let model = match set.get(&key) {
            Some(model) => model,
            None => load(set, key, &**executor, name, onnx).map_err(NoModel::Refused)?,
        };
        Ok(match device {
            Device::Gpu => model,
            Device::Auto | Device::Cpu => Arc::new(Parallel::new(model, Arc::clone(&self.gate))),
        })
    }

    /// Unload what nothing holds.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        for set in [&self.host, &self.device] {
            set.evict_idle(now, Duration::ZERO);
        }
    }
}

fn load(
    set: &ModelSet,
    key: String,
    executor: &dyn Executor,
    name: &str,
    onnx: &[u8],
) -> Result<Arc<dyn Model>, InferenceError> {
    let model = set.load(key, executor, onnx, &LoadLimits::default()).map_err(|e| match e {
        // The package's name for it says more than its digest.
        InferenceError::OverBudget { needed, available, budget, .. } => {
            InferenceError::OverBudget { model: name.to_owned(), needed, available, budget }
        }
        other => other,
    })?;
    model.warm_up();
    Ok(model)
}

/// Batch the runs of a model, as its stage asks.
pub(crate) fn batched(
    model: Arc<dyn Model>,
    spec: &BatchSpec,
) -> Result<Arc<Batcher>, InferenceError> {
    let options = BatchOptions {
        max_batch: spec.max,
        max_delay: Duration::from_millis(spec.delay_ms.into()),
        max_queue: spec.queue as usize,
    };
    Batcher::new(model, options).map(Arc::new)
}
