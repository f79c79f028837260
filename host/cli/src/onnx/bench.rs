//! `headland onnx bench`: how long models take, on one device.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use headland_inference::{Engine, Executor, LoadLimits};
use serde::Serialize;

use super::{
    On,
    inputs::{Fill, Inputs},
    read_model,
};
use crate::output::{Output, Samples, table};

/// Arguments of `onnx bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The ONNX files; inputs and sizes that are given hold for each.
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,
    /// Runs to measure.
    #[arg(long, default_value_t = 100, value_name = "N")]
    runs: u64,
    /// Runs before measuring, after the first.
    #[arg(long, default_value_t = 10, value_name = "N")]
    warmup: u64,
    /// Stop a model's runs after this time with those that there are, one at
    /// least.
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    seconds: f64,
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    on: On,
}

/// What one model took.
#[derive(Serialize)]
struct Measured {
    model: PathBuf,
    device: String,
    /// What ran it, in words.
    engine: Engine,
    load_ms: f64,
    /// The first run, planning for these shapes included.
    first_run_ms: f64,
    median_us: f64,
    p95_us: f64,
    min_us: f64,
    /// Runs that were measured.
    runs: u64,
}

pub fn run(args: &BenchArgs, out: Output) -> anyhow::Result<ExitCode> {
    ensure!(args.runs > 0, "--runs must be over 0");
    ensure!(
        args.seconds > 0.0 && args.seconds <= 86_400.0,
        "--seconds must be over 0 and at most a day"
    );
    let executor = args.on.executor()?;
    let mut all = Vec::with_capacity(args.models.len());
    for path in &args.models {
        let measured = measure(&*executor, path, args)
            .with_context(|| format!("measuring {}", path.display()))?;
        out.json(&measured)?;
        all.push(measured);
    }
    out.line(describe(&all))?;
    Ok(ExitCode::SUCCESS)
}

fn measure(executor: &dyn Executor, path: &Path, args: &BenchArgs) -> anyhow::Result<Measured> {
    let onnx = read_model(path)?;
    let limits = LoadLimits::default();
    let start = Instant::now();
    let model = executor.load(&onnx, &limits).context("loading")?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let inputs = args.inputs.of(model.info(), &limits, Fill::Drawn)?;
    let timed = || -> anyhow::Result<Duration> {
        let start = Instant::now();
        let outputs = model.run(&inputs);
        let took = start.elapsed();
        outputs.context("running")?;
        Ok(took)
    };
    let first_run_ms = timed()?.as_secs_f64() * 1e3;
    let limit = Duration::from_secs_f64(args.seconds);
    let begun = Instant::now();
    for _ in 0..args.warmup {
        // A slow model's few runs are better measured than warmed up with.
        if begun.elapsed() >= limit / 4 {
            break;
        }
        timed()?;
    }
    let (mut samples, mut min) = (Samples::default(), Duration::MAX);
    let begun = Instant::now();
    for run in 0..args.runs {
        if run > 0 && begun.elapsed() >= limit {
            break;
        }
        let took = timed()?;
        samples.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        min = min.min(took);
    }
    let percentiles = samples.percentiles();
    Ok(Measured {
        model: path.to_owned(),
        device: args.on.device.clone(),
        engine: model.engine(),
        load_ms,
        first_run_ms,
        median_us: percentiles.p50_ns as f64 / 1e3,
        p95_us: percentiles.p95_ns as f64 / 1e3,
        min_us: min.as_secs_f64() * 1e6,
        runs: percentiles.count,
    })
}

fn describe(all: &[Measured]) -> String {
    let heading = ["model", "load ms", "first ms", "median us", "p95 us", "min us", "runs", "by"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for m in all {
        let name = m.model.file_stem().unwrap_or(m.model.as_os_str());
        let mut row = vec![name.to_string_lossy().into_owned()];
        row.extend([m.load_ms, m.first_run_ms].map(|ms| format!("{ms:.1}")));
        row.extend([m.median_us, m.p95_us, m.min_us].map(|us| format!("{us:.1}")));
        row.push(m.runs.to_string());
        row.push(m.engine.name.clone());
        rows.push(row);
    }
    table(&rows)
}
