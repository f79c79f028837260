//! `headland onnx`: run, test, measure and describe ONNX models without a package.

mod bench;
mod explain;
mod inputs;
mod inspect;
mod optimize;
mod run;
mod test;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use headland_inference::{
    CpuExecutor, Executor, InterpretingExecutor,
    gpu::{Device, GpuExecutor},
};

use crate::output::Output;

/// Run, test, measure and describe ONNX models.
#[derive(Debug, Subcommand)]
pub enum OnnxCommand {
    /// Run a model once on .npy inputs and write its outputs as .npy files.
    Run(run::RunArgs),
    /// Run folders in the layout of ONNX's backend tests and compare.
    ///
    /// Prints one line for each case, `PASS`, `FAIL` or `UNSUPPORTED` with the
    /// case's name and a reason, and a line of counts at the end. Exits 0
    /// unless a case fails.
    Test(test::TestArgs),
    /// Say for each node of a model where it runs, and why.
    ///
    /// The model is run once, on zeros for inputs that are not given, and what
    /// is printed is what happened: a branch that these inputs do not take is
    /// not in it.
    Explain(explain::ExplainArgs),
    /// Make a smaller or faster model: fold, fuse, float16, int8.
    ///
    /// What was done is in the new model's metadata, under
    /// `headland.optimize.`: the SHA-256 of the model that it was made from,
    /// the passes, and the accuracy where it was measured.
    Optimize(Box<optimize::OptimizeArgs>),
    /// Measure how long models take to load and to run.
    ///
    /// Each model is loaded once and run on the same inputs over and over, one
    /// run after the other. Inputs that are not given are drawn by a fixed
    /// seed: floats of 1 to 2 with either sign, integers of 0 and 1.
    Bench(bench::BenchArgs),
    /// Print a model's inputs, outputs, operator sets and operators.
    Inspect {
        /// The ONNX file.
        model: PathBuf,
    },
}

/// Carry out an `onnx` command.
///
/// # Errors
/// What stops the command as a whole; a failing case of `onnx test` does not.
pub fn run(command: OnnxCommand, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        OnnxCommand::Run(args) => run::run(&args, out),
        OnnxCommand::Test(args) => test::run(&args, out),
        OnnxCommand::Explain(args) => explain::run(&args, out),
        OnnxCommand::Optimize(args) => optimize::run(&args, out),
        OnnxCommand::Bench(args) => bench::run(&args, out),
        OnnxCommand::Inspect { model } => inspect::run(&model, out),
    }
}

/// What to run a model on.
#[derive(Debug, Clone, Args)]
struct On {
    /// What to run on: `auto` (the fastest, by measurement), `cpu`, `gpu`,
    /// `gpu:SELECTOR` with a selector that `headland devices` prints,
    /// `interpreter` (the yardstick for the others), or `burn-cpu` (the GPU's
    /// executor without a GPU).
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// Refuse a model with a node that the GPU does not run, instead of running
    /// that node on the host.
    #[arg(long)]
    strict: bool,
}

impl On {
    fn executor(&self) -> anyhow::Result<Arc<dyn Executor>> {
        let gpu = |device: Device| {
            if self.strict { GpuExecutor::strict(device) } else { GpuExecutor::new(device) }
        };
        Ok(match self.device.as_str() {
            "cpu" => Arc::new(CpuExecutor),
            "interpreter" => Arc::new(InterpretingExecutor),
            "auto" => crate::devices::auto(),
            _ => Arc::new(gpu(self.open()?)),
        })
    }

    /// The device that the GPU's executor runs on.
    fn open(&self) -> anyhow::Result<Device> {
        let device = match self.device.as_str() {
            "gpu" => Device::open("default"),
            "burn-cpu" => Device::burn_cpu(),
            other => match other.strip_prefix("gpu:") {
                Some(selector) => Device::open(selector),
                None => anyhow::bail!(
                    "no device {other:?}; devices are auto, cpu, gpu, gpu:SELECTOR, interpreter, \
                     burn-cpu"
                ),
            },
        };
        device.with_context(|| format!("opening device {:?}", self.device))
    }
}

fn read_model(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}
