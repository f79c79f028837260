//! Why an operator could not run.

use crate::InferenceError;

/// Why an operator could not run. The interpreter adds which node it was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpError {
    /// The operator does not do this.
    #[error("{0}")]
    Unsupported(String),
    /// Its inputs do not fit together, or do not fit its attributes.
    #[error("{0}")]
    Invalid(String),
    /// What is not the operator's own: a limit, a deadline, a node of a body.
    #[error(transparent)]
    Other(#[from] InferenceError),
}

/// What an operator gives.
pub type OpResult<T> = Result<T, OpError>;

impl OpError {
    /// [`OpError::Unsupported`].
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::Unsupported(reason.into())
    }

    /// [`OpError::Invalid`].
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid(reason.into())
    }

    /// The error of a model, where no node is at fault.
    pub(crate) fn outside(self) -> InferenceError {
        match self {
            Self::Other(error) => error,
            error => InferenceError::Failed { reason: error.to_string() },
        }
    }

    /// The error of a model whose node this is.
    pub(super) fn at(self, node: &crate::graph::Node) -> InferenceError {
        let op = if node.domain.is_empty() {
            format!("{} (opset {})", node.op, node.opset)
        } else {
            format!("{} of {} ({})", node.op, node.domain, node.opset)
        };
        match self {
            Self::Unsupported(reason) => InferenceError::unsupported(op, &node.label, reason),
            Self::Invalid(reason) => {
                InferenceError::Failed { reason: format!("{op} at {:?}: {reason}", node.label) }
            }
            Self::Other(error) => error,
        }
    }
}

impl From<ndarray::ShapeError> for OpError {
    fn from(e: ndarray::ShapeError) -> Self {
        Self::Invalid(e.to_string())
    }
}
