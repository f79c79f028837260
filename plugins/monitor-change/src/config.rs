//! What the monitor can be told.
//!
//! The configuration is flat, because every struct and enum that is read from
//! JSON takes a component one to two kilobytes: [`DetectorConfig`] has the
//! parameters of all methods, and [`DetectorConfig::parameters`] makes of it a
//! [`Method`] that has its own alone.

use headland_monitor::number;
use headland_sdk::monitor::{Finding, Severity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kswin::MIN_DISTANCE;

/// Detectors of one monitor.
const MAX_DETECTORS: usize = 64;

/// The longest name of a column, in bytes: with a detector's it must fit into
/// a summary's field name.
const MAX_COLUMN_BYTES: usize = 256;

/// Values that the windows of all KSWIN detectors hold together. They are the
/// one state here that does not stay small by itself.
const MAX_KSWIN_VALUES: u64 = 4096;

/// Which columns are watched, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The detectors, at most 64, each method at most once a column.
    pub detectors: Vec<DetectorConfig>,
    /// The probability that a window of good rows is said to change too often,
    /// over all detectors together.
    #[serde(default = "default_alpha")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alarm_alpha: f64,
}

fn default_alpha() -> f64 {
    0.01
}

/// One detector over one column. Parameters, and their defaults, are river's,
/// of version 0.26.1; one of another method is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DetectorConfig {
    /// The column, of numbers.
    pub column: String,
    /// The detector.
    pub method: MethodName,
    /// How bad a change is.
    #[serde(default)]
    pub severity: Urgency,
    /// By how much the mean must move for a change to matter. A smaller one
    /// is counted and not reported.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub min_effect: f64,
    /// The changes a row that good rows have at most. Without it, the number
    /// of changes in a window is told and not judged.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_change_rate: Option<f64>,
    /// adwin: the significance of a cut (0.002). page-hinkley: the deviation
    /// that is tolerated, in the column's unit (0.005).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// adwin: rows from one check to the next (32).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<u32>,
    /// adwin: buckets of one size, 2 to 64 (5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_buckets: Option<u32>,
    /// adwin: the fewest rows on either side of a cut (5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_window_length: Option<u32>,
    /// adwin: rows before the first check (10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<u32>,
    /// page-hinkley: rows before the first check (30).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_instances: Option<u32>,
    /// page-hinkley: the sum of deviations from which on there is a change,
    /// in the column's unit (50).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// page-hinkley: what is kept of the sum from one row to the next
    /// (0.9999). kswin: the p-value at which there is a change (0.005).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// kswin: rows that are kept, at least twice `stat-size` (100); at most
    /// 4096 over all detectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_size: Option<u32>,
    /// kswin: the newest rows, which are held against as many of those before
    /// (30).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stat_size: Option<u32>,
    /// kswin: rows from one test to the next (1). A test takes far longer than
    /// a row without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<u32>,
    /// kswin: of the generator that samples (0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// ddm: rows before the first check (30).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_start: Option<u32>,
    /// ddm: standard deviations above the best rate at which a warning is
    /// given (2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning_threshold: Option<f64>,
    /// ddm: standard deviations above the best rate at which there is a
    /// change (3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift_threshold: Option<f64>,
}

/// How bad a change is: worth a look, or to act.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Urgency {
    Warning,
    #[default]
    Alarm,
}

impl From<Urgency> for Severity {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Warning => Self::Warning,
            Urgency::Alarm => Self::Alarm,
        }
    }
}

/// A detector's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MethodName {
    /// The mean over a window that adapts its length.
    Adwin,
    /// The sum of deviations from a running mean; below, of one sign alone.
    PageHinkley,
    /// For a mean that rises.
    PageHinkleyUp,
    /// For a mean that falls.
    PageHinkleyDown,
    /// The distribution of the newest rows against a sample of those before.
    Kswin,
    /// The rate of errors, in a column of 0 and 1.
    Ddm,
}

/// Which way a mean must move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It rises.
    Up,
    /// It falls.
    Down,
    /// Either.
    Both,
}

/// A detector with its parameters, checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Of [`Adwin`](crate::Adwin).
    Adwin(AdwinConfig),
    /// Of [`PageHinkley`](crate::PageHinkley).
    PageHinkley(PageHinkleyConfig),
    /// Of [`Kswin`](crate::Kswin).
    Kswin(KswinConfig),
    /// Of [`Ddm`](crate::Ddm).
    Ddm(DdmConfig),
}

/// Parameters of [`Adwin`](crate::Adwin), as in [`DetectorConfig`].
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdwinConfig {
    pub delta: f64,
    pub clock: u32,
    pub max_buckets: u32,
    pub min_window_length: u32,
    pub grace_period: u32,
}

/// Parameters of [`PageHinkley`](crate::PageHinkley), as in
/// [`DetectorConfig`].
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PageHinkleyConfig {
    pub min_instances: u32,
    pub delta: f64,
    pub threshold: f64,
    pub alpha: f64,
    pub mode: Mode,
}

/// Parameters of [`Kswin`](crate::Kswin), as in [`DetectorConfig`].
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KswinConfig {
    pub alpha: f64,
    pub window_size: u32,
    pub stat_size: u32,
    pub stride: u32,
    pub seed: u32,
}

/// Parameters of [`Ddm`](crate::Ddm), as in [`DetectorConfig`].
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DdmConfig {
    pub warm_start: u32,
    pub warning_threshold: f64,
    pub drift_threshold: f64,
}

impl Config {
    /// Check what the schema cannot say.
    ///
    /// # Errors
    /// What makes no sense, with the detector that it is of.
    pub fn check(&self) -> Result<(), String> {
        if !(self.alarm_alpha > 0.0 && self.alarm_alpha < 1.0) {
            return Err("alarm-alpha is not between 0 and 1".to_owned());
        }
        if self.detectors.is_empty() {
            return Err("there is no detector".to_owned());
        }
        if self.detectors.len() > MAX_DETECTORS {
            return Err(format!("{} detectors, {MAX_DETECTORS} allowed", self.detectors.len()));
        }
        let mut held = 0;
        for (i, detector) in self.detectors.iter().enumerate() {
            let same =
                |d: &DetectorConfig| d.column == detector.column && d.method == detector.method;
            let method = match self.detectors[..i].iter().any(same) {
                true => Err("it is there twice".to_owned()),
                false => detector.parameters(),
            };
            match method {
                Ok(Method::Kswin(c)) => held += u64::from(c.window_size),
                Ok(_) => {}
                Err(why) => return Err(format!("detector `{}`: {why}", detector.name())),
            }
        }
        if held > MAX_KSWIN_VALUES {
            return Err(format!(
                "the windows of KSWIN hold {held} rows together, {MAX_KSWIN_VALUES} allowed"
            ));
        }
        Ok(())
    }
}

impl DetectorConfig {
    /// Its name, unique within a monitor: that of its fields in a summary.
    pub fn name(&self) -> String {
        format!("{}/{}", self.column, self.method.as_str())
    }

    /// A finding of its column, at its severity, that something is so of all
    /// rows.
    pub(crate) fn finding(&self, check: &str, rows: u64, message: String) -> Finding {
        Finding {
            check: check.to_owned(),
            feature: Some(self.column.clone()),
            severity: self.severity.into(),
            statistic: "rate".to_owned(),
            value: 1.0,
            threshold: 0.0,
            rows,
            message,
        }
    }

    /// Its parameters, with the defaults of what is not said.
    ///
    /// # Errors
    /// A parameter of another method, or one that makes no sense.
    pub fn parameters(&self) -> Result<Method, String> {
        if !(1..=MAX_COLUMN_BYTES).contains(&self.column.len()) {
            return Err(format!("column: the name is not of 1 to {MAX_COLUMN_BYTES} bytes"));
        }
        if !(self.min_effect >= 0.0 && self.min_effect.is_finite()) {
            return Err("min-effect is no size of a change".to_owned());
        }
        if !(0.0..=1.0).contains(&self.max_change_rate.unwrap_or(0.0)) {
            return Err("max-change-rate is not within 0..=1".to_owned());
        }
        self.of_this_method()?;
        let method = match self.method {
            MethodName::Adwin => Method::Adwin(AdwinConfig {
                delta: self.delta.unwrap_or(0.002),
                clock: self.clock.unwrap_or(32),
                max_buckets: self.max_buckets.unwrap_or(5),
                min_window_length: self.min_window_length.unwrap_or(5),
                grace_period: self.grace_period.unwrap_or(10),
            }),
            MethodName::PageHinkley | MethodName::PageHinkleyUp | MethodName::PageHinkleyDown => {
                Method::PageHinkley(PageHinkleyConfig {
                    min_instances: self.min_instances.unwrap_or(30),
                    delta: self.delta.unwrap_or(0.005),
                    threshold: self.threshold.unwrap_or(50.0),
                    alpha: self.alpha.unwrap_or(0.9999),
                    mode: match self.method {
                        MethodName::PageHinkleyUp => Mode::Up,
                        MethodName::PageHinkleyDown => Mode::Down,
                        _ => Mode::Both,
                    },
                })
            }
            MethodName::Kswin => Method::Kswin(KswinConfig {
                alpha: self.alpha.unwrap_or(0.005),
                window_size: self.window_size.unwrap_or(100),
                stat_size: self.stat_size.unwrap_or(30),
                stride: self.stride.unwrap_or(1),
                seed: self.seed.unwrap_or(0),
            }),
            MethodName::Ddm => Method::Ddm(DdmConfig {
                warm_start: self.warm_start.unwrap_or(30),
                warning_threshold: self.warning_threshold.unwrap_or(2.0),
                drift_threshold: self.drift_threshold.unwrap_or(3.0),
            }),
        };
        method.check().map(|()| method).map_err(str::to_owned)
    }

    /// # Errors
    /// The first parameter that is of another method.
    fn of_this_method(&self) -> Result<(), String> {
        use MethodName::{Adwin, Ddm, Kswin, PageHinkley, PageHinkleyDown, PageHinkleyUp};
        /// Whose the parameters are.
        const PARAMETERS: [(&str, &[MethodName]); 15] = [
            ("delta", &[Adwin, PageHinkley, PageHinkleyUp, PageHinkleyDown]),
            ("clock", &[Adwin]),
            ("max-buckets", &[Adwin]),
            ("min-window-length", &[Adwin]),
            ("grace-period", &[Adwin]),
            ("min-instances", &[PageHinkley, PageHinkleyUp, PageHinkleyDown]),
            ("threshold", &[PageHinkley, PageHinkleyUp, PageHinkleyDown]),
            ("alpha", &[Kswin, PageHinkley, PageHinkleyUp, PageHinkleyDown]),
            ("window-size", &[Kswin]),
            ("stat-size", &[Kswin]),
            ("stride", &[Kswin]),
            ("seed", &[Kswin]),
            ("warm-start", &[Ddm]),
            ("warning-threshold", &[Ddm]),
            ("drift-threshold", &[Ddm]),
        ];
        let given = [
            self.delta.is_some(),
            self.clock.is_some(),
            self.max_buckets.is_some(),
            self.min_window_length.is_some(),
            self.grace_period.is_some(),
            self.min_instances.is_some(),
            self.threshold.is_some(),
            self.alpha.is_some(),
            self.window_size.is_some(),
            self.stat_size.is_some(),
            self.stride.is_some(),
            self.seed.is_some(),
            self.warm_start.is_some(),
            self.warning_threshold.is_some(),
            self.drift_threshold.is_some(),
        ];
        for ((name, methods), given) in PARAMETERS.iter().zip(given) {
            if given && !methods.contains(&self.method) {
                return Err(format!("{name} is no parameter of it"));
            }
        }
        Ok(())
    }
}

impl MethodName {
    /// As the configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Adwin => "adwin",
            Self::PageHinkley => "page-hinkley",
            Self::PageHinkleyUp => "page-hinkley-up",
            Self::PageHinkleyDown => "page-hinkley-down",
            Self::Kswin => "kswin",
            Self::Ddm => "ddm",
        }
    }
}

impl Method {
    /// Its name with all its parameters, as findings and checkpoints say it.
    pub fn statistic(&self) -> String {
        match *self {
            Self::Adwin(c) => named(
                "adwin",
                &[
                    ("delta", c.delta),
                    ("clock", c.clock.into()),
                    ("max-buckets", c.max_buckets.into()),
                    ("min-window-length", c.min_window_length.into()),
                    ("grace-period", c.grace_period.into()),
                ],
            ),
            Self::PageHinkley(c) => named(
                match c.mode {
                    Mode::Both => "page-hinkley",
                    Mode::Up => "page-hinkley-up",
                    Mode::Down => "page-hinkley-down",
                },
                &[
                    ("min-instances", c.min_instances.into()),
                    ("delta", c.delta),
                    ("threshold", c.threshold),
                    ("alpha", c.alpha),
                ],
            ),
            Self::Kswin(c) => named(
                "kswin",
                &[
                    ("alpha", c.alpha),
                    ("window-size", c.window_size.into()),
                    ("stat-size", c.stat_size.into()),
                    ("stride", c.stride.into()),
                    ("seed", c.seed.into()),
                    ("above", MIN_DISTANCE),
                ],
            ),
            Self::Ddm(c) => named(
                "ddm",
                &[
                    ("warm-start", c.warm_start.into()),
                    ("warning-threshold", c.warning_threshold),
                    ("drift-threshold", c.drift_threshold),
                ],
            ),
        }
    }

    /// Rows that it must have seen before it can find anything.
    pub fn warm_up_rows(&self) -> u64 {
        u64::from(match self {
            Self::Adwin(c) => c
                .clock
                .max(c.grace_period.saturating_add(1))
                .max(c.min_window_length.saturating_mul(2)),
            Self::PageHinkley(c) => c.min_instances,
            Self::Kswin(c) => c.window_size,
            Self::Ddm(c) => c.warm_start.saturating_add(1),
        })
    }

    fn check(&self) -> Result<(), &'static str> {
        let probability = |p: f64| p > 0.0 && p < 1.0;
        let positive = |x: f64| x > 0.0 && x.is_finite();
        match self {
            Self::Adwin(c) => {
                need(probability(c.delta), "delta is not between 0 and 1")?;
                need(c.clock >= 1, "clock is 0")?;
                need((2..=64).contains(&c.max_buckets), "max-buckets is not within 2..=64")?;
                need(c.min_window_length >= 1, "min-window-length is 0")
            }
            Self::PageHinkley(c) => {
                need(c.min_instances >= 1, "min-instances is 0")?;
                need(c.delta == 0.0 || positive(c.delta), "delta is negative or not finite")?;
                need(positive(c.threshold), "threshold is not positive")?;
                need(c.alpha > 0.0 && c.alpha <= 1.0, "alpha is not above 0 and at most 1")
            }
            Self::Kswin(c) => {
                need(probability(c.alpha), "alpha is not between 0 and 1")?;
                need(c.stat_size >= 1, "stat-size is 0")?;
                need(c.stat_size <= c.window_size / 2, "window-size is less than twice stat-size")?;
                need(c.stride >= 1, "stride is 0")
            }
            Self::Ddm(c) => {
                need(c.warm_start >= 1, "warm-start is 0")?;
                need(positive(c.warning_threshold), "warning-threshold is not positive")?;
                need(positive(c.drift_threshold), "drift-threshold is not positive")?;
                let rising = c.warning_threshold <= c.drift_threshold;
                need(rising, "drift-threshold is below warning-threshold")
            }
        }
    }
}

fn need(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// A statistic's name with its parameters, whole numbers of 32 bits in full.
fn named(name: &str, parameters: &[(&str, f64)]) -> String {
    let mut text = name.to_owned();
    for (i, (name, value)) in parameters.iter().enumerate() {
        text.push(if i == 0 { '(' } else { ',' });
        text.push_str(name);
        text.push('=');
        text.push_str(&number(*value, 10));
    }
    text.push(')');
    text
}
