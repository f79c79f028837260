//! Makes a model smaller or faster, and says what that did.
//!
//! An [`Optimizer`] holds one model and applies one [`Pass`] after another to
//! it, in the order in which they are asked for: one file for each pass. What a
//! pass leaves goes through the checks of a model that is loaded, so a pass that
//! would make an invalid model fails instead. What comes out is ONNX again, for
//! any runtime.
//!
//! [`compare`] runs the model from before and the one from after over labelled
//! samples.
//!
//! ```no_run
//! # use headland_inference::{InferenceError, LoadLimits, optimize::{Optimizer, Pass}};
//! # fn f(onnx: &[u8]) -> Result<Vec<u8>, InferenceError> {
//! let mut optimizer = Optimizer::open(onnx, &LoadLimits::default())?;
//! for pass in [Pass::Identities, Pass::Fold, Pass::Fuse, Pass::Dead, Pass::Half] {
//!     optimizer.apply(&pass)?;
//! }
//! Ok(optimizer.to_onnx())
//! # }
//! ```

mod channels;
mod dead;
mod facts;
mod fold;
mod fuse;
mod gate;
mod half;
mod identities;
mod int8;
mod lossless;
mod observe;
mod opset;
mod samples;
mod sparsity;
mod surgery;

use std::collections::BTreeMap;

use prost::Message;
use serde::Serialize;
use tract_onnx::pb::{GraphProto, ModelProto, StringStringEntryProto};

use crate::{
    InferenceError, LoadLimits,
    front::{self, Census},
};

pub use gate::{Metric, Score, compare};
pub use int8::{Activations, Int8, Range};
pub use samples::Samples;
pub use sparsity::{Sparsity, sparsity};

/// One change to a model.
#[derive(Debug, Clone, Copy)]
pub enum Pass<'a> {
    /// Take out `Identity`, and `Dropout`, which does nothing in inference.
    Identities,
    /// Compute what depends on constants alone.
    Fold,
    /// Work `BatchNormalization`, and `Add`, `Sub`, `Mul` and `Div` by
    /// constants, into the `Conv`, `ConvTranspose` or `Gemm` before them;
    /// `MatMul` and a constant `Add` become `Gemm` where they are of two
    /// dimensions.
    Fuse,
    /// Take out nodes and constants that no output depends on.
    Dead,
    /// Store weights and compute in float16 what keeps its answer there. Inputs
    /// and outputs stay as they are.
    Half,
    /// Quantise to eight bits, by ranges seen on samples.
    Int8(Int8<'a>),
}

impl Pass<'_> {
    /// The pass as a stable word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Identities => "identities",
            Self::Fold => "fold",
            Self::Fuse => "fuse",
            Self::Dead => "dead",
            Self::Half => "f16",
            Self::Int8(_) => "int8",
        }
    }
}

/// How large a model is, nested graphs included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Nodes.
    pub nodes: u64,
    /// Elements of constants.
    pub parameters: u64,
    /// Bytes of constants.
    pub parameter_bytes: u64,
    /// How often each operator occurs.
    pub operators: BTreeMap<String, u64>,
}

/// What one pass did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassReport {
    /// [`Pass::name`].
    pub pass: &'static str,
    /// The model that the pass found.
    pub before: Size,
    /// The model that it left.
    pub after: Size,
    /// What it did not do although it was asked to.
    pub notes: Vec<Note>,
}

/// What a pass left as it was, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The node's name, or that of its first output.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Why it was left.
    pub reason: String,
}

impl Note {
    fn new(node: &tract_onnx::pb::NodeProto, reason: impl Into<String>) -> Self {
        Self { node: front::label(node), op: node.op_type.clone(), reason: reason.into() }
    }
}

/// Keys of what [`Optimizer::stamp`] writes begin with this.
pub const STAMP_PREFIX: &str = "headland.optimize.";

/// A model, and the passes that have gone over it.
pub struct Optimizer {
    proto: ModelProto,
    limits: LoadLimits,
    reports: Vec<PassReport>,
}

impl Optimizer {
    /// Read a model. Functions are inlined, constants that double as inputs are
    /// inputs no more, and claims about the shapes of intermediate results are
    /// dropped.
    ///
    /// # Errors
    /// As [`ModelInfo::from_onnx`](crate::ModelInfo::from_onnx), and
    /// [`InferenceError::Unsupported`] for what could not be written back as it
    /// was: types other than tensors in nested graphs.
    pub fn open(onnx: &[u8], limits: &LoadLimits) -> Result<Self, InferenceError> {
        let (mut proto, _) = front::open(onnx, limits)?;
        lossless::check(onnx)?;
        if let Some(graph) = &mut proto.graph {
            drop_claims(graph);
            let constants: Vec<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
            let constants: std::collections::HashSet<&String> = constants.iter().collect();
            graph.input.retain(|input| !constants.contains(&input.name));
        }
        // Before version 4, every constant had to be an input too.
        proto.ir_version = proto.ir_version.max(4);
        Ok(Self { proto, limits: *limits, reports: Vec::new() })
    }

    /// Apply a pass.
    ///
    /// # Errors
    /// [`InferenceError::Unsupported`] for a model that the pass cannot serve as
    /// a whole, such as one of a very old operator set, and for [`Pass::Int8`]
    /// what running it on the samples gives. The model is then of no use.
    pub fn apply(&mut self, pass: &Pass<'_>) -> Result<&PassReport, InferenceError> {
        let before = self.size()?;
        let (proto, limits) = (&mut self.proto, &self.limits);
        let notes = match pass {
            Pass::Identities => identities::remove(proto),
            Pass::Fold => fold::constants(proto, limits),
            Pass::Fuse => fuse::linear(proto),
            Pass::Dead => dead::remove(proto),
            Pass::Half => half::convert(proto)?,
            Pass::Int8(options) => int8::quantize(proto, options, limits)?,
        };
        let after = self.size().map_err(|e| InferenceError::Failed {
            reason: format!("pass {:?} made a model that is not valid: {e}", pass.name()),
        })?;
        self.reports.push(PassReport { pass: pass.name(), before, after, notes });
        self.reports.last().ok_or_else(|| InferenceError::Failed { reason: "no report".to_owned() })
    }

    /// What the passes did so far, in their order.
    pub fn reports(&self) -> &[PassReport] {
        &self.reports
    }

    /// Say something of the model in its metadata, under [`STAMP_PREFIX`] and
    /// `key`; what was said under it before is replaced.
    pub fn stamp(&mut self, key: &str, value: &str) {
        let key = format!("{STAMP_PREFIX}{key}");
        self.proto.metadata_props.retain(|entry| entry.key != key);
        self.proto.metadata_props.push(StringStringEntryProto { key, value: value.to_owned() });
    }

    /// The model as ONNX.
    pub fn to_onnx(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    /// Count, and check.
    fn size(&mut self) -> Result<Size, InferenceError> {
        let census: Census = front::check(&mut self.proto, &self.limits)?;
        Ok(Size {
            nodes: census.nodes,
            parameters: census.parameters,
            parameter_bytes: census.parameter_bytes,
            operators: census.operators,
        })
    }
}

/// Drop what a graph and those within it claim about intermediate results.
fn drop_claims(graph: &mut GraphProto) {
    graph.value_info.clear();
    graph.node.iter_mut().flat_map(surgery::bodies_mut).for_each(drop_claims);
}
