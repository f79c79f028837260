//! `headland monitor fit`: learn a reference from good rows.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use headland_monitor::{Digest, EmbeddingOptions, FitOptions, fit};
use serde_json::json;

use crate::{
    output::{Output, inline},
    table,
};

/// Learn from good rows what good rows look like.
///
/// The rows are those that the monitor will see: a table of its columns, as
/// `headland monitor record` writes it, or recorded sensor data. What comes
/// out is JSON that the package ships as the monitor's reference, to be read
/// and, where somebody knows better limits, edited.
#[derive(Debug, Args)]
pub struct Fit {
    /// Rows: a .csv, .jsonl, .parquet or .npy file
    data: PathBuf,

    /// File to write the reference to
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// Columns to learn [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    columns: Vec<String>,

    /// Columns that hold categories although they look like numbers
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    categorical: Vec<String>,

    /// Columns of one vector, by the prefix of their names: watched together
    #[arg(long, value_name = "PREFIX")]
    embedding: Vec<String>,

    /// Categorical column whose values are groups, watched on their own as well
    #[arg(long, value_name = "COLUMN")]
    by: Option<String>,

    /// The rows are not in the order of their capture: learn nothing from rows
    /// that repeat the one before
    #[arg(long)]
    unordered: bool,

    /// The ONNX model whose outputs are among the columns: a package without
    /// it will be refused this reference
    #[arg(long, value_name = "FILE")]
    model: Vec<PathBuf>,
}

/// Run the command.
pub fn run(command: &Fit, out: Output) -> anyhow::Result<ExitCode> {
    let table = table::read(&command.data, &command.categorical)?
        .select(&command.columns)
        .with_context(|| command.data.display().to_string())?;
    let models = command.model.iter().map(|path| {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Digest::of(&bytes))
    });
    let embeddings = command.embedding.iter().map(|prefix| EmbeddingOptions {
        name: prefix.trim_end_matches(['[', '.']).to_owned(),
        prefix: prefix.clone(),
    });
    let options = FitOptions {
        models: models.collect::<anyhow::Result<_>>()?,
        by: command.by.clone(),
        ordered: !command.unordered,
        embeddings: embeddings.collect(),
    };
    let reference = fit(table.columns(), &options)
        .with_context(|| format!("cannot learn from {}", command.data.display()))?;
    fs::write(&command.output, reference.to_json())
        .with_context(|| format!("cannot write {}", command.output.display()))?;
    let names: Vec<&str> = reference.columns.iter().map(|c| c.name.as_str()).collect();
    out.json(&json!({"rows": table.rows(), "columns": names, "output": command.output}))?;
    out.line(format!(
        "{}: learnt from {} rows of {}",
        command.output.display(),
        table.rows(),
        inline(&names.join(", "))
    ))?;
    Ok(ExitCode::SUCCESS)
}
