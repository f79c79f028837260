//! What a command says, to people and to programs.
#![allow(clippy::print_stdout)]

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// How a command was asked to speak.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON lines on standard output instead of text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs are listening.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// One line of text, for people only. A closed pipe is no error: whoever
    /// reads has seen enough.
    pub fn line(self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(io::stdout(), "{}", printable(text.as_ref()));
        }
    }

    /// One JSON value on one line, for programs only.
    pub fn json(self, value: &impl Serialize) -> anyhow::Result<()> {
        if self.json {
            let text = serde_json::to_string(value)?;
            let _ = writeln!(io::stdout(), "{text}");
        }
        Ok(())
    }

    /// One line of text on standard error, for people beside the output.
    pub fn note(self, text: &str) {
        let _ = writeln!(io::stderr(), "{}", printable(text));
    }

    /// Progress on standard error; silent when that is no terminal.
    pub fn progress(self, what: &'static str, len: u64) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}");
        let bar = ProgressBar::new(len).with_message(what);
        if let Ok(style) = style { bar.with_style(style) } else { bar }
    }

    /// A spinner for work of unknown length.
    pub fn spinner(self, what: impl Into<Cow<'static, str>>) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}

/// `text` without control characters: they may come from a package or a
/// component, and a terminal would obey them.
pub fn printable(text: &str) -> Cow<'_, str> {
    let hostile = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(hostile) {
        Cow::Owned(
            text.chars()
                .map(|c| if hostile(c) { char::REPLACEMENT_CHARACTER } else { c })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

/// Rows of text in columns as wide as they need to be. The first row is the
/// heading; columns that hold numbers only are aligned to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, c: usize| row.get(c).cloned().unwrap_or_default();
    let width = |c: usize| rows.iter().map(|r| cell(r, c).chars().count()).max().unwrap_or(0);
    let numeric = |c: usize| {
        rows.len() > 1
            && rows
                .iter()
                .skip(1)
                .all(|r| cell(r, c).starts_with(|d: char| d.is_ascii_digit() || d == '-'))
    };
    let shape: Vec<(usize, bool)> = (0..columns).map(|c| (width(c), numeric(c))).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = shape
            .iter()
            .enumerate()
            .map(|(c, &(width, right))| {
                let text = cell(row, c);
                if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
            })
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Nanoseconds as people read them.
pub fn duration(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{:.2} us", ns as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        1_000_000..10_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// Bytes as people read them.
pub fn bytes(n: u64) -> String {
    match n {
        0..10_240 => format!("{n} B"),
        10_240..10_485_760 => format!("{:.1} KiB", n as f64 / 1024.0),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

/// Nearest-rank percentiles of durations in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Samples.
    pub count: usize,
    /// The median.
    pub p50_ns: u64,
    /// 95 of 100 are at most this.
    pub p95_ns: u64,
    /// 99 of 100 are at most this.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Percentiles {
    /// Of `samples`, in any order.
    pub fn of(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        let rank = |p: usize| {
            let at = (samples.len() * p).div_ceil(100).saturating_sub(1);
            samples.get(at).copied().unwrap_or(0)
        };
        Self {
            count: samples.len(),
            p50_ns: rank(50),
            p95_ns: rank(95),
            p99_ns: rank(99),
            max_ns: samples.last().copied().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let p = Percentiles::of((1..=100).rev().collect());
        assert_eq!((p.p50_ns, p.p95_ns, p.p99_ns, p.max_ns), (50, 95, 99, 100));
        assert_eq!(Percentiles::of(vec![7]).p50_ns, 7);
        assert_eq!(Percentiles::of(Vec::new()).max_ns, 0);
    }

    #[test]
    fn terminal_escapes_are_not_passed_on() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\u{fffd}[31mb\n");
    }

    #[test]
    fn numbers_are_aligned_right() {
        let rows = [["name", "n"], ["a", "5"], ["bc", "10"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|r| r.iter().map(|s| (*s).to_owned()).collect()).collect();
        assert_eq!(table(&rows), "name   n\na      5\nbc    10");
    }
}
