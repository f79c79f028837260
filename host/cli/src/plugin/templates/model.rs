//! A model that needs nothing of the host: a weighted sum.

use headland_sdk::{Frame, Model, Result, StageError, Tensor, Tensors};
use schemars::JsonSchema;
use serde::Deserialize;

/// What `pipeline.toml` may say of this stage.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// One weight a feature.
    weights: Vec<f32>,
    /// What is added to the sum.
    bias: f32,
}

/// The stage.
pub struct Linear(Config);

/// The weighted sum, if there are as many features as weights.
fn score(features: &[f32], config: &Config) -> Option<f32> {
    let fits = features.len() == config.weights.len();
    fits.then(|| {
        let products = features.iter().zip(&config.weights).map(|(f, w)| f * w);
        products.sum::<f32>() + config.bias
    })
}

impl Model for Linear {
    type Config = Config;

    fn new(config: Config) -> Result<Self> {
        Ok(Self(config))
    }

    fn infer(&mut self, _: &Frame, inputs: Tensors) -> Result<Tensors> {
        let features = inputs.get("payload")?.to_vec::<f32>()?;
        let score = score(&features, &self.0).ok_or_else(|| {
            let (given, weights) = (features.len(), self.0.weights.len());
            StageError::bad_input(format!("`payload` has {given} features, there are {weights} weights"))
        })?;
        Ok(Tensors::new().with("score", Tensor::from_slice(&[1], &[score])?))
    }
}

headland_sdk::export!(Linear as model);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_and_weights_must_match() {
        let config = Config { weights: vec![1.0, -2.0], bias: 0.5 };
        assert_eq!(score(&[3.0, 1.0], &config), Some(1.5));
        assert_eq!(score(&[3.0], &config), None);
    }
}
