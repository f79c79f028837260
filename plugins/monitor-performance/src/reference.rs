//! What a window is held against: measured once on rows whose labels are
//! known.

use serde::{
    Serialize,
    de::{Deserialize, Deserializer, Error},
};

use crate::{
    config::Config,
    fields::Fields,
    metrics::{Measured, Metric, measure},
    window::{Counted, bin},
};

/// The reference data of a package, as JSON.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reference {
    /// The format's version, 1.
    pub version: u64,
    /// The SHA-256 digests of the models that it was measured on, as
    /// `sha256:...`. Where there are any, a host refuses a package that lacks
    /// one of them.
    pub models: Vec<String>,
    /// The metrics that are judged, and the values that they had.
    pub baselines: Vec<Baseline>,
    /// How often it was true what a score is the probability of. Estimates
    /// without labels take scores as they are where there is none.
    pub calibration: Vec<Calibration>,
}

/// The value of a metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Baseline {
    /// Which.
    pub metric: Metric,
    /// The class, for a metric of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Its value.
    pub value: f64,
    /// For `accuracy`, `precision`, `recall` and `f1`: how many rows it is
    /// the share of (for `f1` true and false positives and false negatives
    /// together); 0 where the value is a given and no measurement.
    pub rows: u64,
    /// For all other metrics: the standard error, 0 for a given value.
    pub standard_error: f64,
}

/// How often an event was true, by bins of equal width of its score.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Calibration {
    /// The class that the score is of; absent for the confidence of a
    /// classifier of more than two classes, where it is that the prediction
    /// is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Rows in each bin.
    pub rows: Vec<u64>,
    /// Those of them where it was true.
    pub positives: Vec<u64>,
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(Fields::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Reference {
    fn read(mut fields: Fields) -> Result<Self, String> {
        let mut reference = Self {
            version: fields.count("version", 0),
            models: fields.texts("models"),
            ..Self::default()
        };
        for mut fields in fields.objects("baselines") {
            let metric = fields.text("metric").unwrap_or_default();
            reference.baselines.push(Baseline {
                metric: Metric::named(&metric).ok_or_else(|| format!("no metric is `{metric}`"))?,
                class: fields.text("class"),
                // No number is in no metric's range.
                value: fields.number("value", f64::NAN),
                rows: fields.count("rows", 0),
                standard_error: fields.number("standard-error", 0.0),
            });
            fields.end()?;
        }
        for mut fields in fields.objects("calibration") {
            reference.calibration.push(Calibration {
                class: fields.text("class"),
                rows: fields.counts("rows"),
                positives: fields.counts("positives"),
            });
            fields.end()?;
        }
        fields.end().map(|()| reference)
    }

    /// # Errors
    /// What is wrong with it under a configuration.
    pub fn check(&self, config: &Config) -> Result<(), String> {
        if self.version != 1 {
            return Err(format!("version is {}, known is 1", self.version));
        }
        let is_known = |class: &Option<String>| match (&config.classification, class) {
            (_, None) => true,
            (Some(classification), Some(class)) => classification.classes.contains(class),
            (None, Some(_)) => false,
        };
        for (i, b) in self.baselines.iter().enumerate() {
            let problem = if !is_known(&b.class) {
                "of a class that is not configured"
            } else if self
                .baselines
                .iter()
                .take(i)
                .any(|a| (a.metric, &a.class) == (b.metric, &b.class))
            {
                "there twice"
            } else if !b.metric.range().contains(&b.value) {
                "out of its range"
            } else if !(0.0..=f64::MAX).contains(&b.standard_error) {
                "without a sensible standard error"
            } else {
                continue;
            };
            return Err(format!("a baseline of {} is {problem}", b.metric.name()));
        }
        for Calibration { class, rows, positives } in &self.calibration {
            let problem = if !is_known(class) {
                "is of a class that is not configured"
            } else if rows.is_empty() || rows.len() != positives.len() {
                "has not as many bins of rows as of positives, or none"
            } else if rows.iter().zip(positives).any(|(rows, positives)| positives > rows) {
                "has more positives than rows"
            } else {
                continue;
            };
            return Err(format!("a calibration {problem}"));
        }
        Ok(())
    }

    /// The baseline of a metric.
    pub fn baseline(&self, metric: Metric, class: Option<&str>) -> Option<&Baseline> {
        self.baselines.iter().find(|b| b.metric == metric && b.class.as_deref() == class)
    }

    /// The calibration of a score.
    pub fn calibration(&self, class: Option<&str>) -> Option<&Calibration> {
        self.calibration.iter().find(|c| c.class.as_deref() == class)
    }

    /// The reference as a package ships it. For tools: a component does not
    /// write references.
    pub fn of(config: &Config, window: &Counted) -> Self {
        let class = |class: Option<usize>| {
            config.classification.as_ref().and_then(|c| c.name(class)).map(str::to_owned)
        };
        let baseline = |m: &Measured| Baseline {
            metric: m.metric,
            class: class(m.class),
            value: m.value,
            rows: m.spread.trials(),
            standard_error: m.spread.standard_error(),
        };
        let measured = measure(config, window);
        let baselines = measured.iter().filter(|m| !m.is_estimated).map(baseline).collect();
        let calibration = window.scores.iter().map(|score| Calibration {
            class: class(score.event.class()),
            rows: score.trues.iter().zip(&score.falses).map(|(t, f)| t + f).collect(),
            positives: score.trues.clone(),
        });
        let calibration = calibration.filter(|c| c.rows.iter().any(|&n| n > 0)).collect();
        Self { version: 1, models: Vec::new(), baselines, calibration }
    }
}

impl Calibration {
    /// The probability that a score stands for: the share of positives in its
    /// bin, the score itself in a bin without rows.
    ///
    /// # Source
    /// Zadrozny and Elkan, ICML 2001: calibration by binning.
    pub fn of(&self, score: f64) -> f64 {
        let i = bin(score, self.rows.len());
        match (self.positives.get(i), self.rows.get(i)) {
            (Some(&positives), Some(&rows)) if rows > 0 => positives as f64 / rows as f64,
            _ => score,
        }
    }
}
