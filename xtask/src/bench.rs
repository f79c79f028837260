//! `cargo xtask bench`: the figures that the README quotes, and models beside
//! ONNX Runtime.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{
    examples::{EXAMPLES, Trust},
    plugins,
    process::{run, step},
    setup::{JUDGES, Presence, ensure_present, python},
    workspace::{Workspace, cargo},
};

/// Measure and print. Figures are of this machine, in this run: nothing is
/// held against a limit here.
pub fn main(workspace: &Workspace) -> Result<()> {
    plugins::build(workspace)?;
    let len_bytes = fs::metadata(workspace.headland())?.len();
    println!("headland binary: {:.1} MiB", len_bytes as f64 / f64::from(1 << 20));

    let folder = workspace.fresh_folder("bench")?;
    let trust = Trust::new(workspace, &folder)?;
    for example in &EXAMPLES {
        let package = example.package(workspace, &trust, &folder)?;
        let figures = step(&format!("measuring {}", example.name), || {
            run(&mut example.command(workspace, "bench", &trust, &package))
        })?;
        println!("\n== {}\n\n{figures}", example.name);
    }
    fs::remove_dir_all(&folder)?;
    if workspace.has_benches {
        let figures = step("cargo bench", || {
            run(Command::new(cargo())
                .args(["bench", "--workspace", "--bench", "*"])
                .current_dir(&workspace.root))
        })?;
        println!("{figures}");
    }
    Ok(())
}

/// The models that are measured: those from elsewhere, or the examples' own.
pub fn models(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut models = workspace.shared_models()?;
    if models.is_empty() {
        for example in &EXAMPLES {
            models.extend(example.models(workspace)?);
        }
    }
    Ok(models)
}

/// Measure models on every device beside ONNX Runtime: those in
/// `../shared/models`, or else the examples'.
pub fn inference(workspace: &Workspace) -> Result<()> {
    plugins::build_cli(workspace)?;
    if let Presence::Absent(reason) = ensure_present(workspace, &JUDGES)? {
        bail!("nothing to measure beside: {reason}");
    }
    let models = models(workspace)?;
    let folder = workspace.target.join("bench");
    let figures = step(&format!("measuring {} models (minutes)", models.len()), || {
        run(Command::new(python(workspace))
            .arg(workspace.root.join("host/inference/benches/ort_bench.py"))
            .arg(workspace.headland())
            .args(models)
            .arg("--out")
            .arg(&folder))
    })?;
    println!("{figures}");
    for file in ["inference.md", "inference.svg", "inference.json"] {
        println!("{}", folder.join(file).display());
    }
    Ok(())
}
