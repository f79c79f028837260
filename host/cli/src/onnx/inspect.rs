//! `headland onnx inspect`: what a model takes, gives and is made of.

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use headland_inference::{LoadLimits, ModelInfo, TensorInfo};

use super::read_model;
use crate::output::Output;

pub fn run(path: &Path, out: Output) -> anyhow::Result<ExitCode> {
    let info = ModelInfo::from_onnx(&read_model(path)?, &LoadLimits::default())
        .with_context(|| format!("reading {}", path.display()))?;
    out.json(&info)?;
    let tensors = |title: &str, tensors: &[TensorInfo]| -> anyhow::Result<()> {
        out.line(title)?;
        for t in tensors {
            out.line(format!("  {} {} {}", t.name, t.dtype, t.shape_text()))?;
        }
        Ok(())
    };
    tensors("inputs", &info.inputs)?;
    tensors("outputs", &info.outputs)?;
    out.line("operator sets")?;
    for (domain, version) in &info.opsets {
        out.line(format!("  {domain} {version}"))?;
    }
    out.line("operators")?;
    let mut operators: Vec<_> = info.operators.iter().collect();
    operators.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    for (name, count) in operators {
        out.line(format!("  {count:>5} {name}"))?;
    }
    out.line(format!("parameters {} ({} bytes)", info.parameters, info.parameter_bytes))?;
    out.line(format!("written by {:?}, IR version {}", info.producer, info.ir_version))?;
    Ok(ExitCode::SUCCESS)
}
