//! `headland monitor replay`: run monitors over recorded data.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use headland_engine::{Deployment, Finding, MonitorReport, Severity};
use headland_monitor::{Reference, ValuesReference};
use serde_json::json;

use super::{chart, record::one_monitor};
use crate::{
    host::{HostOptions, open_verified, read_policy},
    output::{Output, duration, inline},
    run::{describe_finding, label_columns, load, report_json},
    source::{self, SourceOptions},
    table,
};

/// Run a package's monitors over recorded data, and draw what they saw.
///
/// The data go through the pipeline as they would on a device, window by
/// window; with `--rows` they are rows of a monitor, and no model runs.
#[derive(Debug, Args)]
pub struct Replay {
    /// The package: an OCI image layout, as a folder or a tar file
    package: PathBuf,

    #[command(flatten)]
    host: HostOptions,

    /// Recorded data: .csv, .jsonl, .parquet, .npy, images, or a folder
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,

    /// The data are a monitor's own rows, as `headland monitor record` writes
    /// them: run the monitor alone
    #[arg(long, conflicts_with_all = ["label_column", "labels"])]
    rows: bool,

    /// The monitor [default: all of the package]
    #[arg(long, value_name = "ID")]
    monitor: Option<String>,

    /// Column (.csv, .jsonl, .parquet) that holds the true label; kept from
    /// the pipeline, given to the monitors that wait for labels
    #[arg(long, value_name = "COLUMN")]
    label_column: Option<String>,

    /// CSV of `file,label` lines with the true labels of files
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,

    /// With --rows: columns that hold categories although they look like
    /// numbers [default: as the monitor's reference has them]
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "rows")]
    categorical: Vec<String>,

    /// Draw the windows into an .svg or .html file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Run the command.
pub fn run(command: &Replay, out: Output) -> anyhow::Result<ExitCode> {
    let form = command.plot.as_deref().map(chart::Form::of).transpose()?;
    let plot = command.plot.as_deref().zip(form);
    let policy = read_policy(&command.host.policy)?;
    let verified = open_verified(&command.package, &policy)?;
    let engine = command.host.engine(policy.host(), out)?;
    let spinner = out.spinner("compiling");
    let deployment = Arc::new(load(&engine, &verified, policy.host())?);
    spinner.finish_and_clear();
    let ids: Vec<&str> = deployment.monitors().collect();
    let chosen = command.monitor.as_deref().map(|id| one_monitor(&ids, Some(id))).transpose()?;
    if ids.is_empty() {
        bail!("the package has no monitor");
    }
    let reports = if command.rows {
        let monitor = match chosen {
            Some(monitor) => monitor,
            None => one_monitor(&ids, None)?,
        };
        of_rows(command, &deployment, ids[monitor], out)?
    } else {
        of_data(command, &deployment, out)?
    };
    let reports: Vec<MonitorReport> =
        reports.into_iter().filter(|r| chosen.is_none_or(|i| monitor_of(r) == ids[i])).collect();
    tell(&reports, out)?;
    if let Some((path, form)) = plot {
        let info = verified.info();
        let title = format!("{} {}", info.name, info.version);
        let mut references = BTreeMap::new();
        for id in &ids {
            let judge = deployment.judge(id).with_context(|| format!("monitor {id:?}"))?;
            // A reference in another form is drawn without.
            let reference = judge.and_then(|j| Reference::parse(j.reference()).ok());
            references.extend(reference.map(|r| ((*id).to_owned(), r)));
        }
        let drawn = chart::draw(&title, &reports, &references, form);
        fs::write(path, drawn).with_context(|| format!("cannot write {}", path.display()))?;
        out.line(format!("drawn: {}", path.display()))?;
    }
    let disabled = reports.iter().any(|r| matches!(r, MonitorReport::Disabled { .. }));
    if disabled {
        bail!("a monitor was disabled; the reason is above");
    }
    Ok(ExitCode::SUCCESS)
}

/// The data as frames of the pipeline.
fn of_data(
    command: &Replay,
    deployment: &Arc<Deployment>,
    out: Output,
) -> anyhow::Result<Vec<MonitorReport>> {
    let frames = source::frames(&SourceOptions {
        inputs: command.data.clone(),
        label_column: command.label_column.clone(),
        labels: command.labels.clone(),
        split: true,
    })?;
    let mut runner = deployment.start().context("the pipeline does not start")?;
    let bar = out.progress("frames", frames.len() as u64);
    let mut reports = Vec::new();
    let (mut completed, mut last_drop) = (0u64, None);
    for (i, frame) in frames.into_iter().enumerate() {
        let report = runner.run(frame.inputs, frame.media_type, i as u64);
        match report.result {
            Ok(_) => completed += 1,
            Err(reason) => last_drop = Some(reason),
        }
        if let Some(label) = &frame.label {
            runner.label(report.frame.id, &label_columns(label));
        }
        // Recorded data can wait: no row is dropped.
        runner.settle();
        reports.extend(runner.take_reports());
        bar.inc(1);
    }
    runner.close_windows();
    reports.extend(runner.take_reports());
    bar.finish_and_clear();
    match last_drop {
        Some(reason) if completed == 0 => Err(anyhow::Error::new(reason))
            .context("no frame came through the pipeline (rows of a monitor need --rows)"),
        _ => Ok(reports),
    }
}

/// The data as rows of one monitor.
fn of_rows(
    command: &Replay,
    deployment: &Deployment,
    monitor: &str,
    out: Output,
) -> anyhow::Result<Vec<MonitorReport>> {
    let start = || format!("monitor {monitor:?} does not start");
    let missing = || format!("the package has no monitor {monitor:?}");
    let judge = deployment.judge(monitor).with_context(start)?.with_context(missing)?;
    let reference = Reference::parse(judge.reference()).ok();
    let mut session = deployment.replay(monitor).with_context(start)?.with_context(missing)?;
    let mut reports = Vec::new();
    let (mut rows, mut took) = (0u64, Duration::ZERO);
    for path in source::files(&command.data)? {
        let table = table::read(&path, &command.categorical)?;
        let categories: Vec<String> = match &reference {
            Some(reference) if command.categorical.is_empty() => {
                let columns = table.columns().iter().map(|c| &c.name);
                let categorical = |name: &&String| {
                    let of = reference.column(name).map(|c| &c.values);
                    matches!(of, Some(ValuesReference::Categorical(_)))
                };
                columns.filter(categorical).cloned().collect()
            }
            _ => Vec::new(),
        };
        let table = if categories.is_empty() { table } else { table::read(&path, &categories)? };
        let bar = out.progress("rows", table.rows() as u64);
        for row in table.monitor_rows(0) {
            // Made just before, as a running pipeline makes it: the time of a
            // row is the monitor's, not that of fetching cold memory.
            let start = Instant::now();
            let seen = session.see(row);
            took += start.elapsed();
            rows += 1;
            reports.extend(seen.with_context(|| format!("monitor {monitor:?}"))?);
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    reports.extend(session.close_window().with_context(|| format!("monitor {monitor:?}"))?);
    let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let row_ns = took_ns.checked_div(rows).unwrap_or(0);
    out.json(&json!({"kind": "time", "monitor": monitor, "rows": rows, "took_ns": took_ns}))?;
    out.line(format!(
        "{monitor}: {rows} rows in {}, {} a row",
        duration(took_ns),
        duration(row_ns)
    ))?;
    Ok(reports)
}

/// The monitor that a report is of.
pub fn monitor_of(report: &MonitorReport) -> &str {
    match report {
        MonitorReport::Early { finding } => &finding.monitor,
        MonitorReport::Window { monitor, .. }
        | MonitorReport::Disabled { monitor, .. }
        | MonitorReport::Error { monitor, .. } => monitor,
    }
}

/// What became of one monitor.
#[derive(Default)]
struct Outcome {
    windows: u64,
    alarmed: u64,
    first_alarm: Option<(u64, u64)>,
    early: u64,
}

/// Whether a finding asks for somebody's attention.
pub fn matters(finding: &Finding) -> bool {
    finding.severity > Severity::Info
}

fn tell(reports: &[MonitorReport], out: Output) -> anyhow::Result<()> {
    let mut outcomes: BTreeMap<&str, Outcome> = BTreeMap::new();
    for report in reports {
        let outcome = outcomes.entry(monitor_of(report)).or_default();
        match report {
            MonitorReport::Early { finding } => {
                outcome.early += u64::from(matters(finding));
                out.line(describe_finding(finding))?;
            }
            MonitorReport::Window { monitor, rows, frames, findings, .. } => {
                outcome.windows += 1;
                if findings.iter().any(matters) {
                    outcome.alarmed += 1;
                    outcome.first_alarm.get_or_insert(*frames);
                }
                if findings.is_empty() {
                    let (first, last) = frames;
                    out.line(format!(
                        "{monitor}: frames {first}..={last}: {rows} rows, nothing found"
                    ))?;
                }
                findings.iter().try_for_each(|f| out.line(describe_finding(f)))?;
            }
            MonitorReport::Disabled { monitor, reason: text }
            | MonitorReport::Error { monitor, message: text } => {
                out.line(format!("{monitor}: {}", inline(text)))?;
            }
        }
        out.json(&json!({"kind": "report", "report": report_json(report)?}))?;
    }
    for (monitor, o) in &outcomes {
        let first = match o.first_alarm {
            Some((first, last)) => format!(", first in frames {first}..={last}"),
            None => String::new(),
        };
        out.line(format!(
            "{monitor}: {} of {} windows found something{first}; {} findings at once",
            o.alarmed, o.windows, o.early
        ))?;
        out.json(&json!({
            "kind": "monitor",
            "monitor": monitor,
            "windows": o.windows,
            "windows_with_findings": o.alarmed,
            "first_frames_with_findings": o.first_alarm,
            "findings_at_once": o.early,
        }))?;
    }
    Ok(())
}
