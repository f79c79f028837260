//! Runs folders in the layout of ONNX's backend tests, for work on operators:
//! `headland onnx test` without the rest of the binary.
//!
//!     cases [--device cpu|interpreter|burn-cpu|gpu] DIR [PART-OF-A-NAME...]

#![allow(clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

#[cfg(feature = "gpu")]
use headland_inference::gpu;
use headland_inference::{
    CpuExecutor, Executor, InterpretingExecutor, LoadLimits,
    case::{self, DataSet, Outcome, Tolerance},
};

fn main() -> std::io::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let device = match arguments.iter().position(|a| a == "--device") {
        Some(index) => arguments.drain(index..(index + 2).min(arguments.len())).nth(1),
        None => None,
    };
    let executor: Box<dyn Executor> = match device.as_deref() {
        None | Some("cpu") => Box::new(CpuExecutor),
        Some("interpreter") => Box::new(InterpretingExecutor),
        #[cfg(feature = "gpu")]
        Some("burn-cpu") => {
            Box::new(gpu::GpuExecutor::new(gpu::Device::burn_cpu().map_err(std::io::Error::other)?))
        }
        #[cfg(feature = "gpu")]
        Some("gpu") => Box::new(gpu::GpuExecutor::new(
            gpu::Device::open("default").map_err(std::io::Error::other)?,
        )),
        Some(other) => return Err(std::io::Error::other(format!("no device {other}"))),
    };
    let dir = PathBuf::from(arguments.first().map_or(".", String::as_str));
    let parts = arguments.get(1..).unwrap_or_default();
    let mut cases: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    cases.sort();
    let mut counts = BTreeMap::new();
    std::panic::set_hook(Box::new(|_| {}));
    for case in cases {
        let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !parts.is_empty() && !parts.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let onnx = fs::read(case.join("model.onnx"))?;
        let sets = data_sets(&case)?;
        let tolerance = Tolerance { rtol: 1e-3, atol: 1e-5 };
        let limits = LoadLimits::default();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            case::check(&*executor, &onnx, &sets, &limits, tolerance)
        }));
        let (word, reason) = match outcome {
            Ok(Outcome::Pass(engine)) => ("PASS", engine.map_or(String::new(), |e| e.name)),
            Ok(Outcome::Unsupported(reason)) => ("UNSUPPORTED", reason),
            Ok(Outcome::Fail(reason)) => ("FAIL", reason),
            Err(_) => ("PANIC", String::new()),
        };
        *counts.entry(word).or_insert(0) += 1;
        println!("{word} {name} {reason}");
    }
    println!("{counts:?}");
    Ok(())
}

fn data_sets(case: &Path) -> std::io::Result<Vec<DataSet>> {
    let mut sets = Vec::new();
    while let dir = case.join(format!("test_data_set_{}", sets.len()))
        && dir.is_dir()
    {
        sets.push(DataSet { inputs: files(&dir, "input")?, outputs: files(&dir, "output")? });
    }
    Ok(sets)
}

fn files(dir: &Path, kind: &str) -> std::io::Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    while let file = dir.join(format!("{kind}_{}.pb", files.len()))
        && file.is_file()
    {
        files.push(fs::read(file)?);
    }
    Ok(files)
}
