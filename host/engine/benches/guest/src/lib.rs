//! The stages of the runtime benchmark: as components, and as the plain
//! functions that they call.

/// f32 values to others of the same number: `x * scale + bias`.
pub fn normalise(values: &mut [f32], scale: f32, bias: f32) {
    // Sixteen at a time: a loop in a component looks at its time limit in
    // every round.
    let mut chunks = values.chunks_exact_mut(16);
    for chunk in &mut chunks {
        for v in chunk {
            *v = *v * scale + bias;
        }
    }
    for v in chunks.into_remainder() {
        *v = *v * scale + bias;
    }
}

/// The index of the largest value, and it.
pub fn best(scores: &[f32]) -> Option<(usize, f32)> {
    scores.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
}

/// Counts of a histogram over 0..1 in ten bins.
#[derive(Default)]
pub struct Histogram(pub [u64; 10]);

impl Histogram {
    /// Count one value.
    pub fn add(&mut self, value: f64) {
        let bin = (value * 10.0).clamp(0.0, 9.0) as usize;
        self.0[bin] += 1;
    }
}

/// No configuration.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

#[cfg(feature = "preprocess")]
mod world {
    use headland_sdk::{Frame, Preprocess, Result, Tensor, Tensors};

    struct Normalise;

    impl Preprocess for Normalise {
        type Config = super::Config;

        fn new(_: super::Config) -> Result<Self> {
            Ok(Self)
        }

        fn preprocess(&mut self, _: &Frame, inputs: Tensors) -> Result<Tensors> {
            let input = inputs.get("payload")?;
            let mut values = input.elements::<f32>()?;
            super::normalise(&mut values, 1.0 / 255.0, -0.5);
            Ok(Tensors::new().with("x", Tensor::from_slice(&input.shape(), &values)?))
        }
    }

    headland_sdk::export!(Normalise as preprocess);
}

#[cfg(feature = "postprocess")]
mod world {
    use headland_sdk::{ClassScore, Frame, Postprocess, Prediction, Result, StageError, Tensors};

    struct Best;

    impl Postprocess for Best {
        type Config = super::Config;

        fn new(_: super::Config) -> Result<Self> {
            Ok(Self)
        }

        fn postprocess(&mut self, _: &Frame, inputs: Tensors) -> Result<Prediction> {
            let scores = inputs.get("y")?.elements::<f32>()?;
            let (index, score) =
                super::best(&scores).ok_or_else(|| StageError::bad_input("no scores"))?;
            let class = ClassScore { index: index as u32, label: index.to_string(), score };
            Ok(Prediction { classes: vec![class], ..Prediction::default() })
        }
    }

    headland_sdk::export!(Best as postprocess);
}

#[cfg(feature = "monitor")]
mod world {
    use headland_sdk::{
        Monitor,
        monitor::{Batch, ColumnValues, Finding, MonitorError},
    };

    use super::{Config, Histogram};

    struct Scores(Histogram);

    impl Monitor for Scores {
        type Config = Config;

        fn open(_: Config, _: &[u8]) -> Result<Self, MonitorError> {
            Ok(Self(Histogram::default()))
        }

        fn restore(_: Config, _: &[u8], _: &[u8]) -> Result<Self, MonitorError> {
            Ok(Self(Histogram::default()))
        }

        fn observe(&mut self, batch: &Batch) -> Result<Vec<Finding>, MonitorError> {
            for column in &batch.columns {
                if let ColumnValues::Numeric(values) = &column.values {
                    values.iter().for_each(|&v| self.0.add(v));
                }
            }
            Ok(Vec::new())
        }

        fn checkpoint(&self) -> Vec<u8> {
            self.0.0.iter().flat_map(|n| n.to_le_bytes()).collect()
        }

        fn close_window(&mut self) -> Vec<u8> {
            let summary = self.checkpoint();
            self.0 = Histogram::default();
            summary
        }

        fn merge(a: &[u8], _: &[u8]) -> Result<Vec<u8>, MonitorError> {
            Ok(a.to_vec())
        }

        fn evaluate(_: Config, _: &[u8], _: &[u8]) -> Result<Vec<Finding>, MonitorError> {
            Ok(Vec::new())
        }
    }

    headland_sdk::export!(Scores as monitor);
}
