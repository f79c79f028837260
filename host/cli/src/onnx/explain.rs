//! `headland onnx explain`: where each node of a model runs, and why.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use headland_inference::{
    Dimension, LoadLimits, Model, ModelInfo,
    gpu::{GpuExecutor, Place, Placement, Transfers},
};
use headland_tensor::{NamedTensors, Shape, Tensor};
use serde::Serialize;

use super::{On, read_model};
use crate::output::Output;

/// Arguments of `onnx explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The ONNX file.
    model: PathBuf,
    #[command(flatten)]
    on: On,
}

#[derive(Serialize)]
struct Report {
    device: String,
    /// What ran it, in words.
    engine: String,
    /// Empty where one engine takes the whole model.
    nodes: Vec<Placement>,
    transfers: Option<Transfers>,
}

pub fn run(args: &ExplainArgs, out: Output) -> anyhow::Result<ExitCode> {
    let onnx = read_model(&args.model)?;
    let limits = LoadLimits::default();
    let loading = || format!("loading {}", args.model.display());
    let running = || format!("running {} on zeros", args.model.display());
    let on_device = !matches!(args.on.device.as_str(), "cpu" | "interpreter" | "auto");
    let report = if on_device {
        let device = args.on.open()?;
        let name = device.name().to_owned();
        let model = GpuExecutor::new(device).load_placed(&onnx, &limits).with_context(loading)?;
        model.run(&zeros(model.info())?).with_context(running)?;
        Report {
            device: name,
            engine: model.engine().name,
            nodes: model.placements(),
            transfers: Some(model.transfers()),
        }
    } else {
        let model = args.on.executor()?.load(&onnx, &limits).with_context(loading)?;
        model.run(&zeros(model.info())?).with_context(running)?;
        Report {
            device: args.on.device.clone(),
            engine: model.engine().name,
            nodes: Vec::new(),
            transfers: None,
        }
    };
    out.json(&report)?;
    let width = report.nodes.iter().map(|n| n.op.len()).max().unwrap_or(0);
    for node in &report.nodes {
        let place = match node.place {
            Place::Device => "device",
            Place::Shape => "shape ",
            Place::Host => "HOST  ",
        };
        let line = format!("{place} {:width$} {} {}", node.op, node.node, node.reason);
        out.line(line.trim_end())?;
    }
    out.line(&report.engine)?;
    if let Some(transfers) = report.transfers {
        out.line(format!(
            "copies: {} to the device, {} outputs back, {} back for nodes on the host",
            transfers.uploads, transfers.outputs, transfers.readbacks
        ))?;
    }
    let on_host = report.nodes.iter().any(|n| n.place == Place::Host);
    Ok(if args.on.strict && on_host { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Zeros for every input of a model, symbolic dimensions as 1.
fn zeros(info: &ModelInfo) -> anyhow::Result<NamedTensors> {
    info.inputs
        .iter()
        .map(|input| {
            let dims: Vec<u32> = input
                .shape
                .iter()
                .map(|d| match d {
                    Dimension::Fixed(size) => *size,
                    Dimension::Symbolic(_) => 1,
                })
                .collect();
            let shape = Shape::new(dims)?;
            let bytes = vec![0u8; shape.element_count() * input.dtype.size_bytes()];
            Ok((input.name.clone(), Tensor::new(input.dtype, shape, bytes)?))
        })
        .collect()
}
