//! One trait a kind of component.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{
    Attribution, Frame, Prediction, Result, Tensors,
    monitor::{Batch, Finding, MonitorError},
};

/// Turns a source's payload into what a model takes.
pub trait Preprocess: Sized {
    /// What the stage can be told. Use `#[serde(deny_unknown_fields)]`, so
    /// that a misspelt key is refused when the package is built.
    type Config: DeserializeOwned + JsonSchema;

    /// The stage, from its configuration.
    ///
    /// # Errors
    /// [`StageError::BadConfig`](crate::StageError::BadConfig) for one that
    /// fits the schema and makes no sense.
    fn new(config: Self::Config) -> Result<Self>;

    /// `inputs` are the outputs of the stages that this one is wired to; of
    /// the source, one u8 tensor of one dimension named `payload`, or the
    /// named tensors that the source gave.
    ///
    /// # Errors
    /// [`StageError`](crate::StageError); the frame goes no further.
    fn preprocess(&mut self, frame: &Frame, inputs: Tensors) -> Result<Tensors>;
}

/// Runs a model, through [`inference`](crate::inference) or by itself.
pub trait Model: Sized {
    /// What the stage can be told. Use `#[serde(deny_unknown_fields)]`.
    type Config: DeserializeOwned + JsonSchema;

    /// The stage, from its configuration.
    ///
    /// # Errors
    /// [`StageError::BadConfig`](crate::StageError::BadConfig) for one that
    /// fits the schema and makes no sense.
    fn new(config: Self::Config) -> Result<Self>;

    /// Named outputs for named inputs. May keep state between frames.
    ///
    /// # Errors
    /// [`StageError`](crate::StageError); the frame goes no further.
    fn infer(&mut self, frame: &Frame, inputs: Tensors) -> Result<Tensors>;
}

/// Turns a model's output into a prediction.
pub trait Postprocess: Sized {
    /// What the stage can be told. Use `#[serde(deny_unknown_fields)]`.
    type Config: DeserializeOwned + JsonSchema;

    /// The stage, from its configuration.
    ///
    /// # Errors
    /// [`StageError::BadConfig`](crate::StageError::BadConfig) for one that
    /// fits the schema and makes no sense.
    fn new(config: Self::Config) -> Result<Self>;

    /// What the pipeline says of this frame.
    ///
    /// # Errors
    /// [`StageError`](crate::StageError); the frame goes no further.
    fn postprocess(&mut self, frame: &Frame, inputs: Tensors) -> Result<Prediction>;
}

/// Says why a model predicted what it did. Called on demand, never on a
/// frame's way.
pub trait Explainer: Sized {
    /// What the stage can be told. Use `#[serde(deny_unknown_fields)]`.
    type Config: DeserializeOwned + JsonSchema;

    /// The stage, from its configuration.
    ///
    /// # Errors
    /// [`StageError::BadConfig`](crate::StageError::BadConfig) for one that
    /// fits the schema and makes no sense.
    fn new(config: Self::Config) -> Result<Self>;

    /// Explain `prediction`, which the model gave for `inputs`, with at most
    /// `max_model_calls` runs of the model.
    ///
    /// # Errors
    /// [`StageError`](crate::StageError).
    fn explain(
        &mut self,
        frame: &Frame,
        inputs: Tensors,
        prediction: &Prediction,
        max_model_calls: u32,
    ) -> Result<Vec<Attribution>>;
}

/// Watches what a pipeline saw and said, over one window at a time.
pub trait Monitor: Sized {
    /// What the monitor can be told. Use `#[serde(deny_unknown_fields)]`.
    type Config: DeserializeOwned + JsonSchema;

    /// An empty window, held against the reference data that the package
    /// ships for this monitor (empty when it ships none).
    ///
    /// # Errors
    /// [`MonitorError::BadConfig`], [`MonitorError::BadReference`].
    fn open(config: Self::Config, reference: &[u8]) -> Result<Self, MonitorError>;

    /// As `open`, then on from what [`Monitor::checkpoint`] gave.
    ///
    /// # Errors
    /// As `open`, and [`MonitorError::BadCheckpoint`].
    fn restore(
        config: Self::Config,
        reference: &[u8],
        checkpoint: &[u8],
    ) -> Result<Self, MonitorError>;

    /// See rows. Gives the findings that cannot wait for the window's end.
    ///
    /// # Errors
    /// [`MonitorError::BadBatch`]; the window is as it was before.
    fn observe(&mut self, batch: &Batch) -> Result<Vec<Finding>, MonitorError>;

    /// The state, small enough to be stored every few seconds.
    fn checkpoint(&self) -> Vec<u8>;

    /// The window's summary in the monitor's own canonical form; the window
    /// is empty afterwards.
    fn close_window(&mut self) -> Vec<u8>;

    /// One summary of what two say together. Must be commutative and
    /// associative: it runs on a device and in a registry alike.
    ///
    /// # Errors
    /// [`MonitorError::Incompatible`] for summaries that do not belong
    /// together.
    fn merge(a: &[u8], b: &[u8]) -> Result<Vec<u8>, MonitorError>;

    /// What a summary means.
    ///
    /// # Errors
    /// [`MonitorError::BadConfig`], [`MonitorError::BadReference`],
    /// [`MonitorError::Incompatible`].
    fn evaluate(
        config: Self::Config,
        reference: &[u8],
        summary: &[u8],
    ) -> Result<Vec<Finding>, MonitorError>;
}
