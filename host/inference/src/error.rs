//! Why a model could not be loaded or run.

use std::time::Duration;

use headland_tensor::{DType, Shape, TensorError};

/// Why a model could not be loaded or run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InferenceError {
    /// No model of that name is loaded.
    #[error("no model is named {name:?}")]
    UnknownModel {
        /// The name asked for.
        name: String,
    },
    /// The bytes are not a well-formed ONNX model.
    #[error("malformed ONNX: {reason}")]
    Malformed {
        /// Which rule is broken, and where.
        reason: String,
    },
    /// The model is well-formed, but the executor cannot run it.
    #[error("unsupported {op} at {node:?}: {reason}")]
    Unsupported {
        /// The operator, or the part of the model, that is not supported.
        op: String,
        /// The node, input or output where it stands.
        node: String,
        /// What is missing.
        reason: String,
    },
    /// A run lacks an input.
    #[error("input {name:?} is missing")]
    MissingInput {
        /// The input.
        name: String,
    },
    /// A run gives an input that the model does not have.
    #[error("the model has no input {name:?}; it has {}", .known.join(", "))]
    UnknownInput {
        /// The name given.
        name: String,
        /// The names of the model.
        known: Vec<String>,
    },
    /// A run gives an input twice.
    #[error("input {name:?} is given twice")]
    DuplicateInput {
        /// The input.
        name: String,
    },
    /// An input's dtype is not the model's.
    #[error("input {input:?} is {expected}, got {actual}")]
    WrongDType {
        /// The input.
        input: String,
        /// The model's dtype.
        expected: DType,
        /// The dtype given.
        actual: DType,
    },
    /// An input's shape does not fit the model's.
    #[error("input {input:?} has shape {expected}, got {actual}{}", detail.as_ref().map(|d| format!(": {d}")).unwrap_or_default())]
    WrongShape {
        /// The input.
        input: String,
        /// The model's shape, symbols by name.
        expected: String,
        /// The shape given.
        actual: Shape,
        /// Where one symbol would stand for two sizes: both of them.
        detail: Option<String>,
    },
    /// The model or the run would pass a limit.
    #[error("{what} would take {needed}, more than the {allowed} allowed")]
    OverLimit {
        /// The [`LoadLimits`](crate::LoadLimits) field, and where it was met.
        what: String,
        /// What it would take, in the limit's unit.
        needed: u64,
        /// The limit.
        allowed: u64,
    },
    /// A set of models has no room for one more.
    #[error("model {model:?} needs {needed} bytes; {available} of the budget of {budget} are free")]
    OverBudget {
        /// The name that it was to have.
        model: String,
        /// What it takes, in bytes.
        needed: u64,
        /// What is free, in bytes.
        available: u64,
        /// What all models may take together, in bytes.
        budget: u64,
    },
    /// The run was stopped at its deadline.
    #[error("the run took longer than the {allowed:?} allowed, and was stopped before {next}")]
    DeadlineExceeded {
        /// From the start of the run to the deadline; zero for one already
        /// past.
        allowed: Duration,
        /// What would have come next: planning, a node by its name, a turn of
        /// a loop, or the end of a run that came to it too late.
        next: String,
    },
    /// The device cannot be opened, is lost, or is out of memory.
    #[error("the device failed: {reason}")]
    Device {
        /// What its driver said.
        reason: String,
    },
    /// The executor failed while it ran.
    #[error("the executor failed: {reason}")]
    Failed {
        /// What it said.
        reason: String,
    },
}

impl InferenceError {
    /// The variant as a stable word, for reports and counters.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownModel { .. } => "unknown-model",
            Self::Malformed { .. } => "malformed",
            Self::Unsupported { .. } => "unsupported",
            Self::MissingInput { .. } => "missing-input",
            Self::UnknownInput { .. } => "unknown-input",
            Self::DuplicateInput { .. } => "duplicate-input",
            Self::WrongDType { .. } => "wrong-dtype",
            Self::WrongShape { .. } => "wrong-shape",
            Self::OverLimit { .. } => "over-limit",
            Self::OverBudget { .. } => "over-budget",
            Self::DeadlineExceeded { .. } => "deadline-exceeded",
            Self::Device { .. } => "device-failed",
            Self::Failed { .. } => "failed",
        }
    }

    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }

    pub(crate) fn unsupported(
        op: impl Into<String>,
        node: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::Unsupported { op: op.into(), node: node.into(), reason: reason.into() }
    }

    pub(crate) fn over(what: impl Into<String>, needed: u64, allowed: u64) -> Self {
        Self::OverLimit { what: what.into(), needed, allowed }
    }
}

impl From<TensorError> for InferenceError {
    fn from(e: TensorError) -> Self {
        Self::Malformed { reason: e.to_string() }
    }
}
