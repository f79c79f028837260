//! What monitors say.

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth recording.
    Info,
    /// Worth a look.
    Warning,
    /// Act.
    Alarm,
}

/// One thing that a monitor found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The monitor's id in the pipeline.
    pub monitor: String,
    /// The check, for example `missing-rate`.
    pub check: String,
    /// The feature, if it is of one.
    pub feature: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// The statistic's name with its parameters.
    pub statistic: String,
    /// Its value.
    pub value: f64,
    /// What it was held against.
    pub threshold: f64,
    /// Rows that it was computed from.
    pub rows: u64,
    /// The first and last frame that it was computed from.
    pub frames: (u64, u64),
    /// One sentence.
    pub message: String,
}

/// What a monitor reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum MonitorReport {
    /// Something that could not wait for the window's end.
    Early {
        /// What.
        finding: Finding,
    },
    /// A window ended.
    Window {
        /// The monitor.
        monitor: String,
        /// Rows in the window.
        rows: u64,
        /// The first and last frame of the window.
        frames: (u64, u64),
        /// When its first and last row were captured, in nanoseconds since
        /// the Unix epoch.
        captured_at_ns: (u64, u64),
        /// The summary in the monitor's own form, for merging.
        summary: Vec<u8>,
        /// What it means.
        findings: Vec<Finding>,
    },
    /// The monitor failed and sees no more rows.
    Disabled {
        /// The monitor.
        monitor: String,
        /// Why.
        reason: String,
    },
    /// One call failed; the monitor goes on.
    Error {
        /// The monitor.
        monitor: String,
        /// Why.
        message: String,
    },
}

impl MonitorReport {
    /// About what it takes in memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        let of = |f: &Finding| size_of::<Finding>() + f.message.len() + f.statistic.len();
        size_of::<Self>()
            + match self {
                Self::Early { finding } => of(finding),
                Self::Window { summary, findings, .. } => {
                    summary.len() + findings.iter().map(of).sum::<usize>()
                }
                Self::Disabled { reason: text, .. } | Self::Error { message: text, .. } => {
                    text.len()
                }
            }
    }
}
