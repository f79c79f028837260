//! Write a Headland component as a page of Rust.
//!
//! A component is a `cdylib` with one type that implements the trait of its
//! kind, and one [`export!`]:
//!
//! | kind | trait | what it does |
//! |---|---|---|
//! | `preprocess` | [`Preprocess`] | turns a source's payload into what a model takes |
//! | `model` | [`Model`] | runs a model: through [`inference`], or by itself |
//! | `postprocess` | [`Postprocess`] | turns a model's output into a prediction |
//! | `monitor` | [`Monitor`] | watches rows of a pipeline, after the prediction is out |
//! | `explainer` | [`Explainer`] | says why a model predicted what it did |
//!
//! ```
//! use headland_sdk::{Frame, Preprocess, Result, StageError, Tensor, Tensors};
//!
//! /// What `pipeline.toml` may say; the schema that the host checks it
//! /// against is made from this.
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! pub struct Config {
//!     /// What every sample is multiplied with.
//!     gain: f32,
//! }
//!
//! pub struct Amplify {
//!     gain: f32,
//! }
//!
//! impl Preprocess for Amplify {
//!     type Config = Config;
//!
//!     fn new(config: Config) -> Result<Self> {
//!         if config.gain == 0.0 {
//!             return Err(StageError::bad_config("gain 0 would erase the signal"));
//!         }
//!         Ok(Self { gain: config.gain })
//!     }
//!
//!     fn preprocess(&mut self, _: &Frame, inputs: Tensors) -> Result<Tensors> {
//!         let signal = inputs.get("signal")?;
//!         let mut samples = signal.elements::<f32>()?;
//!         samples.iter_mut().for_each(|s| *s *= self.gain);
//!         Ok(Tensors::new().with("input", Tensor::from_slice(&signal.shape(), &samples)?))
//!     }
//! }
//!
//! headland_sdk::export!(Amplify as preprocess);
//! # fn main() {}
//! ```
//!
//! Its `Cargo.toml` says `crate-type = ["cdylib", "rlib"]` and depends on
//! this crate, `serde` and `schemars`; the package's name, version and
//! description are the component's. The target is `wasm32-unknown-unknown`,
//! which imports nothing but the contract.
//!
//! A component of a page like this is of 145 kB, and of 50 kB when its schema
//! is a file: see [`export!`]. What else it reads, [`json`] reads in little
//! room. Its stack is of 64 KiB, by `-zstack-size` in `.cargo/config.toml`; a
//! component that needs more says so in a `build.rs`.
//!
//! What a stage is given is the outside world: everything that can be wrong
//! with it is a [`StageError`], and a panic is a bug. On other targets than
//! wasm32 a plugin compiles, but tensors and models cannot be used: keep the
//! arithmetic in functions over slices and test those.

/// Two-level segregated fits: constant time, and 7 kB less of every component
/// than the allocator of the standard library.
///
/// # Source
/// Masmano, Ripoll, Crespo and Real, "TLSF: a New Dynamic Memory Allocator for
/// Real-Time Systems", ECRTS 2004.
#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ALLOCATOR: rlsf::SmallGlobalTlsf = rlsf::SmallGlobalTlsf::new();

#[doc(hidden)]
pub mod bindings;
mod error;
mod export;
pub mod json;
#[doc(hidden)]
pub mod schema;
mod stage;
mod tensor;

/// Models that the host runs on the device that it chose.
pub use bindings::imports::headland::pipeline::inference;
/// Messages for people; the host limits their rate and length.
pub use bindings::imports::headland::pipeline::log;
pub use bindings::{
    attributor::exports::headland::pipeline::attributor::Attribution,
    imports::headland::pipeline::{
        tensors::{Dtype as DType, Tensor},
        types::{ClassScore, Description, Detection, Frame, NamedValue, Prediction},
    },
};
pub use error::{InferenceError, Result, StageError, TensorError};
pub use stage::{Explainer, Model, Monitor, Postprocess, Preprocess};
pub use tensor::{Element, Elements, Input, Tensors, decode, decode_f64};

/// What a monitor sees and says.
pub mod monitor {
    pub use crate::bindings::monitoring::exports::headland::pipeline::monitoring::{
        Batch, Column, ColumnValues, Finding, MonitorError, Severity,
    };
}

/// What [`export!`] expands to.
#[doc(hidden)]
pub mod __private {
    pub use crate::{
        bindings::imports::headland::pipeline::tensors::NamedTensor,
        export::{Slot, parse_config},
    };
}
