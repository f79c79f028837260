//! Runs a model: an ONNX front end, the [`Executor`] trait, and the CPU
//! executor.
//!
//! Bytes in, tensors out: nothing here opens a file or a socket. ONNX bytes
//! go through [`front`](ModelInfo::from_onnx), which checks them against
//! [`LoadLimits`] and rewrites the graph, and then to an [`Executor`]. Only
//! `cpu` knows that tract exists.
//!
//! ```no_run
//! # use headland_inference::{CpuExecutor, Executor, LoadLimits};
//! # fn f(onnx: &[u8], image: headland_tensor::Tensor) -> Result<(), headland_inference::InferenceError> {
//! let model = CpuExecutor.load(onnx, &LoadLimits::default())?;
//! let outputs = model.run(&[("image".to_owned(), image)])?;
//! # Ok(()) }
//! ```

#[cfg(all(feature = "gpu", not(target_family = "wasm")))]
mod auto;
#[cfg(not(target_family = "wasm"))]
mod batch;
pub mod case;
mod cpu;
mod deadline;
mod error;
mod executor;
mod front;
#[cfg(feature = "gpu")]
pub mod gpu;
mod graph;
mod interpreter;
mod limits;
pub mod optimize;
#[cfg(not(target_family = "wasm"))]
mod parallel;
mod session;
mod set;
mod value;

#[cfg(all(feature = "gpu", not(target_family = "wasm")))]
pub use auto::{AutoExecutor, Measurement, Memory};
#[cfg(not(target_family = "wasm"))]
pub use batch::{BatchOptions, BatchStatistics, Batcher};
pub use cpu::CpuExecutor;
pub use error::InferenceError;
pub use executor::{Dimension, Engine, Executor, Model, ModelInfo, TensorInfo};
pub use front::tensor::tensor_from_onnx;
pub use interpreter::{Interpreted, InterpretingExecutor, OpError, OpResult};
pub use limits::LoadLimits;
#[cfg(not(target_family = "wasm"))]
pub use parallel::{Gate, Parallel};
pub use session::{Session, State, StateBinding};
pub use set::ModelSet;
pub use value::{Array, Element, Key, Lanes, Scalar, Small, Type, Value, value_from_onnx};
