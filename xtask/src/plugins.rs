//! `cargo xtask plugins`: every plugin crate as a component.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    process::{run, run_long, step},
    setup::{WASM_TARGET, ensure_linker, ensure_present},
    workspace::{Workspace, cargo},
};

/// Build the binary and all components.
pub fn main(workspace: &Workspace) -> Result<()> {
    build(workspace)?;
    for plugin in &workspace.plugins {
        let path = component(workspace, plugin);
        let len_bytes = fs::metadata(&path)?.len();
        let shown = path.strip_prefix(&workspace.root).unwrap_or(&path).display();
        println!("{:>8.1} KiB  {shown}", len_bytes as f64 / 1024.0);
    }
    Ok(())
}

/// Build the binary, then all components with it.
pub fn build(workspace: &Workspace) -> Result<()> {
    build_cli(workspace)?;
    build_components(workspace)
}

/// Build the `headland` binary.
pub fn build_cli(workspace: &Workspace) -> Result<()> {
    ensure_linker()?;
    let arguments: &[&str] = if workspace.with_tests {
        &["test", "--release", "--workspace", "--no-run", "--quiet"]
    } else {
        &["build", "--release", "--package", "headland-cli"]
    };
    step(
        "building the headland binary (from nothing: wasmtime, tract and burn take a while)",
        || run_long(Command::new(cargo()).args(arguments).current_dir(&workspace.root)),
    )
}

/// Build every plugin crate for the bare target, and make components of the
/// core modules.
fn build_components(workspace: &Workspace) -> Result<()> {
    ensure_present(workspace, &WASM_TARGET)?;
    let count = workspace.plugins.len();
    step(&format!("building {count} components"), || {
        let mut build = Command::new(cargo());
        build.args(["build", "--profile", "plugin", "--target", "wasm32-unknown-unknown"]);
        for plugin in &workspace.plugins {
            build.args(["--package", plugin]);
        }
        run_long(build.current_dir(&workspace.root))?;

        let components = workspace.components();
        fs::create_dir_all(&components)
            .with_context(|| format!("cannot make {}", components.display()))?;
        for plugin in &workspace.plugins {
            let core = workspace
                .target
                .join("wasm32-unknown-unknown/plugin")
                .join(plugin.replace('-', "_"))
                .with_extension("wasm");
            run(Command::new(workspace.headland())
                .args(["plugin", "build", "--wasm"])
                .arg(core)
                .arg("-o")
                .arg(component(workspace, plugin)))?;
        }
        Ok(())
    })
}

/// Where a plugin's component lies.
fn component(workspace: &Workspace, plugin: &str) -> PathBuf {
    workspace.components().join(plugin).with_extension("wasm")
}
