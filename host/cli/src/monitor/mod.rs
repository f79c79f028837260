//! `headland monitor`: references, recorded data, summaries of a fleet.

mod chart;
mod fit;
mod merge;
mod record;
mod replay;

use std::process::ExitCode;

use clap::Subcommand;

use crate::output::Output;

/// What can be done with monitors beside a running pipeline.
#[derive(Debug, Subcommand)]
pub enum MonitorCommand {
    /// Learn from good rows what good rows look like
    Fit(fit::Fit),
    /// Write the rows that a package's monitor sees
    Record(record::RecordRows),
    /// Run a package's monitors over recorded data, and draw what they saw
    Replay(replay::Replay),
    /// Merge summaries of many devices, and say what they mean together
    Merge(merge::Merge),
}

/// Run the command.
pub fn run(command: &MonitorCommand, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        MonitorCommand::Fit(c) => fit::run(c, out),
        MonitorCommand::Record(c) => record::run(c, out),
        MonitorCommand::Replay(c) => replay::run(c, out),
        MonitorCommand::Merge(c) => merge::run(c, out),
    }
}
