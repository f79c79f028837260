//! `headland plugin`: start and build components.

mod build;
mod new;

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use crate::output::Output;

/// `headland plugin ...`.
#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Start a component: a Rust project that builds, is signed and runs as it is
    New(new::New),
    /// Compile a Rust project, or wrap a core module, into a component
    Build(build::Build),
}

/// What a component can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Payloads to tensors
    Preprocess,
    /// Tensors to tensors, through a model
    Model,
    /// Tensors to a prediction
    Postprocess,
    /// Watches what a pipeline sees and says
    Monitor,
}

/// Run the command.
pub fn run(command: &Plugin, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        Plugin::New(c) => new::run(c, out),
        Plugin::Build(c) => build::run(c, out),
    }
}
