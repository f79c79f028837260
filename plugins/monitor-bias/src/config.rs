//! What the monitor can be told.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

use crate::metrics::Metric;

/// The most values that one list may name.
const MAX_VALUES: usize = 64;

/// The longest name of a column, value or group, in bytes: with what stands
/// before it, a group's name must fit into a summary's field name.
const MAX_NAME_BYTES: usize = 256;

/// What the groups that are not named are counted as.
pub const OTHER: &str = "other";

/// Who is compared, over which columns, and what is worth an alarm.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Which rows are of the disadvantaged facet; all others that have a
    /// value are of the advantaged one.
    pub facet: Split,
    /// Which labels are positive. Rows without a label count where none is
    /// needed.
    #[serde(default)]
    pub label: Option<Split>,
    /// Which predictions are positive.
    #[serde(default)]
    pub prediction: Option<Split>,
    /// The groups that CDDL and CDDPL compare within.
    #[serde(default)]
    pub group: Option<Group>,
    /// The metrics that may raise an alarm, each with the bound that its
    /// absolute value must exceed; for `di` below 1, with 0.8 standing for
    /// 0.8..=1.25. By default `di` at 0.8 and each of `dpl`, `dppl`, `rd` and
    /// `ad` at 0.1, as far as the columns for them are named.
    #[serde(default)]
    #[schemars(schema_with = "judge_schema")]
    pub judge: Option<Bounds>,
    /// The probability that a window without bias raises any alarm at all.
    #[serde(default = "default_alpha")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
    /// Of each facet, a metric's rates must be over as many rows.
    #[serde(default = "default_min_rows")]
    pub min_rows: u64,
    /// Say the value of every metric that can be computed, at severity info.
    #[serde(default)]
    pub report: bool,
}

/// Metrics, each with a bound: an object of numbers by the metrics' names.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds(pub Vec<(Metric, f64)>);

impl<'de> Deserialize<'de> for Bounds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ByName)
    }
}

struct ByName;

impl<'de> Visitor<'de> for ByName {
    type Value = Bounds;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of metrics and bounds")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Bounds, A::Error> {
        let mut bounds: Vec<(Metric, f64)> = Vec::new();
        while let Some(name) = entries.next_key::<String>()? {
            match Metric::named(&name) {
                None => return Err(A::Error::custom(format!("no metric is `{name}`"))),
                Some(metric) if bounds.iter().any(|(given, _)| *given == metric) => {
                    return Err(A::Error::custom(format!("`{name}` is there twice")));
                }
                Some(metric) => bounds.push((metric, entries.next_value()?)),
            }
        }
        Ok(Bounds(bounds))
    }
}

/// Which values of a column are meant: those that are named, or numbers above
/// a threshold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Split {
    /// The column.
    pub column: String,
    /// The values, at most 64; in a column of numbers, those numbers.
    #[serde(default)]
    pub values: Vec<String>,
    /// Instead of values: numbers above this one.
    #[serde(default)]
    pub above: Option<f64>,
}

/// Rows that are alike in what may explain an outcome, such as the department
/// that someone applied to.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Group {
    /// The column.
    pub column: String,
    /// The groups, at most 64; any other value is of the group `other`.
    pub values: Vec<String>,
}

fn judge_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "propertyNames": { "enum": Metric::ALL.map(Metric::name) },
        "additionalProperties": { "type": "number", "exclusiveMinimum": 0 },
    })
}

fn default_alpha() -> f64 {
    0.01
}

fn default_min_rows() -> u64 {
    30
}

impl Config {
    /// # Errors
    /// What makes no sense, by its key.
    pub fn check(&self) -> Result<(), String> {
        let splits = [("facet", Some(&self.facet)), ("label", self.label.as_ref())];
        for (key, split) in splits.into_iter().chain([("prediction", self.prediction.as_ref())]) {
            let Some(split) = split else { continue };
            split.check().map_err(|why| format!("{key}: {why}"))?;
        }
        if let Some(group) = &self.group {
            names(&group.column, &group.values).map_err(|why| format!("group: {why}"))?;
            if group.values.iter().any(|name| name == OTHER) {
                return Err("group: `other` is what the rest is counted as".to_owned());
            }
        }
        if self.label.is_none() && self.prediction.is_none() {
            return Err("neither label nor prediction is named".to_owned());
        }
        if !(self.alpha > 0.0 && self.alpha < 1.0) {
            return Err("alpha is not between 0 and 1".to_owned());
        }
        for (metric, bound) in self.judged() {
            let name = metric.name();
            let most = if metric == Metric::Di { 1.0 } else { f64::MAX };
            if !(bound > 0.0 && bound <= most) {
                return Err(format!("judge: {name} has no sensible bound"));
            }
            if !self.has_columns_for(metric) {
                return Err(format!("judge: {name} needs a column that is not named"));
            }
        }
        Ok(())
    }

    /// The metrics that may raise an alarm, with their bounds.
    pub fn judged(&self) -> Vec<(Metric, f64)> {
        if let Some(Bounds(judge)) = &self.judge {
            return judge.clone();
        }
        let default = [
            (Metric::Dpl, 0.1),
            (Metric::Dppl, 0.1),
            (Metric::Di, 0.8),
            (Metric::Rd, 0.1),
            (Metric::Ad, 0.1),
        ];
        default.into_iter().filter(|(metric, _)| self.has_columns_for(*metric)).collect()
    }

    /// Whether the columns are named that a metric is over.
    pub fn has_columns_for(&self, metric: Metric) -> bool {
        let needs = metric.needs();
        (!needs.label || self.label.is_some())
            && (!needs.prediction || self.prediction.is_some())
            && (!needs.group || self.group.is_some())
    }
}

impl Split {
    fn check(&self) -> Result<(), String> {
        match (self.values.is_empty(), self.above) {
            (false, None) => names(&self.column, &self.values),
            (true, Some(above)) if above.is_finite() => names(&self.column, &[]),
            _ => Err("needs either values or a finite number in above".to_owned()),
        }
    }
}

fn names(column: &str, values: &[String]) -> Result<(), String> {
    if column.is_empty() {
        return Err("the column has no name".to_owned());
    }
    if values.len() > MAX_VALUES {
        return Err(format!("{} values are more than {MAX_VALUES}", values.len()));
    }
    for (i, value) in values.iter().enumerate() {
        if value.len() > MAX_NAME_BYTES {
            return Err(format!("a value has more than {MAX_NAME_BYTES} bytes"));
        }
        if values.iter().take(i).any(|earlier| earlier == value) {
            return Err(format!("`{value}` is there twice"));
        }
    }
    Ok(())
}
