//! `cargo xtask plugins`: every plugin crate as a component.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    process::{run, run_long, step},
    setup::{WASM_TARGET, ensure_linker, ensure_present},
    tally::Tally,
    workspace::{Workspace, cargo},
};

/// What a monitor may take, so that a device for which inference leaves little
/// room can have several: bytes of the component, and of memory at its start.
const MONITOR_LEN_BYTES: u64 = 150_000;
const MONITOR_MEMORY_BYTES: u64 = 256 * 1024;

/// A component, as `headland plugin build` tells of it.
pub struct Component {
    path: PathBuf,
    world: String,
    len_bytes: u64,
    memory_bytes: u64,
}

impl Component {
    /// Its crate's name.
    pub fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The world that it implements.
    pub fn world(&self) -> &str {
        &self.world
    }

    /// Its length, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The memory that it has when it starts, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

/// Build the binary and all components.
pub fn main(workspace: &Workspace) -> Result<()> {
    println!("component   memory");
    for component in build(workspace)? {
        let shown = component.path.strip_prefix(&workspace.root).unwrap_or(&component.path);
        println!(
            "{:>5.1} KiB  {:>3} KiB  {:<11}  {}",
            component.len_bytes as f64 / 1024.0,
            component.memory_bytes / 1024,
            component.world,
            shown.display()
        );
    }
    Ok(())
}

/// Build the binary, then all components with it.
pub fn build(workspace: &Workspace) -> Result<Vec<Component>> {
    build_cli(workspace)?;
    build_components(workspace)
}

/// Whether the monitors among the components are small.
pub fn check_monitors(components: &[Component], tally: &mut Tally) {
    let limits =
        format!("{MONITOR_LEN_BYTES} bytes and {} KiB of memory", MONITOR_MEMORY_BYTES / 1024);
    tally.check(&format!("every monitor is of at most {limits}"), || {
        let monitors: Vec<_> = components.iter().filter(|c| c.world == "monitor").collect();
        ensure!(!monitors.is_empty(), "no component is a monitor");
        let too_large: Vec<String> = monitors
            .iter()
            .filter(|c| c.len_bytes > MONITOR_LEN_BYTES || c.memory_bytes > MONITOR_MEMORY_BYTES)
            .map(|c| {
                let (len, memory) = (c.len_bytes, c.memory_bytes / 1024);
                format!("{} is of {len} bytes and {memory} KiB", c.path.display())
            })
            .collect();
        ensure!(too_large.is_empty(), "{}", too_large.join("; "));
        Ok(())
    });
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
fn build_components(workspace: &Workspace) -> Result<Vec<Component>> {
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
        let wrap = |plugin: &String| {
            let core = workspace
                .target
                .join("wasm32-unknown-unknown/plugin")
                .join(plugin.replace('-', "_"))
                .with_extension("wasm");
            let path = components.join(plugin).with_extension("wasm");
            let said = run(Command::new(workspace.headland())
                .args(["plugin", "build", "--json", "--wasm"])
                .arg(core)
                .arg("-o")
                .arg(&path))?;
            let about: Value = serde_json::from_str(&said)?;
            let number = |key: &str| about[key].as_u64().with_context(|| format!("no {key}"));
            Ok(Component {
                path,
                world: about["world"].as_str().context("no world")?.to_owned(),
                len_bytes: number("bytes")?,
                memory_bytes: number("memory_bytes")?,
            })
        };
        workspace.plugins.iter().map(wrap).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_over_a_limit_fails_and_other_components_may_be_larger() {
        let component = |world: &str, len_bytes, memory_bytes| Component {
            path: "component.wasm".into(),
            world: world.to_owned(),
            len_bytes,
            memory_bytes,
        };
        let passes = |components: &[Component]| {
            let mut tally = Tally::default();
            check_monitors(components, &mut tally);
            tally.close().is_ok()
        };
        let small = || component("monitor", MONITOR_LEN_BYTES, MONITOR_MEMORY_BYTES);
        assert!(passes(&[small(), component("model", 1 << 20, 1 << 20)]));
        assert!(!passes(&[small(), component("monitor", MONITOR_LEN_BYTES + 1, 65_536)]));
        assert!(!passes(&[small(), component("monitor", 65_536, MONITOR_MEMORY_BYTES + 1)]));
        // A check of nothing would always pass.
        assert!(!passes(&[component("model", 65_536, 65_536)]));
    }
}
