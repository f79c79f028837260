//! What the monitor can be told.

use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer, Error};

use crate::fields::Fields;

/// The most classes: a window counts every pair of them.
const MAX_CLASSES: usize = 32;

/// The most bins of a score.
const MAX_BINS: u64 = 100;

/// The longest name of a class, in bytes: with what stands around it, it must
/// fit into a summary's field name.
const MAX_NAME_BYTES: usize = 256;

/// What the classes that are not named are counted as.
pub const OTHER: &str = "other";

/// Which columns are compared, and what is worth an alarm. Exactly one of
/// `classification` and `regression` is needed.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The column of what was right. Rows that lack it count as unlabelled.
    #[serde(default = "default_label")]
    pub label: String,
    /// For predictions that are classes.
    #[serde(default)]
    pub classification: Option<Classification>,
    /// For predictions that are numbers.
    #[serde(default)]
    pub regression: Option<Regression>,
    /// The probability that a window as good as the reference raises any
    /// alarm at all.
    #[serde(default = "default_alpha")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
    /// A metric over fewer rows is not judged.
    #[serde(default = "default_min_rows")]
    #[schemars(range(min = 1))]
    pub min_rows: u64,
    /// By how much a metric between 0 and 1 must be worse than its baseline
    /// to matter.
    #[serde(default = "default_min_drop")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_drop: f64,
    /// By which share of its baseline a loss or an error must be greater to
    /// matter; `bias` by that share of the baseline of `rmse`.
    #[serde(default = "default_min_rise")]
    #[schemars(range(min = 0.0))]
    pub min_rise: f64,
    /// Say the value of every metric, at severity info.
    #[serde(default)]
    pub report: bool,
}

/// Columns of a classifier. At most one of `confidence`, `score` and `scores`
/// says how probable a prediction is; without any, ROC-AUC, log loss, Brier
/// score, calibration and estimates without labels are left out.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Classification {
    /// The column of the predicted class.
    #[serde(default = "default_prediction")]
    pub prediction: String,
    /// The classes, 2 to 32; in columns of numbers, those numbers. Any other
    /// value is of the class `other`.
    pub classes: Vec<String>,
    /// The column of the predicted class's probability, as a tap on the
    /// prediction has it under `score`.
    #[serde(default)]
    pub confidence: Option<String>,
    /// The column of the probability of `positive`, against all other classes.
    #[serde(default)]
    pub score: Option<String>,
    /// The class that `score` is of. Also the class that a `confidence` over
    /// two classes is turned into the probability of: by default the second.
    #[serde(default)]
    pub positive: Option<String>,
    /// The columns of each class's probability, in the order of `classes`.
    #[serde(default)]
    pub scores: Vec<String>,
    /// Bins of equal width over 0..=1 that a score's ROC-AUC is computed from.
    #[serde(default = "default_score_bins")]
    #[schemars(range(min = 2, max = 100))]
    pub score_bins: u64,
    /// Bins of equal width over 0..=1 that the calibration error is over;
    /// `score-bins` is a multiple of it.
    #[serde(default = "default_calibration_bins")]
    #[schemars(range(min = 2, max = 100))]
    pub calibration_bins: u64,
}

/// Columns of a regression.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Regression {
    /// The column of the predicted number.
    #[serde(default = "default_value")]
    pub value: String,
    /// What errors are counted in: about the size of a usual one, such as the
    /// reference's RMSE. Powers of an error in this unit are summed with a
    /// resolution of 2^-20; an error beyond 32 units counts as one of 32.
    #[serde(default = "default_unit")]
    pub unit: f64,
}

fn default_label() -> String {
    "label".to_owned()
}

fn default_alpha() -> f64 {
    0.01
}

fn default_min_rows() -> u64 {
    50
}

fn default_min_drop() -> f64 {
    0.05
}

fn default_min_rise() -> f64 {
    0.1
}

fn default_prediction() -> String {
    "class".to_owned()
}

fn default_score_bins() -> u64 {
    50
}

fn default_calibration_bins() -> u64 {
    10
}

fn default_value() -> String {
    "value".to_owned()
}

fn default_unit() -> f64 {
    1.0
}

/// The derived schema says what may be there, and refuses more when a package
/// is built; `schema_and_reader_agree` holds this against it.
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(Fields::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Config {
    fn read(mut fields: Fields) -> Result<Self, String> {
        let classification = fields.object("classification").map(Classification::read);
        let regression = fields.object("regression").map(Regression::read);
        let config = Self {
            label: fields.text("label").unwrap_or_else(default_label),
            classification: classification.transpose()?,
            regression: regression.transpose()?,
            alpha: fields.number("alpha", default_alpha()),
            min_rows: fields.count("min-rows", default_min_rows()),
            min_drop: fields.number("min-drop", default_min_drop()),
            min_rise: fields.number("min-rise", default_min_rise()),
            report: fields.flag("report"),
        };
        fields.end().map(|()| config)
    }

    /// # Errors
    /// What makes no sense, by its key.
    pub fn check(&self) -> Result<(), String> {
        match (&self.classification, &self.regression) {
            (Some(classification), None) => classification.check()?,
            (None, Some(regression)) => {
                if !(regression.unit > 0.0 && regression.unit.is_finite()) {
                    return Err("unit is not a positive number".to_owned());
                }
            }
            _ => return Err("needs either classification or regression".to_owned()),
        }
        let problem = if !(self.alpha > 0.0 && self.alpha < 1.0) {
            "alpha is not between 0 and 1"
        } else if self.min_rows == 0 {
            "min-rows is 0"
        } else if !(0.0..=1.0).contains(&self.min_drop) {
            "min-drop is not within 0..=1"
        } else if !(0.0..=f64::MAX).contains(&self.min_rise) {
            "min-rise is no share"
        } else {
            return Ok(());
        };
        Err(problem.to_owned())
    }
}

impl Regression {
    fn read(mut fields: Fields) -> Result<Self, String> {
        let regression = Self {
            value: fields.text("value").unwrap_or_else(default_value),
            unit: fields.number("unit", default_unit()),
        };
        fields.end().map(|()| regression)
    }
}

impl Classification {
    fn read(mut fields: Fields) -> Result<Self, String> {
        let classification = Self {
            prediction: fields.text("prediction").unwrap_or_else(default_prediction),
            classes: fields.texts("classes"),
            confidence: fields.text("confidence"),
            score: fields.text("score"),
            positive: fields.text("positive"),
            scores: fields.texts("scores"),
            score_bins: fields.count("score-bins", default_score_bins()),
            calibration_bins: fields.count("calibration-bins", default_calibration_bins()),
        };
        fields.end().map(|()| classification)
    }

    fn check(&self) -> Result<(), String> {
        let classes = &self.classes;
        if !(2..=MAX_CLASSES).contains(&classes.len()) {
            return Err(format!("{} classes are not 2 to {MAX_CLASSES}", classes.len()));
        }
        for (i, class) in classes.iter().enumerate() {
            let problem = if class.is_empty() || class.len() > MAX_NAME_BYTES {
                "has no name, or one of more than 256 bytes"
            } else if class == OTHER {
                "is what the rest is counted as"
            } else if classes.iter().take(i).any(|earlier| earlier == class) {
                "is there twice"
            } else {
                continue;
            };
            return Err(format!("class `{class}` {problem}"));
        }
        let forms = usize::from(self.confidence.is_some())
            + usize::from(self.score.is_some())
            + usize::from(!self.scores.is_empty());
        let bins = 2..=MAX_BINS;
        let problem = if forms > 1 {
            "confidence, score and scores exclude each other"
        } else if !self.scores.is_empty() && self.scores.len() != classes.len() {
            "there are not as many scores as classes"
        } else if self.score.is_some() && self.positive.is_none() {
            "score needs positive, the class that it is of"
        } else if self.positive.as_ref().is_some_and(|positive| !classes.contains(positive)) {
            "positive is none of the classes"
        } else if !bins.contains(&self.score_bins) {
            "score-bins is not within 2..=100"
        } else if !bins.contains(&self.calibration_bins) {
            "calibration-bins is not within 2..=100"
        } else if !self.score_bins.is_multiple_of(self.calibration_bins) {
            "score-bins is not a multiple of calibration-bins"
        } else {
            return Ok(());
        };
        Err(problem.to_owned())
    }

    /// What the scores are the probabilities of.
    pub fn events(&self) -> Vec<Event> {
        let positive = self.classes.iter().position(|class| Some(class) == self.positive.as_ref());
        let mut events = Vec::new();
        if self.score.is_some() {
            events.push(Event::Class(positive.unwrap_or(1)));
        } else if self.confidence.is_some() {
            events.push(match self.classes.len() {
                2 => Event::Class(positive.unwrap_or(1)),
                _ => Event::Correct,
            });
        }
        for class in 0..self.scores.len() {
            events.push(Event::Class(class));
        }
        events
    }

    /// The columns of the scores.
    pub fn score_columns(&self) -> Vec<&str> {
        let mut columns = Vec::new();
        for column in [&self.confidence, &self.score].into_iter().flatten() {
            columns.push(column.as_str());
        }
        for column in &self.scores {
            columns.push(column.as_str());
        }
        columns
    }

    /// The name of a class; nothing for no class.
    pub fn name(&self, class: Option<usize>) -> Option<&str> {
        self.classes.get(class?).map(String::as_str)
    }
}

/// What a score is the probability of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// That the label is the class of that index.
    Class(usize),
    /// That the prediction is right.
    Correct,
}

impl Event {
    /// The class, for that of one.
    pub fn class(self) -> Option<usize> {
        match self {
            Self::Class(class) => Some(class),
            Self::Correct => None,
        }
    }
}
