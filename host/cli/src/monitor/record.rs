//! `headland monitor record`: the rows that a package's monitor sees.

use std::{fs, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use clap::Args;
use headland_pipeline::{Cell, Row};
use serde_json::{Map, Value, json};

use crate::{
    host::{HostOptions, open_verified, read_policy},
    output::Output,
    run::load,
    source::{self, SourceOptions},
};

/// Write the rows that a package's monitor sees.
///
/// The pipeline runs, the monitors do not: their references may still be
/// missing. What comes out is what `headland monitor fit` learns a reference
/// from, and what `headland monitor replay --rows` runs monitors over: JSON
/// Lines, numbers for numeric columns and text for categories.
#[derive(Debug, Args)]
pub struct RecordRows {
    /// The package: an OCI image layout, as a folder or a tar file
    package: PathBuf,

    #[command(flatten)]
    host: HostOptions,

    #[command(flatten)]
    source: SourceOptions,

    /// The monitor, where the package has several
    #[arg(long, value_name = "ID")]
    monitor: Option<String>,

    /// File to write, .jsonl
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// Run the command.
pub fn run(command: &RecordRows, out: Output) -> anyhow::Result<ExitCode> {
    let policy = read_policy(&command.host.policy)?;
    let verified = open_verified(&command.package, &policy)?;
    let frames = source::frames(&command.source)?;
    let engine = command.host.engine(policy.host(), out)?;
    let deployment = Arc::new(load(&engine, &verified, policy.host())?);
    let ids: Vec<&str> = deployment.monitors().collect();
    let monitor = one_monitor(&ids, command.monitor.as_deref())?;
    let mut runner = deployment.start_recording().context("the pipeline does not start")?;
    let bar = out.progress("frames", frames.len() as u64);
    let mut text = String::new();
    let mut rows = 0u64;
    for frame in frames {
        runner.run(frame.inputs, frame.media_type, 0);
        runner.settle();
        for (of, row) in runner.take_rows() {
            if of == monitor {
                text += &serde_json::to_string(&object(row, frame.label.as_deref()))?;
                text.push('\n');
                rows += 1;
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if rows == 0 {
        bail!("monitor {:?} saw nothing of these frames", ids[monitor]);
    }
    fs::write(&command.output, text)
        .with_context(|| format!("cannot write {}", command.output.display()))?;
    out.json(&json!({"monitor": ids[monitor], "rows": rows, "output": command.output}))?;
    out.line(format!("{rows} rows of monitor {} in {}", ids[monitor], command.output.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The index of the monitor that was asked for, or of the only one.
pub fn one_monitor(ids: &[&str], asked: Option<&str>) -> anyhow::Result<usize> {
    match (asked, ids) {
        (_, []) => bail!("the package has no monitor"),
        (None, [_]) => Ok(0),
        (None, _) => bail!("the package has several monitors, name one with --monitor: {ids:?}"),
        (Some(id), _) => ids
            .iter()
            .position(|i| *i == id)
            .with_context(|| format!("the package has no monitor {id:?}; it has {ids:?}")),
    }
}

fn object(row: Row, label: Option<&str>) -> Map<String, Value> {
    let label = label.map(|l| ("label".to_owned(), Value::from(l)));
    let cells = row.cells.into_iter().map(|(name, cell)| {
        let value = match cell {
            // JSON has no infinities, which a monitor is to see.
            Cell::Numeric(x) if x.is_infinite() => Value::from(f64::MAX.copysign(x)),
            Cell::Numeric(x) => Value::from(x),
            Cell::Categorical(text) => Value::from(text),
            Cell::Missing => Value::Null,
        };
        (name, value)
    });
    cells.chain(label).collect()
}
