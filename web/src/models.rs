//! Where the models of a page run.

use std::{collections::BTreeMap, sync::Arc};

use headland_inference::{CpuExecutor, Executor, InferenceError, LoadLimits, Model};
use headland_pipeline::{Device, FailureKind, StageFailure};

use crate::gpu::{self, OnGpu};

/// Which models of a pipeline go to the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// None of them.
    Cpu,
    /// Those of stages that are pinned to it.
    Pinned,
    /// Those of stages that leave the device open, too.
    Gpu,
}

impl Placement {
    /// By the page's word for it.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "cpu" => Self::Cpu,
            "pinned" => Self::Pinned,
            "gpu" => Self::Gpu,
            _ => return None,
        })
    }

    fn takes(self, device: Device) -> bool {
        match device {
            Device::Cpu => false,
            Device::Auto => self == Self::Gpu,
            Device::Gpu => self != Self::Cpu,
        }
    }
}

/// The model of a stage, where it runs.
#[derive(Clone)]
pub enum StageModel {
    Cpu(Arc<dyn Model>),
    Gpu(OnGpu),
}

/// Why a stage has no model.
pub enum NoModel {
    /// There is no GPU here for a stage that is pinned to it.
    NoGpu,
    Refused(InferenceError),
}

/// A stage's model, and where it runs in words.
pub struct Placed {
    pub model: StageModel,
    pub on: String,
}

/// The models of one package, each loaded once on each side.
pub struct Models {
    placement: Placement,
    cpu: BTreeMap<String, Arc<dyn Model>>,
    gpu: BTreeMap<String, OnGpu>,
}

impl Models {
    pub fn new(placement: Placement) -> Self {
        Self { placement, cpu: BTreeMap::new(), gpu: BTreeMap::new() }
    }

    /// The model of a stage that runs it directly.
    ///
    /// One that the GPU does not run stays on the CPU and says so, but for a stage
    /// that is pinned.
    ///
    /// # Errors
    /// [`NoModel`].
    pub async fn stage(
        &mut self,
        name: &str,
        device: Device,
        onnx: &[u8],
    ) -> Result<Placed, NoModel> {
        if !self.placement.takes(device) {
            return match device {
                Device::Gpu => Err(NoModel::NoGpu),
                Device::Auto | Device::Cpu => self.on_cpu(name, onnx, ""),
            };
        }
        let adapter = gpu::name().ok_or(NoModel::NoGpu)?;
        match self.on_gpu(name, onnx).await {
            Ok(model) => {
                Ok(Placed { model: StageModel::Gpu(model), on: format!("gpu, {adapter}") })
            }
            Err(e @ InferenceError::Unsupported { .. }) if device == Device::Auto => {
                self.on_cpu(name, onnx, &format!(", as the GPU does not run it: {e}"))
            }
            Err(e) => Err(NoModel::Refused(e)),
        }
    }

    fn on_cpu(&mut self, name: &str, onnx: &[u8], why: &str) -> Result<Placed, NoModel> {
        let model = self.host(name, onnx).map_err(NoModel::Refused)?;
        let on = format!("{}{why}", model.engine().name);
        Ok(Placed { model: StageModel::Cpu(model), on })
    }

    async fn on_gpu(&mut self, name: &str, onnx: &[u8]) -> Result<OnGpu, InferenceError> {
        if let Some(model) = self.gpu.get(name) {
            return Ok(model.clone());
        }
        let model = OnGpu::load(onnx).await?;
        self.gpu.insert(name.to_owned(), model.clone());
        Ok(model)
    }

    /// A model in host memory; those that components are granted always are.
    ///
    /// # Errors
    /// What refuses the model.
    pub fn host(&mut self, name: &str, onnx: &[u8]) -> Result<Arc<dyn Model>, InferenceError> {
        if let Some(model) = self.cpu.get(name) {
            return Ok(Arc::clone(model));
        }
        let model = CpuExecutor.load(onnx, &LoadLimits::default())?;
        model.warm_up();
        self.cpu.insert(name.to_owned(), Arc::clone(&model));
        Ok(model)
    }
}

/// Why a run of a stage's model gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// It was not done in time.
    #[error("time limit: the run took longer than the {limit_ms} ms allowed")]
    Late { limit_ms: u64 },
}

impl RunError {
    /// Whether the GPU is lost, or out of memory.
    pub fn is_of_device(&self) -> bool {
        matches!(self, Self::Inference(InferenceError::Device { .. }))
    }
}

impl From<RunError> for StageFailure {
    fn from(e: RunError) -> Self {
        use InferenceError as E;
        let kind = match &e {
            RunError::Late { .. } => FailureKind::Timeout,
            RunError::Inference(
                E::MissingInput { .. }
                | E::UnknownInput { .. }
                | E::DuplicateInput { .. }
                | E::WrongDType { .. }
                | E::WrongShape { .. },
            ) => FailureKind::BadInput,
            RunError::Inference(E::OverLimit { .. }) => FailureKind::Limit,
            RunError::Inference(_) => FailureKind::Inference,
        };
        Self { kind, message: e.to_string() }
    }
}
