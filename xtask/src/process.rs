//! Starting other programs, and saying what goes on.

use std::{
    io::{IsTerminal, stderr},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// What a finished program wrote.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Say what is being done, do it, and say how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("> {what}");
    let start = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("  {verdict} in {}", seconds(start.elapsed()));
    result
}

/// A duration for people.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Run to the end, whatever the end is.
pub fn finish(command: &mut Command) -> Result<Finished> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    Ok(Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Run to a successful end, and give standard output. Says nothing unless
/// the program fails.
pub fn run(command: &mut Command) -> Result<String> {
    let finished = finish(command)?;
    if finished.status.success() {
        return Ok(finished.stdout);
    }
    bail!(
        "{} ended with {}\n{}{}",
        line(command),
        finished.status,
        tail(&finished.stdout),
        tail(&finished.stderr)
    )
}

/// As [`run`] for programs that take minutes: on a terminal their progress
/// (standard error) is shown.
pub fn run_long(command: &mut Command) -> Result<()> {
    if !stderr().is_terminal() {
        return run(command).map(drop);
    }
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if status.success() { Ok(()) } else { bail!("{} ended with {status}", line(command)) }
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last lines of a program's output: where errors are.
fn tail(text: &str) -> String {
    const LINES: usize = 60;
    let lines: Vec<&str> = text.lines().collect();
    let mut kept = lines[lines.len().saturating_sub(LINES)..].join("\n");
    if !kept.is_empty() {
        kept.push('\n');
    }
    kept
}
