//! What monitors count and say.
//!
//! Shared by the monitor components, the hosts that run them, the command line
//! and the registry, so that all speak of one reference, one summary and one
//! statistic:
//!
//! - [`Batch`]: rows, as a monitor sees them.
//! - [`Reference`]: what good rows look like, learnt once by [`fit`].
//! - [`Summary`]: what a window held, as integers that merge exactly.
//! - [`Finding`]: what a summary means.
//! - [`stats`]: the functions behind the findings.
//! - [`Record`]: a summary with what it is of, as it leaves a device.
//! - [`privacy`]: what may leave it, and with how much noise.
//!
//! No I/O, no clock, no randomness of its own; builds for wasm32.

mod batch;
pub mod json;
mod number;
pub mod privacy;
mod record;
mod reference;
mod report;
mod sorting;
pub mod stats;
mod summary;

pub use batch::{Batch, BatchError, Column, ColumnValues, check_batch};
pub use number::number;
pub use record::{MAX_RECORD_BYTES, Record, RecordError, Subject};
pub use reference::{
    Bins, CategoricalReference, ColumnReference, EmbeddingOptions, EmbeddingReference, FitError,
    FitOptions, GroupCounts, NumericReference, Reference, ReferenceError, ValuesReference, fit,
};
pub use report::{Finding, MonitorReport, Severity};
pub use sorting::sorted_indices;
pub use summary::{
    Digest, Field, Level, Noised, Summary, SummaryError, fixed_point, from_fixed_point,
};
