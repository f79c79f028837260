//! `headland run`: verify a package and run its pipeline over files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use headland_engine::{Copies, Deployment, Engine, Finding, FrameReport, MonitorReport, Runner};
use headland_package::{HostPolicy, Package, TrustPolicy, Verified};
use headland_pipeline::{Cell, StageOutput, Stats};
use headland_tensor::Prediction;
use serde::Serialize;

use crate::{
    host::{HostOptions, open_verified, read_policy},
    output::{Output, Percentiles, Samples, duration, inline},
    records::{RecordOptions, Records},
    source::{self, SourceFrame, SourceOptions},
};

/// Verify a package and run its pipeline over files.
///
/// Nothing in the package is parsed as WebAssembly or ONNX before its
/// signatures were checked against the trust policy. Each line is a frame;
/// what the monitors find is printed between them.
#[derive(Debug, Args)]
pub struct Run {
    /// The package: an OCI image layout, as a folder or a tar file
    package: PathBuf,

    #[command(flatten)]
    host: HostOptions,

    #[command(flatten)]
    source: SourceOptions,

    #[command(flatten)]
    records: RecordOptions,

    /// Print the summary and the findings, not every frame
    #[arg(long)]
    summary: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
enum Line<'a> {
    Package {
        name: &'a str,
        version: &'a str,
        digest: String,
        signers: Vec<String>,
    },
    Frame {
        frame: u64,
        origin: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        prediction: Option<&'a Prediction>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tensors: Option<BTreeMap<&'a str, TensorLine>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        dropped: Option<Dropped>,
        duration_ns: u64,
        stages: &'a [headland_engine::StageTime],
        copies: Copies,
    },
    Report {
        report: serde_json::Value,
    },
    Summary(&'a Summary),
}

#[derive(Serialize)]
struct TensorLine {
    dtype: String,
    shape: Vec<u32>,
}

#[derive(Serialize)]
struct Dropped {
    code: &'static str,
    reason: String,
}

/// What one run came to.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Frames given.
    pub frames: usize,
    /// Frames that gave a result.
    pub completed: usize,
    /// Frames dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Frames whose label is known.
    pub labelled: usize,
    /// Of those, how many were predicted right.
    pub correct: usize,
    /// `correct / labelled`.
    pub accuracy: Option<f64>,
    /// From submission to result.
    pub latency: Percentiles,
    /// The same, stage by stage.
    pub stages: Vec<(String, Percentiles)>,
    /// Time of all stages over all frames, in nanoseconds.
    pub stages_ns: u64,
    /// Copies of tensor data over all frames.
    pub copies: Copies,
    /// Copies a completed frame.
    pub copies_per_frame: f64,
    /// Findings of warning and alarm.
    pub findings: Vec<Finding>,
    /// Frames, calls and taps, as the scheduler counted them.
    pub stats: Stats,
    /// Rows that the monitors saw and did not see.
    pub monitors: Vec<headland_engine::MonitorCounts>,
    /// Instances made anew after a trap or limit.
    pub restarts: u64,
    /// Whether instances came from a pool.
    pub pooled: bool,
}

/// Gathers a [`Summary`] frame by frame.
#[derive(Default)]
pub struct Tally {
    frames: usize,
    completed: usize,
    dropped: BTreeMap<&'static str, u64>,
    labelled: usize,
    correct: usize,
    latency: Samples,
    stages: Vec<(String, Samples)>,
    stages_ns: u64,
    copies: Copies,
    findings: Vec<Finding>,
}

impl Tally {
    /// Count one frame.
    pub fn frame(&mut self, report: &FrameReport, label: Option<&str>) {
        self.frames += 1;
        match &report.result {
            Ok(output) => {
                self.completed += 1;
                self.latency.push(report.duration_ns);
                if let (Some(label), StageOutput::Prediction(p)) = (label, output) {
                    self.labelled += 1;
                    self.correct +=
                        usize::from(p.classes.first().is_some_and(|c| c.label == label));
                }
            }
            Err(reason) => *self.dropped.entry(reason.code()).or_default() += 1,
        }
        for stage in &report.stages {
            self.stages_ns += stage.duration_ns;
            match self.stages.iter_mut().find(|(id, _)| *id == stage.stage) {
                Some((_, samples)) => samples.push(stage.duration_ns),
                None => {
                    let mut samples = Samples::default();
                    samples.push(stage.duration_ns);
                    self.stages.push((stage.stage.clone(), samples));
                }
            }
        }
        self.copies += report.copies;
    }

    fn report(&mut self, report: &MonitorReport) {
        match report {
            MonitorReport::Early { finding } => self.findings.push(finding.clone()),
            MonitorReport::Window { findings, .. } => {
                self.findings.extend(findings.iter().cloned())
            }
            MonitorReport::Disabled { .. } | MonitorReport::Error { .. } => {}
        }
    }

    /// The summary of what `runner` did.
    pub fn summary(self, runner: &Runner, pooled: bool) -> Summary {
        let per_frame =
            |n: u64| if self.completed == 0 { 0.0 } else { n as f64 / self.completed as f64 };
        Summary {
            frames: self.frames,
            completed: self.completed,
            dropped: self.dropped,
            labelled: self.labelled,
            correct: self.correct,
            accuracy: (self.labelled > 0).then(|| self.correct as f64 / self.labelled as f64),
            latency: self.latency.percentiles(),
            stages: self
                .stages
                .into_iter()
                .map(|(id, samples)| (id, samples.percentiles()))
                .collect(),
            stages_ns: self.stages_ns,
            copies_per_frame: per_frame(self.copies.total().count),
            copies: self.copies,
            findings: self.findings,
            stats: runner.stats().clone(),
            monitors: runner.monitor_counts(),
            restarts: runner.restarts(),
            pooled,
        }
    }
}

/// Rows that may wait for the monitors before a file source waits for them.
const MAX_BACKLOG_ROWS: u64 = 256;

/// Run the command.
pub fn run(command: &Run, out: Output) -> anyhow::Result<ExitCode> {
    let policy = read_policy(&command.host.policy)?;
    let verified = open_verified(&command.package, &policy)?;
    let frames = source::frames(&command.source)?;
    let engine = command.host.engine(policy.host(), out)?;
    let spinner = out.spinner("compiling");
    let deployment = Arc::new(load(&engine, &verified, policy.host())?);
    let mut runner = deployment.start().context("the pipeline does not start")?;
    spinner.finish_and_clear();
    tell_package(out, &verified)?;

    let mut records = command.records.open(&deployment, policy.host())?;
    let bar = out.progress("frames", frames.len() as u64);
    let mut tally = Tally::default();
    for frame in &frames {
        let report = runner.run(frame.inputs.clone(), frame.media_type, captured_now_ns());
        if let Some(label) = &frame.label {
            runner.label(report.frame.id, &label_columns(label));
        }
        if !command.summary {
            bar.suspend(|| tell_frame(out, frame, &report))?;
        }
        tally.frame(&report, frame.label.as_deref());
        if runner.backlog_rows() > MAX_BACKLOG_ROWS {
            runner.settle();
        }
        bar.suspend(|| tell_reports(out, &mut runner, &mut tally, &mut records))?;
        bar.inc(1);
    }
    runner.close_windows();
    bar.finish_and_clear();
    tell_reports(out, &mut runner, &mut tally, &mut records)?;
    let summary = tally.summary(&runner, engine.is_pooled());
    out.json(&Line::Summary(&summary))?;
    out.line(describe(&summary))?;
    if summary.completed == 0 {
        bail!("no frame came through; the reasons are above");
    }
    Ok(ExitCode::SUCCESS)
}

/// A frame's true label as columns for the monitors that wait for it: `label`,
/// a category, and `label-value`, a number where it reads as one.
pub fn label_columns(label: &str) -> Vec<(String, Cell)> {
    let value = label.parse().ok().filter(|x: &f64| x.is_finite());
    let value = value.map(|x| ("label-value".to_owned(), Cell::Numeric(x)));
    let label = ("label".to_owned(), Cell::Categorical(label.to_owned()));
    [label].into_iter().chain(value).collect()
}

/// Say which package runs, and who signed it.
pub fn tell_package(out: Output, verified: &Verified<Package>) -> anyhow::Result<()> {
    let info = verified.info();
    out.json(&Line::Package {
        name: &info.name,
        version: &info.version,
        digest: verified.digest().to_string(),
        signers: verified.signers().iter().map(ToString::to_string).collect(),
    })?;
    out.line(format!(
        "{} {} ({}), signed by {} key(s)",
        inline(&info.name),
        inline(&info.version),
        verified.digest(),
        verified.signers().len()
    ))
}

/// Load a verified package, saying which one failed.
pub fn load(
    engine: &Engine,
    verified: &Verified<Package>,
    host: &HostPolicy,
) -> anyhow::Result<Deployment> {
    engine
        .load(verified, host)
        .with_context(|| format!("package {} cannot be run here", verified.info().name))
}

/// Now, as a source that captures a frame now says it.
pub fn captured_now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn tell_frame(out: Output, frame: &SourceFrame, report: &FrameReport) -> anyhow::Result<()> {
    let (mut prediction, mut tensors, mut dropped) = (None, None, None);
    let said = match &report.result {
        Ok(StageOutput::Prediction(p)) => {
            prediction = Some(p);
            describe_prediction(p)
        }
        Ok(output @ StageOutput::Tensors(t)) => {
            let shown: BTreeMap<&str, TensorLine> = t
                .iter()
                .map(|(name, t)| {
                    let line = TensorLine {
                        dtype: t.dtype().to_string(),
                        shape: t.shape().dims().to_vec(),
                    };
                    (name.as_str(), line)
                })
                .collect();
            tensors = Some(shown);
            describe_output(output)
        }
        Err(reason) => {
            dropped = Some(Dropped { code: reason.code(), reason: reason.to_string() });
            format!("dropped: {reason}")
        }
    };
    out.line(format!(
        "{:>6}  {}  {}{}  {}",
        report.frame.id,
        inline(&frame.origin),
        inline(&said),
        frame.label.as_ref().map(|l| format!("  (label {})", inline(l))).unwrap_or_default(),
        duration(report.duration_ns),
    ))?;
    out.json(&Line::Frame {
        frame: report.frame.id,
        origin: &frame.origin,
        label: frame.label.as_deref(),
        prediction,
        tensors,
        dropped,
        duration_ns: report.duration_ns,
        stages: &report.stages,
        copies: report.copies,
    })
}

/// What a pipeline says, for people.
pub fn describe_output(output: &StageOutput) -> String {
    match output {
        StageOutput::Prediction(p) => describe_prediction(p),
        StageOutput::Tensors(t) => {
            t.iter().map(|(name, t)| format!("{name} {t:?}")).collect::<Vec<_>>().join(", ")
        }
    }
}

fn describe_prediction(p: &Prediction) -> String {
    let mut parts = Vec::new();
    if let Some(best) = p.classes.first() {
        parts.push(format!("{} {:.3}", best.label, best.score));
    }
    for d in &p.detections {
        parts.push(format!(
            "{} {:.3} at [{:.3} {:.3} {:.3} {:.3}]",
            d.class.label, d.class.score, d.x_min, d.y_min, d.x_max, d.y_max
        ));
    }
    parts.extend(p.values.iter().map(|v| format!("{}={:.4}", v.name, v.value)));
    if p.alarm == Some(true) {
        parts.push("ALARM".to_owned());
    }
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("  ") }
}

fn tell_reports(
    out: Output,
    runner: &mut Runner,
    tally: &mut Tally,
    records: &mut Option<Records>,
) -> anyhow::Result<()> {
    for report in runner.take_reports() {
        tally.report(&report);
        if let Some(records) = records {
            records.write(&report, out)?;
        }
        match &report {
            MonitorReport::Early { finding } => out.line(describe_finding(finding))?,
            MonitorReport::Window { monitor, rows, frames, findings, .. } => {
                if findings.is_empty() {
                    out.line(format!(
                        "{monitor}: frames {}..={}: {rows} rows, nothing found",
                        frames.0, frames.1
                    ))?;
                }
                findings.iter().try_for_each(|f| out.line(describe_finding(f)))?;
            }
            MonitorReport::Disabled { monitor, reason } => {
                let reason = inline(reason);
                out.line(format!("{monitor}: disabled, inference goes on: {reason}"))?;
            }
            MonitorReport::Error { monitor, message } => {
                out.line(format!("{monitor}: {}", inline(message)))?;
            }
        }
        out.json(&Line::Report { report: report_json(&report)? })?;
    }
    Ok(())
}

/// A report as JSON, its summary in base64: a summary is bytes, which JSON
/// would hold as a list of numbers.
pub fn report_json(report: &MonitorReport) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(report)?;
    if let (MonitorReport::Window { summary, .. }, Some(object)) = (report, value.as_object_mut()) {
        object.insert("summary".to_owned(), BASE64_STANDARD.encode(summary).into());
    }
    Ok(value)
}

/// A finding for people, on one line.
pub fn describe_finding(f: &Finding) -> String {
    let what = match &f.feature {
        Some(feature) => format!("{} of {feature}", f.check),
        None => f.check.clone(),
    };
    format!(
        "{}: frames {}..={}: {:?} {}: {} ({} = {:.4}, threshold {:.4}, {} rows)",
        f.monitor,
        f.frames.0,
        f.frames.1,
        f.severity,
        inline(&what),
        inline(&f.message),
        inline(&f.statistic),
        f.value,
        f.threshold,
        f.rows
    )
}

/// A summary for people.
fn describe(s: &Summary) -> String {
    let mut rows = vec![["stage", "calls", "p50", "p95", "p99", "max"].map(str::to_owned).to_vec()];
    let mut add = |name: &str, p: &Percentiles| {
        rows.push(vec![
            name.to_owned(),
            p.count.to_string(),
            duration(p.p50_ns),
            duration(p.p95_ns),
            duration(p.p99_ns),
            duration(p.max_ns),
        ]);
    };
    s.stages.iter().for_each(|(id, p)| add(id, p));
    add("frame", &s.latency);
    let mut text = format!(
        "\n{}\n\n{} of {} frames completed",
        crate::output::table(&rows),
        s.completed,
        s.frames
    );
    for (code, n) in &s.dropped {
        text += &format!("; {n} dropped ({code})");
    }
    if let Some(accuracy) = s.accuracy {
        text += &format!(
            "\naccuracy {:.2} % ({} of {} labelled frames)",
            accuracy * 100.0,
            s.correct,
            s.labelled
        );
    }
    let c = &s.copies;
    text += &format!(
        "\ncopies a frame {:.1}: into components {}, out of components {}, into models {}, out of models {} (in all)",
        s.copies_per_frame,
        c.into_components.count,
        c.out_of_components.count,
        c.into_models.count,
        c.out_of_models.count
    );
    for m in &s.monitors {
        text += &format!(
            "\nmonitor {}: {} rows seen, {} dropped, {} sampled out, {} a row",
            m.monitor,
            m.rows_seen,
            m.rows_dropped,
            m.rows_sampled_out,
            duration(m.busy_ns.checked_div(m.rows_seen).unwrap_or(0))
        );
    }
    for m in &s.stats.monitors {
        if m.taps_failed > 0 {
            let last = m.last_tap_failure.as_deref().unwrap_or("no reason given");
            text += &format!(
                "\nmonitor {}: its taps failed {} times, the last because {}",
                m.id,
                m.taps_failed,
                inline(last)
            );
        }
        if m.values_left_out > 0 {
            text += &format!("\nmonitor {}: {} values left out", m.id, m.values_left_out);
        }
    }
    if s.restarts > 0 {
        text += &format!("\n{} stage instances made anew after a trap or limit", s.restarts);
    }
    text
}

/// How long a start takes, step by step.
pub struct Started {
    /// The package, ready for more runners.
    pub deployment: Arc<Deployment>,
    /// The running pipeline.
    pub runner: Runner,
    /// Steps with their durations in nanoseconds.
    pub steps: Vec<(&'static str, u64)>,
}

/// Verify, load and start a package, timing each step.
pub fn start_timed(
    engine: &Engine,
    package: &Path,
    policy: &TrustPolicy,
) -> anyhow::Result<Started> {
    let mut steps = Vec::new();
    let mut last = Instant::now();
    let mut step = |name| {
        steps.push((name, u64::try_from(last.elapsed().as_nanos()).unwrap_or(u64::MAX)));
        last = Instant::now();
    };
    let verified = open_verified(package, policy)?;
    step("read and verify");
    let deployment = Arc::new(load(engine, &verified, policy.host())?);
    step("load");
    let runner = deployment.start().context("the pipeline does not start")?;
    step("instantiate");
    Ok(Started { deployment, runner, steps })
}

#[cfg(test)]
mod tests {
    use headland_engine::Severity;
    use headland_pipeline::MonitorStats;

    use super::*;

    #[test]
    fn a_finding_names_its_feature() {
        let finding = Finding {
            monitor: "quality".to_owned(),
            check: "drift".to_owned(),
            feature: Some("V3".to_owned()),
            severity: Severity::Alarm,
            statistic: "psi".to_owned(),
            value: 0.5,
            threshold: 0.2,
            rows: 10,
            frames: (0, 9),
            message: "it moved\nquality: all is well".to_owned(),
        };
        assert_eq!(
            describe_finding(&finding),
            "quality: frames 0..=9: Alarm drift of V3: it moved\u{fffd}quality: all is well \
             (psi = 0.5000, threshold 0.2000, 10 rows)"
        );
    }

    #[test]
    fn a_summary_says_that_taps_failed() {
        let monitor = MonitorStats {
            id: "quality".to_owned(),
            taps_failed: 3,
            last_tap_failure: Some("no column".to_owned()),
            ..MonitorStats::default()
        };
        let summary = Summary {
            frames: 0,
            completed: 0,
            dropped: BTreeMap::new(),
            labelled: 0,
            correct: 0,
            accuracy: None,
            latency: Samples::default().percentiles(),
            stages: Vec::new(),
            copies: Copies::default(),
            stages_ns: 0,
            copies_per_frame: 0.0,
            findings: Vec::new(),
            stats: Stats {
                submitted: 0,
                admitted: 0,
                completed: 0,
                dropped: BTreeMap::new(),
                queue_high_water: 0,
                under_way_high_water: 0,
                shadows_dropped: 0,
                stages: Vec::new(),
                monitors: vec![monitor],
            },
            monitors: Vec::new(),
            restarts: 0,
            pooled: false,
        };
        let said = describe(&summary);
        assert!(
            said.ends_with("quality: its taps failed 3 times, the last because no column"),
            "{said}"
        );
        assert_eq!(serde_json::json!(summary)["stats"]["monitors"][0]["taps_failed"], 3);
    }

    #[test]
    fn a_report_says_once_what_it_is() -> anyhow::Result<()> {
        let report = MonitorReport::Window {
            monitor: "quality".to_owned(),
            rows: 1,
            frames: (0, 0),
            captured_at_ns: (0, 0),
            summary: vec![0, 255],
            findings: Vec::new(),
        };
        let text = serde_json::to_string(&Line::Report { report: report_json(&report)? })?;
        let line: serde_json::Value = serde_json::from_str(&text)?;
        assert_eq!(line["kind"], "report");
        assert_eq!(line["report"]["kind"], "window");
        assert_eq!(line["report"]["summary"], "AP8=");
        Ok(())
    }
}
