//! `headland onnx test`: folders in the layout of ONNX's backend tests.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Args;
use headland_inference::{
    Engine, Executor, LoadLimits,
    case::{self, DataSet, Outcome, Tolerance},
};
use serde::Serialize;

use super::{On, read_model};
use crate::output::Output;

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
    #[command(flatten)]
    on: On,
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
    /// What ran it; none where it did not run, or not all values are tensors of
    /// the contract.
    engine: Option<Engine>,
}

/// The name of the threads that run cases.
const CASE_THREAD: &str = "onnx-case";

pub fn run(args: &TestArgs, out: Output) -> anyhow::Result<ExitCode> {
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
    let executor = args.on.executor()?;
    for dir in cases {
        let case = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
        let executor = Arc::clone(&executor);
        let outcome = run_within(limit, move || run_case(&*executor, &dir, tolerance))?;
        let (verdict, reason, engine) = match outcome {
            Outcome::Pass(engine) => (Verdict::Pass, String::new(), engine),
            Outcome::Unsupported(reason) => (Verdict::Unsupported, reason, None),
            Outcome::Fail(reason) => (Verdict::Fail, reason, None),
        };
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        out.line(format!("{} {case} {reason}", verdict.word()).trim_end())?;
        reports.push(CaseReport { case, verdict, reason, engine });
    }
    let count = |verdict| reports.iter().filter(|r| r.verdict == verdict).count();
    let failed = count(Verdict::Fail) > 0;
    let counts = Verdict::ALL.map(|v| (v.word(), count(v)));
    let line = counts.map(|(word, count)| format!("{word} {count}"));
    out.line(format!("{} of {}", line.join(", "), reports.len()))?;
    let counts: BTreeMap<_, _> = counts.into();
    out.json(&serde_json::json!({ "cases": reports, "counts": counts }))?;
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
    case: impl FnOnce() -> Outcome + Send + 'static,
) -> anyhow::Result<Outcome> {
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
            Outcome::Fail(format!("timeout after {} s", limit.as_secs()))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Outcome::Fail("panic".to_owned()),
    })
}

fn run_case(executor: &dyn Executor, dir: &Path, tolerance: Tolerance) -> Outcome {
    let read = || -> anyhow::Result<_> {
        let sets = data_sets(dir)?;
        ensure!(!sets.is_empty(), "the case has no test_data_set_0");
        Ok((read_model(&dir.join("model.onnx"))?, sets))
    };
    match read() {
        Ok((onnx, sets)) => case::check(executor, &onnx, &sets, &LoadLimits::default(), tolerance),
        Err(e) => Outcome::Fail(format!("{e:#}")),
    }
}

fn data_sets(case: &Path) -> anyhow::Result<Vec<DataSet>> {
    let mut sets = Vec::new();
    while let dir = case.join(format!("test_data_set_{}", sets.len()))
        && dir.is_dir()
    {
        sets.push(DataSet { inputs: files(&dir, "input")?, outputs: files(&dir, "output")? });
    }
    Ok(sets)
}

/// A data set's inputs or outputs, which its files number in the model's order.
fn files(set: &Path, kind: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    while let file = set.join(format!("{kind}_{}.pb", files.len()))
        && file.is_file()
    {
        files.push(read_model(&file)?);
    }
    Ok(files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_hangs_or_panics_fails_by_name() {
        let hang = run_within(Duration::from_millis(20), || {
            thread::sleep(Duration::from_secs(3600));
            Outcome::Pass(None)
        });
        assert_eq!(hang.unwrap(), Outcome::Fail("timeout after 0 s".to_owned()));
        let panic = run_within(Duration::from_secs(60), || std::panic::resume_unwind(Box::new(1)));
        assert_eq!(panic.unwrap(), Outcome::Fail("panic".to_owned()));
    }
}
