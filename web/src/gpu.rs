//! Models on WebGPU.

use std::{
    cell::OnceCell,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use headland_inference::{
    InferenceError, LoadLimits,
    gpu::{Device, GpuExecutor, GpuModel, Residents},
};
use headland_tensor::NamedTensors;
use wasm_bindgen_futures::JsFuture;

use crate::{
    component::host::Copies,
    facade::{device_lost, sleep},
    models::RunError,
};

thread_local! {
    /// The adapter and the page's name for it. Opened once: burn keeps it for as
    /// long as the worker lives.
    static OPENED: OnceCell<(Device, String)> = const { OnceCell::new() };
}

/// Open the browser's adapter, which the page calls by a name.
///
/// # Errors
/// [`InferenceError::Device`] where there is none, or it does not open.
pub async fn open(name: String) -> Result<(), InferenceError> {
    if self::name().is_some() {
        return Ok(());
    }
    let device = Device::open_async("default").await?;
    device.on_lost(|reason| device_lost(&reason));
    OPENED.with(|cell| drop(cell.set((device, name))));
    Ok(())
}

/// The adapter that models can be put on.
pub fn name() -> Option<String> {
    OPENED.with(|cell| cell.get().map(|(_, name)| name.clone()))
}

/// A model on the GPU.
#[derive(Clone)]
pub struct OnGpu(Arc<GpuModel>);

impl OnGpu {
    /// Load a model, and run it once so that its shaders are compiled.
    ///
    /// # Errors
    /// As [`GpuModel::warm_up_async`], and what refuses the model.
    pub async fn load(onnx: &[u8]) -> Result<Self, InferenceError> {
        let device = OPENED.with(|cell| cell.get().map(|(device, _)| device.clone()));
        let device = device
            .ok_or_else(|| InferenceError::Device { reason: "no adapter is open".to_owned() })?;
        let model = GpuExecutor::new(device).load_placed(onnx, &LoadLimits::default())?;
        match model.warm_up_async().await {
            Err(e @ (InferenceError::Unsupported { .. } | InferenceError::Device { .. })) => Err(e),
            // Zeros may be refused where something real is not.
            Ok(()) | Err(_) => Ok(Self(model)),
        }
    }

    /// Run it by itself.
    ///
    /// # Errors
    /// As [`GpuModel::run_async`].
    pub async fn run(&self, inputs: &NamedTensors) -> Result<NamedTensors, InferenceError> {
        self.0.run_async(inputs).await
    }

    /// What it takes and gives.
    pub fn info(&self) -> &headland_inference::ModelInfo {
        headland_inference::Model::info(&*self.0)
    }
}

/// What a pipeline has on the GPU between its stages.
#[derive(Default)]
pub struct GpuTensors {
    residents: Residents,
}

impl GpuTensors {
    /// Run a stage's model, for `time_ms` at most. Its outputs stay on the GPU
    /// with `keep`, and stand-ins are given for them.
    ///
    /// # Errors
    /// [`RunError`]; what the GPU was told to do goes on after a time-out.
    pub async fn run(
        &mut self,
        model: &OnGpu,
        inputs: &NamedTensors,
        keep: bool,
        time_ms: u64,
        copies: &mut Copies,
    ) -> Result<NamedTensors, RunError> {
        let limit = pin!(JsFuture::from(sleep(time_ms as f64)));
        let started = model.0.start(inputs, &self.residents)?;
        copies.into_models += inputs.iter().filter(|(_, t)| !self.residents.has(t)).count() as u64;
        let on_device = started.on_device() as u64;
        let late = || RunError::Late { limit_ms: time_ms };
        let (outputs, kept) = if keep {
            let before = self.residents.len();
            let outputs =
                within(limit, started.keep(&mut self.residents)).await.ok_or_else(late)??;
            (outputs, (self.residents.len() - before) as u64)
        } else {
            (within(limit, started.read()).await.ok_or_else(late)??, 0)
        };
        copies.out_of_models += outputs.len() as u64 - kept;
        copies.readbacks += on_device - kept;
        Ok(outputs)
    }

    /// The same tensors with stand-ins read back.
    ///
    /// # Errors
    /// [`InferenceError::Device`] where the adapter is lost.
    pub async fn read_back(
        &self,
        tensors: NamedTensors,
        copies: &mut Copies,
    ) -> Result<NamedTensors, InferenceError> {
        if self.residents.is_empty() {
            return Ok(tensors);
        }
        let mut read = NamedTensors::with_capacity(tensors.len());
        for (name, tensor) in tensors {
            let back = u64::from(self.residents.has(&tensor));
            (copies.out_of_models, copies.readbacks) =
                (copies.out_of_models + back, copies.readbacks + back);
            read.push((name, self.residents.read(&tensor).await?));
        }
        Ok(read)
    }

    /// No stage will take what is there any more.
    pub fn clear(&mut self) {
        self.residents.clear();
    }
}

/// What comes of `work`; none where `limit` comes first.
async fn within<T>(limit: impl Future, work: impl Future<Output = T>) -> Option<T> {
    let (mut limit, mut work) = (pin!(limit), pin!(work));
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(made) => Poll::Ready(Some(made)),
        Poll::Pending => limit.as_mut().poll(context).map(|_| None),
    })
    .await
}
