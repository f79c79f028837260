//! Choosing between CPU and GPU by measurement.
//!
//! Small models are often faster on a CPU's vector units than on any GPU, and no
//! rule of thumb says which are. So the first run for a model, an adapter and a
//! set of input shapes is answered by the CPU at once, while a thread of its own
//! loads the model on the GPU and times both on the same inputs; from then on the
//! faster one runs. What was measured can be kept beyond the process.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use headland_tensor::{NamedTensors, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    CpuExecutor, Engine, Executor, InferenceError, LoadLimits, Model, ModelInfo,
    gpu::{Device, GpuExecutor},
};

/// Runs that are timed on each side; the median counts.
const TIMED_RUNS: usize = 5;

/// Sets of shapes that a model is measured for; the CPU runs any others.
const MAX_SHAPES: usize = 64;

/// What a model takes on each side, for one set of input shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// The median of a run on the CPU, in microseconds.
    pub cpu_us: u64,
    /// The same on the GPU; none where the GPU did not run the model, or gave
    /// other answers.
    pub gpu_us: Option<u64>,
}

impl Measurement {
    /// Whether the GPU is to run it.
    pub fn prefers_gpu(&self) -> bool {
        self.gpu_us.is_some_and(|gpu_us| gpu_us < self.cpu_us)
    }
}

/// Where measurements are kept beyond a process. Keys are stable text that
/// names the model by digest, the adapter and the shapes.
pub trait Memory: Send + Sync {
    /// What was kept under a key.
    fn recall(&self, key: &str) -> Option<Measurement>;
    /// Keep a measurement.
    fn keep(&self, key: &str, measurement: Measurement);
}

/// Runs each model where it is faster.
#[derive(Clone)]
pub struct AutoExecutor {
    open: Opener,
    memory: Option<Arc<dyn Memory>>,
}

/// Opens the device to choose, when it is first needed.
type Opener = Arc<dyn Fn() -> Option<Device> + Send + Sync>;

impl AutoExecutor {
    /// Choose between the CPU and the device that `open` gives; without one, the
    /// CPU. It is called on the measuring thread, off every run's way.
    pub fn new(open: impl Fn() -> Option<Device> + Send + Sync + 'static) -> Self {
        Self { open: Arc::new(open), memory: None }
    }

    /// Keep what is measured there.
    #[must_use]
    pub fn with_memory(self, memory: Arc<dyn Memory>) -> Self {
        Self { memory: Some(memory), ..self }
    }
}

impl Executor for AutoExecutor {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn load(&self, onnx: &[u8], limits: &LoadLimits) -> Result<Arc<dyn Model>, InferenceError> {
        let cpu = CpuExecutor.load(onnx, limits)?;
        let mut model = String::new();
        for byte in Sha256::digest(onnx) {
            // Writing to a string does not fail.
            let _ = write!(model, "{byte:02x}");
        }
        Ok(Arc::new(AutoModel {
            shared: Arc::new(Shared {
                model,
                cpu,
                onnx: onnx.into(),
                limits: *limits,
                open: Arc::clone(&self.open),
                memory: self.memory.clone(),
                gpu: OnceLock::new(),
                choices: Mutex::default(),
            }),
        }))
    }
}

struct AutoModel {
    shared: Arc<Shared>,
}

struct Shared {
    /// The model's digest.
    model: String,
    cpu: Arc<dyn Model>,
    onnx: Box<[u8]>,
    limits: LoadLimits,
    open: Opener,
    memory: Option<Arc<dyn Memory>>,
    /// The adapter's name and the model on it, where there is one that loads it.
    gpu: OnceLock<Option<(String, Arc<dyn Model>)>>,
    choices: Mutex<HashMap<String, Choice>>,
}

/// What is known for one set of shapes.
#[derive(Clone, Copy)]
enum Choice {
    /// A thread measures; the CPU runs.
    Measuring,
    Measured(Measurement),
    /// There is no device, or it failed after it had been chosen; the CPU runs.
    Cpu,
}

impl Model for AutoModel {
    fn info(&self) -> &ModelInfo {
        self.shared.cpu.info()
    }

    fn engine(&self) -> Engine {
        let shared = &self.shared;
        let on_gpu =
            shared.choices().values().any(|c| matches!(c, Choice::Measured(m) if m.prefers_gpu()));
        let chosen = match shared.gpu.get() {
            Some(Some((_, gpu))) if on_gpu => gpu.engine(),
            _ => shared.cpu.engine(),
        };
        Engine { name: format!("auto: {}", chosen.name), ..chosen }
    }

    fn run_until(
        &self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        let shared = &self.shared;
        let key = shared.key_of(inputs);
        let choice = shared.choices().get(&key).copied();
        match choice {
            Some(Choice::Measured(measured)) if measured.prefers_gpu() => {
                let Some((_, gpu)) = shared.gpu() else {
                    return shared.cpu.run_until(inputs, deadline);
                };
                match gpu.run_until(inputs, deadline) {
                    // The adapter is gone: the CPU knows the model, too.
                    Err(InferenceError::Device { .. }) => {
                        shared.choices().insert(key, Choice::Cpu);
                        shared.cpu.run_until(inputs, deadline)
                    }
                    outcome => outcome,
                }
            }
            Some(_) => shared.cpu.run_until(inputs, deadline),
            None => {
                let outputs = shared.cpu.run_until(inputs, deadline)?;
                shared.measure_beside(key, inputs);
                Ok(outputs)
            }
        }
    }
}

impl Shared {
    fn choices(&self) -> MutexGuard<'_, HashMap<String, Choice>> {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shapes of a run.
    fn key_of(&self, inputs: &[(String, Tensor)]) -> String {
        let mut shapes: Vec<String> =
            inputs.iter().map(|(name, t)| format!("{name}{}", t.shape())).collect();
        shapes.sort();
        shapes.join(" ")
    }

    fn gpu(&self) -> Option<&(String, Arc<dyn Model>)> {
        let load = || {
            let device = (self.open)()?;
            let name = device.name().to_owned();
            let model = GpuExecutor::new(device).load(&self.onnx, &self.limits).ok()?;
            Some((name, model))
        };
        self.gpu.get_or_init(load).as_ref()
    }

    /// Take what was kept, or measure, on a thread of its own.
    fn measure_beside(self: &Arc<Self>, key: String, inputs: &[(String, Tensor)]) {
        {
            let mut choices = self.choices();
            if choices.len() >= MAX_SHAPES || choices.contains_key(&key) {
                return;
            }
            choices.insert(key.clone(), Choice::Measuring);
        }
        let (shared, inputs) = (Arc::clone(self), inputs.to_vec());
        let spawned = thread::Builder::new().name("headland-measure".to_owned()).spawn(move || {
            let Some((adapter, gpu)) = shared.gpu() else {
                shared.choices().insert(key, Choice::Cpu);
                return;
            };
            let kept_as = format!("{} on {adapter} for {key}", shared.model);
            let recalled = shared.memory.as_ref().and_then(|memory| memory.recall(&kept_as));
            let measured = recalled.unwrap_or_else(|| {
                let measured = shared.measure(&**gpu, &inputs);
                if let Some(memory) = &shared.memory {
                    memory.keep(&kept_as, measured);
                }
                measured
            });
            shared.choices().insert(key, Choice::Measured(measured));
        });
        // Without a thread the CPU goes on, which is never wrong.
        drop(spawned);
    }

    fn measure(&self, gpu: &dyn Model, inputs: &[(String, Tensor)]) -> Measurement {
        let cpu_us = median(&*self.cpu, inputs).unwrap_or(u64::MAX);
        let on_gpu = || {
            // The first run compiles shaders.
            let expected = self.cpu.run(inputs).ok()?;
            let given = gpu.run(inputs).ok()?;
            if agree(&expected, &given) { median(gpu, inputs) } else { None }
        };
        Measurement { cpu_us, gpu_us: on_gpu() }
    }
}

/// The median time of a few runs.
fn median(model: &dyn Model, inputs: &[(String, Tensor)]) -> Option<u64> {
    let mut times = Vec::with_capacity(TIMED_RUNS);
    for _ in 0..TIMED_RUNS {
        let start = Instant::now();
        model.run(inputs).ok()?;
        times.push(start.elapsed());
    }
    times.sort();
    times.get(TIMED_RUNS / 2).map(|t: &Duration| t.as_micros() as u64)
}

/// Whether two answers are the same within what two devices may differ by:
/// 1e-2 relative to the largest value.
fn agree(expected: &NamedTensors, given: &NamedTensors) -> bool {
    expected.iter().zip(given).all(|((_, e), (_, g))| {
        let (e, g) = (e.to_f64(), g.to_f64());
        let scale = e.iter().filter(|v| v.is_finite()).fold(1e-6f64, |m, v| m.max(v.abs()));
        e.len() == g.len()
            && e.iter()
                .zip(&g)
                .all(|(e, g)| e == g || (e.is_nan() && g.is_nan()) || (e - g).abs() <= 1e-2 * scale)
    })
}
