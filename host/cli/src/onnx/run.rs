//! `headland onnx run`: one run of a model, from files to files.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode, sync::Arc, time::Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use headland_inference::{Engine, LoadLimits, Model, Session, StateBinding};
use headland_tensor::{DType, NamedTensors, Shape, Tensor};
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
    /// Run once for each element of this input's first axis, which the model does
    /// not have, and write the outputs along a new first axis; once for each such
    /// input.
    #[arg(long, value_name = "INPUT")]
    each: Vec<String>,
    /// Feed an output back to an input at the next of these runs; the input's
    /// file is what it is at the first.
    #[arg(long, value_name = "INPUT=OUTPUT", value_parser = parse_state, requires = "each")]
    state: Vec<(String, String)>,
    #[command(flatten)]
    on: On,
}

fn parse_state(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((input, output)) if !input.is_empty() && !output.is_empty() => {
            Ok((input.to_owned(), output.to_owned()))
        }
        _ => Err("expected INPUT=OUTPUT".to_owned()),
    }
}

/// One run for each element of the first axis of the inputs in `--each`, in a
/// session that feeds back what `--state` says.
fn run_each(
    model: Arc<dyn Model>,
    inputs: NamedTensors,
    args: &RunArgs,
) -> anyhow::Result<NamedTensors> {
    let unknown = args.each.iter().chain(args.state.iter().map(|(input, _)| input));
    for name in unknown {
        ensure!(inputs.iter().any(|(n, _)| n == name), "--input {name}=FILE.npy is missing");
    }
    let (bound, fed): (NamedTensors, NamedTensors) =
        inputs.into_iter().partition(|(name, _)| args.state.iter().any(|(input, _)| input == name));
    let bindings = bound.into_iter().filter_map(|(input, initial)| {
        let output = args.state.iter().find(|(i, _)| *i == input)?.1.clone();
        Some(StateBinding { input, output, initial })
    });
    let mut session = Session::new(model, bindings.collect())?;
    let mut count = None;
    for (name, tensor) in fed.iter().filter(|(name, _)| args.each.contains(name)) {
        let first = tensor.shape().dims().first().copied();
        let first = first.with_context(|| format!("input {name:?} has no axis to go along"))?;
        ensure!(
            *count.get_or_insert(first) == first,
            "the inputs of --each have first axes of different sizes"
        );
    }
    let count = count.unwrap_or(0);
    ensure!(count > 0, "the inputs of --each have no elements");
    let mut stacks: Vec<(String, Tensor, Vec<u8>)> = Vec::new();
    for step in 0..count {
        let now: NamedTensors = fed
            .iter()
            .map(|(name, tensor)| {
                let part =
                    if args.each.contains(name) { element(tensor, step)? } else { tensor.clone() };
                Ok((name.clone(), part))
            })
            .collect::<anyhow::Result<_>>()?;
        let made = session.run(&now).with_context(|| format!("in run {step}"))?;
        for (index, (name, tensor)) in made.into_iter().enumerate() {
            match stacks.get_mut(index) {
                Some((_, first, bytes)) => {
                    ensure!(
                        first.shape() == tensor.shape(),
                        "output {name:?} is {} in run {step}, {} before",
                        tensor.shape(),
                        first.shape()
                    );
                    bytes.extend_from_slice(tensor.bytes());
                }
                None => stacks.push((name, tensor.clone(), tensor.bytes().to_vec())),
            }
        }
    }
    stacks
        .into_iter()
        .map(|(name, first, bytes)| {
            let mut dims = vec![count];
            dims.extend_from_slice(first.shape().dims());
            Ok((name, Tensor::new(first.dtype(), Shape::new(dims)?, bytes)?))
        })
        .collect()
}

/// An element of a tensor's first axis.
fn element(tensor: &Tensor, index: u32) -> anyhow::Result<Tensor> {
    let dims = tensor.shape().dims().get(1..).unwrap_or_default().to_vec();
    let shape = Shape::new(dims)?;
    let len = shape.element_count() * tensor.dtype().size_bytes();
    let bytes = tensor.byte_range(u64::from(index) * len as u64, len as u64)?;
    Ok(Tensor::new(tensor.dtype(), shape, bytes)?)
}

#[derive(Serialize)]
struct RunReport {
    device: &'static str,
    /// What ran it, in words.
    engine: Engine,
    load_ms: f64,
    /// The first run, planning for these shapes included; with `--each`, all.
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
    let outputs = if args.each.is_empty() {
        model.run(&inputs).map_err(anyhow::Error::from)
    } else {
        run_each(Arc::clone(&model), inputs, args)
    };
    let outputs = outputs.with_context(|| format!("running {}", args.model.display()))?;
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
