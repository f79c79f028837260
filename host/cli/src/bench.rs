//! `headland bench`: measure a package's pipeline on this machine.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use headland_engine::{FrameReport, Runner};
use serde::Serialize;

use crate::{
    host::{HostOptions, read_policy},
    output::{Output, bytes, duration, table},
    run::{Summary, Tally, start_timed},
    source::{self, SourceFrame, SourceOptions},
};

/// Measure a package's pipeline: start-up, latency by stage, throughput, copies.
///
/// The frames of the input are run over and over for the given time, one
/// after the other, by each runner on a thread of its own; the latencies are
/// those of the first. The first of the two starts compiles:
/// compiled code is kept in a folder made for the measurement, unless
/// --code-cache names another.
#[derive(Debug, Args)]
pub struct Bench {
    /// The package: an OCI image layout, as a folder or a tar file
    package: PathBuf,

    #[command(flatten)]
    host: HostOptions,

    #[command(flatten)]
    source: SourceOptions,

    /// How long to measure, in seconds
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    seconds: f64,

    /// Frames to run before measuring
    #[arg(long, default_value_t = 20, value_name = "N")]
    warm_up: usize,

    /// Runners of the package, as many threads
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    runners: u16,
}

#[derive(Serialize)]
struct Measured {
    code_cache: CodeCache,
    /// The first start, with what `code_cache` held before.
    first_start_ns: Vec<(&'static str, u64)>,
    /// The second start, with what the first left in `code_cache`.
    second_start_ns: Vec<(&'static str, u64)>,
    runners: u16,
    /// Of all runners together.
    frames_per_second: f64,
    /// By stage, where models are run in batches.
    batches: BTreeMap<String, Batches>,
    resident_bytes: Option<u64>,
    summary: Summary,
}

/// How a model was run in batches.
#[derive(Debug, Clone, Copy, Serialize)]
struct Batches {
    batches: u64,
    rows_per_batch: f64,
    /// Runs that were never part of one.
    alone: u64,
}

/// What the starts found in the code cache.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum CodeCache {
    /// Nothing, then all that the first start compiled.
    Empty,
    /// The user named it, and it may have held code.
    Given,
    /// There was none: both compiled.
    None,
}

impl CodeCache {
    /// Headings of the two starts.
    fn starts(self) -> [&'static str; 2] {
        match self {
            CodeCache::Empty => ["compiling", "from the code cache"],
            CodeCache::Given => ["with --code-cache as it was", "again"],
            CodeCache::None => ["compiling", "compiling again"],
        }
    }
}

/// Run the command.
pub fn run(command: &Bench, out: Output) -> anyhow::Result<ExitCode> {
    if !(command.seconds > 0.0 && command.seconds <= 86_400.0) {
        bail!("--seconds must be over 0 and at most a day");
    }
    let frames = source::frames(&command.source)?;
    let policy = read_policy(&command.host.policy)?;
    let code_cache = match &command.host {
        HostOptions { no_code_cache: true, .. } => CodeCache::None,
        HostOptions { code_cache: Some(_), .. } => CodeCache::Given,
        HostOptions { code_cache: None, .. } => CodeCache::Empty,
    };
    let mut host = command.host.clone();
    // Holds the folder until the measurement is over.
    let _fresh = if let CodeCache::Empty = code_cache {
        let fresh = tempfile::tempdir().context("cannot make a folder for compiled code")?;
        host.code_cache = Some(fresh.path().to_owned());
        Some(fresh)
    } else {
        None
    };
    let engine = host.engine(policy.host(), out)?;
    let first = start_timed(&engine, &command.package, &policy)?;
    drop(first.runner);
    let second = start_timed(&engine, &command.package, &policy)?;
    let mut runner = second.runner;
    warm_up(command, &mut runner, &frames);
    let mut others = Vec::new();
    for _ in 1..command.runners {
        let mut other = second.deployment.start().context("a further runner does not start")?;
        warm_up(command, &mut other, &frames);
        others.push(other);
    }

    let mut tally = Tally::default();
    let limit = Duration::from_secs_f64(command.seconds);
    let begun = Instant::now();
    let count: u64 = thread::scope(|scope| {
        let others: Vec<_> = others
            .iter_mut()
            .map(|runner| scope.spawn(|| cycle(runner, &frames, begun, limit, |_, _| {})))
            .collect();
        let first = cycle(&mut runner, &frames, begun, limit, |report, frame| {
            tally.frame(report, frame.label.as_deref());
        });
        // A thread that panicked has counted nothing.
        first + others.into_iter().map(|other| other.join().unwrap_or(0)).sum::<u64>()
    });
    let frames_per_second = count as f64 / begun.elapsed().as_secs_f64();
    let batches = second.deployment.batches().into_iter().map(|(stage, b)| {
        let rows_per_batch = b.mean_rows();
        (stage, Batches { batches: b.batches, rows_per_batch, alone: b.alone })
    });
    runner.settle();
    let measured = Measured {
        code_cache,
        first_start_ns: first.steps,
        second_start_ns: second.steps,
        runners: command.runners,
        frames_per_second,
        batches: batches.collect(),
        resident_bytes: resident_bytes(),
        summary: tally.summary(&runner, engine.is_pooled()),
    };
    out.json(&measured)?;
    out.line(describe(&measured))?;
    if measured.summary.completed == 0 {
        let codes: Vec<&str> = measured.summary.dropped.keys().copied().collect();
        bail!("no frame came through: {}", codes.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn warm_up(command: &Bench, runner: &mut Runner, frames: &[SourceFrame]) {
    for frame in frames.iter().cycle().take(command.warm_up) {
        runner.run(frame.inputs.clone(), frame.media_type, 0);
    }
    runner.settle();
}

/// Run the frames over and over until the time is up; gives how many.
fn cycle(
    runner: &mut Runner,
    frames: &[SourceFrame],
    begun: Instant,
    limit: Duration,
    mut each: impl FnMut(&FrameReport, &SourceFrame),
) -> u64 {
    let mut count = 0;
    for frame in frames.iter().cycle() {
        if begun.elapsed() >= limit {
            break;
        }
        let report = runner.run(frame.inputs.clone(), frame.media_type, 0);
        each(&report, frame);
        // Not kept: a long measurement would gather them without end.
        drop(runner.take_reports());
        count += 1;
    }
    count
}

/// Resident memory of this process, where the system says it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn describe(m: &Measured) -> String {
    let [first, second] = m.code_cache.starts();
    let mut start = vec![["start", first, second].map(str::to_owned).to_vec()];
    for ((name, first), (_, second)) in m.first_start_ns.iter().zip(&m.second_start_ns) {
        start.push(vec![(*name).to_owned(), duration(*first), duration(*second)]);
    }
    let mut stages =
        vec![["stage", "calls", "p50", "p95", "p99", "max"].map(str::to_owned).to_vec()];
    let frame = ("frame".to_owned(), m.summary.latency);
    for (id, p) in m.summary.stages.iter().chain([&frame]) {
        stages.push(vec![
            id.clone(),
            p.count.to_string(),
            duration(p.p50_ns),
            duration(p.p95_ns),
            duration(p.p99_ns),
            duration(p.max_ns),
        ]);
    }
    let batches: String = m
        .batches
        .iter()
        .map(|(stage, b)| {
            format!(
                "stage {stage}: {} batches of {:.1} rows, {} runs alone\n",
                b.batches, b.rows_per_batch, b.alone
            )
        })
        .collect();
    format!(
        "{}\n\n{}\n\n{}{:.0} frames/s by {}, {:.1} copies a frame, instances {}, resident memory {}",
        table(&start),
        table(&stages),
        batches,
        m.frames_per_second,
        match m.runners {
            1 => "one runner".to_owned(),
            n => format!("{n} runners"),
        },
        m.summary.copies_per_frame,
        if m.summary.pooled { "pooled" } else { "on demand" },
        m.resident_bytes.map_or_else(|| "unknown".to_owned(), bytes),
    )
}
