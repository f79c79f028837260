//! Why there is no explanation.

use std::fmt;

use headland_sdk::StageError;

/// Why an explanation could not be computed.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// The model could not be run.
    Model(StageError),
    /// The model gave a number that cannot be reasoned with.
    NotFinite {
        /// What it gave: NaN or an infinity.
        value: f64,
    },
    /// The model gave more or fewer numbers than its rows ask for.
    Outputs {
        /// Rows that it was run on.
        rows: usize,
        /// Numbers that it gave.
        numbers: usize,
    },
    /// The output does not have the element that is to be explained.
    NoSuchElement {
        /// The element that was asked for.
        index: usize,
        /// How many there are.
        elements: usize,
    },
    /// A row of the background is not as long as the input.
    Background {
        /// Elements of the input.
        input: usize,
        /// Elements of the row.
        row: usize,
    },
    /// The method does not do as many features at once.
    TooManyFeatures {
        /// Features that differ from the background.
        features: usize,
        /// The most that the method does.
        most: usize,
    },
    /// It would take more runs of the model than are allowed.
    Budget {
        /// Runs that it needs at least.
        needed: u64,
        /// Runs that are allowed.
        allowed: u64,
    },
    /// The coalitions do not determine the values.
    Singular,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(
                StageError::BadConfig(m)
                | StageError::BadInput(m)
                | StageError::InferenceFailed(m)
                | StageError::Failed(m),
            ) => f.write_str(m),
            Self::NotFinite { value } => {
                let kind = if value.is_nan() { "NaN" } else { "an infinity" };
                write!(f, "the model gave {kind} for the input, or for it in part")
            }
            Self::Outputs { rows, numbers } => {
                write!(f, "the model gave {numbers} numbers for {rows} rows")
            }
            Self::NoSuchElement { index, elements } => {
                write!(f, "the output has no element {index}; it has {elements}")
            }
            Self::Background { input, row } => {
                write!(f, "a row of the background has {row} elements, the input has {input}")
            }
            Self::TooManyFeatures { features, most } => write!(
                f,
                "{features} features differ from the background, the method does {most} at most; \
                 put them into `groups`, or use occlusion"
            ),
            Self::Budget { needed, allowed } => {
                write!(f, "needs {needed} runs of the model at least, {allowed} are allowed")
            }
            Self::Singular => f.write_str("the coalitions do not determine the values"),
        }
    }
}

impl From<Error> for StageError {
    fn from(e: Error) -> Self {
        let said = e.to_string();
        match e {
            Error::Model(e) => e,
            Error::NotFinite { .. } | Error::Outputs { .. } => Self::InferenceFailed(said),
            Error::NoSuchElement { .. } | Error::Background { .. } => Self::BadConfig(said),
            Error::TooManyFeatures { .. } => Self::BadInput(said),
            Error::Budget { .. } | Error::Singular => Self::Failed(said),
        }
    }
}
