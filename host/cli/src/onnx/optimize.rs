//! `headland onnx optimize`: a smaller or faster model from a model.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use headland_inference::{
    LoadLimits, ModelInfo,
    optimize::{
        self, Activations, Int8, Metric, Optimizer, Pass, PassReport, Range, Samples, Score,
        Sparsity, sparsity,
    },
};
use headland_package::Digest;
use serde::Serialize;

use super::read_model;
use crate::{
    npy,
    output::{Output, bytes, inline, table},
};

/// Arguments of `onnx optimize`.
#[derive(Debug, Args)]
pub struct OptimizeArgs {
    /// The ONNX file.
    model: PathBuf,
    /// Where to write what comes out.
    #[arg(short, long, value_name = "FILE", required_unless_present = "prune_report")]
    output: Option<PathBuf>,
    /// Replace the output file if it exists.
    #[arg(long)]
    force: bool,
    /// Passes that change no answer beyond rounding, each once and in this
    /// order.
    #[arg(
        long,
        value_name = "PASS,...",
        value_delimiter = ',',
        default_value = "identities,fold,fuse,dead"
    )]
    passes: Vec<PassName>,
    /// Store weights and compute in float16; inputs and outputs stay as they
    /// are.
    #[arg(long, conflicts_with = "int8")]
    f16: bool,
    /// Quantise Conv, Gemm and MatMul to eight bits, in QDQ form.
    #[arg(long, requires = "calibrate")]
    int8: bool,
    /// Samples to see ranges on: a .npy file whose first axis counts samples,
    /// or for several inputs a folder with one INPUT.npy for each; `/` in a name
    /// becomes `_`.
    #[arg(long, value_name = "PATH", requires = "int8")]
    calibrate: Option<PathBuf>,
    /// Which values seen a range holds.
    #[arg(long, value_enum, default_value = "minmax")]
    range: RangeName,
    /// The share of the values that `--range percentile` holds, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 99.99)]
    percentile: f64,
    /// What becomes of values between nodes.
    #[arg(long, value_enum, default_value = "u8")]
    activations: ActivationsName,
    /// A node to leave in f32, by name or by first output; once for each.
    #[arg(long, value_name = "NODE", requires = "int8")]
    keep: Vec<String>,
    /// Samples to measure accuracy on, before and after; as for `--calibrate`.
    #[arg(long, value_name = "PATH", requires = "labels")]
    labelled: Option<PathBuf>,
    /// Their labels: one whole number for each, or for `mae` the right answers.
    #[arg(long, value_name = "FILE.npy", requires = "labelled")]
    labels: Option<PathBuf>,
    /// What to measure on them.
    #[arg(long, value_enum, default_value = "top1")]
    metric: MetricName,
    /// Write nothing if the metric becomes worse by more than this; below nought,
    /// unless it becomes better by as much.
    #[arg(long, value_name = "DROP", requires = "labelled", allow_negative_numbers = true)]
    max_drop: Option<f64>,
    /// Say which weights of the model are next to nothing, and take none out.
    #[arg(long)]
    prune_report: bool,
    /// An output channel is weak below this share of the strongest one's norm.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    prune_share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum PassName {
    /// None of them.
    None,
    /// Take out Identity and Dropout.
    Identities,
    /// Compute what depends on constants alone.
    Fold,
    /// Work BatchNormalization and arithmetic with constants into weights.
    Fuse,
    /// Take out what no output depends on.
    Dead,
}

impl PassName {
    fn pass(self) -> Option<Pass<'static>> {
        Some(match self {
            Self::None => return None,
            Self::Identities => Pass::Identities,
            Self::Fold => Pass::Fold,
            Self::Fuse => Pass::Fuse,
            Self::Dead => Pass::Dead,
        })
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RangeName {
    /// All of them.
    Minmax,
    /// What is left after cutting off both ends.
    Percentile,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ActivationsName {
    /// 0 to 255.
    U8,
    /// -128 to 127.
    I8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MetricName {
    /// The share of samples with the greatest score at the label's index.
    Top1,
    /// The mean distance from the right answers.
    Mae,
}

#[derive(Serialize)]
struct Report<'a> {
    source: String,
    source_bytes: usize,
    /// Where it was written; none if it was not.
    output: Option<&'a Path>,
    output_bytes: usize,
    passes: &'a [PassReport],
    score: Option<Score>,
    pruning: Vec<Sparsity>,
}

pub fn run(args: &OptimizeArgs, out: Output) -> anyhow::Result<ExitCode> {
    if let Some(output) = &args.output {
        // A link that leads nowhere is there too.
        let exists = output.symlink_metadata().is_ok();
        ensure!(args.force || !exists, "{} exists; --force replaces it", output.display());
    }
    let limits = LoadLimits::default();
    let onnx = read_model(&args.model)?;
    let reading = || format!("reading {}", args.model.display());
    let info = ModelInfo::from_onnx(&onnx, &limits).with_context(reading)?;
    let pruning = if args.prune_report {
        sparsity(&onnx, args.prune_share, &limits).with_context(reading)?
    } else {
        Vec::new()
    };
    show_pruning(&pruning, out)?;
    let source = Digest::of(&onnx).to_string();
    let Some(output) = &args.output else {
        let (source_bytes, passes) = (onnx.len(), &[][..]);
        let output_bytes = source_bytes;
        let (output, score) = (None, None);
        out.json(&Report { source, source_bytes, output, output_bytes, passes, score, pruning })?;
        return Ok(ExitCode::SUCCESS);
    };

    let mut optimizer = Optimizer::open(&onnx, &limits).with_context(reading)?;
    let calibration = match &args.calibrate {
        Some(path) => Some(samples(&info, path)?),
        None => None,
    };
    let mut names = args.passes.clone();
    names.sort_unstable();
    names.dedup();
    let mut passes: Vec<Pass<'_>> = names.into_iter().filter_map(PassName::pass).collect();
    if args.f16 {
        passes.push(Pass::Half);
    }
    if let Some(samples) = &calibration {
        let range = match args.range {
            RangeName::Minmax => Range::MinMax,
            RangeName::Percentile => Range::Percentile(args.percentile),
        };
        let activations = match args.activations {
            ActivationsName::U8 => Activations::U8,
            ActivationsName::I8 => Activations::I8,
        };
        passes.push(Pass::Int8(Int8 { samples, range, activations, keep: &args.keep }));
    }
    for pass in &passes {
        let spinner = out.spinner(pass.name());
        optimizer
            .apply(pass)
            .with_context(|| format!("pass {} over {}", pass.name(), args.model.display()))?;
        spinner.finish_and_clear();
    }
    show_passes(optimizer.reports(), out)?;

    let score = match (&args.labelled, &args.labels) {
        (Some(labelled), Some(labels)) => {
            let metric = match args.metric {
                MetricName::Top1 => Metric::Top1,
                MetricName::Mae => Metric::Mae,
            };
            let (samples, labels) = (samples(&info, labelled)?, npy::read(labels)?);
            let after = optimizer.to_onnx();
            let score = optimize::compare(&onnx, &after, &samples, &labels, metric, &limits)
                .with_context(|| format!("measuring on {}", labelled.display()))?;
            let (before, after) = (score.before, score.after);
            let name = args.metric.to_possible_value().map(|v| v.get_name().to_owned());
            let name = name.unwrap_or_default();
            out.line(format!(
                "{name} on {} samples: {before:.4} before, {after:.4} after, worse by {:.4}",
                score.samples, score.drop
            ))?;
            if let Some(max) = args.max_drop
                && !score.within(max)
            {
                bail!(
                    "{name} goes from {before} to {after}, worse by more than {max}; not written"
                );
            }
            Some(score)
        }
        _ => None,
    };
    stamp(&mut optimizer, &source, score)?;
    let made = optimizer.to_onnx();
    write(output, &made, args.force)?;
    let (before, after) = (bytes(onnx.len() as u64), bytes(made.len() as u64));
    out.line(format!("{}: {after}, from {before}", inline(&output.display().to_string())))?;
    out.json(&Report {
        source,
        source_bytes: onnx.len(),
        output: Some(output),
        output_bytes: made.len(),
        passes: optimizer.reports(),
        score,
        pruning,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Read samples for a model from a file, or from a folder with a file for each
/// input.
fn samples(info: &ModelInfo, path: &Path) -> anyhow::Result<Samples> {
    let of = |name: &str| path.join(format!("{}.npy", name.replace(['/', '\\'], "_")));
    let files: Vec<PathBuf> = match info.inputs.as_slice() {
        [_] if !path.is_dir() => vec![path.to_owned()],
        [input] if !of(&input.name).exists() => vec![only_file(path)?],
        inputs => inputs.iter().map(|input| of(&input.name)).collect(),
    };
    let tensors = info
        .inputs
        .iter()
        .zip(&files)
        .map(|(input, file)| Ok((input.name.clone(), npy::read(file)?)))
        .collect::<anyhow::Result<_>>()?;
    Samples::new(info, tensors).with_context(|| format!("samples in {}", path.display()))
}

/// The one .npy file in a folder.
fn only_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("reading folder {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("reading folder {}", folder.display()))?.path();
        if path.extension().is_some_and(|e| e == "npy") {
            files.push(path);
        }
    }
    match files.len() {
        1 => Ok(files.remove(0)),
        n => bail!("{} holds {n} .npy files, and none has the input's name", folder.display()),
    }
}

/// Write where the model comes from and what was done into its metadata.
fn stamp(optimizer: &mut Optimizer, source: &str, score: Option<Score>) -> anyhow::Result<()> {
    let passes: Vec<serde_json::Value> = optimizer
        .reports()
        .iter()
        .map(|report| {
            let (before, after) = (&report.before, &report.after);
            serde_json::json!({
                "pass": report.pass,
                "nodes": [before.nodes, after.nodes],
                "parameter_bytes": [before.parameter_bytes, after.parameter_bytes],
            })
        })
        .collect();
    optimizer.stamp("source", source);
    optimizer.stamp("passes", &serde_json::to_string(&passes)?);
    if let Some(score) = score {
        optimizer.stamp("score", &serde_json::to_string(&score)?);
        optimizer.stamp("delta", &(score.after - score.before).to_string());
    }
    Ok(())
}

/// Write a file that is there either whole or not at all.
fn write(path: &Path, contents: &[u8], force: bool) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".optimize-").suffix(".partial");
    // As any file that a program makes, less what the user's mask takes.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).with_context(cannot)?;
    file.write_all(contents).and_then(|()| file.as_file().sync_all()).with_context(cannot)?;
    let persisted = if force { file.persist(path) } else { file.persist_noclobber(path) };
    persisted.map(|_| ()).map_err(|e| e.error).with_context(cannot)
}

fn show_passes(reports: &[PassReport], out: Output) -> anyhow::Result<()> {
    let mut rows =
        vec![["pass", "nodes", "after", "parameter bytes", "after"].map(str::to_owned).to_vec()];
    for report in reports {
        let (before, after) = (&report.before, &report.after);
        let numbers = [before.nodes, after.nodes, before.parameter_bytes, after.parameter_bytes];
        let numbers = numbers.iter().map(ToString::to_string);
        rows.push(std::iter::once(report.pass.to_owned()).chain(numbers).collect());
    }
    out.line(table(&rows))?;
    if let (Some(first), Some(last)) = (reports.first(), reports.last()) {
        let (before, after) = (&first.before.operators, &last.after.operators);
        let mut changes = Vec::new();
        let all: BTreeMap<&String, ()> =
            before.keys().chain(after.keys()).map(|k| (k, ())).collect();
        for op in all.into_keys() {
            let count = |of: &BTreeMap<String, u64>| of.get(op).copied().unwrap_or(0);
            if count(before) != count(after) {
                changes.push(format!("{op} {} -> {}", count(before), count(after)));
            }
        }
        if !changes.is_empty() {
            out.line(format!("operators: {}", inline(&changes.join(", "))))?;
        }
    }
    for report in reports {
        for note in &report.notes {
            let text = format!("{}: left {} {}: {}", report.pass, note.op, note.node, note.reason);
            out.line(inline(&text))?;
        }
    }
    Ok(())
}

fn show_pruning(pruning: &[Sparsity], out: Output) -> anyhow::Result<()> {
    if pruning.is_empty() {
        return Ok(());
    }
    let heading = ["constant", "elements", "zero", "small", "channels", "weak"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for row in pruning {
        let channels = row.channels.map_or_else(String::new, |c| c.to_string());
        let weak = row.channels.map_or_else(String::new, |_| row.weak_channels.len().to_string());
        let (zeros, small) = (format!("{:.4}", row.zeros), format!("{:.4}", row.small));
        rows.push(vec![row.name.clone(), row.elements.to_string(), zeros, small, channels, weak]);
    }
    out.line(table(&rows))
}
