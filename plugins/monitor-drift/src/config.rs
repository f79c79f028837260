//! What `pipeline.toml` may say.

use headland_monitor::json::{Json, JsonObject};
use headland_sdk::monitor::MonitorError;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error};

use crate::statistic::Statistic;

/// What is worth an alarm.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// The probability that a window of good rows raises any alarm at all.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
    /// The first one alarms; of the others, a window's values are reported as
    /// `info`.
    #[schemars(length(min = 1, max = 7))]
    pub statistics: Vec<Statistic>,
    /// From which value on each statistic matters.
    pub thresholds: Thresholds,
    /// A finding is a warning up to this many times its threshold, an alarm
    /// beyond. For the `psi`, the default makes 0.1 a warning and 0.25 an
    /// alarm, as is customary.
    #[schemars(range(min = 1.0))]
    pub alarm_factor: f64,
    /// The columns to watch; all of the reference when there are none.
    pub columns: Vec<String>,
    /// A column of categories: rows are also counted and judged by its
    /// values, so that a group that moves is found where the whole does not.
    pub by: Option<String>,
    /// The values of `by` to count, up to 64; without any, those of the
    /// reference. Rows of all others are counted as one group more.
    #[schemars(length(max = 64))]
    pub groups: Vec<String>,
}

/// From which value on a statistic matters, whatever the number of rows.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Thresholds {
    /// Population stability index, in nats.
    #[schemars(range(min = 0.0))]
    pub psi: f64,
    /// Jensen-Shannon distance with logarithms to base 2.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jensen_shannon: f64,
    /// Hellinger distance.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub hellinger: f64,
    /// Total variation distance.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub total_variation: f64,
    /// Wasserstein-1 distance, in standard deviations of the reference.
    #[schemars(range(min = 0.0))]
    pub wasserstein: f64,
    /// Kolmogorov-Smirnov statistic.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub kolmogorov_smirnov: f64,
    /// The effect size `w` (Cohen 1988) behind the chi-squared statistic.
    #[schemars(range(min = 0.0))]
    pub chi_square: f64,
    /// Distance of an embedding's mean from the reference's, in the
    /// reference's standard deviation of the whole vector.
    #[schemars(range(min = 0.0))]
    pub mean_embedding: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            alpha: 0.01,
            statistics: vec![Statistic::Psi],
            thresholds: Thresholds::default(),
            alarm_factor: 2.5,
            columns: Vec::new(),
            by: None,
            groups: Vec::new(),
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            psi: 0.1,
            jensen_shannon: 0.1,
            hellinger: 0.1,
            total_variation: 0.1,
            wasserstein: 0.2,
            kolmogorov_smirnov: 0.1,
            chi_square: 0.3,
            mean_embedding: 0.1,
        }
    }
}

/// By hand, and through [`Json`] as the reference is read: derived, it would
/// be a tenth of the component.
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(reader)?;
        JsonObject::read(json, Self::read).map_err(D::Error::custom)
    }
}

impl Config {
    fn read(json: &mut JsonObject) -> Self {
        let default = Self::default();
        Self {
            alpha: or(json, "alpha", default.alpha),
            statistics: if json.has("statistics") { statistics(json) } else { default.statistics },
            thresholds: if json.has("thresholds") {
                json.object("thresholds", Thresholds::read)
            } else {
                default.thresholds
            },
            alarm_factor: or(json, "alarm-factor", default.alarm_factor),
            columns: json.texts("columns"),
            by: json.has("by").then(|| json.text("by")),
            groups: json.texts("groups"),
        }
    }

    /// # Errors
    /// [`MonitorError::BadConfig`] for what the schema cannot say.
    pub fn check(&self) -> Result<(), MonitorError> {
        let mut thresholds = self.thresholds.clone();
        let is_threshold = |t: f64| t >= 0.0 && t.is_finite();
        let problem = if !(self.alpha > 0.0 && self.alpha < 1.0) {
            "alpha is not between 0 and 1"
        } else if !(self.alarm_factor >= 1.0 && self.alarm_factor.is_finite()) {
            "alarm-factor is less than 1"
        } else if !thresholds.by_name().iter().all(|(_, t)| is_threshold(**t)) {
            "a threshold is negative or no number"
        } else if self.statistics.is_empty() {
            "there is no statistic to alarm on"
        } else if self.by.is_none() && !self.groups.is_empty() {
            "groups need `by`, the column that they are values of"
        } else {
            return Ok(());
        };
        Err(MonitorError::BadConfig(problem.to_owned()))
    }
}

fn or(json: &mut JsonObject, name: &str, default: f64) -> f64 {
    if json.has(name) { json.number(name) } else { default }
}

fn statistics(json: &mut JsonObject) -> Vec<Statistic> {
    let mut statistics = Vec::new();
    for name in json.texts("statistics") {
        match Statistic::ALL.iter().find(|s| s.key() == name) {
            Some(statistic) => statistics.push(*statistic),
            None => json.refuse("statistics", "has an unknown name"),
        }
    }
    statistics
}

impl Thresholds {
    fn read(json: &mut JsonObject) -> Self {
        let mut thresholds = Self::default();
        for (name, threshold) in thresholds.by_name() {
            *threshold = or(json, name, *threshold);
        }
        thresholds
    }

    fn by_name(&mut self) -> [(&'static str, &mut f64); 8] {
        [
            ("psi", &mut self.psi),
            ("jensen-shannon", &mut self.jensen_shannon),
            ("hellinger", &mut self.hellinger),
            ("total-variation", &mut self.total_variation),
            ("wasserstein", &mut self.wasserstein),
            ("kolmogorov-smirnov", &mut self.kolmogorov_smirnov),
            ("chi-square", &mut self.chi_square),
            ("mean-embedding", &mut self.mean_embedding),
        ]
    }
}
