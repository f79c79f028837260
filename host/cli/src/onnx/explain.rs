//! `headland onnx explain`: where each node of a model runs, and why.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use headland_inference::{
    LoadLimits, Model,
    gpu::{GpuExecutor, Place, Placement, Transfers},
};
use serde::Serialize;

use super::{
    On,
    inputs::{Fill, Inputs},
    read_model,
};
use crate::output::Output;

/// Arguments of `onnx explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The ONNX file.
    model: PathBuf,
    #[command(flatten)]
    inputs: Inputs,
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
    let running = || format!("running {}", args.model.display());
    let on_device = !matches!(args.on.device.as_str(), "cpu" | "interpreter" | "auto");
    let report = if on_device {
        let device = args.on.open()?;
        let name = device.name().to_owned();
        let model = GpuExecutor::new(device).load_placed(&onnx, &limits).with_context(loading)?;
        model.run(&args.inputs.of(model.info(), &limits, Fill::Zeros)?).with_context(running)?;
        Report {
            device: name,
            engine: model.engine().name,
            nodes: model.placements(),
            transfers: Some(model.transfers()),
        }
    } else {
        let model = args.on.executor()?.load(&onnx, &limits).with_context(loading)?;
        model.run(&args.inputs.of(model.info(), &limits, Fill::Zeros)?).with_context(running)?;
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
