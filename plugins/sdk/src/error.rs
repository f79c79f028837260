//! Failing with a variant of the contract.

use std::fmt::Display;

pub use crate::bindings::imports::headland::pipeline::{
    inference::InferenceError, tensors::TensorError, types::StageError,
};

/// What a stage's methods return.
pub type Result<T, E = StageError> = std::result::Result<T, E>;

impl StageError {
    /// The configuration is of the right form but makes no sense.
    pub fn bad_config(why: impl Display) -> Self {
        Self::BadConfig(why.to_string())
    }

    /// An input is missing, or of a dtype, shape or content that the stage
    /// cannot use; `why` names it. [`Input::refuse`](crate::Input::refuse)
    /// does so by itself.
    pub fn bad_input(why: impl Display) -> Self {
        Self::BadInput(why.to_string())
    }

    /// Anything else.
    pub fn failed(why: impl Display) -> Self {
        Self::Failed(why.to_string())
    }
}

/// A tensor of the stage's own that the host would not make.
impl From<TensorError> for StageError {
    fn from(e: TensorError) -> Self {
        Self::Failed(match e {
            TensorError::WrongLength(l) => format!(
                "tensor needs {} bytes by its dtype and shape, got {}",
                l.expected_bytes, l.actual_bytes
            ),
            TensorError::BadShape(m)
            | TensorError::BadValue(m)
            | TensorError::OutOfRange(m)
            | TensorError::TooLarge(m) => m,
        })
    }
}

/// An inference that the host refused.
impl From<InferenceError> for StageError {
    fn from(e: InferenceError) -> Self {
        Self::InferenceFailed(match e {
            InferenceError::UnknownModel(m) => format!("unknown model: {m}"),
            InferenceError::Unsupported(m) => format!("unsupported: {m}"),
            InferenceError::BadInput(m) => format!("bad input: {m}"),
            InferenceError::WrongDtype(m) => format!("wrong dtype: {m}"),
            InferenceError::WrongShape(m) => format!("wrong shape: {m}"),
            InferenceError::OutOfMemory(m) => format!("out of memory: {m}"),
            InferenceError::DeadlineExceeded => "deadline exceeded".to_owned(),
            InferenceError::Failed(m) => m,
        })
    }
}
