//! Scales bytes to fractions: what a sensor's raw payload often needs.

use headland_sdk::{Frame, Preprocess, Result, StageError, Tensor, Tensors};
use schemars::JsonSchema;
use serde::Deserialize;

/// What `pipeline.toml` may say of this stage.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The value of the largest byte; every byte is divided by it.
    full_scale: f32,
}

/// The stage.
pub struct Scale {
    full_scale: f32,
}

/// `bytes` as fractions of `full_scale`.
fn scale(bytes: &[u8], full_scale: f32) -> Vec<f32> {
    bytes.iter().map(|&b| f32::from(b) / full_scale).collect()
}

impl Preprocess for Scale {
    type Config = Config;

    fn new(config: Config) -> Result<Self> {
        if config.full_scale > 0.0 {
            Ok(Self { full_scale: config.full_scale })
        } else {
            Err(StageError::bad_config("full_scale must be over 0"))
        }
    }

    fn preprocess(&mut self, _: &Frame, inputs: Tensors) -> Result<Tensors> {
        let bytes = inputs.get("payload")?.to_vec::<u8>()?;
        let len = u32::try_from(bytes.len()).map_err(StageError::bad_input)?;
        let input = Tensor::from_slice(&[1, len], &scale(&bytes, self.full_scale))?;
        Ok(Tensors::new().with("input", input))
    }
}

headland_sdk::export!(Scale as preprocess);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_scale_is_one() {
        assert_eq!(scale(&[0, 51, 255], 255.0), [0.0, 0.2, 1.0]);
    }
}
