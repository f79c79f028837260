//! `cargo xtask demo`: from source to predictions, findings and a refusal.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    examples::{EXAMPLES, Example, Outcome, Trust},
    plugins,
    process::step,
    tally::Tally,
    workspace::Workspace,
};

/// Run it; an error when anything is not as it should be.
pub fn main(workspace: &Workspace) -> Result<()> {
    plugins::build(workspace)?;
    let folder = workspace.fresh_folder("demo")?;
    let trust = step("making a key pair and a trust policy", || Trust::new(workspace, &folder))?;
    let mut tally = Tally::default();
    for example in &EXAMPLES {
        show(workspace, example, &trust, &folder, &mut tally)
            .with_context(|| format!("example {}", example.name))?;
    }
    fs::remove_dir_all(&folder)?;
    tally.close()
}

fn show(
    workspace: &Workspace,
    example: &Example,
    trust: &Trust,
    folder: &Path,
    tally: &mut Tally,
) -> Result<()> {
    let name = example.name;
    let package = step(&format!("building, signing and verifying {name}"), || {
        example.package(workspace, trust, folder)
    })?;
    let outcome = step(&format!("running {name}"), || example.run(workspace, trust, &package))?;

    println!("\n== {}", outcome.package);
    print_frames(example, &outcome);
    print_findings(example, &outcome);
    println!();
    for (check, result) in example.checks(workspace, &outcome) {
        tally.check(&check, || result);
    }
    tally.check(&format!("{name}: refused with one byte of its model changed"), || {
        println!("        {}", example.tamper(workspace, trust, &package)?);
        Ok(())
    });
    Ok(())
}

fn print_frames(example: &Example, outcome: &Outcome) {
    let frames = outcome.frames.len() as u64;
    let drift = example.drift_from;
    println!(
        "\n{:>7}  {:<10} {:<10} {:>8} {:>10}",
        "frame", "truth", "predicted", "score", "latency"
    );
    for first in [0, drift] {
        for id in first..(first + 3).min(frames) {
            let frame = &outcome.frames[id as usize];
            println!(
                "{id:>7}  {:<10} {:<10} {:>8.4} {:>7.0} us",
                frame.truth,
                frame.label,
                frame.score,
                frame.duration_ns as f64 / 1e3
            );
        }
        println!("    ...");
    }
    let counts: Vec<String> =
        outcome.label_counts().iter().map(|(label, n)| format!("{label} {n}")).collect();
    let percentile = |p| outcome.duration_ns(p) as f64 / 1e3;
    let copies: u64 = outcome.frames.iter().map(|f| f.copies).sum();
    println!("\nframes            {frames}: {}", counts.join(", "));
    println!(
        "accuracy          {:.1} % before frame {drift}, {:.1} % from there on",
        100.0 * outcome.accuracy(0, drift),
        100.0 * outcome.accuracy(drift, frames)
    );
    println!(
        "latency           p50 {:.0} us, p95 {:.0} us, p99 {:.0} us",
        percentile(50),
        percentile(95),
        percentile(99)
    );
    println!("copies per frame  {:.1}", copies as f64 / frames as f64);
}

fn print_findings(example: &Example, outcome: &Outcome) {
    let (before, after): (Vec<_>, Vec<_>) =
        outcome.findings.iter().partition(|f| f.frames.0 < example.drift_from);
    for (half, findings) in [("before", before), ("from", after)] {
        println!("\nfindings {half} frame {}: {}", example.drift_from, findings.len());
        for f in findings {
            let (statistic, value, threshold) = &f.statistic;
            println!(
                "  {:>4}..={:<4} {:<7} {:<15} {:<16} {value:>6.3}, threshold {threshold:.3}  {}",
                f.frames.0,
                f.frames.1,
                f.severity,
                f.check,
                if f.feature.is_empty() { "(rows)" } else { &f.feature },
                statistic.split('(').next().unwrap_or_default()
            );
        }
    }
}
