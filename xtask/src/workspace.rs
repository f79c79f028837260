//! Where things are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The checkout, and what cargo says of it.
#[derive(Clone)]
pub struct Workspace {
    /// The checkout's root, absolute.
    pub root: PathBuf,
    /// Where cargo puts what it builds, whichever way it was told.
    pub target: PathBuf,
    /// Crates in `plugins/` that build to a component, by name, sorted.
    pub plugins: Vec<String>,
    /// Whether any crate has benchmarks of its own.
    pub has_benches: bool,
    /// Whether the workspace's tests are built, too: the binary then comes from
    /// the same build, so that wasmtime, tract and burn are compiled once.
    pub with_tests: bool,
}

impl Workspace {
    /// The same, for verbs that run the workspace's tests.
    pub fn for_tests(&self) -> Self {
        Self { with_tests: true, ..self.clone() }
    }

    /// Ask cargo.
    pub fn find() -> Result<Self> {
        // As cargo says it now: checkouts that share a target directory share
        // this binary, too.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").context("run as `cargo xtask`")?;
        let root =
            Path::new(&manifest).parent().context("xtask lies in the checkout's root")?.to_owned();
        let output = Command::new(cargo())
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(&root)
            .output()
            .context("cannot start cargo")?;
        ensure!(
            output.status.success(),
            "cargo metadata failed\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let target = metadata["target_directory"].as_str().context("no target_directory")?;
        let has_target = |package: &Value, key: &str, wanted: &str| {
            array(&package["targets"]).iter().any(|t| array(&t[key]).iter().any(|k| k == wanted))
        };
        let packages = array(&metadata["packages"]);
        let mut plugins: Vec<String> = packages
            .iter()
            .filter(|package| has_target(package, "crate_types", "cdylib"))
            .filter(|package| {
                let manifest = package["manifest_path"].as_str().unwrap_or_default();
                Path::new(manifest).starts_with(root.join("plugins"))
            })
            .filter_map(|package| package["name"].as_str())
            .map(str::to_owned)
            .collect();
        plugins.sort();
        let has_benches = packages.iter().any(|package| has_target(package, "kind", "bench"));
        Ok(Self { target: target.into(), plugins, has_benches, root, with_tests: false })
    }

    /// Components that [`crate::plugins`] makes; not part of a commit.
    pub fn components(&self) -> PathBuf {
        self.root.join("dist/components")
    }

    /// The `headland` binary that [`crate::plugins::build_cli`] makes.
    pub fn headland(&self) -> PathBuf {
        self.target.join("release").join(format!("headland{}", env::consts::EXE_SUFFIX))
    }

    /// Models from elsewhere, for tests and measurements, sorted; none where
    /// `../shared/models` is not beside the checkout.
    pub fn shared_models(&self) -> Result<Vec<PathBuf>> {
        let folder = self.root.join("../shared/models");
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let models = onnx_files(&folder)?;
        ensure!(!models.is_empty(), "no model in {}", folder.display());
        Ok(models)
    }

    /// An empty folder of this name for what one run leaves behind.
    pub fn fresh_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.target.join("xtask").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot clear {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// Where prerequisites are kept between checkouts: `HEADLAND_CACHE`, or
    /// `~/.cache/headland`.
    pub fn cache(&self) -> PathBuf {
        env::var_os("HEADLAND_CACHE")
            .map(PathBuf::from)
            .or_else(|| Some(env::home_dir()?.join(".cache/headland")))
            .unwrap_or_else(|| self.target.join("headland-cache"))
    }
}

/// The ONNX files in a folder, sorted.
pub fn onnx_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect()
    };
    let mut files = read().with_context(|| format!("cannot read {}", folder.display()))?;
    files.retain(|path| path.extension().is_some_and(|e| e == "onnx"));
    files.sort();
    Ok(files)
}

/// The cargo that started this process.
pub fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Whether a missing prerequisite fails the run instead of skipping a check.
pub fn in_ci() -> bool {
    env::var("CI").is_ok_and(|v| v == "true" || v == "1")
}

/// The elements of a JSON array; none for anything else.
pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
