//! Names the class with the largest score.

use headland_sdk::{ClassScore, Frame, Postprocess, Prediction, Result, StageError, Tensors};
use schemars::JsonSchema;
use serde::Deserialize;

/// What `pipeline.toml` may say of this stage.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// One label a class, in the order of the scores.
    labels: Vec<String>,
}

/// The stage.
pub struct Best {
    labels: Vec<String>,
}

/// The index of the largest score; NaN is never the largest.
fn best(scores: &[f32]) -> Option<usize> {
    let numbers = scores.iter().enumerate().filter(|(_, s)| !s.is_nan());
    numbers.max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i)
}

impl Postprocess for Best {
    type Config = Config;

    fn new(config: Config) -> Result<Self> {
        Ok(Self { labels: config.labels })
    }

    fn postprocess(&mut self, _: &Frame, inputs: Tensors) -> Result<Prediction> {
        let scores = inputs.get("payload")?.to_vec::<f32>()?;
        let index = best(&scores).ok_or_else(|| StageError::bad_input("`payload` holds no score"))?;
        let label = self.labels.get(index).cloned().unwrap_or_else(|| index.to_string());
        let score = scores.get(index).copied().unwrap_or_default();
        let index = u32::try_from(index).map_err(StageError::bad_input)?;
        Ok(Prediction { classes: vec![ClassScore { index, label, score }], ..Prediction::default() })
    }
}

headland_sdk::export!(Best as postprocess);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_never_the_best() {
        assert_eq!(best(&[0.1, f32::NAN, 0.7]), Some(2));
        assert_eq!(best(&[f32::NAN]), None);
    }
}
