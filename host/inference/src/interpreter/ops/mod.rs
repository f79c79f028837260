//! The operators, by family.

pub(crate) mod shape;

use super::{Call, OpResult};
use crate::value::Value;

/// What an operator does: from a node's inputs and attributes to its outputs, in
/// the operator's order; outputs at the end that nobody wants may be left out.
pub(crate) type Op = fn(&Call<'_>) -> OpResult<Vec<Value>>;

/// The operator of that name; ONNX's own domain is empty.
pub(crate) fn find(domain: &str, name: &str) -> Option<Op> {
    match domain {
        "" => [shape::find].iter().find_map(|family| family(name)),
        _ => None,
    }
}
