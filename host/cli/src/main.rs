//! The `headland` binary: one file per verb.

mod bench;
mod devices;
mod draw;
mod explain;
mod host;
mod keygen;
mod monitor;
mod npy;
mod onnx;
mod output;
mod package;
mod plugin;
mod records;
mod run;
mod source;
mod table;
mod trust;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use headland_inference::InferenceError;
use headland_package::{LayoutError, VerifyError};

use crate::output::{Output, inline};

/// Run machine learning at the edge from signed WebAssembly components.
///
/// A package holds components, models and the pipeline that wires them. It is
/// built from a folder, signed with an Ed25519 key, and runs wherever a trust
/// policy accepts its signatures.
#[derive(Debug, Parser)]
#[command(name = "headland", version, max_term_width = 100, propagate_version = true)]
#[command(
    after_help = "Exit status: 0 when the command did what it says, 1 when it failed or refused, \
                        2 when the command line is wrong."
)]
struct Cli {
    /// Speak JSON, one value a line, on standard output
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an Ed25519 key pair for signing packages
    Keygen(keygen::Keygen),
    /// Write or check a trust policy
    #[command(subcommand)]
    Trust(trust::Trust),
    /// Build, sign, verify and look into packages
    #[command(subcommand)]
    Package(package::PackageCommand),
    /// Verify a package and run its pipeline over files
    Run(run::Run),
    /// Say why a package's pipeline predicts what it predicts
    Explain(explain::Explain),
    /// Measure a package's pipeline: latency, copies, start-up
    Bench(bench::Bench),
    /// Learn references, replay recorded data, merge what a fleet saw
    #[command(subcommand)]
    Monitor(monitor::MonitorCommand),
    /// Start and build components
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Work with ONNX models directly
    #[command(subcommand)]
    Onnx(onnx::OnnxCommand),
    /// List the adapters of this machine that a model can run on
    Devices,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// Folder to write them to
        #[arg(long, value_name = "DIR")]
        out_dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Output::new(cli.json);
    let result = match cli.command {
        Command::Keygen(c) => keygen::run(&c, out),
        Command::Trust(c) => trust::run(&c, out),
        Command::Package(c) => package::run(&c, out),
        Command::Run(c) => run::run(&c, out),
        Command::Explain(c) => explain::run(&c, out),
        Command::Bench(c) => bench::run(&c, out),
        Command::Monitor(c) => monitor::run(&c, out),
        Command::Plugin(c) => plugin::run(&c, out),
        Command::Onnx(c) => onnx::run(c, out),
        Command::Devices => devices::run(out),
        Command::Completions { shell } => completions(shell, out),
        Command::Man { out_dir } => man(&out_dir, out),
    };
    match result {
        Ok(code) => code,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => report(&error, out),
    }
}

fn completions(shell: clap_complete::Shell, out: Output) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "headland", &mut script);
    let script = String::from_utf8(script).context("the script is not UTF-8")?;
    out.json(&serde_json::json!({"shell": shell.to_string(), "script": script}))?;
    out.line(script.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn man(out_dir: &Path, out: Output) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(out_dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), out_dir))
        .with_context(|| format!("cannot write manual pages to {}", out_dir.display()))?;
    out.json(&serde_json::json!({"manual_pages": out_dir}))?;
    out.line(format!("{}: the manual pages", inline(&out_dir.display().to_string())))?;
    Ok(ExitCode::SUCCESS)
}

/// Print the chain of an error once, and what to do about it.
fn report(error: &anyhow::Error, out: Output) -> ExitCode {
    let hint = hint(error);
    if out.is_json() {
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        let value = serde_json::json!({
            "kind": "error",
            "error": chain,
            "code": code(error),
            "hint": hint,
        });
        // If even this cannot be written, the exit status still says it.
        let _ = out.json(&value);
    } else {
        out.note(&format!("error: {error:#}"));
        if let Some(hint) = hint {
            out.note(&format!("hint: {hint}"));
        }
    }
    ExitCode::FAILURE
}

/// The stable code of the first error in the chain that has one.
fn code(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|e| {
        None.or_else(|| e.downcast_ref::<VerifyError>().map(VerifyError::code))
            .or_else(|| e.downcast_ref::<LayoutError>().map(LayoutError::code))
            .or_else(|| e.downcast_ref::<InferenceError>().map(InferenceError::code))
    })
}

/// What to do, from the first error in the chain that knows.
fn hint(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|e| {
        None.or_else(|| e.downcast_ref::<VerifyError>().map(VerifyError::hint))
            .or_else(|| e.downcast_ref::<LayoutError>().map(LayoutError::hint))
    })
}
