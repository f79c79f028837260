//! How often windows of good rows raise an alarm, and how often windows that
//! moved do.
//!
//! A reference of 5 000 standard normal numbers, and windows of the same or
//! shifted by some standard deviations. Everything goes through the monitor as
//! a host calls it, with its default configuration.
//!
//! ```sh
//! cargo run --release -p monitor-drift --example false-alarms
//! ```
//!
//! With `--judge` it reads windows instead, and says of each whether it raises
//! an alarm (`1`) or not (`0`), for `tests/false_alarms.py`: little-endian,
//! per reference its length and that of its windows and their number as u64,
//! then all numbers as f64.

use std::{
    env,
    io::{ErrorKind, Read, Write, stdin, stdout},
    time::Instant,
};

use headland_monitor::{Column as Learnt, ColumnValues as Values, FitOptions, fit};
use headland_sdk::{
    Monitor,
    monitor::{Batch, Column, ColumnValues, Severity},
};
use monitor_drift::{Config, Drift};

const REFERENCE_ROWS: usize = 5_000;
const REFERENCES: u64 = 100;
const WINDOW_ROWS: [usize; 7] = [50, 100, 200, 500, 1_000, 2_000, 5_000];
/// The shift, and how many windows are judged for each reference.
const CASES: [(f64, u64); 4] = [(0.0, 100), (0.1, 20), (0.3, 20), (0.5, 20)];

fn main() -> Result<(), String> {
    if env::args().any(|a| a == "--judge") {
        return judge().map_err(|e| e.to_string());
    }
    let mut out = stdout().lock();
    let said = table(&mut out)?;
    writeln!(out, "{said}").map_err(|e| e.to_string())
}

fn table(out: &mut impl Write) -> Result<String, String> {
    writeln!(
        out,
        "monitor-drift, psi, alpha 0.01: share of windows that raise an alarm, \
         reference of {REFERENCE_ROWS} rows\n  rows | no shift | 0.1 sigma | 0.3 sigma | 0.5 sigma"
    )
    .map_err(|e| e.to_string())?;
    let started = Instant::now();
    let mut windows = 0;
    for rows in WINDOW_ROWS {
        let mut alarms = [0u64; CASES.len()];
        for seed in 0..REFERENCES {
            let mut random = Random(seed << 32 | rows as u64);
            let detector = Detector::learn(random.normals(REFERENCE_ROWS, 0.0))?;
            for ((shift, count), alarms) in CASES.iter().zip(&mut alarms) {
                for _ in 0..*count {
                    *alarms += u64::from(detector.alarms(random.normals(rows, *shift))?);
                    windows += 1;
                }
            }
        }
        let rate = |i: usize| 100.0 * alarms[i] as f64 / (CASES[i].1 * REFERENCES) as f64;
        let [null, a, b, c] = [rate(0), rate(1), rate(2), rate(3)];
        writeln!(out, "{rows:>6} | {null:>6.2} % | {a:>7.1} % | {b:>7.1} % | {c:>7.1} %")
            .map_err(|e| e.to_string())?;
    }
    Ok(format!("{windows} windows in {:.1} s", started.elapsed().as_secs_f64()))
}

/// The monitor with a reference.
struct Detector {
    reference: Vec<u8>,
}

impl Detector {
    fn learn(values: Vec<f64>) -> Result<Self, String> {
        let column = Learnt { name: "x".to_owned(), values: Values::Numeric(values) };
        let reference = fit(&[column], &FitOptions::default()).map_err(|e| e.to_string())?;
        Ok(Self { reference: reference.to_json() })
    }

    fn alarms(&self, values: Vec<f64>) -> Result<bool, String> {
        let rows = values.len() as u64;
        let values = ColumnValues::Numeric(values);
        let batch = Batch {
            frame_ids: (0..rows).collect(),
            captured_at_ns: (0..rows).collect(),
            columns: vec![Column { name: "x".to_owned(), values }],
        };
        let failed = |e| format!("{e:?}");
        let mut monitor = Drift::open(Config::default(), &self.reference).map_err(failed)?;
        monitor.observe(&batch).map_err(failed)?;
        let summary = monitor.close_window();
        let findings =
            Drift::evaluate(Config::default(), &self.reference, &summary).map_err(failed)?;
        Ok(findings.iter().any(|f| f.severity != Severity::Info))
    }
}

fn judge() -> std::io::Result<()> {
    let (mut input, mut out) = (stdin().lock(), stdout().lock());
    let mut header = [0; 24];
    loop {
        match input.read_exact(&mut header) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [reference, rows, windows] = [0, 8, 16].map(|at| {
            let word = header[at..].first_chunk::<8>().copied().unwrap_or_default();
            u64::from_le_bytes(word) as usize
        });
        let detector =
            Detector::learn(numbers(&mut input, reference)?).map_err(std::io::Error::other)?;
        for _ in 0..windows {
            let alarms =
                detector.alarms(numbers(&mut input, rows)?).map_err(std::io::Error::other)?;
            out.write_all(if alarms { b"1" } else { b"0" })?;
        }
        writeln!(out)?;
    }
}

fn numbers(input: &mut impl Read, count: usize) -> std::io::Result<Vec<f64>> {
    let mut word = [0; 8];
    let mut numbers = Vec::new();
    for _ in 0..count {
        input.read_exact(&mut word)?;
        numbers.push(f64::from_le_bytes(word));
    }
    Ok(numbers)
}

/// SplitMix64 (Steele, Lea and Flood 2014), so that the table can be repeated.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Box and Muller's.
    fn normals(&mut self, count: usize, mean: f64) -> Vec<f64> {
        let normal = |_| {
            let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
            mean + radius * (std::f64::consts::TAU * self.uniform()).cos()
        };
        (0..count).map(normal).collect()
    }
}
