//! What a change to a model costs.

use headland_tensor::{NamedTensors, Tensor};
use serde::Serialize;

use super::Samples;
use crate::{CpuExecutor, Executor, InferenceError, LoadLimits, Model};

/// How the answers of a model are held against labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The share of samples whose greatest score is at the label's index. More
    /// is better.
    Top1,
    /// The mean distance of the answers from the labels. Less is better.
    Mae,
}

/// A model from before and one from after, over the same samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Score {
    /// What is measured.
    pub metric: Metric,
    /// How many samples.
    pub samples: usize,
    /// The metric before.
    pub before: f64,
    /// The metric after.
    pub after: f64,
    /// By how much it became worse; below nought where it became better.
    pub drop: f64,
}

impl Score {
    /// Whether it became worse by no more than that. A score that is no number
    /// is not within anything.
    pub fn within(&self, max_drop: f64) -> bool {
        self.drop <= max_drop
    }
}

/// Run both models on the CPU, and hold their first output against labels: one
/// whole number for each sample, or for [`Metric::Mae`] one number for each
/// element of each answer.
///
/// # Errors
/// What loading and running give, and [`InferenceError::Failed`] for labels that
/// do not fit.
pub fn compare(
    before: &[u8],
    after: &[u8],
    samples: &Samples,
    labels: &Tensor,
    metric: Metric,
    limits: &LoadLimits,
) -> Result<Score, InferenceError> {
    if samples.is_empty() {
        return Err(InferenceError::Failed { reason: "there is no sample".to_owned() });
    }
    let labels = labels.to_f64();
    let score = |onnx: &[u8]| {
        let model = CpuExecutor.load(onnx, limits)?;
        score(&*model, samples, &labels, metric)
    };
    let (before, after) = (score(before)?, score(after)?);
    let drop = match metric {
        Metric::Top1 => before - after,
        Metric::Mae => after - before,
    };
    Ok(Score { metric, samples: samples.len(), before, after, drop })
}

fn score(
    model: &dyn Model,
    samples: &Samples,
    labels: &[f64],
    metric: Metric,
) -> Result<f64, InferenceError> {
    let failed = |reason: String| InferenceError::Failed { reason };
    let mut sum = 0.0;
    let mut elements = 0usize;
    for index in 0..samples.len() {
        let outputs: NamedTensors = model.run(&samples.get(index)?)?;
        let (name, answer) =
            outputs.first().ok_or_else(|| failed("it has no output".to_owned()))?;
        let answer = answer.to_f64();
        let each = match metric {
            Metric::Top1 => 1,
            Metric::Mae => answer.len(),
        };
        if labels.len() != each * samples.len() {
            return Err(failed(format!(
                "{} labels for {} samples of {each}, which is what output {name:?} takes",
                labels.len(),
                samples.len()
            )));
        }
        let labels = &labels[index * each..][..each];
        match metric {
            Metric::Top1 => sum += f64::from(u8::from(top(&answer) == Some(labels[0]))),
            Metric::Mae => {
                sum += answer.iter().zip(labels).map(|(a, l)| (a - l).abs()).sum::<f64>()
            }
        }
        elements += each;
    }
    Ok(sum / elements as f64)
}

/// The index of the greatest score; none where one is no number.
fn top(scores: &[f64]) -> Option<f64> {
    if scores.iter().any(|s| s.is_nan()) {
        return None;
    }
    // The first of equals, as NumPy has it.
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter().position(|&s| s == greatest).map(|index| index as f64)
}
