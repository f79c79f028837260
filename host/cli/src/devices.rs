//! `headland devices`: what a model can run on here.

use std::process::ExitCode;

use headland_inference::gpu::Device;

use crate::output::Output;

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
