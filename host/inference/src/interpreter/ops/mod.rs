//! The operators, by family.

#![allow(
    clippy::absurd_extreme_comparisons,
    clippy::clone_on_copy,
    clippy::unnecessary_fallible_conversions,
    clippy::useless_conversion,
    reason = "a body is written once for all element types, and idle for some of them"
)]
#![allow(clippy::excessive_precision, reason = "constants are as they were published")]

mod attention;
mod cast;
pub(crate) mod conv;
mod detect;
mod elementwise;
mod index;
mod linear;
mod microsoft;
mod ml;
mod norm;
mod pool;
mod quantize;
mod random;
mod recurrent;
mod reduce;
pub(crate) mod resample;
mod sequence;
pub(crate) mod shape;
mod signal;
mod text;

use super::{Call, OpResult};
use crate::value::Value;

/// What an operator does: from a node's inputs and attributes to its outputs, in
/// the operator's order; outputs at the end that nobody wants may be left out.
pub(crate) type Op = fn(&Call<'_>) -> OpResult<Vec<Value>>;

/// The families of ONNX's own domain.
const FAMILIES: [fn(&str) -> Option<Op>; 18] = [
    elementwise::find,
    shape::find,
    index::find,
    cast::find,
    linear::find,
    reduce::find,
    norm::find,
    conv::find,
    pool::find,
    resample::find,
    quantize::find,
    attention::find,
    recurrent::find,
    sequence::find,
    text::find,
    signal::find,
    random::find,
    detect::find,
];

/// The operator of that name; ONNX's own domain is empty.
pub(crate) fn find(domain: &str, name: &str) -> Option<Op> {
    match domain {
        // ONNX Runtime's optimiser writes this one into ONNX's own domain.
        "" if name == "SimplifiedLayerNormalization" => microsoft::find(name),
        "" => FAMILIES.iter().find_map(|family| family(name)),
        "ai.onnx.ml" => ml::find(name),
        "com.microsoft" => microsoft::find(name),
        _ => None,
    }
}
