//! `Sub` with a constant on the left.
//!
//! tract works a constant that is taken from or added to a convolution into it,
//! and mistakes which is taken from which where the constant stands on the
//! left. For floats, `c - y` is `c + (-y)` to the last bit.

use tract_onnx::{
    model::ParsingContext,
    pb::NodeProto,
    tract_hir::{
        internal::*,
        ops::binary::InferenceBinOp,
        tract_core::ops::math::{Add, Sub, neg},
    },
};

/// Read a `Sub` node.
pub(super) fn build(
    _: &ParsingContext,
    _: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Minus { sub: InferenceBinOp(Box::new(Sub)) }), vec![]))
}

#[derive(Debug, Clone)]
struct Minus {
    sub: InferenceBinOp,
}

impl Expansion for Minus {
    fn name(&self) -> StaticName {
        self.sub.name()
    }

    fn validation(&self) -> Validation {
        self.sub.validation()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.sub.rules(s, inputs, outputs)
    }

    fn wire(
        &self,
        prefix: &str,
        target: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let left = target.outlet_fact(inputs[0])?;
        if left.konst.is_none() || !left.datum_type.is_float() {
            return self.sub.wire(prefix, target, inputs);
        }
        let right = target.wire_node(format!("{prefix}.negative"), neg(), &[inputs[1]])?[0];
        InferenceBinOp(Box::new(Add)).wire(prefix, target, &[inputs[0], right])
    }
}
