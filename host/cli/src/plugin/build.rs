//! `headland plugin build`: Rust project or core module to component.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, bail};
use clap::Args;
use headland_engine::describe_component;
use headland_package::HostPolicy;
use wasmparser::BinaryReader;
use wit_component::ComponentEncoder;

use crate::{
    host::{engine_of_user, engine_options},
    output::{self, Output, inline},
};

const TARGET: &str = "wasm32-unknown-unknown";

/// Compile a Rust project, or wrap a core module, into a component.
///
/// The result is instantiated once, alone and under limits, to check that it
/// implements a world of the contract and to say which.
#[derive(Debug, Args)]
pub struct Build {
    /// Folder of the Rust project
    #[arg(required_unless_present = "wasm", conflicts_with = "wasm", value_name = "DIR")]
    project: Option<PathBuf>,

    /// Wrap this core module instead of compiling a project
    #[arg(long, value_name = "FILE")]
    wasm: Option<PathBuf>,

    /// Where to write the component
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// Run the command.
pub fn run(command: &Build, out: Output) -> anyhow::Result<ExitCode> {
    let module = match (&command.wasm, &command.project) {
        (Some(file), _) => file.clone(),
        (None, Some(project)) => compile(project, out)?,
        (None, None) => bail!("give a project folder or --wasm FILE"),
    };
    let bytes = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let component = if wasmparser::Parser::is_component(&bytes) {
        bytes
    } else {
        wrap(&bytes).with_context(|| format!("{} makes no component", module.display()))?
    };
    let engine = engine_of_user(engine_options(&HostPolicy::default(), out), out)?;
    let wasi = imports_wasi(&component);
    let (world, description) = describe_component(&engine, &component, wasi)
        .with_context(|| format!("{} is no Headland component", module.display()))?;
    if let Some(folder) = command.output.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    write_atomically(&command.output, &component)?;
    let memory_bytes = initial_memory_bytes(&component);
    out.json(&serde_json::json!({
        "component": command.output,
        "world": world,
        "name": description.name,
        "version": description.version,
        "bytes": component.len(),
        "memory_bytes": memory_bytes,
        "wasi": wasi,
    }))?;
    out.line(format!(
        "{}: {} {}, a {world} component of {} that starts with {} of memory{}",
        inline(&command.output.display().to_string()),
        inline(&description.name),
        inline(&description.version),
        output::bytes(component.len() as u64),
        output::bytes(memory_bytes),
        if wasi { "; it imports WASI, so its stage needs `wasi = true`" } else { "" },
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Make a component of a core module that wit-bindgen's metadata is in.
fn wrap(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    without_names(&ComponentEncoder::default().validate(true).module(module)?.encode()?)
}

/// A component without the 2 kB that name what the encoder made, for whoever
/// prints a component as text.
fn without_names(component: &[u8]) -> anyhow::Result<Vec<u8>> {
    const HEADER_BYTES: usize = 8;
    let (header, sections) =
        component.split_at_checked(HEADER_BYTES).context("the component has no header")?;
    let mut kept = header.to_vec();
    let mut reader = BinaryReader::new(sections, 0);
    while !reader.eof() {
        let start = reader.current_position();
        let is_custom = reader.read_u8()? == 0;
        let mut section = reader.read_reader()?;
        if !(is_custom && section.read_string()? == "component-name") {
            kept.extend(&sections[start..reader.current_position()]);
        }
    }
    Ok(kept)
}

/// Whether a component imports from WASI.
fn imports_wasi(component: &[u8]) -> bool {
    use wasmparser::{Parser, Payload};
    Parser::new(0).parse_all(component).map_while(Result::ok).any(|payload| match payload {
        Payload::ComponentImportSection(imports) => {
            imports.into_iter().flatten().any(|i| i.name.name.starts_with("wasi:"))
        }
        _ => false,
    })
}

/// The linear memory that a component's modules have when they start, in
/// bytes: data, stack, and the first of the heap.
fn initial_memory_bytes(component: &[u8]) -> u64 {
    use wasmparser::{Parser, Payload};
    let sections = Parser::new(0).parse_all(component).map_while(Result::ok);
    let memories = sections.filter_map(|payload| match payload {
        Payload::MemorySection(memories) => Some(memories.into_iter().flatten()),
        _ => None,
    });
    memories.flatten().map(|m| m.initial.saturating_mul(u64::from(m.page_size()))).sum()
}

/// Compile the project and find its module.
fn compile(project: &Path, out: Output) -> anyhow::Result<PathBuf> {
    let manifest = project.join("Cargo.toml");
    if !manifest.is_file() {
        bail!("{} has no Cargo.toml; `headland plugin new` starts a project", project.display());
    }
    let spinner = out.spinner("compiling");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--profile",
            "plugin",
            "--target",
            TARGET,
            "--message-format",
            "json-render-diagnostics",
        ])
        // The project's own .cargo/config.toml is found from its folder.
        .current_dir(project)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo; install Rust from your distribution or rustup")?;
    spinner.finish_and_clear();
    if !built.status.success() {
        bail!(
            "cargo could not build {} (if the target is missing: rustup target add {TARGET})",
            project.display()
        );
    }
    let manifest = manifest.canonicalize().context("cannot resolve the project's folder")?;
    let messages = String::from_utf8_lossy(&built.stdout);
    let artifact = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let of_project =
            message.get("manifest_path")?.as_str().map(Path::new) == Some(manifest.as_path());
        let files = message.get("filenames")?.as_array()?;
        let wasm = files.iter().filter_map(|f| f.as_str()).find(|f| f.ends_with(".wasm"))?;
        of_project.then(|| PathBuf::from(wasm))
    });
    artifact.with_context(|| {
        format!("{} builds no .wasm; its [lib] needs crate-type = [\"cdylib\"]", project.display())
    })
}

/// Write under another name beside `path`, then rename.
fn write_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
        .with_context(|| format!("cannot write {}", path.display()))
}
