//! In place of `gpu.rs` in the build for the CPU alone.

use headland_inference::{InferenceError, ModelInfo};
use headland_tensor::NamedTensors;

use crate::{component::host::Copies, models::RunError};

/// The adapter that models can be put on.
pub fn name() -> Option<String> {
    None
}

/// A model on the GPU: there are none.
#[derive(Clone)]
pub enum OnGpu {}

impl OnGpu {
    pub async fn load(_: &[u8]) -> Result<Self, InferenceError> {
        Err(InferenceError::Device { reason: "this build has no GPU tier".to_owned() })
    }

    pub async fn run(&self, _: &NamedTensors) -> Result<NamedTensors, InferenceError> {
        match *self {}
    }

    pub fn info(&self) -> &ModelInfo {
        match *self {}
    }
}

/// What a pipeline has on the GPU between its stages: nothing.
#[derive(Default)]
pub struct GpuTensors(());

impl GpuTensors {
    pub async fn run(
        &mut self,
        model: &OnGpu,
        _: &NamedTensors,
        _: bool,
        _: u64,
        _: &mut Copies,
    ) -> Result<NamedTensors, RunError> {
        match *model {}
    }

    pub async fn read_back(
        &self,
        tensors: NamedTensors,
        _: &mut Copies,
    ) -> Result<NamedTensors, InferenceError> {
        Ok(tensors)
    }

    pub fn clear(&mut self) {}
}
