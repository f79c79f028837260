//! `headland onnx run`: one run of a model, from files to files.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, bail};
use clap::Args;
use headland_inference::{Engine, LoadLimits};
use headland_tensor::{DType, NamedTensors};
use serde::Serialize;

use super::{On, inputs::parse_file, read_model};
use crate::{npy, output::Output};

/// Arguments of `onnx run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The ONNX file.
    model: PathBuf,
    /// An input's name in the model and its file; once for each input.
    #[arg(long = "input", value_name = "NAME=FILE.npy", value_parser = parse_file)]
    inputs: Vec<(String, PathBuf)>,
    /// Where to write one NAME.npy for each output; `/` in a name becomes `_`.
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    #[command(flatten)]
    on: On,
}

#[derive(Serialize)]
struct RunReport {
    device: &'static str,
    /// What ran it, in words.
    engine: Engine,
    load_ms: f64,
    /// The first run, planning for these shapes included.
    run_ms: f64,
    outputs: Vec<OutputReport>,
}

#[derive(Serialize)]
struct OutputReport {
    name: String,
    dtype: DType,
    shape: Vec<u32>,
    file: PathBuf,
}

pub fn run(args: &RunArgs, out: Output) -> anyhow::Result<ExitCode> {
    let executor = args.on.executor()?;
    let onnx = read_model(&args.model)?;
    let inputs: NamedTensors = args
        .inputs
        .iter()
        .map(|(name, file)| Ok((name.clone(), npy::read(file)?)))
        .collect::<anyhow::Result<_>>()?;
    let start = Instant::now();
    let model = executor
        .load(&onnx, &LoadLimits::default())
        .with_context(|| format!("loading {}", args.model.display()))?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    let outputs =
        model.run(&inputs).with_context(|| format!("running {}", args.model.display()))?;
    let run_ms = start.elapsed().as_secs_f64() * 1e3;

    let mut files: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for (name, _) in &outputs {
        let file = args.output_dir.join(format!("{}.npy", name.replace(['/', '\\'], "_")));
        if let Some(other) = files.insert(file.clone(), name) {
            bail!("outputs {other:?} and {name:?} would both be written to {}", file.display());
        }
    }
    fs::create_dir_all(&args.output_dir)
        .with_context(|| format!("creating {}", args.output_dir.display()))?;
    let mut reports = Vec::new();
    for (file, name) in &files {
        let Some((_, tensor)) = outputs.iter().find(|(n, _)| n == name) else { continue };
        npy::write(file, tensor)?;
        reports.push(OutputReport {
            name: (*name).to_owned(),
            dtype: tensor.dtype(),
            shape: tensor.shape().dims().to_vec(),
            file: file.clone(),
        });
    }
    let engine = model.engine();
    for report in &reports {
        let shape = headland_tensor::Shape::new(report.shape.clone())?;
        let file = report.file.display();
        out.line(format!("{} {} {shape} -> {file}", report.name, report.dtype))?;
    }
    out.line(format!("loaded in {load_ms:.1} ms, first run in {run_ms:.1} ms on {}", engine.name))?;
    let device = executor.name();
    out.json(&RunReport { device, engine, load_ms, run_ms, outputs: reports })?;
    Ok(ExitCode::SUCCESS)
}
