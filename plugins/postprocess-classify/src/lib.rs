//! `postprocess-classify`: a model's scores to classes, named values and an
//! alarm.
//!
//! # Inputs
//! For `classes`: scores of any dtype, of shape `[C]` or with leading
//! dimensions of 1. For each of `values`: any tensor. An input that the
//! configuration does not name is the only one that the stage is given.
//!
//! # Output
//! `classes`, the best first, ties by index; `values` in the order of the
//! configuration; `alarm`, present when the configuration has a threshold:
//! true when any was crossed. A score or value that is not finite is refused.

use headland_sdk::{
    ClassScore, Frame, Input, NamedValue, Postprocess, Prediction, Result, StageError, Tensors,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// What to say of a frame.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Scores to rank as classes.
    pub classes: Option<Classes>,
    /// Numbers to give by name, for regressions and anomaly scores.
    #[serde(default)]
    pub values: Vec<ValueConfig>,
}

/// How scores become classes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Classes {
    /// The input that holds the scores.
    pub input: Option<String>,
    /// What is done to the scores first.
    #[serde(default)]
    pub activation: Activation,
    /// The classes' labels in the model's order; without them a class is
    /// called by its index.
    #[serde(default)]
    pub labels: Vec<String>,
    /// How many classes are given at most.
    #[serde(default = "default_top_k")]
    #[schemars(range(min = 1))]
    pub top_k: u32,
    /// Classes below are left out.
    pub min_score: Option<f64>,
    /// When a class raises the alarm.
    pub alarm: Option<ClassAlarm>,
}

fn default_top_k() -> u32 {
    5
}

/// What is done to the scores, in f64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Nothing: the model gives what it means.
    #[default]
    None,
    /// `exp(x - max) / sum(exp(x - max))`, for logits of classes that exclude
    /// each other.
    Softmax,
    /// `1 / (1 + exp(-x))`, for logits of classes that do not.
    Sigmoid,
}

/// When a class raises the alarm.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ClassAlarm {
    /// The labels that do; without labels, their indices as text.
    #[schemars(length(min = 1))]
    pub labels: Vec<String>,
    /// From which score on.
    pub min_score: f64,
}

/// One named number.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ValueConfig {
    /// The name under which it is given.
    pub name: String,
    /// The input that it is computed from.
    pub input: Option<String>,
    /// How many elements become one number.
    #[serde(default)]
    pub reduce: Reduce,
    /// Alarm when the value is above.
    pub alarm_above: Option<f64>,
    /// Alarm when the value is below.
    pub alarm_below: Option<f64>,
}

/// How the elements of a tensor become one number, in f64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reduce {
    /// The one element there is.
    #[default]
    Only,
    /// The element at this row-major index.
    Element(u32),
    /// The smallest.
    Min,
    /// The greatest.
    Max,
    /// The arithmetic mean.
    Mean,
    /// The square root of the mean of the squares.
    Rms,
    /// The mean squared difference to the input of this name, which has as
    /// many elements: an autoencoder's reconstruction error.
    MeanSquaredErrorTo(String),
}

impl Activation {
    /// What becomes of `scores`.
    pub fn apply(self, scores: &mut [f64]) {
        match self {
            Self::None => {}
            Self::Sigmoid => scores.iter_mut().for_each(|s| *s = 1.0 / (1.0 + (-*s).exp())),
            Self::Softmax => {
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                scores.iter_mut().for_each(|s| *s = (*s - max).exp());
                let sum: f64 = scores.iter().sum();
                scores.iter_mut().for_each(|s| *s /= sum);
            }
        }
    }
}

impl Classes {
    /// The classes of `scores`, and whether they raise the alarm.
    ///
    /// # Errors
    /// What is wrong with the scores: none, not finite, or not as many as the
    /// labels.
    pub fn classify(
        &self,
        mut scores: Vec<f64>,
    ) -> Result<(Vec<ClassScore>, Option<bool>), String> {
        finite(&scores)?;
        if !self.labels.is_empty() && self.labels.len() != scores.len() {
            return Err(format!(
                "has {} scores, the configuration has {} labels",
                scores.len(),
                self.labels.len()
            ));
        }
        self.activation.apply(&mut scores);
        if let Some(s) = scores.iter().find(|s| !(**s as f32).is_finite()) {
            return Err(format!("score {s:e} does not fit f32"));
        }
        let label = |i: usize| self.labels.get(i).cloned().unwrap_or_else(|| i.to_string());
        let alarm = self.alarm.as_ref().map(|a| {
            let raises = |(i, &s): (usize, &f64)| s >= a.min_score && a.labels.contains(&label(i));
            scores.iter().enumerate().any(raises)
        });
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let classes = order
            .into_iter()
            .take(self.top_k as usize)
            .filter(|&i| self.min_score.is_none_or(|m| scores[i] >= m))
            .map(|i| ClassScore { index: i as u32, label: label(i), score: scores[i] as f32 })
            .collect();
        Ok((classes, alarm))
    }

    fn check(&self) -> Result<(), String> {
        if self.top_k == 0 {
            return Err("top-k 0 leaves no class".to_owned());
        }
        if let Some((_, l)) =
            self.labels.iter().enumerate().find(|(i, l)| self.labels[..*i].contains(l))
        {
            return Err(format!("label `{l}` is there twice"));
        }
        if let Some(alarm) = &self.alarm {
            let known = |l: &String| match self.labels.as_slice() {
                [] => l.parse::<u32>().is_ok_and(|i| i.to_string() == *l),
                labels => labels.contains(l),
            };
            if let Some(l) = alarm.labels.iter().find(|l| !known(l)) {
                return Err(format!("the alarm's label `{l}` is none of the model's"));
            }
            if alarm.labels.is_empty() {
                return Err("an alarm without labels never rings".to_owned());
            }
        }
        Ok(())
    }
}

impl Reduce {
    /// One number of `elements`; `other` is what the error is taken to.
    ///
    /// # Errors
    /// What is wrong with the elements: none, not finite, or not as many as
    /// needed.
    pub fn apply(&self, elements: &[f64], other: &[f64]) -> Result<f64, String> {
        finite(elements)?;
        let n = elements.len() as f64;
        let value = match self {
            Self::Only => match elements {
                [only] => *only,
                _ => return Err(format!("has {} elements where one is needed", elements.len())),
            },
            Self::Element(i) => *elements
                .get(*i as usize)
                .ok_or_else(|| format!("has {} elements, none at {i}", elements.len()))?,
            Self::Min => elements.iter().copied().fold(f64::INFINITY, f64::min),
            Self::Max => elements.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Self::Mean => elements.iter().sum::<f64>() / n,
            Self::Rms => (elements.iter().map(|x| x * x).sum::<f64>() / n).sqrt(),
            Self::MeanSquaredErrorTo(name) if other.len() != elements.len() => {
                return Err(format!(
                    "has {} elements, `{name}` has {}",
                    elements.len(),
                    other.len()
                ));
            }
            Self::MeanSquaredErrorTo(name) => {
                finite(other).map_err(|why| format!("`{name}`: {why}"))?;
                elements.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / n
            }
        };
        if value.is_finite() { Ok(value) } else { Err(format!("gives {value}")) }
    }
}

impl ValueConfig {
    /// Whether `value` crosses a threshold; absent when there is none.
    pub fn alarm(&self, value: f64) -> Option<bool> {
        if self.alarm_above.is_none() && self.alarm_below.is_none() {
            return None;
        }
        Some(
            self.alarm_above.is_some_and(|t| value > t)
                || self.alarm_below.is_some_and(|t| value < t),
        )
    }
}

/// None of the elements is NaN or infinite, and there is one.
fn finite(elements: &[f64]) -> Result<(), String> {
    if elements.is_empty() {
        return Err("has no elements".to_owned());
    }
    match elements.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(format!("element {i} is {}", elements[i])),
        None => Ok(()),
    }
}

/// The stage.
pub struct Classify {
    config: Config,
}

impl Postprocess for Classify {
    type Config = Config;

    fn new(config: Config) -> Result<Self> {
        check(&config).map_err(StageError::BadConfig)?;
        Ok(Self { config })
    }

    fn postprocess(&mut self, _: &Frame, inputs: Tensors) -> Result<Prediction> {
        let mut prediction = Prediction::default();
        if let Some(classes) = &self.config.classes {
            let scores = inputs.get_or_only(classes.input.as_deref())?;
            let (classes, alarm) =
                classes.classify(one_frame(&scores)?).map_err(|why| scores.refuse(why))?;
            prediction.classes = classes;
            prediction.alarm = alarm;
        }
        for config in &self.config.values {
            let input = inputs.get_or_only(config.input.as_deref())?;
            let other = match &config.reduce {
                Reduce::MeanSquaredErrorTo(name) => inputs.get(name)?.to_f64()?,
                _ => Vec::new(),
            };
            let value =
                config.reduce.apply(&input.to_f64()?, &other).map_err(|why| input.refuse(why))?;
            if let Some(alarm) = config.alarm(value) {
                prediction.alarm = Some(prediction.alarm.unwrap_or(false) | alarm);
            }
            prediction.values.push(NamedValue { name: config.name.clone(), value });
        }
        Ok(prediction)
    }
}

/// The scores of a batch of one.
fn one_frame(scores: &Input<'_>) -> Result<Vec<f64>> {
    let shape = scores.shape();
    match shape.split_last() {
        Some((_, batch)) if batch.iter().all(|&d| d == 1) => scores.to_f64(),
        _ => Err(scores.refuse(format!("needs shape [C] or [1,C], is {shape:?}"))),
    }
}

fn check(config: &Config) -> Result<(), String> {
    if config.classes.is_none() && config.values.is_empty() {
        return Err("neither classes nor values: there is nothing to say".to_owned());
    }
    if let Some(classes) = &config.classes {
        classes.check()?;
    }
    for (i, value) in config.values.iter().enumerate() {
        if config.values[..i].iter().any(|v| v.name == value.name) {
            return Err(format!("value `{}` is there twice", value.name));
        }
    }
    Ok(())
}

headland_sdk::export!(Classify as postprocess);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(json: &str) -> Config {
        serde_json::from_str(json).unwrap()
    }

    fn classes(json: &str) -> Classes {
        config(&format!(r#"{{"classes": {json}}}"#)).classes.unwrap()
    }

    /// Numbers of `scipy.special.softmax` and `expit`, SciPy 1.17.
    #[test]
    fn activations_agree_with_scipy() {
        let mut softmax = [1.0, -2.0, 3.5, 3.0];
        Activation::Softmax.apply(&mut softmax);
        let expected =
            [0.04849346062249701, 0.0024143472394065764, 0.5907712911671815, 0.35832090097091485];
        assert!(softmax.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{softmax:?}");
        let mut huge = [1e4, 1e4 - 1.0];
        Activation::Softmax.apply(&mut huge);
        assert!((huge[0] - 0.731_058_578_630_004_9).abs() < 1e-15);
        let mut sigmoid = [0.0, 2.0, -745.0, 800.0];
        Activation::Sigmoid.apply(&mut sigmoid);
        let expected = [0.5, 0.880_797_077_977_882_3, 0.0, 1.0];
        assert!(sigmoid.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{sigmoid:?}");
    }

    #[test]
    fn best_classes_come_first_and_ties_by_index() {
        let c = classes(r#"{"labels": ["a", "b", "c", "d"], "top-k": 3, "min-score": 0.2}"#);
        let (best, alarm) = c.classify(vec![0.2, 0.3, 0.3, 0.1]).unwrap();
        let seen: Vec<(u32, &str)> = best.iter().map(|c| (c.index, c.label.as_str())).collect();
        assert_eq!(seen, [(1, "b"), (2, "c"), (0, "a")]);
        assert_eq!(alarm, None);
        let (best, _) = c.classify(vec![0.1, 0.9, 0.0, 0.0]).unwrap();
        assert_eq!(best.len(), 1);
        assert_eq!(best[0].score, 0.9);
    }

    #[test]
    fn class_alarm_rings_for_its_labels_only_even_beyond_top_k() {
        let c = classes(
            r#"{"labels": ["ok", "crack", "dent"], "top-k": 1,
                "alarm": {"labels": ["crack"], "min-score": 0.3}}"#,
        );
        assert_eq!(c.classify(vec![0.6, 0.3, 0.1]).unwrap().1, Some(true));
        assert_eq!(c.classify(vec![0.1, 0.2, 0.7]).unwrap().1, Some(false));
        let by_index = classes(r#"{"alarm": {"labels": ["2"], "min-score": 0.5}}"#);
        assert_eq!(by_index.classify(vec![0.0, 0.0, 0.5]).unwrap().1, Some(true));
    }

    #[test]
    fn nan_storm_and_wrong_class_count_are_refused() {
        let c = classes(r#"{"labels": ["a", "b"], "activation": "softmax"}"#);
        assert_eq!(c.classify(vec![0.0, f64::NAN]).unwrap_err(), "element 1 is NaN");
        assert_eq!(c.classify(vec![f64::INFINITY, 0.0]).unwrap_err(), "element 0 is inf");
        assert_eq!(c.classify(vec![]).unwrap_err(), "has no elements");
        let raw = classes("{}").classify(vec![1e300]).unwrap_err();
        assert_eq!(raw, "score 1e300 does not fit f32");
        assert_eq!(
            c.classify(vec![0.0; 3]).unwrap_err(),
            "has 3 scores, the configuration has 2 labels"
        );
    }

    #[test]
    fn values_reduce_as_named() {
        let x = [3.0, -4.0, 1.0];
        let of = |r: Reduce| r.apply(&x, &[]).unwrap();
        assert_eq!(of(Reduce::Element(1)), -4.0);
        assert_eq!((of(Reduce::Min), of(Reduce::Max), of(Reduce::Mean)), (-4.0, 3.0, 0.0));
        assert!((of(Reduce::Rms) - (26.0f64 / 3.0).sqrt()).abs() < 1e-15);
        let mse = Reduce::MeanSquaredErrorTo("y".into());
        assert_eq!(mse.apply(&x, &[1.0, -4.0, 4.0]).unwrap(), 13.0 / 3.0);
        assert_eq!(mse.apply(&x, &[1.0]).unwrap_err(), "has 3 elements, `y` has 1");
        assert!(mse.apply(&x, &[1.0, f64::NAN, 0.0]).is_err());
        assert!(Reduce::Only.apply(&x, &[]).is_err());
        assert!(Reduce::Element(3).apply(&x, &[]).is_err());
        assert!(Reduce::Mean.apply(&[f64::NAN], &[]).is_err());
        assert_eq!(Reduce::Rms.apply(&[1e300], &[]).unwrap_err(), "gives inf");
    }

    #[test]
    fn value_alarm_is_absent_without_a_threshold() {
        let v = |json: &str| config(&format!(r#"{{"values": [{json}]}}"#)).values.remove(0);
        assert_eq!(v(r#"{"name": "rul"}"#).alarm(5.0), None);
        let both = v(r#"{"name": "rul", "alarm-above": 10, "alarm-below": 1}"#);
        assert_eq!(
            [0.5, 1.0, 10.0, 10.5].map(|x| both.alarm(x)),
            [Some(true), Some(false), Some(false), Some(true)]
        );
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for (json, why) in [
            ("{}", "neither classes nor values: there is nothing to say"),
            (r#"{"classes": {"top-k": 0}}"#, "top-k 0 leaves no class"),
            (r#"{"classes": {"labels": ["a", "a"]}}"#, "label `a` is there twice"),
            (
                r#"{"classes": {"labels": ["a"], "alarm": {"labels": ["b"], "min-score": 1}}}"#,
                "the alarm's label `b` is none of the model's",
            ),
            (r#"{"values": [{"name": "v"}, {"name": "v"}]}"#, "value `v` is there twice"),
        ] {
            assert_eq!(Classify::new(config(json)).err(), Some(StageError::BadConfig(why.into())));
        }
        assert!(serde_json::from_str::<Config>(r#"{"classes": {"topk": 1}}"#).is_err());
    }
}
