//! What a command says, to people and to programs.
#![allow(clippy::print_stdout)]

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::draw::Draw;

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

    /// One line of text, for people only.
    ///
    /// # Errors
    /// As [`write`].
    pub fn line(self, text: impl AsRef<str>) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { write(&printable(text.as_ref())) }
    }

    /// One JSON value on one line, for programs only.
    ///
    /// # Errors
    /// As [`write`], and of a value that JSON cannot hold.
    pub fn json(self, value: &impl Serialize) -> anyhow::Result<()> {
        if self.json { write(&serde_json::to_string(value)?) } else { Ok(()) }
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

/// Write one line on standard output.
///
/// # Errors
/// A bare [`io::Error`] when whoever reads has closed the pipe, which is no
/// failure of the command: see [`is_closed_pipe`]. Otherwise, what kept the
/// line from being written, such as a full disk.
fn write(line: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(e).context("cannot write to standard output"))
        }
        written => Ok(written?),
    }
}

/// Whether the reader of standard output has seen enough. Standard output is
/// the one thing that is written without a context, so the kind of a bare
/// error tells.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let bare = error.chain().next().and_then(|e| e.downcast_ref::<io::Error>());
    bare.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether a terminal would obey `c`, or show what follows it in an order
/// that it is not in.
fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` without what a terminal would obey: it may come from a package or a
/// component. Newlines and tabs are layout, and stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    replace(text, |c| is_hostile(c) && c != '\n' && c != '\t')
}

/// Text from elsewhere on its way into a line of ours: like [`printable`],
/// and it can neither begin a line nor move a column.
pub fn inline(text: &str) -> Cow<'_, str> {
    replace(text, is_hostile)
}

fn replace(text: &str, hostile: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(&hostile) {
        let safe = |c| if hostile(c) { char::REPLACEMENT_CHARACTER } else { c };
        Cow::Owned(text.chars().map(safe).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Rows of text in columns as wide as they need to be. The first row is the
/// heading; columns that hold numbers only are aligned to the right. Cells may be
/// from elsewhere: each stays on its line.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, c: usize| inline(row.get(c).map_or("", |t| t)).into_owned();
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

/// Samples of which [`Samples`] keeps every one; of more it keeps as many,
/// drawn evenly.
const MAX_SAMPLES: usize = 1_000_000;

/// Durations in nanoseconds, in memory that does not grow with the time that
/// is measured: past [`MAX_SAMPLES`] they are a uniform sample (Vitter's
/// algorithm R).
#[derive(Debug, Clone, Default)]
pub struct Samples {
    kept: Vec<u64>,
    count: u64,
    max_ns: u64,
    draw: Draw,
}

impl Samples {
    /// Take one more.
    pub fn push(&mut self, duration_ns: u64) {
        self.count += 1;
        self.max_ns = self.max_ns.max(duration_ns);
        if self.kept.len() < MAX_SAMPLES {
            self.kept.push(duration_ns);
            return;
        }
        let at = self.draw.bits() % self.count;
        if let Some(kept) = usize::try_from(at).ok().and_then(|at| self.kept.get_mut(at)) {
            *kept = duration_ns;
        }
    }

    /// Their percentiles.
    pub fn percentiles(mut self) -> Percentiles {
        self.kept.sort_unstable();
        let rank = |p: usize| {
            let at = (self.kept.len() * p).div_ceil(100).saturating_sub(1);
            self.kept.get(at).copied().unwrap_or(0)
        };
        Percentiles {
            count: self.count,
            p50_ns: rank(50),
            p95_ns: rank(95),
            p99_ns: rank(99),
            max_ns: self.max_ns,
        }
    }
}

/// Nearest-rank percentiles of durations in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Samples.
    pub count: u64,
    /// The median.
    pub p50_ns: u64,
    /// 95 of 100 are at most this.
    pub p95_ns: u64,
    /// 99 of 100 are at most this.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percentiles(samples: impl IntoIterator<Item = u64>) -> Percentiles {
        let mut all = Samples::default();
        samples.into_iter().for_each(|s| all.push(s));
        all.percentiles()
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let p = percentiles((1..=100).rev());
        assert_eq!((p.p50_ns, p.p95_ns, p.p99_ns, p.max_ns), (50, 95, 99, 100));
        assert_eq!(percentiles([7]).p50_ns, 7);
        assert_eq!(percentiles([]).max_ns, 0);
    }

    #[test]
    fn many_samples_are_drawn_evenly() {
        let n = 4 * MAX_SAMPLES as u64;
        let mut samples = Samples::default();
        (0..n).for_each(|s| samples.push(s));
        assert_eq!(samples.kept.len(), MAX_SAMPLES);
        let p = samples.percentiles();
        assert_eq!((p.count, p.max_ns), (n, n - 1));
        // The median of a uniform sample of 10^6 is within 1 % of the range,
        // twenty standard deviations.
        assert!(p.p50_ns.abs_diff(n / 2) < n / 100, "{}", p.p50_ns);
        assert!(p.p99_ns.abs_diff(n / 100 * 99) < n / 100, "{}", p.p99_ns);
    }

    #[test]
    fn terminal_escapes_are_not_passed_on() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\u{fffd}[31mb\n");
    }

    #[test]
    fn text_is_not_shown_in_another_order_than_it_has() {
        assert_eq!(printable("a\u{202e}b\u{2066}c"), "a\u{fffd}b\u{fffd}c");
    }

    #[test]
    fn a_label_cannot_forge_a_line() {
        assert_eq!(inline("ok\nverified:\tyes"), "ok\u{fffd}verified:\u{fffd}yes");
        let rows = [["name".to_owned()], ["a\nb".to_owned()]].map(Vec::from);
        assert_eq!(table(&rows), "name\na\u{fffd}b");
    }

    #[test]
    fn numbers_are_aligned_right() {
        let rows = [["name", "n"], ["a", "5"], ["bc", "10"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|r| r.iter().map(|s| (*s).to_owned()).collect()).collect();
        assert_eq!(table(&rows), "name   n\na      5\nbc    10");
    }
}
