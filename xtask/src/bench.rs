//! `cargo xtask bench`: the figures that the README quotes.

use std::{fs, process::Command};

use anyhow::Result;

use crate::{
    examples::{EXAMPLES, Trust},
    plugins,
    process::{run, step},
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
