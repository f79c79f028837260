//! `headland devices`: what a model can run on here.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use headland_engine::Executors;
use headland_inference::{
    AutoExecutor, CpuExecutor, Executor, InferenceError, LoadLimits, Measurement, Memory, Model,
    gpu::{Device, GpuExecutor},
};

use crate::output::Output;

/// What runs a package's models here.
pub fn executors() -> Executors {
    Executors { cpu: Arc::new(CpuExecutor), gpu: Some(Arc::new(LazyGpu::default())), auto: auto() }
}

/// The executor that measures, and keeps what it measured in this user's cache.
pub fn auto() -> Arc<dyn Executor> {
    let auto = AutoExecutor::new(Device::open_hardware);
    match crate::host::user_cache() {
        Some(folder) => Arc::new(auto.with_memory(Arc::new(MeasurementsFile {
            path: folder.join("measurements.json"),
            lock: Mutex::new(()),
        }))),
        None => Arc::new(auto),
    }
}

/// The default adapter, opened when a model first asks for it.
#[derive(Default)]
struct LazyGpu(OnceLock<Result<GpuExecutor, InferenceError>>);

impl Executor for LazyGpu {
    fn name(&self) -> &'static str {
        "gpu"
    }

    fn load(&self, onnx: &[u8], limits: &LoadLimits) -> Result<Arc<dyn Model>, InferenceError> {
        match self.0.get_or_init(|| Device::open("default").map(GpuExecutor::new)) {
            Ok(gpu) => gpu.load(onnx, limits),
            Err(e) => Err(e.clone()),
        }
    }
}

/// Measurements in a file of JSON. It can be made again: what cannot be read or
/// written is measured anew.
struct MeasurementsFile {
    path: PathBuf,
    lock: Mutex<()>,
}

impl MeasurementsFile {
    fn read(&self) -> BTreeMap<String, Measurement> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }
}

impl Memory for MeasurementsFile {
    fn recall(&self, key: &str) -> Option<Measurement> {
        self.read().get(key).copied()
    }

    fn keep(&self, key: &str, measurement: Measurement) {
        let _one_at_a_time = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.read();
        all.insert(key.to_owned(), measurement);
        let write = || -> std::io::Result<()> {
            let folder = self.path.parent().unwrap_or(&self.path);
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer_pretty(&mut file, &all)?;
            file.persist(&self.path).map_err(|e| e.error)?;
            Ok(())
        };
        // Only the next process would have had it.
        drop(write());
    }
}

pub fn run(out: Output) -> anyhow::Result<ExitCode> {
    let adapters = Device::adapters();
    out.json(&serde_json::json!({ "adapters": adapters }))?;
    for a in &adapters {
        out.line(format!(
            "gpu:{}  {}, {}, {}; buffers up to {} MiB{}",
            a.selector,
            a.name,
            a.api,
            a.driver,
            a.max_buffer_bytes >> 20,
            if a.f16 { ", f16" } else { "" }
        ))?;
    }
    if adapters.is_empty() {
        out.line("no adapter: models run on the CPU. A GPU needs its Vulkan, Metal or DX12 driver; mesa-vulkan-drivers has one in software")?;
    }
    Ok(ExitCode::SUCCESS)
}
