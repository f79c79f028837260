//! `headland onnx`: run, test and describe ONNX models without a package.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use headland_inference::{
    CpuExecutor, Executor, InferenceError, LoadLimits, Model, ModelInfo, TensorInfo,
    tensor_from_onnx,
};
use headland_tensor::{DType, NamedTensors, Tensor};
use serde::Serialize;

use crate::npy;

/// Run, test and describe ONNX models.
#[derive(Debug, Subcommand)]
pub enum OnnxCommand {
    /// Run a model once on .npy inputs and write its outputs as .npy files.
    Run(RunArgs),
    /// Run folders in the layout of ONNX's backend tests and compare.
    ///
    /// Prints one line for each case, `PASS`, `FAIL` or `UNSUPPORTED` with the
    /// case's name and a reason, and a line of counts at the end. Exits 0
    /// unless a case fails.
    Test(TestArgs),
    /// Print a model's inputs, outputs, operator sets and operators.
    Inspect {
        /// The ONNX file.
        model: PathBuf,
    },
}

/// Arguments of `onnx run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The ONNX file.
    model: PathBuf,
    /// An input's name in the model and its file; once for each input.
    #[arg(long = "input", value_name = "NAME=FILE.npy", value_parser = parse_input)]
    inputs: Vec<(String, PathBuf)>,
    /// Where to write one NAME.npy for each output; `/` in a name becomes `_`.
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// What to run on.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
}

/// What to run a model on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The fastest device that runs the model.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU.
    Gpu,
}

/// Arguments of `onnx test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// A case, or a folder of cases. A case holds model.onnx and
    /// test_data_set_N/input_M.pb and output_M.pb.
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Allowed difference, relative to the expected value.
    #[arg(long, default_value_t = 1e-3)]
    rtol: f64,
    /// Allowed difference, absolute.
    #[arg(long, default_value_t = 1e-5)]
    atol: f64,
    /// How long one case may take, in seconds.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    timeout_s: u64,
}

/// Carry out an `onnx` command.
///
/// # Errors
/// What stops the command as a whole; a failing case of `onnx test` does not.
pub fn run(command: OnnxCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        OnnxCommand::Run(args) => run_model(&args, json),
        OnnxCommand::Test(args) => test(&args, json),
        OnnxCommand::Inspect { model } => inspect(&model, json),
    }
}

fn parse_input(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(file)))
        }
        _ => Err("expected NAME=FILE.npy".to_owned()),
    }
}

fn executor(device: Device) -> anyhow::Result<&'static dyn Executor> {
    match device {
        Device::Auto | Device::Cpu => Ok(&CpuExecutor),
        Device::Gpu => bail!("no GPU executor in this build; use --device cpu"),
    }
}

fn read_model(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

#[derive(Serialize)]
struct RunReport {
    device: &'static str,
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

fn run_model(args: &RunArgs, json: bool) -> anyhow::Result<ExitCode> {
    let executor = executor(args.device)?;
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
    let mut out = std::io::stdout().lock();
    if json {
        let report = RunReport { device: executor.name(), load_ms, run_ms, outputs: reports };
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        for report in reports {
            let shape = headland_tensor::Shape::new(report.shape)?;
            writeln!(out, "{} {} {shape} -> {}", report.name, report.dtype, report.file.display())?;
        }
        writeln!(
            out,
            "loaded in {load_ms:.1} ms, first run in {run_ms:.1} ms on {}",
            executor.name()
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let info = ModelInfo::from_onnx(&read_model(path)?, &LoadLimits::default())
        .with_context(|| format!("reading {}", path.display()))?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&info)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut tensors = |title: &str, tensors: &[TensorInfo]| -> std::io::Result<()> {
        writeln!(out, "{title}")?;
        for t in tensors {
            writeln!(out, "  {} {} {}", t.name, t.dtype, t.shape_text())?;
        }
        Ok(())
    };
    tensors("inputs", &info.inputs)?;
    tensors("outputs", &info.outputs)?;
    writeln!(out, "operator sets")?;
    for (domain, version) in &info.opsets {
        writeln!(out, "  {domain} {version}")?;
    }
    writeln!(out, "operators")?;
    let mut operators: Vec<_> = info.operators.iter().collect();
    operators.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    for (name, count) in operators {
        writeln!(out, "  {count:>5} {name}")?;
    }
    writeln!(out, "parameters {} ({} bytes)", info.parameters, info.parameter_bytes)?;
    writeln!(out, "written by {:?}, IR version {}", info.producer, info.ir_version)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verdict {
    Pass,
    Fail,
    Unsupported,
}

impl Verdict {
    const ALL: [Self; 3] = [Self::Pass, Self::Fail, Self::Unsupported];

    const fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

#[derive(Serialize)]
struct CaseReport {
    case: String,
    verdict: Verdict,
    reason: String,
}

/// How close floats must be: `|actual - expected| <= atol + rtol * |expected|`.
#[derive(Debug, Clone, Copy)]
struct Tolerance {
    rtol: f64,
    atol: f64,
}

/// The name of the threads that run cases.
const CASE_THREAD: &str = "onnx-case";

fn test(args: &TestArgs, json: bool) -> anyhow::Result<ExitCode> {
    let mut cases = Vec::new();
    for dir in &args.dirs {
        cases.extend(find_cases(dir)?);
    }
    // A panic in a case is reported on the case's line, not in between.
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if thread::current().name() != Some(CASE_THREAD) {
            default_hook(info);
        }
    }));
    let tolerance = Tolerance { rtol: args.rtol, atol: args.atol };
    let limit = Duration::from_secs(args.timeout_s);
    let mut reports = Vec::new();
    let mut out = std::io::stdout().lock();
    for dir in cases {
        let case = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
        let (verdict, reason) = run_within(limit, move || run_case(&dir, tolerance))?;
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        if !json {
            writeln!(out, "{}", format!("{} {case} {reason}", verdict.word()).trim_end())?;
        }
        reports.push(CaseReport { case, verdict, reason });
    }
    let count = |verdict| reports.iter().filter(|r| r.verdict == verdict).count();
    let failed = count(Verdict::Fail) > 0;
    if json {
        let counts: BTreeMap<_, _> = Verdict::ALL.map(|v| (v.word(), count(v))).into();
        let report = serde_json::json!({ "cases": reports, "counts": counts });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        let counts = Verdict::ALL.map(|v| format!("{} {}", v.word(), count(v)));
        writeln!(out, "{} of {}", counts.join(", "), reports.len())?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The case that `dir` is, or the cases in it, sorted.
fn find_cases(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if dir.join("model.onnx").is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let mut cases = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
        if path.join("model.onnx").is_file() {
            cases.push(path);
        }
    }
    ensure!(!cases.is_empty(), "{} holds no case with a model.onnx", dir.display());
    cases.sort();
    Ok(cases)
}

/// Run a case on a thread of its own. One that outlasts the limit is left
/// behind until the process ends.
fn run_within(
    limit: Duration,
    case: impl FnOnce() -> (Verdict, String) + Send + 'static,
) -> anyhow::Result<(Verdict, String)> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name(CASE_THREAD.to_owned())
        .spawn(move || {
            // Nobody listens any more when the limit has passed.
            let _ = sender.send(case());
        })
        .context("starting a thread for a case")?;
    Ok(match receiver.recv_timeout(limit) {
        Ok(outcome) => outcome,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            (Verdict::Fail, format!("timeout after {} s", limit.as_secs()))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => (Verdict::Fail, "panic".to_owned()),
    })
}

fn run_case(dir: &Path, tolerance: Tolerance) -> (Verdict, String) {
    match check_case(dir, tolerance) {
        Ok(()) => (Verdict::Pass, String::new()),
        Err(e) => match e.downcast_ref::<InferenceError>() {
            Some(InferenceError::Unsupported { .. }) => (Verdict::Unsupported, format!("{e:#}")),
            _ => (Verdict::Fail, format!("{e:#}")),
        },
    }
}

fn check_case(dir: &Path, tolerance: Tolerance) -> anyhow::Result<()> {
    let model = CpuExecutor.load(&read_model(&dir.join("model.onnx"))?, &LoadLimits::default())?;
    let mut sets = 0;
    while dir.join(format!("test_data_set_{sets}")).is_dir() {
        check_set(&model, &dir.join(format!("test_data_set_{sets}")), tolerance)?;
        sets += 1;
    }
    ensure!(sets > 0, "the case has no test_data_set_0");
    Ok(())
}

fn check_set(model: &Arc<dyn Model>, set: &Path, tolerance: Tolerance) -> anyhow::Result<()> {
    let info = model.info();
    let inputs = read_tensors(set, "input", &info.inputs)?;
    let expected = read_tensors(set, "output", &info.outputs)?;
    let actual = model.run(&inputs)?;
    for ((name, actual), (_, expected)) in actual.iter().zip(&expected) {
        compare(actual, expected, tolerance).with_context(|| format!("output {name:?}"))?;
    }
    Ok(())
}

/// A data set's inputs or outputs, which its files number in the model's order.
fn read_tensors(set: &Path, kind: &str, infos: &[TensorInfo]) -> anyhow::Result<NamedTensors> {
    let mut tensors = Vec::new();
    for (index, info) in infos.iter().enumerate() {
        let bytes = read_model(&set.join(format!("{kind}_{index}.pb")))?;
        tensors.push((info.name.clone(), tensor_from_onnx(&bytes)?.1));
    }
    Ok(tensors)
}

/// As `numpy.testing.assert_allclose`: NaN equals NaN, infinities equal those
/// of their sign. Integers and bools must be the same.
fn compare(actual: &Tensor, expected: &Tensor, tolerance: Tolerance) -> anyhow::Result<()> {
    let (actual_dtype, expected_dtype) = (actual.dtype(), expected.dtype());
    ensure!(actual_dtype == expected_dtype, "is {actual_dtype}, expected {expected_dtype}");
    let (actual_shape, expected_shape) = (actual.shape(), expected.shape());
    ensure!(actual_shape == expected_shape, "has shape {actual_shape}, expected {expected_shape}");
    let float = matches!(expected.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64);
    if !float {
        let size = expected.dtype().size_bytes();
        let pairs = actual.bytes().chunks_exact(size).zip(expected.bytes().chunks_exact(size));
        let wrong = pairs.filter(|(a, e)| a != e).count();
        ensure!(wrong == 0, "{wrong} of {} elements differ", expected_shape.element_count());
        return Ok(());
    }
    let (actual, expected) = (actual.to_f64(), expected.to_f64());
    let close = |a: f64, e: f64| {
        a == e
            || (a.is_nan() && e.is_nan())
            || (e.is_finite() && (a - e).abs() <= tolerance.atol + tolerance.rtol * e.abs())
    };
    let wrong = actual.iter().zip(&expected).enumerate().filter(|(_, (a, e))| !close(**a, **e));
    let (mut count, mut first) = (0, None);
    for (index, (a, e)) in wrong {
        count += 1;
        first.get_or_insert((index, *a, *e));
    }
    if let Some((index, a, e)) = first {
        let total = expected.len();
        bail!("{count} of {total} elements differ, first at {index}: {a} is not {e}");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NUMPY: Tolerance = Tolerance { rtol: 1e-3, atol: 1e-5 };

    fn differs(actual: &[f32], expected: &[f32]) -> bool {
        let tensor = |v: &[f32]| Tensor::from_elements(&[v.len() as u32], v).unwrap();
        compare(&tensor(actual), &tensor(expected), NUMPY).is_err()
    }

    #[test]
    fn floats_compare_as_numpy_does() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert!(!differs(&[1.0009, 0.000_009], &[1.0, 0.0]));
        assert!(differs(&[1.002], &[1.0]));
        assert!(differs(&[0.000_02], &[0.0]));
        assert!(!differs(&[nan, inf, -inf], &[nan, inf, -inf]));
        assert!(differs(&[nan], &[0.0]));
        assert!(differs(&[0.0], &[nan]));
        assert!(differs(&[inf], &[-inf]));
        assert!(differs(&[f32::MAX], &[inf]));
        assert!(differs(&[inf], &[f32::MAX]));
    }

    #[test]
    fn dtype_shape_and_integers_must_be_the_same() {
        let i = |v: &[i32], shape: &[u32]| Tensor::from_elements(shape, v).unwrap();
        assert!(compare(&i(&[1, 2], &[2]), &i(&[1, 2], &[2]), NUMPY).is_ok());
        assert!(compare(&i(&[1000, 2], &[2]), &i(&[1001, 2], &[2]), NUMPY).is_err());
        assert!(compare(&i(&[1, 2], &[2]), &i(&[1, 2], &[1, 2]), NUMPY).is_err());
        let f = Tensor::from_elements::<f32>(&[1], &[1.0]).unwrap();
        let d = Tensor::from_elements::<f64>(&[1], &[1.0]).unwrap();
        assert!(compare(&f, &d, NUMPY).is_err());
    }

    #[test]
    fn a_case_that_hangs_or_panics_fails_by_name() {
        let hang = run_within(Duration::from_millis(20), || {
            thread::sleep(Duration::from_secs(3600));
            (Verdict::Pass, String::new())
        });
        assert_eq!(hang.unwrap(), (Verdict::Fail, "timeout after 0 s".to_owned()));
        let panic = run_within(Duration::from_secs(60), || std::panic::resume_unwind(Box::new(1)));
        assert_eq!(panic.unwrap(), (Verdict::Fail, "panic".to_owned()));
    }
}
