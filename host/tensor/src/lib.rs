//! The vocabulary of the runtime: dtypes, shapes, tensors, frames,
//! predictions and limits.
//!
//! No I/O, no clock, no async; builds for wasm32. Every other crate of the
//! host speaks in these types, and none of them is known to any one backend.

mod dtype;
mod frame;
mod limits;
mod tensor;

pub use dtype::{DType, UnknownDType};
pub use frame::{ClassScore, Detection, Frame, NamedTensors, NamedValue, Prediction};
pub use limits::Limits;
pub use tensor::{Element, MAX_RANK, Shape, Tensor, TensorError};
